"""What a run's settings are: which belong to its identity, which tell runs apart in tables, which concern the machine.

SETTINGS is the one list. A new setting is one line in it, with the version that added it and the value that runs
made before; at that value it is not part of a run's identity, so finished runs keep their directories.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from ..spaces import data_revision

Role = Literal["training", "measuring", "default", "machine", "place"]


IDENTITY: tuple[Role, ...] = ("training", "measuring")
"""Roles of the settings that make up a run's identity."""


@dataclass(frozen=True)
class Setting:
    """One setting, or a group of settings.

    Args:
        role: ``training``: it can change what is learned. ``measuring``: what is measured and how often; it changes
            nothing about what is learned. ``default``: a default of another setting.
            ``machine``: what computes, and how a run is saved; it cannot change a number by more than rounding.
            ``place``: where a run is written and what is printed meanwhile.
        since: the version of seqmem that added it; None: 0.1.0, the first.
        before: the value that runs of earlier versions were made with.
    """

    role: Role
    since: str | None = None
    before: Any = None


SETTINGS: dict[str, Setting] = {
    "cell": Setting("training"),
    "cell.wrap": Setting("training", since="0.3.0", before=None),
    "cell.peepholes": Setting("training", since="0.3.0", before=False),  # of lstm
    "cell.coupled": Setting("training", since="0.3.0", before=False),  # of lstm
    "task": Setting("training"),
    "task.difficulty": Setting("default", since="0.3.0", before="usual"),  # of the settings that it gives
    "task.usual_seq_len": Setting("default"),  # of seq_len
    "task.observable": Setting("training", since="0.3.0", before=False),
    "model.name": Setting("training", since="0.2.0", before="recurrent"),
    "model.attention_score": Setting("training", since="0.3.0", before="general"),  # of encoder_decoder
    "model.input_feeding": Setting("training", since="0.3.0", before=False),  # of encoder_decoder
    "optimizer": Setting("training"),
    "seq_len": Setting("training"),
    "seed": Setting("training"),
    "init_weights": Setting("training", since="0.2.0", before=None),  # those that init_from has, by content
    "steps": Setting("training"),
    "batch_size": Setting("training"),
    "embed_size": Setting("training"),
    "clip_norm": Setting("training"),
    "tbptt": Setting("training", since="0.2.0", before=None),
    "dtype": Setting("training"),
    "precision": Setting("training", since="0.2.0", before="float32"),
    "compile": Setting("training", since="0.2.0", before=False),
    "train.checkpoint_every_t": Setting("training", since="0.2.0", before=None),
    "train.sequences": Setting("training", since="0.3.0", before=None),
    "train.patience": Setting("training", since="0.3.0", before=None),
    "train.until_solved": Setting("training", since="0.3.0", before=False),
    "train.schedule": Setting("training", since="0.3.0", before="constant"),
    "train.warmup": Setting("training", since="0.3.0", before=0),
    "train.omega": Setting("training", since="0.3.0", before=None),
    "on_nan": Setting("training"),
    "log_every": Setting("measuring"),
    "evaluate": Setting("measuring"),
    "evaluate.beam": Setting("measuring", since="0.3.0", before=1),
    "evaluate.validation": Setting("measuring", since="0.3.0", before=None),
    "trace": Setting("measuring"),
    "probe": Setting("measuring", since="0.2.0", before={}),
    "device": Setting("machine"),
    "kernel": Setting("machine"),
    "threads": Setting("machine"),
    "deterministic": Setting("machine"),
    "checkpoint_every": Setting("machine"),
    "outputs": Setting("place"),
    "init_from": Setting("place"),
    "force": Setting("place"),
    "quiet": Setting("place"),
}
"""Name, dotted as on the command line -> what it is. A setting that is not listed is what its group is.

The order is that of conf/train.yaml; settings by which runs differ are named in it.
"""

LATER: dict[str, Any] = {
    name: setting.before
    for name, setting in SETTINGS.items()
    if setting.since is not None and setting.role != "default"
}
"""Settings that 0.1.0 did not have -> the value that its runs were made with; without those that only give defaults."""

LATER_OF_TASKS: dict[str, dict[str, Any]] = {"temporal_order": {"task.variant": "pascanu"}}  # since 0.3.0
"""Task -> options that it got later, though other tasks have had one of that name -> the value of its earlier runs."""

LATER_OF_CELLS: dict[str, dict[str, Any]] = {"mamba": {"cell.negative": False}}
"""Cell -> options, likewise."""


def later(config: Mapping[str, Any]) -> dict[str, Any]:
    """The later settings of a run of this configuration -> the value that earlier runs were made with."""
    settings = dict(LATER)
    for part, of_names in (("task", LATER_OF_TASKS), ("cell", LATER_OF_CELLS)):
        chosen = config.get(part)
        settings |= of_names.get(str(chosen.get("name")), {}) if isinstance(chosen, Mapping) else {}
    return settings


def role(name: str) -> Role:
    """The role of a dotted setting, from the line of SETTINGS that names it, its group, or a setting in the group.

    A setting that SETTINGS does not know, in a run of another version, is ``training``.
    """
    while name not in SETTINGS and "." in name:
        name = name.rpartition(".")[0]
    if name in SETTINGS:
        return SETTINGS[name].role
    inner: list[Role] = [setting.role for other, setting in SETTINGS.items() if other.startswith(f"{name}.")]
    return inner[0] if inner else "training"


def flat(config: Mapping[str, Any], *roles: Role) -> dict[str, Any]:
    """A configuration with dotted names: ``optimizer.lr`` -> its value. Lists are values; an empty group is left out.

    Args:
        roles: only settings of these roles; all settings if none is given.
    """
    return {name: value for name, value in _leaves(config) if not roles or role(name) in roles}


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


OWN_LOOP = {"name": "own"}
"""The ``model`` of a run that ``seqmem.log`` wrote from a training loop of the user's own."""


def training_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ``training`` settings with dotted names: equal for runs that train alike, whichever versions made them."""
    return later(config) | flat(config, "training")


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that can change a run's numbers. A later setting is left out at the value of earlier runs."""
    return dict(_identifying(config, later(config)))


def _identifying(group: Mapping[str, Any], usual: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in group.items():
        name = f"{prefix}{key}"
        if role(name) not in IDENTITY or (name in usual and value == usual[name]):
            continue
        if isinstance(value, Mapping) and value:
            inner = dict(_identifying(value, usual, f"{name}."))
            if inner:
                yield key, inner
        else:
            yield key, value


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Eight hex digits of an identity. Equal numbers are equal (1 and 1.0); the order of settings does not matter."""
    return blake2b(json.dumps(_canonical(identity), sort_keys=True).encode(), digest_size=4).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def drew_other_data(config: Mapping[str, Any], environment: Mapping[str, Any]) -> bool:
    """An earlier version made the run, which drew other data at its settings."""
    return environment.get("data_revision", 1) != data_revision(config["task"], config["seq_len"])


def own_name(part: Mapping[str, Any]) -> str:
    """The name of a cell or a task in a configuration; a user's own class goes by the class's name, a cell of another
    package by its ``kind``.

    Raises:
        KeyError: it has no ``name``, or a custom one no ``target``.
    """
    if part["name"] == "custom":
        return str(part["target"]).rpartition(".")[2]
    return str(part.get("kind", part["name"]))


def as_typed(value: Any) -> str:
    """A value as it is written on the command line: ``null``, ``true``, ``chrono``."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
