"""The report's page: its numbers are the runs' numbers, it needs nothing else, and no name breaks it."""

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from math import inf, nan
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from seqmem.report import page, series
from seqmem.report.collect import Collection, LeftOut, Run, Unfinished
from seqmem.report.figures import draw as figures

VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


def run(
    cell: str,
    seq_len: int,
    seed: int,
    score: float,
    *,
    path: Path = Path("nowhere"),
    task: str = "pronoun",
    metric: str = "accuracy",
    chance: float | None = 0.25,
    goal: float | None = 0.99,
    higher_is_better: bool = True,
    steps_to_solve: int | None = None,
    by_length: Mapping[int, float] | None = None,
    half_life: float = 2.0,
) -> Run:
    config = {
        "cell": {"name": cell},
        "task": {"name": task},
        "seq_len": seq_len,
        "seed": seed,
        "optimizer": {"lr": 0.003},
    }
    return Run(
        path=path, task=task, task_name=task, cell=cell, variant="", label=cell, seq_len=seq_len, seed=seed, steps=400,
        score=score, loss=1.0, chance=chance, metric=metric, higher_is_better=higher_is_better, solved_at=goal,
        solved=False, steps_to_solve=steps_to_solve, by_length=dict(by_length or {seq_len: score}),
        decays={when: {"state": {"half_life": half_life, "horizon": inf}} for when in ("start", "end")}, config=config,
        environment={"command": ["/opt/python", "/opt/bin/seqmem", "train", f"cell={cell}"], "torch": "2.13.0"},
        hidden_size=64, parameters=10, seconds=1.0,
    )  # fmt: skip


def sweep(tmp_path: Path | None = None) -> Collection:
    """lstm solves 10 and 20 with each of 3 seeds; rnn 10 alone. With a folder: traces that halve every 2 timesteps."""
    runs = []
    for cell, scores in (
        ("lstm", {10: (1.0, 1.0, 1.0), 20: (0.999, 1.0, 0.995)}),
        ("rnn", {10: (1.0, 0.995, 0.6), 20: (0.25, 0.3, 0.26)}),
    ):
        for length, some in scores.items():
            for seed, score in enumerate(some):
                path = tmp_path / f"{cell}-{length}-{seed}" if tmp_path is not None else Path("nowhere")
                if tmp_path is not None:
                    path.mkdir()
                    back = np.arange(length)[::-1, None] / 2
                    norms = np.stack([2.0 ** -(back * rate) for rate in (1, 2, 3, 4, 5)]) * (1 + seed)
                    np.savez(
                        path / "gradients.npz",
                        step=np.arange(5) * 100,
                        answered_at=[length - 1],
                        **{"norm/hidden": norms},  # pyright: ignore[reportArgumentType]
                    )
                tested = {length: score, 2 * length: 0.5}
                solved = 100 + 10 * seed if score >= 0.99 else None
                runs.append(run(cell, length, seed, score, path=path, by_length=tested, steps_to_solve=solved))
    return Collection([Path("outputs")], runs)


class Page(HTMLParser):
    """Checks that every element is closed where it should be, and keeps tables, ids, links and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.svgs = 0
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        if tag not in VOID:
            self.open.append(tag)
        self.svgs += tag == "svg"
        for name, value in attrs:
            assert not name.startswith("on")
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href", "action", "data", "srcset"):
                self.links.append((tag, value or ""))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)
        if self.open and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).replace("\u00a0", " ").split())


def written(collection: Collection, folder: Path, threshold: float | None = None) -> tuple[Page, str]:
    path = page.write(collection, folder, threshold=threshold)
    assert path == folder / "index.html"
    text = path.read_text()
    found = Page(text)
    assert len(found.ids) == len(set(found.ids))
    for tag, link in found.links:
        if link.startswith("#"):
            assert link[1:] in found.ids, link
        elif tag == "image":
            assert link.startswith("data:image/png;base64,")
        else:
            assert tag == "a"
            assert (folder / link).is_file(), link
    assert not re.search(r"@import|url\((?!#)", text)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(found.ids)
    assert set(re.findall(r"https?://[^\s\"'<]*", text)) <= {"http://www.w3.org/2000/svg"}
    names = {link for _, link in found.links if link.startswith("figures/")}
    assert names == {f"figures/{file.name}" for file in (folder / "figures").iterdir()}
    for name in names:
        if name.endswith(".svg"):
            ET.parse(folder / name)
        else:
            assert (folder / name).read_bytes().startswith(b"\x89PNG\r\n")
    return found, text


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, str, Path]:
    """A page with every kind of figure, and what was not used."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "runs").mkdir()
    found = sweep(folder / "runs")
    bad = Unfinished(Path("outputs/a"), "failed", 17, "the loss is <nan>"), LeftOut(Path("outputs/b"), "half & half")
    (folder / "out").mkdir()
    (folder / "out" / "runs.csv").write_text("")
    collection = Collection(found.folders, found.runs, [bad[0]], [bad[1]])
    return *written(collection, folder / "out"), folder / "out"


