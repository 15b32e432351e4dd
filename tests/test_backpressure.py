"""Backpressure: whoever takes nothing stops whoever sends, and nothing heaps up between."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conformance.reading import read
from connection_parts import (
    EXPECT,
    GET,
    Blocks,
    Reader,
    get,
    gone,
    memory_bytes,
    path_of,
    post,
    read_on,
    reader_site,
)
from harness import Client, Wire, wire

from fastcluster.native import NativeHandler
from fastcluster.request import Request
from fastcluster.wsgi import WsgiHandler


@pytest.fixture
def reader() -> Iterator[tuple[Reader, Wire]]:
    with reader_site() as both:
        yield both


# ---- a client that is stopped: backpressure on request bodies


def test_a_body_that_nobody_takes_stops_its_client(reader: tuple[Reader, Wire]) -> None:
    app, site = reader
    client = site.connect()
    size = 50_000_000
    before = memory_bytes()
    client.send(post(size, EXPECT) + b"a" * 1000)
    app.may_read.release()
    site.turn_until(lambda: app.seen)
    piece = b"a" * 1_000_000
    for _ in range(30):
        client.send(piece[: max(0, 1_000_000 - len(client.unsent))])
        site.turn()
    assert memory_bytes() - before < 8_000_000
    stuck = len(client.unsent)
    assert stuck
    app.may_read.release(2000)
    site.turn_until(lambda: len(client.unsent) < stuck)
    client.close(reset=True)
    site.turn_until(lambda: app.error is not None or gone(site)())


def test_a_body_that_breaks_is_an_error_and_never_an_end(reader: tuple[Reader, Wire]) -> None:
    app, site = reader
    client = site.connect()
    client.send(post(2000, EXPECT) + b"a" * 1000)
    app.may_read.release(1000)
    site.turn_until(lambda: app.seen)
    client.close()
    site.turn_until(lambda: app.error is not None)
    assert app.seen == [b"a" * 1000]


# ---- a server that is stopped: backpressure on responses


def test_a_client_that_takes_nothing_stops_the_stream() -> None:
    blocks = Blocks(1000, 20_000)
    with wire(NativeHandler, lambda request: blocks) as site:
        client = site.connect(receive_buffer=4096)
        client.reading = False
        before = memory_bytes()
        client.send(GET)
        site.turn_until(lambda: blocks.given)
        last = -1
        while blocks.given > last:
            last = blocks.given
            for _ in range(20):
                site.turn()
        assert blocks.given < 500
        assert memory_bytes() - before < 8_000_000
        read_on(client)
        site.turn_until(lambda: client.received.endswith(b"\r\n0\r\n\r\n"))
        assert read(client.received).body == b"x" * 20_000_000
    assert blocks.closed == 1


@pytest.mark.parametrize("interface", ["native", "wsgi", "wsgi on threads"])
def test_a_client_that_goes_on_asking_does_not_stall_its_stream(interface: str) -> None:
    """Its bytes wake the connection while the stream is stopped, again and again."""
    blocks = Blocks(400, 20_000)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [])
        return iter(blocks)

    kind = (
        (NativeHandler, lambda request: iter(blocks))
        if interface == "native"
        else (WsgiHandler, app)
    )
    with wire(*kind, threads=1 if "threads" in interface else 0) as site:
        client = site.connect(receive_buffer=4096)
        client.reading = False
        client.send(GET)
        site.turn_until(lambda: blocks.given > 20)
        for _ in range(50):
            site.turn()
        # It makes some room, too little for the kernel to say so, and sends a byte.
        for byte in GET:
            client.received += client.socket.recv(50_000)
            client.send(bytes([byte]))
            site.turn()
        read_on(client)
        assert len(client.response().body) == 8_000_000


def test_pipelined_requests_wait_behind_a_stream() -> None:
    blocks = Blocks(200, 20_000)

    def handler(request: Request) -> object:
        return blocks if request.path == "/stream" else path_of(request)

    with wire(NativeHandler, handler) as site:
        client = site.connect(receive_buffer=4096)
        client.reading = False
        client.send(get(b"/a") + get(b"/stream") + get(b"/b") + get(b"/c"))
        for _ in range(50):
            site.turn()
        assert 0 < blocks.given < 200
        read_on(client)
        assert client.response().body == b"/a"
        assert client.response().body == b"x" * 4_000_000
        assert client.response().body == b"/b"
        assert client.response().body == b"/c"
        assert client.received == b""


def test_a_bad_request_behind_a_stream_comes_in_its_turn() -> None:
    blocks = Blocks(200, 20_000)
    with wire(NativeHandler, lambda request: blocks) as site:
        client = site.connect(receive_buffer=4096)
        client.reading = False
        client.send(get(b"/stream") + b"GET / HTTP/3.0\r\n\r\n" + GET)
        for _ in range(50):
            site.turn()
        read_on(client)
        site.turn_until(lambda: client.eof)
        seen = read(client.received)
        assert len(seen.body) == 4_000_000
        last = read(seen.rest)
        assert (last.status, last.rest) == (505, b"")
        assert not client.was_reset


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_client_that_sends_and_never_reads_is_stopped(size: int) -> None:
    """It asks for more and more, and takes no answer: nothing heaps up here."""
    served: list[None] = []

    def handler(request: Request) -> bytes:
        served.append(None)
        return bytes(size)

    with wire(NativeHandler, handler) as site:
        client = site.connect(receive_buffer=4096)
        client.reading = False
        before = memory_bytes()
        send_until_stopped(client, GET * 5000, lambda: len(served))
        assert memory_bytes() - before < 8_000_000
        n_served = len(served)
        read_on(client)
        site.turn_until(lambda: len(served) > n_served)


def send_until_stopped(
    client: Client, many: bytes, progress: Callable[[], int] = lambda: 0
) -> None:
    """Send requests, over and over, until the server neither reads nor answers any more."""
    quiet = 0
    last = None
    for _ in range(3000):
        if len(client.unsent) < len(many):
            client.send(many)
        client.wire.turn()
        now = len(client.unsent), progress()
        quiet = quiet + 1 if now == last else 0
        last = now
        if quiet == 10:
            return
    raise AssertionError("it was never stopped")


def test_one_read_of_pipelined_requests_is_not_answered_all_at_once() -> None:
    """64 KiB of requests fit into one read; their answers would fill gigabytes."""
    served = []

    def handler(request: Request) -> bytes:
        served.append(None)
        return bytes(1_000_000)

    with wire(NativeHandler, handler) as site:
        client = site.connect(receive_buffer=4096)
        client.reading = False
        client.send(GET * 2000)
        for _ in range(20):
            site.turn()
        assert 0 < len(served) < 20


def test_requests_that_wait_for_a_running_one_are_bounded() -> None:
    release = threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        release.wait()
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    with wire(WsgiHandler, app, threads=1) as site:
        try:
            client = site.connect()
            before = memory_bytes()
            client.send(get(b"/first"))
            send_until_stopped(client, get(b"/more") * 5000)
            assert memory_bytes() - before < 8_000_000
        finally:
            release.set()
        assert client.response().body == b"/first"
        assert client.response().body == b"/more"
