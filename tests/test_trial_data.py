"""A user's own task or probe that breaks what it promises is refused before the first job, in a line with the repair.

Each class here differs from a sound one by one mistake, and the line is of that mistake.
"""

import random  # noqa: F401 (in the lines below)
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import seqmem
from commandline import TINY, Completed, runs_below
from seqmem.cells import LSTM
from seqmem.cli.config.errors import ConfigError
from seqmem.cli.config.trial import try_declared, try_probe, try_task
from seqmem.cli.notebook.errors import SettingError
from seqmem.measurement import Measurement, Number
from seqmem.metrics import BITS  # noqa: F401 (in the lines below)
from seqmem.models.recurrent import SequenceModel
from seqmem.probes import GradientProbe, Probe, Scheduled
from seqmem.signals import Batch, Reals, Tokens  # noqa: F401
from seqmem.spaces import Space  # noqa: F401
from seqmem.tasks import TASKS, Subject, Task
from seqmem.training.plan import Plan


class Sound(Task):
    """Which of six symbols came first?"""

    name, source = "first", "this test"
    inputs, targets, min_seq_len, chance = Tokens(6), Tokens(6), 3, 1 / 6  # pyright: ignore

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Any:
        xs = torch.randint(6, (seq_len, batch_size), generator=rng)
        return self.change(Batch.asked_at_end(xs, xs[0]))

    def change(self, batch: Batch) -> Any:
        return batch

    def solve(self, inputs: Tensor) -> Any:
        return inputs[:1].expand(inputs.shape)

    def words(self, inputs: Tensor) -> Any:
        return [str(x) for x in inputs.tolist()]

    def answer(self, target: Tensor) -> Any:
        return str(int(target))


def other(given: Any, **fields: Any) -> Any:
    """``given`` with other fields, past the types that its constructor has in tests."""
    for name, value in fields.items():
        object.__setattr__(given, name, value)
    return given


def changed(field: str, value: str) -> str:
    return f"def change(self, b): return other(b, {field}={value})"


SUMS = """
inputs, targets, chance, solved_at = Reals(2), Reals(2), 1.0, 0.1
def sample(self, n, seq_len, rng):
    xs = torch.randn(seq_len, n, 2, generator=rng)
    return self.change(Batch.asked_at_end(xs, xs[0]))
def answer(self, y): return 'y'
"""

