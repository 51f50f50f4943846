"""Evaluation on held-out sequences."""

from dataclasses import replace
from math import log

import pytest

from seqmem.evaluate import evaluate, length_grid
from seqmem.models.base import loss_per_sequence
from seqmem.randomness import generator
from seqmem.tasks import Pronoun
from small_models import fresh


def test_evaluation_is_the_mean_over_held_out_sequences_and_repeats_itself():
    model, task, _ = fresh(Pronoun())
    first, again = (evaluate(model, task, 15, seed=3, sequences=200) for _ in range(2))
    assert first == again
    batch = task.sample(200, 15, generator(3, "eval", 15))
    predicted, _ = model(batch.inputs)
    assert first.loss == pytest.approx(loss_per_sequence(task, predicted, batch).mean().item(), rel=1e-5)
    assert first.score == pytest.approx((predicted[-1].argmax(-1) == batch.targets[-1]).float().mean().item(), abs=1e-6)
    assert evaluate(model, task, 15, seed=4, sequences=200) != first


def test_an_untrained_model_is_near_chance_and_a_constant_one_at_it():
    task = Pronoun()
    model, _, _ = fresh(task)
    assert evaluate(model, task, 20, seed=0, sequences=2000).score < task.chance + 0.05
    assert task.baseline_loss(20) == pytest.approx(log(4))


def test_many_timesteps_are_predicted_in_slices_of_sequences_and_each_sequence_once(monkeypatch: pytest.MonkeyPatch):
    model, task, _ = fresh(Pronoun())
    whole = evaluate(model, task, 40, seed=3, sequences=101)
    monkeypatch.setattr("seqmem.evaluate._MOST_TIMESTEPS", 40 * 30)
    sizes, predict = [], model.predict
    monkeypatch.setattr(
        model, "predict", lambda batch, at: sizes.append(batch.weights.shape[1]) or predict(batch, at=at)
    )
    sliced = evaluate(model, task, 40, seed=3, sequences=101)
    assert sum(sizes) == 101
    assert max(sizes) <= 30
    assert replace(sliced, loss=whole.loss) == whole
    assert sliced.loss == pytest.approx(whole.loss, rel=1e-6)


def test_evaluation_leaves_the_model_in_its_mode():
    model, task, _ = fresh(Pronoun())
    for mode in (True, False):
        model.train(mode)
        evaluate(model, task, 8, seed=0, sequences=5)
        assert model.training is mode


@pytest.mark.parametrize(
    ("seq_len", "grid"), [(50, [7, 12, 25, 50, 100, 200]), (10, [7, 10, 20, 40]), (7, [7, 14, 28])]
)
def test_the_grid_goes_from_the_shortest_to_four_times_the_length(seq_len: int, grid: list[int]):
    assert length_grid(Pronoun(), seq_len) == grid
