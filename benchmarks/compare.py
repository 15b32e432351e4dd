"""Servers side by side: interleaved rounds, CPU time per request, ratios to the reference.

A round measures every server once, each started afresh, so that what the machine does at
that moment falls on all of them and a ratio is made of neighbours in time. It knows how to
weigh one run and how to sum rounds up; what is printed is report.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks import client, load, process
from benchmarks.catalogue import REFERENCE, ROOT, Places, ServerEntry, launch
from benchmarks.machine import Cores, busy_s
from benchmarks.workloads import Workload

# From this share of its core on, a program is taken to have had no time left.
FULL_PERCENT = 94.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often. `warm_up_s` and `seconds` are whole, as wrk takes them."""

    rounds: int
    seconds: int
    connections: int
    warm_up_s: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One server, one workload, one round."""

    cpu_us_per_request: float
    requests_per_s: float
    requests: int
    server_percent: float
    load_percent: float
    foreign_percent: float
    p50_us: int | None
    p99_us: int | None
    p999_us: int | None
    rss_bytes: int
    pss_bytes: int
    errors: int


@dataclass(frozen=True, slots=True)
class Row:
    """One server and one workload over all rounds: medians, and how far the rounds lie apart.

    `ratio` is to the reference, round by round, and None where the reference was not
    measured. `limit` says who had no time left: "server", "load", "both" or "neither".
    """

    server: str
    rounds: int
    cpu_us_per_request: float
    min_cpu_us_per_request: float
    spread_percent: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    requests_per_s: float
    server_percent: float
    load_percent: float
    foreign_percent: float
    p50_us: float | None
    p99_us: float | None
    p999_us: float | None
    rss_bytes: float
    pss_bytes: float
    errors: int
    limit: str


# What failed, by server: the words of the first failure.
Failures = dict[str, str]
Samples = dict[str, dict[int, Sample]]


def measure(
    entry: ServerEntry, workload: Workload, plan: Plan, cores: Cores, places: Places
) -> Sample:
    """Start one server, see that it answers rightly, load it, weigh it and end it.

    Raises ServerFailed, WrongAnswer, LoadFailed or OSError.
    """
    port = process.free_port()
    started = launch(entry, workload, port, places)
    with process.running(
        started.command,
        port,
        environment=started.environment,
        files=started.files,
        cores=(cores.server,),
        directory=ROOT,
    ) as server:
        workload.check(port)
        how: dict[str, Any] = {"connections": plan.connections, "cores": (cores.load,)}
        if plan.warm_up_s:
            load.run(workload, port, seconds=plan.warm_up_s, **how)
        both = {cores.server, cores.load}
        server_before_s, all_before_s = server.cpu_s(), busy_s(both)
        figures = load.run(workload, port, seconds=plan.seconds, **how)
        server_cpu_s = server.cpu_s() - server_before_s
        all_cpu_s = busy_s(both) - all_before_s
        memory = server.memory()
        server.check_alive()
    return weigh(figures, server_cpu_s, all_cpu_s, memory)


def weigh(
    figures: load.Figures, server_cpu_s: float, all_cpu_s: float, memory: process.Memory
) -> Sample:
    """Make a sample of what was counted. Raises LoadFailed if nothing was answered."""
    if figures.requests == 0:
        raise load.LoadFailed(f"no request was answered, {figures.errors} errors")
    # Clock ticks are coarse, so on a quiet machine the difference may fall below nothing.
    foreign_s = max(0.0, all_cpu_s - server_cpu_s - figures.cpu_s)
    return Sample(
        cpu_us_per_request=server_cpu_s / figures.requests * 1e6,
        requests_per_s=figures.requests / figures.duration_s,
        requests=figures.requests,
        server_percent=100 * server_cpu_s / figures.duration_s,
        load_percent=100 * figures.cpu_s / figures.duration_s,
        foreign_percent=100 * foreign_s / figures.duration_s,
        p50_us=figures.p50_us,
        p99_us=figures.p99_us,
        p999_us=figures.p999_us,
        rss_bytes=memory.rss_bytes,
        pss_bytes=memory.pss_bytes,
        errors=figures.errors,
    )


def run_rounds(
    entries: Sequence[ServerEntry],
    n_rounds: int,
    measure_one: Callable[[ServerEntry], Sample],
    tell: Callable[[str], None],
) -> tuple[Samples, Failures]:
    """Measure A B C, A B C, … and never A A B B.

    A server that fails is left out of the rounds that follow, and the samples it has stay.
    """
    samples: Samples = {entry.name: {} for entry in entries}
    failures: Failures = {}
    for number in range(n_rounds):
        for entry in entries:
            if entry.name in failures:
                continue
            tell(f"round {number + 1} of {n_rounds}: {entry.name}")
            try:
                samples[entry.name][number] = measure_one(entry)
            except (
                process.ServerFailed,
                client.WrongAnswer,
                load.LoadFailed,
                OSError,
            ) as failure:
                failures[entry.name] = f"{type(failure).__name__}: {failure}"
                tell(f"{entry.name} is left out: {failures[entry.name].splitlines()[0]}")
    return samples, failures


def summarise(samples: Samples) -> list[Row]:
    """Sum the rounds up into one row a server, the cheapest first."""
    reference = samples.get(REFERENCE, {})
    rows = [_row(name, rounds, reference) for name, rounds in samples.items() if rounds]
    return sorted(rows, key=lambda row: row.cpu_us_per_request)


def spread_percent(values: Sequence[float]) -> float:
    """Return how far the highest and the lowest lie apart, in percent of the median."""
    middle = median(values)
    return 100 * (max(values) - min(values)) / middle if middle else 0.0


def ratios(rounds: Mapping[int, Sample], reference: Mapping[int, Sample]) -> list[float]:
    """Return CPU time per request as a multiple of the reference's in the same round."""
    return [
        sample.cpu_us_per_request / reference[number].cpu_us_per_request
        for number, sample in rounds.items()
        if number in reference and reference[number].cpu_us_per_request > 0
    ]


