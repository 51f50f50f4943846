"""Turns whatever goes wrong into one clear line and an exit code: 2 for a command that cannot be, 1 for a failure."""

import re
import sys
from collections.abc import Iterator

from hydra.errors import CompactHydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .config import ConfigError, nearest

USAGE = (CompactHydraException, OmegaConfBaseException)
"""What Hydra, OmegaConf and we raise for a setting that cannot be."""


def setting_names() -> list[str]:
    """Every setting, dotted, under the cell, task and optimizer that this command line chose."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from .config import conf_dir

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        chosen = [word for word in sys.argv[1:] if re.fullmatch(r"(cell|task|optimizer)=\w+", word)]
        settings = OmegaConf.to_container(compose("train", overrides=chosen))

    def walk(node: dict, prefix: str = "") -> Iterator[str]:
        for key, value in node.items():
            yield prefix + key
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")

    assert isinstance(settings, dict)
    return list(walk(settings))


def explain(error: Exception) -> str:
    """One line (or two, with the choices) for a person who mistyped something."""
    text = str(error).strip()
    if isinstance(error, ConfigError):
        return text
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        options = sorted(error.options)
        return f"no {group} is called '{name}'.{nearest(name, options)} One of: {', '.join(options)}"
    if isinstance(error, MissingConfigException):
        return text.splitlines()[0]
    if found := re.match(r"Could not override '([^']+)'", text):
        return f"there is no setting '{found[1]}'.{nearest(found[1], setting_names())} See seqmem train --help"
    if found := re.match(r"Could not append to config.*'\+?([^'=]+)=", text):
        return f"'{found[1]}' exists already: write {found[1]}=... without the +"
    if found := re.match(r"Ambiguous value for argument '([^']+)'", text):
        return f"{found[1]} is several values: add -m to run each, or write [...] for one list"
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}': settings are key=value, e.g. seq_len=50"
    if found := re.match(r"Error merging override (.*)", text, re.DOTALL):
        cause = str(error.__cause__ or "").splitlines() or [""]
        return f"{found[1].splitlines()[0]}: {_lower_first(_unwrap(cause[0]))}"
    if found := re.match(r"Key '([^']+)' (?:not in|is not in)", text):
        where = next((line.split(":", 1)[1].strip() for line in text.splitlines() if "full_key" in line), found[1])
        return f"there is no setting '{where}'.{nearest(where, setting_names())} See seqmem train --help"
    if (value := _unwrap(text.splitlines()[0] if text else "")) and isinstance(error, OmegaConfBaseException):
        where = getattr(error, "full_key", None)
        return f"{where}: {_lower_first(value)}" if where else value
    return " ".join(text.split())


def _unwrap(line: str) -> str:
    """OmegaConf's type errors in our words."""
    if found := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", line):
        kinds = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
        return f"'{found[1]}' is not {kinds.get(found[2], found[2])}"
    if found := re.match(r"Invalid value '(.*)', expected one of \[(.*)\]", line):
        return f"'{found[1]}' is not one of {found[2]}"
    if found := re.match(r"Value '(.*)' is not a valid bool", line):
        return f"'{found[1]}' is not true or false"
    return line


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
