"""What a worker does: listens through the primary, leaves when told, dies with its primary."""

import errno
import os
import signal
import socket
from pathlib import Path

import pytest
from cluster_parts import Program, is_gone, ran
from crew import until
from require import require_module


@pytest.mark.node("test-cluster-listening-port")
def test_port_0_is_the_same_port_for_all_workers(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            seen = []
            @cluster.on("listening")
            def listening(worker, address):
                seen.append(address.port)
                if len(seen) == 3:
                    say(address.address, address.address_type, address.fd, len(set(seen)))
                    say(get(seen[0]))
                    cluster.disconnect(lambda: say("gone", len(cluster.workers)))
            for _ in range(3):
                cluster.fork()
        else:
            http.create_server(lambda request: "served").listen(0)
        cluster.run()
        """,
    )
    assert said == [["127.0.0.1", 4, None, 1], ["served"], ["gone", 0]]


@pytest.mark.node("test-cluster-eaddrinuse")
def test_a_bind_error_is_an_oserror_in_the_worker_and_can_be_retried(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        import errno
        if cluster.is_primary:
            @cluster.on("online")
            def online(worker):
                # Made after the fork, so that the worker has no copy of it.
                global other
                other = socket.create_server(("127.0.0.1", 0))
                worker.send(other.getsockname()[1])
            @cluster.on("message")
            def message(worker, text, handle):
                other.close()
                worker.send(text)
            @cluster.on("listening")
            def listening(worker, address):
                say(get(address.port))
                worker.disconnect()
            @cluster.on("exit")
            def died(worker, code, signal): say(code, signal, worker.exited_after_disconnect)
            cluster.fork()
        else:
            server = http.create_server(lambda request: "at last")
            @cluster.worker.on("message")
            def listen(port, handle):
                try:
                    server.listen(port)
                except OSError as error:
                    say(error.errno == errno.EADDRINUSE)
                    cluster.worker.send(port)
        cluster.run()
        """,
    )
    assert said == [[True], ["at last"], [0, None, True]]


@pytest.mark.node("test-cluster-net-listen-relative-path")
def test_a_unix_socket_with_a_long_path_is_shared_and_removed(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        deep = os.path.abspath("d" * 110)
        if cluster.is_primary:
            os.mkdir(deep)
            os.chdir(deep)
            @cluster.on("listening")
            def listening(worker, address):
                say(address.address_type, os.path.exists(os.path.join(deep, "s")))
                worker.disconnect()
            @cluster.on("exit")
            def died(worker, code, signal): say(code, os.path.exists(os.path.join(deep, "s")))
            cluster.fork()
        else:
            http.create_server(lambda request: "x").listen(path="s")
        cluster.run()
        """,
    )
    assert said == [[-1, True], [0, False]]


@pytest.mark.node("test-cluster-port-reuse-between-workers")
def test_the_second_listen_on_a_port_in_one_worker_fails(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.fork()
        else:
            first = http.create_server(lambda request: "x").listen(0)
            try:
                http.create_server(lambda request: "y").listen(first.address().port)
            except OSError as error:
                say(error.strerror)
            first.close()
        cluster.run()
        """,
    )
    assert "in use" in said[0][0]


def test_two_servers_in_one_worker_are_both_served(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            ports = []
            @cluster.on("listening")
            def listening(worker, address):
                ports.append(address.port)
                if len(ports) == 2:
                    say(sorted(get(port) for port in ports))
                    cluster.disconnect()
            cluster.fork()
        else:
            http.create_server(lambda request: "a").listen(0)
            http.create_server(lambda request: "b").listen(0)
        cluster.run()
        """,
    )
    assert said == [[["a", "b"]]]


@pytest.mark.node("test-cluster-rr-handle-close")
def test_a_worker_ends_when_its_only_server_is_closed(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address): say(get(address.port))
            @cluster.on("exit")
            def died(worker, code, signal): say(code, worker.exited_after_disconnect)
            cluster.fork()
        else:
            def answer(request):
                server.close()
                return "last"
            server = http.create_server(answer).listen(0)
        cluster.run()
        """,
    )
    assert said == [["last"], [0, False]]


