"""How a gradient changes over the timesteps: a trace, its profile by distance from the answer, and that in words.

**What the numbers are relative to.** At the timestep that answers, the gradient at a state is that of the readout: it
has crossed no step of the recurrence, and says nothing about memory. An LSTM reads out its hidden state, whose gradient
there is often ten times that of the cell state that carries the memory. From one step back on, all gradient at a state
has crossed the recurrence, as the products of Jacobians have of which Hochreiter (1991) and Bengio, Simard & Frasconi
(1994) showed that they vanish or explode. So everything is relative to the gradient **one step back from the answer**,
and the answer itself is left out. A cell that answers before it updates its state begins there anyway. The price: what
the last step alone loses is not counted; traces and files have it.

``state`` is the norm of the gradients at everything that a timestep writes; each state has numbers of its own, too.

numpy only: `seqmem show` imports this module, and importing torch or jaxtyping would take longer than all it does.
Shapes are in the docstrings.
Axes: T time, B batch, K timesteps back from the answer, R rows.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from math import inf, isnan, log10

import numpy as np
from numpy import ndarray

from .measurement import Description, Number, share_in_words

INPUT = "input"
"""Name of the trace of what enters the first layer; every other trace is of a state that the cell carries."""

FLOOR = 1e-300
"""Norms at or below this are not told from zero: float64 holds nothing under 1e-308 at full precision."""

FAINTEST, STRONGEST = -8.0, 0.0
"""Ends of every scale of colours or blocks: log10 of the gradient, relative to that one step back from the answer."""

KEPT = 0.05
"""A gradient that is everywhere within 5 % of what it is one step back from the answer keeps its size: rounding is no
decay, and a half-life far longer than the sequence is not told from none."""

FITS, BENDS = 0.9, 2.0
"""A straight line describes the logarithms if its r2 is at least FITS, and lines through the nearer and the farther
half of them have slopes of one sign that differ by at most this factor: a curve with a knee or a turn has no
half-life."""

MOST, MARGIN = log10(sys.float_info.max), 3.0
"""log10 of the largest float64, and how near to it or to FLOOR a line ends that has left what float64 can hold."""


def together(norms: Mapping[str, ndarray]) -> ndarray:
    """The norm [... T B] of all states that a timestep writes, from the norms [... T B] by name; ``input`` is ignored.

    A state that timestep t does not write is NaN there for all sequences, and is left out; NaN if no state is written.
    """
    states = [values for name, values in norms.items() if name != INPUT]
    unwritten = [np.isnan(values).all(-1, keepdims=True) for values in states]
    if len(states) > 1 and any(rows.any() for rows in unwritten):
        none = np.logical_and.reduce(unwritten)
        states = [np.where(rows & ~none, 0.0, values) for rows, values in zip(unwritten, states, strict=True)]
    return reduce(np.hypot, states)  # np.square would underflow below the square root of FLOOR


def by_distance(norms: ndarray, answered_at: ndarray) -> ndarray:
    """Norms [T B] by timesteps back from each sequence's answer, [K B]; NaN before its first timestep."""
    first, last = int(answered_at.min()), int(answered_at.max())
    if first == last:
        return norms[last::-1]
    at = answered_at[None, :] - np.arange(last + 1)[:, None]
    return np.where(at >= 0, np.take_along_axis(norms, np.maximum(at, 0), axis=0), np.nan)


def mean_by_distance(norms: ndarray, answered_at: ndarray) -> ndarray:
    """The mean over sequences by timesteps back from the answer, [K].

    A sequence that is NaN at a distance is left out of that mean; NaN if all are.
    """
    back = by_distance(norms, answered_at)
    absent = np.isnan(back)
    if not absent.any():
        return back.mean(1)
    counts = back.shape[1] - absent.sum(1)
    return np.where(counts > 0, np.where(absent, 0, back).sum(1) / np.maximum(counts, 1), np.nan)


def log10_by_distance(norms: ndarray, answered_at: ndarray) -> ndarray:
    """log10 of ``mean_by_distance``, [K]; ``-inf`` at or below FLOOR, ``inf`` where the mean overflows."""
    with np.errstate(over="ignore"):
        means = mean_by_distance(norms, answered_at)
    logs = np.full(len(means), -inf)
    np.log10(means, out=logs, where=~(means <= FLOOR))
    return logs


