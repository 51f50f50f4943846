"""Runs that were never trained: what a report says and draws is known from how they were made up.

``run``, ``sweep`` and ``collection`` are in memory; ``run_directory`` and ``directories`` write a finished run to disk.
"""

import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from math import inf, isnan
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from seqmem.decay import DESCRIPTIONS, Decay
from seqmem.metrics import metric_called
from seqmem.report.collect import Collection, Group, Run
from seqmem.runs.directory import State
from seqmem.runs.files import plain_json

CONFIG: dict[str, Any] = {
    "cell": {"name": "lstm", "hidden_size": 8, "layers": 1, "params": None, "forget_bias": "chrono", "init": "torch"},
    "task": {"name": "pronoun", "usual_seq_len": 50, "lengths": "fixed", "shortest": None, "people": 8},
    "optimizer": {"name": "adam", "lr": 0.003, "weight_decay": 0.0},
    "seq_len": 10, "seed": 0, "steps": 1000, "batch_size": 64, "embed_size": 32, "clip_norm": 1.0, "tbptt": None,
    "dtype": "float32", "precision": "float32", "compile": False, "train": {"checkpoint_every_t": None},
    "on_nan": "stop", "log_every": 10,
    "evaluate": {"every": 50, "sequences": 1000, "lengths": None},
    "trace": {"every": 100, "sequences": 32, "loss": "last"},
    "device": "auto", "kernel": "auto", "threads": 1, "deterministic": False, "checkpoint_every": 100,
    "outputs": "outputs", "force": False, "quiet": False,
}  # fmt: skip


def run(
    cell: str,
    seq_len: int,
    seed: int,
    score: float,
    *,
    path: Path = Path("nowhere"),
    task: str = "pronoun",
    metric: str = "accuracy",
    chance: float | None = 0.25,
    goal: float | None = 0.99,
    higher_is_better: bool = True,
    steps_to_solve: int | None = None,
    by_length: Mapping[int, float] | None = None,
    half_life: float = 2.0,
) -> Run:
    config = {
        "cell": {"name": cell},
        "task": {"name": task},
        "seq_len": seq_len,
        "seed": seed,
        "optimizer": {"lr": 0.003},
    }
    diverged = isnan(score)
    return Run(
        path=path, state="finished", diverged=diverged, error=None,
        task=task, task_name=task, cell=cell, variant="", label=cell, seq_len=seq_len, seed=seed, steps=400,
        score=score, loss=1.0, chance=chance, metric=metric_called(metric, higher_is_better=higher_is_better),
        solved_at=goal,
        solved=False, steps_to_solve=steps_to_solve,
        by_length={} if diverged else dict(by_length or {seq_len: score}),
        config=config,
        descriptions=DESCRIPTIONS,
        probes={"gradient": {when: {"state": decay_of(half_life)} for when in ("start", "end")}},
        environment={"command": ["/opt/python", "/opt/bin/seqmem", "train", f"cell={cell}"], "torch": "2.13.0"},
        hidden_size=64, parameters=10, seconds=1.0,
    )  # fmt: skip


def sweep(folder: Path | None = None) -> Collection:
    """lstm solves 10 and 20 with each of 3 seeds, rnn 10 alone.

    Args:
        folder: where the runs' directories are; their traces decay ever faster: the gradient halves every 2 timesteps
            before training, every 2/5 after it. None: the runs were not traced.
    """
    runs = []
    for cell, scores in (
        ("lstm", {10: (1.0, 1.0, 1.0), 20: (0.999, 1.0, 0.995)}),
        ("rnn", {10: (1.0, 0.995, 0.6), 20: (0.25, 0.3, 0.26)}),
    ):
        for length, some in scores.items():
            for seed, score in enumerate(some):
                path = Path("nowhere") if folder is None else folder / f"{cell}-{length}-{seed}"
                if folder is not None:
                    _trace(path, length, scale=1 + seed)
                tested = {length: score, 2 * length: 0.5}
                solved = 100 + 10 * seed if score >= 0.99 else None
                runs.append(run(cell, length, seed, score, path=path, by_length=tested, steps_to_solve=solved))
    return Collection([Path("outputs")], runs)


def _trace(path: Path, length: int, *, scale: float) -> None:
    path.mkdir()
    back = np.arange(length)[::-1, None] / 2
    norms = np.stack([2.0 ** -(back * rate) for rate in (1, 2, 3, 4, 5)]) * scale
    np.savez(
        path / "gradients.npz",
        step=np.arange(5) * 100,
        answered_at=[length - 1],
        **{"norm/hidden": norms},  # pyright: ignore[reportArgumentType]
    )


