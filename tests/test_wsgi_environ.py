"""The environ of PEP 3333: what each request becomes."""

import contextlib
import random
import string
import sys

import pytest
from harness import wire

from fastcluster.wsgi import WsgiHandler

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Seen:
    """An application that keeps the environs it was called with, and the bodies."""

    def __init__(self):
        self.environs = []
        self.bodies = []

    def __call__(self, environ, start_response):
        self.environs.append(environ)
        self.bodies.append(environ["wsgi.input"].read())
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"seen"]

    def __getitem__(self, key):
        return self.environs[-1][key]

    def __contains__(self, key):
        return key in self.environs[-1]


def environ_of(request: bytes, **options):
    seen = Seen()
    with wire(WsgiHandler, seen, **options) as w:
        assert w.request(request).status == 200
        seen.port = str(w.listening.getsockname()[1])
    return seen


def get(target: str, *fields: str, version: str = "1.1") -> bytes:
    lines = [f"GET {target} HTTP/{version}", *fields]
    if not any(field.lower().startswith("host:") for field in fields):
        lines.append("Host: h")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def test_a_plain_request():
    seen = environ_of(get("/a/b?x=1&y=%20", "Host: example.org:80", "Accept: */*"))
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a/b",
        "QUERY_STRING": "x=1&y=%20",
        "RAW_URI": "/a/b?x=1&y=%20",
        "REQUEST_URI": "/a/b?x=1&y=%20",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": seen.port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "example.org:80",
        "HTTP_ACCEPT": "*/*",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input_terminated": True,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    assert {key: seen[key] for key in expected} == expected
    assert seen["REMOTE_PORT"].isdigit()
    assert seen["SERVER_SOFTWARE"].startswith("fastcluster/")
    assert "CONTENT_LENGTH" not in seen
    assert "CONTENT_TYPE" not in seen
    assert type(seen.environs[0]) is dict


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND"]
)
def test_methods(method):
    request = f"{method} / HTTP/1.1\r\nHost: h\r\n\r\n".encode()
    seen = Seen()
    with wire(WsgiHandler, seen) as w:
        w.request(request, method)
    assert seen["REQUEST_METHOD"] == method


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/?", "/", ""),
        ("/?a", "/", "a"),
        ("/a?b?c", "/a", "b?c"),
        ("//a//b", "//a//b", ""),
        ("/a/../b/./c", "/a/../b/./c", ""),
        ("/%41%62", "/Ab", ""),
        ("/%c3%a9", "/\xc3\xa9", ""),
        ("/%C3%A9?%C3", "/\xc3\xa9", "%C3"),
        ("/%ff%00", "/\xff\x00", ""),
        ("/%2F%2f", "///", ""),
        ("/%25%32%35", "/%25", ""),
        ("/100%", "/100%", ""),
        ("/%4", "/%4", ""),
        ("/%4g%g4", "/%4g%g4", ""),
        ("/%%41", "/%A", ""),
        ("/a+b", "/a+b", ""),
        ("/;p=1", "/;p=1", ""),
        ("http://other.example/p%20q?r", "/p q", "r"),
        ("http://other.example", "/", ""),
        ("http://other.example?r", "/", "r"),
        ("http://other.example:81/", "/", ""),
    ],
)
def test_targets(target, path, query):
    seen = environ_of(get(target))
    assert (seen["PATH_INFO"], seen["QUERY_STRING"]) == (path, query)
    assert seen["RAW_URI"] == seen["REQUEST_URI"] == target


