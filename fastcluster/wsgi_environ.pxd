# wsgi_environ.pxd: the map of wsgi_environ.pyx, for wsgi.pyx alone.

from libc.stdint cimport uint8_t, uint16_t
from cpython.ref cimport PyObject

from fastcluster.exchange cimport Exchange, Listener
from fastcluster.csrc cimport fc_request, fc_span

cdef enum:
    NAME_PAIRS = 128     # a power of two
    NAME_MAX = 36        # longer names are not remembered


# A field name as clients spell it, and what it is called in an environ.
cdef struct Name:
    PyObject *key        # owned; NULL: nothing here
    uint16_t len
    uint8_t kind
    char text[NAME_MAX]


cdef class EnvironMaker:
    """Makes the WSGI environ of a request."""

    cdef Name names[2 * NAME_PAIRS]
    cdef Name rare               # the last name that is not remembered
    cdef dict base               # what is the same for all requests
    cdef dict template           # base and what is the listener's
    cdef Listener listener       # whose template that is
    cdef str root                # SCRIPT_NAME, without a slash at its end
    cdef str prefix              # its end, which is there also where a proxy took the rest off
    cdef bint underscores

    # The environ of a request whose head is valid.  chunked: the application
    # reads the body while it comes, so that the coding is still to be told.
    cdef int mount(self, str prefix) except -1
    cdef dict make(self, Exchange exchange, bint chunked)

    cdef int choose(self, Listener listener) except -1
    cdef int add_fields(self, dict environ, const fc_request *request, bint chunked) except -1
    cdef Name *name_of(self, const char *ptr, size_t len) except NULL
    cdef int learn(self, Name *name, const char *ptr, size_t len) except -1
    cdef int split_root(self, dict environ, str path) except -1
