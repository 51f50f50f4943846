"""``seqmem list``: every name that a command line can have, one line each; or all about one of them."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.console
from rich.text import Text

from ...cores import usable_cores
from ...kernels import loading
from ...lag import lag_of
from ...spaces import LARGE, TASK_SETTINGS
from ..config import difficulty, own_files, process
from ..config.commands import command
from ..config.comments import beside, comments, header
from ..config.errors import Parser, nearest, print_error
from ..config.schema import conf_dir, register
from ..terminal.console import Console
from ..terminal.strip import columns, say

if TYPE_CHECKING:  # torch takes seconds, and --help needs none of it
    import seqmem.cells
    import seqmem.tasks

_NO_OPTIONS = ("defaults", *TASK_SETTINGS, "hidden_size", "layers", "params", "wrap")
"""Settings of a cell or a task that are not parameters of its class."""


def main(args: list[str]) -> int:
    options = _parser().parse_args(args)
    folders = [conf_dir()]
    if options.config_dir is not None:
        if not options.config_dir.is_dir():
            print_error(f"seqmem list: --config-dir {options.config_dir}: no such directory")
            return 2
        folders.append(options.config_dir)
    console, problems = Console(), []
    asked = [group for group in (*_GROUPS, _WRAPPER) if options.group in (None, group, f"{group}s")]
    if not asked:
        groups = ", ".join([*_GROUPS, _WRAPPER])
        print_error(f"seqmem list: there is nothing called '{options.group}'. One of: {groups}")
        return 2
    if options.name is not None:
        return (_one_wrapper if asked[0] == _WRAPPER else partial(_one, folders, asked[0]))(console, options.name)
    for group in asked:
        if group == _WRAPPER:
            say(console, *_section(["wrappers", "source", "around a cell"], _wrappers(), console), Text())
            continue
        titles, describe = _GROUPS[group]
        rows = []
        for choice in _choices(folders, group):
            if choice.own and (mistake := own_files.mistake_in(choice.path, group)) is not None:
                problems.append(mistake)
                continue
            try:
                rows.append([choice.name, *describe(choice)])
            except Exception as error:  # a user's own file may hold anything; list the others
                problems.append(f"{choice.path}: {' '.join(str(error).split()) or type(error).__name__}")
        if group == "cell":
            about = f"numbers: in the state, at {_UNITS} units"
            say(console, Text.assemble(("cells", "bold"), (f"   {about}", "dim")))
        for family, some in _families(rows) if group == "cell" else [("", rows)] if rows else []:
            say(console, *_section([family or f"{group}s", *titles], some, console), Text())
    try:
        if options.group is None:
            say(console, Text.assemble(("compute  ", "bold"), compute()))
            say(console, Text.assemble(("kernels  ", "bold"), loading.describe()))
    except ValueError as error:  # the environment names an instruction set that does not exist
        problems.append(str(error))
    for problem in problems:
        print_error(f"seqmem list: {problem}")
    return 1 if problems else 0


def _parser() -> Parser:
    parser = Parser(
        "list",
        description="""List the cells, tasks, models, probes, optimizers and experiments there are,
the wrappers of cells, and what this machine computes with.""",
        epilog=f"""Each is a YAML file with settings and their defaults, chosen by its name:

  {command("train", "cell=gru", "task=copy", "optimizer=sgd")}

Wrappers are what cell.wrap names, from the inside out:

  {command("train", "cell.wrap=layer_norm+residual")}

chance: the score of the best answer without a memory, from the last input
alone; of long sequences, and in brackets that of the shortest where it is
another. constant: that of the best answer that is always the same.
shortest: the smallest valid seq_len, in timesteps.
held out: at these lengths training leaves out what is tested. Of shorter
sequences there are fewer than a hundred, and training draws them all; of longer
ones more than a billion, and it hardly ever draws one that is tested.""",
    )
    parser.add_argument(
        "group", nargs="?", metavar="GROUP", help="cell, task, model, probe, optimizer, experiment or wrapper"
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="one of them: its settings, and an example")
    parser.add_argument("-cd", "--config-dir", type=Path, metavar="DIR", help="a config directory of your own, too")
    return parser


@dataclass(frozen=True)
class Choice:
    """A YAML file that a command line can name: ``group=name``."""

    name: str
    path: Path
    own: bool

    def settings(self) -> dict[str, Any]:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        register()  # what it may refer to
        settings = OmegaConf.load(self.path)
        try:
            settings = OmegaConf.to_container(settings, resolve=True)
        except OmegaConfBaseException:  # to settings beside those of this file
            settings = OmegaConf.to_container(settings)
        if not isinstance(settings, dict):
            raise TypeError("it has no settings")
        return {str(key): value for key, value in settings.items()}

    def comment(self) -> str:
        """The first line of the file's comment, except Hydra's directives."""
        return next(iter(header(self.path)), "")


def _choices(folders: list[Path], group: str) -> list[Choice]:
    """The choices of a group, sorted. As in Hydra, a user's file overrides ours of the same name."""
    choices = {}
    for folder in folders:
        for path in own_files.files_of(folder, group):
            name = own_files.choice_of(path, folder, group)
            choices[name] = Choice(name, path, own=folder is not folders[0])
    return sorted(choices.values(), key=lambda choice: (choice.name == "custom", choice.name))


