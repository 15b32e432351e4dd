"""One worker per CPU, all on port 3000: Node's first cluster program in Python.

Run it with `fastcluster run examples/cluster_hello.py`, or by python itself.
"""

import os
import sys

from fastcluster import cluster, http

port = int(sys.argv[1]) if len(sys.argv) > 1 else 3000

if cluster.is_primary:
    print(f"{cluster.cpu_count()} CPUs", flush=True)
    print(f"Master process id is {os.getpid()}", flush=True)
    for _ in range(cluster.cpu_count()):
        cluster.fork()

    @cluster.on("listening")
    def listening(worker, address):
        print(f"{worker.process.pid} listens on {address.address}:{address.port}", flush=True)

    @cluster.on("exit")
    def died(worker, code, signal):
        print(f"worker process {worker.id} died", flush=True)

else:

    def hello(request, response):
        response.write_head(200)
        response.end("hello world\n")

    http.create_server(hello).listen(port)
    print(f"Worker started, process id: {os.getpid()}", flush=True)

cluster.run()
