"""What laws are about: a cell or a model, the ways in which it reads sequences, and sequences to read.

Axes: T time, B batch, D input features, L a longer time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..cells.base import Cell
from ..cells.state import State, map_leaves, tensors
from ..models.base import Model
from ..randomness import ambient, generator
from ..tasks.base import Task
from .attributes import kept_graph
from .comparison import Pair
from .promises import Broken, Reading, read_cell, read_model

SEQUENCES = 3
"""Rows of the batches that laws read. Others have fewer: what depends on the size of the batch shows."""

TIMESTEPS = 7


class Subject(ABC):
    """A cell or a model in eval mode and in float64, and what it reads.

    A law gets a copy of its own from ``fresh``, so that what one law breaks is whole for the next.

    Args:
        module: is left as it is.
        xs, other: two batches of the same size.
        longer: a batch of four times the length.
    """

    noun: str
    verb: str
    """The method that defines it."""

    def __init__(
        self,
        module: nn.Module,
        xs: Shaped[Tensor, "T B ..."],
        other: Shaped[Tensor, "T B ..."],
        longer: Shaped[Tensor, "L B ..."],
    ) -> None:
        self.module, self.xs, self.other, self.longer = module, xs, other, longer

    @abstractmethod
    def read(self, module: Any, xs: Shaped[Tensor, "T B ..."], state: State | None = None) -> Reading:
        """What reading step by step gives; this is the definition."""

    @abstractmethod
    def looked_at(self, module: Any, xs: Shaped[Tensor, "T B ..."], like: Tensor) -> Reading:
        """``read``, and each thing that is returned is what it must be.

        Raises:
            Broken: it is not.
        """

    @abstractmethod
    def shapes(self, timesteps: int) -> tuple[int, ...]:
        """The shape of its outputs."""

    @property
    def has_shortcut(self) -> bool:
        """``forward`` is another computation than the loop over its steps."""
        return True

    def fresh(self, dtype: torch.dtype = torch.float64) -> Any:
        """A copy in eval mode. Weights that begin at zero would hide what flows through them: it has others.

        Raises:
            Broken: it cannot be copied.
        """
        return deepcopy(self._prepared).to(dtype)

    @cached_property
    def _prepared(self) -> nn.Module:
        try:
            copy = deepcopy(self.module)
        except Exception as error:
            raise Broken(f"it cannot be copied: {kept_graph(self.module) or error}") from error
        copy = copy.double().eval()
        with torch.no_grad():
            for number, parameter in enumerate(copy.parameters()):
                if parameter.requires_grad and not parameter.any():
                    parameter.normal_(generator=generator(0, "zeros", number)).mul_(0.5)
        return copy

    def example(self) -> tuple[Any, Tensor]:
        """(a copy, sequences): what laws look at, to look at oneself."""
        return self.fresh(), self.xs

    def forward(
        self, module: Any, xs: Shaped[Tensor, "T B ..."], state: State | None = None
    ) -> tuple[Float[Tensor, "T B _"], State]:
        return module(self.like(module, xs), state)

    def like(self, module: nn.Module, xs: Shaped[Tensor, "T B ..."]) -> Shaped[Tensor, "T B ..."]:
        """Sequences as such weights read them: real numbers in their dtype, tokens as they are."""
        weight = next((p for p in module.parameters() if p.is_floating_point()), None)
        return xs if weight is None or not xs.is_floating_point() else xs.to(weight.dtype)

    def start(self, module: Any) -> State:
        """A state like those after two timesteps, but off by up to a fifth of each number."""
        with torch.no_grad():
            state = self.read(module, self.other[:2]).states[-1]
        rng = generator(0, "start")

        def near(leaf: Tensor) -> Tensor:
            if not leaf.is_floating_point():
                return leaf
            factor = 0.8 + 0.4 * torch.rand(leaf.shape, generator=rng, dtype=torch.float64)
            return leaf.detach() * factor.to(leaf.dtype)

        return map_leaves(near, state)


class OfCell(Subject):
    """A cell, and random numbers as inputs.

    Args:
        seq_len: the length it is for; it also reads four times as much.
    """

    noun, verb = "cell", "step"
    module: Cell

    def __init__(self, cell: Cell, seq_len: int = TIMESTEPS) -> None:
        def batch(timesteps: int, number: int) -> Tensor:
            size = timesteps, SEQUENCES, cell.input_size
            return torch.randn(size, generator=generator(0, "laws", number), dtype=torch.float64)

        super().__init__(cell, batch(TIMESTEPS, 0), batch(TIMESTEPS, 1), batch(4 * seq_len, 2))

    @property
    def has_shortcut(self) -> bool:
        return not self.module.walks

    def read(self, module: Cell, xs: Float[Tensor, "T B D"], state: State | None = None) -> Reading:
        state = module.initial_state(xs.shape[1]) if state is None else state
        outputs, states = [], [state]
        for x in self.like(module, xs).unbind(0):
            output, state = module.step(x, dict(state))
            outputs.append(output)
            states.append(state)
        return Reading(outputs, states)

    def looked_at(self, module: Cell, xs: Float[Tensor, "T B D"], like: Tensor) -> Reading:
        return read_cell(module, xs, like)

    def shapes(self, timesteps: int) -> tuple[int, ...]:
        return timesteps, SEQUENCES, self.module.output_size


class OfModel(Subject):
    """A model, and sequences of a task as inputs.

    Args:
        seq_len: the length it is for; it also reads four times as much, or the longest sequences of the task.
    """

    noun, verb = "model", "walk"
    module: Model

    def __init__(self, model: Model, task: Task, seq_len: int) -> None:
        length = max(TIMESTEPS, task.min_seq_len)
        longest = 4 * seq_len if task.max_seq_len is None else min(4 * seq_len, task.max_seq_len)
        sizes = length, length, max(longest, task.min_seq_len)
        batches = [task.sample(SEQUENCES, size, generator(0, "laws", i)).inputs for i, size in enumerate(sizes)]
        super().__init__(model, *batches)
        self.size = task.targets.size

    def read(self, module: Model, xs: Shaped[Tensor, "T B ..."], state: State | None = None) -> Reading:
        state = module.initial_state(xs.shape[1]) if state is None else state
        outputs, states = [], [state]
        for step in module.walk(self.like(module, xs), dict(state)):
            outputs.append(step.output)
            states.append(dict(step.state))
        return Reading(module.read_out(torch.stack(outputs)).unbind(0), states)

    def looked_at(self, module: Model, xs: Shaped[Tensor, "T B ..."], like: Tensor) -> Reading:
        return read_model(module, xs, like, self.size)

    def shapes(self, timesteps: int) -> tuple[int, ...]:
        return timesteps, SEQUENCES, self.size


def made(make: Callable[[], Cell], seed: int = 0) -> Cell:
    """A cell with the weights that ``seed`` gives, those of torch's lazy modules as well."""
    with ambient(seed, "weights"):
        cell = make()
    materialize(cell, seed)
    return cell


