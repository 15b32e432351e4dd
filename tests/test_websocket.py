"""WebSockets of an ASGI application: messages, mistakes, endings, denials, and many of them."""

import asyncio
import gc
import resource
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgi_parts import LOOPS, AsgiWire, Message, Scope, asgi_wire, get
from harness import open_descriptors
from require import require_module
from websocket_parts import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
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
    text,
)

from fastcluster.websocket import WebSocket

ACCEPT = {"type": "websocket.accept"}
CLOSE_MESSAGE = {"type": "websocket.close"}


@pytest.fixture(params=LOOPS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ---- messages


def test_the_scope() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await receive()
        await send(CLOSE_MESSAGE)

    with asgi_wire(app, state={"a": 1}) as wire:
        client = wire.connect()
        client.request(handshake("Sec-WebSocket-Protocol: a", target="/x%20y?q=1"))
        [scope] = scopes
        assert scope["type"] == "websocket"
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
        assert scope["scheme"] == "ws"
        assert scope["http_version"] == "1.1"
        assert (scope["path"], scope["raw_path"]) == ("/x y", b"/x%20y")
        assert (scope["query_string"], scope["root_path"]) == (b"q=1", "")
        assert scope["subprotocols"] == ["a"]
        assert scope["state"] == {"a": 1}
        assert scope["extensions"] == {"websocket.http.response": {}}
        assert scope["client"] == client.socket.getsockname()
        assert (b"sec-websocket-version", b"13") in scope["headers"]
        assert "method" not in scope


def test_echo(kind: str) -> None:
    with asgi_wire(echo, kind=kind) as wire:
        peer = Peer(wire)
        for content in ["", "a", "κόσμε", "x" * 5000, "é" * 70000]:
            peer.send(text(content), binary(content.encode()))
            assert peer.next() == Frame(TEXT, content.encode())
            assert peer.next() == Frame(BINARY, content.encode())
        peer.leave()
        wire.turn_until(lambda: not wire.tasks)


def test_messages_are_received_as_they_are() -> None:
    seen: list[Message] = []
    with asgi_wire(recording(seen)) as wire:
        peer = Peer(wire)
        peer.send(text("a"), binary(b"b"), close(3000, b"gone"))
        assert peer.closed() == (3000, b"")
        wire.turn_until(lambda: not wire.tasks)
    assert seen == [
        {"type": "websocket.receive", "text": "a"},
        {"type": "websocket.receive", "bytes": b"b"},
        {"type": "websocket.disconnect", "code": 3000, "reason": "gone"},
    ]


@pytest.mark.parametrize("content", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
def test_kinds_of_bytes(content: Any) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await send({"type": "websocket.send", "bytes": content, "text": None})

    with asgi_wire(app) as wire:
        peer = Peer(wire)
        assert [peer.next(), peer.next()] == [Frame(BINARY, b"abc"), Frame(CLOSE, b"\x03\xe8")]


def test_several_sends_are_one_write() -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await receive()
        await receive()
        for i in range(100):
            await send(message(str(i)))
        await asyncio.sleep(0.01)
        await send(message("last"))
        await receive()

    with asgi_wire(app) as wire:
        peer = Peer(wire)
        peer.send(text("go"))
        assert [peer.next().payload for _ in range(100)] == [b"%d" % i for i in range(100)]
        assert peer.next().payload == b"last"
        peer.leave()


def test_tasks_may_share_a_websocket() -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)

        async def chat(name: str) -> None:
            while (got := await receive())["type"] == "websocket.receive":
                await send(message(f"{name} {got['text']}"))

        async with asyncio.TaskGroup() as group:
            group.create_task(chat("a"))
            group.create_task(chat("b"))

    with asgi_wire(app) as wire:
        peer = Peer(wire)
        for i in range(10):
            peer.send(text(str(i)))
            assert peer.next().payload.split()[1] == b"%d" % i
        peer.leave()
        wire.turn_until(lambda: not wire.tasks)


def test_receive_and_send_are_coroutines_to_asyncio() -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await asyncio.create_task(receive())
        await asyncio.create_task(send(ACCEPT))
        waiting = asyncio.create_task(receive())
        done, _ = await asyncio.wait({waiting}, timeout=0.001)
        assert not done
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await receive()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        # A receive() that was given up has taken nothing with it.
        got = await asyncio.wait_for(receive(), 10)
        await send(message(got["text"]))

    with asgi_wire(app) as wire:
        peer = Peer(wire)
        wire.run(0.02)
        peer.send(text("a"))
        assert peer.next() == Frame(TEXT, b"a")
        peer.leave()


# ---- what does not make sense

BEFORE: list[Message] = []
AFTER_ACCEPT = [ACCEPT]


@pytest.mark.parametrize(
    ("before", "wrong", "kind", "says"),
    [
        (BEFORE, message("a"), RuntimeError, "before websocket.accept"),
        (BEFORE, {"type": "http.response.start", "status": 200}, ValueError, "no message for"),
        (BEFORE, {"type": "websocket.http.response.body"}, RuntimeError, "before websocket.http"),
        (BEFORE, {"type": None}, TypeError, "a dict with a type"),
        (BEFORE, None, TypeError, "a dict with a type"),
        (AFTER_ACCEPT, ACCEPT, RuntimeError, "answered"),
        (AFTER_ACCEPT, {"type": "websocket.send"}, ValueError, "either text or bytes"),
        (AFTER_ACCEPT, {**message("a"), "bytes": b"b"}, ValueError, "either text or bytes"),
        (AFTER_ACCEPT, message(b"a") | {"text": 1, "bytes": None}, TypeError, "is a str"),
        (AFTER_ACCEPT, {"type": "websocket.send", "bytes": "a"}, TypeError, "are bytes"),
        (AFTER_ACCEPT, message("\ud800"), UnicodeEncodeError, "surrogates"),
        (AFTER_ACCEPT, {"type": "websocket.what"}, ValueError, "no message for"),
        (AFTER_ACCEPT, {**CLOSE_MESSAGE, "code": 1005}, ValueError, "1005"),
        (AFTER_ACCEPT, {**CLOSE_MESSAGE, "code": 99}, ValueError, "99"),
        (AFTER_ACCEPT, {**CLOSE_MESSAGE, "code": "1000"}, ValueError, "1000"),
        (AFTER_ACCEPT, {**CLOSE_MESSAGE, "reason": b"x"}, TypeError, "is a str"),
        (
            AFTER_ACCEPT,
            {"type": "websocket.http.response.start", "status": 200},
            RuntimeError,
            "answered",
        ),
        ([ACCEPT, CLOSE_MESSAGE], message("a"), RuntimeError, "after websocket.close"),
        ([ACCEPT, CLOSE_MESSAGE], CLOSE_MESSAGE, RuntimeError, "after websocket.close"),
        ([ACCEPT, CLOSE_MESSAGE], ACCEPT, RuntimeError, "answered"),
        ([CLOSE_MESSAGE], ACCEPT, RuntimeError, "answered"),
    ],
)
def test_messages_that_make_no_sense(
    before: list[Message], wrong: Any, kind: type[Exception], says: str
) -> None:
    raised: list[Exception] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        for sensible in before:
            await send(sensible)
        try:
            await send(wrong)
        except Exception as error:
            raised.append(error)
        if before == BEFORE:
            await send(ACCEPT)
        if CLOSE_MESSAGE not in before:
            # Nothing was changed by it.
            await send(message("still here"))

    with asgi_wire(app) as wire:
        client = wire.connect()
        response = client.request(handshake())
        if CLOSE_MESSAGE not in before:
            peer = Peer.of(client, response)
            assert peer.next() == Frame(TEXT, b"still here")
        assert isinstance(raised[0], kind) and says in str(raised[0]), raised


def test_a_send_after_the_application_has_returned() -> None:
    kept: list[Any] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        kept.extend([receive, send])
        await send(ACCEPT)

    with asgi_wire(app) as wire:
        Peer(wire)
        _, send = kept
        with pytest.raises(RuntimeError, match="had returned"):
            send(message("late"))
        with pytest.raises(RuntimeError, match="had returned"):
            send(CLOSE_MESSAGE)


# ---- endings: by the client


@pytest.mark.parametrize(
    ("sent", "echoed", "code", "reason"),
    [
        (close(1000, b"bye"), 1000, 1000, "bye"),
        (close(1001), 1001, 1001, ""),
        (close(4999, "grüße".encode()), 4999, 4999, "grüße"),
        (close(), 1005, 1005, ""),
        (close(1000, b"r" * 123), 1000, 1000, "r" * 123),
    ],
)
def test_the_client_closes(sent: bytes, echoed: int, code: int, reason: str) -> None:
    seen: list[Message] = []
    with asgi_wire(recording(seen)) as wire:
        peer = Peer(wire)
        peer.send(sent)
        assert peer.closed() == (echoed, b"")
        wire.turn_until(lambda: not wire.tasks)
        assert seen == [{"type": "websocket.disconnect", "code": code, "reason": reason}]


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_the_client_is_gone(how: str, kind: str) -> None:
    seen: list[Message] = []
    with asgi_wire(recording(seen), kind=kind) as wire:
        peer = Peer(wire)
        peer.send(text("last words"))
        if how == "half-close":
            peer.client.shutdown()
        else:
            # A reset may overtake what was sent.
            wire.turn_until(lambda: seen)
            peer.client.close(reset=how == "reset")
        wire.turn_until(lambda: not wire.tasks)
        assert seen == [
            {"type": "websocket.receive", "text": "last words"},
            {"type": "websocket.disconnect", "code": 1006, "reason": ""},
        ]


def test_the_disconnect_is_told_again_and_again() -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        seen.extend([await receive(), await receive(), await receive()])

    with asgi_wire(app) as wire:
        Peer(wire).leave()
        wire.turn_until(lambda: not wire.tasks)
    assert [one["code"] for one in seen] == [1000] * 3


def test_send_after_a_disconnect_raises_oserror(caplog: pytest.LogCaptureFixture) -> None:
    raised: list[BaseException] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        assert (await receive())["type"] == "websocket.disconnect"
        await send(CLOSE_MESSAGE)  # no harm done
        try:
            await send(message("anybody?"))
        except OSError as error:
            raised.append(error)
            raise

    with asgi_wire(app) as wire:
        Peer(wire).client.close()
        wire.turn_until(lambda: raised and not wire.tasks)
    assert errors(caplog) == []


def test_an_oserror_of_another_kind_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        raise FileNotFoundError("mine")

    with asgi_wire(app) as wire:
        Peer(wire).client.close()
        wire.turn_until(lambda: not wire.tasks)
    assert errors(caplog) == ["WebSocket /: the application failed"]


def test_messages_before_the_close_are_received_though_the_client_is_gone() -> None:
    seen: list[Message] = []
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await gate.wait()
        while not seen or seen[-1]["type"] != "websocket.disconnect":
            seen.append(await receive())

    with asgi_wire(app, ws_max_queue=2) as wire:
        peer = Peer(wire)
        peer.send(*[text(str(i)) for i in range(100)])
        wire.run()
        peer.client.close()
        wire.run()
        gate.set()
        wire.turn_until(lambda: not wire.tasks)
    assert [one.get("text") for one in seen[:-1]] == [str(i) for i in range(100)]
    assert seen[-1]["code"] == 1006


def test_the_client_leaves_before_it_is_accepted(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(await receive())
        seen.append(await receive())
        try:
            await send(ACCEPT)
        except OSError:
            seen.append("OSError")

    with asgi_wire(app) as wire:
        client = wire.connect()
        client.send(handshake())
        wire.turn_until(lambda: seen)
        client.close()
        wire.turn_until(lambda: not wire.tasks)
    assert seen[1:] == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}, "OSError"]
    assert errors(caplog) == []


