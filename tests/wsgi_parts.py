"""What the tests of WSGI share: requests, applications, and iterables that count."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"
EXPECT = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
TEXT = [("Content-Type", "text/plain")]


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


def post(body: bytes, path: str = "/") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Body(Iterator[bytes]):
    """An iterable that counts the blocks it gave and how often it was closed.

    A block that is an exception is raised; fail is what close() raises.
    """

    def __init__(self, blocks: Iterable[Any], fail: Exception | None = None) -> None:
        self.blocks, self.fail = iter(blocks), fail
        self.closed = self.made = 0

    def __next__(self) -> bytes:
        block: Any = next(self.blocks)
        self.made += 1
        if isinstance(block, BaseException):
            raise block
        return block  # type: ignore[no-any-return]

    def close(self) -> None:
        self.closed += 1
        if self.fail is not None:
            raise self.fail


class Sized(Body):
    """A Body that says it has one block."""

    def __len__(self) -> int:
        return 1


def answering(result: Any, status: Any = "200 OK", headers: list[Any] = TEXT) -> Callable[..., Any]:
    """Return an application that answers with result, or with what it returns."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response(status, list(headers))
        return result() if callable(result) else result

    return app


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", list(TEXT))
    return [body]


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages that were logged as errors."""
    records = caplog.records
    return [record.getMessage() for record in records if record.levelno >= logging.ERROR]
