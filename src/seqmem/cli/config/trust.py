"""Trust in code that a run names: its configuration may come from a stranger, who has chosen the classes in it.

Code that this user has trained with, or has admitted once, is known by a hash of its source. Any other is imported only
after ``--trust`` or a question.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...runs.files import RunError
from . import own_code
from .errors import ConfigError, Parser, note

_STRONG = 32
"""Bytes of a hash that no other code can be made to have."""


def add_option(parser: Parser) -> None:
    """``--trust``, for a verb that imports the classes that a run names."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="import the classes that the run's configuration names: only if you know where they come from "
        "(not needed for classes that you have trained with)",
    )


def admit(config: Any, run: Path, *, trusted: bool = False) -> None:
    """Refuse a run's classes unless they are known, ``trusted``, or admitted by an answer in the terminal.

    Raises:
        RunError: they are not the code that the run was made with, or are not found.
        ConfigError: they are unknown.
    """
    named = dict(own_code.targets(config))
    for name, part in named.items():
        if own_code.code_of(str(part["target"])) is None:
            module = str(part["target"]).rpartition(".")[0]
            missing = f"no module {module} is found from {Path.cwd()}"
            if module == "__main__":
                missing = "a class of the notebook or script that made the run, which is not defined here"
            raise RunError(f"{run}: {name}.target={part['target']}: {missing}")
    if why := own_code.edited(config):
        if not trusted:
            line = f"{run}: {why} what it was when the run was made"
            raise RunError(f"{line} (read, playground and export take it as it is now with --trust)")
        note(f"{run}: {why} what it was when the run was made")
    unknown = [part for part in named.values() if _hash(part) not in _known()]
    if not trusted:
        for part in unknown:
            _ask(run, part)
    remember(config)


def _ask(run: Path, part: Mapping[str, Any]) -> None:
    files = ", ".join(own_code.files_of(str(part["target"])))
    if sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty():
        question = f"{run} names {part['target']}: {files} would be executed. Do you trust it? [y/N] "
        print(question, end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
    raise ConfigError(
        f"the run names {part['target']}, and {files} would be executed: add --trust if you know where it comes from"
    )


def remember(config: Any) -> None:
    """Know the classes of a configuration from now on. Best effort: without a home, they are asked for again."""
    new = {_hash(part) for _, part in own_code.targets(config)} - _known() - {""}
    if new:
        with suppress(OSError, RuntimeError):
            file = _file()
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with file.open("a") as written:
                written.write("".join(f"{one}\n" for one in sorted(new)))


def _hash(part: Mapping[str, Any]) -> str:
    return own_code.code_of(str(part["target"]), _STRONG) or ""


def _known() -> set[str]:
    try:
        return set(_file().read_text().split())
    except (OSError, RuntimeError, ValueError):
        return set()


def _file() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "seqmem" / "trusted"
