"""Takes multipart/form-data apart (RFC 7578) where it lies.

The body is a seekable file, in memory or on disk.  One pass in steps of 64 KiB
notes where each uploaded file begins and ends; an Upload is a window on that
file, so nothing is copied and no further descriptor is opened, however many
parts there are.  Whatever is not as RFC 2046 section 5.1 has it is refused.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from fastcluster.fields import FORM_FIELDS_MAX, BadRequest, Headers, MultiDict, parse_parameters

STEP_BYTES = 65536
HEAD_BYTES_MAX = 8192
# All text fields together: they are held in memory.
TEXT_BYTES_MAX = 1 << 20
BOUNDARY_MAX = 70


class Owned:
    """A file that is closed when the last of those who read it is gone."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek = file.seek
        self.read = file.read
        self._close = file.close

    def __del__(self) -> None:
        self._close()


class Readable(Protocol):
    """What is needed of a body: a position that can be set, and reading from it."""

    def seek(self, offset: int, /) -> int: ...
    def read(self, size: int, /) -> bytes: ...


class Upload(io.RawIOBase):
    """One uploaded file: a binary file for reading, with what the client said of it.

    filename: its last path component, as the client sent it; never to be trusted
    as a name on this machine.  content_type: "application/octet-stream" if the
    client said none.  headers: all fields of the part.  size: in bytes.
    For lines or text wrap it: io.TextIOWrapper(io.BufferedReader(upload)).
    Uploads of one request share one position on disk, so they are for one
    thread at a time.
    """

    def __init__(self, file: Readable, start: int, size: int, filename: str, headers: Headers):
        self._file = file
        self._start = start
        self._at = 0
        self.size = size
        self.filename = filename
        self.headers = headers
        self.content_type = headers.get("content-type", "application/octet-stream")

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move the position; return the new one."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}.get(whence)
        if base is None or base + offset < 0:
            raise ValueError(f"cannot seek to {offset} from {whence}")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to size bytes, all that is left for a negative size or None."""
        if self.closed:
            raise ValueError("the upload was read after it was closed")
        left = max(0, self.size - self._at)
        if size is None or size < 0 or size > left:
            size = left
        self._file.seek(self._start + self._at)
        data = self._file.read(size)
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        """Read all that is left."""
        return self.read(-1)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Read into a writable buffer; return the count of bytes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def __repr__(self) -> str:
        return f"<Upload {self.filename!r} {self.content_type} {self.size} bytes>"


class _Scanner:
    """Finds delimiters in a file; `base` is the file's position of buffer[0]."""

    def __init__(self, file: Readable, boundary: bytes) -> None:
        self.file = file
        self.delimiter = b"\r\n--" + boundary
        # The delimiter's line end belongs to it, and the first one may have none.
        self.buffer = bytearray(b"\r\n")
        self.base = -2

    def fill(self) -> None:
        step = self.file.read(STEP_BYTES)
        if not step:
            raise BadRequest("the multipart body ends before its last boundary")
        self.buffer += step

    def drop(self, count: int) -> None:
        del self.buffer[:count]
        self.base += count

    def until_delimiter(self) -> Iterator[bytes]:
        """Give the bytes up to the next delimiter in steps, then step over it."""
        while True:
            at = self.buffer.find(self.delimiter)
            if at >= 0:
                yield bytes(self.buffer[:at])
                self.drop(at + len(self.delimiter))
                return
            safe = len(self.buffer) - len(self.delimiter) + 1
            if safe > 0:
                yield bytes(self.buffer[:safe])
                self.drop(safe)
            self.fill()

    def line(self, limit: int) -> bytes:
        """Return the next line without its CRLF."""
        searched = 0
        while (at := self.buffer.find(b"\r\n", searched)) < 0:
            if len(self.buffer) > limit:
                break
            searched = max(0, len(self.buffer) - 1)
            self.fill()
        if at < 0 or at > limit:
            raise BadRequest("a multipart head is too large")
        line = bytes(self.buffer[:at])
        self.drop(at + 2)
        return line

    def is_last(self) -> bool:
        """Look behind a delimiter: is it the last, or does a part follow?"""
        while len(self.buffer) < 2:
            self.fill()
        if self.buffer.startswith(b"--"):
            return True
        if self.line(256).strip(b" \t"):
            raise BadRequest("malformed multipart boundary")
        return False


def _read_head(scanner: _Scanner) -> Headers:
    pairs = []
    left = HEAD_BYTES_MAX
    while line := scanner.line(left):
        left -= len(line) + 2
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise BadRequest("malformed field in a multipart head")
        try:
            pairs.append((name.decode("ascii"), value.strip(b" \t").decode("utf-8")))
        except UnicodeDecodeError:
            raise BadRequest("a multipart head is not UTF-8 text") from None
    return Headers(pairs)


def _names(headers: Headers) -> tuple[str, str | None]:
    """Return the field's name and its file name, if it is a file."""
    kind, parameters = parse_parameters(headers.get("content-disposition", ""))
    if kind != "form-data" or "name" not in parameters:
        raise BadRequest("a part of the form has no name")
    coding = headers.get("content-transfer-encoding", "binary").lower()
    if coding not in ("binary", "7bit", "8bit"):
        raise BadRequest(f"the transfer encoding {coding[:40]!r} is not for forms", 415)
    return parameters["name"], parameters.get("filename")


def boundary_of(parameters: dict[str, str]) -> bytes:
    """Return the boundary that a Content-Type's parameters name, or raise BadRequest."""
    try:
        boundary = parameters.get("boundary", "").encode("ascii")
    except UnicodeEncodeError:
        boundary = b""
    if not 1 <= len(boundary) <= BOUNDARY_MAX:
        raise BadRequest("multipart/form-data comes with a boundary of 1 to 70 characters")
    return boundary


def parse(file: Readable, boundary: bytes) -> tuple[MultiDict[str], MultiDict[Upload]]:
    """Return the text fields and the uploads of a whole multipart/form-data body.

    file: seekable, open as long as its uploads are read.  Raises BadRequest:
    400 for a malformed body, 413 for more than FORM_FIELDS_MAX parts or
    TEXT_BYTES_MAX of text, 415 for an encoding that RFC 7578 forbids.
    """
    file.seek(0)
    scanner = _Scanner(file, boundary)
    texts: list[tuple[str, str]] = []
    uploads: list[tuple[str, Upload]] = []
    left = TEXT_BYTES_MAX
    for _ in scanner.until_delimiter():
        pass  # what stands before the first delimiter says nothing
    while not scanner.is_last():
        if len(texts) + len(uploads) == FORM_FIELDS_MAX:
            raise BadRequest(f"a form has at most {FORM_FIELDS_MAX} fields", 413)
        headers = _read_head(scanner)
        name, filename = _names(headers)
        if filename is not None:
            uploads.append((name, _note_upload(scanner, filename, headers)))
            continue
        text = bytearray()
        for step in scanner.until_delimiter():
            text += step
            if len(text) > left:
                raise BadRequest("the text of the form is too large", 413)
        left -= len(text)
        texts.append((name, text.decode("utf-8", "replace")))
    return MultiDict(texts), MultiDict(uploads)


def _note_upload(scanner: _Scanner, filename: str, headers: Headers) -> Upload:
    start = scanner.base
    size = sum(len(step) for step in scanner.until_delimiter())
    # Old browsers send whole paths; nobody needs to know their folders.
    name = filename.replace("\\", "/").rpartition("/")[2]
    return Upload(scanner.file, start, size, name, headers)
