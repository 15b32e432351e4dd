"""native_async.pyx: async handlers, the bodies they await, and the clients they lose."""

import asyncio
import contextlib
import functools
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgi_parts import GET, LOOPS, GuestWire, get, post, warnings, wires
from harness import Response, open_descriptors
from test_processes import Cluster

from fastcluster.config import Config
from fastcluster.errors import AppLoadError
from fastcluster.fields import BadRequest
from fastcluster.native_async import AsyncNativeHandler, AsyncRequest, AsyncResponse
from fastcluster.request import Request
from fastcluster.response import Response as Answer

CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
EXPECT = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
FORM = "Content-Type: application/x-www-form-urlencoded"


class AsyncWire(GuestWire):
    """A Wire that serves an async handler as a guest of an asyncio loop."""

    def __init__(self, handler: Any, **options: Any) -> None:
        super().__init__(AsyncNativeHandler, handler, **options)


Serve = Callable[..., AsyncWire]


@pytest.fixture(params=LOOPS)
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    """serve(handler, **options) returns an AsyncWire, on each kind of loop."""
    with wires(AsyncWire, request.param) as open_wire:
        yield open_wire


def twice(wire: AsyncWire, data: bytes = GET, method: str = "GET") -> Response:
    """Return the second of two answers on one connection."""
    client = wire.connect()
    client.request(data, method)
    return client.request(data, method)


# ---- forms and answers


async def one(request: AsyncRequest) -> str:
    await asyncio.sleep(0)
    return f"one {request.path}"


async def two(request: AsyncRequest, response: AsyncResponse) -> None:
    await asyncio.sleep(0)
    await response.end(b"two")


class Site:
    async def one(self, request: AsyncRequest) -> bytes:
        return b"method"

    async def __call__(self, request: AsyncRequest) -> bytes:
        return b"called"


@pytest.mark.parametrize(
    ("handler", "body"),
    [
        (one, b"one /"),
        (two, b"two"),
        (Site().one, b"method"),
        (Site(), b"called"),
        (functools.partial(two), b"two"),
    ],
)
def test_both_forms(serve: Serve, handler: Any, body: bytes) -> None:
    answer = twice(serve(handler))
    assert (answer.status, answer.body) == (200, body)
    assert answer.get("content-length") == str(len(body))


RESULTS: list[tuple[Any, int, bytes, str | None]] = [
    (b"bytes", 200, b"bytes", "application/octet-stream"),
    ("text", 200, b"text", "text/plain; charset=utf-8"),
    ({"a": [1]}, 200, b'{"a":[1]}', "application/json"),
    (None, 204, b"", None),
    ((201, "made"), 201, b"made", "text/plain; charset=utf-8"),
    ((200, {"Content-Type": "x/y"}, b"z"), 200, b"z", "x/y"),
    (Answer("teapot", 418, {"X": "1"}), 418, b"teapot", "text/plain; charset=utf-8"),
    ([], 200, b"[]", "application/json"),
]


@pytest.mark.parametrize(("result", "status", "body", "kind"), RESULTS)
def test_what_may_be_returned(
    serve: Serve, result: Any, status: int, body: bytes, kind: str | None
) -> None:
    async def handler(request: AsyncRequest) -> Any:
        return result

    answer = twice(serve(handler))
    assert (answer.status, answer.body, answer.get("content-type")) == (status, body, kind)


def test_what_cannot_be_returned(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: AsyncRequest) -> Any:
        return 1

    assert twice(serve(handler)).status == 500
    assert "the handler returned 1; a body is" in caplog.text


def test_what_is_no_handler() -> None:
    with pytest.raises(AppLoadError, match="write it as handler"):
        AsyncNativeHandler(lambda: b"", Config())


def test_a_request_is_a_task_of_its_own(serve: Serve) -> None:
    seen: list[Any] = []

    async def handler(request: AsyncRequest) -> bytes:
        seen.append(asyncio.current_task())
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        return b"x"

    assert twice(serve(handler)).body == b"x"
    assert len(set(seen)) == 2
    assert all(isinstance(task, asyncio.Task) for task in seen)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks cannot be started eagerly")
