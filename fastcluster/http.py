"""The native face: create_server, and what handlers are given and answer with.

    from fastcluster import http

    def hello(request):
        return "hello world\\n"

    http.create_server(hello).listen(8000).serve_forever()

A Server binds when it is told to listen and serves, in this process, when its
loop is entered.  It knows neither primary nor workers: `fastcluster serve
module:server` takes the handler out of it and gives it to each of those.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from fastcluster import log, sockets
from fastcluster.adapters import native_handler_for
from fastcluster.child_process import SignalPipe
from fastcluster.config import Config
from fastcluster.emitter import Emitter
from fastcluster.errors import BindError
from fastcluster.fields import BadRequest, Headers, MultiDict
from fastcluster.multipart import Upload
from fastcluster.request import Request
from fastcluster.response import Response
from fastcluster.round_robin import Connection
from fastcluster.scheduling import Policy, Seat
from fastcluster.server import Server as _Loop

if TYPE_CHECKING:
    import asyncio

    from fastcluster.guest import Guest
    from fastcluster.native_async import AsyncRequest, AsyncResponse

__all__ = [
    "Address",
    "AsyncRequest",
    "AsyncResponse",
    "BadRequest",
    "Connection",
    "Handler",
    "Headers",
    "MultiDict",
    "Request",
    "Response",
    "Server",
    "Upload",
    "create_server",
]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# What a server asks in a cluster's worker, where the primary binds and one loop drives all.
_cluster: Driver | None = None

Handler: TypeAlias = (
    Callable[[Request], object]
    | Callable[[Request, Response], object]
    | Callable[["AsyncRequest"], object]
    | Callable[["AsyncRequest", "AsyncResponse"], object]
)


def __getattr__(name: str) -> Any:
    """Import what async handlers are given; asyncio takes megabytes, which others save."""
    if name in ("AsyncRequest", "AsyncResponse"):
        from fastcluster import native_async

        return getattr(native_async, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Driver(Protocol):
    """What a server needs of the cluster's worker that it runs in."""

    def bind(
        self, where: sockets.Address, backlog: int, permissions: int | None
    ) -> tuple[Any, Seat | None]: ...
    def opened(self, server: Server) -> None: ...
    def wake(self) -> None: ...
    def run(self) -> None: ...


def drive_by(driver: Driver | None) -> None:
    """Have every server of this process bind and be served by a cluster's worker."""
    global _cluster
    _cluster = driver


