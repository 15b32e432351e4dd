"""tasks.pyx: in which loop, context and order tasks run.

What is awaited in them, for every kind of loop, is the matter of test_asgi_runner.py.
"""

import asyncio
import contextvars
import gc
import io
import weakref
from collections.abc import Generator
from typing import Any

from asgi_parts import GET, AsgiWire, answering

from fastcluster.config import Config
from fastcluster.tasks import TaskRunner

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="none")


def test_a_runner_is_attached_to_a_loop() -> None:
    runner = TaskRunner(len, Config())
    assert (runner.app, runner.loop, runner.state, runner.tasks) == (len, None, None, set())
    loop = asyncio.new_event_loop()
    runner.attach(loop, {"a": 1})
    assert runner.loop is loop
    assert runner.state == {"a": 1}
    loop.close()


def test_every_task_has_a_copy_of_the_context_of_attach() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(NAME.get())
        NAME.set("changed by a request")
        await answering(b"x")(scope, receive, send)

    token = NAME.set("attached")
    wire = AsgiWire(app)
    NAME.reset(token)
    assert [wire.request(GET).body for _ in range(2)] == [b"x", b"x"]
    assert seen == ["attached", "attached"]
    wire.close()


def test_a_task_factory_of_the_application_makes_the_tasks() -> None:
    made: list[asyncio.Task[Any]] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
        made.append(asyncio.Task(coro, loop=loop, **more))
        return made[-1]

    wire = AsgiWire(answering(b"x"))
    wire.loop.set_task_factory(factory)
    wire.handler.attach(wire.loop)  # type: ignore[attr-defined]
    assert wire.request(GET).body == b"x"
    assert len(made) == 1
    wire.loop.set_task_factory(None)
    wire.close()


def test_the_stack_of_a_waiting_task_is_the_applications() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(look, task)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await answering(b"x")(scope, receive, send)

    def look(task: asyncio.Task[Any]) -> None:
        task.print_stack(file=printed)
        shown.append(repr(task))

    printed, shown = io.StringIO(), list[str]()
    wire = AsgiWire(app)
    assert wire.request(GET).body == b"x"
    # The tests' checker is what the server calls.
    assert "await self.app(scope, call.receive, call.send)" in printed.getvalue()
    assert "coro=<__call__() running at" in shown[0]
    wire.close()


def test_an_application_may_return_any_awaitable() -> None:
    class Answer:
        def __init__(self, *called: Any) -> None:
            self.called = called

        def __await__(self) -> Generator[Any, Any, None]:
            yield from asyncio.sleep(0).__await__()
            yield from answering(b"x")(*self.called).__await__()

    wire = AsgiWire(Answer)
    assert wire.request(GET).body == b"x"
    wire.close()


def test_what_is_not_awaitable_costs_a_500() -> None:
    wire = AsgiWire(lambda scope, receive, send: None)
    assert wire.request(GET).status == 500
    assert wire.request(GET).status == 500
    wire.close()


def test_nothing_of_a_request_that_is_over_is_held() -> None:
    class Value:
        pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        value = Value()
        held.append(weakref.ref(value))
        variable.set(value)
        await answering(b"x")(scope, receive, send)

    held: list[weakref.ref[Value]] = []
    variable: contextvars.ContextVar[Value] = contextvars.ContextVar("variable")
    wire = AsgiWire(app)
    gc.disable()
    try:
        assert wire.request(GET).body == b"x"
        wire.turn_until(lambda: held[0]() is None)
    finally:
        gc.enable()
    wire.close()


def test_a_task_that_is_cancelled_before_it_begins_is_answered() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it was called")

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **more)
        task.cancel()
        return task

    wire = AsgiWire(app)
    wire.loop.set_task_factory(factory)
    wire.handler.attach(wire.loop)  # type: ignore[attr-defined]
    assert wire.request(GET).status == 500
    assert wire.tasks == set()
    wire.loop.set_task_factory(None)
    wire.close()
