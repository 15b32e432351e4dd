# websocket_link.pyx: one WebSocket as a protocol (RFC 6455): frames, closing, pings.
#
# Its laws: neither side can make the other keep more than a bounded number of
# bytes; what came before an error is answered before it; and every ending says
# why, in a Close frame while the client can still read one.  Who takes the
# messages is the affair of its subclass.

import random

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastcluster.csrc cimport *
from fastcluster.deflate cimport Deflate
from fastcluster.exchange cimport Connection, Exchange, Service
from fastcluster.tasks cimport Call
from fastcluster.websocket_frames cimport (
    FRAMES_BAD, FRAMES_MORE, Reader, close_payload, read_close,
)


cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    CLOSE_WAIT_S = 10            # for the client's Close
    DOOM_WAIT_S = 1              # for the application, after the client broke a rule
    DEFLATE_FROM = 256           # bytes; what is shorter is sent as it is

# Over which part of the grace period the good-byes are spread when the server
# drains; the rest is for the clients' answers, before a guest cancels what is left.
cdef double LEAVING_PART = 0.7

cdef int drain_code(Service service) noexcept:
    return 1001 if service.is_last else 1012


cdef class Link(Call):
    def __dealloc__(self):
        fc_buf_free(&self.rest)

    cdef str line(self):
        raise NotImplementedError

    cdef bint has_room(self) noexcept:
        return True

    cdef bint has_unread(self) noexcept:
        return False

    cdef int deliver(self, object message) except -1:
        raise NotImplementedError

    cdef int closed(self) except -1:
        return 0

    cdef int open(self, Deflate deflate) except -1:
        self.state = OPEN
        self.reader = Reader.__new__(Reader)
        self.reader.most = self.runner.config.ws_max_size_bytes
        self.reader.deflate = deflate
        self.heard = True
        self.pinged_at = self.runner.loop.time()
        self.ping_later()
        if self.service.draining:
            self.schedule_leave()
        return 0

    # ---- what the connection says

    cdef int data(self, const char *ptr, size_t len) except -1:
        try:
            self.feed(ptr, len)
        except Exception:
            self.service.log.exception("%s: internal error", self.line())
            self.fail(1011, "internal error")
        return 0

    cdef int feed(self, const char *ptr, size_t len) except -1:
        cdef size_t used = 0
        self.heard = True
        if self.doomed:
            return 0
        if self.rest.len == 0:
            used = self.take(ptr, len)
        if self.state == CLOSED or used == len:
            return 0
        if self.rest_at != 0:
            fc_buf_consume(&self.rest, self.rest_at)
            self.rest_at = 0
        if fc_buf_append(&self.rest, ptr + used, len - used) < 0:
            raise MemoryError
        if self.rest.len > self.service.limits.high_water:
            self.exchange.pause()
        return 0

    cdef int lost(self) except -1:
        self.exchange = None
        if self.state == OPEN and self.rest.len != 0:
            # What had come before is still received.
            return Call.writable(self)
        return self.finish(1006, "")

    cdef int writable(self) except -1:
        cdef bytes pong = self.pong
        if pong is not None:
            self.pong = None
            self.put_control(FC_WS_PONG, pong)
        return Call.writable(self)

    cdef int draining(self) except -1:
        return self.schedule_leave() if self.state == OPEN else 0

    # ---- from the client

    cdef size_t take(self, const char *ptr, size_t len) except? 0:
        """Understand bytes as long as there is room for messages; return how many."""
        cdef Reader reader = self.reader
        cdef size_t used = 0
        cdef size_t n = 0
        cdef int found
        while self.state != CLOSED:
            if self.state == OPEN and not self.has_room():
                return used
            found = reader.next(ptr + used, len - used, &n)
            used += n
            if found == FRAMES_MORE:
                return used
            if found == FRAMES_BAD:
                self.doom()
                return len
            if found == FC_WS_CLOSE:
                self.take_close(reader.payload)
            elif found == FC_WS_PING:
                self.put_control(FC_WS_PONG, reader.payload)
            elif found != FC_WS_PONG:
                message = reader.message
                reader.message = None
                if self.state == OPEN:
                    self.deliver(message)
        return len

    cdef int take_rest(self) except -1:
        """There is room again: go on with the bytes that were put aside."""
        cdef Exchange exchange
        cdef size_t used
        if self.rest.len != 0:
            used = self.take(self.rest.ptr + self.rest_at, self.rest.len - self.rest_at)
            self.rest_at += used
            if self.rest_at >= self.rest.len or self.state == CLOSED:
                fc_buf_free(&self.rest)
                self.rest_at = 0
            self.flush_later()
        if self.rest.len - self.rest_at > self.service.limits.high_water:
            return 0
        exchange = self.exchange
        if exchange is None:
            return self.finish(1006, "") if self.rest.len == 0 else 0
        if exchange.connection.paused:
            fc_loop_refresh(&self.service.loop)
            exchange.proceed()
        return 0

    # ---- frames

    cdef int put_message(self, int opcode, object message) except -1:
        cdef Deflate deflate = self.reader.deflate
        cdef const char *ptr
        cdef Py_ssize_t len = 0
        if opcode == FC_WS_TEXT:
            ptr = PyUnicode_AsUTF8AndSize(message, &len)
        else:
            ptr = PyBytes_AS_STRING(message)
            len = PyBytes_GET_SIZE(message)
        if deflate is not None and len >= DEFLATE_FROM:
            if opcode == FC_WS_TEXT:
                message = PyBytes_FromStringAndSize(ptr, len)
            message = deflate.compress(message)
            ptr = PyBytes_AS_STRING(message)
            len = PyBytes_GET_SIZE(message)
            opcode |= FC_WS_RSV1
        return self.put_frame(FC_WS_FIN | opcode, ptr, <size_t>len, message)

    cdef int put_frame(self, int first, const char *ptr, size_t len, object owner) except -1:
        cdef char head[FC_WS_OWN_HEAD_MAX]
        cdef size_t n = fc_ws_write_head(head, first, len)
        self.exchange.write(head, n, None)
        return self.exchange.write(ptr, len, owner)

    cdef int put_control(self, int opcode, bytes payload) except -1:
        """Send a control frame if the connection still takes one."""
        cdef Exchange exchange = self.exchange
        if exchange is None or self.state != OPEN or exchange.connection.broken:
            return 0
        if opcode == FC_WS_PONG and exchange.connection.full:
            # A client that takes nothing gets the last pong only, when it does again
            # (RFC 6455 section 5.5.3).
            self.pong = payload
            return 0
        return self.put_frame(FC_WS_FIN | opcode, PyBytes_AS_STRING(payload),
                              <size_t>PyBytes_GET_SIZE(payload), payload)

    cdef int flush_later(self) except -1:
        """Flush what is queued once the task has had its say: one system call for all."""
        cdef Exchange exchange = self.exchange
        if exchange is None or exchange.connection.corked or self.flush_due:
            return 0
        self.flush_due = True
        return self.runner.flush_soon(self)

    cdef int resume(self) except -1:
        self.flush_due = False
        return self.flush()

    cdef int flush(self) except -1:
        cdef Exchange exchange = self.exchange
        if exchange is None or exchange.connection is None:
            return 0
        if exchange.connection.full:
            # Those that wait for room are woken by writable() alone, which nobody
            # would call if the kernel took everything here.
            return 0
        if not exchange.connection.corked:
            fc_loop_refresh(&self.service.loop)
        return exchange.flush()

    # ---- closing

    cdef int take_close(self, bytes payload) except -1:
        cdef int code
        cdef str reason = read_close(payload, &code)
        if reason is None:
            return self.fail(code, "a malformed Close frame")
        if self.state == CLOSING:
            return self.finish(self.code if code == 1005 else code, reason)
        self.put_control(FC_WS_CLOSE, close_payload(code, ""))
        return self.finish(code, reason)

    cdef int send_close(self, int code, str reason) except -1:
        """Begin to close: the client has CLOSE_WAIT_S to answer."""
        if self.doomed:
            return self.fail(self.reader.code, self.reader.why)
        self.put_control(FC_WS_CLOSE, close_payload(code, reason))
        self.state = CLOSING
        self.code = code
        self.reason = reason
        self.cancel_timers()
        self.closer = self.runner.loop.call_later(CLOSE_WAIT_S, self.on_close_timeout)
        # Its answer comes behind messages that nobody will receive.
        return self.take_rest()

    def on_close_timeout(self):
        """Hear from the loop that the client does not answer our Close."""
        self.finish(1006, "")

    cdef int doom(self) except -1:
        """The client broke a rule: the end comes behind the answers to what came before."""
        if self.state != OPEN or not self.has_unread():
            return self.fail(self.reader.code, self.reader.why)
        self.doomed = True
        self.cancel_timers()
        self.closer = self.runner.loop.call_later(DOOM_WAIT_S, self.on_doom)
        return 0

    def on_doom(self):
        """Hear from the loop that the application does not ask for what is left."""
        self.fail(self.reader.code, self.reader.why)

    cdef int fail(self, int code, str why) except -1:
        """The client broke a rule: say so, and listen no more."""
        self.service.log.info("%s: closed with %d: %s", self.line(), code, why)
        self.put_control(FC_WS_CLOSE, close_payload(code, why))
        return self.finish(code, why)

    cdef int finish(self, int code, str reason) except -1:
        """Nothing is sent any more, and the connection ends."""
        cdef Exchange exchange = self.exchange
        if self.state == CLOSED:
            return 0
        self.state = CLOSED
        self.doomed = False
        self.code = code
        self.reason = reason
        self.exchange = None
        self.pong = None
        self.cancel_timers()
        self.closed()
        Call.writable(self)
        if exchange is None or exchange.connection is None:
            return 0
        if not exchange.connection.corked:
            fc_loop_refresh(&self.service.loop)
        return exchange.finish()

    def cancel_timers(self):
        """Cancel what was asked of the loop."""
        for timer in (self.pinger, self.closer, self.leaver):
            if timer is not None:
                timer.cancel()
        self.pinger = self.closer = self.leaver = None

    # ---- drain

    cdef int schedule_leave(self) except -1:
        """Close at some moment of the grace period, so that clients do not return all at once."""
        cdef double delay_s
        if self.leaver is None:
            delay_s = random.random() * LEAVING_PART * self.runner.config.timeout_graceful_s
            self.leaver = self.runner.loop.call_later(delay_s, self.on_leave)
        return 0

    def on_leave(self):
        """Hear from the loop that it is our turn to close."""
        self.leaver = None
        if self.state == OPEN and self.exchange is not None:
            self.send_close(drain_code(self.service), "")
            self.flush()

    # ---- pings

    def ping_later(self):
        """Have on_ping() called when a ping, or a look at its answer, is due."""
        cdef double interval = self.runner.config.ws_ping_interval_s
        cdef double timeout = self.runner.config.ws_ping_timeout_s
        cdef double at = interval
        if interval == 0:
            return
        if not self.heard and timeout != 0:
            at = min(interval, timeout)
        self.pinger = self.runner.loop.call_at(self.pinged_at + at, self.on_ping)

    def on_ping(self):
        """Hear from the loop that a ping may be due, or its answer overdue."""
        cdef double now = self.runner.loop.time()
        cdef double timeout = self.runner.config.ws_ping_timeout_s
        cdef Exchange exchange = self.exchange
        self.pinger = None
        if self.state != OPEN or exchange is None:
            return
        if exchange.connection.paused:
            # It is we who do not listen.
            self.heard = True
        if not self.heard and timeout != 0:
            if now >= self.pinged_at + timeout:
                self.fail(1011, "no answer to a ping")
                return
            if timeout > self.runner.config.ws_ping_interval_s:
                self.pinger = self.runner.loop.call_at(self.pinged_at + timeout, self.on_ping)
                return
        elif now >= self.pinged_at + self.runner.config.ws_ping_interval_s:
            self.heard = False
            self.pinged_at = now
            if not exchange.connection.full:
                self.put_control(FC_WS_PING, b"")
                self.flush()
        self.ping_later()