class Address(NamedTuple):
    """Where a server listens: host and port, or the path of a unix socket."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        return str(sockets.Address(self.host, self.port, self.path))


def create_server(handler: Handler, config: Config | None = None, **options: Any) -> Server:
    """Return a server for handler(request) or handler(request, response), async or not.

    options are fields of Config, such as timeout_keep_alive_s=5; they change
    config.  Nothing is opened before listen().  Raises AppLoadError if the
    handler can be called in neither form, UsageError for an option's bad value.
    (Node: http.createServer)
    """
    if config is None:
        config = Config(**options)
    elif options:
        import dataclasses

        config = dataclasses.replace(config, **options)
    return Server(handler, config)


class Server(Emitter):
    """A native handler and, once it listens, an address; see create_server().

    It has the event `drop`, of a Connection that was closed because of
    max_connections.  (Node: net.Server)
    """

    def __init__(self, handler: Handler, config: Config) -> None:
        super().__init__()
        # An App says here which of its two functions serves it.
        self.__fastcluster_handler__ = getattr(handler, "__fastcluster_handler__", handler)
        self.config = config
        self._native = native_handler_for(handler, config)
        self._socket: sockets.ListeningSocket | None = None
        self._loop: _Loop | None = None
        self._access: log.AccessLog | None = None
        self._announcements: list[Callable[[], object]] = []
        self._serving = False
        self._closing = False  # close() was called and the loop has still to hear of it
        self._guest: Guest | None = None  # while an async handler is served
        self._stop_at: float | None = None  # on the monotonic clock, once it drains
        self.fd: int | None = None  # the descriptor that listen() was given
        self._own = True  # nobody else accepts from the same socket
        self.seat: Seat | None = None  # among the cluster's workers that share it
        self._most: int | None = None
        self._drops = False
        self.holds_worker = True  # a cluster's worker stays for it, see unref()

    @property
    def listening(self) -> bool:
        """True from listen() to close()."""
        return self._socket is not None and not self._closing

    @property
    def holds_socket(self) -> bool:
        """True from listen() until the loop has heard of close()."""
        return self._socket is not None

    def listen(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        path: str | None = None,
        backlog: int | None = None,
        callback: Callable[[], object] | None = None,
        exclusive: bool = False,
        *,
        fd: int | None = None,
        reuse_port: bool = False,
        ipv6_only: bool = True,
    ) -> Server:
        """Bind and listen; return the server.

        port 0 is any that is free, see address().  path: a unix socket instead.
        Clients can connect from now on and are served once serve_forever() is
        entered, which is also when callback() is called.  Raises OSError with
        its errno if the address cannot be had, ValueError for a port that there
        is none of, RuntimeError if the server listens already or still serves
        what it has accepted since a close().  In a cluster's worker the primary binds, so that all
        workers share the address; exclusive: this process binds for itself.
        reuse_port: so does it, with SO_REUSEPORT, so that others may have the
        same address, and the kernel spreads connections.  ipv6_only: False lets
        "::" take IPv4, too.  fd: instead of an address, the number of a
        descriptor that listens already; in a worker it is the primary's.
        (Node: server.listen)
        """
        if self.listening:
            raise RuntimeError(f"the server listens already, on {self.address()}: close it first")
        if self._loop is not None:
            raise RuntimeError(
                "the server still serves what it accepted before close(): create another one"
            )
        if not 0 <= port <= 65535:
            # The resolver would take the rest of a division.
            raise ValueError(f"a port is a number from 0 to 65535, not {port}")
        if fd is not None:
            where = sockets.Address(fd=fd)
        elif path:
            where = sockets.Address(path=path)
        else:
            where = sockets.Address(
                host, port, ipv6_only=bool(ipv6_only), reuse_port=bool(reuse_port)
            )
        self._own = _cluster is None or exclusive or where.reuse_port
        wanted = (where, backlog or self.config.backlog, self.config.uds_permissions)
        if _cluster is None or self._own:
            listening, self.seat = bind_address(*wanted), None
        else:
            listening, self.seat = _cluster.bind(*wanted)
        if self.config.logs_access:
            self._access = log.open_access_log(self.config.access_log_format)
        seated = self.seat.options() if self.seat else {}
        self._loop = _Loop(self._native, self.config, access=self._access, **seated)
        self._loop.listen(listening, self.seat is None or self.seat.policy is not Policy.RR)
        self._limit()
        self._socket = listening
        self.fd = fd
        if callback is not None:
            self._announcements.append(callback)
        if _cluster is not None:
            _cluster.opened(self)
        return self

    def address(self) -> Address:
        """Return where the server listens, with the real port; RuntimeError if it does not."""
        if self._socket is None:
            raise RuntimeError("the server does not listen: call listen() first")
        name = self._socket.getsockname()
        if isinstance(name, tuple):
            return Address(name[0], name[1])
        path = os.fsdecode(name)
        return Address("", 0, f"@{path[1:]}" if path.startswith("\0") else path)

    def fileno(self) -> int:
        """Return the descriptor that listens, -1 if none does: as a handle it can be sent."""
        return -1 if self._socket is None else self._socket.fileno()

    def serve_forever(self) -> None:
        """Serve until close(), SIGTERM or SIGINT, then until running exchanges are over.

        They have config.timeout_graceful_s seconds; a second signal cuts them
        off at once.  Signals are handled if this is the main thread, and their
        handlers put back at the end.  The logger is "fastcluster"; a program
        that has set up no logging has it on stderr from now on.  Raises
        RuntimeError if the server does not listen or is served already.
        """
        loop = self._loop
        if loop is None:
            raise RuntimeError("the server does not listen: call listen() first")
        if _cluster is not None:
            _cluster.run()
            return
        if self._serving:
            raise RuntimeError("the server is served already")
        if not logging.getLogger(log.NAME).hasHandlers():
            log.set_up(self.config.log_level, "server", in_colour=self.config.logs_in_colour)
        self._serving = True
        try:
            with _stop_signals(loop, self._stop, hasattr(self._native, "attach")):
                if hasattr(self._native, "attach"):
                    self._drive_guest(loop, self._native)
                    return
                self._announce()
                while not self._is_over(loop):
                    loop.turn(self._patience_ms())
        finally:
            self._serving = False
            self._shut()

    def _drive_guest(self, loop: _Loop, runner: Any) -> None:
        # asyncio takes megabytes, which programs without it save.
        from fastcluster.guest import Guest

        guest = Guest(runner, self.config, logging.getLogger(log.NAME))
        try:
            guest.start_up({})
            self._guest = guest
            self._announce()
            guest.drive(loop, _do_nothing, self.config.timeout_graceful_s)
        finally:
            self._guest = None
            guest.close()

    run = serve_forever

    def close(self) -> None:
        """Stop: take no new connection and let serve_forever() return once all are served.

        May be called from any thread and from a handler.  A server that is not
        being served closes at once.
        """
        if self._serving and self._loop is not None:
            self._closing = True
            self._loop.post(self._drain)
        else:
            self._shut()

    @property
    def max_connections(self) -> int | None:
        """How many connections it holds at most, None: as many as come; in each worker.

        What comes above it goes to another worker, and waits while there is none that
        may have it.  It is closed instead, with the event `drop`, if drop_max_connection
        is set, and always where no other worker could have it: outside of a cluster,
        with `exclusive` and under SCHED_NONE.  Raises ValueError for a number below 0.
        (Node: server.maxConnections)
        """
        return self._most

    @max_connections.setter
    def max_connections(self, most: int | None) -> None:
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 0):
            raise ValueError(f"max_connections is a number from 0 on or None, not {most!r}")
        self._most = most
        self._limit()

    @property
    def drop_max_connection(self) -> bool:
        """Close connections above max_connections.  (Node: server.dropMaxConnection)"""
        return self._drops

    @drop_max_connection.setter
    def drop_max_connection(self, drops: bool) -> None:
        self._drops = bool(drops)
        self._limit()

    def _limit(self) -> None:
        if self._loop is not None:
            drops = self._drops or self.seat is None
            self._loop.limit_connections(self._most, drops, self._dropped)

    def _dropped(self, remote: tuple[Any, Any], local: tuple[Any, Any]) -> None:
        self.emit("drop", Connection(*remote, *local))

    def take(self, connection: socket.socket) -> Server:
        """Serve a connection that somebody else has accepted, such as a cluster's primary.

        The socket belongs to the server from now on.  Called on the loop's thread: from a
        handler or a listener of an event.  Raises RuntimeError if the server does not listen,
        after which the socket is still the caller's.  (Node: server.emit("connection", socket))
        """
        if not self.listening:
            raise RuntimeError("the server does not listen: call listen() first")
        connection.setblocking(False)
        self.turns.take_over(connection.detach())
        return self

    def unref(self) -> Server:
        """Let a cluster's worker end though this server is open, if nothing else holds it.

        The worker serves as long as it stays; told to leave it finishes what runs, as ever.
        serve_forever() does not mind.  (Node: server.unref)
        """
        return self._hold(False)

    def ref(self) -> Server:
        """Take unref() back.  (Node: server.ref)"""
        return self._hold(True)

    def _hold(self, holds: bool) -> Server:
        self.holds_worker = holds
        if _cluster is not None:
            _cluster.wake()
        return self

    # ---- in a cluster's worker

    @property
    def has_turns(self) -> bool:
        """Tell whether there is something to take turns of."""
        return self._loop is not None

    @property
    def is_async(self) -> bool:
        """Tell whether the handler needs an asyncio loop, see attach()."""
        return hasattr(self._native, "attach")

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the handler's coroutines in this loop from now on."""
        runner: Any = self._native
        runner.attach(loop)

    def be_driven(self) -> None:
        """Let another loop take the turns from now on."""
        self._serving = True
        self.turns.ready()
        self._announce()

    @property
    def turns(self) -> _Loop:
        """What takes the turns; RuntimeError if the server does not listen."""
        if self._loop is None:
            raise RuntimeError("the server does not listen: call listen() first")
        return self._loop

    def drain(self, last: bool) -> None:
        """Begin the end; last: no other process listens any more."""
        if self._stop_at is None:
            self._drain(last)

    def is_over(self) -> bool:
        """Tell whether it was closed and everything was served, or the time for that is over."""
        return self._loop is None or self._is_over(self._loop)

    def shut(self) -> None:
        """Close what is left when it is over."""
        self._serving = False
        self._shut()

    # ---- the loop's thread

    def _announce(self) -> None:
        announcements, self._announcements = self._announcements, []
        for callback in announcements:
            callback()

    def _stop(self) -> None:
        if self._stop_at is None:
            self._drain()
        else:
            self._stop_at = 0.0
            if self._guest is not None:
                self._guest.hasten()

    def _drain(self, last: bool | None = None) -> None:
        if self._stop_at is not None or self._loop is None or self._socket is None:
            return
        self._stop_at = time.monotonic() + self.config.timeout_graceful_s
        # Where nobody else accepts, what waits in the socket's queue is ours.
        self._loop.drain(self._own or bool(last))
        self._socket.close()
        self._socket = None
        if self._guest is not None:
            self._guest.begin_end()

    def _is_over(self, loop: _Loop) -> bool:
        return loop.drained or (self._stop_at is not None and time.monotonic() >= self._stop_at)

    def _patience_ms(self) -> int:
        if self._stop_at is None:
            return -1
        return max(1, int((self._stop_at - time.monotonic()) * 1000))

    def _shut(self) -> None:
        loop, self._loop = self._loop, None
        listening, self._socket = self._socket, None
        access, self._access = self._access, None
        self._stop_at = None
        self._closing = False
        if loop is not None:
            loop.close()
        if listening is not None:
            listening.close()
        if access is not None:
            access.close()


