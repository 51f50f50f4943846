"""``seqmem report``: its tables, and its summary in the terminal."""

import csv
import json
import re
import sys
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from made_up import directories, ended_process, run_directory, write_status
from seqmem.cli.main import main
from seqmem.cli.verbs import report as reporting
from seqmem.metrics import ACCURACY, SQUARED_ERROR
from seqmem.report import page, statistics, tables
from seqmem.report.collect import Collection, collect
from seqmem.runs.directory import RunDirectory
from seqmem.runs.files import plain_json

# Tables


def test_tables_hold_every_run(tmp_path: Path) -> None:
    runs = directories(tmp_path / "runs", {"lstm": {10: [1.0, 0.5, nan], 20: [0.3]}, '=x,"y': {10: [1.0]}})
    collection = collect([runs])
    paths = tables.write(collection, tmp_path / "out", threshold=0.4)
    assert {path.name for path in paths} == {f"{name}.{end}" for name in tables.NAMES for end in ("csv", "parquet")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in paths}
    table = pl.read_parquet(tmp_path / "out" / "runs.parquet")
    assert table.height == 5
    for row, run in zip(table.to_dicts(), collection.runs, strict=True):
        assert (row["label"], row["seq_len"], row["seed"], row["path"]) == (
            run.label,
            run.seq_len,
            run.seed,
            str(run.path),
        )
        assert row["score"] == run.score or (isnan(row["score"]) and isnan(run.score))
        assert row["solved"] == (run.score >= 0.4)
        assert (row["half_life_start"], row["horizon_end"], row["solved_at"]) == (5.0, inf, 0.4)
    with (tmp_path / "out" / "groups.csv").open(newline="") as file:
        rows = {(row["label"], row["seq_len"]): row for row in csv.DictReader(file)}
    assert rows.keys() == {("lstm", "10"), ("lstm", "20"), ("'=x,\"y", "10")}
    row = rows["lstm", "10"]
    assert (row["parameters"], row["seeds"], row["score"], row["solved"], row["memory_span"]) == (
        "100",
        "3",
        "0.5",
        "2",
        ">= 10",
    )
    assert (float(row["score_low"]), row["score_max"], row["steps_to_solve"]) == (-inf, "1.0", "1000.0")
    assert (row["diverged"], row["score_level"], row["memory_span_level"]) == ("1", "0.75", "0.75")
    assert pl.read_parquet(tmp_path / "out" / "tested.parquet").height == 5
    assert all(not table.rows for table in tables.tables(Collection([], [])).values())


def test_csv_has_what_parquet_has(tmp_path: Path) -> None:
    """As polars reads it: every number bit for bit, infinite and missing ones, and text with line breaks and commas."""
    runs = directories(tmp_path / "runs", {"lstm": {10: [1.0, 1 / 3, nan], 20: [1e-9]}, 'x, "y"\nz': {10: [1.0]}})
    for table in tables.tables(collect([runs])).values():
        with (tmp_path / "table.csv").open("wb") as file:
            table.write_csv(file)
        expected = table.frame()
        assert pl.read_csv(tmp_path / "table.csv", schema=expected.schema).equals(expected)


def test_without_polars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CSV alone, no Parquet of an earlier report beside it, and one line that says what installs it."""
    runs = directories(tmp_path / "runs", {"lstm": {10: [1.0]}})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "runs.parquet").write_bytes(b"of an earlier report")
    monkeypatch.setattr(tables, "has_parquet", lambda: False)
    monkeypatch.setitem(sys.modules, "polars", None)
    paths = tables.write(collect([runs]), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in paths}
    assert {path.suffix for path in paths} == {".csv"}
    lines = [str(line) for line in reporting.lines(collect([runs]), None, tmp_path / "page.html", 80)]
    assert re.fullmatch(r"tables are CSV; as Parquet, too, after \S+ -m pip install 'polars>=\S+'", lines[-1])


# The command line


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """``seqmem report ARGS`` in this process, without writing a page (test_report_page.py)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def write(collection: Collection, folder: Path, **options: Any) -> Path:
        asked.append(options)
        return folder / "index.html"

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(page, "write", write)

    def type_in(*args: str, width: int = 80, verb: tuple[str, ...] = ("report",)) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr("sys.argv", ["seqmem", *verb, *args])
        try:
            code = main()
        except SystemExit as stopped:
            code = int(str(stopped.code))
        output = capsys.readouterr()
        return code, output.out, output.err

    type_in.asked = asked  # pyright: ignore[reportFunctionMemberAccess]
    return type_in


