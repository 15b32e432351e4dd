# deflate.pyx: permessage-deflate (RFC 7692): what is agreed on, and the streams.
#
# It inflates in steps of a bounded size, so that its caller can stop a message
# that grows too long before it has grown.  Windows are small, 4 KiB where the
# client allows it, since every connection has two.  It knows no frames.

import re
import zlib

cdef enum:
    WINDOW_BITS = 12             # with MEMORY 32 KiB a connection to deflate, 4 to inflate
    MEMORY = 5                   # zlib's memLevel
    LEVEL = 5
    STREAMS = 4                  # that a client may end within one message

cdef bytes END = b"\x00\x00\xff\xff"   # which senders leave out (RFC 7692 section 7.2.1)

cdef str TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
cdef object NAME = re.compile(rf"[ \t]*({TOKEN})")
cdef object PARAMETER = re.compile(
    rf'[ \t]*;[ \t]*({TOKEN})(?:[ \t]*=[ \t]*(?:({TOKEN})|"({TOKEN})"))?')
cdef object COMMA = re.compile(r"[ \t]*(?:,[ \t]*)+")
cdef object BITS = re.compile(r"[89]|1[0-5]")


cdef class Deflate:
    cdef bytes compress(self, object message):
        cdef object deflater = self.deflater
        cdef bytes payload
        if deflater is None:
            deflater = zlib.compressobj(LEVEL, zlib.DEFLATED, -self.own_bits, MEMORY)
            if self.own_takeover:
                self.deflater = deflater
        payload = deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH)
        return payload[:len(payload) - len(END)]

    cdef bytes inflate(self, bytes payload, bint is_last):
        return self.step(payload + END if is_last else payload)

    cdef bint has_more(self):
        return self.left is not None

    cdef bytes more(self):
        return self.step(self.left)

    cdef bytes step(self, bytes payload):
        cdef bytes piece
        if self.inflater is None:
            self.inflater = zlib.decompressobj(-self.client_bits)
        piece = self.inflater.decompress(payload, DEFLATE_STEP)
        if self.inflater.eof:
            self.next_stream(piece)
            return piece
        self.left = self.inflater.unconsumed_tail
        # A full step may have left bytes in the stream itself.
        if not self.left and len(piece) < DEFLATE_STEP:
            self.left = None
        return piece

    cdef int next_stream(self, bytes piece) except -1:
        """Go on behind a block that its sender called the last one (section 7.2.3.4)."""
        cdef Py_ssize_t window
        self.streams += 1
        if self.streams > STREAMS:
            raise zlib.error("a message of too many streams")
        self.left = self.inflater.unused_data or None
        # The window is the message's end; what older messages left in it is gone.
        window = 1 << self.client_bits
        self.inflater = zlib.decompressobj(
            -self.client_bits, zdict=piece[max(0, len(piece) - window):])
        return 0

    cdef int message_is_over(self) except -1:
        self.streams = 0
        if not self.client_takeover:
            self.inflater = None
        return 0


# ---- what is agreed on

def offers_in(str text, /):
    """Take the value of Sec-WebSocket-Extensions apart (RFC 6455 section 9.1).

    Returns (name, [(parameter, value or None), …]) for each offer; raises
    ValueError for what is no such value.
    """
    cdef list offers = []
    cdef int at = 0
    cdef int end = len(text.rstrip(" \t,"))
    cdef list parameters
    found = COMMA.match(text)
    if found is not None:
        at = found.end()
    while at < end:
        found = NAME.match(text, at)
        if found is None:
            raise ValueError(f"Sec-WebSocket-Extensions: {text!r:.100}")
        name = found[1]
        parameters = []
        at = found.end()
        found = PARAMETER.match(text, at)
        while found is not None:
            parameters.append((found[1], found[2] or found[3]))
            at = found.end()
            found = PARAMETER.match(text, at)
        offers.append((name, parameters))
        found = COMMA.match(text, at)
        if found is not None:
            at = found.end()
        elif at < end:
            raise ValueError(f"Sec-WebSocket-Extensions: {text!r:.100}")
    return offers


def negotiate(str text, /):
    """Return the Deflate that answers the first offer we can take, or None."""
    return agree(text)


cdef Deflate agree(str offers):
    cdef Deflate deflate
    for name, parameters in offers_in(offers):
        if name == "permessage-deflate":
            deflate = answer_to(parameters)
            if deflate is not None:
                return deflate
    return None


cdef Deflate answer_to(list parameters):
    """Answer one offer; None for one that must be declined (RFC 7692 section 7.1)."""
    cdef dict wanted = dict(parameters)
    cdef Deflate deflate = Deflate.__new__(Deflate)
    cdef list answer = [b"permessage-deflate"]
    if len(wanted) < len(parameters):
        return None
    deflate.own_bits = WINDOW_BITS
    deflate.client_bits = 15
    deflate.own_takeover = deflate.client_takeover = True
    for name, value in wanted.items():
        if name == "server_no_context_takeover" and value is None:
            deflate.own_takeover = False
            answer.append(b"server_no_context_takeover")
        elif name == "client_no_context_takeover" and value is None:
            deflate.client_takeover = False
            answer.append(b"client_no_context_takeover")
        elif name == "server_max_window_bits" and is_bits(value) and value != "8":
            # zlib cannot deflate with a window of 2^8.
            deflate.own_bits = min(WINDOW_BITS, int(value))
            answer.append(b"server_max_window_bits=%d" % deflate.own_bits)
        elif name == "client_max_window_bits" and (value is None or is_bits(value)):
            deflate.client_bits = min(WINDOW_BITS, int(value or 15))
            answer.append(b"client_max_window_bits=%d" % deflate.client_bits)
        else:
            return None
    deflate.answer = b"; ".join(answer)
    return deflate


cdef bint is_bits(object value):
    return value is not None and BITS.fullmatch(value) is not None
