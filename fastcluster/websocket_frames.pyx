# websocket_frames.pyx: a client's bytes to messages (RFC 6455 sections 5 to 8).
#
# Its law: a message is handed out whole and right, or the connection is over;
# what is wrong is noticed with the first byte that makes it so, and what is too
# long before it is kept.  It writes nothing, and knows neither connections nor
# applications.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from fastcluster.csrc cimport *
from fastcluster.deflate cimport DEFLATE_STEP, Deflate

import zlib


cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void *PyUnicode_DATA(object text)

cdef object zlib_error = zlib.error


@cython.final
cdef class Reader:
    def __dealloc__(self):
        fc_buf_free(&self.held)

    cdef bint is_idle(self):
        return self.opcode == 0 and not self.in_payload and self.head_len == 0

    cdef int next(self, const char *ptr, size_t len, size_t *used) except -1:
        cdef const char *payload
        cdef size_t n
        cdef uint64_t left
        cdef int found
        used[0] = 0
        while True:
            if not self.in_payload:
                found = self.take_head(ptr + used[0], len - used[0], &n)
                used[0] += n
                if found != FC_OK:
                    return found
            left = self.frame.length - self.taken
            n = len - used[0]
            payload = ptr + used[0]
            if n >= left:
                n = <size_t>left
            elif n == 0:
                return FRAMES_MORE
            used[0] += n
            if self.frame.opcode & FC_WS_CLOSE:
                found = self.take_control(payload, n)
            elif self.compressed:
                found = self.take_deflated(payload, n)
            elif n == self.frame.length and self.opcode == self.frame.opcode and \
                    self.frame.flags & FC_WS_FIN:
                found = self.take_whole(payload)
            else:
                found = self.take_plain(payload, n)
            if found != FRAMES_MORE:
                return found

    cdef int bad(self, int code, str why) except -1:
        self.code = code
        self.why = why
        fc_buf_free(&self.held)
        return FRAMES_BAD

    # ---- heads

    cdef int take_head(self, const char *ptr, size_t len, size_t *used) except -1:
        """FC_OK: the head is whole and its frame may come now."""
        cdef const char *why = NULL
        cdef size_t before = self.head_len
        cdef int n
        if before == 0:
            n = fc_ws_read_head(&self.frame, ptr, len, &why)
        else:
            # Its beginning came with other bytes.
            len = min(len, FC_WS_HEAD_MAX - before)
            memcpy(self.head + before, ptr, len)
            n = fc_ws_read_head(&self.frame, self.head, before + len, &why)
        if n < 0:
            used[0] = len
            return self.bad(1002, why.decode("ascii"))
        if n > 0:
            used[0] = <size_t>n - before
            self.head_len = 0
            return self.begin_frame()
        used[0] = len
        if before == 0:
            memcpy(self.head, ptr, len)
        self.head_len = <uint8_t>(before + len)
        return FRAMES_MORE

    cdef int begin_frame(self) except -1:
        cdef fc_ws_frame *frame = &self.frame
        cdef int reserved = frame.flags & ~FC_WS_FIN
        self.in_payload = True
        self.taken = 0
        if frame.opcode & FC_WS_CLOSE:
            return self.bad(1002, "a reserved bit is set") if reserved else FC_OK
        if frame.opcode == FC_WS_CONTINUATION:
            if self.opcode == 0:
                return self.bad(1002, "a continuation of nothing")
        else:
            if self.opcode != 0:
                return self.bad(1002, "a new message within a message")
            self.opcode = frame.opcode
            self.compressed = reserved == FC_WS_RSV1 and self.deflate is not None
            memset(&self.utf8, 0, sizeof(self.utf8))
            if self.compressed:
                reserved = 0
        if reserved:
            return self.bad(1002, "a reserved bit is set")
        if self.most != 0 and not self.compressed and \
                frame.length > self.most - min(self.most, self.held.len):
            return self.bad(1009, "the message is too long")
        return FC_OK

    # ---- payloads

    cdef int take_control(self, const char *ptr, size_t len) except -1:
        cdef int opcode = self.frame.opcode
        fc_ws_unmask(self.control + self.taken, ptr, len, self.frame.mask, self.taken)
        self.taken += len
        if self.taken < self.frame.length:
            return FRAMES_MORE
        self.in_payload = False
        self.payload = PyBytes_FromStringAndSize(self.control, <Py_ssize_t>self.taken)
        return opcode

    cdef int take_whole(self, const char *ptr) except -1:
        """A message of one frame that came at once: nothing of it is kept."""
        cdef size_t len = <size_t>self.frame.length
        cdef int opcode = self.opcode
        cdef object made
        cdef char *to
        self.in_payload = False
        self.opcode = 0
        if opcode == FC_WS_BINARY:
            made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>len)
            fc_ws_unmask(PyBytes_AS_STRING(made), ptr, len, self.frame.mask, 0)
            self.message = made
            return opcode
        # Most texts are ASCII, and then this is the text already.
        made = PyUnicode_New(<Py_ssize_t>len, 127)
        to = <char *>PyUnicode_DATA(made)
        if len != 0 and fc_ws_unmask(to, ptr, len, self.frame.mask, 0):
            return self.decode(to, len)
        self.message = made
        return opcode

    cdef int take_plain(self, const char *ptr, size_t len) except -1:
        cdef size_t before = self.held.len
        if fc_buf_reserve(&self.held, len) < 0:
            raise MemoryError
        fc_ws_unmask(self.held.ptr + before, ptr, len, self.frame.mask, self.taken)
        self.held.len += len
        self.taken += len
        if self.check_kept(before) == FRAMES_BAD:
            return FRAMES_BAD
        if self.taken < self.frame.length:
            return FRAMES_MORE
        self.in_payload = False
        return self.message_is_over() if self.frame.flags & FC_WS_FIN else FRAMES_MORE

    cdef int take_deflated(self, const char *ptr, size_t len) except -1:
        cdef Deflate deflate = self.deflate
        cdef bytes payload = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>len)
        cdef bytes piece
        cdef bint is_last
        fc_ws_unmask(PyBytes_AS_STRING(payload), ptr, len, self.frame.mask, self.taken)
        self.taken += len
        self.in_payload = self.taken < self.frame.length
        is_last = not self.in_payload and self.frame.flags & FC_WS_FIN != 0
        try:
            piece = deflate.inflate(payload, is_last)
            while True:
                if self.keep(PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece)) == FRAMES_BAD:
                    return FRAMES_BAD
                if not deflate.has_more():
                    break
                piece = deflate.more()
        except zlib_error:
            return self.bad(1007, "the message does not inflate")
        if not is_last:
            return FRAMES_MORE
        deflate.message_is_over()
        return self.message_is_over()

    cdef int keep(self, const char *ptr, size_t len) except -1:
        cdef size_t before = self.held.len
        if self.most != 0 and len > self.most - before:
            return self.bad(1009, "the message is too long")
        if fc_buf_append(&self.held, ptr, len) < 0:
            raise MemoryError
        return self.check_kept(before)

    cdef int check_kept(self, size_t before) except -1:
        if self.opcode == FC_WS_TEXT and \
                not fc_utf8_feed(&self.utf8, self.held.ptr + before, self.held.len - before):
            return self.bad(1007, "the text is not UTF-8")
        return FC_OK

    # ---- messages

    cdef int message_is_over(self) except -1:
        cdef int opcode = self.opcode
        self.opcode = 0
        self.compressed = False
        if opcode == FC_WS_BINARY:
            self.message = PyBytes_FromStringAndSize(self.held.ptr, <Py_ssize_t>self.held.len)
        elif not fc_utf8_is_whole(&self.utf8):
            return self.bad(1007, "the text is not UTF-8")
        else:
            self.message = PyUnicode_DecodeUTF8(self.held.ptr, <Py_ssize_t>self.held.len, NULL)
        fc_buf_free(&self.held)
        return opcode

    cdef int decode(self, const char *ptr, size_t len) except -1:
        try:
            self.message = PyUnicode_DecodeUTF8(ptr, <Py_ssize_t>len, NULL)
        except UnicodeDecodeError:
            return self.bad(1007, "the text is not UTF-8")
        return FC_WS_TEXT


# ---- close frames

cdef str read_close(bytes payload, int *code):
    """Take a Close frame's payload apart (RFC 6455 sections 5.5.1 and 7.4)."""
    cdef int said
    code[0] = 1005
    if not payload:
        return ""
    code[0] = 1002
    if len(payload) == 1:
        return None
    said = payload[0] << 8 | payload[1]
    if not fc_ws_may_send_code(said):
        return None
    try:
        reason = payload[2:].decode("utf-8")
    except UnicodeDecodeError:
        code[0] = 1007
        return None
    code[0] = said
    return reason


cdef bytes close_payload(int code, str reason):
    """Make a Close frame's payload; a reason that is too long is cut between characters."""
    cdef bytes text
    if code == 1005:
        return b""
    text = reason.encode("utf-8", "replace")[:FC_WS_CONTROL_MAX - 2]
    while True:
        try:
            text.decode("utf-8")
            return code.to_bytes(2, "big") + text
        except UnicodeDecodeError:
            text = text[:len(text) - 1]
