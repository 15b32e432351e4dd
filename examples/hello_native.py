"""A native handler, Node's hello world in Python.

Run it by itself, on one core:        python examples/hello_native.py
or by the command, on all of them:    fastcluster serve hello_native:server --app-dir examples
"""

from fastcluster import http


def hello(request: http.Request, response: http.Response) -> None:
    """Answer every request alike."""
    response.write_head(200, {"Content-Type": "text/plain"})
    response.end("hello world\n")


server = http.create_server(hello)

if __name__ == "__main__":
    server.listen(8000, callback=lambda: print(f"http://{server.address()}", flush=True))
    server.serve_forever()
