"""wsgi.py: requests with bodies, slow clients, and whole applications.

Every test here runs on the loop's thread and on a pool's.
"""

import gc
import io
import json
import logging
import os
import random
import threading
import weakref
from pathlib import Path
from wsgiref.validate import validator

import pytest
from harness import open_descriptors, wire
from wsgi_parts import CONTINUE, GET, TEXT, Body, answering, echo, errors, get, post

from fastcluster.wsgi import WsgiHandler

CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"

# ---- request bodies


@pytest.mark.parametrize("size", [0, 1, 1000, 70_000, 3_000_000])
def test_echo(serve, size):
    body = os.urandom(size)
    client = serve(echo).connect()
    for _ in range(2):
        assert client.request(post(body)).body == body


@pytest.mark.parametrize("memory", [0, 10, 1000])
def test_echo_from_disk(serve, memory):
    body, most = os.urandom(5000), []

    def app(environ, start_response):
        most.append(open_descriptors())
        return echo(environ, start_response)

    w = serve(app, body_memory_bytes=memory)
    client = w.connect()
    client.request(GET)
    before = open_descriptors()
    for _ in range(5):
        assert client.request(post(body)).body == body
        w.turn_until(lambda: open_descriptors() <= before)
    assert max(most) == before + 1


def test_a_body_byte_by_byte(serve):
    w = serve(echo)
    client = w.connect()
    for byte in post(b"hello") + CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n":
        client.send(bytes([byte]))
        w.turn()
    assert [client.response().body for _ in range(2)] == [b"hello", b"abc"]


def test_an_unread_body_is_not_the_next_request(serve):
    client = serve(answering([b"unread"])).connect()
    for _ in range(3):
        assert client.request(post(b"GET /smuggled HTTP/1.1\r\n\r\n" * 50)).body == b"unread"


BROKEN = {
    "cut off": (post(b"x" * 100)[:-1], None),
    "bad chunk": (CHUNKED + b"zz\r\n", 400),
    "cut chunk": (CHUNKED + b"5\r\nabcde\r\n", None),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_body_that_breaks_never_reaches_the_application(serve, kind):
    calls = []
    data, status = BROKEN[kind]
    w = serve(lambda environ, start_response: calls.append(environ))
    client = w.connect()
    client.send(data)
    w.turn()
    client.shutdown()
    w.turn_until(lambda: client.eof)
    assert calls == []
    assert (client.received == b"") if status is None else b" 400 " in client.received


def test_a_full_disk_is_a_500(serve, monkeypatch, caplog):
    full = Path("/dev/full")
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: full.open("w+b", buffering=0))
    calls = []
    w = serve(lambda environ, start_response: calls.append(environ), body_memory_bytes=10)
    assert w.request(post(b"x" * 10_000)).status == 500
    assert calls == []
    assert "POST /: the request body cannot be stored" in caplog.text


def test_a_call_ends_the_life_of_its_input(serve):
    inputs = []

    def app(environ, start_response):
        inputs.append(environ["wsgi.input"])
        return echo(environ, start_response)

    w = serve(app)
    assert w.request(post(b"x")).body == b"x"
    w.turn_until(lambda: inputs[0].closed)
    with pytest.raises(ValueError, match="closed"):
        inputs[0].read()


# ---- slow clients, and fairness


def test_a_slow_client_stops_its_iterable_and_gets_all_of_it(serve):
    body = Body([b"%07d\n" % i * 10_000 for i in range(60)])
    w = serve(answering(body))
    client = w.connect(receive_buffer=4096)
    client.reading = False
    client.send(GET)
    for _ in range(100):
        w.turn(1)
    # What the kernel's buffers take, and no more than the high-water mark on top.
    assert 1 <= body.made < 58
    assert not body.closed
    client.reading = True
    response = client.response()
    assert response.body == b"".join(b"%07d\n" % i * 10_000 for i in range(60))
    w.turn_until(lambda: body.closed)


