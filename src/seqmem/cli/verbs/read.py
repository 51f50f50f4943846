"""``seqmem read``: models read a sentence, word by word. docs/read.md describes the screen and the JSON."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.console
from rich.text import Text

from ...decay import decay
from ...runs.directory import RunDirectory
from ...runs.files import plain_json
from ...runs.settings import own_name
from ..config.choose import finished_runs, readable, run_of_another_task, task_settings
from ..config.commands import command, examples
from ..config.errors import ConfigError, Parser, nearest, note, notes_held
from ..config.trained import Trained, trained
from ..config.trust import add_option
from ..terminal.console import Console
from ..terminal.reader.page import page
from ..terminal.reader.player import Player, lengths
from ..terminal.reader.terminal import Terminal, playable
from ..terminal.reader.views import VIEWS, Scene, changes_of_mind, choose_signs, unit
from ..terminal.strip import say
from ..terminal.words import here

if TYPE_CHECKING:
    from ...lookback import LookBack
    from ...reading import Reading
    from ...signals import Batch
    from ...tasks import Task

MOST = 6
"""The largest number of models side by side."""

TIMES = 4
"""The arrow keys reach this many times the longest trained length."""

FASTEST = 1000
"""Words per second: more than a terminal can draw."""


def main(args: Sequence[str]) -> int:
    options = _parser().parse_args(args)
    console = Console(highlight=False)
    if not 0 < options.speed <= FASTEST:
        raise ConfigError(f"--speed {options.speed:g}: must be more than 0, and at most {FASTEST}")
    playing = not (options.json or options.whole) and playable(console)
    with notes_held():
        readers = readers_of(options.runs, trusted=options.trust)
        length, batch, unknown, name = sentence(readers, options.length, options.sentence, options.text)
        until = timestep(options.until, readers, batch)
        scene = readers.scene(batch, name, unknown, gradient=options.json or options.view == "gradient")
    at = len(scene) - 1 if until is None else until
    if options.json:
        number = None if options.text is not None else options.sentence or 0
        print(json.dumps(plain_json(numbers(readers, scene, number, at)), allow_nan=False))
    elif playing:
        _play(readers, scene, options, length, console)
    else:
        say(console, *page(scene, at, options.view, console.width, choose_signs(console)).whole())
    return 0


def _parser() -> Parser:
    parser = Parser(
        "read",
        description="""Finished runs of one task read a sentence that none of them has seen, side by side, a row
for each word: how sure each is of every answer, where it changes its mind, and
whether it is right in the end. On a terminal the sentence goes by at reading speed;
anywhere else it is printed whole.""",
        epilog="""RUN is a run's directory, a folder of runs, or a part of a path below outputs/:

"""
        + examples(
            ("read outputs/pronoun", "everything there, side by side"),
            ("read 1a2b3c4d --view gates | less", "docs/read.md says what the numbers are"),
            ("read pronoun/rnn pronoun/lstm --length 100", ""),
            ('read 1a2b3c4d --text "my brother told his aunt that the dog slept and she"', ""),
        )
        + """

