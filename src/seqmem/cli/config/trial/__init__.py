"""A user's own cell, model, task or probe is tried before anything is trained or a sweep is started.

What would fail at the first update, in the first measurement or silently is said here, in one line that tells the
repair. seqmem's own are not tried.
"""

from .modules import try_cell as try_cell
from .modules import try_model as try_model
from .probe import try_declared as try_declared
from .probe import try_probe as try_probe
from .task import try_task as try_task
