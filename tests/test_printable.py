"""A stranger's names are displayed and never obeyed: by a terminal, by a reader of JSON, by a spreadsheet."""

import ast
import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import rich.console
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

import seqmem
from commandline import OWN_CELLS, TINY, Completed, sweep_jobs
from made_up import run_directory, write_status
from seqmem.cli.config.commands import quoted
from seqmem.cli.launch import one_run
from seqmem.cli.launch.jobs import Lines
from seqmem.cli.launch.overview import Overview
from seqmem.cli.notebook.errors import SettingError
from seqmem.cli.terminal.console import Console
from seqmem.printable import PrintableStream, printable

Typed = Callable[..., Completed]

HOSTILE = "l\x1b[2J\x1b]0;owned\x07\x08\r\x9b31m\x7f\u202etsm\u2066\u2028\u061c"
"""Clears the screen, sets the window's title, goes back, begins a line anew, turns red in C1, turns letters over."""

LIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """Runs whose names, path and error are hostile: one finished, one failed, one without settings that can be read."""
    folder = tmp_path / f"strange{HOSTILE}"
    changes = {"cell.name": HOSTILE, "task.name": f"task{HOSTILE}", f"optimizer.{HOSTILE}": 1}
    run_directory(folder / "one", 1.0, changes=changes, metric=f"metric{HOSTILE}")
    run_directory(folder / "two", None, changes={**changes, "seed": 1})
    write_status(folder / "two", "failed", error=f"ValueError: {HOSTILE}")
    run_directory(folder / "three", 1.0, changes={"seed": f"3{HOSTILE}"})
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "show", "sweep status", "sweep status --json", "report", "report --json", "verify",
        "verify --json", "eval", "read", "playground", "export", "reproduce",
    ],
)  # fmt: skip
def test_no_verb_obeys_a_name(command: str, strange: Path, typed: Typed) -> None:
    verb, *options = command.split()
    words = [*options[:1], str(strange), *options[1:]] if verb == "sweep" else [str(strange), *options]
    more = {"report": ["--out", f"report{HOSTILE}"], "export": ["--state-dict", "x.npz"]}.get(verb, [])
    done = typed(verb, *words, *more)
    if "--json" in options:
        assert HOSTILE in "".join(_texts(json.loads(done.out)))  # the very name, as a program needs it
    shown = done.out + done.err
    for name in ("two", "none"):
        alone = typed(verb, *options[: verb == "sweep"], str(strange / name), *more)
        shown += alone.out + alone.err
    assert not LIVE.search(shown)
    assert "\\u001b" in shown
    assert "Traceback" not in shown


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize(
    "args",
    [[f"tr{HOSTILE}"], ["show", HOSTILE], ["train", f"cell={HOSTILE}"], ["train", f"+{HOSTILE}=1"], ["list", HOSTILE]],
)
def test_an_error_quotes_what_it_refuses(args: list[str], typed: Typed) -> None:
    done = typed(*args)
    assert done.code != 0
    assert not LIVE.search(done.out + done.err)
    assert "\\u001b" in done.err


LONG = "x" * 3000
SHORTENED = f"{'x' * 80}...{'x' * 20} (3,000 characters)"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (['seq_len="x\ny"'], r"""seq_len="x\ny": 'x\ny' is not a whole number"""),
        (["seq_len=x\ny"], r"cannot read 'seq_len=x\ny': settings are key=value"),
        (['precision="b\tf"'], r"""precision="b\tf": 'b\tf' is not one of float32, bf16, tf32"""),
        (['device="cu\nda"'], r"device=cu\nda: must be auto, cpu, cuda or cuda:N"),
        (['cell.forget_bias="1\r\n"'], r"cell.forget_bias='1\r\n': must be a number"),
        ([f"seq_len={LONG}"], f"'{SHORTENED}' is not a whole number"),
        ([f"cell={LONG}"], f"{SHORTENED}.py: File name too long"),
        (["-cd", "own", "experiment=odd"], r"experiment/odd.yaml: seq_len: 'x\ny' is not a whole number"),
        (["-cd", "own", "experiment=wide"], f"cell.forget_bias='{SHORTENED}': must be a number"),
    ],
)
def test_an_odd_value_is_repeated_on_one_readable_line(words: list[str], line: str, typed: Typed) -> None:
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/odd.yaml").write_text('# @package _global_\nseq_len: "x\\ny"\n')
    Path("own/experiment/wide.yaml").write_text(f"# @package _global_\ncell:\n  forget_bias: {LONG}\n")
    done = typed("train", *words)
    assert done.err.count("\n") == 1
    assert line in done.err
    assert len(done.err) < 600


