"""Real clusters of real processes, started by the command and ended by signals.

Every wait is for an event, a line of the log, the end of a process, bytes of a client, and
is bounded.  What a test starts it ends by pid.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

APPS = Path(__file__).parent / "apps"
DEADLINE_S = 30.0

READY = r"worker (\d+) \(pid (\d+)\) is ready"


class Cluster:
    """A running `fastcluster serve`, its log so far, and its workers' pids."""

    def __init__(
        self, *options: str, app: str = "proc_app:app", command: str = "serve", **env: str
    ) -> None:
        self.output = ""
        served = [app, "--app-dir", str(APPS)] if command == "serve" else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fastcluster", command, *served, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            start_new_session=True,
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._pidfds: dict[int, int] = {}

    # ---- what it says

    def expect(self, pattern: str, count: int = 1) -> list[re.Match[str]]:
        """Wait until the log has so many lines with the pattern; return the matches."""
        deadline = time.monotonic() + DEADLINE_S
        while len(found := self.said(pattern)) < count:
            if not self._read_more(deadline):
                raise AssertionError(f"{pattern!r} never came, but:\n{self.output}")
        return found

    def said(self, pattern: str) -> list[re.Match[str]]:
        return list(re.finditer(pattern, self.output))

    def _read_more(self, deadline: float) -> bool:
        """Wait for output; False at its end, or when the time is over."""
        if not select.select([self._pipe], [], [], max(0, deadline - time.monotonic()))[0]:
            return False
        data = os.read(self._pipe, 65536)
        self.output += data.decode(errors="replace")
        return bool(data)

    def exit_code(self) -> int:
        """Wait until the primary and all that share its output are gone."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read_more(deadline):
            pass
        return self._process.wait(max(0.1, deadline - time.monotonic()))

    # ---- its processes

    def ready(self, count: int) -> list[int]:
        """Wait until so many workers have become ready; return their pids."""
        pids = [int(match[2]) for match in self.expect(READY, count)]
        for pid in pids:
            self._remember(pid)
        return pids

    def _remember(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if pid not in self._pidfds and os.getsid(pid) == self.pid:
                self._pidfds[pid] = os.pidfd_open(pid)

    def kill(self, pid: int, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._pidfds[pid], number)

    def signal(self, number: signal.Signals) -> None:
        """Signal the primary."""
        self._process.send_signal(number)

    def insist(self, number: signal.Signals, pattern: str) -> None:
        """Signal the primary again and again, until its log has the pattern.

        The same signal within a tenth of a second is the same wish to it.
        """
        deadline = time.monotonic() + DEADLINE_S
        while not self.said(pattern):
            assert time.monotonic() < deadline, f"{pattern!r} never came, but:\n{self.output}"
            self.signal(number)
            self._read_more(time.monotonic() + 0.02)

    def wait_gone(self, pid: int) -> None:
        gone, _, _ = select.select([self._pidfds[pid]], [], [], DEADLINE_S)
        assert gone, f"process {pid} is still there:\n{self.output}"

    def is_alive(self, pid: int) -> bool:
        return not select.select([self._pidfds[pid]], [], [], 0)[0]

    def hear_all(self) -> None:
        """Read what has been said so far."""
        with contextlib.suppress(OSError):
            while self._read_more(0):
                pass

    def end(self) -> None:
        """Whatever has become of it: none of its processes is left."""
        self._process.kill()
        self._process.wait()
        self.hear_all()
        for match in self.said(READY):
            self._remember(int(match[2]))
        for pidfd in self._pidfds.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], DEADLINE_S)
            os.close(pidfd)
        assert self._process.stdout is not None
        self._process.stdout.close()

    # ---- its clients

    @property
    def port(self) -> int:
        return int(self.expect(r"listening on http://127\.0\.0\.1:(\d+)")[0][1])

    def get(self, target: str = "/") -> str:
        """Return the body of a response on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request("GET", target, headers={"Connection": "close"})
            response = connection.getresponse()
            assert response.status == 200
            return response.read().decode()
        finally:
            connection.close()


