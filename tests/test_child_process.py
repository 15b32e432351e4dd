"""Forks of this test process; each child tells over its channel what it found."""

from __future__ import annotations

import atexit
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_parts import Program, is_gone, ran

from fastcluster import child_process
from fastcluster.channel import Channel
from fastcluster.child_process import Child, SignalPipe, accept_signals, how_it_ended

DEADLINE_S = 20.0

Spawn = Callable[..., Child]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """child_process.spawn, and the end of whatever is left of its children."""
    children: list[Child] = []

    def and_remember(run: Callable[[Channel], int], **options: Any) -> Child:
        child = child_process.spawn(run, **options)
        children.append(child)
        return child

    yield and_remember
    for child in children:
        child.channel.close()
        try:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
        except (ChildProcessError, ProcessLookupError):
            continue


def test_an_orphan_is_nobody_of_ours(spawn: Spawn) -> None:
    told, end = child_process.pair()
    pid = child_process.spawn_orphan(lambda channel: channel.send({"pid": os.getpid()}) - 1, end)
    end.close()
    assert hear(told) == {"pid": pid}
    # Whoever it is left to buries it; we only see that it is gone.
    assert hear(told) is None
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)
    told.close()


def hear(channel: Channel) -> Any:
    """Wait for the one message that is due; None at EOF."""
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    deadline = time.monotonic() + DEADLINE_S
    while True:
        messages = channel.receive()
        if messages:
            [(message, _)] = messages
            return message
        if channel.eof:
            return None
        assert poll.poll((deadline - time.monotonic()) * 1000), "no message came"


def end_of(child: Child) -> int:
    """Wait for the child and return its exit code, or minus the signal's number."""
    while hear(child.channel) is not None:
        pass
    _, status = os.waitpid(child.pid, 0)
    return os.waitstatus_to_exitcode(status)


def leave_with(value: object) -> Callable[[Channel], int]:
    def run(channel: Channel) -> int:
        raise SystemExit(value)

    return run


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (lambda channel: 0, 0),
        (lambda channel: 3, 3),
        (leave_with(None), 0),
        (leave_with(7), 7),
        (leave_with("a word"), 1),
    ],
)
def test_the_exit_code(spawn: Spawn, run: Callable[[Channel], int], code: int) -> None:
    assert end_of(spawn(run)) == code


