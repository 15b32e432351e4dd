"""What the primary tells: events and their order, ends, messages; all on real processes."""

from pathlib import Path
from typing import Any

import pytest
from cluster_parts import ran

from fastcluster.channel import pair
from fastcluster.children import Family
from fastcluster.cluster_primary import PrimaryRole, Process, Worker
from fastcluster.emitter import Emitter
from fastcluster.link import Link


def test_events_come_in_order_on_the_worker_first(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.on("setup", lambda settings: say("setup"))
            cluster.on("fork", lambda worker: say("fork", worker.state))
            worker = cluster.fork()
            say("forked", worker.id, worker.is_connected(), worker.is_dead())
            for event in ("online", "listening", "disconnect", "exit"):
                worker.on(event, lambda *a, e=event: say("worker", e))
                cluster.on(event, lambda w, *a, e=event: say("cluster", e, w.state))
            cluster.on("listening", lambda worker, address: worker.disconnect())
        else:
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    assert said == [
        ["forked", 1, True, False],
        ["setup"],
        ["fork", "none"],
        ["worker", "online"],
        ["cluster", "online", "online"],
        ["worker", "listening"],
        ["cluster", "listening", "listening"],
        ["worker", "disconnect"],
        ["cluster", "disconnect", "disconnected"],
        ["worker", "exit"],
        ["cluster", "exit", "dead"],
    ]


@pytest.mark.node("test-cluster-kill-infinite-loop", "test-cluster-worker-death")
def test_an_exit_code_and_a_signal_are_told_apart(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            @cluster.on("exit")
            def died(worker, code, signal):
                process = worker.process
                agrees = (process.exitcode, process.signal_code) == (code, signal)
                say(code, signal, worker.exited_after_disconnect, agrees, len(cluster.workers))
                if worker.id == 1:
                    cluster.fork().on("online", worker_online)
                elif worker.id == 2:
                    cluster.fork().on("message", lambda *_: cluster.workers[3].kill())
                say(worker.kill())
            def worker_online():
                cluster.workers[2].kill(signal.SIGKILL)
            cluster.fork()
        elif cluster.worker.id == 1:
            sys.exit(42)
        elif cluster.worker.id == 2:
            cluster.worker.on("message", print)
        else:
            cluster.worker.send("busy")
            while True:
                pass
        cluster.run()
        """,
    )
    assert said == [
        [42, None, False, True, 0],
        [False],
        [None, "SIGKILL", False, True, 0],
        [False],
        [None, "SIGTERM", False, True, 0],
        [False],
    ]


def test_ten_thousand_messages_both_ways_at_once(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        N = 10_000
        count = 0
        def heard(message, handle):
            global count
            assert message["n"] == count
            count += 1
            if count == N:
                say("primary" if cluster.is_primary else "worker", count)
                if cluster.is_worker:
                    cluster.worker.disconnect()
        talk = cluster.fork() if cluster.is_primary else cluster.worker
        talk.on("message", heard)
        for n in range(N):
            talk.send({"n": n, "padding": "x" * 100})
        cluster.run()
        """,
    )
    assert sorted(said) == [["primary", 10_000], ["worker", 10_000]]


def test_ten_megabytes_and_a_socket_arrive_together(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            worker = cluster.fork()
            a, b = socket.socketpair()
            worker.send("x" * 10_000_000, b)
            b.close()
            @worker.on("message")
            def answered(length, handle):
                say(length, a.recv(10).decode())
                worker.disconnect()
        else:
            @cluster.worker.on("message")
            def heard(text, handle):
                handle.sendall(b"through")
                cluster.worker.send(len(text))
        cluster.run()
        """,
    )
    assert said == [[10_000_000, "through"]]


def test_a_server_is_sent_and_both_accept_from_it(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            sock = socket.create_server(("127.0.0.1", 0))
            worker = cluster.fork()
            assert worker.send("serve", sock)
            cluster.on("listening", lambda worker, address: worker.send("go"))
            @worker.on("message")
            def served(port, back):
                say(port == sock.getsockname()[1] == back.getsockname()[1], get(port))
                # Ours is still there, when the worker and its handle are gone.
                worker.on("exit", lambda code, name: say(code, accepts(back)))
                worker.disconnect()

            def accepts(server):
                with socket.create_connection(sock.getsockname()) as client:
                    server.accept()[0].sendall(b"primary")
                    return client.recv(100).decode()
        else:
            @cluster.worker.on("message")
            def told(what, handle):
                global server
                if what == "serve":
                    server = http.create_server(lambda request: "worker")
                    server.listen(fd=handle.fileno(), exclusive=True)
                else:
                    cluster.worker.send(server.address().port, server)
        cluster.run()
        """,
    )
    assert said == [[True, "worker"], [0, "primary"]]


def test_messages_that_are_sent_before_an_exit_arrive(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            count = []
            cluster.on("message", lambda worker, message, handle: count.append(message))
            cluster.on("exit", lambda worker, code, signal: say(code, len(count)))
            cluster.fork()
        else:
            for n in range(3_000):
                cluster.worker.send("y" * 1000)
            sys.exit(7)
        cluster.run()
        """,
    )
    assert said == [[7, 3000]]


@pytest.mark.node("test-cluster-disconnect-with-no-workers")
def test_disconnect_without_workers_calls_back_later(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        cluster.disconnect(lambda: say("back"))
        say("first")
        cluster.run()
        """,
    )
    assert said == [["first"], ["back"]]


@pytest.mark.node("test-cluster-disconnect-idle-worker")
def test_disconnect_right_after_fork(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            fork = cluster.fork
            fork(), fork()
            cluster.on("exit", lambda worker, code, signal: say(code, signal))
            cluster.disconnect(lambda: say("back", len(cluster.workers)))
        else:
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    assert said == [[0, None], [0, None], ["back", 0]]


@pytest.mark.node("test-cluster-worker-forced-exit")
def test_an_accidental_disconnect_ends_the_worker(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.on("listening", lambda worker, address: worker.process.disconnect())
            cluster.on("exit", lambda worker, code, signal:
                say(code, worker.exited_after_disconnect))
            cluster.fork()
        else:
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    assert said == [[0, False]]


def test_respawning_a_worker_that_does_not_come_up_slows_down(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            began = time.monotonic()
            @cluster.on("exit")
            def died(worker, code, signal):
                if worker.id < 4:
                    cluster.fork()
                else:
                    say(time.monotonic() - began > 0.7)
            cluster.fork()
        else:
            sys.exit(1)
        cluster.run()
        """,
    )
    # Three pauses: 0.1, 0.2 and 0.4 seconds.
    assert said == [[True]]


@pytest.mark.timeout(180)  # five seconds on a machine that has nothing else to do
def test_a_thousand_forks_leave_no_zombie_and_no_descriptor(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            def descriptors():
                return len(os.listdir("/proc/self/fd"))
            @cluster.on("exit")
            def died(worker, code, signal):
                global before, count
                count += 1
                if worker.id == 1:
                    before = descriptors()
                    for _ in range(7):
                        cluster.fork()
                if worker.id < 993:
                    cluster.fork()
                if not cluster.workers:
                    say(count, descriptors() - before)
            count = 0
            cluster.fork()
            cluster.run()
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                say("no child")
        """,
        timeout_s=170,
    )
    assert said == [[1000, 0], ["no child"]]


def test_a_broadcast_reaches_every_worker(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.fork(), cluster.fork(), cluster.fork()
            say("taken", cluster.broadcast({"all": 1}))
        else:
            @cluster.worker.on("message")
            def heard(message, handle):
                say(message)
                cluster.worker.disconnect()
        cluster.run()
        """,
    )
    # The workers may speak before the primary does.
    assert said.count(["taken", True]) == 1
    assert said.count([{"all": 1}]) == 3


def test_signals_that_the_program_handles_itself_end_nothing(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            for number in (signal.SIGUSR1, signal.SIGTERM):
                signal.signal(number, lambda number, frame: say(signal.Signals(number).name))
            @cluster.on("listening")
            def listening(worker, address):
                os.kill(os.getpid(), signal.SIGUSR1)
                os.kill(os.getpid(), signal.SIGTERM)
                worker.send("go on")
            @cluster.on("message")
            def message(worker, text, handle):
                say(text, worker.exited_after_disconnect)
                os.kill(os.getpid(), signal.SIGINT)     # which it does not handle
            cluster.on("exit", lambda worker, code, signal: say(code,
                worker.exited_after_disconnect))
            cluster.fork()
        else:
            cluster.worker.on("message", lambda message, handle: cluster.worker.send(message))
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    assert said == [["SIGUSR1"], ["SIGTERM"], ["go on", None], [0, True]]


# ---- a worker's states, cell by cell, without processes

WHERE = {"address": "127.0.0.1", "port": 1, "address_type": 4, "fd": None}

FRAMES: dict[str, dict[str, Any]] = {
    "online": {"online": {}},
    "listening": {"listening": WHERE},
    "ready": {"ready": {}},
    "message": {"user": {"json": "hello"}},
    "leaving": {"leaving": {"now": False}},
}

# (state, what happens): the next state, and what is told; a message is told in any state that
# still has a channel, and whatever had come before an end is told before it.
CELLS: dict[tuple[str, str], tuple[str, list[str]]] = {
    ("none", "online"): ("online", ["online"]),
    ("none", "listening"): ("listening", ["listening"]),
    ("none", "ready"): ("none", ["ready"]),
    ("none", "message"): ("none", ["message"]),
    ("none", "leaving"): ("none", []),
    ("none", "eof"): ("disconnected", ["disconnect"]),
    ("none", "exit"): ("dead", ["disconnect", "exit"]),
    ("online", "online"): ("online", []),
    ("online", "listening"): ("listening", ["listening"]),
    ("online", "ready"): ("online", ["ready"]),
    ("online", "message"): ("online", ["message"]),
    ("online", "leaving"): ("online", []),
    ("online", "eof"): ("disconnected", ["disconnect"]),
    ("online", "exit"): ("dead", ["disconnect", "exit"]),
    ("listening", "online"): ("listening", []),
    ("listening", "listening"): ("listening", ["listening"]),
    ("listening", "ready"): ("listening", ["ready"]),
    ("listening", "message"): ("listening", ["message"]),
    ("listening", "leaving"): ("listening", []),
    ("listening", "eof"): ("disconnected", ["disconnect"]),
    ("listening", "exit"): ("dead", ["disconnect", "exit"]),
    ("disconnected", "online"): ("disconnected", []),
    ("disconnected", "listening"): ("disconnected", []),
    ("disconnected", "ready"): ("disconnected", []),
    ("disconnected", "message"): ("disconnected", []),
    ("disconnected", "leaving"): ("disconnected", []),
    ("disconnected", "eof"): ("disconnected", []),
    ("disconnected", "exit"): ("dead", ["exit"]),
}

WAY_TO = {
    "none": [],
    "online": ["online"],
    "listening": ["online", "listening"],
    "disconnected": ["online", "eof"],
}


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_a_workers_states_cell_by_cell(cell: tuple[str, str]) -> None:
    events = Emitter()
    role = PrimaryRole(events, lambda _: None)
    ours, theirs = pair()
    link, other = Link(ours), Link(theirs)
    process = Process(0, link)
    family = Family()
    family.add(process)
    worker = Worker(1, process)
    role.take_in(worker, process)
    told: list[str] = []
    for name in ("online", "listening", "ready", "message", "disconnect", "exit"):
        worker.on(name, lambda *_, name=name: told.append(f"worker {name}"))
        events.on(name, lambda *_, name=name: told.append(f"cluster {name}"))

    def happens(what: str) -> None:
        if what == "exit":
            process._wait = lambda: 0  # type: ignore[method-assign]
            family.reap()
            return
        if what == "eof":
            other.close()
        else:
            other.say(FRAMES[what])
        process.hear()

    state, what = cell
    for step in WAY_TO[state]:
        happens(step)
    assert worker.state == state
    told.clear()
    happens(what)

    after, expected = CELLS[cell]
    assert worker.state == after
    assert told == [f"{who} {name}" for name in expected for who in ("worker", "cluster")]
    assert (1 in role.workers) == (after != "dead")
    assert worker.is_connected() == (after in ("none", "online", "listening"))
    assert worker.is_dead() == (after == "dead")
    is_asked = what == "leaving" and state != "disconnected"
    if after in ("disconnected", "dead"):
        assert worker.exited_after_disconnect is False
    else:
        assert worker.exited_after_disconnect is (True if is_asked else None)
    link.close()
    other.close()


def test_every_state_meets_everything_that_can_happen() -> None:
    assert set(CELLS) == {(state, what) for state in WAY_TO for what in (*FRAMES, "eof", "exit")}
