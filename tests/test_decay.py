"""A gradient's profile in numbers and in words: made-up profiles whose description is known from how they were made.

Every profile begins at the answer, where the gradient is that of the readout: made large here, and of no effect.
"""

from collections.abc import Mapping
from math import inf, isnan, log, log10, nan

import numpy as np
import pytest
import torch
from numpy import ndarray
from torch import Tensor

from seqmem.cells import Cell, State
from seqmem.decay import (
    NUMBERS,
    Decay,
    Trace,
    decay,
    decay_from,
    decays_of,
    in_words,
    is_current,
    one_step_back,
    profile,
    relative,
    states,
)
from seqmem.models.recurrent import SequenceModel
from seqmem.probes.gradient import GradientProbe
from seqmem.randomness import ambient, generator
from seqmem.tasks import Pronoun

READOUT = 40.0
K = np.arange(49)
NOISE = np.random.default_rng(0).uniform(-1, 1, 49)


def after(*memory: ndarray | float) -> ndarray:
    """A profile [K] by timesteps back: the readout at the answer, then ``memory`` from one step back on."""
    return np.concatenate([[READOUT], *map(np.atleast_1d, memory)])


# Geometric profiles


@pytest.mark.parametrize("factor", [0.1, 0.5, 0.9, 0.99])
def test_a_geometric_decay_has_its_half_life(factor: float) -> None:
    fit = decay(after(3.0 * factor**K))
    assert fit.half_life == pytest.approx(log(2) / -log(factor), rel=1e-9)
    assert fit.factor == pytest.approx(factor)
    assert fit.r2 == pytest.approx(1)
    assert (fit.points, fit.underflowed) == (49, 0)
    assert fit.log10_arrives == fit.log10_least == pytest.approx(48 * log10(factor))
    assert (fit.least_at, fit.most_at, fit.log10_most) == (49, 1, 0)
    assert fit.horizon == next((k + 1 for k in range(49) if factor**k < 1e-3), inf)


@pytest.mark.parametrize("factor", [1.003, 1.02, 1.5, 30.0])
def test_growth_is_called_growth(factor: float) -> None:
    fit = decay(after(factor**K))
    assert fit.in_words() == f"grows x{factor:g} a timestep"
    assert (fit.half_life, fit.horizon) == (inf, inf)
    assert fit.factor == pytest.approx(factor)
    assert (fit.most_at, fit.log10_least) == (49, 0)
    assert fit.log10_arrives == pytest.approx(48 * log10(factor))


@pytest.mark.parametrize(
    "memory",
    [np.full(49, 0.2), 1 + 1e-7 * NOISE, (1 - 3e-8) ** K, (1 + 1e-6) ** K, 1 + 0.02 * NOISE, 0.9995**K],
    ids=["constant", "rounding", "float32 rotation", "float32 rotation that grows", "2 % noise", "1400 timesteps"],
)
def test_rounding_is_no_decay(memory: ndarray) -> None:
    fit = decay(after(memory))
    assert fit.in_words() == "keeps its size"
    assert (fit.half_life, fit.horizon) == (inf, inf)


@pytest.mark.parametrize("rho", [0.5, 0.93, 1.0, 1.07])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_scaled_rotation_is_called_what_it_is(rho: float, dtype: torch.dtype) -> None:
    """h = rho Q h + x, in closed form rho to the power of k; a Q that float32 has rounded keeps the norm to 1e-7."""

    class Rotation(Cell):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.input_size = self.output_size = size
            q, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator(0, "q")))
            self.register_buffer("matrix", (rho * q).to(dtype))

        def initial_state(self, batch_size: int) -> State:
            return {"hidden": torch.zeros(batch_size, self.output_size, dtype=torch.float64)}

        def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
            hidden = state["hidden"] @ self.matrix.double().T + x  # pyright: ignore
            return hidden, {"hidden": hidden}

    task = Pronoun()
    with ambient(0, "weights"):
        model = SequenceModel.for_task(task, Rotation, embed_size=4).double().eval()
    measured = GradientProbe().measure(model, task, task.sample(3, 40, generator(0, "t")))
    state = measured.scalars["state"]
    half_life = log(2) / -log(rho) if rho < 1 else inf
    assert state["half_life"] == pytest.approx(half_life, rel=1e-5)
    assert state["log10_arrives"] == pytest.approx(38 * log10(rho), abs=1e-5)
    words = {0.5: "half-life 1 timesteps", 0.93: "half-life 9.55 timesteps", 1.0: "keeps its size"}
    assert in_words(state) == words.get(rho, "grows x1.07 a timestep")


# Others

U_SHAPE = 10 ** (-4 + 4 * ((K - 23) / 23.0) ** 2)


