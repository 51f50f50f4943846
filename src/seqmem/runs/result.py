"""What a run measured: the types of ``result.json`` and of the facts in it, and how older files are read.

A Scale says how to read a run's scores. It is written before training, so that the numbers of an unfinished run can be
read, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from math import inf, isfinite, isnan, nan
from typing import Any, NotRequired, TypedDict, cast

from ..decay import DESCRIPTIONS
from ..measurement import describe_unknown
from ..metrics import Metric, Plateau, metric_called
from ..printable import printable
from ..solved import solved_words
from .files import with_numbers


@dataclass(frozen=True)
class Facts:
    """What a run is, in the words of its result.

    Args:
        task, cell: names; a user's own class goes by the class's name.
        seq_len: the training length in timesteps.
        hidden_size: units a layer. ``parameters``: of the whole model.
        steps: updates.
        device: what it was trained on, e.g. ``cpu`` or ``cuda:0``.
    """

    task: str
    cell: str
    seq_len: int
    seed: int
    hidden_size: int
    layers: int
    parameters: int
    steps: int
    device: str

    def fields(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Scale:
    """How to read a run's scores and losses. None: not known, or the task has none.

    Args:
        chance: the score without a memory; ``baseline_loss``: the loss without a memory.
        solved_at: the score from which on the task counts as solved.
        constant: the score of a constant answer.
        plateaus: levels between no memory and a whole one.
    """

    metric: Metric
    chance: float | None
    baseline_loss: float | None
    solved_at: float | None
    constant: float | None = None
    plateaus: Sequence[Plateau] = ()

    def fields_of_a_length(self) -> dict[str, Any]:
        """Those of ``fields`` that may depend on the length."""
        return {name: value for name, value in self.fields().items() if name in _OF_A_LENGTH}

    def at(self, row: "Length") -> "Scale | None":
        """How to read the score of another length; None: its row does not say, as in runs of earlier versions."""
        return None if row.get("chance") is None else read_scale({**self.fields(), **row})

    def fields(self) -> dict[str, Any]:
        """As in ``environment.json`` and ``result.json``."""
        return {
            "metric": self.metric.name,
            "higher_is_better": self.metric.higher_is_better,
            "chance": self.chance,
            "baseline_loss": self.baseline_loss,
            "solved_at": self.solved_at,
            "constant": self.constant,
            "plateaus": [asdict(plateau) for plateau in self.plateaus],
        }

    def levels(self) -> list[tuple[str, float]]:
        """What to compare a score with, in words, and that score: a constant answer where it is another than chance,
        and what part of the memory gives."""
        constant = [] if self.constant in (None, self.chance) else [("constant", self.constant)]
        return [*constant, *((f"with {plateau.memory}", plateau.score) for plateau in self.plateaus)]

    def solves(self, score: float) -> bool:
        return self.solved_at is not None and self.metric.reached(score, self.solved_at)

    def beats_chance(self, score: float, sequences: int) -> bool:
        """Better than chance by more than a score on so many sequences varies; True where no chance is known."""
        return self.chance is None or self.metric.beats(score, self.chance, sequences)


_OF_A_LENGTH = ("chance", "baseline_loss", "constant", "plateaus")


def read_scale(fields: Mapping[str, Any]) -> Scale:
    """The inverse of ``Scale.fields``; missing fields are None."""
    metric = metric_called(fields.get("metric", "score"), higher_is_better=fields.get("higher_is_better", True))
    chance, loss, goal, constant = (
        _optional(fields.get(name)) for name in ("chance", "baseline_loss", "solved_at", "constant")
    )
    plateaus = [
        Plateau(float(each["score"]), float(each["loss"]), str(each["memory"])) for each in fields.get("plateaus") or ()
    ]
    return Scale(metric, chance, loss, goal, constant, tuple(plateaus))


class Length(TypedDict):
    """Scores at one length, on so many held-out sequences. ``distinct``: different ones.

    ``chance``, ``baseline_loss``, ``constant``, ``plateaus``: as in a Scale, at this length. None: not recorded.
    """

    seq_len: int
    sequences: int
    score: float
    loss: float
    distinct: int | None
    chance: float | None
    baseline_loss: float | None
    constant: float | None
    plateaus: list[dict[str, Any]]


class StoredResult(TypedDict):
    """``result.json``. Lengths are in timesteps, steps in updates; infinities and NaN are floats.

    ``score`` and ``loss``: on held-out sequences of the training length, after training. ``steps_to_solve``: the first
    evaluation during training that reached ``solved_at``; None: none did. ``probes``: name -> ``start`` and ``end`` of
    training -> what the probe measured; for ``gradient``: series -> the numbers of a ``decay.Decay``.
    """

    task: str
    cell: str
    seq_len: int
    seed: int
    hidden_size: int
    layers: int
    parameters: int
    steps: int
    device: str
    baseline_loss: float | None
    metric: str
    higher_is_better: bool
    score: float
    chance: float | None
    loss: float
    solved_at: float | None
    constant: float | None
    plateaus: list[dict[str, Any]]
    solved: bool | None
    steps_to_solve: int | None
    best_step: NotRequired[int]  # of the weights, where these are not the last: train.patience
    by_length: list[Length]
    probes: dict[str, dict[str, Any]]
    seconds: float
    steps_per_second: float
    versions: dict[str, str]


class Result(dict[str, Any]):
    """A ``StoredResult`` that shows its main numbers; all of them are its items, ``dict(result)`` shows these."""

    def __repr__(self) -> str:
        rows = self._rows()
        widest = max(len(label) for label, _ in rows)
        return "\n".join(f"{label.ljust(widest)}  {text}" for label, text in rows)

    def _repr_html_(self) -> str:
        style = "text-align:left;white-space:normal"
        rows = (
            f'<tr><th style="{style}">{escape(label)}</th><td style="{style}">{escape(text)}</td></tr>'
            for label, text in self._rows()
        )
        return f"<table>{''.join(rows)}</table>"

    def _rows(self) -> list[tuple[str, str]]:
        try:
            return [(printable(label), printable(text)) for label, text in _rows(cast("StoredResult", self))]
        except (KeyError, TypeError, ValueError):  # a copy from which items were taken
            return [("result", dict.__repr__(self))]


def _rows(result: StoredResult) -> list[tuple[str, str]]:
    """(what it is, the number as people write it)"""
    scale = read_scale(result)
    beside = [("chance", scale.chance), *scale.levels()]
    levels = ", ".join(f"{name} {scale.metric.text(score)}" for name, score in beside if score is not None)
    solved = solved_words(result["steps_to_solve"], solved=result["solved"])
    words = "; ".join(filter(None, [scale.metric.text(nan if diverged(result) else result["score"]), levels, solved]))
    loss = "" if scale.baseline_loss is None else f"; without memory {scale.baseline_loss:.4g}"
    lengths = [f"{row['seq_len']}: {scale.metric.text(row['score'])}" for row in result["by_length"]]
    rows = [
        ("run", f"{result['cell']} on {result['task']}, {result['seq_len']} timesteps, seed {result['seed']}"),
        (scale.metric.name, words),
        ("loss", f"{result['loss']:.4g}{loss}"),
        ("by length", ", ".join(lengths)),
    ]
    for name, measured in result["probes"].items():
        about = DESCRIPTIONS.get(name) or describe_unknown(measured.get("end", {}))
        start, end = (about.of_main(measured.get(when, {})) for when in ("start", "end"))
        shapes = [] if about.in_words is None else [text for one in (start, end) if (text := about.in_words(one))]
        for key, number in about.shown().items():
            if key in end and not (shapes and number.told):
                texts = [number.words(one[key]) for one in (start, end) if key in one]
                rows.append((number.title, f"{' to '.join(dict.fromkeys(texts))}{number.suffix(end[key])}"))
        if shapes:
            different = list(dict.fromkeys(shapes))
            before, after = different[0], different[-1]
            rows.append((name, after if before == after else f"{before} before training, {after} after"))
    size = f"{result['layers']} layers of " if result["layers"] != 1 else ""
    rows.append(("model", f"{size}{result['hidden_size']} units, {result['parameters']:,} parameters"))
    best = f"; these are the weights of step {result['best_step']}, the best" if "best_step" in result else ""
    rows.append(("trained", f"{result['steps']} updates in {result['seconds']:.3g} s on {result['device']}{best}"))
    rows.append(("items", ", ".join(result)))
    return rows


def diverged(result: StoredResult) -> bool:
    """True if the loss was not finite after training, as with ``on_nan=continue``: the answers of NaN are no score."""
    return isnan(result["score"]) or not isfinite(result["loss"])


def measured_row(row: dict[str, Any]) -> dict[str, Any]:
    """A line of ``metrics.jsonl``, with what probes measured, by their names, in ``probes``."""
    if row.get("kind") != "trace":
        return row
    common = {name: row[name] for name in ("kind", "step") if name in row}
    return {**common, "probes": {name: value for name, value in row.items() if name not in common}}


def _current(fields: dict[str, Any]) -> dict[str, Any]:
    """``result.json`` in its current layout: up to 0.2.0 the gradient was the only probe."""
    if "gradient" not in fields:
        return fields
    others = {name: value for name, value in fields.items() if name != "gradient"}
    return {**others, "probes": {"gradient": fields["gradient"]}}


def read_result(values: Mapping[str, Any]) -> StoredResult:
    """``result.json`` in its current layout, with its numbers as numbers.

    Raises:
        KeyError: a field is missing.
        TypeError, ValueError, AttributeError: a field has another type.
    """
    fields = _current(with_numbers(dict(values)))
    steps, seconds = whole(fields["steps"], "steps"), float(fields["seconds"])
    checked = StoredResult(
        task=str(fields["task"]),
        cell=str(fields["cell"]),
        seq_len=whole(fields["seq_len"], "seq_len"),
        seed=whole(fields["seed"], "seed"),
        hidden_size=whole(fields["hidden_size"], "hidden_size"),
        layers=whole(fields.get("layers", 1), "layers"),
        parameters=whole(fields["parameters"], "parameters"),
        steps=steps,
        device=str(fields.get("device", "cpu")),
        baseline_loss=_optional(fields.get("baseline_loss")),
        metric=str(fields["metric"]),
        higher_is_better=bool(fields["higher_is_better"]),
        score=float(fields["score"]),
        chance=_optional(fields["chance"]),
        loss=float(fields["loss"]),
        solved_at=_optional(fields["solved_at"]),
        constant=_optional(fields.get("constant")),
        plateaus=[asdict(plateau) for plateau in read_scale(fields).plateaus],
        solved=None if fields["solved"] is None else bool(fields["solved"]),
        steps_to_solve=None if fields["steps_to_solve"] is None else whole(fields["steps_to_solve"], "steps_to_solve"),
        by_length=[read_length(row) for row in fields["by_length"]],
        probes={str(name): dict(measured) for name, measured in fields["probes"].items()},
        seconds=seconds,
        steps_per_second=float(fields.get("steps_per_second", steps / seconds if seconds > 0 else inf)),
        versions=dict(fields.get("versions", {})),
    )
    return cast("StoredResult", Result({**fields, **checked}))  # fields that another version added stay


def read_length(row: Mapping[str, Any]) -> Length:
    """A row of ``by_length``, of ``evaluations.jsonl``, or a ``length`` row of ``metrics.jsonl``.

    Raises:
        KeyError, TypeError, ValueError: a field is missing or has another type.
    """
    return Length(
        seq_len=whole(row["seq_len"], "seq_len"),
        score=float(row["score"]),
        loss=float(row["loss"]),
        sequences=whole(row["sequences"], "sequences"),
        distinct=None if row.get("distinct") is None else whole(row["distinct"], "distinct"),
        chance=_optional(row.get("chance")),
        baseline_loss=_optional(row.get("baseline_loss")),
        constant=_optional(row.get("constant")),
        plateaus=[asdict(plateau) for plateau in read_scale(row).plateaus],
    )


def whole(value: Any, name: str) -> int:
    """Raise ValueError unless ``value`` is a whole number of 64 bits: 3 and 3.0 are, True is not."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} is beyond 64 bits")
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value != int(value):
        raise ValueError(f"{name} is {value!r}, no whole number")
    return int(value)


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)
