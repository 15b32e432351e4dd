"""The page that is served while one develops and the application does not load.

The law: the same answer to every request, with the reason and nothing from elsewhere; the
reason is shown in development alone, since it quotes the code.
"""

from __future__ import annotations

import html
import string
from collections.abc import Callable
from typing import Any

FIELDS = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:"),
]

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>the application does not load</title>
<link rel="icon" href="data:,">
<style>
:root { --ink: #1c2430; --dim: #5b6675; --ground: #f6f7f9; --card: #fff; --line: #dfe3e8;
  --mark: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --dim: #9aa5b4; --ground: #12161c; --card: #1a2028; --line: #2c3440;
    --mark: #ff8a80; }
}
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
main { box-sizing: border-box; max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem; }
h1 { margin: 0; font-size: 1.5rem; }
h2 { margin: .5rem 0 1.5rem; color: var(--mark); overflow-wrap: anywhere;
  font: 600 1.05rem/1.5 ui-monospace, monospace; }
pre { margin: 0; padding: 1rem; overflow-x: auto; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; font: .9rem/1.5 ui-monospace, monospace; }
p { color: var(--dim); }
</style>
</head>
<body>
<main>
<h1>$app does not load</h1>
<h2>$summary</h2>
$reason
<p>Mend it and save: the workers start anew, and the next request is answered by them.</p>
</main>
</body>
</html>
"""


def page(app: str, reason: str, is_shown: bool) -> str:
    """Return the page; reason: as the log has it, the error itself in its last line."""
    lines = reason.strip().splitlines() or ["?"]
    summary = lines[-1] if is_shown else "The log of the server says why."
    block = f"<pre>{html.escape(reason.strip())}</pre>" if is_shown and len(lines) > 1 else ""
    words = {"app": html.escape(app), "summary": html.escape(summary), "reason": block}
    return string.Template(PAGE).substitute(words)


def handler_of(app: str, reason: str, is_shown: bool) -> Callable[[Any], Any]:
    """Return a native handler that answers every request with the page and 500."""
    body = page(app, reason, is_shown).encode("utf-8", "replace")

    def handler(request: Any) -> tuple[int, list[tuple[str, str]], bytes]:
        return 500, FIELDS, body

    return handler
