"""``seqmem.read``: models read a sentence, word by word."""

from collections.abc import Mapping
from functools import cached_property
from os import fspath
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from ..config.errors import ConfigError, notes_held
from ..terminal.console import Console
from ..terminal.reader.page import page
from ..terminal.reader.views import VIEWS, Scene, choose_signs
from ..verbs.read import Readers, numbers, readers_of, timestep
from ..verbs.read import sentence as sentence_of
from .errors import front_door
from .html import Displayed
from .runs import Name

if TYPE_CHECKING:
    from ...reading import Reading
    from .plots import DisplayedPlot

View = Literal["beliefs", "gates", "gradient", "attention"]


class DisplayedReading(Displayed):
    """A sentence and the models that have read it, which shows itself: a row for each word, a column for each model.

    ``reading.readings`` has the numbers: label of a model -> a ``seqmem.reading.Reading``; ``reading.numbers`` is what
    ``seqmem read --json`` prints; ``reading.view("gates")`` is another view, ``reading.plot()`` a figure.
    """

    def __init__(self, readers: Readers, scene: Scene, view: View, until: int, number: int | None) -> None:
        self._readers, self._scene, self._view, self._until, self._number = readers, scene, view, until, number

    @property
    def words(self) -> tuple[str, ...]:
        return self._scene.words

    @property
    def readings(self) -> "Mapping[str, Reading]":
        """Label -> what that model made of the sentence."""
        return dict(zip(self._scene.labels, self._scene.readings, strict=True))

    @cached_property
    def numbers(self) -> Mapping[str, Any]:
        """Every number, as ``seqmem read --json`` prints them."""
        return numbers(self._readers, self._scene, self._number, self._until)

    @front_door
    def view(self, view: View) -> "DisplayedReading":
        """The same sentence in another view.

        Raises:
            ValueError: there is no such view.
        """
        _check_view(view)
        return DisplayedReading(self._readers, self._scene, view, self._until, self._number)

    @front_door
    def plot(self) -> "DisplayedPlot":
        """How sure each model is of the right answer, word by word; of a task of numbers, what each predicts."""
        from .plots import of_reading  # matplotlib

        return of_reading(self._scene)

    def __len__(self) -> int:
        return len(self._scene)

    def _lines(self, console: Console) -> list[Text]:
        return page(self._scene, self._until, self._view, console.width, choose_signs(console)).whole()


@front_door
def read(
    *runs: Name,
    length: int | None = None,
    sentence: int | None = None,
    text: str | None = None,
    until: int | str | None = None,
    view: View = "beliefs",
    trust: bool = False,
) -> DisplayedReading:
    """Finished runs of one task read a sentence that none of them has seen, side by side.

    Args:
        runs: as for ``seqmem.show``, at most six.
        length: words; None: the longest that any was trained at.
        sentence: which one, from 0 on; None: the first.
        text: a sentence of your own, in the task's words, in place of ``length`` and ``sentence``.
        until: stop after this word: its number, from 1 on, or how it is written.
        view: ``beliefs``: how sure each is of every answer; ``gates``; ``gradient``: how much reaches each word;
            ``attention``: what is looked back at.
        trust: import the classes that the runs' configurations name, although you have not trained with them.

    Returns:
        A reading that shows itself. The gradient is always measured.

    Raises:
        ValueError: a name means no run, they are of several tasks or too many, or there is no such sentence.
        seqmem.RunError: a run is not finished, or cannot be read.
    """
    _check_view(view)
    number = None if text is not None else sentence or 0
    with notes_held():
        readers = readers_of([fspath(name) for name in runs], trusted=trust)
        _, batch, unknown, title = sentence_of(readers, length, sentence, text)
        at = timestep(None if until is None else str(until), readers, batch)
        scene = readers.scene(batch, title, unknown, gradient=True)
    return DisplayedReading(readers, scene, view, len(scene) - 1 if at is None else at, number)


def _check_view(view: str) -> None:
    if view not in VIEWS:
        raise ConfigError(f"there is no view '{view}'. One of: {', '.join(VIEWS)}")
