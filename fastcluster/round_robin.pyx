# round_robin.pyx: the primary accepts and hands what it accepts to its workers.
#
# A RoundRobin is one listening socket and the seats of those who serve it; a
# Dispatcher is the loop of all of them.  The law: a worker is given one connection
# and no other before it has taken that from its inbox, and while no worker is free
# connections wait where they are, in the kernel's queue.  A connection costs no
# Python here unless the program chooses its worker itself.  It reads and writes the
# board; it knows neither processes nor HTTP.

import logging
import os
import select
import socket
from collections import deque
from typing import NamedTuple

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR
from libc.errno cimport errno as c_errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.unistd cimport read

from fastcluster.csrc cimport *
from fastcluster.server cimport Board

cdef extern from "poll.h" nogil:
    enum:
        POLLIN

    struct pollfd:
        int fd
        short events
        short revents

    int poll(pollfd *fds, unsigned long count, int timeout_ms)

cdef enum:
    LISTENER
    BELL

cdef enum:
    BATCH = 64             # connections handed out before other work is looked at
    HELD_MOST = 256        # accepted connections that wait for the worker of their choice
    PAUSE_MS = 100         # after the process ran out of descriptors, or an inbox of room
    BUCKETS = 65536


class Connection(NamedTuple):
    """A connection for which a worker is chosen; an address is None for unix sockets."""

    remote_address: str | None
    remote_port: int | None
    local_address: str | None
    local_port: int | None


def id_of(worker):
    """Return what workers are sorted by."""
    return worker.id


cdef uint32_t bucket_of(const uint8_t *ptr, size_t len) noexcept:
    """Return the bucket of an address: FNV-1a, whose high bits are mixed in once more."""
    cdef uint64_t h = <uint64_t>0xcbf29ce484222325
    cdef size_t i
    for i in range(len):
        h = (h ^ ptr[i]) * <uint64_t>0x100000001b3
    return <uint32_t>((h ^ (h >> 32) ^ (h >> 16)) & (BUCKETS - 1))


cdef class Sticky:
    """Keep a client's address on the same worker while that lives: a ready `distribute`.

    An address has one of 65,536 buckets, and a bucket belongs to the worker that got
    its first connection until that worker leaves or dies.  So workers that come take
    no address from those that are there.  A worker at its maximum is passed over for
    that connection alone, and unix sockets, whose clients have no address, go round.
    """

    cdef uint64_t *owners  # by bucket: the worker's id and one more, 0: nobody's
    cdef dict called       # those that we were called for, by that number
    cdef size_t turn

    def __cinit__(self):
        self.called = {}
        self.owners = <uint64_t *>calloc(BUCKETS, sizeof(uint64_t))
        if self.owners == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.owners)

    def __call__(self, object connection, object workers):
        """Return the worker, one of `workers`, that the connection's address belongs to."""
        cdef uint32_t bucket
        cdef uint64_t owner
        self.turn += 1
        fallback = workers[self.turn % <size_t>len(workers)]
        if connection.remote_address is None:
            return fallback
        family = socket.AF_INET6 if ":" in connection.remote_address else socket.AF_INET
        packed = socket.inet_pton(family, connection.remote_address)
        bucket = bucket_of(packed, <size_t>len(packed))
        owner = self.owners[bucket]
        for worker in workers:
            if <uint64_t>(worker.id + 1) == owner:
                return worker
        kept = self.called.get(owner)
        if kept is None or kept.exited_after_disconnect or not kept.is_connected():
            self.called.pop(owner, None)
            self.owners[bucket] = <uint64_t>(fallback.id + 1)
            self.called[fallback.id + 1] = fallback
        return fallback


sticky = Sticky()

cdef class Dispatcher


