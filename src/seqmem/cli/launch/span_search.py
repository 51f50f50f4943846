"""The search for a memory span: trains a few ordinary runs per length, and decides by their scores."""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.text import Text

from ...runs.directory import RunDirectory
from ...runs.files import METRICS, SPANS, RunError, open_regular, write_json
from ...runs.result import StoredResult, diverged
from ...runs.settings import identity_hash, own_name
from ...solved import (
    Bounds,
    Solved,
    decided,
    luck,
    search_bounds,
    share_interval,
    solved_after,
    still_needed,
)
from ...span import RESOLUTION, Span
from ..config.errors import ConfigError
from ..config.schema import RunConfig, from_mapping, identity
from ..terminal.console import Console
from . import local
from .jobs import Outcome, job_of
from .one_run import Stopped, run_path

if TYPE_CHECKING:
    from ...metrics import Metric
    from ...tasks import Task


@dataclass
class LengthResult:
    """The results at one length, one per seed that was needed, in the order of the seeds."""

    length: int
    seeds: int
    runs: list[Path] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    steps_to_solve: list[int | None] = field(default_factory=list)
    solved_seeds: list[bool] = field(default_factory=list)

    @property
    def _counts(self) -> tuple[int, int, int]:
        solved = sum(self.solved_seeds)
        return self.seeds, solved, len(self.solved_seeds) - solved

    @property
    def needed(self) -> int:
        return still_needed(*self._counts)

    @property
    def solved(self) -> bool:
        return decided(*self._counts) is True

    @property
    def share(self) -> tuple[float, float]:
        """An interval of the share of all seeds that would solve it, of at least ``solved.LEVEL``.

        Seeds are left out as soon as the others decide, so what is known is how many of all of them solve it at least
        and at most.
        """
        seeds, solved, failed = self._counts
        return share_interval(solved, seeds)[0], share_interval(seeds - failed, seeds)[1]

    def as_json(self) -> dict[str, Any]:
        return {
            "seq_len": self.length,
            "solved": self.solved,
            "solved_seeds": sum(self.solved_seeds),
            "seeds": len(self.solved_seeds),
            "share": list(self.share),
            "scores": self.scores,
            "steps_to_solve": self.steps_to_solve,
            "runs": [str(path) for path in self.runs],
        }


