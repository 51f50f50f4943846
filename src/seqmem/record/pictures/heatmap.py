"""The gradient over timesteps and over training, as a picture.

Every picture has the same colours for the same numbers, so that two runs can be compared by eye: from
``decay.STRONGEST`` (the norm one step back from the answer, or more) down to ``decay.FAINTEST`` (a hundred-millionth of
it, or less).
Grey is a number that is not known, because it is below what float64 holds.

Axes: N traces, R of them in the picture, T timesteps.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from ...decay import FAINTEST, STRONGEST

UNKNOWN = (150, 160, 172)
"""The colour of zero and of what is not a number."""

WIDTH, HEIGHT = 344, 208
PLOT = (46, 22, 276, 170)
"""Left, top, right and bottom of the map inside the picture. TensorBoard's cards are a little wider than the picture
and scale it by dropping or doubling pixels; letters stay readable only if pixels are doubled."""

_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
_INK, _PAPER = (32, 33, 36), (255, 255, 255)  # opaque: readable on TensorBoard's light page and on its dark one

# Eleven evenly spaced colours of matplotlib's inferno (Smith & van der Walt 2015, CC0), which is perceptually uniform:
# equal steps of the number look equally large, also in grey and to the colour-blind.
_INFERNO = np.array(
    [
        (0, 0, 4), (22, 11, 57), (66, 10, 104), (106, 23, 110), (147, 38, 103), (188, 55, 84),
        (221, 81, 58), (243, 120, 25), (252, 165, 10), (246, 215, 70), (252, 255, 164),
    ],
    dtype=np.float64,
)  # fmt: skip


def colours(log10_norms: Float[ndarray, "*shape"]) -> UInt8[ndarray, "*shape 3"]:
    """The colour of every number."""
    known = np.isfinite(log10_norms) | (log10_norms == np.inf)
    at = (np.clip(np.where(known, log10_norms, FAINTEST), FAINTEST, STRONGEST) - FAINTEST) / (STRONGEST - FAINTEST)
    stops = np.linspace(0, 1, len(_INFERNO))
    rgb = np.stack([np.interp(at, stops, channel) for channel in _INFERNO.T], axis=-1)
    return np.where(known[..., None], rgb.round(), UNKNOWN).astype(np.uint8)


def visible(traces: int) -> Int[ndarray, " R"]:
    """Indices of the traces that a picture of so many traces shows: one for each line of pixels, or all of them."""
    return np.flatnonzero(np.bincount(_rows(traces)))  # np.unique would import half of numpy


def _rows(traces: int) -> Int[ndarray, " lines"]:
    """The index of the trace that each line of pixels shows: the nearest one, never an average."""
    _, top, _, bottom = PLOT
    return np.arange(bottom - top) * traces // (bottom - top)


def heatmap(
    log10_norms: Float[ndarray, "R T"], steps: Sequence[int], *, title: str = "gradient at every timestep"
) -> UInt8[ndarray, "height width 3"]:
    """Timesteps from left to right, training steps (one row for each trace) from top to bottom.

    Args:
        log10_norms: log10 of the gradient norm relative to one step back from the answer, of the R ``visible`` traces
            only; -inf or NaN where it is unknown.
        steps: the training steps of all N traces.
    """
    left, top, right, bottom = PLOT
    traces, timesteps = len(steps), log10_norms.shape[1]
    row = np.searchsorted(visible(traces), _rows(traces))
    column = np.arange(right - left) * timesteps // (right - left)  # the nearest timestep
    picture = Image.new("RGB", (WIDTH, HEIGHT), _PAPER)
    picture.paste(Image.fromarray(colours(log10_norms)[row][:, column]), (left, top))

    draw = ImageDraw.Draw(picture)
    font = _font()
    draw.rectangle((left - 1, top - 1, right, bottom), outline=_INK)
    draw.text((left, top - 6), title, _INK, font, anchor="ls")

    for timestep in _ticks(timesteps):
        x = left + (timestep + 0.5) * (right - left) / timesteps
        draw.line((x, bottom, x, bottom + 3), _INK)
        draw.text((x, bottom + 5), str(timestep), _INK, font, anchor="mt")
    draw.text(((left + right) / 2, HEIGHT - 6), "timestep", _INK, font, anchor="ms")

    for trace in _ticks(traces, at_most=6):
        y = top + (trace + 0.5) * (bottom - top) / traces
        draw.line((left - 4, y, left - 1, y), _INK)
        draw.text((left - 6, y), _short(steps[trace]), _INK, font, anchor="rm")
    _draw_upwards(picture, "training step", (8, (top + bottom) // 2), font)

    _draw_scale(picture, draw, font, with_unknown=not np.isfinite(log10_norms).all())
    return np.asarray(picture)


@lru_cache(maxsize=1)
def _font() -> _Font:
    return ImageFont.load_default(size=11)  # cached: each call unpacks the font


def _draw_scale(
    picture: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: _Font,
    *,
    with_unknown: bool,
) -> None:
    _, top, right, bottom = PLOT
    left, wide = right + 10, 12
    if with_unknown:
        draw.rectangle((left - 1, bottom - 12, left + wide, bottom), UNKNOWN, _INK)
        draw.text((left + wide + 5, bottom - 6), "zero", _INK, font, anchor="lm")
        bottom -= 20
    scale = np.linspace(STRONGEST, FAINTEST, bottom - top)[:, None].repeat(wide, axis=1)
    picture.paste(Image.fromarray(colours(scale)), (left, top))
    draw.rectangle((left - 1, top - 1, left + wide, bottom), outline=_INK)
    for exponent in range(int(STRONGEST), int(FAINTEST) - 1, -2):
        y = top + (STRONGEST - exponent) / (STRONGEST - FAINTEST) * (bottom - top - 1)
        draw.line((left + wide, y, left + wide + 3, y), _INK)
        draw.text((left + wide + 5, y), f"1e{exponent}" if exponent else "1", _INK, font, anchor="lm")
    draw.text((WIDTH - 4, top - 6), "of 1 back", _INK, font, anchor="rs")


def _draw_upwards(picture: Image.Image, text: str, centre: tuple[int, int], font: _Font) -> None:
    _, _, wide, high = font.getbbox(text)
    label = Image.new("RGB", (int(wide), int(high)), _PAPER)
    ImageDraw.Draw(label).text((0, 0), text, _INK, font)
    label = label.rotate(90, expand=True)
    picture.paste(label, (centre[0] - label.width // 2, centre[1] - label.height // 2))


def _ticks(count: int, at_most: int = 10) -> range:
    """Some of ``range(count)``: 0 and multiples of 1, 2 or 5 times a power of ten."""
    step, factors = 1, (2, 2.5, 2)
    for turn in range(60):
        if (count - 1) // step + 1 <= at_most:
            break
        step = int(step * factors[turn % 3])
    return range(0, count, step)


def _short(step: int) -> str:
    """At most five characters or so: 900, 12000, 250k, 3M."""
    for size, suffix in ((1_000_000, "M"), (1_000, "k")):
        if step >= 100 * size or (step >= size and step % size == 0 and step >= 10_000):
            return f"{step / size:g}{suffix}"
    return str(step)
