"""Eight models as people write them, each with a batch and each sequence's loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seqmem.randomness import generator

B, T, WORDS = 3, 6, 7
LENGTHS = torch.tensor([4, 6, 5])


class Written(NamedTuple):
    """``loss_fn``: as ``seqmem.trace`` takes it; ``losses``: the losses that it propagates, [B], from (model, batch).
    ``looks_at``: (path, state, timestep, sequence), to be compared with finite differences."""

    make: Callable[[], nn.Module]
    batch: Callable[[], Any]
    loss_fn: Callable[[Any, Any], Any]
    losses: Callable[[Any, Any], Tensor]
    looks_at: list[tuple[str, str, int, int]]
    paths: list[str]


def words(*shape: int, stream: str = "words") -> Tensor:
    return torch.randint(WORDS, shape, generator=generator(0, stream))


class Seq2Seq(nn.Module):
    """A packed source; the decoder starts from where each sentence ends, and is fed the target."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 4)
        self.encoder = nn.GRU(4, 3)
        self.decoder = nn.GRUCell(4, 3)
        self.out = nn.Linear(3, WORDS)

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(source), lengths, enforce_sorted=False)
        _, state = self.encoder(packed)
        state, scores = state[0], []
        for word in target:
            state = self.decoder(self.embed(word), state)
            scores.append(self.out(state))
        return torch.stack(scores)


def translated(model: Seq2Seq, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    source, lengths, target = batch
    scores = model(source, lengths, target[:-1])
    return F.cross_entropy(scores.permute(1, 2, 0), target[1:].T, reduction="none")


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 4)
        self.bilstm = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
        self.tag = nn.Linear(6, 2)

    def forward(self, sentence: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(sentence), lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = pad_packed_sequence(self.bilstm(packed)[0], batch_first=True)
        return self.tag(outputs)


class LanguageModel(nn.Module):
    """Stacked, with dropout, and with the embedding's weights in its readout."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(WORDS, 4)
        self.rnn = nn.LSTM(4, 4, 2, dropout=0.3)
        self.decoder = nn.Linear(4, WORDS)
        self.decoder.weight = self.encoder.weight

    def forward(self, text: Tensor) -> Tensor:
        outputs, _ = self.rnn(F.dropout(self.encoder(text), 0.3, self.training))
        return self.decoder(outputs)


class LitClassifier(nn.Module):
    """As a LightningModule is written, with what its loop would call."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 4, batch_first=True)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)
        self.logged: dict[str, float] = {}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.gru(x)[0][:, -1]))

    def log(self, name: str, value: Tensor) -> None:
        self.logged[name] = value.item()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        loss = F.cross_entropy(self(batch["x"]), batch["y"])
        self.log("train_loss", loss)
        return {"loss": loss}


class Loop(nn.Module):
    """The cell in a loop, with a state of zeros in the default dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(2, 3)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, c = torch.zeros(x.shape[0], 3), torch.zeros(x.shape[0], 3)
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
            h = self.drop(h)
        return self.out(h)[:, 0]


class CRNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3, padding=1)
        self.rnn = nn.RNN(3, 3, bidirectional=True)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = F.relu(self.conv(x), inplace=True).permute(2, 0, 1)
        return self.out(self.rnn(features)[0]).log_softmax(-1)


def ctc(model: CRNN, batch: Tensor) -> Tensor:
    frames, labels = model(batch), torch.tensor([[1, 2], [3, 1], [2, 2]])
    return F.ctc_loss(frames, labels, torch.full((B,), T), torch.full((B,), 2), reduction="none")


class Attending(nn.Module):
    """Attention, as it is written by hand, over an lstm's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True)
        self.score = nn.Linear(3, 1)
        self.out = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.lstm(x)
        weights = self.score(outputs.tanh()).softmax(1)
        return self.out((weights * outputs).sum(1))[:, 0]


