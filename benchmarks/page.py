"""The page docs/performance.md, made of what was written with --json and of nothing else.

Every figure in it stands in those files, of `compare`, `scale` and `memory`. It reads and formats;
it measures nothing, and where a run says that its figures are spoilt, the page says so too, since
the notes are report.py's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import aims, report, scale, scale_report, usl
from benchmarks.compare import Failures, Plan, Row, Sample, Samples
from benchmarks.machine import CannotMeasure
from benchmarks.workloads import WORKLOADS

OUTPUT = Path(__file__).parent.parent / "docs" / "performance.md"

HEAD = """\
# Performance

Made by `python -m benchmarks report` from what `compare`, `scale` and `memory` wrote with
`--json`; no figure in it was written by hand. How it was measured, what each column means and what
a number may claim is told in [benchmarks/README.md](../benchmarks/README.md). Figures are
comparable within one run only.
"""

AIM_COLUMNS = ("what", "wanted", "measured", "lowest–highest round", "rounds", "holds")
AIM_HEAD = """\
## What was aimed at

CPU time per request as a multiple of another server's in the same round, median over the rounds,
unless it says otherwise. "within the spread" where some rounds hold the aim and others do not.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of compare wrote: rows and failures by workload, in the order of the run."""

    machine: Mapping[str, object]
    versions: Mapping[str, str]
    plan: Plan
    absent: list[str]
    rows: dict[str, list[Row]]
    failures: dict[str, Failures]
    samples: dict[str, Samples] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScaleRun:
    """What one run of scale wrote."""

    machine: Mapping[str, object]
    versions: Mapping[str, str]
    plan: scale.Plan
    absent: list[str]
    samples: list[scale.Sample]
    rows: list[scale.Row]
    curves: list[scale.Curve]
    failures: scale.Failures

    def speed_ups(self, handler: str, workers: int) -> dict[str, list[float]]:
        """Return throughput as a multiple of one worker's, round by round, for each policy."""
        per_s = {
            (one.policy, one.workers, one.round): one.requests_per_s
            for one in self.samples
            if one.handler == handler
        }
        found: dict[str, list[float]] = {}
        for (policy, count, number), many in per_s.items():
            one = per_s.get((policy, 1, number))
            if count == workers and one:
                found.setdefault(policy, []).append(many / one)
        return found


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """What one run of memory wrote: bytes of an idle connection, by server."""

    machine: Mapping[str, object]
    versions: Mapping[str, str]
    bytes_per_connection: dict[str, float]
    connections: int


AnyRun = Run | ScaleRun | MemoryRun


def read(path: Path) -> AnyRun:
    """Read a run. Raises CannotMeasure, naming the file, for one that no command here wrote."""
    try:
        data = json.loads(path.read_text())
        if data["schema"] != report.SCHEMA:
            raise ValueError(f"its schema is {data['schema']}, and {report.SCHEMA} is read")
        if data.get("kind") == scale_report.KIND:
            return _scale_run(data)
        return _memory_run(data) if "results" in data else _run(data)
    except KeyError as error:
        raise CannotMeasure(f"{path} is not of `compare --json`: no {error} in it") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CannotMeasure(f"{path} is not of `compare --json`: {error}") from error


def page(runs: Sequence[AnyRun]) -> str:
    """Return the whole page as Markdown: the aims, and then run by run."""
    parts = [HEAD, aimed(runs)]
    for run in runs:
        if isinstance(run, Run):
            parts.append(_compared(run))
        elif isinstance(run, ScaleRun):
            parts.append(_scaled(run))
        else:
            parts.append(_weighed(run))
    return "\n".join(parts)


def aimed(runs: Sequence[AnyRun]) -> str:
    """Return the table of the aims; of several runs that measured one, the last one counts."""
    found = [*aims.compared({}, {}), *aims.scaled({}), *aims.idle({})]
    for run in runs:
        if isinstance(run, Run):
            found += aims.compared(run.samples, run.versions)
        elif isinstance(run, ScaleRun):
            found += aims.scaled(run.speed_ups("cpu1ms", 2))
        else:
            found += aims.idle(run.bytes_per_connection)
    lines = [aims.cells(finding) for finding in aims.merged(found)]
    return f"{AIM_HEAD}\n{report.table(AIM_COLUMNS, lines)}\n"


