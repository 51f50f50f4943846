"""Runs in the terminal: a page about one, several side by side. No torch: runs are only files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ...decay import DESCRIPTIONS, NUMBERS, states
from ...runs.result import Scale, StoredResult
from ...runs.settings import flat, later
from ...runs.summary import Summary
from ...solved import solved_words
from ..config.commands import command
from ..config.odd_values import escaped
from .strip import Marks, bar, columns, fitted, heat_strip, legend, marks, packed, strip_line
from .words import duration, first_weights, here

WIDEST = 120
"""Characters beyond which a page about one run gets no wider: long lines are hard to read."""

LABEL = 11
"""Width of the labels at the left of a page about one run."""

_STATE_STYLES = {"finished": "green", "running": "cyan", "interrupted": "yellow", "killed": "yellow", "failed": "red"}


def state_text(run: Summary) -> Text:
    step = "" if run.state in ("finished", "not started") else f" at step {run.step} of {run.steps}"
    return Text(f"{run.state}{step}", _STATE_STYLES.get(run.state, "dim"))


def verdict(run: Summary) -> str:
    """What a score amounts to, e.g. ``solved at step 250``; empty where there is nothing to say."""
    if run.diverged:
        return "not solved: diverged"
    if words := solved_words(run.steps_to_solve, solved=run.solved):
        return words
    if run.score is not None and not run.scale.beats_chance(run.score, run.sequences):
        return "no better than chance"
    return "not solved" if run.solved is False else ""


def _own_score(run: Summary) -> float | None:
    """The score, or that of the latest evaluation of a run that is not finished; the answers of NaN are no score."""
    return nan if run.diverged and run.finished else run.score


def _score_text(run: Summary, score: float | None) -> str:
    return "none yet" if score is None else run.scale.metric.text(score)


def _score_style(run: Summary, score: float | None, scale: Scale) -> str:
    """Green: solved. Red: no better than chance. Yellow: between. Empty: there is nothing to compare it with."""
    if score is None or (scale.chance is None and scale.solved_at is None):
        return ""
    if isnan(score):
        return "red"
    if scale.solves(score):
        return "green"
    return "yellow" if scale.beats_chance(score, run.sequences) else "red"


def _bar_shares(run: Summary, length: int) -> tuple[float, float | None]:
    """(score, chance) of a length as shares of a bar: of 1 for a fraction, else of the largest number of the run."""
    score, largest, chance = run.by_length[length], 1.0, run.scale_at(length).chance
    if not run.scale.metric.percent:
        chances = [run.scale_at(each).chance or 0.0 for each in run.by_length]
        finite = [value for value in (*run.by_length.values(), *chances) if isfinite(value)]
        largest = max(finite or [1.0])
    largest = largest if largest > 0 else 1.0
    return score / largest, None if chance is None else chance / largest


# One run


def page(run: Summary, console: Console) -> list[Text]:
    """Everything about one run, in lines."""
    signs, width = marks(console), min(console.width, WIDEST)
    settings = f"{run.seq_len} timesteps {signs.dot} seed {run.seed}"
    head = Text.assemble((f"{run.cell} on {run.task}", "bold"), "  ", (settings, "dim"))
    state = state_text(run)
    gap = max(2, width - head.cell_len - state.cell_len)
    lines = [Text.assemble(head, " " * gap, state), Text(signs.line * width, "dim")]
    if run.error:
        lines.append(_row("error", Text(run.error, "red")))
    if run.state in ("interrupted", "killed"):
        lines.append(_row("go on with", Text(_command(run), "bold")))
    lines += _scores(run, width)
    lines += _lengths(run, signs, width)
    lines += _gradient(run, signs, width)
    lines += _probes(run, signs)
    lines += _about(run)
    lines.append(_row("files", Text(escaped(str(here(run.run.path))))))
    return lines


def _row(label: str, *parts: Text | str | tuple[str, str]) -> Text:
    return Text.assemble((label.ljust(LABEL), "dim"), " ", *parts)


def _command(run: Summary) -> str:
    overrides = run.overrides
    return "the command that started it" if overrides is None else command("train", *overrides)


def _scores(run: Summary, width: int) -> list[Text]:
    own = _own_score(run)
    if own is None:
        return [_row("score", ("none yet", "dim"))]
    scale, style = run.scale, _score_style(run, own, run.scale)
    short = len(scale.metric.name) <= LABEL
    parts: list[Text | str | tuple[str, str]] = [(scale.metric.text(own), f"bold {style}")]
    if not short:
        parts.append(f" {scale.metric.name}")
    if scale.chance is not None:
        constant = "" if scale.constant in (None, scale.chance) else f", constant {scale.metric.text(scale.constant)}"
        parts.append((f"  chance {scale.metric.text(scale.chance)}{constant}", "dim"))
    rows = [_row(scale.metric.name if short else "score", *parts)]
    if comment := verdict(run):
        if rows[0].cell_len + 2 + len(comment) <= width:
            rows[0].append("  ").append(comment, style)
        else:
            rows.append(_row("", (comment, style)))
    if run.loss is not None and scale.metric.name != "loss":
        chance = f"  chance {scale.baseline_loss:.3f}" if scale.baseline_loss is not None else ""
        rows.append(_row("loss", f"{run.loss:.3g}", (chance, "dim")))
    for plateau in scale.plateaus:
        loss = f"  loss {plateau.loss:.3f}" if scale.metric.percent else ""
        rows.append(_row("plateau", (f"{scale.metric.text(plateau.score)}{loss}  with {plateau.memory}", "dim")))
    if run.lag is not None:
        rows.append(_row("lag", (f"{run.lag}, to what an answer needs", "dim")))
    if run.held_out is not None:
        rows.append(_row("held out", (run.held_out, "dim")))
    if run.other_data:
        rows.append(_row("data", ("of an earlier version, which drew other data at these settings", "yellow")))
    different = [row["distinct"] for row in run.lengths if row["seq_len"] == run.seq_len][-1:]
    if different and different[0] is not None and different[0] < run.sequences_drawn:
        rows.append(_row("tested on", (f"{run.sequences_drawn} sequences, {different[0]} different", "dim")))
    return rows


def _lengths(run: Summary, signs: Marks, width: int) -> list[Text]:
    if not run.by_length:
        return []
    rows = []
    lengths = _thinned(list(run.by_length), 16, keep=run.seq_len)
    trained = "trained up to here" if run.config["task"].get("lengths", "fixed") != "fixed" else "trained"
    for length in lengths:
        score = run.by_length[length]
        own, style = length == run.seq_len, _score_style(run, score, run.scale_at(length))
        rows.append(
            [
                Text(f"{length}", "bold" if own else ""),
                Text(run.scale.metric.text(score), style),
                bar(*_bar_shares(run, length), signs, max(10, min(40, width - 55)), style),
                Text(f"{signs.pointer} {trained}" if own else "", "bold"),
            ]
        )
    lines = columns(rows, right={0, 1})
    left_out = len(run.by_length) - len(lengths)
    note = f"  ({left_out} of {len(run.by_length)} lengths left out)" if left_out else ""
    chance = f"{signs.goal} chance" if run.scale.chance is not None else ""
    labelled = [_row("by length" if i == 0 else "", line) for i, line in enumerate(lines)]
    # The mark of chance is explained at the end of the first line's bar.
    labelled[0].append_text(Text(f"  {chance}{note}", "dim"))
    return [Text(), *labelled]


def _thinned(values: list[int], most: int, *, keep: int) -> list[int]:
    """At most ``most`` of the values, spread evenly, with ``keep`` if it is one of them; at least one."""
    if len(values) <= most:
        return values
    others = max(most, 1) - (keep in values)
    chosen = {values[round(i * (len(values) - 1) / max(others - 1, 1))] for i in range(others)}
    return sorted(chosen | ({keep} & set(values)))


def _gradient(run: Summary, signs: Marks, width: int) -> list[Text]:
    if not run.profiles:
        return [Text(), _row("gradient", ("no trace yet" if not run.finished else "not traced", "dim"))]
    notes = {"start": first_weights(run.config.get("init_from")), "end": f"step {run.traced_at}"}
    order = [when for when in ("start", "end") if when in run.profiles]
    if len(order) == 2 and run.traced_at == 0:
        order = ["start"]
    longest = max(len(notes[when]) for when in order)
    lines = [Text()]
    for i, when in enumerate(order):
        drawn = strip_line(signs, run.profiles[when], width - LABEL - 1, notes[when].ljust(longest))
        drawn.rstrip()
        lines.append(_row("" if i else "gradient", drawn))
    key = legend(signs, *(run.profiles[when] for when in order))
    lines.append(_row("", key, ("  of the gradient one step back", "dim")))
    return [*lines, *_numbers(run, "gradient", order, signs), *_states(run, order, signs, width)]


def _states(run: Summary, order: Sequence[str], signs: Marks, width: int) -> list[Text]:
    """What arrives at the first timestep of each state, if there are several; as many as fit into two lines."""
    name = "log10_arrives"
    stages = [run.probes["gradient"].get(when, {}) for when in order] if "gradient" in run.probes else []
    if not stages:
        return []
    parts = []
    for part in states(stages[-1]):
        values = [stage[part][name] for stage in stages if name in stage.get(part, {})]
        if values:
            words = f" {signs.arrow} ".join(dict.fromkeys(map(NUMBERS[name].words, values)))
            parts.append(Text.assemble((f"{part} ", "dim"), words))
    room, fitting = width - LABEL - 1, len(parts)
    while len(packed(parts[:fitting], room)) > 2:
        fitting -= 1
    more = [Text(f"{len(parts) - fitting} more", "dim")] if fitting < len(parts) else []
    lines = packed([*parts[:fitting], *more], room)
    return [_row("" if i else "arrives of", line) for i, line in enumerate(lines)]


def _probes(run: Summary, signs: Marks) -> list[Text]:
    """The numbers of the other probes."""
    blocks = [_numbers(run, name, ("start", "end"), signs) for name in run.probes if name != "gradient"]
    return [line for block in blocks if block for line in (Text(), *block)]


def _numbers(run: Summary, probe: str, order: Sequence[str], signs: Marks) -> list[Text]:
    """A line for every number of a probe that people look at."""
    description, measured = run.descriptions.get(probe), run.probes.get(probe, {})
    stages = [description.of_main(measured[when]) for when in order if measured.get(when)] if description else []
    stages = [values for values in stages if values]
    if description is None or not stages:
        return []
    last, lines = stages[-1], []
    told = [] if description.in_words is None else [text for one in stages if (text := description.in_words(one))]
    for name, number in description.shown("everywhere", "drawn").items():
        if name not in last or (told and number.told):
            continue
        # A number that does not change is given once.
        texts = dict.fromkeys(number.words(values[name]) for values in stages if name in values)
        # A value beyond the sequence is a nearly flat line, of which a fit has nothing to explain.
        fit = last.get(number.fit, 1.0)
        note = f"  ({number.unfit}: {number.fit} {fit:.2f})" if fit < 0.8 and last[name] < run.seq_len else ""
        label = fitted(number.short, LABEL, signs)
        lines.append(_row(label, f" {signs.arrow} ".join(texts), number.suffix(last[name]), (note, "dim")))
    if told:
        lines.insert(1, _row("shape", f" {signs.arrow} ".join(dict.fromkeys(told))))
    return lines


def _early(run: Summary, result: StoredResult) -> list[str]:
    """How ``train.patience`` or ``train.until_solved`` ended a run; empty: it did not."""
    stopped = f"stopped at step {result['steps']:,} of {run.steps:,}" if result["steps"] < run.steps else ""
    best = f"with the weights of step {result['best_step']:,}, the best" if "best_step" in result else ""
    return [part for part in (stopped, best) if part]


def _about(run: Summary) -> list[Text]:
    result = run.result
    if result is None:
        return []
    model = f"{result['layers']} layers of " if result["layers"] != 1 else ""
    speed = f", {result['steps_per_second']:.3g} steps/s"
    source = run.config.get("init_from")
    began = [_row("began with", f"the weights of {source}")] if source else []
    return [
        Text(),
        *began,
        _row("model", f"{model}{result['hidden_size']} units, {result['parameters']:,} parameters"),
        *([_row("trained", f"{', '.join(early)}")] if (early := _early(run, result)) else []),
        _row("time", f"{duration(result['seconds'])}{speed} on {result['device']}"),
    ]


# Several runs


@dataclass(frozen=True)
class _Group:
    """Runs of one task, and the settings that tell them apart: header -> a value for each run."""

    runs: Sequence[Summary]
    settings: Mapping[str, Sequence[str]]
    common: Sequence[str]


def comparison(runs: Sequence[Summary], console: Console) -> list[Text]:
    """Runs side by side, in lines: a block for each task."""
    signs = marks(console)
    lines: list[Text] = []
    for task in dict.fromkeys(run.task for run in runs):
        group = _group([run for run in runs if run.task == task], signs, console.width)
        lines += [Text()] if lines else []
        lines += _block(group, signs, console.width)
    return lines


def _group(runs: Sequence[Summary], signs: Marks, width: int) -> _Group:
    texts = [_settings(run) for run in runs]
    names = list(dict.fromkeys(name for one in texts for name in one))
    differ = [name for name in names if _differs(name, texts)]
    shown = differ[:5]
    short = Counter(_last(name) for name in shown)
    settings = {name if short[_last(name)] > 1 else _last(name): [one.get(name, "") for one in texts] for name in shown}
    rows = list(zip(*settings.values(), strict=True)) if settings else [()] * len(runs)
    if len(set(rows)) < len(rows) or not settings:
        settings["run"] = [run.run.path.name.rpartition("-")[2] for run in runs]
    first = texts[0]
    words = {"cell": first["cell"], "seq_len": f"{first['seq_len']} timesteps", "seed": f"seed {first['seed']}"}
    common = [text for name, text in words.items() if name not in differ]
    metric, chances = runs[0].scale.metric, [run.scale.chance for run in runs]
    known = sorted(chance for chance in chances if chance is not None)
    if known and len(known) == len(runs) and all(run.scale.metric == metric for run in runs):
        common.append(f"chance {' to '.join(dict.fromkeys(map(metric.text, (known[0], known[-1]))))}")
    return _Group(runs, _fitting(settings, signs, width), common)


_SCORE = 14
"""Width of a column of scores, with the gap before it."""


def _fitting(settings: Mapping[str, list[str]], signs: Marks, width: int) -> dict[str, list[str]]:
    """Settings that leave room for a score: long values are cut, and settings that are not needed to tell runs apart
    are left out, the last ones first."""
    chosen = dict(settings)
    for most in (20, 14, 10):
        cut = {name: [fitted(value, most, signs) for value in values] for name, values in chosen.items()}
        wide = sum(2 + max(map(cell_len, (name, *values))) for name, values in cut.items()) - 2
        if wide + _SCORE <= width:
            return cut
    for name in reversed(list(settings)):
        rest = [values for other, values in chosen.items() if other != name]
        if rest and len(set(zip(*rest, strict=True))) == len(set(zip(*chosen.values(), strict=True))):
            del chosen[name]
            return _fitting(chosen, signs, width)
    return cut


def _settings(run: Summary) -> dict[str, str]:
    """Name -> value, as text: the settings by which runs of a task may differ, cell, length and seed first."""
    first = {"cell": run.cell, "seq_len": str(run.seq_len), "seed": str(run.seed)}
    others = later(run.config) | flat(run.config, "training", "measuring", "machine")
    named = ("cell.name", "task.name", "seq_len", "seed")
    return first | {name: _value(value) for name, value in others.items() if name not in named}


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "-" if value is None else str(value)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _differs(name: str, texts: Sequence[Mapping[str, str]]) -> bool:
    """True if a setting tells runs apart. One that fewer than half of the cells have, each at one value, does not; the
    cell's name does."""
    kinds = {one["cell"]: set[str | None]() for one in texts}
    for one in texts:
        kinds[one["cell"]].add(one.get(name))
    if any(len(values) > 1 for values in kinds.values()):
        return True
    have = [value for values in kinds.values() for value in values if value is not None]
    return len(set(have)) > 1 and 2 * len(have) >= len(kinds) and name not in ("cell.target", "cell.code")


