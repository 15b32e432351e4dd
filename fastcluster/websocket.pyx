"""One WebSocket for an ASGI application (ASGI 3, HTTP & WebSocket 2.5).

A WebSocket is the `receive` and the `send` that the application is given.  Its
laws: what the client has sent is received in its order, and then how it ended;
a message that makes no sense is an exception where it was sent, and changes
nothing; what the application raises is logged once and costs its own connection
only.  What goes over the wire is the affair of websocket_link.pyx.
"""

import asyncio
from collections import deque

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastcluster.asgi_runner cimport AsgiRunner
from fastcluster.csrc cimport FC_WS_BINARY, FC_WS_TEXT, fc_loop_refresh, fc_ws_may_send_code
from fastcluster.exchange cimport Connection, Exchange, span_of
from fastcluster.tasks cimport DONE, Awaitable
from fastcluster.websocket_handshake cimport Handshake, put_fields, read_handshake
from fastcluster.websocket_link cimport (
    CLOSED, CLOSING, CONNECTING, DENYING, OPEN, Link, drain_code,
)


cdef extern from "Python.h":
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    int PyUnicode_KIND(object text)

cdef object CancelledError = asyncio.CancelledError


cdef int begin_websocket(Exchange exchange, AsgiRunner runner) except -1:
    """Call the application with a request for a WebSocket."""
    cdef WebSocket websocket = WebSocket.__new__(WebSocket)
    websocket.runner = runner
    return websocket.begin(exchange)


cdef inline size_t bytes_of(object message) noexcept:
    if isinstance(message, bytes):
        return <size_t>PyBytes_GET_SIZE(message)
    return <size_t>PyUnicode_GET_LENGTH(message) * <size_t>PyUnicode_KIND(message)


