"""How an option is declared: its names, its kind of value, its place in --help.

The law: whatever text a person writes becomes a checked value here or is
refused with the words for what was wanted.  This file knows no option by name
and no source of options; config.py has both.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from fastcluster.forwarded import is_proxy

T = TypeVar("T")

DAY_S = 86_400.0
YEAR_S = 365 * DAY_S
UNITS_S = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: ``read`` makes it from text or raises ValueError, ``allows`` judges it.

    ``wants`` ends the sentence "--workers wants …".  ``types`` are the types
    that may be given: text, and what a TOML file has of its own.  splits: each text
    of a list may itself be several.
    """

    metavar: str
    wants: str
    read: Callable[[str], Any]
    allows: Callable[[Any], bool]
    types: tuple[type, ...] = (str,)
    splits: bool = False

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off, and on a command line takes no value."""
        return bool in self.types

    @property
    def is_list(self) -> bool:
        """Whether it may be given several times."""
        return list in self.types

    def value_of(self, given: object) -> Any:
        """Return the checked value of what was given; ValueError if it makes none."""
        if type(given) not in self.types:
            raise ValueError(given)
        if isinstance(given, (list, tuple)):
            value: Any = tuple(self.read(",".join(map(str, given))) if self.splits else given)
        else:
            value = given if isinstance(given, bool) else self.read(str(given))
        if not self.allows(value):
            raise ValueError(given)
        return value

    def complaint(self, label: str, given: object) -> str:
        """Say that what was given under the name ``label`` makes no sense."""
        return f"{label} wants {self.wants}, not {given!r}"


# ---- kinds


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def whole(lowest: int, highest: int, metavar: str = "N") -> Kind:
    """A whole number."""
    return Kind(
        metavar,
        f"a whole number from {lowest} to {highest}",
        int,
        lambda value: is_whole(value) and lowest <= value <= highest,
        types=(str, int),
    )


def read_size(text: str) -> int:
    """Return the bytes of "8190", "64k", "1.5M" or "2GiB"; a k is 1024."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(text)
    return int(float(found[1]) * 1024 ** " kmg".index(found[2].lower() or " "))


def size(lowest: int, highest: int) -> Kind:
    """A number of bytes."""
    return Kind(
        "SIZE",
        f"a size from {lowest} to {highest} bytes, such as 8190, 64k or 1M",
        read_size,
        lambda value: is_whole(value) and lowest <= value <= highest,
        types=(str, int),
    )


