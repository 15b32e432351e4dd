"""What is said of a worker that died or hangs, from a scoreboard as it was left."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from fastcluster import metrics, reports
from fastcluster.roster import Seat, Worker

REQUEST = {"line": "GET /a?b", "client": "10.0.0.1:99", "age_s": 2.04}


class Board:
    slots = 1

    def __init__(self, running: int, request: dict[str, Any] | None, connections: int = 0) -> None:
        self.slot = {"running": running, "connections": connections, "requests": 5}
        self.slot |= {"accepted": 3, "handed_over": 1, "stall_ns": 2_000_000}
        self.request = request

    def take(self, index: int) -> int:
        raise AssertionError

    def release(self, index: int) -> None:
        raise AssertionError

    def read(self, index: int) -> dict[str, int]:
        return self.slot

    def last_request(self, index: int) -> dict[str, Any] | None:
        return self.request

    def tally(self, index: int) -> dict[str, Any]:
        return {**metrics.nothing(), "bytes_in": 70, "latency": [(1024, 5)], "latency_ns": 5000}

    def total(self) -> dict[str, Any]:
        return self.tally(0)


def worker(status: int = 0) -> Worker:
    nothing: Any = None
    made = Worker(7, nothing, 0, 1, 1, Seat(2), None)
    made.status = status
    return made


@pytest.mark.parametrize(
    ("running", "request_", "words"),
    [
        (0, None, ""),
        (0, REQUEST, ""),
        (1, None, ""),
        (1, REQUEST, " while it served GET /a?b from 10.0.0.1:99 for 2.0 s"),
        (1, {**REQUEST, "client": ""}, " while it served GET /a?b for 2.0 s"),
        (
            3,
            REQUEST,
            " while it served 3 requests, the last of them GET /a?b from 10.0.0.1:99 for 2.0 s",
        ),
    ],
)
def test_doing(running: int, request_: dict[str, Any] | None, words: str) -> None:
    assert reports.doing(Board(running, request_), 0) == words


@pytest.mark.parametrize(
    ("status", "was_killed", "oom_kills", "words"),
    [
        (signal.SIGKILL, False, 1, "was killed by the kernel: out of memory (SIGKILL)"),
        (signal.SIGKILL, False, 0, "was killed by SIGKILL (somebody's kill -9"),
        (signal.SIGKILL, True, 1, "was killed by SIGKILL"),
        (signal.SIGSEGV, False, 1, "was killed by SIGSEGV"),
        (3 << 8, False, 1, "exited with code 3"),
    ],
)
def test_cause_of_death(status: int, was_killed: bool, oom_kills: int, words: str) -> None:
    dead = worker(int(status))
    dead.was_killed = was_killed
    said = reports.cause_of_death(dead, oom_kills)
    assert said.startswith(words)
    assert ("kernel: out of memory" in said) == ("kernel: out of memory" in words)


def test_epitaph() -> None:
    said = reports.epitaph(worker(int(signal.SIGTERM)), Board(1, REQUEST, 4), 0)
    assert said == (
        "was killed by SIGTERM while it served GET /a?b from 10.0.0.1:99 for 2.0 s; "
        "it held 4 connections"
    )


def test_status() -> None:
    status = reports.status_of(worker(), Board(0, REQUEST), 12.5, 1 << 20)
    assert status["number"] == 2 and status["pid"] == 7 and status["state"] == "forked"
    assert status["age_s"] == 12.5 and status["rss_bytes"] == 1 << 20
    assert status["request"] is None
    assert reports.status_of(worker(), Board(1, REQUEST), 0, 0)["request"] == REQUEST


def test_status_has_the_figures_since_the_fork() -> None:
    made = worker()
    made.before = {**metrics.nothing(), "bytes_in": 30}
    status = reports.status_of(made, Board(0, REQUEST), 0, 0, 1.5, histograms=True)
    assert (status["bytes_in"], status["cpu_s"], status["stall_s"]) == (40, 1.5, 0.002)
    assert status["last_request"] == REQUEST
    assert status["histogram"] == [(1024, 5)]
    assert "histogram" not in reports.status_of(made, Board(0, REQUEST), 0, 0)


def test_totals_say_how_even_the_workers_are() -> None:
    workers = [{"requests": n, "state": "ready"} for n in (10, 30)]
    workers.append({"requests": 900, "state": "draining"})
    totals = reports.totals_of(metrics.nothing(), workers)
    assert totals["accept_imbalance"] == 1.5
    assert reports.totals_of(metrics.nothing(), [])["accept_imbalance"] == 1.0
