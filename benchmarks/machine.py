"""The machine: its cores, how busy they are, its limits, and its name for a report.

Reads /proc and /sys, so it is for Linux, as wrk's pinning is. It starts nothing and changes
nothing but this process's own limit on open files.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class CannotMeasure(Exception):
    """The machine, or what is installed on it, does not allow it; the text says the mend."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the server runs and where the load runs."""

    server: int
    load: int
    are_siblings: bool


def choose_cores() -> Cores:
    """Choose the first usable core for the server and another one for the load.

    A hardware thread of the server's own core is taken only where there is no other, and
    then `are_siblings` is true. Raises CannotMeasure on a machine with one usable core.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise CannotMeasure(
            "this process may use one core only; the server and its load need one each: "
            "run it where two or more are usable"
        )
    server = usable[0]
    siblings = sibling_threads(server)
    for core in usable[1:]:
        if core not in siblings:
            return Cores(server, core, are_siblings=False)
    return Cores(server, usable[1], are_siblings=True)


def sibling_threads(core: int) -> set[int]:
    """Return the hardware threads that share a core with this one, itself included."""
    topology = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        return parse_core_list(topology.read_text())
    except OSError:
        return {core}


def parse_core_list(text: str) -> set[int]:
    """Read the kernel's notation for sets of cores: "0-2,5"."""
    cores: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores


def busy_s(cores: set[int]) -> float:
    """Return the CPU time that these cores have spent on anything at all, in seconds.

    Time stolen by the hypervisor counts as busy: it was not ours.
    """
    return parse_busy_s(Path("/proc/stat").read_text(), cores)


def parse_busy_s(text: str, cores: set[int]) -> float:
    """Add up the busy columns of these cores' lines in the text of /proc/stat."""
    names = {f"cpu{core}" for core in cores}
    ticks = 0
    for line in text.splitlines():
        name, *columns = line.split()
        if name in names:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, columns[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / TICKS_PER_S


def raise_file_limit(wanted: int) -> None:
    """Let this process, and those it starts, have at least this many descriptors open.

    Raises CannotMeasure where the hard limit is below that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise CannotMeasure(
                f"{wanted} open files are needed and the hard limit is {hard}: raise it "
                "(ulimit -Hn) or ask for fewer connections"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def describe(cores: Cores | None = None) -> dict[str, object]:
    """Say what a reader needs to judge the numbers: processor, kernel, Python, load."""
    described: dict[str, object] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": _processor(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    if cores is not None:
        described["server_core"] = cores.server
        described["load_core"] = cores.load
        described["cores_are_siblings"] = cores.are_siblings
    return described


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
