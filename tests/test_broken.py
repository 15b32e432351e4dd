"""The page in the place of an application that does not load."""

from html.parser import HTMLParser

from fastcluster import broken

REASON = (
    "cannot import app:app\nTraceback …\n  x = <script>\nNameError: name '<b>$app' is not defined"
)


class Texts(HTMLParser):
    """Collects the texts by element, and the names of all elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.names: set[str] = set()
        self.at = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.at = tag

    def handle_data(self, data: str) -> None:
        self.found[self.at] = self.found.get(self.at, "") + data


def test_the_reason_is_shown_as_text() -> None:
    texts = Texts(broken.page("app:app", REASON, True))
    assert texts.found["h1"].strip() == "app:app does not load"
    assert texts.found["h2"].strip() == "NameError: name '<b>$app' is not defined"
    assert texts.found["pre"].strip() == REASON
    assert not texts.names & {"script", "b"}


def test_one_line_needs_no_block() -> None:
    texts = Texts(broken.page("app:app", "there is no module app", True))
    assert texts.found["h2"].strip() == "there is no module app"
    assert "pre" not in texts.names


def test_the_reason_is_shown_in_development_only() -> None:
    text = broken.page("app:app", REASON, False)
    assert "NameError" not in text
    assert "The log of the server says why" in text


def test_every_request_gets_it() -> None:
    status, fields, body = broken.handler_of("app:app", REASON, True)(object())
    assert status == 500
    assert ("Content-Type", "text/html; charset=utf-8") in fields
    assert ("Cache-Control", "no-store") in fields
    assert b"NameError" in body
