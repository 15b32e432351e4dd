"""The page docs/node-parity.md, made of the marker `node` on tests and of the lines below.

A line is a test of Node's own for `cluster`, by its name, with what it asks in our words.
`@pytest.mark.node("test-cluster-basic", differs="…")` says which lines a test of ours shows,
and where it asks for something else on purpose.  Markers are read from the source, so that a
test that is switched off is seen to be.  `python tests/parity.py` writes the page.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
OUTPUT = TESTS.parent / "docs" / "node-parity.md"

HEAD = """\
# Node's `cluster`, line by line

Made by `python tests/parity.py` from the markers on our tests; no line was written by hand. Each
row is a test that Node has for its `cluster` module, what it asks for, and how it is here: *as in
Node*, or *differs*, on purpose, with the reason. What a row says is shown by the tests named in it,
which are our own and run real processes. Left out are Node's tests of datagrams, of the debugger,
of Windows and of the module `domain`.
"""

LINES: dict[str, dict[str, str]] = {
    "The lives of workers": {
        "test-cluster-basic": "the events fork, online, listening and exit on cluster and worker, "
        "their arguments, the states between; who inherits the variable is no worker",
        "test-cluster-worker-constructor": "a Worker of one's own has defaults",
        "test-cluster-worker-death": "an exit code is told on the worker and on the cluster",
        "test-cluster-worker-exit": "a worker that exits by itself: code, no signal, not meant, "
        "each event once, and the process is gone",
        "test-cluster-worker-kill": "a worker killed by a signal: no code, its name, not meant",
        "test-cluster-kill-signal": "kill() takes the signal to send",
        "test-cluster-worker-destroy": "a worker kills itself before and after its disconnect",
        "test-cluster-call-and-destroy": "kill() on a worker that has disconnected does no harm",
        "test-cluster-kill-disconnect": "a worker's own disconnect() and kill() are meant",
        "test-cluster-kill-infinite-loop": "a worker in a busy loop dies of SIGTERM",
        "test-cluster-worker-isconnected": "is_connected() from the fork to the disconnect",
        "test-cluster-worker-isdead": "is_dead() in each handler",
        "test-cluster-worker-forced-exit": "a channel shut without a word ends the worker at once, "
        "disconnect() lets it finish its own way",
        "test-cluster-process-disconnect": "a listening worker that shuts its channel exits with 0",
        "test-cluster-primary-error": "an error in the primary: code 1, and every worker ends",
        "test-cluster-primary-kill": "a primary that dies leaves no worker",
        "test-cluster-uncaught-exception": "a hook for uncaught errors decides the primary's code",
    },
    "Leaving": {
        "test-cluster-disconnect": "eight workers with two servers each: all listen, both ports "
        "answer, disconnect calls back, and all that once more",
        "test-cluster-disconnect-with-no-workers": "the callback comes, and later",
        "test-cluster-disconnect-idle-worker": "disconnect right after the fork",
        "test-cluster-disconnect-leak": "disconnect while a worker is about to listen, SCHED_NONE",
        "test-cluster-disconnect-race": "two workers leave while one has just come online, "
        "SCHED_NONE",
        "test-cluster-disconnect-before-exit": "disconnect again between disconnect and exit",
        "test-cluster-disconnect-exitedAfterDisconnect-race": "the primary knows that an end was "
        "meant before it sees the end",
        "test-cluster-disconnect-unshared-tcp": "a worker without a server leaves another with one",
        "test-cluster-concurrent-disconnect": "many workers told to leave many times: all with 0",
        "test-cluster-worker-disconnect": "the events, state and flag on both sides; the worker's "
        "handler chooses the code",
        "test-cluster-worker-disconnect-on-error": "a worker leaves when it cannot listen",
        "test-cluster-worker-no-exit": "what else a worker does keeps its process alive",
        "test-cluster-worker-wait-server-close": "the channel closes after the connections",
        "test-cluster-shared-leak": "two workers leave while a connection waits to be accepted",
    },
    "Listening": {
        "test-cluster-bind-privileged-port": "a port that is not allowed: EACCES in the worker",
        "test-cluster-shared-handle-bind-privileged-port": "the same under SCHED_NONE",
        "test-cluster-bind-twice": "two clusters do not share a port in silence",
        "test-cluster-shared-handle-bind-error": "a port in use under SCHED_NONE",
        "test-cluster-eaddrinuse": "a port in use, and again once it is free",
        "test-cluster-eaccess": "a unix socket in use",
        "test-cluster-ipc-throw": "an error in the handler of a listen error can be caught",
        "test-cluster-child-index-net": "open, close, open on port 0 in one worker",
        "test-cluster-http-pipe": "HTTP over a unix socket; the peer has no address",
        "test-cluster-listen-pipe-readable-writable": "the mode of a unix socket's file",
        "test-cluster-listening-port": "port 0 is told as the real one",
        "test-cluster-net-listen": "listen() without a port",
        "test-cluster-net-listen-backlog": "the backlog reaches the primary's socket",
        "test-cluster-net-listen-ipv6only-false": ":: takes IPv4, too",
        "test-cluster-net-listen-ipv6only-none": "IPv6 alone leaves IPv4's port free, SCHED_NONE",
        "test-cluster-net-listen-ipv6only-rr": "IPv6 alone leaves IPv4's port free, SCHED_RR",
        "test-cluster-net-listen-relative-path": "a short path in a deep folder; no file is left",
        "test-cluster-net-reuseport": "reuse_port twice in one worker, without the primary",
        "test-cluster-port-reuse-between-workers": "listen again where another worker listens; "
        "twice in one worker fails",
        "test-cluster-server-restart-none": "close and listen again, SCHED_NONE",
        "test-cluster-server-restart-rr": "close and listen again, SCHED_RR",
        "test-cluster-net-server-drop-connection": "max_connections, and who is over it",
        "test-http-server-drop-connections-in-cluster": "the same for HTTP",
        "test-listen-fd-cluster": "listen(fd) means the primary's descriptor",
        "test-net-listen-handle-in-cluster-1": "a server that was sent to a worker serves there",
        "test-net-listen-handle-in-cluster-2": "listening on a handle goes past the primary",
        "test-tls-ticket-cluster": "TLS sessions go on in another worker",
    },
    "Round robin": {
        "test-cluster-accept-fail": "an accept() that fails in the primary hurts nobody",
        "test-cluster-rr-handle-close": "a worker ends when its only server is closed",
        "test-cluster-rr-handle-ref-unref": "ref() and unref() in any order",
        "test-cluster-rr-handle-keep-loop-alive": "a server that is open keeps a worker",
        "test-cluster-rr-ref": "a server that is let go of does not keep it",
        "test-cluster-worker-handle-close": "a connection for a server that has just closed",
    },
    "Messages": {
        "test-cluster-message": "messages both ways, on the worker and on the cluster",
        "test-cluster-worker-events": "the worker hears on both emitters, send() is True, an error",
        "test-cluster-worker-init": "what is sent on online reaches a listener at the top",
        "test-cluster-advanced-serialization": "an object that holds itself, there and back",
        "test-cluster-invalid-message": "a forged internal message is passed over",
        "test-cluster-net-send": "a connection from a worker to the primary; data flows",
        "test-cluster-send-deadlock": "sockets both ways at once",
        "test-cluster-send-handle-twice": "the same socket twice",
        "test-cluster-send-handle-large-payload": "800 kB and a socket together, both ways",
        "test-cluster-send-socket-to-worker-http-server": "a connection that the primary accepted "
        "is served by a worker's HTTP server",
    },
    "Settings": {
        "test-cluster-setup-primary": "the defaults, and what workers see of settings",
        "test-cluster-setup-primary-argv": "the arguments are read at the first call",
        "test-cluster-setup-primary-cumulative": "calls add up",
        "test-cluster-setup-primary-emit": "each call emits setup with its settings",
        "test-cluster-setup-primary-multiple": "between forks, for later workers only",
        "test-cluster-cwd": "the folder of workers",
        "test-cluster-fork-env": "variables are added and overridden",
        "test-cluster-fork-stdio": "a pipe at descriptor 4 goes both ways",
    },
}

# Lines that no test of ours shows.
WITHOUT: dict[str, str] = {
    "test-tls-ticket-cluster": "There is no TLS yet; a proxy in front has it.",
}


@dataclass(frozen=True, slots=True)
class Proof:
    """A test with the marker.  waits: what has to be there first, if it is switched off."""

    file: str
    name: str
    lines: tuple[str, ...]
    differs: str
    waits: str


def proofs() -> list[Proof]:
    """Return every marked test, by file and place."""
    return [proof for path in sorted(TESTS.glob("test_*.py")) for proof in _proofs_in(path)]


def _proofs_in(path: Path) -> Iterator[Proof]:
    tree = ast.parse(path.read_text())
    everywhere = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        marks = [mark for mark in node.decorator_list + everywhere if isinstance(mark, ast.Call)]
        waits = [_word(mark, "reason") for mark in marks if _is(mark, "skipif")]
        for mark in marks:
            if _is(mark, "node"):
                lines = tuple(ast.literal_eval(argument) for argument in mark.args)
                yield Proof(path.name, node.name, lines, _word(mark, "differs"), "".join(waits))


def _is(mark: ast.Call, name: str) -> bool:
    return ast.unparse(mark.func) == f"pytest.mark.{name}"


def _word(mark: ast.Call, name: str) -> str:
    return next((ast.literal_eval(k.value) for k in mark.keywords if k.arg == name), "")


def page() -> str:
    """Return the whole page as Markdown."""
    found = proofs()
    parts = [HEAD]
    for theme, lines in LINES.items():
        parts.append(f"\n## {theme}\n\n| Node's test | asks for | here | shown by |")
        parts.append("\n| --- | --- | --- | --- |\n")
        parts.extend(_row(name, asks, found) for name, asks in lines.items())
    return "".join(parts)


def _row(name: str, asks: str, found: list[Proof]) -> str:
    mine = [proof for proof in found if name in proof.lines]
    said = dict.fromkeys(proof.differs for proof in mine if proof.differs)
    here = f"*differs:* {' '.join(said)}" if said else "as in Node"
    if not mine:
        here = f"*not here:* {WITHOUT[name]}"
    elif all(proof.waits for proof in mine):
        here = f"*not yet:* {mine[0].waits}"
    links = " ".join(
        f"[{p.name.removeprefix('test_').replace('_', ' ')}](../tests/{p.file})" for p in mine
    )
    return f"| `{name}` | {asks} | {here} | {links} |\n"


if __name__ == "__main__":
    OUTPUT.write_text(page())
