"""The opening handshake: what is taken, what is refused and how, and what is answered."""

from collections.abc import Iterator
from typing import Any

import pytest
from asgi_parts import AsgiWire, Message, Scope, asgi_wire, get
from harness import Response
from websocket_parts import ACCEPT, KEY, Peer, echo, handshake, text


@pytest.fixture(scope="module")
def wire() -> Iterator[AsgiWire]:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            return await echo(scope, receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"http"})

    with asgi_wire(app) as opened:
        yield opened


def test_the_answer_proves_that_the_key_was_read(wire: AsgiWire) -> None:
    peer = Peer(wire)
    fields = {name.lower(): value for name, value in peer.response.fields}
    assert fields["sec-websocket-accept"] == ACCEPT
    assert fields["upgrade"] == "websocket"
    assert fields["connection"] == "Upgrade"
    assert set(fields) == {"sec-websocket-accept", "upgrade", "connection", "date", "server"}
    peer.leave()


@pytest.mark.parametrize(
    "fields",
    [
        ["upgrade: WebSocket", "connection: keep-alive, UPGRADE"],
        ["Upgrade: foo, websocket", "Connection: upgrade"],
        ["Connection: keep-alive", "Connection: Upgrade", "Upgrade: WEBSOCKET"],
    ],
)
def test_words_that_ask_for_a_websocket(wire: AsgiWire, fields: list[str]) -> None:
    fields = [*fields, f"sec-websocket-KEY:{KEY}", "sec-websocket-version:13 "]
    assert wire.request(get("/", *fields)).status == 101


@pytest.mark.parametrize(
    "data",
    [
        get("/"),
        get("/", "Upgrade: websocket"),
        get("/", "Connection: Upgrade"),
        get("/", "Upgrade: h2c", "Connection: Upgrade"),
        get("/", "Upgrade: websockets", "Connection: Upgrade"),
        # RFC 9110 section 7.8: not to be heeded in HTTP/1.0.
        handshake().replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["plain", "no Connection", "no Upgrade", "h2c", "another word", "HTTP/1.0"],
)
def test_what_is_no_handshake_is_another_request(wire: AsgiWire, data: bytes) -> None:
    response = wire.request(data)
    assert (response.status, response.body) == (200, b"http")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (handshake(version="12"), 426),
        (handshake(version="8"), 426),
        (handshake(version=""), 426),
        (handshake("Sec-WebSocket-Version: 13"), 426),
        (handshake().replace(b"Sec-WebSocket-Version: 13\r\n", b""), 426),
        (handshake(key=""), 400),
        (handshake(key="abc"), 400),
        (handshake(key="MDEyMzQ1Njc4OWFiY2Rl"), 400),
        (handshake(key=KEY[:-2] + "=="[:1] + "!"), 400),
        (handshake(key=KEY + "AAAA"), 400),
        (handshake(f"Sec-WebSocket-Key: {KEY}"), 400),
        (handshake().replace(b"Sec-WebSocket-Key", b"X-Key"), 400),
        (handshake("Content-Length: 3") + b"abc", 400),
        (handshake("Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
        (handshake().replace(b"GET", b"POST"), 400),
        (handshake("Sec-WebSocket-Protocol: a b"), 400),
        (handshake("Sec-WebSocket-Protocol: a,,b"), 400),
        (handshake("Sec-WebSocket-Extensions: ;"), 400),
        (handshake('Sec-WebSocket-Extensions: permessage-deflate; a="b'), 400),
        (handshake("Sec-WebSocket-Extensions: permessage-deflate foo"), 400),
    ],
)
def test_a_bad_handshake_is_refused(wire: AsgiWire, data: bytes, status: int) -> None:
    response = wire.request(data)
    assert response.status == status
    assert response.body.endswith(b"\n") and len(response.body) < 200
    assert (response.get("Sec-WebSocket-Version") == "13") == (status == 426)
    assert (response.get("Upgrade") == "websocket") == (status == 426)
    assert not wire.tasks, "the application was called"


def test_a_refused_connection_goes_on_as_http(wire: AsgiWire) -> None:
    client = wire.connect()
    assert client.request(handshake(version="7")).status == 426
    assert client.request(get()).body == b"http"
    assert client.request(handshake()).status == 101
    client.close()


def test_every_cut_of_the_handshake(wire: AsgiWire) -> None:
    data = handshake() + text("early")
    for cut in range(1, len(data), 7):
        client = wire.connect()
        client.send(data[:cut])
        wire.turn(0)
        client.send(data[cut:])
        # The frame that came along with the handshake is answered, too.
        wire.turn_until(lambda client=client: client.received.endswith(b"\x81\x05early"))
        client.close()


# ---- what the application has a say in

ACCEPT_MESSAGE = {"type": "websocket.accept"}


def answer_to(message: Message, *fields: str) -> tuple[Response, list[Exception]]:
    """Return what an application's answer becomes, and what it raised where it was sent."""
    raised: list[Exception] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        try:
            await send(message)
        except Exception as error:
            raised.append(error)
            await send({"type": "websocket.close"})

    with asgi_wire(app) as wire:
        return wire.request(handshake(*fields)), raised


def test_a_subprotocol_is_chosen() -> None:
    offers: list[list[str]] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        offers.append(scope["subprotocols"])
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "v2"})

    with asgi_wire(app) as wire:
        data = handshake("Sec-WebSocket-Protocol: v1,v2", "Sec-WebSocket-Protocol: v3")
        assert wire.request(data).get("Sec-WebSocket-Protocol") == "v2"
    assert offers == [["v1", "v2", "v3"]]


