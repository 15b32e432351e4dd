"""The process that watches the code while somebody develops, and tells the primary of a save.

It is a process of its own because watchfiles watches by a thread, and the primary, which
forks, may have none.  The law: it says which files changed and nothing else; what follows
is primary.py's affair.  It ends when the primary does, since then its channel reads EOF.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import signal
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

from fastcluster import child_process, proc
from fastcluster.channel import Channel
from fastcluster.child_process import Child, Closable
from fastcluster.config import Config, polling_wanted
from fastcluster.errors import EXIT_OK, UsageError

# What uvicorn watches and leaves out where nobody says anything.
INCLUDED = ("*.py",)
EXCLUDED = (".*", ".py[cod]", ".sw.*", "~*")
# Besides every folder that begins with a dot: no code of the application is in those.
IGNORED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})

# Saves within a step of each other are one, but nobody waits longer than the debounce.
STEP_MS = 20
DEBOUNCE_MS = 200
POLL_MS = 100
# So many paths are told at most; people read one or two.
MOST_TOLD = 20


class Rules:
    """Which folders are watched and which files in them count.

    Patterns are those of uvicorn: globs that match a path from its right, and names of
    folders.  What was asked for by name wins over what is left out by default, and what
    was left out by name over everything.
    """

    def __init__(
        self,
        folders: Iterable[str],
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
    ) -> None:
        self._include = _with_paths(include)
        self._exclude = _with_paths(exclude)
        roots = [os.path.realpath(folder) for folder in folders]
        for pattern in filter(os.path.isabs, self._include):
            if os.path.isdir(pattern):
                roots.append(pattern)
            elif os.path.isfile(pattern):
                roots.append(os.path.dirname(pattern))
        self.roots = _outermost(roots)

    def counts(self, path: str) -> bool:
        """Tell whether a change of that file means something."""
        inner = self._inner(path)
        if any(_matches(inner, pattern) for pattern in self._exclude):
            return False
        *folders, file = inner
        if any(part.name in IGNORED_FOLDERS or part.name.startswith(".") for part in folders):
            return False
        if any(file.match(pattern) for pattern in self._include):
            return True
        if any(file.match(pattern) for pattern in EXCLUDED):
            return False
        if "*.py" in self._exclude:
            return False
        return any(file.match(pattern) for pattern in INCLUDED)

    def _inner(self, path: str) -> list[PurePath]:
        """Return the path and the folders it is in, below the watched one, outermost first."""
        whole = PurePath(path)
        root = next((root for root in self.roots if whole.is_relative_to(root)), "")
        return [*reversed([up for up in whole.parents if up.is_relative_to(root)][:-1]), whole]


def _with_paths(patterns: Iterable[str]) -> list[str]:
    """Return the patterns, and the whole paths of those that name something that there is."""
    given = list(patterns)
    paths = [os.path.realpath(pattern) for pattern in given if os.path.exists(pattern)]
    return [*given, *paths]


def _matches(inner: Sequence[PurePath], pattern: str) -> bool:
    return any(part.match(pattern) or str(part) == pattern for part in inner)


def _outermost(roots: Sequence[str]) -> list[str]:
    """Return the folders without those that lie in another one."""
    kept: list[str] = []
    for root in sorted(set(roots)):
        if not any(PurePath(root).is_relative_to(other) for other in kept):
            kept.append(root)
    return kept


def rules_of(config: Config) -> Rules:
    """Return what a configuration wants watched.  Raises UsageError for a missing folder."""
    folders = config.reload_dir or (".", config.app_dir)
    for folder in folders:
        if not os.path.isdir(folder):
            raise UsageError(f"--reload-dir: there is no folder {folder!r}")
    return Rules(folders, config.reload_include, config.reload_exclude)


def check(config: Config) -> None:
    """Raise UsageError if --reload cannot watch: watchfiles is missing, or a folder is."""
    if config.preload:
        raise UsageError(
            "--reload and --preload are for different machines, the one on which code changes "
            "and the one on which it does not: leave one of them out"
        )
    if importlib.util.find_spec("watchfiles") is None:
        raise UsageError(
            "--reload needs watchfiles, which is not installed: "
            "pip install 'fastcluster-server[reload]'"
        )
    rules_of(config)


# ---- the primary's side


class Watcher:
    """The watching process as the primary sees it.  Raises OSError if it cannot be forked.

    close: what the process must not keep of the primary, above all its listeners.
    """

    def __init__(self, config: Config, close: Iterable[Closable]) -> None:
        rules = rules_of(config)
        self.child: Child = child_process.spawn(
            lambda channel: watch(rules, channel, config.app or "app"), close=close
        )
        self.is_gone = False

    @property
    def channel(self) -> Channel:
        """Where it talks; a worker must not keep a copy."""
        return self.child.channel

    def fileno(self) -> int:
        """Return the descriptor that is readable when it has something to say."""
        return self.child.channel.fileno()

    def hear(self) -> list[dict[str, Any]]:
        """Return what it said: {"watching": folders}, {"changed": paths}, {"trouble": why}."""
        said = [message for message, _ in self.child.channel.receive()]
        self.is_gone = self.child.channel.eof
        return [message for message in said if isinstance(message, dict)]

    def close(self) -> None:
        """Let it end."""
        self.child.channel.close()


# ---- the process itself


def watch(rules: Rules, channel: Channel, app: str) -> int:
    """Watch until the primary is gone; the life of the process, from the fork to its exit code."""
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
        # They are sent to the whole group now and then, and mean the primary.
        signal.signal(number, signal.SIG_IGN)
    child_process.accept_signals()
    proc.set_title(f"fastcluster: watcher [{app}]")
    threading.Thread(target=_leave_with_primary, args=(channel.fileno(),), daemon=True).start()
    notify = _notify_of(rules.roots, channel)
    channel.send({"watching": rules.roots})
    while True:
        changes = notify.watch(DEBOUNCE_MS, STEP_MS, 0, None)
        if not isinstance(changes, set):
            return EXIT_OK  # a signal
        paths = sorted({path for _, path in changes if rules.counts(path)})
        if paths:
            forget_bytecode(paths)
            channel.send({"changed": paths[:MOST_TOLD]})


def _notify_of(roots: Sequence[str], channel: Channel) -> Any:
    from watchfiles._rust_notify import RustNotify

    def notify(is_polling: bool) -> Any:
        # Not its watch(), which does not tell when it has begun.
        return RustNotify(list(roots), False, is_polling, POLL_MS, True, True)

    if not polling_wanted():
        try:
            return notify(False)
        except OSError as error:
            # Most often the limit of inotify watches, which all programs of a user share.
            channel.send({"trouble": f"the kernel does not watch ({error}): files are polled"})
    return notify(True)


def _leave_with_primary(fd: int) -> None:
    # The primary never speaks to us: readable means EOF.
    select.select([fd], [], [])
    os._exit(EXIT_OK)


def forget_bytecode(paths: Iterable[str]) -> None:
    """Remove what Python has compiled from those files.

    It knows a source by its size and its second, so that a save within the second of
    another, of as many characters, would be taken for no change.
    """
    for path in paths:
        if path.endswith(".py"):
            with contextlib.suppress(OSError, NotImplementedError):
                Path(importlib.util.cache_from_source(path)).unlink()
