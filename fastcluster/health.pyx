# health.pyx: what orchestrators and load balancers ask: do you live, may I send you clients?
#
# Answered on the loop's thread without a line of the application's, so the answer
# says that the loop turns.  Readiness is the whole server's: it fails from the
# moment that a stop is asked for, and not while one worker gives way to another.

from libc.string cimport memcmp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastcluster.csrc cimport fc_framing, fc_request
from fastcluster.exchange cimport Exchange, Handler, Service, span_of, span_of_bytes


cdef class HealthHandler(Handler):
    """Answers GET and HEAD of --livez and --readyz; inner runs the application."""

    def __init__(self, Handler inner not None, config):
        self.inner = inner
        self.livez = config.livez.encode() if config.livez else None
        self.readyz = config.readyz.encode() if config.readyz else None
        self.is_logged = config.access_log_health

    cdef int begin(self, Exchange exchange) except -1:
        cdef Service service = exchange.connection.service
        if self.livez is not None and asks_for(exchange, self.livez):
            return self.answer(exchange, 200, b"ok\n")
        if self.readyz is not None and asks_for(exchange, self.readyz):
            if service.leaving or service.is_last:
                return self.answer(exchange, 503, b"stopping\n")
            return self.answer(exchange, 200, b"ok\n")
        return self.inner.begin(exchange)

    cdef int answer(self, Exchange exchange, int status, bytes body) except -1:
        if not self.is_logged:
            exchange.notes = None
        exchange.start(status, span_of(NULL, 0))
        exchange.field(span_of(b"Content-Type", 12), span_of(b"text/plain", 10))
        exchange.field(span_of(b"Cache-Control", 13), span_of(b"no-store", 8))
        exchange.send_head(PyBytes_GET_SIZE(body))
        exchange.write(PyBytes_AS_STRING(body), <size_t>PyBytes_GET_SIZE(body), body)
        return exchange.finish()


cdef bint asks_for(Exchange exchange, bytes path) except -1:
    cdef const fc_request *request = exchange.request
    cdef const fc_framing *framing = &exchange.framing
    if <Py_ssize_t>framing.path_len != PyBytes_GET_SIZE(path) or \
            memcmp(request.base + framing.path, PyBytes_AS_STRING(path), framing.path_len) != 0:
        return False
    return framing.is_head or (
        request.method_len == 3 and memcmp(request.base + request.method, b"GET", 3) == 0)
