"""The tags of TensorBoard, and what it says about each, in markdown."""

import re
from collections.abc import Sequence

from ..probes.base import Curves, Probe
from ..runs.result import Scale
from ..tasks.base import Task

FLOOR = -12.0
"""The lowest log10 shown in TensorBoard; one underflow would squeeze every other line. A line ends there: what is less
is no plateau. Files have the true numbers."""


def results(probes: Sequence[Probe]) -> tuple[str, ...]:
    """The columns of the HParams table, the same for every run of the same probes."""
    numbers = [name for probe in probes for name in drawn_numbers(probe)]
    return ("result/score", "result/loss", *(f"result/{name}" for name in numbers), "result/steps_to_solve")


def drawn_numbers(probe: Probe) -> Sequence[str]:
    return list(probe.description().shown("everywhere", "drawn"))


def group(probe: Probe, part: str) -> str:
    """The tags of a part of a probe, or of a series, begin with this: ``gradient``, ``gradient_1.hidden``."""
    return probe.name if part == probe.main else f"{probe.name}_{part.replace('/', '.')}"


def by_timestep(probe: Probe, part: str, when: str, percentile: str = "") -> str:
    """The tag of a series: the title of a card is all that says what its axes are. ``when``: as in ``draw_curves``."""
    return f"{group(probe, part)}/{_log(probe)}by timestep{f', {percentile}' if percentile else ''} ({when})"


def by_distance(probe: Probe, part: str, when: str) -> str:
    """The same over what it is one step back from the answer."""
    return f"{group(probe, part)}/{_log(probe)}by distance from answer ({when})"


def _log(probe: Probe) -> str:
    return "log10 " if probe.curves.log else ""


_TAGS = {
    "train/loss": "Mean loss of the training batches since the last point (nats, or squared error).",
    "train/learning_rate": "Step size of the optimizer.",
    "train/gradient_norm": "L2 norm of the gradient of all parameters, before clipping.",
    "train/gradient_norm_clipped": "L2 norm of the gradient of all parameters, as the optimizer saw it.",
    "train/omega": "Omega of train.omega (Pascanu et al. 2013): how much the gradient's norm changes from timestep to "
    "timestep. 0: it is kept.",
    "eval/loss": "Mean loss on held-out sequences of the training length (nats, or squared error).",
    "eval/score": "Score ({metric}) on held-out sequences of the training length. {levels}.",
    "eval/score_by_length": "After training: score ({metric}) by sequence length, which is the **step** axis. "
    "{levels}.",
    "eval/score_by_length (seqmem eval)": "Added by seqmem eval: score ({metric}) by sequence length, which is the "
    "**step** axis. {levels}.",
    "result/score": "Final score ({metric}). {levels}.",
    "result/loss": "Final loss on held-out sequences (nats, or squared error).",
    "result/steps_to_solve": "The first evaluation at which the task was solved; the number of steps of the run when "
    "it never was.",
    "config": "The configuration of the run, every default filled in.",
    "summary": "The run in one table.",
    "answers": "A few held-out sequences as the model reads them, before, half-way through and after training.",
}

_READING = (
    "A held-out sequence as the model reads it, before, half-way through and after training: **move the slider above "
    "the picture**. Words are shaded by confidence: the darker, the more probable the right answer is (or the closer "
    "to it the model would be) if it were asked after that word. A notch above a word: it would give another answer "
    "than a word before. A bubble: the answer it ends with, where it begins to give it. Where many timesteps ask, its "
    "answers stand below what it reads, and those that are wrong are underlined. Runs of one seed and one length read "
    "the same sequences, and the colours mean the same in every run."
)


def describe(tag: str, task: Task, probes: Sequence[Probe] = (), *, seq_len: int | None = None) -> str:
    """What TensorBoard says about a tag, in markdown; nothing about one that belongs to none of the probes.

    ``seq_len``: that of the run, at which most scores are measured; None: not known.
    """
    if tag.startswith("reading/"):
        return _READING
    if text := describe_probes(tag, probes):
        return text
    levels = _compared(task, None if tag.startswith("eval/score_by_length") else seq_len)
    return _TAGS.get(tag, "").format(metric=task.targets.metric.name, levels=levels)


def describe_probes(tag: str, probes: Sequence[Probe]) -> str:
    """What TensorBoard says about a tag of one of the probes."""
    return next((text for probe in probes if (text := _of_probe(tag, probe))), "")


def _compared(task: Task, seq_len: int | None) -> str:
    """What a score is compared with at a length; None: in the shortest sequences and in long ones."""
    if seq_len is not None:
        return "; ".join(f"{name}: {score}" for name, score in _levels(task, seq_len).items())
    short, long = _levels(task, task.min_seq_len), _levels(task, _LONG)
    parts = []
    for name in {**short, **long}:
        ends = dict.fromkeys(one[name] for one in (short, long) if name in one)
        where = (f" at {task.min_seq_len} timesteps", " in long sequences") if len(ends) > 1 else ("",)
        parts.append(f"{name}: {', '.join(f'{end}{place}' for end, place in zip(ends, where, strict=True))}")
    return "; ".join(parts)


_LONG = 100_000
"""Timesteps: what depends on the length has reached its limit, in the digits that are shown."""


def _levels(task: Task, seq_len: int) -> dict[str, str]:
    """Name -> score, as text."""
    metric = task.targets.metric
    long = seq_len == _LONG
    chance, constant = (task.chance, task.constant) if long else (task.chance_at(seq_len), task.constant_at(seq_len))
    scale = Scale(metric, chance, None, None, constant, tuple(task.plateaus(seq_len)))
    return {name: metric.text(score) for name, score in [("Without a memory", chance), *scale.levels()]}


def _of_probe(tag: str, probe: Probe) -> str | None:
    prefix, _, name = tag.partition("/")
    numbers = probe.numbers
    if prefix == "result" and name in numbers:
        return f"{probe.name}/{name} at the end."
    if prefix == probe.name and name in numbers:
        return numbers[name].meaning
    if name in numbers and numbers[name].each_part and prefix.startswith(f"{probe.name}_"):
        part = prefix.removeprefix(f"{probe.name}_")
        return f"The same of {probe.curves.of.get(part, f'the state `{part}`')}. {numbers[name].meaning}"
    if tag == f"{probe.name}/heatmap":
        return (
            f"{probe.curves.heatmap} by timestep (from left to right) and training step (from top to bottom), over "
            "that one step back from the answer; mean over sequences. The colours mean the same in every run."
        )
    curve = re.fullmatch(
        r"(?:log10 )?(by timestep|by distance from answer)(?:, (.*))? \((latest|at start|at end)\)", name
    )
    if curve is None or not (prefix == probe.name or prefix.startswith(f"{probe.name}_")):
        return None
    part = probe.main if prefix == probe.name else prefix.removeprefix(f"{probe.name}_")
    return _curve(probe.curves, part, *curve.groups())


def _curve(curves: Curves, part: str, axis: str, percentile: str | None, when: str) -> str:
    of = curves.of.get(part, f"state `{part}`")
    time = {"latest": "latest trace", "at start": "before training", "at end": "after training"}[when]
    over = f"{percentile} over sequences" if percentile else "mean over sequences"
    what = f"{'log10 of ' if curves.log else ''}{curves.what} at {of}"
    if axis == "by timestep":
        text = f"{what}, by **timestep** (the step axis)"
    else:
        text = f"{what}, over that one step back from the answer, by **timesteps back** (the step axis)"
    floor = f" From one triangle (NaN) to the next it is less than 10^{FLOOR:g}." if curves.log else ""
    return f"{text}; {over}; {time}.{floor}"
