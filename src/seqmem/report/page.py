"""The report's page: one HTML file that needs nothing else, and its figures as files beside it.

What stands on it comes from the runs, whose names may be anybody's: everything goes through the template's escaping,
figures alone are markup, and they are made here.
"""

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from math import isinf, isnan
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from ..runs.directory import RunError, write_atomically
from ..runs.settings import flat as flat_settings
from . import series
from .collect import Collection, Group, natural
from .figures import draw as figures
from .figures.draw import Drawn, clean
from .statistics import (
    FEWEST,
    Comparison,
    Span,
    comparisons,
    decay_interval,
    memory_span,
    rule_text,
    score_interval,
    score_text,
    solved_count,
    span_tested,
    steps_to_solve,
    telling_length,
    two_groups,
)

PAGE = "index.html"

ENVIRONMENT = {
    "seqmem": "seqmem", "python": "Python", "torch": "torch", "numpy": "numpy", "platform": "platform", "cpu": "cpu",
    "cuda": "CUDA", "kernel": "kernel", "threads": "threads", "git_commit": "git commit",
}  # fmt: skip
"""What environment.json says of versions and machines: key -> what the page calls it."""

MOST_FIGURES = 40
"""On a page; what a figure would have shown stands in the tables all the same."""

MOST_ROWS = 200
"""Of one table on the page."""

MOST_PROFILES, MOST_MAPS, MOST_LENGTHS = 7, 4, 4
"""Labels of a task whose gradient profiles and maps are drawn, and lengths of one map."""

MOST_COMPARISONS = 15


@dataclass(frozen=True)
class Figure:
    name: str
    markup: Markup
    caption: str
    wide: bool


def write(collection: Collection, folder: Path, *, threshold: float | None = None) -> Path:
    """Write ``index.html`` and ``figures/`` into ``folder``, in the place of an earlier report's.

    Args:
        threshold: from which accuracy on a run counts as solved; None: the task's own rule.

    Raises:
        RunError: it cannot be written.
    """
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        page = _Page(collection, folder, threshold)
        text = page.render()
        before = _figures_of(folder / PAGE)
        write_atomically(folder / PAGE, text.encode())
        for name in before - page.made:
            for kind in ("svg", "png"):
                (folder / "figures" / f"{name}.{kind}").unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write the report to {folder}: {error.strerror or error}") from error
    return folder / PAGE


def _figures_of(page: Path) -> set[str]:
    """The names of the figures that a page has: those alone are the report's own to remove."""
    try:
        return set(re.findall(r'href="figures/([\w-]+)\.svg"', page.read_text()))
    except (OSError, ValueError):
        return set()


_SIGNS = (
    "In brackets: how many of the seeds solve that length. “≥”: the longest length tried is still solved, so the span "
    "may be longer; “<”: not even the shortest is."
)


