"""A web server for Python with a C core and the programming model of Node's cluster."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastcluster.app import App as App
    from fastcluster.config import Config as Config
    from fastcluster.embedded import Server as Server

    env: str

__version__ = "0.1.0"

# Imported when they are first asked for: every worker imports this file, and few need them.
_LAZY = {
    "App": "fastcluster.app",
    "Config": "fastcluster.config",
    "Server": "fastcluster.embedded",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    import importlib

    if name == "env":
        # Asked anew each time: the command decides after this module was imported.
        return importlib.import_module("fastcluster.config").environment()
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "env"})
