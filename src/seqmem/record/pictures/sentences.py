"""A sequence as a model read it: the background of each word shows how sure of the right answer the model was by then.

As a picture for TensorBoard's images, and in block characters for its text, which has no colours. Every picture has
the same colours for the same numbers, so that runs, and one run's start, middle and end, can be compared by eye. Right
and wrong are written in words, too.

Axes: T timesteps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 344, 208
"""As in ``heatmap``: TensorBoard shows pictures of this size (nearly) pixel for pixel, and scales taller ones down."""

SHADES = "▁▂▃▄▅▆▇█"
"""From no confidence in the right answer to all of it, in eighths."""

_SIZES = (19, 17, 15, 13, 11)  # letter sizes in pixels; the largest at which every word fits is used
_MOST, _LEAST = 240, 8  # timesteps in a picture: more never fit, this few always do
_IN_TEXT = {True: 160, False: 60}  # timesteps in a text: characters, or words
_BLANK, _BUBBLE, _UNKNOWN = 0, 1, 2  # backgrounds that stand for no number
_PLAIN = [(255, 255, 255), (32, 33, 36), (190, 196, 204)]  # their colours
_LEVELS, _STRENGTHS = 24, 8  # steps from 0 to 1, and of the ink; a palette has at most 256 colours
_BLACK, _FAINT = 255, 150  # ink

# From white to dark blue, in even steps of lightness, so that paler is less for the colour-blind and in grey, too.
_RAMP = np.array(
    [(255, 255, 255), (222, 235, 247), (184, 212, 235), (128, 178, 219), (72, 138, 196), (29, 92, 160), (8, 48, 107)],
    dtype=np.float64,
)
_LEFT, _RIGHT, _TOP = 6, WIDTH - 6, 24
_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
_Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Sentence:
    """One sequence, up to its last answer, and what a model would answer if it were asked after each timestep.

    Args:
        right: the probability of the right answer, from 0 to 1; NaN: the model's outputs are not finite.
        answers: the model's, as text; ``expected``: the right ones. Empty where neither ``asked`` nor ``changed``, but
            for the first timestep.
        correct: the answer counts as right.
        changed: the answer is not the one after the timestep before.
        sure: the probability of the model's own answer; None where answers are real numbers.
    """

    words: Sequence[str]
    asked: Bool[ndarray, " T"]
    right: Float[ndarray, " T"]
    answers: Sequence[str]
    expected: Sequence[str]
    correct: Bool[ndarray, " T"]
    changed: Bool[ndarray, " T"]
    sure: Float[ndarray, " T"] | None = None

    @cached_property
    def asked_once(self) -> bool:
        return int(self.asked.sum()) == 1

    @cached_property
    def changed_at(self) -> int:
        """The timestep from which on its answer is the last one; 0: it never had another."""
        return int(np.flatnonzero(self.changed)[-1]) if self.changed.any() else 0

    @cached_property
    def tight(self) -> bool:
        """The words are characters (nearly all of them: a line break is written as two)."""
        return sum(map(len, self.words)) < 1.5 * len(self.words)

    def answer_text(self, t: int) -> str:
        """``my brother, 43 %``"""
        return self.answers[t] if self.sure is None else f"{self.answers[t]}, {percent(self.sure[t])}"


def percent(share: float) -> str:
    """``43 %``; with a decimal next to 0 and to 1, which are never reached by rounding: ``99.9 %``."""
    if not np.isfinite(share):
        return "?"
    if 0.01 <= share < 0.99:
        return f"{100 * share:.0f} %"
    if share <= 0.5:
        return f"{100 * share:.1f} %" if share == 0 or share >= 0.001 else "<0.1 %"
    return f"{100 * share:.1f} %" if share == 1 or share < 0.999 else ">99.9 %"


def shown(sentence: Sentence, most: int) -> Bool[ndarray, " T"]:
    """The timesteps to show where about ``most`` fit: the first, the last, and those around the last change."""
    count = len(sentence.words)
    if count <= most:
        return np.ones(count, dtype=bool)
    chosen = np.zeros(count, dtype=bool)
    around = most // 4 if sentence.asked_once else 0  # else it has an answer at every timestep
    at = sentence.changed_at
    tail = most // 3
    chosen[: most - around - tail] = chosen[count - tail :] = True
    chosen[max(0, at - around // 2) : at + around - around // 2] = True
    # A note about a gap of three words or fewer takes more room than the words.
    for start, stop in list(_gaps(chosen)):
        if stop - start <= 3:
            chosen[start:stop] = True
    return chosen


def _gaps(chosen: Bool[ndarray, " T"]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[True], chosen, [True]]).astype(int)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


# As a picture


def colours(right: Float[ndarray, "*shape"]) -> UInt8[ndarray, "*shape 3"]:
    """The background of every number from 0 to 1."""
    return _grounds()[_ground(right)]


def ink(ground: Sequence[int]) -> _Colour:
    """Black or white, the one with more contrast to ``ground`` (relative luminance as in WCAG 2)."""
    channels = np.asarray(ground, dtype=np.float64) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return (0, 0, 0) if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else (255, 255, 255)


def _ground(right: Float[ndarray, "*shape"]) -> UInt8[ndarray, "*shape"]:
    """Indices into ``_grounds``."""
    known = np.isfinite(right)
    level = np.clip(np.where(known, right, 0), 0, 1) * _LEVELS
    return np.where(known, level.round() + len(_PLAIN), _UNKNOWN).astype(np.uint8)


@lru_cache
def _grounds() -> UInt8[ndarray, "grounds 3"]:
    """The colours of ``_BLANK``, ``_BUBBLE`` and ``_UNKNOWN``, then the scale."""
    at, stops = np.linspace(0, 1, _LEVELS + 1), np.linspace(0, 1, len(_RAMP))
    scale = np.stack([np.interp(at, stops, channel) for channel in _RAMP.T], axis=-1)
    return np.concatenate([_PLAIN, scale.round()]).astype(np.uint8)


@lru_cache
def palette() -> UInt8[ndarray, "colours 3"]:
    """Every background without ink, under ink, and in between, for the edges of letters."""
    grounds = _grounds().astype(np.float64)
    inks = np.array([ink(ground) for ground in _grounds().tolist()], dtype=np.float64)
    strength = np.linspace(0, 1, _STRENGTHS)[None, :, None]
    return ((1 - strength) * grounds[:, None] + strength * inks[:, None]).round().astype(np.uint8).reshape(-1, 3)


@dataclass(frozen=True)
class _Piece:
    """Part of a line: a word (``at``: its timestep), the model's answer from there on (``bubble``), or a note."""

    text: str
    width: int
    at: int | None = None
    bubble: bool = False


