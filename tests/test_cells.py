"""Laws every cell obeys, over every conf/cell/*.yaml, its variants, a stack, and attention as a user writes it. A new
yaml is a new row. What a cell may declare (taps, a state that is its output) is asked of those that declare it."""

import inspect
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from doors import Attention
from seqmem.cells import CELLS, GRU, LSTM, RNN, Cell, Slots, Stack, State, steps
from seqmem.cells.state import leaves, map_leaves, written
from seqmem.cells.wrappers import Dropout, LayerNorm, Residual, Zoneout
from seqmem.kernels.loading import Library, load
from seqmem.laws import OfCell, examine
from seqmem.randomness import ambient

CONF = Path(__file__).parents[1] / "conf" / "cell"
T, B, D, H = 7, 3, 5, 4
COMMON = ("name", "hidden_size", "layers", "params", "wrap")


def _from_yaml(path: Path) -> Callable[[int], Cell]:
    settings = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(settings, dict)
    options = {str(key): value for key, value in settings.items() if key not in COMMON}
    kind = CELLS[settings["name"]]
    if "seq_len" in inspect.signature(kind).parameters:
        options["seq_len"] = 20
    return lambda input_size: kind(input_size, H, **options)


MAKERS: dict[str, Callable[[int], Cell]] = {
    path.stem: _from_yaml(path) for path in sorted(CONF.glob("*.yaml")) if path.stem != "custom"
}
MAKERS |= {
    "rnn relu": lambda d: RNN(d, H, nonlinearity="relu"),
    "lstm orthogonal": lambda d: LSTM(d, H, seq_len=9, init="orthogonal"),
    "lstm coupled": lambda d: LSTM(d, H, seq_len=20, coupled=True),
    "lstm peepholes": lambda d: LSTM(d, H, seq_len=20, peepholes=True),
    "lstm1997, blocks": lambda d: CELLS["lstm1997"](d, H, block=3, biases="gates"),
    "exprnn, cayley": lambda d: CELLS["exprnn"](d, H, map="cayley"),
    "gru cho": lambda d: GRU(d, H, seq_len=20, form="cho"),
    "gru identity": lambda d: GRU(d, H, forget_bias=0.0, init="identity"),
    "own attention": lambda d: Attention(d, H),
    "own attention, window": lambda d: Attention(d, H, window=3),
    "attention, window": lambda d: CELLS["attention"](d, H, window=3),
    "attention, plain": lambda d: CELLS["attention"](d, D, heads=1, positions="none", wide=0),
    "attention, learned": lambda d: CELLS["attention"](d, H, positions="learned", seq_len=4, window=3),
    "stack of attention": lambda d: Stack([LSTM(d, H, seq_len=20), CELLS["attention"](H, H, wide=1)]),
    "tcn, one level": lambda d: CELLS["tcn"](d, H, levels=1, kernel=2),
    "stack with attention": lambda d: Stack([LSTM(d, H, seq_len=20), Attention(H, H), RNN(H, H)]),
    "wrapped": lambda d: Residual(LayerNorm(LSTM(d, H, seq_len=20))),
    "wrapped attention": lambda d: Residual(LayerNorm(CELLS["attention"](d, H))),
    "wrapped stack": lambda d: Stack(
        [Residual(Dropout(GRU(d, d, forget_bias=1.0), p=0.5)), Zoneout(LayerNorm(LSTM(d, H, seq_len=20)), p=0.3)]
    ).eval(),
    "stack": lambda d: Stack([LSTM(d, H, seq_len=20), RNN(H, H), GRU(H, H, form="cho", forget_bias=1.0)]),
}


@pytest.fixture(params=MAKERS)
def cell(request: pytest.FixtureRequest) -> Cell:
    with ambient(0, request.param):
        return MAKERS[request.param](D).double()


