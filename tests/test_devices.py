"""An update or an evaluation creates no tensor on the CPU when the model is on another device.

torch's meta device does not notice most mixing of devices. These tests fake an accelerator instead: torch's spare
backend under a name of its own, with fake tensors only. It computes nothing, but refuses operations on tensors of two
devices as CUDA does, and refuses sync points such as reading a number. It runs in a separate process, because a backend
stays registered with torch.
"""

import json
from pathlib import Path

import pytest
import torch

from commandline import forked_code
from seqmem.cells import CELLS
from seqmem.randomness import generator
from seqmem.tasks import TASKS, Adding

EVERYWHERE = '''\
import json
import sys
from dataclasses import replace
from itertools import cycle

import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from seqmem.cells import GRU, Cell
from seqmem.cells.ghost import state_gradients
from seqmem.cells.state import leaves
from seqmem.models.base import loss_per_sequence, score_per_sequence, trainable
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS
from seqmem.signals import Batch
from seqmem.tasks import TASKS
from seqmem.training.update import update
from small_models import Noisy
from test_cells import MAKERS

_setup_privateuseone_for_python_backend("elsewhere")
DEVICE = torch.device("elsewhere:0")


def elsewhere(tensor):
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=DEVICE)


def moved(model):
    """Move a model; module.to does not work with fake tensors."""
    for part in model.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(elsewhere(value), requires_grad=value.requires_grad)
        for name, value in part._buffers.items():
            part._buffers[name] = elsewhere(value)
        if isinstance(part, torch.nn.RNNBase):
            part._flat_weights = [part._parameters[name] for name in part._flat_weights_names]
        # Use steps: torch's gru has no fake kernel off the CPU.
        if isinstance(part, GRU):
            part.kernel = "step"
    return model


def devices_of(tensors):
    return {str(tensor.device) for tensor in tensors if tensor is not None}


def alone(make):
    """The devices of a cell: at the start of a sequence, with a state that was carried, evaluated, and by a step."""
    cell = moved(make(3))
    xs = elsewhere(torch.empty(2, 2, 3))
    outputs, state = cell(xs)
    values = [*outputs, *leaves(state)]
    outputs, state = cell.eval()(xs, state)
    output, state = cell.step(xs[0], state)
    values += [*outputs, output, *leaves(state)]
    total = sum(value.sum() for value in values if value.is_floating_point())
    return devices_of([*values, *torch.autograd.grad(total, trainable(cell), allow_unused=True)])


def everything(make, task, batch, ways=range(3)):
    """The devices of an evaluation, and of an update in each of three ways."""
    model = moved(SequenceModel.for_task(task, make, embed_size=3))
    parameters = trainable(model)
    optimizer = OPTIMIZERS["rmsprop"](parameters)
    state, tensors = None, []
    if 0 in ways:
        numbers, state = update(model, task, optimizer, parameters, batch, None, 1.0, weighted=slice(1, 2))
        tensors += [numbers, *leaves(state)]
    if 1 in ways:
        numbers, state = update(model, task, optimizer, parameters, batch, state, None, tbptt=2)
        tensors += [numbers, *leaves(state)]
    if 2 in ways:
        model.checkpoint(2)
        numbers, state = update(model, task, optimizer, parameters, batch, None, None)
        tensors += [numbers, *leaves(state)]
    with torch.no_grad():
        predicted, state = model.eval()(batch.inputs)
        tensors += [loss_per_sequence(task, predicted, batch), score_per_sequence(task, predicted, batch)]
    tensors += [batch.answered_at, batch.last_answer_only().weights, *leaves(state)]
    return devices_of([*tensors, *(parameter.grad for parameter in parameters)])


def traced(make, task, batch):
    model = moved(SequenceModel.for_task(task, make, embed_size=3))
    xs, initial = model.embed(batch.inputs), model.cell.initial_state(batch.weights.shape[1])
    to_x, to_states = state_gradients(model.cell, xs, initial, lambda outputs, _: model.readout(outputs).sum())
    return devices_of([to_x, *to_states.values()])


def check_refused(run, kind, message):
    try:
        run()
    except kind as error:
        assert message in str(error), error
        return
    raise SystemExit(f"{kind.__name__} was expected")


# What trains and evaluates knows of a cell that it may look tokens up itself, and what its state is made of: each class
# that does, and a stack of vectors and slots, in every way with tokens, and in one with numbers; other tasks in one.
kinds = {type(make(3)): name for name, make in MAKERS.items()}
fused = [name for kind, name in kinds.items() if kind.forward_tokens is not Cell.forward_tokens]
cells = dict.fromkeys(("pronoun", "adding"), [*dict.fromkeys((*fused, "stack with attention"))])
counts = {"alone": 0, **dict.fromkeys(TASKS, 0)}
with FakeTensorMode():
    for name, make in MAKERS.items():
        devices = alone(make)
        assert devices == {"elsewhere:0"}, (name, devices)
        counts["alone"] += 1
    ways = cycle(range(3))
    for name, tensors in sorted(json.loads(sys.argv[1]).items()):
        task = TASKS[name]()
        fake = Batch(*(torch.empty(shape, dtype=getattr(torch, dtype)) for shape, dtype in tensors))
        there = Batch(*(elsewhere(tensor) for tensor in vars(fake).values()))
        for cell in cells.get(name, ["lstm"]):
            devices = everything(MAKERS[cell], task, there, range(3) if name == "pronoun" else [next(ways)])
            assert devices == {"elsewhere:0"}, (cell, name, devices)
            counts[name] += 1
        if name in cells:
            for cell in ("rnn", "lstm"):
                assert traced(MAKERS[cell], task, there) == {"elsewhere:0"}, (cell, name)
        if name == "pronoun":  # the check itself works
            stray = lambda d: Noisy(d, 4)  # makes its clock on the CPU, wherever the model is
            for field in ("inputs", "targets", "weights"):
                mixed = replace(there, **{field: getattr(fake, field)})
                check_refused(lambda: everything(MAKERS["lstm"], task, mixed), RuntimeError, "the same device")
            check_refused(lambda: everything(stray, task, there), RuntimeError, "the same device")
            check_refused(lambda: alone(stray), RuntimeError, "the same device")
            check_refused(lambda: there.weighted, DynamicOutputShapeException, "")
print(json.dumps(counts))
'''


def test_every_cell_and_a_whole_update_and_evaluation_stay_on_the_device() -> None:
    """Batches are drawn here: fake tensors have nothing of them but shapes and types."""
    batches = {}
    for name, kind in TASKS.items():
        whole = kind().sample(2, kind().min_seq_len + 2, generator(0, "t"))
        batch = whole.part(len(whole.asked) - 3, len(whole.asked))  # each operation takes a fifth of a millisecond
        batches[name] = [
            (list(values.shape), str(values.dtype).removeprefix("torch.")) for values in vars(batch).values()
        ]
    completed = forked_code(EVERYWHERE, json.dumps(batches), cwd=Path(__file__).parent)
    assert completed.code == 0, completed.err[-3000:]
    counts = json.loads(completed.out)
    assert counts.pop("alone") >= len(CELLS)
    assert counts.keys() == TASKS.keys()
    assert all(counts.values())


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
