"""The benchmark harness's arithmetic and parsing; test_benchmarks_live.py has it at work."""

from __future__ import annotations

import json
import os
import re
import resource
import sys
from pathlib import Path

import pytest

# At the end, so that an installed fastcluster comes before the source tree's.
sys.path.append(str(Path(__file__).parent.parent))

from benchmarks import catalogue, compare, instructions, load, machine, memory, process, report
from benchmarks.workloads import SCRIPTS, WORKLOADS, Workload

WRK_OUTPUT = """\
Running 2s test @ http://127.0.0.1:8000/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.10ms    2.61ms  36.41ms   93.61%
  137142 requests in 2.00s, 10.07MB read
Requests/sec:  68540.70
figures {"duration_us": 2000883, "requests": 137142, "received_bytes": 10559934, \
"p50_us": 410, "p99_us": 1935, "p999_us": 4790, "connect_errors": 1, "read_errors": 2, \
"write_errors": 3, "status_errors": 4, "timeout_errors": 5}
"""

STAT = (
    "4242 (a) b (c) S 17 4240 4200 0 -1 4194560 1021 55 0 0 101 23 7 5 20 0 3 0 "
    "987654 12345 800 18446744073709551615 1 1 0 0 0 0 0 4096 65536 0 0 0 17 0 0 0 0 0 0"
)

SMAPS_ROLLUP = """\
55d4c7a00000-7ffd5a9f2000 ---p 00000000 00:00 0                          [rollup]
Rss:                9876 kB
Pss:                4321 kB
Pss_Dirty:          4000 kB
Private_Dirty:      4000 kB
"""

PROC_STAT = """\
cpu  1000 0 1000 9000 0 0 0 0 0 0
cpu0 1 2 4 9000 8000 8 16 32 0 0
cpu1 64 0 0 9000 8000 0 0 0 0 0
cpu10 100000 0 0 0 0 0 0 0 0 0
intr 1 2 3
"""


# ---- load.py


def test_figures_are_read_from_what_wrk_prints() -> None:
    assert load.parse(WRK_OUTPUT, cpu_s=1.5, depth=1) == load.Figures(
        duration_s=2.000883,
        requests=137142,
        received_bytes=10559934,
        p50_us=410,
        p99_us=1935,
        p999_us=4790,
        errors=15,
        cpu_s=1.5,
    )


def test_no_latencies_are_claimed_for_a_pipeline() -> None:
    figures = load.parse(WRK_OUTPUT, cpu_s=1.5, depth=16)
    assert (figures.p50_us, figures.p99_us, figures.p999_us) == (None, None, None)
    assert figures.requests == 137142


def test_wrk_is_pinned_and_told_the_workload() -> None:
    words = load.command(WORKLOADS["echo1k"], 8000, connections=64, seconds=2, cores=(3,))
    assert words[:4] == ["taskset", "-c", "3", "wrk"]
    assert words[words.index("--connections") + 1] == "64"
    assert words[words.index("--duration") + 1] == "2s"
    assert words[-3:] == ["http://127.0.0.1:8000/", "--", "1024"]


def test_a_workload_may_fix_its_connections() -> None:
    words = load.command(WORKLOADS["c1"], 8000, connections=64, seconds=2, cores=(1,))
    assert words[words.index("--connections") + 1] == "1"


# ---- workloads.py


def test_a_browser_sends_twelve_fields() -> None:
    head, blank, body = WORKLOADS["browser"].request(8000).partition(b"\r\n\r\n")
    assert len(head.split(b"\r\n")) == 1 + 12
    assert blank and not body


def test_an_echo_carries_its_body() -> None:
    head, _, body = WORKLOADS["echo1k"].request(8000).partition(b"\r\n\r\n")
    assert head.startswith(b"POST / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n")
    assert b"Content-Length: 1024" in head
    assert len(body) == 1024


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=list(WORKLOADS))
def test_every_workload_has_its_script(workload: Workload) -> None:
    assert (SCRIPTS / workload.script).is_file()


# ---- machine.py


@pytest.mark.parametrize(
    ("text", "cores"),
    [("0", {0}), ("0-3\n", {0, 1, 2, 3}), ("0,32", {0, 32}), ("0-1,8-9", {0, 1, 8, 9})],
)
def test_core_lists(text: str, cores: set[int]) -> None:
    assert machine.parse_core_list(text) == cores


