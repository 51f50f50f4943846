"""Runs jobs on this machine: one thread each, in as many processes at once as there are cores.

The processes are forked from a server that has imported torch, so they start in tens of milliseconds, and a killed job
affects no other. A process goes on with another job, whose first steps are then no slower than its later ones, unless
its last job may have left something behind: one of a user's own code, one that failed. A job's output goes through a
pipe to the process that the user started, which alone writes to the terminal. If that pipe closes, the parent process
is gone, and the job saves its run and ends.
"""

import gc
import io
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any

from ...cores import usable_cores
from ...printable import PrintableStream
from ..config import own_code
from ..config.errors import ConfigError
from .jobs import Job, Outcome, Queue, View, lost, skip, work
from .one_run import UNREAD, Stopped, StopSignals, interrupted
from .overview import Reporter, cost, view
from .sockets import short_directory

_PRELOADED = (
    "seqmem.cli.config.build", "seqmem.cli.launch.local", "seqmem.cli.terminal.live", "seqmem.record.longer",
    "seqmem.record.pictures.from_batch", "seqmem.record.pictures.heatmap", "seqmem.record.pictures.sentences",
    "seqmem.record.recorder", "seqmem.training.loop", "numpy.ma", "PIL.BmpImagePlugin", "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "PIL.PpmImagePlugin",
)  # fmt: skip
"""Imports of every job, many of them late, done once by the fork server."""

_GRACE = 30.0
"""Seconds for a job to save its run after the process that started it is gone."""


def run_jobs(jobs: Sequence[Job], *, workers: int | str = "auto") -> list[Outcome]:
    """Every job's outcome, in the order of the jobs, including those that were not started.

    Args:
        workers: concurrent processes. ``auto``: one for every usable core. 1: the jobs run in this process, one after
            the other.

    Raises:
        ConfigError: ``workers`` is neither.
        Stopped: a second signal came; running jobs were killed.
    """
    done = [outcome for job in jobs if (outcome := skip(job)) is not None]
    numbers = {outcome.number for outcome in done}
    todo = [job for job in jobs if job.number not in numbers]
    count = min(worker_count(workers), len(todo))
    stop = StopSignals()
    with stop.caught(), view(jobs, done, count) as shown:
        # Start long jobs first: a long one started last would leave the other cores idle.
        queue = Queue(sorted(todo, key=cost, reverse=True) if count > 1 else todo, shown)
        if count > 1:
            _in_processes(queue, count, shown, stop, _gpus(todo))
        else:
            _in_this_process(queue, shown, stop)
    if shown.unread and not stop.requested():
        raise SystemExit(UNREAD)  # there is no reader for a line
    outcomes = {outcome.number: outcome for outcome in [*done, *queue.outcomes, *queue.rest(stop)]}
    return [outcomes[job.number] for job in jobs]


def worker_count(workers: Any) -> int:
    """Concurrent processes.

    Raises:
        ConfigError: it is not a number of processes.
    """
    if workers == "auto":
        return usable_cores()
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ConfigError(f"hydra.launcher.workers={workers}: must be auto, or a whole number from 1 on")
    return workers


def _in_this_process(queue: Queue, shown: View, stop: StopSignals) -> None:
    while len(queue) and not stop.requested() and not shown.unread:
        job = queue.next()
        if job is None:
            time.sleep(0.05)  # until a run that another process has locked may be free
            continue
        shown.started(job)
        report = partial(Reporter, partial(shown.progress, job.number)) if shown.live else None
        queue.ended(job, work(job, report=report, stop=stop, silent=True))


def _in_processes(queue: Queue, count: int, shown: View, stop: StopSignals, gpus: Sequence[str] = ()) -> None:
    running: dict[Connection, _Worker] = {}
    idle: list[_Worker] = []
    try:
        while len(queue) or running:
            if stop.requested() or shown.unread:
                for worker in running.values():
                    worker.ask_to_stop(stop.received or signal.SIGTERM)
                if not running:
                    break
            else:
                while len(running) < count:
                    job = queue.next([worker.job for worker in running.values()])
                    if job is None:
                        break
                    shown.started(job)
                    try:
                        worker = _worker_for(job, idle, live=shown.live, gpu=_gpu_for(job, gpus, running.values()))
                    except (OSError, EOFError) as error:
                        why = f"cannot start a process: {getattr(error, 'strerror', None) or error}"
                        queue.ended(job, Outcome(job.number, "failed", error=why))
                        continue
                    running[worker.link] = worker
            if not running:
                time.sleep(0.05)
            for link in wait(list(running), timeout=0.1) if running else ():
                assert isinstance(link, Connection)
                worker = running[link]
                if not worker.listen(shown):
                    del running[link]
                    queue.ended(worker.job, worker.outcome())
                    if worker.idle:
                        idle.append(worker)
    except KeyboardInterrupt:
        line = "stopped at once: the same command goes on from the last checkpoints"
        raise Stopped(line, stop.exit_code) from None
    finally:
        with stop.ignored():
            for worker in running.values():
                worker.kill()
                interrupted(worker.job.run)
            for worker in idle:
                worker.kill()


