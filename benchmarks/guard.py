"""The guard: instructions per request may not grow unseen.

A server under callgrind answers N requests and then 2 N, and the difference divided by N has
neither start nor stop nor the counting itself in it. The figures stand in guard.json, by the
Python, the compilers and the architecture that they were counted with: with others they are
different figures, and nothing is judged. It counts, compares and writes that file; what is
said about it is the command's.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmarks import client, embedded, instructions, process
from benchmarks.catalogue import ROOT
from benchmarks.machine import CannotMeasure
from benchmarks.workloads import WORKLOADS, Workload

FILE = Path(__file__).parent / "guard.json"
INTERFACES = ("native", "wsgi", "asgi")
GUARDED = ("hello", "browser", "pipeline")
TOLERATED_PERCENT = 3.0
# A multiple of the pipeline's depth.
REQUESTS = 480
# Of which the median is taken: now and then the collector runs within one of them.
ROUNDS = 3
# What is made once, and what is kept for reuse, is there after these.
WARM_UP_BATCHES = 50
MARK_TIMEOUT_S = 60.0
POLL_S = 0.005
COMPILER = re.compile(rb"(GCC: \([^)]*\) [\d.]+|clang version [\d.]+)")

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What has changed since the file was written, one line a figure."""

    grown: list[str] = field(default_factory=list)
    fallen: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def key() -> str:
    """Return what the figures depend on: Python, the compilers, the parser, the architecture.

    Raises CannotMeasure where fastcluster is not built for this Python.
    """
    try:
        from fastcluster import connection
    except ImportError as error:
        raise CannotMeasure(
            f"fastcluster is not built for this Python, make build: {error}"
        ) from error
    ours = compilers(Path(str(connection.__file__)).read_bytes())
    return (
        f"{platform.python_implementation()} {platform.python_version()} "
        f"({platform.python_compiler()}), fastcluster by {ours} and Cython {version('Cython')}, "
        f"httptools {version('httptools')}, {platform.machine()}"
    )


def compilers(module: bytes) -> str:
    """Read which compilers made a compiled module out of the notes that they left in it."""
    words = {found.decode("ascii") for found in COMPILER.findall(module)}
    names = {re.sub(r": \([^)]*\)", "", word) for word in words}
    return " and ".join(sorted(names)) or "an unknown compiler"


def read(path: Path = FILE) -> dict[str, Figures]:
    """Read the figures by key; none if there is no file. Raises CannotMeasure for a bad one."""
    if not path.exists():
        return {}
    try:
        read: dict[str, Figures] = json.loads(path.read_text())
        return {
            str(name): {str(what): float(count) for what, count in figures.items()}
            for name, figures in read.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CannotMeasure(f"{path} is no file of figures, mend or remove it: {error}") from error


def updated(kept: Mapping[str, Figures], name: str, counted: Figures) -> dict[str, Figures]:
    """Return the figures with those of one key replaced, in a lasting order."""
    whole = {what: float(round(count)) for what, count in counted.items()}
    return dict(sorted({**kept, name: whole}.items()))


def judge(kept: Figures, counted: Figures) -> Verdict:
    """Compare what was counted with what the file has; TOLERATED_PERCENT goes unsaid.

    A figure that only one of them has is missing, since nothing would guard it.
    """
    verdict = Verdict(missing=sorted(kept.keys() ^ counted.keys()))
    for what in kept.keys() & counted.keys():
        percent = 100 * (counted[what] - kept[what]) / kept[what]
        line = f"{what}: {kept[what]:,.0f} to {counted[what]:,.0f} ({percent:+.1f} %)"
        if percent > TOLERATED_PERCENT:
            verdict.grown.append(line)
        elif percent < -TOLERATED_PERCENT:
            verdict.fallen.append(line)
    verdict.grown.sort()
    verdict.fallen.sort()
    return verdict


def count(tell: Callable[[str], None]) -> Figures:
    """Count every interface and workload. Raises ServerFailed, WrongAnswer or OSError."""
    figures: Figures = {}
    for interface in INTERFACES:
        tell(f"{interface}: starting under callgrind")
        with _counting(interface) as (port, part):
            for name in GUARDED:
                figures[f"{interface} {name}"] = _per_request(WORKLOADS[name], port, part)
    return figures


@contextmanager
def _counting(interface: str) -> Iterator[tuple[int, Callable[[], int]]]:
    """Run the hello of one interface; yield its port and what ends a part and returns its count."""
    port = process.free_port()
    target = f"benchmarks.apps:{interface}_hello"
    with tempfile.TemporaryDirectory() as name:
        words = [
            *("valgrind", "--tool=callgrind", "--quiet"),
            f"--callgrind-out-file={name}/out",
            # The pattern is for the C library's symbol versions.
            f"--dump-before={embedded.MARK}*",
            *(sys.executable, "-m", "benchmarks.embedded", interface, target, str(port)),
        ]
        environment = {**instructions.FIXED, "FASTCLUSTER_PARSER": "llhttp"}
        with process.running(
            words,
            port,
            environment=environment,
            directory=ROOT,
            startup_timeout_s=instructions.STARTUP_TIMEOUT_S,
        ) as server:
            n_parts = 0

            def part() -> int:
                nonlocal n_parts
                n_parts += 1
                os.kill(server.pid, signal.SIGUSR1)
                return _wait_for_total(Path(name) / f"out.{n_parts}")

            yield port, part


def _wait_for_total(file: Path) -> int:
    deadline_s = time.monotonic() + MARK_TIMEOUT_S
    while time.monotonic() < deadline_s:
        # The totals are the last that callgrind writes of a part.
        if file.exists() and (total := instructions.parse_total(file.read_text())):
            return total
        time.sleep(POLL_S)
    raise process.ServerFailed(f"callgrind wrote no part within {MARK_TIMEOUT_S:.0f} s")


def _per_request(workload: Workload, port: int, part: Callable[[], int]) -> float:
    n_batches = REQUESTS // workload.depth
    batch = workload.request(port) * workload.depth
    with client.connect(port) as connection:
        answer = client.ask(connection, workload.request(port), workload.answer)
        answers_bytes = answer.wire_bytes * workload.depth

        def counted(n: int) -> int:
            client.ask_batches(connection, batch, answers_bytes, n)
            return part()

        counted(WARM_UP_BATCHES)
        pairs = [(counted(n_batches), counted(2 * n_batches)) for _ in range(ROUNDS)]
    return median(twice - once for once, twice in pairs) / (n_batches * workload.depth)
