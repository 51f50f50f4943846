"""Make the tables of docs/subject_study.md and docs/playground.md again, and say what of them depends on rounding.

The last bit of a float can decide how well a seed does beyond the lengths it was trained at. So every seed is trained
with several kernels, which add the same numbers in different orders, as processors of different kinds do. A number that
is not the same with all of them is printed as a range, and a claim must hold with each.
"""

import argparse
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median

from seqmem.metrics import ACCURACY
from seqmem.runs.directory import find_runs
from seqmem.runs.summary import Summary, read

KERNELS = {
    "native": ("native", ""),
    "avx512": ("native", "avx512"),
    "avx2": ("native", "avx2"),
    "baseline": ("native", "baseline"),
    "torch": ("torch", ""),
    "step": ("step", ""),
}
"""Name -> the setting ``kernel``, and $SEQMEM_ISA, the instruction set (empty: the best)."""

Models = tuple[str, int, int | None]
"""What seeds have in common: the cell, the longest length trained at, and the shortest; None: all had the longest."""

Seeds = Mapping[int, Mapping[int, float]]
"""Seed -> tested length -> accuracy; -inf of a run that diverged."""

Scores = Mapping[Models, Seeds]


@dataclass(frozen=True)
class Study:
    """``commands``: settings of ``seqmem train -m``. ``seeds``: of the document. ``shortest``: length of the task."""

    commands: Sequence[Sequence[str]]
    seeds: int
    shortest: int
    table: Callable[[Mapping[str, Scores]], list[str]]
    claims: Callable[[Scores], list[tuple[str, bool]]]


def spread(texts: Sequence[str], numbers: Sequence[float]) -> str:
    """One text where all kernels agree in it, else those of the smallest and the largest number."""
    if len(set(texts)) == 1:
        return texts[0]
    low, high = (texts[numbers.index(end(numbers))] for end in (min, max))
    return f"{low.removesuffix(' %') if high.endswith(' %') else low} to {high}"


def at(seeds: Seeds, length: int) -> list[float]:
    return [lengths[length] for lengths in seeds.values()]


# The six-subject demo

FILLERS = (6, 8, 10, 12, 15, 22, 40, 100)
DEMO: tuple[Models, ...] = (("rnn", 7, 4), ("lstm", 7, 4))
GOOD, POOR = 0.99, 0.7


def subject_table(kernels: Mapping[str, Scores]) -> list[str]:
    heads = " | ".join(f"{cell}: median | least | ≥ 99 % | < 70 %" for cell, *_ in DEMO)
    lines = [f"| fillers | {heads} |", "|---" * (1 + 4 * len(DEMO)) + "|"]
    for fillers in FILLERS:
        cells = [str(fillers)]
        for models in DEMO:
            each = [at(scores[models], fillers + 2) for scores in kernels.values()]
            for summary in (median, min):
                numbers = [float(summary(some)) for some in each]
                cells.append(spread([ACCURACY.text(number) for number in numbers], numbers))
            for counts in (
                [sum(x >= GOOD for x in some) for some in each],
                [sum(x < POOR for x in some) for some in each],
            ):
                texts = [str(number) for number in counts]
                cells.append(spread(texts, counts))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def subject_claims(scores: Scores) -> list[tuple[str, bool]]:
    rnn, lstm = (scores[models] for models in DEMO)
    n = len(rnn)
    learned = all(min(at(seeds, length)) >= GOOD for seeds in (rnn, lstm) for length in (4, 6))
    split = [(sum(x >= GOOD for x in at(rnn, f + 2)), sum(x < POOR for x in at(rnn, f + 2))) for f in (12, 15, 22, 40)]
    perfect, poor = (all(end(at(seeds, 102)) for seeds in (rnn, lstm)) for end in (_any_good, _any_poor))
    return [
        ("all models solve the lengths they were trained on", learned),
        (
            "at 12 to 40 fillers there are two groups of RNNs: at least a fifth perfect, at least a tenth below 70 %",
            all(5 * good >= n and 10 * poor >= n for good, poor in split),
        ),
        ("no LSTM is below 70 % at up to 22 fillers", all(min(at(lstm, f + 2)) >= POOR for f in FILLERS[:6])),
        ("at 100 fillers some seeds of either cell are perfect, and some are below 70 %", perfect and poor),
    ]


def _any_good(scores: Sequence[float]) -> bool:
    return max(scores) >= GOOD


def _any_poor(scores: Sequence[float]) -> bool:
    return min(scores) < POOR


# The playground

LENGTHS = (7, 10, 12, 20, 30, 50, 200)
FALLING_SHORT = 0.3
"""Accuracy that guessing among four does not reach on 1,000 sentences: chance is 25 %, plus 3.6 standard errors."""


