"""multipart.py: forms with files, taken apart where they lie."""

import io
import tracemalloc

import pytest

from fastcluster import multipart
from fastcluster.fields import FORM_FIELDS_MAX, BadRequest

BOUNDARY = b"XbX"


def part(head: str, content: bytes) -> bytes:
    return b"--XbX\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n"


def text(name: str, content: bytes) -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"', content)


def file(name: str, filename: str, content: bytes) -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"'
    return part(f"{head}\r\nContent-Type: image/png", content)


END = b"--XbX--\r\n"


def test_a_form_with_texts_and_files() -> None:
    content = bytes(range(256)) * 4 + b"\r\n--Xb\r\n--\r\n\r\n"
    body = text("a", b"1") + file("f", "p.png", content) + text("a", "é".encode()) + END
    texts, uploads = multipart.parse(io.BytesIO(body), BOUNDARY)
    assert texts.multi_items() == [("a", "1"), ("a", "é")]
    (upload,) = uploads.get_all("f")
    assert (upload.filename, upload.content_type, upload.size) == (
        "p.png",
        "image/png",
        len(content),
    )
    assert upload.headers["content-type"] == "image/png"
    assert upload.read() == content


def test_an_upload_is_a_file() -> None:
    body = file("f", "a", b"one\ntwo\nthree") + file("f", "b", b"other") + END
    first, second = multipart.parse(io.BytesIO(body), BOUNDARY)[1].get_all("f")
    assert first.read(3) == b"one"
    assert second.read() == b"other"
    assert first.tell() == 3
    assert first.read() == b"\ntwo\nthree"
    assert first.read() == b""
    assert first.seek(-5, io.SEEK_END) == 8
    assert first.readall() == b"three"
    assert first.seek(100) == 100
    assert first.read() == b""
    first.seek(0)
    assert first.seek(1, io.SEEK_CUR) == 1
    assert first.readline() == b"ne\n"
    assert first.seekable() and first.readable() and not first.writable()
    first.seek(0)
    assert list(io.TextIOWrapper(io.BufferedReader(first))) == ["one\n", "two\n", "three"]
    with pytest.raises(ValueError, match="closed"):
        first.read()
    with pytest.raises(ValueError, match="seek"):
        second.seek(-1)


@pytest.mark.parametrize("size", [65_530, 65_536, 65_540, 200_000])
def test_delimiters_anywhere_in_the_steps(size: int) -> None:
    content = (b"\r\n--Xb" * (size // 6 + 1))[:size]
    body = file("f", "a", content) + text("t", content) + END
    texts, uploads = multipart.parse(io.BytesIO(body), BOUNDARY)
    assert uploads["f"].read() == content
    assert texts["t"].encode() == content


def test_one_byte_at_a_time() -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(1)

    body = b"preamble\r\n" + text("a", b"1") + b"--XbX \t\r\n" + text("b", b"")[7:] + END
    assert dict(multipart.parse(Slow(body), BOUNDARY)[0]) == {"a": "1", "b": ""}


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("a.png", "a.png"),
        ("", ""),
        ("../../etc/passwd", "passwd"),
        (r"C:\\Users\\me\\a.png", "a.png"),
        (r"C:\Users\me\a.png", "a.png"),
        ("bild-ä.png", "bild-ä.png"),
        ("/", ""),
    ],
)
def test_of_a_file_name_the_last_component_counts(sent: str, kept: str) -> None:
    body = file("f", sent, b"x") + END
    assert multipart.parse(io.BytesIO(body), BOUNDARY)[1]["f"].filename == kept


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"no boundary at all", 400),
        (text("a", b"1"), 400),
        (text("a", b"1") + b"--XbX", 400),
        (text("a", b"1") + b"--XbX-", 400),
        (b"--XbXY\r\n" + END, 400),
        (b"--XbX\r\n", 400),
        (part("Content-Disposition: form-data", b"1") + END, 400),
        (part('Content-Disposition: attachment; name="a"', b"1") + END, 400),
        (part("X: y", b"1") + END, 400),
        (part('Content-Disposition : form-data; name="a"', b"1") + END, 400),
        (part(" folded", b"1") + END, 400),
        (part("no colon", b"1") + END, 400),
        (part("X: " + "y" * 9000, b"1") + END, 400),
        (part("X: y\r\n" * 2000 + "X: z", b"1") + END, 400),
        (b"--XbX" + b" " * 300 + b"\r\n" + END, 400),
        (b'--XbX\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n\r\n' + END, 400),
        (
            part(
                'Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64',
                b"1",
            )
            + END,
            415,
        ),
        (text("a", b"1") * (FORM_FIELDS_MAX + 1) + END, 413),
        (text("a", b"1" * 600_000) + text("b", b"1" * 600_000) + END, 413),
    ],
)
def test_what_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        multipart.parse(io.BytesIO(body), BOUNDARY)
    assert caught.value.status == status


def test_a_part_without_a_head_has_no_name() -> None:
    with pytest.raises(BadRequest, match="no name"):
        multipart.parse(io.BytesIO(b"--XbX\r\n\r\nx\r\n" + END), BOUNDARY)


def test_what_follows_the_last_boundary_is_ignored() -> None:
    body = text("a", b"1") + END + b"\r\n" + text("b", b"2")
    assert dict(multipart.parse(io.BytesIO(body), BOUNDARY)[0]) == {"a": "1"}


def test_a_form_that_is_empty() -> None:
    texts, uploads = multipart.parse(io.BytesIO(END), BOUNDARY)
    assert not texts and not uploads


def test_memory_does_not_grow_with_the_file() -> None:
    body = io.BytesIO(file("f", "a", b"x" * 8_000_000) + END)
    tracemalloc.start()
    try:
        upload = multipart.parse(body, BOUNDARY)[1]["f"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert upload.size == 8_000_000
    assert peak < 1_000_000


@pytest.mark.parametrize("boundary", ["", "x" * 71, "ä"])
def test_boundaries_that_are_none(boundary: str) -> None:
    with pytest.raises(BadRequest, match="boundary"):
        multipart.boundary_of({"boundary": boundary})
    assert multipart.boundary_of({"boundary": "x" * 70}) == b"x" * 70
