# spool.pxd: the map of spool.pyx, for the adapters that give a request body to
# an application.
#
# One side is fed by a Consumer on the loop's thread: add…, then finish or
# break_off.  The other side is a binary file for reading.  A Spool is read
# when it is complete, by one thread at a time; a LiveSpool is read while it is
# still fed, by another thread that waits.

from libc.stdint cimport uint64_t

from fastcluster.csrc cimport fc_buf


cdef class Spool:
    """A request body: in memory first, in an unnamed temporary file above a size."""

    cdef fc_buf memory               # the body, or what of a live one is not read yet
    cdef size_t at                   # memory[at, len) is not read yet
    cdef size_t memory_bytes         # above it the body moves to the file
    cdef object file                 # io.BufferedRandom, or None
    cdef readonly uint64_t length    # body bytes added so far
    cdef str why                     # why the body broke, or None
    cdef bint complete               # finish() was called
    cdef readonly bint closed

    # ---- fed by the loop's thread

    # OSError: the temporary file cannot be written (a full disk).
    cdef int add(self, const char *ptr, size_t len) except -1
    # The body is complete and verified; reading may begin.  OSError as for add.
    cdef int finish(self) except -1
    # The body will never be complete: every read raises ConnectionResetError.
    cdef int break_off(self, str why) except -1
    # Gives memory and file back; every later read raises ValueError.
    cdef int release(self) except -1

    cdef int move_to_file(self, const char *ptr, size_t len) except -1

    # ---- read by the application (the Python face is complete, see spool.pyx)

    # Up to size bytes, all for size < 0; b"" only at the body's end.
    cdef bytes take(self, Py_ssize_t size)
    # Up to the next newline, its own included, or `most` bytes (< 0: no limit).
    cdef bytes take_line(self, Py_ssize_t most)

    cdef bytes take_more(self, bytes first, Py_ssize_t size)
    cdef int check_readable(self) except -1
    # How many bytes can be cut from memory now; waits in a LiveSpool; 0 is the end.
    cdef Py_ssize_t ready(self) except -1
    cdef bytes cut(self, size_t size)


cdef class LiveSpool(Spool):
    """A body that is read by a thread while the loop's thread still receives it."""

    cdef object condition            # threading.Condition: bytes, the end, or the break
    cdef object ask                  # called by the reader when it wants the client to go on
    cdef object app_lock             # what the reader gives up while it waits, or None
    cdef size_t high_water
    cdef size_t low_water
    cdef bint full                   # the feeder was told to pause
    cdef bint asked                  # ask() was called at least once

    # True: more than high_water bytes wait, the feeder should pause the client
    # until ask() is called.
    cdef bint is_full(self)
    cdef int wake(self) except -1
    cdef int wait(self) except -1


# An empty Spool that moves to a file above memory_bytes.
cdef Spool new_spool(size_t memory_bytes)
# The body of requests that have none: complete, shared, cannot be closed.
cdef Spool no_body
