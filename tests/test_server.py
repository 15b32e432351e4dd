"""server.pyx: turns, what is watched, the scoreboard, and descriptors that run out.

How connections go from one process to another is in test_handover.py.
"""

import contextlib
import logging
import os
import resource
import select
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from connection_parts import path_of
from crew import DEADLINE_S, GET, until
from harness import Wire, open_descriptors, wire

from fastcluster.channel import Inbox
from fastcluster.config import Config
from fastcluster.native import NativeHandler
from fastcluster.request import Request
from fastcluster.server import Board, Server

READY, DRAINING = 2, 3


# ---- descriptors run out


class Starving:
    """A server in a process of its own that may open few descriptors."""

    def __init__(self, more: int) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.listening.setblocking(False)
        self.control, theirs = socket.socketpair()
        self.control.settimeout(DEADLINE_S)
        self.pid = os.fork()
        if self.pid == 0:
            self.live(more, theirs)
        theirs.close()
        assert self.control.recv(1) == b"r"

    def live(self, more: int, control: socket.socket) -> NoReturn:
        code = 1
        try:
            logger = logging.getLogger("fastcluster")
            logger.handlers[:] = [Lines(control)]
            logger.propagate = False
            config = Config(limit_connections=10_000)
            server = Server(NativeHandler(self.answer, config), config)
            server.listen(self.listening)
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit_for(more), hard))
            control.send(b"r")
            self.turns = 0
            while True:
                self.turns += 1
                server.turn()
        finally:
            os._exit(code)

    def answer(self, request: Request) -> bytes:
        return b"%d" % self.turns

    def turns_so_far(self, client: socket.socket) -> int:
        client.sendall(GET)
        return int(client.recv(65536).rpartition(b"\r\n\r\n")[2])

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.control.close()
        self.listening.close()


