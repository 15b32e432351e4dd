"""Defaults, sources and their order, and the words for what makes no sense."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from fastcluster import config, layers
from fastcluster.config import ADDRESS_PARTS, GROUPS, OPTIONS, Config
from fastcluster.errors import UsageError
from fastcluster.options import Option


def made(
    flags: dict[str, object] | None = None,
    environ: dict[str, str] | None = None,
    file: Path | None = None,
) -> Config:
    return Config.from_sources(flags or {}, environ or {}, file)


def toml(folder: Path, content: str, name: str = "fastcluster.toml") -> Path:
    path = folder / name
    path.write_text(content)
    return path


# ---- the options themselves


def test_the_defaults() -> None:
    assert dataclasses.asdict(Config()) == {
        "app": None,
        "interface": "auto",
        "factory": False,
        "app_dir": ".",
        "root_path": "",
        "env": "production",
        "env_file": None,
        "bind": ("127.0.0.1:8000",),
        "backlog": 2048,
        "uds_permissions": None,
        "workers": 0,
        "threads": 0,
        "preload": False,
        "pin": False,
        "max_workers": 0,
        "pid_file": None,
        "user": None,
        "group": None,
        "umask": None,
        "chdir": None,
        "name": None,
        "control": True,
        "max_requests": 0,
        "max_requests_jitter": 0,
        "max_worker_lifetime_s": 0.0,
        "max_worker_lifetime_jitter_s": 0.0,
        "max_worker_rss_bytes": 0,
        "reload_batch": 1,
        "reload": False,
        "reload_dir": (),
        "reload_include": (),
        "reload_exclude": (),
        "lifespan": "auto",
        "loop": "auto",
        "cancel_on_disconnect": False,
        "ws_max_size_bytes": 16777216,
        "ws_max_queue": 32,
        "ws_ping_interval_s": 20.0,
        "ws_ping_timeout_s": 20.0,
        "ws_per_message_deflate": True,
        "limit_request_line_bytes": 8190,
        "limit_request_fields": 100,
        "limit_request_field_bytes": 8190,
        "limit_request_head_bytes": 65536,
        "limit_request_body_bytes": 0,
        "limit_body_rate": 240,
        "body_memory_bytes": 1048576,
        "limit_connections": 0,
        "limit_concurrency": 0,
        "queue_size": None,
        "limit_keep_alive_requests": 0,
        "limit_unread_body_bytes": 65536,
        "high_water_bytes": 65536,
        "low_water_bytes": 16384,
        "timeout_keep_alive_s": 75.0,
        "timeout_head_s": 10.0,
        "timeout_body_s": 60.0,
        "timeout_write_s": 60.0,
        "timeout_graceful_s": 30.0,
        "shutdown_delay_s": 0.0,
        "queue_timeout_s": 1.0,
        "timeout_startup_s": 60.0,
        "timeout_worker_s": 30.0,
        "allow_connect": False,
        "underscore_fields": False,
        "forwarded_allow_ips": (),
        "livez": None,
        "readyz": None,
        "server_header": True,
        "date_header": True,
        "log_level": "info",
        "access_log": None,
        "log_file": None,
        "access_log_file": None,
        "access_log_format": None,
        "log_config": None,
        "access_log_health": False,
        "request_id_header": None,
        "slow_request_time_s": 0.0,
        "metrics": None,
        "dashboard": None,
        "dashboard_token": None,
        "statsd": None,
        "statsd_prefix": "fastcluster",
        "statsd_every_s": 10.0,
    }


def test_no_source_gives_the_defaults() -> None:
    assert made() == Config()


def test_the_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().workers = 3  # type: ignore[misc]


@pytest.mark.parametrize("option", OPTIONS + ADDRESS_PARTS, ids=lambda option: option.name)
def test_every_option_is_complete(option: Option) -> None:
    assert option.group in GROUPS
    assert option.help.endswith(".")
    assert option.flag.startswith("--")


@pytest.mark.parametrize("names", ["flag", "env", "short"])
def test_no_name_is_given_twice(names: str) -> None:
    found = [getattr(option, names) for option in OPTIONS + ADDRESS_PARTS]
    found = [name for name in found if name]
    assert len(found) == len(set(found))


def test_all_keys_differ() -> None:
    keys = [key for option in OPTIONS + ADDRESS_PARTS for key in option.keys]
    assert len(keys) == len(set(keys))


# Each option as text and as what it becomes: proves that every one of them can
# be given as a flag, in the environment and in a file.
EXAMPLES: dict[str, tuple[str, Any]] = {
    "app": ("main:app", "main:app"),
    "interface": ("wsgi", "wsgi"),
    "factory": ("true", True),
    "app_dir": ("src", "src"),
    "root_path": ("/api/", "/api"),
    "env": ("development", "development"),
    "env_file": (".env", ".env"),
    "bind": ("0.0.0.0:80,unix:/run/x", ("0.0.0.0:80", "unix:/run/x")),
    "backlog": ("64", 64),
    "uds_permissions": ("660", 0o660),
    "workers": ("4", 4),
    "threads": ("8", 8),
    "preload": ("yes", True),
    "pin": ("yes", True),
    "max_workers": ("1024", 1024),
    "pid_file": ("run/app.pid", "run/app.pid"),
    "user": ("www", "www"),
    "group": ("33", "33"),
    "umask": ("027", 0o027),
    "chdir": ("src", "src"),
    "name": ("shop:v2", "shop:v2"),
    "control": ("false", False),
    "max_requests": ("1000", 1000),
    "max_requests_jitter": ("50", 50),
    "max_worker_lifetime_s": ("7d", 604800.0),
    "max_worker_lifetime_jitter_s": ("1h", 3600.0),
    "max_worker_rss_bytes": ("512M", 512 << 20),
    "reload_batch": ("2", 2),
    "reload": ("true", True),
    "reload_dir": ("src,lib", ("src", "lib")),
    "reload_include": ("*.html", ("*.html",)),
    "reload_exclude": ("test_*.py build", ("test_*.py", "build")),
    "lifespan": ("off", "off"),
    "loop": ("loops:new", "loops:new"),
    "cancel_on_disconnect": ("yes", True),
    "ws_max_size_bytes": ("1M", 1048576),
    "ws_max_queue": ("8", 8),
    "ws_ping_interval_s": ("5", 5.0),
    "ws_ping_timeout_s": ("500ms", 0.5),
    "ws_per_message_deflate": ("no", False),
    "limit_request_line_bytes": ("4k", 4096),
    "limit_request_fields": ("50", 50),
    "limit_request_field_bytes": ("4k", 4096),
    "limit_request_head_bytes": ("16k", 16384),
    "limit_request_body_bytes": ("1M", 1048576),
    "limit_body_rate": ("1k", 1024),
    "body_memory_bytes": ("2M", 2097152),
    "limit_connections": ("1000", 1000),
    "limit_concurrency": ("40", 40),
    "queue_size": ("0", 0),
    "limit_keep_alive_requests": ("100", 100),
    "limit_unread_body_bytes": ("1k", 1024),
    "high_water_bytes": ("128k", 131072),
    "low_water_bytes": ("1k", 1024),
    "timeout_keep_alive_s": ("5", 5.0),
    "timeout_head_s": ("5s", 5.0),
    "timeout_body_s": ("500ms", 0.5),
    "timeout_write_s": ("2m", 120.0),
    "timeout_graceful_s": ("1m", 60.0),
    "shutdown_delay_s": ("5s", 5.0),
    "queue_timeout_s": ("200ms", 0.2),
    "timeout_startup_s": ("1h", 3600.0),
    "timeout_worker_s": ("0", 0.0),
    "allow_connect": ("yes", True),
    "underscore_fields": ("on", True),
    "forwarded_allow_ips": ("10.0.0.0/8, unix", ("10.0.0.0/8", "unix")),
    "livez": ("/livez", "/livez"),
    "readyz": ("/readyz", "/readyz"),
    "server_header": ("no", False),
    "date_header": ("off", False),
    "log_level": ("warn", "warning"),
    "log_config": ("logging.toml", "logging.toml"),
    "access_log": ("true", True),
    "log_file": ("error.log", "error.log"),
    "access_log_file": ("access.log", "access.log"),
    "access_log_format": ("json", "json"),
    "access_log_health": ("on", True),
    "request_id_header": ("X-Request-ID", "X-Request-ID"),
    "slow_request_time_s": ("500ms", 0.5),
    "metrics": ("127.0.0.1:9100", "127.0.0.1:9100"),
    "dashboard": ("9000", "9000"),
    "dashboard_token": ("secret", "secret"),
    "statsd": ("127.0.0.1:8125", "127.0.0.1:8125"),
    "statsd_prefix": ("site", "site"),
    "statsd_every_s": ("500ms", 0.5),
}


def test_there_is_an_example_of_every_option() -> None:
    assert list(EXAMPLES) == [option.name for option in OPTIONS]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_can_be_given_everywhere(option: Option, tmp_path: Path) -> None:
    text, value = EXAMPLES[option.name]
    assert value != option.default
    implied = {"env": "development"} if option.name == "reload" else {}
    wanted = dataclasses.replace(Config(), **{option.name: value}, **implied)
    assert made({option.name: text}) == wanted
    assert made(environ={option.env: text}) == wanted
    for key in (option.flag[2:], *option.keys):
        assert made(file=toml(tmp_path, f'{key} = "{text}"')) == wanted


# ---- the order of the sources


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = toml(tmp_path, "threads = 1\nbacklog = 1\nworkers = 1\n")
    environ = {"FASTCLUSTER_THREADS": "2", "FASTCLUSTER_BACKLOG": "2"}
    found = made({"threads": "3"}, environ, file)
    assert (found.threads, found.backlog, found.workers, found.timeout_head_s) == (3, 2, 1, 10.0)


def test_what_was_not_given_hides_nothing() -> None:
    flags: dict[str, object] = {"threads": None, "bind": (), "access_log": None}
    environ = {"FASTCLUSTER_THREADS": "2", "FASTCLUSTER_BACKLOG": ""}
    found = made(flags, environ)
    assert (found.threads, found.backlog, found.bind) == (2, 2048, ("127.0.0.1:8000",))


def test_false_is_given() -> None:
    assert made({"access_log": False}, {"FASTCLUSTER_ACCESS_LOG": "1"}).access_log is False


WORKERS = [
    ({}, {"WEB_CONCURRENCY": "3"}, 3),
    ({}, {"WEB_CONCURRENCY": "3", "FASTCLUSTER_WORKERS": "4"}, 4),
    ({"workers": "5"}, {"WEB_CONCURRENCY": "3"}, 5),
    ({"workers": "auto"}, {"WEB_CONCURRENCY": "3"}, 0),
]


@pytest.mark.parametrize(("flags", "environ", "workers"), WORKERS)
def test_web_concurrency(flags: dict[str, object], environ: dict[str, str], workers: int) -> None:
    assert made(flags, environ).workers == workers


def test_web_concurrency_wins_over_the_file(tmp_path: Path) -> None:
    file = toml(tmp_path, "workers = 9")
    assert made({}, {"WEB_CONCURRENCY": "3"}, file).workers == 3


# ---- where to listen

LISTENING: list[tuple[dict[str, object], dict[str, str], str, tuple[str, ...]]] = [
    ({}, {}, "", ("127.0.0.1:8000",)),
    ({"port": "9000"}, {}, "", ("127.0.0.1:9000",)),
    ({"port": "0"}, {}, "", ("127.0.0.1:0",)),
    ({"host": "0.0.0.0"}, {}, "", ("0.0.0.0:8000",)),
    ({"host": "::1", "port": "9"}, {}, "", ("[::1]:9",)),
    ({"host": "[::1]", "port": "9"}, {}, "", ("[::1]:9",)),
    ({"bind": ("a:1", "unix:/x")}, {}, "", ("a:1", "unix:/x")),
    ({"bind": ("a:1",), "uds": "/x", "fd": "3"}, {}, "", ("a:1", "unix:/x", "fd://3")),
    ({"uds": "unix:/x"}, {}, "", ("unix:/x",)),
    ({"uds": "/x", "bind": ("unix:/x",)}, {}, "", ("unix:/x",)),
    # Layers.
    ({}, {"FASTCLUSTER_BIND": "a:1 b:2"}, "", ("a:1", "b:2")),
    ({"bind": ("c:3",)}, {"FASTCLUSTER_BIND": "a:1"}, "", ("c:3",)),
    ({"port": "9"}, {"FASTCLUSTER_BIND": "a:1"}, "", ("127.0.0.1:9",)),
    ({"port": "9"}, {"FASTCLUSTER_HOST": "a"}, "", ("a:9",)),
    ({"port": "9"}, {"FASTCLUSTER_BIND": "a:1"}, 'host = "h"', ("127.0.0.1:9",)),
    ({"port": "9"}, {}, 'host = "h"', ("h:9",)),
    ({"bind": ("c:3",)}, {"FASTCLUSTER_PORT": "9"}, "", ("c:3",)),
    ({}, {"FASTCLUSTER_PORT": "9"}, 'bind = ["d:4"]', ("127.0.0.1:9",)),
    ({}, {}, 'bind = ["d:4", "e:5"]', ("d:4", "e:5")),
    ({}, {}, "port = 7", ("127.0.0.1:7",)),
    # Platforms.
    ({}, {"PORT": "5000"}, "", ("0.0.0.0:5000",)),
    ({"host": "127.0.0.1"}, {"PORT": "5000"}, "", ("127.0.0.1:5000",)),
    ({"port": "9"}, {"PORT": "5000"}, "", ("127.0.0.1:9",)),
    ({"bind": ("a:1",)}, {"PORT": "5000"}, "", ("a:1",)),
    ({}, {"PORT": "5000"}, 'bind = ["d:4"]', ("d:4",)),
    ({"bind": ("a:1",)}, {"PORT": "nonsense"}, "", ("a:1",)),
    ({}, {"FASTCLUSTER_PORT": "tcp://10.0.0.1:80"}, "", ("127.0.0.1:8000",)),
]


@pytest.mark.parametrize(("flags", "environ", "content", "bind"), LISTENING)
def test_where_to_listen(
    tmp_path: Path,
    flags: dict[str, object],
    environ: dict[str, str],
    content: str,
    bind: tuple[str, ...],
) -> None:
    assert made(flags, environ, toml(tmp_path, content)).bind == bind


# ---- what makes no sense

COMPLAINTS: list[tuple[dict[str, object], dict[str, str], str, str]] = [
    ({"workers": "many"}, {}, "", "--workers wants a whole number from 1 to 1024, or auto"),
    ({"workers": "many"}, {}, "", "not 'many'"),
    ({}, {"FASTCLUSTER_WORKERS": "0.5"}, "", "FASTCLUSTER_WORKERS wants a whole number"),
    ({}, {"WEB_CONCURRENCY": "x"}, "", "WEB_CONCURRENCY wants a whole number"),
    ({}, {"PORT": "x"}, "", "PORT wants a whole number from 1 to 65535, not 'x'"),
    ({}, {}, "threads = -1", "threads in fastcluster.toml wants a whole number from 0 to 1024"),
    ({}, {}, "threads = true", "threads in fastcluster.toml wants a whole number"),
    ({}, {}, "factory = 1", "factory in fastcluster.toml wants true or false, not 1"),
    ({}, {}, "uds-permissions = 660", 'wants permissions in octal as a text, such as "660"'),
    ({}, {}, "threds = 1", "fastcluster.toml has 'threds', which is no option: did you mean"),
    ({}, {}, "zzz = 1", "fastcluster.toml has 'zzz', which is no option: take it out"),
    ({}, {}, "threads = [", "fastcluster.toml is not a TOML file: "),
    ({"bind": ("a:1",), "port": "9"}, {}, "", "--bind and --port both say where to listen"),
    ({}, {"FASTCLUSTER_UDS": "/x", "FASTCLUSTER_HOST": "a"}, "", "FASTCLUSTER_UDS and FASTCLUS"),
    ({"bind": ("a:1", "a:1")}, {}, "", "--bind wants one or more different addresses"),
    ({"low_water_bytes": "1M"}, {}, "", "--low-water must not be above --high-water"),
    ({"limit_request_line_bytes": "1M"}, {}, "", "--limit-request-line must not be above"),
    ({"root_path": "api"}, {}, "", "--root-path wants a path that begins with /, not 'api'"),
    ({"timeout_graceful_s": "soon"}, {}, "", "--graceful-timeout wants a duration from 0 seconds"),
]


@pytest.mark.parametrize(("flags", "environ", "content", "words"), COMPLAINTS)
def test_a_complaint_names_the_source_and_the_mend(
    tmp_path: Path, flags: dict[str, object], environ: dict[str, str], content: str, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        made(flags, environ, toml(tmp_path, content))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_complaints_come_at_once(tmp_path: Path) -> None:
    file = toml(tmp_path, "backlog = 0")
    with pytest.raises(UsageError) as caught:
        made({"workers": "x"}, {"FASTCLUSTER_THREADS": "y"}, file)
    words = str(caught.value)
    assert "--workers" in words
    assert "FASTCLUSTER_THREADS" in words
    assert "backlog in fastcluster.toml" in words


def test_the_constructor_checks_too() -> None:
    with pytest.raises(UsageError, match=r"^--env wants .*; --workers wants .*, not -1$"):
        Config(workers=-1, env="no name")


@pytest.mark.parametrize("value", [True, 1.5, "3", None])
def test_the_constructor_checks_types(value: Any) -> None:
    with pytest.raises(UsageError):
        Config(threads=value)


# ---- files


def test_a_pyproject_speaks_of_us_in_its_own_table(tmp_path: Path) -> None:
    toml(tmp_path, "[tool.fastcluster]\nthreads = 4\n", "pyproject.toml")
    assert config.load({}, environ={}, folder=tmp_path).threads == 4


def test_a_pyproject_without_us_is_passed_over(tmp_path: Path) -> None:
    toml(tmp_path, "[project]\nname = 'x'\n", "pyproject.toml")
    assert layers.find_file(tmp_path) is None
    assert config.load({}, environ={}, folder=tmp_path) == Config()


def test_our_own_file_comes_first(tmp_path: Path) -> None:
    toml(tmp_path, "[tool.fastcluster]\nthreads = 4\n", "pyproject.toml")
    own = toml(tmp_path, "threads = 5\n")
    assert layers.find_file(tmp_path) == own


def test_a_table_that_is_none(tmp_path: Path) -> None:
    file = toml(tmp_path, "[tool]\nfastcluster = 3\n", "pyproject.toml")
    with pytest.raises(UsageError, match=r"write \[tool.fastcluster\]"):
        made(file=file)


def test_a_file_can_be_named(tmp_path: Path) -> None:
    file = toml(tmp_path, "threads = 6\n", "other.toml")
    assert config.load({}, file=str(file), environ={}, folder=tmp_path).threads == 6
    environ = {"FASTCLUSTER_CONFIG": str(file)}
    assert config.load({}, environ=environ, folder=tmp_path).threads == 6


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*none.toml: No such file or directory"):
        config.load({}, file=str(tmp_path / "none.toml"), environ={})


# ---- the rest


def test_misspelt_variables_are_noticed() -> None:
    environ = {"FASTCLUSTER_WORKRES": "3", "FASTCLUSTER_WORKER_ID": "1", "FASTCLUSTER_DEBUG": ""}
    assert config.misspelt(environ) == [
        "FASTCLUSTER_WORKRES in the environment is no option: did you mean FASTCLUSTER_WORKERS?"
    ]


ACCESS_LOGS = [
    (None, "production", False),
    (None, "development", True),
    (True, "production", True),
    (False, "development", False),
]


@pytest.mark.parametrize(("asked", "env", "wanted"), ACCESS_LOGS)
def test_the_access_log_is_on_in_development(asked: bool | None, env: str, wanted: bool) -> None:
    assert Config(access_log=asked, env=env).logs_access is wanted


def test_reload_means_development_and_one_worker() -> None:
    assert Config.from_sources({"reload": True}, {}, None).env == "development"
    assert Config.from_sources({"reload": True}, {"FASTCLUSTER_ENV": "production"}, None).env == (
        "production"
    )
    assert Config(reload=True).n_workers == 1
    assert Config(reload=True, workers=3).n_workers == 3


def test_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "usable_cpus", lambda: 7)
    assert Config().n_workers == 7
    assert Config(workers=3).n_workers == 3


def test_the_most_workers_leave_room_to_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = [4096]
    monkeypatch.setattr("resource.getrlimit", lambda _: (limit[0], 1 << 20))
    assert Config(workers=2).most_workers == 16
    assert Config(workers=20).most_workers == 40
    assert Config(workers=2, max_workers=3).most_workers == 3
    limit[0] = 512
    assert Config(workers=2).most_workers == 8
    limit[0] = 64
    assert Config(workers=2).most_workers == 2
    assert Config(workers=2, max_workers=3).most_workers == 3
    with pytest.raises(UsageError, match="--workers must not be above --max-workers"):
        Config(workers=4, max_workers=3)


def test_an_access_log_file_turns_the_access_log_on() -> None:
    assert Config(access_log_file="a.log").logs_access
    assert not Config(access_log_file="a.log", access_log=False).logs_access


MINE = {"LISTEN_PID": str(os.getpid())}


@pytest.mark.parametrize(
    ("environ", "bind"),
    [
        ({**MINE, "LISTEN_FDS": "2"}, ("fd://3", "fd://4")),
        ({**MINE, "LISTEN_FDS": "1", "PORT": "80"}, ("fd://3",)),
        ({**MINE, "LISTEN_FDS": "1", "FASTCLUSTER_PORT": "81"}, ("127.0.0.1:81",)),
        ({**MINE, "LISTEN_FDS": "1", "FASTCLUSTER_BIND": "unix:s"}, ("unix:s",)),
        ({**MINE, "LISTEN_FDS": "0"}, ("127.0.0.1:8000",)),
        ({**MINE, "LISTEN_FDS": "some"}, ("127.0.0.1:8000",)),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, ("127.0.0.1:8000",)),
        ({"LISTEN_FDS": "1"}, ("127.0.0.1:8000",)),
    ],
)
def test_sockets_of_a_service_manager(environ: dict[str, str], bind: tuple[str, ...]) -> None:
    assert Config.from_sources({}, environ, None).bind == bind
