"""The page docs/performance.md, made of what `compare --json` wrote and of nothing else.

Every figure in it stands in that file. It reads and formats; it measures nothing, and where a
run says that its figures are spoilt, the page says so too, since the notes are report.py's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.compare import Failures, Plan, Row
from benchmarks.machine import CannotMeasure
from benchmarks.workloads import WORKLOADS

OUTPUT = Path(__file__).parent.parent / "docs" / "performance.md"

HEAD = """\
# Performance

Made by `python -m benchmarks report` from one run of `python -m benchmarks compare --json`; no
figure in it was written by hand. How it was measured, what each column means and what a number
may claim is told in [benchmarks/README.md](../benchmarks/README.md). Figures are comparable
within this page only.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run wrote: rows and failures by workload, in the order of the run."""

    machine: Mapping[str, object]
    versions: Mapping[str, str]
    plan: Plan
    absent: list[str]
    rows: dict[str, list[Row]]
    failures: dict[str, Failures]


def read(path: Path) -> Run:
    """Read a run. Raises CannotMeasure, naming the file, for one that compare did not write."""
    try:
        data = json.loads(path.read_text())
        if data["schema"] != report.SCHEMA:
            raise ValueError(f"its schema is {data['schema']}, and {report.SCHEMA} is read")
        return _run(data)
    except KeyError as error:
        raise CannotMeasure(f"{path} is not of `compare --json`: no {error} in it") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CannotMeasure(f"{path} is not of `compare --json`: {error}") from error


def page(run: Run) -> str:
    """Return the whole page as Markdown."""
    plan = run.plan
    parts = [
        HEAD,
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
        "## CPU time per request\n\nAs a multiple of the reference's in the same round, median "
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
    )
