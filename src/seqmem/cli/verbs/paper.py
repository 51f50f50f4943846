"""``seqmem paper``: a published result, and the same by one command."""

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text
from yaml import YAMLError

from ...papers import Comparison, OrderComparison, Paper, paper_of
from ...papers.definition import DefinitionError
from ...papers.table import HEADINGS, ORDER_HEADINGS, as_json, markdown, order_rows, rows
from ...runs.files import plain_json, write_atomically, write_json
from ..config.commands import command
from ..config.errors import ConfigError, Parser, nearest
from ..config.own_code import forget_edited
from ..config.schema import conf_dir
from ..launch.paper_runs import comparisons, order_comparisons, planned
from ..launch.planned_runs import run_all
from ..terminal.console import Console
from ..terminal.strip import columns, say
from ..terminal.words import here


def main(args: Sequence[str]) -> int:
    given = _parser().parse_intermixed_args(list(args))
    console = Console(soft_wrap=True)
    if given.name is None:
        _list(console)
        return 0
    forget_edited()
    paper = _paper(given.name)
    launcher = [one for one in given.settings if one.startswith("hydra")]
    more = [one for one in given.settings if not one.startswith("hydra")]
    _refuse(more)
    if given.quick and paper.quick is None:
        raise ConfigError(f"--quick: paper={paper.name} has no quick form; it takes {paper.cost}")
    plans = planned(paper, more, quick=given.quick)
    with redirect_stdout(sys.stderr) if given.json else nullcontext():  # the runs' progress is no JSON
        jobs = run_all(plans, launcher)
    table = comparisons(paper, plans, jobs)
    orders = order_comparisons(paper, table)
    content = plain_json(as_json(paper, table, orders, quick=given.quick))
    typed = command("paper", given.name, *(["--quick"] if given.quick else []), *given.settings)
    folder = Path(plans[0].config.outputs) / "papers"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{paper.name}-quick" if given.quick else paper.name
    write_json(folder / f"{stem}.json", content)
    write_atomically(folder / f"{stem}.md", markdown(paper, table, orders, typed, quick=given.quick).encode())
    if given.json:
        print(json.dumps(content, indent=1, allow_nan=False))
        return 0
    say(console, Text(paper.source, "bold"))
    say(console, Text(paper.claim))
    say(console, Text(f"published: {paper.where}", "dim"))
    if given.quick and paper.quick is not None:
        say(console, Text(f"a quick look: {paper.quick.shows}", "yellow"))
    say(console, Text())
    _show(console, paper, table)
    if orders:
        say(console, Text())
        show_orders(console, paper, orders)
    say(console, Text())
    for one in paper.departures:
        say(console, Text(f"- {one}", "dim"))
    say(console, Text(f"{here(folder / stem)}.md and .json have this table", "dim"))
    return 0


def _show(console: Console, paper: Paper, table: Sequence[Comparison]) -> None:
    """The table. Below a row stands why its verdict is neither yes nor no, and where the terminal is narrow the seeds
    and the difference."""
    shown = [[*row[:-1], one.verdict] for row, one in zip(rows(paper, table), table, strict=True)]
    lines = [[Text(text, "dim") for text in HEADINGS]]
    lines += [[*(Text(text) for text in row[:-1]), Text(row[-1], _style(row[-1]))] for row in shown]
    # That no figure is published the empty column says.
    below = [[], *([one.why] if one.why and (one.row.published or one.row.obstacle) else [] for one in table)]
    together = {*map(tuple, below[1:])}
    if len(table) > 1 and len(together) == 1:  # said once
        below = [[] for _ in below]
    if console.is_terminal and max(line.cell_len for line in columns(lines)) > console.width:
        at, end = HEADINGS.index("seeds"), HEADINGS.index("verdict")
        for line, notes in zip(lines[1:], below[1:], strict=True):
            seeds, difference = (part.plain for part in line[at:end])
            notes[:0] = [f"{seeds} seeds", *([f"difference {difference}"] if difference else [])]
        lines = [[*line[:at], *line[end:]] for line in lines]
    for line, notes in zip(columns(lines), below, strict=True):
        say(console, line)
        if notes:
            say(console, _indented(console, Text(", ".join(notes), "dim")))
    if len(table) > 1 and len(together) == 1:
        for why in next(iter(together)):
            say(console, Text(f"{table[0].verdict}: {why}", "dim"))


