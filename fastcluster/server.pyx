# server.pyx: listeners, turn() and drain().
#
# A Server owns one epoll descriptor that holds its listeners, its inbox, its
# connections and whatever else the worker watches.  turn() handles all that is
# ready, in the caller's thread; who calls it, and in which loop, is the worker's
# affair.  This file alone releases the GIL, while it waits, and alone decides
# which worker a new connection goes to.

import errno
import logging
import os
import resource
import socket
from collections import deque

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF
from libc.errno cimport EAGAIN, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM
from libc.errno cimport errno as c_errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport write

from fastcluster.connection cimport HttpConnection
from fastcluster.exchange cimport Consumer, Handler, Limits, Listener, Service
from fastcluster.health cimport HealthHandler
from fastcluster.observer cimport observer_for
from fastcluster.overload cimport OverloadHandler
from fastcluster.csrc cimport *

from fastcluster.forwarded import Proxies

cdef enum:
    CONNECTION
    LISTENER
    INBOX
    CALLBACK

cdef enum:
    ACCEPT_BATCH = 64         # connections taken from a listener in one turn
    ACCEPT_PAUSE_MS = 100     # after the process ran out of descriptors
    SHED_BATCH = 4            # connections passed on in one turn, once they are idle
    SHED_SEARCH = 32          # connections looked at to find an idle one
    REFUSED_AT_ONCE = 256     # connections above the limit that get a 503 in full
    GUEST_TURN_MS = 1000      # how late a guest may notice such a deadline
    DESCRIPTORS_KEPT = 64     # of RLIMIT_NOFILE, for the application's own files


