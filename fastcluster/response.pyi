import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

# What may be given as a field's name or value: latin-1 text, bytes or a number.
_Text: TypeAlias = str | bytes | int
_Value: TypeAlias = _Text | list[str] | list[bytes] | tuple[_Text, ...]
_Fields: TypeAlias = (
    Mapping[str, _Text]
    | Mapping[str, str]
    | Mapping[str, _Value]
    | Iterable[tuple[str | bytes, _Value]]
)
_Chunk: TypeAlias = bytes | str | bytearray | memoryview
_Body: TypeAlias = _Chunk | dict[str, Any] | list[Any] | Iterable[bytes] | Iterable[str] | None

class Response:
    status_code: int
    status_message: str | bytes | None
    def __init__(
        self,
        body: _Body = b"",
        status: int = 200,
        headers: _Fields | None = None,
        reason: str | bytes | None = None,
    ) -> None: ...
    @property
    def headers_sent(self) -> bool: ...
    @property
    def finished(self) -> bool: ...
    def set_header(self, name: str | bytes, value: _Value) -> Response: ...
    def append_header(self, name: str | bytes, value: _Value) -> Response: ...
    def get_header(self, name: str) -> _Value | None: ...
    def has_header(self, name: str) -> bool: ...
    def remove_header(self, name: str) -> None: ...
    def write_head(
        self, status: int, headers: _Fields | None = None, reason: str | bytes | None = None
    ) -> Response: ...
    def write(self, chunk: _Chunk) -> bool: ...
    def flush(self) -> None: ...
    def end(self, chunk: _Chunk = b"") -> None: ...
    def send_file(
        self,
        path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        offset: int = 0,
        length: int | None = None,
    ) -> None: ...
