"""Whose word is taken, and what it says, in parts and as applications see it."""

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest
from asgi_parts import answering, asgi_wire
from harness import wire
from hypothesis import given
from hypothesis import strategies as st

from fastcluster import forwarded
from fastcluster.forwarded import Proxies
from fastcluster.native import NativeHandler
from fastcluster.wsgi import WsgiHandler

TRUST = [
    (["127.0.0.1"], "127.0.0.1", True),
    (["127.0.0.1"], "127.0.0.2", False),
    (["10.0.0.0/8"], "10.255.0.1", True),
    (["10.0.0.0/8"], "11.0.0.1", False),
    (["10.0.0.1/8"], "10.9.9.9", True),
    (["::1"], "::1", True),
    (["fd00::/8"], "fd12::1", True),
    (["fd00::/8"], "10.0.0.1", False),
    (["10.0.0.0/8"], "::ffff:10.0.0.1", True),
    (["unix"], "", True),
    (["unix"], "127.0.0.1", False),
    (["127.0.0.1"], "", False),
    (["*"], "192.0.2.1", True),
    (["*"], "", True),
    ([], "127.0.0.1", False),
]


@pytest.mark.parametrize(("trusted", "peer", "expected"), TRUST)
def test_who_is_trusted(trusted: list[str], peer: str, expected: bool) -> None:
    assert Proxies(trusted).trust(peer) is expected


@pytest.mark.parametrize("wrong", ["localhost", "10.0.0.0/33", "", "1.2.3", "unix:/run/x"])
def test_what_is_no_proxy_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="no address and no network"):
        Proxies(["::1", wrong])


CLIENTS = [
    ([b"192.0.2.1"], ("192.0.2.1", 0)),
    ([b"192.0.2.1, 10.0.0.2"], ("192.0.2.1", 0)),
    ([b"192.0.2.1", b"10.0.0.2, 10.0.0.3"], ("192.0.2.1", 0)),
    # What stands in front of the last stranger was written by strangers.
    ([b"10.0.0.9, 192.0.2.1, 10.0.0.2"], ("192.0.2.1", 0)),
    ([b"spoofed, 192.0.2.1"], ("192.0.2.1", 0)),
    ([b"192.0.2.1, unknown"], None),
    ([b"192.0.2.1, _hidden, 10.0.0.2"], ("10.0.0.2", 0)),
    ([b"10.0.0.1, 10.0.0.2"], ("10.0.0.1", 0)),
    ([b"192.0.2.1:4711"], ("192.0.2.1", 4711)),
    ([b"[2001:db8::1]:4711"], ("2001:db8::1", 4711)),
    ([b"[2001:db8::1]"], ("2001:db8::1", 0)),
    ([b"2001:db8::1"], ("2001:db8::1", 0)),
    ([b"::ffff:192.0.2.1"], ("192.0.2.1", 0)),
    ([b"192.0.2.1:65536"], None),
    ([b"[2001:db8::1"], None),
    ([b"[2001:db8::1]4711"], None),
    ([b"\xff\xfe"], None),
    ([b""], None),
    ([], None),
]


@pytest.mark.parametrize(("hops", "expected"), CLIENTS)
def test_the_client_is_the_last_that_is_no_proxy(
    hops: list[bytes], expected: tuple[str, int] | None
) -> None:
    assert Proxies(["10.0.0.0/8"]).client(hops) == expected


def test_whoever_trusts_everybody_takes_the_first() -> None:
    assert Proxies(["*"]).client([b"192.0.2.1, 198.51.100.2"]) == ("192.0.2.1", 0)


ADDRESSES = st.ip_addresses()


@given(st.lists(ADDRESSES), ADDRESSES.map(forwarded.plain), st.lists(st.ip_addresses(v=4)))
def test_strangers_words_change_nothing(
    before: list[Any], client: ipaddress.IPv4Address, proxies: list[Any]
) -> None:
    own = [address for address in proxies if address != client]
    entries = ", ".join(map(str, [*before, client, *own])).encode()
    assert Proxies(list(map(str, own))).client([entries]) == (str(client), 0)


@given(st.lists(st.binary()))
def test_whatever_comes_is_an_address_or_nothing(hops: list[bytes]) -> None:
    found = Proxies(["10.0.0.0/8"]).client(hops)
    assert found is None or (ipaddress.ip_address(found[0]) and 0 <= found[1] < 65536)


