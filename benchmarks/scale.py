"""Throughput by workers: one to as many as there are cores, by handler and sharing policy.

A round measures every policy, handler and number of workers once, each started afresh. What the
load itself took of the workers' cores is taken off the cores that they are said to have had, so a
point may lie at 1.4 cores and not at 2. It starts, loads and weighs; usl.py fits, report.py and
plots.py show.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import client, cluster_program, load, process, usl
from benchmarks.catalogue import ROOT, Places, python_path
from benchmarks.compare import FULL_PERCENT
from benchmarks.layout import Layout, Shared
from benchmarks.machine import CannotMeasure, busy_s
from benchmarks.workloads import WORKLOADS, Workload

# cheap, CPU-bound, waiting
HANDLERS = ("hello", "cpu1ms", "wait10ms")
# Where the load took more than this of the workers' own cores, the point says more about the
# kernel's scheduler than about them, and no curve is fitted to it.
SHARED_PERCENT = 5.0
READY_TIMEOUT_S = 60.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to share one address among workers, and what starts it.

    `name` names the policy on the command line and in tables. `is_serve`: `fastcluster serve`,
    else cluster_program.py with `environment`. `needs`: an attribute of fastcluster.cluster
    without which there is no such policy in what is measured.
    """

    name: str
    about: str
    is_serve: bool = False
    environment: tuple[tuple[str, str], ...] = ()
    needs: str | None = None


