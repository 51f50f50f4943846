"""A Python that has imported torch and seqmem, and forks a process for every command line it receives.

``commandline.forked`` starts it and talks to it over a socket, which is this script's only argument: a file descriptor.
A forked process equals ``python -m seqmem ARGS`` after its imports, or ``python -c CODE ARGS``: arguments, directory,
environment, streams, process id and exit code are its own. What depends on the start itself (imports, hash seed,
threads) needs a real process, and so does Hydra without the caches of quick_hydra.py.
"""

import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra import compose

import quick_hydra
from seqmem.cli.config import process
from seqmem.cli.config.own_hydra import own_hydra

PRELOADED = (
    "hydra.main", "numpy.ma", "torch", "PIL.GifImagePlugin", "PIL.ImageDraw", "PIL.ImageFont", "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin", "seqmem.cli.config.build", "seqmem.cli.launch.one_run", "seqmem.cli.launch.sweep",
    "seqmem.cli.terminal.live", "seqmem.cli.verbs.train", "seqmem.reading", "seqmem.record.pictures.heatmap",
    "seqmem.record.pictures.sentences", "seqmem.record.recorder", "seqmem.training.loop",
)  # fmt: skip
"""What a training imports, most of it late; a name that has moved is an error at the first fork."""


def serve(listener: socket.socket) -> None:
    """Fork for each request; returns in the forked process, and in the server when every channel has closed.

    A request is JSON with ``module``, ``args``, ``cwd``, ``env``, perhaps ``code``, and four file descriptors: stdin,
    stdout, stderr, and a pipe that receives the process id at once and the exit code at the end.
    """
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waking)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal of the tests
    reports: dict[int, int] = {}
    channels = [listener.accept()[0]]
    while channels:
        ready, _, _ = select.select([listener, *channels, woken], [], [])
        if woken in ready:
            os.read(woken, 1024)
            for pid in list(reports):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    report = reports.pop(pid)
                    os.write(report, f"{os.waitstatus_to_exitcode(status)}\n".encode())
                    os.close(report)
        if listener in ready:
            channels.append(listener.accept()[0])
        for channel in [channel for channel in channels if channel in ready]:
            message, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 4)
            if not message:
                channels.remove(channel)
                channel.close()
                continue
            pid = os.fork()
            if pid == 0:
                for each in (listener, *channels):
                    each.close()
                for descriptor in (woken, waking, *reports.values(), descriptors[3]):
                    os.close(descriptor)
                become(json.loads(message), descriptors[:3])
                process.begin()
                process.end(0)  # a command has ended with its own code by now
                return
            for descriptor in descriptors[:3]:
                os.close(descriptor)
            reports[pid] = descriptors[3]
            os.write(descriptors[3], f"{pid}\n".encode())


def become(request: dict[str, Any], streams: list[int]) -> None:
    """Take over arguments, directory, environment and streams; run ``python -m MODULE``, or the code if any."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    sys.stdin = open(0, encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    if "code" in request:
        sys.argv[:] = ["-c", *request["args"]]
        sys.path[0] = ""
        exec(request["code"], {"__name__": "__main__"})
        return
    sys.argv[:] = ["", *request["args"]]
    sys.orig_argv[:] = [sys.executable, "-m", request["module"], *request["args"]]
    sys.path[0] = str(Path.cwd())
    if request["module"] == "seqmem":
        del sys.path[0]  # as the package does at its import, which was before
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in PRELOADED:
        import_module(name)
    quick_hydra.install()
    with own_hydra():
        compose("train", ["cell=lstm", "seed=1", "quiet=true", "evaluate.lengths=[8]"])  # fills the parsers' tables
    gc.freeze()  # a forked process copies no page of what is imported because its garbage is collected
    serve(socket.socket(fileno=int(sys.argv[1])))
