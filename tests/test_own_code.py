"""A run is filed under the code that computed it, whatever is edited before, between and while runs are trained."""

import json
import os
import re
from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hydra import compose

import seqmem
from commandline import TINY, Completed, forked_code, runs_below, shadow, sweep_jobs
from seqmem.cli.config.own_code import code_of, forget_edited, forget_elsewhere, pinned
from seqmem.cli.config.own_hydra import own_hydra
from seqmem.cli.config.schema import from_mapping, identity
from seqmem.cli.launch.jobs import work
from seqmem.cli.launch.one_run import run_path
from seqmem.report.collect import collect
from seqmem.runs.directory import RunDirectory

Typed = Callable[..., Completed]

LEAKY = '''\
import torch
from seqmem.cells import RNN
{imports}
K = {k}

class Leaky(RNN):
    """h = K tanh(W x + U h)"""
    def step(self, x, state):
        _, new = super().step(x, state)
        hidden = {factor} * new["hidden"]
        return hidden, {{"hidden": hidden}}
'''


WITH_AN_OPTION = """
class Wide(Leaky):
    def __init__(self, input_size, hidden_size, width: int = 2):
        super().__init__(input_size, hidden_size)
"""


def leaky(k: float, *, imports: str = "", factor: str = "K") -> str:
    return LEAKY.format(k=k, imports=imports, factor=factor)


