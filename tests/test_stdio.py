"""A worker's standard streams: pipes both ways, and settings that make fresh interpreters."""

import os
import tempfile
from pathlib import Path

import pytest
from cluster_parts import ran

from fastcluster import stdio


def test_what_a_silent_worker_writes_comes_to_the_primary_before_its_exit(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.setup_primary(silent=True)
            worker = cluster.fork()
            out, err = [], []
            worker.process.stdout.on("data", out.append)
            worker.process.stderr.on("data", err.append)
            @worker.on("exit")
            def died(code, signal):
                say(len(b"".join(out)), b"".join(err).decode(), worker.process.stdin, code)
        else:
            sys.stdout.write("x" * 200_000)
            sys.stderr.write("trouble")
            sys.exit(3)
        cluster.run()
        """,
    )
    assert said == [[200_000, "trouble", None, 3]]


@pytest.mark.node("test-cluster-fork-stdio")
def test_a_pipe_at_descriptor_4_goes_both_ways(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.setup_primary(stdio=["pipe", "inherit", "inherit", "ipc", "pipe"])
            worker = cluster.fork()
            worker.process.stdin.write(b"read")
            worker.process.stdin.end()
            extra = worker.process.stdio[4]
            extra.write(b"there")
            extra.on("data", lambda data: say("primary", data.decode()))
            extra.on("end", lambda: say("end"))
            worker.on("exit", lambda code, signal: say("exit", code))
        else:
            say("worker", sys.stdin.read(), os.read(4, 100).decode())
            os.write(4, b"back")
            os.close(4)
        cluster.run()
        """,
    )
    assert said == [["worker", "read", "there"], ["primary", "back"], ["end"], ["exit", 0]]


def test_output_can_be_read_after_the_end_and_ignored(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.setup_primary(stdio=["ignore", "pipe", "ignore"])
            worker = cluster.fork()
            cluster.run()
            say(worker.process.stdout.read().decode())
        else:
            print(sys.stdin.read() == "", "out")
            sys.stderr.write("nobody hears this")
        """,
    )
    assert said == [["True out\n"]]


@pytest.mark.node("test-cluster-basic", "test-cluster-setup-primary")
def test_exec_runs_another_script_in_a_fresh_interpreter(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(
        "import json, os, subprocess, sys\n"
        "from fastcluster import cluster, http\n"
        "code = 'from fastcluster import cluster; print(cluster.is_worker)'\n"
        "grandchild = subprocess.run([sys.executable, '-c', code], capture_output=True)\n"
        "names = [name for name in os.environ if name.startswith('FASTCLUSTER_W')]\n"
        "cluster.worker.send([cluster.is_worker, cluster.worker.id, sys.argv[1:],\n"
        "    os.environ['MINE'], names, grandchild.stdout.decode(), 'marker' in sys.modules,\n"
        "    sys.flags.optimize, __name__])\n"
        "http.create_server(lambda request: 'fresh').listen(0)\n"
    )
    said = ran(
        tmp_path,
        """
        import types
        sys.modules["marker"] = types.ModuleType("marker")
        if cluster.is_primary:
            cluster.setup_primary(exec="other.py", args=["a", "b c"])
            for event in ("online", "disconnect"):
                cluster.on(event, lambda worker, e=event: say(e, worker.state))
            cluster.on("message", lambda worker, message, handle: say(message))
            @cluster.on("listening")
            def listening(worker, address):
                say(get(address.port))
                worker.disconnect()
            cluster.on("exit", lambda worker, code, signal:
                say(code, worker.exited_after_disconnect))
            cluster.fork({"MINE": "yes"})
        cluster.run()
        """,
    )
    assert said == [
        ["online", "online"],
        [[True, 1, ["a", "b c"], "yes", [], "False\n", False, 0, "__main__"]],
        ["fresh"],
        ["disconnect", "disconnected"],
        [0, True],
    ]


def test_a_script_to_execute_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        cluster.setup_primary(exec="nowhere.py", silent=True)
        worker = cluster.fork()
        worker.on("exit", lambda code, signal: say(code != 0))
        cluster.run()
        say(worker.process.stderr.read().decode())
        """,
    )
    assert said[0] == [True]
    assert said[1][0].count("\n") == 1 and "there is no script nowhere.py" in said[1][0]


@pytest.mark.node("test-cluster-advanced-serialization")
def test_a_dict_that_holds_itself_travels_through_processes(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.setup_primary(serialization="advanced")
            circle = {"set": {1, 2}}
            circle["self"] = circle
            worker = cluster.fork()
            worker.send(circle)
            @worker.on("message")
            def back(message, handle):
                say(message["self"] is message, message["set"] == {1, 2}, message["by"])
                worker.disconnect()
        else:
            @cluster.worker.on("message")
            def heard(message, handle):
                message["by"] = [cluster.worker.id, message["self"] is message]
                cluster.worker.send(message)
        cluster.run()
        """,
    )
    assert said == [[True, True, [1, True]]]


def test_a_worker_is_the_user_that_was_asked_for() -> None:
    uid, gid = (65534, 65534) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    # A folder of pytest's own is closed to that user.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        said = ran(
            Path(folder),
            f"""
            if cluster.is_primary:
                cluster.setup_primary(uid={uid}, gid={gid})
                cluster.fork()
            else:
                say(os.getuid(), os.getgid())
                if os.getuid() == 65534:
                    say(os.getgroups())
            cluster.run()
            """,
        )
    assert said == [[uid, gid], [[]]][: 2 if uid == 65534 else 1]


def test_mistakes_in_settings_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastcluster import cluster

    with pytest.raises(TypeError, match="stdio is a list such as"):
        cluster.setup_primary(stdio="pipe")
    with pytest.raises(TypeError, match="'pip' in stdio: each is one of inherit"):
        cluster.setup_primary(stdio=["pip"])
    with pytest.raises(TypeError, match="uid is a number, not 'nobody'"):
        cluster.setup_primary(uid="nobody")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PermissionError, match="uid=0 needs a primary that runs as root"):
        cluster.setup_primary(uid=0)


def test_a_stream_queues_what_its_reader_does_not_take() -> None:
    pipes = stdio.Stdio(["pipe"])
    stream, reading = pipes.streams[0], pipes._theirs[0]
    assert stream is not None and reading is not None
    data = os.urandom(1 << 20)
    assert not stream.write(data) and stream.wants_write
    stream.end()
    assert not stream.write(b"too late")
    taken = b""
    while stream.wants_write:
        taken += os.read(reading, 65536)
        stream.flush()
    while piece := os.read(reading, 65536):
        taken += piece
    assert taken == data
    assert stream.fileno() == -1
    pipes.forget_child()
