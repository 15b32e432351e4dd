"""Names of requests, by which the lines of several logs are found together.

The law: what a client calls its request is taken only if it is a short word of harmless
characters; else a name is made.  A name that is made for a request of a trace is the
trace's (W3C Trace Context), so that both find the same lines.  This file knows no request.
"""

from __future__ import annotations

import os
import re

# Names of all that is around: UUIDs, ULIDs, X-Amzn-Trace-Id's Root=1-67891233-abcdef.
_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:;=+/@-]{0,127}")
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}.*"
)


def is_name(value: bytes) -> bool:
    """Tell whether a client's word may stand in logs and in front of applications."""
    return _NAME.fullmatch(value) is not None


def made(traceparent: bytes | None) -> bytes:
    """Return a new name of 32 hexadecimal digits: the trace's if it has a valid one."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return found[1] if found else os.urandom(16).hex().encode()
