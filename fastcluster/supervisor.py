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
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastcluster import child_process, control_folder, desks, errors, log, proc, sockets, upgrade
from fastcluster.channel import Channel, Inbox
from fastcluster.child_process import Child, Closable, SignalPipe
from fastcluster.config import Config, notify_socket, watchdog_s
from fastcluster.control import Control
from fastcluster.control_folder import NameTaken
from fastcluster.desks import Desk
from fastcluster.errors import BindError, FastclusterError, UsageError
from fastcluster.nursery import Nursery
from fastcluster.pid_file import PidFile
from fastcluster.primary import SIGNALS, Primary
from fastcluster.roster import Board
from fastcluster.seating import World
from fastcluster.sockets import ListeningSocket
from fastcluster.systemd import Notifier
from fastcluster.upgrade import CannotUpgrade, Command, Legacy, Succession
from fastcluster.watcher import Watcher

# (application, channel, number, slot, generation) -> the exit code of a worker.
Live = Callable[[Any, Channel, int, int, int], int]
# The life of a zygote, which makes workers of those.
Preload = Callable[[Config, Channel, Live], int]


def run(
    config: Config,
    listeners: Sequence[ListeningSocket],
    main: Callable[..., int],
    board: Board,
    read_config: Callable[[], Config] | None = None,
    *,
    preload: Preload | None = None,
    command: Command | None = None,
    legacy: Legacy | None = None,
    pid_file: PidFile | None = None,
) -> int:
    """Keep `config.n_workers` workers alive until a signal ends them; return the exit code.

    `listeners` listen already, in the order of `config.bind`; they are closed when the
    cluster stops.  `main` is the life of a worker from the fork to its exit code,
    worker.main; `board` has `primary.slots_for(config.most_workers)` slots or more.
    preload: the life of a zygote, zygote.main, which loads the application for all workers;
    None: each loads it.  command: starts a successor of this process, None: there can be none.
    legacy: what the primary before us hands down.  pid_file: is to hold our pid, now or when
    we take over.  read_config: reads the configuration anew for a reload.

    Takes over the signals in SIGNALS until it returns, so it is called by the main thread,
    and no other thread runs.  Raises BindError if a server of the name that was given runs
    already.
    """
    with contextlib.ExitStack() as at_end:
        # Before the first fork, so that a signal during the start is kept.
        signals = SignalPipe(SIGNALS)
        at_end.callback(signals.close)
        named = _listen_for_control(config, legacy)
        if named is not None:
            at_end.callback(named[1].close)
        watched = desks.listen(config, legacy)
        for _, listener, _ in watched:
            at_end.callback(listener.close)
        inboxes = [Inbox() for _ in range(board.slots)]
        for inbox in inboxes:
            at_end.callback(inbox.close)
        watcher = None
        if config.reload:
            ours = [*listeners, *inboxes, *(named[1:] if named is not None else ())]
            watcher = Watcher(config, close=ours)
            at_end.callback(watcher.close)

        def live(app: Any, channel: Channel, number: int, slot: int, generation: int) -> int:
            for inbox in inboxes:
                if inbox is not inboxes[slot]:
                    inbox.receiving.close()
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
                app=app,
            )

        def not_for_children() -> list[Closable]:
            closed: list[Closable] = [worker.channel for worker in primary.workers.values()]
            closed += [sock for desk in served for sock in desk.sockets()]
            closed += succession.channels()
            closed += nursery.channels() if nursery is not None else []
            closed += [watcher.channel] if watcher is not None else []
            closed += [] if legacy is None else [legacy.channel]
            return closed

        def spawn(number: int, slot: int, generation: int) -> Child:
            if nursery is not None:
                return nursery.spawn(number, slot, generation)
            return child_process.spawn(
                lambda channel: live(None, channel, number, slot, generation),
                close=not_for_children(),
                exit_timeout_s=max(1.0, config.timeout_graceful_s),
            )

        def start_zygote() -> Child:
            assert preload is not None
            life = preload
            return child_process.spawn(
                lambda channel: life(config, channel, live), close=not_for_children()
            )

        notifier = Notifier(notify_socket(), watchdog_s())
        at_end.callback(notifier.close)

        def announce(phase: str, status: str) -> None:
            _show(config, phase)
            # Before we have taken over the service manager hears of the old primary alone.
            if legacy is None or legacy.is_ours:
                notifier.tell(phase, status)

        def stop_listening() -> None:
            if nursery is not None:
                nursery.close()  # its zygote listens as long as it is there
            for listener in listeners:
                listener.close()

        def adopt(new: Config) -> None:
            nonlocal config
            config = new

        def start_heir() -> Child:
            if command is None:
                raise CannotUpgrade("this program cannot be started again by itself")
            return child_process.spawn(command.start)

        def heirlooms() -> dict[str, ListeningSocket]:
            found = upgrade.heirlooms(config.bind, listeners, None if named is None else named[1])
            return found | {name: listener for name, listener, _ in watched}

        def hand_over(pid: int, names: Sequence[str], path: str | None) -> None:
            for name, listener in heirlooms().items():
                if name in names:
                    listener.disown_file()
            if control is not None and upgrade.CONTROL in names:
                control.leave_to_heir()
            for monitor in monitors:
                monitor.leave_to_heir()
            if pid_file is not None and pid_file.path == path:
                pid_file.let_go()
            notifier.hand_over(pid)
            primary.leave()
            stop_listening()

        logger = logging.getLogger(log.NAME)
        world = World(
            spawn=spawn,
            forward=lambda slot, heirs: inboxes[slot].forward([inboxes[i] for i in heirs]),
            stop_listening=stop_listening,
            reopen=log.reopen,
            announce=announce,
            read_config=read_config,
            adopt=adopt,
            upgrade=lambda order: succession.begin(order),
            stranger_died=lambda pid, status: succession.died(pid, status),
        )
        nursery = None
        if preload is not None:
            # Its workers are forked by a zygote, and are to be our children.
            if not proc.become_subreaper():
                raise UsageError("--preload wants Linux: leave it out here")
            nursery = Nursery(start_zygote, world.kill, config.timeout_startup_s, logger)
            at_end.callback(nursery.close)
            world.nursery = nursery
        urls = [sockets.url(listener) for listener in listeners]
        succession = Succession(
            start_heir,
            heirlooms,
            None if named is None else named[0],
            hand_over,
            world.kill,
            config.timeout_startup_s,
            logger,
        )
        at_end.callback(succession.close)
        primary = Primary(config, board, world, logger, urls)
        is_open = legacy is None
        control = None if named is None else Control(*named, primary, logger, is_open=is_open)
        name = named[0] if named is not None else config.name or config.app or "app"
        monitors = desks.monitors(config, name, watched, primary, logger, at_end)
        served: list[Desk] = [] if control is None else [control]
        served += [*monitors, *desks.statsd(config, primary)]
        for desk in served:
            at_end.callback(desk.close)
        loop = _Loop(primary, signals, inboxes, served, succession, notifier, nursery, watcher)
        if legacy is not None:
            at_end.callback(legacy.channel.close)
            loop.rise = _Rise(legacy, primary, control, pid_file, logger)
            legacy.starting(config.timeout_startup_s)
        _show(config, "starting")
        primary.start()
        while primary.exit_code is None:
            loop.turn()
        return primary.exit_code


