"""The gradient at every timestep of a model, on a float64 copy: nothing in the user's training changes.

Axes: T time, B batch.
"""

import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

from ..models.base import parameter_count
from ..nn.start import remember_
from ..randomness import ambient, undisturbed
from .advice import MANY, advised
from .losses import Of, Propagated, Reduction, TraceError, propagated
from .model_trace import ModelTrace
from .parts import Part
from .recorder import NOT_CALLED, Modules, Tap
from .spans import cut, spans_of


def trace_model(
    model: Any,
    loss_fn: Any,
    batch: Any,
    *,
    of: Of = None,
    reduction: Reduction | None = None,
    modules: Modules = (),
    lengths: Any = None,
    loss_axes: str | None = None,
    dtype: torch.dtype = torch.float64,
) -> ModelTrace:
    """See ``seqmem.trace``.

    Raises:
        TraceError: the model, its loss or its batch cannot be traced: why, and what instead.
    """
    if not isinstance(model, nn.Module):
        raise TraceError(f"model is {type(model).__name__}, no torch.nn.Module")
    if not callable(loss_fn):
        raise TraceError(
            f"loss_fn is {type(loss_fn).__name__}: give a function of (model, batch) that returns the loss"
        )
    if loss_axes not in (None, "TB", "BT"):
        raise TraceError(f"loss_axes={loss_axes!r}: must be 'TB' or 'BT', the axes of losses of all timesteps")
    lasts = None if lengths is None or isinstance(lengths, Mapping) else spans_of(lengths).ends - 1
    if dtype not in (torch.float64, torch.float32):
        raise TraceError(f"dtype={dtype}: must be torch.float64 or torch.float32")
    with undisturbed(), _computing_in(dtype), Tap(twin := _copy(model, dtype), modules, kept=False) as tap:
        with _explained(dtype, tap):
            returned = loss_fn(twin, _converted(batch, dtype))
        if tap.arrived:
            raise TraceError(
                "loss_fn differentiates by itself (backward, or a gradient penalty), and what is differentiated twice "
                "is not traced: return the loss alone"
            )
        if isinstance(returned, Tensor) and returned.requires_grad and not tap.called:
            raise TraceError(_nothing(tap.parts()[1], tap))
        chosen = propagated(returned, of, tap.sequences(), reduction, axes=loss_axes, lasts=lasts)
        with _explained(dtype, tap):
            chosen.total.backward()
        tap.arrived = True
        parts, untraced = tap.parts()
    if not parts:
        raise TraceError(_nothing(untraced, tap))
    parts, padding = (parts, []) if lengths is None else cut(parts, lengths)
    if chosen.scale == "batch":
        parts = _own(parts)
    losses = None if chosen.losses is None else chosen.losses.double().cpu().numpy()
    loss = chosen.total.item() if losses is None else float(losses.mean())
    loss = loss / tap.sequences()[-1] if losses is None and chosen.scale == "one" else loss
    notes = [*padding, *_notes(parts, chosen), *_zeros(parts, dtype)]
    about = type(getattr(model, "_orig_mod", model)).__name__, parameter_count(model), str(chosen.total.device), loss
    return ModelTrace(parts, untraced, chosen.of, notes, losses, _name(dtype), *about)


def with_advice_tried(trace: ModelTrace, model: nn.Module, loss_fn: Any, batch: Any, **options: Any) -> ModelTrace:
    """The trace, which then knows what following its ``advice`` does: measured on a copy; ``options`` of
    ``trace_model``."""
    advice = advised(trace.parts, {path: decays["state"] for path, decays in trace.decays().items()})
    if advice is None:
        return trace
    twin = _uncompiled(deepcopy(model))
    with ambient(0, "initial values that are tried"):
        for path in advice.modules:
            remember_(twin.get_submodule(path), advice.steps)
    after = trace_model(twin, loss_fn, batch, **options)
    return replace(trace, tried={path: decays["state"] for path, decays in after.decays().items()})


def tapped_trace(tap: Tap, reduction: Reduction | None) -> ModelTrace:
    """What a tap in the user's own loop has received.

    Raises:
        TraceError: it has received nothing, or what cannot be told apart.
    """
    parts, untraced = tap.parts()
    if not parts:
        raise TraceError(_nothing(untraced, tap))
    parts = _own(parts) if reduction == "mean" else parts
    words = {"mean": "the mean loss, times the batch size", "sum": "the summed loss", None: "the loss as it was"}
    notes = [*_entering(parts), *_zeros(parts, tap.dtype)]
    about = type(tap.model).__name__, parameter_count(tap.model), str(next(tap.model.parameters()).device), None
    return ModelTrace(parts, untraced, words[reduction], notes, None, _name(tap.dtype), *about)


def _own(parts: Mapping[str, Part]) -> dict[str, Part]:
    """The parts of the mean loss over sequences, with norms of each sequence's own loss."""
    return {
        path: replace(part, norms={name: values * len(part.lengths) for name, values in part.norms.items()})
        for path, part in parts.items()
    }


def _nothing(untraced: Mapping[str, str], tap: Tap) -> str:
    path, reason = next(iter(untraced.items()))
    if not tap.called and {*untraced.values()} == {NOT_CALLED}:
        return (
            "none of the modules that can be traced was called: loss_fn must use the model that it is given (a copy), "
            "not another one, and the model calls its modules, module(x), not module.forward(x) or another method; "
            f"these are {', '.join(tap.paths)}"
        )
    more = f" (and {len(untraced) - 1} more)" if len(untraced) > 1 else ""
    return f"nothing could be traced: {path}{more}: {reason}"


