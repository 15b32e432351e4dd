"""An application that knows its environment.

FASTCLUSTER_ENV=production python examples/environment.py
"""

from fastcluster import App

app = App()
app.set("port", 3000)


@app.get("/")
def index(request, response):
    response.json({"env": app.get("env"), "view cache": app.enabled("view cache")})


if __name__ == "__main__":
    server = app.listen(
        callback=lambda: print(f"{app.get('env')} on {server.address()}", flush=True)
    )
    server.serve_forever()
