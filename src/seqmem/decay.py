"""How a gradient fades over the timesteps: a trace, its profile by distance from the answer, and how fast it decays.

numpy only: `seqmem show` imports this module, and importing torch or jaxtyping would take longer than all it does.
Shapes are in the docstrings.
Axes: T time, B batch, K timesteps back from the answer, R rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from math import inf, log

import numpy as np
from numpy import ndarray

from .measurement import Description, Number

INPUT = "input"
"""Name of the trace of what enters the first layer; every other trace is of a state that the cell carries."""

FLOOR = 1e-300
"""Norms at or below this are not told from zero: float64 holds nothing under 1e-308 at full precision."""

FAINTEST, STRONGEST = -8.0, 0.0
"""Ends of every scale of colours or blocks: log10 of the gradient, relative to the gradient at the answer."""


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


def relative_to_answer(log10: ndarray) -> ndarray:
    """Rows [R K] of ``log10_by_distance``, relative to the answer.

    A cell that answers before it updates its state has no gradient at the answer: its rows are relative to the nearest
    timestep that has one. A row of NaN is unchanged; a row that is infinite at the answer becomes NaN.
    """
    above = ~(np.isneginf(log10) | np.isnan(log10))
    answer = np.take_along_axis(log10, above.argmax(1)[:, None], axis=1)
    with np.errstate(invalid="ignore"):
        relative = np.where(np.isfinite(answer), log10 - answer, np.nan)
    return np.where(above.any(1, keepdims=True), relative, log10)


def profile(norms: ndarray, answered_at: ndarray) -> ndarray:
    """log10 of the mean over sequences, relative to the answer, from the first timestep to the answer: [K].

    ``-inf``: at or below FLOOR; NaN: not a number.
    """
    return relative_to_answer(log10_by_distance(norms, answered_at)[None])[0, ::-1]


NUMBERS = {
    "half_life": Number(
        "half-life",
        "Timesteps in which the gradient at the carried state halves on its way back, from a straight line through the "
        "logarithms. Drawn as ten times the sequence when it is longer, or does not decay at all.",
        unit="timesteps", better="higher", most_lengths=10.0, infinite="does not decay", fit="r2",
        unfit="far from geometric",
    ),
    "horizon": Number(
        "horizon",
        "How many timesteps back the gradient at the carried state is below 1/1000 of that at the answer. Drawn as the "
        "length of the sequence when that does not happen.",
        unit="timesteps", better="higher", most_lengths=1.0, infinite="beyond the sequence", place="back", digits=".0f",
    ),
    "log10_first_over_last": Number(
        "log10(first / last)",
        "log10 of the gradient norm at the first timestep over that at the answer: 0 all of it arrives, -3 a "
        "thousandth. Drawn as -12 when it is less.",
        better="higher", shown="drawn", least=-12.0, label="arrives", place="at the first timestep", log10_share=True,
    ),
    "points": Number("points", "Timesteps that the line was fitted to.", unit="timesteps", shown="stored"),
    "r2": Number("r2", "How well the line fits; 1: exactly geometric.", shown="stored"),
    "underflowed": Number("underflowed", "Timesteps below the floor.", unit="timesteps", shown="stored"),
}  # fmt: skip
"""The numbers of a Decay."""

DESCRIPTION = Description(NUMBERS, main="state")
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
    """How a gradient fades on its way back: a straight line ``log norm = a + s k`` over k timesteps back.

    ``half_life``: ln 2 / -s in timesteps; ``inf`` when it does not decay. ``horizon``: the fewest timesteps back at
    which the norm is below 1/1000 of its value at the answer; ``inf`` when that does not happen within the sequence.
    ``log10_first_over_last``: log10 of the norm at the first timestep over the norm at the answer; ``-inf`` when the
    first is below what float64 can hold. ``points`` and ``r2``: how many timesteps the line was fitted to, and how
    well it fits (1: exactly geometric; NaN with fewer than 3 points). ``underflowed``: timesteps below the floor.
    """

    half_life: float
    horizon: float
    log10_first_over_last: float
    points: int
    r2: float
    underflowed: int

    def numbers(self) -> dict[str, float]:
        return dict(vars(self))


def decay_from(numbers: Mapping[str, float]) -> Decay:
    """The inverse of ``Decay.numbers``."""
    counts = {name: int(numbers[name]) for name in ("points", "underflowed")}
    return Decay(**{name: float(value) for name, value in numbers.items() if name not in counts}, **counts)


def decay(back: ndarray) -> Decay:
    """The decay of norms by timesteps back from the answer (``back[0]`` is at the answer).

    A cell that answers before it updates its state has no gradient at the state of the answer itself; what is below
    FLOOR there is skipped, and the first norm above it is the reference for the others.
    """
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
    k = np.arange(back.shape[1])
    usable = (back > FLOOR) & (back < inf)  # NaN is neither
    lost = np.count_nonzero(back <= FLOOR, axis=1)
    points = np.count_nonzero(usable, axis=1)
    start = usable.argmax(1)
    at_start = np.take_along_axis(back, start[:, None], 1)
    with np.errstate(all="ignore"):  # rows with too few points are masked below
        logs = np.log(np.where(usable, back, 1.0))
        counted = np.maximum(points, 1)[:, None]
        # Least squares in closed form.
        across = np.where(usable, k - np.where(usable, k, 0).sum(1, keepdims=True) / counted, 0.0)
        up = np.where(usable, logs - logs.sum(1, keepdims=True) / counted, 0.0)
        slope = (across * up).sum(1) / (across * across).sum(1)
        spread = (up * up).sum(1)
        rest = up - slope[:, None] * across
        # A flat line is fitted exactly, though it explains nothing: 1, not 0/0. Slopes under 1e-12 are rounding.
        r2 = np.where(spread > 1e-20, 1.0 - (rest * rest).sum(1) / spread, 1.0)
        half_life = np.where(slope < -1e-12, log(2) / -slope, inf)
        below = (back < at_start / 1000) & (k >= start[:, None])  # False for NaN
        horizon = np.where(below.any(1), below.argmax(1), inf)
        first = np.take_along_axis(back, back.shape[1] - 1 - (~np.isnan(back[:, ::-1])).argmax(1)[:, None], 1)
        ratio = np.log10(first) - np.log10(at_start)
        ratio = np.where((first > FLOOR) & (first < inf), ratio, np.where(first > FLOOR, inf, -inf))[:, 0]
    nan = float("nan")
    half_life, r2 = np.where(points >= 3, half_life, nan), np.where(points >= 3, r2, nan)
    horizon, ratio = np.where(points > 0, horizon, nan), np.where(points > 0, ratio, nan)
    # Python's numbers: a checkpoint cannot hold numpy's.
    columns = (half_life, horizon, ratio, points, r2, lost)
    return [Decay(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
