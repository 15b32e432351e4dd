# parser.pyx: the two doors of httptools behind one function.
#
# The llhttp door calls the llhttp inside the installed httptools from C.  The
# httptools door uses its documented HttpRequestParser, lets it judge the bytes,
# and finds the spans with a scan of our own in the head it has accepted; it is
# there for the day when the first door does not fit an httptools release.
# Both answer alike, and only request heads pass through either.

import os

import httptools
from httptools.parser import parser as httptools_parser

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.string cimport memchr, memcmp

from fastcluster import config
from fastcluster.csrc cimport (
    FC_HEAD_BAD, FC_HEAD_DONE, FC_HEAD_MORE, FC_HEAD_TOO_MANY, FC_OK, fc_field,
    fc_framing, fc_llhttp, fc_llhttp_bind, fc_parser, fc_parser_delete, fc_parser_feed, fc_parser_new,
    fc_parser_start, fc_request, fc_request_frame, fc_request_scan,
)

cdef fc_llhttp llhttp
cdef bint is_llhttp = False
cdef bint llhttp_is_bound = False
cdef object request_parser = httptools.HttpRequestParser
cdef object parser_error = httptools.HttpParserError
cdef object parser_upgrade = httptools.HttpParserUpgrade


def _open(wanted: str) -> None:
    """Open a door: "llhttp", "httptools", or "" for the first that fits."""
    global is_llhttp, llhttp_is_bound
    cdef const char *why = b""
    if wanted not in ("", "llhttp", "httptools"):
        raise ImportError(
            f"FASTCLUSTER_PARSER is {wanted!r}: set it to llhttp or httptools, or leave it out"
        )
    llhttp_is_bound = fc_llhttp_bind(&llhttp, os.fsencode(httptools_parser.__file__), &why) == FC_OK
    if wanted == "llhttp" and not llhttp_is_bound:
        raise ImportError(f"FASTCLUSTER_PARSER=llhttp cannot be had: {(<bytes>why).decode()}")
    is_llhttp = llhttp_is_bound and wanted != "httptools"


cpdef str parser_name():
    """Return which door reads request heads: "llhttp" or "httptools"."""
    return "llhttp" if is_llhttp else "httptools"


cdef Door start_head(fc_parser *parser):
    if is_llhttp:
        fc_parser_start(&llhttp, parser)
        return None
    return new_door()


cdef int read_head(fc_parser *parser, Door door, const char *base, size_t start,
                   size_t stop) except? -9:
    if is_llhttp:
        return fc_parser_feed(&llhttp, parser, base, start, stop)
    return read_by_httptools(parser, door, base, start, stop)


cdef bint knows_method(bytes method) except -1:
    """Ask the open door itself, with the shortest request of that method."""
    cdef bytes head = method + b" / HTTP/1.1\r\n\r\n"
    return explain(head, parser_name()) != ("bad",)


# ---- the httptools door

class _Silent:
    """A protocol without callbacks: the parser only judges."""


cdef object silent = _Silent()


cdef Door new_door():
    cdef Door door = Door.__new__(Door)
    door.parser = request_parser(silent)
    door.verdict = FC_HEAD_MORE
    return door


cdef size_t head_end(const char *base, size_t start, size_t stop) noexcept nogil:
    """Return where the body begins, or 0 while the blank line has not come."""
    cdef size_t at = start - 3 if start > 3 else 0
    cdef const char *found
    while at + 4 <= stop:
        found = <const char *>memchr(base + at, 13, stop - at - 3)
        if found == NULL:
            return 0
        at = <size_t>(found - base)
        if memcmp(found, b"\r\n\r\n", 4) == 0:
            return at + 4
        at += 1
    return 0


cdef int judge(Door door, const char *base, size_t start, size_t stop) except? -9:
    try:
        door.parser.feed_data(PyBytes_FromStringAndSize(base + start, <Py_ssize_t>(stop - start)))
    except parser_upgrade:
        return FC_HEAD_MORE
    except parser_error:
        return FC_HEAD_BAD
    return FC_HEAD_MORE


cdef int read_by_httptools(fc_parser *parser, Door door, const char *base, size_t start,
                           size_t stop) except? -9:
    cdef int found
    cdef size_t end
    if door.verdict != FC_HEAD_MORE:
        return door.verdict
    end = head_end(base, start, stop)
    door.verdict = judge(door, base, start, end if end else stop)
    if door.verdict != FC_HEAD_MORE or end == 0:
        return door.verdict
    found = fc_request_scan(&parser.request, base, end)
    if found < 0:
        return FC_HEAD_TOO_MANY
    return FC_HEAD_DONE if found and parser.request.major == 1 else FC_HEAD_BAD


# ---- for tests and the curious

VERDICTS = {
    FC_HEAD_DONE: "done",
    FC_HEAD_MORE: "more",
    FC_HEAD_BAD: "bad",
    FC_HEAD_TOO_MANY: "too many",
}


def explain(bytes data, str door, *, cuts=(), int max_fields=100):
    """Read a request head through one door and return what it found.

    door: "llhttp" or "httptools", whichever is open.  cuts: where data is cut
    into pieces that come one after the other.  Returns a tuple of the verdict
    ("done", "more", "bad", "too many"), the head's length, method,
    target, (major, minor), and the fields as pairs of bytes; only the verdict
    if that is not "done".  ("refused", status) is a head that the parser took
    and the framing decision did not.
    """
    cdef fc_parser *parser = fc_parser_new(<uint32_t>max_fields)
    cdef Door python_door = None
    cdef size_t start = 0
    cdef size_t stop
    cdef int verdict = FC_HEAD_MORE
    cdef fc_framing framing
    cdef const char *why
    if parser == NULL:
        raise MemoryError
    try:
        if door == "llhttp":
            if not llhttp_is_bound:
                raise RuntimeError("the llhttp door is not to be had with this httptools")
            fc_parser_start(&llhttp, parser)
        else:
            python_door = new_door()
        for stop in (*cuts, len(data)):
            if verdict != FC_HEAD_MORE or stop == start:
                continue
            if python_door is None:
                verdict = fc_parser_feed(&llhttp, parser, data, start, stop)
            else:
                verdict = read_by_httptools(parser, python_door, data, start, stop)
            start = stop
        if verdict != FC_HEAD_DONE:
            return (VERDICTS[verdict],)
        verdict = fc_request_frame(&parser.request, &framing, &why)
        if verdict != 0:
            return ("refused", verdict)
        return found(&parser.request)
    finally:
        fc_parser_delete(parser)


cdef tuple found(fc_request *request):
    cdef uint32_t i
    cdef fc_field *field
    cdef list fields = []
    for i in range(request.n_fields):
        field = &request.fields[i]
        fields.append((part(request, field.name, field.name_len),
                       part(request, field.value, field.value_len)))
    return ("done", request.head_len, part(request, request.method, request.method_len),
            part(request, request.target, request.target_len),
            (request.major, request.minor), fields)


cdef bytes part(fc_request *request, uint32_t at, uint32_t length):
    return PyBytes_FromStringAndSize(request.base + at, length)


_open(config.parser_wanted())
