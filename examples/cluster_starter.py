"""Start the module startable.py on every CPU, and replace each worker that dies."""

import sys

import startable

from fastcluster import cluster

if cluster.is_primary:

    def start():
        print(f"cluster worker {cluster.fork().id} started", flush=True)

    @cluster.on("disconnect")
    def gone(worker):
        print(f"cluster worker {worker.id} disconnect", flush=True)

    @cluster.on("exit")
    def died(worker, code, signal):
        print(f"cluster worker {worker.id} died", flush=True)
        if not worker.exited_after_disconnect:
            start()

    for _ in range(cluster.cpu_count()):
        start()
else:
    server = startable.start_server(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
    print(f"{cluster.worker.process.pid} on http://{server.address()}", flush=True)

cluster.run()
