"""Initial values of torch's recurrent layers with which a gradient lives for a given number of timesteps.

torch's own leave an LSTM's forget gates half closed, and give an RNN a recurrent matrix that shrinks: the gradient
halves about every one and a half timesteps.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..cells.initialisation import log_uniform_timescales

M = TypeVar("M", bound=nn.Module)


def remember_(module: M, steps: int) -> M:
    """``module`` itself, with its recurrent layers initialised to remember ``steps`` timesteps. Before training: what
    they have learned is lost.

    LSTM, GRU and their cells: the *chrono* initialisation (Tallec & Ollivier 2018, arXiv 1804.11188). The bias of the
    forget gate (a GRU's update gate) is log U(1, steps - 1), so that its units keep their state for one timestep up to
    ``steps``; an LSTM's input gate has its negative. RNN: an orthogonal recurrent matrix (Saxe et al. 2014, arXiv
    1312.6120), or with relu the identity (Le et al. 2015, arXiv 1504.00941), and no bias. Other weights stay as they
    are. Random numbers are torch's, as in ``torch.nn.init``.

    Args:
        module: a layer, a cell, or a model that has some.
        steps: at least 2; for a mixture of lengths the longest.

    Raises:
        ValueError: nothing in it is recurrent; a layer has no bias, or its weights are parametrized.
    """
    if steps < 2:
        raise ValueError(f"steps={steps}: must be a number of timesteps, at least 2")
    layers = [(path, part) for path, part in module.named_modules() if isinstance(part, nn.RNNBase | nn.RNNCellBase)]
    if not layers:
        raise ValueError(f"{type(module).__name__} has no RNN, LSTM or GRU of torch.nn's, and none of their cells")
    for path, layer in layers:
        refusal = _refusal(layer)
        if refusal:
            raise ValueError(f"{path or type(layer).__name__}: {refusal}")
    with torch.no_grad():
        for _, layer in layers:
            start = _STARTS[mode(layer)][0]
            for suffix in _suffixes(layer):
                start(layer, suffix, steps)
    return module


def mode(layer: nn.RNNBase | nn.RNNCellBase) -> str:
    """LSTM, GRU, RNN_TANH or RNN_RELU, also of a cell."""
    if isinstance(layer, nn.RNNBase):
        return layer.mode
    if isinstance(layer, nn.RNNCell):
        return f"RNN_{layer.nonlinearity.upper()}"
    return "LSTM" if isinstance(layer, nn.LSTMCell) else "GRU"


def in_words(layer: nn.RNNBase | nn.RNNCellBase) -> str:
    """What ``remember_`` does to such a layer; empty: it cannot."""
    return "" if _refusal(layer) else _STARTS[mode(layer)][1]


def _refusal(layer: nn.RNNBase | nn.RNNCellBase) -> str:
    gated = mode(layer) in ("LSTM", "GRU")
    if gated and not layer.bias:
        return "its gates have no bias to initialise: make it with bias=True"
    kinds = ("bias_ih", "bias_hh") if gated else ("weight_hh",)
    names = (f"{kind}{suffix}" for kind in kinds for suffix in _suffixes(layer))
    hidden = next((name for name in names if layer._parameters.get(name) is None), "")  # noqa: SLF001  torch has no other way to ask
    return f"its {hidden} is parametrized: initialise it before that" if hidden else ""


def _suffixes(layer: nn.RNNBase | nn.RNNCellBase) -> list[str]:
    if not isinstance(layer, nn.RNNBase):
        return [""]
    ways = ("", "_reverse") if layer.bidirectional else ("",)
    return [f"_l{number}{way}" for number in range(layer.num_layers) for way in ways]


def _lstm(layer: nn.Module, suffix: str, steps: int) -> None:
    timescales = log_uniform_timescales(layer.hidden_size, steps)  # pyright: ignore[reportArgumentType]
    _set_bias(layer, suffix, 4, {0: -timescales, 1: timescales})


def _gru(layer: nn.Module, suffix: str, steps: int) -> None:
    _set_bias(layer, suffix, 3, {1: log_uniform_timescales(layer.hidden_size, steps)})  # pyright: ignore[reportArgumentType]


def _set_bias(layer: nn.Module, suffix: str, gates: int, values: dict[int, Tensor]) -> None:
    """torch adds two biases up: the second becomes zero where the first is set."""
    by_input, by_state = (getattr(layer, f"{name}{suffix}").chunk(gates) for name in ("bias_ih", "bias_hh"))
    for gate, value in values.items():
        by_input[gate].copy_(value)
        by_state[gate].zero_()


def _rnn(start: Callable[[Tensor], Tensor], layer: nn.Module, suffix: str, _: int) -> None:
    weight = getattr(layer, f"weight_hh{suffix}")
    whole = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()  # no others have a QR
    weight.copy_(start(whole))
    for name in ("bias_ih", "bias_hh"):
        bias = getattr(layer, f"{name}{suffix}", None)
        if bias is not None:
            bias.zero_()


_MORE = "nn.LSTM and nn.GRU can keep more"
_STARTS: dict[str, tuple[Callable[[nn.Module, str, int], None], str]] = {
    "LSTM": (_lstm, "chrono initialisation"),
    "GRU": (_gru, "chrono initialisation"),
    "RNN_TANH": (
        partial(_rnn, nn.init.orthogonal_),
        f"an orthogonal recurrent matrix; {_MORE}",
    ),
    "RNN_RELU": (partial(_rnn, nn.init.eye_), f"the identity as recurrent matrix; {_MORE}"),
}
