"""``seqmem card``: what a battery of tasks says of one cell, on one page that another machine can check."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from ...cards.content import CardError, checked, differences
from ...cards.page import page, table
from ...cards.sortable import sortable
from ...report.wording import file_name
from ...runs.directory import RunDirectory
from ...runs.files import RunError, read_json, write_atomically, write_json
from ..config.commands import command, examples
from ..config.errors import ConfigError, Parser, print_error
from ..config.own_code import forget_edited
from ..config.trust import add_option, admit
from ..launch.card_runs import folder_of, made, planned
from ..launch.one_run import run_path
from ..launch.planned_runs import PlannedRun, run_all
from ..terminal.console import Console
from ..terminal.strip import say
from ..terminal.words import here

MOST_DIFFERENCES = 12
"""Lines of a comparison; --json has all."""


def main(args: Sequence[str]) -> int:
    given = _parser().parse_intermixed_args(list(args))
    console = Console(soft_wrap=True, highlight=False)
    forget_edited()
    words = [*([] if given.cell is None else [given.cell]), *given.settings]
    launcher = [one for one in words if one.startswith("hydra")]
    settings = [one for one in words if not one.startswith("hydra")]
    if given.verify is not None:
        return _verify(Path(given.verify), settings, launcher, console, trusted=given.trust, as_json=given.json)
    if not settings:
        raise ConfigError(f"name a cell: {command('card', 'lstm')}")
    cell, *settings = settings
    _refuse(cell, settings)
    settings = [f"cell={cell}", *settings]
    plans = planned([*settings, *(["quiet=true"] if given.json else [])])
    folder = Path(given.out) if given.out is not None else folder_of(plans) / "cards"
    _make(folder)  # an error before the runs, not after
    content = made(settings, plans, run_all(plans, launcher))
    file = _written(content, folder)
    if given.json:
        print(json.dumps(content, indent=1, allow_nan=False))
    else:
        say(console, *(Text(line) for line in file.read_text().splitlines()))
        say(
            console,
            Text(f"{here(file)}, with its numbers in {file.stem}.json; all cards in README.md and index.html", "dim"),
        )
    return 0


def _parser() -> Parser:
    parser = Parser(
        "card",
        description="""Measure one cell on a battery of tasks, and put on one page what it remembers: the memory
span of each task with its interval, the half-life of the gradient before training, parameters,
the laws it keeps, its speed, and a hash that another machine can check.""",
        epilog=f"""examples:
{
            examples(
                ("card lstm", "72 runs, some minutes"),
                ("card lstm cell.forget_bias=1", "any setting of train"),
                ("card mine.MyCell task=pronoun,adding seed=0,1", "a battery of your own"),
                ("card --verify outputs/cards/lstm.json", "train it again: the same bits?"),
            )
        }

The battery is conf/experiment/battery.yaml. Its runs are ordinary runs in outputs/:
what is finished is not run again, and a card that was stopped goes on when the
same command is started again. --verify trains all of them anew, beside outputs/;
it compares every score and loss, and what follows from them. Speed, versions and
machine are not compared: another machine may also round otherwise.

