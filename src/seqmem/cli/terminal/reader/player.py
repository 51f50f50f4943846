"""Who turns the pages: from keys and the time that passes to what is shown. It knows no terminal."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.text import Text

from .page import page
from .views import VIEWS, Scene, Signs

SPEEDS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 15.0, 25.0, 50.0)
"""Words a second. People read four."""

STEPS = (1, 1.5, 2, 3, 4, 5, 7)
"""Lengths that the arrows go through, times a power of ten."""


def lengths(shortest: int, longest: int, own: Sequence[int]) -> list[int]:
    """From the shortest to the longest in steps of about a third, with the models' ``own`` among them."""
    found = {shortest, longest, *(length for length in own if shortest <= length <= longest)}
    scale = 1
    while scale <= longest:
        found |= {round(step * scale) for step in STEPS if shortest <= step * scale <= longest}
        scale *= 10
    return sorted(found)


@dataclass
class Player:
    """What is being read, and how far.

    Args:
        scene_of: (length, sentence number, with gradients) to the scene; never called for a sentence of the user's own.
        scene: the first one.
        length, number: of the first one; None where it is a sentence of the user's own.
        among: the lengths that there are.
        until: of a scene the timestep at which to stop on the way.
    """

    scene_of: Callable[[int, int, bool], Scene]
    scene: Scene
    have: Signs
    length: int | None
    number: int
    among: Sequence[int]
    view: str = "beliefs"
    speed: float = 4.0
    until: Callable[[Scene], int | None] = lambda _: None
    with_gradient: Callable[[], Scene] | None = None
    """The same scene with its gradients, where ``scene_of`` cannot make it: of a sentence of the user's own."""
    at: int = 0
    playing: bool = True
    left: bool = field(default=False, init=False)
    _since: float | None = field(default=None, init=False)
    _note: str = field(default="", init=False)
    _shape: tuple[int, str] = field(default=(0, ""), init=False)
    _foot: int = field(default=0, init=False)
    _due: bool = field(default=False, init=False)
    """``scene`` is not yet that of ``length`` and ``number``: who holds a key down waits for the last one only."""

    def __post_init__(self) -> None:
        if self.view == "gradient":
            self._look("gradient")

    @property
    def end(self) -> int:
        """Where the reading stops next."""
        stop = self.until(self.scene)
        return stop if stop is not None and self.at < stop else len(self.scene) - 1

    def tick(self, now: float) -> bool:
        """Whether time has brought the next word. ``now``: seconds, on any clock."""
        self.settle()
        if not self.playing:
            self._since = None
            return False
        if self._since is None:
            self._since = now
            return False
        words = int((now - self._since) * self.speed)
        if words < 1:
            return False
        # Who was away for long (Ctrl-Z, a slow machine) goes on where they were.
        behind = now - self._since > 1 + 1 / self.speed
        words, self._since = (1, now) if behind else (words, self._since + words / self.speed)
        end = self.end
        self.at = min(self.at + words, end)
        self.playing = self.at < end
        return True

    def wait(self, now: float) -> float | None:
        """Seconds to the next word; None: it stands still."""
        if not self.playing:
            return None
        return 0.0 if self._since is None else max(0.0, self._since + 1 / self.speed - now)

    def press(self, key: str) -> None:
        """What a key does; one that there is not does nothing."""
        self._note = ""
        if key in ("q", "Q"):
            self.left = True
            return
        if key in ("up", "k", "down", "j", "n", "p"):
            self._another(key)
            return
        self.settle()
        if key == " ":
            if not self.playing and self.at >= len(self.scene) - 1:
                self.at = 0
            self.playing = not self.playing
            self._since = None
        elif key in ("right", "l", "left", "h", "home", "g", "end", "G"):
            last = len(self.scene) - 1
            step = {"right": 1, "l": 1, "left": -1, "h": -1, "home": -last, "g": -last, "end": last, "G": last}[key]
            self.playing, self.at = False, min(max(self.at + step, 0), last)
        elif key in ("1", "2", "3", "tab", "backtab"):
            place = VIEWS.index(self.view)
            step = {"tab": place + 1, "backtab": place - 1}
            self._look(VIEWS[step[key] % len(VIEWS) if key in step else int(key) - 1])
        elif key in ("+", "=", "-", "_"):
            place = bisect_right(SPEEDS, self.speed) if key in "+=" else bisect_left(SPEEDS, self.speed) - 1
            self.speed = SPEEDS[min(max(place, 0), len(SPEEDS) - 1)]
            self._note = f"{self.speed:g} word{'s' * (self.speed != 1)} a second"
            self._since = None

    def _another(self, key: str) -> None:
        if self.length is None:
            self._note = "this sentence is your own: there is no other"
            return
        length, number = self.length, self.number
        if key in ("n", "p"):
            number += 1 if key == "n" else -1
            if number < 0:
                self._note = "this is the first sentence"
                return
        else:
            more = key in ("up", "k")
            place = bisect_right(self.among, length) if more else bisect_left(self.among, length) - 1
            if not 0 <= place < len(self.among):
                self._note = f"{'no longer' if more else 'no shorter'} than {length}"
                return
            length = self.among[place]
        self.length, self.number, self.at, self.playing, self._since, self._due = length, number, 0, True, None, True

    def settle(self) -> None:
        """Read what the keys asked for, where that was not done yet."""
        if self._due and self.length is not None:
            self._due = False
            self.scene = self.scene_of(self.length, self.number, self.view == "gradient")

    def _look(self, view: str) -> None:
        self.view = view
        if view == "gradient" and not all(reading.gradient for reading in self.scene.readings):
            if self.length is not None:
                self.scene = self.scene_of(self.length, self.number, True)
            elif self.with_gradient is not None:
                self.scene = self.with_gradient()

    def frame(self, width: int, height: int) -> list[Text]:
        """The screen, in exactly ``height`` lines of at most ``width`` characters."""
        self.settle()
        found = page(self.scene, self.at, self.view, width, self.have, height=height)
        if self._shape != (width, self.view):
            self._shape, self._foot = (width, self.view), 0
        self._foot = max(self._foot, len(found.foot))
        lines = found.screen(self.at, height, self._keys(width), self._foot)
        for line in lines:
            line.truncate(width)
        return lines

    def _keys(self, width: int) -> Text:
        if self._note:
            return Text(self._note, "yellow", no_wrap=True)
        across, along = self.have.keys
        over = self.at >= len(self.scene) - 1
        words = "again" if over else "pause" if self.playing else "go on"
        parts = [("space", words), (across, "step"), (along, "length"), ("n p", "another"), ("1 2 3", "view")]
        parts += [("+ -", "speed"), ("q", "leave")]
        line = Text(no_wrap=True)
        for place in (None, 5, 4, 3, 2, 1, 0):  # in the order in which a narrow terminal does without
            if place is not None:
                del parts[place]
            line = Text("  ", no_wrap=True).join(
                Text.assemble((key, "bold"), " ", (what, "dim")) for key, what in parts
            )
            if line.cell_len <= width:
                break
        return line
