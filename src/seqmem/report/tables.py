"""The numbers of a report as tables, in CSV and Parquet.

    runs      a row for each run
    groups    a row for each task, label and trained length: over its seeds
    tested    a row for each run and each length it was tested at

Lengths and half-lives are in timesteps, steps in updates, an accuracy is a fraction. Infinite is ``inf``: of a
half-life, it does not decay; of a median of steps, most seeds never solved it. Empty: not known, or not measured.
"""

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runs.files import written_atomically
from .collect import Collection, ProbeNumber, Run, probe_numbers
from .statistics import (
    memory_span,
    number_interval,
    reaches,
    rule,
    score_interval,
    solved,
    solved_count,
    span_tested,
    steps_to_solve,
)

if TYPE_CHECKING:
    import polars as pl

NAMES = ("runs", "groups", "tested")


def tables(collection: Collection, threshold: float | None = None) -> "dict[str, pl.DataFrame]":
    """Name -> table, for all of NAMES."""
    import polars as pl

    numbers = probe_numbers(collection.runs)
    made = {
        "runs": ([_run(run, numbers, threshold) for run in collection.runs], _run_columns(numbers)),
        "groups": (_groups(collection, numbers, threshold), _group_columns(numbers)),
        "tested": (_tested(collection, threshold), _TESTED),
    }
    kinds = {str: pl.String, int: pl.Int64, float: pl.Float64, bool: pl.Boolean}
    return {
        name: pl.DataFrame(rows, schema={key: kinds[kind] for key, kind in columns.items()}, orient="row")
        for name, (rows, columns) in made.items()
    }


def write(collection: Collection, folder: Path, *, threshold: float | None = None) -> list[Path]:
    """Write ``NAME.csv`` and ``NAME.parquet`` for each table, and return the paths. Existing files are replaced.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, table in tables(collection, threshold).items():
        for ending, store in (("csv", table.write_csv), ("parquet", table.write_parquet)):
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
        "seed": int, "steps": int, "metric": str, "higher_is_better": bool, "score": float, "loss": float,
        "chance": float, "solved_at": float, "solved": bool, "steps_to_solve": int,
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
        **{name: None if isnan(value) else value for name, value in measured.items()},
        **versions,
        "metric": run.metric.name,
        "solved_at": rule(run, threshold),
        "solved": solved(run, threshold) if rule(run, threshold) is not None else None,
        "command": " ".join(map(str, command)) if isinstance(command, list) else _text(command),
        "path": str(run.path),
    }


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


_SPREAD = ("", "_low", "_high")


def _group_columns(numbers: Sequence[ProbeNumber]) -> dict[str, type]:
    return {
        **_WHO,
        "seeds": int, "metric": str, "chance": float, "solved_at": float,
        **{f"score{end}": float for end in _SPREAD}, "score_level": float, "score_min": float, "score_max": float,
        "solved": int, "solved_share_low": float, "solved_share_high": float,
        **{f"steps_to_solve{end}": float for end in _SPREAD},
        **{f"{one.column}_{when}{end}": float for one in numbers for when in _WHENS for end in _SPREAD},
        "longest_tested_solved": str, "memory_span": str,
    }  # fmt: skip


def _groups(collection: Collection, numbers: Sequence[ProbeNumber], threshold: float | None) -> list[dict[str, Any]]:
    rows = []
    for group in collection.groups:
        span = str(memory_span(group, threshold))
        for length in group.lengths:
            runs, first = group.at(length), group.first
            score, count = score_interval(runs), solved_count(runs, threshold)
            scores = [run.score for run in runs if not isnan(run.score)]
            low, high = count.interval()
            known = rule(first, threshold) is not None
            row: dict[str, Any] = {key: getattr(group, key) for key in ("task", "label", "cell", "variant")}
            row |= {
                "seq_len": length,
                "seeds": len(runs),
                "metric": first.metric.name,
                "chance": first.chance,
                "solved_at": rule(first, threshold),
                "score_level": score.level,
                "score_min": min(scores, default=None),
                "score_max": max(scores, default=None),
                "solved": count.k if known else None,
                "solved_share_low": low if known else None,
                "solved_share_high": high if known else None,
                "longest_tested_solved": str(span_tested(group, length, threshold)),
                "memory_span": span,
            }
            spreads = {"score": score, "steps_to_solve": steps_to_solve(runs).steps}
            spreads |= {
                f"{one.column}_{when}": number_interval(runs, one.probe, one.name, when)
                for one in numbers
                for when in _WHENS
            }
            for name, interval in spreads.items():
                for end, value in zip(_SPREAD, (interval.median, interval.low, interval.high), strict=True):
                    row[name + end] = None if isnan(value) else value
            rows.append(row)
    return rows


_TESTED = {**_WHO, "seed": int, "tested_at": int, "score": float, "solved": bool}


def _tested(collection: Collection, threshold: float | None) -> list[dict[str, Any]]:
    return [
        {
            **{key: getattr(run, key) for key in _WHO},
            "seed": run.seed,
            "tested_at": length,
            "score": score,
            "solved": reaches(run, score, threshold) if rule(run, threshold) is not None else None,
        }
        for run in collection.runs
        for length, score in run.by_length.items()
    ]