def example(folder: Path) -> Path:
    directories(
        folder,
        {
            "rnn": {10: [1.0] * 7, 50: [0.25, 0.26, 0.24, 0.25, 0.25, 0.24, 0.26]},
            "lstm": {10: [1.0] * 7, 50: [1.0, 0.999, 1.0, 1.0, 1.0, 0.998, 1.0]},
        },
    )
    RunDirectory(run_directory(folder / "f", None, changes={"seed": 7})).set_status("interrupted", step=30)
    (folder / "half").mkdir()
    (folder / "half" / "config.json").write_text("{")
    return folder


@pytest.mark.parametrize("width", [80, 200])
def test_the_summary(typed: Any, tmp_path: Path, width: int) -> None:
    before = {path: path.read_bytes() for path in example(tmp_path / "outputs").rglob("*") if path.is_file()}
    code, out, err = typed(width=width)
    assert (code, err) == (1, "")  # a run beside the others cannot be read
    lines = out.splitlines()
    assert lines[0] == "runs: 28 finished, 1 unfinished, 1 left out"
    lstm = "  lstm    >= 50   >= 50 (98.4 %)         10: 7/7 (59-100 %), + 1 unfinished"
    rnn = "  rnn        10   >= 10, < 50 (98.4 %)   10: 7/7 (59-100 %)  50: 0/7 (0-41 %)"
    assert any(line.startswith(lstm) for line in lines)
    assert rnn in lines or rnn.partition("  50:")[0] in lines  # folded where it is narrow
    assert "      + 1 unfinished" in lines
    assert "pronoun  accuracy, chance 25.0 %, solved at least 99.0 %" in lines
    (row,) = (line for line in lines if " 25.0 % " in line and line.startswith("   "))
    # The least and the most.
    cells = f"50{' 100' if width == 200 else ''} 25.0 % 24.0-26.0 (98.4 %) 0/7 > 1000 10 % to 10 % < 50"
    assert row.split() == cells.split()[: len(row.split())]  # a narrow terminal leaves columns out
    (pair,) = (line for line in lines if line.startswith("lstm - rnn"))
    assert pair.split()[3:] == "50 +75.0 points [+73.9, +76.0] (98.4 %) 7-0-0 0.016".split()  # likewise
    assert f"{Path('outputs/half')}: config.json cannot be read" in out
    assert lines[-1] == "report  outputs/report/index.html"
    assert max(len(line) for line in lines if "cannot be read" not in line) <= width
    after = {
        path: path.read_bytes()
        for path in (tmp_path / "outputs").rglob("*")
        if "report" not in path.parts and path.is_file()
    }
    assert after == before
    assert typed()[:2] == (code, typed()[1])  # over its own report, which is no run


def test_files_for_a_paper_are_asked_for(typed: Any, tmp_path: Path) -> None:
    runs = directories(tmp_path / "outputs", {"rnn": {10: [1.0]}})
    for formats, pdf, tex in (([], False, False), (["pdf,tex"], True, True), (["tex"], False, True)):
        code, _, err = typed(*(word for name in formats for word in ("--format", name)))
        assert (code, err) == (0, "")
        asked = typed.asked[-1]
        assert (asked["pdf"], bool(asked["beside"])) == (pdf, tex)
        assert all((runs / "report" / name).is_file() for name in asked["beside"])
    assert typed("--format", "eps")[::2] == (
        2,
        "seqmem report: --format eps: must be among pdf, tex, tensorboard; the others are always written\n",
    )


def test_the_summary_for_programs(typed: Any, tmp_path: Path) -> None:
    code, out, _ = typed(str(example(tmp_path / "runs")), "--json", "--threshold", "0.2")
    summary = json.loads(out)
    assert code == 1  # a run beside the others cannot be read
    assert [group["memory_span_text"] for group in summary["groups"]] == [">= 50", ">= 50"]
    assert summary["groups"][1]["lengths"][1]["score"]["median"] == 0.25
    (pair,) = summary["comparisons"]
    assert (pair["wins"], pair["seq_len"]) == (7, 50)
    assert summary["groups"][0]["lengths"][0]["unfinished"] == [7]
    assert summary["groups"][0]["memory_span_interval"] == {"low": 50, "high": None, "level": 1 - 2 / 2**7}
    assert summary == plain_json(summary)


DIVERGED = ("Diverged: the loss became nan at step 25", "_LinAlgError: the input is singular")


