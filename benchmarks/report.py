"""What people and programs read: Markdown tables and one JSON document.

It only formats. It decides nothing but what has to be said beside a table: who had no time
left, who made errors, who was left out, and whether others used the cores meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.compare import Failures, Plan, Row, Samples, summarise
from benchmarks.guard import TOLERATED_PERCENT, Verdict
from benchmarks.instructions import Count
from benchmarks.memory import Held
from benchmarks.parts import Cost
from benchmarks.workloads import Workload

SCHEMA = 1
# From this share of a core on, what other processes did is worth a warning.
FOREIGN_PERCENT = 10.0
# Below this spread the rounds agree; above it the table says that they do not.
SPREAD_PERCENT = 15.0

COLUMNS = (
    "server",
    "µs/req",
    "/ ref",
    "low",
    "high",
    "spread %",
    "req/s",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "RSS MiB",
    "PSS MiB",
    "server %",
    "load %",
    "foreign %",
    "errors",
    "limit",
)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    marks = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *lines))


def comparison(workload: Workload, plan: Plan, rows: Sequence[Row], failures: Failures) -> str:
    """Return the table of one workload, its title above and its notes below."""
    connections = workload.connections or plan.connections
    title = (
        f"### {workload.name}: {workload.about}\n\n"
        f"One worker; connections: {connections}; rounds: {plan.rounds}, of {plan.seconds} s each; "
        "medians."
    )
    parts = [title]
    if rows:
        parts.append(table(COLUMNS, [_cells(row) for row in rows]))
    found = notes(rows, failures)
    if found:
        parts.append("\n".join(f"- {note}" for note in found))
    return "\n\n".join(parts) + "\n"


def notes(rows: Sequence[Row], failures: Failures) -> list[str]:
    """Return what a reader must know before believing the numbers of a table."""
    found = []
    limited = [row.server for row in rows if row.limit in ("load", "both")]
    if limited:
        found.append(
            f"The load generator was the limit for {', '.join(limited)}: "
            "their req/s and latencies are wrk's, and only µs/req is theirs."
        )
    wrong = [f"{row.server} ({row.errors})" for row in rows if row.errors]
    if wrong:
        found.append(f"Errors, so do not compare: {', '.join(wrong)}.")
    crowded = [row.foreign_percent for row in rows if row.foreign_percent >= FOREIGN_PERCENT]
    if crowded:
        found.append(
            f"Other processes took up to {max(crowded):.0f} % of a core meanwhile: "
            "measure again on a quiet machine before claiming anything."
        )
    apart = [row.server for row in rows if row.spread_percent > SPREAD_PERCENT]
    if apart:
        found.append(
            f"The rounds lie more than {SPREAD_PERCENT:.0f} % apart for {', '.join(apart)}."
        )
    found += [f"{name} was left out. {words}" for name, words in failures.items()]
    return found


def document(
    machine: Mapping[str, object],
    plan: Plan,
    versions: Mapping[str, str],
    measured: Mapping[str, tuple[Samples, Failures]],
    absent: Sequence[str],
) -> dict[str, object]:
    """Return all that was measured, as data: every sample and every row."""
    return {
        "schema": SCHEMA,
        "machine": dict(machine),
        "versions": dict(versions),
        "plan": asdict(plan),
        "absent": list(absent),
        "workloads": {
            name: {
                "rows": [asdict(row) for row in summarise(samples)],
                "samples": {
                    server: [{"round": number, **asdict(rounds[number])} for number in rounds]
                    for server, rounds in samples.items()
                },
                "failures": failures,
            }
            for name, (samples, failures) in measured.items()
        },
    }


def idle_memory(held: Sequence[Held]) -> str:
    """Return the table of what idle connections hold, with a note where some were closed."""
    head = (
        "server",
        "connections",
        "PSS before MiB",
        "PSS after MiB",
        "PSS bytes/connection",
        "RSS bytes/connection",
    )
    lines = [
        [
            one.server,
            f"{one.connections:,}",
            f"{one.before.pss_bytes / 2**20:.1f}",
            f"{one.after.pss_bytes / 2**20:.1f}",
            f"{one.pss_per_connection:,.0f}",
            f"{one.rss_per_connection:,.0f}",
        ]
        for one in held
    ]
    closed = [
        f"- {one.server} closed {one.closed} of its connections meanwhile: its figure is wrong."
        for one in held
        if one.closed
    ]
    title = "### Idle connections, user memory"
    return "\n\n".join([title, table(head, lines), *(["\n".join(closed)] if closed else [])])


def instruction_counts(counts: Sequence[Count]) -> str:
    """Return the table of instructions per request."""
    head = ("server", "workload", "N", "instructions/request")
    lines = [
        [one.server, one.workload, f"{one.requests:,}", f"{one.instructions_per_request:,.0f}"]
        for one in counts
    ]
    return f"### Instructions per request, user space\n\n{table(head, lines)}"


def part_costs(costs: Sequence[Cost]) -> str:
    """Return the table of what a call of each C part costs."""
    lines = [[one.part, one.what, f"{one.ns:,.1f}"] for one in costs]
    return f"### C parts\n\n{table(('part', 'what', 'ns'), lines)}\n"


def parts_document(machine: Mapping[str, object], costs: Sequence[Cost]) -> dict[str, object]:
    """Return what the C parts cost, as data."""
    return _document(machine, {}, [asdict(one) for one in costs])


def guarded(name: str, kept: Mapping[str, float], counted: Mapping[str, float]) -> str:
    """Return the table of the guarded figures, beside those that the file has."""
    head = ("instructions/request", "kept", "counted", "change %")
    lines = [
        [
            what,
            _figure(kept.get(what), "{:,.0f}"),
            f"{count:,.0f}",
            f"{100 * (count / kept[what] - 1):+.2f}" if what in kept else "",
        ]
        for what, count in counted.items()
    ]
    return f"### {name}\n\n{table(head, lines)}\n"


def verdict(found: Verdict) -> list[str]:
    """Say what has changed, and what is to be done about it."""
    lines = [f"GREW by more than {TOLERATED_PERCENT:.0f} %: {line}" for line in found.grown]
    lines += [f"fell by more than {TOLERATED_PERCENT:.0f} %: {line}" for line in found.fallen]
    lines += [f"only in the file, or only counted: {what}" for what in found.missing]
    if found.grown:
        lines.append(
            "Mend what made it grow; where it is worth that, run "
            "`python -m benchmarks guard --update` and commit the file with the reason."
        )
    elif found.fallen or found.missing:
        lines.append("Run `python -m benchmarks guard --update` and commit the file.")
    return lines or [f"every figure is within {TOLERATED_PERCENT:.0f} % of the file's"]


def memory_document(
    machine: Mapping[str, object], versions: Mapping[str, str], held: Sequence[Held]
) -> dict[str, object]:
    """Return what idle connections hold, as data."""
    results = [
        {
            **asdict(one),
            "pss_per_connection": one.pss_per_connection,
            "rss_per_connection": one.rss_per_connection,
        }
        for one in held
    ]
    return _document(machine, versions, results)


def instructions_document(
    machine: Mapping[str, object], versions: Mapping[str, str], counts: Sequence[Count]
) -> dict[str, object]:
    """Return instructions per request, as data."""
    return _document(machine, versions, [asdict(one) for one in counts])


def write(path: Path, data: Mapping[str, object]) -> None:
    """Write a document as JSON, whole or not at all."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    fresh.replace(path)


