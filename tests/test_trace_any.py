"""seqmem.trace of any PyTorch model: its numbers equal those of plain loops and of finite differences."""

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import seqmem
from as_written import MODELS, Encoder
from seqmem.cli.notebook.trace import DisplayedTrace
from seqmem.randomness import ambient, generator
from unrolled import differences, unroll

B = 3
LENGTHS = torch.tensor([4, 7, 5])


def normal(*shape: int, stream: str = "x") -> Tensor:
    return torch.randn(*shape, generator=generator(0, stream))


class Fused(nn.Module):
    """A layer of torch's, read by everything that it returns."""

    def __init__(self, make: Callable[[], nn.RNNBase], packed: bool = False) -> None:
        super().__init__()
        self.layer, self.packed = make(), packed

    def forward(self, batch: tuple[Tensor, Any]) -> Tensor:
        xs, start = batch
        given: Any = xs
        if self.packed:
            given = pack_padded_sequence(xs, LENGTHS, batch_first=self.layer.batch_first, enforce_sorted=False)
        outputs, last = self.layer(given, start)
        if self.packed:
            outputs = pad_packed_sequence(outputs, batch_first=self.layer.batch_first)[0]
        outputs = outputs.transpose(0, 1) if self.layer.batch_first else outputs
        ends = sum(end.sin().sum((0, 2)) for end in (last if isinstance(last, tuple) else (last,)))
        weights = torch.linspace(-1, 1, outputs.shape[-1], dtype=outputs.dtype)
        return (outputs * weights).sin()[2:].sum((0, 2)) + ends


FUSED: dict[str, Callable[[], Fused]] = {
    "lstm": lambda: Fused(lambda: nn.LSTM(2, 3)),
    "lstm, 2 layers, both directions, packed": lambda: Fused(lambda: nn.LSTM(2, 3, 2, bidirectional=True), packed=True),
    "lstm, projected, batch first": lambda: Fused(lambda: nn.LSTM(2, 4, 2, proj_size=2, batch_first=True)),
    "gru, both directions, no bias": lambda: Fused(lambda: nn.GRU(2, 3, bias=False, bidirectional=True)),
    "gru, 2 layers, packed, batch first": lambda: Fused(lambda: nn.GRU(2, 3, 2, batch_first=True), packed=True),
    "rnn": lambda: Fused(lambda: nn.RNN(2, 3, 2)),
    "rnn relu, both directions, packed": lambda: Fused(
        lambda: nn.RNN(2, 3, nonlinearity="relu", bidirectional=True), packed=True
    ),
}


def of_loop(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any) -> dict[str, dict[str, np.ndarray]]:
    """What ``seqmem.trace`` should say, from the gradient by each state of a plain loop; padding is not looked at."""
    twin = deepcopy(model).double().eval()
    places = unroll(twin)
    loss = loss_fn(twin, batch).sum()
    norms: dict[str, dict[str, np.ndarray]] = {}
    for path, place in places.items():
        gradients = torch.autograd.grad(
            loss, [*place.states.values()], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        count = len({suffix for suffix, _, _ in place.states})
        for suffix, name in {(suffix, name): None for suffix, name, _ in place.states}:
            found = {
                key[2]: g.norm(dim=-1)
                for key, g in zip(place.states, gradients, strict=True)
                if key[:2] == (suffix, name)
            }
            series = torch.stack([found[t] for t in sorted(found)]).numpy()
            norms.setdefault(path if count == 1 else f"{path}.{suffix}", {})[name] = series
    return norms


def assert_equal(trace: DisplayedTrace, expected: dict[str, dict[str, np.ndarray]]) -> None:
    assert trace.norms.keys() == expected.keys()
    assert not trace.untraced
    for path, states in expected.items():
        for name, series in states.items():
            got = trace.norms[path][name]
            ended = trace.parts[path].ended()
            assert np.isnan(got[ended]).all()
            np.testing.assert_allclose(got[~ended], series[~ended], rtol=1e-10, atol=1e-14, err_msg=f"{path} {name}")
            assert series[~ended].max() > 0


@pytest.mark.parametrize("name", FUSED)
def test_fused_layers_equal_a_plain_loop(name: str) -> None:
    """Every state of every layer and direction, with packing, projection, several layers and a given initial state."""
    with ambient(0, name):
        model = FUSED[name]()
    layer = model.layer
    xs = normal(7, B, 2).double()
    places = layer.num_layers * (2 if layer.bidirectional else 1)
    sizes = [layer.proj_size or layer.hidden_size, layer.hidden_size][: 2 if layer.mode == "LSTM" else 1]
    states = tuple(normal(places, B, size, stream=str(size)).double() for size in sizes)
    batch = xs.transpose(0, 1) if layer.batch_first else xs, states if layer.mode == "LSTM" else states[-1]
    trace = seqmem.trace(model, lambda model, batch: model(batch), batch)
    assert_equal(trace, of_loop(model, lambda model, batch: model(batch), batch))


def made(name: str) -> nn.Module:
    with ambient(0, name):
        return MODELS[name].make()


@pytest.mark.parametrize("name", MODELS)
def test_models_as_people_write_them_equal_finite_differences(name: str) -> None:
    """In float64, with each sequence's own loss, whatever its loss_fn returns of it."""
    written, model = MODELS[name], made(name)
    trace = seqmem.trace(model, written.loss_fn, written.batch())
    assert list(trace.parts) == written.paths
    assert not trace.untraced
    batch = converted(written.batch())
    for path, state, t, b in written.looks_at:
        twin = deepcopy(model).double().eval()
        for module in twin.modules():
            if isinstance(module, Encoder):
                module.table = module.table.double()
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            with torch.no_grad():
                expected = differences(twin, lambda twin: written.losses(twin, batch), path, (state, t, b))
        finally:
            torch.set_default_dtype(before)
        assert expected > 1e-6, (path, state)
        assert trace.norms[path][state][t, b] == pytest.approx(expected, rel=1e-5), (path, state, t, b)


def converted(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {name: converted(value) for name, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(converted(value) for value in batch)
    return batch.double() if batch.is_floating_point() else batch


@pytest.mark.parametrize("name", MODELS)
def test_tracing_and_tapping_change_nothing(name: str) -> None:
    """Weights, buffers, gradients, modes, hooks, random numbers and two updates, bit for bit."""

    def trained(look: bool) -> list[Tensor]:
        written, model = MODELS[name], made(name)
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        loss = None
        with ambient(0, "training"):
            for _ in range(2):
                optimizer.zero_grad()
                with seqmem.tap(model) if look else nullcontext() as tap:
                    loss = written.loss_fn(model, written.batch())
                    loss = loss["loss"] if isinstance(loss, dict) else loss.mean()
                    loss.backward()
                if look:
                    seqmem.trace(model, written.loss_fn, written.batch())
                    assert tap is not None
                optimizer.step()
            assert all(module.training and not module._forward_hooks for module in model.modules())
            drawn = torch.rand(3)
        assert loss is not None
        return [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.grad is not None), drawn, loss]

    for one, two in zip(trained(look=True), trained(look=False), strict=True):
        assert torch.equal(one, two)
