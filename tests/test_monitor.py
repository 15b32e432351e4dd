"""/metrics, the dashboard and its events: refusals, bounds, and a browser that shows it."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from require import require_program
from seen_parts import status, worker
from test_processes import DEADLINE_S, Start, start
from websockets.sync.client import connect

from fastcluster.control import PATIENCE_S
from fastcluster.monitor import EVENTS_KEPT, SAMPLES_KEPT, STREAMS_MOST, Chronicle, Monitor

__all__ = ["start"]


class FakePrimary:
    n = 0

    def status(self, histograms: bool = False) -> dict[str, Any]:
        self.n += 10
        return status(worker(7, self.n))


class Post:
    """A monitor with a clock of the test's own, driven as the primary's loop drives it."""

    def __init__(self, token: str | None = "secret", has_page: bool = True) -> None:
        self.now_s = 100.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.chronicle = Chronicle()
        self.monitor = Monitor(
            "app",
            self.listener,
            FakePrimary(),  # type: ignore[arg-type]
            logging.getLogger("fastcluster"),
            lambda: self.now_s,
            token=token,
            has_page=has_page,
            chronicle=self.chronicle,
        )
        self.clients: list[socket.socket] = []

    def turn(self) -> None:
        while True:
            poll = select.poll()
            for fd, events in self.monitor.interests().items():
                poll.register(fd, events)
            ready = poll.poll(0)
            for fd, events in ready:
                self.monitor.happened(fd, events)
            self.monitor.settle()
            if not ready:
                return

    def tick(self, seconds: float = 1.0) -> None:
        self.now_s += seconds
        self.turn()

    def send(self, line: str, *fields: str) -> socket.socket:
        client = socket.create_connection(self.listener.getsockname(), 10)
        self.clients.append(client)
        client.sendall("\r\n".join([f"{line} HTTP/1.1", "Host: x", *fields, "", ""]).encode())
        # Loopback: what was sent is there, once the listener is readable.
        select.select([self.listener], [], [], 10)
        self.turn()
        return client

    def ask(self, line: str, *fields: str) -> tuple[int, str, bytes]:
        data, client = b"", self.send(line, *fields)
        while more := client.recv(65536):
            data += more
            self.turn()
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split()[1]), head.decode(), body


@pytest.fixture
def post() -> Iterator[Post]:
    post = Post()
    yield post
    post.monitor.close()
    for client in post.clients:
        client.close()


def events(data: bytes) -> list[tuple[str, Any]]:
    found = re.findall(rb"event: (\w+)\ndata: (.*)\n\n", data)
    return [(name.decode(), json.loads(text)) for name, text in found]


@pytest.mark.parametrize("path", ["/", "/events", "/status", "/metrics"])
def test_who_has_no_token_sees_nothing(post: Post, path: str) -> None:
    code, head, body = post.ask(f"GET {path}?token=wrong")
    assert code == 401 and "WWW-Authenticate: Bearer" in head
    assert "a token is wanted" in json.loads(body)["error"]
    assert post.ask(f"GET {path}", "Authorization: Bearer wrong")[0] == 401


def test_the_token_in_a_field_or_in_the_query(post: Post) -> None:
    assert post.ask("GET /status?token=secret")[0] == 200
    assert post.ask("GET /metrics", "authorization: bearer secret")[0] == 200


def test_the_page_brings_all_it_needs(post: Post) -> None:
    code, head, body = post.ask("GET /?token=secret")
    assert code == 200 and "Content-Security-Policy: default-src 'none'" in head
    assert b"<canvas" in body and b"EventSource" in body
    assert not re.search(rb"(src|href)=\"(?!data:)|https?://|@import|innerHTML", body)


def test_only_looking_is_there(post: Post) -> None:
    assert post.ask("POST /?token=secret")[0] == 405
    code, _, body = post.ask("GET /reload?token=secret")
    assert code == 404 and b"/metrics, /, /events, /status are there" in body


def test_metrics_alone_want_no_token() -> None:
    post = Post(token=None, has_page=False)
    code, head, body = post.ask("GET /metrics")
    assert code == 200 and "application/openmetrics-text; version=1.0.0" in head
    assert body.endswith(b"# EOF\n") and b"fastcluster_requests_total 10\n" in body
    assert post.ask("GET /")[0] == 404
    assert post.monitor.next_deadline() is None
    post.monitor.close()


def test_events_tell_the_past_and_then_each_second(post: Post) -> None:
    for _ in range(SAMPLES_KEPT + 5):
        post.tick()
    client = post.send("GET /events?token=secret")
    post.chronicle.emit(logging.makeLogRecord({"msg": "reload\nmany\nlines", "levelno": 20}))
    post.tick()
    post.tick(0.5)  # too early
    post.tick(0.5)
    data = b""
    while data.count(b"event: sample") < 2:
        data += client.recv(1 << 20)
    assert b"text/event-stream" in data
    (first, past), *samples = events(data)
    assert first == "past" and len(past["samples"]) == SAMPLES_KEPT
    assert [name for name, _ in samples] == ["sample"] * 2
    assert samples[0][1]["requests_per_s"] == 10.0
    assert samples[0][1]["events"][-1]["text"] == "reload … lines"


def test_a_dashboard_that_reads_nothing_is_cut_off(post: Post) -> None:
    client = post.send("GET /events?token=secret")
    post.clients.remove(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(3000):
        post.chronicle.emit(logging.makeLogRecord({"msg": "x" * 500, "levelno": 20}))
        post.tick(PATIENCE_S + 1)
        if len(post.monitor.sockets()) == 1:
            break
    assert post.monitor.sockets() == [post.listener]
    client.close()


def test_streams_have_a_bound_and_those_who_leave_make_room(post: Post) -> None:
    streams = [post.send("GET /events?token=secret") for _ in range(STREAMS_MOST)]
    assert post.ask("GET /events?token=secret")[0] == 503
    streams[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    streams[0].close()
    post.clients.remove(streams[0])
    deadline = time.monotonic() + 10
    while len(post.monitor.sockets()) > STREAMS_MOST and time.monotonic() < deadline:
        post.tick()
    post.send("GET /events?token=secret")
    assert len(post.monitor.sockets()) == STREAMS_MOST + 1


def test_the_chronicle_has_a_bound() -> None:
    chronicle = Chronicle()
    for n in range(2 * EVENTS_KEPT):
        chronicle.emit(logging.makeLogRecord({"msg": "n %d", "args": (n,), "levelno": 20}))
    assert len(chronicle.entries) == EVENTS_KEPT
    assert chronicle.entries[-1]["text"] == f"n {2 * EVENTS_KEPT - 1}"


# ---- a real server


def look(url: str, path: str, **fields: str) -> tuple[int, str]:
    host = re.search(r"//([^/]+)", url)
    assert host is not None
    connection = http.client.HTTPConnection(host[1], timeout=DEADLINE_S)
    try:
        connection.request("GET", path, headers=fields)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_a_real_server_on_both_ports(start: Start) -> None:
    cluster = start("-w", "1", "--metrics", "127.0.0.1:0", "--dashboard", "127.0.0.1:0")
    cluster.ready(1)
    for _ in range(3):
        cluster.get()
    [found] = cluster.expect(r"metrics on (http://\S+)/metrics")
    assert "fastcluster_requests_total 3\n" in look(found[1], "/metrics")[1]
    [found] = cluster.expect(r"dashboard on (http://[^/]+)/\?token=(\S+)")
    assert look(found[1], "/status")[0] == 401
    code, text = look(found[1], "/status", Authorization=f"Bearer {found[2]}")
    assert code == 200 and json.loads(text)["totals"]["requests"] == 3


def test_a_port_that_is_taken_is_a_clear_error(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cluster = start("-w", "1", "--metrics", f"127.0.0.1:{taken.getsockname()[1]}")
        assert cluster.exit_code() == 4
        assert cluster.said("--metrics: port .* in use by another .* choose another with --metrics")


def test_a_browser_shows_it_on_a_phone(start: Start, tmp_path: Path) -> None:
    chromium = require_program("chromium", package="chromium")
    cluster = start("-w", "2", "--dashboard", "127.0.0.1:0", "--dashboard-token", "told")
    cluster.ready(2)
    [found] = cluster.expect(r"dashboard on (http://\S+/)")
    browser = subprocess.Popen(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=390,844",
            f"{found[1]}?token=told",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        shown = _shown_by(browser, found[1], lambda: cluster.get("/"))
    finally:
        browser.kill()
        browser.wait()
        assert browser.stderr is not None
        browser.stderr.close()
    assert shown["rows"] == 2 and "ready" in shown["workers"]
    assert shown["state"] == "serving" and "is ready" in shown["history"]
    # Nothing is wider than the phone.
    assert shown["width"] <= 390, shown
    (tmp_path / "dashboard.png").write_bytes(shown["image"])
    assert shown["image"].startswith(b"\x89PNG") and len(shown["image"]) > 10_000


_LOOK = """({
  samples: Number(document.body.dataset.samples || 0),
  state: document.getElementById("state").textContent,
  figures: document.getElementById("figures").textContent,
  rows: document.querySelectorAll(".worker").length,
  workers: document.getElementById("workers").textContent,
  history: document.getElementById("history").textContent,
  width: document.documentElement.scrollWidth,
})"""


def _shown_by(browser: subprocess.Popen[str], url: str, serve: Any) -> dict[str, Any]:
    """Return what the page says once it has two samples, and a picture of it."""
    assert browser.stderr is not None
    port = next(m[1] for line in browser.stderr if (m := re.search(r"ws://[^:]+:(\d+)/", line)))
    deadline = time.monotonic() + DEADLINE_S
    pages: list[dict[str, Any]] = []
    while not pages and time.monotonic() < deadline:
        listed = json.loads(look(f"http://127.0.0.1:{port}", "/json")[1])
        pages = [page for page in listed if page["url"].startswith(url)]
    serve()
    with connect(pages[0]["webSocketDebuggerUrl"], max_size=1 << 26) as page:

        def call(method: str, **given: Any) -> Any:
            page.send(json.dumps({"id": 1, "method": method, "params": given}))
            while "result" not in (said := json.loads(page.recv(DEADLINE_S))):
                pass
            return said["result"]

        phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        call("Emulation.setDeviceMetricsOverride", **phone)
        shown: dict[str, Any] = {"samples": 0, "rows": 0}
        while shown["samples"] < 2 or shown["rows"] < 2:
            assert time.monotonic() < deadline, shown
            said = call("Runtime.evaluate", expression=_LOOK, returnByValue=True)
            shown = said["result"].get("value", shown)  # none while the page is being read
        shown["image"] = base64.b64decode(
            call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        )
    return shown
