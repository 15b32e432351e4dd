"""WSGI applications on the loop's thread, and the choice of the thread.

Its law: an application that is not promised threads is never called twice at a
time.  A call goes as far as it can in one turn; an iterable that is not at its
end then goes on in a later one, when its client has room or the others have had
theirs.  Where calls run on threads, wsgi_pool.pyx knows how.
"""

import sys
import threading

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t

from fastcluster import __version__
from fastcluster.wsgi_call import FileWrapper

from fastcluster.exchange cimport Connection, Exchange, Handler
from fastcluster.csrc cimport FC_BODY_NONE, fc_span
from fastcluster.spool cimport new_spool, no_body
from fastcluster.wsgi_call cimport Call, FileRange, read_field, read_status
from fastcluster.wsgi_environ cimport EnvironMaker
from fastcluster.wsgi_pool cimport Pool, ThreadCall

cdef enum:
    BLOCKS_A_TURN = 8            # of one iterable, before other connections have their turn
    READERS = 8                  # threads for calls that read their body while it comes
    CALLS_PER_THREAD = 64        # that may wait for a thread
    CALLS_AT_LEAST = 256

# How a response ends.
cdef enum:
    UNDECIDED
    WHOLE
    BROKEN

# For what a call was put off.
cdef enum:
    NOTHING
    ROOM                         # writable() is to come
    TURN                         # resume() is to come


@cython.final
cdef class LoopCall(Call):
    """A call on the loop's thread: it writes to its exchange at once."""

    cdef Pool readers            # whose calls may not run at the same time
    cdef int blocks              # sent in this turn
    cdef int waiting
    cdef int ending              # how the response ends
    cdef bint active             # we are on the stack
    cdef bint stale              # the head was begun in an earlier turn, and is lost

    cdef int launch(self) except -1:
        return self.run(False)

    cdef int run(self, bint again) except -1:
        cdef bint locked = self.readers.holders != 0
        if locked:
            self.readers.app_lock.acquire()
        self.active = True
        try:
            if again:
                self.go_on()
            else:
                self.invoke()
        finally:
            self.active = False
            if locked:
                self.readers.app_lock.release()
            self.end_response()
        return 0

    cdef int end_response(self) except -1:
        # Last of all, since the connection may go on with its next request here
        # and so with the application's next call.
        if self.ending == WHOLE:
            return self.exchange.finish()
        if self.ending == BROKEN:
            return self.exchange.fail(500)
        return 0

    cdef int go_on(self) except -1:
        self.waiting = NOTHING
        self.blocks = 0
        if self.gone:
            return self.over()
        try:
            self.pump()
        except BaseException as error:
            self.failed(error)
        return 0

    cdef int writable(self) except -1:
        return self.run(True) if self.waiting == ROOM else 0

    cdef int resume(self) except -1:
        return self.run(True) if self.waiting == TURN else 0

    cdef int lost(self) except -1:
        self.gone = True
        if self.active or self.done:
            return 0
        return self.run(True)

    cdef bint is_gone(self):
        cdef Connection connection = self.exchange.connection
        return self.gone or connection is None or connection.broken

    cdef int announce(self) except -1:
        cdef Exchange exchange = self.exchange
        cdef fc_span name, value
        self.code = read_status(self.status, &value)
        exchange.start(self.code, value)
        for field in self.fields:
            read_field(field, &name, &value)
            exchange.field(name, value)
        self.stale = False
        return 0

    cdef int put_head(self, int64_t length) except -1:
        if self.stale:
            self.announce()
        if self.exchange.connection is None:
            raise BrokenPipeError("the client is gone")
        return self.exchange.send_head(length)

    cdef int put(self, bytes block) except -1:
        return self.exchange.write(PyBytes_AS_STRING(block), PyBytes_GET_SIZE(block), block)

    cdef int put_file(self, FileRange part) except -1:
        return self.exchange.send_file(part.fd, part.offset, part.length, part)

    cdef bint push(self) except -1:
        cdef Exchange exchange = self.exchange
        if exchange.connection is None:
            raise BrokenPipeError("the client is gone")
        exchange.flush()
        self.blocks += 1
        if exchange.connection.full:
            self.waiting = ROOM
        elif self.blocks >= BLOCKS_A_TURN:
            self.waiting = TURN
            self.service.resume_later(self)
        else:
            return False
        # Other responses are begun in the same place before this one goes on.
        self.stale = not self.head_sent
        exchange.collect(self)
        return True

    cdef int push_and_wait(self) except -1:
        self.exchange.flush()
        if self.exchange.queued() > self.service.limits.high_water:
            self.exchange.wait_writable()
        return 0

    cdef int put_end(self) except -1:
        self.ending = WHOLE
        return 0

    cdef int put_failure(self) except -1:
        self.ending = BROKEN
        return 0


