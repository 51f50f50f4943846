"""Shared by cells that remember a matrix: what was stored under a key is read with a query.

Axes: T time, B batch, A heads, E numbers per head, D input features, H hidden.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .base import Cell
from .initialisation import at_least


class Heads(NamedTuple):
    """Queries, keys and values, [... A E] each."""

    query: Tensor
    key: Tensor
    value: Tensor


class MatrixMemoryCell(Cell):
    """State: ``memory`` [B A E E], rows are a key's numbers, columns a value's; zeros at first.

    q, k, v = W x without biases, A heads of E = H / A numbers (rounded up, so any H goes); what the heads read is
    joined by W_o to H numbers, as in the authors' layers. Those have a normalisation in between, which is not here.

    Raises:
        ValueError: ``heads`` is less than 1.
    """

    def __init__(self, input_size: int, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = at_least("heads", heads, 1)
        self.width = -(-hidden_size // heads)
        """E"""
        self.input_size, self.output_size = input_size, hidden_size
        self.project = nn.Linear(input_size, 3 * heads * self.width, bias=False)  # rows: q, k, v
        self.leave = nn.Linear(heads * self.width, hidden_size, bias=False)

    def projected(self, x: Float[Tensor, "*N D"]) -> Heads:
        return Heads(*self.project(x).unflatten(-1, (3, self.heads, self.width)).unbind(-3))

    def out(self, read: Float[Tensor, "*N A E"]) -> Float[Tensor, "*N H"]:
        return self.leave(read.flatten(-2))

    def empty(self, batch_size: int) -> Float[Tensor, "B A E E"]:
        return self.project.weight.new_zeros(batch_size, self.heads, self.width, self.width)


def outer(key: Float[Tensor, "B A E"], value: Float[Tensor, "B A E"]) -> Float[Tensor, "B A E E"]:
    return key[..., :, None] * value[..., None, :]


def read(memory: Float[Tensor, "B A E E"], query: Float[Tensor, "B A E"]) -> Float[Tensor, "B A E"]:
    """S^T q"""
    return (query[..., None, :] @ memory)[..., 0, :]


CHUNK = 64
"""Timesteps whose products are made at once: their number grows with its square, the number of loops falls with it."""


def decayed_sums(
    heads: Heads, memory: Float[Tensor, "B A E V"], decay: Float[Tensor, " A"]
) -> tuple[Float[Tensor, "T B A V"], Float[Tensor, "B A E V"]]:
    """(S_t^T q_t for every t, S_T) of S_t = decay * S_{t-1} + k_t v_t^T: in chunks of timesteps, by matrix products."""
    outputs = []
    for query, key, value in zip(*(part.split(CHUNK) for part in heads), strict=True):
        steps = torch.arange(len(query), dtype=decay.dtype, device=decay.device)
        q, k, v = (part.permute(1, 2, 0, 3) for part in (query, key, value))  # [B A T E]
        apart = steps[:, None] - steps
        weights = torch.where(apart >= 0, decay[:, None, None] ** apart.clamp(min=0), 0.0)
        before = decay[:, None, None] ** (steps + 1)[:, None]
        outputs.append((((q @ k.mT) * weights) @ v + (before * q) @ memory).permute(2, 0, 1, 3))
        left = decay[:, None, None] ** (len(steps) - 1 - steps)[:, None]
        memory = decay[:, None, None] ** len(steps) * memory + (left * k).mT @ v
    return torch.cat(outputs), memory


def unit(vector: Float[Tensor, "*N E"]) -> Float[Tensor, "*N E"]:
    """Divided by its length; 1e-6 under the root keeps zero at zero."""
    return vector * torch.rsqrt(vector.square().sum(-1, keepdim=True) + 1e-6)


def positive_features(x: Float[Tensor, "*N E"]) -> Float[Tensor, "*N E"]:
    """elu(x) + 1"""
    return F.elu(x) + 1
