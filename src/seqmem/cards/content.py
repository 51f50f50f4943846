"""A card's numbers, from the runs of one cell, as they stand in its JSON file.

format    1
card      what --verify compares bit for bit: the settings, every score, what follows from them, the laws
hash      of ``card``
around    what another machine, or another hour, would say otherwise: speed, versions
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import isnan
from statistics import median
from typing import Any

from ..report.across import across
from ..report.collect import Collection, Group
from ..report.levels import chance_at
from ..report.statistics import (
    Interval,
    group_count,
    memory_span,
    number_interval,
    parameters,
    rule,
    run_solved_after,
    score_interval,
)
from ..runs.files import plain_json
from ..runs.settings import identity, identity_hash

FORMAT = 1


class CardError(ValueError):
    """A file is no memory card; the message says why."""


@dataclass(frozen=True)
class Subject:
    """What is known of a cell beside its runs.

    Args:
        name: of the card: the cell, and the settings that were given.
        cell: the settings of the cell, as in a run's config.json.
        settings: as typed, in the order typed: with them the same runs are made again.
        state: how many numbers the state of a sequence has, in words.
        laws: law -> whether it holds.
    """

    name: str
    cell: Mapping[str, Any]
    settings: Sequence[str]
    state: str
    laws: Mapping[str, bool]


def content(subject: Subject, runs: Collection, around: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a card's file.

    Args:
        runs: those of one cell, all of them finished or diverged.
        around: versions and machine.
    """
    groups = runs.groups
    lengths = sorted({length for group in groups for length in group.lengths})
    sizes = [size for group in groups for at in group.lengths if (size := parameters(group.at(at))) is not None]
    over_tasks = across(runs)
    card = {
        "name": subject.name,
        "settings": list(subject.settings),
        "cell": dict(subject.cell),
        "state": subject.state,
        "parameters": [min(sizes), max(sizes)] if sizes else None,
        "laws": dict(subject.laws),
        "lengths": lengths,
        "seeds": sorted({run.seed for run in runs.runs}),
        "steps": sorted({run.steps for run in runs.runs}),
        "runs": _hash(sorted(identity_hash(identity(run.config)) for run in runs.runs)),
        "across": None if over_tasks is None else vars(over_tasks.cells[0].interquartile_mean),
        "tasks": [_task(group) for group in groups],
    }
    card = json.loads(json.dumps(plain_json(card)))  # as it will be read
    speed = [run.steps / run.seconds for group in groups for run in group.at(lengths[-1]) if run.seconds > 0]
    updates = median(speed) if speed else None
    return {
        "format": FORMAT,
        "card": card,
        "hash": _hash(card),
        "around": {**around, "updates_per_second": updates, "at_length": lengths[-1]},
    }


def _task(group: Group) -> dict[str, Any]:
    """``start``: of the gradient before training, at the longest length."""
    span, longest = memory_span(group), group.lengths[-1]
    numbers = {
        name: _interval(number_interval(group.at(longest), "gradient", name, "start"))
        for name in ("half_life", "log10_arrives")
    }
    return {
        "task": group.task,
        "metric": group.first.metric.name,
        "solved_at": rule(group.first),
        "span": span.length,
        "span_text": str(span),
        "span_interval": vars(span.bounds) if span.known else None,
        "start": numbers,
        "lengths": [_length(group, length) for length in group.lengths],
    }


def _length(group: Group, length: int) -> dict[str, Any]:
    runs = group.at(length)
    count = group_count(group, length)
    return {
        "seq_len": length,
        "chance": chance_at(runs, length),
        "score": _interval(score_interval(runs)),
        "solved": count.k,
        "of": count.n,
        "seeds": [
            {
                "seed": run.seed,
                "score": None if isnan(run.score) else run.score,
                "loss": None if isnan(run.loss) else run.loss,
                "solved_after": run_solved_after(run),
            }
            for run in runs
        ],
    }


def _interval(interval: Interval) -> dict[str, Any]:
    return vars(interval)


def _hash(value: Any) -> str:
    """32 hex digits of what a JSON file holds."""
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def checked(value: Any, where: str) -> dict[str, Any]:
    """The content of a card's file, as it was read.

    Raises:
        CardError: it is no card, or of another format, or was changed since.
    """
    if not isinstance(value, dict) or not isinstance(card := value.get("card"), dict) or "hash" not in value:
        raise CardError(f"{where} is no memory card: seqmem card CELL writes one")
    if value.get("format") != FORMAT:
        raise CardError(f"{where} has format {value.get('format')}, and this seqmem reads {FORMAT}")
    settings = card.get("settings")
    if not isinstance(settings, list) or not all(isinstance(one, str) for one in settings):
        raise CardError(f"{where} has no list of settings, which a memory card has")
    if foreign := [one for one in settings if one.startswith(("hydra", "-")) or "=" not in one]:
        raise CardError(f"{where} has '{foreign[0]}' among its settings, which no card is made with")
    if value["hash"] != _hash(card):
        raise CardError(f"{where}: its numbers are not those that its hash {value['hash']} is of: it was changed")
    return value


@dataclass(frozen=True)
class Difference:
    """``where``: a path, as ``tasks/adding/20/seed 1/score``."""

    where: str
    was: Any
    now: Any


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[int, list[Difference]]:
    """(how many values were compared, those that differ) of two cards, bit for bit."""
    before, after = dict(_leaves(was["card"])), dict(_leaves(now["card"]))
    places = [*before, *(place for place in after if place not in before)]
    unlike = [
        Difference(place, before.get(place), after.get(place))
        for place in places
        if place not in before or place not in after or before[place] != after[place]
    ]
    return len(places), unlike


def _leaves(value: Any, where: str = "") -> Any:
    """(path, value) of everything in it that is neither a mapping nor a list."""
    if isinstance(value, Mapping):
        inner = [(str(key), each) for key, each in value.items()]
    elif isinstance(value, list):
        inner = [(_called(each, at), each) for at, each in enumerate(value)]
    else:
        yield where, value
        return
    if not inner:
        yield where, None
    for key, each in inner:
        yield from _leaves(each, f"{where}/{key}" if where else key)


def _called(value: Any, at: int) -> str:
    """What an entry of a list is called: by its task, length or seed; else by its place."""
    if isinstance(value, Mapping):
        for key, words in (("task", "{}"), ("seq_len", "{}"), ("seed", "seed {}")):
            if key in value:
                return words.format(value[key])
    return str(at)
