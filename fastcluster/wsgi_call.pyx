"""One call of a WSGI application, whatever thread it runs on (PEP 3333).

A Call is the `start_response` that the application is given, and it takes the
blocks of the body to where they are sent; how that is done, its subclasses
know.  Its laws: close() is called once, whatever happened; a response that was
begun and cannot be ended, the client sees broken off; what the application
raises, SystemExit among it, is logged once and costs its own request only.
"""

import io
import os
import stat
import sys

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t

from fastcluster.csrc cimport FC_BODY_CHUNKED, fc_span


cdef extern from "Python.h":
    PyObject *PyIter_Next(object iterator) except? NULL
    void Py_DECREF(PyObject *)

cdef enum:
    SMALL_FILE_BYTES = 65536     # read and sent with the head, which takes fewer system calls


cdef class Call(Consumer):
    """One call of the application; also its start_response."""

    # ---- the request's body

    cdef int data(self, const char *ptr, size_t len) except -1:
        if self.done:
            return 0
        try:
            self.spool.add(ptr, len)
        except OSError as error:
            self.refuse_body(error)
        return 0

    cdef int end(self) except -1:
        if self.done:
            return 0
        try:
            self.spool.finish()
        except OSError as error:
            return self.refuse_body(error)
        if self.exchange.framing.body == FC_BODY_CHUNKED:
            # It was decoded, and so it has a length (RFC 9112 section 7.1.3).
            self.environ["CONTENT_LENGTH"] = str(self.spool.length)
        return self.launch()

    cdef int refuse_body(self, error) except -1:
        self.service.log.error("%s: the request body cannot be stored: %s", self.name(), error)
        self.exchange.fail(500)
        return self.over()

    # ---- what the application calls

    def __call__(self, status, response_headers, exc_info=None):
        """Begin the response and return write: start_response of PEP 3333.

        Raises TypeError and ValueError for a status or fields that cannot be
        sent, the exception in exc_info if the head is sent already, and
        RuntimeError when called again without exc_info.
        """
        if exc_info is not None:
            try:
                if self.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.started:
            raise RuntimeError("start_response was called again without exc_info")
        if self.done:
            raise RuntimeError("start_response was called after the response was over")
        if not isinstance(status, str):
            raise TypeError(f"the status must be a str such as '200 OK', not {status!r}")
        if not isinstance(response_headers, list):
            raise TypeError(
                f"the headers must be a list of tuples, not a {type(response_headers).__name__}")
        self.status = status
        self.fields = response_headers
        self.started = False
        self.announce()
        self.started = True
        return self.write

    def write(self, data, /):
        """Send body bytes now; return once the client has taken most of what waits."""
        check_block(data)
        if self.done:
            raise RuntimeError("write() was called after the response was over")
        if PyBytes_GET_SIZE(data) == 0:
            return
        if not self.head_sent:
            self.send_head(-1)
        self.put(<bytes>data)
        self.push_and_wait()

    # ---- the call

    cdef int invoke(self) except -1:
        try:
            result = self.app(self.environ, self)
            if type(result) is list:
                self.send_blocks(<list>result)
            elif type(result) is tuple:
                self.send_blocks(list(result))
            else:
                self.result = result
                self.send_iterable(result)
        except BaseException as error:
            self.failed(error)
        return 0

    cdef int send_head(self, int64_t length) except -1:
        if not self.started:
            raise RuntimeError("the application sends a body and has not called start_response")
        self.put_head(length)
        self.head_sent = True
        return 0

    cdef int send_blocks(self, list blocks) except -1:
        """Send a body that is there as a whole: its length is known, nothing waits."""
        cdef Py_ssize_t total = 0
        for block in blocks:
            check_block(block)
            total += PyBytes_GET_SIZE(block)
        if not self.head_sent:
            self.send_head(total)
        for block in blocks:
            if PyBytes_GET_SIZE(block) != 0:
                self.put(<bytes>block)
        self.put_end()
        return self.over()

    cdef int send_iterable(self, result) except -1:
        if type(result) is FileWrapper and self.send_file(result):
            return 0
        if result is None or isinstance(result, (bytes, str)):
            raise TypeError(f"the application returned {type(result).__name__}; a body is an "
                            "iterable of bytes, such as [b'hello']")
        self.iterator = iter(result)
        self.counted = hasattr(type(result), "__len__") and len(result) == 1
        return self.pump()

    cdef bint send_file(self, wrapper) except -1:
        """Have the kernel send a real file; False if it is none."""
        cdef FileRange part = file_range(wrapper.filelike)
        cdef int64_t declared
        if part is None or not self.started:
            return False
        declared = declared_length(self.fields)
        if 0 <= declared < part.length:
            part.length = declared
        if not self.head_sent:
            self.send_head(part.length)
        if part.length > SMALL_FILE_BYTES:
            self.put_file(part)
        elif part.length > 0:
            self.put(os.pread(part.fd, part.length, part.offset))
        self.put_end()
        self.over()
        return True

    cdef int pump(self) except -1:
        cdef PyObject *borrowed
        while True:
            borrowed = PyIter_Next(self.iterator)
            if borrowed == NULL:
                break
            block = <object>borrowed
            Py_DECREF(borrowed)
            check_block(block)
            if PyBytes_GET_SIZE(block) != 0:
                if not self.head_sent:
                    self.send_head(PyBytes_GET_SIZE(block) if self.counted else -1)
                if self.is_head or self.code == 204 or self.code == 304:
                    # No block is sent, so none more is asked for.
                    break
                self.put(<bytes>block)
            if self.push():
                return 0
        if not self.head_sent:
            self.send_head(0)
        self.put_end()
        return self.over()

    # ---- its end

    cdef int over(self) except -1:
        result = self.result
        self.done = True
        self.result = self.iterator = self.fields = None
        if result is not None:
            self.close_result(result)
        if self.spool is not None:
            self.spool.release()
        self.environ = None
        if self.gate is not None:
            self.pass_gate(self.service)
        return 0

    cdef int close_result(self, result) except -1:
        close = getattr(result, "close", None)
        if close is None:
            return 0
        try:
            close()
        except BaseException as error:
            self.log_failure("close() of the response failed", error)
            if isinstance(error, KeyboardInterrupt):
                raise
        return 0

    cdef int failed(self, error) except -1:
        if isinstance(error, OSError) and self.is_gone():
            self.service.log.debug("%s: the client left: %s", self.name(), error)
        else:
            self.log_failure("the application failed", error)
        try:
            self.put_failure()
        finally:
            self.over()
        # A signal's exception is the process's own and goes on to its loop.
        if isinstance(error, KeyboardInterrupt):
            raise error
        return 0

    cdef bint is_gone(self):
        return self.gone

    cdef int log_failure(self, str what, error) except -1:
        self.service.log.error("%s: %s", self.name(), what, exc_info=error)
        return 0

    cdef str name(self):
        """Return what log lines call this call: method and target."""
        if self.environ is None:
            return "a WSGI call"
        return f"{self.environ.get('REQUEST_METHOD')} {self.environ.get('RAW_URI')}"

    # ---- see the .pxd

    cdef int launch(self) except -1:
        raise NotImplementedError

    cdef int announce(self) except -1:
        raise NotImplementedError

    cdef int put_head(self, int64_t length) except -1:
        raise NotImplementedError

    cdef int put(self, bytes block) except -1:
        raise NotImplementedError

    cdef int put_file(self, FileRange part) except -1:
        raise NotImplementedError

    cdef bint push(self) except -1:
        raise NotImplementedError

    cdef int push_and_wait(self) except -1:
        raise NotImplementedError

    cdef int put_end(self) except -1:
        raise NotImplementedError

    cdef int put_failure(self) except -1:
        raise NotImplementedError


