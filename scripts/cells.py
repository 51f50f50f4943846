"""Make the tables of docs/cells.md again; called by scripts/cells as cells.py DOCUMENT [CELL ...].

Axes: T time, B batch, D input features, H hidden.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from statistics import median
from time import perf_counter
from types import MethodType
from typing import Any, cast

import torch
from authors_forms import FORMS
from hydra import compose

from seqmem.cells import CELLS
from seqmem.cells.base import Cell, cells_in, numbers_in_state
from seqmem.cli.config.build import Experiment, build
from seqmem.cli.config.own_hydra import own_hydra
from seqmem.cli.config.schema import from_mapping
from seqmem.models import RecurrentModel
from seqmem.models.base import trainable
from seqmem.probes.gradient import GradientProbe
from seqmem.randomness import generator
from seqmem.training.update import update

PARAMS, LENGTHS, SEQUENCES, ROUNDS = 30_000, (50, 200, 1000), 64, 3
LOOPED = (50, 200)
"""Lengths at which the loop over ``step`` is timed: its graph of 1,000 timesteps takes 13 GB for some cells."""
FILE = Path("outputs/cells.json")

Row = dict[str, Any]


def built(cell: str, length: int) -> Experiment:
    overrides = [f"cell={cell}", "task=pronoun", f"seq_len={length}", f"cell.params={PARAMS}", "threads=1"]
    with own_hydra():
        return build(from_mapping(compose("train", overrides=overrides)))


def looped(experiment: Experiment) -> Experiment:
    """The same, but every cell computes a sequence by the loop over its step."""
    for cell in cells_in(experiment.model):
        for name in ("forward", "forward_tokens", "forward_at", "differentiated"):
            setattr(cell, name, MethodType(getattr(Cell, name), cell))
    return experiment


def updates(experiment: Experiment, length: int) -> Callable[[], object]:
    """One training update of ``SEQUENCES`` sequences."""
    batch = experiment.task.sample(SEQUENCES, length, generator(0, "cells"))
    parameters = trainable(experiment.model)
    return lambda: update(
        experiment.model, experiment.task, experiment.optimizer, parameters, batch, None, 1.0, weighted=batch.weighted
    )


def passes(compute: Callable[[torch.Tensor], torch.Tensor], xs: torch.Tensor) -> Callable[[], object]:
    """A pass forward and back through one layer."""
    return lambda: compute(xs).sum().backward()


def seconds(rivals: Sequence[Callable[[], object]], rounds: int = ROUNDS) -> list[float]:
    """The median time of each, all of them in turn in every round, after one that is not counted."""
    times: list[list[float]] = [[] for _ in rivals]
    for _ in range(rounds + 1):
        for rival, measured in zip(rivals, times, strict=True):
            start = perf_counter()
            rival()
            measured.append(perf_counter() - start)
    return [median(measured[1:]) for measured in times]


def megabytes() -> tuple[float, float]:
    """Resident memory of this process, now and at its peak."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, peak = (int(status[name].split()[0]) / 1000 for name in ("VmRSS", "VmHWM"))
    return now, peak


def peak(do: Callable[[], object]) -> float:
    """By how many MB the resident memory rises while it is done, at most."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = megabytes()[0]
    do()
    return megabytes()[1] - before


def measured(name: str) -> Row:
    row: Row = {}
    for length in LENGTHS:
        experiment = built(name, length)
        model = experiment.model
        assert isinstance(model, RecurrentModel)
        own = updates(experiment, length)
        rivals = [updates(built("lstm", length), length), own]
        if length in LOOPED and not model.cell.walks:
            rivals.append(updates(looped(built(name, length)), length))
        lstm, mine, *loop = seconds(rivals)
        row[f"lstm {length}"] = lstm / mine
        if loop:
            row[f"loop {length}"] = loop[0] / mine
        row[f"seconds {length}"] = mine
        if length == 200:
            row |= facts(experiment, model, length)
    # The loop takes five times as long for 1,000 timesteps as for 200; attention's, which looks at all keys, longer.
    if "loop 200" in row:
        row["loop 1000"] = row["loop 200"] * row["seconds 200"] * 5 / row["seconds 1000"]
    if name in FORMS:
        row["form"], form = FORMS[name]
        for length in LENGTHS:
            cell = cast(RecurrentModel, built(name, length).model).cell
            xs = torch.randn(length, SEQUENCES, cell.input_size, generator=generator(0, "cells"))
            other = form(cell)
            torch.testing.assert_close(other(xs), cell(xs)[0], rtol=1e-3, atol=1e-4)
            mine, theirs = seconds([passes(lambda xs, cell=cell: cell(xs)[0], xs), passes(other, xs)])
            row[f"form {length}"] = theirs / mine
    return row


def facts(experiment: Experiment, model: RecurrentModel, length: int) -> Row:
    scalars = GradientProbe().measure(model, experiment.task, experiment.task.sample(32, length, generator(0, "cells")))
    fading = scalars.scalars["state"]
    return {
        "units": experiment.hidden_size,
        "state": numbers_in_state(model.cell),
        "parallel": model.cell.parallel,
        "half_life": fading["half_life"],
        "arrives": fading["log10_arrives"],
    }


def memory(name: str) -> Row:
    return {"megabytes": peak(updates(built(name, LENGTHS[-1]), LENGTHS[-1]))}


def forked(measure: Callable[[str], Row], name: str) -> Row:
    """``measure(name)`` in a process of its own: memory that was used before would be used again, uncounted."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            json.dump(measure(name), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if status or not text:
        raise SystemExit(f"scripts/cells: measuring {name} failed, see above")
    return json.loads(text)