@dataclass
class SpanSearch:
    """The settings, the limits, and the results so far. Lengths are in timesteps, ``budget`` in training steps."""

    overrides: list[str]
    composed: DictConfig
    first: RunConfig
    task: "Task"
    goal: float
    seeds: int
    start: int
    shortest: int
    longest: int
    budget: int
    workers: int | str
    quiet: bool
    results: list[LengthResult] = field(default_factory=list)

    def spent(self) -> int:
        """Steps of all runs so far, including earlier starts, so that a resumed search makes the same decisions."""
        return self.first.steps * sum(len(result.runs) for result in self.results)

    @property
    def metric(self) -> "Metric":
        return self.task.targets.metric

    def file(self) -> Path:
        """The file of the result. The budget is not part of its name, as a larger budget only completes the result."""
        run = run_path(self.first)
        about = {key: value for key, value in identity(self.first).items() if key not in ("seq_len", "seed")}
        limits = {"seeds": self.seeds, "from": self.start, "max": self.longest, "threshold": self.goal}
        name = f"{run.parent.parent.name}-{run.parent.name}-{identity_hash({**about, 'span': limits})}.json"
        return Path(self.first.outputs) / SPANS / name

    def ask(self, length: int) -> bool | None:
        if self.spent() + self.seeds * self.first.steps > self.budget:
            return None
        result = LengthResult(length, self.seeds)
        while needed := result.needed:
            self._run(result, needed)
        self.results.append(result)
        if not self.quiet:
            print(self._row(result), flush=True)
        self.save(None)
        return result.solved

    def _run(self, tried: LengthResult, count: int) -> None:
        """Run the next ``count`` seeds concurrently; all of them are needed for the decision."""
        first = len(tried.runs)
        jobs = []
        for number in range(count):
            overrides = [*self.overrides, f"seq_len={tried.length}", f"seed={first + number}"]
            config = with_length(self.composed, tried.length, first + number)
            config.quiet = True  # the table shows their results
            jobs.append(job_of(number, count, overrides, config))
        missing = [at for at, one in enumerate(jobs) if not one.run.finished or self.first.force]
        outcomes: dict[int, Outcome] = {}
        if missing:
            with _progress(tried.length, [jobs[at].run for at in missing], self.first.steps, quiet=self.quiet):
                done = local.run_jobs([jobs[at] for at in missing], workers=self.workers)
            outcomes = dict(zip(missing, done, strict=True))
        for at, one in enumerate(jobs):
            outcome = outcomes.get(at)
            result = one.run.result()
            status = one.run.status()
            if result is None and outcome is not None and not (status is not None and status.diverged):
                self._stopped(outcome, one.path)
            score = nan if result is None or diverged(result) else float(result["score"])
            tried.runs.append(Path(one.path))
            tried.scores.append(score)
            solved = self.metric.reached(score, self.goal)
            tried.solved_seeds.append(solved)
            first = None if result is None else self._first_reached(one.run, result)
            tried.steps_to_solve.append(solved_after(first, self.first.steps, solved=solved))

    def _first_reached(self, run: RunDirectory, result: StoredResult) -> int | None:
        if self.goal == result["solved_at"]:
            return result["steps_to_solve"]
        return run.first_reached(self.metric, self.goal)

    def _stopped(self, outcome: "Outcome", path: str) -> None:
        """Raise an error with the reason why a run has no result."""
        if outcome.state == "stopped":
            raise Stopped("stopped: the same command goes on from there", outcome.exit_code or 130)
        if outcome.usage:
            raise ConfigError(outcome.error or "a run cannot be")
        raise RunError(
            f"{outcome.error or 'a run failed'} ({path}); what is finished is kept: the same command goes on"
        )

    def heading(self) -> str:
        scores = f"{self.metric.name}, lowest first"
        return f"{'length':>6}  {'solved':<6}  {'seeds':>7}  {'share':>8}  {scores:<33}  steps"

    def _row(self, result: LengthResult) -> str:
        solved = f"{sum(result.solved_seeds)} of {len(result.solved_seeds)}"
        known = sorted(score for score in result.scores if score == score)
        texts = [self.metric.text(score) for score in known]
        scores = ", ".join(texts)
        if len(scores) > 30 and len(known) > 1:
            middle = median(map(self.metric.ranked, result.scores))
            spread = f"{texts[0]} to {texts[-1]}, median {self.metric.text(middle)}"
            scores = f"all {texts[0]}" if texts[0] == texts[-1] else spread
        if fallen := len(result.scores) - len(known):
            scores = ", ".join(filter(None, (scores, f"{fallen} diverged")))
        steps = sorted(steps for steps in result.steps_to_solve if steps is not None)
        after = "" if not steps else f"{steps[0]}" if steps[0] == steps[-1] else f"{steps[0]} to {steps[-1]}"
        low, high = result.share
        share = f"{100 * low:.0f}-{100 * high:.0f} %"
        line = f"{result.length:>6}  {'yes' if result.solved else 'no':<6}  {solved:>7}  {share:>8}  {scores}"
        return f"{line:<68}  {after}".rstrip()

    def bounds(self) -> Bounds:
        """The interval of the span, see ``search_bounds``."""
        tried = {result.length: Solved(sum(result.solved_seeds), len(result.solved_seeds)) for result in self.results}
        return search_bounds(tried, self.seeds)

    def seeds_for(self, level: float) -> int:
        """Seeds at each length with which as many lengths would bound the span with that confidence."""
        return next(n for n in range(1, 999, 2) if 1 - len(self.results) * luck((n + 1) // 2, 0) >= level)

    def save(self, span: Span | None) -> dict[str, Any]:
        """Write the results so far. ``span``: None while the search goes on."""
        content = {
            "task": own_name(self.first.task),
            "cell": own_name(self.first.cell),
            "overrides": self.overrides,
            "span": span.solved if span else None,
            "fails_at": span.failed if span else None,
            "ended": span.ended if span else "unfinished",
            "metric": self.metric.name,
            "threshold": self.goal,
            "seeds": self.seeds,
            "from": self.start,
            "shortest": self.shortest,
            "max": self.longest,
            "resolution": RESOLUTION,
            "budget": self.budget,
            "steps": self.spent(),
            "interval": vars(self.bounds()),
            "questions": [result.as_json() for result in self.results],
        }
        path = self.file()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, content)
        except OSError as error:
            raise RunError(f"cannot write to {path}: {error.strerror or error}") from error
        return content


def with_length(composed: DictConfig, length: int, seed: int) -> RunConfig:
    """The configuration with this length and seed; settings that refer to them are resolved anew."""
    composed.seq_len, composed.seed = length, seed
    return from_mapping(composed)


@contextmanager
def _progress(length: int, running: Sequence[RunDirectory], steps: int, *, quiet: bool) -> Iterator[None]:
    """On a terminal, show the steps of the runs, read from their files, until they end."""
    console = Console()
    if quiet or not console.is_terminal or console.is_dumb_terminal:
        yield
        return
    over = threading.Event()
    with console.status("") as line:

        def watch() -> None:
            while True:
                at = ", ".join(f"{_last_step(run)}" for run in running)
                line.update(Text(f"length {length}: step {at} of {steps}", no_wrap=True, overflow="ellipsis"))
                if over.wait(0.5):
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def _last_step(run: RunDirectory) -> int:
    try:
        with open_regular(run.file(METRICS)) as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            steps = re.findall(rb'"step": (\d+)', file.read())
    except OSError:
        return 0
    return int(steps[-1]) if steps else 0
