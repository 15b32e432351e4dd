"""connection.pyx: early answers, expectations, half-closes, and whose bytes are whose.

What is sent and answered in good order stands in the conformance table; here is
what depends on when something comes, and what is left behind.  Who stops whom is
in test_backpressure.py, how it all ends in test_drain.py.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conformance.reading import read
from connection_parts import (
    CHUNKED,
    EXPECT,
    GET,
    Blocks,
    Reader,
    Slow,
    get,
    gone,
    path_of,
    post,
    read_on,
    reader_site,
    slow_site,
    turn_until_called,
)
from harness import Client, NotWhole, Wire, wire

from fastcluster.native import NativeHandler
from fastcluster.request import Request
from fastcluster.wsgi import WsgiHandler

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


@pytest.fixture
def reader() -> Iterator[tuple[Reader, Wire]]:
    with reader_site() as both:
        yield both


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
    sent = {
        b"/stream": get(b"/stream"),
        b"/many": GET * 50,
        b"/bad": GET + b"BREW / HTTP/1.1\r\n\r\n",
    }
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


@pytest.fixture
def slow() -> Iterator[tuple[Slow, Wire]]:
    with slow_site() as both:
        yield both


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
def test_a_body_without_a_length_is_reset_when_its_application_fails(interface: str) -> None:
    """HTTP/1.0 shows the end of a body by the close: only a reset says that it is none."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"part"
        raise RuntimeError("broken on purpose")

    def handler(request: Request) -> Iterator[bytes]:
        yield b"part"
        raise RuntimeError("broken on purpose")

    kind = (NativeHandler, handler) if interface == "native" else (WsgiHandler, app)
    with wire(*kind) as site:
        client = site.connect()
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        site.turn_until(lambda: client.eof)
        assert client.was_reset


# ---- what is left behind


def test_a_closed_server_has_closed_all_and_told_the_handlers() -> None:
    blocks = Blocks(10**9, 20_000)
    site = Wire(NativeHandler, lambda request: blocks)
    silent, in_head, streaming = (site.connect(receive_buffer=4096) for _ in range(3))
    silent.send(b"")
    in_head.send(GET[:-2])
    streaming.reading = False
    streaming.send(GET)
    site.turn_until(lambda: blocks.given > 3 and site.server.n_connections == 3)
    site.close()
    assert blocks.closed == 1
    assert site.server.n_connections == 0


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
