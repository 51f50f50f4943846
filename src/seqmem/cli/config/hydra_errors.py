"""Every error of Hydra and OmegaConf in one line, in the words of the command line."""

import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .commands import command, install
from .errors import ConfigError, nearest
from .own_hydra import own_hydra

EXTRAS = {"hydra/sweeper/optuna": "optuna", "hydra/launcher/joblib": "joblib"}
"""Config groups of other projects' plugins -> the extra of seqmem that installs them."""

_KINDS = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
_CHOICE = r"(cell|task|model|optimizer)=\w+"


@contextmanager
def explained(overrides: Sequence[str] = (), config_dir: str | None = None) -> Iterator[None]:
    """Turn errors of Hydra and OmegaConf inside the context into a ``ConfigError``.

    Args:
        overrides: the settings of the command line; they determine which cells' and tasks' settings are suggested.
        config_dir: the user's own configuration directory, if there is one.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if not is_hydras(error):
            raise
        raise ConfigError(explain(error, overrides, config_dir)) from error


def is_hydras(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf raised it; settings that they do not foresee cause a TypeError or the like in them."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return True
    # They may pass such a setting on, e.g. hydra.verbose=[[1]] to logging: the last frame of theirs or ours decides.
    kinds = TypeError | ValueError | AttributeError | AssertionError | LookupError
    frames = (_package(frame.filename) for frame in reversed(traceback.extract_tb(error.__traceback__)))
    return isinstance(error, kinds) and next((package for package in frames if package), "seqmem") != "seqmem"


def _package(file: str) -> str | None:
    packages = ("hydra", "omegaconf", "seqmem")
    return next((part for part in reversed(Path(file).parts) if part in packages), None)


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
        missing = f" It comes with {install(extra)}." if extra else nearest(name, options)
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
    odd = next((one for one in overrides if "=[" in one or "={" in one), None)
    if odd is not None and not isinstance(error, HydraException):
        return f"cannot read {odd}: a cell, task or optimizer is chosen by its name, e.g. cell=lstm"
    return text


def unknown_setting(name: str, overrides: Sequence[str], config_dir: str | None) -> str:
    """The error message for an unknown setting, with the most similar setting that exists."""
    if name.startswith("hydra.sweeper.params"):
        return f"{name}: the settings of a sweep are typed themselves, e.g. -m seq_len=12,20, or stand in a file"
    chosen = [word for word in overrides if re.fullmatch(_CHOICE, word)]
    names = setting_names(chosen, config_dir)
    group, dot, rest = name.partition(".")
    siblings = [known.removeprefix(group + dot) for known in names if dot and known.startswith(group + dot)]
    line = f"there is no setting '{name}'."
    if hint := nearest(rest, siblings, group + dot) if siblings else nearest(name, names):
        return f"{line}{hint} See {command('train', '--help')}"
    if siblings:
        choice = next((word for word in chosen if word.startswith(f"{group}=")), group)
        return f"{line} {choice} has {', '.join(sibling for sibling in siblings if sibling != 'name')}"
    return f"{line} See {command('train', '--help')}"


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
