"""Checks of sweeps on a real Slurm of one node; see scripts/check_slurm.

The daemons run in the foreground as children of this process and end with it; their sockets, keys and logs are in a
temporary folder, and the network is a separate namespace (``unshare --net``).
"""

import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

CELL = '''\
import os
import time
import torch
from torch import nn
from seqmem.cells import Cell

class Moody(Cell):
    """h = tanh(W x + a h). Mood `moody`: its first update makes its numbers infinite, which no trial before the sweep
    can foresee; moods `slow...`: its steps take MOODY_SECONDS."""
    def __init__(self, input_size: int, hidden_size: int, mood: str = "calm", a: float = 0.9):
        super().__init__()
        self.input_size, self.output_size, self.mood, self.a = input_size, hidden_size, mood, a
        self.inner = nn.Linear(input_size, hidden_size)
        if mood == "moody":
            self.scale = nn.Parameter(torch.ones(()))
    def initial_state(self, batch_size):
        if self.mood.startswith("slow"):
            time.sleep(float(os.environ.get("MOODY_SECONDS", 0)))
        return {"hidden": self.inner.weight.new_zeros(batch_size, self.output_size)}
    def step(self, x, state):
        h = torch.tanh(self.inner(x) + self.a * state["hidden"])
        return (h * self.scale / (self.scale == 1).to(h) if self.mood == "moody" else h), {"hidden": h}
'''
TINY = (
    "seq_len=8", "steps=60", "cell.hidden_size=4", "batch_size=4", "embed_size=4", "log_every=10",
    "evaluate.sequences=8", "evaluate.every=20", "evaluate.lengths=[8]", "trace.every=20", "trace.sequences=2",
    "checkpoint_every=1000",
)  # fmt: skip
MOODS = ("slow_timeout", "slow_requeued", "slow_killed", "slow_cancelled", "moody", *"bcdefghi")
SWEEP = ("train", "-m", "cell=custom", "cell.target=moods.Moody", f"cell.args.mood={','.join(MOODS)}", *TINY)
CELLS = ("train", "-m", "cell=rnn,lstm,gru", "seed=0,1", *TINY)
SLURM = (
    "hydra/launcher=slurm", "hydra.launcher.partition=debug", "hydra.launcher.timeout_min=1", "hydra.launcher.mem_gb=1",
    "hydra.launcher.signal_delay_s=15", "hydra.launcher.poll_s=1",
)  # fmt: skip

PAPER = """\
source: Someone 1999, A paper
where: Table 1
claim: Small cells learn.
cost: seconds
measure: error
margin: 0.05
seeds: 2
settings: task=pronoun seq_len=8 steps=20 batch_size=4 cell.hidden_size=4 evaluate.sequences=20
  evaluate.lengths=[9] trace.every=0
rows:
  rnn: {settings: cell=rnn, published: 0.8}
  gru: {settings: cell=gru}
  "gru, the same runs at another length": {settings: cell=gru, lengths: 9}
orders: [gru > rnn]
departures: [Everything.]
quick: {seeds: 1, settings: steps=10, shows: nothing at all.}
"""

