"""connection.pyx: one connection's life: early answers, backpressure, half-closes, drains.

What is sent and answered in good order stands in the conformance table; here is
what depends on when something comes, who stops whom, and what is left behind.
"""

import logging
import resource
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conformance.reading import read
from harness import Client, NotWhole, Wire, wire

from fastcluster.native import NativeHandler
from fastcluster.request import Request
from fastcluster.wsgi import WsgiHandler

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


# ---- answers that come before the body


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies that go to disk fail at their first byte, and are answered with 500 then."""

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)


@pytest.fixture
def early(full_disk: None) -> Iterator[Wire]:
    """A server that answers with 500 as soon as a body begins."""
    with wire(NativeHandler, path_of, body_memory_bytes=0) as site:
        yield site


@pytest.mark.parametrize("size", [2, 1000, 65536])
def test_the_rest_of_a_small_body_is_discarded(early: Wire, size: int) -> None:
    client = early.connect()
    assert client.request(post(size) + b"a").status == 500
    client.send(b"a" * (size - 1))
    assert client.request(get(b"/next")).body == b"/next"
    assert client.received == b""


def test_the_rest_of_chunks_is_discarded(early: Wire) -> None:
    client = early.connect()
    assert client.request(CHUNKED + b"2\r\na").status == 500
    client.send(b"b\r\n3\r\nabc\r\n0\r\nX: trailer\r\n\r\n")
    assert client.request(get(b"/next")).body == b"/next"


def test_the_rest_of_a_body_may_come_with_the_next_request(early: Wire) -> None:
    client = early.connect()
    assert client.request(post(3) + b"ab").status == 500
    assert client.request(b"c" + get(b"/next")).body == b"/next"


def test_a_large_rest_ends_the_connection_after_the_answer(early: Wire) -> None:
    """No reset overtakes the answer, although the client goes on sending."""
    client = early.connect()
    client.reading = False
    client.send(post(600_000) + b"a" * 600_000)
    early.turn_until(lambda: not client.unsent)
    client.reading = True
    early.turn_until(lambda: client.eof)
    assert not client.was_reset
    seen = read(client.received)
    assert (seen.status, seen.rest) == (500, b"")
    client.close()
    early.turn_until(gone(early))


def test_chunks_that_never_end_end_the_connection(early: Wire) -> None:
    client = early.connect()
    assert client.request(CHUNKED + b"1\r\na\r\n").status == 500
    for _ in range(40):
        client.send(b"1000\r\n" + b"a" * 4096 + b"\r\n")
    early.turn_until(lambda: client.eof)
    assert not client.was_reset


def test_a_rest_that_does_not_come_is_not_waited_for_long(early: Wire) -> None:
    client = early.connect()
    assert client.request(post(3) + b"a").status == 500
    early.turn_until(lambda: client.eof, seconds=3)
    assert (client.was_reset, client.received) == (False, b"")


@pytest.mark.parametrize("rest", [b"zz\r\n", b"\r\r"])
def test_a_rest_that_is_broken_is_no_second_answer(
    early: Wire, rest: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client = early.connect()
    assert client.request(CHUNKED + b"1\r\na").status == 500
    client.send(rest + get(b"/next"))
    early.turn_until(lambda: client.eof)
    assert (client.was_reset, client.received) == (False, b"")


def test_a_client_that_leaves_in_the_rest(early: Wire) -> None:
    client = early.connect()
    assert client.request(post(3) + b"a").status == 500
    client.close(reset=True)
    early.turn_until(gone(early))


def test_a_half_closed_client_gets_its_early_answer(early: Wire) -> None:
    client = early.connect()
    client.send(post(3) + b"a")
    client.shutdown()
    early.turn_until(lambda: client.eof)
    assert read(client.received).status == 500
    early.turn_until(gone(early))


# ---- Expect: 100-continue, by an application that reads when it likes


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


@pytest.fixture
def reader() -> Iterator[tuple[Reader, Wire]]:
    app = Reader()
    with wire(WsgiHandler, app, threads=2) as site:
        yield app, site
        app.may_read.release(1000)


EXPECT = b"Expect: 100-continue\r\n"


def test_100_is_sent_when_the_application_reads(reader: tuple[Reader, Wire]) -> None:
    app, site = reader
    client = site.connect()
    client.send(post(3, EXPECT))
    # Another's request is through, so this one's would be, too.
    assert site.request(GET).status == 200
    assert client.received == b""
    app.may_read.release()
    site.turn_until(lambda: client.received)
    assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.received = b""
    app.may_read.release()
    assert client.request(b"abc").body == b"ok"
    assert app.seen == [b"abc", b""]
    assert client.request(GET).body == b"ok"


def test_no_100_for_an_answer_without_reading(reader: tuple[Reader, Wire]) -> None:
    """The client may send its body or leave it out: the connection cannot go on."""
    _, site = reader
    client = site.connect()
    head = b"PUT /refuse HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n" + EXPECT + b"\r\n"
    answer = client.request(head)
    assert (answer.status, answer.get("connection")) == (403, "close")
    site.turn_until(lambda: client.eof)
    assert (client.was_reset, client.received) == (False, b"")


def test_a_body_sent_in_spite_of_a_refusal_is_no_request(reader: tuple[Reader, Wire]) -> None:
    """It came with its head, so it was taken, and the connection goes on behind it."""
    _, site = reader
    client = site.connect()
    head = b"PUT /refuse HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n" % len(GET)
    assert client.request(head + EXPECT + b"\r\n" + GET).status == 403
    assert client.request(GET).body == b"ok"
    assert client.received == b""


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

    kind = (NativeHandler, lambda request: iter(blocks)) if interface == "native" else (
        WsgiHandler, app)
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


# ---- whose bytes are whose


@pytest.mark.parametrize("interface", ["native", "wsgi", "wsgi on threads"])
@pytest.mark.parametrize("path", [b"/stream", b"/many", b"/bad"])
def test_what_a_client_left_behind_is_not_anothers(interface: str, path: bytes) -> None:
    """An answer that could not be sent is dropped, whatever of it was queued where."""
    blocks = Blocks(10**6, 1000)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> object:
        start_response("200 OK", [])
        return iter(blocks) if environ["PATH_INFO"] == "/stream" else [b"mine"]

    def handler(request: Request) -> object:
        return iter(blocks) if request.path == "/stream" else b"mine"

    kind = (NativeHandler, handler) if interface == "native" else (WsgiHandler, app)
    sent = {b"/stream": get(b"/stream"), b"/many": GET * 50, b"/bad": GET + b"BREW / HTTP/1.1\r\n\r\n"}
    with wire(*kind, threads=2 if "threads" in interface else 0) as site:
        for resets in (False, True):
            for _ in range(20):
                leaving, other = site.connect(), site.connect()
                site.turn()
                leaving.send(sent[path])
                leaving.close(reset=resets)
                other.send(GET)
                answer = other.response()
                assert (answer.status, answer.body, other.received) == (200, b"mine", b"")
                other.close()


def test_a_handler_that_leaves_the_loop_harms_nobody() -> None:
    """SystemExit goes through turn(); whoever goes on turning serves the others as before."""

    def handler(request: Request) -> bytes:
        if request.path == "/exit":
            raise SystemExit(3)
        return b"mine"

    with wire(NativeHandler, handler) as site:
        other, leaving = site.connect(), site.connect()
        assert other.request(GET).body == b"mine"
        leaving.send(GET + get(b"/exit"))
        with pytest.raises(SystemExit):
            site.turn_until(lambda: False)
        site.turn_until(lambda: leaving.eof)
        for _ in range(3):
            assert other.request(GET).body == b"mine"
            assert site.request(GET).body == b"mine"


# ---- half-closed clients, whose answer is not ready yet


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


@pytest.fixture
def slow() -> Iterator[tuple[Slow, Wire]]:
    app = Slow()
    with wire(WsgiHandler, app, threads=2) as site:
        yield app, site
        app.go.release(1000)


def turn_until_called(app: Slow, site: Wire) -> None:
    site.turn_until(lambda: app.called.acquire(blocking=False))


def test_a_half_closed_client_waits_for_a_slow_answer(slow: tuple[Slow, Wire]) -> None:
    app, site = slow
    client = site.connect()
    client.send(GET)
    client.shutdown()
    turn_until_called(app, site)
    for _ in range(5):
        site.turn()
    assert site.server.n_connections == 1
    app.go.release()
    site.turn_until(lambda: client.eof)
    assert read(client.received).body == b"slow"
    assert not client.was_reset


def test_a_half_closed_client_costs_no_turns(slow: tuple[Slow, Wire]) -> None:
    """Its socket says "end" for as long as it is there, and must not be asked again."""
    app, site = slow
    client = site.connect()
    client.send(GET)
    turn_until_called(app, site)
    client.shutdown()
    site.turn(50)
    assert site.server.turn(50) == 0


def test_pipelined_requests_of_a_half_closed_client(slow: tuple[Slow, Wire]) -> None:
    app, site = slow
    client = site.connect()
    client.send(GET * 3)
    client.shutdown()
    for _ in range(3):
        turn_until_called(app, site)
        app.go.release()
    site.turn_until(lambda: client.eof)
    rest = client.received
    for _ in range(3):
        seen = read(rest)
        assert seen.body == b"slow"
        rest = seen.rest
    assert (rest, client.was_reset) == (b"", False)


def test_a_half_closed_client_that_stops_reading() -> None:
    blocks = Blocks(200, 20_000)
    with wire(NativeHandler, lambda request: blocks) as site:
        client = site.connect(receive_buffer=4096)
        client.reading = False
        client.send(GET)
        client.shutdown()
        for _ in range(20):
            site.turn()
        assert blocks.given < 200
        read_on(client)
        site.turn_until(lambda: client.eof)
        assert len(read(client.received).body) == 4_000_000


def test_a_client_that_is_gone_is_noticed_while_its_answer_is_made(
    slow: tuple[Slow, Wire],
) -> None:
    app, site = slow
    client = site.connect()
    client.send(GET)
    turn_until_called(app, site)
    client.close(reset=True)
    site.turn_until(gone(site))
    app.go.release()
    assert site.request(b"BREW / HTTP/1.1\r\n\r\n").status == 501


def test_a_cut_off_body_never_reaches_a_handler() -> None:
    called = []
    with wire(NativeHandler, lambda request: called.append(None)) as site:
        for head in (post(3) + b"ab", CHUNKED + b"2\r\nab\r\n", CHUNKED + b"2\r\nab\r\n0\r\n"):
            client = site.connect()
            client.send(head)
            site.turn()
            client.close()
        site.turn_until(gone(site))
    assert called == []


# ---- bodies that end with the connection


@pytest.mark.parametrize("interface", ["native", "wsgi"])
def test_a_body_without_a_length_is_reset_when_its_request_breaks(interface: str) -> None:
    """HTTP/1.0 shows the end of a body by the close: only a reset says that it is none."""
    sent = threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"part"
        sent.wait()
        raise RuntimeError("broken on purpose")

    def handler(request: Request) -> Iterator[bytes]:
        yield b"part"
        raise RuntimeError("broken on purpose")

    kind = (NativeHandler, handler) if interface == "native" else (WsgiHandler, app)
    with wire(*kind) as site:
        sent.set()
        client = site.connect()
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        site.turn_until(lambda: client.eof)
        assert client.was_reset


# ---- draining


def drained(site: Wire) -> Callable[[], bool]:
    return lambda: site.server.drained


def test_a_server_without_connections_is_drained_at_once() -> None:
    with wire(NativeHandler, path_of) as site:
        assert not site.server.drained
        site.server.drain()
        assert site.server.drained


def test_a_drain_serves_what_was_accepted_and_not_read() -> None:
    with wire(NativeHandler, path_of) as site:
        clients = [site.connect() for _ in range(5)]
        site.turn_until(lambda: site.server.n_connections == 5)
        for client in clients:
            client.send(GET)
        site.server.drain()
        for client in clients:
            answer = client.response()
            assert (answer.status, answer.get("connection")) == (200, "close")
            site.turn_until(lambda: client.eof)  # noqa: B023
            assert not client.was_reset
            client.close()
        site.turn_until(drained(site))


def test_a_drain_gives_a_new_connection_time_for_its_request() -> None:
    with wire(NativeHandler, path_of) as site:
        client = site.connect()
        site.turn_until(lambda: site.server.n_connections == 1)
        site.server.drain()
        for _ in range(10):
            site.turn(5)
        assert client.request(GET).get("connection") == "close"
        client.close()
        site.turn_until(drained(site))


def test_a_drain_closes_idle_connections_in_good_order() -> None:
    with wire(NativeHandler, path_of) as site:
        client = site.connect()
        assert client.request(GET).get("connection") is None
        site.server.drain()
        site.turn_until(lambda: client.eof, seconds=3)
        assert (client.was_reset, client.received) == (False, b"")
        client.close()
        site.turn_until(drained(site))


def test_a_request_that_crosses_a_drain_is_answered() -> None:
    """The client had sent it before it could know."""
    with wire(NativeHandler, path_of) as site:
        client = site.connect()
        client.request(GET)
        site.server.drain()
        site.turn()
        answer = client.request(GET)
        assert (answer.status, answer.get("connection")) == (200, "close")
        client.close()
        site.turn_until(drained(site))


def test_a_drain_closes_connections_that_never_spoke() -> None:
    with wire(NativeHandler, path_of) as site:
        client = site.connect()
        site.turn_until(lambda: site.server.n_connections == 1)
        site.server.drain()
        site.turn_until(lambda: client.eof, seconds=5)
        assert (client.was_reset, client.received) == (False, b"")


def test_a_drain_waits_for_heads_bodies_and_answers(slow: tuple[Slow, Wire]) -> None:
    app, site = slow
    in_head, in_body, running = site.connect(), site.connect(), site.connect()
    in_head.send(GET[:-2])
    in_body.send(post(3) + b"ab")
    running.send(GET)
    turn_until_called(app, site)
    site.server.drain()
    for _ in range(3):
        site.turn()
    assert site.server.n_connections == 3
    in_head.send(GET[-2:])
    in_body.send(b"c")
    app.go.release(3)
    for client in (in_head, in_body, running):
        answer = client.response()
        assert (answer.body, answer.get("connection")) == (b"slow", "close")
        client.close()
    site.turn_until(drained(site))


def test_a_drain_ends_pipelining_after_one_answer() -> None:
    """The others were not begun; the client may send them again elsewhere."""
    with wire(NativeHandler, path_of) as site:
        client = site.connect()
        site.turn_until(lambda: site.server.n_connections == 1)
        client.send(get(b"/a") + get(b"/b"))
        site.server.drain()
        site.turn_until(lambda: client.eof)
        seen = read(client.received)
        assert (seen.body, seen.fields["connection"], seen.rest) == (b"/a", "close", b"")
        assert not client.was_reset


def test_a_drain_lets_a_stream_come_to_its_end() -> None:
    blocks = Blocks(500, 20_000)
    with wire(NativeHandler, lambda request: blocks) as site:
        client = site.connect(receive_buffer=4096)
        client.reading = False
        client.send(GET)
        site.turn_until(lambda: blocks.given)
        site.server.drain()
        read_on(client)
        seen = client.response()
        assert seen.body == b"x" * 10_000_000
        site.turn_until(lambda: client.eof, seconds=3)
        assert not client.was_reset


def test_a_drain_takes_nothing_new() -> None:
    with wire(NativeHandler, path_of) as site:
        site.server.drain()
        client = site.connect()
        client.send(GET)
        for _ in range(10):
            site.turn(5)
        assert site.server.n_connections == 0
        assert client.received == b""


def test_the_last_drain_takes_what_the_kernel_has_accepted() -> None:
    with wire(NativeHandler, path_of) as site:
        clients = [site.connect() for _ in range(100)]
        for client in clients:
            client.send(GET)
        site.server.drain(last=True)
        for client in clients:
            assert client.response().get("connection") == "close"


# ---- what is left behind


def test_a_closed_server_has_closed_all_and_told_the_handlers() -> None:
    blocks = Blocks(10**9, 20_000)
    site = Wire(NativeHandler, lambda request: blocks)
    streaming, idle, in_head = (site.connect(receive_buffer=4096) for _ in range(3))
    streaming.reading = False

    streaming.send(GET)
    in_head.send(GET[:-2])
    site.turn_until(lambda: blocks.given > 3)
    clients = list(site.clients)
    site.close()
    assert blocks.closed == 1
    assert site.server.n_connections == 0
    del clients


def test_no_log_line_for_clients_that_come_and_go(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastcluster")
    with wire(NativeHandler, path_of) as site:
        for data in (b"", GET, GET[:-2], post(3) + b"ab"):
            for reset in (False, True):
                client = site.connect()
                client.send(data)
                site.turn()
                client.close(reset=reset)
        site.turn_until(gone(site))
    assert caplog.messages == []


def test_not_whole_is_what_the_harness_says() -> None:
    """The harness itself has to fail where the server is wrong."""
    with wire(NativeHandler, path_of) as site:
        client: Client = site.connect()
        client.send(GET[:-2])
        client.shutdown()
        with pytest.raises(NotWhole):
            client.response()
