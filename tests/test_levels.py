"""What a score is compared with where it depends on the length: the values of every length, wherever they are shown."""

import io
import json
import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from made_up import run_directory, write
from seqmem.cli.terminal import pages
from seqmem.cli.verbs import report
from seqmem.evaluate import Evaluation
from seqmem.lag import lag_of
from seqmem.record.recorder import scale_of, with_levels
from seqmem.record.tags import describe
from seqmem.report import latex, tables
from seqmem.report.collect import Collection, collect
from seqmem.report.figures import axes, base, generalisation, score, strips
from seqmem.report.levels import Level, by_length, levels
from seqmem.report.sections import scores
from seqmem.runs.compare import compare
from seqmem.runs.directory import RunDirectory
from seqmem.runs.summary import read
from seqmem.tasks import Adding, Digits, Pronoun, Task

LENGTHS = (4, 8, 20)
UNKNOWN = Fraction(1, 12)  # the variance of a number of U[0, 1] that is not remembered


def marked(length: int) -> Fraction:
    """How often the last number, one of half of the sequence, is the second marked one."""
    return Fraction(1, length - length // 2)


CHANCE = {at: float(2 * UNKNOWN - marked(at) * UNKNOWN) for at in (*LENGTHS, 40)}
ONE = {at: float((1 - marked(at)) * UNKNOWN) for at in (*LENGTHS, 40)}


def a_run(
    folder: Path, task: Task, trained: int, tested: Sequence[int], value: float = 0.3, *, old: bool = False
) -> Path:
    """A finished run. ``old``: as an earlier version wrote it, without the levels of each tested length."""
    rows = [Evaluation(at, value, value, 1000, 1000) for at in tested]
    changes = {"task.name": task.name, "seq_len": trained}
    path = run_directory(folder, value, changes=changes, **scale_of(task, trained).fields())
    result = json.loads((path / "result.json").read_text())
    result["by_length"] = [vars(row) if old else with_levels(task, row) for row in rows]
    write(path / "result.json", result)
    return path


def gathered(folder: Path, task: Task, lengths: Sequence[int] = LENGTHS, *, old: bool = False) -> Collection:
    return collect([a_run(folder / f"{at}", task, at, (at, 2 * at), old=old) for at in lengths])


def as_dict(some: Sequence[Level]) -> dict[str, dict[int, float]]:
    return {level.name: dict(level.scores) for level in some}


@pytest.fixture(scope="module")
def adding(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return gathered(tmp_path_factory.mktemp("adding"), Adding())


def test_lines_of_figures_go_through_the_value_of_every_length(adding: Collection) -> None:
    trained = score.collect([(0, adding.groups[0])], None)
    constant = dict.fromkeys(LENGTHS, pytest.approx(1 / 6))
    assert as_dict(trained.measure.levels) == {
        "chance": {at: pytest.approx(CHANCE[at]) for at in LENGTHS},
        "constant": constant,
        "one number": {at: pytest.approx(ONE[at]) for at in LENGTHS},
    }
    tested = as_dict(generalisation.collect(adding.groups[0], None).measure.levels)
    assert tested["chance"][40] == pytest.approx(CHANCE[40])  # at which no run was trained
    (strip,) = strips.collect([(0, adding.groups[0])], 20, None, at=40).measure.levels[:1]
    assert strip.scores == {40: pytest.approx(CHANCE[40])}
    (drawn,) = score.draw(trained).axes
    through = [dict(np.asarray(line.get_xydata()).tolist()) for line in drawn.lines]
    assert any(line == pytest.approx({at: CHANCE[at] for at in LENGTHS}) for line in through)
    assert any(line == pytest.approx({at: ONE[at] for at in LENGTHS}) for line in through)


def test_numbers_are_ranges_or_stand_in_each_row(adding: Collection) -> None:
    task = base.TaskRuns(adding.groups, base.colours(adding), None, base.Traces(adding))
    text = scores.about(task)
    assert "mean squared error is 0.125 at length 4 to 0.1583 at length 20 (0.1667 for a constant answer)." in text
    assert "With one number it is 0.04167 at length 4 to 0.075 at length 20." in text
    table = scores.table(task).table
    assert table is not None
    place = [column.title for column in table.columns].index("chance")
    assert [row.cells[place] for row in table.rows] == ["0.125", "0.1458", "0.1583"]
    written = latex.scores(adding.groups)
    assert "& Chance &" in written
    assert "& 0.1458 &" in written
    head = [line.plain for line in report.lines(adding, None, None, 80)]
    assert "adding  mean squared error, chance 0.125 at 4 to 0.1583 at 20, solved at most" in head
    (group,) = report.numbers(adding, None, None)["groups"]
    assert group["chance"] is None
    assert [row["chance"] for row in group["lengths"]] == pytest.approx([CHANCE[at] for at in LENGTHS])
    made = tables.tables(adding)
    assert [row["chance"] for row in made["groups"].rows] == pytest.approx([CHANCE[at] for at in LENGTHS])
    at = {row["tested_at"]: row["chance"] for row in made["tested"].rows}
    assert at[40] == pytest.approx(CHANCE[40])


def test_the_lag_stands_beside_the_length(adding: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    task = base.TaskRuns(adding.groups, base.colours(adding), None, base.Traces(adding))
    earlier = scores.table(task).table
    assert earlier is not None
    assert "lag" not in [column.title for column in earlier.columns]  # runs of earlier versions do not say it
    for run in adding.runs:
        if run.seq_len > 4:
            lag = lag_of(Adding(), run.seq_len)
            assert lag is not None
            monkeypatch.setitem(cast(dict[str, Any], run.environment), "lag", lag.fields())
    table = scores.table(task).table
    assert table is not None
    assert [column.title for column in table.columns][:3] == ["cell", "length", "lag"]
    assert [row.cells[1:3] for row in table.rows] == [[4, "–"], [8, "4 to 7"], [20, "10 to 19"]]


def test_a_chance_of_every_length_is_one_number(tmp_path: Path) -> None:
    pronoun = gathered(tmp_path, Pronoun(), (7, 14))
    task = base.TaskRuns(pronoun.groups, base.colours(pronoun), None, base.Traces(pronoun))
    assert "Without a memory the accuracy is 25.0 % (12.5 % for a constant answer)." in scores.about(task)
    table = scores.table(task).table
    assert table is not None
    assert "chance" not in [column.title for column in table.columns]
    assert "Without a memory: 25.0" in latex.scores(pronoun.groups)
    assert report.numbers(pronoun, None, None)["groups"][0]["chance"] == 0.25


def test_earlier_runs_say_chance_where_they_were_trained(tmp_path: Path) -> None:
    """Elsewhere it is unknown, unless it is the same wherever it is known."""
    chance, *_ = levels(gathered(tmp_path / "a", Adding(), old=True).runs, [4, 8, 16, 20])
    assert list(chance.scores) == [4, 8, 20]
    chance, *_ = levels(gathered(tmp_path / "b", Pronoun(), (7, 14), old=True).runs, [7, 28])
    assert chance.scores == {7: 0.25, 28: 0.25}
    one, two = (RunDirectory(path) for path in sorted((tmp_path / "a").iterdir())[:2])
    assert not read(one).scale_at(999).beats_chance(read(one).scale.chance or 0.0, 1000)
    assert read(two).scales.keys() == {read(two).seq_len}


def test_runs_with_and_without_the_levels_of_each_length_are_the_same(tmp_path: Path) -> None:
    paths = [a_run(tmp_path / str(old), Adding(), 8, (4, 8), old=old) for old in (True, False)]
    for path in paths:
        (path / "metrics.jsonl").write_text("")
    assert compare(*map(RunDirectory, paths)).same


def test_show_compares_each_length_with_its_own_chance(tmp_path: Path) -> None:
    """The last row of a digit alone is right more often than the 30 % of this run; a blank tells nothing."""
    run = read(RunDirectory(a_run(tmp_path / "a", Digits("row"), 20, (8, 20))))
    assert [run.scale_at(at).beats_chance(run.by_length[at], 1000) for at in (8, 20)] == [False, True]
    file = io.StringIO()
    console = Console(file=file, width=120)
    for line in pages.page(run, console):
        console.print(line)
    bars = dict(re.findall(r"^(?:by length)? +(8|20)  30\.0 %  (.*)$", file.getvalue(), re.MULTILINE))
    assert bars["8"].index("│") / bars["20"].index("│") == pytest.approx(0.536 / 0.1, rel=0.15)


def test_tensorboard_says_chance_at_the_runs_length_and_at_both_ends() -> None:
    own = describe("eval/score", Adding(), seq_len=20)
    assert "Without a memory: 0.1583; constant: 0.1667; with one number: 0.075." in own
    lengths = describe("eval/score_by_length", Adding(), seq_len=20)
    assert "Without a memory: 0.125 at 4 timesteps, 0.1667 in long sequences; constant: 0.1667; " in lengths
    assert "with one number: 0.04167 at 4 timesteps, 0.08333 in long sequences." in lengths
    assert "Without a memory: 25.0 %; constant: 12.5 %; with one name: 62.5 %." in describe(
        "eval/score_by_length", Pronoun()
    )


def test_axes_without_lengths_have_a_line_for_each() -> None:
    apart = by_length([Level("chance", {4: 0.125, 8: 0.1458}), Level("constant", {4: 0.2, 8: 0.2})])
    assert as_dict(apart) == {"chance at 4": {4: 0.125}, "chance at 8": {8: 0.1458}, "constant": {4: 0.2, 8: 0.2}}


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0, 0], [-5, 5]),
        ([50, 0], [50, 0]),
        ([3, 0, 30], [6.5, -3.5, 30]),
        ([0, 1, 2], [-9, 1, 11]),
        ([], []),
    ],
)
def test_names_move_apart_as_little_as_possible(places: list[float], expected: list[float]) -> None:
    assert axes.apart([float(place) for place in places], 10.0) == pytest.approx(expected)


def test_names_of_close_levels_do_not_overlap(adding: Collection) -> None:
    """At length 20 chance is 0.158 and a constant answer 0.167."""
    group = [(0, adding.groups[0])]
    for figure in (score.draw(score.collect(group, None)), strips.draw(strips.collect(group, 20, None))):
        figure.draw_without_rendering()
        (panel,) = figure.axes
        names = ("chance", "constant", "one number")
        boxes = [text.get_window_extent() for text in panel.texts if text.get_text() in names]
        assert len(boxes) == 3
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_a_result_holds_the_levels_of_every_length() -> None:
    row = json.loads(json.dumps(with_levels(Adding(), Evaluation(8, 0.1, 0.1, 100))))
    assert (row["chance"], row["constant"]) == (pytest.approx(CHANCE[8]), pytest.approx(1 / 6))
    assert row["plateaus"] == [{"score": pytest.approx(ONE[8]), "loss": pytest.approx(ONE[8]), "memory": "one number"}]
