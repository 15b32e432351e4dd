"""WSGI calls on threads.

Its law: a thread of the pool never touches an exchange or a connection.  What
the application says is collected in the call's outbox, and the loop's thread
delivers it; a small response is delivered once.  A thread is held by its
application only: a request's body is complete before the call begins (but for
one that waits for 100 Continue), a body that is there as a whole leaves with
the loop, and only an iterable whose client does not keep up makes its thread
wait, since an iterable may depend on the thread it runs on.
"""

import logging
import threading
import time
from queue import SimpleQueue

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.string cimport memset

from fastcluster.exchange cimport Exchange, Service
from fastcluster.csrc cimport (
    FC_OK, fc_head_field, fc_head_free, fc_head_start, fc_span,
)
from fastcluster.spool cimport LiveSpool
from fastcluster.wsgi_call cimport Call, FileRange, read_field, read_status

# What is delivered besides heads, blocks and files.
cdef object END = object()
cdef object FAILURE = object()


@cython.final
cdef class ThreadCall(Call):
    """A call on a pool's thread.

    launch, data, end, lost, writable, deliver and encourage run on the loop's
    thread, everything else on the pool's.
    """

    def __cinit__(self):
        memset(&self.scratch, 0, sizeof(self.scratch))
        self.outbox = []

    def __dealloc__(self):
        fc_head_free(&self.scratch)

    cdef int read_live(self) except -1:
        self.spool = self.live = LiveSpool(
            self.wants_more, self.pool.app_lock, self.service.limits.high_water,
            self.service.limits.low_water)
        self.environ["wsgi.input"] = self.spool
        return 0

    # ---- on the loop's thread

    cdef int launch(self) except -1:
        if self.pool.submit(self):
            return 0
        self.pool.turn_away(self.exchange)
        return self.over()

    cdef int data(self, const char *ptr, size_t len) except -1:
        Call.data(self, ptr, len)
        if self.live is not None and self.live.is_full():
            self.exchange.pause()
        return 0

    cdef int end(self) except -1:
        if self.live is not None:
            return self.live.finish()
        return Call.end(self)

    cdef int lost(self) except -1:
        self.gone = True
        if self.spool is not None and not self.spool.complete:
            self.spool.break_off("the connection was lost before the request body was complete")
        if not self.submitted:
            return 0 if self.done else self.over()
        if self.condition is not None:
            with self.condition:
                self.condition.notify_all()
        return 0

    cdef int writable(self) except -1:
        return self.report()

    cdef bint is_running(self) except -1:
        return self.submitted and not self.done

    def deliver(self):
        cdef list items = None
        with self.condition:
            items = self.outbox
            self.outbox = []
            self.boxed = 0
            self.posted = False
        if self.gone:
            return
        try:
            for item in items:
                self.apply(item)
            self.exchange.flush()
        except Exception as error:
            # Whatever it was, the thread may not wait for it.
            level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
            self.service.log.log(level, "a response cannot be sent: %s", error)
            self.exchange.fail(500)
        self.report()

    cdef int apply(self, item) except -1:
        cdef FileRange part
        if isinstance(item, bytes):
            return self.exchange.write(PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item), item)
        if type(item) is tuple:
            return self.apply_head(item)
        if item is END:
            return self.exchange.finish()
        if item is FAILURE:
            return self.exchange.fail(500)
        part = item
        return self.exchange.send_file(part.fd, part.offset, part.length, part)

    cdef int apply_head(self, tuple head) except -1:
        cdef fc_span name, value
        cdef int status = read_status(head[0], &value)
        self.exchange.start(status, value)
        for field in <list>head[1]:
            read_field(field, &name, &value)
            self.exchange.field(name, value)
        return self.exchange.send_head(head[2])

    # Tells the application's thread how much of its response is still here.
    cdef int report(self) except -1:
        cdef size_t queued = self.exchange.queued()
        with self.condition:
            self.unsent = self.boxed + queued
            if self.unsent <= self.service.limits.high_water:
                self.condition.notify_all()
        return 0

    def encourage(self):
        if not self.gone:
            self.exchange.send_continue()
            self.exchange.proceed()

    # ---- on the application's thread

    def wants_more(self):
        if not self.gone:
            self.service.post(self.encourage)

    cdef int run_with(self, condition) except -1:
        cdef Pool pool = self.pool
        self.condition = condition
        if pool.app_lock is not None:
            pool.app_lock.acquire()
        try:
            # A client that left while its request waited costs no call.
            if self.gone:
                self.over()
            else:
                self.invoke()
        finally:
            if pool.app_lock is not None:
                pool.app_lock.release()
                pool.holders -= 1
        return 0

    cdef int announce(self) except -1:
        cdef fc_span name, value
        self.code = read_status(self.status, &value)
        if fc_head_start(&self.scratch, self.code, value) != FC_OK:
            raise ValueError(f"status {self.status!r}: the reason may not hold control characters")
        # The application may change its list later; what was checked is sent.
        self.fields = list(self.fields)
        for field in self.fields:
            read_field(field, &name, &value)
            if fc_head_field(&self.scratch, name, value) != FC_OK:
                raise ValueError(
                    f"response field {field!r} cannot be sent: a name is a token, a value holds no "
                    "CR, LF or NUL, and Content-Length is one number")
        return 0

    cdef int box(self, item, size_t n) except -1:
        if self.gone:
            raise BrokenPipeError("the client is gone")
        with self.condition:
            self.outbox.append(item)
            self.boxed += n
            self.unsent += n
        return 0

    cdef int put_head(self, int64_t length) except -1:
        return self.box((self.status, self.fields, length), 0)

    cdef int put(self, bytes block) except -1:
        return self.box(block, PyBytes_GET_SIZE(block))

    cdef int put_file(self, FileRange part) except -1:
        return self.box(part, 0)

    cdef int put_end(self) except -1:
        self.box(END, 0)
        return self.post()

    cdef int put_failure(self) except -1:
        if self.gone:
            return 0
        self.box(FAILURE, 0)
        return self.post()

    cdef int post(self) except -1:
        with self.condition:
            if self.posted:
                return 0
            self.posted = True
        self.service.post(self.deliver)
        return 0

    cdef bint push(self) except -1:
        self.push_and_wait()
        return False

    cdef int push_and_wait(self) except -1:
        app_lock = self.pool.app_lock
        self.post()
        if self.unsent <= self.service.limits.high_water:
            return 0
        if app_lock is not None:
            app_lock.release()
        try:
            with self.condition:
                while self.unsent > self.service.limits.high_water and not self.gone:
                    self.condition.wait()
        finally:
            if app_lock is not None:
                app_lock.acquire()
        return 0