def _do_nothing() -> None:
    """Have nothing to do after a turn."""


def bind_address(
    where: sockets.Address, backlog: int, permissions: int | None
) -> sockets.ListeningSocket:
    """Return a listening socket; raises OSError with its errno if it cannot be had."""
    if where.fd >= 0:
        # The caller's own stays open, for the next server that is to listen there.
        where = sockets.Address(fd=os.dup(where.fd))
    try:
        return sockets.listen(where, backlog, uds_permissions=permissions)
    except BindError as error:
        cause = error.__cause__
        if isinstance(cause, OSError):
            # A caller can tell errors by errno, as everywhere in Python.
            raise OSError(cause.errno, f"cannot listen on {where}: {cause.strerror}") from None
        raise


@contextlib.contextmanager
def _stop_signals(loop: _Loop, stop: Callable[[], None], by_hand: bool) -> Iterator[None]:
    """Have stop() called by the loop for each SIGTERM and SIGINT while inside.

    by_hand: an asyncio loop runs meanwhile, see SignalPipe.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pipe = SignalPipe(STOP_SIGNALS)
    if by_hand:
        pipe.tell_by_hand()

    def heard() -> None:
        for number in pipe.read():
            # The pipe also hears signals that the program handles itself.
            if number in STOP_SIGNALS:
                stop()

    loop.watch(pipe.fileno(), heard)
    try:
        yield
    finally:
        loop.unwatch(pipe.fileno())
        pipe.close()
