"""Make the table of docs/tasks.md; called by scripts/difficulties as difficulties.py tasks KIND, which prints the names
of the tasks of a kind of model, and difficulties.py RUNS PAGE.
"""

import re
import statistics
import sys
from pathlib import Path

from seqmem.cli.config.difficulty import graded_settings
from seqmem.cli.config.schema import conf_dir
from seqmem.runs.directory import find_runs
from seqmem.runs.summary import Summary, read
from seqmem.tasks import TASKS

TABLE = re.compile(r"(<!-- table -->\n).*?(<!-- end -->)", re.DOTALL)


def graded() -> dict[str, dict[str, dict[str, str]]]:
    """Task -> difficulty -> setting -> value."""
    every = {path.stem: graded_settings(path) for path in sorted((conf_dir() / "task").glob("*.yaml"))}
    return {name: settings for name, settings in every.items() if settings}


def of_kind(kind: str) -> list[str]:
    """The tasks that an encoder_decoder reads, or the others."""
    return [name for name in graded() if (TASKS[name]().feedback() is not None) == (kind == "encoder_decoder")]


def chance(runs: list[Summary]) -> str:
    scale = runs[0].scale if runs else None
    return (
        ""
        if scale is None or scale.chance is None
        else f"{scale.metric.text(scale.chance)} {scale.metric.unit}".rstrip()
    )


def told(runs: list[Summary]) -> str:
    """``7.1 % (6.9 to 12.0), 0 of 3 solved``: the median, and the lowest and highest of the seeds."""
    if not runs:
        return ""
    metric = runs[0].scale.metric
    scores = sorted(float("nan") if run.score is None else run.score for run in runs)
    low, middle, high = (metric.text(score) for score in (scores[0], statistics.median(scores), scores[-1]))
    solved = sum(bool(run.solved) for run in runs)
    return f"{middle}{'' if low == high else f' ({low} to {high})'}, {solved} of {len(runs)} solved"


def main(runs: Path, page: Path) -> None:
    scores: dict[tuple[str, str], list[Summary]] = {}
    for run in find_runs(runs):
        summary = read(run)
        scores.setdefault((summary.task, summary.config["task"]["difficulty"]), []).append(summary)
    lines = ["| task | | settings | chance | GRU |", "|---|---|---|---|---|"]
    for task, settings in graded().items():
        for difficulty, given in settings.items():
            some = scores.get((task, difficulty), [])
            words = " ".join("=".join(each) for each in given.items())
            name = f"`{task}`" if difficulty == "easy" else ""
            lines.append(f"| {name} | {difficulty} | `{words}` | {chance(some)} | {told(some)} |")
    page.write_text(TABLE.sub(lambda match: f"{match[1]}{chr(10).join(lines)}\n{match[2]}", page.read_text()))


if __name__ == "__main__":
    if sys.argv[1] == "tasks":
        print(",".join(of_kind(sys.argv[2])))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