def test_an_odd_value_from_python_and_in_a_sweep(typed: Typed) -> None:
    with pytest.raises(SettingError, match=re.escape(r"seq_len='x\ny': 'x\ny' is not a whole number")):
        seqmem.train(seq_len="x\ny")
    with pytest.raises(SettingError, match=re.escape(rf"optimizer.lr={SHORTENED}: must be a number")):
        seqmem.train(optimizer={"lr": LONG})
    swept = typed("train", "-m", 'seq_len="x\ny",8', "steps=1")
    assert swept.err.count("\n") == 2
    assert r"""job 1 (seq_len="x\ny"): seq_len="x\ny": 'x\ny' is not a whole number""" in swept.err


def test_a_suggested_command_is_one_line_that_a_shell_reads_back() -> None:
    words = ["plain", "two words", "it's", "a\nb", "tab\there", "back\\slash\n'quoted'", "\x1b[31m", "$HOME\n", "é\x7f"]
    line = quoted(*words)
    assert "\n" not in line
    assert not LIVE.search(line)
    read = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    assert read.stdout.decode().split("\0")[:-1] == words


@given(st.text(st.characters()))
def test_printable_text(text: str) -> None:
    shown = printable(text)
    assert not LIVE.search(shown)
    assert printable(shown) == shown
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text  # JSON stays JSON, of the same text
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, color_system=None, width=10_000, soft_wrap=True).print(Text(text))
    assert not LIVE.search(stream.getvalue())


def test_a_console_draws_its_own_colours() -> None:
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, color_system="standard").print(Text("a\x1b[b", "red"))
    assert stream.getvalue() == "\x1b[31ma\\u001b[b\x1b[0m\n"


OWN = """
import sys
from mycells import Leaky
class Colourful(Leaky):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        print("\\x1b[31mred\\x1b[0m")
        sys.stderr.write("\\r50 %\\r100 %\\n")
"""


def test_the_users_own_code_prints_what_it_likes(tmp_path: Path, typed: Typed) -> None:
    """Colours and progress bars; the wrapper is back afterwards."""
    (tmp_path / "mycells.py").write_text(OWN_CELLS)
    (tmp_path / "colourful.py").write_text(OWN)
    done = typed("train", "cell=custom", "cell.target=colourful.Colourful", *TINY, "steps=1", "cell.hidden_size=\x1b")
    assert done.code == 2
    assert not LIVE.search(done.err)
    done = typed("train", "cell=custom", "cell.target=colourful.Colourful", *TINY, "steps=1")
    assert done.code == 0, done.err
    assert "\x1b[31mred\x1b[0m" in done.out
    assert "\r50 %\r100 %" in done.err


def test_colours_of_a_job_of_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = sweep_jobs(seeds=[0])
    inner = io.StringIO()
    monkeypatch.setattr(sys, "stdout", PrintableStream(inner))
    Lines().say(job, "\x1b[31mred\x1b[0m\n")
    print("\x1b")
    assert inner.getvalue() == f"{job.prefix}\x1b[31mred\x1b[0m\n\\u001b\n"
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system="standard", width=200)
    Overview(console, [job], [], 1).say(job, "\x1b[31mred\x1b[0m \x1b]0;owned\x07 \x9b2J\n")
    assert "\x1b[31mred\x1b[0m" in screen.getvalue()
    assert not re.search("\x1b]|\x9b", screen.getvalue())


def test_a_run_of_another_version_has_no_say() -> None:
    """The version that a resumed run was begun with is from a file."""
    stream = io.StringIO()
    one_run._say(rich.console.Console(file=stream, force_terminal=True), f"begun by [red]{HOSTILE}")
    assert not LIVE.search(stream.getvalue())
    assert "[red]" in stream.getvalue()


@pytest.mark.usefixtures("unrendered")
def test_no_cell_of_a_table_is_a_formula(tmp_path: Path, typed: Typed) -> None:
    names = [f"{begins}HYPERLINK(1)" for begins in "=+-@\t\r＝"]
    for at, name in enumerate(names):
        run_directory(tmp_path / f"runs/{at}", -2.5, changes={"cell.name": name}, metric="bits")
    assert typed("report", "runs", "--out", "page").code == 0
    numbers = 0
    for path in (tmp_path / "page").glob("*.csv"):
        with path.open(newline="") as file:
            for row in csv.reader(file):
                numbers += "-2.5" in row  # a number is no formula
                assert not [cell for cell in row if cell.startswith(("=", "+", "@", "\t", "\r", "＝", "-H"))]
    assert numbers
    stored = pl.read_parquet(tmp_path / "page" / "runs.parquet")["cell"].to_list()
    assert sorted(stored) == sorted(names)


def test_only_one_module_makes_consoles() -> None:
    """Another console would write a stranger's names as they are."""
    source = Path(__file__).parents[1] / "src" / "seqmem"
    others = []
    for path in source.rglob("*.py"):
        text = path.read_text()
        nodes = list(ast.walk(ast.parse(text))) if "Console" in text else []
        from_rich = {
            alias.asname or alias.name
            for node in nodes
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rich"
            for alias in node.names
        }
        called = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
        if any((name == "Console" and name in from_rich) or name.endswith(".Console") for name in called):
            others.append(path)
    assert not others, "import Console from cli/terminal/console.py"
