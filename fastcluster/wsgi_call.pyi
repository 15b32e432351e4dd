from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from fastcluster.exchange import Consumer

class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...

class Call(Consumer):
    def __call__(
        self,
        status: str,
        response_headers: list[tuple[str, str]],
        exc_info: tuple[type[BaseException], BaseException, TracebackType] | None = None,
    ) -> object: ...
    def write(self, data: bytes, /) -> None: ...

class FileWrapper(Iterator[bytes]):
    filelike: _Readable
    block_size: int
    def __init__(self, filelike: _Readable, block_size: int = 8192) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> bytes: ...
    def close(self) -> None: ...

class FileRange: ...