@cython.final
cdef class Pool:
    """Threads that run calls, and a bounded queue of calls that wait for one.

    size: the most threads.  limit: the most calls that wait; what comes on top
    is answered with 503 and Retry-After, so that clients and balancers learn of
    the overload and can go elsewhere; reading no more would only hide it.
    """

    def __init__(self, int size, int limit, app_lock=None):
        self.queue = SimpleQueue()
        self.threads = []
        self.size = size
        self.limit = limit
        self.app_lock = app_lock

    cdef bint is_full(self) except -1:
        return self.queue.qsize() >= self.limit

    cdef bint submit(self, ThreadCall call) except -1:
        if self.is_full():
            return False
        self.refusing = False
        call.submitted = True
        if self.app_lock is not None:
            self.holders += 1
        self.queue.put(call)
        # Threads are raised when they are needed: after every fork, and not at
        # all in a worker that has nothing for them to do.
        if self.idle < self.queue.qsize() and len(self.threads) < self.size:
            name = f"fastcluster-wsgi-{len(self.threads) + 1}"
            thread = threading.Thread(target=self.work, name=name, daemon=True)
            self.threads.append(thread)
            thread.start()
        return True

    cdef int turn_away(self, Exchange exchange) except -1:
        cdef bytes body = b"503 Service Unavailable\n"
        cdef Service service = exchange.connection.service
        cdef fc_span name, value
        if not self.refusing:
            self.refusing = True
            service.log.warning(
                "all %d threads are busy and %d requests wait: more are answered with 503",
                self.size, self.limit)
        value.ptr = NULL
        value.len = 0
        exchange.start(503, value)
        for field in (("Content-Type", "text/plain"), ("Retry-After", "1")):
            read_field(field, &name, &value)
            exchange.field(name, value)
        exchange.send_head(len(body))
        exchange.write(PyBytes_AS_STRING(body), len(body), body)
        return exchange.finish()

    def work(self):
        """Run calls until None comes: what each thread does."""
        cdef ThreadCall call
        condition = threading.Condition(threading.Lock())
        while True:
            self.idle += 1
            call = self.queue.get()
            self.idle -= 1
            if call is None:
                return
            try:
                call.run_with(condition)
            except BaseException:
                call.service.log.exception("a thread of the WSGI pool failed")
            call = None

    def close(self, double timeout_s):
        """Have the threads end after all that waits; wait timeout_s seconds at most."""
        deadline = time.monotonic() + timeout_s
        for _ in self.threads:
            self.queue.put(None)
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
