"""`fastcluster config`, and what `fastcluster start` finds wrong before it starts anything."""

import re
from pathlib import Path

import pytest

from fastcluster import cli


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_config_shows_what_serve_would_do(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "fastcluster.toml").write_text("threads = 3\n[apps.api]\nbacklog = 7\n")
    monkeypatch.setenv("FASTCLUSTER_WORKERS", "2")
    assert cli.main(["config", "app:app", "--table", "api", "--port", "9"]) == 0
    shown = capsys.readouterr().out
    for words in (
        r'app = "app:app" +# APP',
        r"workers = 2 +# FASTCLUSTER_WORKERS",
        r"threads = 3 +# threads in fastcluster.toml",
        r"backlog = 7 +# apps.api.backlog in fastcluster.toml",
        r'bind = \["127.0.0.1:9"\] +# --port',
    ):
        assert re.search(f"(?m)^{words}$", shown), (words, shown)
    assert cli.main(["config", "--json"]) == 0
    assert '"from": "FASTCLUSTER_WORKERS"' in capsys.readouterr().out


MISTAKES = [
    ("threads = 1", (), "has no apps: write [apps.NAME] into fastcluster.toml"),
    ("[apps.web]\n[apps.api]", ("wep",), "has no app 'wep': did you mean 'web'?"),
    ("[apps.web]\nthreds = 1", (), "has 'apps.web.threds', which is no option: did you mean"),
    ("[apps.web]\n[apps.api]", (), "two apps have the same --bind (127.0.0.1:8000)"),
    ("[apps.a]\nname='x'\n[apps.b]\nport=9\nname='x'", (), "two apps have the same --name (x)"),
]


@pytest.mark.parametrize(("content", "names", "words"), MISTAKES)
def test_mistakes_are_told_before_anything_is_started(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    names: tuple[str, ...],
    words: str,
) -> None:
    (folder / "fastcluster.toml").write_text(content)
    assert cli.main(["start", *names]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_without_a_file_the_mend_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["start"]) == 2
    assert "this folder has no apps" in capsys.readouterr().err
