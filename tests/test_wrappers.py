"""Wrappers: what each does to a cell, against torch.nn and by counting; their noise; ``cell.wrap``, which names them.

That they are cells is asked in test_cells.py, that their runs resume in test_resume.py."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose
from numpy import sqrt
from torch import Tensor, nn

from commandline import TINY, Completed
from compilers import NATIVE
from seqmem.cells import GRU, LSTM, RNN, WRAPPERS, Cell, Stack, State, steps
from seqmem.cells.antisymmetric import Antisymmetric
from seqmem.cells.attention import Attention
from seqmem.cells.recompute import recomputed
from seqmem.cells.wrappers import Dropout, LayerNorm, Residual, Zoneout
from seqmem.cli.config.build import build
from seqmem.cli.config.errors import ConfigError
from seqmem.cli.config.own_hydra import own_hydra
from seqmem.cli.config.schema import RunConfig, everything, from_mapping
from seqmem.cli.config.wrapping import as_word
from seqmem.randomness import ambient
from small_models import Noisy

T, B, D, H = 6, 3, 5, 4
SETTINGS = Path(__file__).parents[1] / "conf" / "cell"


def made(make: Callable[[], Cell]) -> Cell:
    with ambient(0, "wrappers"):
        return make().double()


@pytest.fixture
def xs() -> Tensor:
    return torch.randn(T, B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_steps(cell: Cell, xs: Tensor, state: State) -> tuple[Tensor, State]:
    outputs = []
    for output, new in steps(cell, xs.unbind(0), state):
        outputs.append(output)
        state = new
    return torch.stack(outputs), state


def test_a_pre_norm_residual_lstm_is_torchs_around_torchs(xs: Tensor) -> None:
    cell = made(lambda: Residual(LayerNorm(LSTM(D, H, seq_len=9))))
    weights, twin = dict(cell.named_parameters()), nn.LSTM(D, H).double()
    twin.load_state_dict({name: weights[f"inner.inner.fused.{name}"] for name in dict(twin.named_parameters())})
    with torch.no_grad():
        weights["inner.norm.weight"].normal_()
        weights["inner.norm.bias"].normal_()
    x = xs.numpy()
    normalised = (x - x.mean(-1, keepdims=True)) / sqrt(x.var(-1, keepdims=True) + 1e-5)
    entered = weights["inner.norm.weight"] * torch.from_numpy(normalised) + weights["inner.norm.bias"]
    torch.testing.assert_close(cell(xs)[0], twin(entered)[0] + xs @ weights["around.weight"].T)
    same = made(lambda: Residual(GRU(D, D, forget_bias=1.0)))
    inner = same.get_submodule("inner")
    assert dict(same.named_parameters()).keys() == {f"inner.{name}" for name, _ in inner.named_parameters()}
    torch.testing.assert_close(same(xs)[0] - xs, inner(xs)[0])


def test_dropout_drops_outputs_and_nothing_else(xs: Tensor) -> None:
    cell, xs = made(lambda: Dropout(RNN(D, 400), p=0.3)), xs.repeat(4, 1, 1)
    inside, end = cell.get_submodule("inner")(xs)
    with ambient(0, "noise"):
        outputs, state = cell(xs)
    torch.testing.assert_close(state, end)
    dropped = outputs == 0
    torch.testing.assert_close(outputs[~dropped], inside[~dropped] / 0.7)
    count = dropped.numel()
    assert dropped.double().mean().item() == pytest.approx(0.3, abs=4.5 * (0.3 * 0.7 / count) ** 0.5)
    torch.testing.assert_close(cell.eval()(xs), (inside, end))


def test_zoneout_keeps_units_of_every_state(xs: Tensor) -> None:
    cell, x = made(lambda: Zoneout(LSTM(D, 2000, seq_len=9), p=0.3)), xs[0]
    old = {name: torch.ones(B, 2000, dtype=torch.float64) for name in ("hidden", "cell")}
    inner = cell.get_submodule("inner")
    assert isinstance(inner, LSTM)
    _, new = inner.step(x, old)
    with ambient(0, "noise"):
        output, state = cell.step(x, old)
    assert output is state["hidden"]
    kept = {name: state[name] == old[name] for name in old}
    for name, mask in kept.items():
        assert mask.double().mean().item() == pytest.approx(0.3, abs=4.5 * (0.3 * 0.7 / mask.numel()) ** 0.5)
        torch.testing.assert_close(state[name][~mask], new[name][~mask])
    assert (kept["hidden"] != kept["cell"]).any()
    _, state = cell.eval().step(x, old)
    torch.testing.assert_close(state, {name: 0.3 * old[name] + 0.7 * new[name] for name in old})


@pytest.mark.parametrize(
    "make", [lambda: Dropout(LSTM(D, H, seq_len=9), p=0.5), lambda: Zoneout(GRU(D, H, forget_bias=1.0), p=0.5)]
)
def test_noise_is_that_of_the_steps_and_goes_on_over_a_cut(make: Callable[[], Cell], xs: Tensor) -> None:
    cell = made(make)
    with ambient(0, "noise", 7):
        whole, final = cell(xs)
    with ambient(0, "noise", 7):
        torch.testing.assert_close(by_steps(cell, xs, cell.initial_state(B)), (whole, final))
    with ambient(0, "noise", 7):
        head, state = cell(xs[:2])
        tail, state = cell(xs[2:], state)
    torch.testing.assert_close((torch.cat([head, tail]), state), (whole, final))
    with ambient(0, "noise", 8):
        assert not torch.equal(cell(xs)[0], whole)


WRAPS: dict[str, Callable[[], Cell]] = {
    "dropout in each layer": lambda: Stack([Dropout(Antisymmetric(D, H), p=0.5), Dropout(Antisymmetric(H, H), p=0.3)]),
    "zoneout below dropout": lambda: Dropout(Zoneout(Antisymmetric(D, H), p=0.4), p=0.4),
    "both, in each layer": lambda: Stack(
        [Residual(Dropout(Zoneout(Antisymmetric(size, H), p=0.5), p=0.5)) for size in (D, H)]
    ),
    "below a cell that draws by itself": lambda: Stack([Noisy(D, H), Zoneout(Antisymmetric(H, H), p=0.5)]),
}


@pytest.mark.parametrize("name", WRAPS)
def test_noise_depends_neither_on_pieces_nor_on_the_order_of_layers(name: str, xs: Tensor) -> None:
    """Outputs and states are the same bits in any pieces that are recomputed, and by steps; so are gradients, but for
    the order of their sums."""
    cell = made(WRAPS[name])
    parameters = list(cell.parameters())

    def after(compute: Callable[[], tuple[Tensor, State]]) -> tuple[Any, ...]:
        with ambient(0, "noise", 7):
            outputs, final = compute()
            loss = (outputs * torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)).sum()
            return outputs, final, torch.autograd.grad(loss, parameters)

    whole = after(lambda: cell(xs))
    for every in (1, 2, 4, 100):
        pieces = after(lambda every=every: recomputed(cell, xs, None, every))
        torch.testing.assert_close(pieces[:2], whole[:2], rtol=0, atol=0)
        torch.testing.assert_close(pieces[2], whole[2], rtol=1e-12, atol=1e-15)  # summed in another order
    torch.testing.assert_close(after(lambda: by_steps(cell, xs, cell.initial_state(B)))[:2], whole[:2])
    with ambient(0, "noise", 7):
        assert not torch.equal(cell(xs)[0], cell(xs)[0]), "it draws nothing"


def test_states_and_gates_have_the_inner_cells_names(xs: Tensor) -> None:
    plain = Stack([LSTM(D, H, seq_len=9) for _ in range(1)])
    wrapped = Stack([Zoneout(Residual(Dropout(LayerNorm(LSTM(D, H, seq_len=9)), p=0.1)), p=0.1)])
    assert wrapped.initial_state(B).keys() == plain.initial_state(B).keys()
    gates = [cell.gates(xs[0].float(), cell.initial_state(B)).keys() for cell in (wrapped, plain)]
    assert gates[0] == gates[1]
    assert wrapped.keeps == plain.keeps


def test_what_draws_no_weights_leaves_the_cells_as_they_are() -> None:
    """So a run with dropout begins with the weights of the run without."""
    plain, wrapped = (
        made(lambda: LSTM(D, H, seq_len=9)),
        made(lambda: Zoneout(Dropout(LSTM(D, H, seq_len=9), p=0.1), p=0.1)),
    )
    for ours, theirs in zip(wrapped.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


# cell.wrap


def configured(*overrides: str) -> RunConfig:
    with own_hydra():
        return from_mapping(compose("train", overrides=[*TINY, *overrides]))


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("layer_norm+residual", "layer_norm+residual"),
        (["layer_norm", "residual"], "layer_norm+residual"),
        ([{"dropout": 0.10}, "residual"], "dropout:0.1+residual"),
        ("zoneout:1e-1", "zoneout:0.1"),
        ("dropout: .5 + residual", "dropout:0.5+residual"),
        ([], None),
        ("", None),
        (None, None),
        (3, 3),
    ],
)
def test_a_value_has_one_spelling(given: Any, word: Any) -> None:
    assert as_word(given) == word
    assert as_word(word) == word


def test_every_cell_can_be_wrapped_in_its_settings() -> None:
    lines = {
        path.stem: re.findall("^wrap: null .*", path.read_text(), re.MULTILINE) for path in SETTINGS.glob("*.yaml")
    }
    assert len({line for (line,) in lines.values()}) == 1
    (named,) = re.findall("inside out: (.*)", lines["lstm"][0])
    assert {word.partition(":")[0] for word in re.split(r"[+,] ?", named)} == set(WRAPPERS)


def test_settings_build_it_from_the_inside_out_for_every_layer() -> None:
    cell = build(configured("cell.wrap=[layer_norm,residual]", "cell.layers=2")).model.get_submodule("cell")
    kinds = [type(part) for part in cell.modules() if isinstance(part, Cell)]
    assert kinds == [Stack, *[Residual, LayerNorm, LSTM] * 2]


def test_the_kernels_still_compute_what_is_wrapped() -> None:
    assert build(configured("cell.wrap=dropout:0.1+layer_norm+residual")).backend.name == (
        "native" if NATIVE else "torch"
    )
    assert build(configured("cell.wrap=zoneout:0.1+residual")).backend.name != "native"


@pytest.fixture(scope="module")
def usual() -> dict[str, Any]:
    return everything(configured())


@pytest.mark.parametrize(
    ("wrap", "more", "message"),
    [
        ("residul", {}, "cell.wrap=residul: no wrapper is called 'residul'. Did you mean 'residual'?"),
        ("zoneout", {}, "cell.wrap=zoneout: zoneout needs its p: zoneout:0.1"),
        ("dropout:x", {}, "cell.wrap=dropout:x: dropout's p must be a number"),
        ("dropout:1", {}, "cell.wrap=dropout:1: must be from 0, and less than 1"),
        ("residual:2", {}, "cell.wrap=residual:2.0: residual has no option: leave out ':2.0'"),
        (True, {}, "cell.wrap=true: must be names with + between them"),
        ("zoneout:0.1", {"cell": {"name": "attention"}}, "cell.wrap=zoneout: this cell has no state that a step"),
        ("zoneout:0.1", {"kernel": "native"}, "kernel=native: cell=lstm has no native kernel for these settings"),
        ("layer_norm", {"task": {"name": "digits"}, "seq_len": 64}, "cell.wrap=layer_norm: an input of one number is"),
    ],
)
def test_mistakes_are_one_line(usual: dict[str, Any], wrap: Any, more: dict[str, Any], message: str) -> None:
    settings = usual | {"evaluate": usual["evaluate"] | {"lengths": None}} | more
    with pytest.raises(ConfigError) as refused:
        build(from_mapping(settings | {"cell": settings["cell"] | {"wrap": wrap}}))
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_list_tells_of_them(typed: Callable[..., Completed]) -> None:
    out = typed("list", "wrappers").out
    assert re.findall(r"^  (\w+)", out, re.MULTILINE) == [*WRAPPERS]
    assert "y_t = x_t + cell(x_t)" in typed("list", "wrapper", "residual").out
    typed("list", "wrapper", "residul").refuses(
        "no wrapper is called 'residul'. Did you mean 'residual'?", code=2, verb="list"
    )


def test_attention_may_be_normalised_and_added_to() -> None:
    cell = made(lambda: Residual(LayerNorm(Attention(D, D))))
    assert cell(torch.zeros(T, B, D, dtype=torch.float64))[0].shape == (T, B, D)
