"""``seqmem eval``: a finished run's scores at any lengths."""

import json
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from ...runs.checksums import cover, uncover
from ...runs.directory import RunDirectory
from ...runs.files import EVALUATIONS, EVENTS, RunError, plain_json, write_atomically
from ..config import process
from ..config.choose import one_run
from ..config.commands import RUN, examples
from ..config.errors import ConfigError, Parser
from ..config.memory import refuse_lengths
from ..config.own_code import edited
from ..config.trust import add_option
from ..terminal.console import Console

if TYPE_CHECKING:
    from ...evaluate import Evaluation
    from ...metrics import Metric
    from ...tasks import Task

NUMBERS = ("seq_len", "sequences", "beam")


def main(args: Sequence[str]) -> int:
    parser = Parser(
        "eval",
        description="Score a finished run on held-out sequences of any lengths: in a table and in its TensorBoard log.",
        epilog="example:\n" + examples((f"eval {RUN} seq_len=10,20,50,100,200", "")),
    )
    parser.add_argument("run", metavar="RUN", help="a run's directory, or a part of its name that no other has")
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="key=value",
        help="seq_len=10,20,50: lengths (default: from the shortest valid one to four times the run's own); "
        "sequences=1000: how many of each; beam=4: beam search, where answers are fed back; device=auto|cpu|cuda",
    )
    add_option(parser)
    options = parser.parse_args(args)
    given = {}
    for text in options.settings:
        key, equals, value = text.partition("=")
        if not equals or key not in (*NUMBERS, "device"):
            raise ConfigError(f"'{text}' is not a setting: seq_len=, sequences=, beam= and device= are")
        given[key] = value
    try:
        lengths = [int(part) for part in given["seq_len"].split(",")] if "seq_len" in given else None
        sequences = int(given.get("sequences", 1000))
        beam = int(given["beam"]) if "beam" in given else None
    except ValueError:
        raise ConfigError("seq_len, sequences and beam are whole numbers, e.g. seq_len=10,20,50") from None
    for name, number in (("sequences", sequences), ("beam", beam)):
        if number is not None and number < 1:
            raise ConfigError(f"{name}={number}: must be at least 1")
    run, device = one_run(options.run, "eval"), given.get("device", "auto")
    evaluate_run(run, lengths, sequences, device, beam=beam, trusted=options.trust)
    return 0


def evaluate_run(
    run: RunDirectory,
    lengths: list[int] | None,
    sequences: int,
    device: str,
    *,
    beam: int | None = None,
    trusted: bool = False,
) -> None:
    """Score the run, print the table, and add the scores to the run.

    ``beam``: as in ``decoding.decode``; None: the run's own.

    Raises:
        RunError: the run does not exist, is not finished, or cannot be read.
        ConfigError: a length is too short or too long, or the device does not exist.
    """
    with process.importing("torch"):
        import torch

        from ...evaluate import evaluate_lengths, length_grid
        from ...randomness import ambient
        from ..config.trained import trained

    finished = trained(run, device, trusted=trusted)
    if why := edited(finished.config):  # the scores are added to the run's
        raise RunError(f"{run.path}: {why} what it was when the run was made: these would be scores of another model")
    config, task, model = finished.config, finished.task, finished.model
    torch.set_num_threads(finished.backend.torch_threads)
    grid = sorted(set(lengths)) if lengths else length_grid(task, config.seq_len)
    for length in grid:
        try:
            task.check(1, length)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if task.max_seq_len is not None and length > task.max_seq_len:
            raise ConfigError(f"seq_len={length} is too long for task={task.choice}: at most {task.max_seq_len}")
    if beam is not None and task.feedback() is None:
        raise ConfigError(
            f"beam={beam}: the answers of task={task.choice} are not fed back, so there is nothing to search"
        )
    refuse_lengths(config, grid)
    with ambient(config.seed, "measure", config.steps, device=next(model.parameters()).device):
        evaluations = evaluate_lengths(
            model,
            task,
            grid,
            seed=config.seed,
            sequences=sequences,
            trained=finished.lengths,
            beam=config.evaluate.beam if beam is None else beam,
        )
    _print(run, task, config.seq_len, evaluations)
    try:
        _add(run, task, evaluations)
    except OSError as error:
        raise RunError(f"cannot write to {error.filename or run.path}: {error.strerror or error}") from error


def _add(run: RunDirectory, task: "Task", evaluations: "list[Evaluation]") -> None:
    """Add the scores to the run's files."""
    from ...record.events import EventFile, whole_records
    from ...record.recorder import describe, with_levels

    with run.locked():
        events_file, list_file = run.file(EVENTS), run.file(EVALUATIONS)
        uncover(run, EVENTS, EVALUATIONS)
        former = [plain_json(row) for row in run.evaluations()]
        lines = [
            json.dumps(row, allow_nan=False) + "\n"
            for row in [*former, *(plain_json(with_levels(task, one)) for one in evaluations)]
        ]
        write_atomically(list_file, "".join(lines).encode())
        try:
            # A power failure may have damaged the last record: truncate the file to the whole records, then append.
            events = EventFile(events_file, keep=whole_records(events_file), describe=partial(describe, task=task))
        except (OSError, ValueError) as error:
            raise RunError(f"the scores are in {list_file}, but {events_file} cannot be added to: {error}") from error
        try:
            scores = [one.score for one in evaluations]
            events.curve("eval/score_by_length (seqmem eval)", scores, [one.seq_len for one in evaluations])
        finally:
            events.close()
        cover(run, EVENTS, EVALUATIONS)


def _print(run: RunDirectory, task: "Task", trained: int, evaluations: "list[Evaluation]") -> None:
    metric: Metric = task.targets.metric
    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    (beam,) = {one.beam for one in evaluations}
    how = "" if beam is None else f"  answers {f'by beam search, {beam} beams' if beam > 1 else 'written greedily'}"
    table.title, table.title_justify, table.title_style = f"{run.path}{how}", "left", "dim"
    exact = any(one.exact is not None for one in evaluations)
    constant = not exact and any(task.constant_at(one.seq_len) != task.chance_at(one.seq_len) for one in evaluations)
    repeated = any(one.distinct not in (None, one.sequences) for one in evaluations)
    names = ("length", metric.name, *["exact"] * exact, "chance", *["constant"] * constant, "loss", "chance loss")
    names = (*names, "sequences")
    for name in (*names, *["distinct"] * repeated):
        table.add_column(name, justify="right", no_wrap=name not in (metric.name, "chance loss"))
    for one in evaluations:
        mark = " (trained)" if one.seq_len == trained else ""
        cells = (
            f"{one.seq_len}{mark}",
            metric.text(one.score),
            *[metric.text(one.exact or 0.0)] * exact,
            metric.text(task.chance_at(one.seq_len)),
            *[metric.text(task.constant_at(one.seq_len))] * constant,
            f"{one.loss:.4g}",
            f"{task.baseline_loss(one.seq_len):.4g}",
            f"{one.sequences}",
            *[str(one.sequences if one.distinct is None else one.distinct)] * repeated,
        )
        table.add_row(*cells, style="bold" if mark else "")
    console.print(table)
