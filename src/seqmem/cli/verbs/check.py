"""``seqmem check``: does a cell or a model keep the laws that training and measuring rely on? No torch at import."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import rich.console
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.text import Text

from ...runs.files import plain_json
from ...runs.settings import own_name
from ..config import process, trust
from ..config.commands import command, examples
from ..config.compose import compose_settings, with_own_arguments
from ..config.errors import ConfigError, Parser, joined
from ..config.home import expanded
from ..config.hydra_errors import explained
from ..config.own_code import forget_edited
from ..config.schema import RunConfig, from_mapping
from ..terminal.console import Console
from ..terminal.strip import packed, say

if TYPE_CHECKING:
    from ...laws import CounterExample, Subject, Verdict

SETTINGS = ("cell", "model", "task", "embed_size", "seq_len", "seed", "kernel")
"""What a cell or a model depends on; ``cell`` stands for ``cell.layers`` and the like, too."""

_MARK, _NAME, _TITLE = 6, 10, 50
"""Widths of the columns: with a number of 7 characters behind them, 79."""


def main(args: Sequence[str]) -> int:
    given = _parser().parse_intermixed_args(list(args))
    config, subject = subject_of(given.settings, given.config_dir)
    console, verdicts = Console(), list["Verdict"]()
    if not given.json:
        say(console, head(config, subject))
    for verdict in examined(subject):
        verdicts.append(verdict)
        if not given.json:
            say(console, *lines(verdicts, subject, console))
    if given.json:
        print(json.dumps(plain_json(numbers(subject, verdicts)), indent=1, allow_nan=False))
    else:
        say(console, foot(verdicts))
    return int(not all(verdict.holds for verdict in verdicts))


def subject_of(settings: Sequence[str], config_dir: str | None = None) -> "tuple[RunConfig, Subject]":
    """The cell or the model of these settings.

    Raises:
        ConfigError: a setting cannot be, or changes no cell and no model; or there is no such directory.
    """
    forget_edited()
    if config_dir is not None:
        try:
            config_dir = expanded(config_dir)
        except ValueError as error:
            raise ConfigError(f"--config-dir {error}") from None
    with explained(settings, config_dir):
        overrides = with_own_arguments(settings)
        keys = _keys(overrides)
        config = from_mapping(compose_settings(overrides, config_dir))
        _refuse_others(keys)
    trust.remember(config)  # the user has named its classes
    with process.importing("torch"):
        from ... import laws  # noqa: F401  (it imports torch)
    with _own_output():
        return config, _subject(config, of_model=any(_group(key) == "model" for key in keys))


def examined(subject: "Subject") -> "Iterator[Verdict]":
    """The verdict of each law, one after the other."""
    from ...laws import LAWS, examine

    for name in LAWS:
        with _own_output():
            verdicts = list(examine(subject, [name]))
        yield from verdicts


def _parser() -> Parser:
    parser = Parser(
        "check",
        description=f"""Examine a cell or a model, ours or one of your own, by the laws that training, measuring and
comparing rely on. Each is one line: ok or failed, and the largest relative
difference that was measured; below one that failed, a counter-example. Settings
are those of {command("train")}; nothing is trained.""",
        epilog=f"""examples:
{
            examples(
                ("check cell=mine.MyCell cell.args.alpha=0.9", ""),
                ("check cell=lstm cell.layers=2", ""),
                ("check model=mine.Model task=copy", ""),
                ("check -cd own cell=wide", "own/cell/wide.yaml"),
            )
        }

With model= the model is examined, on sequences of the task; without it the
cell, on random numbers. All laws are looked at in eval mode, most in float64 on
the CPU, where gradients are measured. Weights that begin at zero get others.

Exit code 0: all laws hold; 1: one does not; 2: the command is wrong.""",
    )
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help=f"{', '.join(SETTINGS)}, and settings of these, as cell.wrap"
    )
    parser.add_argument("-cd", "--config-dir", metavar="DIR", help="a config directory of your own, too")
    parser.add_argument("--json", action="store_true", help="print every verdict as JSON, and nothing else")
    return parser


def _keys(overrides: Sequence[str]) -> list[str]:
    """What the settings are called.

    Raises:
        ConfigError: a setting has several values.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in parsed:
        if override.is_sweep_override():
            raise ConfigError(f"{override.key_or_group}=: one value each: a check is of one cell or one model")
    return [override.key_or_group for override in parsed]


def _refuse_others(keys: Sequence[str]) -> None:
    for key in keys:
        if _group(key) not in SETTINGS:
            raise ConfigError(f"{key}=: it changes no cell and no model; here the settings are {', '.join(SETTINGS)}")


def _group(key: str) -> str:
    return key.partition(".")[0]


