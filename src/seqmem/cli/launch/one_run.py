"""One run, from its configuration to its finished directory. No torch at import: help and completion stay fast."""

import os
import platform
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from ...decay import DESCRIPTIONS
from ...lag import lag_of
from ...printable import as_written, printable
from ...runs.directory import RunDirectory
from ...runs.files import (
    BEFORE,
    CHECKPOINT,
    CONFIG,
    ENVIRONMENT,
    ERROR,
    OVERRIDES,
    RunError,
    write_atomically,
    write_json,
)
from ...runs.result import Facts
from ...runs.settings import identity_hash, own_name
from ..config import own_code, process, trust
from ..config import schema as settings
from ..config.errors import is_out_of_memory
from ..config.schema import RunConfig
from ..terminal.live import Display, RunInfo
from ..terminal.words import first_weights
from .longer import shorter

if TYPE_CHECKING:
    from ..config.build import Experiment


class Stopped(KeyboardInterrupt):
    """A run was asked to stop by a signal and has saved itself."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


UNREAD = 141
"""Exit code of a process whose output has no reader any more: the one that shells report for SIGPIPE."""


@dataclass
class StopSignals:
    """Ctrl-C and SIGTERM ask the run to stop after its step; a second one stops at once."""

    received: int | None = None
    at_once: BaseException | None = None  # what a request raises while nothing is written
    ignoring: bool = False

    def requested(self) -> bool:
        return self.received is not None

    @property
    def exit_code(self) -> int:
        return 128 + (self.received or signal.SIGINT)

    @contextmanager
    def caught(self) -> Iterator[None]:
        def handle(number: int, _: FrameType | None) -> None:
            if self.ignoring:
                return
            if self.received is not None:
                raise KeyboardInterrupt
            self.received = number
            if self.at_once is not None:
                raise self.at_once

        try:
            former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: signals are handled elsewhere
            yield
            return
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    @contextmanager
    def interruptible(self, step: int) -> Iterator[None]:
        """Inside, a request to stop raises ``Interrupted`` at once, after the C function that is running."""
        from ...training.plan import Interrupted

        self.at_once = Interrupted(step)
        try:
            if self.received is not None:  # asked last: a request that comes meanwhile finds ``at_once``
                raise self.at_once
            yield
        finally:
            self.at_once = None

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """Inside, requests change nothing: what is left to do takes milliseconds, and would be left half done."""
        self.ignoring = True
        try:
            yield
        finally:
            self.ignoring = False


def run_path(config: RunConfig) -> Path:
    """``outputs/TASK/CELL/len50-seed0-1a2b3c4d``: readable, and unique by the hash of the run's identity."""
    return _path(config, settings.identity(config))


def former_path(config: RunConfig) -> Path | None:
    """Where an earlier version, which drew other data at these settings, would have put the run; None: it did not."""
    identity = settings.identity(config)
    revision = identity.pop("data_revision", None)
    return None if revision is None else _path(config, identity)


def _path(config: RunConfig, identity: Mapping[str, Any]) -> Path:
    name = f"len{config.seq_len}-seed{config.seed}-{identity_hash(identity)}"
    return Path(config.outputs) / _safe(own_name(config.task)) / _safe(own_name(config.cell)) / name


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name) or "unnamed"


def title(config: RunConfig) -> str:
    return f"{own_name(config.cell)} {own_name(config.task)} len{config.seq_len} seed{config.seed}"


def already_finished(path: Path | str) -> str:
    return f"already finished: {path} (force=true runs it again)"


