"""A cell maps one timestep; everything else about sequences is derived from that.

Axes: T time, B batch, D input features, H hidden (output) features, V vectors, A heads, E numbers per head, N timesteps
that are looked at, S asked timesteps. Time comes first.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .state import Slots, State

CellFactory = Callable[[int], "Cell"]
"""From an input size to a fresh cell of that input size."""

KERNELS = ("auto", "native", "torch", "step")
"""What may compute a whole sequence: our native kernels, torch's fused layer (cuDNN on CUDA), or ``step`` in a loop.
``auto`` takes the first of them that is available."""


class Additive(NamedTuple):
    """A step whose new state is ``keep * old + write``, element by element.

    So a state is a sum over the past: what each timestep wrote, times all that the later ones kept of it.

    Args:
        keep: broadcast to the state's shape. It may depend on anything, the old state among it.
        write: the state's shape.
        query: [B A E] of a state [B A E ...] of which the step reads the sum over E of query * state; None: the step
            reads the state itself.
    """

    keep: Float[Tensor, "B ..."]
    write: Float[Tensor, "B ..."]
    query: Float[Tensor, "B A E"] | None = None


class Cell(nn.Module, ABC):
    """One timestep of a recurrent network. Write ``initial_state`` and ``step``; the rest follows.

    A subclass sets ``input_size`` and ``output_size``, and where they apply:

    ``output_state``: the name of the state that its output is.
    ``keeps``: the gates whose value is the share of an old state that remains (an LSTM's forget gate).
    ``equations``: the name of the published equations that its step computes, for other implementations of them.
    ``kernels``: those of ``KERNELS`` besides ``step`` that can compute its sequences.
    ``family``: what kind of cell it is, as ``seqmem list`` groups them.
    ``parallel``: ``forward`` computes many timesteps at once, not one after the other.
    ``compared``: options that TensorBoard's table of hyperparameters shows for runs of every cell.

    Shortcuts are definitions of the same step that go faster: ``forward``, ``forward_tokens``, ``forward_at``,
    ``differentiated``, ``tapped``. They hold for the step that they were written for: a subclass with a ``step`` of its
    own is computed by that step unless it brings shortcuts of its own, too.
    """

    input_size: int
    output_size: int
    output_state: str | None = None
    keeps: tuple[str, ...] = ()
    equations: str | None = None
    kernels: tuple[str, ...] = ()
    family: ClassVar[str] = "your own"
    parallel: bool = False
    compared: tuple[str, ...] = ()

    walks: ClassVar[bool] = True
    """``forward`` is the loop over ``step``, not a shortcut. Set by the class statement."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for definition, shortcuts in _SHORTCUTS.items():
            redefined = any(definition in vars(base) and base is not Cell for base in cls.__mro__[1:])
            if definition in vars(cls) and redefined:
                for name in shortcuts:
                    if name not in vars(cls):
                        setattr(cls, name, vars(Cell)[name])
        cls.walks = cls.forward is Cell.forward

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state before the first timestep, on the parameters' device and in their dtype. It may be empty."""

    @abstractmethod
    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        """One timestep: (output, new state). This is the definition of the cell.

        A leaf that stays as it was is handed on as the same object: the trace follows what a step wrote.
        """

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B _"]]:
        """Gate name -> [B H], how far each is open (0 to 1) in the step that reads ``x``. Many cells have none."""
        return {}

    def looks(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B A N"]]:
        """Name -> the weights of each head's attention in the step that reads ``x``, which sum to 1.

        They are those of the last N timesteps, the present one last. Only attention has some.
        """
        return {}

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        """State name -> how the step that reads ``x`` makes it of the old one, for states that change by addition.

        ``seqmem read`` draws it as effective attention. Most important first; many cells have none.
        """
        return {}

    def forward(self, xs: Float[Tensor, "T B D"], state: State | None = None) -> tuple[Float[Tensor, "T B H"], State]:
        """A whole sequence: (outputs, final state). Override only to go faster; the laws hold it equal to ``steps``."""
        state = self.initial_state(xs.shape[1]) if state is None else state
        outputs = []
        # unbind, not xs[t]: indexing a tensor that requires grad costs O(T) per step in the backward pass.
        for output, new in steps(self, xs.unbind(0), state):
            outputs.append(output)
            state = new
        return torch.stack(outputs), state

    def forward_tokens(
        self, tokens: Int[Tensor, "T B"], vectors: Float[Tensor, "V D"], state: State | None = None
    ) -> tuple[Float[Tensor, "T B H"], State]:
        """``forward`` over ``vectors[tokens]``. Override only to go faster."""
        return self(F.embedding(tokens, vectors), state)

    def forward_at(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State | None,
        at: slice,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> tuple[Float[Tensor, "S B H"], State]:
        """``forward`` (with ``vectors``: ``forward_tokens``) whose outputs are asked for at these timesteps alone.

        Many tasks ask at the last timestep. Override only where the other outputs cost something that the final state
        does not need.
        """
        outputs, final = self(inputs, state) if vectors is None else self.forward_tokens(inputs, vectors, state)
        return outputs_at(self, outputs, final, at), final

    def tapped(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> "Tapped | None":
        """``forward`` (with ``vectors``: ``forward_tokens``) with gradients by every state at every timestep.

        None: this cell has no faster way than the loop over ``step``.
        """
        return None

    def differentiated(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> "Differentiated | None":
        """``forward`` (with ``vectors``: ``forward_tokens``) with its backward pass, without autograd's graph.

        It draws no random numbers. None: autograd is the only way.
        """
        return None

    def use(self, kernel: str, threads: int = 1) -> None:
        """Compute sequences with ``kernel``, one of ``KERNELS``. A cell without kernels ignores it."""

    def checkpoint(self, every: int | None) -> None:
        """Save only every Nth state for the backward pass, if the kernels can. Other cells are wrapped instead, see
        ``recompute``."""

    def prepare_for_compiler(self) -> None:
        """Switch to a kernel that torch's compiler can trace.

        Raises:
            ValueError: the settings demand one that it cannot trace.
        """

    def kept(self, steps: int) -> int:
        """Numbers that training keeps for the backward pass, at least, of one sequence of so many timesteps.

        By default its outputs. What is sure not to fit is refused by this before a run starts.
        """
        return steps * self.output_size

    def saves_memory(self, like: Float[Tensor, "..."]) -> bool:
        """True if ``checkpoint`` saves memory without a wrapper, for inputs of ``like``'s device and dtype."""
        return False

    def layers(self) -> "Sequence[Cell]":
        """The cells on top of each other that make up this one, from the bottom; by default itself alone."""
        return [self]

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        """The weights, by their names in ``equations``; empty without such equations."""
        return {}


_SHORTCUTS = {
    "step": (
        "forward",
        "forward_tokens",
        "forward_at",
        "tapped",
        "differentiated",
        "saves_memory",
        "output_state",
        "equations",
        "kernels",
        "looks",
        "additive",
        "parallel",
    ),
    "forward": ("forward_tokens", "forward_at", "tapped", "differentiated"),
}
"""Definition -> the shortcuts and facts that are valid for it only."""


@runtime_checkable
class Differentiated(Protocol):
    """A forward pass over a sequence, whose gradients ``backward`` computes, once.

    ``outputs`` [T B H] and ``final``, the last state, have no graph.
    """

    outputs: Tensor
    final: State

    def backward(
        self, outputs: Float[Tensor, "T B H"] | None, final: Mapping[str, Tensor | None], *, by_inputs: bool
    ) -> Tensor | None:
        """Add the loss's gradient by each weight to its ``grad``; return the one by the vectors, or without vectors by
        the inputs, if ``by_inputs``, else None.

        Args:
            outputs, final: gradients of the loss by ``self.outputs`` and ``self.final``; None or missing: zero.
        """
        ...


@runtime_checkable
class Tapped(Protocol):
    """A cell with fixed inputs and a fixed initial state, for repeated passes while its weights change in place.

    ``forward`` fills ``outputs`` [T B H] and ``final``, the last state: the same tensors every time.
    """

    outputs: Tensor
    final: State

    def forward(self) -> None: ...

    def backward(
        self,
        outputs: Float[Tensor, "T B H"] | None,
        final: Mapping[str, Tensor | None],
        *,
        to_inputs: Float[Tensor, "T B D"] | None = None,
    ) -> tuple[Float[Tensor, "T B"], dict[str, Float[Tensor, "T B"]]]:
        """L2 norms, per sequence, of the gradients of the last ``forward``: of dL/dx_t, and state name -> of dL/ds_t.

        dL/ds_t is the total derivative by what timestep t wrote to that state; NaN where it wrote nothing.

        Args:
            outputs, final: gradients of the loss by ``self.outputs`` and ``self.final``; None or missing: zero.
            to_inputs: filled with dL/dx_t itself.
        """
        ...


def outputs_at(cell: Cell, outputs: Float[Tensor, "T B H"], final: State, at: slice) -> Float[Tensor, "S B H"]:
    """``outputs[at]``. If ``at`` is the last timestep, the output is taken from the state where it is one: the backward
    pass then starts there, without zeros for all other timesteps."""
    last = cell.output_state
    return final[last][None] if is_last(at, outputs) and last is not None else outputs[at]


def is_last(at: slice, outputs: Float[Tensor, "T B H"]) -> bool:
    """``at`` is the last timestep."""
    return at == slice(len(outputs) - 1, len(outputs))


def add_gradients(pairs: "Iterable[tuple[Tensor, Tensor | None]]") -> None:
    """Add to each tensor's ``grad`` what comes with it, as ``Tensor.backward`` does."""
    for tensor, gradient in pairs:
        if gradient is not None:
            tensor.grad = gradient if tensor.grad is None else tensor.grad + gradient


def hooked(module: nn.Module) -> bool:
    """True if the module or one of its own parameters has a hook, which only calls and autograd run."""
    # torch has no public question for hooks.
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks  # noqa: SLF001
    ) or any(
        parameter is not None and (parameter._backward_hooks or parameter._post_accumulate_grad_hooks)  # noqa: SLF001
        for parameter in module._parameters.values()  # noqa: SLF001
    )


def steps(cell: Cell, xs: Iterable[Float[Tensor, "B D"]], state: State) -> Iterator[tuple[Tensor, State]]:
    """Yield (output, state) after each timestep. This defines a cell on sequences: ``forward`` must equal it."""
    for x in xs:
        output, state = cell.step(x, state)
        yield output, state


def use_kernel(module: nn.Module, kernel: str, threads: int = 1, checkpoint_every_t: int | None = None) -> None:
    """Set the kernel, threads and checkpointing of every cell inside ``module``.

    Raises:
        ValueError: there is no such kernel.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel}: must be one of {', '.join(KERNELS)}")
    for cell in cells_in(module):
        cell.use(kernel, threads)
        cell.checkpoint(checkpoint_every_t)


def cells_in(module: nn.Module) -> list[Cell]:
    """Every cell inside; a cell that contains others comes before them."""
    return [part for part in module.modules() if isinstance(part, Cell)]


def numbers_in_state(cell: Cell) -> str:
    """How many numbers the state of a sequence has: ``128``, or ``128 T`` where it grows with each of T timesteps."""
    with torch.no_grad():
        _, state = cell.step(next(cell.parameters()).new_zeros(1, cell.input_size), cell.initial_state(1))
    fixed = grows = 0
    for leaf in state.values():
        if not isinstance(leaf, Slots):
            fixed += leaf.numel()
        elif leaf.window is None:
            grows += leaf[0].numel()
        else:
            fixed += leaf.window * leaf[0].numel()
    return " + ".join([*([f"{fixed:,}"] if fixed else []), *([f"{grows:,} T"] if grows else [])])
