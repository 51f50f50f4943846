"""seqmem.trace of any PyTorch model: its numbers equal those of plain loops and of finite differences."""

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchrecurrent
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import seqmem
from as_written import MODELS, Encoder, words
from seqmem.cells import LSTM
from seqmem.cells.torchrecurrent import TorchRecurrent
from seqmem.cli.notebook.trace import DisplayedTrace
from seqmem.randomness import ambient, generator
from seqmem.tracing.losses import Reduction
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
            each = {
                key[2]: g.norm(dim=-1)
                for key, g in zip(place.states, gradients, strict=True)
                if key[:2] == (suffix, name)
            }
            series = torch.stack([each[t] for t in sorted(each)]).numpy()
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
        loss = None
        with ambient(0, "training"):
            for _ in range(2):
                model.zero_grad()
                with seqmem.tap(model) if look else nullcontext() as tap:
                    loss = written.loss_fn(model, written.batch())
                    loss = loss["loss"] if isinstance(loss, dict) else loss.mean()
                    loss.backward()
                if look:
                    seqmem.trace(model, written.loss_fn, written.batch())
                    assert tap is not None
                with torch.no_grad():  # an optimizer of torch's imports its compiler, which takes seconds
                    for parameter in model.parameters():
                        parameter -= 0.1 * torch.as_tensor(parameter.grad)
            assert all(module.training and not module._forward_hooks for module in model.modules())
            drawn = torch.rand(3)
        assert loss is not None
        return [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.grad is not None), drawn, loss]

    for one, two in zip(trained(look=True), trained(look=False), strict=True):
        assert torch.equal(one, two)


# In a loop of the user's own


def test_a_tap_has_what_the_trace_has() -> None:
    """Its norms are of the loss as it is, a mean over the batch, at the model's precision; also after an optimizer's
    step."""
    written, model = MODELS["lstm cell in a loop"], made("lstm cell in a loop").eval()
    exact = seqmem.trace(model, written.loss_fn, written.batch())
    with seqmem.tap(model) as tap:
        for _ in range(2):  # a forward pass begins anew
            written.loss_fn(model, written.batch()).backward()
        with torch.no_grad():
            model(written.batch())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    for name, series in exact.norms["cell"].items():
        np.testing.assert_allclose(tap.norms["cell"][name] * B, series, rtol=1e-4, err_msg=name)
    assert tap.trace.dtype == "float32"
    reductions: list[tuple[Reduction, int]] = [("mean", B), ("sum", 1)]
    for reduction, times in reductions:
        with seqmem.tap(model, reduction=reduction) as tap:
            written.loss_fn(model, written.batch()).backward()
        with seqmem.tap(model) as plain:
            written.loss_fn(model, written.batch()).backward()
        np.testing.assert_allclose(tap.norms["cell"]["cell"], plain.norms["cell"]["cell"] * times, rtol=1e-6)


