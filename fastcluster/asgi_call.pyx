"""One call of an ASGI application for one HTTP request (ASGI 3, HTTP & WebSocket 2.5).

An HttpCall is the `receive` and the `send` that the application is given, and
hears from the connection meanwhile.  Its laws: a message that makes no sense is
an exception where it was sent, and changes nothing; more_body False is said of
a body that is whole and of no other; a response that was begun and cannot be
ended, the client sees broken off; what the application raises, SystemExit among
it, is logged once and costs its own request only.
"""

import asyncio
import logging
import os
import reprlib
import stat

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t

from fastcluster.asgi_runner cimport AsgiRunner
from fastcluster.csrc cimport fc_field, fc_loop_refresh, fc_request, fc_request_find, fc_span
from fastcluster.exchange cimport (
    Connection, Exchange, Service, span_of, span_of_bytes,
)
from fastcluster.tasks cimport DONE, Awaitable, Call, Steps, Waiters

cdef enum:
    WAITING       # for http.response.start
    STARTED       # it came; the head is sent with the first body
    STREAMING     # the head is sent
    TRAILERS      # the body is whole, trailers are to come
    COMPLETE

cdef enum:
    HIGH_WATERS = 4    # what may gather for a receive() that was woken and has not run yet

cdef object CancelledError = asyncio.CancelledError
cdef object NO_FIELDS = ()

# What http.response.debug has may be a template with all its values.
cdef object shortener = reprlib.Repr()
shortener.maxstring = shortener.maxother = 200


cdef int begin_http(Exchange exchange, AsgiRunner runner) except -1:
    """Call the application with a request whose head is complete."""
    cdef HttpCall call = HttpCall.__new__(HttpCall)
    call.runner = runner
    return call.begin(exchange)


