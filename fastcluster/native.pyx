# native.pyx: runs native handlers: handler(request) and handler(request, response).
#
# Handlers run on the loop's thread, one at a time, and are called when the
# request's body is complete.  What a handler returns is the answer; an iterator
# is sent block by block as the client takes it.  A user's exception ends here:
# it is logged once, and becomes a 500, or a broken connection when the head is
# sent already.  What stands in requests and responses is the affair of
# request.pyx and response.pyx; `async def` handlers are native_async.pyx's, which
# answers and fails by the functions of this file.

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t

from fastcluster.csrc cimport fc_span
from fastcluster.exchange cimport (
    RESPONSE_WAITING, Connection, Consumer, Exchange, Service, span_of,
)
from fastcluster.request cimport Request, new_request
from fastcluster.response cimport Response, begin_head, body_span, has_type, new_response
from fastcluster.spool cimport Spool, new_spool

import functools
import inspect
import json
import traceback

from fastcluster.errors import AppLoadError
from fastcluster.fields import BadRequest


cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(object thing)

cdef enum:
    BLOCKS_A_TURN = 8  # of one iterator, before the other connections have their turn

cdef object encode_json = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


cdef inline fc_span kind_of(object body) noexcept:
    """The Content-Type of a body whose handler names none."""
    if isinstance(body, str):
        return span_of(b"text/plain; charset=utf-8", 25)
    return span_of(b"application/octet-stream", 24)


cdef inline bint is_unanswered(Exchange exchange) noexcept:
    return exchange.connection is not None and exchange.response_state == RESPONSE_WAITING


# ---- which form a handler has

def required_arguments(handler, /):
    """Return how many arguments a handler is called with: 1 or 2.

    It is the number of positional parameters without a default, looked at once,
    when the handler is loaded.  Raises AppLoadError for anything that cannot be
    called that way.
    """
    name = getattr(handler, "__qualname__", None) or repr(handler)
    if not callable(handler):
        raise AppLoadError(f"{name} is no handler: it cannot be called")
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):
        return 1  # compiled code without a signature
    required = 0
    takes_one = False
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            takes_one = True
        elif parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.default is parameter.empty:
                required = 3
        elif parameter.kind is not parameter.VAR_KEYWORD:
            takes_one = True
            required += parameter.default is parameter.empty
    if required > 2 or not takes_one:
        raise AppLoadError(
            f"{name}{inspect.signature(handler)} is no handler: write it as handler(request) or "
            "handler(request, response)")
    return max(1, required)


def is_async(handler, /):
    """Return True for what would return a coroutine or an asynchronous generator."""
    handler = getattr(handler, "__fastcluster_handler__", handler)
    while isinstance(handler, functools.partial):
        handler = handler.func
    for function in (handler, getattr(handler, "__call__", None)):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            return True
    return False


# ---- the handler

cdef class NativeHandler(Handler):
    """Runs a native handler for a Server.

    app: the handler, or an object such as http.Server that has one as
    __fastcluster_handler__.  config: a config.Config.  Raises AppLoadError.
    """

    def __init__(self, app, config):
        self.app = getattr(app, "__fastcluster_handler__", app)
        if is_async(self.app):
            raise AppLoadError(
                f"{self.app!r} is an async handler: it runs in an AsyncNativeHandler")
        self.gives_response = required_arguments(self.app) == 2
        self.memory_bytes = config.body_memory_bytes

    cdef int begin(self, Exchange exchange) except -1:
        cdef Gather gather
        if not exchange.body_is_pending():
            return self.run(exchange, new_request(exchange))
        exchange.keep()
        gather = Gather.__new__(Gather)
        gather.handler = self
        gather.exchange = exchange
        gather.request = new_request(exchange)
        exchange.collect(gather)
        # The handler is called with the whole body, so it is the server who
        # wants it.
        return exchange.send_continue()

    cdef int run(self, Exchange exchange, Request request) except -1:
        """Call the handler and answer; the only reference to request is the caller's."""
        cdef Service service = exchange.connection.service
        try:
            if self.gives_response:
                self.call_with_response(exchange, request)
            else:
                self.call(exchange, request)
        except Exception as error:
            request.detach()  # the traceback's frames hold it, and may be kept
            failed(exchange, service, request.line(), error)
        except:
            request.detach()
            raise
        return 0

    cdef int call(self, Exchange exchange, Request request) except -1:
        cdef object result = self.app(request)
        if Py_REFCNT(request) > 1:
            request.detach()
        return self.answer(exchange, request, result)

    cdef int answer(self, Exchange exchange, Request request, object result) except -1:
        cdef Stream stream = answer(exchange, request, result)
        if stream is None:
            return 0
        exchange.collect(stream)
        return stream.begin()

    cdef int call_with_response(self, Exchange exchange, Request request) except -1:
        cdef Response response = new_response(exchange)
        cdef object result
        try:
            result = self.app(request, response)
            if Py_REFCNT(request) > 1:
                request.detach()
            if response.ended:
                return 0
            if may_be_answered_with(response, result):
                result = with_fields_of(response, result)
                response.part()
                return self.answer(exchange, request, result)
            check_no_coroutine(result)
            if not response.touched:
                raise RuntimeError(
                    "the handler returned without an answer: it has to call response.end()")
            response.end()
        finally:
            response.part()
        return 0


