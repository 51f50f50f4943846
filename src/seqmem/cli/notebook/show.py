"""``seqmem.show``: runs by name."""

from os import fspath

from ..config.errors import ConfigError, print_error
from ..verbs.show import MOST_RUNS, chosen, summaries
from .errors import front_door
from .runs import DisplayedRuns, Name


@front_door
def show(*runs: Name, all: bool = False) -> DisplayedRuns:  # noqa: A002  as on the command line
    """Runs by their names, finished or not: a page about one, several side by side, as ``seqmem show`` prints them.

    Args:
        runs: directories, folders of runs, parts of paths below ``outputs/`` that no other run's path has, or what
            ``seqmem.train`` returned. None: everything in ``outputs/``.
        all: however many there are; otherwise the first 20.

    Returns:
        A sequence of runs that shows itself, and draws itself with ``plot()``. A damaged run is named on standard error
        and left out.

    Raises:
        ValueError: a name means no run, or several.
        seqmem.RunError: the only run that is named is damaged.
    """
    try:
        known = chosen([fspath(name) for name in runs])
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from None
    readable, damaged = summaries(known if all else known[:MOST_RUNS])
    if damaged and not readable:
        raise damaged[0]
    for error in damaged:
        print_error(f"left out: {error}")
    return DisplayedRuns(readable, len(known))