class OneKernel(torch.autograd.Function):
    """An lstm's cell as CUDA computes it: one operation, in whose backward pass h_t's gradient enters c_t unseen."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(*given)
        x, h, c, *weights = given
        return torch.lstm_cell(x, (h, c), *weights)

    @staticmethod
    def backward(ctx: Any, *by: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, h, c, *weights = given = [value.detach().requires_grad_() for value in ctx.saved_tensors]
        with torch.enable_grad():
            new = torch.lstm_cell(x, (h, c), *weights)
            total = (new[0] * by[0]).sum() + (new[1] * by[1]).sum()
        return torch.autograd.grad(total, given)


class OneKernelCell(nn.LSTMCell):
    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor]) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return OneKernel.apply(x, *hx, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)


def test_a_cell_whose_states_one_kernel_makes() -> None:
    """As on CUDA: equal to the same cell in separate operations, whose hooks see everything."""
    written = MODELS["lstm cell in a loop"]
    model: Any = made("lstm cell in a loop")
    expected = seqmem.trace(model, written.loss_fn, written.batch()).norms["cell"]
    cell = OneKernelCell(2, 3)
    cell.load_state_dict(model.cell.state_dict())
    model.cell = cell
    for name, series in seqmem.trace(model, written.loss_fn, written.batch()).norms["cell"].items():
        np.testing.assert_allclose(series, expected[name], rtol=1e-10, err_msg=name)


def test_calls_that_continue_each_other_are_one_sequence_and_others_are_not() -> None:
    """A fused layer called a timestep at a time, and one that reads two sequences apart."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 3)

        def forward(self, x: Tensor, stepwise: bool) -> Tensor:
            if not stepwise:
                return self.lstm(x)[0][-1].sum(-1) * self.lstm(x.flip(0)[2:])[0][-1].sum(-1)
            state = None
            for step in x:
                output, state = self.lstm(step[None], state)
            return output[-1].sum(-1)  # pyright: ignore[reportPossiblyUnboundVariable]

    with ambient(0, "twice"):
        model = Twice()
    x = normal(7, B, 2)
    apart = seqmem.trace(model, lambda model, x: model(x, stepwise=False), x)
    assert {path: len(states["cell"]) for path, states in apart.norms.items()} == {"lstm": 7, "lstm#2": 5}
    steps = seqmem.trace(model, lambda model, x: model(x, stepwise=True), x)
    whole = seqmem.trace(model, lambda model, x: model.lstm(x)[0][-1].sum(-1), x)
    for name, series in whole.norms["lstm"].items():
        np.testing.assert_allclose(steps.norms["lstm"][name], series, rtol=1e-10, err_msg=name)


def test_distance_counts_from_each_sequences_own_end() -> None:
    """With packing, and where the user picks each last output by its length."""
    with ambient(0, "own end"):
        layer = nn.LSTM(2, 3)
    x = normal(7, B, 2)

    def packed(layer: nn.LSTM, x: Tensor) -> Tensor:
        return layer(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))[1][0][0].sin().sum(-1)

    def picked(layer: nn.LSTM, x: Tensor) -> Tensor:
        return layer(x)[0][LENGTHS - 1, torch.arange(B)].sin().sum(-1)

    traces = [seqmem.trace(layer, loss_fn, x) for loss_fn in (packed, picked)]
    for trace in traces:
        part = trace.parts["LSTM"].trace
        assert part.answered_at.tolist() == (LENGTHS - 1).tolist()
        alone = [
            seqmem.trace(layer, lambda m, x: m(x)[0][-1].sin().sum(-1), x[:n, b : b + 1]) for b, n in enumerate(LENGTHS)
        ]
        for b, one in enumerate(alone):
            np.testing.assert_allclose(
                part.back(part.norms["cell"])[: LENGTHS[b], b], one.norms["LSTM"]["cell"][::-1, 0], rtol=1e-10
            )


@pytest.mark.parametrize("side", ["after", "before"])
def test_padding_that_the_user_tells_is_not_time(side: str) -> None:
    """A batch that is not packed, with lengths or a mask. Where the loss reads padding a note says so."""
    with ambient(0, "told"):
        layer = nn.LSTM(2, 3, bidirectional=True)
    x, steps = normal(7, B, 2), torch.arange(7)
    mask = steps < LENGTHS[:, None] if side == "after" else steps >= 7 - LENGTHS[:, None]
    last = LENGTHS - 1 if side == "after" else torch.full((B,), 6)

    def loss_fn(layer: nn.LSTM, x: Tensor) -> Tensor:
        return layer(x)[0][last, torch.arange(B)].sin().sum(-1)

    plain = seqmem.trace(layer, loss_fn, x)
    traces = [seqmem.trace(layer, loss_fn, x, lengths=mask)]
    traces += [seqmem.trace(layer, loss_fn, x, lengths={"LSTM": LENGTHS})] if side == "after" else []
    for trace in traces:
        for path, part in trace.parts.items():
            for name, values in trace.norms[path].items():
                assert np.array_equal(np.isnan(values), ~mask.T.numpy())
                np.testing.assert_array_equal(values[mask.T], plain.norms[path][name][mask.T])
            assert part.trace.answered_at.tolist() == (LENGTHS - 1).tolist() if path.endswith("l0") else [0] * B
            for b, length in enumerate(LENGTHS.tolist()):
                own = part.norms["cell"][mask[b].numpy(), b]
                read = part.trace.norms["cell"][:length, b]
                assert np.array_equal(read, own[::-1] if part.reverse else own)
                assert np.isnan(part.trace.norms["cell"][length:, b]).all()
        assert not trace.notes
    if side == "after":
        (note,) = seqmem.trace(layer, lambda m, x: m(x)[0][-1].sum(-1), x, lengths=LENGTHS).notes
        assert note.startswith("the loss reads LSTM.l0 after the ends of sequences, in the padding")


