"""The C parts by themselves: builds parts/bench_<stem>.c, runs each, reads what a call costs.

A program prints a line for each thing that it measures: its name, a tab, nanoseconds. It knows no
part; a new file in the folder is measured as it is.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import build
from benchmarks.catalogue import BUILD, ROOT
from benchmarks.machine import CannotMeasure

FOLDER = Path(__file__).parent / "parts"
CSRC = ROOT / "csrc"
TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call of a part takes, in nanoseconds; the shortest of several samples."""

    part: str
    what: str
    ns: float


def stems() -> list[str]:
    """Return the parts that have a program here."""
    return sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.c"))


def measure(names: Sequence[str], tell: Callable[[str], None]) -> list[Cost]:
    """Build and run the programs of these parts; none means all. Raises CannotMeasure."""
    known = stems()
    for name in names:
        if name not in known:
            raise CannotMeasure(f"no part is named {name}; there are {', '.join(known)}")
    costs: list[Cost] = []
    for stem in names or known:
        tell(f"part {stem}")
        costs += run(stem, compiled(stem))
    return costs


def compiled(stem: str) -> Path:
    """Build a part's program together with csrc/. Raises CannotMeasure."""
    # llhttp.c binds what lives inside a Python module.
    sources = [source for source in sorted(CSRC.glob("*.c")) if source.stem != "llhttp"]
    newer = [*sources, *CSRC.glob("*.h"), *FOLDER.glob("*.h")]
    words = [f"-I{CSRC}", *map(str, sources), "-lpthread"]
    return build.program(BUILD / f"bench_{stem}", FOLDER / f"bench_{stem}.c", words, newer)


def run(stem: str, program: Path) -> list[Cost]:
    """Run a part's program. Raises CannotMeasure with what it said if it fails."""
    try:
        ran = subprocess.run(
            [str(program)], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CannotMeasure(f"the program of the part {stem} does not end") from error
    if ran.returncode != 0:
        raise CannotMeasure(f"the program of the part {stem} failed: {ran.returncode} {ran.stderr}")
    return [parse(stem, line) for line in ran.stdout.splitlines()]


def parse(stem: str, line: str) -> Cost:
    """Read one line of a program."""
    what, _, ns = line.partition("\t")
    return Cost(stem, what, float(ns))
