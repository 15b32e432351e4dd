"""The primary's accepting: in turn, by the program's choice, by address, and when nobody can."""

import errno
import logging
import os
import resource
import select
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fastcluster.channel import Inbox
from fastcluster.config import Config
from fastcluster.native import NativeHandler
from fastcluster.round_robin import Connection, Dispatcher, Poller, RoundRobin, Sticky
from fastcluster.server import Board, Server

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Cluster:
    """A dispatcher and the servers it gives to, all in this process and turned by hand."""

    def __init__(self, n: int, distribute: Any = None) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.sock.setblocking(False)
        self.board = Board(16)
        self.robin = RoundRobin(self.sock, self.board, distribute)
        self.dispatcher = Dispatcher()
        self.dispatcher.add(self.robin)
        self.servers: dict[int, Server] = {}
        self.workers: dict[int, Any] = {}
        self.inboxes: dict[int, Inbox] = {}
        self.clients: list[socket.socket] = []
        self.last_id = 0
        for seat in range(n):
            self.raise_worker(seat)

    def raise_worker(self, seat: int) -> Server:
        self.last_id += 1
        worker = SimpleNamespace(
            id=self.last_id, exited_after_disconnect=None, is_connected=lambda: True
        )
        self.board.take(seat)
        inbox = self.inboxes.setdefault(seat, Inbox())
        self.robin.seat(seat, worker, inbox.sending)
        server = Server(
            NativeHandler(lambda request: f"{seat}", Config()),
            Config(),
            board=self.board,
            slot=seat,
            inbox=inbox.receiving,
            bell=self.robin.bell_fd,
        )
        server.listen(self.sock, False)
        server.ready()
        self.servers[seat], self.workers[seat] = server, worker
        return server

    def end_worker(self, seat: int) -> None:
        self.servers.pop(seat).close()
        self.robin.unseat(seat)
        self.board.release(seat)

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        client = socket.create_connection(self.sock.getsockname(), source_address=(source, 0))
        client.settimeout(10)
        self.clients.append(client)
        return client

    def turn(self, *seats: int) -> None:
        self.dispatcher.turn()
        for seat in seats or self.servers:
            self.servers[seat].turn(0)

    def counts(self) -> list[int]:
        return [server.n_connections for _, server in sorted(self.servers.items())]

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for server in self.servers.values():
            server.close()
        self.dispatcher.close()
        for inbox in self.inboxes.values():
            inbox.close()
        self.sock.close()


@pytest.fixture
def clusters() -> Iterator[list[Cluster]]:
    made: list[Cluster] = []
    yield made
    for cluster in made:
        cluster.close()


@pytest.fixture
def make(clusters: list[Cluster]) -> Any:
    def and_remember(n: int, distribute: Any = None) -> Cluster:
        clusters.append(Cluster(n, distribute))
        return clusters[-1]

    return and_remember


# ---- in turn


def test_connections_go_round(make: Any) -> None:
    cluster = make(3)
    for n in range(9):
        cluster.connect()
        cluster.turn()
        assert sum(cluster.counts()) == n + 1
        assert max(cluster.counts()) - min(cluster.counts()) <= 1
    assert cluster.counts() == [3, 3, 3]


def test_they_are_served(make: Any) -> None:
    cluster = make(2)
    for seat in (0, 1):
        client = cluster.connect()
        client.sendall(GET)
        cluster.turn()
        cluster.turn()
        assert client.recv(4096).endswith(b"%d" % seat)


def test_a_worker_that_has_not_taken_one_gets_no_other(make: Any) -> None:
    cluster = make(2)
    for _ in range(6):
        cluster.connect()
    cluster.dispatcher.turn()
    assert cluster.robin.accepted == 2  # the others wait in the kernel's queue
    for n in range(6):
        cluster.turn(1)
        assert cluster.servers[1].n_connections == min(n + 1, 5)
    assert cluster.counts() == [0, 5]
    cluster.turn()
    assert cluster.counts() == [1, 5]


def test_whoever_becomes_free_rings_and_nobody_turns_in_vain(make: Any) -> None:
    cluster = make(1)
    for _ in range(2):
        cluster.connect()
    cluster.dispatcher.turn()
    assert select.select([cluster.dispatcher.fileno()], [], [], 0)[0] == []
    cluster.servers[0].turn(0)
    assert select.select([cluster.dispatcher.fileno()], [], [], 0)[0] != []
    cluster.turn()
    assert cluster.counts() == [2]


def test_nobody_there_and_then_somebody(make: Any) -> None:
    cluster = make(0)
    cluster.connect()
    cluster.turn()
    assert cluster.robin.accepted == 0
    cluster.raise_worker(0)
    cluster.turn()
    assert cluster.counts() == [1]


