"""The mean and the spread over seeds in TensorBoard: event files of their own, computed from those of the runs.

    seeds/pronoun/lstm/len50-mean/  len50-min/  len50-max/      the tags of the runs, so they are on the same cards

They have no configuration, so they are no runs: nothing but TensorBoard reads them.
Axes: S seeds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..runs.directory import RunDirectory
from ..runs.files import EVENTS
from .events import EventFile, Scalars, read_scalars

STATISTICS = {"mean": np.mean, "min": np.min, "max": np.max}
"""End of a folder's name -> what it has of the values [S]; a NaN, where the line of a seed ends, is NaN of all."""


def write(folder: Path, groups: Mapping[str, Sequence[RunDirectory]]) -> list[tuple[Path, str]]:
    """Write the files of every group of two or more runs into ``folder``, in place of earlier ones.

    Only steps that every run of a group has are there: a seed that ended early must not bend a mean.

    Args:
        groups: a path below ``folder``, as ``pronoun/lstm/len50`` -> runs that differ by their seed.

    Returns:
        Runs that were left out, and why.

    Raises:
        OSError: a file cannot be written.
    """
    forget(folder)
    unread: list[tuple[Path, str]] = []
    for name, runs in groups.items():
        seeds = []
        for run in runs:
            try:
                seeds.append(read_scalars(run.file(EVENTS)))
            except (OSError, ValueError) as error:
                unread.append((run.path, getattr(error, "strerror", None) or str(error)))
        if len(seeds) > 1:
            _write_group(folder / name, seeds)
    return unread


def forget(folder: Path) -> None:
    """Delete what ``write`` wrote into ``folder``, and nothing else."""
    for name in STATISTICS:
        for path in folder.glob(f"*/*/*-{name}/{EVENTS}"):
            path.unlink()
            for parent in [*path.parents][:4]:  # up to ``folder`` itself
                if any(parent.iterdir()):
                    break
                parent.rmdir()


def _write_group(folder: Path, seeds: Sequence[Mapping[str, Scalars]]) -> None:
    tags = [tag for tag in seeds[0] if all(tag in seed for seed in seeds)]
    described = {tag: seeds[0][tag].description for tag in tags}
    for name, statistic in STATISTICS.items():
        place = folder.with_name(f"{folder.name}-{name}")
        place.mkdir(parents=True, exist_ok=True)
        title = f"**{name.capitalize()} over {len(seeds)} seeds.**"
        events = EventFile(place / EVENTS, describe=lambda tag, title=title: f"{title} {described[tag]}".strip())
        for tag in tags:
            points = [seed[tag].points for seed in seeds]
            for step in sorted(set.intersection(*map(set, points))):
                events.scalar(tag, float(statistic([values[step] for values in points])), step)
        events.close()
