"""A finished run goes on for longer, as a run of its own: what the first one wrote is written again, as the longer run
would have written it up to there."""

from collections.abc import Mapping
from typing import Any

from ..measurement import Measurement
from ..models.base import Model
from ..runs.directory import RunDirectory
from ..runs.files import CHECKPOINT
from ..runs.traces import Gradients
from ..tasks.base import Task
from ..training.measuring import show_answers
from ..training.plan import Plan
from .recorder import Recorder, load_checkpoint
from .traces import UNANSWERED


def go_on_from(former: RunDirectory, recorder: Recorder, model: Model, task: Task, plan: Plan) -> None:
    """Make the new run of ``recorder`` one that was stopped at the last step of ``former``; ``train`` resumes it.

    Rows that ``former`` wrote only because it ended there are left out: evaluations, and measurements of probes. Its
    last log line must be one that the longer run has, too. The answers in TensorBoard after half of the steps are
    missing where that half is past.

    Args:
        model: untrained.

    Raises:
        RunError: a file of ``former`` cannot be read, or one of the new run cannot be written.
    """
    saved = load_checkpoint(former.file(CHECKPOINT))
    last = saved["progress"]["step"]
    probes = {scheduled.probe.name: scheduled for scheduled in plan.scheduled()}
    series = {name: former.series(name) for name in probes}
    recorder.load()  # it has no checkpoint: its files begin
    for row in former.metrics():
        step, values = row["step"], {key: value for key, value in row.items() if key not in ("kind", "step")}
        if row["kind"] == "train":
            recorder.logged(step, "train", values)
        elif row["kind"] == "eval" and step % plan.evaluate_every == 0:
            recorder.logged(step, "eval", values)
            if step == 0:
                show_answers(model, task, plan, 0, recorder)
        elif row["kind"] == "trace":
            for name, scalars in values["probes"].items():
                if step % probes[name].every == 0:
                    recorder.measured(step, probes[name].probe, _measurement(scalars, series[name], step))
    progress = dict(saved["progress"])
    if progress["steps_to_solve"] == last and last % plan.evaluate_every:
        progress["steps_to_solve"] = None
    result = former.result()
    recorder.spent_before(result["seconds"] if result is not None else 0.0)
    recorder.save({**saved, "progress": progress})
    recorder.close()


def _measurement(scalars: Mapping[str, Any], series: Gradients | None, step: int) -> Measurement:
    if series is None or step not in series.step:
        return Measurement(scalars)
    place = int((series.step == step).argmax())
    answered_at = None if (series.answered_at == UNANSWERED).any() else series.answered_at
    return Measurement(scalars, {name: norms[place] for name, norms in series.norms.items()}, answered_at)
