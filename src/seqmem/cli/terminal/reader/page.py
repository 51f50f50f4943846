"""Layout of a sentence and its models side by side, a row for each word: printed whole, or cut to a screen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from ..strip import fitted, packed
from .attention import attention
from .views import Column, Scene, Signs, beliefs, explained, gates, gradient, legend, visible

WIDEST = 100
"""The largest width of a model's column, in characters."""

NARROWEST = 16
"""The smallest useful width; models are left out rather than drawn narrower."""

_GAP = "  "

DRAWN: dict[str, Callable[[Scene, int, int, int, Signs], Column]] = {
    "beliefs": beliefs,
    "gates": gates,
    "gradient": gradient,
    "attention": attention,
}
"""View -> the column of (scene, the model's index, current timestep, width, signs)."""

AHEAD = ("gradient", "attention")
"""Views that have something to say about the words to come: how the answer looks back at them."""


@dataclass(frozen=True)
class Page:
    """``rows``: (timestep, line) in order; a timestep may have two. ``foot``: the models' verdicts."""

    title: Text
    legend: list[Text]
    heads: list[Text]
    rows: list[tuple[int, Text]]
    foot: list[Text]
    side: list[Text]
    wide: int
    """Characters from the left edge to ``side``."""

    def whole(self) -> list[Text]:
        rows = beside([line for _, line in self.rows], self.side, self.wide)
        return [self.title, *self.legend, *self.heads, *rows, Text(), *self.foot]

    def screen(self, at: int, height: int, keys: Text, foot_lines: int = 0) -> list[Text]:
        """Exactly ``height`` lines: the rows around timestep ``at``, and as much of the rest as fits.

        Args:
            foot_lines: the least height of the foot, so that the rows do not jump when it grows or shrinks.
        """
        if height < 2:
            return [self.title][:height]
        foot = [*self.foot, *[Text()] * (foot_lines - len(self.foot))][: height // 3]
        about = len(self.legend) + len(self.heads) + len(foot) + 3
        key = self.legend if height - about >= 6 else []
        heads = self.heads if height - about + (len(self.legend) - len(key)) >= 3 else []
        foot = foot if height - len(heads) - len(key) - len(foot) - 3 >= 3 else []
        room = height - len(key) - len(heads) - len(foot) - 2 - bool(foot)
        last = max((place for place, (t, _) in enumerate(self.rows) if t == at), default=0)
        # Two thirds of the rows show the past, one third the future, where it is drawn.
        first = max(0, min(last - room * 2 // 3, len(self.rows) - room))
        shown = [line for _, line in self.rows[first : first + room]]
        shown += [Text()] * (room - len(shown))
        lines = [self.title, *key, *heads, *beside(shown, self.side, self.wide), *([Text()] if foot else []), *foot]
        return [*lines, keys][-height:] if len(lines) + 1 > height else [*lines, keys]


def beside(lines: Sequence[Text], side: Sequence[Text], wide: int) -> list[Text]:
    """``side`` at the right of ``lines``, ``wide`` characters from the left."""
    if not side:
        return list(lines)
    both = []
    for place in range(max(len(lines), len(side))):
        line = lines[place].copy() if place < len(lines) else Text(no_wrap=True)
        if place < len(side):
            line.append(" " * (wide - line.cell_len)).append_text(side[place])
        both.append(line)
    return both


def page(scene: Scene, at: int, view: str, width: int, signs: Signs, *, height: int | None = None) -> Page:
    """The sentence up to timestep ``at``.

    Args:
        width: of the page, in characters.
        height: of an interactive screen; None when printing. With a height, a pointer marks the row of timestep ``at``,
            rows out of sight are left out, and views that the whole sentence determines are drawn at later timesteps
            too.
    """
    side = picture(scene, at, signs)
    count = len(scene.readings)
    widest = width - (max(line.cell_len for line in side) + 3 if side else 0)
    word, each, shown = divided(scene, widest)
    columns = [DRAWN[view](scene, index, at, each, signs) for index in range(shown)]
    number = len(str(len(scene)))
    left = 1 + number + 1 + word

    title = Text(scene.task.name, "bold", no_wrap=True, end="")
    parts = [Text(f"  {scene.name} {signs.marks.dot} {view}", "dim")]
    if shown < count:
        parts.append(Text(f"  {count - shown} more if wider", "yellow"))
        if title.cell_len + sum(part.cell_len for part in parts) > width:
            parts.reverse()  # the last part to be cut off
    title = Text.assemble(title, *parts, no_wrap=True)
    heads = []
    labels = Text(" " * left, no_wrap=True)
    for index in range(shown):
        name = Text.assemble((scene.labels[index], "bold"))
        if f" at {scene.trained[index]}" not in scene.labels[index]:
            name.append(f", trained at {scene.trained[index]}", "dim")
        if name.cell_len > each:
            name = Text(fitted(scene.labels[index], each, signs.marks), "bold")
        labels.append(_GAP).append_text(name).append(" " * (each - name.cell_len))
    heads.append(labels)
    depth = max(len(column.heads) for column in columns)
    for level in range(depth):
        line = Text(" " * left, no_wrap=True)
        for column in columns:
            place = level - depth + len(column.heads)
            own = column.heads[place] if place >= 0 else Text()
            line.append(_GAP).append_text(own).append(" " * max(0, each - own.cell_len))
        heads.append(line)
    for line in heads:
        line.rstrip()

    rows: list[tuple[int, Text]] = []
    answers = scene.readings[0].answers or ()
    first, last = 0, at
    if height is not None:
        first, last = max(0, at - height), min(at + height, len(scene) - 1) if view in AHEAD else at
    for t in range(first, last + 1):
        here = height is not None and t == at
        line = Text(no_wrap=True)
        line.append(signs.here if here else " ", "bold")
        line.append(f"{t + 1:>{number}} ", "dim")
        own = scene.words[t]
        text = fitted(visible(own, signs) if own in answers else own, word, signs.marks)
        asked = bool(scene.readings[0].asked[t])
        style = "bold reverse" if here else "bold" if asked and t == scene.answered_at else ""
        line.append(text, style).append(" " * (word - cell_len(text)))
        rows.append((t, _row(line, [column.cell(t) for column in columns], each)))
        under = [column.below(t) for column in columns]
        if any(under):
            rows.append((t, _row(Text(" " * left, no_wrap=True), [note or Text() for note in under], each)))
    key = [*explained(scene, view, width), *(legend(scene, width, each, signs) if view == "beliefs" else [])]
    wide = left + shown * (len(_GAP) + each) + 3
    return Page(title, key, heads, rows, verdicts(scene, columns, width, view), side, wide)


def _row(line: Text, cells: Sequence[Text], each: int) -> Text:
    for cell in cells:
        cell.truncate(each)
        line.append(_GAP).append_text(cell).append(" " * (each - cell.cell_len))
    line.rstrip()
    return line


def divided(scene: Scene, width: int) -> tuple[int, int, int]:
    """(width of the words, width of each model's column, number of models that fit)"""
    number, count = len(str(len(scene))), len(scene.readings)
    longest = max(map(cell_len, scene.words))
    # Long words are cut before models are left out.
    word = min(longest, max(9, width // 5 if count < 3 else width // 9))
    shown = count
    while shown > 1 and (width - number - 2 - word) // shown - len(_GAP) < NARROWEST:
        shown -= 1
    each = (width - number - 2 - word) // shown - len(_GAP)
    return word, max(4, min(each, WIDEST)), shown


def verdicts(scene: Scene, columns: Sequence[Column], width: int, view: str) -> list[Text]:
    """Each model's verdict, in one line or more."""
    wide = max(map(cell_len, scene.labels))
    lines: list[Text] = []
    for label, column in zip(scene.labels, columns, strict=False):
        if not column.verdict:
            continue
        for place, line in enumerate(packed(column.verdict, max(20, width - wide - 2), "; ")):
            start = set_cell_size(label if place == 0 else "", wide + 2)
            lines.append(Text.assemble((start, "bold"), line, no_wrap=True))
    if scene.unknown is not None and view == "beliefs":
        lines.append(Text(f"not judged: {scene.unknown}", "dim"))
    return lines


def picture(scene: Scene, at: int, signs: Signs) -> list[Text]:
    """The pixels read so far, two characters each; empty if the task has no picture."""
    pixels = scene.task.picture(scene.batch.inputs[: at + 1, 0])
    if pixels is None:
        return []
    lines = []
    for row in pixels.tolist():
        line = Text(no_wrap=True)
        for value in row:
            if value != value:
                line.append(signs.unread.ljust(2), "dim")
            else:
                level = min(max(round(value * (len(signs.shades) - 1)), 0), len(signs.shades) - 1)
                line.append(signs.shades[level] * 2)
        lines.append(line)
    return lines
