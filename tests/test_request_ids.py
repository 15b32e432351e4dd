"""Names of requests: which are taken, and what is made where there is none."""

import re

import pytest

from fastcluster import request_ids

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "value",
    [b"a", b"Root=1-67891233-abcdef012345678912345678", b"7f3a:9", b"x" * 128, b"a+b/c=="],
)
def test_harmless_words_are_taken(value: bytes) -> None:
    assert request_ids.is_name(value)


@pytest.mark.parametrize(
    "value", [b"", b"a b", b'a"b', b"a\x1b", b"x" * 129, b"\xc3\xa9", b"-a", b"a,b", b"a\n"]
)
def test_all_others_are_not(value: bytes) -> None:
    assert not request_ids.is_name(value)


def test_a_name_is_made_anew_each_time() -> None:
    names = {request_ids.made(None) for _ in range(100)}
    assert len(names) == 100
    assert all(re.fullmatch(rb"[0-9a-f]{32}", name) for name in names)


def test_a_request_of_a_trace_has_the_traces_name() -> None:
    assert request_ids.made(TRACE) == b"4bf92f3577b34da6a3ce929d0e0e4736"
    assert request_ids.made(TRACE.replace(b"00-4", b"01-4") + b"-more") == TRACE[3:35]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-" + b"0" * 32 + TRACE[35:],
        TRACE[:36] + b"0" * 16 + b"-01",
        b"ff" + TRACE[2:],
        TRACE.upper(),
        TRACE[:-1],
    ],
)
def test_a_traceparent_that_is_none_names_nothing(value: bytes) -> None:
    assert request_ids.made(value) not in value.lower() or not value
