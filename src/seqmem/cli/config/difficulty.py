"""``task.difficulty``: easy, usual and hard defaults of a task's settings, as its YAML file names them:

    length: ${graded:${.difficulty},3,10,20}

What a command line sets itself takes the place of such a default. No torch here.
"""

import re
from pathlib import Path
from typing import Any

from .errors import ConfigError

DIFFICULTIES: tuple[str, ...] = ("easy", "usual", "hard")

_GRADED = re.compile(r"(\w+): *\$\{graded:\$\{\.difficulty\},(.*?)\}(?:\s|$)")


def graded(difficulty: object, *values: Any) -> Any:
    """The value of a difficulty; of an unknown one the usual value, since ``check`` refuses it in better words."""
    return dict(zip(DIFFICULTIES, values, strict=True)).get(str(difficulty), values[1])


def check(difficulty: object) -> None:
    """Raise ConfigError for what is no difficulty."""
    if difficulty not in DIFFICULTIES:
        raise ConfigError(f"task.difficulty={difficulty}: must be {', '.join(DIFFICULTIES[:-1])} or {DIFFICULTIES[-1]}")


def settings_of(path: Path) -> dict[str, dict[str, str]]:
    """Difficulty -> setting of a run -> value, as typed, of a task's YAML file; empty: it has no difficulties."""
    settings: dict[str, dict[str, str]] = {difficulty: {} for difficulty in DIFFICULTIES}
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if (match := _GRADED.match(line)) is None:
            continue
        name = "seq_len" if match[1] == "usual_seq_len" else f"task.{match[1]}"
        for difficulty, value in zip(DIFFICULTIES, match[2].split(","), strict=True):
            settings[difficulty][name] = value.strip()
    return settings if settings[DIFFICULTIES[0]] else {}
