"""Leaving as Node's tests ask for it: disconnect from either side, at any moment."""

from pathlib import Path

import pytest
from cluster_parts import ran


@pytest.mark.node("test-cluster-disconnect")
def test_eight_workers_with_two_servers_come_and_go_twice(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        rounds, ports, count = 0, set(), 0
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                global count
                count += 1
                ports.add(address.port)
                if count % 16 == 0:
                    say(len(ports), sorted(get(port) for port in ports))
                    cluster.disconnect(gone)
            @cluster.on("exit")
            def died(worker, code, signal):
                assert (code, signal, worker.exited_after_disconnect) == (0, None, True)
            def gone():
                global rounds
                rounds += 1
                say("gone", count, len(cluster.workers))
                ports.clear()
                if rounds < 2:
                    begin()
            def begin():
                for _ in range(8):
                    cluster.fork()
            begin()
        else:
            http.create_server(lambda request: "one").listen(0)
            http.create_server(lambda request: "two").listen(0)
        cluster.run()
        """,
    )
    answers = [2, ["one", "two"]]
    assert said == [answers, ["gone", 16, 0], answers, ["gone", 32, 0]]


@pytest.mark.node("test-cluster-disconnect-before-exit")
def test_disconnecting_again_between_disconnect_and_exit_is_nothing(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.on("online", lambda worker: say(worker.disconnect() is worker))
            @cluster.on("disconnect")
            def gone(worker):
                say(worker.is_dead())
                worker.disconnect()
                cluster.disconnect(lambda: say("back"))
            cluster.on("exit", lambda worker, code, signal: say(code))
            cluster.fork()
        else:
            cluster.worker.on("message", print)
        cluster.run()
        """,
    )
    assert said == [[True], [False], [0], ["back"]]


@pytest.mark.node("test-cluster-kill-disconnect")
@pytest.mark.node("test-cluster-disconnect-exitedAfterDisconnect-race")
@pytest.mark.parametrize("how", ["disconnect", "kill"])
def test_the_primary_knows_that_an_end_was_meant_before_it_sees_it(
    tmp_path: Path, how: str
) -> None:
    said = ran(
        tmp_path,
        f"""
        if cluster.is_primary:
            @cluster.on("disconnect")
            def gone(worker):
                say("disconnect", worker.exited_after_disconnect)
                flags.append(worker.exited_after_disconnect)
            @cluster.on("exit")
            def died(worker, code, signal):
                say("exit", worker.exited_after_disconnect, code, signal)
            flags = []
            for _ in range(10):
                cluster.fork()
        else:
            # Nothing ends before the primary has said so.
            cluster.worker.{how}()
            assert cluster.worker.is_connected() and cluster.worker.exited_after_disconnect
        cluster.run()
        """,
    )
    assert sorted(said) == [["disconnect", True]] * 10 + [["exit", True, 0, None]] * 10


@pytest.mark.node("test-cluster-disconnect-unshared-tcp")
@pytest.mark.parametrize("first", ["with", "without"])
def test_a_worker_without_a_server_and_one_with_leave_in_any_order(
    tmp_path: Path, first: str
) -> None:
    said = ran(
        tmp_path,
        f"""
        if cluster.is_primary:
            ready = []
            def up(worker, *_):
                ready.append(worker)
                if len(ready) == 2:
                    ready.sort(key=lambda worker: worker.id, reverse="{first}" == "without")
                    ready.pop(0).disconnect()
            cluster.on("listening", up)
            cluster.on("message", up)
            @cluster.on("exit")
            def died(worker, code, signal):
                say(worker.id, code)
                for worker in ready:
                    worker.disconnect()
            cluster.fork()
            cluster.fork()
        elif cluster.worker.id == 1:
            http.create_server(lambda request: "x").listen(0)
        else:
            cluster.worker.send("up")
            cluster.worker.on("message", print)
        cluster.run()
        """,
    )
    assert said == ([[1, 0], [2, 0]] if first == "with" else [[2, 0], [1, 0]])


