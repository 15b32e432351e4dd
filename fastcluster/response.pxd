# response.pxd: the map of response.pyx, for native.pyx.

from libc.stdint cimport int64_t

from fastcluster.csrc cimport fc_span
from fastcluster.exchange cimport Exchange


cdef class Response:
    cdef Exchange exchange       # None: a value to return, or the response is over
    cdef int status
    cdef object reason           # str, bytes or None
    cdef list fields             # of (lower-case name, name, value), None while empty
    cdef object body             # of a value to return
    cdef bint is_bound           # made for an exchange
    cdef bint touched            # the handler has set something
    cdef bint head_made          # the head can no longer be changed
    cdef bint head_sent          # ... and is queued
    cdef bint ended

    cdef Exchange live(self, str doing)
    cdef int changeable(self, str doing) except -1
    cdef object merged(self, object headers)
    cdef int make_head(self, int status, object reason, object headers) except -1
    cdef int send_head(self, int64_t length) except -1
    cdef int finish(self) except -1
    cdef int index(self, str key) except? -1
    cdef int add(self, object name, object value) except -1
    # Parts from the exchange: whatever is called from now on says that it is over.
    cdef int part(self) except -1


# The Response of an exchange that is not answered yet.
cdef Response new_response(Exchange exchange)
# What a handler is told of a piece of a body that is none.
cdef object chunk_error(str doing, object chunk)
# Begins the head in exchange: the status line and the given fields.  headers: a
# mapping, pairs, or None; values are str, bytes, int, or a list of those.
cdef int begin_head(Exchange exchange, int status, object reason, object headers) except -1
# Points span at a body's or chunk's bytes and returns what keeps them alive; None
# for what is neither str nor bytes-like.
cdef object body_span(object body, fc_span *span)
# Pairs, of a mapping or of what is pairs already.
cdef object pairs_of(object headers)
# True if the head that was begun names its Content-Type.
cdef bint has_type(Exchange exchange)
