"""What a new connection costs under each of a cluster's scheduling policies.

    python -m benchmarks.scheduling --workers 2 --seconds 3 --rounds 3

Each policy's cluster runs alone, in turns, under wrk with a new connection for each request.
The figure is the CPU time, user and system, of all its processes per connection, and beside
it the primary's part of that, which only accepts under `rr`. Exit codes are those of
`python -m benchmarks`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks import load, machine, process
from benchmarks.workloads import WORKLOADS

POLICIES = ("none", "balanced", "rr")
PROGRAM = Path(__file__).with_name("scheduled.py")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run: microseconds of CPU time per connection, and connections per second."""

    all_us: float
    primary_us: float
    rate: float
    errors: int


def measure(
    policy: str, workers: int, seconds: int, connections: int, core: int, warm_up_s: int = 1
) -> Cost:
    """Run one policy's cluster under load once. Raises ServerFailed or LoadFailed."""
    port = process.free_port()
    command = [sys.executable, str(PROGRAM), str(port), str(workers)]
    # Elsewhere than in the source tree, so that the fastcluster that is installed is measured.
    with (
        tempfile.TemporaryDirectory() as folder,
        process.running(
            command,
            port,
            environment={"FASTCLUSTER_SCHED_POLICY": policy},
            directory=Path(folder),
        ) as server,
    ):
        if warm_up_s:
            load.run(
                WORKLOADS["close"], port, connections=connections, seconds=warm_up_s, cores=[core]
            )
        before, primary_before = server.cpu_s(), primary_s(server)
        figures = load.run(
            WORKLOADS["close"], port, connections=connections, seconds=seconds, cores=[core]
        )
        all_s, own_s = server.cpu_s() - before, primary_s(server) - primary_before
    n = max(1, figures.requests)
    return Cost(
        all_s / n * 1e6, own_s / n * 1e6, figures.requests / figures.duration_s, figures.errors
    )


def primary_s(server: process.Server) -> float:
    """Return the CPU time of the started process alone."""
    return next(stat.cpu_s for stat in process.tree(server.pid) if stat.pid == server.pid)


def table(costs: dict[str, list[Cost]]) -> str:
    """Return the medians of each policy's runs as a table of Markdown."""
    lines = [
        "| policy | CPU µs a connection | lowest to highest | the primary's part | connections/s |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for policy, runs in costs.items():
        all_us = sorted(run.all_us for run in runs)
        errors = sum(run.errors for run in runs)
        lines.append(
            f"| {policy} | {statistics.median(all_us):.1f} | {all_us[0]:.1f} to {all_us[-1]:.1f} "
            f"| {statistics.median(run.primary_us for run in runs):.1f} "
            f"| {statistics.median(run.rate for run in runs):,.0f} |"
            + (f" {errors} errors" if errors else "")
        )
    return "\n".join(lines)


def measure_all(
    policies: Sequence[str], workers: int, seconds: int, rounds: int, connections: int, core: int
) -> dict[str, list[Cost]]:
    """Measure every policy once in each round, so that a slow minute meets all of them."""
    costs: dict[str, list[Cost]] = {policy: [] for policy in policies}
    for number in range(rounds):
        for policy in policies:
            click.echo(f"round {number + 1} of {rounds}: {policy}", err=True)
            costs[policy].append(measure(policy, workers, seconds, connections, core))
    return costs


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--policies", default=",".join(POLICIES), show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--seconds", default=3, show_default=True, help="Of each run.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--connections", default=64, show_default=True, help="At the same time.")
def main(policies: str, workers: int, seconds: int, rounds: int, connections: int) -> None:
    """Measure and print the table."""
    try:
        load.check_installed()
        core = machine.choose_cores().load
    except machine.CannotMeasure as why:
        click.echo(f"benchmarks: {why}", err=True)
        sys.exit(2)
    named = [policy.strip() for policy in policies.split(",") if policy.strip()]
    try:
        costs = measure_all(named, workers, seconds, rounds, connections, core)
    except (process.ServerFailed, load.LoadFailed, OSError) as why:
        click.echo(f"benchmarks: {why}", err=True)
        sys.exit(1)
    click.echo(table(costs))


if __name__ == "__main__":
    main()
