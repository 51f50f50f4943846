"""What a file in conf/paper/ says: the runs that repeat a published result, and the published figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from re import search
from typing import Any

MEASURES = {
    "score": "the score of the task",
    "error": "1 - accuracy",
    "loss": "the loss of the task",
    "solved": "share of seeds that solve the task",
    "sequences": "training sequences until the task is solved",
}
"""What is compared, per seed -> in words."""


_BETTER = " > "
"""Between the rows of an order."""


@dataclass(frozen=True)
class Published:
    """A published figure.

    Args:
        value: a mean, or of ``solved`` a share.
        bound: ``>`` or ``<``: the paper says that it is more or less than ``value``; empty: it is ``value``.
        spread: standard deviation over ``seeds``; None: not published.
        seeds: how many seeds, trials or runs are behind it; None: not published.
        rounding: half a unit of the last digit that is printed.
    """

    value: float
    spread: float | None = None
    seeds: int | None = None
    rounding: float = 0.0
    bound: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        settings: of its runs, as on the command line of ``seqmem train``.
        published: None: there is no such figure.
        obstacle: why the two figures cannot be compared; empty: they can.
        lengths: as of the paper; empty: those of the paper.
    """

    name: str
    settings: Sequence[str]
    published: Published | None = None
    obstacle: str = ""
    lengths: Sequence[int] = ()


@dataclass(frozen=True)
class Order:
    """A published order of two rows: ``better`` does better than ``worse``. Both are names of rows."""

    better: str
    worse: str

    def __str__(self) -> str:
        return f"{self.better}{_BETTER}{self.worse}"


@dataclass(frozen=True)
class Quick:
    """``--quick``: fewer seeds and other settings. ``shows``: what it can show and what it cannot."""

    seeds: int
    settings: Sequence[str]
    shows: str


@dataclass(frozen=True)
class Paper:
    """A published result.

    Args:
        name: of its file.
        source: authors, year, title and place.
        where: the table, figure or section that has the figures.
        claim: what is repeated, in a sentence or two.
        cost: what it takes on which machine.
        measure: one of ``MEASURES``.
        margin: figures that differ by less than this count as the same, in the unit of the measure.
        seeds: 0 to ``seeds`` - 1.
        settings: of all runs.
        lengths: of ``evaluate.lengths`` those whose mean is measured; empty: the training length alone.
        best_of: values of one setting, as ``optimizer.lr=1e-2,3e-3``; a row has the figure of the one with the best
            mean, as the paper chose it. Empty: one value of each setting.
        departures: every difference from the paper's set-up.
        quick: None: it takes minutes as it is.
        orders: which row does better than which other, as the paper claims.
    """

    name: str
    source: str
    where: str
    claim: str
    cost: str
    measure: str
    margin: float
    seeds: int
    settings: Sequence[str]
    rows: Sequence[Row]
    departures: Sequence[str]
    lengths: Sequence[int] = ()
    best_of: str = ""
    quick: Quick | None = None
    orders: Sequence[Order] = ()

    @property
    def cited(self) -> str:
        """Authors and year, which begin the source."""
        year = search(r"\b\d{4}\b", self.source)
        return self.source if year is None else self.source[: year.end()]

    @property
    def lower_is_better(self) -> bool:
        return self.measure in ("error", "loss", "sequences")

    def candidates(self) -> list[str]:
        """The values of ``best_of``, each as a setting; one empty one if there is no choice."""
        if not self.best_of:
            return [""]
        key, _, values = self.best_of.partition("=")
        return [f"{key}={value}" for value in values.split(",")]

    def settings_of(self, row: Row, candidate: str, *, quick: bool) -> list[str]:
        """The settings of a row's runs, but for the seed. Of two settings of one name the later one holds."""
        more = self.quick.settings if quick and self.quick is not None else []
        every = [*self.settings, *row.settings, *([candidate] if candidate else []), *more]
        return [*{one.partition("=")[0]: one for one in every}.values()]

    def lengths_of(self, row: Row) -> Sequence[int]:
        """The lengths whose mean is a row's figure; empty: the training length alone."""
        return row.lengths or self.lengths

    def seeds_of(self, *, quick: bool) -> int:
        return self.quick.seeds if quick and self.quick is not None else self.seeds


class DefinitionError(ValueError):
    """A file in conf/paper/ does not say what it must; the message says what instead."""


