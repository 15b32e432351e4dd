# health.pxd: the map of health.pyx, for server.pyx.

from fastcluster.exchange cimport Exchange, Handler


cdef class HealthHandler(Handler):
    """Answers two paths itself, and hands all other requests on."""

    cdef Handler inner
    cdef bytes livez             # None: no such path
    cdef bytes readyz
    cdef bint is_logged          # these requests are in the access log, too

    cdef int answer(self, Exchange exchange, int status, bytes body) except -1


cdef bint asks_for(Exchange exchange, bytes path) except -1
