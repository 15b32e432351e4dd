# mounting.pyx: several applications in one worker, each below a path of its own.
#
# The longest prefix that ends where a segment of the path does wins, whatever kind of
# application it belongs to; a path below none is answered with 404.  Prefixes are
# compared with the path as it is decoded, as the applications will see it.  How specs
# are read and applications loaded is the affair of mounts.py.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint32_t

from fastcluster.csrc cimport (
    FC_TARGET_ABSOLUTE, FC_TARGET_ORIGIN, fc_framing, fc_hex_digit,
)
from fastcluster.exchange cimport Exchange, Handler, span_of


cdef class Mount:
    def __init__(self, str prefix, Handler handler not None):
        self.prefix = prefix
        self.raw = prefix.encode()
        self.handler = handler
        self.is_cut = bool(prefix) and not handler.mount(prefix)


cdef class MountHandler(Handler):
    """handlers: (prefix, handler) pairs, "" for the one that has all that is left.

    config: a config.Config, of which root_path is used.
    """

    def __init__(self, handlers, config):
        mounts = [Mount(prefix, handler) for prefix, handler in handlers]
        self.mounts = sorted(mounts, key=lambda mount: -len(mount.prefix))
        self.root = config.root_path.encode()

    def close(self):
        """Have what the handlers have begun end."""
        for mount in self.mounts:
            close = getattr(mount.handler, "close", None)
            if close is not None:
                close()

    cdef int begin(self, Exchange exchange) except -1:
        cdef fc_framing *framing = &exchange.framing
        cdef const char *path = exchange.request.base + framing.path
        cdef uint32_t len = framing.path_len
        cdef int32_t skipped = 0
        cdef int32_t used
        cdef Mount mount
        if framing.target_form != FC_TARGET_ORIGIN and framing.target_form != FC_TARGET_ABSOLUTE:
            len = 0  # an asterisk or an authority lies under no path
        if PyBytes_GET_SIZE(self.root) and len:
            skipped = max(0, prefix_len(path, len, self.root))
        for mount in self.mounts:
            used = prefix_len(path + skipped, len - <uint32_t>skipped, mount.raw)
            if used < 0:
                continue
            if mount.is_cut:
                used += skipped
                if <uint32_t>used == len:
                    # Nothing is left: the slash that the path begins with stands for it.
                    framing.path_len = 1
                else:
                    framing.path += <uint32_t>used
                    framing.path_len -= <uint32_t>used
            return mount.handler.begin(exchange)
        return self.not_found(exchange)

    cdef int not_found(self, Exchange exchange) except -1:
        cdef bytes body = b"404 Not Found\n"
        exchange.start(404, span_of(NULL, 0))
        exchange.field(span_of(b"Content-Type", 12), span_of(b"text/plain", 10))
        exchange.send_head(PyBytes_GET_SIZE(body))
        exchange.write(PyBytes_AS_STRING(body), <size_t>PyBytes_GET_SIZE(body), body)
        return exchange.finish()


cdef class AsyncMountHandler(MountHandler):
    """Mounts of which at least one runs in an asyncio loop; to a guest it is one runner."""

    @property
    def runners(self):
        """The handlers that run in the loop."""
        return [mount.handler for mount in self.mounts if hasattr(mount.handler, "attach")]

    @property
    def tasks(self):
        """The tasks of all of them."""
        return set().union(*(runner.tasks for runner in self.runners))

    def attach(self, loop, states=None):
        """Have all of them run in this loop; states: of their lifespans, in their order."""
        runners = self.runners
        for runner, state in zip(runners, states or [None] * len(runners)):
            runner.attach(loop, state)

    def cancel_all(self):
        """Cancel every task, since the time to finish is over."""
        for runner in self.runners:
            runner.cancel_all()


cdef int32_t prefix_len(const char *path, uint32_t len, bytes prefix) noexcept:
    cdef const char *wanted = PyBytes_AS_STRING(prefix)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(prefix)
    cdef Py_ssize_t i
    cdef uint32_t at = 0
    cdef int high, low
    cdef char c
    for i in range(n):
        if at >= len:
            return -1
        c = path[at]
        at += 1
        if c == c"%" and len - at >= 2:
            high = fc_hex_digit(path[at])
            low = fc_hex_digit(path[at + 1])
            if high >= 0 and low >= 0:
                c = <char>(high << 4 | low)
                at += 2
        if c != wanted[i]:
            return -1
    if n == 0 or at == len or path[at] == c"/":
        return <int32_t>at
    return -1
