"""What a service manager is told: ready, reloading, stopping, a line of status, signs of life.

The protocol is systemd's sd_notify(3): datagrams to the socket that NOTIFY_SOCKET named.
The law: telling never fails and never waits; without a manager nobody is told.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

_WORDS = {"ready": "READY=1", "stopping": "STOPPING=1"}


class Notifier:
    """Tells the service manager; path: its socket, a leading "@" for an abstract one, or "".

    watchdog_s: it wants a sign of life within this time (sd_watchdog_enabled(3)), 0: none.
    """

    def __init__(
        self, path: str, watchdog_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._socket: socket.socket | None = None
        self._now = clock
        # Twice as often as it must be, as the manual says.
        self._interval_s = watchdog_s / 2
        self._beat_s: float | None = clock() if path and watchdog_s else None
        if not path:
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect("\0" + path[1:] if path.startswith("@") else path)
        except OSError:
            self.close()

    def tell(self, phase: str, status: str) -> None:
        """Tell a phase ("ready", "reloading", "stopping", or another for none) and a status."""
        if self._socket is None:
            return
        lines = [f"STATUS={' '.join(status.split())}"]
        if phase in _WORDS:
            lines.append(_WORDS[phase])
        elif phase == "reloading":
            # Type=notify-reload compares it with the moment it sent the signal.
            lines += ["RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"]
        with contextlib.suppress(OSError):
            self._socket.send("\n".join(lines).encode())

    def hand_over(self, pid: int) -> None:
        """Tell that another process is the service's main one from now on, and say no more."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(f"MAINPID={pid}".encode())
        self.close()

    def next_beat(self) -> float | None:
        """Return the moment at which `beat()` has something to do; None: never."""
        return self._beat_s

    def beat(self) -> None:
        """Give a sign of life if it is time for one."""
        now = self._now()
        if self._socket is None or self._beat_s is None or now < self._beat_s:
            return
        self._beat_s = now + self._interval_s
        with contextlib.suppress(OSError):
            self._socket.send(b"WATCHDOG=1")

    def close(self) -> None:
        """Tell nobody any more; may be repeated."""
        self._beat_s = None
        if self._socket is not None:
            self._socket.close()
        self._socket = None
