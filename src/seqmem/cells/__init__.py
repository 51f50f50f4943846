"""Recurrent cells. ``CELLS`` maps the name in ``conf/cell/NAME.yaml`` to its class."""

from .antisymmetric import Antisymmetric as Antisymmetric
from .attention import Attention as Attention
from .base import KERNELS as KERNELS
from .base import Additive as Additive
from .base import Cell as Cell
from .base import CellFactory as CellFactory
from .base import steps as steps
from .base import use_kernel as use_kernel
from .cornn import CoRNN as CoRNN
from .deltanet import DeltaNet as DeltaNet
from .exprnn import ExpRNN as ExpRNN
from .fused import FusedCell as FusedCell
from .gated_deltanet import GatedDeltaNet as GatedDeltaNet
from .gla import GLA as GLA
from .gru import GRU as GRU
from .indrnn import IndRNN as IndRNN
from .irnn import IRNN as IRNN
from .janet import JANET as JANET
from .lem import LEM as LEM
from .linear_attention import LinearAttention as LinearAttention
from .lmu import LMU as LMU
from .lru import LRU as LRU
from .lstm import LSTM as LSTM
from .lstm1997 import LSTM1997 as LSTM1997
from .mamba import Mamba as Mamba
from .mgu import MGU as MGU
from .mingru import MinGRU as MinGRU
from .minlstm import MinLSTM as MinLSTM
from .mlstm import MLSTM as MLSTM
from .retention import Retention as Retention
from .rglru import RGLRU as RGLRU
from .rnn import RNN as RNN
from .rwkv import RWKV as RWKV
from .s4d import S4D as S4D
from .slstm import SLSTM as SLSTM
from .stack import Stack as Stack
from .state import Leaf as Leaf
from .state import Slots as Slots
from .state import State as State
from .state import join as join
from .state import part as part
from .tcn import TCN as TCN
from .torchrecurrent import TorchRecurrent as TorchRecurrent
from .ugrnn import UGRNN as UGRNN
from .unicornn import UnICORNN as UnICORNN
from .wrappers import WRAPPERS as WRAPPERS

CELLS: dict[str, type[Cell]] = {
    "rnn": RNN,
    "lstm": LSTM,
    "gru": GRU,
    "lstm1997": LSTM1997,
    "ugrnn": UGRNN,
    "mgu": MGU,
    "janet": JANET,
    "irnn": IRNN,
    "indrnn": IndRNN,
    "antisymmetric": Antisymmetric,
    "exprnn": ExpRNN,
    "cornn": CoRNN,
    "unicornn": UnICORNN,
    "lem": LEM,
    "lmu": LMU,
    "mingru": MinGRU,
    "minlstm": MinLSTM,
    "rglru": RGLRU,
    "lru": LRU,
    "s4d": S4D,
    "mamba": Mamba,
    "slstm": SLSTM,
    "mlstm": MLSTM,
    "rwkv": RWKV,
    "linear_attention": LinearAttention,
    "retention": Retention,
    "gla": GLA,
    "deltanet": DeltaNet,
    "gated_deltanet": GatedDeltaNet,
    "attention": Attention,
    "tcn": TCN,
    "torchrecurrent": TorchRecurrent,
}
