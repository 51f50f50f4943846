"""Runs, readings and reports drawn, in the report's style. A plot shows itself, and writes a file when asked to."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ...report import figures, statistics
from ...report.collect import Collection
from ...report.figures import score as score_figure
from ...report.figures import style
from ...report.figures.axes import length_axis, new_figure, power_of_ten, score_axis
from ...report.figures.base import Plot as Drawing
from ...report.figures.base import TaskRuns, Traces, colours
from ...report.figures.curves import Measure
from ...report.figures.marks import finite, legend
from ...report.figures.output import Drawn, render
from ...report.figures.traced import draw as draw_trace
from ...report.levels import by_length, levels
from ...report.wording import clean, file_name
from ...runs.files import RunError
from ...runs.summary import Summary
from ...tracing.model_trace import ModelTrace
from ..config.errors import ConfigError, nearest
from ..terminal.reader.views import Scene
from .errors import front_door

MOST = style.LABELS_AT_MOST
"""Runs in one figure: as many as have a colour of their own."""

SUFFIXES = ("svg", "png", "pdf")


class DisplayedPlot:
    """A figure that shows itself. ``plot.save("name.svg")`` writes it (``.png`` and ``.pdf``, too); ``plot.figure`` is
    matplotlib's, to go on with. ``alt``: what it shows, in words."""

    def __init__(self, draw: Callable[[], Figure], alt: str) -> None:
        self._draw, self.alt = draw, alt

    @cached_property
    def figure(self) -> Figure:
        with mpl.rc_context(style.MATPLOTLIB):
            return self._draw()

    @cached_property
    def _drawn(self) -> Drawn:
        return render(self._draw)

    @front_door
    def save(self, path: str | Path) -> Path:
        """Write it; the name's end says as what. Returns the path.

        Raises:
            ValueError: no such kind of file.
            seqmem.RunError: it cannot be written.
        """
        path = Path(path)
        kind = path.suffix.removeprefix(".").lower()
        if kind not in SUFFIXES:
            raise ConfigError(f"{path}: a plot is saved as {', '.join(f'.{one}' for one in SUFFIXES)}")
        try:
            if kind == "pdf":
                with mpl.rc_context(style.MATPLOTLIB):
                    self._draw().savefig(path)
            else:
                path.write_bytes(getattr(self._drawn, kind))
        except OSError as error:
            raise RunError(f"cannot write to {path}: {error.strerror or error}") from error
        return path

    def __repr__(self) -> str:
        return f"<plot: {self.alt} Its save('name.svg') writes it.>"

    def _repr_html_(self) -> str:
        # As an image: the identifiers inside the markup of two figures of one notebook would meet.
        data = b64encode(self._drawn.svg).decode()
        css = "max-width:100%;background:#fff"
        return f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(self.alt)}" style="{css}">'


# Runs


def of_runs(runs: Sequence[Summary]) -> DisplayedPlot:
    """Runs of one task: scores while they trained, gradient by timesteps back, scores by tested length.

    Raises:
        ConfigError: they are of several tasks, or more than ``MOST``, or none.
    """
    if not runs:
        raise ConfigError("there is no run to draw")
    if len(tasks := list(dict.fromkeys(run.task for run in runs))) > 1:
        raise ConfigError(f"runs of {', '.join(tasks)} cannot share a figure: draw each task's, or seqmem.report(...)")
    if len(runs) > MOST:
        raise ConfigError(f"{len(runs)} runs are too many for one figure, at most {MOST}; seqmem.report has more")
    labels = _labels(runs)
    scores = [[(row["step"], row["score"]) for row in run.run.metrics() if row.get("kind") == "eval"] for run in runs]
    words = [
        f"{label}: {run.scale.metric.name} {'none yet' if run.score is None else run.scale.metric.text(run.score)}"
        for label, run in zip(labels, runs, strict=True)
    ]
    alt = f"{clean(runs[0].task)}, scores while it trained, gradient, scores by length. {'; '.join(words)}."
    return DisplayedPlot(lambda: _draw_runs(runs, labels, scores), alt)


