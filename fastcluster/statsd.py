"""Tell a StatsD server what the workers do, every few seconds, by UDP.

The law: nothing here waits or fails; a datagram that cannot be sent is lost, as StatsD
means it to be.  Counters are what has been added since the last time, of all workers.

StatsD's protocol: https://github.com/statsd/statsd/blob/master/docs/metric_types.md
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from fastcluster import metrics
from fastcluster.errors import UsageError

# A datagram of an Ethernet's frame, less the headers of IPv6 and UDP.
DATAGRAM_BYTES = 1432
COUNTERS = (*metrics.COUNTS, "restarts")


class HasStatus(Protocol):
    """What is asked of primary.Primary."""

    def status(self, histograms: bool = False) -> dict[str, Any]: ...


class StatsD:
    """A StatsD server and what it was told last.

    address: HOST:PORT, an IPv6 host in brackets.  Raises UsageError if it is none or its
    host cannot be found.
    """

    def __init__(
        self,
        address: str,
        prefix: str,
        every_s: float,
        primary: HasStatus,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._socket = _open(address)
        self._prefix = f"{prefix}." if prefix else ""
        self._every_s = every_s
        self._primary = primary
        self._now = clock
        self._before: Mapping[str, Any] | None = None
        self._due_s = clock()

    def interests(self) -> dict[int, int]:
        """Return the descriptors to poll: none, since nobody answers."""
        return {}

    def happened(self, fd: int, events: int) -> None:
        """Never called."""

    def settle(self) -> None:
        """Tell what is due."""
        now = self._now()
        if now < self._due_s:
            return
        self._due_s = now + self._every_s
        status = self._primary.status(True)
        before, self._before = self._before, status["totals"]
        if before is None:
            return
        for datagram in packed(lines(status, before, self._prefix)):
            with contextlib.suppress(OSError):
                self._socket.send(datagram)

    def next_deadline(self) -> float | None:
        """Return the moment at which `settle()` has something to do."""
        return self._due_s

    def sockets(self) -> list[socket.socket]:
        """Return what a forked worker must not keep."""
        return [self._socket]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _open(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(f"--statsd wants HOST:PORT, such as 127.0.0.1:8125, not {address!r}")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)
        family, kind, protocol, _, where = found[0]
        sock = socket.socket(family, kind, protocol)
        # So that nothing is ever looked up again.
        sock.connect(where)
    except OSError as error:
        raise UsageError(f"--statsd {address}: {error.strerror or error}") from error
    sock.setblocking(False)
    return sock


def lines(status: Mapping[str, Any], before: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Yield the metrics: counters since `before`, gauges, and the latencies in milliseconds."""
    totals = status["totals"]
    for name in COUNTERS:
        yield f"{prefix}{name}:{max(0, totals[name] - before[name])}|c"
    for name, n in totals["statuses"].items():
        yield f"{prefix}responses.{name}:{max(0, n - before['statuses'][name])}|c"
    workers = status["workers"]
    yield f"{prefix}workers.ready:{sum(w['state'] == 'ready' for w in workers)}|g"
    for name in ("connections", "running", "rss_bytes"):
        # Never negative, which StatsD would take for a step down.
        yield f"{prefix}{name}:{max(0, sum(worker[name] for worker in workers))}|g"
    earlier = dict(before["histogram"])
    recent = [(end, n - earlier.get(end, 0)) for end, n in totals["histogram"]]
    for name, value in metrics.quantiles(recent).items():
        if value is not None:
            yield f"{prefix}latency_ms.{name}:{value * 1000:.4g}|g"


def packed(texts: Iterator[str]) -> Iterator[bytes]:
    """Yield the lines in datagrams that no network cuts up."""
    data = b""
    for text in texts:
        line = text.encode()
        if data and len(data) + 1 + len(line) > DATAGRAM_BYTES:
            yield data
            data = b""
        data = data + b"\n" + line if data else line
    if data:
        yield data
