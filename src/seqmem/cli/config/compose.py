"""Composes a run's configuration with Hydra, from the settings of a command line or a run's directory."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose
from omegaconf import DictConfig

from ...runs.directory import RunDirectory
from ...runs.files import RunError
from ...runs.settings import OWN_LOOP
from . import own_choices
from .commands import command
from .errors import ConfigError
from .home import expanded
from .hydra_errors import explained
from .hydra_parser import parser
from .own_code import forget_edited
from .own_hydra import own_hydra
from .schema import RunConfig, from_mapping
from .trust import admit


def compose_settings(overrides: Sequence[str], config_dir: str | None = None) -> DictConfig:
    """The settings of ``seqmem train OVERRIDES`` as Hydra composes them; ``from_mapping`` converts and checks them.

    Args:
        config_dir: a user's own configuration directory.

    Raises:
        ConfigError: a setting is unknown, or cannot be parsed; or there is no such directory.
    """
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir {config_dir}: no such directory")
    with own_hydra(config_dir), explained(overrides, config_dir):
        return compose("train", overrides=list(overrides))


def compose_run(overrides: Sequence[str]) -> RunConfig:
    """The configuration of ``seqmem train OVERRIDES``.

    Raises:
        ConfigError: a setting is unknown or missing, or its value is invalid.
    """
    settings = compose_settings(overrides)
    with explained(overrides):
        return from_mapping(settings)


def configuration(run: RunDirectory, *, trusted: bool = False) -> RunConfig:
    """A run's configuration, from its directory.

    Args:
        trusted: the classes that it names may be imported without a check of their author.

    Raises:
        RunError: this is not a run's directory; or its classes are not found, or not those that the run was made with.
        ConfigError: this version does not know a setting, or does not allow its value; or a class is not trusted.
    """
    forget_edited()
    settings = run.config()
    if settings.get("model") == OWN_LOOP:
        raise RunError(
            f"{run.path}: seqmem.log wrote it from a loop of your own, so it has traces and no model of seqmem's"
        )
    with explained():
        config = from_mapping(settings)
    admit(config, run.path, trusted=trusted)
    return config


def command_line_config_dir(hydra: Any) -> str | None:
    """The directory of ``--config-dir``, from Hydra's own configuration."""
    sources = hydra.runtime.config_sources
    return next((source.path for source in sources if source.provider == "command-line"), None)


def with_own_arguments(overrides: Sequence[str]) -> list[str]:
    """Settings in Hydra's grammar that it would refuse as people type them.

    ``cell.args.alpha=0.9`` -> ``++cell.args.alpha=0.9``, for settings that no file lists: arguments of a user's own
    class, and settings of a probe without a file. Likewise ``optimizer.momentum=0.5`` beside ``optimizer=sgd,rmsprop``:
    Hydra would look for it in the default. ``outputs=~/runs`` -> ``outputs='~/runs'``. A class of the user's own is a
    choice like ours from now on: ``cell=lstm,mine.Peephole``.

    Raises:
        ConfigError: several cells are asked for in one run.
    """
    own_choices.register(overrides)
    for override in overrides:
        if match := re.fullmatch(r"(cell|task|model|optimizer)=\[([^\[\]]+(?:,[^\[\]]+)+)\]", override):
            names = match[2].replace(" ", "").replace("'", "")
            raise ConfigError(f"{override}: a run has one {match[1]}: -m {match[1]}={names} runs each")
    several = [match[1] for override in overrides if (match := re.match(r"(cell|task|model|optimizer)=.*,", override))]
    new = "|".join([r"(cell|task|model)\.args[.=]", r"probe\.\w", *(rf"{group}\.\w" for group in several)])
    added = [re.sub(f"^(?={new})", "++", override) for override in overrides]
    at_home = re.compile(r"(?<=[=,])~[^,'\"\[\](){}]*")
    return [one if one.startswith("-") else at_home.sub(r"'\g<0>'", one) for one in added]


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
    hydra = parser()

    def refuse(message: str) -> NoReturn:
        if match := re.match(r"unrecognized arguments: (--?([\w./@]+)=\S*)", message):
            raise ConfigError(f"'{match[1]}': settings have no dashes: {match[1].lstrip('-')}")
        raise ConfigError(f"{message}; see {command('train', '--help')}")

    hydra.error = refuse
    parsed_args = hydra.parse_intermixed_args(args)
    if (file := parsed_args.experimental_rerun) is not None:  # --experiment=... is a prefix of it
        raise ConfigError(
            f"'--experimental-rerun={file}': write experiment={file} or {command('reproduce', 'RUN')} instead"
        )
    options, config_dir = list(args), parsed_args.config_dir
    for override in parsed_args.overrides:
        options.remove(override)
    if config_dir is not None and config_dir.startswith("~"):
        try:
            config_dir = expanded(config_dir)
        except ValueError as error:
            raise ConfigError(f"--config-dir {error}") from None
        options = [re.sub(rf"(^|=){re.escape(parsed_args.config_dir)}$", rf"\g<1>{config_dir}", one) for one in options]
    return Arguments(options, parsed_args.overrides, config_dir)
