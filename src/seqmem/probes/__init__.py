"""Probes. ``PROBES`` maps the name in ``conf/probe/NAME.yaml`` to its class."""

from .base import Curves as Curves
from .base import Probe as Probe
from .base import Scheduled as Scheduled
from .base import Snapshots as Snapshots
from .gradient import GradientProbe as GradientProbe

PROBES: dict[str, type[Probe]] = {"gradient": GradientProbe}
