"""The command ``fastcluster``: words in, one configuration out, and its exit code.

The law: only this file prints for people and ends the process, an error is one
line on stderr that starts with "fastcluster: ", and options are those of
config.OPTIONS, so none is named here but for the spellings that other servers
have for it.  It knows nothing of HTTP, nor of how workers live.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastcluster import config, control_commands, site_commands
from fastcluster.errors import (
    EXIT_OK,
    EXIT_UNEXPECTED,
    EXIT_USAGE,
    FastclusterError,
    UsageError,
)

if TYPE_CHECKING:
    from fastcluster.config import Config
    from fastcluster.options import Option
    from fastcluster.pid_file import PidFile
    from fastcluster.sockets import ListeningSocket
    from fastcluster.upgrade import Command, Legacy

NAME = "fastcluster"
WELCOME = "fastcluster.welcome:handler"

# ---- how the command lines of others move over

# Spellings that mean the same there as here; accepted and not shown.
ALIASES = {
    "app_dir": ("--pythonpath",),
    "chdir": ("--working-dir",),
    "root_path": ("--url-path-prefix",),
    "threads": ("--blocking-threads",),
    "lifespan": ("--asgi-lifespan",),
    "loop": ("--asgi-loop",),
    "limit_request_field_bytes": ("--limit-request-field_size",),
    "limit_request_body_bytes": ("--limit-body",),
    "timeout_keep_alive_s": ("--keep-alive",),
    "timeout_head_s": ("--timeout-header",),
    "timeout_write_s": ("--timeout-send",),
    "pid_file": ("--pid",),
    "log_file": ("--error-logfile",),
    "access_log_file": ("--access-logfile",),
    "reload_dir": ("--reload-paths",),
    "reload_include": ("--reload-extra-file",),
    "reload_exclude": ("--reload-ignore-patterns",),
    "env_file": ("--env-files",),
    "access_log_format": ("--access-logformat",),
    "max_requests": ("--limit-max-requests",),
    "max_requests_jitter": ("--limit-max-requests-jitter",),
    "max_worker_lifetime_s": ("--workers-lifetime",),
    "max_worker_rss_bytes": ("--workers-max-rss",),
    "timeout_worker_s": ("--timeout-worker", "--timeout", "-t", "--timeout-worker-healthcheck"),
    "timeout_graceful_s": (
        "--timeout-graceful",
        "--timeout-graceful-shutdown",
        "--workers-kill-timeout",
    ),
}

# Shown nowhere, since --bind says it all.
HIDDEN = ("uds", "fd")

WORKER_CLASSES = {"sync": "wsgi", "gthread": "wsgi", "wsgi": "wsgi", "asgi": "asgi"}


@dataclass(frozen=True, slots=True)
class Moved:
    """An option of another server that means nearly the same as one of ours.

    into: the field of Config, "" for what we do anyway.  convert: makes our
    value of theirs, None for what need not be said, or raises UsageError.
    yields: where ours is given too, it has the say.
    """

    flags: tuple[str, ...]
    into: str
    convert: Callable[[Any], str | bool | None]
    yields: bool = False

    @property
    def name(self) -> str:
        """Its parameter in click."""
        return "moved_" + self.spelling.strip("-").replace("-", "_")

    @property
    def spelling(self) -> str:
        """Its flag, as people are told of it."""
        return self.flags[0].partition("/")[0]


def _worker_class(value: str) -> str:
    if "uvicorn" in value.lower():
        return "asgi"
    if value in WORKER_CLASSES:
        return WORKER_CLASSES[value]
    raise UsageError(
        f"--worker-class {value} is not to be had here: leave it out, or say --interface"
    )


def _milliseconds(value: str) -> str:
    return f"{value}ms" if value.isdigit() else value


def _loopback(value: bool) -> str | None:
    # What uvicorn believes where nobody is named.
    return "127.0.0.1,::1" if value else None


# Options of others that have no counterpart yet, and what to do meanwhile.
NOT_YET = {
    "--daemon": "leave it out, and have systemd or a container run the server",
    "-D": "leave it out, and have systemd or a container run the server",
    "--header": "have the application or the proxy set it",
    "--ssl-keyfile": "have a proxy in front do TLS",
    "--ssl-certfile": "have a proxy in front do TLS",
    "--keyfile": "have a proxy in front do TLS",
    "--certfile": "have a proxy in front do TLS",
    "--ssl-certificate": "have a proxy in front do TLS",
}

MOVED = (
    # Which parser and which WebSocket implementation: there is one of each.
    Moved(("--http",), "", str),
    Moved(("--ws",), "", str),
    Moved(("--h11-max-incomplete-event-size",), "limit_request_head_bytes", str),
    Moved(("--worker-class", "-k"), "interface", _worker_class),
    Moved(("--worker-connections",), "limit_connections", str),
    Moved(("--backpressure",), "limit_connections", str),
    Moved(("--http1-header-read-timeout",), "timeout_head_s", _milliseconds),
    Moved(("--proxy-headers/--no-proxy-headers",), "forwarded_allow_ips", _loopback, yields=True),
)


def _move(given: dict[str, Any]) -> dict[str, Any]:
    """Turn what was given in the words of others into ours, and say so."""
    flags = {option.name: option.flag for option in config.OPTIONS}
    for moved in MOVED:
        value = given.pop(moved.name)
        if value is None:
            continue
        ours = moved.convert(value)
        if not moved.into or ours is None or (moved.yields and given[moved.into]):
            continue
        if given[moved.into] not in (None, (), ours):
            raise UsageError(
                f"{moved.spelling} and {flags[moved.into]} do not agree: leave one out"
            )
        given[moved.into] = ours
        theirs = moved.spelling if value is True else f"{moved.spelling} {value}"
        words = flags[moved.into] if ours is True else f"{flags[moved.into]} {ours}"
        _note(f"{theirs} is taken as {words}")
    return given


# ---- options and their help


def _click_option(option: Option) -> click.Option:
    names = [option.flag, *ALIASES.get(option.name, ())]
    if option.kind.is_switch:
        spellings = [f"{name}/--no-{name[2:]}" for name in names]
        return click.Option([option.name, *spellings], default=None)
    short = [option.short] if option.short else []
    return click.Option(
        [option.name, *short, *names],
        metavar=option.kind.metavar,
        multiple=option.kind.is_list,
        type=click.UNPROCESSED,
    )


def _moved_option(moved: Moved) -> click.Option:
    if "/" in moved.flags[0]:
        return click.Option([moved.name, *moved.flags], hidden=True, default=None)
    return click.Option([moved.name, *moved.flags], hidden=True, type=click.UNPROCESSED)


def _click_parameters() -> list[click.Parameter]:
    own = [option for option in config.ADDRESS_PARTS + config.OPTIONS if option.name != "app"]
    return [
        click.Argument(["app"], nargs=-1, metavar="[APP]", type=click.UNPROCESSED),
        *(_click_option(option) for option in own),
        click.Option(["config_file", "-c", "--config"], type=click.UNPROCESSED, metavar="FILE"),
        click.Option(["table", "--table"], type=click.UNPROCESSED, metavar="NAME"),
        *(_moved_option(moved) for moved in MOVED),
    ]


class ServeCommand(click.Command):
    """A command whose help shows the options by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group, in the order of config.GROUPS."""
        for group in config.GROUPS:
            rows = [_help_row(option) for option in _shown_options() if option.group == group]
            with formatter.section(group):
                formatter.write_dl(rows, col_max=38)
        with formatter.section("Other"):
            formatter.write_dl(
                [
                    (
                        "-c, --config FILE",
                        "Options from a TOML file. [fastcluster.toml, or the "
                        "table tool.fastcluster of pyproject.toml]",
                    ),
                    ("--table NAME", "The table apps.NAME of that file, on top of the rest."),
                    ("--help", "Show this and leave."),
                ],
                col_max=38,
            )


def _shown_options() -> Iterable[Option]:
    for option in config.ADDRESS_PARTS + config.OPTIONS:
        if option.name != "app" and option.name not in HIDDEN:
            yield option


def _help_row(option: Option) -> tuple[str, str]:
    names = option.flag
    if option.kind.is_switch:
        names = f"--[no-]{option.flag[2:]}"
    if option.short:
        names = f"{option.short}, {names}"
    default = _shown_default(option)
    return f"{names} {option.kind.metavar}".rstrip(), f"{option.help} {default}".rstrip()


def _shown_default(option: Option) -> str:
    value = option.default
    text = option.shown
    if not text and value not in (None, ""):
        text = _plain(option, value)
    return f"[{text}]" if text else ""


def _plain(option: Option, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(value)
    if option.kind.metavar == "SIZE" and value:
        for unit, letter in ((1 << 20, "M"), (1 << 10, "k")):
            if value % unit == 0:
                return f"{value // unit}{letter}"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- commands


class Commands(click.Group):
    """The commands, which tells those who forgot one which it is."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first word names."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            words = " ".join(args)
            raise UsageError(f"there is no command {args[0]!r}: did you mean {NAME} serve {words}?")
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        click.echo(version())
        ctx.exit()


