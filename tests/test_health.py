"""Answers to orchestrators and load balancers, and the delay before a stop begins."""

import http.client
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crew import until
from harness import Wire, wire
from test_processes import DEADLINE_S, Start, start  # noqa: F401

from fastcluster.config import Config
from fastcluster.errors import UsageError
from fastcluster.native import NativeHandler
from fastcluster.wsgi import WsgiHandler

PATHS: dict[str, Any] = {"livez": "/livez", "readyz": "/readyz"}


def get(target: str, method: str = "GET") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


class Application:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def native(self, request: Any) -> str:
        self.calls.append(request.path)
        return "app"

    def wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        self.calls.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        return [b"app"]


def test_the_application_is_not_called() -> None:
    app = Application()
    with wire(WsgiHandler, app.wsgi, **PATHS) as opened:
        for target in ("/livez", "/readyz", "/readyz?verbose"):
            response = opened.request(get(target))
            assert (response.status, response.body) == (200, b"ok\n")
            assert response.get("cache-control") == "no-store"
        assert opened.request(get("/livez", "HEAD"), "HEAD").status == 200
        assert app.calls == []
        for target in ("/livez/", "/LIVEZ", "/live", "/"):
            assert opened.request(get(target)).body == b"app"
        assert opened.request(get("/livez", "PUT")).body == b"app"
    assert len(app.calls) == 5


def test_they_are_off_unless_asked_for() -> None:
    app = Application()
    with wire(NativeHandler, app.native, livez="/healthz") as opened:
        opened.request(get("/livez"))
        opened.request(get("/readyz"))
        opened.request(get("/healthz"))
    assert app.calls == ["/livez", "/readyz"]


def status(opened: Wire, client: Any, target: str) -> int:
    return int(client.request(get(target)).status)


def test_readiness_fails_from_the_moment_that_the_server_is_to_leave() -> None:
    with wire(NativeHandler, Application().native, **PATHS) as opened:
        client = opened.connect()
        assert status(opened, client, "/readyz") == 200
        opened.server.leave()
        assert status(opened, client, "/readyz") == 503
        assert status(opened, client, "/livez") == 200
        assert status(opened, client, "/") == 200
        response = opened.request(get("/readyz"))
        assert response.body == b"stopping\n" and response.get("connection") is None


@pytest.mark.parametrize(("last", "ready"), [(False, 200), (True, 503)])
def test_a_worker_that_gives_way_to_another_is_no_end_of_the_server(last: bool, ready: int) -> None:
    with wire(NativeHandler, Application().native, **PATHS) as opened:
        client = opened.connect()
        opened.turn_until(lambda: opened.server.n_connections)
        opened.server.drain(last)
        assert status(opened, client, "/readyz") == ready


def test_the_access_log_has_them_only_if_asked() -> None:
    class Access:
        lines: list[bytes] = []  # noqa: RUF012

        def record(self, *entry: Any) -> None:
            self.lines.append(entry[2])

    for is_logged in (False, True):
        access = Access()
        options = PATHS | {"access_log_health": is_logged}
        with wire(NativeHandler, Application().native, access=access, **options) as opened:
            opened.request(get("/livez"))
            opened.request(get("/"))
    assert access.lines == [b"/", b"/livez", b"/"]


@pytest.mark.parametrize("path", ["livez", "/a?b", "/a#b", "/a b", ""])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="--livez wants a path such as /livez"):
        Config(livez=path)


# ---- real processes


def ask(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_after_a_stop_readiness_fails_and_workers_serve_until_the_delay_is_over(
    start: Start,  # noqa: F811
) -> None:
    cluster = start(
        "--workers", "2", "--livez", "/livez", "--readyz", "/readyz", "--shutdown-delay", "700ms"
    )  # fmt: skip
    cluster.ready(2)
    port = cluster.port
    assert ask(port, "/readyz") == 200
    cluster.signal(signal.SIGTERM)
    cluster.expect(r"stopping in 0\.7 s \(--shutdown-delay\): the workers serve until then")
    until(lambda: ask(port, "/readyz") == 503, "readiness that fails")
    # New connections, all of them served, until the drain begins.
    assert ask(port, "/livez") == ask(port, "/") == 200
    assert not cluster.said("to drain")
    assert cluster.exit_code() == 0
    assert cluster.said(r"stopping: 2 workers to drain")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), DEADLINE_S)


def test_a_second_signal_ends_the_delay(start: Start) -> None:  # noqa: F811
    cluster = start("--workers", "1", "--shutdown-delay", "1h")
    cluster.ready(1)
    cluster.signal(signal.SIGTERM)
    cluster.expect("stopping in 3600 s")
    cluster.insist(signal.SIGTERM, "stopping at once")
    assert cluster.exit_code() == 0


def test_probes_are_not_in_the_access_log_of_the_command(
    start: Start,  # noqa: F811
    tmp_path: Path,
) -> None:
    path = tmp_path / "access.log"
    cluster = start("--workers", "1", "--livez", "/livez", "--access-log-file", str(path))
    cluster.ready(1)
    assert ask(cluster.port, "/livez") == 200
    assert cluster.get("/seen")
    until(lambda: path.exists() and "/seen" in path.read_text(), "the line")
    assert "/livez" not in path.read_text()
