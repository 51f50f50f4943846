"""Cells with a backward pass by hand: values and gradients of the loop over ``step``."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seqmem.cells import CELLS, State
from seqmem.cells.base import Cell
from seqmem.cells.cornn import CoRNN
from seqmem.cells.lem import LEM
from seqmem.cells.looped import PIECE, LoopedCell
from seqmem.randomness import ambient

MAKERS: dict[str, Callable[[], LoopedCell]] = {
    "lem": lambda: LEM(3, 5, dt=0.3),
    "cornn": lambda: CoRNN(3, 5, dt=0.1, gamma=2.0, epsilon=3.0),
}


def made(name: str, steps: int = 9) -> tuple[LoopedCell, Tensor, State]:
    with ambient(0, "weights"):
        cell = MAKERS[name]().double()
        xs = torch.randn(steps, 4, 3, dtype=torch.float64, requires_grad=True)
        state = {key: torch.randn_like(leaf).requires_grad_() for key, leaf in cell.initial_state(4).items()}
    return cell, xs, state


def results(cell: Cell, xs: Tensor, state: State, at: slice = slice(None)) -> list[Tensor]:
    """Outputs, final states, and the gradients of a function of all of them by inputs, initial states and weights."""
    outputs, final = cell(xs, state)
    loss = outputs[at].sin().sum() + torch.stack([leaf.square().sum() for leaf in final.values()]).sum()
    return [outputs, *final.values(), *torch.autograd.grad(loss, [xs, *state.values(), *cell.parameters()])]


def test_every_such_cell_is_here() -> None:
    assert {name for name, kind in CELLS.items() if issubclass(kind, LoopedCell)} == {*MAKERS}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("at", [slice(None), slice(8, 9), slice(3, 5)], ids=str)
def test_values_and_gradients_are_those_of_steps(name: str, at: slice) -> None:
    cell, xs, state = made(name)
    by_hand = results(cell, xs, state, at)
    cell.use("step")
    torch.testing.assert_close(by_hand, results(cell, xs, state, at), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_arrive_where_only_some_are_asked_for(name: str) -> None:
    """No output, no final state, one timestep; and weights that are frozen."""
    cell, xs, state = made(name, steps=1)
    for alone in (0, 1, 2):  # the outputs, or a final state
        given = []
        for kernel in ("torch", "step"):
            cell.use(kernel)
            outputs, final = cell(xs, state)
            loss = [outputs, *final.values()][alone].sum()
            given.append(torch.autograd.grad(loss, [xs, *state.values()], materialize_grads=True))
        torch.testing.assert_close(given[0], given[1], rtol=1e-12, atol=1e-14)
    cell.requires_grad_(False)
    cell.use("torch")
    outputs, _ = cell(xs.detach(), {key: leaf.detach() for key, leaf in state.items()})
    assert not outputs.requires_grad


@pytest.mark.parametrize("name", MAKERS)
def test_without_gradients_pieces_are_the_whole(name: str) -> None:
    cell, xs, state = made(name, steps=2 * PIECE + 3)
    whole, final = cell(xs, state)
    with torch.no_grad():
        outputs, last = cell(xs, state)
    assert not outputs.requires_grad
    torch.testing.assert_close(outputs, whole.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(last, {key: leaf.detach() for key, leaf in final.items()}, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", MAKERS)
def test_second_derivatives_are_refused_by_hand_and_there_by_steps(name: str) -> None:
    cell, xs, state = made(name, steps=3)
    with pytest.raises(RuntimeError, match=r"no second derivatives: loop over its step, or use kernel=step$"):
        torch.autograd.grad(cell(xs, state)[0].sum(), xs, create_graph=True)
    cell.use("step")
    (first,) = torch.autograd.grad(cell(xs, state)[0].sum(), xs, create_graph=True)
    assert torch.autograd.grad(first.square().sum(), xs)[0].abs().sum() > 0


class Halved(LEM):
    """A step of its own: nothing that was written for LEM's holds."""

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return super().step(0.5 * x, state)


def test_a_subclass_with_a_step_of_its_own_is_computed_by_it() -> None:
    with ambient(0, "weights"):
        cell, xs = Halved(3, 5), torch.randn(4, 2, 3)
        plain = LEM(3, 5)
    plain.load_state_dict(cell.state_dict())
    assert cell.walks
    torch.testing.assert_close(cell(xs)[0], plain(0.5 * xs)[0])


def test_half_precision_is_left_to_autocast() -> None:
    with ambient(0, "weights"):
        cell, xs = LEM(3, 5), torch.randn(4, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        by_itself, _ = cell(xs)
        cell.use("step")
        assert torch.equal(by_itself, cell(xs)[0])