SETTINGS: dict[str, Any] = {
    "seq_len": 8, "steps": 3, "batch_size": 4, "embed_size": 4, "quiet": True,
    "evaluate": {"sequences": 8, "lengths": [8]}, "trace": {"every": 0},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(typed: Typed) -> None:
    """In a folder of its own, without the last test's snapshot."""
    forget_edited()


def train(target: str = "own.Leaky", **settings: Any) -> RunDirectory:
    return seqmem.train(cell={"name": "custom", "target": target, "hidden_size": 4}, **(SETTINGS | settings))


def loss(run: RunDirectory) -> float:
    result = run.result()
    assert result is not None
    return result["loss"]


def losses(**sources: str) -> dict[str, float]:
    """What each source computes, whatever its module was before."""
    return {name: _loss_alone(source) for name, source in sources.items()}


@cache
def _loss_alone(source: str) -> float:
    """In a module and a folder of its own."""
    name = f"alone_{blake2b(source.encode(), digest_size=4).hexdigest()}"
    Path(f"{name}.py").write_text(source)
    return loss(train(f"{name}.Leaky", outputs=f"alone/{name}"))


def test_an_edited_cell_is_imported_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Same size, same second: cached bytecode would be taken for up to date."""
    expected = losses(old=leaky(0.1), new=leaky(0.9))
    assert expected["old"] != expected["new"]
    file = Path("own.py")
    file.write_text(leaky(0.1))
    stat = file.stat()
    one = train()
    assert capsys.readouterr().out == ""
    file.write_text(leaky(0.9))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    two = train()
    assert "own.py: edited since it was imported, imported again" in capsys.readouterr().out
    assert (loss(one), loss(two)) == (expected["old"], expected["new"])
    assert one.path != two.path
    file.write_text(leaky(0.1))
    assert train().path == one.path


def test_a_module_that_the_user_imported_and_edited(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = losses(new=leaky(0.9))
    Path("own.py").write_text(leaky(0.1))
    monkeypatch.syspath_prepend(Path.cwd())
    __import__("own")
    Path("own.py").write_text(leaky(0.9))
    assert loss(train()) == expected["new"]
    assert "own.py: edited since it was imported" in capsys.readouterr().out


def test_the_working_directory_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module is the one beside the user now, also after coming back to a directory."""
    sources = {"one": leaky(0.1), "two": leaky(0.9)}
    for place, source in sources.items():
        Path(place).mkdir()
        Path(place, "own.py").write_text(source)
    for place in ("one", "two", "one"):
        monkeypatch.chdir(tmp_path / place)
        forget_edited()
        assert code_of("own.Leaky") == blake2b(sources[place].encode(), digest_size=8).hexdigest()


def test_a_class_of_one_file_has_the_hash_of_the_file() -> None:
    """Runs of earlier versions keep their place."""
    Path("own.py").write_text(leaky(0.1))
    forget_edited()
    assert code_of("own.Leaky") == blake2b(leaky(0.1).encode(), digest_size=8).hexdigest()


LATE = """
def late():
    import beside
    return beside.K
"""

IMPORTS: dict[str, tuple[str, str, dict[str, str]]] = {
    "a constant": (
        "own.Leaky", "beside.py", {"own.py": leaky(1, imports="from beside import K as factor", factor="factor")}
    ),
    "imported late": ("own.Leaky", "beside.py", {"own.py": leaky(1, factor="late()") + LATE}),
    "two imports away": (
        "own.Leaky", "far.py", {"own.py": leaky(1, imports="import near", factor="near.far.K"), "near.py": "import far"}
    ),
    "re-exported": (
        "own.Leaky", "own/k.py",
        {"own/__init__.py": "from .cells import Leaky",
         "own/cells.py": leaky(1, imports="from .k import *", factor="K2")},
    ),
    "relative": (
        "own.deep.cells.Leaky", "own/deep/k.py",
        {"own/__init__.py": "", "own/deep/__init__.py": "",
         "own/deep/cells.py": leaky(1, imports="from . import k", factor="k.K")},
    ),
}  # fmt: skip
"""What is edited -> the target, the edited file, and the files that import it."""


@pytest.mark.parametrize("how", IMPORTS)
def test_whatever_a_class_draws_on_beside_the_user_is_its_code(how: str) -> None:
    target, edited, files = IMPORTS[how]
    expected = losses(old=leaky(0.1), new=leaky(0.9))
    runs = []
    for k in (0.1, 0.9):
        for name, text in (files | {edited: f"K = K2 = {k}"}).items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(text)
        runs.append(train(target))
    assert [loss(run) for run in runs] == [expected["old"], expected["new"]]
    assert len({run.config()["cell"]["code"] for run in runs}) == len({run.path for run in runs}) == 2


OTHERS = """
from seqmem.models import Recurrent
from seqmem.probes import GradientProbe
from seqmem.tasks.subject import Subject

class MyTask(Subject):
    pass

class MyModel(Recurrent):
    pass
"""


@pytest.mark.parametrize("part", ["task", "model", "probe.mine"])
def test_other_parts_are_pinned_like_cells(part: str) -> None:
    """The same settings with an edited class are another run."""
    codes, places = set(), set()
    kind = {"task": "MyTask", "model": "MyModel", "probe.mine": "MyProbe"}[part]
    with own_hydra():
        composed = compose("train")
    for remark in ("# one", "# two"):
        Path("mine.py").write_text(f"{OTHERS}\n{remark}\n")
        forget_edited()
        config = from_mapping(composed)
        chosen = pinned({"name": "custom", "target": f"mine.{kind}", "args": {}})
        if part == "probe.mine":
            config.probe["mine"] = pinned({"every": 2, "target": f"mine.{kind}"})
        else:
            setattr(config, part, chosen)
        codes.add(json.dumps(identity(config)))
        places.add(run_path(config))
    assert len(codes) == len(places) == 2


def test_a_class_is_a_choice_beside_ours(typed: Typed) -> None:
    """By its dotted name, in a sweep and from Python, it is the run of ``cell=custom`` with this target."""
    task = "from seqmem.tasks.subject import Subject\nclass MyTask(Subject):\n    pass\n"
    Path("own.py").write_text(leaky(0.1) + WITH_AN_OPTION + task)
    tiny = (*TINY, "quiet=true", "hydra.launcher.workers=1")
    width = "cell.args.width=3"  # of the one that has arguments; the other is the run that it is without
    swept = typed("train", "-m", "cell=rnn,own.Wide", width, "task=own.MyTask", "seq_len=7", *tiny[1:])
    assert (swept.code, swept.err) == (0, "")
    runs = {run.parent.name: run for run in runs_below(Path("outputs/MyTask"))}
    assert set(runs) == {"rnn", "Wide"}
    with own_hydra():
        plain = from_mapping(compose("train", overrides=["task=own.MyTask", "cell=rnn", "seq_len=7", *TINY[1:]]))
    assert run_path(plain) == runs["rnn"]
    assert not any("args" in word for word in json.loads((runs["rnn"] / "overrides.json").read_text())[0])
    custom = ("cell=custom", "cell.target=own.Wide", f"++{width}", "task=custom", "task.target=own.MyTask")
    with own_hydra():
        config = from_mapping(compose("train", overrides=[*custom, "seq_len=7", *TINY[1:]]))
    assert run_path(config) == runs["Wide"]
    small = {"name": "own.Leaky", "hidden_size": 4}
    assert train("own.Leaky", seed=3).path == seqmem.train(cell=small, **SETTINGS, seed=3).path
    typed("train", "cell=own", *TINY).refuses("a class in own.py is chosen by cell=own.CLASS", code=2)
    line = "own has no Leeky. Did you mean 'Leaky'?"
    assert line in typed("train", "-m", "cell=lstm,own.Leeky", *TINY).err


EDITING = (
    leaky(0.1)
    + '''
    def forward(self, xs, state=None):
        """Edits its own file once the second run is trained."""
        if self.training:
            from pathlib import Path
            steps = Path(__file__).with_name("steps")
            steps.write_text(str(int(steps.read_text() or 0) + 1) if steps.exists() else "1")
            if int(steps.read_text()) == 4:
                Path(__file__).write_text(Path(__file__).read_text().replace("K = 0.1", "K = 0.9"))
        return super().forward(xs, state)
'''
)


def test_a_sweep_computes_with_the_code_that_it_began_with(typed: Typed) -> None:
    Path("alone.py").write_text(leaky(0.1))
    expected = {seed: loss(train("alone.Leaky", seed=seed)) for seed in (1, 2, 3)}
    Path("own.py").write_text(EDITING)
    command = (
        "train", "-m", "cell=custom", "cell.target=own.Leaky", "cell.hidden_size=4", "seq_len=8", "steps=3",
        "batch_size=4", "embed_size=4", "evaluate.sequences=8", "evaluate.lengths=[8]", "trace.every=0",
        "outputs=swept", "seed=1,2,3",
    )  # fmt: skip
    done = typed(*command, "hydra.launcher.workers=1")
    assert (done.code, done.err, done.out.splitlines()[-2]) == (0, "", "3 of 3 runs finished")
    assert "K = 0.9" in Path("own.py").read_text()
    runs = [RunDirectory(path) for path in runs_below(Path("swept"))]
    assert {run.config()["seed"]: loss(run) for run in runs} == expected
    assert len({run.config()["cell"]["code"] for run in runs}) == 1
    again = typed(*command, "hydra.launcher.workers=1", "quiet=true")  # the edited code's runs are others
    assert (again.code, len(runs_below(Path("swept")))) == (0, 6)


def test_a_worker_refuses_code_that_was_edited_since_the_sweep_started() -> None:
    """A job in another process, at another time: it has the settings, and the file that is there then."""
    Path("own.py").write_text(leaky(0.1))
    (job,) = sweep_jobs("cell=custom", "cell.target=own.Leaky", *TINY, "quiet=true", seeds=[1])
    Path("own.py").write_text(leaky(0.9))
    forget_edited()  # as in a process that has not looked at the file before
    outcome = work(job, silent=True)
    assert (outcome.state, outcome.usage) == ("failed", True)
    assert "cell.target=own.Leaky: its code (own.py) is not what it was when this run was set up" in str(outcome.error)
    assert not job.run.path.exists()
    Path("own.py").write_text(leaky(0.1))
    outcome = work(job, silent=True)
    assert outcome.state == "finished", outcome


NOTEBOOK = '''
import sys
import seqmem
from seqmem.cells import RNN
sys.modules["__main__"].RNN = RNN

def cell(k, name="K", target="__main__.Leaky"):
    exec(f"""
{name} = {k}
class Leaky(RNN):
    def step(self, x, state):
        _, new = super().step(x, state)
        hidden = {name} * new["hidden"]
        return hidden, {{"hidden": hidden}}
""", vars(sys.modules["__main__"]))
    return seqmem.train(
        cell={"name": "custom", "target": target or vars(sys.modules["__main__"])["Leaky"], "hidden_size": 4},
        seq_len=8, steps=3, batch_size=4, embed_size=4, quiet=True,
        evaluate={"sequences": 8, "lengths": [8]}, trace={"every": 0},
    )

for run in [cell(0.1), cell(0.9), cell(0.1, target=None)]:  # the class itself is the class of that name
    print(run.path, run.result()["loss"], run.config()["cell"]["code"])
'''


def test_a_class_of_a_notebook_that_is_defined_again(tmp_path: Path) -> None:
    expected = losses(old=leaky(0.1), new=leaky(0.9))
    done = forked_code(NOTEBOOK, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert [float(line[1]) for line in lines] == [expected["old"], expected["new"], expected["old"]]
    assert lines[0][0] == lines[2][0] != lines[1][0]
    assert lines[0][2] == lines[2][2] != lines[1][2]
    other = forked_code(NOTEBOOK.replace("0.1", "0.5"), cwd=tmp_path)  # another script of this folder
    assert other.out.splitlines()[0].split()[0] not in {line[0] for line in lines}


def test_a_report_keeps_versions_of_a_class_apart() -> None:
    for k in (0.1, 0.9):
        Path("own.py").write_text(leaky(k))
        for seed in (0, 1):
            train(seed=seed)
    groups = collect(["outputs"]).groups
    assert len(groups) == 2
    assert all(len(group.at(8)) == 2 for group in groups)
    assert all("code=" in group.label for group in groups)


def test_files_beside_the_user_never_stand_in_for_a_library() -> None:
    """One that is named like a module which seqmem needs is not imported; what the user's code meant by it is said."""
    expected = losses(plain=leaky(0.5))["plain"]
    shadow(Path())
    Path("own.py").write_text(leaky(0.5, imports="import copy, random, tqdm_of_mine"))
    Path("tqdm_of_mine.py").write_text("import importlib\nassert importlib.import_module('named_late').K == 1\n")
    Path("named_late.py").write_text("K = 1\n")
    assert loss(train()) == expected
    library = compile("import tqdm", str(Path("site-packages/library.py").absolute()), "exec")
    with pytest.raises(ModuleNotFoundError):  # it is not installed: a library goes on without it
        exec(library, {"__name__": "library"})
    why = "random.py: Python's own random hides it, it needs another name"
    with pytest.raises(ValueError, match=re.escape(f"cell.target=random.Leaky: random has no Leaky. ({why})")):
        train("random.Leaky")
    Path("own.py").write_text(leaky(0.5, imports="from numpy import mine"))
    with pytest.raises(ValueError, match=r"cannot import own: .*numpy\.py: the library numpy hides it"):
        train()


def test_a_module_beside_the_user_comes_before_an_installed_one_that_seqmem_does_not_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = losses(old=leaky(0.1), new=leaky(0.9))
    for place, k in (("elsewhere", 0.1), (".", 0.9)):
        Path(place).mkdir(exist_ok=True)
        Path(place, "both.py").write_text(leaky(k))
    monkeypatch.syspath_prepend("elsewhere")
    assert loss(train("both.Leaky")) == expected["new"]


@pytest.mark.parametrize("entry", ["", "."])
def test_a_library_is_no_code_of_the_users_where_the_folder_is_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    """As in a notebook, or with PYTHONPATH=.: a run has the same name, and is not run again."""
    codes = []
    for folder in (tmp_path / "alone", tmp_path / "beside"):
        folder.mkdir()
        monkeypatch.chdir(folder)
        Path("own.py").write_text("import numpy\nfrom seqmem.cells import LSTM\n\nclass Own(LSTM): ...\n")
        if folder.name == "beside":
            shadow(Path())
            monkeypatch.syspath_prepend(entry)
        forget_elsewhere()
        codes.append(code_of("own.Own"))
    assert codes[0] == codes[1] is not None
