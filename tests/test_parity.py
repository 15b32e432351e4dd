"""Every line of Node's own tests is shown by one of ours, or said not to be; the page is made."""

from __future__ import annotations

import parity

from fastcluster import cluster

NAMES = [name for lines in parity.LINES.values() for name in lines]


def test_every_line_is_shown_by_a_test_or_said_not_to_be() -> None:
    shown = {line for proof in parity.proofs() for line in proof.lines}
    assert set(NAMES) - shown == set(parity.WITHOUT)


def test_markers_name_lines_that_there_are() -> None:
    for proof in parity.proofs():
        assert proof.lines and set(proof.lines) <= set(NAMES), proof


def test_all_lines_are_there_once() -> None:
    # 77 files of Node's that are named test-cluster-*, and five beside them.
    assert len(NAMES) == len(set(NAMES)) == 82
    assert sum(name.startswith("test-cluster-") for name in NAMES) == 77


def test_the_page_is_made_of_the_markers() -> None:
    assert parity.OUTPUT.read_text() == parity.page(), "run: python tests/parity.py"


def test_no_line_waits_for_what_is_there() -> None:
    # Whoever brings it takes the guard away, so that nothing is skipped for ever.
    if hasattr(cluster, "SCHED_RR"):
        assert [proof.file for proof in parity.proofs() if proof.waits] == []
