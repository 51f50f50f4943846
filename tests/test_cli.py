"""The command line: a run from its start to its files, what needs no torch, completion, a user's directory."""

import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from commandline import OWN_CELLS, TINY, Completed, environment, forked, only_run, rows, shadow
from seqmem.cells import CELLS
from seqmem.cli.launch.one_run import _git_commit
from seqmem.cli.main import VERBS
from seqmem.tasks import TASKS

STATES = ("hidden", "cell", "input")


def test_a_run_from_start_to_finish(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """Train, write every file, skip the run when it is repeated, and retrain to the same numbers with force=true."""
    command = ("train", "steps=30", "seq_len=10", "evaluate.every=10", "trace.every=10", "evaluate.sequences=100")
    completed = forked(*command, cwd=tmp_path)
    assert (completed.code, completed.err) == (0, "")
    run = only_run(tmp_path)
    assert run.relative_to(tmp_path).match("outputs/pronoun/lstm/len10-seed0-????????")
    assert str(run.relative_to(tmp_path)) in completed.out
    files = {path.name for path in run.iterdir()}
    assert files == {
        "config.json", "overrides.json", "environment.json", "status.json", "metrics.jsonl", "gradients.npz",
        "events.out.tfevents.0.seqmem", "checkpoint.pt", "checksums.json", "result.json", "run.lock",
    }  # fmt: skip

    result = json.loads((run / "result.json").read_text())
    assert (result["task"], result["cell"], result["seq_len"], result["seed"]) == ("pronoun", "lstm", 10, 0)
    assert (result["hidden_size"], result["layers"], result["steps"], result["device"]) == (64, 1, 30, "cpu")
    assert (result["metric"], result["chance"], result["baseline_loss"]) == ("accuracy", 0.25, math.log(4))
    weights = torch.load(run / "checkpoint.pt", weights_only=True)["training"]["model"]
    words, people = len(weights["embed.weight"]), len(weights["readout.bias"])
    assert result["parameters"] == 32 * words + 4 * 64 * (32 + 64 + 1) + (64 + 1) * people  # one bias a gate
    assert [row["seq_len"] for row in result["by_length"]] == [7, 10, 20, 40]
    assert result["score"] == result["by_length"][1]["score"]
    assert set(result["probes"]["gradient"]) == {"start", "end"}
    assert set(result["probes"]["gradient"]["end"]) == {"state", *STATES}
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert json.loads((run / "overrides.json").read_text()) == list(command[1:])
    config = json.loads((run / "config.json").read_text())
    assert (config["steps"], config["cell"]["forget_bias"], config["optimizer"]["lr"]) == (30, "chrono", 3e-3)
    about = json.loads((run / "environment.json").read_text())
    assert about["torch"] == torch.__version__
    assert about["command"][1:] == ["-m", "seqmem", *command]

    _check_metrics(run, result)
    _check_events(run, result)

    before = {path.name: path.read_bytes() for path in run.iterdir()}
    completed = typed(*command)
    assert (completed.code, completed.err) == (0, "")
    assert "already finished" in completed.out
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before

    completed = typed(*command, "force=true")
    assert (completed.code, completed.err) == (0, "")
    assert only_run(tmp_path) == run
    assert (run / "metrics.jsonl").read_bytes() == before["metrics.jsonl"]
    assert (run / "result.json").read_bytes() != before["result.json"]  # it took another time


def _check_metrics(run: Path, result: dict) -> None:
    logged_at = [(row["kind"], row["step"]) for row in rows(run)]
    for kind, steps in {"train": [10, 20, 30], "eval": [0, 10, 20, 30], "trace": [0, 10, 20, 30]}.items():
        assert [step for k, step in logged_at if k == kind] == steps
    assert [row["seq_len"] for row in rows(run) if row["kind"] == "length"] == [7, 10, 20, 40]
    train_rows = [row for row in rows(run) if row["kind"] == "train"]
    assert set(train_rows[0]) >= {"loss", "learning_rate", "gradient_norm", "gradient_norm_clipped"}
    assert train_rows[-1]["loss"] < train_rows[0]["loss"]
    assert all(row["gradient_norm_clipped"] <= 1 + 1e-6 for row in train_rows)
    with np.load(run / "gradients.npz") as archive:
        assert archive["step"].tolist() == [0, 10, 20, 30]
        for name in STATES:
            assert archive[f"norm/{name}"].shape == (4, 10, 32)
            assert archive[f"norm/{name}"].dtype == np.float64
            assert (archive[f"norm/{name}"] > 0).all()
    end = [row for row in rows(run) if row["kind"] == "trace"][-1]
    assert end["gradient"] == result["probes"]["gradient"]["end"]


def _check_events(run: Path, result: dict) -> None:
    (file,) = run.glob("*tfevents*")
    assert file.parent == run
    events = EventAccumulator(str(file), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert scalars >= {f"train/{name}" for name in ("loss", "learning_rate", "gradient_norm", "gradient_norm_clipped")}
    assert scalars >= {"eval/loss", "eval/score", "eval/score_by_length"}
    assert scalars >= {f"gradient/{name}" for name in ("horizon", "log10_arrives", "log10_least")}
    for group in ("gradient", *(f"gradient_{name}" for name in STATES)):
        for when in ("latest", "at start", "at end"):
            assert scalars >= {f"{group}/log10 by timestep ({when})", f"{group}/log10 by distance from answer ({when})"}

    def series(tag: str) -> dict[int, float]:
        return {point.step: point.value for point in events.Scalars(tag)}

    for row in rows(run):
        if row["kind"] in ("train", "eval"):
            assert series(f"{row['kind']}/loss")[row["step"]] == np.float32(row["loss"])
    by_length = {row["seq_len"]: np.float32(row["score"]) for row in result["by_length"]}
    assert series("eval/score_by_length") == by_length
    with np.load(run / "gradients.npz") as archive:
        for name in STATES:
            expected = np.log10(archive[f"norm/{name}"].mean(2)).astype(np.float32)
            for when, trace in (("at start", 0), ("at end", -1)):
                curve = series(f"gradient_{name}/log10 by timestep ({when})")
                assert list(curve) == list(range(10))
                np.testing.assert_allclose(list(curve.values()), expected[trace], rtol=1e-6)
            back = list(series(f"gradient_{name}/log10 by distance from answer (at end)").values())
            np.testing.assert_allclose(back, (expected[-1] - expected[-1][-2])[-2::-1], atol=1e-5)
    assert "gradient/heatmap" in events.Tags()["images"]
    assert set(events.Tags()["tensors"]) >= {"config", "summary", "answers"}
    for tag in ("experiment", "session_start_info", "session_end_info"):
        assert events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.plugin_name == "hparams"


LIGHT = """\
import contextlib, io, json, os, runpy, sys
results = []
for args in json.loads(sys.argv[1]):
    os.environ["COMP_LINE"] = ""
    if args[0].startswith("COMP_LINE="):
        os.environ["COMP_LINE"] = args.pop(0).removeprefix("COMP_LINE=")
    os.environ["HYDRA_FULL_ERROR"] = ""
    sys.argv = ["seqmem", *args]
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module("seqmem", run_name="__main__")
        except SystemExit as exception:
            code = exception.code
    results.append([code or 0, out.getvalue(), err.getvalue()])
assert not {"torch", "tensorboard", "sklearn"} & set(sys.modules), "heavy imports"
print(json.dumps(results))
"""


def test_help_and_completion_need_no_torch(tmp_path: Path) -> None:
    """All commands run in one process, and none of them imports torch."""
    (tmp_path / "mine" / "cell").mkdir(parents=True)
    (tmp_path / "mine" / "cell" / "clockwork.yaml").write_text("defaults: [custom, _self_]\ntarget: own.Clockwork\n")
    complete = ["-sc", "query=bash"]
    lines = {
        "empty": ["help"],
        "help": ["--help"],
        "version": ["--version"],
        "train help": ["train", "--help"],
        "config": ["train", "--cfg", "job", "cell=gru", "seq_len=33"],
        "info": ["train", "--info", "searchpath", "-cd", "mine"],
        "own": ["train", "-cd", "mine", "--cfg", "job", "cell=clockwork"],
        "verbs": ["COMP_LINE=seqmem ", *complete],
        "verb": ["COMP_LINE=seqmem tr", *complete],
        "cells": ["COMP_LINE=seqmem train cell=", *complete],
        "group": ["COMP_LINE=seqmem train ce", *complete],
        "folder": ["COMP_LINE=seqmem train task=cog", *complete],
        "option": ["COMP_LINE=seqmem train seq_len=9 cell=gru cell.fo", *complete],
        "other verb": ["COMP_LINE=seqmem watch out", *complete],
        "nonsense": ["COMP_LINE=seqmem train nonsense=", *complete],
        "install": ["-sc", "install=bash"],
        "list help": ["list", "--help"],
        "show help": ["show", "--help"],
        "watch help": ["watch", "--help"],
        "typo": ["trian"],
        "no cell": ["train", "cell=lstmm"],
        "no task": ["train", "task=cogscale/simple_cop"],
        "its name": ["train", "task=cogscale_simple_copy"],
    }  # fmt: skip
    completed = subprocess.run(
        [sys.executable, "-c", LIGHT, json.dumps(list(lines.values()))],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    completed = {name: Completed(*each) for name, each in zip(lines, json.loads(completed.stdout), strict=True)}
    for name in set(lines) - {"typo", "no cell", "no task", "its name"}:
        assert (completed[name].code, completed[name].err) == (0, ""), name

    for name in ("empty", "help"):
        for verb in VERBS:
            assert re.search(rf"^{verb}  ", completed[name].out, re.MULTILINE)
        assert max(map(len, completed[name].out.splitlines())) <= 80
    assert completed["version"].out == "seqmem 0.2.0\n"
    for part in (
        "seqmem train [-m]",
        "Current settings:",
        "cell: antisymmetric, attention, cornn, custom,",
        ", variable_copy, cogscale/",
        "seq_len",
        "optimizer:",
        "--cfg job",
    ):
        assert part in completed["train help"].out
    for part in ("name: gru", "seq_len: 33", "form: torch"):
        assert part in completed["config"].out
    assert str(tmp_path / "mine") in completed["info"].out
    assert "target: own.Clockwork" in completed["own"].out
    assert completed["verbs"].out.split() == list(VERBS)
    assert completed["verb"].out.split() == ["train", "trace"]
    assert completed["cells"].out.split() == [*sorted(f"cell={name}" for name in ("custom", *CELLS)), "cell=usual/lstm"]
    assert "task=cogscale/simple_copy" in completed["folder"].out.split()
    assert all(choice.startswith("task=cogscale/") for choice in completed["folder"].out.split())
    assert sorted(completed["group"].out.split()) == ["cell.", "cell="]
    assert set(completed["option"].out.split()) == {"cell.form=", "cell.forget_bias="}
    assert completed["other verb"].out.split() == []
    assert completed["nonsense"].out.split() == []
    assert "complete -o bashdefault -o default -F seqmem_completion seqmem" in completed["install"].out
    assert completed["typo"].code == completed["no cell"].code == 2
    for name in ("no task", "its name"):
        assert "Did you mean 'cogscale/simple_copy'? One of: adding, " in completed[name].err


@pytest.mark.parametrize("start", [("-m", "seqmem"), (str(Path(sys.executable).with_name("seqmem")),)])
def test_files_named_like_libraries_beside_the_user(start: tuple[str, ...], tmp_path: Path) -> None:
    """Every module of the standard library that Python does not import before any program, and what seqmem needs."""
    pythons = subprocess.run(
        [sys.executable, "-P", "-c", "import runpy, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    shadow(
        tmp_path, {*sys.stdlib_module_names, "numpy", "torch", "hydra", "omegaconf", "rich"} - {*pythons.stdout.split()}
    )
    done = subprocess.run(
        [sys.executable, *start, "train", "--cfg", "job"], cwd=tmp_path, env=environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "name: lstm" in done.stdout


def test_our_settings_files_are_parsed_once(typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process of the tests (quick_hydra.py): most of what a typed command costs."""
    typed("train", "cell=lstmm").refuses("lstmm", code=2)
    parsed: list[str] = []
    parse = OmegaConf.load
    monkeypatch.setattr(OmegaConf, "load", lambda file: parsed.append(file.name) or parse(file))
    typed("train", "cell=lstmm").refuses("lstmm", code=2)
    assert parsed == []


def test_completion_in_a_shell(tmp_path: Path) -> None:
    """Bash sources the printed script, which then completes words, however seqmem is started."""
    bash = shutil.which("bash")
    assert bash is not None
    script = """
        unset SEQMEM_COMMAND
        compopt() { echo -n "without a space: "; }  # it works during a completion alone
        offered() {
            eval "$($1 -sc install=bash)"
            line="$1 $2"
            words=($line); COMP_LINE=$line; COMP_POINT=${#line}; COMP_CWORD=$((${#words[@]} - 1))
            COMPREPLY=()
            $3
            echo "${COMPREPLY[@]}"
        }
        offered seqmem "train task=te" seqmem_completion
        offered seqmem "sw" seqmem_completion
        offered seqmem "train nonsense task=te" seqmem_completion
        offered "python -m seqmem" "train task=te" seqmem_module_completion
        offered "python -m seqmem" "sw" seqmem_module_completion
        line="python -m json"; COMP_LINE=$line; COMPREPLY=(); seqmem_module_completion; echo "${COMPREPLY[@]}"
        complete -p python | sed 's/.*-F//'
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    completed = subprocess.run(
        [bash, "--norc", "-c", script], cwd=tmp_path, env=environment(PATH=path),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    tasks = "without a space: task=temporal_order task=text"
    assert completed.stderr == ""  # of a mistake in the line nothing is printed into it
    lines = [tasks, "sweep", "", tasks, "sweep", "", " seqmem_module_completion python"]
    assert completed.stdout.splitlines() == lines


def test_a_users_own_configuration_directory(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """``-cd DIR``: a cell with the user's own class, and an experiment that selects it."""
    (tmp_path / "owncells.py").write_text(OWN_CELLS)
    for folder in ("cell", "experiment"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
    (tmp_path / "mine" / "cell" / "leaky.yaml").write_text(
        "defaults: [custom, _self_]\ntarget: owncells.Leaky\nargs: {alpha: 0.9}\n"
    )
    (tmp_path / "mine" / "experiment" / "short.yaml").write_text(
        "# @package _global_\ndefaults: [{override /cell: leaky}, {override /task: adding}]\nsteps: 4\nseq_len: 6\n"
    )
    tiny = [setting for setting in TINY if not setting.startswith(("steps=", "seq_len="))]
    completed = typed("train", "-cd", "mine", "experiment=short", *tiny)
    assert (completed.code, completed.err) == (0, "")
    run = only_run(tmp_path / "outputs")
    assert run.relative_to(tmp_path).match("outputs/adding/Leaky/len6-seed0-*")
    result = json.loads((run / "result.json").read_text())
    assert (result["steps"], result["cell"], result["task"]) == (4, "Leaky", "adding")
    assert set(result["probes"]["gradient"]["end"]) == {"state", "input", "h"}
    # The command line overrides the file, and other mistakes still give one line each.
    assert typed("train", "-cd", "mine", "experiment=short", *tiny, "cell.args.alpha=0.8", "steps=3").code == 0
    assert len(list((tmp_path / "outputs" / "adding" / "Leaky").iterdir())) == 2
    typed("train", "-cd", "mine", "cell=leaky", "sed=3").refuses("Did you mean 'seed'?", code=2)
    typed("train", "-cd", "mine", "experiment=shrt").refuses("Did you mean 'short'?", code=2)
    typed("train", "-cd", "nowhere").refuses("-cd nowhere: no such directory", code=2)


def test_every_task_cell_and_optimizer_trains(typed: Callable[..., Completed]) -> None:
    """Train every task, cell and optimizer at least once."""
    for choice in (
        "task=subject cell=rnn optimizer=sgd dtype=float64 trace.loss=all",
        "task=adding cell=gru optimizer=rmsprop cell.layers=2",
        "task=copy task.length=3 optimizer=adamw task.lengths=uniform embed_size=0",
        "task=temporal_order seq_len=10 evaluate.lengths=[10]",
        "task=digits task.scan=row", "task=text cell.params=5000 trace.every=0", "task=pronoun task.mentions=1",
    ):  # fmt: skip
        completed = typed("train", *TINY, *choice.split())
        assert (completed.code, completed.err) == (0, ""), choice


def test_evaluating_at_other_lengths(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """Write a table, a file and a curve; at the run's own length the score equals the one in result.json."""
    assert typed("train", *TINY, "quiet=true").code == 0
    run = only_run(tmp_path)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    completed = typed("eval", str(run), "seq_len=16,8,8", "sequences=8")
    assert (completed.code, completed.err) == (0, "")
    table = [line.split() for line in completed.out.splitlines()]
    assert [words[0] for words in table if words and words[0] in ("8", "16")] == ["8", "16"]
    evaluations = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert [(one["seq_len"], one["sequences"]) for one in evaluations] == [(8, 8), (16, 8)]
    result = json.loads((run / "result.json").read_text())
    assert (evaluations[0]["score"], evaluations[0]["loss"]) == (result["score"], result["loss"])
    events = EventAccumulator(str(next(run.glob("*tfevents*"))))
    events.Reload()
    curve = {point.step: point.value for point in events.Scalars("eval/score_by_length (seqmem eval)")}
    assert curve == {one["seq_len"]: np.float32(one["score"]) for one in evaluations}
    for name in set(before) - {"events.out.tfevents.0.seqmem", "checksums.json"}:
        assert (run / name).read_bytes() == before[name], name


@pytest.mark.parametrize("shape", [(), ("trace.every=0",)], ids=["traced", "not traced"])
def test_quiet_prints_nothing(typed: Callable[..., Completed], shape: tuple[str, ...]) -> None:
    for _ in range(2):
        completed = typed("train", *TINY, "quiet=true", *shape)
        assert completed == Completed(0, "", "")


def test_the_help_of_train_explains_every_setting(typed: Callable[..., Completed]) -> None:
    """With the comment beside the setting in its file, also of the cell, task and optimizer that are chosen."""
    out = typed("train", "--help", "cell=gru", "task=copy", "optimizer=sgd").out
    settings = out.partition("Current settings:\n")[2].partition("\n\n`")[0].splitlines()
    told = {
        line.partition(":")[0].strip(): line.partition("  # ")[2] for line in settings if re.match(r" *\w+: \S", line)
    }
    wrapped = {below.strip(" #") for below in settings if below.startswith("     ")}
    bare = [name for name, comment in told.items() if not comment and name not in ("probe", "seq_len")]
    assert not bare
    assert "timesteps that the model reads" in wrapped
    assert told["form"] == "torch: reset after the product, as in torch and cuDNN; cho: before it, as published"
    assert told["symbols"] == "different symbols, 2 to 26"
    assert told["nesterov"].startswith("true: look ahead")
    assert "crosses their borders, the gradient does not; one update sums all segments. null: off" in told["tbptt"]


def test_list_tells_all_about_one_choice(typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch) -> None:
    out = typed("list", "task", "pronoun").out
    assert 'people: 8          # 4 to 16, half of them "he"' in out
    example = re.search(r"example\n  (.*)\n  answer: (.*)\n", out)
    vocabulary = re.search(r"vocabulary, (\d+) words\n  (.*)\n", out)
    assert example is not None
    assert vocabulary is not None
    words = vocabulary[2].split()
    assert len(words) == len(set(words)) == int(vocabulary[1])
    assert set(example[1].split()) <= set(words)
    assert example[2] in example[1]  # whom the last word refers to is named
    assert out.rstrip().endswith("train task=pronoun")
    for task, chance in (("adding", "0.125 MSE at 4 timesteps, 0.1633 at 50, 0.1667 at many"), ("copy", "12.5 %")):
        assert f"  chance: {chance}\n" in typed("list", "task", task).out  # 1/6 - 1/12 of 1 in T/2
    assert "  0.1667 MSE (0.125 at 4)  0.1667 MSE" in typed("list", "tasks").out
    out = typed("list", "cell", "lstm").out
    for line in ("layers: 1", "states: hidden, cell", "gates: forget, input, output", "c_t     = f * c_{t-1} + i * g"):
        assert line in out
    monkeypatch.setenv("SEQMEM_COMMAND", "scripts/seqmem")
    out = typed("list", "experiment", "playground").out
    assert len(re.findall("^  scripts/seqmem train -m experiment=playground", out, re.MULTILINE)) == 3
    assert not re.search(r"(?<!/)\bseqmem (train|playground)", out)
    for kind in (*TASKS.values(), *CELLS.values()):  # what is drawn fits a terminal
        lines = (inspect.getdoc(inspect.getmodule(kind)) or "").splitlines()
        assert max((len(line) for line in lines if line.startswith(" ")), default=0) <= 78, kind
    sections = [line.split() for line in typed("list", "cells").out.splitlines() if line[:1] not in " "]
    assert sections[0][:2] == ["cells", "numbers:"]
    families = [" ".join(section[:-4]) for section in sections[1:] if section[-1] == "source"]
    assert "gated" in families
    typed("list", "cell", "lstn").refuses(
        "no cell is called 'lstn'. Did you mean 'lstm'? One of: antisymmetric,", code=2, verb="list"
    )
    typed("list", "cel").refuses("there is nothing called 'cel'. One of: cell, task", code=2, verb="list")


def test_the_commit_of_the_users_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is that of the working directory's repository; git is not asked where there is none."""
    monkeypatch.delenv("GIT_DIR", raising=False)
    below = tmp_path / "repository" / "below"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert _git_commit() is None

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=below.parent, capture_output=True, text=True, check=True).stdout

    git("init", "--quiet")
    git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "--allow-empty", "--message=first")
    assert _git_commit() == git("rev-parse", "HEAD").strip()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(below.parent / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(below.parent))
    assert _git_commit() == git("rev-parse", "HEAD").strip()
