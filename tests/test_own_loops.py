"""What seqmem does for models and training loops that are not its own: seqmem.log, seqmem trace, their documents."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import seqmem
from as_written import MODELS, words
from commandline import Completed
from made_up import run_directory
from seqmem.cli.notebook import plots
from seqmem.randomness import ambient
from seqmem.record import own_loops
from seqmem.record.events import read_scalars
from seqmem.report.collect import collect
from seqmem.report.figures.output import Drawn
from seqmem.runs.directory import RunDirectory
from seqmem.runs.files import EVENTS, RunError
from seqmem.runs.summary import read

DOCS = Path(__file__).parents[1] / "docs"
Typed = Callable[..., Completed]


class Writer:
    """A ``SummaryWriter`` that keeps what it is given."""

    def __init__(self, folder: Path) -> None:
        self.log_dir = str(folder)
        self.scalars: dict[str, dict[int, float]] = {}
        self.images: dict[str, list[tuple[int, ...]]] = {}

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.setdefault(tag, {})[step] = value

    def add_image(self, tag: str, pixels: Any, step: int, dataformats: str) -> None:
        assert dataformats == "HWC"
        self.images.setdefault(tag, []).append(pixels.shape)


@pytest.fixture
def closed() -> Iterator[None]:
    """Runs that the test began are closed, so that their place can be used again."""
    yield
    while own_loops._runs:
        own_loops._runs.popitem()[1].close()


def traces() -> list[Any]:
    """Three traces of a model whose recurrent weights shrink."""
    written = MODELS["language model, tied"]
    with ambient(0, "log"):
        model: Any = written.make()
    text, traced = words(30, 3, stream="log"), []
    for _ in range(3):
        traced.append(seqmem.trace(model, lambda m, x: written.losses(m, x), text))
        with torch.no_grad():
            model.rnn.weight_hh_l0.mul_(0.7)
    return traced


def test_a_run_of_ones_own_loop_stands_beside_seqmems(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: None
) -> None:
    """The writer, the run's files, show, report and verify have the trace's numbers; what needs a model says so."""
    monkeypatch.chdir(tmp_path)
    run_directory(tmp_path / "outputs" / "pronoun" / "lstm" / "len10-seed0")
    writer, logged = Writer(tmp_path / "tb"), traces()
    shown = None
    for step, trace in zip((0, 10, 20), logged, strict=True):
        shown = seqmem.log(writer, step, trace, run="mine")
    assert shown is not None
    assert shown.path == Path("outputs/own/LanguageModel/mine-seed0")

    decays = [trace.decays()["rnn.l0"] for trace in logged]
    curve = writer.scalars["gradient/log10_arrives"]
    assert curve == {step: decay["state"].log10_arrives for step, decay in zip((0, 10, 20), decays, strict=True)}
    assert writer.scalars["gradient_rnn.l1/half_life"].keys() == {0, 10, 20}
    assert writer.images.keys() == {"gradient/heatmap", "gradient_rnn.l1/heatmap"}
    curves = read_scalars(tmp_path / "tb" / "gradient" / EVENTS)
    latest = curves["gradient/log10 by distance from answer (latest)"]
    last = logged[-1].parts["rnn.l0"].trace
    back = last.mean_back(last.state)
    np.testing.assert_allclose(
        [latest.points[k] for k in range(1, len(back)) if k in latest.points and latest.points[k] > -12],
        np.log10(back[1:] / back[1])[: len(latest.points)][np.log10(back[1:] / back[1])[: len(latest.points)] > -12],
        rtol=1e-4, atol=1e-6,
    )  # fmt: skip
    assert "one step back from the answer" in latest.description

    stored = shown.gradients()
    assert stored is not None
    assert stored.step.tolist() == [0, 10, 20]
    for path in ("rnn.l0", "rnn.l1"):
        for name in ("hidden", "cell"):
            assert np.array_equal(stored.norms[f"{path}/{name}"][1], logged[1].norms[path][name])
    summary = read(RunDirectory(shown.path))
    assert (summary.state, summary.score) == ("finished", logged[-1].loss)
    events = read_scalars(shown.path / EVENTS)
    assert events["gradient/log10_arrives"].points[20] == pytest.approx(
        summary.probes["gradient"]["end"]["state"]["log10_arrives"]
    )

    page = typed("show", "own/LanguageModel")
    assert (page.code, page.err) == (0, "")
    assert page.out.startswith("LanguageModel on own  29 timesteps")
    assert page.out.count("loss ") == 1
    beside = typed("show", "outputs")
    assert {line.split()[0] for line in beside.out.splitlines() if line} >= {"own", "pronoun"}
    assert typed("verify", str(shown.path)).code == 0
    seqmem.log(None, 20, logged[0], run="mine", seed=1)
    seqmem.log(None, 20, logged[0], run="another")
    collection = collect([Path("outputs")])
    assert {group.label for group in collection.groups if group.task == "own"} == {
        "LanguageModel run=another", "LanguageModel run=mine",
    }  # fmt: skip
    assert {run.task for run in collection.runs} == {"own", "pronoun"}
    assert not collection.left_out
    for verb in ("reproduce", "eval", "read"):
        completed = typed(verb, str(shown.path))
        assert completed.code != 0
        assert "seqmem.log wrote it from a loop of your own" in completed.err
        assert len(completed.err.splitlines()) == 1


def test_what_cannot_be_logged_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: None) -> None:
    monkeypatch.chdir(tmp_path)
    trace, *_ = traces()
    model = nn.GRU(2, 3)
    with seqmem.tap(model) as tap:
        model(torch.ones(4, 2, 2))[0].sum().backward()
    seqmem.log(None, 5, trace, run="mine")
    cases: list[tuple[Any, dict[str, Any], str | None]] = [
        ((None, 0, trace), {}, "nothing to write to"),
        ((3, 0, trace), {}, "writer is int"),
        ((None, 0, tap.trace), {"run": "other"}, "does not know its loss"),
        ((None, -1, trace), {"run": "mine"}, "step=-1: must be a whole number"),
        ((None, 6, trace), {"run": ""}, "run='': must be a name"),
        ((None, 6, trace), {"run": "mine", "task": "a/b"}, "task='a/b': must be a name"),
        ((None, 5, trace), {"run": "mine"}, "the last trace of this run was of step 5"),
        ((None, 6, tap.trace), {"run": "mine", "loss": 1.0, "task": "own"}, None),
        (
            (None, 6, tap.trace),
            {"run": "outputs/own/LanguageModel/mine-seed0", "loss": 1.0},
            "one fixed held-out batch",
        ),
    ]
    for arguments, options, message in cases:
        if message is None:
            assert seqmem.log(*arguments, **options).path.parts[-2] == "GRU"  # pyright: ignore[reportOptionalMemberAccess]
            continue
        with pytest.raises(ValueError, match=message) as error:
            seqmem.log(*arguments, **options)
        assert "\n" not in str(error.value)
    other = run_directory(tmp_path / "outputs" / "pronoun" / "lstm" / "len10-seed0")
    with pytest.raises(RunError, match="is a run of seqmem's"):
        seqmem.log(None, 0, trace, run=other)
    assert (other / "result.json").exists()


SCRIPT = """
import torch
from torch import nn

