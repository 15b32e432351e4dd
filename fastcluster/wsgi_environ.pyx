"""The WSGI environ of a request (PEP 3333).

Its law: a copied template and interned keys; what costs time is done once for
a listener or for a field name, not for a request.  Text is latin-1, as the PEP
has it.  A field that another server could take for a different one (a name with
an underscore, Proxy) never reaches the application.  It reads a request's head
and knows nothing of bodies and responses.
"""

import sys

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_Copy
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, memset

from fastcluster.exchange cimport Connection, Exchange, Listener
from fastcluster.csrc cimport (
    FC_TARGET_ABSOLUTE, FC_TARGET_ASTERISK, fc_field, fc_framing, fc_name_hash, fc_request,
    fc_request_unquote,
)


cdef extern from "Python.h":
    str PyUnicode_DecodeLatin1(const char *ptr, Py_ssize_t len, const char *errors)
    # Borrowed: the value that the dict holds now.
    PyObject *PyDict_SetDefault(dict environ, object key, object value) except NULL
    Py_ssize_t PyDict_GET_SIZE(dict environ)

cdef enum:
    FIELD        # repeated ones are joined with ","
    COOKIE       # repeated ones are joined with "; " (RFC 9113 section 8.2.3)
    CODING       # Transfer-Encoding
    DROPPED

# What an application looks up; the very objects that its own code holds, so
# that finding them takes a comparison of pointers.
cdef dict KNOWN = {key: key for key in map(sys.intern, """
    CONTENT_LENGTH CONTENT_TYPE HTTP_ACCEPT HTTP_ACCEPT_CHARSET HTTP_ACCEPT_ENCODING
    HTTP_ACCEPT_LANGUAGE HTTP_AUTHORIZATION HTTP_CACHE_CONTROL HTTP_CONNECTION HTTP_COOKIE HTTP_DNT
    HTTP_EXPECT HTTP_FORWARDED HTTP_HOST HTTP_IF_MATCH HTTP_IF_MODIFIED_SINCE HTTP_IF_NONE_MATCH
    HTTP_IF_RANGE HTTP_IF_UNMODIFIED_SINCE HTTP_ORIGIN HTTP_PRAGMA HTTP_RANGE HTTP_REFERER
    HTTP_SEC_FETCH_DEST HTTP_SEC_FETCH_MODE HTTP_SEC_FETCH_SITE HTTP_SEC_FETCH_USER HTTP_TE
    HTTP_TRANSFER_ENCODING HTTP_UPGRADE HTTP_UPGRADE_INSECURE_REQUESTS HTTP_USER_AGENT HTTP_VIA
    HTTP_X_CSRFTOKEN HTTP_X_FORWARDED_FOR HTTP_X_FORWARDED_HOST HTTP_X_FORWARDED_PROTO
    HTTP_X_REAL_IP HTTP_X_REQUESTED_WITH HTTP_X_REQUEST_ID
""".split())}

# Names with a meaning to the server: one that only looks like them once its
# underscores have become dashes is dropped whatever the configuration says.
cdef frozenset RESERVED = frozenset(
    ("content-length", "content-type", "transfer-encoding", "host", "proxy", "connection"))


cdef inline str latin1(const char *ptr, size_t len):
    return PyUnicode_DecodeLatin1(ptr, len, NULL)


