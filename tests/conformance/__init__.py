"""The conformance table: what a client sends, and what it has to receive.

Every row of the table is a Case: exact bytes in, the answers that come out, and
what has become of the connection then.  The rows stand by subject in the
modules of this package; tests/test_conformance.py plays each of them whole,
byte by byte and split at every position.  The table does not know how it is
played, nor which door of the parser is open: the answers are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# What has become of the connection after the last answer.
OPEN = "open"  # another request on it is answered
WAITS = "waits"  # the server waits for the rest of a request
CLOSED = "closed"  # the server has sent its last byte, in good order
RESET = "reset"  # the server broke it off, so that a cut body is noticed

REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


@dataclass(frozen=True)
class Answer:
    """One response as the client has to see it; what is None is not looked at."""

    status: int
    echo: dict[str, Any] | None = None  # what the application saw, see applications.py
    body: bytes | None = None
    fields: dict[str, str | None] = field(default_factory=dict)  # None: must not be there
    is_head: bool = False  # it answers a HEAD request
    is_cut: bool = False  # the connection ends before the body does


@dataclass(frozen=True)
class Case:
    """A row of the table.

    rfc: number and section of the RFC that says so, or the rule of ours.  logged:
    lines in the error log.  half_closes: the client shuts its side when all is
    sent.  options: of the server.
    """

    name: str
    rfc: str
    sent: bytes
    answers: tuple[Answer, ...]
    then: str
    logged: int
    half_closes: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    echoes: bool = True  # only the echoing application answers, so WSGI's will do, too


def ok(status: int = 200, **seen: Any) -> Answer:
    """Say what the echoing application has to have seen: a part of its JSON.

    In header None stands for a field that is not there, a tuple for repeated ones.
    """
    return Answer(status, echo=seen)


def ok_head(**fields: str | None) -> Answer:
    """Say that a HEAD request is answered with that head and no body."""
    return Answer(200, body=b"", is_head=True, fields=_dashed(fields))


def answer(status: int, body: bytes, **fields: str | None) -> Answer:
    """Say exactly what comes; underscores in a field's name stand for dashes."""
    return Answer(status, body=body, fields=_dashed(fields))


def cut(status: int, body: bytes, **fields: str | None) -> Answer:
    """Say that a body of which so much has come is broken off."""
    return Answer(status, body=body, fields=_dashed(fields), is_cut=True)


def refused(status: int) -> Answer:
    """Say that the server itself refuses the request, and how that looks."""
    return Answer(
        status,
        body=f"{status} {REASONS[status]}\n".encode(),
        fields={"connection": "close", "content-type": "text/plain"},
    )


def failed() -> Answer:
    """Say that the application failed before its head was sent."""
    return Answer(500, body=b"500 Internal Server Error\n", fields={"content-type": "text/plain"})


CONTINUE = Answer(100, body=b"")


def _dashed(fields: dict[str, str | None]) -> dict[str, str | None]:
    return {name.replace("_", "-"): value for name, value in fields.items()}


def case(
    name: str,
    rfc: str,
    sent: bytes,
    *answers: Answer,
    then: str | None = None,
    logged: int | None = None,
    half_closes: bool = False,
    **options: Any,
) -> Case:
    """Make a row; the state and the log's lines follow from the answers if not given."""
    last = answers[-1] if answers else None
    is_refusal = last is not None and last.fields.get("connection") == "close"
    if then is None:
        then = CLOSED if is_refusal or half_closes else OPEN
    if logged is None:
        logged = sum(
            entry.status >= 400 and entry.fields.get("connection") == "close" for entry in answers
        )
    return Case(
        name=name,
        rfc=rfc,
        sent=sent,
        answers=answers,
        then=then,
        logged=logged,
        half_closes=half_closes,
        options=tuple(sorted(options.items())),
        # WSGI's application is told of a body when it reads it, or when it is all there.
        echoes=CONTINUE not in answers,
    )


def native_only(cases: Sequence[Case]) -> list[Case]:
    """Mark rows that ask the native application for more than an echo."""
    return [Case(**{**vars(row), "echoes": False}) for row in cases]


def table() -> list[Case]:
    """Return all rows."""
    from conformance import (
        chunks,
        expectations,
        fields,
        framing,
        hosts,
        limits,
        mistakes,
        persistence,
        request_lines,
        responses,
        targets,
    )

    modules = (
        request_lines,
        targets,
        hosts,
        fields,
        framing,
        chunks,
        expectations,
        persistence,
        responses,
        limits,
        mistakes,
    )
    return [row for module in modules for row in module.CASES]
