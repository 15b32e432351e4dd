"""Instructions per request, counted by callgrind: the figure without noise.

The server runs under valgrind and answers N requests, then, started afresh, 2 N; the
difference divided by N has neither start nor stop in it. Of several processes the one that
answers counts, since a primary's ticks follow the clock. Only user-space instructions are
seen: no kernel, no caches, no waiting. So it tells whether the code grew, and not how fast a
server is.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import client, process
from benchmarks.catalogue import ROOT, Launch, Places, ServerEntry, launch
from benchmarks.machine import CannotMeasure
from benchmarks.workloads import Workload

STARTUP_TIMEOUT_S = 180.0
TERMINATION_TIMEOUT_S = 60.0
OUTPUT = "callgrind.out."
MIN_PER_REQUEST = 50
# A fixed seed gives the same hash tables, and so the same instructions, in every run.
FIXED = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True, slots=True)
class Count:
    """Instructions per request of one server and one workload."""

    server: str
    workload: str
    requests: int
    instructions_per_request: float


def check_installed() -> None:
    """Raise CannotMeasure where valgrind is missing."""
    if shutil.which("valgrind") is None:
        raise CannotMeasure("valgrind is not installed: install the package valgrind")


def measure(entry: ServerEntry, workload: Workload, n_requests: int, places: Places) -> Count:
    """Count one server's instructions for one workload.

    The number of requests is rounded up to whole batches. Raises ServerFailed, WrongAnswer or
    OSError.
    """
    _check(entry, workload, places)
    n_batches = -(-n_requests // workload.depth)
    once = _totals(entry, workload, n_batches, places)
    twice = _totals(entry, workload, 2 * n_batches, places)
    counted = n_batches * workload.depth
    return Count(entry.name, workload.name, counted, per_request(once, twice, counted))


def per_request(once: Sequence[int], twice: Sequence[int], n_requests: int) -> float:
    """Return what one request took. Raises ServerFailed where nobody counted the answers.

    A process that was killed leaves no count, and what is left is the primary's noise: no
    server answers with fewer instructions than the shortest answer has bytes.
    """
    found = growth(once, twice) / n_requests
    if found < MIN_PER_REQUEST:
        raise process.ServerFailed(
            "no process counted what it answered: the one that did was killed before it wrote"
        )
    return found


def growth(once: Sequence[int], twice: Sequence[int]) -> int:
    """Return by how much the process that answers grew: the one that grew most.

    Both have the totals of a server's processes in the order in which they were started.
    Raises ServerFailed if their number differs: one has died, and its successor boots.
    """
    if len(once) != len(twice):
        raise process.ServerFailed(
            f"the server had {len(once)} processes in one run and {len(twice)} in the other"
        )
    return max(after - before for before, after in zip(once, twice, strict=True))


def under_valgrind(started: Launch, folder: Path) -> Launch:
    """Return the same start under callgrind; each process writes its own file."""
    words = [
        *("valgrind", "--tool=callgrind", "--trace-children=yes"),
        *(f"--callgrind-out-file={folder}/{OUTPUT}%p", "--quiet"),
        *started.command,
    ]
    return Launch(words, {**started.environment, **FIXED}, started.files)


def parse_total(text: str) -> int:
    """Read the instructions of one process out of its callgrind file.

    A file has one "totals:" line for each dump, and the dumps of a process add up.
    """
    return sum(int(found) for found in re.findall(r"^totals: (\d+)", text, re.MULTILINE))


def _check(entry: ServerEntry, workload: Workload, places: Places) -> None:
    """Start the server plainly once: it answers rightly, and Python has all bytecode written.

    Else the first of the two counted runs would compile what the second one finds.
    """
    port = process.free_port()
    started = launch(entry, workload, port, places)
    with process.running(
        started.command,
        port,
        environment=started.environment,
        files=started.files,
        directory=ROOT,
    ):
        workload.check(port)


def _totals(entry: ServerEntry, workload: Workload, n_batches: int, places: Places) -> list[int]:
    """Count the instructions of each of the server's processes, ordered by pid."""
    port = process.free_port()
    request = workload.request(port)
    with tempfile.TemporaryDirectory() as name:
        started = under_valgrind(launch(entry, workload, port, places), Path(name))
        with (
            process.running(
                started.command,
                port,
                environment=started.environment,
                files=started.files,
                directory=ROOT,
                startup_timeout_s=STARTUP_TIMEOUT_S,
                termination_timeout_s=TERMINATION_TIMEOUT_S,
            ) as server,
            client.connect(port) as connection,
        ):
            answer = client.ask(connection, request, workload.answer)
            running = {stat.pid for stat in process.tree(server.pid)}
            client.ask_batches(
                connection,
                request * workload.depth,
                answer.wire_bytes * workload.depth,
                n_batches,
            )
        files = sorted(
            Path(name).glob(f"{OUTPUT}*"), key=lambda file: int(file.name.removeprefix(OUTPUT))
        )
        silent = running - {int(file.name.removeprefix(OUTPUT)) for file in files}
        if silent:
            raise process.ServerFailed(
                f"{len(silent)} of {len(running)} processes ended without writing what they "
                "counted, so the one that answers may not be seen: try `guard`"
            )
        counted = [parse_total(file.read_text()) for file in files]
    if not any(counted):
        raise process.ServerFailed("callgrind wrote no file: the server did not end by itself")
    return counted
