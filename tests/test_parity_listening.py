"""Listening as Node's tests ask for it: shared addresses, errors, paths, and listening again."""

import errno
import os
import socket
import tempfile
from pathlib import Path

import pytest
from cluster_parts import Program, ran


@pytest.mark.node(
    "test-cluster-bind-privileged-port", "test-cluster-shared-handle-bind-privileged-port"
)
def test_a_port_that_is_not_allowed_is_eacces_in_the_worker() -> None:
    # A folder of pytest's own is closed to the user that the program becomes.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        said = ran(
            Path(folder),
            """
            from fastcluster import sockets
            if cluster.is_primary:
                if os.getuid() == 0:
                    "host".encode("idna")  # later this user may not read Python's own files
                    os.setgroups([])
                    os.setgid(65534), os.setuid(65534)
                try:
                    socket.create_server(("127.0.0.1", 42)).close()
                    # A kernel that lets everybody: this is what others say.
                    def refuse(self, address):
                        raise PermissionError(13, "Permission denied")
                    sockets.ListeningSocket.bind = refuse
                except PermissionError:
                    pass
                cluster.on("exit", lambda worker, code, signal: say("exit", code, signal))
                cluster.fork()
            else:
                try:
                    http.create_server(lambda request: "x").listen(42)
                except PermissionError as error:
                    say(error.errno)
            cluster.run()
            """,
        )
    assert said == [[errno.EACCES], ["exit", 0, None]]


LISTENS_ON = """
    if cluster.is_primary:
        cluster.on("listening", lambda worker, address: say(address.port))
        cluster.on("message", lambda worker, message, handle: say(message))
        cluster.fork()
    else:
        try:
            http.create_server(lambda request: "x").listen(int(sys.argv[1]))
        except OSError as error:
            cluster.worker.send(error.errno)
    cluster.run()
"""


@pytest.mark.node("test-cluster-bind-twice", "test-cluster-shared-handle-bind-error")
def test_two_clusters_do_not_share_a_port_in_silence(tmp_path: Path) -> None:
    first = Program(tmp_path, LISTENS_ON, "0")
    try:
        [port] = first.line()
        assert ran(tmp_path, LISTENS_ON, str(port)) == [[errno.EADDRINUSE]]
        first.process.terminate()
        assert first.end() == []
    finally:
        first.process.kill()


@pytest.mark.node("test-cluster-eaccess")
def test_a_unix_socket_in_use_is_an_error_in_the_worker(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="fc-") as folder:
        path = os.path.join(folder, "s")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
            other.listen()
            said = ran(
                tmp_path,
                """
                if cluster.is_primary:
                    cluster.on("message", lambda worker, message, handle: say(*message))
                    cluster.on("exit", lambda worker, code, signal: say(code))
                    cluster.fork()
                else:
                    try:
                        http.create_server(lambda request: "x").listen(path=sys.argv[1])
                    except OSError as error:
                        cluster.worker.send([error.errno, error.strerror])
                cluster.run()
                """,
                path,
            )
        assert said[0][0] == errno.EADDRINUSE and "in use" in said[0][1]
        assert said[1:] == [[0]]
        assert os.path.exists(path)