class Lines(logging.Handler):
    """Sends one byte for each record."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self.sock = sock

    def emit(self, record: logging.LogRecord) -> None:
        self.sock.send(b"w")


def limit_for(more: int) -> int:
    """Return the limit under which so many more descriptors can be opened."""
    used = {int(name) for name in os.listdir("/dev/fd")}
    limit = 0
    while more:
        more -= limit not in used
        limit += 1
    return limit


def is_answered(address: tuple[str, int]) -> bool:
    """Tell whether a new client is served, rather than turned away."""
    with (
        socket.create_connection(address, DEADLINE_S) as client,
        contextlib.suppress(ConnectionError),
    ):
        client.sendall(GET)
        return client.recv(65536).startswith(b"HTTP/1.1 200 ")
    return False


@pytest.fixture
def starving() -> Iterator[Starving]:
    opened = Starving(more=12)
    yield opened
    opened.close()


def test_descriptors_that_run_out_come_back(starving: Starving) -> None:
    address = starving.listening.getsockname()
    first = socket.create_connection(address, DEADLINE_S)
    before = starving.turns_so_far(first)
    crowd = [socket.create_connection(address, DEADLINE_S) for _ in range(40)]
    assert starving.control.recv(1) == b"w"
    # Those that are in are served while accepting pauses.
    started = time.monotonic()
    while time.monotonic() - started < 0.5:
        turns = starving.turns_so_far(first)
        time.sleep(0.05)
    # A level-triggered listener that cannot be drained would turn for ever.
    assert turns - before < 100
    for sock in crowd:
        sock.close()
    # Those that were not accepted yet are dead as well, and come first.
    until(lambda: is_answered(address), "an answer")
    for _ in range(5):
        assert is_answered(address)
    first.close()


def test_a_client_is_told_that_there_is_no_room(starving: Starving) -> None:
    """The spare descriptor takes it and closes it, one in each pause."""
    address = starving.listening.getsockname()
    crowd = [socket.create_connection(address, DEADLINE_S) for _ in range(30)]
    assert select.select(crowd, [], [], DEADLINE_S)[0]
    assert starving.control.recv(1) == b"w"
    for sock in crowd:
        sock.close()


# ---- one process: turns, watches, posts


@pytest.fixture
def site() -> Iterator[Wire]:
    with wire(NativeHandler, path_of) as opened:
        yield opened


def test_a_turn_says_how_much_was_ready(site: Wire) -> None:
    assert site.server.turn(0) == 0
    client = site.connect()
    site.turn_until(lambda: site.server.n_connections == 1)
    client.send(GET)
    assert site.server.turn(1000) == 1


def test_a_turn_waits_no_longer_than_it_may(site: Wire) -> None:
    started = time.monotonic()
    site.server.turn(50)
    assert 0.04 < time.monotonic() - started < 2


def test_a_watched_descriptor_calls_back(site: Wire) -> None:
    ours, theirs = socket.socketpair()
    heard: list[bytes] = []
    site.server.watch(ours.fileno(), lambda: heard.append(ours.recv(10)))
    site.turn()
    assert heard == []
    theirs.send(b"hello")
    site.turn_until(lambda: heard)
    assert heard == [b"hello"]
    with pytest.raises(ValueError, match="watched already"):
        site.server.watch(ours.fileno(), lambda: None)
    site.server.unwatch(ours.fileno())
    theirs.send(b"more")
    site.turn(5)
    assert heard == [b"hello"]
    with pytest.raises(KeyError):
        site.server.unwatch(ours.fileno())
    ours.close()
    theirs.close()


def test_a_callback_may_unwatch_itself_and_others(site: Wire) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    called: list[int] = []

    def callback(i: int) -> Callable[[], None]:
        def run() -> None:
            called.append(i)
            for ours, _ in pairs:
                site.server.unwatch(ours.fileno())
                ours.close()

        return run

    for i, (ours, theirs) in enumerate(pairs):
        site.server.watch(ours.fileno(), callback(i))
        theirs.send(b"x")
    site.turn()
    site.turn()
    assert len(called) == 1
    for _, theirs in pairs:
        theirs.close()


def test_a_failing_callback_is_logged(site: Wire, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()

    def fail() -> None:
        ours.recv(1)
        raise LookupError("broken on purpose")

    site.server.watch(ours.fileno(), fail)
    theirs.send(b"x")
    site.turn_until(lambda: caplog.messages)
    assert "broken on purpose" in caplog.text
    assert site.request(GET).body == b"/"
    site.server.unwatch(ours.fileno())
    ours.close()
    theirs.close()


def test_what_another_thread_posts_is_called_here(site: Wire) -> None:
    seen: list[threading.Thread] = []
    thread = threading.Thread(
        target=lambda: site.server.post(lambda: seen.append(threading.current_thread()))
    )
    thread.start()
    # It wakes a turn that waits for nothing else.
    started = time.monotonic()
    while not seen:
        site.server.turn(20_000)
    assert time.monotonic() - started < 5
    thread.join()
    assert seen == [threading.current_thread()]


def test_posts_keep_their_order_and_wait_for_the_next_turn(site: Wire) -> None:
    seen: list[int] = []

    def again() -> None:
        seen.append(1)
        site.server.post(lambda: seen.append(3))

    site.server.post(again)
    site.server.post(lambda: seen.append(2))
    site.server.turn(0)
    assert seen == [1, 2]
    site.server.turn(0)
    assert seen == [1, 2, 3]


def test_many_posts_from_many_threads(site: Wire) -> None:
    seen: list[int] = []

    def work(i: int) -> None:
        for _ in range(2000):
            site.server.post(lambda: seen.append(i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    site.turn_until(lambda: len(seen) == 8000)
    for thread in threads:
        thread.join()
    assert Counter(seen) == dict.fromkeys(range(4), 2000)


def test_a_post_may_close_the_server_that_it_is_posted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(NativeHandler(lambda request: None, Config()), Config())
    posted: list[bool] = []

    def serve() -> None:
        while not posted:
            server.turn(0)
        server.close()

    thread = threading.Thread(target=serve)
    write = os.write

    def write_late(fd: int, data: bytes) -> int:
        # What lets other threads run may do so for as long as the loop's likes.
        thread.join()
        return write(fd, data)

    monkeypatch.setattr(os, "write", write_late)
    thread.start()
    server.post(lambda: posted.append(True))
    thread.join()


def test_a_failing_post_is_logged(site: Wire, caplog: pytest.LogCaptureFixture) -> None:
    site.server.post(lambda: 1 // 0)
    site.server.turn(0)
    assert "ZeroDivisionError" in caplog.text


def test_a_signal_handlers_exception_passes_through(site: Wire) -> None:
    before = signal.signal(signal.SIGUSR2, signal.default_int_handler)
    try:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR2))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            site.server.turn(10_000)
        timer.join()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert site.request(GET).body == b"/"


def test_a_guest_loop_sees_when_there_is_something_to_do(site: Wire) -> None:
    client = site.connect()
    site.turn_until(lambda: site.server.n_connections == 1)
    assert not select.select([site.server.fileno()], [], [], 0)[0]
    client.send(GET)
    assert select.select([site.server.fileno()], [], [], DEADLINE_S)[0]


def test_a_closed_server_gives_all_its_descriptors_back() -> None:
    with wire(NativeHandler, path_of):
        pass
    before = open_descriptors()
    site = Wire(NativeHandler, path_of)
    clients = [site.connect() for _ in range(5)]
    for client in clients:
        client.request(GET)
    site.turn()
    site.close()
    site.server.close()
    del site, clients, client
    assert open_descriptors() == before


def test_a_unix_socket(tmp_path: Any) -> None:
    with wire(
        NativeHandler, lambda request: repr(request.client), unix=str(tmp_path / "s")
    ) as site:
        assert site.request(GET).body == b"('', 0)"
        assert site.listener.path == str(tmp_path / "s")


# ---- the scoreboard


def test_a_board_says_what_a_server_does() -> None:
    board = Board(2)
    assert board.slots == 2
    assert board.read(0)["state"] == 0
    first = board.take(0)
    config = Config()
    server = Server(NativeHandler(path_of, config), config, board=board, slot=0)
    assert board.read(0)["pid"] == os.getpid()
    server.ready()
    assert (board.read(0)["state"], board.read(0)["generation"]) == (READY, first)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    server.listen(listening)
    client = socket.create_connection(listening.getsockname())
    client.sendall(GET * 3)
    while board.read(0)["requests"] < 3:
        server.turn(1000)
    seen = board.read(0)
    assert (seen["connections"], seen["accepted"], seen["running"]) == (1, 1, 0)
    assert seen["heartbeat_ms"] > 0
    client.close()
    while board.read(0)["connections"]:
        server.turn(1000)
    server.drain()
    assert board.read(0)["state"] == DRAINING
    server.close()
    listening.close()
    board.release(0)
    assert (board.read(0)["state"], board.read(0)["pid"]) == (0, 0)
    assert board.take(0) == first + 1


@pytest.mark.parametrize("index", [-1, 2, 1000])
def test_a_board_has_its_slots_only(index: int) -> None:
    board = Board(2)
    for method in (board.take, board.release, board.read):
        with pytest.raises(IndexError):
            method(index)


def test_a_board_of_no_slots() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Board(0)


def test_a_board_in_a_file_is_seen_by_all_who_open_it() -> None:
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), Board.bytes_for(3))
        one, other = Board(3, file.fileno()), Board(3, file.fileno())
    assert other.read(2)["generation"] == 0
    generation = one.take(2)
    assert other.read(2)["generation"] == generation
    with pytest.raises(MemoryError):
        Board(3, -1)


def test_a_sibling_that_comes_later_is_handed_connections() -> None:
    board, config = Board(8), Config()
    inboxes = {slot: Inbox() for slot in (0, 5)}
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    servers = {}
    for slot in (0, 5):
        board.take(slot)
        handler = NativeHandler(path_of, config)
        inbox = inboxes[slot].receiving
        servers[slot] = Server(handler, config, board=board, slot=slot, inbox=inbox)
        servers[slot].listen(listening, slot == 0)
        servers[slot].ready()
    clients = []

    def connect() -> list[int]:
        clients.append(socket.create_connection(listening.getsockname()))
        servers[5].turn(0)
        servers[5].rest()  # it waits in its poll, the board says
        while servers[0].turn(1000) == 0:
            pass
        servers[5].turn(0)
        return [server.n_connections for server in servers.values()]

    assert connect() == [1, 0]  # nobody knows where to hand it
    servers[0].add_outbox(5, inboxes[5].sending)
    assert connect() == [1, 1]
    servers[5].limit_connections(1, False)
    assert connect() == [2, 1]
    for closing in (*clients, *servers.values(), *inboxes.values(), listening):
        closing.close()


# ---- the request begun last


def test_the_board_keeps_the_request_begun_last() -> None:
    board = Board(1)
    assert board.last_request(0) is None
    board.take(0)
    seen: list[Any] = []

    def look(request: Request) -> str:
        seen.append((board.last_request(0), board.read(0)["running"]))
        return "ok"

    config = Config()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    server = Server(NativeHandler(look, config), config, board=board)
    server.listen(listening)
    with socket.create_connection(listening.getsockname(), DEADLINE_S) as client:
        for target in (b"/a?b=%22", b"/" + b"x" * 200):
            client.sendall(b"PUT " + target + b" HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
            until(lambda: server.turn(10) and len(seen) and client.recv(4096))
        host, port = client.getsockname()
    (first, running), (second, _) = seen
    assert running == 1
    assert first["line"] == "PUT /a?b=%22"
    assert first["client"] == f"{host}:{port}"
    assert 0 <= first["age_s"] < DEADLINE_S
    assert second["line"] == "PUT /" + "x" * 91
    # It outlives the worker, until another one takes the slot.
    assert board.read(0)["running"] == 0
    board.release(0)
    assert board.last_request(0)["line"] == second["line"]
    board.take(0)
    assert board.last_request(0) is None
    with pytest.raises(IndexError):
        board.last_request(1)
    server.close()
    listening.close()
