"""Runs of a load generator: one load, pinned to its cores, and the figures it reports.

It knows the command lines of wrk and of our own generators/websocket.c, and the line of figures
that both print (wrk by wrk/report.lua), and nothing of servers.
wrk sends the next request when the last one is answered, so it shows a server under as much
load as it can bear with that many connections. For each answer that took more than twice the
mean, wrk adds the waits of the requests that it would otherwise have sent meanwhile; the
percentiles have these in them. Where requests are pipelined, its mean is that of one request
and its waits are those of a batch, which makes the addition nonsense: there are none then.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.catalogue import WEBSOCKET_LOAD
from benchmarks.machine import CannotMeasure
from benchmarks.workloads import SCRIPTS, Workload

MARK = "figures "
REQUEST_TIMEOUT_S = 5
GRACE_S = 20


class LoadFailed(Exception):
    """The load generator did not run to its end; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run of a generator saw. `cpu_s` is its own CPU time."""

    duration_s: float
    requests: int
    received_bytes: int
    p50_us: int | None
    p99_us: int | None
    p999_us: int | None
    errors: int
    cpu_s: float


def check_installed() -> None:
    """Raise CannotMeasure where wrk or taskset is missing."""
    for program, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(program) is None:
            raise CannotMeasure(f"{program} is not installed: install the package {package}")


def version() -> str:
    """Return wrk's own name for its version."""
    ran = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    words = (ran.stdout + ran.stderr).split()
    return words[1] if len(words) > 1 else "unknown"


def command(
    workload: Workload,
    port: int,
    *,
    connections: int,
    seconds: int,
    cores: Sequence[int],
    websocket_load: Path = WEBSOCKET_LOAD,
) -> list[str]:
    """Return the load generator's command line for this workload.

    wrk has a thread for each core, as far as there are connections for them.
    """
    pinned = ["taskset", "-c", ",".join(map(str, cores))]
    n_connections = workload.connections or connections
    n_threads = min(len(cores), n_connections)
    if workload.message_bytes:
        numbers = (port, n_connections, seconds, workload.message_bytes)
        return [*pinned, str(websocket_load), *map(str, numbers)]
    fields = [word for pair in workload.fields.items() for word in ("-H", ": ".join(pair))]
    return [
        *(*pinned, "wrk", "--threads", str(n_threads)),
        *("--connections", str(n_connections)),
        *("--duration", f"{seconds}s", "--timeout", f"{REQUEST_TIMEOUT_S}s"),
        *("--script", workload.script),
        *fields,
        f"http://127.0.0.1:{port}{workload.target}",
        *("--", *workload.script_arguments),
    ]


def run(
    workload: Workload, port: int, *, connections: int, seconds: int, cores: Sequence[int]
) -> Figures:
    """Run the generator once and return its figures. Raises LoadFailed if there are none.

    Durations are whole seconds, as wrk takes them.
    """
    words = command(workload, port, connections=connections, seconds=seconds, cores=cores)
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            words, cwd=SCRIPTS, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        overdue = threading.Timer(seconds + GRACE_S, process.kill)
        overdue.start()
        try:
            # wait4 rather than wait: it alone gives this one child's CPU time.
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            overdue.cancel()
        output.seek(0)
        text = output.read()
    if process.returncode != 0 or MARK not in text:
        raise LoadFailed(
            f"the load generator ended with code {process.returncode}: {text.strip()[-500:]}"
        )
    return parse(text, cpu_s=usage.ru_utime + usage.ru_stime, depth=workload.depth)


def parse(text: str, *, cpu_s: float, depth: int) -> Figures:
    """Read the line of wrk/report.lua out of all that wrk printed; `depth` is the pipeline's."""
    has_latencies = depth == 1
    line = next(line for line in text.splitlines() if line.startswith(MARK))
    seen = json.loads(line.removeprefix(MARK))
    return Figures(
        duration_s=seen["duration_us"] / 1e6,
        requests=seen["requests"],
        received_bytes=seen["received_bytes"],
        p50_us=seen["p50_us"] if has_latencies else None,
        p99_us=seen["p99_us"] if has_latencies else None,
        p999_us=seen["p999_us"] if has_latencies else None,
        errors=sum(count for name, count in seen.items() if name.endswith("_errors")),
        cpu_s=cpu_s,
    )
