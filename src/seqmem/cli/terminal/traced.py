"""What every layer of a model received, as lines: a strip for each, on one scale, and what their gradients do."""

from math import isinf, isnan

from rich.console import Console
from rich.text import Text

from ...decay import NUMBERS
from ...tracing.advice import explodes, vanishes
from ...tracing.model_trace import ModelTrace
from .pages import WIDEST
from .strip import Marks, columns, heat_strip, legend, marks, packed

_NUMBERS = ("log10_arrives", "half_life", "horizon")

_LONGEST_PATH = 28


def lines(trace: ModelTrace, console: Console) -> list[Text]:
    """A table of all layers, then what to know about them."""
    signs, width = marks(console), min(console.width, WIDEST)
    head = Text.assemble(("trace", "bold"), "  ", (f"{trace.of} {signs.dot} {_sizes(trace)}", "dim"))
    return [head, *_table(trace, console), *_verdicts(trace, width), *_advice(trace, width), *_notes(trace, width)]


def _sizes(trace: ModelTrace) -> str:
    first = next(iter(trace.parts.values()))
    count = len(first.lengths)
    return f"{count} sequence{'s' if count != 1 else ''}, {trace.dtype}"


def _table(trace: ModelTrace, console: Console) -> list[Text]:
    signs, width = marks(console), min(console.width, WIDEST)
    profiles = trace.profiles()
    heads = [Text(""), *(Text(NUMBERS[name].short, "dim") for name in _NUMBERS)]
    rows = []
    for path, decays in trace.decays().items():
        numbers = decays["state"].numbers()
        brief = [Text(NUMBERS[name].brief(numbers[name])) for name in _NUMBERS]
        rows.append([Text(_shortened(path, signs), "bold"), *brief])
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


def _shortened(path: str, signs: Marks) -> str:
    """A long path without its beginning, for paths differ at their ends."""
    return path if len(path) <= _LONGEST_PATH else signs.ellipsis + path[1 - _LONGEST_PATH :]


def _notes(trace: ModelTrace, width: int) -> list[Text]:
    wrapped = [Text(f"note: {note}", "yellow") for note in trace.notes]
    wrapped += [Text(f"not traced: {path}: {reason}", "yellow") for path, reason in trace.untraced.items()]
    return [line for text in wrapped for line in packed([text], width)]


def _advice(trace: ModelTrace, width: int) -> list[Text]:
    return packed([Text(trace.advice, "bold")], width) if trace.advice else []


def _verdicts(trace: ModelTrace, width: int) -> list[Text]:
    """A sentence for each layer: what its gradient does, and how far back it is of any use. Of many layers for those
    that no straight line describes: they have no half-life in the table."""
    sentences = []
    for path, decays in trace.decays().items():
        decay, steps = decays["state"], int(trace.parts[path].trace.answered_at.max()) + 1
        if len(trace.parts) > _FEW and not isnan(decay.half_life):
            continue
        if isnan(decay.horizon):
            only = "the loss reaches its last timestep alone" if steps > 1 else "it has a single timestep"
            if not trace.parts[path].trace.state[trace.parts[path].trace.state > 0].size:
                only = "its gradient is zero"
            sentences += packed([Text.assemble((f"{path}: ", "bold"), only)], width)
            continue
        if isinf(decay.horizon):
            reach = f"a thousandth or more reaches each of {steps} timesteps"
        else:
            reach = f"below a thousandth {decay.horizon:.0f} timesteps back, of {steps}"
        shape = decay.in_words() or "too short to tell"
        told = trace.parts[path].why and (vanishes(decay) or explodes(decay))
        why = f"; {trace.parts[path].why}" if told else ""
        sentences += packed([Text.assemble((f"{path}: ", "bold"), f"{shape}; {reach}{why}")], width)
    return sentences


_FEW = 4
