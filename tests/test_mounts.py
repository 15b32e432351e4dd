"""Specs of mounts: what they say, and one sentence for each that makes no sense."""

from pathlib import Path

import pytest

from fastcluster import mounts, worker
from fastcluster.config import Config
from fastcluster.errors import AppLoadError, UsageError
from fastcluster.mounting import AsyncMountHandler, MountHandler
from fastcluster.mounts import Spec

APPS = Path(__file__).parent / "apps"


def config(app: str, folder: Path = APPS, **options: object) -> Config:
    return Config(app=app, app_dir=str(folder), **options)  # type: ignore[arg-type]


def test_what_is_a_spec() -> None:
    assert mounts.is_spec("/=site:app")
    assert mounts.is_spec("/api=api:app /=site:app")
    assert mounts.is_spec("site:app other:app")
    assert not mounts.is_spec("site:app")
    assert not mounts.is_spec(" site:app ")


def test_what_specs_say() -> None:
    assert mounts.read("/api/=api:app /old/x=legacy:make() /=site:app") == [
        Spec("/api", "api:app", False),
        Spec("/old/x", "legacy:make", True),
        Spec("", "site:app", False),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a:b c:d", "'a:b' is mounted nowhere: where there are several, write PATH=MODULE:NAME"),
        ("/=a:b c:d", "'c:d' is mounted nowhere"),
        ("/api", "'/api' says no application: write PATH=MODULE:NAME, such as /api=api:app"),
        ("/api=", "'/api=' says no application"),
        ("/a=x:y /a/=x:z", "two applications are mounted at /a: leave one out"),
        ("/=x:y /=x:z", "two applications are mounted at /: leave one out"),
        ("/a//b=x:y", "'/a//b' is no path to mount at"),
        ("/a/../b=x:y", "'/a/../b' is no path to mount at"),
        ("/a%20b=x:y", "'/a%20b' is no path to mount at"),
    ],
)
def test_a_spec_that_makes_no_sense(text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        mounts.check(config(text))
    assert str(caught.value).startswith(complaint)


def test_what_can_be_said_of_one_application_alone() -> None:
    with pytest.raises(UsageError, match="--factory is for one application: write /api="):
        mounts.check(config("/=proc_app:app", factory=True))
    with pytest.raises(UsageError, match="--interface wsgi is for one application"):
        mounts.check(config("/=proc_app:app", interface="wsgi"))


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(AppLoadError, match=r"no module 'proc_ap'.*did you mean 'proc_app:app'"):
        mounts.check(config("/=proc_app:app /x=proc_ap:app"))


def test_all_kinds_are_loaded() -> None:
    handler = worker.make_handler(
        config("/a=mount_app:asgi /w=mount_app:wsgi /n=mount_app:make_native()")
    )
    assert isinstance(handler, AsyncMountHandler)
    assert [mount.prefix for mount in handler.mounts] == ["/a", "/w", "/n"]
    assert len(handler.runners) == 1
    handler.close()


def test_without_asynchronous_ones_no_loop_is_needed() -> None:
    handler = worker.make_handler(config("/w=mount_app:wsgi /=mount_app:native"))
    assert type(handler) is MountHandler
    assert not hasattr(handler, "attach")
    handler.close()


def test_what_is_no_application_is_named_with_its_place() -> None:
    with pytest.raises(AppLoadError, match=r"^mounted at /x, mount_app:nothing: "):
        worker.make_handler(config("/=mount_app:wsgi /x=mount_app:nothing"))
