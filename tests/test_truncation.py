"""Truncated backpropagation: equal to a loop over timesteps that detaches the state."""

from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor

from seqmem.models.base import loss_per_sequence, trainable
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS
from seqmem.randomness import ambient
from seqmem.tasks import Pronoun, Task, Text
from seqmem.training.loop import train
from seqmem.training.plan import Plan
from seqmem.training.update import segments
from small_models import MAKERS, TBPTT_TASKS, a_batch, after_one_update, fresh, weights

LENGTHS = (1, 3, 4, 10)
PAIRWISE = [(cell, name, LENGTHS[(i + j) % 4]) for i, cell in enumerate(MAKERS) for j, name in enumerate(TBPTT_TASKS)]
"""Every pair of a cell, a task and a length of segments occurs; all triples would be four times as many."""


@pytest.mark.parametrize(("cell", "name"), [*zip(MAKERS, cycle(TBPTT_TASKS), strict=False)])
def test_a_segment_as_long_as_the_batch_changes_nothing(cell: str, name: str):
    task, batch = a_batch(name)
    whole = after_one_update(cell, task, batch)
    for k in (len(batch.weights), 1000):
        cut = after_one_update(cell, task, batch, tbptt=k)
        assert torch.equal(whole[0], cut[0])
        assert all(torch.equal(a, b) for a, b in zip(whole[1], cut[1], strict=True))
        assert all(torch.equal(whole[2][key], cut[2][key]) for key in whole[2])


@pytest.mark.parametrize(("cell", "name", "k"), PAIRWISE)
def test_truncated_gradients_are_those_of_steps_that_are_detached(cell: str, name: str, k: int):
    """The reference: one loop over timesteps, one loss over all of them, cut by detach alone."""
    task, batch = a_batch(name)
    with ambient(0, "weights"):
        model = SequenceModel.for_task(task, MAKERS[cell], embed_size=5).double()
    start = {key: value + 0.1 if value.is_floating_point() else value
             for key, value in model.cell.initial_state(5).items()}  # fmt: skip
    numbers, gradients, final = after_one_update(cell, task, batch, start, tbptt=k, weighted=batch.weighted)
    state, predicted = start, []
    with ambient(0, "noise"):
        for first in range(0, len(batch.weights), k):
            state = {key: value.detach() for key, value in state.items()}
            outputs, state = model.cell(model.embed(batch.inputs[first : first + k]), state)
            predicted.append(model.readout(outputs))
    loss = loss_per_sequence(task, torch.cat(predicted), batch).mean()
    expected = torch.autograd.grad(loss, trainable(model), materialize_grads=True)
    torch.testing.assert_close(gradients, list(expected), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(numbers[0], loss.detach(), rtol=1e-12, atol=0)
    # Tokens that are looked up and tokens that are multiplied differ in their last bits.
    torch.testing.assert_close(final, {key: value.detach() for key, value in state.items()}, rtol=1e-13, atol=1e-15)
    assert not any(value.requires_grad for value in final.values())


def test_no_gradient_crosses_the_border_of_a_segment():
    """What is answered at the end and was read before the last segment cannot be learned from."""
    task, batch = a_batch("pronoun")

    def touched(k: int | None) -> set[int]:
        *_, (embedding, *_), _ = after_one_update("lstm", task, batch, tbptt=k, weighted=batch.weighted)
        return set(embedding.abs().sum(1).nonzero()[:, 0].tolist())

    assert touched(None) == set(batch.inputs.unique().tolist())
    assert touched(4) == set(batch.inputs[8:].unique().tolist())  # segments 0-4, 4-8, 8-11


def test_segments_tell_what_of_them_counts():
    assert list(segments(10, 4, slice(5, 9))) == [(0, 4, slice(0, 0)), (4, 8, slice(1, 4)), (8, 10, slice(0, 1))]
    assert list(segments(10, None, slice(9, 10))) == [(0, 10, slice(9, 10))]
    assert list(segments(4, 2, None)) == [(0, 2, slice(0, 2)), (2, 4, slice(0, 2))]


def test_timesteps_without_weight_are_left_out_of_the_readout_and_change_nothing():
    for name in ("pronoun", "hs97", "copy", "text"):
        task, batch = a_batch(name)
        weighted = batch.weighted
        assert not batch.weights[: weighted.start].any()
        assert not batch.weights[weighted.stop :].any()
        assert batch.weights[weighted.start].any()
        assert batch.weights[weighted.stop - 1].any()
        whole, part = after_one_update("lstm", task, batch), after_one_update("lstm", task, batch, weighted=weighted)
        torch.testing.assert_close(whole[:2], part[:2], rtol=1e-12, atol=1e-15)
    seen: list[tuple[int, ...]] = []

    class Watching(torch.nn.Linear):
        def forward(self, outputs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            seen.append(tuple(outputs.shape[:2]))
            return super().forward(outputs)

    model, task, _ = fresh(Pronoun())
    model.readout = Watching(12, task.targets.size)
    parameters = trainable(model)
    train(model, task, OPTIMIZERS["sgd"](parameters, lr=1e-3), Plan(12, steps=2, batch_size=16, evaluate_sequences=5))
    assert seen.count((1, 16)) == 2
    assert (12, 16) not in seen


def test_truncation_goes_with_carried_states_and_uniform_lengths():
    """The same steps with and without, as long as no segment is shorter than a batch; others where one is."""

    def run(task: Task, **options: Any) -> list[Tensor]:
        model, _, optimizer = fresh(task)
        train(model, task, optimizer, Plan(12, steps=6, batch_size=8, evaluate_sequences=5, trace_every=0, **options))
        return weights(model)

    for task, options in ((Text(chunks=3), {}), (Pronoun(), {"lengths": "uniform"})):
        whole, same, cut = (run(task, tbptt=k, **options) for k in (None, 12, 5))
        assert all(torch.equal(a, b) for a, b in zip(whole, same, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))
        assert all(values.isfinite().all() for values in cut)
