"""Probes: each against a closed form, measuring changes nothing, and one of a user's own is found everywhere.

The user's probe is one class and one YAML file; no line of seqmem knows it.
"""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf, isnan, log, log10, nan
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from commandline import TINY, Completed, environment, forked, runs_below
from seqmem.cells import Cell, State
from seqmem.cli.config.schema import conf_dir
from seqmem.decay import NUMBERS
from seqmem.measurement import Description, Measurement, Number, plain, read_description
from seqmem.models.recurrent import RecurrentModel
from seqmem.probes import PROBES, GradientProbe, Probe, Scheduled
from seqmem.randomness import ambient, generator
from seqmem.runs.directory import RunDirectory
from seqmem.runs.files import EVENTS
from seqmem.signals import Batch
from seqmem.tasks import Pronoun, Task
from seqmem.training.loop import train
from seqmem.training.plan import Plan
from small_models import PLAN, Memory, fresh, weights


class Size(Probe):
    """The L2 norm of all weights."""

    name = "size"
    numbers: ClassVar = {"weight_norm": Number("weight norm", "L2 norm of all weights.", better="lower")}

    def measure(self, model: Any, task: Task, batch: Batch) -> Measurement:
        with torch.no_grad():
            norm = torch.cat([parameter.flatten() for parameter in model.parameters()]).norm().item()
        return Measurement({"weight_norm": norm})


class Meddling(Probe):
    """Does what a probe must not do, to what it is given."""

    name = "meddling"
    numbers: ClassVar = {"drawn": Number("drawn")}

    def measure(self, model: Any, task: Task, batch: Batch) -> Measurement:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        model.train()
        batch.inputs.zero_()
        return Measurement({"drawn": float(torch.rand(()))})


class Fading(Cell):
    """``h_t = a h_{t-1} + x_t``: a gradient decays by ``a`` a timestep."""

    def __init__(self, size: int, rate: float) -> None:
        super().__init__()
        self.input_size = self.output_size = size
        self.rate = rate

    def initial_state(self, batch_size: int) -> State:
        return {"hidden": torch.zeros(batch_size, self.output_size, dtype=torch.float64)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden = self.rate * state["hidden"] + x  # pyright: ignore[reportOperatorIssue]
        return hidden, {"hidden": hidden}


# Closed forms


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.99])
def test_a_linear_cell_halves_the_gradient_in_ln_2_over_ln_a(rate: float) -> None:
    task = Pronoun()
    with ambient(0, "weights"):
        model = RecurrentModel.for_task(task, lambda size: Fading(size, rate), embed_size=4).double().eval()
    measurement = GradientProbe().measure(model, task, task.sample(5, 30, generator(0, "t")))
    state = measurement.scalars["state"]
    assert isinstance(state, Mapping)
    assert state["half_life"] == pytest.approx(log(2) / -log(rate))
    steps_to_a_thousandth = np.floor(log(1000) / -log(rate)) + 1  # from one step back from the answer
    assert state["horizon"] == (1 + steps_to_a_thousandth if steps_to_a_thousandth < 29 else inf)
    assert state["log10_arrives"] == pytest.approx(28 * log10(rate))
    assert state["r2"] == pytest.approx(1.0)


def test_the_norm_of_the_weights() -> None:
    model, task, _ = fresh(Pronoun())
    squares = sum(parameter.square().sum().item() for parameter in model.parameters())
    measured = Size().measure(model, task, task.sample(2, 12, generator(0, "t")))
    assert plain(measured.scalars, Size.numbers) == {"weight_norm": pytest.approx(squares**0.5)}


# Laws of every probe


def test_names_are_told_apart() -> None:
    names = [name for kind in PROBES.values() for name in (kind.name, *kind.numbers)]
    assert len(names) == len(set(names))
    assert {name: kind.name for name, kind in PROBES.items()} == {name: name for name in PROBES}


