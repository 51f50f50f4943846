"""Recurrent cells. ``CELLS`` maps the name in ``conf/cell/NAME.yaml`` to its class."""

from .base import KERNELS as KERNELS
from .base import Cell as Cell
from .base import CellFactory as CellFactory
from .base import steps as steps
from .base import use_kernel as use_kernel
from .fused import FusedCell as FusedCell
from .gru import GRU as GRU
from .lstm import LSTM as LSTM
from .rnn import RNN as RNN
from .stack import Stack as Stack
from .state import Leaf as Leaf
from .state import Slots as Slots
from .state import State as State
from .state import join as join
from .state import part as part

CELLS: dict[str, type[Cell]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
