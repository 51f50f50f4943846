"""The runs that repeat a paper, and what they say of its figures."""

from collections.abc import Sequence
from math import inf, nan
from typing import Literal

from ...papers import Paper, Row
from ...papers.comparison import Comparison, Figure, OrderComparison, best, compared, ordered
from ...runs.directory import RunDirectory
from ...runs.result import diverged
from ..config.compose import with_own_arguments
from ..config.errors import ConfigError
from ..config.own_hydra import own_hydra
from ..config.schema import RunConfig
from .jobs import Job
from .planned_runs import PlannedRun, composed


def planned(paper: Paper, more: Sequence[str], *, quick: bool) -> list[PlannedRun]:
    """Every run of a paper, row by row; its kind is (name of the row, candidate).

    Args:
        more: further settings of every run, from the command line.

    Raises:
        ConfigError: a setting is unknown, or has an invalid value; a length that is measured is not tested.
    """
    runs = []
    with own_hydra():
        for row in paper.rows:
            for candidate in paper.candidates():
                given = with_own_arguments([*paper.settings_of(row, candidate, quick=quick), *more])
                seeds = range(paper.seeds_of(quick=quick))
                runs += [((row.name, candidate), [*given, f"seed={seed}"]) for seed in seeds]
        plans = composed(runs)
    rows = {row.name: row for row in paper.rows}
    for plan in plans:
        _check_lengths(paper, rows[_row_of(plan)], plan.config)
    if paper.measure in ("score", "error"):
        _check_metric(paper, plans)
    return plans


def _row_of(plan: PlannedRun) -> str:
    assert isinstance(plan.kind, tuple)
    return plan.kind[0]


def _check_lengths(paper: Paper, row: Row, config: RunConfig) -> None:
    """Before the first run, so that no result is missing after the last."""
    tested = {config.seq_len, *(config.evaluate.lengths or ())}
    for length in paper.lengths_of(row):
        if length not in tested:
            raise ConfigError(f"paper={paper.name}: row '{row.name}' measures length {length}: not in evaluate.lengths")


def _check_metric(paper: Paper, plans: Sequence[PlannedRun]) -> None:
    """The better a row, the higher must be its score."""
    from ..config.build import build_task

    for plan in {plan.kind: plan for plan in plans}.values():
        metric = build_task(plan.config).targets.metric
        if not metric.higher_is_better:
            raise ConfigError(
                f"paper={paper.name}: measure={paper.measure}: row '{_row_of(plan)}' has a task whose score is "
                f"{metric.name}, the lower the better: must be loss"
            )


def comparisons(paper: Paper, plans: Sequence[PlannedRun], jobs: Sequence[Job]) -> list[Comparison]:
    """The table: for each row the figure of its best candidate beside the published one."""
    values: dict[object, list[float]] = {}
    rows = {row.name: row for row in paper.rows}
    for plan, job in zip(plans, jobs, strict=True):
        values.setdefault(plan.kind, []).append(_value(paper, rows[_row_of(plan)], plan.config, job.run))
    table = []
    for row in paper.rows:
        figures = [Figure(values[row.name, candidate], candidate) for candidate in paper.candidates()]
        table.append(compared(paper, row, best(figures, lower=paper.lower_is_better)))
    return table


def order_comparisons(paper: Paper, table: Sequence[Comparison]) -> list[OrderComparison]:
    """The orders that the paper claims, by the figures of the table."""
    figures = {one.row.name: one.ours for one in table}
    return [ordered(paper, order, figures[order.better], figures[order.worse]) for order in paper.orders]


def _value(paper: Paper, row: Row, config: RunConfig, run: RunDirectory) -> float:
    """What ``paper.measure`` is of one run."""
    result = run.result()
    if result is None or diverged(result):
        return 0.0 if paper.measure == "solved" else inf if paper.measure == "sequences" else nan
    if paper.measure == "solved":
        return float(bool(result["solved"]))
    if paper.measure == "sequences":
        steps = result["steps_to_solve"]
        return inf if steps is None else float(steps * config.batch_size)
    which: Literal["loss", "score"] = "loss" if paper.measure == "loss" else "score"
    tested = {one["seq_len"]: one[which] for one in result["by_length"]}
    lengths = paper.lengths_of(row) or [config.seq_len]
    mean = sum(float(tested[length]) for length in lengths) / len(lengths)
    return 1 - mean if paper.measure == "error" else mean