def test_every_probe_has_a_file() -> None:
    assert {path.stem for path in (conf_dir() / "probe").glob("*.yaml")} == set(PROBES)


@pytest.mark.parametrize("kind", PROBES.values())
def test_snapshots_are_measured_as_the_model_was(kind: type[Probe]) -> None:
    model, task, _ = fresh(Pronoun())
    probe, batch = kind(), task.sample(3, 12, generator(0, "t"))
    snapshots = probe.snapshots(model, task)
    if snapshots is None:
        return
    taken, at_once = [], []
    for _ in range(3):
        taken.append(snapshots.take())
        at_once.append(probe.measure(model, task, batch))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.9)
    for one, other in zip(snapshots.measure(batch, taken), at_once, strict=True):
        assert str(one.scalars) == str(other.scalars)  # nan is nan
        assert all(np.array_equal(one.series[name], other.series[name]) for name in other.series)
    assert str(at_once[0].scalars) != str(at_once[2].scalars)


@pytest.mark.parametrize("kind", [*PROBES.values(), Size, Meddling])
def test_measuring_changes_nothing(kind: type[Probe]) -> None:
    """Training is bitwise the same, whatever a probe does to the model and the batch that it is given."""
    plain_run, measured = fresh(Pronoun()), fresh(Pronoun())
    bare = replace(PLAN, trace_every=0)
    without = train(*plain_run, bare)
    state = torch.get_rng_state()
    seen = Memory()
    within = train(*measured, replace(bare, probes=() if kind is GradientProbe else (Scheduled(kind(), 1, 2),)), [seen])
    assert torch.equal(state, torch.get_rng_state())
    assert (within.score, within.loss) == (without.score, without.loss)
    for one, other in zip(weights(plain_run[0]), weights(measured[0]), strict=True):
        assert torch.equal(one, other)
    if kind is not GradientProbe:
        assert [step for step, name, _ in seen.measurements if name == kind.name] == list(range(PLAN.steps + 1))
    if kind is Meddling:  # what it draws is a function of seed and step
        again = Memory()
        train(*fresh(Pronoun()), replace(bare, probes=(Scheduled(kind(), 7, 2),)), [again])
        every = {step: measurement.scalars for step, _, measurement in seen.measurements}
        assert all(every[step] == measurement.scalars for step, _, measurement in again.measurements)


# How numbers are read


def test_a_number_is_drawn_within_its_limits() -> None:
    half_life, last = NUMBERS["half_life"], NUMBERS["log10_arrives"]
    assert [half_life.drawn(value, 20) for value in (5.0, 300.0, inf, nan)] == [5.0, 200.0, 200.0, None]
    assert [last.drawn(value, 20) for value in (-3.0, -20.0, -inf)] == [-3.0, -12.0, -12.0]
    assert [last.plotted(value, 20) for value in (-3.0, -12.0, 20.0)] == [-3.0, -12.0, 12.0]
    assert isnan(last.plotted(-12.5, 20) or 0)
    assert last.plotted(nan, 20) is None
    assert Number("n", most=2.0).drawn(3.0, 20) == 2.0


def test_a_number_in_words() -> None:
    half_life, horizon, last = (NUMBERS[name] for name in ("half_life", "horizon", "log10_arrives"))
    assert [half_life.words(value) for value in (0.51234, 123.4, 8793.2, 2e9, inf, nan)] == [
        "0.512", "123", "8,793", "2e+09", "keeps or grows", "no straight line",
    ]  # fmt: skip
    assert [horizon.words(value) for value in (45.0, 1234.0, inf, nan)] == [
        "45", "1234", "beyond the sequence", "unknown",
    ]  # fmt: skip
    assert [last.words(value) for value in (-2.0, 0.0, 3.0, -23.44, -inf, nan)] == [
        "1 %", "100 %", "10^3.0", "10^-23.4", "nothing", "unknown",
    ]  # fmt: skip
    assert half_life.text(8.4567) == "8.46 timesteps"
    assert half_life.text(inf) == "inf"
    assert [last.brief(value) for value in (-0.5, -inf, inf, nan)] == ["31.6 %", "nothing", "infinite", "-"]
    assert (last.short, horizon.short) == ("arrives", "horizon")


