"""The state of a cell or a model after a timestep: named leaves, and functions of all leaves at once.

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
    With a ``window``, only that many of the newest remain; ``dropped`` counts those that came before them.

    Raises:
        ValueError: the shapes differ, or the window is below 1.
    """

    __slots__ = ("_items", "_size", "dropped", "window")

    def __init__(self, items: Iterable[Tensor] = (), *, window: int | None = None, dropped: int = 0) -> None:
        if window is not None and window < 1:
            raise ValueError(f"window={window}: must be at least 1, or None for no limit")
        self.window = window
        given = list(items)
        self._items = given if window is None else given[-window:]
        self._size = len(self._items)
        self.dropped = dropped + len(given) - self._size
        for item in self._items[1:]:
            _check_shape(item, self._items[0])

    def append(self, item: Shaped[Tensor, "B ..."]) -> "Slots":
        """New slots with ``item`` at the end."""
        if self._size:
            _check_shape(item, self._items[0])
        new = object.__new__(Slots)
        new.window = self.window
        if self.window is not None:
            new._items = [*self._items[: self._size], item][-self.window :]
        elif self._size == len(self._items):  # the newest view of the shared list: extend the list
            new._items = self._items
            new._items.append(item)
        else:  # another view has extended the shared list already: copy
            new._items = [*self._items[: self._size], item]
        new._size = self._size + 1 if self.window is None else len(new._items)
        new.dropped = self.dropped + self._size + 1 - new._size
        return new

    def extend(self, items: Iterable[Shaped[Tensor, "B ..."]]) -> "Slots":
        """New slots with several at the end."""
        return Slots([*self, *items], window=self.window, dropped=self.dropped)

    def stacked(self) -> Shaped[Tensor, "N B ..."]:
        """All slots as one tensor.

        Raises:
            ValueError: there are no slots, so their shape is unknown.
        """
        if not self._size:
            raise ValueError("empty slots cannot be stacked: append one first")
        return torch.stack(self._items[: self._size])

    def map(self, function: Callable[[Tensor], Tensor]) -> "Slots":
        """New slots with ``function`` applied to each."""
        return Slots(map(function, self), window=self.window, dropped=self.dropped)

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
"""The value of one name of a state."""

if TYPE_CHECKING:
    # A cell knows which of its leaves are tensors and which are slots. With the union each use would need a check.
    State = dict[str, Any]
else:
    State = dict[str, Leaf]
"""Name -> leaf. The names become TensorBoard tags."""


def tensors(leaf: Leaf) -> Sequence[Shaped[Tensor, "B ..."]]:
    """The tensors of one leaf: the leaf itself, or one per slot."""
    return leaf if isinstance(leaf, Slots) else (leaf,)


def leaves(state: Mapping[str, Any]) -> Iterator[Shaped[Tensor, "B ..."]]:
    """Every tensor of a state, in the order of its names."""
    for leaf in state.values():
        yield from tensors(leaf)


def map_leaves(function: Callable[[Tensor], Tensor], state: Mapping[str, Any]) -> State:
    """A state with the same names and ``function`` applied to every tensor."""
    return {name: leaf.map(function) if isinstance(leaf, Slots) else function(leaf) for name, leaf in state.items()}


def detach(state: Mapping[str, Any]) -> State:
    """The same values, detached from their graph."""
    return map_leaves(Tensor.detach, state)


def written(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Tensor, ...]]:
    """The tensors that a step from ``old`` to ``new`` wrote, for each name of ``new``.

    Tensors are compared by identity, so a step that returns the same leaf wrote nothing there (an empty tuple). Among
    slots, only appended ones count.
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
    """The whole batch repeated ``times`` times: row b becomes the rows b, B + b, 2 B + b, …"""
    return map_leaves(lambda leaf: leaf.repeat(times, *(1,) * (leaf.ndim - 1)), state)


def select(state: Mapping[str, Any], rows: Tensor | slice) -> State:
    """Some rows of the batch: indices [R], a mask [B], or a slice."""
    return map_leaves(lambda leaf: leaf[rows], state)


def concatenate(states: Sequence[Mapping[str, Any]]) -> State | None:
    """The batches of several states concatenated into one state.

    None if they do not fit into one batch: names, shapes or numbers of slots differ.
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
            and getattr(state[name], "dropped", 0) == getattr(like, "dropped", 0)
            and [item.shape[1:] for item in part] == [item.shape[1:] for item in parts[0]]
            for state, part in zip(states, parts, strict=True)
        )
        if not same:
            return None
        joined = [torch.cat(items) for items in zip(*parts, strict=True)]
        whole[name] = Slots(joined, window=like.window, dropped=like.dropped) if isinstance(like, Slots) else joined[0]
    return whole


# States inside states


def join(states: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``{"0": {"hidden": h}}`` becomes ``{"0/hidden": h}``."""
    return {f"{part}/{name}": leaf for part, state in states.items() for name, leaf in state.items()}


def part(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The inverse of ``join``: the leaves under ``name/``; empty if there are none."""
    prefix = f"{name}/"
    return {key.removeprefix(prefix): leaf for key, leaf in state.items() if key.startswith(prefix)}


# Files


def to_plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state as tensors, numbers and dictionaries, for files without classes (``torch.load(weights_only=True)``)."""
    return {
        name: {"slots": leaf.stacked() if len(leaf) else None, "window": leaf.window, "dropped": leaf.dropped}
        if isinstance(leaf, Slots)
        else leaf
        for name, leaf in state.items()
    }


def from_plain(plain: Mapping[str, Any]) -> State:
    """The inverse of ``to_plain``."""
    return {
        name: leaf
        if isinstance(leaf, Tensor)
        else Slots(
            () if leaf["slots"] is None else leaf["slots"].unbind(0),
            window=leaf["window"],
            dropped=leaf.get("dropped", 0),  # files of earlier versions do not say
        )
        for name, leaf in plain.items()
    }


def newest(state: Mapping[str, Any]) -> dict[str, Shaped[Tensor, "B _"]]:
    """Each leaf as one row of values: the flattened tensor, or the newest slot. Empty slots are omitted."""
    last = {name: tensors(leaf)[-1] for name, leaf in state.items() if len(tensors(leaf))}
    return {name: leaf.reshape(len(leaf), -1) for name, leaf in last.items()}
