"""What an App's handlers are given: a request with parameters, a response with more verbs.

The law: both lend everything from the server's own Request and Response and only
add to them; a Request may be given attributes by middleware.  It knows neither
routes nor middleware.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from http.cookies import SimpleCookie
from typing import Any
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


class Request:
    """The server's Request, with params, app, base_url, ip, and room for attributes."""

    def __init__(self, app: Any, request: http.Request) -> None:
        self._request = request
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
        known = [
            part.strip() for part in self._request.headers.get("x-forwarded-for", "").split(",")
        ]
        if not trust or not known[0]:
            return self._request.client[0]
        return known[0] if trust is True else known[-min(int(trust), len(known))]


class Response:
    """The server's Response, with Express' verbs."""

    def __init__(self, app: Any, response: http.Response) -> None:
        self._response = response
        self.app = app
        self.touched = False

    def __getattr__(self, name: str) -> Any:
        # Every verb of the server's response sets or sends something.
        self.touched = self.touched or name not in ("headers_sent", "finished")
        return getattr(self._response, name)

    def status(self, code: int) -> Response:
        """Set the status; return the response."""
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

    def send(self, body: Any) -> None:
        """Send what a handler may return: str, bytes, dict or list, None, blocks, (status, body).

        Blocks are written one after the other and hold the worker meanwhile.
        """
        if isinstance(body, tuple) and 2 <= len(body) <= 3 and isinstance(body[0], int):
            for name, value in dict(body[1]).items() if len(body) == 3 else ():
                self.set_header(name, value)
            self.status(body[0])
            body = body[-1]
        elif body is None:
            self.status(204)
        if body is None:
            self.end()
        elif isinstance(body, (dict, list)):
            self.json(body)
        elif isinstance(body, (str, bytes, bytearray, memoryview)):
            self._typed("text/plain; charset=utf-8" if isinstance(body, str) else "")
            self.end(body)
        elif isinstance(body, Iterable) and not isinstance(body, tuple):
            for block in body:
                self.write(block)
            self.end()
        else:
            kind = type(body).__name__
            raise TypeError(f"a handler returned {kind}; see response.send() for what may be sent")

    def json(self, value: Any) -> None:
        """Send a value as JSON; TypeError or ValueError for what JSON has no form for."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self._typed("application/json")
        self.end(text)

    def redirect(self, url: str, status: int = 302) -> None:
        """Send the client elsewhere; characters that a URL cannot hold are percent-encoded."""
        self.status(status).set_header("Location", quote(url, safe="%/:=&?~#+!$,;'@()*[]"))
        self.end()

    def render(self, view: str, data: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Send a view as HTML; UsageError without Jinja2 or without such a view."""
        text = self.app.view(view, {**(data or {}), **more})
        self._typed("text/html; charset=utf-8")
        self.end(text)

    def send_file(self, path: str | os.PathLike[str], root: str | None = None) -> None:
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
        try:
            self._response.send_file(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise HTTPError(404) from None
        self.touched = True

    def _typed(self, kind: str) -> None:
        self.touched = True
        if kind and not self._response.has_header("Content-Type"):
            self._response.set_header("Content-Type", kind)
