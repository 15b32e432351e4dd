"""What `scale` measured, for people and programs: a table and a curve for each handler, and JSON.

It only formats, and says beside each table what the machine did not allow to be measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from benchmarks import report, usl
from benchmarks.scale import POLICIES, Curve, Failures, Plan, Row, Sample
from benchmarks.workloads import WORKLOADS

KIND = "scale"

COLUMNS = (
    "policy",
    "workers",
    "cores",
    "req/s",
    "spread %",
    "speed-up",
    "95 %",
    "ideal %",
    "µs/req",
    "p99 µs",
    "fairness",
    "lowest",
    "server %",
    "load %",
    "foreign %",
    "errors",
    "load shares",
)
FIT_COLUMNS = ("policy", "λ req/s", "σ contention", "κ coherence", "R²", "peak, cores")


def document(
    machine: Mapping[str, object],
    plan: Plan,
    versions: Mapping[str, str],
    samples: Sequence[Sample],
    rows: Sequence[Row],
    curves: Sequence[Curve],
    failures: Failures,
    absent: Sequence[str],
) -> dict[str, object]:
    """Return all that was measured, as data: every sample, every row, every curve."""
    return {
        "schema": report.SCHEMA,
        "kind": KIND,
        "machine": dict(machine),
        "versions": dict(versions),
        "plan": asdict(plan),
        "absent": list(absent),
        "rows": [asdict(row) for row in rows],
        "curves": [asdict(curve) for curve in curves],
        "samples": [asdict(sample) for sample in samples],
        "failures": failures,
    }


def scaling(
    plan: Plan,
    rows: Sequence[Row],
    curves: Sequence[Curve],
    failures: Failures,
    absent: Sequence[str],
    n_cores: int,
) -> str:
    """Return the tables of all handlers, with what could not be measured below each."""
    parts = []
    for handler in dict.fromkeys(row.handler for row in rows):
        parts.append(
            f"### Scaling, {handler}: {WORKLOADS[handler].about}\n\n"
            f"Connections: {plan.connections_per_worker} for each worker; rounds: {plan.rounds}, "
            f"of {plan.seconds} s each; medians."
        )
        own = [row for row in rows if row.handler == handler]
        parts.append(report.table(COLUMNS, [_cells(row) for row in own]))
        theirs = [curve for curve in curves if curve.handler == handler]
        fitted = [_fit_cells(curve.policy, curve.fit) for curve in theirs if curve.fit]
        if fitted:
            parts.append(report.table(FIT_COLUMNS, fitted))
        found = notes(own, theirs)
        if found:
            parts.append("\n".join(f"- {note}" for note in found))
    left_out = [f"- {what} was left out. {why}" for what, why in failures.items()]
    left_out += [f"- {policy} is not in the fastcluster that was measured." for policy in absent]
    left_out += [
        f"- This machine lets a process use {n_cores} cores: what the law says of more is not "
        "measured here. The same command on a larger machine gives the whole curve."
    ]
    return "\n\n".join([*parts, "\n".join(left_out)]) + "\n"


def notes(rows: Sequence[Row], curves: Sequence[Curve]) -> list[str]:
    """Return what could not be measured, and what spoils what was."""
    found = []
    shared = sorted({row.workers for row in rows if row.shared == "cores"})
    if shared:
        found.append(
            f"With {_listed(shared)} workers no core was left for the load, which ran on theirs; "
            "`cores` is what it left them, and `ideal %` is of that."
        )
    threads = sorted({row.workers for row in rows if row.shared == "threads"})
    if threads:
        found.append(
            f"With {_listed(threads)} workers the load ran on the other hardware threads of their "
            "cores, and slowed them down."
        )
    full = [f"{row.policy} {row.workers}" for row in rows if row.load_is_full]
    if full:
        found.append(
            f"The load was the limit for {', '.join(full)}: that throughput is its own, the "
            "speed-up is no less than this, and no curve is fitted to it."
        )
    unfitted = [
        f"{row.policy} {row.workers}"
        for row in rows
        if not row.fits and not row.load_is_full and not row.errors
    ]
    if unfitted:
        found.append(
            f"The load took too much of the workers' cores for {', '.join(unfitted)}: no curve is "
            "fitted to that."
        )
    wrong = [f"{row.policy} {row.workers} ({row.errors})" for row in rows if row.errors]
    if wrong:
        found.append(f"Errors, so do not compare: {', '.join(wrong)}.")
    for why in dict.fromkeys(curve.why_not for curve in curves if curve.fit is None):
        names = [curve.policy for curve in curves if curve.why_not == why]
        found.append(
            f"No contention and coherence for {', '.join(names)}: {why}; below that any curve "
            "goes through the points."
        )
    crowded = [row.foreign_percent for row in rows]
    if crowded and max(crowded) >= report.FOREIGN_PERCENT:
        found.append(
            f"Other processes took up to {max(crowded):.0f} % of a core meanwhile: measure again "
            "on a quiet machine before claiming anything."
        )
    return found


def policies() -> str:
    """Return what the policies are, in a line each."""
    return "\n".join(f"- {policy.name}: {policy.about}" for policy in POLICIES)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _cells(row: Row) -> list[str]:
    ideal = 100 * row.speed_up / row.cores if row.speed_up is not None else None
    span = row.speed_up_interval
    return [
        row.policy,
        str(row.workers),
        f"{row.cores:.2f}",
        f"{row.requests_per_s:,.0f}",
        f"{row.spread_percent:.0f}",
        "" if row.speed_up is None else f"{row.speed_up:.2f}",
        "" if span is None else f"{span[0]:.2f}–{span[1]:.2f}",
        "" if ideal is None else f"{ideal:.0f}",
        f"{row.cpu_us_per_request:.2f}",
        "" if row.p99_us is None else f"{row.p99_us:.0f}",
        f"{row.fairness:.3f}",
        f"{row.fairness_low:.3f}",
        f"{row.server_percent:.0f}",
        f"{row.load_percent:.0f}",
        f"{row.foreign_percent:.0f}",
        str(row.errors),
        row.shared,
    ]


def _fit_cells(policy: str, fit: usl.Fit) -> list[str]:
    peak = fit.law.peak_cores()
    return [
        policy,
        f"{fit.law.lambda_:,.0f} ({_span(fit.lambda_interval, ',.0f')})",
        f"{fit.law.sigma:.4f} ({_span(fit.sigma_interval, '.4f')})",
        f"{fit.law.kappa:.2e} ({_span(fit.kappa_interval, '.2e')})",
        f"{fit.r_squared:.4f}",
        "" if peak is None else f"{peak:.0f}",
    ]


def _span(interval: usl.Interval, form: str) -> str:
    return "–".join(format(end, form) for end in interval)
