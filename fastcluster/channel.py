"""Messages and descriptors between processes: a channel, and the inbox of a worker.

A channel is one end of a stream socketpair.  A message is any JSON value; on the wire it
is a frame: four bytes of length, one byte that counts the descriptors, the text.  The
descriptors of a frame are sent with its first byte, so that they arrive no later than
its last one, however many writes the frame takes.  Nothing here blocks except
`flush_within`, and nothing waits: who owns the loop watches `fileno()` and calls.  EOF
means that the other side is dead, and a frame that makes no sense counts as EOF.  It does
not know what the messages mean.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

# A message is whatever json can write; the two sides agree on its meaning elsewhere.
Message = Any

_HEADER = struct.Struct("!IB")
_READ_BYTES = 65536
_FD_BYTES = array.array("i").itemsize

# The kernel takes 253 descriptors with one message (SCM_MAX_FD).
MAX_FDS = 250
# A longer frame is an error of the sender and would be a weapon against the receiver.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# What may wait for a reader that is slow; an empty queue takes one message of any size.
MAX_QUEUED_BYTES = 1024 * 1024


class Channel:
    """Send and receive messages over a connected unix stream socket.

    The channel owns the socket, makes it non-blocking, and closes it in `close()`.  One
    thread uses it; it is not protected against several.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._out: deque[_Unsent] = deque()
        self._queued_bytes = 0
        self._in = bytearray()
        self._arrived: deque[list[int]] = deque()
        self._deaf = False
        self._eof = False

    @property
    def eof(self) -> bool:
        """Tell whether the other side is dead and everything it said was received."""
        return self._eof

    @property
    def wants_write(self) -> bool:
        """Tell whether messages wait until the socket is writable; then call `flush()`."""
        return bool(self._out)

    def fileno(self) -> int:
        """Return the descriptor to watch, or -1 once the channel is closed."""
        return self._sock.fileno()

    def move_above(self, lowest: int) -> None:
        """Use a descriptor with a number from `lowest` on, if this one's is lower."""
        if 0 <= self.fileno() < lowest:
            copy = fcntl.fcntl(self.fileno(), fcntl.F_DUPFD_CLOEXEC, lowest)
            self._sock.close()
            self._sock = socket.socket(fileno=copy)
            self._sock.setblocking(False)

    def send(self, message: Message, fds: Sequence[int] = ()) -> bool:
        """Send a message, or queue it if the socket is full.

        The caller keeps its descriptors and may close them at once: what has to wait is
        duplicated.  Returns False, and sends nothing, when the other side is dead, the
        channel is closed, or more than MAX_QUEUED_BYTES wait already.  True promises no
        arrival: the other side may die before it reads.

        Raises TypeError or ValueError for a message that is not JSON, is too long, or has
        too many descriptors; OSError (EMFILE) when one cannot be duplicated.
        """
        frame = _encode(message, len(fds))
        if self._deaf or self.fileno() < 0:
            return False
        if self._out:
            return self._queue(frame, fds)
        sent = self._write(frame, fds)
        if sent < 0:
            return False
        if sent == 0:
            return self._queue(frame, fds)
        if sent < len(frame):
            # The descriptors have left with the first byte.
            return self._queue(frame[sent:], ())
        return True

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        while self._out:
            first = self._out[0]
            sent = self._write(first.rest, first.fds)
            if sent <= 0:
                return
            first.forget_fds()
            first.rest = first.rest[sent:]
            self._queued_bytes -= sent
            if not first.rest:
                self._out.popleft()

    def flush_within(self, timeout_s: float) -> bool:
        """Send what waits, blocking for at most `timeout_s` seconds; for the last words.

        Returns True when nothing waits any more.
        """
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        if self._out:
            poll.register(self.fileno(), select.POLLOUT)
        while self._out:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                return False
            self.flush()
        return not self._deaf

    def receive(self) -> list[tuple[Message, list[int]]]:
        """Return the messages that have arrived, each with its descriptors, oldest first.

        The descriptors are close-on-exec and belong to the caller.  They are fewer than
        were sent if this process has none left to give them.  An empty list means that
        there is no more for now; `eof` tells whether there will ever be.
        """
        messages: list[tuple[Message, list[int]]] = []
        read_bytes = 0
        while not self._eof:
            # Once there is something to do, a sender that never pauses must not keep
            # the caller here: the socket stays readable and the caller comes back.
            if messages and read_bytes >= MAX_QUEUED_BYTES:
                break
            data = self._read()
            if not data:
                break
            read_bytes += len(data)
            self._in += data
            messages.extend(self._frames())
        return messages

    def close(self) -> None:
        """Close the socket and every descriptor that was on its way; may be repeated."""
        self._lose_unsent()
        self._eof = True
        for fds in self._arrived:
            _close_all(fds)
        self._arrived.clear()
        self._sock.close()

    def _queue(self, frame: memoryview, fds: Sequence[int]) -> bool:
        if self._out and self._queued_bytes + len(frame) > MAX_QUEUED_BYTES:
            return False
        self._out.append(_Unsent(frame, _duplicate_all(fds)))
        self._queued_bytes += len(frame)
        return True

    def _write(self, frame: memoryview, fds: Sequence[int]) -> int:
        """Write once; 0 when the socket is full, -1 when the other side is dead."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            return self._sock.sendmsg([frame], rights)
        except BlockingIOError:
            return 0
        except ConnectionError:
            # It may have said something before it died, so reading goes on.
            self._lose_unsent()
            return -1

    def _lose_unsent(self) -> None:
        self._deaf = True
        for unsent in self._out:
            unsent.forget_fds()
        self._out.clear()
        self._queued_bytes = 0

    def _read(self) -> bytes:
        """Read once; b"" when nothing is there, or at EOF."""
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                _READ_BYTES,
                socket.CMSG_SPACE(MAX_FDS * _FD_BYTES),
                getattr(socket, "MSG_CMSG_CLOEXEC", 0),
            )
        except BlockingIOError:
            return b""
        except ConnectionError:
            self._end()
            return b""
        # One read brings the descriptors of one frame at most: the kernel ends a read
        # after bytes that carry some.  So a truncated set (no descriptor left in this
        # process) is still known to belong to the next frame that announces any.
        if ancillary or flags & socket.MSG_CTRUNC:
            self._arrived.append(_descriptors(ancillary))
        if not data:
            self._end()
        return data

    def _frames(self) -> Iterator[tuple[Message, list[int]]]:
        while len(self._in) >= _HEADER.size and not self._eof:
            length, n_fds = _HEADER.unpack_from(self._in)
            if length > MAX_MESSAGE_BYTES or n_fds > MAX_FDS:
                self._end()
                return
            end = _HEADER.size + length
            if len(self._in) < end:
                return
            text = bytes(self._in[_HEADER.size : end])
            del self._in[:end]
            fds = self._arrived.popleft() if n_fds and self._arrived else []
            try:
                yield json.loads(text), fds
            except ValueError:
                _close_all(fds)
                self._end()

    def _end(self) -> None:
        self._lose_unsent()
        self._eof = True


class _Unsent:
    """The rest of a frame, and its descriptors as long as none of it was sent."""

    __slots__ = ("fds", "rest")

    def __init__(self, rest: memoryview, fds: list[int]) -> None:
        self.rest = rest
        self.fds = fds

    def forget_fds(self) -> None:
        _close_all(self.fds)
        self.fds = []


def pair() -> tuple[Channel, Channel]:
    """Return the two ends of a new channel."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Channel(one), Channel(other)


