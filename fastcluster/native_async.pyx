"""Runs async native handlers: `async def handler(request)` and `(request, response)`.

Its laws: a handler begins when the request's head is complete, in a task of its
own, and its body comes as the handler reads it; what it writes goes out at once,
and awaiting that waits while more than --high-water bytes are on their way.  What
handlers return and what becomes of their exceptions is decided by native.pyx, how
tasks run by tasks.pyx.
"""

import asyncio
import inspect

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastcluster.csrc cimport fc_loop_refresh, fc_span
from fastcluster.exchange cimport Connection, Exchange
from fastcluster.native cimport Stream, answer, failed, may_be_answered_with, with_fields_of
from fastcluster.request cimport Request
from fastcluster.response cimport Response, begin_head, body_span, chunk_error, pairs_of
from fastcluster.spool cimport new_spool
from fastcluster.tasks cimport DONE, Awaitable, Call, TaskRunner

from fastcluster import fields
from fastcluster.native import required_arguments


cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(object thing)

cdef enum:
    BLOCKS_A_TURN = 8    # of one iterator, before the other tasks have their turn

cdef object CancelledError = asyncio.CancelledError
cdef object sleep = asyncio.sleep
cdef str PARTLY_READ = "the request body was partly read already"


cdef class AsyncNativeHandler(TaskRunner):
    """Runs an async native handler for a Server, in the asyncio loop that attach() names.

    app: the handler, or an object such as http.Server that has one as
    __fastcluster_handler__.  config: a config.Config.  Raises AppLoadError.
    """

    speaks_lifespan = False

    def __init__(self, app, config):
        super().__init__(getattr(app, "__fastcluster_handler__", app), config)
        self.gives_response = required_arguments(self.app) == 2

    cdef int begin(self, Exchange exchange) except -1:
        cdef NativeCall call = NativeCall.__new__(NativeCall)
        call.runner = self
        return call.begin(exchange)


# ---- one call

