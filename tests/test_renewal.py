"""Orders to renew seats: whose turn it is, and how they end.

What follows for workers is the matter of test_primary.py.
"""

from __future__ import annotations

from typing import Any

from fastcluster.renewal import Renewal, Renewals
from fastcluster.roster import Seat, State, Worker


def seat(number: int, serial: int = 1, state: State = State.READY) -> Seat:
    made = Seat(number)
    nothing: Any = None
    made.worker = Worker(number, nothing, number, 1, serial, made, None, state)
    return made


def test_seats_come_in_their_order_and_a_batch_at_a_time() -> None:
    seats = [seat(0), seat(1), seat(2)]
    orders = Renewals(2)
    order = Renewal("reload", seats, since=1)
    orders.add(order)
    for expected in seats[:2]:
        assert orders.next(seats, 0.0) == (order, expected)
        expected.successor = expected.worker
    assert orders.next(seats, 0.0) is None
    assert order.underway == seats[:2]
    assert orders.of(seats[1]) is order
    assert orders.of(seats[2]) is None


def test_those_that_need_none_are_passed_over() -> None:
    empty, gone, fresh, coming = Seat(0), seat(1), seat(2, 5), seat(3, 6, State.FORKED)
    orders = Renewals(1)
    order = Renewal("reload", [empty, gone, fresh, coming], since=4)
    orders.add(order)
    assert orders.next([empty, fresh, coming], 0.0) is None
    # The empty one is waited for, which is filled by now in any other case.
    assert (order.waiting, order.underway) == ([empty], [coming])
    empty.worker = seat(0, 7, State.FORKED).worker
    assert orders.next([empty, fresh, coming], 0.0) is None
    assert (order.waiting, order.underway) == ([], [coming, empty])


def test_a_seat_whose_successor_failed_waits() -> None:
    late = seat(0)
    late.renew_s = 10.0
    orders = Renewals(1)
    orders.add(Renewal("replacement", [late], since=1))
    assert orders.next([late], 9.9) is None
    found = orders.next([late], 10.0)
    assert found is not None and found[1] is late


def test_an_order_ends_once_and_says_so() -> None:
    ended: list[tuple[bool, str | None]] = []
    orders = Renewals(1)
    one = seat(0)
    order = Renewal("reload", [one], lambda o: ended.append((o.is_done, o.error)), since=1)
    orders.add(order)
    orders.next([one], 0.0)
    assert orders.sweep() == [] and orders
    order.underway.remove(one)
    assert orders.sweep() == [order] and not orders
    assert order.fail("too late") == []
    assert ended == [(True, None)]


def test_the_first_failure_ends_it() -> None:
    ended: list[str | None] = []
    seats = [seat(0), seat(1)]
    orders = Renewals(1)
    order = Renewal("reload", seats, lambda o: ended.append(o.error), since=1)
    orders.add(order)
    orders.next(seats, 0.0)
    assert order.fail("SyntaxError") == [seats[0]]
    assert not order.is_done
    assert orders.sweep() == [] and not orders
    assert ended == ["SyntaxError"]


def test_a_seat_is_forgotten_everywhere() -> None:
    seats = [seat(0), seat(1)]
    orders = Renewals(1)
    orders.add(Renewal("reload", seats, since=1))
    orders.next(seats, 0.0)
    for one in seats:
        assert orders.holds(one)
        orders.forget(one)
        assert not orders.holds(one)
    assert [order.name for order in orders.sweep()] == ["reload"]