cdef class RoundRobin:
    """One listening socket, and the inboxes of the workers that serve it.

    board: a seat's line says whether its worker can take one more.  distribute:
    None, or a function of a Connection and the list of workers that can take it,
    which returns one of them; see cluster.setup_primary().
    """

    cdef fc_source listener
    cdef fc_source bell
    cdef object sock
    cdef Board board
    cdef object distribute
    cdef Sticky sticky           # ... if it is that
    cdef object log
    cdef dict workers            # by seat
    cdef list inboxes            # by seat, None where there is none
    cdef int *inbox_fds
    cdef uint32_t *given         # parcels, by seat, since its worker came
    cdef uint64_t *ids           # of the workers plus one, by seat; 0: nobody
    cdef int seats
    cdef int next                # the seat whose turn it is
    cdef object held             # deque of (descriptor, seat, generation)
    cdef int64_t resume_at       # 0: not paused
    cdef bint paused             # ... by lack of descriptors, so that no bell ends it
    cdef bint watching
    cdef Dispatcher dispatcher
    cdef readonly int accepted

    def __cinit__(self):
        memset(&self.listener, 0, sizeof(fc_source))
        memset(&self.bell, 0, sizeof(fc_source))
        self.listener.fd = self.bell.fd = -1

    def __init__(self, object sock, Board board not None, object distribute=None):
        self.sock = sock
        self.board = board
        self.distribute = distribute
        self.sticky = distribute if isinstance(distribute, Sticky) else None
        self.log = logging.getLogger("fastcluster")
        self.workers = {}
        self.inboxes = []
        self.held = deque()
        self.seats = board.slots
        self.inbox_fds = <int *>calloc(<size_t>self.seats, sizeof(int))
        self.given = <uint32_t *>calloc(<size_t>self.seats, sizeof(uint32_t))
        self.ids = <uint64_t *>calloc(<size_t>self.seats, sizeof(uint64_t))
        if self.inbox_fds == NULL or self.given == NULL or self.ids == NULL:
            raise MemoryError
        self.seats = 0
        self.bell.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.bell.kind = BELL
        self.bell.urgent = 1
        self.bell.owner = <void *>self
        self.listener.fd = sock.fileno()
        self.listener.kind = LISTENER
        self.listener.owner = <void *>self

    def __dealloc__(self):
        free(self.inbox_fds)
        free(self.given)
        free(self.ids)

    @property
    def bell_fd(self):
        """What a worker writes to when the board wants it: the bell."""
        return self.bell.fd

    def seat(self, int index, object worker, object inbox):
        """Let a worker, who has taken that slot of the board, have its share from now on."""
        if index >= self.board.slots:
            raise IndexError(f"seat {index} of {self.board.slots}")
        while self.seats <= index:
            self.inboxes.append(None)
            self.seats += 1
        self.workers[index] = worker
        self.inboxes[index] = inbox
        self.inbox_fds[index] = inbox.fileno()
        self.ids[index] = <uint64_t>(worker.id + 1)
        self.given[index] = 0

    def unseat(self, int index):
        """Give a worker nothing any more; what waits in its inbox is not our affair."""
        self.workers.pop(index, None)
        self.ids[index] = 0

    # ---- one turn

    cdef int spread(self) except -1:
        """Hand out what has come, until nothing is left or nobody is free."""
        cdef fc_peer peer
        cdef int fd, i, seat
        if self.held:
            self.give_held()
        for i in range(BATCH):
            seat = self.somebody()
            if seat < 0 or len(self.held) >= HELD_MOST:
                return self.sleep()
            fd = fc_conn_accept(self.listener.fd, &peer)
            if fd == FC_AGAIN:
                return self.watch()
            if fd < 0:
                return self.out_of_descriptors()
            self.accepted += 1
            if self.distribute is not None:
                self.place(fd, &peer)
            elif not self.give(seat, fd):
                self.hold(fd, -1)
        return self.watch()

    cdef int somebody(self) noexcept:
        """Return a seat for the next connection, where it is chosen later any; -1: there is none."""
        cdef int seat
        if self.distribute is None:
            return self.free_seat()
        for seat in range(self.seats):
            if self.can_take(seat):
                return seat
        return -1

    cdef bint can_take(self, int seat) noexcept:
        """Tell whether a seat's worker is there and below its maximum."""
        cdef fc_slot *slot = &self.board.board.slot[seat]
        return self.ids[seat] != 0 and slot.state == FC_SLOT_READY and (
            slot.drops or slot.connections < slot.limit)

    cdef int free_seat(self) noexcept:
        """Return the next seat whose worker has taken what it was given last; -1: there is none."""
        cdef int i, seat
        for i in range(self.seats):
            seat = self.next + i
            if seat >= self.seats:
                seat -= self.seats
            if self.can_take(seat) and self.board.board.slot[seat].taken == self.given[seat]:
                return seat
        return -1

    cdef bint give(self, int seat, int fd):
        """Put a connection into a worker's inbox; False if there is no room."""
        cdef fc_slot *slot = &self.board.board.slot[seat]
        cdef fc_parcel parcel
        if slot.drops:
            # Counted above its maximum it is closed there.
            fc_slot_hold(slot, 1)
        elif not fc_slot_reserve(slot):
            return False
        parcel.listener = 0
        parcel.generation = slot.generation
        parcel.requests = 0
        if fc_conn_hand_over(self.inbox_fds[seat], fd, parcel) != FC_OK:
            fc_slot_hold(slot, -1)
            return False
        self.given[seat] += 1
        self.next = seat + 1 if seat + 1 < self.seats else 0
        fc_conn_close(fd)
        return True

    cdef int sleep(self) except -1:
        """Rest until the bell is rung: nobody is free, or too many wait for one worker."""
        fc_board_want(self.board.board)
        # Somebody may have come to be free before it was asked for.
        if len(self.held) < HELD_MOST and self.somebody() >= 0:
            return self.watch()
        return self.unwatch()

    cdef int rung(self) except -1:
        cdef uint64_t times
        # It cannot fail but by being silent again.
        read(self.bell.fd, &times, sizeof(times))
        if self.paused:
            return 0
        # The listener is watched again only when nothing waits there any more: under
        # load it never is, and that saves two calls a connection.
        return self.spread()

    cdef int watch(self) except -1:
        if not self.watching and self.dispatcher is not None:
            self.watching = True
            check(fc_loop_watch(&self.dispatcher.loop, &self.listener, FC_READ))
        return 0

    cdef int unwatch(self) except -1:
        if self.watching:
            self.watching = False
            fc_loop_unwatch(&self.dispatcher.loop, &self.listener)
        return 0

    cdef int pause(self) except -1:
        self.unwatch()
        self.paused = True
        self.resume_at = self.dispatcher.loop.now_ms + PAUSE_MS
        return 0

    cdef int out_of_descriptors(self) except -1:
        self.log.error(
            "accept failed in the primary (%s): accepting pauses; the limit of descriptors is "
            "raised by ulimit -n", os.strerror(c_errno))
        return self.pause()

    # ---- chosen by the program

    cdef int place(self, int fd, fc_peer *peer) except -1:
        """Give a connection to the worker that its address, or the program, asks for."""
        cdef int seat
        if self.sticky is not None:
            seat = self.seat_of(peer)
        else:
            seat = self.chosen(peer)
        if seat < 0 or not self.give(seat, fd):
            self.hold(fd, seat)
        return 0

    cdef int seat_of(self, fc_peer *peer):
        """Return the seat that a client's address belongs to; -1 if nobody can take it."""
        cdef uint32_t bucket
        cdef uint64_t owner
        cdef int seat
        if peer.family == 0:
            return self.least()
        bucket = bucket_of(peer.bytes, 4 if peer.family == 4 else 16)
        owner = self.sticky.owners[bucket]
        for seat in range(self.seats):
            if owner != 0 and self.ids[seat] == owner:
                if self.can_take(seat):
                    return seat
                if self.board.board.slot[seat].state == FC_SLOT_READY:
                    return self.least()  # full, this once
                break
        seat = self.least()
        if seat >= 0:
            self.sticky.owners[bucket] = self.ids[seat]
        return seat

    cdef int least(self) noexcept:
        """Return the seat that can take one more and holds the fewest, in turn among equals."""
        cdef int i, seat, found = -1
        for i in range(self.seats):
            seat = (self.next + i) % self.seats
            if self.can_take(seat) and (
                    found < 0 or self.board.board.slot[seat].connections
                    < self.board.board.slot[found].connections):
                found = seat
        return found

    cdef int chosen(self, fc_peer *peer):
        """Ask the program; its errors and what is no worker count as no choice."""
        cdef int seat
        able = {seat: worker for seat, worker in self.workers.items() if self.can_take(seat)}
        if not able:
            return -1
        try:
            offered = sorted(able.values(), key=id_of)
            worker = self.distribute(self.described(peer), offered)
        except Exception:
            self.log.exception("error in distribute: the connection goes round")
            return self.least()
        for seat, candidate in able.items():
            if candidate is worker:
                return seat
        if worker is not None:
            self.log.error("distribute returned %r, which is none of the workers it was given",
                           worker)
        return self.least()

    cdef object described(self, fc_peer *peer):
        cdef char host[64]
        cdef size_t n = fc_peer_text(peer, host, sizeof(host))
        if n == 0:
            return Connection(None, None, None, None)
        local = self.sock.getsockname()
        return Connection(host[:n].decode("ascii"), peer.port, local[0], local[1])

    # ---- connections that wait here

    cdef int hold(self, int fd, int seat) except -1:
        cdef uint32_t generation = 0 if seat < 0 else self.board.board.slot[seat].generation
        self.held.append((fd, seat, generation))
        fc_board_want(self.board.board)
        # A bell that was rung a moment too early is not rung again.
        self.resume_at = self.dispatcher.loop.now_ms + PAUSE_MS
        return 0

    cdef int give_held(self) except -1:
        """Try again to give what waits to those it is for, or to others if they are gone."""
        cdef int fd, seat, i
        cdef uint32_t generation
        cdef fc_peer peer
        for i in range(len(self.held)):
            fd, seat, generation = self.held.popleft()
            if seat >= 0 and self.ids[seat] and (
                    self.board.board.slot[seat].generation == generation
                    and self.board.board.slot[seat].state == FC_SLOT_READY):
                if not self.give(seat, fd):
                    self.hold(fd, seat)
            elif self.distribute is not None:
                fc_conn_peer(fd, &peer)
                self.place(fd, &peer)
            else:
                seat = self.free_seat()
                if seat < 0 or not self.give(seat, fd):
                    self.hold(fd, -1)
        return 0

    cdef int close_held(self) except -1:
        while self.held:
            fc_conn_close(self.held.popleft()[0])
        return 0


