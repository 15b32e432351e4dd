"""A file of variables, as --env-file names it, to names and values.

The law: what people write in a .env file means what it means to python-dotenv and to
docker's --env-file where those agree; a line that is none is an error with its number.  It
does not touch the environment: surroundings.py puts the variables there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from fastcluster.errors import UsageError

_LINE = re.compile(
    r"""
    (?:export[ \t]+)?
    (?P<name>[A-Za-z_][A-Za-z0-9_.-]*)
    [ \t]*=[ \t]*
    (?:
        '(?P<single>[^']*)'
      | "(?P<double>(?:[^"\\]|\\.)*)"
      | (?P<bare>[^\n'"][^\n]*)?
    )
    [ \t]*(?:\#[^\n]*)?(?:\n|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
_NOTHING = re.compile(r"[ \t]*(?:#[^\n]*)?\n?")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}


def read(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a file; UsageError if it cannot be read or has a line that is none.

    environ: what ${NAME} means where the file itself does not say.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"--env-file: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--env-file: {path} is not UTF-8") from error
    return parse(text, str(path), environ)


def parse(text: str, name: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a text; name: the file's, for complaints."""
    text = text.replace("\r\n", "\n")
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        # An empty line or a comment; never nothing at all before the end.
        nothing = _NOTHING.match(text, at)
        if nothing is not None and nothing.end() > at and nothing[0].strip(" \t")[:1] in "#\n":
            at = nothing.end()
            continue
        indent = re.compile(r"[ \t]*").match(text, at)
        line = _LINE.match(text, indent.end() if indent else at)
        if line is None:
            number = text.count("\n", 0, at) + 1
            raise UsageError(f"--env-file: line {number} of {name} is no NAME=value")
        found[line["name"]] = _value(line, {**environ, **found})
        at = line.end()
    return found


def _value(line: re.Match[str], known: Mapping[str, str]) -> str:
    if line["single"] is not None:
        return line["single"]
    if line["double"] is not None:
        # Expanded first, so that \$ keeps a reference from being one.
        text = re.sub(
            r"(?<!\\)" + _REFERENCE.pattern, lambda m: _referred(m, known), line["double"]
        )
        return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), text, flags=re.DOTALL)
    bare = re.sub(r"\s+#.*", "", line["bare"] or "")
    if bare.startswith("#"):
        bare = ""
    return _REFERENCE.sub(lambda match: _referred(match, known), bare.strip())


def _referred(match: re.Match[str], known: Mapping[str, str]) -> str:
    return known.get(match[1]) or match[2] or ""
