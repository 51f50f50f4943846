"""The display of a running sweep on one machine.

On a terminal, one live picture: how many runs are done, running, failed, skipped and waiting, the time left, and a line
for each running run. Otherwise, the lines of the runs themselves.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal

import rich.console
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...runs.settings import own_name
from ..terminal.console import Console
from ..terminal.live import Rate, RunInfo, clock_text, moving, speed_text
from ..terminal.strip import fitted, marks
from .jobs import Job, Lines, Outcome, Progress, View, prefixed

_OFTEN = 0.2
"""Seconds between two reports of a job: the refresh interval of the picture."""

_TIMESTEPS = 25
"""The fixed cost of a training step, in timesteps."""

_BAR = 24
_WIDEST = 160


def cost(job: Job) -> float:
    """The relative duration of a job, in arbitrary units."""
    return float(job.settings["steps"]) * (float(job.settings["seq_len"]) + _TIMESTEPS)


class Reporter:
    """An observer of a training run that sends its progress instead of drawing it as ``live.Display`` does."""

    unread = False

    def __init__(
        self, send: Callable[[Progress], Any], run: RunInfo, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._metric, self._clock = send, run.metric, clock
        self._now = Progress(run.first_step, run.steps, run.first_step, chance=run.metric.text(run.chance))
        self._rate = Rate(clock)
        self._sent_at = float("-inf")

    def __enter__(self) -> "Reporter":  # noqa: PYI034  the tests' type checker knows no Self in single methods
        self._tell(self._now)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to close."""

    def logged(self, step: int, kind: Literal["train", "eval"], values: Mapping[str, float]) -> None:
        self._rate.add(step)
        self._now = replace(self._now, step=step, rate=self._rate.value or self._now.rate)
        if kind == "eval":
            self._now = replace(self._now, score=self._metric.text(values["score"]))
        if self._clock() - self._sent_at >= _OFTEN:
            self._tell(self._now)

    def _tell(self, progress: Progress) -> None:
        self._sent_at = self._clock()
        self._send(progress)

    def measured(self, step: int, probe: object, measurement: object) -> None:
        """Measurements are not shown."""

    def answered(self, step: int, batch: object, predicted: object) -> None:
        """Answers are not shown."""

    def finished(self, step: int, result: Any) -> None:
        self._tell(replace(self._now, step=step, score=self._metric.text(result.score)))


@dataclass
class _Running:
    job: Job
    since: float
    now: Progress | None = None


