"""The loop that serves children: as a guest in asyncio, and with real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_parts import Program, ran, signal
from require import require_module

from fastcluster import children

LOOPS = ["asyncio", "uvloop"]


def loop_of(name: str) -> str:
    """Return what makes an asyncio program run in that loop; skip where there is none."""
    if name == "uvloop":
        require_module("uvloop", package="uvloop")
        return "import asyncio, uvloop; asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())"
    return "import asyncio"


@pytest.mark.parametrize("name", LOOPS)
def test_a_primary_is_an_asyncio_program_and_its_other_tasks_go_on(
    tmp_path: Path, name: str
) -> None:
    said = ran(
        tmp_path,
        loop_of(name)
        + """
async def beat(beats):
    while True:
        beats.append(1)
        await asyncio.sleep(0.001)

async def primary():
    events, beats = [], []
    task = asyncio.create_task(beat(beats))
    for event in ("fork", "online", "listening", "message", "disconnect", "exit"):
        cluster.on(event, lambda *words, event=event: events.append(event))
    @cluster.on("message")
    def heard(worker, message, handle):
        say(message)
        worker.send("x" * 3_000_000)
        worker.send("leave")
    cluster.fork()
    await cluster.run_async()
    task.cancel()
    say(events, len(beats) > 2, cluster.workers == {})

if cluster.is_primary:
    asyncio.run(primary())
else:
    server = http.create_server(lambda request: "hello").listen(0)
    cluster.worker.send(["up", server.address().port > 0])
    @cluster.worker.on("message")
    def told(message, handle):
        if message == "leave":
            cluster.worker.disconnect()
""",
    )
    events = ["fork", "online", "message", "listening", "disconnect", "exit"]
    assert said[0] == [["up", True]]
    assert sorted(said[1][0]) == sorted(events)
    assert said[1][0][-2:] == ["disconnect", "exit"]
    assert said[1][1:] == [True, True]


@pytest.mark.parametrize("name", LOOPS)
def test_a_worker_that_is_forked_in_a_loop_has_none(tmp_path: Path, name: str) -> None:
    said = ran(
        tmp_path,
        loop_of(name)
        + """
import contextvars
mark = contextvars.ContextVar("mark", default="clean")

