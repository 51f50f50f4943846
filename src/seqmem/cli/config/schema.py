"""The typed configuration of a run, and where the YAML files that fill it in are. No torch here: help stays fast.

The settings of cells, tasks and optimizers have no types here: their own signatures are the definition (build.py).
"""

import difflib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.errors import CompactHydraException
from hydra.version import VersionBase
from omegaconf import MISSING, OmegaConf

from ...runs import settings as settings_of


class ConfigError(CompactHydraException):
    """A setting that the user can correct. The message is one line: what, where, what instead."""


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


@dataclass
class TrainConfig:
    checkpoint_every_t: int | None = None


@dataclass
class TraceConfig:
    every: int = 100
    sequences: int = 32
    loss: TraceLoss = TraceLoss.last


@dataclass
class CustomCell:
    """``cell=custom``: any class of the user's own; a typed dict takes any ``cell.args.NAME=``."""

    name: str = "custom"
    hidden_size: int = 64
    layers: int = 1
    params: int | None = None
    target: str = MISSING
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class CustomTask:
    """``task=custom``, likewise."""

    name: str = "custom"
    usual_seq_len: int = 50
    lengths: str = "fixed"
    shortest: int | None = None
    target: str = MISSING
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunConfig:
    """One run. The comments in conf/train.yaml say what each setting means, ``runs.settings`` what its role is."""

    cell: Any = MISSING  # mappings, whose own signatures are their types
    task: Any = MISSING
    optimizer: Any = MISSING
    seq_len: int = MISSING
    seed: int = 0
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
    trace: TraceConfig = field(default_factory=TraceConfig)

    device: str = "auto"
    kernel: Kernel = Kernel.auto
    threads: Any = "auto"  # or a whole number
    deterministic: bool = False
    checkpoint_every: int = 100
    outputs: str = "outputs"
    force: bool = False
    quiet: bool = False


def register() -> None:
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    store.store(name="custom_cell_schema", node=CustomCell)
    store.store(name="custom_task_schema", node=CustomTask)


def conf_dir() -> Path:
    """The YAML files: inside the package where it was installed as a wheel, at the top level of a checkout."""
    packaged = Path(__file__).parents[2] / "conf"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[4] / "conf"


@contextmanager
def own_hydra() -> Iterator[None]:
    """Hydra with our configuration alone; whatever application had set it up before finds it as it was."""
    known = Singleton._instances  # noqa: SLF001 (its own get_state copies everything there is, deeply)
    before = {kind: known.pop(kind) for kind in (GlobalHydra, VersionBase) if kind in known}
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield
    finally:
        for kind in (GlobalHydra, VersionBase):
            known.pop(kind, None)
        known.update(before)


def with_own_arguments(overrides: list[str]) -> list[str]:
    """``cell.args.alpha=0.9`` as Hydra wants it said: the settings of a user's own class are in no file."""
    return [re.sub(r"^(cell|task)\.args(?=[.=])", r"++\1.args", override) for override in overrides]


def from_mapping(settings: Any) -> RunConfig:
    """A typed configuration from a composed or a saved one.

    Raises:
        ConfigError: a setting is missing.
        omegaconf.errors.OmegaConfBaseException: a setting is unknown or of the wrong type.
    """
    merged = OmegaConf.merge(OmegaConf.structured(RunConfig), _plain(settings))
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise ConfigError(f"{missing[0]} is not set: give it a value, {missing[0]}=...")
    config = OmegaConf.to_object(merged)
    assert isinstance(config, RunConfig)  # what to_object makes of a structured config
    if not config.outputs.strip():
        raise ConfigError("outputs=: must name a directory")
    return config


def _plain(settings: Any) -> Any:
    """Without the types that Hydra gave parts of it: they have done their work."""
    if not OmegaConf.is_config(settings):
        return settings
    missing = sorted(OmegaConf.missing_keys(settings))
    if missing:
        raise ConfigError(f"{missing[0]} is not set: give it a value, {missing[0]}=...")
    return OmegaConf.to_container(settings, resolve=True, enum_to_str=True)


def everything(config: RunConfig) -> dict[str, Any]:
    """All settings, as plain values."""
    settings = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def identity(config: RunConfig) -> dict[str, Any]:
    """The settings that can change a run's numbers, and the code of a user's own classes."""
    settings = settings_of.identity(everything(config))
    return settings | {name: {**settings[name], **_own_code(settings[name])} for name in ("cell", "task")}


def _own_code(part: dict[str, Any]) -> dict[str, str]:
    """A hash of the file that a user's own class is in: changed code is another run."""
    if part.get("name") != "custom":
        return {}
    look_beside_the_user()
    try:
        spec = importlib.util.find_spec(str(part.get("target")).rpartition(".")[0])
        code = Path(spec.origin).read_bytes() if spec is not None and spec.origin is not None else b""
    except (ImportError, ValueError, OSError):
        return {}  # importing it will fail with a better message
    return {"code": blake2b(code, digest_size=8).hexdigest()}


def usable_cores() -> int:
    """Cores that this process may use: a container or a batch system often grants fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def look_beside_the_user() -> None:
    """Find modules in the working directory, as ``python`` does and a console script does not."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
        # Workers of a sweep are fresh processes that inherit the environment only.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))


def nearest(word: str, names: list[str], prefix: str = "") -> str:
    """`` Did you mean 'lstm'?``, or nothing. ``prefix``: of every name, and no reason to be near."""
    found = [name for name in names if name.rpartition(".")[2] == word][:1]  # `lr` for `optimizer.lr`
    found = found or difflib.get_close_matches(word, names, 1, 0.6)
    return f" Did you mean '{prefix}{found[0]}'?" if found else ""
