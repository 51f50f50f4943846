"""Faults that take more than a test: scripts/check_faults says which."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
OLDER = {
    "a2cab4e": "before the native kernels",
    "853ab1e": "before parallel sweeps",
}
"""Commits of this repository whose seqmem made runs that people have."""

TINY = (
    "seq_len=8", "cell.hidden_size=4", "batch_size=4", "embed_size=4", "log_every=2", "evaluate.sequences=8",
    "evaluate.every=4", "evaluate.lengths=[8]", "trace.every=2", "trace.sequences=2", "checkpoint_every=2",
    "device=cpu",
)  # fmt: skip

KILLED_AT_30 = """\
import os, signal, sys
from seqmem.record.recorder import Recorder
really = Recorder.save
def save(self, checkpoint):
    really(self, checkpoint)
    if checkpoint["progress"]["step"] == 30:
        os.kill(os.getpid(), signal.SIGKILL)
if os.environ.get("KILLED"):
    Recorder.save = save
from seqmem.cli.main import main
sys.exit(main())
"""


class Failed(Exception):
    """What was claimed is not so; the message says what is."""


class Said:
    """What ``seqmem ARGS`` did, in a process of its own."""

    def __init__(self, *args: str, cwd: Path, source: Path = ROOT / "src", **env: str) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in ("HYDRA_FULL_ERROR", "COLUMNS")}
        self.args = args
        done = subprocess.run(
            [sys.executable, "-c", KILLED_AT_30, *args],
            cwd=cwd, env={**kept, "PYTHONPATH": str(source), "CUDA_VISIBLE_DEVICES": "", **env},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def __str__(self) -> str:
        last = (self.err.strip() or self.out.strip()).splitlines()[-1:]
        return f"seqmem {' '.join(self.args[:3])} ended with {self.code}: {''.join(last)}"

    def ended(self, code: int) -> "Said":
        if self.code != code or "Traceback" in self.out + self.err:
            raise Failed(str(self))
        return self


def require(true: bool, otherwise: str) -> None:
    if not true:
        raise Failed(otherwise)


def only_run(folder: Path) -> Path:
    found = [path.parent for path in folder.rglob("config.json")]
    require(len(found) == 1, f"{len(found)} runs below {folder}")
    return found[0]


def numbers(run: Path) -> tuple[bytes, bytes, dict[str, Any]]:
    """All of a finished run's that are no times."""
    result = json.loads((run / "result.json").read_text())
    kept = {key: x for key, x in result.items() if key not in ("seconds", "steps_per_second", "versions")}
    with np.load(run / "gradients.npz") as stored:
        traces = b"".join(stored[name].tobytes() for name in stored.files)
    return (run / "metrics.jsonl").read_bytes(), traces, kept


# Older versions


