"""Deadlines: what is waited for, how long, and that trickling bytes buy no time.

The clock is the real one, so these tests take as long as the timeouts they set,
some tenths of a second; that nothing happens too early is looked at, too.
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conformance.reading import read
from harness import Client, Wire, wire

from fastcluster.native import NativeHandler
from fastcluster.request import Request

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

SHORT_S = 0.3
# The wheel turns by 64 ms, and the coarse clock may lag.
EARLY_S = 0.02
LATE_S = 2.0


def answer(request: Request) -> object:
    if request.path == "/stream":
        return (b"x" * 20_000 for _ in range(100_000))
    return b"%d" % len(request.read())


Site = Callable[..., Wire]


@pytest.fixture
def serve(caplog: pytest.LogCaptureFixture) -> Iterator[Site]:
    """serve(**timeouts): a server whose other deadlines are far away."""
    caplog.set_level(logging.INFO, "fastcluster")
    wires: list[Wire] = []

    def start(**timeouts: Any) -> Wire:
        far = dict.fromkeys(
            ["timeout_keep_alive_s", "timeout_head_s", "timeout_body_s", "timeout_write_s"], 50.0
        )
        wires.append(Wire(NativeHandler, answer, **{**far, **timeouts}))
        return wires[-1]

    yield start
    for opened in wires:
        opened.close()


def wait_for_end(client: Client, since: float, after_s: float) -> None:
    """Turn until the client's connection ends; that has to be in time and not before."""
    client.wire.turn_until(lambda: client.eof, seconds=after_s + LATE_S)
    assert time.monotonic() - since >= after_s - EARLY_S


def trickle(client: Client, piece: bytes, seconds: float) -> None:
    """Send a piece every 20 ms until the connection ends."""
    started = time.monotonic()
    while not client.eof:
        assert time.monotonic() - started < seconds
        client.send(piece)
        at = time.monotonic() + 0.02
        client.wire.turn_until(lambda: client.eof or time.monotonic() > at)  # noqa: B023


# ---- between requests