def test_a_handler_that_never_waits_answers_in_the_same_turn() -> None:
    async def handler(request: AsyncRequest) -> bytes:
        return b"x"

    async def turns() -> None:
        # The loop does not come back to its own in between.
        for _ in range(1000):
            if client.received:
                return
            wire.server.turn(1)
            client.pull()

    wire = AsyncWire(handler)
    client = wire.connect()
    client.send(GET)
    wire.loop.run_until_complete(turns())
    assert client.received
    assert client.response().body == b"x"
    wire.close()


def test_many_wait_at_once_and_pipelined_ones_in_order(serve: Serve) -> None:
    go = asyncio.Event()
    n = 0

    async def handler(request: AsyncRequest) -> str:
        nonlocal n
        n += 1
        await go.wait()
        return request.path

    wire = serve(handler)
    clients = [wire.connect() for _ in range(5)]
    for client in clients:
        client.send(get("/a") + get("/b") + get("/c"))
    wire.turn_until(lambda: n == 5)
    go.set()
    for client in clients:
        assert [client.response().body for _ in range(3)] == [b"/a", b"/b", b"/c"]


def test_a_pipelined_batch_uses_no_stack(serve: Serve) -> None:
    async def handler(request: AsyncRequest, response: AsyncResponse) -> None:
        await asyncio.sleep(0)
        await response.end(b"x")

    client = serve(handler).connect()
    client.send(GET * 3000)
    for _ in range(3000):
        assert client.response().body == b"x"


def test_a_request_outlives_its_response(serve: Serve) -> None:
    kept: list[AsyncRequest] = []

    async def handler(request: AsyncRequest) -> bytes:
        kept.append(request)
        if request.query:
            await asyncio.sleep(0)
        return b"x"

    wire = serve(handler)
    client = wire.connect()
    for target in ("/kept?a=1", "/kept"):
        client.request(get(target, "X-Y: z"))
        client.request(get("/other"))
    assert [request.path for request in kept] == ["/kept", "/other", "/kept", "/other"]
    assert kept[0].headers["x-y"] == "z"
    assert kept[0].query["a"] == "1"
    assert isinstance(kept[0], Request)


# ---- the request's body


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_read_all(serve: Serve, size: int) -> None:
    async def handler(request: AsyncRequest) -> bytes:
        data = await request.read()
        assert await request.read() == b""
        return data

    content = os.urandom(size)
    client = serve(handler).connect()
    for _ in range(2):
        assert client.request(post(content)).body == content


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_iterate(serve: Serve, size: int) -> None:
    async def handler(request: AsyncRequest) -> bytes:
        chunks = [chunk async for chunk in request]
        assert all(chunks)
        return b"".join(chunks)

    content = os.urandom(size)
    client = serve(handler).connect()
    for _ in range(2):
        assert client.request(post(content)).body == content


def test_read_as_it_comes(serve: Serve) -> None:
    seen: list[bytes] = []

    async def handler(request: AsyncRequest) -> bytes:
        seen.append(await request.read(2))
        seen.append(await request.read(100))
        seen.append(await request.read(0))
        seen.append(await request.read())
        return b"x"

    wire = serve(handler)
    client = wire.connect()
    client.send(CHUNKED + b"3\r\nabc\r\n")
    wire.turn_until(lambda: len(seen) == 3)
    assert seen == [b"ab", b"c", b""]
    client.send(b"2\r\nde\r\n")
    wire.run(0.01)
    client.send(b"1\r\nf\r\n0\r\n\r\n")
    assert client.response().body == b"x"
    assert seen[3] == b"def"


