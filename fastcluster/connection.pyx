# connection.pyx: bytes to and from HTTP/1.1 exchanges.
#
# A connection is a phase, a window of bytes not yet understood and at most one
# exchange.  work() takes steps through the window until nothing more can be
# understood now, stashes the rest, sends what was answered with one system call
# and lets settle() decide what to wait for.  This file alone decides keep-alive,
# framing and close.  It runs no application: it calls a Handler and a Consumer,
# and holds their exceptions back from the loop.
#
#   IDLE     between requests; no byte of the next one has come
#   HEAD     a request head has begun
#   BODY     the exchange's body is being read (or discarded)
#   RUNNING  the request is complete, the response is not
#   TUNNEL   the exchange has switched protocols; bytes pass through as they are
#   CLOSING  no more requests; what is queued is still sent
#   LINGER   the sending side is shut; the client's bytes are dropped until it closes
#   CLOSED   the descriptor is gone

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memset

from fastcluster.csrc cimport *
from fastcluster.exchange cimport (
    REQUEST_BODY, REQUEST_BROKEN, REQUEST_DONE, RESPONSE_DONE, RESPONSE_STARTED, RESPONSE_WAITING,
    Connection, Exchange, Consumer, Limits, Service, span_of, span_of_bytes,
)
from fastcluster.parser cimport Door, knows_method, read_head, start_head

cdef enum:
    IDLE
    HEAD
    BODY
    RUNNING
    TUNNEL
    CLOSING
    LINGER
    CLOSED

# What a step says: go on with the rest of the window, or nothing more now.
cdef enum:
    STOP
    GO

cdef enum:
    LINGER_MS = 2000
    DISCARD_MS = 500
    RATE_GRACE_MS = 10000
    BLANK_LINES = 8                 # CRLFs before a request line (RFC 9112 section 2.2)
    LINGER_BYTES = 1 << 20


cdef void give_back_owners(fc_out *out) noexcept:
    cdef void *owner = fc_out_finished(out)
    while owner != NULL:
        Py_DECREF(<object>owner)
        owner = fc_out_finished(out)


