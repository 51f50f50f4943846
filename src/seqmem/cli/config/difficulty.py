"""``task.difficulty``: easy, usual and hard defaults of a task's settings, as its YAML file names them:

    length: ${graded:${.difficulty},3,10,20}

What a command line sets itself takes the place of such a default. No torch here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ConfigError

DIFFICULTIES: tuple[str, ...] = ("easy", "usual", "hard")

_VALUES = re.compile(r"\$\{graded:\$\{\.difficulty\},(.*?)\}")
_GRADED = re.compile(rf"(\w+): *{_VALUES.pattern}(?:\s|$)")


def graded(difficulty: object, *values: Any) -> Any:
    """The value of a difficulty; of an unknown one the usual value, since ``check`` refuses it in better words.

    Raises:
        ValueError: there is not a value for each difficulty.
    """
    if len(values) != len(DIFFICULTIES):
        raise ValueError(f"graded: {len(values)} values: must be three, for {', '.join(DIFFICULTIES)}")
    return dict(zip(DIFFICULTIES, values, strict=True)).get(str(difficulty), values[1])


def check(task: Mapping[str, Any]) -> None:
    """Raise ConfigError where the settings of a task have a difficulty that there is not."""
    if "difficulty" not in task:
        return
    if "size" in task:  # in a sweep a setting may come from the other tasks
        raise ConfigError(
            "there is no setting 'task.difficulty' of a task with sizes: task.size=small, medium or large"
        )
    if task["difficulty"] not in DIFFICULTIES:
        raise ConfigError(
            f"task.difficulty={task['difficulty']}: must be {', '.join(DIFFICULTIES[:-1])} or {DIFFICULTIES[-1]}"
        )


def graded_settings(path: Path) -> dict[str, dict[str, str]]:
    """Difficulty -> setting of a run -> value, as typed, that a task's YAML file itself grades; empty: it grades none.

    Raises:
        ConfigError: a setting has not a value for each difficulty.
    """
    settings: dict[str, dict[str, str]] = {difficulty: {} for difficulty in DIFFICULTIES}
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if (match := _GRADED.match(line)) is None:
            continue
        name = "seq_len" if match[1] == "usual_seq_len" else f"task.{match[1]}"
        values = match[2].split(",")
        if len(values) != len(DIFFICULTIES):
            raise ConfigError(f"{path}: {match[1]}: {len(values)} values: must be three, for {', '.join(DIFFICULTIES)}")
        for difficulty, value in zip(DIFFICULTIES, values, strict=True):
            settings[difficulty][name] = value.strip()
    return settings if settings[DIFFICULTIES[0]] else {}


def resolved(listing: str) -> str:
    """Settings as Hydra's help lists them, in which those that a difficulty gives have their values."""
    chosen = re.search(r"^ +difficulty: (\S+)$", listing, re.MULTILINE)
    difficulty = chosen[1] if chosen else ""
    return _VALUES.sub(lambda match: str(graded(difficulty, *match[1].split(","))), listing)
