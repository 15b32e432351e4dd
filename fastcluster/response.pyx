# response.pyx: what a native handler answers with.
#
# A Response is either bound to an exchange (the second argument of a handler),
# with Node's methods in Python's spelling, or a value that a handler returns.
# The head is written into the service's one head when write_head() or the first
# body bytes ask for it, and is sent when it is known whether the body is whole;
# both happen before the handler returns, so no other exchange comes in between.
# It runs no application code and does not know who calls it.

cimport cython
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t

from fastcluster.csrc cimport (
    FC_OK, FC_SAID_TYPE, fc_conn_close, fc_head, fc_head_field, fc_head_start, fc_span,
)
from fastcluster.exchange cimport Exchange, span_of, span_of_bytes

import errno
import mimetypes
import os
import stat


cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)

cdef enum:
    # write() waits for the client once this much is queued; below it a handler
    # that sends a large body in many pieces does not hold the loop.
    WAIT_BYTES = 1 << 20

cdef fc_head scratch  # fields are tried on it before they are kept

# What a file is that mimetypes calls an encoding of something else: nobody asked
# for the inner type, and Content-Encoding would have the client unpack it.
cdef dict COMPRESSED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "br": "application/x-brotli",
    "compress": "application/x-compress",
}


cdef inline fc_span no_span() noexcept:
    return span_of(NULL, 0)


# ---- heads

cdef object text_span(object text, fc_span *span):
    """Point span at the text of a name, a value or a reason; return what keeps it alive."""
    cdef Py_ssize_t len = 0
    if isinstance(text, str):
        if PyUnicode_IS_ASCII(text):
            span.ptr = PyUnicode_AsUTF8AndSize(text, &len)
            span.len = <size_t>len
            return text
        try:
            text = text.encode("latin-1")
        except UnicodeEncodeError:
            raise ValueError(
                f"{text!r} cannot stand in a response's head: beyond latin-1 it needs an encoding "
                "of its own, such as percent-encoding"
            ) from None
    elif isinstance(text, int) and not isinstance(text, bool):
        text = b"%d" % text
    elif not isinstance(text, bytes):
        raise TypeError(
            f"names and values of response fields are str, bytes or int, not {type(text).__name__}")
    span[0] = span_of_bytes(text)
    return text


cdef int put_field(Exchange exchange, object name, object value) except -1:
    cdef fc_span name_span, value_span
    if isinstance(value, (list, tuple)):
        for item in value:
            put_field(exchange, name, item)
        return 0
    name = text_span(name, &name_span)
    value = text_span(value, &value_span)
    return exchange.field(name_span, value_span)


cdef int put_fields(Exchange exchange, object headers) except -1:
    if isinstance(headers, dict):
        for name, value in (<dict>headers).items():
            put_field(exchange, name, value)
        return 0
    for name, value in pairs_of(headers):
        put_field(exchange, name, value)
    return 0


cdef object pairs_of(object headers):
    if hasattr(headers, "multi_items"):
        return headers.multi_items()
    if hasattr(headers, "items"):
        return headers.items()
    return headers


cdef int begin_head(Exchange exchange, int status, object reason, object headers) except -1:
    cdef fc_span span = no_span()
    if status < 200:
        raise ValueError(f"status {status}: a response's status is 200 to 999")
    if reason is not None:
        reason = text_span(reason, &span)
    exchange.start(status, span)
    if headers is not None:
        put_fields(exchange, headers)
    return 0


cdef bint has_type(Exchange exchange):
    return exchange.connection.service.head.said & FC_SAID_TYPE != 0


cdef object body_span(object body, fc_span *span):
    cdef Py_ssize_t len = 0
    if isinstance(body, str):
        # The UTF-8 form lives as long as the str does.
        span.ptr = PyUnicode_AsUTF8AndSize(body, &len)
        span.len = <size_t>len
        return body
    if not isinstance(body, bytes):
        if not isinstance(body, (bytearray, memoryview)):
            return None
        body = bytes(body)  # the application may change the original before it is sent
    span[0] = span_of_bytes(body)
    return body


# ---- files

cdef class OpenFile:
    """Keeps a descriptor open until the last of its bytes was sent."""

    cdef int fd

    def __dealloc__(self):
        if self.fd >= 0:
            fc_conn_close(self.fd)


cdef OpenFile open_file(object path):
    cdef OpenFile file = OpenFile.__new__(OpenFile)
    file.fd = -1
    # Non-blocking, so that a named pipe is refused below rather than waited for.
    file.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    return file


