"""What is read from /proc, and that nothing there is an error."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastcluster import proc


def test_our_own_memory_is_known_and_grows() -> None:
    # New pages: the interpreter may have some left from before.
    with mmap.mmap(-1, 16 << 20) as held:
        before = proc.rss_bytes(os.getpid())
        for at in range(0, len(held), mmap.PAGESIZE):
            held[at] = 1
        assert proc.rss_bytes(os.getpid()) - before > 8 << 20


def test_nobodys_memory_is_none() -> None:
    assert proc.rss_bytes(2**22 + 1) == 0


def test_the_kernels_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "_VMSTAT", tmp_path / "vmstat")
    monkeypatch.setattr(proc, "_CGROUPS", tmp_path / "none")
    assert proc.oom_kills() is None
    (tmp_path / "vmstat").write_text("nr_free 3\noom_kill 7\n")
    assert proc.oom_kills() == 7
    monkeypatch.setattr(proc, "_cgroup", lambda: tmp_path)
    (tmp_path / "memory.events").write_text("low 0\noom 9\noom_kill 2\n")
    assert proc.oom_kills() == 2


def test_a_process_without_a_terminal_is_in_no_foreground() -> None:
    code = "from fastcluster import proc; print(proc.is_in_foreground())"
    asked = subprocess.run(
        [sys.executable, "-c", code], start_new_session=True, capture_output=True, timeout=20
    )
    assert asked.stdout == b"False\n"


@pytest.mark.parametrize("title", ["fastcluster: worker 0", "f" * 5000])
def test_the_title_is_what_others_see(title: str) -> None:
    code = (
        "import sys; from fastcluster import proc; "
        "proc.set_title(sys.stdin.read()); "
        "print(open('/proc/self/cmdline').read().rstrip(chr(0))); "
        "print(open('/proc/self/comm').read().strip()); print(sys.argv)"
    )
    command = [sys.executable, "-c", code, "an argument"]
    asked = subprocess.run(
        command, input=title.encode(), capture_output=True, timeout=20, check=True
    )
    shown, short, argv = asked.stdout.decode().split("\n")[:3]
    room = sum(len(word) + 1 for word in command) - 1
    assert shown == title[:room]
    assert short == title[:15]
    assert argv == "['-c', 'an argument']"


def test_another_programs_command_line_is_left_alone() -> None:
    code = (
        "import sys; from fastcluster import proc; sys.orig_argv = ['another', 'program']; "
        "proc.set_title('fastcluster: worker 0'); print(open('/proc/self/cmdline').read())"
    )
    command = [sys.executable, "-c", code]
    asked = subprocess.run(command, capture_output=True, timeout=20, check=True)
    assert asked.stdout.decode().rstrip("\0\n").split("\0") == command
