"""``seqmem sweep status``: what has become of a sweep's runs, read off their directories. No torch: they are files."""

import argparse
import json
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from ...runs.directory import CONFIG, METRICS, RESULT, STATUS, RunDirectory, RunError, plain_json, read_json
from ...runs.settings import IDENTITY, flat, own_name
from ..config.errors import Parser
from ..terminal.strip import columns, fitted, marks, say
from ..terminal.words import score_text

State = Literal["finished", "running", "interrupted", "failed", "killed"]

_SIGNS: dict[str, tuple[str, str, str]] = {
    "finished": ("✓", "+", "green"),
    "running": ("▸", ">", "cyan"),
    "interrupted": ("‖", "=", "yellow"),
    "failed": ("✗", "x", "red"),
    "killed": ("†", "!", "red"),
    "not there": ("·", ".", "dim"),
}
"""State -> (sign, the same where the terminal has no such letters, style)."""

_SEEDS = 8
"""Seeds of a cell of the table that have a sign each; of more, their numbers are given."""

_NAMED = 20
"""Failures, and directories that are no runs, that are named where ``--all`` is not said."""

_OURS = (STATUS, RESULT, METRICS, "run.lock")


@dataclass(frozen=True)
class Run:
    """What a run's directory says, in short.

    Args:
        folder: in which it was looked for.
        row: what tells its row of the table from others, e.g. ``rnn`` or ``lstm forget_bias=1``.
        error: one line; ``log``: the file that says more.
    """

    path: str
    folder: str
    task: str
    cell: str
    row: str
    seq_len: int
    seed: int
    state: State
    step: int
    steps: int
    score: float
    metric: str
    error: str | None
    log: str | None


def main(args: list[str]) -> int:
    options = _parser().parse_intermixed_args(args)
    for folder in options.dirs:
        if not folder.is_dir():
            print(f"seqmem sweep status: there is no directory {folder}", file=sys.stderr)
            return 2
    runs, unreadable = survey(options.dirs)
    if options.json:
        print(json.dumps(plain_json({"runs": [asdict(run) for run in runs], "left_out": unreadable}), indent=1))
        return 0
    if not runs and not unreadable:
        where = " or ".join(str(folder) for folder in options.dirs)
        print(f"seqmem sweep status: no runs in {where}: seqmem train -m makes some", file=sys.stderr)
        return 2
    console = Console()
    if runs:
        say(console, *table(runs, console))
    most = None if options.all else _NAMED
    say(console, *_failures([run for run in runs if run.state in ("failed", "killed")], most))
    say(console, *_left_out(unreadable, most))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="seqmem sweep",
        description="""status: what has become of the runs of a sweep. A table of cells and
lengths with the state of every seed and the median of their scores, then the
runs that failed, each with its cause and the file that says more.""",
        epilog="""  seqmem sweep status                     everything in outputs/
  seqmem sweep status outputs/pronoun     the runs of a task
  seqmem sweep status outputs --json      for programs

  interrupted   it was asked to stop, and has saved itself
  killed        its process is gone without a word

Both go on from their last checkpoint when the sweep is started again.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["status"], metavar="status", help="the only word there is as yet")
    parser.add_argument(
        "dirs", nargs="*", type=Path, metavar="DIR", default=[Path("outputs")], help="where runs are (default: outputs)"
    )
    parser.add_argument("-a", "--all", action="store_true", help=f"name every failure, not the first {_NAMED}")
    parser.add_argument("--json", action="store_true", help="every run, as JSON")
    return parser


def survey(folders: Sequence[Path]) -> tuple[list[Run], dict[str, str]]:
    """(every run at or below the folders; directory -> why it is left out)"""
    found: dict[str, tuple[Path, Path, dict[str, Any]]] = {}
    unreadable: dict[str, str] = {}
    for folder in folders:
        for path, names in _leaves(folder):
            if CONFIG not in names:
                ours = any(name in names for name in _OURS)
                unreadable[str(path)] = "ended before it began" if ours else f"is not a run: it has no {CONFIG}"
                continue
            try:
                config = read_json(path / CONFIG)
            except RunError as error:
                unreadable[str(path)] = str(error)
                continue
            if not isinstance(config, dict) or not {"cell", "task", "seq_len", "seed", "steps"} <= config.keys():
                unreadable[str(path)] = f"is not a run: {CONFIG} says no cell, task, seq_len, seed or steps"
                continue
            found.setdefault(os.path.realpath(path), (path, folder, config))
    rows = _rows([config for *_, config in found.values()])
    runs, host = [], socket.gethostname()
    for (path, folder, config), row in zip(found.values(), rows, strict=True):
        try:
            runs.append(_read(path, folder, config, row, host))
        except RunError as error:
            unreadable[str(path)] = str(error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            unreadable[str(path)] = f"is not a run that this seqmem knows: {type(error).__name__}: {error}"
    return sorted(runs, key=lambda run: (run.folder, run.task, run.row, run.seq_len, run.seed, run.path)), unreadable


def _leaves(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    """Directories that have files, with their names; what is hidden is not ours, and nothing is below a run."""
    for where, below, names in os.walk(folder):
        if CONFIG in names:
            below.clear()
        below[:] = sorted(name for name in below if not name.startswith("."))
        if names and not below:
            yield Path(where), set(names)


def _read(path: Path, folder: Path, config: Mapping[str, Any], row: str, host: str) -> Run:
    run = RunDirectory(path)
    result, status = run.result(), run.status()
    state: State = "killed"  # before it could say anything
    if result is not None:
        state = "finished"
    elif status is not None:
        state = status.state
        if state == "running" and status.host == host and not _alive(status.pid):
            state = "killed"
    # What stands in the status of a run that is killed is old.
    error = status.error if status is not None and state == "failed" else None
    if state == "killed":
        error = f"its process is gone ({status.pid} on {status.host})" if status is not None else "it never began"
    log = path / "error.txt"
    return Run(
        str(path), str(folder), own_name(config["task"]), own_name(config["cell"]), row,
        int(config["seq_len"]), int(config["seed"]), state,
        int(config["steps"]) if result is not None else (status.step if status is not None else 0),
        int(config["steps"]), float(result["score"]) if result is not None else nan,
        str(result["metric"]) if result is not None else "", " ".join(error.split()) if error else None,
        str(log) if state == "failed" and log.exists() else None,
    )  # fmt: skip


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # of somebody else
    return True


def _rows(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each run the name of its cell, and the settings in which the runs of its cell and task differ."""
    texts = [
        {name: "null" if value is None else str(value) for name, value in flat(config, *IDENTITY).items()}
        for config in configs
    ]
    groups: dict[tuple[str, str], list[int]] = {}
    for place, config in enumerate(configs):
        try:
            groups.setdefault((own_name(config["task"]), own_name(config["cell"])), []).append(place)
        except (KeyError, TypeError, AttributeError):
            groups.setdefault(("", "?"), []).append(place)  # it is refused when it is read
    rows = [""] * len(configs)
    for (_, cell), places in groups.items():
        keys = sorted({key for place in places for key in texts[place]} - {"seq_len", "seed"})
        differ = [key for key in keys if len({texts[place].get(key) for place in places}) > 1]
        for place in places:
            said = [f"{key.removeprefix('cell.')}={texts[place].get(key, '-')}" for key in differ]
            rows[place] = " ".join([cell, *said])
    return rows


