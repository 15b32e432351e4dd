"""The commands that ask a running server: status, reload, scale, restart, drain, upgrade, stop,
top and ps.

The law: each prints what it was told, as a table for people or, with --json, as the server
said it, and fails with what the server refused.  Printing is handed in by cli.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from fastcluster.errors import UsageError

Say = Callable[[str], None]


def commands(say: Say) -> list[click.Command]:
    """Return the commands; say: prints a text on stdout."""
    return [
        _command(
            "status",
            "Show a running server and its workers.",
            lambda target, as_json: _status(say, target, as_json),
            _name_argument(),
        ),
        _command(
            "reload",
            "Replace all workers, and wait until the new ones serve. Fails with the "
            "application's error, and the old workers stay, if the new code does not come up.",
            lambda target, as_json: _wait_for(say, target, as_json, "reload"),
            _name_argument(),
        ),
        _command(
            "scale",
            "Have so many workers from now on.",
            lambda target, as_json, workers: _scale(say, target, as_json, workers),
            click.Argument(["workers"], type=click.IntRange(min=1), metavar="WORKERS"),
        ),
        _command(
            "restart",
            "Replace one worker, by its number, and wait until its successor serves.",
            lambda target, as_json, worker: _wait_for(
                say, target, as_json, "restart", worker=worker
            ),
            click.Argument(["worker"], type=click.IntRange(min=0), metavar="WORKER"),
        ),
        _command(
            "drain",
            "Let all workers, or one, finish what they do and leave, and wait for that. No new "
            "ones come until a reload, a restart or a scale: connections wait meanwhile.",
            lambda target, as_json, worker: _wait_for(
                say, target, as_json, "drain", **({} if worker is None else {"worker": worker})
            ),
            click.Argument(
                ["worker"], type=click.IntRange(min=0), metavar="[WORKER]", required=False
            ),
        ),
        _command(
            "upgrade",
            "Have a new primary take over, by the same command line: a new fastcluster, Python or "
            "configuration. Waits until its workers serve. Fails with the error, and the old "
            "primary serves on, if it does not come up.",
            lambda target, as_json: _wait_for(say, target, as_json, "upgrade"),
        ),
        _command(
            "stop",
            "Stop a server and wait for its end; running requests finish.",
            lambda target, as_json, now: _stop(say, target, as_json, now),
            _name_argument(),
            click.Option(["--now"], is_flag=True, help="Cut off what runs."),
        ),
        _command(
            "top",
            "Watch a running server, second by second; keys reload, scale and restart. "
            "Prints one table where the output is no terminal.",
            lambda target, as_json, interval: _top(say, target, as_json, interval),
            click.Option(
                ["--interval"],
                type=click.FloatRange(0.1, 3600),
                default=1.0,
                metavar="SECONDS",
                help="How often to look. [1]",
            ),
        ),
        click.Command(
            "ps",
            params=[_json_option()],
            callback=lambda as_json: _ps(say, as_json),
            help="List the running servers of this user.",
        ),
    ]


def _command(
    name: str, words: str, run: Callable[..., None], *parameters: click.Parameter
) -> click.Command:
    """Return a command about one server, which is found by its name."""

    def callback(
        server: str | None, socket_path: str | None, named: str | None = None, **given: Any
    ) -> None:
        # Only now: they bring sockets and HTTP, which --help does without.
        from fastcluster import control_client

        if named is not None and server not in (None, named):
            raise UsageError(f"{named} and --name {server} are two servers: leave one out")
        run(control_client.find(named or server, socket_path), **given)

    return click.Command(
        name,
        params=[
            *parameters,
            click.Option(
                ["server", "--name"],
                metavar="NAME",
                help="The server's name. [the only one that runs]",
            ),
            click.Option(
                ["socket_path", "--socket"],
                metavar="PATH",
                help="Its control socket, as root may use that of another user.",
            ),
            _json_option(),
        ],
        callback=callback,
        short_help=words.partition(". ")[0].removesuffix(".") + ".",
        help=words,
    )


def _name_argument() -> click.Argument:
    return click.Argument(["named"], required=False, metavar="[NAME]")


def _json_option() -> click.Option:
    return click.Option(["as_json", "--json"], is_flag=True, help="Print JSON.")


# ---- what they do


def _status(say: Say, target: Any, as_json: bool) -> None:
    from fastcluster import control_client

    status = control_client.ask(target, "status")
    say(_as_json(status) if as_json else described(status))


def _top(say: Say, target: Any, as_json: bool, interval: float) -> None:
    from fastcluster import top

    top.run(target, say, table, every_s=interval, as_json=as_json)


def _scale(say: Say, target: Any, as_json: bool, workers: int) -> None:
    from fastcluster import control_client

    status = control_client.ask(target, "scale", workers=workers)
    say(_as_json(status) if as_json else f"{target.name}: {status['wanted']} workers wanted")


def _wait_for(say: Say, target: Any, as_json: bool, what: str, **parameters: int) -> None:
    from fastcluster import control_client

    answer = control_client.ask(target, what, None, **parameters)
    say(_as_json(answer) if as_json else f"{target.name}: {answer['done']} done")


def _stop(say: Say, target: Any, as_json: bool, now: bool) -> None:
    from fastcluster import control_client

    control_client.stop(target, at_once=now)
    say(_as_json({"stopped": True}) if as_json else f"{target.name}: stopped")


def _ps(say: Say, as_json: bool) -> None:
    from fastcluster import control_client

    found = control_client.ps()
    if as_json:
        say(_as_json(found))
        return
    rows = [["NAME", "PID", "STATE", "WORKERS", "AGE", "ADDRESSES"]]
    for status in found:
        workers = status.get("workers", [])
        ready = sum(worker["state"] == "ready" for worker in workers)
        rows.append(
            [
                status["name"],
                str(status.get("pid", "?")),
                status["state"],
                f"{ready}/{status.get('wanted', '?')}",
                age(status.get("age_s", 0)),
                " ".join(status.get("urls", [])),
            ]
        )
    say("\n".join(table(rows)))


# ---- how it looks


def _as_json(value: object) -> str:
    return json.dumps(value, indent=2)


def described(status: dict[str, Any]) -> str:
    """Return a server's status for people: who it is, and a line for each worker."""
    workers = status["workers"]
    ready = sum(worker["state"] == "ready" for worker in workers)
    rows = [["WORKER", "PID", "STATE", "AGE", "RESTARTS", "OPEN", "RUNNING", "REQUESTS", "RSS", ""]]
    rows += [
        [
            str(worker["number"]),
            str(worker["pid"]),
            worker["state"],
            age(worker["age_s"]),
            str(worker["restarts"]),
            str(worker["connections"]),
            str(worker["running"]),
            str(worker["requests"]),
            f"{worker['rss_bytes'] / (1 << 20):.0f}M",
            _request(worker["request"]),
        ]
        for worker in workers
    ]
    return "\n".join(
        [
            f"{status['name']}: {status['state']}, {ready} of {status['wanted']} workers ready, "
            f"primary {status['pid']}, up {age(status['age_s'])}, fastcluster {status['version']}",
            *(f"listening on {url}" for url in status["urls"]),
            "",
            *table(rows),
        ]
    )


def _request(request: dict[str, Any] | None) -> str:
    if request is None:
        return ""
    # What a client sent may hold what would move the terminal's cursor.
    line = "".join(char if char.isprintable() else "?" for char in request["line"])
    return f"{line} for {request['age_s']:.1f} s"


def age(seconds: float) -> str:
    """Return a duration in its two largest units: "42s", "3m 5s", "2h 0m", "9d 4h"."""
    left = int(seconds)
    if left < 60:
        return f"{left}s"
    if left < 3600:
        return f"{left // 60}m {left % 60}s"
    if left < 86400:
        return f"{left // 3600}h {left % 3600 // 60}m"
    return f"{left // 86400}d {left % 86400 // 3600}h"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with the columns under each other."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