def test_an_idle_connection_is_closed_without_a_word(
    serve: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site = serve(timeout_keep_alive_s=SHORT_S)
    client = site.connect()
    client.request(GET)
    wait_for_end(client, time.monotonic(), SHORT_S)
    assert (client.was_reset, client.received, caplog.messages) == (False, b"", [])


def test_each_request_starts_the_wait_anew(serve: Site) -> None:
    site = serve(timeout_keep_alive_s=SHORT_S)
    client = site.connect()
    started = time.monotonic()
    while time.monotonic() - started < 3 * SHORT_S:
        assert client.request(GET).status == 200
        at = time.monotonic() + SHORT_S / 3
        site.turn_until(lambda: time.monotonic() > at)  # noqa: B023
    wait_for_end(client, time.monotonic() - SHORT_S / 3, SHORT_S)


def test_keep_alive_of_no_seconds_closes_soon(serve: Site) -> None:
    site = serve(timeout_keep_alive_s=0)
    client = site.connect()
    assert client.request(GET).status == 200
    wait_for_end(client, time.monotonic(), 0)


def test_a_connection_that_never_speaks_is_closed_without_a_word(
    serve: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site = serve(timeout_head_s=SHORT_S)
    client = site.connect()
    started = time.monotonic()
    site.turn()
    wait_for_end(client, started, SHORT_S)
    assert (client.was_reset, client.received, caplog.messages) == (False, b"", [])


def test_empty_lines_are_no_request(serve: Site) -> None:
    """Some clients send one after a body; a 408 would be taken for the next answer."""
    site = serve(timeout_keep_alive_s=2 * SHORT_S, timeout_head_s=SHORT_S)
    client = site.connect()
    client.request(GET)
    for byte in (b"\r", b"\n"):
        client.send(byte)
        site.turn()
    wait_for_end(client, time.monotonic(), 2 * SHORT_S)
    assert client.received == b""


# ---- heads


@pytest.mark.parametrize("start", [b"G", GET[:-1], b"GET / HTTP/1.1\r\nX: a", b"\r"])
@pytest.mark.parametrize("first", [True, False])
def test_a_head_that_does_not_end_is_a_408(
    serve: Site, start: bytes, first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    site = serve(timeout_head_s=SHORT_S)
    client = site.connect()
    if not first:
        client.request(GET)
    client.send(start)
    since = time.monotonic()
    site.turn()
    wait_for_end(client, since, SHORT_S)
    seen = read(client.received)
    assert (seen.status, seen.fields["connection"], client.was_reset) == (408, "close", False)
    assert len(caplog.messages) == 1


def test_a_trickling_head_buys_no_time(serve: Site) -> None:
    site = serve(timeout_head_s=SHORT_S)
    client = site.connect()
    client.send(GET[:-2])
    trickle(client, b"X: a\r\n", SHORT_S + LATE_S)
    assert read(client.received).status == 408


def test_a_slow_head_in_time_is_answered(serve: Site) -> None:
    site = serve(timeout_head_s=1.0)
    client = site.connect()
    for byte in GET:
        client.send(bytes([byte]))
        at = time.monotonic() + 0.01
        site.turn_until(lambda: time.monotonic() > at)  # noqa: B023
    assert client.response().status == 200


def test_the_time_of_a_pipelined_head_is_its_own(serve: Site) -> None:
    """It begins with the head's first byte, however long the connection is there."""
    site = serve(timeout_head_s=SHORT_S)
    client = site.connect()
    client.send(GET[:5])
    for _ in range(4):
        at = time.monotonic() + SHORT_S / 2
        site.turn_until(lambda: time.monotonic() > at)  # noqa: B023
        client.send(GET[5:] + GET[:5])
        assert client.response().status == 200
    wait_for_end(client, time.monotonic(), SHORT_S)
    assert read(client.received).status == 408


# ---- bodies


@pytest.mark.parametrize("start", [POST + b"Content-Length: 9\r\n\r\n", CHUNKED])
@pytest.mark.parametrize("more", [b"", b"1\r\na\r\n"])
def test_a_body_that_stops_is_a_408(
    serve: Site, start: bytes, more: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    site = serve(timeout_body_s=SHORT_S)
    client = site.connect()
    client.send(start + more)
    since = time.monotonic()
    site.turn()
    wait_for_end(client, since, SHORT_S)
    seen = read(client.received)
    assert (seen.status, seen.fields["connection"], client.was_reset) == (408, "close", False)
    assert len(caplog.messages) == 1


def test_a_body_that_makes_progress_is_waited_for(serve: Site) -> None:
    site = serve(timeout_body_s=SHORT_S)
    client = site.connect()
    client.send(POST + b"Content-Length: 12\r\n\r\n")
    for _ in range(12):
        client.send(b"a")
        at = time.monotonic() + SHORT_S / 4
        site.turn_until(lambda: time.monotonic() > at)  # noqa: B023
    assert client.response().body == b"12"


@pytest.mark.parametrize("frame", [b"1;" + b"a" * 10, b"0\r\nX: aaaaaaaaaaaaaaaaaaaa"])
def test_what_frames_a_body_is_no_progress(serve: Site, frame: bytes) -> None:
    site = serve(timeout_body_s=SHORT_S)
    client = site.connect()
    client.send(CHUNKED + frame)
    trickle(client, b"a", SHORT_S + LATE_S)
    assert read(client.received).status == 408


def test_a_client_that_waits_for_100_is_not_hurried(serve: Site) -> None:
    site = serve(timeout_body_s=SHORT_S)
    client = site.connect()
    client.send(POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    site.turn_until(lambda: client.received)
    assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.received = b""
    assert client.request(b"ab").body == b"2"


# ---- responses


def test_a_client_that_takes_nothing_is_reset(
    serve: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site = serve(timeout_write_s=SHORT_S)
    client = site.connect(receive_buffer=4096)
    client.reading = False
    client.send(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n")
    since = time.monotonic()
    site.turn_until(lambda: site.server.n_connections == 1)
    site.turn_until(lambda: site.server.n_connections == 0, seconds=SHORT_S + LATE_S)
    assert time.monotonic() - since >= SHORT_S - EARLY_S
    client.reading = True
    site.turn_until(lambda: client.eof)
    assert client.was_reset
    assert [line for line in caplog.messages if "took nothing" in line] == caplog.messages
    assert len(caplog.messages) == 1


def test_a_client_that_takes_a_little_is_waited_for(serve: Site) -> None:
    site = serve(timeout_write_s=SHORT_S)
    client = site.connect(receive_buffer=4096)
    client.reading = False
    client.send(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n")
    started = time.monotonic()
    while time.monotonic() - started < 4 * SHORT_S:
        client.reading = True
        site.turn()
        client.reading = False
        client.received = b""
        at = time.monotonic() + SHORT_S / 3
        site.turn_until(lambda: time.monotonic() > at)  # noqa: B023
    assert site.server.n_connections == 1


def test_bytes_of_the_client_do_not_help_it(serve: Site) -> None:
    """It sends pipelined requests, and takes no answer."""
    site = serve(timeout_write_s=SHORT_S)
    client = site.connect(receive_buffer=4096)
    client.reading = False
    client.send(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n")
    site.turn_until(lambda: site.server.n_connections == 1)
    started = time.monotonic()
    while site.server.n_connections:
        assert time.monotonic() - started < SHORT_S + LATE_S
        client.send(GET)
        at = time.monotonic() + 0.02
        site.turn_until(lambda: time.monotonic() > at)  # noqa: B023


# ---- after the last answer


def test_lingering_ends(serve: Site) -> None:
    """A client that keeps its side open gets two seconds."""
    site = serve()
    client = site.connect()
    client.send(b"BREW / HTTP/1.1\r\n\r\n")
    site.turn_until(lambda: client.eof)
    assert site.server.n_connections == 1
    since = time.monotonic()
    site.turn_until(lambda: site.server.n_connections == 0, seconds=2 + LATE_S)
    assert time.monotonic() - since >= 1.9


def test_a_client_that_sends_on_and_on_does_not_linger_longer(serve: Site) -> None:
    site = serve()
    client = site.connect()
    client.send(b"BREW / HTTP/1.1\r\n\r\n")
    site.turn_until(lambda: client.eof)
    since = time.monotonic()
    while site.server.n_connections:
        assert time.monotonic() - since < 2 + LATE_S
        client.send(b"x")
        at = time.monotonic() + 0.02
        site.turn_until(lambda: time.monotonic() > at)  # noqa: B023


def test_a_client_that_floods_does_not_linger_at_all(serve: Site) -> None:
    site = serve()
    client = site.connect()
    client.send(b"BREW / HTTP/1.1\r\n\r\n")
    site.turn_until(lambda: client.eof)
    since = time.monotonic()
    client.send(b"x" * 20_000_000)
    site.turn_until(lambda: site.server.n_connections == 0)
    assert time.monotonic() - since < 1.5


# ---- many at once


def test_deadlines_of_many_connections(serve: Site) -> None:
    site = serve(timeout_head_s=SHORT_S, timeout_keep_alive_s=3 * SHORT_S)
    idle = [site.connect() for _ in range(50)]
    for client in idle:
        client.request(GET)
    slow = [site.connect() for _ in range(50)]
    for client in slow:
        client.send(GET[:5])
    site.turn()
    site.turn_until(lambda: all(client.eof for client in slow), seconds=SHORT_S + LATE_S)
    assert {read(client.received).status for client in slow} == {408}
    assert not any(client.eof for client in idle)
    site.turn_until(lambda: all(client.eof for client in idle), seconds=3 * SHORT_S + LATE_S)
    assert {client.received for client in idle} == {b""}


def test_a_guest_loop_is_woken_by_a_deadline() -> None:
    """turn(0) arms a timer in the epoll descriptor, or an asyncio loop would sleep on."""
    import select

    with wire(NativeHandler, answer, timeout_head_s=SHORT_S) as site:
        client = site.connect()
        client.send(GET[:5])
        site.turn()
        started = time.monotonic()
        while not client.eof:
            ready = select.select([site.server.fileno()], [], [], 5)[0]
            assert ready, "the descriptor never became readable"
            site.turn()
        assert read(client.received).status == 408
        assert time.monotonic() - started < SHORT_S + LATE_S
