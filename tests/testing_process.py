"""Settings of a process that runs tests: one thread, so that numbers do not depend on the machine's cores."""

import os
import signal
import tempfile

import torch
import torch.testing._comparison
from hypothesis import HealthCheck, settings

import checked_calls  # noqa: F401  before any module of seqmem
import quick_hydra

torch.set_num_threads(1)
torch.testing._comparison._HAS_DTENSOR = False  # or the first assert_close imports sympy, for a second
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background of a script ignores it
_state = tempfile.TemporaryDirectory()
os.environ["XDG_STATE_HOME"] = _state.name  # of this process and those that it starts: not the user's own
quick_hydra.install()

# The same few examples everywhere, without a database: a failure is one for all.
settings.register_profile(
    "laws", derandomize=True, database=None, deadline=None, max_examples=15, suppress_health_check=list(HealthCheck)
)
settings.load_profile("laws")