def relative(log10: ndarray) -> ndarray:
    """Rows [R K] of ``log10_by_distance``, from one step back from the answer on and relative to that, [R K-1].

    Column j is j + 1 timesteps back. Where a row has no gradient one step back, it is relative to the nearest timestep
    further back that has one. A row without any is unchanged; one that is infinite there becomes NaN.
    """
    back = log10[:, 1:]
    if not back.shape[1]:
        return back
    above = ~(np.isneginf(back) | np.isnan(back))
    reference = np.take_along_axis(back, above.argmax(1)[:, None], axis=1)
    with np.errstate(invalid="ignore"):
        shares = np.where(np.isfinite(reference), back - reference, np.nan)
    return np.where(above.any(1, keepdims=True), shares, back)


def one_step_back(back: ndarray) -> float:
    """The reference among means by timesteps back, [K]: one step back from the answer, or the first above zero beyond;
    NaN if the answer is the only timestep."""
    above = np.flatnonzero(back[1:] > 0)
    return float(back[1 + above[0]]) if len(above) else float(back[1]) if len(back) > 1 else float("nan")


def profile(norms: ndarray, answered_at: ndarray) -> ndarray:
    """log10 of the mean over sequences, relative to one step back from the answer, from the first timestep to that:
    [K-1].

    ``-inf``: at or below FLOOR; NaN: not a number.
    """
    return relative(log10_by_distance(norms, answered_at)[None])[0, ::-1]


NUMBERS = {
    "log10_arrives": Number(
        "gradient arriving",
        "log10 of the gradient norm at the first timestep over that one step back from the answer: 0 all of it "
        "arrives, -3 a thousandth. Where it is less than -12 its line ends, with a triangle (NaN); more than 12 is "
        "drawn as 12.",
        better="higher", least=-12.0, most=12.0, label="arrives", place="at the first timestep", log10_share=True,
        each_part=True,
    ),
    "half_life": Number(
        "half-life",
        "Timesteps in which the gradient halves on its way back, from a straight line through the logarithms; only "
        "where such a line describes them. Drawn as ten times the sequence when it is longer, or keeps its size, or "
        "grows evenly.",
        unit="timesteps", better="higher", most_lengths=10.0, infinite="keeps or grows", unknown="no straight line",
        told=True,
    ),
    "horizon": Number(
        "horizon",
        "The first timestep, counted back from the answer, at which the gradient is below 1/1000 of that one step "
        "back. Drawn as the length of the sequence when that does not happen.",
        unit="timesteps", better="higher", most_lengths=1.0, infinite="beyond the sequence", place="back", digits=".0f",
    ),
    "log10_least": Number(
        "least gradient",
        "log10 of the least gradient norm at any timestep before the answer, over that one step back from it. Where it "
        "is less than -12 its line ends, with a triangle (NaN).",
        better="higher", shown="drawn", least=-12.0, label="least", log10_share=True, told=True,
    ),
    "least_at": Number(
        "place of the least", "How many timesteps back that is.", unit="timesteps", shown="stored", digits=".0f"
    ),
    "log10_most": Number("most gradient", "The same of the largest.", shown="stored", log10_share=True),
    "most_at": Number(
        "place of the most", "How many timesteps back that is.", unit="timesteps", shown="stored", digits=".0f"
    ),
    "factor": Number("factor", "What the line multiplies the gradient by at each timestep back.", shown="stored"),
    "points": Number("points", "Timesteps that the line was fitted to.", unit="timesteps", shown="stored"),
    "r2": Number("r2", "How well the line fits; 1: exactly geometric.", shown="stored"),
    "underflowed": Number("underflowed", "Timesteps below the floor.", unit="timesteps", shown="stored"),
}  # fmt: skip
"""The numbers of a Decay."""


def is_current(numbers: Mapping[str, float]) -> bool:
    """False for what earlier versions stored: their numbers are relative to the gradient at the answer, and have a
    half-life where no straight line describes the curve."""
    return "log10_arrives" in numbers


