"""The report's page: its numbers are the runs' numbers, it needs nothing else, and no name breaks it."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from math import inf, nan
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from made_up import run, sweep
from seqmem.measurement import Description, Number
from seqmem.report import latex, page, tables
from seqmem.report.collect import Collection, LeftOut, Run, Unfinished
from seqmem.report.figures import base, in_drawing_order, output, style
from seqmem.report.sections import origin

VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


class Page(HTMLParser):
    """Checks that every element is closed in its place, and collects tables, ids, links and texts."""

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
    """A page that was written, its links, ids and figures checked, and its text."""
    path = page.write(collection, folder, threshold=threshold)
    assert path == folder / "index.html"
    text = path.read_text()
    parsed = Page(text)
    assert len(parsed.ids) == len(set(parsed.ids))
    for tag, link in parsed.links:
        if link.startswith("#"):
            assert link[1:] in parsed.ids, link
        elif tag == "image":
            assert link.startswith("data:image/png;base64,")
        else:
            assert tag == "a"
            assert (folder / link).is_file(), link
    assert not re.search(r"@import|url\((?!#)", text)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(parsed.ids)
    assert set(re.findall(r"https?://[^\s\"'<]*", text)) <= {"http://www.w3.org/2000/svg"}
    names = {link for _, link in parsed.links if link.startswith("figures/")}
    assert names == {f"figures/{file.name}" for file in (folder / "figures").iterdir()}
    for name in names:
        if name.endswith(".svg"):
            ET.parse(folder / name)
        elif name.endswith(".png"):
            assert (folder / name).read_bytes().startswith(b"\x89PNG\r\n")
    return parsed, text


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, str, Path]:
    """A page with every kind of figure, an unfinished run and a folder that was left out."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "runs").mkdir()
    made = sweep(folder / "runs")
    unfinished = Unfinished(Path("outputs/a"), "failed", 17, "the loss is <nan>")
    left_out = LeftOut(Path("outputs/b"), "half & half")
    (folder / "out").mkdir()
    (folder / "out" / "runs.csv").write_text("")
    collection = Collection(made.folders, made.runs, [unfinished], [left_out])
    return *written(collection, folder / "out"), folder / "out"


def test_the_headline_says_how_far_each_cell_remembers(whole: tuple[Page, str, Path]) -> None:
    rows = whole[0].tables[0]
    rows = [[cell.replace("\u00a0", " ") for cell in row] for row in rows]
    assert rows[0] == ["task", "cell", "memory span", "interval", "lengths tried", "seeds"]
    assert rows[1:] == [
        ["pronoun", "lstm", "≥ 20", "≥ 20 (75 %)", "10 (3/3: 29-100 %), 20 (3/3: 29-100 %)", "3"],
        ["pronoun", "rnn", "10", "< 20 (75 %)", "10 (2/3: 9-99 %), 20 (0/3: 0-71 %)", "3"],
    ]
    assert "On pronoun, in timesteps: lstm 20 or more; rnn 10, but not 20." in whole[0].text


@pytest.mark.parametrize(("value", "typed"), [(None, "null"), (False, "false"), (1e-3, "0.001"), ("chrono", "chrono")])
def test_a_setting_is_as_it_is_typed(value: object, typed: str) -> None:
    assert origin._setting(value) == typed


def test_the_table_has_the_scores_of_the_runs(whole: tuple[Page, str, Path]) -> None:
    rows = [[cell.replace("\u00a0", " ") for cell in row] for row in whole[0].tables[1]]
    assert rows[0][1:4] == ["length", "parameters", "seeds"]
    assert rows[3][:8] == ["rnn", "10", "10", "3", "99.5 %", "[60.0, 100.0] (75 %)", "2/3", "110"]
    assert rows[3][8:] == ["10 % (10 %)", "2.0 (2.0)", "∞ (∞)"]
    assert rows[4][4:8] == ["26.0 %", "[25.0, 30.0] (75 %)", "0/3", "> 400"]


