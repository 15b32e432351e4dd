"""Attacks: every limit is tried by sending until the server refuses, and memory is measured.

Many attackers at once make a leak of theirs larger than the noise: what one
limit allows is some KiB a client, and what they send is many MiB.
"""

import gc
import resource
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from conformance.reading import Incomplete, read
from connection_parts import memory_bytes
from harness import Client, Wire, open_descriptors, wire

from fastcluster.config import Config
from fastcluster.native import NativeHandler
from fastcluster.request import Request
from fastcluster.wsgi import WsgiHandler

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

ATTACKERS = 40
PIECE_BYTES = 16_384
MOST_BYTES = 8 << 20  # that one attacker sends; no limit of ours is near it

# What an attacker may cost: a head of 64 KiB in a buffer that grows by doubling, and
# the room for the read that goes too far.
COST_BYTES = 200_000


def read_all(request: Request) -> bytes:
    return b"%d" % len(request.read())


@pytest.fixture
def site() -> Iterator[Wire]:
    with wire(NativeHandler, read_all, timeout_head_s=60, timeout_keep_alive_s=60) as opened:
        yield opened


def crowd(site: Wire, n: int) -> list[socket.socket]:
    """Return so many connections, accepted by the server; more than its queue holds."""
    sockets: list[socket.socket] = []
    while len(sockets) < n:
        sockets.append(socket.create_connection(site.listening.getsockname()))
        if len(sockets) % 64 == 0 or len(sockets) == n:
            while site.server.turn(0):
                pass
    return sockets


def status_of(client: Client) -> int | None:
    """Return the status of the first answer that the client has, if it has one."""
    try:
        return read(client.received, eof=client.eof).status
    except Incomplete as incomplete:
        return incomplete.partial.status if incomplete.partial else None


def attack(site: Wire, start: bytes, piece: bytes) -> tuple[int, int]:
    """Send a piece, over and over, from many clients until all of them are refused.

    Returns the largest number of bytes that one could send, and what each of
    them cost in memory.
    """
    clients = [site.connect() for _ in range(ATTACKERS)]
    for client in clients:
        client.send(start)
    site.turn()
    before = highest = memory_bytes()
    sent = 0
    while any(status_of(client) is None and not client.eof for client in clients):
        assert sent < MOST_BYTES, "they were never refused"
        for client in clients:
            if len(client.unsent) < len(piece) and not client.eof:
                client.send(piece)
        sent += len(piece)
        site.turn()
        highest = max(highest, memory_bytes())
    site.turn_until(lambda: all(client.eof for client in clients))
    assert len({status_of(client) for client in clients}) == 1
    return sent, (highest - before) // ATTACKERS


def filled(text: bytes) -> bytes:
    return text * (PIECE_BYTES // len(text))


@pytest.mark.parametrize(
    ("start", "piece", "status"),
    [
        pytest.param(b"", filled(b"A"), 414, id="a method without an end"),
        pytest.param(b"GET /", filled(b"a"), 414, id="a target without an end"),
        pytest.param(b"GET / HTTP/1.1\r\n", filled(b"a"), 431, id="a name without an end"),
        pytest.param(b"GET / HTTP/1.1\r\nX: ", filled(b"a"), 431, id="a value without an end"),
        pytest.param(b"GET / HTTP/1.1\r\nX:", filled(b" "), 431, id="blanks without an end"),
        pytest.param(b"GET / HTTP/1.1\r\n", filled(b"X: a\r\n"), 431, id="short fields"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"X: " + b"a" * 8000 + b"\r\n", 431, id="long fields"),
        pytest.param(b"", filled(b"\r\n"), 400, id="empty lines"),
        pytest.param(CHUNKED, filled(b"0"), 400, id="zeros before a size"),
        pytest.param(CHUNKED + b"1;", filled(b"a"), 400, id="an extension without an end"),
        pytest.param(CHUNKED, filled(b"1;" + b"a" * 200 + b"\r\nx\r\n"), 400, id="many extensions"),
        pytest.param(CHUNKED + b"0\r\n", filled(b"X: a\r\n"), 400, id="trailers"),
        pytest.param(CHUNKED + b"0\r\nX: ", filled(b"a"), 400, id="a trailer without an end"),
        pytest.param(CHUNKED + b"0\r\n", filled(b"a"), 400, id="a trailer's name without an end"),
    ],
)
def test_what_never_ends_is_refused(site: Wire, start: bytes, piece: bytes, status: int) -> None:
    client = site.connect()
    client.send(start)
    for _ in range(10):
        client.send(piece)
        site.turn()
    site.turn_until(lambda: client.eof)
    assert status_of(client) == status
    assert not client.was_reset
    sent, cost = attack(site, start, piece)
    assert sent <= 10 * PIECE_BYTES
    assert cost < COST_BYTES
    assert site.request(GET).status == 200


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        pytest.param(POST + b"Content-Length: 100000000\r\n\r\n", filled(b"a"), id="counted"),
        pytest.param(CHUNKED, b"4000\r\n" + filled(b"a") + b"\r\n", id="chunked"),
        pytest.param(CHUNKED, filled(b"1\r\na\r\n"), id="in chunks of a byte"),
    ],
)
def test_a_body_above_the_limit_is_refused(start: bytes, piece: bytes) -> None:
    with wire(NativeHandler, read_all, limit_request_body_bytes=300_000) as site:
        sent, cost = attack(site, start, piece)
        assert sent <= 300_000 * 6 + 10 * PIECE_BYTES
        # What was read before the limit belongs to the body, and is kept in memory.
        assert cost < 300_000 + COST_BYTES


