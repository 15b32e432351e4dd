"""The table as data: every row leads somewhere, and the words people read."""

from __future__ import annotations

import pytest

from fastcluster.roster import TABLE, Event, Seat, State, Worker, backoff_s, count


def test_every_state_but_the_last_can_be_left() -> None:
    assert {state for state, _ in TABLE} == set(State) - {State.DEAD}


def test_an_end_is_an_end_and_nothing_else_is() -> None:
    for (_, event), (after, _) in TABLE.items():
        assert (after is State.DEAD) == (event is Event.EXIT)


def test_nobody_comes_back_from_draining_or_condemnation() -> None:
    order = list(State)
    for (before, _), (after, _) in TABLE.items():
        assert order.index(after) >= order.index(before)


def test_a_worker_is_named_by_its_seat_and_pid() -> None:
    worker = Worker(
        pid=7,
        channel=None,  # type: ignore[arg-type]
        slot=3,
        generation=1,
        serial=1,
        seat=Seat(2),
        deadline_s=None,
    )
    assert str(worker) == "worker 2 (pid 7)"


@pytest.mark.parametrize(("number", "words"), [(0, "0 cats"), (1, "1 cat"), (2, "2 cats")])
def test_counting(number: int, words: str) -> None:
    assert count(number, "cat") == words


def test_the_pause_grows_to_its_bound() -> None:
    assert [backoff_s(n) for n in (1, 2, 3, 20)] == pytest.approx([0.1, 0.2, 0.4, 30.0])
