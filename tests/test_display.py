"""Terminal output: the heat strip, the display of a run, and the verbs show and list."""

import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from math import inf, log10, nan
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
from rich.console import Console

from commandline import TINY, Completed, forked, only_run, started, trained_to, until
from made_up import work_in
from seqmem.cells import CELLS, RNN
from seqmem.cli.config import schema as config
from seqmem.cli.terminal import pages, words
from seqmem.cli.terminal.live import Display, RunInfo, print_summary
from seqmem.cli.terminal.strip import (
    ASCII,
    UNICODE,
    Marks,
    bar,
    columns,
    fitted,
    heat_strip,
    legend,
    marks,
    say,
    strip_line,
)
from seqmem.cli.verbs import list as listing
from seqmem.cli.verbs import show
from seqmem.decay import Trace, decay, profile, together
from seqmem.evaluate import Evaluation
from seqmem.models.recurrent import SequenceModel
from seqmem.probes.gradient import GradientProbe, Tracer, measurements
from seqmem.randomness import generator
from seqmem.runs.directory import RunDirectory
from seqmem.runs.files import RunError, plain_json, write_json
from seqmem.runs.summary import read
from seqmem.signals import ACCURACY, BITS, SQUARED_ERROR
from seqmem.tasks import TASKS, Pronoun
from seqmem.tasks.base import choice_of
from seqmem.tasks.text import corpus_sha256
from seqmem.training.plan import Interrupted, Observer, Result

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PROBE = GradientProbe()
COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7])[0-9;]*m")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the terminal that pytest runs in, and search for runs in an empty directory."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.chdir(tmp_path)


def terminal(width: int, **options: Any) -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    return Console(
        file=output, width=width, height=40, force_terminal=True, color_system="truecolor", **options
    ), output


def encoded(encoding: str) -> TextIO:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


def plain(text: str) -> list[str]:
    return ESCAPE.sub("", text).replace("\r", "").splitlines()


# Handmade runs


def make_run(
    root: Path,
    *,
    cell: str = "lstm",
    task: str = "pronoun",
    seq_len: int = 50,
    seed: int = 0,
    rate: float = 0.9,
    state: str = "finished",
    score: float = 0.998,
    pid: int | None = None,
    options: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    tail: str = "1a2b3c4d",
    norms: np.ndarray | None = None,
) -> RunDirectory:
    """A run whose gradient shrinks by 0.5 per timestep before training and by ``rate`` after it."""
    run = RunDirectory(root / task / cell / f"len{seq_len}-seed{seed}-{tail}")
    run.path.mkdir(parents=True)
    settings = {
        "cell": {"name": cell, "hidden_size": 64, **(options or {})},
        "task": {"name": task, "lengths": "fixed"},
        "optimizer": {"name": "adam", "lr": 3e-3},
        "seq_len": seq_len,
        "seed": seed,
        "steps": 1000,
    }
    write_json(run.file("config.json"), settings)
    write_json(run.file("overrides.json"), [f"cell={cell}", "+note=two words"])
    back = np.arange(seq_len)[::-1, None] * np.ones((1, 4))
    if norms is None:
        norms = np.stack([0.3 * 0.5**back, 0.3 * ((0.5 + rate) / 2) ** back, 0.3 * rate**back])
    steps = np.array([0, 400, 1000 if state == "finished" else 700])
    arrays = {"step": steps, "answered_at": np.full(4, seq_len - 1), "norm/hidden": norms, "norm/input": norms * 0.1}
    np.savez(run.file("gradients.npz"), **arrays)  # pyright: ignore[reportArgumentType]
    decays = [decay(one.mean(1)[::-1]).numbers() for one in norms]
    rows: list[dict[str, Any]] = []
    for step, fit in zip(steps.tolist(), decays, strict=True):
        rows.append({"kind": "train", "step": step, "loss": 0.7, "learning_rate": 1e-3})
        rows.append({"kind": "eval", "step": step, "loss": 0.72, "score": 0.5})
        rows.append({"kind": "trace", "step": step, "gradient": {"state": fit}})
    run.file("metrics.jsonl").write_text("".join(json.dumps(plain_json(row)) + "\n" for row in rows))
    status = {"state": state, "step": 700, "error": None, "pid": pid or os.getpid(), "host": socket.gethostname()}
    if state == "failed":
        status["error"] = "the loss became nan at step 707"
    write_json(run.file("status.json"), status)
    if state == "running" and pid is None:
        work_in(run.path)
    if state == "finished":
        lengths = sorted({7, 12, 25, seq_len, 2 * seq_len, 4 * seq_len})
        facts = {
            "task": task,
            "cell": cell,
            "seq_len": seq_len,
            "seed": seed,
            "hidden_size": 64,
            "layers": 1,
            "parameters": 30216,
            "steps": 1000,
            "metric": "accuracy",
            "higher_is_better": True,
            "score": score,
            "chance": 0.25,
            "loss": 0.0123,
            "baseline_loss": 1.386,
            "solved_at": 0.99,
            "solved": score >= 0.99,
            "steps_to_solve": 250 if score >= 0.99 else None,
            "by_length": [
                {"seq_len": n, "score": score if n <= seq_len else 0.6, "loss": 0.1, "sequences": 1000} for n in lengths
            ],
            "gradient": {"start": {"state": decays[0]}, "end": {"state": decays[-1]}},
            "seconds": 31.4,
            "steps_per_second": 31.8,
            "device": "cpu",
            "versions": {},
        }
        write_json(run.file("result.json"), facts | (result or {}))
    return run


