"""Which worker am I?  python examples/which_worker.py, then curl 127.0.0.1:3000 a few times."""

import sys
from collections.abc import Callable

from fastcluster import App, cluster
from fastcluster.app import Request, Response

app = App()


@app.use
def note_worker(request: Request, response: Response, next: Callable[[], object]) -> None:
    # There is none in a program of one process, nor under `fastcluster serve`.
    request.worker_id = cluster.worker.id if cluster.worker else 0
    next()


@app.get("/")
def index(request: Request, response: Response) -> None:
    response.send(f"worker {request.worker_id}\n")


@app.error(404)
def missing(error: Exception, request: Request, response: Response) -> None:
    response.status(404).send(f"worker {request.worker_id} has no such page\n")


if __name__ == "__main__":
    if cluster.is_primary:
        for _ in range(cluster.cpu_count()):
            cluster.fork()
    else:
        server = app.listen(int(sys.argv[1]) if sys.argv[1:] else 3000)
        print(f"worker {app.setting('env')} on {server.address()}", flush=True)
    cluster.run()
