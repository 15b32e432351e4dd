"""The primary in the real world: forks, signals, inboxes, and the loop that waits for them.

It decides nothing: whatever happens is told to primary.Primary, and what that asks of the
world is done here.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import socket
import time
from collections.abc import Callable, Sequence

from fastcluster import child_process, control_folder, log, proc, sockets
from fastcluster.channel import Channel, Inbox
from fastcluster.child_process import Child, SignalPipe
from fastcluster.config import Config, notify_socket, watchdog_s
from fastcluster.control import Control
from fastcluster.control_folder import NameTaken
from fastcluster.errors import BindError
from fastcluster.primary import SIGNALS, SIGNALS_TO_COME, Primary
from fastcluster.roster import Board
from fastcluster.seating import World
from fastcluster.systemd import Notifier
from fastcluster.watcher import Watcher


def run(
    config: Config,
    listeners: Sequence[socket.socket],
    main: Callable[..., int],
    board: Board,
    read_config: Callable[[], Config] | None = None,
) -> int:
    """Keep `config.n_workers` workers alive until a signal ends them; return the exit code.

    `listeners` listen already; they are closed when the cluster stops.  `main` is the
    life of a worker from the fork to its exit code, worker.main; `board` has
    `primary.slots_for(config.most_workers)` slots or more; `read_config` reads the configuration
    anew for a reload.  Takes over the signals in SIGNALS until
    it returns, so it is called by the main thread, and no other thread runs.  Raises
    BindError if a server of the name that was given runs already.
    """
    with contextlib.ExitStack() as at_end:
        # Before the first fork, so that a signal during the start is kept.
        signals = SignalPipe([*SIGNALS, *SIGNALS_TO_COME])
        at_end.callback(signals.close)
        named = _listen_for_control(config)
        if named is not None:
            at_end.callback(named[1].close)
        inboxes = [Inbox() for _ in range(board.slots)]
        for inbox in inboxes:
            at_end.callback(inbox.close)
        watcher = None
        if config.reload:
            ours = [*listeners, *inboxes, *(named[1:] if named is not None else ())]
            watcher = Watcher(config, close=ours)
            at_end.callback(watcher.close)

        def spawn(number: int, slot: int, generation: int) -> Child:
            def live(channel: Channel) -> int:
                return main(
                    config,
                    listeners,
                    channel,
                    number=number,
                    slot=slot,
                    generation=generation,
                    board=board,
                    inbox=inboxes[slot].receiving,
                    outboxes=[inbox.sending for inbox in inboxes],
                )

            others = [worker.channel for worker in primary.workers.values()]
            foreign = [inbox.receiving for inbox in inboxes if inbox is not inboxes[slot]]
            controls = control.sockets() if control is not None else []
            watching = [watcher.channel] if watcher is not None else []
            return child_process.spawn(
                live,
                close=[*others, *foreign, *controls, *watching],
                exit_timeout_s=max(1.0, config.timeout_graceful_s),
            )

        notifier = Notifier(notify_socket(), watchdog_s())
        at_end.callback(notifier.close)

        def announce(phase: str, status: str) -> None:
            _show(config, phase)
            notifier.tell(phase, status)

        def stop_listening() -> None:
            for listener in listeners:
                listener.close()

        def adopt(new: Config) -> None:
            nonlocal config
            config = new

        world = World(
            spawn=spawn,
            forward=lambda slot, heirs: inboxes[slot].forward([inboxes[i] for i in heirs]),
            stop_listening=stop_listening,
            reopen=log.reopen,
            announce=announce,
            read_config=read_config,
            adopt=adopt,
        )
        urls = [sockets.url(listener) for listener in listeners]
        logger = logging.getLogger(log.NAME)
        primary = Primary(config, board, world, logger, urls)
        control = None if named is None else Control(*named, primary, logger)
        if control is not None:
            at_end.callback(control.close)
        _show(config, "starting")
        primary.start()
        while primary.exit_code is None:
            _turn(primary, signals, inboxes, control, watcher, notifier.next_beat())
            notifier.beat()
        return primary.exit_code


def _show(config: Config, phase: str) -> None:
    # Said when something changes, so "status" is no state of its own.
    if phase != "status":
        proc.set_title(f"fastcluster: primary {phase} [{config.app}]")


def _listen_for_control(config: Config) -> tuple[str, socket.socket] | None:
    """Open the control socket; a server that can have none serves without it, and says why."""
    if not config.control:
        return None
    try:
        return control_folder.listen(config.name, config.app or "app")
    except NameTaken:
        raise
    except (BindError, OSError) as error:
        logging.getLogger(log.NAME).warning(
            "there is no control socket, so `fastcluster status` and the others do not find this "
            "server (--no-control): %s",
            error,
        )
        return None


def _turn(
    primary: Primary,
    signals: SignalPipe,
    inboxes: Sequence[Inbox],
    control: Control | None,
    watcher: Watcher | None,
    wake_s: float | None,
) -> None:
    """Wait until something happens, or the moment wake_s, and do what follows."""
    poll = select.poll()
    poll.register(signals.fileno(), select.POLLIN)
    speakers = {w.channel.fileno(): w for w in primary.workers.values() if not w.channel.eof}
    for fd, worker in speakers.items():
        poll.register(fd, select.POLLIN | (select.POLLOUT if worker.channel.wants_write else 0))
    orphaned = {inboxes[slot].receiving.fileno(): slot for slot in primary.orphaned_inboxes()}
    for fd in orphaned:
        poll.register(fd, select.POLLIN)
    controls = {} if control is None else control.interests()
    for fd, wanted in controls.items():
        poll.register(fd, wanted)
    if watcher is not None and not watcher.is_gone:
        poll.register(watcher.fileno(), select.POLLIN)
    deadline_s = _first(
        primary.next_deadline(), None if control is None else control.next_deadline(), wake_s
    )
    wait_ms = None if deadline_s is None else max(0.0, deadline_s - time.monotonic()) * 1000
    events = poll.poll(None if wait_ms is None else math.ceil(wait_ms))
    # Signals first: who stops the whole group has told the workers, too, and they are not
    # to be replaced.
    for number in signals.read():
        primary.signalled(number)
    for fd, what in events:
        if fd in orphaned:
            primary.sweep_inbox(orphaned[fd])
        elif fd in speakers:
            if what & select.POLLOUT:
                speakers[fd].channel.flush()
            primary.hear(speakers[fd])
        elif control is not None and fd in controls:
            control.happened(fd, what)
        elif watcher is not None and fd == watcher.fileno():
            _hear_of_changes(watcher, primary)
    if control is not None:
        control.settle()
    primary.settle()


def _hear_of_changes(watcher: Watcher, primary: Primary) -> None:
    logger = logging.getLogger(log.NAME)
    for message in watcher.hear():
        match message:
            case {"watching": list(folders)}:
                logger.info("watching %s for changes (--reload)", ", ".join(folders))
            case {"changed": [str(path), *others]}:
                more = f" and {len(others)} more" if others else ""
                primary.start_over(f"{os.path.relpath(path)}{more} changed")
            case {"trouble": str(why)}:
                logger.warning("--reload: %s", why)
    if watcher.is_gone and primary.exit_code is None:
        logger.error("the watcher has ended: start the server again to have changes noticed")


def _first(*moments: float | None) -> float | None:
    return min((moment for moment in moments if moment is not None), default=None)
