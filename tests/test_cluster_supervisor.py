"""Slots, generations, supervision, scaling and reloading, with real workers."""

from pathlib import Path

import pytest
from cluster_parts import ran

from fastcluster import cluster


def test_a_slot_is_taken_over_and_an_id_is_not(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            for _ in range(3):
                cluster.fork()
            seen = []
            @cluster.on("message")
            def heard(worker, message, handle):
                seen.append([worker.slot, worker.generation, message == [worker.slot, 1]])
                if len(seen) == 3:
                    say(sorted(seen))
                    cluster.workers[2].kill()
                if len(seen) == 4:
                    say(worker.id, seen[3])
                    cluster.disconnect()
            @cluster.on("exit")
            def died(worker, code, signal):
                if signal:
                    cluster.fork()
        else:
            cluster.worker.on("message", print)
            cluster.worker.send([cluster.worker.slot, cluster.worker.generation])
        cluster.run()
        """,
    )
    assert said == [[[[0, 1, True], [1, 1, True], [2, 1, True]]], [4, [1, 1, True]]]


def test_a_supervised_worker_is_replaced_until_disconnect(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.supervise(workers=2)
            @cluster.on("listening")
            def listening(worker, address):
                if worker.id == 2:
                    worker.kill(signal.SIGKILL)
                if worker.id == 3:
                    say(sorted(cluster.workers), worker.slot)
                    worker.disconnect()     # it is replaced for this, too
                if worker.id == 4:
                    say(sorted(cluster.workers), worker.slot)
                    cluster.disconnect(lambda: say("gone", len(cluster.workers)))
        else:
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    assert said == [[[1, 3], 1], [[1, 4], 1], ["gone", 0]]


def test_scaling_forks_and_retires_by_slot(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.supervise(workers=1)
            listening_now = []
            @cluster.on("listening")
            def listening(worker, address):
                listening_now.append(worker.slot)
                if len(listening_now) == 1:
                    cluster.scale(3)
                if len(listening_now) == 3:
                    say(sorted(listening_now))
                    cluster.scale(1)
            @cluster.on("exit")
            def died(worker, code, signal):
                say("left", code, worker.exited_after_disconnect)
                if len(cluster.workers) == 1:
                    say([worker.slot for worker in cluster.workers.values()])
                    cluster.scale(0)
        else:
            http.create_server(lambda request: "x").listen(0)
        cluster.run()
        """,
    )
    left = ["left", 0, True]
    assert said == [[[0, 1, 2]], left, left, [[0]], left]


def test_a_reload_retires_nobody_before_its_successor_is_ready(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.supervise(workers=2, wait_ready=True)
            up, order = [], []
            @cluster.on("ready")
            def is_ready(worker):
                order.append(["ready", worker.slot, worker.generation])
                if len(order) == 2:
                    del order[:]
                    cluster.reload(done)
                    try:
                        cluster.scale(5)
                    except RuntimeError as error:
                        say(str(error))
            @cluster.on("exit")
            def died(worker, code, signal):
                order.append(["exit", worker.slot, worker.generation])
                if len(order) == 4:
                    for slot in (0, 1):
                        say([what for what in order if what[1] == slot])
                    cluster.disconnect()
            def done(error):
                say(error, sorted(w.generation for w in cluster.workers.values())[-2:])
        else:
            http.create_server(lambda request: "x").listen(0)
            cluster.ready()
        cluster.run()
        """,
    )
    assert said == [
        ["cluster.scale while a reload is under way: wait for its callback"],
        [None, [2, 2]],
        [[["ready", 0, 2], ["exit", 0, 1]]],
        [[["ready", 1, 2], ["exit", 1, 1]]],
    ]


@pytest.mark.parametrize(
    ("trouble", "timeout_s", "why"),
    [
        ("sys.exit(9)", 30, "worker 2 ended with code 9 before it was ready"),
        ("time.sleep(60)", 0.2, "worker 2 was not ready within 0.2 s"),
    ],
)
def test_a_reload_that_does_not_come_up_changes_nothing(
    tmp_path: Path, trouble: str, timeout_s: float, why: str
) -> None:
    said = ran(
        tmp_path,
        f"""
        if cluster.is_primary:
            cluster.supervise(workers=1, ready_timeout_s={timeout_s})
            @cluster.on("listening")
            def listening(worker, address):
                global port
                port = address.port
                cluster.reload(done)
            def done(error):
                say(str(error), get(port), cluster.workers[1].exited_after_disconnect)
                cluster.disconnect()
        elif cluster.worker.generation == 2:
            {trouble}
        else:
            http.create_server(lambda request: "old").listen(0)
        cluster.run()
        """,
    )
    assert said == [[f"the reload has failed: {why}", "old", None]]


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="workers is a number from 0 on, not -1"):
        cluster.scale(-1)
    with pytest.raises(ValueError, match="seconds above 0"):
        cluster.supervise(1, ready_timeout_s=0)
    with pytest.raises(RuntimeError, match=r"cluster\.ready is for a worker"):
        cluster.ready()