def _scaled(run: ScaleRun) -> str:
    n_cores = int(str(run.machine["usable_cores"]))
    return "\n".join(
        [
            "## Scaling with the number of workers\n",
            report.machine_line(run.machine, run.versions),
            f"{scale_report.policies()}\n",
            scale_report.scaling(run.plan, run.rows, run.curves, run.failures, run.absent, n_cores),
        ]
    )


def _weighed(run: MemoryRun) -> str:
    lines = [[name, f"{size:,.0f}"] for name, size in run.bytes_per_connection.items()]
    return "\n".join(
        [
            "## Idle connections\n",
            report.machine_line(run.machine, run.versions),
            f"User memory (PSS) of each of {run.connections:,} idle keep-alive connections.\n",
            report.table(("server", "bytes/connection"), lines) + "\n",
        ]
    )


def _compared(run: Run) -> str:
    plan = run.plan
    parts = [
        "## Servers side by side\n",
        report.machine_line(run.machine, run.versions),
        f"Rounds: {plan.rounds}, interleaved, of {plan.seconds} s each after {plan.warm_up_s} s of "
        f"warm-up; connections: {plan.connections} unless a workload says otherwise.\n",
    ]
    if run.absent:
        parts.append(f"Not there, and so not measured: {', '.join(run.absent)}.\n")
    parts.append(overview(run))
    for name, rows in run.rows.items():
        parts.append(report.comparison(WORKLOADS[name], plan, rows, run.failures[name]))
    return "\n".join(parts)


def overview(run: Run) -> str:
    """Return the table of all servers and workloads: CPU time as a multiple of the reference's.

    Behind each ratio stands, in brackets, how far its rounds lie apart in percent. Where a
    workload has no reference, the cell has microseconds.
    """
    servers = dict.fromkeys(row.server for rows in run.rows.values() for row in rows)
    cells = {(name, row.server): _cell(row) for name, rows in run.rows.items() for row in rows}
    lines = [[server, *(cells.get((name, server), "") for name in run.rows)] for server in servers]
    return (
        "CPU time per request as a multiple of the reference's in the same round, median "
        "(spread of the rounds in percent); in microseconds where there is no reference.\n\n"
        f"{report.table(['server', *run.rows], lines)}\n"
    )


def _cell(row: Row) -> str:
    figure = f"{row.cpu_us_per_request:.1f} µs" if row.ratio is None else f"{row.ratio:.2f}"
    spoilt = ", errors" if row.errors else ""
    return f"{figure} ({row.spread_percent:.0f}{spoilt})"


def _run(data: dict[str, Any]) -> Run:
    measured = data["workloads"]
    unknown = measured.keys() - WORKLOADS.keys()
    if unknown:
        raise ValueError(f"no workload is named {', '.join(sorted(unknown))}")
    return Run(
        machine=data["machine"],
        versions=data["versions"],
        plan=Plan(**data["plan"]),
        absent=data["absent"],
        rows={name: [Row(**row) for row in found["rows"]] for name, found in measured.items()},
        failures={name: found["failures"] for name, found in measured.items()},
        samples={name: _samples(found["samples"]) for name, found in measured.items()},
    )


def _samples(data: dict[str, list[dict[str, Any]]]) -> Samples:
    return {
        server: {
            given["round"]: Sample(**{key: given[key] for key in given if key != "round"})
            for given in rounds
        }
        for server, rounds in data.items()
    }


def _scale_run(data: dict[str, Any]) -> ScaleRun:
    return ScaleRun(
        machine=data["machine"],
        versions=data["versions"],
        plan=scale.Plan(**data["plan"]),
        absent=data["absent"],
        samples=[scale.Sample(**given) for given in data["samples"]],
        rows=[scale.Row(**given) for given in data["rows"]],
        curves=[_curve(given) for given in data["curves"]],
        failures=data["failures"],
    )


def _curve(given: dict[str, Any]) -> scale.Curve:
    fit = given["fit"]
    if fit is not None:
        pairs = {key: tuple(fit[key]) for key in fit if key.endswith("_interval")}
        fit = usl.Fit(**{**fit, **pairs, "law": usl.Law(**fit["law"])})
    return scale.Curve(**{**given, "fit": fit})


def _memory_run(data: dict[str, Any]) -> MemoryRun:
    held = data["results"]
    return MemoryRun(
        machine=data["machine"],
        versions=data["versions"],
        bytes_per_connection={one["server"]: one["pss_per_connection"] for one in held},
        connections=max((one["connections"] for one in held), default=0),
    )
