"""Runs the Autobahn testsuite against an echo server of ours, and judges its report.

    python tests/autobahn/run.py [--wstest PATH/TO/wstest] [CASE…]

CASE is a pattern such as 6.*; without one all cases run, which takes about a quarter
of an hour.  The suite needs a Python 2.7 environment of its own, which `make autobahn`
sets up: see docs/websocket.md.  Everything but "OK" and "INFORMATIONAL" is a failure,
"NON-STRICT" and "UNIMPLEMENTED" among it.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
AGENT = "fastcluster"
GOOD = {"OK", "INFORMATIONAL"}
ENVIRONMENT = HERE.parent.parent / ".venv-autobahn"


def default_wstest() -> str:
    """Return the program of the environment that make sets up, else the name for the PATH."""
    made = ENVIRONMENT / "bin" / "wstest"
    return str(made) if made.exists() else "wstest"


def serve(listener: socket.socket, options: list[str]) -> "subprocess.Popen[bytes]":
    """Start one worker on a socket that listens already, so that nobody need wait for it."""
    fd = listener.fileno()
    command = [sys.executable, "-m", "fastcluster", "serve", "echo_app:app"]
    command += ["--app-dir", str(HERE), "--bind", f"fd://{fd}", "--workers", "1", *options]
    root = str(HERE.parent.parent)
    environ = {**os.environ, "PYTHONPATH": root}
    return subprocess.Popen(command, pass_fds=[fd], env=environ)


def run_suite(wstest: str, port: int, cases: list[str], folder: Path, timeout_s: float) -> None:
    spec = {
        "options": {"failByDrop": False},
        "outdir": str(folder),
        "servers": [{"agent": AGENT, "url": f"ws://127.0.0.1:{port}"}],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    spec_file = folder / "spec.json"
    spec_file.write_text(json.dumps(spec))
    command = [wstest, "-m", "fuzzingclient", "-s", str(spec_file)]
    with open(folder / "wstest.log", "wb") as log:
        subprocess.run(command, cwd=folder, check=True, timeout=timeout_s, stdout=log, stderr=log)


def judge(folder: Path) -> int:
    """Print what the report says; return how many cases are not good."""
    report: dict[str, dict[str, Any]] = json.loads((folder / "index.json").read_text())[AGENT]
    bad = {
        case: result
        for case, result in report.items()
        if not {result["behavior"], result["behaviorClose"]} <= GOOD
    }
    for case, result in sorted(bad.items()):
        print(f"{case}: {result['behavior']}, close: {result['behaviorClose']}")
    counts = Counter(result["behavior"] for result in report.values())
    print(f"{len(report)} cases:", ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    return len(bad) if report else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--wstest", default=default_wstest(), help="the suite's program")
    parser.add_argument("--report", type=Path, help="folder that the report is kept in")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for the whole run")
    parser.add_argument("--serve", action="append", default=[], help="an option of serve")
    parser.add_argument("cases", nargs="*", default=["*"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.report or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = serve(listener, given.serve)
            try:
                port = listener.getsockname()[1]
                run_suite(given.wstest, port, given.cases, folder, given.timeout)
            finally:
                server.terminate()
                server.wait(60)
        return 1 if judge(folder) else 0


if __name__ == "__main__":
    sys.exit(main())
