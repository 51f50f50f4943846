"""Composes a run's configuration with Hydra. Every error of Hydra and OmegaConf becomes a one-line ``ConfigError``."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...runs.directory import RunDirectory
from .errors import ConfigError, nearest
from .schema import RunConfig, conf_dir, from_mapping, register

EXTRAS = {"hydra/sweeper/optuna": "optuna", "hydra/launcher/joblib": "joblib"}
"""Config groups of other projects' plugins -> the extra of seqmem that installs them."""

_KINDS = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
_CHOICE = r"(cell|task|model|optimizer)=\w+"


@contextmanager
def own_hydra() -> Iterator[None]:
    """Inside, Hydra has only our configuration; afterwards, an application's own set-up of Hydra is restored."""
    register()
    known = Singleton._instances  # noqa: SLF001 (get_state makes a deep copy of everything)
    before = {kind: known.pop(kind) for kind in (GlobalHydra, VersionBase) if kind in known}
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield
    finally:
        for kind in (GlobalHydra, VersionBase):
            known.pop(kind, None)
        known.update(before)


@contextmanager
def explained(overrides: Sequence[str] = (), config_dir: str | None = None) -> Iterator[None]:
    """Turn errors of Hydra and OmegaConf inside the context into a ``ConfigError``.

    Args:
        overrides: the settings of the command line; they determine which cells' and tasks' settings are suggested.
        config_dir: the user's own configuration directory, if there is one.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, overrides, config_dir)) from error


def compose_settings(overrides: Sequence[str]) -> DictConfig:
    """The settings of ``seqmem train OVERRIDES`` as Hydra composes them; ``from_mapping`` converts and checks them.

    Raises:
        ConfigError: a setting is unknown, or cannot be parsed.
    """
    with own_hydra(), explained(overrides):
        return compose("train", overrides=list(overrides))


def compose_run(overrides: Sequence[str]) -> RunConfig:
    """The configuration of ``seqmem train OVERRIDES``.

    Raises:
        ConfigError: a setting is unknown or missing, or its value is invalid.
    """
    settings = compose_settings(overrides)
    with explained(overrides):
        return from_mapping(settings)


def configuration(run: RunDirectory) -> RunConfig:
    """A run's configuration, from its directory.

    Raises:
        RunError: this is not a run's directory.
        ConfigError: this version does not know a setting, or does not allow its value.
    """
    with explained():
        return from_mapping(run.config())


def command_line_config_dir(hydra: Any) -> str | None:
    """The directory of ``--config-dir``, from Hydra's own configuration."""
    sources = hydra.runtime.config_sources
    return next((source.path for source in sources if source.provider == "command-line"), None)


def with_own_arguments(overrides: Sequence[str]) -> list[str]:
    """``cell.args.alpha=0.9`` -> ``++cell.args.alpha=0.9``, for settings that no file lists: arguments of a user's own
    class, and settings of a probe without a file."""
    return [re.sub(r"^(?=(cell|task|model)\.args[.=]|probe\.\w)", "++", override) for override in overrides]


@dataclass(frozen=True)
class Arguments:
    """The arguments of ``seqmem train``: Hydra's options, unparsed, and the settings."""

    options: list[str]
    overrides: list[str]
    config_dir: str | None

    @property
    def argv(self) -> list[str]:
        """All arguments, in an order that Hydra accepts; it refuses ``cell=rnn -m seed=0,1``."""
        return [*self.overrides, *self.options]


