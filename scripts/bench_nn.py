"""Speed of seqmem.nn beside torch.nn. Run it with scripts/bench nn [--quick].

One grid, in one run: RNN, LSTM and GRU over real numbers, in training (forward and backward pass, from a fixed
gradient of the output to the gradients of inputs and parameters) and in inference (without gradients), and some of
their options: layers, directions, packed sequences. The two sides take turns, each side first in every other round, and
a shape's figure is the median of its rounds' ratios; one that seems slower than the limit is measured again, in five
times the rounds. On one thread CPU time counts, because other processes do not lengthen it; on two threads wall time.
Denormals are flushed for both. Both must agree in outputs and gradients before they are timed.

Every state of an LSTM, h_t and c_t, is compared with the way there is in torch: a loop over torch.nn.LSTMCell.

Axes: T time, B batch, D input features, H hidden.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench_kernels import RESULTS, NoKernels, agree, geometric, native_kernels

FEATURES, THEIRS = 64, "32 features"
"""Input features; of the shapes that are compared with the kernels' table, which has 32."""
LARGEST = 3e9  # multiplications of a forward pass; larger shapes take seconds and are as fast as the largest here
SLOWER = 1.05  # no shape may be slower than so many times torch's seconds
MEANS = {
    "avx512": {"RNN": 0.42, "LSTM": 0.62, "GRU": 0.35},  # docs/performance.md
    "avx2": {"RNN": 0.52, "LSTM": 0.87, "GRU": 0.51},  # T = 50 and 200 of the same command, on an AMD EPYC
}
"""Instruction set -> the kernels' geometric means in training, with real numbers, on one thread, at T = 50 and 200, by
``scripts/bench kernels --dense``: no layer may be slower than 1.05 of them."""
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
TURN = 0.01  # least seconds of a turn


@dataclass(frozen=True)
class Shape:
    layer: str
    seq_len: int
    batch_size: int
    hidden_size: int
    training: bool
    options: str = ""  # of the layers, or packed

    def __str__(self) -> str:
        mode = "train" if self.training else "infer"
        size = f"T={self.seq_len:<5}B={self.batch_size:<4}H={self.hidden_size:<4}"
        return f"{self.layer:<5}{mode:<6}{size} {self.options}"

    @property
    def work(self) -> float:
        each = GATES[self.layer] * self.hidden_size * (self.hidden_size + self.features)
        return float(self.seq_len * self.batch_size * each * (4 if self.options not in ("", THEIRS) else 1))

    @property
    def features(self) -> int:
        return 32 if self.options == THEIRS else FEATURES


def grid(*, quick: bool) -> Iterator[Shape]:
    lengths, batches, sizes = (10, 100, 1000), (1, 16, 128), (16, 64, 128, 256, 512)
    if quick:
        lengths, batches, sizes = (10, 100), (1, 32), (64, 256)
    for layer in GATES:
        for training in (True, False):
            plain = [Shape(layer, t, b, h, training) for t in lengths for b in batches for h in sizes]
            more = [
                Shape(layer, 50, 32, h, training, options)
                for options in ("2 layers", "bidirectional", "packed", "2 layers bidirectional packed")
                for h in (64, 256)
            ]
            kernels = [
                Shape(layer, t, b, h, training, THEIRS) for t in (50, 200) for b in (32, 128) for h in (64, 128, 256)
            ]
            yield from (shape for shape in [*plain, *more, *([] if quick else kernels)] if shape.work <= LARGEST)


