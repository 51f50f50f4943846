"""Proves that a refactoring changes no number: scripts/check_refactoring says how to run it.

The source trees of an earlier commit and of this checkout run the same command lines, each in processes of its own of
the same virtual environment. Only public things are used: the command line, the files of a run, the event file.

    base/                   the runs of the earlier commit
    new/                    the runs of this checkout: the same
    base-read/              a copy of base/, read by the earlier commit: show, report, read, eval, export, train again
    base-read-by-new/       the same files, read by this checkout: the same to the last byte
    new-read/               a copy of new/, read by this checkout: the same, but for times
    base-killed/ across/    a run that the earlier commit began, that was killed, and that this checkout finished
    base-stopped/ across-stopped/    the same for a run that was asked to stop
"""

import argparse
import json
import math
import os
import platform
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from importlib.metadata import requires, version
from io import BytesIO, StringIO
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

BASE = "27fcbdc"
"""The last commit before the issue "Open the house", which moves nearly every module."""

SHOWN = 4  # differences of one configuration that are printed

SMALL = (
    "seq_len=12", "cell.hidden_size=5", "batch_size=6", "embed_size=4", "steps=24", "log_every=3",
    "evaluate.every=6", "evaluate.sequences=16", "evaluate.lengths=[12,20]", "trace.every=6", "trace.sequences=3",
    "checkpoint_every=8", "device=cpu", "threads=1",
)  # fmt: skip
"""Settings of every configuration, before its own."""


@dataclass(frozen=True)
class Configuration:
    """One command line of ``seqmem train``, whose runs go to ``outputs/NAME``.

    Args:
        code: the exit code it must have, with either source tree.
        quick: it belongs to the quick form.
        alone: it takes a process of its own, started as a user would.
    """

    name: str
    settings: tuple[str, ...]
    code: int = 0
    quick: bool = False
    alone: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("train", *SMALL, *self.settings, f"outputs=outputs/{self.name}")


def _configuration(name: str, settings: str, **options: Any) -> Configuration:
    return Configuration(name, tuple(settings.split()), **options)


CONFIGURATIONS = (
    _configuration("lstm", "cell=lstm", quick=True),
    _configuration("rnn", "cell=rnn", alone=True),
    _configuration("gru", "cell=gru", quick=True),
    _configuration("stack", "cell=lstm cell.layers=2", quick=True),
    _configuration("stack-of-gru", "cell=gru cell.layers=3 seed=3"),
    _configuration("usual-lstm", "cell=usual/lstm cell.params=900"),
    _configuration("kernel-torch", "cell=lstm kernel=torch"),
    _configuration("kernel-step", "cell=gru kernel=step"),
    _configuration("stack-kernel-step", "cell=rnn cell.layers=2 kernel=step"),
    _configuration("trace-every-step", "cell=lstm trace.every=1", quick=True),
    _configuration("trace-every-step-of-stack", "cell=gru cell.layers=2 trace.every=1 trace.loss=all"),
    _configuration("trace-never", "cell=lstm trace.every=0"),
    _configuration("tbptt", "cell=lstm tbptt=5", quick=True),
    _configuration("tbptt-of-stack", "cell=rnn cell.layers=2 tbptt=5 kernel=step"),
    _configuration("recompute-native", "cell=lstm train.checkpoint_every_t=4 kernel=native", quick=True),
    _configuration("recompute-torch", "cell=gru train.checkpoint_every_t=4 kernel=torch"),
    _configuration("recompute-step", "cell=lstm train.checkpoint_every_t=4 kernel=step"),
    _configuration("recompute-stack-tbptt", "cell=gru cell.layers=2 train.checkpoint_every_t=4 tbptt=6"),
    _configuration("bf16", "cell=lstm precision=bf16", quick=True),
    _configuration("bf16-step", "cell=rnn precision=bf16 kernel=step"),
    _configuration("float64", "cell=gru dtype=float64"),
    _configuration("one-hot", "cell=rnn embed_size=0 clip_norm=null"),
    _configuration("sgd", "cell=rnn optimizer=sgd optimizer.lr=0.1"),
    _configuration("rmsprop", "cell=gru optimizer=rmsprop"),
    _configuration("adamw", "cell=lstm optimizer=adamw optimizer.weight_decay=0.1"),
    _configuration("lengths-uniform", "cell=lstm task.lengths=uniform task.shortest=8"),
    _configuration("adding", "cell=lstm task=adding", quick=True),
    _configuration("adding-hs97", "cell=lstm task=adding task.variant=hs97"),
    _configuration("adding-tcn", "cell=rnn task=adding task.variant=tcn"),
    _configuration("copy", "cell=lstm task=copy task.length=3", quick=True),
    _configuration("copy-trace-all", "cell=gru task=copy task.length=2 trace.loss=all"),
    _configuration("digits", "cell=lstm task=digits seq_len=64 evaluate.lengths=[64,70]"),
    _configuration("digits-rows", "cell=gru task=digits task.scan=row seq_len=8 evaluate.lengths=[8,9]"),
    _configuration("pronoun-one-mention", "cell=lstm task=pronoun task.mentions=1 task.people=4"),
    _configuration("subject", "cell=lstm task=subject seq_len=7 evaluate.lengths=null"),
    _configuration("temporal_order", "cell=lstm task=temporal_order"),
    _configuration("temporal_order-three", "cell=rnn task=temporal_order task.symbols=3"),
    _configuration("text", "cell=lstm task=text task.chunks=3", quick=True),
    _configuration("text-tbptt", "cell=gru task=text tbptt=5 trace.loss=all"),
    _configuration("experiment", "experiment=subject_demo cell.hidden_size=5 steps=24 evaluate.lengths=[4,9]"),
    _configuration("custom-cell", "cell=custom cell.target=own.Gated", quick=True),
    _configuration("custom-cell-without-gates", "cell=custom cell.target=own.Leaky cell.args.alpha=0.7"),
    _configuration("custom-cell-stack", "cell=custom cell.target=own.Gated cell.layers=2 train.checkpoint_every_t=4"),
    _configuration("custom-task", "cell=gru task=custom task.target=own.Bounded task.args.longest=25"),
    _configuration(
        "diverged",
        "cell=rnn task=adding optimizer=sgd optimizer.lr=1e30 clip_norm=null trace.every=0",
        code=1,
        quick=True,
    ),
    _configuration(
        "diverged-continue",
        "cell=rnn task=adding optimizer=sgd optimizer.lr=1e30 clip_norm=null on_nan=continue trace.every=0 steps=9",
    ),
    _configuration("error-cell", "cell=lsmt", code=2, quick=True),
    _configuration("error-length", "task=adding seq_len=2", code=2),
    _configuration("error-setting", "optimizer.momentum_=1", code=2),
    _configuration("error-target", "cell=custom cell.target=own.Missing", code=2),
    _configuration("sweep", "-m cell=rnn,lstm seed=0,1", quick=True, alone=True),
)

