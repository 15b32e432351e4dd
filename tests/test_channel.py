"""Messages and descriptors between two ends of one socketpair, in one process."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import resource
import socket
import stat
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from fastcluster import channel as channel_module
from fastcluster.channel import MAX_FDS, MAX_QUEUED_BYTES, Channel, Inbox, pair

Pair = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Pair]:
    one, other = pair()
    yield one, other
    one.close()
    other.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    yield read_fd, write_fd
    for fd in (read_fd, write_fd):
        with contextlib.suppress(OSError):
            os.close(fd)


def open_fds() -> set[int]:
    """The descriptors of this process, without the one that lists them."""
    return {fd for fd in map(int, os.listdir("/dev/fd")) if is_open(fd)}


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def receive_until(sender: Channel, receiver: Channel, count: int) -> list[Any]:
    """Flush and receive in turns, as two loops would, until `count` messages are there."""
    messages: list[Any] = []
    for _ in range(10_000):
        sender.flush()
        messages += receiver.receive()
        if len(messages) >= count:
            return messages
    raise AssertionError(f"{len(messages)} of {count} messages after 10,000 turns")


@pytest.mark.parametrize(
    "message",
    [
        {"ready": {"pid": 17}},
        {},
        [],
        None,
        0,
        "",
        "Grüße \N{SNOWMAN} \x00",
        {"nested": [1, 2.5, None, True, {"a": []}]},
    ],
)
def test_a_message_arrives_as_it_was(ends: Pair, message: Any) -> None:
    one, other = ends
    assert one.send(message)
    assert other.receive() == [(message, [])]


def test_both_directions_and_order(ends: Pair) -> None:
    one, other = ends
    for n in range(100):
        assert one.send(n)
        assert other.send(-n)
    assert other.receive() == [(n, []) for n in range(100)]
    assert one.receive() == [(-n, []) for n in range(100)]


def test_nothing_there_is_not_eof(ends: Pair) -> None:
    one, _ = ends
    assert one.receive() == []
    assert not one.eof


@pytest.mark.parametrize("split", [1, 3, 4, 5, 6, 9])
def test_a_frame_in_pieces(split: int) -> None:
    raw, sock = socket.socketpair()
    channel = Channel(sock)
    frame = struct.pack("!IB", 7, 0) + b'{"a":1}'
    raw.sendall(frame[:split])
    assert channel.receive() == []
    raw.sendall(frame[split:] + frame)
    assert channel.receive() == [({"a": 1}, []), ({"a": 1}, [])]
    channel.close()
    raw.close()


def test_a_descriptor_travels_with_its_message(ends: Pair, pipe: tuple[int, int]) -> None:
    one, other = ends
    read_fd, write_fd = pipe
    assert one.send({"take": 1}, [write_fd])
    os.close(write_fd)
    [(message, fds)] = other.receive()
    assert message == {"take": 1}
    assert len(fds) == 1
    assert not os.get_inheritable(fds[0])
    os.write(fds[0], b"through")
    os.close(fds[0])
    assert os.read(read_fd, 100) == b"through"
    assert os.read(read_fd, 100) == b""


def test_each_message_keeps_its_own_descriptors(ends: Pair, pipe: tuple[int, int]) -> None:
    one, other = ends
    read_fd, write_fd = pipe
    expected = []
    for n in range(30):
        fds = [(), (read_fd,), (write_fd, read_fd)][n % 3]
        assert one.send(n, fds)
        expected.append((n, len(fds)))
    received = receive_until(one, other, 30)
    assert [(message, len(fds)) for message, fds in received] == expected
    modes = [[access_mode(fd) for fd in fds] for _, fds in received]
    assert modes == [[], [os.O_RDONLY], [os.O_WRONLY, os.O_RDONLY]] * 10
    for _, fds in received:
        for fd in fds:
            os.close(fd)


def access_mode(fd: int) -> int:
    assert stat.S_ISFIFO(os.fstat(fd).st_mode)
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE


def test_large_messages_in_partial_writes_keep_their_descriptors(
    ends: Pair, pipe: tuple[int, int]
) -> None:
    one, other = ends
    before = open_fds()
    big = "x" * 800_000
    assert one.send({"n": 0, "big": big}, pipe)
    assert one.wants_write
    assert one.send({"n": 1}, pipe[:1])
    assert one.send({"n": 2})
    received = receive_until(one, other, 3)
    assert [(message["n"], len(fds)) for message, fds in received] == [(0, 2), (1, 1), (2, 0)]
    assert received[0][0]["big"] == big
    assert one.flush_within(0)
    for _, fds in received:
        for fd in fds:
            os.close(fd)
    assert open_fds() == before


def test_descriptors_that_wait_are_duplicated(ends: Pair, pipe: tuple[int, int]) -> None:
    one, other = ends
    read_fd, write_fd = pipe
    assert one.send("x" * 800_000)
    assert one.send("later", [write_fd])
    os.close(write_fd)
    received = receive_until(one, other, 2)
    [write_again] = received[1][1]
    os.write(write_again, b"still here")
    os.close(write_again)
    assert os.read(read_fd, 100) == b"still here"
    assert os.read(read_fd, 100) == b""


def test_the_queue_is_bounded(ends: Pair) -> None:
    one, other = ends
    chunk = "x" * 100_000
    taken = 0
    while one.send(chunk):
        taken += 1
        assert taken < 100
    assert taken * 100_000 > MAX_QUEUED_BYTES
    received = receive_until(one, other, taken)
    assert received == [(chunk, [])] * taken
    assert one.send("again")


def test_an_empty_queue_takes_a_message_of_any_size(ends: Pair) -> None:
    one, other = ends
    big = "y" * (3 * MAX_QUEUED_BYTES)
    assert one.send(big)
    assert not one.send("refused while the big one waits")
    assert receive_until(one, other, 1) == [(big, [])]


def test_a_refused_message_leaks_no_descriptor(ends: Pair, pipe: tuple[int, int]) -> None:
    one, _ = ends
    while one.send("x" * 100_000):
        pass
    before = open_fds()
    assert not one.send("y" * 100_000, pipe)
    assert open_fds() == before


def test_eof_comes_after_the_last_words(ends: Pair) -> None:
    one, other = ends
    one.send({"failed": "why"})
    one.close()
    assert other.receive() == [({"failed": "why"}, [])]
    assert other.eof
    assert other.receive() == []


def test_last_words_of_one_who_died_without_reading(ends: Pair) -> None:
    one, other = ends
    other.send("never read")
    one.send({"failed": "why"})
    one.close()
    assert not other.send("to the dead")
    assert other.receive() == [({"failed": "why"}, [])]
    assert other.eof


def test_sending_to_the_dead(ends: Pair, pipe: tuple[int, int]) -> None:
    one, other = ends
    before = open_fds()
    while one.send("x" * 100_000, pipe):
        pass
    other_fd = other.fileno()
    other.close()
    one.flush()
    assert not one.wants_write
    assert not one.send("anybody?")
    assert open_fds() == before - {other_fd}


def test_a_closed_channel(ends: Pair) -> None:
    one, _ = ends
    one.close()
    one.close()
    assert one.fileno() == -1
    assert one.eof
    assert not one.send("anything")
    assert one.receive() == []
    assert not one.flush_within(0)


def test_close_gives_every_descriptor_back(pipe: tuple[int, int]) -> None:
    before = open_fds()
    one, other = pair()
    one.send("x" * 800_000, pipe)
    one.send("more", pipe)
    # The descriptors of the first message are here before the message is whole.
    assert other.receive() == []
    one.close()
    other.close()
    assert open_fds() == before


@pytest.mark.parametrize(
    "noise",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="not a frame"),
        pytest.param(struct.pack("!IB", 2**31, 0), id="too long"),
        pytest.param(struct.pack("!IB", 2, MAX_FDS + 1) + b"{}", id="too many descriptors"),
        pytest.param(struct.pack("!IB", 3, 0) + b"{'}", id="not JSON"),
        pytest.param(struct.pack("!IB", 2, 0) + b"\xff\xff", id="not UTF-8"),
    ],
)
def test_nonsense_counts_as_eof(noise: bytes) -> None:
    raw, sock = socket.socketpair()
    channel = Channel(sock)
    raw.sendall(struct.pack("!IB", 1, 0) + b"1" + noise)
    assert channel.receive() == [(1, [])]
    assert channel.eof
    channel.close()
    raw.close()


@pytest.mark.parametrize(
    ("message", "n_fds", "error"),
    [
        (object(), 0, TypeError),
        ("x" * (channel_module.MAX_MESSAGE_BYTES + 1), 0, ValueError),
        ("x", MAX_FDS + 1, ValueError),
    ],
)
def test_what_cannot_be_sent_raises_and_sends_nothing(
    ends: Pair, message: Any, n_fds: int, error: type[Exception]
) -> None:
    one, other = ends
    with pytest.raises(error):
        one.send(message, [0] * n_fds)
    assert one.send("fine")
    assert other.receive() == [("fine", [])]


def test_as_many_descriptors_as_the_kernel_takes(ends: Pair, pipe: tuple[int, int]) -> None:
    one, other = ends
    assert one.send("many", [pipe[0]] * MAX_FDS)
    [(message, fds)] = other.receive()
    assert (message, len(fds)) == ("many", MAX_FDS)
    for fd in fds:
        os.close(fd)


def test_a_receiver_without_free_descriptors_loses_only_those(
    ends: Pair, pipe: tuple[int, int]
) -> None:
    one, other = ends
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    one.send("first", [pipe[0]] * 8)
    one.send("second")
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 3, hard))
    try:
        starved = other.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [message for message, _ in starved] == ["first", "second"]
    assert len(starved[0][1]) < 8
    one.send("third", pipe)
    [(message, fds)] = other.receive()
    assert (message, len(fds)) == ("third", 2)
    for fd in starved[0][1] + fds:
        os.close(fd)


def test_flush_within_waits_for_a_slow_reader(ends: Pair) -> None:
    one, other = ends
    one.send("x" * 800_000)
    assert one.wants_write
    assert not one.flush_within(0.01)
    assert receive_until(one, other, 1)
    assert one.flush_within(0.01)


def test_a_sender_that_never_pauses_does_not_hold_the_receiver() -> None:
    one, other = pair()
    chunk = "x" * 50_000
    turns = 0

    original = other._read

    def read_and_refill() -> bytes:
        nonlocal turns
        turns += 1
        assert turns < 1000, "receive() never returned"
        one.flush()
        while one.send(chunk):
            pass
        return original()

    other._read = read_and_refill  # type: ignore[method-assign]
    assert other.receive()
    one.close()
    other.close()


def test_ancillary_data_of_another_kind_is_ignored() -> None:
    assert channel_module._descriptors([(socket.SOL_SOCKET, 99, b"1234")]) == []
    packed = array.array("i", [7, 8]).tobytes()
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, packed + b"\x00")
    assert channel_module._descriptors([rights]) == [7, 8]


# ---- inboxes


@pytest.fixture
def inboxes() -> Iterator[list[Inbox]]:
    made = [Inbox() for _ in range(3)]
    yield made
    for inbox in made:
        inbox.close()


def hand_over(inbox: Inbox, listener: int, generation: int) -> socket.socket:
    """Do what conn.c does with an accepted connection; return the client's end."""
    client, accepted = socket.socketpair()
    parcel = struct.pack("=III", listener, generation, 7)
    socket.send_fds(inbox.sending, [parcel], [accepted.fileno()])
    accepted.close()
    return client