def run_show(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    code = show.main([str(arg) for arg in args])
    output = capsys.readouterr()
    return code, output.out, output.err


# The strip


def test_a_decade_is_a_block_and_the_scale_is_fixed() -> None:
    assert heat_strip(np.arange(-7.5, 0.5), UNICODE, 80).plain == UNICODE.blocks
    assert heat_strip(np.array([0.0, -8.0, -20.0]), UNICODE, 80).plain == "█▁▁"
    assert heat_strip(np.arange(-7.5, 0.5), ASCII, 80).plain == ASCII.blocks


@pytest.mark.parametrize("symbols", [UNICODE, ASCII])
def test_zero_nan_and_exploded_values_have_symbols_of_their_own(symbols: Marks) -> None:
    strip = heat_strip(np.array([-inf, nan, inf, 1.0, 0.0]), symbols, 80).plain
    assert strip == symbols.zero + symbols.unknown + symbols.exploded * 2 + symbols.blocks[-1]
    assert not set(strip[:4]) & set(symbols.blocks)


def test_the_legend_explains_the_symbols_in_use() -> None:
    usual = np.array([-3.0, 0.0])
    assert legend(UNICODE, usual).plain == "10⁻⁸ ▁▂▃▄▅▆▇█ 1"
    assert legend(UNICODE, usual, np.array([-inf, 2.0])).plain == "10⁻⁸ ▁▂▃▄▅▆▇█ 1  · zero  ▲ over 10"
    assert legend(ASCII, np.array([nan])).plain.endswith("? not a number")


@pytest.mark.parametrize(
    ("length", "width", "cells"), [(10, 44, 10), (44, 44, 44), (200, 44, 44), (45, 44, 44), (1, 8, 1)]
)
def test_a_strip_is_at_most_as_wide_as_its_limit(length: int, width: int, cells: int) -> None:
    assert len(heat_strip(np.zeros(length), UNICODE, width).plain) == cells


def test_a_block_is_the_mean_of_its_timesteps() -> None:
    values = np.array([-7.0, -6.0, -1.0, -2.0])  # means -6.5 and -1.5
    assert heat_strip(values, UNICODE, 2).plain == UNICODE.blocks[1] + UNICODE.blocks[6]
    assert heat_strip(np.array([-inf, -1.5, -inf, -inf]), UNICODE, 2).plain == UNICODE.blocks[6] + UNICODE.zero


def test_shorter_sequences_end_at_the_same_column() -> None:
    assert heat_strip(np.zeros(100), UNICODE, 60, longest=200).plain == " " * 30 + "█" * 30
    assert heat_strip(np.zeros(3), UNICODE, 60, longest=10).plain == " " * 7 + "█" * 3
    assert heat_strip(np.zeros(1), UNICODE, 10, longest=1000).plain == " " * 9 + "█"


def test_colours_rise_with_the_gradient_and_levels_differ() -> None:
    spans = heat_strip(np.arange(-7.5, 0.5), UNICODE, 80).spans
    colours = [str(span.style) for span in spans]
    lightness = [sum(w * int(c[i : i + 2], 16) for w, i in ((0.3, 1), (0.59, 3), (0.11, 5))) for c in colours]
    assert len(set(colours)) == 8
    assert lightness == sorted(lightness)


def test_profile_is_the_log_of_the_mean_relative_to_each_answer() -> None:
    rng = np.random.default_rng(0)
    norms, answered_at = rng.uniform(0.1, 1, (6, 5)), np.array([5, 3, 5, 4, 3])
    slow = []
    for back in range(5, 0, -1):  # up to one step back from the answer
        there = [norms[at - back, b] for b, at in enumerate(answered_at) if at >= back]
        slow.append(log10(sum(there) / len(there)))
    np.testing.assert_allclose(profile(norms, answered_at), np.array(slow) - slow[-1], atol=1e-12)


def test_profile_of_numbers_at_the_edge() -> None:
    end = np.array([4, 4])
    norms = np.repeat(np.array([[0.0], [1e-310], [1e-200], [1.0], [7.0]]), 2, axis=1)
    np.testing.assert_allclose(profile(norms, end), [-inf, -inf, -200, 0])
    norms[2] = nan
    np.testing.assert_allclose(profile(norms, end), [-inf, -inf, nan, 0])
    assert np.isneginf(profile(np.zeros((5, 2)), end)).all()  # no gradient anywhere
    assert np.isnan(profile(np.full((5, 2), inf), end)).all()
    overflowing = np.repeat(np.array([[1e308], [inf], [nan], [1.0], [1.0]]), 2, axis=1)
    np.testing.assert_array_equal(profile(overflowing, end), [inf, inf, nan, 0])


def test_all_states_together_are_a_trace_s_state() -> None:
    rng = np.random.default_rng(0)
    norms = {name: rng.uniform(size=(7, 3)) for name in ("hidden", "cell", "input")}
    np.testing.assert_allclose(together(norms), Trace(norms, np.full(3, 6)).state, rtol=1e-14)
    tiny = {"hidden": np.full((2, 1), 3e-200), "cell": np.full((2, 1), 4e-200)}
    np.testing.assert_allclose(together(tiny), 5e-200)  # a sum of squares would be zero


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", UNICODE), ("ascii", ASCII), ("cp1252", ASCII), ("cp437", ASCII), ("latin-1", ASCII)],
)
def test_blocks_only_where_the_encoding_has_them(encoding: str, expected: Marks) -> None:
    assert marks(Console(file=encoded(encoding))) is expected


def test_old_windows_consoles_get_ascii() -> None:
    assert marks(Console(file=encoded("utf-8"), legacy_windows=True)) is ASCII
    assert "".join(vars(ASCII).values()).isascii()


@pytest.mark.parametrize("symbols", [UNICODE, ASCII])
def test_a_bar_has_its_width_and_marks_chance(symbols: Marks) -> None:
    assert bar(1.0, None, symbols, 20, "").plain == symbols.full * 20
    assert bar(0.5, 0.25, symbols, 20, "").plain == symbols.full * 5 + symbols.goal + symbols.full * 4 + " " * 10
    assert bar(0.0, 1.0, symbols, 20, "").plain == " " * 19 + symbols.goal
    assert bar(nan, 0.0, symbols, 20, "").plain == symbols.goal + " " * 19
    assert bar(7.0, None, symbols, 20, "").plain == symbols.full * 20
    assert len(bar(0.511, 0.25, symbols, 21, "").plain) == 21


def test_strip_line_keeps_to_its_width() -> None:
    line = strip_line(UNICODE, np.zeros(300), 60, "step 100")
    assert line.cell_len == 60
    assert line.plain.startswith("first █")
    assert line.plain.endswith("█ answer  step 100")


def test_columns_align_and_end_where_their_text_ends() -> None:
    from rich.text import Text

    lines = columns([[Text("a"), Text("1"), Text("x")], [Text("bcd"), Text("100"), Text("")]], right={1})
    assert [line.plain for line in lines] == ["a      1  x", "bcd  100"]
    assert fitted("abcdef", 4, UNICODE) == "abc…"
    assert fitted("abcd", 4, UNICODE) == "abcd"


# The display


class Writes(io.StringIO):
    """Records every single write."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def write(self, s: str) -> int:
        self.parts.append(s)
        return super().write(s)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def display(console: Console, **options: Any) -> Display:
    usual = {
        "title": "lstm pronoun len50 seed0",
        "metric": ACCURACY,
        "chance": 0.25,
        "baseline_loss": 1.386,
        "steps": 1000,
    }
    clock = {"clock": options.pop("clock")} if "clock" in options else {}
    return Display(console, RunInfo(**(usual | options)), **clock)


def feed(
    to: Display,
    clock: Clock,
    *,
    first: int = 0,
    last: int = 1000,
    seconds: float = 0.01,
    during: Callable[[int], None] = lambda _: None,
) -> None:
    """Report a training of 1000 steps, ``seconds`` per step; the gradient's half-life is 1 or longer."""
    at = np.full(2, 49)

    def trace(step: int) -> None:
        norms = 0.3 * (0.5 + 0.4 * step / 1000) ** np.arange(50)[::-1, None] * np.ones((1, 2))
        to.measured(step, PROBE, *measurements([Trace({"hidden": norms, "input": norms}, at)]))

    if first == 0:
        to.logged(0, "eval", {"loss": 1.4, "score": 0.251})
        trace(0)
    for step in range(first + 10, last + 1, 10):
        clock.now += 10 * seconds
        to.logged(step, "train", {"loss": 1.4 - step / 1000, "learning_rate": 1e-3, "gradient_norm": 1.0})
        if step % 50 == 0:
            to.logged(step, "eval", {"loss": 1.4 - step / 1000, "score": 0.25 + 0.7 * step / 1000})
        if step % 100 == 0:
            trace(step)
        during(step)


