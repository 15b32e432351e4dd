"""Find a running server of this user's and ask it something over its control socket.

The law: what a server answers is returned as it is, and whatever else happens is a
ControlError with one sentence.  It prints nothing; control_commands.py has the words.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from fastcluster import control_folder
from fastcluster.control import peer_of
from fastcluster.errors import AppLoadError, ControlError

# A primary that is well answers within milliseconds.
STATUS_TIMEOUT_S = 5.0
# What may still be done after the last answer: closing sockets, removing files.
GONE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server that may run: its name and the path of its socket."""

    name: str
    path: str


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket; raises OSError."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def find(name: str | None, path: str | None = None) -> Target:
    """Return the server of a name, or the only one that runs; path: of its socket, if known.

    Raises ControlError if there is none, or several to choose from.
    """
    if path is not None:
        return Target(name or os.path.basename(path).removesuffix(control_folder.SUFFIX), path)
    living = [Target(*pair) for pair in control_folder.found() if control_folder.is_alive(pair[1])]
    fitting = [target for target in living if name in (None, target.name)]
    if len(fitting) == 1 or (fitting and name is not None):
        return fitting[0]
    names = ", ".join(target.name for target in living)
    if fitting:
        raise ControlError(f"several servers run ({names}): say which one with --name")
    if name is None:
        raise ControlError(
            "no server of this user runs here, or it runs with --no-control: start one with "
            "fastcluster serve"
        )
    there = f"{names} run" if names else "none of this user's does"
    raise ControlError(f"no server named {name} runs: {there}")


def pid_of(name: str) -> int | None:
    """Return the primary's process id of the server of a name, None if there is none."""
    with contextlib.suppress(ControlError):
        pid = ask(find(name), "status").get("pid")
        return pid if isinstance(pid, int) else None
    return None


def ask(
    target: Target, what: str, timeout_s: float | None = STATUS_TIMEOUT_S, **parameters: int
) -> dict[str, Any]:
    """Ask a server for something and return its answer.

    what: status, reload, scale, restart or stop.  timeout_s: None waits as long as the
    server does, which has timeouts of its own.  Raises AppLoadError if new code did not
    come up, with the application's own error as its detail, and ControlError.
    """
    method = "GET" if what == "status" else "POST"
    query = f"?{urlencode(parameters)}" if parameters else ""
    connection = _Connection(target.path, timeout_s)
    try:
        connection.request(method, f"/{what}{query}")
        response = connection.getresponse()
        content = json.loads(response.read())
    except TimeoutError as error:
        raise ControlError(
            f"{target.name} does not answer: its primary is stopped or very busy"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its answer was cut off"
        raise ControlError(f"cannot reach {target.name} at {target.path}: {reason}") from error
    finally:
        connection.close()
    if response.status < 300:
        return dict(content)
    _complain(what, response.status, str(content.get("error", response.reason)))
    raise AssertionError


def _complain(what: str, status: int, error: str) -> None:
    first, _, rest = error.partition("\n")
    if status == 500:
        raise AppLoadError(f"the {what} failed, the old workers keep serving: {first}", rest)
    raise ControlError(error)


def stop(target: Target, *, at_once: bool = False) -> None:
    """Stop a server and return when its process is gone.  Raises ControlError."""
    with contextlib.ExitStack() as at_end:
        fd = _open_primary(target)
        if fd is not None:
            at_end.callback(os.close, fd)
        ask(target, "stop", None, **({"now": 1} if at_once else {}))
        if fd is not None:
            select.select([fd], [], [], GONE_TIMEOUT_S)


def _open_primary(target: Target) -> int | None:
    """Return a descriptor that is readable once the primary is gone; None: not to be had."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(target.path)
            return os.pidfd_open(peer_of(probe)[0])
        except (OSError, AttributeError, ValueError):
            return None


def ps() -> list[dict[str, Any]]:
    """Return the status of each server of this user, and its socket's path.

    One that runs but does not answer has the state "silent" and no more.
    """
    found = []
    for name, path in control_folder.found():
        if control_folder.is_alive(path):
            try:
                status = ask(Target(name, path), "status")
            except ControlError:
                status = {"name": name, "state": "silent"}
            found.append({**status, "socket": path})
    return found
