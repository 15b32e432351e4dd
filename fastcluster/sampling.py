"""What a server does now: rates and latencies between two looks at its status.

The law: a status goes in, as the control socket gives it with its histograms, and a plain
dict comes out, in values that JSON has; rates are per second.  What is not counted twice
(a worker that has just come up, the first look of all) counts from nothing.  It knows
neither clocks nor sockets; top, the dashboard and StatsD stand on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastcluster import metrics

SHOWN = (
    "number",
    "pid",
    "state",
    "age_s",
    "restarts",
    "last_end",
    "connections",
    "running",
    "requests",
    "rss_bytes",
    "stall_s",
    "request",
    "last_request",
)
RATES = ("requests", "bytes_in", "bytes_out", "errors", "lost", "refused")


class Sampler:
    """Remembers the last look, so that the next one can be compared with it."""

    def __init__(self) -> None:
        self._before: Mapping[str, Any] | None = None
        self._at_s = 0.0

    def take(self, status: Mapping[str, Any], now_s: float) -> dict[str, Any]:
        """Return what has happened since the last call; now_s: a monotonic moment."""
        before, since_s = self._before, now_s - self._at_s
        self._before, self._at_s = status, now_s
        if before is None or since_s <= 0 or before["pid"] != status["pid"]:
            # Since the start, which is no rate of now: nothing is.
            before, since_s = status, 1.0
        workers = {worker["pid"]: worker for worker in before["workers"]}
        living = status["workers"]
        return {
            **_between(status["totals"], before["totals"], since_s),
            "name": status.get("name", ""),
            "state": status["state"],
            "age_s": status["age_s"],
            "wanted": status["wanted"],
            "ready": sum(worker["state"] == "ready" for worker in living),
            "connections": sum(worker["connections"] for worker in living),
            "running": sum(worker["running"] for worker in living),
            "rss_bytes": sum(worker["rss_bytes"] for worker in living),
            "restarts": status["totals"]["restarts"],
            "accept_imbalance": status["totals"]["accept_imbalance"],
            "workers": [
                {
                    **{name: worker[name] for name in SHOWN},
                    **_between(worker, workers.get(worker["pid"], _NEW), since_s),
                }
                for worker in living
            ],
        }


_NEW: dict[str, Any] = {**metrics.figures(metrics.nothing()), "histogram": [], "cpu_s": 0.0}


def _between(now: Mapping[str, Any], before: Mapping[str, Any], since_s: float) -> dict[str, Any]:
    earlier = dict(before["histogram"])
    histogram = [
        (end, more) for end, n in now["histogram"] if (more := n - earlier.get(end, 0)) > 0
    ]
    return {
        **{f"{name}_per_s": _rate(now[name] - before[name], since_s) for name in RATES},
        "statuses_per_s": {
            name: _rate(n - before["statuses"][name], since_s)
            for name, n in now["statuses"].items()
        },
        # The part of one processor that it had.
        "cpu": _rate(now["cpu_s"] - before["cpu_s"], since_s),
        "latency_s": metrics.quantiles(histogram),
        "bands": metrics.octaves(histogram),
    }


def _rate(more: float, since_s: float) -> float:
    return round(max(0.0, more / since_s), 3)
