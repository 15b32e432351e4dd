"""Routes: from a method and a path to a handler and its parameters.

    router.add("GET", "/users/{id:int}", show)
    router.match("GET", "/users/7")  # Match(handler=show, params={"id": 7}, …)

The law: a path without parameters is one look in a dictionary, however many
there are; of the patterns with parameters the first that was added and fits
wins, and a static path wins over all of them.  It knows no request, no
response and no middleware.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from fastcluster.errors import UsageError


class Converter(NamedTuple):
    """What a parameter looks like in a path, and what it becomes.

    parse() may raise ValueError: then the pattern does not fit the path.
    """

    regex: str
    parse: Callable[[str], Any]


CONVERTERS: dict[str, Converter] = {
    "str": Converter(r"[^/]+", str),
    # 4300 digits and more are refused by int() itself, with a ValueError.
    "int": Converter(r"-?[0-9]+", int),
    "float": Converter(r"-?[0-9]+(?:\.[0-9]+)?", float),
    "uuid": Converter(
        r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}", uuid.UUID
    ),
    "path": Converter(r".+", str),
}

_BRACES = re.compile(r"\{([^{}]*)\}")


class Match(NamedTuple):
    """A handler, the parameters of the path, and the pattern that fitted."""

    handler: Any
    params: dict[str, Any]
    pattern: str


class Pattern:
    """A pattern such as "/users/{id:int}", read once.

    Raises UsageError for one that does not begin with "/", an unknown
    converter, a name that is no identifier or that appears twice, and for
    braces that do not pair.
    """

    __slots__ = ("is_static", "parsers", "regex", "text")

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text.startswith("/"):
            raise UsageError(f"a route's pattern begins with '/': {text!r} does not")
        self.text = text
        self.parsers: dict[str, Callable[[str], Any]] = {}
        regex = ""
        end = 0
        for braces in _BRACES.finditer(text):
            regex += self._literal(text[end : braces.start()]) + self._parameter(braces[1])
            end = braces.end()
        regex += self._literal(text[end:])
        self.regex = re.compile(regex, re.DOTALL)
        self.is_static = not self.parsers

    def _literal(self, part: str) -> str:
        if "{" in part or "}" in part:
            raise UsageError(f"{self.text!r}: braces do not pair; a parameter is {{name:type}}")
        return re.escape(part)

    def _parameter(self, inside: str) -> str:
        name, _, kind = inside.partition(":")
        if not name.isidentifier():
            raise UsageError(f"{self.text!r}: {name!r} is no name for a parameter")
        if name in self.parsers:
            raise UsageError(f"{self.text!r} has two parameters called {name!r}: rename one")
        converter = CONVERTERS.get(kind or "str")
        if converter is None:
            known = ", ".join(CONVERTERS)
            raise UsageError(f"{self.text!r}: {kind!r} is no type of parameter; there are {known}")
        self.parsers[name] = converter.parse
        return f"(?P<{name}>{converter.regex})"

    def match(self, path: str) -> dict[str, Any] | None:
        """Return the parameters of a path, or None if it does not fit."""
        found = self.regex.fullmatch(path)
        if found is None:
            return None
        try:
            return {name: parse(found[name]) for name, parse in self.parsers.items()}
        except ValueError:
            return None


class Router:
    """Routes by method; see the module's paragraph for which one wins."""

    def __init__(self) -> None:
        self._static: dict[str, dict[str, Match]] = {}  # method, then path
        self._dynamic: dict[str, list[tuple[Pattern, Any]]] = {}

    def add(self, method: str, pattern: str, handler: Any) -> None:
        """Add a route; a second one of the same method and path never comes to a turn.

        Raises UsageError for a pattern that cannot be read, see Pattern.
        """
        parsed = Pattern(pattern)
        if parsed.is_static:
            routes = self._static.setdefault(method, {})
            routes.setdefault(pattern, Match(handler, {}, pattern))
        else:
            self._dynamic.setdefault(method, []).append((parsed, handler))

    def match(self, method: str, path: str) -> Match | None:
        """Return the route of exactly this method, or None.

        The params of a static route are one dictionary for all its requests:
        copy before changing.
        """
        static = self._static.get(method)
        if static is not None:
            match = static.get(path)
            if match is not None:
                return match
        dynamic = self._dynamic.get(method)
        if dynamic is not None:
            for pattern, handler in dynamic:
                params = pattern.match(path)
                if params is not None:
                    return Match(handler, params, pattern.text)
        return None

    def methods(self, path: str) -> list[str]:
        """Return the methods that have a route for a path, sorted, HEAD with GET."""
        found = {method for method in {*self._static, *self._dynamic} if self.match(method, path)}
        if "GET" in found:
            found.add("HEAD")
        return sorted(found)
