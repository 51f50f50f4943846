"""Make the table of docs/cells.md again; called by scripts/cells as cells.py DOCUMENT."""

import sys
from math import isfinite
from pathlib import Path
from statistics import median
from time import perf_counter

from hydra import compose

from seqmem.cells import CELLS
from seqmem.cli.config.build import Experiment, build
from seqmem.cli.config.own_hydra import own_hydra
from seqmem.cli.config.schema import from_mapping
from seqmem.cli.verbs.list import numbers_in_state
from seqmem.models import RecurrentModel
from seqmem.models.base import trainable
from seqmem.probes.gradient import GradientProbe
from seqmem.randomness import generator
from seqmem.training.update import update

PARAMS, LENGTH, SEQUENCES, ROUNDS = 30_000, 200, 32, 3
BEGIN, END = "<!-- scripts/cells -->\n", "<!-- end -->\n"


def built(cell: str) -> Experiment:
    overrides = [f"cell={cell}", "task=pronoun", f"seq_len={LENGTH}", f"cell.params={PARAMS}", "threads=1"]
    with own_hydra():
        return build(from_mapping(compose("train", overrides=overrides)))


def seconds(experiment: Experiment) -> float:
    """The time of one update of 64 sequences."""
    batch = experiment.task.sample(64, LENGTH, generator(0, "cells"))
    start = perf_counter()
    parameters = trainable(experiment.model)
    update(
        experiment.model, experiment.task, experiment.optimizer, parameters, batch, None, 1.0, weighted=batch.weighted
    )
    return perf_counter() - start


def row(cell: str, lstm: Experiment) -> str:
    experiment = built(cell)
    model = experiment.model
    assert isinstance(model, RecurrentModel)
    scalars = GradientProbe().measure(
        model, experiment.task, experiment.task.sample(SEQUENCES, LENGTH, generator(0, "cells"))
    )
    fading = scalars.scalars["state"]
    half, arrives = fading["half_life"], fading["log10_arrives"]
    seconds(experiment)  # warm
    pairs = [(seconds(lstm), seconds(experiment)) for _ in range(ROUNDS)]
    speed = median(one for one, _ in pairs) / median(other for _, other in pairs)
    return (
        f"| `{cell}` | {experiment.hidden_size} | {numbers_in_state(model.cell)} | "
        f"{'yes' if model.cell.parallel else ''} | {speed:.2f} | {f'{half:.3g}' if isfinite(half) else '-'} | "
        f"{f'10^{arrives:.1f}' if isfinite(arrives) else '0'} |"
    )


def main() -> None:
    document, lstm = Path(sys.argv[1]), built("lstm")
    seconds(lstm)
    head = "| cell | units | numbers in its state | parallel | speed | half-life | arrives |\n" + "|---" * 7 + "|\n"
    rows = [row(cell, lstm) for cell in CELLS if cell != "torchrecurrent"]
    before, _, rest = document.read_text().partition(BEGIN)
    document.write_text(before + BEGIN + head + "\n".join(rows) + "\n" + END + rest.partition(END)[2])
    print(document)


if __name__ == "__main__":
    main()
