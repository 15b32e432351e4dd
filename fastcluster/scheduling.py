"""Which worker gets a new connection: the policies, and the seats of those who share a socket.

A Group is one listening socket of the primary's and the workers that serve it.  Each of
them has a seat: a line on the group's board and an inbox, which outlives it, so that what
was handed to a worker that is gone goes to one that lives.  Under SCHED_BALANCED workers
accept and hand over what is too much, under SCHED_RR the primary accepts, and under
SCHED_NONE there are no groups.  This file neither forks nor binds.
"""

from __future__ import annotations

import enum
import errno
import io
import os
import select
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastcluster import config
from fastcluster.channel import Inbox
from fastcluster.errors import UsageError
from fastcluster.round_robin import Connection, Dispatcher, Poller, RoundRobin
from fastcluster.server import Board, Server

# More workers than that cannot listen at one address.  A line that nobody has taken
# costs no memory.
SEATS = 1024
# So many descriptors go with one message.
PEERS_AT_ONCE = 200

Distribute = Callable[[Connection, list[Any]], object]


class Policy(enum.IntEnum):
    """Who decides which worker gets a connection; the first two as in Node."""

    NONE = 1  # the kernel: all workers accept from one socket
    RR = 2  # the primary accepts, and hands connections out in turn
    BALANCED = 3  # workers accept, and hand over to one that waits with fewer


WORDS = {"none": Policy.NONE, "rr": Policy.RR, "balanced": Policy.BALANCED}


def policy_of(wanted: object) -> Policy:
    """Return the policy that a program has assigned; raises ValueError if it is none."""
    if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted in set(Policy):
        return Policy(wanted)
    raise ValueError(f"scheduling_policy is SCHED_NONE, SCHED_RR or SCHED_BALANCED, not {wanted!r}")


def policy_of_environment() -> Policy:
    """Return what FASTCLUSTER_SCHED_POLICY says, else BALANCED; raises UsageError."""
    word = config.scheduling_policy()
    if not word:
        return Policy.BALANCED
    if word not in WORDS:
        raise UsageError(f"FASTCLUSTER_SCHED_POLICY is {word!r}: the words are {', '.join(WORDS)}")
    return WORDS[word]


# ---- in a worker


@dataclass(slots=True)
class Seat:
    """What a worker's server has of the group that it serves in."""

    group: int
    index: int
    policy: Policy
    board: Board
    inbox: socket.socket
    bell: int = -1

    def options(self) -> dict[str, Any]:
        """Return what a server.Server is made with, so that it serves in this seat."""
        return {"board": self.board, "slot": self.index, "inbox": self.inbox, "bell": self.bell}

    def close(self) -> None:
        """Close what the server that served here has not closed."""
        self.inbox.close()
        if self.bell >= 0:
            os.close(self.bell)
            self.bell = -1


def seat_of(words: dict[str, Any], fds: list[int]) -> Seat:
    """Return the seat that the primary's answer describes; its descriptors are ours."""
    board_fd, inbox_fd, *bell = fds
    try:
        board = Board(words["slots"], board_fd)
    finally:
        os.close(board_fd)
    inbox = socket.socket(fileno=inbox_fd)
    inbox.setblocking(False)
    policy = Policy(words["policy"])
    return Seat(words["group"], words["seat"], policy, board, inbox, bell[0] if bell else -1)


def meet(server: Server, seats: Sequence[int], fds: Sequence[int]) -> None:
    """Let a server hand connections over to the workers in those seats."""
    for seat, fd in zip(seats, fds, strict=True):
        server.add_outbox(seat, socket.socket(fileno=fd))


# ---- in the primary


class Member(Protocol):
    """What a group needs of a worker."""

    @property
    def id(self) -> int: ...


# What is to be said to whom, and the descriptors that go with it.
Words = dict[str, Any]
Say = Callable[[Any, Words, list[int]], object]