@pytest.fixture
def xs() -> Tensor:
    return torch.randn(T, B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_steps(cell: Cell, xs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    state = cell.initial_state(xs.shape[1]) if state is None else state
    outputs = []
    for output, new in steps(cell, xs.unbind(0), state):
        outputs.append(output)
        state = new
    return torch.stack(outputs), state


def random_state(cell: Cell) -> State:
    """A random state with the shapes of a state after two timesteps."""
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        _, state = by_steps(cell, torch.zeros(2, B, D, dtype=torch.float64))
    return map_leaves(lambda leaf: torch.randn(*leaf.shape, dtype=leaf.dtype, generator=rng), state)


def test_every_cell_says_its_family_and_is_parallel_only_with_a_forward_of_its_own() -> None:
    """What ``seqmem list`` groups by; a family has several cells, but the plain and other packages'."""
    families = Counter(kind.family for kind in CELLS.values())
    assert Cell.family not in families
    assert {name for name, count in families.items() if count == 1} == {"plain", "other packages"}
    assert not any(kind.parallel for kind in CELLS.values() if kind.walks)


def test_every_cell_that_is_exported_has_a_yaml_and_the_other_way_round():
    assert {path.stem for path in CONF.glob("*.yaml")} - {"custom"} == set(CELLS)


def test_laws_hold(cell: Cell):
    """``seqmem check`` examines the same; test_laws.py shows that each is broken by what it is for."""
    broken = [verdict for verdict in examine(OfCell(cell)) if not verdict.holds]
    assert not broken, broken


def test_reading_tokens_is_forward_over_their_vectors(cell: Cell, xs: Tensor):
    vectors = xs.flatten(0, 1).requires_grad_()
    tokens = torch.randint(len(vectors), (9, B), generator=torch.Generator().manual_seed(3))
    outputs, state = cell.forward_tokens(tokens, vectors, random_state(cell))
    expected, expected_state = cell(vectors[tokens], random_state(cell))
    torch.testing.assert_close((outputs, state), (expected, expected_state), rtol=1e-10, atol=1e-12)
    target = [vectors, *(p for p in cell.parameters() if p.requires_grad)]
    weight = torch.randn(outputs.shape, dtype=outputs.dtype, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(
        torch.autograd.grad((outputs * weight).sum(), target),
        torch.autograd.grad((expected * weight).sum(), target),
        rtol=1e-10,
        atol=1e-12,
    )


ASKED = [
    *(name for name, kind in CELLS.items() if kind.forward_at is not Cell.forward_at),
    *("attention, window", "attention, learned", "tcn, one level", "stack of attention", "wrapped attention"),
]


@pytest.mark.parametrize("at", [slice(69, 70), slice(-3, None), slice(62, 66)], ids=str)
@pytest.mark.parametrize("name", ASKED)
def test_asking_at_some_timesteps_is_forward_there(name: str, at: slice):
    """Values, final state, and gradients of both by the weights, the vectors and the state."""
    rng = torch.Generator().manual_seed(3)
    with ambient(0, name):
        cell = MAKERS[name](D).double()
    tokens, vectors = torch.randint(8, (70, B), generator=rng), torch.randn(8, D, dtype=torch.float64, generator=rng)
    vectors, state = vectors.requires_grad_(), map_leaves(Tensor.requires_grad_, random_state(cell))
    by = [vectors, *leaves(state), *(p for p in cell.parameters() if p.requires_grad)]

    def everything(outputs: Tensor, final: State) -> tuple[Tensor, ...]:
        values = outputs, *leaves(final)
        total = torch.stack([(value * (i + value.detach().sin())).sum() for i, value in enumerate(values)]).sum()
        return *values, *torch.autograd.grad(total, by, materialize_grads=True)

    outputs, final = cell(vectors[tokens], state)
    expected = everything(outputs[at], final)
    for asked in (cell.forward_at(tokens, state, at, vectors=vectors), cell.forward_at(vectors[tokens], state, at)):
        torch.testing.assert_close(everything(*asked), expected, rtol=1e-10, atol=1e-12)
        assert {name: getattr(leaf, "dropped", 0) for name, leaf in asked[1].items()} == {
            name: getattr(leaf, "dropped", 0) for name, leaf in final.items()
        }


def test_the_output_is_the_state_that_says_so(cell: Cell, xs: Tensor):
    outputs, state = cell(xs)
    if cell.output_state is not None:
        torch.testing.assert_close(outputs[-1], state[cell.output_state], rtol=0, atol=0)


def test_gates_are_shares_and_those_that_keep_are_among_them(cell: Cell, xs: Tensor):
    gates = cell.gates(xs[0], random_state(cell))
    assert all(((gate >= 0) & (gate <= 1)).all() and len(gate) == B for gate in gates.values())
    assert set(cell.keeps) <= gates.keys()


def test_a_class_on_top_of_ours_is_computed_as_it_says(xs: Tensor):
    class Half(LSTM):
        def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
            return super().step(x / 2, state)

    class Twice(LSTM):
        def forward(self, xs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
            return super().forward(2 * xs, state)

    with ambient(0, "classes"):
        half, twice = Half(D, H, seq_len=9).double(), Twice(D, H, seq_len=9).double()
    torch.testing.assert_close(half(xs), by_steps(half, xs))
    vectors, tokens = xs[0], torch.zeros(T, B, dtype=torch.int64)
    torch.testing.assert_close(twice.forward_tokens(tokens, vectors), twice(vectors[tokens]))
    start = half.initial_state(B)
    assert half.tapped(xs, start) is None
    assert twice.tapped(xs, start) is None


def test_taps_give_the_norms_of_the_gradients_by_every_input_and_state(cell: Cell, xs: Tensor):
    """However often, while weights change in place; and the gradient that goes on below."""
    start = cell.initial_state(B)
    tapped = cell.tapped(xs, start)
    native = all("native" in layer.kernels and getattr(layer, "every_state", False) for layer in cell.layers())
    if tapped is None:
        assert not (native and isinstance(load(), Library))
        return
    rng = torch.Generator().manual_seed(5)
    for _ in range(2):
        tapped.forward()
        torch.testing.assert_close((tapped.outputs, tapped.final), cell(xs, start), rtol=1e-14, atol=1e-15)
        weight = torch.randn(tapped.outputs.shape, dtype=xs.dtype, generator=rng)
        below = torch.empty_like(xs)
        names = [name for name, leaf in start.items() if isinstance(leaf, Tensor)][-1:]
        ends = {name: torch.randn(start[name].shape, dtype=xs.dtype, generator=rng) for name in names}
        of_input, of_states = tapped.backward(weight, ends, to_inputs=below)
        again, _ = tapped.backward(weight, ends)
        torch.testing.assert_close(again, of_input, rtol=0, atol=0)

        inputs = list(xs.clone().requires_grad_().unbind(0))
        series: dict[str, list[Tensor]] = {name: [] for name in start}
        outputs, before = [], start
        for output, state in steps(cell, inputs, start):
            outputs.append(output)
            for name, values in written(before, state).items():
                series[name].extend(values)
            before = state
        total = (torch.stack(outputs) * weight).sum() + sum(
            (series[name][-1] * end).sum() for name, end in ends.items()
        )
        by_input = torch.stack(torch.autograd.grad(total, inputs, retain_graph=True))
        torch.testing.assert_close(below, by_input, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(of_input, by_input.norm(dim=-1), rtol=1e-11, atol=1e-13)
        assert of_states.keys() == series.keys()
        for name, values in series.items():
            # What nothing reads after the last timestep has a gradient of zero.
            by_state = torch.autograd.grad(total, values, retain_graph=True, materialize_grads=True)
            expected = torch.stack(by_state).flatten(2).norm(dim=-1)
            torch.testing.assert_close(of_states[name], expected, rtol=1e-11, atol=1e-13)
        with torch.no_grad():
            for parameter in cell.parameters():
                parameter.mul_(1.1)


def test_what_a_step_adds_and_looks_at_is_what_it_does(cell: Cell, xs: Tensor):
    with torch.no_grad():
        (_, first), (_, old), (_, new) = list(steps(cell, xs[:3].unbind(0), cell.initial_state(B)))
        for before, x, after in ((first, xs[1], old), (old, xs[2], new)):
            for name, (keep, write, _) in cell.additive(x, before).items():
                torch.testing.assert_close(keep * before[name] + write, after[name], rtol=1e-12, atol=1e-12)
            for weights in cell.looks(x, before).values():
                assert weights.shape[-1] == len(next(slots for slots in after.values() if isinstance(slots, Slots)))
                torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2], dtype=weights.dtype))


def test_initial_state_follows_the_parameters(cell: Cell):
    assert all(value.dtype == torch.float64 and len(value) == 6 for value in leaves(cell.initial_state(6)))
    meta = cell.to("meta")
    assert all(value.device.type == "meta" for value in leaves(meta.initial_state(2)))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: RNN(D, H), lambda: nn.RNN(D, H)),
        (lambda: RNN(D, H, nonlinearity="relu"), lambda: nn.RNN(D, H, nonlinearity="relu")),
        (lambda: LSTM(D, H, forget_bias=1.0), lambda: nn.LSTM(D, H)),
        (lambda: GRU(D, H, forget_bias=1.0), lambda: nn.GRU(D, H)),
    ],
    ids=["rnn tanh", "rnn relu", "lstm", "gru"],
)
def test_step_equals_the_torch_twin_with_copied_weights(
    ours: Callable[[], Cell], theirs: Callable[[], nn.RNNBase], xs: Tensor
):
    with ambient(0, "twins"):
        cell, twin = ours().double(), theirs().double()
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0")
    with torch.no_grad():
        for name, weight in zip(names, (p for p in cell.parameters() if p.requires_grad), strict=True):
            twin.get_parameter(name).copy_(weight)
        twin.get_parameter("bias_hh_l0").zero_()
    torch.testing.assert_close(by_steps(cell, xs)[0], twin(xs)[0], rtol=1e-12, atol=1e-12)