def content(inbox: Inbox) -> list[tuple[int, int, socket.socket]]:
    """Empty an inbox as a worker does: (listener, generation, connection)."""
    found: list[tuple[int, int, socket.socket]] = []
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(inbox.receiving, 64, 4)
        except BlockingIOError:
            return found
        listener, generation, requests = struct.unpack("=III", data)
        assert requests == 7
        found.append((listener, generation, socket.socket(fileno=fds[0])))


def test_an_inbox_is_forwarded_whole_and_in_order(inboxes: list[Inbox]) -> None:
    dead, heir, _ = inboxes
    clients = [hand_over(dead, listener, 5) for listener in range(3)]
    assert dead.forward([heir]) == (3, True)
    assert content(dead) == []
    received = content(heir)
    # Generation 0: the heir counts the connections itself.
    assert [parcel[:2] for parcel in received] == [(0, 0), (1, 0), (2, 0)]
    for client, (_, _, connection) in zip(clients, received, strict=True):
        client.send(b"hello")
        assert connection.recv(10) == b"hello"
        client.close()
        connection.close()


def fill(inbox: Inbox) -> int:
    count = 0
    while True:
        try:
            hand_over(inbox, 9, 9).close()
        except BlockingIOError:
            return count
        count += 1


def test_a_full_heir_is_passed_over(inboxes: list[Inbox]) -> None:
    dead, full, other = inboxes
    room = fill(full)
    hand_over(dead, 1, 5).close()
    assert dead.forward([full, other]) == (1, True)
    assert [parcel[:2] for parcel in content(other)] == [(1, 0)]
    assert len(content(full)) == room


