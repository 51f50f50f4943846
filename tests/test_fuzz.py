"""A few command lines of the grammar in scripts/fuzz.py: each succeeds, or one line says why not."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from commandline import Completed
from made_up import run_directory

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import fuzz  # pyright: ignore[reportMissingImports]


def test_command_lines(typed: Callable[..., Completed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fuzz.prepare(tmp_path))

    def answer(line: Sequence[str]) -> tuple[int, str, str]:
        done = typed(*line)
        return done.code, done.out, done.err

    verdict = fuzz.judge(fuzz.command_lines(5, 30), answer)
    assert not verdict.faults
    assert verdict.counts["refused"] > 15


def test_the_lines_are_a_function_of_the_seed() -> None:
    one, again, other = (list(fuzz.command_lines(seed, 20)) for seed in (0, 0, 1))
    assert one == again
    assert one != other


@pytest.mark.parametrize(
    ("code", "out", "err"),
    [
        (1, "", "Traceback (most recent call last):\n"), (1, "", ""),
        (2, "", "one\ntwo\n"), (3, "", "one\n"), (-9, "", ""),
        (1, "", "seqmem train: KeyError: 'name'\n"), (2, "", "seqmem show: \x1b[2J\n"), (0, "\x9b", ""),
    ],
)  # fmt: skip
def test_a_fault_is_seen(code: int, out: str, err: str) -> None:
    assert fuzz.fault(code, out, err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("show \n", "seqmem show: : no run there"),
        ("show loop", "no run there"),
        ("show --a\nb", "unrecognized arguments: --a\\nb"),
        ("train ~task.name ++task.target=0.5", "task.name is not set: choose one, task=..."),
        ("train embed_size=99999999999999999999", "embed_size=99999999999999999999: must be from -2^63 to 2^63 - 1"),
        ("train --experiment=vanishing", "write experiment=vanishing"),
        ("span cell=true", "cell"),
        ("train hydra.verbose=[[1]]", "hydra.verbose=[[1]]"),
    ],
)
def test_what_it_has_shown(words: str, message: str, typed: Callable[..., Completed], tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    done = typed(*words.split(" "))
    assert done.code in (1, 2)
    assert message in done.err
    assert not fuzz.fault(done.code, done.out, done.err), done.err


def test_a_run_with_an_absurd_seed_hides_no_other(typed: Callable[..., Completed], tmp_path: Path) -> None:
    """No table can hold it; the whole report ended with an error of its library."""
    run_directory(tmp_path / "outputs" / "one")
    run_directory(tmp_path / "outputs" / "two", changes={"seed": -(10**20)})
    run_directory(tmp_path / "outputs" / "three", None, changes={"seed": 10**400})
    done = typed("report", "--json")
    assert done.code == 1, done.err
    assert "seed is beyond 64 bits" in done.out + done.err
