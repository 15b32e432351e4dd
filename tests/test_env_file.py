"""--env-file: what its lines mean, and which are none."""

from pathlib import Path

import pytest

from fastcluster import env_file, surroundings
from fastcluster.errors import UsageError

LINES = [
    ("A=1", {"A": "1"}),
    ("A = 1 ", {"A": "1"}),
    ("export A=1", {"A": "1"}),
    ("  A=1", {"A": "1"}),
    ("A=", {"A": ""}),
    ("A=\nB=2", {"A": "", "B": "2"}),
    ("# no\n\n  # no\nA=1\n\n", {"A": "1"}),
    ("A=1 # why", {"A": "1"}),
    ("A=a#b", {"A": "a#b"}),
    ("A=# why", {"A": ""}),
    ("A='it # is ${B}' # why", {"A": "it # is ${B}"}),
    ('A="it # is" # why', {"A": "it # is"}),
    (r'A="a\nb\"c\\d\q"', {"A": 'a\nb"c\\d\\q'}),
    (r"A='a\nb'", {"A": r"a\nb"}),
    ('A="one\ntwo"\nB=3', {"A": "one\ntwo", "B": "3"}),
    ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
    ("A=1\nA=2", {"A": "2"}),
    ("URL=postgres://u:p@h/db?x=y", {"URL": "postgres://u:p@h/db?x=y"}),
    ("A=1\nB=${A}/b", {"A": "1", "B": "1/b"}),
    ('B="${HOME}/b"', {"B": "/home/me/b"}),
    ("B=${NONE:-x}${NONE}", {"B": "x"}),
    (r'B="\${HOME}"', {"B": "${HOME}"}),
    ("A=$HOME", {"A": "$HOME"}),
    ("", {}),
    ("\n", {}),
    ("   ", {}),
]


@pytest.mark.parametrize(("text", "wanted"), LINES)
def test_what_lines_mean(text: str, wanted: dict[str, str]) -> None:
    assert env_file.parse(text, "f", {"HOME": "/home/me"}) == wanted


@pytest.mark.parametrize(
    ("text", "number"), [("A=1\nhello\n", 2), ("A='x", 1), ('A="x" y', 1), ("1A=2", 1), ("=2", 1)]
)
def test_a_line_that_is_none_is_named(text: str, number: int) -> None:
    with pytest.raises(UsageError, match=f"^--env-file: line {number} of my.env is no NAME=value$"):
        env_file.parse(text, "my.env", {})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--env-file: cannot read .*: No such file"):
        env_file.read(tmp_path / "none", {})
    (tmp_path / "latin").write_bytes(b"A=\xff")
    with pytest.raises(UsageError, match="is not UTF-8"):
        env_file.read(tmp_path / "latin", {})
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfA=1")
    assert env_file.read(tmp_path / "marked", {}) == {"A": "1"}


def test_variables_take_the_place_of_those_of_the_last_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import os

    monkeypatch.setenv("FC_MINE", "mine")
    try:
        surroundings.set_variables({"FC_MINE": "theirs", "FC_A": "1", "FC_B": "1"})
        assert [os.environ.get(name) for name in ("FC_MINE", "FC_A", "FC_B")] == ["mine", "1", "1"]
        surroundings.set_variables({"FC_B": "2"})
        assert [os.environ.get(name) for name in ("FC_MINE", "FC_A", "FC_B")] == ["mine", None, "2"]
    finally:
        surroundings.set_variables({})
    assert "FC_B" not in os.environ