LSTM, SWEEP = (one for one in CONFIGURATIONS if one.name in ("lstm", "sweep"))

KILLED = _configuration("killed", "cell=lstm cell.layers=2 trace.every=2 checkpoint_every=4", quick=True)
"""The base commit runs it without interruption, the working tree is killed in the middle of it and resumes it."""

SIGNAL_AT = 3
"""The checkpoint just before whose renaming into place the run is sent a signal."""

OWN_MODULE = '''\
"""Classes of a user's own."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from seqmem.cells import Cell
from seqmem.tasks import Subject


class Leaky(Cell):
    """h = alpha h + W x"""

    def __init__(self, input_size: int, hidden_size: int, alpha: float = 0.5):
        super().__init__()
        self.input_size, self.output_size, self.alpha = input_size, hidden_size, alpha
        self.inner = nn.Linear(input_size, hidden_size)

    def initial_state(self, batch_size):
        return {"h": self.inner.weight.new_zeros(batch_size, self.output_size)}

    def step(self, x, state):
        h = self.alpha * state["h"] + self.inner(x).tanh()
        return h, {"h": h}


class Gated(Cell):
    """Two states of different sizes, and a gate that keeps one of them."""

    keeps = ("leak",)

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.inner = nn.Linear(input_size + hidden_size, hidden_size)
        self.leak = nn.Linear(input_size, hidden_size)
        self.clock = nn.Linear(2, hidden_size)

    def initial_state(self, batch_size):
        new = self.inner.weight.new_zeros
        return {"slow": new(batch_size, self.output_size), "clock": new(batch_size, 2)}

    def gates(self, x, state):
        return {"leak": self.leak(x).sigmoid()}

    def step(self, x, state):
        leak = self.gates(x, state)["leak"]
        clock = state["clock"] * 0.9 + 0.1
        new = leak * state["slow"] + (1 - leak) * self.inner(torch.cat([x, state["slow"]], -1)).tanh()
        return new + self.clock(clock), {"slow": new, "clock": clock}


@dataclass(frozen=True)
class Bounded(Subject):
    """A task that is built upon one of seqmem's, with an option."""

    name: ClassVar[str] = "bounded"
    longest: int = 30

    @property
    def max_seq_len(self):
        return self.longest
'''

# What runs inside every process of either tree


HOOK = '''\
"""Python imports this at every start. It takes the other source tree from the path, writes down which files of either
tree are opened, and sends the process a signal just before a given checkpoint is renamed into place."""

import os, sys

FOREIGN, LOG = os.environ["PROOF_FOREIGN"], os.environ["PROOF_LOG"]
TREES = tuple(os.environ["PROOF_TREES"].split(os.pathsep))
sys.path[:] = [path for path in sys.path if path != os.path.join(FOREIGN, "src")]
seen, checkpoints = set(), 0


def watch(event, arguments):
    global checkpoints
    if event in ("open", "ctypes.dlopen"):
        path = str(arguments[0])
        if path.startswith(TREES) and path not in seen:
            seen.add(path)
            descriptor = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, (event + " " + path + "\\n").encode())
            os.close(descriptor)
    elif event == "os.rename" and str(arguments[1]).endswith("checkpoint.pt"):
        checkpoints += 1
        if str(checkpoints) == os.environ.get("PROOF_SIGNAL_AT"):
            os.kill(os.getpid(), int(os.environ["PROOF_SIGNAL"]))


sys.addaudithook(watch)
'''


