"""What `fastcluster config` prints."""

import json
import tomllib
from pathlib import Path

from test_config import EXAMPLES

from fastcluster import config_report
from fastcluster.config import OPTIONS, explain


def test_each_option_has_its_value_and_who_said_so(tmp_path: Path) -> None:
    file = tmp_path / "fastcluster.toml"
    file.write_text("threads = 3\n[env.production]\nbacklog = 9\n")
    explained = explain({"workers": "2"}, {"FASTCLUSTER_UMASK": "027", "PORT": "80"}, file)
    lines = config_report.as_text(explained).splitlines()
    assert lines[:2] == ["# environment production", f"# file {file}"]
    rows = {line.partition("  #")[0].strip(): line.rpartition("# ")[2] for line in lines[3:]}
    assert rows["workers = 2"] == "--workers"
    assert rows["threads = 3"] == "threads in fastcluster.toml"
    assert rows["backlog = 9"] == "env.production.backlog in fastcluster.toml"
    assert rows['umask = "027"'] == "FASTCLUSTER_UMASK"
    assert rows['bind = ["0.0.0.0:80"]'] == "PORT"
    assert rows["timeout-head = 10"] == "default"
    assert rows["# pid-file: not set"] == "default"


def test_the_text_is_a_file_that_says_the_same(tmp_path: Path) -> None:
    flags = {name: text for name, (text, _) in EXAMPLES.items()}
    for given in ({}, flags):
        explained = explain(given, {}, None)
        secret = explained.config.dashboard_token
        file = tmp_path / "fastcluster.toml"
        file.write_text(config_report.as_text(explained))
        assert tomllib.loads(file.read_text())
        told = {} if secret is None else {"dashboard_token": secret}
        assert explain(told, {}, file).config == explained.config
        assert secret is None or secret not in file.read_text()


def test_as_json(tmp_path: Path) -> None:
    report = json.loads(config_report.as_json(explain({"workers": "2"}, {}, None)))
    assert report["environment"] == "production"
    assert report["file"] is None
    assert report["options"]["workers"] == {"value": 2, "from": "--workers"}
    assert report["options"]["bind"] == {"value": ["127.0.0.1:8000"], "from": "default"}
    assert len(report["options"]) == len(OPTIONS)