@pytest.mark.parametrize(
    ("memory", "words", "arrives"),
    [
        (U_SHAPE[:47], "falls to 10^-4.0 at 24 back, then rises to 100 %", 0.0),
        (U_SHAPE[:42], "falls to 10^-4.0 at 24 back, then rises to 2.82 %", -4 + 4 * (18 / 23) ** 2),
        (1 / U_SHAPE[:47], "rises to 10^4.0 at 24 back, then falls to 100 %", 0.0),
        (np.where(K < 10, 0.5**K, 0.5**10), "falls unevenly, to 0.0977 %", 10 * log10(0.5)),
        (np.where(K < 25, 0.5**K, 0.5**25 * 0.9 ** (K - 25)), "falls unevenly, to 10^-8.6", None),
        (np.where(K < 25, 1.0, 1e-6), "falls unevenly, to 10^-6.0", -6.0),
        (np.where(K < 25, 1.0, 50.0), "grows unevenly, to 10^1.7", log10(50)),
        (np.where(K < 25, 1.0, 0.0), "falls unevenly, to nothing from 26 back", -inf),
        (np.where(K < 25, 0.9**K, 0.0), "falls unevenly, to nothing from 26 back", -inf),
        (np.where(K < 25, 0.9**K, inf), "falls to 7.98 % at 25 back, then rises to infinity", inf),
        (np.where(K < 25, 1.5**K, 0.0), "rises to 10^4.2 at 25 back, then falls to nothing", -inf),
        (np.where(K < 30, 1e-10 ** K.astype(float), 0.0), "half-life 0.0301 timesteps, zero from 31 back", -inf),
        (np.array([1, 1e100, 1e200, 1e300, inf, inf]), "grows x1e+100 a timestep, infinite from 5 back", inf),
        (np.array([1, 1, 0.5, 0, 0, 0.3, 0.2]), "falls to nothing at 4 back, then rises to 20 %", log10(0.2)),
        (np.where(K % 2, 0.8, 1.0), "stays between 80 % (2 back) and 100 %", 0.0),
        (np.where(K < 20, 1.0, 0.6), "stays between 60 % (21 back) and 100 %", log10(0.6)),
    ],
    ids=[
        *("a U", "a U that ends below", "a hump", "a knee", "a mild knee", "a step down", "a step up", "a window"),
        *("a window of a decay", "a decay, then infinite", "a window of a growth"),
        *("underflow", "overflow", "a gap", "noise", "a low step"),
    ],
)  # fmt: skip
def test_other_profiles_in_words(memory: ndarray, words: str, arrives: float | None) -> None:
    fit = decay(after(memory))
    assert fit.in_words() == words
    if arrives is not None:
        assert fit.log10_arrives == pytest.approx(arrives, abs=1e-2)
    assert isnan(fit.half_life) is not ("half-life" in words or "grows x" in words)
    # The extremes by brute force.
    shares = memory / memory[0]
    with np.errstate(divide="ignore"):
        logs = np.log10(shares)
    assert (fit.log10_least, fit.log10_most) == (pytest.approx(logs.min()), pytest.approx(logs.max()))
    assert (fit.least_at, fit.most_at) == (1 + shares.argmin(), 1 + shares.argmax())
    assert fit.horizon == next((k + 1 for k, share in enumerate(shares) if share < 1e-3), inf)


def test_a_line_through_noise_is_numpys() -> None:
    memory = 0.9**K * (1 + 0.2 * NOISE)
    slope, _ = np.polyfit(K, np.log(memory), 1)
    fit = decay(after(memory))
    assert fit.half_life == pytest.approx(-log(2) / slope)
    assert fit.factor == pytest.approx(np.exp(slope))
    assert fit.r2 == pytest.approx(np.corrcoef(K, np.log(memory))[0, 1] ** 2)


def test_the_readmes_lstm() -> None:
    """Profile of seed 3: 12.8 % after one step, 7.5 % at 13 back, 12.9 % at the first word, relative to the readout."""
    back = np.interp(np.arange(50), [0, 1, 2, 5, 13, 20, 49], [1, 0.1279, 0.0903, 0.0788, 0.075, 0.0788, 0.1288])
    fit = decay(back)
    assert fit.in_words("word") == "stays between 58.6 % (13 back) and 101 %"
    assert isnan(fit.half_life)
    assert NUMBERS["log10_arrives"].words(fit.log10_arrives) == "101 %"


