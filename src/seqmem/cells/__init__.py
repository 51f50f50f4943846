"""Recurrent cells. ``CELLS`` maps the name in ``conf/cell/NAME.yaml`` to its class."""

from .base import Cell as Cell
from .base import CellFactory as CellFactory
from .base import Stack as Stack
from .base import State as State
from .base import steps as steps
from .fused import KERNELS as KERNELS
from .fused import FusedCell as FusedCell
from .fused import use_kernel as use_kernel
from .gru import GRU as GRU
from .lstm import LSTM as LSTM
from .rnn import RNN as RNN

CELLS: dict[str, type[Cell]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
