"""A pulse: what counts as a sign of life, and what as silence."""

from __future__ import annotations

import pytest

from fastcluster.heartbeat import Pulse, Verdict, look_every_s


def looks(*signs: int, timeout_s: float = 4.0) -> list[str]:
    """Look once a second; a sign is a number that the scoreboard shows."""
    pulse = Pulse()
    return [pulse.look((sign,), 1.0, timeout_s).name for sign in signs]


def test_whatever_changes_lives() -> None:
    assert looks(1, 2, 3, 4, 5, 6, 7) == ["ALIVE"] * 7


def test_the_quiet_are_asked_once_and_then_silent() -> None:
    assert looks(1, 1, 1, 1, 1) == ["ALIVE", "ALIVE", "ASK", "ALIVE", "SILENT"]


def test_an_answer_begins_anew() -> None:
    assert looks(1, 1, 1, 2, 2, 2) == ["ALIVE", "ALIVE", "ASK", "ALIVE", "ALIVE", "ASK"]


def test_nobody_is_silent_who_was_not_asked() -> None:
    pulse = Pulse()
    pulse.look((1,), 0.0, 4.0)
    assert pulse.look((1,), 100.0, 4.0) is Verdict.ASK
    assert pulse.look((1,), 1.0, 4.0) is Verdict.SILENT


@pytest.mark.parametrize(("timeout_s", "every_s"), [(0.4, 0.1), (4, 1.0), (30, 5.0), (3600, 5.0)])
def test_how_often_is_looked(timeout_s: float, every_s: float) -> None:
    assert look_every_s(timeout_s) == pytest.approx(every_s)
