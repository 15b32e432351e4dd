"""Figures and OpenMetrics text from tallies, and that counters of a real server never go back."""

from __future__ import annotations

import bisect
import random
import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from test_processes import DEADLINE_S, Start, start

from fastcluster import control_client, metrics
from fastcluster.server import Board

__all__ = ["start"]

SAMPLE = re.compile(r'fastcluster_\w+(\{\w+="(\\.|[^"\\])*"(,\w+="(\\.|[^"\\])*")*\})? [-+0-9.e]+')


def ends() -> list[int]:
    """The ends of the scoreboard's buckets, as its layout says."""
    units = [*range(1, 33), *((17 + sub) << shift for shift in range(1, 30) for sub in range(16))]
    return [unit * metrics.UNIT_NS for unit in units]


def histogram(values_ns: list[int]) -> list[tuple[int, int]]:
    bounds, counts = ends(), {}
    for value in values_ns:
        end = bounds[bisect.bisect_right(bounds, value)]
        counts[end] = counts.get(end, 0) + 1
    return sorted(counts.items())


def tally(**given: Any) -> dict[str, Any]:
    return {**metrics.nothing(), **given}


def test_buckets_begin_where_the_one_before_ends() -> None:
    bounds = ends()
    assert len(bounds) == 496
    assert [metrics.begin_of(end) for end in bounds] == [0, *bounds[:-1]]
    assert set(metrics.LE_NS) <= set(bounds)


@pytest.mark.parametrize("spread", [1.0, 2.5])
def test_quantiles_are_within_five_percent(spread: float) -> None:
    chance = random.Random(3)
    values = sorted(int(1000 + 200_000 * chance.lognormvariate(0, spread)) for _ in range(20_000))
    found = metrics.quantiles(histogram(values))
    for name, share in metrics.QUANTILES.items():
        exact = values[int(share * len(values)) - 1] / 1e9
        assert found[name] == pytest.approx(exact, rel=0.05), name


def test_nothing_has_no_quantiles() -> None:
    assert set(metrics.quantiles([]).values()) == {None}
    assert metrics.figures(metrics.nothing())["latency_s"]["p99"] is None


def test_since() -> None:
    before = tally(requests=3, statuses=[0, 2, 0, 1, 0], latency=[(1024, 3)], busy_ns=5)
    now = tally(requests=9, statuses=[0, 7, 0, 1, 1], latency=[(1024, 3), (2048, 6)], busy_ns=50)
    gone_by = metrics.since(now, before)
    assert gone_by["requests"] == 6 and gone_by["busy_ns"] == 45
    assert gone_by["statuses"] == [0, 5, 0, 0, 1]
    assert gone_by["latency"] == [(2048, 6)]


def test_octaves() -> None:
    bands = metrics.octaves([(1024, 1), (metrics.LE_NS[0], 2), (metrics.LE_NS[1], 4), (10**12, 8)])
    assert bands[:2] == [3, 4] and bands[-1] == 8 and sum(bands) == 15


def status(**given: Any) -> dict[str, Any]:
    totals = metrics.figures(tally(requests=7, statuses=[0, 5, 0, 1, 1], latency_ns=3_000_000))
    worker = {"number": 0, "pid": 12, "state": "ready", "connections": 3, "running": 1}
    worker |= {"rss_bytes": 1 << 20, "stall_s": 0.25, "age_s": 9.0, "requests": 6}
    worker |= {"accepted": 2, "cpu_s": 0.5}
    return {
        "version": "1",
        "app": 'a"b\\c',
        "wanted": 2,
        "totals": {**totals, "cpu_s": 1.5, "restarts": 4, "accept_imbalance": 1.0},
        "workers": [worker],
        **given,
    }


def test_openmetrics() -> None:
    text = metrics.openmetrics(status(), [(metrics.LE_NS[0], 5), (metrics.LE_NS[2], 2)])
    lines = text.splitlines()
    assert lines[-1] == "# EOF" and text.endswith("\n")
    assert 'fastcluster_server_info{version="1",app="a\\"b\\\\c"} 1' in lines
    assert "fastcluster_requests_total 7" in lines
    assert 'fastcluster_responses_total{status="4xx"} 1' in lines
    assert 'fastcluster_worker_requests_total{worker="0",pid="12"} 6' in lines
    assert 'fastcluster_worker_longest_stall_seconds{worker="0",pid="12"} 0.25' in lines
    buckets = [int(line.split()[1]) for line in lines if "_duration_seconds_bucket" in line]
    assert buckets[:3] == [5, 5, 7] and buckets[-1] == 7
    assert buckets == sorted(buckets) and len(buckets) == len(metrics.LE_NS) + 1
    assert "fastcluster_request_duration_seconds_count 7" in lines
    assert "fastcluster_request_duration_seconds_sum 0.003" in lines


def test_every_sample_has_its_family_and_its_form() -> None:
    families: list[str] = []
    for line in metrics.openmetrics(status(), [(1024, 1)]).splitlines()[:-1]:
        if line.startswith("# TYPE "):
            families.append(line.split()[2])
        elif line.startswith("#"):
            assert line.split()[2] == families[-1]
        else:
            assert SAMPLE.fullmatch(line), line
            assert line.startswith(families[-1])
    assert len(families) == len(set(families))


def test_counters_outlive_the_worker() -> None:
    board = Board(3)
    board.take(1)
    assert board.tally(0) == board.total() == metrics.nothing()


def test_a_real_cluster_counts_and_never_goes_back(start: Start, runtime_folder: Path) -> None:
    cluster = start("--workers", "1")
    [pid] = cluster.ready(1)
    target = control_client.find(None)

    def totals() -> dict[str, Any]:
        return control_client.ask(target, "status", histograms=1)["totals"]

    for _ in range(20):
        cluster.get()
    with socket.create_connection(("127.0.0.1", cluster.port), DEADLINE_S) as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
    before = totals()
    assert (before["requests"], before["accepted"], before["refused"]) == (20, 21, 1)
    assert before["statuses"] == {"1xx": 0, "2xx": 20, "3xx": 0, "4xx": 1, "5xx": 0}
    assert sum(n for _, n in before["histogram"]) == 20
    assert before["bytes_in"] > 20 * len("GET / HTTP/1.1\r\n") and before["bytes_out"] > 20 * 100
    assert 0 < before["latency_s"]["p50"] <= before["latency_s"]["p999"] < 10
    assert before["busy_s"] > before["handler_s"] > 0

    cluster.kill(pid, signal.SIGKILL)
    cluster.ready(2)
    for _ in range(5):
        cluster.get()
    status = control_client.ask(target, "status")
    after = status["totals"]
    assert (after["requests"], after["statuses"]["2xx"], after["restarts"]) == (25, 25, 1)
    for name in ("accepted", "bytes_in", "bytes_out", "busy_s", "handler_s", "latency_sum_s"):
        assert after[name] > before[name], name
    [worker] = status["workers"]
    assert (worker["requests"], worker["statuses"]["2xx"]) == (5, 5)
    assert worker["last_request"]["line"].startswith("GET /")