SCHEMES = [
    ([b"https"], "https"),
    ([b" HTTPS "], "https"),
    ([b"http"], "http"),
    ([b"wss"], "https"),
    ([b"https, http"], "http"),
    ([b"https", b"http"], "http"),
    ([b"gopher"], None),
    ([b""], None),
    ([], None),
]


@pytest.mark.parametrize(("values", "expected"), SCHEMES)
def test_the_last_scheme_counts(values: list[bytes], expected: str | None) -> None:
    assert forwarded.scheme(values) == expected


# ---- as applications see it

TOLD = b"X-Forwarded-For: 192.0.2.1:99\r\nX-Forwarded-Proto: https\r\n"
REQUEST = b"GET /a HTTP/1.1\r\nHost: h\r\n%b\r\n"
Seen = list[Any]


def native(request: Any) -> Seen:
    return [request.scheme, *request.client, request.url]


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    keys = ("wsgi.url_scheme", "REMOTE_ADDR", "REMOTE_PORT")
    return [json.dumps([environ.get(key) for key in keys]).encode()]


@pytest.mark.parametrize("proxies", [("127.0.0.0/8",), ("*",)])
def test_a_trusted_proxy_is_believed(proxies: tuple[str, ...]) -> None:
    with wire(NativeHandler, native, forwarded_allow_ips=proxies) as w:
        seen = json.loads(w.request(REQUEST % TOLD).body)
        assert seen == ["https", "192.0.2.1", 99, "https://h/a"]
    with wire(WsgiHandler, wsgi, forwarded_allow_ips=proxies) as w:
        assert json.loads(w.request(REQUEST % TOLD).body) == ["https", "192.0.2.1", "99"]


@pytest.mark.parametrize("proxies", [(), ("192.0.2.0/24", "unix")])
def test_others_are_not(proxies: tuple[str, ...]) -> None:
    with wire(NativeHandler, native, forwarded_allow_ips=proxies) as w:
        assert json.loads(w.request(REQUEST % TOLD).body)[:2] == ["http", "127.0.0.1"]
    with wire(WsgiHandler, wsgi, forwarded_allow_ips=proxies) as w:
        assert json.loads(w.request(REQUEST % TOLD).body)[:2] == ["http", "127.0.0.1"]


def test_each_request_of_a_connection_has_its_own_client() -> None:
    with wire(NativeHandler, native, forwarded_allow_ips=("127.0.0.1",)) as w:
        client = w.connect()
        seen = [
            json.loads(client.request(REQUEST % fields).body)[:2]
            for fields in (
                TOLD,
                b"",
                b"X-Forwarded-For: 192.0.2.7\r\n",
                b"x-FORWARDED-proto: https\r\n",
            )
        ]
    assert seen == [
        ["https", "192.0.2.1"],
        ["http", "127.0.0.1"],
        ["http", "192.0.2.7"],
        ["https", "127.0.0.1"],
    ]


def test_a_kept_request_remembers_who_asked() -> None:
    kept: list[Any] = []

    def handler(request: Any) -> str:
        kept.append(request)
        return ""

    with wire(NativeHandler, handler, forwarded_allow_ips=("127.0.0.1",)) as w:
        w.request(REQUEST % TOLD)
    assert (kept[0].scheme, kept[0].client) == ("https", ("192.0.2.1", 99))


def test_behind_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with wire(WsgiHandler, wsgi, unix=path, forwarded_allow_ips=("unix",)) as w:
        assert json.loads(w.request(REQUEST % TOLD).body) == ["https", "192.0.2.1", "99"]
        assert json.loads(w.request(REQUEST % b"").body)[:2] == ["http", ""]


def test_the_scope_has_it() -> None:
    scopes: list[dict[str, Any]] = []
    answer = answering(b"")

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scopes.append(scope)
        await answer(scope, receive, send)

    with asgi_wire(app, forwarded_allow_ips=("127.0.0.1",)) as w:
        w.request(REQUEST % TOLD)
        w.request(REQUEST % b"")
    assert [(scope["scheme"], scope["client"][0]) for scope in scopes] == [
        ("https", "192.0.2.1"),
        ("http", "127.0.0.1"),
    ]
    assert scopes[0]["client"][1] == 99


def test_the_access_log_has_it() -> None:
    class Access:
        def __init__(self) -> None:
            self.hosts: list[str] = []

        def record(self, host: str, *_: object) -> None:
            self.hosts.append(host)

    access = Access()
    with wire(NativeHandler, native, access=access, forwarded_allow_ips=("127.0.0.1",)) as w:
        w.request(REQUEST % TOLD)
    assert access.hosts == ["192.0.2.1"]
