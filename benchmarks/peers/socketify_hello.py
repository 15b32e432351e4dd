"""hello for socketify's own interface, its fastest; the port is the argument."""

from __future__ import annotations

import sys
from typing import Any

from socketify import App, AppListenOptions

app = App()


def hello(response: Any, request: Any) -> None:
    """Answer with a constant."""
    response.write_header("Content-Type", "text/plain")
    response.end("hello world\n")


if __name__ == "__main__":
    app.get("/", hello)
    app.listen(AppListenOptions(port=int(sys.argv[1]), host="127.0.0.1"), lambda config: None)
    app.run()