TASKS_WITH_A_MISTAKE = {
    # sizes
    "name = 3": "its name is an int: write name = '...' in the class",
    "inputs = 6": "inputs is an int: a signal, seqmem.signals.Tokens(n) or Reals(n)",
    "targets = Tokens(0)": "targets.size is 0: how many symbols or real numbers, at least 1",
    "min_seq_len = 2.5": "min_seq_len is 2.5: a whole number from 1, the shortest valid length",
    "max_seq_len = 2": "max_seq_len is 2: a whole number from min_seq_len, or None",
    "def facts(self): return ['x']": "facts returns a list: a dictionary from names to text",
    # scores
    "chance = '17 %'": "chance is a str: a number, the best score without a memory",
    "chance = 17": "chance is 17: accuracy is a fraction, above 0 and at most 1",
    "def chance_at(self, seq_len): return None": "chance_at(3) is nothing: a number",
    "solved_at = 0.1": "solved_at is 0.1, which is not better than its chance, 0.167: a score at which it is solved "
    "(higher is better), or None",
    SUMS + "solved_at = 0.99; chance = 0.5": "solved_at is 0.99, which is not better than its chance, 0.5: a score at "
    "which it is solved (lower is better), or None",
    "targets = Tokens(6, BITS); chance = 2.6; solved_at = None": "baseline_loss(3) is -0.955511: a number, the best",
    "def plateaus(self, seq_len): return 0.5": "plateaus returns a float: a list of seqmem.metrics.Plateau",
    # what a batch is
    "def change(self, b): return b.inputs, b.targets": "sample returns a tuple: it must return seqmem.signals.Batch(in",
    changed("asked", "[True]"): "sample's asked is a list: seqmem.signals.Batch(inputs, targets, weights, asked) is of",
    changed("inputs", "b.inputs.to('meta')"): "sample's inputs is on meta: make it on the CPU; training moves it",
    changed("weights", "b.weights.clone().requires_grad_()"): "sample's weights has a gradient: detach it",
    changed("inputs", "b.inputs.T"): "sample's inputs has shape (1, 3): (3, 1), [T B], the time comes first",
    changed("inputs", "b.inputs[1:]"): "sample's inputs has shape (2, 3): (3, 3), [T B], seq_len=3 is what the model",
    changed("targets", "b.targets[-1]"): "sample's targets has shape (3,): (3, 3), [T B]",
    SUMS + changed("targets", "b.targets[..., 0]"): "sample's targets has shape (3, 3): (3, 3, 2), [T B K]",
    changed("inputs", "b.inputs.float()"): "sample's inputs is float32: symbols are int64, e.g. by .long()",
    changed("targets", "b.targets.int()"): "sample's targets is int32: symbols are int64, e.g. by .long()",
    SUMS + changed("inputs", "b.inputs.long()"): "sample's inputs is int64: real numbers are float32",
    changed("weights", "b.asked"): "sample's weights is bool: float32, e.g. asked.float()",
    changed("asked", "b.weights"): "sample's asked is float32: true or false, e.g. weights > 0",
    changed("inputs", "b.inputs + 1"): "sample's inputs has the symbol 6: inputs.size has 0 to 5",
    changed("targets", "b.targets - 1"): "sample's targets has the symbol -1: targets.size has 0 to 5",
    SUMS + changed("inputs", "b.inputs / 0"): "sample's inputs are not finite: every number must be",
    changed("weights", "-b.weights"): "sample's weights are not all finite and at least 0: 0 is no weight, 1 a usual",
    changed("asked", "b.asked & (b.inputs[0] > 2)"): "sample has a sequence that asks nothing: asked is true at one",
    changed("weights", "b.weights * (b.inputs[0] > 2)"): "sample has a sequence without a weight: nothing could be",
    # how it is drawn
    "def sample(self, n, seq_len, rng): raise KeyError('x')": "sample(3, 3, rng) fails: KeyError: 'x'",
    "def sample(self, n, seq_len, rng): xs = torch.randint(6, (seq_len, n)); return Batch.asked_at_end(xs, xs[0])": "sa"
    "mple draws other inputs for the same rng again, with torch's global generator: draw from rng, generator=rng",
    changed("inputs", "(b.inputs + np.random.randint(6)) % 6"): "rng again, with numpy's global generator: seed one",
    changed("inputs", "(b.inputs + random.randrange(6)) % 6"): "rng again, with Python's global generator: seed one",
    "k = 0\ndef change(self, b): self.k += 1; return Batch.asked_at_end((b.inputs + self.k) % 6, b.targets[0])": "sampl"
    "e draws other inputs for the same rng again: draw all of them from rng, and keep nothing on self",
    changed("inputs", "b.targets.mul(0), targets=b.targets * 0"): "sample draws the same batch for every rng: draw",
    changed("inputs", "b.inputs.squeeze(1)"): "sample's inputs has shape (3,): (3, 1), [T B]",
    "def samples(self, n, seq_len, rngs): return [self.sample(n, seq_len, rngs[0])]": "samples draws other batches",
    # its parts
    "def validation(self): return None": "validation returns nothing: it must return a task, self if there are none",
    "def space(self, seq_len): return 6**seq_len": "space returns an int: seqmem.spaces.Space(size, folds)",
    "def space(self, seq_len): return Space(1e4, 4)": "fold puts 256 sequences into 1 of 4 folds: all of about",
    "def space(self, seq_len): return Space(1e4, 4)\ndef fold(self, xs): return xs[0]": "into fold 4: space has 4,",
    # what it says of sequences
    "def solve(self, inputs): return inputs.clone().zero_()": "the answers of solve score 15.2 %, and chance is 16.7 %",
    "def solve(self, inputs): return inputs[0]": "solve returns the shape (3,): an answer at every timestep, (3, 3)",
    "def solve(self, inputs): return inputs.float()": "solve returns float32: as in targets, int64",
    "def solve(self, inputs): return inputs.fill_(0)": "solve changes the inputs that it is given: make new tensors",
    "def solve(self, inputs): return inputs.tolist()": "solve returns a list: the right answer at every timestep",
    SUMS
    + "def solve(self, inputs): return inputs": "the answers of solve score 2.149, and chance is 1: they are those",
    "def words(self, inputs): return inputs.tolist()": "words returns a list: a list of words, one for each timestep",
    "def words(self, inputs): return ['x']": "words returns 1 words for 3 timesteps: one each",
    "def answer(self, target): return int(target)": "answer returns an int: a target in words, as text",
}
"""Lines of a class that replace those of a sound one -> the line."""

