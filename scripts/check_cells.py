"""Every cell on every task, in short runs; see scripts/check_cells."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from hydra import compose
from omegaconf import OmegaConf

import seqmem
from seqmem.cli.config.build import build
from seqmem.cli.config.own_hydra import own_hydra
from seqmem.cli.config.schema import from_mapping
from seqmem.cli.verbs.eval import evaluate_run
from seqmem.cli.verbs.export import export_state_dict
from seqmem.models.base import parameter_count
from seqmem.record.recorder import load_checkpoint
from seqmem.tasks import TASKS
from seqmem.tasks.base import choice_of
from seqmem.training import loop

CONF = Path(__file__).parents[1] / "conf"
TINY = (
    "steps=5", "cell.hidden_size=4", "batch_size=4", "embed_size=4", "log_every=1", "evaluate.every=2",
    "evaluate.sequences=8", "trace.every=2", "trace.sequences=2", "checkpoint_every=1", "device=cpu", "quiet=true",
)  # fmt: skip
PARAMS = 20_000
TOLERANCE = 0.02


KINDS = {choice_of(name, kind.folder): kind for name, kind in TASKS.items()}
"""What a command line calls each task -> its class."""


def choices(kind: str) -> list[str]:
    return sorted(path.stem for path in (CONF / kind).glob("*.yaml") if path.stem != "custom")


def shortest(task: str) -> str:
    """The shortest length that the task's own file allows."""
    least = OmegaConf.select(OmegaConf.load(CONF / "task" / f"{task}.yaml"), "shortest")
    return f"seq_len={max(KINDS[task]().min_seq_len, least or 0)}"


def sweep(cells: list[str], task: str, *more: str, folder: Path) -> tuple[int, list[str]]:
    """Runs that finished, and those that did not with the reason's last line."""
    outputs = folder / "-".join((task, *more)).replace("=", "-")
    arguments = ["-m", *TINY, f"task={task}", shortest(task), f"cell={','.join(cells)}", f"outputs={outputs}", *more]
    done = subprocess.run(
        [sys.executable, "-m", "seqmem", "train", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    states = [json.loads(path.read_text())["state"] for path in outputs.rglob("status.json")]
    if done.returncode == 0 and Counter(states) == {"finished": len(cells)}:
        return len(states), []
    return states.count("finished"), (done.stderr or done.stdout).strip().splitlines()[-3:]


def killed_at(step: int, settings: tuple[str, ...], outputs: Path) -> None:
    """Do a run in a process that is killed as ``step`` updates are done."""
    process = os.fork()
    if process:
        _, status = os.waitpid(process, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        return
    real, done = loop.update, 0

    def update(*args: object, **options: object) -> object:
        nonlocal done
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return real(*args, **options)  # pyright: ignore[reportArgumentType]

    loop.update = update  # pyright: ignore[reportAttributeAccessIssue]
    seqmem.train(*settings, outputs=outputs)
    os._exit(0)


def alone(cell: str, folder: Path) -> list[str]:
    """What is wrong with a run of this cell."""
    settings = (*TINY, f"cell={cell}", "task=pronoun", shortest("pronoun"))
    wrong: list[str] = []
    whole = seqmem.train(*settings, outputs=folder / "whole")
    killed_at(3, settings, folder / "killed")
    resumed = seqmem.train(*settings, outputs=folder / "killed")
    wrong += [
        f"killed and resumed, {name} differs"
        for name in ("metrics.jsonl", "gradients.npz")
        if whole.file(name).read_bytes() != resumed.file(name).read_bytes()
    ]
    weights, other = (load_checkpoint(run.file("checkpoint.pt"))["model"] for run in (whole, resumed))
    if not all(torch.equal(value, other[name]) for name, value in weights.items()):
        wrong.append("killed and resumed, the weights differ")
    with np.load(whole.file("gradients.npz")) as series:
        if not series.files or not any(np.isfinite(series[name]).any() for name in series.files):
            wrong.append("the trace is empty")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluate_run(whole, None, 8, "cpu")
    export_state_dict(whole, folder / f"{cell}.pt")
    read = torch.load(folder / f"{cell}.pt", weights_only=True)
    build(from_mapping(whole.config())).model.load_state_dict(read)
    if not all(torch.equal(value, read[name]) for name, value in weights.items()):
        wrong.append("the exported weights differ")
    with own_hydra():
        sized = from_mapping(compose("train", overrides=[f"cell={cell}", f"cell.params={PARAMS}", "device=cpu"]))
    count = parameter_count(build(sized).model)
    if abs(count / PARAMS - 1) > TOLERANCE:
        wrong.append(f"params={PARAMS:,} makes {count:,}")
    return wrong


def main(chosen: list[str]) -> int:
    begun = time.monotonic()
    torch.set_num_threads(1)
    known = choices("cell")
    if unknown := set(chosen) - set(known):
        print(f"no such cell: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return 2
    cells, bad = chosen or known, 0
    with tempfile.TemporaryDirectory(prefix="seqmem-cells-") as name:
        folder = Path(name)
        for cell in cells:
            (own := folder / cell).mkdir()
            try:
                wrong = alone(cell, own)
            except (AssertionError, RuntimeError, ValueError, seqmem.RunError) as error:
                wrong = [f"{type(error).__name__}: {error}"]
            print(f"{cell}: {'; '.join(wrong) or 'ok: resumed bit for bit, trace, eval, export, params'}", flush=True)
            bad += bool(wrong)
        fed_back = [task for task in KINDS if KINDS[task]().feedback() is not None]
        plan = [(task, ()) for task in KINDS] + [(task, ("model=encoder_decoder",)) for task in fed_back]
        for task, more in plan:
            count, reason = sweep(cells, task, *more, folder=folder)
            print(f"{' '.join((task, *more))}: {count} of {len(cells)} cells finished {' | '.join(reason)}".rstrip())
            sys.stdout.flush()
            bad += bool(reason)
    seconds = time.monotonic() - begun
    print(f"{len(cells)} cells, {len(plan)} sweeps, {seconds:.0f} s: " + (f"FAILED: {bad}" if bad else "all hold"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
