"""The life of one worker, from the fork to its exit code.

A worker loads the application, says over its channel that it is ready, or why it never
will be, and takes turns of its server until it is drained.  It stops for three reasons,
which are one to it: the primary says so, somebody sends it SIGTERM, or the channel reads
EOF, since then the primary is dead.  Here alone the processes' side of the house and the
bytes' side meet, and this file alone knows who drives the server.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import logging
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from fastcluster import apps, cpus, mounts, privileges, proc
from fastcluster.adapters import handler_for
from fastcluster.channel import Channel
from fastcluster.child_process import SignalPipe, accept_signals, leave_within
from fastcluster.config import Config, use_environment
from fastcluster.errors import EXIT_APP, EXIT_OK, AppLoadError
from fastcluster.log import access_fd, error_fd, open_access_log, set_up, take_files

if TYPE_CHECKING:
    from fastcluster.exchange import Handler
    from fastcluster.guest import Guest
    from fastcluster.server import Board

# SIGINT and SIGQUIT come from a terminal to the whole group, SIGHUP when it is closed: the
# primary answers them.  Not ignored but handled by nothing, so that programs which the
# application starts find the default.
HANDLED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
)

REPORT_CHARS = 32768
REPORT_TIMEOUT_S = 5.0


class ServerLike(Protocol):
    """What a life needs of server.Server."""

    @property
    def drained(self) -> bool: ...
    def watch(self, fd: int, callback: Callable[[], object]) -> None: ...
    def unwatch(self, fd: int) -> None: ...
    def ready(self) -> None: ...
    def run(self, timeout_ms: int = -1) -> bool: ...
    def leave(self) -> None: ...
    def drain(self, last: bool = False) -> None: ...


class DriverLike(Protocol):
    """What a life needs of guest.Guest."""

    def drive(self, server: Any, after_turn: Callable[[], object], graceful_s: float) -> None: ...
    def begin_end(self) -> None: ...


def main(
    config: Config,
    listeners: Sequence[socket.socket],
    channel: Channel,
    *,
    number: int,
    slot: int,
    generation: int,
    board: Board | None,
    inbox: socket.socket | None,
    outboxes: Sequence[socket.socket],
    app: Any = None,
) -> int:
    """Serve until told to stop; return the exit code.

    Called in the forked child with all signals blocked; everything but `config` was made
    by the primary before the fork.  EXIT_APP: the application could not be loaded, and
    the primary was told why.  number: of the worker, 0 to n - 1, which its successor has
    too; slot: its line on the board.  app: the application, if the process that we were forked
    from has loaded it already.
    """
    signals = SignalPipe(HANDLED)
    signal.signal(signal.SIGTERM, _leave)
    log = set_up(config.log_level, f"worker {number}", in_colour=config.logs_in_colour)
    # A crash in native code, or SIGABRT from the primary when we are stuck, leaves the
    # traceback of every thread: by a handler in C that waits for no lock.
    faulthandler.enable(file=error_fd(), all_threads=True)
    log.debug("generation %d in slot %d", generation, slot)
    _show(number, config, "loading")
    if config.pin:
        # Before the application, which may count the CPUs that it has.
        log.debug("pinned to CPU %s", cpus.pin(number))
    try:
        accept_signals()
        # Before the application's own code, which is not to have been root.
        who = privileges.identity(config.user, config.group)
        if who is not None:
            proc.hold_title()
            privileges.drop(who)
            privileges.check_python(who)
        try:
            handler = make_handler(config, app)
            guest = make_guest(handler, config, log)
            if guest is not None and not start_up(guest, channel, signals):
                guest.close()
                return EXIT_OK
        except AppLoadError as error:
            if not config.reload:
                raise
            handler, guest = _make_page(error, config, log), None
        access = None
        if config.logs_access:
            access = open_access_log(config.access_log_format, access_fd())
        from fastcluster.server import Server

        server = Server(
            handler,
            config,
            board=board,
            slot=slot,
            number=number,
            inbox=inbox,
            outboxes=outboxes,
            log=log,
            access=access,
        )
        for listener in listeners:
            server.listen(listener)
        # The application may have set handlers of its own.
        signals.renew()
    except BaseException as error:
        signals.renew()
        return report(channel, error)
    life = Life(
        server,
        listeners,
        channel,
        signals,
        config.timeout_graceful_s,
        log,
        driver=guest,
        show_state=lambda state: _show(number, config, state),
    )
    life.live()
    if life.is_orphan:
        # Nobody would end us if a thread of the application did not.
        leave_within(max(1.0, config.timeout_graceful_s))
    server.close()
    if guest is not None:
        guest.close()
    _close_handler(handler)
    if access is not None:
        access.close()
    return EXIT_OK


def _show(number: int, config: Config, state: str) -> None:
    proc.set_title(f"fastcluster: worker {number} {state} [{config.app}]")


def make_handler(config: Config, app: Any = None) -> Handler:
    """Load the application and return what runs it; imports no adapter that it does not need.

    app: what load_app() returned, if it is loaded already.  Raises AppLoadError.
    """
    if app is None:
        app = load_app(config)
    if config.app is not None and mounts.is_spec(config.app):
        return mounts.handler_of(app, config)
    return handler_for(app, config)


def load_app(config: Config) -> Any:
    """Return the application, or all of them where several are mounted.  Raises AppLoadError."""
    if config.app is None:
        raise AppLoadError("no application was named: say which one, as module:name")
    use_environment(config.env)  # before the application asks fastcluster.env
    if mounts.is_spec(config.app):
        return mounts.load(config)
    return apps.load(config.app, config.app_dir, config.factory)


def _make_page(error: AppLoadError, config: Config, log: logging.Logger) -> Handler:
    """Return what answers in the place of an application that does not load (--reload)."""
    from fastcluster import broken

    reason = describe(error)
    log.error("the application does not load, and every request is told so: %s", reason)
    is_shown = config.env == "development"
    page = broken.handler_of(config.app or "the application", reason, is_shown)
    return handler_for(page, dataclasses.replace(config, interface="native"))


def make_guest(handler: Handler, config: Config, log: logging.Logger) -> Guest | None:
    """Make the asyncio loop that a handler's application runs in; None if it needs none.

    Raises AppLoadError.
    """
    runner: Any = handler
    # asyncio takes megabytes, which workers without it save.
    if not hasattr(runner, "attach"):
        if config.loop not in ("auto", "asyncio"):
            from fastcluster.guest import check_loop

            check_loop(config.loop)
        return None
    from fastcluster.guest import Guest

    return Guest(runner, config, log)


def start_up(guest: Guest, channel: Channel, signals: SignalPipe) -> bool:
    """Let the application start up; False if the worker was told to leave meanwhile.

    Raises AppLoadError if it cannot start up.
    """
    signals.tell_by_hand()
    # If it does not end, people are to know that it is this which does not.
    channel.send({"loaded": {}})
    return guest.start_up(
        {
            channel.fileno(): lambda: _is_told_to_leave(channel),
            signals.fileno(): lambda: signal.SIGTERM in signals.read(),
        }
    )


def _is_told_to_leave(channel: Channel) -> bool:
    """Tell whether the primary is dead, or wants a worker that serves nobody yet to go."""
    is_told = False
    for message, fds in channel.receive():
        for fd in fds:
            os.close(fd)
        is_told = is_told or (isinstance(message, dict) and "drain" in message)
    return is_told or channel.eof


def _close_handler(handler: Handler) -> None:
    # Only adapters with threads have something to end.
    close: Callable[[], object] | None = getattr(handler, "close", None)
    if close is not None:
        close()


class Life:
    """A worker that serves: what it hears, what it answers, when it is over."""

    def __init__(
        self,
        server: ServerLike,
        listeners: Sequence[socket.socket],
        channel: Channel,
        signals: SignalPipe,
        graceful_s: float,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        driver: DriverLike | None = None,
        show_state: Callable[[str], None] = lambda state: None,
    ) -> None:
        self._show_state = show_state
        self._server = server
        self._listeners = listeners
        self._channel = channel
        self._signals = signals
        self._graceful_s = graceful_s
        self._log = log
        self._clock = clock
        # Takes the server's turns in a loop of its own; None: we do.
        self._driver = driver
        self._draining = False
        # The primary ends a worker that takes too long; an orphan ends itself.
        self._deadline_s: float | None = None

    def live(self) -> None:
        """Serve until the server is drained, or an orphan's time is over."""
        self._begin()
        if self._driver is not None:
            self._driver.drive(self._server, self._channel.flush, self._graceful_s)
            return
        while not self._server.drained:
            left_ms = self._left_ms()
            if left_ms == 0:
                self._log.warning("the primary is dead and time is over: connections are cut")
                return
            self._server.run(left_ms)
            self._channel.flush()

    def _begin(self) -> None:
        self._server.watch(self._channel.fileno(), self._hear)
        self._server.watch(self._signals.fileno(), self._signalled)
        self._server.ready()
        self._show_state("ready")
        self._channel.send({"ready": {"pid": os.getpid()}})

    def _left_ms(self) -> int:
        if self._deadline_s is None:
            return -1
        left_s = self._deadline_s - self._clock()
        return max(0, int(left_s * 1000) + 1) if left_s > 0 else 0

    def _hear(self) -> None:
        for message, fds in self._channel.receive():
            match message:
                case {"drain": {"last": bool(last)}}:
                    self._drain(last)
                case {"leave": _}:
                    self._server.leave()
                case {"beat": _}:
                    pass  # that we heard it is the answer: the turn is on the scoreboard
                case {"reopen": list(names)}:
                    take_files(names, fds)
                case _:
                    self._log.debug("the primary said %r", message)
            for fd in fds:
                os.close(fd)
        if self._channel.eof:
            self._be_orphan()

    def _signalled(self) -> None:
        if signal.SIGTERM not in self._signals.read() or self._draining:
            return
        # The primary finds a successor meanwhile.
        self._channel.send({"draining": {}})
        self._drain(last=False)

    def _be_orphan(self) -> None:
        self._server.unwatch(self._channel.fileno())
        self._log.warning("the primary is dead: draining")
        self._deadline_s = self._clock() + self._graceful_s
        self._drain(last=True)

    def _drain(self, last: bool) -> None:
        self._draining = True
        self._show_state("draining")
        self._server.drain(last)
        if last:
            # Whoever connects from now on is refused at once and goes elsewhere.
            for listener in self._listeners:
                listener.close()
        if self._driver is not None:
            self._driver.begin_end()

    @property
    def is_orphan(self) -> bool:
        """Tell whether the primary is dead."""
        return self._deadline_s is not None


def _leave(number: int, frame: FrameType | None) -> None:
    """Leave while the application is loaded: nobody is served, so there is nothing to finish.

    No exception would do: raised in a callback of the collector or of the import system it
    is printed and forgotten, and in the application's own `except` it is taken for an error.
    """
    os._exit(EXIT_OK)


# ---- an application that does not load


def report(channel: Channel, error: BaseException) -> int:
    """Tell the primary, which logs it once for all workers."""
    channel.send({"failed": _shortened(describe(error))})
    channel.flush_within(REPORT_TIMEOUT_S)
    return EXIT_APP


def describe(error: BaseException) -> str:
    """Return what people need to know of an error that kept the application from loading.

    One sentence for what the user can mend, and for an exception of the application its
    traceback, without the frames that led into it; ours come whole.
    """
    if isinstance(error, AppLoadError):
        return f"{error.message}\n{error.detail}" if error.detail else error.message
    return "internal error\n" + "".join(traceback.format_exception(error))


def _shortened(text: str) -> str:
    if len(text) <= REPORT_CHARS:
        return text
    # Of a traceback the beginning and the end say more than the middle.
    half = REPORT_CHARS // 2
    return f"{text[:half]}\n...\n{text[-half:]}"