@cython.final
cdef class WebSocket(Link):
    cdef int begin(self, Exchange exchange) except -1:
        cdef AsgiRunner runner = self.runner
        cdef dict scope = runner.websocket_scope(exchange)
        self.handshake = read_handshake(
            exchange, scope["headers"], runner.config.ws_per_message_deflate)
        if self.handshake is None:
            return 0
        scope["subprotocols"] = self.handshake.subprotocols.copy()
        self.exchange = exchange
        self.service = exchange.connection.service
        self.raw_path = scope["raw_path"]
        self.most_messages = runner.config.ws_max_queue
        self.code = 1006
        self.reason = ""
        exchange.collect(self)
        self.scope = scope
        return self.begin_task(True)

    cdef object launch(self):
        cdef dict scope = self.scope
        self.scope = None
        return self.runner.app(scope, self.receive, self.send)

    cdef int returned(self) except -1:
        return self.app_is_over(None)

    cdef int raised(self, object error) except -1:
        return self.app_is_over(error)

    cdef int leave(self) except -1:
        self.first = self.others = None
        self.n_messages = self.held = 0
        return Link.leave(self)

    cdef str line(self):
        return f"WebSocket {self.raw_path.decode('latin-1')}"

    cdef int app_is_over(self, object error) except -1:
        """The application has returned, or let an exception out."""
        cdef bint answered = self.state >= OPEN
        cdef int code = 1000 if error is None else 1011
        if isinstance(error, CancelledError) and self.runner.draining:
            self.service.log.warning("%s: cancelled", self.line())
            code = drain_code(self.service)
        elif (self.exchange is None or self.client_is_leaving()) and is_of_lost_client(error):
            self.service.log.debug("%s: the client went before all was sent", self.line())
        elif error is not None:
            self.service.log.error("%s: the application failed", self.line(),
                                   exc_info=(type(error), error, error.__traceback__))
        elif not answered and self.exchange is not None:
            self.service.log.error("%s: the application returned before it had %s", self.line(),
                                   "accepted or closed" if self.state == CONNECTING
                                   else "denied completely")
        if self.exchange is None or self.state == CLOSING:
            return 0
        if answered:
            self.send_close(code, "")
            return self.flush()
        self.exchange.fail(500)
        self.exchange = None
        return self.finish(1006, "")

    # ---- what the link says

    cdef bint has_room(self) noexcept:
        return self.n_messages == 0 or (
            self.n_messages < self.most_messages and
            self.held < self.service.limits.high_water)

    cdef bint has_unread(self) noexcept:
        return self.n_messages != 0 and not self.over

    cdef int closed(self) except -1:
        self.handshake = None
        self.denial = None
        return self.wake_readers()

    cdef int deliver(self, object message) except -1:
        if self.over:
            return 0  # nobody receives it any more
        if self.n_messages == 0:
            self.first = message
        else:
            if self.others is None:
                self.others = deque()
            self.others.append(message)
        self.n_messages += 1
        self.held += bytes_of(message)
        return self.wake_readers()

    cdef int half_closed(self) except -1:
        # The connection is in the midst of its own affairs.
        self.runner.call_soon(self.on_half_closed)
        return 0

    def on_half_closed(self):
        """Hear from the loop that a client sends nothing more; a denial it may still read."""
        cdef Exchange exchange = self.exchange
        if self.state != CONNECTING or exchange is None:
            return
        self.exchange = None
        self.finish(1006, "")
        exchange.fail(400)

    # ---- receive

    def receive(self):
        """Return an awaitable of the next message: connect, receive or disconnect."""
        cdef Receiving receiving = Receiving.__new__(Receiving)
        receiving.websocket = self
        return receiving

    cdef object next_message(self):
        """What receive() gives now, or NotImplemented if it has to wait."""
        cdef object message
        if not self.connect_given:
            self.connect_given = True
            return {"type": "websocket.connect"}
        if self.n_messages == 0 and self.rest.len != 0:
            self.take_rest()
        if self.n_messages != 0:
            message = self.pop()
            if isinstance(message, str):
                return {"type": "websocket.receive", "text": message}
            return {"type": "websocket.receive", "bytes": message}
        if self.doomed:
            self.fail(self.reader.code, self.reader.why)
        if self.state == CLOSED:
            return {"type": "websocket.disconnect", "code": self.code, "reason": self.reason}
        return NotImplemented

    cdef object pop(self):
        cdef object message = self.first
        self.n_messages -= 1
        self.held -= bytes_of(message)
        self.first = self.others.popleft() if self.n_messages != 0 else None
        return message

    # ---- send

    def send(self, message):
        """Take a message; return an awaitable that is done when there is room for another.

        RuntimeError: the message does not fit what was sent before.  TypeError,
        ValueError: it makes no sense.  BrokenPipeError: the client is gone, or the
        connection is being closed.
        """
        cdef object kind
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise TypeError(f"an ASGI message is a dict with a type, not {message!r:.100}")
        kind = (<dict>message)["type"]
        if kind == "websocket.send":
            return self.send_data(message)
        if self.over:
            raise RuntimeError(f"{kind!r} was sent after the application had returned")
        if kind == "websocket.accept":
            return self.accept(message)
        if kind == "websocket.close":
            return self.close(message)
        if kind == "websocket.http.response.start":
            return self.start_denial(message)
        if kind == "websocket.http.response.body":
            return self.deny(message)
        raise ValueError(f"{kind!r} is no message for a WebSocket")

    cdef object accept(self, object message):
        cdef Exchange exchange = self.exchange
        cdef Connection connection
        cdef Handshake handshake = self.handshake
        if self.state == CLOSED and not self.app_closed:
            raise BrokenPipeError("the client is gone")
        if self.state != CONNECTING:
            raise RuntimeError("websocket.accept was sent after the handshake had been answered")
        handshake.send(exchange, message.get("subprotocol"), message.get("headers") or ())
        self.handshake = None
        self.open(handshake.deflate)
        connection = exchange.connection
        if not connection.corked:
            fc_loop_refresh(&self.service.loop)
            connection.advance()
        return DONE

    cdef int expect_open(self, str kind) except -1:
        if self.state == OPEN and self.exchange is not None:
            return 0
        if self.state < OPEN:
            raise RuntimeError(f"{kind} was sent before websocket.accept")
        if self.over:
            raise RuntimeError(f"{kind} was sent after the application had returned")
        if self.app_closed:
            raise RuntimeError(f"{kind} was sent after websocket.close")
        raise BrokenPipeError(f"the WebSocket is closed ({self.code})")

    cdef object send_data(self, object message):
        cdef object content = (<dict>message).get("bytes")
        cdef object text = (<dict>message).get("text")
        self.expect_open("websocket.send")
        if (text is None) == (content is None):
            raise ValueError("websocket.send has either text or bytes")
        if text is not None:
            if not isinstance(text, str):
                raise TypeError(f"the text of websocket.send is a str, not {type(text).__name__}")
            self.put_message(FC_WS_TEXT, text)
        elif isinstance(content, bytes):
            self.put_message(FC_WS_BINARY, content)
        elif isinstance(content, (bytearray, memoryview)):
            self.put_message(FC_WS_BINARY, bytes(content))
        else:
            raise TypeError(f"the bytes of websocket.send are bytes, not {type(content).__name__}")
        return self.sent()

    cdef object sent(self):
        """Bytes are on their way: what the application waits for before it sends more."""
        cdef Exchange exchange = self.exchange
        cdef Sending sending
        if exchange.queued() >= self.service.limits.high_water:
            self.flush()
        else:
            self.flush_later()
        if exchange.connection is None or not exchange.connection.full:
            return DONE
        sending = Sending.__new__(Sending)
        sending.websocket = self
        return sending

    cdef object close(self, object message):
        cdef object code = message.get("code")
        cdef object reason = message.get("reason")
        code = 1000 if code is None else code
        reason = "" if reason is None else reason
        if not isinstance(code, int) or not fc_ws_may_send_code(code):
            raise ValueError(
                f"websocket.close cannot have the code {code!r:.20}: it is 1000 to 1003, 1007 to "
                "1014 or 3000 to 4999")
        if not isinstance(reason, str):
            raise TypeError(f"the reason of websocket.close is a str, not {reason!r:.100}")
        if self.app_closed:
            raise RuntimeError("websocket.close was sent after websocket.close")
        if self.state == DENYING:
            raise RuntimeError("websocket.close was sent after websocket.http.response.start")
        if self.exchange is None or self.state == CLOSING:
            return DONE  # it is closed already, and nothing is lost
        self.app_closed = True
        if self.state == CONNECTING:
            self.exchange.start(403, span_of(NULL, 0))
            self.exchange.send_head(0)
            self.finish(1006, "")
            return DONE
        self.send_close(code, reason)
        self.flush()
        return DONE

    # ---- denial: an HTTP response instead of a WebSocket

    cdef object start_denial(self, object message):
        cdef object status = message.get("status")
        cdef list fields = list(message.get("headers") or ())
        if self.state == CLOSED and not self.app_closed:
            raise BrokenPipeError("the client is gone")
        if self.state != CONNECTING:
            raise RuntimeError(
                "websocket.http.response.start was sent after the handshake had been answered")
        if not isinstance(status, int):
            raise TypeError(
                f"the status of websocket.http.response.start is an int, not {status!r:.100}")
        if status < 200:
            raise ValueError(f"{int(status)} is no status of a final response")
        # Other responses may be begun in the same place before the body comes, so
        # the head is written again then; now it is only checked.
        self.exchange.start(status, span_of(NULL, 0))
        put_fields(self.exchange, fields)
        self.denial = (status, fields)
        self.state = DENYING
        return DONE

    cdef object deny(self, object message):
        cdef object content = message.get("body", b"")
        cdef bint more = message.get("more_body", False)
        cdef Exchange exchange = self.exchange
        if self.state == CLOSED and not self.app_closed:
            raise BrokenPipeError("the client is gone")
        if self.state != DENYING:
            raise RuntimeError(
                "websocket.http.response.body was sent before websocket.http.response.start or "
                "after the end of the response")
        if not isinstance(content, bytes):
            raise TypeError(
                f"the body of websocket.http.response.body is bytes, not {type(content).__name__}")
        if self.denial is not None:
            status, fields = self.denial
            self.denial = None
            exchange.start(status, span_of(NULL, 0))
            put_fields(exchange, fields)
            exchange.send_head(-1 if more else len(content))
        if content:
            exchange.write(PyBytes_AS_STRING(content), <size_t>PyBytes_GET_SIZE(content), content)
        if not more:
            self.app_closed = True
            self.finish(1006, "")
            return DONE
        self.flush()
        return self.sent()


@cython.final
cdef class Receiving(Awaitable):
    """A receive() on its way."""

    cdef WebSocket websocket

    cdef object take(self):
        return self.websocket.next_message()

    cdef object wait(self):
        return self.websocket.wait_to_read()


@cython.final
cdef class Sending(Awaitable):
    """A send() that waits until the client has taken more."""

    cdef WebSocket websocket

    cdef object take(self):
        cdef Exchange exchange = self.websocket.exchange
        if exchange is None:
            raise BrokenPipeError(f"the WebSocket is closed ({self.websocket.code})")
        return NotImplemented if exchange.connection.full else None

    cdef object wait(self):
        return self.websocket.wait_to_write()


cdef bint is_of_lost_client(object error):
    """Tell an exception that send() raised, alone or in groups, from the application's own."""
    if error is None:
        return False
    if isinstance(error, BaseExceptionGroup):
        return all(is_of_lost_client(inner) for inner in error.exceptions)
    return isinstance(error, BrokenPipeError)
