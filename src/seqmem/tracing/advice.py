"""What a user can do about a gradient that falls or grows: one sentence. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from ..decay import Decay
from ..measurement import share_in_words
from .parts import Part

MANY = 0.5
"""The share of timesteps at which fresh gradient enters, from which no decay can be seen."""

_GROWN = 3.0
"""log10 from which a gradient has grown too far."""


@dataclass(frozen=True)
class Advice:
    """``seqmem.nn.remember_`` of some modules.

    Args:
        paths: parts whose gradient falls below a thousandth on its way.
        modules: theirs, by path in the model.
        steps: how many timesteps are to be remembered.
        start: what it does, in words.
    """

    paths: tuple[str, ...]
    modules: tuple[str, ...]
    steps: int
    start: str

    @property
    def call(self) -> str:
        """As it is written, for a model called ``model``."""
        targets = [_in_python(path) for path in self.modules]
        call = "seqmem.nn.remember_({}, {})"
        if len(targets) == 1:
            return call.format(targets[0], self.steps)
        return f"for layer in ({', '.join(targets)}): {call.format('layer', self.steps)}"


def _in_python(path: str) -> str:
    """``model.encoder.lstm``, ``model.layers[0]``"""
    return "model" + "".join(f"[{name}]" if name.isdigit() else f".{name}" for name in path.split(".") if name)


def advised(parts: Mapping[str, Part], decays: Mapping[str, Decay]) -> Advice | None:
    """None: no gradient vanishes that another initialisation could keep.

    Args:
        decays: path -> of all states together.
    """
    falling = [path for path, part in parts.items() if part.start and part.entered <= MANY and vanishes(decays[path])]
    if not falling:
        return None
    modules = dict.fromkeys(parts[path].module for path in falling)
    starts = dict.fromkeys(parts[path].start for path in falling)
    steps = max(int(parts[path].trace.answered_at.max()) + 1 for path in falling)
    return Advice(tuple(falling), tuple(modules), steps, " and ".join(starts))


def sentence(parts: Mapping[str, Part], decays: Mapping[str, Decay], tried: Mapping[str, Decay]) -> str:
    """Empty: there is nothing to say.

    Args:
        tried: path -> what ``decays`` became on a copy that followed the advice; empty: that was not measured.
    """
    advice = advised(parts, decays)
    if advice is None:
        if not any(explodes(decay) for decay in decays.values()):
            return ""
        return "clip gradients that grow: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) before each update"
    text = f"{advice.call} before training ({advice.start})"
    measured = [path for path in advice.paths if path in tried]
    if not measured:
        return f"try {text}"
    path = min(measured, key=lambda path: tried[path].log10_arrives)  # the one that it helps least
    now, then = decays[path], tried[path]
    helps = then.log10_arrives > now.log10_arrives or then.horizon > now.horizon
    change = (
        f"{share_in_words(then.log10_arrives)} of {path}'s gradient arrives at the first timestep instead of "
        f"{share_in_words(now.log10_arrives)} ({then.in_words()})"
    )
    if not helps:
        return f"{text} would not help: on a copy, {change}"
    rest = f"; still below a thousandth {then.horizon:.0f} back" if vanishes(then) else ""
    return f"try {text}: on a copy of this model, {change}{rest}"


def vanishes(decay: Decay) -> bool:
    """Less than a thousandth is left somewhere within the sequence."""
    return isfinite(decay.horizon)


def explodes(decay: Decay) -> bool:
    return decay.log10_most > _GROWN
