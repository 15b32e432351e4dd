"""`fastcluster start`: several apps of one file, as real processes."""

from __future__ import annotations

import http.client
import json
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_processes import DEADLINE_S, Cluster

from fastcluster import cli, ecosystem

FILE = """
workers = 1
host = "127.0.0.1"
port = 0
[apps.web]
app = "one:app"
chdir = "web"
[apps.api]
app = "two:app"
chdir = "api"
[apps.api.env.staging]
workers = 2
"""
PRIMARY = r"app (\w+): primary (\d+)"


class Apps(Cluster):
    """A running `fastcluster start`, and its primaries."""

    def primaries(self, count: int) -> dict[str, int]:
        return {match[1]: int(match[2]) for match in self.expect(PRIMARY, count)}

    def port_of(self, pid: int) -> int:
        pattern = rf"\[{pid}\] \[primary\] INFO listening on http://127\.0\.0\.1:(\d+)"
        return int(self.expect(pattern)[0][1])

    def answer_of(self, pid: int) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port_of(pid), timeout=DEADLINE_S)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def end(self) -> None:
        super().end()
        for match in self.said(PRIMARY):
            try:
                pidfd = os.pidfd_open(int(match[2]))
            except ProcessLookupError:
                continue
            # Nobody waits for it any more, so its number may be another's by now.
            if os.getsid(int(match[2])) == self.pid:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], DEADLINE_S)
            os.close(pidfd)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder, module, answer in (("web", "one", "the web"), ("api", "two", "the api")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{module}.py").write_text(
            f"def app(request):\n    return {answer!r}\n"
        )
    (tmp_path / "fastcluster.toml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


Start = Callable[..., Apps]


@pytest.fixture
def start(site: Path, runtime_folder: Path) -> Iterator[Start]:
    running: list[Apps] = []

    def and_remember(*words: str) -> Apps:
        running.append(Apps(*words, command="start"))
        return running[-1]

    yield and_remember
    for apps in running:
        apps.end()


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = cli.main(list(words))
    return code, capsys.readouterr().out


def test_each_app_is_a_server_of_its_own(
    start: Start, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apps = start()
    pids = apps.primaries(2)
    apps.ready(2)
    assert apps.answer_of(pids["web"]) == "the web"
    assert apps.answer_of(pids["api"]) == "the api"
    _, out = run(capsys, "ps", "--json")
    assert {one["name"]: one["pid"] for one in json.loads(out)} == pids

    (site / "api" / "two.py").write_text("def app(request):\n    return 'the new api'\n")
    assert run(capsys, "reload", "api") == (0, "api: reload done\n")
    assert apps.answer_of(pids["api"]) == "the new api"

    assert run(capsys, "stop", "web") == (0, "web: stopped\n")
    apps.expect("app web: its primary exited with code 0; 1 app left")
    assert apps.answer_of(pids["api"]) == "the new api"
    assert run(capsys, "status", "api", "--name", "web")[0] == 2

    apps.signal(signal.SIGTERM)
    apps.expect("app api: its primary exited with code 0; 0 apps left")
    assert apps.exit_code() == 0


def test_signals_reach_every_primary(start: Start) -> None:
    apps = start()
    pids = apps.primaries(2)
    apps.ready(2)
    apps.signal(signal.SIGHUP)
    apps.expect("reload: done", 2)
    apps.signal(signal.SIGINT)
    for pid in pids.values():
        apps.expect(rf"\[{pid}\] \[primary\] INFO stopped")
    assert apps.exit_code() == 0


def test_only_those_that_are_named_in_the_environment_that_is_named(start: Start) -> None:
    apps = start("api", "--env", "staging")
    assert list(apps.primaries(1)) == ["api"]
    apps.ready(2)
    apps.signal(signal.SIGTERM)
    assert apps.exit_code() == 0


def test_a_primary_that_was_killed_is_started_again(start: Start) -> None:
    apps = start("web")
    first = apps.primaries(1)["web"]
    apps.ready(1)
    os.kill(first, signal.SIGKILL)
    apps.expect("app web: its primary was killed by SIGKILL .*; next start in 0.1 s")
    second = apps.primaries(2)["web"]
    assert second != first
    assert apps.answer_of(second) == "the web"
    apps.signal(signal.SIGTERM)
    assert apps.exit_code() == 0


def test_an_app_that_does_not_load_leaves_the_others_and_its_code(start: Start, site: Path) -> None:
    (site / "api" / "two.py").write_text("1 / 0\n")
    apps = start()
    pids = apps.primaries(2)
    apps.expect("app api: its primary exited with code 3; 1 app left")
    assert apps.answer_of(pids["web"]) == "the web"
    apps.signal(signal.SIGTERM)
    assert apps.exit_code() == 3


def test_a_primary_that_hands_over_is_followed(caplog: pytest.LogCaptureFixture) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        heirs = [other.pid]
        apps = [
            ecosystem.App("web", ["true"], find_heir=lambda: heirs.pop() if heirs else None),
            # It ends the other one, and so is as good as a signal from outside.
            ecosystem.App("api", ["sh", "-c", f"sleep 0.1; kill -TERM {other.pid}"]),
        ]
        try:
            with caplog.at_level(logging.INFO):
                assert ecosystem.run(apps, logging.getLogger("fastcluster.test")) == 0
        finally:
            other.kill()
    said = [record.getMessage() for record in caplog.records]
    assert f"app web: primary {other.pid}, which has taken over" in said
    assert said[-1].startswith(("app web: its primary exited", "app api: its primary exited"))


def test_process_1_collects_strangers_and_leaves_its_own() -> None:
    script = (
        "import os\nfrom fastcluster.ecosystem import reap_strangers\n"
        "pids = []\n"
        "for _ in range(2):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        os._exit(7)\n"
        "    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)\n"
        "    pids.append(pid)\n"
        "reap_strangers([])\n"
        "try:\n"
        "    os.waitpid(-1, 0)\n"
        "except ChildProcessError:\n"
        "    print('all')\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os._exit(7)\n"
        "os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)\n"
        "reap_strangers([pid])\n"
        "print(os.waitpid(pid, 0)[1] >> 8)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.stdout.split() == ["all", "7"], done.stderr
