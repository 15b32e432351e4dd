"""The supervisor with real processes: signals that scale, rest and reopen, worn and stuck workers.

Coming up, dying, draining and reloading are in test_processes.py.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_processes import DEADLINE_S, READY, Cluster, Held, Start, can_connect, start

from fastcluster import cpus

__all__ = ["start"]


def test_ttin_and_ttou(start: Start) -> None:
    cluster = start("--workers", "1")
    [first] = cluster.ready(1)
    cluster.signal(signal.SIGTTIN)
    second = cluster.ready(2)[1]
    cluster.signal(signal.SIGTTOU)
    cluster.expect(rf"worker 1 \(pid {second}\) has drained and left")
    cluster.wait_gone(second)
    assert int(cluster.get()) == first


@pytest.mark.skipif(not cpus.can_pin(), reason="this system lets nobody choose a CPU")
@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_pinned_workers_stay_on_their_cpus(start: Start, preload: str) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    cluster = start("--workers", "2", "--pin", preload)
    cluster.ready(2)

    def pinned() -> dict[int, set[int]]:
        return {int(m[1]): os.sched_getaffinity(int(m[2])) for m in cluster.said(READY)[-2:]}

    expected = {number: {allowed[number % len(allowed)]} for number in range(2)}
    assert pinned() == expected
    assert os.sched_getaffinity(cluster.pid) == set(allowed)
    cluster.signal(signal.SIGHUP)
    cluster.expect("reload: done")
    assert pinned() == expected


def test_a_startup_that_hangs_is_named(start: Start, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import asyncio\nasync def app(scope, receive, send):\n    await asyncio.Event().wait()\n"
    )
    cluster = start(
        *("--app-dir", str(tmp_path), "--workers", "1", "--timeout-startup", "0.5"), app="slow:app"
    )
    assert cluster.exit_code() == 3
    assert cluster.said(r"did not start up \(lifespan\) within 0.5 s \(--timeout-startup\)")


def test_winch_rests_while_clients_wait_and_hup_wakes(start: Start) -> None:
    cluster = start("--workers", "2")
    old = cluster.ready(2)
    port = cluster.port
    cluster.signal(signal.SIGWINCH)
    cluster.expect("has drained and left", 2)
    for pid in old:
        cluster.wait_gone(pid)
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        cluster.signal(signal.SIGHUP)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    cluster.expect("reload: done")
    cluster.ready(4)


def test_logs_are_reopened_in_all_processes(start: Start, tmp_path: Path) -> None:
    error, access = tmp_path / "error.log", tmp_path / "access.log"
    cluster = start("--workers", "2", "--log-file", str(error), "--access-log-file", str(access))
    until_holds(error, "is ready", 2)
    port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", error.read_text())[1])
    get(port, "/before")
    until_holds(access, "/before")
    for path in (error, access):
        path.rename(path.with_suffix(".1"))
    cluster.signal(signal.SIGUSR1)
    until_holds(error, "log files reopened")
    # Every worker hears of it in its own time; those that have, write to the new one.
    until_holds(access, "/after", visit=lambda: get(port, "/after"))
    assert "/after" not in error.read_text()
    assert cluster.output == ""
    for match in re.finditer(r"\(pid (\d+)\) is ready", (tmp_path / "error.1").read_text()):
        cluster._remember(int(match[1]))


def test_a_log_file_that_cannot_be_opened_is_one_line(start: Start, tmp_path: Path) -> None:
    cluster = start("--log-file", str(tmp_path / "none" / "error.log"))
    assert cluster.exit_code() == 2
    assert cluster.said("error.log cannot be opened")
    assert not cluster.said("Traceback")


def test_a_worker_is_replaced_after_its_requests_and_nobody_is_refused(start: Start) -> None:
    cluster = start("--workers", "1", "--max-requests", "3")
    [first] = cluster.ready(1)
    port = cluster.port
    for _ in range(3):
        assert int(get(port)) == first
    while not cluster.said(rf"\(pid {first}\) has drained and left"):
        assert can_connect(port)
        cluster._read_more(0)
    assert len(cluster.said(r"has begun \d+ requests \(--max-requests\)")) >= 1
    second = cluster.ready(2)[1]
    assert first != second


@pytest.mark.parametrize(
    ("app", "path"), [("proc_app:app", "/held"), ("proc_app:app", "/stuck-in-c")]
)
def test_a_stuck_worker_leaves_its_tracebacks_and_its_request(
    start: Start, tmp_path: Path, app: str, path: str
) -> None:
    cluster = start("--workers", "1", "--worker-timeout", "0.4", app=app)
    [pid] = cluster.ready(1)
    with stuck(cluster, path, tmp_path):
        cluster.expect(
            rf"worker 0 \(pid {pid}\) has shown no sign of life for .* s \(--worker-timeout\) "
            rf"while it served GET {path}\?\S+ from 127\.0\.0\.1:\d+ for .* s: killed"
        )
        cluster.wait_gone(pid)
        cluster.ready(2)
    assert cluster.said(r"Fatal Python error: Aborted")
    assert cluster.said(r'File ".*proc_app\.py", line \d+ in (held|stuck_in_c)')


@contextlib.contextmanager
def stuck(cluster: Cluster, path: str, folder: Path) -> Iterator[None]:
    """Have the one worker stuck in a request for as long as the test likes."""
    os.mkfifo(folder / "arrived")
    os.mkfifo(folder / "answer")
    with socket.create_connection(("127.0.0.1", cluster.port), DEADLINE_S) as client:
        client.sendall(f"GET {path}?{folder} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        (folder / "arrived").read_text()
        yield


def test_an_idle_worker_is_not_stuck(start: Start) -> None:
    cluster = start("--workers", "1", "--worker-timeout", "0.1", "--log-level", "debug")
    [pid] = cluster.ready(1)
    # Ten timeouts pass without a request.
    cluster._read_more(time.monotonic() + 1.0)
    assert cluster.is_alive(pid)
    assert int(cluster.get()) == pid
    assert not cluster.said("no sign of life")


def test_threads_that_block_do_not_make_a_worker_stuck(start: Start, tmp_path: Path) -> None:
    cluster = start("--workers", "1", "--threads", "1", "--worker-timeout", "0.1")
    [pid] = cluster.ready(1)
    held = Held(cluster, tmp_path)
    cluster._read_more(time.monotonic() + 0.5)
    assert cluster.is_alive(pid)
    cluster.signal(signal.SIGTERM)
    held.answer()
    assert held.response().endswith(b"at last")


def test_a_crash_names_the_request_and_shows_where(start: Start) -> None:
    cluster = start("--workers", "1")
    [pid] = cluster.ready(1)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        cluster.get("/segfault")
    cluster.expect(rf"\(pid {pid}\) was killed by SIGSEGV .* while it served GET /segfault from")
    assert cluster.said("Fatal Python error: Segmentation fault")
    assert cluster.said(r'File ".*proc_app\.py", line \d+ in app')


def test_ps_shows_who_is_who(start: Start) -> None:
    cluster = start("--workers", "1")
    [pid] = cluster.ready(1)
    until_holds(Path(f"/proc/{pid}/cmdline"), "fastcluster: worker 0 ready [proc_app:app]")
    until_holds(Path(f"/proc/{cluster.pid}/cmdline"), "fastcluster: primary ready [proc_app:app]")


def get(port: int, path: str = "/") -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def until_holds(path: Path, words: str, count: int = 1, visit: object = None) -> None:
    """Wait until a file holds the words so often, doing something meanwhile."""
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists() or path.read_text().count(words) < count:
        assert time.monotonic() < deadline, f"{path} never held {words!r}"
        if callable(visit):
            visit()
        time.sleep(0.005)
