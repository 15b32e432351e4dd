"""adapters.py: which adapter an application gets."""

from typing import Any

import pytest

from fastcluster import http
from fastcluster.adapters import handler_for
from fastcluster.asgi import AsgiHandler
from fastcluster.config import Config
from fastcluster.errors import AppLoadError
from fastcluster.native import NativeHandler
from fastcluster.native_async import AsyncNativeHandler
from fastcluster.wsgi import WsgiHandler


def native(request: Any) -> Any: ...
async def asynchronous(request: Any, response: Any) -> None: ...
def wsgi(environ: Any, start_response: Any) -> Any: ...
async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize(
    ("app", "kind"),
    [
        (native, NativeHandler),
        (asynchronous, AsyncNativeHandler),
        (http.create_server(native), NativeHandler),
        (http.create_server(asynchronous), AsyncNativeHandler),
        (wsgi, WsgiHandler),
        (asgi, AsgiHandler),
    ],
)
def test_an_application_gets_its_adapter(app: Any, kind: type) -> None:
    assert type(handler_for(app, Config())) is kind


def test_what_the_user_says_is_taken() -> None:
    assert type(handler_for(lambda *args: None, Config(interface="asgi"))) is AsgiHandler
    with pytest.raises(AppLoadError, match="cannot be seen"):
        handler_for(object(), Config())
