"""What TensorBoard shows as text, in markdown: the run in one table, and answers to a few sentences."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..probes.base import Probe
from ..runs.result import read_scale
from ..solved import solved_words
from ..tasks.base import Task
from ..training.plan import Result

if TYPE_CHECKING:
    from .pictures.sentences import Sentence


def answers(task: Task, read: "Sequence[Sentence]", *, title: str) -> str:
    """A few sequences as a model read them."""
    from .pictures.sentences import SHADES, text

    if read[0].sure is None and task.targets.metric.percent:
        legend = f"how much of the answer is right by then, {SHADES[0]} nothing, {SHADES[-1]} all"
    elif read[0].sure is None:
        legend = f"how close the estimate is by then, {SHADES[0]} off by {error_text(task)} or more, {SHADES[-1]} exact"
    else:
        legend = f"how sure of the right answer the model is by then, {SHADES[0]} not at all, {SHADES[-1]} 100 %"
    above = "above every word" if read[0].asked_once else "above every answer"
    return code_block(text(read, title=title, legend=f"{above} {legend}"))


def error_text(task: Task) -> str:
    """The error without a memory in long sequences, of a task whose answers are real numbers."""
    return f"{task.chance**0.5:.2f}"


def code_block(text: str) -> str:
    """Text as it is: only a line of tildes could end the block, and no text has one."""
    return f"~~~~~~\n{text}\n~~~~~~"


def summary_table(summary: Mapping[str, Any], result: Result, probes: Sequence[Probe]) -> str:
    """``result.json`` in short."""
    rows = {
        "task, cell": f"{summary['task']}, {summary['cell']}",
        "length": f"{summary['seq_len']} timesteps",
        "seed": summary["seed"],
        "parameters": f"{summary['parameters']:,} ({summary['layers']} x {summary['hidden_size']} units)",
        f"score ({summary['metric']})": f"{summary['score']:.4g}",
        "without a memory": f"{summary['chance']:.4g}",
        **{name: f"{score:.4g}" for name, score in read_scale(summary).levels()},
        "loss": f"{summary['loss']:.4g}",
        "loss without a memory": f"{summary['baseline_loss']:.4g}",
        "solved": solved_words(result.steps_to_solve, solved=summary["solved"]).removeprefix("solved ") or "no",
    }
    for probe in probes:
        description = probe.description()
        values = description.of_main(result.probes.get(probe.name, {}).get("end", {}))
        told = description.in_words(values) if description.in_words is not None and values else ""
        for name, number in description.shown("everywhere", "drawn").items():
            if name in values and not (told and number.told):
                rows[number.title] = number.text(values[name])
        if told:
            rows[probe.name] = told
    rows["steps"] = f"{summary['steps']:,} in {summary['seconds']:.1f} s on {summary['device']}"
    if "best_step" in summary:
        rows["weights"] = f"of step {summary['best_step']:,}, the best"
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    columns = {"length": "seq_len", "score": "score", "without a memory": "chance", "loss": "loss"}
    if "exact" in summary["by_length"][0]:
        columns["all answers right"] = "exact"
    lengths = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lengths += [
        "| " + " | ".join(f"{one[key]:.4g}" if key != "seq_len" else str(one[key]) for key in columns.values()) + " |"
        for one in summary["by_length"]
    ]
    return "\n".join([*lines, "", *lengths])
