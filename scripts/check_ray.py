"""Sweeps on real Ray clusters: scripts/check_ray says more."""

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
LINE = re.compile(r"seqmem train: |\[\d+/\d+ |sweep of |Ray: |stopping, |\d+ of \d+ runs finished|  [a-z ]+: ")
"""How every line begins that may be printed."""

# A cluster of two nodes of one core each, on this machine. Nodes are taken away when their number is read.
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
    """A claim does not hold; the message is what was seen."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/check_ray")
    parser.add_argument("--ray", default="2.60.0", help="the version to install")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("only", nargs="*", help="words of the claims to check; none: all")
    asked = parser.parse_args()
    if asked.inside:
        loopback_up()
        return check(Path(asked.inside), asked.only)
    if sys.platform != "linux" or shutil.which("unshare") is None:
        print("scripts/check_ray: needs Linux and unshare, so that no port is open to others", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="seqmem-ray-") as folder:
        began = time.monotonic()
        python = with_ray(Path(folder) / "venv", asked.ray)
        print(f"ray {asked.ray} installed ({time.monotonic() - began:.0f} s)", flush=True)
        alone = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
        return subprocess.call([*alone, str(python), __file__, "--inside", folder, *asked.only])


def with_ray(venv: Path, version: str) -> Path:
    """A virtual environment with Ray, on top of the one that this is."""
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
    """The only network that there is here."""
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
        ("what cannot be, in one line", refusals),
    ]
    os.environ["RAY_TMPDIR"] = str(folder / "tmp")
    os.environ["HOME"] = str(folder)  # where Ray keeps its token
    (folder / "tmp").mkdir()
    bad = []
    for name, claim in checks:
        if only and not any(word in name for word in only):
            continue
        began = time.monotonic()
        place = folder / claim.__name__
        place.mkdir()
        try:
            said = f"ok: {claim(place)}"
            nothing_runs()
        except Exception as why:  # each claim by itself
            said = "FAILED"
            bad.append(name)
            print(f"{type(why).__name__}: {why}", file=sys.stderr)
        print(f"{name:<40} {said} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"verdict: not all well: {', '.join(bad)}" if bad else "verdict: all well")
    return 1 if bad else 0


def nothing_runs() -> None:
    """Workers notice by themselves that their cluster has gone."""
    deadline = time.monotonic() + 60
    while left := processes():
        if time.monotonic() > deadline:
            raise Failed(f"Ray's processes are left: {left}")
        time.sleep(0.2)


# What is claimed


def twelve(folder: Path) -> str:
    with started(*RAY, *TWELVE, cwd=folder) as sweep:
        victim = kill_one(folder, sweep)
        said = sweep.end()
    holds(said.code == 1, said, "exit code 1")
    fits(said)
    (failed,) = [line for line in said.lines if "FAILED" in line]
    holds(re.match(r"\[5/12 rnn adding len20 seed0\] FAILED: the loss became (nan|inf) at step", failed), said, "[5/12")
    (again,) = [line for line in said.lines if "started again" in line]
    holds(again.endswith("started again, 1 of 3"), said, "started again")
    prefix = again[: again.index("]") + 1]
    steps = [int(found[1]) for line in said.lines if (found := re.match(re.escape(prefix) + r" step +(\d+)/", line))]
    holds("11 of 12 runs finished" in said.lines, said, "11 of 12 runs finished")
    holds(result(victim) is not None, said, "a result of what was killed")
    return f"11 of 12 finished; {again[len(prefix) + 1 :]}; its lines: step {', '.join(map(str, steps))}"


def bitwise(folder: Path) -> str:
    from commandline import assert_same_numbers, runs_below  # pyright: ignore[reportMissingImports]

    end(seqmem("train", "-m", *TWELVE, cwd=folder), code=1)
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
    said = end(seqmem(*RAY, f"optimizer.lr={','.join(RATES)}", *TWELVE[1:], cwd=place), code=0)
    fits(said)
    already = [line for line in said.lines if "already finished" in line]
    holds(len(already) == len(RATES) and said.lines[-1] == "11 of 11 runs finished", said, "11 already finished")
    holds(not any(line.startswith("Ray:") for line in said.lines), said, "no cluster")
    holds(contents(place) == before, said, "no file changed")
    said = end(seqmem(*RAY, *TWELVE, cwd=place), code=1)
    already = [line for line in said.lines if "already finished" in line]
    holds(len(already) == len(RATES), said, "11 already finished")
    return "11 skipped without a cluster; with the failed one again, that one alone is started"


def lost_for_good(folder: Path) -> str:
    few = ("seed=0,1,2,3", f"steps={STEPS}", *ADDING)
    with started(*RAY, "hydra.launcher.max_retries=0", *few, cwd=folder) as sweep:
        victim = kill_one(folder, sweep)
        said = sweep.end()
    fits(said)
    (failed,) = [line for line in said.lines if "FAILED" in line]
    holds(said.code == 1 and "3 of 4 runs finished" in said.lines, said, "3 of 4, exit code 1")
    holds(json.loads((victim / "status.json").read_text())["state"] == "failed", said, "failed in its status")
    again = end(seqmem(*RAY, *few, cwd=folder), code=0)
    holds("4 of 4 runs finished" in again.lines, again, "4 of 4")
    same_as_local(folder, few, [victim])
    return f"3 of 4 finished; {failed.partition('FAILED: ')[2]}; started again, it ends bit for bit as it would have"


def ctrl_c(folder: Path) -> str:
    few = ("seed=0,1,2,3", f"steps={STEPS}", *ADDING)
    with started(*RAY, *few, cwd=folder) as sweep:
        until(lambda: len(list(folder.rglob("checkpoint.pt"))) >= 2, sweep)
        pressed = time.monotonic()
        sweep.process.send_signal(signal.SIGINT)
        said = sweep.end()
        took = time.monotonic() - pressed
    fits(said)
    line = next((line for line in said.lines if line.startswith("seqmem train: stopped")), "")
    holds(said.code == 130 and line, said, "exit code 130, stopped")
    states = {run: json.loads((run / "status.json").read_text())["state"] for run in runs(folder)}
    saved = [run for run, state in states.items() if state == "interrupted"]
    holds(saved and set(states.values()) <= {"interrupted", "finished"}, said, f"all saved: {states.values()}")
    end(seqmem(*RAY, *few, cwd=folder), code=0)
    same_as_local(folder, few, saved)
    return f"exit 130 after {took:.0f} s, {len(saved)} jobs saved themselves; they end bit for bit as they would have"


def killed(folder: Path) -> str:
    few = ("seed=0,1,2,3", f"steps={STEPS}", *ADDING)
    with started(*RAY, *few, cwd=folder) as sweep:
        until(lambda: len(list(folder.rglob("checkpoint.pt"))) >= 2, sweep)
        begun = runs(folder)
        sweep.process.kill()
        sweep.end()
    until(lambda: not processes(), None)
    end(seqmem(*RAY, *few, cwd=folder), code=0)
    same_as_local(folder, few, begun)
    return f"no process is left after it; {len(begun)} jobs that ran end bit for bit as they would have"


def node_dies(folder: Path) -> str:
    from commandline import OWN_CELLS  # pyright: ignore[reportMissingImports]

    (folder / "owncells.py").write_text(OWN_CELLS)
    with cluster(folder.parent / "tmp") as (address, node):
        with started(*RAY, f"hydra.launcher.address={address}", *FOUR, cwd=folder) as sweep:
            until(lambda: len(list(folder.rglob("checkpoint.pt"))) >= 2, sweep)
            node(1)
            said = sweep.end()
        fits(said)
        holds(said.code == 0 and "4 of 4 runs finished" in said.lines, said, "4 of 4 runs finished")
        holds("2 jobs at once" in said.out, said, "2 jobs at once")
        again = [line for line in said.lines if "started again" in line]
        holds(again, said, "started again")
        nothing = end(seqmem(*RAY, f"hydra.launcher.address={address}", *FOUR, cwd=folder), code=0)
        holds(nothing.lines[-1] == "4 of 4 runs finished", nothing, "nothing left")
        holds(processes(), nothing, "the cluster, which is not the sweep's, goes on")
    same_as_local(folder, FOUR, runs(folder))
    return f"4 of 4 finished, cells of one's own found; {again[0].partition('] ')[2]}; the cluster is left as it was"


def not_shared(folder: Path) -> str:
    few = ("seed=0,1", "steps=10", *ADDING)
    with cluster(folder.parent / "tmp", hidden=folder) as (address, _):
        said = end(seqmem(*RAY, f"hydra.launcher.address={address}", *few, cwd=folder), code=1)
    fits(said)
    failed = [line for line in said.lines if "FAILED" in line and "is not there on the node" in line]
    holds(len(failed) == 2, said, "2 FAILED: not there on the node")
    return failed[0].partition("FAILED: ")[2].replace(str(folder), "...")


def refusals(folder: Path) -> str:
    one = ("seed=0", "steps=10", *ADDING)
    seen = []
    for code, wanted, options in (
        (2, "no node of the cluster has what a job takes", ["num_cpus=999"]),
        (2, "no node of the cluster has what a job takes", ["resources={a100: 1}"]),
        (1, "no Ray cluster at 127.0.0.1:1", ["address=127.0.0.1:1"]),
        (1, "no Ray cluster at auto", ["address=auto"]),
        (2, "max_retries=-1", ["max_retries=-1"]),
        (2, "runtime_env", ["runtime_env={env_vars: 3}"]),
        (2, "nodes", ["nodes=3"]),
    ):
        said = end(seqmem(*RAY, *(f"hydra.launcher.{option}" for option in options), *one, cwd=folder), code=code)
        fits(said)
        line = next((line for line in said.lines if line.startswith("seqmem train: ")), "")
        holds(wanted in line and len(line) < 500, said, wanted)
        seen.append(options[0])
    return ", ".join(seen)


# Tools


@dataclass(frozen=True)
class Said:
    code: int
    out: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@dataclass
class Sweep:
    process: "subprocess.Popen[str]"

    def end(self) -> Said:
        out, _ = self.process.communicate(timeout=400)
        return Said(self.process.returncode, out)


@contextmanager
def started(*args: str, cwd: Path) -> Iterator[Sweep]:
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


def seqmem(*args: str, cwd: Path) -> Said:
    with started(*args, cwd=cwd) as sweep:
        return sweep.end()


def end(said: Said, *, code: int) -> Said:
    holds(said.code == code, said, f"exit code {code}")
    return said


def holds(true: object, said: Said, wanted: str) -> None:
    if not true:
        raise Failed(f"wanted {wanted}; exit code {said.code}, and said:\n{said.out}")


def fits(said: Said) -> None:
    """Nothing but our own lines."""
    for line in said.lines:
        if "network_util.cc" in line:  # Ray has looked for a network, for an address that is not its own
            continue
        holds(LINE.match(line), said, f"no such line: {line!r}")


def until(true: Callable[[], object], sweep: Sweep | None, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
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
    """The worker of a run that has saved itself and is not at its end."""

    def half_way() -> list[Path]:
        return [
            run
            for run in runs(folder)
            if (run / "checkpoint.pt").exists() and (run / "metrics.jsonl").exists() and not result(run)
            if 100 <= max(json.loads(line)["step"] for line in whole_lines(run / "metrics.jsonl")) < STEPS
        ]

    until(half_way, sweep)
    run = half_way()[0]
    os.kill(json.loads((run / "status.json").read_text())["pid"], signal.SIGKILL)
    return run


def whole_lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] or ['{"step": -1}']


def same_as_local(folder: Path, overrides: tuple[str, ...], found: list[Path]) -> None:
    """``found``: runs of a sweep below ``folder``; the same sweep without Ray must have the same numbers."""
    from commandline import assert_same_numbers  # pyright: ignore[reportMissingImports]

    end(seqmem("train", "-m", *overrides, "outputs=local", cwd=folder), code=0)
    for run in found:
        if run.is_relative_to(folder / "outputs"):
            assert_same_numbers(run, folder / "local" / run.relative_to(folder / "outputs"))


def processes() -> list[str]:
    """Ray's, in this network: command lines."""
    ours = Path("/proc/self/ns/net").readlink()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if (process / "ns" / "net").readlink() == ours and ("ray::" in command or "/ray/" in command):
                found += [command[:80]] if state != "Z" else []
        except OSError:  # it has ended
            continue
    return found


@contextmanager
def cluster(folder: Path, *, hidden: Path | None = None) -> Iterator[tuple[str, Callable[[int], None]]]:
    """(its address; takes a node away). ``hidden``: a folder that its nodes see empty."""
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

        def gone(number: int) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            process.stdout.readline()

        yield address, gone
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


if __name__ == "__main__":
    sys.exit(main())
