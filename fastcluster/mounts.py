"""Several applications in one server: from "/api=api:app /=site:app" to what runs them.

The law: whatever is wrong with a spec ends as one sentence that names the mend, before
anything listens.  Who gets which request is the affair of mounting.pyx, what an
application is, of apps.py and adapters.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fastcluster import apps
from fastcluster.config import Config
from fastcluster.errors import AppLoadError, UsageError

if TYPE_CHECKING:
    from fastcluster.exchange import Handler

HOW = "write PATH=MODULE:NAME, such as /api=api:app"


class Spec(NamedTuple):
    """What is mounted where.  prefix: "" for the root.  factory: it makes the application."""

    prefix: str
    app: str
    factory: bool


def is_spec(text: str) -> bool:
    """Tell whether what names the application names mounts: words that begin with a slash."""
    return text.startswith("/") or " " in text.strip()


def read(text: str) -> list[Spec]:
    """Return the mounts that are named, in their order.  Raises UsageError."""
    found: list[Spec] = []
    for word in text.split():
        path, equals, app = word.partition("=")
        if not path.startswith("/"):
            raise UsageError(f"{word!r} is mounted nowhere: where there are several, {HOW}")
        if not equals or not app:
            raise UsageError(f"{word!r} says no application: {HOW}")
        prefix = path.rstrip("/")
        if "//" in path or re.search(r"[?#%]|/\.\.?(/|$)", path):
            raise UsageError(
                f"{path!r} is no path to mount at: leave out //, ., .., ?, # and %-escapes"
            )
        if any(other.prefix == prefix for other in found):
            raise UsageError(f"two applications are mounted at {prefix or '/'}: leave one out")
        factory = app.endswith("()")
        found.append(Spec(prefix, app.removesuffix("()"), factory))
    return found


def check(config: Config) -> None:
    """Raise what can be seen to be wrong without running any code of the applications.

    --interface and --factory are each application's own to say.  Raises UsageError and
    AppLoadError.
    """
    assert config.app is not None
    specs = read(config.app)
    if config.factory:
        raise UsageError("--factory is for one application: write /api=api:create_app() instead")
    if config.interface != "auto":
        raise UsageError(
            f"--interface {config.interface} is for one application: leave it out where several "
            "are mounted"
        )
    for spec in specs:
        apps.check(spec.app, config.app_dir)


def load(config: Config) -> list[Any]:
    """Load all applications, which check() has seen.  Raises AppLoadError."""
    assert config.app is not None
    return [apps.load(spec.app, config.app_dir, spec.factory) for spec in read(config.app)]


def handler_of(loaded: Sequence[Any], config: Config) -> Handler:
    """Return what runs the applications that load() has loaded.  Raises AppLoadError."""
    from fastcluster.adapters import handler_for
    from fastcluster.mounting import AsyncMountHandler, MountHandler

    assert config.app is not None
    handlers: list[tuple[str, Handler]] = []
    for spec, app in zip(read(config.app), loaded, strict=True):
        try:
            handlers.append((spec.prefix, handler_for(app, config)))
        except AppLoadError as error:
            where = f"mounted at {spec.prefix or '/'}, {spec.app}: "
            raise AppLoadError(where + error.message, error.detail) from error
    is_async = any(hasattr(handler, "attach") for _, handler in handlers)
    kind = AsyncMountHandler if is_async else MountHandler
    return kind(handlers, config)