def _wrappers() -> list[list[str]]:
    """[how ``cell.wrap`` names it, source, what it does]"""
    with process.importing("torch"):
        from ...cells import WRAPPERS

    rows = []
    for name, kind in WRAPPERS.items():
        options = [*inspect.signature(kind).parameters][1:]
        rows.append([":".join([name, *options]), kind.source, kind.does])
    return rows


def _one_wrapper(console: rich.console.Console, name: str) -> int:
    """Print all about a wrapper: its equations."""
    with process.importing("torch"):
        from ...cells import WRAPPERS

    if name not in WRAPPERS:
        hint = nearest(name, list(WRAPPERS))
        print_error(f"seqmem list: no wrapper is called '{name}'.{hint} One of: {', '.join(WRAPPERS)}")
        return 2
    (word,) = (row[0] for row in _wrappers() if row[0].partition(":")[0] == name)
    say(console, Text.assemble((f"cell.wrap={word}", "bold")))
    say(console, *(part for line in _module_text(WRAPPERS[name]) for part in _wrapped(line, console)), Text())
    say(console, Text(command("train", f"cell.wrap={word.replace(':p', ':0.1')}"), "cyan", overflow="ignore"))
    return 0


def _one(folders: list[Path], group: str, console: rich.console.Console, name: str) -> int:
    """Print all about ``group=name``."""
    choices = {choice.name: choice for choice in _choices(folders, group)}
    if name not in choices:
        hint = nearest(name, list(choices))
        print_error(f"seqmem list: no {group} is called '{name}'.{hint} One of: {', '.join(choices)}")
        return 2
    choice = choices[name]
    if (mistake := own_files.mistake_in(choice.path, group)) is not None:
        print_error(f"seqmem list: {mistake}")
        return 1
    from omegaconf import OmegaConf

    width = console.width if console.is_terminal else None
    say(console, Text.assemble((f"{group}={name}  ", "bold"), str(own_files.shown(choice.path))))
    settings = OmegaConf.to_yaml({key: value for key, value in choice.settings().items() if key != "defaults"})
    above = [re.sub(r"(?<!\S)(`?)seqmem (?=[a-z])", rf"\1{command()} ", line) for line in header(choice.path)]
    say(console, *(part for line in _paragraphs(above) for part in _filled(line, console, console.width)), Text())
    lines = beside(settings, comments(choice.path), None if width is None else width - 2)
    say(console, *(Text(f"  {line}") for line in lines), Text())
    try:
        for title, lines in _ABOUT.get(group, lambda _: [])(choice):
            say(console, Text(title, "bold"), *(part for line in lines for part in _wrapped(line, console)), Text())
    except Exception as error:  # a user's own file may hold anything
        print_error(f"seqmem list: {choice.path}: {' '.join(str(error).split())}")
        return 1
    again = command("train", *(["-m"] * (group == "experiment")), f"{group}={name}")
    say(console, Text(again, "cyan", overflow="ignore"))
    return 0


def _wrapped(line: str, console: rich.console.Console) -> Iterator[Text]:
    for part in _filled(line, console, console.width - 2):
        yield Text.assemble("  ", part)


def _filled(paragraph: str, console: rich.console.Console, width: int) -> list[Text]:
    """A paragraph as wide as a terminal, elsewhere in the lines that it has. Indented lines stay: they are drawn."""
    if not console.is_terminal or paragraph.startswith(" "):
        return [Text(line, no_wrap=True, overflow="ignore") for line in paragraph.split("\n")]
    parts = Text(" ".join(paragraph.split("\n"))).wrap(console, max(20, width))
    for part in parts:
        part.rstrip()
    return list(parts)


def _about_cell(choice: Choice) -> list[tuple[str, list[str]]]:
    """Its states and gates, and what its module says on top: its equations."""
    cell, kind = _made_cell(choice)
    if cell is None or kind is None:
        return []
    states = cell.initial_state(1)
    gates = cell.gates(next(cell.parameters()).new_zeros(1, 1), states)
    facts = [f"states: {', '.join(states)}", *([f"gates: {', '.join(gates)}"] if gates else [])]
    return [("it carries", facts), ("equations and source", _module_text(kind))]


