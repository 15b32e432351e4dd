"""The zygotes as the primary sees them, with channels and no processes."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import signal

import pytest

from fastcluster.channel import Channel, pair
from fastcluster.child_process import Child
from fastcluster.nursery import Nursery

TIMEOUT_S = 60.0
KILLED = int(signal.SIGKILL)


class Stage:
    """A nursery whose zygotes are the other ends of channels."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.killed: list[int] = []
        self.ends: dict[int, Channel] = {}
        self.told: list[str | None] = []
        self.no_fork = False
        self._pids = itertools.count(1000)
        log = logging.getLogger("fastcluster.test_nursery")
        self.nursery = Nursery(
            self._start,
            lambda pid, number: self.killed.append(pid),
            TIMEOUT_S,
            log,
            lambda: self.now_s,
        )

    def _start(self) -> Child:
        if self.no_fork:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        ours, theirs = pair()
        pid = next(self._pids)
        self.ends[pid] = theirs
        return Child(pid, ours)

    def begin(self) -> int:
        self.nursery.begin(self.told.append)
        return max(self.ends)

    def loads(self, pid: int, *threads: str) -> None:
        self.ends[pid].send({"loaded": {"threads": list(threads)}})
        self.nursery.happened()

    def loaded(self) -> int:
        pid = self.begin()
        self.loads(pid)
        return pid


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_workers_can_be_forked_once_it_is_loaded(stage: Stage) -> None:
    pid = stage.begin()
    assert not stage.nursery.is_ready
    assert stage.nursery.next_deadline() == stage.now_s + TIMEOUT_S
    with pytest.raises(OSError, match="not loaded"):
        stage.nursery.spawn(0, 0, 1)
    stage.loads(pid)
    assert (stage.told, stage.nursery.is_ready) == ([None], True)
    assert stage.nursery.next_deadline() is None
    assert stage.nursery.interests() == {}


def test_a_worker_is_forked_with_its_end_of_a_channel(stage: Stage) -> None:
    zygote = stage.loaded()
    stage.ends[zygote].send({"forked": {"pid": 77}})  # the answer waits already
    child = stage.nursery.spawn(3, 5, 7)
    assert child.pid == 77
    [(message, [fd])] = stage.ends[zygote].receive()
    assert message == {"fork": {"number": 3, "slot": 5, "generation": 7}}
    os.write(fd, b"")
    os.close(fd)
    assert child.channel.receive() == []
    assert child.channel.eof  # no copy of the other end stayed here


def test_a_fork_that_fails_is_an_error_of_the_system(stage: Stage) -> None:
    zygote = stage.loaded()
    stage.ends[zygote].send({"not forked": {"errno": errno.EAGAIN}})
    with pytest.raises(BlockingIOError):
        stage.nursery.spawn(0, 0, 1)
    stage.ends[zygote].close()
    with pytest.raises(OSError, match="dead"):
        stage.nursery.spawn(0, 0, 1)


def test_the_one_before_is_kept_until_it_is_decided(stage: Stage) -> None:
    first = stage.loaded()
    second = stage.loaded()
    assert stage.killed == []
    stage.nursery.revert()
    assert stage.killed == [second]
    third = stage.loaded()
    stage.nursery.keep()
    assert stage.killed == [second, first]
    stage.nursery.revert()  # there is nothing to go back to
    assert stage.killed == [second, first]
    stage.nursery.close()
    assert stage.killed == [second, first, third]
    assert not stage.nursery.is_ready


def test_one_that_comes_up_gives_way(stage: Stage) -> None:
    stage.loaded()
    second = stage.begin()
    third = stage.begin()
    assert stage.killed == [second]
    assert not stage.nursery.died(second, KILLED)  # nobody's any more
    stage.loads(third)
    assert stage.told == [None, None]


def test_why_it_does_not_load(stage: Stage) -> None:
    pid = stage.begin()
    stage.ends[pid].send({"failed": "ValueError: broken"})
    stage.nursery.happened()
    assert stage.told == []
    assert stage.nursery.died(pid, 3 << 8)
    assert stage.nursery.died(stage.begin(), KILLED)
    stage.begin()
    stage.now_s += TIMEOUT_S
    stage.nursery.settle()
    stage.no_fork = True
    stage.nursery.begin(stage.told.append)
    first, second, third, fourth = stage.told
    assert first == "ValueError: broken"
    assert second is not None
    assert second.startswith("was killed by SIGKILL")
    assert third == "the application did not load within 60 s (--timeout-startup)"
    assert fourth == "cannot start a zygote: Resource temporarily unavailable"


def test_its_last_word_is_heard_though_its_death_is_told_first(stage: Stage) -> None:
    pid = stage.begin()
    stage.ends[pid].send({"failed": "ImportError: no"})
    assert stage.nursery.died(pid, 3 << 8)
    assert stage.told == ["ImportError: no"]


def test_one_that_dies_is_followed_with_a_growing_pause(stage: Stage) -> None:
    first = stage.loaded()
    assert stage.nursery.died(first, KILLED)
    assert not stage.nursery.is_ready
    pauses = []
    for _ in range(3):
        due_s = stage.nursery.next_deadline()
        assert due_s is not None
        pauses.append(round(due_s - stage.now_s, 1))
        stage.now_s = due_s
        stage.nursery.settle()
        stage.nursery.died(max(stage.ends), 3 << 8)
    assert pauses == [0.1, 0.2, 0.4]
    stage.now_s += 60
    stage.nursery.settle()
    stage.loads(max(stage.ends))
    assert stage.nursery.is_ready
    assert stage.told == [None]  # whoever began the first has nothing to do with it


def test_log_files_are_handed_on(stage: Stage) -> None:
    pid = stage.loaded()
    stage.nursery.reopen(["error"], [2])
    [(message, [fd])] = stage.ends[pid].receive()
    assert message == {"reopen": ["error"]}
    os.close(fd)


def test_threads_are_named(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.loads(stage.begin(), "poller", "2 of native code")
    assert "(poller, 2 of native code)" in caplog.text