# ---- endings: by the application


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({}, 1000, b""),
        ({"code": None, "reason": None}, 1000, b""),
        ({"code": 4001, "reason": "no"}, 4001, b"no"),
        ({"code": 1008, "reason": "é" * 100}, 1008, "é".encode() * 61),
        ({"code": 1011, "reason": "x" * 124}, 1011, b"x" * 123),
    ],
)
def test_the_application_closes(fields: Message, code: int, reason: bytes) -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await send({**CLOSE_MESSAGE, **fields})
        seen.append(await receive())

    with asgi_wire(app) as wire:
        peer = Peer(wire)
        answer = peer.next()
        assert (answer.code, answer.payload[2:]) == (code, reason)
        wire.run()
        assert seen == [] and not peer.client.eof, "the client's Close is waited for"
        # What the client says meanwhile is not for the application.
        peer.send(text("late"), frame(PING, b"late"), close(code))
        assert peer.rest() == []
        wire.turn_until(lambda: not wire.tasks)
        assert [(one["type"], one["code"]) for one in seen] == [("websocket.disconnect", code)]


@pytest.mark.parametrize("how", ["return", "raise", "exit"])
def test_the_application_ends(how: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        if how == "raise":
            raise ValueError("mine")
        if how == "exit":
            raise SystemExit(3)

    with asgi_wire(app) as wire:
        peer = Peer(wire)
        assert peer.next().code == (1000 if how == "return" else 1011)
        assert not wire.tasks
        peer.send(close(1000))
        assert peer.rest() == []
    assert errors(caplog) == ([] if how == "return" else ["WebSocket /: the application failed"])


@pytest.mark.parametrize("how", ["return", "raise"])
def test_the_application_ends_without_an_answer(how: str, caplog: Any) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        if how == "raise":
            raise ValueError("mine")

    with asgi_wire(app) as wire:
        client = wire.connect()
        assert client.request(handshake(target="/x")).status == 500
        client.close()
    [line] = errors(caplog)
    assert line.startswith("WebSocket /x: the application ")


def test_a_close_before_accept_is_403() -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})
            return
        await receive()
        await send({**CLOSE_MESSAGE, "code": 4000, "reason": "no"})
        seen.append(await receive())

    with asgi_wire(app) as wire:
        client = wire.connect()
        response = client.request(handshake())
        assert (response.status, response.body) == (403, b"")
        assert response.get("Content-Length") == "0"
        # The connection is as good as new.
        assert client.request(get()).status == 204
    assert seen == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


