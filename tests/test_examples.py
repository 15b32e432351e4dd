"""Each example of the cluster as a real process: what it prints, and what it serves."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastcluster.cpus import usable_cpus

EXAMPLES = Path(__file__).parent.parent / "examples"
N = usable_cpus()


class Example:
    """A running example and what it has printed so far."""

    def __init__(self, name: str, *args: str) -> None:
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / name), *args],
            stdout=subprocess.PIPE,
            text=True,
            # An unbuffered print writes its newline by itself, and lines of processes mix.
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )

    def until(self, pattern: str, times: int = 1) -> list[str]:
        """Read until the pattern was printed so often; return what it has matched."""
        assert self.process.stdout is not None
        while len(re.findall(pattern, self.text)) < times:
            line = self.process.stdout.readline()
            assert line, self.text
            self.text += line
        return re.findall(pattern, self.text)

    def end(self) -> str:
        out, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        self.text += out
        return self.text


@pytest.fixture
def example() -> Iterator[Callable[..., Example]]:
    started: list[Example] = []

    def start(name: str, *args: str) -> Example:
        started.append(Example(name, *args))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.process.communicate()


def body(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


@pytest.mark.parametrize("name", ["cluster_messages.py", "child_messages.py"])
def test_messages(example: Callable[..., Example], name: str) -> None:
    assert example(name).end().splitlines() == [
        "child got {'hello': 'child'}",
        "parent got {'hello': 'parent'}",
        "child disconnected",
    ]


def test_roles(example: Callable[..., Example]) -> None:
    assert example("cluster_roles.py").end().splitlines() == [
        "primary: is_primary=True is_worker=False",
        "worker: is_primary=False is_worker=True",
    ]


def test_hello_on_all_cores(example: Callable[..., Example]) -> None:
    running = example("cluster_cores.py", "0")
    urls = running.until(r"worker \d+ listens on (\S+)\n", N)
    assert len(set(urls)) == 1
    assert body(urls[0]) == b"hello world"
    running.process.send_signal(signal.SIGTERM)
    running.end()


def test_a_startable_module(example: Callable[..., Example]) -> None:
    running = example("startable.py", "0")
    [url] = running.until(r"serving (\S+)\n")
    assert body(url) == b"hello from a module\n"
    running.process.send_signal(signal.SIGTERM)
    running.end()


def test_the_starter_replaces_a_worker_that_dies(example: Callable[..., Example]) -> None:
    running = example("cluster_starter.py", "0")
    pid, url = running.until(r"(\d+) on (\S+)\n", N)[0]
    assert body(url) == b"hello from a module\n"
    os.kill(int(pid), signal.SIGKILL)
    running.until(r"\d+ on \S+\n", N + 1)
    running.process.send_signal(signal.SIGTERM)
    text = running.end()
    assert f"cluster worker {N + 1} started\n" in text
    assert len(re.findall(r"cluster worker \d+ disconnect\n", text)) == N + 1
    assert len(re.findall(r"cluster worker \d+ died\n", text)) == N + 1


def test_cluster_sticky_remembers_a_visitor(example: Callable[..., Example]) -> None:
    running = example("cluster_sticky.py", "0")
    port = running.until(r"listens on port (\d+)", times=N)[0]
    answers = [
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30).read().decode()
        for _ in range(6)
    ]
    workers = {answer.rpartition(" ")[2] for answer in answers}
    assert len(workers) == 1
    assert [answer.split(",")[0] for answer in answers] == [
        f"visit {n} of 127.0.0.1" for n in range(1, 7)
    ]
    running.process.send_signal(signal.SIGTERM)
    running.end()
