"""A startable module: it serves when it is run, and only offers start_server when imported."""

import sys

from fastcluster import http


def start_server(port):
    return http.create_server(lambda request: "hello from a module\n").listen(port)


if __name__ == "__main__":
    server = start_server(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
    print(f"serving http://{server.address()}", flush=True)
    server.serve_forever()
