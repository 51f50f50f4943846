"""Early stopping: the weights of the best evaluation, and how long ago it was (Prechelt 1998)."""

from dataclasses import dataclass, field

import torch

from ..metrics import Metric
from ..models.base import Model


@dataclass
class Best:
    """It is part of a checkpoint, so that a resumed run stops where it would have.

    Args:
        score: of the best evaluation so far; None: there was none.
        step: of that evaluation.
        since: evaluations since then.
        weights: the model's state dict at that step.
    """

    score: float | None = None
    step: int = 0
    since: int = 0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, step: int, score: float, metric: Metric, model: Model) -> None:
        """Take an evaluation: better ones keep their weights, of equal ones the first."""
        score = metric.ranked(score)
        if self.score is not None and not metric.better(score, self.score):
            self.since += 1
            return
        self.score, self.step, self.since = score, step, 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def restore(self, model: Model) -> None:
        """Give the model the weights of the best evaluation."""
        model.load_state_dict(self.weights)
