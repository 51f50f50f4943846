"""``seqmem list``: every name that a command line can have, one line each."""

import argparse
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.console
from rich.text import Text

from ...cores import usable_cores
from ...kernels import loading
from ..config import own_files
from ..config.commands import command
from ..config.errors import Parser, print_error
from ..config.schema import conf_dir
from ..terminal.console import Console
from ..terminal.strip import columns, say

if TYPE_CHECKING:  # torch takes seconds, and --help needs none of it
    import seqmem.cells
    import seqmem.tasks

_NO_OPTIONS = ("defaults", "name", "usual_seq_len", "lengths", "shortest", "hidden_size", "layers", "params")
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
    for group, (titles, describe) in _GROUPS.items():
        rows = []
        for choice in _choices(folders, group):
            if choice.own and (mistake := own_files.mistake_in(choice.path, group)) is not None:
                problems.append(mistake)
                continue
            try:
                rows.append([choice.name, *describe(choice)])
            except Exception as error:  # a user's own file may hold anything; list the others
                problems.append(f"{choice.path}: {' '.join(str(error).split()) or type(error).__name__}")
        if rows:
            say(console, *_section([f"{group}s", *titles], rows, console), Text())
    say(console, Text.assemble(("compute  ", "bold"), compute()))
    try:
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
and what this machine computes with.""",
        epilog=f"""Each is a YAML file with settings and their defaults, chosen by its name:

  {command("train", "cell=gru", "task=copy", "optimizer=sgd")}

chance: the score of the best answer without a memory, from the last input
alone; constant: that of the best answer that is always the same.
shortest: the smallest valid seq_len, in timesteps.
held out: at these lengths training leaves out what is tested. Of shorter
sequences there are fewer than a hundred, and training draws them all; of longer
ones more than a billion, and it hardly ever draws one that is tested.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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

        settings = OmegaConf.to_container(OmegaConf.load(self.path))
        if not isinstance(settings, dict):
            raise TypeError("it has no settings")
        return {str(key): value for key, value in settings.items()}

    def comment(self) -> str:
        """The first line of the file's comment, except Hydra's directives."""
        for line in self.path.read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith("#"):
                break
            text = line.lstrip("# ").strip()
            if text and not text.startswith("@package"):
                return text
        return ""


def _choices(folders: list[Path], group: str) -> list[Choice]:
    """The choices of a group, sorted. As in Hydra, a user's file overrides ours of the same name."""
    choices = {}
    for folder in folders:
        for path in own_files.files_of(folder, group):
            name = path.relative_to(folder / group).with_suffix("").as_posix()
            choices[name] = Choice(name, path, own=folder is not folders[0])
    return sorted(choices.values(), key=lambda choice: (choice.name == "custom", choice.name))


def _cell(choice: Choice) -> list[str]:
    """[names of the states, source]"""
    from ...cells import CELLS

    settings = choice.settings()
    if settings.get("name") not in CELLS:
        return ["", choice.comment()]
    kind = CELLS[settings["name"]]
    options = {key: value for key, value in settings.items() if key not in _NO_OPTIONS}
    if "seq_len" in inspect.signature(kind).parameters:
        options["seq_len"] = 10  # any length: the names of states do not depend on it
    cell = kind(1, 1, **options)
    return [", ".join(cell.initial_state(1)), _source(kind, choice)]


def _task(choice: Choice) -> list[str]:
    """[chance score, that of a constant answer, shortest valid length, where a part is held out, source]"""
    from ...tasks import TASKS

    settings = choice.settings()
    if settings.get("name") not in TASKS:
        return ["", "", "", "", choice.comment()]
    kind = TASKS[settings["name"]]
    task = kind(**{key: value for key, value in settings.items() if key not in _NO_OPTIONS})
    metric = task.targets.metric
    chance, constant = (f"{metric.text(score)} {metric.unit}".rstrip() for score in (task.chance, task.constant))
    return [chance, constant, str(task.min_seq_len), _held_out(task), _source(kind, choice)]


def _held_out(task: "seqmem.tasks.Task") -> str:
    """The lengths at which a part of the space is held out: ``4-12``."""
    if task.held_out() != task:
        return "always"
    lengths = range(task.min_seq_len, task.min_seq_len + 100)
    split = [length for length in lengths if task.space(length).split]
    return f"{split[0]}-{split[-1]}" if split else ""


def _source(kind: "type[seqmem.cells.Cell | seqmem.tasks.Task]", choice: Choice) -> str:
    source = getattr(kind, "source", "")
    return f"{source} ({choice.comment().rstrip('.')})" if choice.own and choice.comment() else source


def _described(choice: Choice) -> list[str]:
    return [choice.comment()]


_GROUPS = {
    "cell": (["states", "source"], _cell),
    "task": (["chance", "constant", "shortest", "held out", "source"], _task),
    "model": ([""], _described),
    "probe": ([""], _described),
    "optimizer": ([""], _described),
    "experiment": ([""], _described),
}
"""Group of conf/ -> (titles of its columns, the function that fills them)."""


def _section(titles: list[str], rows: list[list[str]], console: rich.console.Console) -> Iterator[Text]:
    head = [Text(title, "dim" if i else "bold") for i, title in enumerate(titles)]
    cells = [[Text(f"  {row[0]}", "cyan"), *(Text(text) for text in row[1:-1])] for row in rows]
    left = columns([[*cells, Text(".")] for cells in [head[:-1], *cells]])
    start = left[0].cell_len - 1
    beside = console.width - start >= _NARROWEST or start < _NARROWEST
    indent = start if beside else 4
    for line, last in zip(left, [head[-1], *(Text(row[-1]) for row in rows)], strict=True):
        line.right_crop(1)
        parts = list(last.wrap(console, max(20, console.width - indent))) or [last]
        drawn = [Text.assemble(" " * indent, part) for part in parts]
        if beside:
            drawn[0] = Text.assemble(line, parts[0])
        else:
            drawn = [line, *drawn] if last.plain else [line]
        for one in drawn:
            one.rstrip()
            yield one


_NARROWEST = 24
"""Characters for the last column beside the others; where there are fewer, it is on lines of its own."""


def compute() -> str:
    """The hardware and torch, e.g. ``torch 2.13.0, 2 cores, no CUDA``."""
    import torch

    cores = usable_cores()
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cuda = f"CUDA {torch.version.cuda}: {', '.join(devices)}" if devices else "no CUDA"
    return f"torch {torch.__version__.partition('+')[0]}, {cores} core{'s' if cores != 1 else ''}, {cuda}"
