"""How many cores a process may use, by trees of files as Linux has them in containers and batch systems."""

import os
from pathlib import Path

import pytest

from seqmem import cores
from seqmem.cli.launch import local

Tree = dict[str, str]

GROUPS: dict[str, tuple[Tree, int]] = {
    "no quota": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
    "a container, version 2": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    "its name outside, version 2": (
        {"proc/self/cgroup": "0::/../../kubepods/x\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2
    ),
    "a part of a core": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "25000 100000\n"}, 1),
    "one and a half": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
    "a group around ours has less": (
        {
            "proc/self/cgroup": "0::/slurm/job_1/step_0\n", "sys/fs/cgroup/slurm/job_1/step_0/cpu.max": "max 100000\n",
            "sys/fs/cgroup/slurm/job_1/cpu.max": "400000 100000\n", "sys/fs/cgroup/slurm/cpu.max": "900000 100000\n",
        }, 4,
    ),
    "a container, version 1": (
        {
            "proc/self/cgroup": "5:memory:/docker/1f\n3:cpu,cpuacct:/docker/1f\n1:name=systemd:/docker/1f\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/cpu.max": "100000 100000\n",
        }, 3,
    ),
    "no quota, version 1": (
        {
            "proc/self/cgroup": "3:cpu:/a\n", "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
        }, 64,
    ),
    "both versions at once": (
        {"proc/self/cgroup": "3:cpu:/\n0::/a\n", "sys/fs/cgroup/unified/a/cpu.max": "500000 100000\n"}, 5
    ),
    "more than there are": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 64),
    "nonsense": ({"proc/self/cgroup": "0:/\n0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"}, 64),
    "another system": ({}, 64),
}  # fmt: skip
"""Files below the root of a machine with 64 cores, and how many of these a process may use."""


@pytest.mark.parametrize("name", GROUPS)
def test_quotas_of_control_groups(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, expected = GROUPS[name]
    for path, text in tree.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(cores, "ROOT", tmp_path)
    assert cores.usable_cores() == expected
    assert local.worker_count("auto") == expected
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert cores.usable_cores() == 1  # the affinity mask of a batch system, or of taskset