# ---- what an application gives, checked


cdef inline int check_block(block) except -1:
    if not isinstance(block, bytes):
        raise TypeError(f"a block of the body must be bytes, not {type(block).__name__}")
    return 0


cdef int read_status(str status, fc_span *reason) except -1:
    cdef int code = 0
    cdef size_t i
    read_text(status, "the status", reason)
    for i in range(3):
        if i >= reason.len or not c"0" <= reason.ptr[i] <= c"9":
            code = 0
            break
        code = code * 10 + reason.ptr[i] - c"0"
    if code < 200 or (reason.len > 3 and reason.ptr[3] != c" "):
        raise ValueError(f"status {status!r}: three digits from 200 on and a reason are due, "
                         "as in '200 OK'")
    i = 4 if reason.len > 3 else 3
    reason.ptr += i
    reason.len -= i
    return code


cdef int64_t declared_length(list fields) except -2:
    for name, value in fields:
        if name.lower() == "content-length":
            return int(value)
    return -1


# ---- files


@cython.final
cdef class FileWrapper:
    """wsgi.file_wrapper: a file as an iterable of blocks (PEP 3333).

    A regular file that was opened in the usual ways is sent by the kernel, from
    its current position on; whatever else can be read, block by block.
    """

    cdef readonly object filelike
    cdef readonly Py_ssize_t block_size

    def __init__(self, filelike, Py_ssize_t block_size=8192):
        self.filelike = filelike
        self.block_size = block_size

    def __iter__(self):
        return self

    def __next__(self):
        data = self.filelike.read(self.block_size)
        if not data:
            raise StopIteration
        return data

    def close(self):
        """Close the file if it can be closed."""
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()


cdef class FileRange:
    # The descriptor is a copy, so that the application may close its file while
    # bytes still wait to be sent.
    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        if self.fd >= 0:
            os.close(self.fd)


cdef FileRange file_range(filelike):
    """What is left of a real file; None for whatever only looks like one."""
    cdef FileRange part
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None and type(filelike) is tempfile._TemporaryFileWrapper:
        filelike = filelike.file
    raw = filelike.raw if type(filelike) in (io.BufferedReader, io.BufferedRandom) else filelike
    # Exact types: a subclass, or a file that is unpacked on the way, may read
    # other bytes than its descriptor has.
    if type(raw) is not io.FileIO:
        return None
    status = os.fstat(raw.fileno())
    if not stat.S_ISREG(status.st_mode):
        return None
    part = FileRange.__new__(FileRange)
    part.offset = filelike.tell()
    part.length = max(0, status.st_size - part.offset)
    part.fd = os.dup(raw.fileno())
    return part
