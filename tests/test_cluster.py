"""The face: names in primary and worker, settings, refusals, and the example."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_parts import ran

from fastcluster import cluster

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_names_of_the_primary_say_so_in_a_worker(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        say(cluster.is_primary, cluster.is_master, cluster.is_worker, cluster.worker is None)
        if cluster.is_primary:
            cluster.fork()
        else:
            for use in (cluster.fork, cluster.setup_primary, cluster.disconnect,
                        lambda: cluster.workers, lambda: cluster.settings):
                try:
                    use()
                except RuntimeError as error:
                    say(str(error)[-34:])
        cluster.run()
        """,
    )
    assert said[:2] == [[True, True, False, True], [False, False, True, False]]
    assert said[2:] == [["is for the primary, and this is worker 1"[-34:]]] * 5


def test_settings_add_up_and_reach_workers(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            say(dict(cluster.settings))
            cluster.setup_primary(args=["a", "b"])
            cluster.setup_primary(cwd="/")
            say(dict(cluster.settings))
            cluster.fork({"MINE": "yes"})
        else:
            say(sys.argv[1:], os.getcwd(), os.environ["MINE"], "PATH" in os.environ)
        cluster.run()
        """,
    )
    assert said == [
        [{}],
        [
            {
                "args": ["a", "b"],
                "cwd": "/",
                "distribute": None,
                "exec": None,
                "gid": None,
                "serialization": "json",
                "silent": False,
                "stdio": None,
                "uid": None,
            }
        ],
        [["a", "b"], "/", "yes", True],
    ]


def test_a_setting_that_there_is_not_is_refused() -> None:
    with pytest.raises(TypeError, match="no setting colour: there are args"):
        cluster.setup_primary(colour="red")


def test_forking_while_threads_run_is_refused(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        import threading
        stop = threading.Event()
        threading.Thread(target=stop.wait, name="mine").start()
        try:
            cluster.fork()
        except RuntimeError as error:
            say(str(error))
        stop.set()
        """,
    )
    assert "other threads run (mine)" in said[0][0]


def test_workers_draw_different_random_numbers(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        import random
        if cluster.is_primary:
            random.seed(1)
            cluster.fork(), cluster.fork()
        else:
            say(random.random())
        cluster.run()
        """,
    )
    assert len(said) == 2 and said[0] != said[1]


def test_a_worker_lost_without_any_program_is_no_riddle() -> None:
    code = "from fastcluster import cluster; cluster.fork()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "put it into a file and start that" in done.stderr


@pytest.mark.parametrize("command", [[], ["-m", "fastcluster", "run"]], ids=["python", "run"])
def test_the_cluster_hello_prints_and_serves(command: list[str]) -> None:
    import urllib.request

    words = [sys.executable, *command, str(EXAMPLES / "cluster_hello.py"), "0"]
    # An unbuffered print writes its newline by itself, and lines of two processes mix.
    env = {**os.environ, "PYTHONUNBUFFERED": ""}
    program = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert program.stdout is not None
        lines: list[str] = []
        n = cluster.cpu_count()
        while sum("listens on" in line for line in lines) < n:
            lines.append(program.stdout.readline())
            assert lines[-1], lines
        assert lines[:2] == [f"{n} CPUs\n", f"Master process id is {program.pid}\n"]
        found = re.findall(r"(\d+) listens on (127.0.0.1:\d+)", "".join(lines))
        assert len({address for _, address in found}) == 1
        for pid, _ in found:
            assert f"Worker started, process id: {pid}\n" in lines
        with urllib.request.urlopen(f"http://{found[0][1]}/", timeout=10) as answer:
            assert (answer.status, answer.read()) == (200, b"hello world\n")
        program.send_signal(signal.SIGTERM)
        rest = program.communicate(timeout=30)[0]
    finally:
        program.kill()
        program.communicate()
    assert program.returncode == 0
    assert sorted(rest.split("\n"))[1:] == [f"worker process {i} died" for i in range(1, n + 1)]
