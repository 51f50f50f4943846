"""``seqmem playground``: a page in which the browser runs the models. Without runs it trains a few of its own first."""

import argparse
import os
import signal
import sys
import webbrowser
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.console
from rich.text import Text

from ...playground.page import build, too_large
from ...playground.serve import HOST, PORTS, PortError, Server, bound
from ...runs.directory import RunDirectory
from ...runs.files import RunError, write_atomically
from ...runs.settings import as_typed, own_name, training_settings
from ...runs.summary import evaluated_alike
from ..config.choose import finished_runs, readable, run_of_another_task, task_settings
from ..config.commands import command, examples
from ..config.errors import ConfigError, Parser
from ..config.trained import Trained, trained
from ..config.trust import add_option
from ..launch.demo import SEEDS, check_writable, train_models
from ..terminal.console import Console
from ..terminal.live import moving
from ..terminal.strip import say
from ..terminal.words import here

if TYPE_CHECKING:
    from ...evaluate import Evaluation
    from ...metrics import Metric
    from ...playground.bundle import Playable
    from ...tasks import Task

OUTPUTS = Path("playground")
"""The folder of the command's own runs and of the page, apart from the user's runs in ``outputs``."""

PAGE = OUTPUTS / "index.html"

SEQUENCES = 1000
"""Held-out sequences for each score."""

NICE = (1, 1.2, 1.4, 2, 3, 4, 5, 7)
"""Lengths at which scores are measured, times powers of ten."""


def main(args: Sequence[str]) -> int:
    try:
        return _play(_parser().parse_intermixed_args(list(args)), command("playground", *args, "--serve"))
    except PortError as error:
        raise RunError(str(error)) from error


def _parser() -> Parser:
    parser = Parser(
        "playground",
        description="""Make one HTML page in which the browser runs trained models: type a sentence,
choose a length, and watch word by word who remembers. It needs no server and no
network, and can be sent to anyone.""",
        epilog=f"""Without RUN it trains rnn, lstm, gru and attention on sentences of up to 50 words,
and an rnn on up to 10, {SEEDS} seeds each: ordinary runs in {OUTPUTS}, two or three
minutes the first time. What is finished is not trained again, and what was stopped goes on.

RUN is a run's directory, a folder of runs, or a part of a path below outputs/
that no other run's path has. All must be of one task, whose answer is one of
several words and is asked for at the end, or one whose answers are fed back
(reverse, phrases): there the page shows what is written, word by word.

examples:
"""
        + examples(
            ("playground", ""),
            ("playground outputs/pronoun/lstm outputs/pronoun/rnn --out memory.html", ""),
            ("playground --serve --port 8000", ""),
        ),
    )
    parser.add_argument("runs", metavar="RUN", nargs="*", help="finished runs to show (default: runs of its own)")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"where the page is written (default: {PAGE})")
    parser.add_argument("--serve", action="store_true", help=f"serve the page on {HOST} until Ctrl-C")
    parser.add_argument(
        "--port",
        type=int,
        metavar="N",
        help=f"with --serve: the port; 0: any (default: the first free from {PORTS[0]})",
    )
    parser.add_argument("--no-open", action="store_true", help="open no browser (one is opened from a terminal alone)")
    parser.add_argument("--seeds", type=int, metavar="N", help=f"of its own runs: seeds 0 to N-1 (default: {SEEDS})")
    add_option(parser)
    parser.add_argument("--workers", metavar="N", help="of its own runs: runs at once (default: one for every core)")
    return parser


