"""The files of examples/deploy: each is checked by its own program, and the proxies are run.

Through nginx and through HAProxy a load generator keeps connections open while the server is
reloaded ten times, and every response is counted.  FASTCLUSTER_LOSS_REQUESTS asks for as many
requests as that, in rounds of ten reloads; without it there is one round.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from require import require_program
from test_processes import DEADLINE_S, Cluster, Start, start

from fastcluster import cli, config

__all__ = ["start"]

DEPLOY = Path(__file__).parent.parent / "examples" / "deploy"
RELOADS = 10
WANTED = int(os.environ.get("FASTCLUSTER_LOSS_REQUESTS", "0"))


def program(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> str:
    # Where Debian has what only root is thought to run.
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    return require_program(name, package=package)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def written(folder: Path, name: str, changes: dict[str, str]) -> Path:
    """Write an example with a test's own ports and paths; each change must find its place."""
    text = (DEPLOY / name).read_text()
    for old, new in changes.items():
        assert old in text, (name, old)
        text = text.replace(old, new)
    path = folder / name
    path.write_text(text)
    return path


# ---- words


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Find every `fastcluster …` that the files have."""
    for path in sorted(DEPLOY.iterdir()):
        text = re.sub(r"\\\n#?\s*", " ", path.read_text())
        if path.name == "kubernetes.yaml":
            block = re.search(r"args:\n((?:\s+(?:-|#) .*\n)+)", text)
            assert block is not None
            yield path.name, re.findall(r"^\s+- (\S+)$", block[1], re.MULTILINE)
        elif path.name == "Dockerfile":
            for line in re.findall(r"^CMD \[(.*)\]$", text, re.MULTILINE):
                yield path.name, [word.strip('" ') for word in line.split(",")]
        else:
            for line in re.findall(r"(?:^#\s+|=\S*/)(fastcluster (?:serve|reload) .*)", text, re.M):
                yield path.name, shlex.split(line)


def test_every_command_line_is_one_that_is_understood() -> None:
    lines = list(command_lines())
    assert {name for name, _ in lines} >= {
        "app.service",
        "Dockerfile",
        "kubernetes.yaml",
        "nginx.conf",
        "haproxy.cfg",
    }
    for name, (first, command, *words) in lines:
        assert first == "fastcluster", name
        known = {
            word
            for parameter in cli.commands.commands[command].params
            for word in parameter.opts + parameter.secondary_opts
        }
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, (name, word)


def test_the_pod_waits_long_enough() -> None:
    text = (DEPLOY / "kubernetes.yaml").read_text()

    def number(pattern: str) -> int:
        found = re.search(pattern + r"(\d+)", text)
        assert found is not None, pattern
        return int(found[1])

    delay, grace = number("--shutdown-delay="), number("--graceful-timeout=")
    assert delay + grace < number("terminationGracePeriodSeconds: ")
    assert number("periodSeconds: ") < delay
    assert set(re.findall(r"path: (/\w+)", text)) == set(re.findall(r"--\w+z=(/\w+)", text))


def test_the_units_fit_the_server() -> None:
    text = (DEPLOY / "app.service").read_text()
    stop = re.search(r"TimeoutStopSec=(\d+)", text)
    assert stop is not None
    assert int(stop[1]) > config.Config().timeout_graceful_s


# ---- by their own programs


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    analyze = require_program("systemd-analyze", package="systemd")
    command = tmp_path / "fastcluster"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    units = [
        written(tmp_path, "app.service", {"/srv/app/venv/bin/fastcluster": str(command)}),
        written(tmp_path, "app.socket", {}),
    ]
    done = subprocess.run(
        [analyze, "verify", *map(str, units)], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert (done.returncode, done.stderr) == (0, "")


class Proxy:
    """A proxy in the foreground; its log goes to a file."""

    def __init__(self, words: Sequence[str], folder: Path, port: int) -> None:
        self.port = port
        self.log = folder / "proxy.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, process_group=0)
        deadline = time.monotonic() + DEADLINE_S
        while not self.answers():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()

    def answers(self) -> bool:
        """Tell whether a request gets through to the application."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), DEADLINE_S) as client:
                client.sendall(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n")
                return client.recv(65536).startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 200 "))
        except OSError:
            return False

    def end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def nginx(app_port: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    path = program("nginx", "nginx-light", monkeypatch)
    port = free_port()
    places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "".join(f"    {place}_temp_path {folder / place};\n" for place in places)
    conf = written(
        folder,
        "nginx.conf",
        {
            "listen 80;": f"listen 127.0.0.1:{port};",
            "127.0.0.1:8000": f"127.0.0.1:{app_port}",
            "http {\n": f"http {{\n    access_log off;\n{own}",
        },
    )
    words = [path, "-c", str(conf), "-e", "stderr", "-g", f"pid {folder}/pid; daemon off;"]
    checked = subprocess.run([*words, "-t"], capture_output=True, text=True, timeout=DEADLINE_S)
    assert checked.returncode == 0, checked.stderr
    return Proxy(words, folder, port)


def haproxy(app_port: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    path = program("haproxy", "haproxy", monkeypatch)
    port = free_port()
    conf = written(
        folder,
        "haproxy.cfg",
        {"bind :80": f"bind 127.0.0.1:{port}", "127.0.0.1:8000": f"127.0.0.1:{app_port}"},
    )
    checked = subprocess.run(
        [path, "-c", "-f", str(conf)], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert checked.returncode == 0, checked.stderr
    assert "[WARNING]" not in checked.stderr
    return Proxy([path, "-db", "-f", str(conf)], folder, port)


# ---- ten reloads under load


class Load:
    """A running wrk; its report when it is told to end."""

    def __init__(self, port: int) -> None:
        wrk = require_program("wrk", package="wrk")
        self._process = subprocess.Popen(
            [wrk, "-t1", "-c32", "-d3600s", "--timeout", "20s", f"http://127.0.0.1:{port}/"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def report(self) -> str:
        # wrk answers this one with what it has counted so far.
        self._process.send_signal(signal.SIGINT)
        return self._process.communicate(timeout=60)[0]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def one_round(cluster: Cluster, port: int, done: int) -> int:
    """Reload ten times under load; return how many requests were answered, all of them well."""
    load = Load(port)
    try:
        for n in range(RELOADS):
            cluster.signal(signal.SIGHUP)
            cluster.expect("reload: done", done + n + 1)
        report = load.report()
    finally:
        load.end()
    # wrk speaks of these only if there were any.
    assert "Socket errors" not in report, report
    assert "Non-2xx" not in report, report
    found = re.search(r"(\d+) requests in", report)
    assert found is not None, report
    return int(found[1])


Front = Callable[[int, Path, pytest.MonkeyPatch], Proxy]


@pytest.mark.parametrize("front", [nginx, haproxy], ids=["nginx", "haproxy"])
def test_ten_reloads_in_a_row_lose_no_request(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, front: Front
) -> None:
    require_program("wrk", package="wrk")
    cluster = start("--workers", "2", "--forwarded-allow-ips", "127.0.0.1")
    cluster.ready(2)
    proxy = front(cluster.port, tmp_path, monkeypatch)
    try:
        requests = one_round(cluster, proxy.port, 0)
        rounds = 1
        while requests < WANTED:
            requests += one_round(cluster, proxy.port, rounds * RELOADS)
            rounds += 1
    finally:
        proxy.end()
    assert requests > 500, "the load was no load"
    print(f"{requests} requests and {rounds * RELOADS} reloads: none failed", file=sys.stderr)
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert not cluster.said(" ERROR ")
