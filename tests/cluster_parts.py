"""Cluster programs as real processes: written to a folder, started, heard line by line.

Each line that a program prints is JSON, so that tests compare values.  A program that
does not end is killed with the test, by its pid.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

HEAD = """
import json, os, signal, socket, sys, time
from fastcluster import cluster, http

def say(*words):
    sys.stdout.write(json.dumps(words) + "\\n")
    sys.stdout.flush()

def get(port, host="127.0.0.1"):
    with socket.create_connection((host, port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n")
        answer = b""
        while data := client.recv(65536):
            answer += data
    return answer.partition(b"\\r\\n\\r\\n")[2].decode()
"""


class Program:
    """A running program; `say` is its way to tell something."""

    def __init__(self, folder: Path, text: str, *args: str, command: str = "python") -> None:
        script = folder / "program.py"
        script.write_text(HEAD + textwrap.dedent(text))
        words = {
            "python": [str(script)],
            "module": ["-m", "program"],
            "run": ["-m", "fastcluster", "run", str(script)],
        }[command]
        self.process = subprocess.Popen(
            [sys.executable, *words, *args],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )

    def line(self) -> Any:
        """Return the next thing it says."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        assert text, self.process.communicate()[1].decode()
        return json.loads(text)

    def end(self, code: int = 0, timeout_s: float = 50) -> list[Any]:
        """Wait for its end, and return all that it has said since."""
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.err = err.decode()
        assert self.process.returncode == code, self.err
        return [json.loads(line) for line in out.splitlines()]


def ran(
    folder: Path,
    text: str,
    *args: str,
    code: int = 0,
    command: str = "python",
    timeout_s: float = 50,
) -> list[Any]:
    """Run a program to its end and return what it said."""
    return Program(folder, text, *args, command=command).end(code, timeout_s)


def is_gone(pid: int) -> bool:
    """Tell whether there is no such process, or only its corpse that waits for init."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


__all__ = ["HEAD", "Program", "is_gone", "ran", "signal"]
