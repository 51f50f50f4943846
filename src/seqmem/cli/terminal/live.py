"""What is shown of a run while it trains, and when it is finished.

On a terminal, one live picture: progress, loss and score against chance, the gradient over timesteps. Anywhere else,
and for the jobs of a sweep, plain lines.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from numpy import ndarray
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...decay import profile
from ...printable import to_nowhere
from ...runs.directory import RunDirectory
from ...runs.summary import read
from ...solved import solved_words
from ..config.choose import OUTPUTS
from ..config.commands import command
from ..config.errors import print_error
from .pages import LABEL, WIDEST, page
from .strip import Marks, bar, columns, fitted, legend, marks, say, strip_line
from .words import here

if TYPE_CHECKING:  # torch takes seconds, and help and completion pass through here
    import seqmem.measurement
    import seqmem.metrics
    import seqmem.probes.base
    import seqmem.training.plan

_LINES = 10
"""Plain lines of a run; a slow run also gets one every ``_PATIENCE`` seconds."""

_PATIENCE = 30.0


@dataclass(frozen=True)
class RunInfo:
    """What is known about a run when its training starts.

    Args:
        chance, baseline_loss: of the best answer without a memory.
        solved_at: the score from which on the task counts as solved; None: it has no rule.
        first_step: the step at which a resumed run goes on.
        prefix: in front of every line of a job in a sweep. With one there is never a live picture.
        begins: which weights it has before training, ``first_weights``.
    """

    title: str
    metric: "seqmem.metrics.Metric"
    chance: float
    baseline_loss: float
    steps: int
    solved_at: float | None = None
    first_step: int = 0
    prefix: str = ""
    quiet: bool = False
    begins: str = "untrained"


class Rate:
    """Steps per second, over the last 30 reports."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._reports: deque[tuple[float, int]] = deque(maxlen=30)  # (time, step)

    def add(self, step: int) -> None:
        self._reports.append((self._clock(), step))

    @property
    def value(self) -> float | None:
        """None: there are too few reports."""
        if len(self._reports) < 2:
            return None
        (start, first), (end, last) = self._reports[0], self._reports[-1]
        return (last - first) / (end - start) if end > start and last > first else None


