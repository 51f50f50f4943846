"""Pictures of what was read, taken apart again; and the same in letters."""

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


def box(seen: ndarray, colour: Sequence[int] | ndarray) -> tuple[int, int, int, int] | None:
    """left, top, right, bottom of what has a colour, below the scale."""
    rows, columns = np.nonzero((seen[18:] == np.asarray(colour)).all(-1))
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


def test_grounds_grow_darker_with_confidence_and_words_can_be_read_on_all() -> None:
    at = np.linspace(0, 1, 101)
    found = colours(at)
    assert found.shape == (101, 3)
    assert found[0].tolist() == [255, 255, 255]
    light = [luminance(colour) for colour in found.tolist()]
    assert light == sorted(light, reverse=True)
    assert len(set(light)) == 25
    for colour, there in zip(found.tolist(), light, strict=True):
        bright, dark = sorted((luminance(ink(colour)), there), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5  # WCAG's AA for small letters
    # What is no number has a colour that no number has; what is out of bounds has that of the bound.
    assert not (found == ground(np.nan)).all(-1).any()
    assert colours(np.array([-3.0, 7.0])).tolist() == [found[0].tolist(), found[-1].tolist()]


def test_a_palette_holds_all_colours() -> None:
    assert len(palette()) <= 256
    assert picture(sentence(), title="step 0", ends=ENDS).max() < len(palette())


# The picture


def test_every_word_stands_on_its_ground_in_the_order_they_are_read() -> None:
    count = 12
    right = (np.arange(count) + 2) / 24  # each word a colour of its own
    seen = rgb(sentence(WORDS[:count], right.tolist()))
    assert seen.shape == (HEIGHT, WIDTH, 3)
    boxes = [box(seen, colour) for colour in colours(right)]
    lines: list[int] = []
    before = None
    widths = []
    for found in boxes:
        assert found is not None
        left, top, edge, bottom = found
        assert bottom - top < 30  # one line
        if before is None or top > before[3]:
            lines.append(top)
            assert left == 6
        else:
            assert top == before[1]
            assert left > before[2]
        before = found
        widths.append(edge - left + 1)
    assert len(lines) > 1  # they were wrapped
    # A word has the width of its letters, in a size that all have alike, and the same room around it.
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
    seen = rgb(sentence(WORDS[:12], right.tolist(), changes=changes))
    word, following = box(seen, ground(6 / 24)), box(seen, ground(8 / 24))
    assert word is not None
    assert following is not None
    dark = (seen == np.asarray(BUBBLE)).all(-1)
    rows = [y for y in range(18, HEIGHT) if dark[y].sum() > 60]  # "my brother, 75 %" is longer than that
    # (the fifth row, as notches are four deep)
    left, right_edge = (f(np.flatnonzero(dark[rows[5]])) for f in (np.min, np.max))
    top, line = rows[0], word[3] - word[1] + 3
    assert (top - word[1], following[1] - top) in ((1, -1), (1, line - 1), (line + 1, -1))  # same line, or the next
    assert left > word[2] if top == word[1] + 1 else left < 20
    assert right_edge < following[0] if following[1] == top - 1 else following[0] == 6
    # What is not the bubble, below or beside it, are the notches: one for each change, of 16 or so pixels.
    bubble = dark.copy()
    bubble[top : rows[-1] + 1, max(left - 6, 0) : right_edge + 1] = False
    assert 10 * len(changes) <= bubble.sum() <= 24 * len(changes)


def test_wrong_and_right_differ_in_more_than_colour() -> None:
    """The mark at the bottom: a cross has four ends in four corners, a tick has none at the left on top."""
    marks = []
    for said in ("my brother", "his aunt"):
        dark = rgb(sentence(WORDS[:8], answer=said)).sum(-1) < 300
        left = dark[HEIGHT - 24 :, 5:20]
        rows, columns = np.nonzero(left)
        marks.append(left[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    tick, cross = ([part.any() for part in (m[:3, :3], m[:3, -3:], m[-3:, :3], m[-3:, -3:])] for m in marks)
    assert cross == [True] * 4
    assert tick[:2] == [False, True]


@pytest.mark.parametrize("count", [1, 7, 50, 120, 500, 20_000])
def test_any_length_fits(count: int) -> None:
    """First, last and what surrounds the last change are there, and nothing runs into the line below."""
    words = (WORDS * (count // len(WORDS) + 1))[:count]
    right = np.full(count, 0.5)
    at = count // 2
    for place, share in ((0, 6 / 24), (at, 8 / 24), (count - 1, 10 / 24)):
        right[place] = share
    one = sentence(words, right.tolist(), changes=(at,) if at else ())
    seen = rgb(one)
    for place in {0, at, count - 1}:
        found = box(seen, ground(right[place]))
        assert found is not None
        assert found[3] < HEIGHT - 20
        assert found[2] < WIDTH
    half = box(seen, ground(0.5))
    assert count < 4 or (half is not None and half[3] < HEIGHT - 20)


def test_the_letters_are_as_large_as_there_is_room_for() -> None:
    heights = []
    for count in (5, 21, 60, 90):
        words = (WORDS * 5)[:count]
        right = np.full(count, 0.5)
        right[0] = 0.25
        found = box(rgb(sentence(words, right.tolist())), ground(0.25))
        assert found is not None
        heights.append(found[3] - found[1] + 1)
    assert heights == sorted(heights, reverse=True)
    assert heights[0] == 24
    assert heights[-1] == 16


def test_answers_at_many_timesteps_stand_below_what_is_read() -> None:
    letters = list("abcdefgh")
    right = [0.0] * 4 + [5 / 24, 7 / 24, 9 / 24, 11 / 24]
    one = sentence(letters, right, asked=(4, 5, 6, 7), answer="x", expected="x")
    seen = rgb(one)
    for share in right[4:]:
        assert box(seen, ground(share)) is not None
    wrong = rgb(replace(one, correct=np.array([False] * 4 + [True, False, True, True])))
    found = box(seen, ground(7 / 24))
    assert found is not None
    left, _, edge, bottom = found
    added = (wrong[bottom + 1 : bottom + 5].sum(-1) < 100) & (seen[bottom + 1 : bottom + 5].sum(-1) > 700)
    columns = np.flatnonzero(added.any(0))
    assert left <= columns.min() <= columns.max() <= edge  # the line below the wrong one alone


def test_the_same_sentence_is_the_same_picture() -> None:
    first = rgb(sentence())
    rgb(sentence(WORDS[::-1]))
    np.testing.assert_array_equal(rgb(sentence()), first)
    assert (rgb(sentence(), title="step 7") != first).any()


def test_an_event_file_keeps_every_pixel(tmp_path: Path) -> None:
    drawn = picture(sentence(), title="step 0", ends=ENDS)
    path = tmp_path / "events.out.tfevents.0.seqmem"
    events = EventFile(path)
    events.image("reading/sentence 1", drawn, 0, palette=palette())
    events.image("reading/sentence 2", palette()[drawn], 0)
    events.close()
    found = EventAccumulator(str(path)).Reload()
    small, large = (found.Images(f"reading/sentence {number}")[0] for number in (1, 2))
    for one in (small, large):
        assert (one.width, one.height) == (WIDTH, HEIGHT)
        opened = np.asarray(Image.open(io.BytesIO(one.encoded_image_string)).convert("RGB"))
        np.testing.assert_array_equal(opened, palette()[drawn])
    assert len(small.encoded_image_string) < 0.6 * len(large.encoded_image_string)
    assert len(small.encoded_image_string) < 12_000


# What is left out


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


# In letters


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.43, "43 %"), (0.0, "0.0 %"), (1.0, "100.0 %"), (0.9961, "99.6 %"), (0.99999, ">99.9 %"), (0.00001, "<0.1 %"),
     (0.004, "0.4 %"), (0.985, "98 %"), (float("nan"), "?")],
)  # fmt: skip
def test_percentages_never_round_to_certainty(share: float, said: str) -> None:
    assert percent(share) == said


def test_shades_are_eighths() -> None:
    assert "".join(shade((eighth + 0.5) / 8) for eighth in range(8)) == SHADES
    assert shade(0.0) == SHADES[0]
    assert shade(1.0) == SHADES[7]
    assert shade(float("nan")) == "?"


def test_blocks_stand_above_their_words() -> None:
    one = sentence(changes=(3, 9))
    said = text([one], title="step 5 of 10", legend="the legend", columns=60)
    head, _, body = said.partition("\n\n")
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
    # the model is as sure of its own answer as 1 - right / 2
    assert verdict == "   ✓ right: my brother, 50 %; since timestep 9 of 20, 'tonight': my brother, 78 %"


def test_in_letters_too_wrong_answers_name_the_right_one() -> None:
    one = sentence(answer="his aunt")
    assert "✗ wrong: his aunt, 50 %; it is my brother, 100.0 %" in text([one], title="", legend="")
    often = sentence(list("abcd"), asked=(1, 2, 3), answer="x", expected="y")
    often = replace(often, correct=np.array([False, True, False, True]))
    _, read, blocks, said, right, verdict = text([often], title="", legend="").splitlines()[1:]
    assert (read, said, right) == ("1. read  abcd", "   says   xxx", "   right   y")
    assert blocks == f"          {SHADES[2]}{SHADES[5]}{SHADES[7]}"
    assert verdict.strip() == "2 of 3 right"


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated")
def test_tensorboard_changes_nothing_of_a_code_block() -> None:
    """Its markdown and its sanitizer, which takes styles and most tags away."""
    from tensorboard.plugin_util import markdown_to_safe_html

    words = ["*", "<b>", "`", "~~~", "_a_", "&", "#", "|", "\\n"]
    said = text([sentence(words, answer="<i>"), sentence()], title="step 0", legend="a < b")
    page = markdown_to_safe_html(f"~~~~~~\n{said}\n~~~~~~")
    assert html.unescape(re.sub(r"<[^>]+>", "", page)).strip() == said.strip()
    assert "<pre>" in page
