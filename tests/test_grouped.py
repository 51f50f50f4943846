"""The quick ways to a job's settings against Hydra's and OmegaConf's own."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from seqmem.cli.config.grouped import Compositions
from seqmem.cli.config.own_hydra import own_hydra
from seqmem.cli.config.schema import RunConfig, _converted, everything, from_mapping
from seqmem.cli.config.typed import Unsuitable, instance

JOBS = (
    "cell.hidden_size=8 cell=gru task=adding seed=1 optimizer.lr=0.01 seed=2",
    "cell=usual/lstm optimizer=sgd optimizer.lr=1e-1 experiment=vanishing steps=3",
    "probe=[] +cell.new=1 +here={a:1}",
    "seq_len=${task.usual_seq_len} task.usual_seq_len=30 cell.hidden_size=${seq_len}",
    "task={mentions:1} cell.hidden_size=null clip_norm=null",
    "outputs='a,b' evaluate.lengths=[10,20] clip_norm=2",
    "cell=custom cell.target=mine.Cell ++cell.args.alpha=0.5 ++cell.args.deep={a:[1]}",
    "++probe.mine.target=mine.Probe ~task.mentions ~clip_norm",
)
REFUSED = (
    "experiment=null", "+cell=gru", "+seed=1", "cell=nothing", "cell=1", "cell@there=gru", "seed@there=1",
    "seq_len=many", "seq_len=1,2", "nothing=1", "=",
)  # fmt: skip


@pytest.fixture(scope="module")
def shared() -> Iterator[Compositions]:
    with own_hydra():
        yield Compositions("train")


def outcome(settings: Any, job: str) -> Any:
    """What composing gives: the settings in their order, with their types and flags; or the error."""
    try:
        composed = settings(job.split())
    except Exception as error:
        return type(error), str(error), str(error.__cause__)
    assert isinstance(composed, DictConfig)
    children: list[Any] = [composed._get_node(key) for key in composed]
    nodes = [(type(child), child._metadata.ref_type) for child in children]
    flags = composed._get_flag("struct"), composed._get_flag("readonly")
    return json.dumps(OmegaConf.to_container(composed, enum_to_str=True)), nodes, flags


@pytest.mark.parametrize("job", JOBS)
def test_jobs_that_share_their_files_compose_to_the_same(job: str, shared: Compositions) -> None:
    whole = outcome(lambda words: compose("train", overrides=words), job)
    assert isinstance(whole[0], str)
    assert outcome(shared.compose, job) == whole
    assert outcome(shared.compose, job) == whole  # the first has changed nothing


@pytest.mark.parametrize("job", REFUSED)
def test_mistakes_are_refused_in_the_same_words(job: str, shared: Compositions) -> None:
    whole = outcome(lambda words: compose("train", overrides=words), job)
    assert isinstance(whole[0], type)
    assert outcome(shared.compose, job) == whole


def test_files_are_read_once(shared: Compositions, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.compose(["cell=rnn", "seed=0"])
    monkeypatch.setattr("seqmem.cli.config.grouped.compose", None)
    seeds = [from_mapping(shared.compose(["seed=9", "cell=rnn", f"seq_len={length}"])).seq_len for length in (12, 13)]
    assert seeds == [12, 13]


PLAIN: dict[str, Any] = {
    "cell": {"name": "lstm", "hidden_size": 8}, "task": {"name": "copy"}, "optimizer": {"name": "adam", "lr": 1e-3},
    "seq_len": 12,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "suitable"),
    [
        ({}, True),
        ({"model": {"args": {"a": [1, {"b": None}]}, "name": "custom"}, "probe": {"mine": {"every": 2}}}, True),
        ({"clip_norm": None, "on_nan": "continue", "evaluate": {"lengths": [10, 20]}, "trace": {"loss": "all"}}, True),
        ({"clip_norm": 2.5, "train": {"checkpoint_every_t": 3}, "threads": 2, "kernel": "step", "tbptt": 4}, True),
        ({"clip_norm": 2}, False),
        ({"quiet": "yes"}, False),
        ({"seed": True}, False),
        ({"outputs": 3}, False),
        ({"evaluate": {"lengths": [10, "20"]}}, False),
        ({"cell": {"name": "${task.name}"}}, False),
        ({"cell": {"name": "???"}}, False),
        ({"cell": {"name": "lstm", 3: 4}}, False),
        ({"dtype": "float16"}, False),
        ({"nothing": 1}, False),
        ({"evaluate": {"nothing": 1}}, False),
        ({"probe": "gradient"}, False),
    ],
)
def test_typed_settings_are_what_omegaconf_makes_of_them(changes: dict[str, Any], suitable: bool) -> None:
    settings = {**PLAIN, **changes}
    if not suitable:
        with pytest.raises(Unsuitable):
            instance(RunConfig, settings)
        return
    quick, slow = instance(RunConfig, settings), _converted(settings)
    assert quick == slow
    assert json.dumps(everything(quick)) == json.dumps(everything(slow))


def test_missing_settings_are_not_typed() -> None:
    with pytest.raises(Unsuitable):
        instance(RunConfig, {name: value for name, value in PLAIN.items() if name != "seq_len"})
