"""asgi_runner.pyx: what receive() and send() return, and where tasks live."""

import asyncio
import collections.abc
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from asgi_parts import GET, Scope, answering, asgi_wire, body, post, read_all, start

from fastcluster.asgi import AsgiHandler
from fastcluster.config import Config


def called(use: Callable[[Any, Any], Any], request: bytes = GET) -> None:
    """Have use(receive, send) run in an application, which then answers."""
    failures: list[BaseException] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        try:
            await use(receive, send)
        except BaseException as error:
            failures.append(error)
        await send(body(b"x"))

    with asgi_wire(app, is_checked=False) as wire:
        assert wire.request(request).body == b"x"
    for failure in failures:
        raise failure


KINDS: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("receive", lambda receive, send: receive()),
    ("send", lambda receive, send: send(start())),
]


@pytest.mark.parametrize("make", [kind[1] for kind in KINDS], ids=[kind[0] for kind in KINDS])
def test_they_are_coroutines_to_everybody(make: Callable[[Any, Any], Any]) -> None:
    async def use(receive: Any, send: Any) -> None:
        thing = make(receive, send)
        assert inspect.isawaitable(thing)
        assert asyncio.iscoroutine(thing)
        assert isinstance(thing, collections.abc.Coroutine)
        thing.close()
        if make is KINDS[0][1]:
            await send(start())

    called(use)


@pytest.mark.parametrize(
    "wrap",
    [
        asyncio.create_task,
        asyncio.ensure_future,
        lambda thing: asyncio.wait_for(thing, 5),
        asyncio.gather,
        asyncio.shield,
    ],
    ids=["create_task", "ensure_future", "wait_for", "gather", "shield"],
)
def test_asyncio_takes_them(wrap: Callable[[Any], Any]) -> None:
    async def use(receive: Any, send: Any) -> None:
        found = await wrap(receive())
        message = found[0] if isinstance(found, list) else found
        assert message == {"type": "http.request", "body": b"abc", "more_body": False}
        assert await wrap(send(start())) in (None, [None])

    called(use, post(b"abc"))


def test_a_coroutine_that_yields_from_them() -> None:
    class Wrapped:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __await__(self) -> Any:
            return (yield from self.inner.__await__())

    async def use(receive: Any, send: Any) -> None:
        assert (await Wrapped(receive()))["type"] == "http.request"
        assert await Wrapped(send(start())) is None

    called(use)


def test_an_exception_that_is_thrown_in_passes_through() -> None:
    async def use(receive: Any, send: Any) -> None:
        await receive()
        waiting = receive()
        future = waiting.send(None)
        assert isinstance(future, asyncio.Future)
        with pytest.raises(ValueError, match="own"):
            waiting.throw(ValueError("own"))
        with pytest.raises(KeyError):
            receive().throw(KeyError)
        with pytest.raises(LookupError):
            receive().throw(LookupError, LookupError("x"))
        await send(start())

    called(use)


def test_what_was_sent_is_done() -> None:
    async def use(receive: Any, send: Any) -> None:
        with pytest.raises(StopIteration) as caught:
            send(start()).send(None)
        assert caught.value.value is None
        with pytest.raises(StopIteration) as caught:
            receive().send(None)
        assert caught.value.value["type"] == "http.request"

    called(use)


def test_many_that_wait_and_are_cancelled_do_not_pile_up() -> None:
    async def use(receive: Any, send: Any) -> None:
        await read_all(receive)
        last = asyncio.create_task(receive())
        for _ in range(1000):
            task = asyncio.create_task(receive())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
        await send(start())
        last.cancel()
        await asyncio.wait({last})

    called(use)


def test_before_it_is_attached_there_is_no_loop() -> None:
    handler = AsgiHandler(answering(b""), Config())
    assert handler.loop is None
    assert handler.state is None
    assert handler.tasks == set()
    loop = asyncio.new_event_loop()
    state = {"a": 1}
    handler.attach(loop, state)
    assert handler.loop is loop
    assert handler.state is state
    loop.close()


def test_tasks_are_held_while_they_run() -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await go.wait()
        await answering(b"x")(scope, receive, send)

    with asgi_wire(app) as wire:
        client = wire.connect()
        client.send(GET)
        wire.turn_until(lambda: wire.tasks)
        [task] = wire.tasks
        assert isinstance(task, asyncio.Task)
        assert not task.done()
        go.set()
        assert client.response().body == b"x"
        assert wire.tasks == set()
        assert task.done()
