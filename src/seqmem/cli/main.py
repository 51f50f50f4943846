"""The command line: its first word is a verb; each verb is ``main(args) -> exit code`` of the module ``verbs.VERB``."""

import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module

from ..printable import OutputError, PrintableStream, to_nowhere
from .config import process
from .config.commands import command, completion, was_typed
from .config.errors import counted, exit_code, full_errors, nearest, one_line, print_error
from .config.odd_values import remember
from .config.version import VERSION

VERBS = {
    "train": "train, trace the gradient through time, evaluate; -m sweeps",
    "eval": "score finished runs at any lengths",
    "show": "a run in the terminal: score by length, the gradient over timesteps",
    "read": "watch models read a sentence word by word: who remembers, who changes their mind",
    "playground": "one page for the browser that runs the models: type a sentence, see who remembers",
    "report": "what many runs say together: memory span, spread, a page with figures, tables",
    "watch": "open TensorBoard on the runs, gradients first",
    "span": "find the longest sequence that a cell learns: double, then bisect",
    "sweep": "sweep status DIR: which runs of a sweep are finished, running, failed",
    "reproduce": "a finished run once more: are its numbers the same?",
    "verify": "are the files of finished runs what the runs wrote?",
    "trace": "the gradient at every timestep of a PyTorch model of your own: script.py:make",
    "paper": "repeat a published result, and see the published figures beside yours",
    "card": "what a battery of tasks says of one cell, on a page that can be checked",
    "check": "does a cell or a model of your own keep what training and measuring rely on?",
    "export": "a run's weights as a state dict, its step as ONNX",
    "list": "the cells, tasks, models, probes, optimizers and experiments there are",
}


def main() -> int:
    """Do the command of ``sys.argv``. Returns its exit code, or ends with it the process that was started for it."""
    if was_typed():
        process.begin()
    code = _in_streams(sys.argv[1:])
    process.end(code)
    return code


def _in_streams(args: list[str]) -> int:
    _open_streams()
    out, err = sys.stdout, sys.stderr
    for stream in (out, err):
        if isinstance(stream, io.TextIOWrapper):  # the terminal's encoding may lack characters of a path or a strip
            stream.reconfigure(errors="backslashreplace")
    # A stranger's names, and errors that quote them, cannot write to the terminal's controls.
    sys.stdout, sys.stderr = PrintableStream(out), PrintableStream(err)
    try:
        with _interruptible():
            return _main(args)
    finally:
        sys.stdout, sys.stderr = out, err


def _open_streams() -> None:
    """Replace streams that were closed before the start by /dev/null, so that no file gets the number of one."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: PTH123, SIM115


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also in a process that was started with it ignored: a job in the background of a
    script, of a CI runner. A signal that is forwarded to it is meant for it."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _main(args: list[str]) -> int:
    remember(args)
    name = f"seqmem {args[0]}" if args and args[0] in VERBS else "seqmem"
    try:
        code = _dispatch(args)
        sys.stdout.flush()  # at exit Python would report in its own words that it cannot
    except BrokenPipeError:  # `seqmem list | head`
        to_nowhere(sys.stdout)
        return 141
    except OutputError as error:  # `seqmem list >/dev/full`
        to_nowhere(sys.stdout)
        print_error(f"{name}: {one_line(error)}")
        return 1
    except KeyboardInterrupt as stopped:
        print_error(f"{name}: {str(stopped) or 'stopped'}")
        return getattr(stopped, "exit_code", 130)
    else:
        return code


def _dispatch(args: list[str]) -> int:
    if args and args[0] in ("-sc", "--shell-completion"):
        return _complete(args)
    if not args or args[0] in ("-h", "--help", "help"):
        from .help import print_help

        print_help(VERBS)
        return 0
    if args[0] in ("-V", "--version"):
        print(f"seqmem {VERSION}")
        return 0
    verb, rest = args[0], args[1:]
    if verb in VERBS:
        return run_verb(verb, rest)
    hint = nearest(verb, list(VERBS)) or (f" Settings follow a verb: {command('train', verb)}." if "=" in verb else "")
    print_error(f"seqmem: there is no command '{verb}'.{hint} One of: {', '.join(VERBS)}")
    return 2


def run_verb(verb: str, args: list[str]) -> int:
    """The exit code of ``seqmem VERB ARGS``. An exception is printed as one line, or raised if HYDRA_FULL_ERROR=1."""
    try:
        name = f"{__package__}.verbs.{verb}"
        with process.importing(name):
            module = import_module(name)
        with counted() as incomplete:
            code = module.main(args)
            return code or int(incomplete())
    except Exception as error:
        if full_errors() or isinstance(error, BrokenPipeError | OutputError):
            raise
        print_error(f"seqmem {verb}: {one_line(error)}")
        return exit_code(error)


def _complete(args: list[str]) -> int:
    """Complete the verb; Hydra completes the settings of ``train``."""
    if any(argument.startswith("query=") for argument in args):
        line = os.environ.get("COMP_LINE", "")
        words = re.match(r"(\s*\S+\s+)(\S+)(\s.*)?$", line, re.DOTALL)
        if words is None or words[3] is None:
            start = words[2] if words else ""
            print(" ".join(verb for verb in VERBS if verb.startswith(start)))
            return 0
        if words[2] != "train":
            return 0
        os.environ["COMP_LINE"] = words[1] + words[3].lstrip()
        with redirect_stdout(io.StringIO()) as offered:
            code = run_verb("train", args)
        # Hydra ends the name of a group with groups inside (cell, for cell/usual) without its "=".
        choices = re.sub(r"(?<!\S)(\w+)(?!\S)", r"\1=", offered.getvalue()).split()
        if choice := re.search(r"(?<!\S)(\w+)=([\w/]*)$", words[3]):
            from .config.own_files import in_subfolders  # Hydra offers none of these
            from .config.schema import conf_dir

            group, start = choice.groups()
            within = [name for name in in_subfolders(conf_dir(), group) if name.startswith(start)]
            choices += [f"{group}={name}" for name in within]
        print(*choices)
        return code
    script = completion(args[1].removeprefix("install=")) if args[1:] in (["install=bash"], ["install=zsh"]) else None
    if script is not None:
        print(script)
        return 0
    return run_verb("train", args)
