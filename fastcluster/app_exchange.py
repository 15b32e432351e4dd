"""What an App's handlers are given: a request with parameters, a response with more verbs.

The law: both lend everything from the server's own Request and Response and only
add to them; a Request may be given attributes by middleware.  In an App with async
handlers async and sync functions have views of their own on one exchange, which
share all attributes.  It knows neither routes nor middleware.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import AsyncIterable, Generator, Iterable, Iterator, Mapping
from http import HTTPStatus
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastcluster import http


class HTTPError(Exception):
    """A status to answer with: raise it in a handler, or take it in an error handler.

    message: the body, by default the status' phrase.  headers: further fields.
    """

    def __init__(
        self, status: int, message: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        known = {entry.value: entry.phrase for entry in HTTPStatus}
        super().__init__(message or known.get(status, f"Status {status}"))
        self.status = status
        self.headers = dict(headers or {})

    def answer(self, response: Response) -> None:
        """Answer with the status, the fields and the message as text."""
        for name, value in self.headers.items():
            response.set_header(name, value)
        response.status(self.status).set_header("Content-Type", "text/plain; charset=utf-8")
        response.end(f"{self}\n")


# What may be looked at in a response without having changed it.
READING = frozenset(
    ("headers_sent", "finished", "status_code", "status_message", "get_header", "has_header")
)


class Request:
    """The server's Request, with params, app, base_url, ip, and room for attributes."""

    if TYPE_CHECKING:
        # Middleware may give it any attribute, as far as a checker of types is concerned.
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __init__(self, app: Any, request: http.Request) -> None:
        self._request: Any = request  # an AsyncRequest in an App with async handlers
        self.app = app
        self.params: dict[str, Any] = {}
        self.path = request.path
        self.base_url = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    def __iter__(self) -> Any:
        return iter(self._request)

    @property
    def ip(self) -> str:
        """The client's address; as proxies say it if "trust proxy" is set.

        True trusts every proxy and takes the first address of
        X-Forwarded-For, a number n the n-th from its end.  Trust only what
        cannot be reached past the proxy: clients may send the field, too.
        """
        trust = self.app.setting("trust proxy")
        said: str = self._request.headers.get("x-forwarded-for", "")
        known = [part.strip() for part in said.split(",")]
        peer: str = self._request.client[0]
        if not trust or not known[0]:
            return peer
        return known[0] if trust is True else known[-min(int(trust), len(known))]


