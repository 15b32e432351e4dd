"""hello for robyn, whose applications only it can run; the port comes by ROBYN_PORT."""

from __future__ import annotations

import logging
import os

from robyn import Response, Robyn

logging.disable(logging.WARNING)
app = Robyn(__file__)


@app.get("/")
async def hello() -> Response:
    """Answer with a constant."""
    return Response(
        status_code=200, headers={"Content-Type": "text/plain"}, description="hello world\n"
    )


if __name__ == "__main__":
    app.start(host="127.0.0.1", port=int(os.environ["ROBYN_PORT"]))
