"""``seqmem train``: one run, or with ``-m`` a sweep. No torch at import: help and completion stay fast."""

import io
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout, suppress
from itertools import groupby
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ..config.application import application, shows
from ..config.commands import completes
from ..config.comments import beside, comments, header
from ..config.compose import Arguments, command_line_config_dir, parsed, with_own_arguments
from ..config.difficulty import resolved
from ..config.errors import ConfigError, exit_code, full_errors, one_line, print_error
from ..config.help_text import filled
from ..config.hydra_errors import GROUPS, explain, explained, is_hydras
from ..config.own_code import SAFE_PATH, forget_edited
from ..config.own_files import called
from ..config.schema import conf_dir, from_mapping, register

if TYPE_CHECKING:
    from ..launch.sweep import Session


def main(args: list[str]) -> int:
    full, names = full_errors(), ("HYDRA_FULL_ERROR", SAFE_PATH)
    before = {name: os.environ.get(name) for name in names}
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra's main raise errors instead of printing them and exiting
    try:
        return _main(args, full=full)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _main(args: list[str], *, full: bool) -> int:
    session, given = None, Arguments([], args, None)
    failures: list[Exception] = []
    printed: list[Exception] = []
    forget_edited()
    try:
        given = parsed(with_own_arguments(args))
        register()
        sys.argv = [completes(), *given.argv]  # Hydra's main reads its command line from here
        if shows(given.argv):
            _show(given)
        else:
            session = _begun()
            failures = session.failures
            application(given.argv, run)
            printed = failures if session.sweep is not None else []  # printed when the job failed
    except (
        ValueError,
        HydraException,
    ) as error:  # raised by Hydra before the first job; jobs' are in failures
        failures.append(ConfigError(explain(error, given.overrides, given.config_dir)))
    except Exception as error:
        mistake = ConfigError(explain(error, given.overrides, given.config_dir)) if is_hydras(error) else error
        failures.append(mistake)
    code = 0
    for error in failures:
        if full:
            raise error
        code = max(code, exit_code(error))
        if error not in printed:
            print_error(f"seqmem train: {one_line(error)}")
    return code if session is None else max(code, _summarised(session, code))


def _show(given: Arguments) -> None:
    """Help, completion, ``--cfg`` and the like. Nothing is run."""
    if not {"-h", "--help"} & {*given.options}:
        application(given.argv, run)
        return
    with redirect_stdout(io.StringIO()) as text, suppress(SystemExit):  # with which Hydra ends its help
        application(given.argv, run)
    print(_with_comments(text.getvalue()).rstrip())


def _begun() -> "Session":
    from ..launch import sweep  # late: help and completion need none of it

    return sweep.begin()


def _summarised(session: "Session", code: int) -> int:
    """Print what became of a sweep; returns the worst exit code of its runs."""
    if session.sweep is None:
        return 0
    from ..launch import sweep

    lines, worst = sweep.summary(session.sweep)
    lines += filter(None, [sweep.next_command(session.sweep, max(code, worst))])
    print("".join(f"{line}\n" for line in lines), end="", flush=True)
    return worst


def _with_comments(text: str) -> str:
    """Hydra's help, in which each setting has the comment that stands beside it in its file."""
    before, title, rest = text.partition("Current settings:\n")
    settings, end, after = rest.partition("\n`")  # the footer
    told, chosen = comments(conf_dir() / "train.yaml"), ""
    files = {"trace": conf_dir() / "probe" / "gradient.yaml"}
    for line in settings.splitlines():
        chosen = line.partition(":")[0] if re.match(r"\w", line) else chosen
        if line.startswith("  name: "):
            files[chosen] = called(line.removeprefix("  name: "), conf_dir(), chosen)
    for group, path in files.items():
        if path.is_file():
            told |= {f"{group}.{name}": comment for name, comment in comments(path).items()}
            told[f"{group}.name"] = " ".join(header(path)[:1])
    from ..terminal.console import Console

    console = Console()
    width = console.width if console.is_terminal else None
    head, choices, names = before.partition("Choices:\n")
    # Not every folder of conf/ is for training: papers are not.
    lines = list(_with_subfolders(line for line in names.splitlines() if not line or _group(line) in GROUPS))
    if width is not None:
        head, after = filled(head, width) + "\n", filled(after, width)
        lines = [textwrap.fill(line, width, subsequent_indent="  ") for line in lines]
    before = head + choices + "\n".join([*lines, ""])
    return "\n".join([before + title.rstrip(), *beside(resolved(settings.rstrip()), told, width), end + after])


def _group(line: str) -> str:
    """``task``, of the choices ``task: copy, text`` and of ``task/cogscale: simple_copy``, which follow them."""
    return line.partition(":")[0].partition("/")[0]


def _with_subfolders(lines: Iterable[str]) -> Iterator[str]:
    """The choices of each group in one line, as they are typed: ``task: copy, text, cogscale/simple_copy``."""
    for group, some in groupby(lines, _group):
        choices = [
            f"{folder.removeprefix(group).removeprefix('/')}/{choice}".removeprefix("/")
            for folder, _, names in (line.partition(": ") for line in some)
            for choice in names.split(", ")
        ]
        yield f"{group}: {', '.join(choices)}" if group else ""


def run(cfg: DictConfig) -> float:
    """Hydra's task function; importable by name, so that launchers can send it elsewhere.

    Returns the score on validation data, for searches over settings.
    """
    from ..launch import sweep
    from ..launch.jobs import job_prefix, say_failed
    from ..launch.one_run import Stopped, StopSignals, execute, title
    from ..terminal.console import Console
    from ..terminal.live import print_summary

    job, console, stop = HydraConfig.get(), Console(), StopSignals()
    in_sweep, prefix = job.mode == RunMode.MULTIRUN, ""
    session = sweep.session()
    try:
        given = OmegaConf.to_container(job.overrides.task, resolve=False)  # as typed
        overrides = [str(override) for override in given] if isinstance(given, list) else []
        with explained(overrides, command_line_config_dir(job)):
            config = from_mapping(cfg)
        if in_sweep:
            total = session.sweep.total if session is not None and session.sweep is not None else 0
            prefix = job_prefix(job.job.num, total, title(config))
        done = execute(config, overrides=overrides, console=console, prefix=prefix, stop=stop, alone=not in_sweep)
    except Exception as error:
        if in_sweep:  # Hydra prints nothing until the whole sweep has ended
            say_failed(prefix, error)
        if session is None:
            raise  # in a worker process: its launcher must see that the job failed
        session.failures.append(error)  # main prints it in one line, Hydra in several
        return float("nan")
    if in_sweep and stop.requested():  # this run has finished, but the sweep can still stop
        raise Stopped("stopped between two runs: the same command goes on from there", stop.exit_code)
    if not in_sweep and not config.quiet:
        print_summary(console, done)
    return done.selection_score() if done.finished else float("nan")
