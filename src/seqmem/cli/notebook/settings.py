"""Settings as Python values -> the settings of a command line."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from os import PathLike, fspath
from typing import Any

from ..config.errors import ConfigError

PARTS = ("cell", "task", "model")
"""Settings that a class can be given for."""


def words_of(overrides: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """The words of a command line, of words and of keywords.

    Raises:
        ConfigError: a word is none; else as for ``overrides_of``.
    """
    for word in overrides:
        if not isinstance(word, str):
            raise ConfigError(f"{word!r} is no setting: give words as 'seq_len=50', or keywords as seq_len=50")
    return [*overrides, *overrides_of(settings)]


def overrides_of(settings: Mapping[str, Any]) -> Iterator[str]:
    """The words of a command line: ``cell={"name": "gru", "hidden_size": 32}`` is ``cell=gru cell.hidden_size=32``.

    Raises:
        ConfigError: a value is none that a setting can have, or a class cannot be found again by its name.
    """
    for name, value in settings.items():
        if isinstance(value, type) and name in PARTS:
            value = {"name": value}
        if not isinstance(value, Mapping):
            yield f"{name}={_text(value, name)}"
            continue
        chosen = value.get("name")
        if isinstance(chosen, type) and name in PARTS:
            yield from _of_class(name, chosen)
        elif "name" in value:
            yield f"{name}={_text(chosen, name)}"
        yield from (f"{name}.{key}={_text(inner, f'{name}.{key}')}" for key, inner in value.items() if key != "name")


def _of_class(group: str, kind: type) -> Iterator[str]:
    """One of ours by its name, so that it is the same run as by its name; another by its module and name."""
    from ...cells import CELLS  # torch takes seconds
    from ...models import MODELS
    from ...tasks import TASKS
    from ...tasks.base import choice_of

    ours: Mapping[str, Any] = {"cell": CELLS, "task": TASKS, "model": MODELS}[group]
    # A model is listed by a class method that makes it.
    name = next((name for name, known in ours.items() if kind in (known, getattr(known, "__self__", None))), None)
    if name is not None:
        yield f"{group}={choice_of(name, getattr(kind, 'folder', ''))}"
    else:
        yield f"{group}=custom"
        yield f"{group}.target={_text(kind, group)}"


def _target(kind: type, where: str) -> str:
    """The dotted name of a class, by which a run finds it again.

    Raises:
        ConfigError: it has no such name, or another class has it by now.
    """
    module, name = kind.__module__, kind.__qualname__
    if "." in name:
        inside = "a function or a class"
        raise ConfigError(f"{where}: {kind.__name__} is defined inside {inside}: define it at the top of a module")
    if module == "__main__" and getattr(sys.modules[module], name, None) is not kind:
        raise ConfigError(f"{where}: another {name} has been defined since, or it is deleted: pass the one of now")
    return f"{module}.{name}"


def _text(value: Any, where: str) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str | PathLike):
        text = fspath(value)
        if re.fullmatch(r"\w+", text, re.ASCII):
            return text
        # Double a backslash only before a quote: Hydra reads it so.
        return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text) + "'"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, type):
        return _target(value, where)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item, where)}" for key, item in value.items()) + "}"
    if hasattr(value, "tolist"):  # numbers and arrays of numpy and torch
        return _text(value.tolist(), where)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):  # a range, too
        return "[" + ",".join(_text(item, where) for item in value) + "]"
    instead = "a name, a class or a dictionary" if where in PARTS else "a number, a word, a list or None"
    raise ConfigError(f"{where}: cannot be of type {type(value).__name__}: give {instead}")
