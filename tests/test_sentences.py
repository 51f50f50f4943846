"""Sentence pictures, checked pixel by pixel, and the same sentences as text."""

import html
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray
from PIL import Image, ImageFont
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seqmem.record.events import EventFile
from seqmem.record.pictures.sentences import (
    HEIGHT,
    SHADES,
    WIDTH,
    Sentence,
    colours,
    ink,
    palette,
    percent,
    picture,
    shade,
    shown,
    text,
)

WORDS = (
    "my brother above the field told his aunt that tonight the garden seemed old so every old cat vanished and he"
).split()
ENDS = ("sure of the right answer: 0", "100 %")
BUBBLE = (32, 33, 36)


def sentence(
    words: Sequence[str] = WORDS,
    right: Sequence[float] | None = None,
    *,
    changes: Sequence[int] = (),
    asked: Sequence[int] = (-1,),
    answer: str = "my brother",
    expected: str = "my brother",
) -> Sentence:
    count = len(words)
    shares = np.linspace(0, 1, count) if right is None else np.array(right, dtype=float)
    at, changed = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    at[list(asked)] = True
    changed[list(changes)] = True
    correct = at & (answer == expected)
    return Sentence(words, at, shares, [answer] * count, [expected] * count, correct, changed, sure=1 - shares / 2)


def rgb(one: Sentence, title: str = "step 500 of 1,000") -> ndarray:
    return palette()[picture(one, title=title, ends=ENDS)]


