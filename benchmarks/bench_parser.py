"""parser.pyx: what reading a request's head costs, through either door, into Python's objects."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.workloads import WORKLOADS
from fastcluster.parser import explain


@pytest.mark.parametrize(("door", "other"), [("llhttp", "httptools"), ("httptools", "llhttp")])
@pytest.mark.parametrize("name", ["hello", "browser", "echo1k"])
def test_a_head(benchmark: BenchmarkFixture, name: str, door: str, other: str) -> None:
    request = WORKLOADS[name].request(8000)
    assert benchmark(explain, request, door) == explain(request, other)