class _Page:
    def __init__(self, collection: Collection, folder: Path, threshold: float | None) -> None:
        self.collection, self.folder, self.threshold = collection, folder, threshold
        self.groups = collection.groups
        self.colours = series.colours(collection)
        self.gradients = series.Gradients(collection)
        self.comparisons = comparisons(collection, threshold)
        self.split = two_groups(collection, threshold)
        self.made: set[str] = set()
        self.undrawn = 0

    def render(self) -> str:
        here = Path(__file__)
        environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_shown)
        template = environment.from_string(here.with_name("page.html").read_text())
        tasks = [self.task(at, task) for at, task in enumerate(self.collection.tasks, 1)]
        return template.render(
            title=self.title(),
            counted=self.counted(),
            style=Markup(here.with_name("style.css").read_text()),
            spans=self.spans(),
            span_notes=self.span_notes(),
            tasks=tasks,
            made=self.what_was_run(),
            meaning=self.meanings(),
            version=_version(),
            files=sorted(path.name for kind in ("csv", "parquet") for path in self.folder.glob(f"*.{kind}")),
        )

    # Its head

    def title(self) -> str:
        cells = list(dict.fromkeys(group.cell for group in self.groups))
        if not cells:
            return "Memory of recurrent networks: no finished run"
        return f"How far back {_and([clean(cell, 30) for cell in cells], 5)} remember{'s' if len(cells) == 1 else ''}"

    def counted(self) -> str:
        runs = self.collection.runs
        lengths = sorted({run.seq_len for run in runs})
        parts = [_count(len(runs), "finished run")]
        if runs:
            parts.append(_count(len(self.collection.tasks), "task"))
            parts.append(_count(len({group.label for group in self.groups}), "cell"))
            parts.append(f"lengths {lengths[0]} to {lengths[-1]}" if len(lengths) > 1 else f"length {lengths[0]}")
            parts.append(_range(*_extremes(len(g.at(n)) for g in self.groups for n in g.lengths), "seed") + " each")
        if self.collection.unfinished:
            parts.append(f"{len(self.collection.unfinished)} unfinished")
        if self.collection.left_out:
            parts.append(f"{len(self.collection.left_out)} left out")
        return " · ".join(parts)

    def spans(self) -> list[dict[str, Any]]:
        rows = []
        for group in self.groups:
            span = memory_span(group, self.threshold)
            tried = [f"{length} ({count})" for length, count in span.counts.items()] or list(map(str, group.lengths))
            rows.append(
                {
                    "task": clean(group.task, 60),
                    "label": clean(group.label, 60),
                    "colour": self.colours[group.label],
                    "span": _span_text(span),
                    "tried": ", ".join(tried),
                    "seeds": _range(*_extremes(len(group.at(length)) for length in group.lengths)),
                }
            )
        return rows

    def span_notes(self) -> list[str]:
        notes = [_SIGNS]
        for task in self.collection.tasks:
            groups = [group for group in self.groups if group.task == task]
            notes.append(self.sentence(task, groups))
            for group in groups:
                span = memory_span(group, self.threshold)
                if span.beyond:
                    notes.append(
                        f"{clean(group.label)} on {clean(task)} also solves {_and(list(map(str, span.beyond)))}, "
                        f"but not {span.failed}: more seeds or more steps would tell which of them is luck."
                    )
        fewest = min((len(group.at(length)) for group in self.groups for length in group.lengths), default=0)
        if fewest == 1:
            notes.append("Some lengths rest on one seed alone. One seed proves nothing: run several, and look again.")
        elif fewest < 5:
            notes.append(
                f"Some lengths rest on {fewest} seeds. That shows large differences at best: the range of {fewest} "
                f"seeds holds the true median with a probability of {100 * (1 - 2.0 ** (1 - fewest)):.0f} %."
            )
        return notes

    def sentence(self, task: str, groups: Sequence[Group]) -> str:
        """The headline of a task, in words."""
        kinds: dict[str, list[str]] = {}
        for group in groups:
            span = memory_span(group, self.threshold)
            name = clean(group.label, 60)
            if not span.known:
                kinds.setdefault("{} cannot be judged, for want of a rule of success", []).append(name)
            elif span.length is None:
                kinds.setdefault(f"{{}} not even {min(span.counts)}", []).append(name)
            elif span.open:
                kinds.setdefault(f"{{}} {span.length} or more", []).append(name)
            else:
                kinds.setdefault(f"{{}} {span.length}, but not {span.failed}", []).append(name)
        said = [text.format(_and(names, 6)) for text, names in kinds.items()]
        return f"On {clean(task, 60)}, in timesteps: {'; '.join(said)}."

    def meanings(self) -> dict[str, str]:
        rules = dict.fromkeys(
            f"{clean(group.task, 60)}: {text}"
            for group in self.groups
            if (text := rule_text(group.first, self.threshold))
        )
        chosen = "the threshold given for this report" if self.threshold is not None else "the task's own rule"
        some = "; ".join(list(rules)[:8])
        return {
            "span": "The longest trained length that at least half of the seeds solve, as they do every shorter length "
            "that was tried. It is between the lengths tried: a finer grid gives a finer span.",
            "solved": f"A held-out score that reaches {chosen}{f' ({some})' if some else ''}. Steps to solve always go "
            "by the task's own rule, the first time that it was met during training.",
        }

    # A task

    def task(self, number: int, task: str) -> dict[str, Any]:
        groups = [group for group in self.groups if group.task == task]
        name = f"task{number}"
        first = groups[0].first
        notes: list[str] = []
        profiles, heat = self.gradient_figures(name, groups, notes)
        pairs = [pair for pair in self.comparisons if pair.a.task == task]
        found = {
            "id": name,
            "name": clean(task, 80),
            "metric": clean(first.metric, 40) + ("" if first.higher_is_better else ", where lower is better"),
            "about": self.about(groups),
            "scores": self.score_figures(name, groups),
            "rows": self.rows(groups, notes),
            "generalisation": self.generalisation(name, groups),
            "steps": self.step_figures(name, groups),
            "profiles": profiles,
            "decays": self.decay_figures(name, groups),
            "maps": heat,
            "strips": self.strips(name, groups),
            "comparisons": self.compared(groups, pairs),
            "notes": notes,
        }
        if self.undrawn:
            more = _count(self.undrawn, "figure")
            notes.append(f"Beyond {MOST_FIGURES} on a page, {more} not drawn; the numbers are in the tables.")
            self.undrawn = 0
        return found

    def about(self, groups: Sequence[Group]) -> str:
        first = groups[0].first
        said = []
        if first.chance is not None:
            said.append(f"Without a memory the {clean(first.metric, 40)} is {score_text(first.metric, first.chance)}.")
        if goal := rule_text(first, self.threshold):
            said.append(f"A run has solved it with {goal}.")
        steps = _extremes(run.steps for group in groups for length in group.lengths for run in group.at(length))
        said.append(f"Trained for {_range(*steps, 'step')}.")
        return " ".join(said)

    def rows(self, groups: Sequence[Group], notes: list[str]) -> list[dict[str, Any]]:
        rows = []
        for group in groups:
            for length in group.lengths:
                runs = group.at(length)
                scores = score_interval(runs)
                metric = group.first.metric
                low, high = _score(metric, scores.low), _score(metric, scores.high)
                count = solved_count(runs, self.threshold)
                known = bool(rule_text(group.first, self.threshold))
                rows.append(
                    {
                        "label": clean(group.label, 60),
                        "colour": self.colours[group.label],
                        "length": length,
                        "seeds": len(runs),
                        "median": _score(metric, scores.median),
                        "interval": f"[{low}, {high}]" if scores.n > 1 else "",
                        "solved": str(count) if known else "–",
                        "steps": _signed(str(steps_to_solve(runs))),
                        "half_life": _decay(runs, "half_life"),
                        "horizon": _decay(runs, "horizon"),
                    }
                )
        if len(rows) > MOST_ROWS:
            notes.append(f"The first {MOST_ROWS} of {len(rows)} rows; the table in the folder has all.")
        return rows[:MOST_ROWS]

    def score_figures(self, name: str, groups: Sequence[Group]) -> list[Figure]:
        made = []
        for at, some in enumerate(series.chunks(groups, self.colours, figures.AT_MOST), 1):
            curves = series.by_length(some, self.threshold)
            rule = rule_text(some[0][1].first, self.threshold)
            several = any(len(group.lengths) > 1 for _, group in some)
            seen = (
                "Score against the length it was trained on. Thick: the median over seeds; faint: every seed; "
                "band: the 95 % bootstrap interval of the median. Lines stand a hair apart, so that equal ones show."
                if several
                else "Score at the one length trained on: every run, their median, and its 95 % bootstrap interval."
            )
            caption = seen + (f" Below the axis: how many seeds solve it ({rule})." if rule else "")
            alt = f"Median score by trained length on {clean(groups[0].task, 60)}. " + " ".join(
                f"{clean(line.label, 40)}: "
                + ", ".join(f"{_score(curves.measure.name, p.median)} at {p.x}" for p in line.points[:12])
                + "."
                for line in curves.lines
            )
            made += self.drawn(f"{name}-score-{at}", lambda c=curves: figures.score(c), caption, alt)
        return made

    def generalisation(self, name: str, groups: Sequence[Group]) -> list[Figure]:
        panels = [(group, series.by_tested_length(group, self.threshold)) for group in groups]
        panels = [(g, curves) for g, curves in panels if any(len(line.points) > 1 for line in curves.lines)]
        made = []
        for at in range(0, len(panels), 6):
            some = panels[at : at + 6]
            reached = []
            for group, _ in some:
                for length in group.lengths[-1:]:
                    span = span_tested(group, length, self.threshold)
                    if span.known:
                        reached.append(f"{clean(group.label, 40)} trained at {length}: {_span_text(span)}")
            caption = (
                "Score at lengths it was tested at, without further training: the median over seeds, its interval, and "
                "every seed (faint). The open circle marks the length it was trained on."
                + (f" Solved by half of the seeds up to: {'; '.join(reached)}." if reached else "")
            )
            alt = "Median score by tested length. " + " ".join(
                f"{clean(g.label, 40)} trained at {line.trained}: "
                + ", ".join(f"{_score(c.measure.name, p.median)} at {p.x}" for p in line.points[:8])
                + "."
                for g, c in some
                for line in c.lines[:4]
            )
            drawing = [(group.label, curves) for group, curves in some]
            made += self.drawn(
                f"{name}-generalisation-{at // 6 + 1}",
                lambda d=drawing: figures.generalisation(d),
                caption,
                alt,
                wide=True,
            )
        return made

    def step_figures(self, name: str, groups: Sequence[Group]) -> list[Figure]:
        if groups[0].first.solved_at is None:
            return []
        made = []
        for at, some in enumerate(series.chunks(groups, self.colours, figures.AT_MOST), 1):
            data = series.to_solve(some)
            caption = (
                "Training steps until the task's own rule was first met, by trained length, both logarithmic: every "
                "seed, and the median as a line wherever more than half of the seeds got there."
                + (" Open: not solved, drawn at the steps it was given." if data.any_unsolved else "")
            )
            alt = "Steps until solved by trained length. " + " ".join(
                f"{clean(line.label, 40)}: "
                + (", ".join(f"{steps:g} at {length}" for length, steps in line.median[:12]) or "not solved by half")
                + "."
                for line in data.lines
            )
            made += self.drawn(f"{name}-steps-{at}", lambda d=data: figures.steps(d), caption, alt)
        return made

    def gradient_figures(
        self, name: str, groups: Sequence[Group], notes: list[str]
    ) -> tuple[list[Figure], list[Figure]]:
        profiles: list[Figure] = []
        heat: list[Figure] = []
        read = []
        for group in groups[:MOST_PROFILES]:
            found = self.gradients.profiles(group, _some(group.lengths, 7))
            if found is not None:
                read.append((group, found))
        reach = series.reach(found for _, found in read)
        for at, (group, found) in enumerate(read, 1):
            which = "" if found.read == found.of else f" Of {found.read} of {found.of} runs, the lowest seeds."
            caption = (
                f"{clean(group.label, 60)}: gradient by timesteps back from the answer (0), relative to the answer; "
                f"the median over seeds thick, every seed faint. What ends early has vanished below what float64 "
                f"holds; one that leaves the panel goes on below.{which}"
            )
            last = found.stages[-1]
            alt = f"{clean(group.label, 60)}, {last.title}: " + ", ".join(
                f"10 to the power of {line.median[-1]:.1f} arrives {len(line.median) - 1} timesteps back"
                for line in last.lines
                if line.median[-1] == line.median[-1]
            )
            profiles += self.drawn(
                f"{name}-profile-{at}", lambda f=found: figures.profiles(f, reach), caption, alt, wide=True
            )
        for at, group in enumerate(groups[:MOST_MAPS], 1):
            lengths = _some(group.lengths, MOST_LENGTHS)
            found = self.gradients.maps(group, lengths)
            if found is None:
                continue
            caption = (
                f"{clean(group.label, 60)}: the gradient at every timestep (left to right) over the training (top to "
                "bottom), of the seed with the median score; the answer is at the right. Bright: as much as at the "
                "answer. Dark: a hundred-millionth, or less. Grey: too little for float64."
            )
            alt = f"Heat maps of {clean(group.label, 60)} at length {_and([str(p.trained) for p in found.panels])}."
            heat += self.drawn(f"{name}-map-{at}", lambda f=found: figures.maps(f), caption, alt, wide=True)
        if len(groups) > MOST_PROFILES:
            notes.append(
                f"Gradients are drawn for {MOST_PROFILES} of {len(groups)} cells, and maps for {MOST_MAPS}; --task and "
                "fewer folders show the others."
            )
        for path, why in self.gradients.unread[:3]:
            notes.append(f"No gradients of {clean(path)}: {clean(why)}.")
        self.gradients.unread.clear()
        return profiles, heat

    def decay_figures(self, name: str, groups: Sequence[Group]) -> list[Figure]:
        made = []
        for at, some in enumerate(series.chunks(groups, self.colours, figures.AT_MOST), 1):
            data = series.decays(some)
            if not data.lines:
                continue
            caption = (
                "Half-life and horizon of the gradient by trained length, every seed: open before training, filled "
                "after. ∞: it does not decay, or nowhere in the sequence to a thousandth."
            )
            alt = "Half-life and horizon by trained length; the medians are in the table above."
            made += self.drawn(f"{name}-decay-{at}", lambda d=data: figures.decays(d), caption, alt, wide=True)
        return made

    def strips(self, name: str, groups: Sequence[Group]) -> list[Figure]:
        """At the length that tells most, and where what was learned splits the seeds at a tested one."""
        made: list[Figure] = []
        wanted: list[tuple[int, int | None]] = []
        lengths = Counter(
            length
            for i, a in enumerate(groups)
            for b in groups[i + 1 :]
            if (length := telling_length(a, b, self.threshold)) is not None
        )
        wanted += [(length, None) for length, _ in lengths.most_common(2)]
        split = Counter((one.seq_len, one.at) for one in self.split if one.group.task == groups[0].task)
        for (trained, tested), _ in split.most_common(2):
            if (key := (trained, None if tested == trained else tested)) not in wanted:
                wanted.append(key)
        for trained, tested in wanted:
            here = [group for group in groups if group.at(trained)]
            for some in series.chunks(here, self.colours, 12)[:2]:
                data = series.strip(some, trained, self.threshold, at=tested)
                if not data.rows:
                    continue
                at = len(made) + 1
                where = f"trained at length {trained}" + (f", tested at {tested}" if tested is not None else "")
                caption = f"Every run {where}, a point each; the upright line is the median."
                if data.measure.goal is not None:
                    caption += " At the right: how many solve it."
                alt = f"Scores of every run {where}. " + " ".join(
                    f"{clean(row.label, 40)}: {row.solved} of {row.of} solved, median "
                    f"{_score(data.measure.name, row.median)}."
                    for row in data.rows
                )
                made += self.drawn(f"{name}-strip-{at}", lambda d=data: figures.strip(d), caption, alt)
        return made

    def compared(self, groups: Sequence[Group], pairs: Sequence[Comparison]) -> list[str]:
        earned = [pair for pair in pairs if pair.earned]
        said = [
            f"{clean(pair.a.label, 60)} and {clean(pair.b.label, 60)} at length {pair.seq_len}: median difference "
            f"{_signed(pair.difference_text)}. {clean(pair.verdict, 400)}"
            for pair in sorted(earned, key=lambda pair: pair.adjusted)[:MOST_COMPARISONS]
        ]
        if len(earned) > MOST_COMPARISONS:
            said.append(f"{len(earned) - MOST_COMPARISONS} more comparisons are left out, of those that show least.")
        if poor := [pair for pair in pairs if not pair.earned]:
            names = [f"{clean(p.a.label, 40)} and {clean(p.b.label, 40)}" for p in poor]
            said.append(
                f"Too few seeds to compare {_and(names, 6)} ({_range(*_extremes(p.n for p in poor), 'common seed')}): "
                f"no difference can be shown at the 5 % level with fewer than {FEWEST}, even if one wins every time."
            )
        split = [one for one in self.split if one.group.task == groups[0].task]
        for one in split[:MOST_COMPARISONS]:
            at = f"trained at {one.seq_len}" + (f" and tested at {one.at}" if one.at != one.seq_len else "")
            said.append(
                f"{clean(one.group.label, 60)}, {at}, falls into two groups: {one.found}. No median describes such "
                "seeds; look at the points."
            )
        if len(split) > MOST_COMPARISONS:
            said.append(f"{len(split) - MOST_COMPARISONS} more cells and lengths fall into two groups of seeds.")
        return said

    def drawn(
        self, name: str, draw: Callable[[], Drawn], caption: str, alt: str, *, wide: bool = False
    ) -> list[Figure]:
        """The figure, written into its files; none if the page has as many as it may."""
        if len(self.made) >= MOST_FIGURES:
            self.undrawn += 1
            return []
        found = draw()
        write_atomically(self.folder / "figures" / f"{name}.svg", found.svg)
        write_atomically(self.folder / "figures" / f"{name}.png", found.png)
        self.made.add(name)
        return [Figure(name, Markup(figures.for_page(found.svg, name, clean(alt, 1500))), caption, wide)]

    # What was run

    def what_was_run(self) -> list[dict[str, Any]]:
        found = self.collection
        blocks: list[dict[str, Any]] = []
        if found.unfinished:
            rows = [[str(u.path), u.state, u.step, u.error or ""] for u in found.unfinished]
            blocks.append(_block("Not finished", ["run", "state", "step", "why"], ["path", "left", "", "words"], rows))
        if found.left_out:
            rows = [[str(one.path), one.reason] for one in found.left_out]
            blocks.append(_block("Left out", ["folder", "why"], ["path", "words"], rows))
        commands = Counter(_command(run.environment.get("command")) for run in found.runs)
        commands.pop("", None)
        if commands:
            many = (
                f"The {MOST_COMPARISONS} most frequent of {len(commands)}." if len(commands) > MOST_COMPARISONS else ""
            )
            # To be copied as they are: what is Markup keeps its spaces.
            shown = [escape(clean(command, 2000)) for command, _ in commands.most_common(MOST_COMPARISONS)]
            blocks.append({"title": "Commands", "note": many, "commands": shown})
        flat = [flat_settings(run.config, "training", "measuring", "default") for run in found.runs]
        keys = dict.fromkeys(key for one in flat for key in one)
        differing, common = [], []
        for key in keys:
            values = Counter(_setting(one[key]) if key in one else "(not a setting there)" for one in flat)
            (differing if len(values) > 1 else common).append([key, _tallied(values)])
        if differing:
            blocks.append(_block("Settings that differ", ["setting", "values (runs)"], ["left", "words"], differing))
        if common:
            rows = [[key, value.rpartition(" (")[0]] for key, value in common]
            blocks.append(_block("Settings that all runs share", ["setting", "value"], ["left", "words"], rows))
        rows = []
        for key, name in ENVIRONMENT.items():
            values = Counter(
                _setting(run.environment[key]) for run in found.runs if run.environment.get(key) is not None
            )
            if values:
                rows.append([name, _tallied(values)])
        if rows:
            blocks.append(_block("Versions and machines", ["what", "which (runs)"], ["left", "words"], rows))
        return blocks


