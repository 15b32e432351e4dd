"""The program that benchmarks.scheduling starts: a cluster of native workers at one port.

Its words are the port and the number of workers; which of them gets a connection is said by
FASTCLUSTER_SCHED_POLICY.
"""

import sys

from fastcluster import cluster, http

PORT, WORKERS = int(sys.argv[1]), int(sys.argv[2])

if cluster.is_primary:
    for _ in range(WORKERS):
        cluster.fork()
else:
    http.create_server(lambda request: b"hello, world").listen(PORT)

cluster.run()
