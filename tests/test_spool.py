"""A request body as a file: against io.BytesIO, in memory and on disk, whole and while it comes."""

import io
import os
import resource
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcluster.spool import LiveSpool, Spool


def spool_of(*pieces: bytes, memory_bytes: int = 1 << 20) -> Spool:
    spool = Spool(memory_bytes)
    for piece in pieces:
        spool.feed_data(piece)
    spool.feed_end()
    return spool


def live_of(*pieces: bytes) -> LiveSpool:
    live = LiveSpool(lambda: None)
    for piece in pieces:
        live.feed_data(piece)
    live.feed_end()
    return live


def on_disk(*pieces: bytes) -> Spool:
    return spool_of(*pieces, memory_bytes=3)


KINDS = pytest.mark.parametrize("kind", [spool_of, on_disk, live_of])

CALLS = st.one_of(
    st.tuples(st.just("read"), st.integers(-1, 9)),
    st.tuples(st.just("readline"), st.integers(-1, 9)),
    st.tuples(st.just("readlines"), st.integers(-1, 9)),
    st.tuples(st.just("readinto"), st.integers(0, 9)),
)
BODIES = st.lists(st.lists(st.sampled_from([b"a", b"b", b"\n"]), max_size=12).map(b"".join))


@KINDS
@settings(max_examples=200, deadline=None)
@given(pieces=BODIES, calls=st.lists(CALLS, max_size=12))
def test_reads_as_a_file_does(kind, pieces, calls):
    ours, theirs = kind(*pieces), io.BytesIO(b"".join(pieces))
    for name, size in calls:
        if name == "readinto":
            buffers = bytearray(size), bytearray(size)
            assert ours.readinto(buffers[0]) == theirs.readinto(buffers[1])
            assert buffers[0] == buffers[1]
        else:
            assert getattr(ours, name)(size) == getattr(theirs, name)(size)
    assert list(ours) == list(theirs)
    assert ours.read() == b""
    assert ours.read(5) == b""
    assert ours.readline() == b""


@KINDS
def test_ends_by_itself(kind):
    spool = kind(b"hello ", b"world")
    assert spool.read(1000) == b"hello world"
    assert spool.read() == spool.read(1) == spool.read1() == spool.readline() == b""
    assert spool.readlines() == []


@KINDS
def test_takes_none_for_all(kind):
    assert kind(b"a\nb\nc").read(None) == b"a\nb\nc"
    assert kind(b"a\nb\nc").readline(None) == b"a\n"
    assert kind(b"a\nb\nc").readlines(None) == [b"a\n", b"b\n", b"c"]
    assert kind(b"a\nb\nc").read1(None) == b"a\nb\nc"


@KINDS
def test_read1(kind):
    spool = kind(b"abc", b"def")
    assert spool.read1(2) == b"ab"
    assert spool.read1(0) == b""
    assert spool.read1() == b"cdef"
    assert spool.read1(4) == b""


@KINDS
def test_can_be_wrapped(kind):
    text = io.TextIOWrapper(kind("é\r\nwörld".encode()), encoding="utf-8")
    assert text.readline() == "é\n"
    assert text.read() == "wörld"


@KINDS
def test_is_a_readable_file_and_no_more(kind):
    spool = kind(b"x")
    assert spool.readable()
    assert not spool.writable()
    assert not spool.seekable()
    spool.flush()
    assert not spool.closed
    with spool:
        assert spool.read() == b"x"
    assert spool.closed
    for call in (spool.read, spool.readline, spool.readlines, spool.read1, lambda: next(spool)):
        with pytest.raises(ValueError, match="closed"):
            call()


@KINDS
def test_an_empty_body(kind):
    assert kind().read() == b""
    assert kind().readlines() == []


@pytest.mark.parametrize("memory_bytes", [0, 100])
def test_is_not_read_before_it_is_complete(memory_bytes):
    spool = Spool(memory_bytes)
    spool.feed_data(b"x" * 50)
    with pytest.raises(BlockingIOError):
        spool.read(1)
    spool.feed_end()
    assert spool.length == 50
    assert len(spool.read()) == 50


@pytest.mark.parametrize("memory_bytes", [0, 100])
@pytest.mark.parametrize("name", ["read", "readline", "readlines", "read1", "__next__"])
def test_a_broken_body_is_never_an_end(memory_bytes, name):
    spool = Spool(memory_bytes)
    spool.feed_data(b"x" * 50)
    spool.feed_error("the client left")
    for _ in range(2):
        with pytest.raises(ConnectionResetError, match="the client left"):
            getattr(spool, name)()


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


