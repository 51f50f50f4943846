"""Runs in the terminal: a page about one, several side by side. No torch: runs are only files."""

import json
import os
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf, isfinite, isnan, sqrt
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.text import Text

from ...decay import together
from ...runs.directory import RESULT, RunDirectory, RunError
from ...runs.settings import own_name
from .strip import Marks, bar, columns, fitted, heat_strip, legend, marks, profile, strip_line
from .words import duration, half_life_text, here, horizon_text, score_text, share_text, typed

WIDEST = 120
"""Characters beyond which a page about one run gets no wider: lines are for eyes."""

LABEL = 11
"""Width of the labels at the left of a page about one run."""


# What is known about a run


@dataclass(frozen=True, eq=False)
class Reading:
    """What a run's files say, finished or not.

    ``decay``: ``start`` and ``end`` (or the latest one) -> a Decay's numbers. ``profiles``: the same -> ``profile``.
    ``by_length``: length -> score.
    """

    run: RunDirectory
    config: dict[str, Any]
    task: str
    cell: str
    state: str
    step: int
    steps: int
    error: str | None
    metric: str
    higher_is_better: bool
    chance: float | None
    baseline_loss: float | None
    solved_at: float | None
    score: float | None
    loss: float | None
    sequences: int
    solved: bool | None
    steps_to_solve: int | None
    by_length: dict[int, float]
    decay: dict[str, dict[str, float]]
    profiles: dict[str, np.ndarray]
    traced_at: int | None
    result: dict[str, Any] | None

    @property
    def seq_len(self) -> int:
        return int(self.config["seq_len"])

    @property
    def finished(self) -> bool:
        return self.result is not None

    def share(self, score: float) -> tuple[float, float | None]:
        """(score, chance) as shares of a bar: of 1 for an accuracy, else of the largest number there is."""
        top = 1.0
        if self.metric != "accuracy":
            top = max(
                [value for value in (*self.by_length.values(), self.chance or 0.0, score) if isfinite(value)] or [1.0]
            )
        top = top if top > 0 else 1.0
        return score / top, None if self.chance is None else self.chance / top

    def style(self, score: float | None) -> str:
        """Green: solved. Red: nobody could tell it from chance. None: nothing is known to compare it with."""
        if score is None or (self.chance is None and self.solved_at is None):
            return ""
        if isnan(score):
            return "red"
        if self.solved_at is not None and (
            score >= self.solved_at if self.higher_is_better else score <= self.solved_at
        ):
            return "green"
        return "yellow" if self.better_than_chance(score) else "red"

    def better_than_chance(self, score: float) -> bool:
        """By more than three standard errors of an accuracy, or 5 % of another metric."""
        if self.chance is None:
            return True
        if self.metric == "accuracy":
            return score > self.chance + 3 * sqrt(self.chance * (1 - self.chance) / self.sequences)
        return score > self.chance * 1.05 if self.higher_is_better else score < self.chance * 0.95


def read(run: RunDirectory) -> Reading:
    """Read everything that is shown of a run.

    Raises:
        RunError: a file of the run is missing, damaged, or not what it should be.
    """
    try:
        return _read(run)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        # JSON that is whole, but not what seqmem writes.
        said = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise RunError(f"{run.path} cannot be read: {said}") from error


