"""request.py: what a handler sees of a request, during its exchange and after it."""

import gc
import io
from collections.abc import Callable
from typing import Any

import pytest
from harness import Response, wire

from fastcluster.fields import BadRequest
from fastcluster.native import NativeHandler
from fastcluster.request import Request


def head(target: str = "/", fields: str = "", method: str = "GET", host: str = "h:1") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode("latin-1")


def post(body: bytes, kind: str = "") -> bytes:
    fields = f"Content-Length: {len(body)}\r\n"
    if kind:
        fields += f"Content-Type: {kind}\r\n"
    return head("/", fields, "POST") + body


def look(data: bytes, see: Callable[[Request], Any], **options: Any) -> Any:
    """Return what see() finds in a handler; its exception passes through."""
    seen: list[Any] = []
    errors: list[Exception] = []

    def handler(request: Request) -> None:
        try:
            seen.append(see(request))
        except Exception as error:
            errors.append(error)
        assert len(seen) + len(errors) == 1

    with wire(NativeHandler, handler, **options) as site:
        assert site.request(data).status == 204
    if errors:
        raise errors[0]
    return seen[0]


# ---- the head


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        ("/", ("/", "/", b"/", "", "http://h:1/")),
        ("/a/b?c=d&e", ("/a/b?c=d&e", "/a/b", b"/a/b", "c=d&e", "http://h:1/a/b?c=d&e")),
        ("/a?", ("/a?", "/a", b"/a", "", "http://h:1/a?")),
        ("/a?b?c", ("/a?b?c", "/a", b"/a", "b?c", "http://h:1/a?b?c")),
        ("/%C3%A9%2Fb%", ("/%C3%A9%2Fb%", "/é/b%", b"/%C3%A9%2Fb%", "", "http://h:1/%C3%A9%2Fb%")),
        ("/%ff", ("/%ff", "/\ufffd", b"/%ff", "", "http://h:1/%ff")),
        ("/a%00b", ("/a%00b", "/a\0b", b"/a%00b", "", "http://h:1/a%00b")),
        ("//h/../x", ("//h/../x", "//h/../x", b"//h/../x", "", "http://h:1//h/../x")),
        ("http://h:1", ("http://h:1", "/", b"/", "", "http://h:1")),
        ("http://h:1?x", ("http://h:1?x", "/", b"/", "x", "http://h:1?x")),
        ("http://h:1/a?b", ("http://h:1/a?b", "/a", b"/a", "b", "http://h:1/a?b")),
    ],
)
def test_targets(target: str, seen: tuple[Any, ...]) -> None:
    assert seen == look(
        head(target),
        lambda r: (r.target, r.path, r.raw_path, r.query_string, r.url),
    )


def test_other_forms_of_targets() -> None:
    see = lambda r: (r.method, r.target, r.path, r.raw_path, r.url)  # noqa: E731
    assert look(head("*", method="OPTIONS"), see) == ("OPTIONS", "*", "*", b"*", "http://h:1")
    assert look(head("h:1", method="CONNECT"), see, allow_connect=True) == (
        "CONNECT",
        "h:1",
        "",
        b"",
        "http://h:1",
    )


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_methods(method: str) -> None:
    assert look(head(method=method), lambda r: r.method) == method
    assert look(head(method=method), repr) == f"<Request {method} />"


