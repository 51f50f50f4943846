"""Time of start-up and of a trace, memory of a run, share of tracing in it, size of its TensorBoard file. Run it with
scripts/bench.

Every figure is a median or a share of a single run, to be robust on a noisy machine.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench_start import first_step

MEMORY = {"rnn": 310, "lstm": 330, "gru": 310}
"""Cell -> the most MB that the default run may take. Importing torch alone takes 215."""


def peak_memory(cell: str) -> float:
    """MB that the process of a default run takes at most, Python and torch included."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["train", f"cell={cell}", "task=pronoun", "seq_len=50", f"outputs={folder}", "quiet=true"]
        process = subprocess.Popen([sys.executable, "-m", "seqmem", *command])
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"seqmem {' '.join(command)} failed; its error stands above")
    return usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def trace_seconds(repeats: int = 5) -> dict[str, float]:
    """Median seconds of one trace by cell: 64 units, 1,000 timesteps, 32 sequences."""
    from seqmem.cells import CELLS
    from seqmem.models.recurrent import SequenceModel
    from seqmem.probes.gradient import Tracer
    from seqmem.randomness import ambient, generator
    from seqmem.tasks import Pronoun

    task, medians = Pronoun(), {}
    batch = task.sample(32, 1000, generator(0, "bench"))
    for name, kind in CELLS.items():
        options: dict[str, Any] = {} if name == "rnn" else {"seq_len": 1000}
        with ambient(0, "bench"):
            model = SequenceModel.for_task(task, lambda d, kind=kind, options=options: kind(d, 64, **options))
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            Tracer(model, task).measure(batch)
            seconds.append(time.perf_counter() - start)
        medians[name] = statistics.median(seconds)
    return medians


@contextmanager
def timed(where: Any, name: str, spent: dict[str, float], label: str) -> Iterator[None]:
    """Add the time spent in ``where.name`` to ``spent``, without the time of timed functions that it calls."""
    inner: Callable[..., Any] = getattr(where, name)

    def outer(*args: Any, **kwargs: Any) -> Any:
        before, start = sum(spent.values()), time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            spent[label] += time.perf_counter() - start - (sum(spent.values()) - before)

    setattr(where, name, outer)
    try:
        yield
    finally:
        setattr(where, name, inner)


def default_run(cell: str) -> tuple[dict[str, float], float, int, Mapping[str, Any]]:
    """The default run: (seconds by activity, total seconds, bytes of the event file, result)."""
    import seqmem
    from seqmem.probes.gradient import Tracer
    from seqmem.record.recorder import Recorder
    from seqmem.training import batches, loop, measuring

    spent: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        with (
            timed(loop, "update", spent, "updates"),
            timed(batches, "training_batches", spent, "data"),
            timed(loop, "evaluate", spent, "evaluation"),
            timed(measuring, "score", spent, "evaluation"),
            timed(Tracer, "measure", spent, "traces: measuring"),
            timed(Recorder, "measured", spent, "traces: writing"),
            timed(Recorder, "logged", spent, "log"),
            timed(Recorder, "save", spent, "checkpoints"),
            timed(Recorder, "finished", spent, "final writing"),
        ):
            start = time.perf_counter()
            run = seqmem.train(cell=cell, task="pronoun", seq_len=50, outputs=folder, quiet=True)
            seconds = time.perf_counter() - start
        size = sum(file.stat().st_size for file in run.path.glob("*tfevents*"))
        result = run.result()
    assert result is not None
    return dict(spent), seconds, size, result


def flushing_denormals(cell: str, repeats: int = 3) -> tuple[float, bool]:
    """At 200 words: (speed-up of an update by flushing denormals, True if all metrics stay the same)."""
    import seqmem
    from seqmem.training import loop

    @contextmanager
    def no_flush(*, on: bool) -> Iterator[None]:  # noqa: ARG001  the signature of flush_denormal
        yield

    seconds: dict[bool, list[float]] = {True: [], False: []}
    numbers = set()
    ours = loop.flush_denormal
    for turn in range(2 * repeats):
        flush = turn % 2 == 0
        loop.flush_denormal = ours if flush else no_flush
        spent: dict[str, float] = defaultdict(float)
        with tempfile.TemporaryDirectory() as folder, timed(loop, "update", spent, "updates"):
            run = seqmem.train(
                cell=cell, seq_len=200, steps=60, outputs=folder, quiet=True, evaluate={"lengths": [200]}
            )
            numbers.add(run.file("metrics.jsonl").read_bytes())
        seconds[flush].append(spent["updates"])
    loop.flush_denormal = ours
    return statistics.median(seconds[False]) / statistics.median(seconds[True]), len(numbers) == 1


def main() -> int:
    import torch

    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread of {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}\n")
    verdicts = []

    def promise(what: str, value: float, limit: float, unit: str) -> None:
        verdicts.append(value < limit)
        print(f"  {'ok  ' if verdicts[-1] else 'OVER'}  {what:<58} {value:8.2f} {unit}  (limit {limit:g})", flush=True)

    promise("start-up to the end of the first step", first_step(), 4, "s")
    for cell, most in MEMORY.items():
        promise(f"memory of the default {cell} run", peak_memory(cell), most, "MB")
    for cell, seconds in trace_seconds().items():
        promise(f"one trace, {cell}, 64 units, 1,000 timesteps", seconds, 2, "s")
    for cell in ("rnn", "lstm", "gru"):
        spent, seconds, size, result = default_run(cell)
        tracing = spent["traces: measuring"] + spent["traces: writing"]
        promise(f"tracing, share of the default {cell} run", 100 * tracing / seconds, 10, "%")
        promise(f"TensorBoard file of the default {cell} run", size / 1e6, 2, "MB")
        print(f"        {seconds:.1f} s, {100 * result['score']:.1f} % at 50 words; of its time:")
        for label, part in sorted({**spent, "the rest": seconds - sum(spent.values())}.items(), key=lambda i: -i[1]):
            print(f"          {100 * part / seconds:5.1f} %  {label}")
    for cell in ("rnn", "lstm", "gru"):
        ratio, same = flushing_denormals(cell)
        verdicts.append(same)
        mark, numbers = ("ok  ", "the same metrics.jsonl") if same else ("OVER", "OTHER NUMBERS")
        print(f"  {mark}  denormals flushed, {cell} at 200 words: {ratio:.2f} times as fast, {numbers}")
    print("\nall within their limits" if all(verdicts) else "\nNOT all within their limits")
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    sys.exit(main())
