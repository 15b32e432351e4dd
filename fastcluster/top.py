"""`fastcluster top`: a running server and its workers, live in a terminal.

The law: what is shown is what the control socket says, looked at every second, and each key
is one order over the same socket, which is not waited for.  The terminal is left as it was
found, however this ends.  Where the output is no terminal one table is printed, for which
rich is not needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fastcluster import control_client
from fastcluster.control_client import Target
from fastcluster.errors import ControlError, UsageError
from fastcluster.sampling import Sampler

if TYPE_CHECKING:
    from rich.console import RenderableType

LEVELS = "▁▂▃▄▅▆▇█"
SPARKS = 40
HEADS = ("WORKER", "PID", "STATE", "REQ/S", "P50", "P99", "CPU", "RSS", "OPEN", "RESTARTS", "LAST")
KEYS = "r reload   + - scale   ↑ ↓ choose   w restart the chosen worker   q quit"
STYLES = {"ready": "green", "serving": "green", "condemned": "red", "stopping": "red"}

Say = Callable[[str], None]
LayOut = Callable[[Sequence[Sequence[str]]], list[str]]


def run(target: Target, say: Say, lay_out: LayOut, *, every_s: float, as_json: bool) -> None:
    """Show a server until somebody quits, or once where nobody looks.

    say: prints a text.  lay_out: makes lines of rows.  Raises ControlError when the server
    is gone, and UsageError without rich.
    """
    if as_json or not (sys.stdout.isatty() and sys.stdin.isatty()):
        sample = _once(target, every_s)
        say(json.dumps(sample, indent=2) if as_json else described(sample, lay_out))
        return
    try:
        import rich  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "fastcluster top draws with rich, which is not installed: "
            "pip install 'fastcluster-server[rich]' (or use `fastcluster status`)"
        ) from error
    Top(target, every_s).show()


def _once(target: Target, every_s: float) -> dict[str, Any]:
    sampler = Sampler()
    sampler.take(_look(target), time.monotonic())
    time.sleep(every_s)
    return sampler.take(_look(target), time.monotonic())


def _look(target: Target) -> dict[str, Any]:
    return control_client.ask(target, "status", histograms=1)


class Top:
    """The live view: what was seen so far, which worker is chosen, and what was said last."""

    def __init__(self, target: Target, every_s: float) -> None:
        self._target = target
        self._every_s = every_s
        self._sampler = Sampler()
        self._rates: dict[int | None, deque[float]] = {}  # by worker number; None: of all
        self._sample: dict[str, Any] = {}
        self._chosen = 0
        self._said = ""

    def show(self) -> None:
        """Draw and obey keys until `q` or Ctrl-C."""
        from rich.live import Live

        fd = sys.stdin.fileno()
        self._take()
        with (
            _keys_at_once(fd),
            contextlib.suppress(KeyboardInterrupt),
            Live(self.drawn(), screen=True, auto_refresh=False) as live,
        ):
            due_s = time.monotonic() + self._every_s
            while True:
                left_s = max(0.0, due_s - time.monotonic())
                if select.select([fd], [], [], left_s)[0]:
                    # An arrow is three bytes, which come at once; no bytes: the terminal is gone.
                    keys = os.read(fd, 64).decode("utf-8", "replace")
                    if not keys or not self.obey(keys):
                        return
                else:
                    self._take()
                    due_s = time.monotonic() + self._every_s
                live.update(self.drawn(), refresh=True)

    def _take(self) -> None:
        self._sample = self._sampler.take(_look(self._target), time.monotonic())
        self._remember(None, self._sample["requests_per_s"])
        for worker in self._sample["workers"]:
            self._remember(worker["number"], worker["requests_per_s"])

    def _remember(self, who: int | None, rate: float) -> None:
        self._rates.setdefault(who, deque(maxlen=SPARKS)).append(rate)

    # ---- keys

    def obey(self, keys: str) -> bool:
        """Do what the keys ask for; False: quit."""
        for key in _each(keys):
            if key in ("q", "Q", "\x03"):
                return False
            try:
                self._do(key)
            except ControlError as error:
                self._said = str(error)
        return True

    def _do(self, key: str) -> None:
        workers = self._sample["workers"]
        if key == "r":
            self._order("reload", "reload asked for", wait=0)
        elif key in ("+", "-"):
            wanted = self._sample["wanted"] + (1 if key == "+" else -1)
            if wanted < 1:
                self._said = "the last worker stays"
                return
            self._order("scale", f"{wanted} workers wanted", workers=wanted)
            self._sample["wanted"] = wanted
        elif key in ("\x1b[A", "k", "\x1b[B", "j"):
            step = -1 if key in ("\x1b[A", "k") else 1
            self._chosen = min(max(0, self._chosen + step), max(0, len(workers) - 1))
        elif key == "w" and self._chosen < len(workers):
            number = workers[self._chosen]["number"]
            self._order("restart", f"restart of worker {number} asked for", worker=number, wait=0)

    def _order(self, what: str, words: str, **parameters: int) -> None:
        control_client.ask(self._target, what, **parameters)
        self._said = words

    # ---- what it looks like

    def drawn(self) -> RenderableType:
        """Return the whole view."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        sample = self._sample
        grid = Table(expand=True, box=None, pad_edge=False)
        for head in (*HEADS[:4], "", *HEADS[4:]):
            grid.add_column(head, no_wrap=True, overflow="ellipsis")
        for n, worker in enumerate(sample["workers"]):
            cells = row(worker)
            cells.insert(4, sparkline(list(self._rates[worker["number"]])[-12:]))
            texts = [Text(cell) for cell in cells]
            texts[2].stylize(STYLES.get(worker["state"], "yellow"))
            grid.add_row(*texts, style="reverse" if n == self._chosen else "")
        return Group(
            Text(headline(sample), style="bold", no_wrap=True, overflow="ellipsis"),
            Text(f"{sparkline(self._rates[None])}  {summary(sample)}", no_wrap=True),
            Text(""),
            grid,
            Text(""),
            Text(KEYS, style="dim", no_wrap=True, overflow="ellipsis"),
            Text(printable(self._said), style="yellow", no_wrap=True, overflow="ellipsis"),
        )


