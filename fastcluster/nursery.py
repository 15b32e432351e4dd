"""The zygotes as the primary sees them: one that forks the workers, one that may come up.

A zygote has imported the application (zygote.py).  New code is a new zygote; the one before
it is kept until the reload that wanted it is over, so that a reload that fails leaves
nothing behind.  The law: nothing here waits, but for the few milliseconds of a fork.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from logging import Logger

from fastcluster.channel import Channel, pair
from fastcluster.child_process import Child, how_it_ended
from fastcluster.roster import backoff_s

# A fork takes milliseconds; a zygote that is silent for so long does nothing any more.
FORK_S = 10.0

# Hears why the application could not be loaded, None if it could.
TellLoaded = Callable[[str | None], object]


class Nursery:
    """Whoever forks the workers of a primary.

    start: forks a zygote.  kill: ends a process.  timeout_s: what an application may take
    to load.  The owner polls for what `interests()` says, calls `happened()` and `died()`
    for what it is told, and `settle()` in every turn; `next_deadline()` says when that has
    something to do.
    """

    def __init__(
        self,
        start: Callable[[], Child],
        kill: Callable[[int, int], object],
        timeout_s: float,
        log: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._kill = kill
        self._timeout_s = timeout_s
        self._log = log
        self._now = clock
        self._current: Child | None = None
        self._previous: Child | None = None  # while it is not known whether we go back
        self._coming: Child | None = None
        self._on_end: TellLoaded | None = None
        self._why = ""
        self._deadline_s: float | None = None
        self._failures = 0
        self._again_s: float | None = None  # one that died by itself is followed then

    # ---- what the primary asks for

    @property
    def is_ready(self) -> bool:
        """Tell whether workers can be forked."""
        return self._current is not None

    def begin(self, on_end: TellLoaded) -> None:
        """Raise a zygote, which forks all workers once it is loaded.

        One that comes up gives way.
        """
        self._cancel()
        self._again_s = None
        self._on_end, self._why = on_end, ""
        try:
            self._coming = self._start()
        except OSError as error:
            self._end(f"cannot start a zygote: {error.strerror or error}")
            return
        self._deadline_s = self._now() + self._timeout_s

    def keep(self) -> None:
        """Stay with the one that was loaded last."""
        self._dismiss(self._previous)
        self._previous = None

    def revert(self) -> None:
        """Go back to the one before, which has been kept; do without the one that comes up."""
        self._cancel()
        if self._previous is not None:
            self._dismiss(self._current)
            self._current, self._previous = self._previous, None

    def spawn(self, number: int, slot: int, generation: int) -> Child:
        """Have a worker forked, which is the child of this process.

        Raises OSError if that fails.
        """
        zygote = self._current
        if zygote is None:
            raise OSError(0, "the application is not loaded")
        ours, theirs = pair()
        try:
            words = {"number": number, "slot": slot, "generation": generation}
            zygote.channel.send({"fork": words}, [theirs.fileno()])
            return Child(self._pid_from(zygote), ours)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()

    def reopen(self, names: list[str], fds: list[int]) -> None:
        """Have the zygotes, and so the workers that they fork, write to these log files."""
        for channel in self.channels():
            channel.send({"reopen": names}, fds)

    # ---- what the owner calls

    def interests(self) -> dict[int, int]:
        """Return the descriptors to poll, each with its events."""
        if self._coming is None or self._coming.channel.eof:
            return {}
        return {self._coming.channel.fileno(): select.POLLIN}

    def happened(self) -> None:
        """Hear what the zygote says that comes up."""
        coming = self._coming
        if coming is None:
            return
        for message, fds in coming.channel.receive():
            for fd in fds:
                os.close(fd)
            match message:
                case {"failed": str(why)}:
                    self._why = why
                case {"loaded": {"threads": list(threads)}}:
                    self._warn_of(threads)
                    self._succeed(coming)

    def died(self, pid: int, status: int) -> bool:
        """Take note that a process is dead; return whether it was one of ours."""
        if self._coming is not None and pid == self._coming.pid:
            self.happened()
        if self._coming is not None and pid == self._coming.pid:
            self._forget_coming()
            self._end(self._why or f"{how_it_ended(status)} while it was loaded")
            return True
        if self._current is not None and pid == self._current.pid:
            self._lose_current(status)
            return True
        if self._previous is not None and pid == self._previous.pid:
            self._previous.channel.close()
            self._previous = None
            return True
        return False

    def settle(self) -> None:
        """Give up what takes too long to load, and replace the one that died."""
        now = self._now()
        if self._deadline_s is not None and self._deadline_s <= now:
            self._cancel()
            self._end(
                f"the application did not load within {self._timeout_s:g} s (--timeout-startup)"
            )
        if self._again_s is not None and self._again_s <= now:
            self.begin(self._loaded_again)

    def next_deadline(self) -> float | None:
        """Return the moment at which `settle()` has something to do, if any is known."""
        moments = [m for m in (self._deadline_s, self._again_s) if m is not None]
        return min(moments, default=None)

    def channels(self) -> list[Channel]:
        """Return what nobody else who is forked must keep."""
        ours = (self._current, self._previous, self._coming)
        return [zygote.channel for zygote in ours if zygote is not None]

    def close(self) -> None:
        """End all zygotes; may be repeated."""
        self._again_s = None
        self._cancel()
        self.keep()
        self._dismiss(self._current)
        self._current = None

    # ---- within

    def _pid_from(self, zygote: Child) -> int:
        """Wait for the answer to an order to fork."""
        poll = select.poll()
        poll.register(zygote.channel.fileno(), select.POLLIN)
        deadline_s = time.monotonic() + FORK_S
        while (left_s := deadline_s - time.monotonic()) > 0:
            poll.poll(left_s * 1000)
            for message, _ in zygote.channel.receive():
                match message:
                    case {"forked": {"pid": int(pid)}}:
                        return pid
                    case {"not forked": {"errno": int(number)}}:
                        raise OSError(number, os.strerror(number))
            if zygote.channel.eof:
                raise OSError(0, "the zygote is dead")
        # It may yet fork one, of whom nobody would know.
        self._kill(zygote.pid, signal.SIGKILL)
        raise OSError(0, "the zygote does not answer")

    def _warn_of(self, threads: list[str]) -> None:
        if threads:
            self._log.warning(
                "the application has started threads while it was imported (%s), which no worker "
                "has: start them in each worker, at its startup or first request, or leave out "
                "--preload",
                ", ".join(threads),
            )

    def _succeed(self, zygote: Child) -> None:
        self._log.info("the application is loaded, in zygote %d", zygote.pid)
        self._coming, self._deadline_s, self._failures = None, None, 0
        self._dismiss(self._previous)
        self._previous, self._current = self._current, zygote
        self._end(None)

    def _end(self, why: str | None) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(why)

    def _lose_current(self, status: int) -> None:
        assert self._current is not None
        self._log.error(
            "zygote %d %s: another one comes up", self._current.pid, how_it_ended(status)
        )
        self._current.channel.close()
        self._current = None
        if self._coming is None:
            self._retry()

    def _retry(self) -> None:
        self._failures += 1
        self._again_s = self._now() + backoff_s(self._failures)

    def _loaded_again(self, why: str | None) -> None:
        if why is None:
            self.keep()
            return
        self._log.error("the application did not load again: %s", why)
        self._retry()

    def _cancel(self) -> None:
        coming = self._coming
        self._coming, self._deadline_s = None, None
        self._dismiss(coming)

    def _forget_coming(self) -> None:
        assert self._coming is not None
        self._coming.channel.close()
        self._coming, self._deadline_s = None, None

    def _dismiss(self, zygote: Child | None) -> None:
        if zygote is None:
            return
        zygote.channel.close()
        # Not only told: what an application does at its import need not listen.
        with contextlib.suppress(ProcessLookupError):
            self._kill(zygote.pid, signal.SIGKILL)
