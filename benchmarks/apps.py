"""The applications that every server runs, so that only the servers differ.

Each task (hello, echo, big) is written once for each interface, as plainly as a user would
write it. Nothing here is tuned for a server, and nothing is imported from one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

HELLO = b"hello world\n"
BIG = b"x" * (100 * 1024)

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]


def native_hello(request: Any) -> bytes:
    """Answer with a constant."""
    return HELLO


def native_echo(request: Any) -> bytes:
    """Answer with the body of the request."""
    body: bytes = request.read()
    return body


def native_big(request: Any) -> bytes:
    """Answer with 100 KiB."""
    return BIG


def node_hello(request: Any, response: Any) -> None:
    """Answer with a constant, in Node's manner."""
    response.write_head(200, {"Content-Type": "text/plain", "Content-Length": str(len(HELLO))})
    response.end(HELLO)


def node_echo(request: Any, response: Any) -> None:
    """Answer with the body of the request, in Node's manner."""
    body = request.read()
    response.write_head(
        200, {"Content-Type": "application/octet-stream", "Content-Length": str(len(body))}
    )
    response.end(body)


def node_big(request: Any, response: Any) -> None:
    """Answer with 100 KiB, in Node's manner."""
    response.write_head(200, {"Content-Type": "text/plain", "Content-Length": str(len(BIG))})
    response.end(BIG)


def wsgi_hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with a constant."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(HELLO)))])
    return [HELLO]


def wsgi_echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the body of the request."""
    body: bytes = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response(
        "200 OK",
        [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))],
    )
    return [body]


def wsgi_big(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with 100 KiB."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BIG)))])
    return [BIG]