def parsed(args: Sequence[str]) -> Arguments:
    """Parse a command line as Hydra does, but without printing Hydra's usage for a mistake.

    Raises:
        ConfigError: an option is unknown, or its value is missing.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        if match := re.match(r"unrecognized arguments: (--?([\w./@]+)=\S*)", message):
            raise ConfigError(f"'{match[1]}': settings have no dashes: {match[1].lstrip('-')}")
        raise ConfigError(f"{message}; see seqmem train --help")

    parser.error = refuse
    parsed_args = parser.parse_intermixed_args(args)
    options = list(args)
    for override in parsed_args.overrides:
        options.remove(override)
    return Arguments(options, parsed_args.overrides, parsed_args.config_dir)


def explain(error: Exception, overrides: Sequence[str] = (), config_dir: str | None = None) -> str:
    """An error of Hydra or OmegaConf about these ``overrides``, in one line for the user."""
    return " ".join(_explain(error, overrides, config_dir).split())


def _explain(error: Exception, overrides: Sequence[str], config_dir: str | None) -> str:
    text = str(error).strip()
    first = text.partition("\n")[0]
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        options = sorted(error.options)
        if not options:
            return f"no {group} is called '{name}', nor anything else: -cd DIR adds your own from DIR/{group}/NAME.yaml"
        extra = EXTRAS.get(f"{group}/{name}")
        missing = f" It comes with pip install 'seqmem[{extra}]'." if extra else nearest(name, options)
        return f"no {group} is called '{name}'.{missing} One of: {', '.join(options)}"
    if isinstance(error, MissingConfigException):
        return first
    if match := re.match(r"Could not override '([^']+)'", text) or re.match(r"Key '([^']+)' is not in struct", text):
        return unknown_setting(_full_key(text) or match[1], overrides, config_dir)
    if match := re.match(r"Key '([^']+)' not in", text):
        return unknown_setting(_full_key(text) or match[1], overrides, config_dir)
    if match := re.match(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"'{match[1]}' exists already: write {match[1]}=... without the +"
    if match := re.match(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match[1]} is several values: add -m to run each, or write [...] for one list"
    if match := re.match(r"Sweep parameters '(.+)' requires --multirun", first):
        return f"{match[1]} is several values: add -m to run each"
    if isinstance(error, OverrideParseException):
        quotes = "; a value with special characters needs quotes of its own, e.g. 'outputs=\"my runs\"'"
        return f"cannot read '{error.override}': settings are key=value, e.g. seq_len=50{quotes * ('=' in first)}"
    if match := re.match(r"Error merging override (.*)", text):
        return f"{match[1]}: {_unwrap(str(error.__cause__ or ''))}"
    if text.startswith("Config group override must be a string"):
        return "a cell, task or optimizer is chosen by its name, e.g. cell=lstm"
    if isinstance(error, OmegaConfBaseException):
        where = getattr(error, "full_key", None)
        return f"{where}: {_unwrap(text)}" if where else _unwrap(text)
    return text


def unknown_setting(name: str, overrides: Sequence[str], config_dir: str | None) -> str:
    """The error message for an unknown setting, with the most similar setting that exists."""
    chosen = [word for word in overrides if re.fullmatch(_CHOICE, word)]
    names = setting_names(chosen, config_dir)
    group, dot, rest = name.partition(".")
    siblings = [known.removeprefix(group + dot) for known in names if dot and known.startswith(group + dot)]
    line = f"there is no setting '{name}'."
    if hint := nearest(rest, siblings, group + dot) if siblings else nearest(name, names):
        return f"{line}{hint} See seqmem train --help"
    if siblings:
        choice = next((word for word in chosen if word.startswith(f"{group}=")), group)
        return f"{line} {choice} has {', '.join(sibling for sibling in siblings if sibling != 'name')}"
    return f"{line} See seqmem train --help"


def setting_names(chosen: Sequence[str], config_dir: str | None) -> list[str]:
    """The dotted names of all settings, for the chosen cell, task and optimizer."""
    search = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    try:
        with own_hydra():
            settings = OmegaConf.to_container(compose("train", overrides=[*search, *chosen]))
    except (HydraException, OmegaConfBaseException):  # no such cell, task or optimizer
        return setting_names([], None) if chosen or search else []

    def walk(node: dict[Any, Any], prefix: str = "") -> Iterator[str]:
        for key, value in node.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")

    assert isinstance(settings, dict)
    return list(walk(settings))


def _full_key(text: str) -> str | None:
    match = re.search(r"^\s*full_key: *(\S+)", text, re.MULTILINE)
    return match[1] if match else None


def _unwrap(text: str) -> str:
    """OmegaConf's type errors, reworded."""
    line = text.partition("\n")[0]
    if match := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", line):
        return f"'{match[1]}' is not {_KINDS.get(match[2], match[2])}"
    if match := re.match(r"Invalid value '(.*)', expected one of \[(.*)\]", line):
        return f"'{match[1]}' is not one of {match[2]}"
    if match := re.match(r"Value '(.*)' is not a valid bool", line):
        return f"'{match[1]}' is not true or false"
    if re.match(r"field '.*' is not Optional", line):
        return "must have a value"
    if "is not a ListConfig, list or tuple" in line:
        return "must be a list, e.g. [10,20]"
    if re.match(r"(Cannot assign \w+ to|Invalid type assigned: \w+ is not a subclass of) ", line):
        return "must be several settings, e.g. {a:1,b:2}"
    if match := re.match(r"(\w+) raised while resolving interpolation: (.*)", line):
        return match[2].strip('"')
    return line[:1].lower() + line[1:]
