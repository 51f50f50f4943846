"""A user's own cell or model that breaks what it promises is refused before the first job, in a line with the repair.

Each class here differs from a sound one by one mistake, and the line is of that mistake.
"""

import re
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from doors import TwoPhase
from seqmem.cells import LSTM, Cell
from seqmem.cli.config.errors import ConfigError
from seqmem.cli.config.trial import try_cell, try_model
from seqmem.laws.subject import materialize
from seqmem.models import Step  # noqa: F401 (in the lines below)
from seqmem.tasks import Subject


class Sound(Cell):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.inner, self.mixed = nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.kept: Any = None
        self.more()

    def more(self) -> None:
        """Another attribute."""

    def zeros(self, batch_size: int) -> Tensor:
        return self.inner.weight.new_zeros(batch_size, self.output_size)

    def initial_state(self, batch_size: int) -> Any:
        return {"h": self.zeros(batch_size)}

    def step(self, x: Any, state: Any) -> Any:
        h = self.change(self.next(x, state["h"]))
        return h, {"h": h}

    def next(self, x: Any, h: Any) -> Any:
        return (self.inner(x) + self.mixed(h)).tanh()

    def change(self, h: Any) -> Any:
        return h


KEEPING = """
def step(self, x, state):
    self.kept = h = self.next(x, self.zeros(len(x)) if self.kept is None else self.kept)
    return h, {"h": h}
"""

IN_PLACE = """
def step(self, x, state):
    h = state["h"].add_(self.inner(x))
    return h, {"h": h}
"""

THE_DICTIONARY = """
def step(self, x, state):
    state["h"] = self.next(x, state["h"])
    return state["h"], state
"""

CARRIED = "take dtype and device of a new tensor from a weight, e.g. weight.new_zeros(...)"
ON_SELF = "the same sequence again: self.kept is changed by the first: what is carried on belongs into the state"
UNSEEN = "has weights that torch does not see, so that they would not be trained: use nn."

MISTAKES = {
    # what a state is
    "def initial_state(self, n): return (self.zeros(n), self.zeros(n))": "returns a tuple as state: it must be a "
    "dictionary of tensors, {'h': h, 'c': c}",
    "def initial_state(self, n): return None": "initial_state returns nothing as state: it must be a dictionary",
    "def initial_state(self, n): return {'hc': (self.zeros(n), self.zeros(n))}": "returns a tuple as state 'hc': give "
    "each tensor a name of its own",
    "def initial_state(self, n): return {'h': 0.0}": "returns a float as state 'h': it must be a tensor [B, ...]",
    "def initial_state(self, n): return {'h': self.zeros(n)[0]}": "for a batch of 3: the batch comes first",
    "def change(self, h): return h.squeeze()": "for a batch of 1: the batch comes first",
    "def step(self, x, state): return state['h'], (state['h'],)": "step returns a tuple as state: it must be a",
    "def step(self, x, state): return state['h']": "step returns a tensor: it must return (output, state)",
    "def step(self, x, state): return state, state['h']": "step's output is a dict: (output, state), in this order",
    "def step(self, x, state): return state['h'], {'g': state['h']}": "a state of ['g'] out of ['h']: names must stay",
    # dtypes and devices
    "def initial_state(self, n): return {'h': torch.zeros(n, 4)}": "the state 'h' in float32 where the weights are in "
    "float64 (gradients are measured in it): make it by self.inner.weight.new_zeros(...)",
    "def change(self, h): return h * torch.ones(4, dtype=torch.float64)": "step's output is float64 where the weights "
    f"are float32: {CARRIED}",
    "def initial_state(self, n): return {'h': torch.zeros(n, 4, dtype=int)}\n"
    "def next(self, x, h): return self.inner(x) + h": f"'h' begins as int64, and step makes it float32: {CARRIED}",
    "def initial_state(self, n): return {'h': torch.zeros(n, 4, device='cuda:99')}": CARRIED,
    "def more(self): self.mix = torch.eye(4)\n"
    "def change(self, h): return h @ self.mix": "self.mix is a plain tensor, which stays as it is: self.regist",
    # a function of its arguments
    KEEPING: ON_SELF,
    KEEPING.replace("return h,", "self.kept = h.detach()\n    return h,"): ON_SELF,
    "def more(self): self.rng = torch.Generator().manual_seed(0)\n"
    "def change(self, h): return h + torch.rand(h.shape, generator=self.rng)": "draw from torch's global generator",
    "def change(self, h): self.kept = h; return h": "self.kept keeps the graph of a step: detach it",
    IN_PLACE: "step changes the state 'h' in place: make new tensors, h + x and not h.add_(x)",
    THE_DICTIONARY: "step changes the dictionary that it is given: return a new one",
    # a batch
    "def change(self, h): return h - h.mean(0)": "a sequence depends on the others of its batch: keep the rows",
    "def change(self, h): return h / len(h)": "another in a batch of 2 than of 3: let it not depend on the batch size",
    "def change(self, h): return h.view(3, -1)": "works with a batch of 3 sequences and fails with 2: RuntimeError: "
    "shape '[3, -1]' is invalid for input of size 8: take the size from x.shape[0]",
    # weights
    "def change(self, h): self.late = nn.Parameter(h[0, 0].detach()); return h": "step makes the weight 'late', which "
    "no optimizer sees: make it in __init__",
    "def more(self): self.all = [nn.Parameter(torch.eye(4))]": f"self.all {UNSEEN}ParameterList",
    "def more(self): self.all = [nn.Linear(4, 4)]": f"self.all {UNSEEN}ModuleList",
    "def more(self): self.all = torch.ones(4, requires_grad=True)": f"self.all {UNSEEN}Parameter",
    # what else it computes
    "def forward(self, xs, state=None): return 2 * Cell.forward(self, xs)[0], None": "forward computes something else "
    "than step, which defines it",
    "def change(self, h): return h / 0": "step's output is not finite after a few timesteps from its initial state",
}
"""Methods that replace sound ones -> the line."""

