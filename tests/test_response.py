"""response.py: Node's methods in Python's spelling, and what they refuse."""

import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Response as Seen
from harness import open_descriptors, parse, wire

from fastcluster.native import NativeHandler
from fastcluster.request import Request
from fastcluster.response import Response

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def ask(do: Callable[[Response], object], data: bytes = GET, **options: Any) -> Seen:
    """Return the answer that do() makes; its exceptions pass through."""
    errors: list[Exception] = []

    def handler(request: Request, response: Response) -> None:
        try:
            do(response)
        except Exception as error:
            errors.append(error)
            raise

    with wire(NativeHandler, handler, **options) as site:
        client = site.connect()
        client.send(data)
        answer = client.response(data.split()[0].decode())
    if errors:
        raise errors[0]
    return answer


def sent_fields(answer: Seen) -> list[tuple[str, str]]:
    servers = ("date", "server", "connection", "content-length", "transfer-encoding")
    return [(name, value) for name, value in answer.fields if name.lower() not in servers]


# ---- heads


def test_write_head_and_end() -> None:
    answer = ask(lambda r: r.write_head(201, {"X-A": "1"}, "Made").end("gr\u00fc\u00df"))
    assert (answer.status, answer.reason, answer.body) == (201, "Made", "grüß".encode())
    assert answer.get("content-length") == "6"
    assert sent_fields(answer) == [("X-A", "1")]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (None, []),
        ({}, []),
        ({"A": "1", "B": 2, "C": b"3"}, [("A", "1"), ("B", "2"), ("C", "3")]),
        ([("A", "1"), (b"A", "2")], [("A", "1"), ("A", "2")]),
        ((("A", "1"),), [("A", "1")]),
        ({"A": ["1", "2"]}, [("A", "1"), ("A", "2")]),
        ({"A": ("1", 2)}, [("A", "1"), ("A", "2")]),
        ({"A": []}, []),
        ({"A": "\xe9"}, [("A", "\xe9")]),
    ],
)
def test_forms_of_headers(headers: Any, expected: list[tuple[str, str]]) -> None:
    assert sent_fields(ask(lambda r: r.write_head(200, headers).end())) == expected


def test_fields_are_set_one_by_one() -> None:
    def do(r: Response) -> None:
        assert r.get_header("x-a") is None
        assert r.set_header("X-A", "1").set_header("X-B", 2) is r
        r.set_header("x-a", "3")
        assert (r.get_header("X-A"), r.get_header("x-b")) == ("3", 2)
        assert r.has_header("X-B") and not r.has_header("X-C")
        r.remove_header("x-b")
        r.remove_header("never")
        assert not r.has_header("X-B")
        r.append_header("Set-Cookie", "a=1").append_header("set-cookie", "b=2")
        r.append_header("set-cookie", ["c=3", "d=4"])
        assert r.get_header("Set-Cookie") == ["a=1", "b=2", "c=3", "d=4"]
        r.set_header("List", ("1", "2"))
        assert r.get_header("list") == ["1", "2"]
        r.end()

    cookies = [("Set-Cookie", f"{name}={n}") for n, name in enumerate("abcd", 1)]
    assert sent_fields(ask(do)) == [("x-a", "3"), *cookies, ("List", "1"), ("List", "2")]


def test_write_head_wins_over_what_was_set() -> None:
    def do(r: Response) -> None:
        r.set_header("A", "1").set_header("B", "2").set_header("C", "3")
        r.status_code = 500
        r.write_head(201, {"b": "4", "D": "5"}).end()

    answer = ask(do)
    assert answer.status == 201
    assert sent_fields(answer) == [("A", "1"), ("C", "3"), ("b", "4"), ("D", "5")]


def test_status_and_message_are_attributes() -> None:
    def do(r: Response) -> None:
        assert (r.status_code, r.status_message, r.headers_sent, r.finished) == (
            200,
            None,
            False,
            False,
        )
        r.status_code, r.status_message = 404, "Nothing"
        assert repr(r) == "<Response 404>"
        r.write("a")
        assert (r.headers_sent, r.finished) == (True, False)
        r.end("b")
        assert (r.status_code, r.headers_sent, r.finished) == (404, True, True)
        assert repr(r) == "<Response 404 ended>"

    answer = ask(do)
    assert (answer.status, answer.reason, answer.body) == (404, "Nothing", b"ab")