@pytest.mark.parametrize(("cores", "ticks"), [({0}, 63), ({1}, 64), ({0, 1}, 127)])
def test_busy_time_leaves_idle_and_other_cores_out(cores: set[int], ticks: int) -> None:
    assert machine.parse_busy_s(PROC_STAT, cores) == ticks / machine.TICKS_PER_S


@pytest.mark.parametrize(
    ("usable", "siblings", "chosen"),
    [
        ({0, 1}, {0}, machine.Cores(0, 1, are_siblings=False)),
        ({4, 5, 6}, {4, 5}, machine.Cores(4, 6, are_siblings=False)),
        ({4, 5}, {4, 5}, machine.Cores(4, 5, are_siblings=True)),
    ],
)
def test_server_and_load_get_a_core_each(
    monkeypatch: pytest.MonkeyPatch, usable: set[int], siblings: set[int], chosen: machine.Cores
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: usable)
    monkeypatch.setattr(machine, "sibling_threads", lambda core: siblings)
    assert machine.choose_cores() == chosen


def test_one_core_cannot_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    with pytest.raises(machine.CannotMeasure, match="one core only"):
        machine.choose_cores()


def test_too_few_open_files_name_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1024, 4096))
    with pytest.raises(machine.CannotMeasure, match="hard limit is 4096: raise it"):
        machine.raise_file_limit(5000)


# ---- process.py


def test_a_stat_line_is_read_from_behind_its_name() -> None:
    assert process.parse_stat(STAT) == process.Stat(
        pid=4242,
        parent=17,
        session=4200,
        cpu_s=(101 + 23 + 7 + 5) / machine.TICKS_PER_S,
        start_ticks=987654,
        is_dead=False,
    )


def test_memory_is_read_in_bytes() -> None:
    assert process.parse_memory(SMAPS_ROLLUP) == process.Memory(9876 * 1024, 4321 * 1024)


# ---- compare.py


def sample(cpu_us: float, **others: float) -> compare.Sample:
    figures: dict[str, float] = {
        "requests_per_s": 1000.0,
        "requests": 2000,
        "server_percent": 99.0,
        "load_percent": 50.0,
        "foreign_percent": 0.0,
        "p50_us": 100,
        "p99_us": 200,
        "p999_us": 300,
        "rss_bytes": 2**20,
        "pss_bytes": 2**20,
        "errors": 0,
        **others,
    }
    return compare.Sample(cpu_us_per_request=cpu_us, **figures)  # type: ignore[arg-type]


def figures(**others: object) -> load.Figures:
    values: dict[str, object] = {
        "duration_s": 2.0,
        "requests": 100_000,
        "received_bytes": 1,
        "p50_us": 1,
        "p99_us": 2,
        "p999_us": 3,
        "errors": 0,
        "cpu_s": 1.0,
        **others,
    }
    return load.Figures(**values)  # type: ignore[arg-type]


def test_cost_is_cpu_time_by_answered_requests() -> None:
    weighed = compare.weigh(figures(), 1.8, 3.0, process.Memory(10, 5))
    assert weighed.cpu_us_per_request == pytest.approx(18.0)
    assert weighed.requests_per_s == pytest.approx(50_000)
    assert weighed.server_percent == pytest.approx(90.0)
    assert weighed.load_percent == pytest.approx(50.0)
    assert weighed.foreign_percent == pytest.approx(10.0)


def test_foreign_time_is_never_below_nothing() -> None:
    assert compare.weigh(figures(), 1.8, 2.7, process.Memory(10, 5)).foreign_percent == 0.0


def test_no_answers_are_a_failure_and_no_division() -> None:
    with pytest.raises(load.LoadFailed, match="no request was answered, 7 errors"):
        compare.weigh(figures(requests=0, errors=7), 0.0, 0.0, process.Memory(10, 5))


