"""``seqmem playground``: training and reuse of models, refusals, and the page that it writes, serves and opens."""

import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
import webbrowser
from base64 import b64decode
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig
from rich.console import Console

from commandline import TINY, Completed, runs_below
from seqmem import train
from seqmem.cli.config.compose import compose_settings
from seqmem.cli.config.schema import from_mapping
from seqmem.cli.config.trained import trained
from seqmem.cli.launch import demo
from seqmem.cli.launch.one_run import execute
from seqmem.cli.verbs import playground
from seqmem.evaluate import evaluate_lengths
from seqmem.playground import bundle as bundles
from seqmem.playground import serve
from seqmem.record.recorder import load_checkpoint
from seqmem.runs.directory import RunDirectory
from seqmem.tasks import Pronoun

Typed = Callable[..., Completed]

SMALL = (
    "steps=2", "cell.hidden_size=4", "embed_size=3", "batch_size=4", "log_every=2", "evaluate.sequences=8",
    "evaluate.lengths=[7,10,50]", "evaluate.every=2", "trace.every=2", "trace.sequences=2", "quiet=true",
)  # fmt: skip


@cache
def composed(*overrides: str) -> DictConfig:
    return compose_settings(overrides)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training takes a tenth of a second, as Hydra does to compose a model's settings; no test opens a browser."""
    monkeypatch.setattr(demo, "compose_settings", lambda overrides: composed(*overrides))
    monkeypatch.setattr(demo, "SETTINGS", (*demo.SETTINGS, *SMALL))
    monkeypatch.setattr(playground, "SEQUENCES", 8)
    monkeypatch.setattr(bundles, "bundle", partial(bundles.bundle, sentences_per_length=2))
    monkeypatch.setattr(webbrowser, "open", lambda *_: pytest.fail("a browser was opened"))


def data(page: Path) -> dict[str, Any]:
    """The page's data."""
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def floats(text: str) -> np.ndarray:
    return np.frombuffer(b64decode(text), "<f4")


def result_times(folder: Path) -> dict[Path, int]:
    """Run below a folder -> time at which its result was written, in ns."""
    return {run: (run / "result.json").stat().st_mtime_ns for run in runs_below(folder)}


# Its own models


