"""Addresses, listening sockets on the loopback, and the words for what cannot be had."""

import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastcluster import sockets
from fastcluster.errors import BindError, UsageError
from fastcluster.sockets import Address, ListeningSocket

needs_linux = pytest.mark.skipif(
    not hasattr(socket, "SO_PEERCRED"), reason="abstract sockets are Linux's"
)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback here")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is the current one, so that paths of unix sockets are short."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def answers(sock: socket.socket, family: int, where: str | tuple[str, int]) -> bool:
    """Connect, and have the listening socket accept it."""
    with socket.socket(family) as client:
        client.settimeout(10)
        client.connect(where)
        accepted, _ = sock.accept()
        accepted.close()
    return True


# ---- addresses

PARSED = [
    ("127.0.0.1:8000", Address("127.0.0.1", 8000)),
    ("localhost:0", Address("localhost", 0)),
    ("example.org:80", Address("example.org", 80)),
    (":8000", Address("0.0.0.0", 8000)),
    ("9000", Address("127.0.0.1", 9000)),
    ("localhost", Address("localhost", 8000)),
    ("[::1]:80", Address("::1", 80)),
    ("[::]:65535", Address("::", 65535)),
    ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
    ("[::1]", Address("::1", 8000)),
    ("unix:/run/app.sock", Address(path="/run/app.sock")),
    ("unix:app.sock", Address(path="app.sock")),
    ("unix:///run/app.sock", Address(path="/run/app.sock")),
    ("unix:@name", Address(path="@name")),
    ("fd://3", Address(fd=3)),
]


@pytest.mark.parametrize(("text", "address"), PARSED)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert sockets.parse(text) == address


@pytest.mark.parametrize("address", [address for _, address in PARSED])
def test_an_address_reads_its_own_text(address: Address) -> None:
    assert sockets.parse(str(address)) == address


