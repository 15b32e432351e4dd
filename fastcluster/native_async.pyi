import os
from collections.abc import AsyncIterator, Awaitable
from typing import Any, NoReturn

from fastcluster.config import Config
from fastcluster.fields import MultiDict
from fastcluster.multipart import Upload
from fastcluster.request import Request
from fastcluster.response import Response
from fastcluster.tasks import TaskRunner

class AsyncNativeHandler(TaskRunner):
    def __init__(self, app: object, config: Config) -> None: ...

# The names that read or send are awaited here; what takes a Request or a Response for its
# head takes these, too.
class AsyncRequest(Request):
    @property
    def body(self) -> Awaitable[bytes]: ...  # type: ignore[override]
    async def read(self, size: int | None = -1, /) -> bytes: ...  # type: ignore[override]
    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def __iter__(self) -> NoReturn: ...
    async def text(self) -> str: ...  # type: ignore[override]
    async def json(self) -> Any: ...
    async def form(self) -> MultiDict[str]: ...  # type: ignore[override]
    async def files(self) -> MultiDict[Upload]: ...  # type: ignore[override]

class AsyncResponse(Response):
    def write(self, chunk: bytes | str | bytearray | memoryview) -> Awaitable[None]: ...  # type: ignore[override]
    def flush(self) -> Awaitable[None]: ...  # type: ignore[override]
    def end(self, chunk: bytes | str | bytearray | memoryview = b"") -> Awaitable[None]: ...  # type: ignore[override]
    def send_file(  # type: ignore[override]
        self,
        path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        offset: int = 0,
        length: int | None = None,
    ) -> Awaitable[None]: ...
