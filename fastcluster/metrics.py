"""What the scoreboard has counted, in figures for people and in OpenMetrics text for machines.

The law: whoever reads gets plain values that JSON has, durations in seconds, and counters
that never go back.  A histogram is a sequence of pairs, the end of a bucket and how many
fell into it, without empty ones; the buckets are the scoreboard's.  It knows neither
processes nor sockets.

OpenMetrics 1.0: https://github.com/OpenObservability/OpenMetrics
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
# The scoreboard has 16 buckets for each power of two, and its unit is 64 ns.
SUB_BUCKETS = 16
UNIT_NS = 64
# Bounds of the buckets that are told to Prometheus: powers of two, which are ends of the
# scoreboard's own, so that their counts are exact.  From 65 us to 17 s.
LE_NS = tuple(UNIT_NS << shift for shift in range(10, 29))
CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
COUNTS = (
    "requests",
    "accepted",
    "handed_over",
    "bytes_in",
    "bytes_out",
    "errors",
    "lost",
    "refused",
)
TIMES = ("latency_ns", "queue_ns", "busy_ns")

Histogram = Sequence[tuple[int, int]]
Tally = Mapping[str, Any]


def nothing() -> dict[str, Any]:
    """Return a tally in which nothing was counted."""
    return {**dict.fromkeys((*COUNTS, *TIMES), 0), "statuses": [0] * 5, "latency": []}


def since(tally: Tally, before: Tally) -> dict[str, Any]:
    """Return what was counted between two tallies of the same thing."""
    earlier = dict(before["latency"])
    return {
        **{name: tally[name] - before[name] for name in (*COUNTS, *TIMES)},
        "statuses": [
            now - then for now, then in zip(tally["statuses"], before["statuses"], strict=True)
        ],
        "latency": [
            (end, more) for end, n in tally["latency"] if (more := n - earlier.get(end, 0)) > 0
        ],
    }


def figures(tally: Tally) -> dict[str, Any]:
    """Return a tally as people and JSON want it: names for the lists, seconds for ns."""
    histogram = tally["latency"]
    return {
        **{name: tally[name] for name in COUNTS},
        "statuses": dict(zip(CLASSES, tally["statuses"], strict=True)),
        "latency_s": quantiles(histogram),
        "latency_sum_s": tally["latency_ns"] / 1e9,
        "handler_s": (tally["latency_ns"] - tally["queue_ns"]) / 1e9,
        "queue_s": tally["queue_ns"] / 1e9,
        "busy_s": tally["busy_ns"] / 1e9,
    }


# ---- latencies


def quantiles(histogram: Histogram) -> dict[str, float | None]:
    """Return the usual quantiles in seconds, each within 5 %; None where nothing was counted."""
    return {name: quantile(histogram, share) for name, share in QUANTILES.items()}


def quantile(histogram: Histogram, share: float) -> float | None:
    """Return the latency in seconds that this share of all (0 to 1) does not exceed."""
    total = sum(n for _, n in histogram)
    if not total:
        return None
    seen = 0
    for end, n in histogram:
        seen += n
        if seen >= share * total:
            return (begin_of(end) + end) / 2e9
    raise AssertionError("a share is at most 1")


def begin_of(end_ns: int) -> int:
    """Return where the scoreboard's bucket begins that ends there; both in ns."""
    units = end_ns // UNIT_NS
    # In the first two octaves each unit has a bucket; after that a bucket of the octave that
    # ends at or after this is a sixteenth of where the octave begins.
    octave = 1 << ((units - 1).bit_length() - 1) if units > 2 * SUB_BUCKETS else SUB_BUCKETS
    return (units - octave // SUB_BUCKETS) * UNIT_NS


def octaves(histogram: Histogram) -> list[int]:
    """Return how many are in each band of LE_NS, and beyond the last; for heat maps."""
    bands = [0] * (len(LE_NS) + 1)
    for end, n in histogram:
        bands[next((i for i, le in enumerate(LE_NS) if end <= le), len(LE_NS))] += n
    return bands


# ---- OpenMetrics

_COUNTERS = (
    ("requests", "", "Requests begun."),
    ("accepted", "connections_", "Connections accepted."),
    ("handed_over", "connections_", "Connections handed to another worker."),
    ("errors", "application_", "Requests in which the application failed."),
    ("lost", "requests_", "Requests whose client was gone before its response was whole."),
    ("refused", "requests_", "Requests refused before an application saw them."),
)
_SECONDS = (
    ("handler", "handler_s", "Time requests spent in the application."),
    ("queue", "queue_s", "Time requests waited for their turn in the worker."),
    ("loop_busy", "busy_s", "Time the loops worked, without their waits."),
)
_OF_WORKERS = (
    ("requests", "requests", "counter", "", "Requests begun since the fork."),
    ("accepted", "connections_accepted", "counter", "", "Connections accepted since the fork."),
    ("cpu_s", "cpu_seconds", "counter", "seconds", "Processor time since the fork."),
    ("connections", "connections", "gauge", "", "Connections open."),
    ("running", "running_requests", "gauge", "", "Requests the application works on."),
    ("rss_bytes", "resident_memory_bytes", "gauge", "bytes", "Resident memory."),
    ("stall_s", "longest_stall_seconds", "gauge", "seconds", "The longest turn of the loop."),
    ("age_s", "age_seconds", "gauge", "seconds", "Time since the fork."),
)


def openmetrics(status: Mapping[str, Any], histogram: Histogram) -> str:
    """Return a server's status as OpenMetrics text.

    status: as the control socket gives it.  histogram: the latencies of all workers.
    """
    totals = status["totals"]
    lines = [
        *_family("server", "info", "", "Who answers."),
        f"fastcluster_server_info{_labels(version=status['version'], app=status['app'] or '')} 1",
        *_family("workers", "gauge", "", "Worker processes, by state."),
        *_by_state(status["workers"]),
        *_family("workers_wanted", "gauge", "", "Worker processes that are wanted."),
        f"fastcluster_workers_wanted {status['wanted']}",
    ]
    for name, prefix, words in _COUNTERS:
        lines += _counter(f"{prefix}{name}", "", words, totals[name])
    for name in ("bytes_in", "bytes_out"):
        way = "received" if name == "bytes_in" else "sent"
        lines += _counter(f"{way}_bytes", "bytes", f"Bytes {way} on connections.", totals[name])
    for name, key, words in _SECONDS:
        lines += _counter(f"{name}_seconds", "seconds", words, totals[key])
    lines += _counter("cpu_seconds", "seconds", "Processor time of all workers.", totals["cpu_s"])
    lines += _counter("worker_restarts", "", "Workers that followed another.", totals["restarts"])
    lines += _family("responses", "counter", "", "Responses, by class of status.")
    lines += [
        f"fastcluster_responses_total{_labels(status=name)} {n}"
        for name, n in totals["statuses"].items()
    ]
    lines += _family("accept_imbalance_ratio", "gauge", "", _IMBALANCE)
    lines.append(f"fastcluster_accept_imbalance_ratio {_number(totals['accept_imbalance'])}")
    lines += _latency(histogram, totals["latency_sum_s"])
    lines += _workers(status["workers"])
    return "\n".join([*lines, "# EOF", ""])


_IMBALANCE = "Requests of the busiest ready worker, as a multiple of their mean."


def _by_state(workers: Iterable[Mapping[str, Any]]) -> list[str]:
    states = [worker["state"] for worker in workers]
    return [
        f"fastcluster_workers{_labels(state=state)} {states.count(state)}"
        for state in ("forked", "ready", "draining", "condemned")
    ]


def _latency(histogram: Histogram, sum_s: float) -> list[str]:
    name = "request_duration_seconds"
    lines = _family(name, "histogram", "seconds", "From a request's turn to its response's end.")
    so_far, bands = 0, octaves(histogram)
    for le, n in zip(LE_NS, bands, strict=False):
        so_far += n
        lines.append(f"fastcluster_{name}_bucket{_labels(le=_number(le / 1e9))} {so_far}")
    so_far += bands[-1]
    lines.append(f"fastcluster_{name}_bucket{_labels(le='+Inf')} {so_far}")
    lines.append(f"fastcluster_{name}_count {so_far}")
    lines.append(f"fastcluster_{name}_sum {_number(sum_s)}")
    return lines


def _workers(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the figures of each worker; old and new ones of a reload differ in their pid."""
    lines = []
    for key, name, kind, unit, words in _OF_WORKERS:
        end = "_total" if kind == "counter" else ""
        lines += _family(f"worker_{name}", kind, unit, words)
        lines += [
            f"fastcluster_worker_{name}{end}"
            f"{_labels(worker=str(worker['number']), pid=str(worker['pid']))} "
            f"{_number(worker[key])}"
            for worker in workers
        ]
    return lines


def _family(name: str, kind: str, unit: str, words: str) -> list[str]:
    lines = [f"# TYPE fastcluster_{name} {kind}"]
    if unit:
        lines.append(f"# UNIT fastcluster_{name} {unit}")
    return [*lines, f"# HELP fastcluster_{name} {words}"]


def _counter(name: str, unit: str, words: str, value: float) -> list[str]:
    return [
        *_family(name, "counter", unit, words),
        f"fastcluster_{name}_total {_number(value)}",
    ]


def _labels(**labels: str) -> str:
    escaped = (
        f'{name}="{text}"'
        for name, value in labels.items()
        for text in [value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")]
    )
    return "{" + ",".join(escaped) + "}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
