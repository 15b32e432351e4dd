"""A new primary takes over from the old one, or fails to, under load and with real processes.

The clients count as those of test_loss do: none tries again, and whatever is refused, reset,
cut off or late is a failure.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_control_commands import run as run_command
from test_loss import load
from test_processes import DEADLINE_S, Cluster, Start, start

from fastcluster import upgrade
from fastcluster.channel import Channel, pair
from fastcluster.config import working_folder

__all__ = ["start"]

APP = """import os
{first}
def app(environ, start_response):
    content = b"{version}:" + str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]
"""


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command about our server, whatever else runs on this machine."""
    return run_command(capsys, *words, "--name", "site_app:app")


def release(folder: Path, version: str, first: str = "") -> Path:
    """Make a folder with an application; `first` is code that runs while it is imported."""
    folder.mkdir(exist_ok=True)
    (folder / "site_app.py").write_text(APP.format(version=version, first=first))
    return folder


@pytest.fixture
def begin(start: Start) -> Iterator[Callable[..., Cluster]]:
    """Start a server of site_app in a folder; the primaries that came after it end, too."""
    clusters: list[Cluster] = []

    def go(folder: Path, *options: str, **env: str) -> Cluster:
        words = ("--app-dir", ".", "--chdir", str(folder), "--graceful-timeout", "5", *options)
        clusters.append(start(*words, app="site_app:app", **env))
        clusters[-1].ready(1)
        return clusters[-1]

    yield go
    for cluster in clusters:
        cluster.hear_all()
        for pid in heirs(cluster):
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(pid) == cluster.pid:
                    os.kill(pid, signal.SIGKILL)


def heirs(cluster: Cluster) -> list[int]:
    return [int(found[1]) for found in cluster.said(r"a new primary \(pid (\d+)\) comes up")]


def heirs_of(cluster: Cluster) -> list[int]:
    cluster.hear_all()
    return heirs(cluster)


