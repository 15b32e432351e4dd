"""routing.py: what finding a route costs, with a hundred static ones and with parameters."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from fastcluster.routing import Router


def hundred() -> Router:
    router = Router()
    for number in range(100):
        router.add("GET", f"/section/{number}/page", number)
    router.add("GET", "/users/{id:int}", "user")
    return router


def test_a_hundred_static_routes(benchmark: BenchmarkFixture) -> None:
    found = benchmark(hundred().match, "GET", "/section/99/page")
    assert found is not None and found.handler == 99


def test_a_parameter(benchmark: BenchmarkFixture) -> None:
    found = benchmark(hundred().match, "GET", "/users/7")
    assert found is not None and found.params == {"id": 7}
