"""``seqmem.check``: does a cell or a model keep the laws that training and measuring rely on?"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike, fspath
from typing import Any

from rich.text import Text

from ...laws import Subject, Verdict
from ..config.schema import RunConfig
from ..terminal.console import Console
from ..verbs.check import examined, foot, head, lines, numbers, subject_of
from .errors import front_door
from .html import Displayed
from .settings import words_of


class DisplayedCheck(Displayed):
    """The laws of one cell or model, which show themselves as ``seqmem check`` prints them.

    ``check.holds``: all of them hold; ``check.verdicts``: law -> its ``seqmem.laws.Verdict``, with the largest
    difference that was measured and the first counter-example; ``check.numbers`` is what ``seqmem check --json``
    prints.
    """

    def __init__(self, config: RunConfig, subject: Subject, verdicts: Sequence[Verdict]) -> None:
        self._config, self._subject = config, subject
        self.verdicts: Mapping[str, Verdict] = {verdict.law.name: verdict for verdict in verdicts}

    @property
    def holds(self) -> bool:
        return all(verdict.holds for verdict in self.verdicts.values())

    @cached_property
    def numbers(self) -> Mapping[str, Any]:
        """Every number, as ``seqmem check --json`` prints them."""
        return numbers(self._subject, list(self.verdicts.values()))

    def _lines(self, console: Console) -> list[Text]:
        verdicts = list(self.verdicts.values())
        rows = [line for n in range(len(verdicts)) for line in lines(verdicts[: n + 1], self._subject, console)]
        return [head(self._config, self._subject), *rows, foot(verdicts)]


@front_door
def check(*overrides: str, config_dir: str | PathLike[str] | None = None, **settings: Any) -> DisplayedCheck:
    """Examine a cell or a model by the laws that training, measuring and comparing rely on; nothing is trained.

    ``seqmem.check(cell=Leaky)`` examines a class of your own, ``seqmem.check(cell="lstm", seq_len=20)`` one of ours;
    with ``model`` the model is examined, on sequences of the ``task``. A test of yours is one line:
    ``assert seqmem.check(cell=Leaky).holds``.

    Args:
        overrides: settings as on the command line: ``"cell.args.alpha=0.9"``.
        config_dir: a directory of configuration files of your own, as ``-cd`` on the command line.
        settings: as for ``seqmem.train``: ``cell``, ``model``, ``task``, ``embed_size``, ``seq_len``, ``seed`` and
            ``kernel``.

    Returns:
        A check that shows itself: a line for each law, and below one that is broken its first counter-example.

    Raises:
        ValueError: a setting cannot be, or changes no cell and no model; one line that says which, and what instead.
    """
    config, subject = subject_of(words_of(overrides, settings), None if config_dir is None else fspath(config_dir))
    return DisplayedCheck(config, subject, list(examined(subject)))