@dataclass(frozen=True)
class Answer:
    """The exit code and the output of a command line."""

    code: int
    out: str
    err: str


def drive(plan: Path) -> None:
    """Run command lines one after another in this process: importing torch takes seconds, and is done once.

    ``plan`` holds the command lines by name, and is replaced by their answers.
    """
    sys.path.pop(0)  # the folder of this script
    answers = {}
    for name, arguments in json.loads(plan.read_text()).items():
        out, err, code = StringIO(), StringIO(), 0
        sys.argv = ["seqmem", *arguments]
        with redirect_stdout(out), redirect_stderr(err):
            try:
                runpy.run_module("seqmem", run_name="__main__")
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            except Exception:
                code = 1
                traceback.print_exc()
        answers[name] = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
    plan.write_text(json.dumps(answers))


# Source trees


class Unusable(Exception):
    """The comparison cannot be made; the message says why."""


@dataclass(frozen=True)
class Tree:
    """A source tree, and how its seqmem is run. ``scratch``: a folder for what the processes write down."""

    name: str
    root: Path
    other: Path
    scratch: Path

    @property
    def _log(self) -> Path:
        return self.scratch / f"{self.name}.opened"

    def _environment(self, stop: signal.Signals | None) -> dict[str, str]:
        hook = self.scratch / "hook"
        hook.mkdir(exist_ok=True)
        if not (hook / "sitecustomize.py").exists():
            (hook / "sitecustomize.py").write_text(HOOK)
        inherited = {name: value for name, value in os.environ.items() if name not in ("HYDRA_FULL_ERROR", "NO_COLOR")}
        roots = os.pathsep.join(
            f"{root / part}{os.sep}" for root in (self.root, self.other) for part in ("src", "conf")
        )
        return {
            **inherited,
            "PYTHONPATH": os.pathsep.join([str(hook), str(self.root / "src")]),
            "PROOF_FOREIGN": str(self.other),
            "PROOF_LOG": str(self._log),
            "PROOF_TREES": roots,
            "COLUMNS": "100",
            "CUDA_VISIBLE_DEVICES": "",
            **({} if stop is None else {"PROOF_SIGNAL_AT": str(SIGNAL_AT), "PROOF_SIGNAL": str(int(stop))}),
        }

    def run(self, *arguments: str, cwd: Path, stop: signal.Signals | None = None) -> Answer:
        """``seqmem ARGUMENTS`` in a process of its own, which is sent the signal ``stop`` half-way."""
        return self._python("-m", "seqmem", *arguments, cwd=cwd, stop=stop)

    def run_all(self, commands: Mapping[str, Sequence[str]], cwd: Path) -> dict[str, Answer]:
        """Several command lines in one process: name -> answer."""
        with tempfile.NamedTemporaryFile("w", suffix=".json", dir=self.scratch, delete=False) as file:
            json.dump({name: list(arguments) for name, arguments in commands.items()}, file)
        ended = self._python(str(Path(__file__).resolve()), "--drive", file.name, cwd=cwd)
        if ended.code:
            raise Unusable(f"the process that runs {self.name} ended with {ended.code}: {ended.err.strip()[-2000:]}")
        return {name: Answer(**answer) for name, answer in json.loads(Path(file.name).read_text()).items()}

    def _python(self, *arguments: str, cwd: Path, stop: signal.Signals | None = None) -> Answer:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd, env=self._environment(stop), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=900, check=False,
        )  # fmt: skip
        return Answer(done.returncode, done.stdout, done.stderr)

    def build_kernels(self) -> str:
        """Copy the native kernels of the other tree, or compile them where these sources differ.

        Returns:
            What `seqmem list` says of them.
        """
        kernels, built = (root / "src/seqmem/kernels" for root in (self.root, self.other))
        if not list(kernels.glob("native.*")):
            for library in built.glob("native.*"):
                shutil.copy(library, kernels)
        if "no native kernels" in (line := self._kernels()):
            self._python("-m", "seqmem.kernels.build", cwd=self.scratch)  # fails where there is no compiler
            line = self._kernels()
        return line

    def _kernels(self) -> str:
        answer = self.run("list", cwd=self.scratch)
        line = re.search(r"^kernels +(.*)$", answer.out, re.MULTILINE)
        if line is None:
            raise Unusable(f"`seqmem list` of {self.name} does not say which kernels there are: {answer.err}")
        return line[1]

    def check_opened(self, *, native: bool) -> None:
        """Check that the processes used the sources, settings and kernels of this tree, and no file of the other.

        Raises:
            Unusable: they did not.
        """
        opened = [line.partition(" ")[::2] for line in self._log.read_text().splitlines()]
        foreign = sorted({path for _, path in opened if Path(path).is_relative_to(self.other)})
        if foreign:
            raise Unusable(f"{self.name} used files of the other source tree: {', '.join(foreign[:5])}")
        parts = {"src/seqmem/__init__": "open", "conf/train.yaml": "open"}
        if native:
            parts["native"] = "ctypes.dlopen"
        for part, event in parts.items():
            if not any(kind == event and part in path.replace("__pycache__/", "") for kind, path in opened):
                raise Unusable(f"{self.name} never opened its own {part}")


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """The files of a commit, below ``folder``; ``git archive`` leaves no trace in the repository, whatever happens."""
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode != 0:
        raise Unusable(f"git has no commit {commit} here: a checkout with its history is needed")
    with tempfile.TemporaryDirectory(prefix="source-", dir=folder) as source:
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
            archive.extractall(source, filter="data")
        yield Path(source).resolve()


