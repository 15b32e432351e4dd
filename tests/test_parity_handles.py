"""Sockets that are handed to a worker and served there, as Node's tests ask for it."""

import socket
from pathlib import Path

import pytest
from cluster_parts import Program, ran


@pytest.mark.node(
    "test-net-listen-handle-in-cluster-1",
    "test-net-listen-handle-in-cluster-2",
    differs="A handle is listened on by its descriptor and with `exclusive`; the primary hears of "
    "it all the same.",
)
def test_a_listening_socket_that_was_sent_is_served_past_the_primary(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            worker = cluster.fork()
            # Made after the fork, so that only the message brings it there.
            server = socket.create_server(("127.0.0.1", 0))
            port = server.getsockname()[1]
            worker.send("serve", server)
            server.close()
            @worker.on("listening")
            def listening(address):
                say(address.port == port, get(port), len(cluster._primary_role._shared))
                worker.disconnect()
            @worker.on("exit")
            def died(code, signal):
                say(code)
                try:
                    get(port)
                except ConnectionRefusedError:
                    say("closed")
        else:
            @cluster.worker.on("message")
            def heard(message, handle):
                server = http.create_server(lambda request: message)
                server.listen(fd=handle.fileno(), exclusive=True)
                handle.close()
        cluster.run()
        """,
    )
    assert said == [[True, "serve", 0], [0], ["closed"]]


@pytest.mark.node(
    "test-cluster-send-socket-to-worker-http-server",
    differs="The word for it is `server.take(connection)`, and the server listens somewhere, too.",
)
def test_a_connection_that_the_primary_accepted_is_served_by_a_worker(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
        if cluster.is_primary:
            worker = cluster.fork()
            door = socket.create_server(("127.0.0.1", 0))
            @worker.on("listening")
            def listening(address):
                say(door.getsockname()[1])
                for _ in range(2):
                    accepted, _ = door.accept()
                    worker.send("yours", accepted)
                    accepted.close()
            worker.on("exit", lambda code, signal: say(code))
        else:
            server = http.create_server(lambda request: f"{request.client} {request.path}")
            try:
                server.take(None)
            except RuntimeError as error:
                assert "call listen() first" in str(error)
            server.listen(0)
            cluster.worker.on("message", lambda message, handle: server.take(handle))
        cluster.run()
        """,
    )
    try:
        [port] = program.line()
        clients = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(2)]
        for client in clients:
            for path in (b"/one", b"/two"):
                client.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n")
                said = f"{client.getsockname()} {path.decode()}"
                assert client.recv(65536).endswith(said.encode())
            client.close()
        program.process.terminate()
        assert program.end() == [[0]]
    finally:
        program.process.kill()