def _block(group: _Group, signs: Marks, width: int) -> list[Text]:
    title = Text.assemble((group.runs[0].task, "bold"), "  ", (f" {signs.dot} ".join(group.common), "dim"))
    title.rstrip()
    names = [[Text(value, "bold") for value in row] for row in zip(*group.settings.values(), strict=True)]
    heads = [Text(name, "dim") for name in group.settings]
    numeric = {i for i, values in enumerate(group.settings.values()) if all(_is_number(value) for value in values)}
    table = _results(group, names, heads, numeric, width)
    widest = max(line.cell_len for line in table)
    traced = [run for run in group.runs if "end" in run.profiles]
    lines = [title, Text()]
    longest = max((len(run.profiles["end"]) for run in traced), default=0)
    key = legend(signs, *(run.profiles["end"] for run in traced))
    when = "at the end" if all(run.finished for run in traced) else "at the latest trace"
    if traced and width - widest - 3 >= max(40, min(longest, 60)):
        room = min(width - widest - 3, longest)
        lines.append(_beside(table[0], widest, Text.assemble((_ends(room), "dim"))))
        for line, run in zip(table[1:], group.runs, strict=True):
            lines.append(_beside(line, widest, _aligned(run, signs, room, longest)))
        lines.append(_beside(Text(), widest, Text.assemble(key, (f"  gradient {when}", "dim"))))
    else:
        lines += table
        if traced:
            left = columns([heads, *names], right=numeric)
            wide = max(line.cell_len for line in left)
            room = max(8, min(width - wide - 3, longest))
            lines += [Text(), Text.assemble((f"gradient {when}  ", "dim"), key)]
            lines.append(_beside(left[0], wide, Text(_ends(room), "dim")))
            for line, run in zip(left[1:], group.runs, strict=True):
                lines.append(_beside(line, wide, _aligned(run, signs, room, longest)))
    return lines + _length_table(group, names, heads, numeric, signs, width)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("", "-")
    return True


