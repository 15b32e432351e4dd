"""The protocol's side of a WebSocket: backpressure, closing, pings, drain."""

import asyncio
import itertools
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest
from asgi_parts import LOOPS, AsgiWire, Message, Scope, asgi_wire
from websocket_parts import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    Frame,
    Peer,
    binary,
    close,
    echo,
    errors,
    frame,
    handshake,
    message,
    recording,
    skip,
    text,
)

ACCEPT = {"type": "websocket.accept"}
CLOSE_MESSAGE = {"type": "websocket.close"}


@pytest.fixture(params=LOOPS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ---- backpressure


@pytest.fixture
def small_buffers() -> Callable[[AsgiWire], None]:
    def shrink(wire: AsgiWire) -> None:
        # Connections inherit it, so little lies in the kernel.
        wire.listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        wire.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)

    return shrink


@pytest.mark.parametrize("size", [0, 10, 1000, 100_000])
def test_a_client_is_stopped_while_nobody_receives(
    size: int, small_buffers: Callable[[AsgiWire], None]
) -> None:
    gate = asyncio.Event()
    received: list[int] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await gate.wait()
        while (got := await receive())["type"] == "websocket.receive":
            received.append(len(got["bytes"]))

    with asgi_wire(app) as wire:
        small_buffers(wire)
        peer = Peer(wire)
        peer.client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        one = binary(b"x" * size)
        count = 2_000_000 // len(one)
        peer.send(*[one] * count)
        before = -1
        while before != len(peer.client.unsent):
            before = len(peer.client.unsent)
            wire.run(0.03)
        assert 2_000_000 - before < 700_000, "the server has read on"
        gate.set()
        wire.turn_until(lambda: len(received) == count)
        assert received == [size] * count
        peer.leave()


def test_pings_are_answered_though_messages_wait() -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await gate.wait()

    with asgi_wire(app) as wire:
        peer = Peer(wire)
        peer.send(*[text("a")] * 20, frame(PING, b"1"))
        assert peer.next() == Frame(PONG, b"1")
        gate.set()


def test_send_waits_while_the_client_takes_nothing(
    small_buffers: Callable[[AsgiWire], None], kind: str
) -> None:
    sent: list[int] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        for i in range(500):
            await send(message(bytes([i & 255]) * 10_000))
            sent.append(i)

    with asgi_wire(app, kind=kind) as wire:
        small_buffers(wire)
        peer = Peer(wire, client=wire.connect(receive_buffer=8192))
        peer.client.reading = False
        peer.send(text("go"))
        before = -1
        while before != len(sent):
            before = len(sent)
            wire.run(0.03)
        assert 1 < len(sent) < 100, "the server has kept what nobody takes"
        peer.client.reading = True
        for i in range(500):
            assert peer.next() == Frame(BINARY, bytes([i & 255]) * 10_000)
        assert peer.next().code == 1000


