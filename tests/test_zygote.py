"""--preload with real processes: one import, many workers, memory that is shared."""

from __future__ import annotations

import os
import select
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from test_control_commands import run as run_command
from test_loss import load
from test_processes import DEADLINE_S, READY, Cluster, Start, can_connect, start

from fastcluster.proc import pss_bytes

__all__ = ["start"]

# Each import is a line of the file, with the pid.
APP = """import os
with open("imports", "a") as file:
    print(os.getpid(), file=file)
{first}
def app(environ, start_response):
    content = b"{version}:" + str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]
"""

Begin = Callable[..., Cluster]


def release(folder: Path, version: str, first: str = "") -> Path:
    (folder / "site_app.py").write_text(APP.format(version=version, first=first))
    return folder


def imports(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "imports").read_text().split()]


@pytest.fixture
def begin(start: Start, tmp_path: Path) -> Begin:
    def go(*options: str) -> Cluster:
        words = ("--preload", "--chdir", str(tmp_path), "--app-dir", ".", *options)
        return start(*words, app="site_app:app")

    return go


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    return run_command(capsys, *words, "--name", "site_app:app")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def gone(pid: int) -> bool:
    """Wait until a process is gone, or a corpse."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], DEADLINE_S)[0])
    finally:
        os.close(fd)


def zygotes(cluster: Cluster) -> list[int]:
    return [int(found[1]) for found in cluster.said(r"is loaded, in zygote (\d+)")]


def test_the_application_is_imported_once_and_not_by_the_primary(
    begin: Begin, tmp_path: Path
) -> None:
    release(tmp_path, "one", "import gc")
    cluster = begin("--workers", "3")
    pids = cluster.ready(3)
    [zygote] = zygotes(cluster)
    assert imports(tmp_path) == [zygote]
    assert [parent(pid) for pid in [*pids, zygote]] == [cluster.pid] * 4
    assert int(cluster.get().partition(":")[2]) in pids
    # Its death is seen like that of any other, and its successor imports nothing.
    cluster.kill(pids[0], signal.SIGKILL)
    cluster.expect(rf"pid {pids[0]}\) was killed by SIGKILL")
    cluster.ready(4)
    assert imports(tmp_path) == [zygote]
    port = cluster.port
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert gone(zygote)
    assert not can_connect(port)
    assert not cluster.said("WARNING")


def test_a_reload_is_a_new_zygote_and_one_that_fails_leaves_the_old(
    begin: Begin, runtime_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release(tmp_path, "one")
    cluster = begin("--workers", "1")
    cluster.ready(1)
    release(tmp_path, "two")
    assert run(capsys, "reload")[0] == 0
    assert cluster.get().startswith("two")
    assert gone(zygotes(cluster)[0])

    release(tmp_path, "three", "raise ValueError('broken')")
    code, _, err = run(capsys, "reload")
    assert code == 3
    assert "the reload failed, the old workers keep serving: " in err
    assert err.endswith("ValueError: broken\n")
    # What is broken now is not what the workers run: they are replaced by what they are.
    assert run(capsys, "restart", "0")[0] == 0
    assert cluster.get().startswith("two")
    assert len(imports(tmp_path)) == 3

    # It loads, but no worker comes up with it: back to the zygote before.
    before = zygotes(cluster)
    release(
        tmp_path, "four", "os.register_at_fork(after_in_child=lambda: os._exit(7)) if 1 else None"
    )
    code, _, err = run(capsys, "reload")
    assert (code, "failed" in err) == (3, True)
    assert gone(zygotes(cluster)[-1])
    assert run(capsys, "restart", "0")[0] == 0
    assert cluster.get().startswith("two")
    assert zygotes(cluster)[: len(before)] == before


def test_reloads_lose_nothing(begin: Begin, tmp_path: Path) -> None:
    release(tmp_path, "one")
    cluster = begin("--workers", "2")
    cluster.ready(2)
    clients = load(cluster)
    for done in range(1, 6):
        cluster.signal(signal.SIGHUP)
        cluster.expect("reload: done", done)
    for client in clients:
        client.enough.set()
    for client in clients:
        client.join(DEADLINE_S)
    assert [client.failure for client in clients] == [None] * len(clients)
    assert len(sum((client.answers for client in clients), Counter())) > 5
    assert len(imports(tmp_path)) == 6
    assert not cluster.said("ERROR|killed")


def test_an_application_that_does_not_load_is_said_once(begin: Begin, tmp_path: Path) -> None:
    release(tmp_path, "one", "raise ValueError('broken')")
    cluster = begin("--workers", "3")
    assert cluster.exit_code() == 3
    assert len(cluster.said("did not load: .*broken")) == 1
    assert len(cluster.said("Traceback")) == 1
    assert len(imports(tmp_path)) == 1
    assert cluster.said("no worker came up: giving up")


def test_one_that_loads_too_long_is_code_3(begin: Begin, tmp_path: Path) -> None:
    release(tmp_path, "one", "open('never').read()")
    os.mkfifo(tmp_path / "never")
    cluster = begin("--workers", "1", "--timeout-startup", "0.5")
    assert cluster.exit_code() == 3
    assert cluster.said(r"did not load within 0.5 s \(--timeout-startup\)")


def test_a_stop_while_it_loads(begin: Begin, tmp_path: Path) -> None:
    release(tmp_path, "one", "open('here', 'w').close(); open('never').read()")
    os.mkfifo(tmp_path / "here")
    os.mkfifo(tmp_path / "never")
    cluster = begin("--workers", "1")
    (tmp_path / "here").read_text()
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert gone(imports(tmp_path)[0])


def test_workers_that_come_later_write_to_the_log_that_was_reopened(
    begin: Begin, tmp_path: Path
) -> None:
    release(tmp_path, "one")
    log, moved = tmp_path / "log", tmp_path / "log.1"
    cluster = begin("--workers", "1", "--log-file", str(log), "--log-level", "debug")

    def until(path: Path, words: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not path.exists() or words not in path.read_text():
            assert time.monotonic() < deadline, f"{words} never came"
            time.sleep(0.005)

    until(log, "is ready")
    log.rename(moved)
    cluster.signal(signal.SIGUSR1)
    until(log, "reopened")
    cluster.signal(signal.SIGTTIN)
    until(log, "[worker 1] DEBUG generation 1")
    assert "[worker 1]" not in moved.read_text()


def test_exit_hooks_of_the_import_run_in_each_worker(begin: Begin, tmp_path: Path) -> None:
    hook = "import atexit; atexit.register(lambda: print(os.getpid(), file=open('left', 'a')))"
    release(tmp_path, "one", hook)
    cluster = begin("--workers", "2")
    pids = cluster.ready(2)
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert sorted((tmp_path / "left").read_text().split()) == sorted(map(str, pids))


def test_threads_of_the_import_are_named(begin: Begin, tmp_path: Path) -> None:
    lines = "import threading; stop = threading.Event()\n"
    lines += "threading.Thread(target=stop.wait, name='poller', daemon=True).start()"
    release(tmp_path, "one", lines)
    cluster = begin("--workers", "1")
    cluster.ready(1)
    assert cluster.said(r"WARNING .* threads while it was imported \(poller\), which no worker")
    assert cluster.get().startswith("one")


def test_a_zygote_that_dies_is_followed_by_another(begin: Begin, tmp_path: Path) -> None:
    release(tmp_path, "one")
    cluster = begin("--workers", "1")
    [worker] = cluster.ready(1)
    [zygote] = zygotes(cluster)
    os.kill(zygote, signal.SIGKILL)
    cluster.expect(f"zygote {zygote} was killed by SIGKILL.*another one comes up")
    cluster.expect("is loaded, in zygote", 2)
    assert cluster.get() == f"one:{worker}"
    cluster.kill(worker, signal.SIGKILL)
    cluster.ready(2)
    assert cluster.get().startswith("one")


def test_nobody_outlives_a_killed_primary(begin: Begin, tmp_path: Path) -> None:
    release(tmp_path, "one")
    cluster = begin("--workers", "1")
    [worker] = cluster.ready(1)
    [zygote] = zygotes(cluster)
    cluster.signal(signal.SIGKILL)
    assert gone(zygote)
    assert gone(worker)


def test_it_goes_with_an_upgrade(
    begin: Begin, runtime_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release(tmp_path, "one")
    cluster = begin("--workers", "1")
    cluster.ready(1)
    release(tmp_path, "two", "raise ValueError('broken')")
    code, _, err = run(capsys, "upgrade")
    assert (code, err.endswith("ValueError: broken\n")) == (3, True)
    release(tmp_path, "two")
    assert run(capsys, "upgrade")[0] == 0
    try:
        assert cluster.get().startswith("two")
    finally:
        assert run(capsys, "stop")[0] == 0
    assert cluster.exit_code() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another group")
def test_whoever_imports_is_of_the_group_and_so_are_the_workers(
    begin: Begin, tmp_path: Path
) -> None:
    release(tmp_path, "one", "assert os.getegid() == 12345")
    cluster = begin("--workers", "1", "--group", "12345")
    [worker] = cluster.ready(1)
    assert "Gid:\t12345\t12345" in Path(f"/proc/{worker}/status").read_text()
    # The files of such a process in /proc are root's, so the title is from before the fork.
    assert b"worker 0" in Path(f"/proc/{worker}/cmdline").read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_application_is_never_root(begin: Begin, tmp_path: Path) -> None:
    release(tmp_path, "one", "assert os.geteuid() == 65534")
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o777)
    cluster = begin("--workers", "1", "--user", "65534")
    cluster.expect("is ready|which they|may not read")
    if cluster.said("may not read"):
        pytest.skip("this Python is root's alone")
    [worker] = cluster.ready(1)
    assert os.stat(f"/proc/{worker}/stat").st_uid in (0, 65534)
    assert "Uid:\t65534\t65534" in Path(f"/proc/{worker}/status").read_text()
    assert b"worker 0" in Path(f"/proc/{worker}/cmdline").read_bytes()


def test_memory_is_shared(begin: Begin, start: Start, tmp_path: Path) -> None:
    """The workers' proportional share of a large application, with and without."""
    release(tmp_path, "one", "data = [{'n': n} for n in range(100_000)]")
    taken = {}
    for how in ("--preload", "--no-preload"):
        cluster = begin("--workers", "3", how)
        pids = cluster.ready(3)
        for _ in range(30):
            cluster.get()
        taken[how] = sum(pss_bytes(pid) for pid in pids)
        cluster.signal(signal.SIGTERM)
        cluster.exit_code()
    assert taken["--preload"] > 0
    # 100,000 dicts are over 20 MB, once instead of three times.
    assert taken["--preload"] < taken["--no-preload"] - 25_000_000, taken


def test_a_replacement_takes_no_import(begin: Begin, tmp_path: Path) -> None:
    release(tmp_path, "one", "import time; time.sleep(0.7)")
    cluster = begin("--workers", "1")
    [first] = cluster.ready(1)
    cluster.kill(first, signal.SIGTERM)
    began = time.monotonic()
    cluster.ready(2)
    assert time.monotonic() - began < 0.7
    assert len(cluster.said(READY)) == 2