SLURM_CONF = """\
ClusterName=seqmem
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket,cred_expire=20
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
{accounting}
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,batch_sched_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePass={root}/munge/socket"""
SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
SlurmUser=root
LogFile={root}/slurmdbd.log
PidFile={root}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct
"""


@dataclass
class Verdict:
    failed: list[str] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    def __call__(self, claim: str, holds: object, seen: object = "") -> None:
        print(f"{time.monotonic() - self.start:5.0f} s  {'ok    ' if holds else 'FAILED'}  {claim}", flush=True)
        if not holds:
            self.failed.append(claim)
            print(f"         seen: {seen}", flush=True)


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.3)


class Command:
    """A process of ``seqmem ARGS`` in ``folder``, with its output in a file."""

    all: ClassVar[list["Command"]] = []

    def __init__(self, folder: Path, *args: str, **env: str) -> None:
        Command.all.append(self)
        self._log = folder / f"output-{time.monotonic_ns()}.txt"
        self.args = args
        with self._log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "seqmem", *args],
                cwd=folder,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self._log.read_text()

    def has(self, pattern: str) -> bool:
        return re.search(pattern, self.text, re.MULTILINE) is not None

    def end(self, seconds: float = 400) -> int:
        return self.process.wait(seconds)


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


class Cluster:
    """munge, slurmctld and slurmd, with ``accounting`` also mariadb and slurmdbd; they stop when ``running`` ends."""

    def __init__(self, root: Path, *, accounting: bool) -> None:
        self._root, self._accounting, self._daemons = root, accounting, []

    @contextmanager
    def running(self) -> Iterator[None]:
        try:
            self._start()
            yield
        finally:
            for name, process in reversed(self._daemons):
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    print(f"         {name} had to be killed", flush=True)
                    process.kill()
                    process.wait()

    def _start(self) -> None:
        root, host = self._root, socket.gethostname()
        root.mkdir()
        for part in ("state", "spool", "munge"):
            (root / part).mkdir()
        accounting = (
            ACCOUNTING.format(root=root) if self._accounting else "AccountingStorageType=accounting_storage/none"
        )
        conf = root / "slurm.conf"
        conf.write_text(
            SLURM_CONF.format(host=host, root=root, accounting=accounting, cpus=min(2, os.cpu_count() or 1))
        )
        os.environ["SLURM_CONF"] = str(conf)
        key = root / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        munge = pwd.getpwnam("munge")
        for path in (root / "munge", key):
            os.chown(path, munge.pw_uid, munge.pw_gid)
        options = (
            f"--{name}={root}/munge/{name.partition('-')[0]}"
            for name in ("key-file", "pid-file", "log-file", "seed-file")
        )
        self._daemon(
            "munged", "--foreground", "--force", f"--socket={root}/munge/socket", *options,
            user="munge", group="munge",
        )  # fmt: skip
        until((root / "munge" / "socket").exists, 20, "munged")
        if self._accounting:
            self._start_accounting(host)
        self._daemon("slurmctld", "-D", "-f", str(conf))
        until(lambda: "is UP" in output_of("scontrol", "ping"), 60, "slurmctld")
        self._daemon("slurmd", "-D", "-f", str(conf), "-N", host)
        until(lambda: "idle" in output_of("sinfo", "--noheader", "--format=%T"), 60, "slurmd")

    def _start_accounting(self, host: str) -> None:
        root = self._root
        data, sock = f"--datadir={root}/mysql", root / "mysql.sock"
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", "--user=root", data, "--auth-root-authentication-method=socket"],
            check=True,
            capture_output=True,
        )
        self._daemon(
            "mariadbd", "--no-defaults", "--user=root", data, "--skip-networking", f"--socket={sock}",
            "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900", f"--pid-file={root}/mariadb.pid",
        )  # fmt: skip
        until(sock.exists, 60, "mariadbd")
        conf = root / "slurmdbd.conf"
        conf.write_text(SLURMDBD_CONF.format(host=host, root=root))
        conf.chmod(0o600)
        self._daemon("slurmdbd", "-D", MYSQL_UNIX_PORT=str(sock))
        until(lambda: "seqmem" in output_of("sacctmgr", "--immediate", "add", "cluster", "seqmem"), 60, "slurmdbd")
        output_of("sacctmgr", "--immediate", "add", "account", "lab")
        output_of("sacctmgr", "--immediate", "add", "user", "root", "account=lab")

    def _daemon(
        self, name: str, *arguments: str, user: str | None = None, group: str | None = None, **env: str
    ) -> None:
        with (self._root / f"{name}.out").open("w") as out:
            process = subprocess.Popen(
                [name, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                user=user,
                group=group,
                env={**os.environ, **env},
            )
        self._daemons.append((name, process))


def run_of(folder: Path, mood: str) -> Path | None:
    """The directory of the run with this mood (or cell and seed), if it exists."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        if mood in (config["cell"].get("args", {}).get("mood"), f"{config['cell']['name']}{config['seed']}"):
            return path.parent
    return None