def test_a_call_is_over_before_the_next_of_its_connection_begins():
    bodies, started = [], []

    def app(environ, start_response):
        started.append(all(body.closed for body in bodies))
        start_response("200 OK", list(TEXT))
        bodies.append(Body([b"x"] * 20))
        return bodies[-1]

    with wire(WsgiHandler, app) as w:
        client = w.connect()
        client.send(GET * 5)
        assert [client.response().body for _ in range(5)] == [b"x" * 20] * 5
    assert started == [True] * 5


def test_an_endless_body_starves_nobody(serve):
    stop = threading.Event()

    def app(environ, start_response):
        start_response("200 OK", list(TEXT))
        if environ["PATH_INFO"] == "/endless":
            return iter(lambda: b"x" if not stop.is_set() else b"", b"")
        return [b"answered"]

    w = serve(app)
    endless, other = w.connect(), w.connect()
    endless.send(get("/endless"))
    w.turn_until(lambda: endless.received)
    for _ in range(10):
        assert other.request(GET).body == b"answered"
    stop.set()
    assert set(endless.response().body) == {ord("x")}


def test_empty_blocks_starve_nobody_and_the_head_comes_later(serve):
    stop = threading.Event()

    def app(environ, start_response):
        path = environ["PATH_INFO"]
        start_response("200 OK", [("X-Path", path)])
        if path == "/waits":

            def body():
                while not stop.is_set():
                    yield b""
                yield b"at last"

            return body()
        return [b"answered"]

    w = serve(app)
    waits, other = w.connect(), w.connect()
    waits.send(get("/waits"))
    for _ in range(5):
        assert other.request(GET).body == b"answered"
    assert waits.received == b""
    stop.set()
    response = waits.response()
    assert (response.get("X-Path"), response.body) == ("/waits", b"at last")


# ---- the whole


def validated(environ, start_response):
    """Use everything that the validator wraps."""
    source = environ["wsgi.input"]
    lines = [source.readline(), source.readline(3), *source.readlines(2), source.read(4)]
    rest = b"".join(source)
    environ["wsgi.errors"].write("")
    environ["wsgi.errors"].flush()
    kind = environ["QUERY_STRING"]
    write = start_response("200 OK", list(TEXT))
    body = b"".join(lines) + rest
    if kind == "list":
        return [body]
    if kind == "write":
        write(body)
        return []
    if kind == "file":
        return environ["wsgi.file_wrapper"](io.BytesIO(body))
    return iter([body[:3], b"", body[3:]])