def box(pixels: ndarray, colour: Sequence[int] | ndarray) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of the pixels of one colour, below the scale."""
    rows, columns = np.nonzero((pixels[18:] == np.asarray(colour)).all(-1))
    return None if not len(rows) else (columns.min(), rows.min() + 18, columns.max(), rows.max() + 18)


def ground(right: float) -> ndarray:
    return colours(np.array([right]))[0]


def luminance(colour: Sequence[int]) -> float:
    """WCAG 2.2, relative luminance."""
    return sum(
        weight * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
        for weight, c in zip((0.2126, 0.7152, 0.0722), (channel / 255 for channel in colour), strict=True)
    )


# The colours


def test_backgrounds_darken_with_confidence_and_words_stay_legible() -> None:
    at = np.linspace(0, 1, 101)
    grounds = colours(at)
    assert grounds.shape == (101, 3)
    assert grounds[0].tolist() == [255, 255, 255]
    light = [luminance(colour) for colour in grounds.tolist()]
    assert light == sorted(light, reverse=True)
    assert len(set(light)) == 25
    for colour, background in zip(grounds.tolist(), light, strict=True):
        bright, dark = sorted((luminance(ink(colour)), background), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5  # WCAG's AA for small letters
    # NaN has a colour of its own, and values out of bounds take the colour of the bound.
    assert not (grounds == ground(np.nan)).all(-1).any()
    assert colours(np.array([-3.0, 7.0])).tolist() == [grounds[0].tolist(), grounds[-1].tolist()]


def test_a_palette_holds_all_colours() -> None:
    assert len(palette()) <= 256
    assert picture(sentence(), title="step 0", ends=ENDS).max() < len(palette())


# The picture


def test_words_stand_on_their_backgrounds_in_reading_order() -> None:
    count = 12
    right = (np.arange(count) + 2) / 24  # a different colour for each word
    pixels = rgb(sentence(WORDS[:count], right.tolist()))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    boxes = [box(pixels, colour) for colour in colours(right)]
    lines: list[int] = []
    previous = None
    widths = []
    for bounds in boxes:
        assert bounds is not None
        left, top, edge, bottom = bounds
        assert bottom - top < 30  # one line
        if previous is None or top > previous[3]:
            lines.append(top)
            assert left == 6
        else:
            assert top == previous[1]
            assert left > previous[2]
        previous = bounds
        widths.append(edge - left + 1)
    assert len(lines) > 1  # they were wrapped
    # Each box is as wide as its word in one common font size, plus the same padding.
    for size in (11, 13, 15, 17, 19):
        font = ImageFont.load_default(size=size)
        around = {wide - int(np.ceil(font.getlength(word))) for wide, word in zip(widths, WORDS, strict=False)}
        if around == {6}:
            break
    else:
        pytest.fail(f"{widths} is no size of letters")


@pytest.mark.parametrize(("changes", "behind"), [((3, 7), 7), ((9,), 9), ((), 0)])
def test_the_answer_stands_behind_the_word_at_which_it_last_changed(changes: tuple[int, ...], behind: int) -> None:
    right = np.full(12, 0.5)
    right[[behind, behind + 1]] = 6 / 24, 8 / 24
    pixels = rgb(sentence(WORDS[:12], right.tolist(), changes=changes))
    word, following = box(pixels, ground(6 / 24)), box(pixels, ground(8 / 24))
    assert word is not None
    assert following is not None
    dark = (pixels == np.asarray(BUBBLE)).all(-1)
    rows = [y for y in range(18, HEIGHT) if dark[y].sum() > 60]  # the text "my brother, 75 %" is wider than 60 pixels
    # The fifth row: the notches are four pixels deep.
    left, right_edge = (f(np.flatnonzero(dark[rows[5]])) for f in (np.min, np.max))
    top, line = rows[0], word[3] - word[1] + 3
    assert (top - word[1], following[1] - top) in ((1, -1), (1, line - 1), (line + 1, -1))  # same line, or the next
    assert left > word[2] if top == word[1] + 1 else left < 20
    assert right_edge < following[0] if following[1] == top - 1 else following[0] == 6
    # The dark pixels outside the bubble are the notches: about 16 pixels for each change.
    bubble = dark.copy()
    bubble[top : rows[-1] + 1, max(left - 6, 0) : right_edge + 1] = False
    assert 10 * len(changes) <= bubble.sum() <= 24 * len(changes)


def test_wrong_and_right_differ_in_more_than_colour() -> None:
    """The mark at the bottom: a cross reaches all four corners, a tick leaves the top left one empty."""
    marks = []
    for answer in ("my brother", "his aunt"):
        dark = rgb(sentence(WORDS[:8], answer=answer)).sum(-1) < 300
        left = dark[HEIGHT - 24 :, 5:20]
        rows, columns = np.nonzero(left)
        marks.append(left[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    tick, cross = ([part.any() for part in (m[:3, :3], m[:3, -3:], m[-3:, :3], m[-3:, -3:])] for m in marks)
    assert cross == [True] * 4
    assert tick[:2] == [False, True]


@pytest.mark.parametrize("count", [1, 7, 50, 120, 500, 20_000])
def test_any_length_fits(count: int) -> None:
    """The first word, the last one and the last change are drawn, and none of them reaches the line below."""
    words = (WORDS * (count // len(WORDS) + 1))[:count]
    right = np.full(count, 0.5)
    at = count // 2
    for place, share in ((0, 6 / 24), (at, 8 / 24), (count - 1, 10 / 24)):
        right[place] = share
    one = sentence(words, right.tolist(), changes=(at,) if at else ())
    pixels = rgb(one)
    for place in {0, at, count - 1}:
        bounds = box(pixels, ground(right[place]))
        assert bounds is not None
        assert bounds[3] < HEIGHT - 20
        assert bounds[2] < WIDTH
    half = box(pixels, ground(0.5))
    assert count < 4 or (half is not None and half[3] < HEIGHT - 20)


def test_letters_are_as_large_as_possible() -> None:
    heights = []
    for count in (5, 21, 60, 90):
        words = (WORDS * 5)[:count]
        right = np.full(count, 0.5)
        right[0] = 0.25
        bounds = box(rgb(sentence(words, right.tolist())), ground(0.25))
        assert bounds is not None
        heights.append(bounds[3] - bounds[1] + 1)
    assert heights == sorted(heights, reverse=True)
    assert heights[0] == 24
    assert heights[-1] == 16


def test_answers_at_many_timesteps_stand_below_the_input() -> None:
    letters = list("abcdefgh")
    right = [0.0] * 4 + [5 / 24, 7 / 24, 9 / 24, 11 / 24]
    one = sentence(letters, right, asked=(4, 5, 6, 7), answer="x", expected="x")
    pixels = rgb(one)
    for share in right[4:]:
        assert box(pixels, ground(share)) is not None
    wrong = rgb(replace(one, correct=np.array([False] * 4 + [True, False, True, True])))
    bounds = box(pixels, ground(7 / 24))
    assert bounds is not None
    left, _, edge, bottom = bounds
    underline = (wrong[bottom + 1 : bottom + 5].sum(-1) < 100) & (pixels[bottom + 1 : bottom + 5].sum(-1) > 700)
    columns = np.flatnonzero(underline.any(0))
    assert left <= columns.min() <= columns.max() <= edge  # only the wrong answer is underlined


def test_the_same_sentence_is_the_same_picture() -> None:
    first = rgb(sentence())
    rgb(sentence(WORDS[::-1]))
    np.testing.assert_array_equal(rgb(sentence()), first)
    assert (rgb(sentence(), title="step 7") != first).any()


def test_an_event_file_keeps_every_pixel(tmp_path: Path) -> None:
    pixels = picture(sentence(), title="step 0", ends=ENDS)
    path = tmp_path / "events.out.tfevents.0.seqmem"
    events = EventFile(path)
    events.image("reading/sentence 1", pixels, 0, palette=palette())
    events.image("reading/sentence 2", palette()[pixels], 0)
    events.close()
    board = EventAccumulator(str(path)).Reload()
    small, large = (board.Images(f"reading/sentence {number}")[0] for number in (1, 2))
    for one in (small, large):
        assert (one.width, one.height) == (WIDTH, HEIGHT)
        decoded = np.asarray(Image.open(io.BytesIO(one.encoded_image_string)).convert("RGB"))
        np.testing.assert_array_equal(decoded, palette()[pixels])
    assert len(small.encoded_image_string) < 0.6 * len(large.encoded_image_string)
    assert len(small.encoded_image_string) < 12_000


# Omitted words


@pytest.mark.parametrize("at", [0, 5, 50, 500, 990, 999])
def test_the_first_the_last_and_the_change_are_shown(at: int) -> None:
    one = sentence(["word"] * 1000, changes=(at,) if at else ())
    for most in (8, 40, 60):
        chosen = shown(one, most)
        assert chosen[[0, 1, at, 998, 999]].all()
        assert chosen.sum() <= most + 9  # and gaps of at most three words are closed
        edges = np.flatnonzero(np.diff(chosen.astype(int)))
        assert len(edges) <= 4
        assert all(stop - start > 3 for start, stop in zip(edges[::2], edges[1::2], strict=True))
    assert shown(one, 1000).all()


# As text


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.43, "43 %"), (0.0, "0.0 %"), (1.0, "100.0 %"), (0.9961, "99.6 %"), (0.99999, ">99.9 %"), (0.00001, "<0.1 %"),
     (0.004, "0.4 %"), (0.985, "98 %"), (float("nan"), "?")],
)  # fmt: skip
def test_percentages_never_round_to_certainty(share: float, expected: str) -> None:
    assert percent(share) == expected


def test_shades_are_eighths() -> None:
    assert "".join(shade((eighth + 0.5) / 8) for eighth in range(8)) == SHADES
    assert shade(0.0) == SHADES[0]
    assert shade(1.0) == SHADES[7]
    assert shade(float("nan")) == "?"


def test_blocks_stand_above_their_words() -> None:
    one = sentence(changes=(3, 9))
    output = text([one], title="step 5 of 10", legend="the legend", columns=60)
    head, _, body = output.partition("\n\n")
    assert head == "step 5 of 10; the legend"
    *lines, verdict = body.splitlines()
    words: list[str] = []
    for blocks, line in zip(lines[::2], lines[1::2], strict=True):
        assert len(blocks) == len(line) <= 60
        for block in re.finditer(r"\S+", blocks[3:]):
            word = line[3:][slice(*block.span())]
            assert word == WORDS[len(words)]
            assert set(block[0]) == {SHADES[min(int(8 * one.right[len(words)]), 7)]}
            words.append(word)
    assert words == WORDS
    # the confidence in its own answer is 1 - right / 2
    assert verdict == "   ✓ right: my brother, 50 %; since timestep 9 of 20, 'tonight': my brother, 78 %"


def test_the_text_of_a_wrong_answer_names_the_right_one() -> None:
    one = sentence(answer="his aunt")
    assert "✗ wrong: his aunt, 50 %; it is my brother, 100.0 %" in text([one], title="", legend="")
    several = sentence(list("abcd"), asked=(1, 2, 3), answer="x", expected="y")
    several = replace(several, correct=np.array([False, True, False, True]))
    _, letters, blocks, answer, right, verdict = text([several], title="", legend="").splitlines()[1:]
    assert (letters, answer, right) == ("1. read  abcd", "   says   xxx", "   right   y")
    assert blocks == f"          {SHADES[2]}{SHADES[5]}{SHADES[7]}"
    assert verdict.strip() == "2 of 3 right"


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated")
def test_tensorboard_leaves_a_code_block_unchanged() -> None:
    """Pass it through TensorBoard's markdown and its sanitizer, which removes styles and most tags."""
    from tensorboard.plugin_util import markdown_to_safe_html

    words = ["*", "<b>", "`", "~~~", "_a_", "&", "#", "|", "\\n"]
    output = text([sentence(words, answer="<i>"), sentence()], title="step 0", legend="a < b")
    page = markdown_to_safe_html(f"~~~~~~\n{output}\n~~~~~~")
    assert html.unescape(re.sub(r"<[^>]+>", "", page)).strip() == output.strip()
    assert "<pre>" in page
