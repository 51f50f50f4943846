"""seqmem.nn against torch.nn: values, every gradient, states, state dicts, pickles; conversion of a model and back.

The oracle is torch's own layer with the same weights, and for the states torch's LSTMCell and a step at a time.
"""

import copy
import io
import pickle
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.data import DataLoader, Dataset

from compilers import needs_kernels
from seqmem import nn
from seqmem.kernels import functions
from seqmem.kernels.loading import Unavailable
from seqmem.nn import choice, layers

KINDS = {
    "rnn": (nn.RNN, torch.nn.RNN, {}),
    "relu": (nn.RNN, torch.nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, torch.nn.LSTM, {}),
    "gru": (nn.GRU, torch.nn.GRU, {}),
}
FEATURES, HIDDEN, STEPS, BATCH = 5, 20, 7, 19
"""Above one vector and one chunk of the kernels, and no multiples of them."""


@pytest.fixture(autouse=True)
def kernels_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at sizes where torch is faster."""
    monkeypatch.setattr(layers, "pays", lambda *_, **__: True)


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


def states_of_every_step(layer: Any, xs: Tensor, start: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """h_t and c_t of every layer and direction of a one-layer LSTM, by torch.nn.LSTMCell; [T B H] each."""
    hidden, cell = [], []
    for at, suffix in enumerate(("", "_reverse")[: 1 + layer.bidirectional]):
        step = torch.nn.LSTMCell(FEATURES, HIDDEN, dtype=xs.dtype)
        names = {name: getattr(layer, f"{name}_l0{suffix}") for name, _ in step.named_parameters()}
        h, c = start[0][at], start[1][at]
        hs, cs = [], []
        for x in reversed(xs.unbind(0)) if at else xs.unbind(0):
            h, c = torch.func.functional_call(step, names, (x, (h, c)))
            hs.append(h)
            cs.append(c)
        hidden.append(torch.stack(hs[::-1] if at else hs))
        cell.append(torch.stack(cs[::-1] if at else cs))
    return hidden, cell


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_kernels), False], ids=["native", "steps"])
def test_states_are_those_of_a_loop_over_lstm_cells(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the gradients of a loss of all of them, which enter h_t and c_t at every timestep."""
    if not native:
        monkeypatch.setattr(nn.LSTM, "_fits", lambda *_: False)
    options = Options(1, True, True, False, "batch", True, torch.float64)
    _, layer = pair("lstm", options)
    xs, leaves, start = arguments(layer, options)
    assert start is not None
    output, (h_n, c_n), states = layer.states(xs, tuple(start))
    hidden, cell = states_of_every_step(layer, xs, start)
    ends = [torch.stack([each[0][-1], each[1][0]]) for each in (hidden, cell)]
    expected = [torch.cat(hidden, -1), *ends, torch.stack(hidden), torch.stack(cell)]
    actual = [output, h_n, c_n, *states]
    by = [*leaves, *layer.parameters()]
    assert_equal([*actual, *gradients(actual, by)], [*expected, *gradients(expected, by)], options.dtype)


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_states_end_in_the_final_states_and_lie_as_the_output_does(kind: str) -> None:
    for options in pairs(kind):
        _, layer = pair(kind, options)
        inputs, _, start = arguments(layer.eval(), options)
        state = None if start is None else tuple(start) if kind == "lstm" else start[0]
        output, final, states = layer.states(inputs, state)
        assert_equal(layer(inputs, state), (output, final), options.dtype)
        top = states.hidden[-2:] if options.bidirectional else states.hidden[-1:]
        data = output.data if isinstance(output, PackedSequence) else output
        assert_equal(torch.cat([*top], -1), data, options.dtype)
        assert (states.cell is not None) == (kind == "lstm")
        if isinstance(output, PackedSequence):
            continue
        time = 1 if options.batch_first and options.form == "batch" else 0
        finals = final if isinstance(final, tuple) else (final,)
        for every, last in zip(states, finals, strict=False):
            for at, values in enumerate(every):
                end = 0 if options.bidirectional and at % 2 else -1
                assert_equal(values.select(time, end), last[at], options.dtype)