keys: space pauses; left and right (h, l) step; up and down (k, j) another length;
n and p another sentence; 1 to 4 or TAB another view; + and - speed; q leaves.""",
    )
    parser.add_argument("runs", metavar="RUN", nargs="*", help="whom to watch (default: everything in outputs/)")
    parser.add_argument("--length", type=int, metavar="T", help="words (default: the longest that any was trained at)")
    parser.add_argument("--sentence", type=int, metavar="N", help="which one, from 0 on (default: 0)")
    parser.add_argument("--text", metavar="WORDS", help="a sentence of your own, in the task's words")
    parser.add_argument("--until", metavar="N", help="stop after word N, or after the first word that is written so")
    parser.add_argument("--view", choices=VIEWS, default="beliefs", help="what to look at (default: beliefs)")
    parser.add_argument("--speed", type=float, default=4.0, metavar="WORDS", help="words a second (default: 4)")
    parser.add_argument("--whole", action="store_true", help="print it whole on a terminal too")
    parser.add_argument("--json", action="store_true", help="every number as one JSON object, and nothing else")
    add_option(parser)
    return parser


# The models


def readers_of(given: Sequence[str], *, trusted: bool = False) -> "Readers":
    """The models of the named runs.

    Raises:
        ConfigError: a name matches no run; there are too many runs, or they are of several tasks.
        RunError: a run that was named by itself is not finished, a folder has no finished run, or a file is unreadable.
    """
    runs, left_out = finished_runs(given or ["outputs"])
    if len(runs) > MOST:
        some = command("read", *(here(run.path) for run in _some(runs)))
        raise ConfigError(f"{len(runs)} runs are too many side by side, at most {MOST}: name some, e.g. {some}")
    first, other = runs[0], run_of_another_task(runs)
    if other is not None:
        difference = _difference(task_settings(other), task_settings(first))
        raise ConfigError(f"{here(other.path)} was trained for another task than {here(first.path)}: {difference}")
    models = [model for _, model in readable(runs, lambda run: trained(run, trusted=trusted), given)]
    for each in left_out:
        note(f"seqmem read: {each.name}: not finished, so left out: {each.count} of {each.total} runs")
    return Readers(models)


def _some(runs: Sequence[RunDirectory]) -> list[RunDirectory]:
    """A few runs of one task to suggest: one of each cell if there are several cells, else two."""
    first = task_settings(runs[0])
    same_task = [run for run in runs if task_settings(run) == first]
    cells: dict[str, RunDirectory] = {}
    for run in same_task:
        cells.setdefault(json.dumps(run.config().get("cell"), sort_keys=True), run)
    return list(cells.values())[:3] if len(cells) > 1 else same_task[:2]


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """The first setting in which two tasks differ; the names come first."""
    key = next(key for key in ("name", *one, *other) if one.get(key) != other.get(key))
    prefix = "task" if key == "name" else f"task.{key}"
    return f"{prefix}={one.get(key)}, not {other.get(key)}; they must be the same to read the same sentence"


@dataclass(frozen=True, eq=False)
class Readers:
    """Models that were trained on one task."""

    models: "Sequence[Trained]"

    @property
    def longest(self) -> int:
        return max(model.config.seq_len for model in self.models)

    @property
    def labels(self) -> tuple[str, ...]:
        """The cells' names, with length, seed or hash if needed to tell the models apart."""
        cells = [_cell(model) for model in self.models]
        lengths = [f"{cell} at {model.config.seq_len}" for cell, model in zip(cells, self.models, strict=True)]
        seeds = [f"{label} seed {model.config.seed}" for label, model in zip(lengths, self.models, strict=True)]
        only_seeds = [f"{cell} seed {model.config.seed}" for cell, model in zip(cells, self.models, strict=True)]
        hashes = [
            f"{cell} {model.run.path.resolve().name[-8:]}" for cell, model in zip(cells, self.models, strict=True)
        ]
        for labels in (cells, only_seeds, lengths, seeds, hashes):
            if len(set(labels)) == len(labels):
                return tuple(labels)
        return tuple(f"{label} ({place + 1})" for place, label in enumerate(hashes))

    def sentence(self, length: int, number: int) -> "Batch":
        """A held-out sentence.

        Raises:
            ConfigError: the task has no sentences of that length.
        """
        from ...reading import sentence

        try:
            trained = {length for model in self.models if length in model.lengths}
            return sentence(self.models[0].task, length, number=number, trained=trained)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def scene(self, batch: "Batch", name: str, unknown: str | None = None, *, gradient: bool) -> Scene:
        from ...reading import read

        return Scene(
            task=self.models[0].task,
            name=name,
            batch=batch,
            labels=self.labels,
            trained=tuple(_lengths(model) for model in self.models),
            readings=tuple(
                read(
                    model.model,
                    model.task,
                    batch,
                    gradient=gradient,
                    known=unknown is None,
                    beam=model.config.evaluate.beam,
                )
                for model in self.models
            ),
            unknown=unknown,
        )


