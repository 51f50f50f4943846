"""An update or an evaluation creates no tensor on the CPU when the model is on another device.

Here is no accelerator. Tensors that say they are elsewhere compute on the CPU, and refuse operations on tensors of two
devices, as CUDA does, and sync points such as reading a number. (torch's own fake tensors notice the same, in ten times
the time.)
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seqmem.cells import Cell
from seqmem.cells.ghost import state_gradients
from seqmem.cells.state import Slots, leaves
from seqmem.models.base import loss_per_sequence, score_per_sequence, trainable
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS
from seqmem.randomness import generator
from seqmem.signals import Batch
from seqmem.tasks import TASKS, Adding, Task
from seqmem.training.omega import Omega
from seqmem.training.update import update
from small_models import ONE_OF_EACH_TASK, Noisy
from test_cells import MAKERS

ELSEWHERE = torch.device("meta")
"""torch has no other name for a device that is not there."""

_ATEN = torch.ops.aten
COPIES = {_ATEN._to_copy.default, _ATEN.copy_.default}
SYNC_POINTS = {_ATEN._local_scalar_dense.default, _ATEN.nonzero.default, _ATEN.masked_select.default}


class There(Tensor):
    """A tensor that says it is elsewhere; ``here`` has its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "There":  # noqa: PYI034  (pyright knows no Self of what torch makes)
        there: There = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=ELSEWHERE
        )
        there.here = here
        return there

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute here what is asked of tensors there. A number on the CPU may meet any tensor, as with CUDA."""
        kwargs = dict(kwargs or {})
        given = list(tensors_in([*args, *kwargs.values()]))
        if func in SYNC_POINTS and given:
            raise RuntimeError(f"{func} is a sync point")
        to = kwargs.get("device")
        if to is not None:
            kwargs["device"] = "cpu"
        elsewhere = {isinstance(tensor, There) for tensor in given if tensor.ndim or isinstance(tensor, There)}
        if len(elsewhere) > 1 and func not in COPIES:
            raise RuntimeError(f"{func}: not all tensors are on the same device")
        made = func(*map(inner, args), **{name: inner(value) for name, value in kwargs.items()})
        stays = True in elsewhere if to is None else torch.device(to) == ELSEWHERE
        if func._schema.is_mutable:  # in place, or into a tensor that was given
            return None if made is None else kwargs.get("out", args[0])
        return outer(made) if stays else made


def inner(value: Any) -> Any:
    if isinstance(value, There):
        return value.here
    return type(value)(map(inner, value)) if isinstance(value, list | tuple) else value


def outer(value: Any) -> Any:
    if isinstance(value, Tensor):
        return There(value)
    return type(value)(map(outer, value)) if isinstance(value, list | tuple) else value


class Elsewhere(TorchDispatchMode):
    """Makes tensors there where ``device`` says so."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to turn torch's compiler off for it imports the compiler, for three seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return There.__torch_dispatch__(func, types, args, kwargs)


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def devices_of(tensors: Iterable[Tensor | None]) -> set[str]:
    return {str(tensor.device) for tensor in tensors if tensor is not None}


def batch_of(task: Task) -> Batch:
    """Its last timesteps, drawn on the CPU: elsewhere nothing is left of them but shapes and types."""
    whole = task.sample(2, task.min_seq_len + 2, generator(0, "t"))
    return whole.part(len(whole.asked) - 3, len(whole.asked))


def moved(batch: Batch) -> Batch:
    return Batch(*map(There, vars(batch).values()))


