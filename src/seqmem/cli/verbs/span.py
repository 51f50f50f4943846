"""``seqmem span``: the longest sequence that a cell can learn."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from ...runs.files import plain_json
from ...solved import LEVEL
from ...span import Span, search
from ..config.commands import command
from ..config.compose import compose_settings, with_own_arguments
from ..config.errors import ConfigError, Parser
from ..config.hydra_errors import explained
from ..config.own_code import forget_edited
from ..config.schema import RunConfig, from_mapping
from ..launch.one_run import Stopped, title
from ..launch.span_search import SpanSearch, with_length

SEEDS, LONGEST, RUNS = 3, 1000, 60
"""Defaults: number of seeds; longest length in timesteps; budget of steps, in runs."""

START = 10
"""The first length to try, in timesteps, unless the task's shortest is longer."""


def main(args: Sequence[str]) -> int:
    given = _parser().parse_intermixed_args(list(args))
    forget_edited()
    with explained(given.settings):
        result = _run_search(given)
    if given.json:
        print(json.dumps(plain_json(result), indent=1, allow_nan=False))
    return 0


def _parser() -> Parser:
    parser = Parser(
        "span",
        description=f"""Find the memory span of a cell: the longest sequence (the longest time lag) that
it learns to solve in more than half of the seeds. The length is doubled until the cell fails, then
bisected. Settings are those of {command("train")}.""",
        epilog=f"""example:
  {command("span", "cell=lstm", "task=pronoun", "steps=500", "--max", "200")}

Every question is a few ordinary runs in outputs/, the same that {command("train", "-m")}
would do: what is finished is not run again, and a search that was stopped, in
whatever way, goes on when the same command is started again.

Bisection takes for granted that what is solved at one length is solved at every
shorter one. Where that is not so, the span is still a length that was solved,
beside one that was not; but not necessarily the longest.

A seed that diverges has not solved the length. share: the 95 % interval of the
share of all seeds that would solve it; interval: of the span, where there are
seeds enough to give one.""",
    )
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help=f"any setting of {command('train')} but seq_len, seed"
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
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")
    return parser


def _run_search(given: argparse.Namespace) -> dict[str, Any]:
    """Search, and print each length and the result."""
    searched = _search(given)
    if not searched.quiet:
        needed = searched.seeds // 2 + 1
        print(
            f"{_subject(searched.first)}: solved is {searched.metric.text(searched.goal)} {searched.metric.name} "
            f"by at least {needed} of {searched.seeds} seeds after {searched.first.steps} steps"
        )
        print(searched.heading(), flush=True)
    try:
        span = search(searched.ask, start=searched.start, shortest=searched.shortest, longest=searched.longest)
    except KeyboardInterrupt as stopped:
        line = f"stopped after {len(searched.results)} lengths: the same command goes on from there"
        raise Stopped(line, getattr(stopped, "exit_code", 130)) from None
    content = searched.save(span)
    if not searched.quiet:
        print(f"memory span: {_in_words(span, searched)}")
        print(f"interval: {_interval(searched)}")
        print(f"runs in {Path(content['questions'][0]['runs'][0]).parent}; this in {searched.file()}")
    return content


def _in_words(span: Span, searched: SpanSearch) -> str:
    if span.ended == "longest":
        return f">= {span.solved} (the longest tried)"
    if span.ended == "shortest":
        return f"< {span.failed} (the shortest that the task has)"
    if span.ended == "found":
        return f"{span.solved} (fails at {span.failed})"
    spent = f"the budget of {searched.budget} steps is spent: --budget gives more"
    if span.solved is None:
        return f"< {span.failed}; {spent}"
    if span.failed is None:
        return f">= {span.solved}; {spent}"
    return f"{span.solved} (fails at {span.failed}), not bisected to the end: {spent}"


def _interval(searched: SpanSearch) -> str:
    bounds = searched.bounds()
    if bounds.level > _EVEN:
        return str(bounds)
    return f"none: too few seeds to say how sure that is; --seeds {searched.seeds_for(LEVEL)} would give one"


_EVEN = 0.5
"""A confidence that a coin toss has."""


def _subject(config: RunConfig) -> str:
    cell, task = title(config).split()[:2]
    return f"{cell} on {task}"


def _search(given: argparse.Namespace) -> SpanSearch:
    """Check everything before anything is run.

    Raises:
        ConfigError: a setting has an invalid value.
    """
    overrides = with_own_arguments(given.settings)
    _refuse(given, overrides)
    composed = compose_settings(overrides)
    first = from_mapping(composed)

    from ..config.build import build_task, check

    task = build_task(first)
    own_shortest = first.task.get("shortest") if first.task.get("lengths", "fixed") != "fixed" else None
    shortest = max(task.min_seq_len, own_shortest or 1)
    possible = task.max_seq_len
    longest = given.max if given.max is not None else min(LONGEST, possible or LONGEST)
    if possible is not None and longest > possible:
        raise ConfigError(f"--max {longest}: task={task.choice} has no sequences longer than {possible}")
    if longest < shortest:
        raise ConfigError(f"--max {longest}: the shortest length of task={task.choice} is {shortest}")
    start = given.start if given.start is not None else min(max(START, shortest), longest)
    if not shortest <= start <= longest:
        raise ConfigError(f"--from {start}: must be from {shortest}, the shortest of task={task.choice}, to {longest}")
    goal = given.threshold if given.threshold is not None else task.solved_at
    if goal is None:
        raise ConfigError(f"task={task.choice} has no score at which it counts as solved: --threshold sets one")
    budget = given.budget if given.budget is not None else max(RUNS, given.seeds) * first.steps
    if budget < given.seeds * first.steps:
        raise ConfigError(
            f"--budget {budget}: one length takes up to {given.seeds * first.steps} steps, "
            f"{given.seeds} seeds of {first.steps}"
        )
    for length in sorted({shortest, start, longest}):
        check(with_length(composed, length, 0))
    workers = given.workers if given.workers == "auto" else int(given.workers)
    quiet = given.json or first.quiet
    return SpanSearch(
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
