"""The lifespan of an ASGI application: startup, shutdown, and the state between them.

One task calls the application with the lifespan scope (ASGI lifespan 2.0) and lives
as long as the worker serves.  The law: whatever the application does with the two
messages, startup() and shutdown() come to an end, and an application that does not
speak of a lifespan is served all the same unless the user said that it has one.  This
file knows neither servers nor processes.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from fastcluster.errors import AppLoadError

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Any]], Any]

# How long an application that was told to shut down and to give up may still take.
CANCEL_TIMEOUT_S = 1.0


class Lifespan:
    """Run an application's lifespan in the running asyncio loop.

    mode: "auto", "on" or "off" as the option --lifespan has it.
    """

    def __init__(self, app: App, mode: str, log: logging.Logger) -> None:
        self._app = app
        self._mode = mode
        self._log = log
        self._task: asyncio.Task[None] | None = None
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._started: asyncio.Future[None] | None = None
        self._stopped: asyncio.Future[None] | None = None
        # What the application says of a failure: the text of its message.
        self._failure: str | None = None
        self._was_asked = False
        self._scope_state: dict[str, Any] = {}
        self.state: dict[str, Any] | None = None

    async def startup(self) -> None:
        """Tell the application of the startup and wait for its answer.

        Afterwards `state` is what every request's scope gets a copy of, or None if
        there is no lifespan.  Raises AppLoadError if the startup failed.
        """
        if self._mode == "off":
            return
        loop = asyncio.get_running_loop()
        self._started, self._stopped = loop.create_future(), loop.create_future()
        self._events.put_nowait({"type": "lifespan.startup"})
        self._task = loop.create_task(self._call(), name="fastcluster lifespan")
        try:
            await asyncio.wait({self._task, self._started}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        if self._failure is not None:
            await self._end()
            raise self._failed(self._failure)
        if not self._started.done():
            self._had_none(self._task)
            return
        self.state = self._scope_state

    async def shutdown(self, timeout_s: float) -> None:
        """Tell the application of the shutdown; wait timeout_s seconds for its answer."""
        if self._task is None or self.state is None:
            return
        assert self._stopped is not None
        self._events.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.wait(
            {self._task, self._stopped}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if self._failure is not None:
            self._log.error("the application's shutdown failed: %s", self._failure)
        elif self._task.done() and not self._task.cancelled() and self._task.exception():
            self._log.error(
                "the application failed in its lifespan", exc_info=self._task.exception()
            )
        elif not self._task.done() and not self._stopped.done():
            self._log.error(
                "the application's shutdown did not finish within %.3g s and is given up", timeout_s
            )
        await self._end()

    # ---- what the application is called with

    async def _call(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._scope_state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except SystemExit as leaving:
            # It would end the loop, and with it whoever waits for an answer.
            raise RuntimeError(f"the application called sys.exit({leaving.code!r})") from leaving

    async def _receive(self) -> Message:
        message = await self._events.get()
        self._was_asked = True
        return message

    async def _send(self, message: Message) -> None:
        kind = message.get("type") if isinstance(message, MutableMapping) else None
        match kind:
            case "lifespan.startup.complete" if self._is_due(self._started):
                assert self._started is not None
                self._started.set_result(None)
            case "lifespan.startup.failed" if self._is_due(self._started):
                assert self._started is not None
                self._failure = str(message.get("message", ""))
                self._started.set_result(None)
            case "lifespan.shutdown.complete" if self._is_due(self._stopped):
                assert self._stopped is not None
                self._stopped.set_result(None)
            case "lifespan.shutdown.failed" if self._is_due(self._stopped):
                assert self._stopped is not None
                self._failure = str(message.get("message", ""))
                self._stopped.set_result(None)
            case _:
                raise RuntimeError(f"{kind!r} is no answer that lifespan waits for now")

    def _is_due(self, answer: asyncio.Future[None] | None) -> bool:
        if answer is None or answer.done():
            return False
        return answer is self._started or (self._started is not None and self._started.done())

    # ---- endings

    def _had_none(self, task: asyncio.Task[None]) -> None:
        """The application has ended before it said that it had started."""
        error = None if task.cancelled() else task.exception()
        if self._mode == "on":
            if error is None:
                raise AppLoadError(
                    "the application has no lifespan: it returned without an answer to "
                    "lifespan.startup; leave out --lifespan on"
                )
            raise AppLoadError(
                "the application failed in its lifespan before it had started up",
                detail=_trace(error),
            ) from error
        if error is not None and self._was_asked:
            # It may have none, and it may have one that is broken.
            self._log.warning(
                "the application is served without a lifespan, since it raised %s when it was "
                "told of the startup: --lifespan on shows more, --lifespan off does not ask",
                traceback.format_exception_only(error)[-1].strip(),
            )
        else:
            self._log.debug("the application has no lifespan")

    def _failed(self, text: str) -> AppLoadError:
        lines = text.strip().splitlines()
        if len(lines) > 1:
            # Starlette and others send a whole traceback.
            return AppLoadError("the application's startup failed", detail=text.rstrip())
        reason = text.strip() or "no reason given"
        return AppLoadError(f"the application's startup failed: {reason}")

    async def _end(self) -> None:
        """Let the task end, by force if need be; what it raises was reported already."""
        assert self._task is not None
        task = self._task
        if not task.done():
            await asyncio.wait({task}, timeout=CANCEL_TIMEOUT_S)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_TIMEOUT_S)
        if task.done() and not task.cancelled():
            task.exception()


class Lifespans:
    """Run the lifespans of several applications; they start in their order, and end together."""

    def __init__(self, each: Sequence[Lifespan]) -> None:
        self._each = each

    @property
    def state(self) -> list[dict[str, Any] | None]:
        """Return the `state` of each, in their order."""
        return [lifespan.state for lifespan in self._each]

    async def startup(self) -> None:
        """Be startup() of each; if one fails, those that had started are shut down again.

        Raises AppLoadError.
        """
        for lifespan in self._each:
            try:
                await lifespan.startup()
            except AppLoadError:
                await self.shutdown(CANCEL_TIMEOUT_S)
                raise

    async def shutdown(self, timeout_s: float) -> None:
        """Be shutdown() of each, at the same time."""
        await asyncio.gather(*(lifespan.shutdown(timeout_s) for lifespan in self._each))


def _trace(error: BaseException) -> str:
    """Return the traceback without the frames that led into the application."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()
