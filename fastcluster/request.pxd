# request.pxd: the map of request.pyx, for native.pyx.

from fastcluster.csrc cimport fc_framing, fc_request
from fastcluster.exchange cimport Exchange, Listener
from fastcluster.spool cimport Spool


cdef class Request:
    cdef Exchange exchange           # while the head is the exchange's; then None
    cdef const fc_request *head      # the exchange's, or the copy's; NULL: never was one
    cdef const fc_framing *framing
    cdef void *copy                  # our own memory, see detach()
    cdef Listener listener           # these four once detached
    cdef str client_host
    cdef str url_scheme
    cdef int client_port
    cdef int slot

    cdef bytes whole                 # the body, unless it is on disk
    cdef Spool spool                 # the body on disk
    cdef bint is_given_away          # ... now is its uploads'
    cdef Py_ssize_t at               # how much of it was read
    cdef str path_text               # made when first asked for, as all that follows
    cdef object header_fields
    cdef object query_fields
    cdef object cookie_values
    cdef tuple forms                 # (texts, uploads)

    cdef const fc_request *valid(self) except NULL
    # Copies what the exchange lends, so that the Request may outlive it.
    cdef int detach(self) except -1
    # "GET /target HTTP/1.1", for the log.
    cdef str line(self)
    cdef bytes rest(self, Py_ssize_t size)
    cdef bytes entire(self)
    cdef object read_forms(self)
    cdef object body_file(self)
    cdef int keep_client(self, Exchange exchange) except -1
    cdef Listener taken_by(self)


# The Request of an exchange whose head is valid now.
cdef Request new_request(Exchange exchange)