def is_whole(numbers: Mapping[str, object]) -> bool:
    """True if they are a Decay's: current, and not damaged."""
    return all(isinstance(numbers.get(name), int | float) for name in NUMBERS)


def in_words(numbers: Mapping[str, float], unit: str = "timestep") -> str:
    """How the gradient changes on its way back, e.g. ``half-life 8.42 timesteps``, ``grows x1.5 a timestep``, ``falls
    to 0.02 % at 24 back, then rises to 37 %``; empty for numbers of earlier versions, or damaged ones."""
    if not is_whole(numbers):
        return ""
    least, most, arrives = (numbers[name] for name in ("log10_least", "log10_most", "log10_arrives"))
    zero = f"zero from {numbers['least_at']:.0f} back" if least == -inf else ""
    beyond = f"infinite from {numbers['most_at']:.0f} back" if most == inf else ""
    half_life = numbers["half_life"]
    if numbers["points"] < 3:
        if not numbers["points"] and zero:
            return "none crosses a step"
        return zero or beyond or "too few timesteps to tell"
    if isnan(half_life):
        return _turns(numbers)
    if half_life < inf:
        text = f"half-life {NUMBERS['half_life'].words(half_life)} {unit}s"
    elif max(-least, most) <= _WITHIN:
        text = "keeps its size"
    else:
        text = f"grows x{_factor(numbers['factor'])} a {unit}"
    return ", ".join(part for part in (text, zero if arrives == -inf else "", beyond) if part)


_WITHIN = -log10(1 - KEPT)

_TWICE = log10(2)


def _turns(numbers: Mapping[str, float]) -> str:
    """A curve that no straight line describes: where it turns, and where it ends. Less than a factor of two from the
    level before it, or from the end, is no turn."""
    end, level, parts = numbers["log10_arrives"], 0.0, []
    for name in sorted(("least", "most"), key=lambda name: numbers[f"{name}_at"]):
        value, place = numbers[f"log10_{name}"], numbers[f"{name}_at"]
        if _apart(value, level) and _apart(value, end):
            parts.append(f"{'falls' if value < level else 'rises'} to {_level(value)} at {place:.0f} back")
            level = value
    verb = "falls" if end < level else "grows" if not parts else "rises"
    if not _apart(end, level):
        least, most = (share_in_words(numbers[name]) for name in ("log10_least", "log10_most"))
        return f"stays between {least} ({numbers['least_at']:.0f} back) and {most}"
    if parts:
        return f"{', '.join(parts)}, then {verb} to {_level(end)}"
    extreme, place = ("nothing", "least_at") if end == -inf else ("infinity", "most_at")
    if abs(end) == inf:
        return f"{verb} unevenly, to {extreme} from {numbers[place]:.0f} back"
    return f"{verb} unevenly, to {_level(end)}"


def _level(log10: float) -> str:
    return "infinity" if log10 == inf else share_in_words(log10)


def _apart(one: float, other: float) -> bool:
    return one != other and not abs(one - other) < _TWICE


def _factor(factor: float) -> str:
    """``1.5``, ``1.002``: two digits of what is above 1."""
    for digits in range(1, 9):
        if round(factor, digits) > 1 and round(factor - 1, digits) >= 10 ** (1 - digits):
            return f"{factor:.{digits}f}".rstrip("0").rstrip(".") if factor < 100 else f"{factor:.3g}"
    return f"{factor:.9g}"