@dataclass(frozen=True)
class _Look:
    """The layout of a picture, in pixels."""

    size: int  # of the letters
    row: int  # height of a line of words
    pad: int
    between: int  # lines


@lru_cache
def _font(size: int) -> _Font:
    return ImageFont.load_default(size=size)


@lru_cache(maxsize=4096)
def _wide(text: str, size: int) -> int:
    return int(np.ceil(_font(size).getlength(text)))


def picture(sentence: Sentence, *, title: str, ends: tuple[str, str]) -> UInt8[ndarray, "height width"]:
    """The words, wrapped; a notch where the answer changes; a bubble with the new answer where it changes last.

    Where several timesteps ask, the answers are below the words, and the backgrounds are theirs.

    Args:
        title: of the picture.
        ends: what the two ends of the colour scale mean.

    Returns:
        Indices into ``palette()``.
    """
    canvas = _Canvas.blank()
    _draw_head(canvas, title, ends)
    size, indent = 13, 16 if sentence.asked_once or sentence.correct[sentence.asked].all() else 0
    if _wide(_verdict(sentence), size) > _RIGHT - _LEFT - indent:
        size = 11
    verdict = _wrapped(_verdict(sentence), _RIGHT - _LEFT - indent, size)
    bottom = HEIGHT - 8 - 14 * len(verdict)
    look, lines = _set(sentence, bottom - _TOP)
    grounds = _ground(sentence.right).tolist()
    y = _TOP
    for line in lines:
        x = _LEFT
        for piece in line:
            _draw_piece(canvas, sentence, piece, look, (x, y), grounds)
            x += piece.width
        y += _high([line], look, sentence)
    if indent:  # a mixture of right and wrong has no mark
        _draw_mark(canvas, (_LEFT, bottom + 5), right=bool(sentence.correct[sentence.asked].all()))
    for number, words in enumerate(verdict):
        canvas.text((_LEFT + indent, bottom + 14 + 14 * number), words, size)
    return canvas.pixels()


