"""native.py: running handlers, what they may return, and what becomes of their errors."""

import asyncio
import functools
import gc
import http
import json
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from harness import Response, wire

from fastcluster import http as native_http
from fastcluster.errors import AppLoadError
from fastcluster.fields import BadRequest, Headers
from fastcluster.native import NativeHandler, required_arguments
from fastcluster.request import Request
from fastcluster.response import Response as Answer

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"


def post(body: bytes, fields: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\nHost: h\r\n%sContent-Length: %d\r\n\r\n%s" % (
        fields,
        len(body),
        body,
    )


def ask(handler: object, data: bytes = GET, method: str = "GET", **options: Any) -> Response:
    """Return the answer, having seen that the connection serves another request."""
    with wire(NativeHandler, handler, **options) as site:
        client = site.connect()
        answer = client.request(data, method)
        if answer.get("connection") is None:
            client.request(data, method)
        return answer


def own_fields(answer: Response) -> list[tuple[str, str]]:
    """The fields that are not the server's."""
    servers = ("date", "server", "connection", "content-length", "transfer-encoding")
    return [(name, value) for name, value in answer.fields if name.lower() not in servers]


# ---- which form a handler has


def one(request: Request) -> bytes:
    return b"one"


def two(request: Request, response: Answer) -> None:
    response.end(b"two")


class Site:
    def one(self, request: Request) -> bytes:
        return b"one"

    def two(self, request: Request, response: Answer) -> None:
        response.end(b"two")

    def __call__(self, request: Request) -> bytes:
        return b"called"


def wrapper_of(handler: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(handler)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return handler(*args, **kwargs)

    return wrapped


def with_default(request: Request, response: object = None) -> bytes:
    return b"default"


@pytest.mark.parametrize(
    ("handler", "arguments", "body"),
    [
        (one, 1, b"one"),
        (two, 2, b"two"),
        (lambda request: b"lambda", 1, b"lambda"),
        (with_default, 1, b"default"),
        (Site().one, 1, b"one"),
        (Site().two, 2, b"two"),
        (Site(), 1, b"called"),
        (functools.partial(two), 2, b"two"),
        (functools.partial(lambda more, request: more, b"more"), 1, b"more"),
        (wrapper_of(one), 1, b"one"),
        (wrapper_of(two), 2, b"two"),
        (lambda *args: b"%d" % len(args), 1, b"1"),
        (lambda request, response, *more, **options: response.end(b"more"), 2, b"more"),
        (lambda request, *, option=1: b"option", 1, b"option"),
        (repr, 1, None),
    ],
)
def test_the_form_is_the_number_of_required_arguments(
    handler: Callable[..., Any], arguments: int, body: bytes | None
) -> None:
    assert required_arguments(handler) == arguments
    answer = ask(handler)
    assert answer.status == 200
    assert body is None or answer.body == body


def no_arguments() -> bytes:
    return b""


async def coroutine(request: Request) -> bytes:
    return b""


async def asynchronous_generator(request: Request) -> AsyncIterator[bytes]:
    yield b""


class AsyncSite:
    async def __call__(self, request: Request) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (no_arguments, r"no_arguments\(\) -> bytes is no handler: write it as handler\(request\)"),
        (lambda a, b, c: b"", "is no handler"),
        (lambda a, *, needed: b"", "is no handler"),
        (lambda **options: b"", "is no handler"),
        (b"bytes", "cannot be called"),
        (coroutine, "is an async handler"),
        (asynchronous_generator, "async"),
        (AsyncSite(), "async"),
        (functools.partial(coroutine), "async"),
    ],
)
def test_what_is_no_handler_is_refused_when_it_is_loaded(handler: object, words: str) -> None:
    with pytest.raises(AppLoadError, match=words) as caught, wire(NativeHandler, handler):
        pass
    assert "\n" not in str(caught.value)


def test_an_object_may_carry_its_handler() -> None:
    assert ask(native_http.create_server(one)).body == b"one"


# ---- what a handler may return


