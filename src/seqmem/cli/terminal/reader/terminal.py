"""A terminal to play on: its other screen, single keys, and everything back as it was, however it ends."""

import os
import select
import signal
import sys
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.text import Text

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # the other screen, no cursor, nothing wraps
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"

_SEQUENCES = {
    b"[A": "up", b"[B": "down", b"[C": "right", b"[D": "left", b"OA": "up", b"OB": "down", b"OC": "right",
    b"OD": "left", b"[H": "home", b"[F": "end", b"OH": "home", b"OF": "end", b"[1~": "home", b"[4~": "end",
    b"[Z": "backtab",
}  # fmt: skip
_NAMES = {"\t": "tab", "\r": " ", "\n": " "}


_MOMENT = 0.2


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP asked for an end."""

    def __init__(self, number: int) -> None:
        super().__init__("stopped")
        self.exit_code = 128 + number


def playable(console: Console) -> bool:
    """Whether there is a terminal to play on, and somebody at its keys."""
    try:
        import termios

        termios.tcgetattr(sys.stdin.fileno())
    except (ImportError, OSError, ValueError, AttributeError):
        return False
    except Exception as error:  # termios.error, which is no OSError
        if type(error).__name__ == "error":
            return False
        raise
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


def keys(data: bytes) -> tuple[list[str], bytes]:
    """(the keys that ``data`` holds, the beginning of a sequence whose end has not come yet)"""
    found = []
    while data:
        if data[:1] == b"\x1b":
            if len(data) == 1 or data in (b"\x1b[", b"\x1bO"):
                return found, data
            if data[1:2] not in (b"[", b"O"):  # Escape, and then a key
                data = data[1:]
                continue
            size = 3
            while data[1:2] == b"[" and size <= len(data) and not 0x40 <= data[size - 1] <= 0x7E:
                size += 1
            if size > len(data):
                return found, data
            if (name := _SEQUENCES.get(data[1:size])) is not None:
                found.append(name)
            data = data[size:]
        else:
            letter = chr(data[0])
            found.append(_NAMES.get(letter, letter))
            data = data[1:]
    return found, b""


class Terminal:
    """To be used in a ``with``. ``keyboard``: the file descriptor that keys come from."""

    def __init__(self, console: Console, keyboard: int) -> None:
        self._console, self._keyboard = console, keyboard
        self._rest = b""
        self._was: Any = None
        self._handlers: dict[int, Any] = {}
        self._drawn: tuple[object, ...] = ()

    def __enter__(self) -> "Terminal":  # noqa: PYI034
        import termios

        self._was = termios.tcgetattr(self._keyboard)
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

        termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._was)
        self._write(_LEAVE)

    def _suspend(self, number: int, _: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its screen back, and we ours when ``fg`` brings us on."""
        self._give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # stands still here
        signal.signal(number, self._suspend)
        self._take()

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), asked for anew: windows change."""
        try:
            found = os.get_terminal_size(self._console.file.fileno())
        except (OSError, ValueError):
            return self._console.width, self._console.height
        return (found.columns, found.lines) if found.columns and found.lines else (80, 24)

    def draw(self, lines: Sequence[Text]) -> None:
        """The whole screen, in one write; none where it is there already."""
        width, height = self.size
        rows = []
        for line in lines:
            with self._console.capture() as captured:
                self._console.print(line, end="", soft_wrap=True, highlight=False, markup=False, emoji=False)
            # At the end of a full row the cursor stands on its last character, which would be wiped away.
            rows.append(captured.get() + ("\x1b[K" if line.cell_len < width else ""))
        drawn = "\r\n".join(rows) + ("\r\n\x1b[J" if len(rows) < height else "")
        if self._drawn == (drawn, width, height):
            return
        self._drawn = drawn, width, height
        self._write(f"\x1b[H{drawn}")

    def keys(self, seconds: float | None) -> list[str]:
        """The keys that were pressed, after waiting for some no longer than that (None: a moment).

        Raises:
            EOFError: there is no keyboard any more.
        """
        # A moment, not for ever: who waits looks now and then whether the window has changed.
        patience = 0.05 if self._rest else _MOMENT if seconds is None else min(seconds, _MOMENT)
        ready, _, _ = select.select([self._keyboard], [], [], patience)
        if not ready:
            self._rest = b""
            return []
        data = os.read(self._keyboard, 1024)
        if not data:
            raise EOFError
        found, self._rest = keys(self._rest + data)
        return found


def _end(number: int, _: FrameType | None) -> None:
    raise Ended(number)
