"""A probe's numbers as TensorBoard shows them."""

from collections.abc import Iterator

from ..measurement import Scalars
from ..probes.base import Probe
from .tags import drawn_numbers, group


def in_table(probe: Probe, scalars: Scalars, timesteps: int) -> Iterator[tuple[str, float]]:
    """The numbers of a probe's main part as TensorBoard's table shows them, which is of finite numbers."""
    values = probe.description().of_main(scalars)
    for name in drawn_numbers(probe):
        value = probe.numbers[name].drawn(values[name], timesteps) if name in values else None
        if value is not None:
            yield name, value


def as_points(probe: Probe, scalars: Scalars, timesteps: int) -> Iterator[tuple[str, float]]:
    """The same as points of lines over the training."""
    values = probe.description().of_main(scalars)
    for name in drawn_numbers(probe):
        value = probe.numbers[name].plotted(values[name], timesteps) if name in values else None
        if value is not None:
            yield name, value


def parts_as_points(probe: Probe, scalars: Scalars, timesteps: int) -> Iterator[tuple[str, float]]:
    """The tag and value of what TensorBoard draws for each of a probe's other parts."""
    for name, number in probe.numbers.items():
        for part, values in scalars.items() if number.each_part and probe.main else ():
            value = number.plotted(values[name], timesteps) if part != probe.main and name in values else None
            if value is not None:
                yield f"{group(probe, part)}/{name}", value
