"""The numbers of a report as tables, in CSV and, where polars is installed, in Parquet.

    runs      a row for each run that is finished or diverged
    groups    a row for each task, label and trained length: over its seeds
    tested    a row for each run and each length it was tested at; one that diverged has failed at all of its group's
    across    a row for each cell over all tasks, on the scale from chance (0) to perfect (1); where there are two tasks
    profiles  the share of its task-and-seed pairs above each threshold
    improved  a row for two cells: the probability that a seed of ``a`` is better than one of ``b``

Lengths and half-lives are in timesteps, steps in updates, an accuracy is a fraction. Infinite is ``inf``: of a
half-life, the gradient keeps its size or grows; of a median of steps, most seeds have not solved it; of a median score,
most seeds diverged. ``low`` and ``high`` enclose with a confidence of ``level``. Empty: not known, or not measured; of
a half-life, no straight line describes the gradient. A run that diverged counts as a seed that has not solved it;
``unfinished`` and ``missing`` seeds are not counted. ``chance``: the score without a memory, at the trained or, in
``tested``, at the tested length.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..runs.files import written_atomically
from ..solved import LEVEL
from .across import THRESHOLDS, Across, across
from .collect import Collection, ProbeNumber, Run, probe_numbers
from .levels import chance_at
from .statistics import (
    group_count,
    is_solved,
    memory_span,
    number_interval,
    parameters,
    reaches,
    rule,
    run_solved_after,
    score_interval,
    span_tested,
    steps_to_solve,
)

if TYPE_CHECKING:
    import polars as pl

NAMES = ("runs", "groups", "tested")

ACROSS = ("across", "profiles", "improved")
"""Tables that are there where cells share two tasks."""

_FORMULA = re.compile("[=+\\-@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]")
"""What a cell of a spreadsheet begins with that is computed (OWASP, CSV Injection)."""


@dataclass(frozen=True)
class Table:
    """``columns``: name -> type of its values, any of which may be None. ``rows`` have the values by these names."""

    columns: Mapping[str, type]
    rows: Sequence[Mapping[str, Any]]

    def write_csv(self, file: BinaryIO) -> None:
        """As spreadsheets open it: an apostrophe keeps text from being a formula. Numbers stay numbers.

        A value that is missing is empty, an empty text is ``""``.
        """
        rows = [[_cell(kind, row.get(name)) for name, kind in self.columns.items()] for row in self.rows]
        for cells in [[_quoted(name) for name in self.columns], *rows]:
            file.write(f"{','.join(cells)}\n".encode(errors="backslashreplace"))

    def frame(self) -> "pl.DataFrame":
        """Needs polars."""
        import polars as pl

        kinds = {str: pl.String, int: pl.Int64, float: pl.Float64, bool: pl.Boolean}
        schema = {name: kinds[kind] for name, kind in self.columns.items()}
        return pl.DataFrame(self.rows, schema=schema, orient="row")


def _cell(kind: type, value: Any) -> str:
    if value is None:
        return ""
    if kind is str:
        return _quoted(f"'{value}" if _FORMULA.match(value) else value)
    if kind is float:
        return "NaN" if isnan(value) else repr(float(value))
    return str(value).lower()  # true, false


def _quoted(text: str) -> str:
    return '"{}"'.format(text.replace('"', '""')) if not text or set(text) & set(',"\r\n') else text


def tables(collection: Collection, threshold: float | None = None) -> dict[str, Table]:
    """Name -> table, for all of NAMES, and of ACROSS where they have rows."""
    numbers = probe_numbers(collection.runs)
    some = {name: table for name, table in _across(across(collection)).items() if table.rows}
    return some | {
        "runs": Table(_run_columns(numbers), [_run(run, numbers, threshold) for run in collection.runs]),
        "groups": Table(_group_columns(numbers), _groups(collection, numbers, threshold)),
        "tested": Table(_TESTED, _tested(collection, threshold)),
    }


def has_parquet() -> bool:
    """Whether Parquet can be written: polars is an extra, for it takes 180 MB."""
    return find_spec("polars") is not None


def write(collection: Collection, folder: Path, *, threshold: float | None = None) -> list[Path]:
    """Write ``NAME.csv`` and, if ``has_parquet``, ``NAME.parquet`` for each table, and return the paths.

    Existing files are replaced. Those of an earlier report that cannot be replaced are removed.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, made = [], tables(collection, threshold)
    for name in (*NAMES, *ACROSS):
        if name not in made:
            for ending in ("csv", "parquet"):
                (folder / f"{name}.{ending}").unlink(missing_ok=True)
    for name, table in made.items():
        stores: dict[str, Callable[[BinaryIO], Any]] = {"csv": table.write_csv}
        if has_parquet():
            stores["parquet"] = table.frame().write_parquet
        else:
            (folder / f"{name}.parquet").unlink(missing_ok=True)
        for ending, store in stores.items():
            path = folder / f"{name}.{ending}"
            with written_atomically(path) as file:
                store(file)
            written.append(path)
    return written


