"""asgi_call.pyx: bodies, responses, and what goes wrong between them."""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgi_parts import (
    GET,
    LOOPS,
    AsgiWire,
    Message,
    Scope,
    answering,
    body,
    echo,
    get,
    post,
    read_all,
    start,
    warnings,
    wires,
)
from harness import open_descriptors

CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
EXPECT = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"

Serve = Callable[..., AsgiWire]


@pytest.fixture(params=LOOPS)
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    """serve(app, **options) returns an AsgiWire, on each kind of loop."""
    with wires(AsgiWire, request.param) as open_wire:
        yield open_wire


# ---- the request's body


@pytest.mark.parametrize("size", [0, 1, 1000, 70_000, 3_000_000])
def test_echo(serve: Serve, size: int) -> None:
    content = os.urandom(size)
    client = serve(echo).connect()
    for _ in range(2):
        response = client.request(post(content))
        assert response.body == content
        assert response.get("content-length") == str(size)


def test_a_chunked_body(serve: Serve) -> None:
    client = serve(echo).connect()
    for byte in CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: x\r\n\r\n":
        client.send(bytes([byte]))
        client.wire.turn()
    assert client.response().body == b"abcde"


def test_a_request_without_a_body(serve: Serve) -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(await receive())
        await answering(b"")(scope, receive, send)
        seen.append(await receive())
        seen.append(await receive())

    wire = serve(app)
    assert wire.request(GET).status == 200
    wire.turn_until(lambda: len(seen) == 3)
    assert seen == [
        {"type": "http.request", "body": b"", "more_body": False},
        {"type": "http.disconnect"},
        {"type": "http.disconnect"},
    ]


def test_the_end_of_the_body_is_said_when_it_is_there(serve: Serve) -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        while True:
            seen.append(await receive())
            if not seen[-1]["more_body"]:
                break
        await answering(b"")(scope, receive, send)

    wire = serve(app)
    client = wire.connect()
    client.send(CHUNKED + b"3\r\nabc\r\n")
    wire.turn_until(lambda: seen)
    wire.run()
    assert seen == [{"type": "http.request", "body": b"abc", "more_body": True}]
    client.send(b"0\r\n\r\n")
    client.response()
    assert seen[1:] == [{"type": "http.request", "body": b"", "more_body": False}]


@pytest.mark.parametrize(
    "request_bytes",
    [post(b"x" * 100)[:-1], CHUNKED + b"zz\r\n", CHUNKED + b"5\r\nabcde\r\n"],
    ids=["cut off", "bad chunk", "cut chunk"],
)
@pytest.mark.parametrize("early", [False, True], ids=["whole", "as it comes"])
def test_a_body_that_breaks_is_never_whole(
    serve: Serve, request_bytes: bytes, early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        while not seen or seen[-1]["type"] != "http.disconnect":
            seen.append(await receive())
        with pytest.raises(OSError, match="gone"):
            await send(start())

    wire = serve(app)
    client = wire.connect()
    for part in [request_bytes[:-3], request_bytes[-3:]] if early else [request_bytes]:
        client.send(part)
        wire.run(0.01)
    client.shutdown()
    wire.turn_until(lambda: client.eof and seen and seen[-1]["type"] == "http.disconnect")
    assert all(message["more_body"] for message in seen[:-1])
    assert warnings(caplog) == []


def test_a_client_that_is_told_to_continue(serve: Serve) -> None:
    go, calls = asyncio.Event(), []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        calls.append(1)
        await go.wait()
        await echo(scope, receive, send)

    wire = serve(app)
    client = wire.connect()
    client.send(EXPECT)
    wire.turn_until(lambda: calls)
    wire.run()
    assert client.received == b""
    go.set()
    wire.turn_until(lambda: client.received)
    assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.received = b""
    client.send(b"abc")
    assert client.response().body == b"abc"


def test_a_client_that_is_not_told_to_continue(serve: Serve) -> None:
    wire = serve(answering(b"no", 403))
    client = wire.connect()
    response = client.request(EXPECT)
    assert response.status == 403
    assert response.get("connection") == "close"


def test_reading_stops_while_the_application_does_not_receive(serve: Serve) -> None:
    go = asyncio.Event()
    sizes: list[int] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await go.wait()
        while True:
            message = await receive()
            sizes.append(len(message["body"]))
            if not message["more_body"]:
                break
        await answering(str(sum(sizes)).encode())(scope, receive, send)

    total = 20_000_000
    wire = serve(app)
    client = wire.connect()
    client.send(get("/", f"Content-Length: {total}", method="POST"))
    client.send(b"x" * total)
    before = -1
    while before != len(client.unsent):
        before = len(client.unsent)
        wire.run(0.05)
    # What the kernel's buffers and ours hold.
    assert before > total / 2
    go.set()
    assert client.response().body == str(total).encode()
    assert max(sizes) <= 512 * 1024


def test_an_unread_body_is_not_the_next_request(serve: Serve) -> None:
    client = serve(answering(b"unread")).connect()
    for _ in range(3):
        assert client.request(post(b"GET /smuggled HTTP/1.1\r\n\r\n" * 50)).body == b"unread"


def test_an_answer_before_the_body_has_come(serve: Serve) -> None:
    wire = serve(answering(b"early"))
    client = wire.connect()
    client.send(post(b"x" * 1000)[:-500])
    assert client.response().body == b"early"
    client.send(b"x" * 500)
    assert client.request(GET).body == b"early"


def test_two_receive_at_once(serve: Serve) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        async def listen() -> None:
            message = await receive()
            seen.append(message["type"])

        await receive()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(listen()) for _ in range(3)]
            await asyncio.sleep(0)
            tasks[0].cancel()
            await asyncio.sleep(0)
            await send(start())
            await send(body(b"x"))

    wire = serve(app)
    assert wire.request(GET).body == b"x"
    wire.turn_until(lambda: not wire.tasks)
    assert seen == ["http.disconnect"] * 2


