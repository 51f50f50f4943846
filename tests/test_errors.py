"""Every error is one clear line: exit code 2 for an invalid command, 1 for a failure."""

import errno
import fcntl
import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

import seqmem
from commandline import OWN_CELLS, TINY, Completed, forked, largest_file, only_run, rows, runs_below
from seqmem.cli.config.own_files import mistake_in
from seqmem.cli.main import main
from seqmem.runs.directory import RunDirectory
from seqmem.runs.files import RunError

Typed = Callable[..., Completed]

REFUSED = {
    # names
    "cell=lstmm": "no cell is called 'lstmm'. Did you mean 'lstm'? One of: antisymmetric, attention, cornn, custom,",
    "cell=xyz": "no cell is called 'xyz'. One of: antisymmetric, attention, cornn, custom,",
    "cell.name=lstmm": "no cell is called 'lstmm'. Did you mean 'lstm'?",
    "task=pronuon": "no task is called 'pronuon'. Did you mean 'pronoun'? One of: adding, ",
    "probe=[gradient,nope]": "no probe is called 'nope'. One of: gradient",
    "optimizer=adma": "no optimizer is called 'adma'. Did you mean 'adam'?",
    "experiment=xyz": "no experiment is called 'xyz'",
    "cell=null": "chosen by its name, e.g. cell=lstm",
    "task=3": "chosen by its name",
    "=3": "chosen by its name",
    "~cell": "cell is not set: give it a value, cell=...",
    # settings
    "sed=1": "there is no setting 'sed'. Did you mean 'seed'?",
    "lr=0.1": "there is no setting 'lr'. Did you mean 'optimizer.lr'?",
    "xyz=1": "there is no setting 'xyz'. See seqmem train --help",
    "+xyz=1": "there is no setting 'xyz'",
    "cell.hiden_size=3": "there is no setting 'cell.hiden_size'. Did you mean 'cell.hidden_size'?",
    "trace.evry=3": "Did you mean 'trace.every'?",
    "cell=rnn cell.forget_bias=1": "no setting 'cell.forget_bias'. cell=rnn has hidden_size, layers, params, wrap, ",
    "task=adding task.people=4": "there is no setting 'task.people'. task=adding has",
    "+cell.alpha=1": "there is no setting 'cell.alpha'. cell has forget_bias, init",
    "cell.args.alpha=1": "there is no setting 'cell.args'",
    "+optimizer.momentum=1": "there is no setting 'optimizer.momentum'",
    "+trace.xyz=1": "there is no setting 'trace.xyz'. trace has every, sequences, loss",
    "hydra.xyz=1": "there is no setting 'hydra.xyz'",
    "+seed=1": "'seed' exists already: write seed=... without the +",
    # sizes and types; more of them in VALUES
    "seq_len=6": "seq_len=6 is too short for task=pronoun: at least 7",
    "steps=0": "steps=0: must be at least 1",
    "cell.hidden_size=-3": "cell.hidden_size=-3: must be at least 1",
    "cell.params=1": "cell.params=1 is too few",
    "seq_len=ten": "seq_len=ten: 'ten' is not a whole number",
    "optimizer.lr=fast": "optimizer.lr=fast: must be a number",
    # devices
    "device=cuda": "device=cuda: torch sees no CUDA device here; use device=cpu or device=auto",
    "device=cuda:9": "device=cuda:9: ",
    "device=tpu": "device=tpu: must be auto, cpu, cuda or cuda:N",
    "device=mps": "device=mps: must be auto, cpu, cuda or cuda:N",
    "device=": "device=: must be auto, cpu, cuda or cuda:N",
    # syntax
    "steps": "cannot read 'steps': settings are key=value, e.g. seq_len=50",
    "steps=[": "cannot read 'steps=['",
    "outputs=größe": "a value with special characters needs quotes of its own",
    "cell=rnn,lstm": "cell=rnn,lstm is several values: add -m to run each",
    "seed=0,1": "seed=0,1 is several values: add -m to run each",
    "seed=range(3)": "seed=range(3) is several values: add -m",
    "seq_len=${xyz}": "'xyz' not found",
    "seq_len=${oc.env:XYZ_IS_NOT_SET}": "Environment variable 'XYZ_IS_NOT_SET' not found",
    "--xyz": "unrecognized arguments: --xyz; see seqmem train --help",
    "--seq_len=10": "'--seq_len=10': settings have no dashes: seq_len=10",
    "--cfg": "argument --cfg/-c: expected one argument",
    "--config-name xyz": "Cannot find primary config 'xyz'",
    "-cd xyz": "-cd xyz: no such directory",
    "-m --cfg job": "Only one of --run, --multirun, --cfg",
    "-m hydra/launcher=submitit": "no hydra/launcher is called 'submitit'. One of: basic",
    "-m hydra.sweeper.params={seq_len:'12,20'}": "hydra.sweeper.params: the settings of a sweep are typed themselves",
    "-m hydra/sweeper=optuna": "no hydra/sweeper is called 'optuna'. It comes with",
    "-m seed=interval(0,1)": "seed=interval(0,1): a range is for a search, -m hydra/sweeper=optuna; a sweep",
    "optimizer.lr=tag(log,interval(1e-4,1))": "a range is for a search, -m hydra/sweeper=optuna",
    "-m seed=range(0)": "seed=range(0): has no value, so the sweep would have no run",
    "-m seed=range(1,2,0)": "seed=range(1,2,0): the step of a range must not be 0",
    "seed=range(a)": "cannot read 'seed=range(a)': it is written range(3), or range(start,stop,step) of numbers",
    "seed=foo(1)": "cannot read 'seed=foo(1)': there is no function 'foo' of settings, but range, choice",
    "seed=int(x)": "cannot read 'seed=int(x)': x cannot be made int",
    "seed=${now:}": "seed: its interpolation lacks an argument",
    "cell=[rnn,lstm]": "cell=[rnn,lstm]: a run has one cell: -m cell=rnn,lstm runs each",
    "+experiment=vanishing": "'experiment' is chosen already: write experiment=vanishing without the +",
    "++cell=gru": "'cell' is chosen already: write cell=gru without the +",
    "cel@task=gru": "there is no group 'cel'. Did you mean 'cell'? One of: cell, task",
    "-m hydra.sweeper.params.seed=1,2": "Hydra's own settings have one value for a whole sweep",
    "--config-path xyz": "--config-path replaces all of seqmem's own settings: -cd DIR adds yours to them",
    "-cd broken.py cell=gru": "-cd broken.py: must be a directory",
    # a user's own cell; more in VALUES
    "cell=custom": "cell.target is not set: give it a value, cell.target=...",
    "cell=custom cell.target=broken.Leaky": "cannot import broken: SyntaxError",
    "cell=custom cell.target=owncells.Leaky cell.args.alhpa=1": "Did you mean 'cell.args.alpha'?",
    "cell=custom cell.target=owncells.Leaky +cell.alpha=3": "the class's own are cell.args.alpha",
}
FILES: dict[str, tuple[bytes, str]] = {
    "experiment/bare.yaml": (b"seq_len: 9\n", "its first line must be '# @package _global_'"),
    "experiment/late.yaml": (
        b"# mine\n# @package _global_\nseq_len: 9\n",
        "its first line must be '# @package _global_'",
    ),
    "experiment/near.yaml": (b"# @package global\nseq_len: 9\n", "its first line must be '# @package _global_'"),
    "experiment/more.yaml": (b"# @package _global_ please\n", "must be '# @package NAME', with nothing after it"),
    "experiment/none.yaml": (b"", "its first line must be '# @package _global_'"),
    "experiment/bom.yaml": (b"\xef\xbb\xbf# @package _global_\nseq_len: 9\n", "begins with a byte-order mark"),
    "experiment/utf16.yaml": ("# @package _global_\n".encode("utf-16"), "is not in UTF-8: save it as UTF-8"),
    "experiment/short.yml": (b"# @package _global_\n", "whose names end in .yaml: rename it to short.yaml"),
    "experiment/list.yaml": (b"# @package _global_\n- a\n", "has a list where settings are expected, one a line"),
    "cell/open.yaml": (b"name: [\n", ", line 2: is no YAML: "),
    "cell/tab.yaml": (b"name:\n\tgru: 2\n", ", line 2: "),
    "cell/twice.yaml": (b"name: gru\nname: rnn\n", ", line 2: name is set twice"),
    "cell/fine.yaml": (b"\xef\xbb\xbf# no directive\r\nname: gru\r\n", ""),
    "experiment/fine.yaml": (b"#@package _global_\nseq_len: 9\n", ""),
}
"""A user's own file -> its content, what is wrong with it."""