_WHO = {"task": str, "label": str, "cell": str, "variant": str, "seq_len": int}

_WHENS = ("start", "end")


def _run_columns(numbers: Sequence[ProbeNumber]) -> dict[str, type]:
    return {
        **_WHO,
        "seed": int, "diverged": bool, "steps": int, "metric": str, "higher_is_better": bool, "score": float,
        "loss": float, "chance": float, "solved_at": float, "solved": bool, "steps_to_solve": int,
        **{f"{one.column}_{when}": float for one in numbers for when in _WHENS},
        "hidden_size": int, "parameters": int, "seconds": float, "seqmem": str, "torch": str, "python": str,
        "started": str, "git_commit": str, "command": str, "path": str,
    }  # fmt: skip


def _run(run: Run, numbers: Sequence[ProbeNumber], threshold: float | None) -> dict[str, Any]:
    versions = {key: _text(run.environment.get(key)) for key in ("seqmem", "torch", "python", "started", "git_commit")}
    command = run.environment.get("command")
    measured = {f"{one.column}_{when}": run.number(one.probe, one.name, when) for one in numbers for when in _WHENS}
    return {
        **{key: getattr(run, key) for key in _run_columns(()) if hasattr(run, key)},
        **{name: None if isnan(value) else value for name, value in {**measured, "seconds": run.seconds}.items()},
        **versions,
        "metric": run.metric.name,
        "solved_at": rule(run, threshold),
        "solved": is_solved(run, threshold) if run.diverged or rule(run, threshold) is not None else None,
        "steps_to_solve": run_solved_after(run, threshold),
        "command": " ".join(map(str, command)) if isinstance(command, list) else _text(command),
        "path": str(run.path),
    }


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


_SPREAD = ("", "_low", "_high", "_level")


def _group_columns(numbers: Sequence[ProbeNumber]) -> dict[str, type]:
    return {
        **_WHO,
        "parameters": int, "seeds": int, "diverged": int, "unfinished": int, "missing": int,
        "metric": str, "chance": float, "solved_at": float,
        **{f"score{end}": float for end in _SPREAD}, "score_min": float, "score_max": float,
        "solved": int, "solved_share_low": float, "solved_share_high": float, "solved_share_level": float,
        **{f"steps_to_solve{end}": float for end in _SPREAD},
        **{
            f"{one.column}_{when}{end}": int if end == "_seeds" else float
            for one in numbers for when in _WHENS for end in (*_SPREAD, "_seeds")
        },
        "longest_tested_solved": str, "memory_span": str,
        "memory_span_low": int, "memory_span_high": int, "memory_span_level": float,
    }  # fmt: skip


