"""What a service manager is told: ready, reloading, stopping, and a line of status.

The protocol is systemd's sd_notify(3): datagrams to the socket that NOTIFY_SOCKET named.
The law: telling never fails and never waits; without a manager nobody is told.
"""

from __future__ import annotations

import contextlib
import socket
import time

_WORDS = {"ready": "READY=1", "stopping": "STOPPING=1"}


class Notifier:
    """Tells the service manager; path: its socket, a leading "@" for an abstract one, or ""."""

    def __init__(self, path: str) -> None:
        self._socket: socket.socket | None = None
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

    def close(self) -> None:
        """Tell nobody any more; may be repeated."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