class Group:
    """A listening socket's workers: their seats, the board, the inboxes."""

    def __init__(self, number: int, policy: Policy, sock: socket.socket) -> None:
        self.number = number
        self.policy = policy
        self.robin: RoundRobin | None = None
        self.inboxes: list[Inbox] = []
        self.members: dict[int, Member] = {}
        self._file = _file_of(Board.bytes_for(SEATS))
        self.board = Board(SEATS, self._file.fileno())
        self.sock: socket.socket | None = sock  # None: it is closed

    def join(self, worker: Member, say: Say) -> tuple[Words, list[int]]:
        """Give a worker a seat; returns the answer to it, and tells the others by say().

        Raises OSError if all seats are taken, or there is no descriptor left.
        """
        index = next((i for i in range(SEATS) if i not in self.members), SEATS)
        if index == SEATS:
            raise OSError(errno.EUSERS, f"{SEATS} workers listen here already")
        is_new = index == len(self.inboxes)
        if is_new:
            self.inboxes.append(Inbox())
        inbox = self.inboxes[index]
        self.board.take(index)
        if is_new and self.policy is Policy.BALANCED:
            for other in self.members.values():
                say(other, self._peers([index]), [inbox.sending.fileno()])
        self.members[index] = worker
        words = {
            "group": self.number,
            "seat": index,
            "policy": int(self.policy),
            "slots": SEATS,
        }
        fds = [self._file.fileno(), inbox.receiving.fileno()]
        if self.robin is not None:
            self.robin.seat(index, worker, inbox.sending)
            fds.append(self.robin.bell_fd)
        return words, fds

    def introduce(self, worker: Member, say: Say) -> None:
        """Tell a worker that has just joined of all inboxes, its own among them."""
        if self.policy is not Policy.BALANCED:
            return
        for first in range(0, len(self.inboxes), PEERS_AT_ONCE):
            inboxes = self.inboxes[first : first + PEERS_AT_ONCE]
            seats = list(range(first, first + len(inboxes)))
            say(worker, self._peers(seats), [inbox.sending.fileno() for inbox in inboxes])

    def _peers(self, seats: list[int]) -> Words:
        return {"peers": {"group": self.number, "seats": seats}}

    def leave(self, worker: Member, seat: int | None = None) -> None:
        """Take a worker's seat away: its server is closed; None, all: it is dead."""
        for index in [i for i, member in self.members.items() if member is worker]:
            if seat is not None and index != seat:
                continue
            del self.members[index]
            if self.robin is not None:
                self.robin.unseat(index)
            self.board.release(index)
            self.sweep(index)

    def orphans(self) -> Iterator[tuple[int, int]]:
        """Yield (descriptor, seat) of the inboxes without a worker.

        A connection can be handed to a worker in the moment of its death.
        """
        if self.members:
            for index, inbox in enumerate(self.inboxes):
                if index not in self.members:
                    yield inbox.receiving.fileno(), index

    def sweep(self, index: int) -> None:
        """Hand what is in an empty seat's inbox to those who live, the least busy first.

        What their inboxes have no room for stays, and is found again.
        """
        held = {i: self.board.read(i) for i in self.members}
        ready = [i for i in held if held[i]["state"] == READY]
        heirs = sorted(ready or held, key=lambda i: held[i]["connections"])
        if heirs:
            self.inboxes[index].forward([self.inboxes[i] for i in heirs])

    def close(self) -> None:
        """Close what is ours; also in a forked child."""
        for inbox in self.inboxes:
            inbox.close()
        self.inboxes = []
        self._file.close()


# A worker's state on the board.
READY = 2


class Schedule:
    """The primary's policy and its groups."""

    def __init__(self) -> None:
        self._policy: Policy | None = None
        self._is_frozen = False
        self._groups: dict[int, Group] = {}
        self._last = 0
        self._dispatcher: Dispatcher | None = None

    @property
    def policy(self) -> Policy:
        """What the program has said, else the environment; raises UsageError for nonsense."""
        if self._policy is None:
            self._policy = policy_of_environment()
        return self._policy

    @policy.setter
    def policy(self, wanted: object) -> None:
        policy = policy_of(wanted)
        if self._is_frozen and policy is not self.policy:
            raise RuntimeError(
                "scheduling_policy is decided by the first setup_primary() or fork(): set it before"
            )
        self._policy = policy

    def freeze(self) -> None:
        """Let the policy be what it is now for good; raises UsageError if it is nonsense."""
        _ = self.policy
        self._is_frozen = True

    def open(self, sock: socket.socket, distribute: Distribute | None) -> Group | None:
        """Return a new group for a listening socket; None if workers just accept from it."""
        if self.policy is Policy.NONE:
            return None
        self._last += 1
        group = Group(self._last, self.policy, sock)
        if self.policy is Policy.RR:
            if self._dispatcher is None:
                self._dispatcher = Dispatcher()
            group.robin = RoundRobin(sock, group.board, distribute)
            self._dispatcher.add(group.robin)
        self._groups[group.number] = group
        return group

    def stop(self, group: Group) -> None:
        """Accept no more for a group, whose socket is closed next; its seats stay."""
        if group.robin is not None and self._dispatcher is not None:
            self._dispatcher.remove(group.robin)
            group.robin = None
        group.sock = None
        self._forget_empty(group)

    def leave(self, number: int, worker: Member, seat: int | None = None) -> None:
        """Take the seat of a worker whose server is closed."""
        group = self._groups.get(number)
        if group is not None:
            group.leave(worker, seat)
            self._forget_empty(group)

    def leave_all(self, worker: Member) -> None:
        """Take the seats of a worker that is gone."""
        for number in list(self._groups):
            self.leave(number, worker)

    def _forget_empty(self, group: Group) -> None:
        if not group.members and group.sock is None:
            self._groups.pop(group.number, None)
            group.close()

    def poller(self) -> select.poll | Poller:
        """Return what the primary waits with; connections are handed out meanwhile."""
        return select.poll() if self._dispatcher is None else Poller(self._dispatcher)

    def watched(self) -> dict[int, Callable[[], object]]:
        """Return what a loop waits for, by descriptors, and what it does when they are readable.

        They are inboxes that nobody reads, and the dispatcher, which a poller() sees to itself.
        """
        found: dict[int, Callable[[], object]] = {}
        if self._dispatcher is not None:
            found[self._dispatcher.fileno()] = self._dispatcher.turn
        for group in self._groups.values():
            for fd, index in group.orphans():
                found[fd] = lambda group=group, index=index: group.sweep(index)  # type: ignore[misc]
        return found

    def close(self) -> None:
        """Close what is the primary's alone: called in a forked child."""
        if self._dispatcher is not None:
            self._dispatcher.close()
            self._dispatcher = None
        for group in self._groups.values():
            group.close()
        self._groups = {}


def _file_of(size: int) -> io.FileIO:
    """Return a file of so many zero bytes that has no name."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("fastcluster-board")
    else:
        with tempfile.TemporaryFile() as named:
            fd = os.dup(named.fileno())
    os.ftruncate(fd, size)
    return io.FileIO(fd, "r+")