RESULT = Result(0.95, 0.4, 750, [Evaluation(50, 0.95, 0.4, 1000)], {})


def test_a_pipe_gets_few_whole_lines_without_escapes() -> None:
    file, clock = Writes(), Clock()
    with display(Console(file=file), clock=clock) as view:
        feed(view, clock)
        view.finished(1000, RESULT)
    lines = file.getvalue().splitlines()
    assert lines[0] == "lstm pronoun len50 seed0: 1000 steps"
    assert lines[2] == (
        "step  100/1000  loss 1.300 (chance 1.386)  accuracy 32.0 % (chance 25.0 %)  100 steps/s  "
        "gradient arriving 10^-12.8"
    )
    assert lines[-1].startswith("step 1000/1000  loss 0.400")
    assert len(lines) == 12
    assert all(part.endswith("\n") and part.count("\n") == 1 for part in file.parts if part)
    assert all(line == line.rstrip() and "\x1b" not in line for line in lines)


def test_a_line_has_the_gradient_of_its_own_step() -> None:
    file, clock = Writes(), Clock()
    with display(Console(file=file), clock=clock) as view:
        feed(view, clock)
    shares = dict(re.findall(r"step +(\d+)/1000 .* gradient arriving (\S+(?: %)?)", file.getvalue()))
    logs = {str(step): 48 * log10(0.5 + 0.4 * step / 1000) for step in range(0, 1001, 100)}
    assert shares == {
        step: f"{100 * 10**value:.3g} %" if value > -4 else f"10^{value:.1f}" for step, value in logs.items()
    }


def test_a_slow_run_prints_every_evaluation_and_an_interrupted_one_its_last_line() -> None:
    file, clock = Writes(), Clock()
    with display(Console(file=file), clock=clock) as view:
        feed(view, clock, last=350, seconds=1.0)
    steps = [int(step) for step in re.findall(r"step +(\d+)/1000", file.getvalue())]
    assert steps == [0, 50, 100, 150, 200, 250, 300, 350]


def test_a_run_that_never_evaluates_is_not_silent() -> None:
    file, clock = Writes(), Clock()
    with display(Console(file=file), clock=clock) as view:
        for step in range(10, 200, 10):
            clock.now += 20
            view.logged(step, "train", {"loss": 1.0})
    lines = file.getvalue().splitlines()
    assert len(lines) == 1 + 19 // 3
    assert lines[1] == "step   30/1000  loss 1.000 (chance 1.386)  0.5 steps/s"


def test_jobs_of_a_sweep_write_prefixed_lines_even_on_a_terminal() -> None:
    file, clock = Writes(), Clock()
    console = Console(file=file, width=80, force_terminal=True)
    with display(console, prefix="[2/4 lstm pronoun] ", clock=clock) as view:
        feed(view, clock)
        view.finished(1000, RESULT)
    lines = file.getvalue().splitlines()
    assert all(line.startswith("[2/4 lstm pronoun] ") for line in lines)
    assert all(part.endswith("\n") for part in file.parts if part)
    assert len(lines) == 12
    assert lines[-1] == (
        "[2/4 lstm pronoun] finished  accuracy 95.0 % (chance 25.0 %)  solved at step 750  gradient arriving 0.636 %"
    )


def test_quiet_is_silent() -> None:
    for options in ({}, {"prefix": "[1] "}):
        console, output = terminal(80)
        clock = Clock()
        with display(console, quiet=True, clock=clock, **options) as view:
            feed(view, clock)
            view.finished(1000, RESULT)
        assert output.getvalue() == ""


@pytest.mark.parametrize("first_step", [500, 0])
def test_a_resumed_run_counts_its_speed_from_where_it_goes_on(first_step: int) -> None:
    """Also if the display is not told the first step."""
    file, clock = Writes(), Clock()
    with display(Console(file=file), first_step=first_step, clock=clock) as view:
        feed(view, clock, first=500, seconds=0.1)
    lines = file.getvalue().splitlines()
    assert ("going on at step 500" in lines[0]) == (first_step == 500)
    assert re.findall(r"step +(\d+)/", file.getvalue())[0] == "550"
    assert set(re.findall(r"([\d.]+) steps/s", file.getvalue())) == {"10"}


@pytest.mark.parametrize("width", [80, 200, 40])
def test_the_live_picture(width: int) -> None:
    console, output = terminal(width)
    clock = Clock()
    begins = words.first_weights(None if width == 80 else "outputs/pronoun/lstm/len20-seed0-c4f2c504")
    view = display(console, clock=clock, begins=begins)
    feed(view, clock, last=430)
    console.print(view.picture())
    lines = plain(output.getvalue())
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert lines[0].startswith("lstm pronoun len50 seed0")
    assert "step 430/1000" in lines[1]
    assert re.search(r"loss +0.970 ", text)
    assert re.search(r"accuracy +53.0 % ", text)
    strips = [line for line in lines if "first" in line]
    assert len(strips) == 2
    if width > 40:
        assert "100 steps/s  0:05 left" in lines[1]
        assert strips[0].rstrip().endswith("█ answer  untrained" if width == 80 else "█ answer  from c4f2c504")
        assert strips[1].rstrip().endswith("█ answer  step 400")
        assert strips[0].count("▁") > strips[1].count("▁") > 0
        assert re.search(r"arrives +10\^-8.7 +half-life +1.67 +horizon +18", text)  # 0.66 a timestep


def test_logs_stand_above_the_live_picture_which_is_erased_at_the_end() -> None:
    console, output = terminal(80)
    clock = Clock()
    with display(console, clock=clock) as view:
        feed(view, clock, during=lambda step: console.print(f"checkpoint at step {step}") if step == 300 else None)
        view.finished(1000, RESULT)
    # The final screen: moving up and clearing a line erase it.
    screen: list[str] = [""]
    for line in re.split(r"(\n|\x1b\[1A|\x1b\[2K|\r)", output.getvalue()):
        if line == "\n":
            screen.append("")
        elif line == "\x1b[1A":
            screen.pop()
        elif line == "\x1b[2K":
            screen[-1] = ""
        elif line != "\r":
            screen[-1] += ESCAPE.sub("", line)
    assert [line for line in screen if line.strip()] == ["checkpoint at step 300"]


def test_the_live_picture_stays_when_a_run_is_stopped() -> None:
    def stop() -> None:
        raise Interrupted(430)

    console, output = terminal(80)
    clock = Clock()
    with pytest.raises(Interrupted), display(console, clock=clock) as view:
        feed(view, clock, last=430, during=lambda step: stop() if step == 430 else None)
    assert "step 430/1000" in "".join(plain(output.getvalue())[-9:])
    assert output.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in output.getvalue()[-40:]  # the cursor is back


def test_a_pipe_with_forced_colour_is_not_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file, clock = Writes(), Clock()
    console = Console(file=file)
    assert console.is_terminal
    with display(console, clock=clock) as view:
        feed(view, clock)
    assert "\x1b[1A" not in file.getvalue()
    assert len(file.getvalue().splitlines()) == 12


