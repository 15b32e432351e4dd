# parser.pxd: one function that reads request heads, whichever door is open.

from fastcluster.csrc cimport fc_parser


cdef class Door:
    """What the httptools door remembers of a head that came in pieces."""

    cdef object parser
    cdef int verdict             # once it is not FC_HEAD_MORE


# Forgets the last head.  Returns what read_head wants to be given for the next
# one: None through the llhttp door.
cdef Door start_head(fc_parser *parser)
# Reads base[start, stop) and returns FC_HEAD_…, see fc_parser_feed.
cdef int read_head(fc_parser *parser, Door door, const char *base, size_t start,
                   size_t stop) except? -9

# False for the methods that the parser refuses whatever follows them.
cdef bint knows_method(bytes method) except -1

# True while the llhttp door is open.
cdef bint is_llhttp

cpdef str parser_name()
