"""fields.py: what a request says, as mappings."""

import pytest

from fastcluster.fields import (
    FORM_FIELDS_MAX,
    BadRequest,
    Headers,
    MultiDict,
    decode_text,
    parse_cookies,
    parse_json,
    parse_parameters,
    parse_query,
    parse_urlencoded,
)


def test_a_multidict_gives_the_first_value_and_keeps_all() -> None:
    found = MultiDict([("a", "1"), ("b", "2"), ("a", "3")])
    assert found["a"] == "1"
    assert found.get("a") == "1"
    assert found.get("c") is None
    assert found.get("c", "d") == "d"
    assert found.get_all("a") == found.getlist("a") == ["1", "3"]
    assert found.get_all("c") == []
    assert found.multi_items() == [("a", "1"), ("b", "2"), ("a", "3")]
    assert list(found) == ["a", "b"]
    assert len(found) == 2
    assert "b" in found and "c" not in found
    assert dict(found) == {"a": "1", "b": "2"}
    with pytest.raises(KeyError):
        found["c"]


def test_what_a_multidict_gives_away_is_a_copy() -> None:
    found = MultiDict([("a", "1")])
    found.get_all("a").append("2")
    found.multi_items().clear()
    assert found.get_all("a") == ["1"]
    assert found.multi_items() == [("a", "1")]


def test_headers_compare_without_case_and_join_repeated_lines() -> None:
    headers = Headers([("Accept", "a"), ("ACCEPT", "b"), ("Cookie", "x=1"), ("cookie", "y=2")])
    assert headers["accept"] == headers.get("Accept") == "a, b"
    assert headers.get("cookie") == "x=1; y=2"
    assert headers.get_all("Accept") == headers.getlist("accept") == ["a", "b"]
    assert list(headers) == ["accept", "cookie"]
    assert len(headers) == 2
    assert "ACCEPT" in headers
    assert 1 not in headers
    assert headers.get("host") is None
    assert headers.get("host", "") == ""
    assert headers.multi_items()[1] == ("accept", "b")
    assert dict(headers.items()) == {"accept": "a, b", "cookie": "x=1; y=2"}
    with pytest.raises(KeyError):
        headers["host"]


@pytest.mark.parametrize(
    ("query", "pairs"),
    [
        (b"", []),
        (b"a=1&b=2&a=3", [("a", "1"), ("b", "2"), ("a", "3")]),
        (b"a", [("a", "")]),
        (b"a=&=b", [("a", ""), ("", "b")]),
        (b"a+b=c+d%2B", [("a b", "c d+")]),
        (b"n=%C3%A9", [("n", "é")]),
        (b"n=\xc3\xa9", [("n", "é")]),
        (b"n=%ff\xff", [("n", "\ufffd\ufffd")]),
        (b"a=1;b=2", [("a", "1;b=2")]),
        (b"a=%zz", [("a", "%zz")]),
    ],
)
def test_queries(query: bytes, pairs: list[tuple[str, str]]) -> None:
    assert parse_query(query).multi_items() == pairs


def test_a_form_of_too_many_fields_is_refused() -> None:
    assert len(parse_urlencoded(b"&".join([b"a=1"] * FORM_FIELDS_MAX)).multi_items()) == 1000
    with pytest.raises(BadRequest) as caught:
        parse_urlencoded(b"&".join([b"a=1"] * (FORM_FIELDS_MAX + 1)))
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("lines", "cookies"),
    [
        ([], {}),
        (["a=1; b=2"], {"a": "1", "b": "2"}),
        (["a=1", "b=2"], {"a": "1", "b": "2"}),
        (["a=1;b=2;a=3"], {"a": "1", "b": "2"}),
        (['a="x y"; b="'], {"a": "x y", "b": '"'}),
        (["broken; =x; a=b=c; ; e="], {"a": "b=c", "e": ""}),
        (["bad[name]=1; good=2"], {"bad[name]": "1", "good": "2"}),
    ],
)
def test_cookies(lines: list[str], cookies: dict[str, str]) -> None:
    assert parse_cookies(lines) == cookies


def test_json_of_any_utf_is_read() -> None:
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}
    assert parse_json('"é"'.encode("utf-16")) == "é"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": 1} x'])
def test_what_is_no_json_is_the_clients_mistake(body: bytes) -> None:
    with pytest.raises(BadRequest, match="not JSON") as caught:
        parse_json(body)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("value", "kind", "parameters"),
    [
        ("", "", {}),
        ("Text/HTML", "text/html", {}),
        ("text/plain; charset=UTF-8", "text/plain", {"charset": "UTF-8"}),
        ("text/plain;charset=utf-8 ;", "text/plain", {"charset": "utf-8"}),
        ("a/b; c=1; C=2", "a/b", {"c": "1"}),
        ('f; name="a;b"; x=y', "f", {"name": "a;b", "x": "y"}),
        (r'f; name="a\"b\\c\d"', "f", {"name": 'a"b\\c\\d'}),
        ('f; name=""', "f", {"name": ""}),
    ],
)
def test_parameters(value: str, kind: str, parameters: dict[str, str]) -> None:
    assert parse_parameters(value) == (kind, parameters)


@pytest.mark.parametrize("value", ['f; name="a', "f; =a", 'f; name="a" b', "f; name"])
def test_malformed_parameters(value: str) -> None:
    with pytest.raises(BadRequest, match="malformed"):
        parse_parameters(value)


def test_text_is_decoded_by_its_charset() -> None:
    assert decode_text("é".encode(), "") == "é"
    assert decode_text("é".encode(), "text/plain") == "é"
    assert decode_text(b"\xe9", "text/plain; charset=ISO-8859-1") == "é"
    assert decode_text("é".encode("utf-16"), 'text/plain; charset="utf-16"') == "é"


@pytest.mark.parametrize(
    ("body", "charset", "status"),
    [
        (b"\xff", "utf-8", 400),
        (b"a", "no-such", 415),
        (b"a", "base64", 415),
        (b"a", "punycode", 415),
        (b"a", "a\0b", 415),
    ],
)
def test_text_that_cannot_be_decoded(body: bytes, charset: str, status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_text(body, f"text/plain; charset={charset}")
    assert caught.value.status == status