# What both trees do


STOPPED_VERBS: Mapping[str, Sequence[str]] = {
    "show a stopped run": ("show", "outputs"),
    "sweep status of a stopped run": ("sweep", "status", "outputs", "--json"),
}


class Work:
    """The folders that both trees run command lines in; ``answers``: folder -> command line -> answer."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.folder, self.quick = folder, quick
        self.configurations = [one for one in CONFIGURATIONS if one.quick or not quick]
        self.answers: dict[str, dict[str, Answer]] = {}

    def outputs(self, name: str, configuration: str = "") -> Path:
        return self.folder / name / "outputs" / configuration

    def fresh(self, name: str, copy_of: str | None = None) -> Path:
        """An empty folder to run command lines in, or one with a copy of the runs in another."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        (path / "own.py").write_text(OWN_MODULE)
        if copy_of is not None:
            shutil.copytree(self.outputs(copy_of), self.outputs(name))
        return path

    def train(self, tree: Tree, name: str, *, killed: bool) -> None:
        """Every configuration into the folder ``name``. ``killed``: ``KILLED`` is killed once, and resumed."""
        cwd = self.fresh(name)
        answers = {one.name: tree.run(*one.arguments, cwd=cwd) for one in self.configurations if one.alone}
        if killed:
            self.stop(tree, cwd, signal.SIGKILL)
        together = {one.name: one.arguments for one in (*self.configurations, KILLED) if not one.alone}
        self.answers[name] = {**answers, **tree.run_all(together, cwd)}

    def stop(self, tree: Tree, cwd: Path, stop: signal.Signals) -> Answer:
        """Begin ``KILLED``, and end it half-way."""
        answer = tree.run(*KILLED.arguments, cwd=cwd, stop=stop)
        runs = [path.parent for path in (cwd / "outputs" / KILLED.name).rglob("config.json")]
        half_done = [run for run in runs if (run / "checkpoint.pt").exists() and not (run / "result.json").exists()]
        if answer.code == 0 or len(half_done) != 1:
            raise Unusable(f"{tree.name}: no run ended half-way; it ended with {answer.code}: {answer.err}")
        return answer

    def stop_and_show(self, tree: Tree, name: str) -> None:
        """Ask ``KILLED`` to stop, and look at what is left."""
        cwd = self.fresh(name)
        stopped = self.stop(tree, cwd, signal.SIGTERM)
        self.answers[name] = {"SIGTERM": stopped, **tree.run_all(STOPPED_VERBS, cwd)}

    def read(self, tree: Tree, name: str, copy_of: str) -> None:
        """Let ``tree`` read a copy of the runs in another folder, with every verb that reads."""
        cwd = self.fresh(name, copy_of)
        self.answers[name] = tree.run_all(self.verbs(self.one_run(copy_of)), cwd)

    def give(self, cache: Path) -> None:
        """Store the base commit's folders in a cache; safe where another process does so at the same time."""
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=cache.parent))
        for name in OF_BASE:
            shutil.copytree(self.folder / name, partial / name)
        answers = {folder: {name: asdict(x) for name, x in self.answers.get(folder, {}).items()} for folder in OF_BASE}
        (partial / "answers.json").write_text(json.dumps(answers))
        try:
            partial.rename(cache)
        except OSError:  # another process was first
            shutil.rmtree(partial)

    def take(self, cache: Path) -> None:
        """Copy the base commit's folders from a cache."""
        for name in OF_BASE:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            shutil.copytree(cache / name, self.folder / name)
        for folder, answers in json.loads((cache / "answers.json").read_text()).items():
            self.answers[folder] = {name: Answer(**answer) for name, answer in answers.items()}

    def one_run(self, name: str) -> str:
        """The run that verbs for a single run read: the configuration lstm's, as a path from the working directory."""
        (config,) = self.outputs(name, "lstm").rglob("config.json")
        return str(config.parent.relative_to(self.folder / name))

    def verbs(self, run: str) -> dict[str, list[str]]:
        commands = {
            "show --all": "show --all",
            "show RUN": f"show {run}",
            "show a diverged run": "show outputs/diverged",
            "sweep status --json": "sweep status outputs --json",
            "report": "report outputs/sweep --out report",
            "eval": f"eval {run} seq_len=8,16 sequences=16",
            "export": f"export {run} --state-dict weights.npz",
            "train again": " ".join(LSTM.arguments),
            "list": "list",
        }
        if not self.quick:
            commands |= {
                "show the evaluated run": f"show {run}",
                "sweep again": " ".join(SWEEP.arguments),
                "sweep status": "sweep status outputs",
                "report of everything": "report outputs --out report-of-everything",
                "report --json": "report outputs/sweep --out report-again --json",
                "read --json": "read outputs/sweep --length 10 --json",
                "read": "read outputs/sweep --length 10 --whole",
                "read gates": f"read {run} --view gates --whole",
                "read gradient": "read outputs/stack outputs/sweep --view gradient --whole",
                "read a custom cell": "read outputs/custom-cell --view gates --whole",
                "reproduce": f"reproduce {run} --json",
                "playground": "playground outputs/sweep --out page/index.html --no-open",
            }
        return {name: line.split() for name, line in commands.items()}

    # Comparing

    def trained(self, configuration: Configuration, name: str) -> dict[str, Any]:
        """What the runs of a configuration left in the folder ``name``, and how its command line ended."""
        from comparison import current_text, plain_text, read_runs

        answer = self.answers[name][configuration.name]
        return {
            "exit code": answer.code,
            # Jobs of a sweep print when they get to it.
            "stdout": sorted(current_text(plain_text(answer.out)).splitlines()),
            "stderr": plain_text(answer.err),
            "runs": read_runs(self.outputs(name, configuration.name)),
        }

    def read_with(self, verb: str, name: str, *, same_runs: bool) -> dict[str, Any]:
        """What a verb printed and wrote in the folder ``name``.

        Args:
            same_runs: it will be compared with what was read of the same files, so that even times must be the same.
        """
        from comparison import (
            current_text,
            plain_text,
            read_arrays,
            read_digests,
            read_report,
            read_run,
            shown_by_playground,
        )

        answer, folder = self.answers[name][verb], self.folder / name
        text: Callable[[str], str] = str if same_runs and verb != "reproduce" else plain_text
        facts: dict[str, Any] = {
            "exit code": answer.code,
            "stdout": current_text(text(answer.out)),
            "stderr": text(answer.err),
        }
        if verb == "list":
            facts["stdout"] = _without_paragraphs(facts["stdout"], ADDED_TO_LIST)
        if verb in ("report", "report of everything"):
            written = folder / verb.replace(" ", "-")
            facts["tables"] = read_report(written)
            facts["files"] = read_digests(written) if same_runs else sorted(read_digests(written))
        elif verb == "eval":
            facts["run"] = read_run(folder / self.one_run("new" if name == "new-read" else "base"))
        elif verb == "export" and answer.code == 0:
            facts["weights"] = read_arrays(folder / "weights.npz")
        elif verb == "playground" and same_runs:
            facts["page"] = shown_by_playground((folder / "page/index.html").read_text(encoding="utf-8"))
        return facts


