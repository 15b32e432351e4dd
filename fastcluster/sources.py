"""All sources of options merged: flags over the environment over the tables of the file.

The law: of every option the strongest source that names it has the say, and all that is
wrong, in whatever source, is told at once.  It knows which sources there are; layers.py and
tables.py read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fastcluster import layers, tables
from fastcluster.errors import UsageError
from fastcluster.layers import Given, Layer, Options


def gather(
    options: Options,
    spellings: Options,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    file: Path | None,
    table: str | None,
    passed: Sequence[int],
    environments: Sequence[str],
) -> dict[str, Given]:
    """Return the values of the options that somebody named, by field, and who did.

    spellings: the options and other ways to say where to listen.  table: the app of the
    file that is meant.  passed: descriptors that a service manager opened.  environments:
    names that need no profile.  Raises UsageError with all that is wrong.
    """
    complaints: list[str] = []
    written = tables.read(file, complaints)
    tables.choose(written, table)
    written.check(spellings, complaints)
    given = [layers.from_flags(spellings, flags), layers.from_environ(spellings, environ)]
    env = _environment_of([*given, *written.plain(spellings, table)])
    known = list(dict.fromkeys([*environments, *written.environments(table)]))
    if env.value not in known:
        complaints.append(f"{env.label} wants one of {', '.join(known)}, not {env.value!r}")
    read = [
        layers.read(spellings, layer, complaints)
        for layer in [*given, *written.all(spellings, table, str(env.value))]
    ]
    chosen = {
        entry.name: layer[entry.name]
        for entry in options
        for layer in reversed(read)
        if entry.name in layer
    }
    chosen["env"] = env
    if table is not None:
        chosen.setdefault("name", Given(f"apps.{table} in {written.name}", table))
    bind, who = layers.addresses(read, environ, passed, complaints)
    chosen["bind"] = Given(who, bind)
    if complaints:
        raise UsageError("; ".join(dict.fromkeys(complaints)))
    return chosen


def _environment_of(raw: Sequence[Layer]) -> Given:
    """Return the name of the environment, which the profiles wait for."""
    for layer in raw:
        if "env" in layer:
            given = layer["env"]
            value = given.value
            return Given(given.label, value.strip().lower() if isinstance(value, str) else value)
    for layer in raw:
        # Nobody else serves with --reload.
        if "reload" in layer and str(layer["reload"].value).lower() in ("true", "1", "yes", "on"):
            return Given(layer["reload"].label, "development")
    return Given("", "production")
