"""What a run leaves behind; and that a run killed anywhere leaves, once resumed, exactly what it would have."""

import io
import json
import shutil
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import inf, log10, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Status  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from commandline import largest_file
from seqmem.cells import CELLS, Cell
from seqmem.decay import Decay, Trace
from seqmem.measurement import Measurement
from seqmem.models.base import parameter_count
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS
from seqmem.probes.gradient import GradientProbe, Tracer
from seqmem.randomness import ambient, generator
from seqmem.reading import beliefs
from seqmem.record import recorder as record
from seqmem.record.pictures.from_batch import sentences
from seqmem.record.pictures.sentences import Sentence, colours, palette, picture
from seqmem.record.recorder import CURVES, Recorder, load_checkpoint
from seqmem.record.tags import FLOOR, describe, results
from seqmem.record.texts import answers
from seqmem.record.traces import TraceFile
from seqmem.runs.directory import RunDirectory
from seqmem.runs.files import CHECKPOINT, EVENTS, GRADIENTS, METRICS, TRACES, RunError
from seqmem.runs.result import Facts
from seqmem.signals import Batch, Several
from seqmem.tasks import TASKS, Adding, Copy, Task
from seqmem.training import loop as training
from seqmem.training.loop import train
from seqmem.training.plan import Diverged, Plan, Result

PLAN = Plan(
    seq_len=12,
    steps=12,
    batch_size=4,
    log_every=2,
    evaluate_every=4,
    evaluate_sequences=16,
    evaluate_lengths=(7, 12, 20),
    trace_every=3,
    trace_sequences=3,
    checkpoint_every=4,
)


PROBE = GradientProbe()
FADING = Decay(-1.0, 1.0, 1.0, -1.0, 2.0, 0.0, 1.0, 0.5, 3, 1.0, 0)
KEEPING = replace(FADING, log10_arrives=-inf, half_life=inf, horizon=inf)


def measured(trace: Trace, decay: Decay) -> Measurement:
    return Measurement({"state": decay.numbers()}, trace.norms, trace.answered_at)


class Killed(BaseException):
    """As good as kill -9: nothing catches it, and nothing is tidied up."""


class Bomb:
    """An observer that goes off when it is told something for the ``at``th time."""

    def __init__(self, at: int) -> None:
        self.at, self.told = at, 0

    def tick(self, *_: Any) -> None:
        self.told += 1
        if self.told == self.at:
            raise Killed

    logged = measured = answered = finished = tick


@dataclass
class Setup:
    run: RunDirectory
    task: Task
    model: SequenceModel
    optimizer: torch.optim.Optimizer
    recorder: Recorder

    def train(self, plan: Plan = PLAN, bomb: Bomb | None = None, **options: Any) -> Result:
        observers = [self.recorder] if bomb is None else [bomb, self.recorder]
        return train(self.model, self.task, self.optimizer, plan, observers, checkpoints=self.recorder, **options)

    def die(self) -> None:
        """Lose what was not written, as a killed process does."""
        opened = self.recorder._opened()
        for file in (opened.metrics, opened.events._file, *(traces._file for traces in opened.traces.values())):
            if file is not None:
                file._pending.clear()
                file.close()
        self.recorder._log = None


def setup(path: Path, *, cell: str = "lstm", task: str = "pronoun", layers: int = 1, steps: int = 12) -> Setup:
    """Everything anew, as a new process would."""
    made = TASKS[task]()
    options: dict[str, Any] = {} if cell == "rnn" else {"seq_len": 12}
    kind: Callable[..., Cell] = CELLS[cell]
    with ambient(0, "init"):
        model = SequenceModel.for_task(made, lambda width: kind(width, 6, **options), layers=layers)
    optimizer = OPTIMIZERS["adam"](model.parameters(), lr=0.01)
    facts = Facts(task, cell, 12, 0, 6, layers, parameter_count(model), steps, "cpu")
    run = RunDirectory(path)
    path.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(
        run,
        config={"cell": {"name": cell}},
        task=made,
        facts=facts,
        hparams={"cell": cell, "lr": 0.01},
        probes=[PROBE],
    )
    return Setup(run, made, model, optimizer, recorder)


def finish(path: Path, plan: Plan = PLAN, **options: Any) -> Setup:
    made = setup(path, **options)
    with made.recorder:
        made.train(plan)
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """A run that nothing interrupted."""
    return finish(tmp_path_factory.mktemp("whole"))


def read(path: Path) -> list:
    return [Event.FromString(raw) for raw in RawEventFileLoader(str(path)).Load()]


def as_it_is(path: Path) -> tuple[Path, int, int]:
    """What a file's content is remembered by: TensorBoard takes long to read one, its checksums are in Python."""
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


def points(run: RunDirectory) -> list[tuple[int, str, float | bytes]]:
    """Everything in the event file that is not a time: (step, tag, content) in order."""
    return _points(*as_it_is(run.file(EVENTS)))


@cache
def _points(path: Path, *_: int) -> list[tuple[int, str, float | bytes]]:
    actual: list[tuple[int, str, float | bytes]] = []
    for event in read(path):
        for value in event.summary.value:
            if value.tag == "summary" or value.tag.startswith("_hparams_"):
                actual.append((event.step, value.tag, 0.0))
            elif value.HasField("simple_value"):
                actual.append((event.step, value.tag, value.simple_value))
            else:
                actual.append((event.step, value.tag, value.SerializeToString()))
    return actual


def timeless(result: Mapping[str, Any] | None) -> dict[str, Any]:
    assert result is not None
    return {name: value for name, value in result.items() if name not in ("seconds", "steps_per_second")}