@cython.final
cdef class NativeCall(Call):
    cdef int begin(self, Exchange exchange) except -1:
        cdef AsyncRequest request = AsyncRequest.__new__(AsyncRequest)
        cdef AsyncResponse response
        request.exchange = exchange
        request.head = exchange.request
        request.framing = &exchange.framing
        request.call = self
        self.exchange = exchange
        self.service = exchange.connection.service
        self.ended = not exchange.body_is_pending()
        if (<AsyncNativeHandler>self.runner).gives_response:
            response = AsyncResponse.__new__(AsyncResponse)
            response.exchange = exchange
            response.status = 200
            response.is_bound = True
            response.call = self
            self.response = response
            response = None
        self.request = request
        exchange.collect(self)
        # A task for a request with a body starts a little later: then the body,
        # which mostly comes along, is there before it is asked for.
        self.begin_task(self.ended)
        # The head is the exchange's until this returns.
        if not self.over or Py_REFCNT(request) > 1:
            request.detach()
        return 0

    cdef object launch(self):
        if self.response is None:
            return self.call(self.request)
        return self.call_with_response(self.request, self.response)

    cdef int raised(self, object error) except -1:
        self.request.detach()  # the traceback's frames hold it
        if self.line is None:
            self.line = self.request.line()
        return self.fail(error)

    async def call(self, request):
        """Call the handler, and send what it returns."""
        result = self.runner.app(request)
        if inspect.isawaitable(result):
            result = await result
        await self.send_result(request, result)

    async def send_result(self, request, result):
        """Send what a handler returned, block by block if it is an iterator."""
        stream = self.answer(request, result)
        if stream is None:
            return
        self.streaming = True
        source = (<Stream>stream).source
        try:
            if hasattr(source, "__aiter__"):
                async for block in source:
                    if self.put(stream, block):
                        break
                    await self.sent()
            else:
                await self.send_iterator(stream, iter(source))
        finally:
            self.streaming = False
            await self.close_source(source, stream)
        if self.exchange is not None:
            (<Stream>stream).put_empty()
            self.finish()

    async def send_iterator(self, stream, blocks):
        """Send the blocks of an iterator that cannot be awaited."""
        n = 0
        for block in blocks:
            if self.put(stream, block):
                return
            await self.sent()
            n += 1
            if n % BLOCKS_A_TURN == 0:
                await sleep(0)

    def put(self, stream, block):
        """Send a block; True: the client needs no more of them."""
        cdef Exchange exchange = self.exchange
        if exchange is None:
            raise BrokenPipeError("the client is gone")
        self.refresh()
        (<Stream>stream).put(block)
        return exchange.bodyless or exchange.excess

    async def close_source(self, source, stream):
        """Have what was iterated over clean up, once."""
        close = getattr(source, "aclose", None) or getattr(source, "close", None)
        if close is None:
            return
        try:
            closing = close()
            if inspect.isawaitable(closing):
                await closing
        except Exception:
            self.service.log.exception("%s: closing the response's iterator failed",
                                       (<Stream>stream).line)

    async def call_with_response(self, request, response):
        """Call the handler, which answers itself."""
        cdef AsyncResponse answered = response
        result = self.runner.app(request, response)
        if inspect.isawaitable(result):
            result = await result
        if answered.ended or self.exchange is None:
            return
        if may_be_answered_with(answered, result):
            result = with_fields_of(answered, result)
            answered.part()
            await self.send_result(request, result)
            return
        if not answered.touched:
            raise RuntimeError(
                "the handler returned without an answer: it has to call response.end()")
        answered.end()

    # ---- endings

    cdef Stream answer(self, Request request, object result):
        cdef Exchange exchange = self.exchange
        cdef bint held_back
        cdef Stream stream
        if exchange is None:
            raise BrokenPipeError("the client is gone")
        self.refresh()
        held_back = self.runner.hold_back(exchange.connection)
        connection = exchange.connection
        try:
            stream = answer(exchange, request, result)
            if stream is None:
                self.exchange = None
            else:
                self.line = stream.line
        finally:
            if held_back:
                self.runner.let_go(connection)
        return stream

    cdef int finish(self) except -1:
        """The response is whole; the connection goes on with its next request."""
        cdef Exchange exchange = self.exchange
        cdef Connection connection = exchange.connection
        cdef bint held_back = self.runner.hold_back(connection)
        self.exchange = None
        self.refresh_of(connection)
        try:
            exchange.finish()
        finally:
            if held_back:
                self.runner.let_go(connection)
        return 0

    def refresh_of(self, Connection connection):
        """Have the server's clock tell the time between two turns, too."""
        if not connection.corked:
            fc_loop_refresh(&self.service.loop)

    cdef int refresh(self) except -1:
        self.refresh_of(self.exchange.connection)
        return 0

    cdef int fail(self, object error) except -1:
        cdef Exchange exchange = self.exchange
        cdef Connection connection
        cdef bint held_back
        cdef bint cancelled = isinstance(error, CancelledError) and (
            self.dismissed or self.runner.draining)
        if cancelled and exchange is not None and not self.dismissed:
            self.service.log.warning("%s: cancelled", self.line)
        if exchange is None:
            if cancelled or (self.lost_client and isinstance(error, ConnectionError)):
                self.service.log.debug("%s: the client went before the response was whole",
                                       self.line)
            else:
                self.service.log.error("%s: the handler failed", self.line,
                                       exc_info=(type(error), error, error.__traceback__))
            return 0
        connection = exchange.connection
        self.refresh()
        self.exchange = None
        held_back = self.runner.hold_back(connection)
        try:
            if cancelled:
                exchange.fail(500)
            else:
                failed(exchange, self.service, self.line, error)
        finally:
            if held_back:
                self.runner.let_go(connection)
        return 0

    cdef int leave(self) except -1:
        if self.response is not None:
            self.response.part()
        self.request = None
        self.response = None
        self.exchange = None
        self.chunks = None
        self.wake_readers()
        return Call.leave(self)

    # ---- what the connection says

    cdef int data(self, const char *ptr, size_t len) except -1:
        cdef bint awaited = self.readers is not None
        if self.over:
            return 0
        if self.chunks is None:
            self.chunks = []
        self.chunks.append(PyBytes_FromStringAndSize(ptr, <Py_ssize_t>len))
        self.held += len
        self.wake_readers()
        if self.held >= self.service.limits.high_water * (4 if awaited else 1):
            self.exchange.pause()
        return 0

    cdef int end(self) except -1:
        self.ended = True
        return self.wake_readers()

    cdef int half_closed(self) except -1:
        # An iterator's generator could wait for ever for what nobody reads; other
        # clients that closed their side only still get their answer.
        if self.task is not None and (
                self.streaming or self.runner.config.cancel_on_disconnect):
            return self.dismiss()
        return 0

    cdef int lost(self) except -1:
        self.lost_client = True
        self.exchange = None
        if not self.ended:
            # A part of a body is no body.
            self.chunks = None
            self.held = 0
        self.wake_readers()
        self.writable()
        if self.task is not None and (
                self.streaming or self.runner.config.cancel_on_disconnect):
            self.dismiss()
        return 0

    cdef int dismiss(self) except -1:
        self.dismissed = True
        self.task.cancel()
        return 0

    # ---- what handlers await

    cdef object chunk(self):
        """Take what has come of the body: b"" at its end, NotImplemented: nothing yet."""
        cdef Exchange exchange = self.exchange
        cdef object data
        if self.chunks:
            data = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
            self.chunks = None
            self.held = 0
            if exchange is not None and exchange.connection.paused:
                self.refresh()
                exchange.proceed()
            return data
        if self.ended:
            return b""
        if self.lost_client:
            raise ConnectionResetError("the client went before its request body was whole")
        if exchange is None:
            raise RuntimeError("the request body was read after the response had ended")
        exchange.send_continue()
        return NotImplemented

    cdef object sent(self):
        """What to await before the next bytes are written."""
        cdef Exchange exchange = self.exchange
        cdef Room room
        if exchange is None or not exchange.connection.full:
            return DONE
        room = Room.__new__(Room)
        room.call = self
        return room


