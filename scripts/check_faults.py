"""Checks of faults that are too slow for tests; see scripts/check_faults."""

import argparse
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

import faults_checkouts as checkouts
import faults_damage as damage
import faults_kills as kills
import faults_launch as starting
import faults_links as links
from faults_shared import ROOT, TINY, Failed, numbers, only_run, require, warm

OLDER = {
    "a2cab4e": "before the native kernels",
    "853ab1e": "before parallel sweeps",
}
"""Commits of this repository; runs of their seqmem must stay readable."""

KILLED_AT_30 = """\
import os, signal, sys
try:
    from seqmem.cli.main import main
    from seqmem.record.recorder import Recorder
except ModuleNotFoundError:  # an older version
    from seqmem.cli import main
    from seqmem.record import Recorder
original = Recorder.save
def save(self, checkpoint):
    original(self, checkpoint)
    if checkpoint["progress"]["step"] == 30:
        os.kill(os.getpid(), signal.SIGKILL)
if os.environ.get("KILLED"):
    Recorder.save = save
sys.exit(main())
"""


class Command:
    """``seqmem ARGS`` in a subprocess, with its exit code and output."""

    def __init__(self, *args: str, cwd: Path, source: Path = ROOT / "src", **env: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in ("HYDRA_FULL_ERROR", "COLUMNS")}
        self.args = args
        done = subprocess.run(
            [sys.executable, "-c", KILLED_AT_30, *args],
            cwd=cwd, env={**inherited, "PYTHONPATH": str(source), "CUDA_VISIBLE_DEVICES": "", **env},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def __str__(self) -> str:
        last = (self.err.strip() or self.out.strip()).splitlines()[-1:]
        return f"seqmem {' '.join(self.args[:3])} ended with {self.code}: {''.join(last)}"

    def exits(self, code: int) -> "Command":
        if self.code != code or "Traceback" in self.out + self.err:
            raise Failed(str(self))
        return self


# Older versions


def older(folder: Path, commit: str) -> str:
    archived = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    require(archived.returncode == 0, f"git has no commit {commit} here: a checkout with its history is needed")
    source = folder / commit
    with tarfile.open(fileobj=BytesIO(archived.stdout)) as archive:
        archive.extractall(source, filter="data")
    place = folder / f"made-by-{commit}"
    place.mkdir()
    # Older versions need a build step for native kernels, or have no such setting.
    with_kernels = (source / "src/seqmem/kernels").is_dir()
    settings = (*TINY, "kernel=torch") if with_kernels else TINY
    Command("train", "cell=lstm", "steps=6", *settings, cwd=place, source=source / "src").exits(0)
    Command("train", "cell=rnn", "steps=40", *settings, cwd=place, source=source / "src", KILLED="1").exits(
        -signal.SIGKILL
    )
    finished, half = only_run(place / "outputs/pronoun/lstm"), only_run(place / "outputs/pronoun/rnn")
    require((finished / "result.json").exists() and not (half / "result.json").exists(), "not made as intended")
    before = {path.name: path.read_bytes() for path in finished.iterdir()}

    shown = Command("show", "outputs", cwd=place).exits(0)
    require("lstm" in shown.out and "rnn" in shown.out, f"seqmem show does not show both: {shown.out}")
    Command("show", "lstm", cwd=place).exits(0)
    Command("export", "lstm", "--state-dict", "lstm.npz", cwd=place).exits(0)
    done = Command(
        "train", "cell=lstm", "steps=6", *TINY, *(["kernel=torch"] if with_kernels else []), cwd=place
    ).exits(0)
    require("already finished" in done.out, f"it is run again: {done.out}")
    require({path.name: path.read_bytes() for path in finished.iterdir()} == before, "a finished run was changed")
    Command("eval", "lstm", "seq_len=8,16", "sequences=8", cwd=place).exits(0)
    Command("reproduce", "lstm", "--json", cwd=place)  # either result will do
    again = Command("reproduce", "lstm", "--out", "outputs-reproduced/1", "--json", cwd=place)
    comparison = json.loads(again.out)
    require(again.code == (0 if comparison["same"] else 1), str(again))
    Command("train", "cell=rnn", "steps=40", *TINY, *(["kernel=torch"] if with_kernels else []), cwd=place).exits(0)
    rows = [json.loads(line) for line in (half / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    require(steps == list(range(2, 41, 2)), f"the half-done run's steps are {steps}")
    earlier = json.loads((half / "environment.json").read_text())["earlier"]
    require(len(earlier) == 1, "what the half-done run was begun with is forgotten")
    first = comparison["first"]
    where = "bitwise the same here" if comparison["same"] else f"not the same here from step {first['step']} on"
    return f"shown, evaluated, exported, not run again; the half-done one goes on at step 30; reproduced: {where}"


# A full disk


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size, in this process's mount namespace, so that it disappears with the process."""
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
    Command(*command, "outputs=whole", cwd=folder).exits(0)
    whole = only_run(folder / "whole")
    with small_disk(folder / "disk", "160k") as disk:
        done = Command(*command, "outputs=disk", cwd=folder).exits(1)
        lines = done.err.strip().splitlines()
        require(len([line for line in lines if line.startswith("seqmem train:")]) == 1, f"not one line: {done.err}")
        require("No space left on device" in lines[-1] and "is safe" in lines[-1], lines[-1])
        run = only_run(disk)
        require(not (run / "result.json").exists(), "it says that it is finished")
        Command("show", "disk", cwd=folder).exits(0)
        second = Command(*command, "outputs=disk", cwd=folder).exits(1)  # still full: the same line, and no data lost
        require("No space left on device" in second.err, second.err)
        enlarge(disk)
        third = Command(*command, "outputs=disk", cwd=folder).exits(0)
        require("step 0/200" not in third.out, "it began from nothing")
        require(numbers(run) == numbers(whole), "its numbers are not those of a run that had room")
    return f"'{lines[-1].removeprefix('seqmem train: ')[-90:]}', twice; with room it goes on to the same bits"


def full_disk_in_a_sweep(folder: Path) -> str:
    command = ("train", "-m", "cell=rnn,lstm,gru", "seed=0,1", "steps=40", *TINY)
    Command(*command, "outputs=sweep", cwd=folder).exits(0)
    with small_disk(folder / "swept", "500k") as disk:
        done = Command(*command, "outputs=swept", cwd=folder).exits(1)
        require("No space left on device" in done.err + done.out, str(done))
        finished = {path.parent: numbers(path.parent) for path in disk.rglob("result.json")}
        require(
            0 < len(finished) < 6, f"{len(finished)} of 6 were finished when the disk was full: choose another size"
        )
        enlarge(disk)
        Command(*command, "outputs=swept", cwd=folder).exits(0)
        require({run: numbers(run) for run in finished} == finished, "a finished run was changed")
        runs = [path.parent for path in disk.rglob("result.json")]
        require(len(runs) == 6, f"{len(runs)} of 6 are finished")
        for run in runs:
            require(numbers(run) == numbers(folder / "sweep" / run.relative_to(disk)), f"{run} has other numbers")
    return f"{len(finished)} of 6 had finished and stay as they are; the same command did the rest, to the same bits"


# TensorBoard


def hparams(folder: Path) -> str:
    """Send the plugin's web application the requests of its page, and check the answers."""
    Command("train", "-m", "cell=rnn,lstm,gru", "seq_len=8,16", "steps=6", *TINY[1:], cwd=folder).exits(0)
    Command("train", "cell=gru", "seed=7", "steps=40", *TINY, cwd=folder, KILLED="1").exits(-signal.SIGKILL)
    diverging = ("optimizer=sgd", "optimizer.lr=1e30", "clip_norm=null", "cell.nonlinearity=relu")
    Command("train", "cell=rnn", "steps=6", *diverging, *TINY, cwd=folder).exits(1)
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

    def request(what: str, **body: Any) -> Any:
        return json.loads(page.post(f"/data/plugin/hparams/{what}", json={"experimentName": "", **body}).data)

    metrics = request("experiment")["metricInfos"]
    states = [f"STATUS_{state}" for state in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    columns = [{"metric": metric["name"]} for metric in metrics]
    rows = request("session_groups", allowedStatuses=states, colParams=columns, startIndex=0, sliceSize=100)[
        "sessionGroups"
    ]
    require(len(rows) == 8, f"{len(rows)} rows of 8")
    table = {}
    for row in rows:
        run = row["sessions"][0]["name"]
        task, cell, name = run.split("/")
        settings = row["hparams"]
        length = int(settings["seq_len"])
        require((settings["task"], settings["cell"]) == (task, cell), f"{run} is called {settings}")
        require(name.startswith(f"len{length}-seed{int(settings['seed'])}-"), f"{run} has seq_len {length}")
        values = {one["name"]["tag"].removeprefix("result/"): one["value"] for one in row.get("metricValues", ())}
        table[run] = (row["sessions"][0]["status"], values)
        path = folder / "outputs" / run / "result.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        decay = result["probes"]["gradient"]["end"]["state"]
        expected = {
            "score": result["score"],
            "log10_arrives": max(-12, min(float(decay["log10_arrives"]), 12)),
            "horizon": min(float(decay["horizon"]), length),
            "steps_to_solve": result["steps"] if result["steps_to_solve"] is None else result["steps_to_solve"],
        }
        for name, value in expected.items():
            require(name in values, f"{run} has no {name} in the table")
            require(abs(values[name] - value) <= 1e-6 * abs(value), f"{run}: {name} is {values[name]}, not {value}")
    by_state = {state: sum(one == state for one, _ in table.values()) for state in states}
    require(list(by_state.values()) == [1, 6, 1, 0], f"the states are {by_state}")
    return "score, gradient, horizon and steps to solve of 6 finished runs of 3 cells; 1 failed and 1 killed have rows"


# Command lines


def mistyped(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "fuzz.py"), "1000", "0"],
        cwd=folder, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    require(done.returncode == 0, done.stdout + done.stderr)
    return done.stdout.strip()


def slow_checks() -> dict[str, tuple[Any, ...]]:
    return {
        "runs killed at random": (kills.killed_runs, 9, 6),
        "sweeps killed at random": (kills.killed_sweeps, 3, 3),
        "seqmem.train from threads": (kills.threads, 6),
        "code edited in mid-sweep, one worker": (kills.edited_code, 1),
        "code edited in mid-sweep, two workers": (kills.edited_code, 2),
        "damaged files of a finished run, every verb": (damage.finished_runs, 3, 7, 10),
        "damaged files of a stopped run, resumed": (damage.stopped_runs, 8, 7),
        "hostile names": (damage.hostile_names,),
        "a stranger's run": (damage.strangers,),
        "links below a folder of runs": (links.trees, 12),
        "planted links": (links.planted,),
        "moved and copied checkouts": (checkouts.moved_and_copied,),
        "files named like libraries": (starting.shadowing_files, 3),
        "a long TMPDIR": (starting.long_tmpdir,),
        "CPU quotas": (starting.quotas, 500),
        "command lines from a grammar": (mistyped,),
        **{f"runs made by {commit} ({what})": (older, commit) for commit, what in OLDER.items()},
        "a full disk in mid-run": (full_disk,),
        "a full disk in mid-sweep": (full_disk_in_a_sweep,),
        "TensorBoard's table of a sweep": (hparams,),
    }


def quick_checks() -> dict[str, tuple[Any, ...]]:
    """A small number of each kind that takes no time and no rights."""
    return {
        "runs killed at random": (kills.killed_runs, 1, 2),
        "seqmem.train from threads": (kills.threads, 2),
        "damaged files of a finished run, some verbs": (damage.finished_runs, 1, 0, 1),
        "damaged files of a stopped run, resumed": (damage.stopped_runs, 1, 0),
        "a stranger's run": (damage.strangers,),
        "links below a folder of runs": (links.trees, 1),
        "files named like libraries": (starting.shadowing_files, 1),
        "CPU quotas": (starting.quotas, 50),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/check_faults", description="Checks of faults, and a verdict.")
    parser.add_argument("--quick", action="store_true", help="a few cases of most kinds: 80 seconds of processor time")
    parser.add_argument("--only", metavar="WORDS", default="", help="only the claims that begin with these words")
    options = parser.parse_args()
    checks = quick_checks() if options.quick else slow_checks()
    checks = {claim: check for claim, check in checks.items() if claim.startswith(options.only)}
    if not checks:
        parser.error(f"no claim begins with {options.only!r}")
    bad = []
    with tempfile.TemporaryDirectory(prefix="seqmem-faults-") as name:
        os.environ["XDG_STATE_HOME"] = str(Path(name) / "state")
        warm()
        for place, (claim, (check, *arguments)) in enumerate(checks.items()):
            folder = Path(name) / str(place)
            folder.mkdir()
            start = time.monotonic()
            try:
                verdict = f"ok: {check(folder, *arguments)}"
            except Failed as why:
                verdict = f"FAILED: {why}"
                bad.append(claim)
            print(f"{claim}: {verdict} ({time.monotonic() - start:.0f} s)", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(bad)} of {len(checks)} failed: {', '.join(bad)}" if bad else f"all {len(checks)} hold")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