class Response:
    """The server's Response, with Express' verbs."""

    def __init__(self, app: Any, response: http.Response) -> None:
        self._response: Any = response  # likewise
        self.app = app
        self.touched = False
        # What the server sends when all handlers have returned: then it has its own
        # way to stream, which holds up nobody else.
        self.returned: http.Response | None = None

    def __getattr__(self, name: str) -> Any:
        if name not in READING:
            # Every other verb of the server's response sets or sends something.
            self.touched = True
            self._check_open(name)
        elif self.returned is not None and name in ("headers_sent", "finished"):
            return True
        return getattr(self._response, name)

    def _check_open(self, doing: str) -> None:
        if self.returned is not None:
            raise RuntimeError(f"{doing}: the response has ended")

    def status(self, code: int) -> Response:
        """Set the status; return the response."""
        self._check_open("status")
        self.touched = True
        self._response.status_code = code
        return self

    def cookie(
        self,
        name: str,
        value: str,
        *,
        max_age_s: int | None = None,
        path: str = "/",
        domain: str | None = None,
        secure: bool = False,
        http_only: bool = False,
        same_site: str | None = None,
    ) -> Response:
        """Add a Set-Cookie field (RFC 6265); ValueError for what cannot stand in one."""
        jar: SimpleCookie = SimpleCookie()
        try:
            jar[name] = value
        except Exception as error:
            raise ValueError(f"{name!r} is no name for a cookie") from error
        more = {"max-age": max_age_s, "domain": domain, "samesite": same_site, "path": path}
        for key, item in more.items():
            if item is not None:
                # A semicolon would begin an attribute that nobody asked for.
                if ";" in str(item):
                    raise ValueError(f"a cookie's {key} holds no ';': {item!r}")
                jar[name][key] = item
        jar[name]["secure"], jar[name]["httponly"] = secure, http_only
        self.append_header("Set-Cookie", jar[name].OutputString())
        return self

    def clear_cookie(self, name: str, path: str = "/", domain: str | None = None) -> Response:
        """Have the client forget a cookie."""
        return self.cookie(name, "", max_age_s=0, path=path, domain=domain)

    def send(self, body: Any) -> Any:
        """Send what a handler may return; it ends the response.

        body: str, bytes, dict or list, None, an iterator of blocks, (status, body),
        (status, headers, body), or an http.Response, whose fields win over those set
        here.  An iterator's first block is taken at once, and the others when the
        client takes them, after the handler has returned.
        """
        self._check_open("send")
        self.touched = True
        if isinstance(body, http.Response):
            return self._leave(body)
        if isinstance(body, tuple) and 2 <= len(body) <= 3 and isinstance(body[0], int):
            for name, value in dict(body[1]).items() if len(body) == 3 else ():
                self.set_header(name, value)
            self.status(body[0])
            body = body[-1]
        elif body is None:
            self.status(204)
        if body is None:
            return self.end()
        if isinstance(body, (dict, list)):
            return self.json(body)
        if isinstance(body, (str, bytes, bytearray, memoryview)):
            self._typed("text/plain; charset=utf-8" if isinstance(body, str) else "")
            return self.end(body)
        status, reason = self._response.status_code, self._response.status_message
        return self._leave(http.Response(self._blocks(body), status, reason=reason))

    def _leave(self, value: http.Response) -> None:
        """Leave it to the server to send this once the handlers have returned."""
        if self._response.headers_sent:
            raise RuntimeError("send: the head was written already")
        self.returned = value

    def _blocks(self, body: Any) -> Iterable[Any]:
        if isinstance(body, Iterable) and not isinstance(body, tuple):
            return _Blocks(body)
        kind = type(body).__name__
        if isinstance(body, AsyncIterable):
            raise TypeError("an asynchronous iterator needs an async handler: write async def")
        raise TypeError(f"a handler returned {kind}; see response.send() for what may be sent")

    def take(self, result: Any, gives_response: bool) -> None:
        """Send what a route returned; one that was given the response need return nothing."""
        is_value = isinstance(result, http.Response) and result is not self._response
        if is_value or not gives_response:
            self.send(result)

    def end(self, chunk: bytes | str | bytearray | memoryview = b"") -> Any:
        """Send the last piece of the body and end the response; see http.Response.end()."""
        if self.returned is not None and not chunk:
            return None
        self._check_open("end")
        self.touched = True
        return self._response.end(chunk)

    def json(self, value: Any) -> Any:
        """Send a value as JSON; TypeError or ValueError for what JSON has no form for."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self._typed("application/json")
        return self.end(text)

    def redirect(self, url: str, status: int = 302) -> Any:
        """Send the client elsewhere; characters that a URL cannot hold are percent-encoded."""
        self.status(status).set_header("Location", quote(url, safe="%/:=&?~#+!$,;'@()*[]"))
        return self.end()

    def render(self, view: str, data: Mapping[str, Any] | None = None, **more: Any) -> Any:
        """Send a view as HTML; UsageError without Jinja2 or without such a view."""
        text = self.app.view(view, {**(data or {}), **more})
        self._typed("text/html; charset=utf-8")
        return self.end(text)

    def send_file(self, path: str | os.PathLike[str], root: str | None = None) -> Any:
        """Send a file; HTTPError 404 if there is none.

        root: a folder that path is below of, whatever path says: with a path
        that a client chose, always give it.
        """
        if root is not None:
            if "\0" in os.fspath(path):
                raise HTTPError(404)
            base = os.path.realpath(root)
            path = os.path.realpath(os.path.join(base, os.fspath(path).lstrip("/")))
            if os.path.commonpath((base, path)) != base:
                raise HTTPError(404)
        self._check_open("send_file")
        try:
            sent = self._response.send_file(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise HTTPError(404) from None
        self.touched = True
        return sent

    def _typed(self, kind: str) -> None:
        self._check_open("send")
        self.touched = True
        if kind and not self._response.has_header("Content-Type"):
            self._response.set_header("Content-Type", kind)


class _Blocks:
    """The blocks of an iterator, the first of them taken already.

    So a generator that fails before its first block fails in the handler's place,
    where error handlers hear of it.  close() closes the iterator.
    """

    def __init__(self, source: Iterable[Any]) -> None:
        self._source = source
        blocks = iter(source)
        first = list(itertools.islice(blocks, 1))
        self._blocks = itertools.chain(first, blocks)

    def __iter__(self) -> Iterator[Any]:
        return self._blocks

    def close(self) -> None:
        """Have the iterator clean up."""
        close = getattr(self._source, "close", None)
        if close is not None:
            close()


# ---- in an App with async handlers


class AsyncRequestView(Request):
    """What async handlers are given: read(), json() and the others are awaited."""

    def __aiter__(self) -> Any:
        return self._request.__aiter__()


class SyncRequestView(Request):
    """What sync handlers are given beside async ones: the whole body, as everywhere else."""

    @classmethod
    def of(cls, request: AsyncRequestView) -> SyncRequestView:
        """Return a view that shares its attributes with another; the body is here."""
        view = cls.__new__(cls)
        view.__dict__ = request.__dict__
        return view

    def __getattr__(self, name: str) -> Any:
        if name in ("read", "text", "json", "form", "files"):
            return functools.partial(getattr(http.Request, name), self._request)
        return super().__getattr__(name)

    @property
    def body(self) -> bytes:
        """The whole body."""
        whole: bytes = http.Request.body.__get__(self._request)
        return whole

    def __iter__(self) -> Any:
        return http.Request.__iter__(self._request)


class _Sent:
    """What is sent, or will be, without a wait."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


class AsyncResponseView(Response):
    """What async handlers are given: whatever sends may be awaited."""

    def send(self, body: Any) -> Any:
        """Send what a handler may return, as Response.send(), or an asynchronous iterator."""
        return super().send(body) or _Sent()

    def end(self, chunk: bytes | str | bytearray | memoryview = b"") -> Any:
        """Send the last piece of the body and end the response; may be awaited."""
        return super().end(chunk) or _Sent()

    def _blocks(self, body: Any) -> Any:
        return body if isinstance(body, AsyncIterable) else super()._blocks(body)


class SyncResponseView(Response):
    """What sync handlers are given beside async ones: write() waits, and says if it is full."""

    @classmethod
    def of(cls, response: AsyncResponseView) -> SyncResponseView:
        """Return a view that shares its attributes with another."""
        view = cls.__new__(cls)
        view.__dict__ = response.__dict__
        return view

    def write(self, chunk: bytes | str | bytearray | memoryview) -> bool:
        """Send a piece of the body; see http.Response.write()."""
        self._check_open("write")
        self.touched = True
        self._response.write(chunk)
        # With nothing to add it only looks how much waits, and waits itself above its limit.
        return http.Response.write(self._response, b"")
