"""A real server and its clients, driven by the test's own thread.

A Wire owns a Server and a listening socket.  turn_until() lets the server take
turns, and its clients send and receive, until a condition holds: nothing
happens between two calls, no test sleeps, and one that waits in vain fails.
"""

import contextlib
import gc
import http.client
import io
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fastcluster.config import Config
from fastcluster.exchange import Handler
from fastcluster.server import Server


@dataclass
class Response:
    """A response as a client sees it; rest is what came after it."""

    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes
    rest: bytes

    def get(self, name: str) -> str | None:
        """Return the field's value, repeated ones joined, or None."""
        values = [value for key, value in self.fields if key.lower() == name.lower()]
        return ", ".join(values) if values else None


class NotWhole(Exception):
    """The bytes received so far are no whole response."""


def parse(data: bytes, method: str = "GET", eof: bool = True) -> Response:
    """Parse the first final response in data; NotWhole if it is cut off."""

    class Source:
        def makefile(self, *_: object) -> io.BufferedReader:
            return stream

    stream = io.BufferedReader(io.BytesIO(data), max(1, len(data)))
    if b"\r\n\r\n" not in data:
        raise NotWhole(data)
    response = http.client.HTTPResponse(Source(), method=method)  # type: ignore[arg-type]
    try:
        response.begin()
    except http.client.RemoteDisconnected as error:
        raise NotWhole(data) from error
    ends_by_close = response.length is None and not response.chunked
    if ends_by_close and not eof:
        raise NotWhole(data)
    response._close_conn = lambda: None  # type: ignore[attr-defined]
    try:
        body = response.read()
    except (http.client.IncompleteRead, ValueError) as error:
        raise NotWhole(data) from error
    return Response(response.status, response.reason, response.getheaders(), body, stream.read())


class Client:
    """One client's socket; received grows while the wire turns."""

    def __init__(self, wire: "Wire", sock: socket.socket) -> None:
        self.wire, self.socket = wire, sock
        self.unsent, self.received = b"", b""
        self.eof = self.was_reset = False
        self.reading = True

    def send(self, data: bytes) -> None:
        """Send bytes, now as far as the socket takes them, the rest in later turns."""
        self.unsent += data
        self.push()

    def push(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while self.unsent:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]

    def pull(self) -> None:
        if not self.reading or self.eof:
            return
        try:
            while data := self.socket.recv(1 << 20):
                self.received += data
            self.eof = True
        except BlockingIOError:
            pass
        except ConnectionError:
            self.eof = self.was_reset = True

    def shutdown(self) -> None:
        """Send no more: a half-close."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self, reset: bool = False) -> None:
        """Leave; reset: without the usual good-bye."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()
        if self in self.wire.clients:
            self.wire.clients.remove(self)

    def request(self, data: bytes, method: str = "GET") -> Response:
        """Send bytes and turn until a whole response is there; it is taken out of received."""
        self.send(data)
        return self.response(method)

    def response(self, method: str = "GET") -> Response:
        """Turn until a whole response is there and take it out of received."""
        found: list[Response] = []

        def whole() -> bool:
            with contextlib.suppress(NotWhole):
                found.append(parse(self.received, method, self.eof))
            return bool(found) or self.eof

        self.wire.turn_until(whole)
        if not found:
            raise NotWhole(self.received)
        self.received = found[0].rest
        return found[0]


class Wire:
    """A server on a socket of its own, without threads or processes of its own.

    options: fields of config.Config.  host: a numeric address of this machine's own;
    unix: the path of a unix socket to listen on instead.
    """

    def __init__(
        self,
        handler_class: Callable[[Any, Config], Handler],
        app: Any,
        *,
        host: str = "127.0.0.1",
        unix: str | None = None,
        access: Any = None,
        **options: Any,
    ) -> None:
        self.config = Config(**options)
        self.handler = handler_class(app, self.config)
        self.log = logging.getLogger("fastcluster")
        self.server = Server(self.handler, self.config, log=self.log, access=access)
        if unix is None:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self.listening = socket.create_server((host, 0), family=family, backlog=256)
            # As sockets.py does it; connections inherit it.
            self.listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.listening = socket.socket(socket.AF_UNIX)
            self.listening.bind(unix)
            self.listening.listen(256)
        self.listening.setblocking(False)
        self.listener = self.server.listen(self.listening)
        self.clients: list[Client] = []

    def connect(self, receive_buffer: int | None = None) -> Client:
        """Return a new client; a small receive buffer makes it a slow one."""
        sock = socket.socket(self.listening.family)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(self.listening.getsockname())
        sock.setblocking(False)
        client = Client(self, sock)
        self.clients.append(client)
        return client

    def request(self, data: bytes, method: str = "GET") -> Response:
        """Send bytes from a new client and return the response."""
        client = self.connect()
        try:
            return client.request(data, method)
        finally:
            client.close()

    def turn(self, timeout_ms: int = 0) -> None:
        """Let the server take one turn, and the clients send and receive."""
        for client in self.clients:
            client.push()
        self.server.turn(timeout_ms)
        for client in self.clients:
            client.pull()

    def turn_until(self, condition: Callable[[], object], seconds: float = 20) -> None:
        """Turn until condition() is true; fail if that takes too long."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                seen = [client.received[-300:] for client in self.clients]
                raise AssertionError(f"waited {seconds} s in vain; clients have {seen}")
            self.turn(1)

    def close(self) -> None:
        for client in list(self.clients):
            client.close()
        self.server.close()
        self.listening.close()
        close = getattr(self.handler, "close", None)
        if close is not None:
            close()


@contextlib.contextmanager
def wire(
    handler_class: Callable[[Any, Config], Handler], app: Any, **options: Any
) -> Iterator[Wire]:
    """Open a Wire for a with statement."""
    opened = Wire(handler_class, app, **options)
    try:
        yield opened
    finally:
        opened.close()


def open_descriptors() -> int:
    """Return how many descriptors this process has open, without what waits to be collected."""
    gc.collect()
    return len(os.listdir("/dev/fd"))
