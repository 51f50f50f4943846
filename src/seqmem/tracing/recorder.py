"""Watches the modules of a model while it is trained, and changes nothing about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .attention import AttentionReader
from .calls import Call, Reader
from .cells import CellReader
from .fused import FusedReader
from .losses import TraceError
from .ours import OurReader
from .outputs import NamedReader, TorchrecurrentReader, TransformerReader
from .parts import Part, Untraceable

READERS: tuple[Reader, ...] = (
    FusedReader(), CellReader(), AttentionReader(), OurReader(), TorchrecurrentReader(), TransformerReader(),
)  # fmt: skip

Modules = Sequence[str] | Mapping[str, str | None]

_MOST_NODES = 20_000
"""Nodes of autograd's graph to look through for an earlier call of the same module."""

_in_use: "WeakKeyDictionary[nn.Module, Tap]" = WeakKeyDictionary()


class Tap:
    """The gradient at every timestep of a model, in a training loop of the user's own.

        with Tap(model) as tap:
            loss = criterion(model(x), y)
            loss.backward()
        tap.parts()

    It adds hooks on entering, which read and change nothing, and removes them on leaving. It has the numbers of the
    latest backward pass: a forward pass after that begins anew. Weights are remembered as they were, so that an
    optimizer's step may come before the numbers are read.

    Args:
        model: any module.
        modules: paths of submodules whose output is to be traced, too; or path -> the axes of its output, as ``BTC``.
        kept: copy weights, which may change before the numbers are read.

    Raises:
        TraceError: there is nothing to trace, or another tap is at a module.
    """

    def __init__(self, model: nn.Module, modules: Modules = (), *, kept: bool = True) -> None:
        compiled = next((path for path, module in model.named_modules() if _is_compiled(module)), None)
        if compiled is not None:
            name = f"'{compiled}'" if compiled else "the model"
            raise TraceError(
                f"{name} is compiled, and calls no hooks: give what it was before torch.compile or torch.jit"
            )
        self._modules = dict(_traceable(model, [_named(model, modules), *READERS]))
        if not self._modules:
            raise TraceError(_nothing_recurrent(model))
        self.model, self._copies = model, kept
        self._handles: list[Any] = []
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._weights: list[Tensor] = []  # keeps the ids in ``_kept`` from being used again
        self._start()

    def _start(self) -> None:
        """Forget all calls."""
        self._chains: dict[str, list[list[Call]]] = {path: [] for path in self._modules}
        self._nodes: dict[str, list[list[Any]]] = {path: [] for path in self._modules}
        self._reasons: dict[str, str] = {}
        self.arrived = False
        """Gradients have arrived."""
        self.dtype = torch.float32
        """What the first call computed in."""
        self.called = False
        """A module that is traced was called."""
        self._again = False
        self._twice = False
        self._kept.clear()
        self._weights.clear()

    @property
    def paths(self) -> list[str]:
        """What is traced."""
        return list(self._modules)

    def __enter__(self) -> "Tap":  # noqa: PYI034  (beartype cannot check Self in a method)
        for path, (module, _) in self._modules.items():
            if module in _in_use:
                raise TraceError(
                    f"'{path}' is in use by another tap: leave that one's with block first, or use it for both"
                )
        for path, (module, reader) in self._modules.items():
            _in_use[module] = self
            self._handles.append(module.register_forward_hook(self._hook(path, reader), with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for module, _reader in self._modules.values():
            if _in_use.get(module) is self:
                del _in_use[module]

    def _hook(self, path: str, reader: Reader) -> Callable[..., Any]:
        def called(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
            if _in_backward():  # a checkpoint computes again what has been recorded
                return None
            if not torch.is_grad_enabled():
                self._reasons.setdefault(path, _NO_GRAD)
                return None
            if self.arrived:
                self._start()
            try:
                call = reader.call(module, args, kwargs, output, self._keep if self._copies else Tensor.detach)
            except Untraceable as error:
                self._reasons[path] = str(error)
                return None
            self._reasons.pop(path, None) if self._reasons.get(path) == _NO_GRAD else None
            self._watch(path, call)
            return call.returned

        return called

    def _watch(self, path: str, call: Call) -> None:
        able = {name: value for name, value in call.watched.items() if value.requires_grad}
        if not able:
            self._reasons.setdefault(path, _FROZEN)
            return
        chains, ends = self._chains[path], self._nodes[path]
        place = _continued(call.begins, ends) if call.chained else None
        nodes = [value.grad_fn for value in able.values()]
        if place is None:
            chains.append([call])
            ends.append(nodes)
        else:
            chains[place].append(call)
            ends[place] = nodes
        if not self.called:
            self.dtype = next(iter(able.values())).dtype
        self.called = True
        for name, value in able.items():
            value.register_hook(self._receive(call, name))

    def _receive(self, call: Call, name: str) -> Callable[[Tensor | None], None]:
        def received(gradient: Tensor | None) -> None:
            if gradient is None:  # torch calls hooks of what the loss does not depend on, too
                return
            self.arrived = True
            self._again |= name in call.gradients
            self._twice |= gradient.requires_grad
            call.gradients[name] = gradient.detach().clone()

        return received

    def _keep(self, weight: Tensor) -> Tensor:
        """A copy of a weight, one for all calls that it is used in unchanged."""
        key = id(weight), weight._version  # noqa: SLF001  the only way to see a change in place
        if key not in self._kept:
            self._weights.append(weight)
            self._kept[key] = weight.detach().clone()
        return self._kept[key]

    def sequences(self) -> list[int]:
        """B of every layer, each number once."""
        return sorted({call.sequences for chains in self._chains.values() for calls in chains for call in calls})

    def parts(self) -> tuple[dict[str, Part], dict[str, str]]:
        """(path -> what it received, path -> why it could not be traced), of the latest forward and backward pass.

        Raises:
            TraceError: there was no backward pass, or there were two.
        """
        if self._again:
            raise TraceError(
                "two backward passes went through one forward pass, and their gradients cannot be told apart: add the "
                "losses and call backward once, or read the numbers between the two"
            )
        if self._twice:
            raise TraceError(
                "backward(create_graph=True) differentiates twice, which is not traced: call backward without it"
            )
        parts: dict[str, Part] = {}
        untraced, known = dict(self._reasons), dict(self.model.named_modules())
        for path, chains in self._chains.items():
            for number, calls in enumerate(chains, start=1):
                name = path if number == 1 else f"{path}#{number}"
                own: dict[str, Part] = {}
                try:
                    for t, call in enumerate(calls):
                        call.check_unchanged(t)
                    reached = any(call.gradients for call in calls)
                    reason = "" if reached else _UNREACHED if self.arrived else _NO_BACKWARD
                    own = calls[0].parts(calls) if reached else {}
                except Untraceable as error:
                    reason = str(error)
                if reason and untraced.get(path) != reason:  # the same of many calls is told once
                    untraced[name] = reason
                place = path if path in known else ""  # the model itself goes by the name of its class
                parts |= {f"{name}{suffix}": replace(part, module=place) for suffix, part in own.items()}
            if not chains and path not in untraced:
                untraced[path] = NOT_CALLED
        return parts, untraced


_NO_GRAD = "it ran under torch.no_grad() (or inference mode), where nothing has a gradient: remove that"
_FROZEN = (
    "neither its weights nor what enters it require a gradient: weights.requires_grad_(True), or seqmem.trace, which "
    "does that on its copy"
)
_UNREACHED = "the loss does not depend on it: it is detached on the way, or not used"
_NO_BACKWARD = "no backward pass has come through it yet: call loss.backward() inside the with block"
NOT_CALLED = (
    "the forward pass does not call it as module(x), by which hooks are called (module.forward(x), other methods and "
    "compiled models call none)"
)


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1  # noqa: SLF001  as torch's own multi-grad hooks ask


def _traceable(model: nn.Module, readers: Sequence[Reader]) -> "list[tuple[str, tuple[nn.Module, Reader]]]":
    chosen: list[tuple[str, tuple[nn.Module, Reader]]] = []
    inside: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(f"{outer}.") or outer == "" for outer in inside):
            continue
        reader = next((reader for reader in readers if reader.reads(module)), None)
        if reader is not None:
            chosen.append((path or type(module).__name__, (module, reader)))
            inside += [] if reader.within else [path]
    return chosen


def _named(model: nn.Module, modules: Modules) -> NamedReader:
    """
    Raises:
        TraceError: the model has no such submodule, or the axes are none.
    """
    axes: dict[str, str | None] = dict(modules) if isinstance(modules, Mapping) else dict.fromkeys(modules)
    known = dict(model.named_modules())
    for path, given in axes.items():
        if path not in known:
            close = get_close_matches(path, known, 1, 0.5)
            hint = f" Did you mean '{close[0]}'?" if close else f" It has {', '.join(name for name in known if name)}"
            raise TraceError(f"modules={path!r}: {type(model).__name__} has no such submodule.{hint}")
        if given is not None and (
            "T" not in given or any(given.count(axis) > 1 for axis in "TB") or {*given} - {*"TBC"}
        ):
            raise TraceError(
                f"modules={{{path!r}: {given!r}}}: must be a letter for each axis, T time, B batch, C other, as 'BTC'"
            )
    return NamedReader({known[path]: (path, given) for path, given in axes.items()})


def _is_compiled(module: nn.Module) -> bool:
    script = isinstance(module, torch.jit.ScriptModule)
    return script or type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None  # noqa: SLF001


def _nothing_recurrent(model: nn.Module) -> str:
    names = [path for path, module in model.named_modules() if path and not [*module.children()]]
    return (
        f"{type(model).__name__} has nothing recurrent, no attention and no cell of seqmem's to trace: name a "
        f"submodule whose output is a sequence, as modules={names[-1:] or ['name']}"
    )


def _continued(begins: Sequence[Tensor], ends: Sequence[Sequence[Any]]) -> int | None:
    """Which chain of calls the states come from, by autograd's graph; None: from none."""
    if not ends:
        return None
    place_of = {node: place for place, nodes in enumerate(ends) for node in nodes}
    waiting = [state.grad_fn for state in begins if state.grad_fn is not None]
    seen = set(waiting)
    for node in waiting:  # breadth first: it grows while it is read
        if node in place_of:
            return place_of[node]
        if len(seen) < _MOST_NODES:
            fresh = [
                following for following, _ in node.next_functions if following is not None and following not in seen
            ]
            seen.update(fresh)
            waiting += fresh
    return None