cdef int64_t file_size(OpenFile file, object path) except -1:
    status = os.fstat(file.fd)
    path = os.fspath(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    return status.st_size


cdef str content_type_of(object path):
    # With a folder before it no name looks like a URL.
    kind, encoding = mimetypes.guess_type("./" + os.path.basename(os.fsdecode(path)))
    if encoding is not None:
        return COMPRESSED.get(encoding, "application/octet-stream")
    return kind or "application/octet-stream"


# ---- the response

cdef Response new_response(Exchange exchange):
    cdef Response response = Response.__new__(Response)
    response.exchange = exchange
    response.status = 200
    response.is_bound = True
    return response


@cython.freelist(16)
cdef class Response:
    """An answer: the second argument of `handler(request, response)`, or a return value.

    As a value: body is whatever a handler may return as one (str, bytes, dict or
    list as JSON, an iterator, None); headers a mapping or pairs of str, bytes,
    int, or lists of those for repeated fields; reason replaces the standard
    phrase.  Such a Response may be returned as often as you like.
    """

    def __init__(self, body=b"", int status=200, headers=None, reason=None):
        if self.is_bound:
            raise RuntimeError("this Response belongs to a request already")
        self.body = body
        self.status = status
        self.reason = reason
        if headers is not None:
            for name, value in pairs_of(headers):
                self.add(name, value)

    # ---- what may be called now

    cdef Exchange live(self, str doing):
        cdef Exchange exchange = self.exchange
        if not self.is_bound:
            raise RuntimeError(
                f"{doing}: this Response is a value to return; only the one that a handler is "
                "given has a client")
        if self.ended:
            raise RuntimeError(f"{doing}: the response has ended")
        if exchange.connection is None:
            raise BrokenPipeError("the client is gone")
        self.touched = True
        return exchange

    cdef int changeable(self, str doing) except -1:
        if self.ended:
            raise RuntimeError(f"{doing}: the response has ended")
        if self.head_made:
            raise RuntimeError(f"{doing}: the head was written already")
        self.touched = True
        return 0

    # ---- the head

    @property
    def status_code(self):
        """The status, 200 to 999; set it before the head is written."""
        return self.status

    @status_code.setter
    def status_code(self, int status):
        self.changeable("status_code")
        self.status = status

    @property
    def status_message(self):
        """The reason phrase, or None for the standard one."""
        return self.reason

    @status_message.setter
    def status_message(self, reason):
        self.changeable("status_message")
        self.reason = reason

    @property
    def headers_sent(self):
        """True once the head is written and cannot be changed any more."""
        return self.head_made

    @property
    def finished(self):
        """True once the response has ended."""
        return self.ended

    cdef int index(self, str key) except? -1:
        cdef int i = 0
        if self.fields is not None:
            for entry in self.fields:
                if entry[0] == key:
                    return i
                i += 1
        return -1

    cdef int add(self, object name, object value) except -1:
        """Keep a field after those that are there; one of the same name grows by it."""
        cdef str key = checked_field(name, value)
        cdef int i = self.index(key)
        if isinstance(value, tuple):
            value = list(value)
        if i >= 0:
            entry = self.fields[i]
            value = values_of(entry[2]) + values_of(value)
            self.fields[i] = (key, entry[1], value)
            return 0
        if self.fields is None:
            self.fields = []
        self.fields.append((key, name, value))
        return 0

    def set_header(self, name, value):
        """Set a field, replacing one of that name; a list of values gives several lines.

        name and value: str (latin-1), bytes or int.  Raises ValueError for
        what would split the head, RuntimeError once it is written.
        """
        cdef str key
        cdef int i
        self.changeable("set_header")
        key = checked_field(name, value)
        i = self.index(key)
        if i < 0:
            self.add(name, value)
        else:
            self.fields[i] = (key, name, list(value) if isinstance(value, tuple) else value)
        return self

    def append_header(self, name, value):
        """Add a further line to a field, such as Set-Cookie; else like set_header()."""
        self.changeable("append_header")
        self.add(name, value)
        return self

    def get_header(self, name):
        """Return a field's value as it was set (a list if there are several), or None."""
        cdef int i = self.index(name.lower())
        return self.fields[i][2] if i >= 0 else None

    def has_header(self, name):
        """Return True if the field was set."""
        return self.index(name.lower()) >= 0

    def remove_header(self, name):
        """Forget a field; harmless if it was not set."""
        self.changeable("remove_header")
        cdef int i = self.index(name.lower())
        if i >= 0:
            del self.fields[i]

    cdef object merged(self, object headers):
        """The given fields, and those of set_header() that they do not replace."""
        if self.fields is None:
            return headers
        given = list(pairs_of(headers)) if headers is not None else []
        named = {lower_name(pair[0]) for pair in given}
        return [(entry[1], entry[2]) for entry in self.fields if entry[0] not in named] + given

    cdef int make_head(self, int status, object reason, object headers) except -1:
        cdef Exchange exchange = self.exchange
        begin_head(exchange, status, reason, self.merged(headers))
        self.status = status
        self.reason = reason
        self.head_made = True
        return 0

    def write_head(self, int status, headers=None, reason=None):
        """Write the head: status, fields, reason phrase; returns the response.

        headers: a mapping or pairs of str, bytes or int, a list as value for
        repeated fields; they win over those of set_header().  The head goes
        out with the first body bytes.  Raises ValueError for what would split
        it, RuntimeError if it is written already.  (Node: response.writeHead)
        """
        self.live("write_head")
        self.changeable("write_head")
        self.make_head(status, reason, headers)
        return self

    cdef int send_head(self, int64_t length) except -1:
        if not self.head_made:
            self.make_head(self.status, self.reason, None)
        if not self.head_sent:
            self.exchange.send_head(length)
            self.head_sent = True
        return 0

    # ---- the body

    def write(self, chunk):
        """Send a piece of the body: bytes, or str as UTF-8.

        Returns False when more than --high-water bytes wait for the client.
        Above 1 MiB it waits itself, and holds up this worker, until the client
        has taken most of it; a response that large is better sent by an
        iterator or send_file().  Without a Content-Length the body goes out in
        chunks.  Raises BrokenPipeError if the client is gone, TimeoutError if
        it takes nothing for --timeout-write seconds.
        """
        cdef Exchange exchange = self.live("write")
        cdef fc_span span
        cdef object owner = body_span(chunk, &span)
        cdef size_t high_water = exchange.connection.service.limits.high_water
        if owner is None:
            raise chunk_error("write", chunk)
        self.send_head(-1)
        if span.len != 0:
            exchange.write(span.ptr, span.len, owner)
        if exchange.queued() <= high_water:
            return True
        exchange.flush()
        if exchange.queued() > WAIT_BYTES:
            exchange.wait_writable()
        return exchange.queued() <= high_water

    def flush(self):
        """Send the head and what was written now, rather than when the handler returns."""
        cdef Exchange exchange = self.live("flush")
        self.send_head(-1)
        exchange.flush()

    def end(self, chunk=b""):
        """Send the last piece of the body and end the response.

        A body that comes whole with end() is sent with its Content-Length.
        A second end() without a chunk does nothing.  (Node: response.end)
        """
        cdef Exchange exchange
        cdef fc_span span
        cdef object owner = body_span(chunk, &span)
        if owner is None:
            raise chunk_error("end", chunk)
        if self.ended and span.len == 0:
            return
        exchange = self.live("end")
        self.send_head(<int64_t>span.len)
        if span.len != 0:
            exchange.write(span.ptr, span.len, owner)
        self.finish()

    cdef int finish(self) except -1:
        cdef Exchange exchange = self.exchange
        self.part()
        return exchange.finish()

    cdef int part(self) except -1:
        self.ended = True
        self.exchange = None
        return 0

    def send_file(self, path, int64_t offset=0, length=None):
        """Send a file, or length bytes of it from offset, and end the response.

        The kernel copies what is not small (sendfile), so its size does not matter.  Sets
        Content-Length, and Content-Type by the file's name if none is set.
        Raises FileNotFoundError and other OSErrors before anything is sent,
        ValueError for a range outside of the file.
        """
        cdef Exchange exchange = self.live("send_file")
        cdef OpenFile file = open_file(path)
        cdef int64_t left = file_size(file, path) - offset
        cdef int64_t size = left if length is None else length
        if offset < 0 or size < 0 or size > left:
            raise ValueError(
                f"{path}: {size} bytes from {offset} are not in a file of {left + offset} bytes")
        if not self.head_made:
            self.make_head(self.status, self.reason, None)
        if not self.head_sent and not has_type(exchange):
            put_field(exchange, b"Content-Type", content_type_of(path))
        self.send_head(size)
        if size != 0:
            exchange.send_file(file.fd, offset, size, file)
        self.finish()

    def __repr__(self):
        return f"<Response {self.status}{' ended' if self.ended else ''}>"


cdef object chunk_error(str doing, object chunk):
    return TypeError(f"{doing}: a piece of a body is bytes or str, not {type(chunk).__name__}")


cdef list values_of(object value):
    return list(value) if isinstance(value, list) else [value]


cdef str lower_name(object name):
    if isinstance(name, bytes):
        return (<bytes>name).decode("latin-1").lower()
    return name.lower()


cdef str checked_field(object name, object value):
    """Return a field's lower-case name, or raise what sending it would."""
    cdef fc_span name_span, value_span
    name_text = text_span(name, &name_span)
    for item in value if isinstance(value, (list, tuple)) else (value,):
        item_text = text_span(item, &value_span)
        fc_head_start(&scratch, 200, no_span())
        if fc_head_field(&scratch, name_span, value_span) != FC_OK:
            raise ValueError(
                f"response field {name!r}: {item!r} cannot be sent: a name is a token, a value "
                "holds no CR, LF or NUL, and Content-Length is one number")
    return lower_name(name)
