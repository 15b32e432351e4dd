"""`fastcluster serve` with real frameworks, and with real clients: httpx, websockets and curl."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from require import require_module, require_program
from test_processes import Cluster

httpx = require_module("httpx", package="httpx")
require_module("websockets", package="websockets")

from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402
from websockets.sync.client import ClientConnection, connect  # noqa: E402

# Where each application is, if not in asgi_checked.py.
MODULES = {"litestar": "asgi_litestar", "channels": "asgi_channels"}
NEEDED = ("starlette", "fastapi", "django", "quart")

TEN = "".join(f"{number}\n" for number in range(10))


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A worker that serves the checked application with this name."""
    module = MODULES.get(request.param, "asgi_checked")
    for name in [request.param] if request.param in MODULES else NEEDED:
        require_module(name, package=name)
    options = ("--workers", "1", "--bind", "127.0.0.1:0")
    cluster = Cluster(*options, app=f"{module}:{request.param}")
    try:
        cluster.ready(1)
        yield cluster
        cluster.signal(signal.SIGTERM)
        assert cluster.exit_code() == 0
        said = cluster.said("ASGI checker: .*")
        if request.param in ("django", "channels"):
            # Django writes the names of fields in capitals, as no other framework does.
            said = [match for match in said if "headers = [(b'" not in match[0]]
        assert not said, said[0][0]
    finally:
        cluster.end()


def url(cluster: Cluster) -> str:
    return f"http://127.0.0.1:{cluster.port}"


def web_socket(cluster: Cluster, path: str, *subprotocols: str) -> ClientConnection:
    address = f"ws://127.0.0.1:{cluster.port}{path}"
    return connect(address, subprotocols=list(subprotocols) or None, open_timeout=20)


STREAMERS = ["starlette", "stacked", "quart", "litestar"]


@pytest.mark.parametrize("cluster", STREAMERS, indirect=True)
def test_answers_streams_and_bodies(cluster: Cluster) -> None:
    async def ask() -> None:
        async with httpx.AsyncClient(base_url=url(cluster), timeout=20) as client:
            assert (await client.get("/hello")).text == "hello"
            assert (await client.get("/nothing")).status_code == 404
            assert (await client.head("/hello")).content == b""
            # On connections of their own, at the same time.
            found = await asyncio.gather(*(client.get("/stream") for _ in range(20)))
            assert [response.text for response in found] == [TEN] * 20
            for size in (0, 1_000_000):
                response = await client.post("/chunks", content=b"x" * size)
                assert response.text == str(size)

            async def parts():
                for _ in range(10):
                    yield b"x" * 1000

            assert (await client.post("/chunks", content=parts())).text == "10000"
            assert (await client.get("/fail")).status_code == 500
            assert (await client.get("/hello")).text == "hello"

    asyncio.run(ask())


# BaseHTTPMiddleware ("stacked") loses the message that /poll waits for, whatever the server.
@pytest.mark.parametrize(
    ("cluster", "polls"), [("starlette", True), ("stacked", False)], indirect=["cluster"]
)
def test_a_client_that_leaves_in_the_middle(cluster: Cluster, polls: bool) -> None:
    async def ask() -> None:
        async with httpx.AsyncClient(base_url=url(cluster), timeout=20) as client:
            for _ in range(3):
                async with client.stream("GET", "/endless") as response:
                    async for _ in response.aiter_raw():
                        break
            if polls:
                with pytest.raises(httpx.ReadTimeout):
                    await client.get("/poll", timeout=0.1)
            assert (await client.get("/hello")).text == "hello"

    asyncio.run(ask())
    # The streams ended when their clients went: nothing holds the stop back.
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert not cluster.said("Traceback|cancelled")