def assert_same(run: RunDirectory, other: RunDirectory) -> None:
    """Bit for bit, times aside."""
    assert run.file(METRICS).read_bytes() == other.file(METRICS).read_bytes()
    a, b = run.gradients(), other.gradients()
    assert a is not None
    assert b is not None
    assert a.step.tolist() == b.step.tolist()
    assert a.norms.keys() == b.norms.keys()
    for name, norms in a.norms.items():
        np.testing.assert_array_equal(norms, b.norms[name])
    weights, others = (load_checkpoint(one.file(CHECKPOINT))["model"] for one in (run, other))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert points(run) == points(other)
    assert repr(timeless(run.result())) == repr(timeless(other.result()))  # nan is nan


def scalars(run: RunDirectory) -> EventAccumulator:
    return _scalars(*as_it_is(run.file(EVENTS)))


@cache
def _scalars(path: Path, *_: int) -> EventAccumulator:
    return EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def curve(run: RunDirectory, tag: str) -> tuple[list[int], list[float]]:
    points = scalars(run).Scalars(tag)
    return [e.step for e in points], [e.value for e in points]


# Killed and resumed


@pytest.mark.parametrize("at", range(1, 20, 3))
def test_killed_anywhere_it_ends_where_it_would_have(at: int, whole: Setup, tmp_path: Path) -> None:
    first = setup(tmp_path)
    bomb = Bomb(at)
    with pytest.raises(Killed):
        first.train(bomb=bomb)
    first.die()
    assert not first.run.finished
    second = finish(tmp_path)
    assert_same(second.run, whole.run)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], weight)


@pytest.mark.parametrize("nth", range(1, 4))
def test_killed_while_it_saves_it_ends_where_it_would_have(
    nth: int, whole: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the files that a checkpoint counts on, before itself."""
    written, real = [], record.write_atomically

    def write(path: Path, content: bytes) -> None:
        written.append(path.name)
        if len(written) == nth:
            path.with_name(path.name + ".partial").write_bytes(content[: len(content) // 2])
            raise Killed
        real(path, content)

    first = setup(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(record, "write_atomically", write)
        with pytest.raises(Killed):
            first.train()
    first.die()
    assert written == nth * [CHECKPOINT]
    assert_same(finish(tmp_path).run, whole.run)


@pytest.mark.parametrize("gone", [0, 1], ids=["before it is in its place", "after what it was made of is gone"])
def test_killed_while_the_traces_are_stored_it_ends_where_it_would_have(
    gone: int, whole: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TraceFile.store

    def store(self: TraceFile) -> None:
        if gone:
            real(self)
        else:
            self.flush()
            self._stored.with_name(GRADIENTS + ".partial").write_bytes(b"PK")
        raise Killed

    first = setup(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(TraceFile, "store", store)
        with pytest.raises(Killed):
            first.train()
    assert not first.run.finished
    assert first.run.file(TRACES).exists() != bool(gone)
    first.die()
    assert_same(finish(tmp_path).run, whole.run)


def test_killed_three_times_it_ends_where_it_would_have(whole: Setup, tmp_path: Path) -> None:
    for at in (9, 7, 5):
        made = setup(tmp_path)
        with pytest.raises(Killed):
            made.train(bomb=Bomb(at))
        made.die()
    assert_same(finish(tmp_path).run, whole.run)


def test_a_run_that_is_let_go_keeps_all_it_had(whole: Setup, tmp_path: Path) -> None:
    """After an exception, unlike after a kill, the files hold everything up to it; resuming is the same."""
    made = setup(tmp_path)
    with pytest.raises(Killed), made.recorder:
        made.train(bomb=Bomb(13))
    remaining = made.run.file(METRICS).read_bytes()
    assert whole.run.file(METRICS).read_bytes().startswith(remaining)
    assert len(remaining.splitlines()) == 10  # twelve things were told, two of them answers
    stored = made.run.gradients()
    assert stored is not None
    assert stored.step.tolist() == [0, 3, 6]
    assert not made.run.file(TRACES).exists()  # gradients.npz holds them
    assert_same(finish(tmp_path).run, whole.run)


def test_two_runs_write_the_same_and_bombs_go_off_at_every_moment(whole: Setup, tmp_path: Path) -> None:
    bomb, made = Bomb(0), setup(tmp_path)
    with made.recorder:
        made.train(bomb=bomb)
    assert bomb.told == 19
    assert_same(made.run, whole.run)


def test_seconds_add_up_over_a_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100_000, 10))
    monkeypatch.setattr(record, "monotonic", lambda: float(next(clock)))
    made = setup(tmp_path)
    with pytest.raises(Killed), made.recorder:
        made.train(bomb=Bomb(12))
    before = torch.load(made.run.file(CHECKPOINT), weights_only=True)["seconds"]
    assert before > 0
    result = finish(tmp_path).run.result()
    assert result is not None
    assert result["seconds"] > before
    assert result["steps_per_second"] == pytest.approx(12 / result["seconds"], abs=1e-3)


# What is refused


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run killed some steps after a checkpoint; to be copied, not touched."""
    made = setup(tmp_path_factory.mktemp("killed"))
    with pytest.raises(Killed):
        made.train(bomb=Bomb(12))
    made.die()
    assert made.run.file(CHECKPOINT).exists()
    return made.run.path


@pytest.fixture
def copy(killed: Path, tmp_path: Path) -> RunDirectory:
    return RunDirectory(shutil.copytree(killed, tmp_path / "copy"))


def refusal(path: Path) -> str:
    with pytest.raises(RunError) as caught, setup(path).recorder as recorder:
        recorder.load()
    message = str(caught.value)
    assert "\n" not in message
    assert CHECKPOINT in message
    assert "start this run over" in message
    return message


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"not a checkpoint",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(content[2000:2010], bytes(10), 1),
    ],
    ids=["empty", "foreign", "cut", "flipped"],
)
def test_a_damaged_checkpoint_is_refused(damage: Callable[[bytes], bytes], copy: RunDirectory) -> None:
    path = copy.file(CHECKPOINT)
    path.write_bytes(damage(path.read_bytes()))
    assert f"{path} cannot be read" in refusal(copy.path)


