"""Becoming another user: what is refused, and, where the tests are root, the thing itself."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_processes import Start, start

from fastcluster import privileges
from fastcluster.errors import AppLoadError, UsageError
from fastcluster.privileges import Identity, identity

__all__ = ["start"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def test_nobody_need_be_root_to_stay_who_they_are() -> None:
    assert identity(None, None) is None
    assert identity(str(os.getuid()), str(os.getgid())) is None


@pytest.mark.parametrize(("user", "group"), [("1", None), (None, "1")])
def test_who_is_not_root_is_told_so(
    monkeypatch: pytest.MonkeyPatch, user: str | None, group: str | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    flag = "--user" if user else "--group"
    with pytest.raises(UsageError, match=f"{flag} 1 needs root, and this is user 4711: start as"):
        identity(user, group)


@pytest.mark.parametrize(
    ("user", "group", "words"),
    [
        ("no-such-user", None, "there is no user no-such-user: make it, or mend --user"),
        (None, "no-such-group", "there is no group no-such-group: make it, or mend --group"),
        (str(2**32), None, "there is no user 4294967296"),
        (None, str(2**32), "there is no group 4294967296"),
    ],
)
def test_who_is_not_there(user: str | None, group: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        identity(user, group)


@as_root
def test_numbers_need_no_entry() -> None:
    assert identity("54321", None) == Identity(54321, 54321, (54321,), "54321")
    assert identity("54321", "12345") == Identity(54321, 12345, (12345,), "54321")
    assert identity(None, "12345") == Identity(0, 12345, (12345,), "12345")


@as_root
def test_nothing_of_root_is_left() -> None:
    def become() -> object:
        privileges.drop(Identity(54321, 12345, (12345, 12346), "somebody"))
        try:
            os.setuid(0)
        except PermissionError:
            return [os.getresuid(), os.getresgid(), os.getgroups()]
        return "there is a way back"

    assert in_child(become) == [[54321] * 3, [12345] * 3, [12345, 12346]]


@as_root
def test_a_system_that_forbids_it() -> None:
    def twice() -> object:
        privileges.drop(Identity(54321, 54321, (), "somebody"))
        try:
            privileges.drop(Identity(1, 1, (), "daemon"))
        except AppLoadError as error:
            return str(error)
        return None

    assert "a worker cannot become daemon (Operation not permitted)" in str(in_child(twice))


def in_child(run: Callable[[], object]) -> object:
    """Return what a function returns in a process of its own, as JSON has it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, json.dumps(run()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(said)


IDS = """import json, os

def app(environ, start_response):
    body = json.dumps([os.getresuid(), os.getresgid(), os.getgroups()]).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may read, which tmp_path is not."""
    with tempfile.TemporaryDirectory(prefix="fc-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def others_may_read(path: str) -> bool:
    done = subprocess.run(["test", "-r", path], user=54321, group=54321, extra_groups=[])
    return done.returncode == 0


@as_root
def test_workers_become_the_user_and_the_primary_stays(start: Start, open_folder: Path) -> None:
    (open_folder / "ids.py").write_text(IDS)
    socket_file = open_folder / "s"
    cluster = start(
        *("--workers", "1", "--user", "54321", "--group", "12345", "--umask", "007"),
        *("--app-dir", str(open_folder)),
        *("--bind", "127.0.0.1:0", "--bind", f"unix:{socket_file}"),
        app="ids:app",
    )
    if not all(map(others_may_read, (os.__file__, privileges.__file__))):
        assert cluster.exit_code() == 3
        assert cluster.said("user 54321 may not read .*: install Python and fastcluster where")
        return
    [pid] = cluster.ready(1)
    assert json.loads(cluster.get()) == [[54321] * 3, [12345] * 3, [12345]]
    assert os.stat(f"/proc/{cluster.pid}").st_uid == 0
    assert b"worker 0 ready" in Path(f"/proc/{pid}/cmdline").read_bytes()
    found = socket_file.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (54321, 12345, 0o770)


@as_root
def test_workers_become_the_group_alone(start: Start, tmp_path: Path) -> None:
    (tmp_path / "ids.py").write_text(IDS)
    cluster = start("--workers", "1", "--group", "12345", "--app-dir", str(tmp_path), app="ids:app")
    [pid] = cluster.ready(1)
    assert json.loads(cluster.get()) == [[0] * 3, [12345] * 3, [12345]]
    assert b"worker 0 ready" in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert os.stat(f"/proc/{cluster.pid}").st_gid == 0


@as_root
def test_python_that_the_user_may_not_read_is_one_sentence(tmp_path: Path) -> None:
    secret = tmp_path / "os.py"
    secret.touch(0o600)

    def check() -> object:
        who = Identity(54321, 54321, (), "somebody")
        privileges.drop(who)
        os.__file__ = str(secret)
        try:
            privileges.check_python(who)
        except AppLoadError as error:
            return str(error)
        return None

    assert f"user somebody may not read {secret}: install Python" in str(in_child(check))


def test_it_is_said_before_anything_is_opened() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastcluster", "serve", "--user", "no-such-user"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert done.stderr == "fastcluster: there is no user no-such-user: make it, or mend --user\n"
