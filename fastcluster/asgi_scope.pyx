"""The scope of an ASGI request (ASGI 3, HTTP & WebSocket 2.5).

Its law: a copied template and remembered names; what costs time is done once
for a listener or for a field name, not for a request.  Every scope is the
application's own, to change as it likes.  It reads a request's head and knows
nothing of bodies, responses and tasks.
"""

import sys

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_Copy
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.stdint cimport uint32_t
from libc.string cimport memchr, memcmp, memcpy, memset

from fastcluster.exchange cimport Connection, Exchange, Listener
from fastcluster.csrc cimport (
    FC_TARGET_ABSOLUTE, FC_TARGET_AUTHORITY, fc_field, fc_framing, fc_name_hash, fc_request,
    fc_request_unquote,
)


cdef extern from "Python.h":
    str PyUnicode_DecodeUTF8(const char *ptr, Py_ssize_t len, const char *errors)
    str PyUnicode_DecodeLatin1(const char *ptr, Py_ssize_t len, const char *errors)
    list PyList_New(Py_ssize_t len)
    void PyList_SET_ITEM(list target, Py_ssize_t i, object item)

cdef tuple EXTENSIONS = (
    "http.response.pathsend",
    "http.response.zerocopysend",
    "http.response.early_hint",
    "http.response.trailers",
)


