"""A status as a primary gives it with histograms, for the tests of what shows it."""

from __future__ import annotations

from typing import Any

from fastcluster import metrics

REQUEST = {"line": "GET /a?b", "client": "10.0.0.1:99", "age_s": 2.0}


def tally(n: int, end_ns: int = 1 << 20) -> dict[str, Any]:
    counted = {"requests": n, "statuses": [0, n, 0, 0, 0], "latency": [(end_ns, n)] if n else []}
    return {**metrics.nothing(), **counted, "bytes_out": 100 * n, "latency_ns": n * end_ns}


def worker(pid: int, n: int, number: int = 0) -> dict[str, Any]:
    made = {"number": number, "pid": pid, "state": "ready", "age_s": 9.0, "restarts": 1}
    made |= {"connections": 3, "running": 1, "rss_bytes": 1 << 20, "stall_s": 0.25}
    made |= {"last_end": None, "request": None, "last_request": REQUEST, "cpu_s": n / 100}
    return {**metrics.figures(tally(n)), "histogram": tally(n)["latency"], **made}


def status(*workers: dict[str, Any], before: int = 0, pid: int = 1) -> dict[str, Any]:
    """A server whose earlier workers had `before` requests."""
    total = tally(before + sum(w["requests"] for w in workers))
    totals = {**metrics.figures(total), "histogram": total["latency"]}
    totals |= {"cpu_s": total["requests"] / 100, "restarts": 1, "accept_imbalance": 1.0}
    said = {"name": "app", "pid": pid, "version": "1", "app": "app:app", "urls": []}
    said |= {"state": "serving", "age_s": 60.0, "wanted": 2, "most": 16}
    return {**said, "totals": totals, "workers": list(workers)}
