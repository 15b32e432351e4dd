"""Flask's hello, written as its documentation writes one."""

from __future__ import annotations

from flask import Flask, Response

from benchmarks.apps import HELLO

wsgi_hello = Flask(__name__)


@wsgi_hello.get("/")
def hello() -> Response:
    """Answer with a constant."""
    return Response(HELLO, mimetype="text/plain")