@cython.final
cdef class Chunk(Awaitable):
    """A chunk of the request's body on its way."""

    cdef NativeCall call

    cdef object take(self):
        return self.call.chunk()

    cdef object wait(self):
        return self.call.wait_to_read()


cdef Chunk next_chunk(NativeCall call):
    cdef Chunk chunk = Chunk.__new__(Chunk)
    chunk.call = call
    return chunk


@cython.final
cdef class Room(Awaitable):
    """Room for more of the response, once the client has taken some."""

    cdef NativeCall call

    cdef object take(self):
        if self.call.lost_client:
            raise BrokenPipeError("the client is gone")
        if self.call.exchange is None or not self.call.exchange.connection.full:
            return None
        return NotImplemented

    cdef object wait(self):
        return self.call.wait_to_write()


@cython.final
cdef class WholeBody(Awaitable):
    """The whole body, awaited as a property."""

    cdef object coroutine

    def __await__(self):
        return self.coroutine().__await__()


# ---- the request

cdef class AsyncRequest(Request):
    """A request as an async handler has it: its head is here, its body is awaited.

    It is a Request, so that what looks at a request's head takes both; the names
    that read the body are the same and are awaited, since the body may not have
    come yet.  ConnectionResetError: the client went before it was whole.
    """

    cdef bytes cut(self, Py_ssize_t size):
        """Take up to size bytes of the piece that was begun, all below 0; b"" without one."""
        cdef bytes piece = self.piece
        cdef Py_ssize_t left
        if piece is None:
            return b""
        left = PyBytes_GET_SIZE(piece) - self.piece_at
        if size < 0 or size >= left:
            data = piece[self.piece_at:] if self.piece_at else piece
            self.piece = None
            self.piece_at = 0
        else:
            data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(piece) + self.piece_at, size)
            self.piece_at += size
        self.at += len(data)
        return data

    cdef int store(self, bytes chunk) except -1:
        """Keep a chunk for those who want the whole: in memory, then on disk."""
        cdef size_t memory_bytes = self.call.runner.config.body_memory_bytes
        if self.spool is None and self.whole is None and \
                <size_t>len(chunk) <= memory_bytes:
            self.whole = chunk
            return 0
        if self.spool is None:
            self.spool = new_spool(memory_bytes)
            if self.whole is not None:
                self.spool.add(self.whole, <size_t>len(self.whole))
                self.whole = None
        return self.spool.add(chunk, <size_t>len(chunk))

    async def gather(self):
        """Wait until the whole body is here."""
        if self.is_whole:
            return
        if self.at:
            raise RuntimeError(PARTLY_READ)
        while True:
            chunk = await next_chunk(self.call)
            if not chunk:
                break
            self.store(chunk)
        self.is_whole = True
        if self.spool is not None:
            self.spool.finish()
            if self.spool.file is None:
                self.whole = self.spool.take(-1)
                self.spool = None

    async def read(self, size=-1, /):
        """Read what has come of the body, up to size bytes; all of it for a negative size.

        Waits until there is something, and gives b"" at the body's end, as
        asyncio.StreamReader.read() does.
        """
        cdef Py_ssize_t most = -1 if size is None else size
        if most == 0:
            return b""
        if most < 0 and not self.at:
            await self.gather()
        if self.is_whole or self.is_given_away:
            return self.rest(most)
        if most > 0:
            if self.piece is None:
                self.piece = await next_chunk(self.call)
            return self.cut(most)
        pieces = []
        if self.piece is not None:
            pieces.append(self.cut(-1))
        while True:
            chunk = await next_chunk(self.call)
            if not chunk:
                return b"".join(pieces)
            self.at += len(chunk)
            pieces.append(chunk)

    def __aiter__(self):
        """Iterate over what is left of the body, in chunks as they come."""
        return self.chunks()

    async def chunks(self):
        """Be what __aiter__() gives."""
        while True:
            chunk = await self.read(65536)
            if not chunk:
                return
            yield chunk

    def __iter__(self):
        raise TypeError("the body of an async handler's request is awaited: write `async for`")

    @property
    def body(self):
        """The whole body, to be awaited: `await request.body`."""
        cdef WholeBody body = WholeBody.__new__(WholeBody)
        body.coroutine = self.whole_body
        return body

    async def whole_body(self):
        """Be what `body` awaits."""
        await self.gather()
        return self.entire()

    async def text(self):
        """Decode the whole body as Request.text() does; raises BadRequest."""
        await self.gather()
        return fields.decode_text(self.entire(), self.headers.get("content-type", ""))

    async def json(self):
        """Parse the whole body as JSON, whatever its Content-Type; raises BadRequest."""
        await self.gather()
        return fields.parse_json(self.entire())

    async def form(self):
        """Return a form's text fields, as Request.form() does; raises BadRequest."""
        await self.gather()
        return self.read_forms()[0]

    async def files(self):
        """Return a form's uploaded files, as Request.files() does; raises BadRequest."""
        await self.gather()
        return self.read_forms()[1]