def _ends(room: int) -> str:
    if room >= 14:
        return "first".ljust(room - len("answer")) + "answer"
    return ("to the answer" if room == 13 else "answer").rjust(room)[:room]


def _beside(line: Text, width: int, drawn: Text) -> Text:
    return Text.assemble(line, " " * (width - line.cell_len + 3), drawn)


def _aligned(run: Summary, signs: Marks, room: int, longest: int) -> Text:
    if "end" not in run.profiles:
        return Text("no trace", "dim")
    return heat_strip(run.profiles["end"], signs, room, longest)


def _results(group: _Group, names: list[list[Text]], heads: list[Text], numeric: set[int], width: int) -> list[Text]:
    runs = group.runs
    metrics = {run.scale.metric.name for run in runs if run.score is not None}
    scores = [(run, _own_score(run)) for run in runs]
    score = [Text(_score_text(run, own), f"bold {_score_style(run, own, run.scale)}".strip()) for run, own in scores]
    table = {metrics.pop() if len(metrics) == 1 else "score": score}
    if any(run.solved is not None or run.diverged for run in runs):
        table["solved at"] = [Text(_solved(run)) for run in runs]
    described = DESCRIPTIONS | {name: about for run in runs for name, about in run.descriptions.items()}
    others = []
    for probe, about in described.items():
        ends = [about.of_main(run.probes.get(probe, {}).get("end", {})) for run in runs]
        for name, number in about.shown().items():
            table[number.short] = [Text(number.brief(end[name]) if name in end else "") for end in ends]
            others += [number.short] if probe not in DESCRIPTIONS else []
    parameters = [f"{run.result['parameters']:,}" if run.result else "" for run in runs]
    if len(set(parameters)) > 1:
        table["parameters"] = [Text(text) for text in parameters]
    if not all(run.finished for run in runs):
        table["state"] = [_brief_state(run) for run in runs]
    lines: list[Text] = []
    # Dropped in this order in a narrow terminal.
    least = [NUMBERS[name].short for name in ("half_life", "log10_arrives")]
    for too_much in ("", *others, "parameters", NUMBERS["horizon"].short, "solved at", *least):
        table.pop(too_much, None)
        right = numeric | {len(heads) + i for i, title in enumerate(table) if title != "state"}
        rows = [[*name, *row] for name, row in zip(names, zip(*table.values(), strict=True), strict=True)]
        lines = columns([[*heads, *(Text(title, "dim") for title in table)], *rows], right=right)
        if max(line.cell_len for line in lines) <= width:
            break
    return lines


