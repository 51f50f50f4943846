"""Where seqmem is started: beside files named like libraries, with a long TMPDIR, under a CPU quota."""

import os
import random
import subprocess
import sys
from pathlib import Path

from faults_shared import ROOT, TINY, numbers, require, runs_below

CELL = """\
import copy, queue, helper_of_mine
from seqmem.cells import LSTM

class Mine(LSTM):
    assert helper_of_mine.HERE and copy.deepcopy(1) == 1 and queue.Queue
"""


def _run(*command: str, cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """From the start of a Python: imports and the environment are what is checked."""
    changed = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | env
    done = subprocess.run(command, cwd=cwd, env=changed, capture_output=True, text=True, timeout=300, check=False)
    last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
    require(done.returncode == 0, f"{' '.join(command[1:5])} ended with {done.returncode}: {''.join(last)}")
    return done


def _starts() -> dict[str, tuple[str, ...]]:
    return {
        "seqmem": (sys.executable, str(Path(sys.executable).with_name("seqmem"))),
        "python -m seqmem": (sys.executable, "-m", "seqmem"),
        "scripts/seqmem": (str(ROOT / "scripts" / "seqmem"),),
    }


def shadowing_files(folder: Path, starts: int) -> str:
    """A file for every module of the standard library that Python does not need to begin, and for all installed ones.

    Args:
        starts: how many ways of starting are tried.
    """
    begun = _run(sys.executable, "-P", "-c", "import runpy, sys; print(*sys.modules)", cwd=folder).stdout.split()
    (site,) = (Path(path) for path in sys.path if path.endswith("site-packages"))
    installed = {path.name for path in site.iterdir() if path.name.isidentifier() and path.is_dir()}
    names = sorted(({*sys.stdlib_module_names} | installed | {"dill", "tqdm", "triton"}) - {*begun, "__pycache__"})
    plain, shadowed = folder / "plain", folder / "shadowed"
    for place in (plain, shadowed):
        place.mkdir()
        (place / "mine.py").write_text(CELL)
        (place / "helper_of_mine.py").write_text("HERE = True\n")
    for name in names:
        (shadowed / f"{name}.py").write_text(f"raise SystemExit('{name}.py was imported')\n")
    sweep = ("train", "-m", "cell=custom", "cell.target=mine.Mine", "steps=6", *TINY, "seed=0,1")
    span = ("span", "cell=lstm", "steps=6", *TINY[1:], "--max", "8", "--seeds", "1")
    chosen = list(_starts().items())[:starts]
    _run(*chosen[0][1], *sweep, "outputs=runs", "hydra.launcher.workers=2", cwd=plain)
    counted = 0
    for number, (_, start) in enumerate(chosen):
        for workers in (1, 2):
            outputs = shadowed / f"{number}-{workers}"
            _run(*start, *sweep, f"outputs={outputs.name}", f"hydra.launcher.workers={workers}", cwd=shadowed)
            for run in runs_below(plain / "runs"):
                same = outputs / run.relative_to(plain / "runs")
                require(numbers(same) == numbers(run), f"{same} has other numbers")
                counted += 1
        _run(*start, *span, cwd=shadowed)
    return (
        f"{len(names)} files named like modules of Python and of libraries: {counted} runs of a user's own cell and "
        f"{len(chosen)} searches for a span, started as {', '.join(name for name, _ in chosen)}, as without them"
    )


def long_tmpdir(folder: Path) -> str:
    long = folder / ("x" * 200)
    long.mkdir()
    sweep = ("train", "-m", "cell=lstm", "steps=6", *TINY, "seed=0,1", "hydra.launcher.workers=2")
    _run(*_starts()["seqmem"], *sweep, cwd=folder, TMPDIR=str(long))
    require(len(list(folder.rglob("result.json"))) == 2, "the sweep is not finished")
    return f"a sweep with two workers finishes with a TMPDIR of {len(str(long))} characters"


def quotas(folder: Path, count: int) -> str:
    """Random trees of control groups of both versions: the smallest quota around the process, or the affinity mask."""
    from seqmem import cores

    rng, mask, smaller, before = random.Random(0), 64, 0, os.sched_getaffinity
    os.sched_getaffinity = lambda _: set(range(mask))
    for number in range(count):
        root, versions = folder / str(number), rng.choice([(1,), (2,), (1, 2)])
        names = [f"g{depth}" for depth in range(rng.randint(0, 4))]
        quoted, lines = [mask], ["7:memory:/elsewhere"]
        for version in versions:
            tree = root / "sys/fs/cgroup" / ("cpu,cpuacct" if version == 1 else "unified" if len(versions) > 1 else "")
            lines.append(f"{'3:cpu,cpuacct' if version == 1 else '0:'}:/{'/'.join(names)}")
            for depth in range(len(names) + 1):
                group = tree.joinpath(*names[:depth])
                group.mkdir(parents=True, exist_ok=True)
                quota, period = rng.choice([None, rng.randint(1_000, 9_000_000)]), rng.choice([50_000, 100_000])
                if version == 1:
                    (group / "cpu.cfs_quota_us").write_text(f"{-1 if quota is None else quota}\n")
                    (group / "cpu.cfs_period_us").write_text(f"{period}\n")
                else:
                    (group / "cpu.max").write_text(f"{'max' if quota is None else quota} {period}\n")
                quoted += [] if quota is None else [-(-quota // period)]
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text("\n".join(lines) + "\n")
        counted = cores.usable_cores(root)
        require(counted == min(quoted), f"tree {number}: {counted} cores, not {min(quoted)}")
        smaller += counted < mask
    os.sched_getaffinity = before
    return f"{count} trees of control groups, {smaller} with less than the {mask} cores: the smallest quota counts"
