"""The page that is served where there is no application yet.

The law: one answer without anything from elsewhere, no script, no font, no
picture.  It knows which worker it is asked in and nothing else.
"""

from __future__ import annotations

import os
from typing import Any

# Set by the command before it forks; 0 says that nobody has.
workers = 0

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
<title>fastcluster is running</title>
<link rel="icon" href="data:,">
<style>
:root {
  --ink: #1c2430; --dim: #5b6675; --ground: #f6f7f9; --card: #fff; --line: #dfe3e8; --mark: #0b6e4f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e9ee; --dim: #9aa5b4; --ground: #12161c; --card: #1a2028; --line: #2c3440;
    --mark: #4fd1a1;
  }
}
body {
  margin: 0; min-height: 100vh; display: grid; place-items: center;
  grid-template-columns: minmax(0, 1fr); background: var(--ground);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif;
}
main { box-sizing: border-box; width: 100%; max-width: 42rem; padding: 2.5rem 1.25rem; }
h1 { margin: 0 0 .25rem; font-size: 1.9rem; line-height: 1.2; }
h1 b { color: var(--mark); }
p { margin: .25rem 0 1rem; color: var(--dim); }
dl { display: grid; grid-template-columns: repeat(3, 1fr); gap: 1px; margin: 1.5rem 0; padding: 0;
  background: var(--line); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
dl div { background: var(--card); padding: .9rem 1rem; }
dt { color: var(--dim); font-size: .85rem; }
dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
h2 { margin: 2rem 0 .5rem; font-size: 1.05rem; }
pre { margin: 0 0 1rem; padding: .9rem 1rem; overflow-x: auto; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; font: .9rem/1.5 ui-monospace, monospace; }
code { font: .92em ui-monospace, monospace; color: var(--ink); }
</style>
</head>
<body>
<main>
<h1><b>fastcluster</b> is running</h1>
<p>There is no application in this folder yet, so you see this page.</p>
<dl>
<div><dt>answered by worker</dt><dd>$worker</dd></div>
<div><dt>its process id</dt><dd>$pid</dd></div>
<div><dt>workers in all</dt><dd>$workers</dd></div>
</dl>
<h2>What to type next</h2>
<p>Put this into a file <code>app.py</code>:</p>
<pre>def app(request):
    return {"hello": request.query.get("name", "world")}</pre>
<p>Stop the server with Ctrl-C and start it again; it finds the file by itself:</p>
<pre>fastcluster serve</pre>
<p>A Flask or Django site has a name of its own, <code>module:name</code>:</p>
<pre>fastcluster serve mysite.wsgi:application --bind 0.0.0.0:8000</pre>
<p>All options are shown by <code>fastcluster serve --help</code></p>
</main>
</body>
</html>
"""


def handler(request: Any) -> tuple[int, list[tuple[str, str]], bytes]:
    """Answer any request with the page."""
    worker = getattr(request, "worker", None)
    page = PAGE.replace("$workers", str(workers or "?"))
    page = page.replace("$worker", "?" if worker is None else f"{int(worker)}")
    return 200, FIELDS, page.replace("$pid", str(os.getpid())).encode()
