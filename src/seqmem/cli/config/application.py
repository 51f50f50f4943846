"""Hydra's application, for one run or a sweep: as ``hydra.main``, which composes all settings twice.

``hydra.main`` composes them once more to see whether a file makes a sweep of the run (``hydra.mode``): 80 ms.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import run_job
from hydra.errors import ConfigCompositionException
from hydra.types import HydraContext, RunMode, TaskFunction

from .hydra_parser import late_help, parser
from .own_hydra import hydra_of
from .schema import conf_dir

_CONFIG = "train"
_VERSION = "1.3"


def shows(argv: Sequence[str]) -> bool:
    """Whether the command line asks for help, completion or settings, and runs nothing."""
    given = parser().parse_args([*argv])
    return bool(given.help or given.hydra_help or given.cfg or given.info or given.shell_completion)


def application(argv: Sequence[str], task: TaskFunction) -> None:
    """Do what the command line says: run ``task``, or show something. ``sys.argv`` has the same arguments."""
    arguments = parser().parse_args([*argv])
    unusual = arguments.resolve or arguments.config_path or not Path(arguments.config_dir or ".").is_dir()
    if not (shows(argv) or unusual or (arguments.run and arguments.multirun)):
        version.setbase(_VERSION)
        try:
            if _runs(hydra_of(_CONFIG, arguments.config_dir), arguments, task):
                return
        finally:
            GlobalHydra.instance().clear()
    with late_help():
        hydra.main(version_base=_VERSION, config_path=str(conf_dir()), config_name=_CONFIG)(task)()


def _runs(application: Hydra, arguments: Namespace, task: TaskFunction) -> bool:
    """Run ``task``; False: a file makes a sweep of it."""
    config_name, overrides = arguments.config_name or _CONFIG, arguments.overrides
    if arguments.multirun:
        application.multirun(config_name, task, [*overrides, "hydra.mode=MULTIRUN"])
        return True
    try:
        settings = application.compose_config(config_name, overrides, RunMode.RUN, with_log_configuration=True)
    except ConfigCompositionException as error:
        if "--multirun" in str(error):  # several values, which only a sweep may have
            return False
        raise
    if settings.hydra.mode == RunMode.MULTIRUN:
        return False
    settings.hydra.mode = RunMode.RUN
    callbacks = Callbacks(settings)
    callbacks.on_run_start(config=settings, config_name=config_name)
    context = HydraContext(config_loader=application.config_loader, callbacks=callbacks)
    done = run_job(task, settings, "hydra.run.dir", None, context)
    callbacks.on_run_end(config=settings, config_name=config_name, job_return=done)
    _ = done.return_value  # raises the task's error
    return True
