"""http.py: servers that a program starts itself, alone and as real processes."""

import contextlib
import errno
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import open_descriptors, parse, wire

from fastcluster import http as http_
from fastcluster.config import Config
from fastcluster.errors import AppLoadError, UsageError
from fastcluster.native import NativeHandler

ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 30


def hello(request: http_.Request) -> str:
    return f"hello {request.path}"


@contextlib.contextmanager
def served(server: http_.Server) -> Iterator[threading.Thread]:
    """Serve in a thread of its own until the end of the block."""
    thread = threading.Thread(target=server.serve_forever)
    ready = threading.Event()
    server._announcements.append(ready.set)
    thread.start()
    assert ready.wait(WAIT_S)
    try:
        yield thread
    finally:
        server.close()
        thread.join(WAIT_S)
        assert not thread.is_alive()


def get(address: http_.Address, path: str = "/") -> bytes:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=WAIT_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read()


# ---- making a server


def test_a_server_knows_its_handler_and_its_options() -> None:
    server = http_.create_server(hello, timeout_keep_alive_s=5)
    assert server.__fastcluster_handler__ is hello
    assert server.config == Config(timeout_keep_alive_s=5)
    config = Config(env="development")
    assert http_.create_server(hello, config).config is config
    assert http_.create_server(hello, config, threads=3).config == Config(
        env="development", threads=3
    )
    assert not server.listening


def test_mistakes_are_told_when_the_server_is_made() -> None:
    with pytest.raises(AppLoadError, match="write it as handler"):
        http_.create_server(lambda: b"")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--backlog"):
        http_.create_server(hello, backlog=-1)
    with pytest.raises(TypeError, match="no_such_option"):
        http_.create_server(hello, no_such_option=1)


# ---- listening


def test_listen_binds_at_once() -> None:
    server = http_.create_server(hello)
    assert server.listen(0) is server
    assert server.listening
    address = server.address()
    assert (address.host, address.path) == ("127.0.0.1", "")
    assert str(address) == f"127.0.0.1:{address.port}"
    with socket.create_connection((address.host, address.port)):
        server.close()
    assert not server.listening
    with pytest.raises(ConnectionRefusedError), socket.create_connection(address[:2]):
        pass


def test_a_server_may_listen_again() -> None:
    server = http_.create_server(hello)
    port = server.listen(0).address().port
    server.close()
    server.close()
    server.listen(port)
    with served(server):
        assert get(server.address()) == b"hello /"


def test_what_cannot_be_listened_on_is_an_oserror() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = http_.create_server(hello)
        before = open_descriptors()
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}") as caught:
            server.listen(port)
        assert caught.value.errno == errno.EADDRINUSE
        assert open_descriptors() == before
        assert not server.listening
        server.listen(0).close()


def test_one_address_a_server() -> None:
    server = http_.create_server(hello).listen(0)
    with pytest.raises(RuntimeError, match="listens already"):
        server.listen(0)
    server.close()


def test_what_needs_an_address() -> None:
    server = http_.create_server(hello)
    for attempt in (server.address, server.serve_forever, server.run):
        with pytest.raises(RuntimeError, match=r"call listen\(\) first"):
            attempt()


def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    server = http_.create_server(hello).listen(path=path)
    assert server.address() == ("", 0, path)
    assert str(server.address()) == f"unix:{path}"
    with served(server), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert parse(client.makefile("rb").read()).body == b"hello /a"
    assert not os.path.exists(path)


def test_an_abstract_unix_socket() -> None:
    name = f"@fastcluster-test-{os.getpid()}"
    server = http_.create_server(hello).listen(path=name)
    assert server.address().path == name
    server.close()


# ---- serving


def test_callbacks_come_from_the_loop() -> None:
    calls: list[tuple[bool, http_.Address]] = []
    server = http_.create_server(hello)
    server.listen(0, callback=lambda: calls.append((server.listening, server.address())))
    assert calls == []
    address = server.address()
    with served(server):
        assert calls == [(True, address)]
        assert get(address, "/a") == b"hello /a"
    assert len(calls) == 1


def test_close_lets_the_running_exchange_finish() -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(request: http_.Request) -> Iterator[bytes]:
        yield b"first "
        began.set()
        assert go_on.wait(WAIT_S)
        yield b"last"

    server = http_.create_server(slow).listen(0)
    address = server.address()
    with served(server) as thread:
        found: list[bytes] = []
        client = threading.Thread(target=lambda: found.append(get(address)))
        client.start()
        assert began.wait(WAIT_S)
        server.close()
        go_on.set()
        client.join(WAIT_S)
        thread.join(WAIT_S)
        assert found == [b"first last"]
        assert not thread.is_alive()


