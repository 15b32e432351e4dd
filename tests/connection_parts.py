"""What the tests of connections share: requests, applications that wait, and measures."""

import contextlib
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from harness import Client, Wire, wire

from fastcluster.request import Request
from fastcluster.wsgi import WsgiHandler

EXPECT = b"Expect: 100-continue\r\n"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def get(path: bytes) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n"


def post(length: int, fields: bytes = b"") -> bytes:
    """Return the head of a request with a counted body."""
    return b"POST /post HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n%s\r\n" % (length, fields)


CHUNKED = b"POST /post HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def memory_bytes() -> int:
    """Return how much memory this process has resident."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def read_on(client: Client) -> None:
    """Have a slow client take all it can get from now on."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    client.reading = True


def path_of(request: Request) -> bytes:
    return request.path.encode()


def gone(site: Wire) -> Callable[[], bool]:
    return lambda: site.server.n_connections == 0


# ---- applications


class Blocks:
    """A body of many blocks that counts how many were asked for."""

    def __init__(self, n: int, size: int) -> None:
        self.n, self.block, self.given, self.closed = n, b"x" * size, 0, 0

    def __iter__(self) -> Iterator[bytes]:
        while self.given < self.n:
            self.given += 1
            yield self.block

    def close(self) -> None:
        self.closed += 1


class Slow:
    """A WSGI application on a thread that answers when the test says so."""

    def __init__(self) -> None:
        self.called, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.answer: list[bytes] = [b"slow"]

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> object:
        self.called.release()
        self.go.acquire()
        start_response("200 OK", [])
        return self.answer


@contextlib.contextmanager
def slow_site() -> Iterator[tuple[Slow, Wire]]:
    """Serve it on two threads; all that waits at the end is answered."""
    app = Slow()
    with wire(WsgiHandler, app, threads=2) as site:
        yield app, site
        app.go.release(1000)


def turn_until_called(app: Slow, site: Wire) -> None:
    site.turn_until(lambda: app.called.acquire(blocking=False))


class Reader:
    """A WSGI application that does what the test says next, step by step."""

    def __init__(self) -> None:
        self.may_read, self.has_read = threading.Semaphore(0), threading.Semaphore(0)
        self.seen: list[bytes] = []
        self.error: BaseException | None = None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"] == "/refuse":
            start_response("403 Forbidden", [("Content-Length", "2")])
            return [b"no"]
        if environ["REQUEST_METHOD"] == "POST":
            self.read(environ["wsgi.input"])
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    def read(self, body: Any) -> None:
        while True:
            self.may_read.acquire()
            try:
                self.seen.append(body.read(1000))
            except ConnectionError as error:
                self.error = error
                raise
            finally:
                self.has_read.release()
            if not self.seen[-1]:
                return


@contextlib.contextmanager
def reader_site() -> Iterator[tuple[Reader, Wire]]:
    """Serve it on two threads; at the end it may read whatever there is."""
    app = Reader()
    with wire(WsgiHandler, app, threads=2) as site:
        yield app, site
        app.may_read.release(1000)