# ---- denial responses


def denial(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "websocket.http.response.start", "status": status, "headers": headers}


def denial_body(content: bytes, more: bool = False) -> Message:
    return {"type": "websocket.http.response.body", "body": content, "more_body": more}


def denying(*messages: Message) -> Callable[..., Any]:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        for one in messages:
            await send(one)

    return app


def test_a_denial_of_one_piece() -> None:
    with asgi_wire(denying(denial(401, (b"x-why", b"so")), denial_body(b"go away"))) as wire:
        client = wire.connect()
        for _ in range(2):
            response = client.request(handshake())
            assert (response.status, response.body) == (401, b"go away")
            assert response.get("X-Why") == "so"
            assert response.get("Content-Length") == "7"


def test_a_denial_in_pieces() -> None:
    pieces = [denial_body(b"a" * 70000, True), denial_body(b"b", True), denial_body(b"")]
    with asgi_wire(denying(denial(503), *pieces)) as wire:
        response = wire.request(handshake())
        assert (response.status, response.body) == (503, b"a" * 70000 + b"b")
        assert response.get("Transfer-Encoding") == "chunked"


def test_a_denial_that_is_not_complete(caplog: pytest.LogCaptureFixture) -> None:
    with asgi_wire(denying(denial(401))) as wire:
        assert wire.request(handshake()).status == 500
    with asgi_wire(denying(denial(401), denial_body(b"a", True))) as wire:
        client = wire.connect()
        client.send(handshake())
        wire.turn_until(lambda: client.eof)
        assert client.received.endswith(b"1\r\na\r\n")
    assert (
        errors(caplog)
        == ["WebSocket /: the application returned before it had denied completely"] * 2
    )


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ([denial(101)], ValueError),
        ([denial("200")], TypeError),  # type: ignore[arg-type]
        ([denial(401, (b"a b", b"c"))], ValueError),
        ([denial(401, (b"a", b"b\nc"))], ValueError),
        ([denial(401), denial(401)], RuntimeError),
        ([denial(401), ACCEPT], RuntimeError),
        ([denial(401), CLOSE_MESSAGE], RuntimeError),
        ([denial(401), message("a")], RuntimeError),
        ([denial(401), denial_body("a")], TypeError),  # type: ignore[arg-type]
        ([denial(401), denial_body(b"a"), denial_body(b"b")], RuntimeError),
    ],
)
def test_denials_that_make_no_sense(messages: list[Message], kind: type[Exception]) -> None:
    raised: list[Exception] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        for one in messages:
            try:
                await send(one)
            except Exception as error:
                raised.append(error)

    with asgi_wire(app) as wire:
        wire.request(handshake())
    assert [type(error) for error in raised] == [kind]