@pytest.mark.parametrize(
    ("result", "status", "kind", "body"),
    [
        (b"bytes", 200, "application/octet-stream", b"bytes"),
        (bytearray(b"array"), 200, "application/octet-stream", b"array"),
        (memoryview(b"view"), 200, "application/octet-stream", b"view"),
        (b"", 200, None, b""),
        ("", 200, None, b""),
        ("text", 200, "text/plain; charset=utf-8", b"text"),
        ("gr\u00fc\u00df \U0001f600", 200, "text/plain; charset=utf-8", "grüß \U0001f600".encode()),
        ({"a": [1, "\u00e9"]}, 200, "application/json", '{"a":[1,"é"]}'.encode()),
        ([], 200, "application/json", b"[]"),
        (None, 204, None, b""),
        ((201, b"made"), 201, "application/octet-stream", b"made"),
        ((http.HTTPStatus.ACCEPTED, {"a": 1}), 202, "application/json", b'{"a":1}'),
        ((404, None), 404, None, b""),
        ((204, None), 204, None, b""),
        ((200, {"content-type": "text/html"}, "<p>"), 200, "text/html", b"<p>"),
        ((200, [("X", "1")], "a"), 200, "text/plain; charset=utf-8", b"a"),
        ((200, None, "a"), 200, "text/plain; charset=utf-8", b"a"),
        (Answer("a", 418), 418, "text/plain; charset=utf-8", b"a"),
        (Answer(), 200, None, b""),
        (Answer({"a": 1}, headers={"Content-Type": "x/y"}), 200, "x/y", b'{"a":1}'),
        (b"x" * 3_000_000, 200, "application/octet-stream", b"x" * 3_000_000),
        ("\u00e9" * 1_000_000, 200, "text/plain; charset=utf-8", "é".encode() * 1_000_000),
    ],
)
def test_return_values(result: object, status: int, kind: str | None, body: bytes) -> None:
    answer = ask(lambda request: result)
    assert (answer.status, answer.get("content-type"), answer.body) == (status, kind, body)
    if status != 204:
        assert answer.get("content-length") == str(len(body))


