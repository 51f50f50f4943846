"""What the library returns shows itself as the command line prints it, draws itself, and writes nothing unasked."""

import html
import inspect
import re
import sys
from base64 import b64decode
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch

import seqmem
from commandline import TINY, Completed
from made_up import directories
from seqmem.cells import CELLS, RNN
from seqmem.cli.config.errors import ConfigError
from seqmem.cli.notebook import errors, plots
from seqmem.cli.notebook import report as reporting_in_python
from seqmem.cli.notebook import train as training
from seqmem.cli.notebook.progress import Bundle, Progress
from seqmem.cli.notebook.runs import DisplayedRun
from seqmem.cli.notebook.settings import overrides_of
from seqmem.cli.terminal.live import RunInfo
from seqmem.cli.terminal.reader.views import VIEWS
from seqmem.cli.verbs import report as reporting
from seqmem.metrics import ACCURACY
from seqmem.report.figures.output import Drawn
from seqmem.runs.directory import RunDirectory
from seqmem.tasks import Adding

Typed = Callable[..., Completed]
DOCS = Path(__file__).parents[1] / "docs" / "python.md"


class Word(StrEnum):
    bf16 = "bf16"


VALUES: list[tuple[Any, Any]] = [
    (np.float64(1e-3), 1e-3), (np.float32(0.1), 0.10000000149011612), (np.int64(7), 7), (np.bool_(True), True),
    (np.str_("a b"), "a b"), (np.arange(2, 9, 3), [2, 5, 8]), (np.array([[0.5], [1.0]]), [[0.5], [1.0]]),
    (np.array(3), 3), (torch.tensor(0.25, requires_grad=True), 0.25), (torch.tensor([1, 2]), [1, 2]),
    (range(8, 33, 8), [8, 16, 24, 32]), ((1, np.int8(2)), [1, 2]), ([np.nan], [float("nan")]), (Word.bf16, "bf16"),
    ({"a": np.float16(0.5)}, {"a": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(("given", "plain"), VALUES)
def test_numbers_arrays_and_ranges_are_the_plain_values(given: Any, plain: Any) -> None:
    for place in (lambda value: {"x": value}, lambda value: {"part": {"x": value}}):
        assert list(overrides_of(place(given))) == list(overrides_of(place(plain)))


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j, b"word", (part for part in "ab"), [object()]])
def test_what_is_no_value_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^part\.x: cannot be of type \w+: give a number, a word, a list or None$"):
        list(overrides_of({"part": {"x": value}}))


@pytest.mark.parametrize("part", ["cell", "task", "model"])
def test_an_object_in_place_of_its_class(part: str) -> None:
    with pytest.raises(ConfigError, match=f"^{part}: cannot be of type RNN: give a name, a class or a dictionary$"):
        list(overrides_of({part: RNN(2, 3)}))


class Mine(RNN):
    pass


def test_classes_as_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of ours is the run of its name; another is found by its module and name, or refused."""
    assert list(overrides_of({"task": Adding, "model": seqmem.SequenceModel})) == ["task=adding", "model=recurrent"]
    for name, kind in CELLS.items():
        assert list(overrides_of({"cell": kind})) == list(overrides_of({"cell": name}))
        assert list(overrides_of({"cell": {"name": kind, "layers": 2}})) == [f"cell={name}", "cell.layers=2"]
    named = ["cell=custom", "cell.target=test_notebook.Mine", "cell.hidden_size=3"]
    assert list(overrides_of({"cell": {"name": Mine, "hidden_size": 3}})) == named
    assert list(overrides_of({"probe": {"x": {"target": Mine}}})) == ["probe.x={target:test_notebook.Mine}"]

    class Inside(RNN):
        pass

    with pytest.raises(ConfigError, match="cell: Inside is defined inside a function or a class"):
        list(overrides_of({"cell": Inside}))
    former = type("Former", (RNN,), {"__module__": "__main__", "__qualname__": "Former"})
    monkeypatch.setattr(sys.modules["__main__"], "Former", former, raising=False)
    assert list(overrides_of({"cell": former}))[1] == "cell.target=__main__.Former"
    monkeypatch.setattr(sys.modules["__main__"], "Former", Mine)
    with pytest.raises(ConfigError, match="cell: another Former has been defined since"):
        list(overrides_of({"cell": former}))


# Errors


MISTAKES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: seqmem.train(cell="lstn"), ValueError, "no cell is called 'lstn'. Did you mean 'lstm'?"),
    (lambda: seqmem.train(seq_len=object()), ValueError, "seq_len: cannot be of type object"),
    (lambda: seqmem.train(cell=int), ValueError, "cell.target=builtins.int: must be a subclass of seqmem.cells"),
    (lambda: seqmem.show("nix"), ValueError, "nix: no run there"),
    (lambda: seqmem.read("nix"), ValueError, "nix: no run there"),
    (lambda: seqmem.read(lenght=3), TypeError, "'lenght'. Did you mean 'length'?"),  # pyright: ignore
    (lambda: seqmem.report("nix"), ValueError, "nix is not a folder"),
    (lambda: seqmem.report("here", threshold=2.0), ValueError, "threshold 2: must be an accuracy above 0"),
    (lambda: seqmem.report("here"), seqmem.RunError, "no runs below here"),
    (lambda: seqmem.show("damaged"), seqmem.RunError, "damaged/config.json cannot be read"),
]


@pytest.mark.parametrize("place", range(len(MISTAKES)))
def test_a_mistake_is_one_line(place: int, typed: Typed, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As IPython asks for it, and as plain Python prints it; HYDRA_FULL_ERROR=1 gives the whole."""
    Path("here").mkdir()
    Path("damaged").mkdir()
    Path("damaged/config.json").write_text("{")
    call, kind, words = MISTAKES[place]
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with pytest.raises(kind) as raised:
        call()
    error = raised.value
    assert isinstance(error, errors.OneLine)
    (line,) = error._render_traceback_()
    assert words in line
    assert "\n" not in line
    sys.excepthook(type(error), error, error.__traceback__)
    printed = capsys.readouterr().err
    assert re.match(r"\w+\.py:\d+: ", printed)
    assert words in printed
    assert printed.count("\n") == 1
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert len(error._render_traceback_()) > 5
    sys.excepthook(type(error), error, error.__traceback__)
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_other_errors_and_other_tools_hooks_are_left_alone(typed: Typed, capsys: Any, monkeypatch: Any) -> None:
    hook = [].append
    monkeypatch.setattr(sys, "excepthook", hook)
    with pytest.raises(ValueError, match="lstn"):
        seqmem.train(cell="lstn")
    assert sys.excepthook is hook

    @errors.front_door
    def broken() -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with pytest.raises(ZeroDivisionError) as raised:
        broken()
    assert sys.excepthook is sys.__excepthook__
    errors._hook(ZeroDivisionError, raised.value, raised.tb)
    assert "Traceback" in capsys.readouterr().err


# What is returned


def read_as_text(markup: str) -> str:
    """What a browser would show of preformatted text."""
    assert re.fullmatch(r"<pre style=\"[^\"<>]*\">.*</pre>", markup, re.DOTALL)
    assert set(re.findall(r"<(/?\w+)", markup)) <= {"pre", "/pre", "span", "/span"}
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


class Printer:
    """IPython's printer: ``stack`` has what is being printed, from the outside in."""

    def __init__(self, depth: int) -> None:
        self.stack, self.text = [0] * depth, lambda text: self.parts.append(text)
        self.parts: list[str] = []


def test_what_is_returned_shows_what_the_command_line_prints(
    run: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "104")
    before = sorted(Path.cwd().rglob("*"))
    one, many, reading, report = seqmem.show(run)[0], seqmem.show(), seqmem.read(run), seqmem.report()
    assert sorted(Path.cwd().rglob("*")) == before, "something was written"
    expected = lines(typed("show", str(run)).out)
    assert lines(read_as_text(one._repr_html_())) == lines(read_as_text(many._repr_html_())) == expected
    assert [one.path.resolve() for one in many] == [run.resolve()]
    assert lines(read_as_text(reading._repr_html_())) == lines(typed("read", str(run)).out)
    assert "gates" in read_as_text(reading.view("gates")._repr_html_()).splitlines()[0]
    monkeypatch.setattr(reporting, "written", lambda *_: Path("page"))
    assert lines(read_as_text(report._repr_html_())) == lines(typed("report").out)[:-2]
    # As text: the same words, as wide as this terminal.
    for shown, markup in ((str(one), one), (repr(many), many), (repr(reading), reading), (repr(report), report)):
        assert shown.split()[:4] == read_as_text(markup._repr_html_()).split()[:4]
    assert repr(one).count("\n") == 0
    assert "lstm on pronoun, finished, accuracy" in repr(one)
    alone, among = Printer(1), Printer(2)
    one._repr_pretty_(alone, cycle=False)
    one._repr_pretty_(among, cycle=False)
    assert (alone.parts, among.parts) == ([str(one)], [repr(one)])
    assert reading.numbers["models"][0]["label"] == "lstm"
    assert list(reading.readings) == ["lstm"]
    assert report.numbers["runs"] == 1


def test_a_result_shows_itself_and_is_still_a_dictionary(run: Path) -> None:
    result = RunDirectory(run).result()
    assert result is not None
    assert result == dict(result)
    shown, markup = repr(result), result._repr_html_()  # pyright: ignore
    for words in ("lstm on pronoun, 8 timesteps", ACCURACY.text(result["score"]), f"{result['parameters']:,}"):
        assert words in shown
        assert words in markup
    assert "before training" in shown
    assert repr(RunDirectory("here")) == "RunDirectory('here')"
    ET.fromstring(markup)
    result.pop("score")  # pyright: ignore
    assert "'loss'" in repr(result)


def test_hostile_names_and_damaged_runs_are_displayed(tmp_path: Path) -> None:
    folder = directories(tmp_path / "runs", {"<b>x\x1b[31m": {10: [1.0]}})
    shown = seqmem.show(folder)
    for markup in (shown._repr_html_(), shown[0]._repr_html_(), shown[0].result()._repr_html_()):  # pyright: ignore
        assert "<b>" not in markup
        assert "\x1b" not in markup + repr(shown) + repr(shown[0]) + str(shown[0])
    gone = DisplayedRun(tmp_path / "gone")
    assert "is not a run" in repr(gone)
    assert "is not a run" in str(gone)
    assert "is not a run" in gone._repr_html_()


def test_plots(run: Path, tmp_path: Path) -> None:
    """A figure has the run's numbers; it shows itself, and is written where it is asked to be."""
    one = seqmem.show(run)[0]
    plot = one.plot()
    learning, gradient, tested = plot.figure.axes
    looks = [(row["step"], row["score"]) for row in one.metrics() if row["kind"] == "eval"]
    assert [tuple(point) for point in np.asarray(learning.lines[0].get_xydata())] == looks
    traces = one.gradients()
    assert traces is not None
    norms = traces.norms["hidden"][-1]
    assert gradient.lines[1].get_xdata()[0] == 1  # pyright: ignore
    assert len(gradient.lines) == 2
    assert len(norms) - 1 == len(gradient.lines[1].get_xdata())  # pyright: ignore
    result = one.result()
    assert result is not None
    scores = [(row["seq_len"], row["score"]) for row in result["by_length"]]
    assert [tuple(point) for point in np.asarray(tested.lines[0].get_xydata())] == scores
    match = re.fullmatch(
        r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"<>]+)" style="[^"]+">', plot._repr_html_()
    )
    assert match is not None
    assert ET.fromstring(b64decode(match[1])).tag.endswith("svg")
    assert "pronoun" in html.unescape(match[2])
    for kind, start in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        assert plot.save(tmp_path / f"plot.{kind}").read_bytes().startswith(start)
    with pytest.raises(ValueError, match=r"a plot is saved as \.svg, \.png, \.pdf"):
        plot.save(tmp_path / "plot.jpeg")
    with pytest.raises(seqmem.RunError, match="cannot write to"):
        plot.save(tmp_path / "none" / "plot.svg")


