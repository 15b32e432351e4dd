"""A Flask application that uses what Flask applications use: for tests and by hand."""

import io
from collections.abc import Iterator

from flask import Flask, Response, jsonify, request, send_file, session, stream_with_context

app = Flask(__name__)
app.secret_key = "not a secret: this is a test"


@app.get("/")
def hello() -> str:
    return "Hello from Flask"


@app.get("/args/<name>")
def args(name: str) -> Response:
    return jsonify(
        name=name,
        query=request.args.to_dict(),
        url=request.url,
        client=request.remote_addr,
        agent=request.headers.get("User-Agent"),
    )


@app.post("/echo")
def echo() -> Response:
    return Response(request.get_data(), mimetype="application/octet-stream")


@app.post("/json")
def json() -> Response:
    return jsonify(request.get_json())


@app.post("/upload")
def upload() -> Response:
    sizes = {name: len(file.read()) for name, file in request.files.items()}
    return jsonify(form=request.form.to_dict(), sizes=sizes)


@app.get("/stream/<int:blocks>")
def stream(blocks: int) -> Response:
    def body() -> Iterator[str]:
        for number in range(blocks):
            yield f"{request.path} {number}\n"

    return Response(stream_with_context(body()), mimetype="text/plain")


@app.get("/file/<int:size>")
def file(size: int) -> Response:
    return send_file(io.BytesIO(b"f" * size), mimetype="application/octet-stream")


@app.get("/source")
def source() -> Response:
    return send_file(__file__, mimetype="text/x-python", conditional=True)


@app.get("/count")
def count() -> str:
    session["count"] = session.get("count", 0) + 1
    return str(session["count"])


@app.get("/error")
def error() -> str:
    raise RuntimeError("an error in a view")
