"""Playback state: keys and time decide which word and view are shown. Independent of any terminal."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.text import Text

from .page import page
from .views import VIEWS, Scene, Signs

SPEEDS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 15.0, 25.0, 50.0)
"""Words a second; people read about four."""

STEPS = (1, 1.5, 2, 3, 4, 5, 7)
"""The arrow keys choose lengths that are these times a power of ten."""


def lengths(shortest: int, longest: int, own: Sequence[int]) -> list[int]:
    """Sorted lengths from ``shortest`` to ``longest``, about a third apart, and the models' ``own``."""
    choices = {shortest, longest, *(length for length in own if shortest <= length <= longest)}
    scale = 1
    while scale <= longest:
        choices |= {round(step * scale) for step in STEPS if shortest <= step * scale <= longest}
        scale *= 10
    return sorted(choices)


@dataclass
class Player:
    """The scene that is shown, the current timestep, and whether time moves it.

    Args:
        scene_of: makes a scene from (length, sentence number, with gradients); never called for a typed sentence.
        scene: the first scene.
        length, number: of the first scene; ``length`` is None for a typed sentence.
        among: the lengths to choose from.
        until: the timestep at which playback of a scene stops on the way, or None.
    """

    scene_of: Callable[[int, int, bool], Scene]
    scene: Scene
    signs: Signs
    length: int | None
    number: int
    among: Sequence[int]
    view: str = "beliefs"
    speed: float = 4.0
    until: Callable[[Scene], int | None] = lambda _: None
    with_gradient: Callable[[], Scene] | None = None
    """Makes the scene of a typed sentence again, with gradients; ``scene_of`` cannot."""
    at: int = 0
    playing: bool = True
    left: bool = field(default=False, init=False)
    _since: float | None = field(default=None, init=False)
    _note: str = field(default="", init=False)
    _shape: tuple[int, str] = field(default=(0, ""), init=False)
    _foot: int = field(default=0, init=False)
    _due: bool = field(default=False, init=False)
    """``scene`` lags behind ``length`` and ``number``: while a key repeats, only the last scene is read."""

    def __post_init__(self) -> None:
        if self.view == "gradient":
            self._look("gradient")

    @property
    def end(self) -> int:
        """The timestep at which playback stops next."""
        stop = self.until(self.scene)
        return stop if stop is not None and self.at < stop else len(self.scene) - 1

    def tick(self, now: float) -> bool:
        """Advance to time ``now`` (seconds, any clock); True if the current word has changed."""
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
        # After a long pause (Ctrl-Z, a slow machine) go on with the next word instead of skipping.
        behind = now - self._since > 1 + 1 / self.speed
        words, self._since = (1, now) if behind else (words, self._since + words / self.speed)
        end = self.end
        self.at = min(self.at + words, end)
        self.playing = self.at < end
        return True

    def wait(self, now: float) -> float | None:
        """Seconds until the next word; None if paused."""
        if not self.playing:
            return None
        return 0.0 if self._since is None else max(0.0, self._since + 1 / self.speed - now)

    def press(self, key: str) -> None:
        """Handle a key; unknown keys are ignored."""
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
        elif key in (*map(str, range(1, len(VIEWS) + 1)), "tab", "backtab"):
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
        """Read the scene that the keys have chosen, unless it is read already."""
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
        layout = page(self.scene, self.at, self.view, width, self.signs, height=height)
        if self._shape != (width, self.view):
            self._shape, self._foot = (width, self.view), 0
        self._foot = max(self._foot, len(layout.foot))
        lines = layout.screen(self.at, height, self._keys(width), self._foot)
        for line in lines:
            line.truncate(width)
        return lines

    def _keys(self, width: int) -> Text:
        if self._note:
            return Text(self._note, "yellow", no_wrap=True)
        across, along = self.signs.keys
        over = self.at >= len(self.scene) - 1
        words = "again" if over else "pause" if self.playing else "go on"
        parts = [("space", words), (across, "step"), (along, "length"), ("n p", "another"), ("1-4", "view")]
        parts += [("+ -", "speed"), ("q", "leave")]
        line = Text(no_wrap=True)
        for place in (None, 5, 4, 3, 2, 1, 0):  # a narrow terminal drops them in this order
            if place is not None:
                del parts[place]
            line = Text("  ", no_wrap=True).join(
                Text.assemble((key, "bold"), " ", (what, "dim")) for key, what in parts
            )
            if line.cell_len <= width:
                break
        return line