@pytest.mark.node("test-cluster-server-restart-none")
def test_closing_and_listening_again_works_while_another_has_the_port(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            seen = []
            @cluster.on("listening")
            def listening(worker, address):
                seen.append(worker.id)
                if len(seen) == 2:
                    cluster.workers[1].send("again")
                if len(seen) == 3:
                    say(seen.count(1), seen.count(2), get(address.port))
                    cluster.disconnect()
            cluster.fork()
            cluster.fork()
        else:
            server = http.create_server(lambda request: "x").listen(0)
            def again(*_):
                server.close()
                http.create_server(lambda request: "x").listen(0)
            cluster.worker.on("message", again)
        cluster.run()
        """,
    )
    assert said == [[2, 1, "x"]]


@pytest.mark.node("test-cluster-primary-kill")
def test_a_primary_that_is_killed_leaves_no_worker(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
        if cluster.is_primary:
            seen = []
            @cluster.on("listening")
            def listening(worker, address):
                seen.append(worker.process.pid)
                if len(seen) == 2:
                    say(seen)
            cluster.fork()
            cluster.fork()
        else:
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    [pids] = program.line()
    program.process.kill()
    program.process.communicate()
    until(lambda: all(is_gone(pid) for pid in pids), "the workers' end")


def test_an_orphan_serves_what_it_has_accepted_and_a_busy_loop_ends_too(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
        def idle(request):
            return "x"

        def long(request):
            say("long")
            while not os.path.exists("go"):
                time.sleep(0.005)
            return "served"

        def busy(request):
            say("busy")
            while True:
                pass

        if cluster.is_primary:
            cluster.on("listening", lambda worker, address: say(
                worker.id, worker.process.pid, address.port))
            for _ in range(3):
                cluster.fork()
        else:
            handler = [idle, long, busy][cluster.worker.id - 1]
            http.create_server(handler, timeout_graceful_s=60 if handler is long else 0.2).listen(
                0, exclusive=True)
        cluster.run()
        """,
    )
    workers = {number: (pid, port) for number, pid, port in (program.line() for _ in range(3))}
    try:
        clients = {}
        for number, word in ((2, "long"), (3, "busy")):
            client = socket.create_connection(("127.0.0.1", workers[number][1]), timeout=20)
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert program.line() == [word]
            clients[number] = client
        program.process.kill()
        until(lambda: is_gone(workers[1][0]), "the end of the idle one")
        until(lambda: is_gone(workers[3][0]), "the end of the busy one")
        assert not is_gone(workers[2][0])
        (tmp_path / "go").touch()
        answer = b""
        while data := clients[2].recv(65536):
            answer += data
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"served")
        until(lambda: is_gone(workers[2][0]), "the end of the one that served")
    finally:
        for pid, _ in workers.values():
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)
        for client in clients.values():
            client.close()
        program.process.communicate()


