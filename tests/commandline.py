"""The command line for tests, and what its runs leave behind.

Three ways to run a command, the cheapest first: the fixture ``typed`` in this process; ``forked`` and ``started`` in a
process forked from a warm Python, with signals and streams of its own; ``in_a_process`` from the very start, for what
depends on imports or the environment. ``train`` and ``sweep_jobs`` begin below the command line: composing
the settings is half of what a small run costs.
"""

import atexit
import json
import locale
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Any, Protocol

import google_crc32c
import numpy as np
import torch
from hydra import compose
from rich.console import Console
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from seqmem.cli.config.own_code import forget_edited
from seqmem.cli.config.own_hydra import own_hydra
from seqmem.cli.config.schema import RunConfig, from_mapping
from seqmem.cli.launch.jobs import Job, job_of
from seqmem.cli.launch.one_run import execute

TINY = (
    "seq_len=8", "steps=6", "cell.hidden_size=4", "batch_size=4", "embed_size=4", "log_every=2",
    "evaluate.sequences=8", "evaluate.every=4", "evaluate.lengths=[8]", "trace.every=4", "trace.sequences=2",
    "checkpoint_every=2",
)  # fmt: skip
"""A run of a tenth of a second once torch is imported. For tasks whose shortest length is 8 or less."""

LSTM = (*TINY, "cell=lstm", "device=cpu", "quiet=true")
"""The run of the fixture ``finished``."""

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

class Narrow(Leaky):
    def initial_state(self, batch_size):
        return {"h": torch.zeros(batch_size, self.output_size)}

class Sizeless(Leaky):
    def __init__(self, input_size, hidden_size):
        nn.Module.__init__(self)

class NotACell:
    pass
'''

SIGNALLED = '''\
import os
from pathlib import Path
from seqmem.cells import LSTM

class Signalled(LSTM):
    """An lstm that sends its process a signal in a step of the training; the file `signal` has both numbers."""
    steps = 0
    def forward(self, xs, state=None):
        self.steps += self.training
        note = Path(__file__).with_name("signal")
        if note.exists() and self.training:
            step, number = map(int, note.read_text().split())
            if self.steps == step:
                os.kill(os.getpid(), number)
        return super().forward(xs, state)