def _solved(run: Summary) -> str:
    if run.diverged:
        return "diverged"
    if run.solved is None:
        return ""
    if not run.solved:
        return "no"
    return "yes" if run.steps_to_solve is None else str(run.steps_to_solve)


def _brief_state(run: Summary) -> Text:
    """``state_text`` where there is little room."""
    text = state_text(run)
    if run.state in ("finished", "not started"):
        return text
    return Text(f"{run.state} {100 * run.step // max(run.steps, 1)} %", text.style)


def _told(runs: Sequence[Summary], counts: Counter[int], room: int) -> list[int]:
    """At most ``room`` lengths: those that most of the runs share say most; among them, spread evenly. But every run
    has one, if there is room.

    Args:
        counts: length -> the number of runs that were tested at it.
    """
    ranked = sorted(counts, key=lambda length: (-counts[length], length))
    shared = sorted(length for length in counts if counts[length] == counts[ranked[0]])
    (trained, _), *_ = Counter(run.seq_len for run in runs).most_common(1)
    needed: set[int] = set()
    while True:
        left = max(1, room - len(needed))
        chosen = _thinned(shared, left, keep=trained) if len(shared) > left else ranked[:left]
        without = [run for run in runs if run.by_length and not run.by_length.keys() & {*chosen, *needed}]
        if not without or left == 1:
            return sorted({*chosen, *needed})[:room]
        own = (run.seq_len if run.seq_len in run.by_length else min(run.by_length) for run in without)
        needed.add(Counter(own).most_common(1)[0][0])


