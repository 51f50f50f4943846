"""The reader of a run, finished or not: its facts, its state, its measurements.

Axes: T time, B sequences, K timesteps, the first one first and the answer last.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy import ndarray

from ..decay import DESCRIPTIONS, Trace, is_whole, profile
from ..lag import Lag, read_lag
from ..measurement import Description, describe_unknown, read_description
from .directory import RunDirectory, State, Status
from .files import CONFIG, OVERRIDES, RESULT, RunError, read_bytes
from .result import Length, Scale, StoredResult, diverged, read_length, read_scale, whole
from .settings import drew_other_data, own_name
from .traces import Gradients


@dataclass(frozen=True, eq=False)
class Summary:
    """What a run's files say.

    Args:
        task, cell: names; a user's own class goes by the class's name.
        step: the last recorded update; ``steps``: updates in the plan.
        status: the last one its process wrote; None: none yet.
        error: why it failed; None where ``state`` is another.
        score, loss: at the training length, after training or of the latest evaluation; None: none yet.
        solved, steps_to_solve: as in ``result.StoredResult``; None where they are not known.
        lengths: scores by length: those of the run, and those that ``seqmem eval`` added.
        stored: name of a probe -> ``start`` and ``end`` (or the latest measurement) -> what its file says it measured.
    """

    run: RunDirectory
    config: Mapping[str, Any]
    task: str
    cell: str
    seq_len: int
    seed: int
    steps: int
    state: State
    step: int
    status: Status | None
    error: str | None
    scale: Scale
    score: float | None
    loss: float | None
    solved: bool | None
    steps_to_solve: int | None
    lengths: Sequence[Length]
    stored: Mapping[str, Mapping[str, Any]]
    result: StoredResult | None

    @cached_property
    def probes(self) -> Mapping[str, Mapping[str, Any]]:
        """``stored``, with the numbers of the gradient as they are defined today: those that an earlier version stored
        or that are damaged are computed from the traces, or left out where these are missing or unreadable."""
        stages = self.stored.get("gradient", {})
        if not any(map(_to_compute, stages.values())):
            return self.stored
        current = {when: self._decays(when) if _to_compute(stage) else stage for when, stage in stages.items()}
        return {**self.stored, "gradient": current}

    def _decays(self, when: str) -> Mapping[str, Any]:
        try:
            traces = self.traces
        except RunError:
            traces = None
        place = 0 if when == "start" else -1
        if traces is None or (when == "start" and traces.step[0] != 0):
            return {}
        trace = Trace({name: norms[place] for name, norms in traces.norms.items()}, traces.answered_at)
        return {name: decay.numbers() for name, decay in trace.decays().items()}

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    @property
    def diverged(self) -> bool:
        """True if it has no score and will have none: its loss was not finite at the end, or its mathematics ended it.

        Such a run counts, as one that has not solved its task.
        """
        if self.result is not None:
            return diverged(self.result)
        return self.state == "failed" and self.status is not None and self.status.diverged

    @cached_property
    def by_length(self) -> dict[int, float]:
        """Length -> score, in ascending order; the latest evaluation of a length wins."""
        return {row["seq_len"]: row["score"] for row in sorted(self.lengths, key=lambda row: row["seq_len"])}

    @property
    def scales(self) -> dict[int, Scale]:
        """Length -> how to read a score there, for the training length and those whose evaluation says it."""
        rows = ((row["seq_len"], self.scale.at(row)) for row in self.lengths)
        return {length: scale for length, scale in rows if scale is not None} | {self.seq_len: self.scale}

    def scale_at(self, length: int) -> Scale:
        """That of the training length where an earlier version evaluated: it did not say what chance is elsewhere."""
        return self.scales.get(length, self.scale)

    @property
    def sequences_drawn(self) -> int:
        """Held-out sequences behind ``score``, the same one as often as it was drawn."""
        own = [row["sequences"] for row in self.lengths if row["seq_len"] == self.seq_len]
        return own[0] if own else 256

    @property
    def sequences(self) -> int:
        """Different held-out sequences behind ``score``."""
        own = [row["distinct"] or row["sequences"] for row in self.lengths if row["seq_len"] == self.seq_len]
        return own[0] if own else 256

    @cached_property
    def traces(self) -> Gradients | None:
        """The first and the latest trace; None: it was not traced.

        Raises:
            RunError: they cannot be read.
        """
        gradients = self.run.gradients(ends=True)
        return None if gradients is None or not len(gradients.step) else gradients

    @property
    def traced_at(self) -> int | None:
        """The step of the latest trace."""
        return None if self.traces is None else int(self.traces.step[-1])

    @cached_property
    def profiles(self) -> dict[str, ndarray]:
        """``start`` and ``end`` (or the latest trace) -> ``decay.profile``, [K]. Empty: it was not traced.

        Raises:
            RunError: the traces cannot be read.
        """
        if self.traces is None:
            return {}
        profiles = {"end": profile(self.traces.state(-1), self.traces.answered_at)}
        if self.traces.step[0] == 0:
            profiles["start"] = profile(self.traces.state(0), self.traces.answered_at)
        return profiles

    @cached_property
    def descriptions(self) -> dict[str, Description]:
        """What the numbers of every probe in ``probes`` mean."""
        stored = {} if self.probes.keys() <= DESCRIPTIONS.keys() else self.environment.get("probes", {})
        return {name: DESCRIPTIONS.get(name) or _description(stored, name, self.probes) for name in self.probes}

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions and machine; empty where the file is missing or damaged: a run can be shown without it."""
        return _environment(self.run)

    @property
    def held_out(self) -> str | None:
        """What is held out of a small space, in words; None: the space is large, or it is not recorded."""
        return self.environment.get("held_out")

    @property
    def lag(self) -> Lag | None:
        """The lag at the trained length; None: the task has none, or it is not recorded."""
        return read_lag(self.environment.get("lag"))

    @property
    def other_data(self) -> bool:
        """An earlier version made it, which drew other data at its settings."""
        return drew_other_data(self.config, self.environment)

    @property
    def overrides(self) -> list[str] | None:
        """The settings of the command line that started it; None where they are not recorded."""
        return overrides(self.run)


