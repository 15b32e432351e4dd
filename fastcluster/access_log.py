"""What a line of the access log says: common, combined, JSON, or a format of atoms.

The law: what a client sent cannot end a line or a quoted field, nor move a terminal's
cursor; a format is read once, and an atom that nobody knows is refused then.  This file
knows the words of one line; when and where lines are written is log.py's affair.
"""

from __future__ import annotations

import base64
import binascii
import functools
import http
import json
import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

COMMON = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s'
COMBINED = COMMON + ' "%(f)s" "%(a)s"'
NAMED = {"common": COMMON, "combined": COMBINED}

# ---- escaping

# In a quoted field, what neither ends nor escapes it.
QUOTABLE = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')
UNQUOTABLE = re.compile(b"[^" + re.escape(QUOTABLE) + b"]")


def as_hex(found: re.Match[bytes]) -> bytes:
    r"""Return the one byte that was found as ``\xNN``."""
    return b"\\x%02x" % found[0][0]


def quotable(text: bytes) -> bytes:
    r"""Return bytes as printable ASCII for a quoted field, all others as ``\xNN``."""
    return UNQUOTABLE.sub(as_hex, text) if text.translate(None, QUOTABLE) else text


# ---- what is known of an exchange


class Facts(NamedTuple):
    """What the log is told of an exchange: what it wants, as it was sent.

    when: Unix time in seconds, of the response's end.  client: the peer's address, "" for
    unix sockets.  duration_ns: from the request's whole head to the response's end.
    fields: values of the request's fields that the format names, in its order.  head: of
    the response, b"" if the format has nothing of it.  server: the listener's host and port.
    """

    when: float
    client: str
    method: bytes
    target: bytes
    version: tuple[int, int]
    status: int
    body_bytes: int
    duration_ns: int
    fields: tuple[bytes | None, ...]
    head: bytes
    request_id: str
    scheme: str
    server: tuple[str, int]


Atom = Callable[[Facts], bytes]


class LineFormat(NamedTuple):
    """A format that was read: what it wants to know, and what makes a line of it.

    fields: of the request, in lower case.  wants_head: of the response.
    """

    fields: tuple[bytes, ...]
    wants_head: bool
    line: Callable[[Facts], bytes]


@functools.lru_cache(maxsize=4)
def clf_time(second: int) -> bytes:
    """Return Unix time as the common log format has it, in local time."""
    at = time.localtime(second)
    sign, offset_min = ("-", -at.tm_gmtoff // 60) if at.tm_gmtoff < 0 else ("+", at.tm_gmtoff // 60)
    return (
        f"{at.tm_mday:02d}/{MONTHS[at.tm_mon - 1]}/{at.tm_year}:"
        f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} "
        f"{sign}{offset_min // 60:02d}{offset_min % 60:02d}"
    ).encode()


@functools.lru_cache(maxsize=4)
def _iso_time(second: int) -> tuple[str, str]:
    at = time.localtime(second)
    offset = time.strftime("%z", at)
    return time.strftime("%Y-%m-%dT%H:%M:%S", at), f"{offset[:3]}:{offset[3:]}"


def _path_and_query(target: bytes) -> tuple[bytes, bytes]:
    path, _, query = target.partition(b"?")
    if not path.startswith(b"/") and b"://" in path:
        _, _slash, path = path.partition(b"://")[2].partition(b"/")
        path = b"/" + path
    return path, query


def _text(word: str) -> bytes:
    return word.encode("utf-8", "surrogateescape")


def _user(credentials: bytes | None) -> bytes:
    """Return the user of a Basic Authorization field (RFC 7617), b"" if there is none."""
    kind, _, value = (credentials or b"").partition(b" ")
    if kind.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(value.strip(), validate=True).partition(b":")[0]
    except (binascii.Error, ValueError):
        return b""


def status_line(status: int) -> bytes:
    """Return a status and its standard phrase: ``200 OK``."""
    try:
        return b"%d %b" % (status, http.HTTPStatus(status).phrase.encode())
    except ValueError:
        return b"%d" % status


