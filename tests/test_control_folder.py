"""Names and folders of control sockets, on a file system of the test's own."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from fastcluster import control_folder
from fastcluster.control_folder import NameTaken, default_name, folders, listen
from fastcluster.errors import BindError


def test_the_socket_and_its_folder_are_closed_to_others(runtime_folder: Path) -> None:
    name, listener = listen(None, "app:app")
    with listener:
        assert name == "app:app"
        path = runtime_folder / "fastcluster" / "app:app.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert control_folder.found() >= [("app:app", str(path))]
    assert not path.exists()


def test_servers_side_by_side_have_names_of_their_own(runtime_folder: Path) -> None:
    first, one = listen(None, "app:app")
    second, two = listen(None, "app:app")
    with two:
        assert (first, second) == ("app:app", "app:app-2")
        one.close()
        third, three = listen(None, "app:app")
        three.close()
        assert third == "app:app"


def test_a_name_that_was_given_is_not_changed(runtime_folder: Path) -> None:
    _, listener = listen("shop", "app:app")
    with listener, pytest.raises(NameTaken, match="a server named shop runs already"):
        listen("shop", "other:app")


def test_what_a_dead_server_left_is_replaced(runtime_folder: Path) -> None:
    folder = runtime_folder / "fastcluster"
    folder.mkdir(mode=0o700)
    path = str(folder / "shop.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    assert not control_folder.is_alive(path)
    name, listener = listen("shop", "app:app")
    with listener:
        assert name == "shop"
        assert control_folder.is_alive(path)


def test_a_folder_open_to_others_is_not_used(runtime_folder: Path) -> None:
    folder = runtime_folder / "fastcluster"
    folder.mkdir()
    folder.chmod(0o770)
    with pytest.raises(BindError, match="chmod 700"):
        listen(None, "app:app")
    (folder / "fake.sock").touch()
    assert "fake" not in [name for name, _ in control_folder.found()]


def test_a_link_is_no_folder(runtime_folder: Path, tmp_path: Path) -> None:
    (runtime_folder / "fastcluster").symlink_to(tmp_path)
    with pytest.raises(BindError, match="is no folder"):
        listen(None, "app:app")


def test_a_folder_of_another_user_is_not_used(
    runtime_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runtime_folder / "fastcluster"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(BindError, match="belongs to another user"):
        control_folder.check(str(folder))


def test_without_a_runtime_directory_of_ours_it_is_in_tmp(
    runtime_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = f"/tmp/fastcluster-{os.geteuid()}"
    assert folders() == [str(runtime_folder / "fastcluster"), ours]
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder / "none"))
    assert folders() == [ours]
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert folders() == [ours]


@pytest.mark.parametrize(
    ("app", "name"),
    [
        ("app:app", "app:app"),
        ("mysite.wsgi:application", "mysite.wsgi:application"),
        ("a/b:make('x')", "a_b:make__x__"),
        ("..", "app"),
        ("m" * 99, "m" * 60),
    ],
)
def test_default_names(app: str, name: str) -> None:
    assert default_name(app) == name