def version() -> str:
    """Return what --version prints: release, parser's door, Python, platform."""
    import platform

    from fastcluster import __version__

    try:
        from fastcluster.parser import parser_name

        parser = parser_name()
    except ImportError:
        parser = "not to be had"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    machine = f"{platform.system()} {platform.machine()}"
    return f"{NAME} {__version__} (parser {parser}, {python}, {machine})"


@click.group(cls=Commands, no_args_is_help=False, invoke_without_command=True)
@click.option(
    "-V",
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show versions of fastcluster, its parser and Python.",
)
@click.pass_context
def commands(ctx: click.Context) -> int:
    """A web server for Python, on all cores."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return EXIT_USAGE
    return EXIT_OK


def _explain(flags: dict[str, Any], file: str | None, table: str | None) -> config.Explained:
    """Read all sources; the variables of --env-file are among them, and so may be options."""
    config.set_variables({})
    explained = config.explain(flags, None, config.find(file), table)
    if explained.config.env_file is None:
        return explained

    from fastcluster import env_file

    path = Path(explained.config.env_file)
    config.set_variables(env_file.read(path, config.environ_without_file()))
    return config.explain(flags, None, config.find(file), table)


def _explain_words(
    app: tuple[str, ...], config_file: str | None, table: str | None, **given: Any
) -> config.Explained:
    return _explain({**_move(given), "app": " ".join(app) or None}, config_file, table)


def _read(flags: dict[str, Any], file: str | None, table: str | None) -> Config:
    """Read all sources and settle in; called again by a reload."""
    explained = _explain(flags, file, table)
    settings = explained.config
    names = config.apps_of(explained.file)
    if settings.app is None and table is None and names:
        raise UsageError(
            f"{explained.file} has several apps ({', '.join(names)}): "
            f"{NAME} start serves them all, {NAME} serve --table {names[0]} one of them"
        )
    _settle_in(settings)
    return _with_app(dataclasses.replace(settings, workers=settings.n_workers))


def _serve(app: tuple[str, ...], config_file: str | None, table: str | None, **given: Any) -> int:
    from fastcluster import upgrade

    # Before anything changes the current folder.
    command = upgrade.command_of(sys.orig_argv, sys.executable, config.working_folder())
    legacy = upgrade.received()
    try:
        return _serve_with(command, legacy, app, config_file, table, **given)
    except FastclusterError as error:
        if legacy is not None:
            legacy.fail(f"{error}\n{error.detail}" if error.detail else str(error))
        raise


def _serve_with(
    command: Command,
    legacy: Legacy | None,
    app: tuple[str, ...],
    config_file: str | None,
    table: str | None,
    **given: Any,
) -> int:
    flags = {**_move(given), "app": " ".join(app) or None}
    begun_in = config.working_folder()
    settings = _read(flags, config_file, table)
    for sentence in config.misspelt():
        _note(sentence)
    if settings.umask is not None:
        os.umask(settings.umask)

    def read_again() -> Config:
        from fastcluster import apps

        # By its name: "current" may be a link to another release by now.
        apps.forget_folder()
        _go_to(begun_in, "start the server again")
        return _read(flags, config_file, table)

    from fastcluster import pid_file

    with pid_file.held(settings.pid_file, at_once=legacy is None) as file:
        listeners = _listen(settings, legacy)
        try:
            return _run(settings, listeners, read_again, command, legacy, file)
        finally:
            for listener in listeners:
                listener.close()


commands.add_command(
    ServeCommand(
        "serve",
        params=_click_parameters(),
        callback=_serve,
        short_help="Serve an application.",
        help=(
            "Serve an application: a native handler, or a WSGI or ASGI application such as those "
            "of Flask, Django and FastAPI.\n\n"
            "APP is module:name. Without one it is app:app, main:app, wsgi:application or "
            "asgi:application of the folder, else a page that welcomes you. Several are served "
            "side by side, each below its path: /api=api:app /=site:app."
        ),
        epilog=(
            "Defaults are in brackets. Each option is also a variable, FASTCLUSTER_WORKERS for "
            "--workers, and a key of the file, workers = 4. The command line wins over the "
            "environment, and that over the file."
        ),
        context_settings={"max_content_width": 100},
    )
)


for _command in site_commands.commands(
    click.echo, lambda text: _note(text), _click_parameters(), _explain_words
):
    commands.add_command(_command)


def _run_script(script: str, arguments: tuple[str, ...]) -> int:
    from fastcluster import cluster, program

    try:
        program.run_script(script, arguments)
        cluster.run()
    except FastclusterError:
        raise
    except Exception:
        # The script's own error, shown as python shows it.
        import traceback

        traceback.print_exc()
        return EXIT_UNEXPECTED
    return EXIT_OK


commands.add_command(
    click.Command(
        "run",
        params=[
            click.Argument(["script"], type=click.UNPROCESSED),
            click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED),
        ],
        callback=_run_script,
        short_help="Run a script and the cluster it forks.",
        help="Run a Python script and, at its end, the loop of fastcluster.cluster.",
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    )
)


for _command in control_commands.commands(click.echo):
    commands.add_command(_command)


def _settle_in(settings: Config) -> None:
    """Go where the server is to work, and look whether it may become whom it is to be."""
    from fastcluster import cpus, privileges

    if settings.chdir is not None:
        _go_to(settings.chdir, "mend --chdir")
    if settings.pin and not cpus.can_pin():
        raise UsageError("--pin is not to be had on this system: leave it out")
    privileges.identity(settings.user, settings.group)
    if settings.reload:
        from fastcluster import watcher

        watcher.check(settings)


def _go_to(folder: str, mend: str) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise UsageError(f"cannot work in {folder!r} ({error.strerror}): {mend}") from error


def _with_app(settings: Config) -> Config:
    """Find an application where none was named, or look whether the named one can be."""
    from fastcluster import apps, mounts

    if settings.app is not None:
        if mounts.is_spec(settings.app):
            mounts.check(settings)
        else:
            apps.check(settings.app, settings.app_dir)
        return settings
    found = apps.discover(settings.app_dir)
    if found is not None:
        return dataclasses.replace(settings, app=found, factory=False)

    from fastcluster import welcome

    # Workers are forked from here and so know it too.
    welcome.workers = settings.workers
    return dataclasses.replace(settings, app=WELCOME, interface="native", factory=False)


def _listen(settings: Config, legacy: Legacy | None) -> list[ListeningSocket]:
    """Open all listening sockets, or none and raise BindError; those of before are taken over.

    The file of a unix socket belongs to whom the workers become, and has what --umask
    leaves, as with gunicorn.
    """
    from fastcluster import privileges, sockets

    permissions = settings.uds_permissions
    if permissions is None and settings.umask is not None:
        permissions = 0o777 & ~settings.umask
    owner = privileges.identity(settings.user, settings.group)
    addresses = [(text, sockets.parse(text)) for text in settings.bind]
    listeners: list[ListeningSocket] = []
    try:
        for text, address in addresses:
            inherited = None if legacy is None else legacy.take(text)
            if inherited is not None:
                listeners.append(inherited)
                continue
            listeners.append(sockets.listen(address, settings.backlog, uds_permissions=permissions))
            if owner is not None and address.path and not address.path.startswith("@"):
                privileges.give(address.path, owner)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _run(
    settings: Config,
    listeners: Sequence[ListeningSocket],
    read_again: Callable[[], Config],
    command: Command,
    legacy: Legacy | None,
    pid_file: PidFile,
) -> int:
    from fastcluster import log

    log.open_files(settings.log_file, settings.access_log_file)
    log.use_config(settings.log_config)
    log.set_up(settings.log_level, in_colour=settings.logs_in_colour)
    try:
        from fastcluster import primary, server, supervisor, worker
    except ImportError as error:
        # A compiled module is missing, or the parser that was asked for.
        raise UsageError(f"the server cannot be loaded: {error}") from error
    preload = None
    if settings.preload:
        from fastcluster import zygote

        preload = zygote.main
    board = server.Board(primary.slots_for(settings.most_workers))
    return supervisor.run(
        settings,
        listeners,
        worker.main,
        board,
        read_again,
        preload=preload,
        command=command,
        legacy=legacy,
        pid_file=pid_file,
    )


# ---- words for people


def _line(text: str) -> str:
    """Return a text on one line, without what could move a terminal's cursor."""
    return _printable(" ".join(text.split()))


