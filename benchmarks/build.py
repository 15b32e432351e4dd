"""What has to be made before measuring: C programs, files to serve, the peers' environment.

All of it goes under build/, which no package takes along. It starts the C compiler and pip,
and nothing that serves.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.catalogue import ServerEntry
from benchmarks.machine import CannotMeasure
from benchmarks.workloads import FILES

SOURCE = Path(__file__).parent / "reference" / "epoll.c"
WEBSOCKET_SOURCE = Path(__file__).parent / "generators" / "websocket.c"
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Wconversion")


def program(
    target: Path,
    source: Path = SOURCE,
    words: Sequence[str] = (),
    others: Iterable[Path] = (),
) -> Path:
    """Compile a C program unless what is there is newer than its source and the other files.

    `words` follow the source on the command line. The compiler is `cc`, or what CC says. Raises
    CannotMeasure with the compiler's words.
    """
    changed = max(path.stat().st_mtime for path in (source, *others))
    if target.exists() and target.stat().st_mtime > changed:
        return target
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        raise CannotMeasure(f"no C compiler {compiler[0]}: install one, or name it in CC")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    ran = subprocess.run(
        [*compiler, *FLAGS, str(source), *words, "-o", str(fresh)],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode != 0:
        raise CannotMeasure(f"{source} does not compile:\n{ran.stderr}")
    fresh.replace(target)
    return target


def files(folder: Path) -> None:
    """Write the files that are asked for, unless they are there in full."""
    for name, content in FILES.items():
        path = folder / "static" / name
        if path.exists() and path.stat().st_size == len(content):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def peers(folder: Path, entries: Iterable[ServerEntry]) -> dict[str, bool]:
    """Make a virtual environment and install each peer into it, one by one.

    Returns which packages could be installed; pip prints why one could not. A peer that
    does not build on this machine leaves the others as they are.
    """
    if not (folder / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    wanted = [(entry.package, *entry.packages) for entry in entries if entry.package is not None]
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install"]
    installed = {}
    for packages in dict.fromkeys(wanted):
        ran = subprocess.run([*pip, *packages], check=False)
        installed[" ".join(packages)] = ran.returncode == 0
    return installed