@pytest.mark.node("test-cluster-concurrent-disconnect")
def test_many_workers_told_to_leave_many_times_all_leave_with_0(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                for n in range(50):
                    worker.send(["disconnect", "kill", "destroy"][(n + worker.id) % 3])
                    worker.disconnect()
            @cluster.on("exit")
            def died(worker, code, signal):
                say(code, signal, worker.exited_after_disconnect)
            for _ in range(6):
                cluster.fork()
        else:
            cluster.worker.on("message", lambda how, handle: getattr(cluster.worker, how)())
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    assert said == [[0, None, True]] * 6


@pytest.mark.node("test-cluster-worker-disconnect")
def test_a_disconnect_by_the_primary_is_seen_on_both_sides(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("listening", lambda address: say("disconnecting",
                worker.disconnect() is worker, worker.exited_after_disconnect))
            for event in ("disconnect", "exit"):
                worker.on(event, lambda *a, e=event: say("worker", e, worker.state, *a))
                cluster.on(event, lambda w, *a, e=event: say("cluster", e,
                    w.exited_after_disconnect, w.is_connected(), w.is_dead(), *a))
        else:
            server = http.create_server(lambda request: "x").listen(0)
            @cluster.worker.on("disconnect")
            def gone():
                own = cluster.worker
                say("own", own.state, own.exited_after_disconnect, own.is_connected(),
                    server.listening)
                sys.exit(42)
        cluster.run()
        """,
    )
    own = ["own", "disconnected", True, False, False]
    assert own in said
    assert [line for line in said if line != own] == [
        ["disconnecting", True, True],
        ["worker", "disconnect", "disconnected"],
        ["cluster", "disconnect", True, False, False],
        ["worker", "exit", "dead", 42, None],
        ["cluster", "exit", True, False, True, 42, None],
    ]


@pytest.mark.node("test-cluster-worker-disconnect-on-error")
def test_a_worker_leaves_when_it_cannot_listen(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            taken = socket.create_server(("127.0.0.1", 0))
            cluster.on("exit", lambda worker, code, signal: say(code, signal,
                worker.exited_after_disconnect))
            cluster.fork({"PORT": taken.getsockname()[1]})
        else:
            try:
                http.create_server(lambda request: "x").listen(int(os.environ["PORT"]))
            except OSError:
                cluster.worker.disconnect()
        cluster.run()
        """,
    )
    assert said == [[0, None, True]]


@pytest.mark.node(
    "test-cluster-worker-no-exit",
    differs="There is no one loop that knows all sockets: what keeps the process is what the "
    "program does itself, such as a thread.",
)
def test_what_else_a_worker_does_keeps_its_process_alive(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            peer = socket.create_server(("127.0.0.1", 0))
            peer.settimeout(10)
            cluster.on("listening", lambda worker, address: worker.disconnect())
            @cluster.on("disconnect")
            def gone(worker):
                accepted, _ = peer.accept()
                accepted.sendall(b"x")
                os.kill(worker.process.pid, 0)
                say("alive", worker.is_dead())
                accepted.close()
            cluster.on("exit", lambda worker, code, signal: say(code))
            cluster.fork({"PORT": peer.getsockname()[1]})
        else:
            import threading
            http.create_server(lambda request: "x").listen(0)
            client = socket.create_connection(("127.0.0.1", int(os.environ["PORT"])))
            def read():
                while client.recv(100):
                    pass
            threading.Thread(target=read).start()
        cluster.run()
        """,
    )
    assert said == [["alive", False], [0]]


@pytest.mark.node(
    "test-cluster-worker-wait-server-close",
    differs="A keep-alive connection is closed once it has been idle for half a second instead "
    "of waited for, and a request that takes longer than `timeout_graceful_s` is cut off.",
)
def test_the_channel_closes_after_the_connections(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                global client
                client = socket.create_connection((address.address, address.port), timeout=10)
                client.sendall(b"GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\nGET / HTTP/1.1\\r\\n")
                assert client.recv(65536)
                worker.disconnect()
                worker.send("there?")
            @cluster.on("message")
            def message(worker, text, handle):
                client.sendall(b"Host: h\\r\\n\\r\\n")
                answer = b""
                while data := client.recv(65536):
                    answer += data
                client.close()
                say(text, answer.endswith(b"served"))
            cluster.on("disconnect", lambda worker: say("disconnect"))
            cluster.on("exit", lambda worker, code, signal: say(code))
            cluster.fork()
        else:
            cluster.worker.on("message", lambda *_: cluster.worker.send(
                [cluster.worker.state, cluster.worker.is_connected()]))
            http.create_server(lambda request: "served").listen(0)
        cluster.run()
        """,
    )
    assert said == [[["disconnecting", True], True], ["disconnect"], [0]]


@pytest.mark.node(
    "test-cluster-shared-leak",
    differs="Connections that wait when all workers are told to leave are served first.",
)
def test_workers_leave_while_connections_wait_to_be_accepted(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            ports, clients = [], []
            @cluster.on("listening")
            def listening(worker, address):
                ports.append(address.port)
                if len(ports) == 2:
                    for _ in range(5):
                        clients.append(socket.create_connection(("127.0.0.1", ports[0]), 10))
                        clients[-1].sendall(b"GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n")
                        clients[-1].shutdown(socket.SHUT_WR)
                    cluster.disconnect()
            cluster.on("exit", lambda worker, code, signal: say(code, signal))
            cluster.fork(), cluster.fork()
            cluster.run()
            say(sum(client.recv(1000).endswith(b"served") for client in clients))
            try:
                socket.create_connection(("127.0.0.1", ports[0]), timeout=10)
            except ConnectionRefusedError:
                say("refused")
        else:
            http.create_server(lambda request: "served").listen(0)
        """,
    )
    assert said == [[0, None], [0, None], [5], ["refused"]]
