# websocket.pxd: the map of websocket.pyx, for asgi.pyx.

from fastcluster.asgi_runner cimport AsgiRunner
from fastcluster.exchange cimport Exchange
from fastcluster.websocket_handshake cimport Handshake
from fastcluster.websocket_link cimport Link


cdef class WebSocket(Link):
    """One WebSocket and the application that it belongs to; its receive and send."""

    cdef dict scope              # what the application is called with, before it is
    cdef bytes raw_path          # for the log
    cdef Handshake handshake     # None once it is answered
    cdef object denial           # (status, fields) of a denial whose head is not sent
    cdef bint connect_given      # websocket.connect was received
    cdef bint app_closed         # the application has closed or denied

    # Messages that were not received yet.
    cdef object first
    cdef object others           # deque
    cdef Py_ssize_t n_messages, most_messages
    cdef size_t held             # their bytes

    cdef int begin(self, Exchange exchange) except -1
    cdef int app_is_over(self, object error) except -1

    cdef object next_message(self)
    cdef object pop(self)

    cdef object accept(self, object message)
    cdef object send_data(self, object message)
    cdef object close(self, object message)
    cdef object start_denial(self, object message)
    cdef object deny(self, object message)
    cdef object sent(self)
    cdef int expect_open(self, str kind) except -1


# Answers a request that wants_websocket(): a bad handshake with its status, else
# by the application's task with a "websocket" scope.
cdef int begin_websocket(Exchange exchange, AsgiRunner runner) except -1
