# asgi_runner.pxd: what the ASGI adapters (http, websocket) have in common: the
# application and its scopes.

from fastcluster.asgi_scope cimport ScopeMaker
from fastcluster.exchange cimport Exchange
from fastcluster.tasks cimport TaskRunner


cdef class AsgiRunner(TaskRunner):
    """The application, its tasks and its scopes; asgi.AsgiHandler is the whole."""

    cdef ScopeMaker maker

    # New scopes, with `state`; a websocket's `subprotocols` are the caller's to set.
    cdef dict http_scope(self, Exchange exchange)
    cdef dict websocket_scope(self, Exchange exchange)
