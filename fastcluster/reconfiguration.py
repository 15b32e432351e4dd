"""What a reload may change of a running server's configuration, and what it says of the rest.

The law: what the primary has opened or become before its first fork stays, whatever is
written now; everything else is the new workers'.  It reads nothing: cli.py does that anew.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from fastcluster.config import OPTIONS, Config

# Sockets, files, names and identities: opened, taken or checked once, at the start.
FIXED = (
    "bind",
    "backlog",
    "uds_permissions",
    "user",
    "group",
    "umask",
    "pid_file",
    "name",
    "control",
    "max_workers",
    "log_file",
    "access_log_file",
    "metrics",
    "dashboard",
    "dashboard_token",
    "statsd",
    "statsd_prefix",
    "statsd_every_s",
    "preload",
    "reload",
    "reload_dir",
    "reload_include",
    "reload_exclude",
)


def adopt(old: Config, new: Config) -> tuple[Config, list[str], list[str]]:
    """Return what a running server goes on with, what changes, and what would but cannot.

    The changes are words such as "--threads from 0 to 8", the others flags.  As many
    workers as the scoreboard of the first start has room for may be wanted.
    """
    # Both are told as people gave them; the primary has put in the number that 0 means.
    stays = [
        entry.flag for entry in OPTIONS if entry.name in FIXED and _differs(entry.name, old, new)
    ]
    kept: dict[str, Any] = {name: getattr(old, name) for name in FIXED}
    workers = min(new.n_workers, old.most_workers)
    if workers < new.n_workers:
        stays.append(f"--workers above {old.most_workers}")
    # The most that there may be follows from the workers, too, unless it is said.
    kept["max_workers"] = old.most_workers
    adopted = dataclasses.replace(new, **{**kept, "workers": workers})
    changed = [
        (entry.flag, getattr(old, entry.name), getattr(adopted, entry.name))
        for entry in OPTIONS
        if entry.name not in FIXED and _differs(entry.name, old, adopted)
    ]
    changes = [f"{flag} from {_shown(was)} to {_shown(now)}" for flag, was, now in changed]
    return adopted, changes, stays


def _differs(name: str, old: Config, new: Config) -> bool:
    if name == "max_workers":
        # Ours says what it came to; nobody asked for that.
        return new.max_workers not in (0, old.most_workers)
    return bool(getattr(old, name) != getattr(new, name))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
