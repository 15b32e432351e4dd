"""Addresses, and the listening sockets made of them.

The law: only this file binds.  A socket leaves it bound, listening, non-blocking
and closed on exec; a failure leaves it as one sentence.  It knows nothing of
workers and nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
from dataclasses import dataclass
from typing import Any

from fastcluster.errors import BindError, UsageError
from fastcluster.layers import DEFAULT_HOST, DEFAULT_PORT

ALL_IPV4 = "0.0.0.0"

# A proxy in front mostly runs as another user, and a port on the loopback is as
# open to everybody.  --uds-permissions 660 closes the file to others.
UDS_PERMISSIONS = 0o666

# struct sockaddr_un has 108 bytes and the path must end with a NUL.
UDS_PATH_MAX_BYTES = 107

FORMS = "HOST:PORT, PORT, :PORT, [IPV6]:PORT, unix:PATH, unix:@NAME or fd://N"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host and port, a unix path (``@…`` is abstract), or a descriptor.

    ipv6_only: an IPv6 address takes no IPv4 client.  reuse_port: other sockets with it may
    have the same address, and the kernel spreads connections over them.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1
    ipv6_only: bool = True
    reuse_port: bool = False

    def __str__(self) -> str:
        if self.fd >= 0:
            return f"fd://{self.fd}"
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ListeningSocket(socket.socket):
    """A listening socket that takes its file with it when its maker closes it.

    Only the process that bound a unix socket removes the file: workers that were
    forked later close their copies and leave it, and a file that somebody else
    has meanwhile put in its place stays.
    """

    _file: tuple[int, str, int, int] | None = None

    def own_file(self, path: str) -> None:
        """Remember that this process made the socket file at ``path``."""
        found = os.stat(path)
        self._file = (os.getpid(), os.path.abspath(path), found.st_dev, found.st_ino)

    def close(self) -> None:
        """Close the socket, and remove its file if this process made it."""
        mine, self._file = self._file, None
        if mine is not None and mine[0] == os.getpid():
            with contextlib.suppress(OSError):
                found = os.stat(mine[1])
                if (found.st_dev, found.st_ino) == mine[2:]:
                    os.unlink(mine[1])
        super().close()


# ---- addresses


def parse(text: str) -> Address:
    """Return what an address says; raises UsageError with the forms there are.

    A port alone is one of the loopback, ``:PORT`` one of all IPv4 interfaces, a
    host alone gets port 8000.
    """
    if text.startswith("unix:"):
        return _parse_unix(text)
    if text.startswith("fd://"):
        return Address(fd=_number(text[5:], text, 2**31 - 1))
    if "/" in text:
        hint = f": did you mean unix:{text}?" if "://" not in text else f": write it as {FORMS}"
        raise UsageError(f"{text!r} is no address to listen on{hint}")
    if text.isdigit():
        return Address(DEFAULT_HOST, _number(text, text, 65535))
    found = re.fullmatch(r"\[([^\[\]]+)\](?::([^:]*))?|([^:\[\]]*)(?::([^:]*))?", text)
    if found is None or not text:
        raise UsageError(_no_address(text))
    host, port = found[1] or found[3], found[2] if found[1] else found[4]
    if port is None:
        return Address(host, DEFAULT_PORT)
    return Address(host or ALL_IPV4, _number(port, text, 65535))


def _parse_unix(text: str) -> Address:
    path = text[5:]
    if path.startswith("//"):
        path = path[2:]
    if path in ("", "@") or "\0" in path:
        raise UsageError(f"{text!r} names no socket: write unix:PATH or unix:@NAME")
    return Address(path=path)


def _number(digits: str, text: str, highest: int) -> int:
    if digits.isascii() and digits.isdigit() and int(digits) <= highest:
        return int(digits)
    raise UsageError(
        f"{text!r} is no address to listen on: {digits!r} is no number up to {highest}"
    )


def _no_address(text: str) -> str:
    if text.count(":") > 1:
        return f"{text!r} is no address to listen on: write an IPv6 address as [ADDRESS]:PORT"
    return f"{text!r} is no address to listen on: write it as {FORMS}"


def url(sock: socket.socket) -> str:
    """Return where a listening socket is reached, for people: http://127.0.0.1:8000."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        text = os.fsdecode(name)
        return f"unix:@{text[1:]}" if text.startswith("\0") else f"unix:{text}"
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


# ---- listening


def listen(
    address: Address | str, backlog: int = 2048, *, uds_permissions: int | None = None
) -> ListeningSocket:
    """Return a listening socket, non-blocking and not inherited by programs that are executed.

    backlog: how many connections may wait to be accepted (the kernel may allow
    fewer).  uds_permissions: of a unix socket's file, None for 0o666.  A socket
    file that nobody listens on any more is replaced.  IPv6 sockets take IPv6
    only, unless the address says otherwise, so that 0.0.0.0 and [::] can be had on
    one port.  A host name with addresses of both kinds gets its IPv4 one.  Raises
    BindError, and UsageError for an address that is none.
    """
    if isinstance(address, str):
        address = parse(address)
    if address.fd >= 0:
        return _adopt(address)
    if address.path:
        return _listen_unix(address, backlog, uds_permissions)
    return _listen_inet(address, backlog)