@pytest.mark.parametrize("cluster", ["starlette"], indirect=True)
def test_scopes_contexts_and_threads(cluster: Cluster) -> None:
    with httpx.Client(base_url=url(cluster), timeout=20) as client:
        assert client.get("/scopes").json() == [True, "timeout", "thread"]
        assert [client.get(f"/context?v={n}").text for n in range(3)] == [
            f"unset {n}" for n in range(3)
        ]
        assert client.get("/sync").text == "from a thread"
        assert client.get("/source", headers={"range": "bytes=0-2"}).status_code == 206


@pytest.mark.parametrize("cluster", ["fastapi"], indirect=True)
def test_fastapi(cluster: Cluster) -> None:
    with httpx.Client(base_url=url(cluster), timeout=20) as client:
        assert client.get("/items/5?limit=3").json()["greeting"] == "hello"
        assert client.post("/items", json={"a": 1}).json() == {"got": {"a": 1}}
        assert client.get("/items/x").status_code == 422


@pytest.mark.parametrize("cluster", ["django"], indirect=True)
def test_django(cluster: Cluster) -> None:
    with httpx.Client(base_url=url(cluster), timeout=20) as client:
        for _ in range(2):
            assert client.get("/").text == "Hello from Django"
        assert client.get("/nothing").status_code == 404


@pytest.mark.parametrize("cluster", ["litestar"], indirect=True)
def test_litestar(cluster: Cluster) -> None:
    with httpx.Client(base_url=url(cluster), timeout=20) as client:
        assert client.get("/items/5?limit=3").json() == {"number": 5, "limit": 3}
        assert client.get("/items/x").status_code == 404
        assert client.get("/sync").text == "from a thread"
    with web_socket(cluster, "/ws/raw", "first", "second") as raw:
        assert raw.subprotocol == "second"
        raw.send("hello")
        assert raw.recv(20) == "HELLO"
    with web_socket(cluster, "/ws/json") as listener:
        listener.send(json.dumps({"message": "hello"}))
        assert json.loads(listener.recv(20)) == {"got": "hello"}


@pytest.mark.parametrize("cluster", ["channels"], indirect=True)
def test_channels(cluster: Cluster) -> None:
    assert httpx.get(url(cluster)).text == "Hello from Django"
    with pytest.raises(InvalidStatus) as refused:
        web_socket(cluster, "/rooms/closed")
    assert refused.value.response.status_code == 403
    with web_socket(cluster, "/rooms/one") as first, web_socket(cluster, "/rooms/one") as second:
        for member in (first, second):
            assert json.loads(member.recv(20)) == {"joined": "one"}
        first.send(json.dumps({"say": "hello"}))
        for member in (first, second):
            assert json.loads(member.recv(20)) == {"said": "hello"}
        second.close(4000)
        assert json.loads(first.recv(20)) == {"said": "bye 4000"}
    with web_socket(cluster, "/shout", "loud") as shout:
        assert shout.subprotocol == "loud"
        for message, answer in (("hello", "HELLO"), (b"bytes", b"bytes")):
            shout.send(message)
            assert shout.recv(20) == answer
        shout.send("enough")
        with pytest.raises(ConnectionClosed) as closed:
            shout.recv(20)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")


@pytest.mark.parametrize("cluster", ["starlette"], indirect=True)
def test_curl(cluster: Cluster, tmp_path: Path) -> None:
    curl = require_program("curl", package="curl")

    def ask(*options: str) -> str:
        command = [curl, "-sS", "--max-time", "20", *options]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    (tmp_path / "body").write_bytes(b"x" * 100_000)
    upload = ("--data-binary", f"@{tmp_path / 'body'}", f"{url(cluster)}/chunks")
    assert ask(f"{url(cluster)}/stream") == TEN
    assert ask(*upload) == "100000"
    assert ask("-H", "Expect: 100-continue", *upload) == "100000"
    assert ask("-H", "Transfer-Encoding: chunked", *upload) == "100000"
    assert ask("--http1.0", f"{url(cluster)}/stream") == TEN
    assert ask("-I", f"{url(cluster)}/hello").startswith("HTTP/1.1 200")