def _play(given: argparse.Namespace, serving: str) -> int:
    """Make the page, and open or serve it. All mistakes in the arguments are reported before any training.

    Args:
        serving: the command that serves the same page.
    """
    _refuse(given)
    out: Path = given.out if given.out is not None else PAGE
    if out.is_dir():
        raise ConfigError(f"--out {out}: it is a folder; give a file, e.g. {out / 'index.html'}")
    check_writable(out)
    console = Console(highlight=False)
    with ExitStack() as stack:
        server = stack.enter_context(bound(given.port)) if given.serve else None
        if given.runs:
            runs = _named_runs(given.runs)
        else:
            runs = train_models(console, given.seeds or SEEDS, _workers(given.workers))
        content, warning = _write_page(console, runs, out, given.runs, trusted=given.trust)
        size = f"{len(content) / 1e3:.0f} kB" if len(content) < 1e6 else f"{len(content) / 1e6:.1f} MB"
        say(console, Text(), Text.assemble(("page  ", "dim"), (str(here(out)), "bold"), (f"  {size}", "dim")))
        if warning is not None:
            say(console, Text(warning, "yellow"))
        open_it = not given.no_open and console.is_terminal
        if server is not None:
            _serve(server, content, open_it=open_it)
        elif open_it:
            open_page(out.resolve().as_uri(), console, serving)
    return 0


def _refuse(given: argparse.Namespace) -> None:
    if given.port is not None and not given.serve:
        raise ConfigError(f"--port {given.port}: it is --serve that needs a port; without it the page is a file")
    if not 0 <= (given.port or 0) <= 65535:
        raise ConfigError(f"--port {given.port}: must be from 1 to 65535, or 0 for any that is free")
    out: Path | None = given.out
    if out is not None and not out.is_dir() and out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {out}: must end in .html, or browsers do not show it; e.g. {out}.html")
    for name in ("seeds", "workers"):
        if given.runs and getattr(given, name) is not None:
            raise ConfigError(f"--{name}: nothing is trained where runs are given")
    if given.seeds is not None and given.seeds < 1:
        raise ConfigError(f"--seeds {given.seeds}: must be at least 1")
    _workers(given.workers)


def _workers(given: str | None) -> int | str:
    if given in (None, "auto"):
        return "auto"
    if not given.isdecimal() or int(given) < 1:
        raise ConfigError(f"--workers {given}: must be auto or a whole number from 1 on")
    return int(given)


# The runs


def _named_runs(names: Sequence[str]) -> list[RunDirectory]:
    """The finished runs that ``names`` match.

    Raises:
        ConfigError: a name matches no run, or the runs are of several tasks.
        RunError: a run that was named by itself is not finished, or a folder has no finished run.
    """
    runs, left_out = finished_runs(names)
    other = run_of_another_task(runs)
    if other is not None:
        task, first_task = _task_text(task_settings(other)), _task_text(task_settings(runs[0]))
        raise ConfigError(
            f"{other.path} was trained on {task}, {runs[0].path} on {first_task}: a page shows models of one task"
        )
    for each in left_out:
        verb = "is" if each.count == 1 else "are"
        print(f"{each.name}: {each.count} of {each.total} runs {verb} not finished, and left out")
    return runs


def _task_text(task: Mapping[str, Any]) -> str:
    settings = " ".join(f"{key}={as_typed(value)}" for key, value in task.items() if key not in ("name", "target"))
    return f"task={own_name(task)} {settings}".rstrip()


# The page


@dataclass(frozen=True)
class _Labels:
    """``text``: ``lstm, trained at 15 to 50 words``; the cell is followed by the settings in which its runs differ.

    ``shortest``: the shortest training length; None: the run was trained at one length.
    """

    text: str
    shortest: int | None


def _labels(models: "Sequence[Trained]", per_word: int) -> list[_Labels]:
    """``per_word``: timesteps per word, as ``bundle`` counts them."""
    alike: dict[tuple[str, int | None, int], list[dict[str, Any]]] = defaultdict(list)
    keys, flats = [], []
    for one in models:
        config = one.config
        shortest = None
        if config.task.get("lengths") == "uniform":
            shortest = config.task.get("shortest") or one.task.min_seq_len
        key = (own_name(config.cell), shortest, config.seq_len)
        flat = {name: value for name, value in training_settings(one.run.config()).items() if name != "seed"}
        keys.append(key)
        flats.append(flat)
        alike[key].append(flat)
    labels = []
    for (cell, shortest, seq_len), flat in zip(keys, flats, strict=True):
        same = alike[cell, shortest, seq_len]
        names = dict.fromkeys(name for one in same for name in one)
        differ = [name for name in names if len({repr(one.get(name)) for one in same}) > 1]
        variant = " ".join(f"{name.rpartition('.')[2]}={as_typed(flat[name])}" for name in differ if name in flat)
        words, fewest = seq_len // per_word, None if shortest is None else shortest // per_word
        lengths = f"{fewest} to {words}" if fewest is not None and fewest < words else f"{words}"
        labels.append(_Labels(f"{' '.join(filter(None, (cell, variant)))}, trained at {lengths} words", shortest))
    return labels


