"""Recomputing states in the backward pass: same gradients, less memory."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from commandline import forked_code
from seqmem.cells import Cell, State
from seqmem.cells.recompute import recomputed
from seqmem.models.base import trainable
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS, adam
from seqmem.randomness import ambient, generator
from seqmem.tasks import Pronoun, Text
from seqmem.training.loop import train
from seqmem.training.plan import Plan
from seqmem.training.update import update
from small_models import MAKERS, Noisy, a_batch, after_one_update, weights


@pytest.mark.parametrize("every", [1, 4, 11, 100])
@pytest.mark.parametrize("cell", MAKERS)
def test_computing_again_gives_the_same_gradients(cell: str, every: int):
    """Bitwise for a cell that is its steps, noise included; a fused layer adds up its gradients in another order."""
    for name in ("text", "pronoun"):
        task, batch = a_batch(name)
        whole, again = after_one_update(cell, task, batch), after_one_update(cell, task, batch, every=every)
        if cell == "custom":
            assert torch.equal(whole[0], again[0])
            assert all(torch.equal(a, b) for a, b in zip(whole[1], again[1], strict=True))
        torch.testing.assert_close(whole, again, rtol=1e-11, atol=1e-14)


def test_computing_again_goes_with_truncation_and_leaves_the_generator_where_it_was():
    task, batch = a_batch("text")
    whole, again = (after_one_update("custom", task, batch, every=every, tbptt=5) for every in (None, 2))
    assert all(torch.equal(a, b) for a, b in zip(whole[1], again[1], strict=True))
    runs = []
    for every in (None, 3):
        with ambient(0, "weights"):
            model = SequenceModel.for_task(Pronoun(), lambda d: Noisy(d, 6), embed_size=5)
        plan = Plan(12, steps=5, batch_size=8, evaluate_sequences=5, trace_every=0, checkpoint_every_t=every)
        train(model, Pronoun(), adam(trainable(model)), plan)
        runs.append(weights(model))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


class InPlace(Noisy):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        state["clock"].add_(1)
        return super().step(x, state)


class Counting(Noisy):
    steps_taken = 0

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        self.steps_taken += 1
        return super().step(x.relu() if self.steps_taken % 2 else x, state)


@pytest.mark.parametrize(
    ("kind", "message"), [(InPlace, "changes its input or its state in place"), (Counting, "does something else when")]
)
def test_a_cell_that_cannot_be_computed_again_is_told_so(kind: type[Cell], message: str):
    with ambient(0, "weights"):
        model = SequenceModel.for_task(Pronoun(), lambda d: kind(d, 6), embed_size=5)  # pyright: ignore[reportCallIssue]
    plan = Plan(11, steps=1, batch_size=4, evaluate_sequences=5, trace_every=0, checkpoint_every_t=3)
    with pytest.raises(RuntimeError, match=f"^checkpoint_every_t: the cell {message}"):
        train(model, Pronoun(), adam(trainable(model)), plan)


def test_gradients_of_gradients_are_refused_where_steps_are_left_out():
    cell = Noisy(3, 4).eval()
    xs = torch.randn(6, 2, 3, generator=generator(0, "x")).requires_grad_()
    outputs, _ = recomputed(cell, xs, None, 2)
    with pytest.raises(RuntimeError, match="gradients of gradients"):
        torch.autograd.grad(outputs.sum(), xs, create_graph=True)


MEMORY = """\
import resource, sys, torch
from seqmem.cells import GRU
from seqmem.cells import use_kernel
from seqmem.models.base import trainable
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS
from seqmem.tasks import TASKS
from seqmem.training.update import update
torch.set_num_threads(1)
task = TASKS["text"](chunks=1)
batch = task.sample(200, 100, torch.Generator().manual_seed(0))
model = SequenceModel.for_task(task, lambda d: GRU(d, 128, form="cho", forget_bias=1.0), embed_size=4)
use_kernel(model, "step")
parameters = trainable(model)
optimizer = OPTIMIZERS["sgd"](parameters, lr=1e-6)
peaks = []
for every, tbptt in ((None, 5), (5, None), (None, None)):  # from the least on: what is seen is the peak
    model.checkpoint(every)
    update(model, task, optimizer, parameters, batch, None, None, tbptt=tbptt)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform != "darwin" else 1024))
assert "torch._dynamo" not in sys.modules, "torch's compiler takes seconds to import"
assert "sympy" not in sys.modules, "a computer algebra that torch imports takes 35 MB"
print(*peaks)
"""


def test_both_take_less_memory(tmp_path: Path):
    """In MB: the states and gates of a whole sequence are some 125, 20 times those of a segment."""
    # In a process of little memory, as a forked one has at least that: pytest's own has too much.
    actual = forked_code(MEMORY, cwd=tmp_path)
    assert (actual.code, actual.err) == (0, "")
    truncated, again, whole = (float(number) / 1024 for number in actual.out.split())
    print(truncated, again, whole)
    assert truncated < whole - 60
    assert again < whole - 60


def test_computing_again_sees_the_same_precision():
    """The backward pass runs outside of autocast; what it computes again does not."""
    task, seen = Text(chunks=2), []

    class Watching(Noisy):
        def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
            seen.append(self.read(x).dtype)
            return super().step(x, state)

    with ambient(0, "weights"):
        model = SequenceModel.for_task(task, lambda d: Watching(d, 6), embed_size=5)
    model.checkpoint(3)
    parameters = trainable(model)
    batch = task.sample(4, 9, generator(0, "t"))
    update(model, task, OPTIMIZERS["sgd"](parameters, lr=1e-3), parameters, batch, None, None, precision="bf16")
    assert seen == [torch.bfloat16] * 18
