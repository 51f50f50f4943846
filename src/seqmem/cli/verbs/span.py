"""``seqmem span``: the longest sequence that a cell can learn. Every question is a few ordinary runs."""

import argparse
import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from rich.console import Console
from rich.text import Text

from ...runs.directory import RunDirectory
from ...runs.files import RunError, plain_json, write_json
from ...runs.settings import identity_hash, own_name
from ...span import RESOLUTION, Span, search, still_needed
from ..config.compose import compose_settings, explained, with_own_arguments
from ..config.errors import ConfigError, Parser
from ..config.schema import RunConfig, from_mapping, identity
from ..launch import local
from ..launch.jobs import job_of
from ..launch.one_run import Stopped, run_path, title

if TYPE_CHECKING:
    from ...metrics import Metric
    from ...tasks import Task
    from ..launch.jobs import Outcome

SEEDS, LONGEST, RUNS = 3, 1000, 60
"""By default: seeds; the longest length, in timesteps; runs that the budget of steps pays for."""

START = 10
"""The first length, in timesteps, where the task has such short sequences."""


def main(args: Sequence[str]) -> int:
    given = _parser().parse_intermixed_args(list(args))
    with explained(given.settings):
        found = _find(given)
    if given.json:
        print(json.dumps(plain_json(found), indent=1, allow_nan=False))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="seqmem span",
        description="""Find the memory span of a cell: the longest sequence that it learns to solve in
at least half of the seeds. The length is doubled until the cell fails, then
bisected. Settings are those of seqmem train.""",
        epilog="""example: seqmem span cell=lstm task=pronoun steps=500 --max 200

Every question is a few ordinary runs in outputs/, the same that seqmem train -m
would do: what is finished is not run again, and a search that was stopped, in
whatever way, goes on when the same command is started again.

Bisection takes for granted that what is solved at one length is solved at every
shorter one. Where that is not so, the span is still a length that was solved,
beside one that was not; but not necessarily the longest.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="any setting of seqmem train but seq_len, seed"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"seeds 0 to N-1 (default: {SEEDS})")
    parser.add_argument(
        "--from",
        dest="start",
        type=int,
        metavar="LENGTH",
        help=f"the first length to try (default: {START}, or the task's shortest)",
    )
    parser.add_argument(
        "--max", type=int, metavar="LENGTH", help=f"try no longer ones (default: {LONGEST}, or the task's longest)"
    )
    parser.add_argument(
        "--budget", type=int, metavar="STEPS", help=f"training steps of all runs together (default: {RUNS} runs' worth)"
    )
    parser.add_argument(
        "--threshold", type=float, metavar="SCORE", help="the score that counts as solved (default: the task's own)"
    )
    parser.add_argument("--workers", default="auto", metavar="N", help="runs at once (default: one for every core)")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON, and nothing else")
    return parser


@dataclass
class _Question:
    """A length, and what became of its seeds: in the order of the seeds, as far as they were needed."""

    length: int
    seeds: int
    runs: list[Path] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    steps_to_solve: list[int | None] = field(default_factory=list)
    solved_seeds: list[bool] = field(default_factory=list)

    @property
    def needed(self) -> int:
        solved = sum(self.solved_seeds)
        return still_needed(self.seeds, solved, len(self.solved_seeds) - solved)

    @property
    def solved(self) -> bool:
        return 2 * sum(self.solved_seeds) >= self.seeds

    def said(self) -> dict[str, Any]:
        return {
            "seq_len": self.length,
            "solved": self.solved,
            "solved_seeds": sum(self.solved_seeds),
            "seeds": len(self.solved_seeds),
            "scores": self.scores,
            "steps_to_solve": self.steps_to_solve,
            "runs": [str(path) for path in self.runs],
        }


@dataclass
class _Search:
    """What is asked, within which limits, and the answers so far. Lengths in timesteps, ``budget`` in steps."""

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
    questions: list[_Question] = field(default_factory=list)

    def spent(self) -> int:
        """Steps of all the runs that the questions needed, whenever they were run: so a new start decides alike."""
        return self.first.steps * sum(len(question.runs) for question in self.questions)

    @property
    def metric(self) -> "Metric":
        return self.task.targets.metric

    def file(self) -> Path:
        """Where the answer is kept: the name is of everything but the budget, with which an answer only gets better."""
        run = run_path(self.first)
        about = {key: value for key, value in identity(self.first).items() if key not in ("seq_len", "seed")}
        limits = {"seeds": self.seeds, "from": self.start, "max": self.longest, "threshold": self.goal}
        name = f"{run.parent.parent.name}-{run.parent.name}-{identity_hash({**about, 'span': limits})}.json"
        return Path(self.first.outputs) / "spans" / name

    def ask(self, length: int) -> bool | None:
        if self.spent() + self.seeds * self.first.steps > self.budget:
            return None
        question = _Question(length, self.seeds)
        while needed := question.needed:
            self._run(question, needed)
        self.questions.append(question)
        if not self.quiet:
            print(self._row(question), flush=True)
        self.save(None)
        return question.solved

    def _run(self, question: _Question, many: int) -> None:
        """The next seeds, those at once that are needed in any case."""
        first = len(question.runs)
        jobs = []
        for number in range(many):
            overrides = [*self.overrides, f"seq_len={question.length}", f"seed={first + number}"]
            config = _with(self.composed, question.length, first + number)
            config.quiet = True  # what is said of them stands in the table
            jobs.append(job_of(number, many, overrides, config))
        missing = [at for at, one in enumerate(jobs) if not one.run.finished or self.first.force]
        outcomes: dict[int, Outcome] = {}
        if missing:
            with _progress(question.length, [jobs[at].run for at in missing], self.first.steps, quiet=self.quiet):
                done = local.run_jobs([jobs[at] for at in missing], workers=self.workers)
            outcomes = dict(zip(missing, done, strict=True))
        for at, one in enumerate(jobs):
            outcome = outcomes.get(at)
            result = one.run.result()
            if result is None and outcome is not None and not _diverged(one.run):
                self._stopped(outcome, one.path)
            score = nan if result is None else float(result["score"])
            question.runs.append(Path(one.path))
            question.scores.append(score)
            question.solved_seeds.append(result is not None and self.metric.reached(score, self.goal))
            question.steps_to_solve.append(None if result is None else result["steps_to_solve"])

    def _stopped(self, outcome: "Outcome", path: str) -> None:
        """Say why there is no answer."""
        if outcome.state == "stopped":
            raise Stopped("stopped: the same command goes on from there", outcome.exit_code or 130)
        if outcome.usage:
            raise ConfigError(outcome.error or "a run cannot be")
        raise RunError(
            f"{outcome.error or 'a run failed'} ({path}); what is finished is kept: the same command goes on"
        )

    def heading(self) -> str:
        scores = f"{self.metric.name}, lowest first"
        return f"{'length':>6}  {'solved':<6}  {'seeds':>7}  {scores:<31}  steps to solve"

    def _row(self, question: _Question) -> str:
        solved = f"{sum(question.solved_seeds)} of {len(question.solved_seeds)}"
        known = sorted(score for score in question.scores if score == score)
        texts = [self.metric.text(score) for score in known]
        scores = ", ".join(texts)
        if len(scores) > 30 and len(known) > 1:
            scores = f"{texts[0]} to {texts[-1]}, median {self.metric.text(median(known))}"
        if diverged := len(question.scores) - len(known):
            scores = ", ".join(filter(None, (scores, f"{diverged} diverged")))
        steps = sorted(steps for steps in question.steps_to_solve if steps is not None)
        after = "" if not steps else f"{steps[0]}" if steps[0] == steps[-1] else f"{steps[0]} to {steps[-1]}"
        line = f"{question.length:>6}  {'yes' if question.solved else 'no':<6}  {solved:>7}  {scores}"
        return f"{line:<56}  {after}".rstrip()

    def save(self, found: Span | None) -> dict[str, Any]:
        """Write down what is known so far; ``found``: what it comes to, once it is all."""
        said = {
            "task": own_name(self.first.task),
            "cell": own_name(self.first.cell),
            "overrides": self.overrides,
            "span": found.solved if found else None,
            "fails_at": found.failed if found else None,
            "ended": found.ended if found else "unfinished",
            "metric": self.metric.name,
            "threshold": self.goal,
            "seeds": self.seeds,
            "from": self.start,
            "shortest": self.shortest,
            "max": self.longest,
            "resolution": RESOLUTION,
            "budget": self.budget,
            "steps": self.spent(),
            "questions": [question.said() for question in self.questions],
        }
        path = self.file()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, said)
        except OSError as error:
            raise RunError(f"cannot write to {path}: {error.strerror or error}") from error
        return said


def _find(given: argparse.Namespace) -> dict[str, Any]:
    """Search, and say what is found on the way and in the end."""
    asked = _search(given)
    if not asked.quiet:
        kept = asked.seeds - asked.seeds // 2
        print(
            f"{_called(asked.first)}: solved is {asked.metric.text(asked.goal)} {asked.metric.name} by at least "
            f"{kept} of {asked.seeds} seeds after {asked.first.steps} steps"
        )
        print(asked.heading(), flush=True)
    try:
        found = search(asked.ask, start=asked.start, shortest=asked.shortest, longest=asked.longest)
    except KeyboardInterrupt as stopped:
        line = f"stopped after {len(asked.questions)} lengths: the same command goes on from there"
        raise Stopped(line, getattr(stopped, "exit_code", 130)) from None
    said = asked.save(found)
    if not asked.quiet:
        print(f"memory span: {_in_words(found, asked)}")
        print(f"runs in {Path(said['questions'][0]['runs'][0]).parent}; this in {asked.file()}")
    return said


def _in_words(found: Span, asked: _Search) -> str:
    if found.ended == "longest":
        return f">= {found.solved} (the longest tried)"
    if found.ended == "shortest":
        return f"< {found.failed} (the shortest that the task has)"
    if found.ended == "found":
        return f"{found.solved} (fails at {found.failed})"
    spent = f"the budget of {asked.budget} steps is spent: --budget gives more"
    if found.solved is None:
        return f"< {found.failed}; {spent}"
    if found.failed is None:
        return f">= {found.solved}; {spent}"
    return f"{found.solved} (fails at {found.failed}), not bisected to the end: {spent}"


def _called(config: RunConfig) -> str:
    cell, task = title(config).split()[:2]
    return f"{cell} on {task}"


def _search(given: argparse.Namespace) -> _Search:
    """Everything checked, before anything is run.

    Raises:
        ConfigError: a setting cannot be.
    """
    overrides = with_own_arguments(given.settings)
    _refuse(given, overrides)
    composed = compose_settings(overrides)
    first = from_mapping(composed)

    from ..config.build import build_task, check

    task = build_task(first)
    own_shortest = first.task.get("shortest") if first.task.get("lengths") == "uniform" else None
    shortest = max(task.min_seq_len, own_shortest or 1)
    possible = task.max_seq_len
    longest = given.max if given.max is not None else min(LONGEST, possible or LONGEST)
    if possible is not None and longest > possible:
        raise ConfigError(f"--max {longest}: task={task.name} has no sequences longer than {possible}")
    if longest < shortest:
        raise ConfigError(f"--max {longest}: the shortest length of task={task.name} is {shortest}")
    start = given.start if given.start is not None else min(max(START, shortest), longest)
    if not shortest <= start <= longest:
        raise ConfigError(f"--from {start}: must be from {shortest}, the shortest of task={task.name}, to {longest}")
    goal = given.threshold if given.threshold is not None else task.solved_at
    if goal is None:
        raise ConfigError(f"task={task.name} has no score at which it counts as solved: --threshold sets one")
    budget = given.budget if given.budget is not None else max(RUNS, given.seeds) * first.steps
    if budget < given.seeds * first.steps:
        raise ConfigError(
            f"--budget {budget}: one length takes up to {given.seeds * first.steps} steps, "
            f"{given.seeds} seeds of {first.steps}"
        )
    for length in sorted({shortest, start, longest}):
        check(_with(composed, length, 0))
    workers = given.workers if given.workers == "auto" else int(given.workers)
    quiet = given.json or first.quiet
    return _Search(
        overrides, composed, first, task, goal, given.seeds, start, shortest, longest, budget, workers, quiet
    )


def _refuse(given: argparse.Namespace, overrides: Sequence[str]) -> None:
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key == "seq_len":
            raise ConfigError("seq_len= is what is searched for: --from and --max limit it")
        if key == "seed":
            raise ConfigError("seed=: the seeds are 0 to N-1 by --seeds N")
        if override.is_sweep_override():
            raise ConfigError(f"{key}=: a span is of one value of every setting, not of several")
    if given.seeds < 1:
        raise ConfigError(f"--seeds {given.seeds}: must be at least 1")
    if given.workers != "auto" and not re.fullmatch(r"[1-9]\d*", given.workers):
        raise ConfigError(f"--workers {given.workers}: must be auto or a whole number from 1 on")


def _with(composed: DictConfig, length: int, seed: int) -> RunConfig:
    """As if the two had been among the overrides; what refers to them follows."""
    composed.seq_len, composed.seed = length, seed
    return from_mapping(composed)


def _diverged(run: RunDirectory) -> bool:
    """An answer too: the cell cannot do it. Every other failure is none."""
    status = run.status()
    return status is not None and status.state == "failed" and (status.error or "").startswith("Diverged:")


@contextmanager
def _progress(length: int, running: Sequence[RunDirectory], steps: int, *, quiet: bool) -> Iterator[None]:
    """On a terminal, a line that says how far the runs are and then goes away; read from their own files."""
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
        with run.file("metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            steps = re.findall(rb'"step": (\d+)', file.read())
    except OSError:
        return 0
    return int(steps[-1]) if steps else 0
