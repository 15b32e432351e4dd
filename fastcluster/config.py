"""One frozen dataclass with every option; flags, environment, file and defaults meet here.

The law: an option is one line of ``Config``.  Its flag, its variable in the
environment, its key in the file, its place in ``--help`` and its check all
follow from that line.  Variables that are no options are surroundings.py's.  It does not know
what an address or an application is; sockets.py and apps.py do.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fastcluster import access_log, layers, sources, tables
from fastcluster.cpus import usable_cpus
from fastcluster.errors import UsageError
from fastcluster.layers import DEFAULT_HOST, DEFAULT_PORT
from fastcluster.options import (
    ADDRESSES,
    APP,
    ENVIRONMENT,
    FIELD_NAME,
    FILE,
    FOLDER,
    FOLDERS,
    HEALTH_PATH,
    LOOP,
    MODE,
    NAME,
    PATTERNS,
    PREFIX,
    PROXIES,
    SWITCH,
    TEXT,
    UMASK,
    WORKERS,
    YEAR_S,
    Option,
    choice,
    duration,
    option,
    options_of,
    or_none,
    size,
    whole,
)
from fastcluster.surroundings import (
    debug,
    environ_of_app,
    environ_of_heir,
    environ_without_file,
    environment,
    legacy_fd,
    notify_socket,
    parser_wanted,
    passed_sockets,
    polling_wanted,
    runtime_folder,
    scheduling_policy,
    set_variables,
    use_environment,
    watchdog_s,
    working_folder,
)

__all__ = [
    "ADDRESS_PARTS",
    "GROUPS",
    "LEVELS",
    "OPTIONS",
    "Config",
    "Explained",
    "debug",
    "environ_of_app",
    "environ_of_heir",
    "environ_without_file",
    "environment",
    "legacy_fd",
    "notify_socket",
    "parser_wanted",
    "passed_sockets",
    "polling_wanted",
    "runtime_folder",
    "scheduling_policy",
    "set_variables",
    "usable_cpus",
    "use_environment",
    "watchdog_s",
    "working_folder",
]

# Groups of --help, in its order.
APPLICATION = "Application"
LISTENING = "Where to listen"
PROCESSES = "Processes"
REPLACING = "Replacing workers"
DEVELOPING = "Developing"
ASGI = "ASGI"
WEBSOCKET = "WebSocket"
LIMITS = "Limits (sizes in bytes, or 64k, 1M)"
TIMEOUTS = "Timeouts (seconds, or 500ms, 2m)"
PROTOCOL = "HTTP"
LOGS = "Logs"
SEEING = "Metrics and dashboard"
LEVELS = ("debug", "info", "warning", "error", "critical")
GROUPS = (
    APPLICATION,
    LISTENING,
    PROCESSES,
    REPLACING,
    DEVELOPING,
    ASGI,
    WEBSOCKET,
    LIMITS,
    TIMEOUTS,
    PROTOCOL,
    LOGS,
    SEEING,
)
# How far the workers may be raised at least where --max-workers does not say.
MOST_WORKERS = 16
# The names of environments that mean something to us; others are those of profiles.
ENVIRONMENTS = ("production", "development")
# Variables of ours that are no options.
NO_OPTIONS = (
    "FASTCLUSTER_CONFIG",
    "FASTCLUSTER_DEBUG",
    "FASTCLUSTER_PARSER",
    "FASTCLUSTER_SCHED_POLICY",
    "FASTCLUSTER_UPGRADE",
)
# Of the descriptor limit, how much there has to be for a worker that may be asked for.
DESCRIPTORS_A_WORKER = 64


@dataclass(frozen=True, slots=True)
class Config:
    """Hold every option of a server.

    Durations are float seconds (``_s``), sizes int bytes (``_bytes``); the text
    of each option says what it does and what 0 or None means.  Raises UsageError,
    which names every option whose value makes no sense by its flag.
    """

    app: str | None = option(
        None,
        or_none(APP),
        APPLICATION,
        "The application, module:name, or several, /PATH=module:name; None: a welcome page.",
    )
    interface: str = option(
        "auto",
        choice("auto", "native", "wsgi", "asgi", also={"asgi3": "asgi"}),
        APPLICATION,
        "How the application is called.",
    )
    factory: bool = option(
        False, SWITCH, APPLICATION, "APP is a function that makes the application."
    )
    app_dir: str = option(".", FOLDER, APPLICATION, "Folder that APP is imported from.")
    root_path: str = option(
        "",
        PREFIX,
        APPLICATION,
        "Path under which a proxy serves the application: SCRIPT_NAME, root_path.",
    )
    env: str = option(
        "production",
        ENVIRONMENT,
        APPLICATION,
        "The environment that the application runs in; with a profile in the file, any other.",
    )
    env_file: str | None = option(
        None, or_none(FILE), APPLICATION, "File of variables for the environment, NAME=value."
    )

    bind: tuple[str, ...] = option(
        (f"{DEFAULT_HOST}:{DEFAULT_PORT}",),
        ADDRESSES,
        LISTENING,
        "HOST:PORT, PORT, :PORT (all IPv4 interfaces), [IPV6]:PORT, unix:PATH, unix:@NAME or "
        "fd://N. May be given several times.",
        short="-b",
    )
    backlog: int = option(
        2048,
        whole(1, 2**31 - 1),
        LISTENING,
        "How many connections may wait to be accepted, on each address.",
    )
    uds_permissions: int | None = option(
        None, or_none(MODE), LISTENING, "Permissions of unix socket files.", shown="666"
    )

    workers: int = option(
        0,
        WORKERS,
        PROCESSES,
        "Worker processes; auto: one per usable CPU, from affinity and cgroup quota.",
        short="-w",
        shown="auto, or WEB_CONCURRENCY",
    )
    threads: int = option(
        0,
        whole(0, 1024),
        PROCESSES,
        "Threads of each worker that run a WSGI application; 0: it runs on the loop's thread.",
    )
    preload: bool = option(
        False,
        SWITCH,
        PROCESSES,
        "Import the application once, in a process that forks the workers: they share memory and "
        "start in milliseconds.",
    )
    pin: bool = option(
        False,
        SWITCH,
        PROCESSES,
        "Worker n runs on the nth CPU of those that may be used, all its threads too.",
    )
    max_workers: int = option(
        0,
        whole(0, 1024),
        PROCESSES,
        "How many workers a signal or `fastcluster scale` may ask for; "
        f"0: twice --workers, at least {MOST_WORKERS}.",
    )

    pid_file: str | None = option(
        None,
        or_none(FILE),
        PROCESSES,
        "File that holds the primary's pid while it runs.",
        short="-p",
    )

    user: str | None = option(
        None,
        or_none(TEXT),
        PROCESSES,
        "User, by name or number, that the workers become; the primary stays root.",
        short="-u",
    )
    group: str | None = option(
        None,
        or_none(TEXT),
        PROCESSES,
        "Group, by name or number, that the workers become.",
        short="-g",
        shown="those of --user",
    )
    umask: int | None = option(
        None,
        or_none(UMASK),
        PROCESSES,
        "Permissions that files made by the server and the application lack, in octal.",
        short="-m",
        shown="as started",
    )
    chdir: str | None = option(
        None,
        or_none(FOLDER),
        PROCESSES,
        "Folder to work in: other paths, --app-dir too, are relative to it.",
    )

    name: str | None = option(
        None,
        or_none(NAME),
        PROCESSES,
        "What `fastcluster status` and the others find this server by.",
        shown="APP, with -2 and so on if that is taken",
    )
    control: bool = option(
        True,
        SWITCH,
        PROCESSES,
        "Listen to `fastcluster status`, reload and so on, on a unix socket of this user's.",
    )

    max_requests: int = option(
        0, whole(0, 2**62), REPLACING, "A worker is replaced after so many requests. 0: never."
    )
    max_requests_jitter: int = option(
        0,
        whole(0, 2**62),
        REPLACING,
        "Up to so many more, by chance, so that workers do not leave together.",
    )
    max_worker_lifetime_s: float = option(
        0.0, duration(0, YEAR_S), REPLACING, "A worker is replaced at this age. 0: never."
    )
    max_worker_lifetime_jitter_s: float = option(
        0.0, duration(0, YEAR_S), REPLACING, "Up to so much more, by chance."
    )
    max_worker_rss_bytes: int = option(
        0, size(0, 2**50), REPLACING, "A worker that takes this much memory is replaced. 0: never."
    )
    reload_batch: int = option(
        1, whole(1, 1024), REPLACING, "How many workers are replaced at a time."
    )

    reload: bool = option(
        False,
        SWITCH,
        DEVELOPING,
        "Start the workers anew when the code changes; requests wait meanwhile.",
    )
    reload_dir: tuple[str, ...] = option(
        (), FOLDERS, DEVELOPING, "Folder to watch; may be repeated.", shown="the current one"
    )
    reload_include: tuple[str, ...] = option(
        (), PATTERNS, DEVELOPING, "Files that count besides *.py; may be repeated.", shown="*.py"
    )
    reload_exclude: tuple[str, ...] = option(
        (),
        PATTERNS,
        DEVELOPING,
        "Files and folders that do not count; may be repeated.",
        shown=".* .py[cod] .sw.* ~*, caches, environments",
    )

    lifespan: str = option(
        "auto",
        choice("auto", "on", "off"),
        ASGI,
        "Tell the application of startup and shutdown; auto: if it listens.",
    )
    loop: str = option(
        "auto",
        LOOP,
        ASGI,
        "The event loop; auto: uvloop where it is installed. MODULE:FACTORY makes another one.",
    )
    cancel_on_disconnect: bool = option(
        False, SWITCH, ASGI, "Cancel the task of a request whose client is gone."
    )

    ws_max_size_bytes: int = option(
        16_777_216,
        size(0, 2**40),
        WEBSOCKET,
        "Largest message, after inflating; beyond: closed with 1009. 0: unlimited.",
    )
    ws_max_queue: int = option(
        32,
        whole(1, 1_000_000),
        WEBSOCKET,
        "With so many messages that the application has not received a client is stopped.",
    )
    ws_ping_interval_s: float = option(
        20.0, duration(0), WEBSOCKET, "An open connection is pinged this often. 0: never."
    )
    ws_ping_timeout_s: float = option(
        20.0,
        duration(0),
        WEBSOCKET,
        "A client that is silent for so long after a ping is gone: 1011. 0: it may be.",
    )
    ws_per_message_deflate: bool = option(
        True, SWITCH, WEBSOCKET, "Compress messages where the client offers it."
    )

    limit_request_line_bytes: int = option(
        8190, size(128, 2**24), LIMITS, "Longest request line; beyond: 414."
    )
    limit_request_fields: int = option(
        100, whole(1, 10_000), LIMITS, "Most fields of a request head; beyond: 431."
    )
    limit_request_field_bytes: int = option(
        8190,
        size(128, 2**24),
        LIMITS,
        "Longest field, name and value; beyond: 431.",
        flag="--limit-request-field-size",
    )
    limit_request_head_bytes: int = option(
        65536, size(256, 2**26), LIMITS, "Largest request head; beyond: 431."
    )
    limit_request_body_bytes: int = option(
        0, size(0, 2**62), LIMITS, "Largest request body; beyond: 413. 0: unlimited."
    )
    limit_body_rate: int = option(
        240,
        size(0, 2**31),
        LIMITS,
        "Slowest request body, bytes a second after 10 seconds; below: 408. 0: off.",
    )
    body_memory_bytes: int = option(
        1_048_576, size(0, 2**40), LIMITS, "A request body above this is kept on disk."
    )
    limit_connections: int = option(
        0,
        whole(0, 2**31 - 1),
        LIMITS,
        "Most connections of each worker; beyond: 503. 0: what the descriptor limit allows.",
    )
    limit_concurrency: int = option(
        0,
        whole(0, 2**31 - 1),
        LIMITS,
        "Most requests that run in a worker at a time; others wait, see --queue-size. "
        "0: unlimited.",
    )
    queue_size: int | None = option(
        None,
        or_none(whole(0, 1_000_000)),
        LIMITS,
        "How many requests of a worker may wait for --limit-concurrency; beyond: 503.",
        shown="as many as may run",
    )
    limit_keep_alive_requests: int = option(
        0, whole(0, 2**32 - 1), LIMITS, "Most requests on one connection. 0: unlimited."
    )
    limit_unread_body_bytes: int = option(
        65536,
        size(0, 2**40),
        LIMITS,
        "How much of a body that nobody read is discarded to keep the connection.",
    )
    high_water_bytes: int = option(
        65536, size(1, 2**40), LIMITS, "With so much waiting its producer is stopped."
    )
    low_water_bytes: int = option(
        16384, size(0, 2**40), LIMITS, "With so little waiting its producer goes on."
    )

    timeout_keep_alive_s: float = option(
        75.0,
        duration(0),
        TIMEOUTS,
        "An idle connection is closed after this; longer than a load balancer's idle time.",
    )
    timeout_head_s: float = option(
        10.0, duration(), TIMEOUTS, "From a request head's first byte to its last, else 408."
    )
    timeout_body_s: float = option(
        60.0, duration(), TIMEOUTS, "A request body must make progress within this, else 408."
    )
    timeout_write_s: float = option(
        60.0,
        duration(),
        TIMEOUTS,
        "A response must make progress within this, else the connection is closed.",
    )
    timeout_graceful_s: float = option(
        30.0,
        duration(0),
        TIMEOUTS,
        "At a stop running exchanges have this long to finish.",
        flag="--graceful-timeout",
    )
    shutdown_delay_s: float = option(
        0.0,
        duration(0),
        TIMEOUTS,
        "After a stop was asked for, --readyz fails for so long before the workers drain.",
    )
    queue_timeout_s: float = option(
        1.0,
        duration(),
        TIMEOUTS,
        "A request waits this long at most for --limit-concurrency, else 503.",
    )
    timeout_startup_s: float = option(
        60.0, duration(), TIMEOUTS, "A worker must be ready within this, else it is replaced."
    )
    timeout_worker_s: float = option(
        30.0,
        duration(0),
        TIMEOUTS,
        "A worker whose loop is stuck for so long is killed, with tracebacks in the log. 0: never.",
        flag="--worker-timeout",
    )

    allow_connect: bool = option(
        False, SWITCH, PROTOCOL, "Hand CONNECT to the application instead of answering 501."
    )
    underscore_fields: bool = option(
        False, SWITCH, PROTOCOL, "Hand fields with _ in their name to WSGI, where - becomes _ too."
    )
    forwarded_allow_ips: tuple[str, ...] = option(
        (),
        PROXIES,
        PROTOCOL,
        "Proxies whose X-Forwarded-For and -Proto are believed: addresses, networks, unix, or * "
        "for everybody.",
        shown="nobody",
    )
    livez: str | None = option(
        None,
        or_none(HEALTH_PATH),
        PROTOCOL,
        "Path, such as /livez, that says 200 as long as the loop turns.",
    )
    readyz: str | None = option(
        None,
        or_none(HEALTH_PATH),
        PROTOCOL,
        "Path, such as /readyz, that says 200, and 503 once a stop was asked for.",
    )
    server_header: bool = option(True, SWITCH, PROTOCOL, "Send the Server field.")
    date_header: bool = option(True, SWITCH, PROTOCOL, "Send the Date field.")

    log_level: str = option(
        "info",
        choice(*LEVELS, metavar="LEVEL", also={"trace": "debug", "warn": "warning"}),
        LOGS,
        "Least level of the error log on stderr: debug, info, warning, error or critical.",
    )
    log_config: str | None = option(
        None,
        or_none(FILE),
        LOGS,
        "TOML or JSON file with logging's dictConfig; the error log is the logger fastcluster.",
    )
    access_log: bool | None = option(
        None, or_none(SWITCH), LOGS, "Log each request to stdout.", shown="on in development"
    )
    log_file: str | None = option(
        None, or_none(FILE), LOGS, "File of the error log, reopened on SIGUSR1.", shown="stderr"
    )
    access_log_file: str | None = option(
        None,
        or_none(FILE),
        LOGS,
        "File of the access log, reopened on SIGUSR1; turns it on.",
        shown="stdout",
    )
    access_log_format: str | None = option(
        None,
        or_none(TEXT),
        LOGS,
        "common, combined, json, or a format of gunicorn's atoms: '%(h)s \"%(r)s\" %(s)s %(D)s'; "
        "turns the access log on.",
        shown="combined",
    )
    access_log_health: bool = option(
        False, SWITCH, LOGS, "Let the access log have requests of --livez and --readyz, too."
    )
    request_id_header: str | None = option(
        None,
        or_none(FIELD_NAME),
        LOGS,
        "Field that has a request's id, such as X-Request-ID; one without gets one.",
    )
    slow_request_time_s: float = option(
        0.0, duration(0), LOGS, "Requests that take longer are told in the error log. 0: none."
    )

    metrics: str | None = option(
        None,
        or_none(TEXT),
        SEEING,
        "HOST:PORT or PORT where the primary serves /metrics for Prometheus, to everybody.",
    )
    dashboard: str | None = option(
        None,
        or_none(TEXT),
        SEEING,
        "HOST:PORT or PORT (of the loopback) of the primary's dashboard, and /metrics.",
    )
    dashboard_token: str | None = option(
        None,
        or_none(TEXT),
        SEEING,
        "What the dashboard's viewers have to know.",
        shown="a new one, in the log",
    )
    statsd: str | None = option(
        None, or_none(TEXT), SEEING, "HOST:PORT of a StatsD server that is told by UDP."
    )
    statsd_prefix: str = option("fastcluster", TEXT, SEEING, "First word of what StatsD is told.")
    statsd_every_s: float = option(10.0, duration(0.1), SEEING, "How often StatsD is told.")

    def __post_init__(self) -> None:
        complaints = [
            entry.kind.complaint(entry.flag, getattr(self, entry.name))
            for entry in OPTIONS
            if not entry.kind.allows(getattr(self, entry.name))
        ]
        if not complaints:
            complaints = self._contradictions()
        if complaints:
            raise UsageError("; ".join(complaints))

    def _contradictions(self) -> list[str]:
        found = []
        if self.low_water_bytes > self.high_water_bytes:
            found.append("--low-water must not be above --high-water")
        if self.max_workers and self.workers > self.max_workers:
            found.append("--workers must not be above --max-workers")
        if self.limit_request_line_bytes > self.limit_request_head_bytes:
            found.append("--limit-request-line must not be above --limit-request-head")
        if wrong := access_log.complaint(self.access_log_format):
            found.append(f"--access-log-format: {wrong}")
        return found

    @property
    def n_workers(self) -> int:
        """How many workers to run: ``workers``, or one per usable CPU; one with ``reload``."""
        return self.workers or (1 if self.reload else usable_cpus())

    @property
    def most_workers(self) -> int:
        """How many workers there may ever be: ``max_workers``, or what that is by default.

        Each may cost the primary four descriptors and every worker two, so that a small
        limit of those leaves less room to scale.
        """
        if self.max_workers:
            return self.max_workers
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = 1024 if soft == resource.RLIM_INFINITY else soft // DESCRIPTORS_A_WORKER
        return max(self.n_workers, min(max(2 * self.n_workers, MOST_WORKERS), room))

    @property
    def logs_access(self) -> bool:
        """Whether each request is logged: as asked for, else to a file, in a format or in
        development."""
        if self.access_log is None:
            said = (self.access_log_file, self.access_log_format)
            return self.env == "development" or any(word is not None for word in said)
        return bool(self.access_log)

    @property
    def logs_in_colour(self) -> bool:
        """Whether a terminal's log is coloured: in development, unless NO_COLOR says something."""
        return self.env == "development" and not os.environ.get("NO_COLOR")

    @classmethod
    def from_sources(
        cls,
        flags: Mapping[str, object],
        environ: Mapping[str, str],
        file: Path | None,
        table: str | None = None,
    ) -> Config:
        """Build the configuration; a flag wins over the environment, that over the file.

        flags: by field name, and ``host``, ``port``, ``uds``, ``fd``; values are
        text as typed, None where a flag was not given.  environ: each option as
        FASTCLUSTER_<FLAG>, WEB_CONCURRENCY for workers, FORWARDED_ALLOW_IPS, and, where
        nothing else says where to listen, systemd's LISTEN_FDS, then PORT.  file: a TOML file,
        the table ``tool.fastcluster`` of it if it is a pyproject.toml; its tables are
        tables.py's affair.  table: the app of the file that is meant.  Raises UsageError
        with all that is wrong, each with the name under which it was given.
        """
        return explain(flags, environ, file, table).config