BAD_FIELDS = [
    ("A b", "c"),
    ("", "c"),
    ("A:", "c"),
    ("A\r\n", "c"),
    ("A", "b\r\nC: d"),
    ("A", "b\n"),
    ("A", "b\0"),
    ("A", ["fine", "b\rc"]),
    ("A", "\u20ac"),
    ("\u20ac", "a"),
    ("Content-Length", "-1"),
    ("Content-Length", "1, 1"),
    (b"A", b"\x7f"),
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS)
def test_what_would_split_a_head_is_refused_where_it_is_set(name: Any, value: Any) -> None:
    def do(r: Response) -> None:
        for attempt in (
            lambda: r.set_header(name, value),
            lambda: r.append_header(name, value),
            lambda: r.write_head(200, {name: value}),
            lambda: Response(headers={name: value}),
        ):
            with pytest.raises(ValueError):
                attempt()
        r.end(b"fine")

    answer = ask(do)
    assert (answer.status, answer.body, sent_fields(answer)) == (200, b"fine", [])


@pytest.mark.parametrize("value", [None, 1.5, True, object(), {"a": 1}])
def test_values_of_other_types_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="str, bytes or int"):
        ask(lambda r: r.set_header("A", value))
    with pytest.raises(TypeError, match="str, bytes or int"):
        ask(lambda r: r.write_head(200, {"A": value}))


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 199, 1000])
def test_statuses_that_are_none(status: int) -> None:
    with pytest.raises(ValueError, match="status"):
        ask(lambda r: r.write_head(status))


def test_reasons_that_would_split_the_head() -> None:
    with pytest.raises(ValueError, match="reason"):
        ask(lambda r: r.write_head(200, None, "a\r\nb"))


def test_the_head_is_written_once() -> None:
    def do(r: Response) -> None:
        r.write_head(200, {"A": "1"})
        for attempt in (
            lambda: r.write_head(201),
            lambda: r.set_header("A", "2"),
            lambda: r.append_header("A", "2"),
            lambda: r.remove_header("A"),
            lambda: setattr(r, "status_code", 404),
            lambda: setattr(r, "status_message", "No"),
        ):
            with pytest.raises(RuntimeError, match="the head was written already"):
                attempt()
        r.end(b"whole")

    answer = ask(do)
    assert (answer.status, answer.body, sent_fields(answer)) == (200, b"whole", [("A", "1")])


# ---- bodies


def test_pieces_are_sent_in_chunks_and_in_one_go() -> None:
    sent: list[bool] = []

    def do(r: Response) -> None:
        sent.extend([r.write("a"), r.write(b""), r.write(bytearray(b"b")), r.write(b"c" * 10_000)])
        r.end(memoryview(b"d"))

    answer = ask(do)
    assert sent == [True] * 4
    assert answer.get("transfer-encoding") == "chunked"
    assert answer.body == b"ab" + b"c" * 10_000 + b"d"


def test_pieces_with_a_length_are_counted() -> None:
    def do(r: Response) -> None:
        r.write_head(200, {"Content-Length": 4})
        r.write("ab")
        r.end("cd")

    answer = ask(do)
    assert (answer.get("transfer-encoding"), answer.body) == (None, b"abcd")


def test_a_buffer_may_be_changed_once_it_is_written() -> None:
    def do(r: Response) -> None:
        buffer = bytearray(b"x" * 10_000)
        r.write(buffer)
        buffer[:] = b"y" * 10_000
        r.end()

    assert ask(do).body == b"x" * 10_000


def test_flush_sends_at_once() -> None:
    seen: list[bytes] = []

    def handler(request: Request, response: Response) -> None:
        for do in (
            lambda: response.write_head(200),
            response.flush,
            lambda: response.write("a"),
            response.flush,
        ):
            do()
            client.pull()
            seen.append(client.received)
        response.end()

    with wire(NativeHandler, handler) as site:
        client = site.connect()
        assert client.request(GET).body == b"a"
    assert seen[0] == b""
    assert seen[1].endswith(b"\r\n\r\n")
    assert seen[2] == seen[1]
    assert seen[3] == seen[1] + b"1\r\na\r\n"


@pytest.mark.parametrize("chunk", [None, 1, ["a"], {"a": 1}, object()])
def test_pieces_of_other_types_are_refused(chunk: Any) -> None:
    with pytest.raises(TypeError, match="a piece of a body is bytes or str"):
        ask(lambda r: r.write(chunk))
    with pytest.raises(TypeError, match="a piece of a body is bytes or str"):
        ask(lambda r: r.end(chunk))


def test_after_the_end_nothing_more() -> None:
    def do(r: Response) -> None:
        r.end(b"whole")
        r.end()
        for attempt in (
            lambda: r.end(b"x"),
            lambda: r.write(b"x"),
            lambda: r.write_head(200),
            lambda: r.set_header("A", "1"),
            r.flush,
            lambda: r.send_file(__file__),
        ):
            with pytest.raises(RuntimeError, match="the response has ended"):
                attempt()

    assert ask(do).body == b"whole"