def test_the_asterisk_is_no_path():
    seen = environ_of(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (seen["PATH_INFO"], seen["RAW_URI"]) == ("", "*")


def test_the_targets_host_overrules_the_field():
    seen = environ_of(get("http://real.example:81/p", "Host: other.example"))
    assert seen["HTTP_HOST"] == "real.example:81"


def test_http_1_0_without_host():
    seen = environ_of(b"GET /x HTTP/1.0\r\n\r\n")
    assert seen["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert "HTTP_HOST" not in seen
    assert seen["SERVER_NAME"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("root", "target", "script", "path"),
    [
        ("/api", "/api/x", "/api", "/x"),
        ("/api", "/api", "/api", ""),
        ("/api", "/api?x", "/api", ""),
        ("/api", "/api/", "/api", "/"),
        ("/api", "/apix", "/api", "/apix"),
        ("/api", "/x", "/api", "/x"),
        ("/api", "/%61pi/x", "/api", "/x"),
        ("/a/b", "/a/b/c", "/a/b", "/c"),
        ("/é", "/%C3%A9/x", "/\xc3\xa9", "/x"),
        ("", "/x", "", "/x"),
    ],
)
def test_root_path(root, target, script, path):
    seen = environ_of(get(target), root_path=root)
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == (script, path)


@pytest.mark.parametrize(
    ("fields", "key", "value"),
    [
        (["X-A: 1"], "HTTP_X_A", "1"),
        (["x-a: 1", "X-A: 2", "X-a: 3"], "HTTP_X_A", "1,2,3"),
        (["X-A: 1", "X-A: 1"], "HTTP_X_A", "1,1"),
        (["X-A:", "X-A:"], "HTTP_X_A", ","),
        (["Cookie: a=1", "Cookie: b=2"], "HTTP_COOKIE", "a=1; b=2"),
        (["X-Latin: \xe9\xff"], "HTTP_X_LATIN", "\xe9\xff"),
        (["X-Blank:  \t a b \t "], "HTTP_X_BLANK", "a b"),
        (["Content-Type: text/a"], "CONTENT_TYPE", "text/a"),
        (["Content-Length: 0"], "CONTENT_LENGTH", "0"),
        (["X." + "a" * 80 + ": 1", "X." + "a" * 80 + ": 2"], "HTTP_X." + "A" * 80, "1,2"),
        (["!#$%&'*+.^`|~: 1"], "HTTP_!#$%&'*+.^`|~", "1"),
        (["X-Forwarded-For: 1.2.3.4"], "HTTP_X_FORWARDED_FOR", "1.2.3.4"),
    ],
)
def test_fields(fields, key, value):
    seen = environ_of(get("/", *fields))
    assert seen[key] == value
    assert "HTTP_CONTENT_TYPE" not in seen
    assert "HTTP_CONTENT_LENGTH" not in seen


@pytest.mark.parametrize(
    "field", ["X_A: 1", "X-B_C: 1", "Content_Length: 5", "Proxy: p", "PROXY: p", "Host_: h"]
)
def test_fields_that_could_pass_for_others_are_dropped(field):
    known = set(environ_of(GET).environs[0])
    assert set(environ_of(get("/", field)).environs[0]) == known


def test_fields_with_underscores_on_request():
    seen = environ_of(
        get("/", "X_A: 1", "Content_Length: 5", "Transfer_Encoding: x", "Proxy: p", "PRO_XY: y"),
        underscore_fields=True,
    )
    assert seen["HTTP_X_A"] == "1"
    assert seen["HTTP_PRO_XY"] == "y"
    for key in ("HTTP_CONTENT_LENGTH", "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_PROXY"):
        assert key not in seen


def test_an_environ_is_the_applications_own():
    seen = Seen()
    with wire(WsgiHandler, seen) as w:
        client = w.connect()
        client.request(get("/a?b", "X-A: 1"))
        first = dict(seen.environs[0])
        seen.environs[0].clear()
        client.request(get("/a?b", "X-A: 1"))
    assert seen.environs[1] == first | {"wsgi.input": first["wsgi.input"]}


def test_the_input_of_a_request_without_body_survives_being_closed():
    seen = Seen()
    with wire(WsgiHandler, seen) as w:
        w.request(GET)
        seen["wsgi.input"].close()
        assert w.request(GET).body == b"seen"
    assert seen.bodies == [b"", b""]


def test_any_names_in_any_order():
    """Names push each other out of the table of names; nothing may get mixed up by it."""
    chance = random.Random(7)
    letters = string.ascii_letters + string.digits + "-"
    pool = ["X" + "".join(chance.choices(letters, k=chance.randint(1, 45))) for _ in range(400)]
    seen = Seen()
    with wire(WsgiHandler, seen) as w:
        client = w.connect()
        for _ in range(60):
            names = chance.choices(pool, k=20)
            client.request(get("/", *(f"{name}: {i}" for i, name in enumerate(names))))
            expected = {}
            for i, name in enumerate(names):
                expected.setdefault("HTTP_" + name.upper().replace("-", "_"), []).append(str(i))
            ours = {
                key: value for key, value in seen.environs[-1].items() if key.startswith("HTTP_X")
            }
            assert ours == {key: ",".join(values) for key, values in expected.items()}


def test_known_keys_are_the_interned_ones():
    seen = environ_of(get("/", "user-agent: u", "ACCEPT: a"))
    keys = {key: key for key in seen.environs[0]}
    for name in ("HTTP_HOST", "HTTP_USER_AGENT", "HTTP_ACCEPT", "PATH_INFO"):
        assert keys[name] is sys.intern(name)


@pytest.mark.parametrize("threads", [0, 4])
def test_a_chunked_body_is_told_as_a_counted_one(threads):
    request = (
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n"
    )
    seen = environ_of(request, threads=threads)
    assert seen.bodies == [b"abcde"]
    assert seen["CONTENT_LENGTH"] == "5"
    assert "HTTP_TRANSFER_ENCODING" not in seen
    assert "HTTP_TRAILER" not in seen


@pytest.mark.parametrize(
    ("options", "multithread", "multiprocess"),
    [
        ({"threads": 0}, False, True),
        ({"threads": 1}, False, True),
        ({"threads": 2}, True, True),
        ({"workers": 1}, False, False),
        ({"workers": 2}, False, True),
    ],
)
def test_what_is_said_of_threads_and_processes(options, multithread, multiprocess):
    seen = environ_of(GET, **options)
    assert seen["wsgi.multithread"] is multithread
    assert seen["wsgi.multiprocess"] is multiprocess


@pytest.mark.parametrize(
    ("host", "name", "port"),
    [
        ("example.org:81", "example.org", "81"),
        ("example.org", "example.org", "80"),
        ("[::1]:82", "[::1]", "82"),
        ("[::1]", "[::1]", "80"),
        (None, "localhost", "80"),
    ],
)
def test_a_unix_socket_is_called_what_the_client_calls_it(tmp_path, host, name, port):
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n" if host else "GET / HTTP/1.0\r\n\r\n"
    seen = environ_of(request.encode(), unix=str(tmp_path / "s"))
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == (name, port)
    assert seen["REMOTE_ADDR"] == ""
    assert "REMOTE_PORT" not in seen


def test_an_ipv6_address_is_bracketed():
    try:
        seen = environ_of(GET, host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    assert (seen["SERVER_NAME"], seen["REMOTE_ADDR"]) == ("[::1]", "::1")


def test_errors_go_to_stderr_as_it_is_now(capsys):
    with contextlib.redirect_stderr(None):
        seen = environ_of(GET)
        seen["wsgi.errors"].write("to nobody")
        seen["wsgi.errors"].flush()
    seen["wsgi.errors"].write("a line\n")
    seen["wsgi.errors"].writelines(["b\n", "c\n"])
    seen["wsgi.errors"].flush()
    assert capsys.readouterr().err == "a line\nb\nc\n"