def materialize(cell: Cell, seed: int) -> None:
    """Give torch's lazy modules in a user's own cell their shapes and weights, for which they wait for an input."""
    if any(map(is_lazy, cell.parameters())):
        with ambient(seed, "trial"), torch.no_grad():
            cell.step(torch.zeros(SEQUENCES, cell.input_size), cell.initial_state(SEQUENCES))


# Pairs


def pairs_of_states(one: State, two: State, name: str = "final state", at: str = "") -> Iterator[Pair]:
    """Leaf by leaf; slots one by one."""
    for key in dict.fromkeys([*one, *two]):
        first, second = (tensors(state[key]) if key in state else () for state in (one, two))
        yield Pair(f"tensors in the {name} '{key}'", (), torch.tensor(len(first)), torch.tensor(len(second)), at)
        for slot, (a, b) in enumerate(zip(first, second, strict=False)):
            where = f"slot {slot}" if len(first) > 1 else ""
            yield Pair(f"{name} '{key}'", ("row",), a, b, ", ".join(filter(None, [at, where])))


def pairs_of_readings(one: Reading, two: Reading, rows: slice = slice(None)) -> Iterator[Pair]:
    """Some rows of every output and of every state."""
    for t, (a, b) in enumerate(zip(one.outputs, two.outputs, strict=True)):
        yield Pair("output", ("row",), a[rows], b[rows], f"timestep {t}")
    for t, (a, b) in enumerate(zip(one.states, two.states, strict=True)):
        when = f"after timestep {t - 1}" if t else "before the first timestep"
        for pair in pairs_of_states(a, b, "state", when):
            yield pair if not pair.axes else pair._replace(one=pair.one[rows], two=pair.two[rows])
