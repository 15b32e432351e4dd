"""asgi.py: frameworks, tasks as asyncio knows them, and whole clusters of real processes."""

import asyncio
import contextvars
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from asgi_parts import (
    GET,
    LOOPS,
    AsgiWire,
    Scope,
    answering,
    asgi_wire,
    body,
    get,
    post,
    read_all,
    start,
    warnings,
    wires,
)
from harness import open_descriptors
from require import require_module
from test_processes import Cluster, Held, is_whole

from fastcluster.asgi import AsgiHandler
from fastcluster.config import Config
from fastcluster.guest import Guest

APPS = Path(__file__).parent / "apps"
EAGER = sys.version_info >= (3, 12)

Serve = Callable[..., AsgiWire]


@pytest.fixture(params=LOOPS)
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    """serve(app, **options) returns an AsgiWire, on each kind of loop."""
    with wires(AsgiWire, request.param) as open_wire:
        yield open_wire


# ---- tasks


def test_every_request_is_a_task_of_its_own(serve: Serve) -> None:
    tasks: list[Any] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        assert type(task) is asyncio.Task
        assert asyncio.get_running_loop() is task.get_loop()
        assert task in asyncio.all_tasks()
        await asyncio.sleep(0)
        assert asyncio.current_task() is task
        tasks.append(task)
        await answering(b"x")(scope, receive, send)

    client = serve(app).connect()
    client.send(GET * 3)
    for _ in range(3):
        assert client.response().body == b"x"
    assert len(set(tasks)) == 3
    assert asyncio.get_event_loop_policy() is not None


def test_a_request_that_never_waits_is_answered_in_the_turn_it_came_in(serve: Serve) -> None:
    if not EAGER:
        pytest.skip("tasks start at once from Python 3.12 on")
    wire = serve(answering(b"x"))
    client = wire.connect()
    client.send(GET)
    wire.turn_until(lambda: client.received or wire.server.n_connections == 1)
    began: list[Any] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        began.append(asyncio.current_task())
        await answering(b"x")(scope, receive, send)

    other = serve(app)
    client = other.connect()
    client.send(GET)

    # Without the loop: only the server's turn.
    async def turn() -> None:
        outer = asyncio.current_task()
        while not began:
            other.server.turn(0)
        assert asyncio.current_task() is outer
        assert began[0] is not outer
        assert began[0].done()

    other.loop.run_until_complete(turn())
    assert client.response().body == b"x"


def test_contexts_are_copies(serve: Serve) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    variable.set("outside")

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        before = variable.get()
        variable.set("inside")
        await asyncio.sleep(0)
        assert variable.get() == "inside"
        await answering(before.encode())(scope, receive, send)

    wire = serve(app)
    client = wire.connect()
    client.send(GET * 3)
    assert [client.response().body for _ in range(3)] == [b"outside"] * 3
    assert variable.get() == "outside"


def test_timeouts_and_task_groups(serve: Serve) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await read_all(receive)
                await receive()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(receive(), 0.01)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(receive())
            await asyncio.sleep(0)
            waiting.cancel()
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(10))
                group.create_task(send({"type": "x"}) if False else failing())
        await asyncio.gather(send(start()), asyncio.sleep(0))
        await asyncio.create_task(send(body(b"ab", True)))
        await asyncio.ensure_future(send(body(b"c")))

    async def failing() -> None:
        raise ValueError

    client = serve(app).connect()
    for _ in range(2):
        assert client.request(GET).body == b"abc"


def test_a_task_factory_of_the_application_is_used() -> None:
    made: list[Any] = []

    def factory(loop: Any, coro: Any, **more: Any) -> Any:
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **more)

    with asgi_wire(answering(b"x")) as wire:
        wire.loop.set_task_factory(factory)
        wire.handler.attach(wire.loop)  # type: ignore[attr-defined]
        assert wire.request(GET).body == b"x"
        wire.loop.set_task_factory(None)
    assert len(made) == 1


def test_eager_factory_of_asyncio() -> None:
    if not EAGER:
        pytest.skip("asyncio has it from Python 3.12 on")
    with asgi_wire(answering(b"x")) as wire:
        wire.loop.set_task_factory(asyncio.eager_task_factory)
        wire.handler.attach(wire.loop)  # type: ignore[attr-defined]
        client = wire.connect()
        client.send(GET * 3)
        assert [client.response().body for _ in range(3)] == [b"x"] * 3
        wire.loop.set_task_factory(None)