def _notes(parts: Mapping[str, Part], chosen: Propagated) -> list[str]:
    notes = []
    if chosen.scale == "unknown":
        notes.append(
            "the loss is one number, and it is not seen how it was made of the sequences' losses: norms are those of "
            "the number as returned (a mean makes each 1/B of its sequence's own); reduction= says which, or return [B]"
        )
    return [*notes, *_entering(parts)]


def _entering(parts: Mapping[str, Part]) -> list[str]:
    """Where the loss reaches every layer at many timesteps by itself."""
    share = min(part.entered for part in parts.values())
    if share <= MANY:
        return []
    text = (
        f"fresh gradient enters at {100 * share:.0f} % of the timesteps before the answer or more, so no decay can be "
        "seen: where the loss adds up timesteps, return those of all, [T, B] or [B, T], and one of them is propagated "
        "(of='last'); where the model pools or attends over all timesteps, or feeds outputs back, gradient reaches "
        "them without the layer's recurrence"
    )
    return [text]


def _zeros(parts: Mapping[str, Part], dtype: torch.dtype) -> list[str]:
    """Where gradients are too small for the dtype: a zero there is no number."""
    if dtype == torch.float64:
        return []
    places = [path for path, part in parts.items() if (part.trace.state[: part.trace.answered_at.min() + 1] == 0).any()]
    least = "1e-45" if dtype == torch.float32 else "1e-7"
    where = ", ".join(places)
    return [f"gradients below {least} are zero in {_name(dtype)} ({where}): seqmem.trace has them"] if places else []


# The copy


def _copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """In eval mode, with every weight trainable, not compiled."""
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(value):
            raise TraceError(f"'{name}' has no size yet: call the model once, as model(x), before it is traced")
        if value.is_meta:
            raise TraceError(f"'{name}' is on the meta device, which has no numbers: make the model on a real one")
    try:
        twin = deepcopy(model)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise TraceError(
            f"the model cannot be copied ({type(error).__name__}: {reason}): trace it in your own loop, with seqmem.tap"
        ) from error
    twin = _uncompiled(twin).eval()
    try:
        twin = twin.double() if dtype == torch.float64 else twin.float()
    except (TypeError, RuntimeError) as error:
        raise TraceError(f"the model's device has no {_name(dtype)}: model.cpu(), or dtype=torch.float32") from error
    for module in twin.modules():
        for name, value in list(vars(module).items()):  # a table that is no buffer
            if isinstance(value, Tensor) and value.is_floating_point() and not isinstance(value, nn.Parameter):
                setattr(module, name, value.to(dtype))
        if isinstance(module, nn.RNNBase) and any(p.is_cuda for p in module.parameters()):
            module.dropout = 0.0  # as in eval mode, in which cuDNN has no backward pass
            module.train()
    for parameter in twin.parameters():
        parameter.grad = None
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return twin


def _uncompiled(model: nn.Module) -> nn.Module:
    """The modules inside torch.compile's, which calls no hooks."""
    model = getattr(model, "_orig_mod", model)
    for module in model.modules():
        module._compiled_call_impl = None  # noqa: SLF001  what Module.compile() sets
        for name, child in module.named_children():
            if type(child).__name__ == "OptimizedModule":
                setattr(module, name, child._orig_mod)  # noqa: SLF001
    return model


def _converted(value: Any, dtype: torch.dtype) -> Any:
    """A batch with its real numbers in ``dtype``, in the containers that it came in."""
    if isinstance(value, Tensor):
        value = value.clone() if value.is_inference() else value.detach() if value.requires_grad else value
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, PackedSequence):
        return value._replace(data=_converted(value.data, dtype)) if value.data.is_floating_point() else value
    if isinstance(value, Mapping):
        changed = {key: _converted(inner, dtype) for key, inner in value.items()}
        try:
            return type(value)(changed)  # pyright: ignore[reportCallIssue]
        except TypeError:
            return changed
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_converted(inner, dtype) for inner in value))
    if isinstance(value, list | tuple):
        return type(value)(_converted(inner, dtype) for inner in value)
    if is_dataclass(value) and not isinstance(value, type):
        named = [field.name for field in fields(value) if field.init]
        return replace(value, **{name: _converted(getattr(value, name), dtype) for name in named})
    return value


@contextmanager
def _computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Gradients are recorded, whatever is around, and what the model makes by itself (zeros) has the dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _explained(dtype: torch.dtype, tap: Tap) -> Iterator[None]:
    """In one line: errors of the user's code that come from the copy's dtype, from two devices or from changes in
    place."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if isinstance(error, TraceError):
            raise
        text = " ".join(str(error).split())
        where = _place(error)
        if re.search(r"same device|expected device|is on (cpu|cuda|mps|meta)", text):
            line = f"{where}tensors on two devices: move the batch to the model's (x.to(device)) first: {text}"
        elif "inplace operation" in text or "in-place" in text:
            line = (
                f"{where}a state is changed in place, and its gradient is lost: make a new tensor (h = h * m): {text}"
            )
        elif re.search(r"second time", text):
            line = f"{where}loss_fn must not call backward: it returns the loss"
        elif dtype == torch.float64 and re.search(r"dtype|scalar type|Double|double", text):
            line = (
                f"{where}the copy computes in float64, and the model or loss_fn makes something in another dtype: take "
                f"it from what is there (x.new_zeros(...), .to(x.dtype)), or trace with dtype=torch.float32: {text}"
            )
            if not tap.called:  # the model itself, in float32
                line += " (loss_fn must use the model that it is given, a copy)"
        else:
            raise
        raise TraceError(line) from error


def _place(error: BaseException) -> str:
    """``model.py:31: `` of the innermost line that is the user's."""
    inside = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(inside)]
    frames = [frame for frame in frames if not frame.filename.endswith("contextlib.py")]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: " if frames else ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
