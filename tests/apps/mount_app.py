"""Applications of every kind that say where they think they are."""

import json
import os

from fastcluster import App


def record(text):
    """Write a line where the test looks for it."""
    if path := os.environ.get("MOUNT_EVENTS"):
        with open(path, "a") as file:
            file.write(text + "\n")


def speaks(name, fails=False):
    async def asgi(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            if fails:
                await send({"type": "lifespan.startup.failed", "message": "no database"})
                return
            scope["state"]["name"] = name
            record(f"{name} started")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            record(f"{name} stopped")
            await send({"type": "lifespan.shutdown.complete"})
            return
        said = {
            "app": name,
            "root": scope["root_path"],
            "path": scope["path"],
            "raw": scope["raw_path"].decode(),
            "state": scope.get("state"),
        }
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": json.dumps(said).encode()})

    return asgi


asgi = speaks("asgi")
other = speaks("other")
failing = speaks("failing", fails=True)


def wsgi(environ, start_response):
    said = {"app": "wsgi", "root": environ["SCRIPT_NAME"], "path": environ["PATH_INFO"]}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(said).encode()]


def native(request):
    return {"app": "native", "path": request.path, "target": request.target}


def make_native():
    return native


async def native_async(request):
    return {"app": "async", "path": request.path}


app = App()


@app.get("/users/{name}")
def show(request, response):
    response.json({"app": "App", "name": request.params["name"], "path": request.path})


def nothing():
    """Be no application: it takes nothing."""