class Problem:
    """A shape: torch's layer and ours with the same weights, inputs and the gradient of the output."""

    def __init__(self, shape: Shape) -> None:
        import torch
        from torch.nn.utils.rnn import pack_padded_sequence

        from seqmem import nn

        torch.manual_seed(0)
        sizes = {"num_layers": 2 if "2 layers" in shape.options else 1, "bidirectional": "bi" in shape.options}
        make = getattr(torch.nn, shape.layer)
        self.torch = make(shape.features, shape.hidden_size, **sizes)
        self.ours = nn.convert(make(shape.features, shape.hidden_size, **sizes))
        self.ours.load_state_dict(self.torch.state_dict())
        self.training = shape.training
        self.xs = torch.randn(shape.seq_len, shape.batch_size, shape.features)
        self.inputs: Any = self.xs
        if "packed" in shape.options:
            lengths = torch.linspace(shape.seq_len, shape.seq_len // 5, shape.batch_size).round().long()
            self.inputs = pack_padded_sequence(self.xs, lengths)
            self.xs = self.inputs.data
        if self.training:
            self.xs.requires_grad_()
        self.random = torch.randn_like(self.data(self.torch(self.inputs)))

    @staticmethod
    def data(result: Any) -> Any:
        output = result[0]
        return output.data if hasattr(output, "batch_sizes") else output

    def step(self, layer: Any) -> Callable[[], Any]:
        import torch

        def train() -> Any:
            output = self.data(layer(self.inputs))
            output.backward(self.random)
            return output

        def infer() -> Any:
            with torch.no_grad():
                return self.data(layer(self.inputs))

        return train if self.training else infer

    def numbers(self, layer: Any) -> tuple[float, list[float]]:
        output = self.step(layer)()
        gradients = []
        if self.training:
            for tensor in (self.xs, layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0):
                gradients.append(float(tensor.grad.norm()))
                tensor.grad = None
        return float((output.detach() * self.random).sum()), gradients


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any], threads: int, rounds: int) -> tuple[float, float, float]:
    """(median ratio of the rounds, seconds of ours, seconds of theirs), each side first in every other round."""
    clock = time.process_time if threads == 1 else time.perf_counter

    def seconds(step: Callable[[], Any], times: int) -> float:
        start = clock()
        for _ in range(times):
            step()
        return (clock() - start) / times

    times = []
    for step in (ours, theirs):  # warm up, and choose how many steps make a turn
        step()
        times.append(max(1, min(200, int(TURN / max(1e-6, seconds(step, 1))))))
    pairs = []
    for at in range(rounds):
        first, second = (ours, theirs) if at % 2 else (theirs, ours)
        a, b = seconds(first, times[first is theirs]), seconds(second, times[second is theirs])
        pairs.append((a, b) if at % 2 else (b, a))
    return (
        statistics.median(a / b for a, b in pairs),
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
    )