def test_ratios_are_made_round_by_round() -> None:
    # The second round was noisy for both: medians of costs would say 3.0, or 1.5.
    samples = {
        "reference": {0: sample(10.0), 1: sample(20.0), 2: sample(10.0)},
        "other": {0: sample(15.0), 1: sample(60.0), 2: sample(20.0)},
    }
    rows = {row.server: row for row in compare.summarise(samples)}
    assert rows["reference"].ratio == 1.0
    assert (rows["other"].ratio, rows["other"].ratio_low, rows["other"].ratio_high) == (2.0, 1.5, 3)
    assert rows["other"].cpu_us_per_request == 20.0


def test_a_round_without_reference_has_no_ratio() -> None:
    assert compare.ratios({0: sample(15.0), 1: sample(30.0)}, {1: sample(10.0)}) == [3.0]
    (row,) = compare.summarise({"other": {0: sample(15.0)}})
    assert (row.ratio, row.ratio_low, row.ratio_high) == (None, None, None)


@pytest.mark.parametrize(
    ("values", "percent"), [([10.0], 0.0), ([9.0, 10.0, 12.0], 30.0), ([0.0, 0.0], 0.0)]
)
def test_spread(values: list[float], percent: float) -> None:
    assert compare.spread_percent(values) == pytest.approx(percent)


@pytest.mark.parametrize(
    ("server", "wrk", "limit"),
    [(99, 60, "server"), (80, 98, "load"), (98, 98, "both"), (40, 40, "neither")],
)
def test_who_had_no_time_left(server: float, wrk: float, limit: str) -> None:
    assert compare.limit(server, wrk) == limit


def entry(name: str) -> catalogue.ServerEntry:
    return catalogue.ServerEntry(name, ("true",), {})


def test_rounds_are_interleaved() -> None:
    order: list[str] = []

    def measure_one(server: catalogue.ServerEntry) -> compare.Sample:
        order.append(server.name)
        return sample(1.0)

    compare.run_rounds([entry("a"), entry("b"), entry("c")], 2, measure_one, lambda line: None)
    assert order == ["a", "b", "c", "a", "b", "c"]


def test_a_server_that_fails_is_left_out_and_the_others_go_on() -> None:
    n_calls = {"a": 0, "b": 0}

    def measure_one(server: catalogue.ServerEntry) -> compare.Sample:
        n_calls[server.name] += 1
        if server.name == "b" and n_calls["b"] == 2:
            raise load.LoadFailed("wrk gave up")
        return sample(1.0)

    samples, failures = compare.run_rounds(
        [entry("a"), entry("b")], 4, measure_one, lambda line: None
    )
    assert n_calls == {"a": 4, "b": 2}
    assert list(samples["b"]) == [0]
    assert failures == {"b": "LoadFailed: wrk gave up"}


# ---- report.py


def test_what_spoils_a_table_stands_below_it() -> None:
    samples = {
        "reference": {0: sample(10.0, load_percent=99.0, server_percent=80.0)},
        "crowded": {0: sample(12.0, foreign_percent=40.0)},
        "broken": {0: sample(14.0, errors=3)},
        "shaky": {0: sample(10.0), 1: sample(20.0)},
        "sound": {0: sample(11.0)},
    }
    rows = compare.summarise(samples)
    text = "\n".join(report.notes(rows, {"absent": "ServerFailed: it died"}))
    assert "The load generator was the limit for reference:" in text
    assert "broken (3)" in text
    assert "up to 40 % of a core" in text
    assert "15 % apart for shaky." in text
    assert "absent was left out. ServerFailed: it died" in text
    assert "sound" not in text


def test_a_table_has_as_many_cells_as_heads_in_every_line() -> None:
    plan = compare.Plan(rounds=1, seconds=2, connections=64, warm_up_s=0)
    unknown = {"p50_us": None, "p99_us": None, "p999_us": None}
    rows = compare.summarise({"only": {0: sample(10.0, **unknown)}})  # type: ignore[arg-type]
    text = report.comparison(WORKLOADS["pipeline"], plan, rows, {})
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 3
    assert {line.count("|") for line in lines} == {len(report.COLUMNS) + 1}