def test_a_cancelled_receive_loses_nothing(serve: Serve) -> None:
    arrived = asyncio.Event()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await arrived.wait()
        # There is something to receive, but it is cancelled before it runs.
        tasks = [asyncio.create_task(receive()) for _ in range(3)]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        first = (await receive())["body"]
        # Cancelled while it waits.
        for _ in range(3):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    await receive()
        waiting = asyncio.create_task(receive())
        await send(start())
        await send(body(first, more=True))
        for _ in range(1000):
            await asyncio.sleep(0.001)
            if waiting.done():
                break
        rest = waiting.result()["body"]
        if waiting.result()["more_body"]:
            rest += await read_all(receive)
        await send(body(rest))

    wire = serve(app)
    client = wire.connect()
    content = b"0123456789" * 3
    request = post(content)
    client.send(request[:-10])
    wire.turn_until(lambda: wire.tasks)
    arrived.set()
    wire.turn_until(lambda: content[:-10] in client.received)
    client.send(request[-10:])
    assert client.response().body == content


# ---- responses


@pytest.mark.parametrize(
    ("messages", "content", "length"),
    [
        ([start(), body(b"abc")], b"abc", "3"),
        ([start(), body()], b"", "0"),
        ([start(), {"type": "http.response.body"}], b"", "0"),
        ([{"type": "http.response.start", "status": 200}, body(b"abc")], b"abc", "3"),
        ([start(), body(bytearray(b"abc"))], b"abc", "3"),
        ([start(), body(memoryview(b"abc"))], b"abc", "3"),
        ([start(), body(b"ab", True), body(b"c")], b"abc", None),
        ([start(), body(b"", True), body(b"abc")], b"abc", None),
        ([start(), body(b"ab", True), body(b"c", True), body()], b"abc", None),
        ([start(200, (b"Content-Length", b"3")), body(b"ab", True), body(b"c")], b"abc", "3"),
        ([start(200, (b"content-length", b"3")), body(b"abc")], b"abc", "3"),
    ],
)
def test_bodies(serve: Serve, messages: list[Message], content: bytes, length: str) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        for message in messages:
            assert await send(message) is None

    client = serve(app, is_careless=True).connect()
    for _ in range(2):
        response = client.request(GET)
        assert response.body == content
        assert response.get("content-length") == length
        assert response.get("transfer-encoding") == (None if length else "chunked")


