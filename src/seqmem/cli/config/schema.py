"""The typed configuration of a run, and where the YAML files that fill it in are. No torch here: help stays fast.

The settings of cells, tasks and optimizers have no types here: their own signatures are the definition (build.py).
"""

import re
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum, StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...cogscale import usual_length
from ...runs import settings as settings_of
from ...spaces import data_revision
from . import difficulty
from .commands import command
from .errors import ConfigError
from .home import expanded
from .initial import weights_of
from .odd_values import remember_all
from .own_code import PARTS, pinned
from .typed import Unsuitable, instance
from .wrapping import as_word


class Dtype(StrEnum):
    float32 = "float32"
    float64 = "float64"


class Precision(StrEnum):
    float32 = "float32"
    bf16 = "bf16"
    tf32 = "tf32"


OnNan = StrEnum("OnNan", {"stop": "stop", "continue": "continue"})  # `continue` cannot be written in a class body


class TraceLoss(StrEnum):
    last = "last"
    all = "all"


class Kernel(StrEnum):
    auto = "auto"
    native = "native"
    torch = "torch"
    step = "step"


@dataclass
class EvaluateConfig:
    every: int = 50
    sequences: int = 1000
    lengths: list[int] | None = None
    beam: int = 1
    validation: int | None = None


@dataclass
class TrainConfig:
    checkpoint_every_t: int | None = None
    sequences: int | None = None
    patience: int | None = None
    until_solved: bool = False
    schedule: str = "constant"
    warmup: int = 0
    omega: float | None = None


@dataclass
class TraceConfig:
    every: int = 0  # without conf/probe/gradient.yaml, in which it is 100
    sequences: int = 32
    loss: TraceLoss = TraceLoss.last


@dataclass
class CustomCell:
    """``cell=custom``: any class of the user's own; a typed dict takes any ``cell.args.NAME=``."""

    name: str = "custom"
    hidden_size: int = 64
    layers: int = 1
    params: int | None = None
    wrap: Any = None
    target: str = MISSING
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class CustomTask:
    """``task=custom``, likewise."""

    name: str = "custom"
    usual_seq_len: int = 50
    lengths: str = "fixed"
    shortest: int | None = None
    observable: bool = False
    target: str = MISSING
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class CustomModel:
    """``model=custom``, likewise."""

    name: str = "custom"
    target: str = MISSING
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunConfig:
    """One run. The comments in conf/train.yaml say what each setting means, ``runs.settings`` what its role is."""

    cell: Any = MISSING  # mappings, whose own signatures are their types
    task: Any = MISSING
    model: Any = field(default_factory=lambda: {"name": "recurrent"})
    optimizer: Any = MISSING
    seq_len: int = MISSING
    seed: int = 0
    init_from: str | None = None
    init_weights: str | None = None
    steps: int = 1000
    batch_size: int = 64
    embed_size: int = 32
    clip_norm: float | None = 1.0
    tbptt: int | None = None
    dtype: Dtype = Dtype.float32
    precision: Precision = Precision.float32
    compile: bool = False
    train: TrainConfig = field(default_factory=TrainConfig)
    on_nan: OnNan = OnNan["stop"]
    log_every: int = 10
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    trace: TraceConfig = field(default_factory=TraceConfig)  # of the gradient probe
    probe: dict[str, Any] = field(default_factory=dict)  # further probes: name -> settings

    device: str = "auto"
    kernel: Kernel = Kernel.auto
    threads: Any = "auto"  # or a whole number
    deterministic: bool = False
    checkpoint_every: int = 100
    outputs: str = "outputs"
    force: bool = False
    quiet: bool = False


def register() -> None:
    OmegaConf.register_new_resolver("command", command, replace=True)  # for the text of --help
    OmegaConf.register_new_resolver("usual_length", usual_length, replace=True)
    OmegaConf.register_new_resolver("graded", difficulty.graded, replace=True)
    store = ConfigStore.instance()
    if "run_schema.yaml" in store.repo:
        return
    store.store(name="run_schema", node=RunConfig)
    store.store(name="custom_cell_schema", node=CustomCell)
    store.store(name="custom_task_schema", node=CustomTask)
    store.store(name="custom_model_schema", node=CustomModel)


def conf_dir() -> Path:
    """The YAML files: inside the package where it was installed as a wheel, at the top level of a checkout."""
    packaged = Path(__file__).parents[2] / "conf"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[4] / "conf"