def test_a_checkpoint_of_another_version_is_refused(copy: RunDirectory) -> None:
    torch.save({"format": 0}, copy.file(CHECKPOINT))
    assert "another version" in refusal(copy.path)


@pytest.mark.parametrize("name", [METRICS, EVENTS, TRACES])
def test_a_file_shorter_than_its_checkpoint_says_is_refused(name: str, copy: RunDirectory) -> None:
    file = copy.file(name)
    file.write_bytes(file.read_bytes()[:100])
    assert str(file) in refusal(copy.path)


@pytest.mark.parametrize("name", [METRICS, EVENTS, TRACES])
def test_a_lost_file_is_refused(name: str, copy: RunDirectory) -> None:
    copy.file(name).unlink()
    assert str(copy.file(name)) in refusal(copy.path)


@pytest.mark.parametrize(
    "damage", [b"{}\n", b"not a trace\n", b'{"names": ["a"],  "timesteps": 1, "answered_at": [0]}\n']
)
def test_a_damaged_file_of_traces_is_refused(damage: bytes, copy: RunDirectory) -> None:
    copy.file(TRACES).write_bytes(damage + bytes(10_000))
    with pytest.raises(RunError, match=f"{TRACES} cannot be read") as caught, setup(copy.path).recorder as recorder:
        recorder.load()
    assert "\n" not in str(caught.value)


def test_damaged_traces_of_a_run_that_had_stopped_are_refused(tmp_path: Path) -> None:
    made = setup(tmp_path)
    with pytest.raises(Killed), made.recorder:
        made.train(bomb=Bomb(12))
    file = made.run.file(GRADIENTS)
    stored = file.read_bytes()
    file.write_bytes(stored[:500])
    with pytest.raises(RunError, match=f"{GRADIENTS} cannot be read"), setup(tmp_path).recorder as recorder:
        recorder.load()
    np.savez(file, step=np.array([0]), answered_at=np.full(3, 11), **{"norm/hidden": np.ones((1, 12, 3))})  # pyright: ignore[reportArgumentType]
    assert str(file) in refusal(tmp_path)
    file.unlink()
    assert str(made.run.file(TRACES)) in refusal(tmp_path)


def test_without_a_checkpoint_everything_starts_anew(whole: Setup, copy: RunDirectory) -> None:
    copy.file(CHECKPOINT).unlink()
    copy.file(EVENTS).write_bytes(b"garbage")
    assert_same(finish(copy.path).run, whole.run)


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        load_checkpoint(tmp_path / CHECKPOINT)


def test_observing_before_load_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="only after load"):
        setup(tmp_path).recorder.logged(0, "eval", {"loss": 1.0, "score": 0.0})


@pytest.mark.parametrize("size", [0, 3_000, 12_000, 30_000])
def test_a_full_disk_is_one_line_and_nothing_is_lost(size: int, whole: Setup, tmp_path: Path) -> None:
    made = setup(tmp_path)
    with largest_file(size), pytest.raises(RunError) as caught, made.recorder:
        made.train()
    message = str(caught.value)
    assert message.startswith(f"cannot write to {tmp_path}")
    assert "File too large" in message
    assert "\n" not in message
    assert not made.run.finished
    assert_same(finish(tmp_path).run, whole.run)


# What is written


def test_metrics_say_everything_and_no_time(whole: Setup) -> None:
    rows = whole.run.metrics()
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("eval", 0), ("trace", 0), ("train", 2), ("trace", 3), ("train", 4), ("eval", 4), ("train", 6), ("trace", 6),
        ("train", 8), ("eval", 8), ("trace", 9), ("train", 10), ("train", 12), ("eval", 12), ("trace", 12),
        ("length", 12), ("length", 12), ("length", 12),
    ]  # fmt: skip
    keys = {row["kind"]: set(row) - {"kind", "step"} for row in rows}
    assert keys == {
        "train": {"loss", "learning_rate", "gradient_norm", "gradient_norm_clipped"},
        "eval": {"loss", "score"},
        "trace": {"probes"},
        "length": {"seq_len", "score", "loss", "sequences", "distinct"},
    }
    assert set(rows[1]["probes"]["gradient"]) == {"state", "hidden", "cell", "input"}
    assert set(rows[1]["probes"]["gradient"]["state"]) == set(FADING.numbers())
    for line in whole.run.file(METRICS).read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_gradients_are_the_traces_in_full(whole: Setup) -> None:
    stored = whole.run.gradients()
    assert stored is not None
    assert stored.step.tolist() == [0, 3, 6, 9, 12]
    assert stored.answered_at.tolist() == [11, 11, 11]
    assert set(stored.norms) == {"hidden", "cell", "input"}
    assert {norms.shape for norms in stored.norms.values()} == {(5, 12, 3)}
    batch = PLAN.parts(whole.task).validation.sample(3, 12, generator(0, "trace"))
    again = Tracer(whole.model, whole.task).measure(batch)
    for name, norms in again.norms.items():
        np.testing.assert_array_equal(stored.norms[name][-1], norms)


def test_scalars_are_the_metrics(whole: Setup) -> None:
    events = scalars(whole.run)
    rows = whole.run.metrics()
    for kind in ("train", "eval"):
        mine = [row for row in rows if row["kind"] == kind]
        for name in set(mine[0]) - {"kind", "step"}:
            written = [(e.step, e.value) for e in events.Scalars(f"{kind}/{name}")]
            assert written == [(row["step"], pytest.approx(row[name])) for row in mine]
    traces = [(row["step"], row["probes"]["gradient"]["state"]) for row in rows if row["kind"] == "trace"]
    for name, cap in (("half_life", 120), ("horizon", 12), ("log10_arrives", 12)):
        written = [(e.step, e.value) for e in events.Scalars(f"gradient/{name}")]
        known = [(step, numbers[name]) for step, numbers in traces if not np.isnan(numbers[name])]
        assert written == [(step, pytest.approx(min(value, cap), rel=1e-5)) for step, value in known]
    cells = [row["probes"]["gradient"]["cell"]["log10_arrives"] for row in rows if row["kind"] == "trace"]
    assert [e.value for e in events.Scalars("gradient_cell/log10_arrives")] == pytest.approx(cells, rel=1e-5)


