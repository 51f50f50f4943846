"""Memory tasks. ``TASKS`` maps the NAME of ``conf/task/NAME.yaml`` to its class."""

from .adding import Adding as Adding
from .anbn import Anbn as Anbn
from .base import Task as Task
from .copy import Copy as Copy
from .delay import Delay as Delay
from .digits import Digits as Digits
from .dyck import Dyck as Dyck
from .flip_flop import FlipFlop as FlipFlop
from .group import Group as Group
from .modular import Modular as Modular
from .parity import Parity as Parity
from .phrases import Phrases as Phrases
from .pronoun import Pronoun as Pronoun
from .reverse import Reverse as Reverse
from .subject import Subject as Subject
from .temporal_order import TemporalOrder as TemporalOrder
from .text import Text as Text

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        *(Adding, Anbn, Copy, Delay, Digits, Dyck, FlipFlop, Group, Modular, Parity, Phrases, Pronoun, Reverse),
        *(Subject, TemporalOrder, Text),
    )
}
