"""What the comments in our YAML files say about each setting, for ``train --help`` and ``list``."""

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

_SETTING = re.compile(r"(?P<indent> *)(?P<name>[\w.]+):(?P<value>.*?)(?:\s+# (?P<comment>.*))?")
_NARROW = 30
"""Characters at least for a comment beside its setting."""


def header(path: Path) -> list[str]:
    """The lines of the comment at a file's beginning, but for Hydra's directives."""
    lines = []
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if not line.startswith("#"):
            break
        text = line.removeprefix("#").removeprefix(" ").rstrip()
        if text and not text.startswith("@"):
            lines.append(text)
    return lines


def comments(path: Path) -> dict[str, str]:
    """Dotted setting -> the comment beside it, with the lines below that go on with it."""
    told: dict[str, str] = {}
    groups: list[tuple[int, str]] = []
    name = ""
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if name and (more := re.fullmatch(r"\s+# (.*)", line)):
            told[name] = f"{told[name]} {more[1]}"
        elif match := _SETTING.fullmatch(line):
            indent = len(match["indent"])
            groups = [*(group for group in groups if group[0] < indent), (indent, match["name"])]
            name = ".".join(word for _, word in groups) if match["comment"] else ""
            if name:
                told[name] = match["comment"]
        else:
            name = ""
    return told


def beside(settings: str, told: Mapping[str, str], width: int | None) -> Iterator[str]:
    """The lines of YAML in ``settings``, with what is told of each beside it in one column.

    Args:
        width: of the terminal, in characters: comments are wrapped under themselves; None: they are not.
    """
    lines = [(line.rstrip(), told.get(name, "")) for line, name in _named(settings)]
    column = max((len(line) for line, comment in lines if comment and len(line) < _NARROW), default=0) + 2
    for line, comment in lines:
        room = None if width is None else max(_NARROW, width - column - 2)
        parts = [comment] if room is None else textwrap.wrap(comment, room, break_on_hyphens=False)
        if not comment:
            yield line
            continue
        if len(line) >= column:
            yield line
            line = ""
        for part in parts:
            yield f"{line:{column}}# {part}"
            line = ""


def _named(settings: str) -> Iterator[tuple[str, str]]:
    """(line, the dotted name of its setting, or nothing)"""
    groups: list[tuple[int, str]] = []
    for line in settings.splitlines():
        if match := re.fullmatch(r"( *)([\w.]+):.*", line):
            groups = [*(group for group in groups if group[0] < len(match[1])), (len(match[1]), match[2])]
            yield line, ".".join(word for _, word in groups)
        else:
            yield line, ""