def test_a_handler_may_close_its_server() -> None:
    def last(request: http_.Request) -> bytes:
        server.close()
        return b"the last"

    server = http_.create_server(last).listen(0)
    address = server.address()
    with served(server) as thread:
        assert get(address) == b"the last"
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert not server.listening


def test_grace_has_an_end() -> None:
    began = threading.Event()

    def endless(request: http_.Request) -> Iterator[bytes]:
        while True:
            began.set()
            yield b"x"

    server = http_.create_server(endless, timeout_graceful_s=0.2).listen(0)
    with served(server) as thread:
        with socket.create_connection(server.address()[:2]) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert began.wait(WAIT_S)
            server.close()
            with contextlib.suppress(ConnectionError):
                while client.recv(1 << 20):
                    pass
        thread.join(WAIT_S)
        assert not thread.is_alive()


# ---- a maximum of connections


def test_above_its_maximum_a_server_alone_closes_connections() -> None:
    server = http_.create_server(hello)
    dropped: list[http_.Connection] = []
    told = threading.Event()

    @server.on("drop")
    def drop(connection: http_.Connection) -> None:
        dropped.append(connection)
        told.set()
        raise ZeroDivisionError  # is logged, and nothing else

    server.max_connections = 1
    server.listen(0)
    address = server.address()
    where = (address.host, address.port)
    with served(server), socket.create_connection(where, timeout=WAIT_S) as first:
        first.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert first.recv(4096).endswith(b"hello /")
        with socket.create_connection(where, timeout=WAIT_S) as second:
            assert second.recv(1) == b""
            assert told.wait(WAIT_S)
            assert dropped == [(*second.getsockname(), *where)]
        server.max_connections = None
        with socket.create_connection(where, timeout=WAIT_S) as third:
            third.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert third.recv(4096).endswith(b"hello /")


def test_a_maximum_is_a_number() -> None:
    server = http_.create_server(hello)
    assert server.max_connections is None
    assert not server.drop_max_connection
    for wrong in (-1, True, "7", 1.5):
        with pytest.raises(ValueError, match="max_connections"):
            server.max_connections = wrong  # type: ignore[assignment]
    server.max_connections = 0
    server.drop_max_connection = True
    assert (server.max_connections, server.drop_max_connection) == (0, True)


def test_a_server_is_served_once() -> None:
    server = http_.create_server(hello).listen(0)
    with served(server), pytest.raises(RuntimeError, match="served already"):
        server.serve_forever()


def test_nothing_stays_open() -> None:
    http_.create_server(hello).listen(0).close()
    before = open_descriptors()
    for _ in range(5):
        server = http_.create_server(hello).listen(0)
        with served(server):
            get(server.address())
    assert open_descriptors() == before


def test_signal_handlers_are_put_back() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]

    def stopping(request: http_.Request) -> bytes:
        os.kill(os.getpid(), signal.SIGTERM)
        return b"stopping"

    server = http_.create_server(stopping).listen(0)
    address = server.address()
    found: list[bytes] = []
    client = threading.Thread(target=lambda: found.append(get(address)))
    client.start()
    server.serve_forever()
    client.join(WAIT_S)
    assert found == [b"stopping"]
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1


# ---- as a process


@contextlib.contextmanager
def program(*arguments: str, **options: Any) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a program that prints its address; give the process and the port."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        **options,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r":(\d+)$", line.strip())
        if found is None:
            process.kill()
            raise AssertionError(f"no address but {line!r} and {process.communicate()[1]}")
        yield process, int(found[1])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=WAIT_S)


SLOW = """
import sys
from fastcluster import http

def handler(request):
    yield "first "
    print("began", flush=True)
    sys.stdin.readline()
    yield "last"

server = http.create_server(handler, timeout_graceful_s=20)
server.listen(callback=lambda: print(server.address(), flush=True))
server.serve_forever()
print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_exchanges_finish(number: signal.Signals) -> None:
    with program("-c", SLOW, stdin=subprocess.PIPE) as (process, port):
        assert process.stdin is not None and process.stdout is not None
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert process.stdout.readline() == "began\n"
            process.send_signal(number)
            process.stdin.write("\n")
            process.stdin.flush()
            assert parse(client.makefile("rb").read()).body == b"first last"
        assert process.stdout.readline() == "ended\n"
        assert process.wait(WAIT_S) == 0


def test_a_signal_ends_an_idle_server() -> None:
    with program("-c", SLOW) as (process, _):
        process.terminate()
        assert process.stdout is not None
        assert process.stdout.readline() == "ended\n"
        assert process.wait(WAIT_S) == 0


def test_a_second_signal_cuts_off() -> None:
    endless = SLOW.replace('print("began", flush=True)', "pass").replace(
        "sys.stdin.readline()", 'yield from iter(lambda: b"x", b"")'
    )
    with program("-c", endless) as (process, port):
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert client.recv(1000)
            process.terminate()
            # Nobody is taken any more once the first signal was obeyed.
            while _is_taken(port):
                client.recv(1 << 20)
            process.terminate()
            assert process.stdout is not None
            assert process.stdout.readline() == "ended\n"
        assert process.wait(WAIT_S) == 0


def _is_taken(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_S).close()
    except ConnectionError:
        # Refused, or reset since the listener was closed in between.
        return False
    return True


LOGGING = """
from fastcluster import http

