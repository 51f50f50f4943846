"""The documents' tables are those that ``scripts/tables`` makes, and what depends on rounding is a range in them."""

import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import tables  # noqa: E402  # pyright: ignore[reportMissingImports]


def test_what_depends_on_the_kernel_is_a_range() -> None:
    """Four seeds, of which one is perfect with one kernel and below 70 % with the other."""
    lengths = [4, 6, *(fillers + 2 for fillers in tables.FILLERS)]
    lstm = {seed: dict.fromkeys(lengths, 1.0) for seed in range(4)}

    def rnn(last: float) -> tables.Seeds:
        return {seed: dict.fromkeys(lengths, score) for seed, score in enumerate((1.0, 0.9, 0.5, last))}

    kernels = {
        name: {("rnn", 7, 4): rnn(last), ("lstm", 7, 4): lstm} for name, last in (("native", 1.0), ("torch", 0.2))
    }
    row = "| 6 | 70.0 to 95.0 % | 20.0 to 50.0 % | 1 to 2 | 1 to 2 | 100.0 % | 100.0 % | 4 | 0 |"
    assert tables.subject_table(kernels)[2] == row
    assert tables.changed([scores["rnn", 7, 4] for scores in kernels.values()]) == (len(lengths), 4 * len(lengths))
    assert [holds for _, holds in tables.subject_claims(kernels["native"])] == [False, True, True, False]


@pytest.mark.parametrize("study", tables.STUDIES)
def test_documents_name_the_commands_of_their_tables(study: str) -> None:
    text = (ROOT / f"docs/{study}.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [set(shlex.split(line)) for line in text.splitlines() if line.startswith("scripts/seqmem train -m ")]
    assert all(any(set(command) <= words for words in commands) for command in tables.STUDIES[study].commands)
    assert f"scripts/tables {study}" in text


def test_the_study_claims_what_is_checked() -> None:
    text = " ".join((ROOT / "docs/subject_study.md").read_text(encoding="utf-8").split())
    none = {models: {0: dict.fromkeys(range(200), 1.0)} for models in tables.DEMO}
    assert all(claim in text for claim, _ in tables.subject_claims(none))
    assert tables.subject_table({"native": none})[0] in text
