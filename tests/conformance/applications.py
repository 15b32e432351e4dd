"""The applications under test: they say what they saw, or do what they should not.

The native and the WSGI application say the same of the same request, as JSON.
The native one also makes the mistakes that applications make, by path.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastcluster.request import Request


def said(**seen: Any) -> bytes:
    return json.dumps(seen, sort_keys=True).encode()


# ---- the echo


def native(request: Request) -> object:
    """Answer with what was seen; some paths have an answer of their own."""
    special = SPECIAL.get(request.path)
    if special is not None:
        return special(request)
    header: dict[str, str] = dict(request.headers.items())
    header.pop("content-length", None)
    return (
        200,
        {"Content-Type": "application/json"},
        said(
            method=request.method,
            path=request.path,
            query=request.query_string,
            version=request.http_version,
            host=request.host,
            header=header,
            body=request.read().decode("latin-1"),
        ),
    )


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Answer with what was seen."""
    header = {
        name[5:].replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    if "CONTENT_TYPE" in environ:
        header["content-type"] = environ["CONTENT_TYPE"]
    body = said(
        method=environ["REQUEST_METHOD"],
        path=environ["PATH_INFO"].encode("latin-1").decode(),
        query=environ["QUERY_STRING"],
        version=environ["SERVER_PROTOCOL"].removeprefix("HTTP/"),
        host=environ.get("HTTP_HOST", ""),
        header=header,
        body=environ["wsgi.input"].read().decode("latin-1"),
    )
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]


# ---- answers of other kinds, and mistakes


def in_pieces(*pieces: bytes) -> Iterator[bytes]:
    yield from pieces


def broken_after(*pieces: bytes) -> Iterator[bytes]:
    yield from pieces
    raise RuntimeError("broken on purpose")


def boom(request: Request) -> object:
    raise RuntimeError("broken on purpose")


Special = Callable[[Request], object]


def always(*result: Any) -> Special:
    return lambda request: result


def with_fields(fields: Iterable[tuple[Any, Any]]) -> Special:
    return lambda request: (200, list(fields), b"ok")


SPECIAL: dict[str, Special] = {
    "/204": always(204, b""),
    "/204-body": always(204, b"body"),
    "/304-body": always(304, b"body"),
    "/205": always(205, b""),
    "/299": always(299, b"unregistered"),
    "/empty": always(200, b""),
    "/stream": lambda request: (200, in_pieces(b"one", b"", b"twotwotwotwotwotwo")),
    "/stream-counted": lambda request: (200, [("Content-Length", "6")], in_pieces(b"one", b"two")),
    "/stream-nothing": lambda request: (200, in_pieces()),
    "/stream-204": lambda request: (204, in_pieces(b"one")),
    "/large": always(200, b"x" * 200_000),
    "/close": lambda request: (200, [("Connection", "close")], b"bye"),
    "/keep-alive": lambda request: (200, [("Connection", "keep-alive"), ("Keep-Alive", "1")], b"x"),
    "/own-chunked": lambda request: (200, [("Transfer-Encoding", "chunked")], b"whole"),
    "/own-gzip": lambda request: (200, [("Transfer-Encoding", "gzip")], b"whole"),
    "/latin-1": with_fields([("X", "caf\xe9")]),
    "/many": with_fields([("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]),
    "/blanks": with_fields([("X", " \t value \t")]),
    # From here on it is the application that is wrong.
    "/cr": with_fields([("X", "a\rb")]),
    "/lf": with_fields([("X", "a\nSet-Cookie: evil=1")]),
    "/crlf": with_fields([("X", "a\r\n\r\n<html>")]),
    "/nul": with_fields([("X", "a\0b")]),
    "/esc": with_fields([("X", "a\x1bb")]),
    "/name-space": with_fields([("X Y", "a")]),
    "/name-colon": with_fields([("X:Y", "a")]),
    "/name-lf": with_fields([("X\n", "a")]),
    "/name-empty": with_fields([("", "a")]),
    "/length-sign": with_fields([("Content-Length", "+2")]),
    "/length-list": with_fields([("Content-Length", "2, 2")]),
    "/length-two": with_fields([("Content-Length", "2"), ("Content-Length", "3")]),
    "/reason": lambda request: _with_reason("a\r\nX: y"),
    "/status-99": always(99, b"x"),
    "/status-100": always(100, b"x"),
    "/status-1000": always(1000, b"x"),
    "/status-0": always(0, b"x"),
    "/longer": lambda request: (200, [("Content-Length", "3")], b"three and more"),
    "/longer-stream": lambda request: (200, [("Content-Length", "4")], in_pieces(b"abc", b"def")),
    "/shorter": lambda request: (200, [("Content-Length", "10")], b"short"),
    "/shorter-stream": lambda request: (200, [("Content-Length", "10")], in_pieces(b"ab", b"c")),
    "/boom": boom,
    "/boom-first": lambda request: (200, broken_after()),
    "/boom-later": lambda request: (200, broken_after(b"one")),
    "/boom-counted": lambda request: (200, [("Content-Length", "9")], broken_after(b"one")),
}


def _with_reason(reason: str) -> object:
    from fastcluster.response import Response

    return Response(b"x", reason=reason)