def test_the_page_names_what_was_run_and_what_was_not_used(whole: tuple[Page, str, Path]) -> None:
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
    names = {file.stem for file in (whole[2] / "figures").glob("*.svg")}
    kinds = ["summary", "score-by-length", "steps-to-solve", "generalisation", "half-life-and-horizon"]
    kinds += [f"gradient-{cell}" for cell in ("lstm", "rnn")] + [f"gradient-over-training-{c}" for c in ("lstm", "rnn")]
    assert names == {f"pronoun-{kind}" for kind in [*kinds, "seeds-trained-at-length-20"]}
    assert len(names) == len(list(in_drawing_order())) + 2
    assert whole[0].svgs == len(list((whole[2] / "figures").glob("*.svg")))
    # Figures have the page's colours, and each of these is defined for light and for dark.
    used = set(re.findall(r"var\((--[a-z]\d)\)", whole[1]))
    assert {"--c0", "--c1", "--s0", "--s4"} <= used
    for name in used:
        assert len(re.findall(rf"{name}: #[0-9a-f]{{6}}", whole[1])) == 2, name


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn, but empty files are made of them: rendering one takes a tenth of a second."""

    def drawn(draw: Callable[[], Figure], *, pdf: bool) -> output.Drawn:
        with mpl.rc_context(style.MATPLOTLIB):
            assert draw().axes
        return output.Drawn(b'<svg xmlns="http://www.w3.org/2000/svg"/>', b"\x89PNG\r\n", b"%PDF" if pdf else None)

    monkeypatch.setattr(output, "render", drawn)


@pytest.mark.usefixtures("unrendered")
def test_numbers_of_any_probe_are_in_the_tables(tmp_path: Path) -> None:
    """Including a probe that is not installed: from the description stored in its runs."""
    recall = Number("recall", "How much comes back.", unit="bits", better="higher")
    echo = Description({"recall": recall, "trials": Number("trials", shown="stored")})
    measured = {"echo": {"start": {"recall": 0.125, "trials": 9.0}, "end": {"recall": 2.5, "trials": 9.0}}}
    probed, plain = run("lstm", 10, 0, 1.0), run("rnn", 10, 0, 1.0)
    probed = replace(probed, probes={**probed.probes, **measured}, descriptions={**probed.descriptions, "echo": echo})
    runs = Collection([], [probed, plain])
    parsed, _ = written(runs, tmp_path)
    assert [row[-1] for row in parsed.tables[1]] == ["recall", "2.5 (0.125)", "–"]
    assert [row[-2] for row in parsed.tables[1]] == ["horizon", "∞ (∞)", "∞ (∞)"]
    assert "Recall, a median in bits, is read off the echo after training (before it, in brackets)." in parsed.text
    assert "How much comes back." in parsed.text
    assert "trials" not in parsed.text
    rows, groups = (tables.tables(runs)[name].rows for name in ("runs", "groups"))
    assert [(row["recall_start"], row["recall_end"]) for row in rows] == [(0.125, 2.5), (None, None)]
    assert [(row["recall_end"], row["recall_end_low"]) for row in groups] == [(2.5, 2.5), (None, None)]


@pytest.mark.usefixtures("unrendered")
def test_a_later_report_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    first = Collection([], [run("gru", 10, 0, 0.5, by_length={10: 0.5, 20: 0.5})])
    page.write(first, tmp_path, pdf=True, beside=latex.write(first, tmp_path))
    files = [tmp_path / "figures" / f"pronoun-steps-to-solve.{ending}" for ending in ("png", "svg", "pdf")]
    files += [tmp_path / "tables" / "pronoun-scores.tex"]
    assert all(file.exists() for file in files)
    mine = [tmp_path / "figures" / "mine.svg", tmp_path / "tables" / "mine.tex"]
    for file in mine:
        file.write_text("")
    one = Collection([], [run("gru", 10, 0, 0.5, goal=None, metric="own", by_length={10: 0.5})])
    page.write(one, tmp_path)
    left = [file for folder in ("figures", "tables") for file in (tmp_path / folder).iterdir()]
    assert set(mine) < set(left)
    assert not any(name in str(file) for name in ("steps", "generalisation", ".pdf", "scores.tex") for file in left)


HOSTILE = (
    "<script>alert(1)</script>\"&'$x^2$ _\x00\x1b[31m\u202e\ud800 url(http://evil.example/x) {{7*7}} "
    'style="fill: #0072b2"'
)


def test_no_name_breaks_the_page(tmp_path: Path) -> None:
    runs = [run(cell, 10, seed, 0.5, task=HOSTILE) for cell in (HOSTILE, "_hidden", "$", "") for seed in (0, 1)]
    bad = [LeftOut(Path("a\n<b>"), "<img src=x onerror=alert(1)>")]
    path = page.write(Collection([], runs, [], bad), tmp_path)
    text = path.read_text()
    parsed = Page(text)
    assert "<img" not in text
    assert "49" not in parsed.text.split("How far")[1][:400]
    assert "{{7*7}}" in parsed.text
    assert "<script>alert(1)</script>" in parsed.text
    assert "_hidden" in re.sub(r"<(table|h1).*?</\1>", "", text, flags=re.DOTALL)  # in the legend too
    assert not re.search(r"[\x00-\x08\x1b\u202e]", text)
    for file in (tmp_path / "figures").glob("*.svg"):
        ET.parse(file)


@pytest.mark.parametrize(
    ("runs", "odd"),
    [
        ([], False),
        ([run("rnn", 10, 0, 0.3)], False),
        ([run("rnn", 10, 0, nan), run("rnn", 10, 1, nan), run("rnn", 20, 0, nan)], True),
        ([run("rnn", length, seed, 0.25) for length in (10, 20) for seed in (0, 1)], False),
        ([run("rnn", 10, 0, 2.5, metric="cross entropy", chance=None, goal=None, higher_is_better=False)], True),
        ([run("rnn", 10, 0, -0.5, metric="own", chance=None), run("rnn", 20, 0, inf, metric="own", chance=None)], True),
        ([run("rnn", 10, 0, 0.5, half_life=nan), run("rnn", 1000, 0, 0.5, half_life=inf)], True),
    ],
    ids=["none", "one", "diverged", "unsolved", "no rule", "any numbers", "no decay"],
)
def test_a_page_of_few_runs(runs: list[Run], odd: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """``odd``: with numbers in the figures that the page of many runs has not."""
    if not odd:
        request.getfixturevalue("unrendered")
    parsed, _ = written(Collection([], runs, [Unfinished(Path("a"), "running", 3, None)]), tmp_path)
    if not runs:
        assert "No run has finished" in parsed.text
        assert not parsed.svgs
    elif len(runs) == 4:
        assert parsed.tables[0][1][2] == "< 10"
        assert "rnn not even 10" in parsed.text
    else:
        assert "One seed proves nothing" in parsed.text or len(runs) == 3


@pytest.mark.usefixtures("unrendered")
def test_lower_is_better(tmp_path: Path) -> None:
    scores = {10: (0.001, 0.002, 0.2), 50: (0.16, 0.17, 0.18)}
    runs = [
        run("rnn", n, seed, score, metric="mean squared error", chance=0.167, goal=0.01, higher_is_better=False)
        for n, some in scores.items()
        for seed, score in enumerate(some)
    ]
    parsed, _ = written(Collection([], runs), tmp_path)
    assert parsed.tables[0][1][2] == "10"
    assert "at most 0.01" in parsed.text
    assert parsed.tables[1][1][4:7] == ["0.002", "[0.001, 0.2] (75\u00a0%)", "2/3"]


@pytest.mark.usefixtures("unrendered")
def test_a_threshold_replaces_the_rule(tmp_path: Path) -> None:
    assert written(sweep(), tmp_path, 0.999)[0].tables[0][2][2] == "< 10"


@pytest.mark.usefixtures("unrendered")
def test_traces_and_figures_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MOST_TRACES", 5)
    monkeypatch.setattr(page, "MOST_FIGURES", 2)
    read: list[Any] = []
    monkeypatch.setattr(Run, "profiles", lambda self, *, ends=False: read.append(self.path))  # noqa: ARG005
    parsed, _ = written(sweep(), tmp_path)
    assert len(read) <= 5
    assert parsed.svgs == 2
    assert "Beyond 2 on a page" in parsed.text


@pytest.mark.usefixtures("unrendered")
def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "write_atomically", full)
    with pytest.raises(page.RunError, match=r"cannot write the report to .*: No space left on device"):
        page.write(sweep(), tmp_path)
