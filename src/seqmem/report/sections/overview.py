"""The head of the page: title, counts, and the memory span of every cell."""

from collections.abc import Mapping, Sequence

from ...solved import FEWEST, Solved, order_rank, percent
from ..collect import Collection, Group, probe_numbers
from ..statistics import memory_span, rule_text
from ..wording import clean, count, extremes, listing, number_range, span_words, with_signs
from .tables import Column, Row, Table

SIGNS = (
    "In brackets: how many of the seeds solve that length, and the 95 % interval of the share of all seeds that would. "
    "“≥”: the longest length tried is still solved, or the next has too few seeds to tell, so the span may be longer; "
    "“<”: not even the shortest is. The interval of the span goes from the last length that most seeds surely solve to "
    "the first that most surely do not."
)


def title(groups: Sequence[Group]) -> str:
    cells = list(dict.fromkeys(group.cell for group in groups))
    if not cells:
        return "Memory of recurrent networks: no finished run"
    return f"How far back {listing([clean(cell, 30) for cell in cells], 5)} remember{'s' if len(cells) == 1 else ''}"


def counted(collection: Collection) -> str:
    """``12 finished runs · 1 task · 2 cells · lengths 10 to 20 · 3 seeds each``"""
    runs, groups = collection.runs, collection.groups
    lengths = sorted({run.seq_len for run in runs})
    parts = [count(len(collection.finished), "finished run")]
    if collection.diverged:
        parts.append(f"{len(collection.diverged)} diverged")
    if runs:
        parts.append(count(len(collection.tasks), "task"))
        parts.append(count(len({group.label for group in groups}), "cell"))
        parts.append(f"lengths {lengths[0]} to {lengths[-1]}" if len(lengths) > 1 else f"length {lengths[0]}")
        seeds = extremes(len(group.at(length)) for group in groups for length in group.lengths)
        parts.append(number_range(*seeds, "seed") + " each")
    if collection.unfinished:
        parts.append(f"{len(collection.unfinished)} unfinished")
    if collection.left_out:
        parts.append(f"{len(collection.left_out)} left out")
    return " · ".join(parts)


def spans(groups: Sequence[Group], colours: Mapping[str, int], threshold: float | None) -> Table:
    columns = [
        Column("task", "left"),
        Column("cell", "label"),
        Column("memory span", "span"),
        Column("interval", "left"),
        Column("lengths tried", "words"),
        Column("seeds"),
    ]
    rows = []
    for group in groups:
        span = memory_span(group, threshold)
        tried = [_tried(length, count) for length, count in span.counts.items()] or list(map(str, group.lengths))
        cells = [
            clean(group.task, 60),
            clean(group.label, 60),
            span_words(span),
            with_signs(str(span.bounds)) if span.known else "",
            ", ".join(tried),
            number_range(*extremes(len(group.at(length)) for length in group.lengths)),
        ]
        rows.append(Row(cells, colours[group.label]))
    return Table(columns, rows, headline=True)


def _tried(length: int, count: Solved) -> str:
    """``10 (3/3: 29-100 %)``, with the seeds that diverged or are not there."""
    return f"{length} ({', '.join(filter(None, (f'{count}: {count.share_text}', count.remarks)))})"


def span_notes(collection: Collection, threshold: float | None) -> list[str]:
    """SIGNS, the spans in words, and warnings where they rest on little."""
    notes = [SIGNS]
    for task in collection.tasks:
        groups = [group for group in collection.groups if group.task == task]
        notes.append(_spans_in_words(task, groups, threshold))
        for group in groups:
            span = memory_span(group, threshold)
            if span.beyond:
                notes.append(
                    f"{clean(group.label)} on {clean(task)} also solves {listing(list(map(str, span.beyond)))}, "
                    f"but not {span.failed}: more seeds or more steps would tell which of them is luck."
                )
            if span.undecided:
                notes.append(
                    f"{clean(group.label)} on {clean(task)}: at {listing(list(map(str, span.undecided)))} there are "
                    "fewer seeds than at the other lengths, too few to say whether most solve it."
                )
    fewest = min((len(group.at(length)) for group in collection.groups for length in group.lengths), default=0)
    if fewest == 1:
        notes.append("Some lengths rest on one seed alone. One seed proves nothing: run several, and look again.")
    elif fewest < FEWEST:
        notes.append(
            f"Some lengths rest on {fewest} seeds. That shows large differences at best: the range of {fewest} "
            f"seeds holds the true median with a probability of {percent(order_rank(fewest)[1])}."
        )
    return notes


