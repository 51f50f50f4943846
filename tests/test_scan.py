"""The native kernels of cells with an elementwise, linear state: equal to the equations, timestep by timestep."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compilers import needs_kernels
from seqmem.cells import LRU, RGLRU, RWKV, S4D, Mamba, MinGRU, MinLSTM, use_kernel
from seqmem.cells.native import NativeCell
from seqmem.kernels import scan as scans
from seqmem.kernels.loading import Library, load
from seqmem.kernels.memory import How
from seqmem.kernels.scan import KINDS, scan, scan_of_tokens
from seqmem.randomness import ambient

LIBRARY = load()
ISAS = LIBRARY.isas if isinstance(LIBRARY, Library) else ()
COUNTS = {
    "mingru": (2, 1, 0), "minlstm": (3, 1, 0), "minlstm normalised": (3, 1, 0), "rglru": (3, 1, 1),
    "rotation": (2, 2, 2), "wkv": (3, 3, 2),
}  # fmt: skip
"""Pre-activations, states and parameters per unit."""
SHAPES = [(1, 1, 1), (5, 3, 7), (4, 17, 17), (3, 2, 33)]
"""T B H: below and above vectors of every instruction set, and a batch of two chunks."""


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    assert isinstance(LIBRARY, Library)
    library = replace(LIBRARY, isa=request.param)
    monkeypatch.setattr(scans, "load", lambda: library)
    return request.param


def above_zero(a: Tensor) -> Tensor:
    return torch.where(a >= 0, a + 0.5, a.sigmoid())


def one_step(kind: str, x: tuple[Tensor, ...], s: tuple[Tensor, ...], q: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The new states, then the outputs of those kinds that have other ones."""
    if kind == "mingru":
        z, n = x
        return ((1 - z.sigmoid()) * s[0] + z.sigmoid() * above_zero(n),)
    if kind == "minlstm":
        f, i, n = x
        return (f.sigmoid() * s[0] + i.sigmoid() * above_zero(n),)
    if kind == "minlstm normalised":
        f, i, n = x
        share = F.logsigmoid(f) - F.logsigmoid(i)
        return (share.sigmoid() * s[0] + (-share).sigmoid() * above_zero(n),)
    if kind == "rglru":
        r, i, v = x
        log = q[0] * r.sigmoid()
        return (log.exp() * s[0] + (-torch.expm1(2 * log)).sqrt() * i.sigmoid() * v,)
    if kind == "rotation":
        turned = torch.complex(*s) * torch.complex(*q) + torch.complex(*x)
        return turned.real, turned.imag
    (k, v, r), (a, b, p), (decay, present) = x, s, q
    m = torch.maximum(p, present + k)
    past, now = (p - m).exp(), (present + k - m).exp()
    new = torch.maximum(p - decay, k)
    keep, enter = (p - decay - new).exp(), (k - new).exp()
    return keep * a + enter * v, keep * b + enter, new, r.sigmoid() * (past * a + now * v) / (past * b + now)


def by_steps(kind: str, xs: Tensor, start: Tensor, parameters: Tensor | None) -> tuple[Tensor, Tensor]:
    gates, states, _ = COUNTS[kind]
    outputs, state = [], start.chunk(states, -1)
    q = () if parameters is None else parameters.unbind(0)
    for x in xs.unbind(0):
        state, own = (new := one_step(kind, x.chunk(gates, -1), state, q))[:states], new[states:]
        outputs.append(torch.cat(own or state, -1))
    return torch.stack(outputs), torch.cat(state, -1)


def drawn(kind: str, shape: tuple[int, int, int], lookups: int, dtype: torch.dtype) -> tuple[Any, ...]:
    """Inputs (a table and its tokens, or none), initial state, parameters."""
    (steps, batch, hidden), (gates, states, count) = shape, COUNTS[kind]
    with ambient(0, kind):
        start = torch.rand(batch, states * hidden, dtype=dtype)
        parameters = torch.rand(count, hidden, dtype=dtype) * (-2 if kind == "rglru" else 0.7) if count else None
        if not lookups:
            return 2 * torch.randn(steps, batch, gates * hidden, dtype=dtype), None, start, parameters
        tokens = torch.randint(0, 6, (steps, batch) if lookups == 1 else (steps, batch, lookups))
        return 2 * torch.randn(6, gates * hidden, dtype=dtype), tokens, start, parameters


