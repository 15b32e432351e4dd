"""Every kind of value: what is read, what is refused, and in which words."""

import dataclasses
from dataclasses import dataclass

import pytest

from fastcluster import options
from fastcluster.options import Kind

READ = [
    (options.whole(0, 10), "7", 7),
    (options.whole(0, 10), 7, 7),
    (options.size(0, 2**40), "8190", 8190),
    (options.size(0, 2**40), "64k", 65536),
    (options.size(0, 2**40), "64 KiB", 65536),
    (options.size(0, 2**40), "1.5M", 1_572_864),
    (options.size(0, 2**40), "2GB", 2 * 1024**3),
    (options.size(0, 2**40), 123, 123),
    (options.duration(), "30", 30.0),
    (options.duration(), "500ms", 0.5),
    (options.duration(), "2m", 120.0),
    (options.duration(), "1h", 3600.0),
    (options.duration(), ".25s", 0.25),
    (options.duration(), 3, 3.0),
    (options.duration(), 0.5, 0.5),
    (options.duration(0), "0", 0.0),
    (options.choice("a", "b"), " A ", "a"),
    (options.choice("a", "b", also={"c": "b"}), "c", "b"),
    (options.SWITCH, "yes", True),
    (options.SWITCH, "0", False),
    (options.SWITCH, True, True),
    (options.WORKERS, "auto", 0),
    (options.WORKERS, 4, 4),
    (options.MODE, "660", 0o660),
    (options.MODE, "0o600", 0o600),
    (options.PREFIX, "/api/", "/api"),
    (options.PREFIX, "/", ""),
    (options.ADDRESSES, "a:1, b:2", ("a:1", "b:2")),
    (options.ADDRESSES, ["a:1", "b:2"], ("a:1", "b:2")),
    (options.TEXT, "x", "x"),
]

REFUSED = [
    (options.whole(1, 10), "0"),
    (options.whole(1, 10), "11"),
    (options.whole(1, 10), "three"),
    (options.whole(1, 10), "1.5"),
    (options.whole(1, 10), True),
    (options.whole(1, 10), 1.5),
    (options.size(100, 200), "99"),
    (options.size(0, 200), "1k"),
    (options.size(0, 200), "-1"),
    (options.size(0, 200), "1T"),
    (options.size(0, 200), ""),
    (options.duration(), "0"),
    (options.duration(), "25h"),
    (options.duration(), "-1"),
    (options.duration(), "1 fortnight"),
    (options.duration(), "nan"),
    (options.duration(), float("inf")),
    (options.choice("a", "b"), "c"),
    (options.choice("a", "b"), 1),
    (options.SWITCH, "perhaps"),
    (options.SWITCH, 1),
    (options.WORKERS, "-1"),
    (options.WORKERS, "1025"),
    (options.MODE, "888"),
    (options.MODE, "1777"),
    (options.MODE, 660),
    (options.PREFIX, "api"),
    (options.ADDRESSES, ""),
    (options.ADDRESSES, ["a:1", "a:1"]),
    (options.ADDRESSES, ["a:1", 8000]),
    (options.TEXT, ""),
    (options.TEXT, "a\0b"),
    (options.or_none(options.TEXT), None),
]


@pytest.mark.parametrize(("kind", "given", "value"), READ)
def test_a_value_is_read(kind: Kind, given: object, value: object) -> None:
    found = kind.value_of(given)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(("kind", "given"), REFUSED)
def test_nonsense_is_refused(kind: Kind, given: object) -> None:
    with pytest.raises((ValueError, OverflowError)):
        kind.value_of(given)


def test_none_is_allowed_where_nobody_need_say() -> None:
    assert options.or_none(options.TEXT).allows(None)
    assert not options.TEXT.allows(None)
    assert not options.or_none(options.TEXT).allows("")


def test_a_complaint_names_what_was_given_what_is_wanted_and_where() -> None:
    assert options.whole(1, 9).complaint("--threads", "x") == (
        "--threads wants a whole number from 1 to 9, not 'x'"
    )


@dataclass
class Toy:
    plain: int = options.option(3, options.whole(0, 9), "G", "Help.")
    room_bytes: int = options.option(1024, options.size(0, 9999), "G", "Help.", short="-r")
    pause_s: float = options.option(1.0, options.duration(), "G", "Help.", flag="--the-pause")


def test_all_names_of_an_option_follow_from_its_field() -> None:
    plain, room, pause = options.options_of(Toy)
    assert (plain.name, plain.flag, plain.env) == ("plain", "--plain", "FASTCLUSTER_PLAIN")
    assert (room.name, room.flag, room.short) == ("room_bytes", "--room", "-r")
    assert room.env == "FASTCLUSTER_ROOM"
    assert (pause.flag, pause.env) == ("--the-pause", "FASTCLUSTER_THE_PAUSE")
    assert pause.keys == ("the_pause", "pause")


def test_an_option_is_a_field_with_its_default() -> None:
    assert dataclasses.asdict(Toy()) == {"plain": 3, "room_bytes": 1024, "pause_s": 1.0}