def test_curves_are_log10_of_the_traces(whole: Setup) -> None:
    stored = whole.run.gradients()
    assert stored is not None
    for when, index in (("at start", 0), ("latest", -1), ("at end", -1)):
        trace = Trace({name: norms[index] for name, norms in stored.norms.items()}, stored.answered_at)
        for name, norms in trace.series().items():
            group = "gradient" if name == "state" else f"gradient_{name}"
            xs, values = curve(whole.run, f"{group}/log10 by timestep ({when})")
            assert xs == list(range(12))
            np.testing.assert_allclose(values, np.log10(norms.mean(1)), rtol=1e-6)
            xs, values = curve(whole.run, f"{group}/log10 by distance from answer ({when})")
            assert xs == list(range(1, 12))
            back = norms.mean(1)[-2::-1]  # every sequence of this task is answered at its end
            np.testing.assert_allclose(values, np.log10(back / back[0]), rtol=1e-6, atol=1e-7)
    end = Trace({name: norms[-1] for name, norms in stored.norms.items()}, stored.answered_at)
    for name, percent in (("10th percentile", 10), ("median", 50), ("90th percentile", 90)):
        _, values = curve(whole.run, f"gradient/log10 by timestep, {name} (at end)")
        np.testing.assert_allclose(values, np.log10(np.percentile(end.state, percent, axis=1)), rtol=1e-6)


def test_scores_by_length_have_the_length_on_the_step_axis(whole: Setup) -> None:
    result = whole.run.result()
    assert result is not None
    xs, values = curve(whole.run, "eval/score_by_length")
    assert xs == [7, 12, 20] == [row["seq_len"] for row in result["by_length"]]
    assert values == pytest.approx([row["score"] for row in result["by_length"]])


def test_pictures_come_at_two_four_eight_traces_and_at_the_end(whole: Setup) -> None:
    assert [e.step for e in scalars(whole.run).Images("gradient/heatmap")] == [3, 9, 12]


def test_texts(whole: Setup) -> None:
    texts = {}
    for step, tag, content in points(whole.run):
        if isinstance(content, bytes) and tag in ("config", "answers"):
            texts.setdefault(tag, []).append((step, content))
    assert [step for step, _ in texts["answers"]] == [0, 6, 12]
    assert b'"name": "lstm"' in texts["config"][0][1]


def test_a_few_sentences_are_read_at_the_start_in_the_middle_and_at_the_end(whole: Setup) -> None:
    """On pictures, and in words that no markdown changes, as in the pictures' own numbers."""
    events = scalars(whole.run)
    tags = [f"reading/sentence {number}" for number in (1, 2, 3)]
    assert [tag for tag in events.Tags()["images"] if tag.startswith("reading/")] == tags
    seen = {tag: events.Images(tag) for tag in tags}
    assert [[event.step for event in seen[tag]] for tag in tags] == 3 * [[0, 6, 12]]
    end = Image.open(io.BytesIO(seen[tags[0]][2].encoded_image_string))
    batch = PLAN.parts(whole.task).validation.sample(3, 12, generator(0, "show"))
    read = sentences(whole.task, batch, beliefs(whole.model.eval(), whole.task, batch.inputs))
    whole.model.train()
    ends = ("sure of the right answer: 0", "100 %")
    expected = palette()[picture(read[0], title="step 12 of 12", ends=ends)]
    np.testing.assert_array_equal(np.asarray(end.convert("RGB")), expected)
    message = events.Tensors("answers")[2].tensor_proto.string_val[0].decode()
    assert message == answers(whole.task, read, title="step 12 of 12")


@pytest.mark.parametrize(("steps", "shown"), [(1, [0, 1]), (2, [0, 1, 2]), (7, [0, 3, 7])])
def test_the_middle_is_the_same_whatever_the_intervals(steps: int, shown: list[int]) -> None:
    class Watch(Bomb):
        def __init__(self) -> None:
            super().__init__(0)
            self.steps: list[int] = []

        def answered(self, step: int, batch: Batch, predicted: Tensor) -> None:
            assert batch.inputs.shape == predicted.shape[:2]
            self.steps.append(step)

    seen = []
    for every in (1, 100):
        task, watch = TASKS["pronoun"](), Watch()
        with ambient(0, "init"):
            model = SequenceModel.for_task(task, lambda width: CELLS["rnn"](width, 4))
        plan = Plan(
            7, steps, batch_size=2, evaluate_every=every, log_every=every, checkpoint_every=every, trace_every=0,
            evaluate_sequences=2, evaluate_lengths=(7,),
        )  # fmt: skip
        observers: Any = [watch]
        train(model, task, OPTIMIZERS["sgd"](model.parameters(), lr=0.1), plan, observers)
        seen.append(watch.steps)
    assert seen == [shown, shown]


