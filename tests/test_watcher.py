"""--reload: which files count, and real servers whose code is saved, broken and mended."""

from __future__ import annotations

import http.client
import importlib.util
import os
import select
import signal
import socket
import time
from pathlib import Path

import pytest
from require import require_module
from test_processes import DEADLINE_S, Cluster, Start, start

from fastcluster import watcher
from fastcluster.config import Config
from fastcluster.errors import UsageError
from fastcluster.watcher import Rules

__all__ = ["start"]

CASES = [
    # path, include, exclude, whether it counts
    ("app.py", (), (), True),
    ("pkg/views.py", (), (), True),
    ("app.pyc", (), (), False),
    ("page.html", (), (), False),
    ("page.html", ("*.html",), (), True),
    ("templates/page.html", ("templates/*.html",), (), True),
    (".env", (), (), False),
    (".env", (".env",), (), True),
    (".hidden.py", (), (), False),
    ("~app.py", (), (), False),
    (".git/hook.py", (), (), False),
    ("__pycache__/app.py", (), (), False),
    (".venv/lib/python3.11/site-packages/x.py", (), (), False),
    ("node_modules/x.html", ("*.html",), (), False),
    ("test_app.py", (), ("test_*.py",), False),
    ("build/gen.py", (), ("build",), False),
    ("build/deep/gen.py", (), ("build",), False),
    ("app.py", (), ("*.py",), False),
    ("page.html", ("*.html",), ("*.py",), True),
    ("page.html", ("*.html",), ("page.*",), False),
]


@pytest.mark.parametrize(("path", "include", "exclude", "counts"), CASES)
def test_which_files_count(
    path: str, include: tuple[str, ...], exclude: tuple[str, ...], counts: bool, tmp_path: Path
) -> None:
    rules = Rules([str(tmp_path)], include, exclude)
    assert rules.counts(str(tmp_path / path)) is counts


def test_a_folder_below_a_hidden_one_is_watched_as_well(tmp_path: Path) -> None:
    folder = tmp_path / ".hidden" / "venv"
    folder.mkdir(parents=True)
    assert Rules([str(folder)]).counts(str(folder / "app.py"))


def test_folders_and_files_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("src/deep", "static", "old"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "static" / "site.css").touch()
    monkeypatch.chdir(tmp_path / "src")
    rules = Rules([".", "deep"], ["../static/site.css"], ["deep", "*.txt"])
    assert rules.roots == [str(tmp_path / "src"), str(tmp_path / "static")]
    assert rules.counts(str(tmp_path / "static" / "site.css"))
    assert not rules.counts(str(tmp_path / "static" / "other.css"))
    assert not rules.counts(str(tmp_path / "src" / "deep" / "app.py"))


def test_without_watchfiles_the_mend_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'fastcluster-server\[reload\]'"):
        watcher.check(Config(reload=True))


def test_a_missing_folder_is_named() -> None:
    require_module("watchfiles", package="watchfiles")
    with pytest.raises(UsageError, match="--reload-dir: there is no folder 'nowhere'"):
        watcher.check(Config(reload=True, reload_dir=("nowhere",)))


def test_bytecode_of_what_was_saved_is_forgotten(tmp_path: Path) -> None:
    source = tmp_path / "app.py"
    compiled = Path(importlib.util.cache_from_source(str(source)))
    compiled.parent.mkdir()
    compiled.touch()
    watcher.forget_bytecode([str(tmp_path / "page.html"), str(source), str(source)])
    assert not compiled.exists()


# ---- real servers


NATIVE = "def app(request):\n    return '{}'\n"
HELD = "import os, time\nwhile not os.path.exists({gate!r}):\n    time.sleep(0.002)\n"
ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        {startup}
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    await send({{"type": "http.response.start", "status": 200}})
    await send({{"type": "http.response.body", "body": b"{answer}"}})