def from_mapping(settings: Any) -> RunConfig:
    """A typed configuration from a composed or a saved one. A user's own classes in it are pinned to their code.

    Raises:
        ConfigError: a setting is missing.
        omegaconf.errors.OmegaConfBaseException: a setting is unknown or of the wrong type.
    """
    plain = _plain(settings)
    remember_all(plain)
    try:
        config = instance(RunConfig, plain)
    except Unsuitable:
        config = _converted(plain)
    _check_whole_numbers(everything(config))
    for name in (*PARTS, "optimizer"):
        part = getattr(config, name)
        if isinstance(part, str):
            raise ConfigError(f"{name}: {part}: a file chooses it in its defaults: '- override /{name}: {part}'")
        if not isinstance(part, dict) or not isinstance(part.get("name"), str):
            raise ConfigError(f"{name}.name is not set: choose one, {name}=...")
    difficulty.check(config.task)
    if "wrap" in config.cell:
        config.cell = config.cell | {"wrap": as_word(config.cell["wrap"])}
    for name in PARTS:
        setattr(config, name, pinned(getattr(config, name)))
    config.probe = {name: pinned(part) for name, part in config.probe.items()}
    if not config.outputs.strip():
        raise ConfigError("outputs=: must name a directory")
    try:
        config.outputs = expanded(config.outputs)
    except ValueError as error:
        raise ConfigError(f"outputs={error}") from None
    if config.init_from is not None and config.init_weights is None:
        config.init_from = expanded(config.init_from)
        config.init_weights = weights_of(config.init_from)[1]
    elif config.init_from is None and config.init_weights is not None:
        raise ConfigError(f"init_weights={config.init_weights}: says which weights init_from=RUN has: name that run")
    # These are no part of a run's identity, so they are refused here where the run is finished already.
    check_device_name(config.device)
    chosen_threads(config.threads)
    if config.checkpoint_every < 1:
        raise ConfigError(f"checkpoint_every={config.checkpoint_every}: must be at least 1")
    return config


def _check_whole_numbers(values: Any, name: str = "") -> None:
    """Raise ConfigError for a whole number that no 64 bits can hold: torch and tables hold no more."""
    if isinstance(values, dict):
        for key, value in values.items():
            _check_whole_numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, list):
        for value in values:
            _check_whole_numbers(value, name)
    elif isinstance(values, int) and not -(2**63) <= values < 2**63:
        raise ConfigError(f"{name}={values}: must be from -2^63 to 2^63 - 1")


def check_device_name(name: str) -> None:
    """Raise ConfigError for what names no device on any machine."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise ConfigError(f"device={name}: must be auto, cpu, cuda or cuda:N")


def chosen_threads(given: Any) -> int | None:
    """The number of threads; None: ``auto``.

    Raises:
        ConfigError: it is neither.
    """
    if given == "auto":
        return None
    if not isinstance(given, int) or isinstance(given, bool):
        typed = "null" if given is None else str(given).lower() if isinstance(given, bool) else given
        raise ConfigError(f"threads={typed}: must be auto or a whole number")
    if given < 1:
        raise ConfigError(f"threads={given}: must be at least 1, or auto")
    return given


def _converted(plain: Any) -> RunConfig:
    """By OmegaConf, which converts types and refuses what cannot be converted."""
    merged = OmegaConf.merge(_types(), plain)
    _refuse_missing(merged)
    config = OmegaConf.to_object(merged)
    assert isinstance(config, RunConfig)  # what to_object makes of a structured config
    return config


@cache
def _types() -> Any:
    """Settings at their defaults, with their types. Built once: it costs as much as converting a configuration."""
    return OmegaConf.structured(RunConfig)


def _plain(settings: Any) -> Any:
    """As plain values, without the types that Hydra gave parts of it."""
    if not OmegaConf.is_config(settings):
        return settings
    try:
        plain = OmegaConf.to_container(settings, resolve=True, enum_to_str=True)
    except OmegaConfBaseException:
        _refuse_missing(settings)
        raise
    if _has_missing(plain):
        _refuse_missing(settings)
    return plain


def _has_missing(plain: Any) -> bool:
    values = plain.values() if isinstance(plain, dict) else plain if isinstance(plain, list) else ()
    return plain == MISSING or any(map(_has_missing, values))


def _refuse_missing(settings: Any) -> None:
    missing = sorted(OmegaConf.missing_keys(settings))  # slow: it looks at every node
    if missing:
        raise ConfigError(f"{missing[0]} is not set: give it a value, {missing[0]}=...")


def everything(config: RunConfig) -> dict[str, Any]:
    """All settings, as plain values."""
    return {item.name: _plain_value(getattr(config, item.name)) for item in fields(config)}


def _plain_value(value: Any) -> Any:
    if is_dataclass(value):
        return {item.name: _plain_value(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {key: _plain_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain_value(inner) for inner in value]
    return value


def identity(config: RunConfig) -> dict[str, Any]:
    """The settings that can change a run's numbers, the code of a user's own classes (``own_code.pinned``), and the
    revision of the data where they are not those of earlier versions."""
    settings = settings_of.identity(everything(config))
    revision = data_revision(config.task, config.seq_len) if isinstance(config.task, dict) else 1
    return settings | ({"data_revision": revision} if revision > 1 else {})
