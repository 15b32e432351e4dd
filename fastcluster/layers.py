"""What was given where: one layer for the flags, one for the environment, some for the file.

The law: a layer keeps beside each value the name under which somebody gave it, so that a
complaint can name it, and a value that makes no sense is complained of and left out.  It
knows options by the declarations that it is handed, and of their fields only those that
say where to listen.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastcluster.errors import UsageError
from fastcluster.options import Option

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000

Options = tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Given:
    """A value and the name under which somebody gave it."""

    label: str
    value: Any


Layer = dict[str, Given]


def from_flags(options: Options, flags: Mapping[str, object]) -> Layer:
    """Return what the command line gave, by the options' fields; None is not given."""
    return {
        entry.name: Given(entry.flag, flags[entry.name])
        for entry in options
        if flags.get(entry.name) not in (None, (), [])
    }


def from_environ(options: Options, environ: Mapping[str, str]) -> Layer:
    """Return what the variables say, our own before those that platforms have in common."""
    layer: Layer = {}
    if environ.get("WEB_CONCURRENCY"):
        layer["workers"] = Given("WEB_CONCURRENCY", environ["WEB_CONCURRENCY"])
    if environ.get("FORWARDED_ALLOW_IPS"):
        name = "FORWARDED_ALLOW_IPS"
        layer["forwarded_allow_ips"] = Given(name, environ[name])
    for entry in options:
        for key in reversed(entry.keys):
            name = "FASTCLUSTER_" + key.upper()
            value = environ.get(name, "")
            if value and not _is_service_link(name, value):
                layer[entry.name] = Given(name, value)
    return layer


def _is_service_link(name: str, value: str) -> bool:
    # Kubernetes gives every pod FASTCLUSTER_PORT=tcp://10.0.0.1:80 when a service
    # of the namespace is called "fastcluster".
    return name == "FASTCLUSTER_PORT" and "://" in value


def table_of(file: Path) -> dict[str, Any]:
    """Return the options of a file; UsageError if it cannot be read or is no TOML file."""
    import tomllib

    try:
        content: Any = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{file} is not a TOML file: {error}") from error
    if file.name == "pyproject.toml":
        content = content.get("tool", {}).get("fastcluster", {})
    if not isinstance(content, dict):
        raise UsageError(f"{file}: write [tool.fastcluster] and the options below it")
    return content


def read(options: Options, raw: Layer, complaints: list[str]) -> Layer:
    """Turn what was given into values; what makes no sense is left out and complained of."""
    layer: Layer = {}
    for entry in options:
        given = raw.get(entry.name)
        if given is None:
            continue
        try:
            layer[entry.name] = Given(given.label, entry.kind.value_of(given.value))
        except (ValueError, OverflowError):
            complaints.append(entry.kind.complaint(given.label, given.value))
    return layer


def find_file(folder: Path) -> Path | None:
    """Return fastcluster.toml of a folder, or its pyproject.toml if that speaks of us."""
    own = folder / "fastcluster.toml"
    if own.is_file():
        return own
    project = folder / "pyproject.toml"
    if project.is_file() and table_of(project):
        return project
    return None


def misspelt(options: Options, environ: Mapping[str, str], others: Sequence[str]) -> list[str]:
    """Return one sentence for each variable that looks like a misspelt one of ours.

    others: variables of ours that are no options.
    """
    known = set(others)
    known.update(f"FASTCLUSTER_{key.upper()}" for entry in options for key in entry.keys)
    found = []
    for name in sorted(environ):
        if not name.startswith("FASTCLUSTER_") or name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.92)
        if near:
            found.append(f"{name} in the environment is no option: did you mean {near[0]}?")
    return found


# ---- where to listen


def _port_of(environ: Mapping[str, str], complaints: list[str]) -> int | None:
    """Return what platforms such as Heroku say in PORT, or None."""
    text = environ.get("PORT", "")
    if not text:
        return None
    if text.isascii() and text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    complaints.append(f"PORT wants a whole number from 1 to 65535, not {text!r}")
    return None


def addresses(
    layers: list[Layer],
    environ: Mapping[str, str],
    passed: Sequence[int],
    complaints: list[str],
) -> tuple[tuple[str, ...], str]:
    """Merge bind, host, port, uds and fd of all layers, the strongest first, and say who said so.

    The strongest layer that names a whole address decides alone, unless a
    stronger one gave a host or a port.  PORT is asked for a port last, and then
    the platform that set it wants to reach us from outside.  passed: descriptors
    that a service manager has opened, which are asked before it.
    """
    host: Given | None = None
    port: Given | None = None
    for layer in layers:
        whole = [name for name in ("bind", "uds", "fd") if name in layer]
        parts = [name for name in ("host", "port") if name in layer]
        if whole and parts:
            first, second = layer[whole[0]].label, layer[parts[0]].label
            complaints.append(f"{first} and {second} both say where to listen: leave one out")
        if whole and host is None and port is None:
            labels = [layer[name].label for name in whole]
            return _whole_addresses(layer), ", ".join(labels)
        if whole:
            break
        host = layer.get("host") if host is None else host
        port = layer.get("port") if port is None else port
    if host is None and port is None and passed:
        return tuple(f"fd://{fd}" for fd in passed), "LISTEN_FDS"
    platform = _port_of(environ, complaints) if port is None else None
    if host is None:
        host = Given("", DEFAULT_HOST if platform is None else "0.0.0.0")
    if port is None:
        port = Given("PORT" if platform else "", platform or DEFAULT_PORT)
    labels = list(dict.fromkeys(given.label for given in (host, port) if given.label))
    return (_join(host.value, port.value),), ", ".join(labels)


def _whole_addresses(layer: Layer) -> tuple[str, ...]:
    found: list[str] = list(layer["bind"].value) if "bind" in layer else []
    if "uds" in layer:
        found.append(f"unix:{layer['uds'].value.removeprefix('unix:')}")
    if "fd" in layer:
        found.append(f"fd://{layer['fd'].value}")
    return tuple(dict.fromkeys(found))


def _join(host: str, port: int) -> str:
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{host}:{port}"
