"""What Node's tests ask for under a scheduling policy: SCHED_RR, SCHED_NONE, and limits."""

import contextlib
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import test_cluster_primary
import test_cluster_worker
import test_parity_leaving
import test_parity_listening
from cluster_parts import Program, ran

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def ask(port: int, host: str = "127.0.0.1") -> bytes:
    """Ask from outside: a primary that waits for an answer cannot accept meanwhile."""
    with socket.create_connection((host, port), timeout=20) as client:
        client.sendall(GET)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while data := client.recv(65536):
            answer += data
    return answer.partition(b"\r\n\r\n")[2]


# What holds under the default policy holds under Node's two.
AGAIN: list[Callable[[Path], None]] = [
    test_cluster_primary.test_disconnect_right_after_fork,
    test_cluster_worker.test_the_second_listen_on_a_port_in_one_worker_fails,
    test_parity_leaving.test_workers_leave_while_connections_wait_to_be_accepted,
    test_parity_listening.test_opening_closing_and_opening_without_a_port_leaves_nothing,
    test_parity_listening.test_two_clusters_do_not_share_a_port_in_silence,
]


@pytest.mark.node(
    "test-cluster-disconnect-leak",
    "test-cluster-shared-handle-bind-error",
    "test-cluster-shared-leak",
)
@pytest.mark.parametrize("test", AGAIN, ids=lambda test: test.__name__.removeprefix("test_"))
@pytest.mark.parametrize("policy", ["rr", "none"])
def test_under_every_policy(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    policy: str,
    test: Callable[[Path], None],
) -> None:
    monkeypatch.setenv("FASTCLUSTER_SCHED_POLICY", policy)
    test(tmp_path)


@pytest.mark.node("test-cluster-server-restart-rr", "test-cluster-server-restart-none")
@pytest.mark.parametrize("policy", ["SCHED_RR", "SCHED_NONE"])
def test_a_worker_listens_again_while_another_has_the_port(tmp_path: Path, policy: str) -> None:
    program = Program(
        tmp_path,
        f"""
        cluster.scheduling_policy = cluster.{policy}
        if cluster.is_primary:
            seen = []
            @cluster.on("listening")
            def listening(worker, address):
                seen.append(worker.id)
                if len(seen) == 2:
                    cluster.workers[2].send("again")
                if len(seen) == 3:
                    say(seen[-1], address.port)
            cluster.on("exit", lambda worker, code, signal: say(code, signal))
            cluster.fork(), cluster.fork()
        else:
            server = http.create_server(lambda request: "x").listen(0)
            def again(*_):
                server.close()
                http.create_server(lambda request: "x").listen(0)
            cluster.worker.on("message", again)
        cluster.run()
        """,
    )
    try:
        [worker, port] = program.line()
        assert worker == 2
        assert [ask(port) for _ in range(4)] == [b"x"] * 4
        program.process.terminate()
        assert program.end() == [[0, None], [0, None]]
    finally:
        program.process.kill()