def test_what_nobody_has_room_for_stays(inboxes: list[Inbox]) -> None:
    dead, full, _ = inboxes
    fill(full)
    clients = [hand_over(dead, listener, 5) for listener in range(3)]
    assert dead.forward([full]) == (0, False)
    content(full)
    assert dead.forward([full]) == (3, True)
    assert sorted(parcel[0] for parcel in content(full)) == [0, 1, 2]
    for client in clients:
        assert client.recv(1) == b""
        client.close()


@pytest.mark.parametrize("noise", [b"", b"short", b"much longer than any parcel is"])
def test_no_parcel_no_heir(inboxes: list[Inbox], noise: bytes, pipe: tuple[int, int]) -> None:
    dead, heir, _ = inboxes
    before = open_fds()
    socket.send_fds(dead.sending, [noise], [pipe[0]])
    dead.sending.send(noise)
    assert dead.forward([heir]) == (0, True)
    assert content(heir) == []
    assert open_fds() == before


def test_forwarding_leaks_no_descriptor(inboxes: list[Inbox]) -> None:
    dead, heir, _ = inboxes
    before = open_fds()
    for _ in range(5):
        hand_over(dead, 0, 1).close()
    assert dead.forward([heir]) == (5, True)
    for _, _, connection in content(heir):
        connection.close()
    assert open_fds() == before
