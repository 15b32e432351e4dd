"""What was given where: each source alone, and how they come together."""

from pathlib import Path

import pytest

from fastcluster import layers
from fastcluster.errors import UsageError
from fastcluster.options import SWITCH, Option, whole

PORT = Option("port", whole(0, 65535), None, "", "", "--port")
SIZE = Option("size_bytes", whole(1, 9), 5, "", "", "--size")
LOUD = Option("loud", SWITCH, False, "", "", "--loud")
OPTIONS = (PORT, SIZE, LOUD)


def shown(layer: layers.Layer) -> dict[str, tuple[str, object]]:
    return {name: (given.label, given.value) for name, given in layer.items()}


def test_flags_that_were_not_given_are_left_out() -> None:
    given = layers.from_flags(OPTIONS, {"port": None, "size_bytes": "3", "loud": False})
    assert shown(given) == {"size_bytes": ("--size", "3"), "loud": ("--loud", False)}


def test_variables_are_ours() -> None:
    environ = {"FASTCLUSTER_SIZE": "3", "SIZE": "4", "FASTCLUSTER_LOUD": ""}
    assert shown(layers.from_environ(OPTIONS, environ)) == {"size_bytes": ("FASTCLUSTER_SIZE", "3")}


def test_a_service_of_kubernetes_is_no_port() -> None:
    environ = {"FASTCLUSTER_PORT": "tcp://10.0.0.1:80"}
    assert layers.from_environ(OPTIONS, environ) == {}


def test_a_file_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    with pytest.raises(UsageError, match="cannot read"):
        layers.table_of(file)
    file.write_text("=")
    with pytest.raises(UsageError, match="not a TOML file"):
        layers.table_of(file)


def test_what_makes_no_sense_is_complained_of_and_left_out() -> None:
    raw = {"port": layers.Given("--port", "1"), "size_bytes": layers.Given("SIZE", "ten")}
    complaints: list[str] = []
    assert shown(layers.read(OPTIONS, raw, complaints)) == {"port": ("--port", 1)}
    assert complaints == ["SIZE wants a whole number from 1 to 9, not 'ten'"]


LISTENING: list[tuple[list[dict[str, object]], dict[str, str], list[int], tuple[str, ...]]] = [
    ([{}], {}, [], ("127.0.0.1:8000",)),
    ([{"port": 1}, {"host": "h"}], {}, [], ("h:1",)),
    ([{"host": "::1"}], {}, [], ("[::1]:8000",)),
    ([{"bind": ("a:1", "b:2")}, {"port": 3}], {}, [], ("a:1", "b:2")),
    ([{"port": 3}, {"bind": ("a:1",)}], {}, [], ("127.0.0.1:3",)),
    ([{"uds": "/s", "fd": 4}], {}, [], ("unix:/s", "fd://4")),
    ([{}], {"PORT": "5"}, [], ("0.0.0.0:5",)),
    ([{}], {"PORT": "5"}, [3, 4], ("fd://3", "fd://4")),
    ([{"host": "h"}], {"PORT": "5"}, [3], ("h:5",)),
]


@pytest.mark.parametrize(("given", "environ", "passed", "expected"), LISTENING)
def test_where_to_listen(
    given: list[dict[str, object]],
    environ: dict[str, str],
    passed: list[int],
    expected: tuple[str, ...],
) -> None:
    read = [{name: layers.Given(name, value) for name, value in one.items()} for one in given]
    complaints: list[str] = []
    assert layers.addresses(read, environ, passed, complaints)[0] == expected
    assert complaints == []


def test_two_ways_to_say_where_to_listen_are_one_too_many() -> None:
    read = [{"bind": layers.Given("--bind", ("a:1",)), "port": layers.Given("--port", 1)}]
    complaints: list[str] = []
    layers.addresses(read, {}, [], complaints)
    assert complaints == ["--bind and --port both say where to listen: leave one out"]


def test_a_misspelt_variable_is_told() -> None:
    environ = {"FASTCLUSTER_SIZZE": "1", "FASTCLUSTER_DEBUG": "1", "FASTCLUSTER_APART": "1"}
    assert layers.misspelt(OPTIONS, environ, ["FASTCLUSTER_DEBUG"]) == [
        "FASTCLUSTER_SIZZE in the environment is no option: did you mean FASTCLUSTER_SIZE?"
    ]


def test_who_said_where_to_listen() -> None:
    def said(*read: dict[str, object], passed: list[int] | None = None, **environ: str) -> str:
        given = [{name: layers.Given(f"<{name}>", v) for name, v in one.items()} for one in read]
        return layers.addresses(given, environ, passed or [], [])[1]

    assert said() == ""
    assert said({"bind": ("a:1",)}) == "<bind>"
    assert said({"bind": ("a:1",), "uds": "x"}) == "<bind>, <uds>"
    assert said({"port": 1}, {"host": "a"}) == "<host>, <port>"
    assert said({"host": "a"}, PORT="80") == "<host>, PORT"
    assert said(PORT="80") == "PORT"
    assert said(passed=[3]) == "LISTEN_FDS"
