"""guest.py: loops, turns, and the end of everything, with a fake server and runner."""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgi_parts import LOOPS
from require import require_module

from fastcluster.config import Config
from fastcluster.errors import AppLoadError
from fastcluster.guest import Guest, new_loop, wind_up

LOG = logging.getLogger("fastcluster.test_guest")


class FakeServer:
    """A server that has something to do whenever its pipe is readable."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.drained = False
        self.turns = 0
        self.rests = 0
        self.on_turn: Callable[[], object] = lambda: None

    def fileno(self) -> int:
        return self.reading

    def wake(self) -> None:
        os.write(self.writing, b"!")

    def turn(self, timeout_ms: int = -1) -> int:
        assert timeout_ms == 0
        self.turns += 1
        if self.turns > 1:
            os.read(self.reading, 1)
        self.on_turn()
        return 1

    def rest(self) -> None:
        self.rests += 1

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


class FakeRunner:
    speaks_lifespan = True

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.heard: list[str] = []
        self.attached: list[Any] = []
        self.cancelled = False

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["x"] = 1
        for _ in range(2):
            message = await receive()
            self.heard.append(message["type"])
            await send({"type": message["type"] + ".complete"})

    def attach(self, loop: Any, state: Any = None) -> None:
        self.attached.append((loop, state))

    def cancel_all(self) -> None:
        self.cancelled = True
        for task in self.tasks:
            task.cancel()

    def add(self, guest: Guest, coro: Any) -> asyncio.Task[None]:
        task = guest.loop.create_task(coro)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


class Set:
    def __init__(self, kind: str, **options: Any) -> None:
        self.server, self.runner = FakeServer(), FakeRunner()
        self.guest = Guest(self.runner, Config(loop=kind, **options), LOG)
        self.after = 0

    def drive(self, graceful_s: float = 30.0) -> None:
        def after() -> None:
            self.after += 1

        self.guest.drive(self.server, after, graceful_s)

    def end(self) -> None:
        self.server.drained = True
        self.guest.begin_end()
        self.server.wake()


@pytest.fixture(params=LOOPS)
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Set]]:
    if request.param == "uvloop":
        require_module("uvloop", package="uvloop")
    made: list[Set] = []

    def new(**options: Any) -> Set:
        made.append(Set(request.param, **options))
        return made[-1]

    yield new
    for each in made:
        each.guest.close()
        each.server.close()


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_life(make: Callable[..., Set], caplog: pytest.LogCaptureFixture) -> None:
    one = make()
    assert one.guest.start_up({})
    assert one.runner.heard == ["lifespan.startup"]
    assert one.runner.attached == [(one.guest.loop, {"x": 1})]

    def on_turn() -> None:
        if one.server.turns < 5:
            one.server.wake()
        elif one.server.turns == 5:
            one.end()
            one.guest.begin_end()

    one.server.on_turn = on_turn
    one.drive()
    assert one.server.turns in (5, 6)
    assert one.after == one.server.turns
    assert one.server.rests >= 4
    assert one.runner.heard == ["lifespan.startup", "lifespan.shutdown"]
    assert errors(caplog) == []


def test_what_tasks_do_comes_between_turn_and_rest(make: Callable[..., Set]) -> None:
    one = make(lifespan="off")
    assert one.guest.start_up({})
    order: list[str] = []

    def on_turn() -> None:
        one.guest.loop.call_soon(order.append, "task")
        one.end()

    one.server.on_turn = on_turn
    one.server.rest = lambda: order.append("rest")  # type: ignore[method-assign]
    one.drive()
    assert order[:2] == ["task", "rest"]


def test_a_startup_that_fails(make: Callable[..., Set]) -> None:
    one = make(lifespan="on")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("x")

    one.guest._lifespan._app = app
    with pytest.raises(AppLoadError, match="lifespan"):
        one.guest.start_up({})
    assert one.runner.attached == []


def test_told_to_leave_during_the_startup(make: Callable[..., Set]) -> None:
    one = make(lifespan="on")
    reading, writing = os.pipe()
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        os.write(writing, b"no")
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("cleaned up")

    def is_told() -> bool:
        return os.read(reading, 1) == b"o"

    one.guest._lifespan._app = app
    assert not one.guest.start_up({reading: is_told})
    one.guest.loop.run_until_complete(asyncio.sleep(0))
    assert seen == ["cleaned up"]
    assert one.runner.attached == []
    os.close(reading)
    os.close(writing)


def test_what_a_turn_raises_ends_the_life(make: Callable[..., Set]) -> None:
    one = make(lifespan="off")
    assert one.guest.start_up({})

    def fail() -> None:
        raise OSError("no epoll")

    one.server.on_turn = fail
    with pytest.raises(OSError, match="no epoll"):
        one.drive()


def test_requests_and_what_they_left_finish(make: Callable[..., Set]) -> None:
    one = make(lifespan="off")
    assert one.guest.start_up({})
    done: list[str] = []

    async def background() -> None:
        await asyncio.sleep(0.05)
        done.append("background")

    async def request() -> None:
        await asyncio.sleep(0.02)
        one.runner.add(one.guest, background())
        done.append("request")
        one.server.drained = True
        one.server.wake()

    one.server.on_turn = lambda: (
        one.server.turns == 1
        and (
            one.runner.add(one.guest, request()),
            one.guest.begin_end(),
        )
    )
    one.drive()
    assert done == ["request", "background"]
    assert not one.runner.cancelled


@pytest.mark.parametrize("drained", [False, True], ids=["connection left", "task left"])
def test_when_time_is_over_tasks_are_cancelled_and_clean_up(
    make: Callable[..., Set], drained: bool, caplog: pytest.LogCaptureFixture
) -> None:
    one = make()
    assert one.guest.start_up({})
    done: list[str] = []

    async def request() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            done.append("cleaned up")

    one.server.drained = drained
    one.server.on_turn = lambda: (
        one.runner.add(one.guest, request()),
        one.guest.begin_end(),
    )
    before = time.monotonic()
    one.drive(graceful_s=1.0)
    assert 0.7 < time.monotonic() - before < 5
    assert done == ["cleaned up"]
    assert one.runner.heard == ["lifespan.startup", "lifespan.shutdown"]
    assert errors(caplog) == ["time to finish is over: 1 request is cancelled"]


def test_a_task_that_does_not_want_to_end(
    make: Callable[..., Set], caplog: pytest.LogCaptureFixture
) -> None:
    one = make(lifespan="off")
    assert one.guest.start_up({})
    go = asyncio.Event()

    async def stubborn() -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    one.server.on_turn = lambda: (
        one.runner.add(one.guest, stubborn()),
        one.guest.begin_end(),
    )
    one.drive(graceful_s=0.2)
    assert "does not end although" in errors(caplog)[-1]
    go.set()


def test_no_grace_at_all(make: Callable[..., Set]) -> None:
    one = make(lifespan="off")
    assert one.guest.start_up({})
    one.server.on_turn = lambda: (
        one.runner.add(one.guest, asyncio.sleep(60)),
        one.guest.begin_end(),
    )
    one.drive(graceful_s=0.0)
    assert one.runner.cancelled


# ---- loops


@pytest.mark.parametrize(
    ("name", "module"),
    [("asyncio", "asyncio."), ("uvloop", "uvloop"), ("asyncio:new_event_loop", "asyncio.")],
)
def test_new_loop(name: str, module: str) -> None:
    if name == "uvloop":
        require_module("uvloop", package="uvloop")
    loop = new_loop(name, LOG)
    assert type(loop).__module__.startswith(module)
    loop.close()


def test_auto_takes_uvloop_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    require_module("uvloop", package="uvloop")
    loop = new_loop("auto", LOG)
    assert type(loop).__module__ == "uvloop"
    loop.close()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    loop = new_loop("auto", LOG)
    assert type(loop).__module__.startswith("asyncio")
    loop.close()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no_such_module:new", "No module named 'no_such_module'"),
        ("asyncio:no_such", "no_such"),
        ("asyncio:tasks", "name a factory"),
        ("builtins:dict", "which is no asyncio event loop"),
    ],
)
def test_a_loop_that_cannot_be_made_is_one_sentence(name: str, text: str) -> None:
    with pytest.raises(AppLoadError, match=text) as caught:
        new_loop(name, LOG)
    assert name in caught.value.message
    assert "\n" not in caught.value.message


def test_uvloop_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(AppLoadError, match="pip install"):
        new_loop("uvloop", LOG)


def test_what_asyncio_complains_of_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    loop = new_loop("asyncio", LOG)

    def fail() -> None:
        raise ValueError("x")

    loop.call_soon(fail)
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    [record] = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.name == LOG.name
    assert record.exc_info is not None


@pytest.mark.parametrize("kind", LOOPS)
def test_winding_up(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    if kind == "uvloop":
        require_module("uvloop", package="uvloop")
    loop = new_loop(kind, LOG)
    done: list[str] = []
    go = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            done.append("task")

    async def failing() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError from None

    async def generate() -> Any:
        try:
            yield 1
        finally:
            done.append("generator")

    generator = generate()

    async def begin() -> None:
        loop.create_task(forever())
        loop.create_task(failing())
        await anext(generator)
        loop.run_in_executor(None, go.wait, 5)
        await asyncio.sleep(0)

    loop.run_until_complete(begin())
    before = time.monotonic()
    wind_up(loop, LOG, 0.1)
    assert time.monotonic() - before < 4
    go.set()
    assert loop.is_closed()
    assert sorted(done) == ["generator", "task"]
    texts = errors(caplog)
    assert "failed when it was cancelled" in texts[0]
    assert len(texts) == 1
