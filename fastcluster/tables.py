"""The tables of a file with options: what all share, profiles of environments, and apps.

    workers = 4                     # for everybody
    [env.production]                # with --env production
    [apps.api]                      # with --table api, as `fastcluster start` serves it
    [apps.api.env.production]

The law: the further down in this list, the stronger; every table is searched for keys that
are no options, also those that are not asked for now.  It knows no option by name but env.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastcluster import layers
from fastcluster.errors import UsageError
from fastcluster.layers import Given, Layer, Options
from fastcluster.options import is_name

ENV, APPS = "env", "apps"

Table = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tables:
    """A file's tables; name: the file's own, as people are told of it."""

    name: str = ""
    top: Table = field(default_factory=dict)
    apps: dict[str, Table] = field(default_factory=dict)

    def check(self, options: Options, complaints: list[str]) -> None:
        """Complain of every key, in every table, that is no option."""
        known = {key for entry in options for key in entry.keys}
        flags = [entry.flag[2:] for entry in options]
        for place, table, is_profile in self._all():
            for key in table:
                name = f"{self.name} has {place + key!r}"
                if is_profile and key == ENV:
                    complaints.append(f"{name}: a profile cannot choose another environment")
                elif key.replace("-", "_") not in known:
                    words = flags if place else [*flags, APPS]
                    complaints.append(f"{name}, which is no option{did_you_mean(key, words)}")
        for owner in (self.top, *self.apps.values()):
            found = owner.get(ENV)
            if isinstance(found, dict) and not all(isinstance(v, dict) for v in found.values()):
                complaints.append(f"{self.name}: write [{ENV}.NAME] and the options below it")

    def plain(self, options: Options, app: str | None) -> list[Layer]:
        """Return what the file says for every environment, the strongest first."""
        found = [self._layer(options, f"{APPS}.{app}.", self.apps[app])] if app else []
        return [*found, self._layer(options, "", self.top)]

    def all(self, options: Options, app: str | None, env: str) -> list[Layer]:
        """Return what the file says for an app and an environment, the strongest first."""
        found = []
        if app:
            own, place = self.apps[app], f"{APPS}.{app}."
            found.append(self._layer(options, f"{place}{ENV}.{env}.", profiles(own).get(env, {})))
            found.append(self._layer(options, place, own))
        found.append(self._layer(options, f"{ENV}.{env}.", profiles(self.top).get(env, {})))
        found.append(self._layer(options, "", self.top))
        return found

    def environments(self, app: str | None) -> list[str]:
        """Return the names of the profiles that there are for an app."""
        own = profiles(self.apps[app]) if app else {}
        return list(dict.fromkeys([*profiles(self.top), *own]))

    def _layer(self, options: Options, place: str, table: Mapping[str, Any]) -> Layer:
        known = {key: entry for entry in options for key in entry.keys}
        layer: Layer = {}
        for key, value in table.items():
            entry = known.get(key.replace("-", "_"))
            if entry is not None and not _is_profiles(key, value):
                layer[entry.name] = Given(f"{place}{key} in {self.name}", value)
        return layer

    def _all(self) -> Iterator[tuple[str, Table, bool]]:
        """Go through all tables: what stands before their keys, themselves, whether profiles."""
        owners = [("", self.top), *((f"{APPS}.{name}.", app) for name, app in self.apps.items())]
        for place, owner in owners:
            yield place, {key: v for key, v in owner.items() if not _is_profiles(key, v)}, False
            for env, profile in profiles(owner).items():
                yield f"{place}{ENV}.{env}.", profile, True


def read(file: Path | None, complaints: list[str]) -> Tables:
    """Return the tables of a file, none for None; UsageError if it cannot be read."""
    if file is None:
        return Tables()
    top = dict(layers.table_of(file))
    apps = top.pop(APPS, {})
    for name, app in list(apps.items() if isinstance(apps, dict) else [("", apps)]):
        if not isinstance(app, dict) or not is_name(name):
            complaints.append(f"{file.name}: write [{APPS}.NAME] and the options below it")
            apps = {}
            break
    return Tables(file.name, top, apps)


def profiles(table: Mapping[str, Any]) -> dict[str, Table]:
    """Return the profiles of a table by the names of their environments."""
    found = table.get(ENV)
    if not isinstance(found, dict):
        return {}
    return {name: profile for name, profile in found.items() if isinstance(profile, dict)}


def _is_profiles(key: str, value: object) -> bool:
    return key == ENV and isinstance(value, dict)


def choose(tables: Tables, app: str | None) -> None:
    """Raise UsageError unless the file has the app."""
    if app is None or app in tables.apps:
        return
    if not tables.apps:
        where = tables.name or "fastcluster.toml"
        raise UsageError(f"{where} has no apps: write [{APPS}.{app}] and its options below it")
    hint = did_you_mean(app, list(tables.apps), f": it has {', '.join(tables.apps)}")
    raise UsageError(f"{tables.name} has no app {app!r}{hint}")


def did_you_mean(word: str, words: list[str], otherwise: str = ": take it out") -> str:
    """Return how to mend a name: the nearest one, if any is near."""
    near = difflib.get_close_matches(word, words, n=1)
    return f": did you mean {near[0]!r}?" if near else otherwise
