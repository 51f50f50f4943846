"""What rnn, lstm and gru share: parameters held by one of torch's fused layers, and how they start.

Axes: H hidden, D input features, G gates stacked on top of each other in the weights.
"""

import torch
from torch import Tensor, nn

from .base import Cell


class FusedCell(Cell):
    """A cell whose weights live in an ``nn.RNNBase`` of one layer, so that ``forward`` can call its fused kernel.

    torch (and cuDNN) keep two bias vectors that are always added. Here the second is zero and never trained, so a
    bias means what it says: a forget bias of 1 opens the gate to sigmoid(1) = 0.731, not sigmoid(2) = 0.881.
    """

    def __init__(self, layer: nn.RNNBase, init: str) -> None:
        super().__init__()
        self.fused = layer
        self.input_size, self.output_size = layer.input_size, layer.hidden_size
        if init not in ("torch", "orthogonal", "identity"):
            raise ValueError(f"init={init!r}: must be 'torch', 'orthogonal' or 'identity'")
        with torch.no_grad():
            self._zero_bias.requires_grad_(False).zero_()
            if init != "torch":
                start = nn.init.orthogonal_ if init == "orthogonal" else nn.init.eye_
                for block in self.weight_hidden.split(self.output_size):
                    start(block)
                self.bias.zero_()

    @property
    def weight_input(self) -> Tensor:
        """[G*H, D]"""
        return self.fused.get_parameter("weight_ih_l0")

    @property
    def weight_hidden(self) -> Tensor:
        """[G*H, H]"""
        return self.fused.get_parameter("weight_hh_l0")

    @property
    def bias(self) -> Tensor:
        """[G*H]"""
        return self.fused.get_parameter("bias_ih_l0")

    @property
    def _zero_bias(self) -> Tensor:
        return self.fused.get_parameter("bias_hh_l0")


def log_uniform_timescales(size: int, seq_len: int) -> Tensor:
    """log U(1, seq_len - 1): the chrono initialisation of a gate bias (Tallec & Ollivier 2018, section 3).

    A gate with bias b keeps its content for about e^b timesteps, so the units start with memories of one timestep
    up to the sequence.
    """
    return torch.empty(size).uniform_(1.0, max(1.0, float(seq_len - 1))).log_()


def chrono_or_number(forget_bias: float | str, seq_len: int | None, size: int) -> Tensor | float:
    """The bias of a gate that keeps: a number as it is, ``chrono`` drawn for sequences of ``seq_len`` timesteps."""
    if isinstance(forget_bias, str):
        if forget_bias != "chrono":
            raise ValueError(f"forget_bias={forget_bias!r}: must be a number or 'chrono'")
        if seq_len is None:
            raise ValueError("forget_bias='chrono' needs seq_len, the number of timesteps to remember")
        return log_uniform_timescales(size, seq_len)
    return float(forget_bias)
