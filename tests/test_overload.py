"""How many requests run at a time, who waits, and who is told that it is too much."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgi_parts import GuestWire
from harness import Client, Wire
from test_processes import Start, start  # noqa: F401

from fastcluster.asgi import AsgiHandler
from fastcluster.config import Config
from fastcluster.native import NativeHandler
from fastcluster.native_async import AsyncNativeHandler
from fastcluster.wsgi import WsgiHandler

GET = b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"


class Held:
    """Applications of all kinds whose requests wait until the test answers them."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.most = self.now = 0
        self.bodies: list[bytes] = []
        self.threads: dict[str, threading.Event] = {}
        self.futures: dict[str, asyncio.Future[None]] = {}
        self.lock = threading.Lock()

    def enter(self, path: str) -> None:
        with self.lock:
            self.order.append(path)
            self.now += 1
            self.most = max(self.most, self.now)

    def leave(self) -> None:
        with self.lock:
            self.now -= 1

    def answer(self, path: str) -> None:
        if path in self.threads:
            self.threads[path].set()
        else:
            self.futures[path].set_result(None)

    async def wait(self, path: str) -> None:
        self.futures[path] = asyncio.get_running_loop().create_future()
        self.enter(path)
        try:
            await self.futures[path]
        finally:
            self.leave()

    async def native(self, request: Any) -> str:
        self.bodies.append(await request.body)
        await self.wait(request.path)
        return str(request.path)

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        self.bodies.append(body)
        await self.wait(scope["path"])
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    def wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        path = environ["PATH_INFO"]
        self.bodies.append(environ["wsgi.input"].read())
        self.threads[path] = threading.Event()
        self.enter(path)
        self.threads[path].wait(20)
        self.leave()
        start_response("200 OK", [])
        return [path.encode()]


Open = Callable[..., tuple[Wire, Held]]


@pytest.fixture(params=["native", "asgi", "threads"])
def held(request: pytest.FixtureRequest) -> Iterator[Open]:
    made: list[tuple[Wire, Held]] = []

    def new(**options: Any) -> tuple[Wire, Held]:
        app = Held()
        if request.param == "native":
            opened: Wire = GuestWire(AsyncNativeHandler, app.native, **options)
        elif request.param == "asgi":
            opened = GuestWire(AsgiHandler, app.asgi, **options)
        else:
            opened = Wire(WsgiHandler, app.wsgi, threads=8, **options)
        made.append((opened, app))
        return made[-1]

    yield new
    for opened, app in made:
        for event in app.threads.values():
            event.set()
        for future in app.futures.values():
            if not future.done():
                future.set_result(None)
        with contextlib.suppress(AssertionError):
            opened.turn_until(lambda: app.now == 0)  # noqa: B023
        opened.close()


def gate(opened: Wire) -> Any:
    return opened.server.gate


def ask(opened: Wire, number: int, request: bytes = GET) -> Client:
    client = opened.connect()
    client.send(request % number)
    return client


def test_so_many_run_and_the_next_ones_wait_in_their_order(held: Open) -> None:
    opened, app = held(limit_concurrency=2, queue_size=3, queue_timeout_s=20)
    clients = []
    for number in range(5):
        clients.append(ask(opened, number))
        opened.turn_until(lambda: gate(opened).running + gate(opened).waiting == len(clients))
    opened.turn_until(lambda: len(app.order) == 2)
    assert (gate(opened).running, gate(opened).waiting) == (2, 3)
    for number in range(5):
        app.answer(f"/{number}")
        assert clients[number].response().body == b"/%d" % number
        wanted = min(5, number + 3)
        opened.turn_until(lambda: len(app.order) == wanted)  # noqa: B023
    assert app.order == [f"/{number}" for number in range(5)]
    assert app.most == 2
    opened.turn_until(lambda: gate(opened).running == 0)


def test_what_comes_beyond_is_told_at_once(held: Open) -> None:
    opened, app = held(limit_concurrency=1, queue_size=1, queue_timeout_s=20)
    first, second = ask(opened, 0), ask(opened, 1)
    opened.turn_until(lambda: gate(opened).waiting == 1 and app.order)
    third = opened.connect()
    response = third.request(GET % 2)
    assert response.status == 503 and response.get("retry-after") == "1"
    assert response.get("connection") is None
    # The loop is quick meanwhile, and the same client may try again.
    assert third.request(GET % 3).status == 503
    assert gate(opened).refused == 2 and app.order == ["/0"]
    app.answer("/0")
    assert first.response().body == b"/0"
    opened.turn_until(lambda: len(app.order) == 2)
    app.answer("/1")
    assert second.response().body == b"/1"