ADDED_TO_LIST = ("models", "probes")
"""Paragraphs of ``seqmem list`` that the earlier commit does not have."""


def _without_paragraphs(text: str, titles: Sequence[str]) -> str:
    return "\n\n".join(part for part in text.split("\n\n") if part.split()[:1] not in [[title] for title in titles])


@dataclass
class Verdict:
    """Prints a line for each comparison, and counts."""

    right: int = 0
    wrong: list[str] = field(default_factory=list)

    def compare(self, title: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        from comparison import compare

        differences = list(compare(old, new))
        self.say(title, [str(difference) for difference in differences])

    def say(self, title: str, faults: Sequence[str]) -> None:
        if not faults:
            self.right += 1
            print(f"ok       {title}", flush=True)
            return
        self.wrong.append(title)
        print(f"DIFFERS  {title}: {len(faults)} {'difference' if len(faults) == 1 else 'differences'}")
        for fault in islice(faults, SHOWN):
            print(f"           {fault}")
        sys.stdout.flush()


OF_BASE = ("base", "base-read", "base-killed", "base-stopped")
"""The folders that the base commit alone fills."""


def check(base: str, *, quick: bool, keep: Path | None, cache: Path | None) -> int:
    began = time.monotonic()
    verdict = Verdict()
    with (
        tempfile.TemporaryDirectory(prefix="seqmem-refactoring-") as temporary,
        checked_out(base, Path(temporary)) as source,
    ):
        scratch = Path(temporary).resolve()
        work = Work(scratch if keep is None else keep.resolve(), quick=quick)
        old, new = Tree("base", source, ROOT, scratch), Tree("new", ROOT, source, scratch)
        kernels = new.build_kernels()
        cached = None if cache is None else cache.resolve() / _key(base, kernels, quick=quick)
        if reused := cached is not None and cached.is_dir():
            work.take(cached)
        elif old.build_kernels() != kernels:
            raise Unusable(f"the two trees compute with different kernels: {old.build_kernels()} and {kernels}")
        print(f"{base} against the working tree; kernels: {kernels}", flush=True)
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(_work_of_new, work, new)]
            if not reused:
                jobs.append(pool.submit(_work_of_base, work, old))
            for job in jobs:
                job.result()
            if cached is not None and not reused:
                work.give(cached)
            for job in [pool.submit(work.read, new, "base-read-by-new", "base"), pool.submit(_resume, work, new)]:
                job.result()
        for tree in (new,) if reused else (old, new):
            tree.check_opened(native="no native" not in kernels)
        _compare_all(work, verdict)
        tests = list(
            self_test(work.folder / "self-test", work.outputs("base", "lstm"), work.folder / "base-read/report")
        )
        faults = [f"{kind}: {fault}" for kind, faults in tests for fault in faults]
        verdict.say(f"self-test: {len(tests)} changes of single values are noticed", faults)
    total = verdict.right + len(verdict.wrong)
    print(f"\n{verdict.right} of {total} the same, in {time.monotonic() - began:.0f} s")
    print(f"DIFFERENT: {'; '.join(verdict.wrong)}" if verdict.wrong else "passed: no number has changed")
    return 1 if verdict.wrong else 0