def test_the_headline_says_how_far_each_cell_remembers(whole: tuple[Page, str, Path]) -> None:
    rows = whole[0].tables[0]
    assert rows[0] == ["task", "cell", "memory span", "lengths tried", "seeds"]
    assert rows[1:] == [
        ["pronoun", "lstm", "≥ 20", "10 (3/3), 20 (3/3)", "3"],
        ["pronoun", "rnn", "10", "10 (2/3), 20 (0/3)", "3"],
    ]
    assert "On pronoun, in timesteps: lstm 20 or more; rnn 10, but not 20." in whole[0].text


def test_the_table_has_the_scores_of_the_runs(whole: tuple[Page, str, Path]) -> None:
    rows = [[cell.replace("\u00a0", " ") for cell in row] for row in whole[0].tables[1]]
    assert rows[3] == ["rnn", "10", "3", "99.5 %", "[60.0 %, 100.0 %]", "2/3", "110", "2.0 (2.0)", "∞ (∞)"]
    assert rows[4][3:7] == ["26.0 %", "[25.0 %, 30.0 %]", "0/3", "> 400"]


def test_what_was_run_and_what_was_not_used_is_said(whole: tuple[Page, str, Path]) -> None:
    text = whole[0].text
    assert "12 finished runs · 1 task · 2 cells · lengths 10 to 20 · 3 seeds each · 1 unfinished · 1 left out" in text
    assert "the loss is <nan>" in text
    assert "half & half" in text
    assert "seqmem train cell=lstm" in text
    assert "/opt" not in text
    assert "2.13.0 (12)" in text
    assert "lstm (6), rnn (6)" in text
    assert "Too few seeds to compare lstm and rnn (3 common seeds)" in text
    assert ("a", "runs.csv") in whole[0].links


def test_every_kind_of_figure_is_drawn(whole: tuple[Page, str, Path]) -> None:
    kinds = {re.sub(r"task1-|-\d+\.svg", "", file.name) for file in (whole[2] / "figures").glob("*.svg")}
    assert kinds == {"score", "steps", "generalisation", "profile", "decay", "map", "strip"}
    assert whole[0].svgs == len(list((whole[2] / "figures").glob("*.svg")))
    # Its colours are the page's, and every one that it uses is there in light and dark.
    used = set(re.findall(r"var\((--[a-z]\d)\)", whole[1]))
    assert {"--c0", "--c1", "--s0", "--s4"} <= used
    for name in used:
        assert len(re.findall(rf"{name}: #[0-9a-f]{{6}}", whole[1])) == 2, name


def test_a_later_report_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    page.write(Collection([], [run("gru", 10, 0, 0.5, by_length={10: 0.5, 20: 0.5})]), tmp_path)
    assert (tmp_path / "figures" / "task1-steps-1.png").exists()
    (tmp_path / "figures" / "mine.svg").write_text("<svg/>")
    one = Collection([], [run("gru", 10, 0, 0.5, goal=None, by_length={10: 0.5})])
    page.write(one, tmp_path)
    left = {file.name for file in (tmp_path / "figures").iterdir()}
    assert "mine.svg" in left
    assert not any("steps" in name or "generalisation" in name for name in left)


def test_the_same_numbers_make_the_same_bytes() -> None:
    data = series.by_length([(0, sweep().groups[0])], None)
    first, second = figures.score(data), figures.score(data)
    assert first == second


