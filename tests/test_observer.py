"""What the logs hear of exchanges, and the names of requests, with a real server."""

import asyncio
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgi_parts import GuestWire
from harness import Wire, wire
from test_processes import Start, start  # noqa: F401

from fastcluster import log
from fastcluster.asgi import AsgiHandler
from fastcluster.native import NativeHandler
from fastcluster.request import Request
from fastcluster.response import Response
from fastcluster.wsgi import WsgiHandler

Environ = dict[str, Any]
HEX = re.compile(r"[0-9a-f]{32}")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def get(target: str = "/", *fields: str) -> bytes:
    lines = [f"GET {target} HTTP/1.1", "Host: h", *fields, "", ""]
    return "\r\n".join(lines).encode()


def shows(request: Request, response: Response) -> None:
    names = request.headers.get_all("x-request-id")
    response.write_head(200, {"Content-Type": "text/plain", "X-Kind": "demo"})
    response.end(" ".join(names))


class Logged:
    """An access log of a format that writes to a pipe."""

    def __init__(self, text: str) -> None:
        self.reading, self._writing = os.pipe()
        self.access = log.open_access_log(text, self._writing)

    def lines(self) -> list[str]:
        """Close the log and return what it has written."""
        assert self.access.close(timeout_s=20)
        os.close(self._writing)
        with os.fdopen(self.reading) as file:
            return file.read().splitlines()


# ---- formats


def test_a_format_sees_both_heads_and_the_time() -> None:
    logged = Logged(
        '%(m)s %(U)s %(s)s %(B)s "%({x-one}i)s" %({x-kind}o)s %({content-length}o)s %(D)s'
    )
    with wire(NativeHandler, shows, access=logged.access) as opened:
        opened.request(get("/a?b", "X-One: 1"))
        opened.request(get("/c"))
    first, second = logged.lines()
    assert re.fullmatch(r'GET /a 200 0 "1" demo 0 \d+', first), first
    assert re.fullmatch(r'GET /c 200 0 "-" demo 0 \d+', second), second


def test_json_has_the_request_id() -> None:
    logged = Logged("json")
    options: dict[str, Any] = {"request_id_header": "X-Request-ID"}
    with wire(NativeHandler, shows, access=logged.access, **options) as opened:
        opened.request(get("/", "X-Request-ID: mine", "User-Agent: u"))
    said = json.loads(logged.lines()[0])
    assert said["request_id"] == "mine"
    assert said["user_agent"] == "u" and said["status"] == 200 and said["bytes"] == 4


def test_an_atom_of_the_id_is_the_id_that_was_made() -> None:
    logged = Logged("%({x-request-id}i)s %({x-request-id}o)s")
    options: dict[str, Any] = {"request_id_header": "X-Request-ID"}
    with wire(NativeHandler, shows, access=logged.access, **options) as opened:
        name = opened.request(get()).body.decode()
    assert logged.lines() == [f"{name} {name}"]


# ---- names of requests


def native(request: Request) -> str:
    return " ".join(request.headers.get_all("x-request-id"))


def wsgi(environ: Environ, start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["HTTP_X_REQUEST_ID"].encode()]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    found = [value for name, value in scope["headers"] if name == b"x-request-id"]
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b" ".join(found)})


NAMED: dict[str, Any] = {"request_id_header": "X-Request-ID"}