def paper_of(name: str, content: Mapping[str, Any]) -> Paper:
    """The paper that a file describes.

    Raises:
        DefinitionError: a key is missing or unknown, or has an invalid value.
    """
    fields = dict(content)
    try:
        rounding = float(fields.pop("rounding", 0.0))
        rows = [_row(str(key), value, rounding) for key, value in dict(fields.pop("rows")).items()]
        quick = fields.pop("quick", None)
        paper = Paper(
            name=name,
            source=str(fields.pop("source")),
            where=str(fields.pop("where")),
            claim=str(fields.pop("claim")),
            cost=str(fields.pop("cost")),
            measure=str(fields.pop("measure")),
            margin=float(fields.pop("margin")),
            seeds=int(fields.pop("seeds")),
            settings=_settings(fields.pop("settings")),
            rows=rows,
            departures=[str(one) for one in fields.pop("departures")],
            lengths=_lengths(fields.pop("lengths", ())),
            best_of=str(fields.pop("best_of", "") or ""),
            orders=_orders(fields.pop("orders", ()), [row.name for row in rows]),
            quick=None if quick is None else _quick(dict(quick)),
        )
    except KeyError as error:
        raise DefinitionError(f"paper={name}: its file has no {error}") from None
    except (TypeError, AttributeError) as error:
        raise DefinitionError(f"paper={name}: {error}") from None
    if fields:
        raise DefinitionError(f"paper={name}: its file has '{next(iter(fields))}', which means nothing there")
    if paper.measure not in MEASURES:
        raise DefinitionError(f"paper={name}: measure={paper.measure}: must be one of {', '.join(MEASURES)}")
    if paper.measure in ("solved", "sequences") and any(paper.lengths_of(row) for row in paper.rows):
        raise DefinitionError(f"paper={name}: measure={paper.measure}: is told of the training length, not of others")
    if paper.seeds < 1 or paper.margin <= 0 or not paper.rows:
        raise DefinitionError(f"paper={name}: it needs a seed, a positive margin and a row")
    return paper


def _row(name: str, content: Mapping[str, Any], rounding: float) -> Row:
    published = content.get("published")
    fields = dict(published) if isinstance(published, Mapping) else {"value": published}
    figure = None if published is None else _published({"rounding": rounding, **fields})
    unknown = set(content) - {"settings", "published", "obstacle", "lengths"}
    if unknown:
        raise TypeError(f"row '{name}' has '{min(unknown)}', which means nothing there")
    lengths = _lengths(content.get("lengths", ()))
    return Row(name, _settings(content["settings"]), figure, str(content.get("obstacle", "")), lengths)


def _quick(fields: dict[str, Any]) -> Quick:
    quick = Quick(int(fields.pop("seeds")), _settings(fields.pop("settings")), str(fields.pop("shows")))
    if fields:
        raise TypeError(f"quick has '{next(iter(fields))}', which means nothing there")
    return quick


def _orders(given: Any, rows: Sequence[str]) -> list[Order]:
    """``chrono > forget bias 1``, or a list of such."""
    texts = given if isinstance(given, list | tuple) else [] if given is None else [given]
    orders = [_order(str(text), rows) for text in texts]
    if len({*orders}) < len(orders):
        raise TypeError("orders: one of them stands there twice")
    return orders


def _order(text: str, rows: Sequence[str]) -> Order:
    parts = text.split(_BETTER)
    if len(parts) < 2:
        raise TypeError(f"orders: {text}: must be 'ROW > ROW', the better one first")
    splits = [(_BETTER.join(parts[:at]).strip(), _BETTER.join(parts[at:]).strip()) for at in range(1, len(parts))]
    named = [Order(*names) for names in splits if all(name in rows for name in names)]
    if not named:
        unknown = next(name for name in splits[0] if name not in rows)
        raise TypeError(f"orders: {text}: no row is called '{unknown}'")
    if named[0].better == named[0].worse:
        raise TypeError(f"orders: {text}: must be of two rows")
    return named[0]


def _published(fields: Mapping[str, Any]) -> Published:
    """``0.67``, or a bound: ``> 0.99``."""
    text = str(fields["value"]).strip()
    bound = text[0] if text[:1] in ("<", ">") else ""
    try:
        value = float(text[len(bound) :])
    except ValueError:
        raise TypeError(f"published: {text}: must be a number, or a bound such as '> 0.99'") from None
    return Published(**{**fields, "value": value, "bound": bound})


def _lengths(given: Any) -> list[int]:
    """``100``, or ``[100, 200]``."""
    return [int(one) for one in (given if isinstance(given, list | tuple) else [given])]


def _settings(given: Any) -> list[str]:
    """``cell=lstm seq_len=50``, or a list of such settings."""
    return given.split() if isinstance(given, str) else [str(one) for one in given]
