# websocket_handshake.pyx: the opening handshake (RFC 6455 section 4).
#
# Its law: a request that asks for a WebSocket gets one or is told why not; it is
# never taken for another request.  It knows no frames and no states.

import base64
import binascii
import hashlib

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE, PyBytes_FromStringAndSize

from fastcluster.csrc cimport FC_BODY_NONE, fc_field, fc_request_find, fc_span
from fastcluster.deflate cimport Deflate, agree
from fastcluster.exchange cimport Connection, Exchange, span_of, span_of_bytes

import re

cdef bytes GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"   # RFC 6455 section 1.3
cdef object TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# Ours to say.  Connection is the head's writer's.
cdef frozenset OWN_FIELDS = frozenset({
    b"upgrade", b"sec-websocket-accept", b"sec-websocket-extensions", b"sec-websocket-protocol",
    b"sec-websocket-version",
})


cdef bint wants_websocket(Exchange exchange) except -1:
    cdef const fc_field *field
    cdef bytes value
    if not exchange.framing.upgrade:
        return False
    field = fc_request_find(exchange.request, b"upgrade", 7)
    value = PyBytes_FromStringAndSize(exchange.request.base + field.value, field.value_len)
    return b"websocket" in [word.strip().lower() for word in value.split(b",")]


# ---- the client's half

cdef Handshake read_handshake(Exchange exchange, list fields, bint deflates):
    cdef Handshake handshake = Handshake.__new__(Handshake)
    cdef list keys = [], versions = [], extensions = [], protocols = []
    cdef str why = fault_of_request(exchange)
    if why is not None:
        return refuse(exchange, 400, why)
    for name, value in fields:
        if name == b"sec-websocket-key":
            keys.append(value)
        elif name == b"sec-websocket-version":
            versions.append(value)
        elif name == b"sec-websocket-extensions":
            extensions.append(value.decode("latin-1"))
        elif name == b"sec-websocket-protocol":
            protocols.append(value.decode("latin-1"))
    if versions != [b"13"]:
        return refuse(exchange, 426, "Sec-WebSocket-Version is not 13")
    if len(keys) != 1 or not is_key(keys[0]):
        return refuse(exchange, 400, "Sec-WebSocket-Key is not 16 bytes in base64")
    try:
        handshake.subprotocols = tokens_in(", ".join(protocols)) if protocols else []
        if extensions and deflates:
            handshake.deflate = agree(", ".join(extensions))
    except ValueError as error:
        return refuse(exchange, 400, str(error))
    handshake.accept = base64.b64encode(
        hashlib.sha1(keys[0] + GUID, usedforsecurity=False).digest())
    return handshake


cdef str fault_of_request(Exchange exchange):
    cdef bytes method = exchange.part(exchange.request.method, exchange.request.method_len)
    if method != b"GET":
        return "a WebSocket handshake that is no GET"
    if exchange.framing.body != FC_BODY_NONE:
        return "a WebSocket handshake with a body"
    return None


cdef bint is_key(bytes value):
    try:
        return len(value) == 24 and len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


cdef list tokens_in(str text):
    cdef list tokens = [token.strip(" \t") for token in text.split(",")]
    for token in tokens:
        if TOKEN.fullmatch(token) is None:
            raise ValueError("malformed Sec-WebSocket-Protocol")
    return tokens


cdef Handshake refuse(Exchange exchange, int status, str why):
    cdef Connection connection = exchange.connection
    cdef bytes body = why.encode("utf-8") + b"\n"
    connection.service.log.info("%s: refused with %d: %s", connection.client_host() or
                                "unix client", status, why)
    exchange.start(status, span_of(NULL, 0))
    exchange.field(span_of(b"Content-Type", 12), span_of(b"text/plain; charset=utf-8", 25))
    if status == 426:
        exchange.field(span_of(b"Upgrade", 7), span_of(b"websocket", 9))
        exchange.field(span_of(b"Sec-WebSocket-Version", 21), span_of(b"13", 2))
    exchange.send_head(len(body))
    exchange.write(PyBytes_AS_STRING(body), <size_t>PyBytes_GET_SIZE(body), body)
    exchange.finish()
    return None


# ---- our half

@cython.final
cdef class Handshake:
    cdef int send(self, Exchange exchange, object subprotocol, object fields) except -1:
        cdef bytes name
        fields = list(fields)
        check_fields(fields)
        exchange.start(101, span_of(NULL, 0))
        exchange.field(span_of(b"Upgrade", 7), span_of(b"websocket", 9))
        exchange.field(span_of(b"Sec-WebSocket-Accept", 20), span_of_bytes(self.accept))
        if subprotocol is not None:
            name = self.chosen(subprotocol)
            exchange.field(span_of(b"Sec-WebSocket-Protocol", 22), span_of_bytes(name))
        if self.deflate is not None:
            exchange.field(span_of(b"Sec-WebSocket-Extensions", 24),
                           span_of_bytes(self.deflate.answer))
        put_fields(exchange, fields)
        return exchange.send_head(-1)

    def chosen(self, subprotocol):
        if subprotocol not in self.subprotocols:
            raise ValueError(
                f"the client does not offer the subprotocol {subprotocol!r}; it offers "
                f"{self.subprotocols}")
        return subprotocol.encode("latin-1")


cdef int check_fields(list fields) except -1:
    for name, _ in fields:
        if isinstance(name, bytes) and name.lower() in OWN_FIELDS:
            raise ValueError(
                f"the header {name.decode('latin-1')} of websocket.accept is the server's: the "
                "subprotocol has a key of its own, the others follow from the handshake")
    return 0


cdef int put_fields(Exchange exchange, object fields) except -1:
    for name, value in fields:
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise TypeError(
                f"name and value of a header are bytes, not {name!r:.100}: {value!r:.100}")
        exchange.field(span_of_bytes(name), span_of_bytes(value))
    return 0
