"""``seqmem report``: a summary of a set of runs in the terminal, as an HTML page and as tables."""

import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from rich.text import Text

from ...decay import NUMBERS
from ...metrics import Metric
from ...report import latex, statistics, tables
from ...report.across import Across, Estimate, across
from ...report.collect import Collection, Group, collect
from ...report.levels import chance_of, level_words
from ...report.wording import estimate_words, file_name
from ...runs.directory import RunDirectory
from ...runs.files import CONFIG, RunError, plain_json
from ...solved import LEVEL, Solved
from ..config.choose import OUTPUTS
from ..config.commands import examples, install
from ..config.errors import ConfigError, Parser
from ..terminal.console import Console
from ..terminal.pages import WIDEST
from ..terminal.strip import say
from ..terminal.words import here

PAIRS = 10
"""The largest number of comparisons, and of skipped folders, in the terminal; the page has them all."""


def main(args: Sequence[str]) -> int:
    options = _parser().parse_args(args)
    folders = [Path(given) for given in options.folders or [OUTPUTS]]
    if options.out is None and (folders[0] / CONFIG).exists():
        raise ConfigError(f"{folders[0]} is a single run: say where the report goes with --out DIR")
    out = Path(options.out) if options.out is not None else folders[0] / "report"
    check_place(out)
    formats = chosen_formats(options.format)
    collection = collected(folders, options.threshold, options.task)
    page = written(collection, out, options.threshold, formats)
    if options.json:
        summary = plain_json(numbers(collection, options.threshold, page))
        ascii_only = (sys.stdout.encoding or "").lower() != "utf-8"  # a terminal's \xe9 is no JSON
        print(json.dumps(summary, indent=1, ensure_ascii=ascii_only, allow_nan=False))
    else:
        console = Console(highlight=False)
        say(console, *lines(collection, options.threshold, page, min(console.width, WIDEST)))
    return 1 if any(one.unreadable for one in collection.left_out) else 0


FORMATS = {
    "pdf": "every figure, for a paper",
    "tex": "the tables, in LaTeX with booktabs",
    "tensorboard": "mean, min and max over seeds, beside the curves of the runs",
}
"""What is written on request, and what of."""


def chosen_formats(given: Iterable[str]) -> set[str]:
    """Names of ``FORMATS``, each with others after commas or by itself.

    Raises:
        ConfigError: one is not known.
    """
    named = [name for text in given for name in text.split(",") if name]
    for name in named:
        if name not in FORMATS:
            raise ConfigError(f"--format {name}: must be among {', '.join(FORMATS)}; the others are always written")
    return set(named)


def check_place(out: Path) -> None:
    """Raise ConfigError unless a report can be written to the folder ``out``."""
    if (out / CONFIG).exists() or (out.exists() and not out.is_dir()):
        reason = "a run is there" if out.is_dir() else "it is a file"
        raise ConfigError(f"--out {out}: {reason}; give a folder of its own")


def collected(folders: Sequence[Path], threshold: float | None, task: str | None) -> Collection:
    """The runs below some folders, of one ``task`` or of all.

    Raises:
        ConfigError: one is no folder, the threshold is no accuracy, or there is no such task.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder: give folders with runs, as outputs")
    if threshold is not None and not 0 < threshold <= 1:
        raise ConfigError(f"--threshold {threshold:g}: must be an accuracy above 0, at most 1, e.g. 0.99")
    collection = collect(folders)
    if task is None:
        return collection
    known = collection.tasks
    collection = collection.only(task)
    if not collection.runs:
        raise ConfigError(f"--task {task}: no finished run of it; there are {', '.join(known) or 'none at all'}")
    return collection


def written(collection: Collection, out: Path, threshold: float | None, formats: set[str]) -> Path:
    """Write tables and page into ``out``, in further ``FORMATS``, too.

    Raises:
        RunError: they cannot be written.
    """
    from ...report import page  # imports matplotlib and jinja2

    try:
        tables.write(collection, out, threshold=threshold)
        beside = latex.write(collection, out, threshold=threshold) if "tex" in formats else []
        _write_over_seeds(collection, out / SEEDS, wanted="tensorboard" in formats)
        return page.write(collection, out, threshold=threshold, pdf="pdf" in formats, beside=beside)
    except OSError as error:
        raise RunError(f"cannot write to {out}: {error.strerror or error}") from error


SEEDS = "seeds"
"""The folder of a report for event files of curves over seeds."""


def _write_over_seeds(collection: Collection, folder: Path, *, wanted: bool) -> None:
    """Write the curves over seeds, or delete those of an earlier report."""
    if not wanted and not folder.is_dir():
        return
    from ...record import over_seeds  # imports TensorBoard's protocol

    if not wanted:
        over_seeds.forget(folder)
        return
    names: dict[tuple[str, ...], str] = {}  # a task, or a task and a label -> the name of its folder
    groups = {}
    for group in collection.groups:
        for key in ((group.task,), (group.task, group.label)):
            names.setdefault(key, file_name(key[-1], [name for one, name in names.items() if one[:-1] == key[:-1]]))
        for length in group.lengths:
            name = f"{names[group.task,]}/{names[group.task, group.label]}/len{length}"
            groups[name] = [RunDirectory(run.path) for run in group.at(length)]
    for path, why in over_seeds.write(folder, groups):
        print(f"seqmem report: no curves of {here(path)}: {why}", file=sys.stderr)


def _parser() -> Parser:
    parser = Parser(
        "report",
        description="""Put any set of runs together: the memory span of each cell, scores over seeds
