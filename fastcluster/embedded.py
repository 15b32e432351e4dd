"""A server inside of a program of the user's own, for every kind of application.

    server = fastcluster.Server(app, port=0)
    await server.serve()

The law: the loop, the process and its signals are the embedder's, so this file makes no
worker, installs no signal handler, sets up no logging and ends nothing that it did not
begin.  How an application is run is decided by adapters.py, how it ends by guest.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from fastcluster import apps, log, sockets
from fastcluster.adapters import handler_for
from fastcluster.config import Config
from fastcluster.errors import UsageError
from fastcluster.guest import Guest, new_loop, wind_up
from fastcluster.server import Server as _Loop

# What is left in the loop of running_in_thread() has this long to end.
WIND_UP_S = 1.5


class _NoTasks:
    """Stands for the tasks of an application that runs in none: WSGI, sync native."""

    app = None
    speaks_lifespan = False

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def attach(self, loop: object, state: object = None) -> None:
        """Need no loop."""

    def cancel_all(self) -> None:
        """Have nothing to cancel."""


class Server:
    """Serve an application in the running asyncio loop; it serves once.

    app: a native, WSGI or ASGI application, or its name as "module:name".  config: a
    Config; options are fields of it and change it.  host, port and uds say where to listen
    as the command's options do, port 0 being any that is free; else it is config.bind.
    There is one process, this one, whatever `workers` says.  Raises AppLoadError,
    UsageError.
    """

    def __init__(
        self,
        app: Any,
        config: Config | None = None,
        *,
        host: str | None = None,
        port: int | None = None,
        uds: str | None = None,
        **options: Any,
    ) -> None:
        if config is None:
            config = Config(**options)
        elif options:
            config = dataclasses.replace(config, **options)
        self.config = config
        self._where = _where(config, host, port, uds)
        if isinstance(app, str):
            app = apps.load(app, config.app_dir, config.factory)
        self._handler: Any = handler_for(app, config)
        self._log = logging.getLogger(log.NAME)
        self._lock = threading.Lock()
        self._begun = False
        self._stopped_with: float | None = None  # seconds to finish, once stop() was called
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: Callable[[], None] | None = None
        self._listening: list[sockets.ListeningSocket] = []
        self._addresses: tuple[sockets.Address, ...] = ()
        self._task: asyncio.Task[None] | None = None

    # ---- where it listens

    @property
    def addresses(self) -> tuple[sockets.Address, ...]:
        """Where it listens, with the real ports: `host`, `port`, `path`; empty before."""
        return self._addresses

    @property
    def url(self) -> str:
        """The URL of the first address, "http://127.0.0.1:8000"; RuntimeError before it listens."""
        if not self._listening:
            raise RuntimeError("the server does not listen: serve it first")
        return sockets.url(self._listening[0])

    # ---- serving

    async def serve(self, started: Callable[[], object] | None = None) -> None:
        """Serve until stop(), then until running requests are over or their time is.

        started: called when clients can connect.  Cancelling it ends it as well: requests
        that run are cancelled then, and the application still shuts down.  Raises
        AppLoadError if the application's startup fails, BindError for an address that
        cannot be had, RuntimeError if it was served before.
        """
        if self._begun:
            raise RuntimeError("a Server serves once: make another one")
        self._begun = True
        loop = asyncio.get_running_loop()
        runner = self._handler if hasattr(self._handler, "attach") else _NoTasks()
        guest = Guest(runner, self.config, self._log, loop=loop)
        config = self.config
        access = log.open_access_log(config.access_log_format) if config.logs_access else None
        server = _Loop(self._handler, self.config, log=self._log, access=access)
        try:
            self._listen(server)
            await guest.starting()
            await self._drive(loop, guest, server, started)
        finally:
            with self._lock:
                self._loop = self._end = None
            server.close()
            self._close_listening()
            close = getattr(self._handler, "close", None)
            if close is not None:
                close()
            if access is not None:
                access.close()

    def _listen(self, server: _Loop) -> None:
        for address in self._where:
            sock = sockets.listen(
                address, self.config.backlog, uds_permissions=self.config.uds_permissions
            )
            self._listening.append(sock)
            server.listen(sock)
        self._addresses = tuple(_address_of(sock) for sock in self._listening)

    async def _drive(
        self,
        loop: asyncio.AbstractEventLoop,
        guest: Guest,
        server: _Loop,
        started: Callable[[], object] | None,
    ) -> None:
        timers: list[asyncio.TimerHandle] = []

        def end() -> None:
            server.drain(last=True)
            self._close_listening()
            guest.begin_end()
            if self._stopped_with is not None:
                timers.append(loop.call_later(self._stopped_with, guest.hasten))

        with self._lock:
            self._loop, self._end = loop, end
        if self._stopped_with is not None:
            loop.call_soon(end)
        if started is not None:
            started()
        try:
            await guest.driving(server, _do_nothing, self.config.timeout_graceful_s)
        finally:
            for timer in timers:
                timer.cancel()

    def _close_listening(self) -> None:
        for sock in self._listening:
            sock.close()

    def stop(self, graceful_s: float | None = None) -> None:
        """Take no new connection, and let serve() return once all that runs is over.

        graceful_s: how many seconds that may take before requests are cancelled;
        None: config.timeout_graceful_s.  Callable from any thread and from handlers, and
        once more with less time; before serve() it has that end at once.
        """
        wanted_s = self.config.timeout_graceful_s if graceful_s is None else graceful_s
        with self._lock:
            self._stopped_with = wanted_s
            if self._loop is not None and self._end is not None:
                with contextlib.suppress(RuntimeError):  # the loop was closed under us
                    self._loop.call_soon_threadsafe(self._end)

    # ---- for tests and for programs without a loop

    async def __aenter__(self) -> Server:
        """Serve in a task of the running loop; return when clients can connect."""
        ready = asyncio.Event()
        self._task = asyncio.create_task(self.serve(ready.set), name="fastcluster server")
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait({self._task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait({self._task})
            raise
        finally:
            waiting.cancel()
        if self._task.done():
            self._task.result()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; where the block failed, without waiting for what runs."""
        assert self._task is not None
        self.stop(None if error is None else 0.0)
        await self._task

    @contextlib.contextmanager
    def running_in_thread(self) -> Iterator[Server]:
        """Serve in a thread with a loop of its own, as config.loop has it, inside of a with.

        Entered when clients can connect.  At the end it stops as `async with` does.
        Raises what serve() raises.
        """
        ready = threading.Event()
        failures: list[BaseException] = []

        def run() -> None:
            try:
                loop = new_loop(self.config.loop, self._log)
                try:
                    loop.run_until_complete(self.serve(ready.set))
                finally:
                    wind_up(loop, self._log, WIND_UP_S)
            except BaseException as error:
                failures.append(error)
            finally:
                ready.set()

        thread = threading.Thread(target=run, name="fastcluster server", daemon=True)
        thread.start()
        ready.wait()
        try:
            if not failures:
                yield self
        except BaseException:
            self.stop(0.0)
            raise
        finally:
            self.stop(self._stopped_with)
            thread.join()
        if failures:
            raise failures[0]


def _do_nothing() -> None:
    """Have nothing to do after a turn."""


def _where(
    config: Config, host: str | None, port: int | None, uds: str | None
) -> list[sockets.Address]:
    if uds is not None:
        if host is not None or port is not None:
            raise UsageError("say either uds or host and port, not both")
        return [sockets.parse(f"unix:{uds}")]
    if host is None and port is None:
        return [sockets.parse(text) for text in config.bind]
    if port is not None and not 0 <= port <= 65535:
        raise UsageError(f"{port} is no port: it is 0 to 65535")
    return [sockets.Address(host or "127.0.0.1", 8000 if port is None else port)]


def _address_of(sock: sockets.ListeningSocket) -> sockets.Address:
    name = sock.getsockname()
    if isinstance(name, tuple):
        return sockets.Address(name[0], name[1])
    return sockets.Address(path=sockets.url(sock).removeprefix("unix:"))
