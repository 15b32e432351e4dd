"""Runs ASGI 3 applications: one call, in a task of its own, for each request.

Which requests are WebSockets, and nothing else, is decided here; the rest is the
affair of asgi_call.pyx and websocket.pyx, and who drives the loop, the worker's.
"""

from fastcluster.asgi_call cimport begin_http
from fastcluster.asgi_runner cimport AsgiRunner
from fastcluster.exchange cimport Exchange
from fastcluster.websocket cimport begin_websocket
from fastcluster.websocket_handshake cimport wants_websocket


cdef class AsgiHandler(AsgiRunner):
    """Runs an ASGI application for a Server, in the asyncio loop that attach() names.

    app: the application.  config: a config.Config, of which root_path and
    cancel_on_disconnect are used.
    """

    cdef int begin(self, Exchange exchange) except -1:
        if exchange.framing.upgrade and wants_websocket(exchange):
            return begin_websocket(exchange, self)
        return begin_http(exchange, self)
