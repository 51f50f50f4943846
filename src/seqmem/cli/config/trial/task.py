"""A few small batches of a user's own task.

Axes: T time, B batch, D input features, K outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from ....laws.words import kind, name_of, with_type
from ....metrics import SQUARED_ERROR, Metric, Plateau
from ....randomness import ambient, disturbed, generator
from ....signals import Batch, Signal
from ....spaces import Space
from ....tasks.base import Task
from ..errors import ConfigError

_BATCH = 3
"""Sequences in a small batch: no other axis is likely to have as many by chance."""

_FEW, _MANY, _MOST_TIMESTEPS = 16, 256, 25_600
"""Sequences of which some are in every part of a space that is split, and which tell ``solve`` from guessing: fewer
where they are long."""

_BATCH_IS = "seqmem.signals.Batch(inputs, targets, weights, asked)"


def try_task(task: Task, where: str, *, seq_len: int) -> None:
    """Draw a few sequences of a user's own task, of the shortest length and of ``seq_len``, and ask what it says of
    them.

    Args:
        where: begins each message, e.g. ``task.target=mytasks.Story``.
        seq_len: of the run; invalid ones are left to ``Plan.check``.

    Raises:
        ConfigError: it breaks what a task promises.
    """
    _Trial(task, where).run(seq_len)


@dataclass(frozen=True)
class _Trial:
    task: Task
    where: str

    def run(self, seq_len: int) -> None:
        self._check_sizes()
        shortest, longest = self.task.min_seq_len, self.task.max_seq_len
        length = seq_len if shortest <= seq_len <= (longest or seq_len) else shortest
        for one in sorted({shortest, length}):
            self._check_scores(one)
            batch = self._check_drawing(self.task, "sample", one, self.task.chunks)
            self._check_signals(batch)
            self._check_solve(batch)
            self._check_words(batch)
        for name in ("validation", "held_out"):
            part = self._call(name, getattr(self.task, name))
            if not isinstance(part, Task):
                raise self._wrong(f"{name} returns {kind(part)}", "it must return a task, self if there are none")
            if part is not self.task:
                self._check_drawing(part, f"{name}().sample", length, 1)
            elif self.task.chunks > 1:  # only training cuts passages
                self._draw(part, "sample", _BATCH, length, 0, 1)
        many = self._draw(self.task, "sample", max(_FEW, min(_MANY, _MOST_TIMESTEPS // length)), length, 0, 1)
        self._check_parts(many, length)
        self._check_answers(many, length)

    # Errors

    def _wrong(self, what: str, repair: str) -> ConfigError:
        return ConfigError(f"{self.where}: {what}: {repair}")

    def _call(self, name: str, make: Callable[..., Any], *given: Any) -> Any:
        """``make(*given)``, with torch's global generator as it is during training."""
        try:
            with ambient(0, "trial"):
                return make(*given)
        except Exception as error:
            raise ConfigError(f"{self.where}: {name} fails: {with_type(error)}") from error

    def _value(self, name: str) -> Any:
        return self._call(name, lambda: getattr(self.task, name))

    # What it says of itself

    def _check_sizes(self) -> None:
        if not isinstance(name := getattr(self.task, "name", None), str) or not name:
            raise self._wrong(f"its name is {kind(name)}", "write name = '...' in the class")
        for side in ("inputs", "targets"):
            signal = self._value(side)
            if not isinstance(signal, Signal):
                raise self._wrong(f"{side} is {kind(signal)}", "a signal, seqmem.signals.Tokens(n) or Reals(n)")
            if not (_is_whole(signal.size) and signal.size > 0 and isinstance(signal.metric, Metric)):
                raise self._wrong(f"{side}.size is {signal.size!r}", "how many symbols or real numbers, at least 1")
        for name, repair in (("min_seq_len", "the shortest valid length"), ("chunks", "1 where passages are not cut")):
            if not _is_whole(value := self._value(name)) or value < 1:
                raise self._wrong(f"{name} is {_shown(value)}", f"a whole number from 1, {repair}")
        longest = self._value("max_seq_len")
        if longest is not None and not (_is_whole(longest) and longest >= self.task.min_seq_len):
            raise self._wrong(f"max_seq_len is {_shown(longest)}", "a whole number from min_seq_len, or None")
        facts = self._call("facts", self.task.facts)
        if not (isinstance(facts, Mapping) and all(isinstance(word, str) for one in facts.items() for word in one)):
            raise self._wrong(f"facts returns {kind(facts)}", "a dictionary from names to text")

    def _check_scores(self, length: int) -> None:
        """What it says of scores, at one length."""
        task, metric, at = self.task, self.task.targets.metric, f"({length})"
        levels: dict[str, Callable[[], Any]] = {
            "chance": lambda: task.chance,
            f"chance_at{at}": lambda: task.chance_at(length),
            "constant": lambda: task.constant,
            f"constant_at{at}": lambda: task.constant_at(length),
        }
        for name, level in levels.items():
            if not _is_number(value := self._call(name, level)):
                raise self._wrong(f"{name} is {_shown(value)}", "a number, the best score without a memory")
            if metric.percent and not 0 < value <= 1:
                raise self._wrong(f"{name} is {value:g}", f"{metric.name} is a fraction, above 0 and at most 1")
        chance = task.chance
        solved = self._value("solved_at")
        if solved is not None and not _is_number(solved):
            raise self._wrong(f"solved_at is {_shown(solved)}", "a score, or None")
        if solved is not None and not metric.better(solved, chance):
            order = "higher" if metric.higher_is_better else "lower"
            raise self._wrong(
                f"solved_at is {solved:g}, which is not better than its chance, {chance:.3g}",
                f"a score at which it is solved ({order} is better), or None",
            )
        loss = self._call("baseline_loss", task.baseline_loss, length)
        if not _is_number(loss) or (loss < 0 and task.targets.discrete):
            raise self._wrong(f"baseline_loss{at} is {_shown(loss)}", "a number, the best loss without a memory")
        plateaus = self._call("plateaus", task.plateaus, length)
        if not (isinstance(plateaus, Sequence) and all(isinstance(one, Plateau) for one in plateaus)):
            raise self._wrong(f"plateaus returns {kind(plateaus)}", "a list of seqmem.metrics.Plateau")

    # Batches

    def _draw(self, data: Task, name: str, batch_size: int, length: int, index: int, chunks: int) -> Batch:
        timesteps = length * chunks
        try:
            batch = data.sample(batch_size, timesteps, generator(0, "trial", index))
        except Exception as error:
            sizes = f"{name}({batch_size}, {timesteps}, rng)"
            raise ConfigError(f"{self.where}: {sizes} fails: {with_type(error)}") from error
        self._check_batch(batch, name, batch_size, timesteps, chunks)
        return batch

    def _check_drawing(self, data: Task, name: str, length: int, chunks: int) -> Batch:
        """A batch is a function of its arguments alone."""
        with disturbed(0):
            batch = self._draw(data, name, _BATCH, length, 0, chunks)
        with disturbed(1) as touched:
            again = self._draw(data, name, _BATCH, length, 0, chunks)
        if field := _difference(batch, again):
            how = f", with {touched[0]}'s global generator" if touched else ""
            repair = _FROM_RNG[touched[0]] if touched else "draw all of them from rng, and keep nothing on self"
            raise self._wrong(f"{name} draws other {field} for the same rng again{how}", repair)
        if length > self.task.min_seq_len:  # of which there may be one
            others = [self._draw(data, name, _BATCH, length, index, chunks) for index in range(1, 4)]
            if not any(_difference(batch, other) for other in others):
                raise self._wrong(f"{name} draws the same batch for every rng", "draw it from rng, generator=rng")
        self._draw(data, name, 1, length, 0, chunks)
        rngs = [generator(0, "trial", index) for index in range(2)]
        together = self._call("samples", data.samples, _BATCH, length * chunks, rngs)
        if len(together) != len(rngs) or _difference(batch, together[0]):
            raise self._wrong("samples draws other batches than sample, one for each rng", "mend it, or leave it out")
        return batch

    def _check_batch(self, batch: Any, name: str, batch_size: int, timesteps: int, chunks: int) -> None:
        if not isinstance(batch, Batch):
            raise self._wrong(f"{name} returns {kind(batch)}", f"it must return {_BATCH_IS}")
        for field, value in vars(batch).items():
            what = f"{name}'s {field}"
            if not isinstance(value, Tensor):
                raise self._wrong(f"{what} is {kind(value)}", f"{_BATCH_IS} is of tensors")
            if value.device.type != "cpu":
                raise self._wrong(f"{what} is on {value.device}", "make it on the CPU; training moves it")
            if value.requires_grad:
                raise self._wrong(f"{what} has a gradient", "detach it")
        self._check_shapes(batch, name, batch_size, timesteps)
        self._check_types(batch, name)
        self._check_values(batch, name, chunks)

    def _check_shapes(self, batch: Batch, name: str, batch_size: int, timesteps: int) -> None:
        steps = len(batch.inputs) if batch.inputs.ndim else 0
        if not timesteps <= steps <= timesteps + timesteps // 10:  # hs97 pads to a tenth more
            steps = timesteps
        for field, value in vars(batch).items():
            signal = {"inputs": self.task.inputs, "targets": self.task.targets}.get(field)
            wide = signal is not None and not signal.discrete
            expected = (steps, batch_size, signal.size) if wide and signal is not None else (steps, batch_size)
            if tuple(value.shape) != expected:
                axes, repair = "[T B]", ""
                if wide:
                    axes = "[T B D]" if field == "inputs" else "[T B K]"
                if value.shape[:2] == (batch_size, steps):
                    repair = ", the time comes first"
                elif value.shape[1:] == expected[1:] and len(value):
                    repair = f", seq_len={timesteps} is what the model reads"
                raise self._wrong(f"{name}'s {field} has shape {tuple(value.shape)}", f"{expected}, {axes}{repair}")

    def _check_types(self, batch: Batch, name: str) -> None:
        for field, signal in (("inputs", self.task.inputs), ("targets", self.task.targets)):
            value = getattr(batch, field)
            symbols = (torch.int64, torch.int32)[: 2 if field == "inputs" else 1]
            if signal.discrete and value.dtype not in symbols:
                raise self._wrong(f"{name}'s {field} is {name_of(value.dtype)}", "symbols are int64, e.g. by .long()")
            if not signal.discrete and not value.is_floating_point():
                raise self._wrong(f"{name}'s {field} is {name_of(value.dtype)}", "real numbers are float32")
        if not batch.weights.is_floating_point():
            raise self._wrong(f"{name}'s weights is {name_of(batch.weights.dtype)}", "float32, e.g. asked.float()")
        if batch.asked.dtype != torch.bool:
            raise self._wrong(f"{name}'s asked is {name_of(batch.asked.dtype)}", "true or false, e.g. weights > 0")

    def _check_values(self, batch: Batch, name: str, chunks: int) -> None:
        counted = batch.counted
        counts = (batch.asked | (batch.weights != 0))[counted]
        for field, signal in (("inputs", self.task.inputs), ("targets", self.task.targets)):
            value = getattr(batch, field)
            if field == "targets":  # elsewhere they are not looked at; -100 has no loss
                value = value[counted]
                value = value[counts | (value != -100)] if signal.discrete else value[counts]
            if not signal.discrete and not value.isfinite().all():
                raise self._wrong(f"{name}'s {field} are not finite", "every number must be")
            if signal.discrete and value.numel() and not 0 <= int(value.min()) <= int(value.max()) < signal.size:
                far = int(value.max()) if int(value.max()) >= signal.size else int(value.min())
                raise self._wrong(
                    f"{name}'s {field} has the symbol {far}",
                    f"{field}.size has 0 to {signal.size - 1}",
                )
        if not batch.weights.isfinite().all() or (batch.weights < 0).any():
            raise self._wrong(f"{name}'s weights are not all finite and at least 0", "0 is no weight, 1 a usual one")
        for chunk in range(chunks):
            part = batch if chunks == 1 else batch.chunk(chunk, len(batch.asked) // chunks)
            if not part.asked.any(0).all():
                raise self._wrong(f"{name} has a sequence that asks nothing", "asked is true at one timestep at least")
            if not (part.weights.sum(0) > 0).all():
                raise self._wrong(f"{name} has a sequence without a weight", "nothing could be learned from it")

    # What it says of sequences

    def _check_signals(self, batch: Batch) -> None:
        """Signals of a user's own."""
        inputs, targets = self.task.inputs, self.task.targets
        steps = tuple(batch.asked.shape)
        embedded, width = self._call("inputs.embed", inputs.embed, 4)
        entered = self._call("inputs.embed", lambda: embedded(batch.inputs))
        if tuple(entered.shape) != (*steps, width):
            raise self._wrong(f"inputs.embed makes the shape {tuple(entered.shape)}", f"{(*steps, width)}, [T B D]")
        counted = batch.counted
        part = batch.part(counted.start, counted.stop)
        predicted = torch.zeros(*part.asked.shape, targets.size)
        for name, make in (("loss", targets.loss), ("score", targets.score)):
            value = self._call(f"targets.{name}", make, predicted, part.targets)
            if tuple(value.shape) != tuple(part.asked.shape):
                shapes = f"{tuple(value.shape)}", f"{tuple(part.asked.shape)}, [T B]"
                raise self._wrong(f"targets.{name} has shape {shapes[0]}", f"one number each, {shapes[1]}")
        decoded = self._call("targets.decode", targets.decode, predicted)
        if decoded.shape != part.targets.shape:
            raise self._wrong(
                f"targets.decode makes the shape {tuple(decoded.shape)}",
                f"that of targets, {tuple(part.targets.shape)}",
            )

    def _check_solve(self, batch: Batch) -> Tensor:
        inputs = batch.inputs.clone()
        answers = self._call("solve", self.task.solve, inputs)
        if not torch.equal(inputs, batch.inputs):
            raise self._wrong("solve changes the inputs that it is given", "make new tensors")
        if not isinstance(answers, Tensor):
            raise self._wrong(f"solve returns {kind(answers)}", "the right answer at every timestep, as in targets")
        if answers.shape != batch.targets.shape:
            shapes = tuple(answers.shape), tuple(batch.targets.shape)
            raise self._wrong(f"solve returns the shape {shapes[0]}", f"an answer at every timestep, {shapes[1]}")
        if answers.is_floating_point() != batch.targets.is_floating_point():
            kinds = name_of(answers.dtype), name_of(batch.targets.dtype)
            raise self._wrong(f"solve returns {kinds[0]}", f"as in targets, {kinds[1]}")
        return answers

    def _check_answers(self, many: Batch, length: int) -> None:
        """Some data are ambiguous; an answer that is no better than one without a memory is a mistake."""
        answers, wanted = (values[many.asked].double() for values in (self._check_solve(many), many.targets))
        metric, chance = self.task.targets.metric, self.task.chance_at(length)
        if metric.percent:
            score = float((answers == wanted).double().mean())
            wrong = score < _SURE and not metric.beats(score, chance, many.asked.shape[1])
        else:
            score = float((answers - wanted).square().mean())
            wrong = metric is SQUARED_ERROR and not metric.beats(score, chance, many.asked.shape[1])
        if wrong:
            raise self._wrong(
                f"the answers of solve score {metric.text(score)}, and chance is {metric.text(chance)}",
                "they are those of a perfect memory: mend solve, targets or chance",
            )

    def _check_words(self, batch: Batch) -> None:
        words = self._call("words", self.task.words, batch.inputs[:, 0])
        if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
            raise self._wrong(f"words returns {kind(words)}", "a list of words, one for each timestep")
        if len(words) != len(batch.inputs):
            raise self._wrong(f"words returns {len(words)} words for {len(batch.inputs)} timesteps", "one each")
        answer = self._call("answer", self.task.answer, batch.targets[int(batch.answered_at[0]), 0])
        if not isinstance(answer, str):
            raise self._wrong(f"answer returns {kind(answer)}", "a target in words, as text")

    def _check_parts(self, many: Batch, length: int) -> None:
        """What a small space is split into: otherwise drawing a part would never end."""
        space = self._call("space", self.task.space, length)
        if not isinstance(space, Space):
            raise self._wrong(f"space returns {kind(space)}", "seqmem.spaces.Space(size, folds)")
        if not space.split:
            return
        folds = self._call("fold", self.task.fold, many.inputs)
        if not isinstance(folds, Tensor) or folds.dtype != torch.int64 or folds.shape != many.inputs.shape[1:2]:
            raise self._wrong(f"fold returns {kind(folds)}", "the fold of each sequence, int64 [B]")
        present = set(folds.tolist())
        if not present <= set(range(space.folds)):
            outside = min(present - set(range(space.folds)))
            raise self._wrong(f"fold puts a sequence into fold {outside}", f"space has {space.folds}, from 0")
        if not {0, space.validation} < present:
            raise self._wrong(
                f"fold puts {len(folds)} sequences into {len(present)} of {space.folds} folds", "all of about one size"
            )


_SURE = 0.99

_FROM_RNG = {
    "torch": "draw from rng, generator=rng",
    "numpy": "seed one from rng, np.random.default_rng(int(torch.randint(2**62, (), generator=rng)))",
    "Python": "seed one from rng, random.Random(int(torch.randint(2**62, (), generator=rng)))",
}


def _difference(one: Batch, two: Batch) -> str | None:
    """The first field that differs; None: none does."""
    names = [field.name for field in fields(Batch)]
    return next((name for name in names if not torch.equal(getattr(one, name), getattr(two, name))), None)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else kind(value)
