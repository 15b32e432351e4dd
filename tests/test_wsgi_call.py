"""wsgi_call.py: start_response, write, bodies, files and close(), as PEP 3333 has them.

Every test here runs on the loop's thread and on a pool's.
"""

# ruff: noqa: SIM115 (it is the server that closes these files)

import gzip
import io
import os
import select
import socket
import tempfile
import threading

import pytest
from harness import NotWhole, open_descriptors, parse
from wsgi_parts import GET, HEAD, TEXT, Body, Sized, answering, errors, get

OLD = b"GET / HTTP/1.0\r\n\r\n"


# ---- bodies and how they are framed


@pytest.mark.parametrize(
    ("result", "length", "body"),
    [
        ([b"hello"], "5", b"hello"),
        ((b"hello",), "5", b"hello"),
        ([b"he", b"", b"llo"], "5", b"hello"),
        ([], "0", b""),
        ((), "0", b""),
        ([b""], "0", b""),
        (lambda: Sized([b"hello"]), "5", b"hello"),
        (lambda: Sized([b"", b"hello"]), "5", b"hello"),
        (lambda: Body([b"he", b"llo"]), None, b"hello"),
        (lambda: Body([b"", b"he", b"", b"llo", b""]), None, b"hello"),
        (lambda: Body([]), "0", b""),
        (lambda: iter([b"x"] * 100), None, b"x" * 100),
        (lambda: {b"hello": 1}, "5", b"hello"),
        (lambda: [b"x" * 200_000] * 5, "1000000", b"x" * 1_000_000),
        (lambda: iter([b"x" * 200_000] * 5), None, b"x" * 1_000_000),
    ],
)
def test_bodies(serve, result, length, body):
    w = serve(answering(result))
    client = w.connect()
    for _ in range(2):
        response = client.request(GET)
        assert (response.status, response.reason, response.body) == (200, "OK", body)
        assert response.get("Content-Length") == length
        assert (response.get("Transfer-Encoding") == "chunked") == (length is None)
    assert client.received == b""


def test_http_1_0_ends_by_close(serve):
    w = serve(answering(lambda: Body([b"he", b"llo"])))
    client = w.connect()
    assert client.request(OLD).body == b"hello"
    assert client.eof and not client.was_reset


@pytest.mark.parametrize("result", [lambda: [b"hello"], lambda: Body([b"he", b"llo"])])
def test_the_applications_length_wins(serve, result):
    w = serve(answering(result, headers=[*TEXT, ("Content-Length", "5")]))
    response = w.request(GET)
    assert (response.get("Content-Length"), response.body) == ("5", b"hello")
    assert response.get("Transfer-Encoding") is None


