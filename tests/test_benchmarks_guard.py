"""The guard's judging with figures that are given; `make guard` counts real ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

# At the end, so that an installed fastcluster comes before the source tree's.
sys.path.append(str(Path(__file__).parent.parent))

from benchmarks import __main__ as command
from benchmarks import guard, instructions, process, report
from benchmarks.workloads import WORKLOADS

KEY = "CPython 3.99.0 (GCC 1.0), fastcluster by GCC 1.0, pdp11"
KEPT = {"native hello": 1000.0, "wsgi hello": 2000.0, "asgi hello": 3000.0}


def run(monkeypatch: pytest.MonkeyPatch, file: Path, counted: dict[str, float], *words: str) -> str:
    """Run the command on a machine of the key KEY where so much is counted."""
    monkeypatch.setattr(guard, "key", lambda: KEY)
    monkeypatch.setattr(guard, "count", lambda tell: counted)
    monkeypatch.setattr(instructions, "check_installed", lambda: None)
    ran = CliRunner().invoke(command.main, ["guard", "--file", str(file), *words])
    return f"exit {ran.exit_code}\n{ran.output}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "guard.json"
    path.write_text(json.dumps({KEY: KEPT}))
    return path


def test_up_to_the_tolerance_nothing_is_said() -> None:
    counted = {"native hello": 1030.0, "wsgi hello": 1940.0, "asgi hello": 3000.0}
    assert guard.judge(KEPT, counted) == guard.Verdict()


def test_growth_and_fall_are_named_with_their_figures() -> None:
    counted = {"native hello": 1031.0, "wsgi hello": 1900.0, "asgi hello": 3000.0}
    assert guard.judge(KEPT, counted) == guard.Verdict(
        grown=["native hello: 1,000 to 1,031 (+3.1 %)"],
        fallen=["wsgi hello: 2,000 to 1,900 (-5.0 %)"],
    )


def test_a_figure_that_nothing_guards_is_missing() -> None:
    counted = {"native hello": 1000.0, "wsgi hello": 2000.0, "asgi browser": 1.0}
    assert guard.judge(KEPT, counted).missing == ["asgi browser", "asgi hello"]


def test_growth_fails(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    said = run(monkeypatch, file, {**KEPT, "wsgi hello": 2100.0})
    assert said.startswith("exit 1\n")
    assert "GREW by more than 3 %: wsgi hello: 2,000 to 2,100 (+5.0 %)" in said


def test_a_fall_passes_and_asks_for_an_update(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    said = run(monkeypatch, file, {**KEPT, "wsgi hello": 1500.0})
    assert said.startswith("exit 0\n")
    assert "fell by more than 3 %: wsgi hello" in said
    assert "guard --update" in said


def test_a_figure_without_a_guard_fails(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    said = run(monkeypatch, file, {**KEPT, "wsgi browser": 1.0})
    assert said.startswith("exit 1\n")
    assert "only in the file, or only counted: wsgi browser" in said


def test_the_same_figures_pass(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    said = run(monkeypatch, file, KEPT)
    assert said.startswith("exit 0\n")
    assert "every figure is within 3 %" in said


def test_another_machine_is_not_judged_and_says_so(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    file.write_text(json.dumps({"CPython 3.98": KEPT}))
    said = run(monkeypatch, file, {"native hello": 9e9})
    assert said.startswith("exit 0\n")
    assert f"not judged: {file} has no figures for {KEY}" in said
    assert "CPython 3.98" in said


def test_an_update_keeps_what_others_counted(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    file.write_text(json.dumps({"CPython 3.98": KEPT}))
    said = run(monkeypatch, file, {"native hello": 1234.4}, "--update")
    assert said.startswith("exit 0\n")
    assert guard.read(file) == {"CPython 3.98": KEPT, KEY: {"native hello": 1234.0}}


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {"b": "c"}}'])
def test_a_bad_file_is_one_line(monkeypatch: pytest.MonkeyPatch, file: Path, text: str) -> None:
    file.write_text(text)
    said = run(monkeypatch, file, KEPT)
    assert said.startswith("exit 2\n")
    assert len(said.splitlines()) == 2
    assert "guard.json is no file of figures" in said


def test_the_compilers_are_read_out_of_the_module() -> None:
    notes = (
        b"\0\0GCC: (Debian 12.2.0-14) 12.2.0\0GCC: (Debian 12.2.0-14) 12.2.0\0clang version 16.0.6"
    )
    assert guard.compilers(notes) == "GCC 12.2.0 and clang version 16.0.6"
    assert guard.compilers(b"stripped") == "an unknown compiler"


def test_the_key_names_python_and_architecture() -> None:
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}." in guard.key()
    assert guard.read(Path("/nonexistent/guard.json")) == {}


def test_the_file_in_the_repository_has_every_figure() -> None:
    kept = guard.read()
    names = {f"{one} {name}" for one in guard.INTERFACES for name in guard.GUARDED}
    assert kept
    assert all(set(figures) == names for figures in kept.values())
    assert guard.REQUESTS % max(WORKLOADS[name].depth for name in guard.GUARDED) == 0


def test_the_table_has_what_was_and_what_is() -> None:
    text = report.guarded(KEY, {"native hello": 1000.0}, {"native hello": 1010.0, "new": 5.0})
    assert "| native hello | 1,000 | 1,010 | +1.00 |" in text
    assert "| new |  | 5 |  |" in text


def test_a_server_that_wrote_no_count_is_no_figure() -> None:
    with pytest.raises(process.ServerFailed, match="no process counted"):
        instructions.per_request([500, 90], [490, 95], 100)
    assert instructions.per_request([500, 90], [490, 1_000_090], 100) == 10_000
