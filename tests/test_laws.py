"""The laws catch what they are for: cells that are broken in one way each, and by which laws that is seen. (That sound
cells pass is in test_cells.py.)"""

from typing import Any

import numpy as np  # noqa: F401 (in the lines below)
import pytest
import torch
from torch import Tensor, nn

from doors import TwoPhase
from seqmem.cells import LSTM, Cell, State
from seqmem.laws import LAWS, OfCell, OfModel, examine, made
from seqmem.models import EncoderDecoder, Step  # noqa: F401 (in the lines below)
from seqmem.randomness import ambient
from seqmem.tasks import Phrases, Subject

LONGEST = 20


class Sound(Cell):
    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.inner, self.mixed = nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.kept: Any = None
        self.more()

    def more(self):
        pass

    def initial_state(self, batch_size: int) -> State:
        return {"h": self.inner.weight.new_zeros(batch_size, self.output_size)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h = self.next(x, state["h"])
        return h, {"h": h}

    def next(self, x: Tensor, h: Tensor) -> Tensor:
        return (self.inner(x) + self.mixed(h)).tanh()


class Slips(torch.autograd.Function):
    """tanh, with a backward that has forgotten the square."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a.tanh())
        return a.tanh()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (h,) = ctx.saved_tensors
        return gradient * (1 - h)


BROKEN = {
    "looks ahead": (
        "forward float32 causal cut length",
        """
def forward(self, xs, state=None):
    outputs, state = Cell.forward(self, xs, state)
    return torch.cat([outputs[1:], outputs[-1:]]), state
""",
    ),
    "looks ahead by a mean over time": (
        "forward causal cut length",
        """
def forward(self, xs, state=None): return Cell.forward(self, xs - 1e-6 * xs.mean(0), state)
""",
    ),
    "mixes rows": ("rows", "def next(self, x, h): return Sound.next(self, x, h - h.mean(0))"),
    "divides by the size of the batch": (
        "rows",
        """
def next(self, x, h): return Sound.next(self, x, h) / len(h)
""",
    ),
    "is made for batches of three": (
        "rows",
        """
def next(self, x, h): return Sound.next(self, x.view(3, -1), h)
""",
    ),
    "a shortcut that is off by a millionth": (
        "forward",
        """
def forward(self, xs, state=None):
    outputs, state = Cell.forward(self, xs, state)
    return outputs * (1 + 1e-6), state
""",
    ),
    "a shortcut with another gradient": (
        "forward takes_part",
        """
def forward(self, xs, state=None): return Cell.forward(self, xs.detach(), state)
""",
    ),
    "a shortcut that begins anew": (
        "forward cut takes_part",
        """
def forward(self, xs, state=None): return Cell.forward(self, xs)
""",
    ),
    "forgets a part of its state at a cut": (
        "forward cut takes_part",
        """
def initial_state(self, n): return {name: Sound.initial_state(self, n)['h'] for name in 'hc'}
def step(self, x, state):
    c = state['c'] + self.next(x, state['h'])
    return c.tanh(), {'h': c.tanh(), 'c': c}
def forward(self, xs, state=None):
    start = self.initial_state(xs.shape[1])
    return Cell.forward(self, xs, start if state is None else {'h': state['h'], 'c': start['c']})
""",
    ),
    "detaches its state": (
        "gradients takes_part trace",
        "def next(self, x, h): return Sound.next(self, x, h.detach())",
    ),
    "detaches a weight": (
        "gradients takes_part",
        """
def next(self, x, h): return (self.inner(x) + h @ self.mixed.weight.detach().T + self.mixed.bias).tanh()
""",
    ),
    "a backward of its own": (
        "gradients trace",
        """
def next(self, x, h): return Slips.apply(self.inner(x) + self.mixed(h))
""",
    ),
    "float32 inside": (
        "gradients float64 trace",
        "def next(self, x, h): return Sound.next(self, x, h.float().to(h.dtype))",
    ),
    "bfloat16 inside": (
        "gradients float64 trace",
        "def next(self, x, h): return Sound.next(self, x, h).bfloat16().to(h.dtype)",
    ),
    "a state in float32": (
        "returns gradients float64 trace",
        """
def step(self, x, state): h = self.next(x, state['h'].to(x.dtype)); return h, {'h': h.float()}
""",
    ),
    "keeps its state on self": (
        "forward float32 causal rows cut gradients takes_part float64 length same trace",
        """
def next(self, x, h):
    self.kept = h = Sound.next(self, x, 0 * h if self.kept is None else self.kept)
    return h
""",
    ),
    "keeps its state on self, anew for each sequence": (
        "forward gradients takes_part float64 same trace",
        """
def initial_state(self, n): self.kept = None; return Sound.initial_state(self, n)
def next(self, x, h):
    self.kept = h = Sound.next(self, x, h if self.kept is None else self.kept)
    return h
""",
    ),
    "counts the sequences": (
        "cut same",
        """
def initial_state(self, n): self.kept = 1 + (self.kept or 0); return Sound.initial_state(self, n)
def next(self, x, h): return Sound.next(self, x, h) * (1 + 1e-12 * self.kept)
""",
    ),
    "dropout, always": (
        "forward float32 causal rows cut gradients float64 length same trace",
        "def next(self, x, h): return nn.functional.dropout(Sound.next(self, x, h))",
    ),
    "dropout of its own": (
        "same",
        """
def more(self): self.rng = torch.Generator()
def next(self, x, h):
    return Sound.next(self, x, h) + torch.rand(h.shape, generator=self.rng).to(h) * self.training
""",
    ),
    "numpy's noise in training": (
        "same",
        """
def next(self, x, h): return Sound.next(self, x, h) + (np.random.rand() if self.training else 0)
""",
    ),
    "changes its state in place": (
        "returns forward causal cut gradients takes_part float64 trace",
        """
def step(self, x, state): h = state['h'].mul_(0.5).add_(self.inner(x)); return h, {'h': h}
""",
    ),
    "changes its input in place": (
        "forward causal rows cut gradients takes_part length same trace",
        """
def next(self, x, h): return Sound.next(self, x.data.mul_(0.9), h)
""",
    ),
    "has a table of positions that ends": (
        "length",
        """
def more(self): self.register_buffer('table', torch.rand(LONGEST, 4))
def initial_state(self, n): return {**Sound.initial_state(self, n), 't': torch.zeros(n, dtype=torch.int64)}
def step(self, x, state):
    h = self.next(x, state['h']) + self.table[state['t']]
    return h, {'h': h, 't': state['t'] + 1}
""",
    ),
    "divides by zero in the end": (
        "length",
        """
def initial_state(self, n):
    return {**Sound.initial_state(self, n), 't': torch.zeros(n, 1).to(self.mixed.bias)}
def step(self, x, state):
    h = self.next(x, state['h']) / (state['t'] < LONGEST)
    return h, {'h': h, 't': state['t'] + 1}
""",
    ),
    "ends the process": (" ".join(LAWS), "def next(self, x, h): raise SystemExit(3)"),
    "a weight without effect": ("takes_part", "def more(self): self.more_of_it = nn.Linear(3, 3)"),
    "hides weights in a list": ("returns", "def more(self): self.all = [nn.Linear(4, 4)]"),
    "writes what it does not change": (
        "trace",
        """
def initial_state(self, n): return {name: Sound.initial_state(self, n)['h'] for name in 'hc'}
def step(self, x, state): h = self.next(x, state['h'] + state['c']); return h, {'h': h, 'c': 1 * state['c']}
""",
    ),
}
"""What a cell does -> the laws that it breaks; methods that replace sound ones."""


def made_of(methods: str) -> Cell:
    defined: dict[str, Any] = {}
    exec(methods, globals(), defined)
    return made(lambda: type("Own", (Sound,), defined)(5, 4))


def broken_laws(subject: OfCell | OfModel) -> list[str]:
    return [verdict.law.name for verdict in examine(subject) if not verdict.holds]


@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_breaks_the_laws_that_are_for_it(name: str):
    laws, methods = BROKEN[name]
    assert broken_laws(OfCell(made_of(methods))) == laws.split()


def test_the_counter_example_is_what_one_computes_oneself():
    subject = OfCell(made_of(BROKEN["forgets a part of its state at a cut"][1]))
    (verdict,) = examine(subject, ["cut"])
    assert verdict.outcome is not None
    counter = verdict.outcome.counter
    assert counter is not None
    cell, xs = subject.example()
    _, state = cell(xs[:1])
    tail, _ = cell(xs[1:], state)
    t, row, unit = counter.index
    assert (counter.what, counter.place) == ("output", f"cut before timestep 1, timestep {t}, row {row}, unit {unit}")
    assert counter.values == (tail[t - 1, row, unit].item(), cell(xs)[0][t, row, unit].item())
    difference = (tail - cell(xs)[0][1:]).abs()
    assert difference[: t - 1].max() < 1e-9 if t > 1 else difference[0, row, unit] > 1e-9
    assert not difference[t - 1].flatten()[: row * 4 + unit].gt(1e-9).any()


def test_a_wrong_gradient_is_traced_to_one_number():
    """One of 16 weights is detached: which one is told, with the true derivative."""

    class One(Sound):
        def next(self, x: Tensor, h: Tensor) -> Tensor:
            weight = self.mixed.weight.clone()
            weight[2, 3] = weight[2, 3].detach()
            return (self.inner(x) + h @ weight.T).tanh()

    (verdict,) = examine(OfCell(made(lambda: One(5, 4))), ["gradients"])
    assert verdict.outcome is not None
    counter = verdict.outcome.counter
    assert counter is not None
    assert (counter.what, counter.index) == ("gradient by mixed.weight", (2, 3))
    assert counter.values is not None
    assert counter.values[0] == 0
    assert abs(counter.values[1]) > 0.01


MODELS = {
    "yield step": "",
    "yield Step(step.x, step.output - step.output.mean(0), step.state)": "rows",
    "yield Step(step.x, step.output + self.embed(inputs).mean(0)[:, :1], step.state)": "causal cut same",
}
"""What it does with the steps of a sound model -> the laws that it breaks."""


@pytest.mark.parametrize("does", MODELS)
def test_a_model_is_examined_as_a_cell_is(does: str):
    defined: dict[str, Any] = {}
    exec(
        f"def walk(self, inputs, state=None):\n for step in TwoPhase.walk(self, inputs, state):\n  {does}",
        globals(),
        defined,
    )
    model = type("Own", (TwoPhase,), defined)(Subject(), lambda size: LSTM(size, 4, seq_len=5))
    assert broken_laws(OfModel(model, Subject(), 8)) == MODELS[does].split()


def test_products_over_all_timesteps_are_rounded_otherwise_than_those_of_one():
    """Each step of the decoder alone, from the state before it, is what it is in the walk, but not in every bit."""
    task = Phrases()
    with ambient(8, "w"):  # a maximum of its maxout bends within reach
        model = EncoderDecoder.for_task(
            task, lambda size: LSTM(size, 64, seq_len=9), attention="bahdanau", bidirectional=True
        )
    assert broken_laws(OfModel(model, task, task.min_seq_len)) == []
