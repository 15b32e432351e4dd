"""A server that drains: nothing new, all that was accepted is served, and no client is reset."""

from collections.abc import Callable, Iterator

import pytest
from conformance.reading import read
from connection_parts import (
    GET,
    Blocks,
    Slow,
    get,
    path_of,
    post,
    read_on,
    slow_site,
    turn_until_called,
)
from harness import Wire, wire

from fastcluster.native import NativeHandler


@pytest.fixture
def slow() -> Iterator[tuple[Slow, Wire]]:
    with slow_site() as both:
        yield both


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