CHOSEN: dict[str, tuple[str, str]] = {
    "experiment=typo": ("seqlen: 9", "own/experiment/typo.yaml: there is no setting 'seqlen'. Did you mean 'seq_len'?"),
    "experiment=kind": ("seq_len: long", "own/experiment/kind.yaml: seq_len: 'long' is not a whole number"),
    "experiment=plain": ("defaults:\n  - cell: gru", "plain.yaml: its defaults must have '- override /cell: gru'"),
    "experiment=group": (
        "defaults:\n  - override /cels: gru",
        "group.yaml: there is no group 'cels'. Did you mean 'cell'?",
    ),
    "experiment=word": ("cell: gru", "cell: gru: a file chooses it in its defaults: '- override /cell: gru'"),
    "experiment=old.yml": (
        "seq_len: 9",
        "own/experiment/old.yml: settings are in files whose names end in .yaml: rename",
    ),
}
"""What is chosen by a file of a user's own -> the file after its first line, what is wrong with it."""

VALUES = {
    # sizes
    "seq_len=0": "seq_len=0 is too short",
    "seq_len=-5": "seq_len=-5 is too short",
    "seed=9223372036854775808": "seed=9223372036854775808: must be from -2^63 to 2^63 - 1",
    "task=adding seq_len=1": "seq_len=1 is too short for task=adding: at least",
    "task=copy seq_len=9": "seq_len=9 is too short for task=copy: at least",
    "task=digits seq_len=3": "seq_len=3 is too short for task=digits: at least",
    "evaluate.lengths=[3]": "evaluate.lengths=[3]: 3 is too short for task=pronoun: at least 7",
    "steps=-1": "steps=-1: must be at least 1",
    "batch_size=0": "batch_size=0: must be at least 1",
    "cell.hidden_size=0": "cell.hidden_size=0: must be at least 1",
    "cell.layers=0": "cell.layers=0: must be at least 1",
    "cell.params=0": "cell.params=0: must be at least 1",
    "embed_size=-1": "embed_size=-1: must be at least 1, or 0 for one-hot",
    "log_every=0": "log_every=0: must be at least 1",
    "evaluate.every=0": "evaluate.every=0: must be at least 1",
    "evaluate.sequences=0": "evaluate.sequences=0: must be at least 1",
    "trace.every=-1": "trace.every=-1: must be at least 1, or 0 for no traces",
    "trace.sequences=0": "trace.sequences=0: must be at least 1",
    "checkpoint_every=0": "checkpoint_every=0: must be at least 1",
    "threads=0": "threads=0: must be at least 1",
    "clip_norm=0": "clip_norm=0.0: must be positive, or null for no clipping",
    "clip_norm=nan": "clip_norm=nan: must be positive",
    "optimizer.lr=0": "optimizer.lr=0.0: must be positive",
    "optimizer.lr=-1": "optimizer.lr=-1.0: must be positive",
    "task.lengths=uniform task.shortest=3": "task.shortest=3: must be from 7",
    "task.people=5": "task.people=5: must be",
    # types
    "seq_len=9.5": "seq_len=9.5: '9.5' is not a whole number",
    "seq_len=": "seq_len=: '' is not a whole number",
    "seq_len=null": "seq_len=null: must have a value",
    "seed=x": "seed=x: 'x' is not a whole number",
    "optimizer.lr=": "optimizer.lr=: must be a number",
    "optimizer.lr=null": "optimizer.lr=null: must be a number",
    "optimizer.lr=true": "optimizer.lr=true: must be a number",
    "optimizer.betas=1": "optimizer.betas=1: must be a list of 2 values",
    "optimizer.betas=[1]": "optimizer.betas=[1]: must be a list of 2 values",
    "optimizer.betas=[2,0.9]": "optimizer: Invalid beta parameter at index 0: 2.0",
    "cell.hidden_size=big": "cell.hidden_size=big: must be a whole number",
    "cell.hidden_size=1.5": "cell.hidden_size=1.5: must be a whole number",
    "cell.forget_bias=high": "cell.forget_bias='high': must be a number or 'chrono'",
    "cell.init=zero": "must be 'torch', 'orthogonal' or 'identity'",
    "cell=rnn cell.nonlinearity=sin": "cell.nonlinearity='sin': must be",
    "clip_norm=x": "clip_norm=x: 'x' is not a number",
    "dtype=float16": "dtype=float16: 'float16' is not one of float32, float64",
    "on_nan=hope": "on_nan=hope: 'hope' is not one of stop, continue",
    "trace.loss=first": "trace.loss=first: 'first' is not one of last, all",
    "task=[[1]]": "cannot read task=[[1]]: a cell, task or optimizer is chosen by its name, e.g. cell=lstm",
    "cell=[nan]": "cannot read cell=[nan]: a cell, task or optimizer is chosen by its name, e.g. cell=lstm",
    "device=cuda:99999999999999999999": "device=cuda:99999999999999999999: must be auto, cpu, cuda or cuda:N",
    "optimizer.lr=inf": "optimizer.lr=inf: must be a number",
    "optimizer.lr=nan": "optimizer.lr=nan: must be a number",
    "cell.hidden_size=1e400": "cell.hidden_size=inf: must be a whole number",
    "force=perhaps": "force=perhaps: 'perhaps' is not true or false",
    "evaluate.lengths=5": "evaluate.lengths=5: must be a list, e.g. [10,20]",
    "evaluate.lengths=[a]": "'a' is not a whole number",
    "task.lengths=both": "task.lengths=both: must be one of fixed, uniform, mixed",
    "outputs=": "outputs=: must name a directory",
    # a user's own cell
    "cell=custom cell.target=Leaky": "cell.target=Leaky: must be module.Class, e.g. mycells.Leaky",
    "cell=custom cell.target=nowhere.Leaky": "cannot import nowhere: ModuleNotFoundError: No module named 'nowhere'",
    "cell=custom cell.target=importer.Leaky": "cannot import importer: ModuleNotFoundError: No module named 'nothere'",
    "cell=custom cell.target=leaves.Leaky": "cannot import leaves: SystemExit: 3",
    "cell=custom cell.target=owncells.Leeky": "owncells has no Leeky. Did you mean 'Leaky'?",
    "cell=custom cell.target=owncells.NotACell": "must be a subclass of seqmem.cells.base.Cell",
    "cell=custom cell.target=owncells.Unfinished": "cannot be made: TypeError: Can't instantiate abstract class",
    "cell=custom cell.target=owncells.Unlucky": "owncells.Unlucky: cannot be made: TypeError: no luck today",
    "cell=custom cell.target=owncells.Sizeless": "must set input_size and output_size",
    "cell=custom cell.target=owncells.Stateless": "a cell that carries nothing has no memory to measure",
    "cell=custom cell.target=owncells.Misshapen": "its first steps fail: RuntimeError: ",
    "cell=custom cell.target=owncells.Needy": "cell.args.much is not set: give it a value, cell.args.much=...",
    "cell=custom cell.target=owncells.Needy cell.args.much=x": "cell.args.much=x: must be a whole number",
    "cell=custom cell.target=owncells.Leaky cell.args.alpha=x": "cell.args.alpha=x: must be a number",
    "cell=custom cell.target=owncells.Leaky cell.args=3": "cell.args=3: must be several settings",
    "cell=custom cell.target=owncells.Leaky cell.alpha=3": "there is no setting 'cell.alpha'. cell=custom has",
    "task=custom task.target=owncells.Leaky": "must be a subclass of seqmem.tasks.base.Task",
}