def _show(config: Config, phase: str) -> None:
    # Said when something changes, so "status" is no state of its own.
    if phase != "status":
        proc.set_title(f"fastcluster: primary {phase} [{config.app}]")


def _listen_for_control(
    config: Config, legacy: Legacy | None
) -> tuple[str, ListeningSocket] | None:
    """Open the control socket; a server that can have none serves without it, and says why."""
    if not config.control:
        return None
    if legacy is not None and legacy.control_name and config.name in (None, legacy.control_name):
        inherited = legacy.take(upgrade.CONTROL)
        if inherited is not None:
            return legacy.control_name, inherited
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


class _Rise:
    """A new primary on its way to take over: it says how it goes, and is told when."""

    def __init__(
        self,
        legacy: Legacy,
        primary: Primary,
        control: Control | None,
        pid_file: PidFile | None,
        logger: logging.Logger,
    ) -> None:
        self._legacy = legacy
        self._primary = primary
        self._control = control
        self._pid_file = pid_file
        self._log = logger

    def fileno(self) -> int:
        """Return the descriptor of the talk with the old primary."""
        return self._legacy.channel.fileno()

    def settle(self) -> bool:
        """Say what there is to say; return True once all is ours, and there is no more."""
        primary, legacy = self._primary, self._legacy
        legacy.hear()
        if not legacy.has_answered:
            if primary.boot_failure is not None:
                # As in a reload the first that fails ends it: the old ones serve on.
                legacy.fail(primary.boot_failure)
                primary.leave(errors.EXIT_APP)
            elif primary.exit_code is not None:
                legacy.fail("no worker came up")
            elif primary.is_up and not primary.is_stopping:
                path = None if self._pid_file is None else self._pid_file.path
                legacy.ready(path)
        if legacy.is_ours:
            # Also if we are told to stop at this very moment: somebody must remove the files.
            self._take_over()
            return True
        return False

    def _take_over(self) -> None:
        self._legacy.own()
        if self._pid_file is not None:
            try:
                self._pid_file.take()
            except FastclusterError as error:
                # Too late to go back: the old workers drain.
                self._log.error("%s", error)
        if self._control is not None:
            self._control.open()
        self._log.info("primary %d has taken over", os.getpid())
        if not self._primary.is_stopping:
            self._primary.announce()


