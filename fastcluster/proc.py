"""What Linux says of processes in /proc, and the title that ps shows of ours.

The law: nothing here fails.  What a kernel, a container or another system does not tell
is None or 0, and a title that cannot be written is not written.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from io import FileIO
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_CGROUPS = Path("/sys/fs/cgroup")
_VMSTAT = Path("/proc/vmstat")
# TASK_COMM_LEN without its NUL.
_COMM_BYTES = 15
_COMM = "/proc/self/comm"
_MEMORY = "/proc/self/mem"
# How all our titles begin.
_TITLE = b"fastcluster: "


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process in bytes, 0 if nobody knows."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, in seconds, 0 if nobody knows."""
    try:
        # Counted from the name's closing parenthesis, since a name may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except (OSError, ValueError, IndexError):
        return 0.0


def reaped_cpu_s() -> float:
    """Return the processor time of our children that were reaped, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def oom_kills() -> int | None:
    """Return how many processes the kernel has killed for want of memory; None: unknown.

    Those of our cgroup where it counts them (memory.events), else of the machine.
    """
    for path, key in ((_cgroup() / "memory.events", "oom_kill"), (_VMSTAT, "oom_kill")):
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == key:
                    return int(value)
    return None


def _cgroup() -> Path:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return _CGROUPS / line[3:].lstrip("/")
    return _CGROUPS


def is_in_foreground() -> bool:
    """Tell whether we are what a terminal shows, which sends SIGWINCH when it is resized."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


# PR_SET_CHILD_SUBREAPER of prctl(2).
_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> bool:
    """Become the parent of every descendant whose own parent dies; False if that cannot be."""
    # Only who needs it pays for it.
    import ctypes

    try:
        return bool(ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def pss_bytes(pid: int) -> int:
    """Return the proportional memory of a process in bytes, 0 if nobody knows.

    A page that several processes share counts for each by its part of it
    (smaps_rollup, proc(5)).
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


# ---- the title


def set_title(text: str) -> None:
    """Have ps, top and htop show `text` for this process, cut off where there is no room.

    It goes where the command line was: programs that look for that find the title
    instead, while sys.argv stays.  Of ps's short names (`ps -e`, killall) it is the
    first 15 bytes.
    """
    data = text.encode("ascii", "replace")
    with contextlib.suppress(OSError), _opened(_COMM) as comm:
        comm.write(data[:_COMM_BYTES])
    with contextlib.suppress(OSError, ValueError, IndexError):
        # Counted from the name's closing parenthesis, since a name may hold anything.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        room = end - start
        if start and room > 0 and _is_command_line(start, room):
            # The last byte stays NUL: else the kernel takes what follows for more of it.
            _poke(start, data[: room - 1].ljust(room, b"\0"))


def _is_command_line(start: int, room: int) -> bool:
    """Tell whether our command line is there, or a title: else it is another program's.

    Under valgrind it is valgrind's own, which it reads again after a fork.
    """
    with _opened(_MEMORY) as memory:
        memory.seek(start)
        found = memory.read(room)
    ours = b"".join(os.fsencode(word) + b"\0" for word in sys.orig_argv)
    return found == ours or found.startswith(_TITLE)


def _poke(address: int, data: bytes) -> None:
    with _opened(_MEMORY) as memory:
        memory.seek(address)
        memory.write(data)


_held: dict[str, int] = {}


def forget_title() -> None:
    """Leave the title that hold_title() has kept writable to the process that held it.

    Called in a process that was forked from that: what is held is not its own.
    """
    for fd in _held.values():
        os.close(fd)
    _held.clear()


def hold_title() -> None:
    """Keep the title writable for a process that becomes another user afterwards.

    The kernel gives the files of such a process to root (proc(5), dumpable).
    """
    for path in (_COMM, _MEMORY):
        with contextlib.suppress(OSError):
            _held[path] = os.open(path, os.O_RDWR | os.O_CLOEXEC)


def _opened(path: str) -> FileIO:
    fd = _held.get(path)
    return FileIO(path, "r+") if fd is None else FileIO(fd, "r+", closefd=False)
