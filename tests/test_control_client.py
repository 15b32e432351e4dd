"""Asking over a unix socket, where the other end is the test's own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastcluster import control_client
from fastcluster.control_client import Target, ask, find, ps
from fastcluster.errors import AppLoadError, ControlError


@pytest.fixture
def listener(runtime_folder: Path) -> Iterator[socket.socket]:
    folder = runtime_folder / "fastcluster"
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "app.sock"))
        sock.listen()
        yield sock


def answering(listener: socket.socket, data: bytes) -> threading.Thread:
    """Answer the next connection that says something with those bytes, and hang up."""

    def answer() -> None:
        request = b""
        while not request:
            client, _ = listener.accept()
            request = client.recv(65536)
            if request:  # others only look whether we live
                client.sendall(data)
            client.close()

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def a_response(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def asked(listener: socket.socket, data: bytes, what: str = "status") -> dict[str, object]:
    thread = answering(listener, data)
    try:
        return ask(Target("app", listener.getsockname()), what)
    finally:
        thread.join(10)


def test_an_answer(listener: socket.socket) -> None:
    assert asked(listener, a_response("200 OK", b'{"pid": 1}')) == {"pid": 1}


def test_new_code_that_fails_has_its_error_as_detail(listener: socket.socket) -> None:
    body = b'{"error": "ImportError: no\\nTraceback\\nline"}'
    with pytest.raises(AppLoadError, match=r"the reload failed.*: ImportError: no$") as caught:
        asked(listener, a_response("500 Internal Server Error", body), "reload")
    assert caught.value.detail == "Traceback\nline"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (a_response("400 Bad Request", b'{"error": "too many"}'), "^too many$"),
        (b"", "cannot reach app at .*: its answer was cut off"),
        (a_response("200 OK", b"nonsense"), "cannot reach app"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "cannot reach app"),
    ],
)
def test_what_goes_wrong_is_one_sentence(listener: socket.socket, data: bytes, words: str) -> None:
    with pytest.raises(ControlError, match=words):
        asked(listener, data)


def test_a_primary_that_does_not_answer(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_client, "STATUS_TIMEOUT_S", 0.02)
    with pytest.raises(ControlError, match="app does not answer"):
        ask(Target("app", listener.getsockname()), "status", 0.02)


def test_find(listener: socket.socket) -> None:
    target = Target("app", listener.getsockname())
    assert find(None) == find("app") == target
    assert find(None, "/run/x.sock") == Target("x", "/run/x.sock")
    with pytest.raises(ControlError, match="no server named shop runs: app run"):
        find("shop")
    listener.close()
    with pytest.raises(ControlError, match="no server named shop runs: none of this user's does"):
        find("shop")
    with pytest.raises(ControlError, match="fastcluster serve"):
        find(None)


def test_ps_shows_also_who_is_silent(listener: socket.socket) -> None:
    path = listener.getsockname()
    thread = answering(listener, b"")
    assert ps() == [{"name": "app", "state": "silent", "socket": path}]
    thread.join(10)


def test_a_socket_that_is_not_there() -> None:
    with pytest.raises(ControlError, match="No such file or directory"):
        ask(Target("x", "/nowhere/x.sock"), "status")
