"""What a probe measures: numbers with units, and series over timesteps.

Imports no torch, and numpy for types only: `seqmem show` prints the numbers of any probe, even one that is not
installed, from the description stored in the run.
Axes: T time, B batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import inf, isfinite, isnan, nan
from typing import Any, Literal

from numpy import ndarray

Scalars = Mapping[str, Any]
"""Number -> value; or, of a probe that measures several parts of a model, part -> number -> value."""


@dataclass(frozen=True)
class Number:
    """How to read one number of a probe.

    Args:
        title: for people, e.g. ``half-life``. ``label``: the same in at most 11 characters, where the title is longer.
        meaning: one or two sentences, in markdown.
        unit: follows a finite value; ``place`` follows that where there is room, e.g. ``at the first timestep``.
        better: the direction that is better for memory; None: neither.
        shown: ``everywhere``: in `show`, tables, reports and TensorBoard. ``drawn``: in TensorBoard and in the page
            about one run. ``stored``: in the run's files only.
        least, most: what lies beyond is drawn as this; None: no such limit. ``most_lengths``: the same as ``most``, in
            multiples of the length of the measured sequences. Files have the true numbers.
        digits: a format of Python's, e.g. ``.0f``; empty: three significant digits.
        infinite: what infinity means, in words; ``unknown``: what NaN means.
        log10_share: the value is log10 of a share of something, and read more easily in percent.
        fit: another number of the probe, which says how well this one describes what was measured (1: exactly);
            ``unfit``: what to say of a value in the sequence where it is below 0.8.
        told: the probe's numbers in words (``Description.in_words``) say it; it has no line of its own beside those.
        each_part: drawn in TensorBoard for every part that the probe measures, not only for the main one.
    """

    title: str
    meaning: str = ""
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    shown: Literal["everywhere", "drawn", "stored"] = "everywhere"
    least: float | None = None
    most: float | None = None
    most_lengths: float | None = None
    label: str = ""
    place: str = ""
    digits: str = ""
    infinite: str = "infinite"
    unknown: str = "unknown"
    log10_share: bool = False
    fit: str = ""
    unfit: str = ""
    told: bool = False
    each_part: bool = False

    @property
    def short(self) -> str:
        """The title in at most 11 characters, if it has such a label."""
        return self.label or self.title

    def drawn(self, value: float, timesteps: int) -> float | None:
        """The value as a figure can show it; None: it is not a number."""
        if isnan(value):
            return None
        if self.least is not None:
            value = max(value, self.least)
        if self.most is not None:
            value = min(value, self.most)
        return value if self.most_lengths is None else min(value, self.most_lengths * timesteps)

    def plotted(self, value: float, timesteps: int) -> float | None:
        """The value as a point of a line, which ends below ``least``: NaN there, not a plateau at that height."""
        return nan if self.least is not None and value < self.least else self.drawn(value, timesteps)

    def text(self, value: float) -> str:
        """``8.42 timesteps``; what is not finite has no unit."""
        if self.log10_share:
            return self.words(value)
        return f"{value:.3g} {self.unit}".strip() if isfinite(value) else str(value)

    def brief(self, value: float) -> str:
        """The value in a narrow column: ``8.42``, ``inf``, ``-``, ``35 %``."""
        if self.log10_share and not isnan(value):
            return share_in_words(value)
        return "-" if isnan(value) else str(value) if not isfinite(value) else _three_digits(value)

    def suffix(self, value: float) -> str:
        """Unit and place, with a leading space, to append to the value."""
        if not isfinite(value) and not self.log10_share:
            return ""
        return "".join(f" {part}" for part in (self.unit, self.place) if part)

    def words(self, value: float) -> str:
        """The value in prose, without its unit: ``8.42``, ``1,230``, ``beyond the sequence``, ``35 %``."""
        if isnan(value):
            return self.unknown
        if self.log10_share:
            return share_in_words(value)
        if not isfinite(value):
            return self.infinite if value > 0 else f"-{self.infinite}"
        if self.digits:
            return f"{value:{self.digits}}"
        return _three_digits(value)


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def share_in_words(log10: float) -> str:
    """In percent between 0.01 % and 1,000 %, otherwise as a power of ten."""
    if abs(log10) == inf:
        return "infinite" if log10 > 0 else "nothing"
    return f"{100 * 10**log10:.3g} %" if -4 < log10 < 1 else f"10^{log10:.1f}"


@dataclass(frozen=True)
class Description:
    """What a probe's numbers mean; stored in each run's environment.json.

    Args:
        numbers: name -> Number, those that matter most first.
        main: of a probe that measures several parts, the one that is shown where there is room for one; empty: its
            numbers belong to no part.
        in_words: what the numbers of one part say together; known of the probes of seqmem alone, and not stored.
    """

    numbers: Mapping[str, Number]
    main: str = ""
    in_words: Callable[[Mapping[str, float]], str] | None = field(default=None, compare=False)

    def of_main(self, scalars: Scalars) -> dict[str, float]:
        """The numbers of the main part; none if it was not measured."""
        values = scalars.get(self.main, {}) if self.main else scalars
        if not isinstance(values, Mapping):
            return {}
        return {name: value for name, value in values.items() if not isinstance(value, Mapping)}

    def shown(self, *where: str) -> dict[str, Number]:
        """The numbers that are shown ``everywhere``, or at one of these places."""
        return {name: number for name, number in self.numbers.items() if number.shown in (where or ("everywhere",))}

    def fields(self) -> dict[str, Any]:
        """JSON-ready fields, as in ``environment.json``."""
        return {"main": self.main, "numbers": {name: asdict(number) for name, number in self.numbers.items()}}


def read_description(values: Mapping[str, Any]) -> Description:
    """The inverse of ``Description.fields``; fields added by later versions are dropped.

    Raises:
        KeyError, TypeError, AttributeError: it is not a description.
    """
    known = {one.name for one in fields(Number)}
    numbers = {
        str(name): Number(**{key: value for key, value in number.items() if key in known})
        for name, number in values["numbers"].items()
    }
    return Description(numbers, str(values.get("main", "")))


def plain(scalars: Scalars, numbers: Mapping[str, Number]) -> Scalars:
    """Scalars as Python numbers, which a checkpoint can hold.

    Raises:
        ValueError: a name is not in the probe's ``numbers``.
    """
    checked: dict[str, Any] = {}
    for name, value in scalars.items():
        if isinstance(value, Mapping):
            checked[name] = {inner: _plain(inner, number, numbers) for inner, number in value.items()}
        else:
            checked[name] = _plain(name, value, numbers)
    return checked


def _plain(name: str, value: Any, numbers: Mapping[str, Number]) -> Any:
    if name not in numbers:
        raise ValueError(f"a number '{name}' was measured that is not declared: declared are {', '.join(numbers)}")
    return value if type(value) in (int, float) else float(value)


def describe_unknown(scalars: Scalars) -> Description:
    """A description for numbers stored without one: their names only."""
    return Description({name: Number(name) for name, value in scalars.items() if not isinstance(value, Mapping)})


@dataclass(frozen=True, eq=False)
class Measurement:
    """One measurement of one model.

    Args:
        scalars: by the names of the probe's numbers.
        series: name -> [T] or [T B], float64: over the timesteps of the measured sequences.
        answered_at: [B], the timestep of each sequence's last answer; the series are then drawn by the distance from
            it, too. None: by timestep alone.
    """

    scalars: Scalars
    series: Mapping[str, ndarray] = field(default_factory=dict)
    answered_at: ndarray | None = None

    @property
    def timesteps(self) -> int | None:
        """T; None without series."""
        return next((len(values) for values in self.series.values()), None)
