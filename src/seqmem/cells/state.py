"""What a cell or a model carries past a timestep: named leaves, and what can be done with all of them at once.

A leaf is a tensor ``[B, ...]`` (a hidden vector, a matrix-valued memory, a clock) or ``Slots``, a growing sequence of
such tensors (attention's keys and values). Names are paths: ``0/hidden`` is the bottom layer's, ``decoder/hidden`` the
decoder's. A state may be empty.

Axes: B batch, N slots.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from jaxtyping import Shaped
from torch import Tensor


class Slots(Sequence[Tensor]):
    """Tensors ``[B, ...]`` of one shape, in the order in which steps appended them.

    Immutable: ``append`` returns a new sequence that shares the tensors of the old one, in constant time and memory.
    With a ``window``, only the newest so many are kept.

    Raises:
        ValueError: the shapes differ, or the window is below 1.
    """

    __slots__ = ("_items", "_size", "window")

    def __init__(self, items: Iterable[Tensor] = (), *, window: int | None = None) -> None:
        if window is not None and window < 1:
            raise ValueError(f"window={window}: must be at least 1, or None for no limit")
        self.window = window
        self._items = list(items) if window is None else list(items)[-window:]
        self._size = len(self._items)
        for item in self._items[1:]:
            _check_shape(item, self._items[0])

    def append(self, item: Shaped[Tensor, "B ..."]) -> "Slots":
        """These slots with ``item`` behind them."""
        if self._size:
            _check_shape(item, self._items[0])
        new = object.__new__(Slots)
        new.window = self.window
        if self.window is not None:
            new._items = [*self._items[: self._size], item][-self.window :]
        elif self._size == len(self._items):  # the newest view of the list: let the new one see an item more of it
            new._items = self._items
            new._items.append(item)
        else:  # another sequence has grown out of this one
            new._items = [*self._items[: self._size], item]
        new._size = self._size + 1 if self.window is None else len(new._items)
        return new

    def stacked(self) -> Shaped[Tensor, "N B ..."]:
        """All slots as one tensor.

        Raises:
            ValueError: there are none, so nothing says of what shape they would be.
        """
        if not self._size:
            raise ValueError("empty slots cannot be stacked: append one first")
        return torch.stack(self._items[: self._size])

    def map(self, function: Callable[[Tensor], Tensor]) -> "Slots":
        """``function`` of every slot."""
        return Slots(map(function, self), window=self.window)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Tensor]:
        # By index: an append while this runs lengthens the shared list, but not this view of it.
        return (self._items[i] for i in range(self._size))

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Tensor, ...]: ...
    def __getitem__(self, index: int | slice) -> Tensor | tuple[Tensor, ...]:
        if isinstance(index, slice):
            return tuple(self._items[i] for i in range(*index.indices(self._size)))
        return self._items[range(self._size)[index]]

    def __repr__(self) -> str:
        shape = f" of {tuple(self._items[0].shape)}" if self._size else ""
        return f"Slots({self._size}{shape}{'' if self.window is None else f', window={self.window}'})"


def _check_shape(item: Tensor, first: Tensor) -> None:
    if item.shape != first.shape:
        raise ValueError(f"a slot of shape {tuple(item.shape)} does not go with others of {tuple(first.shape)}")


Leaf = Tensor | Slots
"""What one name of a state stands for."""

if TYPE_CHECKING:
    # A cell knows which of its leaves are tensors and which are slots. With the union each use would need a check.
    State = dict[str, Any]
else:
    State = dict[str, Leaf]
"""Name -> leaf: what is carried past a timestep. The names become TensorBoard tags."""


def tensors(leaf: Leaf) -> Sequence[Shaped[Tensor, "B ..."]]:
    """The tensors of one leaf: itself, or one for each slot."""
    return leaf if isinstance(leaf, Slots) else (leaf,)


def leaves(state: Mapping[str, Any]) -> Iterator[Shaped[Tensor, "B ..."]]:
    """Every tensor of a state, in the order of its names."""
    for leaf in state.values():
        yield from tensors(leaf)


def map_leaves(function: Callable[[Tensor], Tensor], state: Mapping[str, Any]) -> State:
    """A state of the same names, with ``function`` of every tensor."""
    return {name: leaf.map(function) if isinstance(leaf, Slots) else function(leaf) for name, leaf in state.items()}


def detach(state: Mapping[str, Any]) -> State:
    """The same numbers, without the graph that they came from."""
    return map_leaves(Tensor.detach, state)


def written(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Tensor, ...]]:
    """What a step from ``old`` to ``new`` wrote: for each name of ``new`` the tensors that are not the ones of ``old``.

    A tensor is compared by identity, so a step that hands a leaf on as it is wrote nothing there (an empty tuple). Of
    slots only those that were appended count.
    """
    return {name: _written(old.get(name), leaf) for name, leaf in new.items()}


def _written(old: Leaf | None, new: Leaf) -> tuple[Tensor, ...]:
    if new is old:
        return ()
    if not isinstance(new, Slots):
        return (new,)
    if not (isinstance(old, Slots) and len(old)):
        return new[:]
    last = old[-1]
    appended = 0
    while appended < len(new) and new[len(new) - 1 - appended] is not last:
        appended += 1
    return new[len(new) - appended :]


# Rows of a batch


def repeat(state: Mapping[str, Any], times: int) -> State:
    """The batch ``times`` times, one copy after another: row b becomes the rows b, B + b, 2 B + b, …"""
    return map_leaves(lambda leaf: leaf.repeat(times, *(1,) * (leaf.ndim - 1)), state)


def select(state: Mapping[str, Any], rows: Tensor | slice) -> State:
    """Some rows of the batch: indices [R], a mask [B], or a slice."""
    return map_leaves(lambda leaf: leaf[rows], state)


def concatenate(states: Sequence[Mapping[str, Any]]) -> State | None:
    """The batches of several states one after another, as one state.

    None where they cannot stand in one batch: other names, shapes or numbers of slots.
    """
    first = states[0]
    if any(state.keys() != first.keys() for state in states):
        return None
    whole: State = {}
    for name, like in first.items():
        parts = [tensors(state[name]) for state in states]
        same = all(
            isinstance(state[name], Slots) == isinstance(like, Slots)
            and len(part) == len(parts[0])
            and [item.shape[1:] for item in part] == [item.shape[1:] for item in parts[0]]
            for state, part in zip(states, parts, strict=True)
        )
        if not same:
            return None
        joined = [torch.cat(items) for items in zip(*parts, strict=True)]
        whole[name] = Slots(joined, window=like.window) if isinstance(like, Slots) else joined[0]
    return whole


# States inside states


def join(states: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``{"0": {"hidden": h}}`` becomes ``{"0/hidden": h}``."""
    return {f"{part}/{name}": leaf for part, state in states.items() for name, leaf in state.items()}