# Reference cycles (connection, exchange, consumer) are broken by hand when an
# exchange ends, so the collector need not walk what every request allocates.
@cython.no_gc
cdef class HttpConnection(Connection):
    def __cinit__(self):
        memset(&self.io, 0, sizeof(fc_conn))
        self.io.source.fd = -1

    def __dealloc__(self):
        fc_buf_free(&self.io.input)

    # ---- life

    cdef int open(self) except -1:
        """Join the loop: io.source.fd, io.peer, service and listener are set."""
        cdef Service service = self.service
        cdef HttpConnection first
        self.io.source.owner = <void *>self
        self.io.deadline.owner = <void *>self
        self.phase = IDLE
        check(fc_loop_watch(&service.loop, &self.io.source, FC_READ))
        # The poll set's reference, given back when the closed list is pulled.
        Py_INCREF(self)
        self.next = service.first
        if service.first != NULL:
            first = <HttpConnection>service.first
            first.previous = <void *>self
        service.first = <void *>self
        service.n_connections += 1
        self.set_deadline()
        return 0

    cdef int close(self) except -1:
        cdef Service service = self.service
        cdef int fd = self.io.source.fd
        cdef HttpConnection neighbour
        if self.phase == CLOSED:
            return 0
        self.phase = CLOSED
        fc_loop_close(&service.loop, &self.io.source)
        if self.reset:
            fc_conn_abort(fd)
        else:
            fc_conn_close(fd)
        fc_wheel_clear(&service.wheel, &self.io.deadline)
        if service.serving == <void *>self:
            fc_out_abandon(service.tray)
            give_back_owners(service.tray)
        if self.io.out != NULL:
            fc_out_abandon(self.io.out)
            give_back_owners(self.io.out)
            service.give_tray(self.io.out)
            self.io.out = NULL
        fc_buf_free(&self.io.input)
        if self.previous != NULL:
            neighbour = <HttpConnection>self.previous
            neighbour.next = self.next
        else:
            service.first = self.next
        if self.next != NULL:
            neighbour = <HttpConnection>self.next
            neighbour.previous = self.previous
        self.previous = self.next = NULL
        service.n_connections -= 1
        fc_slot_hold(service.slot, -1)
        self.drop_exchange()
        if service.draining and service.n_connections == 0:
            service.emptied()
        if service.limited:
            service.has_room()
        return 0

    cdef int drop_exchange(self) except -1:
        """Part from the exchange; its consumer hears of it if it was not over."""
        cdef Exchange exchange = self.exchange
        cdef Consumer consumer
        if self.parser != NULL:
            self.service.give_parser(self.parser)
            self.parser = NULL
        self.door = None
        if exchange is None:
            return 0
        if exchange.notes is not None:
            self.service.observer.gone(exchange)
        self.exchange = None
        self.paused = False
        if exchange.ends_by_close and exchange.response_state == RESPONSE_STARTED:
            self.reset = True
        consumer = exchange.consumer
        exchange.consumer = None
        exchange.connection = None
        exchange.request = NULL
        exchange.head_copy = None
        fc_slot_run(self.service.slot, -1)
        if exchange.gate is not None:
            exchange.gate.left(exchange, consumer)
        if exchange.response_state != RESPONSE_DONE:
            fc_count(&self.service.slot.tally.lost, 1)
        if consumer is None or exchange.response_state == RESPONSE_DONE:
            return 0
        try:
            consumer.lost()
        except Exception:
            self.service.log.exception("the application failed while its client was gone")
        return 0

    cdef int retire(self) except -1:
        """The server drains: idle connections go once they have been quiet."""
        cdef Exchange exchange = self.exchange
        if self.phase == IDLE:
            return self.set_deadline()
        if exchange is not None and exchange.consumer is not None:
            exchange.consumer.draining()
        return 0

    cdef bint is_idle(self) noexcept:
        """True between two requests, when all there is to know is the descriptor's."""
        return self.phase == IDLE and self.io.out == NULL and self.io.input.len == 0 and \
            not self.eof and not self.broken and not self.corked

    # ---- reading

    cdef int on_ready(self, int what) except -1:
        if what & FC_WRITE:
            self.on_writable()
        if self.phase == CLOSED:
            return 0
        if what & (FC_READ | FC_HANGUP) and self.io.source.watching & FC_READ:
            return self.read_some()
        if what & FC_HANGUP:
            # Not reading, so this is no half-close: the socket is dead.
            self.broken = True
            self.settle()
        return 0

    cdef int read_some(self) except -1:
        cdef Service service = self.service
        cdef fc_buf *held = &self.io.input
        cdef Window window
        cdef int64_t n
        if held.len == 0:
            n = fc_conn_fill(self.io.source.fd, service.loop.buffer, FC_LOOP_BUFFER)
        else:
            if fc_buf_reserve(held, 16384) < 0:
                raise MemoryError
            n = fc_conn_fill(self.io.source.fd, held.ptr + held.len, held.cap - held.len)
        if n <= 0:
            if n == FC_AGAIN:
                return 0
            if n == FC_EOF:
                return self.on_eof()
            self.broken = True
            return self.settle()
        fc_count(&service.slot.tally.bytes_in, <uint64_t>n)
        if self.phase == LINGER:
            self.discarded += <uint64_t>n
            if self.discarded > LINGER_BYTES:
                return self.close()
        if held.len == 0:
            window.ptr = service.loop.buffer
            window.len = <size_t>n
            window.known = 0
        else:
            held.len += <size_t>n
            window.ptr = held.ptr
            window.len = held.len
            window.known = self.known
        return self.work(&window)

    cdef int on_eof(self) except -1:
        self.eof = True
        if self.phase == LINGER:
            return self.close()
        return self.settle()

    cdef int apply_eof(self) except -1:
        """The client sends nothing more: what does that end?"""
        if self.phase == RUNNING:
            return self.tell_half_closed()
        if self.io.input.len != 0 and (self.full or self.paused):
            return 0  # more was understood than we take now
        if self.phase == TUNNEL or \
                (self.phase == BODY and self.exchange.response_state != RESPONSE_DONE):
            # A cut-off body is no body: the application hears of the loss.
            self.drop_exchange()
        self.keep_alive = False
        self.phase = CLOSING
        return 0

    cdef int tell_half_closed(self) except -1:
        """A client that closed its side only may still wait for its answer."""
        cdef Exchange exchange = self.exchange
        if exchange.consumer is None or exchange.told_half_closed or \
                exchange.response_state == RESPONSE_DONE:
            return 0
        exchange.told_half_closed = True
        try:
            exchange.consumer.half_closed()
        except Exception:
            exchange.failed_by_exception()
        return 0

    # ---- understanding

    cdef int advance(self) except -1:
        """Go on with what is stashed, after something outside of work() changed."""
        cdef Window window
        window.ptr = self.io.input.ptr
        window.len = self.io.input.len
        window.known = self.known
        return self.work(&window)

    cdef int work(self, Window *window) except -1:
        cdef Service service = self.service
        cdef bint has_tray = service.serving == NULL
        if self.phase == CLOSED or self.corked:
            return 0
        self.corked = True
        if has_tray:
            service.serving = <void *>self
        try:
            while self.step(window) == GO:
                pass
            if self.phase != CLOSED:
                self.stash(window)
                # A producer that was stopped is told so by on_writable() alone: if
                # the kernel took everything here, it would wait for that for ever.
                if not self.full:
                    self.flush()
        except:
            # An application's SystemExit, or an error of ours: the tray is clean
            # when it serves the next one.
            self.reset = True
            self.close()
            if has_tray:
                service.serving = NULL
            self.corked = False
            raise
        if has_tray:
            service.serving = NULL
        self.corked = False
        return self.settle()

    cdef int step(self, Window *window) except -1:
        if self.broken or self.phase >= CLOSING:
            window.len = 0
            return STOP
        if self.phase == BODY:
            return self.take_body(window)
        if self.phase == RUNNING:
            if self.exchange.response_state != RESPONSE_DONE:
                return STOP
            return self.conclude(window)
        if self.phase == TUNNEL:
            return self.take_tunnel(window)
        if window.len == window.known:
            return STOP
        if self.is_held_back():
            return STOP
        return self.take_head(window)

    cdef bint is_held_back(self) except -1:
        """Pipelined requests wait while the client takes no answers.

        One read may hold thousands of them, so much that was answered is sent
        before the next one is looked at.
        """
        cdef Service service = self.service
        cdef fc_out *out = self.io.out
        if out == NULL and service.serving == <void *>self:
            out = service.tray
        if out != NULL and out.bytes >= service.limits.high_water and not self.full:
            self.flush()
        return self.full or self.broken

    cdef int take_head(self, Window *window) except -1:
        cdef Service service = self.service
        cdef fc_parser *parser = self.parser
        cdef Door door = self.door
        cdef int verdict
        if parser == NULL:
            if window.ptr[0] == 13 or window.ptr[0] == 10:
                return self.skip_blank_line(window)
            parser = service.parser
            door = start_head(parser)
            window.known = 0
        verdict = read_head(parser, door, window.ptr, window.known, window.len)
        if verdict == FC_HEAD_DONE:
            return self.head_is_done(window, parser)
        if verdict == FC_HEAD_MORE:
            return self.head_is_partial(window, parser, door)
        if verdict == FC_HEAD_TOO_MANY:
            return self.refuse(431, "too many fields")
        return self.head_is_bad(window, parser, door)

    cdef int skip_blank_line(self, Window *window) except -1:
        if window.len == 1 and window.ptr[0] == 13:
            if self.phase == IDLE:
                self.phase = HEAD
                self.since_ms = self.service.loop.now_ms
            return STOP
        if window.ptr[0] == 10 or window.ptr[1] != 10 or self.blank_lines == BLANK_LINES:
            return self.refuse(400, "malformed request line")
        self.blank_lines += 1
        self.phase = IDLE
        window.ptr += 2
        window.len -= 2
        window.known = 0
        return GO

    cdef int head_is_partial(self, Window *window, fc_parser *parser, Door door) except -1:
        cdef Service service = self.service
        cdef Limits *limits = &service.limits
        if window.len > limits.request_line and \
                memchr(window.ptr, 10, limits.request_line) == NULL:
            return self.refuse(414, "request line too long")
        if window.len > limits.head:
            return self.refuse(431, "request head too large")
        if self.phase == IDLE:
            self.phase = HEAD
            self.since_ms = service.loop.now_ms
        window.known = window.len
        if self.parser == NULL:
            # The parser is in the middle of this head: it stays with us.
            self.parser = parser
            self.door = door
            service.parser = NULL
            service.parser = service.take_parser()
        return STOP

    cdef int head_is_bad(self, Window *window, fc_parser *parser, Door door) except -1:
        """Refused by the parser: the request line says with which status."""
        cdef int status = fc_request_line_status(window.ptr, window.len)
        cdef bytes line
        if status == 0:
            return self.head_is_partial(window, parser, door)
        if status == 505:
            return self.refuse(505, "HTTP version other than 1.0 and 1.1")
        if status == 200:
            line = window.ptr[:window.len]
            if not knows_method(line.split(b" ", 1)[0]):
                return self.refuse(501, "unknown method")
        return self.refuse(400, "malformed request head")

    cdef int head_is_done(self, Window *window, fc_parser *parser) except -1:
        cdef Limits *limits = &self.service.limits
        cdef fc_request *request = &parser.request
        cdef fc_framing framing
        cdef const char *why
        cdef int status
        # A head that is short as a whole has no long line: one comparison
        # clears nearly all.
        if request.head_len > limits.request_line or request.head_len > limits.field_size:
            status = check_sizes(request, limits)
            if status == 414:
                return self.refuse(414, "request line too long")
            if status != 0:
                return self.refuse(431, "request head too large" if request.head_len > limits.head
                                   else "request field too large")
        status = fc_request_frame(request, &framing, &why)
        if status != 0:
            return self.refuse(status, (<bytes>why).decode("ascii"))
        if framing.is_connect and not limits.allow_connect:
            return self.refuse(501, "CONNECT is not allowed")
        if limits.body != 0 and framing.body == FC_BODY_COUNTED and framing.length > limits.body:
            return self.refuse(413, "request body too large")
        window.ptr += request.head_len
        window.len -= request.head_len
        window.known = 0
        self.blank_lines = 0
        return self.begin(parser, &framing)

    cdef int begin(self, fc_parser *parser, fc_framing *framing) except -1:
        cdef Service service = self.service
        cdef Exchange exchange = Exchange.__new__(Exchange)
        exchange.connection = self
        exchange.request = &parser.request
        exchange.framing = framing[0]
        exchange.major = parser.request.major
        exchange.minor = parser.request.minor
        exchange.declared = -1
        exchange.began_ms = service.loop.now_ms
        exchange.noticed_ns = service.loop.now_ns
        exchange.queued_ns = fc_span_ns(exchange.noticed_ns, service.clock_ns)
        self.exchange = exchange
        self.requests += 1
        self.keep_alive = framing.keep_alive
        if service.limits.requests != 0 and self.requests >= service.limits.requests:
            self.keep_alive = False
        fc_body_start(&self.body, framing)
        if framing.body != FC_BODY_NONE:
            exchange.request_state = REQUEST_BODY
            self.phase = BODY
            self.since_ms = self.body_since_ms = exchange.began_ms
            self.discarded = 0
            self.paused = False
        else:
            exchange.request_state = REQUEST_DONE
            self.phase = RUNNING
        fc_slot_served(service.slot)
        fc_slot_run(service.slot, 1)
        if service.proxies is not None:
            exchange.ask_proxy()
        if service.observer is not None:
            service.observer.begun(exchange, &parser.request)
        # From the method to the target's end, for whoever wonders what we do.
        fc_slot_note(service.slot, parser.request.base + parser.request.method,
                     parser.request.target + parser.request.target_len - parser.request.method,
                     &self.io.peer, exchange.began_ms)
        try:
            service.handler.begin(exchange)
        except Exception:
            exchange.failed_by_exception()
        if not exchange.kept:
            exchange.request = NULL
            if self.parser != NULL:
                service.give_parser(self.parser)
                self.parser = NULL
        self.door = None
        return GO

    # ---- bodies

    cdef int take_tunnel(self, Window *window) except -1:
        cdef Exchange exchange = self.exchange
        if exchange.response_state == RESPONSE_DONE:
            return self.conclude(window)
        if self.paused or window.len == 0:
            return STOP
        try:
            exchange.consumer.data(window.ptr, window.len)
        except Exception:
            exchange.failed_by_exception()
        window.len = 0
        return GO

    cdef int become_tunnel(self) except -1:
        self.phase = TUNNEL
        self.keep_alive = False
        self.paused = False
        return 0

    cdef int take_body(self, Window *window) except -1:
        cdef fc_span span
        cdef size_t used
        cdef int result
        if self.exchange.response_state == RESPONSE_DONE:
            if not self.keep_alive:
                self.phase = CLOSING
                return STOP
        elif self.paused:
            return STOP
        result = fc_body_next(&self.body, window.ptr, window.len, &used, &span)
        window.ptr += used
        window.len -= used
        if result == FC_BODY_DATA:
            return self.body_bytes(span.ptr, span.len)
        if result == FC_BODY_END:
            return self.body_is_over()
        if result == FC_BODY_BAD:
            return self.break_body(400, "malformed chunked body")
        return STOP

    cdef int body_bytes(self, const char *ptr, size_t len) except -1:
        cdef Service service = self.service
        cdef Exchange exchange = self.exchange
        if service.limits.body != 0 and self.body.received > service.limits.body:
            return self.break_body(413, "request body too large")
        if exchange.consumer is None or exchange.response_state == RESPONSE_DONE:
            self.discarded += len
            if self.discarded > service.limits.unread_body and \
                    exchange.response_state == RESPONSE_DONE:
                self.keep_alive = False
                self.phase = CLOSING
                return STOP
            return GO
        self.since_ms = service.loop.now_ms
        if service.limits.body_rate != 0 and self.body_is_too_slow():
            return self.break_body(408, "request body too slow")
        try:
            exchange.consumer.data(ptr, len)
        except Exception:
            exchange.failed_by_exception()
        return GO

    cdef bint body_is_too_slow(self) noexcept:
        cdef int64_t elapsed_ms = self.since_ms - self.body_since_ms - RATE_GRACE_MS
        if elapsed_ms <= 0:
            return False
        return self.body.received * 1000 < <uint64_t>elapsed_ms * self.service.limits.body_rate

    cdef int body_is_over(self) except -1:
        cdef Exchange exchange = self.exchange
        exchange.request_state = REQUEST_DONE
        self.phase = RUNNING
        if exchange.consumer is None or exchange.response_state == RESPONSE_DONE:
            return GO
        try:
            exchange.consumer.end()
        except Exception:
            exchange.failed_by_exception()
        return GO

    cdef int break_body(self, int status, str why) except -1:
        """The body is not what was announced: nothing after it is a request."""
        cdef Exchange exchange = self.exchange
        cdef int response_state = exchange.response_state
        exchange.request_state = REQUEST_BROKEN
        self.drop_exchange()
        if response_state == RESPONSE_WAITING:
            return self.refuse(status, why)
        self.keep_alive = False
        self.phase = CLOSING
        self.log_refusal(status, why)
        return STOP

    # ---- endings

    cdef int conclude(self, Window *window) except -1:
        """Both sides are done: make room for the next request, or close."""
        cdef bint client_stays = self.exchange.framing.keep_alive
        self.drop_exchange()
        if not self.keep_alive:
            self.phase = CLOSING
            # A client that asked for the close sends nothing after this request,
            # so there is no EOF to linger for.
            self.eof = self.eof or (not client_stays and window.len == 0)
            return STOP
        self.phase = IDLE
        return GO

    cdef int refuse(self, int status, str why) except -1:
        """Answer a request that no application will see, and close."""
        cdef Service service = self.service
        cdef fc_span reason = fc_head_reason(status)
        cdef bytes body = b"%d %s\n" % (status, reason.ptr[:reason.len])
        cdef fc_head *head = &service.head
        cdef bytes length = b"%d" % len(body)
        self.log_refusal(status, why)
        fc_count(&service.slot.tally.refused, 1)
        fc_slot_status(service.slot, status)
        if self.parser != NULL:
            service.give_parser(self.parser)
            self.parser = NULL
        self.door = None
        self.keep_alive = False
        self.phase = CLOSING
        check(fc_head_start(head, status, span_of(NULL, 0)))
        check(fc_head_field(head, span_of(b"Content-Type", 12), span_of(b"text/plain", 10)))
        check(fc_head_finish(head, FC_FRAME_LENGTH, len(body), FC_CONN_CLOSE, service.date_text(),
                             span_of_bytes(service.server_field)))
        check(fc_out_copy(self.outlet(), head.buf.ptr, head.buf.len))
        check(fc_out_copy(self.outlet(), PyBytes_AS_STRING(body), <size_t>len(body)))
        return STOP

    def log_refusal(self, int status, str why):
        self.service.log.info("%s: refused with %d: %s", self.client_host() or "unix client",
                              status, why)

    cdef int stash(self, Window *window) except -1:
        """Keep what is not understood yet; a connection that waits owns nothing."""
        cdef fc_buf *held = &self.io.input
        cdef Exchange exchange = self.exchange
        if exchange is not None and exchange.kept and exchange.head_copy is None:
            self.preserve_head(exchange)
        if window.len == 0:
            if held.ptr != NULL:
                fc_buf_free(held)
            self.known = 0
            return 0
        self.known = window.known
        if held.len != 0:
            fc_buf_consume(held, held.len - window.len)
            return 0
        if fc_buf_append(held, window.ptr, window.len) < 0:
            raise MemoryError
        return 0

    cdef int preserve_head(self, Exchange exchange) except -1:
        """The feed ends and the head is still wanted: copy it, and keep its spans."""
        cdef Service service = self.service
        cdef fc_request *request
        if self.parser == NULL:
            self.parser = service.parser
            service.parser = NULL
            service.parser = service.take_parser()
        request = &self.parser.request
        exchange.head_copy = PyBytes_FromStringAndSize(request.base, request.head_len)
        request.base = PyBytes_AS_STRING(exchange.head_copy)
        exchange.request = request
        return 0

    # ---- writing

    cdef fc_out *outlet(self) except NULL:
        """Where the next bytes go."""
        cdef Service service = self.service
        if self.io.out != NULL:
            return self.io.out
        if service.serving == <void *>self:
            return service.tray
        self.io.out = service.take_tray()
        return self.io.out

    cdef int flush(self) except -1:
        """Send what is queued as far as the socket takes it."""
        cdef Service service = self.service
        cdef fc_out *out = self.io.out
        cdef size_t before
        cdef int result
        if out == NULL:
            if service.serving != <void *>self:
                return 0
            out = service.tray
        if fc_out_is_empty(out):
            return 0
        if self.broken:
            return self.forget_unsent(out)
        before = out.bytes
        result = fc_out_flush(out, self.io.source.fd)
        fc_count(&service.slot.tally.bytes_out, before - out.bytes)
        give_back_owners(out)
        if result == FC_OK:
            self.full = False
            if self.io.out != NULL:
                self.io.out = NULL
                service.give_tray(out)
            return 0
        if result == FC_ERR:
            self.broken = True
            return self.forget_unsent(out)
        if self.io.out == NULL:
            # The tray goes with the connection; the loop gets another.
            self.io.out = out
            service.tray = NULL
            service.tray = service.take_tray()
        if out.bytes < before or not (self.io.source.watching & FC_WRITE):
            fc_wheel_set(&service.wheel, &self.io.deadline,
                         service.loop.now_ms + service.limits.write_ms)
        self.full = out.bytes >= service.limits.high_water
        return 0

    cdef int forget_unsent(self, fc_out *out) except -1:
        """Nobody takes it; and what stayed in the tray would go to the next connection."""
        fc_out_abandon(out)
        give_back_owners(out)
        return 0

    cdef int on_writable(self) except -1:
        cdef bint was_full = self.full
        cdef Exchange exchange = self.exchange
        self.flush()
        if was_full and self.io.out != NULL and self.io.out.bytes > self.service.limits.low_water:
            self.full = True  # it empties, but not far enough yet
            return self.settle()
        self.full = False
        if was_full and not self.broken and exchange is not None and \
                exchange.consumer is not None and exchange.response_state != RESPONSE_DONE:
            self.tell_writable(exchange)
        return self.advance()

    cdef int tell_writable(self, Exchange exchange) except -1:
        self.corked = True
        try:
            exchange.consumer.writable()
        except Exception:
            exchange.failed_by_exception()
        self.corked = False
        return 0

    # ---- waiting

    cdef int settle(self) except -1:
        """Look at both sides and decide: wait for what, until when, or close."""
        if self.phase == CLOSED or self.corked:
            return 0
        if self.broken:
            self.reset = True
            return self.close()
        if self.eof and self.phase < CLOSING:
            self.apply_eof()
        if self.phase == CLOSING and self.io.out == NULL:
            return self.linger()
        self.set_deadline()
        return self.set_interest()

    cdef int linger(self) except -1:
        """Close so that the last response arrives: no reset may overtake it."""
        if self.reset or self.eof:
            return self.close()
        fc_conn_shutdown(self.io.source.fd)
        self.phase = LINGER
        self.discarded = 0
        self.drop_exchange()
        fc_buf_free(&self.io.input)
        self.set_deadline()
        return self.set_interest()

    cdef int set_deadline(self) except -1:
        cdef Service service = self.service
        cdef Limits *limits = &service.limits
        cdef int64_t now = service.loop.now_ms
        cdef int64_t at
        if self.io.out != NULL:
            return 0  # the write deadline stands, flush() moves it
        if self.phase == IDLE:
            if service.draining:
                at = now + (limits.quiet_ms if self.requests else limits.first_byte_ms)
            else:
                at = now + (limits.keep_alive_ms if self.requests else limits.head_ms)
        elif self.phase == HEAD:
            at = self.since_ms + limits.head_ms
        elif self.phase == BODY:
            at = self.body_deadline()
        elif self.phase == LINGER:
            at = now + LINGER_MS if self.discarded == 0 else 0
            if at == 0:
                return 0
        else:
            at = 0
        if at == 0:
            fc_wheel_clear(&service.wheel, &self.io.deadline)
        else:
            fc_wheel_set(&service.wheel, &self.io.deadline, at)
        return 0

    cdef int64_t body_deadline(self) noexcept:
        cdef Exchange exchange = self.exchange
        if exchange.response_state == RESPONSE_DONE:
            return exchange.ended_ms + DISCARD_MS
        if self.paused or (exchange.framing.expect_continue and not exchange.continued):
            return 0  # it is the application that we wait for
        return self.since_ms + self.service.limits.body_ms

    cdef int set_interest(self) except -1:
        cdef int what = 0
        if self.io.out != NULL:
            what |= FC_WRITE
        if not self.eof and self.wants_bytes():
            what |= FC_READ
        check(fc_loop_watch(&self.service.loop, &self.io.source, what))
        return 0

    cdef bint wants_bytes(self) noexcept:
        if self.phase == RUNNING:
            # One request ahead at most; reading on is how a lost client is noticed.
            return self.io.input.len < self.service.limits.head
        if self.phase == BODY:
            return not self.paused or self.exchange.response_state == RESPONSE_DONE
        if self.phase == IDLE:
            return not self.full
        if self.phase == TUNNEL:
            return not self.paused
        return self.phase != CLOSING

    cdef int on_deadline(self) except -1:
        if self.io.out != NULL:
            self.log_deadline("took nothing of its response any more")
            self.broken = True
            return self.settle()
        if self.phase == IDLE:
            self.phase = CLOSING
            return self.settle()
        if self.phase == HEAD:
            return self.refuse_now(408, "request head not complete in time")
        if self.phase == BODY:
            return self.check_body_progress()
        if self.phase == LINGER:
            return self.close()
        return 0

    cdef int refuse_now(self, int status, str why) except -1:
        """refuse() for callers outside of work()."""
        if self.phase == BODY:
            self.break_body(status, why)
        else:
            self.refuse(status, why)
        self.flush()
        return self.settle()

    cdef int check_body_progress(self) except -1:
        if self.exchange.response_state == RESPONSE_DONE:
            self.keep_alive = False
            self.phase = CLOSING
            return self.settle()
        return self.refuse_now(408, "request body made no progress")

    def log_deadline(self, str why):
        self.service.log.info("%s: closed: the client %s", self.client_host() or "unix client", why)


cdef int check_sizes(fc_request *request, Limits *limits) noexcept:
    cdef uint32_t i
    cdef fc_field *field
    # Method, target and version with two spaces and the line's end.
    if request.target + request.target_len + 11 > limits.request_line:
        return 414
    if request.head_len > limits.head:
        return 431
    for i in range(request.n_fields):
        field = &request.fields[i]
        if field.value + field.value_len - field.name > limits.field_size:
            return 431
    return 0
