"""Pictures and tables in every width: none fails, and none loses the scores that it is there for."""

import io
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
from rich.text import Text

from made_up import run_directory
from seqmem.cli.terminal.console import Console
from seqmem.cli.terminal.pages import comparison, page
from seqmem.cli.verbs import report, sweep
from seqmem.report.collect import Collection, collect
from seqmem.runs.directory import find_runs
from seqmem.runs.summary import Summary, read

CELLS = ("Leaky", "Peephole", "Minimal", "Chaotic", "SlowFast", "Antisymmetric", "Unitary", "Coupled", "Orthogonal",
         "Clockwork", "AVeryLongNameOfACell")  # fmt: skip


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a user's own cells, with settings that tell them apart; each has a score of its own."""
    folder = tmp_path_factory.mktemp("widths") / "outputs"
    for number, cell in enumerate(CELLS):
        own = {"name": "custom", "target": f"my.own.cells.{cell}", "args": {"rate": number / 7, "kind": cell * 2}}
        changes = {"cell": own, "optimizer.lr": 0.001 * (number + 1), "batch_size": number, "clip_norm": number}
        scores = {length: (number + length) / 100 for length in (5, 10, 20, 40, 80)}
        run_directory(folder / cell, scores[10], changes=changes, by_length=scores, cell=cell)
    return folder


@pytest.fixture(scope="module")
def summaries(outputs: Path) -> list[Summary]:
    return [read(run) for run in find_runs(outputs)]


def console(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True)


def scores(runs: Sequence[Summary]) -> list[str]:
    return [run.scale.metric.text(run.score) for run in runs if run.score is not None]


@pytest.mark.parametrize("width", [*range(81), 86, 90, 120])
def test_runs_are_shown_in_every_width(width: int, summaries: list[Summary]) -> None:
    runs = summaries if width % 20 == 0 else summaries[:2]
    for lines, expected, fits in (
        (page(summaries[0], console(width)), scores(summaries[:1]), 79),
        (comparison(runs, console(width)), scores(runs), 60),
    ):
        text = "\n".join(line.plain for line in lines)
        assert not [score for score in expected if score not in text]
        # The run's path is as long as it is.
        wide = [line.plain for line in lines if line.cell_len > width and str(summaries[0].run.path) not in line.plain]
        assert width < fits or not wide


@cache
def collected(folder: Path) -> Collection:
    return collect([folder])


@pytest.mark.parametrize("width", [0, 1, 7, 23, 31, 80])
def test_sweeps_and_reports_are_written_in_every_width(width: int, outputs: Path, summaries: list[Summary]) -> None:
    runs, *_ = sweep.survey([outputs])
    views: list[Callable[[], Sequence[Text]]] = [
        lambda: sweep.table(runs, console(width)),
        lambda: report.lines(collected(outputs), None, Path("page"), console(width).width),
    ]
    for view in views:
        text = "\n".join(line.plain for line in view())
        assert not [score for score in scores(summaries) if score not in text]
