# overload.pyx: how many requests run at a time, and what becomes of the others.
#
# Its law: at most `limit` requests run, the next ones wait in their order for a
# while, and all others are told at once that it is too much, so that those which
# are served are served as quickly as ever.  A request runs from its head until its
# response is whole; one whose client went, until the application has returned.  A
# WebSocket counts until its handshake is answered.  It knows no applications.

from collections import deque

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.string cimport memset

from fastcluster.csrc cimport fc_wheel_clear, fc_wheel_set
from fastcluster.exchange cimport (
    RESPONSE_DONE, Connection, Consumer, Exchange, Handler, Service, span_of,
)

cdef enum:
    TELL_EVERY_MS = 10000


cdef class OverloadHandler(Handler):
    """Admits requests to inner; config: a config.Config with limit_concurrency."""

    def __cinit__(self):
        memset(&self.due, 0, sizeof(self.due))

    def __init__(self, Handler inner not None, config):
        self.inner = inner
        self.queue = deque()
        self.limit = config.limit_concurrency
        self.room = config.limit_concurrency if config.queue_size is None else config.queue_size
        self.timeout_ms = max(1, <int64_t>(config.queue_timeout_s * 1000))

    @property
    def waiting(self):
        """How many requests wait for their turn."""
        return len(self.queue)

    cdef int begin(self, Exchange exchange) except -1:
        # Who comes now is not to overtake those who wait.
        if self.running < self.limit and not self.queue:
            return self.admit(exchange)
        if len(self.queue) >= self.room:
            return self.refuse(exchange)
        return self.wait(exchange)

    cdef int admit(self, Exchange exchange) except -1:
        self.running += 1
        exchange.gate = self
        return self.inner.begin(exchange)

    # ---- the end of one that ran

    cdef int left(self, Exchange exchange, Consumer consumer) except -1:
        exchange.gate = None
        if consumer is not None and exchange.response_state != RESPONSE_DONE and \
                consumer.is_running():
            consumer.gate = self  # it says released() when it is back
            return 0
        self.released()
        return 0

    def released(self):
        """Hear, on the loop's thread, that one that ran does not run any more."""
        self.running -= 1
        if self.queue and not self.dispatching:
            # Not here: we are somewhere inside of another connection's work.
            self.dispatching = True
            self.service.post(self.dispatch)

    def dispatch(self):
        """Let those who have waited run, as many as may."""
        cdef Waiting waiting
        self.dispatching = False
        while self.queue and self.running < self.limit:
            waiting = self.queue.popleft()
            self.resume(waiting.exchange)
        self.set_deadline()

    cdef int resume(self, Exchange exchange) except -1:
        """Begin a request as its connection would have done."""
        cdef Connection connection = exchange.connection
        exchange.consumer = None
        exchange.told_half_closed = False
        connection.corked = True
        try:
            self.admit(exchange)
        except Exception:
            exchange.failed_by_exception()
        finally:
            connection.corked = False
        if connection.paused and exchange.connection is not None:
            return exchange.proceed()
        return connection.advance()

    # ---- those that wait

    cdef int wait(self, Exchange exchange) except -1:
        cdef Waiting waiting = Waiting.__new__(Waiting)
        self.service = exchange.connection.service
        waiting.door = self
        waiting.exchange = exchange
        waiting.until_ms = self.service.loop.now_ms + self.timeout_ms
        exchange.keep()
        exchange.collect(waiting)
        if exchange.body_is_pending():
            exchange.pause()
        self.queue.append(waiting)
        return self.set_deadline() if len(self.queue) == 1 else 0

    cdef int forget(self, Waiting waiting) except -1:
        self.queue.remove(waiting)
        return self.set_deadline()

    cdef int set_deadline(self) except -1:
        if not self.queue:
            if self.service is not None:
                fc_wheel_clear(&self.service.wheel, &self.due)
            return 0
        fc_wheel_set(&self.service.wheel, &self.due, (<Waiting>self.queue[0]).until_ms)
        return 0

    cdef int expired(self) except -1:
        """The oldest ones have waited for too long."""
        cdef int64_t now_ms = self.service.loop.now_ms
        cdef Waiting waiting
        while self.queue and (<Waiting>self.queue[0]).until_ms <= now_ms:
            waiting = self.queue.popleft()
            waiting.exchange.consumer = None
            self.refuse(waiting.exchange)
        return self.set_deadline()

    # ---- too much

    cdef int refuse(self, Exchange exchange) except -1:
        cdef Service service = exchange.connection.service
        cdef bytes body = b"503 Service Unavailable\n"
        cdef int64_t now_ms = service.loop.now_ms
        self.refused += 1
        if self.told == 0 or now_ms - self.told_ms >= TELL_EVERY_MS:
            service.log.warning(
                "overload: %d requests run and %d wait (--limit-concurrency, --queue-size, "
                "--queue-timeout): %d answered with 503", self.running, len(self.queue),
                self.refused - self.told)
            self.told = self.refused
            self.told_ms = now_ms
        exchange.start(503, span_of(NULL, 0))
        exchange.field(span_of(b"Content-Type", 12), span_of(b"text/plain", 10))
        exchange.field(span_of(b"Retry-After", 11), span_of(b"1", 1))
        exchange.send_head(PyBytes_GET_SIZE(body))
        exchange.write(PyBytes_AS_STRING(body), <size_t>PyBytes_GET_SIZE(body), body)
        return exchange.finish()


@cython.final
cdef class Waiting(Consumer):
    cdef int lost(self) except -1:
        return self.door.forget(self)