def test_json_form_text_files_and_body(serve: Serve) -> None:
    async def handler(request: AsyncRequest) -> Any:
        if request.path == "/json":
            return [await request.json(), await request.json()]
        if request.path == "/form":
            return dict(await request.form())
        if request.path == "/files":
            [(name, upload)] = (await request.files()).items()
            return [name, upload.filename, upload.read().decode()]
        return [await request.text(), (await request.body).decode(), await request.read() == b""]

    wire = serve(handler, body_memory_bytes=64)
    client = wire.connect()

    def ask(target: str, content: bytes, *fields: str) -> Any:
        fields = (f"Content-Length: {len(content)}", *fields)
        answer = client.request(get(target, *fields, method="POST") + content)
        assert answer.status == 200, answer
        return json.loads(answer.body)

    assert ask("/json", b'{"a": 1}') == [{"a": 1}] * 2
    assert ask("/json", json.dumps(["x" * 1000]).encode()) == [["x" * 1000]] * 2
    assert ask("/form", b"a=1&b=2", FORM) == {"a": "1", "b": "2"}
    assert ask("/", b"text") == ["text", "text", False]
    multipart = (
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="n"\r\n\r\n'
        + b"y" * 500
        + b"\r\n--b--\r\n"
    )
    kind = "Content-Type: multipart/form-data; boundary=b"
    assert ask("/files", multipart, kind) == ["f", "n", "y" * 500]
    assert client.request(post(b"{")).status == 200


def test_mistakes_of_the_client_are_400(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: AsyncRequest) -> Any:
        if request.method == "GET":
            raise BadRequest("no", 422)
        return await request.json()

    wire = serve(handler)
    assert twice(wire, post(b"{")).status == 400
    assert twice(wire).status == 422
    assert warnings(caplog) == []


def test_a_body_that_was_partly_read_is_not_parsed(serve: Serve) -> None:
    seen: list[str] = []

    async def handler(request: AsyncRequest) -> bytes:
        await request.read(1)
        with pytest.raises(RuntimeError, match="partly read") as caught:
            await request.json()
        seen.append(str(caught.value))
        with pytest.raises(TypeError, match="async for"):
            iter(request)
        return b"x"

    assert twice(serve(handler), post(b"123")).body == b"x"
    assert len(seen) == 2


def test_a_reader_that_times_out_loses_nothing(serve: Serve) -> None:
    timeouts: list[int] = []

    async def handler(request: AsyncRequest) -> Any:
        try:
            async with asyncio.timeout(0.02):
                await request.json()
        except TimeoutError:
            timeouts.append(1)
        return await request.json()

    wire = serve(handler)
    client = wire.connect()
    client.send(CHUNKED + b"3\r\n[1,\r\n")
    wire.turn_until(lambda: timeouts)
    client.send(b"2\r\n2]\r\n0\r\n\r\n")
    assert client.response().body == b"[1,2]"


def test_the_handler_begins_at_the_head_and_the_client_is_told_to_continue(serve: Serve) -> None:
    go, begun = asyncio.Event(), []

    async def handler(request: AsyncRequest) -> bytes:
        begun.append(1)
        await go.wait()
        return await request.read()

    wire = serve(handler)
    client = wire.connect()
    client.send(EXPECT)
    wire.turn_until(lambda: begun)
    assert client.received == b""
    go.set()
    wire.turn_until(lambda: client.received)
    assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.received = b""
    client.send(b"abc")
    assert client.response().body == b"abc"


def test_reading_stops_while_the_handler_does_not_read(serve: Serve) -> None:
    go = asyncio.Event()

    async def handler(request: AsyncRequest) -> str:
        await go.wait()
        n = 0
        async for chunk in request:
            assert len(chunk) <= 65536
            n += len(chunk)
        return str(n)

    total = 20_000_000
    wire = serve(handler)
    client = wire.connect()
    client.send(get("/", f"Content-Length: {total}", method="POST") + b"x" * total)
    before = -1
    while before != len(client.unsent):
        before = len(client.unsent)
        wire.run(0.05)
    assert before > total / 2
    go.set()
    assert client.response().body == str(total).encode()


