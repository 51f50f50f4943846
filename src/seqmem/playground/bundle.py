"""The data of the page as one JSON object: a task, sentences, and models with their weights.

Lengths in it are numbers of words. Where answers are fed back these are words of the source, as many as are written:
half of the timesteps.

Axes: T time, N words, V vocabulary, E features of an embedded token, H hidden units, G gates, K answers.
"""

from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import count
from math import isfinite, isnan, log
from sys import modules
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from ..cells.base import Cell
from ..evaluate import Evaluation
from ..lookback import LookBack, mean_over
from ..models.base import Model, parameter_count
from ..randomness import generator
from ..reading import read, sentence, sentences
from ..signals import ACCURACY, Batch
from ..tasks.base import Feedback, Task

FORMAT = 2

EQUATIONS = frozenset(
    {
        *("rnn tanh", "rnn relu", "lstm", "gru torch", "gru cho"),
        *("mgu", "ugrnn", "janet", "mingru", "minlstm", "rglru", "attention"),
        *("linear attention", "retention", "gla", "deltanet", "gated deltanet", "mlstm"),
    }
)
"""The equations that cells.js implements."""

READINGS = 12
"""The number of lengths at which a model that cannot run in the browser reads one sentence in advance."""

WRITINGS = 5
"""The same where it writes: a table of all answers for each word is large."""

LOOKS = 60
"""Up to this length a model that cannot run in the browser says from every timestep what it looks back at; in longer
sequences from the last alone, because the numbers grow with the square of the length."""


@dataclass(frozen=True, eq=False)
class Playable:
    """A trained model, and the facts about it on the page.

    Args:
        cell: the cell's name, e.g. ``lstm``.
        seq_len: the training length, or the longest of several.
        shortest: the shortest training length; None: there is only one.
        label: by default ``lstm, trained at 50 words``.
        group: equal for models that differ in their seed only; by default the label.
        score: at ``seq_len``, on held-out sequences.
        lengths: scores at several lengths, on held-out sequences.
        trained: the lengths that training drew, of which the page shows held-out sentences.
        beam: how it writes, where answers are fed back: as for its scores.
    """

    model: Model
    task: Task
    cell: str
    seq_len: int
    seed: int = 0
    shortest: int | None = None
    label: str = ""
    group: str = ""
    score: float | None = None
    lengths: Sequence[Evaluation] = ()
    trained: Collection[int] = ()
    beam: int = 1

    @property
    def name(self) -> str:
        return self.label or f"{self.cell}, trained at {self.seq_len} words"