# ---- connections between workers

# fc_parcel of conn.h: the listener's index, the receiver's generation, and how many
# requests the connection has had.
_PARCEL = struct.Struct("=III")
# Of no worker: whoever receives the parcel counts the connection itself.
_NO_GENERATION = 0


class Inbox:
    """Where a worker finds the connections that other workers hand to it.

    A datagram socketpair, made before the fork and never closed while the cluster
    lives, so that what a dead worker had not taken waits for its successor.
    """

    def __init__(self) -> None:
        self.receiving, self.sending = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.receiving.setblocking(False)
        self.sending.setblocking(False)

    def forward(self, heirs: Sequence[Inbox]) -> tuple[int, bool]:
        """Hand every connection in here to the first heir that has room.

        Returns how many were handed on, and whether that was all; the rest stays here.
        """
        count = 0
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.receiving, _PARCEL.size + 1, 1)
            except OSError:
                return count, True
            try:
                if not fds or len(data) != _PARCEL.size:
                    continue
                if not _hand_to(heirs, data, fds):
                    # There is room: a place has just become free.
                    self._post(data, fds)
                    return count, False
                count += 1
            finally:
                _close_all(fds)

    def close(self) -> None:
        """Close both ends, and the connections that nobody took."""
        self.receiving.close()
        self.sending.close()

    def _post(self, parcel: bytes, fds: Sequence[int]) -> bool:
        try:
            socket.send_fds(self.sending, [parcel], list(fds))
        except OSError:
            return False
        return True


def _hand_to(heirs: Sequence[Inbox], data: bytes, fds: Sequence[int]) -> bool:
    listener, _, requests = _PARCEL.unpack(data)
    parcel = _PARCEL.pack(listener, _NO_GENERATION, requests)
    return any(heir._post(parcel, fds) for heir in heirs)


def _encode(message: Message, n_fds: int) -> memoryview:
    if n_fds > MAX_FDS:
        raise ValueError(f"a message carries at most {MAX_FDS} descriptors, not {n_fds}")
    text = json.dumps(message, separators=(",", ":")).encode()
    if len(text) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message has at most {MAX_MESSAGE_BYTES} bytes, not {len(text)}")
    return memoryview(_HEADER.pack(len(text), n_fds) + text)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _FD_BYTES])
    return list(fds)


def _duplicate_all(fds: Sequence[int]) -> list[int]:
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))
    except OSError:
        _close_all(copies)
        raise
    return copies


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