def show_orders(console: Console, paper: Paper, orders: Sequence[OrderComparison]) -> None:
    """Below a line stands why its verdict is neither yes nor no; where the terminal is narrow, all but the order."""
    texts = order_rows(paper, orders)
    verdicts = [Text(one.verdict, _style(one.verdict)) for one in orders]
    table = [[Text(text, "dim") for text in ORDER_HEADINGS]]
    table += [[Text(order), Text(by), verdict] for (order, by, _), verdict in zip(texts, verdicts, strict=True)]
    heading, *lines = columns(table)
    if console.is_terminal and max(line.cell_len for line in (heading, *lines)) > console.width:
        heading, lines = Text(ORDER_HEADINGS[0], "dim"), [Text(order) for order, _, _ in texts]
        below = [
            Text(", ").join([verdict, *(Text(part, "dim") for part in (by, one.why) if part)])
            for (_, by, _), verdict, one in zip(texts, verdicts, orders, strict=True)
        ]
    else:
        below = [Text(one.why, "dim") for one in orders]
    say(console, heading)
    for line, more in zip(lines, below, strict=True):
        say(console, line)
        if more:
            say(console, _indented(console, more))


def _style(verdict: str) -> str:
    return "green" if verdict == "agrees" else "red" if verdict == "differs" else "yellow"


def _parser() -> Parser:
    parser = Parser(
        "paper",
        description="""Repeat a published result, and print the published figures beside yours, with a verdict.
Without a name: the papers there are.""",
        epilog=f"""examples:
  {command("paper")}
  {command("paper", "cogscale_copy", "--quick")}
  {command("paper", "cogscale_copy", "hydra/launcher=slurm")}

Its runs are ordinary runs in outputs/: what is finished is not run again, and a paper
that was stopped goes on when the same command is started again.

agrees: the whole interval of the difference is within the margin that the paper's file
names. differs: the interval excludes no difference. Anything else cannot be told with
these seeds. NAME may be a file of your own, e.g. my_paper.yaml: docs/papers.md.""",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the paper; without it, all are listed")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help=f"further settings, as of {command('train')}, of all its runs"
    )
    parser.add_argument("--quick", action="store_true", help="a look that takes minutes, and says what it cannot show")
    parser.add_argument("--json", action="store_true", help="print the table as JSON, and nothing else")
    return parser


def _refuse(settings: Sequence[str]) -> None:
    for one in settings:
        if one.partition("=")[0] == "seed":
            raise ConfigError(f"{one}: the seeds are those of the paper's file")
        if "=" not in one:
            raise ConfigError(f"'{one}' is no setting: key=value")


def _folder() -> Path:
    return conf_dir() / "paper"


def _names() -> list[str]:
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def _paper(name: str) -> Paper:
    """Raises:
    ConfigError: there is no such paper, or its file is not valid.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else _folder() / f"{name}.yaml"
    if not path.is_file():
        if path == Path(name):
            raise ConfigError(f"{name}: there is no such file")
        known = _names()
        raise ConfigError(f"there is no paper '{name}'.{nearest(name, known)} One of: {', '.join(known)}")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        mapping = {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}
        return paper_of(path.stem, mapping)
    except (DefinitionError, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{error} ({here(path)})") from None


def _list(console: Console) -> None:
    for name in _names():
        paper = _paper(name)
        say(console, Text.assemble((name, "bold cyan"), f"  {paper.cited}"))
        say(console, _indented(console, Text(paper.claim)))
        rows = f"{len(paper.rows)} row{'s' * (len(paper.rows) > 1)}, {paper.seeds} seeds"
        say(console, _indented(console, Text(f"{rows}: {paper.cost}", "dim")))


def _indented(console: Console, text: Text) -> RenderableType:
    """On a terminal every line of a paragraph; a file or a pipe gets it as one line."""
    return Padding(text, (0, 0, 0, 2), expand=False) if console.is_terminal else Text.assemble("  ", text)