@pytest.mark.node("test-cluster-primary-error")
def test_an_error_in_the_primary_ends_it_and_all_workers(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                say(worker.process.pid)
                raise ValueError("mine")
            cluster.fork()
        else:
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    [pid] = program.line()
    program.end(code=1)
    assert "ValueError: mine" in program.err
    until(lambda: is_gone(pid), "the worker's end")


@pytest.mark.node("test-cluster-kill-disconnect")
def test_a_worker_that_disconnects_or_kills_itself_has_meant_it(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            @cluster.on("disconnect")
            def gone(worker): say("disconnect", worker.exited_after_disconnect)
            @cluster.on("exit")
            def died(worker, code, signal):
                say("exit", worker.exited_after_disconnect, code)
                if worker.id == 1:
                    cluster.fork({"HOW": "kill"})
            cluster.fork({"HOW": "disconnect"})
        else:
            http.create_server(lambda request: "x").listen(0)
            getattr(cluster.worker, os.environ["HOW"])()
        cluster.run()
        """,
    )
    assert said == [["disconnect", True], ["exit", True, 0]] * 2


@pytest.mark.node("test-cluster-worker-disconnect")
def test_the_disconnect_handler_of_a_worker_chooses_its_exit_code(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.on("listening", lambda worker, address: worker.disconnect())
            @cluster.on("disconnect")
            def gone(worker): say(worker.state, worker.is_connected())
            @cluster.on("exit")
            def died(worker, code, signal): say(worker.state, worker.is_dead(), code)
            cluster.fork()
        else:
            cluster.worker.on("disconnect", lambda: sys.exit(42))
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    assert said == [["disconnected", False], ["dead", True, 42]]


@pytest.mark.node("test-cluster-worker-wait-server-close")
def test_what_is_under_way_is_served_before_a_worker_leaves(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                client = socket.create_connection((address.address, address.port), timeout=10)
                # The first answer shows that the worker has the connection.
                client.sendall(b"GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\nGET / HTTP/1.1\\r\\n")
                say(client.recv(65536).endswith(b"served"))
                worker.disconnect()
                client.sendall(b"Host: h\\r\\n\\r\\n")
                rest = b""
                while data := client.recv(65536):
                    rest += data
                say(rest.endswith(b"served"), worker.is_dead())
            cluster.on("exit", lambda worker, code, signal: say(code))
            cluster.fork()
        else:
            http.create_server(lambda request: "served").listen(0)
        cluster.run()
        """,
    )
    assert said == [[True], [True, False], [0]]


def test_an_exclusive_listener_is_the_workers_own(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            ports = set()
            @cluster.on("listening")
            def listening(worker, address):
                ports.add(address.port)
                say(get(address.port))
                if len(ports) == 2:
                    cluster.disconnect(lambda: say("back"))
            cluster.fork()
            cluster.fork()
        else:
            http.create_server(lambda request: "own").listen(0, exclusive=True)
        cluster.run()
        """,
    )
    assert said == [["own"], ["own"], ["back"]]


@pytest.mark.node("test-listen-fd-cluster")
def test_a_worker_listens_on_a_descriptor_of_the_primary(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            worker = cluster.fork()
            # Made after the fork, so that only the primary has it.
            server = socket.create_server(("127.0.0.1", 0))
            idle = socket.socket()
            worker.send([server.fileno(), idle.fileno()])
            @cluster.on("listening")
            def listening(worker, address):
                say(address.fd == server.fileno(), address.port == server.getsockname()[1])
                say(get(address.port))
                worker.disconnect()
            @cluster.on("exit")
            def died(worker, code, signal): say(code, server.getsockname()[1] > 0)
        else:
            @cluster.worker.on("message")
            def listen(fds, handle):
                fd, idle = fds
                # Not open, no socket, and a socket that does not listen.
                for wrong in (999, 0, idle):
                    try:
                        http.create_server(lambda request: "x").listen(fd=wrong)
                    except OSError as error:
                        say(error.errno)
                http.create_server(lambda request: "through").listen(fd=fd)
        cluster.run()
        """,
    )
    assert said == [
        [errno.EBADF],
        [errno.ENOTSOCK],
        [errno.EINVAL],
        [True, True],
        ["through"],
        [0, True],
    ]


@pytest.mark.node(
    "test-cluster-net-reuseport",
    differs="The primary hears of it all the same: `listening` is emitted, and disconnect() "
    "closes it.",
)
def test_reuse_port_binds_in_the_worker_and_lets_others_in(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            ports = []
            @cluster.on("listening")
            def listening(worker, address):
                ports.append(address.port)
                if len(ports) == 1:
                    cluster.fork({"PORT": address.port})
                if len(ports) == 3:
                    say(len(set(ports)), get(ports[0]))
                    cluster.disconnect(lambda: say("back"))
            cluster.fork({"PORT": 0})
        else:
            port = int(os.environ["PORT"])
            server = http.create_server(lambda request: "x").listen(port, reuse_port=True)
            if port:
                # Twice in one worker; without it nobody comes in.
                http.create_server(lambda request: "x").listen(port, reuse_port=True)
                try:
                    http.create_server(lambda request: "x").listen(port)
                except OSError as error:
                    say("in use" in str(error))
        cluster.run()
        """,
    )
    assert said == [[True], [1, "x"], ["back"]]


@pytest.mark.node("test-cluster-net-listen-ipv6only-none")
def test_ipv6_alone_and_with_ipv4(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            seen = []
            @cluster.on("listening")
            def listening(worker, address):
                seen.append([address.address, address.address_type])
                if len(seen) == 3:
                    say(sorted(seen))
                    cluster.disconnect()
            cluster.fork()
        else:
            both = http.create_server(lambda request: "x").listen(0, "::", ipv6_only=False)
            four = http.create_server(lambda request: "x").listen(0, "0.0.0.0")
            six = http.create_server(lambda request: "x").listen(four.address().port, "::")
            socket.create_connection(("127.0.0.1", both.address().port), timeout=10).close()
        cluster.run()
        """,
    )
    assert said == [[[["0.0.0.0", 4], ["::", 6], ["::", 6]]]]


def test_what_a_handler_leaves_to_do_is_done_at_once(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        import threading
        if cluster.is_primary:
            ports, sizes = [], []
            @cluster.on("listening")
            def listening(worker, address):
                ports.append(address.port)
                if len(ports) == 1:
                    # A thread, since the handler asks this loop to bind.
                    threading.Thread(target=get, args=ports).start()
                else:
                    say(sum(sizes), get(address.port))
                    worker.disconnect()
            cluster.on("message", lambda worker, text, handle: sizes.append(len(text)))
            cluster.fork()
        else:
            def answer(request):
                # More than the channel takes at once.
                for _ in range(20):
                    cluster.worker.send("x" * 500_000)
                http.create_server(lambda request: "second").listen(0)
            http.create_server(answer).listen(0)
        cluster.run()
        """,
    )
    assert said == [[10_000_000, "second"]]


def test_a_server_listens_again_once_it_is_closed(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        server = http.create_server(lambda request: "x")
        if cluster.is_primary:
            ports = []
            @cluster.on("listening")
            def listening(worker, address):
                ports.append(address.port)
                if len(ports) == 1:
                    worker.send("again")
                else:
                    say(get(address.port))
                    worker.disconnect()
            cluster.fork()
        else:
            @cluster.worker.on("message")
            def again(message, handle):
                server.close()
                assert not server.listening
                try:
                    server.listen(0)
                except RuntimeError as error:
                    say(str(error))
                http.create_server(lambda request: "x").listen(0)
            server.listen(0)
            server.close()
            server.listen(0)
        cluster.run()
        """,
    )
    refused = ["the server still serves what it accepted before close(): create another one"]
    assert said == [refused, ["x"]]


# ---- async handlers


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_async_handlers_and_others_are_served_side_by_side(tmp_path: Path, loop: str) -> None:
    if loop == "uvloop":
        require_module("uvloop", package="uvloop")
    said = ran(
        tmp_path,
        """
        import asyncio
        if cluster.is_primary:
            ports = []
            @cluster.on("listening")
            def listening(worker, address):
                ports.append(address.port)
                if len(ports) == 3:
                    say(*sorted(get(port) for port in ports))
                    worker.send("more")
                if len(ports) == 4:
                    say(get(ports[3]))
                    worker.disconnect()
            @cluster.on("message")
            def message(worker, text, handle): say(text)
            @cluster.on("exit")
            def died(worker, code, signal): say(code, signal, worker.exited_after_disconnect)
            cluster.fork()
        else:
            async def slow(request):
                await asyncio.sleep(0.01)
                return f"slow in {type(asyncio.get_running_loop()).__module__.split('.')[0]}"
            async def told(request):
                # What a handler says while it runs is not left lying.
                cluster.worker.send("x" * 300_000)
                return "told"
            def listen(handler):
                http.create_server(handler, loop=LOOP).listen(0)
            @cluster.worker.on("message")
            def more(text, handle):
                async def late(request):
                    return "late"
                listen(late)
            listen(lambda request: "plain")
            listen(slow)
            listen(told)
        cluster.run()
        """.replace("LOOP", repr(loop)),
    )
    assert said[0] == ["plain", f"slow in {loop}", "told"]
    assert sorted(said[1:3], key=lambda words: len(words[0])) == [["late"], ["x" * 300_000]]
    assert said[3:] == [[0, None, True]]


def test_an_async_request_that_runs_is_served_before_a_worker_leaves(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        import asyncio
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                global client
                client = socket.create_connection((address.address, address.port), timeout=10)
                client.sendall(b"GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n")
            @cluster.on("message")
            def begun(worker, text, handle):
                say(text)
                worker.disconnect()
            @cluster.on("exit")
            def died(worker, code, signal):
                say(client.recv(4096).decode().rpartition("\\r\\n\\r\\n")[2], code, signal)
            cluster.fork()
        else:
            leaves = asyncio.Event()
            async def handler(request):
                cluster.worker.send("begun")
                while cluster.worker.state != "disconnecting":
                    await asyncio.sleep(0.01)
                return "served to its end"
            http.create_server(handler).listen(0)
        cluster.run()
        """,
    )
    assert said == [["begun"], ["served to its end", 0, None]]


def test_an_async_request_that_does_not_end_is_cancelled_in_time(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        import asyncio
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                global client
                client = socket.create_connection((address.address, address.port), timeout=10)
                client.sendall(b"GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n")
            @cluster.on("message")
            def message(worker, text, handle):
                worker.disconnect()
            @cluster.on("exit")
            def died(worker, code, signal): say("exit", code, signal)
            cluster.fork()
        else:
            async def handler(request):
                cluster.worker.send("begun")
                try:
                    await asyncio.sleep(3600)
                finally:
                    say("cleaned up")
            http.create_server(handler, timeout_graceful_s=0.2).listen(0)
        cluster.run()
        """,
    )
    assert said == [["cleaned up"], ["exit", 0, None]]


def test_a_program_of_asyncio_serves_async_handlers_as_a_worker(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        import asyncio
        async def main():
            if cluster.is_primary:
                @cluster.on("listening")
                def listening(worker, address):
                    say(get(address.port))
                    worker.disconnect()
                cluster.fork()
            else:
                beside = []
                async def tick():
                    while True:
                        beside.append("ticked")
                        await asyncio.sleep(0)
                ticking = asyncio.create_task(tick())
                async def handler(request):
                    await asyncio.sleep(0)
                    return beside[0]
                http.create_server(handler).listen(0)
            await cluster.run_async()
        asyncio.run(main())
        """,
    )
    assert said == [["ticked"]]


def test_run_inside_of_a_loop_names_what_to_await(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        import asyncio
        if cluster.is_primary:
            @cluster.on("message")
            def message(worker, text, handle): say(text)
            cluster.fork()
            cluster.run()
        else:
            async def main():
                async def handler(request): return ""
                http.create_server(handler).listen(0)
                try:
                    cluster.run()
                except RuntimeError as error:
                    cluster.worker.send(str(error))
            asyncio.run(main())
            os._exit(0)
        """,
    )
    assert said == [["an asyncio loop runs here: await cluster.run_async() instead"]]
