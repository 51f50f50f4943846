"""Repeat the symbols, after a delay that is drawn anew for every sequence.

    reads   c a h . . . . ! . . . . . . .
    says    . . . . . . . . c a h . . . .
    ten symbols (here three), blanks, a cue, room to answer; the answer is
    blank but for the timesteps after the cue, which repeat the symbols

Like ``copy``, a sequence has T + 2 * ``length`` timesteps, but the delay from the last symbol to the cue is drawn
uniformly from 1 ... T: with T it is a sequence of ``copy``. What follows the answer is blank. So the symbols must be
kept, and the cue noticed: the place in the sequence tells little.

The loss is the mean over all timesteps, and only the recalled symbols are scored: chance is 1 / ``symbols``. A model
without memory cannot know at a blank whether it answers; its loss is the entropy of that, and of the symbol. One that
remembers only the cue knows, and has ``length`` ln ``symbols`` / ``seq_len`` nats left: the plateau.

Tallec & Ollivier 2018, Can recurrent neural networks warp time? (arXiv 1804.11188), section 3, after Henaff, Szlam &
LeCun 2016, Recurrent orthogonal networks and long-memory tasks (arXiv 1602.06662). They draw the number of characters
between the symbols and the signal from 1 ... T. That is read as the delay here, which is T in their copy task, with
T - 1 blanks; and that all sequences are padded with blanks to one length is decided here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..metrics import Plateau
from ..signals import Batch, Tokens
from ..spaces import Space
from .scattered import Recall, draw_symbols, equally_likely, fold_of


@dataclass(frozen=True)
class VariableCopy(Recall):
    """``symbols``: size of the alphabet, 2 to 26; ``length``: how many symbols are copied, at least 1.

    Tokens 0 ... ``symbols`` - 1 are the symbols and ``symbols`` is the blank, in inputs and targets alike; then the
    cue, in inputs only.
    """

    name: ClassVar[str] = "variable_copy"
    source: ClassVar[str] = "Tallec & Ollivier 2018, after Henaff, Szlam & LeCun 2016"

    @property
    def targets(self) -> Tokens:
        return Tokens(self.symbols + 1)

    def plateaus(self, seq_len: int) -> Sequence[Plateau]:
        return [Plateau(self.chance, self.length * log(self.symbols) / seq_len, "the cue alone")]

    @property
    def min_seq_len(self) -> int:
        """T = 1: the cue follows the last symbol at once."""
        return 2 * self.length + 1

    def baseline_loss(self, seq_len: int) -> float:
        """At a timestep that is answered for a share p of the blanks there: the entropy of p, and p ln ``symbols``."""
        delays, total = seq_len - 2 * self.length, 0.0
        for step in range(self.length, seq_len):
            cues = 1 if step < self.length + delays else 0  # delays with which the cue, and no blank, stands here
            since = step - self.length  # delays 1 ... since had their cue before
            answers = min(since, delays) - max(0, since - self.length)
            blanks = delays - cues
            for count, more in ((answers, log(self.symbols)), (blanks - answers, 0.0)):
                if count:
                    total += count / delays * (log(blanks / count) + more)
        return total / seq_len

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        data = draw_symbols(self.symbols, self.length, batch_size, rng)
        cue = self.length + torch.randint(seq_len - 2 * self.length, (1, batch_size), generator=rng)
        inputs = torch.full((seq_len, batch_size), self.symbols)
        inputs[: self.length] = data
        inputs.scatter_(0, cue, self.symbols + 1)
        return self._asking(inputs, cue)

    def _asking(self, inputs: Int[Tensor, "T B"], cue: Int[Tensor, "1 B"]) -> Batch:
        """``cue``: where it stands."""
        since = torch.arange(len(inputs))[:, None] - cue - 1
        asked = (since >= 0) & (since < self.length)
        recalled = inputs[: self.length].gather(0, since.clamp(0, self.length - 1))
        return Batch(inputs, torch.where(asked, recalled, self.symbols), torch.ones(inputs.shape), asked)

    def _cue(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "1 B"]:
        return (inputs == self.symbols + 1).int().argmax(0, keepdim=True)

    def space(self, seq_len: int) -> Space:
        return equally_likely(self.symbols**self.length * max(0, seq_len - 2 * self.length))

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        return fold_of(inputs[: self.length], self._cue(inputs), self.symbols)

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        return self._asking(inputs, self._cue(inputs)).targets

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """In a sequence the same for every symbol: the cue's timestep, plus one."""
        return (self._cue(inputs) + 1).expand(inputs.shape)

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        return self._asking(inputs[:, None], self._cue(inputs[:, None]))

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        cues, symbol = (inputs == self.symbols + 1).nonzero()[:, 0].tolist(), inputs < self.symbols
        if not symbol[: self.length].all() or symbol[self.length :].any():
            return f"its first {self.length} timesteps, and these alone, must be symbols"
        if len(cues) != 1:
            return f"it has {len(cues)} cues !, task={self.name} has one"
        if cues[0] >= len(inputs) - self.length:
            return f"fewer than {self.length} timesteps follow the cue !"
        return None
