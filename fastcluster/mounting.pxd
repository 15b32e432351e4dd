# mounting.pxd: the map of mounting.pyx.

from libc.stdint cimport int32_t, uint32_t

from fastcluster.exchange cimport Exchange, Handler


cdef class Mount:
    """One application and the path that it owns."""

    cdef readonly str prefix         # "" or "/api"
    cdef bytes raw                   # the same in UTF-8
    cdef readonly Handler handler
    cdef bint is_cut                 # its application does not see the prefix


cdef class MountHandler(Handler):
    """Hands each request to the application whose path it is below."""

    cdef readonly list mounts        # of Mount, the longest prefix first
    cdef bytes root                  # what a proxy may have left in front of paths

    cdef int not_found(self, Exchange exchange) except -1


# How many of the bytes of a path, as it was sent, stand for the prefix; -1: it is not below.
cdef int32_t prefix_len(const char *path, uint32_t len, bytes prefix) noexcept
