"""Training speed of seqmem and of a plain torch script for the same task. Run it with scripts/bench training.

A step is everything from data to optimizer: `seqmem train cell=CELL task=pronoun` with default settings, so with
traces, evaluations, log and checkpoints, against scripts/plain.py, which has only the evaluations. Both run alternately
in one pinned process with the same number of threads; figures are medians. With --jax a third takes its turn: a jitted
training step in JAX, of the same model and batches, drawn beforehand, with nothing else. Time counts from the first
batch to the last checkpoint, without start-up, the first evaluation and trace, and the final evaluation.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench_kernels import (
    GATES,
    INPUT_SIZE,
    RESULTS,
    VOCABULARY,
    Configuration,
    Jax,
    Products,
    find_jax,
    machine,
    pin,
    products_turn,
    usable_cores,
)

LIMITS = {50: {"rnn": 2.0, "lstm": 1.35, "gru": 2.0}, 200: {"rnn": 2.5, "lstm": 1.4, "gru": 2.5}}
"""seq_len -> cell -> the least ratio of seqmem's speed to the plain script's."""
STEPS = {50: 1000, 200: 400}
"""seq_len -> steps of a run; the default is 1,000."""
TRACED = 2.0
"""The largest ratio of a run's time with a trace at every step to one without traces, at 50 words."""
JAX = 1.0
"""The least ratio of seqmem's speed to the bare JAX step's."""
SECOND = {"rnn": 1.0, "lstm": 1.3, "gru": 1.3}
"""Cell -> how many times as fast a run with two threads must be, at 50 words."""
LONG = 5000
PEAK = 0.65
"""The least share of the processor's peak of a forward and backward pass over ``LONG`` timesteps."""
BATCH, HIDDEN = 64, 64

Speed = tuple[float, float, float]
"""(steps a second, accuracy, steps a second of CPU time)"""


def ours(cell: str, seq_len: int, threads: int, **settings: Any) -> Speed:
    import seqmem
    from seqmem.record.recorder import Recorder
    from seqmem.training import batches

    times: list[tuple[float, float]] = []
    first_batch, save = batches.training_batches, Recorder.save  # the start and the end of the loop

    def start_clock(*args: Any, **kwargs: Any) -> Any:
        if not times:
            times.append((time.perf_counter(), time.process_time()))
        return first_batch(*args, **kwargs)

    def save_and_stop_clock(self: Any, checkpoint: dict[str, Any]) -> None:
        save(self, checkpoint)
        times.append((time.perf_counter(), time.process_time()))

    batches.training_batches, Recorder.save = start_clock, save_and_stop_clock
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = seqmem.train(
                cell=cell, task="pronoun", seq_len=seq_len, steps=STEPS[seq_len], threads=threads, outputs=folder,
                quiet=True, evaluate={"lengths": [seq_len]}, **settings,
            )  # fmt: skip
            result = run.result()
    finally:
        batches.training_batches, Recorder.save = first_batch, save
    assert result is not None
    wall, cpu = (end - start for start, end in zip(times[0], times[-1], strict=True))
    return STEPS[seq_len] / wall, result["score"], STEPS[seq_len] / cpu


def plain_script(cell: str, seq_len: int, threads: int, *, flush: bool = True) -> Speed:
    import plain
    import torch

    torch.set_num_threads(threads)
    torch.set_flush_denormal(flush)
    steps = STEPS[seq_len] if flush else 100
    try:
        plain.train(cell, seq_len, 1)  # torch's first optimizer imports its compiler, which takes seconds
        cpu = time.process_time()
        accuracy, speed = plain.train(cell, seq_len, steps)
    finally:
        torch.set_flush_denormal(False)
    return speed, accuracy, steps / (time.process_time() - cpu)


