# asgi_call.pxd: the map of asgi_call.pyx, for asgi.pyx.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastcluster.asgi_runner cimport AsgiRunner
from fastcluster.exchange cimport Connection, Exchange, Service
from fastcluster.tasks cimport Awaitable, Call, Waiters


cdef class HttpCall(Call):
    """One call of an ASGI application for one HTTP request; its receive and send."""

    cdef dict scope              # what the application is called with, before it is
    cdef str method              # for the log
    cdef bytes raw_path
    cdef bytes query             # None: there is none

    # The request's body: what has come and was not received yet.
    cdef bytes first
    cdef list others
    cdef size_t held             # bytes of both
    cdef bint awaited            # a receive() was waiting for what has come
    cdef bint ended              # the rest of the body is in there, verified
    cdef bint received           # more_body False was given
    cdef bint gone               # the client sends nothing any more
    cdef bint lost_client        # ... and takes nothing either
    cdef bint dismissed          # we have cancelled the task

    # The response.
    cdef uint8_t phase           # see asgi_call.pyx
    cdef bint began              # the first part of the body was given to the kernel
    cdef bint flush_due          # ... by runner.flush_soon()
    cdef bint has_trailers       # the application said that it will send some
    cdef bint wants_trailers     # the client takes them (TE: trailers)
    cdef int status
    cdef object fields           # of http.response.start
    cdef uint32_t serial         # of the head under construction, see head.h

    cdef int begin(self, Exchange exchange) except -1
    cdef str line(self)

    cdef object next_message(self)
    cdef object next_body(self)
    cdef int resume_reading(self) except -1

    cdef object start(self, object message)
    cdef int write_fields(self) except -1
    cdef int put_head(self, int64_t length) except -1
    cdef int expect_body(self, str kind) except -1
    cdef object body(self, object message)
    cdef object sent(self, bint more)
    cdef int flush_later(self) except -1
    cdef object trailers(self, object message)
    cdef object early_hint(self, object message)
    cdef object debug(self, object message)
    cdef object path_send(self, object message)
    cdef object zero_copy_send(self, object message)
    cdef int send_range(self, int fd, int64_t offset, int64_t length, object owner) except -1

    cdef int conclude(self, bint whole) except -1
    cdef int fail(self, object error) except -1
    cdef int check_answer(self) except -1
    cdef int dismiss(self) except -1


cdef int begin_http(Exchange exchange, AsgiRunner runner) except -1