async def primary():
    mark.set("the primary's")
    async def served(reader, writer):
        cluster.fork()
        writer.close()
    async with await asyncio.start_server(served, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not cluster.workers:
            await asyncio.sleep(0)
        await cluster.run_async()
        # The primary's own loop still hears: of signals from elsewhere, and of sockets.
        again = await asyncio.open_connection("127.0.0.1", port)
        say("primary", await asyncio.to_thread(lambda: "threads"))
    say(mark.get())

async def inside():
    loop = asyncio.get_running_loop()
    own = len(asyncio.all_tasks())
    done = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, done.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(done.wait(), 10)
    process = await asyncio.create_subprocess_exec("true")
    say("worker", own, await process.wait())

if cluster.is_primary:
    cluster.on("exit", lambda worker, code, name: say("exit", code, name))
    asyncio.run(primary())
    for worker in list(cluster.workers.values()):
        worker.kill()
    cluster.run()
else:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        say("no loop", mark.get(), signal.set_wakeup_fd(-1))
    asyncio.run(inside())
""",
    )
    assert said[:3] == [["no loop", "clean", -1], ["worker", 1, 0], ["exit", 0, None]]
    assert ["primary", "threads"] in said and ["the primary's"] in said


@pytest.mark.parametrize("name", LOOPS)
def test_cancelled_it_leaves_the_loop_and_the_workers_as_they_were(
    tmp_path: Path, name: str
) -> None:
    said = ran(
        tmp_path,
        loop_of(name)
        + """
async def primary():
    before = signal.getsignal(signal.SIGTERM), len(os.listdir("/proc/self/fd"))
    cluster.fork()
    online = asyncio.Event()
    cluster.on("online", lambda worker: online.set())
    task = asyncio.create_task(cluster.run_async())
    await online.wait()
    try:
        await cluster.run_async()
    except RuntimeError as error:
        say(str(error))
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        say("cancelled", len(cluster.workers))
    say(signal.getsignal(signal.SIGTERM) == before[0])
    cluster.on("exit", lambda worker, code, name: say(code, name))
    cluster.disconnect(lambda: say("all gone"))
    await cluster.run_async()
    say(len(os.listdir("/proc/self/fd")) - before[1])

if cluster.is_primary:
    asyncio.run(primary())
else:
    cluster.worker.on("message", lambda message, handle: None)
""",
    )
    assert said == [
        ["the loop of cluster and child_process runs already"],
        ["cancelled", 1],
        [True],
        [0, None],
        ["all gone"],
        [0],
    ]


@pytest.mark.parametrize("name", LOOPS)
def test_sigterm_is_disconnect_and_an_error_of_a_listener_is_that_of_run_async(
    tmp_path: Path, name: str
) -> None:
    program = Program(
        tmp_path,
        loop_of(name)
        + """
async def primary():
    cluster.fork()
    @cluster.on("online")
    def online(worker):
        raise ZeroDivisionError("on purpose")
    try:
        await cluster.run_async()
    except ZeroDivisionError as error:
        say(str(error))
    cluster.on("listening", lambda worker, address: say("listening"))
    cluster.on("exit", lambda worker, code, name: say(code, name))
    await cluster.run_async()
    say("over")

if cluster.is_primary:
    asyncio.run(primary())
else:
    http.create_server(lambda request: "hello").listen(0)
""",
    )
    assert program.line() == ["on purpose"]
    assert program.line() == ["listening"]
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == [[0, None], ["over"]]


@pytest.mark.parametrize("name", LOOPS)
def test_a_worker_may_be_an_asyncio_program_too(tmp_path: Path, name: str) -> None:
    said = ran(
        tmp_path,
        loop_of(name)
        + """
async def worker():
    server = http.create_server(lambda request: "from the loop").listen(0)
    beats = []
    async def beat():
        while True:
            beats.append(1)
            await asyncio.sleep(0.001)
    task = asyncio.create_task(beat())
    answer = asyncio.get_running_loop().create_future()
    cluster.worker.once("message", lambda message, handle: answer.set_result(message))
    async def ask():
        cluster.worker.send({"port": server.address().port})
        body = await answer
        while len(beats) < 2:
            await asyncio.sleep(0)
        cluster.worker.send(body)
        cluster.worker.disconnect()
    asking = asyncio.create_task(ask())
    await cluster.run_async()
    task.cancel()

if cluster.is_primary:
    @cluster.on("message")
    def heard(worker, message, handle):
        if "port" in message:
            client = socket.create_connection(("127.0.0.1", message["port"]), timeout=10)
            client.sendall(b"GET / HTTP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n")
            body = b""
            while data := client.recv(65536):
                body += data
            worker.send(body.partition(b"\\r\\n\\r\\n")[2].decode())
        else:
            say(message)
    cluster.on("exit", lambda worker, code, name: say(code, name))
    cluster.fork()
    cluster.run()
else:
    asyncio.run(worker())
""",
    )
    assert said == [["from the loop"], [0, None]]


def test_what_is_due_is_done_in_order() -> None:
    family = children.Family()
    called: list[str] = []
    family.after(0.0, lambda: called.append("second"))
    family.later(lambda: called.append("first"))
    family.act()
    assert called == ["first", "second"]
    assert family.patience_s() is None
    assert not family.busy


def test_the_name_of_a_signal() -> None:
    assert children.signal_number("SIGTERM") == signal.SIGTERM
    with pytest.raises(ValueError, match="no signal TERM: write it as SIGTERM"):
        children.signal_number("TERM")
