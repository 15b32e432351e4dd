"""The house: who may import whom, and which file alone may do what.

The order and the verbs are the design's, as data.  A module that is not in LAYERS
has no place yet: give it one, with a caption in the README.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fastcluster"
CSRC = ROOT / "csrc"

# Imports go to a lower number only.
LAYERS = {
    "csrc": 10,
    "errors": 10,
    "access_log": 15,
    "request_ids": 15,
    "cpus": 15,
    "heartbeat": 15,
    "metrics": 15,
    "sampling": 16,
    "statsd": 41,
    "monitor": 42,
    "proc": 15,
    "fields": 15,
    "forwarded": 14,
    "options": 15,
    "surroundings": 15,
    "layers": 17,
    "tables": 18,
    "sources": 19,
    "env_file": 15,
    "reconfiguration": 22,
    "config_report": 22,
    "multipart": 17,
    "config": 20,
    "retirement": 22,
    "exchange": 20,
    "observer": 24,
    "health": 24,
    "overload": 24,
    "mounting": 24,
    "parser": 25,
    "spool": 25,
    "deflate": 25,
    "connection": 27,
    "apps": 30,
    "channel": 30,
    "lifespan": 30,
    "log": 30,
    "request": 30,
    "response": 30,
    "server": 30,
    "round_robin": 31,
    "scheduling": 38,
    "sockets": 30,
    "welcome": 30,
    "broken": 30,
    "watcher": 34,
    "asgi_scope": 30,
    "websocket_frames": 30,
    "websocket_handshake": 30,
    "tasks": 30,
    "asgi_runner": 31,
    "websocket_link": 32,
    "asgi_call": 33,
    "websocket": 34,
    "guest": 35,
    "asgi": 36,
    "wsgi_call": 30,
    "wsgi_environ": 30,
    "children": 32,
    "child_process": 33,
    "wsgi_pool": 32,
    "native": 35,
    "native_async": 36,
    "adapters": 38,
    "mounts": 39,
    "wsgi": 35,
    "roster": 33,
    "renewal": 34,
    "reports": 34,
    "upgrade": 35,
    "nursery": 35,
    "zygote": 41,
    "seating": 36,
    "primary": 40,
    "supervisor": 44,
    "desks": 43,
    "ecosystem": 42,
    "site_commands": 55,
    "control": 41,
    "control_client": 45,
    "control_commands": 55,
    "top": 50,
    "control_folder": 31,
    "systemd": 15,
    "pid_file": 15,
    "privileges": 15,
    "http": 40,
    "emitter": 30,
    "link": 31,
    "stdio": 31,
    "program": 30,
    "cluster_worker": 45,
    "cluster_primary": 47,
    "cluster_supervisor": 48,
    "cluster": 50,
    "routing": 15,
    "views": 15,
    "app_exchange": 42,
    "app_async": 43,
    "app": 45,
    "worker": 40,
    "embedded": 45,
    "cli": 60,
    "__main__": 70,
}

# The two columns of the house: processes and bytes.
PROCESSES = {
    "apps",
    "channel",
    "child_process",
    "control",
    "control_client",
    "control_commands",
    "control_folder",
    "desks",
    "site_commands",
    "monitor",
    "primary",
    "nursery",
    "renewal",
    "reports",
    "retirement",
    "roster",
    "seating",
    "sockets",
    "statsd",
    "supervisor",
    "ecosystem",
    "watcher",
    "upgrade",
    "top",
}
BYTES = (
    {name for name, layer in LAYERS.items() if layer >= 20}
    - PROCESSES
    - {
        "adapters",
        "app",
        "app_async",
        "app_exchange",
        "children",
        "cli",
        "cluster",
        "cluster_primary",
        "cluster_supervisor",
        "cluster_worker",
        "config",
        "config_report",
        "reconfiguration",
        "emitter",
        "embedded",
        "guest",
        "http",
        "lifespan",
        "link",
        "log",
        "mounts",
        "program",
        "scheduling",
        "stdio",
        "broken",
        "welcome",
        "worker",
        "zygote",
        "__main__",
    }
)

IMPORT = re.compile(
    r"^\s*(?:from\s+fastcluster(?:\.(\w+))?\s+c?import\s+(\(?[^#\n]*)|c?import\s+fastcluster\.(\w+))",
    re.MULTILINE,
)


def sources(*suffixes: str) -> list[Path]:
    return sorted(path for path in PACKAGE.iterdir() if path.suffix in suffixes)


def modules() -> list[str]:
    return sorted({path.stem for path in sources(".py", ".pyx", ".pxd")} - {"__init__"})


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, at its top or inside a function."""
    found = set()
    for module, names, dotted in IMPORT.findall(path.read_text()):
        if module or dotted:
            found.add(module or dotted)
        else:
            found.update(set(re.findall(r"\w+", names)) & set(modules()))
    return found


def without_comments(path: Path) -> str:
    text = path.read_text()
    if path.suffix in (".c", ".h"):
        return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
    return re.sub(r"#.*", "", text)


