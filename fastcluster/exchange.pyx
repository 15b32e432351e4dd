# exchange.pyx: one request and its response, for the adapters that run applications.
#
# An exchange refuses what an application may not send (RFC 9110, RFC 9112): it
# frames the body, counts it, and writes through one serializer.  It queues
# bytes at its connection and asks it to go on; when to read, send and close is
# the connection's affair.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.unistd cimport pread

from fastcluster.csrc cimport *

from fastcluster import forwarded

cdef enum:
    SPARES = 64   # trays and parsers kept for reuse
    # A file up to here is read and sent with its head: a system call less, and one packet.
    SMALL_FILE_BYTES = 16384


cdef fc_span span_of(const char *ptr, size_t len) noexcept:
    cdef fc_span span
    span.ptr = ptr
    span.len = len
    return span


cdef fc_span span_of_bytes(bytes text) noexcept:
    return span_of(PyBytes_AS_STRING(text), <size_t>len(text))


cdef class Handler:
    cdef int begin(self, Exchange exchange) except -1:
        raise NotImplementedError

    cdef bint mount(self, str prefix) except -1:
        return False

    cdef int left(self, Exchange exchange, Consumer consumer) except -1:
        return 0

    cdef int expired(self) except -1:
        return 0


cdef class Consumer:
    cdef int data(self, const char *ptr, size_t len) except -1:
        return 0

    cdef int end(self) except -1:
        return 0

    cdef int lost(self) except -1:
        return 0

    cdef int half_closed(self) except -1:
        return 0

    cdef int draining(self) except -1:
        return 0

    cdef int writable(self) except -1:
        return 0

    cdef int resume(self) except -1:
        return 0

    cdef bint is_running(self) except -1:
        return False

    cdef int pass_gate(self, Service service) except -1:
        service.post((<object>self.gate).released)
        self.gate = None
        return 0


cdef class Observer:
    cdef int begun(self, Exchange exchange, fc_request *request) except -1:
        raise NotImplementedError

    cdef int answering(self, Exchange exchange) except -1:
        return 0

    cdef int answered(self, Exchange exchange) except -1:
        return 0

    cdef int ended(self, Exchange exchange) except -1:
        return 0

    cdef int gone(self, Exchange exchange) except -1:
        return 0


cdef class Listener:
    pass


cdef class Service:
    cdef int resume_later(self, Consumer consumer) except -1:
        self.consumers_later.append(consumer)
        return 0

    cdef int emptied(self) except -1:
        return 0

    cdef int has_room(self) except -1:
        return 0

    cpdef object post(self, object callback):
        raise NotImplementedError

    cdef fc_span date_text(self) noexcept:
        if not self.date_field:
            return span_of(NULL, 0)
        return fc_date_text(&self.date, self.loop.unix_second)

    cdef fc_out *take_tray(self) except NULL:
        cdef fc_out *tray = self.trays
        if tray != NULL:
            self.trays = tray.next
            self.n_trays -= 1
            return tray
        tray = fc_out_new()
        if tray == NULL:
            raise MemoryError
        return tray

    cdef void give_tray(self, fc_out *tray) noexcept:
        if self.n_trays == SPARES:
            fc_out_delete(tray)
            return
        tray.next = self.trays
        self.trays = tray
        self.n_trays += 1

    cdef fc_parser *take_parser(self) except NULL:
        cdef fc_parser *parser = self.parsers
        if parser != NULL:
            self.parsers = parser.next
            self.n_parsers -= 1
            return parser
        parser = fc_parser_new(self.limits.fields)
        if parser == NULL:
            raise MemoryError
        return parser

    cdef void give_parser(self, fc_parser *parser) noexcept:
        if self.n_parsers == SPARES:
            fc_parser_delete(parser)
            return
        parser.next = self.parsers
        self.parsers = parser
        self.n_parsers += 1