pytestmark = pytest.mark.usefixtures("no_cuda")


@pytest.fixture
def files(tmp_path: Path) -> None:
    (tmp_path / "owncells.py").write_text(OWN_CELLS)
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "importer.py").write_text("import nothere")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("part", range(4))
def test_invalid_commands_are_refused(tmp_path: Path, typed: Callable[..., Completed], part: int) -> None:
    """An invalid command gives one line, exit code 2, and no run directory."""
    for line, message in list(REFUSED.items())[part::4]:
        typed("train", *line.split()).refuses(message, code=2)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_mistake_in_a_users_own_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = FILES[name]
    path = Path("own", name)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    line = mistake_in(path, path.parent.name)
    assert line is None if not message else line is not None and line.startswith(str(path)) and message in line, line


def test_a_choice_of_a_users_own_file_is_refused_in_its_words(typed: Callable[..., Completed]) -> None:
    Path("own/experiment").mkdir(parents=True)
    for choice, (content, message) in CHOSEN.items():
        name = choice.partition("=")[2]
        Path("own/experiment", name if "." in name else f"{name}.yaml").write_text(f"# @package _global_\n{content}\n")
        typed("train", "-cd", "own", choice).refuses(message, code=2)
    typed("train", "-cd", "own/experiment", "experiment=typo").refuses("DIR/experiment/typo.yaml by -cd DIR", code=2)
    typed("train", "experiment=own/experiment/typo").refuses("is a path; write -cd own experiment=typo", code=2)
    listed = typed("list", "-cd", "own")
    assert listed.code == 1
    assert "own/experiment/old.yml: settings are in files whose names end in .yaml" in listed.err


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("part", range(2))
def test_invalid_values_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    """The library raises the same lines as ValueErrors, in half the time."""
    monkeypatch.chdir(tmp_path)
    for line, message in list(VALUES.items())[part::2]:
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            seqmem.train(*line.split())
        assert "\n" not in str(error.value)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.usefixtures("files")
