# request.pyx: what a native handler is given.
#
# A Request lends its head from the exchange and copies nothing until asked: a
# handler that looks at nothing costs one small object.  native.pyx detaches it
# before the exchange is over if anybody else holds it, so a Request is valid
# for as long as somebody has it.  It knows neither the application nor the
# response.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy

from fastcluster.csrc cimport FC_TARGET_ABSOLUTE, FC_TARGET_ORIGIN, fc_field, fc_framing, fc_request
from fastcluster.exchange cimport Connection, Exchange, Listener
from fastcluster.spool cimport Spool

import io
from urllib.parse import unquote_to_bytes

from fastcluster import fields, multipart


cdef extern from "Python.h":
    str PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    unsigned char *PyUnicode_1BYTE_DATA(object text)
    str PyUnicode_DecodeLatin1(const char *ptr, Py_ssize_t len, const char *errors)
    str PyUnicode_DecodeUTF8(const char *ptr, Py_ssize_t len, const char *errors)

cdef enum:
    ITERATION_BYTES = 65536

cdef object headers_class = fields.Headers
cdef object new_headers = fields.Headers.__new__
cdef str PARTLY_READ = "the request body is on disk and was partly read already"
cdef str GIVEN_AWAY = "the request body is on disk and belongs to the form's uploads now"

# One block of memory: this, then the fields, then the head's bytes.
cdef struct Copy:
    fc_request head
    fc_framing framing


cdef inline str latin1(const char *ptr, size_t len):
    return PyUnicode_DecodeLatin1(ptr, <Py_ssize_t>len, NULL)


cdef str lower_ascii(const char *ptr, uint32_t len):
    """A field's name, which the parser has found to be a token."""
    cdef str name = PyUnicode_New(len, 127)
    cdef unsigned char *text = PyUnicode_1BYTE_DATA(name)
    cdef uint32_t i
    cdef char c
    for i in range(len):
        c = ptr[i]
        text[i] = <unsigned char>(c + 32 if c"A" <= c <= c"Z" else c)
    return name


cdef object make_headers(const fc_request *head):
    cdef const fc_field *field
    cdef uint32_t i
    cdef list pairs = []
    cdef dict joined = {}
    cdef str name, value
    for i in range(head.n_fields):
        field = &head.fields[i]
        name = lower_ascii(head.base + field.name, field.name_len)
        value = latin1(head.base + field.value, field.value_len)
        pairs.append((name, value))
        before = joined.get(name)
        joined[name] = value if before is None else fields.join_values(name, before, value)
    headers = new_headers(headers_class)
    headers._pairs = pairs
    headers._joined = joined
    return headers


cdef Request new_request(Exchange exchange):
    cdef Request request = Request.__new__(Request)
    request.exchange = exchange
    request.head = exchange.request
    request.framing = &exchange.framing
    return request


