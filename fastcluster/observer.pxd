# observer.pxd: the map of observer.pyx, for server.pyx.

from libc.stdint cimport int64_t

from fastcluster.csrc cimport fc_request
from fastcluster.exchange cimport Exchange, Observer, Service


cdef class Notes:
    """What is remembered of one exchange until it ends."""

    cdef bytes method
    cdef bytes target
    cdef tuple fields            # of the request, as the format wants them
    cdef bytes head              # of the response, None if it does not
    cdef bytes longer_head       # of the request, with the name that it was given; lent to all
    cdef bint is_over            # the response is, and the logs have heard of it
    cdef str request_id          # "" for none
    cdef int64_t began_ns


cdef class LogObserver(Observer):
    """Tells the logs of exchanges, and names requests."""

    cdef object access           # log.AccessLog or None
    cdef object facts            # its record_facts(), None: its format is the combined one
    cdef tuple wanted            # names of request fields, in lower case
    cdef bint wants_head
    cdef int64_t slow_ns         # 0: nothing is slow
    cdef bytes id_name           # of the field; None: requests have no names
    cdef bytes id_name_lower

    cdef int name(self, Notes notes, fc_request *request) except -1
    cdef int put_name(self, Notes notes, fc_request *request, bytes value) except -1
    cdef int tell_slow(self, Exchange exchange, Notes notes, int64_t took_ns, str how) except -1


cdef Observer observer_for(object config, object access)
