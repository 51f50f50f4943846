"""Views of a reading: the model's beliefs, its gates, and the gradient; ``attention`` has the fourth.

A view turns a ``Reading`` into a ``Column``: a row for each timestep and a verdict below.

Axes: T time, K answers (or output features), H hidden units.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, isfinite, isnan, log
from typing import TYPE_CHECKING

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from ....decay import FAINTEST, NUMBERS, STRONGEST, decay, profile, states
from ....metrics import Metric
from ..strip import ASCII, EXPLODED, UNICODE, Marks, bar, fitted, packed
from ..strip import marks as marks_of

if TYPE_CHECKING:
    from ....reading import Reading
    from ....signals import Batch
    from ....tasks import Task

VIEWS = ("beliefs", "gates", "gradient", "attention")

SHUT, OPEN = 0.1, 0.9
"""A gate's unit below or above these is saturated."""

GUESS = 0.5
"""An answer with less confidence than this is called a guess."""

# Distinguishable for the colour-blind; every colour is doubled by a sign.
RIGHT, TOP, OTHER = "bold #35b58a", "#eda13a", "#7c90b8"

_BITS = len("10.06 bits")
_MOST_ANSWERS = 40

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Signs:
    """The characters that a console can show, in addition to ``marks``."""

    marks: Marks
    right: str
    wrong: str
    here: str
    below: str
    turned: str
    blocks: str
    """From low to high. None looks like ``right`` or ``wrong``, which are drawn next to them."""
    parts: str
    """Eighths of a character, filled from the left; empty if the console has none."""
    full: str
    shades: str
    unread: str
    infinite: str
    blank: str
    keys: tuple[str, str]
    """Names of the arrow keys: left and right, up and down."""


def choose_signs(console: Console) -> Signs:
    """Unicode where the console can encode it, else ASCII."""
    marks = marks_of(console)
    if marks is UNICODE:
        try:
            "✓✗▸▾╰▏▎▍▌▋▊▉█░▒▓∞␣←→↑↓".encode(console.encoding)
        except (UnicodeEncodeError, LookupError):
            marks = ASCII
    if marks is ASCII:
        return Signs(ASCII, "=", "x", ">", "v", "^", ".:-+*%#@", "", "#", " .:-=+*#%@", "?", "inf", "_", ("h l", "j k"))
    return Signs(marks, "✓", "✗", "▸", "▾", "╰", marks.blocks, "▏▎▍▌▋▊▉", "█", " ░▒▓█", "·", "∞", "␣", ("←→", "↑↓"))


def unit(task: "Task") -> str:
    """The word for one timestep of the task."""
    if task.naming() is not None:
        return "word"
    return "character" if "character" in task.targets.metric.name else "timestep"


@dataclass(frozen=True, eq=False)
class Scene:
    """A sentence, and how each model reads it.

    Args:
        name: title of the sentence, e.g. ``50 words, sentence 3``.
        batch: the one sequence.
        labels: one for each model, all different.
        trained: the length that each model was trained at.
        unknown: why there is no right answer; None if there is one.
    """

    task: "Task"
    name: str
    batch: "Batch"
    labels: tuple[str, ...]
    trained: tuple[str, ...]
    readings: "tuple[Reading, ...]"
    unknown: str | None = None

    def __len__(self) -> int:
        return len(self.words)

    @property
    def unit(self) -> str:
        return unit(self.task)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """What all models read; where answers are fed back, each may read its own."""
        several = zip(*(reading.words for reading in self.readings), strict=True)
        return tuple(words[0] if len(set(words)) == 1 else "(own)" for words in several)

    @property
    def answered_at(self) -> int:
        return self.readings[0].answered_at


@dataclass(frozen=True)
class Column:
    """One model's column. ``heads``: lines above the rows; ``cell(t)``: the row of timestep t, at most as wide as the
    column; ``below(t)``: an extra line after that row, or None; ``verdict``: parts of the line at the foot."""

    heads: Sequence[Text]
    cell: Callable[[int], Text]
    below: Callable[[int], Text | None]
    verdict: Sequence[Text]