@pytest.mark.node("test-cluster-ipc-throw")
def test_an_error_from_a_listen_errors_handler_leaves_the_talk_whole(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            taken = socket.create_server(("127.0.0.1", 0))
            worker = cluster.fork()
            worker.send(taken.getsockname()[1])
            @worker.on("message")
            def heard(message, handle):
                say(message)
                if message == "caught":
                    worker.send(0)
            worker.on("listening", lambda address: worker.disconnect())
            worker.on("exit", lambda code, signal: say(code))
        else:
            def listen(port):
                try:
                    http.create_server(lambda request: "x").listen(port)
                except OSError as error:
                    raise KeyError("mine") from error
            @cluster.worker.on("message")
            def heard(port, handle):
                try:
                    listen(port)
                    cluster.worker.send("listens")
                except KeyError:
                    cluster.worker.send("caught")
        cluster.run()
        """,
    )
    assert said == [["caught"], ["listens"], [0]]


@pytest.mark.parametrize(
    "where",
    ["70_000", "0, path='/tmp/\\0'", "0, 'no.such.host.invalid'", "0, '256.1.1.1'"],
)
def test_an_address_that_is_none_is_an_error_in_the_worker_alone(
    tmp_path: Path, where: str
) -> None:
    said = ran(
        tmp_path,
        f"""
        if cluster.is_primary:
            cluster.on("exit", lambda worker, code, signal: say(code))
            cluster.fork()
        else:
            try:
                http.create_server(lambda request: "x").listen({where})
            except (OSError, ValueError) as error:
                say(len(str(error)) > 10)
        cluster.run()
        """,
    )
    assert said == [[True], [0]]


@pytest.mark.node("test-cluster-child-index-net", "test-cluster-net-listen")
def test_opening_closing_and_opening_without_a_port_leaves_nothing(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        def listen():
            return http.create_server(lambda request: "x").listen()
        if cluster.is_primary:
            cluster.on("exit", lambda worker, code, signal: say(code, signal,
                len(cluster._primary_role._shared)))
            cluster.fork()
        else:
            one, other = listen(), listen()
            assert one.address().port != other.address().port > 0
            one.close()
            three = listen()
            other.close(), three.close()
            four = listen()
            four.close()
        cluster.run()
        """,
    )
    assert said == [[0, None, 0]]


@pytest.mark.node("test-cluster-http-pipe")
@pytest.mark.node(
    "test-cluster-listen-pipe-readable-writable",
    differs="The mode is the option `uds_permissions`, 0o666 by default.",
)
def test_http_over_a_unix_socket_with_a_mode_of_its_own(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="fc-") as folder:
        said = ran(
            tmp_path,
            """
            if cluster.is_primary:
                @cluster.on("listening")
                def listening(worker, address):
                    say(address.address == sys.argv[1], address.port, address.address_type,
                        oct(os.stat(address.address).st_mode & 0o777))
                    client = socket.socket(socket.AF_UNIX)
                    client.connect(address.address)
                    client.sendall(b"GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n")
                    client.shutdown(socket.SHUT_WR)
                    answer = b""
                    while data := client.recv(65536):
                        answer += data
                    client.close()
                    say(answer.partition(b"\\r\\n\\r\\n")[2].decode())
                    worker.disconnect()
                cluster.on("exit", lambda worker, code, signal: say(os.path.exists(sys.argv[1])))
                cluster.fork()
            else:
                server = http.create_server(
                    lambda request: repr(request.client), uds_permissions=0o777)
                server.listen(path=sys.argv[1])
            cluster.run()
            """,
            os.path.join(folder, "s"),
        )
    assert said == [[True, -1, -1, "0o777"], ["('', 0)"], [False]]


