"""Check that ``compile=true`` computes the same weights. Not a test, because torch's compiler takes a minute.

    OMP_NUM_THREADS=1 .venv/bin/python scripts/check_compile.py

Trains an lstm with torch's layer, with its steps, and with truncated backpropagation, each compiled and not. Compares
the weights and prints seconds. Exits with 1 if weights differ by more than rounding.
"""

import sys
import time
from collections.abc import Callable

import torch

from seqmem.cells import LSTM, Cell, use_kernel
from seqmem.models.base import trainable
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS
from seqmem.randomness import ambient
from seqmem.tasks import Pronoun
from seqmem.training.loop import train
from seqmem.training.plan import CannotCompile, Plan

SEQ_LEN, STEPS = 12, 50


def train_with(kernel: str, tbptt: int | None, *, compiled: bool) -> tuple[list[torch.Tensor], float]:
    """(weights after ``STEPS`` updates, seconds)"""
    cell: Callable[[int], Cell] = lambda d: LSTM(d, 32, seq_len=SEQ_LEN)  # noqa: E731
    with ambient(0, "weights"):
        model = SequenceModel.for_task(Pronoun(), cell)
    use_kernel(model, kernel)
    plan = Plan(
        SEQ_LEN, steps=STEPS, evaluate_sequences=8, evaluate_every=STEPS, trace_every=0, compile=compiled, tbptt=tbptt
    )
    parameters = trainable(model)
    torch.compiler.reset()  # it does not retry what it failed to compile before
    start = time.perf_counter()
    train(model, Pronoun(), OPTIMIZERS["adam"](parameters), plan)
    return [parameter.detach() for parameter in parameters], time.perf_counter() - start


def main() -> int:
    torch.set_num_threads(1)
    worst = 0.0
    for kernel, tbptt in (("torch", None), ("step", None), ("step", 5)):
        try:
            (compiled, slow), (plain, fast) = (train_with(kernel, tbptt, compiled=on) for on in (True, False))
        except CannotCompile as error:
            print(error)
            return 1
        off = max(float((a - b).abs().max()) for a, b in zip(compiled, plain, strict=True))
        worst = max(worst, off)
        print(
            f"kernel={kernel} tbptt={tbptt}: {STEPS} updates compiled in {slow:.1f} s, with the compiler's time, and "
            f"else in {fast:.1f} s; weights differ by {off:.1e} at most",
            flush=True,
        )
    return 0 if worst < 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