def test_http_1_0_ends_by_close(serve: Serve) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"ab", True))
        await send(body(b"c"))

    client = serve(app).connect()
    response = client.request(b"GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
    assert response.body == b"abc"
    assert response.get("transfer-encoding") is None
    client.wire.turn_until(lambda: client.eof)


def test_head_has_no_body_but_its_length(serve: Serve) -> None:
    client = serve(answering(b"abc")).connect()
    for _ in range(2):
        response = client.request(get(method="HEAD"), "HEAD")
        assert (response.body, response.get("content-length")) == (b"", "3")


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body(serve: Serve, status: int) -> None:
    client = serve(answering(b"" if status == 204 else b"x", status)).connect()
    for _ in range(2):
        response = client.request(GET)
        assert (response.status, response.body) == (status, b"")
        assert response.get("transfer-encoding") is None


def test_status_and_fields(serve: Serve) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        headers = iter([[b"Set-Cookie", b"a"], (b"set-cookie", b"b"), [b"x", b" y "]])
        await send({"type": "http.response.start", "status": 418, "headers": headers})
        await send(body())

    response = serve(app).request(GET)
    assert response.status == 418
    assert response.get("set-cookie") == "a, b"
    assert response.get("x") == "y"


def test_the_head_waits_for_the_body_and_belongs_to_its_request(serve: Serve) -> None:
    gates = {b"a": asyncio.Event(), b"b": asyncio.Event()}
    begun: list[bytes] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        name = scope["query_string"]
        await send(start(200, (b"name", name)))
        begun.append(name)
        await gates[name].wait()
        await send(body(name))

    wire = serve(app)
    one, two = wire.connect(), wire.connect()
    one.send(get("/?a"))
    wire.turn_until(lambda: len(begun) == 1)
    two.send(get("/?b"))
    wire.turn_until(lambda: len(begun) == 2)
    wire.run()
    assert one.received == two.received == b""
    for client, name in ((one, b"a"), (two, b"b")):
        gates[name].set()
        response = client.response()
        assert (response.get("name"), response.body) == (name.decode(), name)


def test_the_first_part_is_sent_at_once(serve: Serve) -> None:
    """It does not wait for what the application does next."""
    seen = threading.Event()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"part", True))
        # The loop stands still; only what is in the kernel arrives.
        client.socket.setblocking(True)
        client.socket.settimeout(5)
        assert b"part" in client.socket.recv(1000)
        client.socket.setblocking(False)
        seen.set()
        await send(body())

    wire = serve(app)
    client = wire.connect()
    client.send(GET)
    wire.turn_until(seen.is_set)