def test_a_send_that_waits_is_told_of_the_loss(
    small_buffers: Callable[[AsgiWire], None], caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        try:
            while True:
                await send(message(b"x" * 10_000))
        except OSError:
            ended.append((await receive())["type"])
            raise

    with asgi_wire(app) as wire:
        small_buffers(wire)
        client = wire.connect(receive_buffer=8192)
        client.send(handshake())
        client.reading = False
        wire.run(0.1)
        assert wire.tasks and not ended
        client.close(reset=True)
        wire.turn_until(lambda: not wire.tasks)
    assert ended == ["websocket.disconnect"]
    assert errors(caplog) == []


def test_pongs_do_not_pile_up(small_buffers: Callable[[AsgiWire], None]) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        await send(message(b"x" * 1_000_000))
        await receive()

    with asgi_wire(app) as wire:
        small_buffers(wire)
        peer = Peer(wire, client=wire.connect(receive_buffer=8192))
        peer.client.reading = False
        peer.send(text("go"))
        wire.run()
        pings = 20_000
        peer.send(*[frame(PING, b"%0100d" % i) for i in range(pings)])
        wire.turn_until(lambda: not peer.client.unsent)
        wire.run()
        peer.client.reading = True
        assert len(peer.next().payload) == 1_000_000
        pongs = []
        while not pongs or pongs[-1].payload != b"%0100d" % (pings - 1):
            pongs.append(peer.next())
        assert {pong.opcode for pong in pongs} == {PONG}
        # Of those that came while the client took nothing, the last.
        assert len(pongs) < pings / 2
        peer.leave()


@pytest.mark.parametrize("how", ["break a rule", "close", "application"])
def test_an_ending_while_the_client_takes_nothing(
    how: str, small_buffers: Callable[[AsgiWire], None]
) -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        sending = asyncio.create_task(send(message(b"x" * 1_000_000)))
        await gate.wait()
        if how == "application":
            await send(CLOSE_MESSAGE)
        await asyncio.gather(sending, return_exceptions=True)

    with asgi_wire(app) as wire:
        small_buffers(wire)
        peer = Peer(wire, client=wire.connect(receive_buffer=8192))
        peer.client.reading = False
        peer.send(text("go"))
        wire.run()
        gate.set()
        if how != "application":
            peer.send(frame(7) if how == "break a rule" else close(1000))
        wire.run()
        peer.client.reading = True
        assert len(peer.next().payload) == 1_000_000
        assert peer.next().code == (1002 if how == "break a rule" else 1000)
        if how == "application":
            peer.send(close(1000))
        assert peer.rest() == []


# ---- pings


def test_a_client_that_answers_pings_stays() -> None:
    with asgi_wire(echo, ws_ping_interval_s=30, ws_ping_timeout_s=20) as wire:
        peer = Peer(wire)
        for _ in range(3):
            skip(wire, 29)
            wire.run()
            peer.pull()
            assert peer.frames == []
            skip(wire, 1.5)
            ping = peer.next()
            assert ping.opcode == PING
            peer.send(frame(PONG, ping.payload))
            wire.run(0.01)
        peer.leave()


@pytest.mark.parametrize(("interval", "timeout"), [(20, 20), (5, 20), (30, 10)])
def test_a_client_that_does_not_answer_is_gone(interval: float, timeout: float) -> None:
    seen: list[Message] = []
    with asgi_wire(recording(seen), ws_ping_interval_s=interval, ws_ping_timeout_s=timeout) as wire:
        peer = Peer(wire)
        skip(wire, interval + 0.1)
        assert peer.next().opcode == PING
        skip(wire, timeout - 0.5)
        wire.run()
        peer.pull()
        assert peer.frames == [] and not seen
        skip(wire, 0.6)
        assert peer.closed() == (1011, b"no answer to a ping")
        wire.turn_until(lambda: not wire.tasks)
        assert [one["code"] for one in seen] == [1011]


def test_whatever_the_client_sends_shows_that_it_is_there() -> None:
    with asgi_wire(echo) as wire:
        peer = Peer(wire)
        skip(wire, 20.1)
        assert peer.next().opcode == PING
        # The first piece of a long message, which no pong can interrupt.
        peer.send(frame(BINARY, b"x", length=100_000))
        wire.run()
        skip(wire, 19.9)
        wire.run()
        skip(wire, 0.2)
        assert peer.next().opcode == PING
        peer.client.close()


def test_a_client_that_we_have_stopped_is_not_gone() -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await gate.wait()
        await echo_rest(receive, send)

    async def echo_rest(receive: Any, send: Any) -> None:
        while (await receive())["type"] == "websocket.receive":
            pass

    with asgi_wire(app) as wire:
        peer = Peer(wire)
        peer.send(*[binary(b"x" * 60_000)] * 5)
        for _ in range(5):
            wire.run()
            skip(wire, 20.1)
        wire.run()
        assert not peer.client.eof
        gate.set()
        wire.run()
        peer.send(close(1000))
        assert peer.rest()[-1].code == 1000


@pytest.mark.parametrize("off", ["ws_ping_interval_s", "ws_ping_timeout_s"])
def test_pings_can_be_switched_off(off: str) -> None:
    with asgi_wire(echo, **{off: 0}) as wire:
        peer = Peer(wire)
        for _ in range(4):
            skip(wire, 20.1)
            wire.run()
        peer.pull()
        assert {one.opcode for one in peer.frames} <= {PING}
        assert len(peer.frames) == (4 if off == "ws_ping_timeout_s" else 0)
        assert not peer.client.eof
        peer.frames.clear()
        peer.leave()


# ---- drain


def test_clients_are_told_one_by_one_when_the_server_drains() -> None:
    with asgi_wire(echo, timeout_graceful_s=100, ws_ping_interval_s=0) as wire:
        peers = [Peer(wire) for _ in range(40)]
        wire.server.drain(True)
        counts = []
        for _ in range(8):
            wire.run(0.02)
            for peer in peers:
                peer.pull()
            counts.append(sum(bool(peer.frames) for peer in peers))
            skip(wire, 10)
        assert counts[0] <= 2
        assert all(later - sooner < 20 for sooner, later in itertools.pairwise(counts))
        assert counts[-1] == 40, "all are told within seven tenths of the time"
        for peer in peers:
            assert peer.next().code == 1001
            peer.send(close(1001))
            peer.rest()
            peer.client.close()
        wire.turn_until(lambda: wire.server.drained)


def test_a_client_accepted_while_the_server_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()
    seen: list[Message] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await gate.wait()
        await send(ACCEPT)
        seen.append(await receive())

    monkeypatch.setattr(random, "random", lambda: 0.5)
    with asgi_wire(app, timeout_graceful_s=10) as wire:
        client = wire.connect()
        client.send(handshake())
        wire.turn_until(lambda: wire.tasks)
        wire.server.drain(False)
        wire.server.drain(True)
        gate.set()
        peer = Peer.of(client, client.response())
        skip(wire, 3.4)
        wire.run()
        peer.pull()
        assert peer.frames == []
        skip(wire, 0.2)
        assert peer.next().code == 1001
        peer.send(close(1001, b"ok"))
        wire.turn_until(lambda: not wire.tasks)
        assert seen == [{"type": "websocket.disconnect", "code": 1001, "reason": "ok"}]


def test_a_restart_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.0)
    raised: list[OSError] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        while True:
            try:
                await send(message("tick"))
            except OSError as error:
                raised.append(error)
                return
            await asyncio.sleep(0.001)

    with asgi_wire(app) as wire:
        peer = Peer(wire)
        wire.server.drain(False)
        while (answer := peer.next()).opcode != CLOSE:
            pass
        assert answer.code == 1012
        wire.turn_until(lambda: raised)
        peer.send(close(1012))
        peer.rest()
        peer.client.close()
        wire.turn_until(lambda: wire.server.drained)
    assert "1012" in str(raised[0])


