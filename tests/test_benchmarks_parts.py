"""The C parts' programs: each one builds without a warning, runs, and prints what is read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from require import require_program

# At the end, so that an installed fastcluster comes before the source tree's.
sys.path.append(str(Path(__file__).parent.parent))

from benchmarks import build, parts, report
from benchmarks.machine import CannotMeasure


def test_every_program_is_of_a_part_that_there_is() -> None:
    assert set(parts.stems()) <= {path.stem for path in parts.CSRC.glob("*.c")}
    assert len(parts.stems()) >= 9


def test_a_part_is_built_and_measured() -> None:
    require_program("cc", package="gcc")
    costs = parts.measure(["date"], lambda line: None)
    assert [cost.what for cost in costs] == ["the same second", "another second"]
    assert all(cost.ns > 0 for cost in costs)
    assert "| date | the same second |" in report.part_costs(costs)


def test_what_fails_is_not_measured(tmp_path: Path) -> None:
    require_program("cc", package="gcc")
    source = tmp_path / "bad.c"
    source.write_text('#include <stdio.h>\nint main(void) { fputs("no", stderr); return 3; }\n')
    program = build.program(tmp_path / "bad", source)
    with pytest.raises(CannotMeasure, match="part bad failed: 3 no"):
        parts.run("bad", program)


def test_a_program_is_built_again_when_what_it_stands_on_has_changed(tmp_path: Path) -> None:
    require_program("cc", package="gcc")
    source, header = tmp_path / "x.c", tmp_path / "x.h"
    source.write_text('#include "x.h"\nint main(void) { return X; }\n')
    header.write_text("#define X 1\n")
    target = build.program(tmp_path / "x", source, (), [header])
    first = target.stat().st_mtime_ns
    assert build.program(target, source, (), [header]).stat().st_mtime_ns == first
    later = target.stat().st_mtime + 10
    os.utime(header, (later, later))
    assert build.program(target, source, (), [header]).stat().st_mtime_ns != first


def test_a_part_that_is_none_is_refused() -> None:
    with pytest.raises(CannotMeasure, match="no part is named brain; there are board"):
        parts.measure(["brain"], lambda line: None)