def _subject(config: RunConfig, *, of_model: bool) -> "Subject":
    from ...laws import OfCell, OfModel
    from ..config.build import build_cell, build_model, build_task

    task = build_task(config)
    if of_model:
        return OfModel(build_model(config, task), task, config.seq_len)
    return OfCell(build_cell(config, task), config.seq_len)


@contextmanager
def _own_output() -> Iterator[None]:
    """The user's own classes may print here, beside the answer and not in it."""
    with redirect_stdout(sys.stderr):
        yield


# What is printed


def head(config: RunConfig, subject: "Subject") -> Text:
    if subject.noun == "model":
        about = f"model {own_name(config.model)} of {own_name(config.cell)} on {own_name(config.task)}"
    else:
        about = f"cell {own_name(config.cell)}"
    return Text.assemble((about, "bold"), f", {', '.join(_sizes(config, subject))}")


def _sizes(config: RunConfig, subject: "Subject") -> Iterator[str]:
    steps, rows = subject.xs.shape[:2]
    if subject.noun == "cell":
        yield f"{subject.xs.shape[2]} inputs, {subject.shapes(steps)[-1]} outputs"
    yield f"{rows} sequences of {steps} timesteps, seq_len={config.seq_len}"


def lines(verdicts: "Sequence[Verdict]", subject: "Subject", console: rich.console.Console) -> Iterator[Text]:
    """One for the last of these; below it, where its law is broken, the counter-example and what to do."""
    *before, verdict = verdicts
    known = any(verdict.error == other.error != "" for other in before)
    law, outcome = verdict.law, verdict.outcome
    measured = "" if outcome is None or outcome.measured is None else _number(outcome.measured)
    title = law.title.format(noun=subject.noun)
    mark = ("ok".ljust(_MARK), "green") if verdict.holds else ("failed".ljust(_MARK), "bold red")
    line = Text.assemble(mark, f"  {law.name:<{_NAME}}  {title:<{_TITLE}}  ", (measured, "dim"), no_wrap=True)
    line.rstrip()
    yield line
    if not verdict.holds:
        indent = " " * (_MARK + 2)
        width = console.width - len(indent) if console.is_terminal else sys.maxsize
        for text, style in [("the same error as above", "dim")] if known else _told(verdict, subject):
            yield from (Text.assemble(indent, part) for part in packed([Text(text, style)], width))


def foot(verdicts: "Sequence[Verdict]") -> Text:
    holding = sum(verdict.holds for verdict in verdicts)
    every = "all " if holding == len(verdicts) else f"{holding} of "
    return Text(f"{every}{len(verdicts)} laws hold", "bold")


def _number(measured: float) -> str:
    return f"{measured:.1e}" if measured else "0"


def _told(verdict: "Verdict", subject: "Subject") -> Iterator[tuple[str, str]]:
    """(line, style)"""
    if verdict.outcome is None or (counter := verdict.outcome.counter) is None:
        yield joined(verdict.error), ""
        return
    yield f"{counter.what}: {counter.place}", ""
    yield from ((f"  {way}: {value}", "") for way, value in _values(counter).items())
    if counter.values is not None and verdict.law.tolerance is not None:
        yield f"  allowed: {verdict.law.tolerance:g} relative to the value", "dim"
    if told := "; ".join(filter(None, [counter.why, _repair(verdict, subject)])):
        yield told, "dim"


def _values(counter: "CounterExample") -> dict[str, float]:
    return {} if counter.values is None else dict(zip(counter.ways, counter.values, strict=True))


def _repair(verdict: "Verdict", subject: "Subject") -> str:
    return verdict.law.repair.format(verb=subject.verb, noun=subject.noun)


def numbers(subject: "Subject", verdicts: "Sequence[Verdict]") -> dict[str, Any]:
    """The object that ``--json`` prints."""
    laws = [_as_json(verdict, subject) for verdict in verdicts]
    return {"subject": subject.noun, "holds": all(verdict.holds for verdict in verdicts), "laws": laws}


def _as_json(verdict: "Verdict", subject: "Subject") -> dict[str, Any]:
    law, outcome = verdict.law, verdict.outcome
    counter = None if outcome is None else outcome.counter
    example = None
    if counter is not None:
        example = {"what": counter.what, "place": counter.place, "index": counter.index, "values": _values(counter)}
        example["why"] = counter.why
    return {
        "law": law.name,
        "title": law.title.format(noun=subject.noun),
        "holds": verdict.holds,
        "measured": None if outcome is None else outcome.measured,
        "tolerance": law.tolerance,
        "counter_example": example,
        "error": verdict.error,
        "repair": "" if verdict.holds else _repair(verdict, subject),
    }
