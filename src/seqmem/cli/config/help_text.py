"""The texts of ``--help``, at the width of the terminal."""

import argparse
import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from .commands import command


def filled(text: str, width: int) -> str:
    """``text`` in lines of at most ``width`` characters, but for commands: a broken one could not be pasted.

    Lines without indent that stand together are a paragraph. Indented ones are commands, whose explanation after four
    spaces moves below them if need be, or a list of words and their meanings in a second column.
    """
    lines: list[str] = []
    for (full, indented), group in groupby(text.splitlines(), lambda line: (bool(line), line.startswith(" "))):
        together = list(group)
        if max(map(len, together)) <= width:
            lines += together
        elif full and not indented:
            lines += _wrapped(" ".join(together), width)
        else:
            lines += _indented(together, width)
    return "\n".join(lines)


def _indented(lines: Sequence[str], width: int) -> Iterator[str]:
    entries: list[str] = []
    for line in lines:
        if entries and line.startswith("    "):
            entries[-1] += f" {line.strip()}"
        else:
            entries.append(line)
    for entry in entries:
        columns = re.fullmatch(r"(?P<first>.*?\S {2,})(?P<second>\S.*)", entry)
        if len(entry) <= width or columns is None:
            yield entry
        elif entry.strip().startswith(command()):
            yield columns["first"].rstrip()
            yield from _wrapped(columns["second"], width, " " * 6)
        else:
            column = " " * len(columns["first"])
            first, *rest = _wrapped(columns["second"], max(width, len(column) + 20), column)
            yield columns["first"] + first.strip()
            yield from rest


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


class HelpFormatter(argparse.HelpFormatter):
    """Description and epilog keep their paragraphs and examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.indent(filled(text, width + 2), indent)  # argparse leaves two characters free
