"""The view ``attention``: what a model looks back at, seen from the current word and from the answer."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.text import Text

from ....lookback import LookBack, half_within, mean_over
from ..strip import fitted
from .views import OTHER, Column, Scene, Signs, block, no_line, share_bar, visible

MOST_HEADS = 16

_NUMBER = len("100.0 % ")
"""The characters of a share, without its bar."""
_BAR, _LEAST_BAR = 30, 4


@dataclass(frozen=True)
class _Piece:
    """A part of a row. A narrow column drops the parts of the highest rank first."""

    rank: int
    title: str
    width: int
    text: Callable[[int], Text]
    shares: np.ndarray | None = None
    """Drawn as a bar, too, or as a block where there is no room."""


def attention(scene: Scene, index: int, at: int, width: int, signs: Signs) -> Column:
    reading = scene.readings[index]
    if not reading.attention:
        parts = [Text("no attention, and no state that changes by addition alone")]
        return Column(
            [Text(fitted("looks back at nothing", width, signs.marks), "dim")], lambda _: Text(), no_line, parts
        )
    (name, looked), *others = reading.attention.items()
    end = reading.answered_at
    largest = _largest(scene, at)
    pieces = [_shares(0, name, mean_over(looked, at), at)]
    if at != end:
        pieces.append(_shares(1, "answer", mean_over(looked, end), end))
    heads = looked.over(at)
    if 1 < len(heads) <= MOST_HEADS:
        pieces.append(_heads(2, heads, at, signs))
    pieces += [_shares(3 + place, other, mean_over(each, at), at) for place, (other, each) in enumerate(others)]

    def wide(piece: _Piece) -> int:
        return piece.width + (0 if piece.shares is None else bar or 2)

    bar = 0
    while sum(map(wide, pieces)) > width and len(pieces) > 1:
        pieces.pop(max(range(len(pieces)), key=lambda place: pieces[place].rank))
    room = width - sum(piece.width for piece in pieces)
    bar = min(room // sum(piece.shares is not None for piece in pieces), _BAR)
    bar = bar if bar >= _LEAST_BAR else 0

    head = Text(no_wrap=True)
    for piece in pieces:
        head.append(fitted(piece.title, wide(piece) - 1, signs.marks).ljust(wide(piece)), "dim")
    head.rstrip()

    def cell(t: int) -> Text:
        line = Text(no_wrap=True, end="")
        for piece in pieces:
            if piece.shares is not None:
                share = float(piece.shares[t]) / largest
                drawn = (
                    share_bar(share, bar, signs) if bar else f"{block(share, signs)} " if np.isfinite(share) else "  "
                )
                line.append(drawn, OTHER)
            line.append_text(piece.text(t))
        line.rstrip()
        return line

    return Column([head], cell, no_line, _verdict(scene, name, looked, at, signs))


def _largest(scene: Scene, at: int) -> float:
    """The largest share that the models' first bars have."""
    firsts = [next(iter(reading.attention.values())) for reading in scene.readings if reading.attention]
    seen = np.concatenate([mean_over(looked, t) for looked in firsts for t in (at, scene.answered_at)])
    return float(np.nanmax(seen)) if np.isfinite(seen).any() else 1.0


def _shares(rank: int, title: str, shares: np.ndarray, last: int) -> _Piece:
    seen = np.where(np.arange(len(shares)) <= last, shares, np.nan)
    largest = np.nanmax(seen) if np.isfinite(seen).any() else np.nan

    def text(t: int) -> Text:
        share = float(seen[t])
        number = f"{100 * share:.1f} %" if np.isfinite(share) else ""
        return Text(number.rjust(_NUMBER - 1) + " ", "bold" if share == largest else "")

    return _Piece(rank, title, _NUMBER, text, seen)


def _heads(rank: int, shares: np.ndarray, last: int, signs: Signs) -> _Piece:
    wide = max(len(shares), len("heads")) + 1

    def text(t: int) -> Text:
        drawn = "".join(block(float(share), signs) for share in shares[:, t]) if t <= last else ""
        return Text(drawn.ljust(wide), OTHER)

    return _Piece(rank, "heads", wide, text)


def _verdict(scene: Scene, name: str, looked: LookBack, at: int, signs: Signs) -> list[Text]:
    shares, words, unit = mean_over(looked, at), scene.words, scene.unit
    seen = f"{name} at {unit} {at + 1}, '{visible(words[at], signs)}'"
    if not np.isfinite(shares).any():
        return [Text(f"{seen}: nothing")]
    most = int(np.nanargmax(shares))
    parts = [
        Text(f"{seen}: {100 * shares[most]:.0f} % from {unit} {most + 1}, '{visible(words[most], signs)}'", "bold")
    ]
    within = half_within(shares, at)
    if within is not None:
        parts.append(Text(f"half from the last {within} {unit}s" if within > 1 else f"half or more from this {unit}"))
    before = float(looked.before(at).mean())
    if before >= 0.0005:
        parts.append(Text(f"{100 * before:.1f} % from before the first {unit}"))
    return parts