def test_fields_arrive_as_given(serve):
    headers = [("X-A", "1"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Latin", "\xe9")]
    response = serve(answering([b""], "299 Made Up", headers)).request(GET)
    assert (response.status, response.reason) == (299, "Made Up")
    assert response.fields[:4] == headers


@pytest.mark.parametrize("status", ["200", "200 ", "404 Not Found", "599 \xe9"])
def test_statuses(serve, status):
    assert serve(answering([b""], status)).request(GET).status == int(status[:3])


@pytest.mark.parametrize("result", [lambda: [b"hello"], lambda: Sized([b"hello"])])
def test_head_has_the_length_and_no_body(serve, result):
    client = serve(answering(result)).connect()
    response = client.request(HEAD, "HEAD")
    assert response.get("Content-Length") == "5"
    assert client.request(GET).body == b"hello"
    assert client.received == b""


def test_head_asks_for_one_block_only(serve):
    bodies = []

    def app(environ, start_response):
        start_response("200 OK", list(TEXT))
        bodies.append(Body(iter(lambda: b"for ever", None)))
        return bodies[-1]

    w = serve(app)
    client = w.connect()
    client.request(HEAD, "HEAD")
    w.turn_until(lambda: bodies[0].closed)
    assert (bodies[0].made, bodies[0].closed) == (1, 1)
    assert client.request(HEAD, "HEAD").status == 200


def test_head_without_blocks_says_no_length(serve):
    assert serve(answering([])).request(HEAD, "HEAD").get("Content-Length") is None


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_statuses_without_body(serve, status):
    client = serve(answering(lambda: Body([b"never sent"]), status, [])).connect()
    assert client.request(GET).body == b""
    client.request(GET)
    assert client.received == b""


def test_pipelined_requests_are_answered_in_order(serve):
    def app(environ, start_response):
        start_response("200 OK", list(TEXT))
        number = int(environ["PATH_INFO"][1:])
        return iter([b"%d" % number]) if number % 3 else [b"%d" % number]

    client = serve(app).connect()
    client.send(b"".join(get(f"/{i}") for i in range(20)))
    assert [client.response().body for _ in range(20)] == [b"%d" % i for i in range(20)]


def test_each_block_is_sent_before_the_next_is_made(serve):
    seen = []

    def app(environ, start_response):
        start_response("200 OK", list(TEXT))

        def body():
            yield b"first"
            # The wire does not turn meanwhile, so the kernel is asked.
            select.select([client.socket], [], [], 10)
            seen.append(client.socket.recv(1000, socket.MSG_PEEK))
            client.reading = True
            yield b"second"

        return body()

    client = serve(app).connect()
    client.reading = False
    assert client.request(GET).body == b"firstsecond"
    assert b"first" in seen[0]
    assert b"second" not in seen[0]


# ---- start_response and write


def test_start_response_is_called_by_the_first_next(serve):
    def app(environ, start_response):
        start_response("201 Created", list(TEXT))
        yield b"made"

    response = serve(app).request(GET)
    assert (response.status, response.body) == (201, b"made")


def test_write(serve):
    def app(environ, start_response):
        write = start_response("200 OK", list(TEXT))
        write(b"a")
        write(b"")
        write(b"b" * 300_000)
        return [b"c", b"d"]

    client = serve(app).connect()
    for _ in range(2):
        assert client.request(GET).body == b"a" + b"b" * 300_000 + b"cd"


def test_write_with_a_length(serve):
    def app(environ, start_response):
        start_response("200 OK", [*TEXT, ("Content-Length", "4")])(b"ab")
        return iter([b"cd"])

    assert serve(app).request(GET).body == b"abcd"


def test_write_blocks_for_a_slow_client(serve):
    progress = []

    def app(environ, start_response):
        write = start_response("200 OK", list(TEXT))
        for _ in range(40):
            write(b"x" * 100_000)
            progress.append(1)
        return []

    w = serve(app)
    client = w.connect(receive_buffer=4096)
    # The loop's thread is blocked in write(), so another one has to read.
    client.reading = False
    client.socket.settimeout(10)
    received = bytearray()

    def receive():
        while b"0\r\n\r\n" not in received[-10:]:
            received.extend(client.socket.recv(65536))

    client.socket.sendall(GET)
    receiver = threading.Thread(target=receive)
    receiver.start()
    w.turn_until(lambda: not receiver.is_alive())
    assert parse(bytes(received)).body == b"x" * 4_000_000
    assert len(progress) == 40


def test_exc_info_replaces_a_head_that_was_not_sent(serve):
    def app(environ, start_response):
        start_response("200 OK", [("X-First", "1")])
        try:
            raise ValueError("late")
        except ValueError as error:
            start_response("500 Oops", list(TEXT), (type(error), error, error.__traceback__))
        return [b"oops"]

    response = serve(app).request(GET)
    assert (response.status, response.reason, response.body) == (500, "Oops", b"oops")
    assert response.get("X-First") is None


def test_exc_info_is_raised_again_once_the_head_is_sent(serve, caplog):
    raised = []

    def app(environ, start_response):
        start_response("200 OK", list(TEXT))(b"sent")
        try:
            raise ValueError("late")
        except ValueError as error:
            info = (type(error), error, error.__traceback__)
        try:
            start_response("500 Oops", list(TEXT), info)
        except ValueError as again:
            raised.append(again)
            raise
        return []

    w = serve(app)
    client = w.connect()
    with pytest.raises(NotWhole):
        client.request(GET)
    assert raised[0].args == ("late",)
    assert client.received.endswith(b"4\r\nsent\r\n")
    assert len(errors(caplog)) == 1


def app_that_starts_twice(environ, start_response):
    start_response("200 OK", list(TEXT))
    start_response("200 OK", list(TEXT))
    return [b"never"]


def app_that_writes_text(environ, start_response):
    start_response("200 OK", list(TEXT))("text")
    return []


@pytest.mark.parametrize(
    ("app", "message"),
    [
        (lambda e, s: [b"never"], "has not called start_response"),
        (lambda e, s: iter([b"never"]), "has not called start_response"),
        (lambda e, s: [], "has not called start_response"),
        (lambda e, s: None, "returned NoneType"),
        (answering("text"), "returned str"),
        (answering(b"bytes"), "returned bytes"),
        (answering(None), "returned NoneType"),
        (answering(7), "'int' object is not iterable"),
        (answering(["text"]), "a block of the body must be bytes, not str"),
        (answering([b"ok", 7]), "a block of the body must be bytes, not int"),
        (answering(lambda: iter(["text"])), "a block of the body must be bytes, not str"),
        (answering([], 200), "the status must be a str"),
        (answering([], b"200 OK"), "the status must be a str"),
        (answering([], "OK"), "three digits"),
        (answering([], "20 OK"), "three digits"),
        (answering([], "2000 OK"), "three digits"),
        (answering([], "100 Continue"), "three digits from 200"),
        (answering([], "200-OK"), "three digits"),
        (answering([], "200 O\r\nX: y"), "status"),
        (answering([], "200 \u20ac"), "latin-1"),
        (lambda e, s: s("200 OK", tuple(TEXT)), "must be a list of tuples, not a tuple"),
        (answering([], headers=[["X-A", "1"]]), "must be a tuple"),
        (answering([], headers=[("X-A",)]), "must be a tuple"),
        (answering([], headers=[("X-A", 1)]), "a header's value must be str, not int"),
        (answering([], headers=[(b"X-A", "1")]), "a header's name must be str, not bytes"),
        (answering([], headers=[("X-A", "\u20ac")]), "latin-1"),
        (answering([], headers=[("X-A", "1\r\nX-B: 2")]), "X-A"),
        (answering([], headers=[("X-A", "1\n2")]), "X-A"),
        (answering([], headers=[("X-A", "1\0")]), "X-A"),
        (answering([], headers=[("X A", "1")]), "X A"),
        (answering([], headers=[("X-A:", "1")]), "X-A:"),
        (answering([], headers=[("", "1")]), "cannot be sent"),
        (answering([], headers=[("Content-Length", "x")]), "Content-Length"),
        (
            answering([], headers=[("Content-Length", "1"), ("Content-Length", "2")]),
            "Content-Length",
        ),
        (app_that_starts_twice, "again without exc_info"),
        (app_that_writes_text, "must be bytes, not str"),
        (answering(lambda: 1 / 0), "ZeroDivisionError"),
        (answering(lambda: Body([ZeroDivisionError()])), "ZeroDivisionError"),
        (answering(lambda: Body([SystemExit(3)])), "SystemExit"),
        (answering(lambda: Body([GeneratorExit()])), "GeneratorExit"),
    ],
)
def test_what_an_application_gets_wrong(serve, caplog, app, message):
    client = serve(app).connect()
    response = client.request(GET)
    assert (response.status, response.body) == (500, b"500 Internal Server Error\n")
    assert errors(caplog) == ["GET /: the application failed"]
    assert message in caplog.text
    assert "Traceback" in caplog.text
    # The connection and the worker go on.
    assert client.request(GET).status == 500


def test_nothing_can_be_said_after_the_end(serve):
    kept = []

    def app(environ, start_response):
        kept.extend([start_response, start_response("200 OK", list(TEXT))])
        return [b"whole"]

    w = serve(app)
    assert w.request(GET).body == b"whole"
    w.handler.close()
    start_response, write = kept
    for late in (
        lambda: write(b"late"),
        lambda: start_response("200 OK", list(TEXT), (ValueError, ValueError(), None)),
    ):
        with pytest.raises((RuntimeError, ValueError)):
            late()


def test_an_error_can_be_made_good(serve):
    def app(environ, start_response):
        try:
            start_response("200 OK", [("X-A", "1\r\n")])
        except ValueError:
            start_response("400 Bad", list(TEXT))
        return [b"better"]

    assert serve(app).request(GET).status == 400


@pytest.mark.parametrize("error", [RuntimeError("x"), SystemExit(1), MemoryError()])
@pytest.mark.parametrize("headers", [TEXT, [("Content-Length", "100")]])
def test_an_error_after_the_head_breaks_the_response_off(serve, caplog, error, headers):
    body = Body([b"begun", error])
    w = serve(answering(body, headers=headers))
    client = w.connect()
    with pytest.raises(NotWhole):
        client.request(GET)
    assert b"begun" in client.received
    assert not client.received.endswith(b"0\r\n\r\n")
    w.turn_until(lambda: body.closed)
    assert body.closed == 1
    assert errors(caplog) == ["GET /: the application failed"]


def test_a_body_longer_than_its_length_is_cut(serve, caplog):
    client = serve(answering([b"hello world"], headers=[("Content-Length", "5")])).connect()
    assert client.request(GET).body == b"hello"
    assert client.request(GET).body == b"hello"
    assert "longer than its Content-Length" in caplog.text


def test_a_body_shorter_than_its_length_closes(serve, caplog):
    client = serve(answering([b"hello"], headers=[("Content-Length", "9")])).connect()
    with pytest.raises(NotWhole):
        client.request(GET)
    assert "short of its Content-Length" in caplog.text


# ---- close()


@pytest.mark.parametrize(
    ("request_bytes", "blocks"),
    [
        (GET, [b"a", b"b"]),
        (GET, []),
        (HEAD, [b"a", b"b"]),
        (GET, [b"a"] * 100),
        (GET, [b"x" * 300_000] * 3),
    ],
)
def test_close_is_called_once(serve, request_bytes, blocks):
    body = Body(blocks)
    w = serve(answering(body))
    w.request(request_bytes, request_bytes[:4].decode().strip())
    w.turn_until(lambda: body.closed)
    assert body.closed == 1


@pytest.mark.parametrize("blocks", [["text"], [b"a", "text"], [ValueError()]])
def test_close_is_called_once_after_an_error(serve, blocks):
    body = Body(blocks)
    w = serve(answering(body))
    client = w.connect()
    client.send(GET)
    w.turn_until(lambda: body.closed)
    assert body.closed == 1


def test_close_is_called_when_start_response_was_not(serve):
    body = Body([b"a"])
    w = serve(lambda environ, start_response: body)
    assert w.request(GET).status == 500
    w.turn_until(lambda: body.closed)
    assert body.closed == 1


def test_an_error_in_close_is_logged_and_costs_nothing(serve, caplog):
    body = Body([b"whole"], fail=RuntimeError("in close"))
    w = serve(answering(body))
    client = w.connect()
    assert client.request(GET).body == b"whole"
    w.turn_until(lambda: errors(caplog))
    assert errors(caplog) == ["GET /: close() of the response failed"]
    assert body.closed == 1


def test_a_generator_is_closed_when_its_client_is_lost(serve):
    ended = []

    def app(environ, start_response):
        start_response("200 OK", list(TEXT))
        try:
            while True:
                yield b"x" * 100_000
        finally:
            ended.append(threading.current_thread().name)

    w = serve(app)
    client = w.connect(receive_buffer=4096)
    client.reading = False
    client.send(GET)
    for _ in range(50):
        w.turn(1)
    assert not ended
    client.close(reset=True)
    w.turn_until(lambda: ended)
    assert ended[0].startswith("fastcluster-wsgi") == bool(w.config.threads)
    w.turn_until(lambda: w.server.n_connections == 0)


# ---- files


def file_app(opened, headers=TEXT, before=None):
    def app(environ, start_response):
        start_response("200 OK", list(headers))
        if environ["REQUEST_METHOD"] == "OPTIONS":
            return []
        file = opened()
        if before is not None:
            before(file)
        return environ["wsgi.file_wrapper"](file, 1000)

    return app


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "big"
    path.write_bytes(os.urandom(1 << 20))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "small"
    path.write_bytes(os.urandom(3000))
    return path


@pytest.fixture(params=["big", "small"])
def path(request):
    return request.getfixturevalue(request.param)


def packed(path):
    packed_path = path.with_suffix(".gz")
    packed_path.write_bytes(gzip.compress(path.read_bytes()))
    return packed_path


def temporary(path):
    file = tempfile.NamedTemporaryFile()
    file.write(path.read_bytes())
    file.seek(0)
    return file


# How a file is opened, and whether its length is known without reading it.
FILES = {
    "buffered": (lambda path: open(path, "rb"), True),
    "random": (lambda path: open(path, "r+b"), True),
    "raw": (lambda path: open(path, "rb", buffering=0), True),
    "temporary": (temporary, True),
    "gzip": (lambda path: gzip.open(packed(path)), False),
    "memory": (lambda path: io.BytesIO(path.read_bytes()), False),
}


@pytest.mark.parametrize("kind", FILES)
def test_file_wrapper(serve, path, kind):
    opened, counted = FILES[kind]
    files = []

    def keep():
        files.append(opened(path))
        return files[-1]

    w = serve(file_app(keep))
    client = w.connect()
    data = path.read_bytes()
    client.request(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")
    before = open_descriptors()
    for _ in range(3):
        response = client.request(GET)
        assert response.body == data
        assert response.get("Content-Length") == (str(len(data)) if counted else None)
    w.turn_until(lambda: all(file.closed for file in files))
    w.turn_until(lambda: open_descriptors() <= before)


def test_file_wrapper_from_the_files_position(serve, path):
    # After a read of three bytes the descriptor is somewhere else than the file.
    w = serve(file_app(lambda: open(path, "rb"), before=lambda file: file.read(3)))
    assert w.request(GET).body == path.read_bytes()[3:]


def test_file_wrapper_at_the_files_end(serve, path):
    w = serve(file_app(lambda: open(path, "rb"), before=lambda file: file.seek(0, 2)))
    assert w.request(GET).body == b""


def test_file_wrapper_with_a_length(serve, path):
    w = serve(file_app(lambda: open(path, "rb"), headers=[("content-length", "100")]))
    client = w.connect()
    for _ in range(2):
        assert client.request(GET).body == path.read_bytes()[:100]


def test_file_wrapper_for_head(serve, path):
    client = serve(file_app(lambda: open(path, "rb"))).connect()
    response = client.request(HEAD, "HEAD")
    assert response.get("Content-Length") == str(path.stat().st_size)
    assert client.request(GET).body == path.read_bytes()


def test_file_wrapper_of_text_is_an_error(serve, small, caplog):
    assert serve(file_app(lambda: open(small, encoding="latin-1"))).request(GET).status == 500
    assert "must be bytes, not str" in caplog.text


def test_file_wrapper_of_a_pipe(serve):
    def opened():
        reading, writing = os.pipe()
        os.write(writing, b"through a pipe")
        os.close(writing)
        return open(reading, "rb")

    assert serve(file_app(opened)).request(GET).body == b"through a pipe"


def test_file_wrapper_inside_of_middleware(serve, big):
    def app(environ, start_response):
        return (block for block in file_app(lambda: open(big, "rb"))(environ, start_response))

    assert serve(app).request(GET).body == big.read_bytes()


def test_file_wrapper_of_a_lost_client(serve, big):
    files = []

    def opened():
        files.append(open(big, "rb"))
        return files[-1]

    w = serve(file_app(opened))
    client = w.connect(receive_buffer=4096)
    before = open_descriptors()
    client.reading = False
    client.send(GET)
    w.turn_until(lambda: files and files[0].closed)
    client.close(reset=True)
    w.turn_until(lambda: w.server.n_connections == 0)
    assert open_descriptors() <= before
