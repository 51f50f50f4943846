"""Check that ``compile=true`` computes the same weights. Not a test, because torch's compiler takes a minute.

    OMP_NUM_THREADS=1 .venv/bin/python scripts/check_compile.py

Trains an lstm with torch's layer, with its steps, and with truncated backpropagation, each compiled and not. Compares
the weights and prints seconds. Then compiles where every path has a space, quotes, a dollar and a letter that is not
ASCII: those of the environment's packages, of temporary files and of the compiler's cache, and the user's name.
Exits with 1 if weights differ by more than rounding, or if anything cannot be compiled.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from seqmem.cells import LSTM, Cell, use_kernel
from seqmem.models.base import trainable
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS
from seqmem.randomness import ambient
from seqmem.tasks import Pronoun
from seqmem.training.loop import train
from seqmem.training.plan import CannotCompile, Plan

HERE = Path(__file__).resolve().parent
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


def compiles_in_odd_paths() -> bool:
    """In a new process: torch computes some of its paths when it is imported."""
    with tempfile.TemporaryDirectory() as plain:
        odd = Path(plain, 'it\'s my "$odd" directory, é')
        for below in ("temporary", "cache"):
            (odd / below).mkdir(parents=True)
        (odd / "packages").symlink_to(Path(torch.__file__).parents[1])
        environment = {
            "PYTHONPATH": os.pathsep.join([str(odd / "packages"), os.environ.get("PYTHONPATH", "")]),
            "TMPDIR": str(odd / "temporary"),
            "TORCHINDUCTOR_CACHE_DIR": str(odd / "cache"),
            "LOGNAME": "d'Arc, Jeanne",
        }
        start = time.perf_counter()
        command = [sys.executable, "-c", "import check_compile as check; check.train_oddly()"]
        done = subprocess.run(command, cwd=HERE, env={**os.environ, **environment}, capture_output=True, text=True)
        print(f"with odd characters in every path: {done.stdout.strip()}, {time.perf_counter() - start:.1f} s")
        sys.stderr.write(done.stderr)
    return done.returncode == 0


def train_oddly() -> None:
    assert "odd" in torch.__file__, torch.__file__
    train_with("torch", None, compiled=True)
    print("compiled")


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
    return 0 if compiles_in_odd_paths() and worst < 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
