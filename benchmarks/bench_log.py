"""log.py: a line of the access log, taken on the loop's thread and formatted off it."""

from __future__ import annotations

import os

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.workloads import BROWSER_FIELDS
from fastcluster.log import AccessLog, Entry, escape, format_entry

REFERER = BROWSER_FIELDS["Referer"].encode()
USER_AGENT = BROWSER_FIELDS["User-Agent"].encode()
PLAIN: Entry = (
    1.8e9,
    "127.0.0.1",
    b"GET",
    b"/shop/4711?q=a",
    (1, 1),
    200,
    512,
    REFERER,
    USER_AGENT,
)
HOSTILE: Entry = (1.8e9, "127.0.0.1", b"GET", b'/"\\\x1b[2J', (1, 1), 404, 9, None, b'"\xff')


def test_plain_entry(benchmark: BenchmarkFixture) -> None:
    assert benchmark(format_entry, PLAIN).startswith(b"127.0.0.1 - - [")


def test_entry_to_escape(benchmark: BenchmarkFixture) -> None:
    assert rb"\x1b[2J" in benchmark(format_entry, HOSTILE)


def test_record(benchmark: BenchmarkFixture, caplog: pytest.LogCaptureFixture) -> None:
    # A fixed number, and room for all: what is dropped costs less and must not be measured.
    fd = os.open(os.devnull, os.O_WRONLY)
    log = AccessLog(fd, limit_bytes=1 << 30)
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        log.record, PLAIN[1:], rounds=200, iterations=50
    )
    assert log.close(timeout_s=30)
    os.close(fd)
    assert not caplog.records


def test_escape(benchmark: BenchmarkFixture) -> None:
    assert benchmark(escape, "worker 2 says hello") == "worker 2 says hello"
