"""The talk of a primary and a worker, in one process."""

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastcluster.channel import pair
from fastcluster.link import Link, message_of
from fastcluster.sockets import ListeningSocket


def links(serialization: str = "json") -> tuple[Link, Link]:
    ours, theirs = pair()
    return Link(ours, serialization), Link(theirs, serialization)


def messages(link: Link) -> list[Any]:
    return [message_of(frame["user"], fds) for frame, fds in link.receive()]


def test_a_message_arrives_with_its_socket() -> None:
    ours, theirs = links()
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert ours.send_message({"a": 1}, server)
        [(message, handle)] = messages(theirs)
        assert message == {"a": 1}
        assert handle.getsockname() == server.getsockname()
        handle.close()
    ours.close()
    theirs.close()


def test_nothing_is_lost_when_the_other_side_is_slow() -> None:
    ours, theirs = links()
    sent, heard = [], []
    answers = [ours.send_message(i, callback=lambda: sent.append(1)) for i in range(40_000)]
    assert answers[0] and not answers[-1]
    while len(heard) < len(answers):
        heard += [message for message, _ in messages(theirs)]
        ours.flush()
    assert heard == list(range(len(answers)))
    assert len(sent) == len(answers)
    ours.close()
    theirs.close()


def test_a_waiting_message_does_not_change() -> None:
    ours, theirs = links()
    message = {"n": 0}
    while ours.send_message(message):
        pass
    message["n"] = 1
    heard: list[Any] = []
    while ours.wants_write or not heard:
        heard += messages(theirs)
        ours.flush()
    heard += messages(theirs)
    assert {m["n"] for m, _ in heard} == {0}
    ours.close()
    theirs.close()


def test_advanced_takes_a_dict_that_holds_itself() -> None:
    ours, theirs = links("advanced")
    circle: dict[str, Any] = {"set": {1, 2}}
    circle["self"] = circle
    ours.send_message(circle)
    [(message, _)] = messages(theirs)
    assert message["self"] is message
    assert message["set"] == {1, 2}
    ours.close()
    theirs.close()


def test_json_refuses_what_it_cannot_write() -> None:
    ours, theirs = links()
    with pytest.raises(TypeError):
        ours.send_message({1, 2})
    ours.close()
    theirs.close()


def test_hanging_up_is_the_end_for_both() -> None:
    ours, theirs = links()
    ours.hang_up()
    # One word says that it is meant, unlike the EOF of a process that has died.
    assert list(theirs.receive()) == [({"hung_up": {}}, [])]
    assert list(ours.receive()) == []
    assert not ours.connected and not theirs.connected
    assert not ours.send_message(1)
    ours.close()
    theirs.close()


def test_a_frame_that_makes_no_sense_is_passed_over() -> None:
    ours, theirs = links()
    ours.channel.send([1, 2])
    ours.send_message("after")
    assert messages(theirs) == [("after", None)]
    ours.close()
    theirs.close()


def test_nobody_has_a_side_unpickle_that_never_said_so() -> None:
    ours, theirs = links()
    for body in ({"pickle": "x"}, {"json": 1, "pickle": "x"}, [], None):
        ours.say({"user": body})
    ours.send_message("after")
    assert messages(theirs) == [("after", None)]
    ours.close()
    theirs.close()


def test_a_server_arrives_as_a_socket_that_accepts_and_ours_stays() -> None:
    ours, theirs = links()
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert ours.send_message("take it", server)
        [(frame, fds)] = theirs.receive()
        message, handle = message_of(frame["user"], fds)
        assert message == "take it"
        assert isinstance(handle, ListeningSocket)
        with handle, socket.create_connection(server.getsockname()) as client:
            accepted, _ = handle.accept()
            accepted.sendall(b"from the other one")
            assert client.recv(100) == b"from the other one"
            accepted.close()
        with socket.create_connection(server.getsockname()):
            server.accept()[0].close()
    ours.close()
    theirs.close()


def test_what_is_no_socket_is_no_handle(tmp_path: Path) -> None:
    ours, theirs = links()
    closed = socket.socket()
    closed.close()
    with open(tmp_path / "file", "w") as file:
        for wrong in (file, closed, "a word", SimpleNamespace(sockets=())):
            with pytest.raises(TypeError, match=r"a handle is an? "):
                ours.send_message("take it", wrong)  # type: ignore[arg-type]
    assert messages(theirs) == []
    ours.close()
    theirs.close()


def test_the_callback_comes_when_it_was_sent_and_not_when_it_waits() -> None:
    ours, theirs = links()
    sent: list[int] = []
    assert ours.send_message(0, None, lambda: sent.append(0))
    assert sent == [0]
    # The channel takes it, the socket only a part of it.
    ours.send_message("x" * 3_000_000, None, lambda: sent.append(1))
    assert not ours.send_message("y" * 3_000_000, None, lambda: sent.append(2))
    assert not ours.send_message(3, None, lambda: sent.append(3))
    assert sent == [0]
    heard: list[Any] = []
    while len(heard) < 3:
        heard += messages(theirs)
        ours.flush()
        assert len(sent) == 4 or ours.wants_write
    while ours.wants_write:
        ours.flush()
    assert sent == [0, 1, 2, 3]
    ours.close()
    theirs.close()


@pytest.mark.parametrize("room_bytes", [4608, 65536])
def test_sockets_and_ten_megabytes_pass_a_small_socket_whole(room_bytes: int) -> None:
    ours, theirs = links()
    with socket.socket(fileno=os.dup(ours.channel.fileno())) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room_bytes)
    one, other = socket.socketpair()
    for n in range(5):
        ours.send_message([n, "z" * (2_000_000 if n % 2 else 10)], one)
    ours.send_message("z" * 10_000_000, one)
    ours.send_message("last", one)
    found = []
    while len(found) < 7:
        ours.flush()
        found += [message_of(frame["user"], fds) for frame, fds in theirs.receive()]
    assert [message[0] for message, _ in found[:5]] == list(range(5))
    assert (len(found[5][0]), found[6][0]) == (10_000_000, "last")
    for number, (_, handle) in enumerate(found):
        assert handle is not None
        handle.sendall(bytes([number]))
        handle.close()
    assert other.recv(100) == bytes(range(7))
    one.close()
    other.close()
    ours.close()
    theirs.close()


def test_a_descriptor_that_is_no_socket_is_closed(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    assert message_of({"json": "hello"}, [fd]) == ("hello", None)
    with pytest.raises(OSError):
        os.fstat(fd)
