"""require.py: a lack skips a test on a developer's machine and fails it in CI."""

import pytest
from require import require_module, require_program

LACKS = [
    (require_program, "no-such-program"),
    (require_module, "no_such_module"),
    (require_module, "json.no_such_module"),
]


@pytest.mark.parametrize(("require", "name"), LACKS)
@pytest.mark.parametrize(
    ("in_ci", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)]
)
def test_a_lack_names_the_package(monkeypatch, require, name, in_ci, outcome):
    monkeypatch.setenv("FASTCLUSTER_CI", in_ci)
    with pytest.raises(outcome, match=f"{name} is not installed.* the package parcel"):
        require(name, package="parcel")


def test_what_is_there_is_returned():
    import json

    assert require_program("sh", package="dash").endswith("/sh")
    assert require_module("json", package="python3") is json


def test_a_module_that_fails_to_import_another_is_not_called_missing(monkeypatch, tmp_path):
    (tmp_path / "lame_module.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        require_module("lame_module", package="parcel")