# ---- many


def living() -> list[Any]:
    """Return the tasks and WebSockets there are; log records of earlier tests may hold some."""
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, (WebSocket, asyncio.Task))]


def test_a_thousand_websockets_leave_nothing_behind(kind: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    with asgi_wire(echo, kind=kind, limit_connections=2000) as wire:
        Peer(wire).leave()
        wire.turn_until(lambda: wire.server.n_connections == 0)
        descriptors = open_descriptors()
        before = living()
        clients = []
        for _ in range(1000):
            client = wire.connect()
            clients.append(client)
            if len(clients) % 100 == 0:
                # No more than the listener's queue holds.
                wire.turn_until(lambda: wire.server.n_connections == len(clients))
        for client in clients:
            client.send(handshake("Sec-WebSocket-Extensions: permessage-deflate") + text("a" * 300))
        wire.turn_until(lambda: all(b"\r\n\r\n\xc1" in client.received for client in clients))
        assert wire.server.n_connections == 1000
        assert len(wire.tasks) == 1000
        for number, client in enumerate(clients):
            if number % 3 == 0:
                client.send(close(1000))
            elif number % 3 == 1:
                client.close(reset=True)
            else:
                client.send(frame(3))
        wire.turn_until(lambda: all(client.eof for client in wire.clients))
        for client in list(wire.clients):
            client.close()
        wire.turn_until(lambda: wire.server.n_connections == 0 and not wire.tasks)
        wire.run()
        assert open_descriptors() == descriptors
        assert {id(one) for one in living()} <= {id(one) for one in before}
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- clients of others


@pytest.fixture
def chat() -> Iterator[AsgiWire]:
    with asgi_wire(echo) as opened:
        yield opened


def test_websockets_as_a_client(chat: AsgiWire) -> None:
    require_module("websockets", package="websockets")
    from websockets.client import ClientProtocol
    from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
    from websockets.uri import parse_uri

    protocol = ClientProtocol(parse_uri("ws://h/"), extensions=[ClientPerMessageDeflateFactory()])
    client = chat.connect()
    events: list[Any] = []

    def came(count: int) -> bool:
        for data in protocol.data_to_send():
            client.send(data)
        if client.received:
            protocol.receive_data(client.received)
            client.received = b""
        if client.eof and not protocol.eof_sent:
            protocol.receive_eof()
        events.extend(protocol.events_received())
        return len(events) >= count

    protocol.send_request(protocol.connect())
    chat.turn_until(lambda: came(1))
    assert protocol.handshake_exc is None
    assert protocol.extensions, "the answer to its offer was not understood"
    for content in [b"short", "κόσμε".encode() * 1000, b"x" * 200_000]:
        protocol.send_text(content[:100], fin=False)
        protocol.send_ping(b"between")
        protocol.send_continuation(content[100:], fin=True)
    chat.turn_until(lambda: came(7))
    got = b"".join(bytes(one.data) for one in events[1:] if one.opcode == TEXT)
    assert got == b"short" + "κόσμε".encode() * 1000 + b"x" * 200_000
    protocol.send_close(4000, "bye")
    chat.turn_until(lambda: came(99) or client.eof)
    assert protocol.close_code == 4000


def test_wsproto_as_a_client(chat: AsgiWire) -> None:
    require_module("wsproto", package="wsproto")
    from wsproto import ConnectionType, WSConnection, events
    from wsproto.extensions import PerMessageDeflate

    connection = WSConnection(ConnectionType.CLIENT)
    client = chat.connect()
    seen: list[Any] = []

    def came(kind: type) -> bool:
        if client.received:
            connection.receive_data(client.received)
            client.received = b""
        seen.extend(connection.events())
        return bool(seen) and isinstance(seen[-1], kind)

    client.send(
        connection.send(events.Request(host="h", target="/", extensions=[PerMessageDeflate()]))
    )
    chat.turn_until(lambda: came(events.AcceptConnection))
    for content in ["a" * 1000, "b" * 1000]:
        client.send(connection.send(events.TextMessage(content)))
        chat.turn_until(lambda: came(events.TextMessage))
        assert "".join(one.data for one in seen if isinstance(one, events.TextMessage)) == content
        seen.clear()
    client.send(connection.send(events.Ping(b"?")))
    chat.turn_until(lambda: came(events.Pong))
    client.send(connection.send(events.CloseConnection(1000, "bye")))
    chat.turn_until(lambda: came(events.CloseConnection))
    chat.turn_until(lambda: client.eof)