def test_fields_that_are_returned() -> None:
    fields = [(b"X-A", b"1"), ("x-a", 2), ("Set-Cookie", ["a=1", "b=2"]), ("Name", "\xe9 \t")]
    expected = [
        ("X-A", "1"),
        ("x-a", "2"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Name", "\xe9"),
    ]
    assert own_fields(ask(lambda request: (200, fields, None))) == expected
    assert own_fields(ask(lambda request: (200, iter(fields), None))) == expected
    given = {"X-A": 1, "B": "2"}
    assert own_fields(ask(lambda request: (200, given, None))) == [("X-A", "1"), ("B", "2")]
    headers = Headers([("a", "1"), ("a", "2")])
    assert own_fields(ask(lambda request: (200, headers, None))) == [("a", "1"), ("a", "2")]


@pytest.mark.parametrize("body", [b"ab", iter([b"a", b"b"])])
def test_a_response_may_be_returned_instead_of_answering(body: Any) -> None:
    def handler(request: Request, response: Answer) -> Answer:
        response.set_header("X-A", "set").set_header("X-B", "set")
        response.append_header("Set-Cookie", "a=1")
        return Answer(body, 299, {"x-a": "returned", "Set-Cookie": "b=2"}, "Fine")

    with wire(NativeHandler, handler) as site:
        answer = site.connect().request(GET)
    assert (answer.status, answer.reason, answer.body) == (299, "Fine", b"ab")
    assert sorted(own_fields(answer)) == [
        ("Content-Type", "application/octet-stream"),
        ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-B", "set"), ("x-a", "returned"),
    ]  # fmt: skip


def test_a_response_that_is_begun_is_not_replaced() -> None:
    def handler(request: Request, response: Answer) -> Answer:
        response.write(b"begun")
        return Answer(b"never sent", 299)

    answer = ask(handler)
    assert (answer.status, answer.body) == (200, b"begun")
    assert ask(lambda request, response: response.set_header("X-A", "1")).status == 200


def test_a_response_may_be_returned_again_and_again() -> None:
    constant = Answer("a", 299, {"X-A": "1"}, "Fine")
    with wire(NativeHandler, lambda request: constant) as site:
        client = site.connect()
        for _ in range(3):
            answer = client.request(GET)
            assert (answer.status, answer.reason, answer.body) == (299, "Fine", b"a")
            assert answer.get("x-a") == "1"


@pytest.mark.parametrize(
    "result",
    [
        1,
        True,
        object(),
        (1, 2, 3, 4),
        ("200", b""),
        (200,),
        (b"a", b"b"),
        (99, b""),
        (100, b""),
        (1000, b""),
        {"a": {1}},
        {"a": float("nan")},
        (200, {"A b": "c"}, b""),
        (200, {"A": "b\r\nC: d"}, b""),
        (200, {"A": "b\0"}, b""),
        (200, {"A": "\u20ac"}, b""),
        (200, {"A": None}, b""),
        (200, {"A": 1.5}, b""),
        (200, {"Content-Length": "x"}, b""),
        (200, "no pairs", b""),
        Answer(1),
        "\ud800",
    ],
)
def test_what_cannot_be_sent_is_a_500_and_logged_once(
    result: object, caplog: pytest.LogCaptureFixture
) -> None:
    with wire(NativeHandler, lambda request: result) as site:
        answer = site.request(GET)
    assert (answer.status, answer.body) == (500, b"500 Internal Server Error\n")
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage() == "GET / HTTP/1.1: the handler failed"


def test_what_a_handler_may_return_is_said(caplog: pytest.LogCaptureFixture) -> None:
    ask(lambda request: 1)
    assert "the handler returned 1; a body is bytes, str, dict, list, None or an iterator" in (
        caplog.text
    )


def test_a_coroutine_is_refused_and_closed(caplog: pytest.LogCaptureFixture) -> None:
    assert ask(lambda request: coroutine(request)).status == 500
    assert ask(lambda request, response: coroutine(request)).status == 500
    assert "is no async handler itself" in caplog.text
    gc.collect()  # would warn of a coroutine that was never awaited


@pytest.mark.parametrize("result", [b"body", "body", {"a": 1}, iter([b"body"])])
def test_head_has_the_fields_but_no_body(result: object) -> None:
    with wire(NativeHandler, lambda request: result) as site:
        client = site.connect()
        answer = client.request(HEAD, "HEAD")
        assert answer.status == 200
        assert answer.get("content-type") is not None
        assert (answer.body, answer.rest) == (b"", b"")


# ---- streams


def test_a_stream_is_sent_in_chunks() -> None:
    def handler(request: Request) -> Iterator[str | bytes]:
        yield "a"
        yield b""
        yield b"bc"

    with wire(NativeHandler, handler) as site:
        client = site.connect()
        client.send(GET)
        site.turn_until(lambda: client.received.endswith(b"0\r\n\r\n"))
        assert b"\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n" in client.received
        answer = client.response()
    assert answer.get("content-type") == "text/plain; charset=utf-8"
    assert answer.get("transfer-encoding") == "chunked"
    assert answer.body == b"abc"


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (lambda: iter([b"a", b"b"]), "application/octet-stream"),
        (lambda: ("a", iter(["b"]))[1], "text/plain; charset=utf-8"),
        (lambda: (x for x in (b"ab",)), "application/octet-stream"),
        (lambda: (201, iter([b"ab"])), "application/octet-stream"),
        (lambda: (200, {"Content-Type": "x/y"}, iter(["ab"])), "x/y"),
        (lambda: Answer(iter([b"ab"]), headers={"content-type": "x/y"}), "x/y"),
        (lambda: {"ab": 1}.keys(), "text/plain; charset=utf-8"),
    ],
)
def test_iterators_stream(result: Callable[[], object], kind: str) -> None:
    answer = ask(lambda request: result())
    assert answer.get("transfer-encoding") == "chunked"
    assert answer.get("content-type") == kind
    assert answer.body in (b"ab", b"b")