def test_versions_and_hosts() -> None:
    see = lambda r: (r.http_version, r.host)  # noqa: E731
    assert look(head(host="Example.org"), see) == ("1.1", "Example.org")
    assert look(b"GET / HTTP/1.0\r\n\r\n", see) == ("1.0", "")
    assert look(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n", see) == ("1.0", "h")


def test_a_url_without_a_host_has_the_address() -> None:
    port, url = look(b"GET /a HTTP/1.0\r\n\r\n", lambda r: (r.url.rpartition(":")[2], r.url))
    assert url == f"http://127.0.0.1:{port}"


def test_where_a_request_came_from() -> None:
    seen: list[Any] = []

    def handler(request: Request) -> None:
        seen.append((request.client, request.scheme, request.worker))

    with wire(NativeHandler, handler) as site:
        site.server.worker = 3
        client = site.connect()
        client.request(head())
        assert seen == [(client.socket.getsockname(), "http", 3)]


def test_a_client_on_a_unix_socket_has_no_address(tmp_path: Any) -> None:
    path = str(tmp_path / "socket")
    see = lambda r: (r.client, r.url)  # noqa: E731
    assert look(head("/a"), see, unix=path) == (("", 0), "http://h:1/a")
    assert look(b"GET /a HTTP/1.0\r\n\r\n", see, unix=f"{path}0") == (("", 0), "http://localhost/a")


def test_headers() -> None:
    fields = "X-A: 1\r\nx-a:  2 \t\r\nEmpty:\r\nN: \xe9\r\n"
    headers = look(head(fields=fields), lambda r: r.headers)
    assert headers.multi_items() == [
        ("host", "h:1"),
        ("x-a", "1"),
        ("x-a", "2"),
        ("empty", ""),
        ("n", "\xe9"),
    ]
    assert headers["X-A"] == "1, 2"
    assert headers.get("missing") is None


def test_what_is_parsed_is_parsed_once() -> None:
    assert (
        look(
            head("/%41?a=1", "Cookie: a=b\r\n"),
            lambda r: [
                r.headers is r.headers,
                r.query is r.query,
                r.cookies is r.cookies,
                r.path is r.path,
            ],
        )
        == [True] * 4
    )


def test_queries_and_cookies() -> None:
    data = head("/?a=1&b=%C3%A9&a=2", "Cookie: a=1; b=2\r\nCookie: c=3\r\n")
    query, cookies = look(data, lambda r: (r.query, r.cookies))
    assert query.multi_items() == [("a", "1"), ("b", "é"), ("a", "2")]
    assert cookies == {"a": "1", "b": "2", "c": "3"}
    assert look(head(), lambda r: (len(r.query), r.cookies)) == (0, {})


@pytest.mark.parametrize("name", ["method", "path", "headers", "body", "query"])
def test_a_request_cannot_be_changed(name: str) -> None:
    def change(request: Request) -> None:
        setattr(request, name, None)

    with pytest.raises(AttributeError):
        look(head(), change)
    with pytest.raises(AttributeError):
        look(head(), lambda r: setattr(r, "own", 1))


def test_nobody_else_makes_requests() -> None:
    with pytest.raises(TypeError, match="made by the server"):
        Request()
    for name in ("method", "path", "headers", "url", "http_version"):
        with pytest.raises(RuntimeError, match="not made by the server"):
            getattr(Request.__new__(Request), name)
    assert repr(Request.__new__(Request)) == "<Request>"


# ---- the body


def test_a_body_is_read_like_a_file() -> None:
    see = lambda r: [r.read(2), r.read(0), r.read(100), r.read(), r.read(1)]  # noqa: E731
    assert look(post(b"body"), see) == [b"bo", b"", b"dy", b"", b""]
    assert look(post(b"body"), lambda r: [r.read(None), r.read(-5)]) == [b"body", b""]
    assert look(head(), lambda r: [r.read(), r.read(5), r.body, list(r), r.text()]) == [
        b"",
        b"",
        b"",
        [],
        "",
    ]


@pytest.mark.parametrize("memory", [1 << 20, 1000])
def test_a_body_is_iterated_in_chunks(memory: int) -> None:
    body = bytes(range(256)) * 800
    see = lambda r: (r.read(10), list(r), r.read())  # noqa: E731
    first, chunks, last = look(post(body), see, body_memory_bytes=memory)
    assert first + b"".join(chunks) == body
    assert max(map(len, chunks)) == 65536
    assert last == b""


def test_the_whole_body_is_there_however_much_was_read() -> None:
    assert look(
        post(b'"body"'),
        lambda r: [
            r.read(3),
            r.body,
            r.text(),
            r.json(),
            r.read(),
        ],
    ) == [b'"bo', b'"body"', '"body"', "body", b'dy"']


def test_a_body_on_disk_is_whole_until_it_is_read() -> None:
    body = b'"' + b"x" * 5000 + b'"'
    assert (
        look(post(body), lambda r: [r.body, r.read(), r.text().encode()], body_memory_bytes=1000)
        == [body] * 3
    )
    with pytest.raises(RuntimeError, match="partly read"):
        look(post(body), lambda r: [r.read(1), r.body], body_memory_bytes=1000)


def test_json_and_text() -> None:
    assert look(post(b'{"a": 1}'), lambda r: r.json()) == {"a": 1}
    assert look(post(b"\xe9", "text/plain; charset=latin-1"), lambda r: r.text()) == "é"
    with pytest.raises(BadRequest):
        look(post(b"\xe9", "text/plain"), lambda r: r.text())


URLENCODED = "application/x-www-form-urlencoded; charset=utf-8"


def test_an_urlencoded_form() -> None:
    form, again, files = look(
        post(b"a=1&b=x+y&a=%C3%A9", URLENCODED), lambda r: (r.form(), r.form(), r.files())
    )
    assert form.multi_items() == [("a", "1"), ("b", "x y"), ("a", "é")]
    assert form is again
    assert not files


MULTIPART = "multipart/form-data; boundary=XbX"


def multipart(content: bytes) -> bytes:
    return (
        b'--XbX\r\nContent-Disposition: form-data; name="t"\r\n\r\ntext\r\n'
        b'--XbX\r\nContent-Disposition: form-data; name="f"; filename="a.bin"\r\n\r\n'
        + content
        + b"\r\n--XbX--\r\n"
    )


@pytest.mark.parametrize("memory", [1 << 20, 1000])
def test_a_multipart_form(memory: int) -> None:
    content = bytes(range(256)) * 100
    form, files, upload = look(
        post(multipart(content), MULTIPART),
        lambda r: (dict(r.form()), r.files(), r.files()["f"]),
        body_memory_bytes=memory,
    )
    assert form == {"t": "text"}
    assert list(files) == ["f"]
    assert (upload.filename, upload.size) == ("a.bin", len(content))
    assert upload.read() == content  # after its exchange


def test_the_body_of_a_form_on_disk_belongs_to_its_uploads() -> None:
    data = post(multipart(b"x" * 5000), MULTIPART)
    with pytest.raises(RuntimeError, match="belongs to the form's uploads"):
        look(data, lambda r: (r.form(), r.read()), body_memory_bytes=1000)
    with pytest.raises(RuntimeError, match="belongs to the form's uploads"):
        look(data, lambda r: (r.form(), r.body), body_memory_bytes=1000)
    with pytest.raises(RuntimeError, match="partly read"):
        look(data, lambda r: (r.read(1), r.form()), body_memory_bytes=1000)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (post(b"{}", "application/json"), 415),
        (post(b"x"), 415),
        (post(b"x", "multipart/form-data"), 400),
        (post(b"x", MULTIPART), 400),
        (post(b"&" * 1000, URLENCODED), 413),
    ],
)
def test_forms_that_are_none(data: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        look(data, lambda r: r.form())
    assert caught.value.status == status


def test_a_form_without_a_body_is_empty() -> None:
    assert look(head(), lambda r: (dict(r.form()), dict(r.files()))) == ({}, {})


# ---- after the exchange


def all_of(request: Request) -> list[Any]:
    return [
        request.method,
        request.target,
        request.path,
        request.raw_path,
        request.query_string,
        request.query.multi_items(),
        request.headers.multi_items(),
        request.cookies,
        request.http_version,
        request.host,
        request.url,
        request.scheme,
        request.client,
        request.worker,
        request.body,
        request.read(),
    ]


@pytest.mark.parametrize("memory", [1 << 20, 1000])
@pytest.mark.parametrize("form", [1, 2])
def test_a_request_outlives_its_exchange(memory: int, form: int) -> None:
    kept: list[Request] = []
    during: list[list[Any]] = []
    untouched: list[Request] = []

    def one(request: Request) -> bytes:
        if request.path == "/kept":
            kept.append(request)
        elif request.path == "/untouched":
            untouched.append(request)
        else:
            during.append(all_of(request))
        return b""

    def two(request: Request, response: Any) -> None:
        response.end(one(request))

    fields = "Cookie: a=b\r\nX: " + "y" * 500 + "\r\nContent-Length: 5000\r\n"
    with wire(NativeHandler, one if form == 1 else two, body_memory_bytes=memory) as site:
        site.server.worker = 7
        client = site.connect()
        for path in ("/seen", "/kept", "/untouched"):
            client.request(head(f"{path}?a=%41", fields, "PUT") + b"x" * 5000)
        for _ in range(100):
            client.request(head("/" + "z" * 300, "X: " + "z" * 900 + "\r\n"))
        client.close()
        site.turn_until(lambda: site.server.n_connections == 0)
        del during[1:]
        (expected,) = during
    gc.collect()
    found = all_of(kept[0])
    for i in (1, 2, 3, 10):
        expected[i] = (
            expected[i].replace(b"/seen", b"/kept")
            if isinstance(expected[i], bytes)
            else expected[i].replace("/seen", "/kept")
        )
    assert found == expected
    assert found[12][0] == "127.0.0.1" and found[13] == 7
    assert untouched[0].headers["x"] == "y" * 500


def test_a_request_in_an_exception_stays_valid() -> None:
    kept: list[Request] = []

    class Failure(Exception):
        pass

    def handler(request: Request) -> None:
        kept.append(request)
        raise Failure

    with wire(NativeHandler, handler) as site:
        assert site.request(head("/a")).status == 500
        assert site.request(head("/b")).status == 500
    assert [request.path for request in kept] == ["/a", "/b"]


def test_a_stream_may_look_at_its_request() -> None:
    def handler(request: Request) -> Any:
        for _ in range(20):
            yield request.headers["x"]
        yield request.read()

    def asked(site: Any) -> Response:
        data = head("/", "X: " + "y" * 100 + "\r\nContent-Length: 4\r\n", "POST") + b"body"
        return site.request(data)  # type: ignore[no-any-return]

    with wire(NativeHandler, handler) as site:
        assert asked(site).body == b"y" * 2000 + b"body"


def test_a_request_is_no_file_but_its_uploads_are() -> None:
    upload = look(post(multipart(b"a\nb\n"), MULTIPART), lambda r: r.files()["f"])
    assert list(io.TextIOWrapper(io.BufferedReader(upload))) == ["a\n", "b\n"]