def _labels(runs: Sequence[Summary]) -> list[str]:
    """As short as tells them apart."""
    cells = [run.cell for run in runs]
    lengths = [f"{run.cell} at {run.seq_len}" for run in runs]
    seeds = [f"{run.cell} seed {run.seed}" for run in runs]
    both = [f"{run.cell} at {run.seq_len} seed {run.seed}" for run in runs]
    hashes = [f"{run.cell} {run.run.path.name[-8:]}" for run in runs]
    return next((some for some in (cells, lengths, seeds, both) if len(set(some)) == len(runs)), hashes)


def _draw_runs(runs: Sequence[Summary], labels: Sequence[str], scores: Sequence[Sequence[tuple[int, float]]]) -> Figure:
    figure, ((learning, gradient, tested),) = new_figure(style.WIDE, 245, columns=3)
    first = runs[0]
    everything = [score for one in scores for _, score in one]
    lengths = sorted({length for run in runs for length in run.by_length})
    for number, (run, looks) in enumerate(zip(runs, scores, strict=True)):
        colour, marker = style.paint(number)
        learning.plot([step for step, _ in looks], finite([score for _, score in looks]), color=colour, lw=1.8)
        _draw_gradient(gradient, run, colour, both=len(runs) == 1)
        xs = list(run.by_length)
        learned = finite(list(run.by_length.values()))
        tested.plot(xs, learned, color=colour, lw=1.8, marker=marker, ms=4)
        if run.seq_len in run.by_length:
            here = run.by_length[run.seq_len]
            tested.plot([run.seq_len], finite([here]), marker="o", ms=9, mfc="none", mec=style.INK, lw=0)
    learning.set_title("while it trained")
    learning.set_xlabel("updates")
    learning.set_ylabel(clean(first.scale.metric.name, 40))
    learning.set_xlim(left=0)
    learning.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    trained = levels(runs, {run.seq_len for run in runs})
    score_axis(learning, Measure(first.scale.metric, first.scale.solved_at, by_length(trained)), everything)
    gradient.set_title("gradient after training" if len(runs) > 1 else "gradient (dashed: before)")
    gradient.set_xlabel("timesteps back")
    gradient.set_xlim(left=0)
    gradient.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    gradient.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    gradient.yaxis.set_major_formatter(FuncFormatter(power_of_ten))
    low, high = gradient.get_ylim()
    gradient.set_ylim(max(min(low, -3.3), -12.3), min(max(high, 0.3), 4.3))
    tested.set_title("by length (circle: trained)")
    tested.set_xlabel("timesteps")
    length_axis(tested, lengths, room=0.2)
    measure = Measure(first.scale.metric, first.scale.solved_at, levels(runs, lengths))
    score_axis(tested, measure, [score for run in runs for score in run.by_length.values()])
    legend(figure, [(clean(label, 60), number) for number, label in enumerate(labels)])
    return figure


def _draw_gradient(axes: Any, run: Summary, colour: str, *, both: bool) -> None:
    stages = [when for when in ("start", "end") if when in run.profiles] if both else ["end"] * ("end" in run.profiles)
    for when in stages:
        back = np.asarray(run.profiles[when])[::-1]
        values = np.where(np.isfinite(back), back, np.nan)
        before = when == "start" and len(stages) > 1
        axes.plot(
            np.arange(1, len(values) + 1),
            values,
            color=colour,
            lw=1.2 if before else 1.8,
            ls=(0, (3, 2)) if before else "-",
        )


# Any model


def of_trace(trace: ModelTrace) -> DisplayedPlot:
    """The gradient by timesteps back from the answer, a line for each layer; at most ``MOST`` of them."""
    profiles = dict(list(trace.profiles().items())[:MOST])
    decays = trace.decays()
    words = "; ".join(f"{path}: {decays[path]['state'].in_words()}" for path in profiles)
    more = len(trace.parts) - len(profiles)
    alt = f"Gradient of {clean(trace.of)}, by timesteps back. {clean(words, 400)}{f'; {more} more' if more else ''}."
    return DisplayedPlot(lambda: draw_trace(profiles), alt)


