"""Runs and sweeps that are killed at random moments and resumed until they are finished; threads; edited code."""

import json
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faults_shared import TINY, answered, main, numbers, only_run, require, runs_below, seqmem

CELL = """\
from seqmem.cells import RNN
K = {k}

class Leaky(RNN):
    def step(self, x, state):
        _, new = super().step(x, state)
        hidden = K * new["hidden"]
        return hidden, {{"hidden": hidden}}
"""


def _until_finished(command: tuple[str, ...], folder: Path, rng: random.Random, kills: int, seconds: float) -> int:
    """Kill the command that often, each time within ``seconds`` of its start, then let it finish.

    Returns:
        How often it was killed; it may finish before.
    """
    for killed in range(kills):
        done = seqmem(*command, cwd=folder, kill_after=rng.uniform(0.1, 1) * seconds)
        if done.code != -signal.SIGKILL:
            done.exits(0)
            return killed
    seqmem(*command, cwd=folder).exits(0)
    return kills


def killed_runs(folder: Path, runs: int, kills: int) -> str:
    """Each of the runs is killed up to ``kills`` times."""
    rng, total = random.Random(0), 0
    for cell in ("lstm", "gru", "rnn")[: min(3, runs)]:
        command = ("train", f"cell={cell}", "steps=120", *TINY)
        start = time.monotonic()
        seqmem(*command, f"outputs=whole-{cell}", cwd=folder).exits(0)
        seconds = time.monotonic() - start
        whole = numbers(only_run(folder / f"whole-{cell}"))
        for turn in range(max(1, runs // 3)):
            outputs = f"killed-{cell}-{turn}"
            total += _until_finished((*command, f"outputs={outputs}"), folder, rng, kills, seconds)
            require(numbers(only_run(folder / outputs)) == whole, f"{outputs} has other numbers")
    require(total > 0, "no run was killed before it was finished")
    return f"{total} kills of {max(runs, 1)} runs: metrics, traces and results bitwise those of undisturbed ones"


def killed_sweeps(folder: Path, sweeps: int, kills: int) -> str:
    """All processes of a sweep with two workers are killed at once."""
    command = ("train", "-m", "cell=rnn,gru", "seed=0,1", "steps=60", "hydra.launcher.workers=2", *TINY)
    start = time.monotonic()
    seqmem(*command, "outputs=whole", cwd=folder).exits(0)
    seconds = time.monotonic() - start
    whole = {run.relative_to(folder / "whole"): numbers(run) for run in runs_below(folder / "whole")}
    require(len(whole) == 4, f"{len(whole)} runs of 4")
    rng, total = random.Random(1), 0
    for turn in range(sweeps):
        outputs = folder / f"killed-{turn}"
        total += _until_finished((*command, f"outputs={outputs.name}"), folder, rng, kills, seconds)
        swept = {run.relative_to(outputs): numbers(run) for run in runs_below(outputs)}
        require(swept == whole, f"{outputs.name} has other numbers")
    require(total > 0, "no sweep was killed before it was finished")
    return f"{total} kills of {sweeps} sweeps of 4 runs, 2 workers: every run bitwise as undisturbed"


def threads(folder: Path, count: int) -> str:
    """``seqmem.train`` from that many threads at once, beside the same runs one after the other."""

    def call() -> int:
        import seqmem as library

        def loss(seed: int, outputs: str) -> float:
            run = library.train(
                cell={"name": "lstm", "hidden_size": 4}, seed=seed, steps=20, seq_len=8, batch_size=4, embed_size=4,
                evaluate={"sequences": 8, "lengths": [8]}, trace={"every": 0}, quiet=True, outputs=outputs,
            )  # fmt: skip
            result = run.result()
            return float("nan") if result is None else result["loss"]

        alone = [loss(seed, "alone") for seed in range(count)]
        with ThreadPoolExecutor(count) as pool:
            beside = list(pool.map(lambda seed: loss(seed, "beside"), range(count)))
        return 0 if alone == beside and len(set(alone)) == count else 1

    done = answered("seqmem.train from threads", call, folder)
    require(done.code == 0, str(done))
    return f"{count} at once have the losses that they have alone"


def edited_code(folder: Path, workers: int) -> str:
    """A cell's file is edited once the first run of a sweep is finished."""
    settings = ("cell=custom", "cell.target=own.Leaky", "steps=20", *TINY)
    seeds = ("-m", "seed=0,1,2,3")
    expected = {}
    for k in (0.9, 0.1):
        (folder / "own.py").write_text(CELL.format(k=k))
        seqmem("train", *seeds, *settings, f"outputs=alone-{k}", "hydra.launcher.workers=1", cwd=folder).exits(0)
        expected |= {_identity(run): _loss(run) for run in runs_below(folder / f"alone-{k}")}
    require(len(set(expected.values())) == 8, "the two versions cannot be told apart")

    def call() -> int:
        def edit() -> None:
            while not list(Path("swept").rglob("result.json")):
                time.sleep(0.002)
            Path("own.py").write_text(CELL.format(k=0.9))

        threading.Thread(target=edit, daemon=True).start()
        return main("train", *seeds, *settings, "outputs=swept", f"hydra.launcher.workers={workers}")

    done = answered("seqmem train -m", call, folder).sound()
    require("K = 0.9" in (folder / "own.py").read_text(), "the file was not edited in time")
    finished = [run for run in runs_below(folder / "swept") if (run / "result.json").exists()]
    wrong = [run.name for run in finished if expected.get(_identity(run)) != _loss(run)]
    require(not wrong, f"filed under code that did not make them: {', '.join(wrong)}")
    require(len(finished) == 4 or done.code != 0, f"{len(finished)} of 4 are finished, without a word")
    return f"{len(finished)} of 4 finished, each with the loss of the code that it is filed under"


def _identity(run: Path) -> tuple[str, int]:
    config = json.loads((run / "config.json").read_text())
    return config["cell"]["code"], config["seed"]


def _loss(run: Path) -> float:
    return json.loads((run / "result.json").read_text())["loss"]
