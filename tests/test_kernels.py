"""The native kernels: equal to ``step``, bitwise independent of threads and cuts, safe with fork and signals.

scripts/test builds them if there is a compiler. Without one, cells run on torch's kernels, and only the tests of that
case run.
"""

import copy
import hashlib
import inspect
import multiprocessing
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from math import inf, nan
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import _neg_view as _negated  # pyright: ignore[reportPrivateImportUsage]
from torch._subclasses.fake_tensor import FakeTensorMode

from compilers import needs_kernels
from seqmem.cells import GRU, LSTM, RNN, Cell, FusedCell, State, steps, use_kernel
from seqmem.kernels import functions
from seqmem.kernels.build import BuildError, find_compiler
from seqmem.kernels.functions import KINDS, Tapped, linear_recurrence, recurrence
from seqmem.kernels.loading import Library, load
from seqmem.kernels.memory import Memory
from seqmem.randomness import ambient

LIBRARY = load()
ISAS = LIBRARY.isas if isinstance(LIBRARY, Library) else ()

MAKERS: dict[str, Callable[[int, int], FusedCell]] = {
    "rnn tanh": lambda d, h: RNN(d, h),
    "rnn relu": lambda d, h: RNN(d, h, nonlinearity="relu"),
    "lstm": lambda d, h: LSTM(d, h, seq_len=20),
    "gru torch": lambda d, h: GRU(d, h, seq_len=20),
    "gru cho": lambda d, h: GRU(d, h, seq_len=20, form="cho"),
}
SHAPES = [(7, 3, 5, 4), (20, 33, 9, 21), (9, 20, 32, 64), (1, 1, 1, 1), (5, 16, 17, 129), (33, 50, 1, 16)]
"""T B D H: below, at and above the sizes of vectors, tiles and chunks."""


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set of this processor in turn."""
    assert isinstance(LIBRARY, Library)
    library = replace(LIBRARY, isa=request.param)
    monkeypatch.setattr(functions, "load", lambda: library)
    return request.param


def make(kind: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[FusedCell, Tensor, State]:
    steps, batch, features, hidden = shape
    with ambient(0, kind):
        cell = MAKERS[kind](features, hidden).to(dtype)
        xs = torch.randn(steps, batch, features, dtype=dtype)
        state = {name: torch.randn(batch, hidden, dtype=dtype) for name in cell.initial_state(batch)}
    return cell, xs, state


def results(cell: Cell, xs: Tensor, state: State) -> list[Tensor]:
    """Outputs, final states, and the gradients of a random sum of them by inputs, initial states and weights."""
    xs = xs.detach().requires_grad_()
    state = {name: value.detach().requires_grad_() for name, value in state.items()}
    outputs, final = cell(xs, state)
    values = [outputs, *final.values()]
    rng = torch.Generator().manual_seed(3)
    weights = [torch.randn(value.shape, generator=rng, dtype=value.dtype) for value in values]
    arguments = [xs, *state.values(), *(p for p in cell.parameters() if p.requires_grad)]
    return [*(v.detach() for v in values), *torch.autograd.grad(values, arguments, weights)]


def same(actual: list[Tensor], expected: list[Tensor]) -> bool:
    return len(actual) == len(expected) and all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_with_a_compiler_there_are_kernels() -> None:
    """Otherwise most tests below would be skipped silently."""
    try:
        find_compiler()
    except BuildError:
        return
    assert ISAS, LIBRARY


def test_every_kind_has_a_maker() -> None:
    assert set(MAKERS) == set(KINDS)


@cache
def by_steps(kind: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[Tensor]:
    """What every instruction set must give."""
    cell, xs, state = make(kind, shape, dtype)
    use_kernel(cell, "step")
    return results(cell, xs, state)


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=["f64", "f32"])
def test_a_kernel_equals_its_step_in_values_states_and_all_gradients(
    isa: str, kind: str, shape: tuple[int, int, int, int], dtype: torch.dtype, tolerance: float
) -> None:
    cell, xs, state = make(kind, shape, dtype)
    use_kernel(cell, "native")
    actual = results(cell, xs, state)
    for a, b in zip(actual, by_steps(kind, shape, dtype), strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max())), isa
    if shape != (1, 1, 1, 1):  # a single rectified unit may be inactive
        assert all(value.abs().sum() > 0 for value in actual)


BATCHES = (1, 16, 40, 70)
"""Below, at and above the sequences of one chunk, and several chunks."""


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("half", [0, 1])
def test_bits_are_independent_of_threads_and_cuts(
    isa: str, kind: str, half: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind with every batch for the best instruction set; the others take turns, two batches each."""
    place = ISAS.index(isa)
    turn = 2 * half + (list(MAKERS).index(kind) + place) % 2
    for batch in BATCHES[2 * half : 2 * half + 2] if place == 0 else BATCHES[turn : turn + 1]:
        with monkeypatch.context() as patch:
            check_bits(isa, kind, batch, patch)