# Readings


def of_reading(scene: Scene) -> DisplayedPlot:
    """Probability of the right answer after every word; where numbers are predicted, the first of them."""
    verdicts = {True: "right", False: "wrong", None: "undecided"}
    words = "; ".join(
        f"{clean(label, 60)} {verdicts[one.is_right]}" for label, one in zip(scene.labels, scene.readings, strict=True)
    )
    return DisplayedPlot(lambda: _draw_reading(scene), f"{clean(scene.task.name)}, {clean(scene.name)}: {words}.")


def _draw_reading(scene: Scene) -> Figure:
    figure, ((axes,),) = new_figure(style.WIDE, 260)
    steps = np.arange(1, len(scene) + 1)
    shares = True
    for number, reading in enumerate(scene.readings):
        colour, marker = style.paint(number)
        values = reading.confidence
        if values is None:
            shares = reading.answers is not None
            values = reading.outputs.max(1) if shares else reading.outputs[:, 0]
        axes.plot(steps, finite(list(values)), color=colour, lw=1.8, marker=marker, ms=3.5, clip_on=False)
    first = scene.readings[0]
    if not shares and first.right is not None:
        asked = np.flatnonzero(first.asked)
        right = np.asarray(first.right).reshape(len(scene), -1)[asked, 0]
        axes.plot(steps[asked], right, "x", color=style.INK, ms=8, mew=1.8)
    if shares:
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.set_ylabel("sure of the right answer" if first.right is not None else "sure of the likeliest answer")
    else:
        axes.set_ylabel("predicted (cross: right)")
    axes.set_xlim(0.5, len(scene) + 0.5)
    axes.set_xlabel(f"{scene.unit}s")
    if len(scene) <= 40:
        words = [clean(word, 14) for word in scene.words]
        slanted = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if max(map(len, words)) > 2 else {}
        axes.set_xticks(steps, words, **slanted)
        axes.set_xlabel("")
    legend(figure, [(clean(label, 60), number) for number, label in enumerate(scene.labels)])
    return figure


# Reports


def of_report(collection: Collection, threshold: float | None) -> dict[str, DisplayedPlot]:
    plots = {}
    for runs in _tasks(collection, threshold):
        for kind in figures.in_drawing_order():
            for drawing in kind.plots(runs):
                plots[file_name(f"{runs.name} {drawing.name}", plots)] = _plot(drawing)
    return plots


def scores_of_report(collection: Collection, threshold: float | None, task: str | None) -> DisplayedPlot:
    """The scores by trained length of one task.

    Raises:
        ConfigError: there is no such task, or nothing to draw.
    """
    names = collection.tasks
    if not names:
        raise ConfigError("there is no finished run to draw")
    chosen = names[0] if task is None else task
    if chosen not in names:
        raise ConfigError(f"there is no task '{chosen}' here.{nearest(chosen, names)} One of: {', '.join(names)}")
    runs = next(runs for runs in _tasks(collection, threshold) if runs.name == chosen)
    drawing = next(iter(score_figure.plots(runs)), None)
    if drawing is None:
        raise ConfigError(f"there is no score of {chosen} to draw")
    return _plot(drawing)


def _tasks(collection: Collection, threshold: float | None) -> list[TaskRuns]:
    pairs, splits = statistics.comparisons(collection, threshold), statistics.two_groups(collection, threshold)
    numbers, traces = colours(collection), Traces(collection)
    return [
        TaskRuns(
            [group for group in collection.groups if group.task == name],
            numbers,
            threshold,
            traces,
            [pair for pair in pairs if pair.a.task == name],
            [split for split in splits if split.group.task == name],
        )
        for name in collection.tasks
    ]


def _plot(drawing: Drawing) -> DisplayedPlot:
    return DisplayedPlot(drawing.draw, f"{drawing.caption} {drawing.alt}")
