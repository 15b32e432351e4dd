"""The command: options from the command line to the primary, and one line for each mistake."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fastcluster
from fastcluster import cli, config, welcome
from fastcluster.config import Config

ROOT = Path(fastcluster.__file__).parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder and an environment without options."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in list(os.environ):
        if name.startswith("FASTCLUSTER_") or name in (
            "WEB_CONCURRENCY",
            "PORT",
            "FORWARDED_ALLOW_IPS",
        ):
            monkeypatch.delenv(name)
    yield tmp_path


class Runs:
    """Stands for the primary: remembers what it was to run, and with which sockets."""

    def __init__(self) -> None:
        self.settings: Config | None = None
        self.names: list[Any] = []
        self.while_running: Callable[[], object] = lambda: None

    def __call__(
        self,
        settings: Config,
        listeners: list[socket.socket],
        read_again: Callable[[], Config],
        *more: Any,
    ) -> int:
        self.read_again = read_again
        self.settings = settings
        self.names = [listener.getsockname() for listener in listeners]
        self.while_running()
        return 0


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """No server is run, only what would be is remembered; every port is a free one."""
    runs = Runs()
    monkeypatch.setattr(cli, "_run", runs)
    return runs


def served(runs: Runs, *words: str) -> Config:
    assert cli.main(["serve", *words]) == 0
    assert runs.settings is not None
    return runs.settings


def an_app(name: str = "app.py", content: str = "app = lambda request: b''\n") -> None:
    Path(name).write_text(content)


FREE = ("--bind", "127.0.0.1:0")


# ---- options

FLAGS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("--workers", "3"), {"workers": 3}),
    (("-w", "3"), {"workers": 3}),
    (("--threads=4",), {"threads": 4}),
    (("--factory",), {"factory": True}),
    (("--no-factory",), {"factory": False}),
    (("--interface", "wsgi"), {"interface": "wsgi"}),
    (("--root-path", "/api"), {"root_path": "/api"}),
    (("--env", "development"), {"env": "development"}),
    (("--access-log",), {"access_log": True}),
    (("--no-access-log",), {"access_log": False}),
    (("--no-server-header", "--no-date-header"), {"server_header": False, "date_header": False}),
    (("--limit-request-body", "1M"), {"limit_request_body_bytes": 1048576}),
    (("--timeout-body", "500ms"), {"timeout_body_s": 0.5}),
    (("--graceful-timeout", "5"), {"timeout_graceful_s": 5.0}),
    (("--log-level", "debug"), {"log_level": "debug"}),
    # uvicorn
    (("--timeout-keep-alive", "5"), {"timeout_keep_alive_s": 5.0}),
    (("--timeout-graceful-shutdown", "9"), {"timeout_graceful_s": 9.0}),
    (("--interface", "asgi3"), {"interface": "asgi"}),
    (("--log-level", "trace"), {"log_level": "debug"}),
    # gunicorn
    (("--keep-alive", "5"), {"timeout_keep_alive_s": 5.0}),
    (("--limit-request-field_size", "4094"), {"limit_request_field_bytes": 4094}),
    (("--limit-request-line", "4094"), {"limit_request_line_bytes": 4094}),
    (("--worker-connections", "1000"), {"limit_connections": 1000}),
    (("-k", "gthread", "--threads", "2"), {"interface": "wsgi", "threads": 2}),
    (("-k", "uvicorn.workers.UvicornWorker"), {"interface": "asgi"}),
    (("--access-logfile", "-"), {"access_log_file": "-"}),
    (("--error-logfile", "e.log"), {"log_file": "e.log"}),
    (("-t", "60", "--max-requests", "9"), {"timeout_worker_s": 60.0, "max_requests": 9}),
    (("--user", "0", "-g", "0"), {"user": "0", "group": "0"}),
    # granian
    (("--blocking-threads", "2"), {"threads": 2}),
    (("--url-path-prefix", "/api"), {"root_path": "/api"}),
    (("--workers-kill-timeout", "7"), {"timeout_graceful_s": 7.0}),
    (("--http1-header-read-timeout", "30000"), {"timeout_head_s": 30.0}),
    (("--backpressure", "99"), {"limit_connections": 99}),
]


@pytest.mark.parametrize(("words", "wanted"), FLAGS)
def test_options_reach_the_primary(
    runs: Runs, words: tuple[str, ...], wanted: dict[str, Any]
) -> None:
    an_app()
    settings = served(runs, "app:app", *FREE, *words)
    assert settings.app == "app:app"
    assert {name: getattr(settings, name) for name in wanted} == wanted


@pytest.mark.parametrize("flag", ["--app-dir", "--pythonpath"])
def test_the_folder_of_the_application(runs: Runs, flag: str) -> None:
    Path("src").mkdir()
    an_app("src/site1.py")
    assert served(runs, "site1:app", flag, "src", *FREE).app_dir == "src"


@pytest.mark.parametrize("flag", ["--chdir", "--working-dir"])
def test_the_folder_to_work_in(runs: Runs, folder: Path, flag: str) -> None:
    (folder / "src" / "deep").mkdir(parents=True)
    an_app("src/deep/site2.py")
    settings = served(runs, "site2:app", flag, "src", "--app-dir", "deep", "-p", "pid", *FREE)
    assert Path.cwd() == folder / "src"
    assert settings.app_dir == "deep"


@pytest.mark.parametrize(("more", "mode"), [((), 0o770), (("--uds-permissions", "606"), 0o606)])
def test_the_umask(runs: Runs, more: tuple[str, ...], mode: int) -> None:
    an_app()
    before = os.umask(0o022)
    modes: list[int] = []
    runs.while_running = lambda: modes.append(os.stat("s").st_mode & 0o777)
    try:
        served(runs, "--umask", "007", "--uds", "s", *more)
        Path("new").touch()
    finally:
        os.umask(before)
    assert modes == [mode]
    assert Path("new").stat().st_mode & 0o777 == 0o660


def test_environment_and_file_count(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    an_app()
    Path("fastcluster.toml").write_text('threads = 1\nbacklog = 5\napp = "app:app"\n')
    monkeypatch.setenv("FASTCLUSTER_THREADS", "2")
    settings = served(runs, *FREE, "-w", "1")
    assert (settings.app, settings.threads, settings.backlog) == ("app:app", 2, 5)


def test_a_file_can_be_named(runs: Runs) -> None:
    an_app()
    Path("other.toml").write_text("threads = 7\n")
    assert served(runs, "app:app", "-c", "other.toml", *FREE).threads == 7


def test_the_number_of_workers_is_decided_once(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "usable_cpus", lambda: 6)
    assert served(runs, *FREE, "--workers", "auto").workers == 6


def test_every_option_is_on_the_command_line() -> None:
    parameters = {parameter.name for parameter in cli.commands.commands["serve"].params}
    assert {option.name for option in config.OPTIONS + config.ADDRESS_PARTS} <= parameters


def test_every_alias_is_one_of_an_option() -> None:
    names = {option.name for option in config.OPTIONS}
    assert set(cli.ALIASES) <= names
    assert {moved.into for moved in cli.MOVED} <= names | {""}


def test_no_spelling_is_taken_twice() -> None:
    serve = cli.commands.commands["serve"]
    spellings = [word for p in serve.params for word in (*p.opts, *p.secondary_opts)]
    assert len(spellings) == len(set(spellings))


def test_what_is_not_quite_the_same_is_said(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    served(runs, "-k", "sync", "--worker-connections", "10", *FREE)
    assert capsys.readouterr().err.splitlines() == [
        "fastcluster: note: --worker-class sync is taken as --interface wsgi",
        "fastcluster: note: --worker-connections 10 is taken as --limit-connections 10",
    ]


PROXIES: list[tuple[list[str], tuple[str, ...]]] = [
    ([], ()),
    (["--forwarded-allow-ips", "10.0.0.0/8,::1"], ("10.0.0.0/8", "::1")),
    (["--forwarded-allow-ips=10.0.0.1", "--forwarded-allow-ips=unix"], ("10.0.0.1", "unix")),
    (["--proxy-headers"], ("127.0.0.1", "::1")),
    (["--proxy-headers", "--forwarded-allow-ips", "*"], ("*",)),
    (["--no-proxy-headers"], ()),
]


@pytest.mark.parametrize(("words", "expected"), PROXIES)
def test_whose_word_is_taken(runs: Runs, words: list[str], expected: tuple[str, ...]) -> None:
    assert served(runs, *words, *FREE).forwarded_allow_ips == expected


def test_a_proxy_has_to_be_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--forwarded-allow-ips", "balancer"]) == 2
    assert "--forwarded-allow-ips wants addresses" in capsys.readouterr().err


@pytest.mark.parametrize("flag", sorted(cli.NOT_YET))
def test_what_is_not_there_yet_is_said_with_a_way_out(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", flag]) == 2
    assert capsys.readouterr().err == (
        f"fastcluster: {flag} is not there yet: {cli.NOT_YET[flag]}\n"
    )


def test_what_there_is_one_of_may_be_named(runs: Runs) -> None:
    words = ["--http", "h11", "--ws", "auto", "--h11-max-incomplete-event-size", "20000"]
    assert served(runs, *words, *FREE).limit_request_head_bytes == 20000


def test_a_misspelt_variable_is_said(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FASTCLUSTER_WORKRES", "3")
    served(runs, *FREE)
    assert "note: FASTCLUSTER_WORKRES in the environment is no option" in capsys.readouterr().err


# ---- the application

FOUND = [
    ("app.py", "app = 1\n", "app:app"),
    ("main.py", "app = 1\n", "main:app"),
    ("wsgi.py", "application = 1\n", "wsgi:application"),
    ("asgi.py", "application = 1\n", "asgi:application"),
]


@pytest.mark.parametrize(("name", "content", "spec"), FOUND)
def test_an_application_of_the_folder_is_found(
    runs: Runs, name: str, content: str, spec: str
) -> None:
    an_app(name, content)
    assert served(runs, *FREE).app == spec


def test_without_one_there_is_a_welcome(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(welcome, "workers", 0)
    settings = served(runs, *FREE, "-w", "3", "--interface", "wsgi", "--factory")
    assert settings.app == "fastcluster.welcome:handler"
    assert (settings.interface, settings.factory) == ("native", False)
    assert welcome.workers == 3


# ---- listening sockets


def test_all_addresses_are_opened_before_the_fork(runs: Runs) -> None:
    served(runs, *FREE, "-b", "unix:a.sock", "--uds", "b.sock")
    assert runs.names[0][0] == "127.0.0.1"
    assert runs.names[1:] == ["a.sock", "b.sock"]


def test_host_and_port(runs: Runs) -> None:
    served(runs, "--host", "localhost", "--port", "0")
    assert runs.names[0][0] == "127.0.0.1"


def test_sockets_are_closed_afterwards(runs: Runs) -> None:
    served(runs, "--uds", "a.sock")
    assert not Path("a.sock").exists()


def test_an_inherited_descriptor(runs: Runs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        name = given.getsockname()
        served(runs, "--fd", str(given.detach()))
    assert runs.names == [name]


def test_one_bad_address_closes_the_good_ones(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", "-b", "unix:a.sock", "-b", "unix:no/b.sock"]) == 4
    assert not Path("a.sock").exists()
    assert runs.settings is None
    assert capsys.readouterr().err.startswith("fastcluster: there is no folder no")


# ---- mistakes: one line that names the mend, and the exit code

MISTAKES: list[tuple[tuple[str, ...], int, str]] = [
    (("serve", "--workers", "many"), 2, "--workers wants a whole number from 1 to 1024, or auto"),
    (("serve", "--workers", "0"), 2, "--workers wants a whole number from 1 to 1024, or auto"),
    (("serve", "--worker", "3"), 2, "No such option '--worker'"),
    (("serve", "--daemon"), 2, "--daemon is not there yet"),
    (("serve", "--bind"), 2, "Option '--bind' requires an argument"),
    (("serve", "app:app", "more"), 2, "'app:app' is mounted nowhere: where there are several"),
    (("serve", "--bind", "a:1", "--port", "2"), 2, "--bind and --port both say where to listen"),
    (("serve", "--bind", "a:b"), 2, "'a:b' is no address to listen on: 'b' is no number"),
    (("serve", "--env", "test"), 2, "--env wants one of production, development, not 'test'"),
    (("serve", "-k", "gevent"), 2, "--worker-class gevent is not to be had here: leave it out"),
    (("serve", "-k", "sync", "--interface", "asgi"), 2, "--worker-class and --interface do not ag"),
    (("serve", "--umask", "9"), 2, '--umask wants an octal number such as "007", as a text'),
    (("serve", "--chdir", "nowhere"), 2, "cannot work in 'nowhere' (No such file or directory)"),
    (("serve", "--user", "no-such-user"), 2, "there is no user no-such-user: make it, or mend"),
    (("serve", "--group", "no-such-one"), 2, "there is no group no-such-one: make it, or mend"),
    (("serve", "-c", "gunicorn.conf.py"), 2, "cannot read gunicorn.conf.py: No such file"),
    (("app:app", "-w", "3"), 2, "did you mean fastcluster serve app:app -w 3?"),
    (("--bogus",), 2, "No such option '--bogus'"),
    (("serve", "ap:app"), 3, "there is no module 'ap' in"),
    (("serve", "ap:app"), 3, "did you mean 'app:app'?"),
    (("serve", "app.py"), 3, "'app.py' is a file, not a module: did you mean 'app:app'?"),
    (("serve", "--app-dir", "nowhere"), 3, "there is no folder 'nowhere': mend --app-dir"),
    (("serve", "app:app", "--app-dir", "nowhere"), 3, "there is no folder 'nowhere'"),
    (("serve", "--bind", "unix:no/where.sock"), 4, "there is no folder no for unix:no/where.sock"),
    (("serve", "--bind", "192.0.2.1:80"), 4, "this machine has no address 192.0.2.1"),
    (("serve", "--fd", "987"), 4, "descriptor 987 is not open"),
    (("serve", "\x1b[31m\nred:app"), 3, r"'\x1b[31m\nred:app' is no name of an application"),
]


@pytest.mark.parametrize(("words", "code", "message"), MISTAKES)
def test_a_mistake_is_one_line(
    runs: Runs,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    an_app()
    assert cli.main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fastcluster: ")
    assert message in err
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert runs.settings is None


def test_a_port_in_use(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--port", str(port)]) == 4
    assert capsys.readouterr().err == (
        f"fastcluster: port {port} on 127.0.0.1 is in use by another process; "
        "choose another with --bind or stop it\n"
    )


def test_what_nobody_expected_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object) -> int:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(cli, "_run", broken)
    assert cli.main(["serve", *FREE]) == 1
    assert capsys.readouterr().err == (
        "fastcluster: unexpected RuntimeError: two lines (FASTCLUSTER_DEBUG=1 shows where)\n"
    )


def test_a_traceback_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FASTCLUSTER_DEBUG", "1")
    assert cli.main(["serve", "nothing:app"]) == 3
    err = capsys.readouterr().err
    assert err.startswith("fastcluster: there is no module")
    assert "Traceback (most recent call last):" in err


def test_an_interrupt_before_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main(["serve", "--uds", "a.sock"]) == 1
    assert capsys.readouterr().err.strip() == "fastcluster: interrupted"
    assert not Path("a.sock").exists()


# ---- the primary is called as it wants to be


def test_the_primary_gets_workers_sockets_and_a_board(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []

    def run(*words: Any, **more: Any) -> int:
        called.extend(words)
        return 7

    names = ("primary", "server", "supervisor", "worker")
    primary, server, supervisor, worker = (ModuleType(name) for name in names)
    vars(primary).update(slots_for=lambda most: most + 1)
    vars(supervisor).update(run=run)
    vars(server).update(Board=lambda slots: f"board of {slots}")
    vars(worker).update(main="the life of a worker")
    for module in (primary, server, supervisor, worker):
        monkeypatch.setattr(fastcluster, module.__name__, module, raising=False)
    assert cli.main(["serve", *FREE, "-w", "3"]) == 7
    settings, listeners, main, board, read_again = called
    assert read_again() == settings
    assert settings.workers == 3
    assert len(listeners) == 1
    assert (main, board) == ("the life of a worker", "board of 17")


def test_a_server_that_was_not_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("primary", "server", "supervisor", "worker"):
        monkeypatch.delattr(fastcluster, name, raising=False)
        monkeypatch.setitem(sys.modules, f"fastcluster.{name}", None)
    assert cli.main(["serve", *FREE]) == 2
    assert capsys.readouterr().err.startswith("fastcluster: the server cannot be loaded: ")


# ---- words for people


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    line = capsys.readouterr().out
    assert re.fullmatch(
        rf"fastcluster {re.escape(fastcluster.__version__)} "
        r"\(parser [^,]+, \w+ 3\.\d+\.\S+, \w+ \S+\)\n",
        line,
    )


@pytest.mark.parametrize(("door", "words"), [("llhttp", "parser llhttp"), (None, "not to be had")])
def test_the_version_names_the_parsers_door(
    monkeypatch: pytest.MonkeyPatch, door: str | None, words: str
) -> None:
    parser = None
    if door is not None:
        parser = ModuleType("fastcluster.parser")
        vars(parser).update(parser_name=lambda: door)
    monkeypatch.setitem(sys.modules, "fastcluster.parser", parser)
    assert words in cli.version()


def test_the_help_is_grouped_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--help"]) == 0
    text = capsys.readouterr().out
    sections = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert sections == [*config.GROUPS, "Other"]
    for option in config.OPTIONS:
        if option.name != "app":
            name = f"--[no-]{option.flag[2:]}" if option.kind.is_switch else option.flag
            assert f" {name}" in text
    for hidden in ("--worker-class", "--keep-alive ", "--uds ", "--working-dir", "--pythonpath"):
        assert f" {hidden}" not in text
    assert max(map(len, text.splitlines())) <= 100


DEFAULTS = ["[64k]", "[1M]", "[8190]", "[75]", "[auto, or WEB_CONCURRENCY]", "[on]", "[666]"]


@pytest.mark.parametrize("default", DEFAULTS)
def test_the_help_shows_defaults(capsys: pytest.CaptureFixture[str], default: str) -> None:
    cli.main(["serve", "--help"])
    assert default in " ".join(capsys.readouterr().out.split())


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert re.search(r"serve +Serve an application\.", capsys.readouterr().out)


# ---- as a process


def process(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastcluster", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


PROCESSES = [
    (("--version",), 0, "", r"fastcluster \d"),
    (("serve", "--help"), 0, "", "Usage: fastcluster serve"),
    (("serve", "--wrong"), 2, "fastcluster: No such option", ""),
    (("serve", "nothing:app"), 3, "fastcluster: there is no module 'nothing'", ""),
    (("serve", "--fd", "987"), 4, "fastcluster: descriptor 987 is not open", ""),
]


@pytest.mark.parametrize(("words", "code", "err", "out"), PROCESSES)
def test_as_a_module(words: tuple[str, ...], code: int, err: str, out: str) -> None:
    done = process(*words)
    assert done.returncode == code
    assert done.stderr.startswith(err)
    assert "Traceback" not in done.stderr
    assert re.match(out, done.stdout)


def test_help_loads_nothing_of_the_server() -> None:
    script = (
        "import sys; from fastcluster.cli import main; main(['serve', '--help']);"
        "heavy = {'asyncio', 'socket', 'logging', 'httptools', 'importlib.metadata'};"
        "ours = {'fastcluster.' + n for n in ('server', 'primary', 'worker', 'apps', 'parser')};"
        "print(sorted((heavy | ours) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_help_names_no_command_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["serve", "--help"])
    words = re.findall(r"`fastcluster\s+(\w+)", capsys.readouterr().out)
    assert set(words) <= set(cli.commands.commands)


# ---- config, env files, apps in a file


def test_variables_of_a_file_are_options_too(
    runs: Runs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    an_app()
    monkeypatch.setenv("FASTCLUSTER_BACKLOG", "5")
    (folder / "my.env").write_text("FASTCLUSTER_THREADS=3\nFASTCLUSTER_BACKLOG=4\nFC_WORD=one\n")
    (folder / "fastcluster.toml").write_text('env-file = "my.env"\n')
    try:
        settings = served(runs, *FREE)
        assert (settings.threads, settings.backlog) == (3, 5)
        assert os.environ["FC_WORD"] == "one"
        (folder / "my.env").write_text("FASTCLUSTER_THREADS=4\nFC_OTHER=two\n")
        assert runs.read_again().threads == 4
        assert "FC_WORD" not in os.environ
        assert os.environ["FC_OTHER"] == "two"
    finally:
        config.set_variables({})


def test_a_reload_finds_the_folder_by_its_name(
    runs: Runs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("r1", "r2"):
        (folder / name).mkdir()
        an_app(f"{name}/app.py")
    current = folder / "current"
    current.symlink_to("r1")
    monkeypatch.chdir(current)
    monkeypatch.setenv("PWD", str(current))
    served(runs, "app:app", *FREE)
    assert str(folder / "r1") in sys.path
    current.unlink()
    current.symlink_to("r2")
    runs.read_again()
    assert os.getcwd() == str(folder / "r2")
    assert str(folder / "r2") in sys.path
    assert str(folder / "r1") not in sys.path


def test_a_file_of_several_apps_needs_to_be_told_which(
    runs: Runs, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    an_app("site1.py")
    (folder / "fastcluster.toml").write_text('[apps.web]\napp = "site1:app"\n[apps.api]\n')
    assert cli.main(["serve", *FREE]) == 2
    assert (
        "has several apps (web, api): fastcluster start serves them all" in capsys.readouterr().err
    )
    assert served(runs, *FREE, "--table", "web").app == "site1:app"
    assert runs.settings is not None
    assert runs.settings.name == "web"
