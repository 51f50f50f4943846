"""Full-screen terminal: alternate screen, single keys, and the previous state restored on every exit."""

import os
import select
import signal
import sys
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.text import Text

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # alternate screen, no cursor, no line wrap
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"

_SEQUENCES = {
    b"[A": "up", b"[B": "down", b"[C": "right", b"[D": "left", b"OA": "up", b"OB": "down", b"OC": "right",
    b"OD": "left", b"[H": "home", b"[F": "end", b"OH": "home", b"OF": "end", b"[1~": "home", b"[4~": "end",
    b"[Z": "backtab",
}  # fmt: skip
_NAMES = {"\t": "tab", "\r": " ", "\n": " "}

_POLL = 0.2  # seconds; then look again whether the window has another size


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP was received."""

    def __init__(self, number: int) -> None:
        super().__init__("stopped")
        self.exit_code = 128 + number


def playable(console: Console) -> bool:
    """True if input and output are terminals, so that keys can be read and the screen redrawn."""
    try:
        import termios

        termios.tcgetattr(sys.stdin.fileno())
    except (ImportError, OSError, ValueError, AttributeError):
        return False
    except Exception as error:  # termios.error is not an OSError
        if type(error).__name__ == "error":
            return False
        raise
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


def keys(data: bytes) -> tuple[list[str], bytes]:
    """Split raw input into (names of keys, the start of an incomplete escape sequence)."""
    names = []
    while data:
        if data[:1] == b"\x1b":
            if len(data) == 1 or data in (b"\x1b[", b"\x1bO"):
                return names, data
            if data[1:2] not in (b"[", b"O"):  # Escape, followed by a key
                data = data[1:]
                continue
            size = 3
            while data[1:2] == b"[" and size <= len(data) and not 0x40 <= data[size - 1] <= 0x7E:
                size += 1
            if size > len(data):
                return names, data
            if (name := _SEQUENCES.get(data[1:size])) is not None:
                names.append(name)
            data = data[size:]
        else:
            letter = chr(data[0])
            names.append(_NAMES.get(letter, letter))
            data = data[1:]
    return names, b""


class Terminal:
    """A context manager. ``keyboard``: the file descriptor to read keys from."""

    def __init__(self, console: Console, keyboard: int) -> None:
        self._console, self._keyboard = console, keyboard
        self._rest = b""
        self._attributes: Any = None
        self._handlers: dict[int, Any] = {}
        self._drawn: tuple[object, ...] = ()

    def __enter__(self) -> "Terminal":  # noqa: PYI034
        import termios

        self._attributes = termios.tcgetattr(self._keyboard)
        for number, handler in (
            (signal.SIGTERM, _end),
            (signal.SIGHUP, _end),
            (signal.SIGTSTP, self._suspend),
        ):
            self._handlers[number] = signal.signal(number, handler)
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _take(self) -> None:
        import tty

        tty.setcbreak(self._keyboard)
        self._drawn = ()
        self._write(_ENTER)

    def _give_back(self) -> None:
        import termios

        termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._attributes)
        self._write(_LEAVE)

    def _suspend(self, number: int, _: FrameType | None) -> None:
        """Ctrl-Z: give the screen back to the shell, and take it again after ``fg``."""
        self._give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # suspended here
        signal.signal(number, self._suspend)
        self._take()

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) now; the window may have been resized."""
        try:
            size = os.get_terminal_size(self._console.file.fileno())
        except (OSError, ValueError):
            return self._console.width, self._console.height
        return (size.columns, size.lines) if size.columns and size.lines else (80, 24)

    def draw(self, lines: Sequence[Text]) -> None:
        """Draw the whole screen in one write; do nothing if it is already there."""
        width, height = self.size
        rows = []
        for line in lines:
            with self._console.capture() as captured:
                self._console.print(line, end="", soft_wrap=True, highlight=False, markup=False, emoji=False)
            # After a full row the cursor is on its last character, which an erase would wipe.
            rows.append(captured.get() + ("\x1b[K" if line.cell_len < width else ""))
        drawn = "\r\n".join(rows) + ("\r\n\x1b[J" if len(rows) < height else "")
        if self._drawn == (drawn, width, height):
            return
        self._drawn = drawn, width, height
        self._write(f"\x1b[H{drawn}")

    def keys(self, seconds: float | None) -> list[str]:
        """The keys pressed by now; waits at most ``seconds`` (never longer than ``_POLL``) for the first.

        Raises:
            EOFError: the keyboard is gone.
        """
        patience = 0.05 if self._rest else _POLL if seconds is None else min(seconds, _POLL)
        ready, _, _ = select.select([self._keyboard], [], [], patience)
        if not ready:
            self._rest = b""
            return []
        data = os.read(self._keyboard, 1024)
        if not data:
            raise EOFError
        pressed, self._rest = keys(self._rest + data)
        return pressed


def _end(number: int, _: FrameType | None) -> None:
    raise Ended(number)