def visible(text: str, signs: Signs) -> str:
    """``text``, with a visible sign for each space if there is nothing else in it."""
    return text if text.strip() else signs.blank * len(text)


def no_line(_: int) -> None:
    return None


# What a model believes


def changes_of_mind(reading: "Reading", at: int) -> tuple[int, ...]:
    """The reading's changes up to timestep ``at``; empty where several answers are asked, which may differ anyway."""
    return tuple(t for t in reading.changes if t <= at) if reading.asks_once else ()


def right_answer(reading: "Reading") -> int | None:
    """The right answer, if the same one is right at every timestep."""
    if reading.right is None or reading.answers is None or not reading.asks_once:
        return None
    return int(reading.right[reading.answered_at])


def short_names(answers: Sequence[str]) -> list[str]:
    """The last words of each answer, as few as keep them distinct: ``brother``, ``aunt``."""
    for count in range(1, max(len(answer.split()) for answer in answers) + 1 if all(map(str.split, answers)) else 1):
        tails = [" ".join(answer.split()[-count:]) for answer in answers]
        if len(set(tails)) == len(answers):
            return tails
    return list(answers)


def letters(answers: Sequence[str]) -> list[str]:
    """A character for each answer: the answer if it has only one, else a, b, c; empty if there are too many."""
    if all(cell_len(answer) == 1 for answer in answers):
        return list(answers)
    return list(LETTERS[: len(answers)]) if len(answers) <= len(LETTERS) else []


@dataclass(frozen=True)
class _Layout:
    """Widths of the parts of a row of beliefs, in characters: ``each`` for every answer's bar (0: no bars; from 3 on
    one of them is a gap), ``name`` for the likeliest of ``names``, ``digits`` for its confidence."""

    each: int
    names: Sequence[str]
    name: int
    digits: int
    wants: int
    """For the right answer beside the likeliest, where every timestep has its own."""
    bits: int

    def wide(self, answers: int) -> int:
        return self.each * answers + 1 + self.name + 1 + self.digits + self.wants + self.bits