def test_an_exception_is_shown_and_is_code_1(
    spawn: Spawn, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(channel: Channel) -> int:
        raise ZeroDivisionError("on purpose")

    assert end_of(spawn(run)) == 1
    assert "ZeroDivisionError: on purpose" in capfd.readouterr().err


def test_both_talk_and_the_end_is_eof(spawn: Spawn) -> None:
    def run(channel: Channel) -> int:
        channel.send(["echo", hear(channel)])
        return 0

    child = spawn(run)
    child.channel.send("hello")
    assert hear(child.channel) == ["echo", "hello"]
    assert hear(child.channel) is None
    assert end_of(child) == 0


def test_a_parent_that_dies_is_eof_although_sisters_live(spawn: Spawn) -> None:
    def until_eof(channel: Channel) -> int:
        assert hear(channel) is None
        return 9

    one = spawn(until_eof)
    two = spawn(until_eof, close=[one.channel])
    one.channel.close()
    _, status = os.waitpid(one.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert os.waitpid(two.pid, os.WNOHANG) == (0, 0)


def test_the_child_keeps_nothing_of_what_is_closed(spawn: Spawn) -> None:
    read_fd, write_fd = os.pipe()
    reader, writer = os.fdopen(read_fd, "rb"), os.fdopen(write_fd, "wb")

    def run(channel: Channel) -> int:
        channel.send([is_open(read_fd), is_open(write_fd)])
        return 0

    child = spawn(run, close=[writer])
    assert hear(child.channel) == [True, False]
    writer.close()
    assert reader.read() == b""
    reader.close()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_signal_before_the_handlers_are_set_waits(spawn: Spawn) -> None:
    got: list[int] = []

    def run(channel: Channel) -> int:
        assert hear(channel) == "the signal is on its way"
        signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
        accept_signals()
        return 40 + len(got)

    child = spawn(run)
    os.kill(child.pid, signal.SIGTERM)
    child.channel.send("the signal is on its way")
    assert end_of(child) == 41


def test_the_childs_signals_are_its_own(spawn: Spawn) -> None:
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
    heard: list[int] = []
    handler_before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    wakeup_before = signal.set_wakeup_fd(write_fd)

    def run(channel: Channel) -> int:
        found: list[object] = [
            signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL,
            signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN,
            signal.set_wakeup_fd(-1),
            len(signal.pthread_sigmask(signal.SIG_BLOCK, [])) > 20,
        ]
        accept_signals()
        channel.send([*found, len(signal.pthread_sigmask(signal.SIG_BLOCK, []))])
        return 0

    try:
        child = spawn(run)
        assert hear(child.channel) == [True, True, -1, True, 0]
        assert end_of(child) == 0
        assert heard == []
    finally:
        signal.set_wakeup_fd(wakeup_before)
        signal.signal(signal.SIGUSR1, handler_before)
        os.close(read_fd)
        os.close(write_fd)


def test_the_parents_mask_is_as_before(spawn: Spawn) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        child = spawn(lambda channel: 0)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before | {signal.SIGUSR2}
        assert end_of(child) == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_fork_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    descriptors = len(os.listdir("/dev/fd"))
    monkeypatch.setattr(os, "fork", no_fork)
    with pytest.raises(OSError, match="temporarily unavailable"):
        child_process.spawn(lambda channel: 0)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert len(os.listdir("/dev/fd")) == descriptors


def test_no_fork_beside_other_threads() -> None:
    go = threading.Event()
    thread = threading.Thread(target=go.wait, name="busy-bee")
    thread.start()
    try:
        with pytest.raises(RuntimeError, match=r"other threads run.*busy-bee"):
            child_process.spawn(lambda channel: 0)
    finally:
        go.set()
        thread.join()


def test_children_draw_different_random_numbers(spawn: Spawn) -> None:
    def run(channel: Channel) -> int:
        channel.send(random.getrandbits(64))
        return 0

    random.seed(1)
    drawn = {hear(spawn(run).channel) for _ in range(2)} | {random.getrandbits(64)}
    assert len(drawn) == 3


def test_exit_hooks_of_the_child_run_and_those_of_the_parent_do_not(
    spawn: Spawn, tmp_path: Path
) -> None:
    def parents() -> None:
        (tmp_path / "parent").touch()

    def run(channel: Channel) -> int:
        atexit.register((tmp_path / "child").touch)
        return 0

    atexit.register(parents)
    try:
        assert end_of(spawn(run)) == 0
    finally:
        atexit.unregister(parents)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["child"]


def test_threads_of_the_child_are_waited_for(spawn: Spawn, tmp_path: Path) -> None:
    read_fd, write_fd = os.pipe()

    def finish_later() -> None:
        os.read(read_fd, 1)
        (tmp_path / "finished").touch()

    def run(channel: Channel) -> int:
        threading.Thread(target=finish_later).start()
        channel.send("returning")
        return 0

    child = spawn(run)
    assert hear(child.channel) == "returning"
    os.write(write_fd, b"!")
    assert end_of(child) == 0
    assert (tmp_path / "finished").exists()
    os.close(read_fd)
    os.close(write_fd)


def test_an_exit_that_hangs_is_ended_and_says_where(
    spawn: Spawn, capfd: pytest.CaptureFixture[str]
) -> None:
    def hang_for_ever() -> None:
        threading.Event().wait()

    def run(channel: Channel) -> int:
        atexit.register(hang_for_ever)
        return 0

    assert end_of(spawn(run, exit_timeout_s=0.05)) == 1
    assert "hang_for_ever" in capfd.readouterr().err


FORK_WITH_A_FULL_BUFFER = """
import os
from fastcluster.child_process import spawn
print("before", end=" ")
child = spawn(lambda channel: print("child", end=" ") or 0)
os.waitpid(child.pid, 0)
print("after")
"""


def test_buffered_output_is_written_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK_WITH_A_FULL_BUFFER],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stdout.split() == ["before", "child", "after"]
    assert done.stderr == ""


# ---- signals as bytes


@pytest.fixture
def signals() -> Iterator[SignalPipe]:
    pipe = SignalPipe([signal.SIGUSR1, signal.SIGUSR2])
    yield pipe
    pipe.close()


def test_signals_become_bytes(signals: SignalPipe) -> None:
    assert signals.read() == []
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR2)
    assert select.select([signals], [], [], DEADLINE_S)[0]
    assert signals.read() == [signal.SIGUSR1, signal.SIGUSR2]
    assert signals.read() == []


