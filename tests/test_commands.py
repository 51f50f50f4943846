"""Commands that are suggested can be typed as they are, however seqmem was started."""

import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from commandline import Completed
from seqmem.cli.config.commands import command, examples, install
from seqmem.cli.config.help_text import filled
from seqmem.cli.main import VERBS
from seqmem.cli.terminal.console import Console


@pytest.fixture
def on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands with a ``seqmem`` in it."""
    program = tmp_path / "bin" / "seqmem"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.delenv("SEQMEM_COMMAND", raising=False)
    return program


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["python", "-m", "seqmem"], "python -m seqmem"),
        (["/opt/my python", "-X", "dev", "-m", "seqmem"], "'/opt/my python' -X dev -m seqmem"),
        (["/v/bin/python", "BIN/seqmem"], "seqmem"),  # the shell found it there, and passes on the whole path
        (["/v/bin/python", "/v/bin/seqmem"], "/v/bin/seqmem"),  # another is found first
        (["/v/bin/python", "bin/seqmem"], "bin/seqmem"),
        (["/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "kernel.json"], "seqmem"),
        (["python", "-m", "pytest", "seqmem"], "seqmem"),
    ],
)
def test_how_it_was_started(words: list[str], typed: str, on_the_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = [word.replace("BIN", str(on_the_path.parent)) for word in words]
    monkeypatch.setattr(sys, "orig_argv", [*program, "train", "cell=lstm"])
    assert command("show", "my runs") == f"{typed} show 'my runs'"
    assert examples(("read a", "one"), ("read", "")) == f"  {typed} read a    one\n  {typed} read"


@pytest.mark.parametrize(
    ("given", "typed"), [("scripts/seqmem", "scripts/seqmem"), ("./my dir/seqmem", "'./my dir/seqmem'")]
)
def test_started_by_the_script(given: str, typed: str, on_the_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQMEM_COMMAND", given)
    assert command("watch") == f"{typed} watch"
    monkeypatch.setenv("SEQMEM_COMMAND", str(on_the_path))
    assert command("watch") == "seqmem watch"


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help(verb: str, typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every help text has the program as it was typed, and never by another name; at 80 columns nothing is wrapped but
    commands, which stand in a line of their own."""
    monkeypatch.setenv("SEQMEM_COMMAND", "scripts/seqmem")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(Console, "is_terminal", True)
    completed = typed(*verb.split(), "--help")
    long = [line for line in re.sub(r"\x1b\[[\d;]*m", "", completed.out).splitlines() if len(line) > 80]
    assert [line for line in long if not re.fullmatch(r"  scripts/seqmem (\S+ ?)+(\"[\w ]+\")?", line)] == []
    assert completed.code == 0
    assert f"scripts/seqmem {verb}" in completed.out
    assert not re.search(rf"(?<!/)\bseqmem ({'|'.join(VERBS)}|-)", completed.out)


def test_help_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQMEM_COMMAND", "scripts/seqmem")
    text = """\
A paragraph of
two lines that is filled.

  scripts/seqmem show a-long-name-of-a-run    what it shows
  scripts/seqmem show                         all

  word      its meaning, which
            goes on
short"""
    assert filled(text, 80) == text
    assert filled(text, 20).splitlines() == [
        "A paragraph of two", "lines that is", "filled.", "",
        "  scripts/seqmem show a-long-name-of-a-run", "      what it shows", "  scripts/seqmem show", "      all", "",
        "  word      its meaning, which", "            goes on", "short",
    ]  # fmt: skip


def test_errors(typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQMEM_COMMAND", "scripts/seqmem")
    for args, hint in {
        "show x": "scripts/seqmem train makes one",
        "show --alll": "see scripts/seqmem show --help",
        "train sed_=1 --bad": "see scripts/seqmem train --help",
        "cell=lstm": "scripts/seqmem train cell=lstm",
    }.items():  # fmt: skip
        completed = typed(*args.split())
        assert completed.err.startswith("seqmem")
        assert hint in completed.err


def test_what_installs_an_extra() -> None:
    """With this Python's pip, and by the packages' names: seqmem itself is in no registry."""
    python, *words = shlex.split(install("onnx"))
    assert os.path.samefile(python, sys.executable)  # noqa: PTH121
    assert words[:3] == ["-m", "pip", "install"]
    assert {re.split("[<>=]", word)[0] for word in words[3:]} == {"onnx", "onnxscript", "onnxruntime"}