@pytest.mark.parametrize("fails", [False, True])
def test_after_the_handler_nothing_more(fails: bool) -> None:
    kept: list[Response] = []

    def handler(request: Request, response: Response) -> None:
        kept.append(response)
        if fails:
            raise LookupError
        response.write(b"begun")

    with wire(NativeHandler, handler) as site:
        assert site.request(GET).status == (500 if fails else 200)
        with pytest.raises(RuntimeError, match="the response has ended"):
            kept[0].write(b"late")
        assert kept[0].finished


def test_a_value_has_no_client() -> None:
    value = Response(b"a", 404, {"A": 1}, "No")
    assert (value.status_code, value.status_message) == (404, "No")
    assert value.get_header("a") == 1
    value.set_header("B", "2")
    value.status_code = 410
    for attempt in (
        value.end,
        value.flush,
        lambda: value.write(b""),
        lambda: value.write_head(200),
    ):
        with pytest.raises(RuntimeError, match="is a value to return"):
            attempt()


def test_a_response_of_a_request_is_no_value() -> None:
    kept: list[Response] = []

    def do(r: Response) -> None:
        with pytest.raises(RuntimeError, match="belongs to a request"):
            r.__init__()  # type: ignore[misc]
        kept.append(r)
        r.end()

    ask(do)
    with wire(NativeHandler, lambda request: kept[0]) as site:
        assert site.request(GET).status == 500


# ---- backpressure


def test_write_says_when_too_much_waits() -> None:
    said: list[bool] = []

    def handler(request: Request, response: Response) -> None:
        while not said or said[-1]:
            said.append(response.write(b"x" * 50_000))
        response.end(b"end")

    with wire(NativeHandler, handler) as site:
        client = site.connect(receive_buffer=65536)
        client.reading = False
        client.send(GET)
        site.turn_until(lambda: said)
        client.reading = True
        site.turn_until(lambda: client.received.endswith(b"\r\n0\r\n\r\n"))
        assert client.response().body == b"x" * 50_000 * len(said) + b"end"
    assert said[0] is True


def test_write_waits_when_far_too_much_waits() -> None:
    received: list[bytes] = []
    reading = threading.Event()

    def read_all(sock: socket.socket) -> None:
        assert reading.wait(20)
        while piece := sock.recv(1 << 20):
            received.append(piece)

    def handler(request: Request, response: Response) -> None:
        while response.write(b"x" * 100_000):
            pass
        reading.set()
        for _ in range(200):
            response.write(b"y" * 100_000)
        response.end(b"end")

    with wire(NativeHandler, handler) as site:
        sock = socket.create_connection(site.listening.getsockname())
        thread = threading.Thread(target=read_all, args=(sock,))
        thread.start()
        sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        site.turn_until(lambda: not thread.is_alive())
        sock.close()
    body = parse(b"".join(received)).body
    assert body.lstrip(b"x") == b"y" * 20_000_000 + b"end"


def test_a_client_that_takes_nothing_ends_the_wait() -> None:
    errors: list[BaseException] = []

    def handler(request: Request, response: Response) -> None:
        try:
            while True:
                response.write(b"x" * 100_000)
        except OSError as error:
            errors.append(error)
            raise

    with wire(NativeHandler, handler, timeout_write_s=0.1) as site:
        client = site.connect(receive_buffer=4096)
        client.reading = False
        client.send(GET)
        site.turn_until(lambda: errors)
        assert isinstance(errors[0], TimeoutError)
        site.turn_until(lambda: site.server.n_connections == 0)


