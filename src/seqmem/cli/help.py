"""What ``seqmem`` says about itself."""

from rich import box
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .config.commands import command
from .config.version import VERSION
from .terminal.console import Console


def print_help(verbs: dict[str, str]) -> None:
    console = Console(highlight=False)
    console.print()
    console.print(
        Text.assemble(
            (" seqmem ", "bold reverse"),
            f" {VERSION}  ",
            "see and measure how far back a sequence model remembers",
        )
    )
    console.print()
    console.print(Text.assemble("usage: ", (f"{command()} VERB ...", "bold")), soft_wrap=True)
    console.print()
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for verb, what in verbs.items():
        table.add_row(Text(verb, style="bold cyan"), what)
    console.print(table)
    examples = Text("\n").join(
        [
            Text(command("train", "cell=lstm", "task=pronoun", "seq_len=50")),
            Text(command("train", "-m", "cell=rnn,lstm,gru", "seq_len=10,20,50,100", "seed=0,1,2")),
            Text(command("watch")),
        ]
    )
    console.print()
    console.print(
        Panel(
            examples, title="try", title_align="left", box=box.ROUNDED, border_style="dim", width=min(console.width, 78)
        )
    )
    completion = f'eval "$({command("-sc", "install=bash")})"'
    console.print(
        Text.assemble("\nEvery verb has ", ("--help", "bold"), ". TAB completion: ", (completion, "bold")),
        soft_wrap=True,
    )
