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


class PidFile:
    """This process's pid in a file, locked; path: None for no file.

    The lock is the process's own and no forked child has it.
    """

    def __init__(self, path: str | None) -> None:
        self.path = None if path is None else os.path.abspath(path)
        self._fd: int | None = None

    def take(self) -> None:
        """Write our pid.

        Raises UsageError if another process holds the file, or it cannot be written.
        """
        if self.path is None:
            return
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UsageError(
                f"the pid file {self.path} cannot be written ({error.strerror}): choose another one"
            ) from error
        try:
            _write(fd, self.path)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def let_go(self) -> None:
        """Give the lock away and leave the file, for the process that takes it next."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def remove(self) -> None:
        """Remove the file if it is ours; may be repeated."""
        if self._fd is not None and self.path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self.let_go()


@contextlib.contextmanager
def held(path: str | None, *, at_once: bool = True) -> Iterator[PidFile]:
    """Keep this process's pid in the file while the context lasts; None: in none.

    at_once: False leaves it to the caller to take it.  Raises UsageError as `take()` does.
    """
    file = PidFile(path)
    if at_once:
        file.take()
    try:
        yield file
    finally:
        file.remove()


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
