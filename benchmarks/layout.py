"""Which cores the workers have and which the load has, for each number of workers.

Workers get one hardware thread of each core first, the load what is left, and only where nothing
is left does it share the workers' cores. It reads the machine's topology and changes nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.machine import CannotMeasure, sibling_threads

Shared = Literal["nothing", "threads", "cores"]
# Up to here every number of workers is measured; then in steps of about a half.
CONSECUTIVE = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """Cores for some workers and for their load, and what the two have in common.

    `shared` is "cores" where the load runs on the workers' own, "threads" where it runs on the
    other hardware threads of those, and "nothing" where each has cores of its own.
    """

    server: tuple[int, ...]
    load: tuple[int, ...]
    shared: Shared


def usable() -> list[int]:
    """Return the cores that this process may use, the first hardware thread of each first."""
    return ordered(sorted(os.sched_getaffinity(0)), sibling_threads)


def ordered(cores: list[int], siblings: Callable[[int], set[int]]) -> list[int]:
    """Return the cores with the second hardware threads behind all first ones."""
    rank = {core: sum(other < core for other in siblings(core) & set(cores)) for core in cores}
    return sorted(cores, key=lambda core: (rank[core], core))


def lay_out(
    workers: int, cores: list[int], siblings: Callable[[int], set[int]] = sibling_threads
) -> Layout:
    """Share the cores out; one for each worker, none twice. `cores` are ordered as usable()."""
    server = tuple(cores[:workers])
    rest = tuple(cores[workers:])
    theirs = {thread for core in server for thread in siblings(core)}
    apart = tuple(core for core in rest if core not in theirs)
    if apart:
        return Layout(server, apart, "nothing")
    return Layout(server, rest, "threads") if rest else Layout(server, server, "cores")


def worker_counts(n_cores: int) -> list[int]:
    """Return the numbers of workers that are measured: 1, 2, 3, 4, 6, 8, 12, 16, … n_cores."""
    counts = [*range(1, min(CONSECUTIVE, n_cores) + 1)]
    step = CONSECUTIVE
    while step < n_cores:
        counts += [step * 3 // 2, step * 2]
        step *= 2
    return sorted({count for count in counts if count <= n_cores} | {n_cores})


def parse_counts(text: str, n_cores: int) -> list[int]:
    """Read "1-4,8"; raises CannotMeasure for words that are none, and for more than there are."""
    counts: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*([1-9]\d*)(?:-([1-9]\d*))?\s*", part)
        if found is None:
            raise CannotMeasure(f"--workers wants numbers such as 1-4,8, not {text}")
        counts.update(range(int(found[1]), int(found[2] or found[1]) + 1))
    if not counts or max(counts) > n_cores:
        raise CannotMeasure(
            f"--workers {text}: this process may use {n_cores} cores, and one worker each is the "
            "most that says anything"
        )
    return sorted(counts)
