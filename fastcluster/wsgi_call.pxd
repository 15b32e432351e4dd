# wsgi_call.pxd: the map of wsgi_call.pyx, for the two kinds of call: the
# loop's (wsgi.pyx) and the threads' (wsgi_pool.pyx).

from cpython.unicode cimport PyUnicode_1BYTE_DATA, PyUnicode_GET_LENGTH, PyUnicode_KIND
from libc.stdint cimport int64_t

from fastcluster.exchange cimport Consumer, Exchange, Service
from fastcluster.csrc cimport fc_span
from fastcluster.spool cimport Spool


cdef class FileRange:
    """Part of a file, with a descriptor of its own."""

    cdef int fd
    cdef int64_t offset
    cdef int64_t length


cdef class Call(Consumer):
    """One call of the application, from the request's body to close()."""

    cdef object app
    cdef Service service
    cdef Exchange exchange
    cdef dict environ
    cdef Spool spool             # the request's body, None if it has none
    cdef object result           # the iterable that is owed a close()
    cdef object iterator
    cdef str status              # what start_response was told
    cdef list fields
    cdef int code                # the status as a number
    cdef bint is_head
    cdef bint counted            # the first block is the whole body
    cdef bint started            # start_response was called
    cdef bint head_sent
    cdef bint gone               # the client is
    cdef bint done

    # ---- what the kinds of call do in their own way

    # The request is complete: run.
    cdef int launch(self) except -1
    # Checks status and fields, and sets code.
    cdef int announce(self) except -1
    cdef int put_head(self, int64_t length) except -1
    cdef int put(self, bytes block) except -1
    cdef int put_file(self, FileRange part) except -1
    # Has what was put sent before the next block is made (PEP 3333, "Buffering
    # and Streaming").  True: the call goes on later, with pump().
    cdef bint push(self) except -1
    # The same for write(), which can only block.
    cdef int push_and_wait(self) except -1
    cdef int put_end(self) except -1
    cdef int put_failure(self) except -1
    cdef bint is_gone(self)

    # ---- what they share

    cdef int refuse_body(self, error) except -1
    # Calls the application and sends what it returns, as far as that goes now.
    cdef int invoke(self) except -1
    cdef int send_head(self, int64_t length) except -1
    cdef int send_blocks(self, list blocks) except -1
    cdef int send_iterable(self, result) except -1
    cdef bint send_file(self, wrapper) except -1
    # Sends blocks until there are no more or push() says later.
    cdef int pump(self) except -1
    # Parts from the application: the last act of every call.
    cdef int over(self) except -1
    cdef int close_result(self, result) except -1
    # For an except clause, with what the application raised.
    cdef int failed(self, error) except -1
    cdef int log_failure(self, str what, error) except -1
    cdef str name(self)


# The code of "200 OK"; reason becomes the rest.  TypeError, ValueError.
cdef int read_status(str status, fc_span *reason) except -1


# The bytes of a latin-1 str; they live as long as it.
cdef inline int read_text(text, str what, fc_span *span) except -1:
    if not isinstance(text, str):
        raise TypeError(f"{what} must be str, not {type(text).__name__}: {text!r}")
    if PyUnicode_KIND(text) != 1:
        raise ValueError(f"{what} must be latin-1 text: {text!r}")
    span.ptr = <const char *>PyUnicode_1BYTE_DATA(text)
    span.len = <size_t>PyUnicode_GET_LENGTH(text)
    return 0


cdef inline int read_field(field, fc_span *name, fc_span *value) except -1:
    if not isinstance(field, tuple) or len(<tuple>field) != 2:
        raise TypeError(f"a header must be a tuple (name, value), not {field!r}")
    read_text((<tuple>field)[0], "a header's name", name)
    return read_text((<tuple>field)[1], "a header's value", value)
