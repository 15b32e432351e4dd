"""Handing over: each connection goes to a worker that waits, and none is lost on the way."""

import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from crew import DEADLINE_S, GET, Crew, ask, receive, until

DRAINING = 3

Start = Callable[..., Crew]


@pytest.fixture
def start() -> Iterator[Start]:
    crews: list[Crew] = []

    def and_remember(n: int, **options: Any) -> Crew:
        crews.append(Crew(n, **options))
        return crews[-1]

    yield and_remember
    for crew in crews:
        crew.close()


# ---- balance


@pytest.mark.parametrize("n", [2, 4])
def test_long_lived_connections_are_spread_evenly(start: Start, n: int) -> None:
    crew = start(n)
    for _ in range(16 * n):
        ask(crew.connect())
        crew.wait_waiting()
    assert max(crew.counts()) - min(crew.counts()) <= 1
    assert sum(crew.counts()) == 16 * n


def spread_of(counts: list[int]) -> int:
    return max(counts) - min(counts)


def test_connections_that_come_all_at_once_are_spread_evenly(start: Start) -> None:
    """A worker that has no processor just then gets its share from the others later."""
    crew = start(4)
    clients = [crew.connect() for _ in range(64)]
    for client in clients:
        client.sendall(GET)
    for client in clients:
        receive(client)

    def is_even() -> bool:
        for client in clients:
            ask(client)
        return spread_of(crew.counts()) <= 1

    until(is_even, "balance")
    assert sum(crew.counts()) == 64


def test_a_worker_that_was_busy_gets_its_share_later(start: Start) -> None:
    """Idle connections move to it between two requests, and nobody notices."""
    crew = start(2, limit_keep_alive_requests=1000)
    blocked = crew.connect()
    blocked.sendall(b"GET /block HTTP/1.1\r\nHost: h\r\n\r\n")
    controls = [worker.control for worker in crew.workers.values()]
    (control,) = select.select(controls, [], [], DEADLINE_S)[0]
    (busy,) = [slot for slot, worker in crew.workers.items() if worker.control is control]
    assert control.recv(1) == b"b"
    clients = [crew.connect() for _ in range(20)]
    assert {ask(client)["slot"] for client in clients} == {1 - busy}
    crew.workers[busy].say(b"!")
    receive(blocked)

    def is_even() -> bool:
        for client in clients:
            answer = ask(client)
            assert tuple(answer["client"]) == client.getsockname()
        return spread_of(crew.counts()) <= 1

    until(is_even, "balance")
    assert sum(crew.counts()) == 21


def test_a_connection_that_moves_keeps_its_number_of_requests(start: Start) -> None:
    crew = start(2, limit_keep_alive_requests=30)
    blocked = crew.connect()
    blocked.sendall(b"GET /block HTTP/1.1\r\nHost: h\r\n\r\n")
    controls = [worker.control for worker in crew.workers.values()]
    (control,) = select.select(controls, [], [], DEADLINE_S)[0]
    assert control.recv(1) == b"b"
    clients = [crew.connect() for _ in range(8)]
    first = {client: ask(client)["slot"] for client in clients}
    control.send(b"!")
    receive(blocked)
    moved = set()
    for n in range(2, 31):
        for client in clients:
            client.sendall(GET)
            head, answer = receive(client)
            assert (b"Connection: close" in head) == (n == 30)
            if answer["slot"] != first[client]:
                moved.add(client)
    assert moved


def test_counts_return_to_nothing(start: Start) -> None:
    crew = start(3)
    for _ in range(30):
        ask(crew.connect())
    for client in crew.clients:
        client.close()
    until(lambda: crew.counts() == [0, 0, 0], "nothing")


def test_a_handed_over_connection_keeps_its_address(start: Start) -> None:
    crew = start(2)
    seen = set()
    for _ in range(8):
        client = crew.connect()
        answer = ask(client)
        assert tuple(answer["client"]) == client.getsockname()
        seen.add(answer["slot"])
        crew.wait_waiting()
    assert seen == {0, 1}
    handed = [crew.board.read(slot)["handed_over"] for slot in (0, 1)]
    assert sum(handed) > 0


def test_a_handed_over_connection_keeps_its_listener(start: Start) -> None:
    crew = start(2, n_listeners=3, wsgi=True)
    slots = set()
    for i in range(12):
        client = crew.connect(i % 3)
        answer = ask(client)
        assert answer["port"] == str(crew.listeners[i % 3].getsockname()[1])
        slots.add(answer["slot"])
        crew.wait_waiting()
    assert slots == {0, 1}
    assert sum(crew.board.read(slot)["handed_over"] for slot in (0, 1)) > 0


def test_a_blocked_worker_is_given_nothing_and_leaves_nobody_waiting(start: Start) -> None:
    crew = start(3)
    blocked = crew.connect()
    blocked.sendall(b"GET /block HTTP/1.1\r\nHost: h\r\n\r\n")
    ready = select.select([worker.control for worker in crew.workers.values()], [], [], DEADLINE_S)
    (slot,) = [slot for slot, worker in crew.workers.items() if worker.control in ready[0]]
    assert crew.workers[slot].heard() == b"b"
    started = time.monotonic()
    slots = Counter(ask(crew.connect())["slot"] for _ in range(40))
    assert time.monotonic() - started < 2
    assert slot not in slots
    assert len(slots) == 2
    crew.workers[slot].say(b"!")
    assert receive(blocked)[1]["slot"] == slot


