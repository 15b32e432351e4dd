# deflate.pxd: the map of deflate.pyx, for websocket.pyx.


cdef enum:
    DEFLATE_STEP = 65536         # most bytes that one step inflates


cdef class Deflate:
    """What was agreed on with one client, and the two streams."""

    cdef readonly bytes answer       # value of Sec-WebSocket-Extensions in the handshake
    cdef readonly int own_bits       # window of what we send, 9 to 15
    cdef readonly int client_bits    # ... of what the client sends, 8 to 15
    cdef readonly bint own_takeover  # our next message may refer to the last ones
    cdef readonly bint client_takeover
    cdef object deflater             # made when first used, as is the other
    cdef object inflater
    cdef bytes left                  # of a payload, for the next step
    cdef int streams                 # that the client has ended within one message

    # The payload of a compressed message (RFC 7692 section 7.2.1).  message is
    # any contiguous buffer, and not empty.
    cdef bytes compress(self, object message)
    # Takes the next piece of a message's payload; zlib.error: it is malformed.
    # Returns DEFLATE_STEP bytes at most of what it inflates to; while has_more()
    # is true, more() returns the next ones and no other piece may come.
    cdef bytes inflate(self, bytes payload, bint is_last)
    cdef bint has_more(self)
    cdef bytes more(self)
    # All of the last piece was taken.
    cdef int message_is_over(self) except -1

    cdef bytes step(self, bytes payload)
    cdef int next_stream(self, bytes piece) except -1


# Chooses among the offers in Sec-WebSocket-Extensions; None: there is none that
# we can take.  ValueError: the field is malformed.
cdef Deflate agree(str offers)
