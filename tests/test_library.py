"""seqmem in a notebook or a script: the command line's runs, without changes to the caller's process."""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.version import VersionBase

import seqmem
from commandline import OWN_CELLS, TINY, Completed, assert_same_numbers, environment, only_run, runs_below
from seqmem.cells import LSTM
from seqmem.randomness import generator
from seqmem.runs.directory import RunDirectory
from seqmem.runs.files import RunError
from seqmem.tasks import Adding


@pytest.fixture(autouse=True)
def _in_tmp(no_cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_equals_the_command_lines_run(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """Keywords, nested settings and the command line's words give one run, in one directory, with the same numbers."""
    outputs = tmp_path / "from the library's, ünïcode"
    run = seqmem.train(
        *TINY[2:],
        cell={"name": "gru", "form": "cho", "hidden_size": 4},
        task="adding",
        optimizer={"lr": 1e-3, "betas": (0.8, 0.99)},
        trace={"loss": "all"},
        clip_norm=None,
        seq_len=8,
        steps=6,
        quiet=True,
        outputs=outputs,
    )
    assert isinstance(run, RunDirectory)
    assert run.path.parents[2] == outputs
    completed = typed(
        "train", *TINY, "cell=gru", "cell.form=cho", "task=adding", "optimizer.lr=0.001", "optimizer.betas=[0.8,0.99]",
        "trace.loss=all", "clip_norm=null", "quiet=true",
    )  # fmt: skip
    assert completed == Completed(0, "", "")
    typed_run = only_run(tmp_path / "outputs")
    assert run.path.relative_to(run.path.parents[2]) == typed_run.relative_to(tmp_path / "outputs")
    assert_same_numbers(run.path, typed_run)

    result = run.result()
    assert result is not None
    assert result["score"] == json.loads((typed_run / "result.json").read_text())["score"]
    assert [row["step"] for row in run.metrics() if row["kind"] == "train"] == [2, 4, 6]
    gradients = run.gradients()
    assert gradients is not None
    assert gradients.norms["hidden"].shape == (3, 8, 2)
    # A finished run is not repeated, whichever way its settings are written.
    before = (run.path / "result.json").stat().st_mtime_ns
    repeated = seqmem.train(
        *(setting for setting in TINY if not setting.startswith("cell.")),
        "cell=gru", "cell.form=cho", **{"cell.hidden_size": 4}, task="adding", trace={"loss": "all"}, clip_norm=None,
        optimizer={"lr": 0.001, "betas": [0.8, 0.99]}, quiet=True, outputs=str(outputs),
    )  # fmt: skip
    assert repeated.path == run.path
    assert (run.path / "result.json").stat().st_mtime_ns == before


def test_a_users_own_cell(tmp_path: Path) -> None:
    (tmp_path / "owncells.py").write_text(OWN_CELLS)
    cell = {"name": "custom", "target": "owncells.Leaky", "hidden_size": 4, "args": {"alpha": 0.9}}
    run = seqmem.train(*TINY, cell=cell, quiet=True)
    result = run.result()
    assert result is not None
    assert (result["cell"], set(result["probes"]["gradient"]["end"])) == ("Leaky", {"state", "input", "h"})
    assert run.config()["cell"]["args"] == {"alpha": 0.9}
    before = (run.path / "result.json").stat().st_mtime_ns
    for kind in (importlib.import_module("owncells").Leaky, "owncells.Leaky"):  # the class itself, and by its name
        again = seqmem.train(*TINY, cell={"name": kind, "hidden_size": np.int64(4), "args": {"alpha": 0.9}}, quiet=True)
        assert (again.path, (run.path / "result.json").stat().st_mtime_ns) == (run.path, before)


def test_a_users_own_task(tmp_path: Path) -> None:
    (tmp_path / "owntasks.py").write_text("from seqmem.tasks import Adding\n\nclass Mine(Adding):\n    pass\n")
    sys.path.insert(0, str(tmp_path))
    run = seqmem.train(*TINY, task=importlib.import_module("owntasks").Mine, quiet=True)
    assert (run.config()["task"]["target"], run.path.parts[-3]) == ("owntasks.Mine", "Mine")


def test_errors_are_one_line(tmp_path: Path) -> None:
    for settings, message in (
        ({"cell": "lstmm"}, "no cell is called 'lstmm'. Did you mean 'lstm'?"),
        ({"sed": 1}, "there is no setting 'sed'. Did you mean 'seed'?"),
        ({"cell": {"name": "rnn", "forget_bias": 1}}, "cell=rnn has hidden_size"),
        ({"seq_len": 2}, "seq_len=2 is too short for task=pronoun: at least 7"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr=fast: must be a number"),
        ({"optimizer": {"name": "sgd", "momentum": None}}, "optimizer.momentum=null: must be a number"),
    ):
        with pytest.raises(ValueError, match=r".") as error:
            seqmem.train(**settings)  # pyright: ignore[reportArgumentType]
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"^cannot write to file/pronoun/lstm/"):
        seqmem.train(*TINY, outputs="file")
    assert runs_below(tmp_path) == []


@contextmanager
def _unchanged() -> Iterator[None]:
    """Check that global state is unchanged. Python's random state is left out, as beartype uses it."""

    def state() -> dict[str, object]:
        numpy = np.random.get_state()
        return {
            "directory": Path.cwd(),
            "environment": dict(os.environ),
            "modules' path": list(sys.path),
            "arguments": list(sys.argv),
            "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
            "dtype": torch.get_default_dtype(),
            "gradients": torch.is_grad_enabled(),
            "denormals": float(torch.tensor(1e-310, dtype=torch.float64) * 1.0),
            "torch's randomness": torch.get_rng_state().numpy().tobytes(),
            "numpy's randomness": (numpy[1].tobytes(), numpy[2]),  # pyright: ignore
            "hydra": GlobalHydra.instance().hydra,
            "hydra's version": VersionBase.instance().getbase(),
            "hydra's configuration": HydraConfig.instance().cfg,
            "hydra's singletons": set(Singleton._instances),
        }

    before = state()
    yield
    after = state()
    for name, value in before.items():
        assert after[name] == value, name


def test_threads_train_one_after_the_other(tmp_path: Path) -> None:
    """Each has the numbers that it has alone, and nothing global is left changed."""
    settings: dict[str, Any] = {
        "seq_len": 8, "steps": 20, "batch_size": 4, "embed_size": 4, "quiet": True, "trace": {"every": 0},
        "evaluate": {"sequences": 8, "lengths": [8], "every": 10},
    }  # fmt: skip
    cells = [{"name": "lstm", "hidden_size": 4}, {"name": "gru", "hidden_size": 5}]
    alone = [seqmem.train(cell=cell, outputs=str(tmp_path / "alone"), **settings).result() for cell in cells]
    before = (torch.get_num_threads(), torch.get_default_dtype(), torch.get_rng_state().tolist())
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(seqmem.train, cell=cell, outputs=str(tmp_path / "beside"), **settings) for cell in cells]
        beside = [call.result().result() for call in calls]
    for one, other in zip(alone, beside, strict=True):
        assert one is not None
        assert other is not None
        assert (one["loss"], one["score"]) == (other["loss"], other["score"])
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.get_rng_state().tolist()) == before