class Noisy(Cell):
    """Draws random numbers at every step, also in evaluation."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.weight = torch.nn.Parameter(torch.full((hidden_size, input_size), 0.1))
        self.steps = 0

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:
        return {"hidden": self.weight.new_zeros(batch_size, self.output_size)}

    def step(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        self.steps += 1
        hidden = torch.tanh(x @ self.weight.T + state["hidden"] + torch.randn_like(state["hidden"]))
        return hidden, {"hidden": hidden}


def test_reading_sentences_leaves_the_training_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, with a cell that draws random numbers, too."""

    def trained() -> tuple[SequenceModel, int]:
        task = TASKS["pronoun"]()
        with ambient(0, "init"):
            model = SequenceModel.for_task(task, lambda width: Noisy(width, 4))
        optimizer = OPTIMIZERS["sgd"](model.parameters(), lr=0.1)
        plan = Plan(7, 6, batch_size=2, trace_every=0, evaluate_sequences=2, evaluate_lengths=(7,))
        torch.manual_seed(1)
        train(model, task, optimizer, plan)
        assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(1)))
        assert model.training
        assert isinstance(model.cell, Noisy)
        return model, model.cell.steps

    shown, steps = trained()
    monkeypatch.setattr(training, "show_answers", lambda *_: None)
    unseen, fewer = trained()
    assert steps >= fewer + 3 * 7  # they were read, three times
    for name, weight in shown.state_dict().items():
        assert torch.equal(unseen.state_dict()[name], weight)


def test_a_run_begun_before_there_were_pictures_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "answered", lambda self, step, *_: self._opened().events.text("answers", "old", step))
        first = setup(tmp_path)
        with pytest.raises(Killed):
            first.train(bomb=Bomb(15))
        first.die()
    made = finish(tmp_path)
    assert made.run.finished
    events = scalars(made.run)
    assert [event.step for event in events.Images("reading/sentence 1")] == [12]
    assert [event.step for event in events.Tensors("answers")] == [0, 6, 12]


def test_the_result_says_what_the_run_found(whole: Setup) -> None:
    result = whole.run.result()
    assert result is not None
    assert result["task"] == "pronoun"
    assert (result["cell"], result["seq_len"], result["seed"], result["steps"]) == ("lstm", 12, 0, 12)
    assert (result["hidden_size"], result["layers"]) == (6, 1)
    assert result["parameters"] == parameter_count(whole.model)
    assert (result["metric"], result["higher_is_better"]) == ("accuracy", True)
    assert (result["chance"], result["baseline_loss"]) == (0.25, pytest.approx(1.3862944))
    assert (result["solved_at"], result["solved"], result["steps_to_solve"]) == (0.99, False, None)
    own = next(row for row in result["by_length"] if row["seq_len"] == 12)
    assert (result["score"], result["loss"]) == (own["score"], own["loss"])
    traces = [row["probes"]["gradient"] for row in whole.run.metrics() if row["kind"] == "trace"]
    expected = {"start": traces[0], "end": traces[-1]}
    assert repr(result["probes"]["gradient"]) == repr(expected)  # nan is nan
    assert result["seconds"] > 0
    assert result["device"] == "cpu"
    assert set(result["versions"]) == {"python", "torch", "seqmem"}
    status = whole.run.status()
    assert status is not None
    assert (status.state, status.step) == ("finished", 12)


def test_one_event_file_with_the_hparams_in_it_and_no_sub_run(whole: Setup) -> None:
    assert [path.name for path in whole.run.path.rglob("*tfevents*")] == [EVENTS]
    content = {
        value.tag: value.metadata.plugin_data.content
        for event in read(whole.run.file(EVENTS))
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    }
    assert list(content) == [metadata.EXPERIMENT_TAG, metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG]
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    assert tuple(info.name.tag for info in experiment.metric_infos) == results([PROBE])
    end = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])
    assert end.status == Status.Value("STATUS_SUCCESS")
    events, result = scalars(whole.run), whole.run.result()
    assert result is not None
    assert {tag for tag in events.Tags()["scalars"] if tag.startswith("result/")} == set(results([PROBE]))
    assert events.Scalars("result/score")[0].value == pytest.approx(result["score"])
    assert events.Scalars("result/steps_to_solve")[0].value == 12  # never solved: all the steps there were


def test_every_tag_is_described(whole: Setup) -> None:
    described = {}
    for event in read(whole.run.file(EVENTS)):
        for value in event.summary.value:
            described.setdefault(value.tag, value.metadata.summary_description)
    silent = {tag for tag, description in described.items() if not description and not tag.startswith("_hparams_")}
    assert not silent
    assert "25.0 %" in described["eval/score"]
    assert (
        "From one triangle (NaN) to the next it is less than 10^-12."
        in described["gradient_cell/log10 by timestep (latest)"]
    )
    assert not any("{" in description for description in described.values())


# Traced at every step


LONG = replace(PLAN, steps=90, log_every=10, evaluate_every=45, trace_every=1, checkpoint_every=20)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return finish(tmp_path_factory.mktemp("long"), LONG, steps=90)


def times_drawn(run: RunDirectory, tag: str) -> int:
    """How many times a curve was written, counted by its first point."""
    first = int("by distance" in tag)
    return sum(1 for step, name, _ in points(run) if (name, step) == (tag, first))


def test_latest_curves_are_drawn_a_fixed_number_of_times(long: Setup, whole: Setup) -> None:
    for kind in ("gradient/log10 by timestep", "gradient_input/log10 by distance from answer"):
        assert times_drawn(long.run, f"{kind} (latest)") == CURVES + 1
        assert times_drawn(whole.run, f"{kind} (latest)") == 5  # as often as it was traced
        for once in ("at start", "at end"):
            assert times_drawn(long.run, f"{kind} ({once})") == 1
            actual = curve(long.run, f"{kind} ({once})")
        assert curve(long.run, f"{kind} (latest)") == actual


def test_numbers_are_written_at_every_trace_and_pictures_seldom(long: Setup) -> None:
    events = scalars(long.run)
    for name in ("gradient/horizon", "gradient/log10_arrives", "gradient/log10_least", "gradient_cell/log10_arrives"):
        assert [e.step for e in events.Scalars(name)] == list(range(91))
    assert [e.step for e in events.Images("gradient/heatmap")] == [1, 3, 7, 15, 31, 63, 90]
    stored = long.run.gradients()
    assert stored is not None
    assert stored.step.tolist() == list(range(91))
    assert [row["step"] for row in long.run.metrics() if row["kind"] == "trace"] == list(range(91))