# Words and numbers


def _shown(value: Any) -> Any:
    """Whatever the template puts on the page, without what HTML cannot say; a number stays with its unit."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return re.sub(r"(?<=\d) %", "\u00a0%", clean(value, 4000))


def _block(title: str, columns: list[str], kinds: list[str], rows: list[list[Any]]) -> dict[str, Any]:
    note = f"The first {MOST_ROWS} of {len(rows)}." if len(rows) > MOST_ROWS else ""
    shown = [[clean(str(cell), 600) for cell in row] for row in rows[:MOST_ROWS]]
    return {"title": title, "note": note, "commands": [], "columns": columns, "kinds": kinds, "rows": shown}


def _setting(value: Any) -> str:
    return clean(f"{value:g}" if isinstance(value, float) else str(value), 120)


def _tallied(values: Mapping[str, int], at_most: int = 24) -> str:
    shown = [f"{value} ({count})" for value, count in sorted(values.items(), key=lambda item: natural(item[0]))]
    return ", ".join(shown[:at_most]) + (f" and {len(shown) - at_most} more" if len(shown) > at_most else "")


def _command(words: Any) -> str:
    """As somebody would type it: without the interpreter and the place where seqmem lies."""
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return ""
    for at, word in enumerate(words):
        if word == "seqmem" or Path(word).name in ("seqmem", "seqmem.exe"):
            return shlex.join(["seqmem", *words[at + 1 :]])
    return shlex.join(words)


def _score(metric: str, score: float) -> str:
    return "diverged" if isnan(score) or isinf(score) else _signed(score_text(metric, score))


def _signed(text: str) -> str:
    """With a minus that is as wide as a digit, and signs in the place of their makeshifts."""
    text = re.sub(r"(?<![\w.])-(?=[\d.])", "−", text)
    return text.replace(">= ", "≥ ").replace("inf", "∞")


def _span_text(span: Span) -> str:
    return _signed(str(span))


def _decay(runs: Sequence[Any], what: str) -> str:
    after, before = (decay_interval(runs, when, what) for when in ("end", "start"))
    if not after.n and not before.n:
        return "–"
    return f"{_timesteps(after.median)} ({_timesteps(before.median)})"


def _timesteps(value: float) -> str:
    if isnan(value):
        return "–"
    return "∞" if isinf(value) else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _and(words: Sequence[str], at_most: int = 12) -> str:
    if len(words) > at_most:
        return f"{', '.join(words[:at_most])} and {len(words) - at_most} more"
    return " and ".join(([", ".join(words[:-1])] if len(words) > 1 else []) + list(words[-1:]))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _range(low: int, high: int, what: str = "") -> str:
    number = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{number} {what}{'' if high == 1 else 's'}" if what else number


def _extremes(numbers: Iterable[int]) -> tuple[int, int]:
    found = list(numbers) or [0]
    return min(found), max(found)


def _some(numbers: Sequence[int], at_most: int) -> list[int]:
    """Evenly chosen ones, with the first and the last."""
    if len(numbers) <= at_most:
        return list(numbers)
    return [numbers[round(at * (len(numbers) - 1) / (at_most - 1))] for at in range(at_most)]


def _version() -> str:
    try:
        return version("seqmem")
    except PackageNotFoundError:
        return "from source"
