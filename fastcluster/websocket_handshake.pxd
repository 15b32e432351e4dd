# websocket_handshake.pxd: the map of websocket_handshake.pyx, for websocket.pyx.

from fastcluster.deflate cimport Deflate
from fastcluster.exchange cimport Exchange


cdef class Handshake:
    """A client's half of the handshake, checked, and what our half will say."""

    cdef bytes accept            # value of Sec-WebSocket-Accept
    cdef list subprotocols       # that the client offers, in its order
    cdef Deflate deflate         # None: not offered, or not wanted

    # Switches protocols.  TypeError, ValueError: the application's subprotocol
    # or its fields cannot be sent.
    cdef int send(self, Exchange exchange, object subprotocol, object fields) except -1


# Whether the request asks for the WebSocket protocol; costs one comparison for
# requests without an upgrade.
cdef bint wants_websocket(Exchange exchange) except -1
# Checks the request, whose fields are given with lower-case names.  Returns
# None for a handshake that we cannot take, which is answered already.
cdef Handshake read_handshake(Exchange exchange, list fields, bint deflates)
# Writes an application's fields into the head that exchange.start() has begun.
cdef int put_fields(Exchange exchange, object fields) except -1
