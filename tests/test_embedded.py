"""embedded.py: servers in the test's own loop and thread, for every kind of application."""

import asyncio
import http.client
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from asgi_parts import LOOPS, new_loop
from harness import open_descriptors

import fastcluster
from fastcluster.errors import AppLoadError, BindError, UsageError


def native(request: Any) -> str:
    return "native"


async def async_native(request: Any) -> str:
    await asyncio.sleep(0)
    return "async native"


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"wsgi"]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise ValueError("none")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"asgi"})


APPS = [
    (native, "native"),
    (async_native, "async native"),
    (wsgi, "wsgi"),
    (asgi, "asgi"),
    ("flask_app:app", None),
]


async def ask(address: Any, target: str = "/") -> str:
    """Return the body that a client in the same loop gets."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
    data = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    assert data.startswith(b"HTTP/1.1 200 "), data
    return data.partition(b"\r\n\r\n")[2].decode()


def run(kind: str, main: Any) -> Any:
    loop = new_loop(kind)
    complaints: list[Any] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        return loop.run_until_complete(asyncio.wait_for(main, 30))
    finally:
        assert complaints == []
        loop.close()


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize(("app", "body"), APPS)
@pytest.mark.parametrize("threads", [0, 2])
def test_every_kind_of_application(kind: str, app: Any, body: str | None, threads: int) -> None:
    folder = str(Path(__file__).parent / "apps")

    async def main() -> None:
        async with fastcluster.Server(app, port=0, threads=threads, app_dir=folder) as server:
            [address] = server.addresses
            assert address.host == "127.0.0.1"
            assert server.url == f"http://127.0.0.1:{address.port}"
            for _ in range(2):
                found = await ask(address)
                assert body is None or found == body
        with pytest.raises(OSError, match=r"refused|Connect"):
            await ask(address)

    run(kind, main())


def test_serve_until_a_handler_stops_it() -> None:
    async def main() -> None:
        async def handler(request: Any) -> str:
            server.stop()
            await asyncio.sleep(0.01)
            return "last"

        server = fastcluster.Server(handler, port=0)
        assert server.addresses == ()
        started = asyncio.Event()
        serving = asyncio.create_task(server.serve(started.set))
        await started.wait()
        assert await ask(server.addresses[0]) == "last"
        await serving
        with pytest.raises(RuntimeError, match="serves once"):
            await server.serve()

    run("asyncio", main())


def test_stop_from_another_thread_and_before_serving() -> None:
    async def main() -> None:
        server = fastcluster.Server(native, port=0)
        started = asyncio.Event()
        serving = asyncio.create_task(server.serve(started.set))
        await started.wait()
        thread = threading.Thread(target=server.stop)
        thread.start()
        await serving
        thread.join()
        early = fastcluster.Server(native, port=0)
        early.stop()
        await early.serve()

    run("asyncio", main())


def test_lifespan_is_told_of_both_ends() -> None:
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            assert scope["state"] == {"a": 1}
            return await asgi(scope, receive, send)
        for word in ("startup", "shutdown"):
            heard.append((await receive())["type"])
            scope["state"]["a"] = 1
            await send({"type": f"lifespan.{word}.complete"})
        return None

    async def main() -> None:
        async with fastcluster.Server(app, port=0) as server:
            assert heard == ["lifespan.startup"]
            assert await ask(server.addresses[0]) == "asgi"
        assert heard == ["lifespan.startup", "lifespan.shutdown"]

    run("asyncio", main())


def test_what_cannot_begin_is_raised() -> None:
    before = open_descriptors()

    async def main() -> None:
        with pytest.raises(AppLoadError):
            async with fastcluster.Server(asgi, port=0, lifespan="on"):
                pass
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BindError):
            await fastcluster.Server(native, port=taken.getsockname()[1]).serve()

    run("asyncio", main())
    assert open_descriptors() == before
    with pytest.raises(UsageError, match="not both"):
        fastcluster.Server(native, uds="x", port=1)
    with pytest.raises(UsageError, match="no port"):
        fastcluster.Server(native, port=70000)
    with pytest.raises(TypeError, match="no_such_option"):
        fastcluster.Server(native, no_such_option=1)


@pytest.mark.parametrize("how", ["stop", "cancel", "failed block"])
def test_running_requests_are_cancelled_when_time_is_over(how: str) -> None:
    seen: list[str] = []
    waits = asyncio.Event()

    async def handler(request: Any) -> str:
        waits.set()
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("cleaned up")
        return ""

    async def main() -> None:
        server = fastcluster.Server(handler, port=0)
        with pytest.raises((KeyError, asyncio.CancelledError)) as caught:
            async with server:
                asking = asyncio.create_task(ask(server.addresses[0]))
                await waits.wait()
                if how == "failed block":
                    raise KeyError
                if how == "cancel":
                    assert server._task is not None
                    server._task.cancel()
                    await asyncio.wait({server._task})
                server.stop()
                server.stop(0)
                if how == "stop":
                    assert server._task is not None
                    await server._task
                    raise KeyError
        assert isinstance(caught.value, asyncio.CancelledError) == (how == "cancel")
        await asyncio.wait({asking})
        assert asking.exception() is not None

    run("asyncio", main())
    assert seen == ["cleaned up"]


@pytest.mark.parametrize(("app", "body"), APPS[:4])
def test_in_a_thread(app: Any, body: str) -> None:
    with fastcluster.Server(app, port=0).running_in_thread() as server:
        client = http.client.HTTPConnection("127.0.0.1", server.addresses[0].port, timeout=30)
        client.request("GET", "/")
        assert client.getresponse().read().decode() == body
        client.close()
    broken = fastcluster.Server(asgi, port=0, lifespan="on")
    with pytest.raises(AppLoadError), broken.running_in_thread():
        raise AssertionError("entered")


def test_a_unix_socket_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with fastcluster.Server(native, uds=str(path)).running_in_thread() as server:
        assert server.addresses[0].path == str(path)
        assert server.url == f"unix:{path}"
        assert path.is_socket()
    assert not path.exists()


def test_nothing_is_left_open() -> None:
    def once() -> None:
        with fastcluster.Server(async_native, port=0).running_in_thread():
            pass

    once()
    before, threads = open_descriptors(), threading.active_count()
    once()
    assert open_descriptors() == before
    assert threading.active_count() == threads


def test_importing_the_package_is_cheap() -> None:
    code = "import fastcluster, sys; print([m for m in sys.modules if m.startswith('fastcluster.')]"
    code += " + [m for m in ('asyncio', 'dataclasses') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert told.stdout.strip() == "[]"
    assert {"Server", "Config"} <= set(dir(fastcluster))
    with pytest.raises(AttributeError, match="no_such"):
        _ = fastcluster.no_such