def part(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The inverse of ``join``: what is under ``name/``; empty if nothing is."""
    prefix = f"{name}/"
    return {key.removeprefix(prefix): leaf for key, leaf in state.items() if key.startswith(prefix)}


# Files


def to_plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors, numbers and dictionaries alone, for a file that holds no classes (``torch.load(weights_only=True)``)."""
    return {
        name: {"slots": leaf.stacked() if len(leaf) else None, "window": leaf.window}
        if isinstance(leaf, Slots)
        else leaf
        for name, leaf in state.items()
    }


def from_plain(plain: Mapping[str, Any]) -> State:
    """The inverse of ``to_plain``."""
    return {
        name: leaf
        if isinstance(leaf, Tensor)
        else Slots(() if leaf["slots"] is None else leaf["slots"].unbind(0), window=leaf["window"])
        for name, leaf in plain.items()
    }


def newest(state: Mapping[str, Any]) -> dict[str, Shaped[Tensor, "B _"]]:
    """One row of values for each leaf, whatever its shape: a tensor's, or those of the newest slot. Empty slots are
    left out."""
    last = {name: tensors(leaf)[-1] for name, leaf in state.items() if len(tensors(leaf))}
    return {name: leaf.reshape(len(leaf), -1) for name, leaf in last.items()}
