"""``seqmem train``: one run, or one job of a sweep. No torch at import: help and completion stay fast."""

import os
import platform
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ...runs import directory as runs
from ...runs.directory import RunDirectory, RunError, read_json, write_json
from ...runs.settings import identity_hash, own_name
from ..config import schema as settings
from ..config.schema import RunConfig
from ..terminal.live import Display

if TYPE_CHECKING:
    from ..config.build import Experiment


class Stopped(KeyboardInterrupt):
    """A run was asked to stop by a signal and has saved itself."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


UNREAD = 141
"""Exit code of what is ended by the end of a pipe: as shells say of SIGPIPE."""


@dataclass
class StopSignals:
    """Ctrl-C and SIGTERM ask the run to stop after its step; a second one stops at once."""

    received: int | None = None

    def requested(self) -> bool:
        return self.received is not None

    @property
    def exit_code(self) -> int:
        return 128 + (self.received or signal.SIGINT)

    @contextmanager
    def caught(self) -> Iterator[None]:
        def handle(number: int, _: FrameType | None) -> None:
            if self.received is not None:
                raise KeyboardInterrupt
            self.received = number

        try:
            former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: whoever runs us there decides how to stop
            yield
            return
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def run_path(config: RunConfig) -> Path:
    """Readable first, unique second: outputs/TASK/CELL/len50-seed0-1a2b3c4d."""
    name = f"len{config.seq_len}-seed{config.seed}-{identity_hash(settings.identity(config))}"
    return Path(config.outputs) / _safe(own_name(config.task)) / _safe(own_name(config.cell)) / name


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name) or "unnamed"


def title(config: RunConfig) -> str:
    return f"{own_name(config.cell)} {own_name(config.task)} len{config.seq_len} seed{config.seed}"


def execute(
    config: RunConfig,
    *,
    overrides: Sequence[str],
    console: Console,
    prefix: str = "",
    stop: StopSignals | None = None,
    alone: bool = True,
    display: Callable[..., Any] | None = None,
) -> RunDirectory:
    """Train what is configured, unless its directory says that it is done.

    ``alone``: it is not one of a sweep's jobs, and may take every core. ``display``: makes what stands in the place of
    ``display.Display``, with the same arguments.

    Raises:
        ConfigError, RunError, Diverged: one line for people each.
        Stopped: a signal came; the run has saved itself.
    """
    run = RunDirectory(run_path(config))
    if run.finished and not config.force:
        if not config.quiet:
            console.print(
                f"{prefix}already finished: {run.path} (force=true runs it again)", soft_wrap=True, highlight=False
            )
        return run

    import torch

    from ..config.build import build, check_trainable  # torch is needed from here on only

    stop = stop or StopSignals()
    with ExitStack() as stack:
        # Before anything else in torch, so that the threads it starts later inherit it.
        stack.enter_context(_torch_settings(config))
        experiment = build(config, alone=alone)
        check_trainable(experiment)
        torch.set_num_threads(experiment.backend.torch_threads)
        stack.enter_context(run.locked())
        if run.finished and not config.force:  # by another process, while this one was getting ready
            return run
        stack.enter_context(stop.caught())
        from ...record.recorder import Recorder, load_checkpoint
        from ...training.loop import train
        from ...training.plan import CannotCompile, Diverged, Interrupted

        facts = _facts(config, experiment)
        try:
            if config.force:
                run.restart()
            begun = _describe(run, config, overrides, experiment)
            if begun is not None and begun.get("seqmem") != version("seqmem") and not config.quiet:
                line = f"{prefix}begun by seqmem {begun.get('seqmem')}, going on with {version('seqmem')}"
                line += ": the numbers may be neither's (force=true begins anew)"
                console.print(line, soft_wrap=True, highlight=False)
            saved = run.file(runs.CHECKPOINT)
            first_step = load_checkpoint(saved)["progress"]["step"] if saved.exists() else 0
            recorder = stack.enter_context(
                Recorder(
                    run,
                    config=settings.identity(config),
                    task=experiment.task,
                    facts=facts,
                    hparams=_hparams(config, experiment),
                )
            )
            shown = stack.enter_context(
                (display or Display)(
                    console,
                    title=f"{title(config)}, {experiment.backend.brief}",
                    metric=experiment.task.targets.metric,
                    chance=experiment.task.chance,
                    baseline_loss=experiment.task.baseline_loss(config.seq_len),
                    steps=config.steps,
                    first_step=first_step,
                    prefix=prefix,
                    quiet=config.quiet,
                )
            )
            run.set_status("running", step=first_step)
            train(
                experiment.model,
                experiment.task,
                experiment.optimizer,
                experiment.plan,
                [recorder, shown],
                checkpoints=recorder,
                stop_requested=lambda: stop.requested() or shown.unread,
            )
        except Interrupted as stopped:
            run.set_status("interrupted", step=stopped.step)
            if not stop.requested():  # nobody is there to read a line
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
            if isinstance(error, torch.OutOfMemoryError):
                raise RunError(
                    f"out of memory on {config.device}: a smaller batch_size or cell.hidden_size may fit; on long "
                    "sequences train.checkpoint_every_t=N or tbptt=K need less"
                ) from error
            raise
    return run


def _record_failure(run: RunDirectory, error: Exception) -> None:
    """Best effort: the disk may be the very thing that failed."""
    step = getattr(error, "step", None)
    try:
        if step is None:  # as far as it had saved itself
            with suppress(RunError):
                step = getattr(run.status(), "step", None)
        run.set_status(
            "failed",
            step=step or 0,
            error=f"{error}" if isinstance(error, RunError) else f"{type(error).__name__}: {error}",
        )
        run.file("error.txt").write_text("".join(traceback.format_exception(error)))
    except OSError:
        pass


@contextmanager
def _torch_settings(config: RunConfig) -> Iterator[None]:
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    dtype, tf32 = torch.get_default_dtype(), torch.backends.cudnn.allow_tf32
    torch.set_num_threads(1)  # until it is known whether the cell uses torch's threads
    torch.set_default_dtype(torch.float32)  # what tasks and weights are made in, whatever a notebook has set
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32: the fused cells must equal their steps
    if config.deterministic:  # only then is it touched: it imports torch's compiler, which takes seconds
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
    run: RunDirectory, config: RunConfig, overrides: Sequence[str], experiment: "Experiment"
) -> dict[str, Any] | None:
    """What was run, with what; written anew at each start. Of a run that goes on: what it was begun with."""
    run.file("error.txt").unlink(missing_ok=True)
    write_json(run.file(runs.CONFIG), settings.everything(config))
    write_json(run.file("overrides.json"), list(overrides))
    task = experiment.task
    metric = task.targets.metric
    scale = {
        "metric": metric.name,
        "higher_is_better": metric.higher_is_better,
        "chance": task.chance,
        "baseline_loss": task.baseline_loss(config.seq_len),
        "solved_at": task.solved_at,
        **task.facts(),
    }  # so that an unfinished run's numbers can be read
    # Of a run that goes on: with what it was begun, should that be something else.
    former = read_json(run.file("environment.json")) if run.file(runs.CHECKPOINT).exists() else None
    earlier = [*former.pop("earlier", []), former] if former else []
    write_json(run.file("environment.json"), environment(experiment) | scale | {"earlier": earlier})
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
    """Of the directory the run was started in: the user's experiment, more often than seqmem itself."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