def _layout(answers: Sequence[str], width: int, wants: int, bits: int) -> _Layout:
    """The most detailed layout that fits into ``width``."""
    full, short, letter = list(answers), short_names(answers), letters(answers) or list(answers)
    count, options = len(answers), []

    def option(each: int, names: Sequence[str], digits: int, *more: int) -> None:
        options.append(_Layout(each, names, max(map(cell_len, names)), digits, *more))

    if letters(answers):
        option(3, full, 6, wants, bits)
        option(1, full, 6, wants, bits)
        option(1, full, 4, wants, bits)
        option(1, short, 3, wants, bits)
        option(1, letter, 3, wants, bits)
    option(0, full, 6, wants, bits)
    option(0, short, 3, wants, bits)
    option(0, letter, 3, wants, bits)
    option(0, letter, 3, 0, bits)
    option(0, letter, 3, 0, 0)
    layout = next((option for option in options if option.wide(count) <= width), options[-1])
    if layout.each == 3:
        room = width - replace(layout, each=0).wide(count)
        return replace(layout, each=max(3, min(room // count, 14)))
    return layout


def share_bar(share: float, width: int, signs: Signs) -> str:
    """``share`` of ``width`` characters, to an eighth of one."""
    fine = len(signs.parts) + 1
    whole, part = divmod(round(min(max(share, 0.0), 1.0) * width * fine) if isfinite(share) else 0, fine)
    return (signs.full * whole + (signs.parts[part - 1] if part else "")).ljust(width)


def block(share: float, signs: Signs) -> str:
    """One character as high as ``share``; below 0.01 a dot or a space."""
    if isnan(share):
        return signs.marks.unknown
    if share < 0.01:
        return signs.marks.zero if signs.parts else " "
    return signs.blocks[min(int(share * len(signs.blocks)), len(signs.blocks) - 1)]


def percent(share: float, digits: int) -> str:
    """``share`` as a whole percentage in ``digits`` characters: `` %`` from 5 on, ``%`` in 4, else no sign."""
    if isnan(share):
        return "?".rjust(digits)
    number = f"{100 * share:.0f}"
    return (
        f"{number} %".rjust(digits) if digits >= 5 else f"{number}%".rjust(digits) if digits == 4 else number.rjust(3)
    )


def beliefs(scene: Scene, index: int, at: int, width: int, signs: Signs) -> Column:
    reading = scene.readings[index]
    if reading.answers is None:
        return _numbers(scene, index, at, width, signs)
    answers, right = [visible(answer, signs) for answer in reading.answers], reading.right
    count = len(answers)
    several = not reading.asks_once
    metric = scene.task.targets.metric
    per_step = _surprise(reading) if several and not metric.percent else None
    names = max(map(cell_len, answers))
    wants = len(" wants ") + names if several and right is not None else 0
    plan = _layout(answers, width, wants, _BITS if per_step is not None else 0)
    runners = 0 if plan.each else min((width - plan.wide(count)) // (names + 6), 5, count - 1)
    marked = right_answer(reading)
    heads = _answer_heads(plan, answers, marked, signs) if plan.each else []

    def cell(t: int) -> Text:
        if not reading.predicts[t]:
            return Text(" reads", "dim", no_wrap=True, end="")
        shares, top = [float(share) for share in reading.outputs[t]], int(reading.top[t])
        correct = int(right[t]) if right is not None else None
        line = Text(no_wrap=True, end="")
        for k in range(count if plan.each else 0):
            style = RIGHT if k == correct else TOP if k == top else OTHER
            drawn = block(shares[k], signs) if plan.each == 1 else share_bar(shares[k], plan.each - 1, signs)
            line.append(drawn, style).append(" " if plan.each > 1 else "")
        good = top == correct and (reading.asked[t] or not several)
        sign = signs.right if good else signs.wrong if reading.asked[t] and correct is not None else " "
        style = RIGHT if good else TOP if sign == signs.wrong or not several else "dim"
        line.append(sign, style)
        line.append(set_cell_size(plan.names[top], plan.name) + " ", style)
        line.append(percent(shares[top], plan.digits), style)
        if correct is not None and reading.asked[t] and plan.wants:
            line.append(" wants ", "dim").append(set_cell_size(answers[correct], names), "" if good else "bold")
        if correct is not None and reading.asked[t] and plan.bits and per_step is not None:
            line.append(f"{per_step[t]:5.2f} bits".ljust(_BITS))
        if runners:  # the next likeliest answers, where there is no room for all
            line.append(" " * (plan.wide(count) - line.cell_len))
            others = [k for k in range(count) if k != top]
            for k in sorted(others, key=lambda k: -shares[k])[:runners]:
                line.append(f"  {answers[k].rjust(names)} {percent(shares[k], 3)}", RIGHT if k == correct else "dim")
        return line

    changes = changes_of_mind(reading, at)

    def below(t: int) -> Text | None:
        if not changes or t != changes[-1]:
            return None
        note = next(
            (s for s in ("changes its mind here", "changes its mind", "new mind") if len(s) + 2 <= width), "new"
        )
        return Text(f"{signs.turned} {note}", f"italic {TOP}", no_wrap=True)

    return Column(heads, cell, below, _belief_verdict(scene, index, at, signs))


def _names_fit(plan: _Layout, answers: Sequence[str]) -> bool:
    """True if the answers' names fit over their bars, one word a line."""
    return plan.each > 3 and max(cell_len(word) for answer in answers for word in answer.split() or [""]) < plan.each


def _answer_heads(plan: _Layout, answers: Sequence[str], marked: int | None, signs: Signs) -> list[Text]:
    """A mark over the right answer, and over every answer its name if it fits, else a letter."""
    styles = [RIGHT if k == marked else "" for k in range(len(answers))]
    pointer = Text(no_wrap=True)
    for k in range(len(answers)):
        pointer.append((signs.below if k == marked else " ").ljust(plan.each), styles[k])
    lines = [pointer] if marked is not None else []
    split = [answer.split() for answer in answers]
    names = _names_fit(plan, answers)
    depth = max(map(len, split)) if names else 1
    for level in range(depth):
        line = Text(no_wrap=True)
        for k, words in enumerate(split):
            head = (words[level] if level < len(words) else "") if names else letters(answers)[k]
            line.append(set_cell_size(head, plan.each), styles[k] or "dim")
        lines.append(line)
    return lines


def legend(scene: Scene, width: int, column: int, signs: Signs) -> list[Text]:
    """The answers that the letters over the bars stand for; empty where there are no letters."""
    reading = scene.readings[0]
    if reading.answers is None:
        return []
    short = letters(reading.answers)
    plan = _layout(reading.answers, column, 0, 0)
    bare = not short or short == list(reading.answers) or not plan.each or _names_fit(plan, reading.answers)
    if bare or not reading.asks_once:
        return []
    marked = right_answer(reading)
    parts = []
    for k, answer in enumerate(reading.answers):
        own = k == marked
        parts.append(Text.assemble((short[k], "bold"), f" {answer}", style=RIGHT if own else ""))
        if own:
            parts[-1].append(f" {signs.right}")
    return packed(parts, width)


def explained(scene: Scene, view: str, width: int) -> list[Text]:
    """What the numbers of a view mean."""
    parts: list[str] = []
    if view == "beliefs" and (asking := scene.readings[0].asked_with) is not None:
        parts.append(f"after each word: what each model would answer if '{asking}' came next")
    elif view == "beliefs" and scene.readings[0].asks_once:
        parts.append(f"what each model says at each {scene.unit}; only the last one counts")
    if any(reading.beam > 1 for reading in scene.readings):
        parts.append(f"answers: {_beams(scene)}")
    if view == "gates" and any(reading.gates for reading in scene.readings):
        parts.append("gates: 0 shut, 1 open, mean over units")
        parts.append(f"{SHUT}|{OPEN}: % of units below and above".replace("0.", "."))
        if any(reading.keeps for reading in scene.readings):
            parts += [f"keeps: time constant ({scene.unit}s), median unit", "10%: slowest tenth"]
        parts.append("|cell|, |hidden|: norm of that state")
    if view == "gradient":
        parts.append(f"gradient of the answer at each {scene.unit}, over one {scene.unit} back (bars: log scale)")
    if view == "attention":
        looks = [looked.effective for reading in scene.readings for looked in reading.attention.values()]
        if not all(looks):
            parts.append(f"attention: weights over the {scene.unit}s so far, mean over heads")
        if any(looks):
            parts.append(f"effective attention of a state: the share of each {scene.unit} in it,")
            parts.append("|what it wrote x what was kept of that since|, norm over units")
        if looks:
            parts.append("bars: over the largest of all")
    return packed([Text(part, "dim") for part in parts], width)


def _beams(scene: Scene) -> str:
    how = [f"by beam search, {each.beam} beams" if each.beam > 1 else "greedily" for each in scene.readings]
    if len(set(how)) == 1:
        return how[0]
    return "; ".join(f"{label} {each}" for label, each in zip(scene.labels, how, strict=True))


def _surprise(reading: "Reading") -> np.ndarray | None:
    """Surprisal of the right answer, -log2 p, [T]; None if it is unknown."""
    if reading.confidence is None:
        return None
    return -np.log2(np.maximum(reading.confidence.astype(np.float64), 1e-300))


def _belief_verdict(scene: Scene, index: int, at: int, signs: Signs) -> list[Text]:
    reading, metric = scene.readings[index], scene.task.targets.metric
    end = reading.answered_at
    if not reading.asks_once:
        return _several_verdict(reading, at, metric, scene.unit, signs)
    t = min(at, end)
    answer = f"{reading.answer_text(t)}, {100 * reading.outputs[t, reading.top[t]]:.0f} %"
    guess = " (a guess)" if reading.outputs[t].max() < GUESS else ""
    if at < end:
        parts = [Text(f"so far {answer}")]
    elif reading.is_right is None:
        parts = [Text(f"says {answer}")]
    elif reading.is_right:
        parts = [Text(f"{signs.right} right: {answer}{guess}", RIGHT)]
    else:
        parts = [Text(f"{signs.wrong} wrong: says {answer}{guess}", TOP), Text(f"it is {reading.target_text(end)}")]
    changes = changes_of_mind(reading, at)
    if not changes:
        parts.append(Text("never changed its mind", "dim"))
    else:
        turn = changes[-1]
        often = "once," if len(changes) == 1 else f"{len(changes)} times, last"
        word = f", '{reading.words[turn]}'" if reading.words[turn].strip() else ""
        parts.append(Text(f"changed its mind {often} at {scene.unit} {turn + 1}{word}", "dim"))
    return parts


def _several_verdict(reading: "Reading", at: int, metric: Metric, unit: str, signs: Signs) -> list[Text]:
    everywhere = [int(t) for t in np.flatnonzero(reading.asked)]
    asked = [t for t in everywhere if t <= at]
    if not asked:
        return [Text(f"not asked yet: {len(everywhere)} answers from {unit} {everywhere[0] + 1} on", "dim")]
    answers = " ".join(visible(reading.answer_text(t), signs) for t in asked[-_MOST_ANSWERS:])
    if reading.right is None:
        return [Text(f"says {answers}")]
    good = int(np.count_nonzero(reading.top[asked] == reading.right[asked]))
    style = RIGHT if good == len(asked) else TOP
    bits = _surprise(reading)
    if not metric.percent and bits is not None:
        return [Text(f"{bits[asked].mean():.2f} {metric.name}", "bold"), Text(f"{good} of {len(asked)} right", style)]
    parts = [Text(f"{signs.right if good == len(asked) else signs.wrong} {good} of {len(asked)} right", style)]
    if len(everywhere) <= _MOST_ANSWERS:
        parts.append(Text(f"says {answers}"))
        parts.append(Text(f"wanted {' '.join(str(reading.target_text(t)) for t in asked)}", "dim"))
    return parts


# Real numbers


def _numbers(scene: Scene, index: int, at: int, width: int, signs: Signs) -> Column:
    """The prediction after every timestep, against the target."""
    reading = scene.readings[index]
    everything = np.concatenate([each.outputs.ravel() for each in scene.readings])
    target = None if reading.right is None else float(reading.right[reading.answered_at, 0])
    low = min(0.0, float(everything.min()), target if target is not None else 0.0)
    high = max(float(everything.max()), target if target is not None else 0.0, low + 1e-9)
    single = reading.outputs.shape[1] == 1
    widest = max(cell_len(reading.answer_text(t)) for t in range(len(reading)))
    room = min(width - widest - 2, 60) if single else 0

    def cell(t: int) -> Text:
        text = reading.answer_text(t).rjust(widest) if single else fitted(reading.answer_text(t), width, signs.marks)
        line = Text(text, "bold" if reading.asked[t] else "", no_wrap=True, end="")
        if room < 4:
            return line
        goal = None if target is None else (target - low) / (high - low)
        share = (float(reading.outputs[t, 0]) - low) / (high - low)
        drawn = bar(share, goal, signs.marks, room, RIGHT if reading.asked[t] else OTHER)
        return line.append("  ").append_text(drawn)

    head = Text(no_wrap=True)
    if target is not None:
        head.append(f"{signs.marks.goal} wanted {reading.target_text(reading.answered_at)}", "bold")
    t = min(at, reading.answered_at)
    parts = [Text(f"{'says' if at >= reading.answered_at else 'so far'} {reading.answer_text(t)}", "bold")]
    if target is not None and reading.right is not None:
        off = float(np.sqrt(np.square(reading.chosen[t] - reading.right[t]).mean()))
        parts.append(Text(f"wanted {reading.target_text(t)}: {off:.2g} off"))
    return Column([head], cell, no_line, parts)


# Gates


def time_scale(share: float) -> float:
    """The time constant: timesteps until 1/e of a state is left if each keeps ``share`` of it, -1 / ln share."""
    if isnan(share):
        return share
    return inf if share >= 1 else 0.0 if share <= 0 else -1 / log(share)


def short_number(value: float, signs: Signs) -> str:
    """``value`` in at most 5 characters."""
    if isnan(value):
        return "?"
    if value == inf:
        return signs.infinite
    if value >= 99999:
        return f"{value:.0e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


@dataclass(frozen=True)
class _Piece:
    """A part of a row of gates. A narrow column drops the parts of the highest rank first."""

    rank: int
    title: str
    width: int
    text: Callable[[int], str]


def gates(scene: Scene, index: int, at: int, width: int, signs: Signs) -> Column:
    reading = scene.readings[index]
    norms = {name: np.linalg.norm(values.astype(np.float64), axis=1) for name, values in reading.states.items()}
    if not reading.gates:
        return _gateless(norms, at, width, signs)
    pieces = []
    for name, values in reading.gates.items():
        mean = values.mean(1)
        shut, wide = 100 * (values < SHUT).mean(1), 100 * (values > OPEN).mean(1)
        pieces.append(_Piece(0, name, 6, lambda t, m=mean: f"{block(float(m[t]), signs)} {m[t]:.2f}"))
        title = f"{SHUT}|{OPEN}".replace("0.", ".")
        pieces.append(_Piece(3, title, 6, lambda t, s=shut, w=wide: f"{s[t]:2.0f}|{w[t]:.0f}"))
    for name in reading.keeps:
        layer = name.rpartition("/")[0]
        median, slow = (np.quantile(reading.gates[name], q, axis=1) for q in (0.5, 0.9))
        own = f"{layer}/" if layer else ""
        pieces.append(
            _Piece(1, f"{own}keeps", 6, lambda t, m=median: short_number(time_scale(float(m[t])), signs).rjust(5))
        )
        pieces.append(
            _Piece(5, f"{own}10%", 6, lambda t, m=slow: short_number(time_scale(float(m[t])), signs).rjust(5))
        )
    for place, (name, values) in enumerate(reversed(norms.items())):
        title, rank = f"|{name}|", 2 if place == 0 else 4
        wide = max(5, min(len(title), 8))
        pieces.append(_Piece(rank, title, wide, lambda t, v=values: short_number(float(v[t]), signs).rjust(5)))
    while sum(piece.width + 1 for piece in pieces) - 1 > width and (rank := max(piece.rank for piece in pieces)):
        pieces = [piece for piece in pieces if piece.rank < rank]
    if sum(piece.width + 1 for piece in pieces) - 1 > width:  # a stack: keep the gates that keep, of every layer
        pieces = _first(pieces, width, reading.keeps)
    left = width - sum(piece.width + 1 for piece in pieces) + 1
    means = {name: values.mean(1) for name, values in reading.gates.items()}
    bars = min(left // max(len(means), 1), 12)

    def head() -> Text:
        line = Text(no_wrap=True)
        for piece in pieces:
            wide = piece.width + (bars if piece.title in means and bars >= 4 else 0)
            line.append(fitted(piece.title, wide, signs.marks).ljust(wide) + " ", "dim")
        line.rstrip()
        return line

    def cell(t: int) -> Text:
        line = Text(no_wrap=True, end="")
        for piece in pieces:
            text = piece.text(t)
            if piece.title in means:
                own = "bold" if piece.title in reading.keeps else ""
                drawn = share_bar(float(means[piece.title][t]), bars, signs) + text[1:] if bars >= 4 else text
                line.append(drawn.ljust(piece.width + (bars if bars >= 4 else 0)) + " ", own or OTHER)
            else:
                line.append(text.ljust(piece.width) + " ", "dim" if piece.rank >= 3 else "")
        line.rstrip()
        return line

    return Column([head()], cell, no_line, _gate_verdict(reading, at, scene.unit, signs))


def _first(pieces: Sequence[_Piece], width: int, keeps: Sequence[str]) -> list[_Piece]:
    """As many gates as fit, at least one; the gates in ``keeps`` have priority."""
    chosen: list[_Piece] = []
    for piece in sorted(pieces, key=lambda piece: piece.title not in keeps):
        if not chosen or sum(each.width + 1 for each in chosen) + piece.width <= width:
            chosen.append(piece)
    return [piece for piece in pieces if piece in chosen]


def _gate_verdict(reading: "Reading", at: int, unit: str, signs: Signs) -> list[Text]:
    """Statistics over the timesteps up to ``at``."""
    parts = []
    for name in reading.keeps:
        read = reading.gates[name][: at + 1]
        median, slow = (short_number(time_scale(float(np.quantile(read, q))), signs) for q in (0.5, 0.9))
        parts.append(Text(f"{name}: time constant ({unit}s) {median}, median unit", "bold"))
        parts.append(Text(f"{slow} or more, slowest tenth", "bold"))
    for name, values in reading.gates.items():
        read = values[: at + 1]
        low, high = 100 * float((read < SHUT).mean()), 100 * float((read > OPEN).mean())
        parts.append(Text(f"{name} {read.mean():.2f} ({low:.0f}|{high:.0f} %)"))
    return parts


def _gateless(norms: dict[str, np.ndarray], at: int, width: int, signs: Signs) -> Column:
    name, values = next(iter(norms.items())) if norms else ("", np.zeros(0))
    highest = max((float(each.max()) for each in norms.values() if len(each)), default=0.0)

    def cell(t: int) -> Text:
        if not norms:
            return Text()
        text = short_number(float(values[t]), signs).rjust(5)
        drawn = share_bar(float(values[t]) / highest if highest else 0.0, min(max(width - 6, 0), 30), signs)
        return Text.assemble((text, ""), " ", (drawn, OTHER), no_wrap=True, end="")

    verdict = [Text("no gates") if norms else Text("no gates, and no state either")]
    for each, series in norms.items():
        verdict.append(Text(f"|{each}| is {short_number(float(series[at]), signs)}"))
    whole = f"no gates; |{name}|"
    head = "no gates" if not norms else whole if cell_len(whole) <= width else fitted(f"|{name}|", width, signs.marks)
    return Column([Text(head, "dim", no_wrap=True)], cell, no_line, verdict)


# The gradient


def gradient(scene: Scene, index: int, _: int, width: int, signs: Signs) -> Column:
    reading = scene.readings[index]
    if "state" not in reading.gradient:
        return Column([Text("not measured", "dim")], lambda _: Text(), no_line, [Text("no gradient was measured")])
    norms, end = reading.gradient["state"], reading.answered_at
    logs = profile(norms[: end + 1, None], np.array([end]))
    room = min(width - 9, 48)

    def cell(t: int) -> Text:
        if t >= end:
            return Text("" if t > end else "the answer", "dim", no_wrap=True)
        height = float(logs[t])
        text = NUMBERS["log10_arrives"].words(height).replace("nothing", "0")
        style = "#ff2d2d" if isnan(height) or height >= EXPLODED else OTHER
        share = (height - FAINTEST) / (STRONGEST - FAINTEST)
        drawn = share_bar(share, max(room, 0), signs) if isfinite(height) else " " * max(room, 0)
        mark = signs.marks.exploded if height >= EXPLODED else " "
        return Text.assemble((drawn, style), (mark, "bold #ff2d2d"), (fitted(text, 8, signs.marks), ""), no_wrap=True)

    title = f"{signs.marks.low}"
    head = Text.assemble((title.ljust(max(room - 1, len(title) + 1)) + "1", "dim"), no_wrap=True)
    fits = {name: decay(values[end::-1]) for name, values in reading.gradient.items()}
    fit, arrives = fits["state"], NUMBERS["log10_arrives"]
    parts = [Text(fit.in_words(scene.unit), "bold")]
    if not isnan(fit.log10_arrives):
        parts.append(Text(f"{arrives.words(fit.log10_arrives)} of it arrives at the first {scene.unit}"))
    if several := states({name: one.numbers() for name, one in fits.items()}):
        words = (f"{name} {arrives.words(fits[name].log10_arrives)}" for name in several)
        parts.append(Text(f"of {', '.join(words)}"))
    if isfinite(fit.horizon):
        parts.append(Text(f"below a thousandth {fit.horizon:.0f} {scene.unit}s back", "dim"))
    return Column([head], cell, no_line, parts)