def test_a_worker_that_leaves_gets_none(make: Any) -> None:
    cluster = make(2)
    cluster.servers[0].drain()
    for _ in range(3):
        cluster.connect()
        cluster.turn()
    assert cluster.counts() == [0, 3]


def test_a_successor_takes_part_whatever_its_predecessor_has_taken(make: Any) -> None:
    cluster = make(1)
    for _ in range(3):
        cluster.connect()
        cluster.turn()
    cluster.end_worker(0)
    cluster.raise_worker(0)
    for _ in range(3):
        cluster.connect()
        cluster.turn()
    assert cluster.counts() == [3]
    assert cluster.board.read(0)["connections"] == 3


# ---- a maximum


def test_a_full_worker_is_passed_over_until_one_of_its_connections_closes(make: Any) -> None:
    cluster = make(2)
    cluster.servers[0].limit_connections(1, False)
    cluster.servers[1].limit_connections(2, False)
    for _ in range(5):
        cluster.connect()
    for _ in range(6):
        cluster.turn()
    assert cluster.counts() == [1, 2]
    cluster.clients[0].close()
    for _ in range(3):
        cluster.turn()
    assert cluster.counts() == [1, 2]
    assert cluster.robin.accepted == 4


def test_a_worker_that_drops_is_given_its_share_and_closes_it(make: Any) -> None:
    cluster = make(1)
    dropped: list[Any] = []
    cluster.servers[0].limit_connections(1, True, lambda *where: dropped.append(where))
    clients = [cluster.connect() for _ in range(3)]
    for _ in range(4):
        cluster.turn()
    assert cluster.counts() == [1]
    local = cluster.sock.getsockname()
    assert dropped == [(client.getsockname(), local) for client in clients[1:]]
    assert clients[2].recv(1) == b""
    assert cluster.board.read(0)["connections"] == 1


def test_a_maximum_that_is_lifted_lets_them_in(make: Any) -> None:
    cluster = make(1)
    cluster.servers[0].limit_connections(0, False)
    cluster.connect()
    cluster.turn()
    assert cluster.counts() == [0]
    cluster.servers[0].limit_connections(None, False)
    cluster.turn()
    assert cluster.counts() == [1]
    with pytest.raises(ValueError):
        cluster.servers[0].limit_connections(-1, False)


# ---- the program's choice


def test_distribute_chooses(make: Any) -> None:
    asked: list[Any] = []

    def last(connection: Connection, workers: list[Any]) -> Any:
        asked.append((connection, [worker.id for worker in workers]))
        return workers[-1]

    cluster = make(3, last)
    client = cluster.connect()
    cluster.turn()
    assert cluster.counts() == [0, 0, 1]
    assert asked == [((*client.getsockname(), *cluster.sock.getsockname()), [1, 2, 3])]
    cluster.servers[2].limit_connections(1, False)
    cluster.connect()
    cluster.turn()
    assert cluster.counts() == [0, 1, 1]
    assert asked[1][1] == [1, 2]


