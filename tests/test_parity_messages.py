"""Messages and sockets between primary and workers as Node's tests ask for them."""

from pathlib import Path

import pytest
from cluster_parts import ran


@pytest.mark.node("test-cluster-message")
@pytest.mark.node(
    "test-cluster-worker-events",
    differs="A send() to who is not there any more returns False; nothing emits `error`.",
)
def test_messages_reach_both_emitters_on_both_sides(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            worker = cluster.fork()
            said = []
            worker.on("message", lambda message, handle: say("worker", message, handle))
            @cluster.on("message")
            def heard(sender, message, handle):
                say("cluster", sender is worker, message, handle)
                worker.disconnect()
            worker.on("exit", lambda code, signal: say(worker.send("too late")))
            say(worker.send({"to": "worker"}))
        else:
            heard = []
            cluster.worker.on("message", lambda message, handle: heard.append(["own", message]))
            @cluster.on("message")
            def answer(worker, message, handle):
                assert worker is cluster.worker
                heard.append(["cluster", message])
                assert worker.send(heard) is True
        cluster.run()
        """,
    )
    both = [["own", {"to": "worker"}], ["cluster", {"to": "worker"}]]
    assert said == [[True], ["worker", both, None], ["cluster", True, both, None], [False]]


@pytest.mark.node("test-cluster-worker-init")
def test_what_is_sent_on_online_reaches_a_listener_at_the_programs_top(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.on("online", lambda worker: worker.send("early"))
            cluster.on("message", lambda worker, message, handle: say(message))
            cluster.fork()
        else:
            # By now it has long been sent.
            cluster.worker.send("later") and time.sleep(0.05)
            @cluster.worker.on("message")
            def heard(message, handle):
                cluster.worker.send(message)
                cluster.worker.disconnect()
        cluster.run()
        """,
    )
    assert said == [["later"], ["early"]]


@pytest.mark.node("test-cluster-invalid-message")
@pytest.mark.parametrize(
    "frame",
    [
        {"ack": -1},
        {"listen": {}},
        {"listen": {"key": [], "backlog": 1, "permissions": None}},
        {"listen": {"key": ["", "x", "", -1, 0, True], "backlog": 1, "permissions": None}},
        {"listen": {"key": ["", 0, "", -1, [], True], "backlog": "x", "permissions": None}},
        {
            "listen": {
                "key": ["127.0.0.1", 70_000, "", -1, 0, True],
                "backlog": 1,
                "permissions": None,
            }
        },
        {"listening": {"address": 1}},
        {"listening": None},
        {"close": {"key": 7}},
        {"close": {"key": [[]]}},
        {"leaving": {}},
        {"left": {}},
        {"left": {"group": 99, "seat": 99}},
        {"left": {"group": [], "seat": 0}},
        {"left": {"group": 0, "seat": "x"}},
        {"user": {"json": 1, "pickle": "not asked for"}},
        {"user": []},
        {"bound": {}},
    ],
    ids=str,
)
def test_a_forged_message_of_the_clusters_own_is_passed_over(
    tmp_path: Path, frame: dict[str, object]
) -> None:
    said = ran(
        tmp_path,
        f"""
        if cluster.is_primary:
            cluster.on("message", lambda worker, message, handle: say(message))
            cluster.on("exit", lambda worker, code, signal: say(code, signal,
                worker.exited_after_disconnect))
            cluster.fork()
        else:
            cluster.worker._role.link.say({frame!r})
            cluster.worker.send({frame!r})     # what looks like one is a message
            cluster.worker.disconnect()
        cluster.run()
        """,
    )
    assert said[-2:] == [[frame], [0, None, True]]


@pytest.mark.node("test-cluster-net-send")
def test_a_connection_from_a_worker_goes_on_in_the_primary(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            @cluster.on("message")
            def heard(worker, message, handle):
                handle.setblocking(True)
                say(message, handle.recv(100).decode())
                handle.sendall(b"from the primary")
                handle.close()
            cluster.on("exit", lambda worker, code, signal: say(code))
            cluster.fork()
        else:
            with socket.create_server(("127.0.0.1", 0)) as server:
                client = socket.create_connection(server.getsockname(), timeout=10)
                accepted, _ = server.accept()
            cluster.worker.send("yours", accepted)
            accepted.close()
            client.sendall(b"from the worker")
            say(client.recv(100).decode(), client.recv(100).decode())
        cluster.run()
        """,
    )
    assert sorted(said, key=str) == [
        ["from the primary", ""],
        ["yours", "from the worker"],
        [0],
    ]


@pytest.mark.node("test-cluster-send-deadlock", "test-cluster-send-handle-twice")
def test_sockets_both_ways_at_once_and_the_same_one_twice(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        N = 100
        count = 0
        def heard(message, handle):
            global count
            count += 1
            handle.sendall(message.encode())
            handle.close()
            if count == 2 * N:
                cluster.worker and cluster.worker.disconnect()
        talk = cluster.fork() if cluster.is_primary else cluster.worker
        talk.on("message", heard)
        mine, theirs = socket.socketpair()
        for _ in range(N):
            talk.send("x", theirs)
            talk.send("y", theirs)
        theirs.close()
        cluster.run()
        data = b""
        mine.settimeout(10)
        while piece := mine.recv(4096):
            data += piece
        say(count, data.count(b"x"), data.count(b"y"))
        """,
    )
    assert said == [[200, 100, 100], [200, 100, 100]]


@pytest.mark.node("test-cluster-send-handle-large-payload")
def test_a_large_message_and_a_socket_arrive_together_both_ways(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        text = "x" * 800_000
        if cluster.is_primary:
            worker = cluster.fork()
            one, other = socket.socketpair()
            worker.send(text, other)
            other.close()
            @worker.on("message")
            def back(message, handle):
                handle.sendall(b"round")
                say(message == text, one.recv(10).decode())
                worker.disconnect()
            worker.on("exit", lambda code, signal: say(code))
        else:
            @cluster.worker.on("message")
            def heard(message, handle):
                assert message == text
                cluster.worker.send(message, handle)
                handle.close()
        cluster.run()
        """,
    )
    assert said == [[True, "round"], [0]]