def read_duration(text: str) -> float:
    """Return the seconds of "30", "0.5", "500ms", "2m", "1h" or "7d"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|m|h|d|)", text.strip())
    if found is None:
        raise ValueError(text)
    return float(found[1]) * UNITS_S[found[2]]


def duration(lowest_s: float = 0.001, highest_s: float = DAY_S) -> Kind:
    """A duration in seconds, of a day at most where nothing else is said."""
    longest = "a day" if highest_s == DAY_S else "a year"
    return Kind(
        "SECONDS",
        f"a duration from {lowest_s:g} seconds to {longest}, such as 30, 500ms or 2m",
        read_duration,
        lambda value: (
            (is_whole(value) or isinstance(value, float)) and lowest_s <= value <= highest_s
        ),
        types=(str, int, float),
    )


def choice(*names: str, metavar: str = "", also: Mapping[str, str] | None = None) -> Kind:
    """One of some names; ``also`` maps the names that other servers use to ours."""
    shown = metavar or "|".join(names)

    def read(text: str) -> str:
        name = text.strip().lower()
        return (also or {}).get(name, name)

    return Kind(shown, "one of " + ", ".join(names), read, lambda value: value in names)


def read_truth(text: str) -> bool:
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError(text)


def read_workers(text: str) -> int:
    if text.strip().lower() == "auto":
        return 0
    number = int(text)
    if number == 0:
        raise ValueError(text)  # 0 stands for auto in Config, and for nobody to people
    return number


def read_list(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def is_list(value: object) -> bool:
    if not isinstance(value, tuple) or not value:
        return False
    return all(is_text(item) for item in value) and len(set(value)) == len(value)


def is_list_or_none(value: object) -> bool:
    return value == () or is_list(value)


def is_proxies(value: object) -> bool:
    return value == () or (is_list(value) and all(map(is_proxy, cast("tuple[str, ...]", value))))


def is_prefix(value: object) -> bool:
    if not isinstance(value, str):
        return False
    return value == "" or (value.startswith("/") and not value.endswith("/"))


def is_name(value: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,59}", value) is not None


# Fields by which messages are framed and routed: no name of a request.
FRAMING = frozenset(("content-length", "transfer-encoding", "connection", "host", "upgrade"))


def is_token(value: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9-]{1,100}", value) is not None


def is_loop(value: object) -> bool:
    if not isinstance(value, str):
        return False
    module, colon, factory = value.partition(":")
    if not colon:
        return value in ("auto", "uvloop", "asyncio")
    return all(name.isidentifier() for name in [*module.split("."), *factory.split(".")])


def or_none(kind: Kind) -> Kind:
    """The same kind, with None for "nobody has said"."""
    return dataclasses.replace(kind, allows=lambda value: value is None or kind.allows(value))


SWITCH = Kind("", "true or false", read_truth, lambda value: isinstance(value, bool), (str, bool))
TEXT = Kind("TEXT", "a text", str, is_text)
FOLDER = Kind("DIR", "a folder", str, is_text)
APP = Kind("APP", "module:name", str, is_text)
ADDRESSES = Kind(
    "ADDRESS", "one or more different addresses", read_list, is_list, (str, list, tuple)
)
PROXIES = Kind(
    "LIST",
    "addresses, networks such as 10.0.0.0/8, unix, or * for everybody, with commas between",
    read_list,
    is_proxies,
    (str, list, tuple),
    splits=True,
)
FILE = Kind("FILE", "a file", str, is_text)
NAME = Kind(
    "NAME",
    "up to 60 letters, digits and . _ - :, a letter, a digit or _ first",
    str.strip,
    lambda value: isinstance(value, str) and is_name(value),
)
PATTERNS = Kind(
    "PATTERN", "one or more different patterns", read_list, is_list_or_none, (str, list, tuple)
)
FOLDERS = Kind(
    "DIR", "one or more different folders", read_list, is_list_or_none, (str, list, tuple)
)
ENVIRONMENT = Kind(
    "production|development",
    "the name of an environment, such as production",
    lambda text: text.strip().lower(),
    lambda value: isinstance(value, str) and is_name(value),
)
FIELD_NAME = Kind(
    "NAME",
    "the name of a header field, such as X-Request-ID",
    str.strip,
    lambda value: isinstance(value, str) and is_token(value) and value.lower() not in FRAMING,
)
PREFIX = Kind("PATH", "a path that begins with /", lambda text: text.rstrip("/"), is_prefix)
LOOP = Kind(
    "auto|uvloop|asyncio|MODULE:FACTORY",
    "auto, uvloop, asyncio, or module:factory",
    str.strip,
    is_loop,
)
HEALTH_PATH = Kind(
    "PATH",
    "a path such as /livez, without ? and #",
    str.strip,
    lambda value: isinstance(value, str) and re.fullmatch(r"/[!-\"$->@-~]*", value) is not None,
)
WORKERS = Kind(
    "N|auto",
    "a whole number from 1 to 1024, or auto",
    read_workers,
    lambda value: is_whole(value) and 0 <= value <= 1024,
    types=(str, int),
)
# A TOML file's 660 would be read as decimal, so there it must be a text.
MODE = Kind(
    "OCTAL",
    'permissions in octal as a text, such as "660"',
    lambda text: int(text, 8),
    lambda value: is_whole(value) and 0 <= value <= 0o777,
)


UMASK = Kind(
    "OCTAL",
    'an octal number such as "007", as a text',
    lambda text: int(text, 8),
    lambda value: is_whole(value) and 0 <= value <= 0o777,
)


# ---- options


@dataclass(frozen=True, slots=True)
class Option:
    """One option and all its names.

    name: the field of Config.  flag: its spelling on the command line.  shown:
    what --help gives as its default, where that is not the plain value.
    """

    name: str
    kind: Kind
    default: Any
    group: str
    help: str
    flag: str
    short: str = ""
    shown: str = ""

    @property
    def env(self) -> str:
        """The variable in the environment."""
        return "FASTCLUSTER_" + self.keys[0].upper()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys in a file with ``_`` for ``-``: the flag's name, then the field's."""
        return tuple(dict.fromkeys((self.flag[2:].replace("-", "_"), stem(self.name))))


def stem(name: str) -> str:
    """Return the name of a field without its unit."""
    return name.removesuffix("_bytes").removesuffix("_s")


def option(
    default: T,
    kind: Kind,
    group: str,
    help: str,
    *,
    flag: str = "",
    short: str = "",
    shown: str = "",
) -> T:
    """Declare a field of a dataclass as an option; flag: where it is not the field's name."""
    about = {"kind": kind, "group": group, "help": help}
    about |= {"flag": flag, "short": short, "shown": shown}
    return dataclasses.field(default=default, metadata=about)


def options_of(config: type) -> tuple[Option, ...]:
    """Return the options that a dataclass declares, in their order."""
    found = []
    for field in dataclasses.fields(config):
        about = dict(field.metadata)
        about["flag"] = about["flag"] or "--" + stem(field.name).replace("_", "-")
        found.append(Option(field.name, default=field.default, **about))
    return tuple(found)