class Overview:
    """A view that draws one live picture.

    Args:
        jobs: the whole sweep's. ``done``: the outcomes of jobs whose runs were finished before.
        workers: concurrent jobs.
    """

    live = True

    def __init__(
        self,
        console: rich.console.Console,
        jobs: Sequence[Job],
        done: Sequence[Outcome],
        workers: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.unread = False
        self._console, self._workers, self._clock = console, max(workers, 1), clock
        self._marks = marks(console)
        before = {outcome.number for outcome in done}
        self._waiting = {job.number: job for job in jobs if job.number not in before}
        self._running: dict[int, _Running] = {}
        self._counts = Counter(skipped=len(before))
        self._total = len(jobs)
        self._speeds: dict[str, tuple[float, float]] = {}  # cell -> (cost of its jobs so far, seconds they took)
        self._live = Live(get_renderable=self.picture, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Overview":  # noqa: PYI034
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def skipped(self, job: Job) -> None:
        self._waiting.pop(job.number, None)
        self._counts["skipped"] += 1

    def started(self, job: Job) -> None:
        self._running = {**self._running, job.number: _Running(self._waiting.pop(job.number), self._clock())}

    def progress(self, number: int, progress: Progress) -> None:
        if (running := self._running.get(number)) is not None:
            running.now = progress

    def ended(self, job: Job, outcome: Outcome | None) -> None:
        running = self._running[job.number]
        self._running = {number: other for number, other in self._running.items() if number != job.number}
        if outcome is None:
            self._waiting[job.number] = job
            return
        self._counts[outcome.state] += 1
        if outcome.state == "finished":
            paid, seconds = self._speeds.get(_cell(job), (0.0, 0.0))
            share = 1 - running.now.first / running.now.steps if running.now is not None else 1.0
            self._speeds[_cell(job)] = paid + share * cost(job), seconds + self._clock() - running.since

    def say(self, job: Job | None, text: str, *, error: bool = False) -> None:
        line = Text.from_ansi(
            prefixed(job, text).rstrip("\n"), style="red" if error else ""
        )  # a class may print colours
        self._console.print(line, soft_wrap=True)

    def seconds_left(self) -> float | None:
        """Estimated from finished and running jobs, preferably of the same cell; None: no data yet."""
        now, speeds = self._clock(), dict(self._speeds)
        for running in self._running.values():
            if running.now is not None and running.now.step > running.now.first:
                paid, seconds = speeds.get(_cell(running.job), (0.0, 0.0))
                share = (running.now.step - running.now.first) / running.now.steps
                speeds[_cell(running.job)] = paid + share * cost(running.job), seconds + now - running.since
        paid, seconds = (sum(column) for column in zip(*speeds.values(), strict=True)) if speeds else (0.0, 0.0)
        if not paid or not seconds:
            return None

        def needs(job: Job, share: float) -> float:
            mine, took = speeds.get(_cell(job), (paid, seconds))
            return share * cost(job) * (took / mine if mine else seconds / paid)

        left = [needs(job, 1.0) for job in self._waiting.values()]
        left += [
            needs(running.job, 1 - running.now.step / running.now.steps if running.now is not None else 1.0)
            for running in self._running.values()
        ]
        return max([sum(left) / self._workers, *left]) if left else 0.0

    def picture(self) -> RenderableType:
        width = min(self._console.width, _WIDEST)
        running = [self._running[number] for number in sorted(self._running)]
        room = max(1, self._console.height - 4)
        lines = [self._running_line(each, width) for each in running[:room]]
        if len(running) > room:
            lines.append(Text(f"{self._marks.ellipsis} and {len(running) - room} more", "dim"))
        return Group(self._head(width, len(running)), *lines)

    def _head(self, width: int, running: int) -> RenderableType:
        over = self._counts["finished"] + self._counts["skipped"]
        parts = [f"{over} of {self._total} done", f"{running} running"]
        failed = self._counts["failed"] + self._counts["lost"]
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{self._counts['skipped']} of them before"] if self._counts["skipped"] else []
        parts += [f"{len(self._waiting)} waiting"]
        left = self.seconds_left()
        parts += [f"{clock_text(left)} left"] if left is not None else []
        text = Text("  ".join(parts), "bold", no_wrap=True)
        if failed:
            text.stylize("red", text.plain.index(f"{failed} failed"), text.plain.index(f"{failed} failed") + 8)
        text.truncate(width, overflow="ellipsis" if self._marks.ellipsis == "…" else "crop")
        room = width - text.cell_len - 2
        if room < 8:
            return text
        shown = sum(each.now.step / each.now.steps for each in list(self._running.values()) if each.now is not None)
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_row(
            text,
            ProgressBar(self._total, over + failed + shown, width=min(room, _BAR), complete_style="cyan", style="dim"),
        )
        return line

    def _running_line(self, running: _Running, width: int) -> RenderableType:
        job, now = running.job, running.now
        title = Text(fitted(job.title, max(16, width - 54), self._marks), no_wrap=True)
        title.pad_right(max((len(each.job.title) for each in list(self._running.values())), default=0) - title.cell_len)
        title.truncate(max(16, width - 54))
        if now is None:
            return Text.assemble(title, ("  starting", "dim"), no_wrap=True)
        step = f"{now.step:>{len(str(now.steps))}}/{now.steps}"
        score = f"{now.score:>7} (chance {now.chance})" if now.score else ""
        speed = (speed_text(now.rate) if width >= 100 else f"{now.rate:.3g}/s") if now.rate else ""
        if now.step >= now.steps:
            speed = "measuring"
        text = Text(f"{step}  {score}" + (f"  {speed}" if speed else ""), "cyan", no_wrap=True)
        room = width - title.cell_len - text.cell_len - 4
        line = Table.grid(padding=(0, 2, 0, 0))
        if room < 4:
            text.truncate(max(8, width - title.cell_len - 2))
            line.add_row(title, text)
        else:
            longest = max(text.cell_len, 50 if width >= 100 else 44)  # so that the bar keeps its length
            reserved = max(4, width - title.cell_len - longest - 4)
            bar = ProgressBar(now.steps, now.step, width=min(room, reserved, _BAR), complete_style="cyan", style="dim")
            line.add_row(title, bar, text)
        return line


def _cell(job: Job) -> str:
    return own_name(job.settings["cell"])


def view(
    jobs: Sequence[Job], done: Sequence[Outcome], workers: int, console: rich.console.Console | None = None
) -> View:
    """The live picture if the terminal supports it, else lines. ``done``: outcomes of runs finished before."""
    console = console or Console()
    quiet = all(job.quiet for job in jobs)
    if len(done) < len(jobs) and not quiet and moving(console):
        return Overview(console, jobs, done, workers)
    shown, by_number = Lines(), {job.number: job for job in jobs}
    for outcome in done:
        shown.skipped(by_number[outcome.number])
    return shown
