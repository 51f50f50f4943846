"""``seqmem reproduce``: train a finished run again, elsewhere, and compare its numbers bit for bit."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console
from numpy import ndarray
from rich.text import Text

from ...runs.compare import Comparison, Difference, compare
from ...runs.directory import RunDirectory
from ...runs.files import RunError, plain_json
from ...runs.settings import drew_other_data
from ...runs.summary import overrides
from ..config import schema as settings
from ..config.choose import finished_result, one_run
from ..config.commands import RUN, examples
from ..config.compose import configuration
from ..config.errors import ConfigError, Parser
from ..config.hydra_errors import explained
from ..config.trust import add_option
from ..launch.one_run import execute, run_path
from ..terminal.console import Console

HERE = ("device", "kernel", "threads")
"""Settings that may differ from the run's own: they choose the hardware, and are not part of a run's identity."""


def main(args: Sequence[str]) -> int:
    parser = Parser(
        "reproduce",
        description="Run a finished run's saved configuration again, elsewhere, and say whether its numbers are "
        "bitwise the same, or where they first differ. Exit code 0: they are the same; 1: they are not.",
        epilog="example:\n"
        + examples((f"reproduce {RUN}", ""))
        + "\n\nStopped and started again it goes on, like any run. The run itself is never touched.",
    )
    parser.add_argument("run", metavar="RUN", help="a run's directory, or a part of its name that no other has")
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="key=value",
        help="device=, kernel=, threads=: what computes it, where that shall not be what the run asked for",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where the second run is put, as in outputs=DIR (default: a new folder beside the run's own outputs, "
        "outputs-reproduced/1); one that stands there finished is compared as it is",
    )
    add_option(parser)
    parser.add_argument("--json", action="store_true", help="the comparison as JSON, and nothing else on the output")
    options = parser.parse_intermixed_args(args)
    run = one_run(options.run, "reproduce")
    comparison = reproduce(run, options.out, options.settings, quiet=options.json, trusted=options.trust)
    if options.json:
        print(json.dumps(plain_json(comparison.fields()), indent=1, allow_nan=False))
    else:
        show(comparison, Console(highlight=False))
    return 0 if comparison.same else 1


# Training it again


def reproduce(
    run: RunDirectory, out: str | None, given: Sequence[str] = (), *, quiet: bool = False, trusted: bool = False
) -> Comparison:
    """Train the run's configuration in another directory, or resume that training, and compare the two runs.

    Raises:
        RunError: the run does not exist, is not finished, or cannot be read; or the second run fails.
        ConfigError: the configuration cannot be run on this machine.
    """
    config = configuration(run, trusted=trusted)
    finished_result(run)
    if drew_other_data(settings.everything(config), run.environment()):
        raise RunError(
            f"{run.path}: an earlier version made it and drew other data at these settings: only that can reproduce it"
        )
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or key not in HERE:
            raise ConfigError(f"'{text}' is not a setting: {'=, '.join(HERE)}= are; all others are the run's")
        with explained():
            checked = settings.from_mapping(
                settings.everything(config) | {key: int(value) if value.isdigit() else value}
            )
        setattr(config, key, getattr(checked, key))

    def placed(outputs: Path) -> RunDirectory:
        config.outputs = str(outputs)
        return RunDirectory(run_path(config))

    config.force, config.quiet = False, quiet
    notes = _check_name(run, run_path(config).name, config)
    place = placed(Path(out) if out is not None else _unused(run, placed))
    if place.path.resolve() == run.path.resolve():
        raise ConfigError(f"--out {out}: that is where the run itself is; choose another directory")
    finished_before = place.finished
    config.quiet |= finished_before  # no line about force=true, which this verb does not have
    compare(run, run, weights=_weights)  # a file that cannot be compared is an error before the training, not after
    # Training is reported on stderr and the comparison on stdout, so that the comparison can be piped.
    second = execute(config, overrides=overrides(run) or [], console=Console(stderr=True, highlight=False), whole=True)
    if finished_before:
        notes.append(f"{second.path} was there, finished, and is compared as it is: another --out trains it anew")
    comparison = compare(run, second, weights=_weights)
    comparison.notes = notes
    return comparison


def _weights(checkpoint: Path) -> Mapping[str, ndarray]:
    from ...record.recorder import load_checkpoint

    return {name: value.numpy() for name, value in load_checkpoint(checkpoint)["model"].items()}


def _check_name(run: RunDirectory, name: str, config: settings.RunConfig) -> list[str]:
    """A note if the run's directory is not called ``name``, which hashes the configuration and a user's own classes.

    Raises:
        RunError: the code of a user's own class has changed or is missing.
    """
    own = run.path.resolve().name
    if own == name or not re.fullmatch(r"len\d+-seed-?\d+-[0-9a-f]{8}", own):
        return []
    custom = [str(part["target"]) for part in (config.cell, config.task, config.model) if part.get("name") == "custom"]
    if custom:
        raise RunError(
            f"{run.path}: the code of {' or '.join(custom)} is not what it was when the run was made, or is not found "
            f"from {Path.cwd()}: its configuration would make {name} here"
        )
    return [f"its configuration is called {name} by this seqmem: the file was changed, or an older seqmem wrote it"]


def _unused(run: RunDirectory, placed: Callable[[Path], RunDirectory]) -> Path:
    """The first of outputs-reproduced/1, 2, 3 ... in which this run is not finished; a stopped run is resumed."""
    path = run.path if len(run.path.parts) > 3 else run.path.resolve()
    task, cell = placed(Path()).path.parts[-3:-1]
    outputs = path.parents[2] if path.parts[-3:-1] == (task, cell) else path.parent
    name = outputs.resolve().name or "outputs"
    # Beside outputs, because verbs that read the folder would otherwise count every run twice.
    base = outputs.parent if outputs.name else outputs.resolve().parent
    number = 1
    while placed(base / f"{name}-reproduced" / str(number)).finished:
        number += 1
    return base / f"{name}-reproduced" / str(number)


# The comparison in words


def show(comparison: Comparison, console: rich.console.Console) -> None:
    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True)

    for note in comparison.notes:
        say(note, "yellow")
    if comparison.same:
        say("bitwise the same", "bold green")
    else:
        say("not the same", "bold red")
    if any(comparison.diverged):
        say(f"  {_diverged_words(*comparison.diverged)}", "yellow")
    first = comparison.first
    if first is not None:
        say(f"  first        {_place(first)}: {_pair(first)}")
    for file in comparison.files:
        same = f"{file.numbers:,} numbers, all the same"
        most = f", by up to {file.most:.2g} of their size" if file.most and math.isfinite(file.most) else ""
        differ = f"{file.differ:,} of {file.numbers:,} numbers differ{most}"
        say(f"  {file.file:<16} {differ if file.differ else same}")
        if file.first is not None and file.first is not first:
            say(f"  {'':<16} the first: {_place(file.first, within=True)}: {_pair(file.first)}")
    if comparison.environment:
        say("what differs around them (then, now):" if comparison.same else "what may be why (then, now):")
        for name, (was, now) in comparison.environment.items():
            say(f"  {name:<16} {_value(was)}, {_value(now)}")
    else:
        say("versions and machine: no fact that is recorded differs")
    say(f"  run              {comparison.run}", "dim")
    say(f"  again            {comparison.reproduction}", "dim")


def _diverged_words(run: bool, again: bool) -> str:
    if run and again:
        return "both diverged: neither has a score"
    return f"it diverged {'then' if run else 'now'}, and {'now' if run else 'then'} it did not"


def _place(difference: Difference, *, within: bool = False) -> str:
    step = f"step {difference.step}, " if difference.step is not None else ""
    return f"{step}{'' if within else f'{difference.file}, '}{difference.name}"


def _pair(difference: Difference) -> str:
    pair = f"{_value(difference.was)} then, {_value(difference.now)} now"
    if math.isfinite(difference.apart) and difference.apart > 0:
        pair += f" ({difference.apart:.2g} apart, {difference.relatively:.2g} of its size)"
    return pair


def _value(value: Any) -> str:
    return "none" if value is None else repr(value) if isinstance(value, float) else str(value)