def _key(base: str, kernels: str, *, quick: bool) -> str:
    """The cache key: it changes with the commit, this script, the processor and the packages that seqmem requires."""
    git = subprocess.run(["git", "rev-parse", f"{base}^{{commit}}"], cwd=ROOT, capture_output=True, check=False)
    names = [re.match(r"[\w.-]+", line) for line in requires("seqmem") or () if "extra ==" not in line]
    packages = [f"{name[0]} {version(name[0])}" for name in names if name is not None]
    facts = (git.stdout, kernels, platform.processor(), platform.machine(), packages, Path(__file__).read_bytes())
    return f"{base}-{'quick' if quick else 'full'}-{blake2b(repr(facts).encode(), digest_size=6).hexdigest()}"


def _work_of_base(work: Work, tree: Tree) -> None:
    work.train(tree, "base", killed=False)
    work.read(tree, "base-read", "base")
    work.stop(tree, work.fresh("base-killed"), signal.SIGKILL)
    work.stop_and_show(tree, "base-stopped")


def _work_of_new(work: Work, tree: Tree) -> None:
    work.train(tree, "new", killed=True)
    work.read(tree, "new-read", "new")
    work.stop_and_show(tree, "new-stopped")


def _resume(work: Work, tree: Tree) -> None:
    """Finish what the base commit began."""
    for name, begun in (("across", "base-killed"), ("across-stopped", "base-stopped")):
        work.answers[name] = {KILLED.name: tree.run(*KILLED.arguments, cwd=work.fresh(name, begun))}


def _compare_all(work: Work, verdict: Verdict) -> None:
    cells, tasks = set(), set()
    for one in work.configurations:
        old = work.trained(one, "base")
        cells |= {run["config"]["cell"]["name"] for run in old["runs"].values()}
        tasks |= {run["config"]["task"]["name"] for run in old["runs"].values()}
        if old["exit code"] != one.code or (one.code < 2) != bool(old["runs"]):
            raise Unusable(f"{one.name}: the base commit ended with {old['exit code']}: {old['stderr']}")
        verdict.compare(one.name, old, work.trained(one, "new"))
    if not work.quick:
        listed = work.answers["base-read"]["list"].out
        lacking = [
            *(f"cell={name}" for name in _listed(listed, "cells") if name not in cells),
            *(f"task={name}" for name in _listed(listed, "tasks") if name not in tasks),
        ]
        verdict.say("every cell and task has a configuration", lacking)
    uninterrupted = _results(work.trained(KILLED, "base"))
    for title, name in (
        ("killed and resumed", "new"),
        ("killed under the base commit, resumed", "across"),
        ("stopped under the base commit, resumed", "across-stopped"),
    ):
        verdict.compare(title, uninterrupted, _results(work.trained(KILLED, name)))
    for verb in work.answers["base-stopped"]:
        both = [work.read_with(verb, name, same_runs=False) for name in ("base-stopped", "new-stopped")]
        verdict.compare(verb, *both)
    for verb in work.verbs(""):
        old = work.read_with(verb, "base-read", same_runs=True)
        if old["exit code"]:
            raise Unusable(f"{verb}: the base commit ended with {old['exit code']}: {old['stderr']}")
        verdict.compare(
            f"{verb}, runs of the base commit", old, work.read_with(verb, "base-read-by-new", same_runs=True)
        )
        old = work.read_with(verb, "base-read", same_runs=False)
        verdict.compare(f"{verb}, each its own runs", old, work.read_with(verb, "new-read", same_runs=False))


def _listed(text: str, kind: str) -> list[str]:
    """The names below a title of `seqmem list`."""
    section = text[text.index(f"{kind} ") :].partition("\n\n")[0]
    return [line.split()[0].rpartition("/")[2] for line in section.splitlines()[1:]]