def test_the_callers_global_state_is_unchanged(tmp_path: Path) -> None:
    """The global state is unusual, and the caller is a Hydra application; some of the settings are refused."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "app.yaml").write_text("colour: red\n")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_flush_denormal(False)
    torch.manual_seed(5)
    try:
        with initialize_config_dir(str(mine), version_base="1.2"):
            seqmem.train(*TINY, seed=99, quiet=True)  # imports and caches that are filled once
            assert compose("app").colour == "red"
            with _unchanged():
                seqmem.train(*TINY, quiet=True)
                seqmem.train(*TINY, quiet=True)  # finished already
                with pytest.raises(ValueError, match="steps=0"):
                    seqmem.train(steps=0)
                with pytest.raises(ValueError, match="Did you mean 'seed'"):
                    seqmem.train(sed=0)
            assert compose("app", overrides=["colour=blue"]).colour == "blue"
    finally:
        torch.set_num_threads(threads)


def test_deterministic_algorithms_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless they must change they are not even set, as setting them imports torch's compiler, for seconds."""
    calls: list[tuple[bool, bool]] = []
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", lambda mode, *, warn_only=False: calls.append((mode, warn_only))
    )
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    monkeypatch.setattr(torch, "is_deterministic_algorithms_warn_only_enabled", lambda: True)
    seqmem.train(*TINY, quiet=True)
    assert calls == []
    seqmem.train(*TINY, quiet=True, deterministic=True, force=True)
    assert calls == [(True, False), (True, True)]


ALONE = """\
import random, sys
import seqmem
assert not {"torch", "hydra", "rich", "numpy"} & set(sys.modules), "importing does something"
assert set(seqmem.__all__) <= set(dir(seqmem))
try:
    seqmem.trian
except AttributeError as error:
    assert "has no attribute 'trian'" in str(error)

from seqmem import SequenceModel, gradient_trace
from seqmem.cells import RNN
from seqmem.optimizers import OPTIMIZERS
from seqmem.tasks import TASKS
import torch
assert not {"hydra", "omegaconf", "rich", "tensorboard"} & set(sys.modules), "the core needs the runner"
task = TASKS["adding"]()
model = SequenceModel.for_task(task, lambda size: RNN(size, 3))
norms = gradient_trace(model, task, task.sample(2, 6, torch.Generator().manual_seed(0)))
assert {name: tuple(values.shape) for name, values in norms.items()} == {"input": (6, 2), "hidden": (6, 2)}
assert not {"hydra", "omegaconf", "rich", "tensorboard"} & set(sys.modules), "the core needs the runner"

for make in OPTIMIZERS.values():  # torch's own optimizers import its compiler at their first step
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = make([parameter])
    parameter.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    assert not torch.equal(parameter.detach(), torch.ones(2))
small = ("seq_len=8", "quiet=true", "evaluate.sequences=8", "evaluate.lengths=[8]", "trace.sequences=2", "batch_size=4")
seqmem.train("steps=2", *small)
assert "torch._dynamo" not in sys.modules, "torch's compiler takes seconds to import"
assert "sympy" not in sys.modules, "a computer algebra that torch imports takes 35 MB"
before = random.getstate()
seqmem.train("steps=3", *small)
assert random.getstate() == before
"""


def test_importing_does_nothing_and_the_parts_work_alone(tmp_path: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "", "")
    assert len(runs_below(tmp_path)) == 2


def test_the_measurement_without_the_runner() -> None:
    """With a loss at the end and a cell that forgets nothing, the gradient does not decay."""
    task = Adding()
    torch.manual_seed(0)
    model = seqmem.SequenceModel.for_task(task, lambda size: LSTM(size, 5, forget_bias=30.0))
    norms = seqmem.gradient_trace(model, task, task.sample(3, 12, generator(0, "test")))
    assert set(norms) == {"input", "hidden", "cell"}
    assert all(values.shape == (12, 3) and values.dtype == torch.float64 for values in norms.values())
    assert (norms["cell"][0] > 0.3 * norms["cell"][-1]).all()