SOUND = [
    "",
    "def change(self, h): return h + torch.randn_like(h)",
    "def change(self, h): return nn.functional.dropout(h, 0.5, self.training)",
    "def more(self): self.norm = nn.BatchNorm1d(4)\ndef change(self, h): return self.norm(h)",
    "def more(self): self.lazy = nn.LazyLinear(4)\ndef change(self, h): return self.lazy(h)",
    "def more(self): self.also = [self.inner]",
    "def change(self, h): self.kept = h.detach(); return h",
]


def cell(methods: str) -> Cell:
    defined: dict[str, Any] = {}
    exec(methods, globals(), defined)
    return type("Own", (Sound,), defined)(5, 4)


def tried(own: Cell, dtype: torch.dtype = torch.float32, *, traced: bool = True) -> None:
    try_cell(own, "cell.target=own.Own", device=torch.device("cpu"), dtype=dtype, traced=traced)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_repair(mistake: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(MISTAKES[mistake])) as error:
        tried(cell(mistake))
    assert str(error.value).startswith("cell.target=own.Own: ")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_sound_is_let_be(dtype: torch.dtype) -> None:
    for methods in SOUND:
        own = cell(methods)
        materialize(own, 0)
        before = {name: value.clone() for name, value in own.state_dict().items()}
        tried(own, dtype)
        assert before.keys() == own.state_dict().keys()
        assert all(torch.equal(before[name], value) for name, value in own.state_dict().items())
    tried(LSTM(5, 4, seq_len=9), dtype)


def test_without_measurements_float64_is_not_asked_for() -> None:
    methods = "def initial_state(self, n): return {'h': torch.zeros(n, 4)}"
    tried(cell(methods), traced=False)
    with pytest.raises(ConfigError, match="in float32 where"):
        tried(cell(methods), torch.float64, traced=False)


MODELS = {
    "yield step.x, step.output": "walk yields a tuple: it must yield seqmem.models.Step(x, output, state)",
    "yield Step(step.x, step.output, one := {**step.state}); one['h'] = step.x": "walk changes a dictionary that it "
    "has yielded: make a new one each time",
    "yield Step(step.x, step.output - step.output.mean(0), step.state)": "depends on the others of its batch",
    "yield Step(step.x, step.output, {**step.state, 's': torch.zeros(3)})": "walk makes the state 's' in float32 where "
    "the weights are in float64",
    "yield step; step.state['read'].add_(0)": "walk changes the state 'read' in place: make new tensors",
    "self.n = getattr(self, 'n', 0) + 1; yield Step(step.x, self.n * step.output, step.state)": "self.n is changed",
    "yield step": "",
}
"""What it does with the steps of a sound model -> the line."""


@pytest.mark.parametrize("does", MODELS)
def test_a_mistake_in_a_model_is_named(does: str) -> None:
    defined: dict[str, Any] = {}
    exec(
        f"def walk(self, inputs, state=None):\n for step in TwoPhase.walk(self, inputs, state):\n  {does}",
        globals(),
        defined,
    )
    model = type("Own", (TwoPhase,), defined)(Subject(), lambda size: LSTM(size, 4, seq_len=5))
    with pytest.raises(ConfigError, match=re.escape(MODELS[does])) if MODELS[does] else nullcontext():
        try_model(model, Subject(), "model.target=own.Own", device=torch.device("cpu"), dtype=torch.float32)