def check_bits(isa: str, kind: str, batch: int, patch: pytest.MonkeyPatch) -> None:
    cell, xs, state = make(kind, (37, batch, 6, 24), torch.float32)
    use_kernel(cell, "native")
    whole = results(cell, xs, state)
    patch.setattr(functions, "OPERATIONS_PER_THREAD", 0.0)  # use all threads even for little work
    for threads in (2, 3, 100):
        use_kernel(cell, "native", threads)
        assert same(results(cell, xs, state), whole), (isa, threads)
    for every in (1, 5, 36, 37, 1000):
        use_kernel(cell, "native", 2, checkpoint_every_t=every)
        assert same(results(cell, xs, state), whole), (isa, every)
    patch.setattr(functions, "OPERATIONS_PER_CALL", 1.0)  # 16 timesteps per call, the minimum
    use_kernel(cell, "native")
    assert same(results(cell, xs, state), whole), isa


@needs_kernels
def test_all_threads_flush_denormals_if_the_caller_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "OPERATIONS_PER_THREAD", 0.0)
    cell, xs, state = make("rnn tanh", (60, 64, 4, 16), torch.float32)
    with torch.no_grad():
        cell.weight_hidden.mul_(0.05)  # the gradient falls below 1e-38 after some 30 timesteps
    tapped = Tapped("rnn tanh", xs, state, cell.weight_input, cell.weight_hidden, cell.bias, threads=4)
    gradients = {}
    for flush in (False, True):
        torch.set_flush_denormal(flush)
        try:
            tapped.forward()
            _, norms = tapped.backward(None, {"hidden": torch.ones(64, 16)})
        finally:
            torch.set_flush_denormal(False)
        tiny = (norms["hidden"] != 0) & (norms["hidden"] < torch.finfo(torch.float32).tiny)
        gradients[flush] = tiny.any(dim=0)
    assert gradients[False].all()  # in all sequences, whichever thread computes them
    assert not gradients[True].any()


@dataclass(frozen=True)
class Unrolled:
    """A cell over tokens with these vectors, a loss, and the norms of its gradients through the loop of steps."""

    cell: FusedCell
    state: State
    tokens: Tensor
    vectors: Tensor
    weight: Tensor
    last: State
    expected: dict[str, Tensor]


