"""What was read, all of it at once?

    reads   c a h b b . . !
    says                  c a h b b
    symbols (here five), blanks, a mark; the timestep that reads the mark
    answers all symbols, each at its place

``length`` symbols are drawn uniformly; ``seq_len`` - ``length`` - 1 blanks follow, then the mark. Its timestep's output
alone is read out into an answer for each place. The score is the share of symbols that are right. The mark tells
nothing: chance is 1 / ``symbols``. In ``copy`` the symbols are written one after the other; here the output holds them
all, in a form that a linear readout separates.

Poli et al. 2024, Mechanistic design and scaling of hybrid architectures (MAD), compression: the input is compressed
into the last token, from which all of it is recovered. In their code 15 symbols and that token, 32 timesteps without
blanks (harder: up to 127 symbols, 256 timesteps), and a multilayer perceptron recovers each token; here a linear
readout does. Blanks are an addition.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..signals import Batch, Several
from ..spaces import Space
from .scattered import Recall, draw_symbols, equally_likely, fold_of, letters


@dataclass(frozen=True)
class Compression(Recall):
    """``symbols``: size of the alphabet, 2 to 26; ``length``: how many symbols are recalled, at least 1.

    Tokens 0 ... ``symbols`` - 1 are the symbols, then the blank, then the mark. Targets are unit vectors, one for each
    place, beside each other.
    """

    symbols: int = 15
    length: int = 31

    name: ClassVar[str] = "compression"
    source: ClassVar[str] = "Poli et al. 2024"

    @property
    def targets(self) -> Several:
        return Several(self.length, self.symbols)

    def baseline_loss(self, seq_len: int) -> float:
        return self.targets.uniform_loss

    @property
    def min_seq_len(self) -> int:
        """No blanks."""
        return self.length + 1

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        inputs = torch.full((seq_len, batch_size), self.symbols)
        inputs[: self.length] = draw_symbols(self.symbols, self.length, batch_size, rng)
        inputs[-1] = self.symbols + 1
        return Batch.asked_at_end(inputs, self._answers(inputs))

    def _answers(self, inputs: Int[Tensor, "T B"]) -> Float[Tensor, "B K"]:
        symbols = inputs[: self.length].clamp(max=self.symbols - 1)
        return F.one_hot(symbols, self.symbols).transpose(0, 1).flatten(1).float()

    def solve(self, inputs: Int[Tensor, "T B"]) -> Float[Tensor, "T B K"]:
        return self._answers(inputs).expand(len(inputs), -1, -1)

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the first symbol."""
        return torch.arange(len(inputs))[:, None].expand(inputs.shape)

    def space(self, seq_len: int) -> Space:
        return equally_likely(self.symbols**self.length if seq_len >= self.min_seq_len else 0)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        symbols = inputs[: self.length]
        return fold_of(symbols, symbols[:0], self.symbols)

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        if not (inputs[: self.length] < self.symbols).all():
            return f"it does not begin with {self.length} symbols"
        blank = bool((inputs[self.length : -1] == self.symbols).all())
        return None if blank and inputs[-1] == self.symbols + 1 else "after its symbols it is not blanks, then !"

    def answer(self, target: Float[Tensor, " K"]) -> str:
        return "".join(letters(target.view(self.length, self.symbols).argmax(-1).tolist(), self.symbols, ""))