@dataclass(frozen=True)
class _Canvas:
    """Two layers: the backgrounds, and the ink on them."""

    grounds: Image.Image
    inks: Image.Image
    ground: ImageDraw.ImageDraw
    ink: ImageDraw.ImageDraw

    @classmethod
    def blank(cls) -> "_Canvas":
        grounds, inks = (Image.new("L", (WIDTH, HEIGHT), 0) for _ in range(2))
        return cls(grounds, inks, ImageDraw.Draw(grounds), ImageDraw.Draw(inks))

    def text(self, at: tuple[int, int], text: str, size: int, *, anchor: str = "l", ink: int = _BLACK) -> None:
        """``at``: the start of the base line; with ``anchor`` m or r its middle or end."""
        letters = _letters(text, size)
        back = {"l": 0, "m": letters.width // 2, "r": letters.width}[anchor]
        self.inks.paste(ink, (at[0] - back, at[1] - size), letters)

    def pixels(self) -> UInt8[ndarray, "height width"]:
        strength = _strengths()[np.asarray(self.inks)]
        return np.asarray(self.grounds) * np.uint8(_STRENGTHS) + strength


@lru_cache
def _strengths() -> UInt8[ndarray, " 256"]:
    return (np.arange(256) / 255 * (_STRENGTHS - 1)).round().astype(np.uint8)


@lru_cache(maxsize=1024)
def _letters(text: str, size: int) -> Image.Image:
    """The ink of a word; the base line is ``size`` pixels below the top. Cached, as words recur."""
    drawn = Image.new("L", (max(1, _wide(text, size)), size + 5))
    ImageDraw.Draw(drawn).text((0, size), text, _BLACK, _font(size), anchor="ls")
    return drawn


def _draw_head(canvas: _Canvas, title: str, ends: tuple[str, str]) -> None:
    size, wide = 11, 2 * (_LEVELS + 1)
    canvas.text((_LEFT, 14), title, size)
    right = _RIGHT - _wide(ends[1], size) - 4
    scale = _ground(np.linspace(0, 1, wide // 2)).repeat(2)
    canvas.grounds.paste(Image.fromarray(scale[None].repeat(8, axis=0)), (right - wide, 6))
    canvas.ink.rectangle((right - wide - 1, 5, right, 14), outline=_FAINT)
    canvas.text((_RIGHT, 14), ends[1], size, anchor="r")
    canvas.text((right - wide - 5, 14), ends[0], size, anchor="r")


def _set(sentence: Sentence, room: int) -> tuple[_Look, list[list[_Piece]]]:
    """The lines, in the largest letters in which every word fits; else in the smallest, with words left out."""
    everything = np.ones(len(sentence.words), dtype=bool)
    if len(everything) <= _MOST:
        wide = sum(_wide(word, _SIZES[-1]) for word in sentence.words) / _SIZES[-1]
        for size in _SIZES:
            look = _look(sentence, size)
            if wide * size * look.row > (_RIGHT - _LEFT) * (room + look.row):  # too much even without spaces
                continue
            lines = _lines(sentence, everything, look)
            if _high(lines, look, sentence) - look.between <= room:
                return look, lines
    size, most = _SIZES[-1], min(len(everything), _MOST)
    look = _look(sentence, size)
    while True:
        lines = _lines(sentence, shown(sentence, most), look)
        if _high(lines, look, sentence) - look.between <= room or most <= _LEAST:
            return look, lines
        most -= max(1, most // 12)


def _look(sentence: Sentence, size: int) -> _Look:
    return _Look(size, size + 5, 1 if sentence.tight else 3, 2 if sentence.asked_once else 6)


def _high(lines: Sequence[Sequence[_Piece]], look: _Look, sentence: Sentence) -> int:
    """The height in pixels. Where many timesteps ask, a line with answers has a second row for them."""
    high = len(lines) * (look.row + look.between)
    if sentence.asked_once:
        return high
    return high + look.row * sum(any(sentence.asked[p.at] for p in line if p.at is not None) for line in lines)


def _lines(sentence: Sentence, chosen: Bool[ndarray, " T"], look: _Look) -> list[list[_Piece]]:
    lines: list[list[_Piece]] = [[]]
    x = _LEFT
    for piece in _pieces(sentence, chosen, look):
        if x + piece.width > _RIGHT and lines[-1]:
            lines.append([])
            x = _LEFT
        lines[-1].append(piece)
        x += piece.width
    return lines


def _pieces(sentence: Sentence, chosen: Bool[ndarray, " T"], look: _Look) -> Iterator[_Piece]:
    size = look.size
    least = size - 2 if sentence.tight else 0  # narrow letters below each other
    gaps = dict(_gaps(chosen))
    for t in np.flatnonzero(chosen).tolist():
        if t and not chosen[t - 1]:
            missing = next(stop - start for start, stop in gaps.items() if stop == t)
            note = f"… {missing:,} more …"
            yield _Piece(note, _wide(note, size) + 8)
        word = sentence.words[t][:40]
        below = "" if sentence.asked_once or not sentence.asked[t] else sentence.answers[t][:40]
        yield _Piece(word, max(least, _wide(word, size), _wide(below, size)) + 2 * look.pad, at=t)
        if sentence.asked_once and t == sentence.changed_at:
            answer = sentence.answer_text(t)
            yield _Piece(answer, _wide(answer, size) + 20, at=t, bubble=True)


def _draw_piece(
    canvas: _Canvas, sentence: Sentence, piece: _Piece, look: _Look, corner: tuple[int, int], grounds: Sequence[int]
) -> None:
    x, y = corner
    base = y + look.row - 5
    right, low = x + piece.width - 1, y + look.row - 1
    if piece.at is None:
        canvas.text((x + 4, base), piece.text, look.size, ink=_FAINT)
        return
    if piece.bubble:
        canvas.ground.polygon([(x + 1, (y + low) // 2), (x + 6, y + 1), (x + 6, low - 1)], _BUBBLE)
        canvas.ground.rectangle((x + 6, y + 1, right - 3, low - 1), _BUBBLE)
        canvas.text((x + 10, base), piece.text, look.size)
        return
    if sentence.asked_once:
        canvas.ground.rectangle((x, y, right, low), grounds[piece.at])
        canvas.text((x + look.pad, base), piece.text, look.size)
        if sentence.changed[piece.at]:
            canvas.ground.polygon([(x, y - 1), (x + 6, y - 1), (x + 3, y + 3)], _BUBBLE)
        return
    middle = x + piece.width // 2
    canvas.text((middle, base), piece.text, look.size, anchor="m")
    if sentence.asked[piece.at]:
        canvas.ground.rectangle((x, y + look.row, right, low + look.row), grounds[piece.at])
        canvas.text((middle, base + look.row), sentence.answers[piece.at][:40], look.size, anchor="m")
        if not sentence.correct[piece.at]:
            under = low + look.row + 2
            canvas.ink.rectangle((x + 1, under, right - 1, under + 1), _BLACK)


def _draw_mark(canvas: _Canvas, corner: tuple[int, int], *, right: bool) -> None:
    """A tick or a cross: the font has neither."""
    x, y = corner
    strokes = [[(0, 5), (3, 9), (10, 0)]] if right else [[(1, 1), (9, 9)], [(9, 1), (1, 9)]]
    for stroke in strokes:
        canvas.ink.line([(x + across, y + down) for across, down in stroke], _BLACK, width=2)


def _verdict(sentence: Sentence) -> str:
    if not sentence.asked_once:
        count, right = int(sentence.asked.sum()), int(sentence.correct[sentence.asked].sum())
        return f"{right} of {count} right" + ("" if right == count else "; wrong ones are underlined")
    last = int(np.flatnonzero(sentence.asked)[-1])
    answer = sentence.answer_text(last)
    if sentence.correct[last]:
        return f"right: {answer}"
    sure = "" if sentence.sure is None else f", {percent(sentence.right[last])}"
    return f"wrong: {answer}; it is {sentence.expected[last]}{sure}"


def _wrapped(text: str, room: int, size: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _wide(longer, size) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


# As text


def text(sentences: Sequence[Sentence], *, title: str, legend: str, columns: int = 92) -> str:
    """The same as plain text for a monospaced font: the block above a word stands for its background.

    Args:
        title: of the text.
        legend: what the blocks mean.
    """
    parts = [f"{title}; {legend}"]
    for number, sentence in enumerate(sentences, start=1):
        first, *rest = _once(sentence, columns - 3) if sentence.asked_once else _often(sentence, columns - 3)
        parts.append("\n".join([f"{number}. {first}", *(f"   {line}" for line in rest)]))
    return "\n\n".join(parts)


def shade(right: float) -> str:
    """One of ``SHADES``; ``?`` for NaN."""
    return SHADES[min(int(8 * max(right, 0.0)), 7)] if np.isfinite(right) else "?"


def _once(sentence: Sentence, columns: int) -> list[str]:
    last, since = len(sentence.words) - 1, sentence.changed_at
    words = [(shade(sure) * len(word), word) for word, sure in zip(sentence.words, sentence.right, strict=True)]
    verdict = f"{'✓' if sentence.correct[last] else '✗'} {_verdict(sentence)}"
    if since:
        verdict += f"; since timestep {since} of {last}, {sentence.words[since]!r}"
        verdict += f": {sentence.answer_text(since)}" if since < last else ""
    return [*_below_each_other(sentence, ("", ""), words, columns), verdict]


def _often(sentence: Sentence, columns: int) -> list[str]:
    cells = []
    for t, word in enumerate(sentence.words):
        if not sentence.asked[t]:
            cells.append((word, "", "", ""))
            continue
        answer, expected = sentence.answers[t], "" if sentence.correct[t] else sentence.expected[t]
        cells.append((word, shade(sentence.right[t]) * len(answer), answer, expected))
    verdict = _verdict(sentence).partition(";")[0]
    return [*_below_each_other(sentence, ("read  ", "      ", "says  ", "right "), cells, columns), verdict]


def _below_each_other(
    sentence: Sentence, labels: Sequence[str], cells: Sequence[Sequence[str]], columns: int
) -> list[str]:
    """Lines of cells, the parts of each cell one below the other; rows without text are left out, but for the first."""
    chosen = shown(sentence, _IN_TEXT[sentence.tight])
    missing = {stop: stop - start for start, stop in _gaps(chosen)}
    between = "" if sentence.tight else " "
    lines, rows = [], list(labels)

    def end_line() -> None:
        for place, (row, label) in enumerate(zip(rows, labels, strict=True)):
            if place == 0 or row.strip() != label.strip():
                lines.append(row.rstrip())

    for t in np.flatnonzero(chosen).tolist():
        put = [cells[t]]
        if t in missing:
            note = f"… {missing[t]:,} more …"
            put.insert(0, ("", note) if sentence.asked_once else (note if between else f" {note} ",))
        for cell in put:
            wide = max(map(len, cell))
            if len(rows[0]) + wide > columns and rows != list(labels):
                end_line()
                rows = list(labels)
            for place in range(len(rows)):
                rows[place] += (cell[place] if place < len(cell) else "").ljust(wide) + between
    end_line()
    return lines