OPTIONS = options_of(Config)

# Other ways to say ``bind``; they are no fields of Config.
ADDRESS_PARTS: tuple[Option, ...] = (
    Option("host", TEXT, None, LISTENING, "Host to listen on.", "--host", shown=DEFAULT_HOST),
    Option(
        "port",
        whole(0, 65535, "PORT"),
        None,
        LISTENING,
        "Port to listen on; 0: any that is free.",
        "--port",
        shown=f"{DEFAULT_PORT}, or PORT",
    ),
    Option("uds", TEXT, None, LISTENING, "Unix socket to listen on.", "--uds"),
    Option("fd", whole(0, 2**31 - 1), None, LISTENING, "Listening descriptor to use.", "--fd"),
)

SPELLINGS = OPTIONS + ADDRESS_PARTS


# ---- all sources together


class Explained(NamedTuple):
    """A configuration, who said what of it by the options' fields, and the file that was read.

    What is no key of origins was said by nobody.
    """

    config: Config
    origins: dict[str, str]
    file: Path | None


def explain(
    flags: Mapping[str, object],
    environ: Mapping[str, str] | None,
    file: Path | None,
    table: str | None = None,
) -> Explained:
    """Build the configuration as Config.from_sources() does, and keep who said what.

    environ: None for this process's own.
    """
    environ = os.environ if environ is None else environ
    chosen = sources.gather(
        OPTIONS, SPELLINGS, flags, environ, file, table, passed_sockets(environ), ENVIRONMENTS
    )
    origins = {name: found.label for name, found in chosen.items() if found.label}
    return Explained(Config(**{name: found.value for name, found in chosen.items()}), origins, file)


def find(
    file: str | None, environ: Mapping[str, str] | None = None, folder: Path | None = None
) -> Path | None:
    """Return the file with options: as named, else by FASTCLUSTER_CONFIG, else of the folder."""
    environ = os.environ if environ is None else environ
    named = file or environ.get("FASTCLUSTER_CONFIG")
    return Path(named) if named else layers.find_file(folder or Path())


def load(
    flags: Mapping[str, object],
    *,
    file: str | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    table: str | None = None,
) -> Config:
    """Build the configuration of this process: flags, os.environ, and the file that is found.

    file: the path given with --config; FASTCLUSTER_CONFIG may also name one, else
    it is looked for in ``folder`` (the current one).  table: the app of the file that is
    meant.  Raises UsageError.
    """
    environ = os.environ if environ is None else environ
    return explain(flags, environ, find(file, environ, folder), table).config


def apps_of(file: Path | None) -> list[str]:
    """Return the names of the apps in a file, in their order.  Raises UsageError."""
    return list(tables.read(file, []).apps)


def misspelt(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return one sentence for each variable that looks like a misspelt option of ours."""
    environ = os.environ if environ is None else environ
    return layers.misspelt(SPELLINGS, environ, NO_OPTIONS)