cdef class EnvironMaker:
    """Makes environs, one maker a server.

    base: the keys that are the same for all requests (`wsgi.…`, SERVER_SOFTWARE).
    root_path: SCRIPT_NAME, taken off a path that begins with it.
    underscores: fields with an underscore in their name are passed on, too.
    """

    def __cinit__(self):
        memset(self.names, 0, sizeof(self.names))
        memset(&self.rare, 0, sizeof(self.rare))

    def __init__(self, dict base, str root_path="", bint underscores=False):
        self.base = base
        # As the path will be: the bytes of UTF-8, each a latin-1 character.
        root = root_path.strip("/").encode().decode("latin-1")
        self.root = "/" + root if root else ""
        self.prefix = ""
        self.underscores = underscores

    def __dealloc__(self):
        for i in range(2 * NAME_PAIRS):
            Py_XDECREF(self.names[i].key)
        Py_XDECREF(self.rare.key)

    cdef int mount(self, str prefix) except -1:
        """Make the environs of an application that has the paths below prefix, "/api"."""
        self.prefix = prefix.encode().decode("latin-1")
        self.root += self.prefix
        self.listener = None
        return 0

    cdef dict make(self, Exchange exchange, bint chunked):
        cdef const fc_request *request = exchange.request
        cdef const fc_framing *framing = &exchange.framing
        cdef Connection connection = exchange.connection
        cdef str target = latin1(request.base + request.target, request.target_len)
        cdef dict environ
        if connection.listener is not self.listener:
            self.choose(connection.listener)
        environ = PyDict_Copy(self.template)
        if request.method_len != 3 or memcmp(request.base + request.method, b"GET", 3) != 0:
            environ["REQUEST_METHOD"] = method(request.base + request.method, request.method_len)
        environ["RAW_URI"] = target
        environ["REQUEST_URI"] = target
        if framing.path_len == request.target_len and not self.root and \
                memchr(request.base + request.target, c"%", request.target_len) == NULL and \
                framing.target_form != FC_TARGET_ASTERISK:
            environ["PATH_INFO"] = target
        else:
            self.split_root(environ, path(request, framing))
            if framing.query_len != 0:
                environ["QUERY_STRING"] = latin1(request.base + framing.query, framing.query_len)
        if request.minor == 0:
            environ["SERVER_PROTOCOL"] = "HTTP/1.0"
        self.add_fields(environ, request, chunked)
        if framing.target_form == FC_TARGET_ABSOLUTE:
            environ["HTTP_HOST"] = latin1(request.base + framing.host, framing.host_len)
        if exchange.origin is not None:
            environ["wsgi.url_scheme"] = exchange.scheme()
        if self.listener.path:
            add_name(environ, request, framing)
        if not self.listener.path or exchange.origin is not None:
            environ["REMOTE_ADDR"] = exchange.client_host()
            environ["REMOTE_PORT"] = port_text(exchange.client_port())
        return environ

    cdef int choose(self, Listener listener) except -1:
        """Make the template for requests from another listener."""
        # The keys that every request sets stand here already: so the copy has
        # its final size, and the usual values need not be set at all.
        template = roomy([
            ("REQUEST_METHOD", "GET"),
            ("SCRIPT_NAME", self.root),
            ("PATH_INFO", ""),
            ("QUERY_STRING", ""),
            ("RAW_URI", ""),
            ("REQUEST_URI", ""),
            ("SERVER_NAME", server_name(listener)),
            ("SERVER_PORT", str(listener.port)),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("REMOTE_ADDR", ""),
            ("REMOTE_PORT", ""),
            ("wsgi.url_scheme", listener.scheme),
            *self.base.items(),
        ])
        if listener.path:
            del template["REMOTE_PORT"]
        self.template = template
        self.listener = listener
        return 0

    cdef int split_root(self, dict environ, str path) except -1:
        if is_below(path, self.root):
            path = path[len(self.root):]
        elif is_below(path, self.prefix):
            path = path[len(self.prefix):]
        environ["PATH_INFO"] = path
        return 0

    cdef int add_fields(self, dict environ, const fc_request *request, bint chunked) except -1:
        cdef const fc_field *field
        cdef Name *name
        cdef Py_ssize_t before
        cdef PyObject *held
        cdef uint32_t i
        for i in range(request.n_fields):
            field = &request.fields[i]
            name = self.name_of(request.base + field.name, field.name_len)
            if name.kind >= CODING and (name.kind == DROPPED or not chunked):
                continue
            before = PyDict_GET_SIZE(environ)
            value = latin1(request.base + field.value, field.value_len)
            held = PyDict_SetDefault(environ, <object>name.key, value)
            if PyDict_GET_SIZE(environ) == before:
                separator = "; " if name.kind == COOKIE else ","
                environ[<object>name.key] = <str>held + separator + value
        return 0

    # Two places for each hash, the newer name first.  A third name with that
    # hash pushes the older one out, which costs time and nothing else.
    cdef Name *name_of(self, const char *ptr, size_t len) except NULL:
        cdef Name *pair
        if len > NAME_MAX:
            self.learn(&self.rare, ptr, len)
            return &self.rare
        pair = &self.names[2 * (fc_name_hash(ptr, len) & (NAME_PAIRS - 1))]
        if is_name(&pair[0], ptr, len):
            return &pair[0]
        if is_name(&pair[1], ptr, len):
            return &pair[1]
        Py_XDECREF(pair[1].key)
        pair[1] = pair[0]
        pair[0].key = NULL
        pair[0].len = 0
        self.learn(&pair[0], ptr, len)
        pair[0].len = <uint16_t>len
        memcpy(pair[0].text, ptr, len)
        return &pair[0]

    cdef int learn(self, Name *name, const char *ptr, size_t len) except -1:
        cdef str text = latin1(ptr, len)
        cdef str plain = text.lower().replace("_", "-")
        cdef str key = plain.replace("-", "_").upper()
        cdef PyObject *old = name.key
        if plain not in ("content-type", "content-length"):
            key = "HTTP_" + key
        # Other names are not interned: where that is for ever, a client could
        # fill the memory with them.
        key = KNOWN.get(key, key)
        name.kind = self.kind_of(text, plain)
        Py_INCREF(key)
        name.key = <PyObject *>key
        Py_XDECREF(old)
        return 0

    def kind_of(self, str text, str plain):
        if "_" in text and (not self.underscores or plain in RESERVED):
            return DROPPED
        if plain == "proxy":
            # A CGI program's HTTP_PROXY is a setting (CVE-2016-5385).
            return DROPPED
        if plain == "transfer-encoding":
            return CODING
        return COOKIE if plain == "cookie" else FIELD