def test_without_a_queue_nobody_waits(held: Open) -> None:
    opened, app = held(limit_concurrency=1, queue_size=0)
    ask(opened, 0)
    opened.turn_until(lambda: app.order)
    assert opened.request(GET % 1).status == 503


def test_who_has_waited_too_long_is_told_so(held: Open) -> None:
    opened, app = held(limit_concurrency=1, queue_size=4, queue_timeout_s=0.05)
    ask(opened, 0)
    opened.turn_until(lambda: app.order)
    began = time.monotonic()
    response = opened.request(GET % 1)
    assert response.status == 503 and response.get("retry-after") == "1"
    assert time.monotonic() - began >= 0.04
    assert app.order == ["/0"] and gate(opened).waiting == 0


def test_a_body_waits_with_its_request(held: Open) -> None:
    opened, app = held(limit_concurrency=1, queue_size=2, queue_timeout_s=20)
    ask(opened, 0)
    opened.turn_until(lambda: app.order)
    second = opened.connect()
    second.send((POST % 1)[:-3])
    opened.turn_until(lambda: gate(opened).waiting == 1)
    second.send(b"llo" + GET % 2)
    for _ in range(3):
        opened.turn()
    assert app.order == ["/0"]
    app.answer("/0")
    opened.turn_until(lambda: "/1" in app.order)
    app.answer("/1")
    assert second.response().body == b"/1"
    assert app.bodies[1] == b"hello"
    opened.turn_until(lambda: "/2" in app.order)  # what was pipelined behind it
    app.answer("/2")
    assert second.response().body == b"/2"


def test_a_body_of_a_request_that_is_refused_is_skipped(held: Open) -> None:
    opened, app = held(limit_concurrency=1, queue_size=1, queue_timeout_s=0.02)
    ask(opened, 0)
    opened.turn_until(lambda: app.order)
    client = opened.connect()
    assert client.request(POST % 1).status == 503  # after it has waited
    queued = ask(opened, 2, POST)
    opened.turn_until(lambda: gate(opened).waiting == 1)
    assert client.request(POST % 3).status == 503  # at once
    assert queued.response().status == 503
    app.answer("/0")
    opened.turn_until(lambda: gate(opened).running == 0)
    client.send(POST % 4)
    opened.turn_until(lambda: "/4" in app.order)
    app.answer("/4")
    assert client.response().body == b"/4"


def test_a_client_that_goes_while_it_waits_costs_no_call(held: Open) -> None:
    opened, app = held(limit_concurrency=1, queue_size=2, queue_timeout_s=20)
    first = ask(opened, 0)
    opened.turn_until(lambda: app.order)
    second = ask(opened, 1)
    opened.turn_until(lambda: gate(opened).waiting == 1)
    second.close(reset=True)
    opened.turn_until(lambda: gate(opened).waiting == 0)
    app.answer("/0")
    assert first.response().body == b"/0"
    assert app.order == ["/0"]


def test_one_whose_client_went_runs_until_the_application_returns(held: Open) -> None:
    opened, app = held(limit_concurrency=1, queue_size=1, queue_timeout_s=20)
    gone = ask(opened, 0)
    opened.turn_until(lambda: app.order)
    gone.close(reset=True)
    opened.turn_until(lambda: opened.server.n_connections == 0)
    second = ask(opened, 1)
    opened.turn_until(lambda: gate(opened).waiting == 1)
    assert gate(opened).running == 1 and app.order == ["/0"]
    app.answer("/0")
    opened.turn_until(lambda: "/1" in app.order)
    app.answer("/1")
    assert second.response().body == b"/1"
    opened.turn_until(lambda: gate(opened).running == 0)
    assert app.most == 1


def test_a_failure_gives_its_place_to_the_next() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("boom")

    opened = GuestWire(AsgiHandler, fails, limit_concurrency=1, queue_size=9, queue_timeout_s=20)
    try:
        clients = [ask(opened, number) for number in range(5)]
        assert [client.response().status for client in clients] == [500] * 5
        assert gate(opened).running == 0
    finally:
        opened.close()