def test_a_thousand_requests_at_once_leave_nothing_behind(serve: Serve) -> None:
    go, arrived = asyncio.Event(), []
    kept: weakref.WeakSet[Any] = weakref.WeakSet()

    class Mark:
        pass

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        scope["mark"] = Mark()
        kept.add(scope["mark"])
        kept.add(asyncio.current_task())
        arrived.append(1)
        await go.wait()
        await send(start())
        await send(body(scope["query_string"], True))
        await asyncio.sleep(0)
        await send(body(b"."))

    wire = serve(app)
    go.set()
    assert wire.request(GET).body == b"."
    wire.turn_until(lambda: wire.server.n_connections == 0)
    before = open_descriptors()
    clients = [wire.connect() for _ in range(200)]
    for _ in range(5):
        # All the connections, over and over.
        arrived.clear()
        go.clear()
        for number, client in enumerate(clients):
            client.send(get(f"/?{number}"))
        wire.turn_until(lambda: len(arrived) == len(clients))
        assert len(wire.tasks) == len(clients)
        go.set()
        for number, client in enumerate(clients):
            assert client.response().body == f"{number}.".encode()
    for client in clients:
        client.close()
    wire.turn_until(lambda: wire.server.n_connections == 0 and not wire.tasks)
    wire.run(0.01)
    assert open_descriptors() == before
    gc.collect()
    assert set(kept) == set()