def execute(
    config: RunConfig,
    *,
    overrides: Sequence[str],
    console: Console,
    prefix: str = "",
    stop: StopSignals | None = None,
    alone: bool = True,
    display: Callable[[RunInfo], Any] | None = None,
    whole: bool = False,
) -> RunDirectory:
    """Train the run, unless it is finished; on from a finished run of fewer steps, where there is one.

    Args:
        overrides: the settings of the command line, for the record.
        prefix: in front of every line that is printed.
        stop: where a request to stop is noticed; None: Ctrl-C and SIGTERM while it trains.
        alone: the run is not a job of a sweep, so it may use every core.
        display: makes the observer that shows progress, a context manager with an attribute ``unread``; None: a
            ``Display`` on ``console``.
        whole: train every step, whatever other runs there are.

    Raises:
        ConfigError: a setting has an invalid value.
        RunError: the run failed; the message gives the reason in one line.
        Stopped: a signal came; the run has saved itself.
    """
    run = RunDirectory(run_path(config))
    if run.finished and not config.force:
        if run.file(BEFORE).exists():  # a run with force=true was killed at its very start or end
            with suppress(RunError), run.locked():
                run.forget_before()
        if not config.quiet:
            _say(console, f"{prefix}{already_finished(run.path)}")
        return run

    own_code.require(config)
    trust.remember(config)  # the user has named its classes
    with process.importing("seqmem.training.loop"):
        import torch

        from ...record.longer import go_on_from
        from ...record.recorder import Recorder, load_checkpoint
        from ...training.loop import train
        from ...training.plan import CannotCompile, Diverged, Interrupted
        from ..config.build import build, check_trainable

    stop = stop or StopSignals()
    with ExitStack() as stack:
        stack.enter_context(as_written())  # the user's own classes print here
        # This comes first: threads that torch starts later inherit these settings.
        stack.enter_context(_torch_settings(config))
        experiment = build(config, alone=alone, laws=True)
        check_trainable(experiment, config, begun=run.file(CHECKPOINT).exists() and not config.force)
        for line in experiment.doubts if not config.quiet else ():
            console.print(f"{prefix}{line}", soft_wrap=True, highlight=False, markup=False)
        torch.set_num_threads(experiment.backend.torch_threads)
        stack.enter_context(run.locked())
        if run.finished and not config.force:  # another process has finished it since the check above
            return run
        stack.enter_context(stop.caught())
        stack.enter_context(_stopped_at_once(run, stop))
        facts = _facts(config, experiment)
        former = former_path(config)
        if former is not None and former.exists() and not run.file(CHECKPOINT).exists() and not config.quiet:
            line = f"{prefix}begun anew: {former} is of an earlier version, which drew other data at these settings"
            _say(console, line)
        try:
            if config.force:
                if run.finished:
                    run.keep_result()
                run.restart()
            run.tidy()
            saved = run.file(CHECKPOINT)
            before = None if whole or config.force or saved.exists() else shorter(config, run_path)
            on_from = {} if before is None or before.obstacle else {"goes_on_from": str(before.run.path)}
            begun_with = _describe(run, config, overrides, experiment, on_from)
            if begun_with is not None and begun_with.get("seqmem") != version("seqmem") and not config.quiet:
                line = f"{prefix}begun by seqmem {begun_with.get('seqmem')}, going on with {version('seqmem')}"
                line += ": the numbers may be neither's (force=true begins anew)"
                _say(console, line)
            recorder = stack.enter_context(
                Recorder(
                    run,
                    config=settings.identity(config),
                    task=experiment.task,
                    facts=facts,
                    hparams=_hparams(config, facts),
                    probes=experiment.plan.all_probes(),
                )
            )
            if before is not None:
                if not before.obstacle:
                    go_on_from(before.run, recorder, experiment.model, experiment.task, experiment.plan)
                if not config.quiet:
                    _say(console, f"{prefix}{before}")
            first_step = load_checkpoint(saved)["progress"]["step"] if saved.exists() else 0
            info = RunInfo(
                title=f"{title(config)}, {experiment.backend.brief}",
                metric=experiment.task.targets.metric,
                chance=experiment.task.chance_at(config.seq_len),
                baseline_loss=experiment.task.baseline_loss(config.seq_len),
                steps=config.steps,
                solved_at=experiment.task.solved_at,
                first_step=first_step,
                prefix=prefix,
                quiet=config.quiet,
                begins=first_weights(config.init_from),
            )
            shown = stack.enter_context((display or partial(Display, console))(info))
            run.set_status("running", step=first_step)
            train(
                experiment.model,
                experiment.task,
                experiment.optimizer,
                experiment.plan,
                [recorder, shown],
                checkpoints=recorder,
                stop_requested=lambda: stop.requested() or shown.unread,
                interruptible=stop.interruptible,
            )
            run.forget_before()
        except Interrupted as stopped:
            run.set_status("interrupted", step=stopped.step)
            if not stop.requested():  # there is no reader for a line
                raise SystemExit(UNREAD) from None
            command = "the same command without force=true" if config.force else "the same command"
            line = f"stopped at step {stopped.step} of {config.steps}, saved: {command} goes on from there"
            raise Stopped(line, stop.exit_code) from None
        except Exception as error:
            _record_failure(run, error)
            if isinstance(error, Diverged):
                raise RunError(
                    f"{error}; what came before is kept in {run.path}. A smaller optimizer.lr or clip_norm may help; "
                    "on_nan=continue trains on regardless"
                ) from error
            if isinstance(error, CannotCompile):
                raise RunError(str(error)) from error
            if isinstance(error, OSError):
                raise RunError(f"cannot write to {run.path}: {error.strerror or error}") from error
            if is_out_of_memory(error):
                raise RunError(
                    f"out of memory (device={config.device}): a smaller batch_size or cell.hidden_size may fit; on "
                    "long sequences train.checkpoint_every_t=N or tbptt=K need less"
                ) from error
            raise
    return run


@contextmanager
def _stopped_at_once(run: RunDirectory, stop: StopSignals) -> Iterator[None]:
    """Record the second request as such wherever it comes, also while the first one's end is being written."""
    try:
        yield
    except Stopped:
        raise
    except KeyboardInterrupt:
        with stop.ignored():
            interrupted(run)
        raise Stopped("stopped at once: the same command goes on from the last checkpoint", stop.exit_code) from None


def interrupted(run: RunDirectory) -> None:
    """Record that a run was ended on request, at its last checkpoint. Best effort: the directory may be damaged."""
    with suppress(OSError, RunError):
        status = run.status()
        # "finished" is written just before the result.
        if status is not None and status.state in ("running", "finished") and not run.finished:
            run.set_status("interrupted", step=status.step)