def moved_module(module: Any) -> Any:
    """``module.to`` gives parameters other data, which cannot be of another kind."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(There(value.detach()), requires_grad=value.requires_grad)
        for name, value in part._buffers.items():
            part._buffers[name] = None if value is None else There(value)
        if isinstance(part, torch.nn.RNNBase):
            part._flat_weights = [part._parameters[name] for name in part._flat_weights_names]
    return module


def alone(make: Callable[[int], Cell]) -> set[str]:
    """The devices of a cell: at the start of a sequence, with a state that was carried, evaluated, and by a step."""
    cell = moved_module(make(3))
    with Elsewhere():
        xs = torch.zeros(2, 2, 3, device=ELSEWHERE)
        outputs, state = cell(xs)
        values = [*outputs, *leaves(state)]
        outputs, state = cell.eval()(xs, state)
        output, state = cell.step(xs[0], state)
        values += [*outputs, output, *leaves(state)]
        total = torch.stack([value.sum() for value in values if value.is_floating_point()]).sum()
        gradients = torch.autograd.grad(total, trainable(cell), allow_unused=True)
    return devices_of([*values, *gradients])


def everything(make: Callable[[int], Cell], task: Task, batch: Batch) -> set[str]:
    """The devices of an update in each of its ways, and of an evaluation."""
    model = moved_module(SequenceModel.for_task(task, make, embed_size=3))
    parameters = trainable(model)
    optimizer = OPTIMIZERS["rmsprop"](parameters)
    with Elsewhere():
        whole, state = update(model, task, optimizer, parameters, batch, None, 1.0, weighted=slice(1, 2))
        tensors = [whole, *leaves(state)]
        cut, state = update(model, task, optimizer, parameters, batch, state, None, tbptt=2)
        tensors += [cut, *leaves(state)]
        if not any(isinstance(leaf, Slots) for leaf in model.initial_state(1).values()):
            penalised, _ = update(model, task, optimizer, parameters, batch, None, None, omega=Omega(model, 1.0))
            tensors.append(penalised)
        model.checkpoint(2)
        again, state = update(model, task, optimizer, parameters, batch, None, None)
        tensors += [again, *leaves(state)]
        with torch.no_grad():
            predicted, state = model.eval()(batch.inputs)
            tensors += [loss_per_sequence(task, predicted, batch), score_per_sequence(task, predicted, batch)]
        tensors += [batch.answered_at, batch.last_answer_only().weights, *leaves(state)]
    return devices_of([*tensors, *(parameter.grad for parameter in parameters)])


@pytest.mark.parametrize("cell", MAKERS)
def test_a_cell_stays_on_the_device(cell: str) -> None:
    assert alone(MAKERS[cell]) == {"meta"}


KINDS: dict[object, list[str]] = defaultdict(list)
"""What trains and evaluates knows of a cell is how it looks tokens up and answers where it is asked -> such cells."""
for name, make in MAKERS.items():
    KINDS[type(make(3)).forward_tokens, type(make(3)).forward_at].append(name)

CELLS_OF = {
    "pronoun": [*(names[0] for names in KINDS.values()), "stack with attention"],
    "adding": [*(names[-1] for names in KINDS.values()), "stack with attention"],
}
"""With tokens and with numbers a cell of each kind, and a stack of vectors and slots; other kinds of tasks with one
cell."""


@pytest.mark.parametrize(
    ("task", "cell"), [(task, cell) for task in ONE_OF_EACH_TASK for cell in CELLS_OF.get(task, ["lstm"])]
)
def test_a_whole_update_and_an_evaluation_stay_on_the_device(task: str, cell: str) -> None:
    made = TASKS[task]()
    assert everything(MAKERS[cell], made, moved(batch_of(made))) == {"meta"}


@pytest.mark.parametrize("task", CELLS_OF)
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_a_trace_stays_on_the_device(task: str, cell: str) -> None:
    made = TASKS[task]()
    model, batch = moved_module(SequenceModel.for_task(made, MAKERS[cell], embed_size=3)), moved(batch_of(made))
    with Elsewhere():
        xs, initial = model.embed(batch.inputs), model.cell.initial_state(batch.weights.shape[1])
        to_x, to_states = state_gradients(model.cell, xs, initial, lambda outputs, _: model.readout(outputs).sum())
    assert devices_of([to_x, *to_states.values()]) == {"meta"}


def test_what_is_elsewhere_is_noticed() -> None:
    """The check itself works: a batch of which one part stayed, a clock that a cell makes on the CPU, a sync point."""
    task = TASKS["pronoun"]()
    here = batch_of(task)
    there = moved(here)
    for name in ("inputs", "targets", "weights"):
        with pytest.raises(RuntimeError, match="the same device"):
            everything(MAKERS["lstm"], task, replace(there, **{name: getattr(here, name)}))
    with pytest.raises(RuntimeError, match="the same device"):
        everything(lambda d: Noisy(d, 4), task, there)
    with pytest.raises(RuntimeError, match="the same device"):
        alone(lambda d: Noisy(d, 4))
    with pytest.raises(RuntimeError, match="is a sync point"):
        there.weighted  # noqa: B018
    with pytest.raises(RuntimeError, match="is a sync point"):
        there.weights.sum().item()


def test_a_batch_on_the_right_device_is_not_copied() -> None:
    """Unless the dtype changes, the tensors are the same objects."""
    batch = Adding().sample(4, 9, generator(0, "t"))
    same, wider = batch.to("cpu", torch.float32), batch.to("cpu", torch.float64)
    for name, value in vars(batch).items():
        assert getattr(same, name) is value
        assert (getattr(wider, name).dtype == torch.float64) == value.is_floating_point()


def test_a_batch_goes_to_a_gpu_by_page_locked_memory_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record the calls to torch, as there is no GPU here."""
    calls: list[tuple[str, object]] = []
    real = torch.Tensor.to

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        assert tensor.is_contiguous()
        calls.append(("pinned", tensor.dtype))
        return tensor

    def to(tensor: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        if args and isinstance(args[0], torch.device):
            calls.append(("to", options.get("non_blocking")))
            return tensor
        return real(tensor, *args, **options)  # pyright: ignore

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.Tensor, "to", to)
    Adding().sample(4, 9, generator(0, "t")).to(torch.device("cuda", 0), torch.float64)
    kinds = [torch.float64, torch.float64, torch.float64, torch.bool]
    assert calls == [entry for kind in kinds for entry in (("pinned", kind), ("to", True))]