def results(
    run: Callable[..., Any], rows: Tensor, tokens: Tensor | None, start: Tensor, parameters: Tensor | None
) -> list[Tensor]:
    """Outputs, final state, and the gradients of a random sum of both."""
    leaves = [array.clone().requires_grad_() for array in (rows, start, parameters) if array is not None]
    values = run(leaves[0], tokens, leaves[1], leaves[2] if parameters is not None else None)
    rng = torch.Generator().manual_seed(3)
    weights = [torch.randn(value.shape, generator=rng, dtype=value.dtype) for value in values]
    total = torch.stack([(value * weight).sum() for value, weight in zip(values, weights, strict=True)]).sum()
    return [*(value.detach() for value in values), *torch.autograd.grad(total, leaves)]


def native(kind: str, how: How | None = None) -> Callable[..., Any]:
    def run(rows: Tensor, tokens: Tensor | None, start: Tensor, parameters: Tensor | None) -> tuple[Tensor, ...]:
        if tokens is None:
            return scan(kind, rows, start, parameters, how)
        return scan_of_tokens(kind, tokens, rows, start, parameters, how)

    return run


def looped(kind: str) -> Callable[..., Any]:
    def run(rows: Tensor, tokens: Tensor | None, start: Tensor, parameters: Tensor | None) -> tuple[Tensor, ...]:
        xs = rows if tokens is None else rows[tokens].flatten(2, -2).sum(2) if tokens.ndim == 3 else rows[tokens]
        return by_steps(kind, xs, start, parameters)

    return run


def test_every_kind_is_tested() -> None:
    assert tuple(COUNTS) == KINDS


@needs_kernels
@pytest.mark.parametrize("lookups", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_scan_equals_its_equations_in_values_and_all_gradients(isa: str, kind: str, lookups: int) -> None:
    for shape in SHAPES:
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-4)):
            given = drawn(kind, shape, lookups, dtype)
            for a, b in zip(results(native(kind), *given), results(looped(kind), *given), strict=True):
                assert a.shape == b.shape
                assert ((a - b).abs() <= tolerance * (1 + b.abs())).all(), (isa, shape, dtype)


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_neither_threads_nor_cuts_change_a_bit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for lookups in (0, 1):
        given = drawn(kind, (35, 19, 9), lookups, torch.float32)
        expected = results(native(kind), *given)
        with monkeypatch.context() as patch:
            patch.setattr(scans, "NUMBERS_PER_CALL", 1)  # calls of 16 timesteps
            patch.setattr(scans, "NUMBERS_PER_THREAD", 0)
            actual = results(native(kind, How(threads=3)), *given)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@needs_kernels
def test_gates_that_underflow_and_numbers_that_are_none() -> None:
    """Both gates of minLSTM below the smallest float32: their shares still are those of the equations."""
    xs = torch.tensor([[[-200.0, -203.0, 1.0]], [[-300.0, 5.0, -90.0]], [[200.0, -200.0, 400.0]], [[-inf, 3.0, -inf]]])
    expected, _ = by_steps("minlstm normalised", xs.double(), torch.ones(1, 1).double(), None)
    actual, _ = scan("minlstm normalised", xs, torch.ones(1, 1))
    assert torch.allclose(actual.double(), expected, rtol=1e-6)
    for kind in KINDS:  # a NaN stays in its sequence and its unit
        rows, _, start, parameters = drawn(kind, (6, 3, 9), 0, torch.float32)
        clean, _ = scan(kind, rows, start, parameters)
        rows[2, 1, 4] = nan
        outputs, _ = scan(kind, rows, start, parameters)
        differs = (outputs != clean).nonzero()
        assert outputs[2, 1, 4].isnan()
        assert (differs[:, 0] >= 2).all()
        assert (differs[:, 1] == 1).all()
        assert (differs[:, 2] % 9 == 4).all()


