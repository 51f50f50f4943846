"""Repeat the symbols, and forget the blanks between them.

    reads   . . c . . . a . h . . . ! ! !
    says    . . . . . . . . . . . . c a h
    symbols (here three) at random places among blanks, then as many cues:
    each asks for the next symbol

L = ``seq_len`` - ``length`` timesteps hold ``length`` symbols, drawn uniformly, at different places, of which every set
is equally likely: from the last place, directly before the cues, to the first. Nothing is asked or trained before the
cues. They tell nothing of the symbols: chance is 1 / ``symbols``. How far back a symbol is varies with the gaps, so a
memory that counts timesteps does not help; that is what separates this task from ``copy``.

Gu & Dao 2023, Mamba (arXiv 2312.00752), section 4.1.1, with L = 4096, 16 symbols to copy, and a vocabulary of 16. Their
code of the task is not public, and the paper leaves open where symbols may stand and how many tokens are not data; so
the rest is as in the code of Feng et al. 2024, Were RNNs all we needed? (arXiv 2410.01201): 14 different symbols, a
blank and a cue.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .scattered import Scattered


@dataclass(frozen=True)
class SelectiveCopy(Scattered):
    """``symbols``: size of the alphabet, 2 to 26; ``length``: how many symbols are copied, at least 1.

    Tokens 0 ... ``symbols`` - 1 are the symbols, in inputs and targets alike; then the blank and the cue.
    """

    symbols: int = 14
    length: int = 16

    name: ClassVar[str] = "selective_copy"
    source: ClassVar[str] = "Gu & Dao 2023; Feng et al. 2024"

    @property
    def targets(self) -> Tokens:
        return Tokens(self.symbols)

    @property
    def min_seq_len(self) -> int:
        """No blanks."""
        return 2 * self.length

    def room(self, seq_len: int) -> int:
        return seq_len - self.length

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        inputs, data = self.scatter(batch_size, seq_len, rng)
        inputs[-self.length :] = self.symbols + 1
        return self.asking(inputs, data)

    def asking(self, inputs: Int[Tensor, "T B"], data: Int[Tensor, "N B"]) -> Batch:
        targets, asked = torch.zeros_like(inputs), torch.zeros(inputs.shape, dtype=torch.bool)
        targets[-self.length :] = data
        asked[-self.length :] = True
        return Batch(inputs, targets, asked.float(), asked)

    def space(self, seq_len: int) -> Space:
        return self.sequences(seq_len)

    def mistake(self, inputs: Int[Tensor, " T"]) -> str | None:
        cues = inputs == self.symbols + 1
        if not cues[-self.length :].all() or cues[: -self.length].any():
            return f"its cues ! are not the last {self.length} timesteps, and these alone"
        return None
