"""Whom a proxy in front speaks for: X-Forwarded-For and X-Forwarded-Proto.

Anybody can send these fields, so they count only where the connection comes from a
proxy that the configuration names, and there only what trusted proxies have written:
each appends the address that it saw, so the list is read from its end.  This file knows
neither connections nor exchanges.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

EVERYBODY = "*"
UNIX = "unix"

SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


def network(text: str) -> Network | None:
    """Return the network that a text such as 10.0.0.0/8 or ::1 names, None if none."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def is_proxy(text: str) -> bool:
    """Tell whether a text can stand in a list of proxies."""
    return text in (EVERYBODY, UNIX) or network(text) is not None


def address_and_port(text: str) -> tuple[Address, int] | None:
    """Take apart an entry of X-Forwarded-For: an address, [v6] or not, with a port or not."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
        if not bracket or (rest and not rest.startswith(":")):
            return None
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit() and int(port) < 65536):
        return None
    try:
        return plain(ipaddress.ip_address(host)), int(port or 0)
    except ValueError:
        return None


def plain(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 socket shows as ::ffff:192.0.2.1."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class Proxies:
    """The proxies whose word is taken.

    trusted: addresses, networks such as 10.0.0.0/8, "unix" for whoever connects by a
    unix socket, "*" for everybody.  Raises ValueError for anything else.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        wrong = [text for text in trusted if not is_proxy(text)]
        if wrong:
            raise ValueError(f"no address and no network: {', '.join(wrong)}")
        self._everybody = EVERYBODY in trusted
        self._unix = UNIX in trusted
        self._networks = [found for text in trusted if (found := network(text)) is not None]
        # A proxy keeps its address for years, and there are few of them.
        self._includes = functools.lru_cache(maxsize=1024)(self._look_up)

    def trust(self, peer: str) -> bool:
        """Tell whether a connection's peer is one of them; "": a unix socket's."""
        if self._everybody:
            return True
        return self._includes(peer) if peer else self._unix

    def _look_up(self, host: str) -> bool:
        try:
            address = plain(ipaddress.ip_address(host))
        except ValueError:
            return False
        return any(address in known for known in self._networks)

    def client(self, hops: Sequence[bytes]) -> tuple[str, int] | None:
        """Return the client's address, and its port or 0, by the values of X-Forwarded-For.

        It is the last entry that is no proxy of ours, or the first if all are.  An entry
        that is no address ends the search: who wrote it cannot be told.  None: the fields
        do not say.
        """
        found = None
        for entry in reversed(b",".join(hops).decode("latin-1").split(",")):
            parts = address_and_port(entry.strip(" \t"))
            if parts is None:
                return found
            found = str(parts[0]), parts[1]
            if not self._everybody and not self._includes(found[0]):
                return found
        return found


def scheme(values: Sequence[bytes]) -> str | None:
    """Return "http" or "https" by the values of X-Forwarded-Proto; None: they do not say.

    The last word is the trusted proxy's own.
    """
    last = b",".join(values).rpartition(b",")[2]
    return SCHEMES.get(last.strip(b" \t").decode("latin-1").lower())