@pytest.mark.parametrize("subprotocol", ["v2", "", 5, b"v1"])
def test_a_subprotocol_that_is_not_offered(subprotocol: Any) -> None:
    message = {**ACCEPT_MESSAGE, "subprotocol": subprotocol}
    response, raised = answer_to(message, "Sec-WebSocket-Protocol: v1")
    assert response.status == 403
    assert isinstance(raised[0], ValueError) and "does not offer" in str(raised[0])


def test_no_subprotocol_is_offered() -> None:
    response, raised = answer_to({**ACCEPT_MESSAGE, "subprotocol": None, "headers": None})
    assert (response.status, response.get("Sec-WebSocket-Protocol"), raised) == (101, None, [])


def test_fields_of_the_application() -> None:
    headers = [(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2"), [b"x-list", b"\xe9"]]
    response, raised = answer_to({**ACCEPT_MESSAGE, "headers": iter(headers)})
    assert raised == []
    assert response.get("Set-Cookie") == "a=1, b=2"
    assert response.get("X-List") == "é"


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ((b"sec-websocket-protocol", b"v1"), ValueError),
        ((b"Sec-WebSocket-Accept", b"x"), ValueError),
        ((b"sec-websocket-extensions", b"x"), ValueError),
        ((b"upgrade", b"x"), ValueError),
        ((b"x", b"a\r\nb: c"), ValueError),
        ((b"x y", b"a"), ValueError),
        (("x", b"a"), TypeError),
        ((b"x", "a"), TypeError),
        ((b"x",), ValueError),
    ],
)
def test_fields_that_cannot_be_sent(field: Any, kind: type[Exception]) -> None:
    response, raised = answer_to({**ACCEPT_MESSAGE, "headers": [field]})
    assert response.status == 403
    assert [type(error) for error in raised] == [kind]


def test_framing_fields_are_left_out() -> None:
    headers = [(b"connection", b"close"), (b"content-length", b"5"), (b"transfer-encoding", b"x")]
    response, raised = answer_to({**ACCEPT_MESSAGE, "headers": headers})
    assert (response.status, raised) == (101, [])
    assert response.get("Content-Length") is None
    assert response.get("Transfer-Encoding") is None
    assert response.get("Connection") == "Upgrade"
