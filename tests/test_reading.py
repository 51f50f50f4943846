"""Laws of a reading: it equals the fused forward pass, closed forms and the trace; typed texts."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seqmem.cells import GRU, LSTM, RNN, Cell, Stack, State
from seqmem.decoding import self_fed
from seqmem.models.recurrent import SequenceModel
from seqmem.probes.gradient import gradient_trace
from seqmem.randomness import generator
from seqmem.reading import beliefs, read, sentence, typed
from seqmem.signals import Tokens
from seqmem.tasks import TASKS, Adding, Copy, Digits, Pronoun, Subject, Task, TemporalOrder, Text

torch.set_num_threads(1)

CELLS: dict[str, Callable[[int], Cell]] = {
    "rnn": lambda width: RNN(width, 5),
    "lstm": lambda width: LSTM(width, 5, seq_len=20),
    "gru": lambda width: GRU(width, 5, seq_len=20),
    "gru cho": lambda width: GRU(width, 5, seq_len=20, form="cho"),
    "stack": lambda width: Stack([LSTM(width, 5, seq_len=20), GRU(5, 5, seq_len=20)]),
}


def model_for(task: Task, cell: str = "lstm") -> SequenceModel:
    torch.manual_seed(0)
    return SequenceModel.for_task(task, CELLS[cell], embed_size=4)


@pytest.mark.parametrize("task", [kind() for kind in TASKS.values()], ids=str)
@pytest.mark.parametrize("cell", list(CELLS))
def test_a_reading_equals_forward_and_the_trace(task: Task, cell: str) -> None:
    if task.name != "pronoun" and cell != "lstm":
        return
    model, batch = model_for(task, cell), sentence(task, task.min_seq_len + 5, number=3)
    reading = read(model, task, batch)
    batch = self_fed(model, task, batch)  # where answers are fed back
    predicted, final = model(batch.inputs)
    if reading.asked_with is not None:  # the answer to the first t words followed by the question
        assert reading.asked_with == task.words(batch.inputs[-1])[0]
        cut = [torch.cat([batch.inputs[:t], batch.inputs[-1:]]) for t in range(1, len(reading))]
        predicted = torch.stack([model(inputs)[0][-1] for inputs in cut] + [predicted[-1]])
    assert (reading.asked_with is not None) == (task.name in ("pronoun", "subject"))
    expected = predicted[:, 0].softmax(-1) if isinstance(task.targets, Tokens) else predicted[:, 0]
    np.testing.assert_allclose(reading.outputs, expected.detach().numpy(), atol=1e-6, rtol=1e-5)
    for name, value in final.items():
        np.testing.assert_allclose(reading.states[name][-1:], value.detach().numpy(), atol=1e-6, rtol=1e-5)
    assert reading.words == tuple(task.words(batch.inputs[:, 0]))
    assert reading.target_text(reading.answered_at) == task.answer(
        task.held_out().solve(batch.inputs)[reading.answered_at, 0]
    )
    traced = gradient_trace(model, task, batch)
    for name, norms in traced.items():
        np.testing.assert_allclose(reading.gradient[name], norms[:, 0].numpy(), rtol=1e-12)
    together = np.sqrt(sum(traced[name][:, 0].numpy() ** 2 for name in final))
    np.testing.assert_allclose(reading.gradient["state"], together, rtol=1e-9)


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru cho"])
def test_gates_equal_the_published_equations(cell: str) -> None:
    """In numpy, from torch's layout of the weights; and an LSTM's forget gate is dc_t / dc_{t-1} at a given h."""
    part = CELLS[cell](3)
    x, rng = torch.randn(2, 3, generator=generator(0, "x")), generator(1, "h")
    before = {name: torch.randn(2, 5, generator=rng) for name in part.initial_state(2)}
    gates = {name: gate.detach().numpy() for name, gate in part.gates(x, before).items()}
    layer = next(inner for inner in part.modules() if isinstance(inner, nn.RNNBase))
    weights = {name: value.detach().double().numpy() for name, value in layer.named_parameters()}
    total = x.double().numpy() @ weights["weight_ih_l0"].T + weights["bias_ih_l0"] + weights["bias_hh_l0"]
    total += before["hidden"].double().numpy() @ weights["weight_hh_l0"].T
    blocks = np.split(1 / (1 + np.exp(-total)), 4 if cell == "lstm" else 3, axis=1)
    order = {"input": 0, "forget": 1, "output": 3} if cell == "lstm" else {"reset": 0, "update": 1}
    assert gates.keys() == order.keys()
    for name, place in order.items():
        np.testing.assert_allclose(gates[name], blocks[place], atol=1e-6)
    if cell == "lstm":
        old = before["cell"].requires_grad_()
        _, after = part.step(x, {**before, "cell": old})
        (slope,) = torch.autograd.grad(after["cell"].sum(), old)
        np.testing.assert_allclose(gates[part.keeps[0]], slope.numpy(), atol=1e-6)


def test_the_gate_that_keeps_keeps() -> None:
    """A GRU with its update gate pinned open, and an LSTM with forget open and input shut, lose nothing."""
    for kind, bias in ((GRU, "update"), (LSTM, "forget")):
        cell = kind(3, 5, forget_bias=30.0)
        if isinstance(cell, LSTM):
            with torch.no_grad():
                cell.bias[:5] = -30.0
        state = {name: torch.randn(2, 5, generator=generator(2, name)) for name in cell.initial_state(2)}
        x = torch.randn(2, 3, generator=generator(3, "x"))
        assert cell.keeps == (bias,)
        torch.testing.assert_close(cell.gates(x, state)[bias], torch.ones(2, 5))
        memory = "cell" if "cell" in state else "hidden"
        torch.testing.assert_close(cell.step(x, state)[1][memory], state[memory])


def test_a_stack_names_its_layers_gates() -> None:
    model = model_for(Pronoun(), "stack")
    reading = read(model, Pronoun(), sentence(Pronoun(), 12), gradient=False)
    assert list(reading.gates) == ["0/forget", "0/input", "0/output", "1/update", "1/reset"]
    assert reading.keeps == ("0/forget", "1/update")
    stack = model.cell
    assert isinstance(stack, Stack)
    xs = model.embed(sentence(Pronoun(), 12).inputs)
    below, _ = stack.cells[0](xs)
    hidden = stack.cells[1](below[:-1])[1]
    alone = stack.cells[1].gates(below[-1], hidden)
    np.testing.assert_allclose(reading.gates["1/reset"][-1:], alone["reset"].detach().numpy(), atol=1e-6)
    assert reading.gradient == {}


class _Slow(Cell):
    """Equations of its own, and a state of two axes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.input_size = self.output_size = size
        self.rate = nn.Parameter(torch.tensor(0.3))

    def initial_state(self, batch_size: int) -> State:
        return {"trail": self.rate.new_zeros(batch_size, 2, self.output_size)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        trail = state["trail"] * self.rate + x[:, None]
        return trail.sum(1), {"trail": trail}


def test_a_custom_cell() -> None:
    task = Subject()
    model = SequenceModel.for_task(task, _Slow, embed_size=4)
    reading = read(model, task, sentence(task, 9))
    assert (reading.gates, reading.keeps, model.cell.equations) == ({}, (), None)
    assert reading.states["trail"].shape == (9, 8)
    np.testing.assert_allclose(reading.gradient["trail"][0] / reading.gradient["trail"][-1], 0.3**8, rtol=1e-5)


def test_equations_of_cells_and_of_a_subclass() -> None:
    class Mine(LSTM):
        def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
            hidden, after = super().step(x, state)
            return hidden * 2, after

    assert [CELLS[name](3).equations for name in ("rnn", "lstm", "gru", "gru cho", "stack")] == [
        "rnn tanh", "lstm", "gru torch", "gru cho", None,
    ]  # fmt: skip
    assert Mine(3, 5, seq_len=9).equations is None


def test_changes_of_mind() -> None:
    """A memory that halves with every word answers the subject that was named last."""
    task = Subject()
    model = SequenceModel.for_task(task, _Slow, embed_size=0)
    weights = {"cell.rate": torch.tensor(0.5), "readout.bias": torch.zeros(6), "readout.weight": torch.eye(13)[:6]}
    with torch.no_grad():
        for name, value in weights.items():
            model.get_parameter(name).copy_(value)
    batch, why = typed(task, "Carol Bob walked to Alice WHO?")
    reading = read(model, task, batch, known=why is None)
    assert [reading.answer_text(t) for t in range(6)] == ["Carol", "Bob", "Bob", "Bob", "Alice", "Alice"]
    assert (reading.changes, reading.changed_at, reading.answered_at, reading.asked_with) == ((1, 4), 4, 5, "WHO?")
    assert why == "it may mean Alice or Bob or Carol"
    assert (reading.right, reading.is_right, reading.target_text(5), reading.confidence) == (None, None, None, None)
    batch, why = typed(task, "Alice walked WHO?")
    reading = read(model, task, batch, known=why is None)
    assert (reading.changed_at, reading.is_right) == (None, True)
    assert (reading.answer_text(2), reading.target_text(2)) == ("Alice", "Alice")
    assert reading.confidence is not None
    logits = np.array([1, 0.5, 0.5])  # two trails; the question halves them once more
    np.testing.assert_allclose(reading.confidence, np.exp(logits) / (np.exp(logits) + 5), rtol=1e-6)
    batch, why = typed(task, "Alice walked to Bob")
    reading = read(model, task, batch, known=why is None)
    assert reading.asked_with is None
    np.testing.assert_allclose(np.log(reading.outputs[:, 0] / reading.outputs[:, 2]), [2, 1, 0.5, 0.25], rtol=1e-5)


def test_beliefs_of_many_sequences() -> None:
    task, model = Pronoun(), model_for(Pronoun(), "stack")
    batches = [sentence(task, 15, number=number) for number in range(5)]
    together = beliefs(model, task, torch.cat([batch.inputs for batch in batches], 1)).softmax(-1)
    for number, batch in enumerate(batches):
        alone = read(model, task, batch, gradient=False)
        np.testing.assert_allclose(together[:, number].numpy(), alone.outputs, atol=1e-6)


def test_a_sentence_is_a_function_of_its_arguments() -> None:
    task = Pronoun()
    torch.manual_seed(5)
    one = sentence(task, 30, seed=2, number=7).inputs
    torch.manual_seed(6)
    assert torch.equal(one, sentence(task, 30, seed=2, number=7).inputs)
    others = [sentence(task, 30, seed=seed, number=number).inputs for seed, number in ((2, 8), (3, 7))]
    assert not any(torch.equal(one, other) for other in others)
    with pytest.raises(ValueError, match="seq_len=3 is too short for task=pronoun: at least 7"):
        sentence(task, 3)


def test_reading_leaves_the_model_alone() -> None:
    task = Pronoun()
    model = model_for(task).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [parameter.requires_grad for parameter in model.parameters()]
    drawn = torch.get_rng_state()
    read(model, task, sentence(task, 12))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(drawn, torch.get_rng_state())


# Texts


@pytest.mark.parametrize(
    "task",
    [Pronoun(), Pronoun(mentions=1), Subject(), Copy(), TemporalOrder(), Text(), Adding(), Adding("hs97")],
    ids=str,
)
def test_parse_inverts_words(task: Task) -> None:
    """A written sentence, parsed, is the same sentence with the same right answer."""
    joint = "" if task.name == "text" else " "
    for number in range(20):
        batch = sentence(task, max(task.min_seq_len, 12), number=number)
        end = int(batch.answered_at) + 1
        inputs = batch.inputs[:end, 0]
        again, why = typed(task, joint.join(task.words(inputs)).replace("\\n", "\n"))
        assert why is None
        close = 0.006 if inputs.is_floating_point() else 0  # written with two decimals
        torch.testing.assert_close(again.inputs[:, 0].to(inputs.dtype), inputs, atol=close, rtol=0)
        known = again.asked[:, 0]
        assert torch.equal(known, batch.asked[:end, 0]) or task.name == "text"
        torch.testing.assert_close(again.targets[known, 0], batch.targets[:end][known, 0], atol=2.1 * close, rtol=0)


@pytest.mark.parametrize(
    "task", [Pronoun(), Pronoun(people=4, filler_words=2), Pronoun(mentions=1), Subject()], ids=str
)
def test_naming_finds_the_answers_of_solve(task: Task) -> None:
    """Phrases and questions alone determine the answer."""
    naming = task.naming()
    assert naming is not None
    batch = task.sample(200, 25, generator(0, "naming"))
    candidates = [naming.candidates(tokens) for tokens in batch.inputs.T.tolist()]
    assert candidates == [[answer] for answer in batch.targets[-1].tolist()]


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        (Pronoun(), "", "the text is empty"),
        (Pronoun(), "my teacher said that", r"has no word 'teacher'"),
        (Pronoun(), "my brothr said that", r"has no word 'brothr' \(near: brother"),
        (Pronoun(), "my grandson said that", "has no word 'grandson'"),  # only where 12 people or more are drawn
        (Copy(), "a b z", "has no word 'z'"),
        (Adding(), "0.4 0.x", "'0.x' is no number of task=adding"),
        (Adding(), " ", "the text is empty"),
        (Digits(), "@", "the inputs of task=digits cannot be typed"),
        (Text(), "naïve", "has no word 'ï'"),
    ],
    ids=str,
)
def test_texts_that_cannot_be_read(task: Task, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        typed(task, text)


@pytest.mark.parametrize(
    ("task", "text", "reason"),
    [
        (Pronoun(), "my brother told his aunt that the old house slept", "it does not end with a question: he or she"),
        (
            Pronoun(),
            "the house slept and the old dog slept he",
            "word 1 is 'the': there task=pronoun has her, his, my, our or your",
        ),
        (
            Pronoun(),
            "my mother told his aunt that the dog slept and she",
            "word 2 is 'mother': there task=pronoun has brother or sister",
        ),
        (
            Pronoun(),
            "my sister near the door told our father that he",
            "word 7 is 'our': of 10 words it is number 4 at the latest",
        ),
        (
            Subject(),
            "walked Bob WHO?",
            "word 1 is 'walked': there task=subject has Alice, Bob, Carol, David, Emma or Frank",
        ),
        (TemporalOrder(), "c f d B e e d c f c c A f d", "letter 4 is B: among 14 letters there is an A or B at 3"),
        (Pronoun(), "My brother told our father that, he", "it may mean my brother or our father"),
        (Pronoun(), "my brother told", "it is 3 long, task=pronoun needs 7 timesteps"),
        (Copy(length=2), "ab..ab!", "the cue ! does not stand 2 timesteps before the end"),
        (Copy(length=2), "a...!..", "its first 2 timesteps are not all symbols"),
        (TemporalOrder(), "cdAcdcdcdc", "it has 1 letters A or B, task=temporal_order asks for 2"),
        (Adding(), "0.1* 0.2 0.3 0.4", "1 of its numbers are marked with \\*, task=adding needs two"),
    ],
    ids=str,
)
def test_texts_without_a_right_answer(task: Task, text: str, reason: str) -> None:
    batch, why = typed(task, text)
    assert why is not None
    assert why.replace("*", "\\*") == reason
    reading = read(model_for(task), task, batch, known=False)
    assert reading.right is None
    assert np.isfinite(reading.gradient["state"]).all()
    assert len(reading.words) == len(reading.outputs) == len(batch.inputs)
