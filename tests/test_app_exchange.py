"""app_exchange.py: the verbs that an App adds to responses, over a real connection."""

from pathlib import Path
from typing import Any

import pytest
from test_app import ask

from fastcluster.app import App


def answer_of(handler: Any, **more: Any) -> Any:
    app = App()
    app.route("/", handler)
    return ask(app, "/", **more)


@pytest.mark.parametrize(
    ("value", "status", "kind", "body"),
    [
        ("é", 200, "text/plain; charset=utf-8", "é".encode()),
        ({"a": [1]}, 200, "application/json", b'{"a":[1]}'),
        ((201, {"X-A": "1"}, "made"), 201, "text/plain; charset=utf-8", b"made"),
        (None, 204, None, b""),
        (iter(["a", b"b"]), 200, "text/plain; charset=utf-8", b"ab"),
    ],
)
def test_what_may_be_returned(value: Any, status: int, kind: str | None, body: bytes) -> None:
    response = answer_of(lambda request: value)
    assert (response.status, response.getheader("content-type"), response.body) == (
        status, kind, body,
    )  # fmt: skip


def test_redirect_and_cookies() -> None:
    def handler(request: Any, response: Any) -> None:
        response.cookie("a", "1; x", max_age_s=5, http_only=True, same_site="Lax")
        response.clear_cookie("b").redirect("/é?x=1", 303)

    response = answer_of(handler)
    assert (response.status, response.getheader("location")) == (303, "/%C3%A9?x=1")
    first, second = response.headers.get_all("set-cookie")
    assert first.startswith('a="1\\073 x"; HttpOnly; Max-Age=5; Path=/; SameSite=Lax')
    assert "Max-Age=0" in second


@pytest.mark.parametrize(
    ("path", "status"),
    [("a.txt", 200), ("/a.txt", 200), ("none", 404), ("../out", 404), ("a\0", 404), (".", 404)],
)
def test_send_file_stays_below_its_root(tmp_path: Path, path: str, status: int) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.txt").write_text("file")
    (tmp_path / "out").write_text("secret")
    response = answer_of(lambda request, response: response.send_file(path, root=str(root)))
    assert response.status == status
    assert b"secret" not in response.body


@pytest.mark.parametrize(("trust", "ip"), [(False, "127.0.0.1"), (True, "1.1.1.1"), (1, "2.2.2.2")])
def test_the_address_that_proxies_say(trust: Any, ip: str) -> None:
    app = App().set("trust proxy", trust)
    app.get("/", lambda request: request.ip)
    assert ask(app, "/", headers={"X-Forwarded-For": "1.1.1.1, 2.2.2.2"}).body == ip.encode()
