"""The same command gives the same numbers, whatever ran before; another command never shares its directory."""

import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose

from commandline import TINY, Completed, assert_same_numbers, in_a_process, only_run, rows
from compilers import needs_kernels
from seqmem.cells import CELLS
from seqmem.cli.config.compose import own_hydra
from seqmem.cli.config.schema import RunConfig, from_mapping
from seqmem.cli.launch.one_run import run_path
from seqmem.kernels.loading import Library, load
from seqmem.optimizers import OPTIMIZERS
from seqmem.tasks import TASKS

NO_IDENTITY = {"device", "kernel", "threads", "deterministic", "checkpoint_every", "outputs", "force", "quiet"}

COMMAND = ("train", *TINY, "cell.hidden_size=33", "batch_size=17", "cell.layers=2", "quiet=true")


def test_same_bits_everywhere(tmp_path: Path, typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with four threads in its environment, and this one, in which much has happened.

    ``threads=2`` may change no bit where native kernels are used; torch's may add up in another order.
    """
    threads_here = "threads=2" if isinstance(load(), Library) else "threads=1"
    completed = in_a_process(*COMMAND, cwd=tmp_path, OMP_NUM_THREADS="4", MKL_NUM_THREADS="4", PYTHONHASHSEED="2")
    assert completed == Completed(0, "", "")
    assert typed(*COMMAND, "outputs=first").code == 0

    torch.manual_seed(11)
    torch.rand(7)
    random.seed(3)
    np.random.seed(4)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float32)
    monkeypatch.setenv("SOMETHING", "else")
    try:
        assert typed("train", *TINY, "task=text", "cell=gru", "quiet=true", "outputs=before").code == 0
        assert typed(*COMMAND, "outputs=here", threads_here, "checkpoint_every=1", "device=cpu").code == 0
    finally:
        torch.set_num_threads(threads)
    first = only_run(tmp_path / "outputs")
    for other in (only_run(tmp_path / "first"), only_run(tmp_path / "here")):
        assert other.name == first.name
        assert_same_numbers(other, first)


@needs_kernels
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_native_kernels_give_the_same_bits_on_any_number_of_threads(
    cell: str, tmp_path: Path, typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqmem.kernels import functions

    monkeypatch.setattr(functions, "OPERATIONS_PER_THREAD", 0.0)  # or so little work would stay on one thread
    calls = []
    run = functions.CallPlan.run

    def noted(job: functions.CallPlan, name: str, call: functions.Call) -> None:
        calls.append(call.threads)
        run(job, name, call)

    monkeypatch.setattr(functions.CallPlan, "run", noted)
    settings = ("train", *TINY, f"cell={cell}", "batch_size=70", "kernel=native", "quiet=true")
    for threads in (1, 3):
        assert typed(*settings, f"threads={threads}", f"outputs=on-{threads}").code == 0
        assert_same_numbers(only_run(tmp_path / f"on-{threads}"), only_run(tmp_path / "on-1"))
    assert set(calls) == {1, 3}


def test_batches_and_weights_come_from_the_seed_alone(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """Another seed gives other numbers from the start; another optimizer begins at the same place."""
    actual = {}
    for name, settings in {
        "seed 0": (), "seed 1": ("seed=1",), "sgd": ("optimizer=sgd",), "other cell": ("cell=rnn",),
        "no trace": ("trace.every=0",), "more looks": ("evaluate.every=1",),
    }.items():  # fmt: skip
        assert typed("train", *TINY, "quiet=true", f"outputs={name.replace(' ', '-')}", *settings).code == 0
        run = only_run(tmp_path / name.replace(" ", "-"))
        kinds = ("eval", "train")
        actual[name] = {(r["kind"], r["step"]): r["loss"] for r in rows(run) if r["kind"] in kinds}
    start, end = ("eval", 0), ("train", 6)
    assert actual["sgd"][start] == actual["seed 0"][start]
    assert actual["sgd"][end] != actual["seed 0"][end]
    assert actual["seed 1"][start] != actual["seed 0"][start]
    assert actual["other cell"][start] != actual["seed 0"][start]
    for untouched in ("no trace", "more looks"):  # looking changes nothing
        assert actual[untouched].items() >= actual["seed 0"].items()


# Identity


@pytest.fixture(scope="module")
def configurations() -> dict[str, RunConfig]:
    """The defaults under every cell, task and optimizer, one choice at a time."""
    choices = [
        *(f"cell={name}" for name in CELLS),
        *(f"task={name}" for name in TASKS),
        *(f"optimizer={name}" for name in OPTIMIZERS),
        "cell=custom cell.target=a.Cell ++cell.args.x=1",
    ]
    with own_hydra():
        return {choice: from_mapping(compose("train", overrides=choice.split())) for choice in choices}


def test_different_configurations_never_share_a_directory(configurations: dict[str, RunConfig]) -> None:
    """Every single setting, changed on its own, in every choice: as many directories as configurations."""
    places: dict[Path, Any] = {}
    count = 0
    for config in configurations.values():
        for changed in [config, *_changed(config)]:
            count += 1
            key = _everything(changed)
            assert places.setdefault(run_path(changed), key) == key, (places[run_path(changed)], key)
    distinct = {repr(key) for key in places.values()}
    assert len(distinct) == len(places)
    assert count > 300


def test_what_changes_no_number_changes_no_directory(configurations: dict[str, RunConfig]) -> None:
    for config in configurations.values():
        name = run_path(config).relative_to(config.outputs)
        for setting in NO_IDENTITY:
            other = deepcopy(config)
            setattr(other, setting, _another(getattr(config, setting)))
            assert run_path(other).relative_to(other.outputs) == name, setting
        other = deepcopy(config)  # a default of seq_len, which says it
        other.task["usual_seq_len"] += 1
        assert run_path(other) == run_path(config)


def test_equal_numbers_are_one_configuration() -> None:
    def where(*overrides: str) -> Path:
        return run_path(from_mapping(compose("train", overrides=[*overrides])))

    with own_hydra():
        usual = where()
        assert where("clip_norm=1") == where("clip_norm=1.0") == where("seed=0", "steps=1000") == usual
        assert where("optimizer.lr=3e-3") == where("optimizer.lr=0.003") == usual
        assert where("seq_len=50", "cell=lstm", "task=pronoun", "optimizer=adam") == usual
        assert where("optimizer.lr=1") == where("optimizer.lr=1.0") != usual
        assert where("cell.forget_bias=1") == where("cell.forget_bias=1.0") != usual
        names = [where(f"seed={seed}").name for seed in (0, 1, 10)]
        assert [name.rsplit("-", 1)[0] for name in names] == ["len50-seed0", "len50-seed1", "len50-seed10"]
        assert len(set(names)) == 3


def test_names_are_safe_in_paths() -> None:
    """Windows refuses some characters, and a class may be called anything that Python allows."""
    with own_hydra():
        config = from_mapping(compose("train", overrides=["cell=custom", "cell.target='a.b.Ünï_1'"]))
        assert run_path(config).parent == Path("outputs", "pronoun", "Ünï_1")
        config.cell["target"] = "a.b.C:D*?<x>"
        assert run_path(config).parent == Path("outputs", "pronoun", "C-D---x-")
        assert not set(run_path(config).name) & set('<>:"/\\|?*')


def _everything(config: RunConfig) -> dict[str, Any]:
    """What may tell two configurations apart: all but what is known to change no number."""
    actual = {name: value for name, value in vars(config).items() if name not in NO_IDENTITY}
    task = {name: value for name, value in config.task.items() if name != "usual_seq_len"}
    return {**deepcopy(actual), "task": task}


def _changed(config: RunConfig) -> Iterator[RunConfig]:
    """``config`` with one setting changed, for every setting that may change numbers, wherever it stands."""
    for path in _leaves(config):
        if path[0] in NO_IDENTITY or path == ("task", "usual_seq_len"):
            continue
        other = deepcopy(config)
        _put(other, path, [7] if path == ("evaluate", "lengths") else _another(_get(config, path)))
        yield other


def _leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    inner = node if isinstance(node, dict) else vars(node) if hasattr(node, "__dataclass_fields__") else None
    if inner is None:
        yield path
        return
    for name, value in inner.items():
        yield from _leaves(value, (*path, str(name)))


def _get(node: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        node = node[name] if isinstance(node, dict) else getattr(node, name)
    return node


def _put(node: Any, path: tuple[str, ...], value: Any) -> None:
    node = _get(node, path[:-1])
    if isinstance(node, dict):
        node[path[-1]] = value
    else:
        setattr(node, path[-1], value)


def _another(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, Enum):
        return next(option for option in type(value) if option is not value)
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, list | tuple):
        return [*value[:-1], _another(value[-1])]
    assert value is None, value
    return 7
