"""What a reload takes over of a new configuration, and what it says of the rest."""

import os
import signal
from pathlib import Path

import pytest
from test_processes import Start, start

from fastcluster.config import Config
from fastcluster.reconfiguration import FIXED, adopt

__all__ = ["start"]


def test_what_the_workers_live_by_is_new() -> None:
    old = Config(app="a:app", workers=2, threads=0)
    new = Config(app="b:app", workers=3, threads=8, timeout_body_s=0.5, access_log=True)
    adopted, changes, stays = adopt(old, new)
    assert (adopted.app, adopted.workers, adopted.threads) == ("b:app", 3, 8)
    assert changes == [
        "--app from a:app to b:app",
        "--workers from 2 to 3",
        "--threads from 0 to 8",
        "--timeout-body from 60 to 0.5",
        "--access-log from none to on",
    ]
    assert stays == []


def test_what_was_opened_at_the_start_stays() -> None:
    old = Config(workers=2, bind=("a:1",), log_file="x.log")
    new = Config(workers=2, bind=("b:2",), user="www", log_file="y.log", max_workers=50)
    adopted, changes, stays = adopt(old, new)
    assert stays == ["--bind", "--max-workers", "--user", "--log-file"]
    assert changes == []
    for name in set(FIXED) - {"max_workers"}:
        assert getattr(adopted, name) == getattr(old, name)


def test_no_more_workers_than_the_scoreboard_has_room_for() -> None:
    old = Config(workers=2, max_workers=4)
    adopted, changes, stays = adopt(old, Config(workers=9))
    assert (adopted.workers, adopted.most_workers) == (4, 4)
    assert stays == ["--workers above 4"]
    assert changes == ["--workers from 2 to 4"]


def test_the_most_that_follows_from_the_first_workers_stays_silently() -> None:
    old = Config(workers=2)
    adopted, _, stays = adopt(old, Config(workers=3))
    assert adopted.most_workers == old.most_workers
    assert stays == []
    again, changes, stays = adopt(adopted, Config(workers=3))
    assert (again, changes, stays) == (adopted, [], [])


# ---- a real server

APP = """
import os
def app(request):
    return f"{{os.environ.get('FC_WORD')}} {{os.environ.get('FASTCLUSTER_THREADS')}} {answer}"
"""


def release(folder: Path, name: str, answer: str, threads: int, word: str) -> None:
    (folder / name).mkdir()
    (folder / name / "release_app.py").write_text(APP.format(answer=answer))
    (folder / name / "my.env").write_text(f"FC_WORD={word}\n")
    (folder / name / "fastcluster.toml").write_text(
        f'threads = {threads}\nenv-file = "my.env"\nworkers = 1\n'
    )


def test_a_reload_serves_the_release_that_is_current(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(tmp_path, "r1", "first", 0, "one")
    release(tmp_path, "r2", "second", 2, "two")
    current = tmp_path / "current"
    current.symlink_to("r1")
    monkeypatch.chdir(current)
    cluster = start("--app-dir", ".", app="release_app:app", PWD=str(current))
    cluster.ready(1)
    assert cluster.get() == "one None first"

    (tmp_path / "next").symlink_to("r2")
    os.replace(tmp_path / "next", current)
    cluster.signal(signal.SIGHUP)
    cluster.expect("reload: --threads from 0 to 2")
    cluster.expect("reload: done")
    assert cluster.get() == "two None second"

    # Broken from here on: nothing changes, and it is said why.
    (tmp_path / "r2" / "fastcluster.toml").write_text("threds = 2\n")
    cluster.signal(signal.SIGHUP)
    cluster.expect("all stays: fastcluster.toml has 'threds', which is no option: did you mean")
    assert cluster.get() == "two None second"

    (tmp_path / "r2" / "fastcluster.toml").write_text("workers = 2\nthreads = 2\nuser = 'root'\n")
    cluster.signal(signal.SIGHUP)
    cluster.expect("reload: --user cannot change while the server runs: start it again")
    cluster.expect("reload: .*--workers from 1 to 2")
    cluster.expect("reload: done", 2)
    assert cluster.get() == "None None second"
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