def test_exchanges_that_end_badly_leave_nothing_behind(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    kept: weakref.WeakSet[Any] = weakref.WeakSet()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        kept.add(asyncio.current_task())
        await receive()
        match scope["path"]:
            case "/":
                await answering(b"")(scope, receive, send)
            case "/fail":
                raise ValueError
            case "/silent":
                return
            case "/cut":
                await send(start())
                await send(body(b"x", True))
                raise ValueError
            case "/lost":
                await receive()

    wire = serve(app, is_careless=True)
    assert wire.request(GET).status == 200
    wire.turn_until(lambda: wire.server.n_connections == 0)
    before = open_descriptors()
    for path in ("/fail", "/silent", "/cut", "/lost") * 5:
        client = wire.connect()
        client.send(get(path))
        if path == "/lost":
            wire.turn_until(lambda: wire.tasks)
            client.close(reset=True)
        else:
            wire.turn_until(lambda client=client: client.received)
            client.close()
        wire.turn_until(lambda: not wire.tasks and wire.server.n_connections == 0)
    wire.run(0.01)
    assert open_descriptors() == before
    caplog.clear()
    gc.collect()
    assert set(kept) == set()


# ---- frameworks


@pytest.fixture
def frameworks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    require_module("starlette", package="starlette")
    require_module("fastapi", package="fastapi")
    monkeypatch.syspath_prepend(str(APPS))
    module = require_module("asgi_frameworks", package="starlette")
    module.seen.clear()
    return module


@pytest.fixture(params=["plain", "stacked"])
def starlette(request: pytest.FixtureRequest, serve: Serve, frameworks: ModuleType) -> AsgiWire:
    return serve(getattr(frameworks, request.param), state={"greeting": "hello"})


def test_starlette_answers(starlette: AsgiWire) -> None:
    client = starlette.connect()
    assert client.request(get("/hello")).body == b"hello"
    assert client.request(get("/nothing")).status == 404
    assert client.request(get("/hello", method="PUT")).status == 405
    assert client.request(get("/sync")).body == b"from a thread"
    assert client.request(get("/hello", method="HEAD"), "HEAD").body == b""
    response = client.request(get("/whole?a=b", "User-Agent: me"))
    assert json.loads(response.body) == {
        "body": 0,
        "url": "http://h/whole?a=b",
        "path": "/whole",
        "query": {"a": "b"},
        "client": "127.0.0.1",
        "agent": "me",
    }


def test_starlette_bodies(starlette: AsgiWire) -> None:
    client = starlette.connect()
    for size in (0, 10, 500_000):
        content = os.urandom(size)
        found = post(content).replace(b"POST / ", b"POST /chunks ")
        assert client.request(found).body == str(size).encode()
        found = post(content).replace(b"POST / ", b"POST /whole ")
        assert json.loads(client.request(found).body)["body"] == size


def test_starlette_streams(starlette: AsgiWire) -> None:
    client = starlette.connect()
    expected = "".join(f"{n}\n" for n in range(1000)).encode()
    for _ in range(2):
        assert client.request(get("/stream?n=1000")).body == expected


def test_starlette_files(starlette: AsgiWire, frameworks: ModuleType) -> None:
    client = starlette.connect()
    content = Path(str(frameworks.__file__)).read_bytes()
    response = client.request(get("/source"))
    assert response.body == content
    assert client.request(get("/source", "Range: bytes=10-19")).body == content[10:20]


def test_starlette_hears_that_a_streams_client_is_gone(
    starlette: AsgiWire, frameworks: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    client = starlette.connect()
    client.send(get("/endless"))
    starlette.turn_until(lambda: len(client.received) > 3000)
    client.close(reset=True)
    starlette.turn_until(lambda: not starlette.tasks)
    # The generator is left where it was, and closed when it is collected.
    gc.collect()
    starlette.turn_until(lambda: "stream ended" in frameworks.seen)
    assert warnings(caplog) == []


def test_starlette_hears_that_a_polling_client_is_gone(
    serve: Serve, frameworks: ModuleType
) -> None:
    # Not through BaseHTTPMiddleware, which loses the message whatever the server is.
    wire = serve(frameworks.plain, state={"greeting": "hello"})
    client = wire.connect()
    client.send(get("/poll"))
    wire.turn_until(lambda: wire.tasks)
    wire.run(0.02)
    client.close()
    wire.turn_until(lambda: "disconnect" in frameworks.seen and not wire.tasks)


def test_starlette_hears_that_an_uploading_client_is_gone(
    starlette: AsgiWire, frameworks: ModuleType
) -> None:
    client = starlette.connect()
    client.send(post(b"x" * 10).replace(b"POST / ", b"POST /chunks ")[:-5])
    starlette.turn_until(lambda: starlette.tasks)
    starlette.run(0.02)
    client.close()
    starlette.turn_until(lambda: "disconnect" in frameworks.seen and not starlette.tasks)


def test_starlette_scopes_contexts_and_background(
    starlette: AsgiWire, frameworks: ModuleType
) -> None:
    client = starlette.connect()
    for number in range(3):
        scopes = json.loads(client.request(get("/scopes")).body)
        assert scopes == [True, "timeout", "thread"]
        found = client.request(get(f"/context?v={number}")).body
        assert found == f"unset {number}".encode()
    assert client.request(get("/background")).body == b"sent"
    starlette.turn_until(lambda: "background" in frameworks.seen)


def test_starlette_fails(starlette: AsgiWire, caplog: pytest.LogCaptureFixture) -> None:
    client = starlette.connect()
    for _ in range(2):
        response = client.request(get("/fail"))
        assert (response.status, response.body) == (500, b"Internal Server Error")
    assert warnings(caplog) == ["GET /fail: the application failed"] * 2


def test_fastapi(serve: Serve, frameworks: ModuleType) -> None:
    client = serve(frameworks.api, state={"greeting": "hello"}).connect()
    response = client.request(get("/items/5?limit=3"))
    assert json.loads(response.body) == {"id": 5, "greeting": "hello", "offset": 0, "limit": 3}
    assert frameworks.seen == ["dependency closed"]
    assert client.request(get("/items/x")).status == 422
    request = post(b'{"a": 1}', "Content-Type: application/json")
    response = client.request(request.replace(b"POST / ", b"POST /items "))
    assert json.loads(response.body) == {"got": {"a": 1}}
    client.wire.turn_until(lambda: "background" in frameworks.seen)
    assert b"/items/{item_id}" in client.request(get("/openapi.json")).body


def test_the_lifespan_of_starlette(frameworks: ModuleType) -> None:
    config = Config(loop="asyncio")
    handler = AsgiHandler(frameworks.plain, config)
    guest = Guest(handler, config, logging.getLogger("fastcluster"))
    assert guest.start_up({})
    assert handler.state == {"greeting": "hello"}
    assert handler.loop is guest.loop
    guest.close()
    assert frameworks.seen[0] == "startup"


def test_django() -> None:
    require_module("django", package="django")
    code = Path(__file__).parent / "apps"
    sys.path.insert(0, str(code))
    try:
        require_module("django_app", package="django")
        from django.core.asgi import get_asgi_application

        app = get_asgi_application()
    finally:
        sys.path.remove(str(code))
    # Django writes the names of fields in capitals.
    with asgi_wire(app, is_careless=True) as wire:
        client = wire.connect()
        for _ in range(2):
            assert client.request(get("/")).body == b"Hello from Django"
        assert client.request(get("/nothing")).status == 404


# ---- real processes


@pytest.fixture(params=LOOPS)
def begin(request: pytest.FixtureRequest) -> Iterator[Callable[..., Cluster]]:
    """Start a cluster that serves tests/apps/asgi_proc_app.py, on each kind of loop."""
    if request.param == "uvloop":
        require_module("uvloop", package="uvloop")
    clusters: list[Cluster] = []

    def start_cluster(*options: str, app: str = "asgi_proc_app:app", **env: str) -> Cluster:
        options = (*options, "--bind", "127.0.0.1:0", "--loop", request.param)
        clusters.append(Cluster(*options, app=app, **env))
        return clusters[-1]

    yield start_cluster
    for cluster in clusters:
        cluster.end()
        # The application is behind a strict checker, which writes to the log.
        assert not cluster.said("ASGI checker: .*"), cluster.output


def test_it_comes_up_serves_and_goes(begin: Callable[..., Cluster]) -> None:
    cluster = begin("--workers", "2")
    pids = cluster.ready(2)
    cluster.expect(r"application: started up in", 2)
    # The startup comes before the first request.
    first = min(match.start() for match in cluster.said("is ready"))
    assert cluster.said("application: started up in")[0].start() < first
    assert int(cluster.get()) in pids
    assert int(cluster.get("/state")) in pids
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert len(cluster.said(r"application: shut down in")) == 2
    assert not cluster.said("Traceback|ERROR|WARNING")


def test_the_loop_is_the_one_that_was_named(
    begin: Callable[..., Cluster], request: pytest.FixtureRequest
) -> None:
    cluster = begin("--workers", "1")
    cluster.ready(1)
    assert cluster.get("/loop").startswith(request.node.callspec.params["begin"])


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_failed_startup_is_a_failed_boot(begin: Callable[..., Cluster], mode: str) -> None:
    cluster = begin("--workers", "2", "--lifespan", mode, ASGI_STARTUP="failed")
    assert cluster.exit_code() == 3
    assert cluster.said("the application's startup failed: no database here")
    assert not cluster.said("Traceback")


def test_a_startup_that_raises(begin: Callable[..., Cluster]) -> None:
    cluster = begin("--workers", "1", "--lifespan", "on", ASGI_STARTUP="raises")
    assert cluster.exit_code() == 3
    assert cluster.said("ValueError: no database here")
    cluster = begin("--workers", "1", ASGI_STARTUP="raises")
    [pid] = cluster.ready(1)
    assert cluster.said("is served without a lifespan")
    assert int(cluster.get()) == pid
    cluster = begin("--workers", "1", "--lifespan", "off", ASGI_STARTUP="raises")
    [pid] = cluster.ready(1)
    assert not cluster.said("lifespan")
    assert int(cluster.get()) == pid


def test_a_stop_during_the_startup(begin: Callable[..., Cluster]) -> None:
    cluster = begin("--workers", "1", ASGI_STARTUP="hangs")
    cluster.expect("application: starts up for ever")
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert cluster.said("application: startup was cancelled")


def test_the_primary_dies_during_the_startup(begin: Callable[..., Cluster]) -> None:
    cluster = begin("--workers", "1", ASGI_STARTUP="hangs")
    cluster.expect("application: starts up for ever")
    cluster.signal(signal.SIGKILL)
    # The worker holds the output open until it is gone.
    cluster.exit_code()
    assert cluster.said("application: startup was cancelled")


def test_a_stop_lets_a_request_finish(begin: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = begin("--workers", "1")
    cluster.ready(1)
    held = Held(cluster, tmp_path)
    cluster.signal(signal.SIGTERM)
    cluster.expect("stopping")
    held.answer()
    assert is_whole(held.response())
    assert cluster.exit_code() == 0
    assert cluster.said("application: shut down in")


def test_a_worker_that_is_told_to_stop_drains(
    begin: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = begin("--workers", "1")
    [pid] = cluster.ready(1)
    held = Held(cluster, tmp_path)
    cluster.kill(pid, signal.SIGTERM)
    successor = cluster.ready(2)[1]
    assert int(cluster.get()) == successor
    held.answer()
    assert is_whole(held.response())
    cluster.wait_gone(pid)
    cluster.expect(rf"application: shut down in {pid}")


def test_an_orphan_drains(begin: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = begin("--workers", "1")
    [pid] = cluster.ready(1)
    held = Held(cluster, tmp_path)
    cluster.signal(signal.SIGKILL)
    cluster.expect("the primary is dead")
    held.answer()
    assert is_whole(held.response())
    cluster.wait_gone(pid)
    cluster.expect(rf"application: shut down in {pid}")


def test_what_runs_in_the_background_finishes(begin: Callable[..., Cluster]) -> None:
    cluster = begin("--workers", "1")
    cluster.ready(1)
    cluster.get("/background")
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert cluster.said("application: background is done")


def test_when_time_is_over_requests_are_cancelled_and_the_worker_leaves_by_itself(
    begin: Callable[..., Cluster],
) -> None:
    cluster = begin("--workers", "1", "--graceful-timeout", "2")
    cluster.ready(1)
    client = socket.create_connection(("127.0.0.1", cluster.port), 10)
    client.sendall(get("/forever"))
    assert client.recv(100)
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert cluster.said("GET /forever: cancelled")
    assert cluster.said("application: cleaned up")
    assert cluster.said("application: shut down in")
    assert not cluster.said("killed")
    received = b""
    try:
        while data := client.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    assert not received.endswith(b"0\r\n\r\n")
    client.close()


HANGING = """
import asyncio


async def app(scope, receive, send):
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await asyncio.sleep(60)
"""


def test_a_shutdown_that_hangs_is_named(begin: Callable[..., Cluster], tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    cluster = begin(
        "--workers", "1", "--graceful-timeout", "1", "--app-dir", str(tmp_path), app="hanging:app"
    )
    cluster.ready(1)
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert cluster.said("shutdown did not finish within 0.9 s and is given up")


def test_an_application_that_calls_sys_exit_ends_no_worker(begin: Callable[..., Cluster]) -> None:
    cluster = begin("--workers", "1")
    [pid] = cluster.ready(1)
    with pytest.raises(AssertionError):
        cluster.get("/sys-exit")
    assert int(cluster.get()) == pid


def test_a_large_upload_takes_little_memory(begin: Callable[..., Cluster]) -> None:
    cluster = begin("--workers", "1")
    cluster.ready(1)
    total = 100_000_000
    client = socket.create_connection(("127.0.0.1", cluster.port), 30)

    def push() -> None:
        client.sendall(get("/upload", f"Content-Length: {total}", method="POST"))
        block = b"x" * 1_000_000
        for _ in range(total // len(block)):
            client.sendall(block)

    thread = threading.Thread(target=push)
    thread.start()
    received = b""
    while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < 10:
        data = client.recv(65536)
        assert data
        received += data
    thread.join()
    client.close()
    seen, grown = received.partition(b"\r\n\r\n")[2].split()
    assert int(seen) == total
    assert int(grown) < 32 * 1024 * 1024


def test_connections_are_spread(begin: Callable[..., Cluster]) -> None:
    """A guest says that it waits, else nobody would hand it anything."""
    cluster = begin("--workers", "2")
    pids = cluster.ready(2)
    clients = [socket.create_connection(("127.0.0.1", cluster.port), 10) for _ in range(20)]
    found = []
    for _ in range(2):
        found.clear()
        for client in clients:
            client.sendall(GET)
            found.append(int(client.recv(1000).rpartition(b"\n")[2]))
    for client in clients:
        client.close()
    assert min(found.count(pid) for pid in pids) >= 8
