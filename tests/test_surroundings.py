"""Variables that are no options: what they say, and whom they mean."""

import os

import pytest

from fastcluster import config, surroundings


@pytest.mark.parametrize(("value", "wanted"), [("1", True), ("0", False), ("", False)])
def test_debug(value: str, wanted: bool) -> None:
    assert surroundings.debug({"FASTCLUSTER_DEBUG": value}) is wanted
    assert surroundings.debug({}) is False


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_of_a_service_manager(environ: dict[str, str], seconds: float) -> None:
    assert surroundings.watchdog_s(environ) == seconds


def test_sockets_are_passed_to_the_process_that_is_named() -> None:
    mine = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"}
    assert surroundings.passed_sockets(mine) == [3, 4]
    assert surroundings.passed_sockets({**mine, "LISTEN_PID": "1"}) == []


def test_the_environment_has_a_name_and_it_can_be_decided() -> None:
    assert surroundings.environment({}) == "development"
    assert surroundings.environment({"FASTCLUSTER_ENV": "staging"}) == "staging"
    config.use_environment("production")
    try:
        assert surroundings.environment({"FASTCLUSTER_ENV": "staging"}) == "production"
    finally:
        config.use_environment(None)
