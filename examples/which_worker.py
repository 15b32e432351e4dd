"""Which worker am I?  fastcluster serve which_worker:app --app-dir examples --workers 2"""

from fastcluster import App

app = App()


@app.use
def note_worker(request, response, next):
    request.worker_id = request.worker
    next()


@app.get("/")
def index(request, response):
    response.send(f"worker {request.worker_id}\n")


if __name__ == "__main__":
    app.run(3000)
