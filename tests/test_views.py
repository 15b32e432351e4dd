"""views.py: templates are kept or read anew, and what is missing is said."""

import sys
from pathlib import Path

import pytest

from fastcluster.errors import UsageError
from fastcluster.views import Views


@pytest.mark.parametrize(("caches", "second"), [(True, "one &lt;"), (False, "two &lt;")])
def test_a_view_is_kept_or_read_anew(tmp_path: Path, caches: bool, second: str) -> None:
    views = Views(tmp_path, caches)
    (tmp_path / "a.html").write_text("one {{ x }}")
    assert views.render("a.html", {"x": "<"}) == "one &lt;"
    (tmp_path / "a.html").write_text("two {{ x }}")
    assert views.render("a.html", {"x": "<"}) == second


@pytest.mark.parametrize("name", ["none.html", "../secret.html"])
def test_a_view_that_is_not_there(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "views"
    folder.mkdir()
    (tmp_path / "secret.html").write_text("secret")
    with pytest.raises(UsageError, match="there is no view"):
        Views(folder, True).render(name, {})


def test_without_jinja2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match=r"pip install 'fastcluster-server\[templates\]'"):
        Views(tmp_path, True)