def test_it_trains_what_is_missing_and_reuses_the_rest(
    typed: Typed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = typed("playground", "--seeds", "1", "--workers", "1")
    assert (done.code, done.err) == (0, "")
    page = tmp_path / "playground/index.html"
    first, content = result_times(tmp_path), page.read_bytes()
    assert len(first) == 5
    jobs = [line.partition(" len")[0] for line in done.out.splitlines() if line.startswith("[")]
    cells = ("rnn", "lstm", "gru", "attention", "rnn")
    assert jobs == [f"[{number}/5] {cell} pronoun" for number, cell in enumerate(cells, 1)]
    assert "playground/index.html" in done.out
    typed("show").refuses("outputs: no run there yet", code=2, verb="show")  # none of them is in outputs

    bundle = data(page)
    assert [(model["cell"], model["shortest"], model["seq_len"]) for model in bundle["models"]] == [
        ("rnn", 15, 50), ("lstm", 15, 50), ("gru", 15, 50), ("attention", 15, 50), ("rnn", 7, 10),
    ]  # fmt: skip
    for model, run in zip(bundle["models"], _as_trained(first), strict=True):
        saved = load_checkpoint(run / "checkpoint.pt")["model"]
        assert (floats(model["weights"]["readout.weight"]) == saved["readout.weight"].numpy().ravel()).all()
        vectors = saved["embed.weight"].numpy()[sorted(Pronoun().automaton().tokens)]
        assert (floats(model["embed"]) == vectors.ravel()).all()
        result = json.loads((run / "result.json").read_text())
        assert model["score"] == result["score"]
        scores = {row["seq_len"]: row["score"] for row in model["lengths"]}
        assert (min(scores), max(scores)) == (7, 200)
        assert {row["seq_len"]: row["score"] for row in result["by_length"]}.items() <= scores.items()

    models = demo.train_models(Console(), 1, 1)
    assert capsys.readouterr().out == "5 models, trained before, in playground\n"
    assert [run.path.resolve() for run in models] == list(_as_trained(first))
    assert result_times(tmp_path) == first

    deleted = next(run for run in first if run.parent.name == "gru")
    shutil.rmtree(deleted)
    third = typed("playground", "--seeds", "1", "--workers", "1", "--out", "elsewhere/page.html")
    assert "training one model in playground, 4 more are there" in third.out
    assert {run: when for run, when in result_times(tmp_path).items() if run != deleted}.items() <= first.items()
    assert (tmp_path / "elsewhere/page.html").read_bytes() == content

    # Models that an earlier version kept in outputs are used there, and said to be in the way of the user's runs.
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/playground").mkdir()
    (tmp_path / "playground/pronoun").rename(tmp_path / "outputs/playground/pronoun")
    capsys.readouterr()
    moved = demo.train_models(Console(width=300), 1, 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("; set them apart: mv outputs/playground/pronoun playground/")
    assert lines[1:] == ["5 models, trained before, in outputs/playground"]
    assert [run.finished for run in moved] == [True] * 5
    assert not runs_below(tmp_path / "playground")
    (tmp_path / "outputs/playground/pronoun").rename(tmp_path / "playground/pronoun")

    # They are the runs of conf/experiment/playground.yaml.
    now = result_times(tmp_path)
    for words in (
        ("cell=gru", "seed=0"),
        ("cell=attention", "cell.wide=0"),
        ("cell=rnn", "seq_len=10", "task.shortest=null"),
    ):
        assert train("experiment=playground", *SMALL, *words).path.resolve() in now
    assert result_times(tmp_path) == now


def _as_trained(runs: dict[Path, int]) -> Iterator[Path]:
    """The runs in the order of the page."""
    for cell, length in (("rnn", "50"), ("lstm", "50"), ("gru", "50"), ("attention", "50"), ("rnn", "10")):
        yield from sorted(run for run in runs if run.parent.name == cell and run.name.startswith(f"len{length}-"))


def test_a_failed_training_is_reported(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SETTINGS", (*demo.SETTINGS, "optimizer.lr=1e30", "optimizer=sgd", "clip_norm=null"))
    monkeypatch.setattr(demo, "MODELS", (("cell=rnn", "cell.nonlinearity=relu"),))
    done = typed("playground", "--seeds", "1", "--workers", "1")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("seqmem playground: ")
    assert "the same command goes on" in done.err.splitlines()[-1]
    assert not (tmp_path / "playground/index.html").exists()


# Given runs


ONCE = ("steps=1", "evaluate.every=1", "trace.every=1", "log_every=1", "checkpoint_every=1")

KINDS: dict[str, dict[str, Any]] = {
    "second": {"seed": 1},
    "relu": {"cell": {"nonlinearity": "relu"}, "clip_norm": None},
    "measured": {"trace": {"sequences": 3}},
    "people": {"task": {"name": "pronoun", "people": 4}},
    "copy": {"task": {"name": "copy"}, "seq_len": 21, "evaluate": {"lengths": [21]}},
    "adding": {"task": {"name": "adding"}},
    "text": {"task": {"name": "text"}},
}


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name -> directory of a tiny run; every other task has its own outputs folder.

    The first goes through Hydra; the others reuse its configuration, because composing one takes time.
    """
    folder = tmp_path_factory.mktemp("runs")
    first = train(*TINY, *ONCE, "cell=rnn", "seed=0", "quiet=true", outputs=folder / "outputs", device="cpu")
    settings = first.config()
    paths = {"first": first.path}
    for name, changes in KINDS.items():
        outputs = str(folder / (name if "task" in changes else "outputs"))
        changed = {
            key: {**settings[key], **value} if isinstance(value, dict) and "name" not in value else value
            for key, value in changes.items()
        }
        config = from_mapping({**settings, **changed, "outputs": outputs})
        paths[name] = execute(config, overrides=[], console=Console(quiet=True)).path
    return paths


@pytest.fixture
def runs(trained_once: dict[str, Path], typed: Typed, tmp_path: Path) -> dict[str, str]:
    """A copy in this test's directory: name -> path as typed there."""
    folder = trained_once["first"].parents[3]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return {name: str(path.relative_to(folder)) for name, path in trained_once.items()}


def test_given_runs(typed: Typed, tmp_path: Path, runs: dict[str, str]) -> None:
    done = typed("playground", runs["first"], runs["second"].rpartition("-")[2], runs["relu"], "--out", "a.html")
    assert (done.code, done.err) == (0, "")
    models = data(tmp_path / "a.html")["models"]
    tanh = "rnn nonlinearity=tanh clip_norm=1.0, trained at 8 words"
    relu = "rnn nonlinearity=relu clip_norm=null, trained at 8 words"
    assert [(model["label"], model["seed"]) for model in models] == [(tanh, 0), (tanh, 1), (relu, 0)]
    assert len({model["id"] for model in models}) == 3
    assert f"{tanh} 2 seeds" in " ".join(done.out.split())
    assert f"{relu} seed 0" in " ".join(done.out.split())

    one = trained(RunDirectory(tmp_path / runs["second"]))
    assert [row["seq_len"] for row in models[1]["lengths"]] == [7, 8, 10, 12, 14, 20, 30, 32]
    lengths = [7, 8, 10, 12, 14, 20, 30, 32]
    expected = evaluate_lengths(one.model, one.task, lengths, seed=1, sequences=8, trained=one.lengths)
    assert [row["score"] for row in models[1]["lengths"]] == [evaluation.score for evaluation in expected]

    # A folder means its finished runs; runs with the same training are shown once.
    (tmp_path / runs["relu"] / "result.json").unlink()
    done = typed("playground", "outputs", "--out", "a.html")
    assert (done.code, done.err) == (0, "")
    assert "outputs: 1 of 4 runs is not finished, and left out" in done.out
    assert "the same as another but for how it was measured; left out" in done.out
    label = "rnn, trained at 8 words"
    assert [(model["label"], model["seed"]) for model in data(tmp_path / "a.html")["models"]] == [
        (label, 0),
        (label, 1),
    ]


def test_runs_that_cannot_be_shown(typed: Typed, tmp_path: Path, runs: dict[str, str]) -> None:
    first = runs["first"]

    def refused(*args: str, line: str, code: int) -> None:
        typed("playground", *args, "--out", "a.html").refuses(line, code=code, verb="playground")
        assert not (tmp_path / "a.html").exists()

    refused("nothing", line="nothing: no run there", code=2)
    refused("len8", line="len8 matches 4 runs: ", code=2)
    refused(first, "people", line="task=pronoun people=4", code=2)
    refused("adding", line="task=adding", code=2)
    refused("text", line="task=text", code=2)
    refused("copy", line="task=copy", code=2)
    (tmp_path / runs["second"] / "result.json").unlink()
    refused(first, runs["second"], line=f"{runs['second']} is not finished", code=1)
    (tmp_path / runs["relu"] / "checkpoint.pt").unlink()
    refused(first, runs["relu"], line=f"{runs['relu']} lacks its checkpoint.pt", code=1)
    folder = typed("playground", "outputs", "--out", "b.html")  # a damaged run of a folder hides no other
    assert (folder.code, f"left out: {runs['relu']} lacks its checkpoint.pt" in folder.err) == (1, True), folder
    shutil.copy(tmp_path / first / "checkpoint.pt", tmp_path / runs["people"])
    refused("people", line="does not fit the run's configuration", code=1)
    unfinished = tmp_path / runs["copy"]
    (unfinished / "result.json").unlink()
    shutil.copytree(unfinished, unfinished.with_name("another"))
    refused("copy", line="copy: none of its 2 runs is finished", code=1)


# Other errors of the command line


@pytest.mark.parametrize(
    ("args", "line", "code"),
    [
        (("--port", "8000"), "--port 8000: it is --serve that needs a port", 2),
        (("--serve", "--port", "65536"), "--port 65536: must be from 1 to 65535", 2),
        (("--serve", "--port", "-1"), "--port -1: must be from 1 to 65535", 2),
        (("--seeds", "0"), "--seeds 0: must be at least 1", 2),
        (("--workers", "none"), "--workers none: must be auto or a whole number from 1 on", 2),
        (("run", "--seeds", "3"), "--seeds: nothing is trained where runs are given", 2),
        (("--out", "folder"), "--out folder: it is a folder", 2),
        (("--out", "file"), "--out file: must end in .html", 2),
        (("--out", "file/page.html"), "cannot write to file: Not a directory", 1),
        (("--out", "/proc/page.html"), "cannot write to /proc", 1),
        (("--oops",), "unrecognized arguments: --oops", 2),
    ],
)
def test_it_refuses_before_it_trains(args: tuple[str, ...], line: str, code: int, typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    typed("playground", *args).refuses(line, code=code, verb="playground")
    assert not runs_below(tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_unwritable_outputs_are_one_error_line(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "MODELS", demo.MODELS[:1])
    (tmp_path / "playground").write_text("mine")
    done = typed("playground", "--seeds", "1", "--out", "page.html", "--workers", "1")
    done.refuses("cannot write to playground: Not a directory", code=1, verb="playground")


# The server


@pytest.fixture
def port_in_use() -> Iterator[int]:
    """A port with a listener."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_a_port_in_use(typed: Typed, tmp_path: Path, port_in_use: int, monkeypatch: pytest.MonkeyPatch) -> None:
    typed("playground", "--serve", "--port", str(port_in_use)).refuses(
        f"port {port_in_use} is in use: name another, or leave out --port", code=1, verb="playground"
    )
    assert not runs_below(tmp_path)
    monkeypatch.setattr(serve, "PORTS", (port_in_use,))
    typed("playground", "--serve").refuses("--port 0 takes any that is free", code=1, verb="playground")
    monkeypatch.setattr(serve, "PORTS", (port_in_use, 0))
    with serve.bound(None) as server:
        assert server.server_port not in (0, port_in_use)


def test_a_port_that_another_process_takes_during_training() -> None:
    with serve.bound(0) as server, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", server.server_port))
        other.listen()
        with pytest.raises(serve.PortError, match=f"port {server.server_port} is in use"):
            server.listen(b"")


def test_it_serves_the_page_and_nothing_else_until_ctrl_c(
    typed: Typed, tmp_path: Path, runs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answers: dict[str, Any] = {}

    def visit(server: Any) -> None:
        address = f"http://127.0.0.1:{server.server_port}"
        try:
            for name, path, method in (
                ("page", "/", "GET"), ("named", "/index.html?theme=dark", "GET"), ("head", "/", "HEAD"),
                ("other", "/a.html", "GET"), ("above", "/../../etc/passwd", "GET"), ("post", "/", "POST"),
            ):  # fmt: skip
                request = urllib.request.Request(address + path, method=method)
                try:
                    with urllib.request.urlopen(request, timeout=10) as answer:
                        answers[name] = answer.status, dict(answer.headers), answer.read()
                except urllib.error.HTTPError as error:
                    with error:
                        answers[name] = error.code, dict(error.headers), error.read()
            answers["address"] = server.server_address[0]
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    serve_forever = serve.Server.serve_forever

    def serve_and_visit(server: Any, poll_interval: float = 0.02) -> None:
        visitor = threading.Thread(target=visit, args=(server,))
        visitor.start()
        try:
            serve_forever(server, poll_interval)
        finally:
            visitor.join()

    monkeypatch.setattr(serve.Server, "serve_forever", serve_and_visit)
    before = signal.getsignal(signal.SIGINT)
    done = typed("playground", runs["first"], "--serve", "--port", "0", "--out", "a.html")
    assert (done.code, done.err) == (0, "")
    assert signal.getsignal(signal.SIGINT) is before
    assert re.search(r"http://127\.0\.0\.1:[1-9]\d*/\n", done.out)
    assert done.out.endswith("Ctrl-C ends it.\n\nthe server has ended.\n")

    page = (tmp_path / "a.html").read_bytes()
    assert answers["address"] == "127.0.0.1"
    assert answers["page"][0] == 200
    assert answers["page"][2] == answers["named"][2] == page
    assert answers["head"][::2] == (200, b"")
    headers = answers["page"][1]
    assert headers == answers["head"][1] | {"Date": headers["Date"]}
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert int(headers["Content-Length"]) == len(page)
    assert answers["other"][0] == answers["above"][0] == 404
    assert answers["post"][0] == 501
    for _, headers, _ in (answers[name] for name in ("page", "head", "other", "post")):
        rules = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
        assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
        assert not any("http" in allowed or "'self'" in allowed or "*" in allowed for allowed in rules.values())
        assert headers["X-Content-Type-Options"] == "nosniff"


# The browser


class Terminal(Console):
    """A console that acts as a terminal."""

    def __init__(self) -> None:
        super().__init__(force_terminal=True, color_system=None, width=100)


@pytest.mark.parametrize(
    ("screen", "browser", "opens", "line"),
    [
        (":0", True, True, ""),
        (":0", False, True, "no browser could be opened: open the file by hand"),
        (":0", None, False, "no browser to open: take the file to where there is one, or serve it here:\n  p --serve"),
        ("", True, False, "no browser to open: take the file to where there is one, or serve it here:\n  p --serve"),
    ],
)
def test_the_page_is_opened_where_there_is_a_browser(
    screen: str,
    browser: bool | None,
    opens: bool,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened: list[str] = []
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("DISPLAY", screen)
    monkeypatch.setattr(sys, "platform", "linux")

    def get() -> None:
        if browser is None:
            raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "get", get)
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or browser)
    playground.open_page("file:///a.html", Terminal(), "p --serve")
    assert opened == ["file:///a.html"] * opens
    assert capsys.readouterr().out.strip() == line


# Lengths


def test_lengths_are_spread_from_the_shortest_to_four_times_the_longest() -> None:
    lengths = playground.lengths_offered(Pronoun(), [10, 50])
    assert lengths == [7, 10, 12, 14, 20, 30, 40, 50, 70, 100, 120, 140, 200]  # as conf/experiment/playground.yaml has
    conf = (Path(__file__).parents[1] / "conf/experiment/playground.yaml").read_text()
    assert f"lengths: {lengths}" in conf
    for longest in (7, 33, 1000):
        lengths = playground.lengths_offered(Pronoun(), [longest])
        assert lengths == sorted(set(lengths))
        assert {7, longest, 4 * longest} <= set(lengths)
        assert max(np.diff(np.log(lengths))) < np.log(2)