def test_a_signal_ends_a_wait_for_the_pipe(signals: SignalPipe) -> None:
    timer = signal.setitimer(signal.ITIMER_REAL, 0)
    pipe = SignalPipe([signal.SIGALRM])
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert select.select([pipe], [], [], DEADLINE_S)[0]
        assert pipe.read() == [signal.SIGALRM]
    finally:
        pipe.close()
        signal.setitimer(signal.ITIMER_REAL, *timer)


def test_many_signals_do_no_harm(signals: SignalPipe) -> None:
    for _ in range(70_000):
        signal.raise_signal(signal.SIGUSR1)
    heard = 0
    while batch := signals.read():
        heard += len(batch)
    assert 4096 < heard < 70_000


def test_close_puts_the_handlers_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    pipe = SignalPipe([signal.SIGUSR1])
    assert signal.getsignal(signal.SIGUSR1) != before
    pipe.close()
    pipe.close()
    assert signal.getsignal(signal.SIGUSR1) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_renew_takes_the_signals_back(signals: SignalPipe) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    signals.renew()
    signal.raise_signal(signal.SIGUSR1)
    assert signals.read() == [signal.SIGUSR1]


def test_a_signal_of_a_forked_process_is_not_told_here(signals: SignalPipe) -> None:
    ready, say_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(say_ready, b"!")
        signal.pause()
        os._exit(0)
    os.read(ready, 1)
    os.kill(pid, signal.SIGUSR1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGUSR1
    assert signals.read() == []
    os.close(ready)
    os.close(say_ready)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exited with code 0"),
        (3 << 8, "exited with code 3"),
        (int(signal.SIGTERM), "was killed by SIGTERM"),
        (int(signal.SIGKILL), "was killed by SIGKILL (somebody's kill -9, or the kernel's"),
        (int(signal.SIGSEGV) | 0x80, "was killed by SIGSEGV (a crash in native code"),
        (50, "was killed by signal 50"),
    ],
)
def test_how_it_ended(status: int, words: str) -> None:
    assert how_it_ended(status).startswith(words)


# ---- children that programs fork


def test_a_function_a_script_and_a_module_are_children_alike(tmp_path: Path) -> None:
    text = (
        "from fastcluster import child_process\nimport sys\nchild_process.parent.send(sys.argv[1:])"
    )
    (tmp_path / "helper.py").write_text(text)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(text)
    said = ran(
        tmp_path,
        """
        from fastcluster import child_process

        def helper(*args):
            child_process.parent.send([*args, cluster.is_primary, len(cluster.workers)])

        async def waiting(*args):
            child_process.parent.send(["async", *args])
            child_process.parent.on("message", lambda message, handle: sys.exit(message))
            await child_process.run_async()

        def follow(child, *messages):
            events = []
            for event in ("spawn", "message", "disconnect", "exit", "close", "error"):
                child.on(event, lambda *words, event=event: events.append([event, *words]))
            for message in messages:
                assert child.send(message)
            assert child.connected and child.exitcode is None and child.pid > 0
            child_process.run()
            say(events, child.connected, child.exitcode, child.signal_code, child.kill())

        follow(child_process.fork(helper, [1, 2]))
        follow(child_process.fork(waiting, ["x"]), 7)
        follow(child_process.fork("helper.py", ["a", 1]))
        follow(child_process.fork("package", ["b"]))
        """,
    )

    def events(message: object, code: int) -> list[object]:
        ends = [["disconnect"], ["exit", code, None], ["close", code, None]]
        return [["spawn"], ["message", message, None], *ends]

    assert said == [
        [events([1, 2, True, 0], 0), False, 0, None, False],
        [events(["async", "x"], 7), False, 7, None, False],
        [events(["a", "1"], 0), False, 0, None, False],
        [events(["b"], 0), False, 0, None, False],
    ]