class _Loop:
    """Waits for whatever happens and tells those whom it concerns."""

    def __init__(
        self,
        primary: Primary,
        signals: SignalPipe,
        inboxes: Sequence[Inbox],
        served: Sequence[Desk],
        succession: Succession,
        notifier: Notifier,
        nursery: Nursery | None,
        watcher: Watcher | None,
    ) -> None:
        self._primary = primary
        self._signals = signals
        self._inboxes = inboxes
        self._desks = served
        self._succession = succession
        self._notifier = notifier
        self._nursery = nursery
        self._watcher = watcher
        self.rise: _Rise | None = None

    def turn(self) -> None:
        """Wait until something happens, or is due, and do what follows."""
        primary, succession = self._primary, self._succession
        poll = select.poll()
        poll.register(self._signals.fileno(), select.POLLIN)
        if self.rise is not None:
            poll.register(self.rise.fileno(), select.POLLIN)
        speakers = {w.channel.fileno(): w for w in primary.workers.values() if not w.channel.eof}
        for fd, worker in speakers.items():
            wants_write = worker.channel.wants_write
            poll.register(fd, select.POLLIN | (select.POLLOUT if wants_write else 0))
        orphaned = {
            self._inboxes[slot].receiving.fileno(): slot for slot in primary.orphaned_inboxes()
        }
        for fd in orphaned:
            poll.register(fd, select.POLLIN)
        owners: dict[int, Desk] = {}
        for desk in self._desks:
            for fd, wanted in desk.interests().items():
                owners[fd] = desk
                poll.register(fd, wanted)
        heirs = succession.interests()
        zygotes = {} if self._nursery is None else self._nursery.interests()
        for fd, wanted in (heirs | zygotes).items():
            poll.register(fd, wanted)
        watcher = self._watcher
        if watcher is not None and not watcher.is_gone:
            poll.register(watcher.fileno(), select.POLLIN)
        events = poll.poll(self._wait_ms())
        # Signals first: who stops the whole group has told the workers, too, and they are not
        # to be replaced.
        for number in self._signals.read():
            primary.signalled(number)
        for fd, what in events:
            if fd in orphaned:
                primary.sweep_inbox(orphaned[fd])
            elif fd in speakers:
                if what & select.POLLOUT:
                    speakers[fd].channel.flush()
                primary.hear(speakers[fd])
            elif fd in zygotes and self._nursery is not None:
                self._nursery.happened()
            elif fd in heirs:
                succession.happened(fd, what)
            elif fd in owners:
                owners[fd].happened(fd, what)
            elif watcher is not None and fd == watcher.fileno():
                _hear_of_changes(watcher, primary)
        self._settle()

    def _settle(self) -> None:
        for desk in self._desks:
            desk.settle()
        if self._nursery is not None:
            self._nursery.settle()
        self._succession.settle(self._primary.is_stopping)
        self._primary.settle()
        if self.rise is not None and self.rise.settle():
            self.rise = None
        self._notifier.beat()

    def _wait_ms(self) -> int | None:
        deadline_s = _first(
            self._primary.next_deadline(),
            *(desk.next_deadline() for desk in self._desks),
            self._succession.next_deadline(),
            None if self._nursery is None else self._nursery.next_deadline(),
            self._notifier.next_beat(),
        )
        if deadline_s is None:
            return None
        return math.ceil(max(0.0, deadline_s - time.monotonic()) * 1000)


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
