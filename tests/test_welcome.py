"""The page for those who have no application yet."""

import os
import re
from html.parser import HTMLParser

import pytest

from fastcluster import apps, welcome


class Request:
    worker = 3


class Page(HTMLParser):
    """Collects the texts of dd elements, all attributes, and whether elements are closed."""

    VOID = ("meta", "link", "br", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.facts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "dd":
            self.facts.append(data)


def text_of(request: object) -> str:
    status, _, body = welcome.handler(request)
    assert status == 200
    return body.decode("utf-8")


def test_the_page_says_who_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(welcome, "workers", 8)
    assert Page(text_of(Request())).facts == ["3", str(os.getpid()), "8"]


def test_the_page_says_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(welcome, "workers", 0)
    assert Page(text_of(object())).facts == ["?", str(os.getpid()), "?"]


def test_the_page_says_what_to_type_next() -> None:
    text = text_of(Request())
    assert "fastcluster serve</pre>" in text
    assert "fastcluster serve --help" in text
    assert "def app(request):" in text
    assert "$" not in text


def test_the_page_is_whole() -> None:
    assert Page(text_of(Request())).open == []


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = text_of(Request())
    links = [value for name, value in Page(text).attributes if name in ("href", "src")]
    assert links == ["data:,"]
    assert not re.search(r"url\(|@import|<script|//\w", text)


def test_the_page_likes_the_dark_too() -> None:
    assert "prefers-color-scheme: dark" in text_of(Request())


def test_the_fields_are_safe() -> None:
    _, fields, _ = welcome.handler(Request())
    names = dict(fields)
    assert names["Content-Type"] == "text/html; charset=utf-8"
    assert names["Cache-Control"] == "no-store"
    assert names["Content-Security-Policy"].startswith("default-src 'none'")


def test_the_page_is_a_native_handler() -> None:
    assert apps.interface_of(welcome.handler) == "native"
    assert apps.load("fastcluster.welcome:handler") is welcome.handler


def test_what_the_page_tells_to_type_is_an_application() -> None:
    source = re.search(r"<pre>(def app.*?)</pre>", text_of(Request()), re.DOTALL)
    assert source is not None
    namespace: dict[str, object] = {}
    exec(source[1], namespace)
    assert apps.interface_of(namespace["app"]) == "native"
