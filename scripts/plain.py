"""A plain torch training script for seqmem's task pronoun, the baseline for the speed of seqmem's training.

    python scripts/plain.py --cell lstm --seq-len 50 --steps 1000 --threads 1

It needs only torch and is reasonably fast: batches without a Python loop over sentences, torch's recurrent layer, a
readout only at the answered word, a fused optimizer, and no sync points for numbers that are not printed. Unlike seqmem
it does not measure gradients, save checkpoints or write a log.

    my brother near the lamp told his aunt that tonight the garden seemed old so ... while he      -> my brother

Axes: T words, B sentences, K people.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HE = "my brother|her uncle|our father|your nephew".split("|")
SHE = "my sister|his aunt|our mother|your niece".split("|")
PEOPLE = HE + SHE
OPEN = {
    "NOUN": "house garden river dog cat train bridge city window letter market island",
    "NOUN2": "table door lamp clock road field tower kitchen station boat forest hill",
    "ADJ": "old small quiet red broken heavy bright empty narrow strange cold green",
    "IS": "was seemed looked became felt stayed",
    "DID": "slept waited moved stopped sang burned shook vanished fell returned",
    "NEAR": "near behind beside under above beyond",
    "THE": "the our every another",
    "THEN": "and but so because while until although when",
    "TOLD": "told warned reminded promised assured convinced",
    "TIME": "yesterday again today tonight once sometimes",
    "LAST": "last this one every",
    "WEEK": "week summer morning night evening winter",
}
# Phrases of one word, two words, and so on, which fill any gap.
PHRASES = [
    "TIME",
    "LAST WEEK",
    "NEAR the NOUN2",
    "NEAR THE ADJ NOUN2",
    "NEAR the NOUN2 LAST WEEK",
    "NEAR the ADJ NOUN2 LAST WEEK",
    "TIME NEAR the ADJ NOUN2 LAST WEEK",
]
CLAUSES = [
    "the NOUN DID THEN",
    "the NOUN IS ADJ THEN",
    "THE ADJ NOUN DID THEN",
    "the NOUN DID TIME THEN",
    "the ADJ NOUN IS ADJ THEN",
    "THE NOUN DID LAST WEEK THEN",
    "the NOUN NEAR the NOUN2 DID THEN",
    "the NOUN NEAR THE NOUN2 IS ADJ THEN",
]
NOTHING = ""
TEMPLATES = [*PEOPLE, *PHRASES, *CLAUSES, "TOLD", "that", "he", "she", NOTHING]


class Sentences:
    """A sentence is a list of templates, a template a list of slots, and a slot a set of words to draw from."""

    def __init__(self) -> None:
        slots = {slot: OPEN.get(slot, slot).split() for template in TEMPLATES for slot in template.split()}
        self.vocabulary = sorted({word for words in slots.values() for word in words})
        place = {word: i for i, word in enumerate(self.vocabulary)}
        number = {slot: i for i, slot in enumerate(slots)}

        def padded(rows: list[list[int]]) -> Tensor:
            longest = max(map(len, rows))
            return torch.tensor([row + [-1] * (longest - len(row)) for row in rows])

        self.choices = padded([[place[word] for word in words] for words in slots.values()])
        self.sizes = torch.tensor([len(words) for words in slots.values()])
        self.templates = padded([[number[slot] for slot in template.split()] for template in TEMPLATES])
        self.lengths = (self.templates >= 0).sum(1)
        self.at = {template: i for i, template in enumerate(TEMPLATES)}

    def sample(self, sentences: int, seq_len: int) -> tuple[Tensor, Tensor]:
        """(words [T B], the person asked for [B])"""
        at = self.at
        phrase, clause, nothing = at[PHRASES[0]], at[CLAUSES[0]], at[NOTHING]

        def draw(below: int) -> Tensor:
            return torch.randint(below, (sentences,))

        she_first = draw(2)
        first, second = draw(4) + 4 * she_first, draw(4) + 4 * (1 - she_first)
        answer = torch.where(draw(2) == 0, first, second)
        gap = draw(max(3, seq_len // 3) - 2)  # words between the two people

        longest = len(PHRASES)
        whole, rest = (gap // longest)[:, None], (gap % longest)[:, None]
        places = torch.arange(int(gap.max()) // longest + 1)
        last = torch.where((places == whole) & (rest > 0), phrase + rest - 1, nothing)
        between = torch.where(places < whole, phrase + longest - 1, last)

        room = (seq_len - 7 - gap)[:, None]  # 7: two people of two words, "told", "that", and the pronoun
        drawn = torch.randint(clause, clause + len(CLAUSES), (sentences, int(room.max()) // 4 + 1))  # 4: the shortest
        ends = self.lengths[drawn].cumsum(1)
        fits = ends <= room
        left = room - (ends * fits).amax(1, keepdim=True)
        filler = torch.cat([torch.where(left > 0, phrase + left - 1, nothing), torch.where(fits, drawn, nothing)], 1)

        def always(template: str) -> Tensor:
            return torch.full((sentences, 1), at[template])

        asks = torch.where(answer < len(HE), at["he"], at["she"])[:, None]
        rows = [first[:, None], between, always("TOLD"), second[:, None], always("that"), filler, asks]
        slots = self.templates[torch.cat(rows, 1)]
        slots = slots[slots >= 0].view(sentences, seq_len)  # all sentences have the same length
        words = self.choices[slots, (torch.rand(sentences, seq_len) * self.sizes[slots]).long()]
        return words.T.contiguous(), answer


class Model(nn.Module):
    def __init__(self, cell: str, words: int, seq_len: int, embed: int = 32, hidden: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, embed)
        self.layer = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell](embed, hidden)
        self.readout = nn.Linear(hidden, len(PEOPLE))
        if cell == "rnn":
            return
        # Chrono initialization (Tallec & Ollivier 2018): time scales from one word to the whole sentence.
        with torch.no_grad():
            self.layer.bias_hh_l0.zero_()
            keep = torch.empty(hidden).uniform_(1, seq_len - 1).log_()
            self.layer.bias_ih_l0[hidden : 2 * hidden] = keep  # the forget gate; the gru's update gate
            if cell == "lstm":
                self.layer.bias_ih_l0[:hidden] = -keep

    def forward(self, words: Tensor) -> Tensor:
        """[T B] -> [B K]"""
        outputs, _ = self.layer(self.embed(words))
        return self.readout(outputs[-1])


def train(
    cell: str = "lstm", seq_len: int = 50, steps: int = 1000, seed: int = 0, log: Callable[[str], Any] | None = None
) -> tuple[float, float]:
    """(accuracy on 256 new sentences after the last step, training steps a second including data and evaluation)"""
    torch.manual_seed(seed)
    sentences = Sentences()
    model = Model(cell, len(sentences.vocabulary), seq_len)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
    held_out, held_out_answers = sentences.sample(256, seq_len)
    losses, accuracy = [], 0.0
    start = time.perf_counter()
    for step in range(1, steps + 1):
        words, answers = sentences.sample(64, seq_len)
        loss = F.cross_entropy(model(words), answers)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0:
            losses.append(loss.item())
        if step % 50 == 0 or step == steps:
            with torch.no_grad():
                accuracy = (model(held_out).argmax(-1) == held_out_answers).float().mean().item()
            if log is not None:
                log(f"step {step:5}   loss {loss.item():.4f}   accuracy {100 * accuracy:.1f} %")
    return accuracy, steps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description="train a recurrent network to know whom he or she refers to")
    parser.add_argument("--cell", choices=("rnn", "lstm", "gru"), default="lstm")
    parser.add_argument("--seq-len", type=int, default=50, help="words of a sentence, at least 7")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep-denormals", action="store_true", help="do not treat them as zero")
    options = parser.parse_args()
    if options.seq_len < 7:
        parser.error(f"--seq-len {options.seq_len}: a sentence has at least 7 words")
    if options.steps < 1 or options.threads < 1:
        parser.error("--steps and --threads must be at least 1")
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(
        not options.keep_denormals
    )  # vanishing gradients become denormals, which are three times as slow
    accuracy, speed = train(options.cell, options.seq_len, options.steps, options.seed, log=print)
    print(f"accuracy {100 * accuracy:.1f} %   {speed:.1f} steps a second")


if __name__ == "__main__":
    main()
