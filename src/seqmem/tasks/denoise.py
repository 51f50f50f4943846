"""Repeat the symbols that were scattered in noise, after a mark.

    reads   . c . . . a h . . . . ! . . .
    says    . . . . . . . . . . . . c a h
    ten symbols (here three) at random places in the noise, a mark, room to
    answer; the answer is blank until the mark, then the symbols in order

The layout is that of ``copy``: T + 2 * ``length`` timesteps, the mark ``length`` timesteps before the last. The symbols
stand at different places among the T + ``length`` - 1 timesteps before the mark, of which every set is equally likely.
The loss is the mean over all timesteps: a model without memory predicts blanks, then guesses, ``length`` ln ``symbols``
/ ``seq_len`` nats. Only the recalled symbols are scored, with chance 1 / ``symbols``. Unlike the cues of
``selective_copy``, what is read while answering is the noise that was to be forgotten, so place must be kept.

Jing et al. 2017, Gated orthogonal recurrent units: on learning to forget (arXiv 1706.02761). They describe it in words:
data at random places in a long noise, a marker, then the data. Noise is one token, which is also the blank. That the
timesteps are counted as in ``copy``, that places are different (a public re-implementation draws some twice, so that
symbols are lost), and ``symbols=8`` is decided here.
"""

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .scattered import Scattered


@dataclass(frozen=True)
class Denoise(Scattered):
    """``symbols``: size of the alphabet, 2 to 26; ``length``: how many symbols are recalled, at least 1.

    Tokens 0 ... ``symbols`` - 1 are the symbols and ``symbols`` is the blank, in inputs and targets alike; then the
    mark, in inputs only.
    """

    name: ClassVar[str] = "denoise"
    source: ClassVar[str] = "Jing et al. 2017"

    @property
    def targets(self) -> Tokens:
        return Tokens(self.symbols + 1)

    @property
    def min_seq_len(self) -> int:
        """T = 1: no noise before the mark."""
        return 2 * self.length + 1

    def baseline_loss(self, seq_len: int) -> float:
        return self.length * log(self.symbols) / seq_len

    def room(self, seq_len: int) -> int:
        return seq_len - self.length - 1

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        inputs, data = self.scatter(batch_size, seq_len, rng)
        inputs[-self.length - 1] = self.symbols + 1
        return self.asking(inputs, data)

    def asking(self, inputs: Int[Tensor, "T B"], data: Int[Tensor, "N B"]) -> Batch:
        targets = torch.full_like(inputs, self.symbols)
        targets[-self.length :] = data
        asked = torch.zeros(inputs.shape, dtype=torch.bool)
        asked[-self.length :] = True
        return Batch(inputs, targets, torch.ones(inputs.shape), asked)

    def space(self, seq_len: int) -> Space:
        return self.sequences(seq_len)

    def mistake(self, inputs: Int[Tensor, " T"]) -> str | None:
        marks = inputs == self.symbols + 1
        if not marks[-self.length - 1] or int(marks.sum()) != 1:
            return f"its one mark ! does not stand {self.length} timesteps before the end"
        return "it has symbols after the mark !" if (inputs[-self.length :] < self.symbols).any() else None
