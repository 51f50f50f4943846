"""Memory tasks. ``TASKS`` maps the NAME of ``conf/task/NAME.yaml`` to its class."""

from .adding import Adding as Adding
from .base import Task as Task
from .copy import Copy as Copy
from .digits import Digits as Digits
from .phrases import Phrases as Phrases
from .pronoun import Pronoun as Pronoun
from .reverse import Reverse as Reverse
from .subject import Subject as Subject
from .temporal_order import TemporalOrder as TemporalOrder
from .text import Text as Text

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Adding, Copy, Digits, Phrases, Pronoun, Reverse, Subject, TemporalOrder, Text)
}
