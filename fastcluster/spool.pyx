"""A request body as the application reads it: in memory first, then on disk.

Its law: a body ends only by its own end.  Reading gives
every byte that came, then b"" for ever; a body that broke raises
ConnectionResetError from every read, and no path turns an error into an end.
It knows neither connections nor interfaces: a Consumer feeds it, and it is
`wsgi.input` or the body of a native request.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.string cimport memchr

from fastcluster.csrc cimport FC_ERR, fc_buf_append, fc_buf_consume, fc_buf_free

import threading


cdef extern from "Python.h":
    int PyBUF_READ


cdef class Spool:
    """A binary file for reading that holds one request body.

    It is read when the body is complete, by one thread at a time; before that
    reading raises BlockingIOError.  It cannot seek: `wsgi.input` needs not
    (PEP 3333).  feed_data, feed_end and feed_error are the Python face of its
    other side.

    memory_bytes: a body above this size moves to an unnamed temporary file,
    so that memory is bounded however large an upload is.
    """

    def __init__(self, size_t memory_bytes=1048576):
        self.memory_bytes = memory_bytes

    def __dealloc__(self):
        fc_buf_free(&self.memory)

    # ---- fed by the loop's thread

    cdef int add(self, const char *ptr, size_t len) except -1:
        if self.closed:
            return 0
        self.length += len
        if self.file is not None:
            self.file.write(PyMemoryView_FromMemory(<char *>ptr, len, PyBUF_READ))
            return 0
        if self.length > self.memory_bytes:
            return self.move_to_file(ptr, len)
        if fc_buf_append(&self.memory, ptr, len) == FC_ERR:
            raise MemoryError
        return 0

    cdef int move_to_file(self, const char *ptr, size_t len) except -1:
        # tempfile is imported here because few workers ever meet such a body.
        from tempfile import TemporaryFile

        self.file = TemporaryFile()
        if self.memory.len:
            self.file.write(PyMemoryView_FromMemory(self.memory.ptr, self.memory.len, PyBUF_READ))
        self.file.write(PyMemoryView_FromMemory(<char *>ptr, len, PyBUF_READ))
        fc_buf_free(&self.memory)
        return 0

    cdef int finish(self) except -1:
        if self.file is not None and not self.closed:
            self.file.seek(0)
        self.complete = True
        return 0

    cdef int break_off(self, str why) except -1:
        self.why = why
        return 0

    cdef int release(self) except -1:
        if self is no_body:
            return 0
        self.closed = True
        fc_buf_free(&self.memory)
        self.at = 0
        file, self.file = self.file, None
        if file is not None:
            file.close()
        return 0

    # ---- read by the application

    cdef int check_readable(self) except -1:
        if self.closed:
            raise ValueError("the request body was read after it was closed")
        if self.why is not None:
            raise ConnectionResetError(self.why)
        return 0

    cdef Py_ssize_t ready(self) except -1:
        self.check_readable()
        if not self.complete:
            raise BlockingIOError("the request body is not complete yet")
        return self.memory.len - self.at

    # Takes size bytes, which ready() has promised.  The GIL is held from the
    # first line to the last, so a LiveSpool's feeder cannot come in between.
    cdef bytes cut(self, size_t size):
        piece = PyBytes_FromStringAndSize(self.memory.ptr + self.at, size)
        self.at += size
        return piece

    cdef bytes take(self, Py_ssize_t size):
        cdef Py_ssize_t n = self.ready()
        if self.file is not None:
            return self.file.read(size)
        if 0 <= size <= n:
            return self.cut(size)
        if n == 0:
            return b""
        piece = self.cut(n)
        n = self.ready()
        return piece if n == 0 else self.take_more(piece, size)

    cdef bytes take_more(self, bytes first, Py_ssize_t size):
        cdef list pieces = [first]
        cdef Py_ssize_t n = self.ready()
        cdef Py_ssize_t left = size - len(first)
        while n > 0 and (size < 0 or left > 0):
            if size >= 0 and n > left:
                n = left
            pieces.append(self.cut(n))
            left -= n
            if size < 0 or left > 0:
                n = self.ready()
        return b"".join(pieces)

    cdef bytes take_line(self, Py_ssize_t most):
        cdef list pieces = []
        cdef const char *newline = NULL
        cdef Py_ssize_t n = self.ready()
        if self.file is not None:
            return self.file.readline(most)
        while n > 0 and most != 0:
            if 0 < most < n:
                n = most
            newline = <const char *>memchr(self.memory.ptr + self.at, c"\n", n)
            if newline != NULL:
                n = newline - (self.memory.ptr + self.at) + 1
            pieces.append(self.cut(n))
            if newline != NULL:
                break
            most -= n if most > 0 else 0
            n = self.ready() if most != 0 else 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read(self, size=-1, /):
        """Read up to size bytes, all that is left for a negative size or None.

        Returns fewer only at the body's end, and b"" after it.  Raises
        ConnectionResetError if the body broke.  (PEP 3333, wsgi.input)
        """
        return self.take(-1 if size is None else size)

    def read1(self, size=-1, /):
        """Read what is there without a second wait, at most size bytes."""
        cdef Py_ssize_t most = -1 if size is None else size
        cdef Py_ssize_t n
        if most == 0:
            return b""
        n = self.ready()
        if self.file is not None:
            return self.file.read1(most)
        return self.cut(most if 0 <= most < n else n)

    def readinto(self, buffer, /):
        """Read into a writable buffer until it is full; return the count of bytes."""
        view = memoryview(buffer).cast("B")
        data = self.take(len(view))
        view[: len(data)] = data
        return len(data)

    def readline(self, size=-1, /):
        """Read up to the next newline, which is kept, or up to size bytes."""
        return self.take_line(-1 if size is None else size)

    def readlines(self, hint=-1, /):
        """Read the lines that are left; stop once they come to hint bytes or more."""
        cdef Py_ssize_t limit = -1 if hint is None else hint
        cdef Py_ssize_t total = 0
        lines = []
        while limit <= 0 or total < limit:
            line = self.take_line(-1)
            if not line:
                break
            lines.append(line)
            total += len(line)
        return lines

    def __iter__(self):
        return self

    def __next__(self):
        line = self.take_line(-1)
        if not line:
            raise StopIteration
        return line

    # ---- what wrappers such as io.TextIOWrapper ask for

    def readable(self):
        """Return True."""
        return True

    def writable(self):
        """Return False: an application only reads."""
        return False

    def seekable(self):
        """Return False."""
        return False

    def flush(self):
        """Do nothing."""

    def close(self):
        """Give memory and file back; later reads raise ValueError."""
        self.release()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.release()

    # ---- the Python face of the feeding side

    def feed_data(self, bytes data, /):
        """Add body bytes; OSError if the temporary file cannot be written."""
        self.add(data, len(data))

    def feed_end(self):
        """Say that the body is complete."""
        self.finish()

    def feed_error(self, str why, /):
        """Say that the body will never be complete; reads raise ConnectionResetError(why)."""
        self.break_off(why)


cdef class LiveSpool(Spool):
    """A request body that one thread reads while the loop's thread still receives it.

    All of it stays in memory, bounded by backpressure: above high_water bytes
    the feeder pauses the client, and the reader calls ask() when it wants the
    client to go on (also once before it first waits, which is when an expected
    100 Continue is due).  ask() runs on the reader's thread and must not block.

    app_lock: a lock that the reading thread holds, given up while it waits.
    """

    def __init__(self, ask, app_lock=None, size_t high_water=65536, size_t low_water=16384):
        self.ask = ask
        self.app_lock = app_lock
        self.high_water = high_water
        self.low_water = low_water
        self.condition = threading.Condition()

    cdef int add(self, const char *ptr, size_t len) except -1:
        if self.closed:
            return 0
        self.length += len
        fc_buf_consume(&self.memory, self.at)
        self.at = 0
        if fc_buf_append(&self.memory, ptr, len) == FC_ERR:
            raise MemoryError
        if self.memory.len > self.high_water:
            self.full = True
        return self.wake()

    cdef bint is_full(self):
        return self.full

    cdef int finish(self) except -1:
        self.complete = True
        return self.wake()

    cdef int break_off(self, str why) except -1:
        self.why = why
        return self.wake()

    cdef int release(self) except -1:
        Spool.release(self)
        return self.wake()

    cdef int wake(self) except -1:
        with self.condition:
            self.condition.notify_all()
        return 0

    cdef Py_ssize_t ready(self) except -1:
        self.check_readable()
        while self.memory.len == self.at and not self.complete:
            self.wait()
            self.check_readable()
        return self.memory.len - self.at

    cdef bytes cut(self, size_t size):
        piece = Spool.cut(self, size)
        if self.full and self.memory.len - self.at <= self.low_water:
            self.full = False
            self.ask()
        return piece

    cdef int wait(self) except -1:
        if not self.asked:
            self.asked = True
            self.ask()
        if self.app_lock is not None:
            self.app_lock.release()
        try:
            with self.condition:
                while (self.memory.len == self.at and not self.complete
                        and self.why is None and not self.closed):
                    self.condition.wait()
        finally:
            if self.app_lock is not None:
                self.app_lock.acquire()
        return 0

    def feed_data(self, bytes data, /):
        """Add body bytes; return True if the client should pause now."""
        self.add(data, len(data))
        return self.full


cdef Spool new_spool(size_t memory_bytes):
    cdef Spool spool = Spool.__new__(Spool)
    spool.memory_bytes = memory_bytes
    return spool


cdef Spool no_body = new_spool(0)
no_body.finish()