def _write_page(
    console: Console, runs: Sequence[RunDirectory], out: Path, names: Sequence[str] = (), *, trusted: bool
) -> tuple[bytes, str | None]:
    """Write the page and print its models' scores.

    Args:
        names: the words of the command line that named the runs.

    Returns:
        The page, and what to do about its size if it is too large.

    Raises:
        ConfigError: the page cannot show their task.
        RunError: a run cannot be read, or the page not written.
    """
    models = [model for _, model in readable(runs, lambda run: trained(run, trusted=trusted), names)]

    import torch

    from ...playground.bundle import Playable, bundle, common_task, timesteps_per_word

    torch.set_num_threads(max(one.backend.torch_threads for one in models))
    playables: dict[tuple[str, int], Playable] = {}
    try:
        task = common_task([Playable(one.model, one.task, "", one.config.seq_len) for one in models])
        per_word = timesteps_per_word(task)
        labels = _labels(models, per_word)
        lengths = lengths_offered(task, [one.config.seq_len for one in models], per_word)
        with _status(console) as status:
            for number, (one, label) in enumerate(zip(models, labels, strict=True), start=1):
                status(f"measuring {number} of {len(models)} models at {len(lengths)} lengths")
                key = label.text, one.config.seed
                if key in playables:
                    print(f"{one.run.path}: the same as another but for how it was measured; left out")
                    continue
                playables[key] = _playable(one, label, lengths)
            status("making the page")
            content = bundle(list(playables.values()))
            html = build(content)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    try:
        write_atomically(out, html.encode())
    except OSError as error:
        raise RunError(f"cannot write to {out}: {error.strerror or error}") from error
    say(console, *_table(list(playables.values()), task, console.width, per_word))
    return html.encode(), too_large(html, content)


@contextmanager
def _status(console: Console) -> Iterator[Any]:
    """On a terminal, a status line that disappears at the end."""
    if not moving(console):
        yield lambda _: None
        return
    with console.status("") as line:
        yield lambda text: line.update(Text(text, no_wrap=True, overflow="ellipsis"))


def lengths_offered(task: "Task", trained_at: Sequence[int], per_word: int = 1) -> list[int]:
    """Lengths from the task's shortest to four times the longest trained one, about evenly on a logarithmic scale.

    Where answers are fed back, to twice the longest: writing takes a step of the model for each word.

    Args:
        per_word: timesteps per word; only whole words are offered.
    """
    shortest, longest = task.min_seq_len, (4 if per_word == 1 else 2) * max(trained_at)
    most = task.max_seq_len if task.max_seq_len is not None else longest
    nice = {round(factor * 10**power) * per_word for power in range(6) for factor in NICE}
    candidates = {shortest, *trained_at, longest, *(length for length in nice if shortest <= length <= longest)}
    return sorted(length for length in candidates if shortest <= length <= most and length % per_word == 0)


def _playable(one: "Trained", label: _Labels, lengths: Sequence[int]) -> "Playable":
    from ...playground.bundle import Playable

    return Playable(
        one.model,
        one.task,
        own_name(one.config.cell),
        one.config.seq_len,
        one.config.seed,
        label.shortest,
        label.text,
        label.text,
        one.result.get("score"),
        _scores(one, lengths),
        one.lengths,
        one.config.evaluate.beam,
    )


