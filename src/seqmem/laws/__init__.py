"""The laws of cells and models, as functions of one: what it must be to be trained, measured and compared.

``examine`` looks at all of them; a law that is broken, or that cannot be looked at, keeps no other from it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..randomness import disturbed
from . import derivatives, purity, values
from .comparison import CounterExample as CounterExample
from .comparison import Outcome as Outcome
from .promises import Broken as Broken
from .subject import OfCell as OfCell
from .subject import OfModel as OfModel
from .subject import Subject as Subject
from .subject import made as made
from .words import with_type


@dataclass(frozen=True)
class Law:
    """
    Args:
        name: for command lines.
        title: the law in one sentence; ``{verb}`` is the method that defines the module.
        look: what is measured of a cell or a model.
        tolerance: the largest difference that is no fault; None: the law has no number.
        repair: what to do where it is broken.
    """

    name: str
    title: str
    look: Callable[[Subject], Outcome]
    tolerance: float | None
    repair: str


@dataclass(frozen=True)
class Verdict:
    """
    Args:
        outcome: None: the law could not be looked at, because of the ``error``.
    """

    law: Law
    outcome: Outcome | None
    error: str = ""

    @property
    def holds(self) -> bool:
        return self.outcome is not None and self.outcome.counter is None


ROWS_APART = "keep the rows of dimension 0 apart, e.g. take no mean over it"
NO_SHORTCUT = "mend it, or leave it out"

LAWS = {
    law.name: law
    for law in (
        Law("returns", "returns what a {noun} must", purity.returns_what_it_must, None, ""),
        Law(
            "forward",
            "forward equals its steps: values, state, gradients",
            values.forward_equals_steps,
            values.EXACT,
            f"forward computes something else than {{verb}}, which defines it: {NO_SHORTCUT}",
        ),
        Law(
            "float32",
            "forward equals its steps in float32",
            values.forward_equals_steps_in_float32,
            values.SINGLE,
            f"forward computes something else than {{verb}}, which defines it: {NO_SHORTCUT}",
        ),
        Law(
            "causal",
            "no output sees the future",
            values.no_output_sees_the_future,
            values.EXACT,
            "let the output of a timestep depend on the inputs up to it alone",
        ),
        Law(
            "rows",
            "rows of a batch are independent",
            values.rows_are_independent,
            values.EXACT,
            f"{ROWS_APART}, and take its size from x.shape[0]",
        ),
        Law(
            "cut",
            "the state carries over any cut",
            values.state_carries_over_any_cut,
            values.EXACT,
            "what goes on after a cut belongs into the state, and forward begins with the one that it is given",
        ),
        Law(
            "gradients",
            "gradients equal central differences",
            derivatives.gradients_equal_differences,
            derivatives.CLOSE,
            "look for detach, .data, no_grad, or a backward of your own in {verb}",
        ),
        Law(
            "takes_part",
            "every weight and state takes part",
            purity.everything_takes_part,
            None,
            "use it, or leave it out: it counts as a parameter",
        ),
        Law(
            "float64",
            "computes in float64 throughout",
            derivatives.computes_in_float64,
            derivatives.SMOOTH,
            "take the dtype of what is made or converted from a weight: gradients are measured in float64",
        ),
        Law(
            "length",
            "runs at four times the length",
            values.four_times_the_length,
            values.LONG,
            "let nothing be made for one length",
        ),
        Law(
            "same",
            "same weights and inputs, same bits",
            purity.same_bits_again,
            0.0,
            "{verb} must depend on its arguments alone",
        ),
        Law(
            "trace",
            "the trace follows what a step wrote",
            derivatives.trace_follows_what_was_written,
            derivatives.CLOSE,
            "what is carried on belongs into the state, with its graph; what stays as it was is returned as it is",
        ),
    )
}


def examine(subject: Subject, names: Sequence[str] = tuple(LAWS)) -> Iterator[Verdict]:
    """The verdict of each law, one after the other."""
    for name in names:
        law = LAWS[name]
        try:
            with disturbed(0):  # what draws from a global generator does so alike each time
                outcome = law.look(subject)
            yield Verdict(law, outcome)
        except Broken as error:
            yield Verdict(law, None, str(error))
        except (Exception, SystemExit) as error:  # a user's own code may raise anything
            yield Verdict(law, None, with_type(error))
