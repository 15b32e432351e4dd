"""The standard streams of a worker, and further pipes: what is asked, made and read.

The parent reads and writes without ever blocking; the child has ordinary descriptors.
A Stream that nobody listens to is not read, so that its writer waits once it is full.
This file knows neither workers nor channels.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Sequence
from typing import Any

from fastcluster.emitter import Emitter

_READ_BYTES = 65536
_KINDS = ("inherit", "pipe", "ignore", "ipc")


class Stream(Emitter):
    """The primary's end of a worker's pipe; events data(bytes) and end().

    It is read while somebody listens for `data`, by the loop of cluster.run().
    (Node: worker.process.stdout and the like)
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        os.set_blocking(fd, False)
        self._fd = fd
        self._out = bytearray()
        self._ending = False
        self._ended = False
        # Called when there may be more to wait for than before.
        self.wake: Callable[[], object] = _do_nothing

    def fileno(self) -> int:
        """Return the descriptor, non-blocking; -1 once the stream is closed."""
        return self._fd

    @property
    def wants_read(self) -> bool:
        """Tell whether receive() is to be called when there is something to read."""
        return self._fd >= 0 and not self._ended and self.has_listeners("data")

    @property
    def wants_write(self) -> bool:
        """Tell whether flush() is to be called when there is room."""
        return self._fd >= 0 and bool(self._out)

    def write(self, data: bytes) -> bool:
        """Write, or queue and return False; False as well when the stream is closed."""
        if self._fd < 0 or self._ending:
            return False
        self._out += data
        self.flush()
        if self._out:
            self.wake()
        return not self._out

    def end(self) -> None:
        """Let the worker read EOF, once what was written is through."""
        self._ending = True
        self.flush()

    def turn(self) -> None:
        """Write and read what can be."""
        self.flush()
        self.receive()

    def flush(self) -> None:
        """Write what waits, as far as there is room."""
        while self._out and self._fd >= 0:
            try:
                del self._out[: os.write(self._fd, self._out)]
            except BlockingIOError:
                return
            except ConnectionError:
                self._out.clear()
        if self._ending and self._fd >= 0:
            self._shut_write()

    def receive(self) -> None:
        """Emit what has arrived, and `end` at its end."""
        while self.wants_read:
            try:
                data = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._ended = True
                self.emit("end")
                return
            self.emit("data", data)

    def read(self) -> bytes:
        """Return everything up to EOF, waiting for it; for after the worker's exit."""
        pieces = []
        if self._fd >= 0 and not self._ended:
            os.set_blocking(self._fd, True)
            while piece := os.read(self._fd, _READ_BYTES):
                pieces.append(piece)
            self._ended = True
        return b"".join(pieces)

    def close(self) -> None:
        """Close this end; may be repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def _add(self, event: str, listener: Callable[..., object] | None, *, only_once: bool) -> Any:
        added = super()._add(event, listener, only_once=only_once)
        self.wake()
        return added

    def _shut_write(self) -> None:
        if not stat.S_ISSOCK(os.fstat(self._fd).st_mode):
            # A pipe has one direction only, and closing it is its end.
            self.close()
            return
        with socket.socket(fileno=os.dup(self._fd)) as sock, contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)


class Stdio:
    """What the descriptors of one child will be, from 0 on; see check().

    streams: the parent's ends, None where there is none.
    """

    def __init__(self, places: Sequence[Any]) -> None:
        self.streams: list[Stream | None] = []
        self._theirs: list[int | None] = []
        try:
            for number, place in enumerate(places):
                ours, theirs = _open(number, place)
                self.streams.append(None if ours is None else Stream(ours))
                self._theirs.append(theirs)
        except OSError:
            self.forget_child()
            raise

    def take_over(self) -> None:
        """Be the child: put every descriptor in its place; the parent's ends are closed."""
        for stream in self.streams:
            if stream is not None:
                stream.close()
        # First out of the way, lest one place be overwritten before it was moved to another.
        above = len(self._theirs)
        moved = [
            None if fd is None else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(above, 3))
            for fd in self._theirs
        ]
        self.forget_child()
        for number, fd in enumerate(moved):
            if fd is not None:
                os.dup2(fd, number)
                os.close(fd)

    def forget_child(self) -> None:
        """Be the parent: close what is the child's."""
        theirs, self._theirs = self._theirs, []
        for fd in theirs:
            if fd is not None:
                os.close(fd)


def check(stdio: object) -> None:
    """Raise TypeError unless stdio is a sequence of what a descriptor may be.

    "inherit", "pipe", "ignore", a descriptor's number, or something with a fileno(), for the
    descriptors 0, 1, 2 and so on; "ipc" leaves a place as it is, since our channel needs none.
    """
    if not isinstance(stdio, (list, tuple)):
        raise TypeError(f"stdio is a list such as ['inherit', 'pipe', 'pipe'], not {stdio!r}")
    for place in stdio:
        known = place in _KINDS if isinstance(place, str) else _is_descriptor(place)
        if not known:
            raise TypeError(
                f"{place!r} in stdio: each is one of {', '.join(_KINDS)}, a descriptor or a file"
            )


def places_of(stdio: Sequence[Any] | None, silent: bool) -> Sequence[Any]:
    """Return what stdio and silent come to; stdio wins."""
    if stdio is not None:
        return stdio
    return ("inherit", "pipe", "pipe") if silent else ()


def _do_nothing() -> None:
    """Wake nobody: a loop that polls looks by itself."""


def _is_descriptor(place: object) -> bool:
    if isinstance(place, bool):
        return False
    return (isinstance(place, int) and place >= 0) or hasattr(place, "fileno")


def _open(number: int, place: Any) -> tuple[int | None, int | None]:
    """Return the parent's end and the child's, None for what is not needed."""
    if place in ("inherit", "ipc"):
        return None, None
    if place == "ignore":
        return None, os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    if place != "pipe":
        return None, os.dup(place if isinstance(place, int) else place.fileno())
    if number > 2:
        one, other = socket.socketpair()
        return one.detach(), other.detach()
    # Pipes, so that a program can open /dev/stdout again, which it cannot with a socket.
    reading, writing = os.pipe()
    return (writing, reading) if number == 0 else (reading, writing)
