"""tasks.pyx: in which loop, context and order tasks run.

What is awaited in them, for every kind of loop, is the matter of test_asgi_runner.py.
"""

import asyncio
import contextvars
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