Exit code of --verify: 0: the same; 1: not.""",
    )
    parser.add_argument(
        "cell", nargs="?", metavar="CELL", help="as after cell= : lstm, usual/lstm, your_module.YourCell"
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help=f"settings of {command('train')}; task=, seq_len=, seed= with several",
    )
    parser.add_argument("--verify", metavar="FILE", help="train the card of this JSON file again, and compare")
    parser.add_argument("--out", metavar="DIR", help="where the card is written (default: cards in outputs)")
    add_option(parser)
    parser.add_argument("--json", action="store_true", help="the card's numbers, or the comparison, as JSON alone")
    return parser


def _refuse(cell: str, settings: Sequence[str]) -> None:
    if "=" in cell:
        raise ConfigError(f"{cell}: the cell comes first: {command('card', 'lstm', cell)}")
    for one in settings:
        if "=" not in one:
            raise ConfigError(f"'{one}' is no setting: key=value")
        if one.partition("=")[0] == "cell":
            raise ConfigError(f"{one}: the cell is named without cell=, and once")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error


def _written(content: Mapping[str, Any], folder: Path) -> Path:
    """Write the card's page and numbers, and the table of all cards of the folder; the path of the page.

    Raises:
        RunError: it cannot be written.
    """
    card = content["card"]
    file = folder / f"{file_name(card['name'])}.md"
    words = [one.partition("=")[2] if one.startswith("cell=") else one for one in card["settings"]]
    try:
        write_json(file.with_suffix(".json"), content)
        text = page(content, " ".join(["seqmem card", *words]), f"seqmem card --verify {file.stem}.json")
        write_atomically(file, text.encode())
        cards = list(_cards(folder))
        write_atomically(folder / "README.md", table(cards, "seqmem card CELL").encode())
        write_atomically(folder / "index.html", sortable(cards).encode())
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error
    return file


def _cards(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of each card's page, and its content. Other files are named and left out."""
    for file in sorted(folder.glob("*.json")):
        try:
            yield file.with_suffix(".md").name, _read(file)
        except (ConfigError, RunError) as error:
            print_error(f"seqmem card: left out of the table: {error}")


def _read(file: Path) -> dict[str, Any]:
    """Raises:
    ConfigError: the file is no card.
    RunError: it cannot be read.
    """
    value = read_json(file)
    if value is None:
        raise ConfigError(f"{file}: there is no such file")
    try:
        return checked(value, str(file))
    except CardError as error:
        raise ConfigError(str(error)) from None


def _verify(
    file: Path, more: Sequence[str], launcher: Sequence[str], console: Any, *, trusted: bool, as_json: bool
) -> int:
    if more:
        raise ConfigError(f"{more[0]}: --verify takes the settings of the card")
    if file.suffix == ".md":
        file = file.with_suffix(".json")
    was = _read(file)
    settings = list(was["card"]["settings"])
    plans = _elsewhere(settings, file.stem, quiet=as_json)
    admit(plans[0].config, file, trusted=trusted)
    now = made(settings, plans, run_all(plans, launcher))
    compared, unlike = differences(was, now)
    same = not unlike
    if as_json:
        fields = {"same": same, "compared": compared, "differences": [vars(one) for one in unlike]}
        print(json.dumps(fields | {"hash": was["hash"], "hash_now": now["hash"]}, indent=1, allow_nan=False))
        return int(not same)
    say(console, Text("bitwise the same" if same else "not the same", "bold green" if same else "bold red"))
    say(console, Text(f"  {len(plans)} runs, {compared:,} values, {len(unlike) or 'none'} of which differ"))
    say(console, *(Text(f"  {one.where}: {one.was} then, {one.now} now") for one in unlike[:MOST_DIFFERENCES]))
    if len(unlike) > MOST_DIFFERENCES:
        say(console, Text(f"  and {len(unlike) - MOST_DIFFERENCES} more: --json has them"))
    before, after = was["around"], now["around"]
    around = [f"{key} {before.get(key)}, {after.get(key)}" for key in after if before.get(key) != after.get(key)]
    say(console, Text(f"not compared (then, now): {'; '.join(around) or 'the same, too'}", "dim"))
    say(console, Text(f"runs in {here(folder_of(plans))}", "dim"))
    return int(not same)


def _elsewhere(settings: Sequence[str], name: str, *, quiet: bool) -> list[PlannedRun]:
    """The runs in the first folder outputs-verified/NAME-1, -2 ... where not all are finished: a stopped verification
    goes on there."""
    for number in range(1, 1000):
        place = f"outputs-verified/{file_name(name)}-{number}"
        plans = planned([*settings, f"outputs={place}", *(["quiet=true"] if quiet else [])])
        if not all(RunDirectory(run_path(plan.config)).finished for plan in plans):
            return plans
    raise RunError("outputs-verified has 999 verifications of this card: delete some")
