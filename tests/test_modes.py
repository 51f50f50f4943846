"""The native kernels of units with many states, S4D's and Mamba's: equal to the equations, timestep by timestep."""

from collections.abc import Callable
from dataclasses import replace
from math import nan

import pytest
import torch
from torch import Tensor

from compilers import needs_kernels
from seqmem.kernels import modes
from seqmem.kernels.loading import Library, load
from seqmem.kernels.memory import How
from seqmem.kernels.modes import selective, turning
from seqmem.randomness import ambient

LIBRARY = load()
ISAS = LIBRARY.isas if isinstance(LIBRARY, Library) else ()
SHAPES = [(1, 1, 1, 1), (5, 3, 7, 2), (35, 17, 17, 3), (33, 2, 33, 4)]
"""T B H N: below and above vectors of every instruction set, blocks of timesteps, and a batch of two chunks."""
Run = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    assert isinstance(LIBRARY, Library)
    library = replace(LIBRARY, isa=request.param)
    monkeypatch.setattr(modes, "load", lambda: library)
    return request.param


def turning_by_steps(u: Tensor, parameters: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    h, ys = torch.complex(*start.unbind(1)), []
    a, b, c = (torch.complex(*pair) for pair in parameters.unflatten(0, (3, 2)))
    for x in u:
        h = a * h + b * x[:, None]
        ys.append((c * h).real.sum(1))
    return torch.stack(ys), torch.stack([h.real, h.imag], 1)


def selective_by_steps(
    u: Tensor, rate: Tensor, write: Tensor, read: Tensor, decay: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    h, ys = start, []
    for x, dt, b, c in zip(u, rate, write, read, strict=True):
        h = (dt[:, None] * decay).exp() * h + (dt * x)[:, None] * b[..., None]
        ys.append((h * c[..., None]).sum(1))
    return torch.stack(ys), h


def drawn(kind: Run, shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[Tensor]:
    steps, batch, hidden, states = shape
    with ambient(0, "modes"):
        u = torch.randn(steps, batch, hidden, dtype=dtype)
        if kind is turning:
            parameters = torch.rand(6, states, hidden, dtype=dtype) - 0.5
            return [u, parameters, torch.randn(batch, 2, states, hidden, dtype=dtype)]
        write, read = torch.randn(2, steps, batch, states, dtype=dtype)
        decay = -2 * torch.rand(states, hidden, dtype=dtype)
        return [u, torch.rand_like(u), write, read, decay, torch.randn(batch, states, hidden, dtype=dtype)]


def results(run: Run, arrays: list[Tensor]) -> list[Tensor]:
    """The sums, the last states, and the gradients of a random sum of both."""
    leaves = [array.clone().requires_grad_() for array in arrays]
    values = run(*leaves)
    rng = torch.Generator().manual_seed(3)
    weights = [torch.randn(value.shape, generator=rng, dtype=value.dtype) for value in values]
    return [*(v.detach() for v in values), *torch.autograd.grad(_total(values, weights), leaves)]


def _total(values: tuple[Tensor, Tensor], weights: list[Tensor]) -> Tensor:
    return torch.stack([(value * weight).sum() for value, weight in zip(values, weights, strict=True)]).sum()


KINDS: list[tuple[Run, Run]] = [(turning, turning_by_steps), (selective, selective_by_steps)]


@needs_kernels
@pytest.mark.parametrize(("kind", "steps"), KINDS)
def test_a_kernel_equals_its_equations_in_values_and_all_gradients(isa: str, kind: Run, steps: Run) -> None:
    for shape in SHAPES:
        for first in (0, shape[0] - 1):
            for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 3e-4)):
                given = drawn(kind, shape, dtype)

                def looped(*arrays: Tensor, first: int = first) -> tuple[Tensor, Tensor]:
                    y, last = steps(*arrays)
                    return y[first:], last

                actual = results(lambda *arrays, first=first: kind(*arrays, How(), first), given)
                for a, b in zip(actual, results(looped, given), strict=True):
                    assert a.shape == b.shape
                    assert ((a - b).abs() <= tolerance * (1 + b.abs())).all(), (isa, shape, first, dtype)


@needs_kernels
@pytest.mark.parametrize("kind", [turning, selective])
def test_neither_threads_nor_calls_change_a_bit(kind: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given = drawn(kind, (70, 19, 9, 3), torch.float32)
    for first in (0, 40):
        expected = results(lambda *arrays, first=first: kind(*arrays, How(), first), given)
        with monkeypatch.context() as patch:
            patch.setattr(modes, "OPERATIONS_PER_CALL", 1)  # calls of one block
            actual = results(lambda *arrays, first=first: kind(*arrays, How(3), first), given)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@needs_kernels
@pytest.mark.parametrize("kind", [turning, selective])
def test_a_nan_stays_in_its_sequence_and_unit_and_wrong_arguments_are_errors(kind: Run) -> None:
    given = drawn(kind, (6, 3, 9, 2), torch.float32)
    clean, _ = kind(*given, How())
    given[0][2, 1, 4] = nan
    y, _ = kind(*given, How())
    differs = (y != clean).nonzero()
    assert y[2, 1, 4].isnan()
    assert (differs[:, 0] >= 2).all()
    assert (differs[:, 1:] == torch.tensor([1, 4])).all()
    index = 1 if kind is turning else 4
    with pytest.raises(ValueError, match=r"parameters is torch\.float64 of .*: must be torch\.float32 of"):
        kind(*[array.double() if place == index else array for place, array in enumerate(given)], How())
    with pytest.raises(ValueError, match=r"must be real, \[T B H\], T, N >= 1"):
        kind(given[0][:0], *given[1:], How())
    for first in (-1, 6):
        with pytest.raises(ValueError, match=f"first={first} of 6 timesteps"):
            kind(*given, How(), first)
    leaf = given[0].requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivatives: kernel=step has them"):
        torch.autograd.grad(kind(leaf, *given[1:], How())[0].sum(), leaf, create_graph=True)