def _results(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a resumed run shares with one that was never interrupted: not its lines, nor the earlier environment."""
    runs = {path: {key: x for key, x in run.items() if key != "environment"} for path, run in facts["runs"].items()}
    return {"exit code": facts["exit code"], "runs": runs}


# Is the comparison able to fail?


def self_test(folder: Path, outputs: Path, report: Path) -> Iterator[tuple[str, list[str]]]:
    """Change one value in a copy of runs and of their report, and see whether the comparison notices.

    Yields:
        The kind of value, and what is wrong: nothing, if exactly one difference was listed, in the right place.
    """
    from comparison import (
        compare,
        current_config,
        current_report,
        current_result,
        current_row,
        current_text,
        read_report,
        read_runs,
        shown_by_playground,
    )

    original = {"runs": read_runs(outputs), "report": read_report(report)}

    def changed(change: Callable[[Path, Path], None]) -> list[str]:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(outputs, folder / "outputs")
        shutil.copytree(report, folder / "report")
        (config,) = (folder / "outputs").rglob("config.json")
        change(config.parent, folder / "report")
        copy = {"runs": read_runs(folder / "outputs"), "report": read_report(folder / "report")}
        return [difference.where for difference in compare(original, copy)]

    places = changed(_leave)
    yield "a copy", [f"differs in {place}" for place in places]
    for kind, expected, change in CHANGES:
        places = changed(change)
        noticed = bool(places) and all(re.search(expected, place) for place in places)
        yield kind, [] if noticed else [f"differences in {places or 'nothing'}, not in {expected}"]
    decay = {"start": {"state": {"half_life": 2.5, "underflowed": 2}}, "end": {}}
    redefined = {"start": {"state": {"half_life": 3.5, "log10_arrives": -1.0, "underflowed": 2}}, "end": {}}
    for function, rest in ((current_result, {"score": 0.5}), (current_row, {"kind": "trace", "step": 3})):
        before, now = {**rest, "gradient": decay}, function({**rest, "probes": {"gradient": redefined}})
        other = {**rest, "probes": {"gradient": {**decay, "end": {"state": {"underflowed": 2}}}}}
        faults = [
            f"{function.__name__} {fault}"
            for fault, wrong in (
                ("does not map the earlier layout to the current one", list(compare(function(before), now))),
                ("changes the current layout", list(compare(function(now), now))),
                ("hides a difference", not list(compare(function(before), function(other)))),
            )
            if wrong
        ]
        yield f"layouts, {function.__name__}", faults
    config = {"cell": {"name": "lstm"}}
    yield (
        "layouts, current_config",
        [
            "current_config changes what is there"
            for _ in compare(config, {key: current_config(config)[key] for key in config})
        ],
    )
    row = '<tr> <td class="left">cell.args </td><td class="words">{text}</td> </tr>'
    page = '<p id="{id}">12 words</p><script type="application/json" id="data">{data}</script><script>{code}</script>'
    pages = {
        "current_text": (
            current_text, "score   nan  chance 0.2", "score  diverged  chance 0.2", "score  0.1  chance 0.2",
        ),
        "current_report": (
            current_report, '<td class="">2</td>\n' + row.format(text="absent (4), {} (2)"), "<td>2</td>",
            "<td>2</td>" + row.format(text="{&#39;alpha&#39;: 0.5} (2)"),
        ),
        "shown_by_playground": (
            shown_by_playground, page.format(id="a", data="[1]", code="let x"),
            page.format(id="b", data="[1]", code="let y"), page.format(id="b", data="[2]", code="let y"),
        ),
    }  # fmt: skip
    for name, (form, before, now, other) in pages.items():
        faults = ["does not map the earlier form to the current one"] if form(before) != form(now) else []
        yield f"layouts, {name}", faults + (["hides a difference"] if form(other) == form(now) else [])


def _leave(_: Path, __: Path) -> None:
    """Change nothing."""


def _edit_json(name: str, *keys: Any, value: Any) -> Callable[[Path, Path], None]:
    def edit(run: Path, _: Path) -> None:
        whole = json.loads((run / name).read_text())
        *groups, last = keys
        place = whole
        for group in groups:
            place = place[group]
        place[last] = value(place[last])
        (run / name).write_text(json.dumps(whole))

    return edit


def _edit_decay(run: Path, report: Path) -> None:
    """Change a count, in the earlier layout or in the current one."""
    probes = "probes" in json.loads((run / "result.json").read_text())
    keys = (*(["probes"] if probes else []), "gradient", "end", "state", "underflowed")
    _edit_json("result.json", *keys, value=lambda count: count + 1)(run, report)


def _edit_row(run: Path, _: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if '"kind": "train"' in line)
    row = json.loads(lines[place])
    lines[place] = json.dumps({**row, "loss": _next(row["loss"])})
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def _drop_row(run: Path, _: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")


def _edit_gradients(run: Path, _: Path) -> None:
    import numpy as np
    from comparison import read_arrays

    arrays = read_arrays(run / "gradients.npz")
    values = arrays["norm/state" if "norm/state" in arrays else "norm/hidden"]
    values[1, 2, 0] = np.nextafter(values[1, 2, 0], np.inf)
    np.savez(run / "gradients.npz", **arrays)


def _edit_weights(run: Path, _: Path) -> None:
    import torch
    from comparison import find_key

    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    weights = next(iter(find_key(saved, "model").values())).view(-1)
    weights[0] = torch.nextafter(weights[0], weights[0] + 1)
    torch.save(saved, run / "checkpoint.pt")


def _edit_events(change: Callable[[Any], bool]) -> Callable[[Path, Path], None]:
    """Rewrite the event file with the first value that ``change`` changes."""

    def edit(run: Path, _: Path) -> None:
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        (path,) = run.glob("events.out.tfevents.*")
        events = [Event.FromString(record) for record in RawEventFileLoader(str(path)).Load()]
        any(change(value) for event in events for value in event.summary.value)
        with path.open("wb") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())
            writer.flush()

    return edit


def _edit_scalar(value: Any) -> bool:
    import numpy as np

    if value.tag != "train/loss":
        return False
    value.simple_value = float(np.nextafter(np.float32(value.simple_value), np.float32(np.inf)))
    return True


def _edit_tag(value: Any) -> bool:
    if value.tag != "result/score":
        return False
    value.tag = "result/scores"
    return True


def _edit_image(value: Any) -> bool:
    if not value.HasField("image"):
        return False
    value.image.encoded_image_string = value.image.encoded_image_string[:-1] + b"?"
    return True


def _edit_text(value: Any) -> bool:
    if value.tag != "answers" or not value.tensor.string_val:
        return False
    value.tensor.string_val[0] = value.tensor.string_val[0] + b"?"
    return True


def _rename(run: Path, _: Path) -> None:
    run.rename(run.with_name(run.name[:-1] + ("0" if run.name[-1] != "0" else "1")))


def _edit_table(name: str) -> Callable[[Path, Path], None]:
    def edit(_: Path, report: Path) -> None:
        text = (report / name).read_text()
        (report / name).write_text(text.replace("false", "true", 1).replace("pronoun", "pronouns", 1))

    return edit


def _next(number: float) -> float:
    return math.nextafter(number, math.inf)


CHANGES: Sequence[tuple[str, str, Callable[[Path, Path], None]]] = (
    ("a loss in metrics.jsonl", r"/metrics/\d+/loss$", _edit_row),
    ("a line of metrics.jsonl", r"/metrics \(length\)$", _drop_row),
    ("a gradient's last bit", r"/gradients/norm/\w+\[1, 2, 0\]$", _edit_gradients),
    ("a weight's last bit", r"/checkpoint/model/", _edit_weights),
    ("a score in result.json", r"/result/score$", _edit_json("result.json", "score", value=_next)),
    ("a whole number that becomes a float", r"/result/steps$", _edit_json("result.json", "steps", value=float)),
    ("a decay in result.json", r"/result/probes/gradient/end/state/underflowed$", _edit_decay),
    ("a setting", r"/config/optimizer/lr$", _edit_json("config.json", "optimizer", "lr", value=_next)),
    ("a status", r"/status/step$", _edit_json("status.json", "step", value=lambda step: step + 1)),
    ("a scalar in the event file", r"/events[^/]*/train/loss/points/0/1$", _edit_events(_edit_scalar)),
    ("a tag in the event file", r"/events[^/]*/result/scores?$", _edit_events(_edit_tag)),
    ("an image in the event file", r"/events[^/]*/.*/points/\d+/1$", _edit_events(_edit_image)),
    ("a text in the event file", r"/events[^/]*/answers/points/0/1/0$", _edit_events(_edit_text)),
    ("a directory's name", r"^runs/", _rename),
    ("a table of runs", r"^report/runs.csv/0/(task|diverged|solved)$", _edit_table("runs.csv")),
    ("a table of groups", r"^report/groups.csv/0/(task|solved)$", _edit_table("groups.csv")),
    ("a table of tested lengths", r"^report/tested.csv/0/(task|solved)$", _edit_table("tested.csv")),
)
"""What is changed, a pattern for where the comparison must find it, and how: in a run's directory, in a report."""


def check_self_test() -> int:
    verdict = Verdict()
    with tempfile.TemporaryDirectory(prefix="seqmem-refactoring-") as temporary:
        folder = Path(temporary).resolve()
        tree = Tree("new", ROOT, folder / "none", folder)
        work = Work(folder, quick=True)
        cwd = work.fresh("new")
        tree.run_all({"train": LSTM.arguments, "report": ("report", "outputs/lstm", "--out", "report")}, cwd)
        for kind, faults in self_test(folder / "self-test", work.outputs("new", "lstm"), cwd / "report"):
            verdict.say(kind, faults)
    print("NOT noticed: " + "; ".join(verdict.wrong) if verdict.wrong else "passed: every change is noticed")
    return 1 if verdict.wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/check_refactoring")
    parser.add_argument("--quick", action="store_true", help="a few of the configurations")
    parser.add_argument("--base", default=BASE, metavar="COMMIT", help=f"what to compare with (default: {BASE})")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave all runs there")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="a cache of what COMMIT computes")
    parser.add_argument("--self-test", action="store_true", help="only: does the comparison notice changes?")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive is not None:
        drive(options.drive)
        return 0
    try:
        if options.self_test:
            return check_self_test()
        return check(options.base, quick=options.quick, keep=options.keep, cache=options.cache)
    except Unusable as error:
        print(f"scripts/check_refactoring: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
