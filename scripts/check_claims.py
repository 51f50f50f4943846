"""What cells are said to do, from runs; see scripts/check_claims. Called as check_claims.py RUNS."""

import sys
from collections import defaultdict
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from seqmem.cells import DeltaNet
from seqmem.randomness import ambient, generator
from seqmem.runs.directory import find_runs

SEEDS = range(3)
TRAINED, TESTED, UPDATES = 20, 80, 1000
RUNS = {"subject": (200, 1500), "adding": (100, 6000)}
"""Task -> the length and the updates of the runs that count; a folder may have others."""


def solved(runs: Path) -> dict[str, list[tuple[int, bool, float]]]:
    """What was run -> for each seed: (seed, whether it was solved at the end, score)."""
    seeds_of: dict[str, list[tuple[int, bool, float]]] = defaultdict(list)
    for run in find_runs(runs):
        config, result = run.config(), run.result()
        task, cell = config["task"]["name"], config["cell"]
        if RUNS.get(task) != (config["seq_len"], config["steps"]) or config["seed"] not in SEEDS:
            continue
        if result is None:
            sys.exit(f"check_claims: {run.path}: not finished; scripts/check_claims finishes it")
        name = f"subject {cell['forget_bias']}" if task == "subject" else f"adding {cell['name']}"
        seeds_of[name].append((config["seed"], bool(result["solved"]), result["score"]))
    return {name: sorted(seeds) for name, seeds in seeds_of.items()}


def parity(seed: int, *, negative: bool) -> dict[int, float]:
    """Length -> accuracy of the last answer of a deltanet trained to tell the parity of the bits so far, at each."""
    with ambient(seed, "weights"):
        embed, cell, readout = (
            torch.nn.Embedding(2, 8),
            DeltaNet(8, 16, heads=2, negative=negative),
            torch.nn.Linear(16, 2),
        )
    weights = [*embed.parameters(), *cell.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-2)

    def read(length: int, count: int, stream: str, number: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        bits = torch.randint(2, (length, count), generator=generator(seed, stream, number))
        return readout(cell(embed(bits))[0]), bits.cumsum(0) % 2

    for update in range(UPDATES):
        predicted, right = read(TRAINED, 64, "parity", update)
        optimizer.zero_grad()
        cross_entropy(predicted.flatten(0, 1), right.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    scores = {}
    for length in (TRAINED, TESTED):
        with torch.no_grad():
            predicted, right = read(length, 256, f"parity at {length}")
        scores[length] = float((predicted.argmax(-1) == right)[-1].double().mean())
    return scores


def main() -> int:
    runs, failed = solved(Path(sys.argv[1])), []

    def claim(text: str, *, holds: bool) -> None:
        print(f"  {'holds' if holds else 'DOES NOT HOLD'}: {text}\n")
        failed.extend([] if holds else [text])

    def show(name: str, unit: str) -> list[bool]:
        seeds = runs.get(name, [])
        if [seed for seed, *_ in seeds] != list(SEEDS):
            sys.exit(
                f"check_claims: {sys.argv[1]}: no runs of {name} with seeds 0, 1 and 2; scripts/check_claims makes them"
            )
        print(f"{name}: " + ", ".join(f"{score:.3g} {unit}{' solved' * done}" for _, done, score in seeds))
        return [done for _, done, _ in seeds]

    chrono, bias_one = show("subject chrono", "accuracy"), show("subject 1", "accuracy")
    near_chance = all(score < 0.25 for _, _, score in runs["subject 1"])
    claim(
        "at 200 words chrono solves subject within 1,500 updates with every seed, forget bias 1 stays at chance",
        holds=all(chrono) and not any(bias_one) and near_chance,
    )
    gru, lstm, rnn = (show(f"adding {cell}", "MSE") for cell in ("gru", "lstm", "rnn"))
    claim(
        "at 100 timesteps gru and lstm solve adding with at least two of three seeds, the tanh rnn with none",
        holds=sum(gru) >= 2 and sum(lstm) >= 2 and not any(rnn),
    )
    scores = {negative: [parity(seed, negative=negative) for seed in SEEDS] for negative in (True, False)}
    for negative, seeds in scores.items():
        told = ", ".join(f"{one[TRAINED]:.1%} at {TRAINED} and {one[TESTED]:.1%} at {TESTED} bits" for one in seeds)
        print(f"parity, deltanet negative={str(negative).lower()}: {told}")
    claim(
        "with eigenvalues down to -1 a deltanet learns parity with every seed, at four times the length, too; "
        "with others it does with none",
        holds=all(one[TESTED] > 0.99 for one in scores[True]) and all(one[TRAINED] < 0.7 for one in scores[False]),
    )
    print("all hold" if not failed else f"{len(failed)} of 3 do not hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
