"""Cells around a cell. ``WRAPPERS`` maps the word in ``cell.wrap=layer_norm+residual`` to its class."""

from .around import Around as Around
from .dropout import Dropout as Dropout
from .layer_norm import LayerNorm as LayerNorm
from .residual import Residual as Residual
from .zoneout import Zoneout as Zoneout

WRAPPERS: dict[str, type[Around] | type[Zoneout]] = {
    "layer_norm": LayerNorm,
    "residual": Residual,
    "dropout": Dropout,
    "zoneout": Zoneout,
}