@cache
def unrolled(kind: str, features: int, hidden: int) -> Unrolled:
    cell, _, state = make(kind, (12, 19, features, hidden), torch.float64)
    rng = torch.Generator().manual_seed(5)
    vectors = torch.randn(9, features, dtype=torch.float64, generator=rng)
    tokens = torch.randint(9, (12, 19), generator=rng)
    weight = torch.randn(12, 19, hidden, dtype=torch.float64, generator=rng)
    last = {name: torch.randn(19, hidden, dtype=torch.float64, generator=rng) for name in state}

    inputs = list(vectors[tokens].requires_grad_().unbind(0))
    series: dict[str, list[Tensor]] = {"input": inputs} | {name: [] for name in state}
    outs = []
    for output, new in steps(cell, inputs, state):
        outs.append(output)
        for name, value in new.items():
            series[name].append(value)
    total = (torch.stack(outs) * weight).sum() + sum((series[name][-1] * end).sum() for name, end in last.items())
    expected = {
        name: torch.stack(torch.autograd.grad(total, values, retain_graph=True)).norm(dim=-1)
        for name, values in series.items()
    }
    return Unrolled(cell, state, tokens, vectors, weight, last, expected)


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_tapped_norms_equal_those_of_the_unrolled_gradients(isa: str, kind: str) -> None:
    """At every input and state; for real numbers and tokens, saved and recomputed activations, and several sizes."""
    for features, hidden in ((3, 20), (11, 7), (40, 33)):
        by = unrolled(kind, features, hidden)
        weights = by.cell.weight_input, by.cell.weight_hidden, by.cell.bias
        norms = []
        for read, table in ((by.vectors[by.tokens], None), (by.tokens, by.vectors)):
            for every in (None, 5):
                tapped = Tapped(kind, read, by.state, *weights, vectors=table, checkpoint_every_t=every, threads=2)
                tapped.forward()
                at_input, at_states = tapped.backward(by.weight, by.last)
                norms.append({"input": at_input, **at_states})
                torch.testing.assert_close(norms[-1], by.expected, rtol=1e-11, atol=1e-12)
        assert same(list(norms[0].values()), list(norms[1].values()))
        assert same(list(norms[2].values()), list(norms[3].values()))


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_are_accurate_where_squares_would_underflow_or_overflow(isa: str, dtype: torch.dtype) -> None:
    """A relu rnn with identity weights and without inputs passes a gradient back unchanged."""
    cell, xs, state = make("rnn relu", (3, 1, 1, 21), dtype)
    with torch.no_grad():
        cell.weight_hidden.copy_(torch.eye(21))
        cell.weight_input.zero_()
        cell.bias.zero_()
    start = {"hidden": torch.ones_like(state["hidden"])}
    tapped = Tapped("rnn relu", xs, start, cell.weight_input, cell.weight_hidden, cell.bias)
    tapped.forward()
    gradient = torch.zeros(1, 21, dtype=dtype)
    gradient[0, ::20] = torch.tensor([3.0, 4.0], dtype=dtype)  # includes the last lane of the last vector
    info = torch.finfo(dtype)
    for scale in (1.0, info.tiny, info.tiny * 2**-10, info.tiny**0.5, info.max / 16, info.max**0.5):
        _, norms = tapped.backward(None, {"hidden": gradient * scale})
        torch.testing.assert_close(norms["hidden"], torch.full((3, 1), 5 * scale, dtype=dtype), rtol=1e-3, atol=0)
    for value, expected in ((0.0, 0.0), (inf, inf), (nan, nan)):
        _, norms = tapped.backward(None, {"hidden": torch.full_like(gradient, value)})
        torch.testing.assert_close(norms["hidden"][-1], torch.tensor([expected], dtype=dtype), equal_nan=True)


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=["f64", "f32"])
def test_looked_up_tokens_equal_multiplied_vectors(
    isa: str, kind: str, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functions, "OPERATIONS_PER_THREAD", 0.0)
    cell, _, state = make(kind, (21, 37, 5, 20), dtype)
    rng = torch.Generator().manual_seed(4)
    vectors = torch.randn(13, 5, dtype=dtype, generator=rng).requires_grad_()
    tokens = torch.randint(13, (21, 37), generator=rng)
    weight = torch.randn(21, 37, 20, dtype=dtype, generator=rng)
    arguments = [vectors, *(p for p in cell.parameters() if p.requires_grad)]

    def with_gradients(outputs: Tensor, final: State) -> list[Tensor]:
        total = (outputs * weight).sum() + sum(value.square().sum() for value in final.values())
        return [outputs.detach(), *(v.detach() for v in final.values()), *torch.autograd.grad(total, arguments)]

    looked_up = with_gradients(*cell.forward_tokens(tokens, vectors, state))
    use_kernel(cell, "native", 3, checkpoint_every_t=4)
    assert same(with_gradients(*cell.forward_tokens(tokens, vectors, state)), looked_up), isa
    use_kernel(cell, "step")
    for a, b in zip(looked_up, with_gradients(*cell.forward_tokens(tokens, vectors, state)), strict=True):
        assert (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max())), isa


@needs_kernels
def test_a_token_outside_its_vocabulary_is_an_error() -> None:
    cell, _, state = make("lstm", (9, 20, 5, 8), torch.float32)
    vectors = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    for wrong in (-1, 7):
        tokens = torch.zeros(9, 20, dtype=torch.int64)
        tokens[8, 19] = wrong
        use_kernel(cell, "native", 2)
        with pytest.raises(IndexError, match="a token is not from 0 up to 7, the size of its vocabulary"):
            cell.forward_tokens(tokens, vectors, state)