def test_killed_twice_while_it_traces_every_step_it_ends_where_it_would_have(long: Setup, tmp_path: Path) -> None:
    for at in (30, 80):  # the second time it has gone on from step 20
        made = setup(tmp_path, steps=90)
        with pytest.raises(Killed):
            made.train(LONG, bomb=Bomb(at))
        made.die()
    assert_same(finish(tmp_path, LONG, steps=90).run, long.run)


def test_traces_are_not_kept_in_memory_and_not_written_twice(tmp_path: Path) -> None:
    made = setup(tmp_path, steps=1000)
    norms = np.random.default_rng(0).random((50, 32))
    trace = Trace({"hidden": norms, "input": norms}, np.full(32, 49))
    size = 8 + 2 * norms.nbytes  # as the docs say
    with made.recorder as recorder:
        recorder.load()
        tracemalloc.start()
        try:
            for step in range(200):
                recorder.measured(step, PROBE, measured(trace, FADING))
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        recorder.save({"progress": {"step": 199}})
        assert made.run.file(TRACES).stat().st_size == pytest.approx(200 * size, rel=0.001)
        stored = made.run.file(TRACES).stat().st_ino
        recorder.measured(200, PROBE, measured(trace, FADING))
        recorder.save({"progress": {"step": 200}})
        assert made.run.file(TRACES).stat().st_ino == stored
    assert most < 50 * size
    assert made.run.file(GRADIENTS).stat().st_size == pytest.approx(201 * size, rel=0.001)


def test_series_may_come_in_any_order_but_not_change(tmp_path: Path) -> None:
    """A run may go on with another kernel; it may not go on with another cell."""
    made = setup(tmp_path)
    one = {name: np.full((4, 2), value) for name, value in (("hidden", 1.0), ("cell", 2.0), ("input", 3.0))}
    at = np.full(2, 3)
    with made.recorder as recorder:
        recorder.load()
        recorder.measured(0, PROBE, measured(Trace(one, at), FADING))
        recorder.measured(3, PROBE, measured(Trace(dict(reversed(one.items())), at), FADING))
        with pytest.raises(RunError, match="has traces of cell, hidden, input; a cell that has hidden, input cannot"):
            recorder.measured(6, PROBE, measured(Trace({name: one[name] for name in ("hidden", "input")}, at), FADING))
    stored = made.run.gradients()
    assert stored is not None
    assert stored.step.tolist() == [0, 3]
    for name, values in one.items():
        np.testing.assert_array_equal(stored.norms[name], np.stack([values, values]))


def test_a_checkpoint_says_how_far_it_is(tmp_path: Path) -> None:
    made = setup(tmp_path)
    with pytest.raises(Killed):
        made.train(bomb=Bomb(14))
    made.die()
    status = made.run.status()
    assert status is not None
    assert (status.state, status.step) == ("running", 8)


