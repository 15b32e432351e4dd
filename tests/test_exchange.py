"""How a response is framed, and who is told that the connection ends with it."""

from collections.abc import Iterator
from typing import Any

import pytest
from harness import Response, Wire, parse

from fastcluster.native import NativeHandler


def answering(status: int, fields: dict[str, str], body: Any) -> Any:
    return lambda request: (status, fields, body)


def blocks(*parts: bytes) -> Any:
    return lambda request: iter(parts)


def ask(app: Any, data: bytes, method: str = "GET", **options: Any) -> Response:
    wire = Wire(NativeHandler, app, **options)
    try:
        client = wire.connect()
        client.send(data)
        client.shutdown()
        wire.turn_until(lambda: client.eof)
        return parse(client.received, method)
    finally:
        wire.close()


NEW = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
OLD_KEPT = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "app", "length", "coding", "connection", "body"),
    [
        pytest.param(NEW, answering(200, {}, b"abc"), "3", None, None, b"abc", id="whole"),
        pytest.param(NEW, blocks(b"ab", b"c"), None, "chunked", None, b"abc", id="blocks"),
        pytest.param(OLD, answering(200, {}, b"abc"), "3", None, "close", b"abc", id="1.0"),
        pytest.param(OLD, blocks(b"ab", b"c"), None, None, "close", b"abc", id="1.0 blocks"),
        pytest.param(OLD_KEPT, answering(200, {}, b"a"), "1", None, "keep-alive", b"a", id="kept"),
        pytest.param(OLD_KEPT, blocks(b"a"), None, None, "close", b"a", id="1.0 ends by close"),
        pytest.param(NEW, answering(204, {}, b""), None, None, None, b"", id="204"),
        pytest.param(NEW, answering(304, {}, b""), None, None, None, b"", id="304"),
        pytest.param(
            NEW, answering(200, {"Connection": "close"}, b"a"), "1", None, "close", b"a", id="close"
        ),
        pytest.param(
            NEW, answering(200, {"Transfer-Encoding": "gzip"}, b"a"), "1", None, None, b"a", id="te"
        ),
    ],
)
def test_framing(
    sent: bytes,
    app: Any,
    length: str | None,
    coding: str | None,
    connection: str | None,
    body: bytes,
) -> None:
    response = ask(app, sent)
    assert response.get("Content-Length") == length
    assert response.get("Transfer-Encoding") == coding
    assert response.get("Connection") == connection
    assert response.body == body
    assert response.rest == b""


def test_an_answer_to_head_has_the_length_and_no_body() -> None:
    response = ask(answering(200, {}, b"abc"), HEAD, method="HEAD")
    assert response.get("Content-Length") == "3"
    assert response.body == response.rest == b""


def test_the_last_request_of_a_connection_is_told() -> None:
    wire = Wire(NativeHandler, answering(200, {}, b"a"), limit_keep_alive_requests=2)
    try:
        client = wire.connect()
        assert client.request(NEW).get("Connection") is None
        assert client.request(NEW).get("Connection") == "close"
        wire.turn_until(lambda: client.eof)
        assert not client.was_reset
    finally:
        wire.close()


@pytest.fixture
def plain() -> Iterator[Wire]:
    wire = Wire(NativeHandler, answering(200, {}, b"a"), server_header=False, date_header=False)
    yield wire
    wire.close()


def test_date_and_server_can_be_left_out(plain: Wire) -> None:
    client = plain.connect()
    response = client.request(NEW)
    assert response.get("Date") is None
    assert response.get("Server") is None
