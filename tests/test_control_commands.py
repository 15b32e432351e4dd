"""The commands against real servers: what they print, how they fail, and when they return."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from require import require_program
from test_processes import DEADLINE_S, READY, Start, can_connect, start

from fastcluster import cli, control_commands

__all__ = ["start"]

APP = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'{}']\n"


@pytest.fixture
def app_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(APP.format("one"))
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(list(words))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_life_by_command(
    start: Start, runtime_folder: Path, app_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = start("--app-dir", str(app_file.parent), "--workers", "1", app="mine:app")
    [first] = cluster.ready(1)
    assert cluster.get() == "one"

    code, out, _ = run(capsys, "status", "--json")
    status = json.loads(out)
    assert (code, status["name"], status["pid"]) == (0, "mine:app", cluster.pid)
    assert [worker["pid"] for worker in status["workers"]] == [first]

    # It returns when the new code serves, and not before.
    app_file.write_text(APP.format("two or more"))
    assert run(capsys, "reload") == (0, "mine:app: reload done\n", "")
    assert cluster.get() == "two or more"

    app_file.write_text("raise ValueError('broken')\n")
    code, out, err = run(capsys, "reload", "--name", "mine:app")
    assert (code, out) == (3, "")
    assert "the reload failed, the old workers keep serving: " in err
    assert 'mine.py", line 1, in <module>' in err
    assert err.endswith("ValueError: broken\n")
    assert cluster.get() == "two or more"
    code, _, err = run(capsys, "restart", "0")
    assert (code, "restart failed" in err) == (3, True)

    app_file.write_text(APP.format("three"))
    assert run(capsys, "scale", "2") == (0, "mine:app: 2 workers wanted\n", "")
    assert run(capsys, "restart", "0")[0] == 0
    code, out, _ = run(capsys, "ps")
    assert out.splitlines()[1].split()[:2] == ["mine:app", str(cluster.pid)]
    assert "serving" in out

    port = cluster.port
    assert run(capsys, "stop") == (0, "mine:app: stopped\n", "")
    assert not can_connect(port)
    assert cluster.exit_code() == 0
    assert not list((runtime_folder / "fastcluster").iterdir())


def test_a_drain_waits_and_so_does_what_wakes(
    start: Start, runtime_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = start("--workers", "2", "--name", "drained")
    cluster.ready(2)
    pids = {int(found[1]): int(found[2]) for found in cluster.said(READY)}
    name = ("--name", "drained")
    assert run(capsys, "drain", "1", *name) == (0, "drained: drain of worker 1 done\n", "")
    assert not cluster.is_alive(pids[1])
    code, out, _ = run(capsys, "drain", "--json", *name)
    answer = json.loads(out)
    assert (code, answer["done"], answer["status"]["state"]) == (0, "drain", "resting")
    assert (answer["status"]["workers"], answer["status"]["resting"]) == ([], [0, 1])
    assert run(capsys, "drain", "2", *name)[0] == 1

    with socket.create_connection(("127.0.0.1", cluster.port), DEADLINE_S) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert run(capsys, "restart", "1", *name)[0] == 0
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert run(capsys, "drain", *name)[0] == 0
    # It answers when those serve that have woken up.
    assert run(capsys, "reload", *name)[0] == 0
    status = json.loads(run(capsys, "status", "--json", *name)[1])
    assert [worker["state"] for worker in status["workers"]] == ["ready", "ready"]


def test_several_side_by_side(
    start: Start, runtime_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = [start("--workers", "1"), start("--workers", "1", "--name", "shop")]
    for server in servers:
        server.ready(1)
    code, _, err = run(capsys, "status")
    assert code == 1
    assert "several servers run (proc_app:app, shop): say which one with --name" in err
    code, out, _ = run(capsys, "ps", "--json")
    assert [(s["name"], s["pid"]) for s in json.loads(out)] == [
        ("proc_app:app", servers[0].pid),
        ("shop", servers[1].pid),
    ]
    # The name that was given is taken.
    third = start("--name", "shop")
    assert third.exit_code() == 4
    assert third.said("a server named shop runs already: choose another --name")
    # A dead one's socket is in nobody's way.
    servers[1].signal(signal.SIGKILL)
    servers[1].exit_code()
    code, _, err = run(capsys, "status", "--name", "shop")
    assert (code, "no server named shop runs: proc_app:app run" in err) == (1, True)
    fourth = start("--workers", "1", "--name", "shop")
    fourth.ready(1)
    assert json.loads(run(capsys, "status", "--name", "shop", "--json")[1])["pid"] == fourth.pid
    assert run(capsys, "stop", "--now", "--name", "shop")[0] == 0
    assert fourth.exit_code() == 0


def test_without_control_nobody_finds_it(
    start: Start, runtime_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start("--workers", "1", "--no-control").ready(1)
    assert not list(runtime_folder.iterdir())
    code, _, err = run(capsys, "reload")
    assert (code, "no server of this user runs here" in err) == (1, True)


def test_a_server_that_can_have_no_socket_serves(start: Start, runtime_folder: Path) -> None:
    (runtime_folder / "fastcluster").write_text("a file")
    cluster = start("--workers", "1")
    cluster.ready(1)
    assert cluster.said("there is no control socket.*is no folder: move it away")
    assert cluster.get()


def test_workers_do_not_hold_the_socket(start: Start, runtime_folder: Path) -> None:
    cluster = start("--workers", "1")
    [pid] = cluster.ready(1)
    inode = socket_inode(runtime_folder / "fastcluster" / "proc_app:app.sock")
    assert f"socket:[{inode}]" in descriptors(cluster.pid)
    assert f"socket:[{inode}]" not in descriptors(pid)


def socket_inode(path: Path) -> str:
    lines = Path("/proc/net/unix").read_text().splitlines()
    return next(line.split()[6] for line in lines if line.endswith(str(path)))


def descriptors(pid: int) -> list[str]:
    return [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]


def test_with_curl(start: Start, runtime_folder: Path) -> None:
    program = require_program("curl", package="curl")
    cluster = start("--workers", "1")
    cluster.ready(1)
    path = runtime_folder / "fastcluster" / "proc_app:app.sock"

    def curl(*words: str) -> object:
        done = subprocess.run(
            [program, "-s", "--max-time", "20", "--unix-socket", str(path), *words],
            capture_output=True,
            check=True,
            timeout=30,
        )
        return json.loads(done.stdout)

    assert curl("http://x/status")["pid"] == cluster.pid  # type: ignore[index]
    assert curl("-X", "POST", "http://x/reload")["done"] == "reload"  # type: ignore[index]
    assert curl("-d", "workers=0", "http://x/scale") == {
        "error": "from 1 to 16 workers can be had (--max-workers), not 0"
    }
    cluster.ready(2)


# ---- how it looks


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.9, "0s"), (61, "1m 1s"), (7200, "2h 0m"), (9 * 86400 + 4 * 3600, "9d 4h")],
)
def test_age(seconds: float, words: str) -> None:
    assert control_commands.age(seconds) == words


def test_what_a_client_sent_does_not_move_the_cursor() -> None:
    worker = dict.fromkeys(
        ("number", "pid", "age_s", "restarts", "connections", "running", "requests", "rss_bytes"), 0
    )
    request = {"line": "GET /\x1b[2J", "client": "", "age_s": 1.0}
    status = {
        "name": "app",
        "state": "serving",
        "wanted": 1,
        "pid": 1,
        "age_s": 1,
        "version": "0",
        "urls": [],
        "workers": [{**worker, "state": "ready", "request": request}],
    }
    text = control_commands.described(status)
    assert "GET /?[2J for 1.0 s" in text
    assert "1 of 1 workers ready" in text
