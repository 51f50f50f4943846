"""Checks of sweeps on real Ray clusters; see scripts/check_ray."""

import argparse
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from check_slurm import PAPER

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

SHORT = (
    "seq_len=20", "cell.hidden_size=16", "batch_size=16", "log_every=20", "evaluate.sequences=64",
    "evaluate.every=200", "evaluate.lengths=[20]", "trace.every=200", "trace.sequences=4", "checkpoint_every=50",
)  # fmt: skip
STEPS = 600
RATES = ("0.01", "0.011", "0.012", "0.013", "0.014", "0.015", "0.016", "0.017", "0.018", "0.019", "0.02")
DIVERGES = "1e30"
ADDING = ("task=adding", "cell=rnn", "cell.nonlinearity=relu", "optimizer=sgd", "clip_norm=null", *SHORT)
TWELVE = (f"optimizer.lr={','.join([*RATES[:4], DIVERGES, *RATES[4:]])}", f"steps={STEPS}", *ADDING)
FOUR = ("cell=custom", "cell.target=owncells.Leaky", "seed=0,1,2,3", f"steps={STEPS}", *SHORT)
RAY = ("train", "-m", "hydra/launcher=ray")
LINE = re.compile(r"seqmem train: |\[\d+/\d+ |sweep of |Ray: |stopping, |\d+ of \d+ runs finished|  [a-z ]+: |next  ")
"""The allowed beginnings of lines of output."""

# A cluster of two nodes with one core each, on this machine. A number on stdin removes that node.
CLUSTER = """\
import sys
from ray.cluster_utils import Cluster
cluster = Cluster()
nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False) for _ in range(2)]
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes[int(line)], allow_graceful=False)
    print("gone", flush=True)
cluster.shutdown()
"""