@pytest.mark.node("test-cluster-net-listen-ipv6only-rr", "test-cluster-net-listen-ipv6only-none")
@pytest.mark.parametrize("policy", ["SCHED_RR", "SCHED_NONE"])
def test_ipv6_alone_leaves_the_port_of_ipv4_to_another(tmp_path: Path, policy: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as four:
        port = four.getsockname()[1]
        program = Program(
            tmp_path,
            f"""
            cluster.scheduling_policy = cluster.{policy}
            if cluster.is_primary:
                cluster.on("listening", lambda worker, address: say(address.address,
                    address.address_type, address.port))
                cluster.fork(), cluster.fork()
            else:
                http.create_server(lambda request: "x").listen({port}, "::", ipv6_only=True)
            cluster.run()
            """,
        )
        try:
            assert [program.line() for _ in range(2)] == [["::", 6, port]] * 2
            assert [ask(port, "::1") for _ in range(2)] == [b"x"] * 2
            program.process.terminate()
            assert program.end() == []
        finally:
            program.process.kill()


@pytest.mark.node("test-cluster-rr-handle-close", "test-cluster-rr-handle-keep-loop-alive")
@pytest.mark.parametrize("policy", ["SCHED_RR", "SCHED_NONE"])
def test_an_open_server_keeps_a_worker_and_a_closed_one_does_not(
    tmp_path: Path, policy: str
) -> None:
    program = Program(
        tmp_path,
        f"""
        cluster.scheduling_policy = cluster.{policy}
        if cluster.is_primary:
            cluster.on("listening", lambda worker, address: say(address.port))
            cluster.on("exit", lambda worker, code, signal: say(code, signal))
            cluster.fork()
        else:
            count = 0
            def answer(request):
                global count
                count += 1
                if count == 3:
                    server.close()
                return str(count)
            server = http.create_server(answer).listen(0)
        cluster.run()
        """,
    )
    try:
        [port] = program.line()
        assert [ask(port) for _ in range(3)] == [b"1", b"2", b"3"]
        assert program.end() == [[0, None]]
    finally:
        program.process.kill()


@pytest.mark.node("test-cluster-shared-handle-bind-privileged-port")
@pytest.mark.parametrize("policy", ["rr", "none"])
def test_a_port_that_is_not_allowed_under_every_policy(
    monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    monkeypatch.setenv("FASTCLUSTER_SCHED_POLICY", policy)
    test_parity_listening.test_a_port_that_is_not_allowed_is_eacces_in_the_worker()


@pytest.mark.node("test-cluster-rr-handle-ref-unref", "test-cluster-rr-ref")
def test_a_server_that_is_let_go_of_under_round_robin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FASTCLUSTER_SCHED_POLICY", "rr")
    test_parity_listening.test_a_server_that_is_let_go_of_does_not_keep_the_worker(
        tmp_path, "at once"
    )


@pytest.mark.node("test-cluster-disconnect-leak")
@pytest.mark.parametrize("policy", ["SCHED_RR", "SCHED_NONE"])
def test_a_worker_told_to_leave_while_it_is_about_to_listen_leaves(
    tmp_path: Path, policy: str
) -> None:
    said = ran(
        tmp_path,
        f"""
        cluster.scheduling_policy = cluster.{policy}
        if cluster.is_primary:
            cluster.on("disconnect", lambda worker: say("disconnect"))
            cluster.on("exit", lambda worker, code, signal: say(code, signal))
            cluster.fork()
            cluster.disconnect()
        else:
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    assert said == [["disconnect"], [0, None]]


@pytest.mark.node("test-cluster-disconnect-race")
@pytest.mark.parametrize("policy", ["SCHED_RR", "SCHED_NONE"])
def test_one_leaves_while_another_has_just_come_online(tmp_path: Path, policy: str) -> None:
    said = ran(
        tmp_path,
        f"""
        cluster.scheduling_policy = cluster.{policy}
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                if worker.id == 1:
                    second = cluster.fork()
                    second.on("online", lambda: [w.disconnect() for w in (worker, second)])
            cluster.on("exit", lambda worker, code, signal: say(code, signal))
            cluster.fork()
        else:
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    assert said == [[0, None], [0, None]]


@pytest.mark.node(
    "test-cluster-accept-fail",
    differs="Without a free descriptor the client waits and is let in later, not cut off.",
)
def test_a_primary_that_cannot_accept_goes_on(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
        import resource
        cluster.scheduling_policy = cluster.SCHED_RR
        if cluster.is_primary:
            taken = []
            def mend(number, frame):
                for fd in taken:
                    os.close(fd)
                say("mended")
            signal.signal(signal.SIGUSR1, mend)
            @cluster.on("listening")
            def listening(worker, address):
                hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
                try:
                    while True:
                        taken.append(os.open(os.devnull, os.O_RDONLY))
                except OSError:
                    say(address.port)
            cluster.on("exit", lambda worker, code, signal: say(code, signal))
            cluster.fork()
        else:
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    try:
        [port] = program.line()
        with socket.create_connection(("127.0.0.1", port), timeout=0.1) as client:
            client.sendall(GET)
            with pytest.raises(TimeoutError):
                client.recv(1)
            program.process.send_signal(signal.SIGUSR1)
            assert program.line() == ["mended"]
            client.settimeout(20)
            assert client.recv(65536).endswith(b"x")
        assert ask(port) == b"x"
        program.process.terminate()
        assert program.end() == [[0, None]]
    finally:
        program.process.kill()


@pytest.mark.node("test-cluster-worker-handle-close")
def test_a_connection_for_a_server_that_has_just_closed_goes_to_another(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
        cluster.scheduling_policy = cluster.SCHED_RR
        if cluster.is_primary:
            ports = []
            @cluster.on("listening")
            def listening(worker, address):
                ports.append(address.port)
                if len(ports) == 2:
                    say(address.port)
            cluster.on("exit", lambda worker, code, signal: say(worker.id, code, signal))
            cluster.fork(), cluster.fork()
        else:
            def answer(request):
                # The first closes under the feet of those that are on their way to it.
                if cluster.worker.id == 1:
                    server.close()
                return "served"
            server = http.create_server(answer).listen(0)
        cluster.run()
        """,
    )
    try:
        [port] = program.line()
        clients = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(20)]
        for client in clients:
            client.sendall(GET)
            client.shutdown(socket.SHUT_WR)
        answers = [client.recv(65536) for client in clients]
        assert all(answer.endswith(b"served") for answer in answers)
        for client in clients:
            client.close()
        assert program.line() == [1, 0, None]
        program.process.terminate()
        assert program.end() == [[2, 0, None]]
    finally:
        program.process.kill()


LIMITED = """
    cluster.scheduling_policy = cluster.SCHED_RR
    if cluster.is_primary:
        ports = []
        @cluster.on("listening")
        def listening(worker, address):
            ports.append(address.port)
            if len(ports) == {workers}:
                say(address.port)
        cluster.on("message", lambda worker, message, handle: say(message))
        for _ in range({workers}):
            cluster.fork()
    else:
        server = http.create_server(lambda request: str(cluster.worker.id))
        server.max_connections = {limits}[cluster.worker.id - 1]
        server.drop_max_connection = {drops}
        server.on("drop", lambda *_: cluster.worker.send("drop"))
        server.listen(0)
    cluster.run()
"""


@pytest.mark.node(
    "test-cluster-net-server-drop-connection", "test-http-server-drop-connections-in-cluster"
)
def test_connections_above_a_workers_limit_go_to_another(tmp_path: Path) -> None:
    program = Program(tmp_path, LIMITED.format(workers=3, limits=[0, 1, 9], drops=False))
    try:
        [port] = program.line()
        clients = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(10)]
        for client in clients:
            client.sendall(GET)
        answers = sorted(client.recv(65536)[-1:] for client in clients)
        assert answers == [b"2"] + [b"3"] * 9
        for client in clients:
            client.close()
        program.process.terminate()
        assert program.end() == []
    finally:
        program.process.kill()


@pytest.mark.node(
    "test-cluster-net-server-drop-connection", "test-http-server-drop-connections-in-cluster"
)
def test_connections_above_a_limit_are_dropped_if_that_is_wanted(tmp_path: Path) -> None:
    program = Program(tmp_path, LIMITED.format(workers=1, limits=[1], drops=True))
    try:
        [port] = program.line()
        with socket.create_connection(("127.0.0.1", port), timeout=20) as first:
            first.sendall(GET)
            assert first.recv(65536).endswith(b"1")
            second = socket.create_connection(("127.0.0.1", port), timeout=20)
            with second, contextlib.suppress(ConnectionResetError):
                assert second.recv(100) == b""
            assert program.line() == ["drop"]
        program.process.terminate()
        assert program.end() == []
    finally:
        program.process.kill()


@pytest.mark.parametrize("name", ["scheduling_policy"])
def test_the_policy_is_for_the_primary_alone(tmp_path: Path, name: str) -> None:
    said = ran(
        tmp_path,
        f"""
        if cluster.is_primary:
            cluster.fork()
        else:
            try:
                cluster.{name}
            except RuntimeError as error:
                say(str(error))
        cluster.run()
        """,
    )
    assert said == [[f"cluster.{name} is for the primary, and this is worker 1"]]
