"""wsgi_pool.py: calls on threads, and bodies that are read while they come."""

import os
import threading
import time

from harness import Wire, wire
from wsgi_parts import CONTINUE, EXPECT, GET, TEXT, answering, echo, errors, get, post

from fastcluster.wsgi import WsgiHandler

# ---- Expect: 100-continue


def test_the_client_is_told_to_go_on_when_the_body_is_read(serve):
    started, may_read = threading.Event(), threading.Event()

    def app(environ, start_response):
        started.set()
        may_read.wait(10)
        return echo(environ, start_response)

    w = serve(app)
    client = w.connect()
    client.send(EXPECT % 5)
    w.turn_until(started.is_set)
    for _ in range(5):
        w.turn(1)
    assert client.received == b""
    may_read.set()
    w.turn_until(lambda: client.received == CONTINUE)
    client.received = b""
    assert client.request(b"hello").body == b"hello"
    assert client.request(GET).body == b""


def test_the_client_is_not_told_to_go_on_when_the_body_is_not_read(serve):
    w = serve(answering([b"no"], "401 Unauthorized"))
    client = w.connect()
    response = client.request(EXPECT % 5)
    assert (response.status, response.body) == (401, b"no")
    # What it sends now could be a body or a request: the connection is of no more use.
    assert response.get("Connection") == "close"
    w.turn_until(lambda: client.eof)


def test_a_client_that_does_not_wait(serve):
    client = serve(echo).connect()
    client.send(EXPECT % 5 + b"hello" + GET)
    assert [client.response().body for _ in range(2)] == [b"hello", b""]


def test_a_large_body_comes_while_it_is_read(serve):
    body = os.urandom(3_000_000)
    seen = []

    def app(environ, start_response):
        source = environ["wsgi.input"]
        seen.extend([source.read(10), source.readline(10), *iter(lambda: source.read(9999), b"")])
        start_response("200 OK", list(TEXT))
        return [b"%d" % sum(map(len, seen))]

    w = serve(app)
    client = w.connect()
    client.send(EXPECT % len(body))
    w.turn_until(lambda: client.received == CONTINUE)
    client.received = b""
    assert client.request(body).body == b"3000000"
    assert b"".join(seen) == body


def test_a_chunked_body_comes_while_it_is_read(serve):
    keys = {}

    def app(environ, start_response):
        keys.update(environ)
        return echo(environ, start_response)

    client = serve(app).connect()
    client.send(
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    )
    client.wire.turn_until(lambda: client.received == CONTINUE)
    client.received = b""
    assert client.request(b"3\r\nabc\r\n0\r\n\r\n").body == b"abc"
    assert keys["HTTP_TRANSFER_ENCODING"] == "chunked"
    assert "CONTENT_LENGTH" not in keys


def test_other_requests_are_served_while_a_body_is_waited_for(serve):
    inside, most = [], []

    def app(environ, start_response):
        inside.append(1)
        most.append(len(inside))
        environ["wsgi.input"].read()
        inside.pop()
        start_response("200 OK", list(TEXT))
        return [b"done"]

    w = serve(app)
    waiting = [w.connect() for _ in range(3)]
    for client in waiting:
        client.send(EXPECT % 5)
    w.turn_until(lambda: all(client.received == CONTINUE for client in waiting))
    other = w.connect()
    for _ in range(5):
        assert other.request(GET).body == b"done"
    for client in waiting:
        client.received = b""
        client.send(b"hello")
    assert [client.response().body for client in waiting] == [b"done"] * 3


def test_pipelined_requests_go_on_while_a_body_is_waited_for(serve):
    """The end of one call, in a later turn, begins the next: the lock is taken one by one."""

    def app(environ, start_response):
        environ["wsgi.input"].read()
        start_response("200 OK", list(TEXT))
        return iter([b"x"] * 30)

    w = serve(app)
    waiting, busy = w.connect(), w.connect()
    waiting.send(EXPECT % 5)
    w.turn_until(lambda: waiting.received == CONTINUE)
    busy.send(GET * 10)
    for _ in range(10):
        assert busy.response().body == b"x" * 30
    waiting.received = b""
    assert waiting.request(b"hello").body == b"x" * 30


