"""What a model looks back at after each timestep: attention's weights, or the effective attention of a state that
changes by addition.

A state of c_t = keep_t * c_{t-1} + write_t, such as an LSTM's cell state with its forget gate and the product of its
input gate and candidate, is a sum over the past:

    c_T = (prod over s <= T of keep_s) * c_0 + sum over t <= T of (prod over t < s <= T of keep_s) * write_t

That is exact, for each unit. The effective attention of T on t is the Euclidean norm over units of t's term, over the
sum of the norms of all terms; what is left of c_0 is one of them. It tells where the state comes from along this path;
gates and candidates depend on earlier timesteps in other ways, too. Of a matrix memory the terms are those of what the
query of T reads, for each head.

Axes: T time, A heads, N timesteps so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy import ndarray


@runtime_checkable
class LookBack(Protocol):
    """Shares of the sequence's timesteps, seen from one of them; they sum to 1 with what stood before the first."""

    @property
    def effective(self) -> bool:
        """Computed from what a state keeps and adds; False: weights of attention."""
        ...

    def over(self, t: int) -> Float[ndarray, "A T"]:
        """Each head's shares of all timesteps, seen from timestep ``t``; zero where nothing comes from. NaN: the model
        looks at nothing there, or nothing is in its state."""
        ...

    def before(self, t: int) -> Float[ndarray, " A"]:
        """Each head's share of what stood before the first timestep."""
        ...


@dataclass(frozen=True, eq=False)
class Weights:
    """Attention's weights.

    Args:
        rows: for each timestep the weights [A N], and the timestep of the first of these; None: it looks at nothing.
    """

    rows: Sequence[tuple[Float[ndarray, "A N"], int] | None]
    effective: bool = field(default=False, init=False)

    def over(self, t: int) -> Float[ndarray, "A T"]:
        row = self.rows[t]
        if row is None:
            heads = next((len(other[0]) for other in self.rows if other is not None), 1)
            return np.full((heads, len(self.rows)), np.nan)
        weights, first = row
        shares = np.zeros((len(weights), len(self.rows)))
        inside = weights[:, max(0, -first) :]
        start = max(0, first)
        shares[:, start : start + inside.shape[1]] = inside
        return shares

    def before(self, t: int) -> Float[ndarray, " A"]:
        return 1 - np.round(self.over(t).sum(1), 12)


@dataclass(frozen=True, eq=False)
class Additions:
    """A state that changes by addition, from timestep ``first`` on.

    Args:
        length: T.
        rest: what was left after timestep ``first`` of the state before it, [...] without a batch.
        keep, write: for each timestep from ``first`` on, as in ``cells.base.Additive``.
        query: for each timestep, [A E]; None: the units of the state are joined by their norm, as one head.
    """

    length: int
    first: int
    rest: Float[ndarray, "..."]
    keep: Float[ndarray, "N ..."]
    write: Float[ndarray, "N ..."]
    query: Float[ndarray, "N A E"] | None = None
    effective: bool = field(default=True, init=False)

    def terms(self, t: int) -> tuple[Float[ndarray, "..."], Float[ndarray, "N ..."]]:
        """What is left at timestep ``t`` of the state before the first, and of what each timestep from the first to t
        wrote: their sum is the state."""
        count = t + 1 - self.first
        kept = np.cumprod(self.keep[1:count][::-1], axis=0)[::-1]
        left = np.concatenate([kept, np.ones_like(self.keep[:1])])
        return left[0] * self.rest, left * self.write[:count]

    def over(self, t: int) -> Float[ndarray, "A T"]:
        return self._shares(t)[:, 1:]

    def before(self, t: int) -> Float[ndarray, " A"]:
        return self._shares(t)[:, 0]

    def _shares(self, t: int) -> Float[ndarray, "A _"]:
        """[A 1+T]: the first is that of what stood before."""
        place = t - self.first
        heads = 1 if self.query is None else self.query.shape[1]
        if not 0 <= place < len(self.keep):
            return np.full((heads, 1 + self.length), np.nan)
        rest, written = self.terms(t)
        terms = np.concatenate([rest[None], written])
        if self.query is not None:
            terms = np.einsum("nae...,ae->an...", terms, self.query[place])
        sizes = np.sqrt(np.square(terms.reshape(heads, len(written) + 1, -1)).sum(-1))
        shares = np.zeros((heads, 1 + self.length))
        shares[:, 0], shares[:, 1 + self.first : 2 + t] = sizes[:, 0], sizes[:, 1:]
        with np.errstate(invalid="ignore"):
            return shares / shares.sum(1, keepdims=True)


def mean_over(looked: LookBack, t: int) -> Float[ndarray, " T"]:
    """The shares of all timesteps, seen from timestep ``t``: mean over heads."""
    return looked.over(t).mean(0)


def half_within(shares: Float[ndarray, " T"], t: int) -> int | None:
    """The least number of timesteps up to ``t`` that have half of the shares; None: all of them have less."""
    reached = np.flatnonzero(np.cumsum(shares[t::-1]) >= 0.5)  # NaN is never reached
    return int(reached[0]) + 1 if len(reached) else None