class Failed(Exception):
    """A claim does not hold; the message says what was observed."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/check_ray")
    parser.add_argument("--ray", default="2.60.0", help="the version to install")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("only", nargs="*", help="words of the claims to check; none: all")
    options = parser.parse_args()
    if options.inside:
        loopback_up()
        return check(Path(options.inside), options.only)
    if sys.platform != "linux" or shutil.which("unshare") is None:
        print("scripts/check_ray: needs Linux and unshare, so that no port is open to others", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="seqmem-ray-") as folder:
        start = time.monotonic()
        python = with_ray(Path(folder) / "venv", options.ray)
        print(f"ray {options.ray} installed ({time.monotonic() - start:.0f} s)", flush=True)
        unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
        return subprocess.call([*unshare, str(python), __file__, "--inside", folder, *options.only])


def with_ray(venv: Path, version: str) -> Path:
    """A virtual environment with Ray, on top of the current one; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, f"ray=={version}"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"scripts/check_ray: pip could not install ray {version}:\n{done.stderr}")
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (below,) = (venv / "lib").glob("python*/site-packages")
    (below / "seqmem.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    return venv / "bin" / "python"


def loopback_up() -> None:
    """Activate the loopback device, the only one in this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x41))  # SIOCSIFFLAGS: up, running


def check(folder: Path, only: list[str]) -> int:
    checks = [
        ("twelve jobs: one fails, one is killed", twelve),
        ("as on one machine, bit for bit", bitwise),
        ("nothing left for another start", nothing_left),
        ("killed more often than max_retries", lost_for_good),
        ("Ctrl-C", ctrl_c),
        ("the sweep killed with -9", killed),
        ("a cluster of two nodes, one dies", node_dies),
        ("nodes without our file system", not_shared),
        ("a paper", paper),
        ("what cannot be, in one line", refusals),
    ]
    os.environ["RAY_TMPDIR"] = str(folder / "tmp")
    os.environ["HOME"] = str(folder)  # Ray stores its token there
    (folder / "tmp").mkdir()
    bad = []
    for name, claim in checks:
        if only and not any(word in name for word in only):
            continue
        start = time.monotonic()
        place = folder / claim.__name__
        place.mkdir()
        try:
            verdict = f"ok: {claim(place)}"
            wait_for_processes()
        except Exception as why:  # go on with the next claim
            verdict = "FAILED"
            bad.append(name)
            print(f"{type(why).__name__}: {why}", file=sys.stderr)
        print(f"{name:<40} {verdict} ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"verdict: not all well: {', '.join(bad)}" if bad else "verdict: all well")
    return 1 if bad else 0


def wait_for_processes() -> None:
    """Wait for Ray's processes to end, which they do when they notice that their cluster is gone."""
    deadline = time.monotonic() + 60
    while left := processes():
        if time.monotonic() > deadline:
            raise Failed(f"Ray's processes are left: {left}")
        time.sleep(0.2)


# Claims


def twelve(folder: Path) -> str:
    with start(*RAY, *TWELVE, cwd=folder) as sweep:
        victim = kill_one(folder, sweep)
        output = sweep.end()
    holds(output.code == 1, output, "exit code 1")
    fits(output)
    (failed,) = [line for line in output.lines if "FAILED" in line]
    holds(
        re.match(r"\[5/12 rnn adding len20 seed0\] FAILED: the loss became (nan|inf) at step", failed), output, "[5/12"
    )
    (again,) = [line for line in output.lines if "started again" in line]
    holds(again.endswith("started again, 1 of 3"), output, "started again")
    prefix = again[: again.index("]") + 1]
    steps = [int(match[1]) for line in output.lines if (match := re.match(re.escape(prefix) + r" step +(\d+)/", line))]
    holds("11 of 12 runs finished" in output.lines, output, "11 of 12 runs finished")
    holds(result(victim) is not None, output, "a result of the killed run")
    return f"11 of 12 finished; {again[len(prefix) + 1 :]}; its lines: step {', '.join(map(str, steps))}"


def bitwise(folder: Path) -> str:
    from commandline import assert_same_numbers, runs_below  # pyright: ignore[reportMissingImports]

    check_code(seqmem("train", "-m", *TWELVE, cwd=folder), code=1)
    compared = 0
    for run in runs_below(folder):
        if (run / "result.json").exists():
            assert_same_numbers(folder.parent / twelve.__name__ / run.relative_to(folder), run)
            compared += 1
    if compared != len(RATES):
        raise Failed(f"{compared} runs compared instead of {len(RATES)}")
    return f"{compared} runs, the killed one among them: results, metrics, traces, weights, events"


def nothing_left(folder: Path) -> str:
    place = folder.parent / twelve.__name__
    before = contents(place)
    output = check_code(seqmem(*RAY, f"optimizer.lr={','.join(RATES)}", *TWELVE[1:], cwd=place), code=0)
    fits(output)
    already = [line for line in output.lines if "already finished" in line]
    holds(len(already) == len(RATES) and output.lines[-2] == "11 of 11 runs finished", output, "11 already finished")
    holds(not any(line.startswith("Ray:") for line in output.lines), output, "no cluster")
    holds(contents(place) == before, output, "no file changed")
    output = check_code(seqmem(*RAY, *TWELVE, cwd=place), code=1)
    already = [line for line in output.lines if "already finished" in line]
    holds(len(already) == len(RATES), output, "11 already finished")
    return "11 skipped without a cluster; with the failed one again, that one alone is started"


def lost_for_good(folder: Path) -> str:
    few = ("seed=0,1,2,3", f"steps={STEPS}", *ADDING)
    with start(*RAY, "hydra.launcher.max_retries=0", *few, cwd=folder) as sweep:
        victim = kill_one(folder, sweep)
        output = sweep.end()
    fits(output)
    (failed,) = [line for line in output.lines if "FAILED" in line]
    holds(output.code == 1 and "3 of 4 runs finished" in output.lines, output, "3 of 4, exit code 1")
    holds(json.loads((victim / "status.json").read_text())["state"] == "failed", output, "failed in its status")
    again = check_code(seqmem(*RAY, *few, cwd=folder), code=0)
    holds("4 of 4 runs finished" in again.lines, again, "4 of 4")
    same_as_local(folder, few, [victim])
    return f"3 of 4 finished; {failed.partition('FAILED: ')[2]}; started again, it ends bit for bit as it would have"


def ctrl_c(folder: Path) -> str:
    few = ("seed=0,1,2,3", f"steps={STEPS}", *ADDING)
    with start(*RAY, *few, cwd=folder) as sweep:
        until(lambda: len(list(folder.rglob("checkpoint.pt"))) >= 2, sweep)
        started_at = time.monotonic()
        sweep.process.send_signal(signal.SIGINT)
        output = sweep.end()
        took = time.monotonic() - started_at
    fits(output)
    line = next((line for line in output.lines if line.startswith("seqmem train: stopped")), "")
    holds(output.code == 130 and line, output, "exit code 130, stopped")
    states = {run: json.loads((run / "status.json").read_text())["state"] for run in runs(folder)}
    saved = [run for run, state in states.items() if state == "interrupted"]
    holds(saved and set(states.values()) <= {"interrupted", "finished"}, output, f"all saved: {states.values()}")
    check_code(seqmem(*RAY, *few, cwd=folder), code=0)
    same_as_local(folder, few, saved)
    return f"exit 130 after {took:.0f} s, {len(saved)} jobs saved themselves; they end bit for bit as they would have"


def killed(folder: Path) -> str:
    few = ("seed=0,1,2,3", f"steps={STEPS}", *ADDING)
    with start(*RAY, *few, cwd=folder) as sweep:
        until(lambda: len(list(folder.rglob("checkpoint.pt"))) >= 2, sweep)
        unfinished = runs(folder)
        sweep.process.kill()
        sweep.end()
    until(lambda: not processes(), None)
    check_code(seqmem(*RAY, *few, cwd=folder), code=0)
    same_as_local(folder, few, unfinished)
    return f"no process is left after it; {len(unfinished)} jobs that ran end bit for bit as they would have"


def node_dies(folder: Path) -> str:
    from commandline import OWN_CELLS  # pyright: ignore[reportMissingImports]

    (folder / "owncells.py").write_text(OWN_CELLS)
    with cluster(folder.parent / "tmp") as (address, remove):
        with start(*RAY, f"hydra.launcher.address={address}", *FOUR, cwd=folder) as sweep:
            until(lambda: len(list(folder.rglob("checkpoint.pt"))) >= 2, sweep)
            remove(1)
            output = sweep.end()
        fits(output)
        holds(output.code == 0 and "4 of 4 runs finished" in output.lines, output, "4 of 4 runs finished")
        holds("2 jobs at once" in output.out, output, "2 jobs at once")
        again = [line for line in output.lines if "started again" in line]
        holds(again, output, "started again")
        rerun = check_code(seqmem(*RAY, f"hydra.launcher.address={address}", *FOUR, cwd=folder), code=0)
        holds(rerun.lines[-2] == "4 of 4 runs finished", rerun, "nothing left")
        holds(processes(), rerun, "the cluster, which is not the sweep's, goes on")
    same_as_local(folder, FOUR, runs(folder))
    return f"4 of 4 finished, custom cells imported; {again[0].partition('] ')[2]}; the cluster is left as it was"


def not_shared(folder: Path) -> str:
    few = ("seed=0,1", "steps=10", *ADDING)
    with cluster(folder.parent / "tmp", hidden=folder) as (address, _):
        output = check_code(seqmem(*RAY, f"hydra.launcher.address={address}", *few, cwd=folder), code=1)
    fits(output)
    failed = [line for line in output.lines if "FAILED" in line and "is not there on the node" in line]
    holds(len(failed) == 2, output, "2 FAILED: not there on the node")
    return failed[0].partition("FAILED: ")[2].replace(str(folder), "...")


def paper(folder: Path) -> str:
    tables = []
    for name, launcher in (("ray", ("hydra/launcher=ray",)), ("local", ())):
        (place := folder / name).mkdir()
        (place / "small.yaml").write_text(PAPER)
        output = check_code(seqmem("paper", "small.yaml", *launcher, cwd=place), code=0)
        tables.append(json.loads((place / "outputs" / "papers" / "small.json").read_text())["rows"])
    holds(len(tables[0]) == 3 and tables[0] == tables[1], output, "the same table")
    return "four runs, the table of this machine's own cores"


def refusals(folder: Path) -> str:
    one = ("seed=0", "steps=10", *ADDING)
    refused = []
    for code, message, options in (
        (2, "no node of the cluster has what a job takes", ["num_cpus=999"]),
        (2, "no node of the cluster has what a job takes", ["resources={a100: 1}"]),
        (1, "no Ray cluster at 127.0.0.1:1", ["address=127.0.0.1:1"]),
        (1, "no Ray cluster at auto", ["address=auto"]),
        (2, "max_retries=-1", ["max_retries=-1"]),
        (2, "runtime_env", ["runtime_env={env_vars: 3}"]),
        (2, "nodes", ["nodes=3"]),
    ):
        output = check_code(
            seqmem(*RAY, *(f"hydra.launcher.{option}" for option in options), *one, cwd=folder), code=code
        )
        fits(output)
        line = next((line for line in output.lines if line.startswith("seqmem train: ")), "")
        holds(message in line and len(line) < 500, output, message)
        refused.append(options[0])
    return ", ".join(refused)


# Tools


@dataclass(frozen=True)
class Output:
    code: int
    out: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@dataclass
class Sweep:
    process: "subprocess.Popen[str]"

    def end(self) -> Output:
        out, _ = self.process.communicate(timeout=400)
        return Output(self.process.returncode, out)


@contextmanager
def start(*args: str, cwd: Path) -> Iterator[Sweep]:
    command = [sys.executable, "-m", "seqmem", *args]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield Sweep(process)
    finally:
        process.kill()
        process.communicate()


def seqmem(*args: str, cwd: Path) -> Output:
    with start(*args, cwd=cwd) as sweep:
        return sweep.end()


def check_code(output: Output, *, code: int) -> Output:
    holds(output.code == code, output, f"exit code {code}")
    return output


def holds(condition: object, output: Output, expected: str) -> None:
    if not condition:
        raise Failed(f"expected {expected}; exit code {output.code}, output:\n{output.out}")


def fits(output: Output) -> None:
    """Check that the output has only seqmem's own lines."""
    for line in output.lines:
        if "network_util.cc" in line:  # Ray's search for a network, at a remote address
            continue
        holds(LINE.match(line), output, f"no such line: {line!r}")


def until(condition: Callable[[], object], sweep: Sweep | None, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if sweep is not None and sweep.process.poll() is not None:
            raise Failed(f"it ended before that: {sweep.end()}")
        if time.monotonic() > deadline:
            raise Failed("it does not happen")
        time.sleep(0.02)


def runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("config.json"))


def result(run: Path) -> object:
    path = run / "result.json"
    return json.loads(path.read_text()) if path.exists() else None


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for run in runs(folder) for path in run.iterdir() if path.is_file()}


