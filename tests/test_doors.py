"""The doors of the house: an attention cell and a two-phase model of a user's own, of which no line of seqmem knows.

They are trained, stopped and resumed, traced, read, exported, shown and reported from the command line, as ours are.
"""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose

import doors as module
from commandline import TINY, Completed, assert_same_numbers, only_run, trained_to
from seqmem.cli.config.own_code import pinned
from seqmem.cli.config.own_hydra import own_hydra
from seqmem.cli.config.schema import from_mapping, identity
from seqmem.cli.launch.one_run import StopSignals
from seqmem.cli.verbs.export import export_onnx
from seqmem.runs.directory import RunDirectory
from seqmem.runs.files import RunError

Typed = Callable[..., Completed]

OWN = Path(module.__file__).read_text()

WRONG = """
class Silent(TwoPhase):
    def walk(self, inputs, state=None):
        for step in super().walk(inputs, state):
            yield Step(step.x.detach(), step.output, step.state)

class Late(TwoPhase):
    def walk(self, inputs, state=None):
        yield from super().walk(inputs[1:], state)

class Narrow(TwoPhase):
    def read_out(self, outputs):
        return outputs

class Broken(TwoPhase):
    def walk(self, inputs, state=None):
        yield from super().walk(inputs, {})
"""


CHOICES = {
    "window": ("cell=custom", "cell.target=owndoors.Attention", "cell.args.window=3"),
    "stack": ("cell=custom", "cell.target=owndoors.Attention", "cell.layers=2"),
    "two phases": ("model=custom", "model.target=owndoors.TwoPhase", "model.args.source=4"),
    "two phases of attention": (
        "model=custom",
        "model.target=owndoors.TwoPhase",
        *("cell=custom", "cell.target=owndoors.Attention"),
    ),
}


@pytest.fixture
def doors(typed: Typed) -> Typed:
    Path("owndoors.py").write_text(OWN)
    return typed


def trained(doors: Typed, choice: str, *settings: str, folder: str = "outputs") -> Path:
    result = doors("train", *TINY, *CHOICES[choice], *settings, "quiet=true", f"outputs={folder}")
    assert (result.code, result.err) == (0, ""), result.err
    return only_run(Path(folder))


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("choice", ["stack", "two phases"])  # a growing state in a path of its own; a model
def test_every_command_takes_it_as_it_takes_ours(doors: Typed, choice: str) -> None:
    run = trained(doors, choice)
    commands = {
        "show": (str(run),), "read": (str(run),), "report": ("outputs", "--out", "report"),
        "export": (str(run), "--state-dict", "weights.npz"), "eval": (str(run),),
        "reproduce": (str(run),), "playground": (str(run), "--out", "page.html"),
    }  # fmt: skip
    for command, options in commands.items():
        result = doors(command, *options)
        assert result.code == 0, (command, result)
    reading = json.loads(doors("read", str(run), "--json").out, parse_constant=no_constant)
    assert np.asarray(reading["models"][0]["outputs"]).shape == (8, 8)
    gradients = RunDirectory(run).gradients()
    assert gradients is not None
    at_answer = gradients.norms["input"][:, -1]
    assert np.isfinite(at_answer).all()
    assert (at_answer > 0).all()
    assert Path("report/index.html").exists()
    if choice == "stack":  # ONNX's own packages are not needed to refuse it
        with pytest.raises(RunError, match="the state of this model changes its shape along the sequence"):
            export_onnx(RunDirectory(run), Path("step.onnx"))
        assert not Path("step.onnx").exists()


def test_the_trace_is_of_what_each_timestep_wrote(doors: Typed) -> None:
    gradients = RunDirectory(trained(doors, "two phases")).gradients()
    assert gradients is not None
    written = {name: np.isfinite(norms).all((0, 2)) for name, norms in gradients.norms.items()}
    assert all((np.isnan(norms).all((0, 2)) == ~written[name]).all() for name, norms in gradients.norms.items())
    first = np.arange(8) < 4
    assert written.keys() == {
        "input",
        "read",
        *(f"{a}coder/{b}" for a in ("en", "de") for b in ("hidden", "cell")),
        "context",
    }
    np.testing.assert_array_equal(written["input"], True)
    for name in ("read", "encoder/hidden", "encoder/cell"):
        np.testing.assert_array_equal(written[name], first, name)
    for name in ("decoder/hidden", "decoder/cell"):
        np.testing.assert_array_equal(written[name], ~first, name)
    np.testing.assert_array_equal(written["context"], np.arange(8) == 3)
    # All that reaches the encoder passes the context, which is its output.
    np.testing.assert_allclose(gradients.norms["context"][:, 3], gradients.norms["encoder/hidden"][:, 3], rtol=1e-12)


@pytest.mark.parametrize("choice", ["window", "two phases of attention"])  # slots are saved in both their forms
def test_a_run_that_is_stopped_and_goes_on_ends_where_it_would_have(
    doors: Typed, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a state that is carried from one piece of a text to the next, and saved with it."""
    settings = ("task=text", "task.chunks=2", "tbptt=3", "trace.every=3")
    whole = trained(doors, choice, *settings, folder="whole")
    calls = 0

    def stop(self: StopSignals) -> bool:
        nonlocal calls
        calls += 1
        self.received = signal.SIGINT if calls == 3 else None  # in the middle of a text of two pieces
        return self.received is not None

    with monkeypatch.context() as patch:
        patch.setattr(StopSignals, "requested", stop)
        result = doors("train", *TINY, *CHOICES[choice], *settings, "quiet=true", "outputs=cut")
        assert result.code > 0
        assert trained_to(Path("cut")) == 3
    resumed = trained(doors, choice, *settings, folder="cut")
    assert_same_numbers(whole, resumed)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("Missing", "owndoors has no Missing"),
        ("Attention", "model.target=owndoors.Attention: must be a subclass of seqmem.models.base.Model"),
        (
            "Silent",
            "model.target=owndoors.Silent: walk yields an x without a gradient: take it from seqmem.models.entering",
        ),
        ("Late", "model.target=owndoors.Late: walk yields 6 steps over 7 timesteps: one each"),
        ("Narrow", "model.target=owndoors.Narrow: its predictions have shape (7, 3, 4), not (7, 3, 8)"),
        ("Broken", "model.target=owndoors.Broken: its first sequence fails: KeyError: 'read'"),
        ("TwoPhase model.args.sauce=1", "there is no setting 'model.args.sauce'. Did you mean 'model.args.source'?"),
    ],
)
def test_a_model_that_cannot_be_is_one_line(doors: Typed, target: str, message: str) -> None:
    Path("owndoors.py").write_text(OWN + WRONG)
    result = doors("train", *TINY, "model=custom", *f"model.target=owndoors.{target}".split())
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_the_default_model_changes_no_identity(doors: Typed) -> None:
    """A run of the default model is the run that it was before models could be chosen."""
    with own_hydra():
        config = from_mapping(compose("train"))
    assert "model" not in identity(config)
    config.model = pinned({"name": "custom", "target": "owndoors.TwoPhase", "args": {}})
    assert identity(config)["model"].keys() == {"name", "target", "args", "code"}


def test_models_are_listed(doors: Typed) -> None:
    result = doors("list")
    assert result.code == 0
    assert re.search(
        r"^models\n(?:  .*\n)*  recurrent +The cell reads .*\n(?: {5}.*\n)*  custom +A model of your own",
        result.out,
        re.MULTILINE,
    )
