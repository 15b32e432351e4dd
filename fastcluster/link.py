"""What primary and worker say to each other over a channel, and in which form.

A frame is a dict with one key: "user" for a message of the program, else a word of the
cluster's own.  Unlike the channel under it a link loses nothing that is sent while the
other side is slow: it queues, and send() returns False so that the sender may pause.
"""

from __future__ import annotations

import base64
import os
import pickle
import socket
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeAlias

from fastcluster.channel import Channel, Message
from fastcluster.sockets import ListeningSocket

SERIALIZATIONS = ("json", "advanced")


class HasDescriptor(Protocol):
    """A socket, or a server that listens; it is looked at, not taken away."""

    def fileno(self) -> int: ...


class HasSockets(Protocol):
    """A server of asyncio's."""

    @property
    def sockets(self) -> Iterable[Any]: ...


Handle: TypeAlias = HasDescriptor | HasSockets


class Link:
    """One end of the talk between a primary and one worker.

    serialization: "json", or "advanced" for whatever pickle can write.  Unpickling runs
    code of the sender's choice: both ends are processes that the same program has forked,
    and a worker that may be taken over by its clients should not have it.
    """

    def __init__(self, channel: Channel, serialization: str = "json") -> None:
        self.channel = channel
        self._rich = serialization == "advanced"
        self._waiting: deque[tuple[Message, list[int], Callable[[], object] | None]] = deque()
        self._unsent: list[Callable[[], object]] = []
        # Called when there is something to write for which the channel has no room.
        self.wake: Callable[[], object] = _do_nothing

    @property
    def connected(self) -> bool:
        """Tell whether the other side is there."""
        return self.channel.fileno() >= 0 and not self.channel.eof

    @property
    def wants_write(self) -> bool:
        """Tell whether flush() is to be called when the channel is writable."""
        return self.channel.wants_write or bool(self._waiting)

    def send_message(
        self,
        message: object,
        handle: Handle | None = None,
        callback: Callable[[], object] | None = None,
    ) -> bool:
        """Send a program's message; see Worker.send().  Raises TypeError for what is no socket."""
        body: dict[str, Any]
        if self._rich:
            body = {"pickle": base64.b85encode(pickle.dumps(message)).decode()}
        else:
            body = {"json": message}
        return self.say({"user": body}, [] if handle is None else [_socket_of(handle)], callback)

    def say(
        self,
        frame: Message,
        fds: list[int] | None = None,
        callback: Callable[[], object] | None = None,
    ) -> bool:
        """Send a frame, or queue it and return False; False as well if nobody is there."""
        if not self.connected:
            return False
        if not self._waiting and self.channel.send(frame, fds or ()):
            if self.channel.wants_write:
                # The channel has it, and the socket not yet.
                self.wake()
                if callback is not None:
                    self._unsent.append(callback)
            elif callback is not None:
                callback()
            return True
        # It may turn out only now that nobody is there; then it waits for nothing, and what
        # waits may be changed by its sender, so it is copied.
        self._waiting.append((_copied(frame), [os.dup(fd) for fd in fds or ()], callback))
        self.wake()
        return False

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        self.channel.flush()
        while self._waiting:
            frame, fds, callback = self._waiting[0]
            if not self.channel.send(frame, fds):
                return
            self._waiting.popleft()
            for fd in fds:
                os.close(fd)
            if callback is not None:
                self._unsent.append(callback)
        if not self.channel.wants_write and self.connected:
            sent, self._unsent = self._unsent, []
            for callback in sent:
                callback()

    def flush_within(self, timeout_s: float) -> bool:
        """Send what waits, blocking for at most timeout_s seconds; True if nothing is left."""
        deadline = time.monotonic() + timeout_s
        while self.connected and self.wants_write:
            if not self.channel.flush_within(max(0.0, deadline - time.monotonic())):
                return False
            self.flush()
        return not self.wants_write

    def hang_up(self) -> None:
        """End the talk: both sides, this one as well, now read EOF.

        One word says that it is meant, unlike the EOF of a process that has died.
        """
        if self.connected:
            self.say({"hung_up": {}})
            self.flush()
            with socket.socket(fileno=os.dup(self.channel.fileno())) as sock:
                sock.shutdown(socket.SHUT_RDWR)

    def receive(self) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """Yield the frames that have arrived, each with its descriptors."""
        for frame, fds in self.channel.receive():
            if isinstance(frame, dict) and len(frame) == 1 and self._fits(frame):
                yield frame, fds
                continue
            for fd in fds:
                os.close(fd)

    def _fits(self, frame: dict[str, Any]) -> bool:
        """Tell whether a message has the form that was agreed on.

        Above all nobody can have a side unpickle that never said that it would.
        """
        if "user" not in frame:
            return True
        body = frame["user"]
        return isinstance(body, dict) and list(body) == ["pickle" if self._rich else "json"]

    def close(self) -> None:
        """Close this end; the other reads EOF.  What still waited is lost."""
        for _, fds, _ in self._waiting:
            for fd in fds:
                os.close(fd)
        self._waiting.clear()
        self.channel.close()


def message_of(body: dict[str, Any], fds: list[int]) -> tuple[Any, socket.socket | None]:
    """Return the program's message and the socket that came with it, None if none did.

    One that listens is a ListeningSocket, for accept(), and for listen(fd=...) of a server.
    What is no socket is closed, and there is none.
    """
    handle = _received(fds[0]) if fds else None
    for surplus in fds[1:]:
        os.close(surplus)
    if "pickle" in body:
        return pickle.loads(base64.b85decode(body["pickle"])), handle
    return body.get("json"), handle


def _received(fd: int) -> socket.socket | None:
    try:
        handle = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None
    if not handle.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return handle
    return ListeningSocket(fileno=handle.detach())


def _socket_of(handle: Handle) -> int:
    """Return the descriptor of a socket, of a server, or of an asyncio server's one socket."""
    found: Any = handle
    if hasattr(handle, "sockets"):
        found = next(iter(handle.sockets), None)
    if not hasattr(found, "fileno"):
        raise TypeError(f"a handle is a socket or a server that listens, not {handle!r}")
    fd = int(found.fileno())
    if fd < 0 or not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise TypeError(f"a handle is an open socket or a server that listens, not {handle!r}")
    return fd


def _do_nothing() -> None:
    """Wake nobody: a loop that polls looks by itself."""


def _copied(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {key: _copied(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_copied(value) for value in thing]
    return thing
