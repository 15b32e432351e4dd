"""WebSockets through the command: real processes, both kinds of loop, a client of others.

The client is the one that people use, websockets; where a client has to misbehave, it is a
socket and frames made by hand.
"""

import asyncio
import contextlib
import itertools
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgi_parts import LOOPS
from require import require_module
from test_processes import DEADLINE_S, Cluster
from websocket_parts import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Frame,
    frame,
    handshake,
    take_frame,
    text,
)

Begin = Callable[..., Cluster]


@pytest.fixture(params=LOOPS)
def begin(request: pytest.FixtureRequest) -> Iterator[Begin]:
    """Start a cluster that serves tests/apps/websocket_app.py, on each kind of loop."""
    if request.param == "uvloop":
        require_module("uvloop", package="uvloop")
    clusters: list[Cluster] = []

    def start_cluster(*options: str) -> Cluster:
        options = (*options, "--bind", "127.0.0.1:0", "--loop", request.param)
        clusters.append(Cluster(*options, app="websocket_app:app"))
        return clusters[-1]

    yield start_cluster
    for cluster in clusters:
        cluster.end()


@contextlib.asynccontextmanager
async def connected(cluster: Cluster, path: str = "/", **options: Any) -> AsyncIterator[Any]:
    """Open a WebSocket of websockets' asyncio client; all within it has a deadline."""
    client = require_module("websockets.asyncio.client", package="websockets")
    async with (
        asyncio.timeout(DEADLINE_S),
        client.connect(f"ws://127.0.0.1:{cluster.port}{path}", **options) as opened,
    ):
        yield opened


async def code_and_reason(opened: Any) -> tuple[int, str]:
    """Wait until the server has closed, by a whole closing handshake; return what it said."""
    await opened.wait_closed()
    assert opened.protocol.close_rcvd is not None, "the connection was lost without a Close"
    assert opened.protocol.close_sent is not None
    return opened.close_code, opened.close_reason


