"""Make the pictures and the equations of docs/cells/; called by scripts/families as families.py cells, which prints
their names, and families.py RUNS DOCS.

Axes: T timesteps of a sentence, K timesteps back from the answer.
"""

import inspect
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from seqmem.cells import CELLS
from seqmem.cli.config.trained import trained
from seqmem.lookback import mean_over
from seqmem.reading import read as read_sequence
from seqmem.reading import sentence
from seqmem.report.collect import Group, collect
from seqmem.report.figures import profiles
from seqmem.report.figures.base import Traces
from seqmem.report.figures.style import COLOURS
from seqmem.runs.directory import RunDirectory

MARK = re.compile(r"(?<=<!-- equations: )\w+(?= -->)")
BLOCK = re.compile(r"(<!-- equations: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

LENGTH, SENTENCE = 30, 3
"""A sentence that fits a picture: shorter than those of training."""

STYLES = ("-", "--")
"""The eighth line of a panel has the first colour again."""


def names() -> list[str]:
    return [name for name in CELLS if name != "torchrecurrent"]


def equations(name: str) -> str:
    """The docstring of a cell's module: its equations and its paper, as Markdown."""
    module = inspect.getmodule(CELLS[name])
    text = inspect.getdoc(module)
    assert text is not None  # a law of the cells
    return re.sub(r"\n*Axes: .*", "", text, flags=re.DOTALL)


def with_equations(page: str) -> str:
    """The page with the equations between its marks as the cells have them."""
    return BLOCK.sub(lambda match: f"{match[1]}\n{equations(match[2])}\n\n{match[3]}", page)


def curves(page: str, groups: dict[str, Group], traces: Traces, picture: Path) -> None:
    """Two panels of gradients, and below what the last answer's state is made of, or looks at."""
    cells = MARK.findall(page)
    read = {name: profiles.collect(traces, groups[name], [100]) for name in cells}
    lines = {name: {stage.title: stage.lines[0] for stage in one.stages} for name, one in read.items() if one}
    shares = {name: row for name in cells if (row := looked(groups[name])) is not None}
    strips = len(shares) if 2 * len(shares) >= len(cells) else 0
    heights = [3.2, *([0.25 * strips + 0.5] if strips else [])]
    figure = plt.figure(figsize=(9, sum(heights) + 0.6), layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    titles = ("before training", "after training")
    ends = profiles.ends_of(line.median for one in lines.values() for title, line in one.items() if title in titles)
    for column, title in enumerate(titles):
        axes = figure.add_subplot(grid[0, column])
        for at, (name, stages) in enumerate(lines.items()):
            line = stages[title]
            steps = np.arange(1, len(line.median) + 1)
            style = STYLES[at // len(COLOURS)]
            axes.plot(steps, line.median, style, color=COLOURS[at % len(COLOURS)], lw=1.8, label=name)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("timesteps back from the answer")
        axes.set_xlim(0, 100)
        axes.yaxis.set_major_formatter(lambda value, _: profiles.power_of_ten(value))
        axes.yaxis.get_major_locator().set_params(integer=True)  # pyright: ignore[reportCallIssue]
        axes.set_ylim(*ends)
        axes.grid(color="#d9dde2", lw=0.7)
        if not column:
            axes.set_ylabel("gradient, relative to one step back")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=8, frameon=False, fontsize=9)
    if strips:
        axes = figure.add_subplot(grid[1, :])
        rows = np.array([row for row, _ in shares.values()])
        words = next(iter(shares.values()))[1]
        axes.imshow(rows / rows.max(1, keepdims=True), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_yticks(range(strips), list(shares))
        axes.set_xticks(range(len(words)), words, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        title = "share of each word, seen from the answer; the darkest of a row is its largest"
        axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(picture, dpi=100)
    plt.close(figure)


def looked(group: Group) -> tuple[np.ndarray, list[str]] | None:
    """What the first seed's model looks back at from the answer, [T], and the words; None: this cell tells nothing."""
    made = trained(RunDirectory(group.at(100)[0].path))
    reading = read_sequence(made.model, made.task, sentence(made.task, LENGTH, number=SENTENCE), gradient=False)
    if not reading.attention:
        return None
    return mean_over(next(iter(reading.attention.values())), len(reading) - 1), reading.words


def main() -> None:
    if sys.argv[1:] == ["cells"]:
        print(",".join(names()))
        return
    runs, docs = map(Path, sys.argv[1:])
    collection = collect([runs])
    groups, traces = {group.label: group for group in collection.groups}, Traces(collection)
    for path in sorted(docs.glob("*.md")):
        page = with_equations(path.read_text())
        path.write_text(page)
        curves(page, groups, traces, path.with_suffix(".png"))
        print(path)


if __name__ == "__main__":
    main()