def test_a_document_is_json_with_every_sample(tmp_path: Path) -> None:
    plan = compare.Plan(rounds=2, seconds=2, connections=64, warm_up_s=0)
    samples = {"reference": {0: sample(10.0), 1: sample(12.0)}}
    data = report.document(
        {"kernel": "Linux"}, plan, {"wrk": "4"}, {"hello": (samples, {})}, ["bjoern"]
    )
    report.write(tmp_path / "out.json", data)
    read = json.loads((tmp_path / "out.json").read_text())
    assert [one["round"] for one in read["workloads"]["hello"]["samples"]["reference"]] == [0, 1]
    assert read["workloads"]["hello"]["rows"][0]["cpu_us_per_request"] == 11.0
    assert (read["absent"], read["plan"]["rounds"]) == (["bjoern"], 2)
    assert os.listdir(tmp_path) == ["out.json"]


# ---- catalogue.py


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=list(WORKLOADS))
def test_every_server_has_a_whole_command_for_every_workload(workload: Workload) -> None:
    entries = catalogue.read()
    assert entries[0].name == catalogue.REFERENCE
    for server in (entry for entry in entries if entry.serves(workload)):
        started = catalogue.launch(server, workload, 8123, catalogue.Places())
        words = " ".join([*started.command, *started.environment.values()])
        assert "8123" in words
        # The answer may have braces of its own; a name that was not filled in is a bare word.
        assert not re.search(r"\{\w*\}", words)


def test_the_parser_door_is_forced_by_the_environment() -> None:
    doors = {
        server.name: server.environment["FASTCLUSTER_PARSER"]
        for server in catalogue.read()
        if server.name.startswith("fastcluster-")
    }
    assert doors
    assert all(name.endswith(f"-{door}") for name, door in doors.items())


def test_the_reference_is_always_measured() -> None:
    entries = [entry("reference"), entry("fastcluster-native"), entry("bjoern")]
    assert [one.name for one in catalogue.choose(entries, ["bj*"])] == ["reference", "bjoern"]
    assert catalogue.choose(entries, []) == entries
    with pytest.raises(machine.CannotMeasure, match="no server is named nginx; there are ref"):
        catalogue.choose(entries, ["nginx"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[server]]\nname = 'a'\n", "without name or command"),
        ("[[server]]\nname = 'a'\ncommand = []\ncomand = []\n", r"a has unknown keys \['comand'\]"),
        ("[[server]]\nname='a'\ncommand=[]\n[[server]]\nname='a'\ncommand=[]\n", "two servers"),
        ("[[server", "cannot be read"),
    ],
)
def test_a_bad_catalogue_says_where(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "servers.toml"
    file.write_text(text)
    with pytest.raises(machine.CannotMeasure, match=f"servers.toml.*{why}"):
        catalogue.read(file)


@pytest.mark.parametrize(
    ("words", "version"),
    [
        (("{python}", "-c", "print('tool 1.2'); print('more')"), "tool 1.2"),
        (("{python}", "-c", "print('tool 1.2'); raise SystemExit(1)"), None),
        (("{peers}/nothing-is-here", "--version"), None),
        ((), ""),
    ],
)
def test_versions(words: tuple[str, ...], version: str | None) -> None:
    server = catalogue.ServerEntry("tool", ("tool",), {}, version=words)
    assert catalogue.version(server, catalogue.Places(peers=Path("/nonexistent"))) == version


# ---- memory.py and instructions.py


def test_bytes_a_connection() -> None:
    held = memory.Held("a", 1000, process.Memory(10_000, 5_000), process.Memory(70_000, 45_000), 0)
    assert (held.rss_per_connection, held.pss_per_connection) == (60.0, 40.0)


def test_many_connections_come_from_several_addresses() -> None:
    addresses = [memory.source_address(number) for number in (0, 19_999, 20_000, 59_999)]
    assert addresses == ["127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.3"]


def test_callgrind_totals_add_up() -> None:
    text = "events: Ir\nfn=(1) main\n16 400\n\ntotals: 1234\npart: 2\ntotals: 66\n"
    assert instructions.parse_total(text) == 1300
    assert instructions.parse_total("events: Ir\n") == 0


def test_the_process_that_answers_is_the_one_that_grew() -> None:
    assert instructions.growth([500, 700, 90], [490, 1700, 95]) == 1000
    with pytest.raises(process.ServerFailed, match="2 processes in one run and 3 in the other"):
        instructions.growth([1, 2], [1, 2, 3])