class Display:
    """An observer of ``seqmem.training.loop.train``, to be used in a ``with``."""

    def __init__(self, console: Console, run: RunInfo, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock, self._marks = console, clock, marks(console)
        self._title, self._prefix, self._quiet = run.title, run.prefix, run.quiet
        self._metric, self._chance, self._baseline_loss = run.metric, run.chance, run.baseline_loss
        self._goal, self._begins = run.solved_at, run.begins
        self._step, self._first, self._steps = run.first_step, run.first_step, run.steps
        self._rate = Rate(clock)
        self._loss: float | None = None
        self._score: float | None = None
        self._measured: dict[str, _Measured] = {}  # by probe
        self._printed_at, self._printed_tenth, self._line_due = clock(), -1, False
        live = not run.quiet and not run.prefix and moving(console)
        self._live = Live(get_renderable=self.picture, console=console, refresh_per_second=4) if live else None
        self.unread = False
        """The reader of the output is gone, as in ``seqmem train | head -1``."""

    def __enter__(self) -> "Display":  # noqa: PYI034  the tests' type checker knows no Self in single methods
        if self._live is not None:
            self._live.start()
        elif not self._prefix:
            going_on = f", going on at step {self._first}" if self._first else ""
            self._print(f"{self._title}: {self._steps} steps{going_on}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        if self._live is not None:
            self._live.stop()

    # Reports of the training

    def logged(self, step: int, kind: Literal["train", "eval"], values: Mapping[str, float]) -> None:
        self._flush()
        self._step = step
        self._rate.add(step)
        if kind == "train" or self._loss is None:
            self._loss = values["loss"]
        if kind == "eval":
            self._score = values["score"]
        self._line_due = self._live is None and self._due(kind)

    def measured(
        self, step: int, probe: "seqmem.probes.base.Probe", measurement: "seqmem.measurement.Measurement"
    ) -> None:
        # A run may be measured a thousand times a second; the live picture draws it four times a second.
        former = self._measured.get(probe.name)
        first = measurement if step == 0 else None if former is None else former.first
        self._measured[probe.name] = _Measured(probe, step, measurement, first, self._begins)
        self._flush()

    def answered(self, step: int, batch: object, predicted: object) -> None:
        """Answers to single questions are shown in TensorBoard."""

    def finished(self, step: int, result: "seqmem.training.plan.Result") -> None:
        self._flush()
        self._step, self._score, self._loss = step, result.score, result.loss
        if self._live is not None:
            self._live.transient = True  # the summary that follows has the same, in more detail
        elif self._prefix:
            self._print(self.outcome(result))

    def outcome(self, result: "seqmem.training.plan.Result") -> str:
        """``finished  accuracy 100.0 % (chance 25.0 %)  solved at step 150  gradient arriving 35 %``"""
        solved = None if self._goal is None else self._metric.reached(result.score, self._goal)
        words = solved_words(result.steps_to_solve, solved=solved)
        return _joined("finished", self._scores(), words, self._brief())

    # Plain lines

    def _flush(self) -> None:
        """Print the line that is due. A line is printed late, so that it includes the trace of its step."""
        if self._line_due:
            self._line_due = False
            self._print(self._line())

    def _due(self, kind: str) -> bool:
        """Print a line at every tenth of the run, and in between where a tenth takes long."""
        tenth = self._step * _LINES // self._steps
        waited = self._clock() - self._printed_at
        if not (kind == "eval" and (tenth > self._printed_tenth or waited > _PATIENCE)) and waited < 2 * _PATIENCE:
            return False
        self._printed_at, self._printed_tenth = self._clock(), tenth
        return True

    def _line(self) -> str:
        chance = _loss_text(self._baseline_loss)
        loss = f"loss {_loss_text(self._loss)} (chance {chance})" if self._loss is not None else ""
        speed = speed_text(rate) if (rate := self._rate.value) else ""
        step = f"step {self._step:>{len(str(self._steps))}}/{self._steps}"
        return _joined(step, loss, self._scores(), speed, self._brief())

    def _scores(self) -> str:
        if self._score is None:
            return ""
        text = self._metric.text
        return f"{self._metric.name} {text(self._score)} (chance {text(self._chance)})"

    def _brief(self) -> str:
        """The first number of every probe."""
        return _joined(*(one.brief() for one in self._measured.values()))

    def _print(self, line: str) -> None:
        """Print in one write, so that jobs which share a terminal or a file do not break each other's lines."""
        if self._quiet or self.unread:
            return
        text = f"{self._prefix}{line}"
        try:
            self._console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False, style=None)
        except (OSError, SystemExit) as error:  # rich raises SystemExit; the run has to save itself first
            self.unread = True
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                to_nowhere(self._console.file)
                print_error(f"{self._prefix or 'seqmem train: '}the output: {error.strerror}; the run saves itself")

    # The live picture

    def picture(self) -> RenderableType:
        """The live picture: progress, numbers, and strips of the first and the latest trace."""
        width = min(self._console.width, WIDEST)
        parts: list[RenderableType] = [Text(fitted(self._title, width, self._marks), "bold"), self._progress(width)]
        parts += self._numbers(width)
        parts += self._strips(width)
        return Group(*parts)

    def _progress(self, width: int) -> RenderableType:
        rate = self._rate.value
        speed = f"  {speed_text(rate)}" if rate else ""
        left = f"  {clock_text((self._steps - self._step) / rate)} left" if rate else ""
        if self._step >= self._steps:
            speed, left = "", "  measuring"
        text = Text(f"step {self._step}/{self._steps}{speed}{left}", "cyan", no_wrap=True)
        line = Table.grid(padding=(0, 2, 0, 0))
        room = max(8, width - 2 - max(text.cell_len, 38))  # 38: so that the bar keeps its length as numbers grow
        line.add_row(ProgressBar(self._steps, self._step, width=room, complete_style="cyan", style="dim"), text)
        return line

    def _numbers(self, width: int) -> list[Text]:
        """Loss and score as bars, with a mark at chance."""
        rows = []
        room = max(8, min(40, width - 48))
        metric = self._metric
        if self._loss is not None:
            share, goal = _below(self._loss, self._baseline_loss)
            drawn = bar(share, goal, self._marks, room, "cyan")
            rows.append([Text("loss"), Text(_loss_text(self._loss)), drawn, _loss_text(self._baseline_loss)])
        if self._score is not None:
            share, goal = (self._score, self._chance) if metric.percent else _below(self._score, self._chance)
            drawn = bar(share, goal, self._marks, room, "green" if metric.better(self._score, self._chance) else "cyan")
            label = metric.name if len(metric.name) <= LABEL else "score"
            rows.append([Text(label), Text(metric.text(self._score), "bold"), drawn, metric.text(self._chance)])
        for row in rows:
            row[0].stylize("dim")
            row[0].pad_right(LABEL - row[0].cell_len - 1)
            row[3] = Text(f"chance {row[3]}", "dim")
        return columns(rows, right={1}) if rows else []

    def _strips(self, width: int) -> list[Text]:
        return [line for one in self._measured.values() for line in one.lines(self._marks, width)]


@dataclass
class _Measured:
    """The latest measurement of a probe, and the one before training; ``begins``: which weights that is of."""

    probe: "seqmem.probes.base.Probe"
    step: int
    latest: "seqmem.measurement.Measurement"
    first: "seqmem.measurement.Measurement | None"
    begins: str

    def _numbers(self) -> "list[tuple[seqmem.measurement.Number, float]]":
        description = self.probe.description()
        values = description.of_main(self.latest.scalars)
        return [(number, values[name]) for name, number in description.shown().items() if name in values]

    def brief(self) -> str:
        """``gradient arriving 35 %``"""
        return next((f"{number.title} {number.brief(value)}" for number, value in self._numbers()), "")

    def lines(self, have: Marks, width: int) -> list[Text]:
        """A strip for the main series before training and one for it now, then the numbers."""
        stages = {} if self.first is None else {self.begins: self.first}
        if self.step:
            stages[f"step {self.step}"] = self.latest
        profiles = {note: self._profile(one) for note, one in stages.items()}
        drawn = {note: values for note, values in profiles.items() if values is not None}
        lines: list[Text] = []
        longest = max(map(len, drawn), default=0)
        for note, values in drawn.items():
            strip = strip_line(have, values, width - LABEL - 1, note.ljust(longest))
            lines.append(Text.assemble(("" if lines else self.probe.name, "dim"), no_wrap=True))
            lines[-1].pad_right(LABEL + 1 - lines[-1].cell_len)
            lines[-1].append_text(strip)
        if drawn:
            lines.append(Text.assemble(" " * (LABEL + 1), legend(have, *drawn.values()), no_wrap=True))
        line = Text(no_wrap=True)
        for number, value in self._numbers():
            title = number.short.ljust(LABEL + 1) if not line.plain else f"   {number.short}  "
            line.append(title, "dim").append(number.words(value), "bold")
        return [*lines, line] if line.plain else lines

    def _profile(self, measurement: "seqmem.measurement.Measurement") -> "ndarray | None":
        """The main series from the first timestep to the answer; None where it is not measured by that."""
        series = {**self.probe.combined(measurement.series), **measurement.series}
        if measurement.answered_at is None or self.probe.main not in series:
            return None
        return profile(series[self.probe.main], measurement.answered_at)


def _below(value: float, chance: float) -> tuple[float, float | None]:
    """(share of a bar, position of chance on it) of a value that should become small."""
    return (value / chance * 0.8, 0.8) if chance > 0 else (0.0, None)


def moving(console: Console) -> bool:
    """True where a live picture can be drawn. FORCE_COLOR makes rich treat a pipe as a terminal, for colours only."""
    return console.is_interactive and ("FORCE_COLOR" not in os.environ or console.file.isatty())


def _joined(*parts: str) -> str:
    return "  ".join(part for part in parts if part)


def _loss_text(loss: float) -> str:
    return f"{loss:.3f}" if abs(loss) < 1000 else f"{loss:.4g}"


def speed_text(rate: float) -> str:
    return f"{rate:.3g} steps/s" if rate < 1000 else f"{rate:.0f} steps/s"


def clock_text(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def print_summary(console: Console, run: RunDirectory) -> None:
    """A run's result, and commands to type next.

    Raises:
        RunError: a file of the run cannot be read.
    """
    summary = read(run)
    say(console, Text(), *page(summary, console))
    path = here(run.path)
    folder = path.parent.parent  # outputs/TASK/CELL/NAME: the runs of this task
    root = folder.parent
    commands = [
        (command("watch", *([] if root == OUTPUTS else [root])), "every curve in TensorBoard"),
        (command("show", folder), f"all runs of {summary.task} side by side"),
        (command("read", path), "a sentence, word by word"),
    ]
    chosen = summary.config.get("evaluate", {}).get("lengths")
    if chosen or max(summary.by_length, default=0) > summary.seq_len:  # else the task has no longer sequences
        commands.append((command("eval", path, f"seq_len={8 * summary.seq_len}"), "other lengths"))
    room = console.width - LABEL - 1
    widest = max((len(line) for line, why in commands if len(line) + 2 + len(why) <= room), default=0)
    for i, (words, why) in enumerate(commands):
        line = Text.assemble(("" if i else "next", "dim"))
        line.pad_right(LABEL + 1 - line.cell_len)
        line.append(words, "bold")
        if len(words) <= widest and widest + 2 + len(why) <= room:
            line.append(" " * (widest - len(words) + 2) + why, "dim")
        say(console, line)
