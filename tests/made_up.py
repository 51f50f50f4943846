"""Runs that were never trained: what a report says and draws is known from how they were made up."""

from collections.abc import Mapping
from math import inf
from pathlib import Path

import numpy as np

from seqmem.report.collect import Collection, Run


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
    return Run(
        path=path, task=task, task_name=task, cell=cell, variant="", label=cell, seq_len=seq_len, seed=seed, steps=400,
        score=score, loss=1.0, chance=chance, metric=metric, higher_is_better=higher_is_better, solved_at=goal,
        solved=False, steps_to_solve=steps_to_solve, by_length=dict(by_length or {seq_len: score}),
        decays={when: {"state": {"half_life": half_life, "horizon": inf}} for when in ("start", "end")}, config=config,
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