HOSTILE = (
    "<script>alert(1)</script>\"&'$x^2$ _\x00\x1b[31m\u202e\ud800 url(http://evil.example/x) {{7*7}} "
    'style="fill: #0072b2"'
)


def test_no_name_breaks_the_page(tmp_path: Path) -> None:
    runs = [run(cell, 10, seed, 0.5, task=HOSTILE) for cell in (HOSTILE, "_hidden", "$", "") for seed in (0, 1)]
    bad = [LeftOut(Path("a\n<b>"), "<img src=x onerror=alert(1)>")]
    path = page.write(Collection([], runs, [], bad), tmp_path)
    text = path.read_text()
    found = Page(text)
    assert "<img" not in text
    assert "49" not in found.text.split("How far")[1][:400]
    assert "{{7*7}}" in found.text
    assert "<script>alert(1)</script>" in found.text
    assert "_hidden" in re.sub(r"<(table|h1).*?</\1>", "", text, flags=re.DOTALL)  # in the legend too
    assert not re.search(r"[\x00-\x08\x1b\u202e]", text)
    for file in (tmp_path / "figures").glob("*.svg"):
        ET.parse(file)


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [run("rnn", 10, 0, 0.3)],
        [run("rnn", 10, 0, nan), run("rnn", 10, 1, nan), run("rnn", 20, 0, nan)],
        [run("rnn", length, seed, 0.25) for length in (10, 20) for seed in (0, 1)],
        [run("rnn", 10, 0, 2.5, metric="cross entropy", chance=None, goal=None, higher_is_better=False)],
        [run("rnn", 10, 0, -0.5, metric="own", chance=None), run("rnn", 20, 0, inf, metric="own", chance=None)],
        [run("rnn", 10, 0, 0.5, half_life=nan), run("rnn", 1000, 0, 0.5, half_life=inf)],
    ],
    ids=["none", "one", "diverged", "unsolved", "no rule", "any numbers", "no decay"],
)
def test_a_page_of_little(runs: list[Run], tmp_path: Path) -> None:
    found, _ = written(Collection([], runs, [Unfinished(Path("a"), "running", 3, None)]), tmp_path)
    if not runs:
        assert "No run has finished" in found.text
        assert not found.svgs
    elif len(runs) == 4:
        assert found.tables[0][1][2] == "< 10"
        assert "rnn not even 10" in found.text
    else:
        assert "One seed proves nothing" in found.text or len(runs) == 3


def test_lower_is_better(tmp_path: Path) -> None:
    scores = {10: (0.001, 0.002, 0.2), 50: (0.16, 0.17, 0.18)}
    runs = [
        run("rnn", n, seed, score, metric="mean squared error", chance=0.167, goal=0.01, higher_is_better=False)
        for n, some in scores.items()
        for seed, score in enumerate(some)
    ]
    found, _ = written(Collection([], runs), tmp_path)
    assert found.tables[0][1][2:4] == ["10", "10 (2/3), 50 (0/3)"]
    assert "at most 0.01" in found.text
    assert found.tables[1][1][3:6] == ["0.002", "[0.001, 0.2]", "2/3"]


def test_a_threshold_counts_anew(tmp_path: Path) -> None:
    assert written(sweep(), tmp_path, 0.999)[0].tables[0][2][2:4] == ["< 10", "10 (1/3), 20 (0/3)"]


def test_the_curve_is_the_median_and_the_range_of_three_seeds() -> None:
    lstm, rnn = sweep().groups
    curves = series.by_length([(0, lstm), (1, rnn)], None)
    assert [(p.x, p.median, p.low, p.high, p.solved, p.of) for p in curves.lines[1].points] == [
        (10, 0.995, 0.6, 1.0, 2, 3),
        (20, 0.26, 0.25, 0.3, 0, 3),
    ]
    assert curves.lines[1].seeds == {
        0: [(10, 1.0), (20, 0.25)],
        1: [(10, 0.995), (20, 0.3)],
        2: [(10, 0.6), (20, 0.26)],
    }
    tested = series.by_tested_length(rnn, None)
    assert [(line.trained, [p.x for p in line.points]) for line in tested.lines] == [(10, [10, 20]), (20, [20, 40])]


