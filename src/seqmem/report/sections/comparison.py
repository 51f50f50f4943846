"""Which cell is better, where seeds suffice for a test, and which cells' seeds fall into two groups."""

from ..figures.base import TaskRuns
from ..statistics import FEWEST
from ..wording import clean, extremes, listing, number_range, with_signs
from .base import Section

MOST_COMPARISONS = 15
"""Pairs of cells, and cells whose seeds fall into two groups."""


def figures_and_verdicts(task: TaskRuns) -> Section:
    return Section(
        "comparison",
        "Cells compared",
        "Two cells are compared seed by seed, at the longest length that one of them has solved, of those that both "
        "were trained on. Every point is a run.",
        beside=True,
        items=[*_pairs(task), *_splits(task)],
    )


def _pairs(task: TaskRuns) -> list[str]:
    earned = [pair for pair in task.comparisons if pair.earned]
    sentences = [
        f"{clean(pair.a.label, 60)} and {clean(pair.b.label, 60)} at length {pair.seq_len}: median difference "
        f"{with_signs(pair.difference_text)}. {clean(pair.verdict, 400)}"
        for pair in sorted(earned, key=lambda pair: pair.adjusted)[:MOST_COMPARISONS]
    ]
    if len(earned) > MOST_COMPARISONS:
        sentences.append(f"{len(earned) - MOST_COMPARISONS} more comparisons are left out, of those that show least.")
    if poor := [pair for pair in task.comparisons if not pair.earned]:
        names = [f"{clean(pair.a.label, 40)} and {clean(pair.b.label, 40)}" for pair in poor]
        seeds = number_range(*extremes(pair.n for pair in poor), "common seed")
        sentences.append(
            f"Too few seeds to compare {listing(names, 6)} ({seeds}): "
            f"no difference can be shown at the 5 % level with fewer than {FEWEST}, even if one wins every time."
        )
    return sentences


def _splits(task: TaskRuns) -> list[str]:
    sentences = []
    for split in task.splits[:MOST_COMPARISONS]:
        at = f"trained at {split.seq_len}" + (f" and tested at {split.at}" if split.at != split.seq_len else "")
        sentences.append(
            f"{clean(split.group.label, 60)}, {at}, falls into two groups: {split.bimodal}. No median describes such "
            "seeds; look at the points."
        )
    if len(task.splits) > MOST_COMPARISONS:
        more = len(task.splits) - MOST_COMPARISONS
        sentences.append(f"{more} more cells and lengths fall into two groups of seeds.")
    return sentences