# ---- answers

cdef Stream answer(Exchange exchange, Request request, object result):
    """Send what a handler returned; a body that is to be streamed is left to the caller."""
    cdef Response response
    if isinstance(result, tuple):
        return answer_tuple(exchange, request, result)
    if isinstance(result, Response):
        response = result
        if response.is_bound:
            raise TypeError("the handler returned the Response of another request")
        headers = None
        if response.fields is not None:
            headers = [(entry[1], entry[2]) for entry in response.fields]
        return send(exchange, request, response.status, response.reason, headers,
                    response.body)
    return send(exchange, request, 204 if result is None else 200, None, None, result)


cdef bint may_be_answered_with(Response response, object result) noexcept:
    """True for a Response that a handler(request, response) returned instead of answering."""
    return isinstance(result, Response) and not (<Response>result).is_bound and \
        not response.head_made


cdef Response with_fields_of(Response response, Response value):
    """The value, with the fields that were set on response; its own win, but cookies add up."""
    cdef Response joined
    if response.fields is None:
        return value
    joined = Response(value.body, value.status, None, value.reason)
    for entry in response.fields:
        if entry[0] == "set-cookie" or value.index(entry[0]) < 0:
            joined.add(entry[1], entry[2])
    if value.fields is not None:
        for entry in value.fields:
            joined.add(entry[1], entry[2])
    return joined


cdef Stream answer_tuple(Exchange exchange, Request request, tuple result):
    cdef Py_ssize_t n = len(result)
    if not (2 <= n <= 3 and isinstance(result[0], int)):
        raise TypeError(
            "a tuple that a handler returns is (status, body) or (status, headers, body), "
            f"not {result!r:.100}")
    return send(exchange, request, result[0], None, result[1] if n == 3 else None,
                result[n - 1])


cdef Stream send(Exchange exchange, Request request, int status, object reason, object headers,
                 object body):
    cdef fc_span span = span_of(NULL, 0)
    cdef fc_span kind = kind_of(body)
    cdef object owner = body_span(body, &span)
    if owner is None and body is not None:
        if not isinstance(body, (dict, list)):
            return new_stream(exchange, request, status, reason, headers, body)
        owner = body_span(encode_json(body), &span)
        kind = span_of(b"application/json", 16)
    begin_head(exchange, status, reason, headers)
    if span.len != 0 and not has_type(exchange):
        exchange.field(span_of(b"Content-Type", 12), kind)
    exchange.send_head(<int64_t>span.len)
    if span.len != 0:
        exchange.write(span.ptr, span.len, owner)
    exchange.finish()
    return None


cdef Stream new_stream(Exchange exchange, Request request, int status, object reason,
                       object headers, object body):
    cdef Stream stream = Stream.__new__(Stream)
    check_is_stream(body)
    stream.source = body
    stream.service = exchange.connection.service
    stream.exchange = exchange
    stream.status = status
    stream.reason = reason
    stream.headers = headers
    stream.line = request.line()
    return stream


# ---- failures

cdef int failed(Exchange exchange, Service service, str line, object error) except -1:
    """Log a user's exception, once, and make it an answer or a close."""
    cdef Connection connection = exchange.connection
    if isinstance(error, (BrokenPipeError, TimeoutError)):
        if connection is None or connection.broken:
            service.log.debug("%s: the client went before the response was whole", line)
            return 0
    if isinstance(error, BadRequest) and is_unanswered(exchange):
        service.log.info("%s: refused with %d: %s", line, error.status, error)
        return send_page(exchange, error.status, f"{error}\n")
    trace = trace_of(error)
    service.log.error("%s: the handler failed", line, exc_info=(type(error), error, trace))
    if service.config.env == "development" and is_unanswered(exchange):
        lines = traceback.format_exception(type(error), error, trace)
        return send_page(exchange, 500, "".join(lines))
    return exchange.fail(500)


cdef object trace_of(object error):
    """The traceback without our own frames, which say nothing to the handler's author."""
    trace = error.__traceback__
    cdef tuple ours = ("native.pyx", "native_async.pyx", "tasks.pyx")
    while trace is not None and trace.tb_next is not None and \
            trace.tb_frame.f_code.co_filename.endswith(ours):
        trace = trace.tb_next
    return trace


cdef int send_page(Exchange exchange, int status, str text) except -1:
    cdef bytes body = text.encode("utf-8", "backslashreplace")
    begin_head(exchange, status, None, None)
    exchange.field(span_of(b"Content-Type", 12), kind_of(text))
    exchange.send_head(len(body))
    exchange.write(body, <size_t>len(body), body)
    return exchange.finish()


