"""Orders to renew workers: a reload, a restart, the replacement of those that are worn.

An order names seats; each is given a successor, and only when that is READY may the old
worker drain.  The law: the first successor that fails ends its order, and what it had not
yet renewed keeps serving.  Whoever gave the order may ask to be told how it ended.  This
file keeps the books; primary.py raises and retires.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastcluster.roster import Seat, State

TellEnd = Callable[["Renewal"], object]


class Renewal:
    """One order, from the moment it was given until it is done or has failed.

    name: what people are told, "reload" or "restart of worker 3".  on_end: called once,
    with this, when it is over.  since: the serial of the worker that was forked last; who
    came later is new already.
    """

    def __init__(
        self,
        name: str,
        seats: Iterable[Seat],
        on_end: TellEnd | None = None,
        *,
        since: int = 0,
    ) -> None:
        self.name = name
        self.since = since
        self.waiting = list(seats)
        self.underway: list[Seat] = []
        self.error: str | None = None
        self.news: dict[str, Any] = {}  # what else is to be told of its end
        self.is_over = False
        self._on_end = on_end

    @property
    def is_done(self) -> bool:
        """Tell whether every seat was renewed."""
        return self.is_over and self.error is None

    def fail(self, error: str) -> list[Seat]:
        """End it, and return the seats whose successors were coming up."""
        underway, self.underway = self.underway, []
        self.waiting.clear()
        if not self.is_over:
            self.error = error
            self._end()
        return underway

    def end_if_done(self) -> bool:
        """End it if nothing is left to do; tell whether it ended now."""
        if self.is_over or self.waiting or self.underway:
            return False
        self._end()
        return True

    def _end(self) -> None:
        self.is_over = True
        if self._on_end is not None:
            self._on_end(self)


class Renewals:
    """All orders that are not over, and whose turn it is.

    batch: how many successors may come up at the same time.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._orders: list[Renewal] = []

    def __bool__(self) -> bool:
        return bool(self._orders)

    def have_batch(self, batch: int) -> None:
        """Let so many successors come up at the same time from now on."""
        self._batch = batch

    def add(self, order: Renewal) -> None:
        """Take an order; one that has nothing to do is over with `sweep()`."""
        self._orders.append(order)

    def of(self, seat: Seat) -> Renewal | None:
        """Return the order under which the seat's successor comes up."""
        return next((order for order in self._orders if seat in order.underway), None)

    def named(self, name: str) -> Renewal | None:
        """Return the order of that name."""
        return next((order for order in self._orders if order.name == name), None)

    def holds(self, seat: Seat) -> bool:
        """Tell whether the seat is to be renewed, or is being."""
        return any(seat in order.waiting or seat in order.underway for order in self._orders)

    def next(
        self, seats: Sequence[Seat], now_s: float, *, has_room: bool = True
    ) -> tuple[Renewal, Seat] | None:
        """Return the next seat to be given a successor, and forget those that need none.

        seats: those that there are; one that was taken away needs none.  One that is empty is
        filled with new code anyway, and then waited for.  has_room: False finds none, but
        takes note of those that were filled.
        """
        if sum(seat.successor is not None for seat in seats) >= self._batch:
            return None
        for order in self._orders:
            for seat in list(order.waiting):
                if seat.successor is not None or seat.renew_s > now_s:
                    continue
                worker = seat.worker
                if worker is None and seat in seats:
                    continue
                if not has_room and worker is not None and worker.serial <= order.since:
                    continue
                order.waiting.remove(seat)
                if worker is None or seat not in seats:
                    continue
                if worker.serial <= order.since:
                    order.underway.append(seat)
                    return order, seat
                if worker.state is State.FORKED:
                    # Raised since the order was given, but it is yet to come up.
                    order.underway.append(seat)
        return None

    def forget(self, seat: Seat) -> None:
        """Leave a seat out of all orders: who was in it was sent away for another reason."""
        for order in self._orders:
            for seats in (order.waiting, order.underway):
                if seat in seats:
                    seats.remove(seat)

    def sweep(self) -> list[Renewal]:
        """Return the orders that are done now, and forget all that are over."""
        done = [order for order in self._orders if order.end_if_done()]
        self._orders = [order for order in self._orders if not order.is_over]
        return done

    def fail_all(self, error: str) -> list[Seat]:
        """End all of them; returns the seats whose successors were coming up."""
        orders, self._orders = self._orders, []
        return [seat for order in orders for seat in order.fail(error)]