@pytest.mark.parametrize("leave", ["half", "close", "reset"])
def test_a_body_that_breaks_is_an_error(
    serve: Serve, leave: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    async def handler(request: AsyncRequest) -> bytes:
        seen.append("begun")
        try:
            await request.read()
        except ConnectionResetError as error:
            seen.append(str(error))
            raise
        return b"x"

    wire = serve(handler)
    client = wire.connect()
    client.send(post(b"x" * 100)[:-1])
    wire.turn_until(lambda: seen)
    client.shutdown() if leave == "half" else client.close(reset=leave == "reset")
    wire.turn_until(lambda: len(seen) == 2)
    assert "before its request body was whole" in seen[1]
    wire.turn_until(lambda: not wire.tasks)
    assert warnings(caplog) == []


def test_a_body_that_nobody_reads(serve: Serve) -> None:
    async def handler(request: AsyncRequest) -> bytes:
        return b"x"

    client = serve(handler).connect()
    for _ in range(3):
        assert client.request(post(b"y" * 20_000)).body == b"x"


# ---- the response


def test_write_and_end(serve: Serve) -> None:
    async def handler(request: AsyncRequest, response: AsyncResponse) -> None:
        response.set_header("X-A", "1")
        response.write_head(201, {"X-B": "2"})
        await asyncio.sleep(0.01)
        await response.write("a")
        await asyncio.sleep(0)
        await response.write(b"b")
        await response.end("c")
        assert response.finished
        with pytest.raises(RuntimeError, match="has ended"):
            await response.write(b"more")

    answer = twice(serve(handler))
    assert (answer.status, answer.body) == (201, b"abc")
    assert (answer.get("x-a"), answer.get("x-b")) == ("1", "2")
    assert answer.get("transfer-encoding") == "chunked"


def test_heads_that_are_made_at_once_do_not_mix(serve: Serve) -> None:
    go, waiting = asyncio.Event(), []

    async def handler(request: AsyncRequest, response: AsyncResponse) -> None:
        response.write_head(200, {"X-Path": request.path})
        waiting.append(1)
        await go.wait()
        await response.end(request.path)

    wire = serve(handler)
    clients = [wire.connect() for _ in range(3)]
    for i, client in enumerate(clients):
        client.send(get(f"/{i}"))
    wire.turn_until(lambda: len(waiting) == 3)
    go.set()
    for i, client in enumerate(clients):
        answer = client.response()
        assert (answer.get("x-path"), answer.body) == (f"/{i}", f"/{i}".encode())


def test_what_is_written_goes_out_at_once(serve: Serve) -> None:
    go = asyncio.Event()

    async def handler(request: AsyncRequest, response: AsyncResponse) -> None:
        await response.flush()
        await go.wait()
        await response.write("a")
        go.clear()
        await go.wait()

    wire = serve(handler)
    client = wire.connect()
    client.send(GET)
    wire.turn_until(lambda: b"\r\n\r\n" in client.received)
    assert not client.received.endswith(b"a\r\n")
    go.set()
    wire.turn_until(lambda: client.received.endswith(b"1\r\na\r\n"))
    wire.run(0.01)
    go.set()
    assert client.response().body == b"a"


def test_writing_waits_for_the_client(serve: Serve) -> None:
    written = 0

    async def handler(request: AsyncRequest, response: AsyncResponse) -> None:
        nonlocal written
        for _ in range(300):
            await response.write(b"x" * 65536)
            written += 1

    wire = serve(handler)
    client = wire.connect()
    client.reading = False
    client.send(GET)
    before = -1
    while before != written:
        before = written
        wire.run(0.05)
    assert 0 < written < 250
    client.reading = True
    assert len(client.response().body) == 300 * 65536


@pytest.mark.parametrize("cancel", [False, True])
def test_a_client_that_leaves(serve: Serve, cancel: bool, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[type[BaseException]] = []
    begun, go = [], asyncio.Event()

    async def handler(request: AsyncRequest, response: AsyncResponse) -> None:
        await response.write(b"x")
        begun.append(1)
        try:
            await go.wait()
            while True:
                await response.write(b"x" * 65536)
        except BaseException as error:
            seen.append(type(error))
            raise

    wire = serve(handler, cancel_on_disconnect=cancel)
    client = wire.connect()
    client.send(GET)
    wire.turn_until(lambda: begun)
    client.close(reset=True)
    wire.run(0.02)
    if not cancel:
        assert seen == []
        go.set()
    wire.turn_until(lambda: seen and not wire.tasks)
    assert seen == [asyncio.CancelledError if cancel else BrokenPipeError]
    assert warnings(caplog) == []


def test_send_file(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(b"z" * 300_000)

    async def handler(request: AsyncRequest, response: AsyncResponse) -> None:
        response.write_head(200, {"X-Y": "z"})
        await asyncio.sleep(0)
        await response.send_file(path)

    wire = serve(handler)
    wire.request(GET)
    wire.turn_until(lambda: wire.server.n_connections == 0)
    before = open_descriptors()
    for _ in range(2):
        answer = wire.request(GET)
        assert answer.body == b"z" * 300_000
        assert answer.get("content-type") == "text/html"
    wire.turn_until(lambda: wire.server.n_connections == 0)
    assert open_descriptors() <= before


@pytest.mark.parametrize("begun", [False, True])
def test_a_handler_that_fails(serve: Serve, begun: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: AsyncRequest, response: AsyncResponse) -> None:
        if begun:
            await response.write(b"x")
        await asyncio.sleep(0)
        raise KeyError("mine")

    wire = serve(handler)
    client = wire.connect()
    client.send(GET)
    if begun:
        wire.turn_until(lambda: client.eof)
        assert client.received.endswith(b"1\r\nx\r\n")
    else:
        assert client.response().status == 500
    assert warnings(caplog) == ["GET / HTTP/1.1: the handler failed"]
    assert "mine" in caplog.text
    assert "native_async.pyx" not in caplog.text


def test_a_handler_that_says_nothing(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: AsyncRequest, response: AsyncResponse) -> None: ...

    assert twice(serve(handler)).status == 500
    assert "without an answer" in caplog.text


def test_the_traceback_is_the_answer_in_development(serve: Serve) -> None:
    async def handler(request: AsyncRequest) -> bytes:
        raise KeyError("mine")

    answer = twice(serve(handler, env="development", access_log=False))
    assert answer.status == 500
    assert b"KeyError: 'mine'" in answer.body


def test_sys_exit_costs_its_own_request_only(serve: Serve) -> None:
    async def handler(request: AsyncRequest) -> bytes:
        sys.exit(3)

    assert twice(serve(handler)).status == 500


# ---- streamed bodies


async def generator(request: AsyncRequest) -> AsyncIterator[Any]:
    for n in range(3):
        yield f"{n}\n"
        await asyncio.sleep(0)


async def returned(request: AsyncRequest) -> Any:
    return 200, {"X-Y": "z"}, generator(request)


async def of_sync(request: AsyncRequest) -> Any:
    return (f"{n}\n" for n in range(3))


@pytest.mark.parametrize("handler", [generator, returned, of_sync])
def test_iterators_are_streamed(serve: Serve, handler: Any) -> None:
    answer = twice(serve(handler))
    assert answer.body == b"0\n1\n2\n"
    assert answer.get("transfer-encoding") == "chunked"
    assert answer.get("content-type") == "text/plain; charset=utf-8"
    assert twice(serve(handler), get(method="HEAD"), "HEAD").body == b""


def test_an_iterator_without_blocks(serve: Serve) -> None:
    async def handler(request: AsyncRequest) -> AsyncIterator[bytes]:
        for block in ():
            yield block

    answer = twice(serve(handler))
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("leave", ["half", "close", "reset"])
def test_a_generator_is_closed_when_its_client_leaves(
    serve: Serve, leave: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    async def handler(request: AsyncRequest) -> AsyncIterator[bytes]:
        try:
            yield b"x"
            seen.append("waits")
            await asyncio.sleep(60)
        finally:
            seen.append("closed")

    wire = serve(handler)
    client = wire.connect()
    client.send(GET)
    wire.turn_until(lambda: seen)
    client.shutdown() if leave == "half" else client.close(reset=leave == "reset")
    wire.turn_until(lambda: not wire.tasks)
    assert seen == ["waits", "closed"]
    assert warnings(caplog) == []


def test_a_generator_that_fails_breaks_off(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: AsyncRequest) -> AsyncIterator[bytes]:
        yield b"x"
        raise KeyError("mine")

    wire = serve(handler)
    client = wire.connect()
    client.send(GET)
    wire.turn_until(lambda: client.eof)
    assert client.received.endswith(b"1\r\nx\r\n")
    assert warnings(caplog) == ["GET / HTTP/1.1: the handler failed"]


# ---- the end, and nothing left behind


def test_cancelled_when_time_is_over(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    cleaned: list[str] = []

    async def handler(request: AsyncRequest) -> bytes:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append(request.path)
        return b""

    wire = serve(handler)
    client = wire.connect()
    client.send(GET)
    wire.turn_until(lambda: wire.tasks)
    assert isinstance(wire.handler, AsyncNativeHandler)
    wire.server.drain()
    wire.handler.cancel_all()
    assert client.response().status == 500
    assert cleaned == ["/"]
    assert warnings(caplog) == ["GET / HTTP/1.1: cancelled"]


def test_nothing_is_left_behind(serve: Serve) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    class Thing:
        pass

    async def handler(request: AsyncRequest, response: AsyncResponse) -> None:
        thing = Thing()
        alive.add(thing)
        await request.read()
        with contextlib.suppress(BrokenPipeError):
            for _ in range(5):
                await response.write(b"x" * 30_000)
                await asyncio.sleep(0)

    wire = serve(handler)
    client = wire.connect()
    gc.disable()
    try:
        for _ in range(50):
            client.request(post(b"abc"))
        wire.run(0.01)
        assert len(alive) <= 1
    finally:
        gc.enable()
    for _ in range(20):
        lost = wire.connect()
        lost.send(post(b"abc"))
        wire.turn()
        lost.close(reset=True)
    wire.turn_until(lambda: not wire.tasks)
    gc.collect()
    assert len(alive) <= 1


# ---- as real processes


@pytest.mark.parametrize(("seconds", "status"), [("0.2", b"200"), ("60", b"500")])
def test_a_worker_drains_with_running_handlers(seconds: str, status: bytes) -> None:
    cluster = Cluster(
        "--bind", "127.0.0.1:0", "-w", "1", "--graceful-timeout", "2", app="async_app:app"
    )
    try:
        cluster.ready(1)
        assert cluster.get("/") == "hello"
        with socket.create_connection(("127.0.0.1", cluster.port)) as client:
            client.sendall(get(f"/wait?s={seconds}"))
            cluster.expect("a handler waits")
            cluster.signal(signal.SIGTERM)
            client.settimeout(30)
            data = b"".join(iter(lambda: client.recv(65536), b""))
        assert data.startswith(b"HTTP/1.1 " + status)
        assert cluster.exit_code() == 0
        assert cluster.said("a handler has ended")
    finally:
        cluster.end()


PROGRAM = """
import asyncio
from fastcluster import http

async def handler(request):
    await asyncio.sleep(0)
    return "hello"

server = http.create_server(handler).listen(0, callback=lambda: print(server.address(), flush=True))
server.serve_forever()
print("over", flush=True)
"""


def test_a_program_of_its_own_serves_until_it_is_told_to_stop() -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        host, _, port = process.stdout.readline().decode().strip().rpartition(":")
        for _ in range(2):
            with socket.create_connection((host, int(port)), 30) as client:
                client.sendall(get("/", "Connection: close"))
                assert b"".join(iter(lambda: client.recv(65536), b"")).endswith(b"hello")
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == b"over\n"
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def test_the_example_of_server_sent_events() -> None:
    path = Path(__file__).parent.parent / "examples" / "sse.py"
    process = subprocess.Popen([sys.executable, str(path), "0"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        host, port = process.stdout.readline().decode().strip()[7:].split(":")
        with socket.create_connection((host, int(port)), 30) as client:
            client.sendall(get("/events", "Last-Event-ID: 41"))
            data = b""
            while b"id: 43\n" not in data:
                data += client.recv(65536)
        assert b"text/event-stream" in data
        assert b"retry: 1000\n\n" in data
        assert b'id: 42\ndata: {"tick": 42}\n\n' in data
        assert process.stdout.readline() == b"a listener has left\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