class RawClient:
    """A socket whose handshake is done."""

    def __init__(self, cluster: Cluster, path: str = "/", *fields: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", cluster.port), DEADLINE_S)
        self.socket.sendall(handshake(*fields, target=path))
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.receive()
        head, _, self.received = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")

    def receive(self) -> bytes:
        data = self.socket.recv(65536)
        assert data, "the connection has ended"
        return data

    def next(self) -> Frame:
        while (found := take_frame(self.received)) is None:
            self.received += self.receive()
        self.received = found[1]
        return found[0]

    def ends(self) -> bool:
        """Whether nothing but the connection's end is left to receive."""
        return self.received == b"" and self.socket.recv(1) == b""


# ---- a client as it should be


def test_messages_of_every_size_come_back(begin: Begin) -> None:
    async def talk(compression: str | None) -> None:
        async with connected(cluster, compression=compression, max_size=None) as opened:
            for content in ["", "a", "κόσμε" * 1000, b"", bytes(200_000), "x" * 2_000_000]:
                await opened.send(content)
                assert await opened.recv() == content
            await opened.send(itertools.repeat("piece ", 100))
            assert await opened.recv() == "piece " * 100
            await (await opened.ping(b"there?"))
            await opened.close(4321, "enough")
            assert opened.close_code == 4321

    cluster = begin("--workers", "1")
    for compression in ("deflate", None):
        asyncio.run(talk(compression))
    cluster.expect("application: disconnect 4321 enough", 2)


def test_the_handshake_is_the_applications(begin: Begin) -> None:
    async def run() -> None:
        async with connected(cluster, "/choose", subprotocols=["v1", "v2"]) as opened:
            assert opened.subprotocol == "v2"
            assert opened.response.headers["x-offered"] == "v1,v2"
            assert opened.response.headers["set-cookie"] == "a=1"
        for path, status, body in [("/deny", 401, b"who are you?"), ("/refuse", 403, b"")]:
            with pytest.raises(invalid_status) as raised:
                async with connected(cluster, path):
                    pass
            response = raised.value.response
            assert (response.status_code, bytes(response.body or b"")) == (status, body)
            assert ("www-authenticate" in response.headers) == (status == 401)

    invalid_status = require_module("websockets.exceptions", package="websockets").InvalidStatus
    cluster = begin("--workers", "1")
    asyncio.run(run())
    assert not cluster.said("Traceback|ERROR|WARNING")


# (path, what the client sends, code, reason): the ends that a server makes.
ENDS = [
    ("/text-only", [b"bytes"], 1003, "text only"),
    ("/", ["x" * 10_001], 1009, "the message is too long"),
    # Ten megabytes in ten kilobytes, which the client sends compressed.
    ("/", ["x" * 10_000_000], 1009, "the message is too long"),
    ("/", [["x" * 9000, "x" * 1001]], 1009, "the message is too long"),
    ("/fail", [], 1011, ""),
]


def test_every_end_has_its_code(begin: Begin) -> None:
    async def run() -> None:
        for path, contents, code, reason in ENDS:
            async with connected(cluster, path) as opened:
                for content in contents:
                    await opened.send(content)
                assert await code_and_reason(opened) == (code, reason), (path, code)

    cluster = begin("--workers", "1", "--ws-max-size", "10000")
    asyncio.run(run())
    # The client's faults are told to the application, too, and are no errors of ours.
    cluster.expect("application: disconnect 1009", 3)
    cluster.expect("ValueError: as the test wants it")
    assert len(cluster.said(" ERROR ")) == 1


def test_ends_that_a_broken_client_gets(begin: Begin) -> None:
    cluster = begin("--workers", "1")
    for data, code in [(frame(3, b"?"), 1002), (frame(TEXT, b"\xff"), 1007)]:
        client = RawClient(cluster)
        client.socket.sendall(data)
        assert (client.next().code, client.ends()) == (code, True)
        cluster.expect(f"application: disconnect {code}")
        client.socket.close()
    client = RawClient(cluster)
    client.socket.sendall(text("cut off")[:-1])
    client.socket.shutdown(socket.SHUT_WR)
    assert client.ends()
    cluster.expect("application: disconnect 1006")
    client.socket.close()


def test_a_client_is_pinged_and_gone_when_it_does_not_answer(begin: Begin) -> None:
    cluster = begin("--workers", "1", "--ws-ping-interval", "0.1", "--ws-ping-timeout", "0.3")
    client = RawClient(cluster)
    for _ in range(5):
        ping = client.next()
        assert ping.opcode == PING
        client.socket.sendall(frame(PONG, ping.payload))
    assert client.next().opcode == PING
    while (answer := client.next()).opcode == PING:
        pass
    assert (answer.opcode, answer.code) == (CLOSE, 1011)
    cluster.expect("application: disconnect 1011")
    assert client.ends()
    client.socket.close()


# ---- backpressure, by memory


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def test_an_application_that_does_not_receive_stops_the_client(begin: Begin) -> None:
    cluster = begin("--workers", "1")
    [pid] = cluster.ready(1)
    client = RawClient(cluster, "/deaf")
    before = resident_bytes(pid)
    message = frame(BINARY, bytes(1_000_000))
    client.socket.settimeout(0.5)
    sent = 0
    with pytest.raises(TimeoutError):
        # Behind what the kernel's buffers hold, and a message or two.
        for _ in range(200):
            client.socket.sendall(message)
            sent += len(message)
    assert sent < 100_000_000
    assert resident_bytes(pid) - before < 8_000_000
    client.socket.close()


def test_a_client_that_does_not_receive_stops_the_application(begin: Begin) -> None:
    cluster = begin("--workers", "1")
    [pid] = cluster.ready(1)
    before = resident_bytes(pid)
    client = RawClient(cluster, "/flood")
    sent = int(cluster.expect(r"application: waits after (\d+) messages")[0][1])
    assert resident_bytes(pid) - before < 8_000_000
    for _ in range(sent):
        assert len(client.next().payload) == 65536
    cluster.expect("application: goes on")
    client.socket.close()


# ---- drain


GRACE_S = 1.5
COUNT = 50


async def good_byes(cluster: Cluster, number: signal.Signals) -> list[tuple[float, int]]:
    """Open WebSockets, signal the primary; return when each was closed, and its code."""
    loop = asyncio.get_running_loop()

    async def stay() -> tuple[float, int]:
        async with connected(cluster) as opened:
            await opened.send("hello")
            assert await opened.recv() == "hello"
            ready.release()
            await opened.wait_closed()
            closed_s = loop.time()
            return closed_s, (await code_and_reason(opened))[0]

    ready = asyncio.Semaphore(0)
    clients = [asyncio.create_task(stay()) for _ in range(COUNT)]
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(COUNT):
            await ready.acquire()
        began_s = loop.time()
        cluster.signal(number)
        return sorted((at_s - began_s, code) for at_s, code in await asyncio.gather(*clients))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 1001), (signal.SIGHUP, 1012)])
def test_a_drain_says_good_bye_to_one_client_after_the_other(
    begin: Begin, number: signal.Signals, code: int
) -> None:
    cluster = begin("--workers", "2", "--graceful-timeout", str(GRACE_S))
    old = cluster.ready(2)
    told = asyncio.run(good_byes(cluster, number))
    assert {code for _, code in told} == {code}
    first_s, last_s = told[0][0], told[-1][0]
    # Random moments, each within a second: half of that between the first and the last
    # of fifty is as good as certain, and so is that no tenth of it has half of them.
    assert last_s - first_s > GRACE_S / 3
    for at_s, _ in told:
        assert sum(at_s <= other_s < at_s + GRACE_S / 15 for other_s, _ in told) < COUNT / 2
    if number == signal.SIGTERM:
        assert cluster.exit_code() == 0
    else:
        cluster.expect("reload: done")
        for pid in old:
            cluster.wait_gone(pid)
        asyncio.run(served_by_another(cluster, old))
    assert not cluster.said("Traceback|ERROR|WARNING")


async def served_by_another(cluster: Cluster, old: list[int]) -> None:
    async with connected(cluster, "/pid") as opened:
        assert int(await opened.recv()) not in old