cdef class Connection:
    cdef str client_host(self):
        cdef char text[64]
        cdef size_t n
        if self.client is None:
            n = fc_peer_text(&self.io.peer, text, sizeof(text))
            self.client = text[:n].decode("ascii")
        return self.client

    cdef int client_port(self):
        return self.io.peer.port

    cdef fc_out *outlet(self) except NULL:
        raise NotImplementedError

    cdef int flush(self) except -1:
        raise NotImplementedError

    cdef int advance(self) except -1:
        raise NotImplementedError

    cdef int settle(self) except -1:
        raise NotImplementedError

    cdef int set_interest(self) except -1:
        raise NotImplementedError

    cdef int preserve_head(self, Exchange exchange) except -1:
        raise NotImplementedError

    cdef int become_tunnel(self) except -1:
        raise NotImplementedError


@cython.no_gc
@cython.freelist(64)
cdef class Exchange:
    # ---- the request

    cdef str client_host(self):
        return self.connection.client_host() if self.origin is None else self.origin[0]

    cdef int client_port(self):
        return self.connection.client_port() if self.origin is None else self.origin[1]

    cdef str scheme(self):
        return self.connection.listener.scheme if self.origin is None else self.origin[2]

    cdef int ask_proxy(self) except -1:
        cdef Connection connection = self.connection
        cdef object proxies = connection.service.proxies
        cdef str peer = connection.client_host()
        if not proxies.trust(peer):
            return 0
        client = proxies.client(self.values(b"x-forwarded-for"))
        scheme = forwarded.scheme(self.values(b"x-forwarded-proto"))
        if client is None:
            client = peer, connection.client_port()
        self.origin = client[0], client[1], scheme or connection.listener.scheme
        return 0

    cdef list values(self, bytes name):
        """Copy the values of all fields of that name, which is in lower case."""
        cdef const fc_request *request = self.request
        cdef const fc_field *field
        cdef uint32_t i
        cdef list found = []
        for i in range(request.n_fields):
            field = &request.fields[i]
            if <Py_ssize_t>field.name_len == len(name) and \
                    self.part(field.name, field.name_len).lower() == name:
                found.append(self.part(field.value, field.value_len))
        return found

    cdef bytes part(self, uint32_t at, uint32_t len):
        return PyBytes_FromStringAndSize(self.request.base + at, len)

    cdef int keep(self) except -1:
        self.kept = True
        return 0

    cdef int collect(self, Consumer consumer) except -1:
        self.consumer = consumer
        return 0

    cdef int pause(self) except -1:
        cdef Connection connection = self.connection
        if connection is None or connection.paused:
            return 0
        connection.paused = True
        connection.paused_ms = connection.service.loop.now_ms
        return connection.settle()

    cdef int proceed(self) except -1:
        cdef Connection connection = self.connection
        cdef int64_t now
        if connection is None or not connection.paused:
            return 0
        now = connection.service.loop.now_ms
        connection.paused = False
        connection.body_since_ms += now - connection.paused_ms
        connection.since_ms = now
        return connection.advance()

    cdef int send_continue(self) except -1:
        cdef Connection connection = self.connection
        cdef fc_head *head
        if connection is None or not self.framing.expect_continue or self.continued:
            return 0
        self.continued = True
        connection.since_ms = connection.body_since_ms = connection.service.loop.now_ms
        if self.response_state != RESPONSE_WAITING:
            return 0
        head = &connection.service.head
        check(fc_head_start(head, 100, span_of(NULL, 0)))
        check(fc_head_finish(head, FC_FRAME_NONE, 0, FC_CONN_NONE, span_of(NULL, 0),
                             span_of(NULL, 0)))
        self.put(head.buf.ptr, head.buf.len, None)
        return self.flush()

    cdef bint body_is_pending(self):
        return self.request_state == REQUEST_BODY

    cdef bint is_tunnel(self):
        return self.switched

    # ---- the response

    cdef int start(self, int status, fc_span reason) except -1:
        if self.connection is None:
            raise BrokenPipeError("the client is gone")
        if self.response_state != RESPONSE_WAITING:
            raise RuntimeError("the response head was sent already")
        if fc_head_start(&self.connection.service.head, status, reason) != FC_OK:
            raise ValueError(
                f"status {status} {span_text(reason)!r}: the status is 100 to 999, "
                "and the reason may not hold control characters"
            )
        self.status = status
        return 0

    cdef int field(self, fc_span name, fc_span value) except -1:
        if fc_head_field(&self.connection.service.head, name, value) != FC_OK:
            raise ValueError(
                f"response field {span_text(name)!r}: {span_text(value)!r} cannot be sent: "
                "a name is a token, a value holds no CR, LF or NUL, and Content-Length is one number"
            )
        return 0

    cdef int send_head(self, int64_t length) except -1:
        cdef Connection connection = self.connection
        cdef Service service = connection.service
        cdef fc_head *head = &service.head
        cdef int frame = FC_FRAME_NONE
        cdef int field
        if head.said & FC_SAID_LENGTH:
            length = head.content_length
        self.bodyless = self.framing.is_head or self.status < 200 or self.status == 204 or \
            self.status == 304
        if not self.bodyless:
            if length >= 0:
                frame = FC_FRAME_LENGTH
                self.declared = length
            elif self.minor >= 1:
                frame = FC_FRAME_CHUNKED
                self.chunked = True
            else:
                connection.keep_alive = False
                self.ends_by_close = True
        elif length > 0 or head.said & FC_SAID_LENGTH:
            # What a GET would have said; but 1xx and 204 never have a length
            # (RFC 9110 section 8.6).
            if self.status >= 200 and self.status != 204:
                frame = FC_FRAME_LENGTH
        if not self.keeps_alive():
            connection.keep_alive = False
        if self.status == 101:
            field = FC_CONN_UPGRADE
        elif not connection.keep_alive:
            field = FC_CONN_CLOSE
        else:
            field = FC_CONN_NONE if self.minor >= 1 else FC_CONN_KEEP
        if self.notes is not None:
            service.observer.answering(self)
        if fc_head_finish(head, frame, length, field, service.date_text(),
                          span_of_bytes(service.server_field)) != FC_OK:
            raise MemoryError
        if self.notes is not None:
            service.observer.answered(self)
        self.response_state = RESPONSE_STARTED
        self.put(head.buf.ptr, head.buf.len, None)
        if self.status == 101:
            self.switched = True
            self.bodyless = False
            if self.gate is not None:
                self.gate.left(self, None)
            connection.become_tunnel()
        return 0

    cdef bint keeps_alive(self) noexcept:
        cdef Connection connection = self.connection
        cdef Service service = connection.service
        if not connection.keep_alive or service.draining or service.head.said & FC_SAID_CLOSE:
            return False
        if self.request_state == REQUEST_DONE:
            return True
        # Not told to go on, the client may send the body or another request.
        if self.framing.expect_continue and not self.continued:
            return False
        if self.consumer is not None:
            return True
        # Nobody reads the body: the connection survives if little of it is left.
        return connection.body.kind == FC_BODY_COUNTED and \
            connection.body.left <= service.limits.unread_body

    cdef int put(self, const char *ptr, size_t len, object owner) except -1:
        """Queue bytes as they are."""
        cdef fc_out *out = self.connection.outlet()
        if owner is None or len <= FC_OUT_COPY_MAX:
            if fc_out_copy(out, ptr, len) < 0:
                raise MemoryError
            return 0
        if fc_out_refer(out, ptr, len, <void *>owner) < 0:
            raise MemoryError
        Py_INCREF(owner)
        return 0

    cdef int room_for(self, uint64_t len, uint64_t *allowed) except -1:
        """Check that body bytes may be sent now, and how many of them."""
        cdef Connection connection = self.connection
        if connection is None or connection.broken:
            raise BrokenPipeError("the client is gone")
        if self.response_state != RESPONSE_STARTED:
            raise RuntimeError("body bytes before the head or after the end of the response")
        allowed[0] = len
        if self.bodyless:
            allowed[0] = 0
        elif self.declared >= 0 and self.sent + len > <uint64_t>self.declared:
            allowed[0] = <uint64_t>self.declared - self.sent
            if not self.excess:
                self.excess = True
                connection.service.log.error(
                    "the response body is longer than its Content-Length of %d bytes: "
                    "the rest is withheld", self.declared)
        return 0

    cdef int write(self, const char *ptr, size_t len, object owner) except -1:
        cdef uint64_t allowed = 0
        cdef char size[20]
        self.room_for(len, &allowed)
        if allowed == 0:
            return 0
        self.sent += allowed
        if not self.chunked:
            return self.put(ptr, <size_t>allowed, owner)
        self.put(size, chunk_size(allowed, size), None)
        self.put(ptr, <size_t>allowed, owner)
        return self.put(b"\r\n", 2, None)

    cdef int send_file(self, int fd, int64_t offset, int64_t len, object owner) except -1:
        cdef uint64_t allowed = 0
        cdef char size[20]
        cdef bytes small
        self.room_for(<uint64_t>len, &allowed)
        if allowed == 0:
            return 0
        self.sent += allowed
        if self.chunked:
            self.put(size, chunk_size(allowed, size), None)
        small = read_small(fd, offset, allowed)
        if small is not None:
            self.put(PyBytes_AS_STRING(small), <size_t>allowed, small)
        elif fc_out_file(self.connection.outlet(), fd, offset, <size_t>allowed,
                         <void *>owner) < 0:
            raise MemoryError
        else:
            Py_INCREF(owner)
        if self.chunked:
            self.put(b"\r\n", 2, None)
        return 0

    cdef int finish(self) except -1:
        cdef Connection connection = self.connection
        if connection is None or self.response_state == RESPONSE_DONE:
            return 0
        if self.response_state == RESPONSE_WAITING:
            raise RuntimeError("the response ends before it has begun")
        if self.chunked and not self.bodyless:
            self.put_last_chunk()
        elif self.declared >= 0 and self.sent < <uint64_t>self.declared:
            connection.service.log.error(
                "the response body is %d bytes short of its Content-Length of %d: "
                "the connection is closed", self.declared - <int64_t>self.sent, self.declared)
            connection.keep_alive = False
        return self.end()

    cdef int put_last_chunk(self) except -1:
        if self.trailers is None:
            return self.put(b"0\r\n\r\n", 5, None)
        self.put(b"0\r\n", 3, None)
        self.put(PyBytes_AS_STRING(self.trailers), <size_t>len(self.trailers), self.trailers)
        return self.put(b"\r\n", 2, None)

    cdef int add_trailer(self, fc_span name, fc_span value) except -1:
        """Gather a trailer field; without a chunked body there is nowhere to put it."""
        cdef fc_head *head
        cdef size_t before
        if self.connection is None or not self.chunked:
            return 0
        # The head's writer checks it and drops what frames or routes a message,
        # which may not stand in trailers (RFC 9110 section 6.5.1).
        head = &self.connection.service.head
        check(fc_head_start(head, 200, span_of(NULL, 0)))
        before = head.buf.len
        self.field(name, value)
        self.trailers = (self.trailers or b"") + head.buf.ptr[before:head.buf.len]
        return 0

    cdef int send_informational(self) except -1:
        cdef Connection connection = self.connection
        cdef fc_head *head = &connection.service.head
        if self.status < 100 or self.status > 199 or self.status == 101:
            raise ValueError(f"{self.status} is no status of an informational response")
        self.status = 0
        if self.minor == 0:
            return 0  # HTTP/1.0 knows none (RFC 9110 section 15.2)
        check(fc_head_finish(head, FC_FRAME_NONE, 0, FC_CONN_NONE, span_of(NULL, 0),
                             span_of(NULL, 0)))
        self.put(head.buf.ptr, head.buf.len, None)
        return self.flush()

    cdef int end(self) except -1:
        cdef Connection connection = self.connection
        cdef Service service = connection.service
        self.response_state = RESPONSE_DONE
        self.ended_ms = service.loop.now_ms
        # The one reading of a clock that a request costs.
        service.clock_ns = fc_loop_clock()
        fc_slot_answered(service.slot, self.status, self.noticed_ns, self.queued_ns,
                         service.clock_ns)
        if self.notes is not None:
            service.observer.ended(self)
        if connection.corked:
            return 0
        return connection.advance()

    cdef int fail(self, int status) except -1:
        cdef bytes body
        cdef fc_span reason
        if self.connection is None or self.response_state == RESPONSE_DONE:
            return 0
        if status >= 500:
            fc_count(&self.connection.service.slot.tally.errors, 1)
        if self.response_state == RESPONSE_STARTED:
            return self.cut_off()
        reason = fc_head_reason(status)
        body = b"%d %s\n" % (status, reason.ptr[:reason.len])
        self.start(status, span_of(NULL, 0))
        self.field(span_of(b"Content-Type", 12), span_of(b"text/plain", 10))
        self.send_head(len(body))
        self.write(PyBytes_AS_STRING(body), <size_t>len(body), body)
        return self.finish()

    cdef int cut_off(self) except -1:
        """End a started response so that the client sees that it is not whole."""
        cdef Connection connection = self.connection
        connection.keep_alive = False
        # Only a reset tells a client that reads until the close.
        connection.reset = connection.reset or self.ends_by_close
        return self.end()

    cdef int failed_by_exception(self) except -1:
        """Called in an except clause: log it, and answer or cut off."""
        if self.connection is None:
            return 0
        self.connection.service.log.exception("the application's handler failed")
        return self.fail(500)

    cdef int flush(self) except -1:
        cdef Connection connection = self.connection
        if connection is None:
            return 0
        connection.flush()
        if not connection.corked:
            connection.set_interest()
        return 0

    cdef size_t queued(self):
        cdef Connection connection = self.connection
        if connection is None:
            return 0
        if connection.io.out != NULL:
            return connection.io.out.bytes
        if connection.service.serving == <void *>connection:
            return connection.service.tray.bytes
        return 0

    cdef int wait_writable(self) except -1:
        cdef Connection connection = self.connection
        cdef Limits *limits
        cdef int result
        if connection is None:
            raise BrokenPipeError("the client is gone")
        limits = &connection.service.limits
        connection.flush()
        while not connection.broken and self.queued() > limits.low_water:
            with nogil:
                result = fc_conn_poll(connection.io.source.fd, FC_WRITE, <int>limits.write_ms)
            if result == FC_AGAIN:
                PyErr_CheckSignals()
                continue
            if check(result) == 0:
                connection.broken = True
                raise TimeoutError("the client took nothing of its response any more")
            connection.flush()
        if connection.broken:
            raise BrokenPipeError("the client is gone")
        return 0


cdef str span_text(fc_span span):
    return span.ptr[:span.len].decode("latin-1")


cdef bytes read_small(int fd, int64_t offset, uint64_t len):
    """Return a small range of a file; None if it is large or cannot be read in full.

    What is wrong then is found, and ends the response, where the kernel is asked to send it.
    """
    cdef bytes data
    if len > SMALL_FILE_BYTES:
        return None
    data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>len)
    if pread(fd, PyBytes_AS_STRING(data), <size_t>len, offset) != <Py_ssize_t>len:
        return None
    return data


cdef size_t chunk_size(uint64_t n, char *text) noexcept:
    """Write the line before a chunk (RFC 9112 section 7.1) and return its length."""
    cdef char digits[16]
    cdef size_t count = 0
    cdef size_t i
    while n != 0:
        digits[count] = b"0123456789abcdef"[n & 15]
        n >>= 4
        count += 1
    for i in range(count):
        text[i] = digits[count - 1 - i]
    text[count] = 13
    text[count + 1] = 10
    return count + 2