class Encoder(nn.Module):
    """A Transformer encoder with a table of positions that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.linspace(-1, 1, T * 4).reshape(T, 4)
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 2, enable_nested_tensor=False
        )
        self.out = nn.Linear(4, 1)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.out(self.layers(x + self.table, src_key_padding_mask=padding))[:, 0, 0]


def reals(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "reals"))


def squared(model: Any, batch: Tensor) -> Tensor:
    return (model(batch) - 0.3).square()


PADDING = torch.arange(T)[None] >= LENGTHS[:, None]

MODELS: dict[str, Written] = {
    "seq2seq, packed": Written(
        Seq2Seq,
        lambda: (words(T, B), LENGTHS, words(5, B, stream="target")),
        translated,
        lambda model, batch: translated(model, batch)[:, -1],
        [("encoder", "hidden", 1, 0), ("encoder", "input", 3, 1), ("decoder", "hidden", 2, 2)],
        ["encoder", "decoder"],
    ),
    "bidirectional tagger": Written(
        Tagger,
        lambda: (words(B, T), LENGTHS, words(B, T, stream="tags") % 2),
        lambda model, batch: F.cross_entropy(model(*batch[:2]).transpose(1, 2), batch[2], reduction="none") * ~PADDING,
        lambda model, batch: F.cross_entropy(
            model(*batch[:2]).transpose(1, 2), batch[2], reduction="none"
        ).gather(1, LENGTHS[:, None] - 1)[:, 0],
        [("bilstm.l0", "cell", 2, 0), ("bilstm.l0_reverse", "cell", 3, 0), ("bilstm.l0_reverse", "hidden", 5, 1)],
        ["bilstm.l0", "bilstm.l0_reverse"],
    ),
    "language model, tied": Written(
        LanguageModel,
        lambda: words(T, B),
        lambda model, batch: F.cross_entropy(
            model(batch[:-1]).flatten(0, 1), batch[1:].flatten(), reduction="none"
        ).view(T - 1, B),
        lambda model, batch: F.cross_entropy(model(batch[:-1])[-1], batch[-1], reduction="none"),
        [("rnn.l0", "cell", 1, 0), ("rnn.l1", "hidden", 2, 1), ("rnn.l0", "input", 0, 2)],
        ["rnn.l0", "rnn.l1"],
    ),
    "gru in a Lightning loop": Written(
        LitClassifier,
        lambda: {"x": reals(B, T, 2), "y": torch.tensor([0, 1, 1])},
        lambda model, batch: model.training_step(batch, 0),
        lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"], reduction="none"),
        [("gru", "hidden", 1, 0), ("gru", "hidden", T - 1, 2)],
        ["gru"],
    ),
    "lstm cell in a loop": Written(
        Loop,
        lambda: reals(B, T, 2),
        lambda model, batch: squared(model, batch).mean(),
        squared,
        [("cell", "cell", 1, 0), ("cell", "hidden", 3, 1), ("cell", "input", 2, 2), ("cell", "cell", T - 1, 1)],
        ["cell"],
    ),
    "crnn": Written(
        CRNN,
        lambda: reals(B, 2, T),
        ctc,
        ctc,
        [("rnn.l0", "hidden", 1, 0), ("rnn.l0_reverse", "hidden", 2, 1)],
        ["rnn.l0", "rnn.l0_reverse"],
    ),
    "attention on an lstm": Written(
        Attending,
        lambda: reals(B, T, 2),
        squared,
        squared,
        [("lstm", "cell", 1, 0), ("lstm", "hidden", 4, 1)],
        ["lstm"],
    ),
    "transformer encoder": Written(
        Encoder,
        lambda: (reals(B, T, 4), PADDING),
        lambda model, batch: (model(*batch) - 0.3).square().sum(),
        lambda model, batch: (model(*batch) - 0.3).square(),
        [("layers.layers.0.self_attn", "key", 1, 0), ("layers.layers.0.self_attn", "value", 3, 1),
         ("layers.layers.1.self_attn", "output", 0, 2), ("layers.layers.1.self_attn", "value", 2, 0)],
        ["layers.layers.0", "layers.layers.0.self_attn", "layers.layers.1", "layers.layers.1.self_attn"],
    ),
}  # fmt: skip
