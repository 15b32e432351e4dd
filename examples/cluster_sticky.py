"""A visitor's address always meets the same worker, which may keep a session in its memory."""

import sys

from fastcluster import cluster, http

visits: dict[str, int] = {}


def count(request):
    host = request.client[0]
    visits[host] = visits.get(host, 0) + 1
    return f"visit {visits[host]} of {host}, by worker {cluster.worker.id}\n"


cluster.scheduling_policy = cluster.SCHED_RR
if cluster.is_primary:
    cluster.setup_primary(distribute=cluster.sticky)

    @cluster.on("listening")
    def listening(worker, address):
        print(f"worker {worker.id} listens on port {address.port}", flush=True)

    for _ in range(cluster.cpu_count()):
        cluster.fork()
else:
    http.create_server(count).listen(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)

cluster.run()
