"""app_async.py: Apps whose functions are async in part, over real connections."""

import asyncio
import contextlib
import http.client
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_app import WAIT_S, fetch, program

from fastcluster import http as face
from fastcluster.app import App, HTTPError
from fastcluster.errors import AppLoadError


@contextlib.contextmanager
def serving(app: App) -> Iterator[int]:
    """Serve the app in a thread and yield its port."""
    server = app.listen(0, timeout_graceful_s=5)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.address().port
    finally:
        server.close()
        thread.join(WAIT_S)


def post(port: int, path: str, body: bytes) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    with contextlib.closing(connection):
        connection.request("POST", path, body)
        response: Any = connection.getresponse()
        response.body = response.read()
        return response


async def pause() -> None:
    """Wait once, so that what calls it is really suspended."""
    await asyncio.sleep(0)


async def later(request: Any) -> str:
    return "later"


# ---- routes


def test_sync_and_async_routes_read_the_same_body() -> None:
    app = App()

    @app.post("/async")
    async def later(request: Any) -> Any:
        await pause()
        return [await request.json(), await request.text(), (await request.body).decode()]

    @app.post("/sync")
    def now(request: Any) -> Any:
        return [request.json(), request.text(), request.body.decode()]

    @app.post("/read")
    def read(request: Any, response: Any) -> None:
        response.json([request.read(1).decode(), [chunk.decode() for chunk in request]])

    @app.post("/chunks")
    async def chunks(request: Any, response: Any) -> None:
        await response.json([chunk.decode() async for chunk in request])

    with serving(app) as port:
        assert json.loads(post(port, "/async", b"[1]").body) == [[1], "[1]", "[1]"]
        assert json.loads(post(port, "/sync", b"[1]").body) == [[1], "[1]", "[1]"]
        assert json.loads(post(port, "/read", b"[1]").body) == ["[", ["1]"]]
        assert json.loads(post(port, "/chunks", b"[1]").body) == ["[1]"]


def test_a_sync_route_is_given_a_body_that_comes_later() -> None:
    app = App()
    app.get("/", later)  # is never asked
    app.post("/", lambda request: request.body)
    with serving(app) as port, socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
        client.sendall(
            b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n"
            b"Connection: close\r\nContent-Length: 4\r\n\r\n"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"la")
        client.sendall(b"te")
        assert client.makefile("rb").read().endswith(b"\r\n\r\nlate")


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("takes_response", [False, True])
def test_a_response_may_be_returned(is_async: bool, takes_response: bool) -> None:
    app = App()

    @app.use
    def cookie(request: Any, response: Any, next: Any) -> None:
        response.cookie("a", "1").set_header("X-A", "outer").set_header("X-B", "outer")
        next()

    value = face.Response({"n": 1}, 201, {"X-A": "inner", "Set-Cookie": "b=2"}, "Made It")

    async def later(request: Any) -> Any:
        return value

    async def both_later(request: Any, response: Any) -> Any:
        return value

    def both(request: Any, response: Any) -> Any:
        return value

    one = later if is_async else (lambda request: value)
    two = both_later if is_async else both
    app.get("/", two if takes_response else one)
    with serving(app) as port:
        for _ in range(2):
            response = fetch(port, "/")
            assert (response.status, response.reason, response.body) == (201, "Made It", b'{"n":1}')
            assert response.getheader("x-a") == "inner"
            assert response.getheader("x-b") == "outer"
            assert response.headers.get_all("set-cookie") == ["a=1; Path=/", "b=2"]


