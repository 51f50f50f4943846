"""Provenance: unused runs, commands, settings, versions and machines."""

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import escape

from ...runs.settings import IDENTITY, flat
from ..collect import Collection, natural
from ..wording import clean
from .base import Section
from .tables import MOST_ROWS, Column, plain_table

MOST_COMMANDS = 15

ENVIRONMENT = {
    "seqmem": "seqmem", "python": "Python", "torch": "torch", "numpy": "numpy", "platform": "platform", "cpu": "cpu",
    "cuda": "CUDA", "kernel": "kernel", "threads": "threads", "git_commit": "git commit",
}  # fmt: skip
"""What environment.json says of versions and machines: key -> what the page calls it."""


def sections(collection: Collection) -> Iterator[Section]:
    ended = [run for run in collection.diverged if run.state != "finished"]
    if ended:
        yield _section(
            "Diverged, counted as not solved",
            [Column("run", "path"), Column("why", "words")],
            [[str(run.path), run.error or ""] for run in ended],
        )
    if collection.unfinished:
        rows = [[str(run.path), run.state, run.step, run.error or ""] for run in collection.unfinished]
        columns = [
            Column("run", "path"),
            Column("state", "left"),
            Column("step", heading="left"),
            Column("why", "words"),
        ]
        yield _section("Not finished", columns, rows)
    if collection.left_out:
        rows = [[str(folder.path), folder.reason] for folder in collection.left_out]
        yield _section("Left out", [Column("folder", "path"), Column("why", "words")], rows)
    yield from _commands(collection)
    yield from _settings(collection)
    rows = []
    for key, name in ENVIRONMENT.items():
        values = Counter(
            _setting(run.environment[key]) for run in collection.runs if run.environment.get(key) is not None
        )
        if values:
            rows.append([name, _tally(values)])
    if rows:
        yield _section("Versions and machines", [Column("what", "left"), Column("which (runs)", "words")], rows)


def _section(heading: str, columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> Section:
    text = f"The first {MOST_ROWS} of {len(rows)}." if len(rows) > MOST_ROWS else ""
    return Section("", heading, text, table=plain_table(columns, rows))


def _commands(collection: Collection) -> Iterator[Section]:
    commands = Counter(_command(run.environment.get("command")) for run in collection.runs)
    commands.pop("", None)
    if commands:
        text = f"The {MOST_COMMANDS} most frequent of {len(commands)}." if len(commands) > MOST_COMMANDS else ""
        # Markup keeps the spaces: commands are copied from the page.
        shown = [escape(clean(command, 2000)) for command, _ in commands.most_common(MOST_COMMANDS)]
        yield Section("", "Commands", text, commands=shown)


def _command(words: Any) -> str:
    """A command line as typed, without the interpreter and seqmem's own path; empty where it is not known."""
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return ""
    for at, word in enumerate(words):
        if word == "seqmem" or Path(word).name in ("seqmem", "seqmem.exe"):
            return shlex.join(["seqmem", *words[at + 1 :]])
    return shlex.join(words)


def _settings(collection: Collection) -> Iterator[Section]:
    configs = [flat(run.config, *IDENTITY) for run in collection.runs]
    differing, some, shared = [], [], []
    for key in dict.fromkeys(key for config in configs for key in config):
        values = Counter(_setting(config[key]) for config in configs if key in config)
        if len(values) > 1:
            differing.append([key, _tally(values)])
        elif values.total() < len(configs):
            some.append([key, _tally(values)])
        else:
            shared.append([key, _tally(values).rpartition(" (")[0]])
    if differing:
        columns = [Column("setting", "left"), Column("values (runs)", "words")]
        yield _section("Settings that differ", columns, differing)
    if some:
        columns = [Column("setting", "left"), Column("value (runs)", "words")]
        yield _section("Settings that only some runs have", columns, some)
    if shared:
        columns = [Column("setting", "left"), Column("value", "words")]
        yield _section("Settings that all runs share", columns, shared)


def _setting(value: Any) -> str:
    """As it is typed: ``null``, ``false``, ``0.001``."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else str(value)
    return clean(f"{value:g}" if isinstance(value, float) else text, 120)


def _tally(values: Mapping[str, int], at_most: int = 24) -> str:
    """``0.001 (12), 0.01 (3)``: values with how many runs have each."""
    shown = [f"{value} ({runs})" for value, runs in sorted(values.items(), key=lambda item: natural(item[0]))]
    return ", ".join(shown[:at_most]) + (f" and {len(shown) - at_most} more" if len(shown) > at_most else "")
