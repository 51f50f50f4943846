"""``seqmem show``: runs in the terminal. No torch here: it must start fast, and runs are only files."""

from collections.abc import Sequence

import rich.console
from rich.text import Text

from ...runs.directory import RunDirectory
from ...runs.files import RunError
from ...runs.summary import Summary, read
from ..config.choose import OUTPUTS, find
from ..config.commands import RUN, examples
from ..config.errors import Parser, notes_held, print_error
from ..terminal.console import Console
from ..terminal.pages import comparison, page
from ..terminal.strip import say

MOST_RUNS = 20


def main(args: list[str]) -> int:
    options = _parser().parse_args(args)
    try:
        runs = chosen(options.runs)
    except FileNotFoundError as error:
        print_error(f"seqmem show: {error}")
        return 2
    console = Console()
    shown, errors = summaries(runs if options.all else runs[:MOST_RUNS])
    for error in errors:
        print_error(f"seqmem show: {error}")
    say(console, *lines(shown, len(runs), console, more="--all shows the rest"))
    return 1 if errors else 0


@notes_held()
def chosen(names: Sequence[str]) -> list[RunDirectory]:
    """The runs that some names mean, each once; without a name everything in outputs/.

    Raises:
        FileNotFoundError: a name means none, or several.
    """
    runs = [run for name in names or [str(OUTPUTS)] for run in find(name)]
    return list({run.path.resolve(): run for run in runs}.values())


def summaries(runs: Sequence[RunDirectory]) -> tuple[list[Summary], list[RunError]]:
    """What the readable runs say, and why the others cannot be read."""
    shown, errors = [], []
    for run in runs:
        try:
            summary = read(run)
            _ = summary.profiles  # unreadable traces are reported here, before anything is printed
            shown.append(summary)
        except RunError as error:
            errors.append(error)
    return shown, errors


def lines(shown: Sequence[Summary], of: int, console: rich.console.Console, *, more: str) -> list[Text]:
    """A page about one run, or several side by side.

    Args:
        of: how many there are. ``more``: what shows those that are left out.
    """
    if len(shown) < 2:
        return [line for run in shown for line in page(run, console)]
    head = [Text(f"{of} runs\n", "dim")] if of > 2 else []
    if of > len(shown) and of > MOST_RUNS:
        head = [Text(f"{of} runs; the first {len(shown)} of them ({more}):\n", "yellow")]
    return [*head, *comparison(shown, console)]


def _parser() -> Parser:
    parser = Parser(
        "show",
        description="""Show a run, finished or not: its result, its score by length, how much of the
gradient reaches every timestep, half-life and horizon. Several runs are shown
side by side.""",
        epilog="""RUN is a run's directory, a folder of runs, or a part of a path below outputs/
that no other run's path has:

"""
        + examples(
            (f"show {RUN}", ""),
            ("show 1a2b3c4d", "the same run"),
            ("show outputs/pronoun", "all runs of a task, compared"),
            ("show pronoun/rnn pronoun/lstm", "two folders of runs, compared"),
        )
        + """

The gradient strip has one block for each timestep (or for a few), the first at
the left and the one before the answer at the right. Its height is log10 of the
gradient that the loss at the answer sends back there, relative to one step back
from the answer: a full block is all of it, the lowest a hundred-millionth or
less. (At the answer itself the gradient is that of the readout: it has crossed
no timestep, and says nothing about memory.)

  arrives     what is left at the first timestep, of all states or of each
  shape       how it gets there: along a straight line, or where it turns
  half-life   timesteps back in which it halves, where its logarithm falls along
              a straight line; inf: it keeps its size or grows; -: no such line
  horizon     timesteps back at which less than a thousandth is left""",
    )
    parser.add_argument("runs", metavar="RUN", nargs="*", help="what to show (default: everything in outputs/)")
    parser.add_argument("-a", "--all", action="store_true", help=f"however many there are, not the first {MOST_RUNS}")
    return parser
