"""Numbers and lists as the page, its captions and its alternative texts write them."""

import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from math import isinf, isnan

from ..measurement import Number
from ..metrics import Metric
from .across import Estimate
from .statistics import Span


def clean(text: str, at_most: int = 200) -> str:
    """``text`` on one line, without characters that XML forbids or that turn a line over, shortened in the middle."""
    line = re.sub(r"\s+", " ", re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text))
    line = re.sub(r"[\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\ufdd0-\ufdef\u202a-\u202e\u2066-\u2069]", "\ufffd", line)
    half = (at_most - 1) // 2
    return line if len(line) <= at_most else f"{line[:half]}…{line[-half:]}"


def file_name(text: str, taken: Iterable[str] = ()) -> str:
    """``text`` as a name of files without an ending: ``pronoun-gradient-lstm``.

    Letters, digits, - and _ of ASCII alone, which LaTeX, links and every file system take. It is numbered where it is
    ``taken``, whatever the case of its letters.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-")[:80].rstrip("-") or "unnamed"
    others = {one.lower() for one in taken}
    numbered = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    return next(one for one in numbered if one.lower() not in others)


def score_words(metric: Metric, score: float) -> str:
    """``Metric.text`` with typographic signs."""
    return with_signs(metric.text(score))


def with_signs(text: str) -> str:
    """``text`` with typographic signs for ASCII ones: a minus as wide as a digit, ≥ and ∞."""
    text = re.sub(r"(?<![\w.])-(?=[\d.])", "−", text)
    return text.replace(">= ", "≥ ").replace("inf", "∞")


def estimate_words(estimate: Estimate) -> str:
    """``0.83 [0.71, 0.92]``; the number alone where there is no interval."""
    ends = "" if isnan(estimate.low) else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"{estimate.value:.2f}{ends}"


def span_words(span: Span) -> str:
    return with_signs(str(span))


def number_words(number: Number, value: float) -> str:
    """A probe's number without its unit; ``–`` if unknown."""
    if isnan(value):
        return "–"
    if isinf(value) and not (number.log10_share and value < 0):
        return "∞" if value > 0 else "−∞"
    if number.unit == "timesteps":
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return with_signs(number.words(value))


def listing(words: Sequence[str], at_most: int = 12) -> str:
    """``a, b and c``, or ``a, b and 7 more``."""
    if len(words) > at_most:
        return f"{', '.join(words[:at_most])} and {len(words) - at_most} more"
    return " and ".join(([", ".join(words[:-1])] if len(words) > 1 else []) + list(words[-1:]))


def count(number: int, noun: str) -> str:
    """``1 seed``, ``2,000 seeds``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def number_range(low: int, high: int, noun: str = "") -> str:
    """``3`` or ``3 to 5``, with a noun if one is given."""
    number = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{number} {noun}{'' if high == 1 else 's'}" if noun else number


def extremes(numbers: Iterable[int]) -> tuple[int, int]:
    """The smallest and the largest; 0 and 0 if there are none."""
    values = list(numbers) or [0]
    return min(values), max(values)