@pytest.mark.parametrize(
    ("back", "words", "arrives"),
    [
        ([1.0], "too few timesteps to tell", nan),
        ([1.0, 0.5], "too few timesteps to tell", 0.0),
        ([1.0, 0.5, 0.05], "too few timesteps to tell", -1.0),
        ([1.0, 0.5, 0.25, 0.125], "half-life 1 timesteps", 2 * log10(0.5)),
        ([0.0] * 10, "none crosses a step", -inf),
        ([1.0] + [0.0] * 9, "none crosses a step", -inf),
        ([1.0, 0.5, 0.0, 0.0], "zero from 2 back", -inf),
        ([1.0] + [inf] * 5, "infinite from 1 back", inf),
        ([nan] * 5, "too few timesteps to tell", nan),
    ],
)
def test_too_little_for_a_line(back: list[float], words: str, arrives: float) -> None:
    fit = decay(np.array(back))
    assert fit.in_words() == words
    assert fit.log10_arrives == pytest.approx(arrives, nan_ok=True)
    assert fit.points == np.sum((np.array(back[1:]) > 0) & (np.array(back[1:]) < inf))
    assert fit.underflowed == back.count(0.0)


def test_what_no_timestep_wrote_is_left_out() -> None:
    fit = decay(np.array([1.0, 0.5, 0.25, nan, 0.0625, nan]))
    assert (fit.points, fit.half_life) == (3, pytest.approx(1.0))
    assert fit.log10_arrives == pytest.approx(3 * log10(0.5))
    # A state that is not written one step back is relative to the nearest timestep that writes it.
    assert decay(np.array([nan, nan, 0.5, 0.25, 0.125])).log10_arrives == pytest.approx(2 * log10(0.5))


# Relative to one step back


def test_the_readout_changes_nothing() -> None:
    memory = 0.8**K
    for readout in (0.0, 1e-3, 1.0, 1e6):
        fit = decay(np.concatenate([[readout], memory]))
        assert replace_underflow(fit) == decay(after(memory))
    trace = Trace({"hidden": after(memory)[::-1, None] * np.ones(3)}, np.full(3, 49))
    np.testing.assert_allclose(profile(trace.state, trace.answered_at), np.log10(memory[::-1]), atol=1e-12)


def replace_underflow(fit: Decay) -> Decay:
    """Counted at the answer, too."""
    return decay_from({**fit.numbers(), "underflowed": 0})


def test_rows_relative_to_one_step_back() -> None:
    rows = np.array([[5.0, 1.0, 0.0, -2.0], [0.0, -inf, -1.0, -3.0], [0.0, inf, 0.0, 0.0], [1.0, -inf, -inf, -inf]])
    np.testing.assert_array_equal(
        relative(rows), [[0, -1, -3], [-inf, 0, -2], [nan, nan, nan], [-inf, -inf, -inf]]
    )  # fmt: skip
    assert relative(np.zeros((2, 1))).shape == (2, 0)
    assert [one_step_back(np.array(back)) for back in ([9.0, 2.0, 1.0], [9.0, 0.0, 1.0], [9.0, 0.0])] == [2, 1, 0]
    assert isnan(one_step_back(np.array([1.0])))


def test_states_are_named_where_there_are_several() -> None:
    numbers: Mapping[str, float] = {}
    assert states({"state": numbers, "input": numbers, "hidden": numbers}) == []
    assert states({"state": numbers, "input": numbers, "hidden": numbers, "cell": numbers}) == ["hidden", "cell"]


# Many at once, and stored


def test_decays_of_many_traces_equal_single_ones_bitwise() -> None:
    rng = np.random.default_rng(0)

    def random_trace(timesteps: int) -> Trace:
        base = np.exp(rng.normal(0, 1, (timesteps, 5)) + rng.normal(0, 0.5) * np.arange(timesteps)[:, None])
        names = ("input", "hidden", "cell")[: rng.integers(2, 4)]
        return Trace({name: base * rng.random((timesteps, 5)) for name in names}, at)

    for timesteps in (1, 2, 3, 8, 9, 50, 131):
        at = rng.integers(0, timesteps, 5)
        traces = [random_trace(timesteps) for _ in range(7)]
        traces[2].norms["input"][:] = 0
        traces[3].norms["hidden"][: timesteps // 2] = 0
        traces[4].norms["input"][-1] = np.inf
        together = decays_of(traces)
        assert [str(decays) for decays in together] == [str(trace.decays()) for trace in traces]  # nan is nan
        for decays in together:
            assert all(one.in_words() for one in decays.values())
    assert decays_of([]) == []


def test_a_decay_survives_a_round_trip_through_its_numbers() -> None:
    fit = decay(after(0.5**K))
    assert decay_from(fit.numbers()) == fit
    assert set(fit.numbers()) == set(NUMBERS)
    assert is_current(fit.numbers())
    earlier = {"half_life": 5.0, "horizon": inf, "log10_first_over_last": -1.0, "points": 9, "r2": 0.9}
    assert (is_current(earlier), in_words(earlier)) == (False, "")
