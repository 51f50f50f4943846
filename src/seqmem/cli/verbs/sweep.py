"""``seqmem sweep status``: the states of a sweep's runs, from their directories. No torch."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from statistics import median
from textwrap import wrap

import rich.console
from rich.cells import cell_len
from rich.text import Text

from ...metrics import metric_called
from ...runs.directory import RunDirectory, State, walk
from ...runs.files import CONFIG, ERROR, LOCK, METRICS, RESULT, SPANS, STATUS, RunError, plain_json
from ...runs.settings import IDENTITY, flat, later
from ...runs.summary import Summary, read
from ..config.commands import command, examples
from ..config.errors import Parser, print_error
from ..terminal.console import Console
from ..terminal.strip import columns, marks, say

_SIGNS: dict[str, tuple[str, str, str]] = {
    "finished": ("✓", "+", "green"),
    "running": ("▸", ">", "cyan"),
    "interrupted": ("‖", "=", "yellow"),
    "failed": ("✗", "x", "red"),
    "killed": ("†", "!", "red"),
    "not started": ("○", "o", "dim"),
    "not there": ("·", ".", "dim"),
}
"""State -> (sign, ASCII sign, style)."""

_SEEDS = 8
"""A cell of the table shows one sign per seed up to this many seeds, and counts for more."""

_NAMED = 20
"""The largest number of failures, and of skipped directories, that are listed without ``--all``."""

_OURS = (STATUS, RESULT, METRICS, LOCK)


@dataclass(frozen=True)
class Run:
    """A run, as ``--json`` prints it.

    Args:
        folder: the directory from the command line that contains the run.
        row: the label of the run's row in the table, e.g. ``rnn`` or ``lstm forget_bias=1``.
        score: NaN if it is not finished. ``diverged``: it has none, and has not solved its task.
        error: why the run needs attention, in one line; ``log``: the file with details.
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
    diverged: bool
    metric: str
    higher_is_better: bool
    error: str | None
    log: str | None


def main(args: list[str]) -> int:
    options = _parser().parse_intermixed_args(args)
    for folder in options.dirs:
        if not folder.is_dir():
            print_error(f"seqmem sweep status: there is no directory {folder}")
            return 2
    runs, left_out, unreadable = survey(options.dirs)
    if options.json:
        print(json.dumps(plain_json({"runs": [asdict(run) for run in runs], "left_out": left_out}), indent=1))
        return 1 if unreadable else 0
    if not runs and not left_out:
        where = " or ".join(str(folder) for folder in options.dirs)
        print_error(f"seqmem sweep status: no runs in {where}: {command('train', '-m')} makes some")
        return 2
    console = Console()
    if runs:
        say(console, *table(runs, console))
    most = None if options.all else _NAMED
    say(console, *_failures([run for run in runs if run.state in ("failed", "killed", "not started")], most))
    say(console, *_left_out(left_out, most))
    return 1 if unreadable else 0


def _parser() -> Parser:
    parser = Parser(
        "sweep",
        description="""status: what has become of the runs of a sweep. A table of cells and
lengths with the state of every seed and the median of their scores (one that
diverged is worse than any), then the runs that failed, each with its cause and the file that says more.""",
        epilog=examples(
            ("sweep status", "everything in outputs/"),
            ("sweep status outputs/pronoun", "the runs of a task"),
            ("sweep status outputs --json", "for programs"),
        )
        + """

  interrupted   it was asked to stop, and has saved itself
  killed        its process is gone without a word

Both go on from their last checkpoint when the sweep is started again.

Exit code 1: something could not be read, and is named.""",
    )
    parser.add_argument("what", choices=["status"], metavar="status", help="the only word there is as yet")
    parser.add_argument(
        "dirs", nargs="*", type=Path, metavar="DIR", default=[Path("outputs")], help="where runs are (default: outputs)"
    )
    parser.add_argument("-a", "--all", action="store_true", help=f"name every failure, not the first {_NAMED}")
    parser.add_argument("--json", action="store_true", help="every run, as JSON")
    return parser


def survey(folders: Sequence[Path]) -> tuple[list[Run], dict[str, str], set[str]]:
    """(every run at or below the folders; skipped directory -> reason; those skipped that cannot be read)"""
    runs: dict[str, tuple[Path, Summary]] = {}
    left_out: dict[str, str] = {}
    unreadable: set[str] = set()

    def closed(error: OSError) -> None:
        left_out[str(error.filename)] = f"cannot be read: {error.strerror}"
        unreadable.add(str(error.filename))

    for folder in folders:
        for path, names in _leaves(folder, closed):
            if CONFIG not in names:
                ours = any(name in names for name in _OURS)
                left_out[str(path)] = "ended before it began" if ours else f"is not a run: it has no {CONFIG}"
                continue
            if (place := os.path.realpath(path)) in runs:
                continue
            try:
                runs[place] = folder, read(RunDirectory(path))
            except RunError as error:
                left_out[str(path)] = str(error)
                unreadable.add(str(path))
    rows = _rows([summary for _, summary in runs.values()])
    entries = [_run(summary, folder, row) for (folder, summary), row in zip(runs.values(), rows, strict=True)]
    return (
        sorted(entries, key=lambda run: (run.folder, run.task, run.row, run.seq_len, run.seed, run.path)),
        left_out,
        unreadable,
    )