@cython.final
cdef class WsgiHandler(Handler):
    """Runs a WSGI application (PEP 3333).

    app: the callable.  config: a config.Config, of which threads, workers,
    root_path, underscore_fields and body_memory_bytes are used.

    With threads=0 the application runs on the loop's thread, and never twice at
    a time.  Only a request that expects 100 Continue runs on a thread of its
    own, so that its client is told to go on when the body is read and not
    before; a lock keeps it and the loop's calls apart, given up while such a
    call waits for its client.  With threads=N all calls run on N threads.
    """

    cdef object app
    cdef EnvironMaker maker
    cdef size_t body_memory
    cdef Pool pool               # for all calls; None: the loop's thread
    cdef Pool readers            # for the ones that read their body while it comes

    def __init__(self, app, config):
        cdef int threads = config.threads
        self.app = app
        self.body_memory = config.body_memory_bytes
        base = {
            "SERVER_SOFTWARE": f"fastcluster/{__version__}",
            "wsgi.version": (1, 0),
            "wsgi.errors": ErrorStream(),
            "wsgi.input": no_body,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.multithread": threads > 1,
            "wsgi.multiprocess": config.workers != 1,
            "wsgi.run_once": False,
        }
        self.maker = EnvironMaker(base, config.root_path, config.underscore_fields)
        if threads > 0:
            self.pool = Pool(threads, max(CALLS_AT_LEAST, CALLS_PER_THREAD * threads))
            self.readers = self.pool
        else:
            self.readers = Pool(READERS, CALLS_AT_LEAST, threading.Lock())

    def close(self, double timeout_s=1.0):
        """Have the threads end; wait timeout_s seconds at most for what they run."""
        self.readers.close(timeout_s)

    cdef bint mount(self, str prefix) except -1:
        self.maker.mount(prefix)
        return True

    cdef int begin(self, Exchange exchange) except -1:
        cdef LoopCall call
        if self.pool is not None or exchange.framing.expect_continue:
            return self.begin_on_thread(exchange)
        call = LoopCall.__new__(LoopCall)
        call.readers = self.readers
        self.prepare(call, exchange, False)
        if exchange.framing.body == FC_BODY_NONE:
            return call.run(False)
        return self.spool_body(call)

    cdef int begin_on_thread(self, Exchange exchange) except -1:
        cdef bint live = exchange.framing.expect_continue
        cdef ThreadCall call
        if self.readers.is_full():
            return self.readers.turn_away(exchange)
        call = ThreadCall.__new__(ThreadCall)
        call.pool = self.readers
        self.prepare(call, exchange, live)
        exchange.collect(call)
        if live:
            call.read_live()
        elif exchange.framing.body != FC_BODY_NONE:
            return self.spool_body(call)
        return call.launch()

    cdef int prepare(self, Call call, Exchange exchange, bint live) except -1:
        call.app = self.app
        call.exchange = exchange
        call.service = exchange.connection.service
        call.environ = self.maker.make(exchange, live)
        call.is_head = exchange.framing.is_head
        return 0

    cdef int spool_body(self, Call call) except -1:
        call.spool = new_spool(self.body_memory)
        call.environ["wsgi.input"] = call.spool
        return call.exchange.collect(call)


class ErrorStream:
    """wsgi.errors: the process's standard error as it is now."""

    def write(self, text):
        if sys.stderr is not None:
            sys.stderr.write(text)

    def writelines(self, lines):
        for text in lines:
            self.write(text)

    def flush(self):
        if sys.stderr is not None:
            sys.stderr.flush()
