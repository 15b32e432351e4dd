"""The life of the zygote: it imports the application once and forks workers from then on.

The primary says when (nursery.py).  The law: nothing is left running here that a worker
would miss, so no loop and no thread of ours is begun, and whatever a worker does for
itself, it does after the fork.  Workers are forked twice, so that they are the primary's
children and it learns of their end by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from fastcluster import child_process, log, privileges, proc, worker
from fastcluster.channel import Channel
from fastcluster.child_process import SignalPipe
from fastcluster.config import Config
from fastcluster.errors import EXIT_OK

# What comes to the whole group is the primary's affair; SIGTERM ends us.
UNHEARD = tuple(number for number in worker.HANDLED if number != signal.SIGTERM)

# (application, channel, number, slot, generation) -> the worker's exit code.
Live = Callable[[Any, Channel, int, int, int], int]


def main(config: Config, channel: Channel, live: Live) -> int:
    """Load the application, say so, and fork workers until the primary hangs up.

    Called in the forked child with all signals blocked.  EXIT_APP: the application could
    not be loaded, and the primary was told why.
    """
    signals = SignalPipe(UNHEARD)
    log.set_up(config.log_level, "zygote", in_colour=config.logs_in_colour)
    _show(config, "loading")
    child_process.accept_signals()
    try:
        app = _load(config)
    except BaseException as error:
        return worker.report(channel, error)
    # The application may have set handlers of its own.
    signals.renew()
    gc.collect()
    # What is there now stays: the collector of a worker writes to none of its pages.
    gc.freeze()
    _show(config, "ready")
    channel.send({"loaded": {"threads": _threads()}})
    while not channel.eof:
        _wait(channel, signals)
        for message, fds in channel.receive():
            _obey(message, fds, app, channel, config, live)
    # Without the application's exit hooks: its workers live on.
    os._exit(EXIT_OK)


def _load(config: Config) -> Any:
    """Return the application, with everything imported that serves it.  Raises AppLoadError."""
    who = privileges.identity(config.user, config.group)
    if who is not None:
        proc.hold_title()
        privileges.drop(who)
        privileges.check_python(who)
    app = worker.load_app(config)
    # The workers' handlers are made after the fork; this one brings the modules.
    handler: Any = worker.make_handler(dataclasses.replace(config, threads=0), app)
    if hasattr(handler, "attach"):
        from fastcluster import guest as guest
    from fastcluster import server as server

    return app


def _threads() -> list[str]:
    """Return what runs besides us, which no worker will have."""
    this = threading.current_thread()
    names = [thread.name for thread in threading.enumerate() if thread is not this]
    with contextlib.suppress(OSError):
        native = len(os.listdir("/proc/self/task")) - 1 - len(names)
        names += [f"{native} of native code"] if native > 0 else []
    return names


def _wait(channel: Channel, signals: SignalPipe) -> None:
    poll = select.poll()
    poll.register(signals.fileno(), select.POLLIN)
    poll.register(channel.fileno(), select.POLLIN | (select.POLLOUT if channel.wants_write else 0))
    poll.poll()
    signals.read()
    channel.flush()


def _obey(
    message: Any, fds: list[int], app: Any, channel: Channel, config: Config, live: Live
) -> None:
    match message:
        case {"fork": {"number": int(number), "slot": int(slot), "generation": int(generation)}}:
            with contextlib.closing(Channel(socket.socket(fileno=fds[0]))) as theirs:
                _fork(
                    lambda own: live(app, own, number, slot, generation),
                    theirs,
                    number,
                    channel,
                    config,
                )
        case {"reopen": list(names)}:
            log.take_files(names, fds)
            for fd in fds:
                os.close(fd)


def _fork(
    run: Callable[[Channel], int], theirs: Channel, number: int, channel: Channel, config: Config
) -> None:
    """Fork a worker and tell the primary which process it is."""

    def live(own: Channel) -> int:
        proc.forget_title()
        return run(own)

    # One that has become another user cannot write its title: it keeps this one.
    proc.set_title(f"fastcluster: worker {number} [{config.app}]")
    try:
        pid = child_process.spawn_orphan(
            live, theirs, close=[channel], exit_timeout_s=max(1.0, config.timeout_graceful_s)
        )
        channel.send({"forked": {"pid": pid}})
    except OSError as error:
        channel.send({"not forked": {"errno": error.errno or 0}})
    finally:
        _show(config, "ready")


def _show(config: Config, state: str) -> None:
    proc.set_title(f"fastcluster: zygote {state} [{config.app}]")