def collection(scores: Mapping[str, Mapping[int, Sequence[float]]], **facts: Any) -> Collection:
    """A run for each score. ``scores``: cell -> trained length -> a score for each seed."""
    return Collection(
        [],
        [
            run(cell, length, seed, score, **facts)
            for cell, by_length in scores.items()
            for length, seeds in by_length.items()
            for seed, score in enumerate(seeds)
        ],
    )


def decay_of(half_life: float) -> dict[str, float]:
    """The numbers of a gradient of which a tenth arrives."""
    factor = 0.5 ** (1 / half_life)
    return Decay(-1.0, half_life, inf, -1.0, 9.0, 0.0, 1.0, factor, points=9, r2=1.0, underflowed=0).numbers()


def group_of(runs: Collection, label: str) -> Group:
    (group,) = (group for group in runs.groups if group.label == label)
    return group


def write(path: Path, value: Mapping[str, Any]) -> None:
    """``write_json`` without waiting for the disk."""
    path.write_text(json.dumps(plain_json(value)))


def stored_result(config: Mapping[str, Any], score: float) -> dict[str, Any]:
    """The fields of a ``result.json`` of a run of ``config``, as 0.1.0 wrote it."""
    return {
        "task": config["task"]["name"], "cell": config["cell"]["name"], "seq_len": config["seq_len"],
        "seed": config["seed"], "hidden_size": 8, "layers": 1, "parameters": 100, "steps": config["steps"],
        "device": "cpu", "baseline_loss": 1.4, "metric": "accuracy", "higher_is_better": True, "score": score,
        "chance": 0.25, "loss": 0.1, "solved_at": 0.99, "solved": score >= 0.99, "steps_to_solve": None,
        "by_length": [{"seq_len": config["seq_len"], "score": score, "loss": 0.1, "sequences": 1000}],
        "gradient": {"start": {}, "end": {}}, "seconds": 1.5, "versions": {"seqmem": "0.1.0"},
    }  # fmt: skip


def run_directory(
    folder: Path,
    score: float | None = 1.0,
    *,
    changes: Mapping[str, Any] | None = None,
    solved_after: int | None = None,
    by_length: Mapping[int, float] | None = None,
    half_lives: tuple[float, float] = (5.0, 50.0),
    **facts: Any,
) -> Path:
    """Write the directory of a run of CONFIG.

    Args:
        score: None: the run is not finished.
        changes: settings that differ from CONFIG, by dotted name.
        half_lives: at the start and at the end of training.
        facts: fields of the result.
    """
    settings = json.loads(json.dumps(CONFIG))
    for key, value in (changes or {}).items():
        place = settings
        *path, last = key.split(".")
        for part in path:
            place = place[part]
        place[last] = value
    folder.mkdir(parents=True)
    write(folder / "config.json", settings)
    write(folder / "environment.json", {"seqmem": "0.1.0", "torch": "2.13", "command": ["seqmem", "train"]})
    if score is None:
        return folder
    tested = {settings["seq_len"]: score} if by_length is None else by_length
    result = stored_result(settings, score) | {
        "steps_to_solve": solved_after,
        "by_length": [{"seq_len": k, "score": v, "loss": 0.1, "sequences": 1000} for k, v in tested.items()],
        "gradient": {
            when: {"state": decay_of(value)} for when, value in zip(("start", "end"), half_lives, strict=True)
        },
    }
    write(folder / "result.json", {**result, **facts})
    return folder


def write_status(path: Path, state: State, *, step: int = 50, error: str | None = None, pid: int = 0) -> None:
    """Write what a run's process on this machine wrote last. ``pid``: 0 is this process, which works in ``path``."""
    fields = {"state": state, "step": step, "error": error, "pid": pid or os.getpid(), "host": socket.gethostname()}
    write(path / "status.json", fields)
    if not pid and state == "running":
        work_in(path)


def work_in(path: Path) -> None:
    """Hold a run's lock until this process ends."""
    _HELD.append(FileLock(path / "run.lock"))
    _HELD[-1].acquire(timeout=0)


_HELD: list[FileLock] = []


def ended_process() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def directories(folder: Path, scores: Mapping[str, Mapping[int, Sequence[float]]], **facts: Any) -> Path:
    """A run's directory for each score. ``scores``: cell -> trained length -> a score for each seed."""
    for cell, by_length in scores.items():
        for length, seeds in by_length.items():
            for seed, score in enumerate(seeds):
                changes = {"cell.name": cell, "seq_len": length, "seed": seed}
                run_directory(folder / cell / f"len{length}-seed{seed}", score, changes=changes, **facts)
    return folder
