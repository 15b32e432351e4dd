"""The benchmark harness at work: real servers, clients and runs that end; none measures speed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from require import require_program

# At the end, so that an installed fastcluster comes before the source tree's.
sys.path.append(str(Path(__file__).parent.parent))

from benchmarks import build, catalogue, client, memory, process
from benchmarks.workloads import WORKLOADS, Workload

ROOT = Path(__file__).parent.parent

# ---- process.py

LISTEN = (
    "import socket, sys; listener = socket.create_server(('127.0.0.1', int(sys.argv[1])));"
    "[listener.accept() for _ in iter(int, 1)]"
)
STUBBORN = (
    "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nif os.fork() == 0:\n"
    " while True: signal.pause()\n" + LISTEN
)
# A worker whose parent has died: it is nobody's child, and only its session tells whose it is.
ORPHAN = (
    "import os, signal\nif os.fork() == 0:\n if os.fork() == 0:\n"
    "  while True: signal.pause()\n os._exit(0)\nos.wait()\n" + LISTEN
)
BUSY_CHILD = (
    "import os, time\nif os.fork() == 0:\n"
    " while time.process_time() < 0.3: pass\n os._exit(0)\nos.wait()\n" + LISTEN
)


def start(program: str, **options: Any) -> AbstractContextManager[process.Server]:
    port = process.free_port()
    return process.running([sys.executable, "-c", program, str(port)], port, **options)


def _alive(stats: list[process.Stat]) -> list[int]:
    now = {stat.pid: stat for root in stats for stat in process.tree(root.pid)}
    return [
        stat.pid
        for stat in stats
        if stat.pid in now
        and now[stat.pid].start_ticks == stat.start_ticks
        and not now[stat.pid].is_dead
    ]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


@pytest.mark.parametrize("program", [LISTEN, STUBBORN, ORPHAN], ids=["plain", "stubborn", "orphan"])
def test_no_process_is_left_behind(program: str) -> None:
    with start(program, termination_timeout_s=0.5) as server:
        processes = process.tree(server.pid)
        assert len(processes) == (1 if program is LISTEN else 2)
    _wait_until(lambda: not _alive(processes))


def test_cpu_time_counts_children_that_have_died() -> None:
    with start(BUSY_CHILD) as server:
        assert len(process.tree(server.pid)) == 1
        assert server.cpu_s() >= 0.29


def test_a_server_that_dies_says_why() -> None:
    failing = start("raise SystemExit('no such application')")
    with pytest.raises(process.ServerFailed, match=r"(?s)code 1.*no such application"):
        failing.__enter__()


def test_a_server_that_never_listens_is_given_up() -> None:
    silent = start("import signal; signal.pause()", startup_timeout_s=0.3)
    with pytest.raises(process.ServerFailed, match="did not listen within"):
        silent.__enter__()


# ---- client.py


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
            b"hello",
        ),
    ],
    ids=["counted", "chunked"],
)
def test_an_answer_is_read_to_its_end(
    wire: tuple[socket.socket, socket.socket], response: bytes, body: bytes
) -> None:
    ours, theirs = wire
    for at in range(len(response)):
        theirs.send(response[at : at + 1])
    assert client.read_answer(ours) == client.Answer(200, body, len(response))


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 5\r\n\r\nhello", "status 500"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhell", "body of 4 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhello", "longer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "closed"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "neither Content-Length nor chunks"),
    ],
)
def test_a_wrong_answer_is_never_measured(
    wire: tuple[socket.socket, socket.socket], response: bytes, why: str
) -> None:
    ours, theirs = wire
    theirs.sendall(response)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(client.WrongAnswer, match=why):
        client.ask(ours, b"GET / HTTP/1.1\r\n\r\n", b"hello")


def test_a_server_that_forgets_pipelined_requests_is_never_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 0.2)
    request = b"GET / HTTP/1.1\r\n\r\n"

    def answer_each_receive_once(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(65536):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer_each_receive_once, args=(listener,))
        server.start()
        with pytest.raises(client.WrongAnswer, match=r"no whole answer within 0\.2 s"):
            client.check(request, b"hello", 16, listener.getsockname()[1])
        server.join()


# ---- memory.py


def test_closed_connections_are_noticed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        pairs = [(client.connect(port), listener.accept()[0]) for _ in range(3)]
        pairs[1][1].close()
        ours = [one for one, _ in pairs]
        _wait_until(lambda: memory.count_closed(ours) > 0)
        assert memory.count_closed(ours) == 1
        for one, other in pairs:
            one.close()
            other.close()


# ---- the reference


@pytest.fixture(scope="session")
def reference_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_program("cc", package="gcc")
    return build.program(tmp_path_factory.mktemp("reference") / "epoll")


@pytest.fixture
def reference(reference_program: Path) -> Iterator[Callable[..., int]]:
    """Start the reference on a port that it chooses and prints; return the port."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: int | str) -> int:
        words = [str(reference_program), "0", *map(str, arguments)]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        started.append(server)
        assert server.stdout is not None
        return int(server.stdout.readline().rpartition(":")[2])

    yield run
    for server in started:
        server.terminate()
        server.communicate()


@pytest.mark.parametrize("source", [build.SOURCE, build.WEBSOCKET_SOURCE], ids=lambda one: one.stem)
def test_c_programs_compile_without_a_warning(tmp_path: Path, source: Path) -> None:
    compiler = require_program("cc", package="gcc")
    words = [compiler, *build.FLAGS, "-Werror", str(source), "-o", str(tmp_path / "program")]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=list(WORKLOADS))
