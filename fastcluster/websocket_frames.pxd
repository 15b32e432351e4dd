# websocket_frames.pxd: the map of websocket_frames.pyx, for websocket.pyx.

from libc.stdint cimport uint8_t, uint64_t

from fastcluster.csrc cimport fc_buf, fc_utf8, fc_ws_frame
from fastcluster.deflate cimport Deflate


# What Reader.next() says besides FC_WS_TEXT, …BINARY, …CLOSE, …PING and …PONG.
cdef enum:
    FRAMES_MORE = -2             # all bytes are used, and nothing is whole
    FRAMES_BAD = -3              # the client broke a rule: code and why say which


cdef class Reader:
    """Takes a client's bytes apart into messages and control frames."""

    # ---- what next() has found
    cdef object message          # bytes or str: of TEXT and BINARY
    cdef bytes payload           # of CLOSE, PING and PONG
    cdef int code                # BAD: the close code that answers it
    cdef str why                 # ... and the reason

    cdef uint64_t most           # bytes of a message; 0: any number
    cdef Deflate deflate         # None: not agreed on

    # ---- the frame under way
    cdef fc_ws_frame frame
    cdef uint64_t taken          # of its payload
    cdef bint in_payload         # its head is whole
    cdef uint8_t head_len
    cdef char head[14]
    cdef char control[125]       # a control frame's payload

    # ---- the message under way
    cdef uint8_t opcode          # 0: there is none
    cdef bint compressed
    cdef fc_utf8 utf8
    cdef fc_buf held             # what of it is known

    # Takes the next step over [ptr, ptr + len); *used of them were taken.  After
    # BAD nothing that the client sends means anything.
    cdef int next(self, const char *ptr, size_t len, size_t *used) except -1
    # Whether it is between two messages.
    cdef bint is_idle(self)

    cdef int take_head(self, const char *ptr, size_t len, size_t *used) except -1
    cdef int begin_frame(self) except -1
    cdef int take_whole(self, const char *ptr) except -1
    cdef int take_control(self, const char *ptr, size_t len) except -1
    cdef int take_plain(self, const char *ptr, size_t len) except -1
    cdef int take_deflated(self, const char *ptr, size_t len) except -1
    cdef int keep(self, const char *ptr, size_t len) except -1
    cdef int check_kept(self, size_t before) except -1
    cdef int message_is_over(self) except -1
    cdef int decode(self, const char *ptr, size_t len) except -1
    cdef int bad(self, int code, str why) except -1


# A Close frame's payload: its reason with its code, 1005 where it has none; or
# None, and code is what to answer it with.
cdef str read_close(bytes payload, int *code)
# code 1005: an empty one.
cdef bytes close_payload(int code, str reason)
