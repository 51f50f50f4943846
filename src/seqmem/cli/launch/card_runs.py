"""The runs of a memory card: those that a battery's file names, for one cell; and what they say together."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from ...cards.content import Subject, content
from ...report.collect import collect
from ...runs.files import RunError
from ...runs.settings import own_name, role
from ..config import process, trust
from ..config.compose import with_own_arguments
from ..config.errors import ConfigError
from ..config.hydra_errors import explained
from ..config.own_hydra import own_hydra
from ..config.schema import RunConfig, everything
from .jobs import Job
from .planned_runs import PlannedRun, composed

BATTERY = "experiment=battery"
"""The battery of a card, unless the settings choose another experiment."""

SEVERAL = ("task", "seq_len", "seed")
"""Settings that a card has several values of."""


def planned(settings: Sequence[str]) -> list[PlannedRun]:
    """Every run of a card.

    Args:
        settings: ``cell=lstm``, then others, as ``seqmem train`` takes them; those of SEVERAL take the place of the
            battery's.

    Raises:
        ConfigError: a setting is unknown, or has an invalid or several values.
    """
    chosen = [one for one in settings if one.startswith("experiment=")]
    with own_hydra():
        with explained(settings):
            given = with_own_arguments([*([] if chosen else [BATTERY]), *settings])
            overrides = OverridesParser.create().parse_overrides(given)
            for override in overrides:
                if override.is_sweep_override() and override.key_or_group not in SEVERAL:
                    raise ConfigError(f"{override.key_or_group}=: a card is of one cell, with one value each")
            battery = [one for one in given if one.startswith("experiment=")]
            sweeper = compose("train", overrides=battery, return_hydra_config=True).hydra.sweeper
            params = OmegaConf.to_container(sweeper.get("params") or OmegaConf.create({}), resolve=False)
            assert isinstance(params, dict)
            parser = OverridesParser.create()
            every = parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *given])
            jobs = BasicSweeper.split_arguments(every, None)[0]
        return composed((tuple(one for one in job if not one.startswith("seed=")), job) for job in jobs)


def made(settings: Sequence[str], plans: Sequence[PlannedRun], jobs: Sequence[Job]) -> dict[str, Any]:
    """The content of the card that these runs make.

    Raises:
        RunError: a run cannot be read.
    """
    runs = collect([job.path for job in jobs])
    unread = [*runs.left_out, *(one for one in runs.unfinished)]
    if unread:
        raise RunError(f"{unread[0].path}: it does not count, so there is no card")
    around = {name: runs.runs[0].environment.get(name) for name in ("seqmem", "torch", "numpy", "platform", "cpu")}
    return content(_subject(settings, plans[0].config), runs, around)


def _subject(settings: Sequence[str], config: RunConfig) -> Subject:
    """The cell, and which laws it keeps."""
    trust.remember(config)  # the user has named its class, or has admitted it
    with process.importing("torch"):
        from ...cells.base import numbers_in_state
        from ...laws import OfCell, examine
        from ..config.build import build_cell, build_task

    kept = [one for one in settings if role(one.lstrip("+").partition("=")[0]) not in ("place", "machine")]
    with redirect_stdout(sys.stderr):  # the user's own classes may print
        cell = build_cell(config, build_task(config))
        laws = {verdict.law.name: verdict.holds for verdict in examine(OfCell(cell, config.seq_len))}
        return Subject(_name(kept, config), everything(config)["cell"], kept, numbers_in_state(cell), laws)


def _name(settings: Sequence[str], config: RunConfig) -> str:
    """``lstm forget_bias=1``"""
    words = [own_name(config.cell)]
    for one in settings:
        name, _, value = one.lstrip("+").partition("=")
        if name != "cell":
            words.append(f"{name.removeprefix('cell.')}={value}")
    return " ".join(words)


def folder_of(plans: Sequence[PlannedRun]) -> Path:
    """The ``outputs`` of the runs."""
    return Path(plans[0].config.outputs)