def test_steps_count_the_unsolved_at_the_budget() -> None:
    runs = [run("rnn", 10, seed, 1.0, steps_to_solve=steps) for seed, steps in enumerate((100, 200, None))]
    runs += [run("rnn", 20, seed, 1.0, steps_to_solve=steps) for seed, steps in enumerate((300, None, None))]
    (line,) = series.to_solve([(0, Collection([], runs).groups[0])]).lines
    assert line.points == [
        (10, 100, True),
        (10, 200, True),
        (10, 400, False),
        (20, 300, True),
        (20, 400, False),
        (20, 400, False),
    ]
    assert line.median == [(10, 200.0)]  # at 20 the median seed never solved it


def test_profiles_fall_as_the_traces_do(tmp_path: Path) -> None:
    collection = sweep(tmp_path)
    found = series.Gradients(collection).profiles(collection.groups[0], [10, 20])
    assert found is not None
    assert (found.read, found.of) == (6, 6)
    assert [stage.title for stage in found.stages] == ["before training", "halfway", "after training"]
    for stage, rate in zip(found.stages, (1, 3, 5), strict=True):
        for line in stage.lines:
            expected = -np.log10(2) * rate * np.arange(line.trained) / 2  # whatever the seed's scale
            assert len(line.seeds) == 3
            np.testing.assert_allclose(line.median, expected, atol=1e-12)
    low, high = series.reach([found])
    assert low == pytest.approx(max(-12, -np.log10(2) * 5 * 9.5) - 0.3)
    assert high == pytest.approx(0.3)


def test_the_map_is_of_the_median_seed_in_reading_order(tmp_path: Path) -> None:
    collection = sweep(tmp_path)
    found = series.Gradients(collection).maps(collection.groups[1], [10, 20])
    assert found is not None
    assert [(panel.trained, panel.seed, panel.steps) for panel in found.panels] == [
        (10, 1, [0, 100, 200, 300, 400]),
        (20, 2, [0, 100, 200, 300, 400]),
    ]
    np.testing.assert_allclose(found.panels[0].log10[2], -np.log10(2) * 3 * np.arange(10)[::-1] / 2, atol=1e-12)


def test_traces_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    collection = sweep(tmp_path)
    (tmp_path / "lstm-10-0" / "gradients.npz").write_bytes(b"PK\x03\x04 cut")
    traces = series.Gradients(collection)
    found = traces.profiles(collection.groups[0], [10])
    assert found is not None
    assert (found.read, found.of) == (2, 3)
    assert [path for path, _ in traces.unread] == [str(tmp_path / "lstm-10-0")]


def test_reading_and_drawing_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "MOST_TRACES", 5)
    monkeypatch.setattr(page, "MOST_FIGURES", 2)
    read: list[Any] = []
    monkeypatch.setattr(Run, "profiles", lambda self, *, ends=False: read.append(self.path))  # noqa: ARG005
    found, _ = written(sweep(), tmp_path)
    assert len(read) <= 5
    assert found.svgs == 2
    assert "Beyond 2 on a page" in found.text


def test_ticks_stand_apart_and_keep_the_ends() -> None:
    lengths = [10, 11, 12, 20, 40, 80, 95, 100]
    kept = figures.spread(lengths, 0.15)
    assert kept == [10, 20, 40, 100] or kept == [10, 20, 40, 80, 100]
    assert figures.spread([7], 0.1) == [7]


def test_colours_are_the_labels_own_in_every_task() -> None:
    runs = [run("lstm", 10, 0, 1.0), run("rnn", 10, 0, 1.0), run("rnn", 10, 0, 1.0, task="copy")]
    collection = Collection([], runs)
    numbers = series.colours(collection)
    assert numbers == {"lstm": 0, "rnn": 1}
    assert [at for some in series.chunks(collection.groups, numbers, 2) for at, _ in some] == [0, 1, 1]


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "write_atomically", full)
    with pytest.raises(page.RunError, match=r"cannot write the report to .*: No space left on device"):
        page.write(sweep(), tmp_path)
