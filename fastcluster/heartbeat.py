"""Whether a worker still turns: a judgement from what it writes on the scoreboard.

A worker writes the moment of every turn and counts every request it begins, so as long as
one of the two changes it lives.  An idle worker does neither: it is asked, over its
channel, and the message makes it take a turn.  The law: only time that the observer was
awake for counts as silence, since a machine that slept or a frozen container wakes up with
everybody's last sign long ago.  It knows neither processes nor clocks.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

# How often is looked, as a part of the timeout, and at most how long between two looks.
LOOKS_PER_TIMEOUT = 4
LOOK_MOST_S = 5.0


class Verdict(enum.Enum):
    """What a look at a worker has found."""

    ALIVE = enum.auto()
    ASK = enum.auto()  # quiet for half the timeout: it may be idle
    SILENT = enum.auto()


@dataclass(slots=True)
class Pulse:
    """A worker's last sign of life, and for how long nothing has come since."""

    sign: tuple[int, ...] = ()
    quiet_s: float = 0.0
    was_asked: bool = False

    def look(self, sign: tuple[int, ...], since_last_look_s: float, timeout_s: float) -> Verdict:
        """Judge what the scoreboard says now.

        sign: numbers of which one changes while the worker lives.  since_last_look_s: of
        the observer's time, what it slept through left out.
        """
        if sign != self.sign:
            self.sign, self.quiet_s, self.was_asked = sign, 0.0, False
            return Verdict.ALIVE
        self.quiet_s += since_last_look_s
        if self.quiet_s >= timeout_s and self.was_asked:
            return Verdict.SILENT
        if self.quiet_s >= timeout_s / 2 and not self.was_asked:
            self.was_asked = True
            return Verdict.ASK
        return Verdict.ALIVE


def look_every_s(timeout_s: float) -> float:
    """Return how often to look, in seconds."""
    return min(timeout_s / LOOKS_PER_TIMEOUT, LOOK_MOST_S)
