"""The native kernels of units with many states, S4D's and Mamba's: equal to the equations, timestep by timestep."""

from collections.abc import Callable
from dataclasses import replace
from math import nan

import pytest
import torch
from torch import Tensor

from compilers import needs_kernels
from seqmem.kernels import modes
from seqmem.kernels import selective as selective_kernels
from seqmem.kernels.loading import Library, load
from seqmem.kernels.memory import How
from seqmem.kernels.modes import turning
from seqmem.kernels.selective import convolve, selective
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
    for kernels in (modes, selective_kernels):
        monkeypatch.setattr(kernels, "load", lambda: library)
    return request.param


def turning_by_steps(u: Tensor, parameters: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    h, ys = torch.complex(*start.unbind(1)), []
    a, b, c = (torch.complex(*pair) for pair in parameters.unflatten(0, (3, 2)))
    for x in u:
        h = a * h + b * x[:, None]
        ys.append((c * h).real.sum(1))
    return torch.stack(ys), torch.stack([h.real, h.imag], 1)


def selective_by_steps(
    u: Tensor, select: Tensor, rate: Tensor, decay: Tensor, past: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    h, ys = start, []
    for x in u:
        low, b, c = (x @ select.mT).split([len(rate) - 1, len(decay), len(decay)], dim=-1)
        dt = torch.nn.functional.softplus(low @ rate[:-1] + rate[-1], threshold=1000)
        h = (dt[:, None] * decay).exp() * h + (dt * x)[:, None] * b[..., None]
        ys.append((h * c[..., None]).sum(1) + past * x)
    return torch.stack(ys), h


def drawn(kind: Run, shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[Tensor]:
    steps, batch, hidden, states = shape
    with ambient(0, "modes"):
        u = torch.randn(steps, batch, hidden, dtype=dtype)
        if kind is turning:
            parameters = torch.rand(6, states, hidden, dtype=dtype) - 0.5
            return [u, parameters, torch.randn(batch, 2, states, hidden, dtype=dtype)]
        rank = 1 + hidden // 16
        select, rate = torch.randn(rank + 2 * states, hidden, dtype=dtype), torch.randn(rank + 1, hidden, dtype=dtype)
        decay = -2 * torch.rand(states, hidden, dtype=dtype)
        past, start = torch.randn(hidden, dtype=dtype), torch.randn(batch, states, hidden, dtype=dtype)
        return [0.3 * u, select / hidden**0.5, rate, decay, past, start]


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
            for kernels in (modes, selective_kernels):
                patch.setattr(kernels, "OPERATIONS_PER_CALL", 1)  # calls of one block
            actual = results(lambda *arrays, first=first: kind(*arrays, How(3), first), given)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@needs_kernels
@pytest.mark.parametrize("kind", [turning, selective])
def test_a_nan_stays_in_its_sequence_and_wrong_arguments_are_errors(kind: Run) -> None:
    given = drawn(kind, (6, 3, 9, 2), torch.float32)
    clean, _ = kind(*given, How())
    given[0][2, 1, 4] = nan
    y, _ = kind(*given, How())
    differs = (y != clean).nonzero()
    assert y[2, 1, 4].isnan()
    assert (differs[:, 0] >= 2).all()
    assert (differs[:, 1] == 1).all()
    assert kind is selective or (differs[:, 2] == 4).all()  # of Mamba's every unit, by the rows
    with pytest.raises(ValueError, match=r"(parameters|select) is torch\.float64 of .*: must be torch\.float32 of"):
        kind(given[0], given[1].double(), *given[2:], How())
    with pytest.raises(ValueError, match=r"must be real, \[T B H\], T, N >= 1"):
        kind(given[0][:0], *given[1:], How())
    for first in (-1, 6):
        with pytest.raises(ValueError, match=f"first={first} of 6 timesteps"):
            kind(*given, How(), first)
    leaf = given[0].requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivatives: kernel=step has them"):
        torch.autograd.grad(kind(leaf, *given[1:], How())[0].sum(), leaf, create_graph=True)


@needs_kernels
def test_an_extreme_rate_forgets_everything_or_nothing(isa: str) -> None:
    for dtype in (torch.float32, torch.float64):
        u, none = torch.ones(2, 1, 1, dtype=dtype), torch.zeros(1, dtype=dtype)
        select, start = torch.tensor([[0.0], [1.0], [1.0]], dtype=dtype), torch.full((1, 1, 1), 3.0, dtype=dtype)
        for bias, expected in ((-1e4, 3.0), (1e4, 1e4)):
            rate = torch.tensor([[1.0], [bias]], dtype=dtype)
            y, last = selective(u, select, rate, -u[0], none, start, How())
            assert last.item() == y[-1].item() == expected, (isa, dtype)


def convolved_by_steps(v: Tensor, before: Tensor, taps: Tensor) -> Tensor:
    whole = torch.cat([before, v])
    sums = [(taps[:-1, None] * whole[t : t + len(taps) - 1]).sum(0) for t in range(len(v))]
    return torch.nn.functional.silu(torch.stack(sums) + taps[-1])


@needs_kernels
def test_the_convolution_equals_its_equation_of_rows_and_of_tokens(isa: str) -> None:
    for (steps, batch, hidden, kernel), (dtype, tolerance) in zip(
        [(1, 1, 1, 2), (2, 3, 7, 5), (35, 17, 17, 4), (33, 2, 33, 4)] * 2,
        [(torch.float64, 1e-12)] * 4 + [(torch.float32, 2e-4)] * 4,
        strict=True,
    ):
        rng = torch.Generator().manual_seed(steps)
        table, before, taps = (
            torch.randn(*sizes, hidden, generator=rng, dtype=dtype).requires_grad_()
            for sizes in ((3,), (kernel - 1, batch), (kernel + 1,))
        )
        tokens = torch.randint(3, (steps, batch), generator=rng)
        weights = torch.randn(steps, batch, hidden, generator=rng, dtype=dtype)
        expected = convolved_by_steps(table[tokens], before, taps)
        wanted = torch.autograd.grad((expected * weights).sum(), [table, before, taps])
        for ours in (convolve(tokens, before, taps, How(2), table), convolve(table[tokens], before, taps, How())):
            gradients = torch.autograd.grad((ours * weights).sum(), [table, before, taps])
            for a, b in zip((ours, *gradients), (expected, *wanted), strict=True):
                assert ((a - b).abs() <= tolerance * (1 + b.abs())).all(), (isa, steps, dtype)


@needs_kernels
def test_unknown_tokens_of_a_convolution_are_errors() -> None:
    for token in (-1, 3):
        with pytest.raises(IndexError, match="a token is not from 0 up to 3"):
            convolve(torch.tensor([[token]]), torch.zeros(1, 1, 2), torch.zeros(3, 2), How(), torch.zeros(3, 2))