'''


LIBRARIES = ("random", "copy", "logging", "token", "numbers", "queue", "numpy", "torch", "hydra", "tqdm", "seqmem")
"""Names that a user's own file may have without harm."""


def shadow(folder: Path, names: Iterable[str] = LIBRARIES) -> None:
    """Files beside the user, named like libraries: importing one ends the process."""
    for name in names:
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name}.py was imported in place of a library')\n")


@dataclass(frozen=True)
class Completed:
    """A finished command: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    def refuses(self, line: str, *, code: int, verb: str = "train") -> None:
        """It wrote a single line, to stderr, which begins with the verb and contains ``line``."""
        assert self.err.startswith(f"seqmem {verb}: "), self
        assert self.err.count("\n") == 1, self
        assert self.err.endswith("\n"), self
        assert line in self.err, self
        assert "Traceback" not in self.out + self.err
        assert self.code == code, self


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what changes the output of a command; one thread, no CUDA."""
    dropped = ("HYDRA_FULL_ERROR", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "COMP_LINE", "PYTHONPATH")
    inherited = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**inherited, "SEQMEM_COMMAND": "seqmem", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **changes}


def in_a_process(*args: str, cwd: Path, **env: str) -> Completed:
    """``python -m seqmem ARGS``, from its start to its end: 2 seconds of imports where it trains."""
    command = [sys.executable, "-m", "seqmem", *args]
    done = subprocess.run(
        command, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=120, check=False
    )
    return Completed(done.returncode, done.stdout, done.stderr)


class Process(Protocol):
    """What tests use of ``subprocess.Popen``."""

    stdout: IO[str] | None
    stderr: IO[str] | None

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def communicate(self, *, timeout: float | None = None) -> tuple[str, str]: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Fork:
    """A process that warm.py has forked. Reports come through a pipe: its id, then its exit code."""

    def __init__(self, report: int, stdout: int, stderr: int | None) -> None:
        self.report = os.fdopen(report)
        self.stdout: IO[str] | None = os.fdopen(stdout, encoding=locale.getencoding())
        self.stderr: IO[str] | None = None if stderr is None else os.fdopen(stderr, encoding=locale.getencoding())
        self.pid = int(self.report.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._returncode(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._returncode(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def _returncode(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self.report], [], [], timeout)[0]:
            self.returncode = int(self.report.readline())
            self.report.close()
        return self.returncode

    def communicate(self, *, timeout: float | None = None) -> tuple[str, str]:
        """Read both streams to their ends, then wait."""
        streams = [stream for stream in (self.stdout, self.stderr) if stream is not None and not stream.closed]
        with ThreadPoolExecutor(2) as pool:
            texts = dict(zip(map(id, streams), pool.map(lambda stream: stream.read(), streams), strict=True))
        for stream in streams:
            stream.close()
        self.wait(timeout)
        return texts.get(id(self.stdout), ""), texts.get(id(self.stderr), "")

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _warm() -> socket.socket:
    """A channel to a warm Python, which the processes of one test run share; it ends with the last of them."""
    address = f"\0seqmem tests {os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"  # abstract: no file
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            listener.bind(address)
        except OSError:  # another process of the run has started it
            ours.connect(address)
            atexit.register(ours.close)
            return ours
        listener.listen()
        ours.connect(address)
        script = Path(__file__).with_name("warm.py")
        server = subprocess.Popen(
            [sys.executable, str(script), str(listener.fileno())],
            env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[listener.fileno()],
        )  # fmt: skip

    def end_it() -> None:
        ours.close()
        server.wait()

    atexit.register(end_it)
    return ours


def _fork(args: tuple[str, ...], cwd: Path, env: dict[str, str], *, together: bool = False, **target: str) -> Fork:
    out, out_end = os.pipe()
    report, report_end = os.pipe()
    err, err_end = (None, out_end) if together else os.pipe()
    with Path(os.devnull).open() as nothing:
        request = {"module": "seqmem", "args": args, "cwd": str(cwd), "env": environment(**env), **target}
        socket.send_fds(_warm(), [json.dumps(request).encode()], [nothing.fileno(), out_end, err_end, report_end])
    for descriptor in {out_end, err_end, report_end}:
        os.close(descriptor)
    return Fork(report, out, err)


FORKS = sys.platform == "linux"
"""Elsewhere torch does not survive a fork, and a socket of messages may be missing: every process is started anew."""


def forked(*args: str, cwd: Path, **env: str) -> Completed:
    """``seqmem ARGS`` in a process of its own, without the cost of its imports."""
    if not FORKS:
        return in_a_process(*args, cwd=cwd, **env)
    return end(_fork(args, cwd, env))


def forked_module(name: str, *args: str, cwd: Path) -> Completed:
    """``python -m NAME ARGS`` in a process that has imported torch and seqmem already; Linux only."""
    return end(_fork(args, cwd, {}, module=name))


def forked_code(code: str, *args: str, cwd: Path, **env: str) -> Completed:
    """``python -c CODE ARGS`` in a process of its own that has torch already: what it did there ends with it."""
    if FORKS:
        return end(_fork(args, cwd, env, code=code))
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, cwd=cwd, env=environment(**env), capture_output=True, text=True, check=False)
    return Completed(done.returncode, done.stdout, done.stderr)


@contextmanager
def started(*args: str, cwd: Path, together: bool = False, **env: str) -> Iterator[Process]:
    """``seqmem ARGS`` still running, forked where that is possible; it ends with the test at the latest.

    ``together``: stderr goes where stdout goes.
    """
    if FORKS:
        process: Process = _fork(args, cwd, env, together=together)
    else:
        process = subprocess.Popen(
            [sys.executable, "-m", "seqmem", *args], cwd=cwd, env=environment(**env), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if together else subprocess.PIPE, text=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def end(process: Process) -> Completed:
    """Wait for a process to end by itself."""
    out, err = process.communicate(timeout=120)
    return Completed(process.wait(), out, err or "")


def until(true: Callable[[], Any], *, of: Process, seconds: float = 90) -> None:
    """Wait for a condition that a running process brings about."""
    deadline = time.monotonic() + seconds
    while not true():
        assert of.poll() is None, f"it ended before that: {of.communicate()}"
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


@cache
def _composed(*overrides: str) -> Any:
    with own_hydra():
        return compose("train", overrides=[*overrides])


def composed(*overrides: str) -> RunConfig:
    """The configuration of ``seqmem train OVERRIDES``."""
    forget_edited()
    return from_mapping(_composed(*overrides))


def train(config: RunConfig, **settings: Any) -> Path:
    """Do a run as ``seqmem train`` does once its settings are composed; returns its directory."""
    return execute(replace(config, **settings), overrides=[], console=Console(soft_wrap=True)).path


def sweep_jobs(*overrides: str, seeds: Sequence[int], **settings: Any) -> list[Job]:
    """The jobs of ``seqmem train -m OVERRIDES seed=SEEDS`` in the current directory; Hydra composes but one of them."""
    config = replace(composed(*overrides), **settings)
    return [job_of(at, len(seeds), [f"seed={seed}"], replace(config, seed=seed)) for at, seed in enumerate(seeds)]


def _quick_checksums() -> None:
    """TensorBoard's reader computes check sums in Python: most of the time in which two runs are compared."""
    every_byte = bytes(range(256))
    assert google_crc32c.value(every_byte) == pywrap_tensorflow.crc32c(every_byte)
    pywrap_tensorflow.crc32c = google_crc32c.value


_quick_checksums()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit this process's files to ``size`` bytes: the effect of a full disk, without filling one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def only_run(folder: Path) -> Path:
    """The one run below a folder."""
    (run,) = runs_below(folder)
    return run


def runs_below(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("config.json"))


def rows(run: Path) -> list[dict[str, Any]]:
    """``metrics.jsonl``, without a last line that is still being written."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def trained_to(folder: Path) -> int:
    """The last step in any ``metrics.jsonl`` below a folder; -1: none."""
    return max((row["step"] for run in runs_below(folder) for row in rows(run)), default=-1)


def assert_same_numbers(run: Path, other: Path) -> None:
    """Two runs are equal bit for bit, apart from the time they took."""
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
    assert saved["checksums"].pop("events")  # of times
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
    """Every record of the event file, without those that hold a time."""
    (path,) = run.glob("*tfevents*")
    records = [
        (event.step, value.tag, value.SerializeToString(deterministic=True))
        for event in map(Event.FromString, RawEventFileLoader(str(path)).Load())
        for value in event.summary.value
        if not value.tag.startswith("_hparams_") and value.tag != "summary"
    ]
    assert records
    return records
