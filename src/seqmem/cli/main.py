"""The edge: the first word of a command line is a verb; behind ``train`` stands a Hydra application."""

import io
import os
import re
import sys
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import version

PLAIN = {
    "eval": "score finished runs at any lengths",
    "show": "a run in the terminal: score by length, the gradient over timesteps",
    "read": "watch models read a sentence word by word: who remembers, who changes their mind",
    "playground": "one page for the browser that runs the models: type a sentence, see who remembers",
    "report": "what many runs say together: memory span, spread, a page with figures, tables",
    "watch": "open TensorBoard on the runs, gradients first",
    "span": "find the longest sequence that a cell learns: double, then bisect",
    "sweep": "sweep status DIR: which runs of a sweep are finished, running, failed",
    "reproduce": "a finished run once more: are its numbers the same?",
    "export": "a run's weights as a state dict, its step as ONNX",
    "list": "the cells, tasks, optimizers and experiments there are",
}
VERBS = {"train": "train, trace the gradient through time, evaluate; -m sweeps", **PLAIN}


def main() -> int:
    args = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path or a strip that the terminal's encoding has no letters for
            stream.reconfigure(errors="backslashreplace")
    name = f"seqmem {args[0]}" if args and args[0] in VERBS else "seqmem"
    try:
        return _dispatch(args)
    except BrokenPipeError:  # `seqmem list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as stopped:
        print(f"{name}: {str(stopped) or 'stopped'}", file=sys.stderr)
        return getattr(stopped, "exit_code", 130)


def _dispatch(args: list[str]) -> int:
    if args and args[0] in ("-sc", "--shell-completion"):
        return _complete(args)
    if not args or args[0] in ("-h", "--help", "help"):
        from .help import print_help

        print_help(VERBS)
        return 0
    if args[0] in ("-V", "--version"):
        print(f"seqmem {version('seqmem')}")
        return 0
    verb, rest = args[0], args[1:]
    if verb == "train":
        return _train(rest)
    if verb in PLAIN:
        return _plain(verb, rest)
    from .config.schema import nearest

    hint = nearest(verb, list(VERBS)) or (f" Settings follow a verb: seqmem train {verb}." if "=" in verb else "")
    print(f"seqmem: there is no command '{verb}'.{hint} One of: {', '.join(VERBS)}", file=sys.stderr)
    return 2


def _plain(verb: str, rest: list[str]) -> int:
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    from ..runs.directory import RunError

    try:
        return import_module(f"{__package__}.verbs.{verb}").main(rest)
    except RunError as error:
        if full:
            raise
        print(f"seqmem {verb}: {error}", file=sys.stderr)
    except Exception as error:
        if full or isinstance(error, BrokenPipeError):
            raise
        print(f"seqmem {verb}: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


def _train(rest: list[str]) -> int:
    said = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra's main raises to us instead of printing and leaving
    try:
        return _hydra(rest, full=said == "1")
    finally:
        del os.environ["HYDRA_FULL_ERROR"]
        if said is not None:
            os.environ["HYDRA_FULL_ERROR"] = said


def _hydra(rest: list[str], *, full: bool) -> int:
    from hydra.errors import HydraException

    from .config.errors import USAGE, Arguments, explain, parsed
    from .config.schema import ConfigError, with_own_arguments
    from .launch import sweep
    from .verbs import train

    train.failures, sweep.current = [], None
    given, said_already = Arguments([], rest, None), []
    try:
        given = parsed(with_own_arguments(rest))
        sys.argv = ["seqmem", *given.argv]  # which is where Hydra's main looks
        train.main()
        said_already = train.failures if sweep.current is not None else []  # by a sweep, when they happened
    except (ValueError, HydraException) as error:  # not of a job (those are among the failures): of Hydra, before any
        train.failures.append(error if isinstance(error, USAGE) else ConfigError(explain(error)))
    except Exception as error:
        train.failures.append(error)
    code = 0
    for error in train.failures:
        if full:
            raise error
        code = max(code, 2 if isinstance(error, USAGE) else 1)
        if error not in said_already:
            usage = isinstance(error, USAGE)
            said = explain(error, given.overrides, given.config_dir) if usage else sweep.one_line(error)
            print(f"seqmem train: {said}", file=sys.stderr)
    lines, worst = sweep.summary()
    print(*lines, sep="\n" if lines else "", end="\n" if lines else "", flush=True)
    return max(code, worst)


def _complete(args: list[str]) -> int:
    """Shell completion: the verb is ours, everything after it is Hydra's."""
    if any(argument.startswith("query=") for argument in args):
        line = os.environ.get("COMP_LINE", "")
        found = re.match(r"(\s*\S+\s+)(\S+)(\s.*)?$", line, re.DOTALL)
        if found is None or found[3] is None:
            start = found[2] if found else ""
            print(" ".join(verb for verb in VERBS if verb.startswith(start)))
            return 0
        if found[2] != "train":
            return 0
        os.environ["COMP_LINE"] = found[1] + found[3].lstrip()
        with redirect_stdout(io.StringIO()) as offered:
            code = _train(args)
        # Hydra ends the name of a group that has groups inside (cell, for cell/usual) without the sign it is set with.
        print(re.sub(r"(?<!\S)(\w+)(?!\S)", r"\1=", offered.getvalue()), end="")
        return code
    return _train(args)