@pytest.mark.node("test-cluster-net-listen-backlog")
def test_the_backlog_reaches_the_primarys_socket(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        import struct
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                [shared] = cluster._primary_role._shared.values()
                # Of a listening socket Linux tells the backlog in tcpi_sacked.
                info = shared.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
                say(struct.unpack_from("I", info, 28)[0])
                worker.disconnect()
            cluster.fork()
        else:
            http.create_server(lambda request: "x").listen(0, backlog=77)
        cluster.run()
        """,
    )
    assert said == [[77]]


IPV6 = """
    if cluster.is_primary:
        seen = []
        @cluster.on("listening")
        def listening(worker, address):
            seen.append([address.address, address.address_type, address.port])
            if len(seen) == 2:
                say(seen[0] == seen[1], seen[0][:2], get(address.port, "::1"))
                if sys.argv[1] == "both":
                    say(get(address.port))
                cluster.disconnect()
        cluster.fork(), cluster.fork()
    elif sys.argv[1] == "both":
        http.create_server(lambda request: "x").listen(0, "::", ipv6_only=False)
    else:
        http.create_server(lambda request: "x").listen(int(sys.argv[2]), "::", ipv6_only=True)
    cluster.run()
"""


@pytest.mark.node(
    "test-cluster-net-listen-ipv6only-false",
    differs="`ipv6_only` is True by default, so that 0.0.0.0 and :: can be had on one port.",
)
def test_ipv6_and_ipv4_on_one_socket_of_all_workers(tmp_path: Path) -> None:
    assert ran(tmp_path, IPV6, "both") == [[True, ["::", 6], "x"], ["x"]]


@pytest.mark.node("test-cluster-net-listen-ipv6only-none")
def test_ipv6_alone_leaves_the_port_of_ipv4_free(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as four:
        port = str(four.getsockname()[1])
        assert ran(tmp_path, IPV6, "only", port) == [[True, ["::", 6], "x"]]


@pytest.mark.node("test-cluster-port-reuse-between-workers")
def test_a_worker_listens_again_where_another_has_taken_over(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            seen = []
            @cluster.on("listening")
            def listening(worker, address):
                seen.append(worker.id)
                if len(seen) == 1:
                    cluster.fork({"PORT": address.port})
                if len(seen) == 2:
                    cluster.workers[1].send(address.port)
                if len(seen) == 3:
                    say(seen, get(address.port))
                    cluster.disconnect()
            cluster.fork({"PORT": 0})
        else:
            # Both name the port, which is what makes it one.
            port = int(os.environ["PORT"])
            if port == 0:
                with socket.create_server(("127.0.0.1", 0)) as free:
                    port = free.getsockname()[1]
            first = http.create_server(lambda request: "x").listen(port)
            @cluster.worker.on("message")
            def again(port, handle):
                try:
                    http.create_server(lambda request: "x").listen(port)
                except OSError as error:
                    say("twice", "in use" in str(error))
                first.close()
                http.create_server(lambda request: "x").listen(port)
        cluster.run()
        """,
    )
    assert said == [["twice", True], [[1, 2, 1], "x"]]


@pytest.mark.node("test-cluster-rr-handle-close", "test-cluster-rr-handle-keep-loop-alive")
def test_a_server_that_is_open_keeps_a_worker_and_a_closed_one_does_not(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                port = address.port
                say(get(port), get(port), worker.is_dead())
                say(get(port))
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
    assert said == [["1", "2", False], ["3"], [0, None]]


@pytest.mark.node("test-cluster-rr-handle-ref-unref", "test-cluster-rr-ref")
@pytest.mark.parametrize("when", ["at once", "while serving"])
def test_a_server_that_is_let_go_of_does_not_keep_the_worker(tmp_path: Path, when: str) -> None:
    said = ran(
        tmp_path,
        f"""
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                if "{when}" == "while serving":
                    say(get(address.port), get(address.port))
            cluster.on("exit", lambda worker, code, signal: say(code, signal,
                worker.exited_after_disconnect))
            cluster.fork()
        else:
            count = 0
            def answer(request):
                global count
                count += 1
                if count == 2:
                    server.unref()
                return str(count)
            server = http.create_server(answer).listen(0)
            assert server.unref().ref().unref().ref() is server
            if "{when}" == "at once":
                server.unref()
        cluster.run()
        """,
    )
    served = [["1", "2"]] if when == "while serving" else []
    assert said == [*served, [0, None, False]]


def test_a_server_that_is_let_go_of_serves_while_the_worker_stays(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                say(get(address.port))
                worker.disconnect()
            cluster.on("exit", lambda worker, code, signal: say(code))
            cluster.fork()
        else:
            cluster.worker.on("message", print)
            http.create_server(lambda request: "x").listen(0).unref()
        cluster.run()
        """,
    )
    assert said == [["x"], [0]]