def test_traces_are_read_while_they_are_written(copy: RunDirectory, whole: Setup) -> None:
    """A killed run has what it had told the system; a trace of which only a part is there is none."""
    everything, ends = copy.gradients(), copy.gradients(ends=True)
    full = whole.run.gradients()
    assert everything is not None
    assert ends is not None
    assert full is not None
    assert everything.step.tolist() == full.step[: len(everything.step)].tolist() != []
    assert ends.step.tolist() == [everything.step[0], everything.step[-1]]
    assert everything.answered_at.tolist() == full.answered_at.tolist()
    for name, norms in full.norms.items():
        np.testing.assert_array_equal(everything.norms[name], norms[: len(everything.step)])
        np.testing.assert_array_equal(ends.norms[name], norms[[0, len(everything.step) - 1]])
    path = copy.file(TRACES)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    fewer = copy.gradients()
    assert fewer is not None
    assert len(fewer.step) == len(everything.step) - 1
    start = content.index(b"\n") + 1
    for little in (0, start - 1, start, start + 100):
        path.write_bytes(content[:little])
        assert copy.gradients() is None
        assert copy.gradients(ends=True) is None
    path.write_bytes(content[: start + (len(content) - start) // len(everything.step)])
    one = copy.gradients(ends=True)
    assert one is not None
    assert one.step.tolist() == [0]


def test_the_ends_of_what_is_stored(whole: Setup) -> None:
    full, ends = whole.run.gradients(), whole.run.gradients(ends=True)
    assert full is not None
    assert ends is not None
    assert ends.step.tolist() == [0, 12]
    for name, norms in full.norms.items():
        np.testing.assert_array_equal(ends.norms[name], norms[[0, -1]])


def test_few_files_are_written_a_second_but_a_slow_run_s_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(record, "monotonic", lambda: now[0])
    made = setup(tmp_path)

    def seen() -> int:
        return len(made.run.metrics())

    with made.recorder as recorder:
        recorder.load()
        for step in range(100):
            recorder.logged(step, "train", {"loss": 1.0})
        assert 1 <= seen() < 20
        for step in range(100, 105):
            now[0] += 5.0
            recorder.logged(step, "train", {"loss": 1.0})
            assert seen() == step + 1
    assert seen() == 105


def test_a_stack_has_a_tag_for_every_layer(tmp_path: Path) -> None:
    run = finish(tmp_path, cell="rnn", layers=2).run
    tags = scalars(run).Tags()["scalars"]
    groups = {tag.split("/")[0] for tag in tags if "by timestep" in tag}
    assert groups == {"gradient", "gradient_0.hidden", "gradient_1.hidden", "gradient_input"}
    stored = run.gradients()
    assert stored is not None
    assert set(stored.norms) == {"0/hidden", "1/hidden", "input"}


def test_a_run_without_traces(tmp_path: Path) -> None:
    run = finish(tmp_path, replace(PLAN, trace_every=0)).run
    assert run.gradients() is None
    tags = scalars(run).Tags()
    assert not any(tag.startswith("gradient") for tag in tags["images"])
    assert not [tag for tag in tags["scalars"] if tag.startswith("gradient")]
    assert {tag for tag in tags["scalars"] if tag.startswith("result/")} == {
        "result/score", "result/loss", "result/steps_to_solve",
    }  # fmt: skip
    result = run.result()
    assert result is not None
    assert result["probes"]["gradient"] == {"start": {}, "end": {}}


def test_a_run_that_diverges_is_a_failure_in_the_table(tmp_path: Path) -> None:
    made = setup(tmp_path)
    with torch.no_grad():
        made.model.readout.bias.fill_(torch.nan)  # pyright: ignore[reportCallIssue]
    with pytest.raises(Diverged), made.recorder:
        made.train()
    *_, last = read(made.run.file(EVENTS))
    (value,) = last.summary.value
    end = metadata.parse_session_end_info_plugin_data(value.metadata.plugin_data.content)
    assert end.status == Status.Value("STATUS_FAILURE")


def made_up(norms: np.ndarray, path: Path) -> RunDirectory:
    """A run of one trace, at the start, of a single state."""
    made = setup(path)
    trace = Trace({"hidden": norms, "input": norms}, np.full(norms.shape[1], len(norms) - 1))
    with made.recorder as recorder:
        recorder.load()
        recorder.measured(0, PROBE, measured(trace, KEEPING))
    return made.run


def test_long_curves_are_thinned_and_keep_both_ends(tmp_path: Path) -> None:
    norms = np.linspace(1, 2, 1000)[:, None]
    xs, values = curve(made_up(norms, tmp_path), "gradient/log10 by timestep (latest)")
    assert len(xs) == 256
    assert (xs[0], xs[-1]) == (0, 999)
    assert set(np.diff(xs)) <= {3, 4}
    np.testing.assert_allclose(values, np.log10(norms[xs, 0]), rtol=1e-5, atol=1e-7)


def test_what_cannot_be_drawn_ends_the_line_or_has_a_cap(tmp_path: Path) -> None:
    """No plateau: below the floor the two ends of the gap alone are there, as NaN."""
    norms = np.array([[0.0], [1e-20], [1e-13], [1e-11], [1e-13], [1e-11], [1.0]])
    run = made_up(norms, tmp_path)
    xs, values = curve(run, "gradient/log10 by timestep (latest)")
    assert (xs, values) == ([0, 2, 3, 4, 5, 6], pytest.approx([nan, nan, -11, nan, -11, 0], nan_ok=True))
    assert min(value for value in values if not np.isnan(value)) >= FLOOR
    xs, values = curve(run, "gradient/log10 by distance from answer (latest)")
    assert (xs, values) == ([1, 2, 3, 4, 5, 6], pytest.approx([0, -2, 0, -2, -9, nan], nan_ok=True))
    assert curve(run, "gradient/half_life")[1] == [70]  # ten times the sequence
    assert curve(run, "gradient/horizon")[1] == [7]
    assert np.isnan(curve(run, "gradient/log10_arrives")[1]).all()
    row = run.metrics()[-1]["probes"]["gradient"]["state"]
    assert (row["half_life"], row["log10_arrives"]) == (inf, -inf)


def test_distances_count_from_each_sequences_own_answer(tmp_path: Path) -> None:
    made = setup(tmp_path)
    norms = np.array([[0.1, 0.5], [0.4, 1.0], [1.0, 0.0]])
    trace = Trace({"hidden": norms, "input": norms}, np.array([2, 1]))
    np.testing.assert_allclose(trace.mean_back(norms), [1.0, 0.45, 0.1])
    with made.recorder as recorder:
        recorder.load()
        recorder.measured(0, PROBE, measured(trace, FADING))
    xs, values = curve(made.run, "gradient/log10 by distance from answer (at start)")
    assert (xs, values) == ([1, 2], pytest.approx([0, log10(0.1 / 0.45)]))
    assert curve(made.run, "gradient/log10 by timestep (at start)")[1] == pytest.approx(
        [log10(x) for x in (0.3, 0.7, 0.5)]
    )


# What people read


def read_by(
    task: str, seq_len: int, right: Callable[[Batch], Tensor] | None = None, sequences: int = 2
) -> list[Sentence]:
    """By a model that is right everywhere, or where ``right`` [T B] says so."""
    made = TASKS[task]()
    batch = made.held_out().sample(sequences, seq_len, generator(0, "show"))
    if batch.targets.ndim == 2:
        chosen = batch.targets if right is None else torch.where(right(batch), batch.targets, batch.targets.roll(1, 1))
        predicted = torch.nn.functional.one_hot(chosen, made.targets.size).float()
    else:
        predicted = batch.targets + (0.0 if right is None else 0.5)
    return sentences(made, batch, predicted)


def said(task: str, seq_len: int, right: Callable[[Batch], Tensor] | None = None) -> str:
    return answers(TASKS[task](), read_by(task, seq_len, right), title="now")


def test_answers_say_who_was_right() -> None:
    task = TASKS["pronoun"]()
    batch = task.sample(2, 12, generator(0, "show"))
    actual = said("pronoun", 12)
    for b in range(2):
        assert " ".join(task.words(batch.inputs[:, b])) in actual
        assert f"✓ right: {task.answer(batch.targets[-1, b])}, " in actual
    wrong = said("pronoun", 12, right=lambda batch: torch.zeros_like(batch.asked))
    swapped = [task.answer(batch.targets[-1, b]) for b in (1, 0)]
    # softmax of one 1 and seven 0s
    assert f"✗ wrong: {swapped[0]}, 28 %; it is {swapped[1]}, 10 %" in wrong


def test_answers_at_many_timesteps_are_counted() -> None:
    assert said("copy", 30).count(" 10 of 10 right") == 2
    assert " 30 of 30 right" in said("text", 30)
    assert "read " in said("text", 30)
    assert "right " not in said("text", 30).replace(" right", "")  # nothing to put right


def test_several_answers_at_once_are_shown_as_one() -> None:
    shown = said("compression", 33)
    assert shown.count("✓") == 2
    assert "how much of the answer is right by then, " in shown


def test_real_numbers_are_right_when_close_enough() -> None:
    assert said("adding", 10).count("✓") == 2
    assert said("adding", 10, right=lambda batch: batch.asked).count("✗") == 2


def test_long_sequences_are_abbreviated_in_the_middle() -> None:
    assert "more …" in said("pronoun", 400)
    assert "more …" not in said("pronoun", 60)
    assert "(240 more)" not in said("text", 400)
    assert "… 240 more …" in said("text", 400)


def assert_shares(task: Task, sentence: Sentence, outputs: np.ndarray, wanted: np.ndarray) -> None:
    """Several answers at once: labels by the signs of their numbers, else the largest of each group."""
    if isinstance(task.targets, Several):
        outputs, wanted = (one.reshape(len(one), task.targets.count, -1).argmax(-1) for one in (outputs, wanted))
    else:
        outputs, wanted = outputs > 0, wanted > 0
    assert sentence.right == pytest.approx((outputs == wanted).mean(1))
    assert sentence.changed_at == max(t for t in range(len(outputs)) if t == 0 or (outputs[t] != outputs[t - 1]).any())
    assert not sentence.correct[:-1].any()
    assert sentence.correct[-1] == (outputs[-1] == wanted[-1]).all()


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_sentence_is_what_the_model_put_out(task: str) -> None:
    """Against numpy, for outputs that are random."""
    made = TASKS[task]()
    batch = made.held_out().sample(3, made.min_seq_len + 6, generator(1, "show"))
    outputs = 3 * torch.randn(len(batch.inputs), 3, made.targets.size, generator=generator(1, "outputs"))
    for b, sentence in enumerate(sentences(made, batch, outputs)):
        asked = batch.asked[:, b].numpy()
        last = int(np.flatnonzero(asked)[-1])
        assert list(sentence.words) == made.words(batch.inputs[:, b])[: last + 1]
        assert sentence.asked.tolist() == asked[: last + 1].tolist()
        actual, expected = outputs[: last + 1, b].double().numpy(), batch.targets[: last + 1, b].numpy()
        wanted = expected if asked.sum() > 1 else expected[last]  # of one question: how sure the model is of its answer
        if made.targets.metric.percent and not made.targets.discrete:
            assert_shares(made, sentence, actual, np.broadcast_to(wanted, actual.shape))
            continue
        if not made.targets.discrete:
            error = np.square(actual - wanted).mean(1)
            assert sentence.right == pytest.approx(np.maximum(1 - np.sqrt(error / made.chance), 0))
            assert sentence.sure is None
            near = np.square(actual - actual[-1]).mean(1) <= made.solved_at
            assert near[sentence.changed_at :].all()
            assert sentence.changed_at == 0 or not near[sentence.changed_at - 1]
            assert sentence.answers[last] == made.answer(outputs[last, b])
            assert sentence.correct.tolist() == (asked[: last + 1] & (error <= made.solved_at)).tolist()
            continue
        shares = np.exp(actual) / np.exp(actual).sum(1, keepdims=True)
        assert sentence.right == pytest.approx(shares[np.arange(last + 1), wanted])
        assert sentence.sure == pytest.approx(shares.max(1))
        top = shares.argmax(1)
        assert list(sentence.answers) == [made.answer(torch.tensor(one)) for one in top]
        for t in np.flatnonzero(asked).tolist():
            assert sentence.expected[t] == made.answer(batch.targets[t, b])
        assert sentence.changed.tolist() == [t > 0 and top[t] != top[t - 1] for t in range(last + 1)]
        assert sentence.correct.tolist() == (asked[: last + 1] & (top == expected)).tolist()


def test_what_is_asked_once_is_what_there_is_to_be_sure_of() -> None:
    """Whatever other timesteps are trained on: to copy one symbol is blanks all the way to the last."""
    task = Copy(length=1)
    batch = task.sample(2, 8, generator(0, "show"))
    outputs = torch.randn(8, 2, task.targets.size, generator=generator(0, "outputs"), requires_grad=True)
    for b, sentence in enumerate(sentences(task, batch, outputs)):
        symbol = int(batch.targets[-1, b])
        assert symbol != int(batch.targets[0, b])
        expected = outputs[:, b].detach().double().softmax(-1)[:, symbol]
        assert sentence.right == pytest.approx(expected.numpy())


def test_what_follows_the_answer_is_not_read() -> None:
    """hs97 pads the shorter sequences of a batch."""
    task = Adding(variant="hs97")
    batch = task.sample(8, 30, generator(0, "show"))
    read = sentences(task, batch, torch.zeros(33, 8, 1))
    assert {len(one.words) for one in read} == {int(at) + 1 for at in batch.answered_at}
    assert len({len(one.words) for one in read}) > 1
    assert not any("-" in one.words for one in read)


def test_outputs_that_are_no_numbers_are_said_to_be_none() -> None:
    task = TASKS["pronoun"]()
    batch = task.sample(1, 12, generator(0, "show"))
    read = sentences(task, batch, torch.full((12, 1, 8), torch.nan))
    assert "??" in answers(task, read, title="now")
    assert np.isnan(read[0].right).all()
    grey = palette()[picture(read[0], title="now", ends=("0", "1"))]
    assert (grey == colours(np.array(np.nan))).all(-1).mean() > 0.1


def test_a_state_of_ones_own_is_described() -> None:
    task = TASKS["pronoun"]()
    assert "`1.slow`" in describe("gradient_1.slow/log10 by distance from answer (at end)", task, [PROBE])
    assert "after training" in describe("gradient/log10 by timestep, median (at end)", task, [PROBE])
    assert describe("no/such tag", task) == ""
