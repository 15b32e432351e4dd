"""What the process was started into: variables that are no options, and what they mean.

The law: only this file and config.py read the environment.  It knows no option; those are
config.py's, which also passes on what is here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def debug(environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether FASTCLUSTER_DEBUG asks for tracebacks of errors that have a message."""
    environ = os.environ if environ is None else environ
    return environ.get("FASTCLUSTER_DEBUG", "") not in ("", "0")


def notify_socket(environ: Mapping[str, str] | None = None) -> str:
    """Return where the service manager wants to be told of us (sd_notify), "" for nowhere."""
    environ = os.environ if environ is None else environ
    return environ.get("NOTIFY_SOCKET", "")


def passed_sockets(environ: Mapping[str, str] | None = None) -> list[int]:
    """Return the descriptors that a service manager opened for this process (sd_listen_fds(3)).

    LISTEN_PID says for whom they are: a program that we start is not meant.
    """
    environ = os.environ if environ is None else environ
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit():
        return []
    return list(range(3, 3 + min(int(count), 1024)))


def watchdog_s(environ: Mapping[str, str] | None = None) -> float:
    """Return how often at least the service manager wants a sign of life, in seconds; 0: never.

    sd_watchdog_enabled(3): WATCHDOG_USEC, and WATCHDOG_PID if it is not for everybody.
    """
    environ = os.environ if environ is None else environ
    text = environ.get("WATCHDOG_USEC", "")
    is_meant = environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
    return int(text) / 1e6 if is_meant and text.isascii() and text.isdigit() else 0.0


def runtime_folder(environ: Mapping[str, str] | None = None) -> str:
    """Return where this user's programs keep their sockets (XDG_RUNTIME_DIR), "" if nobody says."""
    environ = os.environ if environ is None else environ
    return environ.get("XDG_RUNTIME_DIR", "")


def polling_wanted(environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether WATCHFILES_FORCE_POLLING wants files polled, as watchfiles reads it.

    For file systems whose changes the kernel does not see, such as a container's mounts.
    """
    environ = os.environ if environ is None else environ
    value = environ.get("WATCHFILES_FORCE_POLLING", "")
    return value.lower() not in ("", "false", "disable", "disabled")


def parser_wanted(environ: Mapping[str, str] | None = None) -> str:
    """Return the door that FASTCLUSTER_PARSER forces, "" for the first that fits.

    Not an option: it is chosen when the compiled parser is imported, before there is
    a configuration, and for the whole process.
    """
    environ = os.environ if environ is None else environ
    return environ.get("FASTCLUSTER_PARSER", "")


def working_folder(environ: Mapping[str, str] | None = None) -> str:
    """Return the current folder as the shell calls it, with its symbolic links (PWD).

    A release that is replaced by moving such a link is found anew by that name.
    """
    environ = os.environ if environ is None else environ
    here, said = os.getcwd(), environ.get("PWD", "")
    try:
        return said if os.path.isabs(said) and os.path.samefile(said, here) else here
    except OSError:
        return here


def environ_of_app() -> dict[str, str]:
    """Return the variables for the primary of one app among several.

    The service manager means the process that it started, and not those.
    """
    meant = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")
    return {name: value for name, value in os.environ.items() if name not in meant}


_from_file: dict[str, str] = {}


def environ_without_file() -> dict[str, str]:
    """Return this process's variables without those that set_variables() has put there."""
    return {name: v for name, v in os.environ.items() if _from_file.get(name) != v}


def set_variables(values: Mapping[str, str]) -> None:
    """Put a file's variables into the environment, in the place of those of the last time.

    What was there without a file stays as it is.
    """
    before = environ_without_file()
    for name in [name for name in os.environ if name not in before]:
        del os.environ[name]
    _from_file.clear()
    for name, value in values.items():
        if name not in before:
            os.environ[name] = _from_file[name] = value


_environment: str | None = None


def environment(environ: Mapping[str, str] | None = None) -> str:
    """Return the name of the environment that this program runs in.

    What use_environment() said, else FASTCLUSTER_ENV, else "development".
    """
    if _environment is not None:
        return _environment
    environ = os.environ if environ is None else environ
    return environ.get("FASTCLUSTER_ENV") or "development"


def use_environment(name: str | None) -> None:
    """Decide what environment() says from now on; None leaves it to FASTCLUSTER_ENV."""
    global _environment
    _environment = name


_LEGACY = "FASTCLUSTER_UPGRADE"
_MEANT_FOR = ("LISTEN_PID", "WATCHDOG_PID")


def environ_of_heir(parent_pid: int, fd: int) -> dict[str, str]:
    """Return the environment of a new primary that this process, a fork of the old, becomes.

    What a service manager meant for the old one is meant for it.  fd: of the channel over
    which the old one speaks.
    """
    environ = environ_without_file()
    for name in _MEANT_FOR:
        if environ.get(name) == str(parent_pid):
            environ[name] = str(os.getpid())
    environ[_LEGACY] = f"{os.getpid()}:{fd}"
    return environ


def legacy_fd() -> int | None:
    """Return the descriptor that environ_of_heir() told of, and take the variable away.

    It names our pid, so that a program which somebody starts is never taken for a primary.
    """
    pid, _, fd = os.environ.pop(_LEGACY, "").partition(":")
    return int(fd) if pid == str(os.getpid()) and fd.isascii() and fd.isdigit() else None


def scheduling_policy(environ: Mapping[str, str] | None = None) -> str:
    """Return FASTCLUSTER_SCHED_POLICY, the word for a cluster's scheduling policy, else ""."""
    environ = os.environ if environ is None else environ
    return environ.get("FASTCLUSTER_SCHED_POLICY", "")