def bundle(models: Sequence[Playable], *, sentences_per_length: int = 6, seed: int = 0) -> dict[str, Any]:
    """The page's data. Sentence 3 of 50 timesteps is ``reading.sentence(task, 50, seed=seed, number=3)``.

    Args:
        sentences_per_length: for lengths up to 200 timesteps; longer ones have fewer sentences, at least 2.

    Raises:
        ValueError: as ``common_task``; or ``sentences_per_length`` is below 1.
    """
    if sentences_per_length < 1:
        raise ValueError(f"sentences_per_length={sentences_per_length}: must be at least 1")
    task = common_task(models)
    per_word = timesteps_per_word(task)
    lengths = _lengths(task, models)
    trained = {length for length in lengths if any(length * per_word in model.trained for model in models)}
    draw = partial(_draw, task, per_word, seed=seed, trained={length * per_word for length in trained})
    pool = [_sentences(task, draw, length, sentences_per_length) for length in lengths]
    ahead = _ahead(lengths, [model.seq_len // per_word for model in models], READINGS if per_word == 1 else WRITINGS)
    return {
        "format": FORMAT,
        "made_with": {"seqmem": version("seqmem"), "torch": torch.__version__},
        "task": _task(task, {*lengths, *(each.seq_len // per_word for model in models for each in model.lengths)}),
        "sentences": [
            {"seq_len": length, "tokens": _text(tokens, _token_type(task)), "right": right}
            for length, (tokens, right) in zip(lengths, pool, strict=True)
        ],
        "models": [
            {
                "id": identity,
                "label": playable.name,
                "cell": playable.cell,
                "seq_len": playable.seq_len // per_word,
                "shortest": (playable.shortest or playable.seq_len) // per_word,
                "seed": playable.seed,
                "group": playable.group or playable.name,
                "parameters": parameter_count(playable.model),
                "score": _number(playable.score),
                "lengths": [
                    {"seq_len": each.seq_len // per_word, "score": _number(each.score), "sequences": each.sequences}
                    for each in playable.lengths
                    if each.seq_len % per_word == 0
                ],
                "beam": playable.beam,
                **(_weights(playable.model, task) or _readings(playable, draw, lengths, ahead)),
            }
            for identity, playable in _identities(models, per_word).items()
        ],
    }


def _identities(models: Sequence[Playable], per_word: int) -> dict[str, Playable]:
    """``lstm-50-0``, short enough for an address; ``lstm-50-0-2`` is the second of that cell, length and seed."""
    identities: dict[str, Playable] = {}
    for playable in models:
        plain = f"{playable.cell}-{playable.seq_len // per_word}-{playable.seed}"
        names = (plain if number == 1 else f"{plain}-{number}" for number in count(1))
        identities[next(name for name in names if name not in identities)] = playable
    return identities


def common_task(models: Sequence[Playable]) -> Task:
    """The task that all models were trained on.

    Raises:
        ValueError: there are no models, they were trained on different tasks, or the page cannot show their task.
    """
    if not models:
        raise ValueError("there are no models to show")
    first, *others = models
    task = first.task
    for other in others:
        if other.task != task:
            raise ValueError(
                f"'{other.name}' was trained on {other.task}, '{first.name}' on {task}: a page shows models of one task"
            )
    if not (task.inputs.discrete and task.targets.discrete and task.targets.metric is ACCURACY):
        raise ValueError(f"task={task.choice}: the page shows tasks of words that are answered by one of several")
    if task.inputs.size > 1 << 16:
        raise ValueError(f"task={task.choice}: {task.inputs.size} words are too many for the page: at most 65536")
    if task.feedback() is None and sentence(task, task.min_seq_len).asked[:-1].any():
        raise ValueError(
            f"task={task.choice}: the page shows tasks that ask once, at the end, and those whose answers are fed back"
        )
    return task


def timesteps_per_word(task: Task) -> int:
    """1; where answers are fed back 2, as each word of the source is one of the answer, too."""
    return 1 if task.feedback() is None else 2


def _task(task: Task, lengths: Collection[int]) -> dict[str, Any]:
    """``chances``: chance at those of ``lengths`` where it is another than ``chance``, that of long sentences."""
    naming, automaton, feedback = task.naming(), task.automaton(), task.feedback()
    per_word = timesteps_per_word(task)
    # The first line of every task's module is its question.
    title = (modules[type(task).__module__].__doc__ or task.name).partition("\n")[0].replace("*", "")
    return {
        "name": task.name,
        "title": title,
        "vocabulary": task.words(torch.arange(task.inputs.size)),
        "answers": [task.answer(torch.tensor(answer)) for answer in range(task.targets.size)],
        "chance": task.chance,
        "chances": {
            str(at): task.chance_at(at * per_word)
            for at in sorted(lengths)
            if task.chance_at(at * per_word) != task.chance
        },
        "min_seq_len": -(-task.min_seq_len // per_word),
        "metric": task.targets.metric.name,
        "solved_at": task.solved_at,
        "naming": naming
        and {
            "phrases": [list(map(int, phrase)) for phrase in naming.phrases],
            "asks": {str(token): list(map(int, meant)) for token, meant in naming.asks.items()},
        },
        "automaton": automaton
        and {
            "slots": [list(map(int, slot)) for slot in automaton.slots],
            "edges": [[list(edge) for edge in edges] for edges in automaton.edges],
            "ends": sorted(automaton.ends),
            "latest": {str(state): list(rule) for state, rule in automaton.latest.items()},
        },
        "writes": feedback
        and {"go": feedback.go, "tokens": feedback.tokens.tolist(), "known": _source_tokens(task, feedback)},
    }


def _source_tokens(task: Task, feedback: Feedback) -> list[int]:
    """The tokens of which sources are made: of 256 sequences of 60 timesteps."""
    drawn = task.sample(256, max(60, task.min_seq_len), generator(0, "source tokens"))
    return feedback.source(drawn.inputs).unique().tolist()


def _lengths(task: Task, models: Sequence[Playable]) -> list[int]:
    """Every length up to 60 words, then larger steps, up to four times the longest training length; twice, of those
    that are written: what a sentence takes to write and to draw grows with the square of its length."""
    per_word = timesteps_per_word(task)
    trained = {model.seq_len // per_word for model in models}
    longest, shortest = max(trained), -(-task.min_seq_len // per_word)
    end = max(longest, min((4 if per_word == 1 else 2) * longest, 1000))
    if task.max_seq_len is not None:
        end = min(end, task.max_seq_len // per_word)
    lengths = {length for length in trained if shortest <= length <= end} | {end}
    length = shortest
    while length < end:
        lengths.add(length)
        step = next(step for step, most in ((1, 60), (5, 100), (10, 200), (25, 500), (50, length + 1)) if length < most)
        length += step - length % step
    return sorted(lengths)


def _draw(task: Task, per_word: int, words: int, numbers: Iterable[int], **more: Any) -> list[Batch]:
    return sentences(task, words * per_word, numbers, **more)


def _sentences(
    task: Task, draw: Callable[..., list[Batch]], length: int, most: int
) -> tuple[ndarray, list[int] | list[list[int]]]:
    """[sentences N] tokens, of the sources where answers are fed back; and the right answers."""
    drawn = draw(length, range(min(most, max(2, 1200 // length))))
    tokens, feedback = torch.cat([batch.inputs for batch in drawn], 1), task.feedback()
    if feedback is None:
        return tokens.T.numpy(), [int(batch.targets[-1, 0]) for batch in drawn]
    return feedback.source(tokens).T.numpy(), [batch.targets[batch.counted, 0].tolist() for batch in drawn]


def _token_type(task: Task) -> str:
    return "u1" if task.inputs.size <= 256 else "<u2"


def _weights(model: Model, task: Task) -> dict[str, Any] | None:
    """The weights of a model that engine.js can compute; None if a cell has other equations than ``EQUATIONS``."""
    whole = model.layers()
    if whole is None or any(cell.equations not in EQUATIONS for layers in whole.cells.values() for cell in layers):
        return None
    automaton, vectors = task.automaton(), whole.vectors
    if vectors is not None and automaton is not None:
        vectors = vectors[sorted(automaton.tokens)]  # the page reads no others
    return {
        "equations": whole.equations,
        "embed": None if vectors is None else _text(vectors),
        "vocab": whole.vocabulary,
        "embed_size": whole.width,
        "cells": {name: [_layer(cell) for cell in layers] for name, layers in whole.cells.items()},
        "weights": {name: _text(values) for name, values in whole.weights.items()},
        "readings": None,
    }


def _layer(cell: Cell) -> dict[str, Any]:
    return {
        "equations": cell.equations,
        "hidden": cell.output_size,
        "input": cell.input_size,
        **{name: _text(values) for name, values in cell.weights().items()},
    }


def _ahead(lengths: Sequence[int], trained: Sequence[int], count: int) -> list[int]:
    """Indices of the ``lengths`` to read in advance: the training lengths, and others evenly spaced on a log scale."""
    logs = np.log(lengths)
    evenly = np.linspace(logs[0], logs[-1], count)
    return sorted({int(np.abs(logs - at).argmin()) for at in (*evenly, *map(log, trained))})


def _readings(
    playable: Playable, draw: Callable[..., list[Batch]], lengths: Sequence[int], ahead: Sequence[int]
) -> dict[str, Any]:
    model, task = playable.model, playable.task
    readings = []
    for index in ahead:
        if task.feedback() is not None:
            readings.append({"sentence": [index, 0], **_writing(playable, *draw(lengths[index], [0]))})
            continue
        reading = read(model, task, *draw(lengths[index], [0]))
        with np.errstate(divide="ignore"):  # a gradient of zero has the logarithm -inf, which float32 holds too
            gradient = {name: _text(np.log10(values)) for name, values in reading.gradient.items()}
        readings.append(
            {
                "sentence": [index, 0],
                "answer": None if reading.right is None else int(reading.right[-1]),
                "confidence": _text(reading.outputs),
                "gates": {name: _text(values.mean(1)) for name, values in reading.gates.items()},
                "norms": {name: _text(np.linalg.norm(values, axis=1)) for name, values in reading.states.items()},
                "gradient": gradient,
                "keeps": list(reading.keeps),
                "looks": [_looks(name, looked, len(reading)) for name, looked in reading.attention.items()],
            }
        )
    return {"equations": None, "embed": None, "cells": None, "weights": None, "readings": readings}


def _writing(playable: Playable, batch: Batch) -> dict[str, Any]:
    """What it writes, how sure it is of each answer, and what it looks at in the source, in 1/65535."""
    reading = read(playable.model, playable.task, batch, gradient=False, beam=playable.beam)
    count = len(reading) // 2
    alignment = None
    for name, looked in reading.attention.items():
        rows = np.nan_to_num([mean_over(looked, t)[:count] for t in range(count, 2 * count)])
        if rows.any():  # a decoder's own state, for example, has nothing of the source
            over = _text(np.round(65535 * rows), "<u2")
            alignment = {"name": name, "effective": looked.effective, "over": over}
            break
    vector = reading.states.get("context")
    return {
        "answers": reading.top[count:].tolist(),
        "confidence": _text(reading.outputs[count:]),
        "alignment": alignment,
        "vector": None if vector is None else _text(vector[count]),
    }


def _looks(name: str, looked: LookBack, length: int) -> dict[str, Any]:
    """Shares (mean over heads) in 1/65535 of the timesteps so far, from the timesteps ``first`` to the last."""
    first = 0 if length <= LOOKS else length - 1
    rows = [np.nan_to_num(mean_over(looked, t)[: t + 1]) for t in range(first, length)]
    over = _text(np.round(65535 * np.concatenate(rows)), "<u2")
    return {"name": name, "effective": looked.effective, "first": first, "over": over}


def _text(values: Tensor | ndarray, kind: str = "<f4") -> str:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    return b64encode(np.ascontiguousarray(array.astype(kind)).tobytes()).decode()


def _number(value: float | None) -> float | str | None:
    """A number as in result.json: infinities are text, NaN and missing numbers are null."""
    if value is None or isnan(value):
        return None
    return value if isfinite(value) else ("inf" if value > 0 else "-inf")
