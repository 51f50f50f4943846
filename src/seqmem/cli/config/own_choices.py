"""A user's own classes as choices beside ours: ``cell=lstm,gru,mine.Peephole`` is one sweep.

Each becomes a file of its group in Hydra's store: what ``cell=custom cell.target=mine.Peephole`` is, so the same run.
"""

import re
from collections.abc import Sequence

from hydra.core.config_store import ConfigStore

from .own_code import PARTS

_CHOICE = re.compile(rf"\+{{0,2}}({'|'.join(PARTS)})=(.*)")
_DOTTED = re.compile(r"(?<![\w./])[^\W\d]\w*(?:\.[^\W\d]\w*)+(?![\w./])")
_registered: set[tuple[str, str]] = set()


def register(overrides: Sequence[str]) -> None:
    """Make each dotted name that is chosen for a cell, a task or a model a choice; a file of that name precedes it."""
    for override in overrides:
        if match := _CHOICE.fullmatch(override):
            for target in _DOTTED.findall(match[2]):
                if not target.endswith((".yaml", ".yml")):
                    node = {"defaults": ["custom", "_self_"], "target": target}
                    ConfigStore.instance().store(group=match[1], name=target, node=node)
                    _registered.add((match[1], target))


def files(group: str, options: Sequence[str]) -> list[str]:
    """Those of a group's options that are files."""
    return [option for option in options if (group, option) not in _registered]
