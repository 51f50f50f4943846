"""Between two log lines the training loop asks the device for no number: it has no GPU sync point.

Here is no GPU: tensors count as on the device if they are the model's, the optimizer's, a batch that was moved there,
or computed from such tensors. A function mode follows them, and records every call that needs their values.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from seqmem.cells import CELLS, Cell, use_kernel
from seqmem.models.base import trainable
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS
from seqmem.randomness import ambient
from seqmem.signals import Batch
from seqmem.tasks import TASKS
from seqmem.training.loop import train
from seqmem.training.plan import Plan
from seqmem.training.update import update

READS = {
    *("item", "tolist", "numpy", "cpu", "is_nonzero", "equal", "allclose", "nonzero", "unique", "masked_select"),
    *("__bool__", "__int__", "__float__", "__index__", "__array__", "__contains__", "__repr__", "__format__"),
}


@dataclass
class Device(TorchFunctionMode):
    """``steps``: after which updates values were read; ``inside``: within which."""

    moment: str = "before"
    step: int = 0
    reads: list[tuple[str, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._here: dict[int, Tensor] = {}  # by id; held, so that no id is used twice

    def place(self, tensors: Sequence[Tensor]) -> None:
        self._here.update((id(tensor), tensor) for tensor in tensors)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(id(tensor) in self._here for tensor in tensors_in([args, kwargs])):
            name = getattr(func, "__name__", str(func))
            if name in READS or (name == "__getitem__" and any(one.dtype == torch.bool for one in tensors_in(args[1]))):
                self.reads.append((self.moment, self.step, name))
            self.place(list(tensors_in(result)))
        return result


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)


def watched(plan: Plan, cell: str, task: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> Device:
    """Train on the device."""
    made, device = TASKS[task](), Device()
    options: dict[str, Any] = {} if cell == "rnn" else {"seq_len": plan.seq_len}
    kind: Callable[..., Cell] = CELLS[cell]
    with ambient(0, "weights"):
        model = SequenceModel.for_task(made, lambda width: kind(width, 4, **options), embed_size=4)
    use_kernel(model, "torch")

    real = Batch.to

    def to(batch: Batch, *where: Any) -> Batch:
        copy = Batch(*(tensor.clone() for tensor in vars(real(batch, *where)).values()))
        device.place(list(vars(copy).values()))
        return copy

    def updating(*arguments: Any, **options: Any) -> Any:
        device.moment, device.step = "inside", device.step + 1
        return update(*arguments, **options)

    def asked_to_stop() -> bool:
        device.moment = "after"
        return False

    monkeypatch.setattr(Batch, "to", to)
    monkeypatch.setattr("seqmem.training.loop.update", updating)
    device.place([*model.parameters(), *model.buffers()])
    with device:
        train(model, made, OPTIMIZERS[optimizer](trainable(model)), plan, stop_requested=asked_to_stop)
    return device


@pytest.mark.parametrize(
    ("cell", "task", "optimizer", "omega"),
    [
        ("lstm", "pronoun", "adam", None), ("gru", "adding", "rmsprop", 1.0), ("rnn", "text", "sgd", None),
        ("lstm", "copy", "adamw", None),
    ],
)  # fmt: skip
def test_no_update_waits_for_its_numbers(
    cell: str, task: str, optimizer: str, omega: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(
        40, steps=11, batch_size=2, log_every=4, evaluate_every=6, evaluate_sequences=2, evaluate_lengths=(40,),
        trace_every=9, trace_sequences=2, checkpoint_every=7, omega=omega,
    )  # fmt: skip
    device = watched(plan, cell, task, optimizer, monkeypatch)
    assert device.step == plan.steps
    assert [read for read in device.reads if read[0] == "inside"] == []
    # Where something is due values are read: log 4 8, evaluate 6, checkpoint 7, answers 5, trace 9, and all at the end.
    assert {step for moment, step, _ in device.reads if moment == "after"} == {4, 5, 6, 7, 8, 9, 11}


class Peeking(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            float(parameter.grad.norm())
        return super().step(closure)


def test_a_read_inside_an_update_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "peeking", Peeking)
    plan = Plan(12, steps=2, batch_size=2, evaluate_sequences=2, evaluate_lengths=(12,), trace_every=0)
    device = watched(plan, "rnn", "pronoun", "peeking", monkeypatch)
    assert {read[:2] for read in device.reads if read[0] == "inside"} == {("inside", 1), ("inside", 2)}
