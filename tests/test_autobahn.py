"""A sensible part of the Autobahn testsuite; `make autobahn` runs all of its cases.

What is left out, 9.* and most of 12.* and 13.*, is of the same kinds, but longer.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from require import require_program

ROOT = Path(__file__).parent.parent

# Framing, control frames, reserved bits and opcodes, fragments, UTF-8, closing; then
# one case of each kind of compression.
CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]
COMPRESSED = ["12.1.1", "12.2.1", "12.3.1", "13.1.1", "13.2.1", "13.3.1", "13.5.1", "13.7.1"]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("cases", "count"), [(CASES, 247), (COMPRESSED, 8)], ids=["plain", "compressed"]
)
def test_no_case_fails(cases: list[str], count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.pathsep.join([str(ROOT / ".venv-autobahn" / "bin"), os.environ["PATH"]])
    monkeypatch.setenv("PATH", path)
    wstest = require_program("wstest", package="autobahntestsuite (make .venv-autobahn/.ready)")
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "autobahn" / "run.py"), "--wstest", wstest, *cases],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
    )
    assert result.returncode == 0, result.stdout
    assert f"{count} cases: " in result.stdout, "the suite has run other cases"