cdef class Dispatcher:
    """The loop of all listening sockets that the primary accepts from."""

    cdef fc_loop loop
    cdef list robins
    cdef bint closed

    def __cinit__(self):
        self.loop.poll_fd = -1

    def __init__(self):
        self.robins = []
        check(fc_loop_init(&self.loop))
        # Its timer is made now: it is needed when no descriptor is left.
        check(fc_loop_arm(&self.loop, 0))

    def __dealloc__(self):
        if self.loop.poll_fd >= 0:
            fc_loop_destroy(&self.loop)

    def fileno(self):
        """Return the epoll descriptor: readable when turn() has something to do."""
        return self.loop.poll_fd

    def add(self, RoundRobin robin not None):
        """Accept from a listening socket from now on."""
        robin.dispatcher = self
        self.robins.append(robin)
        check(fc_loop_watch(&self.loop, &robin.bell, FC_READ))
        robin.watch()

    def remove(self, RoundRobin robin not None):
        """Accept from it no more, and close what it holds; its owner closes the socket."""
        robin.unwatch()
        fc_loop_unwatch(&self.loop, &robin.bell)
        self.robins.remove(robin)
        robin.dispatcher = None
        self._end(robin)

    def close(self):
        """Close what is ours, also in a forked child, and leave the sockets to their owners.

        The kernel's set is one for both processes, so nothing is taken out of it here.
        """
        cdef RoundRobin robin
        if self.closed:
            return
        self.closed = True
        for robin in self.robins:
            robin.dispatcher = None
            self._end(robin)
        self.robins = []
        fc_loop_destroy(&self.loop)
        self.loop.poll_fd = -1

    def _end(self, RoundRobin robin):
        robin.close_held()
        os.close(robin.bell.fd)
        robin.bell.fd = robin.listener.fd = -1

    def turn(self):
        """Hand out what has come; does not wait."""
        self.take_turn()

    cdef int take_turn(self) except -1:
        cdef RoundRobin robin
        cdef fc_source *source
        cdef int what
        if fc_loop_wait(&self.loop, 0) < 0 and c_errno != EINTR:
            check(FC_ERR)
        source = fc_loop_next(&self.loop, &what)
        while source != NULL:
            robin = <RoundRobin>source.owner
            if source.kind == BELL:
                robin.rung()
            else:
                robin.spread()
            source = fc_loop_next(&self.loop, &what)
        self.resume()
        return 0

    cdef int resume(self) except -1:
        """Go on with those whose pause is over, and be woken for the others' end."""
        cdef RoundRobin robin
        cdef int64_t first = -1
        for robin in self.robins:
            if robin.resume_at and robin.resume_at <= self.loop.now_ms:
                robin.resume_at = 0
                robin.paused = False
                robin.watch()
                robin.spread()
            if robin.resume_at and (first < 0 or robin.resume_at - self.loop.now_ms < first):
                first = robin.resume_at - self.loop.now_ms
        if first >= 0:
            check(fc_loop_arm(&self.loop, first))
        return 0


