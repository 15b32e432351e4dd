import asyncio
from collections.abc import Sequence
from typing import Any

from fastcluster.config import Config
from fastcluster.exchange import Handler

class Mount:
    prefix: str
    handler: Handler

class MountHandler(Handler):
    mounts: list[Mount]
    def __init__(self, handlers: Sequence[tuple[str, Handler]], config: Config) -> None: ...
    def close(self) -> None: ...

class AsyncMountHandler(MountHandler):
    @property
    def runners(self) -> list[Any]: ...
    @property
    def tasks(self) -> set[asyncio.Task[None]]: ...
    def attach(self, loop: asyncio.AbstractEventLoop, states: list[Any] | None = None) -> None: ...
    def cancel_all(self) -> None: ...
