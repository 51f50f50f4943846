"""What the checks of faults share: commands answered by forks of this process, which has imported torch, in time."""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]

TINY = (
    "seq_len=8", "cell.hidden_size=4", "batch_size=4", "embed_size=4", "log_every=2", "evaluate.sequences=8",
    "evaluate.every=4", "evaluate.lengths=[8]", "trace.every=2", "trace.sequences=2", "checkpoint_every=2",
    "device=cpu",
)  # fmt: skip

DEADLINE = 60
"""Seconds after which a tiny command hangs. It takes one, or a few where there are more jobs than cores."""


class Failed(Exception):
    """A claim does not hold; the message says what was observed."""


def require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Failed(otherwise)


def numbers(run: Path) -> tuple[bytes, bytes, dict[str, Any]]:
    """(metrics, traces, result) of a finished run, without times and versions."""
    result = json.loads((run / "result.json").read_text())
    lasting = {key: x for key, x in result.items() if key not in ("seconds", "steps_per_second", "versions")}
    with np.load(run / "gradients.npz") as stored:
        traces = b"".join(stored[name].tobytes() for name in stored.files)
    return (run / "metrics.jsonl").read_bytes(), traces, lasting


def runs_below(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("config.json"))


def only_run(folder: Path) -> Path:
    runs = runs_below(folder)
    require(len(runs) == 1, f"{len(runs)} runs below {folder}")
    return runs[0]


@dataclass(frozen=True)
class Answer:
    """``code``: minus a signal's number where one ended it; None: it was killed at the deadline."""

    command: str
    code: int | None
    out: str
    err: str

    def __str__(self) -> str:
        last = (self.err.strip() or self.out.strip()).splitlines()[-1:]
        return f"{self.command} ended with {'a hang' if self.code is None else self.code}: {''.join(last)}"

    def sound(self) -> "Answer":
        """Raise Failed after a hang, a traceback or a crash."""
        if self.code not in (0, 1, 2) or "Traceback" in self.out + self.err:
            raise Failed(str(self))
        return self

    def exits(self, code: int) -> "Answer":
        if self.code != code or "Traceback" in self.out + self.err:
            raise Failed(str(self))
        return self


def main(*args: str) -> int:
    """``seqmem ARGS`` in this process."""
    from seqmem.cli.main import main as command

    sys.argv = ["seqmem", *args]
    try:
        return command()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)


@contextmanager
def forked(call: Callable[[], int], cwd: Path, env: dict[str, str]) -> Iterator[int]:
    """The id of a process, with a process group of its own, that calls and exits; its output is in out and err."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setsid()
            os.chdir(cwd)
            os.environ.update(env)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for stream, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(_beside(cwd, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
            code = call()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    yield pid


def _beside(folder: Path, name: str) -> Path:
    return folder.with_name(f"{folder.name}.{name}")


def wait(pid: int, seconds: float) -> int | None:
    """The exit code; None if the process has not ended by then."""
    end = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.005)


def answered(name: str, call: Callable[[], int], cwd: Path, *, kill_after: float | None = None, **env: str) -> Answer:
    """What a fork answers. ``kill_after``: seconds until its whole process group is killed with signal 9."""
    with forked(call, cwd, env) as pid:
        code = wait(pid, DEADLINE if kill_after is None else kill_after)
        if code is None:
            os.killpg(pid, signal.SIGKILL)
            killed = wait(pid, DEADLINE)
            code = None if kill_after is None else killed
    texts = [_beside(cwd, name).read_text(errors="replace") for name in ("out", "err")]
    return Answer(name, code, *texts)


def seqmem(*args: str, cwd: Path, kill_after: float | None = None, **env: str) -> Answer:
    """What ``seqmem ARGS`` answers."""
    return answered(f"seqmem {' '.join(args[:3])}", lambda: main(*args), cwd, kill_after=kill_after, **env)


def stopped_at(step: int, *args: str, cwd: Path) -> None:
    """Kill ``seqmem ARGS`` right after its checkpoint at ``step``."""

    def call() -> int:
        from seqmem.record.recorder import Recorder

        original = Recorder.save

        def save(self: Any, checkpoint: Any) -> None:
            original(self, checkpoint)
            if checkpoint["progress"]["step"] == step:
                os.kill(os.getpid(), signal.SIGKILL)

        Recorder.save = save  # pyright: ignore[reportAttributeAccessIssue]
        return main(*args)

    answered("seqmem train", call, cwd).exits(-signal.SIGKILL)


def warm() -> None:
    """Import what the verbs import, once for all forks; one thread, no CUDA."""
    os.environ.update({"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT / "src")})
    os.environ.pop("HYDRA_FULL_ERROR", None)
    import torch

    import seqmem.cli.config.build
    import seqmem.cli.verbs.playground
    import seqmem.cli.verbs.read
    import seqmem.cli.verbs.report
    import seqmem.cli.verbs.train
    import seqmem.reading
    import seqmem.record.recorder  # noqa: F401

    torch.set_num_threads(1)