@needs_kernels
def test_second_derivatives_are_torchs() -> None:
    """The backward pass through the kernels is differentiated by torch's operations."""
    for kind, form in (("gru", "packed"), ("lstm", "batch"), ("rnn", "batch")):
        options = Options(1, kind != "rnn", True, False, form, True, torch.float64)
        second = []
        for layer in pair(kind, options):
            inputs, leaves, start = arguments(layer, options)
            state = None if start is None else tuple(start) if kind == "lstm" else start[0]
            output = layer(inputs, state)[0]
            data = output.data if isinstance(output, PackedSequence) else output
            by = [*leaves, *layer.parameters()]
            first = torch.autograd.grad((data**3).sum(), by, create_graph=True)
            second.append(torch.autograd.grad(sum((gradient**2).sum() for gradient in first), by))  # pyright: ignore
        assert_equal(second[1], second[0], options.dtype)


@needs_kernels
def test_what_the_kernels_lack_is_torchs_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_told", set())
    half = nn.GRU(3, 4, dtype=torch.bfloat16)
    with pytest.warns(
        nn.FallbackWarning, match=r"seqmem.nn.GRU: torch computes it, .*: there is no kernel for torch.bf"
    ):
        half(torch.zeros(2, 1, 3, dtype=torch.bfloat16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        half(torch.zeros(2, 1, 3, dtype=torch.bfloat16))
    with pytest.warns(nn.FallbackWarning, match="autocast"), torch.autocast("cpu", torch.bfloat16):
        nn.GRU(3, 4)(torch.zeros(5, 1, 3))
    monkeypatch.setattr(layers, "load", lambda: Unavailable("not built"))
    monkeypatch.setattr(functions, "load", lambda: Unavailable("not built"))
    with pytest.warns(nn.FallbackWarning, match="not built"):
        nn.RNN(3, 4)(torch.zeros(5, 1, 3))


@needs_kernels
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
def test_projected_states_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernels, which have no projection in their loop, and by the loop over torch's operations."""
    for form, bidirectional, start in (
        ("packed", True, True), ("batch", True, True), ("sorted", False, True), ("unbatched", True, False),
    ):  # fmt: skip
        options = Options(2, bidirectional, start, form == "packed", form, start, torch.float64)
        expected, layer = pair("lstm", options, proj_size=3)
        ours, theirs = results(layer, options), results(expected, options)
        assert_equal(ours, theirs, options.dtype)
        layer.eval()
        inputs, _, state = arguments(layer, options)
        state = None if state is None else tuple(state)
        native = layer.states(inputs, state)
        with monkeypatch.context() as patched:
            patched.setattr(nn.LSTM, "_fits", lambda *_: False)
            assert_equal(layer.states(inputs, state), native, options.dtype)


@needs_kernels
def test_transforms_and_devices_without_kernels_are_torchs() -> None:
    torch.manual_seed(0)
    theirs, ours = torch.nn.GRU(3, 4), nn.GRU(3, 4)
    ours.load_state_dict(theirs.state_dict())
    xs = torch.randn(5, 2, 3)

    def loss(layer: Any, parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layer, parameters, (xs,))[0].square().sum()

    other = {name: value.detach() * 2 for name, value in theirs.named_parameters()}
    assert_equal(loss(ours, other), loss(theirs, other), torch.float32)
    scripted = ours.__prepare_scriptable__()  # what torch.jit.script compiles
    assert type(scripted) is torch.nn.GRU
    assert scripted.weight_hh_l0 is ours.weight_hh_l0
    assert ours.to("meta")(xs.to("meta"))[0].is_meta


def test_errors_are_torchs() -> None:
    theirs, ours = torch.nn.LSTM(3, 4), nn.LSTM(3, 4)
    state = torch.zeros(1, 2, 4)
    for call in (
        (torch.zeros(5, 2, 4),),
        (torch.zeros(5, 2, 3, 1),),
        (torch.zeros(0, 2, 3),),
        (torch.zeros(5, 2, 3, dtype=torch.float64),),
        (torch.zeros(5, 2, 3), (state, state[:, :1])),
        (torch.zeros(5, 2, 3), state),
        (torch.zeros(5, 3), (state, state)),
        (None,),
    ):
        with pytest.raises(Exception, match=r".") as expected:
            theirs(*call)
        for function in (ours, ours.states):
            with pytest.raises(type(expected.value)) as actual:
                function(*call)
            assert str(actual.value) == str(expected.value)
    assert ours(torch.zeros(5, 0, 3))[0].shape == (5, 0, 4)
    with pytest.raises(ValueError, match="proj_size"):
        nn.GRU(3, 4, proj_size=2)


@needs_kernels
def test_outputs_may_be_changed_in_place_where_torchs_may() -> None:
    xs = torch.randn(5, 2, 3)
    for kind in (nn.RNN, nn.GRU):
        layer = kind(3, 4)
        output, _ = layer(xs)
        weight: Any = layer.weight_hh_l0
        (expected,) = torch.autograd.grad(output.sum() * 2, [weight])
        output, _ = layer(xs)
        (actual,) = torch.autograd.grad(output.mul_(2).sum(), [weight])
        assert torch.equal(actual, expected)
    layer: Any = nn.LSTM(3, 4)
    output, _ = layer(xs)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


class Net(torch.nn.Module):
    """An encoder that is shared, a layer inside a list, and what stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.LSTM(3, 4)
        self.shared = self.encoder
        self.more = torch.nn.ModuleList([torch.nn.GRU(4, 4), torch.nn.RNN(4, 2), torch.nn.Linear(2, 2)])
        self.mine = type("Mine", (torch.nn.GRU,), {})(3, 4)
        self.cell = torch.nn.LSTMCell(3, 4)

    def forward(self, xs: Tensor) -> Tensor:
        for layer in (self.encoder, self.more[0], self.more[1]):
            xs = layer(xs)[0]
        return self.more[2](xs)


@needs_kernels
def test_convert_changes_the_classes_of_layers_and_restore_changes_them_back() -> None:
    torch.manual_seed(0)
    model, xs = Net().eval(), torch.randn(6, 2, 3)
    expected, before = model(xs), dict(model.named_parameters())
    seen: list[str] = []
    model.encoder.register_forward_hook(lambda *_: seen.append("hook"))
    assert nn.convert(model) is model
    assert nn.convert(model) is model
    assert [type(part) for part in (model.encoder, *model.more)] == [nn.LSTM, nn.GRU, nn.RNN, torch.nn.Linear]
    assert model.encoder is model.shared
    assert not model.encoder.training
    assert all(value is before[name] for name, value in model.named_parameters())
    torch.testing.assert_close(model(xs), expected)
    assert seen == ["hook"]
    assert nn.computed_by(model) == {
        "encoder": "seqmem",
        "more.0": "seqmem",
        "more.1": "seqmem",
        "mine": "torch: test_nn.Mine is a class of its own",
        "cell": "torch: LSTMCell is one timestep, not a layer",
    }
    keys = list(vars(Net().encoder))
    assert nn.restore(model) is model
    assert [type(part) for part in (model.encoder, *model.more[:2])] == [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN]
    assert list(vars(model.encoder)) == keys
    assert nn.computed_by(model)["encoder"] == "torch: not converted"
    assert torch.equal(model(xs), expected)
    alone = torch.nn.GRU(2, 3)
    assert nn.convert(alone) is alone
    assert isinstance(alone, nn.GRU)


@needs_kernels
def test_copies_pickles_and_saved_models_compute_the_same() -> None:
    xs = torch.randn(6, 2, 3)
    layer = nn.LSTM(3, 4, 2, bidirectional=True)
    expected = layer(xs)[0]
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    pickled = pickle.dumps(layer)
    assert b"seqmem.nn" in pickled
    assert b"layers" not in pickled.replace(b"num_layers", b"")
    for other in (copy.deepcopy(layer), pickle.loads(pickled), torch.load(file, weights_only=False)):
        assert type(other) is nn.LSTM
        assert torch.equal(other(xs)[0], expected)
    theirs = torch.nn.LSTM(3, 4, 2, bidirectional=True)
    assert repr(layer) == repr(theirs)
    assert list(layer.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(layer.state_dict())
    torch.testing.assert_close(theirs(xs)[0], expected)
    assert torch.equal(layer.double().float()(xs)[0], expected)


@needs_kernels
def test_a_parametrized_weight_has_its_gradient() -> None:
    torch.manual_seed(0)
    each, xs = [], torch.randn(4, 2, 3)
    for kind in (torch.nn.GRU, nn.GRU):
        torch.manual_seed(0)
        layer = kind(3, 4)
        parametrize.register_parametrization(layer, "weight_hh_l0", torch.nn.Softplus())
        layer(xs)[0].sum().backward()
        each.append([parameter.grad for parameter in layer.parameters()])
    assert_equal(each[1], each[0], torch.float32)


@needs_kernels
def test_threads_share_a_layer() -> None:
    layer, xs = nn.GRU(8, 24), torch.randn(30, 40, 8)

    def trained(_: int) -> list[Tensor]:
        output = layer(xs)[0]
        return [output, *torch.autograd.grad(output.square().sum(), [*layer.parameters()])]

    expected = trained(0)
    with ThreadPoolExecutor(4) as pool:
        for results_ in pool.map(trained, range(12)):
            assert all(torch.equal(one, other) for one, other in zip(results_, expected, strict=True))


class Encoded(Dataset[Tensor]):
    """A data set that computes with a layer, as its workers do."""

    def __init__(self) -> None:
        self.layer = nn.GRU(3, 20)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            return self.layer(torch.full((30, 16, 3), float(index)))[0]


@needs_kernels
def test_workers_of_a_data_loader_compute_the_same() -> None:
    """Forked ones; what spawned ones get is a pickle, which a test above has."""
    data = Encoded()
    loaded = list(DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="fork"))
    assert all(torch.equal(one, data[i]) for i, one in enumerate(loaded))
    assert len(loaded) == 2


@needs_kernels
@pytest.mark.parametrize("sizes", [[], [2, 3], [2, 0], [0]])
def test_batch_sizes_that_no_packed_sequence_has_are_an_error(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="batch_sizes"):
        functions.Order.packed(torch.tensor(sizes, dtype=torch.int64))


@needs_kernels
def test_a_cut_or_another_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A packed bidirectional layer is the hardest: its calls know where each timestep lies."""
    options = Options(1, True, True, False, "packed", True, torch.float64)
    before = torch.get_num_threads()
    for kind in ("lstm", "gru"):
        _, layer = pair(kind, options)
        expected = results(layer, options)
        with monkeypatch.context() as patched:
            patched.setattr(functions, "OPERATIONS_PER_CALL", 1.0)
            patched.setattr(functions, "OPERATIONS_PER_THREAD", 0.0)
            patched.setattr(functions, "SHORTEST_PIECE", 2)
            torch.set_num_threads(3)
            try:
                actual = results(layer, options)
            finally:
                torch.set_num_threads(before)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@needs_kernels
def test_torch_computes_where_it_is_faster_and_the_states_are_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def pays(*sizes: Any, **more: Any) -> bool:
        asked.append({"sizes": sizes, **more})
        return False

    monkeypatch.setattr(layers, "pays", pays)
    monkeypatch.setattr(nn.GRU, "_compute", None)  # an error if it is called
    layer = nn.GRU(3, 4)
    with torch.no_grad():
        assert layer(torch.zeros(5, 2, 3))[0].shape == (5, 2, 4)
    layer(pack_padded_sequence(torch.zeros(5, 2, 3), torch.tensor([5, 1])))
    shared = {"sizes": ("gru torch", 5, 2, 4), "threads": torch.get_num_threads(), "projection": 0}
    assert [{**call, "isa": ""} for call in asked] == [
        {**shared, "training": False, "packed": False, "isa": ""},
        {**shared, "training": True, "packed": True, "isa": ""},
    ]
    # It is asked again for another size or where gradients follow, and not for the same.
    asked.clear()
    with torch.no_grad():
        for steps in (5, 5, 6, 6):
            layer(torch.zeros(steps, 2, 3))
    layer(torch.zeros(6, 2, 3))
    layer.requires_grad_(False)
    layer(torch.zeros(6, 2, 3))
    layer(torch.zeros(6, 2, 3, requires_grad=True))
    layer(torch.zeros(6, 3))
    assert [(call["sizes"][1:3], call["training"]) for call in asked] == [
        ((6, 2), False), ((6, 2), True), ((6, 2), False), ((6, 2), True), ((6, 1), False),
    ]  # fmt: skip


def test_kernels_compute_what_they_are_faster_at() -> None:
    """Long sequences of loops; LSTMs that fill registers and cache; more units with wider registers."""
    usual: dict[str, Any] = {"training": True, "packed": False, "threads": 1, "isa": "avx2"}
    assert choice.pays("gru torch", 100, 1, 512, **usual)
    assert choice.pays("lstm", 100, 32, 128, **usual)
    assert not choice.pays("lstm", 100, 32, 256, **usual)
    assert choice.pays("lstm", 100, 32, 256, **{**usual, "isa": "avx512"})
    assert choice.pays("lstm", 100, 32, 256, **{**usual, "packed": True})
    assert not choice.pays("lstm", 10, 1, 16, **usual)
    assert not choice.pays("gru torch", 100, 16, 256, **{**usual, "threads": 2})
    assert choice.pays("lstm", 100, 1, 32, **usual, projection=8)
    assert not choice.pays("lstm", 100, 1, 256, **usual, projection=64)


def test_initial_values_that_remember() -> None:
    """Biases of gates within log U(1, T - 1), and their mirror; orthogonal matrices, or the identity; no others."""
    torch.manual_seed(0)
    lstm, gru = torch.nn.LSTM(3, 50, 2, bidirectional=True), torch.nn.GRUCell(3, 50)
    model = torch.nn.ModuleList([lstm, gru, torch.nn.RNN(3, 5), torch.nn.RNNCell(3, 5, nonlinearity="relu")])
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def total(values: dict[str, Tensor], path: str, suffix: str) -> Tensor:
        return values[f"{path}bias_ih{suffix}"] + values[f"{path}bias_hh{suffix}"]

    assert nn.remember_(model, 40) is model
    gates = [(lstm, suffix, 4) for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse")]
    for layer, suffix, count in (*gates, (gru, "", 3)):
        biases = total({name: value.detach() for name, value in layer.named_parameters()}, "", suffix).chunk(count)
        timescales = biases[1].exp()
        assert 1 <= timescales.min() < 10
        assert 30 < timescales.max() <= 39
        if count == 4:
            torch.testing.assert_close(biases[0], -biases[1])
        untouched = [0, 2] if count == 3 else [2, 3]
        old = total(before, "0." if layer is lstm else "1.", suffix).chunk(count)
        assert all(torch.equal(biases[gate], old[gate]) for gate in untouched)
    weight: Any = model[2].weight_hh_l0
    torch.testing.assert_close(weight @ weight.T, torch.eye(5))
    assert torch.equal(model[3].weight_hh, torch.eye(5))  # pyright: ignore[reportArgumentType]
    assert not model[2].bias_ih_l0.any()  # pyright: ignore[reportCallIssue]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[1][:9] for name in changed} == {"bias_ih_l", "bias_hh_l", "bias_ih", "bias_hh", "weight_hh"}
    gru.requires_grad_(False)
    parametrized = torch.nn.RNN(3, 4)
    parametrize.register_parametrization(parametrized, "weight_hh_l0", torch.nn.Softplus())
    cases: list[tuple[torch.nn.Module, Any, str]] = [
        (torch.nn.Linear(2, 2), 9, "no RNN, LSTM or GRU"),
        (lstm, 1, "at least 2"),
        (torch.nn.ModuleList([torch.nn.GRU(2, 3, bias=False)]), 9, "0: its gates have no bias"),
        (parametrized, 9, "weight_hh_l0 is parametrized"),
    ]
    for module, steps, message in cases:
        with pytest.raises(ValueError, match=message):
            nn.remember_(module, steps)
