"""Tasks whose answers come back as inputs: a source, a mark, then a target of as many symbols.

    reads   c a h > h a
    says    . . . h a c

The timestep that reads the mark is the first that is answered; each later one reads the answer before it. In training
that is the right answer (teacher forcing: Williams & Zipser 1989), in evaluation the model's own (``decoding``).

Axes: T time, B batch, N symbols of the source, and of the target, K answers.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch


@dataclass(frozen=True, eq=False)
class Feedback:
    """A sequence of T timesteps has N = T // 2 symbols; if T is odd, a blank comes first.

    Args:
        go: the input token that ends the source.
        tokens: [K], the input token of each answer.
        blank: the input token before the source of an odd number of timesteps.
    """

    go: int
    tokens: Int[Tensor, " K"]
    blank: int

    def batch(self, source: Int[Tensor, "N B"], target: Int[Tensor, "N B"], seq_len: int) -> Batch:
        """Sequences of ``seq_len`` timesteps with teacher forcing. The target counts, in the loss and in the score."""
        count, batch_size = source.shape
        first = torch.full((seq_len % 2, batch_size), self.blank)
        go = torch.full((1, batch_size), self.go)
        inputs = torch.cat([first, source, go, self.tokens[target[:-1]]])
        targets = torch.zeros_like(inputs)
        targets[-count:] = target
        asked = torch.zeros(inputs.shape, dtype=torch.bool)
        asked[-count:] = True
        return Batch(inputs, targets, asked.float(), asked)

    def source(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "N B"]:
        """The source of whole sequences."""
        count = len(inputs) // 2
        return inputs[-2 * count : len(inputs) - count]

    def typed(self, inputs: Int[Tensor, " T"]) -> Int[Tensor, " N"]:
        """The source of one typed sequence: up to the mark, if there is one, without blanks in front."""
        tokens = inputs.tolist()
        stop = tokens.index(self.go) if self.go in tokens else len(tokens)
        start = 0
        while start < stop and tokens[start] == self.blank:
            start += 1
        return inputs[start:stop]

    def asking(self, source: Int[Tensor, " N"], target: Int[Tensor, " N"] | None = None) -> Batch:
        """One source as a batch of one; without a target its answers are unknown, and the first of all stand there."""
        target = torch.zeros_like(source) if target is None else target
        return self.batch(source[:, None], target[:, None], 2 * len(source))
