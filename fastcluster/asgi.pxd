# asgi.pxd: the map of asgi.pyx.  All that the adapters below it need is in
# asgi_runner.pxd, so that they need not import upward.

from fastcluster.asgi_runner cimport AsgiRunner


cdef class AsgiHandler(AsgiRunner):
    pass