def table(runs: Sequence[Run], console: Console) -> list[Text]:
    """For each task rows and lengths, with a sign for every seed that any of its runs has, and the median score."""
    have = marks(console)
    sign = {state: signs[1 if have.ellipsis == "~" else 0] for state, signs in _SIGNS.items()}
    lines: list[Text] = []
    several = len({run.folder for run in runs}) > 1
    for folder, task in dict.fromkeys((run.folder, run.task) for run in runs):
        mine = [run for run in runs if (run.folder, run.task) == (folder, task)]
        lengths = sorted({run.seq_len for run in mine})
        seeds = sorted({run.seed for run in mine})
        by_place: dict[tuple[str, int], dict[int, Run]] = {}
        for run in mine:
            by_place.setdefault((run.row, run.seq_len), {})[run.seed] = run
        body = []
        names = list(dict.fromkeys(run.row for run in mine))
        for name in names:
            cells = [_place(by_place.get((name, length), {}), seeds, sign) for length in lengths]
            body.append([Text(fitted(name, max(12, console.width // 3), have)), *cells])
        head = [Text(task, "bold"), *(Text(str(length), "bold") for length in lengths)]
        lines += [Text(folder, "dim")] if several else []
        lines += [*_blocks(head, body, console.width if console.is_terminal else 10**6), Text()]
    counts = Counter(run.state for run in runs)
    said = Text(f"{len(runs)} runs: ")
    for state in [state for state in _SIGNS if counts[state]]:
        said.append(f"{sign[state]} ", _SIGNS[state][2]).append(f"{counts[state]} {state}  ")
    said.rstrip()
    return [*lines, said]


def _blocks(head: list[Text], body: list[list[Text]], width: int) -> list[Text]:
    """A table; where it is wider than the terminal, its columns go on below."""
    widths = [max(row[place].cell_len for row in [head, *body]) for place in range(len(head))]
    lines: list[Text] = []
    start = 1
    while start < len(head):
        end, used = start + 1, widths[0] + 2 + widths[start]
        while end < len(head) and used + 2 + widths[end] <= width:
            used += 2 + widths[end]
            end += 1
        lines += [Text()] if lines else []
        lines += columns([[row[0], *row[start:end]] for row in [head, *body]])
        start = end
    return lines


def _place(by_seed: Mapping[int, Run], seeds: Sequence[int], sign: Mapping[str, str]) -> Text:
    states = [by_seed[seed].state if seed in by_seed else "not there" for seed in seeds]
    text = Text()
    if len(seeds) <= _SEEDS:
        for state in states:
            text.append(sign[state], _SIGNS[state][2])
    else:
        counts = Counter(states)
        present = [state for state in _SIGNS if counts[state]]
        for i, state in enumerate(present):
            text.append(f"{' ' if i else ''}{counts[state]}{sign[state]}", _SIGNS[state][2])
    scores = [run.score for run in by_seed.values() if run.state == "finished"]
    if scores:
        metric = next(run.metric for run in by_seed.values() if run.state == "finished")
        text.append(f" {score_text(metric, median(scores))}")
    return text


def _failures(runs: Sequence[Run], most: int | None) -> list[Text]:
    lines = [Text()] if runs else []
    for run in runs[:most]:
        line = Text.assemble((run.state, "red"), f" {run.path}: {run.error or 'no reason given'}")
        line.append(f" ({run.log})" if run.log else "", "dim")
        lines.append(line)
    if most is not None and len(runs) > most:
        lines.append(Text(f"and {len(runs) - most} more (--all names them)", "dim"))
    return lines


def _left_out(unreadable: Mapping[str, str], most: int | None) -> list[Text]:
    lines = [Text()] if unreadable else []
    for path, why in list(unreadable.items())[:most]:
        lines.append(Text.assemble(("left out", "yellow"), f" {path if path not in why else ''}".rstrip(), f": {why}"))
    if most is not None and len(unreadable) > most:
        lines.append(Text(f"and {len(unreadable) - most} more (--all names them)", "dim"))
    return lines
