"""What the user gave, as an error repeats it: in one readable line, whatever is in it.

A value with a newline would end the line or lose its newline, one of a thousand characters hide what is wrong with it.
Errors are raised in many places, with the value as it is; here are the odd values, and how they are written.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ...printable import printable

_LONGEST, _SHOWN = 200, (80, 20)
"""Characters of the longest value that is repeated whole, and of a longer one's start and end."""

_MOST = 200
"""Odd values that are remembered."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_BOUNDARY = re.compile(r"[=,\[\]{}()'\":]+")

_odd: dict[str, str] = {}


def remember(words: Iterable[Any]) -> None:
    """Words of a command line, or values: those of them that are not readable as they are."""
    for word in words:
        if isinstance(word, str) and (len(word) > _LONGEST or _CONTROL.search(word)):
            _, equals, value = word.partition("=")
            for piece in (value if equals else word, *_BOUNDARY.split(word)):
                if len(piece) > _LONGEST or _CONTROL.search(piece):
                    _odd[piece] = _readable(piece)
    while len(_odd) > _MOST:
        del _odd[next(iter(_odd))]


def remember_all(values: Any) -> None:
    """The values of settings, of files, too."""
    if isinstance(values, Mapping):
        for value in values.values():
            remember_all(value)
    elif isinstance(values, list):
        for value in values:
            remember_all(value)
    else:
        remember([values])


def repeated(text: str) -> str:
    """``text``, in which odd values are readable."""
    for piece in sorted(_odd, key=len, reverse=True):
        if piece.strip() and piece in text:
            text = text.replace(piece, _odd[piece])
    return text


def escaped(text: str) -> str:
    r"""``text`` with a newline as ``\n``, and likewise every other control character."""
    names = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return _CONTROL.sub(lambda match: names.get(match[0], f"\\u{ord(match[0]):04x}"), printable(text))


def _readable(piece: str) -> str:
    line = escaped(piece)
    if len(line) <= _LONGEST:
        return line
    start, end = _SHOWN
    return f"{line[:start]}...{line[-end:]} ({len(piece):,} characters)"