def test_a_client_that_leaves_while_its_body_is_waited_for(serve, caplog):
    caught = []

    def app(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            caught.append(error)
            raise

    w = serve(app)
    client = w.connect()
    client.send(EXPECT % 5)
    w.turn_until(lambda: client.received == CONTINUE)
    client.send(b"hell")
    w.turn()
    client.close()
    w.turn_until(lambda: caught)
    assert isinstance(caught[0], ConnectionResetError)
    assert errors(caplog) == []


def test_a_chunk_that_is_malformed_while_it_is_waited_for(serve):
    caught = []

    def app(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except ConnectionResetError as error:
            caught.append(error)
            raise

    w = serve(app)
    client = w.connect()
    client.send(
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    )
    w.turn_until(lambda: client.received == CONTINUE)
    client.received = b""
    assert client.request(b"zz\r\n").status == 400
    w.turn_until(lambda: caught)


def test_what_is_left_of_a_body_is_not_the_next_request(serve):
    def app(environ, start_response):
        head = environ["wsgi.input"].read(3)
        start_response("200 OK", list(TEXT))
        return [head]

    w = serve(app)
    client = w.connect()
    for _ in range(3):
        client.send(EXPECT % 2000)
        w.turn_until(lambda: client.received == CONTINUE)
        client.received = b""
        assert client.request(get("/smuggled").ljust(2000, b"x")).body == b"GET"


def test_a_slow_reader_of_a_response_holds_nobody_up(serve):
    """A call with a body to come holds the application's lock, but not while it waits."""

    def app(environ, start_response):
        environ["wsgi.input"].read()
        start_response("200 OK", list(TEXT))
        path = environ["PATH_INFO"]
        return (b"x" * 100_000 for _ in range(50)) if path == "/" else [b"quick"]

    w = serve(app)
    slow, quick = w.connect(receive_buffer=4096), w.connect()
    slow.send(EXPECT % 5)
    w.turn_until(lambda: slow.received == CONTINUE)
    slow.received, slow.reading = b"", False
    slow.send(b"hello")
    for _ in range(20):
        w.turn(1)
    for _ in range(5):
        assert quick.request(get("/quick")).body == b"quick"
    slow.reading = True
    assert len(slow.response().body) == 5_000_000


def test_without_threads_the_application_is_never_called_twice_at_a_time():
    busy = threading.Lock()
    clashes, done = [], []

    def app(environ, start_response):
        def work():
            if not busy.acquire(blocking=False):
                clashes.append(1)
                return
            time.sleep(0.001)
            busy.release()

        work()
        environ["wsgi.input"].read()
        work()
        start_response("200 OK", list(TEXT))

        def body():
            for _ in range(3):
                work()
                yield b"x"
            done.append(1)

        return body()

    with wire(WsgiHandler, app) as w:
        clients = [w.connect() for _ in range(12)]
        for i, client in enumerate(clients):
            client.send(EXPECT % 5 + b"hello" if i % 2 else GET)
        w.turn_until(lambda: len(done) == len(clients))
    assert clashes == []


def test_the_loop_keeps_its_thread_without_expectation():
    names = []

    def app(environ, start_response):
        names.append(threading.current_thread())
        return echo(environ, start_response)

    with wire(WsgiHandler, app) as w:
        w.request(GET)
        w.request(post(b"x" * 100_000))
    assert names == [threading.main_thread()] * 2


# ---- threads


def test_calls_run_side_by_side():
    together = threading.Barrier(4)

    def app(environ, start_response):
        together.wait(10)
        start_response("200 OK", list(TEXT))
        return [threading.current_thread().name.encode()]

    with wire(WsgiHandler, app, threads=4) as w:
        clients = [w.connect() for _ in range(4)]
        for client in clients:
            client.send(GET)
        assert len({client.response().body for client in clients}) == 4


def test_too_many_calls_are_turned_away(caplog):
    go_on = threading.Event()

    def app(environ, start_response):
        go_on.wait(20)
        start_response("200 OK", list(TEXT))
        return [b"done"]

    with wire(WsgiHandler, app, threads=1) as w:
        clients = []
        for _ in range(270):
            clients.append(w.connect())
            clients[-1].send(GET)
            w.turn()
        w.turn_until(lambda: any(client.received for client in clients))
        for _ in range(5):
            w.turn(1)
        refused = [client for client in clients if client.received]
        assert 10 <= len(refused) <= 14
        for client in refused:
            response = client.response()
            assert (response.status, response.get("Retry-After")) == (503, "1")
        assert sum("503" in record.getMessage() for record in caplog.records) == 1
        go_on.set()
        for client in clients:
            if client not in refused:
                assert client.response().body == b"done"
        # And the next ones are welcome.
        assert refused[0].request(GET).body == b"done"


def test_a_slow_client_holds_no_thread_for_a_body_that_is_whole():
    with wire(WsgiHandler, answering([b"x" * 5_000_000]), threads=1) as w:
        slow, quick = w.connect(receive_buffer=4096), w.connect()
        slow.reading = False
        slow.send(GET)
        for _ in range(20):
            w.turn(1)
        assert len(quick.request(GET).body) == 5_000_000
        slow.reading = True
        assert len(slow.response().body) == 5_000_000


def test_a_slow_client_holds_no_thread_for_a_file(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"f" * 5_000_000)

    def app(environ, start_response):
        start_response("200 OK", list(TEXT))
        return environ["wsgi.file_wrapper"](path.open("rb"))

    with wire(WsgiHandler, app, threads=1) as w:
        slow, quick = w.connect(receive_buffer=4096), w.connect()
        slow.reading = False
        slow.send(GET)
        for _ in range(20):
            w.turn(1)
        assert len(quick.request(GET).body) == 5_000_000
        slow.reading = True
        assert len(slow.response().body) == 5_000_000


def test_a_client_that_left_while_it_waited_costs_no_call():
    go_on, calls = threading.Event(), []

    def app(environ, start_response):
        calls.append(environ["PATH_INFO"])
        go_on.wait(20)
        start_response("200 OK", list(TEXT))
        return [b"done"]

    with wire(WsgiHandler, app, threads=1) as w:
        first, second, third = (w.connect() for _ in range(3))
        first.send(get("/1"))
        w.turn_until(lambda: calls)
        second.send(get("/2"))
        third.send(get("/3"))
        for _ in range(3):
            w.turn(1)
        second.close(reset=True)
        w.turn_until(lambda: w.server.n_connections == 2)
        go_on.set()
        assert first.response().body == third.response().body == b"done"
    assert calls == ["/1", "/3"]


def test_a_server_that_closes_lets_its_calls_end(caplog):
    started, go_on, ended = threading.Event(), threading.Event(), []

    def app(environ, start_response):
        try:
            started.set()
            go_on.wait(20)
            write = start_response("200 OK", list(TEXT))
            write(b"x" * 1_000_000)
        finally:
            ended.append(1)

    w = Wire(WsgiHandler, app, threads=1)
    w.connect().send(GET)
    w.turn_until(started.is_set)
    w.server.close()
    go_on.set()
    w.close()
    assert ended == [1]
    assert errors(caplog) == []


def test_threads_end_with_their_handler():
    w = Wire(WsgiHandler, answering([b"x"]), threads=3)
    clients = [w.connect() for _ in range(3)]
    for client in clients:
        client.request(GET)
    names = {thread.name for thread in threading.enumerate()}
    assert any(name.startswith("fastcluster-wsgi") for name in names)
    w.close()
    assert not any(thread.name.startswith("fastcluster-wsgi") for thread in threading.enumerate())