"""


FAILS = "return await send({'type': 'lifespan.startup.failed', 'message': 'no database'})"


class Site:
    """A server that watches a folder of its own."""

    def __init__(self, start: Start, folder: Path, text: str, *options: str) -> None:
        require_module("watchfiles", package="watchfiles")
        self.folder = folder
        self.save(text)
        more = ["--app-dir", str(folder), "--reload", "--reload-dir", str(folder)]
        self.cluster: Cluster = start(*more, *options, app="site_app:app")
        self.cluster.expect("watching .* for changes")

    def save(self, text: str, name: str = "site_app.py") -> None:
        (self.folder / name).write_text(text)

    def get(self) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.cluster.port, timeout=DEADLINE_S)
        try:
            connection.request("GET", "/")
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def get_until(self, wanted: str) -> float:
        """Ask until the answer has a text, and return after how many seconds it had."""
        began = time.monotonic()
        while wanted not in (answer := self.get())[1]:
            assert time.monotonic() - began < DEADLINE_S, answer
        return time.monotonic() - began


def test_a_save_brings_a_new_answer(start: Start, tmp_path: Path) -> None:
    site = Site(start, tmp_path, NATIVE.format("one"))
    site.cluster.ready(1)
    assert site.get() == (200, "one")
    # As many characters, within the same second: only the saves tell them apart.
    took = []
    for answer in ("two", "six", "ten"):
        site.save(NATIVE.format(answer))
        took.append(site.get_until(answer))
    # 0.2 s where nothing else runs; no test is lost because a machine is busy.
    assert min(took) < 0.2 or os.getloadavg()[0] > (os.cpu_count() or 1), took
    assert len(site.cluster.expect("site_app.py changed: the workers start anew", 3)) == 3
    site.cluster.signal(signal.SIGTERM)
    assert site.cluster.exit_code() == 0


def test_broken_code_shows_its_traceback_and_mended_code_serves(
    start: Start, tmp_path: Path
) -> None:
    site = Site(start, tmp_path, NATIVE.format("one"))
    site.save("def app(request)\n    return 'two'\n")
    site.get_until("SyntaxError")
    status, text = site.get()
    assert status == 500
    assert "<pre>" in text
    assert "site_app.py" in text
    assert "def app(request)" in text
    site.cluster.expect("the application does not load, and every request is told so")
    site.save("import nothing_of_that_name\n")
    site.get_until("No module named &#x27;nothing_of_that_name&#x27;")
    site.save(NATIVE.format("two"))
    site.get_until("two")
    assert site.get()[0] == 200


def test_code_that_is_broken_from_the_start_and_a_new_file_that_mends_it(
    start: Start, tmp_path: Path
) -> None:
    site = Site(start, tmp_path, "from helper_of_site import app\n")
    site.get_until("helper_of_site")
    site.save(NATIVE.format("one"), "helper_of_site.py")
    site.get_until("one")


def test_a_start_up_that_fails_is_shown_too(start: Start, tmp_path: Path) -> None:
    site = Site(start, tmp_path, ASGI.format(startup=FAILS, answer="one"))
    site.get_until("no database")
    assert site.get()[0] == 500
    site.save(ASGI.format(startup="pass", answer="two"))
    site.get_until("two")


def test_the_code_is_shown_in_development_only(start: Start, tmp_path: Path) -> None:
    site = Site(start, tmp_path, "1 / 0\n", "--env", "production")
    status, text = site.get()
    assert status == 500
    assert "ZeroDivisionError" not in text
    site.cluster.expect("ZeroDivisionError")


def test_a_request_waits_while_the_workers_start_anew(start: Start, tmp_path: Path) -> None:
    site = Site(start, tmp_path, NATIVE.format("one"), "--workers", "2")
    site.cluster.ready(2)
    gate = tmp_path / "gate"
    port = site.cluster.port
    site.save(HELD.format(gate=str(gate)) + NATIVE.format("two"))
    site.cluster.expect("has drained and left", 2)
    # The old ones are gone and the new ones are held: whoever comes now has to wait.
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(DEADLINE_S)
        gate.touch()
        received = b""
        while more := client.recv(65536):
            received += more
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"two")


def test_an_idle_connection_does_not_show_the_old_code(start: Start, tmp_path: Path) -> None:
    site = Site(start, tmp_path, NATIVE.format("one"))
    site.cluster.ready(1)
    with socket.create_connection(("127.0.0.1", site.cluster.port), DEADLINE_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        site.save(NATIVE.format("two"))
        # Closed by the old worker, and not after the half second of an ordinary reload.
        site.cluster.expect("changed: the workers start anew")
        began = time.monotonic()
        assert client.recv(65536) == b""
        assert time.monotonic() - began < 0.4
    site.get_until("two")


def watcher_of(site: Site) -> int:
    [worker] = site.cluster.ready(1)
    children = Path(f"/proc/{site.cluster.pid}/task/{site.cluster.pid}/children").read_text()
    [pid] = {int(pid) for pid in children.split()} - {worker}
    return pid


def test_the_watcher_ends_with_the_primary(start: Start, tmp_path: Path) -> None:
    site = Site(start, tmp_path, NATIVE.format("one"))
    pidfd = os.pidfd_open(watcher_of(site))
    try:
        site.cluster.signal(signal.SIGKILL)
        assert select.select([pidfd], [], [], DEADLINE_S)[0]
    finally:
        os.close(pidfd)


def test_a_watcher_that_ends_is_missed(start: Start, tmp_path: Path) -> None:
    site = Site(start, tmp_path, NATIVE.format("one"))
    os.kill(watcher_of(site), signal.SIGKILL)
    site.cluster.expect("the watcher has ended: start the server again")
    assert site.get() == (200, "one")
