"""All sources of options together; their order is in test_config.py and test_tables.py."""

from pathlib import Path

import pytest

from fastcluster import sources
from fastcluster.config import OPTIONS, SPELLINGS
from fastcluster.errors import UsageError
from fastcluster.layers import Given


def gather(
    flags: dict[str, object], environ: dict[str, str], file: Path | None = None
) -> dict[str, Given]:
    return sources.gather(OPTIONS, SPELLINGS, flags, environ, file, None, [], ("production",))


def test_only_what_somebody_named_is_there_and_by_whom() -> None:
    chosen = gather({"threads": "2"}, {"FASTCLUSTER_BACKLOG": "5"})
    assert chosen.pop("env") == Given("", "production")
    assert chosen.pop("bind") == Given("", ("127.0.0.1:8000",))
    assert chosen == {
        "threads": Given("--threads", 2),
        "backlog": Given("FASTCLUSTER_BACKLOG", 5),
    }


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "fastcluster.toml"
    file.write_text("threds = 1\n")
    with pytest.raises(UsageError) as caught:
        gather({"threads": "x", "env": "none"}, {"PORT": "y"}, file)
    words = str(caught.value)
    for label in ("threds", "--threads", "--env wants one of production, not 'none'", "PORT"):
        assert label in words


@pytest.mark.parametrize("value", [True, "true", "1", "Yes"])
def test_who_reloads_develops(value: object) -> None:
    assert gather({"reload": value, "env": "production"}, {})["env"].value == "production"
    with pytest.raises(UsageError, match="--reload wants one of production, not 'development'"):
        gather({"reload": value}, {})
