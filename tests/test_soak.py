"""The whole under load and abuse: real processes, many clients, nothing lost and nothing left.

Each test is bounded, and together they take under a minute; the clients are
plain sockets, since a client library would hide what is looked for here.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_processes import Cluster

DEADLINE_S = 20.0
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


Start = Callable[..., Cluster]


@pytest.fixture
def start() -> Iterator[Start]:
    """start(*options, app=…) returns a cluster with as many workers as asked for, all ready."""
    clusters: list[Cluster] = []

    def and_remember(workers: int, *options: str, app: str = "soak_app:handler") -> Cluster:
        clusters.append(
            Cluster("--bind", "127.0.0.1:0", "--workers", str(workers), *options, app=app)
        )
        clusters[-1].ready(workers)
        return clusters[-1]

    yield and_remember
    for cluster in clusters:
        cluster.end()


def connect(cluster: Cluster) -> socket.socket:
    return socket.create_connection(("127.0.0.1", cluster.port), DEADLINE_S)


class Broken(Exception):
    """A connection ended before its answer was whole."""


def receive(client: socket.socket) -> tuple[bytes, bytes]:
    """Receive one counted response; return its head and its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            raise Broken(data)
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        more = client.recv(65536)
        if not more:
            raise Broken(data)
        body += more
    assert head.startswith(b"HTTP/1.1 200 "), head
    return head, body


def ask(client: socket.socket, data: bytes = GET) -> int:
    """Send a request and return the pid of the worker that answered."""
    client.sendall(data)
    return int(receive(client)[1])


def worker_memory(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def worker_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def worker_cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.005)


# ---- slow clients


@pytest.mark.parametrize("app", ["soak_app:handler", "soak_app:application"])
def test_200_slow_clients_hold_nobody_up(start: Start, app: str) -> None:
    """Heads, bodies and answers that come and go byte by byte, on one worker."""
    cluster = start(1, "--timeout-head", "30", app=app)
    post = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 60\r\n\r\n"
    slow = [connect(cluster) for _ in range(200)]
    unsent = [GET if i % 2 else post[len(post) - 3 :] + b"a" * 60 for i in range(200)]
    for i, client in enumerate(slow):
        if not i % 2:
            client.sendall(post[:-3])
    worst = 0.0
    rounds = max(len(data) for data in unsent)
    for at in range(rounds - 1):
        for client, data in zip(slow, unsent, strict=True):
            # The last byte is held back, so that none of them is ever done.
            client.send(data[at : at + 1] if at < len(data) - 1 else b"")
        started = time.monotonic()
        with connect(cluster) as fast:
            ask(fast)
        worst = max(worst, time.monotonic() - started)
    assert worst < 1
    for client, data in zip(slow, unsent, strict=True):
        client.sendall(data[-1:])
    for client in slow:
        assert receive(client)[0].startswith(b"HTTP/1.1 200 ")
        client.close()


