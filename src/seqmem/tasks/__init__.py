"""Memory tasks. ``TASKS`` maps the NAME of ``conf/task/NAME.yaml`` to its class."""

from .adding import Adding as Adding
from .base import Task as Task
from .copy import Copy as Copy
from .digits import Digits as Digits
from .pronoun import Pronoun as Pronoun
from .subject import Subject as Subject
from .temporal_order import TemporalOrder as TemporalOrder
from .text import Text as Text

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Adding, Copy, Digits, Pronoun, Subject, TemporalOrder, Text)
}
