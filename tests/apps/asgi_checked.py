"""The applications of the frameworks, each behind the checker, for `fastcluster serve`.

What is wrong between server and application goes to stderr, where the test looks for it.
"""

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import asgi_frameworks
import django_app  # sets Django up
from asgi_checker import checked
from django.core.asgi import get_asgi_application
from quart import Quart, request

starlette = checked(asgi_frameworks.plain)
stacked = checked(asgi_frameworks.stacked)
fastapi = checked(asgi_frameworks.api)
django = checked(get_asgi_application())

__all__ = ["django", "django_app", "fastapi", "quart", "stacked", "starlette"]

app = Quart(__name__)


@app.before_serving
async def start():
    app.greeting = "hello"


@app.get("/hello")
async def hello():
    return app.greeting


@app.post("/chunks")
async def chunks():
    total = 0
    async for chunk in request.body:
        total += len(chunk)
    return str(total)


@app.get("/stream")
async def stream():
    async def generate():
        for number in range(10):
            yield f"{number}\n"
            await asyncio.sleep(0)

    return generate(), {"x-pid": str(os.getpid())}


@app.get("/fail")
async def fail():
    raise ValueError("own")


quart = checked(app)
