"""Which worker gets a connection, by real processes: the policies, maximums, and deaths."""

import os
import select
import signal
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cluster_parts import Program, ran
from crew import until

from fastcluster import scheduling
from fastcluster.errors import UsageError
from fastcluster.scheduling import Policy, Schedule

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POLICIES = ["SCHED_NONE", "SCHED_RR", "SCHED_BALANCED"]

# Workers that answer with their id; the port is said when all listen.
SERVE = """
cluster.scheduling_policy = cluster.{policy}
if cluster.is_primary:
    ports = []
    @cluster.on("listening")
    def listening(worker, address):
        ports.append(address.port)
        if len(ports) == {n}:
            say(address.port, [w.process.pid for w in cluster.workers.values()])
    for _ in range({n}):
        cluster.fork()
else:
    http.create_server(lambda request: str(cluster.worker.id)).listen(0)
cluster.run()
"""


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0))


def ask(client: socket.socket) -> str:
    client.sendall(GET)
    answer = b""
    while b"\r\n\r\n" not in answer or not answer.partition(b"\r\n\r\n")[2]:
        data = client.recv(4096)
        assert data, "the connection was lost"
        answer += data
    return answer.partition(b"\r\n\r\n")[2].decode()


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def stop(program: Program) -> None:
    program.process.send_signal(signal.SIGTERM)
    program.end()


# ---- the policy


def test_the_policy_is_a_number_of_the_programs_and_is_frozen_by_setup(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        say(cluster.SCHED_NONE, cluster.SCHED_RR, cluster.scheduling_policy)
        for wrong in (0, 4, True, "rr", None):
            try:
                cluster.scheduling_policy = wrong
            except ValueError as error:
                say(str(error))
        cluster.scheduling_policy = 1
        say(cluster.scheduling_policy is cluster.SCHED_NONE)
        cluster.setup_primary()
        cluster.scheduling_policy = cluster.SCHED_NONE
        try:
            cluster.scheduling_policy = cluster.SCHED_RR
        except RuntimeError as error:
            say(str(error), cluster.scheduling_policy)
        """,
    )
    assert said[0] == [1, 2, Policy.BALANCED]
    assert all("SCHED_BALANCED" in text for (text,) in said[1:6])
    assert said[6] == [True]
    assert "first setup_primary() or fork()" in said[7][0]
    assert said[7][1] == 1


def test_in_a_worker_it_is_read_by_nobody_and_set_without_effect(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        cluster.scheduling_policy = cluster.SCHED_RR
        if cluster.is_primary:
            cluster.fork()
        else:
            try:
                cluster.scheduling_policy
            except RuntimeError as error:
                say(str(error))
        cluster.run()
        """,
    )
    assert "cluster.scheduling_policy is for the primary" in said[0][0]


