"""Hello on all cores: a process for each, on port 8000, and a word once one listens."""

import sys

from fastcluster import cluster, http

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000


def hello(request, response):
    response.write_head(200, {"Content-Type": "text/plain"})
    response.end("hello world")


def listening():
    print(f"worker {cluster.worker.id} listens on http://{server.address()}", flush=True)


if cluster.is_primary:
    for _ in range(cluster.cpu_count()):
        cluster.fork()
else:
    server = http.create_server(hello)
    server.listen(port, callback=listening)

cluster.run()