cdef class Board:
    """The scoreboard: one line per worker, in memory shared with all forked children.

    Made by the primary before the first fork and never freed while a worker may
    live.  Only a worker writes to its own line, but for the count of its
    connections.  fd: a file of bytes_for(slots) zero bytes that it lies in, for
    processes that are not forked from its maker.
    """

    def __cinit__(self, int slots, object fd=None):
        if slots < 1:
            raise ValueError("a board has at least one slot")
        if fd is None:
            self.board = fc_board_create(<uint32_t>slots)
        else:
            self.board = fc_board_open(<uint32_t>slots, fd)
        if self.board == NULL:
            raise MemoryError("no shared memory for the scoreboard")
        self.slots = slots

    def __dealloc__(self):
        if self.board != NULL:
            fc_board_destroy(self.board)

    @staticmethod
    def bytes_for(int slots):
        """Return how long the file of a board with so many slots is."""
        return fc_board_bytes(<uint32_t>slots)

    cdef fc_slot *at(self, int index) except NULL:
        if index < 0 or index >= self.slots:
            raise IndexError(f"slot {index} of {self.slots}")
        return &self.board.slot[index]

    def take(self, int index):
        """Give a slot to a new worker and return its generation (called before the fork)."""
        self.at(index)
        return fc_board_take(self.board, <uint32_t>index, fc_loop_clock() // 1000000)

    def release(self, int index):
        """Mark a slot as empty (called after the worker was reaped)."""
        cdef fc_slot *slot = self.at(index)
        slot.state = FC_SLOT_EMPTY
        slot.waiting = slot.connections = slot.running = slot.pid = 0

    def read(self, int index):
        """Return what a slot says now, as a dict; `waiting` and `state` are ints."""
        cdef fc_slot *slot = self.at(index)
        return {
            "state": slot.state,
            "pid": slot.pid,
            "generation": slot.generation,
            "waiting": slot.waiting,
            "connections": slot.connections,
            "running": slot.running,
            "heartbeat_ms": slot.heartbeat_ms,
            "accepted": slot.accepted,
            "handed_over": slot.handed_over,
            "requests": slot.requests,
            "stall_ns": slot.stall_ns,
        }

    def tally(self, int index):
        """Return what a slot has counted in all its workers, which never goes back.

        A dict of ints, but for two: statuses, a list by class from 1xx on, and latency,
        pairs of a bucket's end in ns and how many are in it, without those that are empty.
        """
        return self.sum_of(index, index + 1)

    def total(self):
        """Return the sum of tally() over all slots."""
        return self.sum_of(0, self.slots)

    cdef dict sum_of(self, int first, int last):
        cdef uint64_t latency[FC_LATENCY_BUCKETS]
        cdef uint64_t statuses[5]
        cdef uint64_t requests = 0, accepted = 0, handed_over = 0, bytes_in = 0, bytes_out = 0
        cdef uint64_t errors = 0, lost = 0, refused = 0
        cdef uint64_t latency_ns = 0, queue_ns = 0, busy_ns = 0
        cdef fc_slot *slot
        cdef fc_tally *tally
        cdef int at, i
        memset(latency, 0, sizeof(latency))
        memset(statuses, 0, sizeof(statuses))
        for at in range(first, last):
            slot = self.at(at)
            if slot.generation == 0:
                continue  # nobody was ever there
            tally = &slot.tally
            requests += tally.requests + slot.requests
            accepted += tally.accepted + slot.accepted
            handed_over += tally.handed_over + slot.handed_over
            bytes_in += tally.bytes_in
            bytes_out += tally.bytes_out
            errors += tally.errors
            lost += tally.lost
            refused += tally.refused
            latency_ns += tally.latency_ns
            queue_ns += tally.queue_ns
            busy_ns += tally.busy_ns
            for i in range(5):
                statuses[i] += tally.statuses[i]
            for i in range(FC_LATENCY_BUCKETS):
                latency[i] += tally.latency[i]
        return {
            "requests": requests,
            "accepted": accepted,
            "handed_over": handed_over,
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "statuses": [statuses[i] for i in range(5)],
            "errors": errors,
            "lost": lost,
            "refused": refused,
            "latency_ns": latency_ns,
            "queue_ns": queue_ns,
            "busy_ns": busy_ns,
            "latency": [
                (fc_latency_floor(i + 1), latency[i])
                for i in range(FC_LATENCY_BUCKETS) if latency[i]
            ],
        }

    def last_request(self, int index):
        """Return the request that a slot's worker has begun last, None if there was none.

        A dict: line, its method and target as far as they are kept; client, its
        address, "" for unix sockets; age_s, since the turn that began it.  What a
        client sent is not escaped.  It may be half of one and half of another.
        """
        cdef fc_slot *slot = self.at(index)
        cdef fc_peer peer
        cdef char host[64]
        cdef size_t n
        cdef uint32_t kept = min(slot.note.len, <uint32_t>FC_NOTE_TEXT_BYTES)
        if kept == 0:
            return None
        memcpy(&peer, slot.note.peer, sizeof(fc_peer))
        n = fc_peer_text(&peer, host, sizeof(host))
        client = host[:n].decode("ascii")
        if peer.family == 6:
            client = f"[{client}]"
        return {
            "line": slot.note.text[:kept].decode("latin-1"),
            "client": f"{client}:{peer.port}" if client else "",
            "age_s": max(0, fc_loop_clock() // 1000000 - slot.note.since_ms) / 1000,
        }


def do_nothing():
    """Let a turn happen."""


cdef class Watch:
    def __cinit__(self):
        memset(&self.source, 0, sizeof(fc_source))
        self.source.fd = -1
        self.source.urgent = 1


cdef int64_t milliseconds(object seconds) except -1:
    return <int64_t>(seconds * 1000)


cdef int connection_limit(int wanted, int inherited) except -1:
    """Return the most connections a worker holds, from the limit on descriptors."""
    cdef object soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    cdef int fits
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 20
    fits = max(8, int(min(soft, 1 << 20)) * 8 // 10 - DESCRIPTORS_KEPT - inherited)
    return min(wanted, fits) if wanted else fits


cdef Limits limits_of(object config, int inherited) except *:
    cdef Limits limits
    limits.request_line = config.limit_request_line_bytes
    limits.fields = config.limit_request_fields
    limits.field_size = config.limit_request_field_bytes
    limits.head = config.limit_request_head_bytes
    limits.body = config.limit_request_body_bytes
    limits.unread_body = config.limit_unread_body_bytes
    limits.body_rate = config.limit_body_rate
    limits.requests = config.limit_keep_alive_requests
    limits.connections = connection_limit(config.limit_connections, inherited)
    limits.keep_alive_ms = milliseconds(config.timeout_keep_alive_s)
    limits.head_ms = milliseconds(config.timeout_head_s)
    limits.body_ms = milliseconds(config.timeout_body_s)
    limits.write_ms = milliseconds(config.timeout_write_s)
    # A request may be under way.  Who develops wants the new code to answer it, and a
    # browser that finds its idle connection closed opens another without a word.
    limits.first_byte_ms = 100 if config.reload else 2000
    limits.quiet_ms = 20 if config.reload else 500
    limits.high_water = config.high_water_bytes
    limits.low_water = config.low_water_bytes
    limits.allow_connect = config.allow_connect
    return limits


cdef class Server(Service):
    """An HTTP/1.1 server for one process.

    handler: runs the application.  config: a config.Config.  board, slot, inbox
    and outboxes come from the primary and let this worker hand connections to its
    siblings; without them it keeps what it accepts.  number: what applications see
    as request.worker, if that is not the slot.  bell: an eventfd that is written to
    when somebody who waits for a free worker is to look at the board.
    """

    def __cinit__(self):
        memset(&self.resume_at, 0, sizeof(fc_deadline))
        memset(&self.head, 0, sizeof(fc_head))
        memset(&self.date, 0, sizeof(fc_date))
        self.loop.poll_fd = -1
        self.spare_fd = self.waker_write = self.bell_fd = -1

    def __init__(self, Handler handler not None, object config, *, Board board=None, int slot=0,
                 object number=None, object inbox=None, object outboxes=(), object log=None,
                 object access=None, int bell=-1):
        cdef int i
        self.handler = handler
        if config.limit_concurrency:
            self.handler = self.gate = OverloadHandler(self.handler, config)
        if config.livez or config.readyz:
            self.handler = HealthHandler(self.handler, config)
        self.config = config
        self.limits = limits_of(config, len(outboxes))
        self.log = log if log is not None else logging.getLogger("fastcluster")
        self.observer = observer_for(config, access)
        if config.forwarded_allow_ips:
            self.proxies = Proxies(config.forwarded_allow_ips)
        self.index = slot
        self.worker = slot if number is None else number
        self.server_field = b"fastcluster" if config.server_header else b""
        self.date_field = config.date_header
        self.listeners = []
        self.watches = []
        self.callbacks = {}
        self.consumers_later = []
        self.posted = deque()
        check(fc_loop_init(&self.loop))
        fc_wheel_init(&self.wheel, self.loop.now_ms)
        self.clock_ns = self.worked_ns = self.loop.now_ns
        self.tray = self.take_tray()
        self.parser = self.take_parser()
        self.board = board
        # Without siblings a board of one line: its alignment is more than an
        # object of Python's can give.
        self.own_board = Board(1) if board is None else None
        self.slot = self.own_board.at(0) if board is None else board.at(slot)
        self.slot.pid = os.getpid()
        self.slot.limit = FC_SLOT_NO_LIMIT
        self.bell_fd = bell
        self.generation = self.slot.generation
        self.outboxes = list(outboxes)
        self.n_outboxes = len(self.outboxes)
        self.outbox_fds = <int *>calloc(<size_t>max(1, self.n_outboxes), sizeof(int))
        for i in range(self.n_outboxes):
            self.outbox_fds[i] = self.outboxes[i].fileno()
        self.spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._make_waker()
        if inbox is not None:
            self.inbox = inbox
            self.inbox_fd = inbox.fileno()
            self._watch_source(inbox.fileno(), INBOX, None)

    def __dealloc__(self):
        cdef fc_out *tray
        cdef fc_parser *parser
        if self.tray != NULL:
            self.give_tray(self.tray)
        if self.parser != NULL:
            self.give_parser(self.parser)
        while self.trays != NULL:
            tray = self.trays
            self.trays = tray.next
            fc_out_delete(tray)
        while self.parsers != NULL:
            parser = self.parsers
            self.parsers = parser.next
            fc_parser_delete(parser)
        fc_head_free(&self.head)
        free(self.outbox_fds)
        if self.loop.poll_fd >= 0:
            fc_loop_destroy(&self.loop)

    # ---- what is watched

    def _make_waker(self):
        cdef int reading
        reading, self.waker_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.waker = self._watch_source(reading, CALLBACK, None)
        self.waker.callback = self._woken

    def _woken(self):
        try:
            os.read(self.waker.source.fd, 4096)
        except BlockingIOError:
            pass
        # Cleared last: what was posted meanwhile is taken in this very turn, and
        # what comes later finds the pipe empty and wakes us again.
        self.wake_is_due = False

    cdef Watch _watch_source(self, int fd, uint8_t kind, Listener listener):
        cdef Watch watch = Watch.__new__(Watch)
        watch.source.fd = fd
        watch.source.kind = kind
        watch.source.owner = <void *>watch
        watch.listener = listener
        self.watches.append(watch)
        if kind != LISTENER:
            check(fc_loop_watch(&self.loop, &watch.source, FC_READ))
        elif self.accepting:
            check(fc_loop_watch_shared(&self.loop, &watch.source))
        return watch

    def listen(self, object sock, bint accept=True):
        """Accept from a socket that listens already and is non-blocking.

        The socket stays open as long as the server does; returns the Listener
        that applications see.  accept: False if somebody else accepts, and what
        comes from there is in the inbox.
        """
        cdef Listener listener = Listener.__new__(Listener)
        listener.socket = sock
        listener.socket_fd = sock.fileno()
        listener.index = len(self.listeners)
        listener.scheme = "http"
        listener.host = listener.path = ""
        address = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            listener.path = address if isinstance(address, str) else address.decode("latin-1")
        else:
            listener.host, listener.port = address[0], address[1]
            # Accepted sockets inherit it on Linux; a streamed block must not wait
            # for the client's acknowledgement of the one before.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.listeners.append(listener)
        if not accept:
            return listener
        self.accepting = True
        self._watch_source(sock.fileno(), LISTENER, listener)
        return listener

    def watch(self, int fd, object callback):
        """Have callback() called in a turn whenever fd is readable."""
        if fd in self.callbacks:
            raise ValueError(f"descriptor {fd} is watched already")
        cdef Watch watch = self._watch_source(fd, CALLBACK, None)
        watch.callback = callback
        self.callbacks[fd] = watch

    def unwatch(self, int fd):
        """Stop watching fd; the caller closes it afterwards."""
        cdef Watch watch = self.callbacks.pop(fd)
        fc_loop_unwatch(&self.loop, &watch.source)
        watch.source.fd = -1
        watch.callback = None
        self.watches.remove(watch)

    cpdef object post(self, object callback):
        """Have callback() called on the loop's thread soon; callable from any thread.

        After close() nothing is called any more.
        """
        if self.closed:
            return
        self.posted.append(callback)
        if self.wake_is_due:
            return  # and not taken yet: whoever takes it takes this, too
        self.wake_is_due = True
        # Not os.write(), which lets other threads run: one could be the loop's, which may
        # call back and close everything before the byte is written.  The pipe does not
        # block, and if it is full there are wake-ups enough in it.
        if write(self.waker_write, b"!", 1) < 0 and c_errno != EAGAIN:
            raise OSError(c_errno, os.strerror(c_errno))

    def fileno(self):
        """Return the epoll descriptor: readable when turn(0) has something to do."""
        return self.loop.poll_fd

    # ---- one turn

    def ready(self):
        """Say on the scoreboard that this worker takes connections."""
        self.slot.state = FC_SLOT_READY
        self.ring()

    def turn(self, int timeout_ms=-1):
        """Handle all that is ready, waiting at most timeout_ms (-1: for ever) for it.

        Returns how many sources were ready.  Exceptions of signal handlers, such
        as KeyboardInterrupt, pass through; those of applications never do.
        """
        return self.take_turn(timeout_ms)

    cdef int take_turn(self, int timeout_ms) except -1:
        cdef int n, what
        cdef int wait = self.wait_ms(timeout_ms)
        cdef fc_source *source
        fc_slot_beat(self.slot, wait != 0, self.loop.now_ms)
        with nogil:
            n = fc_loop_wait(&self.loop, wait)
        fc_slot_beat(self.slot, 0, self.loop.now_ms)
        self.clock_ns = self.loop.now_ns
        if n < 0:
            if c_errno != EINTR:
                check(n)
            PyErr_CheckSignals()
            n = 0
        source = fc_loop_next(&self.loop, &what)
        while source != NULL:
            if source.kind == CONNECTION:
                self.serve(<HttpConnection>source.owner, what)
            else:
                self.dispatch(source, what)
            source = fc_loop_next(&self.loop, &what)
        self.expire()
        if self.consumers_later:
            self.run_later()
        if self.posted:
            self.run_posted()
        self.shed()
        self.sweep()
        if timeout_ms == 0:
            # A guest: the loop we live in waits for us, but not for our deadlines.
            check(fc_loop_arm(&self.loop, self.guest_wait_ms()))
        self.work_until(self.loop.now_ns)
        return n

    cdef int work_until(self, int64_t since_ns) except -1:
        self.worked_ns = fc_loop_clock()
        fc_slot_worked(self.slot, self.loop.now_ns, since_ns, self.worked_ns)
        return 0

    def rest(self):
        """Say on the scoreboard that the loop we are a guest of goes back to wait."""
        fc_slot_beat(self.slot, 1, self.loop.now_ms)
        self.sweep()
        # What the turn has woken ran since: an application's tasks.
        self.work_until(self.worked_ns)

    cdef int emptied(self) except -1:
        # Between two turns: a guest hears of it by taking another one.
        self.post(do_nothing)
        return 0

    def run(self, int timeout_ms=-1):
        """Take turns until a watched descriptor has called back, or nothing is left to do.

        Returns True after a callback, False once the server is drained or
        timeout_ms are over.  Turn after turn costs no Python this way.
        """
        cdef int64_t until
        fc_loop_refresh(&self.loop)
        until = self.loop.now_ms + timeout_ms
        self.called_back = False
        while not self.called_back:
            if self.draining and self.n_connections == 0:
                return False
            if timeout_ms < 0:
                self.take_turn(-1)
            elif until <= self.loop.now_ms:
                return False
            else:
                self.take_turn(<int>(until - self.loop.now_ms))
        return True

    cdef int wait_ms(self, int timeout_ms) except? -2:
        cdef int64_t due
        if self.consumers_later or self.posted:
            return 0
        if timeout_ms == 0:
            return 0
        due = fc_wheel_wait_ms(&self.wheel, self.loop.now_ms)
        if due < 0 or (timeout_ms >= 0 and timeout_ms < due):
            return timeout_ms
        # One more, since the coarse clock may lag behind the kernel's by a tick.
        return <int>min(due + 1, 3600000)

    cdef int64_t guest_wait_ms(self) noexcept:
        cdef int64_t due = fc_wheel_wait_ms(&self.wheel, self.loop.now_ms)
        # Deadlines may also be set between turns, by answers of the application.
        if self.n_connections and (due < 0 or due > GUEST_TURN_MS):
            return GUEST_TURN_MS
        return due

    cdef int serve(self, HttpConnection connection, int what) except -1:
        try:
            connection.on_ready(what)
        except Exception:
            self.log.exception("internal error: a connection was closed")
            self.crash(connection)
        except BaseException:
            # SystemExit or KeyboardInterrupt, on its way through us.
            self.crash(connection)
            raise
        return 0

    cdef int crash(self, HttpConnection connection) except -1:
        """Give this connection up, in whatever state it is, and keep the others."""
        connection.corked = False
        connection.reset = True
        connection.close()
        self.serving = NULL
        return 0

    cdef int dispatch(self, fc_source *source, int what) except -1:
        cdef Watch watch = <Watch>source.owner
        if source.kind == LISTENER:
            return self.accept_some(watch.listener, ACCEPT_BATCH)
        if source.kind == INBOX:
            return self.read_inbox()
        self.called_back = watch is not self.waker
        try:
            watch.callback()
        except Exception:
            self.log.exception("internal error in a watch's callback")
        return 0

    cdef int expire(self) except -1:
        cdef fc_deadline *deadline = fc_wheel_expired(&self.wheel, self.loop.now_ms)
        cdef HttpConnection connection
        while deadline != NULL:
            if deadline == &self.resume_at:
                self.start_accepting()
            elif deadline.owner == NULL:
                self.gate.expired()
            else:
                connection = <HttpConnection>deadline.owner
                try:
                    connection.on_deadline()
                except Exception:
                    self.log.exception("internal error: a connection was closed")
                    self.crash(connection)
            deadline = fc_wheel_expired(&self.wheel, self.loop.now_ms)
        return 0

    cdef int run_later(self) except -1:
        cdef list consumers = self.consumers_later
        cdef Consumer consumer
        self.consumers_later = []
        for consumer in consumers:
            try:
                consumer.resume()
            except Exception:
                self.log.exception("internal error in a consumer's resume")
        return 0

    cdef int run_posted(self) except -1:
        cdef int i
        # Those that are posted meanwhile wait for the next turn.
        for i in range(len(self.posted)):
            callback = self.posted.popleft()
            try:
                callback()
            except Exception:
                self.log.exception("internal error in a posted callback")
        return 0

    cdef int sweep(self) except -1:
        """Give back the poll set's references to what was closed in this turn."""
        cdef fc_source *source = fc_loop_next_closed(&self.loop)
        while source != NULL:
            Py_DECREF(<object>source.owner)
            source = fc_loop_next_closed(&self.loop)
        return 0

    # ---- new connections

    cdef int accept_some(self, Listener listener, int most) except -1:
        cdef fc_peer peer
        cdef int fd, i
        # Counted before it is accepted, so that no sibling gives us one meanwhile.
        cdef bint counted = self.limited and not self.drops
        for i in range(most):
            if counted and not fc_slot_reserve(self.slot):
                return self.rest_full()
            fd = fc_conn_accept(listener.socket_fd, &peer)
            if fd < 0:
                fc_slot_hold(self.slot, -counted)
                return 0 if fd == FC_AGAIN else self.out_of_descriptors(listener)
            self.slot.accepted += 1
            self.place(fd, &peer, listener, counted)
        return 0

    cdef int out_of_descriptors(self, Listener listener) except -1:
        """accept() failed: nothing that is retried at once gets better by it."""
        cdef int error = c_errno
        cdef int fd
        cdef fc_peer peer
        if error not in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
            self.log.error("accept failed: %s", os.strerror(error))
            return self.pause_accepting()
        self.log.warning(
            "out of descriptors or memory (%s): accepting pauses; raise the limit (ulimit -n) "
            "or lower --limit-connections", os.strerror(error))
        if self.spare_fd >= 0:
            # The spare descriptor lets us tell one client, by closing, rather
            # than leave it waiting.
            fc_conn_close(self.spare_fd)
            fd = fc_conn_accept(listener.socket_fd, &peer)
            if fd >= 0:
                fc_conn_close(fd)
        try:
            self.spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.spare_fd = -1
        return self.pause_accepting()

    cdef int place(self, int fd, fc_peer *peer, Listener listener, bint counted) except -1:
        # A worker that has other work ready in this turn passes a connection on at
        # a tie, too: the waiting one answers at once.
        cdef int busy = fc_loop_left(&self.loop) > 0
        if self.limited and self.drops and self.slot.connections >= self.slot.limit:
            return self.drop(fd, peer, listener)
        if self.hand_over(fd, listener, 0, self.slot.connections - counted - 1 + busy):
            fc_slot_hold(self.slot, -counted)
            fc_conn_close(fd)
            return 0
        if not counted:
            fc_slot_hold(self.slot, 1)
        return self.take_in(fd, peer, listener, 0)

    cdef bint hand_over(self, int fd, Listener listener, uint32_t requests, int32_t most):
        """Pass a connection to a waiting worker that holds at most so many; True if one did."""
        cdef int target
        if self.n_outboxes < 2 or most < 0 or self.draining:
            return False
        target = fc_board_least(self.board.board, <uint32_t>self.index, most)
        # One that has just come may be known to the board and not yet to us.
        if target < 0 or target >= self.n_outboxes or self.outbox_fds[target] < 0:
            return False
        return self.pass_to(target, fd, listener, requests)

    cdef bint pass_to(self, int target, int fd, Listener listener, uint32_t requests):
        cdef fc_slot *slot = &self.board.board.slot[target]
        cdef fc_parcel parcel
        parcel.listener = <uint32_t>listener.index
        parcel.generation = slot.generation
        parcel.requests = requests
        # Counted before it is sent, so that the next decision sees it.
        if not fc_slot_reserve(slot):
            return False
        if fc_conn_hand_over(self.outbox_fds[target], fd, parcel) != FC_OK:
            fc_slot_hold(slot, -1)
            return False
        self.slot.handed_over += 1
        return True

    cdef int shed(self) except -1:
        """Pass idle connections on while a waiting worker holds at least two fewer.

        What arrives in a burst, or stays when others close, is not balanced by
        choosing well at accept: a sibling that happened not to wait in that
        moment got nothing.
        """
        cdef HttpConnection connection
        cdef int i
        for i in range(SHED_BATCH):
            if self.n_outboxes < 2 or self.slot.connections < 2 or fc_board_least(
                    self.board.board, <uint32_t>self.index, self.slot.connections - 2) < 0:
                return 0
            connection = self.find_idle()
            if connection is None or not self.hand_over(
                    connection.io.source.fd, connection.listener, connection.requests,
                    self.slot.connections - 2):
                return 0
            connection.close()
        return 0

    cdef HttpConnection find_idle(self):
        cdef void *at = self.first
        cdef int i
        for i in range(SHED_SEARCH):
            if at == NULL:
                return None
            if (<HttpConnection>at).is_idle():
                return <HttpConnection>at
            at = (<HttpConnection>at).next
        return None

    cdef int take_in(self, int fd, fc_peer *peer, Listener listener,
                     uint32_t requests) except -1:
        """Open a connection that is counted on our slot already."""
        cdef HttpConnection connection = HttpConnection.__new__(HttpConnection)
        cdef bint above = self.n_connections >= self.limits.connections
        if above and self.n_connections >= self.limits.connections + REFUSED_AT_ONCE:
            fc_slot_hold(self.slot, -1)
            fc_conn_close(fd)
            return 0
        connection.io.source.fd = fd
        connection.io.source.kind = CONNECTION
        connection.io.peer = peer[0]
        connection.service = self
        connection.listener = listener
        connection.requests = requests
        connection.open()
        if above:
            connection.refuse(503, "more than %d connections" % self.limits.connections)
            connection.flush()
            connection.settle()
        return 0

    def take_over(self, int fd):
        """Serve a connection that somebody else has accepted; fd is ours from now on.

        It counts as one of the first listener's.  Called on the loop's thread, in a turn or
        between two of them.
        """
        cdef fc_peer peer
        if self.draining:
            fc_conn_close(fd)
            return
        fc_conn_peer(fd, &peer)
        fc_loop_refresh(&self.loop)
        fc_slot_hold(self.slot, 1)
        self.take_in(fd, &peer, self.listeners[0], 0)

    # ---- a maximum of connections

    def limit_connections(self, object most, bint drop, object on_drop=None):
        """Hold at most so many connections; None: as many as come.

        drop: those above it are closed, each after on_drop(remote, local) with the
        two addresses, (host, port), host None for unix sockets.  Else they wait in
        the listener's queue for a sibling, or until one of ours is closed.
        """
        if most is not None and not 0 <= most < FC_SLOT_NO_LIMIT:
            raise ValueError(f"a maximum of connections is 0 or more, not {most}")
        self.on_drop = on_drop
        self.drops = drop
        self.limited = most is not None
        self.slot.drops = drop
        self.slot.limit = most if most is not None else FC_SLOT_NO_LIMIT
        self.has_room()

    cdef int rest_full(self) except -1:
        self.full = True
        if self.n_connections < self.slot.limit:
            # The last place is promised to one that is on its way, or may get lost on it.
            return self.pause_accepting()
        return self.stop_accepting()

    cdef int has_room(self) except -1:
        if self.full and (self.drops or self.slot.connections < self.slot.limit):
            self.full = False
            self.start_accepting()
        return self.ring()

    cdef int ring(self) except -1:
        cdef int64_t one = 1
        if self.bell_fd < 0 or not fc_board_is_wanted(self.board.board):
            return 0
        # Full, it is rung already.
        if write(self.bell_fd, &one, sizeof(one)) < 0 and c_errno != EAGAIN:
            self.log.error("cannot tell the primary: %s", os.strerror(c_errno))
        return 0

    cdef int drop(self, int fd, fc_peer *peer, Listener listener) except -1:
        cdef char host[64]
        cdef size_t n
        fc_conn_close(fd)
        if self.on_drop is None:
            return 0
        n = fc_peer_text(peer, host, sizeof(host))
        try:
            self.on_drop(
                (host[:n].decode("ascii") if n else None, peer.port if n else None),
                (listener.host or None, listener.port if listener.host else None),
            )
        except Exception:
            self.log.exception("error in a listener for dropped connections")
        return 0

    # ---- parcels

    def add_outbox(self, int slot, object sock):
        """Let connections be handed over through sock to the worker in that slot."""
        cdef int *grown
        cdef int i
        if slot >= self.n_outboxes:
            grown = <int *>calloc(<size_t>slot + 1, sizeof(int))
            if grown == NULL:
                raise MemoryError
            for i in range(slot + 1):
                grown[i] = self.outbox_fds[i] if i < self.n_outboxes else -1
            free(self.outbox_fds)
            self.outbox_fds = grown
            self.outboxes += [None] * (slot + 1 - self.n_outboxes)
            self.n_outboxes = slot + 1
        self.outboxes[slot] = sock
        self.outbox_fds[slot] = sock.fileno()

    cdef int read_inbox(self) except -1:
        self.read_parcels()
        return self.ring()

    cdef int read_parcels(self) except -1:
        cdef fc_parcel parcel
        cdef fc_peer peer
        cdef int fd, i
        for i in range(ACCEPT_BATCH):
            parcel.generation = 0
            fd = fc_conn_receive(self.inbox_fd, &parcel)
            if fd == FC_AGAIN:
                return 0
            if fd < 0:
                self.slot.taken += parcel.generation == self.generation
                # Out of descriptors: the kernel has dropped this one, and the
                # sender had counted it here.
                fc_slot_hold(self.slot, -1)
                self.log.warning("a connection handed over was lost: %s", os.strerror(c_errno))
                return self.pause_accepting()
            if parcel.generation == self.generation:
                self.slot.taken += 1
            else:
                # Sent to our predecessor, whose count went with it.
                fc_slot_hold(self.slot, 1)
            if parcel.listener >= <uint32_t>len(self.listeners):
                fc_slot_hold(self.slot, -1)
                fc_conn_close(fd)
                continue
            fc_conn_peer(fd, &peer)
            if self.limited and self.drops and self.slot.connections > self.slot.limit:
                fc_slot_hold(self.slot, -1)
                self.drop(fd, &peer, self.listeners[parcel.listener])
                continue
            self.take_in(fd, &peer, self.listeners[parcel.listener], parcel.requests)
        return 0

    cdef int pause_accepting(self) except -1:
        self.stop_accepting()
        if not self.draining:
            fc_wheel_set(&self.wheel, &self.resume_at, self.loop.now_ms + ACCEPT_PAUSE_MS)
        return 0

    cdef int start_accepting(self) except -1:
        cdef Watch watch
        if self.draining:
            return 0
        self.accepting = True
        for watch in self.watches:
            if watch.source.kind == LISTENER:
                check(fc_loop_watch_shared(&self.loop, &watch.source))
        return 0

    cdef int stop_accepting(self) except -1:
        cdef Watch watch
        self.accepting = False
        for watch in self.watches:
            if watch.source.kind == LISTENER:
                fc_loop_unwatch(&self.loop, &watch.source)
        return 0

    # ---- the end

    @property
    def drained(self):
        """True once a draining server holds no connection."""
        return self.draining and self.n_connections == 0

    def leave(self):
        """Say from now on that nobody new is to be sent here, and serve who comes."""
        self.leaving = True

    def drain(self, bint last=False):
        """Take nothing new, and serve and close what was accepted.

        Every response from now on says Connection: close; idle connections go
        once they have been quiet for half a second.  last: no other process
        listens any more, so what waits in the listeners' queues is taken first.
        """
        cdef HttpConnection connection
        cdef Listener listener
        cdef void *at
        if not self.draining:
            self._stop_taking()
        elif not last:
            return
        if last:
            self.is_last = True
            for listener in self.listeners:
                self.accept_some(listener, 1 << 16)
        at = self.first
        while at != NULL:
            connection = <HttpConnection>at
            at = connection.next
            connection.retire()

    def _stop_taking(self):
        if self.board is not None:
            # First of all: nobody hands us anything from here on.
            self.slot.state = FC_SLOT_DRAINING
        self.stop_accepting()
        fc_wheel_clear(&self.wheel, &self.resume_at)
        fc_loop_refresh(&self.loop)
        if self.inbox is not None:
            self.read_inbox()
        self.draining = True

    def close(self):
        """Close everything now; connections that were being served are cut off."""
        cdef HttpConnection connection
        cdef Watch watch
        if self.closed:
            return
        self.closed = True
        self.draining = True
        while self.first != NULL:
            connection = <HttpConnection>self.first
            connection.reset = connection.exchange is not None
            connection.close()
        self.sweep()
        for watch in self.watches:
            fc_loop_unwatch(&self.loop, &watch.source)
        os.close(self.waker.source.fd)
        os.close(self.waker_write)
        if self.spare_fd >= 0:
            os.close(self.spare_fd)
        for watch in self.watches:
            watch.source.fd = -1
            watch.callback = None
        self.watches = []
        self.callbacks = {}
        fc_wheel_clear(&self.wheel, &self.resume_at)