@pytest.mark.parametrize("metric", [SQUARED_ERROR, BITS])
def test_scores_that_should_be_small(metric: Any) -> None:
    console, output = terminal(80)
    view = display(console, metric=metric, chance=0.2, baseline_loss=0.2)
    view.logged(0, "eval", {"loss": 0.1, "score": 0.1})
    console.print(view.picture())
    line = next(line for line in plain(output.getvalue()) if "score" in line)
    assert re.fullmatch(r"score +0\.1 +━+╸? +│ +chance 0\.2", line.rstrip())
    graph = re.sub(r".*0\.1  ", "", line.rstrip()).removesuffix("chance 0.2").rstrip()
    assert graph.index("│") / 2 == pytest.approx(graph.count("━"), abs=1)  # half of chance


def test_a_loss_of_nan_is_shown() -> None:
    console, output = terminal(80)
    view = display(console)
    view.logged(10, "train", {"loss": nan})
    view.logged(10, "eval", {"loss": inf, "score": nan})
    console.print(view.picture())
    assert re.search(r"loss +nan", output.getvalue().replace("\x1b[0m", ""))


def test_huge_losses_are_short() -> None:
    file = Writes()
    view = display(Console(file=file), baseline_loss=12345.678)
    with view:
        view.logged(0, "eval", {"loss": 1.5e12, "score": 0.5})
    assert "loss 1.5e+12 (chance 1.235e+04)" in file.getvalue()
    console, output = terminal(80)
    view = display(console)
    view.logged(10, "train", {"loss": 123456789.0})
    console.print(view.picture())
    assert re.search(r"loss +1\.235e\+08 ", output.getvalue().replace("\x1b[0m", ""))


def test_traces_that_are_not_shown_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Profiles are computed when strips are drawn, for the first and the latest trace only."""
    calls: list[np.ndarray] = []

    def spy(norms: np.ndarray, answered_at: np.ndarray) -> np.ndarray:
        calls.append(norms)
        return profile(norms, answered_at)

    monkeypatch.setattr("seqmem.cli.terminal.live.profile", spy)
    at, norms = np.full(2, 9), [rate ** np.arange(10)[::-1, None] * np.ones((1, 2)) for rate in (0.9, 0.8, 0.7)]
    for console in (Console(file=Writes()), terminal(80)[0]):
        calls.clear()
        view = display(console)
        for step, one in enumerate(norms):
            view.measured(step, PROBE, *measurements([Trace({"hidden": one, "input": one}, at)]))
        assert not calls
        if console.is_terminal:
            console.print(view.picture())
            assert [one.tolist() for one in calls] == [norms[0].tolist(), norms[2].tolist()]


class Closed(io.StringIO):
    """The write end of a pipe whose reader leaves after ``lines`` lines."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.lines = lines

    def write(self, s: str) -> int:
        if self.getvalue().count("\n") >= self.lines:
            raise BrokenPipeError
        return super().write(s)


def test_a_closed_pipe_is_noticed_and_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    consoles: list[Console] = []

    def leave(console: Console) -> None:  # rich's own method would also close the tests' standard output
        consoles.append(console)
        raise SystemExit(1)

    monkeypatch.setattr(Console, "on_broken_pipe", leave)
    file, clock = Closed(3), Clock()
    with display(Console(file=file), clock=clock) as view:
        feed(view, clock, last=100)
        assert not view.unread
        feed(view, clock, first=100)
        assert view.unread
        view.finished(1000, RESULT)
    assert len(file.getvalue().splitlines()) == 3
    assert len(consoles) == 1


SLOW_LINES = (*(word for word in TINY if not word.startswith(("steps=", "evaluate.every="))), "evaluate.every=100")


def test_a_run_whose_reader_leaves_is_interrupted_and_can_be_resumed(tmp_path: Path) -> None:
    """As in ``seqmem train | head -1``."""
    command = ("train", *SLOW_LINES, "steps=150", "trace.every=0")
    with started(*command, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert "150 steps" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr is not None
        assert process.stderr.read() == ""
    run = only_run(tmp_path)
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert 0 < status["step"] < 150
    assert not (run / "result.json").exists()
    completed = forked(*command, cwd=tmp_path)
    assert (completed.code, completed.err) == (0, "")
    assert f"going on at step {status['step']}\n" in completed.out.splitlines(keepends=True)[0]
    steps = [int(number) for number in re.findall(r"^step +(\d+)/", completed.out, re.M)]
    assert steps == sorted(steps)
    assert steps[0] > status["step"]


def test_the_display_is_an_observer_of_training() -> None:
    task, file = Pronoun(), Writes()
    model = SequenceModel.for_task(task, lambda size: RNN(size, 4), embed_size=4)
    batch = task.sample(3, 10, generator(0, "trace"))
    trace = Tracer(model, task).measure(batch)
    view = display(Console(file=file), steps=4, prefix="[1] ")
    observer: Observer = view  # pyright checks the protocol
    with view:
        observer.logged(0, "eval", {"loss": 1.4, "score": 0.25})
        observer.answered(0, batch, model(batch.inputs)[0])
        observer.measured(0, PROBE, *measurements([trace]))
        observer.finished(4, RESULT)
    first, last = file.getvalue().splitlines()
    assert re.fullmatch(r"\[1\] step 0/4  loss 1.400 \(.*  accuracy 25.0 % \(.*\)  gradient arriving \S+( %)?", first)
    assert last.startswith("[1] finished  accuracy 95.0 % ")


# One run


def test_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "outputs")
    code, out, err = run_show(capsys, run.path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("lstm on pronoun  50 timesteps · seed 0 ")
    assert lines[0].endswith(" finished")
    assert "accuracy    99.8 %  chance 25.0 %  solved at step 250" in lines
    assert "loss        0.0123  chance 1.386" in lines
    by_length = [line for line in lines if " %  ━" in line]
    assert [int(re.sub("by length", "", line).split()[0]) for line in by_length] == [7, 12, 25, 50, 100, 200]
    assert [line.endswith("◂ trained") for line in by_length] == [False, False, False, True, False, False]
    assert len({line.index("│") for line in by_length}) == 1  # chance is one straight line
    strips = [line for line in lines if "answer  " in line]
    assert [line.split("  ")[-1] for line in strips] == ["untrained", "step 1000"]
    assert "shape       half-life 1 timesteps → half-life 6.58 timesteps" in lines
    assert "horizon     11 → beyond the sequence" in lines
    assert "arrives     10^-14.4 → 0.636 % at the first timestep" in lines
    assert "model       64 units, 30,216 parameters" in lines
    assert "time        31 s, 31.8 steps/s on cpu" in lines
    assert "files       outputs/pronoun/lstm/len50-seed0-1a2b3c4d" in lines
    assert all(line == line.rstrip() for line in lines)


def test_the_strip_of_a_run_shows_its_gradients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, seq_len=20, rate=0.4)
    strips = re.findall(r"first (\S+) answer  step 1000", run_show(capsys, run.path)[1])
    levels = [max(0, int(8 + back * log10(0.4) - 1e-9)) for back in range(18, -1, -1)]
    assert strips == ["".join(UNICODE.blocks[min(level, 7)] for level in levels)]


