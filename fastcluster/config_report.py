"""What `fastcluster config` prints: every option, its value, and who has said so.

The law: the text is a TOML file that gives the same configuration again but for secrets, which
are not shown, the origins being its comments; the JSON has the same.  It prints nothing itself.
"""

from __future__ import annotations

import json
from typing import Any

from fastcluster.config import OPTIONS, Explained
from fastcluster.options import Option

DEFAULT = "default"
_OCTAL = ("umask", "uds_permissions")
# Not for whoever reads over a shoulder, or a bug report.
_SECRET = ("token", "password", "secret")


def as_text(explained: Explained) -> str:
    """Return the report for people."""
    head = [f"# environment {explained.config.env}"]
    head.append(f"# file {explained.file}" if explained.file else "# no file")
    rows = [(_line(entry, explained), origin(entry, explained)) for entry in OPTIONS]
    width = min(48, max(len(line) for line, _ in rows))
    return "\n".join([*head, "", *(f"{line:{width}}  # {source}" for line, source in rows)])


def as_json(explained: Explained) -> str:
    """Return the report for programs; values are those of the configuration."""
    options = {
        entry.flag[2:]: {
            "value": _hidden(entry, getattr(explained.config, entry.name)),
            "from": origin(entry, explained),
        }
        for entry in OPTIONS
    }
    report = {
        "environment": explained.config.env,
        "file": str(explained.file) if explained.file else None,
        "options": options,
    }
    return json.dumps(report, indent=2)


def origin(entry: Option, explained: Explained) -> str:
    """Return who has said what an option is."""
    source = explained.origins.get(entry.name, DEFAULT)
    # The one that is given without its flag.
    return "APP" if source == "--app" else source


def _line(entry: Option, explained: Explained) -> str:
    value = getattr(explained.config, entry.name)
    key = entry.flag[2:]
    if value is None or value == ():
        return f"# {key}: not set"
    if entry.name == "max_workers" and value == 0:
        return f"# {key}: not set"
    if _is_secret(entry) and value:
        return f"# {key}: set, and not shown"
    return f"{key} = {_toml(entry, value)}"


def _hidden(entry: Option, value: Any) -> Any:
    return "…" if _is_secret(entry) and value else value


def _is_secret(entry: Option) -> bool:
    return any(entry.name.endswith(word) for word in _SECRET)


def _toml(entry: Option, value: Any) -> str:
    if entry.name == "workers" and value == 0:
        return '"auto"'
    if entry.name in _OCTAL:
        return f'"{value:03o}"'
    if isinstance(value, float):
        return f"{value:g}"
    # JSON's strings, numbers, truths and lists are TOML's.
    return json.dumps(value, ensure_ascii=False)
