"""Several applications in one worker: who gets what, and where they think they are."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgi_parts import GuestWire
from harness import Wire
from test_processes import Start, start  # noqa: F401

from fastcluster import mounts
from fastcluster.config import Config
from fastcluster.guest import Guest

APPS = Path(__file__).parent / "apps"
ALL = (
    "/api=mount_app:asgi /api/v2=mount_app:other /old=mount_app:wsgi /n=mount_app:native "
    "/async=mount_app:native_async /site=mount_app:app"
)


class Mounted:
    """A server of mounts, and what its applications say."""

    def __init__(self, specs: str, **options: Any) -> None:
        config = Config(app=specs, app_dir=str(APPS), **options)
        handler: Any = mounts.handler_of(mounts.load(config), config)
        make: Any = GuestWire if hasattr(handler, "attach") else Wire
        self.wire = make(lambda app, _: app, handler, **options)

    def get(self, target: str) -> dict[str, Any]:
        response = self.wire.request(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        if response.status != 200:
            return {"status": response.status}
        said: dict[str, Any] = json.loads(response.body)
        return said


@pytest.fixture
def mounted(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    specs, options = getattr(request, "param", (ALL, {}))
    one = Mounted(specs, **options)
    yield one
    one.wire.close()


def of(specs: str, **options: Any) -> Any:
    return pytest.mark.parametrize("mounted", [(specs, options)], indirect=True)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/api/x", {"app": "asgi", "root": "/api", "path": "/api/x", "raw": "/api/x"}),
        ("/api", {"app": "asgi", "root": "/api", "path": "/api", "raw": "/api"}),
        ("/api/v2/x?y", {"app": "other", "root": "/api/v2", "path": "/api/v2/x"}),
        ("/api/v2x", {"app": "asgi", "path": "/api/v2x"}),
        ("/api/v/2", {"app": "asgi", "path": "/api/v/2"}),
        ("/%61pi/a%20b", {"app": "asgi", "path": "/api/a b", "raw": "/%61pi/a%20b"}),
        ("http://other/api/x", {"app": "asgi", "path": "/api/x"}),
        ("/old/a/b", {"app": "wsgi", "root": "/old", "path": "/a/b"}),
        ("/old", {"app": "wsgi", "root": "/old", "path": ""}),
        ("/old/%6Fld", {"app": "wsgi", "root": "/old", "path": "/old"}),
        ("/n/a?b", {"app": "native", "path": "/a", "target": "/n/a?b"}),
        ("/n", {"app": "native", "path": "/", "target": "/n"}),
        ("/%6e/a%20b", {"app": "native", "path": "/a b"}),
        ("/async/a", {"app": "async", "path": "/a"}),
        ("/site/users/ann", {"app": "App", "name": "ann", "path": "/users/ann"}),
        ("/apis", {"status": 404}),
        ("/", {"status": 404}),
        ("/olden", {"status": 404}),
        ("/API/x", {"status": 404}),
    ],
)
def test_the_longest_prefix_of_whole_segments_wins(
    mounted: Mounted, target: str, said: dict[str, Any]
) -> None:
    found = mounted.get(target)
    assert {key: found.get(key) for key in said} == said


@of("/=mount_app:wsgi /api=mount_app:native")
def test_the_root_has_all_that_is_left(mounted: Mounted) -> None:
    assert mounted.get("/") == {"app": "wsgi", "root": "", "path": "/"}
    assert mounted.get("/apis") == {"app": "wsgi", "root": "", "path": "/apis"}
    assert mounted.get("/api/x")["app"] == "native"
    options = mounted.wire.request(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")
    assert json.loads(options.body) == {"app": "wsgi", "root": "", "path": ""}


def test_an_asterisk_is_nobodys_without_a_root(mounted: Mounted) -> None:
    assert mounted.wire.request(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").status == 404


@of("/api=mount_app:asgi /old=mount_app:wsgi /n=mount_app:native", root_path="/proxy")
def test_a_proxy_may_take_its_own_prefix_off_or_not(mounted: Mounted) -> None:
    for target in ("/api/x", "/proxy/api/x"):
        said = mounted.get(target)
        assert (said["root"], said["path"]) == ("/proxy/api", "/proxy/api/x")
        assert said["raw"] == "/proxy/api/x"
    for target in ("/old/x", "/proxy/old/x"):
        assert mounted.get(target) == {"app": "wsgi", "root": "/proxy/old", "path": "/x"}
    for target in ("/n/x", "/proxy/n/x"):
        assert mounted.get(target)["path"] == "/x"
    assert mounted.get("/proxy") == {"status": 404}


def test_bodies_reach_the_application_that_is_asked(mounted: Mounted) -> None:
    post = b"POST /old/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n"
    client = mounted.wire.connect()
    client.send(post + b"a")
    mounted.wire.turn()
    assert json.loads(client.request(b"b").body)["app"] == "wsgi"


# ---- lifespans


def events_of(specs: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Guest]:
    import logging

    monkeypatch.setenv("MOUNT_EVENTS", str(path))
    path.write_text("")
    config = Config(app=specs, app_dir=str(APPS), loop="asyncio")
    handler: Any = mounts.handler_of(mounts.load(config), config)
    return handler, Guest(handler, config, logging.getLogger("fastcluster"))


def test_if_one_fails_to_start_the_others_shut_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastcluster.errors import AppLoadError

    specs = "/a=mount_app:asgi /f=mount_app:failing /o=mount_app:other"
    _, guest = events_of(specs, tmp_path / "events", monkeypatch)
    with pytest.raises(AppLoadError, match="no database"):
        guest.start_up({})
    guest.close()
    assert (tmp_path / "events").read_text().splitlines() == ["asgi started", "asgi stopped"]


def test_every_application_has_a_lifespan_and_a_state_of_its_own(
    start: Start,  # noqa: F811
    tmp_path: Path,
) -> None:
    events = tmp_path / "events"
    cluster = start(
        "/o=mount_app:other", "/w=mount_app:wsgi", "/n=mount_app:native_async", "--workers", "1",
        app="/a=mount_app:asgi", MOUNT_EVENTS=str(events),
    )  # fmt: skip
    cluster.ready(1)
    assert cluster.said(r"application /a=mount_app:asgi /o=mount_app:other")
    assert json.loads(cluster.get("/a/x"))["state"] == {"name": "asgi"}
    assert json.loads(cluster.get("/o/x"))["state"] == {"name": "other"}
    assert json.loads(cluster.get("/w/x")) == {"app": "wsgi", "root": "/w", "path": "/x"}
    assert json.loads(cluster.get("/n/x")) == {"app": "async", "path": "/x"}
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    told = events.read_text().splitlines()
    assert told[:2] == ["asgi started", "other started"]
    assert sorted(told[2:]) == ["asgi stopped", "other stopped"]


def test_a_mount_that_cannot_be_is_one_line(start: Start) -> None:  # noqa: F811
    cluster = start("/o=nothing_there:app", app="/a=mount_app:asgi")
    assert cluster.exit_code() == 3
    assert cluster.output.startswith("fastcluster: there is no module 'nothing_there'")
    assert cluster.output.count("\n") == 1