def _worker_for(job: Job, idle: list["_Worker"], *, live: bool, gpu: str | None) -> "_Worker":
    """An idle process that begins the job, or a new one."""
    for worker in [worker for worker in idle if worker.gpu == gpu]:
        idle.remove(worker)
        if worker.take(job):
            return worker
    return _Worker(job, live=live, gpu=gpu)


def _gpus(jobs: Sequence[Job]) -> list[str]:
    """The GPUs over which jobs are spread; none: there are not several, or no job leaves the choice to us."""
    if not any(_takes_any_gpu(job) for job in jobs):
        return []
    from ..config.build import visible_gpus  # imports torch

    gpus = visible_gpus()
    return gpus if len(gpus) > 1 else []


def _takes_any_gpu(job: Job) -> bool:
    return job.settings.get("device") == "auto"


def _gpu_for(job: Job, gpus: Sequence[str], running: Iterable["_Worker"]) -> str | None:
    """The GPU with the fewest running jobs, the first of several; None: the job sees all that there are."""
    if not gpus or not _takes_any_gpu(job):
        return None
    jobs = Counter(worker.gpu for worker in running)
    return min(gpus, key=lambda gpu: jobs[gpu])


class _Worker:
    """A process that does jobs, one after the other, from the view of the process that the user started.

    Args:
        job: the first.
        gpu: the only one that it sees, by its name in CUDA_VISIBLE_DEVICES; None: those that this process sees.
    """

    def __init__(self, job: Job, *, live: bool, gpu: str | None = None) -> None:
        self.job, self.gpu, self.idle = job, gpu, False
        environment = dict(os.environ) | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
        self._outcome: Outcome | None = None
        self._asked_to_stop = False
        context = _context()
        self.link, theirs = context.Pipe()
        with theirs:
            self._process = context.Process(
                target=_do, args=(job, theirs, environment, sys.orig_argv, live), name=job.title
            )
            with _server_environment():  # restarts the server if it has ended
                self._process.start()

    def take(self, job: Job) -> bool:
        """Begin another job; False: the process is gone. Call it if it is ``idle``."""
        self.job, self.idle, self._outcome = job, False, None
        try:
            self.link.send(("job", job))
        except OSError:
            self.kill()
            return False
        return True

    def ask_to_stop(self, number: int) -> None:
        if not self._asked_to_stop:
            self._asked_to_stop = True
            with suppress(OSError):
                self.link.send(("stop", number))

    def listen(self, shown: View) -> bool:
        """Receive and pass on one message; False: the job has ended."""
        try:
            kind, message = self.link.recv()
        except (EOFError, OSError):
            return False
        if kind == "outcome":
            self._outcome = message
        elif kind == "idle":
            self.idle = True
        elif kind == "progress":
            shown.progress(self.job.number, message)
        else:
            shown.say(self.job, message, error=kind == "err")
        return not self.idle

    def outcome(self) -> Outcome:
        """The outcome that the job has sent, or the reason why it sent none. Call it after the job has ended."""
        if self.idle and self._outcome is not None:
            return self._outcome
        self._process.join(_GRACE)
        if self._outcome is None:
            code = self._process.exitcode
            if code is not None and code < 0:
                memory = ": out of memory?" if code == -signal.SIGKILL else ""
                why = f"killed by signal {-code}{memory}"
            else:
                why = f"its process ended without a word (exit code {code})"
            self._outcome = lost(self.job, why)
        self.kill()
        return self._outcome

    def kill(self) -> None:
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join(_GRACE)
        self.link.close()


def warm() -> None:
    """Start the server early: it imports torch on another core while this process reads settings."""
    if _FORKS:
        from multiprocessing import forkserver

        _context()
        with _server_environment():
            forkserver.ensure_running()