cdef bint is_below(str path, str root):
    cdef Py_ssize_t n = len(root)
    return n != 0 and path.startswith(root) and (len(path) == n or path[n] == "/")


cdef str server_name(Listener listener):
    if ":" in listener.host:
        return f"[{listener.host}]"  # RFC 3875 section 4.1.14
    return listener.host or "localhost"


cdef dict roomy(list items):
    """A dict with room in it and in its copies for some twenty keys more.

    A dict that CPython makes in one go is prepared for keys of any type, and
    slower for str keys than one that has grown.  One with 22 keys has grown to
    64 places; what is then deleted gives none of them back.
    """
    cdef dict grown = {}
    for key, value in items:
        grown[key] = value
    extra = range(len(grown), 22)
    for number in extra:
        grown[str(number)] = None
    for number in extra:
        del grown[str(number)]
    return grown


cdef inline bint is_name(const Name *name, const char *ptr, size_t len) noexcept:
    return name.len == len and memcmp(name.text, ptr, len) == 0


cdef str method(const char *ptr, size_t len):
    if len == 4 and memcmp(ptr, b"POST", 4) == 0:
        return "POST"
    if len == 4 and memcmp(ptr, b"HEAD", 4) == 0:
        return "HEAD"
    return sys.intern(latin1(ptr, len))


cdef str path(const fc_request *request, const fc_framing *framing):
    """The path with %XX decoded; "" stands for the asterisk and for no path at all."""
    cdef const char *ptr = request.base + framing.path
    cdef uint32_t len = framing.path_len
    if framing.target_form == FC_TARGET_ASTERISK:
        return ""
    if framing.target_form == FC_TARGET_ABSOLUTE and len == 0:
        return "/"
    if memchr(ptr, c"%", len) == NULL:
        return latin1(ptr, len)
    return unquoted(ptr, len)


cdef str unquoted(const char *ptr, uint32_t len):
    cdef bytes buffer = PyBytes_FromStringAndSize(NULL, len)
    cdef char *out = PyBytes_AS_STRING(buffer)
    cdef uint32_t n = fc_request_unquote(ptr, len, out)
    return latin1(out, n)


cdef str port_text(int port):
    cdef char digits[8]
    cdef int at = 8
    while True:
        at -= 1
        digits[at] = c"0" + port % 10
        port //= 10
        if port == 0:
            return latin1(digits + at, 8 - at)


cdef int add_name(dict environ, const fc_request *request, const fc_framing *framing) except -1:
    """A unix socket has no name and port of its own: the client's words are taken."""
    cdef str host = latin1(request.base + framing.host, framing.host_len)
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host, ""
    if name:
        environ["SERVER_NAME"] = name
    environ["SERVER_PORT"] = port or ("443" if environ["wsgi.url_scheme"] == "https" else "80")
    return 0