def test_clients_that_read_slowly_hold_nobody_up(start: Start) -> None:
    cluster = start(1)
    slow = []
    for _ in range(50):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", cluster.port))
        client.settimeout(DEADLINE_S)
        client.sendall(b"GET /stream HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        slow.append(client)
    for _ in range(50):
        for client in slow:
            assert client.recv(100)
        started = time.monotonic()
        with connect(cluster) as fast:
            ask(fast)
        assert time.monotonic() - started < 1
    for client in slow[:5]:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        n = 5000
        while data := client.recv(1 << 20):
            n += len(data)
        assert n > 1_000_000
    for client in slow:
        client.close()


# ---- descriptors


@contextlib.contextmanager
def descriptor_limit(soft: int) -> Iterator[None]:
    """Have what is started inside inherit that limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def is_answered(cluster: Cluster) -> bool:
    """Tell whether a new client is served, rather than turned away."""
    with connect(cluster) as client, contextlib.suppress(ConnectionError):
        client.sendall(GET)
        return client.recv(100).startswith(b"HTTP/1.1 200 ")
    return False


def test_64_descriptors_are_survived(start: Start) -> None:
    with descriptor_limit(64):
        cluster = start(1)
    (pid,) = cluster.ready(1)
    kept = connect(cluster)
    assert ask(kept) == pid
    idle = worker_sockets(pid)
    for _ in range(3):
        crowd = [connect(cluster) for _ in range(200)]
        before = worker_cpu_s(pid)
        started = time.monotonic()
        while time.monotonic() - started < 0.7:
            assert ask(kept) == pid
            time.sleep(0.01)
        assert worker_cpu_s(pid) - before < 0.4
        assert worker_descriptors(pid) <= 64
        for client in crowd:
            client.close()
        # Those that it has not accepted yet are dead as well, and come first.
        until(lambda: is_answered(cluster), "a 200")
        until(lambda: worker_sockets(pid) == idle, "its descriptors")
    kept.close()
    assert not cluster.said("Traceback")


# ---- what is left behind


def pipelined(client: socket.socket, n: int) -> None:
    """Send n requests, 500 at a time, and count their answers."""
    for _ in range(n // 500):
        client.sendall(GET * 500)
        seen, tail = 0, b""
        while seen < 500:
            data = tail + client.recv(1 << 20)
            seen += data.count(b"HTTP/1.1 200 OK\r\n")
            tail = data[-16:]
            assert len(tail) == 16


def abort(cluster: Cluster, n: int) -> None:
    """Connect and leave in the middle of something, n times, half of them by a reset."""
    kinds = [
        b"",
        b"GET / HT",
        GET[:-2],
        GET,
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n",
        b"BREW / HTTP/1.1\r\n\r\n",
    ]
    address = ("127.0.0.1", cluster.port)
    for i in range(n):
        client = socket.create_connection(address, DEADLINE_S)
        client.send(kinds[i % len(kinds)])
        if i // len(kinds) % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()


@pytest.mark.parametrize(
    ("app", "threads"),
    [("soak_app:handler", 0), ("soak_app:application", 0), ("soak_app:application", 2)],
)
def test_100_000_requests_and_10_000_aborted_ones_leave_nothing(
    start: Start, app: str, threads: int
) -> None:
    cluster = start(1, "--threads", str(threads), app=app)
    (pid,) = cluster.ready(1)
    idle = worker_sockets(pid)
    share = 1 if not threads else 5
    with connect(cluster) as client:
        pipelined(client, 5000)
    abort(cluster, 1000)
    before = settled(cluster, pid, idle), worker_memory(pid)
    with connect(cluster) as client:
        pipelined(client, 100_000 // share)
    abort(cluster, 10_000 // share)
    assert settled(cluster, pid, idle) == before[0]
    assert worker_memory(pid) - before[1] < 1_000_000
    assert not cluster.said("ERROR")


def settled(cluster: Cluster, pid: int, idle: int) -> int:
    """Wait until a worker has its own sockets only; return how many descriptors it has then."""
    until(lambda: is_answered(cluster), "an answer")
    until(lambda: worker_sockets(pid) == idle, "rest")
    return worker_descriptors(pid)


def worker_sockets(pid: int) -> int:
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
    return count


# ---- balance


def test_64_long_lived_connections_on_4_workers(start: Start) -> None:
    """They come all at once, while workers are busy; a few requests later all is even."""
    cluster = start(4)
    pids = set(cluster.ready(4))
    clients = [connect(cluster) for _ in range(64)]
    even = dict.fromkeys(pids, 16)
    held: Counter[int] = Counter()
    for _ in range(100):
        for client in clients:
            client.sendall(GET)
        held = Counter(int(receive(client)[1]) for client in clients)
        if held == even:
            break
    assert all(15 <= n <= 17 for n in held.values()) and set(held) == pids, held
    # They stay where they are.
    assert Counter(ask(client) for client in clients) == held
    for client in clients:
        client.close()


def test_a_blocked_worker_leaves_nobody_waiting(start: Start, tmp_path: Path) -> None:
    cluster = start(4)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    blocked = connect(cluster)
    blocked.sendall(f"GET /block?{fifo} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    assert fifo.read_text() == "blocked"
    time_out = time.monotonic() + 1.5
    answered: Counter[int] = Counter()
    while time.monotonic() < time_out:
        started = time.monotonic()
        clients = [connect(cluster) for _ in range(8)]
        answered.update(ask(client) for client in clients)
        assert time.monotonic() - started < 1
        for client in clients:
            client.close()
    assert not select.select([blocked], [], [], 0)[0]
    pid = int(receive(blocked)[1])
    assert answered[pid] == 0
    assert len(answered) == 3
    blocked.close()


# ---- death


def test_connections_in_the_inbox_of_a_killed_worker_are_served(start: Start) -> None:
    cluster = start(4)
    victim, *others = cluster.ready(4)
    cluster.kill(victim, signal.SIGSTOP)
    until(lambda: Path(f"/proc/{victim}/stat").read_text().rpartition(")")[2][1] == "T", "a stop")
    clients = [connect(cluster) for _ in range(40)]
    for client in clients:
        client.sendall(GET)
    assert select.select(clients, [], [], DEADLINE_S)[0]
    cluster.kill(victim, signal.SIGKILL)
    answered = Counter(int(receive(client)[1]) for client in clients)
    assert sum(answered.values()) == 40
    assert victim not in answered
    assert set(answered) & set(others)
    for client in clients:
        client.close()


class Load:
    """Clients in threads that ask again and again, and note what went wrong."""

    def __init__(self, cluster: Cluster, n: int, *, reconnects: bool) -> None:
        self.cluster, self.reconnects = cluster, reconnects
        self.address = ("127.0.0.1", cluster.port)
        self.stopping = threading.Event()
        self.answered: Counter[int] = Counter()
        self.closed = 0  # by an answer that said so
        self.troubles: list[str] = []
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(n)]
        for thread in self.threads:
            thread.start()

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                client = socket.create_connection(self.address, DEADLINE_S)
            except OSError as error:
                self.troubles.append(f"connect: {error!r}")
                return
            with client:
                said_close = self.ask_on(client)
            if said_close and not self.reconnects:
                return

    def ask_on(self, client: socket.socket) -> bool:
        """Ask until the connection ends; return whether the last answer had said so."""
        while not self.stopping.is_set():
            try:
                client.sendall(GET)
                head, body = receive(client)
            except (OSError, Broken) as error:
                self.troubles.append(repr(error))
                return False
            self.answered[int(body)] += 1
            if b"\r\nConnection: close\r\n" in head + b"\r\n":
                self.closed += 1
                if client.recv(1) != b"":
                    self.troubles.append("no end after close")
                return True
        return False

    def wait_busy(self, n: int = 2000) -> None:
        """Wait for so many more answers."""
        goal = self.answered.total() + n
        until(lambda: self.answered.total() >= goal or self.troubles, "answers")

    def join(self) -> None:
        for thread in self.threads:
            thread.join(DEADLINE_S)
        assert not any(thread.is_alive() for thread in self.threads)

    def stop(self) -> None:
        self.stopping.set()
        self.join()


def test_a_graceful_stop_under_load_loses_nothing(start: Start) -> None:
    cluster = start(4)
    load = Load(cluster, 16, reconnects=False)
    load.wait_busy()
    cluster.signal(signal.SIGTERM)
    load.join()
    assert cluster.exit_code() == 0
    assert load.troubles == []
    # Each of them was told with an answer.
    assert load.closed == 16


@pytest.mark.parametrize("app", ["soak_app:handler", "soak_app:application"])
def test_a_reload_under_load_loses_nothing(start: Start, app: str) -> None:
    cluster = start(2, app=app)
    old = set(cluster.ready(2))
    load = Load(cluster, 8, reconnects=True)
    load.wait_busy()
    cluster.signal(signal.SIGHUP)
    cluster.expect("reload: done")
    cluster.expect("has drained and left", 2)
    load.wait_busy()
    load.stop()
    assert load.troubles == []
    new = set(cluster.ready(4)) - old
    assert new & set(load.answered) and set(load.answered) <= new | old


def test_a_retired_worker_under_load_loses_nothing(start: Start) -> None:
    cluster = start(2)
    first, _ = cluster.ready(2)
    load = Load(cluster, 8, reconnects=True)
    load.wait_busy()
    cluster.kill(first, signal.SIGTERM)
    cluster.wait_gone(first)
    cluster.ready(3)
    load.wait_busy()
    load.stop()
    assert load.troubles == []


def test_a_worker_killed_under_load_loses_what_it_was_serving_only(start: Start) -> None:
    cluster = start(4)
    victim, *_ = cluster.ready(4)
    load = Load(cluster, 16, reconnects=True)
    until(lambda: load.answered[victim] > 100, "its answers")
    cluster.kill(victim, signal.SIGKILL)
    cluster.wait_gone(victim)
    cluster.ready(5)
    load.wait_busy()
    load.stop()
    # A connection of the victim ends, once; those of the others do not.
    assert 1 <= len(load.troubles) <= 8, load.troubles
    assert not [what for what in load.troubles if what.startswith("connect")]
