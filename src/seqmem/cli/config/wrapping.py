"""``cell.wrap``: the cells around a cell, from the inside out, as one word: ``dropout:0.1+residual``.

A word needs no quotes in any shell, and a comma between two of them is a sweep. A list is read, too. No torch here.
"""

from collections.abc import Mapping
from typing import Any


def as_word(value: Any) -> Any:
    """The one spelling of a value of ``cell.wrap``, so that equal settings are the same run; None: no wrapper.

    ``[layer_norm, {dropout: 0.10}]`` and ``layer_norm+dropout:0.1`` are the same. What cannot be read stays as it is,
    for ``build`` to refuse.
    """
    if isinstance(value, list | tuple):
        value = "+".join(map(_part, value))
    if not isinstance(value, str):
        return value
    return "+".join(_short(part) for part in value.split("+")) or None


def parts(word: str | None) -> list[tuple[str, str | None]]:
    """(name, the text of its value, None without one) of each wrapper, from the inside out."""
    if word is None:
        return []
    return [
        (name, value if colon else None) for name, colon, value in (part.partition(":") for part in word.split("+"))
    ]


def _part(item: Any) -> str:
    if isinstance(item, Mapping) and len(item) == 1:
        ((name, value),) = item.items()
        return f"{name}:{value}"
    return str(item)


def _short(part: str) -> str:
    name, colon, value = (text.strip() for text in part.partition(":"))
    try:
        return f"{name}{colon}{float(value)!r}"
    except ValueError:
        return f"{name}{colon}{value}"