with intervals, comparisons where there are seeds enough, and what was run. Prints
a summary, and writes a page with figures, and tables as CSV and, with polars, Parquet.""",
        epilog="""  memory span   the longest trained length that more than half of the seeds
                solve, and every shorter trained length too; >= if no longer one
                was tried (or has seeds enough), < if the shortest is not solved
  interval      exact, by order statistics, with its confidence in brackets: at
                least 95 % from 6 seeds on; of fewer it is their range
  difference    the median of the pairs of one seed each, and an exact sign test
  across tasks  where cells share two tasks: scores from chance (0) to perfect (1),
                their interquartile mean, how probably a cell is better than another

A run that diverged counts: its seed has not solved the task, and is worse than any
score. Runs that are not finished, damaged, of another version, or there twice are
named and left out. A report never touches a run; one in the same place is replaced.

examples:
"""
        + examples(
            ("report outputs", ""),
            ("report outputs/pronoun elsewhere/pronoun --out report --threshold 0.95", ""),
            ("report outputs --out paper --format pdf,tex", ""),
            ("report outputs --format tensorboard", ""),
        ),
    )
    parser.add_argument("folders", metavar="DIR", nargs="*", help="folders of runs (default: outputs)")
    parser.add_argument("--out", metavar="DIR", help="where it is written (default: report inside the first)")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="A",
        help="accuracy that counts as solved (default: the task's own rule, else 0.99)",
    )
    parser.add_argument(
        "--format",
        metavar="F",
        action="append",
        default=[],
        help=f"write these, too: {'; '.join(f'{name} ({what})' for name, what in FORMATS.items())}",
    )
    parser.add_argument("--task", metavar="T", help="this task alone")
    parser.add_argument("--json", action="store_true", help="the summary as JSON")
    return parser


# The summary in the terminal

_LEGEND = {
    "params": "parameters of the model",
    "interval": "of the median over seeds, exact, with its confidence",
    "after": "updates until solved, the median",
    "arrives": "the share of the gradient one step back from the answer that is left at the first timestep, before and "
    "after training, the median",
    "reaches": "the longest length it was tested at that is still solved",
}
"""Column -> what it is."""

_NARROW = ("", "params", "reaches", "arrives")
"""Columns that are left out in this order where there is no room; tables and page have them."""


def lines(collection: Collection, threshold: float | None, page: Path | None, width: int) -> list[Text]:
    """The summary; ``page``: where the page is, None: nowhere."""
    parts: list[Text] = [Text(_counted(collection), "bold")]
    if collection.runs:
        parts += [Text(), *_spans(collection, threshold, width)]
    shown: set[str] = set()
    for task in collection.tasks:
        lines, heads = _scores(collection.only(task), threshold, width)
        parts, shown = parts + lines, shown | set(heads)
    parts += _legend(shown, width)
    parts += _two_groups(collection, threshold)
    parts += _pairs(collection, threshold, width)
    if (over_tasks := across(collection)) is not None:
        parts += _across(over_tasks, width)
    parts += _not_used(collection)
    if page is not None:
        parts += [Text(), Text.assemble(("report  ", "dim"), (str(here(page)), "bold"))]
    if page is not None and not tables.has_parquet():
        parts.append(Text(f"tables are CSV; as Parquet, too, after {install('parquet')}", "dim"))
    return parts


def _counted(collection: Collection) -> str:
    counts = {
        "finished": collection.finished, "diverged": [run for run in collection.diverged if run.state != "finished"],
        "unfinished": collection.unfinished, "left out": collection.left_out,
    }  # fmt: skip
    return "runs: " + ", ".join(f"{len(runs)} {what}" for what, runs in counts.items() if runs or what == "finished")


LABEL = 20
"""The longest label, in characters, that is printed beside its numbers; a longer one is printed above them."""


def _aligned(
    heads: Sequence[str], rows: Sequence[tuple[str, list[Text]]], width: int, *, remarks: Sequence[str] = ()
) -> list[Text]:
    """A table: labels aligned left, numbers aligned right.

    Args:
        rows: label (empty: the previous one continues) and cells.
        remarks: what is said below each row; empty: nothing.
    """
    widths = [max(cell.cell_len for cell in column) for column in zip(*(cells for _, cells in rows), strict=True)]
    widths = [max(size, len(head)) for size, head in zip(widths, heads[1:], strict=True)]
    room = min(LABEL, max(4, width - sum(widths) - 2 * len(widths)))
    beside = max([len(label) for label, _ in rows if len(label) <= room] + [len(heads[0])])
    below = dict(zip((id(cells) for _, cells in rows), remarks, strict=False))
    lines = []
    for label, cells in [(heads[0], [Text(head, "dim") for head in heads[1:]]), *rows]:
        line = Text(no_wrap=True)
        if len(label) > beside:
            lines += [Text(part) for part in textwrap.wrap(label, width, subsequent_indent="    ")]
            label = ""
        line.append(label.ljust(beside), "dim" if cells and cells[0].style == "dim" else "")
        for cell, size in zip(cells, widths, strict=True):
            line.append("  " + " " * (size - cell.cell_len)).append_text(cell)
        line.rstrip()
        lines.append(line)
        if remark := below.get(id(cells)):
            lines.append(Text(f"{' ' * beside}  {remark}", "yellow"))
    return lines


def _spans(collection: Collection, threshold: float | None, width: int) -> list[Text]:
    lines: list[Text] = [Text("memory span, in timesteps", "dim")]
    labels = [len(group.label) for group in collection.groups if len(group.label) <= LABEL]
    beside = max(labels, default=0)
    spans = [(group, statistics.memory_span(group, threshold)) for group in collection.groups]
    intervals = max((len(str(span.bounds)) for _, span in spans if span.known), default=0)
    for task in collection.tasks:
        lines.append(Text(task, "bold"))
        for group, span in (pair for pair in spans if pair[0].task == task):
            label = group.label
            if len(label) > beside:
                lines += [Text(part) for part in textwrap.wrap(f"  {label}", width, subsequent_indent="      ")]
                label = ""
            line = Text(f"  {label.ljust(beside)}  ").append(str(span).rjust(7), "bold")
            counts = "  ".join(_count_text(length, count) for length, count in span.counts.items())
            if span.known:
                line.append(f"   {str(span.bounds).ljust(intervals)}", "dim")
            else:
                counts = "the task has no rule of success"
            if span.beyond:
                counts += f"  ({', '.join(map(str, span.beyond))} as well, beyond one that is not)"
            if span.undecided:
                counts += f"  (too few seeds to tell at {', '.join(map(str, span.undecided))})"
            parts = textwrap.wrap(counts, max(24, width - line.cell_len - 3))
            for place, part in enumerate(parts):
                start = line if not place else Text(" " * line.cell_len)
                lines.append(start.copy().append(f"   {part.replace(_JOINED, ' ')}", "dim"))
    rule = (
        "the longest trained length that more than half of the seeds solve, as every shorter one; its interval, with "
        "its confidence; then seeds that did, and the 95 % interval of the share of all seeds that would"
    )
    return lines + [Text(part, "dim") for part in textwrap.wrap(rule, width)]


_JOINED = "\u00a0"
"""Joins what stays on one line."""


def _count_text(length: int, count: Solved) -> str:
    """``10: 2/8 (3-65 %), 5 diverged``, to be folded between its parts alone."""
    parts = [f"{length}: {count} ({count.share_text})", *filter(None, count.remarks.split(", "))]
    return ", ".join(part.replace(" ", _JOINED) for part in parts)


def _scores(collection: Collection, threshold: float | None, width: int) -> tuple[list[Text], list[str]]:
    """A table of the scores of one task, and its columns."""
    one = collection.runs[0]
    level = chance_of(collection.runs)
    chance = "" if level is None else f", chance {level_words(one.metric, level, where='')}"
    rule = statistics.rule_text(one, threshold)
    facts = f"{one.metric.name}{chance}{', solved ' + rule if rule else ''}"
    own, *rest = textwrap.wrap(f"{'.' * len(one.task)}  {facts}", width, subsequent_indent="    ")
    head = [Text.assemble((one.task, "bold"), (own[len(one.task) :], "dim")), *(Text(line, "dim") for line in rest)]
    groups = collection.groups
    rows = [
        (group.label if not place else "", _row(group, length, threshold))
        for group in groups
        for place, length in enumerate(group.lengths)
    ]
    remarks = [statistics.group_count(group, length).remarks for group in groups for length in group.lengths]
    heads = ["", "length", "params", "median", "interval", "solved", "after", "arrives", "reaches"]
    lines: list[Text] = []
    for too_much in _NARROW:
        if too_much:
            at = heads.index(too_much)
            heads.pop(at)
            rows = [(label, cells[: at - 1] + cells[at:]) for label, cells in rows]
        lines = _aligned(heads, rows, width, remarks=remarks)
        if max(line.cell_len for line in lines) <= width:
            break
    return [Text(), *head, *lines], heads


def _legend(heads: Iterable[str], width: int) -> list[Text]:
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in _LEGEND.items() if name in heads)
    return [Text(part, "dim") for part in textwrap.wrap(meanings, width)]


def _row(group: Group, length: int, threshold: float | None) -> list[Text]:
    runs, one = group.at(length), group.first
    interval, count = statistics.score_interval(runs), statistics.group_count(group, length, threshold)
    steps = statistics.steps_to_solve(runs, threshold)
    known = statistics.rule(one, threshold) is not None
    style = ("green" if count.most else "red" if not count.k else "yellow") if known else ""
    arrives = NUMBERS["log10_arrives"]
    shares = [statistics.number_interval(runs, "gradient", "log10_arrives", when).median for when in ("start", "end")]
    return [
        Text(str(length)),
        Text("-" if (size := statistics.parameters(runs)) is None else f"{size:,}"),
        Text(one.metric.text(interval.median), style),
        Text(interval_text(one.metric, interval), "dim"),
        Text(str(count) if known else f"- of {count.n}", style),
        Text(str(steps) if known else "-"),
        Text(" to ".join("?" if isnan(share) else arrives.words(share) for share in shares)),
        Text(str(statistics.span_tested(group, length, threshold))),
    ]


def interval_text(metric: Metric, interval: statistics.Interval) -> str:
    """``98.9-100.0 (93.8 %)``; ``one seed`` for a single seed."""
    if interval.n < 2:
        return "one seed" if interval.n else "-"
    ends = [metric.text(value).removesuffix(" %") for value in (interval.low, interval.high)]
    return f"{('-' if metric.percent else ' to ').join(dict.fromkeys(ends))} ({interval.level_text})"


def _two_groups(collection: Collection, threshold: float | None) -> list[Text]:
    lines = []
    for two in statistics.two_groups(collection, threshold):
        trained = f"{two.group.task} {two.group.label}, trained at {two.seq_len}"
        tested = f", tested at {two.at}" if two.at != two.seq_len else ""
        lines.append(Text(f"{trained}{tested}: {two.bimodal}"))
    return [Text(), Text("two groups of seeds, which no median describes", "dim"), *lines] if lines else []


def _pairs(collection: Collection, threshold: float | None, width: int) -> list[Text]:
    pairs = statistics.comparisons(collection, threshold)
    earned = sorted((pair for pair in pairs if pair.earned), key=lambda pair: pair.adjusted)
    lines: list[Text] = []
    if earned:
        rows = []
        for pair in earned[:PAIRS]:
            p = "< 0.001" if pair.adjusted < 0.001 else f"{pair.adjusted:.2g}"
            cells = [str(pair.seq_len), pair.difference_text, pair.record]
            style = "bold" if pair.shown else "dim"
            rows.append((f"{pair.a.label} - {pair.b.label}", [*map(Text, cells), Text(p, style)]))
        heads = ("by seed", "length", "median difference", "won-tied-lost", "p")
        lines += [Text(), *_aligned(heads, rows, width)]
        if len(earned) > PAIRS:
            lines.append(Text(f"and {len(earned) - PAIRS} more on the page", "dim"))
        lines.append(Text("p: exact sign test, with Holm's correction for all pairs of a task", "dim"))
        lines += [Text(part, "yellow") for line in _out_of_reach(earned) for part in textwrap.wrap(line, width)]
    if few := [pair for pair in pairs if not pair.earned]:
        which = f"{len(few)} {'more ' if earned else ''}pair{'s' if len(few) > 1 else ''} of cells cannot be compared: "
        most = max(pair.n for pair in few)
        line = f"{which}{most} common seed{'s' if most > 1 else ''} cannot show a difference at the 5 % level; it takes"
        lines += [Text(), *(Text(part, "yellow") for part in textwrap.wrap(f"{line} {statistics.FEWEST}", width))]
    return lines


def _out_of_reach(earned: Sequence[statistics.Comparison]) -> list[str]:
    """For each task where no result could be significant, how many seeds it takes."""
    lines = []
    for task in dict.fromkeys(pair.a.task for pair in earned):
        pairs = [pair for pair in earned if pair.a.task == task]
        best = min(pairs, key=lambda pair: pair.least)
        if best.least > statistics.ALPHA:
            where = f"{task}: " if len({pair.a.task for pair in earned}) > 1 else ""
            lines.append(
                f"{where}with {len(pairs)} pairs of cells {best.n} seeds give p = {best.least:.2g} at best: "
                f"it takes {best.needed} seeds to show a difference at the {100 * statistics.ALPHA:.0f} % level"
            )
    return lines


def _across(over_tasks: Across, width: int) -> list[Text]:
    """A row for each cell; the page and the tables have every pair."""
    better = over_tasks.next_better
    heads = ["", "IQM", "> 0.5", "> 0.9"] + (["better than the next"] if better else [])
    rows = []
    for cell in over_tasks.cells:
        cells = [Text(estimate_words(cell.interquartile_mean))]
        cells += [Text(f"{100 * cell.share_above(threshold):.0f} %") for threshold in (0.5, 0.9)]
        if better:
            cells.append(Text(estimate_words(better[cell.label].probability) if cell.label in better else "", "dim"))
        rows.append((cell.label, cells))
    chosen = f"across {len(over_tasks.tasks)} tasks: {', '.join(over_tasks.tasks)}"
    meaning = (
        "scores from 0 (chance) to 1 (perfect), of a seed the mean over the lengths of all cells; IQM: interquartile "
        "mean, of the middle half of all task-and-seed pairs (Agarwal et al. 2021), and its 95 % interval by the "
        "stratified bootstrap; "
        "> 0.5, > 0.9: the share of pairs above; better than the next: the probability that a seed is better than one "
        "of the next cell, equal scores counting half"
    )
    if over_tasks.caution:
        meaning += f". {over_tasks.caution.rstrip('.')}"
    left_out = f"left out: {'; '.join(over_tasks.left_out)}" if over_tasks.left_out else ""
    lines = [Text(), *(Text(part, "bold") for part in textwrap.wrap(chosen, width, subsequent_indent="    "))]
    lines += _aligned(heads, rows, width)
    lines += [Text(part, "dim") for part in textwrap.wrap(meaning, width)]
    return lines + [Text(part, "yellow") for part in textwrap.wrap(left_out, width)]


def _not_used(collection: Collection) -> list[Text]:
    lines = []
    failed = [one for one in collection.unfinished if one.error]
    diverged = [run for run in collection.diverged if run.error]
    for title, rows in (
        (f"{len(diverged)} diverged, counted as not solved", [(run.path, run.error) for run in diverged]),
        (f"{len(failed)} failed", [(one.path, one.error) for one in failed]),
        (f"{len(collection.left_out)} left out", [(one.path, one.reason) for one in collection.left_out]),
    ):
        if rows:
            lines += [Text(), Text(title, "yellow")]
            lines += [Text(f"{here(path)}: {why}") for path, why in rows[:PAIRS]]
        if len(rows) > PAIRS:
            lines.append(Text(f"and {len(rows) - PAIRS} more, on the page", "dim"))
    return lines


# The same for programs


def numbers(collection: Collection, threshold: float | None, page: Path | None) -> dict[str, Any]:
    """The summary's numbers: what ``--json`` prints."""
    return {
        "page": None if page is None else str(page),
        "folders": list(map(str, collection.folders)),
        "runs": len(collection.finished),
        "groups": [_group(group, threshold) for group in collection.groups],
        "comparisons": [
            {
                "task": pair.a.task,
                "a": pair.a.label,
                "b": pair.b.label,
                "seq_len": pair.seq_len,
                "seeds": list(pair.differences),
                "difference": _interval(pair.difference),
                "wins": pair.wins,
                "ties": pair.ties,
                "losses": pair.losses,
                "both_diverged": pair.both_diverged,
                "p": pair.p,
                "p_adjusted": pair.adjusted,
                "p_adjusted_least": pair.least,
                "seeds_needed": pair.needed,
                "verdict": pair.verdict,
            }
            for pair in statistics.comparisons(collection, threshold)
        ],
        "across": _across_numbers(across(collection)),
        "diverged": [{"path": str(run.path), "error": run.error} for run in collection.diverged],
        "unfinished": [{**vars(one), "path": str(one.path)} for one in collection.unfinished],
        "left_out": [{"path": str(one.path), "reason": one.reason} for one in collection.left_out],
    }


