"""Recurrence by an orthogonal matrix, parametrised by a skew-symmetric one (Lezcano-Casado & Martinez-Rubio 2019, arXiv
1901.08428; Cayley's map: Helfrich, Willmott & Ye 2018, arXiv 1707.09520):

    Q   = exp(K), or Cayley's (I + K)^-1 (I - K)    K^T = -K, so Q^T Q = I
    h_t = modrelu(W x_t + Q h_{t-1})
    modrelu(v) = sign(v) relu(|v| + b)              (Arjovsky et al. 2016)

Q keeps the length of what passes through it, forwards and backwards; modrelu shifts what it lets pass.
"""

from math import pi
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .base import Cell
from .initialisation import normal, uniform
from .state import State


class ExpRNN(Cell):
    """State: ``hidden`` [B H].

    ``skew`` has the entries of K above its diagonal, row by row: H (H - 1) / 2 weights, where the authors' code stores
    H^2. ``map`` is ``exp``, which reaches every rotation, or ``cayley``, which reaches all without the eigenvalue -1.

    K begins with blocks of 2 x 2 on its diagonal (Henaff, Szlam & LeCun 2016, 1602.06662), of angles U(-pi, pi), for
    Cayley's map U(0, pi/2); W ~ N(0, 2/D), b ~ U(-0.01, 0.01). The authors train K at a tenth of the learning rate.

    Raises:
        ValueError: ``map`` is another word.
    """

    family: ClassVar[str] = "against vanishing"
    source: ClassVar[str] = "Lezcano-Casado & Martinez-Rubio 2019"
    output_state = "hidden"

    def __init__(self, input_size: int, hidden_size: int, *, map: str = "exp") -> None:  # noqa: A002
        super().__init__()
        if map not in ("exp", "cayley"):
            raise ValueError(f"map={map!r}: must be 'exp' or 'cayley'")
        self.input_size, self.output_size, self.map = input_size, hidden_size, map
        angles = torch.empty(hidden_size // 2)
        # Cayley's map of a block of -tan(u / 2) turns by u.
        angles = angles.uniform_(-pi, pi) if map == "exp" else -(angles.uniform_(0, pi / 2) / 2).tan()
        skew = torch.zeros(hidden_size * (hidden_size - 1) // 2)
        rows = torch.arange(0, hidden_size - 1, 2)
        skew[rows * hidden_size - rows * (rows + 1) // 2] = angles  # the first entries of every other row
        self.skew = nn.Parameter(skew)
        self.weight_input = normal(hidden_size, input_size, deviation=(2 / input_size) ** 0.5)
        self.bias = uniform(hidden_size, bound=0.01)
        self._turned: tuple[Tensor, Tensor] | None = None

    def initial_state(self, batch_size: int) -> State:
        return {"hidden": self.bias.new_zeros(batch_size, self.output_size)}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        hidden = self._next(F.linear(x, self.weight_input), state["hidden"], self._rotation())
        return hidden, {"hidden": hidden}

    def forward(self, xs: Float[Tensor, "T B D"], state: State | None = None) -> tuple[Float[Tensor, "T B H"], State]:
        """Q is made once."""
        hidden = self.initial_state(xs.shape[1])["hidden"] if state is None else state["hidden"]
        rotation, hiddens = self.rotation(), []
        for x in F.linear(xs, self.weight_input).unbind(0):
            hidden = self._next(x, hidden, rotation)
            hiddens.append(hidden)
        return torch.stack(hiddens), {"hidden": hidden}

    def rotation(self) -> Float[Tensor, "H H"]:
        """Q"""
        size = self.output_size
        rows, columns = torch.triu_indices(size, size, 1, device=self.skew.device)
        upper = self.skew.new_zeros(size, size).index_put((rows, columns), self.skew)
        skew = upper - upper.T
        if self.map == "exp":
            return torch.matrix_exp(skew)
        identity = torch.eye(size, dtype=skew.dtype, device=skew.device)
        return torch.linalg.solve(identity + skew, identity - skew)

    def _rotation(self) -> Float[Tensor, "H H"]:
        """Q for one step: that of the last one, if the weights are the same and no gradient by them is recorded."""
        if not self.skew.is_cpu or (self.skew.requires_grad and torch.is_grad_enabled()):
            return self.rotation()
        last = self._turned
        if last is not None and torch.compiler.is_exporting():  # a constant: ONNX has no exponential of a matrix
            return last[1]
        # By content: weights may change in place without their version, as those of a traced copy do.
        if last is None or last[0].dtype != self.skew.dtype or not torch.equal(last[0], self.skew):
            last = self._turned = self.skew.detach().clone(), self.rotation().detach()
        return last[1]

    def _next(self, x: Float[Tensor, "B H"], hidden: Float[Tensor, "B H"], rotation: Float[Tensor, "H H"]) -> Tensor:
        v = x + F.linear(hidden, rotation)
        return v.sign() * (v.abs() + self.bias).relu()
