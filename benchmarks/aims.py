"""What was aimed at, beside what was measured: a ratio, its spread, and whether the aim holds.

The aims are data. A measured figure is the median over the rounds of a ratio made within each
round, as everywhere; what no run has measured is said to be so. It reads runs and decides
nothing but that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.compare import Sample

NATIVE, WSGI = "fastcluster-native-llhttp", "fastcluster-wsgi-llhttp"
ASGI = "fastcluster-asgi-uvloop-llhttp"
# What answers without Python, and so is no rival in latency.
NOT_PYTHON = ("reference", "nginx", "node")
PYTHON = re.compile(r"CPython (\d+)\.(\d+)")
# The pipelined aims are microseconds where the reference takes this long.
PIPELINE_REFERENCE_US = 0.7


@dataclass(frozen=True, slots=True)
class Aim:
    """CPU time per request of one server as a multiple of another's, at most `most`."""

    workload: str
    server: str
    most: float
    base: str = "reference"
    note: str = ""
    # For CPython 3.11, where it is another figure.
    most_311: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table; `values` are the rounds' and empty where nothing was measured."""

    what: str
    wanted: str
    values: Sequence[float]
    limit: float
    is_least: bool = False
    unit: str = ""

    @property
    def holds(self) -> str:
        """Say whether the median does what is wanted, and whether every round agrees."""
        if not self.values:
            return "not measured"
        middle = median(self.values)
        holds = middle >= self.limit if self.is_least else middle <= self.limit
        is_within = min(self.values) <= self.limit <= max(self.values)
        return ("yes" if holds else "no") + (", within the spread" if is_within else "")


def _three(workload: str, *most: float, note: str = "") -> list[Aim]:
    return [
        Aim(workload, server, limit, note=note)
        for server, limit in zip((NATIVE, WSGI, ASGI), most, strict=True)
    ]


AIMS: list[Aim] = [
    Aim("hello", NATIVE, 1.10),
    Aim("hello", WSGI, 1.20),
    Aim("hello", ASGI, 1.5, most_311=1.7),
    *_three("browser", 1.25, 1.6, 1.9),
    *[
        Aim(
            "pipeline",
            server,
            us / PIPELINE_REFERENCE_US,
            note=f"{us:g} µs where the reference takes {PIPELINE_REFERENCE_US:g}",
        )
        for server, us in ((NATIVE, 1.2), (WSGI, 2.0), (ASGI, 5.0))
    ],
    Aim("echo1k", WSGI, 1.4),
    Aim("echo1k", ASGI, 1.9),
    *_three("echo64k", 1.6, 1.6, 1.6),
    *_three("big", 1.1, 1.1, 1.1),
    *_three("close", 1.15, 1.15, 1.15),
    Aim("stream", ASGI, 0.4, base="uvicorn"),
    Aim("file10k", NATIVE, 1.1, base="nginx"),
]
SCALE_LEAST = 1.9
IDLE_BYTES_MOST = 1024.0

# Workload to server to round.
Samples = Mapping[str, Mapping[str, Mapping[int, Sample]]]


def compared(samples: Samples, versions: Mapping[str, str]) -> list[Finding]:
    """Return what one run of `compare` says to each aim that is about CPU time or latency."""
    is_311 = any(found.groups() == ("3", "11") for found in _pythons(versions.values()))
    findings = []
    for aim in AIMS:
        limit = aim.most_311 if is_311 and aim.most_311 is not None else aim.most
        what = f"{aim.workload}: {aim.server} / {aim.base}"
        rounds = samples.get(aim.workload, {})
        values = _ratios(rounds.get(aim.server, {}), rounds.get(aim.base, {}))
        note = f" ({aim.note})" if aim.note else ""
        findings.append(Finding(what, f"≤ {limit:.2f}{note}", values, limit))
    return [*findings, *_latencies(samples.get("hello", {}))]


def scaled(rounds: Mapping[str, Sequence[float]]) -> list[Finding]:
    """Return what `scale` says: speed-ups of two workers with cpu1ms, a list for each policy."""
    return [
        Finding(
            f"cpu1ms: throughput of 2 workers / 1, {policy}",
            f"≥ {SCALE_LEAST}",
            values,
            SCALE_LEAST,
            is_least=True,
        )
        for policy, values in (rounds or {"balanced": []}).items()
    ]


def idle(bytes_per_connection: Mapping[str, float]) -> list[Finding]:
    """Return what `memory` says, by server."""
    ours = {
        name: size for name, size in bytes_per_connection.items() if name.startswith("fastcluster")
    }
    return [
        Finding(
            f"user memory of an idle connection: {name}",
            "≤ 1024 B",
            values,
            IDLE_BYTES_MOST,
            unit=" B",
        )
        for name, values in ({name: [size] for name, size in ours.items()} or {NATIVE: []}).items()
    ]


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return one finding of each kind: the last that was measured, where one was."""
    found: dict[str, Finding] = {}
    for finding in findings:
        if finding.values or finding.what not in found:
            found[finding.what] = finding
    return list(found.values())


def cells(finding: Finding) -> list[str]:
    """Return the finding as a line of a table: what, wanted, median, spread, rounds, holds."""
    if not finding.values:
        return [finding.what, finding.wanted, "", "", "", finding.holds]
    form = ",.0f" if finding.unit else ".2f"
    low, high = min(finding.values), max(finding.values)
    return [
        finding.what,
        finding.wanted,
        f"{median(finding.values):{form}}{finding.unit}",
        f"{low:{form}}–{high:{form}}",
        str(len(finding.values)),
        finding.holds,
    ]


def _ratios(ours: Mapping[int, Sample], theirs: Mapping[int, Sample]) -> list[float]:
    return [
        sample.cpu_us_per_request / theirs[number].cpu_us_per_request
        for number, sample in ours.items()
        if number in theirs and theirs[number].cpu_us_per_request > 0
    ]


def _latencies(servers: Mapping[str, Mapping[int, Sample]]) -> list[Finding]:
    """Compare p99 with the lowest of the Python peers' in the same round."""
    peers = [
        rounds
        for name, rounds in servers.items()
        if name not in NOT_PYTHON and not name.startswith("fastcluster")
    ]
    findings = []
    for name in (NATIVE, WSGI, ASGI):
        values = []
        for number, sample in servers.get(name, {}).items():
            theirs = [
                rounds[number].p99_us
                for rounds in peers
                if number in rounds and not rounds[number].errors
            ]
            known = [p99 for p99 in theirs if p99]
            if known and sample.p99_us is not None:
                values.append(sample.p99_us / min(known))
        what = f"hello: p99 of {name} / the lowest of the Python peers'"
        findings.append(Finding(what, "≤ 1.00", values, 1.0))
    return findings


def _pythons(versions: Iterable[str]) -> Iterable[re.Match[str]]:
    return [found for version in versions if (found := PYTHON.search(version)) is not None]