def older(commit: str, folder: Path) -> str:
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    require(packed.returncode == 0, f"git has no commit {commit} here: a checkout with its history is needed")
    source = folder / commit
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(source, filter="data")
    made = folder / f"made-by-{commit}"
    made.mkdir()
    # An older seqmem has no native kernels until they are built, and some have no such setting.
    with_kernels = (source / "src/seqmem/kernels").is_dir()
    asked = (*TINY, "kernel=torch") if with_kernels else TINY
    Said("train", "cell=lstm", "steps=6", *asked, cwd=made, source=source / "src").ended(0)
    Said("train", "cell=rnn", "steps=40", *asked, cwd=made, source=source / "src", KILLED="1").ended(-signal.SIGKILL)
    finished, half = only_run(made / "outputs/pronoun/lstm"), only_run(made / "outputs/pronoun/rnn")
    require((finished / "result.json").exists() and not (half / "result.json").exists(), "not made as it was meant")
    before = {path.name: path.read_bytes() for path in finished.iterdir()}

    shown = Said("show", "outputs", cwd=made).ended(0)
    require("lstm" in shown.out and "rnn" in shown.out, f"seqmem show does not show both: {shown.out}")
    Said("show", "lstm", cwd=made).ended(0)
    Said("export", "lstm", "--state-dict", "lstm.npz", cwd=made).ended(0)
    said = Said("train", "cell=lstm", "steps=6", *TINY, *(["kernel=torch"] if with_kernels else []), cwd=made).ended(0)
    require("already finished" in said.out, f"it is run again: {said.out}")
    require({path.name: path.read_bytes() for path in finished.iterdir()} == before, "a finished run was changed")
    Said("eval", "lstm", "seq_len=8,16", "sequences=8", cwd=made).ended(0)
    Said("reproduce", "lstm", "--json", cwd=made)  # may be the same or not
    again = Said("reproduce", "lstm", "--out", "outputs-reproduced/1", "--json", cwd=made)
    found = json.loads(again.out)
    require(again.code == (0 if found["same"] else 1), str(again))
    Said("train", "cell=rnn", "steps=40", *TINY, *(["kernel=torch"] if with_kernels else []), cwd=made).ended(0)
    rows = [json.loads(line) for line in (half / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    require(steps == list(range(2, 41, 2)), f"the half-done run's steps are {steps}")
    earlier = json.loads((half / "environment.json").read_text())["earlier"]
    require(len(earlier) == 1, "what the half-done run was begun with is forgotten")
    first = found["first"]
    where = "bitwise the same here" if found["same"] else f"not the same here from step {first['step']} on"
    return f"shown, evaluated, exported, not run again; the half-done one goes on at step 30; reproduced: {where}"


# A full disk


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size. In a mount namespace of this process: it ends with it, whatever happens."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def enlarge(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)


def full_disk(folder: Path) -> str:
    command = (
        "train",
        "cell=lstm",
        "steps=200",
        "trace.every=1",
        *(s for s in TINY if not s.startswith("trace.every")),
    )
    Said(*command, "outputs=whole", cwd=folder).ended(0)
    whole = only_run(folder / "whole")
    with small_disk(folder / "disk", "160k") as disk:
        said = Said(*command, "outputs=disk", cwd=folder).ended(1)
        lines = said.err.strip().splitlines()
        require(len([line for line in lines if line.startswith("seqmem train:")]) == 1, f"not one line: {said.err}")
        require("No space left on device" in lines[-1] and "is safe" in lines[-1], lines[-1])
        run = only_run(disk)
        require(not (run / "result.json").exists(), "it says that it is finished")
        Said("show", "disk", cwd=folder).ended(0)
        saved = Said(*command, "outputs=disk", cwd=folder).ended(1)  # still full: the same line, and nothing is lost
        require("No space left on device" in saved.err, saved.err)
        enlarge(disk)
        ended = Said(*command, "outputs=disk", cwd=folder).ended(0)
        require("step 0/200" not in ended.out, "it began from nothing")
        require(numbers(run) == numbers(whole), "its numbers are not those of a run that had room")
    return f"'{lines[-1].removeprefix('seqmem train: ')[-90:]}', twice; with room it goes on to the same bits"


def full_disk_in_a_sweep(folder: Path) -> str:
    command = ("train", "-m", "cell=rnn,lstm,gru", "seed=0,1", "steps=40", *TINY)
    Said(*command, "outputs=sweep", cwd=folder).ended(0)
    with small_disk(folder / "swept", "500k") as disk:
        said = Said(*command, "outputs=swept", cwd=folder).ended(1)
        require("No space left on device" in said.err + said.out, str(said))
        finished = {path.parent: numbers(path.parent) for path in disk.rglob("result.json")}
        require(
            0 < len(finished) < 6, f"{len(finished)} of 6 were finished when the disk was full: choose another size"
        )
        enlarge(disk)
        Said(*command, "outputs=swept", cwd=folder).ended(0)
        require({run: numbers(run) for run in finished} == finished, "a finished run was changed")
        runs = [path.parent for path in disk.rglob("result.json")]
        require(len(runs) == 6, f"{len(runs)} of 6 are finished")
        for run in runs:
            require(numbers(run) == numbers(folder / "sweep" / run.relative_to(disk)), f"{run} has other numbers")
    return f"{len(finished)} of 6 had finished and stay as they are; the same command did the rest, to the same bits"


# TensorBoard


def hparams(folder: Path) -> str:
    """By the answers of the plugin's own web application to what its page asks."""
    Said("train", "-m", "cell=rnn,lstm,gru", "seq_len=8,16", "steps=6", *TINY[1:], cwd=folder).ended(0)
    Said("train", "cell=gru", "seed=7", "steps=40", *TINY, cwd=folder, KILLED="1").ended(-signal.SIGKILL)
    diverging = ("optimizer=sgd", "optimizer.lr=1e30", "clip_norm=null", "cell.nonlinearity=relu")
    Said("train", "cell=rnn", "steps=6", *diverging, *TINY, cwd=folder).ended(1)
    from tensorboard import program
    from tensorboard.backend import application
    from tensorboard.backend.event_processing import data_ingester
    from werkzeug.test import Client

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    board = program.TensorBoard()
    board.configure(logdir=str(folder / "outputs"), load_fast="false")
    ingester = data_ingester.LocalDataIngester(board.flags)
    ingester._multiplexer.AddRunsFromDirectory(str(folder / "outputs"))  # noqa: SLF001 (its own start makes a thread)
    ingester._multiplexer.Reload()  # noqa: SLF001
    page = Client(
        application.TensorBoardWSGIApp(
            board.flags, board.plugin_loaders, ingester.data_provider, board.assets_zip_provider
        )
    )

    def ask(what: str, **question: Any) -> Any:
        return json.loads(page.post(f"/data/plugin/hparams/{what}", json={"experimentName": "", **question}).data)

    metrics = ask("experiment")["metricInfos"]
    states = [f"STATUS_{state}" for state in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    columns = [{"metric": metric["name"]} for metric in metrics]
    rows = ask("session_groups", allowedStatuses=states, colParams=columns, startIndex=0, sliceSize=100)[
        "sessionGroups"
    ]
    require(len(rows) == 8, f"{len(rows)} rows of 8")
    found = {}
    for row in rows:
        run = row["sessions"][0]["name"]
        task, cell, name = run.split("/")
        asked = row["hparams"]
        length = int(asked["seq_len"])
        require((asked["task"], asked["cell"]) == (task, cell), f"{run} is called {asked}")
        require(name.startswith(f"len{length}-seed{int(asked['seed'])}-"), f"{run} has seq_len {length}")
        values = {one["name"]["tag"].removeprefix("result/"): one["value"] for one in row.get("metricValues", ())}
        found[run] = (row["sessions"][0]["status"], values)
        path = folder / "outputs" / run / "result.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        decay = result["gradient"]["end"]["state"]
        wanted = {
            "score": result["score"],
            "half_life": min(float(decay["half_life"]), 10 * length),
            "horizon": min(float(decay["horizon"]), length),
            "steps_to_solve": result["steps"] if result["steps_to_solve"] is None else result["steps_to_solve"],
        }
        for name, value in wanted.items():
            require(name in values, f"{run} has no {name} in the table")
            require(abs(values[name] - value) <= 1e-6 * abs(value), f"{run}: {name} is {values[name]}, not {value}")
    by_state = {state: sum(one == state for one, _ in found.values()) for state in states}
    require(list(by_state.values()) == [1, 6, 1, 0], f"the states are {by_state}")
    return "score, half-life, horizon and steps to solve of 6 finished runs of 3 cells; 1 failed and 1 killed have rows"


def main() -> int:
    bad = []
    with tempfile.TemporaryDirectory(prefix="seqmem-faults-") as name:
        checks = {
            **{f"runs made by {commit} ({what})": (older, commit) for commit, what in OLDER.items()},
            "a full disk in mid-run": (full_disk,),
            "a full disk in mid-sweep": (full_disk_in_a_sweep,),
            "TensorBoard's table of a sweep": (hparams,),
        }
        for place, (claim, (check, *given)) in enumerate(checks.items()):
            folder = Path(name) / str(place)
            folder.mkdir()
            began = time.monotonic()
            try:
                said = f"ok: {check(*given, folder)}"
            except Failed as why:
                said = f"FAILED: {why}"
                bad.append(claim)
            print(f"{claim}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(bad)} of {len(checks)} failed: {', '.join(bad)}" if bad else f"all {len(checks)} hold")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