def handler(request):
    1 / 0

server = http.create_server(handler, env="development")
server.listen(callback=lambda: print(server.address(), flush=True))
server.serve_forever()
"""


def test_what_a_program_without_logging_logs() -> None:
    with program("-c", LOGGING) as (process, port):
        assert b"ZeroDivisionError" in get(http_.Address("127.0.0.1", port), "/a%22")
        process.terminate()
        out, err = process.communicate(timeout=WAIT_S)
    assert re.fullmatch(r'127\.0\.0\.1 - - \[.*\] "GET /a%22 HTTP/1.1" 500 \d+ "-" "-"\n', out)
    assert re.search(r"\[server\] ERROR GET /a%22 HTTP/1.1: the handler failed\n", err)
    assert err.count("ZeroDivisionError") == 1


def test_a_program_with_logging_of_its_own_keeps_it() -> None:
    own = "import logging; logging.basicConfig(format='own %(message)s')\n" + LOGGING
    with program("-c", own) as (process, port):
        get(http_.Address("127.0.0.1", port))
        process.terminate()
        err = process.communicate(timeout=WAIT_S)[1]
    assert err.startswith("own GET / HTTP/1.1: the handler failed\n")


def test_the_example() -> None:
    run = (
        "import runpy, fastcluster.http as http; listen = http.Server.listen;"
        "http.Server.listen = lambda self, port, **more: listen(self, 0, **more);"
        "runpy.run_path('examples/hello_native.py', run_name='__main__')"
    )
    with program("-c", run) as (process, port):
        assert get(http_.Address("127.0.0.1", port)) == b"hello world\n"
        process.terminate()
        assert process.wait(WAIT_S) == 0


# ---- docs/native.md

DOCS = (ROOT / "docs" / "native.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```(?:\n\n```console\n(.*?)^```)?", DOCS, re.S | re.M)


def test_the_documentation_has_examples() -> None:
    assert len(BLOCKS) > 8
    assert sum(bool(console) for _, console in BLOCKS) > 4


@pytest.mark.parametrize(("source", "console"), BLOCKS)
def test_the_examples_of_the_documentation(
    source: str, console: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.html").write_text("<p>page\n")
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, "docs/native.md", "exec"), names)
    asked = re.findall(r"^\$ curl (.*?)\n((?:[^$].*\n)*)", console, re.M)
    assert bool(asked) == bool(console)
    for command, expected in asked:
        assert _curl(names["handler"], command).rstrip("\n") == expected.rstrip("\n")


def _curl(handler: Callable[..., Any], command: str) -> str:
    """Do what curl would, as far as the documentation uses it."""
    found = re.fullmatch(
        r"(?:-H '(?P<field>[^']*)' )?(?:-d '(?P<data>[^']*)' )?http://127\.0\.0\.1:8000(?P<path>\S*)",
        command.replace("'http", "http").rstrip("'"),
    )
    assert found is not None, command
    fields = f"{found['field']}\r\n" if found["field"] else ""
    body = found["data"] or ""
    if body:
        fields += f"Content-Length: {len(body)}\r\n"
        if not found["field"]:
            fields += "Content-Type: application/x-www-form-urlencoded\r\n"
    head = f"{'POST' if body else 'GET'} {found['path'] or '/'} HTTP/1.1\r\nHost: h\r\n{fields}\r\n"
    with wire(NativeHandler, handler) as site:
        return site.request((head + body).encode()).body.decode()


def test_sync_programs_do_not_pay_for_asyncio() -> None:
    code = "import sys; from fastcluster import http; print('asyncio' in sys.modules); "
    code += "print(http.AsyncRequest, http.AsyncResponse)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert told.stdout.split() == [
        "False",
        "<class",
        "'fastcluster.native_async.AsyncRequest'>",
        "<class",
        "'fastcluster.native_async.AsyncResponse'>",
    ]
