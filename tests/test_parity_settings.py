"""Settings as Node's tests ask for them: defaults, what adds up, and what reaches workers."""

from pathlib import Path

import pytest
from cluster_parts import ran


@pytest.mark.node(
    "test-cluster-setup-primary",
    differs="`exec` is None by default, since workers are forks of this program.",
)
def test_settings_have_defaults_and_reach_workers(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            say(dict(cluster.settings))
            cluster.setup_primary(args=["one", "two"], silent=True)
            say(cluster.settings["args"], cluster.settings["silent"], cluster.settings["exec"])
            try:
                cluster.settings["args"] = []
            except TypeError as error:
                say("a view")
            worker = cluster.fork()
            worker.on("message", lambda message, handle: say(message))
            cluster.run()
            say(worker.process.stdout.read().decode())
        else:
            cluster.worker.send(sys.argv[1:])
            print("not on the primary's own stdout")
        """,
        "its",
        "own",
    )
    assert said == [
        [{}],
        [["one", "two"], True, None],
        ["a view"],
        [["one", "two"]],
        ["not on the primary's own stdout\n"],
    ]


@pytest.mark.node("test-cluster-setup-primary-argv")
def test_arguments_are_read_at_the_first_call(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            sys.argv.append("late")
            cluster.setup_primary()
            sys.argv.append("too late")
            cluster.fork()
        else:
            say(sys.argv[1:])
        cluster.run()
        """,
        "early",
    )
    assert said == [[["early", "late"]]]


@pytest.mark.node("test-cluster-setup-primary-cumulative")
def test_settings_add_up_over_calls_and_forks(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.setup_primary(args=["a"], cwd="/")
            cluster.setup_primary(args=["b"])
            cluster.setup_primary()
            cluster.fork()
            say(cluster.settings["args"], cluster.settings["cwd"])
            cluster.setup_primary(cwd=None)
            say(cluster.settings["args"], cluster.settings["cwd"])
        cluster.run()
        """,
    )
    assert said == [[["b"], "/"], [["b"], None]]


@pytest.mark.node("test-cluster-setup-primary-emit", "test-cluster-setup-primary-multiple")
def test_each_call_emits_its_own_settings_later_and_counts_for_later_forks(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.on("setup", lambda settings: say("setup", settings["args"]))
            cluster.setup_primary(args=["a"])
            cluster.fork()
            cluster.setup_primary(args=["b"])
            cluster.fork()
            cluster.on("message", lambda worker, message, handle: heard.append(message))
            heard = []
            say("first")
            cluster.run()
            say(sorted(heard))
        else:
            cluster.worker.send([cluster.worker.id, sys.argv[1:]])
        """,
    )
    setups = [["setup", [name]] for name in "aabb"]
    assert said == [["first"], *setups, [[[1, ["a"]], [2, ["b"]]]]]


@pytest.mark.node("test-cluster-cwd")
def test_the_folder_is_inherited_or_set_for_later_forks(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            cluster.on("message", lambda worker, message, handle: heard.append(message))
            heard = []
            os.mkdir("deeper")
            cluster.fork()
            cluster.setup_primary(cwd="deeper")
            cluster.fork()
            here = os.getcwd()
            cluster.run()
            say(sorted(heard) == [[1, here], [2, os.path.join(here, "deeper")]])
        else:
            cluster.worker.send([cluster.worker.id, os.getcwd()])
        """,
    )
    assert said == [[True]]


@pytest.mark.node("test-cluster-fork-env")
def test_variables_are_added_and_overridden_for_one_worker(tmp_path: Path) -> None:
    said = ran(
        tmp_path,
        """
        if cluster.is_primary:
            os.environ["OVERRIDDEN"] = "primary"
            cluster.on("message", lambda worker, message, handle: say(worker.id, *message))
            cluster.on("exit", lambda worker, code, signal: worker.id == 1 and cluster.fork())
            cluster.fork({"ADDED": 1, "OVERRIDDEN": "worker"})
        else:
            names = ("ADDED", "OVERRIDDEN", "PATH")
            found = [os.environ.get(name) for name in names[:2]]
            say(cluster.worker.send([*found, names[2] in os.environ]))
        cluster.run()
        """,
    )
    assert [line for line in said if line != [True]] == [
        [1, "1", "worker", True],
        [2, None, "primary", True],
    ]
    assert said.count([True]) == 2
