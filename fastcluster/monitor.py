"""What a primary shows on a TCP port: /metrics for Prometheus, and the dashboard.

A control.Control that only shows: one request for each connection, bounded as that is, and
nothing that can be asked changes the server.  The law: it waits for nobody; a dashboard
that does not take its events is cut off.  What the page looks like is dashboard.html's
affair, the figures are metrics.py's and sampling.py's.

Server-Sent Events: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from http import HTTPStatus
from importlib import resources
from typing import Any

from fastcluster import metrics
from fastcluster.control import PATIENCE_S, Client, Control, PrimaryLike, Refused
from fastcluster.sampling import Sampler

SAMPLE_EVERY_S = 1.0
# What a dashboard that is opened later sees of the past.
SAMPLES_KEPT = 300
EVENTS_KEPT = 60
STREAMS_MOST = 16

_PAGE_FIELDS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors 'none'; "
    "base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_EVENTS_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
    b"X-Accel-Buffering: no\r\nConnection: close\r\n\r\nretry: 2000\n\n"
)


class Chronicle(logging.Handler):
    """What has become of the server, from the primary's own log: for the deploy history."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._pid = os.getpid()
        self.entries: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, of several lines the first and the last; forked workers keep none."""
        if os.getpid() != self._pid:
            return
        lines = record.getMessage().strip().splitlines() or [""]
        text = lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}"
        self.entries.append(
            {"at": round(record.created, 3), "level": record.levelname.lower(), "text": text[:500]}
        )


class Monitor(Control):
    """One listening socket that shows.

    token: who has it may look, None: everybody.  has_page: the dashboard and its events are
    there, besides /metrics.
    """

    def __init__(
        self,
        name: str,
        listener: socket.socket,
        primary: PrimaryLike,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        *,
        token: str | None = None,
        has_page: bool = False,
        chronicle: Chronicle | None = None,
    ) -> None:
        super().__init__(name, listener, primary, log, clock)
        self._token = token
        self._has_page = has_page
        self._chronicle = chronicle
        self._streams: set[Client] = set()
        self._sampler = Sampler()
        self._samples: deque[dict[str, Any]] = deque(maxlen=SAMPLES_KEPT)
        self._sample_s = clock()

    # ---- what the owner calls

    def settle(self) -> None:
        """Cut off those whose time is over; look at the server once a second."""
        super().settle()
        now = self._now()
        if not self._has_page or now < self._sample_s:
            return
        self._sample_s = now + SAMPLE_EVERY_S
        sample = self._sample(now)
        self._samples.append(sample)
        event = _event("sample", sample)
        for client in list(self._streams):
            if client.unsent is None:  # else it is behind, and its time runs
                self._push(client, event)

    def next_deadline(self) -> float | None:
        """Return the moment at which `settle()` has something to do, if any is known."""
        due = super().next_deadline()
        if not self._has_page:
            return due
        return self._sample_s if due is None else min(due, self._sample_s)

    def leave_to_heir(self) -> None:
        """Take no more clients; those who watch come again, to the other primary."""
        super().leave_to_heir()
        for client in list(self._streams):
            self._drop(client)

    def close(self) -> None:
        """Hang up, and stop listening."""
        for client in list(self._streams):
            self._drop(client)
        super().close()

    # ---- connections

    def _greet(self, sock: socket.socket) -> Client:
        return Client(sock, self._now() + PATIENCE_S, "a monitor")

    def _send(self, client: Client) -> None:
        if client not in self._streams:
            super()._send(client)
            return
        assert client.unsent is not None
        try:
            client.unsent = client.unsent[client.socket.send(client.unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        if not client.unsent:
            client.unsent, client.is_waiting, client.deadline_s = None, True, None

    def _drop(self, client: Client) -> None:
        self._streams.discard(client)
        super()._drop(client)

    def _push(self, client: Client, data: bytes) -> None:
        client.unsent = data
        client.is_waiting = False
        client.deadline_s = self._now() + PATIENCE_S
        self._send(client)

    # ---- requests

    def _obey(self, client: Client, method: str, path: str, words: dict[str, str]) -> None:
        shown: dict[str, Callable[[Client], None]] = {"/metrics": self._metrics}
        if self._has_page:
            shown |= {"/": self._page, "/events": self._events, "/status": self._show_status}
        if path not in shown:
            raise Refused(404, f"there is no {path}: {', '.join(shown)} are there")
        if method != "GET":
            raise Refused(405, f"{path} wants GET, not {method}", "GET")
        if self._token is not None and not _knows(client, words, self._token):
            raise Refused(
                401, "a token is wanted, ?token=… or Authorization: Bearer …; the log has it"
            )
        shown[path](client)

    def _metrics(self, client: Client) -> None:
        status = self._primary.status(True)
        text = metrics.openmetrics(status, status["totals"]["histogram"])
        self._push(client, page(text.encode(), metrics.CONTENT_TYPE))

    def _page(self, client: Client) -> None:
        html = resources.files("fastcluster").joinpath("dashboard.html").read_bytes()
        self._push(client, page(html, "text/html; charset=utf-8", _PAGE_FIELDS))

    def _show_status(self, client: Client) -> None:
        self._answer(client, 200, {"name": self.name, **self._primary.status()})

    def _events(self, client: Client) -> None:
        if len(self._streams) >= STREAMS_MOST:
            raise Refused(503, f"{STREAMS_MOST} dashboards are open already")
        self._streams.add(client)
        past = {"samples": list(self._samples)}
        self._push(client, _EVENTS_HEAD + _event("past", past))

    def _sample(self, now: float) -> dict[str, Any]:
        status = {"name": self.name, **self._primary.status(True)}
        sample = self._sampler.take(status, now)
        events = list(self._chronicle.entries) if self._chronicle is not None else []
        return {"at": round(time.time(), 3), **sample, "events": events}


def page(body: bytes, content_type: str, fields: Mapping[str, str] | None = None) -> bytes:
    """Return a whole response, after which the connection closes."""
    head = {
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "Connection": "close",
        **(fields or {}),
    }
    lines = [f"HTTP/1.1 200 {HTTPStatus.OK.phrase}", *(f"{k}: {v}" for k, v in head.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _knows(client: Client, words: Mapping[str, str], token: str) -> bool:
    found = re.search(rb"\r\nauthorization:[ \t]*bearer[ \t]+(\S+)", client.head, re.IGNORECASE)
    given = found[1] if found else words.get("token", "").encode()
    return hmac.compare_digest(given, token.encode())


def _event(name: str, content: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(content)}\n\n".encode()
