"""seqmem: a lab for the memory of sequence models.

    import seqmem
    run = seqmem.train(cell="lstm", task="pronoun", seq_len=50)
    run.result()["score"]
    run.plot()

``seqmem.show``, ``seqmem.read``, ``seqmem.report`` and ``seqmem.check`` are the command line's verbs, too. The parts
work without the runner: ``seqmem.cells``, ``seqmem.tasks``, ``seqmem.probes.gradient.gradient_trace``. ``seqmem.nn``
has torch.nn's recurrent layers over seqmem's kernels.
Submodules are imported lazily, when a name is first used: importing torch takes seconds.
"""

import sys

# `python -m seqmem` looks for libraries in the working directory first, where a user's random.py may be. While runpy
# imports this package, argv[0] is still "-m".
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and {"seqmem", "seqmem.kernels.build"} & {*sys.orig_argv}:
    here = sys.path.pop(0)
    if __path__[0][: -len("/seqmem")] == here:  # this seqmem is not installed
        sys.path.append(here)
    del here

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import cells as cells
    from . import nn as nn
    from . import tasks as tasks
    from .cli.notebook.check import check as check
    from .cli.notebook.log import log as log
    from .cli.notebook.read import read as read
    from .cli.notebook.report import report as report
    from .cli.notebook.show import show as show
    from .cli.notebook.tap import tap as tap
    from .cli.notebook.trace import trace as trace
    from .cli.notebook.train import train as train
    from .models.recurrent import SequenceModel as SequenceModel
    from .probes.gradient import gradient_trace as gradient_trace
    from .runs.directory import RunDirectory as RunDirectory
    from .runs.files import RunError as RunError

_MODULES = {
    "check": "cli.notebook.check",
    "train": "cli.notebook.train",
    "show": "cli.notebook.show",
    "read": "cli.notebook.read",
    "report": "cli.notebook.report",
    "log": "cli.notebook.log",
    "tap": "cli.notebook.tap",
    "trace": "cli.notebook.trace",
    "SequenceModel": "models.recurrent",
    "RunDirectory": "runs.directory",
    "RunError": "runs.files",
    "gradient_trace": "probes.gradient",
}
__all__ = [
    "RunDirectory", "RunError", "SequenceModel", "cells", "check", "gradient_trace", "log", "nn", "read", "report",
    "show", "tap", "tasks", "trace", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("cells", "nn", "tasks"):
        return import_module(f".{name}", __name__)
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES, "cells", "nn", "tasks"])


class _Package(ModuleType):
    @property
    def report(self) -> Any:
        return __getattr__("report")

    @report.setter
    def report(self, package: ModuleType) -> None:
        """Python sets the attribute when it imports the package ``seqmem.report``: the function keeps the name."""


sys.modules[__name__].__class__ = _Package