@pytest.mark.parametrize(
    ("state", "pid", "message"),
    [
        ("running", None, "running at step 700 of 1000"),
        ("running", 1, "killed at step 700 of 1000"),  # a process that lives, but another one
        ("interrupted", None, "interrupted at step 700 of 1000"),
        ("failed", None, "failed at step 700 of 1000"),
    ],
)
def test_an_unfinished_run(
    state: str, pid: int | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, state=state, pid=pid)
    code, out, err = run_show(capsys, run.path)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith(message)
    assert re.search(r"^score +0\.5$", out, re.M)
    assert re.search(r"^shape +half-life 1 timesteps → half-life 6\.58 timesteps$", out, re.M)
    assert "answer  step 700" in out
    go_on = "go on with  seqmem train cell=lstm '+note=two words'"
    assert (go_on in out) == (state == "interrupted" or pid is not None)
    assert ("error       the loss became nan at step 707" in out) == (state == "failed")


@pytest.mark.parametrize(
    ("state", "changes", "score", "solved"),
    [
        ("finished", {"score": nan, "loss": nan}, "diverged", "diverged"),
        ("finished", {"loss": inf, "score": 1.0}, "diverged", "diverged"),  # NaN answers may be right by chance
        ("finished", {"loss": 1.0, "score": 0.5, "solved": False, "steps_to_solve": None}, "50.0 %", "no"),
        ("failed", {}, "50.0 %", "diverged"),  # the latest evaluation
    ],
)
def test_a_run_that_diverged_is_not_solved(
    state: str, changes: dict[str, Any], score: str, solved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, state=state, result=changes)
    make_run(tmp_path, seed=1)
    if state == "failed":
        run.set_status("failed", step=700, error="Diverged: the loss became nan at step 707")
        write_json(run.file("environment.json"), {"metric": "accuracy", "chance": 0.25, "solved_at": 0.99})
    words = "not solved: diverged" if solved == "diverged" else "not solved"
    assert re.search(rf"^accuracy +{score}  chance 25.0 %  {words}$", run_show(capsys, run.path)[1], re.M)
    (row,) = (line for line in run_show(capsys, tmp_path)[1].splitlines() if re.match(rf" *0 +{score} ", line))
    assert re.match(rf" *0 +{score} +{solved} ", row)


def test_an_unfinished_run_uses_the_stored_facts_of_its_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, state="running")
    facts = {"metric": "accuracy", "higher_is_better": True, "chance": 0.25, "baseline_loss": 1.386, "solved_at": 0.99}
    write_json(run.file("environment.json"), facts)
    out = run_show(capsys, run.path)[1]
    assert re.search(r"^accuracy +50\.0 %  chance 25\.0 %$", out, re.M)
    assert re.search(r"^loss +0\.72  chance 1\.386$", out, re.M)


def test_a_run_that_has_just_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, state="running")
    for name in ("metrics.jsonl", "gradients.npz", "status.json", "overrides.json"):
        run.file(name).unlink()
    code, out, _ = run_show(capsys, run.path)
    assert code == 0
    assert out.splitlines()[0].endswith("not started")
    assert re.search(r"^score +none yet$", out, re.M)
    assert re.search(r"^gradient +no trace yet$", out, re.M)


def test_a_run_without_traces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, result={"gradient": {"start": {}, "end": {}}})
    run.file("gradients.npz").unlink()
    out = run_show(capsys, run.path)[1]
    assert re.search(r"^gradient +not traced$", out, re.M)
    assert "half-life" not in out


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"score": 0.26, "solved": False, "steps_to_solve": None}, "no better than chance"),
        ({"score": 0.32, "solved": False, "steps_to_solve": None}, "not solved"),
        ({"score": 0.8, "solved": False, "steps_to_solve": 250}, "solved at step 250, but not at the end"),
        ({"steps_to_solve": None}, "solved"),
        ({"solved_at": None, "solved": None, "steps_to_solve": None}, "chance 25.0 %"),
    ],
)
def test_the_verdict(facts: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run_show(capsys, make_run(tmp_path, result=facts).path)[1]
    assert re.search(rf"^accuracy +\S+ % .*{message}$", out, re.M)


def test_later_evaluations_join_the_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)
    rows = [{"seq_len": n, "score": 0.33, "loss": 1.0, "sequences": 1000} for n in (25, 800)]
    run.file("evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = run_show(capsys, run.path)[1]
    assert re.search(r"^ +800  33\.0 %", out, re.M)
    assert re.search(r"^ +25  33\.0 %", out, re.M)
    run.file("evaluations.jsonl").write_text(
        "".join(json.dumps({**rows[0], "seq_len": n}) + "\n" for n in range(51, 90))
    )
    out = run_show(capsys, run.path)[1]
    assert "lengths left out" in out
    assert re.search(r"^ +50  99\.8 %.*trained$", out, re.M)


def test_an_exploding_and_a_vanished_gradient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run_show(capsys, make_run(tmp_path / "a", rate=1.5).path)[1]
    assert re.search(r"first ▲+█+ answer  step 1000", out)
    assert "▲ over 10" in out
    assert "shape       half-life 1 timesteps → grows x1.5 a timestep" in out
    assert "10^8.5 at the first timestep" in out
    norms = np.ones((3, 50, 4))
    norms[:, :40] = 0
    out = run_show(capsys, make_run(tmp_path / "b", norms=norms).path)[1]
    assert re.search(r"first ·{35,40}█+ answer  step 1000", out)
    assert "· zero" in out
    assert "arrives     nothing at the first timestep" in out


def test_squared_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_length = [{"seq_len": n, "score": score, "loss": 0.1, "sequences": 10} for n, score in ((7, 0.3), (50, 0.001))]
    facts = {"metric": "mean squared error", "higher_is_better": False, "chance": 0.1667, "solved_at": 0.002}
    facts |= {"score": 0.001, "by_length": by_length}
    out = run_show(capsys, make_run(tmp_path, task="adding", result=facts).path)[1]
    assert "score       0.001 mean squared error  chance 0.1667  solved at step 250" in out
    worst, best = [line for line in out.splitlines() if "│" in line]
    assert worst.count("━") > 20  # the longest bar is the largest error
    assert best.count("━") <= 1


def test_numbers_in_words() -> None:
    assert [words.duration(x) for x in (3.14159, 59.2, 200.0, 3600.0, 7265.0, 59.9)] == [
        "3.1 s", "59 s", "3 min 20 s", "1 h 0 min", "2 h 1 min", "60 s",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [80, 200])
def test_pages_and_tables_fit_a_terminal(width: int, tmp_path: Path) -> None:
    kinds = [("rnn", 50, "finished", 0.5), ("lstm", 50, "finished", 1.0)]
    kinds += [("lstm", 1000, "interrupted", 1.1), ("gru", 200, "failed", 0.97)]
    runs = [
        make_run(tmp_path / "outputs", cell=cell, seq_len=seq_len, state=state, rate=rate, seed=12345)
        for cell, seq_len, state, rate in kinds
    ]
    console, output = terminal(width)
    readings = [read(run) for run in runs]
    for reading in readings:
        say(console, *pages.page(reading, console))
    say(console, *pages.comparison(readings, console))
    print_summary(console, runs[0])
    lines = plain(output.getvalue())
    assert max(map(len, lines)) <= width
    assert not [line for line in lines if line.strip() in ("of 1000", "1000")]  # nothing was wrapped
    assert "\x1b[38;2;" in output.getvalue()


def test_a_run_s_page_is_readable_on_a_very_narrow_terminal(tmp_path: Path) -> None:
    console, output = terminal(40)
    say(console, *pages.page(read(make_run(tmp_path)), console))
    assert max(map(len, plain(output.getvalue()))) <= 40


def test_without_colour_the_blocks_remain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    reading = read(make_run(tmp_path))
    console, output = terminal(80)
    say(console, *pages.page(reading, console), *pages.comparison([reading, reading], console))
    assert not COLOUR.search(output.getvalue())
    assert re.search("▁▂+▃+▄+▅+▆+▇+█", output.getvalue())
    monkeypatch.delenv("NO_COLOR")
    console, output = terminal(80)
    say(console, *pages.page(reading, console))
    assert COLOUR.search(output.getvalue())  # the pattern above does match colours


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_everything_can_be_written_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    norms = 10.0 ** np.linspace(-400, 3, 50)[None, :, None] * np.ones((3, 1, 4))
    runs = [make_run(tmp_path, cell="rnn", norms=norms), make_run(tmp_path), make_run(tmp_path, seed=2, state="failed")]
    file = encoded(encoding)
    console = Console(file=file)
    readings = [read(run) for run in runs]
    say(console, *pages.comparison(readings, console))
    for reading in readings:
        say(console, *pages.page(reading, console))
    print_summary(console, runs[1])
    clock = Clock()
    view = display(Console(file=file, force_terminal=True, width=80), clock=clock)
    feed(view, clock, last=430)
    console.print(view.picture())
    file.flush()
    file.seek(0)
    text = file.read()
    assert re.search(r"\.:+-+=+\+", text)
    assert "10^-8 .:-=+*#@ 1" in text


def test_the_summary_suggests_the_next_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "outputs")
    console, output = terminal(80)
    print_summary(console, run)
    lines = [line.rstrip() for line in plain(output.getvalue())]
    assert lines[-4] == "next        seqmem watch                 every curve in TensorBoard"
    assert lines[-3] == "            seqmem show outputs/pronoun  all runs of pronoun side by side"
    assert lines[-2] == "            seqmem read outputs/pronoun/lstm/len50-seed0-1a2b3c4d"
    assert lines[-1] == "            seqmem eval outputs/pronoun/lstm/len50-seed0-1a2b3c4d seq_len=400"
    assert "accuracy    99.8 %  chance 25.0 %  solved at step 250" in lines
    elsewhere = make_run(tmp_path / "my runs")
    console = Console(file=(file := io.StringIO()))
    print_summary(console, elsewhere)
    assert re.search(r"^next +seqmem watch 'my runs' ", file.getvalue(), re.M)
    assert file.getvalue().splitlines()[-1].strip() == (
        "seqmem eval 'my runs/pronoun/lstm/len50-seed0-1a2b3c4d' seq_len=400"
    )