def _leaves(folder: Path, unreadable: Callable[[OSError], None]) -> Iterator[tuple[Path, set[str]]]:
    """Directories with files but no subdirectories, and the files' names. Skips hidden ones and those inside a run."""
    for where, below, names in walk(folder, unreadable):
        counts = where.name == SPANS and CONFIG not in names and not below  # a folder of runs may have that name, too
        if {"index.html", "runs.csv"} <= set(names) or counts:
            below.clear()  # a report, or what `seqmem span` counted
            continue
        if CONFIG in names:
            below.clear()
        below[:] = sorted(name for name in below if not name.startswith("."))
        if names and not below:
            yield where, set(names)


def _run(summary: Summary, folder: Path, row: str) -> Run:
    reason, status, log = summary.error, summary.status, summary.run.file(ERROR)
    if summary.state == "killed" and status is not None:
        reason = f"its process is gone ({status.pid} on {status.host})"
    if summary.state == "not started":
        reason = "it never began"
    finished = summary.finished and summary.score is not None
    return Run(
        path=str(summary.run.path),
        folder=str(folder),
        task=summary.task,
        cell=summary.cell,
        row=row,
        seq_len=summary.seq_len,
        seed=summary.seed,
        state=summary.state,
        step=summary.step,
        steps=summary.steps,
        score=summary.score if finished and summary.score is not None and not summary.diverged else nan,
        diverged=summary.diverged,
        metric=summary.scale.metric.name if finished or summary.diverged else "",
        higher_is_better=summary.scale.metric.higher_is_better,
        error=" ".join(reason.split()) if reason else None,
        log=str(log) if summary.state == "failed" and log.exists() else None,
    )


def _rows(runs: Sequence[Summary]) -> list[str]:
    """For each run, the cell's name and the settings in which the runs of that cell and task differ."""
    texts = [
        {
            name: "null" if value is None else str(value)
            for name, value in (later(run.config) | flat(run.config, *IDENTITY)).items()
        }
        for run in runs
    ]
    groups: dict[tuple[str, str], list[int]] = {}
    for place, run in enumerate(runs):
        groups.setdefault((run.task, run.cell), []).append(place)
    rows = [""] * len(runs)
    for (_, cell), places in groups.items():
        names = sorted({name for place in places for name in texts[place]} - {"seq_len", "seed"})
        differ = [name for name in names if len({texts[place].get(name) for place in places}) > 1]
        for place in places:
            values = [f"{name.removeprefix('cell.')}={texts[place].get(name, '-')}" for name in differ]
            rows[place] = " ".join([cell, *values])
    return rows


def table(runs: Sequence[Run], console: rich.console.Console) -> list[Text]:
    """For each task, a table by row and length with one sign per seed and the median score."""
    symbols = marks(console)
    sign = {state: signs[1 if symbols.ellipsis == "~" else 0] for state, signs in _SIGNS.items()}
    lines: list[Text] = []
    several = len({run.folder for run in runs}) > 1
    for folder, task in dict.fromkeys((run.folder, run.task) for run in runs):
        mine = [run for run in runs if (run.folder, run.task) == (folder, task)]
        lengths = sorted({run.seq_len for run in mine})
        seeds = sorted({run.seed for run in mine})
        by_place: dict[tuple[str, int], dict[int, Run]] = {}
        for run in mine:
            by_place.setdefault((run.row, run.seq_len), {})[run.seed] = run
        names = list(dict.fromkeys(run.row for run in mine))
        width = console.width if console.is_terminal else 10**6
        head = [Text(task, "bold"), *(Text(str(length), "bold") for length in lengths)]
        rows = [[_place(by_place.get((name, length), {}), seeds, sign) for length in lengths] for name in names]
        label = max(map(cell_len, names))
        whole = sum(2 + max(cell.cell_len for cell in column) for column in zip(head[1:], *rows, strict=True))
        beside = label <= max(12, width // 3) or label + whole <= width
        body = [[Text(name if beside else ""), *cells] for name, cells in zip(names, rows, strict=True)]
        lines += [Text(folder, "dim")] if several else []
        lines += [*_blocks(head, body, width, above=() if beside else names), Text()]
    counts = Counter(run.state for run in runs)
    totals = Text(f"{len(runs)} run{'s' * (len(runs) != 1)}: ")
    for state in [state for state in _SIGNS if counts[state]]:
        totals.append(f"{sign[state]} ", _SIGNS[state][2]).append(f"{counts[state]} {state}  ")
    totals.rstrip()
    return [*lines, totals]


def _blocks(head: list[Text], body: list[list[Text]], width: int, above: Sequence[str] = ()) -> list[Text]:
    """A table; columns that do not fit into ``width`` continue below.

    Args:
        above: labels of the rows that are too long to stand beside them, and whole: what tells rows apart may be last.
    """
    widths = [max(row[place].cell_len for row in [head, *body]) for place in range(len(head))]
    lines: list[Text] = []
    start = 1
    while start < len(head):
        end, used = start + 1, widths[0] + 2 + widths[start]
        while end < len(head) and used + 2 + widths[end] <= width:
            used += 2 + widths[end]
            end += 1
        lines += [Text()] if lines else []
        block = columns([[row[0], *row[start:end]] for row in [head, *body]])
        if above:
            lines.append(block[0])
            for label, line in zip(above, block[1:], strict=True):
                lines += [*(Text(part) for part in wrap(label, width, subsequent_indent="    ")), line]
        else:
            lines += block
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
    counted = [run for run in by_seed.values() if run.state == "finished" or run.diverged]
    if counted:
        one = next((run for run in counted if run.state == "finished"), counted[0])
        metric = metric_called(one.metric, higher_is_better=one.higher_is_better)
        text.append(f" {metric.text(median(metric.ranked(run.score) for run in counted))}")
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
