"""Where the control sockets of this user's servers are, and under which names.

The law: a socket lies in a folder that is its user's alone, or there is none; a name that
a living server has is nobody else's, one that a dead server left is free.  It knows no
protocol: control.py serves what is made here, control_client.py connects to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import stat
from collections.abc import Iterator

from fastcluster import sockets
from fastcluster.config import runtime_folder
from fastcluster.errors import BindError
from fastcluster.sockets import ListeningSocket

SUFFIX = ".sock"
_BACKLOG = 64
# So many servers of one application may run side by side without a --name.
_MOST_ALIKE = 1000
_NAME_MOST_CHARS = 60


def folders() -> list[str]:
    """Return where this user's sockets may be: first where a new one is made.

    $XDG_RUNTIME_DIR/fastcluster if that directory is this user's (XDG Base Directory
    Specification), and /tmp/fastcluster-UID.
    """
    found = []
    runtime = runtime_folder()
    if runtime and _is_ours(runtime):
        found.append(os.path.join(runtime, "fastcluster"))
    # Not TMPDIR: a server and those who look for it may be told different ones.
    found.append(f"/tmp/fastcluster-{os.geteuid()}")
    return found


def _is_ours(path: str) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def check(folder: str) -> None:
    """Raise BindError unless the folder is a real one, this user's, and closed to others.

    Whoever could write to it could pass their socket off as ours.
    """
    try:
        found = os.lstat(folder)
    except OSError as error:
        raise BindError(f"there is no folder {folder} ({error.strerror}): make it") from error
    if not stat.S_ISDIR(found.st_mode):
        raise BindError(f"{folder} is no folder: move it away")
    if found.st_uid != os.geteuid():
        raise BindError(f"{folder} belongs to another user: have it removed")
    if found.st_mode & 0o077:
        raise BindError(f"{folder} is open to other users: chmod 700 {folder}")


def default_name(app: str) -> str:
    """Return what a server of an application is called where nobody says."""
    return re.sub(r"[^A-Za-z0-9._:-]", "_", app)[:_NAME_MOST_CHARS].lstrip("-.") or "app"


def listen(name: str | None, app: str) -> tuple[str, ListeningSocket]:
    """Return the name of this server and its listening socket, mode 0600.

    name: as given; None for the application's, with -2, -3, … behind it if such servers
    run already.  Closing the socket removes its file.  Raises BindError if a server of
    the given name runs, or the socket cannot be made.
    """
    folder = folders()[0]
    with contextlib.suppress(FileExistsError):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            raise
        except OSError as error:
            raise BindError(f"cannot make the folder {folder} ({error.strerror})") from error
    check(folder)
    with _locked(folder):
        chosen = name or _free_name(folder, default_name(app))
        path = path_of(folder, chosen)
        if name is not None and is_alive(path):
            raise NameTaken(
                f"a server named {name} runs already: choose another --name, or stop that one "
                f"(fastcluster stop --name {name})"
            )
        address = sockets.Address(path=path)
        return chosen, sockets.listen(address, _BACKLOG, uds_permissions=0o600)


class NameTaken(BindError):
    """A living server has the name that was given."""


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Keep two servers that start from taking the same name: between them lies a moment
    in which a socket is bound and nobody listens yet, which looks like a dead one."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _free_name(folder: str, stem: str) -> str:
    names = [stem, *(f"{stem}-{n}" for n in range(2, _MOST_ALIKE))]
    for name in names:
        if not is_alive(path_of(folder, name)):
            return name
    raise BindError(f"{_MOST_ALIKE} servers of {stem} run: give this one a --name")


def path_of(folder: str, name: str) -> str:
    """Return the path of the socket of that name."""
    return os.path.join(folder, name + SUFFIX)


def is_alive(path: str) -> bool:
    """Tell whether somebody listens on a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
        return True


def found() -> list[tuple[str, str]]:
    """Return name and path of every socket of this user, also those that the dead left.

    Folders that are not this user's alone are passed over.
    """
    pairs = []
    for folder in folders():
        with contextlib.suppress(BindError, OSError):
            check(folder)
            pairs += [
                (entry.removesuffix(SUFFIX), os.path.join(folder, entry))
                for entry in sorted(os.listdir(folder))
                if entry.endswith(SUFFIX)
            ]
    return pairs
