"""The table of a repeated paper, as rows of text, as Markdown and as JSON."""

from collections.abc import Sequence
from math import floor, isfinite, log10
from typing import Any

from ..solved import LEVEL
from .comparison import Comparison, OrderComparison
from .definition import MEASURES, Paper

HEADINGS = ("", "published", "ours", "seeds", "difference", "verdict")
ORDER_HEADINGS = ("claimed: better > worse", "better by", "verdict")


def rows(paper: Paper, comparisons: Sequence[Comparison]) -> list[list[str]]:
    """One list of texts per row, as ``HEADINGS``."""
    return [_row(paper, one) for one in comparisons]


def order_rows(paper: Paper, comparisons: Sequence[OrderComparison]) -> list[list[str]]:
    """One list of texts per order, as ``ORDER_HEADINGS``."""
    return [
        [str(one.order), _advantage(paper, one), f"{one.verdict}: {one.why}" if one.why else one.verdict]
        for one in comparisons
    ]


def _advantage(paper: Paper, one: OrderComparison) -> str:
    """``+0.12 (+0.08 to +0.16)``; ``5 of 5 solve it, 0 of 5``"""
    if one.solving is None:
        return _interval(paper, one)
    (first, seeds), (second, others) = one.solving
    return f"{first} of {seeds} solve it, {second} of {others}"


def _interval(paper: Paper, one: Comparison | OrderComparison) -> str:
    """``+0.12 (+0.08 to +0.16)``; empty where there is none."""
    if not isfinite(one.low):
        return ""
    return f"{_signed(paper, one.difference)} ({_signed(paper, one.low)} to {_signed(paper, one.high)})"


def _row(paper: Paper, one: Comparison) -> list[str]:
    published = one.row.published
    printed = ""
    if published is not None:
        printed = f"{published.bound} {_published(paper, published.value)}".strip()
        if published.spread is not None:
            printed += f" ± {_number(paper, published.spread)}"
    ours = _number(paper, one.ours.mean)
    if paper.measure == "solved":
        ours = f"{sum(one.ours.values):.0f} of {len(one.ours.values)}"
    elif isfinite(one.ours.spread):
        ours += f" ± {_number(paper, one.ours.spread)}"
    if one.ours.candidate:
        ours += f" ({one.ours.candidate.rpartition('.')[2]})"
    verdict = f"{one.verdict}: {one.why}" if one.why else one.verdict
    return [one.row.name, printed, ours, str(len(one.ours.values)), _interval(paper, one), verdict]


def _number(paper: Paper, value: float) -> str:
    if not isfinite(value):
        return "never" if paper.measure == "sequences" and value > 0 else "diverged"
    if paper.measure == "sequences":
        return f"{value:,.0f}"
    decimals = max(0, 1 - floor(log10(paper.margin)))
    return f"{value:.{decimals}f}"


def _published(paper: Paper, value: float) -> str:
    """With two digits at least, however small beside the margin."""
    text = _number(paper, value)
    return text if value == 0 or abs(float(text.replace(",", "")) / value - 1) < 0.05 else f"{value:.2g}"


def _signed(paper: Paper, value: float) -> str:
    text = _number(paper, abs(value))
    return text if not float(text.replace(",", "")) else f"{'+' if value > 0 else '-'}{text}"


def markdown(
    paper: Paper, comparisons: Sequence[Comparison], orders: Sequence[OrderComparison], command: str, *, quick: bool
) -> str:
    """A section of a document."""
    lines = [f"## {paper.source}", "", paper.claim, ""]
    lines += [f"{MEASURES[paper.measure].capitalize()}; published: {paper.where}. `{command}`, {paper.cost}.", ""]
    if quick and paper.quick is not None:
        lines += [f"A quick look: {paper.quick.shows}", ""]
    lines += _table(HEADINGS, rows(paper, comparisons))
    if orders:
        lines += ["", *_table(ORDER_HEADINGS, order_rows(paper, orders))]
    lines += ["", "Departures from the paper:", "", *(f"- {one}" for one in paper.departures), ""]
    return "\n".join(lines)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|", *(f"| {' | '.join(row)} |" for row in lines)]


def as_json(
    paper: Paper, comparisons: Sequence[Comparison], orders: Sequence[OrderComparison], *, quick: bool
) -> dict[str, Any]:
    """Every number, for other programs."""
    return {
        "paper": paper.name, "source": paper.source, "where": paper.where, "claim": paper.claim,
        "measure": paper.measure, "margin": paper.margin, "level": LEVEL, "quick": quick,
        "departures": list(paper.departures),
        "rows": [
            {
                "name": one.row.name,
                "settings": list(one.row.settings),
                "published": None if one.row.published is None else vars(one.row.published),
                "best": one.ours.candidate or None,
                "values": list(one.ours.values),
                "mean": one.ours.mean,
                "spread": one.ours.spread,
                **_verdict(one),
            }
            for one in comparisons
        ],
        "orders": [
            {
                "better": one.order.better,
                "worse": one.order.worse,
                "solving": one.solving,
                **_verdict(one),
            }
            for one in orders
        ],
    }  # fmt: skip


def _verdict(one: Comparison | OrderComparison) -> dict[str, Any]:
    return {"difference": [one.difference, one.low, one.high], "verdict": one.verdict, "why": one.why}
