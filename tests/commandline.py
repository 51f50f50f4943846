"""The command line for tests: in a process of its own, as people use it, or in this one where that says as much."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

TINY = (
    "seq_len=8", "steps=6", "cell.hidden_size=4", "batch_size=4", "embed_size=4", "log_every=2",
    "evaluate.sequences=8", "evaluate.every=4", "evaluate.lengths=[8]", "trace.every=4", "trace.sequences=2",
    "checkpoint_every=2",
)  # fmt: skip
"""A run that takes a tenth of a second once torch is there. For tasks whose shortest length is 8 or less."""

OWN_CELLS = '''\
import torch
from torch import nn
from seqmem.cells import Cell

class Leaky(Cell):
    """h = alpha h + W x"""
    def __init__(self, input_size: int, hidden_size: int, alpha: float = 0.5):
        super().__init__()
        self.input_size, self.output_size, self.alpha = input_size, hidden_size, alpha
        self.inner = nn.Linear(input_size, hidden_size)
    def initial_state(self, batch_size):
        return {"h": self.inner.weight.new_zeros(batch_size, self.output_size)}
    def step(self, x, state):
        h = self.alpha * state["h"] + self.inner(x)
        return h, {"h": h}

class Needy(Leaky):
    def __init__(self, input_size, hidden_size, *, much: int):
        super().__init__(input_size, hidden_size)

class Unfinished(Cell):
    pass

class Unlucky(Leaky):
    def __init__(self, input_size, hidden_size):
        raise TypeError("no luck\\ntoday")

class Stateless(Leaky):
    def initial_state(self, batch_size):
        return {}
    def step(self, x, state):
        return self.inner(x), {}

class Misshapen(Leaky):
    def step(self, x, state):
        return x @ x, state

class Sizeless(Leaky):
    def __init__(self, input_size, hidden_size):
        nn.Module.__init__(self)

class NotACell:
    pass
'''


@dataclass(frozen=True)
class Completed:
    """A finished command: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    def refuses(self, line: str, *, code: int, verb: str = "train") -> None:
        """Nothing but one line, of this beginning and with this in it."""
        assert self.err.startswith(f"seqmem {verb}: "), self
        assert self.err.count("\n") == 1, self
        assert self.err.endswith("\n"), self
        assert line in self.err, self
        assert "Traceback" not in self.out + self.err
        assert self.code == code, self


def environment(**changes: str) -> dict[str, str]:
    ruled_out = ("HYDRA_FULL_ERROR", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "COMP_LINE", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in ruled_out}
    return {**kept, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **changes}


def in_a_process(*args: str, cwd: Path, **env: str) -> Completed:
    """``seqmem ARGS`` in a process of its own."""
    command = [sys.executable, "-m", "seqmem", *args]
    done = subprocess.run(
        command, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=120, check=False
    )
    return Completed(done.returncode, done.stdout, done.stderr)


@contextmanager
def started(*args: str, cwd: Path, together: bool = False, **env: str) -> Iterator[subprocess.Popen[str]]:
    """``seqmem ARGS`` still running; whatever happens, it does not outlive the test. ``together``: both its streams."""
    command = [sys.executable, "-m", "seqmem", *args]
    errors = subprocess.STDOUT if together else subprocess.PIPE
    process = subprocess.Popen(
        command, cwd=cwd, env=environment(**env), stdout=subprocess.PIPE, stderr=errors, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def end(process: "subprocess.Popen[str]") -> Completed:
    out, err = process.communicate(timeout=120)
    return Completed(process.returncode, out, err or "")


def until(true: Callable[[], Any], *, of: "subprocess.Popen[str]", seconds: float = 90) -> None:
    """Wait for something that a running process does."""
    deadline = time.monotonic() + seconds
    while not true():
        assert of.poll() is None, f"it ended before that: {of.communicate()}"
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


def only_run(folder: Path) -> Path:
    """The one run below a folder."""
    (found,) = (path.parent for path in folder.rglob("config.json"))
    return found


def runs_below(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("config.json"))


def rows(run: Path) -> list[dict[str, Any]]:
    """``metrics.jsonl`` as far as it is written."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def trained_to(folder: Path) -> int:
    """The last step below a folder that is written down; -1: none."""
    return max((row["step"] for run in runs_below(folder) for row in rows(run)), default=-1)


def assert_same_numbers(run: Path, other: Path) -> None:
    """Bit for bit, everything but the time that it took."""
    assert (run / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    with np.load(run / "gradients.npz") as one, np.load(other / "gradients.npz") as two:
        assert one.files == two.files
        for name in one.files:
            assert one[name].dtype == two[name].dtype
            assert one[name].tobytes() == two[name].tobytes()
    results = [json.loads((path / "result.json").read_text()) for path in (run, other)]
    for result in results:
        del result["seconds"], result["steps_per_second"]
    assert results[0] == results[1]
    _assert_same(_checkpoint(run), _checkpoint(other))
    assert _events(run) == _events(other)
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


def _checkpoint(run: Path) -> Any:
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    assert saved.pop("seconds") > 0
    return saved


def _assert_same(one: Any, two: Any) -> None:
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert list(one) == list(two)
        for key in one:
            _assert_same(one[key], two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            _assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype
        assert one.shape == two.shape
        assert one.numpy().tobytes() == two.numpy().tobytes()
    else:
        assert one == two or one != one  # NaN


def _events(run: Path) -> list[tuple[int, str, bytes]]:
    """Every record but those with times in them."""
    (path,) = run.glob("*tfevents*")
    found = [
        (event.step, value.tag, value.SerializeToString(deterministic=True))
        for event in map(Event.FromString, RawEventFileLoader(str(path)).Load())
        for value in event.summary.value
        if not value.tag.startswith("_hparams_") and value.tag != "summary"
    ]
    assert found
    return found