def test_a_large_body_is_on_disk_and_nowhere_in_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = open_files()
    spool = Spool(1 << 16)
    block = b"0123456789abcdef" * 4096
    for _ in range(1024):
        spool.feed_data(block)
    spool.feed_end()
    assert open_files() == files + 1
    total = 0
    while chunk := spool.read(1 << 16):
        assert chunk == block
        total += len(chunk)
    assert total == spool.length == 64 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10
    spool.close()
    assert open_files() == files


def test_the_file_has_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spool = on_disk(b"a large body")
    assert os.listdir(tmp_path) == []
    assert spool.read() == b"a large body"


def test_moves_to_disk_in_the_middle_of_a_body():
    pieces = [bytes([i]) * 7 for i in range(30)]
    assert spool_of(*pieces, memory_bytes=70).read() == b"".join(pieces)


def test_a_full_disk_is_an_error(monkeypatch):
    full = Path("/dev/full")
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: full.open("w+b", buffering=0))
    spool = Spool(4)
    with pytest.raises(OSError, match="No space"):
        spool.feed_data(b"x" * 100)


# ---- a body that is read while it comes


class Reader(threading.Thread):
    """Calls read in a thread of its own; `result` is what it returned or raised."""

    def __init__(self, read, lock=None):
        super().__init__(daemon=True)
        self.read, self.lock, self.result = read, lock, None
        self.start()

    def run(self):
        if self.lock is not None:
            self.lock.acquire()
        try:
            self.result = self.read()
        except Exception as error:
            self.result = error
        if self.lock is not None:
            self.lock.release()

    def wait(self):
        self.join(10)
        assert not self.is_alive()
        return self.result


def test_live_asks_once_before_it_waits():
    asked = threading.Semaphore(0)
    live = LiveSpool(asked.release)
    reader = Reader(lambda: live.read(6))
    assert asked.acquire(timeout=10)
    live.feed_data(b"abc")
    live.feed_data(b"defghi")
    assert reader.wait() == b"abcdef"
    live.feed_end()
    assert live.read() == b"ghi"
    assert not asked.acquire(blocking=False)


def test_live_asks_nobody_for_what_is_there():
    live = LiveSpool(lambda: pytest.fail("asked"))
    live.feed_data(b"ab\ncd")
    live.feed_end()
    assert live.readline() == b"ab\n"
    assert live.read() == b"cd"


@pytest.mark.parametrize("call", [lambda f: f.read(), lambda f: f.readline(), lambda f: f.read1()])
def test_live_breaks_while_it_is_waited_for(call):
    asked = threading.Semaphore(0)
    live = LiveSpool(asked.release)
    reader = Reader(lambda: call(live))
    assert asked.acquire(timeout=10)
    live.feed_error("the client left")
    assert isinstance(reader.wait(), ConnectionResetError)


def test_live_is_closed_while_it_is_waited_for():
    asked = threading.Semaphore(0)
    live = LiveSpool(asked.release)
    reader = Reader(live.read)
    assert asked.acquire(timeout=10)
    live.close()
    assert isinstance(reader.wait(), ValueError)
    live.feed_data(b"late")
    live.feed_end()


def test_live_pauses_and_asks_again():
    asked = []
    live = LiveSpool(lambda: asked.append(1), None, 10, 4)
    assert not live.feed_data(b"x" * 10)
    assert live.feed_data(b"x")
    assert live.read(6) == b"x" * 6
    assert asked == []
    assert live.read(1) == b"x"
    assert asked == [1]
    assert not live.feed_data(b"y" * 6)
    assert live.feed_data(b"y")


class OwnedLock:
    """A lock that knows which thread holds it."""

    def __init__(self):
        self.lock, self.owner = threading.Lock(), None

    def acquire(self):
        self.lock.acquire()
        self.owner = threading.get_ident()

    def release(self):
        self.owner = None
        self.lock.release()


def test_live_gives_its_lock_up_while_it_waits_and_holds_it_after():
    asked, lock = threading.Semaphore(0), OwnedLock()
    live = LiveSpool(asked.release, lock)
    reader = Reader(lambda: (live.read(3), lock.owner), lock)
    assert asked.acquire(timeout=10)
    lock.acquire()
    live.feed_data(b"abc")
    lock.release()
    assert reader.wait() == (b"abc", reader.ident)


def test_live_carries_a_large_body_in_little_memory():
    block = os.urandom(1 << 16)
    room = threading.Semaphore(0)
    live = LiveSpool(room.release)
    reader = Reader(lambda: sum(len(piece) for piece in iter(lambda: live.read(50_000), b"")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(1000):
        if live.feed_data(block):
            assert room.acquire(timeout=10)
    live.feed_end()
    assert reader.wait() == live.length == 1000 << 16
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10