def _about_task(choice: Choice) -> list[tuple[str, list[str]]]:
    """What it asks, its vocabulary and an example."""
    task, kind = _made_task(choice)
    if task is None or kind is None:
        return []
    from ...randomness import generator

    titles, _ = _GROUPS["task"]
    facts = [f"{title}: {text}" for title, text in zip(titles, _task(choice), strict=True) if text]
    facts[0] = f"chance: {_chance_by_length(task, int(choice.settings()['usual_seq_len']))}"
    usual = int(choice.settings()["usual_seq_len"])
    if (lag := lag_of(task, usual)) is not None:
        facts.append(f"lag: at length {usual} {lag}, from the earliest input that an answer needs to its question")
    batch = task.sample(1, max(task.min_seq_len + 8, _EXAMPLE), generator(0, "example"))
    answers = [task.answer(target) for target in batch.targets[batch.asked[:, 0], 0]]
    if batch.asked[0, 0]:  # at every timestep
        answers = answers[-1:]
    shown = [" ".join(task.words(batch.inputs[:, 0])), f"answer: {' '.join(answers)}"]
    about = [("scores", facts), ("how it works", _module_text(kind)), ("example", shown)]
    if graded := difficulty.graded_settings(choice.path):
        lines = [f"{name.ljust(5)}  {' '.join(map('='.join, given.items()))}" for name, given in graded.items()]
        about.insert(0, ("task.difficulty", lines))
    if batch.inputs.is_floating_point():
        return about
    import torch

    words = [*dict.fromkeys(task.words(torch.arange(task.inputs.size)))]
    return [*about, (f"vocabulary, {len(words)} words", [" ".join(words)])]


def _chance_by_length(task: "seqmem.tasks.Task", usual: int) -> str:
    """``0.125 MSE at 4 timesteps, 0.1633 at 50, 0.1667 at many``; one score where it depends on no length."""
    metric = task.targets.metric
    scores = {str(at): metric.text(task.chance_at(at)) for at in (task.min_seq_len, usual)}
    scores["many"] = metric.text(task.chance)
    (first, score), *others = scores.items()
    unit = f" {metric.unit}".rstrip()
    if len({*scores.values()}) == 1:
        return f"{score}{unit}"
    return ", ".join([f"{score}{unit} at {first} timesteps", *(f"{score} at {at}" for at, score in others)])


_EXAMPLE = 14
"""Timesteps of an example, where the task has sequences a little shorter than that."""


def _module_text(kind: type) -> list[str]:
    return _paragraphs((inspect.getdoc(inspect.getmodule(kind)) or "").replace("``", "").splitlines())


def _paragraphs(lines: list[str]) -> list[str]:
    """Lines that stand together, and each that is empty or indented: an equation, a drawing, a command."""
    text: list[str] = []
    for alone, group in groupby(lines, lambda line: not line or line.startswith(" ")):
        together = list(group)
        text += together if alone else ["\n".join(together)]
    return text


def _made_cell(
    choice: Choice, units: int = 1
) -> "tuple[seqmem.cells.Cell, type[seqmem.cells.Cell]] | tuple[None, None]":
    """A cell of so many units and its class; None: it is none of ours, or cannot be made here."""
    with process.importing("torch"):
        from ...cells import CELLS

    settings = choice.settings()
    if settings.get("name") not in CELLS:
        return None, None
    kind = CELLS[settings["name"]]
    options = {key: value for key, value in settings.items() if key not in _NO_OPTIONS}
    if "seq_len" in inspect.signature(kind).parameters:
        options["seq_len"] = 10  # any length: the names of states do not depend on it
    try:
        return kind(units, units, **options), kind
    except ImportError:  # it comes from a package that is not installed
        return None, None


def _cell(choice: Choice) -> list[str]:
    """[names of the states, numbers in them at ``_UNITS`` units, whether it is parallel over time, source]"""
    cell, kind = _made_cell(choice)
    if cell is None or kind is None:
        return ["", "", "", choice.comment()]
    states = [*cell.initial_state(1)]
    named = ", ".join(states) if len(states) < 3 else f"{states[0]} + {len(states) - 1} more"
    large, _ = _made_cell(choice, units=_UNITS)
    assert large is not None  # it could be made with one unit
    from ...cells.base import numbers_in_state

    numbers = numbers_in_state(large).rjust(len("numbers"))  # beneath its title
    return [named, numbers, "yes" if kind.parallel else "", _source(kind, choice)]


_UNITS = 64
"""The default hidden size."""


def _families(rows: list[list[str]]) -> Iterator[tuple[str, list[list[str]]]]:
    """The cells of each family, in the order in which ``CELLS`` has the families; a user's own come last."""
    from ...cells import CELLS

    order = [*dict.fromkeys(kind.family for kind in CELLS.values()), ""]
    of = {name: kind.family for name, kind in CELLS.items()}
    for family in order:
        some = [row for row in rows if of.get(row[0], "") == family]
        if some:
            yield family, some


