"""Text that a terminal displays and never obeys. No torch, no rich.

Names, paths and messages may come from a stranger's files. A control character in them moves the cursor or rewrites the
window's title, a bidirectional control shows a text in another order than it has.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 but tab and newline, DEL, C1, line separators, bidirectional controls, and bytes that are no text."""


def printable(text: str) -> str:
    r"""``text`` with each control character as ``\u001b``, which is also its form in JSON."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class OutputError(OSError):
    """The output cannot be written: the disk of a file is full, a device is gone. Not a pipe without a reader."""


class PrintableStream:
    """A text stream that writes ``printable`` text to ``stream``, and is like it in everything else."""

    def __init__(self, stream: Any) -> None:
        self.rich_proxied_file = stream
        """The stream itself, by the name under which rich looks for it: it draws with control characters."""

    def write(self, text: str) -> int:
        with _named():
            self.rich_proxied_file.write(printable(text))
        return len(text)

    def flush(self) -> None:
        with _named():
            self.rich_proxied_file.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def to_nowhere(stream: Any) -> None:
    """Send what is written from now on to /dev/null: at exit Python would report that it cannot flush the buffer."""
    with suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.errno, error.strerror, "the output") from error


@contextmanager
def as_written() -> Iterator[None]:
    """Let stdout and stderr pass everything: for code of the user's own, which may print colours and progress bars."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        stream.rich_proxied_file if isinstance(stream, PrintableStream) else stream for stream in streams
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