@cython.final
cdef class HttpCall(Call):
    cdef int begin(self, Exchange exchange) except -1:
        cdef AsgiRunner runner = self.runner
        self.scope = runner.http_scope(exchange)
        self.exchange = exchange
        self.service = exchange.connection.service
        self.method = runner.maker.method
        self.raw_path = runner.maker.raw_path
        self.query = runner.maker.query
        self.ended = not exchange.body_is_pending()
        self.wants_trailers = takes_trailers(exchange.request)
        exchange.collect(self)
        # A task for a request with a body starts a little later: then the body,
        # which mostly comes along, is there before it is asked for.
        return self.begin_task(self.ended)

    cdef object launch(self):
        cdef dict scope = self.scope
        self.scope = None
        return self.runner.app(scope, self.receive, self.send)

    cdef int returned(self) except -1:
        return self.check_answer()

    cdef int raised(self, object error) except -1:
        return self.fail(error)

    cdef str line(self):
        cdef bytes target = self.raw_path
        if self.query:
            target = target + b"?" + self.query
        return f"{self.method} {target.decode('latin-1')}"

    # ---- what the connection says

    cdef int data(self, const char *ptr, size_t len) except -1:
        cdef bytes chunk
        if self.over or self.phase == COMPLETE:
            return 0
        chunk = PyBytes_FromStringAndSize(ptr, <Py_ssize_t>len)
        if self.first is None:
            self.first = chunk
        elif self.others is None:
            self.others = [chunk]
        else:
            self.others.append(chunk)
        self.held += len
        if self.readers is not None:
            self.awaited = True
            self.wake_readers()
        # What is about to be received need not stop the client.
        if self.held >= self.service.limits.high_water * (HIGH_WATERS if self.awaited else 1):
            self.exchange.pause()
        return 0

    cdef int end(self) except -1:
        self.ended = True
        return self.wake_readers()

    cdef int half_closed(self) except -1:
        self.gone = True
        return self.dismiss()

    cdef int lost(self) except -1:
        self.exchange = None
        self.gone = self.lost_client = True
        if not self.ended:
            # A part of a body is no body.
            self.first = None
            self.others = None
            self.held = 0
        self.dismiss()
        return self.writable()

    cdef int dismiss(self) except -1:
        """The client is gone: tell the application."""
        self.wake_readers()
        if self.task is not None and self.runner.config.cancel_on_disconnect:
            self.dismissed = True
            self.task.cancel()
        return 0

    # ---- receive

    def receive(self):
        """Return an awaitable of the next message: http.request or http.disconnect."""
        cdef Receiving receiving = Receiving.__new__(Receiving)
        receiving.call = self
        return receiving

    cdef object next_message(self):
        """What receive() gives now, or NotImplemented if it has to wait."""
        if self.phase == COMPLETE:
            return {"type": "http.disconnect"}
        if not self.received and (self.held != 0 or self.ended):
            return self.next_body()
        if self.gone:
            return {"type": "http.disconnect"}
        if not self.received:
            self.exchange.send_continue()
        return NotImplemented

    cdef object next_body(self):
        cdef bytes body = b"" if self.first is None else self.first
        if self.others is not None:
            body = b"".join([body, *self.others])
            self.others = None
        self.first = None
        self.held = 0
        self.awaited = False
        self.received = self.ended
        if not self.ended:
            self.resume_reading()
            return {"type": "http.request", "body": body, "more_body": True}
        return {"type": "http.request", "body": body, "more_body": False}

    cdef int resume_reading(self) except -1:
        if self.exchange is not None and self.exchange.connection.paused:
            fc_loop_refresh(&self.service.loop)
            self.exchange.proceed()
        return 0

    # ---- send

    def send(self, message):
        """Take a message; return an awaitable that is done when there is room for another.

        RuntimeError: the message does not fit what was sent before.  TypeError,
        ValueError: it makes no sense.  BrokenPipeError: the client is gone.
        """
        cdef object kind = None
        if isinstance(message, dict):
            kind = (<dict>message).get("type")
        if not isinstance(kind, str):
            raise TypeError(f"an ASGI message is a dict with a type, not {message!r:.100}")
        if self.over:
            raise RuntimeError(f"{kind!r} was sent after the application had returned")
        if self.lost_client:
            raise BrokenPipeError("the client is gone")
        if kind == "http.response.body":
            return self.body(message)
        if kind == "http.response.start":
            return self.start(message)
        if kind == "http.response.early_hint":
            return self.early_hint(message)
        if kind == "http.response.trailers":
            return self.trailers(message)
        if kind == "http.response.zerocopysend":
            return self.zero_copy_send(message)
        if kind == "http.response.pathsend":
            return self.path_send(message)
        if kind == "http.response.debug":
            return self.debug(message)
        raise ValueError(f"{kind!r} is no message for the response to an HTTP request")

    cdef object start(self, object message):
        cdef object status = (<dict>message).get("status")
        cdef object fields = (<dict>message).get("headers", NO_FIELDS)
        if self.phase != WAITING:
            raise RuntimeError("http.response.start was sent a second time")
        if not isinstance(status, int):
            raise TypeError(f"the status of http.response.start is an int, not {status!r:.100}")
        if status < 200:
            raise ValueError(f"{int(status)} is no status of a final response")
        self.status = status
        # An iterator could not be gone through again.
        self.fields = fields if isinstance(fields, (list, tuple)) else list(fields)
        self.write_fields()
        self.has_trailers = (<dict>message).get("trailers", False)
        self.phase = STARTED
        return DONE

    cdef int write_fields(self) except -1:
        """Write the head's fields to where the server's one head is made."""
        cdef Exchange exchange = self.exchange
        cdef object pair, name, value
        exchange.start(self.status, span_of(NULL, 0))
        for pair in self.fields:
            if type(pair) is tuple and len(<tuple>pair) == 2:
                name = (<tuple>pair)[0]
                value = (<tuple>pair)[1]
            else:
                name, value = pair
            if not isinstance(name, bytes) or not isinstance(value, bytes):
                raise TypeError(
                    f"name and value of a header are bytes, not {name!r:.100}: {value!r:.100}")
            exchange.field(span_of_bytes(name), span_of_bytes(value))
        self.serial = self.service.head.serial
        return 0

    cdef int put_head(self, int64_t length) except -1:
        if self.serial != self.service.head.serial:
            self.write_fields()  # another response was begun in the same place
        self.exchange.send_head(-1 if self.has_trailers else length)
        self.fields = None
        self.phase = STREAMING
        return 0

    cdef int expect_body(self, str kind) except -1:
        if self.phase == WAITING:
            raise RuntimeError(f"{kind} was sent before http.response.start")
        if self.phase >= TRAILERS:
            raise RuntimeError(f"{kind} was sent after the end of the response's body")
        return 0

    cdef object body(self, object message):
        cdef object content = (<dict>message).get("body", b"")
        cdef bint more = (<dict>message).get("more_body", False)
        cdef bytes block
        cdef Py_ssize_t length
        self.expect_body("http.response.body")
        if isinstance(content, bytes):
            block = content
        elif isinstance(content, (bytearray, memoryview)):
            block = bytes(content)
        else:
            raise TypeError(
                f"the body of http.response.body is bytes, not {type(content).__name__}")
        length = PyBytes_GET_SIZE(block)
        if self.phase == STARTED:
            self.put_head(-1 if more else length)
        if length != 0:
            self.exchange.write(PyBytes_AS_STRING(block), <size_t>length, block)
        return self.sent(more)

    cdef object sent(self, bint more):
        """A part of the body is on its way: what the application waits for before the next."""
        cdef Exchange exchange = self.exchange
        cdef Connection connection = exchange.connection
        cdef Sending sending
        if not more and not self.has_trailers:
            self.conclude(True)
            return DONE
        if not more:
            self.phase = TRAILERS
        if self.began and exchange.queued() < self.service.limits.high_water:
            # More may follow before the application waits: one system call for all of it.
            self.flush_later()
        else:
            # The first part waits for nothing, not even for a task that computes next.
            self.began = True
            if not connection.corked:
                fc_loop_refresh(&self.service.loop)
            exchange.flush()
        if not connection.full:
            self.writable()
            return DONE
        sending = Sending.__new__(Sending)
        sending.call = self
        return sending

    cdef int flush_later(self) except -1:
        """Have what is queued sent when the task waits; a turn that is on does it by itself."""
        if not self.exchange.connection.corked and not self.flush_due:
            self.flush_due = True
            return self.runner.flush_soon(self)
        return 0

    cdef int resume(self) except -1:
        self.flush_due = False
        # A producer that was stopped is told by writable() alone that it may go on.
        if self.exchange is not None and not self.exchange.connection.full:
            fc_loop_refresh(&self.service.loop)
            self.exchange.flush()
        return 0

    cdef object trailers(self, object message):
        if self.phase != TRAILERS:
            raise RuntimeError(
                "http.response.trailers is sent after the last http.response.body, if "
                "http.response.start has announced it")
        for name, value in message.get("headers", NO_FIELDS):
            if not isinstance(name, bytes) or not isinstance(value, bytes):
                raise TypeError(
                    f"name and value of a trailer are bytes, not {name!r:.100}: {value!r:.100}")
            if self.wants_trailers:
                self.exchange.add_trailer(span_of_bytes(name), span_of_bytes(value))
        if not message.get("more_trailers", False):
            self.conclude(True)
        return DONE

    cdef object early_hint(self, object message):
        cdef Exchange exchange = self.exchange
        cdef list links = list(message.get("links", ()))
        for link in links:
            if not isinstance(link, bytes):
                raise TypeError(f"the links of an early hint are bytes, not {link!r:.100}")
        if self.phase == COMPLETE:
            raise RuntimeError("http.response.early_hint was sent after the end of the response")
        if self.phase >= STREAMING or not links:
            return DONE  # a hint after the head hints at nothing
        exchange.start(103, span_of(NULL, 0))
        for link in links:
            exchange.field(span_of(b"Link", 4), span_of_bytes(link))
        exchange.send_informational()
        return DONE

    cdef object debug(self, object message):
        cdef object info = message.get("info")
        if self.phase != WAITING:
            raise RuntimeError("http.response.debug was sent after http.response.start")
        if not isinstance(info, dict):
            raise TypeError(f"the info of http.response.debug is a dict, not {info!r:.100}")
        if self.service.log.isEnabledFor(logging.DEBUG):
            self.service.log.debug(
                "%s: the application says %s", self.line(),
                ", ".join([f"{key}: {shortener.repr(value)}" for key, value in info.items()]))
        return DONE

    # ---- files

    cdef object path_send(self, object message):
        cdef object path = message.get("path")
        cdef Descriptor file
        self.expect_body("http.response.pathsend")
        if self.phase != STARTED:
            raise RuntimeError("http.response.pathsend cannot follow other parts of the body")
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"the path of http.response.pathsend is a str, not {path!r:.100}")
        file = Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        length = length_of(file.fd)
        self.put_head(length)
        self.send_range(file.fd, 0, length, file)
        return self.sent(False)

    cdef object zero_copy_send(self, object message):
        cdef object source = message.get("file")
        cdef object offset = message.get("offset")
        cdef object count = message.get("count")
        cdef bint more = message.get("more_body", False)
        cdef Descriptor file
        cdef int64_t at, length
        self.expect_body("http.response.zerocopysend")
        # A copy, so that the application may close its file at once.
        file = Descriptor(os.dup(source if isinstance(source, int) else source.fileno()))
        length = length_of(file.fd)
        at = os.lseek(file.fd, 0, os.SEEK_CUR) if offset is None else offset
        if at < 0 or (count is not None and count < 0):
            raise ValueError("offset and count of http.response.zerocopysend are not negative")
        length = max(0, length - at)
        if count is not None:
            length = min(length, <int64_t>count)
        if offset is None:
            # As reading would have done it; both descriptors share the position.
            os.lseek(file.fd, at + length, os.SEEK_SET)
        if self.phase == STARTED:
            self.put_head(-1 if more else length)
        self.send_range(file.fd, at, length, file)
        return self.sent(more)

    cdef int send_range(self, int fd, int64_t offset, int64_t length, object owner) except -1:
        if length == 0:
            return 0
        return self.exchange.send_file(fd, offset, length, owner)

    # ---- endings

    cdef int conclude(self, bint whole) except -1:
        """End the response, or cut it off; the connection goes on with its next request."""
        cdef Exchange exchange = self.exchange
        cdef Connection connection = exchange.connection
        cdef bint held_back
        if self.phase == COMPLETE:
            return 0
        self.phase = COMPLETE
        self.exchange = None
        self.fields = None
        self.first = None
        self.others = None
        self.wake_readers()
        if not connection.corked:
            fc_loop_refresh(&self.service.loop)
        held_back = self.runner.hold_back(connection)
        try:
            if whole:
                exchange.finish()
            else:
                exchange.fail(500)
        finally:
            if held_back:
                self.runner.let_go(connection)
        return 0

    cdef int fail(self, object error) except -1:
        """The application let an exception out."""
        if isinstance(error, CancelledError) and (self.dismissed or self.runner.draining):
            if self.exchange is not None:
                self.service.log.warning("%s: cancelled", self.line())
        elif (self.lost_client or self.client_is_leaving()) and is_of_lost_client(error):
            self.service.log.debug("%s: the client went before the response was whole",
                                   self.line())
        else:
            self.service.log.error("%s: the application failed", self.line(),
                                   exc_info=(type(error), error, error.__traceback__))
        if self.exchange is not None:
            self.conclude(False)
        return 0

    cdef int check_answer(self) except -1:
        """The application has returned."""
        if self.exchange is None:
            return 0
        self.service.log.error(
            "%s: the application returned %s", self.line(),
            "without an answer" if self.phase <= STARTED else "before its response was complete")
        return self.conclude(False)