def _to_compute(stage: Any) -> bool:
    """True for decays as an earlier version defined them, and for damaged ones."""
    parts = stage.values() if isinstance(stage, Mapping) else ()
    return any(isinstance(part, Mapping) and "half_life" in part and not is_whole(part) for part in parts)


def overrides(run: RunDirectory) -> list[str] | None:
    """The settings of the command line that started a run; None where they are not recorded."""
    try:
        words = json.loads(read_bytes(run.file(OVERRIDES)))
    except (OSError, ValueError, RecursionError):
        return None
    return [str(word) for word in words] if isinstance(words, list) else None


def read(run: RunDirectory) -> Summary:
    """Read a run.

    Raises:
        RunError: a file of the run is missing, damaged, or not what it should be; one line that names the run.
    """
    try:
        config, result = run.config(), run.result()
        return _unfinished(run, config) if result is None else _finished(run, config, result)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        # The JSON is whole, but not what seqmem writes.
        reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise RunError(f"{run.path} is not what this seqmem writes: {reason}") from error


def _finished(run: RunDirectory, config: Mapping[str, Any], result: StoredResult) -> Summary:
    known, measured = _plan(config), {key: result[key] for key in ("task", "cell", "seq_len", "seed")}
    if config["task"]["name"] == "custom":  # its class, and in results of earlier versions the name it gives itself
        measured["task"] = known["task"]
    for key, value in measured.items():
        if value != known[key]:
            raise RunError(f"{run.path}: {CONFIG} and {RESULT} are of two runs: {key} is {known[key]!r} and {value!r}")
    return Summary(
        run=run,
        config=config,
        **known,
        state="finished",
        step=result["steps"],
        status=None,
        error=None,
        scale=read_scale(result),
        score=result["score"],
        loss=result["loss"],
        solved=result["solved"],
        steps_to_solve=result["steps_to_solve"],
        lengths=[*result["by_length"], *map(read_length, evaluated_alike(run, config))],
        stored=result["probes"],
        result=result,
    )


def evaluated_alike(run: RunDirectory, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What ``seqmem eval`` added with the run's own ``evaluate.beam``: scores of the same answers as the run's."""
    own = config.get("evaluate", {}).get("beam", 1)
    return [row for row in run.evaluations() if row.get("beam", own) == own]


def _unfinished(run: RunDirectory, config: Mapping[str, Any]) -> Summary:
    known, state, status, metrics = _plan(config), run.state, run.status(), run.metrics()
    scores = [row for row in metrics if row["kind"] == "eval"]
    latest = scores[-1] if scores else {}
    probes: dict[str, dict[str, Any]] = {}
    for row in metrics:
        for name, measured in row.get("probes", {}).items():
            stages = probes.setdefault(name, {})
            stages["end"] = measured
            if row["step"] == 0:
                stages["start"] = measured
    steps = [int(row["step"]) for row in metrics[-1:]] + ([status.step] if status is not None else [])
    return Summary(
        run=run,
        config=config,
        **known,
        state=state,
        step=max(steps, default=0),
        status=status,
        error=status.error if status is not None and state == "failed" else None,
        scale=read_scale(_environment(run)),
        score=latest.get("score"),
        loss=latest.get("loss"),
        solved=None,
        steps_to_solve=None,
        lengths=[read_length(row) for row in metrics if row["kind"] == "length"],
        stored=probes,
        result=None,
    )


def _plan(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": own_name(config["task"]),
        "cell": own_name(config["cell"]),
        **{name: whole(config[name], name) for name in ("seq_len", "seed", "steps")},
    }


def _description(stored: Mapping[str, Any], name: str, probes: Mapping[str, Mapping[str, Any]]) -> Description:
    """From the run's environment; a damaged or missing description leaves the numbers their names."""
    try:
        return read_description(stored[name])
    except (KeyError, TypeError, AttributeError):
        return describe_unknown(probes[name].get("end", {}))


def _environment(run: RunDirectory) -> dict[str, Any]:
    try:
        return run.environment()
    except RunError:
        return {}
