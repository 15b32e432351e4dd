"""Damaged conformance cases: whatever a client sends, nothing breaks but its own connection.

The rows of the conformance table are the seeds; hypothesis damages, joins and
cuts them.  It holds for every input: the server answers with whole HTTP
responses or none, logs no error of its own, keeps serving the bystander, and
what it answers does not depend on how the bytes were cut.  `make sanitize`
runs this under address and undefined-behaviour sanitizers.
"""

import logging
from collections.abc import Iterator

import pytest
from conformance import applications, table
from conformance.reading import Incomplete, read
from harness import Client, Wire
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastcluster.native import NativeHandler

SEEDS = sorted({case.sent for case in table() if len(case.sent) < 2000 and not case.options})
PROBE = b"GET /probe HTTP/1.1\r\nHost: probe\r\n\r\n"
INTERESTING = [b"\r\n", b"\n", b"\r", b"\0", b":", b" ", b"\t", b"0\r\n\r\n", b"chunked", b"\xff"]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = b"".join(draw(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 4))
        piece = draw(st.one_of(st.sampled_from(INTERESTING), st.binary(max_size=3)))
        data = data[:at] + piece + data[at + length :]
    return data


class Stage:
    """One server, its bystander, and what it logged as an error of its own."""

    def __init__(self) -> None:
        # No Date, so that two plays have the same answers.
        self.wire = Wire(NativeHandler, applications.native, date_header=False)
        self.bystander = self.wire.connect()
        self.errors: list[str] = []

    def play(self, data: bytes, cuts: list[int]) -> tuple[bytes, bool]:
        client = self.wire.connect()
        start = 0
        for stop in [*cuts, len(data)]:
            if stop > start and not client.eof:
                client.send(data[start:stop])
                self.turn(client)
            start = stop
        if not client.eof:
            client.shutdown()
        self.wire.turn_until(lambda: client.eof, seconds=5)
        client.close()
        return client.received, client.was_reset

    def turn(self, client: Client) -> None:
        if self.wire.server.turn(0) == 0:
            self.wire.server.turn(5)
        client.pull()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    stage = Stage()
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: stage.errors.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("fastcluster")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    yield stage
    logger.removeHandler(handler)
    logger.propagate = propagate
    stage.wire.close()


def check_answers(received: bytes, sent: bytes) -> None:
    """All that came is whole responses, but for a last one that was cut off."""
    if b"HEAD" in sent:
        return  # which of the answers has no body is not known here
    while received:
        try:
            received = read(received, is_head=False).rest
        except Incomplete:
            assert received.startswith(b"HTTP/1.1 ")
            return


@settings(
    deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damaged(), st.data())
def test_damage_stays_on_its_own_connection(
    stage: Stage, data: bytes, choices: st.DataObject
) -> None:
    whole = stage.play(data, [])
    cuts = sorted(choices.draw(st.lists(st.integers(0, len(data)), max_size=5)))
    assert stage.play(data, cuts) == whole
    check_answers(whole[0], data)
    assert stage.bystander.request(PROBE).status == 200
    assert [line for line in stage.errors if "internal error" in line] == []