def _group(group: Group, threshold: float | None) -> dict[str, Any]:
    span = statistics.memory_span(group, threshold)
    chance = chance_of([run for length in group.lengths for run in group.at(length)])
    lengths = []
    for length in group.lengths:
        runs, steps = group.at(length), statistics.steps_to_solve(group.at(length), threshold)
        count = statistics.group_count(group, length, threshold)
        two = statistics.bimodality(runs, threshold)
        lengths.append(
            {
                "seq_len": length,
                "chance": chance and chance.at(length),
                "parameters": statistics.parameters(runs),
                "seeds": [run.seed for run in runs],
                "score": _interval(statistics.score_interval(runs)),
                "diverged": [run.seed for run in runs if run.diverged],
                "unfinished": group.unfinished.get(length, []),
                "missing": count.missing,
                "solved": count.k if span.known else None,
                "solved_share": dict(zip(("low", "high"), count.interval(), strict=True)) if span.known else None,
                "steps_to_solve": _interval(steps.steps),
                **{
                    name: {
                        when: _interval(statistics.number_interval(runs, "gradient", name, when))
                        for when in ("start", "end")
                    }
                    for name in ("log10_arrives", "half_life")
                },
                "two_groups": None if two is None else str(two),
                "reaches": str(statistics.span_tested(group, length, threshold)),
            }
        )
    return {
        "task": group.task,
        "label": group.label,
        "metric": group.first.metric.name,
        "chance": chance.scores[chance.ends[0]] if chance is not None and chance.flat else None,
        "solved_at": statistics.rule(group.first, threshold),
        "memory_span": span.length,
        "memory_span_text": str(span),
        "memory_span_interval": vars(span.bounds) if span.known else None,
        "lengths": lengths,
    }


def _across_numbers(over_tasks: Across | None) -> dict[str, Any] | None:
    """None: there are no two tasks with the same cells."""
    if over_tasks is None:
        return None
    return {
        "scale": "(score - chance) / (perfect - chance), at least 0",
        "tasks": {task: list(lengths) for task, lengths in over_tasks.tasks.items()},
        "cells": [
            {
                "label": cell.label,
                "scores": {task: scores.tolist() for task, scores in cell.by_task.items()},
                "interquartile_mean": _estimate(cell.interquartile_mean),
            }
            for cell in over_tasks.cells
        ],
        "improvements": [
            {"a": pair.a, "b": pair.b, "probability": _estimate(pair.probability)} for pair in over_tasks.pairs
        ],
        "left_out": list(over_tasks.left_out),
    }


def _estimate(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "level": LEVEL}


def _interval(interval: statistics.Interval) -> dict[str, float]:
    return {
        "median": interval.median,
        "low": interval.low,
        "high": interval.high,
        "level": interval.level,
        "n": interval.n,
    }