def _cell(model: "Trained") -> str:
    return own_name(model.config.cell)


def _lengths(model: "Trained") -> str:
    config = model.config
    if config.task.get("lengths") != "uniform":
        return str(config.seq_len)
    return f"{config.task.get('shortest') or model.task.min_seq_len}-{config.seq_len}"


# The sentence


def _name(batch: "Batch", task: "Task", number: int | None) -> str:
    steps, one = len(batch.inputs), unit(task)
    kind = "sentence" if one == "word" else "sequence"
    return f"{steps} {one}{'s' * (steps != 1)}, " + (f"your own {kind}" if number is None else f"{kind} {number}")


def sentence(
    readers: Readers, length: int | None, number: int | None, text: str | None
) -> "tuple[int | None, Batch, str | None, str]":
    """(length, or None for a typed sentence; the batch; why its answer is unknown, or None; the title)

    Raises:
        ConfigError: the task has no such sentence.
    """
    if text is not None:
        from ...reading import typed as batch_of

        for option, given in (("--length", length), ("--sentence", number)):
            if given is not None:
                raise ConfigError(f"--text is a sentence of your own: it has no {option}")
        try:
            batch, unknown = batch_of(readers.models[0].task, text)
        except ValueError as error:
            raise ConfigError(f"--text: {error}") from None
        return None, batch, unknown, _name(batch, readers.models[0].task, None)
    if number is not None and number < 0:
        raise ConfigError(f"--sentence {number}: must be 0 or more")
    length, number = length if length is not None else readers.longest, number or 0
    batch = readers.sentence(length, number)
    return length, batch, None, _name(batch, readers.models[0].task, number)


def timestep(given: str | None, readers: Readers, batch: "Batch") -> int | None:
    """The timestep after which to stop; None without ``--until``.

    Raises:
        ConfigError: the sentence has no such word.
    """
    if given is None:
        return None
    task = readers.models[0].task
    words, one = task.words(batch.inputs[:, 0]), unit(task)
    place = int(given) if given.isascii() and given.removeprefix("-").isdigit() else None
    if place is not None and 1 <= place <= len(words):
        return place - 1
    for spelled in (str, str.lower):
        if spelled(given) in (spellings := [spelled(word) for word in words]):
            return spellings.index(spelled(given))
    if place is not None:
        raise ConfigError(f"--until {given}: there are {len(words)} {one}s, counted from 1")
    near = nearest(given, list(dict.fromkeys(words)))
    raise ConfigError(f"--until '{given}': no {one} is written so.{near}")


# On a terminal


def _play(readers: Readers, scene: Scene, options: argparse.Namespace, length: int | None, console: Console) -> None:
    task = readers.models[0].task
    own = [model.config.seq_len for model in readers.models]
    longest = max(TIMES * max(own), length or 0)
    if task.max_seq_len is not None:
        longest = min(longest, task.max_seq_len)

    def scene_of(length: int, number: int, gradient: bool) -> Scene:
        batch = readers.sentence(length, number)
        return readers.scene(batch, _name(batch, task, number), gradient=gradient)

    def until(scene: Scene) -> int | None:
        try:
            return timestep(options.until, readers, scene.batch)
        except ConfigError:  # this sentence does not contain the word
            return None

    player = Player(
        scene_of=scene_of,
        scene=scene,
        signs=choose_signs(console),
        length=length,
        number=options.sentence or 0,
        among=lengths(task.min_seq_len, longest, [*own, *([length] if length else [])]),
        view=options.view,
        speed=options.speed,
        until=until,
        with_gradient=lambda: readers.scene(scene.batch, scene.name, scene.unknown, gradient=True),
    )
    try:
        with Terminal(console, sys.stdin.fileno()) as terminal:
            play(player, terminal)
    except EOFError:  # the terminal is gone
        return
    _farewell(player, options, console)


