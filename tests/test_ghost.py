"""The gradients that ghost inputs give at every state equal those of the unrolled steps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seqmem.cells import GRU, LSTM, RNN, State, steps
from seqmem.cells.fused import FusedCell
from seqmem.cells.ghost import scan, scan_back, state_gradients
from seqmem.models.base import loss_per_sequence
from seqmem.models.recurrent import SequenceModel
from seqmem.probes.gradient import gradient_trace
from seqmem.randomness import ambient, generator
from seqmem.tasks import Copy, Pronoun

T, B, D, H = 23, 3, 5, 4
Loss = Callable[[Tensor, State], Tensor]

CELLS: dict[str, Callable[[int], FusedCell]] = {
    "rnn tanh": lambda d: RNN(d, H),
    "rnn relu": lambda d: RNN(d, H, nonlinearity="relu"),
    "lstm": lambda d: LSTM(d, H, forget_bias=1.0),
    "lstm chrono": lambda d: LSTM(d, H, seq_len=T),
    "gru": lambda d: GRU(d, H, forget_bias=1.0),
    "gru chrono": lambda d: GRU(d, H, seq_len=T),
}


def normal(*shape: int, stream: str) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(0, stream))


WEIGHTS = normal(T, B, H, stream="weights of the outputs")
LOSSES: dict[str, Loss] = {
    "all timesteps": lambda outputs, _: (outputs * WEIGHTS).sin().sum(),
    "last only": lambda outputs, _: (outputs[-1] * WEIGHTS[-1]).sin().sum(),
    "one in the middle": lambda outputs, _: (outputs[T // 2] * WEIGHTS[-1]).sin().sum(),
    "final state only": lambda _, final: sum((v.sin() for v in final.values()), torch.zeros(())).sum(),
    "both": lambda outputs, final: (outputs * WEIGHTS).sum() * sum((v.sum() for v in final.values()), torch.ones(())),
}


def by_steps(cell: FusedCell, xs: Tensor, initial: State, loss_of: Loss) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = [x.requires_grad_() for x in xs.clone().unbind(0)]
    outputs, states = [], []
    for output, state in steps(cell, leaves, initial):
        outputs.append(output)
        states.append(state)
    loss = loss_of(torch.stack(outputs), states[-1])
    nodes = [*leaves, *(value for name in initial for value in (state[name] for state in states))]
    gradients = torch.autograd.grad(loss, nodes, materialize_grads=True)
    parts = [torch.stack(gradients[i : i + T]) for i in range(0, len(gradients), T)]
    return parts[0], dict(zip(initial, parts[1:], strict=True))


def cell_named(name: str) -> FusedCell:
    with ambient(0, name):
        return CELLS[name](D).double()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", CELLS)
def test_gradients_equal_those_of_the_steps(name: str, loss: str):
    cell, xs = cell_named(name), normal(T, B, D, stream="xs")
    initial = {key: normal(B, H, stream=key) for key in cell.initial_state(B)}
    to_x, to_states = state_gradients(cell, xs, initial, LOSSES[loss])
    expected_x, expected = by_steps(cell, xs, initial, LOSSES[loss])
    assert expected_x.abs().sum() > 0
    assert to_states.keys() == expected.keys()
    torch.testing.assert_close(to_x, expected_x, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(to_states, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", CELLS)
def test_gradients_equal_those_of_the_steps_with_large_weights(name: str):
    """As after training: saturated gates, and all biases in use."""
    cell, xs = cell_named(name), normal(T, B, D, stream="xs")
    with torch.no_grad():
        for i, parameter in enumerate(cell.parameters()):
            if parameter.requires_grad:
                parameter.add_(normal(*parameter.shape, stream=f"parameter {i}"))
    initial = cell.initial_state(B)
    to_x, to_states = state_gradients(cell, xs, initial, LOSSES["all timesteps"])
    expected_x, expected = by_steps(cell, xs, initial, LOSSES["all timesteps"])
    torch.testing.assert_close(to_x, expected_x, rtol=1e-9, atol=1e-11 * float(expected_x.abs().max()))
    for key, values in expected.items():
        torch.testing.assert_close(to_states[key], values, rtol=1e-9, atol=1e-11 * float(values.abs().max()))


@pytest.mark.parametrize("name", CELLS)
def test_vanished_gradients_keep_their_relative_accuracy(name: str):
    """Over 200 orders of magnitude, as long as float64 does not underflow."""
    cell, seq_len = cell_named(name), 600
    with torch.no_grad():
        cell.weight_hidden.mul_(0.05)
        cell.bias.fill_(1.0)  # with small inputs, so that relu units stay active
    xs, initial = 0.1 * normal(seq_len, B, D, stream="long"), cell.initial_state(B)
    gradients = state_gradients(cell, xs, initial, lambda outputs, _: outputs[-1].sum())[1]
    leaves = list(xs.unbind(0))
    outputs, states = zip(*steps(cell, leaves, {k: v.requires_grad_() for k, v in initial.items()}), strict=True)
    for key, values in gradients.items():
        nodes = [state[key] for state in states]
        expected = torch.stack(torch.autograd.grad(outputs[-1].sum(), nodes, retain_graph=True))
        norms, expected_norms = values.flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1)
        usable = expected_norms > 1e-290
        assert usable.sum() > 50
        torch.testing.assert_close(norms[usable], expected_norms[usable], rtol=1e-10, atol=0)
        assert float(expected_norms[0]) < 1e-60


@pytest.mark.parametrize("name", ["rnn tanh", "lstm chrono", "gru chrono"])
@pytest.mark.parametrize("loss", ["last", "all"])
def test_their_norms_equal_the_gradient_trace(name: str, loss: str):
    task = Pronoun() if loss == "last" else Copy(length=3)
    with ambient(0, "model"):
        model = SequenceModel.for_task(task, CELLS[name], embed_size=6)
    batch = task.sample(B, 15, generator(0, "trace"))
    expected = gradient_trace(model, task, batch, loss=loss)
    model, batch = model.double(), batch.to("cpu", torch.float64)
    batch = batch.last_answer_only() if loss == "last" else batch
    cell = model.cell
    assert isinstance(cell, FusedCell)
    to_x, to_states = state_gradients(
        cell,
        model.embed(batch.inputs),
        cell.initial_state(B),
        lambda outputs, _: loss_per_sequence(task, model.readout(outputs), batch).sum(),
    )
    gradients = {"input": to_x, **to_states}
    assert gradients.keys() == expected.keys()
    for key, norms in expected.items():
        torch.testing.assert_close(gradients[key].norm(dim=-1), norms, rtol=1e-11, atol=1e-15)


def test_the_cell_is_not_modified():
    cell, xs = cell_named("lstm").float(), normal(T, B, D, stream="xs")
    before = {key: value.clone() for key, value in cell.state_dict().items()}
    state = torch.get_rng_state()
    _, gradients = state_gradients(cell, xs, cell.initial_state(B), LOSSES["all timesteps"])
    assert torch.equal(state, torch.get_rng_state())
    assert {values.dtype for values in gradients.values()} == {torch.float64}  # the dtype of xs
    assert all(torch.equal(value, before[key]) for key, value in cell.state_dict().items())
    assert all(p.grad is None for p in cell.parameters())
    assert cell.fused.input_size == D
    assert not xs.requires_grad


def test_the_gru_as_published_is_an_error():
    with pytest.raises(ValueError, match=r"^torch has no fused layer for this form of the cell"):
        state_gradients(
            GRU(D, H, form="cho", seq_len=5), torch.zeros(T, B, D), {"hidden": torch.zeros(B, H)}, LOSSES["last only"]
        )


@pytest.mark.parametrize("seq_len", [1, 2, 3, 4, 5, 9, 10, 17, 100, 101])
def test_a_scan_equals_its_recurrence(seq_len: int):
    keep, add = normal(seq_len, 2, 3, stream="keep").sigmoid(), normal(seq_len, 2, 3, stream="add")
    y, forwards = normal(2, 3, stream="start"), []
    scanned = scan(keep, add, y)
    for t in range(seq_len):
        y = keep[t] * y + add[t]
        forwards.append(y)
    torch.testing.assert_close(scanned, torch.stack(forwards), rtol=1e-13, atol=1e-14)
    y, backwards = torch.zeros(2, 3, dtype=torch.float64), []
    for t in reversed(range(seq_len)):
        y = add[t] + (keep[t + 1] * y if t + 1 < seq_len else 0)
        backwards.append(y)
    torch.testing.assert_close(scan_back(keep, add), torch.stack(backwards).flip(0), rtol=1e-13, atol=1e-14)


def test_a_single_timestep():
    for name in CELLS:
        cell, xs = cell_named(name), normal(1, B, D, stream="xs")
        _, gradients = state_gradients(cell, xs, cell.initial_state(B), lambda outputs, _: outputs.sum())
        torch.testing.assert_close(gradients["hidden"], torch.ones(1, B, H, dtype=torch.float64))