def sources() -> str:
    """A hash of what the numbers depend on."""
    hashed = blake2b(digest_size=8)
    paths = (path for path in Path("src/seqmem").rglob("*") if path.suffix in (".py", ".cpp", ".hpp"))
    for path in sorted([*paths, Path(__file__), Path(__file__).with_name("authors_forms.py")]):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()


def state_table(rows: dict[str, Row]) -> Iterator[str]:
    yield "| cell | units | numbers in its state | parallel | half-life | arrives | MB |"
    for name, row in rows.items():
        half, arrives = row["half_life"], row["arrives"]
        yield (
            f"| `{name}` | {row['units']} | {row['state']} | {'yes' if row['parallel'] else ''} | "
            f"{f'{half:.3g}' if isfinite(half) else '-'} | {f'10^{arrives:.1f}' if isfinite(arrives) else '0'} | "
            f"{row['megabytes']:.0f} |"
        )


def speed_table(rows: dict[str, Row]) -> Iterator[str]:
    lengths = " | ".join(map(str, LENGTHS))
    yield f"| cell | lstm: {lengths} | loop: {lengths} | other form | {lengths} |"
    for name, row in rows.items():
        cells = [f"{row[f'lstm {length}']:.2f}" for length in LENGTHS]
        for kind in ("loop", "form"):
            if kind == "form":
                cells.append(row.get("form", ""))
            cells.extend(f"{row[f'{kind} {length}']:.1f}" if f"{kind} {length}" in row else "" for length in LENGTHS)
        yield f"| `{name}` | {' | '.join(cells)} |"


def written(document: str, name: str, lines: Iterator[str]) -> str:
    """``document`` with the table of ``lines`` between its marks ``name`` and the end.

    A cell without a line keeps the one that it has there.
    """
    begin, end = f"<!-- scripts/cells: {name} -->\n", "<!-- end -->\n"
    before, mark, rest = document.partition(begin)
    if not mark or end not in rest:
        raise SystemExit(f"scripts/cells: the document has no line {begin.strip()}, followed by {end.strip()}")
    old, _, after = rest.partition(end)
    head, *new = lines
    by_cell = {line.split("`")[1]: line for line in [*old.splitlines(), *new] if line.startswith("| `")}
    rows = [by_cell[cell] for cell in CELLS if cell in by_cell]
    return before + begin + "\n".join([head, "|---" * (head.count("|") - 1) + "|", *rows]) + "\n" + end + after


def main() -> None:
    document, anew = Path(sys.argv[1]), set(sys.argv[2:])
    names = [name for name in CELLS if name != "torchrecurrent"]
    if unknown := anew - set(names):
        raise SystemExit(f"scripts/cells: there is no cell {', '.join(sorted(unknown))}: one of {', '.join(names)}")
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    version = sources()
    rows: dict[str, Row] = {}
    for name in names:
        row = kept.get(name)
        if row is None and anew and name not in anew:
            continue  # it keeps its lines of the document
        # A row that is named is made anew; the others keep theirs, whatever it was made of.
        if row is None or name in anew or (not anew and row["sources"] != version):
            row = {**forked(memory, name), **forked(measured, name), "sources": version}
            kept[name] = row
            FILE.parent.mkdir(exist_ok=True)
            part = FILE.with_suffix(".part")
            part.write_text(json.dumps(kept, indent=1))
            part.replace(FILE)
            print(name, *(f"{row[f'lstm {length}']:.2f}" for length in LENGTHS), flush=True)
        rows[name] = row
    text = written(document.read_text(), "state", state_table(rows))
    document.write_text(written(text, "speed", speed_table(rows)))
    print(document)


if __name__ == "__main__":
    main()