def gone(pid: int) -> None:
    """Wait until a process is gone, or a corpse."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        assert select.select([fd], [], [], DEADLINE_S)[0], f"process {pid} is still there"
        os.close(fd)


def test_an_upgrade_under_load_loses_nothing(
    begin: Callable[..., Cluster],
    runtime_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    release(tmp_path / "1", "one")
    release(tmp_path / "2", "two")
    current, pid_file = tmp_path / "current", tmp_path / "pid"
    current.symlink_to("1")
    cluster = begin(current, "--workers", "2", "--pid-file", str(pid_file))
    cluster.ready(2)
    port = cluster.port
    assert pid_file.read_text() == f"{cluster.pid}\n"
    clients = load(cluster)
    for version in ("two", "one", "two"):
        code, out, err = run(capsys, "status", "--json")
        assert code == 0, err
        before = json.loads(out)
        current.unlink()
        current.symlink_to("2" if version == "two" else "1")
        code, out, err = run(capsys, "upgrade", "--json")
        assert (code, err) == (0, "")
        assert json.loads(out) == {"done": "upgrade", "pid": heirs_of(cluster)[-1]}
        after = json.loads(run(capsys, "status", "--json")[1])
        assert before["pid"] != after["pid"] == int(pid_file.read_text())
        assert after["name"] == "site_app:app"
        assert after["urls"] == [f"http://127.0.0.1:{port}"]
        assert [worker["state"] for worker in after["workers"]] == ["ready", "ready"]
        gone(before["pid"])
        assert cluster.get().startswith(version)
    for client in clients:
        client.enough.set()
    for client in clients:
        client.join(DEADLINE_S)
    assert not any(client.is_alive() for client in clients)
    assert [client.failure for client in clients] == [None] * len(clients)
    answers = sum((client.answers for client in clients), Counter())
    assert len(answers) == 8  # every worker of every primary had its part
    assert {answer[:3] for answer in answers} == {"one", "two"}
    assert run(capsys, "stop")[0] == 0
    assert cluster.exit_code() == 0  # of the first
    assert not pid_file.exists()
    assert not list((runtime_folder / "fastcluster").iterdir())
    assert not cluster.said("ERROR|killed|WARNING")


def test_usr2_with_a_unix_socket_and_a_stop_of_both(
    begin: Callable[..., Cluster], tmp_path: Path
) -> None:
    path = release(tmp_path / "1", "one") / "site.sock"
    cluster = begin(tmp_path / "1", "--workers", "1", "--bind", f"unix:{path}")
    release(tmp_path / "1", "two")
    cluster.signal(signal.SIGUSR2)
    cluster.expect("has taken over")
    [heir] = heirs(cluster)
    gone(cluster.pid)
    assert path.exists()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert b"two:" in client.recv(65536)
    os.kill(heir, signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert not path.exists()
    assert len(cluster.said("INFO stopped")) == 2


def test_what_does_not_come_up_is_told_and_the_old_serve_on(
    begin: Callable[..., Cluster],
    runtime_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, pid_file = release(tmp_path / "1", "one"), tmp_path / "pid"
    settings = tmp_path / "fastcluster.toml"
    settings.write_text("workers = 2\n")
    cluster = begin(folder, "--config", str(settings), "--pid-file", str(pid_file))
    workers = cluster.ready(2)

    release(folder, "two", "raise ValueError('broken')")
    code, out, err = run(capsys, "upgrade")
    assert (code, out) == (3, "")
    assert "the upgrade failed, the old workers keep serving: " in err
    assert 'site_app.py", line 2, in <module>' in err
    assert err.endswith("ValueError: broken\n")
    cluster.expect("upgrade: given up, the old primary keeps serving: .*while it was imported")

    # A mistake in the configuration ends it before it has workers.
    release(folder, "two")
    settings.write_text("workerz = 2\n")
    code, _, err = run(capsys, "upgrade")
    assert (code, "workerz" in err) == (3, True)
    settings.write_text("workers = 1\n")

    for pid in heirs(cluster):
        gone(pid)
    assert pid_file.read_text() == f"{cluster.pid}\n"
    status = json.loads(run(capsys, "status", "--json")[1])
    assert {worker["pid"] for worker in status["workers"]} == set(workers)
    assert status["state"] == "serving"
    assert cluster.get().startswith("one")

    assert run(capsys, "upgrade")[0] == 0
    assert json.loads(run(capsys, "status", "--json")[1])["wanted"] == 1
    gone(cluster.pid)  # its last worker may answer somebody until then
    assert cluster.get().startswith("two")
    assert run(capsys, "stop")[0] == 0
    assert cluster.exit_code() == 0


def test_one_that_takes_too_long_is_ended_and_a_second_is_refused(
    begin: Callable[..., Cluster],
    runtime_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = release(tmp_path / "1", "one")
    os.mkfifo(folder / "never")
    cluster = begin(folder, "--workers", "1", "--timeout-startup", "1")
    release(folder, "two", "open('never').read()")
    cluster.signal(signal.SIGUSR2)
    cluster.expect("a new primary")
    assert run(capsys, "upgrade") == (
        1,
        "",
        "fastcluster: an upgrade is under way: wait for its end\n",
    )
    cluster.signal(signal.SIGUSR2)
    cluster.expect("upgrade: refused: an upgrade is under way")
    cluster.expect("upgrade: given up, .* did not load within 1 s")
    gone(heirs(cluster)[0])
    assert cluster.get().startswith("one")


def test_a_stop_ends_the_one_that_comes_up(begin: Callable[..., Cluster], tmp_path: Path) -> None:
    folder = release(tmp_path / "1", "one")
    os.mkfifo(folder / "never")
    cluster = begin(folder, "--workers", "1")
    release(folder, "two", "open('here', 'w').close(); open('never').read()")
    cluster.signal(signal.SIGUSR2)
    cluster.expect("takes over from|fastcluster .*: primary", 2)
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert cluster.said("upgrade: given up, .*the server stops")
    gone(heirs(cluster)[0])


def test_a_killed_primary_leaves_all_to_the_one_that_comes_up(
    begin: Callable[..., Cluster], tmp_path: Path
) -> None:
    folder = release(tmp_path / "1", "one")
    os.mkfifo(folder / "go")
    cluster = begin(folder, "--workers", "1")
    release(folder, "two", "open('go').read()")
    cluster.signal(signal.SIGUSR2)
    cluster.expect(": primary", 2)
    cluster.signal(signal.SIGKILL)
    cluster.expect("has taken over|the primary is dead: draining")
    (folder / "go").write_text("")
    cluster.expect("has taken over")
    cluster.expect("is ready", 2)
    assert cluster.get().startswith("two")
    os.kill(heirs(cluster)[0], signal.SIGTERM)
    cluster.exit_code()


def test_the_service_manager_hears_who_is_the_main_process(
    begin: Callable[..., Cluster], tmp_path: Path
) -> None:
    folder = release(tmp_path / "1", "one")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(DEADLINE_S)
        cluster = begin(folder, "--workers", "1", NOTIFY_SOCKET=str(tmp_path / "notify"))

        def until(word: str) -> list[str]:
            heard: list[str] = []
            while not heard or word not in heard[-1]:
                heard.append(manager.recv(4096).decode())
            return heard

        until("READY=1")
        cluster.signal(signal.SIGUSR2)
        heard = until("MAINPID=")
        [heir] = heirs(cluster) or [int(cluster.expect(r"new primary \(pid (\d+)\)")[0][1])]
        assert heard[-1] == f"MAINPID={heir}"
        assert not any("STOPPING" in text for text in heard)
        assert "READY=1" in until("READY=1")[-1]
        gone(cluster.pid)
        os.kill(heir, signal.SIGTERM)
        heard = until("STOPPING=1")
        assert len(heard) == 1  # of the old primary nothing more was heard
    cluster.exit_code()


# ---- the command line


def test_a_script_that_names_its_interpreter_is_started_by_itself(tmp_path: Path) -> None:
    script = tmp_path / "fastcluster"
    script.write_text("#!/usr/bin/env python3\nimport sys\n")
    words = ["python3", str(script), "serve"]
    assert upgrade.command_of(words, "/usr/bin/python3", "/").words == (str(script), "serve")
    # pip's way where the path is too long for the kernel.
    script.write_text("#!/bin/sh\n'''exec' /long/python \"$0\" \"$@\"\n' '''\n")
    words = ["/long/python", str(script), "serve"]
    assert upgrade.command_of(words, "/long/python", "/").words == (str(script), "serve")
    # Another interpreter was meant.
    words = ["/other/python", str(script), "serve"]
    assert upgrade.command_of(words, "/other/python", "/").words == tuple(words)


def test_a_module_is_started_by_the_interpreter_that_was_found() -> None:
    words = ["python", "-m", "fastcluster", "serve"]
    assert upgrade.command_of(words, "/venv/bin/python", "/").words[0] == "/venv/bin/python"
    words = ["./venv/bin/python", "-m", "fastcluster", "serve"]
    assert upgrade.command_of(words, "/venv/bin/python", "/").words[0] == "./venv/bin/python"


def test_the_folder_is_that_of_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1").mkdir()
    link = tmp_path / "current"
    link.symlink_to("1")
    monkeypatch.chdir(link)
    assert working_folder({"PWD": str(link)}) == str(link)
    assert working_folder({"PWD": str(tmp_path)}) == os.path.realpath(link)
    assert working_folder({}) == os.path.realpath(link)


def test_a_command_that_is_gone_says_so(tmp_path: Path) -> None:
    ours, theirs = pair()
    pid = os.fork()
    if pid == 0:
        os._exit(upgrade.Command((str(tmp_path / "none"),), str(tmp_path)).start(theirs))
    theirs.close()
    os.waitpid(pid, 0)
    assert said(ours) == [{"failed": f"cannot start {tmp_path}/none: No such file or directory"}]
    ours.close()


def said(channel: Channel) -> list[Any]:
    return [message for message, _ in channel.receive()]


def test_process_1_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    succession: Any = object.__new__(upgrade.Succession)
    succession._order = None
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(upgrade.CannotUpgrade, match="process 1 of a container"):
        succession.begin(None)