def test_a_later_part_is_sent_when_the_application_waits(serve: Serve) -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        await send(start())
        for part in (b"one", b"two", b"three"):
            await send(body(part, True))
        await go.wait()
        await send(body())

    wire = serve(app)
    client = wire.connect()
    client.send(GET)
    wire.turn_until(lambda: client.received.endswith(b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n"))
    go.set()
    assert client.response().body == b"onetwothree"


def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        content = scope["query_string"] + await read_all(receive)
        if len(content) % 3:
            await asyncio.sleep(0.001)
        await send(start())
        await send(body(content[:1], True))
        await send(body(content[1:]))

    client = serve(app).connect()
    requests, expected = [], []
    for number in range(300):
        text = str(number).encode()
        requests += [get(f"/?{number}"), post(text)]
        expected += [text, text]
    client.send(b"".join(requests))
    assert [client.response().body for _ in expected] == expected


def test_pipelined_requests_do_not_run_inside_of_each_other(serve: Serve) -> None:
    running: list[Any] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        assert running == []
        await asyncio.sleep(0)
        running.append(asyncio.current_task())
        await send(start())
        await send(body(b"x"))
        assert asyncio.current_task() is running.pop()

    client = serve(app).connect()
    client.send(GET * 20)
    assert [client.response().body for _ in range(20)] == [b"x"] * 20


# ---- slow clients


def test_send_waits_for_a_slow_client(serve: Serve) -> None:
    sent: list[int] = []
    block = b"x" * 50_000
    blocks = 400

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start())
        for number in range(blocks):
            await send(body(block, True))
            sent.append(number)
        await send(body())

    wire = serve(app)
    client = wire.connect(receive_buffer=4096)
    client.reading = False
    client.send(GET)
    before = -1
    while before != len(sent):
        before = len(sent)
        wire.run(0.05)
    # The kernel's buffer takes some; far from all.
    assert 0 < before < blocks / 2
    client.reading = True
    assert len(client.response().body) == blocks * len(block)


def test_several_send_to_a_slow_client(serve: Serve) -> None:
    """Each of them waits, and each of them goes on."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start())

        async def fill() -> None:
            for _ in range(20):
                await send(body(b"x" * 100_000, True))

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(fill())
        await send(body())

    wire = serve(app)
    client = wire.connect(receive_buffer=4096)
    client.reading = False
    client.send(GET)
    wire.run(0.1)
    client.reading = True
    assert len(client.response().body) == 6_000_000


def test_a_client_that_takes_nothing_is_given_up(serve: Serve) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start())
        try:
            while True:
                await send(body(b"x" * 100_000, True))
        except OSError as error:
            seen.append(error)
            raise

    wire = serve(app, timeout_write_s=0.2)
    client = wire.connect(receive_buffer=4096)
    client.reading = False
    client.send(GET)
    wire.turn_until(lambda: seen)
    assert isinstance(seen[0], BrokenPipeError)


# ---- clients that leave


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_receive_says_that_the_client_is_gone(serve: Serve, how: str) -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        seen.append({})
        seen.append(await receive())

    wire = serve(app)
    client = wire.connect()
    client.send(GET)
    wire.turn_until(lambda: seen)
    client.shutdown() if how == "half-close" else client.close(reset=how == "reset")
    wire.turn_until(lambda: len(seen) == 2)
    assert seen[1] == {"type": "http.disconnect"}


def test_a_client_that_closed_its_side_gets_its_answer(serve: Serve) -> None:
    """Told that nothing more comes, an application may still answer."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"abc"
        assert (await receive())["type"] == "http.disconnect"
        await answering(b"x")(scope, receive, send)

    client = serve(app).connect()
    client.send(post(b"abc"))
    client.shutdown()
    assert client.response().body == b"x"


def test_a_stream_hears_of_the_loss_twice(serve: Serve) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        async def listen() -> None:
            await receive()
            seen.append((await receive())["type"])

        async with asyncio.TaskGroup() as group:
            group.create_task(listen())
            await send(start())
            with pytest.raises(OSError, match="gone"):
                while True:
                    await send(body(b"x" * 1000, True))
                    await asyncio.sleep(0.001)
        seen.append("done")

    wire = serve(app)
    client = wire.connect()
    client.send(GET)
    wire.turn_until(lambda: len(client.received) > 5000)
    client.close(reset=True)
    wire.turn_until(lambda: len(seen) == 2)
    assert seen == ["http.disconnect", "done"]


def test_what_send_raised_is_no_error(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    done: list[Any] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        async def stream() -> None:
            while True:
                await send(body(b"x" * 1000, True))
                await asyncio.sleep(0.001)

        await send(start())
        try:
            if scope["path"] == "/group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(stream())
            await stream()
        finally:
            done.append(1)

    wire = serve(app)
    for path in ("/", "/group"):
        client = wire.connect()
        client.send(get(path))
        wire.turn_until(lambda client=client: client.received)
        client.close(reset=True)
    wire.turn_until(lambda: len(done) == 2 and not wire.tasks)
    assert warnings(caplog) == []


def test_a_lost_client_that_send_notices_first_is_no_error(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    goes_on = asyncio.Event()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"x", True))
        await goes_on.wait()
        while True:
            await send(body(b"y", True))
            await asyncio.sleep(0)

    wire = serve(app)
    client = wire.connect()
    client.send(GET)
    wire.turn_until(lambda: client.received)
    client.close(reset=True)
    # The server does not look at its connections meanwhile.
    wire.loop.remove_reader(wire.server.fileno())
    goes_on.set()
    wire.loop.run_until_complete(asyncio.wait(wire.tasks))
    wire.loop.add_reader(wire.server.fileno(), wire.server.turn, 0)
    assert warnings(caplog) == []


def test_its_own_error_is_one_though_the_client_is_gone(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await receive()
        raise ValueError("own")

    wire = serve(app)
    client = wire.connect()
    client.send(get("/x?y"))
    wire.turn_until(lambda: wire.tasks)
    client.close(reset=True)
    wire.turn_until(lambda: not wire.tasks)
    assert warnings(caplog) == ["GET /x?y: the application failed"]


@pytest.mark.parametrize("wanted", [False, True])
def test_cancel_on_disconnect(serve: Serve, wanted: bool, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append("begun")
        try:
            await asyncio.sleep(0.2)
            seen.append("slept")
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    wire = serve(app, cancel_on_disconnect=wanted, is_careless=True)
    client = wire.connect()
    client.send(GET)
    wire.turn_until(lambda: seen)
    client.close(reset=True)
    wire.turn_until(lambda: len(seen) == 2)
    wire.turn_until(lambda: not wire.tasks)
    assert seen[1] == ("cancelled" if wanted else "slept")
    assert warnings(caplog) == []


# ---- messages that make no sense

WRONG: list[tuple[str, list[Any], type[Exception], str]] = [
    ("no dict", [None], TypeError, "a dict with a type"),
    ("no type", [{}], TypeError, "a dict with a type"),
    ("a type that is no str", [{"type": b"x"}], TypeError, "a dict with a type"),
    ("an unknown type", [{"type": "http.response.x"}], ValueError, "http.response.x"),
    ("a websocket's", [{"type": "websocket.accept"}], ValueError, "websocket.accept"),
    ("body first", [body(b"x")], RuntimeError, "before http.response.start"),
    ("file first", [{"type": "http.response.pathsend", "path": "/"}], RuntimeError, "before"),
    ("two starts", [start(), start()], RuntimeError, "second time"),
    ("no status", [{"type": "http.response.start"}], TypeError, "status"),
    ("status str", [{"type": "http.response.start", "status": "200"}], TypeError, "status"),
    ("status 99", [start(99)], ValueError, "99"),
    ("status 101", [start(101)], ValueError, "101"),
    ("status 1000", [start(1000)], ValueError, "1000"),
    ("str header", [start(200, ("a", "b"))], TypeError, "bytes"),  # type: ignore[arg-type]
    ("str value", [start(200, (b"a", "b"))], TypeError, "bytes"),  # type: ignore[arg-type]
    ("half a header", [start(200, (b"a",))], ValueError, ""),  # type: ignore[arg-type]
    ("splitting name", [start(200, (b"a\r\nb", b"c"))], ValueError, "cannot be sent"),
    ("splitting value", [start(200, (b"a", b"c\r\nd: e"))], ValueError, "cannot be sent"),
    ("bad length", [start(200, (b"content-length", b"-1"))], ValueError, "cannot be sent"),
    ("str body", [start(), body("x")], TypeError, "bytes, not str"),  # type: ignore[arg-type]
    ("int body", [start(), body(3)], TypeError, "bytes, not int"),  # type: ignore[arg-type]
    ("None body", [start(), {"type": "http.response.body", "body": None}], TypeError, "bytes"),
    ("trailers", [start(), {"type": "http.response.trailers"}], RuntimeError, "announced"),
    ("str hint", [{"type": "http.response.early_hint", "links": ["x"]}], TypeError, "bytes"),
    ("no path", [start(), {"type": "http.response.pathsend"}], TypeError, "path"),
    (
        "no file",
        [start(), {"type": "http.response.pathsend", "path": "/no/such"}],
        FileNotFoundError,
        "",
    ),
    (
        "a folder",
        [start(), {"type": "http.response.pathsend", "path": "/"}],
        ValueError,
        "regular file",
    ),
    (
        "no descriptor",
        [start(), {"type": "http.response.zerocopysend"}],
        AttributeError,
        "fileno",
    ),
]


@pytest.mark.parametrize(
    ("messages", "kind", "text"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_a_wrong_message_is_an_exception_and_changes_nothing(
    serve: Serve, messages: list[Any], kind: type[Exception], text: str
) -> None:
    caught: list[Exception] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        for message in messages[:-1]:
            await send(message)
        try:
            await send(messages[-1])
        except Exception as error:
            caught.append(error)
        if len(messages) == 1:
            await send(start())
        await send(body(b"fine"))

    client = serve(app).connect()
    for _ in range(2):
        assert client.request(GET).body == b"fine"
        assert type(caught[-1]) is kind
        assert text in str(caught[-1])


def test_after_the_end_nothing_can_be_sent(serve: Serve) -> None:
    caught: list[Any] = []
    later = [body(b"y"), start(), {"type": "http.response.trailers"}]

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"x"))
        for message in later:
            try:
                await send(message)
            except RuntimeError as error:
                caught.append(error)

    client = serve(app).connect()
    for _ in range(2):
        assert client.request(GET).body == b"x"
    client.wire.turn_until(lambda: len(caught) == 6)
    assert client.received == b""


def test_after_the_return_nothing_can_be_sent(serve: Serve) -> None:
    kept: list[Any] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        kept.append(send)
        await answering(b"x")(scope, receive, send)

    wire = serve(app)
    assert wire.request(GET).body == b"x"
    with pytest.raises(RuntimeError, match="after the application had returned"):
        kept[0](body(b"y"))


@pytest.mark.parametrize("excess", [False, True])
def test_a_body_that_is_not_as_long_as_was_said(
    serve: Serve, excess: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start(200, (b"content-length", b"3")))
        await send(body(b"abcdef" if excess else b"ab"))

    client = serve(app).connect()
    client.send(GET)
    client.wire.turn_until(lambda: client.received.endswith(b"abc" if excess else b"ab"))
    if not excess:
        client.wire.turn_until(lambda: client.eof)
    assert len(warnings(caplog)) == 1


# ---- applications that fail


class Failure(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, Failure])
@pytest.mark.parametrize("after", [0, 1])
def test_an_exception_is_a_500_and_is_logged_once(
    serve: Serve, error: type[BaseException], after: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if scope["path"] == "/fine":
            return await answering(b"fine")(scope, receive, send)
        if after:
            await send(start(200, (b"x", b"y")))
        raise error("secret")

    client = serve(app).connect()
    response = client.request(get("/bad%20path?q=1"))
    assert response.status == 500
    assert b"secret" not in response.body
    assert response.get("x") is None
    assert warnings(caplog) == ["GET /bad%20path?q=1: the application failed"]
    assert caplog.records[-1].exc_info is not None
    assert isinstance(caplog.records[-1].exc_info[1], error)
    assert client.request(get("/fine")).body == b"fine"


def test_an_exception_in_a_started_body_cuts_it_off(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"abc", True))
        raise ValueError

    client = serve(app).connect()
    client.send(GET)
    client.wire.turn_until(lambda: client.eof)
    assert client.received.endswith(b"3\r\nabc\r\n")
    assert warnings(caplog) == ["GET /: the application failed"]


async def silent(scope: Scope, receive: Any, send: Any) -> None:
    """Return without an answer."""


async def started(scope: Scope, receive: Any, send: Any) -> None:
    """Return without a body."""
    await send(start())


def plain(scope: Scope, receive: Any, send: Any) -> None:
    """Be no coroutine function."""


@pytest.mark.parametrize("app", [silent, started])
def test_no_answer_is_a_500(serve: Serve, app: Any, caplog: pytest.LogCaptureFixture) -> None:
    client = serve(app, is_careless=True).connect()
    for _ in range(2):
        assert client.request(GET).status == 500
    assert warnings(caplog) == ["GET /: the application returned without an answer"] * 2


def test_half_an_answer_is_cut_off(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"abc", True))

    client = serve(app, is_careless=True).connect()
    client.send(GET)
    client.wire.turn_until(lambda: client.eof)
    assert client.received.endswith(b"3\r\nabc\r\n")
    assert warnings(caplog) == ["GET /: the application returned before its response was complete"]


def test_a_function_that_is_no_coroutine(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    assert serve(plain).request(GET).status == 500
    assert warnings(caplog) == ["GET /: the application failed"]


def test_an_application_that_is_merely_awaitable(serve: Serve) -> None:
    class Endpoint:
        def __init__(self, scope: Scope, receive: Any, send: Any) -> None:
            self.call = answering(b"x")(scope, receive, send)

        def __await__(self) -> Any:
            return self.call.__await__()

    assert serve(Endpoint).request(GET).body == b"x"


def test_a_task_that_the_application_cancels(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    assert serve(app).request(GET).status == 500
    assert warnings(caplog) == ["GET /: the application failed"]


def test_the_task_goes_on_after_the_response(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await answering(b"x")(scope, receive, send)
        await asyncio.sleep(0.01)
        done.append(scope["path"])
        raise ValueError

    wire = serve(app)
    client = wire.connect()
    for path in ("/1", "/2"):
        assert client.request(get(path)).body == b"x"
    wire.turn_until(lambda: done == ["/1", "/2"] and not wire.tasks)
    assert warnings(caplog) == [f"GET {path}: the application failed" for path in done]


# ---- extensions


def test_early_hints(serve: Serve) -> None:
    hint = {"type": "http.response.early_hint", "links": [b"</a>; rel=preload", b"</b>"]}

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(hint)
        await send(start(200, (b"x", b"y")))
        await send(hint)
        await send(body(b"abc", True))
        await send(hint)
        await send(body())

    client = serve(app).connect()
    client.send(GET)
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\n\r\n"
    client.wire.turn_until(lambda: client.received.endswith(b"0\r\n\r\n"))
    assert client.received.startswith(early + early + b"HTTP/1.1 200 OK\r\nx: y\r\n")
    assert client.received.count(b"103") == 2
    client.received = b""
    response = client.request(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n")
    assert (response.status, response.body) == (200, b"abc")


@pytest.mark.parametrize("te", [None, "trailers", "gzip, Trailers"])
@pytest.mark.parametrize("parts", [1, 2])
def test_trailers(serve: Serve, te: str | None, parts: int) -> None:
    def trailers(name: bytes, more: bool) -> Message:
        headers = [(name, b"1")]
        return {"type": "http.response.trailers", "headers": headers, "more_trailers": more}

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start(200, (b"trailer", b"a, b"), trailers=True))
        if parts == 2:
            await send(body(b"ab", True))
        await send(body(b"c"))
        with pytest.raises(RuntimeError):
            await send(body(b"d"))
        await send(trailers(b"a", True))
        await send(trailers(b"b", False))
        with pytest.raises(RuntimeError):
            await send(trailers(b"c", False))

    client = serve(app).connect()
    for _ in range(2):
        client.received = b""
        client.send(get("/", *([f"TE: {te}"] if te else [])))
        end = b"0\r\na: 1\r\nb: 1\r\n\r\n" if te else b"0\r\n\r\n"
        client.wire.turn_until(lambda end=end: client.received.endswith(end))
        assert b"c\r\n" in client.received


def test_trailers_that_do_not_come(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start(trailers=True))
        await send(body(b"abc"))

    client = serve(app, is_careless=True).connect()
    client.send(GET)
    client.wire.turn_until(lambda: client.eof)
    assert not client.received.endswith(b"0\r\n\r\n")
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
@pytest.mark.parametrize("said", [False, True])
def test_pathsend(serve: Serve, tmp_path: Path, size: int, said: bool) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start(200, *([(b"content-length", str(size).encode())] if said else [])))
        await send({"type": "http.response.pathsend", "path": str(tmp_path / "file")})
        with pytest.raises(RuntimeError):
            await send(body(b"x"))

    wire = serve(app)
    client = wire.connect()
    client.request(GET)
    before = open_descriptors()
    for _ in range(2):
        response = client.request(GET)
        assert response.body == content
        assert response.get("content-length") == str(size)
    head = client.request(get(method="HEAD"), "HEAD")
    assert head.get("content-length") == (str(size) if size or said else None)
    assert open_descriptors() == before


def test_pathsend_stands_alone(serve: Serve, tmp_path: Path) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"x", True))
        with pytest.raises(RuntimeError, match="cannot follow"):
            await send({"type": "http.response.pathsend", "path": __file__})
        await send(body())

    assert serve(app).request(GET).body == b"x"


def test_zerocopysend(serve: Serve, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "file").write_bytes(content)
    zero = "http.response.zerocopysend"

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        with (tmp_path / "file").open("rb") as file:
            match scope["path"]:
                case "/whole":
                    await send(start())
                    await send({"type": zero, "file": file})
                case "/mixed":
                    await send(start())
                    await send({"type": zero, "file": file, "count": 10, "more_body": True})
                    await send(body(b"-", True))
                    await send({"type": zero, "file": file, "count": 10, "more_body": True})
                    await send(body(b"-", True))
                    more = {"offset": 100, "count": 10, "more_body": True}
                    await send({"type": zero, "file": file.fileno(), **more})
                    await send({"type": zero, "file": file, "offset": len(content) - 5})
                case "/beyond":
                    await send(start())
                    await send({"type": zero, "file": file, "offset": len(content) + 5})
                case "/negative":
                    await send(start())
                    with pytest.raises(ValueError, match="not negative"):
                        await send({"type": zero, "file": file, "offset": -1})
                    await send(body())

    wire = serve(app)
    client = wire.connect()
    expected = {
        "/whole": content,
        "/mixed": content[:10] + b"-" + content[10:20] + b"-" + content[100:110] + content[-5:],
        "/beyond": b"",
        "/negative": b"",
    }
    for path, wanted in expected.items():
        response = client.request(get(path))
        assert response.body == wanted
        assert response.get("transfer-encoding") == ("chunked" if path == "/mixed" else None)


def test_a_file_to_a_slow_client(serve: Serve, tmp_path: Path) -> None:
    """Sent after the application has closed its own descriptor, and returned."""
    content = os.urandom(5_000_000)
    (tmp_path / "file").write_bytes(content)
    closed: list[bool] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        with (tmp_path / "file").open("rb") as file:
            await send(start())
            await send({"type": "http.response.zerocopysend", "file": file})
        closed.append(file.closed)

    wire = serve(app)
    client = wire.connect(receive_buffer=4096)
    client.reading = False
    client.send(GET)
    wire.turn_until(lambda: closed)
    client.reading = True
    assert client.response().body == content


def debugging(*infos: Any, first: Message | None = None) -> Any:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if first is not None:
            await send(first)
        for info in infos:
            await send({"type": "http.response.debug", "info": info})
        if first is None:
            await send(start())
        await send(body(",".join(scope["extensions"]).encode()))

    return app


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError


def test_debug_goes_to_the_log_that_wants_it(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "fastcluster")
    info = {"template": "x" * 10_000, "context": {"a": 1}, "other": Unprintable()}
    wire = serve(debugging(info), log_level="debug")
    assert b"http.response.debug" in wire.request(get("/x")).body
    [line] = [r.getMessage() for r in caplog.records if "template" in r.getMessage()]
    assert line.startswith("GET /x: the application says template: 'xxx")
    assert "context: {'a': 1}, other: <Unprintable" in line
    assert len(line) < 1000


def test_debug_is_for_nobody_else(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The specification would have no server offer it; what comes all the same is dropped."""
    wire = serve(debugging({"a": 1}), is_careless=True)
    assert b"http.response.debug" not in wire.request(GET).body
    assert "application says" not in caplog.text


@pytest.mark.parametrize(
    ("app", "error"),
    [(debugging(None), "TypeError"), (debugging({}, first=start()), "RuntimeError")],
)
def test_debug_that_makes_no_sense(
    serve: Serve, app: Any, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert serve(app, log_level="debug").request(GET).status == 500
    assert f"{error}: " in caplog.text


# ---- a drain


def test_a_draining_server_lets_requests_finish(serve: Serve) -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await go.wait()
        await answering(b"last")(scope, receive, send)

    wire = serve(app)
    client = wire.connect()
    client.send(GET)
    wire.turn_until(lambda: wire.tasks)
    wire.server.drain()
    wire.run()
    assert not wire.server.drained
    go.set()
    response = client.response()
    assert (response.body, response.get("connection")) == (b"last", "close")
    client.close()
    wire.turn_until(lambda: wire.server.drained)


def test_cancel_all(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"x", True))
        try:
            await asyncio.sleep(100)
        finally:
            seen.append("cleaned up")

    wire = serve(app)
    client = wire.connect()
    client.send(GET)
    wire.turn_until(lambda: client.received)
    wire.handler.cancel_all()  # type: ignore[attr-defined]
    wire.turn_until(lambda: client.eof)
    assert seen == ["cleaned up"]
    assert warnings(caplog) == ["GET /: cancelled"]


def test_a_task_that_is_cancelled_before_it_begins_answers_too(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    wire = serve(answering(b"never"))
    client = wire.connect()
    # With a body, so that no task starts at once.
    client.send(post(b"body"))

    async def take_and_cancel() -> None:
        while not wire.tasks:
            wire.server.turn(1)
        wire.handler.cancel_all()  # type: ignore[attr-defined]

    wire.loop.remove_reader(wire.server.fileno())
    wire.loop.run_until_complete(take_and_cancel())
    wire.loop.add_reader(wire.server.fileno(), wire.server.turn, 0)
    assert client.response().status in (200, 500)
    wire.turn_until(lambda: not wire.tasks)
