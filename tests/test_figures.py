"""The report's figures: what each computes is what the runs say, and drawing is reproducible."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import nan
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from made_up import collection, run, sweep
from seqmem.report.collect import Collection
from seqmem.report.figures import (
    axes,
    base,
    generalisation,
    maps,
    output,
    profiles,
    score,
    steps,
    strips,
    style,
    summary,
)


def task_runs(collection: Collection) -> base.TaskRuns:
    return base.TaskRuns(collection.groups, base.colours(collection), None, base.Traces(collection))


def test_the_curve_is_the_median_and_the_range_of_three_seeds() -> None:
    lstm, rnn = sweep().groups
    curves = score.collect([(0, lstm), (1, rnn)], None)
    assert [(p.x, p.median, p.low, p.high, p.solved, p.of) for p in curves.lines[1].points] == [
        (10, 0.995, 0.6, 1.0, 2, 3),
        (20, 0.26, 0.25, 0.3, 0, 3),
    ]
    assert curves.lines[1].seeds == {
        0: [(10, 1.0), (20, 0.25)],
        1: [(10, 0.995), (20, 0.3)],
        2: [(10, 0.6), (20, 0.26)],
    }
    tested = generalisation.collect(rnn, None)
    assert [(line.trained, [p.x for p in line.points]) for line in tested.lines] == [(10, [10, 20]), (20, [20, 40])]


def test_steps_count_the_unsolved_at_the_budget() -> None:
    first = {10: (100, 200, None), 20: (300, None, None)}
    runs = [
        run("rnn", length, seed, 1.0 if steps else 0.5, steps_to_solve=steps)
        for length, some in first.items()
        for seed, steps in enumerate(some)
    ]
    (line,) = steps.collect([(0, Collection([], runs).groups[0])]).lines
    assert line.points == [
        (10, 100, True),
        (10, 200, True),
        (10, 400, False),
        (20, 300, True),
        (20, 400, False),
        (20, 400, False),
    ]
    assert line.median == [(10, 200.0)]  # at 20 the median seed never solved it


def test_runs_that_diverged_are_drawn_at_the_edge_and_counted() -> None:
    scores = {10: (1.0, nan, 0.99), 20: (nan, nan, nan)}
    tested = {10: 1.0, 40: 0.5}
    runs = [run("rnn", at, seed, one, by_length=tested) for at, some in scores.items() for seed, one in enumerate(some)]
    task = task_runs(Collection([], runs))
    (line,) = score.collect([(0, task.groups[0])], None).lines
    assert [(p.solved, p.of, p.diverged) for p in line.points] == [(2, 3, 1), (0, 3, 3)]
    (tried,) = generalisation.collect(task.groups[0], None).lines
    assert [(p.x, p.solved, p.of, p.diverged) for p in tried.points] == [(10, 3 - 1, 3, 1), (40, 0, 3, 1)]
    row, none = (strips.collect([(0, task.groups[0])], at, None).rows[0] for at in (10, 20))
    assert (row.values, row.solved, row.of, row.diverged) == ([1.0, 0.99], 2, 3, 1)
    assert (none.values, none.of, none.diverged) == ([], 3, 3)
    for kind in (score, generalisation):
        (plot,) = kind.plots(task)
        assert f"edge: {4 if kind is score else 1} that diverged, worse than any score" in plot.caption
        axes_drawn = plot.draw().axes[0]
        assert sum(drawn.get_marker() == "x" for drawn in axes_drawn.lines) > 0
    strip = strips.Strip(strips.measure([task.groups[0]], None, [10]), 10, [row, none])
    assert (
        sum(np.size(drawn.get_xdata()) for drawn in strips.draw(strip).axes[0].lines if drawn.get_marker() == "x") == 4
    )


def test_profiles_fall_as_the_traces_do(tmp_path: Path) -> None:
    collection = sweep(tmp_path)
    lstm = profiles.collect(base.Traces(collection), collection.groups[0], [10, 20])
    assert lstm is not None
    assert (lstm.read, lstm.of) == (6, 6)
    assert [stage.title for stage in lstm.stages] == ["before training", "halfway", "after training"]
    for stage, rate in zip(lstm.stages, (1, 3, 5), strict=True):
        for line in stage.lines:
            expected = -np.log10(2) * rate * np.arange(line.trained - 1) / 2  # whatever the seed's scale
            assert len(line.seeds) == 3
            np.testing.assert_allclose(line.median, expected, atol=1e-12)
    low, high = profiles.reach([lstm])
    assert low == pytest.approx(max(-12, -np.log10(2) * 5 * 9) - 0.3)
    assert high == pytest.approx(0.3)


def test_one_figure_has_gradient_and_both_scores_side_by_side(tmp_path: Path) -> None:
    task = task_runs(sweep(tmp_path))
    (plot,) = summary.plots(task)
    assert (plot.name, plot.wide) == ("summary", True)
    gradient, trained, tested = plot.draw().axes
    expected = -np.log10(2) * 5 * np.arange(19) / 2  # of every seed, so of the median
    thick = [line for line in gradient.lines if line.get_linewidth() == 2]
    for line in thick:
        np.testing.assert_allclose(np.asarray(line.get_ydata()), expected, atol=1e-12)
    assert len(thick) == 2
    medians = {"lstm": ([1.0, 0.999], [0.999, 0.5]), "rnn": ([0.995, 0.26], [0.26, 0.5])}
    for axes_drawn, place, xs in ((trained, 0, [10, 20]), (tested, 1, [20, 40])):
        thick = [line for line in axes_drawn.lines if line.get_linewidth() == 2.2]
        assert [np.asarray(line.get_xdata()).tolist() for line in thick] == [xs] * 2
        assert [np.asarray(line.get_ydata()).tolist() for line in thick] == [both[place] for both in medians.values()]
    assert "trained at 20" in gradient.get_title()
    bare = run("rnn", 10, 0, 0.3)
    assert list(summary.plots(task_runs(Collection([], [bare])))) == []  # it would be one panel


@pytest.mark.parametrize(
    ("scores", "length"),
    [
        ({"lstm": {10: [1.0], 20: [1.0], 40: [0.3]}, "rnn": {10: [1.0], 20: [0.3], 40: [0.3]}}, 20),
        ({"lstm": {10: [1.0], 20: [1.0]}, "rnn": {10: [0.2]}}, 10),
        ({"lstm": {10: [0.3], 20: [0.3]}}, 20),
    ],
)
def test_the_figure_of_a_task_is_of_the_longest_length_that_one_cell_solves(
    scores: dict[str, dict[int, list[float]]], length: int
) -> None:
    assert summary.telling_length(collection(scores).groups, None) == length


def test_the_shape_of_every_seeds_gradient_in_words() -> None:
    runs = [run("lstm", 50, seed, 1.0, half_life=8.0 if seed == 1 else 20.0) for seed in range(3)]
    assert profiles.shapes_in_words(runs) == (
        " After training, at 50 timesteps: half-life 20 timesteps (seeds 0 and 2); half-life 8 timesteps (seed 1)."
    )
    runs = [run("lstm", 50, seed, 1.0, half_life=2.0 + seed) for seed in range(9)]
    assert profiles.shapes_in_words(runs).endswith("; half-life 7 timesteps (seed 5); and 3 other shapes.")
    assert profiles.shapes_in_words([replace(runs[0], probes={"gradient": {"start": {}, "end": {}}})]) == ""
    assert profiles.shapes_in_words([]) == ""


def test_the_map_is_of_the_median_seed_in_reading_order(tmp_path: Path) -> None:
    collection = sweep(tmp_path)
    panels = maps.collect(base.Traces(collection), collection.groups[1], [10, 20])
    assert [(panel.trained, panel.seed, panel.steps) for panel in panels] == [
        (10, 1, [0, 100, 200, 300, 400]),
        (20, 2, [0, 100, 200, 300, 400]),
    ]
    np.testing.assert_allclose(panels[0].log10[2], -np.log10(2) * 3 * np.arange(9)[::-1] / 2, atol=1e-12)


def test_traces_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    collection = sweep(tmp_path)
    (tmp_path / "lstm-10-0" / "gradients.npz").write_bytes(b"PK\x03\x04 cut")
    traces = base.Traces(collection)
    lstm = profiles.collect(traces, collection.groups[0], [10])
    assert lstm is not None
    assert (lstm.read, lstm.of) == (2, 3)
    assert [path for path, _ in traces.unread] == [str(tmp_path / "lstm-10-0")]


def test_ticks_stand_apart_and_keep_the_ends() -> None:
    lengths = [10, 11, 12, 20, 40, 80, 95, 100]
    ticks = axes.spread(lengths, 0.15)
    assert ticks in ([10, 20, 40, 100], [10, 20, 40, 80, 100])
    assert axes.spread([7], 0.1) == [7]


def test_colours_are_the_labels_own_in_every_task() -> None:
    runs = [run("lstm", 10, 0, 1.0), run("rnn", 10, 0, 1.0), run("rnn", 10, 0, 1.0, task="copy")]
    collection = Collection([], runs)
    assert base.colours(collection) == {"lstm": 0, "rnn": 1}
    chunks = task_runs(collection).coloured(collection.groups, 2)
    assert [[number for number, _ in chunk] for chunk in chunks] == [[0, 1], [1]]


def test_the_same_numbers_make_the_same_bytes() -> None:
    plot = next(score.plots(task_runs(sweep())))
    drawn = output.render(plot.draw, pdf=True)
    assert drawn == output.render(plot.draw, pdf=True)
    # A page as large as the figure, of lines and letters alone: no picture, and no fonts that journals refuse.
    assert drawn.pdf is not None
    height = 300 + 15 * 2
    assert f"/MediaBox [ 0 0 {style.WIDTH} {height} ]".encode() in drawn.pdf
    assert b"/Subtype /Image" not in drawn.pdf
    assert b"/Type3" not in drawn.pdf


def _line(height: int) -> Figure:
    figure = Figure(figsize=(1, 1))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.plot([0, height])
    axes.set_ylim(0, 6)
    return figure


def test_several_processes_draw_what_one_draws_in_order() -> None:
    draws = [partial(_line, height) for height in range(1, 6)]
    alone = output.render_all(draws)
    assert len({drawn.png for drawn in alone}) == 5
    assert output.render_all(draws, processes=2) == alone
    assert output.render_all([], processes=2) == []
    assert multiprocessing.active_children() == []


def _fails() -> Figure:
    raise ValueError("no such colour")


def _killed() -> Figure:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


ENDS: list[tuple[Callable[[], Figure], type[Exception], str]] = [(_fails, ValueError, "no such colour")]
if sys.platform == "linux":  # elsewhere there are no forks that could be killed
    ENDS.append((_killed, RuntimeError, "ended with -9"))


@pytest.mark.parametrize(("draw", "error", "words"), ENDS)
def test_an_error_and_the_end_of_a_drawing_process_are_told(
    draw: Callable[[], Figure], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):  # the second process has the second and the fourth
        output.render_all([partial(_line, 1), draw, partial(_line, 1), partial(_line, 1)], processes=2)
    assert multiprocessing.active_children() == []
