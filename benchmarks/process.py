"""A server's life as processes: started, found listening, weighed, and always ended.

Its law: whatever leaves `running` leaves no process behind, and every process is ended by its
pid, checked against its start time so that a reused pid is never touched. It knows neither
HTTP nor which server it is.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.machine import TICKS_PER_S

STARTUP_TIMEOUT_S = 30.0
TERMINATION_TIMEOUT_S = 10.0
POLL_S = 0.02


class ServerFailed(Exception):
    """The server did not come up, or died; the text has its last lines."""


@dataclass(frozen=True, slots=True)
class Stat:
    """One process as /proc/<pid>/stat has it. `cpu_s` includes the children it has reaped."""

    pid: int
    parent: int
    session: int
    cpu_s: float
    start_ticks: int
    is_dead: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """What a tree of processes holds, in bytes; shared pages are split up in PSS only."""

    rss_bytes: int
    pss_bytes: int


def parse_stat(text: str) -> Stat:
    """Read the text of /proc/<pid>/stat; the name in it may have spaces and parentheses."""
    before, _, after = text.rpartition(")")
    columns = after.split()
    ticks = sum(int(column) for column in columns[11:15])
    return Stat(
        pid=int(before.split("(")[0]),
        parent=int(columns[1]),
        session=int(columns[3]),
        cpu_s=ticks / TICKS_PER_S,
        start_ticks=int(columns[19]),
        is_dead=columns[0] in "ZX",
    )


def tree(root: int) -> list[Stat]:
    """Return the session that this process leads, and all descendants of its members.

    The session keeps hold of a worker whose primary has died, which is nobody's child then.
    """
    stats = [stat for name in os.listdir("/proc") if name.isdigit() and (stat := _stat(int(name)))]
    by_parent: dict[int, list[Stat]] = {}
    for stat in stats:
        by_parent.setdefault(stat.parent, []).append(stat)
    found = {stat.pid: stat for stat in stats if root in (stat.pid, stat.session)}
    unvisited = list(found.values())
    while unvisited:
        for child in by_parent.get(unvisited.pop().pid, ()):
            if child.pid not in found:
                found[child.pid] = child
                unvisited.append(child)
    return list(found.values())


def parse_memory(text: str) -> Memory:
    """Read the text of /proc/<pid>/smaps_rollup."""
    kib = {"Rss": 0, "Pss": 0}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in kib:
            kib[name] = int(value.split()[0])
    return Memory(kib["Rss"] * 1024, kib["Pss"] * 1024)


class Server:
    """A server that runs: the root of its processes and the port it listens on."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, output: IO[bytes]) -> None:
        self._process = process
        self._output = output
        self.port = port

    @property
    def pid(self) -> int:
        """The pid of the process that was started."""
        return self._process.pid

    def cpu_s(self) -> float:
        """Return the CPU time, user and system, of all its processes, dead ones included."""
        return sum(stat.cpu_s for stat in tree(self.pid))

    def memory(self) -> Memory:
        """Return what all its processes hold now."""
        rss_bytes = pss_bytes = 0
        for stat in tree(self.pid):
            try:
                rollup = Path(f"/proc/{stat.pid}/smaps_rollup").read_text()
            except OSError:
                continue
            memory = parse_memory(rollup)
            rss_bytes += memory.rss_bytes
            pss_bytes += memory.pss_bytes
        return Memory(rss_bytes, pss_bytes)

    def last_lines(self, n_lines: int = 8) -> str:
        """Return the end of what it has written to stdout and stderr."""
        self._output.seek(0)
        return "\n".join(self._output.read().decode("utf-8", "replace").splitlines()[-n_lines:])

    def check_alive(self) -> None:
        """Raise ServerFailed if the started process has ended."""
        if self._process.poll() is not None:
            raise ServerFailed(
                f"the server ended with code {self._process.returncode}\n{self.last_lines()}"
            )

    def wait_listening(self, timeout_s: float) -> None:
        """Wait until a connection is taken; raises ServerFailed if it dies or takes too long."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.check_alive()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
                return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"the server did not listen within {timeout_s:g} s\n{self.last_lines()}"
                )
            time.sleep(POLL_S)

    def terminate(self, timeout_s: float) -> None:
        """End it gracefully and wait; what is left of its tree after that is killed."""
        processes = tree(self.pid)
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            processes += tree(self.pid)
            self._process.kill()
            self._process.wait()
        for stat in processes:
            _kill_if_same(stat)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    *,
    environment: Mapping[str, str] | None = None,
    files: Mapping[Path, str] | None = None,
    cores: Collection[int] = (),
    directory: Path | None = None,
    startup_timeout_s: float = STARTUP_TIMEOUT_S,
    termination_timeout_s: float = TERMINATION_TIMEOUT_S,
) -> Iterator[Server]:
    """Start a server, wait until it listens on the port, and end it on the way out.

    `environment` is added to this process's own; `files` are written before and removed
    after; `cores`, if there are any, are all that the server and its children may use. Raises
    ServerFailed with the server's last lines.
    """
    pinned = [*(["taskset", "-c", ",".join(map(str, cores))] if cores else []), *command]
    with _written(files or {}), tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                pinned,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                cwd=directory,
                start_new_session=True,
            )
        except OSError as error:
            raise ServerFailed(f"cannot start {pinned[0]}: {error.strerror}") from error
        server = Server(process, port, output)
        try:
            server.wait_listening(startup_timeout_s)
            yield server
        finally:
            server.terminate(termination_timeout_s)


@contextmanager
def _written(files: Mapping[Path, str]) -> Iterator[None]:
    try:
        for path, text in files.items():
            path.write_text(text)
        yield
    finally:
        for path in files:
            path.unlink(missing_ok=True)


def _stat(pid: int) -> Stat | None:
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
    except (OSError, ProcessLookupError):
        return None


def _kill_if_same(remembered: Stat) -> None:
    now = _stat(remembered.pid)
    if now is None or now.is_dead or now.start_ticks != remembered.start_ticks:
        return
    try:
        os.kill(remembered.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