def test_diverged_runs_count_everywhere(typed: Any, tmp_path: Path) -> None:
    """Two of eight solve it, five diverge, and one does neither; others are not there yet, or have not begun."""
    folder = directories(tmp_path / "runs", {"rnn": {7: [1.0, 1.0, 0.671]}}, by_length={7: 1.0, 14: 0.9})
    states = [*[("failed", DIVERGED[0])] * 4, ("failed", DIVERGED[1]), ("failed", "OSError: no luck"), ("killed", None)]
    for seed, (state, error) in enumerate(states, 3):
        path = run_directory(folder / f"{seed}", None, changes={"cell.name": "rnn", "seq_len": 7, "seed": seed})
        pid = ended_process() if state == "killed" else 0
        write_status(path, "running" if state == "killed" else "failed", error=error, pid=pid)
    _, out, _ = typed(str(folder))
    lines = out.splitlines()
    assert lines[0] == "runs: 3 finished, 5 diverged, 2 unfinished"
    at = lines.index("  rnn      < 7   any length (99.2 %)   7: 2/8 (3-65 %), 5 diverged,")
    assert lines[at + 1].split() == ["+", "2", "unfinished"]
    (row,) = (line for line in lines if line.startswith("rnn       7"))
    assert row.split()[:6] == ["rnn", "7", "diverged", "diverged-100.0", "(99.2", "%)"]
    assert "2/8" in row
    assert "     5 diverged, + 2 unfinished" in lines
    assert DIVERGED[1] in out
    (group,) = json.loads(typed(str(folder), "--json")[1])["groups"]
    (length,) = group["lengths"]
    assert (length["solved"], length["score"]["n"], length["reaches"]) == (2, 8, "< 7")
    assert (length["diverged"], length["unfinished"]) == ([3, 4, 5, 6, 7], [8, 9])
    made = {name: pl.read_csv(folder / "report" / f"{name}.csv").to_dicts() for name in tables.NAMES}
    assert [row["diverged"] for row in made["runs"]] == [False] * 3 + [True] * 5
    assert [row["solved"] for row in made["tested"] if row["tested_at"] == 14] == [False] * 8
    (row,) = made["groups"]
    assert [row[key] for key in ("seeds", "solved", "diverged", "unfinished")] == [8, 2, 5, 2]
    assert row["half_life_end_seeds"] == 3
    shown = status(typed, folder)
    assert "diverged" in shown.splitlines()[1]


def status(typed: Any, folder: Path) -> str:
    return typed(str(folder), verb=("sweep", "status"))[1]


def test_few_seeds_and_hard_names(typed: Any, tmp_path: Path) -> None:
    label = "[bold]a cell with a name that is much too long for any column[/]"
    folder = directories(tmp_path / "runs", {label: {10: [1.0, 0.2]}, "b": {10: [0.3, 0.3]}})
    code, out, _ = typed(str(folder), "--out", str(tmp_path / "there"))
    assert code == 0
    assert label in out  # as it is, on a line of its own
    assert "2 common seeds cannot show a difference at the 5 % level; it takes 6" in " ".join(out.split())
    assert (tmp_path / "there" / "runs.csv").exists()
    assert not (folder / "report").exists()


@pytest.mark.parametrize(
    ("args", "message", "code"),
    [
        (["nowhere"], "nowhere is not a folder", 2),
        (["empty"], "no runs below empty", 1),
        (["runs", "--threshold", "99"], "--threshold 99: must be an accuracy", 2),
        (["runs", "--threshold", "nan"], "--threshold nan: must be an accuracy", 2),
        (["runs", "--threshold", "x"], "invalid float value: 'x'", 2),
        (["runs", "--task", "adding"], "--task adding: no finished run of it; there are pronoun", 2),
        (["runs/lstm/len10-seed0"], "is a single run: say where the report goes with --out", 2),
        (["runs", "--out", "runs/lstm/len10-seed0"], "a run is there", 2),
        (["runs", "--out", "file"], "it is a file", 2),
        (["runs", "--out", "file/deeper"], "cannot write to file/deeper", 1),
        (["runs", "--wat"], "unrecognized arguments: --wat", 2),
    ],
)
def test_mistakes_are_one_line(typed: Any, tmp_path: Path, args: list[str], message: str, code: int) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    directories(tmp_path / "runs", {"lstm": {10: [1.0]}})
    exit_code, out, err = typed(*args)
    assert exit_code == code
    assert out == ""
    assert err.startswith("seqmem report: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_report_without_a_finished_run(typed: Any, tmp_path: Path) -> None:
    run_directory(tmp_path / "runs" / "a", None)
    code, out, _ = typed("runs")
    assert code == 0
    assert out.startswith("runs: 0 finished, 1 unfinished\n")


def test_text_of_numbers() -> None:
    interval = statistics.median_interval
    assert reporting.interval_text(ACCURACY, interval([1.0])) == "one seed"
    assert reporting.interval_text(ACCURACY, interval([1.0, 0.5])) == "50.0-100.0 (50 %)"
    assert reporting.interval_text(SQUARED_ERROR, interval([0.25, 0.5])) == "0.25 to 0.5 (50 %)"
    assert reporting.interval_text(ACCURACY, interval([])) == "-"