def _scores(one: "Trained", lengths: Sequence[int]) -> "list[Evaluation]":
    """Scores at the lengths. Scores that the run already has are reused: the sentences would be the same."""
    from ...evaluate import Evaluation, evaluate_lengths
    from ...randomness import ambient

    rows = [*one.result.get("by_length", ()), *evaluated_alike(one.run, one.run.config())]
    known = {
        row["seq_len"]: Evaluation(row["seq_len"], row["score"], row["loss"], row["sequences"], row.get("distinct"))
        for row in rows
        if row["sequences"] == SEQUENCES
    }
    missing = [length for length in lengths if length not in known]
    if missing:
        # Use a model of its own: the buffers that its kernels cache, hundreds of MB, are freed with it.
        model = trained(one.run, trusted=True).model  # its classes were admitted before
        with ambient(one.config.seed, "measure", one.config.steps, device=next(model.parameters()).device):
            evaluations = evaluate_lengths(
                model,
                one.task,
                missing,
                seed=one.config.seed,
                sequences=SEQUENCES,
                trained=one.lengths,
                beam=one.config.evaluate.beam,
            )
        known |= {each.seq_len: each for each in evaluations}
    return [known[length] for length in lengths]


def _table(models: "Sequence[Playable]", task: "Task", width: int, per_word: int) -> list[Text]:
    """A table: the lowest and highest score over each group's seeds, at the trained lengths and at the longest."""
    metric: Metric = task.targets.metric
    trained_at = sorted({model.seq_len for model in models})
    longest = max(evaluation.seq_len for evaluation in models[0].lengths)
    lengths = list(dict.fromkeys([*trained_at[:1], *trained_at[1:][-3:], longest]))
    groups: dict[str, list[Playable]] = defaultdict(list)
    for model in models:
        groups[model.group].append(model)
    chance = _range([task.chance_at(length) for length in lengths], metric)
    rows = [(f"{metric.name} in %, chance {chance}", ["", *(f"{length // per_word} words" for length in lengths)])]
    for name, members in groups.items():
        seeds = f"{len(members)} seeds" if len(members) > 1 else f"seed {members[0].seed}"
        rows.append((name, [seeds, *(_range([_at(one, length) for one in members], metric) for length in lengths)]))
    sizes = [max(map(len, column)) for column in zip(*(cells for _, cells in rows), strict=True)]
    label = max(len(name) for name, _ in rows)
    if beside := label + sum(2 + size for size in sizes) <= width:
        sizes[0] += label + 2
    lines = [Text()]
    for name, (seeds, *cells) in rows:
        style = "dim" if len(lines) == 1 else ""
        if not beside:
            lines.append(Text(name, style))
        first = f"{name.ljust(label)}  {seeds}" if beside else seeds
        aligned = [cell.rjust(size) for cell, size in zip(cells, sizes[1:], strict=True)]
        lines.append(Text("  ".join([first.ljust(sizes[0]), *aligned]).rstrip(), style))
    return lines


def _at(model: "Playable", length: int) -> float:
    return next((evaluation.score for evaluation in model.lengths if evaluation.seq_len == length), nan)


def _range(scores: Sequence[float], metric: "Metric") -> str:
    """A range in percent: ``24.1-26.6``."""
    known = sorted(score for score in scores if not isnan(score))
    ends = dict.fromkeys(metric.text(score).removesuffix(" %") for score in (*known[:1], *known[-1:]))
    return "-".join(ends) or "?"


# Opening and serving it


def open_page(address: str, console: rich.console.Console, serving: str) -> None:
    """Open the address in a browser, if there is one; else say what serves it."""
    if not _browser_there():
        line = "no browser to open: take the file to where there is one, or serve it here:"
        say(console, Text(line, "yellow"), Text(f"  {serving}", overflow="ignore"))
        return
    if not webbrowser.open(address):
        say(console, Text("no browser could be opened: open the file by hand", "yellow"))


def _browser_there() -> bool:
    """True if there is a graphical browser. Without a display ``webbrowser`` finds text browsers for the terminal."""
    graphical = sys.platform in ("darwin", "win32") or any(
        map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    )
    if not graphical:
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def _serve(server: Server, content: bytes, *, open_it: bool) -> None:
    """Serve the page until Ctrl-C."""
    server.listen(content)
    # A process that a script starts in the background ignores Ctrl-C by default.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        print(f"\nserved at\n\n    {server.address}\n\nCtrl-C ends it.", flush=True)
        if open_it and _browser_there():
            webbrowser.open(server.address)
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nthe server has ended.", flush=True)
    finally:
        signal.signal(signal.SIGINT, before)
