"""An application whose import waits at a FIFO for the test, and says so at another."""

import os

FOLDER = os.environ["PROC_FOLDER"]

with open(os.path.join(FOLDER, "arrived"), "w") as file:
    file.write(str(os.getpid()))
with open(os.path.join(FOLDER, "answer")) as file:
    file.read()


def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return [b""]