def test_mismatched_sizes_are_an_error_before_any_memory_is_read() -> None:
    cell, xs, state = make("lstm", (4, 3, 2, 5), torch.float32)
    weights = (cell.weight_input, cell.weight_hidden, cell.bias)
    start = list(state.values())

    def refused(message: str, *arguments: object, function: Callable[..., object] = recurrence) -> None:
        with pytest.raises(ValueError, match=message):
            unchecked(function)(*arguments)

    refused(r"xs has the shape \(4, 3, 1\): must be \(4, 3, 2\)", "lstm", xs[..., :1], start, *weights)
    refused(r"inputs have the shape \(0, 3, 2\): must be \[T B D\], at least one", "lstm", xs[:0], start, *weights)
    refused(r"inputs have the shape \(4, 3\)", "lstm", xs[..., 0], start, *weights)
    refused(r"start has the shape \(2, 5\): must be \(3, 5\)", "lstm", xs, [s[:2] for s in start], *weights)
    refused("start has 1 states: lstm has 2", "lstm", xs, start[:1], *weights)
    refused(r"weight_hidden has the shape \(20, 5\): must be \(15, 5\)", "gru cho", xs, start[:1], *weights)
    refused(r"bias has the shape \(19,\): must be \(20,\)", "lstm", xs, start, *weights[:2], cell.bias[:19])
    refused(r"xs is torch.float64, weight_hidden torch.float32", "lstm", xs.double(), start, *weights)
    tokens, vectors = torch.zeros(4, 3, dtype=torch.int64), torch.zeros(7, 2)

    def refused_tokens(message: str, tokens: Tensor, vectors: Tensor) -> None:
        refused(message, "lstm", tokens, vectors, start, *weights, function=functions.recurrence_of_tokens)

    refused_tokens(r"vectors has the shape \(7, 1\): must be \(7, 2\)", tokens, vectors[:, :1])
    refused_tokens(r"vectors is torch.float64, weight_hidden torch.float32", tokens, vectors.double())
    refused_tokens("tokens are torch.int32: must be", tokens.int(), vectors)
    refused_tokens(r"inputs have the shape \(4, 3, 1\): must be \[T B\]", tokens[..., None], vectors)

    def refused_tapped(message: str, inputs: Tensor, vectors: Tensor | None, start: State = state) -> None:
        with pytest.raises(ValueError, match=message):
            unchecked(Tapped.__init__)(Tapped.__new__(Tapped), "lstm", inputs, start, *weights, vectors=vectors)

    refused_tapped(r"xs has the shape \(4, 3, 1\): must be \(4, 3, 2\)", xs[..., :1], None)
    refused_tapped(r"vectors has the shape \(7, 1\): must be \(7, 2\)", tokens, vectors[:, :1])
    refused_tapped(r"inputs have the shape \(4, 3\)", tokens, None)
    refused_tapped("start has 1 states: lstm has 2", xs, None, {"hidden": start[0]})
    refused_tapped("tokens are torch.float32: must be", xs[..., 0], vectors)
    of_reals, of_tokens = (
        Tapped("lstm", inputs, state, *weights, vectors=table) for inputs, table in ((xs, None), (tokens, vectors))
    )
    wrong, backward = torch.empty(4, 3, 1), unchecked(Tapped.backward)
    for message, outputs, to_inputs in (
        (r"outputs is torch.float32 of the shape \(4, 3, 1\): must be torch.float32 of \(4, 3, 5\)", wrong, None),
        ("outputs is torch.float64", of_reals.outputs.double(), None),
        (r"to_inputs is torch.float32 of the shape \(4, 3, 1\): must be", None, wrong),
        ("to_inputs must be contiguous", None, torch.empty(3, 4, 2).transpose(0, 1)),
    ):
        with pytest.raises(ValueError, match=message):
            backward(of_reals, outputs, {}, to_inputs=to_inputs)
    with pytest.raises(ValueError, match="to_inputs is"):
        backward(of_tokens, None, {}, to_inputs=torch.empty(4, 3, 2))
    refused(r"a, b and start have the shapes", xs, xs[:3], xs[0], function=linear_recurrence)


def negated(array: Tensor) -> Tensor:
    """``array`` as a view whose numbers have the other sign in memory, as a conjugate's imaginary part has."""
    view = torch.complex(torch.zeros_like(array), -array).conj().imag
    assert view.is_neg()
    return view


@needs_kernels
def test_a_negated_view_is_read_with_its_sign() -> None:
    """A contiguous one too: torch then returns the view itself as its contiguous form."""
    cell, xs, state = make("lstm", (5, 3, 4, 8), torch.float64)
    for view in (negated, lambda array: _negated(-array)):
        use_kernel(cell, "native")
        with torch.no_grad():
            expected = cell(xs, state)[0]
            assert torch.equal(cell(view(xs), {name: view(value) for name, value in state.items()})[0], expected)
            weights = [view(array) for array in (cell.weight_input, cell.weight_hidden, cell.bias)]
            assert torch.equal(recurrence("lstm", view(xs), list(state.values()), *weights)[0], expected)
            tapped = Tapped("lstm", view(xs), state, *weights)
            tapped.forward()
            assert torch.equal(tapped.outputs, expected)
        gate = torch.sigmoid(xs)
        assert torch.equal(
            linear_recurrence(view(gate), view(xs), view(xs[0])), linear_recurrence(gate, xs, xs[0])
        )  # fmt: skip
    leaf = xs.clone().requires_grad_()
    outputs, _ = cell(leaf, state)
    (expected,) = torch.autograd.grad(outputs, leaf, torch.ones_like(outputs), retain_graph=True)
    (by_view,) = torch.autograd.grad(outputs, leaf, _negated(-torch.ones_like(outputs)))
    assert torch.equal(by_view, expected)


