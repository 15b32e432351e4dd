"""The exit codes are a promise to scripts, and the errors travel between processes."""

import pickle
import re
from pathlib import Path

import pytest

from fastcluster import errors

KINDS = [
    (errors.FastclusterError, 1),
    (errors.UsageError, 2),
    (errors.AppLoadError, 3),
    (errors.BindError, 4),
]


@pytest.mark.parametrize(("kind", "code"), KINDS)
def test_each_error_has_its_exit_code(kind: type[errors.FastclusterError], code: int) -> None:
    assert kind("no").exit_code == code
    assert issubclass(kind, errors.FastclusterError)


def test_exit_codes_are_what_the_documentation_says() -> None:
    codes = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert codes == {
        "EXIT_OK": 0,
        "EXIT_UNEXPECTED": 1,
        "EXIT_USAGE": 2,
        "EXIT_APP": 3,
        "EXIT_BIND": 4,
    }


@pytest.mark.parametrize(("kind", "code"), KINDS)
def test_an_error_survives_the_way_to_another_process(
    kind: type[errors.FastclusterError], code: int
) -> None:
    there = pickle.loads(pickle.dumps(kind("no module named 'x'", "Traceback …")))
    assert type(there) is kind
    assert (str(there), there.detail, there.exit_code) == (
        "no module named 'x'",
        "Traceback …",
        code,
    )


def test_the_text_of_an_error_leaves_the_detail_out() -> None:
    assert str(errors.AppLoadError("one line", "many\nlines")) == "one line"


def test_no_other_file_defines_an_exit_code() -> None:
    house = Path(errors.__file__).parent
    others = [path for path in house.glob("*.py*") if path.suffix in (".py", ".pyx")]
    others.remove(house / "errors.py")
    assert others
    # EXIT_…_S is a duration.  A bare number is an exit code without a name.
    defines = re.compile(r"^\s*EXIT_\w+(?<!_S)\s*=|\b_?exit\(\d", re.MULTILINE)
    guilty = [path.name for path in others if defines.search(path.read_text())]
    assert guilty == []