_FORKS = sys.platform == "linux"
"""On other systems, libraries that torch imports do not survive a fork."""


def _context() -> Any:
    context = multiprocessing.get_context("forkserver" if _FORKS else "spawn")
    if _FORKS:
        context.set_forkserver_preload(list(_PRELOADED))
    return context


@contextmanager
def _server_environment() -> Iterator[None]:
    """Sets the environment that the server inherits.

    One thread, because libraries start threads at import, and a process with threads must not be forked. Libraries are
    not looked for in the working directory, as ``python -c`` would, where a user's file may have the name of one.
    Ctrl-C is ignored, because it would end the server in the middle of an import. Its socket is where paths are short.
    """
    usual, short = tempfile.gettempdir(), short_directory(len("/pymp-12345678/listener-12345678"))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONSAFEPATH")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    tempfile.tempdir = short
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        tempfile.tempdir = usual
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# In the jobs' own process


def _do(job: Job, link: Connection, environment: dict[str, str], command: list[str], live: bool) -> None:
    gc.freeze()  # what the server has imported is never garbage, and looking at it would copy its memory
    os.environ.clear()  # the fork server's environment may be an older one
    os.environ.update(environment)
    sys.orig_argv[:] = command
    stop, jobs = _PipedStop(), SimpleQueue[Job | None]()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that the user started answers the terminal's Ctrl-C
    signal.signal(signal.SIGTERM, stop.by_signal)
    pipe = _Pipe(link)
    out, err = _Lines(pipe, "out"), _Lines(pipe, "err")
    sys.stdout, sys.stderr = PrintableStream(out), PrintableStream(err)
    threading.Thread(target=_listen, args=(link, stop, jobs), daemon=True).start()
    report = partial(Reporter, partial(pipe.send, "progress")) if live else None
    following: Job | None = job
    while following is not None:
        try:
            outcome = work(following, report=report, stop=stop, silent=True)
        except SystemExit:  # its lines could not be written
            outcome = Outcome(following.number, "stopped", exit_code=stop.exit_code)
        for stream in (out, err):
            stream.finish()
        pipe.send("outcome", outcome)
        if stop.requested() or not _leaves_nothing(following, outcome):
            return
        pipe.send("idle", None)
        following = jobs.get()


def _leaves_nothing(job: Job, outcome: Outcome) -> bool:
    """Whether the process is as good as a new one after the job."""
    import torch

    parts = [job.settings[name] for name in own_code.PARTS] + [*job.settings["probe"].values()]
    own = any("target" in part for part in parts)  # it may keep anything in its module
    cached = job.settings["compile"] or torch.cuda.is_initialized()
    return outcome.state == "finished" and not own and not cached


class _PipedStop(StopSignals):
    """A request to stop that arrives through the pipe; installs no signal handlers."""

    @contextmanager
    def caught(self) -> Iterator[None]:
        yield

    def by_signal(self, number: int, _: object) -> None:
        self.received = self.received or number
        if self.at_once is not None and threading.current_thread() is threading.main_thread():
            raise self.at_once


def _listen(link: Connection, stop: _PipedStop, jobs: "SimpleQueue[Job | None]") -> None:
    try:
        while True:
            kind, message = link.recv()
            if kind == "job":
                jobs.put(message)
                continue
            stop.by_signal(message, None)
            if stop.at_once is not None:  # only the main thread can be interrupted, by a signal
                os.kill(os.getpid(), signal.SIGTERM)
    except (EOFError, OSError):
        stop.by_signal(signal.SIGTERM, None)
    jobs.put(None)
    time.sleep(_GRACE)
    os._exit(1)


class _Pipe:
    """Sends messages to the process that the user started; drops them if that process is gone."""

    def __init__(self, link: Connection) -> None:
        self._link, self._lock = link, threading.Lock()

    def send(self, kind: str, message: Any) -> None:
        with self._lock, suppress(OSError):
            self._link.send((kind, message))


class _Lines(io.TextIOBase):
    """A job's output stream: sends whole lines."""

    def __init__(self, pipe: _Pipe, kind: str) -> None:
        self._pipe, self._kind, self._part = pipe, kind, ""

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._part = (self._part + text).split("\n")
        if lines:
            self._pipe.send(self._kind, "".join(f"{line}\n" for line in lines))
        return len(text)

    def finish(self) -> None:
        """Send a last line without a line break."""
        if self._part:
            self.write("\n")