@pytest.mark.parametrize("answer", [None, "nobody", ZeroDivisionError()])
def test_no_choice_goes_round(make: Any, answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    def bad(connection: Connection, workers: list[Any]) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    cluster = make(2, bad)
    with caplog.at_level(logging.ERROR, "fastcluster"):
        for _ in range(4):
            cluster.connect()
            cluster.turn()
    assert cluster.counts() == [2, 2]
    assert len(caplog.records) == (0 if answer is None else 4)


def test_what_the_chosen_one_has_no_room_for_waits_here_and_is_not_lost(make: Any) -> None:
    cluster = make(2, lambda connection, workers: workers[0])
    n = 60  # an inbox has room for about ten
    for _ in range(n):
        cluster.connect()
    cluster.dispatcher.turn()
    poller = Poller(cluster.dispatcher)
    for _ in range(n):
        cluster.servers[0].turn(0)
        poller.poll(0)
    assert cluster.counts() == [n, 0]


def test_what_waits_for_one_that_dies_goes_to_another(make: Any) -> None:
    cluster = make(2, lambda connection, workers: workers[0])
    n = 30
    for _ in range(n):
        cluster.connect()
    cluster.dispatcher.turn()
    cluster.end_worker(0)
    cluster.inboxes[0].forward([cluster.inboxes[1]])
    poller = Poller(cluster.dispatcher)
    for _ in range(200):
        cluster.servers[1].turn(0)
        cluster.inboxes[0].forward([cluster.inboxes[1]])
        poller.poll(0 if cluster.counts()[-1] else 10)
        if cluster.counts() == [n]:
            return
        poller.poll(10)
    assert cluster.counts() == [n]


# ---- by address


def test_an_address_stays_with_its_worker(make: Any) -> None:
    cluster = make(4, Sticky())
    for _ in range(3):
        for last in range(1, 9):
            cluster.connect(f"127.0.0.{last}")
            cluster.turn()
    assert cluster.counts() == [6, 6, 6, 6]


def test_a_worker_that_comes_takes_no_address_away(make: Any) -> None:
    cluster = make(1, Sticky())
    for last in range(1, 9):
        cluster.connect(f"127.0.0.{last}")
        cluster.turn()
    cluster.raise_worker(1)
    for last in range(1, 9):
        cluster.connect(f"127.0.0.{last}")
        cluster.turn()
    assert cluster.counts() == [16, 0]
    cluster.connect("127.0.0.100")
    cluster.turn()
    assert cluster.counts() == [16, 1]


def test_an_address_whose_worker_died_moves_once(make: Any) -> None:
    cluster = make(2, Sticky())
    cluster.connect("127.0.0.5")
    cluster.turn()
    assert cluster.counts() == [1, 0]
    cluster.end_worker(0)
    cluster.connect("127.0.0.5")
    cluster.turn()
    cluster.raise_worker(0)
    cluster.connect("127.0.0.5")
    cluster.turn()
    assert cluster.counts() == [0, 2]


def test_an_address_whose_worker_is_full_comes_back_to_it(make: Any) -> None:
    cluster = make(2, Sticky())
    cluster.connect("127.0.0.5")
    cluster.turn()
    cluster.servers[0].limit_connections(1, False)
    cluster.connect("127.0.0.5")
    cluster.turn()
    assert cluster.counts() == [1, 1]
    cluster.servers[0].limit_connections(None, False)
    cluster.connect("127.0.0.5")
    cluster.turn()
    assert cluster.counts() == [2, 1]


def test_sticky_can_be_called_by_a_distribute_of_ones_own() -> None:
    sticky = Sticky()
    workers = [
        SimpleNamespace(id=i, exited_after_disconnect=None, is_connected=lambda: True)
        for i in range(3)
    ]
    places = [Connection(f"10.0.0.{i}", 1, "10.0.0.9", 80) for i in range(30)]
    places += [Connection(f"fe80::{i:x}", 1, "::1", 80) for i in range(30)]
    first = [sticky(place, workers) for place in places]
    assert {worker.id for worker in first} == {0, 1, 2}
    assert [sticky(place, workers[::-1]) for place in places] == first
    # Not offered this once, it is still theirs.
    assert all(sticky(place, workers[1:]).id > 0 for place in places)
    assert [sticky(place, workers) for place in places] == first
    workers[0].is_connected = lambda: False
    moved = [sticky(place, workers[1:]) for place in places]
    assert [sticky(place, workers[1:]) for place in places] == moved
    unix = Connection(None, None, None, None)
    assert {sticky(unix, workers[1:]).id for _ in range(4)} == {1, 2}


# ---- what goes wrong, and the wait


def test_out_of_descriptors_it_pauses_and_goes_on(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = make(1)
    cluster.connect()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as free:
        first_free = free.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, before[1]))
    try:
        cluster.turn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert os.strerror(errno.EMFILE) in caplog.text
    assert cluster.robin.accepted == 0
    Poller(cluster.dispatcher).poll(300)
    cluster.turn()
    assert cluster.counts() == [1]


def test_a_wait_ends_by_others_or_by_time_and_not_by_connections(make: Any) -> None:
    cluster = make(1)
    poller = Poller(cluster.dispatcher)
    poller.register(cluster.dispatcher.fileno())  # for those who wait with something else
    cluster.connect()
    assert poller.poll(10) == []
    assert cluster.robin.accepted == 1
    reading, writing = os.pipe()
    try:
        poller.register(reading, select.POLLIN)
        os.write(writing, b"!")
        assert poller.poll() == [(reading, select.POLLIN)]
    finally:
        os.close(reading)
        os.close(writing)


def test_what_is_removed_accepts_no_more_and_a_forked_child_takes_nothing_with_it(
    make: Any,
) -> None:
    cluster = make(1)
    pid = os.fork()
    if pid == 0:
        cluster.dispatcher.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    cluster.connect()
    cluster.turn()
    assert cluster.counts() == [1]
    cluster.dispatcher.remove(cluster.robin)
    cluster.connect()
    cluster.turn()
    assert cluster.counts() == [1]


def test_seats_are_those_of_the_board(make: Any) -> None:
    cluster = make(1)
    with pytest.raises(IndexError):
        cluster.robin.seat(16, cluster.workers[0], cluster.inboxes[0].sending)