def test_the_options_of_fork_reach_the_child(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text(
        "import os, sys, signal\nfrom fastcluster import child_process\n"
        "print(os.getcwd() == os.sep, os.environ.get('ONLY'), 'HOME' in os.environ,\n"
        "      sys.flags.optimize, os.getsid(0) == os.getpid(), sep=' ', flush=True)\n"
        "child_process.parent.on('message', lambda message, handle: child_process.parent.send(\n"
        "    message, None, child_process.parent.disconnect))\n"
    )
    said = ran(
        tmp_path,
        """
        from fastcluster import child_process
        env = {name: os.environ[name] for name in ("PATH", "PYTHONPATH")}
        child = child_process.fork(
            os.path.abspath("helper.py"), cwd="/", env={**env, "ONLY": 1}, exec_argv=["-O"],
            exec_path=sys.executable, silent=True, detached=True, serialization="advanced",
        )
        child.stdout.on("data", lambda data: say(data.decode()))
        child.stdout.on("end", lambda: say("end"))
        child.on("close", lambda code, name: say("close", code, name))
        child.on("message", lambda message, handle: say(sorted(message)))
        child.send({1, 2})
        child_process.run()

        child = child_process.fork(time.sleep, [60], kill_signal="SIGKILL", timeout=0.05)
        child.on("exit", lambda code, name: say(code, name, child.killed))
        child_process.run()

        for wrong in ({"serialization": "xml"}, {"stdio": "pipe"}, {"exec_path": "x"},
                      {"kill_signal": "TERM"}, {"timeout": 0}, {"uid": -1}):
            try:
                child_process.fork(time.sleep, [60], **wrong)
            except (TypeError, ValueError) as error:
                say(type(error).__name__)
        """,
    )
    # The channel and a pipe are not in step with each other.
    assert [1, 2] in said[0] + said[1] and ["True 1 False 1 True\n"] in said[:2]
    assert said[2:5] == [["end"], ["close", 0, None], [None, "SIGKILL", True]]
    assert said[5:] == [
        [name]
        for name in [
            "ValueError",
            "TypeError",
            "ValueError",
            "ValueError",
            "ValueError",
            "TypeError",
        ]
    ]


def test_what_cannot_be_started_is_an_error_event(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        from fastcluster import child_process
        wrong = ((print, {"cwd": "/no/folder"}), ("x.py", {"exec_path": "/no/python"}))
        for what, options in wrong:
            child = child_process.fork(what, **options)
            for event in ("spawn", "disconnect", "exit", "close"):
                child.on(event, lambda *words, event=event: say(event, *words))
            child.on("error", lambda error: say(type(error).__name__, str(error)))
            child_process.run()
        """,
    )
    ends = [["disconnect"], ["exit", 1, None], ["close", 1, None]]
    assert said == [
        ["FileNotFoundError", "[Errno 2] No such file or directory: /no/folder"],
        *ends,
        ["FileNotFoundError", "[Errno 2] No such file or directory: /no/python"],
        *ends,
    ]


def test_a_child_hears_that_its_parent_has_gone_and_may_go_on(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
        from fastcluster import child_process

        def helper():
            parent = child_process.parent
            parent.on("message", lambda message, handle: None)
            parent.on("disconnect", lambda: say("gone", parent.connected, parent.send(1)))

        if len(sys.argv) > 1:
            child = child_process.fork(helper)
            child.on("spawn", lambda: say(child.pid))
            child_process.run()
        """,
        "go",
    )
    [pid] = program.line()
    program.process.kill()
    assert program.line() == ["gone", False, False]
    assert program.end(-9) == []
    wait_until(lambda: is_gone(pid))


def test_the_loop_of_cluster_serves_other_children_and_workers_fork_too(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        from fastcluster import child_process

        def helper():
            child_process.parent.send(cluster.is_worker)

        if cluster.is_primary:
            cluster.on("message", lambda worker, message, handle: say(message))
            cluster.on("exit", lambda worker, code, name: say("worker", code, name))
            child_process.fork(helper).on("message", lambda message, handle: say("own", message))
            cluster.run()
            cluster.fork()
            cluster.run()
        else:
            child = child_process.fork(helper)
            child.on("message", lambda message, handle: cluster.worker.send(["child's", message]))
            child.on("exit", lambda code, name: cluster.worker.send(["child's end", code]))
        """,
    )
    assert said == [
        ["own", False],
        [["child's", False]],
        [["child's end", 0]],
        ["worker", 0, None],
    ]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