def play(player: Player, terminal: Terminal) -> None:
    """Draw the screen and handle keys until the user quits."""
    while not player.left:
        player.tick(time.monotonic())
        terminal.draw(player.frame(*terminal.size))
        for key in terminal.keys(player.wait(time.monotonic())):
            player.press(key)


def _farewell(player: Player, options: argparse.Namespace, console: rich.console.Console) -> None:
    """Print what stays on the screen: the results, and the command that shows the same again."""
    player.settle()
    last = page(player.scene, player.at, player.view, console.width, player.signs)
    words: list[str | Path] = ["read", *options.runs]
    if player.length is not None:
        words += ["--length", str(player.length), "--sentence", str(player.number)]
    else:
        words += ["--text", options.text]  # unchanged: blanks count in a text of characters
    words += ["--view", player.view] if player.view != VIEWS[0] else []
    words += ["--until", str(player.at + 1)] if player.at < len(player.scene) - 1 else []
    say(console, last.title, *last.foot)
    # Let the terminal wrap the command, so that it can be copied as one line.
    console.print(Text(command(*words, "--whole"), "dim"), soft_wrap=True)


# For tools


def numbers(readers: Readers, scene: Scene, number: int | None, at: int) -> dict[str, Any]:
    """The object that ``--json`` prints, up to timestep ``at``; docs/read.md describes it.

    Args:
        number: which sentence it is; None: a typed one.
    """
    first, upto, task = scene.readings[0], slice(at + 1), readers.models[0].task
    right = None if first.right is None else first.right[upto].tolist()
    return {
        "format": 2,
        "task": task.name,
        "metric": task.targets.metric.name,
        "chance": task.chance_at(len(scene)),
        "sentence": number,
        "words": list(first.words[upto]),
        "of": len(scene),
        "asked": first.asked[upto].tolist(),
        **({} if first.predicts.all() else {"predicts": first.predicts[upto].tolist()}),
        "asked_with": first.asked_with,
        "answers": None if first.answers is None else list(first.answers),
        "right": right,
        "unknown": scene.unknown,
        "models": [
            _model(model, label, reading, at)
            for model, label, reading in zip(readers.models, scene.labels, scene.readings, strict=True)
        ],
    }


def _model(model: "Trained", label: str, reading: "Reading", at: int) -> dict[str, Any]:
    upto, over = slice(at + 1), at >= reading.answered_at
    numbers = reading.answers is None
    changes = changes_of_mind(reading, at)
    gradient = {name: values[upto].tolist() for name, values in reading.gradient.items()}
    fading = {name: decay(values[reading.answered_at :: -1]) for name, values in reading.gradient.items()}
    return {
        "run": str(here(model.run.path)),
        "label": label,
        "cell": _cell(model),
        "seq_len": model.config.seq_len,
        "seed": model.config.seed,
        "outputs": reading.outputs[upto].tolist(),
        "top": None if numbers else reading.top[upto].tolist(),
        "beam": reading.beam,
        "said": [reading.answer_text(t) for t in range(min(at + 1, len(reading)))],
        "answered_at": reading.answered_at,
        "changed_at": changes[-1] if changes else None,
        "is_right": reading.is_right if over else None,
        "gates": {name: values[upto].tolist() for name, values in reading.gates.items()},
        "keeps": list(reading.keeps),
        "states": {name: values[upto].tolist() for name, values in reading.states.items()},
        "attention": {name: _looked_back(looked, at) for name, looked in reading.attention.items()},
        "gradient": gradient,
        "decay": {name: {"words": one.in_words(), **one.numbers()} for name, one in fading.items()} or None,
    }


def _looked_back(looked: "LookBack", at: int) -> dict[str, Any]:
    return {
        "effective": looked.effective,
        "over": [looked.over(t)[:, : t + 1].tolist() for t in range(at + 1)],
        "before": [looked.before(t).tolist() for t in range(at + 1)],
    }