def jax_step(jax: Jax, cell: str, seq_len: int) -> Speed:
    """The jitted step on seqmem's first 50 batches, from its initial weights. (Its accuracy is not measured: NaN.)"""
    import numpy as np

    from seqmem.cells import CELLS
    from seqmem.models.recurrent import RecurrentModel
    from seqmem.randomness import ambient, generator
    from seqmem.tasks import Pronoun

    task = Pronoun()
    options: dict[str, Any] = {} if cell == "rnn" else {"seq_len": seq_len}
    with ambient(0, "bench"):
        model = RecurrentModel.for_task(task, lambda d: CELLS[cell](d, HIDDEN, **options))
    weights = {name: array.detach().numpy() for name, array in model.named_parameters() if array.requires_grad}
    names = {
        "vectors": "embed.weight", "w": "cell.fused.weight_ih_l0", "u": "cell.fused.weight_hh_l0",
        "bias": "cell.fused.bias_ih_l0", "readout": "readout.weight", "readout_bias": "readout.bias",
    }  # fmt: skip
    batches = [task.sample(BATCH, seq_len, generator(0, "bench", index)) for index in range(50)]
    arrays = {ours: weights[theirs] for ours, theirs in names.items()}
    arrays["tokens"] = np.stack([batch.inputs.numpy() for batch in batches])
    arrays["answers"] = np.stack([batch.targets[-1].numpy() for batch in batches])
    seconds = jax.train(cell, arrays, STEPS[seq_len])
    return STEPS[seq_len] / seconds["wall"], float("nan"), STEPS[seq_len] / seconds["cpu"]