cdef int check_is_stream(object body) except -1:
    """Refuse what is no body at all before a response is begun with it."""
    check_no_coroutine(body)
    if not hasattr(body, "__iter__") and not hasattr(body, "__aiter__"):
        raise TypeError(
            f"the handler returned {body!r:.100}; a body is bytes, str, dict, list, None or an "
            "iterator of bytes or str, alone, in a Response, or in a tuple after the status")
    return 0


cdef int check_no_coroutine(object result) except -1:
    if result is not None and inspect.iscoroutine(result):
        result.close()
        raise TypeError(
            "the handler returned a coroutine and is no async handler itself: write it with "
            "async def and await there")
    return 0


# ---- request bodies

# The collector need not hear of these two: the exchange lets go of its consumer
# when it is over, and no user's object can refer to one.
@cython.no_gc
@cython.final
cdef class Gather(Consumer):
    cdef int data(self, const char *ptr, size_t len) except -1:
        if self.spool is not None:
            return self.spool.add(ptr, len)
        if self.first is None and len <= self.handler.memory_bytes:
            self.first = PyBytes_FromStringAndSize(ptr, <Py_ssize_t>len)
            return 0
        self.spool = new_spool(self.handler.memory_bytes)
        if self.first is not None:
            self.spool.add(self.first, <size_t>len_of(self.first))
            self.first = None
        return self.spool.add(ptr, len)

    cdef int end(self) except -1:
        cdef Exchange exchange = self.exchange
        cdef Request request = self.request
        cdef Spool spool = self.spool
        self.exchange = None
        self.request = None
        self.spool = None
        request.whole = self.first
        if spool is not None:
            spool.finish()
            if spool.file is None:
                request.whole = spool.take(-1)
            else:
                request.spool = spool
        self.handler.run(exchange, request)
        if request.exchange is not None and request.spool is not None:
            # Nobody else holds the request, so the file can go at once.
            request.spool.release()
        return 0

    cdef int lost(self) except -1:
        if self.spool is not None:
            self.spool.release()
        self.spool = None
        self.request = None
        self.exchange = None
        return 0


cdef inline Py_ssize_t len_of(bytes text) noexcept:
    return len(text)


# ---- streamed responses

@cython.no_gc
@cython.final
cdef class Stream(Consumer):
    cdef int begin(self) except -1:
        """Send it by turns of the server, block by block."""
        if not hasattr(self.source, "__iter__"):
            raise TypeError("an asynchronous iterator needs an async handler: write async def")
        self.blocks = iter(self.source)
        return self.run()

    cdef int run(self) except -1:
        """Send until the end, or until the client or the others have their turn."""
        cdef Exchange exchange = self.exchange
        if self.active or self.source is None:
            return 0
        self.active = True
        try:
            if self.pump():
                self.close()
                if self.exchange is not None:
                    exchange.finish()
        except Exception as error:
            self.close()
            failed(exchange, self.service, self.line, error)
        except:
            self.close()
            raise
        finally:
            self.active = False
        return 0

    cdef bint pump(self) except -1:
        """Send blocks; True: there is nothing more to send."""
        cdef Exchange exchange = self.exchange
        cdef int n = 0
        for block in self.blocks:
            # The application has run: what it called may have closed everything.
            if self.exchange is None:
                return True
            self.put(block)
            if exchange.connection.broken:
                raise BrokenPipeError("the client is gone")
            if exchange.bodyless or exchange.excess:
                return True
            if exchange.connection.full:
                return False  # writable() goes on
            n += 1
            if n == BLOCKS_A_TURN:
                self.service.resume_later(self)
                return False
        if self.exchange is not None:
            self.put_empty()
        return True

    cdef int put_empty(self) except -1:
        """The end has come: a body of no blocks still has a head."""
        if self.head_sent:
            return 0
        begin_head(self.exchange, self.status, self.reason, self.headers)
        return self.exchange.send_head(0)

    cdef int put(self, object block) except -1:
        cdef Exchange exchange = self.exchange
        cdef fc_span span
        cdef object owner = body_span(block, &span)
        if owner is None:
            raise TypeError(
                f"a block of a streamed body is bytes or str, not {type(block).__name__}")
        if not self.head_sent:
            begin_head(exchange, self.status, self.reason, self.headers)
            if not has_type(exchange):
                exchange.field(span_of(b"Content-Type", 12), kind_of(block))
            exchange.send_head(-1)
            self.head_sent = True
        if span.len != 0:
            exchange.write(span.ptr, span.len, owner)
        return exchange.flush()

    cdef int close(self) except -1:
        """Call the close() of what the handler returned, once."""
        source, self.source = self.source, None
        self.blocks = None
        if source is None or not hasattr(source, "close"):
            return 0
        try:
            source.close()
        except Exception:
            self.service.log.exception("%s: close() of the response's iterator failed", self.line)
        return 0

    cdef int writable(self) except -1:
        return self.run()

    cdef int resume(self) except -1:
        return self.run()

    cdef int lost(self) except -1:
        self.exchange = None
        # A generator that runs cannot be closed: run() does it when it is back.
        return 0 if self.active else self.close()