@pytest.mark.parametrize("kind", ["list", "write", "iterable", "file"])
def test_the_validator_finds_nothing(serve, kind, caplog, capsys, recwarn):
    app = validator(validated)
    w = serve(app, root_path="/r", body_memory_bytes=60)
    client = w.connect()
    line = f" /r/p?{kind} HTTP/1.1\r\nHost: h\r\n".encode()
    body = b"one\ntwo and\nthree\n\nfour"
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    for data in (body, body * 10):
        assert (
            client.request(b"POST" + line + b"Content-Length: %d\r\n\r\n" % len(data) + data).body
            == data
        )
        assert client.request(b"PUT" + line + chunked % (len(data), data)).body == data
        client.send(
            b"POST" + line + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(data)
        )
        w.turn_until(lambda: client.received == CONTINUE)
        client.received = b""
        assert client.request(data).body == data
    assert client.request(b"GET" + line + b"\r\n").body == b""
    client.request(b"HEAD" + line + b"\r\n", "HEAD")
    client.request(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")
    w.turn_until(lambda: not client.received)
    w.close()
    gc.collect()
    assert errors(caplog) == []
    assert [str(warning.message) for warning in recwarn] == []
    assert "without being closed" not in capsys.readouterr().err


def test_nothing_is_left_of_a_request(serve, monkeypatch):
    # Kept log records have tracebacks, and those have the frames.
    monkeypatch.setattr(logging.getLogger("fastcluster"), "disabled", True)
    references = []

    class Kept:
        pass

    def app(environ, start_response):
        kept = Kept()
        references.append(weakref.ref(kept))
        # Every cycle that an application is likely to make.
        environ["kept"], environ["environ"] = kept, environ.__class__
        kept.start_response, kept.environ = start_response, environ
        environ["wsgi.input"].read()
        start_response("200 OK", list(TEXT))
        kind = environ["PATH_INFO"]
        if kind == "/error":
            raise ValueError
        return [b"x"] if kind == "/list" else iter([b"x" * 200_000] * 3)

    w = serve(app)
    for kind in ("/list", "/iterable", "/error"):
        client = w.connect()
        for body in (b"", b"body"):
            client.request(post(body, kind))
        client.close()
    lost = w.connect(receive_buffer=4096)
    lost.reading = False
    lost.send(get("/iterable"))
    for _ in range(10):
        w.turn(1)
    lost.close(reset=True)
    w.turn_until(lambda: w.server.n_connections == 0)

    def all_gone():
        gc.collect()
        return not any(reference() for reference in references)

    w.turn_until(all_gone)
    assert len(references) == 7


def test_many_requests_leave_no_objects(serve):
    def app(environ, start_response):
        body = environ["wsgi.input"].read()
        start_response("200 OK", list(TEXT))
        return [body] if environ["REQUEST_METHOD"] == "GET" else iter([body, b"x"])

    w = serve(app)
    client = w.connect()

    def some(n):
        for _ in range(n):
            client.request(GET)
            client.request(post(b"hello"))
        gc.collect()
        return len(gc.get_objects())

    some(50)
    before = some(50)
    assert some(200) - before < 50


def test_a_signals_exception_ends_the_turn_and_not_the_manners(caplog):
    body = Body([b"begun", KeyboardInterrupt()])
    with wire(WsgiHandler, answering(body)) as w:
        client = w.connect()
        client.send(GET)
        with pytest.raises(KeyboardInterrupt):
            w.turn_until(lambda: client.eof)
        assert body.closed == 1
        assert errors(caplog) == ["GET /: the application failed"]


class Chaos:
    """An application that does, for each number in the query, one of all it may do."""

    def __init__(self):
        self.bodies = []

    def __call__(self, environ, start_response):
        chance = random.Random(environ["QUERY_STRING"])
        source = environ["wsgi.input"]
        chance.choice([source.read, lambda: source.read(100), lambda: list(source), int])()
        fields = chance.choice([[], [], [("Content-Length", chance.choice(["0", "5", "70000"]))]])
        write = start_response("200 OK", TEXT + fields)
        kind = chance.randrange(8)
        if kind == 0:
            raise ValueError
        if kind == 1:
            raise SystemExit
        if kind == 2:
            write(b"z" * 1000)
        if kind == 3:
            return environ["wsgi.file_wrapper"](Path(__file__).open("rb"))
        if kind > 4:
            return [b"x" * chance.choice([0, 1, 5000, 300_000])]
        blocks = [b"y" * chance.choice([0, 1, 1000, 100_000])] * chance.randrange(20)
        self.bodies.append(Body(blocks + chance.choice([[], [], [ValueError()]])))
        return self.bodies[-1]


def chaotic_request(chance):
    body = bytes(chance.choice([0, 10, 3000, 150_000]))
    fields = chance.choice([b"", b"Expect: 100-continue\r\n"])
    if chance.random() < 0.5:
        fields += b"Transfer-Encoding: chunked\r\n"
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        body = chance.choice([b"", b"", b"", b"zz"]) + body
    else:
        fields += b"Content-Length: %d\r\n" % len(body)
    method = chance.choice([b"GET", b"POST", b"HEAD"])
    line = b"%s /?%d HTTP/1.%d\r\n" % (method, chance.randrange(10**6), chance.random() < 0.8)
    return line + b"Host: h\r\n" + fields + b"\r\n" + chance.choice([body] * 4 + [body[:5]])


@pytest.mark.parametrize("seed", [1, 2])
def test_anything_in_any_order(serve, seed, caplog):
    """Clients that stall, leave and send nonsense: nobody waits, and nothing is left."""
    chance, app = random.Random(seed), Chaos()
    w = serve(app, body_memory_bytes=2000)
    for _ in range(800):
        if len(w.clients) < 20 and chance.random() < 0.5:
            client = w.connect(receive_buffer=chance.choice([None, 4096]))
            client.reading = chance.random() < 0.8
        for client in list(w.clients):
            act = chance.random()
            if act < 0.3:
                client.send(chaotic_request(chance))
            elif act < 0.35 or client.eof:
                client.close(reset=act < 0.32)
            elif act < 0.4:
                client.reading = True
            client.received = b""
        w.turn()
    for client in list(w.clients):
        client.close(reset=True)
    w.turn_until(lambda: w.server.n_connections == 0)
    w.close()
    assert len(app.bodies) > 50
    assert {body.closed for body in app.bodies} == {1}
    assert "internal error" not in caplog.text


# ---- Flask and Django


@pytest.fixture(params=["flask", "django"])
def site(request, serve):
    """A client of each framework's application."""
    if request.param == "flask":
        from apps.flask_app import app
    else:
        from apps.django_app import application as app
    client = serve(app).connect()
    client.name = request.param
    yield client


def form_of(fields, files):
    """multipart/form-data and its boundary's field."""
    parts = [
        b'--boundary-of-parts\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % pair
        for pair in fields.items()
    ]
    parts += [
        b'--boundary-of-parts\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n%s\r\n" % pair
        for pair in files.items()
    ]
    return b"".join(parts) + b"--boundary-of-parts--\r\n"


def test_site_hello(site):
    response = site.request(GET)
    assert (response.status, response.body) == (200, f"Hello from {site.name.title()}".encode())
    assert response.get("Content-Length") == str(len(response.body))


def test_site_is_told_of_the_request(site):
    response = site.request(
        b"GET /args/a%20b%C3%A9?x=1&y=%C3%A9 HTTP/1.1\r\nHost: example.org\r\n"
        b"User-Agent: tests\r\n\r\n"
    )
    told = json.loads(response.body)
    assert told["name"] == "a bé"
    assert told["query"] == {"x": "1", "y": "é"}
    assert told["url"].startswith("http://example.org/args/a")
    assert (told["client"], told["agent"]) == ("127.0.0.1", "tests")


@pytest.mark.parametrize("size", [0, 10, 100_000, 2_000_000])
def test_site_echo(site, size):
    body = os.urandom(size)
    assert site.request(post(body, "/echo")).body == body
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(body[i : i + 7777]), body[i : i + 7777])
        for i in range(0, size, 7777)
    )
    head = CHUNKED.replace(b"POST /", b"POST /echo")
    assert site.request(head + chunks + b"0\r\n\r\n").body == body


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_site_upload(site, size):
    body = form_of({b"a": b"1", b"b": "é".encode()}, {b"f": os.urandom(size)})
    fields = b"Content-Type: multipart/form-data; boundary=boundary-of-parts\r\n\r\n"
    response = site.request(post(body, "/upload").replace(b"\r\n\r\n", b"\r\n" + fields, 1))
    assert json.loads(response.body) == {"form": {"a": "1", "b": "é"}, "sizes": {"f": size}}


def test_site_streams(site):
    response = site.request(get("/stream/50"))
    assert response.get("Transfer-Encoding") == "chunked"
    assert response.body == b"".join(b"/stream/50 %d\n" % i for i in range(50))


@pytest.mark.parametrize("size", [0, 10, 300_000])
def test_site_sends_files(site, size):
    assert site.request(get(f"/file/{size}")).body == b"f" * size
    source = Path(__file__).parent / "apps" / f"{site.name}_app.py"
    assert site.request(get("/source")).body == source.read_bytes()


def test_site_keeps_a_session(site):
    cookie = ""
    for count in range(1, 4):
        response = site.request(
            f"GET /count HTTP/1.1\r\nHost: h\r\nCookie: {cookie}\r\n\r\n".encode()
        )
        cookie = response.get("Set-Cookie").partition(";")[0]
        assert response.body == b"%d" % count


def test_site_errors(site):
    assert site.request(get("/error")).status == 500
    assert site.request(get("/nowhere")).status == 404
    assert site.request(GET).status == 200


def test_site_head(site):
    response = site.request(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", "HEAD")
    assert response.get("Content-Length") == str(len(f"Hello from {site.name}"))
    assert site.request(GET).status == 200
