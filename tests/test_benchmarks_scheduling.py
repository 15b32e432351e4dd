"""benchmarks.scheduling: its arithmetic, and one short run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from require import require_program

# At the end, so that an installed fastcluster comes before the source tree's.
sys.path.append(str(Path(__file__).parent.parent))

from benchmarks import scheduling
from benchmarks.scheduling import Cost


def test_the_table_has_medians_and_names_errors() -> None:
    runs = [Cost(30.0, 0.0, 1000, 0), Cost(10.0, 2.0, 3000, 0), Cost(20.0, 4.0, 2000, 0)]
    lines = scheduling.table({"none": runs, "rr": [Cost(5.0, 1.0, 10, 7)]}).splitlines()
    assert lines[2] == "| none | 20.0 | 10.0 to 30.0 | 2.0 | 2,000 |"
    assert lines[3] == "| rr | 5.0 | 5.0 to 5.0 | 1.0 | 10 | 7 errors"


def test_a_run_of_the_policy_in_which_the_primary_works() -> None:
    require_program("wrk", package="wrk")
    require_program("taskset", package="util-linux")
    core = min(os.sched_getaffinity(0))
    cost = scheduling.measure("rr", workers=2, seconds=1, connections=8, core=core, warm_up_s=0)
    assert cost.errors == 0
    assert cost.rate > 0
    assert 0 < cost.primary_us < cost.all_us < 100_000
