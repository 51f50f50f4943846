"""What a probe is: one way to measure a model while it trains.

Axes: T time, B batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from numpy import ndarray

from ..measurement import Description, Measurement, Number
from ..models.base import Model
from ..signals import Batch
from ..tasks.base import Task


@dataclass(frozen=True)
class Curves:
    """How the series of a probe are drawn in TensorBoard, and what it says about them.

    Args:
        what: what a series is, e.g. ``the loss gradient's norm``.
        of: series -> what it is measured of, in words; a series that is missing is called a state.
        log: draw log10 of the values.
        heatmap: what the main series is, as a sentence about a picture of it begins; empty: there is no picture. It
            shows log10 relative to the value one step back from the answer.
    """

    what: str = "what the probe measures"
    of: Mapping[str, str] = field(default_factory=dict)
    log: bool = False
    heatmap: str = ""


class Probe(ABC):
    """One way to measure a model. A subclass sets ``name`` and ``numbers``, and writes ``measure``; the rest follows.

    Its options are the parameters of its constructor. It is recorded in the run's files and in TensorBoard, shown, and
    reported by what it declares here.
    """

    name: ClassVar[str]
    """As in ``result["probes"][name]``: letters, digits and ``_``."""

    numbers: ClassVar[Mapping[str, Number]]
    """The scalars that it yields. Their names differ from those of other probes of a run."""

    main: ClassVar[str] = ""
    """The part shown where only one fits, if the probe measures several parts of a model."""

    in_words: ClassVar[Callable[[Mapping[str, float]], str] | None] = None
    """What the numbers of one part say together, as a static method; None: they speak for themselves."""

    curves: ClassVar[Curves] = Curves()

    @abstractmethod
    def measure(self, model: Model, task: Task, batch: Batch) -> Measurement:
        """Measure the model as it is.

        Args:
            model: a float64 copy in eval mode on the CPU; the model that is trained is never touched.
            batch: held-out sequences of the training length, the same ones at every step.
        """

    def combined(self, series: Mapping[str, Float[ndarray, "T B"]]) -> Mapping[str, Float[ndarray, "T B"]]:
        """Series that follow from the measured ones: drawn before them, and not stored. Usually there are none."""
        return {}

    def snapshots(self, model: Model, task: Task) -> "Snapshots | None":
        """A way to measure this model later, as it is now; None (the usual answer): it is measured at once.

        Override only to go faster: a law holds it equal to ``measure``.
        """
        return None

    def description(self) -> Description:
        return Description(self.numbers, self.main, type(self).in_words)


@runtime_checkable
class Snapshots(Protocol):
    """Copies of what a probe needs of one model, to be measured later, several in a row."""

    nbytes: int
    """Memory of one snapshot, in bytes."""

    def take(self) -> Any: ...

    def measure(self, batch: Batch, snapshots: Sequence[Any]) -> list[Measurement]:
        """Measure models as they were. ``batch``: as in ``Probe.measure``; it stays the same object."""
        ...


@dataclass(frozen=True)
class Scheduled:
    """A probe of a training run: measured every so many steps (0: never) on so many held-out sequences, and after the
    last step."""

    probe: Probe
    every: int = 100
    sequences: int = 32
