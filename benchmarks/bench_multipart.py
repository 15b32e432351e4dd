"""multipart.py: taking a form with one upload apart, by the size of the upload."""

from __future__ import annotations

import io

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastcluster.multipart import parse

BOUNDARY = b"----bench7f3a"


def form(upload_bytes: int) -> io.BytesIO:
    parts = [
        b'--%s\r\nContent-Disposition: form-data; name="title"\r\n\r\nchair\r\n' % BOUNDARY,
        b'--%s\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n" % BOUNDARY,
        bytes(range(256)) * (upload_bytes // 256),
        b"\r\n--%s--\r\n" % BOUNDARY,
    ]
    return io.BytesIO(b"".join(parts))


@pytest.mark.parametrize("upload_bytes", [1024, 1024 * 1024])
def test_one_upload(benchmark: BenchmarkFixture, upload_bytes: int) -> None:
    _, uploads = benchmark(parse, form(upload_bytes), BOUNDARY)
    assert uploads["photo"].size == upload_bytes
