"""The asyncio loop in which a server is a guest, from the application's startup to its end.

The loop watches the server's one descriptor and takes a turn when it is readable; requests
are tasks between the turns.  The law: what was begun gets the time that it was promised,
what then is cancelled gets a moment to clean up, and nothing that an application has left
in the loop, tasks, generators or threads, keeps the loop from its end.  This file knows no
processes, no signals and no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from fastcluster.config import Config
from fastcluster.errors import AppLoadError
from fastcluster.lifespan import Lifespan, Lifespans

# Of the time to finish, what is kept for tasks that are cancelled and for the
# application's shutdown: at most so much, and at most so large a part.
CLEANUP_S = 3.0
CLEANUP_PART = 0.2

NO_UVLOOP = (
    "--loop uvloop: uvloop is not installed: pip install fastcluster-server[uvloop], or leave "
    "--loop out"
)


class Runner(Protocol):
    """What a guest needs of tasks.TaskRunner."""

    @property
    def speaks_lifespan(self) -> bool: ...
    @property
    def app(self) -> Any: ...
    @property
    def tasks(self) -> set[asyncio.Task[None]]: ...
    def attach(self, loop: asyncio.AbstractEventLoop, state: Any = None) -> None: ...
    def cancel_all(self) -> None: ...


class ServerLike(Protocol):
    """What a guest needs of server.Server."""

    @property
    def drained(self) -> bool: ...
    def fileno(self) -> int: ...
    def turn(self, timeout_ms: int = -1) -> int: ...
    def rest(self) -> None: ...


class Guest:
    """An application's loop and lifespan, and the turns of the server that calls it.

    config: a config.Config, of which `loop` and `lifespan` are used.  loop: the loop to be a
    guest in, None for a new one.  Raises AppLoadError if there is no such loop.
    """

    def __init__(
        self,
        runner: Runner,
        config: Config,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = loop if loop is not None else new_loop(config.loop, log)
        self._runner = runner
        self._lifespan = _lifespan_of(runner, config, log)
        self._log = log
        self._clock = clock
        self._end_begun: asyncio.Future[None] = self.loop.create_future()
        self._turned = asyncio.Event()
        self._hastened = asyncio.Event()

    # ---- the beginning

    def start_up(self, watched: Mapping[int, Callable[[], bool]]) -> bool:
        """Let the application start up; False if it was told to leave meanwhile.

        watched: for a descriptor the function that is called when it is readable, and
        returns True if it says to leave.  Raises AppLoadError if the startup fails.
        """
        asyncio.set_event_loop(self.loop)
        return self.loop.run_until_complete(self._start_up(watched))

    async def _start_up(self, watched: Mapping[int, Callable[[], bool]]) -> bool:
        told: asyncio.Future[None] = self.loop.create_future()
        for fd, is_told in watched.items():
            self.loop.add_reader(fd, _note, told, is_told)
        startup = self.loop.create_task(self.starting())
        await asyncio.wait({startup, told}, return_when=asyncio.FIRST_COMPLETED)
        for fd in watched:
            self.loop.remove_reader(fd)
        if told.done():
            startup.cancel()
            await asyncio.wait({startup}, timeout=CLEANUP_S)
            await self._lifespan.shutdown(CLEANUP_S)
            return False
        startup.result()
        return True

    async def starting(self) -> None:
        """Be start_up() inside of the loop, without anybody who could say to leave."""
        await self._lifespan.startup()
        self._runner.attach(self.loop, self._lifespan.state)

    # ---- the middle

    def drive(
        self, server: ServerLike, after_turn: Callable[[], object], graceful_s: float
    ) -> None:
        """Take the server's turns until it is drained and the tasks are over, or time is.

        after_turn: called after every turn.  graceful_s: how long it may take from
        begin_end() on, the application's shutdown and all.  What a turn raises passes
        through.
        """
        self.loop.run_until_complete(self.driving(server, after_turn, graceful_s))

    async def driving(
        self, server: ServerLike, after_turn: Callable[[], object], graceful_s: float
    ) -> None:
        """Be drive() inside of the loop.

        Cancelled, it waits for no request any more, and raises CancelledError once those
        that run were cancelled and the application has shut down.
        """
        self.loop.add_reader(server.fileno(), self._turn, server, after_turn)
        self._turn(server, after_turn)
        try:
            await self._end_begun
            until_s = self._clock() + graceful_s
            kept_s = min(CLEANUP_S, graceful_s * CLEANUP_PART)
            await self._until_hastened(self._finish(server, until_s - kept_s))
            if self._hastened.is_set():
                until_s, kept_s = self._clock() + CLEANUP_S, CLEANUP_S
            await self._cancel(until_s - kept_s / 2)
            # A little is left to say so if it hangs: then whoever gave us the time kills us.
            left_s = until_s - kept_s / 2 - self._clock()
            await self._lifespan.shutdown(max(kept_s / 2, left_s))
        except asyncio.CancelledError:
            await self._cancel(self._clock() + CLEANUP_S / 2)
            await self._lifespan.shutdown(CLEANUP_S / 2)
            raise
        finally:
            self.loop.remove_reader(server.fileno())

    async def _until_hastened(self, finishing: Coroutine[Any, Any, None]) -> None:
        """Wait for the end of it, but not once somebody is in a hurry."""
        tasks = [self.loop.create_task(finishing), self.loop.create_task(self._hastened.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not tasks[0].cancelled():
            tasks[0].result()

    def _turn(self, server: ServerLike, after_turn: Callable[[], object]) -> None:
        try:
            server.turn(0)
            after_turn()
        except BaseException as error:
            if self._end_begun.done():
                raise
            self._end_begun.set_exception(error)
            return
        if self._end_begun.done():
            self._turned.set()
        # Comes after the tasks that this turn has woken.  Another turn here, for what has
        # come meanwhile, was measured and saves nothing.
        self.loop.call_soon(server.rest)

    # ---- the end

    def begin_end(self) -> None:
        """Hear that the server drains; may be repeated."""
        if not self._end_begun.done():
            self._end_begun.set_result(None)

    def hasten(self) -> None:
        """Give what still runs no more time than it takes to clean up."""
        self._hastened.set()
        self.begin_end()

    async def _finish(self, server: ServerLike, until_s: float) -> None:
        """Wait until nothing is left to do, or until the time is over."""
        while not server.drained and (left_s := until_s - self._clock()) > 0:
            self._turned.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._turned.wait()
            except TimeoutError:
                return
        # What runs in the background of responses that are sent.
        while self._runner.tasks and (left_s := until_s - self._clock()) > 0:
            await asyncio.wait(self._runner.tasks, timeout=left_s)

    async def _cancel(self, until_s: float) -> None:
        """Cancel what is not finished, and let it clean up."""
        tasks = set(self._runner.tasks)
        if not tasks:
            return
        self._log.warning(
            "time to finish is over: %d %s cancelled",
            len(tasks),
            "request is" if len(tasks) == 1 else "requests are",
        )
        self._runner.cancel_all()
        _, stubborn = await asyncio.wait(tasks, timeout=max(0.0, until_s - self._clock()))
        for task in stubborn:
            self._log.error("a request does not end although it was cancelled: %r", task)

    def close(self) -> None:
        """End what the application has left in the loop, and the loop."""
        wind_up(self.loop, self._log, CLEANUP_S / 2)


def _lifespan_of(runner: Any, config: Config, log: logging.Logger) -> Lifespan | Lifespans:
    """Return the lifespan of an application, or of all that are mounted side by side."""
    runners = getattr(runner, "runners", None)
    if runners is not None:
        return Lifespans([_single_lifespan(each, config, log) for each in runners])
    return _single_lifespan(runner, config, log)


def _single_lifespan(runner: Runner, config: Config, log: logging.Logger) -> Lifespan:
    mode = config.lifespan if runner.speaks_lifespan else "off"
    return Lifespan(runner.app, mode, log)


def _note(told: asyncio.Future[None], is_told: Callable[[], bool]) -> None:
    if is_told() and not told.done():
        told.set_result(None)


# ---- loops


def new_loop(name: str, log: logging.Logger) -> asyncio.AbstractEventLoop:
    """Make the loop that the option --loop names, and let the log have what it complains of.

    name: "auto" (uvloop where it is installed), "uvloop", "asyncio" or "module:factory".
    Raises AppLoadError.
    """
    loop = _made(name)
    log.debug("event loop %s.%s", type(loop).__module__, type(loop).__qualname__)
    loop.set_exception_handler(lambda _, context: _complain(log, context))
    return loop


def _made(name: str) -> asyncio.AbstractEventLoop:
    if name == "auto":
        name = "uvloop" if importlib.util.find_spec("uvloop") is not None else "asyncio"
    if name == "asyncio":
        return asyncio.new_event_loop()
    if name == "uvloop":
        try:
            loop = importlib.import_module("uvloop").new_event_loop()
        except ModuleNotFoundError as error:
            raise AppLoadError(NO_UVLOOP) from error
    else:
        loop = _made_by_factory(name)
    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise AppLoadError(f"--loop {name}: made {loop!r:.100}, which is no asyncio event loop")
    return loop


def check_loop(name: str) -> None:
    """Raise AppLoadError if there is no such loop; for those who make none, since they need none.

    Somebody wrote --loop and is to hear of it also where the application is not asynchronous.
    """
    if name == "uvloop" and importlib.util.find_spec("uvloop") is None:
        raise AppLoadError(NO_UVLOOP)
    if ":" in name:
        _factory_of(name)


def _made_by_factory(name: str) -> Any:
    return _factory_of(name)()


def _factory_of(name: str) -> Callable[[], Any]:
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise AppLoadError(f"--loop {name}: {error}") from error
    if not callable(found):
        raise AppLoadError(f"--loop {name}: {type(found).__name__} makes no loop: name a factory")
    factory: Callable[[], Any] = found
    return factory


def _complain(log: logging.Logger, context: dict[str, Any]) -> None:
    error = context.get("exception")
    about = context.get("task") or context.get("future") or context.get("handle")
    log.error(
        "asyncio: %s%s",
        context.get("message", "unhandled exception"),
        f" ({about!r:.300})" if about is not None else "",
        exc_info=error,
    )


def wind_up(loop: asyncio.AbstractEventLoop, log: logging.Logger, timeout_s: float) -> None:
    """Let what still runs in a loop end within timeout_s seconds, and close the loop."""
    try:
        loop.run_until_complete(_end_all(loop, log, timeout_s))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def _end_all(loop: asyncio.AbstractEventLoop, log: logging.Logger, timeout_s: float) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        ended, stubborn = await asyncio.wait(tasks, timeout=timeout_s)
        for task in stubborn:
            log.warning("a task does not end when it is cancelled: %r", task)
        for task in ended:
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("a task failed when it was cancelled: %r", task, exc_info=error)
    # Closing the loop then tells its executor to end; threads that are still busy are waited
    # for at the process's end.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await loop.shutdown_asyncgens()
