"""What a command costs beside its work, from key press to prompt. Run it with scripts/bench start.

Each command is a process of its own, and all take turns. Seconds are wall time, the shortest of all rounds; CPU is user
and system time. What is left of a run when torch's import and the training are taken away is the median over the
rounds, each with an import of torch of its own.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

LIMIT = 0.45
"""Seconds of a run beside torch's import and the training."""

SMALL = (
    "seq_len=12", "steps=2", "cell.hidden_size=8", "batch_size=8", "embed_size=8", "evaluate.sequences=32",
    "evaluate.lengths=[12]", "device=cpu",
)  # fmt: skip
TORCH = """
import gc, time
gc.disable()
start = time.perf_counter(), time.process_time()
import torch
print(time.perf_counter() - start[0], time.process_time() - start[1])
"""

FIRST_STEP = """
import os, sys, time
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
def leave(*_):
    print("seconds", time.time() - float(os.environ["BENCH_START"]), flush=True)
    os._exit(0)
register_optimizer_step_post_hook(leave)
from seqmem.cli.main import main
main()
"""


def first_step(repeats: int = 5) -> float:
    """Seconds from the command to the end of its first training step; the median."""
    seconds = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", FIRST_STEP, "train", "cell=lstm", "task=pronoun", "seq_len=50"]
            environment = {**os.environ, "BENCH_START": str(time.time())}
            done = subprocess.run(
                [*command, f"outputs={folder}"], env=environment, capture_output=True, text=True, check=True
            )
            seconds.append(float(done.stdout.rpartition("seconds ")[2]))
    return statistics.median(seconds)


def timed(command: Sequence[str], folder: str, **environment: str) -> tuple[float, float, str]:
    """(seconds, CPU seconds, stdout) of a command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def seqmem(*args: str) -> list[str]:
    return [sys.executable, "-m", "seqmem", *args]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench start", description="what a command costs beside its work")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is run (default 7, at least 1)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    commands = {
        "seqmem --help": seqmem("--help"),
        "seqmem train --help": seqmem("train", "--help"),
        "TAB after `seqmem train cell=`": seqmem("-sc", "query=bash"),
        "seqmem show RUN": seqmem("show", "finished"),
        "seqmem train, finished already": seqmem("train", *SMALL, "outputs=finished"),
        "seqmem list": seqmem("list"),
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
        "seqmem train, 2 small steps": seqmem("train", *SMALL),
    }
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    imports: list[list[float]] = []
    left: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        timed(commands["seqmem train, finished already"], folder)
        for turn in range(options.rounds):
            for name, command in commands.items():
                new = name.endswith("small steps")
                words = [*command, f"outputs=new{turn}"] if new else command
                seconds, cpu, _ = timed(words, folder, COMP_LINE="seqmem train cell=")
                rows[name].append((seconds, cpu))
                if new:
                    (result,) = Path(folder, f"new{turn}").rglob("result.json")
                    imports.append([*map(float, timed([sys.executable, "-c", TORCH], folder)[2].split())])
                    trained = json.loads(result.read_text())["seconds"]
                    left.append((seconds - imports[-1][0] - trained, cpu - imports[-1][1]))
    print(f"{'':34} seconds      CPU")
    for name, row in rows.items():
        seconds, cpu = (min(column) for column in zip(*row, strict=True))
        print(f"  {name:32} {seconds:7.2f}  {cpu:7.2f}")
    rest, spent = (statistics.median(column) for column in zip(*left, strict=True))
    torch, busy = (statistics.median(column) for column in zip(*imports, strict=True))
    print(f"\n  torch's import {torch:.2f} s, {busy:.2f} of CPU")
    print(f"  start-up to the end of the first default step {first_step():.2f} s")
    print(f"  CPU of a run of 2 small steps beside torch's import, their training included: {spent:.2f} s")
    mark = "ok  " if rest < LIMIT else "OVER"
    what = "a run beside torch's import and the training"
    print(f"  {mark}  {what:<58} {rest:8.2f} s  (limit {LIMIT:g}; {rest / torch:.2f} of the import)")
    return 0 if rest < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
