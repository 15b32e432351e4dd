"""fields.py: the mappings of a request, built only when a handler asks for them."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.workloads import BROWSER_FIELDS
from fastcluster.fields import Headers, parse_cookies, parse_query, parse_urlencoded

PAIRS = [("Host", "127.0.0.1:8000"), *BROWSER_FIELDS.items()]
FORM = b"&".join(b"field%d=some+value+with+%%C3%%A4" % number for number in range(20))


def test_browser_headers(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(Headers, PAIRS)) == 12


def test_look_up(benchmark: BenchmarkFixture) -> None:
    headers = Headers(PAIRS)
    assert benchmark(headers.get, "Accept-Encoding") == BROWSER_FIELDS["Accept-Encoding"]


def test_query(benchmark: BenchmarkFixture) -> None:
    assert benchmark(parse_query, b"page=2&order=price&q=garden+chair")["page"] == "2"


def test_form_of_twenty_fields(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(parse_urlencoded, FORM)) == 20


def test_cookies(benchmark: BenchmarkFixture) -> None:
    assert benchmark(parse_cookies, [BROWSER_FIELDS["Cookie"]])["theme"] == "dark"