def _printable(line: str) -> str:
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in line
    )


def _say(text: str) -> None:
    click.echo(f"{NAME}: {_line(text)}", err=True)


def _note(text: str) -> None:
    _say(f"note: {text}")


def _fail(text: str, exit_code: int) -> int:
    _say(text)
    if config.debug():
        import traceback

        traceback.print_exc()
    return exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; prints errors as one line each.

    argv: the words after the command's name, None for those of this process.
    With FASTCLUSTER_DEBUG=1 in the environment an error's traceback follows.
    """
    try:
        code = commands.main(
            args=None if argv is None else list(argv), prog_name=NAME, standalone_mode=False
        )
    except click.NoSuchOption as error:
        where = error.ctx.command_path if error.ctx is not None else NAME
        if error.option_name in NOT_YET:
            return _fail(
                f"{error.option_name} is not there yet: {NOT_YET[error.option_name]}", EXIT_USAGE
            )
        return _fail(f"{error.format_message()} ({where} --help shows what there is)", EXIT_USAGE)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else NAME
        return _fail(f"{error.format_message()} ({where} --help shows what there is)", EXIT_USAGE)
    except click.ClickException as error:
        return _fail(error.format_message(), EXIT_USAGE)
    except click.Abort:
        return _fail("interrupted", EXIT_UNEXPECTED)
    except FastclusterError as error:
        code = _fail(str(error), error.exit_code)
        for line in error.detail.splitlines():
            click.echo(_printable(line), err=True)
        return code
    except Exception as error:
        words = f"unexpected {type(error).__name__}: {error} (FASTCLUSTER_DEBUG=1 shows where)"
        return _fail(words, EXIT_UNEXPECTED)
    return code if isinstance(code, int) else EXIT_OK