@needs_kernels
def test_a_transposed_initial_state_is_traced_as_its_copy() -> None:
    """The buffers that carry a gradient back are laid out as the kernels read them, not as the state is."""
    cell, xs, state = make("lstm", (5, 3, 4, 8), torch.float64)
    weights = cell.weight_input, cell.weight_hidden, cell.bias
    norms = []
    for start in (state, {name: value.t().contiguous().t() for name, value in state.items()}):
        tapped = Tapped("lstm", xs, start, *weights)
        tapped.forward()
        with torch.no_grad():
            norms.append(tapped.backward(torch.ones_like(tapped.outputs), {"cell": xs.new_ones(3, 8).cumsum(1)})[1])
    assert all(torch.equal(norms[0][name], norms[1][name]) for name in state)


@needs_kernels
def test_tensors_without_memory_on_the_cpu_are_an_error_before_a_pointer_is_followed() -> None:
    cell, xs, state = make("lstm", (4, 3, 2, 5), torch.float32)
    inputs = [xs, *state.values(), cell.weight_input, cell.weight_hidden, cell.bias]
    freed = xs.clone()
    freed.untyped_storage().resize_(0)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(xs)
    broken = [
        [array.to("meta") if which == place else array for place, array in enumerate(inputs)] for which in range(6)
    ]
    broken += [[array.to("meta") for array in inputs], [freed, *inputs[1:]], [fake, *inputs[1:]]]
    for xs_, h, c, *weights in broken:
        with pytest.raises(ValueError, match=r"dense tensors on the CPU: this is a .*Tensor|Parameter of the shape"):
            unchecked(recurrence)("lstm", xs_.detach(), [h, c], *(weight.detach() for weight in weights))
    tapped = Tapped("lstm", xs, state, *inputs[3:])
    tapped.forward()
    for gradients in ((torch.empty(4, 3, 5, device="meta"), {}), (None, {"cell": torch.empty(3, 5, device="meta")})):
        with pytest.raises(ValueError, match="is on meta: native kernels compute on the CPU"):
            unchecked(Tapped.backward)(tapped, *gradients)
    with pytest.raises(
        ValueError, match=r"cell is torch.float32 of the shape \(1, 5\): must be torch.float32 of \(3, 5\)"
    ):
        unchecked(Tapped.backward)(tapped, None, {"cell": torch.ones(1, 5)})
    on_meta = [array.to("meta") for array in inputs]
    assert not functions.supports(*on_meta)
    assert linear_recurrence(*(xs.to("meta") for xs in (xs, xs, xs[0]))).is_meta  # by torch


@needs_kernels
def test_the_pool_refuses_a_dtype_without_kernels_and_more_memory_than_there_is() -> None:
    with pytest.raises(ValueError, match=r"16 numbers of torch\.float16"):
        Memory().take(16, torch.float16)
    with pytest.raises(MemoryError, match=r"no memory for 1\.15e"):
        Memory().take(1 << 57, torch.float64)


@needs_kernels
@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True, None, 1 << 64], ids=str)
def test_a_number_of_threads_that_is_none_is_an_error(threads: Any) -> None:
    cell, xs, state = make("gru cho", (4, 3, 2, 5), torch.float32)
    arguments = xs, [*state.values()], cell.weight_input, cell.weight_hidden, cell.bias
    with pytest.raises(ValueError, match=r"threads=.*: must be a whole number from 1 on"):
        unchecked(recurrence)("gru cho", *arguments, threads=threads)
    if threads is not None:
        with pytest.raises(ValueError, match=r"checkpoint_every_t=.*: must be a whole number from 1 on"):
            unchecked(recurrence)("gru cho", *arguments, checkpoint_every_t=threads)
    with pytest.raises(ValueError, match="kind='gru': must be one of rnn tanh, rnn relu, lstm, gru torch, gru cho"):
        unchecked(recurrence)("gru", *arguments)


def unchecked(function: Callable[..., object]) -> Callable[..., object]:
    """The function as users call it, without the shape checks that are active in tests only."""
    return inspect.unwrap(function)


@needs_kernels
def test_an_empty_batch_gives_empty_results() -> None:
    cell, xs, state = make("gru torch", (4, 3, 2, 5), torch.float32)
    use_kernel(cell, "native")
    outputs, final = cell(xs[:, :0], {"hidden": state["hidden"][:0]})
    assert outputs.shape == (4, 0, 5)
    assert final["hidden"].shape == (0, 5)


