"""What the log says of a worker that died or hangs: how, and what it was doing.

The scoreboard outlives the worker, so it is asked after the death and before the slot is
given to another.  What clients sent comes as it was; log.py escapes it.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

from fastcluster import metrics
from fastcluster.child_process import how_it_ended
from fastcluster.roster import Board, Worker, count


def doing(board: Board, slot: int) -> str:
    """Return what the worker in a slot is or was serving, "" for nothing: " while it …"."""
    running = board.read(slot)["running"]
    last = board.last_request(slot)
    if running <= 0 or last is None:
        return ""
    of_them = f"{count(running, 'request')}, the last of them " if running > 1 else ""
    return f" while it served {of_them}{described(last)}"


def described(request: dict[str, Any]) -> str:
    """Return a request of the scoreboard in words: line, client, for how long."""
    client = f" from {request['client']}" if request["client"] else ""
    return f"{request['line']}{client} for {request['age_s']:.1f} s"


def cause_of_death(worker: Worker, oom_kills: int) -> str:
    """Return how a worker ended.

    oom_kills: how many processes the kernel has killed for want of memory since somebody
    looked last; that count is all a process can learn of it.
    """
    if worker.status == signal.SIGKILL and not worker.was_killed and oom_kills > 0:
        return "was killed by the kernel: out of memory (SIGKILL)"
    return how_it_ended(worker.status)


def epitaph(worker: Worker, board: Board, oom_kills: int) -> str:
    """Return what is worth knowing of a worker that fell while it served."""
    held = board.read(worker.slot)["connections"]
    return (
        cause_of_death(worker, oom_kills)
        + doing(board, worker.slot)
        + (f"; it held {count(held, 'connection')}" if held else "")
    )


def status_of(
    worker: Worker,
    board: Board,
    now_s: float,
    rss_bytes: int,
    cpu_s: float = 0.0,
    *,
    histograms: bool = False,
) -> dict[str, Any]:
    """Return a worker as `fastcluster status` shows it, in values that JSON has.

    histograms: with its latencies as metrics.py has them, which are many numbers.
    """
    slot = board.read(worker.slot)
    tally = metrics.since(board.tally(worker.slot), worker.before)
    last = board.last_request(worker.slot)
    return {
        **metrics.figures(tally),
        **({"histogram": tally["latency"]} if histograms else {}),
        "number": worker.seat.number,
        "pid": worker.pid,
        "state": worker.state.name.lower(),
        "age_s": round(now_s - worker.forked_s, 3),
        "restarts": worker.seat.restarts,
        "reloads": worker.seat.reloads,
        "failures": worker.seat.failures,
        "last_end": worker.seat.why or None,
        "connections": slot["connections"],
        "running": slot["running"],
        "requests": slot["requests"],
        "accepted": slot["accepted"],
        "handed_over": slot["handed_over"],
        "stall_s": slot["stall_ns"] / 1e9,
        "rss_bytes": rss_bytes,
        "cpu_s": round(cpu_s, 3),
        "request": last if slot["running"] > 0 else None,
        "last_request": last,
    }


def totals_of(
    tally: dict[str, Any], workers: Sequence[dict[str, Any]], *, histograms: bool = False
) -> dict[str, Any]:
    """Return what all workers that ever were have done, and how evenly those that are."""
    shares = [worker["requests"] for worker in workers if worker["state"] == "ready"]
    mean = sum(shares) / len(shares) if shares else 0
    return {
        **metrics.figures(tally),
        **({"histogram": tally["latency"]} if histograms else {}),
        "accept_imbalance": round(max(shares) / mean, 3) if mean else 1.0,
    }
