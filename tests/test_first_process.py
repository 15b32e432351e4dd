"""The primary as process 1, as in a container: it serves, reaps strangers and stops.

The kernel treats that process apart: a signal that it handles by default does not reach
it, and every process whose parent has died becomes its child.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from require import require_program
from test_processes import DEADLINE_S

APP = """import os

def app(environ, start_response):
    folder = environ["QUERY_STRING"]
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            # A stranger from now on: its parent is gone, and it lives as long as the test likes.
            open(os.path.join(folder, "end")).read()
        os._exit(0)
    os.waitpid(pid, 0)
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_it_reaps_strangers_and_stops_as_asked(tmp_path: Path) -> None:
    unshare = require_program("unshare", package="util-linux")
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = [unshare, *rights, "--pid", "--fork", "--kill-child"]
    if subprocess.run([*command, "true"], capture_output=True, timeout=DEADLINE_S).returncode:
        pytest.skip("this machine lets nobody make a process namespace")
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        pytest.skip("this kernel does not list children in /proc")
    (tmp_path / "one.py").write_text(APP)
    os.mkfifo(tmp_path / "end")
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                *(*command, sys.executable, "-m", "fastcluster", "serve", "one:app"),
                *("--app-dir", str(tmp_path), "--workers", "1", "--bind", "127.0.0.1:0"),
            ],
            stderr=file,
            stdin=subprocess.DEVNULL,
        )
    try:
        until(lambda: "is ready" in log.read_text(), "the worker")
        [primary] = children(process.pid)
        assert "Name:\tfastcluster: pr\n" in Path(f"/proc/{primary}/status").read_text()
        assert re.search(r"^NSpid:.*\t1$", Path(f"/proc/{primary}/status").read_text(), re.M)
        [worker] = children(primary)

        port = int(re.findall(r"listening on http://127\.0\.0\.1:(\d+)", log.read_text())[0])
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as client:
            client.sendall(f"GET /?{tmp_path} HTTP/1.0\r\n\r\n".encode())
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        until(lambda: len(children(primary)) == 2, "the stranger")
        (tmp_path / "end").write_text("")
        # A zombie would stay among them.
        until(lambda: children(primary) == [worker], "the stranger's burial")

        os.kill(primary, signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
        assert "stopped" in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()  # --kill-child takes the others along
            process.wait(DEADLINE_S)
