"""The main program of this process, and running it from its top.

A script, a module that was started by `python -m`, and what `fastcluster run` starts are
all the same to it: some code that becomes the module __main__.  It knows no processes.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import Any

from fastcluster.errors import UsageError


def run_script(path: str, arguments: Sequence[str]) -> None:
    """Run a script as `python path arguments...` would, and a module for the path "-m".

    Raises UsageError if it is not there.
    """
    if path == "-m":
        _run_module(arguments)
        return
    if not os.path.isfile(path):
        raise UsageError(f"there is no script {path}: give the path of a Python file")
    path = os.path.abspath(path)
    sys.argv[:] = [path, *arguments]
    sys.path.insert(0, os.path.dirname(path))
    _run(_source(path), {"__file__": path, "__spec__": None})


def _run_module(words: Sequence[str]) -> None:
    if not words:
        raise UsageError("there is no module to run: write fastcluster run -m NAME")
    if "" not in sys.path:
        sys.path.insert(0, "")
    name = words[0]
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.loader is None or spec.origin is None:
        raise UsageError(f"there is no module {name} that could run: look at its name and sys.path")
    sys.argv[:] = [spec.origin, *words[1:]]
    _run_spec(spec)


def _run_spec(spec: ModuleSpec) -> None:
    loader: Any = spec.loader
    names = {"__spec__": spec, "__package__": spec.parent, "__file__": spec.origin}
    _run(loader.get_code(spec.name), {**names, "__loader__": loader})


def run_again() -> None:
    """Run the main program of this process from its top, in a fresh module __main__.

    Raises RuntimeError if there is no program that could run again, as at a prompt.
    """
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    path = getattr(main, "__file__", None)
    if spec is not None and spec.loader is not None:
        _run_spec(spec)
    elif path is not None:
        _run(_source(path), {"__file__": path, "__spec__": None})


def require_one() -> None:
    """Raise RuntimeError if the main program cannot run again: a prompt, or `python -c`."""
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is None and getattr(main, "__file__", None) is None:
        raise RuntimeError(
            "cluster.fork() runs the main program again and there is none here: "
            "put it into a file and start that"
        )


def _source(path: str) -> types.CodeType:
    with open(path, "rb") as file:
        return compile(file.read(), path, "exec")


def _run(code: types.CodeType | None, names: dict[str, Any]) -> None:
    if code is None:
        raise RuntimeError("the main program has no code that could run")
    module = types.ModuleType("__main__")
    module.__dict__.update(names)
    sys.modules["__main__"] = module
    exec(code, module.__dict__)