POLICIES = (
    Policy("balanced", "a shared socket, and the surplus handed over", is_serve=True),
    Policy("none", "a shared socket alone", environment=(("FASTCLUSTER_SCHED_POLICY", "none"),)),
    Policy(
        "rr",
        "the primary accepts and deals out",
        environment=(("FASTCLUSTER_SCHED_POLICY", "rr"),),
        needs="SCHED_RR",
    ),
    Policy(
        "reuseport",
        "a socket for each worker, and the kernel chooses",
        environment=(("FASTCLUSTER_BENCH_REUSE_PORT", "1"),),
    ),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how often, and with how many connections for each worker."""

    rounds: int
    seconds: int
    warm_up_s: int
    connections_per_worker: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One policy, handler and number of workers in one round.

    `cores` is what the load left of the workers' cores. `by_worker` are the requests that each
    worker answered, as it says itself: on the scoreboard, or in cluster_program.py's file.
    """

    policy: str
    handler: str
    workers: int
    round: int
    shared: Shared
    cores: float
    requests_per_s: float
    cpu_us_per_request: float
    server_percent: float
    load_percent: float
    load_is_full: bool
    foreign_percent: float
    p99_us: int | None
    by_worker: tuple[int, ...]
    errors: int


@dataclass(frozen=True, slots=True)
class Row:
    """One policy, handler and number of workers over all rounds: medians, spread, intervals.

    `speed_up` is throughput as a multiple of one worker's in the same round, and None where one
    worker was not measured. `fits` says whether a curve may be fitted to it.
    """

    policy: str
    handler: str
    workers: int
    rounds: int
    shared: Shared
    cores: float
    requests_per_s: float
    spread_percent: float
    speed_up: float | None
    speed_up_interval: usl.Interval | None
    cpu_us_per_request: float
    server_percent: float
    load_percent: float
    foreign_percent: float
    p99_us: float | None
    fairness: float
    fairness_low: float
    errors: int
    load_is_full: bool
    fits: bool


@dataclass(frozen=True, slots=True)
class Curve:
    """One policy and handler: the fitted law, or why there is none."""

    policy: str
    handler: str
    fit: usl.Fit | None
    why_not: str = ""


Failures = dict[str, str]


def choose(names: Sequence[str]) -> list[Policy]:
    """Return the named policies, or all. Raises CannotMeasure for a name that is none."""
    for name in names:
        if name not in {policy.name for policy in POLICIES}:
            known = ", ".join(policy.name for policy in POLICIES)
            raise CannotMeasure(f"no policy is named {name}; there are {known}")
    return [policy for policy in POLICIES if not names or policy.name in names]


def is_there(policy: Policy, python: str) -> bool:
    """Tell whether the fastcluster that this Python runs has the policy."""
    if policy.needs is None:
        return True
    asked = (
        "import sys; from fastcluster import cluster; "
        f"sys.exit(not hasattr(cluster, {policy.needs!r}))"
    )
    ran = subprocess.run(
        [python, "-c", asked], cwd=ROOT, capture_output=True, check=False, timeout=30
    )
    return ran.returncode == 0


class Running:
    """A server of several workers that has come up, and what each worker has answered."""

    def __init__(self, server: process.Server, read: Callable[[], list[int] | None]) -> None:
        self.server = server
        self._read = read

    def by_worker(self) -> list[int]:
        """Return the requests answered by each worker. Raises ServerFailed if one is gone."""
        counts = self._read()
        if counts is None:
            raise process.ServerFailed(f"a worker is gone\n{self.server.last_lines()}")
        return counts

    def wait_ready(self) -> None:
        """Wait until every worker listens. Raises ServerFailed."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while self._read() is None:
            self.server.check_alive()
            if time.monotonic() > deadline_s:
                raise process.ServerFailed(
                    f"not all workers were ready within {READY_TIMEOUT_S:.0f} s\n"
                    f"{self.server.last_lines()}"
                )
            time.sleep(POLL_S)


@contextmanager
def running(
    policy: Policy, workload: Workload, layout: Layout, places: Places
) -> Iterator[Running]:
    """Start one worker for each of the layout's cores, and end them on the way out.

    Raises ServerFailed or OSError.
    """
    port = process.free_port()
    workers = len(layout.server)
    with tempfile.TemporaryDirectory() as folder:
        if policy.is_serve:
            name = f"scale-{port}"
            command = _serve(places.python, workload, workers, port, name)

            def read() -> list[int] | None:
                return requests_of(_status(places.python, name), workers)

        else:
            tally = Path(folder) / "tally"
            cluster_program.prepare(tally, workers)
            words = (port, workers, workload.app, tally)
            module = "benchmarks.cluster_program"
            command = [places.python, "-m", module, *map(str, words)]

            def read() -> list[int] | None:
                numbers = cluster_program.read(tally)
                return [number - 1 for number in numbers] if all(numbers) else None

        with process.running(
            command,
            port,
            environment={**python_path(), **dict(policy.environment)},
            cores=layout.server,
            directory=ROOT,
        ) as server:
            started = Running(server, read)
            started.wait_ready()
            yield started


def measure(
    policy: Policy, handler: str, number: int, layout: Layout, plan: Plan, places: Places
) -> Sample:
    """Start one, see that it answers rightly, load it, weigh it and end it.

    Raises ServerFailed, WrongAnswer, LoadFailed or OSError.
    """
    workload = WORKLOADS[handler]
    workers = len(layout.server)
    how: dict[str, Any] = {
        "connections": plan.connections_per_worker * workers,
        "cores": layout.load,
    }
    everywhere = {*layout.server, *layout.load}
    with running(policy, workload, layout, places) as started:
        server = started.server
        try:
            workload.check(server.port)
        except client.WrongAnswer as wrong:
            raise client.WrongAnswer(f"{wrong}; it said: {server.last_lines(1)}") from wrong
        if plan.warm_up_s:
            load.run(workload, server.port, seconds=plan.warm_up_s, **how)
        before = started.by_worker()
        server_before_s, all_before_s = server.cpu_s(), busy_s(everywhere)
        figures = load.run(workload, server.port, seconds=plan.seconds, **how)
        server_s = server.cpu_s() - server_before_s
        all_s = busy_s(everywhere) - all_before_s
        by_worker = tuple(b - a for a, b in zip(before, started.by_worker(), strict=True))
        server.check_alive()
    if figures.requests == 0:
        raise load.LoadFailed(f"no request was answered, {figures.errors} errors")
    load_cores = figures.cpu_s / figures.duration_s
    foreign_s = max(0.0, all_s - server_s - figures.cpu_s)
    return Sample(
        policy=policy.name,
        handler=handler,
        workers=workers,
        round=number,
        shared=layout.shared,
        cores=max(1.0, workers - load_cores) if layout.shared == "cores" else float(workers),
        requests_per_s=figures.requests / figures.duration_s,
        cpu_us_per_request=server_s / figures.requests * 1e6,
        server_percent=100 * server_s / figures.duration_s,
        load_percent=100 * load_cores,
        load_is_full=100 * load_cores >= FULL_PERCENT * len(layout.load),
        foreign_percent=100 * foreign_s / figures.duration_s,
        p99_us=figures.p99_us,
        by_worker=by_worker,
        errors=figures.errors,
    )


def run_rounds(
    plan: Plan,
    policies: Sequence[Policy],
    handlers: Sequence[str],
    layouts: Sequence[Layout],
    measure_one: Callable[[Policy, str, int, Layout], Sample],
    tell: Callable[[str], None],
) -> tuple[list[Sample], Failures]:
    """Measure everything once a round; what fails is left out of the rounds that follow."""
    samples: list[Sample] = []
    failures: Failures = {}
    for number in range(plan.rounds):
        for handler in handlers:
            for policy in policies:
                for layout in layouts:
                    what = f"{policy.name}, {handler}, workers: {len(layout.server)}"
                    if what in failures:
                        continue
                    tell(f"round {number + 1} of {plan.rounds}: {what}")
                    try:
                        samples.append(measure_one(policy, handler, number, layout))
                    except (
                        process.ServerFailed,
                        client.WrongAnswer,
                        load.LoadFailed,
                        OSError,
                    ) as failure:
                        failures[what] = f"{type(failure).__name__}: {failure}"
                        tell(f"{what} is left out: {failures[what].splitlines()[0]}")
    return samples, failures


def summarise(samples: Sequence[Sample]) -> list[Row]:
    """Sum the rounds up into a row for each handler, policy and number of workers."""
    groups: dict[tuple[str, str, int], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.handler, sample.policy, sample.workers), []).append(sample)
    return [_row(found, groups.get((*key[:2], 1), [])) for key, found in groups.items()]


def curves(samples: Sequence[Sample], rows: Sequence[Row]) -> list[Curve]:
    """Fit the law to each policy and handler, as far as there are points that allow it."""
    fitting = {(row.policy, row.handler, row.workers) for row in rows if row.fits}
    found = []
    for policy, handler in dict.fromkeys((row.policy, row.handler) for row in rows):
        rounds: dict[int, dict[int, usl.Point]] = {}
        for sample in samples:
            if (sample.policy, sample.handler) != (policy, handler):
                continue
            if (policy, handler, sample.workers) in fitting:
                point = sample.cores, sample.requests_per_s
                rounds.setdefault(sample.round, {})[sample.workers] = point
        try:
            found.append(Curve(policy, handler, usl.fit_rounds(list(rounds.values()))))
        except usl.TooFewPoints as why:
            found.append(Curve(policy, handler, None, str(why)))
    return found


def requests_of(status: dict[str, Any] | None, workers: int) -> list[int] | None:
    """Return the requests of each worker from what the server says of itself.

    None unless so many are ready.
    """
    found = [] if status is None else status["workers"]
    if sum(worker["state"] == "ready" for worker in found) != workers:
        return None
    return [worker["requests"] for worker in found]


def _status(python: str, name: str) -> dict[str, Any] | None:
    ran = subprocess.run(
        [python, "-m", "fastcluster", "status", "--json", "--name", name],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=30,
    )
    status: dict[str, Any] | None = json.loads(ran.stdout) if ran.returncode == 0 else None
    return status


def _serve(python: str, workload: Workload, workers: int, port: int, name: str) -> list[str]:
    return [
        *(python, "-m", "fastcluster", "serve", f"{workload.module}:native_{workload.app}"),
        *("--interface", "native", "--workers", str(workers)),
        *("--bind", f"127.0.0.1:{port}", "--name", name),
    ]


def _row(found: Sequence[Sample], alone: Sequence[Sample]) -> Row:
    first = found[0]
    base = {sample.round: sample.requests_per_s for sample in alone}
    speed_ups = [s.requests_per_s / base[s.round] for s in found if s.round in base]
    per_s = [sample.requests_per_s for sample in found]
    known = [sample.p99_us for sample in found if sample.p99_us is not None]
    shares = [usl.fairness(sample.by_worker) for sample in found]
    load_percent = median(sample.load_percent for sample in found)
    load_is_full = sum(sample.load_is_full for sample in found) * 2 > len(found)
    shares_much = first.shared == "cores" and load_percent > SHARED_PERCENT * first.workers
    errors = sum(sample.errors for sample in found)
    return Row(
        policy=first.policy,
        handler=first.handler,
        workers=first.workers,
        rounds=len(found),
        shared=first.shared,
        cores=median(sample.cores for sample in found),
        requests_per_s=median(per_s),
        spread_percent=100 * (max(per_s) - min(per_s)) / median(per_s),
        speed_up=median(speed_ups) if speed_ups else None,
        speed_up_interval=usl.bootstrap(speed_ups, median) if speed_ups else None,
        cpu_us_per_request=median(sample.cpu_us_per_request for sample in found),
        server_percent=median(sample.server_percent for sample in found),
        load_percent=load_percent,
        foreign_percent=median(sample.foreign_percent for sample in found),
        p99_us=median(known) if known else None,
        fairness=median(shares),
        fairness_low=min(shares),
        errors=errors,
        load_is_full=load_is_full,
        fits=not (load_is_full or shares_much or errors),
    )
