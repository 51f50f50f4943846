"""What a score is, and how people write it. No torch: reports and tables need it, too."""

from dataclasses import dataclass
from math import inf, isfinite, isnan, sqrt


@dataclass(frozen=True)
class Metric:
    """How to read a score.

    Args:
        percent: it is a fraction, which people write in percent.
        unit: what follows a score in a table; empty where the number says it.
        perfect: the score of a perfect memory; None: not known.
    """

    name: str
    higher_is_better: bool
    percent: bool = False
    unit: str = ""
    perfect: float | None = None

    def better(self, a: float, b: float) -> bool:
        return bool(a > b if self.higher_is_better else a < b)

    def reached(self, score: float, goal: float) -> bool:
        return bool(score >= goal if self.higher_is_better else score <= goal)

    def ranked(self, score: float) -> float:
        """The score, infinitely bad where it is NaN: a run that diverged is worse than any that has a score."""
        return score if not isnan(score) else -inf if self.higher_is_better else inf

    def share(self, score: float, chance: float) -> float:
        """The part of the way from ``chance`` to ``perfect``, from 0 to 1.

        A score worse than chance has learned as little as one of chance, and one that diverged (NaN) no more: 0.

        Raises:
            ValueError: what is perfect is not known, or chance is.
        """
        if self.perfect is None or self.perfect == chance:
            raise ValueError(f"{self.name}: no scale from chance {chance:g} to perfect {self.perfect}")
        part = (score - chance) / (self.perfect - chance)
        return max(0.0, part) if isfinite(part) else 0.0

    def beats(self, score: float, chance: float, sequences: int) -> bool:
        """Better than ``chance`` by more than a score on so many sequences varies.

        Three standard errors of a fraction of that many answers, 5 % of any other score.
        """
        if self.percent:
            return score > chance + 3 * sqrt(chance * (1 - chance) / sequences)
        return score > chance * 1.05 if self.higher_is_better else score < chance * 0.95

    def text(self, score: float) -> str:
        """``99.2 %`` for a fraction, four significant digits otherwise; ``diverged`` for NaN."""
        if not isfinite(score):
            return "diverged"
        return f"{100 * score:.1f} %" if self.percent else f"{score:.4g}"


@dataclass(frozen=True)
class Plateau:
    """A level between no memory and a whole one, on which training may stay for long.

    Args:
        score, loss: of the best answer with that memory, in the units of the task's score and loss.
        memory: what is remembered, after "with": ``one name``.
    """

    score: float
    loss: float
    memory: str


ACCURACY = Metric("accuracy", higher_is_better=True, percent=True, perfect=1.0)
BITS = Metric("bits per character", higher_is_better=False, unit="bits/char")
LABELS = Metric("label accuracy", higher_is_better=True, percent=True, perfect=1.0)
SQUARED_ERROR = Metric("mean squared error", higher_is_better=False, unit="MSE", perfect=0.0)

METRICS = {metric.name: metric for metric in (ACCURACY, BITS, LABELS, SQUARED_ERROR)}


def metric_called(name: str, *, higher_is_better: bool = True) -> Metric:
    """The metric of that name; a user's own task may have another, which is written as a plain number."""
    return METRICS.get(name) or Metric(name, higher_is_better, unit=name)