def test_a_pipe_gets_long_paths_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path / ("deep" * 30), seq_len=50)
    console = Console(file=(file := io.StringIO()))
    print_summary(console, run)
    assert f"files       {run.path.relative_to(tmp_path)}\n" in file.getvalue()
    assert all(line == line.rstrip() for line in file.getvalue().splitlines())
    assert "\x1b" not in file.getvalue()


# Several runs


def test_a_comparison_names_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = tmp_path / "outputs"
    make_run(outputs, cell="rnn", rate=0.6, score=0.26, options={"nonlinearity": "tanh"})
    make_run(outputs, cell="lstm", rate=1.0, options={"forget_bias": "chrono"})
    make_run(outputs, cell="lstm", rate=0.73, score=0.26, options={"forget_bias": 1.0}, tail="00000000")
    code, out, err = run_show(capsys, outputs)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "3 runs"
    assert lines[2] == "pronoun  50 timesteps · seed 0 · chance 25.0 %"
    assert lines[4] == "cell  forget_bias  accuracy  solved at   arrives  half-life  horizon"
    assert lines[5] == "lstm  1              26.0 %         no   10^-6.6        2.2       23"
    assert lines[6] == "lstm  chrono         99.8 %        250     100 %        inf      inf"
    assert lines[7] == "rnn                  26.0 %         no  10^-10.6       1.36       15"


def test_settings_that_few_cells_have_tell_no_runs_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """epsilon is another thing in each of the two cells that have one; the bias is one for most of them."""
    for cell, options in {
        "rnn": {},
        "lstm": {"forget_bias": "chrono"},
        "ugrnn": {"forget_bias": 1.0},
        "antisymmetric": {"epsilon": 0.01, "forget_bias": 1.0},
        "cornn": {"epsilon": 4.7},
    }.items():
        make_run(tmp_path / "outputs", cell=cell, options=options)
    heads = [line for line in run_show(capsys, tmp_path / "outputs")[1].splitlines() if line.startswith("cell  ")]
    assert heads[0].split()[:3] == ["cell", "forget_bias", "accuracy"]
    make_run(tmp_path / "outputs", cell="cornn", options={"epsilon": 2.0}, tail="00000000")
    heads = [line for line in run_show(capsys, tmp_path / "outputs")[1].splitlines() if line.startswith("cell  ")]
    assert "epsilon" in heads[0]


@pytest.mark.parametrize(("width", "last"), [(60, "horizon"), (50, "half-life")])
def test_a_narrow_comparison_keeps_what_is_solved(
    width: int, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for cell in ("rnn", "lstm"):
        make_run(tmp_path / "outputs", cell=cell, rate=0.9)
    (head,) = (line for line in run_show(capsys, tmp_path / "outputs")[1].splitlines() if line.startswith("cell  acc"))
    assert "solved at" in head
    assert head.endswith(last)
    assert len(head) <= width


def test_strips_of_different_lengths_stand_under_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = tmp_path / "outputs"
    for seq_len in (50, 100, 200):
        make_run(outputs, seq_len=seq_len, rate=0.9)
    lines = run_show(capsys, outputs)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.rstrip().endswith("answer"))
    strips = lines[start + 1 : start + 4]
    assert len({len(line) for line in [lines[start], *strips]}) == 1
    # A quarter of the timesteps take a quarter of the columns, and the same column is the same way back.
    fifty, hundred, all_of_it = (line.split(" ")[-1] for line in strips)
    assert len(fifty) == pytest.approx(len(all_of_it) / 4, abs=1)
    assert len(hundred) == pytest.approx(len(all_of_it) / 2, abs=1)
    assert all_of_it.endswith(fifty[1:])  # the first column may stand for fewer timesteps
    assert all_of_it.endswith(hundred[1:])