def _read(run: RunDirectory) -> Reading:
    config, result, metrics = run.config(), run.result(), run.metrics()
    if result is not None and (missing := [key for key in _NEEDED if key not in result]):
        raise RunError(f"{run.file(RESULT)} has no {missing[0]}: it was written by another version of seqmem")
    state, step, error = _state(run, result, metrics)
    steps = int(config["steps"])
    facts = result if result is not None else _json(run, "environment.json")
    evals = [row for row in metrics if row["kind"] == "eval"]
    traces = [row for row in metrics if row["kind"] == "trace"]
    if result is not None:
        score, loss = result["score"], result["loss"]
        lengths = result["by_length"]
        decays = {when: series.get("state") for when, series in result["gradient"].items()}
    else:
        last: dict[str, Any] = evals[-1] if evals else {}
        score, loss = last.get("score"), last.get("loss")
        lengths = [row for row in metrics if row["kind"] == "length"]
        decays = {"end": traces[-1]["gradient"].get("state")} if traces else {}
        if traces and traces[0]["step"] == 0:
            decays["start"] = traces[0]["gradient"].get("state")
    own = [row["sequences"] for row in lengths if row["seq_len"] == config["seq_len"]]
    profiles, traced_at = _profiles(run)
    return Reading(
        run=run,
        config=config,
        task=own_name(config["task"]),
        cell=own_name(config["cell"]),
        state=state,
        step=step,
        steps=steps,
        error=error,
        metric=facts.get("metric", "score"),
        higher_is_better=facts.get("higher_is_better", True),
        chance=facts.get("chance"),
        baseline_loss=facts.get("baseline_loss"),
        solved_at=facts.get("solved_at"),
        score=None if score is None else float(score),
        loss=None if loss is None else float(loss),
        sequences=own[0] if own else 256,
        solved=facts.get("solved"),
        steps_to_solve=facts.get("steps_to_solve"),
        by_length={
            row["seq_len"]: float(row["score"])
            for row in sorted([*lengths, *run.evaluations()], key=lambda row: row["seq_len"])
        },
        decay={when: {key: float(numbers[key]) for key in _DECAY} for when, numbers in decays.items() if numbers},
        profiles=profiles,
        traced_at=traced_at,
        result=result,
    )


_NEEDED = ("score", "loss", "by_length", "gradient", "steps", "hidden_size", "parameters", "seconds")
_DECAY = ("half_life", "horizon", "log10_first_over_last", "r2")