@pytest.mark.parametrize("kind", [*PROBES.values(), Size])
def test_a_description_survives_a_file(kind: type[Probe]) -> None:
    description = kind().description()
    assert read_description(json.loads(json.dumps(description.fields()))) == description
    later = description.fields()
    next(iter(later["numbers"].values()))["added later"] = 1
    assert read_description(later) == description


def test_the_main_part_is_told_from_the_others() -> None:
    flat, nested = Description({}), Description({}, main="a")
    assert flat.of_main({"x": 1.0}) == {"x": 1.0}
    assert nested.of_main({"a": {"x": 1.0}, "b": {"x": 2.0}}) == {"x": 1.0}
    assert nested.of_main({}) == {}


def test_a_number_that_was_not_declared_is_an_error() -> None:
    class Undeclared(Size):
        numbers: ClassVar = {"another": Number("another")}

    plan = replace(PLAN, probes=(Scheduled(Undeclared(), 1, 2),))
    with pytest.raises(ValueError, match=r"^probe\.size: a number 'weight_norm' was measured that is not declared"):
        train(*fresh(Pronoun()), plan)


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ((Scheduled(Size(), -1),), r"^probe\.size\.every=-1: must be at least 1, or 0 for never$"),
        ((Scheduled(Size(), 1, 0),), r"^probe\.size\.sequences=0: must be at least 1$"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(probes: tuple[Scheduled, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(12, probes=probes).check(Pronoun())


def test_two_probes_with_one_number_are_refused() -> None:
    class Other(Size):
        name = "other"

    with pytest.raises(ValueError, match=r"^probe\.other: probe size has a number 'weight_norm', too"):
        Plan(12, probes=(Scheduled(Size()), Scheduled(Other()))).check(Pronoun())


# One of a user's own: this class, this file

TOYS = """\
import numpy as np
from seqmem.measurement import Measurement, Number
from seqmem.probes import Probe


class Size(Probe):
    name = "size"
    numbers = {"weight_norm": Number("weight norm", "L2 norm of all weights.", unit="units", better="lower")}

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = scale

    def measure(self, model, task, batch):
        weights = [parameter.square().sum().item() for parameter in model.parameters()]
        norm = self.scale * sum(weights) ** 0.5
        return Measurement({"weight_norm": norm}, {"squares": np.arange(8.0) ** 2})
"""

YAML = """\
# @package probe.size
# The L2 norm of all weights.
target: toys.Size
every: 2
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a finished run that was measured with it, too, and one that was not."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toys.py").write_text(TOYS)
    (folder / "conf" / "probe").mkdir(parents=True)
    (folder / "conf" / "probe" / "size.yaml").write_text(YAML)
    run("train", "-cd", "conf", *TINY, "quiet=true", "probe=[gradient,size]", at=folder)
    for seed in (0, 1):
        run("train", *TINY, "quiet=true", f"seed={seed}", at=folder)
    assert len(runs_below(folder)) == 3  # what is measured is part of a run's identity
    return folder


def run(*words: str, at: Path) -> str:
    completed = forked(*words, cwd=at)
    assert completed.code == 0, completed.err
    return completed.out


def measured_run(toy: Path) -> RunDirectory:
    (found,) = [path for path in runs_below(toy) if "size" in json.loads((path / "config.json").read_text())["probe"]]
    return RunDirectory(found)


def test_it_is_in_the_files_of_the_run(toy: Path) -> None:
    run_directory = measured_run(toy)
    result = run_directory.result()
    assert result is not None
    start, end = (result["probes"]["size"][when]["weight_norm"] for when in ("start", "end"))
    assert 0 < start != end > 0
    assert set(result["probes"]) == {"gradient", "size"}
    rows = [row for row in run_directory.metrics() if "size" in row.get("probes", {})]
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    assert rows[0]["probes"]["size"] == {"weight_norm": start}
    series = run_directory.series("size")
    assert series is not None
    assert series.step.tolist() == [0, 2, 4, 6]
    assert series.norms["squares"].tolist() == [[[t**2] for t in range(8)]] * 4


def test_it_is_shown(toy: Path) -> None:
    page = run("show", str(measured_run(toy).path), at=toy)
    (line,) = [line for line in page.splitlines() if line.startswith("weight norm")]
    assert re.fullmatch(r"weight norm +\d+(\.\d+)?( → \d+(\.\d+)?)? units", line)
    code = "import sys; from seqmem.cli.verbs.show import main; main(['outputs']); print('torch' in sys.modules)"
    wide = environment(COLUMNS="160")
    shown = subprocess.run([sys.executable, "-c", code], cwd=toy, env=wide, capture_output=True, text=True, check=True)
    assert "weight norm" in shown.stdout
    assert shown.stdout.endswith("False\n")  # torch takes seconds


def test_it_is_in_tensorboard(toy: Path) -> None:
    events = EventAccumulator(str(measured_run(toy).file(EVENTS))).Reload()
    assert [event.step for event in events.Scalars("size/weight_norm")] == [0, 2, 4, 6]
    assert events.Scalars("result/weight_norm")[0].value == events.Scalars("size/weight_norm")[-1].value
    curve = events.Scalars("size_squares/by timestep (at end)")
    assert [(event.step, event.value) for event in curve] == [(t, t**2) for t in range(8)]
    description = events.SummaryMetadata("size/weight_norm").summary_description
    assert description == "L2 norm of all weights."
    assert "weight norm | " in events.Tensors("summary")[0].tensor_proto.string_val[0].decode()


@pytest.mark.usefixtures("unrendered")
def test_it_is_in_a_report(toy: Path, typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy)
    (other,) = [path for path in runs_below(toy) if "seed1" in path.name]
    assert typed("report", str(measured_run(toy).path), str(other), "--out", "report").code == 0
    result = measured_run(toy).result()
    assert result is not None
    with (toy / "report" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = sorted((row["weight_norm_start"], row["weight_norm_end"]) for row in rows)
    assert values[0] == ("", "")
    assert [float(value) for value in values[1]] == [
        result["probes"]["size"][when]["weight_norm"] for when in ("start", "end")
    ]
    with (toy / "report" / "groups.csv").open() as file:
        assert "weight_norm_end_low" in next(csv.reader(file))
    page = next((toy / "report").glob("*.html")).read_text()
    assert "weight norm" in page
    assert "L2 norm of all weights." in page


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("probe.size.target=toys.Sizes",), "probe.size.target=toys.Sizes: toys has no Sizes. Did you mean 'Size'?"),
        (("probe.size.target=toys.Size", "probe.size.evry=1"), "there is no setting 'probe.size.evry'"),
        (("probe.size.target=toys.Size", "probe.size.args.scale=x"), "probe.size.args.scale=x: must be a number"),
        (("probe.other.target=toys.Size",), "probe.other: the probe is called 'size' by its class"),
        (("probe.size.every=1",), "no probe is called 'size'. One of: gradient"),
        (("probe.gradient.every=1",), "probe.gradient: its settings are trace.every, trace.sequences and trace.loss"),
        (("probe.target=toys.Size",), "probe.target: has settings"),
    ],
)
def test_mistakes_are_one_line(
    settings: tuple[str, ...], message: str, toy: Path, typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy)
    monkeypatch.syspath_prepend(str(toy))
    typed("train", *TINY, "outputs=refused", *settings).refuses(message, code=2)