# ---- the response

cdef class AsyncResponse(Response):
    """A response as an async handler has it; what sends returns something to await.

    Bytes go out when a method is called; awaiting what it returned waits until the
    client has taken enough.  BrokenPipeError: the client is gone.
    """

    cdef int make_head(self, int status, object reason, object headers) except -1:
        cdef Exchange exchange = self.exchange
        if headers is not None:
            headers = list(pairs_of(headers))
        self.head_fields = self.merged(headers)
        begin_head(exchange, status, reason, self.head_fields)
        self.serial = exchange.connection.service.head.serial
        self.status = status
        self.reason = reason
        self.head_made = True
        return 0

    cdef Exchange ready(self, str doing):
        """The exchange, with our head under construction if it is not sent yet."""
        cdef Exchange exchange = self.live(doing)
        self.call.refresh()
        if self.head_made and not self.head_sent and \
                self.serial != exchange.connection.service.head.serial:
            # Another response was begun in the same place while we waited.
            begin_head(exchange, self.status, self.reason, self.head_fields)
            self.serial = exchange.connection.service.head.serial
        return exchange

    cdef int finish(self) except -1:
        self.part()
        return self.call.finish()

    def write(self, chunk):
        """Send a piece of the body, bytes or str; await it to wait for the client.

        Awaiting waits while more than --high-water bytes are on their way.
        """
        cdef fc_span span
        cdef object owner = body_span(chunk, &span)
        cdef Exchange exchange
        if owner is None:
            raise chunk_error("write", chunk)
        exchange = self.ready("write")
        self.send_head(-1)
        if span.len != 0:
            exchange.write(span.ptr, span.len, owner)
        exchange.flush()
        return self.call.sent()

    def flush(self):
        """Send the head now; await it to wait for the client."""
        cdef Exchange exchange = self.ready("flush")
        self.send_head(-1)
        exchange.flush()
        return self.call.sent()

    def end(self, chunk=b""):
        """Send the last piece of the body and end the response; may be awaited."""
        if not self.ended:
            self.ready("end")
        Response.end(self, chunk)
        return DONE

    def send_file(self, path, offset=0, length=None):
        """Send a file as Response.send_file() does, and end the response; may be awaited."""
        self.ready("send_file")
        Response.send_file(self, path, offset, length)
        return DONE