@needs_kernels
def test_wrong_arguments_are_one_clear_error() -> None:
    rows, tokens, start, _ = drawn("mingru", (4, 3, 5), 1, torch.float32)
    xs, two = rows[tokens], drawn("wkv", (4, 3, 5), 2, torch.float32)

    def refused(message: str, function: Callable[..., object], *arguments: object, error: type = ValueError) -> None:
        with pytest.raises(error, match=message):
            inspect.unwrap(function)(*arguments)

    refused("kind='gru': must be one of mingru, minlstm,", scan, "gru", xs, start)
    refused(r"start has the shape \(3, 4\): must be \(3, 5\)", scan, "mingru", xs, start[:, :4])
    refused(r"start has the shape \(2, 5\): must be \(3, 5\)", scan, "mingru", xs, start[:2])
    refused(r"xs has the shape \(4, 3, 9\): must be \(4, 3, 8\)", scan, "mingru", xs[..., :9], start)
    refused(r"xs is torch.float64, start torch.float32", scan, "mingru", xs.double(), start)
    refused(r"inputs have the shape \(0, 3, 10\): must be \[T B G\*H\]", scan, "mingru", xs[:0], start)
    refused(r"start is torch.int64: must be torch.float32 or", scan, "mingru", xs, start.long())
    refused(r"parameters has the shape \(\): must be \(1, 3\)", scan, "rglru", xs[..., :9], start[:, :3])
    refused(r"tokens are torch.int32", scan_of_tokens, "mingru", tokens.int(), rows, start)
    refused(r"must be \[T B\] or \[T B 2\]", scan_of_tokens, "mingru", tokens[..., None], rows, start)
    refused(r"threads=0: must be a whole number", scan, "mingru", xs, start, None, How(threads=0))
    for kind, table, before, parameters, wrong in (
        ("mingru", rows, start, None, tokens + 3), ("mingru", rows, start, None, tokens - 9),
        ("wkv", two[0], two[2], two[3], two[1] + torch.tensor([0, 6])),
    ):  # fmt: skip
        refused(
            "a token is not from 0 up to 6", scan_of_tokens, kind, wrong, table, before, parameters, error=IndexError
        )
    leaf = xs.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivatives: kernel=step has them"):
        torch.autograd.grad(scan("mingru", leaf, start).outputs.sum(), leaf, create_graph=True)


class Halved(MinGRU):
    """A minGRU that writes half as much."""

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = super().parts(x)
        return a, b / 2


class Lessened(MinLSTM):
    def activations(self, x: Tensor) -> Tensor:
        return super().activations(x) - 1


@needs_kernels
@pytest.mark.parametrize("kind", [MinGRU, MinLSTM, Halved, Lessened, RGLRU, LRU, RWKV, S4D, Mamba])
def test_which_cells_a_kernel_computes(kind: type[NativeCell]) -> None:
    """With its name, a kernel is the class's that has the equations: a subclass with others is computed by those."""
    with ambient(0, "kernels"):
        cell = kind(3, 5, **({"forget_bias": 1.0} if issubclass(kind, MinGRU | MinLSTM) else {}))  # pyright: ignore
        tokens, vectors = torch.randint(0, 4, (6, 2)), torch.randn(4, 3)
    assert ("native" in cell.kernels) == (kind not in (Halved, Lessened))
    by_kernel: dict[str, Tensor] = {}
    for kernel in ("auto", "torch", "step"):
        use_kernel(cell, kernel)
        by_kernel[kernel] = cell.forward_tokens(tokens, vectors)[0]
        assert torch.allclose(by_kernel[kernel], by_kernel["auto"], atol=1e-6)
    if kind not in (Halved, Lessened):
        use_kernel(cell, "native")
        assert torch.equal(cell.forward_tokens(tokens, vectors)[0], by_kernel["auto"])
        with pytest.raises(ValueError, match=r"kernel=native: there is no native kernel here for torch\.bfloat16"):
            cell.to(torch.bfloat16)(vectors[tokens].bfloat16())