def measure(shape: Shape, threads: int, rounds: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(threads)
    problem = Problem(shape)
    a, b = problem.numbers(problem.ours), problem.numbers(problem.torch)
    if shape.training:
        agree(str(shape), a, b)
    elif not abs(a[0] - b[0]) <= 2e-3 * max(1.0, abs(b[0])):
        raise RuntimeError(f"{shape}: outputs differ: {a[0]:.6g}, and {b[0]:.6g} by torch.nn")
    each = ratio(problem.step(problem.ours), problem.step(problem.torch), threads, rounds)
    return {**asdict(shape), "threads": threads, "ratio": each[0], "ours": each[1], "torch": each[2]}


def every_state(seq_len: int, batch_size: int, hidden_size: int, rounds: int) -> dict[str, Any]:
    """Forward and backward pass of an LSTM through every h_t and c_t: ours, and a loop over torch.nn.LSTMCell."""
    import torch

    from seqmem import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer, cell = nn.LSTM(FEATURES, hidden_size), torch.nn.LSTMCell(FEATURES, hidden_size)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    xs = torch.randn(seq_len, batch_size, FEATURES, requires_grad=True)
    random = torch.randn(2, seq_len, batch_size, hidden_size)

    def ours() -> Any:
        states = layer.states(xs)[2]
        together = torch.cat([states.hidden, states.cell])
        together.backward(random)
        return together

    def loop() -> Any:
        h = c = torch.zeros(batch_size, hidden_size)
        hs, cs = [], []
        for x in xs.unbind(0):
            h, c = cell(x, (h, c))
            hs.append(h)
            cs.append(c)
        together = torch.stack([torch.stack(hs), torch.stack(cs)])
        together.backward(random)
        return together

    torch.testing.assert_close(ours(), loop(), rtol=1e-4, atol=1e-5)
    each = ratio(ours, loop, 1, rounds)
    where = {"seq_len": seq_len, "batch_size": batch_size, "hidden_size": hidden_size}
    return {**where, "ratio": each[0], "ours": each[1], "torch": each[2]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench nn", description="how fast seqmem.nn is beside torch.nn")
    parser.add_argument("--quick", action="store_true", help="a part of the grid, in a minute")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side (default 7)")
    parser.add_argument("--only", metavar="LAYER", choices=tuple(GATES), help="one layer alone")
    parser.add_argument("--threads", type=int, choices=(1, 2), help="on so many alone")
    parser.add_argument("--table", action="store_true", help="the sizes of the kernels' table alone, in training")
    parser.add_argument("--kernels", action="store_true", help="the kernels everywhere, where torch is faster, too")
    options = parser.parse_args()
    try:
        native_kernels()
    except NoKernels as error:
        print(f"scripts/bench nn: {error}", file=sys.stderr)
        return 2
    import torch

    torch.set_flush_denormal(True)
    if options.kernels:
        from seqmem.nn import layers

        layers.pays = lambda *_, **__: True
    rows = []
    for threads in (1, 2) if options.threads is None else (options.threads,):
        if threads > (os.cpu_count() or 1):
            continue
        for shape in grid(quick=options.quick):
            if options.only not in (None, shape.layer):
                continue
            if options.table and not (shape.options == THEIRS and shape.training):
                continue
            row = measure(shape, threads, options.rounds)
            if row["ratio"] > SLOWER:  # some of 344 medians of 7 are by chance
                row = measure(shape, threads, 5 * options.rounds)
            rows.append(row)
            print(
                f"{threads}  {shape!s:<64} {row['ratio']:6.2f} {1e3 * row['ours']:9.3f} {1e3 * row['torch']:9.3f}",
                flush=True,
            )
    sizes = () if options.table else ((50, 32, 64), (200, 32, 128), (200, 128, 256))
    states = [every_state(*each, options.rounds) for each in sizes]
    for row in states:
        print(f"every state, T={row['seq_len']} B={row['batch_size']} H={row['hidden_size']}: {row['ratio']:.2f}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    Path(RESULTS / "nn.json").write_text(json.dumps({"rows": rows, "states": states}))
    return verdict(rows, states)


def verdict(rows: list[dict[str, Any]], states: list[dict[str, Any]]) -> int:
    """Print the means and what is slower; 1 if a limit is not kept."""
    broken = 0
    for threads in sorted({row["threads"] for row in rows}):
        for layer in GATES:
            for training in (True, False):
                those = [r for r in rows if (r["threads"], r["layer"], r["training"]) == (threads, layer, training)]
                if not those:
                    continue
                worst = max(those, key=lambda row: row["ratio"])
                mean, what = geometric(row["ratio"] for row in those), "training" if training else "inference"
                where = Shape(**{name: worst[name] for name in Shape.__dataclass_fields__})
                print(f"{layer}, {what}, {threads} thread(s): {mean:.2f}, worst {worst['ratio']:.2f}: {where}")
    from seqmem.kernels.loading import Library, load

    library = load()
    isa = library.isa if isinstance(library, Library) else ""
    for layer in GATES:
        those = [
            row["ratio"]
            for row in rows
            if row["layer"] == layer and row["training"] and row["threads"] == 1 and row["options"] == THEIRS
        ]
        if those:
            mean, limit = geometric(those), MEANS.get(isa, {}).get(layer)
            broken += limit is not None and mean > SLOWER * limit
            against = f"no limit for {isa}" if limit is None else f"the kernels by themselves: {limit}"
            print(f"{layer} at the sizes of the kernels' table: {mean:.2f} ({against})")
    slower = [row for row in rows if row["ratio"] > SLOWER]
    broken += len(slower)
    print(f"{len(slower)} of {len(rows)} shapes slower than {SLOWER} of torch.nn")
    if states:
        print(f"every state of an LSTM: {geometric(row['ratio'] for row in states):.2f} of a loop over LSTMCell")
    return bool(broken)


if __name__ == "__main__":
    raise SystemExit(main())