def test_the_reference_answers_every_workload(
    reference: Callable[..., int], workload: Workload
) -> None:
    if "reference" not in workload.interfaces:
        pytest.skip("there is no floor for this workload")
    ending = "close" if workload.closes else "keep-alive"
    port = reference(catalogue.answer_word(workload.answer), len(workload.body), ending)
    workload.check(port)


def test_the_reference_answers_a_request_that_comes_byte_by_byte(
    reference: Callable[..., int],
) -> None:
    with client.connect(reference("hello world\n", 3)) as connection:
        for _ in range(2):
            for byte in b"POST / HTTP/1.1\r\nA: b\r\r\n\r\nxyz":
                connection.send(bytes([byte]))
            answer = client.read_answer(connection)
            assert (answer.status, answer.body) == (200, b"hello world\n")


def test_the_reference_waits_for_slow_readers(reference: Callable[..., int]) -> None:
    workload = WORKLOADS["big"]
    with client.connect(port := reference(len(workload.answer), 0)) as connection:
        answer = client.ask(connection, workload.request(port), workload.answer)
        # Far more than the socket buffers hold, asked for in one write and read late.
        connection.sendall(workload.request(port) * 200)
        received = b""
        while len(received) < 200 * answer.wire_bytes:
            received += client._receive(connection)
        assert received.count(b"HTTP/1.1 200 OK\r\n") == 200
        assert received.count(b"x") >= 200 * len(workload.answer)
        client.ask(connection, workload.request(port), workload.answer)


@pytest.mark.parametrize(
    "arguments", [["x"], ["70000"], ["-1"], ["0", "1", "1k"], ["0"] * 4, ["0"] * 5]
)
def test_the_reference_refuses_what_it_does_not_understand(
    reference_program: Path, arguments: list[str]
) -> None:
    words = [str(reference_program), *arguments]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=10)
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1


# ---- the command


def _benchmarks(*words: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks", *words]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["instructions", "--workloads", "nope"], "no workload is named nope; there are hello,"),
        (["memory", "--servers", "nope"], "no server is named nope; there are reference,"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], why: str) -> None:
    if words[0] == "instructions":
        require_program("valgrind", package="valgrind")
    ran = subprocess.run(
        _benchmarks(*words), capture_output=True, text=True, check=False, cwd=ROOT, timeout=50
    )
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert why in ran.stderr


def _need_wrk_and_two_cores() -> None:
    require_program("wrk", package="wrk")
    require_program("taskset", package="util-linux")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("comparing needs two usable cores")


def test_the_reference_is_measured_from_end_to_end(tmp_path: Path) -> None:
    _need_wrk_and_two_cores()
    file = tmp_path / "out.json"
    quick = ["--rounds", "1", "--seconds", "1", "--warm-up", "0", "--json", str(file)]
    ran = subprocess.run(
        _benchmarks("compare", "--servers", "reference", "--workloads", "echo1k,pipeline", *quick),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=50,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("| reference |") == 2
    workloads = json.loads(file.read_text())["workloads"]
    for name in ("echo1k", "pipeline"):
        (row,) = workloads[name]["rows"]
        assert row["errors"] == 0
        assert row["ratio"] == 1.0
        assert row["requests_per_s"] > 100


def test_a_stopped_run_leaves_no_server(tmp_path: Path) -> None:
    _need_wrk_and_two_cores()
    words = _benchmarks("compare", "--servers", "reference", "--seconds", "30", "--warm-up", "0")
    with (tmp_path / "output").open("w") as output:
        harness = subprocess.Popen(words, cwd=ROOT, stdout=output, stderr=output)
        processes: list[process.Stat] = []
        try:

            def is_loading() -> bool:
                assert harness.poll() is None, (tmp_path / "output").read_text()
                processes[:] = process.tree(harness.pid)
                return {"epoll", "wrk"} <= {_name(stat.pid) for stat in processes}

            _wait_until(is_loading)
        finally:
            harness.send_signal(signal.SIGTERM)
            watchdog = threading.Timer(30, harness.kill)
            watchdog.start()
            code = harness.wait()
            watchdog.cancel()
    left = _alive(processes)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert (code, left) == (128 + signal.SIGTERM, [])


# ---- generators/websocket.c


@pytest.fixture(scope="session")
def websocket_load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_program("cc", package="gcc")
    return build.program(
        tmp_path_factory.mktemp("generators") / "websocket", build.WEBSOCKET_SOURCE
    )


def _load_websockets(program: Path, port: int, message_bytes: int) -> dict[str, int]:
    ran = subprocess.run(
        [str(program), str(port), "3", "1", str(message_bytes)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    figures: dict[str, int] = json.loads(ran.stdout.removeprefix("figures "))
    return figures


@pytest.mark.parametrize("message_bytes", [1, 128, 65535])
def test_websocket_messages_come_back_and_are_counted(
    websocket_load: Path, message_bytes: int
) -> None:
    port = process.free_port()
    words = [sys.executable, "-m", "fastcluster", "serve", "benchmarks.apps:asgi_websocket"]
    words += ["--interface", "asgi", "--workers", "1", "--bind", f"127.0.0.1:{port}"]
    with process.running(words, port, directory=ROOT):
        client.check_websocket(b"x" * min(message_bytes, 200), port)
        figures = _load_websockets(websocket_load, port, message_bytes)
    assert figures["requests"] > 100
    assert figures["received_bytes"] >= figures["requests"] * message_bytes
    assert sum(figures[name] for name in figures if name.endswith("_errors")) == 0


def test_a_server_that_refuses_the_handshake_is_an_error_and_no_answer(
    websocket_load: Path, reference: Callable[..., int]
) -> None:
    figures = _load_websockets(websocket_load, reference(), 128)
    assert (figures["requests"], figures["connect_errors"]) == (0, 3)
