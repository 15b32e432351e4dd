"""Seats and slots by themselves; what sets them in motion is the matter of test_primary.py."""

from __future__ import annotations

import logging

import pytest
from test_primary import FakeBoard, Stage, channel

from fastcluster.seating import Seating


def test_there_is_a_seat_for_every_worker() -> None:
    stage = Stage(workers=3)
    seating = Seating(stage.config, FakeBoard(6), stage.primary._world, logging.getLogger("x"))
    assert [seat.number for seat in seating._seats] == [0, 1, 2]
    assert seating.workers == {}
    assert seating.orphaned_inboxes() == []


def test_an_heir_takes_its_predecessors_slot_and_counts_as_a_restart() -> None:
    stage = Stage(workers=2)
    first, _ = stage.all_ready()
    assert first.seat.restarts == 0
    stage.passes(6)
    stage.dies(first, 9)
    heir = stage.newest()
    assert (heir.slot, heir.seat) == (first.slot, first.seat)
    assert heir.seat.restarts == 1
    assert heir.serial == 3
    assert channel(first).is_closed


@pytest.mark.parametrize("room", [True, False])
def test_a_full_inbox_is_left_alone_for_a_moment(room: bool) -> None:
    stage = Stage(workers=2)
    stage.all_ready()
    stage.inbox_has_room = room
    stage.primary.sweep_inbox(3)
    assert stage.forwarded == [(3, [0, 1])]
    assert stage.primary.orphaned_inboxes() == ([2, 3] if room else [])