SOUND_TASKS = [
    "",
    SUMS,
    "def space(self, seq_len): return Space(6.0**seq_len, 6)\ndef fold(self, xs): return xs.sum(0) % 6",
    changed("targets", "torch.where(b.asked, b.targets, -100)"),
    changed("inputs", "b.inputs.int()"),
    "def solve(self, inputs): return torch.where(inputs[-1] > 2, inputs[:1], 0 * inputs)",
    SUMS + changed("inputs", "b.inputs.double()"),
]


def task(lines: str) -> Task:
    defined: dict[str, Any] = {}
    exec(lines, globals(), defined)
    return type("Own", (Sound,), defined)()


@pytest.mark.parametrize("mistake", TASKS_WITH_A_MISTAKE)
def test_a_mistake_in_a_task_is_named_with_its_repair(mistake: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(TASKS_WITH_A_MISTAKE[mistake])) as error:
        try_task(task(mistake), "task.target=own.Own", seq_len=5)
    assert str(error.value).startswith("task.target=own.Own: ")
    assert "\n" not in str(error.value)


def test_what_is_sound_is_let_be() -> None:
    before = torch.get_rng_state(), str(np.random.get_state())
    for own in (*map(task, SOUND_TASKS), *(kind() for kind in TASKS.values())):
        try_task(own, "task.target=own.Own", seq_len=own.min_seq_len + 3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == str(np.random.get_state())


class Norm(Probe):
    """The L2 norm of the weights, and how it is spread over the timesteps."""

    name = "norm"
    numbers: ClassVar[Mapping[str, Number]] = {"norm": Number("norm"), "other": Number("other")}

    def measure(self, model: Any, task: Task, batch: Batch) -> Any:
        norm = torch.cat([weight.flatten() for weight in model.parameters()]).norm().item()
        return self.change(norm, np.full(batch.asked.shape, norm))

    def change(self, n: float, s: Any) -> Any:
        return Measurement({"norm": n}, {"s": s})


def measured(scalars: str, series: str = "{}", answered_at: str = "None") -> str:
    fields = f"scalars={scalars}, series={series}, answered_at={answered_at}"
    return f"def change(self, n, s): return other(Measurement({{}}), {fields})"


PROBES_WITH_A_MISTAKE = {
    "numbers = ['norm']": "numbers is a list: a dictionary from names to seqmem.measurement.Number('title', 'meaning')",
    "numbers = {'norm': 'L2'}": "numbers has other things: a dictionary from names to seqmem.measurement.Number(",
    "numbers = {'norm': Number('norm', fit='r2')}": "'norm' has fit='r2', which is none of its numbers",
    "curves = 'log'": "curves is a str: it must be a Curves",
    "def change(self, n, s): return {'norm': n}": "measure returns a dict: it must return seqmem.measurement.Measurem",
    "def change(self, n, s): raise KeyError('w')": "measure fails: KeyError: 'w'",
    measured("[n]"): "measure returns a list as scalars: it must return seqmem.measurement.Measurement(",
    measured("{float('nan'): n}"): "measure returns a number called nan: names are those in numbers",
    measured("{'nrom': n}"): "measure returns a number 'nrom': numbers has norm, other; add it there",
    measured("{'norm': 'big'}"): "measure returns a str as the number 'norm': a float; NaN where it is not known",
    measured("{'norm': torch.ones(2)}"): "measure returns a tensor as the number 'norm': a float",
    measured("{'norm': None}"): "measure returns nothing as the number 'norm': a float",
    measured("{}"): "measure returns none of its numbers: numbers has norm, other",
    measured(
        "{'a': {'norm': n}, 'b': {'norm': n}}"
    ): "measure returns the parts a, b, and main is '': name in main the",
    "main = 'a'": "measure returns no part 'a', as main says: leave it out, or return {part: {name: number}}",
    measured("{'norm': n}", "[s]"): "measure returns a list as series: a dictionary of arrays [T B]",
    measured(
        "{'norm': n}", "{'s': s[1:]}"
    ): "measure returns the series 's' of shape (6, 3): (7,) or (7, 3), [T] or [T",
    measured("{'norm': n}", "{'s': torch.ones(7)}"): "the series 's' as a tensor: an array of float64, e.g. by .detach",
    measured("{'norm': n}", "{'s': s, 'mean': s.mean(1)}"): "measure returns series [T] and series [T B]",
    measured("{'norm': n}", "{'s': s}", "6"): "measure returns an int as answered_at: an",
    measured("{'norm': np.random.rand()}"): "for the same model again: draw from torch's global generator, not "
    "from numpy's, which no seed of the run sets",
    "k = 0\ndef change(self, n, s): self.k += 1; return Measurement({'norm': self.k})": "another 'norm' for the same "
    "model again: it must depend on its arguments alone; what it keeps on self is lost when a run is resumed",
    "def combined(self, series): return [*series]": "combined returns a list: a dictionary of arrays [T B]",
    "def in_words(self, numbers): return 'large'": "in_words fails: TypeError: ",
    "def snapshots(self, model, task): return model": "snapshots returns a RecurrentModel: None, or an object",
}

SOUND_PROBES = [
    "",
    measured("{'norm': torch.rand(()), 'other': float('inf')}"),
    measured("{'a': {'norm': np.float32(n)}, 'b': {}}", "{'s': s[:, 0] * np.nan}") + "\nmain = 'a'",
    "def change(self, n, s): self.seen = n; return Measurement({'norm': n}, {'s': s}, np.zeros(3, int))",
]


def tried(own: Probe) -> None:
    model = SequenceModel.for_task(Subject(), lambda size: LSTM(size, 4, seq_len=7))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try_declared(own, "probe.norm.target=own.Own")
    plan = Plan(7, evaluate_sequences=8)
    try_probe(Scheduled(own, 2, sequences=8), "probe.norm.target=own.Own", model, plan, Subject())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training


def probe(lines: str) -> Probe:
    defined: dict[str, Any] = {}
    exec(lines, globals(), defined)
    return type("Own", (Norm,), defined)()


@pytest.mark.parametrize("mistake", PROBES_WITH_A_MISTAKE)
def test_a_mistake_in_a_probe_is_named_with_its_repair(mistake: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(PROBES_WITH_A_MISTAKE[mistake])) as error:
        tried(probe(mistake))
    assert str(error.value).startswith("probe.norm.target=own.Own: ")
    assert "\n" not in str(error.value)


def test_a_sound_probe_is_let_be() -> None:
    for lines in SOUND_PROBES:
        own = probe(lines)
        tried(own)
        assert not vars(own)  # a copy was tried
    tried(GradientProbe())


class Shortcut:
    """Snapshots of a probe that say what a test lets them say."""

    nbytes = 1

    def __init__(self, model: Any, take: Callable[[Any], object]) -> None:
        self.model, self._take = model, take

    def take(self) -> Any:
        return self._take(self.model)

    def measure(self, batch: Batch, snapshots: Any) -> list[Measurement]:
        return [Norm().measure(self.model.double(), None, batch) for _ in snapshots]  # pyright: ignore


@pytest.mark.parametrize(
    ("take", "line"),
    [
        (lambda model: model.double(), "snapshots change the model that is trained: take a copy of what they need"),
        (lambda model: model.eval(), "snapshots change the model that is trained: take a copy of what they need"),
        (
            lambda model: model.missing,
            "snapshots fail: AttributeError: 'RecurrentModel'",
        ),
    ],
)
def test_snapshots_that_change_what_is_trained_are_refused(take: Callable[[Any], object], line: str) -> None:
    class Own(Norm):
        def snapshots(self, model: Any, task: Task) -> Any:
            return Shortcut(model, take)

    with pytest.raises(ConfigError, match=re.escape(line)):
        tried(Own())


OWN = """
import torch
from seqmem.measurement import Measurement, Number
from seqmem.probes import Probe
from seqmem.tasks import Subject

class Late(Subject):
    def solve(self, inputs):
        return inputs[1:]

class Size(Probe):
    name, numbers = "size", {"norm": Number("norm")}
    def measure(self, model, task, batch):
        return Measurement({"nrom": 1.0})
"""


def test_it_is_said_before_the_first_job(
    typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Alone, in a sweep, where no job is started, and from Python."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("own.py").write_text(OWN)
    late = "task.target=own.Late: solve returns the shape (1, 3): an answer at every timestep, (2, 3)"
    size = "probe.size.target=own.Size: measure returns a number 'nrom': numbers has norm; add it there"
    typed("train", *TINY, "task=own.Late").refuses(late, code=2)
    swept = typed("train", "-m", "seed=0,1", *TINY, "probe.size.target=own.Size", "probe.size.every=2")
    assert (swept.code, swept.err.count(size)) == (2, 2)
    assert "2 of 2 jobs cannot run, so none was started:" in swept.err
    with pytest.raises(SettingError, match=re.escape(size)):
        seqmem.train(cell="rnn", seq_len=8, steps=2, quiet=True, probe={"size": {"target": "own.Size", "every": 2}})
    assert not runs_below(tmp_path)