def test_handlers_on_the_loop_run_one_by_one_anyway() -> None:
    opened = Wire(NativeHandler, lambda request: request.path, limit_concurrency=1, queue_size=0)
    try:
        client = opened.connect()
        client.send(b"".join(GET % number for number in range(5)))
        assert [client.response().body for _ in range(5)] == [b"/%d" % n for n in range(5)]
        assert gate(opened).running == 0
    finally:
        opened.close()


def test_a_websocket_counts_until_its_handshake_is_answered() -> None:
    async def sockets(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    opened = GuestWire(AsgiHandler, sockets, limit_concurrency=1, queue_size=0)
    handshake = (
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    try:
        clients = [opened.connect() for _ in range(3)]
        for client in clients:
            client.send(handshake)
            opened.turn_until(lambda: b"101 Switching" in client.received)  # noqa: B023
        assert gate(opened).running == 0
    finally:
        opened.close()


def test_there_is_no_gate_without_a_limit() -> None:
    opened = Wire(NativeHandler, lambda request: "x")
    assert opened.server.gate is None
    opened.close()
    assert Config(limit_concurrency=7).queue_size is None


def test_a_server_that_drains_serves_those_who_wait(held: Open) -> None:
    opened, app = held(limit_concurrency=1, queue_size=1, queue_timeout_s=20)
    first, second = ask(opened, 0), ask(opened, 1)
    opened.turn_until(lambda: gate(opened).waiting == 1 and app.order)
    opened.server.drain(True)
    app.answer("/0")
    assert first.response().body == b"/0"
    opened.turn_until(lambda: "/1" in app.order)
    app.answer("/1")
    assert second.response().body == b"/1"
    first.close()
    second.close()
    opened.turn_until(lambda: opened.server.drained)


# ---- a real server at five times what it can do

SERVICE_S = 0.2
PLACES = 10
QUEUE = 2
SECONDS = 1.6
# Clients and server share the machine with whatever else runs on it, whose hiccups are
# in the clients' times; what the server does wrong it does every time.
ATTEMPTS = 3


class Load:
    """Clients that ask at times of their own, whatever has become of those before."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.took: dict[int, list[float]] = {}
        self.retry_after: set[bytes] = set()

    async def one(self) -> None:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        status = int(answer[9:12])
        self.took.setdefault(status, []).append(time.monotonic() - began)
        if status == 503:
            self.retry_after.add(answer.lower().partition(b"retry-after: ")[2][:1])

    async def run(self, rate: float, seconds: float) -> None:
        begun, began = [], time.monotonic()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            begun.append(asyncio.create_task(self.one()))
        await asyncio.gather(*begun)


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


@pytest.mark.parametrize(
    ("app", "options"), [("overload_app:asgi", ()), ("overload_app:wsgi", ("--threads", "10"))]
)
def test_at_five_times_the_capacity_those_who_are_admitted_are_served_as_ever(
    start: Start,  # noqa: F811
    app: str,
    options: tuple[str, ...],
) -> None:
    cluster = start(
        "--workers", "1", "--limit-concurrency", str(PLACES), "--queue-size", str(QUEUE),
        "--queue-timeout", "100ms", *options, app=app, OVERLOAD_SERVICE_S=str(SERVICE_S),
    )  # fmt: skip
    cluster.ready(1)
    for attempt in range(1, ATTEMPTS + 1):
        calm, storm = weather(cluster.port)
        if p99(storm.took[200]) <= 2 * p99(calm.took[200]) or attempt == ATTEMPTS:
            break
    assert set(calm.took) == {200}
    assert set(storm.took) == {200, 503} and storm.retry_after == {b"1"}
    assert p99(storm.took[200]) <= 2 * p99(calm.took[200])
    # The others hear of it at once.
    refused = sorted(storm.took[503])
    assert refused[len(refused) // 2] < SERVICE_S / 4
    # And the server does all that it can do.
    assert len(storm.took[200]) >= 0.8 * CAPACITY * SECONDS
    cluster.expect(f"overload: {PLACES} requests run and {QUEUE} wait")


CAPACITY = PLACES / SERVICE_S


def weather(port: int) -> tuple[Load, Load]:
    """Return what clients saw at a quarter of the capacity, and at five times as much."""
    calm, storm = Load(port), Load(port)
    asyncio.run(calm.run(CAPACITY / 4, 0.8))
    asyncio.run(storm.run(CAPACITY * 5, SECONDS))
    return calm, storm
