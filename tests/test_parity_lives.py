"""The lives of workers as Node's tests ask for them: starts, ends, and who is told what."""

from pathlib import Path

import pytest
from cluster_parts import Program, is_gone, ran
from crew import until

from fastcluster import cluster


@pytest.mark.node("test-cluster-basic")
def test_a_workers_whole_life_is_told_with_its_arguments(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        names = [name for name in os.environ if name.startswith("FASTCLUSTER_WORKER")]
        if cluster.is_primary:
            said = []
            def told(who, event, worker, arguments):
                addresses = [a for a in arguments if isinstance(a, cluster.Address)]
                for address in addresses:
                    assert 1 <= address.port <= 65535
                    say(address.address, address.address_type, address.fd,
                        list(cluster.Address.__dataclass_fields__))
                numbers = [a for a in arguments if a not in addresses]
                say(who, event, worker is forked, worker.state, numbers)
            for event in ("fork", "online", "listening", "exit"):
                cluster.on(event, lambda w, *a, e=event: told("cluster", e, w, a))
            forked = cluster.fork()
            say(forked.id, forked.state, list(cluster.workers) == [1])
            for event in ("fork", "online", "listening", "exit"):
                forked.on(event, lambda *a, e=event: told("worker", e, forked, a))
            forked.on("listening", lambda address: forked.kill())
            @cluster.on("exit")
            def died(worker, code, signal):
                say((code, signal) == (worker.process.exitcode, worker.process.signal_code))
        else:
            say(names, cluster.worker.id, cluster.worker.state)
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    address = ["127.0.0.1", 4, None, ["address", "port", "address_type", "fd"]]
    assert [line for line in said if line != [[], 1, "online"]] == [
        [1, "none", True],
        ["cluster", "fork", True, "none", []],
        ["worker", "online", True, "online", []],
        ["cluster", "online", True, "online", []],
        address,
        ["worker", "listening", True, "listening", []],
        address,
        ["cluster", "listening", True, "listening", []],
        ["worker", "exit", True, "dead", [None, "SIGTERM"]],
        ["cluster", "exit", True, "dead", [None, "SIGTERM"]],
        [True],
    ]
    assert said.count([[], 1, "online"]) == 1


@pytest.mark.node("test-cluster-worker-constructor")
def test_a_worker_of_ones_own_has_defaults() -> None:
    worker = cluster.Worker()
    assert (worker.id, worker.state, worker.process) == (0, "none", None)
    assert worker.exited_after_disconnect is None
    assert not worker.is_connected() and not worker.is_dead()
    assert worker.send("nobody") is False and worker.kill() is False
    assert worker.disconnect() is worker
    named = cluster.Worker(3, state="online")
    assert (named.id, named.state) == (3, "online")


@pytest.mark.node("test-cluster-worker-death", "test-cluster-worker-exit")
def test_an_exit_of_a_workers_own_is_told_once_and_was_not_meant(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            worker = cluster.fork()
            for event in ("disconnect", "exit"):
                worker.on(event, lambda *a, e=event: say("worker", e, *a))
                cluster.on(event, lambda w, *a, e=event: say("cluster", e, *a))
            @cluster.on("exit")
            def died(worker, code, signal):
                say(worker.exited_after_disconnect, worker.state, worker.is_dead())
                try:
                    os.kill(worker.process.pid, 0)
                except ProcessLookupError:
                    say("gone")
        else:
            http.create_server(lambda request: "x").listen(0)
            sys.exit(42)
        cluster.run()
        """,
    )
    assert said == [
        ["worker", "disconnect"],
        ["cluster", "disconnect"],
        ["worker", "exit", 42, None],
        ["cluster", "exit", 42, None],
        [False, "dead", True],
        ["gone"],
    ]


@pytest.mark.node("test-cluster-worker-kill", "test-cluster-kill-signal")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGUSR1"])
def test_a_worker_killed_by_a_signal_was_not_meant_to_end(tmp_path: Path, name: str) -> None:
    said = ran(
        tmp_path,
        f"""
        if cluster.is_primary:
            cluster.on("listening", lambda worker, address: worker.kill(signal.{name}))
            @cluster.on("disconnect")
            def gone(worker):
                say(worker.state, worker.exited_after_disconnect, worker.is_connected())
            @cluster.on("exit")
            def died(worker, code, signal):
                say(worker.state, worker.exited_after_disconnect, len(cluster.workers))
                say(code, signal, worker.process.exitcode, worker.process.signal_code)
            cluster.fork()
        else:
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    assert said == [["disconnected", False, False], ["dead", False, 0], [None, name, None, name]]


@pytest.mark.node("test-cluster-worker-destroy")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_kills_itself_before_and_after_its_disconnect(tmp_path: Path, when: str) -> None:
    said = ran(
        tmp_path,
        f"""
        if cluster.is_primary:
            cluster.on("disconnect", lambda worker: say("disconnect"))
            cluster.on("exit", lambda worker, code, signal: say("exit", code, signal,
                worker.exited_after_disconnect))
            cluster.fork()
        elif "{when}" == "before":
            cluster.worker.kill()
            cluster.worker.kill()       # once more is nothing
        else:
            cluster.worker.on("disconnect", cluster.worker.destroy)
            assert cluster.worker.disconnect() is cluster.worker
        cluster.run()
        """,
    )
    assert said == [["disconnect"], ["exit", 0, None, True]]


@pytest.mark.node("test-cluster-call-and-destroy")
def test_killing_a_worker_that_has_disconnected_does_no_harm(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.on("online", lambda worker: worker.disconnect())
            @cluster.on("disconnect")
            def gone(worker):
                say(worker.kill())
            @cluster.on("exit")
            def died(worker, code, signal):
                say("dead", worker.kill(), worker.process.kill())
            cluster.fork()
        else:
            cluster.worker.on("disconnect", lambda: time.sleep(60))
            cluster.worker.on("message", print)
        cluster.run()
        """,
    )
    assert said == [[True], ["dead", False, False]]


@pytest.mark.node("test-cluster-worker-isconnected", "test-cluster-worker-isdead")
def test_connected_and_dead_in_every_handler(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        def tell(when):
            say(when, worker.is_connected(), worker.process.connected, worker.is_dead())
        if cluster.is_primary:
            worker = cluster.fork()
            tell("fork")
            for event in ("online", "disconnect", "exit"):
                worker.on(event, lambda *a, e=event: tell(e))
            worker.on("message", lambda message, handle: say(*message))
        else:
            worker = cluster.worker
            worker.send(["worker", worker.is_connected(), worker.process.connected,
                         worker.is_dead()])
            worker.on("disconnect", lambda: tell("worker disconnect"))
            worker.disconnect()
        cluster.run()
        """,
    )
    assert [line for line in said if line[0] != "worker disconnect"] == [
        ["fork", True, True, False],
        ["online", True, True, False],
        ["worker", True, True, False],
        ["disconnect", False, False, False],
        ["exit", False, False, True],
    ]
    assert ["worker disconnect", False, False, False] in said


@pytest.mark.node("test-cluster-process-disconnect")
def test_a_listening_worker_that_shuts_its_channel_exits_with_0(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.on("listening", lambda worker, address: worker.send("go"))
            cluster.on("disconnect", lambda worker: say("disconnect"))
            cluster.on("exit", lambda worker, code, signal: say(code, signal,
                worker.exited_after_disconnect))
            cluster.fork()
        else:
            cluster.worker.on("message", lambda *_: cluster.worker.process.disconnect())
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    assert said == [["disconnect"], [0, None, False]]


@pytest.mark.node("test-cluster-worker-forced-exit")
def test_a_worker_is_hurried_by_a_shut_channel_alone(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                (worker.process if worker.id == 1 else worker).disconnect()
            cluster.on("exit", lambda worker, code, signal: say(worker.id, code, signal,
                worker.exited_after_disconnect))
            cluster.fork()
            cluster.fork()
        else:
            http.create_server(lambda request: "x").listen(0)
            cluster.run()
            sys.exit(42)                # what the loop left comes to this, who was cut off does not
        cluster.run()
        """,
    )
    assert sorted(said) == [[1, 0, None, False], [2, 42, None, True]]


@pytest.mark.node("test-cluster-primary-kill")
@pytest.mark.parametrize("how", ["sys.exit(3)", "os._exit(3)"])
def test_a_primary_that_leaves_takes_its_workers_with_it(tmp_path: Path, how: str) -> None:
    program = Program(
        tmp_path,
        f"""
        if cluster.is_primary:
            @cluster.on("listening")
            def listening(worker, address):
                if all(w.state == "listening" for w in cluster.workers.values()):
                    say([w.process.pid for w in cluster.workers.values()])
                    {how}
            cluster.fork(), cluster.fork()
        else:
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    [pids] = program.line()
    program.end(code=3)
    until(lambda: all(is_gone(pid) for pid in pids), "the workers' end")


@pytest.mark.node("test-cluster-uncaught-exception")
def test_a_hook_for_uncaught_errors_decides_the_primarys_code(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
        if cluster.is_primary:
            sys.excepthook = lambda *_: sys.exit(42)
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
    program.end(code=42)
    assert "ValueError" not in program.err
    until(lambda: is_gone(pid), "the worker's end")


def test_names_for_the_primary_alone_are_refused_in_a_worker_by_name(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.fork()
        else:
            uses = {
                "fork": cluster.fork,
                "setup_primary": cluster.setup_primary,
                "disconnect": cluster.disconnect,
                "broadcast": lambda: cluster.broadcast("x"),
                "supervise": lambda: cluster.supervise(workers=1),
                "scale": lambda: cluster.scale(1),
                "reload": cluster.reload,
                "workers": lambda: cluster.workers,
                "settings": lambda: cluster.settings,
            }
            for name, use in uses.items():
                try:
                    use()
                except RuntimeError as error:
                    say(name, str(error) == f"cluster.{name} is for the primary, "
                        f"and this is worker {cluster.worker.id}")
        cluster.run()
        """,
    )
    names = [name for name, _ in said]
    assert len(names) == 9 and all(right for _, right in said)