class Poller:
    """select.poll for a primary that also dispatches: connections do not end its wait."""

    def __init__(self, dispatcher):
        self._dispatcher = dispatcher
        self._wanted = {}

    def register(self, fd, events=select.POLLIN):
        """Wait for a descriptor's events, too; the dispatcher's own is waited for anyway."""
        if fd != self._dispatcher.fileno():
            self._wanted[fd] = events

    def poll(self, timeout_ms=None):
        """Return the (descriptor, events) that are ready, [] after timeout_ms milliseconds."""
        return wait(self._dispatcher, self._wanted, -1 if timeout_ms is None else timeout_ms)


cdef list wait(Dispatcher dispatcher, dict wanted, double timeout_ms):
    cdef unsigned long count = <unsigned long>len(wanted) + 1
    cdef unsigned long i = 1
    cdef int n, left_ms
    cdef int64_t until
    cdef pollfd *fds = <pollfd *>calloc(count, sizeof(pollfd))
    if fds == NULL:
        raise MemoryError
    try:
        fds[0].fd = dispatcher.loop.poll_fd
        fds[0].events = POLLIN
        for fd, events in wanted.items():
            fds[i].fd = fd
            fds[i].events = events
            i += 1
        fc_loop_refresh(&dispatcher.loop)
        until = dispatcher.loop.now_ms + <int64_t>(timeout_ms + 1) if timeout_ms >= 0 else -1
        while True:
            left_ms = -1
            if until >= 0:
                left_ms = <int>max(0, min(until - dispatcher.loop.now_ms, 3600000))
            with nogil:
                n = poll(fds, count, left_ms)
            if n < 0 and c_errno != EINTR:
                check(FC_ERR)
            if n < 0:
                PyErr_CheckSignals()
                fc_loop_refresh(&dispatcher.loop)
                continue
            if fds[0].revents:
                dispatcher.take_turn()
                n -= 1
            else:
                fc_loop_refresh(&dispatcher.loop)
            if n > 0 or (until >= 0 and dispatcher.loop.now_ms >= until):
                return [(fds[i].fd, fds[i].revents) for i in range(1, count) if fds[i].revents]
    finally:
        free(fds)
