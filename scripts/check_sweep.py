"""Checks of sweeps on one machine: speed-up, and recovery from faults. Run it with scripts/check_sweep.

Runs 3 cells x 4 lengths x seeds of `pronoun` serially, and in parallel with one process for each core, and compares
times and, bit for bit, numbers. Then all processes of the same sweep are killed with SIGKILL, twice, and the sweep is
started again: in the end every run must be finished, and runs finished before a kill must not change. Then single
faults: a killed job, a killed parent, a full disk, a second sweep in the same directory, a closed pipe.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from seqmem.cores import usable_cores

ENOUGH = 0.9
"""The least speed-up, relative to the number of cores: 1.8 on two."""

TIMEOUT = 4 * 3600


class Failed(Exception):
    """A check failed; the message says how."""


def main() -> int:
    options = parser().parse_args()
    steps = 1000 if options.full else options.steps
    lengths = [10, 20, 50, 100]
    sweep = [
        "cell=rnn,lstm,gru",
        f"seq_len={','.join(map(str, lengths))}",
        "seed=" + ",".join(map(str, range(options.seeds))),
    ]
    sweep += [f"steps={steps}"]
    total = 3 * len(lengths) * options.seeds
    folder = Path(tempfile.mkdtemp(prefix="seqmem-check-"))
    bad = []

    def check(name: str, claim: Callable[[], str]) -> None:
        start = time.monotonic()
        try:
            verdict = f"ok, {claim()}"
        except Failed as why:
            bad.append(name)
            verdict = f"FAILED: {why}"
        print(f"{name:<28} {verdict} ({time.monotonic() - start:.0f} s)", flush=True)

    print(f"{total} runs of {steps} steps, {usable_cores()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    small = ["cell=rnn,lstm", "seq_len=10,20", "seed=0,1", f"steps={min(steps, 300)}"]
    if not options.faults:
        check("speed", lambda: speed(folder, sweep, total, options.enough))
        check("killed twice", lambda: killed_twice(folder, sweep, total))
    check("a job is killed", lambda: killed_job(folder, small))
    check("the parent is killed", lambda: killed_parent(folder, small))
    check("a full disk", lambda: full_disk(folder, small))
    check("two sweeps at one place", lambda: two_sweeps(folder, small))
    check("a reader goes away", lambda: no_reader(folder, small))
    if bad:
        print(f"verdict: not all well: {', '.join(bad)}; what they left is in {folder}")
        return 1
    shutil.rmtree(folder)
    print("verdict: all well")
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="scripts/check_sweep", description=__doc__)
    made.add_argument("--steps", type=int, default=100, help="of a run (default: 100)")
    made.add_argument("--seeds", type=int, default=5, help="of each cell and length (default: 5)")
    made.add_argument("--full", action="store_true", help="1,000 steps a run")
    made.add_argument("--faults", action="store_true", help="leave out the long sweeps")
    enough = "how many times as fast is fast enough (default: 0.9 for each core)"
    made.add_argument("--enough", type=float, default=ENOUGH * usable_cores(), help=enough)
    return made


def command(settings: Sequence[str], outputs: Path, workers: int | str = "auto") -> list[str]:
    where = [f"outputs={outputs}", f"hydra.launcher.workers={workers}"]
    return [sys.executable, "-m", "seqmem", "train", "-m", *settings, *where]


def run(settings: Sequence[str], outputs: Path, workers: int | str = "auto") -> subprocess.CompletedProcess[str]:
    line = command(settings, outputs, workers)
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=TIMEOUT)


@contextmanager
def start(settings: Sequence[str], outputs: Path):
    """Start the sweep in its own process group, and kill the group in the end."""
    log = outputs.with_suffix(".log")
    with log.open("a") as file:
        process = subprocess.Popen(command(settings, outputs), stdout=file, stderr=file, start_new_session=True)
    try:
        yield process
    finally:
        kill_all(process)


def kill_all(process: subprocess.Popen[Any]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def until(condition: Callable[[], object], process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if process.poll() is not None:
            raise Failed(f"it ended by itself, with exit code {process.returncode}")
        if time.monotonic() > deadline:
            raise Failed("it does not go on")
        time.sleep(0.05)


def results(outputs: Path) -> dict[Path, int]:
    """Finished run -> time at which it finished, in ns."""
    return {path.parent.relative_to(outputs): path.stat().st_mtime_ns for path in outputs.rglob("result.json")}


def whole(done: subprocess.CompletedProcess[str], outputs: Path, total: int) -> None:
    """Check that all runs are finished, and that the output says so."""
    count = len(results(outputs))
    if done.returncode or count != total or f"{total} of {total} runs finished" not in done.stdout:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise Failed(f"{count} of {total} results, exit code {done.returncode}, {last}")


def equal(outputs: Path, other: Path) -> None:
    """Check that every run has the same numbers, bit for bit."""
    for path in results(outputs):
        if (outputs / path / "metrics.jsonl").read_bytes() != (other / path / "metrics.jsonl").read_bytes():
            raise Failed(f"{path}/metrics.jsonl differs")
        one, two = (json.loads((root / path / "result.json").read_text()) for root in (outputs, other))
        for result in (one, two):
            del result["seconds"], result["steps_per_second"]
        if one != two:
            raise Failed(f"{path}/result.json differs")
        with np.load(outputs / path / "gradients.npz") as a, np.load(other / path / "gradients.npz") as b:
            if a.files != b.files or any(a[name].tobytes() != b[name].tobytes() for name in a.files):
                raise Failed(f"{path}/gradients.npz differs")


def speed(folder: Path, sweep: Sequence[str], total: int, enough: float) -> str:
    seconds = {}
    for name, workers in (("serial", 1), ("parallel", "auto")):
        start = time.monotonic()
        whole(run(sweep, folder / name, workers), folder / name, total)
        seconds[name] = time.monotonic() - start
    equal(folder / "serial", folder / "parallel")
    ratio = seconds["serial"] / seconds["parallel"]
    figures = f"{seconds['serial']:.1f} s serially, {seconds['parallel']:.1f} s in parallel: {ratio:.2f} times as fast"
    if ratio < enough:
        raise Failed(f"{figures}, not {enough:.2f}")
    return f"{figures}, the same numbers"


def killed_twice(folder: Path, sweep: Sequence[str], total: int) -> str:
    outputs = folder / "killed"
    snapshots = []
    for part in (total // 4, total // 2):
        with start(sweep, outputs) as process:
            until(lambda part=part: len(results(outputs)) >= part, process)
        snapshots.append(results(outputs))
    whole(run(sweep, outputs), outputs, total)
    last = results(outputs)
    for before in snapshots:
        if any(last[path] != when for path, when in before.items()):
            raise Failed("a finished run was run again")
    if (folder / "serial").exists():
        equal(folder / "serial", outputs)
    return f"at {len(snapshots[0])} and {len(snapshots[1])} results of {total}, none lost, the same numbers"


def running(outputs: Path) -> list[int]:
    """Process ids of the runs whose status is running."""
    pids = []
    for path in outputs.rglob("status.json"):
        status = json.loads(path.read_text())
        if status["state"] == "running":
            pids.append(status["pid"])
    return pids


def killed_job(folder: Path, sweep: Sequence[str]) -> str:
    outputs = folder / "job"
    with start(sweep, outputs) as process:
        until(lambda: running(outputs), process)
        os.kill(running(outputs)[0], signal.SIGKILL)
        code = process.wait(timeout=TIMEOUT)
    log = outputs.with_suffix(".log").read_text()
    if code != 1 or "7 of 8 runs finished" not in log or "killed by signal 9: out of memory?" not in log:
        raise Failed(f"exit code {code}: {log.strip().splitlines()[-2:]}")
    whole(run(sweep, outputs), outputs, 8)
    return "the other 7 finished, and it did when started again"


def killed_parent(folder: Path, sweep: Sequence[str]) -> str:
    outputs = folder / "parent"
    with start(sweep, outputs) as process:
        until(lambda: running(outputs), process)
        process.kill()
        process.wait()
        killed_at = time.monotonic()
        pids = running(outputs)
        while any(alive(pid) for pid in pids):
            if time.monotonic() - killed_at > 60:
                raise Failed("its workers live on")
            time.sleep(0.02)
        took = time.monotonic() - killed_at
        states = {json.loads(path.read_text())["state"] for path in outputs.rglob("status.json")}
    if not states <= {"interrupted", "finished"}:
        raise Failed(f"its workers did not save themselves: {states}")
    whole(run(sweep, outputs), outputs, 8)
    return f"its workers saved themselves and were gone after {took:.1f} s"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def full_disk(folder: Path, sweep: Sequence[str]) -> str:
    outputs = folder / "disk"
    outputs.mkdir()
    if os.geteuid() or not shutil.which("mount"):
        return "not checked: it needs root, for a small tmpfs"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(outputs)], check=True)
    try:
        done = run(sweep, outputs)
        finished = results(outputs)
        lines = [line for line in done.stderr.splitlines() if "No space left" in line]
        if "Traceback" in done.stderr + done.stdout or done.returncode != 1 or len(lines) != 1 or not finished:
            errors = done.stderr.strip().splitlines()[:4]
            raise Failed(f"exit code {done.returncode}, {len(finished)} finished, errors {errors}")
        subprocess.run(["mount", "-o", "remount,size=64m", str(outputs)], check=True)
        whole(run(sweep, outputs), outputs, 8)
        if any(results(outputs)[path] != when for path, when in finished.items()):
            raise Failed("a finished run was run again")
    finally:
        subprocess.run(["umount", str(outputs)], check=True)
    return f"one error line, {len(finished)} of 8 stay as they are, the rest finishes once there is room"


def two_sweeps(folder: Path, sweep: Sequence[str]) -> str:
    outputs = folder / "two"
    longer = [setting.replace("steps=", "steps=1") for setting in sweep]  # 1100 for 100
    with start(longer, outputs) as process:
        until(lambda: running(outputs), process)
        second = run(longer, outputs)
        code = process.wait(timeout=TIMEOUT)
    if "Traceback" in second.stdout + second.stderr or second.returncode not in (0, 1):
        raise Failed(f"the second: exit code {second.returncode}: {second.stderr.strip().splitlines()[-1:]}")
    if second.returncode == 1 and "is in use by another seqmem" not in second.stdout:
        raise Failed(f"the second does not say why: {second.stdout.strip().splitlines()[-2:]}")
    whole(run(longer, outputs), outputs, 8)
    return f"exit codes {code} and {second.returncode}, all 8 finished between them"


def no_reader(folder: Path, sweep: Sequence[str]) -> str:
    outputs = folder / "reader"
    process = subprocess.Popen(
        command(sweep, outputs), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        code = process.wait(timeout=TIMEOUT)
    finally:
        kill_all(process)
    if errors or code != 141:
        raise Failed(f"exit code {code}, errors {errors.splitlines()[-1:]}")
    whole(run(sweep, outputs), outputs, 8)
    return "it stopped in silence, and went on when started again"


if __name__ == "__main__":
    sys.exit(main())