def _made_task(choice: Choice) -> "tuple[seqmem.tasks.Task, type[seqmem.tasks.Task]] | tuple[None, None]":
    with process.importing("torch"):
        from ...tasks import TASKS

    settings = choice.settings()
    if settings.get("name") not in TASKS:
        return None, None
    kind = TASKS[settings["name"]]
    return kind(**{key: value for key, value in settings.items() if key not in _NO_OPTIONS}), kind


def _task(choice: Choice) -> list[str]:
    """[chance score, that of a constant answer, shortest valid length, where a part is held out, source]"""
    task, kind = _made_task(choice)
    if task is None or kind is None:
        return ["", "", "", "", choice.comment()]
    metric = task.targets.metric
    chance, constant = (f"{metric.text(score)} {metric.unit}".rstrip() for score in (task.chance, task.constant))
    shortest = task.min_seq_len
    if (text := metric.text(task.chance_at(shortest))) != metric.text(task.chance):
        chance += f" ({text} at {shortest})"
    return [chance, constant, str(task.min_seq_len), _held_out(task), _source(kind, choice)]


def _held_out(task: "seqmem.tasks.Task") -> str:
    """The lengths at which a part of the space is held out: ``4-12``."""
    if task.held_out() != task:
        return "always"
    split: list[int] = []
    for length in range(task.min_seq_len, task.min_seq_len + 100):
        space = task.space(length)
        if space.size >= LARGE:  # it grows with the length
            break
        split += [length] * space.split
    return f"{split[0]}-{split[-1]}" if split else ""


def _source(kind: "type[seqmem.cells.Cell | seqmem.tasks.Task]", choice: Choice) -> str:
    source = getattr(kind, "source", "")
    return f"{source} ({choice.comment().rstrip('.')})" if choice.own and choice.comment() else source


def _described(choice: Choice) -> list[str]:
    return [choice.comment()]


_GROUPS = {
    "cell": (["states", "numbers", "parallel", "source"], _cell),
    "task": (["chance", "constant", "shortest", "held out", "source"], _task),
    "model": ([""], _described),
    "probe": ([""], _described),
    "optimizer": ([""], _described),
    "experiment": ([""], _described),
}
"""Group of conf/ -> (titles of its columns, the function that fills them)."""

_WRAPPER = "wrapper"
"""What ``cell.wrap`` names. It has no files."""

_ABOUT = {"cell": _about_cell, "task": _about_task}
"""Group -> the function from a choice to (title, lines) of what is said of one beside its settings."""


def _section(titles: list[str], rows: list[list[str]], console: rich.console.Console) -> Iterator[Text]:
    head = [Text(title, "dim" if i else "bold") for i, title in enumerate(titles)]
    cells = [[Text(f"  {row[0]}", "cyan"), *(Text(text) for text in row[1:-1])] for row in rows]
    # A name that leaves no room for the other columns has a line of its own.
    others = columns([each[1:] or [Text()] for each in (head[:-1], *cells)])
    room = console.width - max(line.cell_len for line in others) - 2
    wide = max(each[0].cell_len for each in cells) > room >= _NAME
    above = [each[0] if wide and each[0].cell_len > room else None for each in cells]
    cells = [[Text(), *each[1:]] if name is not None else each for name, each in zip(above, cells, strict=True)]
    left = columns([[*cells, Text(".")] for cells in [head[:-1], *cells]])
    start = left[0].cell_len - 1
    beside = console.width - start >= _NARROWEST or start < _NARROWEST
    indent = start if beside else 4
    lasts = [head[-1], *(Text(row[-1]) for row in rows)]
    for name, line, last in zip([None, *above], left, lasts, strict=True):
        line.right_crop(1)
        if name is not None:
            yield name
        parts = list(last.wrap(console, max(20, console.width - indent))) or [last]
        drawn = [Text.assemble(" " * indent, part) for part in parts]
        if beside:
            drawn[0] = Text.assemble(line, parts[0])
        else:
            drawn = [line, *drawn] if last.plain else [line]
        for one in drawn:
            one.rstrip()
            yield one


_NAME = 12
"""Characters for names, the least; where there are fewer, no table fits."""

_NARROWEST = 24
"""Characters for the last column beside the others; where there are fewer, it is on lines of its own."""


def compute() -> str:
    """The hardware and torch, e.g. ``torch 2.13.0, 2 cores, no CUDA``."""
    import torch

    cores = usable_cores()
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cuda = f"CUDA {torch.version.cuda}: {', '.join(devices)}" if devices else "no CUDA"
    return f"torch {torch.__version__.partition('+')[0]}, {cores} core{'s' if cores != 1 else ''}, {cuda}"
