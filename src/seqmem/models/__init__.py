"""Models. ``MODELS`` maps the name in ``conf/model/NAME.yaml`` to a function that builds one.

Each is called as ``make(task, cell, **options)``, with a ``CellFactory`` for the cell that the settings describe.
"""

from collections.abc import Callable

from .base import Layers as Layers
from .base import Look as Look
from .base import Model as Model
from .base import Step as Step
from .base import backwards as backwards
from .base import entering as entering
from .encoder_decoder import EncoderDecoder as EncoderDecoder
from .recurrent import RecurrentModel as RecurrentModel
from .recurrent import stacked as stacked

MODELS: dict[str, Callable[..., Model]] = {
    "recurrent": RecurrentModel.for_task,
    "encoder_decoder": EncoderDecoder.for_task,
}
