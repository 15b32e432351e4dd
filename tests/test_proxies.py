"""nginx and HAProxy in front, with keep-alive to us: reloads and upgrades lose nothing there.

Neither is let try again, so a request that meets a closing connection is an error to the
client, which counts.  They listen on unix sockets, so that no port need be guessed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from require import require_program
from test_loss import Client
from test_processes import DEADLINE_S, Start, start
from test_upgrade import gone, heirs_of

__all__ = ["start"]

NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log warn; worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  upstream us {{ server 127.0.0.1:{port}; keepalive 32; }}
  server {{
    listen unix:{folder}/s;
    location / {{
      proxy_pass http://us; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_next_upstream off;
    }}
  }}
}}
"""

HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  retries 0
  http-reuse always
listen us
  bind {folder}/s
  server one 127.0.0.1:{port}
"""

PROXIES = {
    "nginx": (NGINX, ["-p", "{folder}", "-e", "{folder}/first.log", "-c"]),
    "haproxy": (HAPROXY, ["-db", "-f"]),
}

Proxy = Callable[[str, int], Path]


@pytest.fixture
def proxy(tmp_path: Path, runtime_folder: Path) -> Iterator[Proxy]:
    """Start a proxy in front of a port; returns its socket."""
    running: list[subprocess.Popen[bytes]] = []

    def go(name: str, port: int) -> Path:
        program = require_program(name, package={"nginx": "nginx-light"}.get(name, name))
        text, words = PROXIES[name]
        settings = runtime_folder / "proxy.conf"
        settings.write_text(text.format(folder=runtime_folder, port=port))
        command = [program, *(word.format(folder=runtime_folder) for word in words), str(settings)]
        with (tmp_path / "log").open("wb") as log:
            running.append(subprocess.Popen(command, stdout=log, stderr=log))
        deadline = time.monotonic() + DEADLINE_S
        while not is_there(runtime_folder / "s"):
            assert running[-1].poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return runtime_folder / "s"

    yield go
    for process in running:
        process.terminate()
        process.wait(DEADLINE_S)


def is_there(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


class UnixClient(Client):
    """A client of the proxy."""

    def __init__(self, path: Path, keeps: bool) -> None:
        super().__init__(0, keeps)
        self.path = path

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE_S)
        sock.connect(str(self.path))
        return sock


@pytest.mark.parametrize("name", PROXIES)
def test_reloads_and_upgrades_behind_a_proxy_lose_nothing(
    start: Start, proxy: Proxy, name: str
) -> None:
    cluster = start("--workers", "2")
    cluster.ready(2)
    path = proxy(name, cluster.port)
    clients = [UnixClient(path, keeps) for keeps in (True, False) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        for done in range(1, 4):
            cluster.signal(signal.SIGHUP)
            cluster.expect("reload: done", done)
        pid = cluster.pid
        for done in range(1, 3):
            os.kill(pid, signal.SIGUSR2)
            cluster.expect("has taken over", done)
            gone(pid)
            pid = heirs_of(cluster)[-1]
    finally:
        for client in clients:
            client.enough.set()
        for heir in heirs_of(cluster)[-1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(heir, signal.SIGTERM)
    for client in clients:
        client.join(DEADLINE_S)
    assert [client.failure for client in clients] == [None] * len(clients)
    answers = sum((client.answers for client in clients), Counter())
    assert len(answers) >= 8
    assert not cluster.said("ERROR|killed")