print("made")

def loss_fn(model, x):
    return model(x)[0][-1].sin().sum(-1)

def make():
    torch.manual_seed(0)
    return nn.GRU(2, 3), loss_fn, torch.randn(20, 4, 2)

def followed():
    import seqmem
    model, *others = make()
    return seqmem.nn.remember_(model, 20), *others

def padded():
    return *make(), {"lengths": [20, 5, 7, 9]}

def length():
    return *make(), {"length": [20, 5, 7, 9]}

def pair():
    return 1, 2

def numbers():
    return 1, 2, 3

def lonely():
    return nn.GRU(2, 3), 2, 3

def broken():
    return 1 / 0

def plain():
    return nn.Linear(2, 3), loss_fn, None
"""


def test_the_verb(typed: Typed, tmp_path: Path) -> None:
    """Its strip and its JSON have the numbers of ``seqmem.trace``; the page has both and the figure."""
    (tmp_path / "given_model.py").write_text(SCRIPT)
    shown = typed("trace", "given_model.py:make", "--html", "trace.html")
    assert (shown.code, shown.err) == (0, "made\n")
    (line,) = (line for line in shown.out.splitlines() if line.startswith("GRU  "))
    given = json.loads(typed("trace", "given_model.py:make", "--json").out)
    torch.manual_seed(0)
    model, x = nn.GRU(2, 3), torch.randn(20, 4, 2)
    trace = seqmem.trace(model, lambda model, x: model(x)[0][-1].sin().sum(-1), x)
    assert given["parts"]["GRU"]["norms"]["hidden"] == trace.norms["GRU"]["hidden"].tolist()
    assert f"{trace.decays()['GRU']['state'].half_life:.3g}" in line.split()
    assert given["advice"].startswith("try seqmem.nn.remember_(model, 20) before training (chrono initialisation): on")
    assert given["advice"] in " ".join(shown.out.split())
    after = json.loads(typed("trace", "given_model.py:followed", "--json").out)
    first, second = (one["parts"]["GRU"]["decays"]["state"]["half_life"] for one in (given, after))
    assert second > 5 * first  # it is true
    assert given["tried"]["GRU"]["half_life"] > 5 * first
    assert not after["advice"]
    padded = json.loads(typed("trace", "given_model.py:padded", "--json").out)["parts"]["GRU"]
    assert padded["lengths"] == [20, 5, 7, 9]
    page = (tmp_path / "trace.html").read_text()
    assert "<svg" in page
    assert "half-life" in page
    for words_, message in (
        ("given_model.py:mak", "has no function 'mak'. Did you mean 'make'"),
        ("given_model.py:pair", r"must return \(model, loss_fn, batch\), and returned a tuple of 2"),
        ("given_model.py:numbers", "model is int, no torch.nn.Module"),
        ("given_model.py:lonely", "loss_fn is int: give a function"),
        ("given_model.py:broken", "given_model.py:35: ZeroDivisionError"),
        ("given_model.py:length", "after the batch is 'length': must be options of seqmem.trace"),
        ("given_model.py:plain", "nothing recurrent"),
        ("nowhere.py:make", "there is no file nowhere.py"),
        ("given_model.py", "must be a file and a function in it"),
    ):
        completed = typed("trace", words_)
        (error,) = (line for line in completed.err.splitlines() if line != "made")
        assert re.search(message, error), error
        assert (completed.code, completed.out) == (1 if "broken" in words_ else 2, "")


def code(name: str) -> list[str]:
    if name.endswith(".md"):
        return re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text(), re.DOTALL | re.MULTILINE)
    cells = json.loads((DOCS / name).read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_six_wrong_ways_and_a_right_one() -> None:
    """The notebook's cells, run: each wrong number beside the right one. Its stored outputs are of such a run."""
    main: dict[str, Any] = {}
    with ambient(0, "notebook"):
        for cell in code("six_wrong_ways.ipynb"):
            exec(compile(cell.replace("trace.plot()", "None"), "cell", "exec"), main)
    right = torch.tensor(main["right"])
    assert (main["of_output"][:-1] == 0).all()  # 1: the recurrence does not pass through the output
    assert (right > 0).all()
    assert 0.1 < main["flat"][0] / main["flat"][-2] < 10  # 2: a loss at every step hides
    assert main["falls"][0] / main["falls"][-2] < 1e-9  # that the gradient falls
    assert int((main["in_float32"] == 0).sum()) > 200  # 3: float32
    assert 1e-90 < main["in_float64"][0] < 1e-70
    assert main["last_word"][0] < 1e-9 < 1e-2 < main["last_word"][1]  # 4: padding
    (once, own_once), (many, own_many) = main["by_batch"]
    assert many / once == pytest.approx(1 / 8, rel=1e-3)  # 5: one norm of a mean
    assert own_many == pytest.approx(own_once)
    lives = [one.decays()["lstm"]["state"].half_life for one in main["pair"].values()]
    assert lives[1] > 2 * lives[0]  # 6: scaled between minimum and maximum both are 0.00 half-way
    for one in main["pair"].values():
        curve = one.norms["lstm"]["hidden"].mean(1)
        assert (curve[29] - curve.min()) / (curve.max() - curve.min()) < 2e-3
    stored = [cell.get("outputs") for cell in json.loads((DOCS / "six_wrong_ways.ipynb").read_text())["cells"]]
    assert all(outputs is None or outputs or i == 1 for i, outputs in enumerate(stored))
    shown = [text for outputs in stored for one in outputs or [] for text in one.get("data", {}).get("text/plain", [])]
    assert " ".join(repr(main["trace"]).split()) in " ".join("".join(shown).split())  # else: scripts/notebook.py


class Adam:
    """In place of torch's, which imports its compiler."""

    def __init__(self, parameters: Any) -> None:
        self.parameters = list(parameters)

    def step(self) -> None:
        with torch.no_grad():
            for parameter in self.parameters:
                parameter -= 0.1 * parameter.grad


def test_the_examples_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: None) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "render", lambda _: Drawn(b"<svg/>", b""))
    main: dict[str, Any] = {"Adam": Adam, "__name__": "__main__"}
    of_layers: dict[str, Any] = {}
    with ambient(0, "page"):
        for block in code("your-model.md"):
            exec(compile(block.replace("torch.optim.Adam", "Adam"), "page", "exec"), main)
        for block in code("nn.md"):
            exec(compile(block, "page", "exec"), of_layers)
    assert of_layers["nn"].computed_by(of_layers["model"])["encoder"] == "torch: not converted"  # after restore
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "lstm.svg"}
    assert Path("outputs/own/Classifier/first-seed0/result.json").exists()
    assert main["tap"].norms["lstm.l0"]["cell"].shape == (60, 8)
