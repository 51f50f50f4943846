"""A card as a page of Markdown, and many cards as a table."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan, nan
from statistics import median
from typing import Any
from urllib.parse import quote

from ..decay import NUMBERS
from ..metrics import Metric, metric_called
from ..report.across import Estimate
from ..report.wording import clean, estimate_words, number_range, number_words, score_words, with_signs
from ..runs.files import with_numbers
from ..solved import Bounds

_ENDS = str.maketrans({"|": "\\|", "`": "'"})
"""Characters that would end a cell of a table, or code."""


def page(content: Mapping[str, Any], made_by: str, verified_by: str) -> str:
    """A card.

    Args:
        made_by, verified_by: the commands that make it, and that check it.
    """
    content = with_numbers(dict(content))
    card, around = content["card"], content["around"]
    name = _plain(card["name"])
    lines = [f"# Memory card: {name}", "", _summary(card), ""]
    heads = [
        "task",
        "memory span",
        "interval",
        *(f"at {length}" for length in card["lengths"]),
        "half-life",
        "arriving",
    ]
    lines += _table(heads, [_row(task, card["lengths"]) for task in card["tasks"]])
    lines += ["", *_facts(content, verified_by), "", *_NOTES, ""]
    versions = f"seqmem {around.get('seqmem')}, torch {around.get('torch')}, {around.get('platform')}"
    lines.append(f"Made by `{_plain(made_by)}`, {_plain(versions)}.")
    return "\n".join([*lines, ""])


def _facts(content: Mapping[str, Any], verified_by: str) -> Iterator[str]:
    """The list below the table."""
    card = content["card"]
    if card["parameters"]:
        low, high = card["parameters"]
        size = number_range(low, high, "parameter")
        yield f"- **Size**: {size} of the whole model, by the task; {card['state']} numbers in the state of a sequence."
    broken = ", ".join(law for law, holds in card["laws"].items() if not holds)
    checked_by = " ".join(["seqmem check", *_of_the_cell(card["settings"])])
    kept = f"{sum(card['laws'].values())} of {len(card['laws'])} hold{f'; broken: {_plain(broken)}' if broken else ''}"
    yield f"- **Laws**: {kept} (`{_plain(checked_by)}`)."
    yield f"- **Speed**: {_speed(content['around'])}."
    lengths, seeds, steps = (", ".join(map(str, card[name])) for name in ("lengths", "seeds", "steps"))
    runs = f"{len(card['tasks'])} tasks, lengths {lengths}, seeds {seeds}, {steps} updates"
    yield f"- **Runs**: {runs}. Settings: `{_plain(' '.join(card['settings']))}`."
    yield f"- **Hash**: `{content['hash']}`, of all that `{_plain(verified_by)}` compares: every score, bit for bit."


_NOTES = (
    "Memory span: the longest length that more than half of the seeds solve, as they do every shorter one; ≥: no",
    "longer one was tried, <: not even the shortest is solved. Interval: of the span over all seeds, with its",
    "confidence. At a length: the median score, and how many seeds solve it. Half-life, and what arrives of the",
    "gradient at the first timestep: before training, at the longest length, the median over seeds; –: no straight",
    "line describes the gradient.",
    "The speed is no part of the hash.",
)


def _summary(card: Mapping[str, Any]) -> str:
    longest = card["lengths"][-1]
    solved = sum(task["span"] == longest for task in card["tasks"])
    text = f"Solves {solved} of {len(card['tasks'])} tasks up to the longest length, {longest} timesteps"
    if card["across"] is not None:
        text += (
            f"; interquartile mean over all of them {estimate_words(Estimate(**card['across']))}, "
            "from 0 (chance) to 1 (perfect), with its 95 % interval"
        )
    return f"{text}."


def _row(task: Mapping[str, Any], lengths: Sequence[int]) -> list[str]:
    metric = metric_called(task["metric"])
    by_length = {one["seq_len"]: one for one in task["lengths"]}
    bounds = task["span_interval"]
    start = {name: number_words(NUMBERS[name], one["median"]) for name, one in task["start"].items()}
    return [
        _plain(task["task"]),
        with_signs(task["span_text"]),
        "" if bounds is None else with_signs(str(Bounds(**bounds))),
        *(_at(by_length[length], metric) if length in by_length else "" for length in lengths),
        start["half_life"],
        start["log10_arrives"],
    ]


def _at(one: Mapping[str, Any], metric: Metric) -> str:
    return f"{score_words(metric, one['score']['median'])} ({one['solved']}/{one['of']})"


def _of_the_cell(settings: Sequence[str]) -> list[str]:
    return [one for one in settings if one.partition("=")[0].partition(".")[0] == "cell"]


def _speed(around: Mapping[str, Any]) -> str:
    updates = around["updates_per_second"]
    if updates is None:
        return "not known"
    return f"{updates:,.0f} updates a second at {around['at_length']} timesteps, measured once, on the machine below"


ABOUT = (
    "The memory span of each cell on each task, in timesteps, and what else its card says.",
    "IQM: the interquartile mean over tasks, from 0 (chance) to 1 (perfect), with its 95 % interval. Half-life: of the",
    "gradient before training, the median over tasks. Parameters: of the largest model. State: numbers in the state of",
    "a sequence. Updates/s: at the longest length, measured once, on a machine that may have done other things.",
)


@dataclass(frozen=True)
class Cell:
    """A cell of the table; ``at``: the number by which a column is sorted, infinite ones included; NaN is not known."""

    text: str
    at: float | int = nan


def cards_beside(
    contents: Sequence[tuple[str, Mapping[str, Any]]],
) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """(titles of the columns, rows) of cards beside each other, the best interquartile mean first.

    Args:
        contents: the name of each card's page, and its content.

    Returns:
        Of each row a link to the card's page, and its cells.
    """
    read = [(file, with_numbers(dict(content))) for file, content in contents]
    read.sort(key=lambda pair: (-(pair[1]["card"]["across"] or {"value": 0.0})["value"], pair[1]["card"]["name"]))
    tasks = list(dict.fromkeys(task["task"] for _, content in read for task in content["card"]["tasks"]))
    heads = ["cell", "IQM", *tasks, "half-life", "parameters", "state", "laws", "updates/s"]
    return heads, [(quote(file), _beside(content, tasks)) for file, content in read]


def table(contents: Sequence[tuple[str, Mapping[str, Any]]], made_by: str) -> str:
    """``cards_beside`` in Markdown. ``made_by``: the command that adds a card."""
    heads, cards = cards_beside(contents)
    rows = []
    for file, (name, *others) in cards:
        rows.append([f"[{_plain(name.text)}]({file})", *(_plain(cell.text) for cell in others)])
    lines = ["# Memory cards", "", *ABOUT, "", *_table([_plain(head) for head in heads], rows), ""]
    lines += [
        f"`{made_by}` adds a card. `seqmem card --verify FILE.json` trains one again and compares it bit for bit.",
        "",
    ]
    return "\n".join(lines)


def _beside(content: Mapping[str, Any], tasks: Sequence[str]) -> list[Cell]:
    card, updates = content["card"], content["around"]["updates_per_second"]
    by_task = {task["task"]: task for task in card["tasks"]}
    lives = [task["start"]["half_life"]["median"] for task in card["tasks"]]
    known = [life for life in lives if not isnan(life)]  # NaN: no straight line describes it
    life, across, largest = (median(known) if known else nan), card["across"], (card["parameters"] or [None])[-1]
    return [
        Cell(card["name"]),
        Cell("") if across is None else Cell(estimate_words(Estimate(**across)), across["value"]),
        *(_span(by_task.get(task)) for task in tasks),
        Cell(number_words(NUMBERS["half_life"], life), life),
        Cell("") if largest is None else Cell(f"{largest:,}", largest),
        Cell(card["state"], _first_number(card["state"])),
        Cell(f"{sum(card['laws'].values())}/{len(card['laws'])}", sum(card["laws"].values())),
        Cell("") if updates is None else Cell(f"{updates:,.0f}", updates),
    ]


def _span(task: Mapping[str, Any] | None) -> Cell:
    """A span that may be longer is sorted above the same one that may not."""
    if task is None:
        return Cell("")
    text = task["span_text"]
    return Cell(with_signs(text), (task["span"] or 0) + (0.5 if text.startswith(">") else 0.0))


def _first_number(state: str) -> float:
    """The numbers of a state; one that grows with T is above all others."""
    return inf if "T" in state else float(state.replace(",", ""))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + "|".join(["---", *["--:"] * (len(heads) - 1)]) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _plain(text: str) -> str:
    """``text`` as Markdown prints it, on one line."""
    return re.sub(r"<(?=\S)", "&lt;", clean(text, 200).translate(_ENDS))  # "< 10" begins no tag