def machine_line(machine: Mapping[str, object], versions: Mapping[str, str]) -> str:
    """Return where and with what was measured, in two Markdown lines."""
    where = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in machine.items())
    with_what = ", ".join(f"{name} {value}" for name, value in versions.items() if value)
    return f"Machine: {where}.\n" + (f"\nVersions: {with_what}.\n" if with_what else "")


def _document(
    machine: Mapping[str, object], versions: Mapping[str, str], results: Sequence[object]
) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "machine": dict(machine),
        "versions": dict(versions),
        "results": list(results),
    }


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _cells(row: Row) -> list[str]:
    return [
        row.server,
        f"{row.cpu_us_per_request:.2f}",
        _figure(row.ratio, "{:.2f}"),
        _figure(row.ratio_low, "{:.2f}"),
        _figure(row.ratio_high, "{:.2f}"),
        f"{row.spread_percent:.0f}",
        f"{row.requests_per_s:,.0f}",
        _figure(row.p50_us, "{:.0f}"),
        _figure(row.p99_us, "{:.0f}"),
        _figure(row.p999_us, "{:.0f}"),
        f"{row.rss_bytes / 2**20:.0f}",
        f"{row.pss_bytes / 2**20:.0f}",
        f"{row.server_percent:.0f}",
        f"{row.load_percent:.0f}",
        f"{row.foreign_percent:.0f}",
        str(row.errors),
        row.limit,
    ]
