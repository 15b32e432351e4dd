"""Plays the conformance table: whole, byte by byte, and split at every position.

However a request comes, the client receives the very same bytes; so only the
play in one piece is compared with the table, and all others with that play.
`make test` runs this through both doors of the parser.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from conformance import CLOSED, OPEN, RESET, WAITS, Answer, Case, applications, table
from conformance.reading import Incomplete, Seen, read
from harness import Client, Wire

from fastcluster.native import NativeHandler
from fastcluster.wsgi import WsgiHandler

CASES = table()
ECHOED = [case for case in CASES if case.echoes]
PROBE = b"GET /probe HTTP/1.1\r\nHost: probe\r\n\r\n"

# Cases above this size are not split everywhere: at both ends, and now and then.
SPLIT_EVERYWHERE_BYTES = 1200
ENDS_BYTES = 40
STEP_BYTES = 509


@dataclass(frozen=True)
class Outcome:
    """What a client saw of one play."""

    received: bytes
    state: str
    log: tuple[str, ...]


class Stage:
    """Servers for all the options in the table, each with a bystander connected to it."""

    def __init__(self) -> None:
        self.wires: dict[Any, Wire] = {}
        self.bystanders: dict[Any, Client] = {}
        self.log: list[str] = []

    def wire(self, interface: str, options: tuple[tuple[str, Any], ...]) -> Wire:
        key = interface, options
        if key not in self.wires:
            plain = {
                "server_header": False,
                "date_header": False,
                "timeout_keep_alive_s": 3600.0,
                # A head that comes byte by byte takes long in a build with sanitizers.
                "timeout_head_s": 600.0,
                **dict(options),
            }
            if interface == "wsgi":
                self.wires[key] = Wire(WsgiHandler, applications.wsgi, **plain)
            else:
                self.wires[key] = Wire(NativeHandler, applications.native, **plain)
            self.bystanders[key] = self.wires[key].connect()
        return self.wires[key]

    def play(self, case: Case, cuts: list[int], *, interface: str = "native") -> Outcome:
        """Send a case in pieces, wait for all its answers, and look at the connection."""
        wire = self.wire(interface, case.options)
        self.log.clear()
        client = wire.connect()
        try:
            start = 0
            for stop in [*cuts, len(case.sent)]:
                if stop > start and not client.eof:
                    send_piece(client, case.sent[start:stop])
                start = stop
            if case.half_closes:
                client.shutdown()
            wire.turn_until(lambda: client.eof or has_all(client.received, case), seconds=5)
            received, state = client.received, state_of(client, case)
            return Outcome(received, state, tuple(self.log))
        finally:
            client.close()

    def check_bystander(self, case: Case) -> None:
        """The others on the same server notice nothing."""
        assert self.bystanders["native", case.options].request(PROBE).status == 200

    def close(self) -> None:
        for wire in self.wires.values():
            wire.close()


def send_piece(client: Client, piece: bytes) -> None:
    """Send bytes and have the server read them before anything else is sent."""
    client.send(piece)
    if client.wire.server.turn(0) == 0:
        # Only a server that reads no more, or a kernel that takes its time.
        client.wire.server.turn(20)
    client.pull()


def has_all(received: bytes, case: Case) -> bool:
    """Whether all that the case expects has come, and the connection need not close."""
    if case.then in (CLOSED, RESET):
        return False
    try:
        for expected in case.answers:
            received = read(received, is_head=expected.is_head).rest
    except Incomplete:
        return False
    return True


def state_of(client: Client, case: Case) -> str:
    if client.was_reset:
        return RESET
    if client.eof:
        return CLOSED
    if case.then == WAITS:
        client.wire.turn()
        return CLOSED if client.eof else WAITS
    client.received = b""
    answer = client.request(PROBE)
    assert json.loads(answer.body)["path"] == "/probe"
    assert client.received == b""
    return OPEN


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    stage = Stage()
    handler = logging.Handler()
    handler.emit = lambda record: stage.log.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("fastcluster")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield stage
    logger.removeHandler(handler)
    logger.setLevel(before[0])
    logger.propagate = before[1]
    stage.close()


# ---- comparing with the table


def check(case: Case, outcome: Outcome) -> None:
    rest = outcome.received
    for expected in case.answers:
        rest = check_answer(expected, rest, outcome)
    assert rest == b""
    assert outcome.state == case.then
    assert len(outcome.log) == case.logged, outcome.log


def check_answer(expected: Answer, data: bytes, outcome: Outcome) -> bytes:
    """Compare the first response in data; return what follows it."""
    eof = outcome.state in (CLOSED, RESET)
    try:
        seen = read(data, is_head=expected.is_head, eof=eof)
        # A body that ends with the connection is cut if that was broken off.
        is_cut = outcome.state == RESET
    except Incomplete as incomplete:
        assert incomplete.partial is not None, data
        seen, is_cut = incomplete.partial, True
    assert seen.status == expected.status, data
    assert is_cut == expected.is_cut, data
    if expected.body is not None:
        assert seen.body == expected.body
    for name, value in expected.fields.items():
        assert seen.fields.get(name) == value, (name, seen.fields)
    if expected.echo is not None:
        check_echo(expected.echo, seen)
    return b"" if is_cut else seen.rest


def check_echo(expected: dict[str, Any], seen: Seen) -> None:
    echo = json.loads(seen.body)
    for name, value in expected.items():
        if name != "header":
            assert echo[name] == value, name
            continue
        for field, text in value.items():
            assert echo["header"].get(field) in spellings(text), field


def spellings(value: str | tuple[str, ...] | None) -> tuple[str | None, ...]:
    """How repeated fields may be joined (RFC 9110 section 5.3); WSGI's environ has no blank."""
    return (", ".join(value), ",".join(value)) if isinstance(value, tuple) else (value,)


# ---- the plays


def label(case: Case) -> str:
    return case.name.replace(" ", "-")


def test_the_table_is_large_and_has_no_row_twice() -> None:
    assert len(CASES) >= 150
    sent = [(case.sent, case.half_closes, case.options) for case in CASES]
    assert len(set(sent)) == len(sent)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_whole(stage: Stage, case: Case) -> None:
    check(case, stage.play(case, []))
    stage.check_bystander(case)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_byte_by_byte(stage: Stage, case: Case) -> None:
    whole = stage.play(case, [])
    assert stage.play(case, list(range(1, len(case.sent)))) == whole


@pytest.mark.parametrize("case", CASES, ids=label)
def test_split_at_every_position(stage: Stage, case: Case) -> None:
    whole = stage.play(case, [])
    for position in positions(len(case.sent)):
        assert stage.play(case, [position]) == whole, position


def positions(n_bytes: int) -> list[int]:
    """Where a case of that size is split."""
    if n_bytes <= SPLIT_EVERYWHERE_BYTES:
        return list(range(1, n_bytes))
    ends = [*range(1, ENDS_BYTES), *range(n_bytes - ENDS_BYTES, n_bytes)]
    return sorted({*ends, *range(ENDS_BYTES, n_bytes, STEP_BYTES)})


@pytest.mark.parametrize("case", ECHOED, ids=label)
def test_whole_through_wsgi(stage: Stage, case: Case) -> None:
    check(case, stage.play(case, [], interface="wsgi"))