def _spans_in_words(task: str, groups: Sequence[Group], threshold: float | None) -> str:
    by_text: dict[str, list[str]] = {}
    for group in groups:
        span = memory_span(group, threshold)
        if not span.known:
            text = "{} cannot be judged, for want of a rule of success"
        elif span.length is None and span.open:
            text = f"{{}} undecided at {min(span.counts)}"
        elif span.length is None:
            text = f"{{}} not even {min(span.counts)}"
        elif span.open:
            text = f"{{}} {span.length} or more"
        else:
            text = f"{{}} {span.length}, but not {span.failed}"
        by_text.setdefault(text, []).append(clean(group.label, 60))
    parts = [text.format(listing(names, 6)) for text, names in by_text.items()]
    return f"On {clean(task, 60)}, in timesteps: {'; '.join(parts)}."


def glossary(collection: Collection, threshold: float | None) -> list[tuple[str, str]]:
    """The terms of the page and their meanings; numbers of probes last, by their descriptions."""
    rules = dict.fromkeys(
        f"{clean(group.task, 60)}: {text}" for group in collection.groups if (text := rule_text(group.first, threshold))
    )
    chosen = "the threshold given for this report" if threshold is not None else "the task's own rule"
    some = "; ".join(list(rules)[:8])
    terms = {
        "Memory span": "The longest trained length (in the literature, the longest time lag) that more than half "
        "of the seeds solve, as they do every shorter length that was tried. It is between the lengths tried: a "
        f"finer grid gives a finer span. A length with fewer seeds than the others (or than {FEWEST}) counts as "
        "solved or not only if the seeds that it lacks could not change that. Its interval takes for granted that "
        "what is learned at one length is learned at every shorter one.",
        "Solved": f"A held-out score after training that reaches {chosen}{f' ({some})' if some else ''}. Steps to "
        "solve: the first time during training that it was reached, by a run that reaches it at the end.",
        "Diverged": "The loss became infinite or not a number, or the model's mathematics failed. Such a run is a "
        "result: it counts as a seed that has not solved its task, and in medians and comparisons it is worse than any "
        "score. A run that was interrupted or killed, or failed for another reason, is named beside the count.",
        "Interval": "The exact interval of the median over seeds, between two of their scores, with its confidence: at "
        f"least 95 % from {FEWEST} seeds on. With fewer no interval is as sure: the range of 3 holds the median of all "
        "seeds with 75 %, that of 5 with 93.8 %. It says how far the median of other seeds may lie, not how far a "
        "single run may: for that look at the faint lines, one for each seed. Shares: Clopper and Pearson's interval, "
        "of at least 95 %.",
        "Gradient arriving": "Share of the gradient at the carried state one step back from the answer that is left at "
        "the first timestep. At the answer itself the gradient is that of the readout, so nothing is relative to that.",
        "Half-life": "Timesteps in which the gradient halves, from a straight line through its logarithms; ∞ where it "
        "keeps its size or grows evenly; – where no straight line describes it.",
        "Horizon": "The first timestep, counted back from the answer, at which less than a thousandth of the gradient "
        "one step back is left; ∞ where that is nowhere in the sequence.",
    }
    for one in probe_numbers(collection.runs):
        title = clean(one.number.title, 60)
        terms.setdefault(f"{title[:1].upper()}{title[1:]}", clean(one.number.meaning, 600))
    return list(terms.items())
