"""seqmem.nn against torch.nn: values, every gradient, states, state dicts, pickles; conversion of a model and back.

The oracle is torch's own layer with the same weights, and for the states torch's LSTMCell and a step at a time.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from compilers import needs_kernels
from seqmem import nn
from seqmem.kernels import functions

KINDS = {
    "rnn": (nn.RNN, torch.nn.RNN, {}),
    "relu": (nn.RNN, torch.nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, torch.nn.LSTM, {}),
    "gru": (nn.GRU, torch.nn.GRU, {}),
}
FEATURES, HIDDEN, STEPS, BATCH = 5, 20, 7, 19
"""Above one vector and one chunk of the kernels, and no multiples of them."""


class Options(NamedTuple):
    num_layers: int
    bidirectional: bool
    bias: bool
    batch_first: bool
    form: str  # batch, packed, sorted (and packed) or unbatched
    start: bool
    dtype: torch.dtype


AXES = [(1, 2), (False, True), (True, False), (False, True), ("batch", "packed", "sorted", "unbatched"), (True, False)]


def pairs(kind: str) -> Iterator[Options]:
    """Options among which every pair of two options' values occurs; more for the LSTM."""
    rows: list[Any] = [Options._make((*values, torch.float64)) for values in product(*AXES)]
    missing = {(i, j, row[i], row[j]) for row in rows for j in range(6) for i in range(j)}
    while missing:
        best = max(rows, key=lambda row: sum((i, j, row[i], row[j]) in missing for j in range(6) for i in range(j)))
        missing -= {(i, j, best[i], best[j]) for j in range(6) for i in range(j)}
        yield best
    yield Options(2, True, True, False, "packed", True, torch.float32)
    yield Options(2, False, True, True, "batch", False, torch.float32)


def pair(kind: str, options: Options, **more: Any) -> tuple[Any, Any]:
    """torch's layer and ours, with the same weights."""
    ours, theirs, extra = KINDS[kind]
    *_, dtype = options
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"input_size": FEATURES, "hidden_size": HIDDEN, **extra, **more}
    sizes |= {name: getattr(options, name) for name in ("num_layers", "bidirectional", "bias", "batch_first")}
    if options.num_layers > 1:
        sizes["dropout"] = 0.3
    expected, actual = theirs(**sizes, dtype=dtype), ours(**sizes, dtype=dtype)
    actual.load_state_dict(expected.state_dict())
    return expected, actual


def arguments(layer: Any, options: Options) -> tuple[Any, list[Tensor], list[Tensor] | None]:
    """Inputs, as the layer takes them; the leaves that gradients are taken by; an initial state."""
    rng = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=options.dtype).requires_grad_()

    batch = () if options.form == "unbatched" else (BATCH,)
    xs = drawn(*((*batch, STEPS) if options.batch_first else (STEPS, *batch)), FEATURES)
    start = None
    if options.start:
        count = options.num_layers * (1 + options.bidirectional)
        widths = (layer.proj_size or HIDDEN, HIDDEN)[: 1 + (layer.mode == "LSTM")]
        start = [drawn(count, *batch, width) for width in widths]
    inputs: Any = xs
    if options.form in ("packed", "sorted"):
        lengths = torch.randint(1, STEPS + 1, (BATCH,), generator=rng)
        lengths[2] = STEPS
        if options.form == "sorted":
            lengths = lengths.sort(descending=True).values
        inputs = pack_padded_sequence(xs, lengths, options.batch_first, enforce_sorted=options.form == "sorted")
    return inputs, [xs, *(start or ())], start


def results(layer: Any, options: Options) -> list[Tensor]:
    """Output, final states, and the gradients of a random sum of them by inputs, initial state and parameters."""
    inputs, leaves, start = arguments(layer, options)
    torch.manual_seed(2)  # of the dropout
    state = None if start is None else tuple(start) if layer.mode == "LSTM" else start[0]
    output, final = layer(inputs, state)
    values = [output.data if isinstance(output, PackedSequence) else output]
    values += final if isinstance(final, tuple) else [final]
    return [*(value.detach() for value in values), *gradients(values, [*leaves, *layer.parameters()])]


def gradients(values: list[Tensor], by: list[Tensor]) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(3)
    total = sum((value * torch.randn(value.shape, generator=rng, dtype=value.dtype)).sum() for value in values)
    assert isinstance(total, Tensor)
    return torch.autograd.grad(total, by)


def assert_equal(actual: Any, expected: Any, dtype: torch.dtype) -> None:
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_results_and_gradients_are_torchs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    layer = functions.recurrence_of_layer

    def counted(*args: Any, **more: Any) -> functions.Layer:
        calls.append("")
        return layer(*args, **more)

    monkeypatch.setattr(functions, "recurrence_of_layer", counted)
    for options in pairs(kind):
        expected, actual = pair(kind, options)
        del calls[:]
        ours = results(actual, options)
        assert len(calls) == options.num_layers * (1 + options.bidirectional), options
        assert_equal(ours, results(expected, options), options.dtype)
