"""The cores that this process may use, and the control groups that limit it: of containers and batch systems."""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
"""Below it are the ``proc`` and ``sys`` of Linux; a test has its own."""


def usable_cores(root: Path | None = None) -> int:
    """How many processes or threads to run at once: the cores of the affinity mask, or fewer if a CPU quota is less.

    A quota of 1.5 cores gives 2: with 1, a third of it would be idle.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on this system
        cores = os.cpu_count() or 1
    quotas = [quota for quota in map(_quota, control_groups("cpu", root)) if quota is not None]
    return max(1, min([cores, *quotas]))


def control_groups(controller: str, root: Path | None = None) -> Iterator[Path]:
    """The folders of the control groups around this process that a controller (cpu, memory) may limit.

    Both versions: in 2 all controllers share one tree, in 1 each has its own. A container sees its own group as the
    root of the tree, whatever /proc/self/cgroup calls it; folders that are not there have no limits to read.
    """
    root = ROOT if root is None else root
    try:
        lines = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, name in (line for line in lines if len(line) == 3):
        if controllers and controller not in controllers.split(","):
            continue
        trees = (controllers, controller) if controllers else ("", "unified")
        for tree in dict.fromkeys(root / "sys/fs/cgroup" / part for part in trees):
            parts = [part for part in name.split("/") if part]
            parts = [] if ".." in parts else parts  # a group outside the container
            yield from (tree.joinpath(*parts[:end]) for end in range(len(parts), -1, -1))


def _quota(group: Path) -> int | None:
    """Cores by the CPU quota of a group, rounded up; None: it has none."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / file).read_text() for file in files).split()
            granted = -(-int(quota) // int(period))
        except (OSError, ValueError, ZeroDivisionError):  # no such group, or no quota: "max"
            continue
        if granted > 0:  # version 1 says -1 where there is no quota
            return granted
    return None