def test_cancelled_when_the_time_is_over(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await asyncio.sleep(1000)

    with asgi_wire(app) as wire:
        peer = Peer(wire)
        wire.server.drain(True)
        wire.handler.cancel_all()  # type: ignore[attr-defined]
        assert peer.next().code == 1001
        assert not wire.tasks
    assert errors(caplog) == []


# ---- closing


@pytest.mark.parametrize("unread", [0, 1000])
def test_a_client_that_does_not_answer_a_close_is_left(unread: int) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        while not wire.loop.time() > until:
            await asyncio.sleep(0.001)
        await send(CLOSE_MESSAGE)
        assert (await receive())["code"] == 1006

    with asgi_wire(app) as wire:
        until = wire.loop.time() + 5
        peer = Peer(wire)
        peer.send(*[text("unread")] * unread)
        wire.run()
        skip(wire, 6)
        assert peer.next().opcode == CLOSE
        skip(wire, 9.5)
        wire.run()
        assert not peer.client.eof
        skip(wire, 0.6)
        assert peer.rest() == []
        wire.turn_until(lambda: not wire.tasks)


def test_an_answer_is_heard_behind_messages_that_nobody_receives() -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await gate.wait()
        await send(CLOSE_MESSAGE)

    with asgi_wire(app, ws_max_queue=1) as wire:
        peer = Peer(wire)
        peer.send(*[binary(b"x" * 1000)] * 3000)
        wire.run()
        gate.set()
        peer.send(close(1000))
        assert peer.closed() == (1000, b"")
