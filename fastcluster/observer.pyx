# observer.pyx: what the logs hear of an exchange, and the name that it goes by.
#
# It is there only if somebody wants to know: an access log, a slow-request log, or
# --request-id-header.  It copies what will be asked for while the heads are there,
# and formats nothing: that is the affair of the log's own thread.  It decides
# nothing about the exchange.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from fastcluster.csrc cimport fc_field, fc_head_field, fc_request, fc_request_find, fc_span
from fastcluster.exchange cimport Connection, Exchange, Observer, span_of_bytes

from fastcluster import request_ids

cdef tuple COMBINED = (b"referer", b"user-agent")


cdef inline int64_t now_ns() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef Observer observer_for(object config, object access):
    """Return who observes, None if nobody needs to."""
    if access is None and not config.slow_request_time_s and config.request_id_header is None:
        return None
    return LogObserver(config, access)


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Notes:
    pass


@cython.final
cdef class LogObserver(Observer):
    def __init__(self, config, access):
        line_format = getattr(access, "line_format", None)
        self.access = access
        self.wanted = COMBINED if access is not None else ()
        if line_format is not None:
            self.facts = access.record_facts
            self.wanted = line_format.fields
            self.wants_head = line_format.wants_head
        self.slow_ns = <int64_t>(config.slow_request_time_s * 1e9)
        if config.request_id_header is not None:
            self.id_name = config.request_id_header.encode()
            self.id_name_lower = self.id_name.lower()

    cdef int begun(self, Exchange exchange, fc_request *request) except -1:
        cdef Notes notes = Notes.__new__(Notes)
        cdef bytes name
        notes.request_id = ""
        if self.id_name is not None:
            self.name(notes, request)
        notes.method = PyBytes_FromStringAndSize(request.base + request.method, request.method_len)
        notes.target = PyBytes_FromStringAndSize(request.base + request.target, request.target_len)
        notes.fields = tuple([value_of(request, name) for name in self.wanted])
        notes.began_ns = now_ns()
        exchange.notes = notes
        return 0

    # ---- names

    cdef int name(self, Notes notes, fc_request *request) except -1:
        """Take the name that the request has, or give it one."""
        cdef uint32_t i, kept = 0
        cdef int found = 0
        cdef bytes value = None
        cdef fc_field *field
        for i in range(request.n_fields):
            field = &request.fields[i]
            if is_named(request, field, self.id_name_lower):
                found += 1
                value = PyBytes_FromStringAndSize(request.base + field.value, field.value_len)
        if found != 1 or not request_ids.is_name(value):
            for i in range(request.n_fields):
                if found and is_named(request, &request.fields[i], self.id_name_lower):
                    continue
                request.fields[kept] = request.fields[i]
                kept += 1
            request.n_fields = kept
            value = request_ids.made(value_of(request, b"traceparent"))
            self.put_name(notes, request, value)
        notes.request_id = value.decode("ascii")
        return 0

    cdef int put_name(self, Notes notes, fc_request *request, bytes value) except -1:
        """Let the head have one field more, which stands behind its end."""
        cdef uint32_t name_len = <uint32_t>len(self.id_name)
        cdef uint32_t value_len = <uint32_t>len(value)
        cdef uint32_t total = request.head_len + name_len + value_len
        cdef bytes longer = PyBytes_FromStringAndSize(NULL, total)
        cdef char *out = PyBytes_AS_STRING(longer)
        cdef fc_field *field = &request.fields[request.n_fields]
        memcpy(out, request.base, request.head_len)
        memcpy(out + request.head_len, PyBytes_AS_STRING(self.id_name), name_len)
        memcpy(out + request.head_len + name_len, PyBytes_AS_STRING(value), value_len)
        field.name = request.head_len
        field.name_len = name_len
        field.value = request.head_len + name_len
        field.value_len = value_len
        # The parser has one place more than there may be fields.
        request.n_fields += 1
        request.base = out
        request.head_len = total
        notes.longer_head = longer
        return 0

    # ---- the response

    cdef int answering(self, Exchange exchange) except -1:
        cdef Notes notes = <Notes>exchange.notes
        cdef bytes value
        if self.id_name is None or self.says_name(exchange):
            return 0
        value = notes.request_id.encode()
        fc_head_field(&exchange.connection.service.head, span_of_bytes(self.id_name),
                      span_of_bytes(value))
        return 0

    def says_name(self, Exchange exchange):
        """Tell whether the application has put the name into its response itself."""
        cdef bytes head = exchange.connection.service.head.buf.ptr[
            :exchange.connection.service.head.buf.len]
        return b"\r\n" + self.id_name_lower + b":" in head.lower()

    cdef int answered(self, Exchange exchange) except -1:
        if self.wants_head:
            (<Notes>exchange.notes).head = exchange.connection.service.head.buf.ptr[
                :exchange.connection.service.head.buf.len]
        return 0

    # ---- the end

    cdef int ended(self, Exchange exchange) except -1:
        cdef Notes notes = <Notes>exchange.notes
        cdef Connection connection = exchange.connection
        cdef int64_t took_ns = now_ns() - notes.began_ns
        # Not forgotten yet: a handler that has answered may still look at the head.
        notes.is_over = True
        if self.facts is not None:
            self.facts(
                exchange.client_host(), notes.method, notes.target,
                (exchange.major, exchange.minor), exchange.status, exchange.sent, took_ns,
                notes.fields, notes.head or b"", notes.request_id, exchange.scheme(),
                (connection.listener.host or connection.listener.path, connection.listener.port))
        elif self.access is not None:
            self.access.record(
                exchange.client_host(), notes.method, notes.target,
                (exchange.major, exchange.minor), exchange.status, exchange.sent,
                notes.fields[0], notes.fields[1])
        if self.slow_ns and took_ns >= self.slow_ns and not exchange.switched:
            self.tell_slow(exchange, notes, took_ns, f"answered with {exchange.status}")
        return 0

    cdef int gone(self, Exchange exchange) except -1:
        cdef Notes notes = <Notes>exchange.notes
        cdef int64_t took_ns
        if notes.is_over or not self.slow_ns:
            return 0
        took_ns = now_ns() - notes.began_ns
        if took_ns >= self.slow_ns and not exchange.switched:
            self.tell_slow(exchange, notes, took_ns, "the client went before it was answered")
        return 0

    cdef int tell_slow(self, Exchange exchange, Notes notes, int64_t took_ns,
                          str how) except -1:
        exchange.connection.service.log.warning(
            "slow request: %s %s from %s took %.3f s: %s%s",
            notes.method.decode("latin-1"), notes.target.decode("latin-1"),
            exchange.client_host() or "a unix client", took_ns / 1e9, how,
            f" (request id {notes.request_id})" if notes.request_id else "")
        return 0


cdef bytes value_of(const fc_request *request, bytes name):
    cdef const fc_field *field = fc_request_find(request, PyBytes_AS_STRING(name),
                                                 <size_t>len(name))
    if field == NULL:
        return None
    return PyBytes_FromStringAndSize(request.base + field.value, field.value_len)


cdef bint is_named(const fc_request *request, const fc_field *field, bytes name):
    if <Py_ssize_t>field.name_len != len(name):
        return False
    return PyBytes_FromStringAndSize(request.base + field.name, field.name_len).lower() == name