def shares_of_peak(cell: str, rounds: int = 5) -> dict[int, float]:
    """Timesteps -> the operations per second of a training pass (its three products of B x G*H x H per timestep), over
    those of torch's product of two 768 x 768 matrices, which is close to the most that one thread can do."""
    import torch

    from seqmem.kernels.functions import KINDS, Pass

    kind = next(kind for kind in KINDS if kind.startswith(cell))
    units, states = GATES[cell] * HIDDEN, 2 if cell == "lstm" else 1
    generator = torch.Generator().manual_seed(0)
    vectors, w, u, bias = (
        torch.randn(size, generator=generator).div(8).requires_grad_()
        for size in ((VOCABULARY, INPUT_SIZE), (units, INPUT_SIZE), (units, HIDDEN), (units,))
    )
    start, gradient = [torch.zeros(BATCH, HIDDEN)] * states, torch.ones(BATCH, HIDDEN)
    passes = {}
    for steps in (*STEPS, LONG):
        tokens = torch.randint(VOCABULARY, (steps, BATCH), generator=generator)
        passes[steps] = tokens, Pass(kind, tokens, w, u, bias, vectors=vectors)
    square = torch.randn(768, 768, generator=generator)
    speeds: dict[int, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for steps, (tokens, layer) in passes.items():
            repeats = max(1, LONG // steps)
            begin = time.perf_counter()
            for _ in range(repeats):
                layer.forward(tokens, start)
                layer.backward(None, [gradient, *[None] * (states - 1)], by_inputs=True)
            seconds = (time.perf_counter() - begin) / repeats
            speeds[steps].append(6 * steps * BATCH * units * HIDDEN / seconds)
        begin = time.perf_counter()
        for _ in range(10):
            square @ square
        speeds[0].append(10 * 2 * 768**3 / (time.perf_counter() - begin))
    peak = max(speeds.pop(0))
    return {steps: statistics.median(of) / peak for steps, of in speeds.items()}


@contextmanager
def time_recurrence(spent: dict[str, float]) -> Iterator[None]:
    """Add the seconds in the native kernels during training to ``spent``."""
    import torch

    from seqmem.kernels import functions

    inner = functions.CallPlan.run

    def run(self: Any, name: str, call: Any) -> None:
        start = time.perf_counter()
        inner(self, name, call)
        if self.dtype == torch.float32 and self.sizes[1] == BATCH:  # excludes traces and evaluations
            spent[f"recurrence, {name}"] += time.perf_counter() - start

    functions.CallPlan.run = run
    try:
        yield
    finally:
        functions.CallPlan.run = inner


def profile(cell: str, threads: int) -> tuple[dict[str, float], float]:
    """The default run at 50 words: (share of time by activity, share that the bare matrix products would take)."""
    from bench import timed

    import seqmem
    from seqmem.probes.gradient import Tracer
    from seqmem.record.recorder import Recorder
    from seqmem.training import batches, loop, measuring

    spent: dict[str, float] = defaultdict(float)
    with (
        tempfile.TemporaryDirectory() as folder,
        time_recurrence(spent),
        timed(loop, "update", spent, "the rest of the updates"),
        timed(batches, "training_batches", spent, "data"),
        timed(loop, "evaluate", spent, "evaluation"),
        timed(measuring, "score", spent, "evaluation"),
        timed(Tracer, "measure", spent, "traces"),
        timed(Recorder, "measured", spent, "traces"),
        timed(Recorder, "logged", spent, "log"),
        timed(Recorder, "save", spent, "checkpoints"),
        timed(Recorder, "finished", spent, "final writing"),
    ):
        start = time.perf_counter()
        seqmem.train(cell=cell, task="pronoun", seq_len=50, threads=threads, outputs=folder, quiet=True)
        seconds = time.perf_counter() - start
    spent["everything else"] = seconds - sum(spent.values())
    products = Products(Configuration(cell, 50, BATCH, HIDDEN), dense=False)
    products.prepare()
    products.step()
    floor = statistics.median(products_turn(products)(10)[0] / 10 for _ in range(7))
    return {label: part / seconds for label, part in spent.items()}, 1000 * floor / seconds


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench training", description="how fast seqmem trains")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is run (default 3, at least 1)")
    parser.add_argument("--threads", type=int, default=1, help="of both (default 1)")
    parser.add_argument("--only", metavar="CELL", choices=tuple(GATES), help="one cell alone")
    parser.add_argument("--seq-len", type=int, choices=tuple(LIMITS), help="one length alone")
    parser.add_argument(
        "--jax", nargs="?", const="", metavar="PYTHON", help="a JAX step, too: by this Python, default the present one"
    )
    options = parser.parse_args()
    cores = usable_cores()
    most = len(cores)
    if options.rounds < 1 or not 1 <= options.threads <= most:
        parser.error(f"--rounds must be at least 1, --threads from 1 to {most}")
    python = None if options.jax is None else find_jax(options.jax or None)
    if options.jax is not None and (python is None or options.threads > 1):
        parser.error("--jax needs a Python with JAX (--jax=PYTHON), and one thread")
    pin(options.threads)
    start = time.perf_counter()
    about = machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(f"\nsteps a second, {options.threads} thread{'s' * (options.threads > 1)}, seqmem against scripts/plain.py")
    cells = [cell for cell in GATES if options.only in (None, cell)]
    rows, held = [], []
    folder = tempfile.TemporaryDirectory()
    jax = None if python is None else Jax(python, Path(folder.name))
    for seq_len in (length for length in LIMITS if options.seq_len in (None, length)):
        for cell in cells:
            speeds: dict[str, list[Speed]] = {"seqmem": [], "plain": []}
            for _ in range(options.rounds):
                speeds["seqmem"].append(ours(cell, seq_len, options.threads))
                speeds["plain"].append(plain_script(cell, seq_len, options.threads))
                if jax is not None:
                    speeds.setdefault("jax", []).append(jax_step(jax, cell, seq_len))
            speed, accuracy, cpu_speed = (
                {side: statistics.median(run[i] for run in runs) for side, runs in speeds.items()} for i in range(3)
            )
            ratio, limit = speed["seqmem"] / speed["plain"], LIMITS[seq_len][cell]
            kept = ratio >= limit
            row = {"cell": cell, "seq_len": seq_len, "speed": speed, "accuracy": accuracy, "limit": limit}
            row["cpu"] = cpu_speed["seqmem"] / cpu_speed["plain"]
            note = ""
            if jax is not None:
                row["jax"], row["jax limit"] = speed["seqmem"] / speed["jax"], JAX
                kept = kept and row["jax"] >= JAX
                note = f"; {row['jax']:.2f} times JAX's {speed['jax']:.1f} (limit {JAX:g})"
            if cell == "rnn":  # its gradients vanish into denormals
                row["denormals kept"], *_ = plain_script(cell, seq_len, options.threads, flush=False)
                note += f"; plain with denormals {row['denormals kept']:.1f}"
            rows.append(row)
            held.append(kept)
            print(
                f"  {'ok  ' if kept else 'OVER'}  {cell:<4} {seq_len:>4} words  {speed['seqmem']:7.1f} and "
                f"{speed['plain']:7.1f}: {ratio:.2f} times (limit {limit:g}; by CPU time {row['cpu']:.2f}); accuracy "
                f"{100 * accuracy['seqmem']:.1f} and {100 * accuracy['plain']:.1f} %{note}",
                flush=True,
            )
    if jax is not None:
        jax.close()
    folder.cleanup()
    slowdowns = {}
    print("\ntraced at every step against never, 50 words")
    for cell in cells if options.seq_len in (None, 50) else ():
        turns = [
            [ours(cell, 50, options.threads, trace={"every": every})[0] for every in (0, 1)]
            for _ in range(options.rounds)
        ]
        slowdowns[cell] = statistics.median(never / always for never, always in turns)
        held.append(slowdowns[cell] <= TRACED)
        spread = ", ".join(f"{never / always:.2f}" for never, always in turns)
        verdict = "ok  " if held[-1] else "OVER"
        print(f"  {verdict}  {cell:<4} {slowdowns[cell]:.2f} times as long (limit {TRACED:g}): {spread}", flush=True)
    second = {}
    if options.threads == 1 and most > 1:
        print("\ntwo threads against one, 50 words")
        for cell in cells if options.seq_len in (None, 50) else ():
            turns = []
            for _ in range(options.rounds):
                pin(1, of=cores)
                alone = ours(cell, 50, 1)[0]
                pin(2, of=cores)
                turns.append(ours(cell, 50, 2)[0] / alone)
            pin(1, of=cores)
            second[cell] = statistics.median(turns)
            held.append(second[cell] >= SECOND[cell])
            verdict, spread = "ok  " if held[-1] else "OVER", ", ".join(f"{turn:.2f}" for turn in turns)
            print(
                f"  {verdict}  {cell:<4} {second[cell]:.2f} times as fast (limit {SECOND[cell]:g}): {spread}",
                flush=True,
            )
    peaks = {}
    if options.threads == 1 and options.seq_len is None:
        print(f"\nshare of the processor's peak, {BATCH} sequences, {HIDDEN} units")
        for cell in cells:
            peaks[cell] = shares_of_peak(cell)
            held.append(peaks[cell][LONG] >= PEAK)
            verdict = "ok  " if held[-1] else "OVER"
            shares = ", ".join(f"{100 * share:.0f} % at {steps:,}" for steps, share in peaks[cell].items())
            print(f"  {verdict}  {cell:<4} {shares} timesteps (limit {100 * PEAK:g} % at {LONG:,})", flush=True)
    profiles = {}
    print("\nwhere the default run's time goes, 50 words")
    for cell in cells:
        shares, products = profile(cell, options.threads)
        profiles[cell] = {"shares": shares, "products": products}
        print(f"  {cell}: the matrix products of its recurrence alone would take {100 * products:.1f} %")
        for label, share in sorted(shares.items(), key=lambda item: -item[1]):
            print(f"    {100 * share:5.1f} %  {label}")
    print(f"\n{'all' if all(held) else 'NOT all'} within their limits; {time.perf_counter() - start:.0f} s")
    if options.only is None and options.seq_len is None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        stored = {"machine": about, "threads": options.threads, "rounds": options.rounds, "steps": STEPS}
        stored |= {"rows": rows, "profiles": profiles, "traced": slowdowns, "traced limit": TRACED}
        stored |= {"second": second, "second limits": SECOND, "peaks": peaks, "peak limit": PEAK}
        name = "training.json" if options.threads == 1 else f"training-{options.threads}.json"
        (RESULTS / name).write_text(json.dumps(stored, indent=1) + "\n")
        print("scripts/bench report writes docs/performance.md from these figures")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