@cython.final
cdef class Receiving(Awaitable):
    """A receive() on its way."""

    cdef HttpCall call

    cdef object take(self):
        return self.call.next_message()

    cdef object wait(self):
        return self.call.wait_to_read()


@cython.final
cdef class Sending(Awaitable):
    """A send() that waits until the client has taken more."""

    cdef HttpCall call

    cdef object take(self):
        cdef HttpCall call = self.call
        if call.lost_client:
            raise BrokenPipeError("the client is gone")
        if call.exchange is None or not call.exchange.connection.full:
            return None
        return NotImplemented

    cdef object wait(self):
        return self.call.wait_to_write()


@cython.final
cdef class Descriptor:
    """A file that is open until the last of it is sent."""

    cdef int fd

    def __cinit__(self, int fd):
        self.fd = fd

    def __dealloc__(self):
        os.close(self.fd)


cdef int64_t length_of(int fd) except -1:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("only a regular file can be sent")
    return status.st_size


cdef bint takes_trailers(const fc_request *request):
    """Tell whether TE names trailers (RFC 9110 section 10.1.4)."""
    cdef const fc_field *field = fc_request_find(request, b"te", 2)
    cdef bytes value
    if field == NULL:
        return False
    value = PyBytes_FromStringAndSize(request.base + field.value, field.value_len)
    return b"trailers" in [word.strip().lower() for word in value.split(b",")]


cdef bint is_of_lost_client(object error):
    """Tell what send() raised, or what the application made of it, from an error of its own."""
    if error is None:
        return False
    if isinstance(error, BaseExceptionGroup):
        return all(is_of_lost_client(inner) for inner in error.exceptions)
    return isinstance(error, BrokenPipeError) or is_of_lost_client(error.__cause__) or \
        is_of_lost_client(error.__context__)