def test_the_limit_is_of_the_whole_body_and_not_of_the_connection() -> None:
    with wire(NativeHandler, read_all, limit_request_body_bytes=1000) as site:
        client = site.connect()
        for _ in range(5):
            request = POST + b"Content-Length: 1000\r\n\r\n" + b"a" * 1000
            assert client.request(request).body == b"1000"
        assert client.request(POST + b"Content-Length: 1001\r\n\r\n").status == 413


@pytest.mark.parametrize("handler", ["native", "wsgi", "wsgi on threads"])
def test_a_large_body_lies_on_disk(handler: str) -> None:
    def app(environ: dict, start_response: Callable) -> list[bytes]:  # type: ignore[type-arg]
        size = sum(len(block) for block in iter(lambda: environ["wsgi.input"].read(65536), b""))
        start_response("200 OK", [])
        return [b"%d" % size]

    def count(request: Request) -> bytes:
        return b"%d" % sum(len(block) for block in request)

    size = 200_000_000
    kind = (NativeHandler, count) if handler == "native" else (WsgiHandler, app)
    with wire(*kind, threads=1 if "threads" in handler else 0) as site:
        client = site.connect()
        block = bytes(1_000_000)
        client.send(POST + b"Content-Length: %d\r\n\r\n" % size)
        before = highest = memory_bytes()
        for _ in range(size // len(block)):
            client.send(block)
            site.turn_until(lambda: not client.unsent)
            highest = max(highest, memory_bytes())
        assert client.response().body == b"%d" % size
        assert highest - before < 12_000_000


def test_a_body_in_chunks_of_a_byte_takes_no_more_than_its_bytes(site: Wire) -> None:
    client = site.connect()
    client.send(CHUNKED)
    before = memory_bytes()
    n = 0
    for _ in range(100):
        piece = filled(b"1;x\r\na\r\n")
        if n * 2 > 14_000:
            piece = filled(b"1\r\na\r\n")
        n += piece.count(b"a")
        client.send(piece)
        site.turn_until(lambda: not client.unsent)
    assert client.request(b"0\r\n\r\n").body == b"%d" % n
    assert memory_bytes() - before < 4_000_000


# ---- connections


def test_connections_above_the_limit_get_a_503() -> None:
    with wire(NativeHandler, read_all, limit_connections=5) as site:
        kept = [site.connect() for _ in range(5)]
        assert [client.request(GET).status for client in kept] == [200] * 5
        for _ in range(3):
            client = site.connect()
            site.turn_until(lambda: client.eof)  # noqa: B023
            seen = read(client.received)
            assert (seen.status, seen.fields["connection"], seen.rest) == (503, "close", b"")
            assert not client.was_reset
            client.close()
        assert [client.request(GET).status for client in kept] == [200] * 5
        kept.pop().close()
        site.turn_until(lambda: site.server.n_connections == 4)
        assert site.request(GET).status == 200


def test_a_503_outlives_the_request_that_was_sent_already() -> None:
    """The unread request must not turn the answer into a reset."""
    with wire(NativeHandler, read_all, limit_connections=1) as site:
        site.connect().request(GET)
        client = site.connect()
        client.send(GET * 100)
        site.turn_until(lambda: client.eof)
        assert not client.was_reset
        assert read(client.received).status == 503


def test_a_flood_of_connections_above_the_limit_ends() -> None:
    """Those that are told so hold descriptors, too; at some number they are only closed."""
    with wire(NativeHandler, read_all, limit_connections=5) as site:
        kept = [site.connect() for _ in range(5)]
        for client in kept:
            client.request(GET)
        site.turn()
        before = open_descriptors()
        flood = crowd(site, 400)
        assert site.server.n_connections <= 5 + 256
        for sock in flood:
            sock.close()
        site.turn_until(lambda: site.server.n_connections == 5)
        assert open_descriptors() == before
        assert [client.request(GET).status for client in kept] == [200] * 5


@pytest.mark.parametrize(
    ("soft", "wanted", "limit"),
    [(1024, 0, 755), (1024, 100, 100), (1024, 5000, 755), (256, 0, 140), (64, 0, 8)],
)
def test_the_limit_follows_from_that_of_descriptors(soft: int, wanted: int, limit: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        site = Wire(NativeHandler, read_all, limit_connections=wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    try:
        sockets = crowd(site, limit + 1)
        assert site.server.n_connections == limit + 1
        assert sockets[-1].recv(100).startswith(b"HTTP/1.1 503 ")
        for sock in sockets[:-1]:
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(100)
        for sock in sockets:
            sock.close()
    finally:
        site.close()


def test_idle_connections_are_small() -> None:
    """1.5 KiB is the aim at ten thousand; here are some hundreds, and a little room."""
    with wire(NativeHandler, read_all) as site:
        first = crowd(site, 100)
        gc.collect()
        before = memory_bytes()
        more = crowd(site, 600)
        for sock in more:
            sock.sendall(GET)
        while site.server.turn(0):
            pass
        for sock in more:
            assert sock.recv(1000)
        gc.collect()
        assert (memory_bytes() - before) / len(more) < 3000
        for sock in first + more:
            sock.close()


def test_many_requests_leave_nothing() -> None:
    with wire(NativeHandler, read_all) as site:
        client = site.connect()
        batch = GET * 500

        def play(batches: int) -> None:
            for _ in range(batches):
                client.send(batch)
                site.turn_until(lambda: client.received.count(b"HTTP/1.1 200 ") == 500)
                client.received = b""

        play(10)
        before = memory_bytes(), open_descriptors()
        play(60)
        assert open_descriptors() == before[1]
        assert memory_bytes() - before[0] < 500_000


def test_many_refusals_leave_nothing(site: Wire) -> None:
    bad = [
        b"BREW / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0",
        GET[:-2] + b" x\r\n\r\n",
        CHUNKED + b"x",
        POST + b"Expect: x\r\n\r\n",
        b"G" * 9000,
        GET + b"\0",
    ]

    def play(times: int) -> None:
        for _ in range(times):
            for data in bad:
                client = site.connect()
                client.send(data)
                site.turn_until(lambda: client.eof)  # noqa: B023
                client.close()
        site.turn_until(lambda: site.server.n_connections == 0)

    play(10)
    before = memory_bytes(), open_descriptors()
    play(100)
    assert open_descriptors() == before[1]
    assert memory_bytes() - before[0] < 500_000


def test_many_aborted_requests_leave_nothing(site: Wire) -> None:
    cut_off = [
        b"",
        b"GET / HT",
        GET[:-2],
        CHUNKED,
        CHUNKED + b"5\r\nab",
        GET,
        POST + b"Content-Length: 9\r\n\r\nab",
        GET + b"GET / HT",
    ]

    def play(times: int) -> None:
        for _ in range(times):
            for data in cut_off:
                for reset in (False, True):
                    client = site.connect()
                    client.send(data)
                    site.turn()
                    client.close(reset=reset)
                    site.turn()
        site.turn_until(lambda: site.server.n_connections == 0)

    play(20)
    before = memory_bytes(), open_descriptors()
    play(150)
    assert open_descriptors() == before[1]
    assert memory_bytes() - before[0] < 500_000


# ---- speed of bodies


def test_a_body_below_the_least_rate_is_refused() -> None:
    """240 bytes a second, after ten seconds; so this test takes as long."""
    with wire(NativeHandler, read_all, limit_body_rate=240) as site:
        slow, steady, chunked = (site.connect() for _ in range(3))
        slow.send(POST + b"Content-Length: 100000\r\n\r\n")
        steady.send(POST + b"Content-Length: 100000\r\n\r\n" + b"a" * 5000)
        chunked.send(CHUNKED)
        started = time.monotonic()
        for tick in range(150):
            slow.send(b"a")
            chunked.send(b"1\r\na\r\n")
            steady.send(b"a")
            site.turn_until(lambda: time.monotonic() - started > 0.1 * tick)  # noqa: B023
            if tick == 95:
                assert not (slow.received or chunked.received)
            if slow.eof and chunked.eof:
                break
        assert status_of(slow) == status_of(chunked) == 408
        assert steady.received == b""
        steady.send(b"a" * 100_000)
        site.turn_until(lambda: steady.received)
        assert status_of(steady) == 200


def test_every_limit_has_a_default() -> None:
    """A limit that is off by default would be none."""
    config = Config()
    assert config.limit_request_line_bytes == 8190
    assert config.limit_request_fields == 100
    assert config.limit_request_head_bytes == 65536
    assert config.limit_unread_body_bytes == 65536
    assert (config.timeout_keep_alive_s, config.timeout_head_s) == (75, 10)
    assert (config.timeout_body_s, config.timeout_write_s) == (60, 60)