def test_a_stream_with_its_length_is_counted() -> None:
    answer = ask(lambda request: (200, {"Content-Length": 4}, iter([b"ab", b"cd"])))
    assert answer.get("transfer-encoding") is None
    assert (answer.get("content-length"), answer.body) == ("4", b"abcd")


def test_a_stream_without_blocks_is_empty() -> None:
    answer = ask(lambda request: (201, {"X": "y"}, iter(())))
    assert (answer.status, answer.get("content-length"), answer.body) == (201, "0", b"")
    assert own_fields(answer) == [("X", "y")]


def test_http_1_0_gets_a_stream_that_ends_with_the_connection() -> None:
    with wire(NativeHandler, lambda request: iter([b"a", b"b"])) as site:
        client = site.connect()
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        site.turn_until(lambda: client.eof)
        answer = client.response()
    assert (answer.body, answer.get("connection")) == (b"ab", "close")


class Blocks:
    """An iterator that counts what it gave and how often it was closed."""

    def __init__(self, blocks: Iterator[Any], close_fails: bool = False) -> None:
        self.blocks = blocks
        self.given = self.closed = 0
        self.close_fails = close_fails

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        block = next(self.blocks)
        self.given += 1
        return block

    def close(self) -> None:
        self.closed += 1
        if self.close_fails:
            raise OSError("cannot close")


def endless(block: bytes = b"x" * 10_000) -> Iterator[bytes]:
    while True:
        yield block


def test_each_block_is_sent_before_the_next_is_asked_for() -> None:
    seen: list[bytes] = []

    def handler(request: Request) -> Iterator[bytes]:
        for i in range(3):
            yield b"block %d" % i
            client.pull()
            seen.append(client.received[-9:-2])

    with wire(NativeHandler, handler) as site:
        client = site.connect()
        client.send(GET)
        site.turn_until(lambda: len(seen) == 3)
    assert seen == [b"block 0", b"block 1", b"block 2"]


def test_a_stream_is_closed_once_at_its_end() -> None:
    blocks = Blocks(iter([b"a"]))
    assert ask(lambda request: blocks).body == b"a"
    assert blocks.closed == 2  # ask() asks twice


def test_a_stream_stops_while_its_client_takes_nothing() -> None:
    blocks = Blocks(iter([b"x" * 10_000] * 2000))

    def handler(request: Request) -> object:
        return blocks if request.path == "/" else b"quick"

    with wire(NativeHandler, handler) as site:
        slow, quick = site.connect(receive_buffer=65536), site.connect()
        slow.reading = False
        slow.send(GET)
        site.turn_until(lambda: blocks.given)
        for _ in range(2000):
            site.turn()
        assert blocks.given < 1000
        assert blocks.closed == 0
        assert quick.request(b"GET /quick HTTP/1.1\r\nHost: h\r\n\r\n").body == b"quick"
        slow.reading = True
        site.turn_until(lambda: slow.received.endswith(b"\r\n0\r\n\r\n"))
        assert slow.response().body == b"x" * 20_000_000
    assert (blocks.given, blocks.closed) == (2000, 1)


def test_streams_take_turns() -> None:
    order: list[str] = []

    def handler(request: Request) -> Iterator[bytes]:
        for _ in range(100):
            order.append(request.path)
            yield b"x"

    with wire(NativeHandler, handler) as site:
        clients = [site.connect() for _ in range(2)]
        for i, client in enumerate(clients):
            client.send(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % i)
        assert [len(client.response().body) for client in clients] == [100, 100]
    assert order.index("/1") < 50
    assert order != sorted(order)


