"""A server that is a guest in an asyncio loop, and applications for it.

The loop runs when the wire turns and stands still between two calls, so that
nothing happens behind a test's back.  What asyncio complains of (a task that was
never awaited, an exception that nobody took) fails the test, and so does what
asgi_checker.py finds between the server and the application.
"""

import asyncio
import contextlib
import importlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgi_checker import Checker
from harness import Wire
from require import require_module

from fastcluster.asgi import AsgiHandler

Scope = dict[str, Any]
Message = dict[str, Any]

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
LOOPS = ["asyncio", "uvloop"]


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "asyncio":
        return asyncio.new_event_loop()
    require_module("uvloop", package="uvloop")
    loop = importlib.import_module("uvloop").new_event_loop()
    assert isinstance(loop, asyncio.AbstractEventLoop)
    return loop


class GuestWire(Wire):
    """A Wire whose server is a guest in an asyncio loop.

    state: what lifespan would have left.
    """

    handler: Any

    def __init__(
        self,
        handler_class: Callable[[Any, Any], Any],
        app: Any,
        *,
        kind: str = "asyncio",
        state: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(handler_class, app, **options)
        self.loop = new_loop(kind)
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.handler.attach(self.loop, state)
        self.loop.add_reader(self.server.fileno(), self.server.turn, 0)
        self.server.turn(0)

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        return self.handler.tasks  # type: ignore[no-any-return]

    def turn(self, timeout_ms: int = 0) -> None:
        for client in self.clients:
            client.push()
        if timeout_ms:
            self.loop.call_later(timeout_ms / 1000, self.loop.stop)
        else:
            self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()
        for client in self.clients:
            client.pull()

    def run(self, seconds: float = 0.05) -> None:
        """Let the loop run for a while: to see that something does not happen."""
        self.turn(int(seconds * 1000))

    def close(self) -> None:
        super().close()
        self.loop.run_until_complete(self._finish())
        self.loop.remove_reader(self.server.fileno())
        self.loop.close()
        assert self.complaints == []

    async def _finish(self) -> None:
        # Those that hear of their client's loss end by themselves.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            _, pending = await asyncio.wait(others, timeout=1)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()


class AsgiWire(GuestWire):
    """A GuestWire for an ASGI application, with a strict checker in between.

    is_careless: the application does wrong on purpose; what the server does wrong fails
    the test all the same.  is_checked: False gives the application the server's own
    receive and send.
    """

    def __init__(
        self, app: Any, *, is_careless: bool = False, is_checked: bool = True, **options: Any
    ) -> None:
        self.checker = Checker(app)
        self.is_careless = is_careless
        super().__init__(AsgiHandler, self.checker if is_checked else app, **options)

    def close(self) -> None:
        super().close()
        assert not self.checker.faults, self.checker.faults
        # Tests of WebSockets are about what applications do wrong.
        mistakes = [text for text in self.checker.mistakes if not text.startswith("WebSocket")]
        assert self.is_careless or not mistakes, mistakes


@contextlib.contextmanager
def wires(wire_class: Callable[..., GuestWire], kind: str) -> Iterator[Callable[..., Any]]:
    """Give a function that opens wires on a kind of loop; at the end they leave no task."""
    opened: list[GuestWire] = []

    def open_wire(app: Any, **options: Any) -> GuestWire:
        opened.append(wire_class(app, kind=kind, **options))
        return opened[-1]

    yield open_wire
    for wire in opened:
        wire.close()
        assert wire.tasks == set()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged at the level warning or above."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@contextlib.contextmanager
def asgi_wire(app: Any, **options: Any) -> Iterator[AsgiWire]:
    """Open an AsgiWire for a with statement."""
    opened = AsgiWire(app, **options)
    try:
        yield opened
    finally:
        opened.close()


def get(target: str = "/", *fields: str, method: str = "GET") -> bytes:
    """Return the bytes of a request without a body."""
    lines = [f"{method} {target} HTTP/1.1", "Host: h", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def post(body: bytes, *fields: str) -> bytes:
    """Return the bytes of a request with a counted body."""
    return get("/", f"Content-Length: {len(body)}", *fields, method="POST") + body


def start(status: int = 200, *headers: tuple[bytes, bytes], **more: Any) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def body(content: bytes = b"", more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


async def read_all(receive: Callable[[], Any]) -> bytes:
    """Return the whole body of a request."""
    content = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        content += message["body"]
        if not message["more_body"]:
            return content


def answering(content: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> Any:
    """Return an application that answers everything with the same."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send(start(status, *headers))
        await send(body(content))

    return app


async def echo(scope: Scope, receive: Any, send: Any) -> None:
    content = await read_all(receive)
    await send(start())
    await send(body(content))