# No reference cycle can go through a Request: its attributes cannot be set, and
# what it holds knows nothing of it.  So the collector need not hear of it.
@cython.no_gc
@cython.freelist(16)
cdef class Request:
    """What a client asks for; made by the server and read-only.

    It stays valid after its response, for as long as it is held.
    """

    def __init__(self):
        raise TypeError("a Request is made by the server, for a handler")

    def __dealloc__(self):
        free(self.copy)
        if self.spool is not None:
            self.spool.release()

    cdef const fc_request *valid(self) except NULL:
        if self.head == NULL:
            raise RuntimeError("this Request was not made by the server")
        return self.head

    cdef int detach(self) except -1:
        cdef Exchange exchange = self.exchange
        cdef Connection connection
        cdef const fc_request *head = self.head
        cdef Copy *copy
        cdef fc_field *spans
        cdef char *text
        if exchange is None:
            return 0
        copy = <Copy *>malloc(sizeof(Copy) + head.n_fields * sizeof(fc_field) + head.head_len)
        if copy == NULL:
            raise MemoryError
        spans = <fc_field *>(copy + 1)
        text = <char *>(spans + head.n_fields)
        memcpy(spans, head.fields, head.n_fields * sizeof(fc_field))
        memcpy(text, head.base, head.head_len)
        copy.head = head[0]
        copy.head.base = text
        copy.head.fields = spans
        copy.framing = self.framing[0]
        self.keep_client(exchange)
        self.copy = copy
        self.head = &copy.head
        self.framing = &copy.framing
        self.exchange = None
        return 0

    cdef int keep_client(self, Exchange exchange) except -1:
        cdef Connection connection = exchange.connection
        if connection is None:
            return 0
        self.listener = connection.listener
        self.client_host = exchange.client_host()
        self.client_port = exchange.client_port()
        self.url_scheme = exchange.scheme()
        self.slot = connection.service.worker
        return 0

    cdef str line(self):
        return f"{self.method} {self.target} HTTP/{self.http_version}"

    # ---- the head

    @property
    def method(self):
        """The method as it was sent: "GET"."""
        cdef const fc_request *head = self.valid()
        cdef const char *ptr = head.base + head.method
        if head.method_len == 3 and memcmp(ptr, b"GET", 3) == 0:
            return "GET"
        if head.method_len == 4 and memcmp(ptr, b"POST", 4) == 0:
            return "POST"
        return latin1(ptr, head.method_len)

    @property
    def target(self):
        """The request target as it was sent, in latin-1 so that no byte is lost."""
        cdef const fc_request *head = self.valid()
        return latin1(head.base + head.target, head.target_len)

    @property
    def path(self):
        """The target's path, percent-decoded; what is not UTF-8 becomes U+FFFD.

        "*" for an asterisk-form target; "" for CONNECT.
        """
        cdef const fc_request *head = self.valid()
        cdef const char *ptr = head.base + self.framing.path
        cdef uint32_t len = self.framing.path_len
        if self.path_text is not None:
            return self.path_text
        if len == 0 or memchr(ptr, c"%", len) != NULL:
            self.path_text = unquote_to_bytes(self.raw_path).decode("utf-8", "replace")
        else:
            self.path_text = PyUnicode_DecodeUTF8(ptr, len, b"replace")
        return self.path_text

    @property
    def raw_path(self):
        """The target's path as it was sent, in bytes."""
        cdef const fc_request *head = self.valid()
        if self.framing.path_len == 0 and self.framing.target_form == FC_TARGET_ABSOLUTE:
            return b"/"
        return PyBytes_FromStringAndSize(head.base + self.framing.path, self.framing.path_len)

    @property
    def query_string(self):
        """What follows the target's "?", as it was sent (latin-1); "" without one."""
        cdef const fc_request *head = self.valid()
        return latin1(head.base + self.framing.query, self.framing.query_len)

    @property
    def query(self):
        """The query as a MultiDict of str."""
        cdef const fc_request *head = self.valid()
        if self.query_fields is None:
            self.query_fields = fields.parse_query(
                PyBytes_FromStringAndSize(head.base + self.framing.query, self.framing.query_len))
        return self.query_fields

    @property
    def headers(self):
        """The fields as Headers: names without regard to case, repeated ones kept."""
        if self.header_fields is None:
            self.header_fields = make_headers(self.valid())
        return self.header_fields

    @property
    def cookies(self):
        """The cookies as a dict of str."""
        if self.cookie_values is None:
            self.cookie_values = fields.parse_cookies(self.headers.get_all("cookie"))
        return self.cookie_values

    @property
    def http_version(self):
        """The protocol's version: "1.1" or "1.0"."""
        return "1.1" if self.valid().minor >= 1 else "1.0"

    @property
    def host(self):
        """The authority that the request is for, "example.org:8000"; "" if it names none."""
        cdef const fc_request *head = self.valid()
        return latin1(head.base + self.framing.host, self.framing.host_len)

    @property
    def url(self):
        """The whole URL; without a Host it is made with the address that took the request."""
        cdef const fc_request *head = self.valid()
        if self.framing.target_form == FC_TARGET_ABSOLUTE:
            return self.target
        host = self.host
        if not host:
            listener = self.taken_by()
            host = listener.host if listener is not None else ""
            if ":" in host:
                host = f"[{host}]"
            host = f"{host}:{listener.port}" if host else "localhost"
        target = self.target if self.framing.target_form == FC_TARGET_ORIGIN else ""
        return f"{self.scheme}://{host}{target}"

    # ---- where it came from

    cdef Listener taken_by(self):
        if self.exchange is not None and self.exchange.connection is not None:
            return self.exchange.connection.listener
        return self.listener

    @property
    def scheme(self):
        """The scheme: "http", or what a trusted proxy says."""
        if self.exchange is not None and self.exchange.connection is not None:
            return self.exchange.scheme()
        return self.url_scheme or "http"

    @property
    def client(self):
        """The client's address and port, the peer's or what a trusted proxy says.

        ("", 0) on a unix socket.
        """
        if self.exchange is not None and self.exchange.connection is not None:
            return self.exchange.client_host(), self.exchange.client_port()
        return self.client_host or "", self.client_port

    @property
    def worker(self):
        """The slot number of the worker that runs the handler, from 0."""
        if self.exchange is not None and self.exchange.connection is not None:
            return self.exchange.connection.service.worker
        return self.slot

    # ---- the body, which is complete when the handler is called

    cdef bytes rest(self, Py_ssize_t size):
        """Take up to size bytes of what was not read yet, all of it below 0."""
        cdef Py_ssize_t start = self.at
        cdef Py_ssize_t left
        if self.is_given_away:
            raise RuntimeError(GIVEN_AWAY)
        if self.spool is not None:
            data = self.spool.take(size)
            self.at += len(data)
            return data
        if self.whole is None:
            return b""
        left = len(self.whole) - start
        if size < 0 or size > left:
            size = left
        self.at = start + size
        if size == len(self.whole):
            return self.whole
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.whole) + start, size)

    cdef bytes entire(self):
        """The whole body, for those who parse it."""
        if self.is_given_away:
            raise RuntimeError(GIVEN_AWAY)
        if self.spool is not None:
            if self.at != 0:
                raise RuntimeError(PARTLY_READ)
            self.whole = self.spool.take(-1)
            self.spool.release()
            self.spool = None
        return self.whole if self.whole is not None else b""

    def read(self, size=-1, /):
        """Read up to size bytes of the body, all that is left for a negative size.

        Like a file's: a second read() gives b"".  It never waits, since the
        body is complete before the handler is called.
        """
        return self.rest(-1 if size is None else size)

    def __iter__(self):
        """Iterate over what is left of the body, in chunks of up to 64 KiB."""
        chunk = self.rest(ITERATION_BYTES)
        while chunk:
            yield chunk
            chunk = self.rest(ITERATION_BYTES)

    @property
    def body(self):
        """The whole body, however much of it was read; brings a large one into memory.

        Raises RuntimeError if a body above --body-memory was partly read.
        """
        return self.entire()

    def text(self):
        """Decode the whole body by the charset of its Content-Type, else as UTF-8.

        Raises BadRequest.
        """
        return fields.decode_text(self.entire(), self.headers.get("content-type", ""))

    def json(self):
        """Parse the whole body as JSON, whatever its Content-Type; raises BadRequest."""
        return fields.parse_json(self.entire())

    def form(self):
        """Return a form's text fields as a MultiDict of str; empty without a body.

        Takes application/x-www-form-urlencoded and multipart/form-data; raises
        BadRequest for other types, malformed or too large forms.
        """
        return self.read_forms()[0]

    def files(self):
        """Return a form's uploaded files as a MultiDict of Upload.

        The uploads are windows on the request body and stay valid as long as
        they are held.  Raises BadRequest as form() does.
        """
        return self.read_forms()[1]

    cdef object read_forms(self):
        if self.forms is not None:
            return self.forms
        kind, parameters = fields.parse_parameters(self.headers.get("content-type", ""))
        if kind == "multipart/form-data":
            boundary = multipart.boundary_of(parameters)
            self.forms = multipart.parse(self.body_file(), boundary)
        elif kind == "application/x-www-form-urlencoded":
            self.forms = fields.parse_urlencoded(self.entire()), fields.MultiDict()
        elif self.spool is None and not self.whole:
            self.forms = fields.MultiDict(), fields.MultiDict()
        else:
            raise fields.BadRequest(
                "a form is application/x-www-form-urlencoded or multipart/form-data", 415)
        return self.forms

    cdef object body_file(self):
        """The body as a seekable file; one on disk is given away to its uploads."""
        cdef Spool spool = self.spool
        if spool is None:
            return io.BytesIO(self.entire())
        if self.at != 0:
            raise RuntimeError(PARTLY_READ)
        self.spool = None
        self.is_given_away = True
        return multipart.Owned(spool.file)

    def __repr__(self):
        return f"<Request {self.method} {self.target}>" if self.head != NULL else "<Request>"
