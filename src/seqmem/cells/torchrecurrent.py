"""The cells of the package torchrecurrent (Martinuzzi 2025), by their names: ATR, BR, CFN, FastGRNN, MUT1, NAS ...

The extra seqmem[torchrecurrent] installs it. Equations and sources stand in that package's documentation.
"""

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .base import Cell
from .state import State


class TorchRecurrent(Cell):
    """One of torchrecurrent's cells.

    State: ``hidden`` [B H], and where it has two, ``cell``. In some cells, such as the MCLSTM, the output is neither.

    Args:
        kind: its name there, with or without ``Cell`` at its end.
        args: its own options, such as ``dt``.

    Raises:
        ImportError: the package is not installed.
        ValueError: it has no such cell, the cell refuses its options, or its layer does
            more than carry its state (tauGRU, which reads a delayed state).
    """

    family: ClassVar[str] = "other packages"
    source: ClassVar[str] = "Martinuzzi 2025"

    def __init__(
        self, input_size: int, hidden_size: int, *, kind: str = "MUT1", args: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        made, options = _class(kind), dict(args or {})
        if more := list(inspect.signature(made.forward).parameters)[3:]:  # after self, the input and the state
            raise ValueError(f"kind={kind}: its layer hands it more than its own state ({', '.join(more)})")
        known = [name for name in inspect.signature(made).parameters if name not in _OURS]
        for name in options:
            if name not in known:
                raise ValueError(f"args.{name}={options[name]}: {kind} has no such option, but {', '.join(known)}")
        try:
            self.inner: nn.Module = made(input_size, hidden_size, **options)
            with torch.no_grad():
                shown = self.inner(torch.zeros(1, input_size))
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ValueError(f"kind={kind}: {' '.join(str(error).split())}") from None
        self._apart = _name_of_base(made).startswith("Decoupled")
        """The output is not one of the states."""
        states = shown[1] if self._apart else shown
        states = (states,) if isinstance(states, Tensor) else states
        self._widths = {name: state.shape[-1] for name, state in zip(("hidden", "cell"), states, strict=False)}
        output = shown if isinstance(shown, Tensor) else shown[0]
        self.input_size, self.output_size = input_size, output.shape[-1]
        self.output_state = None if self._apart else "hidden"

    def initial_state(self, batch_size: int) -> State:
        like = next(self.parameters())
        return {name: like.new_zeros(batch_size, width) for name, width in self._widths.items()}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        old = [state[name] for name in self._widths]
        result: Any = self.inner(x, tuple(old) if len(old) > 1 else old[0])
        if self._apart:
            output, new = result
        else:
            output, new = result[0] if len(old) > 1 else result, result
        new = new if len(old) > 1 else (new,)
        return output, dict(zip(self._widths, new, strict=True))


_OURS = ("input_size", "hidden_size", "device", "dtype")


def _class(kind: str) -> type[nn.Module]:
    """
    Raises:
        ImportError: the package is not installed.
        ValueError: it has no such cell.
    """
    try:
        package = import_module("torchrecurrent")
    except ImportError:
        raise ImportError(f"kind={kind}: needs the package torchrecurrent", name="torchrecurrent") from None
    names = sorted(name.removesuffix("Cell") for name in dir(package) if name.endswith("Cell"))
    name = kind.removesuffix("Cell")
    if name not in names:
        close = get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"kind={kind}: torchrecurrent has no such cell{hint}: {', '.join(names)}")
    return getattr(package, f"{name}Cell")


def _name_of_base(cell: type) -> str:
    """The name of torchrecurrent's interface that a cell has, such as SingleStateCellBase."""
    return next(base.__name__ for base in cell.__mro__ if base.__module__ == "torchrecurrent.base")