WRONG = [
    ("", "is no address to listen on: write it as HOST:PORT"),
    ("a:b", "'b' is no number up to 65535"),
    ("a:", "'' is no number up to 65535"),
    ("a:-1", "'-1' is no number up to 65535"),
    ("a:65536", "'65536' is no number up to 65535"),
    ("70000", "'70000' is no number up to 65535"),
    ("::1", "write an IPv6 address as [ADDRESS]:PORT"),
    ("::1:8000", "write an IPv6 address as [ADDRESS]:PORT"),
    ("[::1", "write an IPv6 address as [ADDRESS]:PORT"),
    ("[]:80", "is no address to listen on"),
    ("unix:", "names no socket: write unix:PATH or unix:@NAME"),
    ("unix:@", "names no socket"),
    ("fd://", "'' is no number"),
    ("fd://x", "'x' is no number"),
    ("/run/app.sock", "did you mean unix:/run/app.sock?"),
    ("http://127.0.0.1:80", "write it as HOST:PORT"),
]


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_what_is_no_address_is_said(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        sockets.parse(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- TCP


def test_a_listening_socket_is_as_the_loop_wants_it() -> None:
    with sockets.listen("127.0.0.1:0", backlog=7) as sock:
        assert sock.getblocking() is False
        assert sock.get_inheritable() is False
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert answers(sock, socket.AF_INET, sock.getsockname())


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="handed down on Linux")
def test_accepted_sockets_do_not_delay() -> None:
    with (
        sockets.listen("127.0.0.1:0") as sock,
        socket.create_connection(sock.getsockname(), timeout=10),
        sock.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_host_name_gets_its_ipv4_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(host: str, port: int, **kwargs: object) -> list[object]:
        six = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))
        return [six, (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with sockets.listen("localhost:0") as sock:
        assert sock.family == socket.AF_INET
        assert sock.getsockname()[0] == "127.0.0.1"


@needs_ipv6
def test_ipv6() -> None:
    with sockets.listen("[::1]:0") as sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        port = sock.getsockname()[1]
        assert sockets.url(sock) == f"http://[::1]:{port}"
        assert answers(sock, socket.AF_INET6, ("::1", port))


def on_one_port() -> tuple[ListeningSocket, ListeningSocket]:
    """Listen on [::] and on 0.0.0.0; a port that is free for one may be taken for the other."""
    for _ in range(20):
        six = sockets.listen("[::]:0")
        try:
            return six, sockets.listen(f"0.0.0.0:{six.getsockname()[1]}")
        except BindError as error:
            six.close()
            why = error
    raise why


@needs_ipv6
def test_both_families_can_be_had_on_one_port() -> None:
    six, four = on_one_port()
    with six, four:
        port = six.getsockname()[1]
        assert answers(six, socket.AF_INET6, ("::1", port))
        assert answers(four, socket.AF_INET, ("127.0.0.1", port))


def test_the_url() -> None:
    with sockets.listen("127.0.0.1:0") as sock:
        assert sockets.url(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}"


def test_a_port_in_use() -> None:
    with sockets.listen("127.0.0.1:0") as sock:
        port = sock.getsockname()[1]
        with pytest.raises(BindError) as caught:
            sockets.listen(f"127.0.0.1:{port}")
    assert str(caught.value) == (
        f"port {port} on 127.0.0.1 is in use by another process; "
        "choose another with --bind or stop it"
    )
    assert caught.value.exit_code == 4


def test_an_address_of_another_machine() -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
    with pytest.raises(BindError, match=r"^this machine has no address 192.0.2.1; choose one"):
        sockets.listen("192.0.2.1:0")


def test_a_host_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(BindError, match=r"^'nohost' is the name of no host: give an address"):
        sockets.listen("nohost:80")


def test_a_host_that_cannot_be_a_name() -> None:
    with pytest.raises(BindError, match="is the name of no host"):
        sockets.listen(f"{'x' * 70}.invalid:80")


def test_a_port_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: socket.socket, where: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ListeningSocket, "bind", forbidden, raising=False)
    with pytest.raises(BindError, match=r"^port 80 on 127.0.0.1 is not for this user: ports bel"):
        sockets.listen("127.0.0.1:80")


def test_a_failed_listen_leaves_nothing_open() -> None:
    with sockets.listen("127.0.0.1:0") as sock:
        probe = os.dup(0)
        os.close(probe)
        with pytest.raises(BindError):
            sockets.listen(f"127.0.0.1:{sock.getsockname()[1]}")
        again = os.dup(0)
        os.close(again)
    assert again == probe


# ---- unix sockets


def test_a_unix_socket(folder: Path) -> None:
    with sockets.listen("unix:app.sock") as sock:
        assert sock.getblocking() is False
        assert sockets.url(sock) == "unix:app.sock"
        assert stat.S_IMODE(os.stat("app.sock").st_mode) == 0o666
        assert answers(sock, socket.AF_UNIX, "app.sock")
    assert not os.path.exists("app.sock")


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_permissions_do_not_depend_on_the_umask(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with sockets.listen("unix:app.sock", uds_permissions=0o660):
            assert stat.S_IMODE(os.stat("app.sock").st_mode) == 0o660
    finally:
        os.umask(before)


def test_a_stale_file_is_replaced(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("app.sock")
        dead.listen()
    assert os.path.exists("app.sock")
    with sockets.listen("unix:app.sock") as sock:
        assert answers(sock, socket.AF_UNIX, "app.sock")


def test_a_socket_in_use_is_left_alone(folder: Path) -> None:
    with sockets.listen("unix:app.sock") as sock:
        with pytest.raises(BindError, match=r"^another process listens on unix:app.sock; choose"):
            sockets.listen("unix:app.sock")
        assert answers(sock, socket.AF_UNIX, "app.sock")


def test_a_busy_socket_is_in_use_too(folder: Path) -> None:
    with sockets.listen("unix:app.sock", backlog=0), socket.socket(socket.AF_UNIX) as first:
        first.connect("app.sock")
        with pytest.raises(BindError, match=r"another process listens on unix:app.sock"):
            sockets.listen("unix:app.sock")


def test_a_file_that_is_no_socket_is_left_alone(folder: Path) -> None:
    Path("app.sock").write_text("precious")
    with pytest.raises(BindError, match=r"^app.sock is there and is no socket"):
        sockets.listen("unix:app.sock")
    assert Path("app.sock").read_text() == "precious"


def test_a_folder_that_is_not_there(folder: Path) -> None:
    with pytest.raises(BindError, match=r"^there is no folder run for unix:run/app.sock; make it"):
        sockets.listen("unix:run/app.sock")


def test_a_folder_that_is_not_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: socket.socket, where: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ListeningSocket, "bind", forbidden, raising=False)
    with pytest.raises(BindError, match=r"^this user may not make unix:app.sock; choose a path"):
        sockets.listen("unix:app.sock")


def test_a_path_can_have_107_bytes_and_no_more(folder: Path) -> None:
    with sockets.listen(f"unix:{'x' * 107}") as sock:
        assert answers(sock, socket.AF_UNIX, "x" * 107)
    with pytest.raises(BindError, match=r"is 108 bytes long and .* at most 107: choose a shorter"):
        sockets.listen(f"unix:{'x' * 108}")


def test_the_maker_removes_the_file_even_from_another_folder(folder: Path) -> None:
    sock = sockets.listen("unix:app.sock")
    os.mkdir("other")
    os.chdir("other")
    sock.close()
    assert not (folder / "app.sock").exists()


def test_a_file_of_somebody_else_stays(folder: Path) -> None:
    first = sockets.listen("unix:app.sock")
    os.unlink("app.sock")
    with sockets.listen("unix:app.sock"):
        first.close()
        assert os.path.exists("app.sock")


def test_a_child_leaves_the_file(folder: Path) -> None:
    with sockets.listen("unix:app.sock") as sock:
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            sock.close()
            os._exit(0 if os.path.exists("app.sock") else 1)
        _, status = os.waitpid(pid, 0)
        assert status == 0
        assert os.path.exists("app.sock")
    assert not os.path.exists("app.sock")


@needs_linux
def test_an_abstract_socket() -> None:
    name = f"fastcluster-test-{os.getpid()}"
    with sockets.listen(f"unix:@{name}") as sock:
        assert sockets.url(sock) == f"unix:@{name}"
        assert answers(sock, socket.AF_UNIX, f"\0{name}")
        with pytest.raises(BindError, match=f"another process listens on unix:@{name}"):
            sockets.listen(f"unix:@{name}")


# ---- descriptors


def test_a_descriptor_is_taken_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        os.set_inheritable(given.fileno(), True)
        where = given.getsockname()
        sock = sockets.listen(f"fd://{given.detach()}")
    with sock:
        assert sock.getblocking() is False
        assert sock.get_inheritable() is False
        assert sockets.url(sock) == f"http://127.0.0.1:{where[1]}"
        assert answers(sock, socket.AF_INET, where)


def test_the_file_of_a_descriptor_is_not_ours(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as given:
        given.bind("app.sock")
        given.listen()
        sock = sockets.listen(f"fd://{os.dup(given.fileno())}")
        sock.close()
        assert os.path.exists("app.sock")


def test_a_descriptor_that_is_not_open() -> None:
    fd = os.dup(0)
    os.close(fd)
    with pytest.raises(BindError, match=f"^descriptor {fd} is not open: start fastcluster with"):
        sockets.listen(f"fd://{fd}")


def test_a_descriptor_that_is_no_socket(folder: Path) -> None:
    with open("file", "w") as file:
        with pytest.raises(BindError, match="is no socket"):
            sockets.listen(f"fd://{file.fileno()}")
        file.write("still open")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (socket.SOCK_STREAM, "is a socket that does not listen"),
        (socket.SOCK_DGRAM, "is a socket without a stream"),
    ],
)
def test_a_descriptor_of_a_socket_that_does_not_listen(kind: int, words: str) -> None:
    with socket.socket(socket.AF_INET, kind) as given:
        with pytest.raises(BindError, match=words):
            sockets.listen(f"fd://{given.fileno()}")
        assert given.getsockname() == ("0.0.0.0", 0)