def kill_one(folder: Path, sweep: Sweep) -> Path:
    """Kill the worker of a run that has a checkpoint and is not finished; returns the run."""

    def half_done() -> list[Path]:
        return [
            run
            for run in runs(folder)
            if (run / "checkpoint.pt").exists() and (run / "metrics.jsonl").exists() and not result(run)
            if 100 <= max(json.loads(line)["step"] for line in whole_lines(run / "metrics.jsonl")) < STEPS
        ]

    until(half_done, sweep)
    run = half_done()[0]
    os.kill(json.loads((run / "status.json").read_text())["pid"], signal.SIGKILL)
    return run


def whole_lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] or ['{"step": -1}']


def same_as_local(folder: Path, overrides: tuple[str, ...], compared: list[Path]) -> None:
    """Check that the ``compared`` runs below ``folder`` have the numbers of the same sweep without Ray."""
    from commandline import assert_same_numbers  # pyright: ignore[reportMissingImports]

    check_code(seqmem("train", "-m", *overrides, "outputs=local", cwd=folder), code=0)
    for run in compared:
        if run.is_relative_to(folder / "outputs"):
            assert_same_numbers(run, folder / "local" / run.relative_to(folder / "outputs"))


def processes() -> list[str]:
    """Command lines of Ray's processes in this network namespace."""
    ours = Path("/proc/self/ns/net").readlink()
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if (process / "ns" / "net").readlink() == ours and ("ray::" in command or "/ray/" in command):
                commands += [command[:80]] if state != "Z" else []
        except OSError:  # it has ended
            continue
    return commands


@contextmanager
def cluster(folder: Path, *, hidden: Path | None = None) -> Iterator[tuple[str, Callable[[int], None]]]:
    """(the address, a function that removes a node). ``hidden``: a folder that is empty on its nodes."""
    command = [sys.executable, "-c", CLUSTER]
    if hidden is not None:
        command = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hidden), *command]
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise Failed("no cluster could be started")

        def remove(number: int) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            process.stdout.readline()

        yield address, remove
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


if __name__ == "__main__":
    sys.exit(main())
