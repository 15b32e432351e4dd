"""The servers that can be measured: what servers.toml says, filled in for one workload.

It turns data into command lines and asks each server for its version; it starts none of them
to serve. What a name stands for in a command is told at the top of servers.toml.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.machine import CannotMeasure
from benchmarks.workloads import Workload

ROOT = Path(__file__).parent.parent
FILE = Path(__file__).parent / "servers.toml"
BUILD = ROOT / "build" / "benchmarks"
PEERS = BUILD / "peers"
FILES = BUILD / "files"
WEBSOCKET_LOAD = BUILD / "websocket"
REFERENCE = "reference"
VERSION_TIMEOUT_S = 20.0
INTERFACES = (
    *("reference", "native", "node", "wsgi", "asgi", "rsgi"),
    *("nodejs", "nginx", "static", "own"),
)
KEYS = {
    *("name", "command", "environment", "interface", "workloads"),
    *("version", "package", "packages", "config"),
}


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """One server as the file has it: words that still have names in braces."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    interface: str = "reference"
    workloads: tuple[str, ...] = ("*",)
    version: tuple[str, ...] = ()
    package: str | None = None
    packages: tuple[str, ...] = ()
    config: str | None = None

    def serves(self, workload: Workload) -> bool:
        """Tell whether it has an application for this workload, and is meant for it."""
        return self.interface in workload.interfaces and any(
            fnmatchcase(workload.name, pattern) for pattern in self.workloads
        )


@dataclass(frozen=True, slots=True)
class Places:
    """Where programs are: what `{python}`, `{peers}` and `{reference}` stand for."""

    python: str = sys.executable
    peers: Path = PEERS / "bin"
    reference: Path = BUILD / "epoll"

    def names(self) -> dict[str, str]:
        """Return the names that are the same for every workload."""
        return {
            "python": self.python,
            "peers": str(self.peers),
            "reference": str(self.reference),
            "peer_apps": str(Path(__file__).parent / "peers"),
            "files": str(FILES),
        }


@dataclass(frozen=True, slots=True)
class Launch:
    """What starts one server for one workload, and the files that it reads then."""

    command: list[str]
    environment: dict[str, str]
    files: dict[Path, str] = field(default_factory=dict)


def read(path: Path = FILE) -> list[ServerEntry]:
    """Read the file. Raises CannotMeasure, naming the file and the entry, for a bad one."""
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CannotMeasure(f"{path} cannot be read: {error}") from error
    entries = [_entry(path, given) for given in data.get("server", [])]
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise CannotMeasure(f"{path} has two servers named {name}: rename one")
    return entries


def choose(entries: Sequence[ServerEntry], patterns: Iterable[str]) -> list[ServerEntry]:
    """Return the entries that match any pattern ("bjoern", "fastcluster-*"), in file order.

    No patterns choose all. The reference is always among them, since ratios are made to it.
    Raises CannotMeasure for a pattern that matches nothing.
    """
    wanted = list(patterns)
    for pattern in wanted:
        if not any(fnmatchcase(entry.name, pattern) for entry in entries):
            known = ", ".join(entry.name for entry in entries)
            raise CannotMeasure(f"no server is named {pattern}; there are {known}")
    return [
        entry
        for entry in entries
        if not wanted
        or entry.name == REFERENCE
        or any(fnmatchcase(entry.name, pattern) for pattern in wanted)
    ]


def launch(entry: ServerEntry, workload: Workload, port: int, places: Places) -> Launch:
    """Fill in a server's command, environment and configuration for one workload and port."""
    attribute = f"{entry.interface}_{workload.app}"
    config = BUILD / f"{entry.name}-{port}.conf"
    names = {
        **places.names(),
        "port": str(port),
        "app": workload.app,
        "module": workload.module,
        "attribute": attribute,
        "target": f"{workload.module}:{attribute}",
        "answer": answer_word(workload.answer),
        "body_bytes": str(len(workload.body)),
        "ending": "close" if workload.closes else "keep-alive",
        "config": str(config),
    }
    environment = {key: value.format_map(names) for key, value in entry.environment.items()}
    files = {config: entry.config.format_map(names)} if entry.config is not None else {}
    return Launch([word.format_map(names) for word in entry.command], _found(environment), files)


def answer_word(answer: bytes) -> str:
    """Return what the reference is told to answer: a number stands for so many x."""
    return str(len(answer)) if answer.strip(b"x") == b"" else answer.decode("ascii")


def python_path() -> dict[str, str]:
    """Return the variable by which a Python finds this tree, before what it has already."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def version(entry: ServerEntry, places: Places) -> str | None:
    """Return the first line of what the server says of its version, or None if it is not there.

    A server that has no such command is taken to be there, with the version "".
    """
    if not entry.version:
        return ""
    words = [word.format_map(places.names()) for word in entry.version]
    try:
        ran = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=VERSION_TIMEOUT_S,
            cwd=ROOT,
            env={**os.environ, **_found(entry.environment)},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = ran.stdout.splitlines()
    return lines[0].strip() if ran.returncode == 0 and lines else None


def _found(environment: Mapping[str, str]) -> dict[str, str]:
    # Servers find applications in different ways; PYTHONPATH holds for all of them.
    return {**python_path(), **environment}


def _entry(path: Path, given: dict[str, Any]) -> ServerEntry:
    if "name" not in given or "command" not in given:
        raise CannotMeasure(f"{path} has a server without name or command: {given}")
    unknown = set(given) - KEYS
    if unknown:
        raise CannotMeasure(f"{path}: {given['name']} has unknown keys {sorted(unknown)}")
    if given.get("interface", "reference") not in INTERFACES:
        raise CannotMeasure(
            f"{path}: {given['name']} has the interface {given['interface']}; "
            f"there are {', '.join(INTERFACES)}"
        )
    return ServerEntry(
        name=given["name"],
        command=tuple(given["command"]),
        environment=given.get("environment", {}),
        interface=given.get("interface", "reference"),
        workloads=tuple(given.get("workloads", ("*",))),
        version=tuple(given.get("version", ())),
        package=given.get("package"),
        packages=tuple(given.get("packages", ())),
        config=given.get("config"),
    )
