# websocket_link.pxd: the map of websocket_link.pyx, for websocket.pyx.

from libc.stdint cimport uint8_t

from fastcluster.csrc cimport fc_buf
from fastcluster.deflate cimport Deflate
from fastcluster.exchange cimport Service
from fastcluster.tasks cimport Call
from fastcluster.websocket_frames cimport Reader


cdef enum:
    CONNECTING   # the handshake is not answered
    DENYING      # it is answered with an HTTP response
    OPEN         # messages pass in both directions
    CLOSING      # our Close is sent, the client's has not come
    CLOSED       # over; what came before may still be unread


cdef class Link(Call):
    """The protocol's side of a WebSocket; websocket.WebSocket is the whole."""

    cdef uint8_t state
    cdef int code                # CLOSING, CLOSED: why
    cdef str reason

    # From the client.
    cdef Reader reader
    cdef bint doomed             # the client broke a rule; nothing more is read
    cdef fc_buf rest             # bytes put aside, since there are messages enough
    cdef size_t rest_at          # how many of them were understood since

    # To the client.
    cdef bytes pong              # what is answered when there is room
    cdef bint flush_due          # ... by runner.flush_soon()

    # Timers of the loop.
    cdef object pinger
    cdef object closer           # gives up waiting
    cdef object leaver           # closes when the server drains
    cdef double pinged_at        # by the loop's clock
    cdef bint heard              # the client has sent something since

    # ---- for the subclass to say
    cdef str line(self)
    # Whether another message may come: else the client is stopped, until
    # take_rest() is called.
    cdef bint has_room(self) noexcept
    # Whether messages wait that somebody will take.
    cdef bint has_unread(self) noexcept
    # A message, bytes or str.
    cdef int deliver(self, object message) except -1
    # It is over: code and reason say how.  The last call.
    cdef int closed(self) except -1

    # ---- for the subclass to call
    # The handshake is sent.
    cdef int open(self, Deflate deflate) except -1
    # Goes on with what was put aside; may deliver(), and may end it.
    cdef int take_rest(self) except -1
    # Queues a message; the state is OPEN and the exchange there.
    cdef int put_message(self, int opcode, object message) except -1
    # Sends what is queued now, or soon with what follows.
    cdef int flush(self) except -1
    cdef int flush_later(self) except -1
    # Begins to close; nothing is delivered any more.
    cdef int send_close(self, int code, str reason) except -1
    # Ends it at once, without and with a Close frame.
    cdef int finish(self, int code, str reason) except -1
    cdef int fail(self, int code, str why) except -1

    # ---- for itself
    cdef int feed(self, const char *ptr, size_t len) except -1
    cdef size_t take(self, const char *ptr, size_t len) except? 0
    cdef int put_frame(self, int first, const char *ptr, size_t len, object owner) except -1
    cdef int put_control(self, int opcode, bytes payload) except -1
    cdef int take_close(self, bytes payload) except -1
    cdef int doom(self) except -1
    cdef int schedule_leave(self) except -1


# The close code of a server that drains (RFC 6455 section 7.4 and its registry):
# 1012, the service restarts, while others listen in its place, else 1001, it goes
# away.
cdef int drain_code(Service service) noexcept
