"""``seqmem verify``: are the files of finished runs what the runs wrote? No torch."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from ...runs.checksums import Verified, verify
from ...runs.files import CHECKSUMS, CONFIG, RunError
from ..config.choose import OUTPUTS, find
from ..config.commands import examples
from ..config.errors import ConfigError, Parser, print_error
from ..terminal.console import Console
from ..terminal.strip import say
from ..terminal.words import here

MARKS = (CONFIG, CHECKSUMS)
"""What a run's folder has; a finished one has both, so that either may be missing."""


def main(args: Sequence[str]) -> int:
    parser = Parser(
        "verify",
        description="Compare every file of finished runs with the checksum that the run wrote: a damaged disk or copy, "
        "or an edited file, is named. Exit code 0: all are the same; 1: something was altered or cannot be read.",
        epilog="example:\n"
        + examples(("verify outputs", ""))
        + "\n\nChecksums tell of accidents: an attacker who rewrites a file can rewrite its checksum, too.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="*", help="a run, or a folder of runs (default: outputs/)")
    parser.add_argument("--json", action="store_true", help="every run's verdict as JSON, and nothing else")
    options = parser.parse_args(args)
    verified: list[Verified] = []
    unreadable: list[tuple[Path, str]] = []

    def closed(error: OSError) -> None:
        unreadable.append((Path(error.filename), f"{error.filename} cannot be read: {error.strerror}"))

    try:
        chosen = [run for given in options.runs or [str(OUTPUTS)] for run in find(given, closed, MARKS)]
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from None
    for run in {run.path.resolve(): run for run in chosen}.values():
        try:
            verified.append(verify(run))
        except (RunError, OSError) as error:
            unreadable.append((run.path, str(error)))
    if options.json:
        runs = [
            {"path": str(one.run.path), "verdict": one.verdict, "files": one.files, "faults": one.faults}
            for one in verified
        ]
        print(json.dumps({"runs": runs, "unreadable": [{"path": str(path), "error": why} for path, why in unreadable]}))
    else:
        _print(verified, unreadable)
    return 1 if unreadable or any(one.verdict == "altered" for one in verified) else 0


def _print(verified: Sequence[Verified], unreadable: Sequence[tuple[Path, str]]) -> None:
    console = Console(highlight=False)
    for one in verified:
        for fault in one.faults:
            say(console, Text.assemble((f"{here(one.run.path)}: ", ""), (fault, "red")))
    for _, why in unreadable:
        print_error(f"seqmem verify: {why}")
    counts = Counter[str](one.verdict for one in verified)
    counts["unreadable"] = len(unreadable)
    words = {
        "same": "the same",
        "altered": "altered",
        "unreadable": "unreadable",
        "no checksums": "without checksums, of an earlier version",
        "not finished": "not finished",
    }
    parts = [f"{counts[name]} {text}" for name, text in words.items() if counts[name]]
    total = len(verified) + len(unreadable)
    files = sum(one.files for one in verified)
    say(console, Text(f"{total} run{'s' * (total != 1)}, {files} files: {', '.join(parts)}"))