class Held:
    """A request that the application does not answer before the test wants it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._folder = folder
        os.mkfifo(folder / "arrived")
        os.mkfifo(folder / "answer")
        self._client = socket.create_connection(("127.0.0.1", cluster.port), DEADLINE_S)
        self._client.sendall(f"GET /held?{folder} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        self.worker = int((folder / "arrived").read_text())

    def answer(self) -> None:
        (self._folder / "answer").write_text("at last")

    def response(self) -> bytes:
        """Return all that the client receives until the connection is closed."""
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := self._client.recv(65536):
                received += data
        self._client.close()
        return received


Start = Callable[..., Cluster]


@pytest.fixture
def start() -> Iterator[Start]:
    clusters: list[Cluster] = []

    def and_remember(*options: str, **more: str) -> Cluster:
        if "--bind" not in options:
            options = (*options, "--bind", "127.0.0.1:0")
        clusters.append(Cluster(*options, **more))
        return clusters[-1]

    yield and_remember
    for cluster in clusters:
        cluster.end()


def is_whole(response: bytes) -> bool:
    head, _, body = response.partition(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200 ") and body == b"at last"


def says_close(response: bytes) -> bool:
    return b"\r\nconnection: close\r\n" in response.lower()


# ---- coming up


def test_it_comes_up_and_says_where(start: Start) -> None:
    cluster = start("--workers", "2")
    pids = cluster.ready(2)
    assert len(set(pids)) == 2
    assert len(cluster.said("listening on")) == 1
    assert cluster.said(rf"primary {cluster.pid}, 2 workers, application proc_app:app")
    assert int(cluster.get()) in pids


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        ("proc_broken:app", "did not come up: .*ZeroDivisionError: broken on purpose"),
        ("no_such_module:app", "there is no module 'no_such_module'"),
        ("proc_app:no_such_name", "did not come up: .*has no 'no_such_name'"),
        ("proc_segfault:app", "did not come up: was killed by SIGSEGV"),
    ],
)
def test_an_application_that_does_not_load_is_code_3(start: Start, app: str, reason: str) -> None:
    cluster = start("--workers", "3", app=app)
    assert cluster.exit_code() == 3
    assert len(cluster.said(reason)) == 1
    assert len(cluster.said("did not come up")) <= 1
    assert not cluster.said("listening on")


def test_the_traceback_is_the_applications_alone(start: Start) -> None:
    cluster = start("--workers", "2", app="proc_broken:app")
    assert cluster.exit_code() == 3
    assert len(cluster.said("Traceback")) == 1
    files = {Path(match[1]).name for match in cluster.said(r'File "([^"]*)"')}
    assert files == {"proc_broken.py"}


@pytest.mark.parametrize("app", ["no_such_module:app", "proc_app:no_such_name"])
def test_a_mistake_of_the_user_has_no_traceback(start: Start, app: str) -> None:
    cluster = start("--workers", "1", app=app)
    assert cluster.exit_code() == 3
    assert not cluster.said("Traceback")


def test_a_port_in_use_is_code_4(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cluster = start("--bind", f"127.0.0.1:{port}")
        assert cluster.exit_code() == 4
    assert cluster.said(rf"{port}.* in use")
    assert not cluster.said("Traceback")


def test_an_application_that_loads_too_long_is_code_3(start: Start, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "arrived")
    cluster = start(
        *("--workers", "1", "--timeout-startup", "0.2"),
        app="proc_slow_import:app",
        PROC_FOLDER=str(tmp_path),
    )
    assert cluster.exit_code() == 3
    assert cluster.said(r"did not load within 0\.2 s")


def test_stop_while_the_application_loads(start: Start, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "arrived")
    os.mkfifo(tmp_path / "answer")
    cluster = start("--workers", "1", app="proc_slow_import:app", PROC_FOLDER=str(tmp_path))
    (tmp_path / "arrived").read_text()
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert not cluster.said("killed")
    assert not cluster.said("Traceback")


@pytest.mark.parametrize("attempt", range(3))
def test_stop_while_the_workers_are_forked(start: Start, attempt: int) -> None:
    cluster = start("--workers", "4")
    cluster.expect(f"primary {cluster.pid}, 4 workers")
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert not cluster.said("Traceback"), cluster.output
    assert not cluster.said("killed"), cluster.output


# ---- stopping


@pytest.mark.parametrize("threads", ["0", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_graceful_stop_finishes_what_runs(
    start: Start, tmp_path: Path, number: signal.Signals, threads: str
) -> None:
    cluster = start("--workers", "2", "--threads", threads)
    pids = cluster.ready(2)
    held = Held(cluster, tmp_path)
    cluster.signal(number)
    cluster.expect("has drained and left", 1)
    assert cluster.is_alive(held.worker)
    held.answer()
    response = held.response()
    assert is_whole(response)
    # A loop that was busy with the answer could not know of the stop.
    assert says_close(response) or threads == "0"
    assert cluster.exit_code() == 0
    assert len(cluster.said("has drained and left")) == 2
    for pid in pids:
        cluster.wait_gone(pid)


def test_ctrl_c_in_a_terminal_goes_to_the_whole_group(start: Start, tmp_path: Path) -> None:
    cluster = start("--workers", "2")
    cluster.ready(2)
    held = Held(cluster, tmp_path)
    os.killpg(cluster.pid, signal.SIGINT)
    cluster.expect("has drained and left", 1)
    held.answer()
    assert is_whole(held.response())
    assert cluster.exit_code() == 0
    assert not cluster.said("Traceback")
    assert not cluster.said("KeyboardInterrupt")


def test_sigterm_to_all_processes_at_once_is_one_stop(start: Start, tmp_path: Path) -> None:
    # As systemd does it.
    cluster = start("--workers", "2", "--threads", "1")
    cluster.ready(2)
    held = Held(cluster, tmp_path)
    os.killpg(cluster.pid, signal.SIGTERM)
    cluster.expect("stopping", 1)
    held.answer()
    assert is_whole(held.response())
    assert cluster.exit_code() == 0


@pytest.mark.parametrize("threads", ["0", "1"])
def test_a_second_signal_stops_at_once(start: Start, tmp_path: Path, threads: str) -> None:
    cluster = start("--workers", "2", "--threads", threads)
    pids = cluster.ready(2)
    held = Held(cluster, tmp_path)
    cluster.signal(signal.SIGTERM)
    cluster.expect("stopping: ")
    cluster.insist(signal.SIGTERM, "stopping at once")
    assert cluster.exit_code() == 0
    for pid in pids:
        cluster.wait_gone(pid)
    assert held.response() == b""


@pytest.mark.parametrize("threads", ["0", "1"])
def test_grace_is_finite(start: Start, tmp_path: Path, threads: str) -> None:
    cluster = start("--workers", "1", "--threads", threads, "--graceful-timeout", "0.3")
    cluster.ready(1)
    held = Held(cluster, tmp_path)
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert cluster.said(r"did not finish within 0\.3 s.*killed with 1 connection open")
    assert held.response() == b""


def test_sigquit_stops_at_once(start: Start, tmp_path: Path) -> None:
    cluster = start("--workers", "2")
    cluster.ready(2)
    Held(cluster, tmp_path)
    cluster.signal(signal.SIGQUIT)
    assert cluster.exit_code() == 0


def test_after_a_stop_new_clients_are_refused(start: Start, tmp_path: Path) -> None:
    cluster = start("--workers", "1", "--threads", "1")
    cluster.ready(1)
    port = cluster.port
    held = Held(cluster, tmp_path)
    cluster.signal(signal.SIGTERM)
    deadline = time.monotonic() + DEADLINE_S
    while can_connect(port):
        assert time.monotonic() < deadline, "the port is still open"
    held.answer()
    assert is_whole(held.response())
    assert cluster.exit_code() == 0


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), DEADLINE_S).close()
    except ConnectionError:
        return False
    return True


# ---- dying


def test_a_killed_worker_is_replaced(start: Start) -> None:
    cluster = start("--workers", "2")
    first, second = cluster.ready(2)
    cluster.kill(first, signal.SIGKILL)
    cluster.expect(rf"\(pid {first}\) was killed by SIGKILL")
    *_, third = cluster.ready(3)
    assert third not in (first, second)
    cluster.kill(second, signal.SIGKILL)
    fourth = cluster.ready(4)[3]
    assert int(cluster.get()) in (third, fourth)


def test_a_worker_that_crashes_in_a_request_is_named(start: Start) -> None:
    cluster = start("--workers", "1")
    [pid] = cluster.ready(1)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        cluster.get("/segfault")
    cluster.expect(rf"\(pid {pid}\) was killed by SIGSEGV \(a crash in native code")
    cluster.ready(2)
    assert cluster.get()


def test_clients_wait_while_there_is_no_worker(start: Start) -> None:
    cluster = start("--workers", "1")
    [pid] = cluster.ready(1)
    port = cluster.port
    cluster.kill(pid, signal.SIGKILL)
    cluster.wait_gone(pid)
    # Nobody accepts now, but the primary holds the listener open.
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_connections_on_the_way_to_a_worker_survive_it(start: Start) -> None:
    cluster = start("--workers", "2")
    victim, heir = cluster.ready(2)
    wait_asleep(victim)
    cluster.kill(victim, signal.SIGSTOP)
    # The first may wake the stopped worker alone; the other accepts them all then, and
    # hands some over to the one that looks as if it waited.
    clients = [send_request(cluster.port) for _ in range(4)]
    assert select.select(clients, [], [], DEADLINE_S)[0]
    cluster.kill(victim, signal.SIGKILL)
    for client in clients:
        assert client.recv(65536).endswith(str(heir).encode())
        client.close()
    cluster.expect("handed on that waited for a worker that is gone")


def send_request(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
    client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    return client


def wait_asleep(pid: int) -> None:
    """Wait until a process waits in the kernel."""
    deadline = time.monotonic() + DEADLINE_S
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < deadline, f"process {pid} never waits"


@pytest.mark.parametrize("threads", ["0", "1"])
def test_workers_of_a_killed_primary_drain_and_leave(
    start: Start, tmp_path: Path, threads: str
) -> None:
    cluster = start("--workers", "3", "--threads", threads)
    pids = cluster.ready(3)
    held = Held(cluster, tmp_path)
    cluster.signal(signal.SIGKILL)
    for pid in pids:
        if pid != held.worker:
            cluster.wait_gone(pid)
    held.answer()
    assert is_whole(held.response())
    cluster.wait_gone(held.worker)
    cluster.expect("the primary is dead: draining", 3)


@pytest.mark.parametrize("threads", ["1"])
def test_an_orphans_grace_is_finite(start: Start, tmp_path: Path, threads: str) -> None:
    cluster = start("--workers", "1", "--threads", threads, "--graceful-timeout", "0.3")
    [pid] = cluster.ready(1)
    held = Held(cluster, tmp_path)
    cluster.signal(signal.SIGKILL)
    cluster.wait_gone(pid)
    assert not is_whole(held.response())


def test_a_flapping_worker_backs_off(start: Start) -> None:
    cluster = start("--workers", "2")
    victim, healthy = cluster.ready(2)
    for death in range(1, 5):
        cluster.kill(victim, signal.SIGKILL)
        victim = cluster.ready(2 + death)[-1]
    waits = [match[1] for match in cluster.said(r"times in a row; next try in ([\d.]+) s")]
    assert waits == ["0.2", "0.4", "0.8"]
    assert cluster.is_alive(healthy)


def test_a_successor_that_does_not_load_leaves_the_others_alone(
    start: Start, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    cluster = start("--workers", "2", PROC_BROKEN=str(broken))
    victim, healthy = cluster.ready(2)
    broken.write_text("broken by a deploy")
    cluster.kill(victim, signal.SIGKILL)
    cluster.expect("failed 3 times in a row")
    assert len(cluster.said("did not come up: .*RuntimeError: broken by a deploy")) == 1
    assert int(cluster.get()) == healthy
    broken.unlink()
    *_, mended = cluster.ready(3)
    assert mended not in (victim, healthy)
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0


# ---- retiring


def test_sigterm_to_a_worker_drains_and_replaces_it(start: Start, tmp_path: Path) -> None:
    cluster = start("--workers", "2", "--threads", "1")
    cluster.ready(2)
    held = Held(cluster, tmp_path)
    cluster.kill(held.worker, signal.SIGTERM)
    cluster.expect(rf"\(pid {held.worker}\) was told to stop by a signal")
    cluster.ready(3)
    assert cluster.is_alive(held.worker)
    held.answer()
    assert is_whole(held.response())
    cluster.expect(rf"\(pid {held.worker}\) has drained and left")
    assert cluster.get()


def test_a_reload_replaces_all_and_refuses_nobody(start: Start) -> None:
    cluster = start("--workers", "2")
    old = cluster.ready(2)
    port = cluster.port
    cluster.signal(signal.SIGHUP)
    while not cluster.said("reload: done"):
        assert can_connect(port)
        assert cluster.get()
        cluster._read_more(0)
    for pid in old:
        cluster.wait_gone(pid)
    new = cluster.ready(4)[2:]
    assert int(cluster.get()) in new
    assert sorted(match[1] for match in cluster.said(READY)) == ["0", "0", "1", "1"]


def test_a_reload_with_broken_code_leaves_the_old(start: Start, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    cluster = start("--workers", "2", PROC_BROKEN=str(broken))
    old = cluster.ready(2)
    broken.write_text("broken by a deploy")
    cluster.signal(signal.SIGHUP)
    cluster.expect("reload: given up")
    assert len(cluster.said("did not come up: .*RuntimeError: broken by a deploy")) == 1
    assert int(cluster.get()) in old
    assert all(cluster.is_alive(pid) for pid in old)


# ---- what applications do


def test_a_process_that_the_application_forks_has_signals_of_its_own(start: Start) -> None:
    cluster = start("--workers", "1")
    [pid] = cluster.ready(1)
    assert int(cluster.get("/fork")) == -signal.SIGTERM
    assert int(cluster.get()) == pid


def test_an_application_that_calls_sys_exit_ends_no_worker(start: Start) -> None:
    cluster = start("--workers", "1")
    [pid] = cluster.ready(1)
    with contextlib.suppress(AssertionError, http.client.HTTPException):
        cluster.get("/sys-exit")
    assert int(cluster.get()) == pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_worker_does_not_mind_signals_for_the_primary(
    start: Start, number: signal.Signals
) -> None:
    cluster = start("--workers", "1")
    [pid] = cluster.ready(1)
    cluster.kill(pid, number)
    assert int(cluster.get()) == pid