def _listen_inet(address: Address, backlog: int) -> ListeningSocket:
    family, where = _resolve(address)
    sock = _new(family, address)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Linux and the BSDs hand it down to accepted sockets, which saves a call each.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address.ipv6_only)
        if address.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(where)
        return _listening(sock, backlog)
    except OSError as error:
        sock.close()
        raise BindError(_why_not_inet(address, error)) from error


def _resolve(address: Address) -> tuple[socket.AddressFamily, Any]:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise BindError(
            f"{address.host!r} is the name of no host: give an address of this machine to --bind"
        ) from error
    found.sort(key=lambda info: info[0] != socket.AF_INET)
    return found[0][0], found[0][4]


def _new(family: socket.AddressFamily, address: Address) -> ListeningSocket:
    try:
        return ListeningSocket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise BindError(
            f"this machine has no sockets for {address} ({error.strerror}): choose another address"
        ) from error


def _listening(sock: ListeningSocket, backlog: int) -> ListeningSocket:
    sock.listen(backlog)
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock


def _why_not_inet(address: Address, error: OSError) -> str:
    host, port = address.host, address.port
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is in use by another process; "
            "choose another with --bind or stop it"
        )
    if error.errno == errno.EACCES:
        return (
            f"port {port} on {host} is not for this user: ports below 1024 are for root; "
            "choose a higher one with --bind"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no address {host}; choose one that it has with --bind"
    return f"cannot listen on {address}: {error.strerror}; choose another address with --bind"


# ---- unix sockets


def _listen_unix(address: Address, backlog: int, permissions: int | None) -> ListeningSocket:
    if address.path.startswith("@"):
        return _listen_abstract(address, backlog)
    length = len(os.fsencode(address.path))
    if length > UDS_PATH_MAX_BYTES:
        raise BindError(
            f"{address} is {length} bytes long and a unix socket's path has at most "
            f"{UDS_PATH_MAX_BYTES}: choose a shorter one, or one relative to the current folder"
        )
    _remove_stale(address)
    sock = _new(socket.AF_UNIX, address)
    try:
        sock.bind(address.path)
        sock.own_file(address.path)
        # Nobody can connect before listen(), so the mode is never too open.
        os.chmod(address.path, UDS_PERMISSIONS if permissions is None else permissions)
        return _listening(sock, backlog)
    except OSError as error:
        sock.close()
        raise BindError(_why_not_unix(address, error)) from error


def _listen_abstract(address: Address, backlog: int) -> ListeningSocket:
    sock = _new(socket.AF_UNIX, address)
    try:
        sock.bind("\0" + address.path[1:])
        return _listening(sock, backlog)
    except OSError as error:
        sock.close()
        raise BindError(_why_not_unix(address, error)) from error


def _remove_stale(address: Address) -> None:
    """Remove a socket file that nobody listens on; raises BindError if it is anything else."""
    try:
        found = os.stat(address.path)
    except OSError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise BindError(f"{address.path} is there and is no socket: choose another path or move it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # EAGAIN says that somebody listens whose queue is full.
        probe.setblocking(False)
        result = probe.connect_ex(address.path)
    if result not in (errno.ECONNREFUSED, errno.ENOENT):
        if result in (0, errno.EAGAIN):
            result = errno.EADDRINUSE
        error = OSError(result, os.strerror(result))
        raise BindError(_why_not_unix(address, error)) from error
    with contextlib.suppress(OSError):
        os.unlink(address.path)


def _why_not_unix(address: Address, error: OSError) -> str:
    folder = os.path.dirname(address.path) or "."
    if error.errno == errno.EADDRINUSE:
        return f"another process listens on {address}; choose another path with --bind or stop it"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"there is no folder {folder} for {address}; make it, or choose another path"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"this user may not make {address}; choose a path in a folder of their own"
    return f"cannot listen on {address}: {error.strerror}; choose another path with --bind"


# ---- descriptors


def _adopt(address: Address) -> ListeningSocket:
    """Take over a descriptor that this process was started with."""
    try:
        sock = ListeningSocket(fileno=address.fd)
    except OSError as error:
        what = "is not open" if error.errno == errno.EBADF else "is no socket"
        raise BindError(
            f"descriptor {address.fd} {what}: start fastcluster with a listening socket there"
        ) from error
    what = _what_is_wrong_with(sock)
    if what:
        sock.detach()
        raise BindError(
            f"descriptor {address.fd} {what}: start fastcluster with one that listens there"
        )
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock


def _what_is_wrong_with(sock: socket.socket) -> str:
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        return "is a socket of an unknown family"
    if sock.type != socket.SOCK_STREAM:
        return "is a socket without a stream"
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "is a socket that does not listen"
    return ""
