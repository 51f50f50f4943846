"""The same command gives the same numbers, whatever ran before; different commands never share a directory."""

import random
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose
from omegaconf import OmegaConf

from commandline import TINY, Completed, assert_same_numbers, composed, in_a_process, only_run, rows, train
from compilers import needs_kernels
from seqmem.cells import CELLS
from seqmem.cli.config.own_files import called
from seqmem.cli.config.own_hydra import own_hydra
from seqmem.cli.config.schema import RunConfig, conf_dir, from_mapping
from seqmem.cli.launch.one_run import run_path
from seqmem.kernels.loading import Library, load
from seqmem.optimizers import OPTIMIZERS
from seqmem.tasks import TASKS

NO_IDENTITY = {
    *("device", "kernel", "threads", "deterministic", "checkpoint_every", "outputs", "force", "quiet"),
    "init_from",  # a path: init_weights has what is in it
}

DEFAULTS = ("usual_seq_len", "difficulty")
"""Settings of a task that are only what others are by default."""

SETTINGS = (*TINY, "cell.hidden_size=33", "batch_size=17", "cell.layers=2", "quiet=true")


@pytest.mark.usefixtures("no_cuda")
def test_same_bits_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new process with four threads in its environment agrees with this one, whose global state has changed.

    ``threads=2`` must not change a bit with native kernels; torch's own kernels may sum in another order.
    """
    threads_here = 2 if isinstance(load(), Library) else 1
    elsewhere = {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4", "PYTHONHASHSEED": "2"}
    assert in_a_process("train", *SETTINGS, cwd=tmp_path, **elsewhere) == Completed(0, "", "")
    monkeypatch.chdir(tmp_path)
    first = train(composed(*SETTINGS), outputs="first")

    torch.manual_seed(11)
    torch.rand(7)
    random.seed(3)
    np.random.seed(4)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float32)
    monkeypatch.setenv("SOMETHING", "else")
    try:
        train(composed(*TINY, "steps=1", "task=text", "cell=gru", "quiet=true"), outputs="before")
        here = train(composed(*SETTINGS), outputs="here", threads=threads_here, checkpoint_every=1, device="cpu")
    finally:
        torch.set_num_threads(threads)
    started_anew = only_run(tmp_path / "outputs")
    for other in (first, here):
        assert other.name == started_anew.name
        assert_same_numbers(other, started_anew)


@needs_kernels
@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_native_kernels_give_the_same_bits_on_any_number_of_threads(
    cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqmem.kernels import functions

    monkeypatch.setattr(functions, "OPERATIONS_PER_THREAD", 0.0)  # otherwise so little work stays on one thread
    calls = []
    run = functions.CallPlan.run

    def spy(job: functions.CallPlan, name: str, call: functions.Call) -> None:
        calls.append(call.threads)
        run(job, name, call)

    monkeypatch.setattr(functions.CallPlan, "run", spy)
    config = composed(*TINY, f"cell={cell}", "batch_size=70", "kernel=native", "quiet=true")
    on_1, on_3 = (train(config, threads=threads, outputs=f"{tmp_path}/on-{threads}") for threads in (1, 3))
    assert_same_numbers(on_3, on_1)
    assert set(calls) == {1, 3}


@pytest.mark.usefixtures("no_cuda")
def test_batches_and_weights_come_from_the_seed_alone(tmp_path: Path) -> None:
    """Another seed gives other numbers from the start; another optimizer starts from the same weights."""
    usual = composed(*TINY, "quiet=true")
    untraced, often = replace(usual.trace, every=0), replace(usual.evaluate, every=1)
    losses = {}
    for name, config in {
        "seed 0": usual,
        "seed 1": replace(usual, seed=1, steps=1),
        "sgd": composed(*TINY, "quiet=true", "optimizer=sgd"),
        "other cell": composed(*TINY, "quiet=true", "cell=rnn", "steps=1"),
        "measured otherwise": replace(usual, trace=untraced, evaluate=often),
    }.items():
        run = train(config, outputs=str(tmp_path / name))
        kinds = ("eval", "train")
        losses[name] = {(r["kind"], r["step"]): r["loss"] for r in rows(run) if r["kind"] in kinds}
    start, end = ("eval", 0), ("train", 6)
    assert losses["sgd"][start] == losses["seed 0"][start]
    assert losses["sgd"][end] != losses["seed 0"][end]
    assert losses["seed 1"][start] != losses["seed 0"][start]
    assert losses["other cell"][start] != losses["seed 0"][start]
    # Measuring does not change the training.
    assert losses["measured otherwise"].items() >= losses["seed 0"].items()


# Identity


@pytest.fixture(scope="module")
def configurations() -> list[RunConfig]:
    """The default configuration, and others in which every cell, task and optimizer occurs."""
    groups = {"cell": CELLS, "task": TASKS, "optimizer": OPTIMIZERS}
    count = max(map(len, groups.values()))
    choices = [{group: [*names][at % len(names)] for group, names in groups.items()} for at in range(count)]
    lines = ["", "cell=custom cell.target=a.Cell ++cell.args.x=1", " ".join(map("=".join, choices[-1].items()))]
    with own_hydra():
        usual, *others = (compose("train", overrides=line.split()) for line in lines)
        # Composing takes 0.1 s, and a choice of our files only puts one there.
        settings = OmegaConf.to_container(usual)
        assert isinstance(settings, dict)
        for choice in choices:
            chosen = {group: OmegaConf.load(called(name, conf_dir(), group)) for group, name in choice.items()}
            others.append(OmegaConf.create({**settings, **chosen}))
        configs = [from_mapping(one) for one in (usual, *others)]
    assert configs[-1] == configs[2]
    return configs


def test_different_configurations_never_share_a_directory(configurations: list[RunConfig]) -> None:
    """Changing any single setting gives a directory of its own: each of the default, and what others have instead."""
    places: dict[Path, Any] = {}
    count = 0
    for config in configurations:
        groups = {"cell", "task", "optimizer"} if places else set(vars(config))
        for variant in [config, *_variants(config, groups)]:
            count += 1
            key = _identity(variant)
            assert places.setdefault(run_path(variant), key) == key, (places[run_path(variant)], key)
    distinct = {repr(key) for key in places.values()}
    assert len(distinct) == len(places)
    assert count > 100


def test_settings_without_effect_on_numbers_do_not_change_the_directory(configurations: list[RunConfig]) -> None:
    for config in configurations:
        other = deepcopy(config)
        for setting in NO_IDENTITY:
            setattr(other, setting, _another(getattr(config, setting)))
        other.task["usual_seq_len"] += 1  # only the default of seq_len, which is itself part of the identity
        other.task["difficulty"] = "hard"  # only the default of settings which are themselves part of it
        assert run_path(other).relative_to(other.outputs) == run_path(config).relative_to(config.outputs)


def test_equal_numbers_are_one_configuration() -> None:
    """1 is 1.0 and 3e-3 is 0.003, and a setting at its default is the default."""

    def config(*overrides: str) -> RunConfig:
        with own_hydra():
            return from_mapping(compose("train", overrides=[*overrides]))

    usual = config()
    assert run_path(config("clip_norm=1", "optimizer.lr=3e-3", "seed=0", "steps=1000")) == run_path(usual)
    whole = ("seq_len=50", "cell=lstm", "task=pronoun", "optimizer=adam")
    assert run_path(config("clip_norm=1.0", "optimizer.lr=0.003", *whole)) == run_path(usual)
    one = run_path(config("optimizer.lr=1", "cell.forget_bias=1"))
    assert one == run_path(config("optimizer.lr=1.0", "cell.forget_bias=1.0")) != run_path(usual)
    names = [run_path(replace(usual, seed=seed)).name for seed in (0, 1, 10)]
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


def _identity(config: RunConfig) -> dict[str, Any]:
    """All settings that may change a number."""
    settings = {name: value for name, value in vars(config).items() if name not in NO_IDENTITY}
    task = {name: value for name, value in config.task.items() if name not in DEFAULTS}
    return {**deepcopy(settings), "task": task}


def _variants(config: RunConfig, groups: set[str]) -> Iterator[RunConfig]:
    """Copies of ``config`` that each change one setting of ``groups`` that may change a number, at any depth."""
    for path in _leaves(config):
        if path[0] not in groups - NO_IDENTITY or (path[:1] == ("task",) and path[-1] in DEFAULTS):
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
    """Another value of the same type."""
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
