# native_async.pxd: the map of native_async.pyx.

from libc.stdint cimport uint32_t

from fastcluster.exchange cimport Exchange
from fastcluster.native cimport Stream
from fastcluster.request cimport Request
from fastcluster.response cimport Response
from fastcluster.tasks cimport Call, TaskRunner


cdef class AsyncNativeHandler(TaskRunner):
    """Runs async handlers, each request in a task of its own."""

    cdef bint gives_response         # the handler takes (request, response)


cdef class NativeCall(Call):
    """One call of an async handler, and what it hears from its connection."""

    cdef AsyncRequest request        # what the handler is called with, until it is over
    cdef AsyncResponse response
    cdef str line                    # of the request, for the log
    cdef bint lost_client
    cdef bint dismissed              # we have cancelled the task
    cdef bint streaming              # ... which only sends an iterator's blocks now
    cdef list chunks                 # of the request's body, not read yet
    cdef size_t held                 # bytes of them
    cdef bint ended                  # the rest of the body is in there, verified

    cdef int begin(self, Exchange exchange) except -1
    cdef int dismiss(self) except -1
    cdef int fail(self, object error) except -1
    cdef int refresh(self) except -1
    cdef int finish(self) except -1
    cdef Stream answer(self, Request request, object result)
    cdef object chunk(self)
    cdef object sent(self)


cdef class AsyncRequest(Request):
    """A Request whose body is still on its way."""

    cdef NativeCall call
    cdef bytes piece                 # a chunk of which piece_at bytes were read
    cdef Py_ssize_t piece_at
    cdef bint is_whole               # the body is all here

    cdef bytes cut(self, Py_ssize_t size)
    cdef int store(self, bytes chunk) except -1


cdef class AsyncResponse(Response):
    """A Response that never waits in its methods, but in what they return."""

    cdef NativeCall call
    cdef object head_fields          # of the head that is made and not sent
    cdef uint32_t serial             # of the head under construction, see head.h

    cdef Exchange ready(self, str doing)