def _groups(collection: Collection, numbers: Sequence[ProbeNumber], threshold: float | None) -> list[dict[str, Any]]:
    rows = []
    for group in collection.groups:
        span = memory_span(group, threshold)
        for length in group.lengths:
            runs, first = group.at(length), group.first
            score, count = score_interval(runs), group_count(group, length, threshold)
            scores = [run.score for run in runs if not isnan(run.score)]
            low, high = count.interval()
            known = rule(first, threshold) is not None
            row: dict[str, Any] = {key: getattr(group, key) for key in ("task", "label", "cell", "variant")}
            row |= {
                "seq_len": length,
                "parameters": parameters(runs),
                "seeds": len(runs),
                "diverged": count.diverged,
                "unfinished": count.unfinished,
                "missing": count.missing,
                "metric": first.metric.name,
                "chance": chance_at(runs, length),
                "solved_at": rule(first, threshold),
                "score_min": min(scores, default=None),
                "score_max": max(scores, default=None),
                "solved": count.k if known else None,
                "solved_share_low": low if known else None,
                "solved_share_high": high if known else None,
                "solved_share_level": LEVEL if known else None,
                "longest_tested_solved": str(span_tested(group, length, threshold)),
                "memory_span": str(span),
                "memory_span_low": span.bounds.low,
                "memory_span_high": span.bounds.high,
                "memory_span_level": span.bounds.level if span.known else None,
            }
            measured = {
                f"{one.column}_{when}": number_interval(runs, one.probe, one.name, when)
                for one in numbers
                for when in _WHENS
            }
            spreads = {"score": score, "steps_to_solve": steps_to_solve(runs, threshold).steps, **measured}
            for name, interval in spreads.items():
                values = (interval.median, interval.low, interval.high, interval.level)
                for end, value in zip(_SPREAD, values, strict=True):
                    row[name + end] = None if isnan(value) or not interval.n else value
            row |= {f"{name}_seeds": interval.n for name, interval in measured.items()}
            rows.append(row)
    return rows


_ESTIMATE = {"value": float, "low": float, "high": float}


def _across(over_tasks: Across | None) -> dict[str, Table]:
    """Name -> table, of ACROSS; without rows where there are no two tasks."""
    cells = [] if over_tasks is None else over_tasks.cells
    tasks = "" if over_tasks is None else ", ".join(over_tasks.tasks)
    across_rows, profile_rows = [], []
    for cell in cells:
        row = {"label": cell.label, "tasks": tasks, "pairs": len(cell.scores), "level": LEVEL}
        across_rows.append(row | _estimate(*vars(cell.interquartile_mean).values()))
        for threshold, *shares in zip(THRESHOLDS.tolist(), *(of.tolist() for of in cell.profile), strict=True):
            profile_rows.append({"label": cell.label, "threshold": threshold} | _estimate(*shares))
    improved = [
        {"a": pair.a, "b": pair.b} | _estimate(*vars(pair.probability).values())
        for pair in ([] if over_tasks is None else over_tasks.pairs)
    ]
    return {
        "across": Table({"label": str, "tasks": str, "pairs": int, **_ESTIMATE, "level": float}, across_rows),
        "profiles": Table({"label": str, "threshold": float, **_ESTIMATE}, profile_rows),
        "improved": Table({"a": str, "b": str, **_ESTIMATE}, improved),
    }


def _estimate(*numbers: float) -> dict[str, float | None]:
    return {name: None if isnan(number) else number for name, number in zip(_ESTIMATE, numbers, strict=True)}


_TESTED = {**_WHO, "seed": int, "tested_at": int, "score": float, "solved": bool, "chance": float}


def _tested(collection: Collection, threshold: float | None) -> list[dict[str, Any]]:
    rows = []
    for group in collection.groups:
        for trained in group.lengths:
            runs, known = group.at(trained), rule(group.first, threshold) is not None
            every = sorted({trained, *(length for run in runs for length in run.by_length)})
            chances = {length: chance_at(runs, length) for length in every}
            for run in runs:
                scores = dict.fromkeys(every, nan) if run.diverged else run.by_length
                for length, score in scores.items():
                    row = {key: getattr(run, key) for key in _WHO}
                    row |= {"seed": run.seed, "tested_at": length, "score": score}
                    solved = reaches(run, score, threshold) if known else None
                    rows.append(row | {"solved": solved, "chance": chances[length]})
    return rows
