"""The tables of a file: what all share, profiles, apps, and what stands in none of them."""

from pathlib import Path

import pytest

from fastcluster import tables
from fastcluster.config import SPELLINGS, Config, explain
from fastcluster.errors import UsageError

FILE = """
threads = 1
backlog = 1
app = "site:app"
[env.production]
threads = 2
timeout-body = 2
[apps.api]
app = "api:app"
threads = 3
port = 8001
[apps.api.env.production]
threads = 4
[apps.admin]
name = "back-office"
env = "development"
[env.staging]
workers = 9
"""

CASES = [
    # app, environment, (threads, backlog, timeout_body_s, app)
    (None, "development", (1, 1, 60.0, "site:app")),
    (None, "production", (2, 1, 2.0, "site:app")),
    ("api", "development", (3, 1, 60.0, "api:app")),
    ("api", "production", (4, 1, 2.0, "api:app")),
]


def written(folder: Path, content: str = FILE, name: str = "fastcluster.toml") -> Path:
    path = folder / name
    path.write_text(content)
    return path


@pytest.mark.parametrize(("app", "env", "wanted"), CASES)
def test_what_is_nearer_is_stronger(
    tmp_path: Path, app: str | None, env: str, wanted: tuple[object, ...]
) -> None:
    found = Config.from_sources({"env": env}, {}, written(tmp_path), app)
    assert (found.threads, found.backlog, found.timeout_body_s, found.app) == wanted


def test_the_environment_and_flags_win_over_profiles(tmp_path: Path) -> None:
    environ = {"FASTCLUSTER_THREADS": "7", "FASTCLUSTER_ENV": "production"}
    assert Config.from_sources({}, environ, written(tmp_path), "api").threads == 7
    assert Config.from_sources({"threads": "8"}, environ, written(tmp_path), "api").threads == 8


def test_who_said_what(tmp_path: Path) -> None:
    origins = explain({"backlog": "5"}, {}, written(tmp_path), "api").origins
    assert origins["backlog"] == "--backlog"
    assert origins["threads"] == "apps.api.env.production.threads in fastcluster.toml"
    assert origins["timeout_body_s"] == "env.production.timeout-body in fastcluster.toml"
    assert origins["app"] == "apps.api.app in fastcluster.toml"
    assert origins["bind"] == "apps.api.port in fastcluster.toml"
    assert "workers" not in origins


def test_an_app_is_called_what_its_table_is(tmp_path: Path) -> None:
    assert Config.from_sources({}, {}, written(tmp_path), "api").name == "api"
    assert Config.from_sources({}, {}, written(tmp_path), "admin").name == "back-office"
    assert Config.from_sources({"name": "x"}, {}, written(tmp_path), "api").name == "x"
    assert Config.from_sources({}, {}, written(tmp_path)).name is None


def test_a_file_may_choose_the_environment(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert Config.from_sources({}, {}, file, "admin").env == "development"
    assert Config.from_sources({"env": "production"}, {}, file, "admin").env == "production"
    assert Config.from_sources({}, {"FASTCLUSTER_ENV": "staging"}, file).workers == 9


def test_pyproject_has_them_in_its_own_table(tmp_path: Path) -> None:
    content = "[tool.fastcluster]\nthreads = 1\n[tool.fastcluster.env.production]\nthreads = 2\n"
    file = written(tmp_path, content, "pyproject.toml")
    assert Config.from_sources({}, {}, file).threads == 2
    assert Config.from_sources({"env": "development"}, {}, file).threads == 1


COMPLAINTS = [
    ("threds = 1", None, "has 'threds', which is no option: did you mean 'threads'?"),
    ("[env.prod]\nthreds = 1", None, "has 'env.prod.threds', which is no option: did you mean"),
    ("[apps.a]\nworkerz = 1", None, "has 'apps.a.workerz', which is no option: did you mean"),
    ("[apps.a.env.x]\nzzz = 1", None, "has 'apps.a.env.x.zzz', which is no option: take it out"),
    ("[app]\nx = 1", None, "app in fastcluster.toml wants module:name"),
    ("[env.prod]\nenv = 'x'", None, "a profile cannot choose another environment"),
    ("[env]\nproduction = 3", None, "write [env.NAME] and the options below it"),
    ("apps = 3", None, "write [apps.NAME] and the options below it"),
    ("[apps]\na = 3", None, "write [apps.NAME] and the options below it"),
    ("env = 3", None, "env in fastcluster.toml wants"),
    ("env = ['x']", None, "env in fastcluster.toml wants"),
    ("[env.production]\nthreads = 'x'", None, "env.production.threads in fastcluster.toml wants"),
    ("[apps.web]\nthreads = 1", "wed", "has no app 'wed': did you mean 'web'?"),
    ("[apps.web]\n[apps.api]", "zzz", "has no app 'zzz': it has web, api"),
    ("threads = 1", "web", "has no apps: write [apps.web]"),
]


@pytest.mark.parametrize(("content", "app", "words"), COMPLAINTS)
def test_what_is_wrong_is_said(tmp_path: Path, content: str, app: str | None, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Config.from_sources({}, {}, written(tmp_path, content), app)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_environment_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--env wants one of production, development, staging, "):
        Config.from_sources({"env": "stagign"}, {}, written(tmp_path))


def test_no_file_has_no_tables() -> None:
    found = tables.read(None, [])
    assert (found.apps, found.environments(None)) == ({}, [])
    assert found.all(SPELLINGS, None, "production") == [{}, {}]