def test_gru_as_published_equals_torchs_gru_cell_equation_written_out(xs: Tensor):
    with ambient(0, "cho"):
        cell = GRU(D, H, form="cho", forget_bias=1.0).double()
    w, u, b = cell.weight_input, cell.weight_hidden, cell.bias
    h, x = random_state(cell)["hidden"], xs[0]
    r = torch.sigmoid(x @ w[:H].T + h @ u[:H].T + b[:H])
    z = torch.sigmoid(x @ w[H : 2 * H].T + h @ u[H : 2 * H].T + b[H : 2 * H])
    n = torch.tanh(x @ w[2 * H :].T + (r * h) @ u[2 * H :].T + b[2 * H :])
    torch.testing.assert_close(cell.step(x, {"hidden": h})[0], (1 - z) * n + z * h)
    other = GRU(D, H, form="torch", forget_bias=1.0).double()
    other.load_state_dict(cell.state_dict())
    assert not torch.allclose(other.step(x, {"hidden": h})[0], cell.step(x, {"hidden": h})[0])


def test_a_forget_bias_of_one_opens_the_gate_to_0_731():
    cell = LSTM(D, H, forget_bias=1.0).double()
    state = {"hidden": torch.zeros(B, H).double(), "cell": torch.ones(B, H).double()}
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            if "bias" not in name:
                parameter.zero_()
        i, _, g, _ = cell.bias.chunk(4)
        i.fill_(-1e9)  # nothing is written: what is left of the cell is the forget gate
        g.zero_()
    _, new = cell.step(torch.zeros(B, D).double(), state)
    torch.testing.assert_close(new["cell"], torch.full((B, H), 0.7310585786300049).double())
    _, fused = cell(torch.zeros(1, B, D).double(), state)
    torch.testing.assert_close(fused["cell"], new["cell"])