def test_a_stream_whose_client_leaves_is_closed_once(caplog: pytest.LogCaptureFixture) -> None:
    blocks = Blocks(endless())
    with wire(NativeHandler, lambda request: blocks) as site:
        client = site.connect(receive_buffer=4096)
        client.reading = False
        client.send(GET)
        site.turn_until(lambda: blocks.given > 3)
        client.close(reset=True)
        site.turn_until(lambda: site.server.n_connections == 0)
        assert blocks.closed == 1
        given = blocks.given
        for _ in range(5):
            site.turn()
        assert blocks.given == given
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_an_endless_stream_of_nothing_does_not_hold_the_loop() -> None:
    blocks = Blocks(endless(b""))

    def handler(request: Request) -> object:
        return blocks if request.path == "/endless" else b"quick"

    with wire(NativeHandler, handler) as site:
        slow = site.connect()
        slow.send(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n")
        site.turn_until(lambda: blocks.given > 20)
        assert site.request(GET).body == b"quick"
    assert blocks.closed == 1  # by server.close()


@pytest.mark.parametrize(
    "data",
    [HEAD, b"GET / HTTP/1.1\r\nHost: h\r\nX-Length: 5\r\n\r\n"],
)
def test_an_endless_stream_ends_where_nothing_more_may_be_sent(data: bytes) -> None:
    blocks = Blocks(endless(b"xxx"))

    def handler(request: Request) -> object:
        length = request.headers.get("x-length")
        return 200, {"Content-Length": length} if length else {}, blocks

    with wire(NativeHandler, handler) as site:
        client = site.connect()
        answer = client.request(data, data[:4].decode().strip())
        assert answer.body == (b"" if data is HEAD else b"xxxxx")
        site.turn_until(lambda: blocks.closed == 1)
        assert client.request(HEAD, "HEAD").status == 200


def failing(*blocks: object) -> Iterator[Any]:
    yield from blocks
    raise LookupError("no more")


def test_a_stream_that_fails_before_its_first_block_is_a_500() -> None:
    blocks = Blocks(failing())
    answer = ask(lambda request: blocks)
    assert (answer.status, blocks.closed) == (500, 2)


@pytest.mark.parametrize("bad", [failing(b"a"), iter([b"a", 1])])
def test_a_stream_that_fails_later_breaks_the_connection(
    bad: Iterator[Any], caplog: pytest.LogCaptureFixture
) -> None:
    blocks = Blocks(bad)
    with wire(NativeHandler, lambda request: blocks) as site:
        client = site.connect()
        client.send(GET)
        site.turn_until(lambda: client.eof)
        assert client.received.startswith(b"HTTP/1.1 200 ")
        assert b"1\r\na\r\n" in client.received
        assert not client.received.endswith(b"0\r\n\r\n")
    assert blocks.closed == 1
    assert caplog.text.count("the handler failed") == 1


def test_a_failing_close_is_logged_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    blocks = Blocks(iter([b"a"]), close_fails=True)
    with wire(NativeHandler, lambda request: blocks) as site:
        assert site.request(GET).body == b"a"
    assert caplog.text.count("OSError: cannot close") == 1


def test_a_stream_may_close_the_server_it_is_sent_by() -> None:
    closed = []

    def handler(request: Request) -> Iterator[bytes]:
        try:
            yield b"a"
            site.server.close()
            yield b"b"
        finally:
            closed.append(request.path)

    with wire(NativeHandler, handler) as site:
        client = site.connect()
        client.send(GET)
        for _ in range(3):
            if not closed:
                site.server.turn(100)
    assert closed == ["/"]


# ---- request bodies


@pytest.mark.parametrize("size", [0, 1, 5_000, 200_000, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_are_complete_when_the_handler_is_called(size: int, chunked: bool) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    data = post(body)
    if chunked:
        pieces = [body[i : i + 70_000] for i in range(0, size, 70_000)]
        data = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        data += b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
    answer = ask(lambda request: request.read(), data)
    assert answer.body == body


def test_a_body_in_small_pieces() -> None:
    data = post(b"0123456789")
    with wire(NativeHandler, lambda request: request.read()) as site:
        client = site.connect()
        for i in range(len(data)):
            assert not client.received
            client.send(data[i : i + 1])
            site.turn()
            site.turn()
        assert client.response().body == b"0123456789"


def test_a_body_with_its_head_is_answered_in_the_same_turn() -> None:
    with wire(NativeHandler, lambda request: request.read()) as site:
        client = site.connect()
        site.turn_until(lambda: site.server.n_connections == 1)
        for size in (1, 60_000):
            client.send(post(b"x" * size))
            site.server.turn(5000)
            client.pull()
            assert client.response().body == b"x" * size


def test_pipelined_requests_with_bodies() -> None:
    with wire(NativeHandler, lambda request: request.read()) as site:
        client = site.connect()
        client.send(post(b"first") + GET + post(b"second"))
        assert [client.response().body for _ in range(3)] == [b"first", b"", b"second"]


def test_the_server_asks_for_a_body_that_is_expected() -> None:
    expecting = post(b"body", b"Expect: 100-continue\r\n")[:-4]
    with wire(NativeHandler, lambda request: request.read()) as site:
        client = site.connect()
        client.send(expecting)
        site.turn_until(lambda: client.received)
        assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.received = b""
        client.send(b"body")
        assert client.response().body == b"body"


def test_a_handler_is_not_called_for_a_body_that_never_comes_whole() -> None:
    calls: list[Request] = []
    with wire(NativeHandler, lambda request: calls.append(request)) as site:
        client = site.connect()
        client.send(post(b"x" * 2_000_000)[:-1])
        site.turn_until(lambda: not client.unsent)
        client.close()
        site.turn_until(lambda: site.server.n_connections == 0)
    assert calls == []


def test_a_body_above_the_memory_limit_lies_on_disk(tmp_path: Any, monkeypatch: Any) -> None:
    from tempfile import TemporaryFile

    made: list[Any] = []

    def noticed() -> Any:
        made.append(TemporaryFile())  # noqa: SIM115
        return made[-1]

    monkeypatch.setattr("tempfile.TemporaryFile", noticed)
    body = b"0123456789" * 1000
    for size in (9_999, 10_000):
        answer = ask(lambda request: request.read(), post(body), body_memory_bytes=size)
        assert answer.body == body
    assert len(made) == 2  # of 9,999 bytes, asked twice
    assert all(file.closed for file in made)


def test_a_disk_that_is_full_is_a_500(monkeypatch: Any, caplog: pytest.LogCaptureFixture) -> None:
    def full() -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with wire(NativeHandler, one, body_memory_bytes=10) as site:
        assert site.request(post(b"x" * 100)).status == 500
        assert site.request(GET).status == 200
    assert "No space left" in caplog.text


def test_a_body_that_is_too_large_is_refused_before_the_handler() -> None:
    with wire(NativeHandler, one, limit_request_body_bytes=10) as site:
        assert site.request(post(b"x" * 11)).status == 413
        assert site.request(post(b"x" * 10)).status == 200


# ---- failures


def test_a_failing_handler_is_a_500_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def handler(request: Request) -> None:
        raise LookupError("what I looked for")

    with wire(NativeHandler, handler) as site:
        client = site.connect()
        answer = client.request(b"GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (answer.status, answer.body) == (500, b"500 Internal Server Error\n")
        assert client.request(GET).status == 500  # the connection is whole
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in records] == [
        "GET /a?b HTTP/1.1: the handler failed",
        "GET / HTTP/1.1: the handler failed",
    ]
    assert caplog.text.count("LookupError: what I looked for") == 2
    assert "native.pyx" not in caplog.text


def test_in_development_the_traceback_is_the_answer() -> None:
    def handler(request: Request) -> None:
        raise LookupError("what I looked for \ud800")

    answer = ask(handler, env="development")
    assert (answer.status, answer.get("content-type")) == (500, "text/plain; charset=utf-8")
    assert answer.body.startswith(b"Traceback (most recent call last):\n")
    assert b"in handler" in answer.body
    assert answer.body.endswith(b"LookupError: what I looked for \\ud800\n")
    assert b"native.pyx" not in answer.body


def test_what_the_client_got_wrong_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    answer = ask(lambda request: request.json(), post(b"{"))
    assert (answer.status, answer.get("content-type")) == (400, "text/plain; charset=utf-8")
    assert answer.body.startswith(b"the request body is not JSON")
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    assert "POST / HTTP/1.1: refused with 400: the request body is not JSON" in caplog.text

    def late(request: Request) -> Iterator[bytes]:
        raise BadRequest("too large", 413)
        yield b""

    assert ask(late).status == 413


def test_a_handler_that_fails_with_a_body_pending_keeps_the_connection() -> None:
    def handler(request: Request) -> bytes:
        return request.read() if request.path == "/" else request.json()

    with wire(NativeHandler, handler) as site:
        client = site.connect()
        assert client.request(post(b"{")).body == b"{"
        assert client.request(post(b"x").replace(b"/", b"/json", 1)).status == 400
        assert client.request(GET).status == 200


# ---- handler(request, response)


def test_a_handler_that_answers_nothing_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    assert ask(lambda request, response: None).status == 500
    assert "it has to call response.end()" in caplog.text


@pytest.mark.parametrize(
    ("handler", "status", "body"),
    [
        (lambda q, r: r.write_head(201), 201, b""),
        (lambda q, r: setattr(r, "status_code", 404), 404, b""),
        (lambda q, r: r.set_header("X", "y"), 200, b""),
        (lambda q, r: (r.write("a"), r.write(b"b")), 200, b"ab"),
    ],
)
def test_a_response_that_was_begun_is_ended_for_the_handler(
    handler: Callable[..., Any], status: int, body: bytes
) -> None:
    answer = ask(handler)
    assert (answer.status, answer.body) == (status, body)


def test_a_failure_before_the_head_is_sent_is_a_500() -> None:
    def handler(request: Request, response: Answer) -> None:
        response.set_header("X-A", "1")
        response.write_head(201, {"X-B": "2"})
        raise LookupError

    answer = ask(handler)
    assert (answer.status, answer.body) == (500, b"500 Internal Server Error\n")
    assert answer.get("x-a") is None and answer.get("x-b") is None


def test_a_failure_after_the_head_is_sent_breaks_the_connection() -> None:
    def handler(request: Request, response: Answer) -> None:
        response.write(b"begun")
        raise LookupError

    with wire(NativeHandler, handler) as site:
        client = site.connect()
        client.send(GET)
        site.turn_until(lambda: client.eof)
        assert client.received.endswith(b"5\r\nbegun\r\n")


def test_a_failure_after_the_end_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    def handler(request: Request, response: Answer) -> None:
        response.end(b"whole")
        raise LookupError("late")

    assert ask(handler).body == b"whole"
    assert "late" in caplog.text


def test_system_exit_passes_through() -> None:
    def handler(request: Request) -> None:
        raise SystemExit(5)

    with wire(NativeHandler, handler) as site:
        client = site.connect()
        client.send(GET)
        with pytest.raises(SystemExit):
            site.turn_until(lambda: client.eof)


# ---- what is left behind


class Marked(dict[str, str]):
    """A dict that can be watched."""


@pytest.mark.parametrize("form", ["value", "stream", "response", "failure"])
def test_nothing_is_left_behind(form: str) -> None:
    alive: list[weakref.ref[Marked]] = []

    def handler(request: Request) -> object:
        mark = Marked()
        alive.append(weakref.ref(mark))
        if form == "failure":
            raise LookupError(mark)
        if form == "stream":
            return (block for block in (b"a", (mark and b"") or b"b"))
        return Answer(iter([b"a"]), headers=mark) if form == "response" else mark

    logging.disable(logging.CRITICAL)
    try:
        with wire(NativeHandler, handler) as site:
            client = site.connect()
            for _ in range(20):
                client.request(post(b"x" * 100))
            gc.collect()
            assert sum(ref() is not None for ref in alive) == 0
    finally:
        logging.disable(logging.NOTSET)


def test_json_is_what_json_makes_of_it() -> None:
    value = {"text": 'é\u2028<>&"', "n": [1, 2.5, -1e300, True, None], "": {}}
    assert json.loads(ask(lambda request: value).body) == value


def test_handlers_may_run_an_event_loop_of_their_own() -> None:
    async def body() -> bytes:
        await asyncio.sleep(0)
        return b"awaited"

    assert ask(lambda request: asyncio.run(body())).body == b"awaited"
