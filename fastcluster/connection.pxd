# connection.pxd: the map of connection.pyx, for server.pyx.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastcluster.csrc cimport fc_framing, fc_out, fc_parser
from fastcluster.exchange cimport Connection, Exchange
from fastcluster.parser cimport Door


# A window on bytes that were read and are not yet understood: the first `known`
# of `len` have been through the head's parser.
cdef struct Window:
    const char *ptr
    size_t len
    size_t known


cdef class HttpConnection(Connection):
    """One client: bytes to and from HTTP/1.1 exchanges."""

    cdef Exchange exchange       # the one being read or answered, or None
    cdef fc_parser *parser       # has the spans of a head that outlives one feed, else NULL
    cdef Door door               # see parser.pyx
    cdef void *previous          # chain of all connections, borrowed
    cdef void *next
    cdef size_t known            # of what io.input holds, see Window
    cdef uint64_t discarded      # of an unread body
    cdef uint32_t requests       # heads read so far
    cdef uint32_t blank_lines    # before the head, so that they are not free
    cdef uint8_t phase           # see connection.pyx

    # ---- for server.pyx
    cdef int open(self) except -1
    cdef int on_ready(self, int what) except -1
    cdef int on_deadline(self) except -1
    cdef int retire(self) except -1
    cdef bint is_idle(self) noexcept
    cdef int refuse(self, int status, str why) except -1
    cdef int close(self) except -1

    # ---- for itself
    cdef int work(self, Window *window) except -1
    cdef int step(self, Window *window) except -1
    cdef bint is_held_back(self) except -1
    cdef int take_head(self, Window *window) except -1
    cdef int skip_blank_line(self, Window *window) except -1
    cdef int head_is_partial(self, Window *window, fc_parser *parser, Door door) except -1
    cdef int head_is_done(self, Window *window, fc_parser *parser) except -1
    cdef int head_is_bad(self, Window *window, fc_parser *parser, Door door) except -1
    cdef int begin(self, fc_parser *parser, fc_framing *framing) except -1
    cdef int take_tunnel(self, Window *window) except -1
    cdef int take_body(self, Window *window) except -1
    cdef int body_bytes(self, const char *ptr, size_t len) except -1
    cdef int body_is_over(self) except -1
    cdef int break_body(self, int status, str why) except -1
    cdef int conclude(self, Window *window) except -1
    cdef int drop_exchange(self) except -1
    cdef int stash(self, Window *window) except -1
    cdef int set_deadline(self) except -1
    cdef int read_some(self) except -1
    cdef int on_eof(self) except -1
    cdef int apply_eof(self) except -1
    cdef int forget_unsent(self, fc_out *out) except -1
    cdef int on_writable(self) except -1
    cdef int tell_half_closed(self) except -1
    cdef int tell_writable(self, Exchange exchange) except -1
    cdef int refuse_now(self, int status, str why) except -1
    cdef int64_t body_deadline(self) noexcept
    cdef bint wants_bytes(self) noexcept
    cdef bint body_is_too_slow(self) noexcept
    cdef int linger(self) except -1
    cdef int check_body_progress(self) except -1
