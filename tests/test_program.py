"""The main program, run from its top in a forked worker, however it was started."""

from pathlib import Path

import pytest
from cluster_parts import ran

from fastcluster import program
from fastcluster.errors import UsageError

ROLES = """
import random
import math_of_mine
if cluster.is_primary:
    math_of_mine.changed = True
    @cluster.on("exit")
    def died(worker, code, signal): say("primary", __name__, sys.argv[1:], code)
    cluster.fork()
    if "run" not in sys.argv:
        cluster.run()
else:
    say("worker", __name__, sys.argv[1:], hasattr(math_of_mine, "changed"))
"""


@pytest.mark.parametrize("command", ["python", "module", "run"])
def test_the_program_runs_again_with_its_arguments_and_imports(
    tmp_path: Path, command: str
) -> None:
    (tmp_path / "math_of_mine.py").write_text("")
    said = ran(tmp_path, ROLES, command, "--flag", command=command)
    words = [command, "--flag"]
    assert said == [["worker", "__main__", words, True], ["primary", "__main__", words, 0]]


def test_a_script_that_is_not_there_is_a_mistake_of_the_user() -> None:
    with pytest.raises(UsageError, match="no script"):
        program.run_script("nowhere.py", [])
