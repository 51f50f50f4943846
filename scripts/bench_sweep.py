"""What a sweep costs beside the training of its runs. Run it with scripts/bench sweep.

Finished sweeps: how long it takes to say so, in CPU time, which is all time where nothing else runs: one process does
it, and waits for nothing. Then a sweep of 40 runs of 50 default steps, on one worker and on two, in turns, with the CPU
time of all processes for each run, beside that of the bare training loop: no files, no log.
"""

import argparse
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from bench_start import SMALL, seqmem

EACH = 0.010
"""Seconds of a finished run of a sweep."""
MANY, MANY_LIMIT = 3000, 30
"""Finished runs, and seconds of their sweep."""
JOB = 0.40
"""CPU seconds of a run of 50 steps."""
SPEEDUP = 1.7
"""How many times as fast two workers must be as one."""
RUNS = 40
SETTINGS = ("steps=50", "evaluate.lengths=[50]", "device=cpu")

BARE = """
import sys, time
from seqmem.cli.config.build import build
from seqmem.cli.config.compose import compose_run
from seqmem.training.loop import train
def one(seed):
    made = build(compose_run([*sys.argv[1:], f"seed={seed}", "trace.every=0", "evaluate.every=50"]), alone=False)
    start = time.process_time()
    train(made.model, made.task, made.optimizer, made.plan)
    return time.process_time() - start
import torch
torch.set_num_threads(1)
one(0)
print(sorted(map(one, range(1, 8)))[3])
"""


def timed(command: Sequence[str], folder: str) -> tuple[float, float, str]:
    """(seconds, CPU seconds of all processes that it started, stdout)"""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    with suppress(ChildProcessError):  # the server of its workers, which outlives it for an instant
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def finished_sweep(count: int, folder: str) -> list[str]:
    """The command of a sweep of which all runs are finished: copies of one."""
    from seqmem.cli.config.grouped import Compositions
    from seqmem.cli.config.own_hydra import own_hydra
    from seqmem.cli.config.schema import from_mapping
    from seqmem.cli.launch.one_run import run_path

    with own_hydra():
        compositions = Compositions("train")
        runs = [run_path(from_mapping(compositions.compose([*SMALL, f"seed={seed}"]))) for seed in range(count)]
    first = Path(folder, runs[0])
    if not first.exists():
        timed(seqmem("train", *SMALL, "seed=0"), folder)
    for run in runs:
        if not (place := Path(folder, run)).exists():
            place.mkdir(parents=True)
            for name in ("config.json", "metrics.jsonl", "result.json", "status.json"):
                shutil.copy(first / name, place)
    return seqmem("train", "-m", *SMALL, f"seed=range({count})")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench sweep", description="what a sweep costs beside its training")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is run (default 3, at least 1)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: processes that are left become our children
    kept = []

    def promise(what: str, value: float, limit: float, unit: str, *, least: bool = False) -> None:
        kept.append(value >= limit if least else value <= limit)
        sign = "at least" if least else "limit"
        print(f"  {'ok  ' if kept[-1] else 'OVER'}  {what:<58} {value:8.2f} {unit}  ({sign} {limit:g})", flush=True)

    def best(run: Callable[[], float]) -> float:
        return min(run() for _ in range(options.rounds))

    with tempfile.TemporaryDirectory() as folder:
        counts: dict[int, float] = {}
        for count in (2, 20, 40, 200, MANY):
            command = finished_sweep(count, folder)
            counts[count] = best(lambda command=command: timed(command, folder)[1])
            print(f"        a finished sweep of {count:>5,} runs: {counts[count]:.2f} s", flush=True)
        promise("a finished run of a sweep", 1000 * (counts[200] - counts[2]) / 198, 1000 * EACH, "ms")
        promise(f"a finished sweep of {MANY:,} runs", counts[MANY], MANY_LIMIT, "s")

    wall: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[int, list[float]] = {1: [], 2: []}
    bare: list[float] = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for workers in wall:
                command = seqmem("train", "-m", *SETTINGS, f"seed=range({RUNS})", f"outputs={workers}")
                seconds, spent, out = timed([*command, f"hydra.launcher.workers={workers}"], folder)
                assert f"{RUNS} of {RUNS} runs finished" in out, out
                wall[workers].append(seconds)
                cpu[workers].append(spent / RUNS)
            bare.append(json.loads(timed([sys.executable, "-c", BARE, *SETTINGS], folder)[2]))
    print(f"        the bare training of 50 steps: {statistics.median(bare):.2f} s of CPU")
    for workers in wall:
        seconds = f"{statistics.median(wall[workers]):.1f} s on {workers} worker{'s' * (workers > 1)}"
        each = statistics.median(cpu[workers])
        promise(f"a run of 50 steps ({RUNS} in {seconds})", each, JOB, "s of CPU")
        print(f"        {each / statistics.median(bare):.2f} times the bare training")
    ratio = statistics.median(one / two for one, two in zip(wall[1], wall[2], strict=True))
    promise("two workers, times as fast as one", ratio, SPEEDUP, "", least=True)
    print("\nall within their limits" if all(kept) else "\nNOT all within their limits")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