def test_a_client_that_is_gone_is_a_broken_pipe(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[BaseException] = []

    def handler(request: Request, response: Response) -> None:
        client.close(reset=True)
        try:
            for _ in range(100):
                response.write(b"x")
                response.flush()
        except OSError as error:
            errors.append(error)
            raise

    with wire(NativeHandler, handler) as site:
        client = site.connect()
        client.send(GET)
        site.turn_until(lambda: errors)
        assert isinstance(errors[0], BrokenPipeError)
        site.turn_until(lambda: site.server.n_connections == 0)
    assert not caplog.records


def test_a_handler_may_close_the_server() -> None:
    errors: list[BaseException] = []

    def handler(request: Request, response: Response) -> None:
        response.write_head(200)
        site.server.close()
        try:
            response.end(b"x")
        except BrokenPipeError as error:
            errors.append(error)

    with wire(NativeHandler, handler) as site:
        client = site.connect()
        client.send(GET)
        for _ in range(3):
            if not errors:
                site.server.turn(100)
    assert len(errors) == 1


# ---- files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


def test_a_file_is_sent_whole(file: Path) -> None:
    answer = ask(lambda r: r.send_file(file))
    assert answer.body == file.read_bytes()
    assert answer.get("content-length") == "256000"
    assert answer.get("content-type") == "text/html"


@pytest.mark.parametrize("path", [str, os.fsencode, Path])
def test_paths_of_any_type(file: Path, path: Callable[[Path], Any]) -> None:
    assert ask(lambda r: r.send_file(path(file), 0, 1)).body == b"\0"


@pytest.mark.parametrize(
    ("offset", "length", "start", "stop"),
    [
        (0, None, 0, 256_000),
        (10, None, 10, 256_000),
        (10, 5, 10, 15),
        (0, 0, 0, 0),
        (256_000, None, 0, 0),
        (255_999, 1, 255_999, 256_000),
        # Small ranges are read, and the smallest copied; larger ones the kernel sends.
        (1, 4096, 1, 4097),
        (1, 4097, 1, 4098),
        (7, 16384, 7, 16391),
        (7, 16385, 7, 16392),
    ],
)
def test_a_part_of_a_file(
    file: Path, offset: int, length: int | None, start: int, stop: int
) -> None:
    answer = ask(lambda r: r.send_file(file, offset, length))
    assert answer.body == file.read_bytes()[start:stop]
    assert answer.get("content-length") == str(stop - start)


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, None), (256_001, None), (0, 256_001), (10, -1), (256_000, 1)]
)
def test_parts_that_are_not_there(file: Path, offset: int, length: int | None) -> None:
    with pytest.raises(ValueError, match="are not in a file of 256000 bytes"):
        ask(lambda r: r.send_file(file, offset, length))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
    kinds: list[tuple[str, type[Exception]]] = [
        ("none", FileNotFoundError),
        ("", IsADirectoryError),
        ("pipe", OSError),
        ("socket", OSError),
    ]

    def do(r: Response) -> None:
        before = open_descriptors()
        for name, error in kinds:
            with pytest.raises(error, match=re.escape(str(tmp_path))):
                r.send_file(tmp_path / name)
        assert open_descriptors() == before
        r.end(b"fine")

    assert ask(do).body == b"fine"


def test_a_missing_file_is_the_handlers_affair(tmp_path: Path) -> None:
    def do(r: Response) -> None:
        try:
            r.send_file(tmp_path / "none")
        except FileNotFoundError:
            r.write_head(404, {"Content-Type": "text/plain"}).end("no such page\n")

    answer = ask(do)
    assert (answer.status, answer.body) == (404, b"no such page\n")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", "text/plain"),
        ("a.JSON", "application/json"),
        ("a", "application/octet-stream"),
        ("a.tar.gz", "application/gzip"),
        ("a.svgz", "application/gzip"),
        ("a.css.bz2", "application/x-bzip2"),
        ("data:text,a.css", "text/css"),
        ("a.nosuchthing", "application/octet-stream"),
    ],
)
def test_content_types_by_name(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert ask(lambda r: r.send_file(tmp_path / name)).get("content-type") == kind


def test_a_content_type_that_is_set_stays(file: Path) -> None:
    def set_before(r: Response) -> None:
        r.set_header("content-type", "x/y")
        r.send_file(file)

    def written_before(r: Response) -> None:
        r.write_head(206, {"Content-Type": "x/y"}).send_file(file)

    def not_written(r: Response) -> None:
        r.write_head(206).send_file(file)

    assert ask(set_before).get("content-type") == "x/y"
    assert ask(written_before).get("content-type") == "x/y"
    answer = ask(not_written)
    assert (answer.status, answer.get("content-type")) == (206, "text/html")


def test_a_file_after_other_pieces(file: Path) -> None:
    def do(r: Response) -> None:
        r.write(b"first")
        r.send_file(file, 0, 10)

    answer = ask(do)
    assert answer.body == b"first" + bytes(range(10))
    assert answer.get("transfer-encoding") == "chunked"


def test_head_of_a_file(file: Path) -> None:
    answer = ask(lambda r: r.send_file(file), GET.replace(b"GET", b"HEAD"))
    assert (answer.get("content-length"), answer.body, answer.rest) == ("256000", b"", b"")


def test_files_are_closed_when_they_are_sent(file: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with open(large, "wb") as made:
        made.truncate(30_000_000)

    def handler(request: Request, response: Response) -> None:
        response.send_file(large if request.path == "/large" else file)

    with wire(NativeHandler, handler) as site:
        client = site.connect(receive_buffer=65536)
        client.request(GET)
        before = open_descriptors()
        for _ in range(20):
            client.request(GET)
        assert open_descriptors() == before
        client.reading = False
        client.send(GET.replace(b"/", b"/large", 1))
        site.turn_until(lambda: open_descriptors() == before + 1)
        client.close(reset=True)
        site.turn_until(lambda: site.server.n_connections == 0)
        assert open_descriptors() == before - 2  # both ends of the connection
