# native.pxd: the map of native.pyx.

from fastcluster.exchange cimport Consumer, Exchange, Handler, Service
from fastcluster.request cimport Request
from fastcluster.response cimport Response
from fastcluster.spool cimport Spool


cdef class NativeHandler(Handler):
    """Runs handler(request) or handler(request, response) on the loop's thread."""

    cdef readonly object app
    cdef bint gives_response         # the handler takes (request, response)
    cdef size_t memory_bytes         # of a body, above it lies on disk

    cdef int run(self, Exchange exchange, Request request) except -1
    cdef int call(self, Exchange exchange, Request request) except -1
    cdef int answer(self, Exchange exchange, Request request, object result) except -1
    cdef int call_with_response(self, Exchange exchange, Request request) except -1


cdef class Gather(Consumer):
    """Collects a request's body, then runs the handler."""

    cdef NativeHandler handler
    cdef Exchange exchange
    cdef Request request
    cdef bytes first                 # the body while it came in one piece
    cdef Spool spool


cdef class Stream(Consumer):
    """Sends the blocks of an iterator as the client takes them."""

    cdef Service service
    cdef Exchange exchange           # None once it is lost
    cdef object source               # what the handler returned; None once closed
    cdef object blocks               # its iterator
    cdef int status
    cdef object reason
    cdef object headers
    cdef str line                    # of the request, for the log
    cdef bint head_sent
    cdef bint active                 # run() is on the stack

    cdef int begin(self) except -1
    cdef int run(self) except -1
    cdef bint pump(self) except -1
    cdef int put(self, object block) except -1
    cdef int put_empty(self) except -1
    cdef int close(self) except -1


# Sends what a handler returned.  Returns a body that is to be streamed, not begun;
# None: all is sent.
cdef Stream answer(Exchange exchange, Request request, object result)
# What becomes of an unsent Response that a handler(request, response) returns.
cdef bint may_be_answered_with(Response response, object result) noexcept
cdef Response with_fields_of(Response response, Response value)
# Logs a handler's exception, once, and makes it an answer or a close.
cdef int failed(Exchange exchange, Service service, str line, object error) except -1
