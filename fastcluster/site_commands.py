"""The commands about a site's file with options: config, which shows it, and start.

The law: a mistake in the file is told before anything is started.  Printing, and how words
become a configuration, are handed in by cli.py.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from fastcluster import config
from fastcluster.config import Config, Explained
from fastcluster.errors import EXIT_OK, UsageError

Say = Callable[[str], None]


def commands(
    say: Say, note: Say, parameters: Sequence[click.Parameter], explain: Callable[..., Explained]
) -> list[click.Command]:
    """Return the commands.

    say: prints a text on stdout, note: for people alone.  parameters: those of serve, and
    explain: makes a configuration of what was given for them.
    """
    return [
        click.Command(
            "config",
            params=[
                *parameters,
                click.Option(["as_json", "--json"], is_flag=True, help="Print JSON."),
            ],
            callback=lambda as_json, **given: _config(say, note, as_json, explain(**given)),
            short_help="Show every option, its value, and where that comes from.",
            help=(
                "Show what `fastcluster serve` with the same words would do: every option, its "
                "value, and who has said so. What it prints is a fastcluster.toml, too."
            ),
            context_settings={"max_content_width": 100},
        ),
        click.Command(
            "start",
            params=[
                click.Argument(["names"], nargs=-1, metavar="[NAME]...", type=click.UNPROCESSED),
                click.Option(
                    ["config_file", "-c", "--config"],
                    type=click.UNPROCESSED,
                    metavar="FILE",
                    help="The file. [fastcluster.toml, or pyproject.toml]",
                ),
                click.Option(
                    ["env", "--env"],
                    type=click.UNPROCESSED,
                    metavar="NAME",
                    help="The environment of all of them.",
                ),
            ],
            callback=_start,
            short_help="Serve the apps of a file, each by a server of its own.",
            help=(
                "Serve the apps of a file, all of them or those that are named: for each table "
                "[apps.NAME] a server of its own, with the options of that table on top of the "
                "rest. This process stays in the foreground and hands signals on; `fastcluster ps` "
                "shows them, and `fastcluster reload NAME` and the others ask one of them."
            ),
        ),
    ]


def _config(say: Say, note: Say, as_json: bool, explained: Explained) -> int:
    from fastcluster import config_report

    for sentence in config.misspelt():
        note(sentence)
    say((config_report.as_json if as_json else config_report.as_text)(explained))
    return EXIT_OK


def _start(names: tuple[str, ...], config_file: str | None, env: str | None) -> int:
    import logging

    from fastcluster import control_client, ecosystem, log

    file = config.find(config_file)
    there = config.apps_of(file)
    if file is None or not there:
        raise UsageError(
            f"{file or 'this folder'} has no apps: write [apps.NAME] into fastcluster.toml, "
            "and the app's options below it"
        )
    chosen = list(dict.fromkeys(names)) or there
    settings = {n: config.explain({"env": env}, None, file, n).config for n in chosen}
    _look_at_apps(list(settings.values()))
    words = [sys.executable, "-P", "-m", "fastcluster", "serve", "--config", str(file)]
    if env is not None:
        words += ["--env", env]
    environ = config.environ_of_app()
    log.set_up("info", "start")
    apps = [
        ecosystem.App(
            name,
            [*words, "--table", name],
            environ,
            functools.partial(control_client.pid_of, settings[name].name or name),
        )
        for name in chosen
    ]
    return ecosystem.run(apps, logging.getLogger(log.NAME))


def _look_at_apps(all_settings: list[Config]) -> None:
    """Raise UsageError if two apps want the same address or the same name."""
    for what in ("name", "pid_file"):
        values: list[Any] = [getattr(settings, what) for settings in all_settings]
        _must_differ(f"--{what.replace('_', '-')}", values)
    _must_differ("--bind", [one for settings in all_settings for one in settings.bind])


def _must_differ(flag: str, values: Sequence[str | None]) -> None:
    given = [value for value in values if value is not None and not value.endswith(":0")]
    for value in given:
        if given.count(value) > 1:
            raise UsageError(f"two apps have the same {flag} ({value}): give each one of its own")
