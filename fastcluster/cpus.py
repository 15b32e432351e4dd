"""How many CPUs this process may use.

The law: what the kernel would not let us run on is not counted, whichever
version of cgroups the machine has.  This file reads /proc and /sys, or a folder
that stands for them, and knows nothing of workers.
"""

import os
from pathlib import Path


def usable_cpus(root: Path = Path("/"), allowed: int | None = None) -> int:
    """Return how many CPUs this process may use, at least 1.

    That is the smaller of its affinity and of its cgroup's CPU quota rounded up,
    whichever version of cgroups the machine has.  root: where /proc and /sys are
    found.  allowed: how many CPUs the affinity has; None asks the system.
    """
    if allowed is None:
        allowed = _affinity()
    return max(1, min([allowed, *_quotas(root)]))


def can_pin() -> bool:
    """Tell whether the system lets a process choose its CPUs."""
    return hasattr(os, "sched_setaffinity")


def pin(number: int) -> int | None:
    """Have this process run on one of the CPUs that it may use, the nth; return which.

    More numbers than CPUs begin again with the first.  What it forks and which threads it
    starts stay there, too.  None: the system does not have it.
    """
    if not can_pin():
        return None
    allowed = sorted(os.sched_getaffinity(0))
    cpu = allowed[number % len(allowed)]
    os.sched_setaffinity(0, {cpu})
    return cpu


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> list[int]:
    """Return the CPU quotas of the own cgroup and of all above it, each rounded up."""
    quotas = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        controllers, _, group = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in ("", "unified") if not controllers else (controllers, "cpu"):
            top = root / "sys/fs/cgroup" / mount
            quotas += [_quota(folder) for folder in _upwards(top, group)]
    return [quota for quota in quotas if quota > 0]


def _upwards(top: Path, group: str) -> list[Path]:
    # In a container the path may be the host's, which is not mounted; then only
    # the mount's own top speaks of this container.
    parts = [part for part in group.split("/") if part not in ("", "..")]
    return [top.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]


def _quota(folder: Path) -> int:
    """Return the CPUs that one cgroup folder allows, rounded up; 0: it does not say."""
    words = _text(folder / "cpu.max").split()
    if not words:
        words = [
            _text(folder / "cpu.cfs_quota_us").strip(),
            _text(folder / "cpu.cfs_period_us").strip(),
        ]
    if len(words) != 2 or not all(word.isdigit() and int(word) for word in words):
        return 0
    return -(-int(words[0]) // int(words[1]))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
