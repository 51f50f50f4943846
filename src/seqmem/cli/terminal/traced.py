"""What every layer of a model received, as lines: a strip for each, on one scale, and what their gradients do."""

from collections.abc import Sequence
from math import isnan

from rich.console import Console
from rich.text import Text

from ...decay import NUMBERS, profile
from ...tracing.parts import ModelTrace
from .pages import WIDEST
from .strip import columns, fitted, heat_strip, legend, marks, packed

_NUMBERS = ("log10_arrives", "half_life", "horizon")

_LONGEST_PATH = 28


def lines(trace: ModelTrace, console: Console) -> list[Text]:
    """A table of all layers, then what to know about them."""
    signs, width = marks(console), min(console.width, WIDEST)
    head = Text.assemble(("trace", "bold"), "  ", (f"{trace.of} {signs.dot} {_sizes(trace)}", "dim"))
    return [head, *_table(trace, console), *_words(trace, width), *_notes(trace, width)]


def _sizes(trace: ModelTrace) -> str:
    first = next(iter(trace.parts.values()))
    count = len(first.lengths)
    return f"{count} sequence{'s' if count != 1 else ''}, {trace.dtype}"


def _table(trace: ModelTrace, console: Console) -> list[Text]:
    signs, width = marks(console), min(console.width, WIDEST)
    profiles = {path: profile(part.trace.state, part.trace.answered_at) for path, part in trace.parts.items()}
    heads = [Text(""), *(Text(NUMBERS[name].short, "dim") for name in _NUMBERS)]
    rows = []
    for path, decays in trace.decays().items():
        numbers = decays["state"].numbers()
        brief = [Text(NUMBERS[name].brief(numbers[name])) for name in _NUMBERS]
        rows.append([Text(fitted(path, _LONGEST_PATH, signs), "bold"), *brief])
    table = columns([heads, *rows], right={1, 2, 3})
    left = max(line.cell_len for line in table)
    longest = max(len(values) for values in profiles.values())
    room = max(8, min(width - left - 3, longest))
    ends = ("first".ljust(room - 6) + "answer") if room >= 14 else "answer".rjust(room)
    drawn = [Text(ends, "dim"), *(heat_strip(values, signs, room, longest) for values in profiles.values())]
    beside = [
        Text.assemble(line, " " * (left - line.cell_len + 3), strip) for line, strip in zip(table, drawn, strict=True)
    ]
    key = Text.assemble(legend(signs, *profiles.values()), ("  of the gradient one step back", "dim"))
    return [*beside, Text.assemble(" " * max(0, left + 3 - max(0, key.cell_len - room)), key)]


def _words(trace: ModelTrace, width: int) -> list[Text]:
    """The shape of a curve that no straight line describes: it has no half-life."""
    told = []
    for path, decays in trace.decays().items():
        numbers, words = decays["state"].numbers(), decays["state"].in_words()
        if words and isnan(numbers["half_life"]):
            told += packed([Text.assemble((f"{path}: ", "bold"), words)], width)
    return told


def _notes(trace: ModelTrace, width: int) -> list[Text]:
    wrapped = [Text(f"note: {note}", "yellow") for note in trace.notes]
    wrapped += [Text(f"not traced: {path}: {reason}", "yellow") for path, reason in trace.untraced.items()]
    return [line for text in wrapped for line in packed([text], width)]


def verdicts(trace: ModelTrace) -> Sequence[str]:
    """One sentence for each layer."""
    return [f"{path}: {decays['state'].in_words() or 'too short to tell'}" for path, decays in trace.decays().items()]