def described(sample: dict[str, Any], lay_out: LayOut) -> str:
    """Return a sample as one table, for where nobody presses keys."""
    rows = [HEADS, *(row(worker) for worker in sample["workers"])]
    return "\n".join([headline(sample), summary(sample), "", *lay_out(rows)])


def headline(sample: dict[str, Any]) -> str:
    """Return who the server is and how it is."""
    return (
        f"{sample['name']}: {sample['state']}, {sample['ready']} of {sample['wanted']} workers "
        f"ready, {sample['restarts']} restarts"
    )


def summary(sample: dict[str, Any]) -> str:
    """Return what all workers do together."""
    latency = sample["latency_s"]
    return (
        f"{sample['requests_per_s']:.0f} requests/s, p50 {duration(latency['p50'])}, "
        f"p99 {duration(latency['p99'])}, {sample['statuses_per_s']['5xx']:.0f} 5xx/s, "
        f"{sample['connections']} open, CPU {sample['cpu']:.0%}, "
        f"{sample['rss_bytes'] / (1 << 20):.0f}M"
    )


def row(worker: dict[str, Any]) -> list[str]:
    """Return a worker's cells, under HEADS."""
    latency = worker["latency_s"]
    return [
        str(worker["number"]),
        str(worker["pid"]),
        worker["state"],
        f"{worker['requests_per_s']:.0f}",
        duration(latency["p50"]),
        duration(latency["p99"]),
        f"{worker['cpu']:.0%}",
        f"{worker['rss_bytes'] / (1 << 20):.0f}M",
        str(worker["connections"]),
        str(worker["restarts"]),
        _last(worker),
    ]


def _last(worker: dict[str, Any]) -> str:
    if worker["request"] is not None:
        return f"{printable(worker['request']['line'])} for {worker['request']['age_s']:.1f} s"
    return printable(worker["last_request"]["line"]) if worker["last_request"] is not None else ""


def printable(text: str) -> str:
    """Return a text without what could move the terminal's cursor: clients send anything."""
    return "".join(char if char.isprintable() else "?" for char in text)


def duration(seconds: float | None) -> str:
    """Return a latency for people: "85us", "1.2ms", "3.4s"; "-" for none."""
    if seconds is None:
        return "-"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f}us"
    return f"{seconds * 1e3:.3g}ms" if seconds < 1 else f"{seconds:.3g}s"


def sparkline(values: Sequence[float]) -> str:
    """Return values as a row of bars, the tallest of them full."""
    most = max(values, default=0.0)
    if most <= 0:
        return LEVELS[0] * len(values)
    return "".join(LEVELS[min(7, int(value / most * 7.999))] for value in values)


def _each(keys: str) -> Iterator[str]:
    """Yield the keys in what was read: arrows are three characters."""
    while keys:
        width = 3 if keys.startswith("\x1b[") else 1
        yield keys[:width]
        keys = keys[width:]


@contextlib.contextmanager
def _keys_at_once(fd: int) -> Iterator[None]:
    """Have a terminal hand on each key, and show none; as it was, afterwards."""
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
