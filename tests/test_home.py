"""``~`` in settings and arguments that are paths: a shell expands it only at the start of a word."""

from collections.abc import Callable
from pathlib import Path

import pytest

from commandline import TINY, Completed
from seqmem.cli.config.errors import Parser
from seqmem.cli.config.home import expanded
from seqmem.cli.launch.slurm import Options

Typed = Callable[..., Completed]

SMALL = (*TINY, "seq_len=8", "steps=2")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home" / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "home" / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\noutputs: ~/from_a_file\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_outputs_at_home(home: Path, typed: Typed) -> None:
    assert typed("train", *SMALL, "outputs=~/runs", "quiet=true").code == 0
    options = ("-m", "hydra.launcher.workers=1", "-cd=~/conf", "experiment=mine", "seed=0", "quiet=true")
    assert typed("train", *options, *SMALL) == Completed(0, "", "")
    assert len(list((home / "from_a_file").glob("*/*/*/result.json"))) == 1
    (run,) = (home / "runs").glob("*/*/*")
    for args in (("show", f"~/{run.relative_to(home)}"), ("sweep", "status", "~/runs"), ("verify", "~/runs")):
        assert typed(*args).code == 0, args
    assert list(Path.cwd().glob("*~*")) == []


def test_arguments_that_are_paths_begin_with_a_home(home: Path) -> None:
    parser = Parser("show")
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--out", type=Path, metavar="FILE")
    parser.add_argument("--text", metavar="WORDS")
    given = parser.parse_args(["~/runs", "--out=~/page.html", "--text", "~ says"])
    assert (given.run, given.out, given.text) == (str(home / "runs"), home / "page.html", "~ says")


def test_a_home_that_there_is_not(home: Path, typed: Typed) -> None:
    reason = "there is no home directory ~never-a-user here"
    line = f"~never-a-user/x: {reason}; ./~never-a-user/x is a folder of that name"
    typed("train", "outputs=~never-a-user/x").refuses(f"outputs={line}", code=2)
    typed("train", "-m", "seed=0,1", "outputs=~never-a-user/x").refuses(reason, code=2)
    typed("train", "-cd", "~never-a-user/x").refuses(f"--config-dir {line}", code=2)
    typed("show", "~never-a-user/x").refuses(line, code=2, verb="show")
    assert list(Path.cwd().glob("*~*")) == []
    assert expanded("./~/x") == "./~/x"


def test_a_folder_for_slurm(home: Path) -> None:
    assert Options(folder="~/logs").folder == str(home / "logs")


def test_every_argument_that_is_a_path_is_known_by_its_metavar() -> None:
    """Every verb's: a new one with another metavar would not be expanded."""
    sources = Path(__file__).parents[1] / "src" / "seqmem" / "cli" / "verbs"
    for path in sources.glob("*.py"):
        for word in ("type=Path", "FOLDER", "PATH"):
            for line in path.read_text().splitlines():
                if word in line and "metavar" in line:
                    assert any(f'"{name}"' in line for name in Parser.PATHS), (path, line)