@pytest.mark.parametrize("word", ["none", "rr", "balanced", ""])
def test_the_environment_says_it_by_a_word(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("FASTCLUSTER_SCHED_POLICY", word)
    assert Schedule().policy is scheduling.WORDS.get(word, Policy.BALANCED)


def test_another_word_is_an_error_that_names_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCLUSTER_SCHED_POLICY", "robin")
    with pytest.raises(UsageError, match=r"'robin'.*none, rr, balanced"):
        Schedule().freeze()


def test_distribute_needs_the_primary_to_accept(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        for wrong in (cluster.sticky, 7):
            try:
                cluster.setup_primary(distribute=wrong)
            except (TypeError, ValueError) as error:
                say(str(error))
        """,
    )
    assert "SCHED_RR" in said[0][0]
    assert "a function" in said[1][0]


# ---- balance


def test_64_long_connections_are_16_for_each_of_4_workers(tmp_path: Path) -> None:
    program = Program(tmp_path, SERVE.format(policy="SCHED_BALANCED", n=4))
    port, _ = program.line()
    clients = [connect(port) for _ in range(64)]

    def is_even() -> bool:
        counts = Counter(ask(client) for client in clients)
        return len(counts) == 4 and max(counts.values()) - min(counts.values()) <= 1

    until(is_even, "balance")
    for client in clients:
        client.close()
    stop(program)


def test_in_turn_every_fourth_connection_is_for_the_same_worker(tmp_path: Path) -> None:
    program = Program(tmp_path, SERVE.format(policy="SCHED_RR", n=4))
    port, _ = program.line()
    clients, turns = [], []
    for _ in range(64):
        clients.append(connect(port))
        turns.append(ask(clients[-1]))
    assert sorted(turns[:4]) == ["1", "2", "3", "4"]
    assert turns == turns[:4] * 16
    for client in clients:
        client.close()
    stop(program)


@pytest.mark.parametrize("policy", POLICIES)
def test_listening_is_the_same_under_all_policies(tmp_path: Path, policy: str) -> None:
    program = Program(
        tmp_path,
        f"""
        cluster.scheduling_policy = cluster.{policy}
        if cluster.is_primary:
            seen = []
            @cluster.on("listening")
            def listening(worker, address):
                seen.append(address)
                if len(seen) == 6:
                    say([address.port for address in seen if address.address_type == 4])
            for _ in range(2):
                cluster.fork()
        else:
            http.create_server(lambda request: "a").listen(0)
            http.create_server(lambda request: "b").listen(0)
            http.create_server(lambda request: "unix").listen(path="s")
        cluster.run()
        """,
    )
    (ports,) = program.line()
    assert len(ports) == 4
    assert len(set(ports)) == 2
    answers = []
    for port in set(ports):
        with connect(port) as client:
            answers.append(ask(client))
    assert sorted(answers) == ["a", "b"]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(tmp_path / "s"))
        assert ask(client) == "unix"
    stop(program)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("policy", POLICIES)
def test_closing_and_listening_again_leaves_no_descriptor(tmp_path: Path, policy: str) -> None:
    program = Program(
        tmp_path,
        f"""
        cluster.scheduling_policy = cluster.{policy}
        def descriptors():
            return len(os.listdir("/proc/self/fd"))
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                say(address.port, descriptors())
            cluster.fork()
        else:
            def answer(request):
                server.close()
                new()
                return str(descriptors())
            def new():
                global server
                server = http.create_server(answer).listen(0)
            new()
        cluster.run()
        """,
    )
    counts: list[tuple[int, int]] = []
    for _ in range(20):
        port, primary = program.line()
        with connect(port) as client:
            counts.append((primary, int(ask(client))))
    for side in (0, 1):
        seen = [count[side] for count in counts]
        # Two that overlap need two seats; one that were lost each time would be 15 more.
        assert min(seen[-5:]) <= max(seen[:5]) + 4, seen
    program.line()
    stop(program)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_worker_that_is_forked_later_has_nothing_of_the_primarys(
    tmp_path: Path, policy: str
) -> None:
    said = ran(
        tmp_path,
        f"""
        cluster.scheduling_policy = cluster.{policy}
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                if worker.id < 4:
                    cluster.fork()
                else:
                    cluster.disconnect()
            cluster.fork()
        else:
            say(len(os.listdir("/proc/self/fd")))
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    assert len(said) == 4
    assert len({count for (count,) in said}) == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_workers_in_a_fresh_interpreter_take_part(tmp_path: Path, policy: str) -> None:
    (tmp_path / "served.py").write_text(
        "from fastcluster import cluster, http\n"
        "http.create_server(lambda request: str(cluster.worker.id)).listen(0)\n"
    )
    text = SERVE.replace(
        "    ports = []", '    cluster.setup_primary(exec="served.py")\n    ports = []'
    )
    program = Program(tmp_path, text.format(policy=policy, n=2))
    port, _ = program.line()
    clients = []
    counts: Counter[str] = Counter()
    for _ in range(8):
        clients.append(connect(port))
        counts[ask(clients[-1])] += 1
    assert sum(counts.values()) == 8
    if policy == "SCHED_RR":
        assert set(counts.values()) == {4}
    for client in clients:
        client.close()
    stop(program)


def test_in_turn_connections_cost_the_primary_no_python(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
        cluster.scheduling_policy = cluster.SCHED_RR
        if cluster.is_primary:
            n = 0
            def count(frame, event, argument):
                global n
                n += event in ("call", "c_call")
            @cluster.on("listening")
            def listening(worker, address):
                say(address.port)
                sys.setprofile(count)
            @cluster.on("exit")
            def died(worker, code, signal):
                sys.setprofile(None)
                say(n)
            cluster.fork()
        else:
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    (port,) = program.line()
    n = 600
    for _ in range(n):
        with connect(port) as client:
            assert ask(client) == "x"
    program.process.send_signal(signal.SIGTERM)
    ((calls,),) = program.end()
    # The end of a worker costs some hundred, whatever it has served.
    assert calls < n


# ---- deaths


def killed_while_connections_wait(tmp_path: Path, policy: str) -> None:
    program = Program(tmp_path, SERVE.format(policy=policy, n=3))
    port, pids = program.line()
    for pid in pids[1:]:
        os.kill(pid, signal.SIGSTOP)
        until(lambda pid=pid: "\nState:\tT" in Path(f"/proc/{pid}/status").read_text(), "a stop")
    clients = [connect(port) for _ in range(24)]
    for client in clients:
        client.sendall(GET)
    assert select.select(clients, [], [], 20)[0]
    for pid in pids[1:]:
        os.kill(pid, signal.SIGKILL)
    # The kernel may have woken a dead one for the last that came.
    with connect(port) as client:
        assert ask(client) == "1"
    for client in clients:
        answer = client.recv(4096)
        assert answer.endswith(b"1"), answer
        client.close()
    stop(program)


def test_balanced_a_killed_worker_loses_no_connection_that_it_was_handed(tmp_path: Path) -> None:
    killed_while_connections_wait(tmp_path, "SCHED_BALANCED")


def test_in_turn_a_killed_worker_loses_no_connection_that_it_was_handed(tmp_path: Path) -> None:
    killed_while_connections_wait(tmp_path, "SCHED_RR")


@pytest.mark.parametrize("policy", ["SCHED_RR", "SCHED_BALANCED"])
def test_no_connection_is_lost_while_workers_come_and_go(tmp_path: Path, policy: str) -> None:
    """Workers are replaced, one after the other, under clients that connect all the time."""
    program = Program(
        tmp_path,
        f"""
        cluster.scheduling_policy = cluster.{policy}
        if cluster.is_primary:
            seen = []
            @cluster.on("listening")
            def listening(worker, address):
                seen.append(address.port)
                if len(seen) == 3:
                    say(address.port)
                    cluster.reload(again)
            def again(error, left=[3]):
                left[0] -= 1
                if error or not left[0]:
                    say(str(error))
                else:
                    cluster.reload(again)
            cluster.supervise(3)
        else:
            http.create_server(lambda request: str(cluster.worker.generation)).listen(0)
        cluster.run()
        """,
    )
    (port,) = program.line()
    seen: Counter[str] = Counter()
    deadline = time.monotonic() + 20
    while "4" not in seen or seen["4"] < 20:
        assert time.monotonic() < deadline
        with connect(port) as client:
            seen[ask(client)] += 1
    assert program.line() == ["None"]
    stop(program)


def test_replaced_workers_take_their_predecessors_seats(tmp_path: Path) -> None:
    """Killed ones come back, connections are spread over the new ones as well."""
    program = Program(
        tmp_path,
        """
        if cluster.is_primary:
            seen = []
            @cluster.on("listening")
            def listening(worker, address):
                seen.append(worker.process.pid)
                if len(seen) >= 2:
                    say(address.port, seen[-2:])
            cluster.supervise(2)
        else:
            http.create_server(lambda request: str(os.getpid())).listen(0)
        cluster.run()
        """,
    )
    port, pids = program.line()
    for _ in range(3):
        os.kill(pids[0], signal.SIGKILL)
        port, pids = program.line()
        clients = [connect(port) for _ in range(8)]

        def is_even(clients: list[socket.socket] = clients, pids: list[int] = pids) -> bool:
            counts = Counter(int(ask(client)) for client in clients)
            return counts == dict.fromkeys(pids, 4)

        until(is_even, "balance")
        for client in clients:
            client.close()
    stop(program)


# ---- a maximum of connections

LIMITED = """
cluster.scheduling_policy = cluster.{policy}
MOST = {most}
if cluster.is_primary:
    seen = []
    @cluster.on("listening")
    def listening(worker, address):
        seen.append(worker)
        if len(seen) == len(MOST):
            say(address.port)
    @cluster.on("message")
    def message(worker, text, handle):
        say(worker.id, *text)
    for _ in MOST:
        cluster.fork()
else:
    server = http.create_server(lambda request: str(cluster.worker.id))
    server.max_connections = MOST[cluster.worker.id - 1]
    server.drop_max_connection = {drop}
    @server.on("drop")
    def dropped(connection):
        cluster.worker.send([connection.remote_port, connection.local_port])
    server.listen(0)
cluster.run()
"""


@pytest.mark.parametrize("policy", ["SCHED_RR", "SCHED_BALANCED"])
def test_a_full_worker_leaves_connections_to_the_others(tmp_path: Path, policy: str) -> None:
    program = Program(tmp_path, LIMITED.format(policy=policy, most=[0, 1, 9], drop=False))
    (port,) = program.line()
    clients = [connect(port) for _ in range(10)]
    assert Counter(ask(client) for client in clients) == {"2": 1, "3": 9}
    # One more waits, and gets the place of the first that goes.
    late = connect(port)
    late.sendall(GET)
    late.settimeout(0.1)
    with pytest.raises(TimeoutError):
        late.recv(1)
    late.settimeout(20)
    (place,) = [client for client in clients if ask(client) == "2"]
    place.close()
    # Balanced, a connection of the third may have moved first, and have left it a place.
    assert late.recv(4096)[-1:] in (b"2" if policy == "SCHED_RR" else b"23")
    for client in (*clients, late):
        client.close()
    stop(program)


def test_in_turn_a_worker_that_drops_closes_its_share(tmp_path: Path) -> None:
    program = Program(tmp_path, LIMITED.format(policy="SCHED_RR", most=[0, 9], drop=True))
    (port,) = program.line()
    answers: list[Any] = []
    for _ in range(6):
        client = connect(port)
        client.sendall(GET)
        try:
            answers.append(client.recv(4096)[-1:])
        except ConnectionError:
            answers.append(b"")
        if not answers[-1]:
            assert program.line() == [1, client.getsockname()[1], port]
        client.close()
    assert answers == [b"", b"2"] * 3 or answers == [b"2", b""] * 3
    stop(program)


@pytest.mark.parametrize("policy", ["SCHED_NONE", "SCHED_BALANCED"])
def test_whoever_accepts_above_its_maximum_drops(tmp_path: Path, policy: str) -> None:
    drop = policy != "SCHED_NONE"  # where nobody else could have it, always
    program = Program(tmp_path, LIMITED.format(policy=policy, most=[2], drop=drop))
    (port,) = program.line()
    clients = [connect(port) for _ in range(2)]
    assert [ask(client) for client in clients] == ["1", "1"]
    third = connect(port)
    assert is_closed(third)
    assert program.line() == [1, third.getsockname()[1], port]
    clients.pop().close()

    def has_room() -> bool:
        with connect(port) as client:
            try:
                return ask(client) == "1"
            except (AssertionError, ConnectionError):
                return False

    until(has_room, "room")
    clients.pop().close()
    program.process.send_signal(signal.SIGTERM)
    program.end()


# ---- the program's choice


def test_distribute_chooses_by_address_in_a_real_cluster(tmp_path: Path) -> None:
    text = SERVE.replace(
        "    ports = []",
        "    def by_parity(connection, workers):\n"
        "        return workers[int(connection.remote_address[-1]) % 2]\n"
        "    cluster.setup_primary(distribute=by_parity)\n"
        "    ports = []",
    )
    program = Program(tmp_path, text.format(policy="SCHED_RR", n=2))
    port, _ = program.line()
    for last in (2, 3, 4, 5, 2, 2):
        with connect(port, f"127.0.0.{last}") as client:
            assert ask(client) == str(last % 2 + 1)
    stop(program)


def test_sticky_keeps_an_address_on_its_worker_while_that_lives(tmp_path: Path) -> None:
    text = SERVE.replace(
        "    ports = []", "    cluster.setup_primary(distribute=cluster.sticky)\n    ports = []"
    )
    program = Program(tmp_path, text.format(policy="SCHED_RR", n=3))
    port, pids = program.line()

    def where(last: int) -> str:
        with connect(port, f"127.0.0.{last}") as client:
            return ask(client)

    first = {last: where(last) for last in range(1, 13)}
    assert set(first.values()) == {"1", "2", "3"}
    for _ in range(3):
        assert {last: where(last) for last in first} == first
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pids[0]}").exists(), "the death")
    second = {last: where(last) for last in first}
    assert all(second[last] == first[last] for last in first if first[last] != "1")
    assert set(second.values()) == {"2", "3"}
    assert {last: where(last) for last in first} == second
    stop(program)


@pytest.mark.parametrize("policy", POLICIES)
def test_an_asyncio_primary_schedules_as_well(tmp_path: Path, policy: str) -> None:
    text = SERVE.replace("cluster.run()\n", "").format(policy=policy, n=2)
    program = Program(
        tmp_path,
        text + "import asyncio\nasyncio.run(cluster.run_async())\n",
    )
    port, pids = program.line()
    answers: Counter[str] = Counter()
    for _ in range(10):
        with connect(port) as client:
            answers[ask(client)] += 1
    assert sum(answers.values()) == 10
    if policy == "SCHED_RR":
        assert set(answers.values()) == {5}
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pids[0]}").exists(), "the death")
    with connect(port) as client:
        assert ask(client) == "2"
    stop(program)