def status(folder: Path, mood: str) -> dict[str, object]:
    run = run_of(folder, mood)
    with suppress(OSError, ValueError, AttributeError):
        return json.loads((run / "status.json").read_text())  # pyright: ignore[reportOptionalOperand]
    return {}


def trains(folder: Path, mood: str) -> bool:
    """True if the run has written metrics."""
    run = run_of(folder, mood)
    return run is not None and (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size > 0


def same_numbers(one: Path | None, other: Path | None) -> str:
    """The first difference between two runs; empty if they are the same bit for bit."""
    from commandline import assert_same_numbers  # pyright: ignore[reportMissingImports]

    if one is None or other is None:
        return "one of them was never started"
    try:
        assert_same_numbers(one, other)
    except (AssertionError, OSError) as error:
        return f"{one.name} and {other.name}: {error!r:.300}"
    return ""


def slurm_ids(folder: Path) -> dict[str, str]:
    """Mood or cell of a run -> Slurm's id of its latest submission."""
    ids = {}
    for line in (folder / "outputs" / ".sweeps" / "slurm" / "jobs.jsonl").read_text().splitlines():
        record = json.loads(line)
        with suppress(OSError):
            config = json.loads((Path(record["run"]) / "config.json").read_text())
            ids[config["cell"].get("args", {}).get("mood") or config["cell"]["name"]] = record["job"]
    return ids


def check_refusals(verdict: Verdict, folder: Path) -> None:
    command = Command(folder, *CELLS, *SLURM, "hydra.launcher.partition=nowhere")
    verdict(
        "a partition that there is not: sbatch's words in one line, exit code 1",
        command.end() == 1 and command.has(r"^seqmem train: sbatch refused: .*invalid partition specified: nowhere.*$"),
        command.text,
    )
    command = Command(folder, *CELLS, *SLURM, "+hydra.launcher.partitoin=debug")
    verdict(
        "an option that there is not: exit code 2, and the nearest that there is",
        command.end() == 2 and command.has(r"^seqmem train: .*partitoin.*'?partition"),
        command.text,
    )


def check_sweep(verdict: Verdict, folder: Path, local: Path) -> None:
    """13 jobs: one diverges, others time out or are requeued, cancelled or killed; then the launcher is stopped."""
    first = Command(folder, *SWEEP, *SLURM, MOODY_SECONDS="0.8")
    until(lambda: trains(folder, "slow_timeout") and trains(folder, "slow_requeued"), 90, "the first two jobs train")
    verdict("an array: all jobs under one id of Slurm", first.has(r"^13 jobs submitted: Slurm job \d+ "), first.text)
    output_of("scontrol", "requeue", slurm_ids(folder)["slow_requeued"])
    until(lambda: trains(folder, "slow_killed"), 120, "the job to be killed trains")
    os.kill(int(str(status(folder, "slow_killed")["pid"])), signal.SIGKILL)
    until(lambda: trains(folder, "slow_cancelled"), 120, "the job to be cancelled trains")
    output_of("scancel", slurm_ids(folder)["slow_cancelled"])
    patterns = {
        "slow_requeued": "requeued, saved at step ", "slow_timeout": "requeued, saved at step ",
        "slow_cancelled": r"stopped: ended by Slurm; stopped at step \d+ of 60, saved",
        "slow_killed": r"LOST: Slurm job \d+_2 FAILED, signal 9, on .*_log.out",
        "moody": "FAILED: the loss became nan",
    }  # fmt: skip
    claims = {
        "slow_requeued": "requeued from outside: it saves itself, and the launcher says so",
        "slow_timeout": "out of time: it saves itself and is requeued",
        "slow_cancelled": "cancelled with scancel: it saves itself and is not requeued",
        "slow_killed": "its process killed with -9: lost, with Slurm's state as the cause",
        "moody": "it diverges: reported at once, with its cause",
    }
    for mood, pattern in patterns.items():
        with suppress(TimeoutError):
            until(partial(first.has, line(mood, pattern)), 150, mood)
        verdict(claims[mood], first.has(line(mood, pattern)), first.text)
    os.kill(first.process.pid, signal.SIGINT)
    code = first.end(60)
    verdict(
        "Ctrl-C: exit code 130, and a message how to watch and cancel the jobs",
        code == 130
        and first.has(r"^seqmem train: stopped watching; the jobs go on in Slurm: squeue --jobs=\d+ .*scancel"),
        (code, first.text),
    )
    second = Command(folder, *SWEEP, *SLURM, MOODY_SECONDS="0.1")
    reference = Command(local, *SWEEP, "hydra/launcher=local")
    code = second.end()
    again = re.search(r"^(\d+) of (\d+) jobs are in Slurm already", second.text, re.MULTILINE)
    new = re.search(r"^(\d+) jobs submitted", second.text, re.MULTILINE)
    verdict(
        "started again: what is queued is watched, what was killed, cancelled or failed alone is submitted again",
        again and new and int(new[1]) == 3 and int(again[1]) + 3 == int(again[2]),
        second.text,
    )
    verdict(
        "12 of 13 runs finished, the one that diverges is named, exit code 1",
        code == 1 and second.has("^12 of 13 runs finished") and second.has("nan"),
        (code, second.text),
    )
    reference.end()
    calm = [mood for mood in MOODS if mood != "moody"]
    wrong = [why for mood in calm if (why := same_numbers(run_of(folder, mood), run_of(local, mood)))]
    verdict("all 12 end bit for bit as on this machine's own cores, whatever happened on the way", not wrong, wrong)
    record = (folder / "outputs" / ".sweeps" / "slurm" / "jobs.jsonl").read_bytes()
    third = Command(folder, *SWEEP[: -1 - len(TINY)], f"cell.args.mood={','.join(calm)}", *TINY, *SLURM)
    code = third.end()
    verdict(
        "started once more: nothing is left to do, nothing is submitted, exit code 0",
        code == 0
        and third.has("^sweep of 12 runs, 12 of them finished already")
        and third.has("^nothing is left to do")
        and (folder / "outputs" / ".sweeps" / "slurm" / "jobs.jsonl").read_bytes() == record,
        (code, third.text),
    )


def check_without_accounting(verdict: Verdict, folder: Path, local: Path) -> None:
    verdict(
        "there is no accounting",
        "disabled" in subprocess.run(["sacct"], capture_output=True, text=True, check=False).stderr,
    )
    sweep = [*SWEEP[: -1 - len(TINY)], "cell.args.mood=slow_killed,b,c", "seed=7", *TINY]
    first = Command(folder, *sweep, *SLURM, MOODY_SECONDS="0.5")
    until(lambda: trains(folder, "slow_killed"), 90, "the job to be killed trains")
    os.kill(int(str(status(folder, "slow_killed")["pid"])), signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        first.end(120)
    verdict(
        "without accounting: a job whose process dies is lost, with its cause, and is not waited for",
        first.process.poll() == 1
        and first.has(r"\] LOST: Slurm job \d+_0 FAILED")
        and first.has("^2 of 3 runs finished"),
        first.text,
    )
    second, cells = Command(folder, *sweep, *SLURM), Command(folder, *CELLS, *SLURM)
    references = Command(local, *sweep, "hydra/launcher=local"), Command(local, *CELLS, "hydra/launcher=local")
    codes = [command.end() for command in (second, cells, *references)]
    verdict(
        "started again, beside a sweep of rnn, lstm and gru: all finish, exit code 0",
        codes == [0] * 4,
        (codes, second.text, cells.text),
    )
    names = ["slow_killed", "b", "c", *(f"{cell}{seed}" for cell in ("rnn", "lstm", "gru") for seed in (0, 1))]
    wrong = [why for name in names if (why := same_numbers(run_of(folder, name), run_of(local, name)))]
    verdict("all 9 are bit for bit those of this machine's own cores", not wrong, wrong)


def check_paper(verdict: Verdict, folder: Path, local: Path) -> None:
    for place in (folder, local):
        (place / "small.yaml").write_text(PAPER)
    done, here = Command(folder, "paper", "small.yaml", *SLURM), Command(local, "paper", "small.yaml")
    codes = [command.end() for command in (done, here)]
    tables = [place / "outputs" / "papers" / "small.json" for place in (folder, local)]
    rows = [json.loads(path.read_text())["rows"] if path.exists() else [] for path in tables]
    submitted = len((folder / "outputs" / ".sweeps" / "slurm" / "jobs.jsonl").read_text().splitlines())
    verdict(
        "seqmem paper: four runs by Slurm, the table of this machine's own cores",
        codes == [0, 0] and len(rows[0]) == 3 and rows[0] == rows[1] and submitted == 4,
        (codes, rows, submitted, done.text),
    )
    again = Command(folder, "paper", "small.yaml", *SLURM)
    verdict(
        "once more: nothing is submitted",
        again.end() == 0
        and len((folder / "outputs" / ".sweeps" / "slurm" / "jobs.jsonl").read_text().splitlines()) == submitted,
        again.text,
    )


def line(mood: str, what: str) -> str:
    """A pattern for a line about a job of the sweep."""
    return rf"^\[{MOODS.index(mood) + 1}/{len(MOODS)} .*?\] {what}"


def main() -> int:
    for command in (
        "ip link set lo up", "ip link add seqmem0 type veth peer name seqmem1", "ip addr add 10.9.0.1/24 dev seqmem0",
        "ip link set seqmem0 up", "ip link set seqmem1 up",
    ):  # fmt: skip
        subprocess.run(command.split(), check=True)  # with `lo` alone, host names cannot be resolved
    root = Path(tempfile.mkdtemp(prefix="seqmem-slurm-"))
    root.chmod(0o755)
    print(f"{output_of('slurmctld', '-V').strip()}, in {root}", flush=True)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # to end the daemons
    verdict = Verdict()
    for accounting in (True, False):
        place = root / ("accounting" if accounting else "plain")
        folders = place / "sweep", place / "local"
        for folder in folders:
            folder.mkdir(parents=True)
            (folder / "moods.py").write_text(CELL)
        with Cluster(place / "slurm", accounting=accounting).running():
            try:
                if accounting:
                    check_refusals(verdict, folders[0])
                    check_sweep(verdict, *folders)
                else:
                    check_without_accounting(verdict, *folders)
                    check_paper(verdict, *folders)
            except (TimeoutError, subprocess.TimeoutExpired) as error:
                texts = [path.read_text() for path in sorted(folders[0].glob("output-*"))]
                verdict(f"{error}", holds=False, seen="\n\n".join([*texts, output_of("squeue", "--array")]))
            finally:
                for command in Command.all:
                    command.process.kill()
                output_of("scancel", f"--user={os.getuid()}")
                with suppress(TimeoutError):
                    until(lambda: not output_of("squeue", "--noheader"), 60, "the jobs' end")
    if os.environ.get("SEQMEM_KEEP") != "1":
        shutil.rmtree(root, ignore_errors=True)
    print("every check passed" if not verdict.failed else f"{len(verdict.failed)} checks FAILED", flush=True)
    return 1 if verdict.failed else 0


if __name__ == "__main__":
    sys.exit(main())
