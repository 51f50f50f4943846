"""The roles of settings, and the law that a new setting moves no run that is finished already."""

import re
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose

from seqmem.cli.config.own_hydra import own_hydra
from seqmem.cli.config.schema import RunConfig, everything, from_mapping, identity
from seqmem.cli.launch.one_run import run_path
from seqmem.runs import settings
from seqmem.runs.settings import IDENTITY, LATER, SETTINGS, Setting, flat, role, training_settings

ROOT = Path(__file__).parents[1]


def configured(*overrides: str) -> RunConfig:
    with own_hydra():
        return from_mapping(compose("train", overrides=list(overrides)))


def value_of(config: dict[str, Any], name: str) -> Any:
    """The value of a dotted setting or group."""
    value: Any = config
    for part in name.split("."):
        value = value[part]
    return value


@pytest.fixture(scope="module")
def usual() -> RunConfig:
    return configured()


@pytest.fixture(scope="module")
def translating() -> RunConfig:
    return configured("model=encoder_decoder", "task=phrases")


def with_setting(name: str, *configs: RunConfig) -> dict[str, Any]:
    """The first configuration that has the setting."""
    group, _, inner = name.partition(".")
    every = map(everything, configs)
    return next(one for one in every if not inner or inner.partition(".")[0] in one[group])


def test_every_setting_has_a_role(usual: RunConfig, translating: RunConfig) -> None:
    groups = {name.partition(".")[0] for name in SETTINGS}
    assert groups == {field.name for field in fields(RunConfig)}
    for name in SETTINGS:
        value_of(with_setting(name, usual, translating), name)  # KeyError or StopIteration: it is no setting


def test_later_settings_default_to_what_earlier_runs_were_made_with(usual: RunConfig, translating: RunConfig) -> None:
    """Else a run without the setting would be read as another run."""
    assert {name: value_of(with_setting(name, usual, translating), name) for name in LATER} == LATER


def test_a_run_of_a_model_without_its_later_settings_is_the_same_run(translating: RunConfig) -> None:
    old = everything(translating)
    later = {name.partition(".")[2] for name in LATER if name.startswith("model.")} - {"name"}
    assert later
    old["model"] = {name: value for name, value in old["model"].items() if name not in later}
    assert settings.identity(old) == identity(translating)
    assert training_settings(old) == training_settings(everything(translating))


def test_a_run_of_a_cell_or_task_without_its_later_options_is_the_same_run() -> None:
    for later, option, override in (("cell", "negative", "cell=mamba"), ("task", "variant", "task=temporal_order")):
        new = everything(configured(override))
        old = new | {later: {name: value for name, value in new[later].items() if name != option}}
        assert settings.identity(old) == settings.identity(new)
        assert training_settings(old) == training_settings(new)


def test_finished_runs_keep_their_directories(usual: RunConfig) -> None:
    """Runs of this name are on people's disks. A setting that is added later must not change it."""
    assert str(run_path(usual)) == "outputs/pronoun/lstm/len50-seed0-3c9425f3"


def test_runs_that_the_documents_name_have_these_names() -> None:
    """Commands of the documents are typed as printed: their runs are those that the same documents train."""
    named: set[tuple[str, ...]] = set()
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        named |= set(re.findall(r"(?:([a-z_]+)/)?([a-z_]+)/len(\d+)-seed(\d+)-([0-9a-f]{8})", document.read_text()))
    assert len(named) >= 3
    for task, cell, seq_len, seed, end in named:
        run = configured(f"task={task or 'pronoun'}", f"cell={cell}", f"seq_len={seq_len}", f"seed={seed}")
        assert run_path(run).name.endswith(end), (cell, seq_len, run_path(run))


def test_a_configuration_without_later_settings_is_the_same_run(usual: RunConfig) -> None:
    old = everything(usual)
    for name in LATER:
        if name.startswith("model.") and name != "model.name":
            continue  # of another model
        *groups, last = name.split(".")
        place: dict[str, Any] = old
        for group in groups:
            place = place[group]
        del place[last]
    assert settings.identity(old | {"train": None}) != settings.identity(everything(usual))
    del old["train"], old["model"]  # groups of later settings alone
    assert settings.identity(old) == settings.identity(everything(usual)) == identity(usual)
    assert training_settings(old) == training_settings(everything(usual))
    assert replace(from_mapping(old), cell=usual.cell, task=usual.task) == usual


@pytest.mark.parametrize(
    "override", ["tbptt=5", "precision=bf16", "compile=true", "train.checkpoint_every_t=3", "cell.coupled=true"]
)
def test_a_later_setting_with_another_value_is_another_run(usual: RunConfig, override: str) -> None:
    other = configured(override)
    name, _, _ = override.partition("=")
    assert flat(identity(other)) == flat(identity(usual)) | {name: flat(everything(other))[name]}
    assert run_path(other) != run_path(usual)


def test_a_new_group_is_one_line(usual: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    old = everything(usual)
    monkeypatch.setitem(SETTINGS, "kind.name", Setting("training", since="9", before="plain"))
    monkeypatch.setitem(LATER, "kind.name", "plain")
    plain, other = old | {"kind": {"name": "plain"}}, old | {"kind": {"name": "other", "depth": 2}}
    assert settings.identity(plain) == settings.identity(old)
    assert settings.identity(other) == settings.identity(old) | {"kind": {"name": "other", "depth": 2}}
    assert training_settings(old) == training_settings(plain)
    assert training_settings(other).items() >= {"kind.name": "other", "kind.depth": 2}.items()


def test_roles() -> None:
    for name in ("cell.forget_bias", "seq_len", "train.checkpoint_every_t", "train"):
        assert role(name) == "training"
    assert role("trace.every") == role("log_every") == "measuring"
    assert role("task.usual_seq_len") == "default"
    assert role("a.setting.of.tomorrow") == "training"


def test_flat_names_every_setting_once(usual: RunConfig) -> None:
    config = everything(usual)
    before = deepcopy(config)
    known = flat(config)
    assert known["optimizer.lr"] == config["optimizer"]["lr"]
    assert flat({"a": {"b": {}, "c": [1, 2]}, "d": None}) == {"a.c": [1, 2], "d": None}
    parts = [flat(config, *IDENTITY), flat(config, "default"), flat(config, "machine", "place")]
    assert sorted(name for part in parts for name in part) == sorted(known)
    assert config == before
