"""The talk of a primary and a worker, in one process."""

import socket
from typing import Any

import pytest

from fastcluster.channel import pair
from fastcluster.link import Link, message_of


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