def _field_of(head: bytes, name: bytes) -> bytes:
    """Return the value of a field in a response's head, repeated ones joined, else b""."""
    found = [
        value.strip()
        for line in head.split(b"\r\n")[1:]
        for key, colon, value in [line.partition(b":")]
        if colon and key.lower() == name
    ]
    return b", ".join(found)


# ---- atoms

ATOMS: dict[str, tuple[str, Atom]] = {
    "h": ("the client's address", lambda f: _text(f.client)),
    "l": ("always -", lambda f: b""),
    "t": ("when, as [25/Nov/2026:12:00:00 +0000]", lambda f: b"[%b]" % clf_time(int(f.when))),
    "r": (
        "the request line",
        lambda f: b"%b %b HTTP/%d.%d" % (f.method, f.target, *f.version),
    ),
    "m": ("method", lambda f: f.method),
    "U": ("path", lambda f: _path_and_query(f.target)[0]),
    "q": ("query", lambda f: _path_and_query(f.target)[1]),
    "H": ("protocol", lambda f: b"HTTP/%d.%d" % f.version),
    "s": ("status", lambda f: b"%d" % f.status),
    "st": ("status with its phrase", lambda f: status_line(f.status)),
    "b": (
        "bytes of the response's body, - for none",
        lambda f: b"%d" % f.body_bytes if f.body_bytes else b"",
    ),
    "B": ("the same, 0 for none", lambda f: b"%d" % f.body_bytes),
    "T": ("whole seconds it took", lambda f: b"%d" % (f.duration_ns // 1_000_000_000)),
    "M": ("milliseconds it took", lambda f: b"%d" % (f.duration_ns // 1_000_000)),
    "D": ("microseconds it took", lambda f: b"%d" % (f.duration_ns // 1000)),
    "L": ("seconds it took, with six decimals", lambda f: b"%.6f" % (f.duration_ns / 1e9)),
    "p": ("the worker's process, as <123>", lambda f: b"<%d>" % os.getpid()),
}
# Those that stand for a field of the request.
FIELD_ATOMS = {"u": b"authorization", "f": b"referer", "a": b"user-agent"}
KNOWN = (
    "h l u t r m U q H s st b B f a T M D L p, and {name}i, {name}o, {name}e for fields of the "
    "request, of the response, and CGI variables"
)

# What CGI and PEP 3333 call what is known here, whatever kind of application it is.
VARIABLES: dict[str, Atom] = {
    "remote_addr": lambda f: _text(f.client),
    "request_method": lambda f: f.method,
    "request_uri": lambda f: f.target,
    "raw_uri": lambda f: f.target,
    "path_info": lambda f: _path_and_query(f.target)[0],
    "query_string": lambda f: _path_and_query(f.target)[1],
    "server_protocol": lambda f: b"HTTP/%d.%d" % f.version,
    "server_name": lambda f: _text(f.server[0]),
    "server_port": lambda f: b"%d" % f.server[1],
    "wsgi.url_scheme": lambda f: _text(f.scheme),
}

_ATOM = re.compile(r"%\((?:\{([^{}]*)\}([ioe])|([^()]*))\)s|%(%?)")


class _Reader:
    """Reads a format, and gathers what it wants to know."""

    def __init__(self) -> None:
        self.fields: list[bytes] = []
        self.wants_head = False

    def field(self, name: bytes) -> Atom:
        if name not in self.fields:
            self.fields.append(name)
        at = self.fields.index(name)
        if name == b"authorization":
            # Passwords do not belong into a log.
            return lambda f: _user(f.fields[at])
        return lambda f: f.fields[at] or b""

    def atom(self, found: re.Match[str]) -> Atom:
        name, kind, plain, percent = found.groups()
        if percent is not None:
            if percent:
                return lambda f: b"%"
            raise ValueError("a % that begins no atom: write %% for a percent sign")
        if kind is None:
            if plain in FIELD_ATOMS:
                return self.field(FIELD_ATOMS[plain])
            if plain in ATOMS:
                return ATOMS[plain][1]
            raise ValueError(f"%({plain})s is no atom: there are {KNOWN}")
        key = name.lower()
        if not key:
            raise ValueError(f"%({{}}{kind})s names nothing")
        if kind == "i":
            return self.field(key.encode())
        if kind == "o":
            self.wants_head = True
            return lambda f: _field_of(f.head, key.encode())
        return self.variable(key)

    def variable(self, key: str) -> Atom:
        if key in VARIABLES:
            return VARIABLES[key]
        if key.startswith("http_") or key in ("content_type", "content_length"):
            return self.field(key.removeprefix("http_").replace("_", "-").encode())
        known = ", ".join(name.upper() if "." not in name else name for name in VARIABLES)
        raise ValueError(
            f"%({{{key}}}e)s is no variable that is known here: there are {known}, CONTENT_TYPE, "
            "CONTENT_LENGTH and HTTP_…"
        )


def read_format(text: str) -> LineFormat:
    """Return what makes lines of a format: a name of NAMED, "json", or text with atoms.

    Raises ValueError, which says what is wrong with it.
    """
    if text == "json":
        return LineFormat(JSON_FIELDS, False, json_line)
    text = NAMED.get(text, text)
    if "%(" not in text:
        raise ValueError("it has no atom: write common, combined, json, or atoms such as %(h)s")
    reader = _Reader()
    literals: list[bytes] = []
    atoms: list[Atom] = []
    at = 0
    for found in _ATOM.finditer(text):
        literals.append(_literal(text[at : found.start()]))
        atoms.append(reader.atom(found))
        at = found.end()
    tail = _literal(text[at:]) + b"\n"

    def line(facts: Facts) -> bytes:
        words = [quotable(atom(facts)) or b"-" for atom in atoms]
        pieces = [piece for pair in zip(literals, words, strict=True) for piece in pair]
        return b"".join(pieces) + tail

    return LineFormat(tuple(reader.fields), reader.wants_head, line)


def _literal(text: str) -> bytes:
    raw = text.replace("\\t", "\t").encode("utf-8", "surrogateescape")
    return re.sub(rb"[^\x09\x20-\x7e]", as_hex, raw)


def complaint(text: str | None) -> str:
    """Return what is wrong with a format, "" if nothing is."""
    try:
        read_format("combined" if text is None else text)
    except ValueError as error:
        return str(error)
    return ""


# ---- JSON

JSON_FIELDS = (b"host", b"referer", b"user-agent", b"traceparent")
_encode = json.JSONEncoder(separators=(",", ":")).encode


def _readable(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("utf-8", "backslashreplace")


def json_line(facts: Facts) -> bytes:
    """Return a JSON object on one line of ASCII; what is not known is left out."""
    date, offset = _iso_time(int(facts.when))
    path, query = _path_and_query(facts.target)
    host, referer, user_agent, traceparent = facts.fields
    trace = re.fullmatch(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-.*", traceparent or b"")
    said: dict[str, object] = {
        "time": f"{date}.{int(facts.when % 1 * 1000):03d}{offset}",
        "client": facts.client or None,
        "method": _readable(facts.method),
        "scheme": facts.scheme,
        "host": _readable(host),
        "path": _readable(path),
        "query": _readable(query) or None,
        "protocol": f"HTTP/{facts.version[0]}.{facts.version[1]}",
        "status": facts.status,
        "bytes": facts.body_bytes,
        "duration_s": round(facts.duration_ns / 1e9, 6),
        "referer": _readable(referer),
        "user_agent": _readable(user_agent),
        "request_id": facts.request_id or None,
        "trace_id": _readable(trace[1]) if trace else None,
        "pid": os.getpid(),
    }
    return (
        _encode({key: value for key, value in said.items() if value is not None}).encode() + b"\n"
    )
