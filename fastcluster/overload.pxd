# overload.pxd: the map of overload.pyx, for server.pyx.

from libc.stdint cimport int64_t

from fastcluster.csrc cimport fc_deadline
from fastcluster.exchange cimport Consumer, Exchange, Handler, Service


cdef class OverloadHandler(Handler):
    """Lets so many requests run at a time, and so many wait for their turn."""

    cdef Handler inner
    cdef Service service             # once somebody waits
    cdef object queue                # deque of Waiting, the oldest first
    cdef fc_deadline due             # of the oldest
    cdef readonly int limit
    cdef readonly int room           # how many may wait
    cdef int64_t timeout_ms
    cdef readonly int running
    cdef readonly int refused        # answered with 503, in all
    cdef int told                    # of those, in the log
    cdef int64_t told_ms
    cdef bint dispatching            # dispatch() is about to be called

    cdef int admit(self, Exchange exchange) except -1
    cdef int wait(self, Exchange exchange) except -1
    cdef int forget(self, Waiting waiting) except -1
    cdef int resume(self, Exchange exchange) except -1
    cdef int refuse(self, Exchange exchange) except -1
    cdef int set_deadline(self) except -1


cdef class Waiting(Consumer):
    """A request that waits for its turn; its body stays with the client."""

    cdef OverloadHandler door
    cdef Exchange exchange
    cdef int64_t until_ms
