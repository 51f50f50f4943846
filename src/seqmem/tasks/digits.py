"""Which digit was written?

      -@%.
     .#%@=
     +%:@-
     *#:@:        read left to right and top to bottom,
     ::*#    -> 2 a pixel (64 timesteps) or a row (8) at a time,
       #*         then blanks up to ``seq_len``; the last one asks
      .@@@*
      -@%#+

1,797 pictures of 8 x 8 in 17 levels of gray, written by hand by 13 people (Alpaydin & Kaynak 1998, Optical recognition
of handwritten digits, test part): digits.npz, under the licence in digits-LICENSE.txt (CC BY 4.0). **This is not
sequential MNIST**, whose sequences are 784 steps long and whose 70,000 pictures would have to be downloaded: their
scores do not compare. Reading a picture as a sequence, and permuting it, is from Le, Jaitly & Hinton 2015.

36 pictures of each digit are for the final scores alone, 18 for evaluations during training (360 and 180 in all);
training draws from the other 1,257. The same people wrote all parts. A digit is drawn uniformly, then a picture of that
digit: a constant answer scores 1/10, and so does the last input alone, if that is a blank.

Where the last input is a part of the picture it tells something: LAST_INPUT has how much, measured. A Parzen window (a
Gaussian kernel around the last input of every training picture, its width the best for the validation part) scores that
on the test part; other classifiers score nearly the same.
"""

from dataclasses import dataclass, fields
from functools import lru_cache
from math import log
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..signals import Batch, Reals, Tokens
from .base import Task

SIDE, PIXELS, CLASSES = 8, 64, 10
TEST, VALIDATION = 36, 18  # of each digit
# The split and the permutation are part of the task: the same in every run, independent of its seed.
SPLIT_SEED, PERMUTATION_SEED = 1998, 2015
GRAY = " .:-=+*#%@"

LAST_INPUT = {
    ("pixel", False): (0.125, 2.270),
    ("pixel", True): (0.242, 2.008),
    ("row", False): (0.536, 1.375),
    ("row", True): (0.592, 1.054),
}
"""(scan, permute) -> accuracy and loss in nats from the last input of a picture without a delay."""


class _Pictures(NamedTuple):
    """Pictures sorted by digit: those of digit d have the indices ``start[d]`` up to ``start[d] + size[d]``."""

    pixels: Float[Tensor, "N 64"]  # in [0, 1], row by row
    digit: Int[Tensor, " N"]
    start: Int[Tensor, " 10"]
    size: Int[Tensor, " 10"]


@lru_cache
def pictures_of_digits() -> tuple[_Pictures, _Pictures, _Pictures]:
    """Training, validation and test part."""
    with np.load(Path(__file__).with_name("digits.npz")) as stored:
        pixels, digit = torch.from_numpy(stored["pixels"]), torch.from_numpy(stored["digit"])
    rng = torch.Generator().manual_seed(SPLIT_SEED)
    by_digit = [(digit == d).nonzero()[:, 0] for d in range(CLASSES)]
    shuffled = [indices[torch.randperm(len(indices), generator=rng)] for indices in by_digit]

    def part(by_digit: list[Tensor]) -> _Pictures:
        size = torch.tensor([len(indices) for indices in by_digit])
        index = torch.cat(by_digit)
        return _Pictures((pixels[index] / 16).float(), digit[index].long(), size.cumsum(0) - size, size)

    borders = ((TEST + VALIDATION, None), (TEST, TEST + VALIDATION), (0, TEST))
    training, validation, test = (part([indices[first:end] for indices in shuffled]) for first, end in borders)
    return training, validation, test


@dataclass(frozen=True)
class Digits(Task):
    """``scan``: what one timestep shows, pixel or row; ``permute``: read the pixels in one fixed random order."""

    scan: str = "pixel"
    permute: bool = False

    name: ClassVar[str] = "digits"
    source: ClassVar[str] = "Alpaydin & Kaynak 1998; sequences after Le, Jaitly & Hinton 2015"

    def __post_init__(self) -> None:
        if self.scan not in ("pixel", "row"):
            raise ValueError(f"scan={self.scan}: must be pixel or row")

    @property
    def inputs(self) -> Reals:
        return Reals(1 if self.scan == "pixel" else SIDE)

    @property
    def targets(self) -> Tokens:
        return Tokens(CLASSES)

    @property
    def chance(self) -> float:
        return 1 / CLASSES

    def chance_at(self, seq_len: int) -> float:
        return LAST_INPUT[self.scan, self.permute][0] if seq_len == self.min_seq_len else self.chance

    def baseline_loss(self, seq_len: int) -> float:
        return LAST_INPUT[self.scan, self.permute][1] if seq_len == self.min_seq_len else log(CLASSES)

    @property
    def solved_at(self) -> float:
        """Below 0.99, because some pictures are hardly legible."""
        return 0.95

    @property
    def min_seq_len(self) -> int:
        return PIXELS // self.inputs.size

    @property
    def _order(self) -> Int[Tensor, " 64"]:
        if not self.permute:
            return torch.arange(PIXELS)
        return torch.randperm(PIXELS, generator=torch.Generator().manual_seed(PERMUTATION_SEED))

    @property
    def _part(self) -> _Pictures:
        return pictures_of_digits()[0]

    def validation(self) -> "Digits":
        return _Validation(**{field.name: getattr(self, field.name) for field in fields(self)})

    def held_out(self) -> "Digits":
        return _Test(**{field.name: getattr(self, field.name) for field in fields(self)})

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        part = self._part
        digit = torch.randint(CLASSES, (batch_size,), generator=rng)
        index = part.start[digit] + (torch.rand(batch_size, generator=rng) * part.size[digit]).long()
        inputs = torch.zeros(seq_len, batch_size, self.inputs.size)
        pixels = part.pixels[index][:, self._order]
        inputs[: self.min_seq_len] = pixels.view(batch_size, self.min_seq_len, self.inputs.size).transpose(0, 1)
        return Batch.asked_at_end(inputs, digit)

    def solve(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        """The digit of the nearest picture in the data set, of whatever part."""
        query = inputs[: self.min_seq_len].transpose(0, 1).flatten(1).double()
        pictures = torch.cat([part.pixels for part in pictures_of_digits()])[:, self._order].to(query)
        digits = torch.cat([part.digit for part in pictures_of_digits()]).to(query.device)
        # |query - picture|^2 without the constant |query|^2; exact, as pixels are multiples of 1/16.
        nearest = (pictures.square().sum(1) - 2 * query @ pictures.T).argmin(1)
        return digits[nearest].expand(inputs.shape[:2])

    def words(self, inputs: Float[Tensor, "T D"]) -> list[str]:
        """Gray levels, from blank to ``@``; eight per timestep with scan=row."""
        levels = (inputs * (len(GRAY) - 1)).round().long()
        return ["".join(GRAY[i] for i in row) for row in levels.tolist()]

    def picture(self, inputs: Float[Tensor, "T D"]) -> Float[Tensor, "8 8"]:
        pixels = inputs[: self.min_seq_len].flatten()
        picture = torch.full((PIXELS,), torch.nan)
        picture[self._order[: len(pixels)]] = pixels.float()
        return picture.view(SIDE, SIDE)

    def answer(self, target: Int[Tensor, ""]) -> str:
        return str(int(target))


@dataclass(frozen=True)
class _Validation(Digits):
    @property
    def _part(self) -> _Pictures:
        return pictures_of_digits()[1]


@dataclass(frozen=True)
class _Test(Digits):
    @property
    def _part(self) -> _Pictures:
        return pictures_of_digits()[2]