def test_a_sweep_with_a_wrong_job_is_refused_as_a_whole(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    custom = "cell=custom cell.target=owncells.Leaky"
    for line, parts in {
        "seq_len=8,6": ["1 of 2 jobs cannot run", "job 2 (seq_len=6): seq_len=6 is too short for task=pronoun"],
        "cell=rnn,lstm seed=0,x": ["2 of 4 jobs", "job 2 (cell=rnn seed=x)", "job 4 (cell=lstm seed=x): seed=x: 'x'"],
        "cell=lstm,rnn cell.forget_bias=1": [
            "job 2 (cell=rnn): there is no setting 'cell.forget_bias'",
            "cell=rnn has nonlinearity, init; a sweep sets it for every cell: set it for some in a file of your own",
            ", DIR/cell/NAME.yaml, chosen by -cd DIR cell=NAME",
        ],
        "cell=owncells.Stateless,owncells.Leaky cell.args.beta=1": ["2 of 2 jobs", "no setting 'cell.args.beta'"],
        "cell=lstm,rnn cell.args.alpha=1": ["2 of 2 jobs", "job 1 (cell=lstm): there is no setting 'cell.args'"],
        "task=pronoun,subject task.people=4": ["job 2 (task=subject)", "'task.people'. task=subject has difficulty"],
        "optimizer=sgd,adam optimizer.momentum=0.5": [
            "1 of 2 jobs",
            "optimizer=adam has lr, betas, eps, weight_decay;",
        ],
        "optimizer=sgd,rmsprop optimizer.momntum=1": [
            "2 of 2",
            "'optimizer.momntum'. Did you mean 'optimizer.momentum",
        ],
        "cell=lstm,lstmm": ["job 2 (cell=lstmm): no cell is called 'lstmm'. Did you mean 'lstm'?"],
        "sed=0,1": ["2 of 2 jobs cannot run", "Did you mean 'seed'?"],
        f"{custom} cell.args.alpha=0.5,x": ["1 of 2 jobs", "cell.args.alpha=x: must be a number"],
        "cell=custom cell.target=owncells.Narrow": ["1 of 1 jobs", "make it by self.inner.weight.new_zeros(...)"],
        "device=cpu,cuda": ["1 of 2 jobs", "torch sees no CUDA device"],
    }.items():
        completed = typed("train", "-m", *TINY[1:], *line.split())
        assert completed.code == 2, completed
        assert completed.out == ""
        first, *others = completed.err.splitlines()
        assert first.startswith("seqmem train: ")
        assert first.endswith("so none was started:")
        assert all(other.startswith("  job ") for other in others)
        for part in parts:
            assert part in completed.err
    assert runs_below(tmp_path) == []


def test_errors_of_other_verbs(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    for line in ("trian", "trian cell=lstm"):
        completed = typed(*line.split())
        assert completed == Completed(2, "", completed.err)
        assert completed.err.startswith(
            "seqmem: there is no command 'trian'. Did you mean 'train'? One of: train, eval"
        )
    completed = typed("cell=lstm")
    assert completed.err.startswith(
        "seqmem: there is no command 'cell=lstm'. Settings follow a verb: seqmem train cell=lstm."
    )
    assert completed.code == 2
    for line, message in {
        "nowhere": "nowhere: no run there; outputs has none yet",
        f"{tmp_path}": "is not a run",
    }.items():
        typed("eval", *line.split()).refuses(message, code=1, verb="eval")
    for line, message in {
        "": "the following arguments are required: RUN; see seqmem eval --help",
        "--xyz run": "unrecognized arguments: --xyz",
        "run xyz": "'xyz' is not a setting: seq_len=, sequences=, beam= and device= are",
        "run xyz=3": "'xyz=3' is not a setting",
        "run seq_len=ten": "seq_len, sequences and beam are whole numbers, e.g. seq_len=10,20,50",
        "run seq_len=": "seq_len, sequences and beam are whole numbers",
        "run sequences=0": "sequences=0: must be at least 1",
    }.items():
        typed("eval", *line.split()).refuses(message, code=2, verb="eval")


def test_eval_refuses_runs_and_lengths(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    assert typed("train", *TINY, "quiet=true").code == 0
    run = only_run(tmp_path)
    assert "8 (trained)" in typed("eval", run.name[-8:], "seq_len=8", "sequences=5").out  # a part of the name suffices
    assert typed("train", *TINY, "quiet=true", "seed=1").code == 0
    typed("eval", "pronoun/lstm", "seq_len=8").refuses("pronoun/lstm matches 2 runs, ", code=1, verb="eval")
    typed("eval", str(run), "seq_len=8,3").refuses(
        "seq_len=3 is too short for task=pronoun: at least 7", code=2, verb="eval"
    )
    typed("eval", str(run), "seq_len=8", "device=cuda").refuses("torch sees no CUDA device", code=2, verb="eval")
    whole = (run / "checkpoint.pt").read_bytes()
    (run / "checkpoint.pt").write_bytes(whole[:5000])
    typed("eval", str(run), "seq_len=8").refuses("checkpoint.pt cannot be read", code=1, verb="eval")
    (run / "checkpoint.pt").write_bytes(whole)
    (run / "result.json").rename(run / "elsewhere.json")
    typed("eval", str(run), "seq_len=8").refuses("is not finished", code=1, verb="eval")


def test_a_damaged_checkpoint(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """Every kind of damage gives one line that names the remedy, and the remedy works."""
    assert typed("train", *TINY, "quiet=true").code == 0
    run = only_run(tmp_path)
    (run / "result.json").unlink()
    whole = (run / "checkpoint.pt").read_bytes()
    for damaged in (b"", b"garbage" * 100, whole[: len(whole) // 2], whole[:-20], b"\0" * len(whole)):
        (run / "checkpoint.pt").write_bytes(damaged)
        completed = typed("train", *TINY, "quiet=true")
        completed.refuses("checkpoint.pt cannot be read", code=1)
        assert "force=true" in completed.err
        assert json.loads((run / "status.json").read_text())["state"] == "failed"
        assert (run / "checkpoint.pt").read_bytes() == damaged
    for name in ("metrics.jsonl", "gradients.npz", "events.out.tfevents.0.seqmem"):
        (run / "checkpoint.pt").write_bytes(whole)
        stored = (run / name).read_bytes()
        (run / name).write_bytes(stored[: len(stored) // 2])
        typed("train", *TINY, "quiet=true").refuses(name, code=1)
        (run / name).write_bytes(stored)
    assert typed("train", *TINY, "quiet=true", "force=true") == Completed(0, "", "")
    assert (run / "result.json").exists()


def test_an_unwritable_directory(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    (tmp_path / "file").write_text("in the way")
    for outputs in ("file", "file/below", "/dev/null/below", "/proc/xyz"):
        typed("train", *TINY, f"outputs={outputs}").refuses(f"cannot write to {outputs}", code=1)
    assert (tmp_path / "file").read_text() == "in the way"
    completed = typed("train", "-m", *TINY, "outputs=file", "seed=0,1")
    assert completed.code == 1
    assert "Traceback" not in completed.err


def test_a_full_disk(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """A limit on file size stops the run with one line; with more room it resumes to the same numbers."""
    tiny = [setting for setting in TINY if not setting.startswith(("steps=", "checkpoint_every="))]
    command = ["train", *tiny, "steps=80", "checkpoint_every=20", "quiet=true"]
    for limit in (100, 9_000, 20_000):  # too small for the description, for the checkpoint, for the events
        with largest_file(limit):
            completed = typed(*command)
        completed.refuses("cannot write to outputs/pronoun/lstm/len8", code=1)
        assert "File too large" in completed.err
    assert typed(*command) == Completed(0, "", "")
    run = only_run(tmp_path)
    assert not list(run.glob("*.partial"))
    assert typed(*command, "outputs=whole").code == 0
    assert (run / "metrics.jsonl").read_bytes() == (only_run(tmp_path / "whole") / "metrics.jsonl").read_bytes()


NAN = (
    "task=adding", "cell=custom", "cell.target=owncells.Leaky", "cell.args.alpha=1", "optimizer=sgd",
    "optimizer.lr=0.03", "clip_norm=null", "steps=60", "checkpoint_every=4",
)  # fmt: skip


@pytest.mark.usefixtures("files")
def test_a_loss_that_is_no_number(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """The loss of a linear cell under too large steps grows until it overflows."""
    command = (
        "train",
        *(setting for setting in TINY if not setting.startswith(("steps=", "checkpoint_every="))),
        *NAN,
        "quiet=true",
    )
    completed = typed(*command)
    completed.refuses("the loss became ", code=1)
    completed.refuses("on_nan=continue trains on regardless", code=1)
    run = only_run(tmp_path)
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "failed"
    step = status["step"]
    assert f"at step {step};" in completed.err
    assert 4 < step < 60
    losses = {row["step"]: row["loss"] for row in rows(run) if row["kind"] == "train"}
    assert list(losses) == list(range(2, step, 2))  # every row before the failure, none after it
    assert all(math.isfinite(float(loss)) for loss in losses.values())
    assert (run / "checkpoint.pt").exists()
    assert (run / "gradients.npz").exists()
    assert not (run / "result.json").exists()
    assert "Diverged" in (run / "error.txt").read_text()

    stored = (run / "metrics.jsonl").read_bytes()
    assert typed(*command) == completed  # resumed from the last checkpoint, to the same failure
    assert (run / "metrics.jsonl").read_bytes() == stored

    assert typed(*command, "on_nan=continue") == Completed(0, "", "")
    (other,) = set(runs_below(tmp_path)) - {run}
    other_losses = {row["step"]: float(row["loss"]) for row in rows(other) if row["kind"] == "train"}
    assert list(other_losses) == list(range(2, 61, 2))
    assert not math.isfinite(other_losses[60])
    assert json.loads((other / "result.json").read_text())["loss"] in ("nan", "inf")


def test_the_whole_traceback_on_request(tmp_path: Path) -> None:
    for args in (("train", "cell=lstmm"), ("eval", "nowhere")):
        completed = forked(*args, cwd=tmp_path, HYDRA_FULL_ERROR="1")
        assert completed.code == 1
        assert "Traceback (most recent call last)" in completed.err
    completed = forked("train", "cell=lstmm", cwd=tmp_path)
    completed.refuses("no cell is called 'lstmm'", code=2)


VERBS_OVER_FOLDERS = ("show", "report", "verify", "read", "playground", "sweep status")


@pytest.fixture
def closed(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder beside a finished run that may not be read; a stand-in, for the superuser may read all."""
    folder, scandir = run.with_name("closed"), os.scandir
    folder.mkdir()

    def refusing(path: Any = ".") -> Any:
        if Path(os.fspath(path)).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    return folder


@pytest.mark.parametrize("verb", VERBS_OVER_FOLDERS)
def test_a_folder_that_may_not_be_read_is_not_called_empty(verb: str, closed: Path, typed: Typed) -> None:
    result = typed(*verb.split(), str(closed))
    assert f"{closed}" in result.out + result.err
    assert "cannot be read: Permission denied" in result.out + result.err
    assert result.code != 0
    assert len((result.out + result.err).splitlines()) <= 2, result


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(
    "verb", [*VERBS_OVER_FOLDERS[:-2], "playground --no-open", "sweep status", "sweep status --json"]
)
def test_a_folder_that_may_not_be_read_is_named_beside_the_runs(verb: str, closed: Path, typed: Typed) -> None:
    """The rest is done, and the exit code tells a script that it is not all."""
    result = typed(*verb.split(), str(closed.parent))
    assert "cannot be read: Permission denied" in result.out + result.err
    assert result.out
    assert result.code == 1


def test_a_full_disk_under_eval_loses_nothing(run: Path, typed: Typed) -> None:
    """The limit is just above the event file, which grows."""
    assert typed("eval", str(run), "seq_len=8", "sequences=2").code == 0
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with largest_file(len(before["events.out.tfevents.0.seqmem"]) + 10):
        result = typed("eval", str(run), "seq_len=9", "sequences=2")
    assert (result.code, result.err.count("\n")) == (1, 1), result
    assert result.err.startswith("seqmem eval: cannot write to ")
    for name, content in before.items():
        if name not in ("checksums.json", "evaluations.jsonl"):
            assert (run / name).read_bytes().startswith(content), name
    assert typed("show", str(run)).code == 0
    assert typed("eval", str(run), "seq_len=9", "sequences=2").code == 0
    assert typed("verify", str(run)).code == 0


@pytest.mark.parametrize("args", [("--version",), ("train", *TINY), ("train", "-m", *TINY, "seed=0,1")])
def test_an_output_that_cannot_be_written_is_one_line(
    args: tuple[str, ...], typed: Typed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run saves itself first; its files are not to blame."""
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        done = typed(*args)
    assert re.fullmatch(r"seqmem( train)?: the output: No space left on device(; the run saves itself)?\n", done.err)
    assert done.code in (1, 141)
    assert not list(Path().rglob("error.txt"))


def test_streams_that_were_closed_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under `<&- >&- 2>&-`, where Python has none."""
    monkeypatch.setattr(sys, "argv", ["seqmem", "--version"])
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main() == 0
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(RunError, match="its file system has no locks"), RunDirectory(tmp_path / "run").locked():
        pytest.fail("it is not locked")
    (tmp_path / "run" / "run.lock").touch()
    monkeypatch.setattr(FileLock, "acquire", lambda *_, **__: (_ for _ in ()).throw(Timeout("run.lock")))
    with pytest.raises(RunError, match=r"delete run\.lock"), RunDirectory(tmp_path / "run").locked():
        pytest.fail("it is not locked")