cdef class ScopeMaker:
    """Makes scopes.

    root_path: the path that a proxy serves the application under.  The scope's
    path begins with it, whether the proxy takes it off or not.  offers_debug: whether
    the scopes have http.response.debug, which the specification wants of no server in
    production.
    """

    def __cinit__(self):
        memset(self.names, 0, sizeof(self.names))

    def __init__(self, str root_path="", bint offers_debug=False):
        root = root_path.strip("/")
        self.root = "/" + root if root else ""
        self.raw_root = self.root.encode("utf-8")
        self.outer = self.root
        self.raw_outer = self.raw_root
        self.asgi = {"version": "3.0", "spec_version": "2.5"}
        self.extensions = {name: {} for name in EXTENSIONS}
        if offers_debug:
            self.extensions["http.response.debug"] = {}

    def __dealloc__(self):
        for i in range(2 * NAME_PAIRS):
            Py_XDECREF(<PyObject *>self.names[i].lower)

    cdef int mount(self, str prefix) except -1:
        """Make the scopes of an application that has the paths below prefix, "/api"."""
        self.root = self.outer + prefix
        self.raw_root = self.root.encode("utf-8")
        self.listener = None
        return 0

    cdef dict make(self, Exchange exchange):
        cdef const fc_request *request = exchange.request
        cdef Connection connection = exchange.connection
        cdef dict scope
        self.method = "GET"
        if connection.listener is not self.listener:
            self.choose(connection.listener)
        scope = PyDict_Copy(self.template)
        scope["asgi"] = PyDict_Copy(self.asgi)
        scope["extensions"] = PyDict_Copy(self.extensions)
        if request.minor == 0:
            scope["http_version"] = "1.0"
        if request.method_len != 3 or memcmp(request.base + request.method, b"GET", 3) != 0:
            self.method = method(request.base + request.method, request.method_len)
            scope["method"] = self.method
        self.set_path(scope, exchange)
        scope["headers"] = self.fields(exchange)
        if exchange.origin is not None:
            self.set_origin(scope, exchange)
        elif not self.listener.path:
            scope["client"] = (connection.client_host(), connection.client_port())
        return scope

    cdef int set_origin(self, dict scope, Exchange exchange) except -1:
        """Who asks by the word of a trusted proxy."""
        cdef str host = exchange.client_host()
        scope["scheme"] = exchange.scheme()
        if host:
            scope["client"] = (host, exchange.client_port())
        return 0

    cdef dict make_websocket(self, Exchange exchange):
        cdef dict scope = self.make(exchange)
        del scope["method"]
        scope["type"] = "websocket"
        scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
        scope["extensions"] = {"websocket.http.response": {}}
        return scope

    cdef int choose(self, Listener listener) except -1:
        """Make the template for requests from another listener."""
        cdef tuple server
        if listener.path:
            server = (listener.path, None)
        else:
            server = (listener.host, listener.port)
        # Key by key: a dict that CPython makes in one go is prepared for keys of
        # any type, and slower for those that are str.  It has 32 places then, room
        # for `state` and six keys of the application, and is full enough to be
        # copied as a whole (CPython's rule: to two thirds of what was ever set).
        template = {}
        for key, value in (
            ("type", "http"),
            ("asgi", None),
            ("http_version", "1.1"),
            ("method", "GET"),
            ("scheme", listener.scheme),
            ("path", ""),
            ("raw_path", b""),
            ("query_string", b""),
            ("root_path", self.root),
            ("headers", None),
            ("client", None),
            ("server", server),
            ("extensions", None),
        ):
            template[key] = value
        self.template = template
        self.listener = listener
        return 0

    cdef int set_path(self, dict scope, Exchange exchange) except -1:
        cdef const fc_request *request = exchange.request
        cdef const fc_framing *framing = &exchange.framing
        cdef const char *ptr = request.base + framing.path
        cdef uint32_t len = framing.path_len
        if framing.target_form == FC_TARGET_AUTHORITY:
            ptr = request.base + request.target
            len = request.target_len
        elif framing.target_form == FC_TARGET_ABSOLUTE and len == 0:
            ptr = b"/"
            len = 1
        self.raw_path = PyBytes_FromStringAndSize(ptr, len)
        if memchr(ptr, c"%", len) == NULL:
            scope["path"] = PyUnicode_DecodeUTF8(ptr, len, b"replace")
        else:
            scope["path"] = unquoted(ptr, len)
        self.query = None
        if framing.query_len != 0:
            self.query = PyBytes_FromStringAndSize(
                request.base + framing.query, framing.query_len)
            scope["query_string"] = self.query
        if self.root:
            self.put_root(scope)
        scope["raw_path"] = self.raw_path
        return 0

    cdef int put_root(self, dict scope) except -1:
        """Let the path begin with root_path, as the specification has it."""
        cdef str path = scope["path"]
        cdef Py_ssize_t n = len(self.root)
        if not path.startswith("/"):
            return 0  # an asterisk or an authority lies under no path
        if path.startswith(self.root) and (len(path) == n or path[n] == "/"):
            return 0
        scope["path"] = self.outer + path
        self.raw_path = self.raw_outer + self.raw_path
        return 0

    cdef list fields(self, Exchange exchange):
        cdef const fc_request *request = exchange.request
        cdef const fc_framing *framing = &exchange.framing
        cdef const fc_field *field
        cdef bint is_absolute = framing.target_form == FC_TARGET_ABSOLUTE
        cdef list fields = PyList_New(request.n_fields)
        cdef tuple pair
        cdef object name, value
        cdef uint32_t i
        for i in range(request.n_fields):
            field = &request.fields[i]
            name = self.lower_name(request.base + field.name, field.name_len)
            if is_absolute and name == b"host":
                # The target's authority wins (RFC 9112 section 3.2.2).
                value = PyBytes_FromStringAndSize(request.base + framing.host, framing.host_len)
            else:
                value = PyBytes_FromStringAndSize(request.base + field.value, field.value_len)
            pair = (name, value)
            Py_INCREF(pair)
            PyList_SET_ITEM(fields, i, pair)
        return fields

    # Two places for each hash, the newer name first.  A third name with that
    # hash pushes the older one out, which costs time and nothing else.
    cdef object lower_name(self, const char *ptr, size_t len):
        cdef Name *pair
        if len > NAME_MAX:
            return PyBytes_FromStringAndSize(ptr, len).lower()
        pair = &self.names[2 * (fc_name_hash(ptr, len) & (NAME_PAIRS - 1))]
        if is_name(&pair[0], ptr, len):
            return <object>pair[0].lower
        if is_name(&pair[1], ptr, len):
            return <object>pair[1].lower
        Py_XDECREF(<PyObject *>pair[1].lower)
        pair[1] = pair[0]
        pair[0].lower = NULL
        pair[0].len = 0
        return self.learn(&pair[0], ptr, len)

    cdef object learn(self, Name *name, const char *ptr, size_t len):
        cdef object lower = PyBytes_FromStringAndSize(ptr, len).lower()
        Py_INCREF(lower)
        name.lower = <void *>lower
        name.len = <uint8_t>len
        memcpy(name.text, ptr, len)
        return lower


cdef inline bint is_name(const Name *name, const char *ptr, size_t len) noexcept:
    return name.len == len and memcmp(name.text, ptr, len) == 0


cdef str method(const char *ptr, size_t len):
    if len == 4 and memcmp(ptr, b"POST", 4) == 0:
        return "POST"
    if len == 4 and memcmp(ptr, b"HEAD", 4) == 0:
        return "HEAD"
    return sys.intern(PyUnicode_DecodeLatin1(ptr, len, NULL))


cdef str unquoted(const char *ptr, uint32_t len):
    """Decode %XX, then UTF-8; what is no UTF-8 becomes U+FFFD, what is no %XX stays."""
    cdef bytes buffer = PyBytes_FromStringAndSize(NULL, len)
    cdef char *out = PyBytes_AS_STRING(buffer)
    cdef uint32_t n = fc_request_unquote(ptr, len, out)
    return PyUnicode_DecodeUTF8(out, n, b"replace")