def test_the_views_are_those_of_the_command_line() -> None:
    assert get_args(inspect.signature(seqmem.read).parameters["view"].annotation) == VIEWS


def test_importing_the_package_behind_it_leaves_the_function() -> None:
    """``seqmem.report`` is also a package; ``import`` makes it an attribute of ``seqmem``."""
    assert "seqmem.report.collect" in sys.modules
    assert inspect.isfunction(seqmem.report)


# Progress


def test_a_notebook_shows_the_training_in_place() -> None:
    shown: list[Bundle] = []
    time = [0.0]

    def show(first: Bundle) -> Callable[[Bundle], Any]:
        shown.append(first)
        return shown.append

    about = RunInfo("lstm pronoun", ACCURACY, chance=0.25, baseline_loss=1.4, steps=100)
    with Progress(about, show=show, clock=lambda: time[0]) as progress:
        for step in range(10):
            time[0] += 0.2
            progress.logged(step, "train", {"loss": 1.0})
    assert [re.findall(r"step (\d+)/100", read_as_text(one["text/html"])) for one in shown] == [
        ["0"], ["2"], ["5"], ["8"], ["9"]
    ]  # fmt: skip
    assert {one["text/plain"] for one in shown} == {"lstm pronoun"}
    with Progress(RunInfo("x", ACCURACY, 0.25, 1.4, 100, quiet=True), show=show) as progress:
        progress.logged(1, "train", {"loss": 1.0})
    assert len(shown) == 5


def test_the_examples_of_the_page(typed: Typed, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """In order, in one namespace, with tiny runs that neither render nor write a report: other tests do."""
    small, long = [*TINY[1:], "steps=2"], ["seq_len=21", "evaluate.lengths=[21]"]
    compose = training.compose_run
    monkeypatch.setattr(
        training,
        "compose_run",
        lambda given: compose([*given, *small, *(long if "task=custom" in given else ["seq_len=8"])]),
    )
    monkeypatch.setattr(plots, "render", lambda _: Drawn(b"<svg/>", b""))
    monkeypatch.setattr(reporting_in_python, "written", lambda _, folder, *__: folder / "index.html")
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    main = vars(sys.modules["__main__"])
    before = dict(main)
    try:
        for block in blocks:
            exec(compile(block, DOCS.name, "exec"), main)
        figures = set(main["report"].plots())
    finally:
        names = set(main) - set(before)
        for name in names:
            del main[name]
    assert {"Leaky", "Copied", "report"} <= names
    assert {"pronoun-summary", "Copied-summary"} <= figures
    assert {path.name for path in Path.cwd().iterdir()} == {"outputs", "lstm.svg"}
