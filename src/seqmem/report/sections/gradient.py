"""The gradient norm at every timestep before the answer."""

from ..figures.base import TaskRuns
from .base import Section


def figures(_: TaskRuns) -> Section:
    return Section(
        "gradient",
        "How much gradient arrives",
        "The gradient that the loss at the answer sends back to every timestep before it, relative to one step back: "
        "at the answer itself it is that of the readout, and has crossed no step of the recurrence. Where it falls "
        "along a straight line it halves after every so many timesteps (its half-life); below the dotted line less "
        "than a thousandth is left (its horizon). What receives no gradient is not learned.",
    )
