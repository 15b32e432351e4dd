"""The file that says which process to signal.

The law: while the process lives that wrote it, nobody else gets it, and a file that a dead
one left is taken over.  What says that a process lives is its lock on the file, not its
number, which another process may have by now.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from fastcluster.errors import UsageError


@contextlib.contextmanager
def held(path: str | None) -> Iterator[None]:
    """Keep this process's pid in the file while the context lasts; None: in none.

    The lock is the process's own and no forked child has it.  Raises UsageError if
    another process holds the file, or it cannot be written.
    """
    if path is None:
        yield
        return
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(
            f"the pid file {path} cannot be written ({error.strerror}): choose another one"
        ) from error
    try:
        _write(fd, path)
        yield
        with contextlib.suppress(OSError):
            os.unlink(path)
    finally:
        os.close(fd)


def _write(fd: int, path: str) -> None:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(fd, 32).decode("ascii", "replace").strip()
        raise UsageError(
            f"{path} belongs to process {holder}, which runs: stop it, or choose another --pid-file"
        ) from error
    os.ftruncate(fd, 0)
    os.write(fd, b"%d\n" % os.getpid())