@needs_kernels
def test_a_second_derivative_is_an_error_that_names_kernel_step() -> None:
    cell, xs, state = make("lstm", (4, 3, 2, 5), torch.float64)
    use_kernel(cell, "native")
    outputs, _ = cell(xs.requires_grad_(), state)
    with pytest.raises(RuntimeError, match="no second derivatives: kernel=step has them"):
        torch.autograd.grad(outputs.sum(), xs, create_graph=True)
    a = torch.rand(4, 3).requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(linear_recurrence(a, a, torch.zeros(3)).sum(), a, create_graph=True)
    use_kernel(cell, "step")
    outputs, _ = cell(xs, state)
    (first,) = torch.autograd.grad(outputs.sum(), xs, create_graph=True)
    assert torch.autograd.grad(first.sum(), xs)[0].abs().sum() > 0


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_a_retained_graph_survives_another_pass_in_between(kind: str) -> None:
    cell, xs, state = make(kind, (9, 6, 3, 18), torch.float32)
    use_kernel(cell, "native")
    xs.requires_grad_()
    outputs, _ = cell(xs, state)
    first = torch.autograd.grad(outputs.sum(), [xs, cell.weight_hidden], retain_graph=True)
    other, _ = cell(xs * 2, state)  # must not reuse the buffers that the first graph still needs
    torch.autograd.grad(other.sum(), xs)
    second = torch.autograd.grad(outputs.sum(), [xs, cell.weight_hidden])
    assert same(list(first), list(second))


@needs_kernels
@pytest.mark.parametrize("which", [0, 1], ids=["sigmoid", "tanh"])
@pytest.mark.parametrize(("dtype", "ulps"), [(torch.float32, 4), (torch.float64, 4)], ids=["f32", "f64"])
def test_nonlinearities_are_within_a_few_units_in_the_last_place(
    isa: str, which: int, dtype: torch.dtype, ulps: float
) -> None:
    x, expected, unit = exactly(which, dtype)
    error = np.abs(nonlinearity(isa, which, x).numpy().astype(np.longdouble) - expected)
    assert float((error / unit).max()) <= ulps, isa


@cache
def exactly(which: int, dtype: torch.dtype) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """(arguments, values, units in the last place) by numpy's longdouble, which is much faster than mpmath."""
    small = torch.logspace(-30, 0, 20_001, dtype=torch.float64)
    x = torch.cat([torch.linspace(-80, 80, 200_001, dtype=torch.float64), small, -small]).to(dtype)
    exact = x.numpy().astype(np.longdouble)
    expected = np.tanh(exact) if which else 1 / (1 + np.exp(-exact))
    unit = np.maximum(np.spacing(np.abs(expected).astype(x.numpy().dtype)), np.finfo(x.numpy().dtype).tiny)
    return x, expected, unit


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_nonlinearities_at_infinity_and_nan(isa: str, dtype: torch.dtype) -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([0.0, inf, -inf, 1e30, -1e30, nan], dtype=dtype)
    tanh, sigmoid = nonlinearity(isa, 1, x), nonlinearity(isa, 0, x)
    assert tanh[:5].tolist() == [0, 1, -1, 1, -1]
    assert sigmoid[:2].tolist() == [0.5, 1]
    assert (sigmoid[[2, 4]] < 1e-37).all()
    assert tanh[5].isnan()
    assert sigmoid[5].isnan()


def nonlinearity(isa: str, which: int, x: Tensor) -> Tensor:
    import ctypes

    assert isinstance(LIBRARY, Library)
    y = torch.empty_like(x)
    suffix = "f32" if x.dtype == torch.float32 else "f64"
    function = replace(LIBRARY, isa=isa).function("seqmem_nonlinearity", suffix)
    function(ctypes.c_int64(which), ctypes.c_int64(len(x)), *(ctypes.c_void_p(t.data_ptr()) for t in (x, y)))
    return y


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_propagates_within_its_sequence(kind: str) -> None:
    cell, xs, state = make(kind, (5, 4, 3, 20), torch.float32)
    use_kernel(cell, "native")
    xs[2, 1, 0] = float("nan")
    outputs, _ = cell(xs, state)
    assert outputs[:2].isfinite().all()
    assert outputs[2:, 1].isnan().all()
    assert outputs[:, [0, 2, 3]].isfinite().all()


