"""The application of the ASGI adapters, and the scopes that it is called with.

How its tasks run and what they wait for is the affair of tasks.pyx.  It knows
neither messages nor connections.
"""

from fastcluster.asgi_scope cimport ScopeMaker
from fastcluster.exchange cimport Exchange
from fastcluster.tasks cimport TaskRunner


cdef class AsgiRunner(TaskRunner):
    """Holds an ASGI application, and makes the scopes that it is called with.

    app: the application.  config: a config.Config.  attach() says in which loop.
    """

    speaks_lifespan = True

    def __init__(self, app, config):
        super().__init__(app, config)
        self.maker = ScopeMaker(config.root_path, config.log_level == "debug")

    cdef bint mount(self, str prefix) except -1:
        self.maker.mount(prefix)
        return True

    cdef dict http_scope(self, Exchange exchange):
        cdef dict scope = self.maker.make(exchange)
        if self.state is not None:
            scope["state"] = self.state.copy()
        return scope

    cdef dict websocket_scope(self, Exchange exchange):
        cdef dict scope = self.maker.make_websocket(exchange)
        if self.state is not None:
            scope["state"] = self.state.copy()
        return scope