def states(parts: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The names of the states that a timestep writes, if there are several: a single one is ``state`` itself."""
    names = [name for name in parts if name not in (INPUT, DESCRIPTION.main)]
    return names if len(names) > 1 else []


DESCRIPTION = Description(NUMBERS, main="state", in_words=in_words)
"""What the gradient probe's numbers mean: of every state, first of all states together."""

DESCRIPTIONS = {"gradient": DESCRIPTION}
"""Probes whose numbers are described without torch. Runs with other probes carry their descriptions."""


@dataclass(frozen=True, eq=False)
class Trace:
    """A ``gradient_trace`` with the timesteps at which its sequences were answered.

    ``norms``: name -> [T B], float64; NaN where that timestep did not write that state. ``answered_at``: [B], the
    timestep whose loss was propagated.
    """

    norms: Mapping[str, ndarray]
    answered_at: ndarray

    @cached_property
    def state(self) -> ndarray:
        """The gradient at everything that timestep t writes: the root of the sum of the squared norms, as in
        ``together``."""
        return together(self.norms)

    def series(self) -> dict[str, ndarray]:
        """All traces, ``state`` (all carried states together) first."""
        return {"state": self.state, **self.norms}

    def decays(self) -> dict[str, "Decay"]:
        """The decay of each series, averaged over sequences."""
        return decays_of([self])[0]

    def back(self, norms: ndarray) -> ndarray:
        """``by_distance`` of these sequences' norms."""
        return by_distance(norms, self.answered_at)

    def mean_back(self, norms: ndarray) -> ndarray:
        """``mean_by_distance`` of these sequences' norms."""
        return mean_by_distance(norms, self.answered_at)


@dataclass(frozen=True)
class Decay:
    """How a gradient changes on its way back, relative to one step back from the answer (see the module's docstring).

    ``log10_arrives``: log10 of the norm at the first timestep; ``-inf`` when it is below what float64 can hold.
    ``half_life``: in timesteps, of a straight line ``log norm = a + s k`` over k timesteps back; ``inf`` where the norm
    keeps its size (KEPT) or grows along such a line; NaN where no line describes it (FITS, BENDS), or there are fewer
    than 3 points. ``horizon``: the fewest timesteps back from the answer at which the norm is below 1/1000; ``inf``
    when that does not happen within the sequence. ``log10_least`` and ``log10_most``: of the smallest and the largest
    norm, which are ``least_at`` and ``most_at`` timesteps back. ``factor``: exp(s), by which the line changes at each
    timestep; ``points`` and ``r2``: how many timesteps it was fitted to, and how well it fits (1: exactly geometric);
    NaN with fewer than 3. ``underflowed``: timesteps below the floor, the answer among them.
    """

    log10_arrives: float
    half_life: float
    horizon: float
    log10_least: float
    least_at: float
    log10_most: float
    most_at: float
    factor: float
    points: int
    r2: float
    underflowed: int

    def numbers(self) -> dict[str, float]:
        return dict(vars(self))

    def in_words(self, unit: str = "timestep") -> str:
        return in_words(self.numbers(), unit)


def decay_from(numbers: Mapping[str, float]) -> Decay:
    """The inverse of ``Decay.numbers``."""
    counts = {name: int(numbers[name]) for name in ("points", "underflowed")}
    return Decay(**{name: float(value) for name, value in numbers.items() if name not in counts}, **counts)


def decay(back: ndarray) -> Decay:
    """The decay of norms by timesteps back from the answer (``back[0]`` is at the answer, and only counted)."""
    return _decays(np.asarray(back, dtype=np.float64)[None])[0]


def decays_of(traces: Sequence[Trace]) -> list[dict[str, Decay]]:
    """``Trace.decays`` of several traces with equal ``answered_at``: the same bits, faster."""
    rows: list[ndarray] = []
    places: list[dict[str, int]] = []
    for trace in traces:
        row_of: dict[int, int] = {}  # with a single state, ``state`` is the same array: read it once
        series = trace.series()
        for norms in series.values():
            if id(norms) not in row_of:
                row_of[id(norms)] = len(rows)
                rows.append(trace.mean_back(norms))
        places.append({name: row_of[id(norms)] for name, norms in series.items()})
    read = _decays(np.stack(rows)) if rows else []
    return [{name: read[place] for name, place in of_trace.items()} for of_trace in places]


def _decays(back: ndarray) -> list[Decay]:
    """``decay`` of each row. Sums run within a row, so its bits do not depend on the other rows."""
    underflowed = np.count_nonzero(back <= FLOOR, axis=1)
    if back.shape[1] < 2:
        nan = float("nan")
        return [Decay(nan, nan, nan, nan, nan, nan, nan, nan, 0, nan, count) for count in underflowed.tolist()]
    k = np.arange(1, back.shape[1])
    back = back[:, 1:]
    usable = (back > FLOOR) & (back < inf)  # NaN is neither
    points = np.count_nonzero(usable, axis=1)
    start = usable.argmax(1)[:, None]
    known = ~np.isnan(back) & ((np.arange(len(k)) >= start) | (points == 0)[:, None])
    with np.errstate(all="ignore"):  # rows with too few points are masked below
        logs = np.log10(np.where(usable, back, 1.0))
        last = usable.shape[1] - 1 - usable[:, ::-1].argmax(1)[:, None]
        ends = np.take_along_axis(logs, last, 1)[:, 0]
        logs -= np.take_along_axis(logs, start, 1)
        shares = np.where(usable, logs, np.where(back > FLOOR, inf, -inf))  # where ``known``
        line, r2 = _line(usable, k, logs)
        rank = np.cumsum(usable, axis=1) - 1
        middle = (points - 1)[:, None] / 2
        near, _ = _line(usable & (rank <= np.ceil(middle)), k, logs)
        far, _ = _line(usable & (rank >= np.floor(middle)), k, logs)
        straight = (r2 >= FITS) & (near * far > 0) & (np.abs(near) <= BENDS * np.abs(far))
        straight &= np.abs(far) <= BENDS * np.abs(near)
        # Zeros and infinities are part of a line only where it has left what float64 can hold: where its next points
        # would be beyond that, too. MARGIN allows for noise.
        lost = known & ~usable
        straight &= ~(lost & (np.arange(len(k)) <= last)).any(1)
        straight &= ~(lost & (back <= FLOOR)).any(1) | (ends + 2 * line - MARGIN <= log10(FLOOR))
        straight &= ~(lost & (back == inf)).any(1) | (ends + 2 * line + MARGIN >= MOST)
        low, high = np.where(known, shares, inf), np.where(known, shares, -inf)
        least_at, most_at = low.argmin(1)[:, None], high.argmax(1)[:, None]
        least, most = (np.take_along_axis(shares, place, 1)[:, 0] for place in (least_at, most_at))
        kept = np.maximum(-least, most) <= _WITHIN
        half_life = np.where(straight & (line < 0), -_TWICE / line, np.where(straight, inf, np.nan))
        half_life = np.where(kept, inf, half_life)
        below = known & (shares < -3)
        horizon = np.where(below.any(1), k[below.argmax(1)], inf)
        first = back.shape[1] - 1 - known[:, ::-1].argmax(1)[:, None]
        arrives = np.take_along_axis(shares, first, 1)[:, 0]
    few, none, nan = points < 3, points == 0, np.nan
    nothing = ~known.any(1)
    half_life, factor, r2 = (np.where(few, nan, values) for values in (half_life, 10.0**line, r2))
    arrives, least, most = (np.where(nothing, nan, values) for values in (arrives, least, most))
    least_at, most_at = (np.where(nothing, nan, k[place[:, 0]].astype(float)) for place in (least_at, most_at))
    horizon = np.where(none, nan, horizon)
    # Python's numbers: a checkpoint cannot hold numpy's.
    columns = (arrives, half_life, horizon, least, least_at, most, most_at, factor, points, r2, underflowed)
    return [Decay(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _line(chosen: ndarray, k: ndarray, logs: ndarray) -> tuple[ndarray, ndarray]:
    """Slope and r2, [R], of the straight line through the ``chosen`` points of each row: least squares, closed form."""
    counted = np.maximum(np.count_nonzero(chosen, axis=1), 1)[:, None]
    across = np.where(chosen, k - np.where(chosen, k, 0).sum(1, keepdims=True) / counted, 0.0)
    up = np.where(chosen, logs - np.where(chosen, logs, 0.0).sum(1, keepdims=True) / counted, 0.0)
    slope = (across * up).sum(1) / (across * across).sum(1)
    spread = (up * up).sum(1)
    rest = up - slope[:, None] * across
    # A flat line is fitted exactly, though it explains nothing: 1, not 0/0.
    return slope, np.where(spread > 1e-20, 1.0 - (rest * rest).sum(1) / spread, 1.0)
