"""torch.nn's RNN, LSTM and GRU, computed by seqmem's kernels on the CPU.

from seqmem import nn

layer = nn.LSTM(32, 64, num_layers=2, bidirectional=True)  # as torch.nn.LSTM in all else
output, (h_n, c_n), states = layer.states(xs)              # every h_t and c_t
nn.convert(model)                                          # the layers inside a model; nn.restore(model) undoes it
nn.remember_(model, 100)                                   # initial values with which gradients live for 100 timesteps
"""

from .conversion import computed_by, convert, restore
from .layers import GRU, LSTM, RNN, FallbackWarning, States
from .start import remember_

__all__ = ["GRU", "LSTM", "RNN", "FallbackWarning", "States", "computed_by", "convert", "remember_", "restore"]

for _kind in (RNN, LSTM, GRU, FallbackWarning, States):
    _kind.__module__ = __name__  # pickles name it, wherever it is defined