def _json(run: RunDirectory, name: str) -> dict[str, Any]:
    """A file that a run can be shown without."""
    try:
        found = json.loads(run.file(name).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _state(
    run: RunDirectory, result: dict[str, Any] | None, metrics: list[dict[str, Any]]
) -> tuple[str, int, str | None]:
    """(finished, running, killed, interrupted, failed or not started; the last step known of; what went wrong)"""
    if result is not None:
        return "finished", int(result["steps"]), None
    status = run.status()
    step = max([int(row["step"]) for row in metrics[-1:]] + ([status.step] if status is not None else []), default=0)
    if status is None:
        return "not started", step, None
    killed = status.state == "running" and status.host == socket.gethostname() and not _alive(status.pid)
    return "killed" if killed else status.state, step, status.error


def _alive(pid: int) -> bool:
    if os.name != "posix":  # elsewhere, os.kill does not ask but kill
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _profiles(run: RunDirectory) -> tuple[dict[str, np.ndarray], int | None]:
    gradients = run.gradients(ends=True)
    if gradients is None or not len(gradients.step):
        return {}, None
    norms = together(gradients.norms)
    profiles = {"end": profile(norms[-1], gradients.answered_at)}
    if gradients.step[0] == 0:
        profiles["start"] = profile(norms[0], gradients.answered_at)
    return profiles, int(gradients.step[-1])


# Words about a run


_STATE_STYLES = {"finished": "green", "running": "cyan", "interrupted": "yellow", "killed": "yellow", "failed": "red"}


def state_text(found: Reading) -> Text:
    text = found.state
    if not found.finished:
        text += f" at step {found.step} of {found.steps}" if found.state != "not started" else ""
    return Text(text, _STATE_STYLES.get(found.state, "dim"))


def verdict(found: Reading) -> str:
    """What a score comes to, e.g. ``solved at step 250``; empty where there is nothing to say."""
    if found.solved and found.steps_to_solve is not None:
        return f"solved at step {found.steps_to_solve}"
    if found.solved:
        return "solved"
    if found.steps_to_solve is not None:
        return f"solved at step {found.steps_to_solve}, but not at the end"
    if found.score is not None and not found.better_than_chance(found.score):
        return "no better than chance"
    return "not solved" if found.solved is False else ""


# One run


def page(found: Reading, console: Console) -> list[Text]:
    """Everything about one run, in lines."""
    have, width = marks(console), min(console.width, WIDEST)
    config = found.config
    what = f"{found.seq_len} timesteps {have.dot} seed {config['seed']}"
    head = Text.assemble((f"{found.cell} on {found.task}", "bold"), "  ", (what, "dim"))
    state = state_text(found)
    gap = max(2, width - head.cell_len - state.cell_len)
    lines = [Text.assemble(head, " " * gap, state), Text(have.line * width, "dim")]
    if found.error:
        lines.append(_row("error", Text(found.error, "red")))
    if found.state in ("interrupted", "killed"):
        lines.append(_row("go on with", Text(_command(found), "bold")))
    lines += _scores(found)
    lines += _lengths(found, have, width)
    lines += _gradient(found, have, width)
    lines += ["", *_about(found)] if found.result is not None else []
    lines.append(_row("files", Text(str(here(found.run.path)))))
    return [line if isinstance(line, Text) else Text(line) for line in lines]


def _row(label: str, *parts: Text | str | tuple[str, str]) -> Text:
    return Text.assemble((label.ljust(LABEL), "dim"), " ", *parts)


def _command(found: Reading) -> str:
    try:
        overrides = json.loads(found.run.file("overrides.json").read_text())
        return typed("seqmem", "train", *overrides)
    except (OSError, ValueError, TypeError):
        return "the command that started it"


def _scores(found: Reading) -> list[Text]:
    if found.score is None:
        return [_row("score", ("none yet", "dim"))]
    short = len(found.metric) <= LABEL
    parts: list[Text | str | tuple[str, str]] = [
        (score_text(found.metric, found.score), f"bold {found.style(found.score)}")
    ]
    if not short:
        parts.append(f" {found.metric}")
    if found.chance is not None:
        parts.append((f"  chance {score_text(found.metric, found.chance)}", "dim"))
    if said := verdict(found):
        parts.append((f"  {said}", found.style(found.score)))
    rows = [_row(found.metric if short else "score", *parts)]
    if found.loss is not None:
        chance = f"  chance {found.baseline_loss:.3f}" if found.baseline_loss is not None else ""
        rows.append(_row("loss", f"{found.loss:.3g}", (chance, "dim")))
    return rows


def _lengths(found: Reading, have: Marks, width: int) -> list[Text]:
    if not found.by_length:
        return []
    rows = []
    lengths = _thinned(list(found.by_length), 16, keep=found.seq_len)
    trained = "trained up to here" if found.config["task"].get("lengths") == "uniform" else "trained"
    for length in lengths:
        score = found.by_length[length]
        own = length == found.seq_len
        rows.append(
            [
                Text(f"{length}", "bold" if own else ""),
                Text(score_text(found.metric, score), found.style(score)),
                bar(*found.share(score), have, max(10, min(40, width - 55)), found.style(score)),
                Text(f"{have.pointer} {trained}" if own else "", "bold"),
            ]
        )
    lines = columns(rows, right={0, 1})
    left_out = len(found.by_length) - len(lengths)
    note = f"  ({left_out} of {len(found.by_length)} lengths left out)" if left_out else ""
    chance = f"{have.goal} chance" if found.chance is not None else ""
    labelled = [_row("by length" if i == 0 else "", line) for i, line in enumerate(lines)]
    # The mark of chance is explained where the bar of the first line ends.
    labelled[0].append_text(Text(f"  {chance}{note}", "dim"))
    return [Text(), *labelled]


def _thinned(values: list[int], most: int, *, keep: int) -> list[int]:
    if len(values) <= most:
        return values
    chosen = {values[round(i * (len(values) - 1) / (most - 2))] for i in range(most - 1)}
    return sorted(chosen | ({keep} & set(values)))


def _gradient(found: Reading, have: Marks, width: int) -> list[Text]:
    if not found.profiles:
        return [Text(), _row("gradient", ("no trace yet" if not found.finished else "not traced", "dim"))]
    notes = {"start": "untrained", "end": f"step {found.traced_at}"}
    order = [when for when in ("start", "end") if when in found.profiles]
    if len(order) == 2 and found.traced_at == 0:
        order = ["start"]
    longest = max(len(notes[when]) for when in order)
    lines = [Text()]
    for i, when in enumerate(order):
        drawn = strip_line(have, found.profiles[when], width - LABEL - 1, notes[when].ljust(longest))
        drawn.rstrip()
        lines.append(_row("" if i else "gradient", drawn))
    lines.append(
        _row("", legend(have, *(found.profiles[when] for when in order)), ("  of the gradient at the answer", "dim"))
    )
    decays = [found.decay[when] for when in order if when in found.decay]
    if not decays:
        return lines
    arrow = f" {have.arrow} "

    def change(texts: Iterable[str]) -> str:
        """From the start to the end; what does not change is said once."""
        return arrow.join(dict.fromkeys(texts))

    half_lives = [decay["half_life"] for decay in decays]
    # A half-life beyond the sequence is a nearly flat line, of which a fit has nothing to explain.
    bent = decays[-1]["r2"] < 0.8 and half_lives[-1] < found.seq_len
    lines.append(
        _row(
            "half-life",
            change(map(half_life_text, half_lives)),
            " timesteps" if isfinite(half_lives[-1]) else "",
            (f"  (far from geometric: r2 {decays[-1]['r2']:.2f})" if bent else "", "dim"),
        )
    )
    horizons = [decay["horizon"] for decay in decays]
    unit = " timesteps back" if isfinite(horizons[-1]) else ""
    lines.append(_row("horizon", change(map(horizon_text, horizons)), unit))
    shares = change(share_text(decay["log10_first_over_last"]) for decay in decays)
    lines.append(_row("arrives", shares, " at the first timestep"))
    return lines


def _about(found: Reading) -> list[Text]:
    result = found.result or {}
    layers = result.get("layers", 1)
    model = f"{layers} layers of " if layers != 1 else ""
    speed = result.get("steps_per_second")
    took = (
        duration(result["seconds"]) + (f", {speed:.3g} steps/s" if speed else "") + f" on {result.get('device', 'cpu')}"
    )
    return [
        _row("model", f"{model}{result['hidden_size']} units, {result['parameters']:,} parameters"),
        _row("time", took),
    ]


# Several runs


class _Group(NamedTuple):
    """Runs of one task, and the settings that tell them apart: header -> a value for each run."""

    found: list[Reading]
    settings: dict[str, list[str]]
    common: list[str]


def comparison(found: list[Reading], console: Console) -> list[Text]:
    """Runs side by side, in lines: a block for each task."""
    have = marks(console)
    tasks = dict.fromkeys(reading.task for reading in found)
    lines: list[Text] = []
    for task in tasks:
        group = _group([reading for reading in found if reading.task == task], have)
        lines += [Text()] if lines else []
        lines += _block(group, have, console.width)
    return lines


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = f"{value:g}" if isinstance(value, float) else "-" if value is None else str(value)
    return flat


def _group(found: list[Reading], have: Marks) -> _Group:
    flats = []
    for reading in found:
        flat = _flat(reading.config)
        where = {"cell": reading.cell, "seq_len": flat.pop("seq_len"), "seed": flat.pop("seed")}
        for key in ("cell.name", "task.name", "outputs", "force", "quiet"):
            flat.pop(key, None)
        flats.append(where | flat)
    keys = list(dict.fromkeys(key for flat in flats for key in flat))
    differ = [key for key in keys if _differs(key, flats)]
    shown = differ[:5]
    short = Counter(key.rpartition(".")[2] for key in shown)
    settings = {
        key if short[key.rpartition(".")[2]] > 1 else key.rpartition(".")[2]: [flat.get(key, "") for flat in flats]
        for key in shown
    }
    rows = list(zip(*settings.values(), strict=True)) if settings else [()] * len(found)
    if len(set(rows)) < len(rows) or not settings:
        settings["run"] = [reading.run.path.name.rpartition("-")[2] for reading in found]
    first = flats[0]
    words = {"cell": first["cell"], "seq_len": f"{first['seq_len']} timesteps", "seed": f"seed {first['seed']}"}
    common = [text for key, text in words.items() if key not in differ]
    metrics = {(reading.metric, reading.chance) for reading in found}
    if len(metrics) == 1 and found[0].chance is not None:
        common.append(f"chance {score_text(found[0].metric, found[0].chance)}")
    return _Group(
        found, {key: [fitted(value, 20, have) for value in values] for key, values in settings.items()}, common
    )


def _differs(key: str, flats: list[dict[str, str]]) -> bool:
    """Whether a setting tells runs apart. One that only one kind of cell has doesn't; the cell's name does."""
    if len({flat[key] for flat in flats if key in flat}) > 1:
        return True
    cells_with = {flat["cell"] for flat in flats if key in flat}
    return any(key not in flat for flat in flats if flat["cell"] in cells_with)


def _block(group: _Group, have: Marks, width: int) -> list[Text]:
    found = group.found
    title = Text.assemble((found[0].task, "bold"), "  ", (f" {have.dot} ".join(group.common), "dim"))
    title.rstrip()
    names = [[Text(value, "bold") for value in row] for row in zip(*group.settings.values(), strict=True)]
    heads = [Text(key, "dim") for key in group.settings]
    numeric = {i for i, values in enumerate(group.settings.values()) if all(_is_number(value) for value in values)}
    table = _results(group, names, heads, numeric, width)
    widest = max(line.cell_len for line in table)
    traced = [reading for reading in found if "end" in reading.profiles]
    lines = [title, Text()]
    longest = max((len(reading.profiles["end"]) for reading in traced), default=0)
    key = legend(have, *(reading.profiles["end"] for reading in traced))
    when = "at the end" if all(reading.finished for reading in traced) else "at the latest trace"
    if traced and width - widest - 3 >= max(40, min(longest, 60)):
        room = min(width - widest - 3, longest)
        lines.append(_beside(table[0], widest, Text.assemble((_ends(room), "dim"))))
        for line, reading in zip(table[1:], found, strict=True):
            lines.append(_beside(line, widest, _aligned(reading, have, room, longest)))
        lines.append(_beside(Text(), widest, Text.assemble(key, (f"  gradient {when}", "dim"))))
    else:
        lines += table
        if traced:
            left = columns([heads, *names], right=numeric)
            wide = max(line.cell_len for line in left)
            room = max(8, min(width - wide - 3, longest))
            lines += [Text(), Text.assemble((f"gradient {when}  ", "dim"), key)]
            lines.append(_beside(left[0], wide, Text(_ends(room), "dim")))
            for line, reading in zip(left[1:], found, strict=True):
                lines.append(_beside(line, wide, _aligned(reading, have, room, longest)))
    return lines + _length_table(group, names, heads, numeric, have, width)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("", "-")
    return True


def _ends(room: int) -> str:
    return "first".ljust(room - len("answer")) + "answer" if room >= 14 else "to the answer".rjust(room)[:room]


def _beside(line: Text, width: int, drawn: Text) -> Text:
    return Text.assemble(line, " " * (width - line.cell_len + 3), drawn)


def _aligned(reading: Reading, have: Marks, room: int, longest: int) -> Text:
    if "end" not in reading.profiles:
        return Text("no trace", "dim")
    return heat_strip(reading.profiles["end"], have, room, longest)


def _results(group: _Group, names: list[list[Text]], heads: list[Text], numeric: set[int], width: int) -> list[Text]:
    found = group.found
    metrics = {reading.metric for reading in found if reading.score is not None}
    score = [_score_text(reading, reading.score) for reading in found]
    table = {metrics.pop() if len(metrics) == 1 else "score": score}
    if any(reading.solved is not None for reading in found):
        table["solved at"] = [Text(_solved(reading)) for reading in found]
    for title, key in (("half-life", "half_life"), ("horizon", "horizon")):
        table[title] = [Text(_brief(reading.decay["end"][key]) if "end" in reading.decay else "") for reading in found]
    if len({(reading.result or {}).get("parameters") for reading in found}) > 1:
        table["parameters"] = [Text(f"{reading.result['parameters']:,}" if reading.result else "") for reading in found]
    if not all(reading.finished for reading in found):
        table["state"] = [_brief_state(reading) for reading in found]
    lines: list[Text] = []
    for too_much in ("", "parameters", "solved at"):  # in the order in which a narrow terminal does without
        table.pop(too_much, None)
        right = numeric | {len(heads) + i for i, title in enumerate(table) if title != "state"}
        rows = [[*name, *row] for name, row in zip(names, zip(*table.values(), strict=True), strict=True)]
        lines = columns([[*heads, *(Text(title, "dim") for title in table)], *rows], right=right)
        if max(line.cell_len for line in lines) <= width:
            break
    return lines


def _score_text(reading: Reading, score: float | None) -> Text:
    text = "none yet" if score is None else score_text(reading.metric, score)
    return Text(text, f"bold {reading.style(score)}".strip())


def _solved(reading: Reading) -> str:
    if reading.solved is None:
        return ""
    if not reading.solved:
        return "no"
    return "yes" if reading.steps_to_solve is None else str(reading.steps_to_solve)


def _brief_state(reading: Reading) -> Text:
    """Where there is little room."""
    text = state_text(reading)
    if reading.finished or reading.state == "not started":
        return text
    return Text(f"{reading.state} {100 * reading.step // max(reading.steps, 1)} %", text.style)


def _brief(timesteps: float) -> str:
    """A half-life or a horizon where there is little room."""
    return "inf" if timesteps == inf else "-" if isnan(timesteps) else half_life_text(timesteps)


def _length_table(
    group: _Group, names: list[list[Text]], heads: list[Text], numeric: set[int], have: Marks, width: int
) -> list[Text]:
    found = group.found
    counts = Counter(length for reading in found for length in reading.by_length)
    if not counts:
        return []
    left = max(line.cell_len for line in columns([heads, *names], right=numeric))
    widest = (
        max(len(score_text(reading.metric, score)) for reading in found for score in reading.by_length.values()) + 3
    )
    room = max(1, (width - left - 1) // widest)
    # Where there are too many lengths, those that most of the runs share say most; among them, spread evenly.
    ranked = sorted(counts, key=lambda length: (-counts[length], length))
    shared = sorted(length for length in counts if counts[length] == counts[ranked[0]])
    lengths = _thinned(shared, room, keep=shared[0]) if len(shared) > room else sorted(ranked[:room])
    head = [*heads, *(Text(f"{length} ", "dim") for length in lengths)]
    rows = []
    for reading, name in zip(found, names, strict=True):
        cells = []
        for length in lengths:
            score = reading.by_length.get(length)
            if score is None:
                cells.append(Text())
                continue
            own = length == reading.seq_len
            cells.append(Text(score_text(reading.metric, score) + (have.pointer if own else " "), reading.style(score)))
        rows.append([*name, *cells])
    lines = columns([head, *rows], right=numeric | set(range(len(heads), len(head))))
    left_out = len(counts) - len(lengths)
    note = f", {left_out} of {len(counts)} lengths left out" if left_out else ""
    return [Text(), Text(f"by length  ({have.pointer} trained{note})", "dim"), *lines]