def test_losses_of_as_many_timesteps_as_sequences() -> None:
    """``loss_axes`` says which axis is time; with lengths, each sequence's own last loss is propagated."""
    model = made("language model, tied")
    text = words(B + 1, B)

    def losses(model: nn.Module, batch: Tensor) -> Tensor:
        return F.cross_entropy(model(batch[:-1]).permute(1, 2, 0), batch[1:].T, reduction="none")

    expected = seqmem.trace(model, lambda m, x: losses(m, x)[:, -1], text).norms["rnn.l0"]["cell"]
    for axes, form in (("BT", losses), ("TB", lambda m, x: losses(m, x).T)):
        given: Any = axes
        assert np.array_equal(seqmem.trace(model, form, text, loss_axes=given).norms["rnn.l0"]["cell"], expected)
    ends = torch.tensor([2, 3, 1])
    own = seqmem.trace(model, losses, text, loss_axes="BT", lengths=ends)
    by_hand = seqmem.trace(model, lambda m, x: losses(m, x)[torch.arange(B), ends - 1], text)
    there = ~own.parts["rnn.l0"].ended()
    assert np.array_equal(own.norms["rnn.l0"]["cell"][there], by_hand.norms["rnn.l0"]["cell"][there])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_why_a_gradient_vanishes_and_what_helps(kind: type[nn.Module]) -> None:
    """The gate's share is that of pinned gates, the radius that of the matrix; a model that follows the advice has a
    half-life many times as long."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn: Any = kind(2, 8)

        def forward(self, x: Tensor) -> Tensor:
            if isinstance(self.rnn, nn.RNNBase):
                return self.rnn(x)[0][-1].sin().sum(-1)
            state = None
            for step in x:
                state = self.rnn(step, state)
            return (state[0] if isinstance(state, tuple) else torch.as_tensor(state)).sin().sum(-1)

    with ambient(0, "advice"):
        model = Last()
    rnn, x = model.rnn, normal(60, B, 2)
    before = seqmem.trace(model, lambda m, x: m(x), x)
    (path,) = before.parts
    assert before.advice.startswith("try seqmem.nn.remember_(model.rnn, 60) before training (")
    assert before.advice in " ".join(repr(before).split())
    with ambient(0, "followed"):
        seqmem.nn.remember_(model.rnn, 60)
    after = seqmem.trace(model, lambda m, x: m(x), x)
    lives = [trace.decays()[path]["state"].half_life for trace in (before, after)]
    assert lives[1] > (2.5 if isinstance(rnn, nn.RNN | nn.RNNCell) else 8) * lives[0], lives
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.zero_()
        suffix = "_l0" if isinstance(rnn, nn.RNNBase) else ""
        if isinstance(rnn, nn.RNN | nn.RNNCell):
            getattr(rnn, f"weight_hh{suffix}").copy_(torch.diag(torch.linspace(0.1, 0.6, 8)))
        else:
            getattr(rnn, f"bias_hh{suffix}")[8:16] = torch.tensor(0.3 / 0.7).log()
    why = seqmem.trace(model, lambda m, x: m(x) + (m.rnn.weight_ih_l0 if suffix else m.rnn.weight_ih).sum(), x[:9])
    expected = {
        "LSTM": "forget gates keep 0.3 of",
        "GRU": "update gates keep 0.3 of",
        "RNN": "a spectral radius of 0.6,",
    }
    assert expected[kind.__name__.removesuffix("Cell")] in why.parts[path].why


def test_layers_of_several_numbers_of_sequences() -> None:
    """Sentences of documents: losses are of either; a mean over documents has no known size for the words' layer."""

    class Hierarchical(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.word, self.sentence = nn.GRU(2, 3), nn.GRU(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            ends = self.word(x.flatten(1, 2))[1][0].unflatten(0, (4, B))
            return self.sentence(ends)[1][0].sin().sum(-1)

    with ambient(0, "documents"):
        model = Hierarchical()
    x = normal(5, 4, B, 2)
    own = seqmem.trace(model, lambda m, x: m(x), x)
    summed = seqmem.trace(model, lambda m, x: m(x).sum(), x)
    assert {path: states["hidden"].shape for path, states in own.norms.items()} == {"word": (5, 12), "sentence": (4, B)}
    mean = seqmem.trace(model, lambda m, x: m(x).mean(), x)
    for path, states in own.norms.items():
        np.testing.assert_allclose(summed.norms[path]["hidden"], states["hidden"], rtol=1e-12)
        np.testing.assert_allclose(mean.norms[path]["hidden"] * B, states["hidden"], rtol=1e-12)
    assert "it is not seen how" in mean.notes[0]
    with pytest.raises(ValueError, match="the layers have 3 or 12 sequences"):
        seqmem.trace(model, lambda m, x: m(x).mean(), x, reduction="mean")


def test_modules_that_the_user_names() -> None:
    """A cell of one's own in a loop, and a convolution, whose output's gradient autograd has, too."""

    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 3)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return 0.5 * h + self.inner(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.cell = nn.Conv1d(2, 2, 3, padding=1), Leaky()

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(len(x), 3)
            for step in self.conv(x).unbind(2):
                h = self.cell(step, h)
            return h.sum(1)

    model, x = Model(), normal(B, 2, 6)
    trace = seqmem.trace(model, lambda model, x: model(x), x, modules={"cell": None, "conv": "BCT"})
    np.testing.assert_allclose(trace.norms["cell"]["output"], np.sqrt(3) * 0.5 ** np.arange(6)[::-1, None].repeat(B, 1))
    by_w = model.cell.inner.weight.double().sum(0).norm().item()
    np.testing.assert_allclose(trace.norms["conv"]["output"][:, 0], by_w * 0.5 ** np.arange(6)[::-1])
    assert trace.decays()["cell"]["state"].half_life == pytest.approx(1)


def test_seqmems_cells_and_torchrecurrents_inside_another_model() -> None:
    """An lstm of seqmem's equals torch's layer of its weights; a cell of torchrecurrent's, read by hooks,
    equals itself in seqmem's wrapper, which is computed again."""

    class Around(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)[0][-1].sin().sum(-1)

    with ambient(0, "ours"):
        ours, peephole = LSTM(2, 3, forget_bias=1.0), torchrecurrent.PeepholeLSTM(2, 3)
        wrapped = TorchRecurrent(2, 3, kind="PeepholeLSTM")
    wrapped.inner = peephole.cells[0]
    x = normal(6, B, 2)
    for one, other in ((ours, ours.fused), (peephole, wrapped)):
        traces = [seqmem.trace(Around(inner), lambda m, x: m(x), x) for inner in (one, other)]
        (first,), (second,) = (trace.norms.values() for trace in traces)
        for name in ("hidden", "cell"):
            np.testing.assert_allclose(first[name], second[name], rtol=1e-10, err_msg=name)


# What cannot be traced


class Small(nn.Module):
    """With places to break: ``change`` gets each new state, ``last`` the output."""

    def __init__(self, change: Callable[..., Any] = lambda h: h, last: Callable[..., Any] = lambda out: out) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(2, 3), nn.Linear(3, 1)
        self.change, self.last = change, last

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[1], 3, device=x.device)
        for step in x:
            h = self.change(self.cell(step[: len(h)], h))
        return self.last(self.out(h)[:, 0])


def again(model: nn.Module, x: Tensor) -> Tensor:
    loss = model(x).sum()
    loss.backward()
    return loss


def penalised(model: Any, x: Tensor) -> Tensor:
    loss = model(x)
    (slope,) = torch.autograd.grad(loss.sum(), [model.cell.weight_hh], create_graph=True)
    return loss + slope.square().sum()


def on_two_devices(model: nn.Module, x: Tensor) -> Tensor:
    """In torch's words; a tensor on its meta device would import its compiler."""
    raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!")


BATCH = normal(5, B, 2)
OTHER = Small()


class Unpickled(Small):
    def __deepcopy__(self, memo: Any) -> "Unpickled":
        raise RuntimeError("only once")


BAD: dict[str, tuple[Callable[[], Any], Any, dict[str, Any], str]] = {
    "nothing recurrent": (lambda: nn.Sequential(nn.Linear(2, 2)), None, {}, "nothing recurrent.*modules=\\['0'\\]"),
    "no loss": (Small, lambda *_: "2.5", {}, "returned str, no loss"),
    "a prediction": (Small, lambda model, x: model(x).long(), {}, "int64, which has no gradient"),
    "a loss of another shape": (Small, lambda model, x: model(x)[:, None, None] + x.sum(), {}, "shape \\[3, 1, 1\\]"),
    "losses of other sequences": (Small, lambda model, x: model(x).repeat(2), {}, "6 losses, and the batch has 3"),
    "without a gradient": (Small, lambda model, x: model(x).detach(), {}, "does not depend on the model"),
    "under no_grad": (Small, torch.no_grad()(lambda model, x: model(x)), {}, "does not depend on the model"),
    "of another model": (Small, lambda _, x: OTHER(x), {}, "loss_fn must use the model that it is given"),
    "two devices": (Small, on_two_devices, {}, "move the batch to the model's"),
    "in place": (lambda: Small(lambda h: h.mul_(0.5)), lambda model, x: model(x), {}, "changed in place"),
    "in place, unseen": (lambda: Small(lambda h: h.add_(0.5)), lambda model, x: model(x), {}, "changed in place"),
    "data": (lambda: Small(lambda h: (h.data.mul_(0.5), h)[1]), lambda model, x: model(x), {}, "off by"),
    "no numbers": (Small, lambda model, x: model(x * float("nan")), {}, "'hidden' has NaN or infinity in it"),
    "both ways twice": (
        lambda: nn.GRU(2, 3, bidirectional=True), lambda model, x: model(x, model(x)[1])[0][-1].sum(-1), {},
        "in both directions .* call it once",
    ),
    "backward inside": (Small, again, {}, "differentiates by itself|must not call backward"),
    "double backward": (Small, penalised, {}, "differentiates by itself"),
    "fewer sequences": (lambda: Small(lambda h: h[:-1]), lambda model, x: model(x).sum(), {}, "fewer sequences"),
    "of= of one number": (Small, lambda model, x: model(x).mean(), {"of": 3}, "cannot be told apart"),
    "of= beyond": (Small, lambda model, x: model(x)[None].repeat(2, 1), {"of": 2}, "timesteps 0 to 1"),
    "of= nothing": (Small, lambda model, x: model(x), {"of": "first"}, "must be 'last', 'all' or the number"),
    "of= unknown": (Small, lambda model, x: {"a": model(x), "b": model(x)}, {"of": "c"}, "one of 'a', 'b'"),
    "time or batch": (Small, lambda model, x: model(x)[None].repeat(B, 1), {}, "of which either may be time"),
    "module.forward": (Small, lambda model, x: model.cell.forward(x[0]), {}, r"module\(x\), not module.forward"),
    "loss_axes=": (Small, None, {"loss_axes": "BTC"}, "must be 'TB' or 'BT'"),
    "loss_axes= of others": (
        Small, lambda model, x: model(x)[None].repeat(4, 1), {"loss_axes": "BT"}, "these losses are \\[4, 3\\]"
    ),
    "no lengths": (Small, None, {"lengths": "long"}, "must be lengths, \\[B\\], or a mask, .*and is str"),
    "lengths of reals": (Small, None, {"lengths": [1.0, 2.0, 3.0]}, "has the shape \\[3\\], of float32"),
    "an empty sequence": (Small, None, {"lengths": [5, 0, 5]}, "a sequence has 0 timesteps"),
    "a gap": (Small, None, {"lengths": torch.tensor([[1, 0, 1, 0, 0]] * 3)}, "has a gap"),
    "lengths of another batch": (
        Small, None, {"lengths": [6, 1, 1]}, r"3 sequences of up to 6 timesteps fit no layer: those traced have 5 x 3"
    ),
    "lengths of no path": (Small, None, {"lengths": {"rnn": [5, 1, 1]}}, r"lengths\['rnn'\]: .*of cell"),
    "lengths beyond the losses": (
        Small, lambda model, x: model(x)[None].repeat(4, 1), {"lengths": [5, 4, 4]}, "the losses have 4"
    ),
    "no such module": (Small, lambda model, x: model(x), {"modules": ["cel"]}, "Did you mean 'cell'"),
    "no axes": (Small, lambda model, x: model(x), {"modules": {"cell": "BXT"}}, "a letter for each axis"),
    "no copy": (Unpickled, lambda model, x: model(x), {}, "cannot be copied .*seqmem.tap"),
    "dtype": (Small, lambda model, x: model(x), {"dtype": torch.float16}, "must be torch.float64 or torch.float32"),
    "float32 inside": (
        lambda: Small(last=lambda out: out @ torch.ones(3, 3, dtype=torch.float32)), lambda model, x: model(x), {},
        r"test_trace_any.py:\d+: the copy computes in float64.*dtype=torch.float32",
    ),
    "torch.no_grad in the model": (
        lambda: Small(torch.no_grad()(lambda h: h.clone())), lambda model, x: model(x), {},
        r"cell: the loss does not depend on it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_traced_is_one_line(name: str) -> None:
    """It says what, where and what instead, and leaves the model as it was."""
    make, loss_fn, options, message = BAD[name]
    model = make()
    before = (
        None if not isinstance(model, nn.Module) else {key: value.clone() for key, value in model.state_dict().items()}
    )
    generator_state, default = torch.get_rng_state(), torch.get_default_dtype()
    with pytest.raises(ValueError, match=message) as error:
        seqmem.trace(model, loss_fn or (lambda model, x: model(x)), BATCH, **options)
    assert "\n" not in str(error.value)
    assert torch.equal(torch.get_rng_state(), generator_state)
    assert torch.get_default_dtype() == default
    assert torch.is_grad_enabled()
    if before is not None:
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key])
        assert all(parameter.grad is None and parameter.dtype == torch.float32 for parameter in model.parameters())
        assert not any(module._forward_hooks for module in model.modules())


def test_models_without_numbers() -> None:
    for model, message in (
        (Small().to("meta"), "'cell.weight_ih' is on the meta device"),
        (nn.Sequential(nn.GRU(2, 3), nn.LazyLinear(1)), "'1.weight' has no size yet"),
    ):
        with pytest.raises(ValueError, match=message):
            seqmem.trace(model, lambda model, x: model(x), BATCH)


def test_a_tap_says_what_it_cannot_tell() -> None:
    """And never disturbs the training for it: the error comes when the numbers are read."""
    model = Small()

    def read(*, message: str, change: Callable[[], Any], build: Callable[[], nn.Module] = lambda: model) -> None:
        tapped = build()
        with seqmem.tap(tapped) as tap:
            change_with[0] = tapped
            change()
        with pytest.raises(ValueError, match=message):
            _ = tap.norms
        assert not any(module._forward_hooks for module in tapped.modules())

    change_with: list[Any] = [None]

    def twice() -> None:
        loss = change_with[0](BATCH).sum()
        loss.backward(retain_graph=True)
        loss.backward()

    def graph() -> None:
        torch.autograd.grad(change_with[0](BATCH).sum(), [*change_with[0].parameters()], create_graph=True)

    def unseen() -> None:
        with torch.no_grad():
            change_with[0](BATCH)

    read(change=twice, message="two backward passes")
    read(change=graph, message="create_graph=True")
    read(change=unseen, message=r"ran under torch.no_grad\(\)")
    read(change=lambda: None, message="none of the modules that can be traced was called|does not call it")
    read(change=lambda: change_with[0](BATCH), message="no backward pass has come through it")
    read(
        build=lambda: nn.LSTM(2, 3, 2, dropout=0.5), change=lambda: change_with[0](BATCH)[0].sum().backward(),
        message="dropout=0.5 between its layers draws a mask",
    )  # fmt: skip
    read(
        build=lambda: Small().requires_grad_(False),
        change=lambda: change_with[0](BATCH),
        message="weights nor what enters",
    )
    read(build=lambda: Small(lambda h: h.add_(1.0)), change=lambda: change_with[0](BATCH).sum().backward(),
         message="changed in place")  # fmt: skip


def test_one_tap_at_a_module() -> None:
    model = Small()
    with seqmem.tap(model), pytest.raises(ValueError, match="'cell' is in use by another tap"), seqmem.tap(model):
        pass
    with seqmem.tap(model) as tap:
        model(BATCH).sum().backward()
    assert list(tap.norms) == ["cell"]
    with pytest.raises(RuntimeError, match="in the loop"), seqmem.tap(model):
        raise RuntimeError("in the loop")
    with seqmem.tap(model):
        pass
    compiled = Small()
    compiled._compiled_call_impl = compiled._call_impl  # as Module.compile() does
    with pytest.raises(ValueError, match="compiled, and calls no hooks"):
        seqmem.tap(compiled)


def test_an_output_that_is_changed_in_place_is_named() -> None:
    """The hook of a view (batch_first) is lost by that, and a gradient of zero would be wrong."""
    for batch_first in (True, False):
        layer = nn.LSTM(2, 3, batch_first=batch_first)
        with pytest.raises(ValueError, match="LSTM: its 'output' is changed in place"):
            seqmem.trace(layer, lambda m, x: F.relu(m(x)[0], inplace=True).sum(), BATCH)


@pytest.mark.filterwarnings("ignore::seqmem.nn.FallbackWarning")
def test_checkpoints_and_seqmems_layers() -> None:
    """A layer that is computed again in the backward pass, and one that seqmem's kernels compute."""

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = seqmem.nn.LSTM(2, 3, 2)

        def forward(self, x: Tensor, again: bool) -> Tensor:
            call = (lambda x: checkpoint(self.lstm, x, use_reentrant=False)) if again else self.lstm
            outputs, (h, c) = call(x)  # pyright: ignore[reportGeneralTypeIssues]
            return outputs[-1].sin().sum(-1) + h[0].sum(-1) * c[1].sum(-1)

    with ambient(0, "checkpointed"):
        model = Checkpointed()
    plain = nn.LSTM(2, 3, 2)
    plain.load_state_dict(model.lstm.state_dict())
    once, again = (seqmem.trace(model, lambda m, x, again=again: m(x, again), BATCH) for again in (False, True))
    model.lstm = plain  # pyright: ignore[reportAttributeAccessIssue]
    expected = seqmem.trace(model, lambda m, x: m(x, again=False), BATCH)
    for path, states in expected.norms.items():
        for name, series in states.items():
            np.testing.assert_allclose(once.norms[path][name], series, rtol=1e-9, err_msg=path)
            np.testing.assert_allclose(again.norms[path][name], series, rtol=1e-9, err_msg=path)


def test_gradients_are_recorded_whatever_is_around() -> None:
    """Under ``no_grad``, inference mode and autocast, with a batch that was made there, and of a compiled model."""
    model = Small()
    expected = seqmem.trace(model, lambda model, x: model(x), BATCH).norms["cell"]["hidden"]
    with torch.no_grad():
        under = seqmem.trace(model, lambda model, x: model(x), BATCH)
    with torch.inference_mode():
        inside = seqmem.trace(model, lambda model, x: model(x), BATCH * 1)
    with torch.autocast("cpu", torch.bfloat16):  # which leaves float64 alone
        cast = seqmem.trace(model, lambda model, x: model(x), BATCH)
    model._compiled_call_impl = lambda *_: 0 / 0
    compiled = seqmem.trace(model, lambda model, x: model(x), BATCH)
    for trace in (under, inside, cast, compiled):
        assert np.array_equal(trace.norms["cell"]["hidden"], expected)


def test_losses_in_every_form_give_one_trace() -> None:
    """Each sequence's own loss: [B], [T, B], [B, T], a mean or a sum, one of several; a note where none is said."""
    model = made("language model, tied")
    text = MODELS["language model, tied"].batch()

    def losses(model: nn.Module, batch: Tensor) -> Tensor:
        return F.cross_entropy(model(batch[:-1]).permute(1, 2, 0), batch[1:].T, reduction="none")

    expected = seqmem.trace(model, lambda m, x: losses(m, x)[:, -1], text)
    forms: dict[Any, Callable[[Any, Any], Any]] = {
        None: losses,
        "last": lambda m, x: losses(m, x).T,
        4: losses,
        ("next", "last"): lambda m, x: {"next": (all_of_them := losses(m, x)), "first": all_of_them[:, 0]},
        (1, 4): lambda m, x: ((all_of_them := losses(m, x))[:, 0], all_of_them),
    }
    for of, form in forms.items():
        trace = seqmem.trace(model, form, text, of=of)
        np.testing.assert_allclose(trace.norms["rnn.l0"]["cell"], expected.norms["rnn.l0"]["cell"], rtol=1e-12)
        assert trace.losses is not None
        assert expected.losses is not None
        np.testing.assert_allclose(trace.losses, expected.losses)
        assert not trace.notes
    for form, note in (
        (lambda m, x: losses(m, x)[:, -1].mean(), False),
        (lambda m, x: losses(m, x)[:, -1].sum(), False),
        (lambda m, x: F.cross_entropy(m(x[:-1])[-1], x[-1]), False),
        (lambda m, x: losses(m, x)[:, -1].mean() + 0.0 * m.decoder.weight.square().sum(), True),
    ):
        trace = seqmem.trace(model, form, text)
        times = B if note else 1
        got = trace.norms["rnn.l0"]["cell"] * times
        np.testing.assert_allclose(got, expected.norms["rnn.l0"]["cell"], rtol=1e-12)
        assert ["it is not seen how it was made" in one for one in trace.notes] == [True] * note
    said = seqmem.trace(model, lambda m, x: losses(m, x)[:, -1].mean() * 1.0, text, reduction="mean")
    np.testing.assert_allclose(said.norms["rnn.l0"]["cell"], expected.norms["rnn.l0"]["cell"], rtol=1e-12)
    for form, of in ((losses, "all"), (lambda m, x: losses(m, x).sum(1), None)):
        assert "no decay can be seen" in seqmem.trace(model, form, text, of=of).notes[0]
    padded = seqmem.trace(model, lambda m, x: losses(m, x) * (torch.arange(5) < torch.tensor([[3], [5], [4]])), text)
    assert padded.parts["rnn.l1"].trace.answered_at.tolist() == [2, 4, 3]


def test_a_trace_shows_itself() -> None:
    """A strip for each layer with its numbers, what to know, and what was left out; HTML in a notebook; a plot."""
    model = made("language model, tied")
    text = words(40, B, stream="long")
    trace = seqmem.trace(model, lambda m, x: F.cross_entropy(m(x[:-1])[-1], x[-1], reduction="none"), text)
    lines = repr(trace).splitlines()
    assert lines[0] == "trace  each sequence's loss · 3 sequences, float64"
    assert lines[1].split() == ["arrives", "half-life", "horizon", "first", "answer"]
    assert [line.split()[0] for line in lines[2:4]] == ["rnn.l0", "rnn.l1"]
    decay = trace.decays()["rnn.l0"]["state"]
    assert f"{decay.half_life:.3g}" in lines[2].split()
    assert "<pre" in trace._repr_html_()
    assert "rnn.l1" in trace._repr_html_()