def _say(console: Console, line: str) -> None:
    console.print(Text(printable(line)), soft_wrap=True)  # a notebook's console is rich's own


def _record_failure(run: RunDirectory, error: Exception) -> None:
    """Best effort: the disk itself may have failed."""
    step = getattr(error, "step", None)
    try:
        if step is None:  # take the step of the last checkpoint
            with suppress(RunError):
                step = getattr(run.status(), "step", None)
        run.set_status(
            "failed",
            step=step or 0,
            error=f"{error}" if isinstance(error, RunError) else f"{type(error).__name__}: {error}",
        )
        write_atomically(run.file(ERROR), "".join(traceback.format_exception(error)).encode())
    except OSError:
        pass


@contextmanager
def _torch_settings(config: RunConfig) -> Iterator[None]:
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    dtype, tf32 = torch.get_default_dtype(), torch.backends.cudnn.allow_tf32
    torch.set_num_threads(1)  # until it is known whether the cell uses torch's threads
    torch.set_default_dtype(torch.float32)  # of tasks and weights; a notebook may have set another
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32: the fused cells must equal their steps
    if config.deterministic:  # never set it to False: that would import torch's compiler, which takes seconds
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with this alone
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.backends.cudnn.allow_tf32 = tf32
        if config.deterministic:
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def _describe(
    run: RunDirectory,
    config: RunConfig,
    overrides: Sequence[str],
    experiment: "Experiment",
    on_from: Mapping[str, str],
) -> dict[str, Any] | None:
    """Write config.json, overrides.json and environment.json, anew at each start.

    Returns:
        The environment in which a resumed run was started first; None for a new run.
    """
    from ...record.recorder import scale_of

    run.file(ERROR).unlink(missing_ok=True)
    write_json(run.file(CONFIG), settings.everything(config))
    write_json(run.file(OVERRIDES), list(overrides))
    # Written before training: the scores of an unfinished run cannot be read without them.
    scale = scale_of(experiment.task, config.seq_len).fields() | {**experiment.task.facts()}
    if (revision := settings.identity(config).get("data_revision")) is not None:
        scale["data_revision"] = revision
    if (held_out := experiment.plan.parts(experiment.task).about(experiment.plan.drawn)) is not None:
        scale["held_out"] = held_out
    if (lag := lag_of(experiment.task, config.seq_len)) is not None:
        scale["lag"] = lag.fields()
    if unknown := [probe for probe in experiment.plan.all_probes() if probe.name not in DESCRIPTIONS]:
        scale["probes"] = {probe.name: probe.description().fields() for probe in unknown}
    # A resumed run may go on in another environment than it was begun in.
    former = run.environment() if run.file(CHECKPOINT).exists() else None
    earlier = [*former.pop("earlier", []), former] if former else []
    write_json(run.file(ENVIRONMENT), environment(experiment) | scale | {**on_from, "earlier": earlier})
    return earlier[0] if earlier else None


def environment(experiment: "Experiment") -> dict[str, Any]:
    import numpy as np
    import torch

    return {
        "seqmem": version("seqmem"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda,
        "kernel": str(experiment.backend),
        "threads": experiment.backend.threads,
        "git_commit": _git_commit(),
        "command": sys.orig_argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git_commit() -> str | None:
    """The commit of the working directory: the user's experiment, more often than seqmem itself."""
    here = Path.cwd()
    if "GIT_DIR" not in os.environ and not any((folder / ".git").exists() for folder in (here, *here.parents)):
        return None  # without the time that git takes to find that out
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return git.stdout.strip() or None if git.returncode == 0 else None


def _facts(config: RunConfig, experiment: "Experiment") -> Facts:
    first = next(experiment.model.parameters())
    return Facts(
        task=own_name(config.task),
        cell=own_name(config.cell),
        seq_len=config.seq_len,
        seed=config.seed,
        hidden_size=experiment.hidden_size,
        layers=config.cell.get("layers", 1),
        parameters=experiment.parameters,
        steps=config.steps,
        device=str(first.device),
    )


def _hparams(config: RunConfig, facts: Facts) -> dict[str, str | float | int | bool]:
    """Hyperparameters for TensorBoard. Every run has the same keys: its table shows no others."""
    from ...cells import CELLS

    compared = sorted({name for cell in CELLS.values() for name in cell.compared})
    return {
        "cell": facts.cell,
        "task": facts.task,
        "seq_len": facts.seq_len,
        "seed": facts.seed,
        "hidden_size": facts.hidden_size,
        "layers": int(facts.layers),
        "parameters": facts.parameters,
        **{name: str(config.cell.get(name, "-")) for name in compared},
        "optimizer": str(config.optimizer.get("name")),
        "lr": float(config.optimizer.get("lr", float("nan"))),
        "batch_size": config.batch_size,
        "steps": facts.steps,
        "lengths": str(config.task.get("lengths", "fixed")),
    }
