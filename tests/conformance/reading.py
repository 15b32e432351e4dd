"""Reads responses from the bytes that a client received, and forgives nothing.

http.client would overlook what a proxy might take for the end of a response;
here every byte has to have its place.
"""

import re
from dataclasses import dataclass

STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) ([\x20-\x7e\x80-\xff]*)\r\n")
FIELD = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): "  # a token
    # No blanks around a value.
    rb"([\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?\r\n"
)
CHUNK_SIZE = re.compile(rb"([1-9a-f][0-9a-f]*)\r\n")


class Malformed(AssertionError):
    """No client may ever receive this."""


class Incomplete(Exception):
    """So far it is the beginning of a response; partial is what is there."""

    def __init__(self, partial: "Seen | None" = None) -> None:
        super().__init__()
        self.partial = partial


@dataclass
class Seen:
    """A response that came; rest is what follows it."""

    status: int
    reason: str
    fields: dict[str, str]
    body: bytes
    rest: bytes


def read(data: bytes, *, is_head: bool = False, eof: bool = False) -> Seen:
    """Read one response; Incomplete if it is not all there."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        raise Incomplete
    seen = _read_head(data[: end + 2])
    seen.rest = data[end + 4 :]
    _check_framing_fields(seen)
    if not is_head and seen.status >= 200 and seen.status not in (204, 304):
        _read_body(seen, eof)
    return seen


def _read_head(head: bytes) -> Seen:
    line = STATUS_LINE.match(head)
    if line is None:
        raise Malformed(f"status line: {head!r}")
    at = line.end()
    fields: dict[str, str] = {}
    while at < len(head):
        found = FIELD.match(head, at)
        if found is None:
            raise Malformed(f"field: {head[at:]!r}")
        name, value = found[1].decode().lower(), (found[2] or b"").decode("latin-1")
        if name in ("content-length", "transfer-encoding", "connection", "date") and name in fields:
            raise Malformed(f"{name} twice: {head!r}")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
        at = found.end()
    return Seen(int(line[1]), line[2].decode("latin-1"), fields, b"", b"")


def _check_framing_fields(seen: Seen) -> None:
    counted, coded = seen.fields.get("content-length"), seen.fields.get("transfer-encoding")
    if counted is not None and (coded is not None or not re.fullmatch(r"0|[1-9]\d*", counted)):
        raise Malformed(f"framing: {seen.fields}")
    if coded not in (None, "chunked"):
        raise Malformed(f"framing: {seen.fields}")
    if (seen.status < 200 or seen.status == 204) and (counted or coded):
        raise Malformed(f"{seen.status} with a body: {seen.fields}")


def _read_body(seen: Seen, eof: bool) -> None:
    if "transfer-encoding" in seen.fields:
        _read_chunks(seen)
        return
    if "content-length" in seen.fields:
        length = int(seen.fields["content-length"])
        seen.body, seen.rest = seen.rest[:length], seen.rest[length:]
        if len(seen.body) < length:
            raise Incomplete(seen)
        return
    if seen.fields.get("connection") != "close":
        raise Malformed(f"a body without an end: {seen.fields}")
    seen.body, seen.rest = seen.rest, b""
    if not eof:
        raise Incomplete(seen)


def _read_chunks(seen: Seen) -> None:
    while not seen.rest.startswith(b"0\r\n\r\n"):
        line = CHUNK_SIZE.match(seen.rest)
        if line is None:
            if len(seen.rest) < 18 and re.fullmatch(rb"[0-9a-f]*\r?\n?\r?\n?", seen.rest):
                raise Incomplete(seen)
            raise Malformed(f"chunk: {seen.rest[:60]!r}")
        stop = line.end() + int(line[1], 16)
        if len(seen.rest) < stop + 2:
            seen.body += seen.rest[line.end() : stop]
            raise Incomplete(seen)
        if seen.rest[stop : stop + 2] != b"\r\n":
            raise Malformed(f"end of chunk: {seen.rest[stop : stop + 60]!r}")
        seen.body += seen.rest[line.end() : stop]
        seen.rest = seen.rest[stop + 2 :]
    seen.rest = seen.rest[5:]
