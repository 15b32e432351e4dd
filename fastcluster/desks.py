"""What the primary's loop serves besides the workers: monitors, and StatsD, which it tells.

It opens what the options ask for, or takes it over from the primary before us, and makes the
desks of it.  What they say is monitor.py's and statsd.py's affair.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from fastcluster import sockets
from fastcluster.config import Config
from fastcluster.control import PrimaryLike
from fastcluster.errors import BindError, UsageError
from fastcluster.monitor import Chronicle, Monitor
from fastcluster.sockets import ListeningSocket
from fastcluster.statsd import StatsD
from fastcluster.upgrade import Legacy


class Desk(Protocol):
    """One that the loop polls for; see control.Control."""

    def interests(self) -> dict[int, int]: ...
    def happened(self, fd: int, events: int) -> None: ...
    def settle(self) -> None: ...
    def next_deadline(self) -> float | None: ...
    def sockets(self) -> list[socket.socket]: ...
    def close(self) -> None: ...


class Watched(NamedTuple):
    """A socket of --metrics or --dashboard.  name: by which an heir knows it."""

    name: str
    listener: ListeningSocket
    is_dashboard: bool


def listen(config: Config, legacy: Legacy | None) -> list[Watched]:
    """Open what --metrics and --dashboard ask for; what was open before is taken over.

    Raises BindError or UsageError, and then nothing is open.
    """
    found: list[Watched] = []
    try:
        for flag, address in (("metrics", config.metrics), ("dashboard", config.dashboard)):
            if address is None:
                continue
            # No words of --bind: those have no blanks.
            name = f"{flag} {address}"
            inherited = None if legacy is None else legacy.take(name)
            listener = _listen(f"--{flag}", address) if inherited is None else inherited
            found.append(Watched(name, listener, flag == "dashboard"))
    except BaseException:
        for _, listener, _ in found:
            listener.close()
        raise
    return found


def _listen(flag: str, address: str) -> ListeningSocket:
    try:
        return sockets.listen(address)
    except (BindError, UsageError) as error:
        # Its words are those of --bind.
        raise type(error)(f"{flag}: {str(error).replace('--bind', flag)}") from error


def monitors(
    config: Config,
    name: str,
    watched: Sequence[Watched],
    primary: PrimaryLike,
    logger: logging.Logger,
    at_end: contextlib.ExitStack,
) -> list[Monitor]:
    """Return one that serves each of the sockets, and say where; name: of the server."""
    found: list[Monitor] = []
    for _, listener, is_dashboard in watched:
        if not is_dashboard:
            logger.info("metrics on %s/metrics", sockets.url(listener))
            found.append(Monitor(name, listener, primary, logger))
            continue
        chronicle = Chronicle()
        logger.addHandler(chronicle)
        at_end.callback(logger.removeHandler, chronicle)
        token = config.dashboard_token or secrets.token_urlsafe(16)
        # One that was given is known to those who shall know it.
        shown = "" if config.dashboard_token else f"?token={token}"
        logger.info("dashboard on %s/%s", sockets.url(listener), shown)
        found.append(
            Monitor(
                name, listener, primary, logger, token=token, has_page=True, chronicle=chronicle
            )
        )
    return found


def statsd(config: Config, primary: PrimaryLike) -> list[Desk]:
    """Return what tells the server of --statsd, if there is one."""
    if config.statsd is None:
        return []
    return [StatsD(config.statsd, config.statsd_prefix, config.statsd_every_s, primary)]