@pytest.mark.parametrize(("width", "beside"), [(80, False), (200, True)])
def test_a_wide_terminal_has_strips_beside_the_numbers(
    width: int, beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for cell in ("rnn", "lstm"):
        make_run(tmp_path / "outputs", cell=cell)
    out = run_show(capsys)[1]  # everything in outputs
    rows = [line for line in out.splitlines() if re.match(r"lstm +99\.8 % +250", line)]
    assert len(rows) == 1
    assert ("▆▆▇" in rows[0]) == beside
    assert out.count("▆▆▇") == 2


def test_lengths_of_several_runs_are_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seq_len in (50, 100):
        make_run(tmp_path / "outputs", seq_len=seq_len)
    lines = run_show(capsys)[1].splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("by length"))
    assert lines[head + 1].split() == ["seq_len", "7", "12", "25", "50", "100", "200", "400"]
    assert lines[head + 2].split() == "50 99.8 % 99.8 % 99.8 % 99.8 %◂ 60.0 % 60.0 %".split()
    assert lines[head + 3].split() == "100 99.8 % 99.8 % 99.8 % 99.8 %◂ 60.0 % 60.0 %".split()
    fifty, hundred = (lines[head + 1].index(f" {n} ") + len(f" {n}") for n in (50, 100))
    assert lines[head + 2][fifty] == "◂"
    assert lines[head + 3][hundred] == "◂"


def test_unfinished_runs_are_marked_and_tasks_stand_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "outputs", seed=0)
    make_run(tmp_path / "outputs", seed=1, state="interrupted")
    make_run(tmp_path / "outputs", seed=0, task="copy")
    out = run_show(capsys)[1]
    copy, pronoun = out.split("\npronoun")
    assert "copy  lstm · 50 timesteps · seed 0 · chance 25.0 %" in copy
    assert "interrupted" not in copy
    assert re.search(r"^ +0 +99\.8 % .* finished$", pronoun, re.M)
    assert re.search(r"^ +1 +0\.5 .* interrupted 70 %$", pronoun, re.M)
    assert "gradient at the latest trace" in pronoun


def test_many_runs_are_limited_and_the_limit_is_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(22):
        make_run(tmp_path / "outputs", seed=seed)
    out = run_show(capsys, "outputs")[1]
    assert out.startswith("22 runs; the first 20 of them (--all shows the rest):")
    assert len(re.findall(r"99\.8 % +250", out)) == 20
    assert len(re.findall(r"99\.8 % +250", run_show(capsys, "outputs", "--all")[1])) == 22


# Which runs


def test_a_run_is_named_by_any_unique_part_of_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "outputs", cell="lstm", tail="1a2b3c4d")
    make_run(tmp_path / "outputs", cell="rnn", tail="1a99ffff")
    make_run(tmp_path / "outputs", cell="rnn", seed=1, tail="77777777")
    make_run(tmp_path / "playground", cell="lstm", tail="88888888")  # elsewhere the beginning of its path is enough
    lstm = (
        "1a2b",
        "len50-seed0-1a2b",
        "lstm/len50-seed0-1a2b3c4d",
        "lstm",
        "pronoun/lstm",
        "outputs/pronoun/lstm/len50",
    )
    for name in (*lstm, "playground/pronoun/lstm/len50-seed0", "./playground/pronoun/lstm/l"):
        assert run_show(capsys, name)[1].startswith("lstm on pronoun"), name
    assert re.match(r"pronoun  rnn", run_show(capsys, "pronoun/rnn")[1])
    code, out, err = run_show(capsys, "1a")
    assert (code, out) == (2, "")
    assert err.startswith("seqmem show: 1a matches 2 runs: ")
    assert err.count("\n") == 1


def test_the_same_run_twice_is_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "outputs")
    assert run_show(capsys, run.path, "1a2b", "outputs")[1].count("finished") == 1


@pytest.mark.parametrize("argument", ["nowhere", "empty", "outputs"])
def test_no_run_is_one_line_and_code_2(argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = run_show(capsys, argument)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"seqmem show: {argument}: no run there( yet)?; [^\n]+\n", err)


# numpy leaves a file open if it is not an archive.
_unclosed = pytest.mark.filterwarnings("ignore:.*gradients.npz:pytest.PytestUnraisableExceptionWarning")


def _break_json(run: RunDirectory) -> None:
    run.file("result.json").write_text('{"score": ')


def _break_result(run: RunDirectory) -> None:
    write_json(run.file("result.json"), {"score": 1.0})


def _break_kind(run: RunDirectory) -> None:
    run.file("result.json").write_text("[1, 2]")


def _break_config(run: RunDirectory) -> None:
    write_json(run.file("config.json"), {"seq_len": 50})


def _break_status(run: RunDirectory) -> None:
    run.file("result.json").unlink()
    write_json(run.file("status.json"), {"mood": "good"})


def _break_metrics(run: RunDirectory) -> None:
    run.file("result.json").unlink()  # a finished run is shown without its metrics
    run.file("metrics.jsonl").write_text('{"kind": "eval"\n')


def _cut_gradients(run: RunDirectory) -> None:
    path = run.file("gradients.npz")
    path.write_bytes(path.read_bytes()[:500])


def _empty_gradients(run: RunDirectory) -> None:
    run.file("gradients.npz").write_bytes(b"")


def _other_gradients(run: RunDirectory) -> None:
    np.savez(run.file("gradients.npz"), step=np.array([0]), answered_at=np.array([3]))


