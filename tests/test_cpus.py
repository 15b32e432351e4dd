"""How many CPUs there are for us, on machines made of files."""

import os
from pathlib import Path

import pytest

from fastcluster.cpus import can_pin, pin, usable_cpus

V2 = "0::/a/b\n"
V1 = "12:memory:/a/b\n4:cpu,cpuacct:/a/b\n1:name=systemd:/a/b\n0::/a/b\n"
TOP = "sys/fs/cgroup"

MACHINES = [
    ("no cgroups at all", 8, {}, 8),
    ("v2 without a quota", 8, {f"{TOP}/a/b/cpu.max": "max 100000"}, 8),
    ("v2, whole CPUs", 8, {f"{TOP}/a/b/cpu.max": "200000 100000"}, 2),
    ("v2, rounded up", 8, {f"{TOP}/a/b/cpu.max": "150000 100000"}, 2),
    ("v2, less than one CPU", 8, {f"{TOP}/a/b/cpu.max": "10000 100000"}, 1),
    ("v2, the parent is narrower", 8, {f"{TOP}/a/cpu.max": "300000 100000"}, 3),
    ("v2, seen from inside a container", 8, {f"{TOP}/cpu.max": "300000 100000"}, 3),
    ("the affinity is narrower", 2, {f"{TOP}/a/b/cpu.max": "300000 100000"}, 2),
    ("v2, nonsense", 8, {f"{TOP}/a/b/cpu.max": "lots"}, 8),
    ("v2, a period of zero", 8, {f"{TOP}/a/b/cpu.max": "100 0"}, 8),
    ("hybrid", 8, {f"{TOP}/unified/a/b/cpu.max": "100000 100000"}, 1),
]

MACHINES_OF_V1 = [
    ("cpu,cpuacct/a/b", "250000", "100000", 3),
    ("cpu/a/b", "250000", "100000", 3),
    ("cpu", "50000", "100000", 1),
    ("cpu/a/b", "-1", "100000", 8),
    ("memory/a/b", "100000", "100000", 8),
]


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


@pytest.mark.parametrize(("name", "allowed", "files", "cpus"), MACHINES)
def test_cgroups_of_version_2(
    tmp_path: Path, name: str, allowed: int, files: dict[str, str], cpus: int
) -> None:
    machine(tmp_path, {"proc/self/cgroup": V2, **files} if files else {})
    assert usable_cpus(tmp_path, allowed) == cpus, name


@pytest.mark.parametrize(("folder", "quota", "period", "cpus"), MACHINES_OF_V1)
def test_cgroups_of_version_1(
    tmp_path: Path, folder: str, quota: str, period: str, cpus: int
) -> None:
    files = {
        "proc/self/cgroup": V1,
        f"{TOP}/{folder}/cpu.cfs_quota_us": quota,
        f"{TOP}/{folder}/cpu.cfs_period_us": period,
    }
    assert usable_cpus(machine(tmp_path, files), 8) == cpus


def test_this_machine() -> None:
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.skipif(not can_pin(), reason="this system lets nobody choose a CPU")
def test_the_nth_worker_gets_the_nth_cpu_and_then_from_the_first_again() -> None:
    before = os.sched_getaffinity(0)
    cpus = sorted(before)
    try:
        for number in range(len(cpus) + 1):
            expected = cpus[number % len(cpus)]
            assert pin(number) == expected
            assert os.sched_getaffinity(0) == {expected}
            os.sched_setaffinity(0, before)
    finally:
        os.sched_setaffinity(0, before)