@needs_kernels
def test_inputs_may_be_strided() -> None:
    cell, xs, state = make("lstm", (6, 4, 3, 8), torch.float64)
    use_kernel(cell, "native")
    expected = results(cell, xs, state)
    strided = torch.randn(4, 6, 9, dtype=torch.float64).transpose(0, 1)[..., ::3]
    strided.copy_(xs)
    wide = {name: torch.stack([value, value], 2)[..., 0] for name, value in state.items()}
    assert not strided.is_contiguous()
    assert not wide["cell"].is_contiguous()
    assert same(results(cell, strided, wide), expected)
    with torch.no_grad():
        cell.fused.weight_hh_l0 = torch.nn.Parameter(cell.weight_hidden.t().contiguous().t())  # pyright: ignore
    assert same(results(cell, xs, state)[:3], expected[:3])


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_without_gradients_results_are_the_same_and_have_no_graph(kind: str) -> None:
    cell, xs, state = make(kind, (6, 20, 3, 8), torch.float32)
    use_kernel(cell, "native")
    expected = results(cell, xs, state)[: 1 + len(state)]
    with torch.no_grad():
        outputs, final = cell(xs, state)
    assert same([outputs, *final.values()], expected)
    assert outputs.grad_fn is None


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [False, True])
def test_without_gradients_no_activations_are_saved(kind: str, frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    take = Memory.take
    monkeypatch.setattr(
        Memory, "take", lambda pool, numbers, dtype: taken.append(numbers) or take(pool, numbers, dtype)
    )
    cell, xs, state = make(kind, (40, 20, 3, 8), torch.float32)
    use_kernel(cell, "native")
    tokens = torch.zeros(40, 20, dtype=torch.int64)
    cell.requires_grad_(not frozen)
    with nullcontext() if frozen else torch.no_grad():
        cell(xs.detach(), {name: leaf.detach() for name, leaf in state.items()})
        cell.forward_tokens(tokens, xs[0].detach())
    assert len(taken) == 2  # the packed weights
    assert max(taken) < 40 * 20 * 8  # fewer numbers than the outputs


@needs_kernels
def test_the_pool_reuses_buffers_but_never_while_in_use() -> None:
    memory = Memory()
    first = memory.take(1000, torch.float32)
    address = first.data_ptr()
    second = memory.take(1000, torch.float32)
    assert second.data_ptr() != address
    view = first[10:]
    del first
    assert memory.take(1000, torch.float32).data_ptr() != address  # the view still needs it
    view.fill_(1.0)
    del view
    assert memory.take(500, torch.float64).data_ptr() == address
    assert memory.take(500, torch.float64).shape == (500,)
    lent = [memory.take(1000, torch.float32) for _ in range(10)]
    del lent
    assert len(memory.free) == memory.spare
    assert copy.deepcopy(memory) is memory
    assert pickle.loads(pickle.dumps(memory)).free == {}


@needs_kernels
def test_cells_are_copied_and_pickled_without_their_buffers() -> None:
    cell, xs, state = make("lstm", (6, 20, 3, 8), torch.float32)
    use_kernel(cell, "native", 2)
    expected = results(cell, xs, state)
    for other in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert same(results(other, xs, state), expected)
        assert (other.kernel, other.threads) == ("native", 2)
    assert set(cell.state_dict()) == {f"fused.{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}


@needs_kernels
def test_a_second_call_allocates_no_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    from seqmem.kernels import memory

    allocated = []
    pages = memory.fresh_pages
    monkeypatch.setattr(memory, "fresh_pages", lambda size: allocated.append(size) or pages(size))
    cell, xs, state = make("gru torch", (50, 20, 8, 32), torch.float32)
    use_kernel(cell, "native")
    results(cell, xs, state)
    after_first = len(allocated)
    for _ in range(5):
        results(cell, xs, state)
    assert after_first > 0
    assert len(allocated) == after_first


@needs_kernels
def test_ctrl_c_interrupts_a_long_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "OPERATIONS_PER_CALL", 1e7)
    run, calls = functions.CallPlan.run, []

    def count(plan: functions.CallPlan, name: str, call: functions.Call) -> None:
        calls.append(name)
        run(plan, name, call)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(functions.CallPlan, "run", count)
    cell, xs, state = make("lstm", (20_000, 16, 8, 32), torch.float32)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # the parent process may ignore it
    try:
        with pytest.raises(KeyboardInterrupt), torch.no_grad():
            cell(xs, state)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert len(calls) == 3
    assert 20_000 * 2 * 16 * 128 * 40 / 1e7 > 50  # the number of calls without the signal


@pytest.fixture
def usr1_signals() -> Iterator[list[int]]:
    """Collects SIGUSR1s."""
    signals: list[int] = []

    def handler(number: int, _: FrameType | None) -> None:
        signals.append(number)

    previous = signal.signal(signal.SIGUSR1, handler)
    yield signals
    signal.signal(signal.SIGUSR1, previous)


@needs_kernels
def test_signals_are_handled_during_a_long_sequence(usr1_signals: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler runs between two calls of the kernels, whichever thread receives the signal."""
    monkeypatch.setattr(functions, "OPERATIONS_PER_CALL", 1e7)
    run, handled = functions.CallPlan.run, []

    def record(plan: functions.CallPlan, name: str, call: functions.Call) -> None:
        if not handled:
            signal.raise_signal(signal.SIGUSR1)
        run(plan, name, call)
        handled.append(len(usr1_signals))

    monkeypatch.setattr(functions.CallPlan, "run", record)
    cell, xs, state = make("gru torch", (2_000, 16, 8, 32), torch.float32)
    use_kernel(cell, "native", 2)
    with torch.no_grad():
        cell(xs, state)
    assert handled[0] == 1
    assert len(handled) > 5


def _in_a_child(cell: FusedCell, xs: Tensor, state: State, answer: multiprocessing.SimpleQueue) -> None:
    answer.put(digest(results(cell, xs, state)))


def digest(values: list[Tensor]) -> str:
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest()


@needs_kernels
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_kernels_work_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "OPERATIONS_PER_THREAD", 0.0)
    cell, xs, state = make("lstm", (12, 40, 5, 24), torch.float32)
    use_kernel(cell, "native", 3)
    expected = digest(results(cell, xs, state))
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=_in_a_child, args=(cell, xs, state, answer))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert answer.get() == expected


@needs_kernels
def test_python_threads_can_share_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "OPERATIONS_PER_THREAD", 0.0)
    cell, xs, state = make("gru cho", (30, 40, 5, 24), torch.float32)
    use_kernel(cell, "native", 2)
    expected = results(cell, xs, state)
    equal: list[bool] = []

    def work() -> None:
        equal.extend(same(results(cell, xs, state), expected) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 80


def test_unsupported_dtypes_fall_back_to_torch_unless_native_is_set() -> None:
    cell, xs, _ = make("lstm", (4, 3, 2, 5), torch.float32)
    half = copy.deepcopy(cell).to(torch.bfloat16)
    assert half(xs.to(torch.bfloat16))[0].dtype == torch.bfloat16
    use_kernel(half, "native")
    with pytest.raises(ValueError, match=r"no native kernel here for torch.bfloat16 on cpu: use kernel=auto"):
        half(xs.to(torch.bfloat16))
    with pytest.raises(ValueError, match="kernel=fast: must be one of auto, native, torch, step"):
        use_kernel(cell, "fast")


@pytest.mark.parametrize("kind", KINDS)
def test_without_kernels_cells_run_on_torch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqmem.kernels.loading import Unavailable

    cell, xs, state = make(kind, (8, 3, 2, 5), torch.float64)
    use_kernel(cell, "step")
    expected = results(cell, xs, state)
    monkeypatch.setattr(functions, "load", lambda: Unavailable("no compiler was found"))
    use_kernel(cell, "auto")
    torch.testing.assert_close(results(cell, xs, state), expected, rtol=1e-10, atol=1e-12)
    assert cell.tapped(xs, state) is None
    a = torch.rand(6, 3, dtype=torch.float64)
    assert linear_recurrence(a, a, a[0]).shape == (6, 3)


# ---- linear recurrences ----------------------------------------------------------------------------------------------


def by_loop(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    hs = []
    for t in range(len(a)):
        start = a[t] * start + b[t]
        hs.append(start)
    return torch.stack(hs)


@needs_kernels
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=["f64", "f32"])
@pytest.mark.parametrize("cut", [4e9, 1], ids=["whole", "cut"])
def test_linear_recurrence_equals_its_loop(
    isa: str, dtype: torch.dtype, tolerance: float, cut: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functions, "OPERATIONS_PER_CALL", cut)
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.rand(40, 3, 21, dtype=dtype, generator=rng).requires_grad_() for _ in range(2))
    start = torch.rand(3, 21, dtype=dtype, generator=rng).requires_grad_()
    weight = torch.randn(40, 3, 21, dtype=dtype, generator=rng)
    actual, expected = linear_recurrence(a, b, start), by_loop(a, b, start)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    gradients = torch.autograd.grad(actual, (a, b, start), weight)
    torch.testing.assert_close(
        gradients, torch.autograd.grad(expected, (a, b, start), weight), rtol=tolerance, atol=tolerance
    )
    assert isa in ISAS


@needs_kernels
def test_linear_recurrence_in_closed_form() -> None:
    """Constant a and b: h_t = a^t h_0 + b (1 - a^t) / (1 - a); dh_T / dh_0 = a^T."""
    a = torch.full((50, 1), 0.9, dtype=torch.float64)
    b = torch.full((50, 1), 0.3, dtype=torch.float64)
    start = torch.tensor([2.0], dtype=torch.float64).requires_grad_()
    h = linear_recurrence(a, b, start)
    power = 0.9 ** torch.arange(1, 51, dtype=torch.float64)
    torch.testing.assert_close(h.detach()[:, 0], power * 2.0 + 0.3 * (1 - power) / 0.1)
    (gradient,) = torch.autograd.grad(h[-1].sum(), start)
    torch.testing.assert_close(gradient, power[-1:])