@pytest.fixture(params=["native", "wsgi", "threads", "asgi"])
def named(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """A server that names requests, whose application says what it sees of the name."""
    if request.param == "asgi":
        opened: Wire = GuestWire(AsgiHandler, asgi, **NAMED)
    elif request.param == "native":
        opened = Wire(NativeHandler, native, **NAMED)
    else:
        opened = Wire(WsgiHandler, wsgi, threads=2 * (request.param == "threads"), **NAMED)
    yield opened
    opened.close()


def test_a_name_is_taken(named: Wire) -> None:
    response = named.request(get("/", "x-request-id: abc-1"))
    assert response.body == b"abc-1"
    assert response.get("X-Request-ID") == "abc-1"


def test_a_name_is_made_where_there_is_none(named: Wire) -> None:
    client = named.connect()
    names = [client.request(get()).body.decode() for _ in range(2)]
    assert all(HEX.fullmatch(name) for name in names) and names[0] != names[1]


def test_a_name_is_made_where_there_is_none_to_take(named: Wire) -> None:
    response = named.request(get("/", "X-Request-ID: a b", "X-Other: 1"))
    assert HEX.fullmatch(response.body.decode())
    response = named.request(get("/", "X-Request-ID: a", "X-Request-ID: b"))
    assert HEX.fullmatch(response.body.decode())


def test_a_trace_names_its_requests_and_is_kept(named: Wire) -> None:
    field = f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01"
    response = named.request(get("/", field))
    assert response.body.decode() == response.get("X-Request-ID") == TRACE


def test_a_name_survives_a_body_that_comes_later(named: Wire) -> None:
    client = named.connect()
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n"
    client.send(head + b"ab")
    named.turn()
    named.turn()
    name = client.request(b"cd").body.decode()
    assert HEX.fullmatch(name)


def test_a_request_with_as_many_fields_as_there_may_be_is_named() -> None:
    with wire(NativeHandler, native, limit_request_fields=3, **NAMED) as opened:
        response = opened.request(get("/", "A: 1", "B: 2"))
        assert HEX.fullmatch(response.body.decode())
        assert opened.request(get("/", "A: 1", "B: 2", "C: 3")).status == 431


def test_an_application_that_names_it_itself_has_the_say() -> None:
    def own(request: Request, response: Response) -> None:
        response.write_head(200, {"x-request-id": "own"})
        response.end()

    with wire(NativeHandler, own, **NAMED) as opened:
        assert opened.request(get()).get("X-Request-ID") == "own"


def test_a_native_request_that_is_kept_keeps_its_name() -> None:
    kept: list[Request] = []
    with wire(NativeHandler, lambda request: kept.append(request), **NAMED) as opened:
        name = opened.request(get()).get("X-Request-ID")
        opened.request(get("/again"))
    assert kept[0].headers["x-request-id"] == name


def test_a_handler_that_has_answered_may_still_look_at_its_request() -> None:
    seen: list[str] = []

    def answers(request: Request, response: Response) -> None:
        response.end("x")
        seen.append(f"{request.headers['x-request-id']} {request.headers['a']}")

    with wire(NativeHandler, answers, **NAMED) as opened:
        names = [opened.request(get("/", "A: 1")).get("X-Request-ID") for _ in range(20)]
    assert seen == [f"{name} 1" for name in names]


# ---- slow requests


async def late(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/slow":
        await asyncio.sleep(0.03)
    await send({"type": "http.response.start", "status": 404})
    await send({"type": "http.response.body", "body": b""})


def test_a_slow_request_is_told_and_others_are_not(caplog: pytest.LogCaptureFixture) -> None:
    opened = GuestWire(AsgiHandler, late, slow_request_time_s=0.02, **NAMED)
    logging.getLogger("fastcluster").propagate = True
    try:
        opened.request(get("/fast"))
        opened.request(get("/slow?q=1", "X-Request-ID: r1"))
    finally:
        opened.close()
    told = [record.getMessage() for record in caplog.records if "slow" in record.getMessage()]
    assert len(told) == 1
    assert re.fullmatch(
        r"slow request: GET /slow\?q=1 from 127\.0\.0\.1 took 0\.0\d\d s: answered with 404 "
        r"\(request id r1\)",
        told[0],
    )


def test_a_slow_request_whose_client_went_is_told(caplog: pytest.LogCaptureFixture) -> None:
    waiting: list[asyncio.Event] = []

    async def hang(scope: Any, receive: Any, send: Any) -> None:
        waiting.append(asyncio.Event())
        await asyncio.sleep(0.03)
        waiting[0].set()
        await receive()
        await receive()

    opened = GuestWire(AsgiHandler, hang, slow_request_time_s=0.02)
    logging.getLogger("fastcluster").propagate = True
    try:
        client = opened.connect()
        client.send(get("/slow"))
        opened.turn_until(lambda: waiting and waiting[0].is_set())
        client.close(reset=True)
        opened.turn_until(lambda: "the client went" in caplog.text)
    finally:
        opened.close()
    assert "slow request: GET /slow from 127.0.0.1 took 0.0" in caplog.text


# ---- real processes


def test_the_command_writes_json_and_reopens_it(start: Start, tmp_path: Path) -> None:  # noqa: F811
    import signal

    path = tmp_path / "access.json"
    cluster = start(
        "--workers", "1", "--access-log-file", str(path), "--access-log-format", "json",
        "--request-id-header", "X-Request-ID",
    )  # fmt: skip
    cluster.ready(1)
    cluster.get("/one")
    _wait_for(path, '"/one"')
    path.rename(tmp_path / "old")
    cluster.signal(signal.SIGUSR1)
    cluster.expect("log files reopened")
    cluster.get("/two")
    _wait_for(path, '"/two"')
    first, second = json.loads((tmp_path / "old").read_text()), json.loads(path.read_text())
    assert first["path"] == "/one" and second["path"] == "/two"
    assert HEX.fullmatch(second["request_id"]) and second["duration_s"] >= 0


def test_the_error_log_goes_where_the_file_says(start: Start, tmp_path: Path) -> None:  # noqa: F811
    errors = tmp_path / "errors.log"
    config = tmp_path / "logging.toml"
    config.write_text(f"""
        [formatters.plain]
        format = "%(levelname)s|%(who)s|%(message)s"
        [handlers.file]
        class = "logging.FileHandler"
        filename = "{errors}"
        formatter = "plain"
        [loggers.fastcluster]
        handlers = ["file"]
        level = "INFO"
    """)
    cluster = start("--workers", "1", "--log-config", str(config), "--slow-request-time", "1ms")
    _wait_for(errors, "is ready")
    found = re.search(r"INFO\|primary\|listening on http://127\.0\.0\.1:(\d+)", errors.read_text())
    assert found
    import urllib.request

    held = tmp_path / "held"
    held.mkdir()
    os.mkfifo(held / "arrived")
    os.mkfifo(held / "answer")
    import threading

    url = f"http://127.0.0.1:{found[1]}/held?{held}"
    asked = threading.Thread(target=lambda: urllib.request.urlopen(url, timeout=20).read())
    asked.start()
    (held / "arrived").read_text()
    import time

    began = time.monotonic()
    while time.monotonic() - began < 0.005:
        time.sleep(0.005)
    (held / "answer").write_text("x")
    asked.join(20)
    _wait_for(errors, "WARNING|worker 0|slow request: GET /held")
    assert cluster.output == ""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "cannot read"),
        ("[formatters", "is not a TOML file"),
        ('[handlers.x]\nclass = "no.such.Class"', "makes no sense"),
    ],
)
def test_a_bad_log_config_is_one_line(
    start: Start,  # noqa: F811
    tmp_path: Path,
    text: str | None,
    complaint: str,
) -> None:
    path = tmp_path / "logging.toml"
    if text is not None:
        path.write_text(text)
    cluster = start("--log-config", str(path))
    assert cluster.exit_code() == 2
    assert complaint in cluster.output and cluster.output.count("\n") == 1


def _wait_for(path: Path, text: str) -> None:
    from crew import until

    until(lambda: path.exists() and text in path.read_text(), text)