def limit(server_percent: float, load_percent: float) -> str:
    """Say who had no time left of its core."""
    server_is_full, load_is_full = server_percent >= FULL_PERCENT, load_percent >= FULL_PERCENT
    if server_is_full and load_is_full:
        return "both"
    if load_is_full:
        return "load"
    return "server" if server_is_full else "neither"


def _row(name: str, rounds: Mapping[int, Sample], reference: Mapping[int, Sample]) -> Row:
    taken = list(rounds.values())
    costs = [sample.cpu_us_per_request for sample in taken]
    to_reference = ratios(rounds, reference)
    server_percent = median(sample.server_percent for sample in taken)
    load_percent = median(sample.load_percent for sample in taken)
    return Row(
        server=name,
        rounds=len(taken),
        cpu_us_per_request=median(costs),
        min_cpu_us_per_request=min(costs),
        spread_percent=spread_percent(costs),
        ratio=median(to_reference) if to_reference else None,
        ratio_low=min(to_reference, default=None),
        ratio_high=max(to_reference, default=None),
        requests_per_s=median(sample.requests_per_s for sample in taken),
        server_percent=server_percent,
        load_percent=load_percent,
        foreign_percent=median(sample.foreign_percent for sample in taken),
        p50_us=_median_known(sample.p50_us for sample in taken),
        p99_us=_median_known(sample.p99_us for sample in taken),
        p999_us=_median_known(sample.p999_us for sample in taken),
        rss_bytes=median(sample.rss_bytes for sample in taken),
        pss_bytes=median(sample.pss_bytes for sample in taken),
        errors=sum(sample.errors for sample in taken),
        limit=limit(server_percent, load_percent),
    )


def _median_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
