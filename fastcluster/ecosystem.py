"""Several apps of one file, each served by a primary of its own: `fastcluster start`.

One parent in the foreground starts the primaries, hands every signal on, and leaves when
the last of them has.  The law: it never decides what a primary does; one that a signal
killed is started again and said to be, one that has left stays away, with its code as ours.
One that has handed over to another (an upgrade) is followed by that.
Each primary is in a process group of its own, so that a terminal's Ctrl-C comes once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from fastcluster import proc
from fastcluster.child_process import SignalPipe, how_it_ended
from fastcluster.errors import EXIT_OK, EXIT_UNEXPECTED
from fastcluster.roster import backoff_s, count

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
FORWARDED = (
    *STOPS,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGWINCH,
)
# A primary that ran so long had not failed at its start.
LASTED_S = 60.0


class App:
    """One app: how its primary is started, and how it goes.

    find_heir: returns the pid of the server that has the app's name now, if any has.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str] | None = None,
        find_heir: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.name = name
        self.find_heir = find_heir
        self.code: int | None = None
        self.due_s: float | None = None
        self._command = list(command)
        self._environ = environ
        # Of an heir, which is no child of ours.
        self._heir: tuple[int, int] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._began_s = 0.0
        self._crashes = 0

    @property
    def pid(self) -> int | None:
        """The primary's, None if none runs."""
        if self._heir is not None:
            return self._heir[0]
        return self._process.pid if self._process is not None else None

    @property
    def fds(self) -> list[int]:
        """What becomes readable when a primary ends that is no child of ours."""
        return [self._heir[1]] if self._heir is not None else []

    @property
    def is_over(self) -> bool:
        """Tell whether nothing runs and nothing will."""
        return self.pid is None and self.due_s is None

    def start(self) -> None:
        """Start its primary.  Raises OSError."""
        self.due_s = None
        self._began_s = time.monotonic()
        self._process = subprocess.Popen(self._command, env=self._environ, process_group=0)

    def signal(self, number: int) -> None:
        """Hand a signal on."""
        if self._heir is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._heir[1], number)
        elif self._process is not None:
            self._process.send_signal(number)

    def follow(self) -> bool:
        """Look whether another primary serves the app now, and if so be about that one."""
        pid = self.find_heir()
        if pid is None:
            return False
        try:
            self._heir = (pid, os.pidfd_open(pid))
        except ProcessLookupError:
            return False
        return True

    def has_ended(self) -> int | None:
        """Return how the primary ended if it just has, a wait status."""
        if self._heir is not None and select.select([self._heir[1]], [], [], 0)[0]:
            os.close(self._heir[1])
            self._heir = None
            return 0  # nobody tells us more
        if self._process is None or self._process.poll() is None:
            return None
        code = self._process.returncode
        self._process = None
        return -code if code < 0 else code << 8

    def crashed(self) -> float:
        """Plan its next start and return in how many seconds that is."""
        lasted = time.monotonic() - self._began_s >= LASTED_S
        self._crashes = 1 if lasted else self._crashes + 1
        delay_s = backoff_s(self._crashes)
        self.due_s = time.monotonic() + delay_s
        return delay_s

    def end(self) -> None:
        """Leave none behind."""
        self.due_s = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def run(apps: Sequence[App], log: logging.Logger) -> int:
    """Start all apps and wait for the last one's end; return the first code that is not 0.

    Takes over the signals in FORWARDED until it returns, so it is called by the main thread.
    """
    with contextlib.ExitStack() as at_end:
        signals = SignalPipe([*FORWARDED, signal.SIGCHLD])
        at_end.callback(signals.close)
        is_stopping = False
        try:
            for app in apps:
                app.start()
                log.info("app %s: primary %d", app.name, app.pid)
        except OSError:
            for app in apps:
                app.end()
            raise
        while not all(app.is_over for app in apps):
            _wait(signals, apps)
            for number in signals.read():
                is_stopping = _forward(number, apps, log) or is_stopping
            ours = {app.pid for app in apps}
            for app in apps:
                status = app.has_ended()
                if status is not None:
                    _tell_end(app, status, apps, is_stopping, log)
                elif is_stopping:
                    app.due_s = None
                elif app.due_s is not None and app.due_s <= time.monotonic():
                    app.start()
                    log.info("app %s: primary %d, started again", app.name, app.pid)
            if os.getpid() == 1:
                reap_strangers({*ours, *(app.pid for app in apps)})
        return next((app.code for app in apps if app.code), EXIT_OK)


def reap_strangers(ours: Collection[int | None]) -> None:
    """Collect dead children that are none of ours, which process 1 of a container inherits."""
    with contextlib.suppress(ChildProcessError):
        while True:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if dead is None or dead.si_pid in ours:
                return
            os.waitid(os.P_PID, dead.si_pid, os.WEXITED | os.WNOHANG)


def _wait(signals: SignalPipe, apps: Sequence[App]) -> None:
    moments = [app.due_s for app in apps if app.due_s is not None]
    left_s = max(0.0, min(moments) - time.monotonic()) if moments else None
    heirs = [fd for app in apps for fd in app.fds]
    select.select([signals.fileno(), *heirs], [], [], left_s)


def _forward(number: int, apps: Sequence[App], log: logging.Logger) -> bool:
    """Hand a signal on to all primaries; tell whether it asks for the end."""
    if number == signal.SIGCHLD or (number == signal.SIGWINCH and proc.is_in_foreground()):
        return False
    for app in apps:
        app.signal(number)
    if number in STOPS:
        running = sum(app.pid is not None for app in apps)
        log.info("%s: %s to stop", signal.Signals(number).name, count(running, "app"))
    return number in STOPS


def _tell_end(
    app: App, status: int, apps: Sequence[App], is_stopping: bool, log: logging.Logger
) -> None:
    how = how_it_ended(status)
    by_signal = status & 0x7F != 0
    if by_signal and not is_stopping:
        log.error("app %s: its primary %s; next start in %g s", app.name, how, app.crashed())
        return
    if status == 0 and not is_stopping and app.follow():
        log.info("app %s: primary %d, which has taken over", app.name, app.pid)
        return
    app.code = EXIT_UNEXPECTED if by_signal else status >> 8
    left = sum(not other.is_over for other in apps)
    level = logging.ERROR if app.code else logging.INFO
    log.log(level, "app %s: its primary %s; %s left", app.name, how, count(left, "app"))