def test_when_all_are_busy_the_first_to_be_free_takes_all(start: Start) -> None:
    crew = start(2)
    blocked = [crew.connect() for _ in range(2)]
    for client in blocked:
        client.sendall(b"GET /block HTTP/1.1\r\nHost: h\r\n\r\n")
    for worker in crew.workers.values():
        assert worker.heard() == b"b"
    more = [crew.connect() for _ in range(10)]
    for client in more:
        client.sendall(GET)
    crew.workers[1].say(b"!")
    assert {receive(client)[1]["slot"] for client in more} == {1}
    crew.workers[0].say(b"!")
    assert {receive(client)[1]["slot"] for client in blocked} == {0, 1}


# ---- inboxes


def fill_inbox(crew: Crew, slot: int) -> list[socket.socket]:
    """Stop a worker that looks as if it waited, and connect until it is handed something."""
    crew.wait_waiting()
    crew.workers[slot].stop()
    clients: list[socket.socket] = []
    for _ in range(6):
        client = crew.connect()
        client.sendall(GET)
        clients.append(client)
    until(lambda: crew.board.read(slot)["connections"], "a parcel")
    return clients


def test_a_worker_killed_with_connections_in_its_inbox_loses_none(start: Start) -> None:
    crew = start(2)
    clients = fill_inbox(crew, 0)
    # Counted by the sender once the parcel is away, after the receiver's own count.
    until(lambda: crew.board.read(1)["handed_over"], "the sender's count")
    crew.workers[0].kill()
    crew.board.release(0)
    crew.fork(0)
    slots = Counter(receive(client)[1]["slot"] for client in clients)
    assert sum(slots.values()) == 6
    until(lambda: sum(crew.counts()) == 6, "the true count")
    for client in clients:
        client.close()
    until(lambda: crew.counts() == [0, 0], "nothing")


def test_a_stopped_worker_serves_its_inbox_when_it_goes_on(start: Start) -> None:
    crew = start(2)
    clients = fill_inbox(crew, 0)
    crew.workers[0].go_on()
    assert Counter(receive(client)[1]["slot"] for client in clients)[0] > 0


def test_a_full_inbox_is_passed_over(start: Start) -> None:
    """The kernel keeps some parcels; whoever finds no room serves the connection itself."""
    crew = start(2)
    crew.wait_waiting()
    crew.workers[0].stop()
    clients = [crew.connect() for _ in range(1400)]
    for client in clients:
        client.sendall(GET)
    until(lambda: crew.board.read(1)["requests"] > 0, "an answer")
    crew.workers[0].go_on()
    slots = Counter(receive(client)[1]["slot"] for client in clients)
    assert sum(slots.values()) == 1400
    assert slots[0] > 0
    until(lambda: sum(crew.counts()) == 1400, "the true count")


def test_a_draining_worker_serves_what_is_in_its_inbox(start: Start) -> None:
    crew = start(2)
    clients = fill_inbox(crew, 0)
    crew.workers[0].say(b"d")
    crew.workers[0].go_on()
    answers = [receive(client) for client in clients]
    for head, seen in answers:
        assert (b"\r\nConnection: close" in head) == (seen["slot"] == 0)
    assert any(seen["slot"] == 0 for _, seen in answers)
    for client in clients:
        client.close()
    crew.workers[0].wait_gone()


def test_a_draining_worker_is_given_nothing(start: Start) -> None:
    crew = start(2)
    held = [crew.connect() for _ in range(4)]
    before = Counter(ask(client)["slot"] for client in held)
    assert before[0] > 0
    crew.workers[0].say(b"d")
    until(lambda: crew.board.read(0)["state"] == DRAINING, "the drain")
    assert {ask(crew.connect())["slot"] for _ in range(20)} == {1}
    for client in held:
        client.close()
    crew.workers[0].wait_gone()
    assert crew.counts()[0] == 0


def test_handing_over_leaves_no_descriptors(start: Start) -> None:
    crew = start(2)

    def play(n: int) -> None:
        for _ in range(n):
            clients = [crew.connect() for _ in range(10)]
            for client in clients:
                ask(client)
            for client in clients:
                client.close()
            crew.clients.clear()
        until(lambda: crew.counts() == [0, 0], "nothing")
        crew.wait_waiting()

    play(2)
    before = [crew.workers[slot].n_descriptors() for slot in (0, 1)]
    play(20)
    until(
        lambda: [crew.workers[slot].n_descriptors() for slot in (0, 1)] == before, "the old number"
    )


def test_what_is_no_parcel_is_dropped(start: Start) -> None:
    """Wrong sizes, too few descriptors, a listener that is none: nothing leaks or stays open."""
    crew = start(1)
    ask(crew.connect())
    before = crew.workers[0].n_descriptors()
    left, right = socket.socketpair()
    socket.send_fds(crew.outboxes[0], [b"\xff" * 8], [left.fileno()])
    socket.send_fds(crew.outboxes[0], [b"nonsense, and more of it"], [left.fileno()])
    socket.send_fds(crew.outboxes[0], [b"\0" * 8], [left.fileno()] * 3)
    crew.outboxes[0].send(b"")
    crew.outboxes[0].send(b"x" * 8)
    left.close()
    right.settimeout(DEADLINE_S)
    assert right.recv(1) == b""
    right.close()
    assert ask(crew.connect())["slot"] == 0
    assert crew.workers[0].n_descriptors() == before + 1
