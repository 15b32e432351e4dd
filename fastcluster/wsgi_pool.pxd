# wsgi_pool.pxd: the map of wsgi_pool.pyx, for wsgi.pyx alone.

from fastcluster.exchange cimport Exchange
from fastcluster.csrc cimport fc_head
from fastcluster.spool cimport LiveSpool
from fastcluster.wsgi_call cimport Call


cdef class Pool:
    """Threads that run calls, and a bounded queue of calls that wait for one."""

    cdef object queue
    cdef list threads
    cdef int size
    cdef int limit               # calls that may wait
    cdef int idle                # threads that wait for a call
    cdef bint refusing           # the last request was turned away
    # Keeps calls here and on the loop's thread apart; None: they need not be.
    cdef readonly object app_lock
    cdef int holders             # calls that take it, begun and not over

    cdef bint is_full(self) except -1
    # Queues a call; False if too many wait.  The loop's thread.
    cdef bint submit(self, ThreadCall call) except -1
    # Answers 503.
    cdef int turn_away(self, Exchange exchange) except -1


cdef class ThreadCall(Call):
    """A call on a pool's thread."""

    cdef Pool pool
    cdef LiveSpool live          # a body that is read while it comes, or None
    cdef object condition        # the thread's own; guards what follows
    cdef list outbox             # what waits for delivery
    cdef size_t boxed            # body bytes in it
    cdef size_t unsent           # those, and what the kernel has not taken
    cdef bint posted             # a delivery is under way
    cdef bint submitted
    cdef fc_head scratch         # what heads are checked with

    # Has the body read while it comes.
    cdef int read_live(self) except -1

    # ---- on the loop's thread
    cdef int apply(self, item) except -1
    cdef int apply_head(self, tuple head) except -1
    cdef int report(self) except -1

    # ---- on the application's thread
    cdef int run_with(self, condition) except -1
    cdef int box(self, item, size_t n) except -1
    cdef int post(self) except -1
