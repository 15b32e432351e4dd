"""From an application to the adapter that runs it.

Whoever serves asks here, a worker or a program of the user's own, so that both take an
object for the same.  The law: no adapter is imported that is not needed.  This file knows
no server and no loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastcluster import apps
from fastcluster.config import Config

if TYPE_CHECKING:
    from fastcluster.exchange import Handler


def handler_for(app: Any, config: Config) -> Handler:
    """Return what runs an application; raises AppLoadError where it cannot be told how.

    One that has an attach() runs in an asyncio loop, see guest.Guest.
    """
    interface = config.interface
    if interface == "auto":
        interface = apps.interface_of(app)
    if interface == "asgi":
        from fastcluster.asgi import AsgiHandler

        return AsgiHandler(app, config)
    if interface == "wsgi":
        from fastcluster.wsgi import WsgiHandler

        return WsgiHandler(app, config)
    return native_handler_for(app, config)


def native_handler_for(app: Any, config: Config) -> Handler:
    """Return what runs a native handler, `async def` or not; raises AppLoadError."""
    from fastcluster.native import NativeHandler, is_async

    if not is_async(app):
        return NativeHandler(app, config)
    from fastcluster.native_async import AsyncNativeHandler

    return AsyncNativeHandler(app, config)