def playground_table(kernels: Mapping[str, Scores]) -> list[str]:
    lines = [f"| trained on | seeds | {' | '.join(f'{length} words' for length in LENGTHS)} |"]
    lines.append("|---" * (2 + len(LENGTHS)) + "|")
    for models in next(iter(kernels.values())):
        cell, longest, shortest = models
        words = f"exactly {longest}" if shortest is None else f"{shortest} to {longest}"
        each = [scores[models] for scores in kernels.values()]
        cells = [f"`{cell}`, {words} words", str(len(each[0]))]
        for length in LENGTHS:
            pooled = [score for seeds in each for score in at(seeds, length)]
            ends = [min(pooled), max(pooled)]
            cells.append(spread([ACCURACY.text(end) for end in ends], ends))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def playground_claims(scores: Scores) -> list[tuple[str, bool]]:
    guessing = {shortest: max(at(scores["rnn", 50, shortest], 50)) for shortest in (7, 15, 20, 30)}
    short = scores["rnn", 10, 7]
    return [
        (f"every {cell} is right on 99 % at 50 words", min(at(scores[cell, 50, 15], 50)) >= GOOD)
        for cell in ("lstm", "gru")
    ] + [
        *(
            (f"no rnn that is trained on {shortest} to 50 words does better than chance at 50", best < FALLING_SHORT)
            for shortest, best in guessing.items()
            if shortest > 7
        ),
        ("some rnn that is trained on 7 to 50 words does", guessing[7] >= FALLING_SHORT),
        ("every rnn trained on 7 to 10 words is right on 99 % at 10", min(at(short, 10)) >= GOOD),
        ("and on less than 90 % at 20, and 65 % at 50", max(at(short, 20)) < 0.9 and max(at(short, 50)) < 0.65),
    ]


STUDIES = {
    "subject_study": Study([("experiment=subject_study",)], 20, 4, subject_table, subject_claims),
    "playground": Study(
        [
            ("experiment=playground",),
            ("experiment=playground", "cell=rnn", "seq_len=10", "task.shortest=null"),
            ("experiment=playground", "cell=rnn", "seq_len=10", "task.lengths=fixed", "task.shortest=null"),
            ("experiment=playground", "cell=rnn", "task.shortest=null,20,30", "steps=600"),
            ("experiment=playground", "cell=lstm,gru", "task.lengths=fixed", "task.shortest=null", "steps=600"),
        ],
        12,
        7,
        playground_table,
        playground_claims,
    ),
}


# Training and reading


def models_of(run: Summary, shortest: int) -> Models:
    """``shortest``: of the task, where the run has no other."""
    task = run.config["task"]
    least = (task.get("shortest") or shortest) if task.get("lengths") == "uniform" else None
    return run.cell, run.seq_len, least


def scores_in(folder: Path, shortest: int) -> Scores:
    every: dict[Models, dict[int, Mapping[int, float]]] = defaultdict(dict)
    for run in sorted(map(read, find_runs(folder)), key=lambda run: (run.cell, -run.seq_len, run.seed)):
        every[models_of(run, shortest)][run.seed] = defaultdict(lambda: -inf) if run.diverged else run.by_length
    return every


def train(study: Study, kernel: str, folder: Path, seeds: int, workers: str) -> bool:
    """True if every run is finished."""
    name, isa = KERNELS[kernel]
    environment = {**os.environ, "SEQMEM_ISA": isa}
    done = True
    for command in study.commands:
        settings = [*command, f"seed=range({seeds})", f"kernel={name}", f"outputs={folder}", "device=cpu"]
        words = [sys.executable, "-m", "seqmem", "train", "-m", *settings, f"hydra.launcher.workers={workers}"]
        done &= subprocess.run(words, env=environment, stdout=sys.stderr, check=False).returncode == 0
    return done


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/tables", description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--kernels", default="native,baseline,torch", help=f"of {', '.join(KERNELS)}")
    parser.add_argument("--seeds", type=int, help="of every kind of model (default: the document's)")
    parser.add_argument("--workers", default="auto", help="runs at once (default: one for every core)")
    options = parser.parse_args()
    study, kernels = STUDIES[options.study], options.kernels.split(",")
    if unknown := [kernel for kernel in kernels if kernel not in KERNELS]:
        parser.error(f"--kernels {unknown[0]}: must be of {', '.join(KERNELS)}")
    seeds = options.seeds or study.seeds
    by_kernel: dict[str, Scores] = {}
    for kernel in kernels:
        folder = Path("outputs", "tables", options.study, kernel)
        if not train(study, kernel, folder, seeds, options.workers):
            print(f"{folder}: not every run is finished; the same command goes on", file=sys.stderr)
            return 1
        by_kernel[kernel] = scores_in(folder, study.shortest)
    print(f"\n{seeds} seeds with each of the kernels {', '.join(kernels)}:\n")
    print("\n".join(study.table(by_kernel)))
    print("\nnumbers that differ with the kernel, seed by seed:")
    for models in by_kernel[kernels[0]]:
        differ, total = changed([scores[models] for scores in by_kernel.values()])
        print(f"  {models[0]}, {models[2] or models[1]} to {models[1]}: {differ} of {total} scores")
    print()
    failed = 0
    for kernel, scores in by_kernel.items():
        for claim, holds in study.claims(scores):
            failed += not holds
            print(f"{'yes' if holds else 'NO '}  {kernel}: {claim}")
    print(f"\n{'PASSED' if not failed else f'FAILED: {failed} claims'}")
    return 1 if failed else 0


def changed(kernels: Sequence[Seeds]) -> tuple[int, int]:
    """How many scores of single seeds and lengths are not the same with all kernels, and of how many."""
    keys = [(seed, length) for seed, lengths in kernels[0].items() for length in lengths]
    return sum(len({seeds[seed][length] for seeds in kernels}) > 1 for seed, length in keys), len(keys)


if __name__ == "__main__":
    sys.exit(main())