@pytest.mark.parametrize("module", modules())
def test_every_module_has_its_layer(module: str) -> None:
    assert module in LAYERS


@pytest.mark.parametrize("path", sources(".py", ".pyx", ".pxd"), ids=lambda path: path.name)
def test_imports_go_downward_only(path: Path) -> None:
    if path.stem == "__init__":
        return
    upward = {
        name
        for name in imported(path) - {path.stem}
        if LAYERS.get(name, 99) >= LAYERS.get(path.stem, 0)
    }
    assert upward == set()


@pytest.mark.parametrize("path", sources(".py", ".pyx"), ids=lambda path: path.name)
def test_processes_and_bytes_meet_in_the_worker_only(path: Path) -> None:
    # http.py is a server of one process, cli.py makes the scoreboard.
    if path.stem in PROCESSES:
        assert imported(path) & BYTES == set()
    if path.stem in BYTES:
        assert imported(path) & PROCESSES == set()


def test_both_columns_are_there() -> None:
    assert {"connection", "server", "wsgi"} <= BYTES
    assert set(modules()) >= PROCESSES


def test_csrc_knows_no_python() -> None:
    for path in CSRC.iterdir():
        assert "Python.h" not in path.read_text(), path.name


# (what, the files that may, where it is looked for)
C_VERBS = [
    (r"\b(epoll_\w+|timerfd_\w+)\s*\(", {"loop.c"}),
    (r"\b(accept4?|recv|getpeername)\s*\(", {"conn.c"}),
    (r"\b(send|sendfile|writev)\s*\(", {"out.c"}),
    # A descriptor is handed over with sendmsg, too.
    (r"\bsendmsg\s*\(", {"out.c", "conn.c"}),
    (r'"HTTP/1\.1 ', {"head.c"}),
    (r"\bllhttp_\w+", {"llhttp.c"}),
    (r"\bmmap\s*\(", {"board.c"}),
]


@pytest.mark.parametrize(("verb", "owners"), C_VERBS, ids=[verb for verb, _ in C_VERBS])
def test_one_verb_one_file_in_c(verb: str, owners: set[str]) -> None:
    users = {path.name for path in CSRC.glob("*.c") if re.search(verb, without_comments(path))}
    assert users == owners


PYTHON_VERBS = [
    (r"\bos\.fork\(", {"child_process.py"}),
    (r"\bos\.(waitpid|kill)\b", {"child_process.py", "children.py", "seating.py"}),
    (r"\.bind\((?!\*)", {"sockets.py"}),
    # Which loop's thread waits, and the one wait of a handler that writes too much.
    (r"\bwith nogil:", {"server.pyx", "exchange.pyx", "round_robin.pyx"}),
    (r"\bclick\.echo\(", {"cli.py"}),
    (r"(?m)^EXIT_\w+(: \w+)? = \d+$", {"errors.py"}),
    (r"\bhttptools\b", {"parser.pyx", "cli.py"}),
    # A worker is given variables; these two read them.
    (
        r"\bos\.(environ|getenv)\b",
        {"config.py", "surroundings.py", "child_process.py", "cluster_worker.py"},
    ),
]


@pytest.mark.parametrize(("verb", "owners"), PYTHON_VERBS, ids=[verb for verb, _ in PYTHON_VERBS])
def test_one_verb_one_file_in_python(verb: str, owners: set[str]) -> None:
    users = {
        path.name for path in sources(".py", ".pyx") if re.search(verb, without_comments(path))
    }
    assert users <= owners


def test_macros_do_not_choose_between_worlds() -> None:
    # accept4 is missing on macOS; that is the one difference outside loop.c and fc.h.
    for path in CSRC.iterdir():
        conditions = re.findall(r"^\s*#\s*(?:if|ifdef|elif)\b.*", path.read_text(), re.MULTILINE)
        allowed = {"conn.c": 1, "loop.c": 99, "fc.h": 99}.get(path.name, 0)
        assert len(conditions) <= allowed, (path.name, conditions)


def test_cython_gives_python_no_second_door() -> None:
    for path in sources(".pyx", ".pxd"):
        text = without_comments(path)
        assert not re.search(r"^\s*include\s+[\"']", text, re.MULTILINE), path.name


@pytest.mark.parametrize("module", modules())
def test_every_module_has_a_test(module: str) -> None:
    if module in ("csrc", "__main__"):
        return  # a list of declarations; the command's tests run it
    assert (ROOT / "tests" / f"test_{module}.py").exists()


def test_every_c_file_has_a_test() -> None:
    missing = [
        path.stem
        for path in CSRC.glob("*.c")
        if not (ROOT / "tests" / "c" / f"test_{path.stem}.c").exists()
    ]
    # llhttp needs the parser inside a Python module: tests/test_parser.py.
    assert missing == ["llhttp"]


def test_the_readme_names_every_module() -> None:
    readme = (ROOT / "README.md").read_text()
    for module in set(modules()) - {"csrc", "__main__"}:
        family = re.match(r"(wsgi|asgi|websocket)_", module)
        stem = f"{family[1]}_*" if family else module
        assert f"{stem}.py" in readme, module