def _length_table(
    group: _Group, names: list[list[Text]], heads: list[Text], numeric: set[int], signs: Marks, width: int
) -> list[Text]:
    counts = Counter(length for run in group.runs for length in run.by_length)
    if not counts:
        return []
    left = max(line.cell_len for line in columns([heads, *names], right=numeric))
    widest = max(len(run.scale.metric.text(score)) for run in group.runs for score in run.by_length.values()) + 3
    room = max(1, (width - left - 1) // widest)
    lengths = _told(group.runs, counts, room)
    head = [*heads, *(Text(f"{length} ", "dim") for length in lengths)]
    rows = []
    for run, name in zip(group.runs, names, strict=True):
        cells = []
        for length in lengths:
            score = run.by_length.get(length)
            if score is None:
                cells.append(Text())
                continue
            own = length == run.seq_len
            style = _score_style(run, score, run.scale_at(length))
            cells.append(Text(run.scale.metric.text(score) + (signs.pointer if own else " "), style))
        rows.append([*name, *cells])
    lines = columns([head, *rows], right=numeric | set(range(len(heads), len(head))))
    left_out = len(counts) - len(lengths)
    note = f", {left_out} of {len(counts)} lengths left out" if left_out else ""
    return [Text(), Text(f"by length  ({signs.pointer} trained{note})", "dim"), *lines]
