"""mLSTM of xLSTM (Beck et al. 2024, arXiv 2405.04517): a matrix memory with an exponential input gate.

    q, k, v = W x_t, k divided by sqrt(E)          for each head
    i', f'  = w . x_t + b                          one number per head
    m_t = max(log sigmoid(f') + m_{t-1}, i')       the stabiliser
    i   = exp(i' - m_t)
    f   = exp(log sigmoid(f') + m_{t-1} - m_t)
    C_t = f C_{t-1} + i k v^T
    n_t = f n_{t-1} + i k
    h_t = sigmoid(W_o x_t) * W_h [C_t^T q / max(|n_t . q|, exp(-m_t))]

In the numbers without m that is max(|n . q|, 1), the paper's. Its other forget gate is exp(f'), f' in place of
log sigmoid(f'). W_h joins the heads; the normalisation before it is not
here.

Axes: S asked timesteps, B batch, A heads, E numbers per head, D input features, H hidden.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .base import Additive
from .initialisation import log_forget
from .matrix_memory import Heads, MatrixMemoryCell, Reading, outer, read
from .state import State


class MLSTM(MatrixMemoryCell):
    """State: ``memory`` [B A E E], ``normaliser`` [B A E] and ``stabiliser`` [B A].

    As in the authors' code gate weights begin at 0, the input gate's bias at N(0, 0.1^2), the forget gate's from 3 to 6
    over the heads.
    """

    family: ClassVar[str] = "matrix memory"
    source: ClassVar[str] = "Beck et al. 2024"
    keeps = ("forget",)
    equations = "mlstm"

    def __init__(self, input_size: int, hidden_size: int, *, heads: int = 4, forget: str = "sigmoid") -> None:
        super().__init__(input_size, hidden_size, heads)
        self.log_forget = log_forget(forget)
        if forget == "exp":
            self.keeps = ()
        self.output_gate = nn.Linear(input_size, hidden_size)
        self.weight_gates = nn.Parameter(torch.zeros(2 * heads, input_size))  # rows: i, f
        self.bias_gates = nn.Parameter(torch.cat([torch.empty(heads).normal_(0, 0.1), torch.linspace(3, 6, heads)]))

    def initial_state(self, batch_size: int) -> State:
        memory = self.empty(batch_size)
        return {"memory": memory, "normaliser": memory[..., 0], "stabiliser": memory[..., 0, 0]}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        (query, key, value), i, log_forget = self._parts(x)
        forget, enter, stabiliser = _stabilised(i, log_forget, state["stabiliser"])
        memory = forget[..., None] * state["memory"] + outer(enter * key, value)
        normaliser = forget * state["normaliser"] + enter * key
        least = (-stabiliser).exp()
        size = torch.maximum((normaliser * query).sum(-1).abs(), least)
        output = self.output_gate(x).sigmoid() * self.out(read(memory, query) / size[..., None])
        return output, {"memory": memory, "normaliser": normaliser, "stabiliser": stabiliser}

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        (query, key, value), i, log_forget = self._parts(x)
        forget, enter, _ = _stabilised(i, log_forget, state["stabiliser"])
        return {"memory": Additive(forget[..., None], outer(enter * key, value), query)}

    def remembered(
        self, x: Float[Tensor, "*N D"], state: State, reading: Reading
    ) -> tuple[Float[Tensor, "S B A E"], State]:
        heads, i, log_forget = self._parts(x)
        i, log_forget = reading.rows(i), reading.rows(log_forget)
        largest = reading.stabilisers(log_forget, i, state["stabiliser"])
        old, new = largest[:-1], largest[1:]
        # The normaliser is the memory of a value of 1.
        start = torch.cat([state["memory"], state["normaliser"][..., None]], -1)
        sums, end = reading.sums(heads, start, log_forget + old - new, (i - new).exp(), gates_by_step=True)
        least = (-new[reading.asked.start : reading.asked.stop]).exp()
        looked = sums[..., :-1] / torch.maximum(sums[..., -1].abs(), least)[..., None]
        return looked, {"memory": end[..., :-1], "normaliser": end[..., -1], "stabiliser": new[-1]}

    def answered(self, x: Float[Tensor, "S B D"], looked: Float[Tensor, "S B A E"]) -> Float[Tensor, "S B H"]:
        return self.output_gate(x).sigmoid() * self.out(looked)

    def _parts(self, x: Float[Tensor, "*N D"]) -> tuple[Heads, Float[Tensor, "*N A"], Float[Tensor, "*N A"]]:
        """Queries, scaled keys and values; i'; log f."""
        query, key, value = self.projected(x)
        i, f = F.linear(x, self.weight_gates, self.bias_gates).chunk(2, dim=-1)
        return Heads(query, key / self.width**0.5, value), i, self.log_forget(f)

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        return {**super().weights(), "sigmoid": torch.tensor([float(bool(self.keeps))])}

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B _"]]:
        """Exponential gates may be of any size, so they are not shown."""
        _, f = F.linear(x, self.weight_gates, self.bias_gates).chunk(2, dim=-1)
        return {**{name: f.sigmoid() for name in self.keeps}, "output": self.output_gate(x).sigmoid()}


def _stabilised(
    i: Float[Tensor, "B A"], log_forget: Float[Tensor, "B A"], stabiliser: Float[Tensor, "B A"]
) -> tuple[Float[Tensor, "B A 1"], Float[Tensor, "B A 1"], Float[Tensor, "B A"]]:
    """f, i and the new m of log sigmoid(f'), i' and the old m."""
    kept = log_forget + stabiliser
    new = torch.maximum(kept, i)
    return (kept - new).exp()[..., None], (i - new).exp()[..., None], new
