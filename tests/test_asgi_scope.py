"""asgi_scope.pyx: what an application learns of a request."""

from pathlib import Path
from typing import Any

import pytest
from asgi_parts import Scope, asgi_wire, body, get, start

SPEC_KEYS = {
    "type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string",
    "root_path", "headers", "client", "server", "extensions",
}  # fmt: skip


class Seen:
    """An application that keeps its scopes."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        await send(start())
        await send(body())


def scope_of(request: bytes, **options: Any) -> Scope:
    seen = Seen()
    with asgi_wire(seen, **options) as wire:
        assert wire.request(request).status == 200
    [scope] = seen.scopes
    return scope


def test_every_key() -> None:
    seen = Seen()
    with asgi_wire(seen) as wire:
        client = wire.connect()
        client.request(get("/a/b?c=d", "X-One: 1"))
        here = client.socket.getsockname()
        there = client.socket.getpeername()
    [scope] = seen.scopes
    assert set(scope) == SPEC_KEYS
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/a/b",
        "raw_path": b"/a/b",
        "query_string": b"c=d",
        "root_path": "",
        "headers": [(b"host", b"h"), (b"x-one", b"1")],
        "client": here,
        "server": there,
        "extensions": {
            "http.response.pathsend": {},
            "http.response.zerocopysend": {},
            "http.response.early_hint": {},
            "http.response.trailers": {},
        },
    }
    assert type(scope["client"][1]) is int
    assert type(scope["server"][1]) is int


PATHS = [
    ("/", "/", b"/", b""),
    ("/a%20b", "/a b", b"/a%20b", b""),
    ("/caf%C3%A9", "/café", b"/caf%C3%A9", b""),
    ("/%E2%82%AC?%E2%82%AC", "/€", b"/%E2%82%AC", b"%E2%82%AC"),
    ("/%ff", "/\ufffd", b"/%ff", b""),
    ("/a%2Fb", "/a/b", b"/a%2Fb", b""),
    ("/a%2fb%", "/a/b%", b"/a%2fb%", b""),
    ("/%zz%4", "/%zz%4", b"/%zz%4", b""),
    ("/a+b", "/a+b", b"/a+b", b""),
    ("/a?", "/a", b"/a", b""),
    ("/a?b?c", "/a", b"/a", b"b?c"),
    ("http://other/p?q", "/p", b"/p", b"q"),
    ("http://other", "/", b"/", b""),
    ("/a//b/../c", "/a//b/../c", b"/a//b/../c", b""),
]


@pytest.mark.parametrize(("target", "path", "raw_path", "query"), PATHS)
def test_paths(target: str, path: str, raw_path: bytes, query: bytes) -> None:
    scope = scope_of(get(target))
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query)


def test_an_asterisk() -> None:
    scope = scope_of(get("*", method="OPTIONS"))
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("OPTIONS", "*", b"*")


def test_connect_where_it_is_allowed() -> None:
    request = b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n"
    scope = scope_of(request, allow_connect=True)
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("CONNECT", "h:443", b"h:443")


ROOTS = [
    ("/api", "/x", "/api/x", b"/api/x"),
    ("/api", "/api/x", "/api/x", b"/api/x"),
    ("/api", "/api", "/api", b"/api"),
    ("/api", "/apis", "/api/apis", b"/api/apis"),
    ("/api", "/a%20b", "/api/a b", b"/api/a%20b"),
    ("/é", "/x", "/é/x", "/é/x".encode()),
]


@pytest.mark.parametrize(("root", "target", "path", "raw_path"), ROOTS)
def test_the_path_begins_with_root_path(root: str, target: str, path: str, raw_path: bytes) -> None:
    scope = scope_of(get(target), root_path=root)
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == (root, path, raw_path)


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "PROPFIND"])
def test_methods(method: str) -> None:
    seen = Seen()
    with asgi_wire(seen) as wire:
        wire.request(get(method=method), method)
    assert seen.scopes[0]["method"] == method


def test_http_1_0() -> None:
    assert scope_of(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n")["http_version"] == "1.0"


def test_fields_keep_their_order_and_number() -> None:
    scope = scope_of(get("/", "X-A: 1", "COOKIE: a", "x-a: 2", "Cookie: b", "X_A: \u00e9 "))
    assert scope["headers"] == [
        (b"host", b"h"),
        (b"x-a", b"1"),
        (b"cookie", b"a"),
        (b"x-a", b"2"),
        (b"cookie", b"b"),
        (b"x_a", "\u00e9".encode()),
    ]


def test_many_names_and_long_ones() -> None:
    seen = Seen()
    names = [f"X-{'Abc' * (n % 30)}-{n}" for n in range(90)]
    with asgi_wire(seen) as wire:
        client = wire.connect()
        for _ in range(3):
            client.request(get("/", *(f"{name}: v" for name in names)))
    for scope in seen.scopes:
        assert [name for name, _ in scope["headers"][1:]] == [n.lower().encode() for n in names]


def test_the_targets_authority_is_the_host() -> None:
    scope = scope_of(get("http://other:81/"))
    assert scope["headers"] == [(b"host", b"other:81")]


def test_a_unix_socket(tmp_path: Path) -> None:
    scope = scope_of(get(), unix=str(tmp_path / "s"))
    assert scope["client"] is None
    assert scope["server"] == (str(tmp_path / "s"), None)


def test_scopes_are_the_applications_own() -> None:
    seen = Seen()
    state = {"list": [1]}
    with asgi_wire(seen, state=state) as wire:
        client = wire.connect()
        for number in range(2):
            client.request(get())
            scope = seen.scopes[number]
            assert set(scope) == SPEC_KEYS | {"state"}
            assert scope["state"] == {"list": [1]}
            assert scope["state"]["list"] is state["list"]
            for value in (scope, scope["asgi"], scope["extensions"], scope["state"]):
                value["mine"] = number
            scope["headers"].append((b"mine", b"x"))
            del scope["asgi"]["version"]
    assert state == {"list": [1]}
