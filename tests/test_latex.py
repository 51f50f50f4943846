"""The tables for a paper: read back by a reader of their own, they are the runs' numbers, and no name breaks them."""

import re
from pathlib import Path

import pytest

from made_up import collection, run, sweep
from seqmem.report import latex
from seqmem.report.collect import Collection
from seqmem.report.wording import clean, file_name

SIGNS = {
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
    "textbar": "|", "dots": "…", "infty": "∞", "geq": "≥",
}  # fmt: skip


def printed(text: str) -> str:
    """What LaTeX prints, of the commands that a table may have; a command that it may not have is a KeyError."""
    text = re.sub(r"\$10\^\{(-?[\d.]+)\}\$", r"10^\1", text).replace("$-$", "−")
    text = re.sub(r"\\([a-z]+)(\{\}|(?=\$))", lambda match: SIGNS[match[1]], text)
    text = re.sub(r"(?<!\\)\$([≥∞])(?<!\\)\$", r"\1", text).replace("{''}", '"').replace("{`}", "`")
    assert not re.search(r"---?|``|(?<!\\)[$#_&%]", text)
    return re.sub(r"\\([&%$#_{}])", r"\1", text.replace("{}", ""))


def table(text: str) -> list[list[str]]:
    """The rows of a table, its heads first."""
    ((kinds, body),) = re.findall(r"\\begin{tabular}{([lr]+)}\n(.*)\\end{tabular}", text, re.DOTALL)
    assert re.sub(r"(?m)^.* \\\\\n|^\\addlinespace\n", "", body) == "\\toprule\n\\midrule\n\\bottomrule\n"
    rows = [re.split(r"(?<!\\) & ", line) for line in re.findall(r"(?m)^(.*) \\\\$", body)]
    assert {len(row) for row in rows} == {len(kinds)}
    assert not any(row[0].startswith(("[", "*")) for row in rows)  # an option of the line before
    return [[printed(cell) for cell in row] for row in rows]


def test_the_scores_with_their_intervals_parameters_and_seeds() -> None:
    text = latex.scores(sweep().groups)
    assert table(text) == [
        ["Cell", "Length", "Parameters", "Seeds", "Accuracy (%)", "Solved", "Steps"],
        ["lstm", "10", "10", "3", "100.0 [100.0, 100.0]", "3/3", "110"],
        ["lstm", "20", "10", "3", "99.9 [99.5, 100.0]", "3/3", "110"],
        ["rnn", "10", "10", "3", "99.5 [60.0, 100.0]", "2/3", "110"],
        ["rnn", "20", "10", "3", "26.0 [25.0, 30.0]", "0/3", "> 400"],
    ]
    assert r"its exact interval (75 \%). Without a memory: 25.0 \%. Solved: seeds with at least 99.0 \%." in text
    assert r"\label{tab:pronoun-scores}" in text
    mixed = collection({"lstm": {10: [1.0] * 6, 20: [1.0] * 2, 40: [1.0]}}).groups
    assert r"its exact interval (50 to 96.9 \%)" in latex.scores(mixed)
    assert table(latex.scores(mixed))[3][3:5] == ["1", "100.0"]


def test_what_was_measured_before_and_after() -> None:
    runs = [run("rnn", 10, seed, 0.5, half_life=half) for seed, half in enumerate((2.0, 4.0, 8.0))]
    text = latex.measured(Collection([], runs).groups)
    assert table(text) == [
        ["Cell", "Length", "Training", "Seeds", "Arrives", "Half-life", "Horizon"],
        *(["rnn", "10", when, "3", "10 [10, 10] %", "4.0 [2.0, 8.0]", "∞ [∞, ∞]"] for when in ("before", "after")),
    ]
    assert "Half-life and horizon: in timesteps." in text


HOSTILE = [
    r"\input{/etc/passwd}",
    "$x^2$ & % # _ ~ ` --- | {a} <b> \"'",
    "[5pt]",
    "*",
    r"\end{tabular}",
    "",
    "a\nb",
    "10^-3.5",
]


def test_no_name_breaks_a_table(tmp_path: Path) -> None:
    runs = [run(name, 10, seed, 0.5, task=HOSTILE[1]) for name in HOSTILE for seed in (0, 1)]
    names = latex.write(Collection([], runs), tmp_path)
    assert len(set(names)) == 2
    for name in names:
        assert re.fullmatch(r"tables/[\w-]+\.tex", name, re.ASCII)
        rows = table((tmp_path / name).read_text())
        labels = list(dict.fromkeys(row[0] for row in rows[1:]))
        assert [re.sub("^−", "-", label) for label in labels] == [clean(label) for label in dict.fromkeys(HOSTILE)]


@pytest.mark.parametrize(
    ("text", "taken", "name"),
    [
        ("pronoun gradient lstm", [], "pronoun-gradient-lstm"),
        ("pronoun people=16 gradient lstm forget_bias=-1", [], "pronoun-people-16-gradient-lstm-forget_bias-1"),
        ("Réseau/../é", [], "Reseau-e"),
        ("lstm", ["LSTM", "lstm-2"], "lstm-3"),
        ("記憶 \x00", [], "unnamed"),
        ("x" * 300, [], "x" * 80),
    ],
)
def test_files_are_named_for_what_they_show(text: str, taken: list[str], name: str) -> None:
    assert file_name(text, taken) == name