def test_only_one_bias_is_trained():
    for cell in (RNN(D, H), LSTM(D, H, forget_bias=1.0), GRU(D, H, forget_bias=1.0)):
        gates = cell.weight_hidden.shape[0] // H
        assert sum(p.numel() for p in cell.parameters() if p.requires_grad) == gates * H * (D + H + 1)


@pytest.mark.parametrize("make", [LSTM, GRU])
def test_chrono_bias_is_log_uniform_over_the_sequence(make: type[LSTM] | type[GRU]):
    with ambient(0, "chrono"):
        cell = make(D, 1000, seq_len=101)
    gate_bias = cell.bias.chunk(4)[1] if make is LSTM else cell.bias.chunk(3)[1]
    time = gate_bias.detach().double().exp()
    assert time.min() >= 0.999
    assert time.max() <= 100.001
    assert time.mean().item() == pytest.approx(50.5, abs=4.1)  # 4.5 standard errors of the mean of U(1, 100)
    assert time.quantile(0.25).item() == pytest.approx(25.75, abs=6.1)
    if make is LSTM:
        torch.testing.assert_close(cell.bias.chunk(4)[0], -gate_bias)


def test_chrono_of_the_shortest_sequence_is_finite():
    assert LSTM(D, H, seq_len=1).bias.isfinite().all()


def test_orthogonal_and_identity_start():
    with ambient(0, "init"):
        for block in LSTM(D, H, seq_len=9, init="orthogonal").weight_hidden.split(H):
            torch.testing.assert_close(block @ block.T, torch.eye(H))
        irnn = RNN(D, H, nonlinearity="relu", init="identity")
    torch.testing.assert_close(irnn.weight_hidden.detach(), torch.eye(H))
    assert not irnn.bias.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RNN(D, H, nonlinearity="sin"), "nonlinearity='sin': must be 'tanh' or 'relu'"),
        (lambda: RNN(D, H, init="zeros"), "init='zeros': must be"),
        (lambda: LSTM(D, H, forget_bias="long"), "forget_bias='long': must be a number or 'chrono'"),
        (lambda: LSTM(D, H), "'chrono' needs seq_len"),
        (lambda: GRU(D, H, forget_bias=0.0, form="v3"), "form='v3': must be 'torch' or 'cho'"),
        (lambda: Stack([RNN(D, H), RNN(D, H)]), "output size 4 cannot feed one of input size 5"),
    ],
)
def test_wrong_options_are_refused_in_one_line(make: Callable[[], Cell], message: str):
    with pytest.raises(ValueError) as refused:  # noqa: PT011  looked at below
        make()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