def test_every_verb_may_be_awaited(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("{{ a }}")
    app = App().set("views", tmp_path)

    @app.get("/{verb}")
    async def verb(request: Any, response: Any) -> None:
        verb = request.params["verb"]
        arguments = {
            "json": ({},), "send": (["x"],), "redirect": ("/",), "render": ("a.html",),
            "send_file": (tmp_path / "a.html",), "end": ("x",),
        }  # fmt: skip
        if verb == "blocks":
            await response.send(iter(["x", "y"]))
        elif verb == "write":
            await response.write("x")
            await response.write("y")
        else:
            await getattr(response, verb)(*arguments[verb])
        assert response.finished is (verb != "write")

    with serving(app) as port:
        answers = {
            verb: fetch(port, f"/{verb}")
            for verb in (
                "json",
                "send",
                "redirect",
                "render",
                "send_file",
                "end",
                "blocks",
                "write",
            )
        }
    assert {verb: (a.status, a.body) for verb, a in answers.items()} == {
        "json": (200, b"{}"), "send": (200, b'["x"]'), "redirect": (302, b""),
        "render": (200, b""), "send_file": (200, b"{{ a }}"), "end": (200, b"x"),
        "blocks": (200, b"xy"), "write": (200, b"xy"),
    }  # fmt: skip


def test_a_sync_route_that_writes_much_waits_for_its_client() -> None:
    app, full = App(), []
    app.get("/never", later)

    @app.get("/")
    def much(request: Any, response: Any) -> None:
        for _ in range(64):
            full.append(not response.write(b"x" * 262144))

    with serving(app) as port:
        assert len(fetch(port, "/").body) == 64 * 262144
    assert len(full) == 64


# ---- middleware


def test_async_middleware_awaits_what_comes_next() -> None:
    app, seen = App(), []

    @app.use
    async def outer(request: Any, response: Any, next: Any) -> None:
        request.note = "outer"
        seen.append("before")
        await next()
        seen.append(f"after {response.finished}")

    @app.use
    def inner(request: Any, response: Any, next: Any) -> None:
        request.note += " inner"
        next()
        seen.append(f"inner {response.finished}")

    app.get("/sync", lambda request: request.note)

    @app.get("/async")
    async def route(request: Any) -> Any:
        await pause()
        return request.note

    with serving(app) as port:
        assert fetch(port, "/sync").body == b"outer inner"
        assert seen == ["before", "inner True", "after True"]
        seen.clear()
        assert fetch(port, "/async").body == b"outer inner"
        # A function that is not async cannot wait, and goes on at the first wait.
        assert seen == ["before", "inner False", "after True"]


@pytest.mark.parametrize(("path", "status"), [("/now", 409), ("/later", 409)])
def test_what_fails_behind_sync_middleware_goes_to_the_error_handlers(
    path: str, status: int
) -> None:
    app = App()
    app.use(lambda request, response, next: next())

    @app.get("/now")
    async def now(request: Any) -> None:
        raise LookupError

    @app.get("/later")
    async def later(request: Any) -> None:
        await pause()
        raise LookupError

    @app.error(LookupError)
    async def failed(error: Exception, request: Any, response: Any) -> None:
        await pause()
        await response.status(409).send(type(error).__name__)

    with serving(app) as port:
        response = fetch(port, path)
        assert (response.status, response.body) == (status, b"LookupError")


def test_what_still_runs_ends_with_its_middleware() -> None:
    app, seen = App(), []

    @app.use
    def fails(request: Any, response: Any, next: Any) -> None:
        next()
        raise HTTPError(418, "first")

    @app.get("/")
    async def route(request: Any) -> None:
        try:
            await asyncio.sleep(WAIT_S)
        finally:
            seen.append("ended")

    with serving(app) as port:
        response = fetch(port, "/")
        assert (response.status, response.body) == (418, b"first\n")
    assert seen == ["ended"]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_mistakes_of_async_middleware_are_told() -> None:
    app = App().set("env", "development")

    async def forgets(request: Any, response: Any, next: Any) -> None:
        next()

    async def silent(request: Any, response: Any, next: Any) -> None: ...

    async def twice(request: Any, response: Any, next: Any) -> None:
        await next()
        with pytest.raises(RuntimeError, match="called twice"):
            await next()

    app.use("/forgets", forgets)
    app.use("/silent", silent)
    app.use("/twice", twice)
    app.get("/twice", lambda request: "once")
    with serving(app) as port:
        assert b"forgets did not await next()" in fetch(port, "/forgets").body
        assert b"silent neither answered nor awaited next()" in fetch(port, "/silent").body
        assert fetch(port, "/twice").body == b"once"


def test_a_mounted_application_makes_the_whole_async() -> None:
    app, sub = App(), App()
    app.use("/sub", sub)

    @sub.get("/{name}")
    async def show(request: Any) -> Any:
        await pause()
        return [request.params["name"], request.path, request.base_url, request.app is sub]

    @sub.error(404)
    def missing(error: Exception, request: Any, response: Any) -> None:
        response.status(404).send("sub's")

    with serving(app) as port:
        assert json.loads(fetch(port, "/sub/x").body) == ["x", "/x", "/sub", True]
        assert fetch(port, "/sub/x/y").body == b"sub's"
        assert fetch(port, "/x").body == b"Not Found\n"
        assert fetch(port, "/sub/x", "PUT").status == 405
        assert fetch(port, "/sub/x", "OPTIONS").getheader("allow") == "GET, HEAD, OPTIONS"


def test_requests_wait_for_each_other_and_hold_nobody() -> None:
    app = App()
    came: list[asyncio.Event] = []
    app.use(lambda request, response, next: next())

    @app.get("/wait")
    async def wait(request: Any) -> AsyncIterator[str]:
        yield "begun "
        came.append(asyncio.Event())
        await came[0].wait()
        yield "ended"

    app.get("/set", lambda request: came[0].set())
    with serving(app) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        with contextlib.closing(connection):
            connection.request("GET", "/wait")
            response = connection.getresponse()
            assert response.read(6) == b"begun "
            assert fetch(port, "/set").status == 204
            assert response.read() == b"ended"


def test_a_client_that_leaves_in_its_upload_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, heard = App(), []
    gone = threading.Event()

    @app.use
    async def watch(request: Any, response: Any, next: Any) -> None:
        try:
            await next()
        except ConnectionResetError:
            gone.set()
            raise

    @app.error(500)
    def failed(error: Exception, request: Any, response: Any) -> None:
        heard.append(error)

    app.post("/", lambda request: heard.append(request))
    with serving(app) as port, caplog.at_level(logging.ERROR, "fastcluster"):
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf")
        assert gone.wait(WAIT_S)
    assert heard == []
    assert [record.getMessage() for record in caplog.records] == []


# ---- when it is decided


def test_async_comes_too_late_once_a_sync_application_is_served() -> None:
    app, sub, other = App(), App(), App()
    app.use("/sub", sub)
    app.get("/", lambda request: "now")
    other.get("/", later)
    with serving(app):
        for add in (
            lambda: app.get("/later", later),
            lambda: sub.get("/later", later),
            lambda: app.error(500)(lambda error, request, response: None) and app.use(other),
        ):
            with pytest.raises(AppLoadError, match=r"is async, and .* add it before it is served"):
                add()
        app.get("/more", lambda request: "sync ones may still come")


def test_more_may_be_added_to_an_async_application_that_is_served() -> None:
    app = App()
    app.get("/", later)
    with serving(app) as port:
        app.get("/more", later)
        assert fetch(port, "/more").body == b"later"


# ---- streamed by the server


@pytest.mark.parametrize("is_async", [False, True])
def test_a_returned_iterator_holds_nobody(is_async: bool) -> None:
    app, closed = App(), threading.Event()

    @app.get("/endless")
    def endless(request: Any) -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            closed.set()

    app.get("/", later if is_async else (lambda request: "later"))
    with serving(app) as port:
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
            client.sendall(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
            assert fetch(port, "/").body == b"later"
            assert not closed.is_set()
        assert closed.wait(WAIT_S)


@pytest.mark.parametrize("is_async", [False, True])
def test_an_iterator_that_fails_at_once_goes_to_the_error_handlers(is_async: bool) -> None:
    app = App()
    app.post("/", later if is_async else (lambda request: ""))

    @app.get("/")
    def rows(request: Any) -> Iterator[str]:
        raise HTTPError(404, "no rows")
        yield ""

    with serving(app) as port:
        response = fetch(port, "/")
        assert (response.status, response.body) == (404, b"no rows\n")


def test_after_an_iterator_the_response_has_ended() -> None:
    app, said = App(), []

    @app.use
    def after(request: Any, response: Any, next: Any) -> None:
        next()
        assert response.headers_sent and response.finished and response.status_code == 201
        response.end()  # harmless, as everywhere
        for late in (
            lambda: response.end("x"),
            lambda: response.json(1),
            lambda: response.status(200),
        ):
            with pytest.raises(RuntimeError, match="the response has ended") as caught:
                late()
            said.append(str(caught.value))

    app.get("/", lambda request: (201, {"X-A": "1"}, iter(["a", "b"])))
    with serving(app) as port:
        response = fetch(port, "/")
    assert (response.status, response.getheader("x-a"), response.body) == (201, "1", b"ab")
    assert len(said) == 3


@pytest.mark.parametrize("value", [face.Response("x"), iter("x")])
def test_what_is_begun_is_not_left_to_the_server(value: Any) -> None:
    app, said = App(), []

    @app.get("/")
    def both(request: Any, response: Any) -> None:
        response.write("begun")
        try:
            response.send(value)
        except RuntimeError as error:
            said.append(str(error))

    with serving(app) as port:
        assert fetch(port, "/").body == b"begun"
    assert said == ["send: the head was written already"]


# ---- under the command


MIXED = """
import asyncio
from fastcluster import App, http

app = App()

@app.use
async def header(request, response, next):
    response.set_header("X-Path", request.path)
    await next()

@app.post("/sync")
def sync(request):
    return request.json()

@app.post("/async")
async def later(request, response):
    await asyncio.sleep(0)
    await response.json(await request.json())

@app.get("/response")
def made(request):
    return http.Response("made", 201)

@app.get("/stream")
async def stream(request):
    for n in range(3):
        await asyncio.sleep(0)
        yield f"{n}"

server = http.create_server(app)
"""


@pytest.mark.parametrize("name", ["app", "server"])
def test_fastcluster_serve(tmp_path: Path, name: str) -> None:
    (tmp_path / "mixed.py").write_text(MIXED)
    serve = ("-m", "fastcluster", "serve", f"mixed:{name}", "--app-dir", str(tmp_path))
    with program(*serve, "-w", "1", "-b", "127.0.0.1:0") as (_, port):
        for path in ("/sync", "/async"):
            response = post(port, path, b'{"a": 1}')
            assert (response.body, response.getheader("x-path")) == (b'{"a":1}', path)
        response = fetch(port, "/response")
        assert (response.status, response.body) == (201, b"made")
        assert fetch(port, "/stream").body == b"012"