@pytest.mark.parametrize(
    "harm",
    [
        _break_json, _break_result, _break_kind, _break_config, _break_status, _break_metrics,
        pytest.param(_cut_gradients, marks=_unclosed), _empty_gradients, _other_gradients,
    ],
)  # fmt: skip
def test_a_damaged_run_is_named_and_the_others_are_shown(
    harm: Callable[[RunDirectory], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = make_run(tmp_path / "outputs", cell="rnn"), make_run(tmp_path / "outputs", cell="lstm")
    harm(bad)
    with pytest.raises(RunError, match="rnn"):
        _ = read(bad).profiles
    code, out, err = run_show(capsys, bad.path)
    assert (code, out) == (1, "")
    assert err.startswith("seqmem show: ")
    assert err.count("\n") == 1
    assert str(bad.path) in err
    code, out, err = run_show(capsys, bad.path, good.path)
    assert code == 1
    assert str(bad.path) in err
    assert out.startswith("lstm on pronoun")


def test_show_needs_no_torch(tmp_path: Path) -> None:
    make_run(tmp_path / "outputs")
    make_run(tmp_path / "outputs", cell="rnn")
    heavy = "print([name for name in ('torch', 'hydra', 'jaxtyping') if name in sys.modules])"
    code = f"import sys; from seqmem.cli.verbs import show; code = show.main(sys.argv[1:]); {heavy}; sys.exit(code)"
    completed = subprocess.run(
        [sys.executable, "-c", code, "outputs"], capture_output=True, encoding="utf-8", check=True
    )
    assert completed.stdout.startswith("pronoun")
    assert completed.stdout.splitlines()[-1] == "[]"
    assert completed.stderr == ""


@pytest.mark.parametrize(("verb", "wrong"), [("show", "--colour"), ("list", "--colour"), ("watch", "--port=http")])
def test_a_mistake_on_a_command_line_is_one_line(verb: str, wrong: str, typed: Callable[..., Completed]) -> None:
    completed = typed(verb, wrong)
    completed.refuses(f"see seqmem {verb} --help", code=2, verb=verb)
    assert completed.out == ""


def test_show_reads_the_traces_of_a_killed_run(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """Although a killed run has not written gradients.npz."""
    command = ("train", *SLOW_LINES, "trace.every=1", "steps=100000")
    with started(*command, cwd=tmp_path) as process:
        until(lambda: trained_to(tmp_path) >= 20, of=process)
        process.kill()
        process.wait()
    run = only_run(tmp_path)
    assert not (run / "gradients.npz").exists()
    completed = typed("show", str(run))
    assert (completed.code, completed.err) == (0, "")
    gradients = RunDirectory(run).gradients()
    assert gradients is not None
    assert gradients.step.tolist() == list(range(len(gradients.step)))
    assert re.search(r"^gradient +first \S+ answer  untrained$", completed.out, re.M)
    assert f"answer  step {gradients.step[-1]}\n" in completed.out
    assert "killed at step" in completed.out


def test_a_run_says_which_text_it_read(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    assert typed("train", *TINY, "task=text", "quiet=true").code == 0
    output = json.loads((only_run(tmp_path) / "environment.json").read_text())
    assert output["corpus_sha256"] == corpus_sha256()
    assert typed("train", *TINY, "outputs=other", "quiet=true").code == 0
    assert "corpus_sha256" not in json.loads((only_run(tmp_path / "other") / "environment.json").read_text())


@pytest.mark.parametrize("verb", [show, listing])
def test_help_fits_80_columns_and_has_examples(verb: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        verb.main(["--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert "\n  seqmem " in out
    assert max(map(len, out.splitlines())) <= 80


# list


@pytest.fixture
def own_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration directory that replaces the package's own."""
    conf = tmp_path / "conf"
    lstm = "name: lstm\nhidden_size: 64\nlayers: 1\nparams: null\nforget_bias: chrono\n"
    pronoun = "name: pronoun\nusual_seq_len: 50\nlengths: fixed\nshortest: null\npeople: 8\nmentions: 2\n"
    files = {
        "cell/lstm.yaml": f"# LSTM.\ndefaults:\n  - _self_\n\n{lstm}",
        "task/pronoun.yaml": f"# Words.\n{pronoun}",
        "optimizer/adam.yaml": "#\n# Adam (Kingma & Ba 2015).\nname: adam\nlr: 1e-3\n",
        "experiment/far.yaml": "# @package _global_\n# How far back?\nseq_len: 100\n",
        "experiment/deep/er.yaml": "# @package _global_\nseq_len: 100\n",
    }
    for name, content in files.items():
        (conf / name).parent.mkdir(parents=True, exist_ok=True)
        (conf / name).write_text(content)
    monkeypatch.setattr(listing, "conf_dir", lambda: conf)
    monkeypatch.setenv("COLUMNS", "200")
    return conf


@pytest.mark.usefixtures("own_conf")
def test_list_has_a_line_for_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert listing.main([]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[2].split(maxsplit=4) == ["lstm", "hidden,", "cell", "128", lines[2][lines[2].index("Hoch") :]]
    assert re.fullmatch(r"  pronoun  25\.0 %  12\.5 % +7 +7-14 +seqmem, after rnilav's subject recall", lines[5])
    assert "  adam      Adam (Kingma & Ba 2015)." in lines
    assert "  far        How far back?" in lines
    assert "  deep/er" in lines
    assert re.fullmatch(r"compute  torch \d+\.\d+\.\d+, \d+ cores?, (no CUDA|CUDA .+)", lines[-2])
    assert re.match(r"kernels  \S", lines[-1])
    assert "\x1b" not in out


def test_list_has_every_task_and_cell_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert listing.main([]) == 0
    out = capsys.readouterr().out
    cells, tasks = out.split("\ntasks")
    for name, kind in TASKS.items():
        chance, held_out = r"(\S+ \S+)(?: \(.*?\))?", r"(?:\d+-\d+ +|always +)?"
        row = re.search(rf"^  {choice_of(name, kind.folder)} +{chance} +\S+ \S+ +(\d+) +{held_out}(.+)$", tasks, re.M)
        assert row is not None, name
        assert row[3] == kind.source
    for path in config.conf_dir().glob("cell/*.yaml"):
        assert re.search(rf"^  {path.stem} +\S", cells, re.M)


@pytest.mark.usefixtures("own_conf")
def test_list_has_a_user_s_own_files_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine"
    (mine / "task").mkdir(parents=True)
    (mine / "task" / "one.yaml").write_text("# One person.\nname: pronoun\nmentions: 1\n")
    (mine / "task" / "leaky.yaml").write_text("# My own thing.\nname: custom\ntarget: mine.Leaky\n")
    (mine / "task" / "odd.yaml").write_text("name: pronoun\npeople: 7\n")
    (mine / "task" / "torn.yaml").write_text("name: [pronoun\n")
    assert listing.main(["-cd", str(mine)]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"^  one +12\.5 % +12\.5 % +5 +[-\d]* +seqmem, .* \(One person\)$", out, re.M)
    assert re.search(r"^  leaky +My own thing\.$", out, re.M)
    assert re.search(r"^  pronoun +25\.0 %", out, re.M)
    odd, torn = err.splitlines()
    assert odd == f"seqmem list: {mine / 'task' / 'odd.yaml'}: people=7: must be an even number from 4 to 16"
    assert "mine/task/torn.yaml, line 2: is no YAML: " in torn


def test_list_of_a_directory_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert listing.main(["--config-dir", "nowhere"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "seqmem list: --config-dir nowhere: no such directory\n"


def test_list_has_every_cell_beside_its_source(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As wide as a usual terminal, where no line is longer."""
    monkeypatch.setenv("COLUMNS", "80")
    assert listing.main(["cell"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for name, kind in CELLS.items():
        (row,) = (line for line in lines if line.split()[:1] == [name] and line.startswith("  "))
        source: str = getattr(kind, "source", "?")
        assert source.split()[0] in row.split(), row


@pytest.mark.usefixtures("own_conf")
def test_list_wraps_sources_under_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    console, output = terminal(72)
    monkeypatch.setattr(listing, "Console", lambda: console)
    assert listing.main([]) == 0
    lines = plain(output.getvalue())
    assert max(map(len, lines)) <= 72
    assert lines[2].index("Hochreiter") == len(lines[3]) - len(lines[3].lstrip())


@pytest.mark.usefixtures("own_conf")
@pytest.mark.parametrize("width", [None, "30", "64", "80"])
def test_list_fits_its_width_and_loses_no_word(
    width: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Piped, it is 80 columns wide; where a task has no room for its source, it is on a line of its own."""
    assert listing.main([]) == 0
    whole = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", width) if width else monkeypatch.delenv("COLUMNS")
    assert listing.main([]) == 0
    folded = capsys.readouterr().out
    assert sorted(folded.split()) == sorted(whole.split())
    if width != "30":  # the columns before the last are never folded
        assert max(map(len, folded.splitlines())) <= int(width or 80)
