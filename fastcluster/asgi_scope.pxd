# asgi_scope.pxd: the map of asgi_scope.pyx, for the ASGI adapters.

from libc.stdint cimport uint8_t

from fastcluster.exchange cimport Exchange, Listener

cdef enum:
    NAME_PAIRS = 64    # places of the table of field names, two names each
    NAME_MAX = 47      # bytes of the longest name that is remembered


cdef struct Name:
    uint8_t len
    char text[NAME_MAX]
    void *lower        # bytes; a counted reference


cdef class ScopeMaker:
    """Makes the scopes of requests, one maker a handler."""

    cdef dict template           # of the listener below
    cdef dict asgi
    cdef dict extensions
    cdef Listener listener
    cdef str root                # "" or "/api"
    cdef bytes raw_root
    cdef str outer               # root without what mount() has put behind it
    cdef bytes raw_outer
    # Of the scope that was made last, for whoever does not want to look them up in it.
    cdef str method
    cdef bytes raw_path
    cdef bytes query             # None: there is none
    cdef Name names[2 * NAME_PAIRS]

    # A new scope of the type http, without `state`; exchange.request is valid.
    cdef int mount(self, str prefix) except -1
    cdef dict make(self, Exchange exchange)
    # The same for websocket, without `subprotocols` and `state`.
    cdef dict make_websocket(self, Exchange exchange)
    cdef int set_origin(self, dict scope, Exchange exchange) except -1

    cdef int choose(self, Listener listener) except -1
    cdef int set_path(self, dict scope, Exchange exchange) except -1
    cdef int put_root(self, dict scope) except -1
    cdef list fields(self, Exchange exchange)
    cdef object lower_name(self, const char *ptr, size_t len)
    cdef object learn(self, Name *name, const char *ptr, size_t len)