def _facts(config: RunConfig, experiment: "Experiment") -> dict[str, Any]:
    first = next(experiment.model.parameters())
    return {
        "task": own_name(config.task),
        "cell": own_name(config.cell),
        "seq_len": config.seq_len,
        "seed": config.seed,
        "hidden_size": experiment.hidden_size,
        "layers": config.cell.get("layers", 1),
        "parameters": experiment.parameters,
        "steps": config.steps,
        "device": str(first.device),
        "baseline_loss": experiment.task.baseline_loss(config.seq_len),
    }


def _hparams(config: RunConfig, experiment: "Experiment") -> dict[str, str | float | int | bool]:
    """The same keys for every run, whatever its cell: TensorBoard shows no others in a sweep's table."""
    return {
        "cell": own_name(config.cell),
        "task": own_name(config.task),
        "seq_len": config.seq_len,
        "seed": config.seed,
        "hidden_size": experiment.hidden_size,
        "layers": int(config.cell.get("layers", 1)),
        "parameters": experiment.parameters,
        "forget_bias": str(config.cell.get("forget_bias", "-")),
        "init": str(config.cell.get("init", "-")),
        "optimizer": str(config.optimizer.get("name")),
        "lr": float(config.optimizer.get("lr", float("nan"))),
        "batch_size": config.batch_size,
        "steps": config.steps,
        "lengths": str(config.task.get("lengths", "fixed")),
    }
