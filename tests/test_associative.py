"""The native associative memory against a loop over its definition, in torch."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, product
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor

from compilers import needs_kernels
from seqmem.cells import CELLS, use_kernel
from seqmem.cells.matrix_memory import stabilisers
from seqmem.kernels import associative
from seqmem.kernels.associative import associate, largest
from seqmem.kernels.loading import Library, load
from seqmem.kernels.memory import How
from seqmem.randomness import ambient

LIBRARY = load()
ISAS = LIBRARY.isas if isinstance(LIBRARY, Library) else ()
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "write": {"write": True},
    "keep by head": {"keep": "head"},
    "keep by head, write": {"keep": "head", "write": True},
    "keep by key": {"keep": "key"},
    "delta": {"delta": True, "write": True},
    "delta, all of it": {"delta": True},
    "delta, keep": {"delta": True, "keep": "head", "write": True},
}


def loop(
    given: dict[str, Any], tokens: Tensor | None, asked: range, *, delta: bool, gates_by_step: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """One timestep after the other, by the equations: what is read, the last memory, all of them."""

    def rows(name: str) -> Tensor | None:
        part = given.get(name)
        by_step = tokens is None or (gates_by_step and name in ("keep", "write"))
        return part if part is None or by_step else part[tokens]

    q, k, v, keep, write = (rows(name) for name in ("query", "key", "value", "keep", "write"))
    assert q is not None
    assert k is not None
    assert v is not None
    memory, read, memories = given["start"], [], []
    if memory.shape[-1] > v.shape[-1]:
        v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    for t in range(len(q)):
        if keep is not None:
            memory = (keep[t][..., None, None] if keep.ndim == 3 else keep[t][..., None]) * memory
        new = v[t] - torch.einsum("bae,baew->baw", k[t], memory) if delta else v[t]
        new = new if write is None else write[t][..., None] * new
        memory = memory + torch.einsum("bae,baw->baew", k[t], new)
        memories.append(memory)
        read.append(torch.einsum("baew,bae->baw", memory, q[t]))
    return torch.stack(read)[asked.start : asked.stop], memory, memories


def drawn(
    steps: int, batch: int, heads: int, size: int, kind: dict[str, Any], *, ones: bool, table: int, by_step: bool
) -> tuple[dict[str, Any], Tensor | None]:
    """Arrays of every kind of a call, in float64."""
    rng = torch.Generator().manual_seed(steps * 100 + size)

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, dtype=torch.float64, generator=rng)

    tokens = torch.randint(table, (steps, batch), generator=rng) if table else None
    rows = (table,) if table else (steps, batch)
    gates = (steps, batch) if by_step else rows
    joint = random(*rows, 3, heads, size)  # the parts of one product: rows are apart
    query, key, value = joint.unbind(-3)
    given: dict[str, Any] = {
        "query": query,
        "key": key / size**0.5,
        "value": value,
        "start": random(batch, heads, size, size + ones),
    }
    if kind.get("keep"):
        keep = random(*gates, heads, *((size,) if kind["keep"] == "key" else ())).sigmoid()
        keep.view(-1)[::7] = 1e-22  # exp(-50)
        keep.view(-1)[3::11] = 0.0
        given["keep"] = keep
    if kind.get("write"):
        given["write"] = random(*gates, heads).sigmoid()
    return {name: array.requires_grad_() if array.is_leaf else array for name, array in given.items()}, tokens


def with_gradients(read: Tensor, final: Tensor, by: list[Tensor]) -> list[Tensor]:
    """And the gradients of a sum of both."""
    weights = [torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part) for part in (read, final)]
    total = (read * weights[0]).sum() + (final * weights[1].cos()).sum()
    return [read, final, *torch.autograd.grad(total, by, materialize_grads=True)]


def both(
    sizes: tuple[int, int, int, int], kind: str, asked: range, *, table: int, ones: bool, by_step: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Values, gradients and norms by the kernel and by the loop."""
    options = KINDS[kind]
    given, tokens = drawn(*sizes, options, ones=ones, table=table, by_step=by_step)
    how: dict[str, Any] = {
        "tokens": tokens, "asked": asked, "delta": options.get("delta", False), "gates_by_step": by_step,
    }  # fmt: skip
    by, columns = list(given.values()), given["value"].shape[-1]
    read, final, memories = loop(given, **how)
    expected = with_gradients(read, final, [*by, *memories])
    *expected, of_memories = *expected[: len(by) + 2], torch.stack(expected[len(by) + 2 :])
    for part in (of_memories[..., :columns], of_memories[..., columns:]):
        expected.append(part.flatten(3).norm(dim=-1))
    one, two = (torch.zeros(*sizes[:3], dtype=torch.float64, requires_grad=True) for _ in range(2))
    return with_gradients(*associate(**given, **how, ghosts=(one, two)), [*by, one, two]), expected


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("sizes", "table"),
    [
        ((1, 1, 1, 1), 0), ((5, 2, 1, 3), 2), ((37, 3, 2, 7), 0), ((33, 18, 1, 5), 4), ((70, 2, 2, 17), 3),
        ((9, 1, 2, 33), 0), ((6, 1, 1, 70), 2),
    ],
)  # fmt: skip
def test_it_is_the_loop_in_values_states_gradients_and_norms(
    kind: str, sizes: tuple[int, int, int, int], table: int
) -> None:
    steps = sizes[0]
    some = cycle((range(steps - 1, steps), range(steps), range(steps // 2)))
    for ones, by_step, asked in zip((False, True, True), (False, True, False), some, strict=False):
        found, expected = both(sizes, kind, asked, table=table, ones=ones, by_step=by_step and table > 0)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@needs_kernels
@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64; and float32 is near it."""
    assert isinstance(LIBRARY, Library)
    library = replace(LIBRARY, isa=isa)
    monkeypatch.setattr(associative, "load", lambda: library)
    for kind, (sizes, table) in product(KINDS, (((6, 2, 1, 9), 0), ((5, 2, 2, 35), 3))):
        found, expected = both(sizes, kind, range(2, 5), table=table, ones=True, by_step=False)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
        given, tokens = drawn(*sizes, KINDS[kind], ones=True, table=table, by_step=False)
        delta = KINDS[kind].get("delta", False)
        for single, exact in zip(
            associate(**{name: array.float() for name, array in given.items()}, tokens=tokens, delta=delta),
            associate(**given, tokens=tokens, delta=delta),
            strict=True,
        ):
            assert (single.double() - exact).abs().max() < 1e-5 * exact.abs().max()


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_neither_threads_nor_cuts_change_a_bit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for table, asked in ((0, range(70)), (4, range(40, 70)), (4, range(69, 70))):
        given, tokens = drawn(70, 18, 2, 5, KINDS[kind], ones=False, table=table, by_step=False)
        options: dict[str, Any] = {"tokens": tokens, "asked": asked, "delta": KINDS[kind].get("delta", False)}
        by = list(given.values())
        expected = with_gradients(*associate(**given, **options), by)
        with monkeypatch.context() as patch:
            patch.setattr(associative, "OPERATIONS_PER_CALL", 1.0)  # calls of 32 timesteps
            patch.setattr(associative, "OPERATIONS_PER_THREAD", 0.0)
            actual = with_gradients(*associate(**given, **options, how=How(threads=3)), by)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@needs_kernels
def test_wrong_arguments_are_one_clear_error() -> None:
    given, tokens = drawn(4, 3, 2, 5, KINDS["keep by head, write"], ones=False, table=6, by_step=False)
    by_key, _ = drawn(4, 3, 2, 5, KINDS["keep by key"], ones=False, table=6, by_step=False)
    assert tokens is not None

    def refused(message: str, error: type = ValueError, **changed: object) -> None:
        with pytest.raises(error, match=message):
            inspect.unwrap(associate)(**{**given, "tokens": tokens, **changed})

    refused(r"query has the shape \(6, 2, 4\): must be \(6, 2, 5\)", query=given["query"][..., :4])
    refused(r"key is torch.float32, start torch.float64", key=given["key"].float())
    refused(r"start has 5 columns: values of 3 numbers need 3", value=given["value"][..., :3])
    refused(r"start has the shape \(2, 5, 5\): must be \[B A E W\]", start=given["start"][0])
    refused(r"start is torch.int64: must be torch.float32 or", start=given["start"].long())
    refused(r"tokens are torch.int32 of the shape \(4, 3\): must be torch.int64", tokens=tokens.int())
    refused(r"write has the shape \(6, 2\): must be \(4, 3, 2\)", gates_by_step=True, keep=None)
    refused(r"the delta rule needs one for each head", keep=by_key["keep"], delta=True)
    refused(r"asked=0:5:1 of 4 timesteps", asked=range(5))
    refused(r"asked=0:4:2 of 4 timesteps", asked=range(0, 4, 2))
    refused(r"threads=0: must be a whole number", how=How(threads=0))
    for wrong in (tokens + 6, tokens - 9):
        refused("a token is not from 0 up to 6", IndexError, tokens=wrong)
    with pytest.raises(RuntimeError, match="no second derivatives: kernel=step has them"):
        torch.autograd.grad(associate(**given, tokens=tokens)[0].sum(), given["start"], create_graph=True)


@needs_kernels
@pytest.mark.parametrize("name", [name for name, kind in CELLS.items() if "memory" in kind.family])
def test_cells_compute_the_same_by_every_kernel(name: str) -> None:
    """Heads of five numbers, which no vector divides; more symbols than pay for a table, too."""
    with ambient(0, name):
        cell: Any = CELLS[name]
        cell = cell(3, 14, heads=3).double()
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, 3, dtype=torch.float64, generator=rng).requires_grad_()
    by = [vectors, *(weight for weight in cell.parameters() if weight.requires_grad)]
    reads: list[Callable[[Tensor], tuple[Tensor, Any]]] = [
        lambda tokens: cell(vectors[tokens]),
        lambda tokens: cell.forward_tokens(tokens, vectors),
        lambda tokens: cell.forward_tokens(tokens, vectors[:70]),
        lambda tokens: cell.forward_at(tokens, None, slice(39, 40), vectors=vectors[:70]),
    ]
    tokens = torch.randint(70, (40, 2), generator=rng)
    for read in reads:
        results = {}
        for kernel in ("native", "torch", "step"):
            use_kernel(cell, kernel)
            outputs, final = read(tokens)
            results[kernel] = with_gradients(outputs, torch.cat([leaf.flatten() for leaf in final.values()]), by)
        for kernel in ("torch", "step"):
            torch.testing.assert_close(results[kernel], results["native"], rtol=1e-9, atol=1e-11)


@needs_kernels
def test_stabilisers_equal_the_loop_in_values_and_gradients_ties_and_nan_included() -> None:
    rng = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        # Of few whole numbers, so that many tie.
        keep, enter, ghost = (
            torch.randint(-2, 2, (9, 3, 5), generator=rng).to(dtype).requires_grad_() for _ in range(3)
        )
        start = torch.zeros(3, 5, dtype=dtype, requires_grad=True)
        with torch.no_grad():
            enter[4, 1, 2], keep[6, 2, 0] = nan, -inf
            ghost.zero_()
        leaves = [keep, enter, start, ghost]
        weights = torch.randn(10, 3, 5, generator=rng, dtype=dtype)
        ours, loop = largest(*leaves), stabilisers(*leaves)
        torch.testing.assert_close(ours, loop, rtol=0, atol=0, equal_nan=True)
        assert ours[5:, 1, 2].isnan().all()
        pairs = [torch.autograd.grad(value, leaves, weights) for value in (ours, loop)]
        for a, b in zip(*pairs, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True)
    with pytest.raises(ValueError, match=r"log_enter is torch\.float32 of .*: must be torch\.float64 of \(9, 3, 5\)"):
        largest(keep, enter.float(), start)
