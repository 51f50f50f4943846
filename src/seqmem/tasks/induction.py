"""What followed the trigger when it was there before?

    c f ! d b a e e c f c ! -> d
        ~ ~               ~
    random symbols; a trigger ! stands at a random place and at the end, where
    the symbol after the first one is asked

The trigger's first place is drawn uniformly from all but the last two timesteps, so the lag is anything from 2 to
``seq_len`` - 1. The other symbols are uniform and independent, which makes them look like the answer: a memory must
notice what follows the trigger, and keep it from all that follows. Chance is 1 / ``symbols``.

Fu et al. 2023, Hungry Hungry Hippos (arXiv 2212.14052), with 20 tokens and 30 timesteps, after Olsson et al. 2022,
In-context learning and induction heads; Gu & Dao 2023, Mamba (arXiv 2312.00752), section 4.1.2, with 16 tokens and 256
timesteps. The code of Fu et al. trains on every next symbol, too, most of which cannot be predicted; here only the
answer counts, as in their test. It may have several triggers, and never puts the answer directly before the last; here
there is one, and that is a place as any other.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task
from .scattered import FOLDS, check_alphabet, draw_symbols, equally_likely, letters


@dataclass(frozen=True)
class Induction(Task):
    """``symbols``: size of the alphabet without the trigger, 2 to 26. The trigger is token ``symbols``."""

    symbols: int = 15

    name: ClassVar[str] = "induction"
    source: ClassVar[str] = "Fu et al. 2023, after Olsson et al. 2022"

    def __post_init__(self) -> None:
        check_alphabet(self.symbols)

    @property
    def inputs(self) -> Tokens:
        return Tokens(self.symbols + 1)

    @property
    def targets(self) -> Tokens:
        return Tokens(self.symbols)

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    @property
    def min_seq_len(self) -> int:
        """Trigger, answer, trigger."""
        return 3

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        inputs = draw_symbols(self.symbols, seq_len, batch_size, rng)
        place = torch.randint(seq_len - 2, (1, batch_size), generator=rng)
        inputs.scatter_(0, place, self.symbols)
        inputs[-1] = self.symbols
        return Batch.asked_at_end(inputs, inputs.gather(0, place + 1)[0])

    def space(self, seq_len: int) -> Space:
        return equally_likely(max(0, seq_len - 2) * self.symbols ** max(0, seq_len - 2))

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """By everything but the answer."""
        place = self._place(inputs)
        weights = torch.arange(1, len(inputs) + 1)[:, None]
        others = inputs.scatter(0, place, 0).scatter(0, place + 1, 0)[:-1]
        return ((others * weights[:-1]).sum(0) + place[0]) % FOLDS

    def _place(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "1 B"]:
        """The first trigger's."""
        return (inputs == self.symbols).int().argmax(0, keepdim=True)

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        after = (self._place(inputs) + 1).clamp(max=len(inputs) - 1)
        return inputs.gather(0, after).expand(inputs.shape)

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the first trigger, which stands before the answer."""
        return torch.arange(len(inputs))[:, None] - self._place(inputs)

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        if inputs[-1] != self.symbols:
            return "it does not end with a question: !"
        count = int((inputs[:-1] == self.symbols).sum())
        if count != 1:
            return f"it has {count} triggers ! before the last, task={self.name} has one"
        return "no symbol stands between the triggers !" if inputs[-2] == self.symbols else None

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return letters(inputs.tolist(), self.symbols, "!")

    def answer(self, target: Int[Tensor, ""]) -> str:
        return letters([int(target)], self.symbols, "")[0]
