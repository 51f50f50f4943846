"""``seqmem watch``: TensorBoard on the runs, with the gradient first."""

import io
import json
import logging
import signal
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from urllib.parse import quote, urlencode

from ...runs.directory import find_runs
from ...runs.files import RunError
from ..config.commands import command
from ..config.errors import ConfigError, Parser

PINNED = (
    "gradient/by_distance_from_answer (latest)",
    "gradient/by_timestep (latest)",
    "eval/score",
    "eval/score_by_length",
)
"""Cards at the top of the page, in this order."""

_SAMPLES = {"scalars": 5000, "images": 100, "text": 100}  # TensorBoard's own limits would thin curves and drop answers


def main(args: list[str]) -> int:
    options = _parser().parse_args(args)
    folder: Path = options.dir
    if not folder.is_dir():
        raise ConfigError(f"there is no directory {folder}")
    runs = find_runs(folder)
    if not runs:
        raise ConfigError(f"no runs in {folder}: start with `{command('train')}`, or name another directory")
    if not 0 <= (options.port or 0) <= 65535:
        raise ConfigError(f"--port {options.port}: must be from 1 to 65535, or 0 for any that is free")

    from tensorboard import program  # takes half a second, so not before the checks above

    board = program.TensorBoard()
    output = io.StringIO()
    try:
        with _quiet(output):
            board.configure(
                logdir=str(folder),
                host=options.host,
                port=options.port,
                samples_per_plugin=_SAMPLES,
                window_title="seqmem",
            )
            address = page(board.launch())
    except program.TensorBoardPortInUseError:
        line = f"port {options.port} is in use: name another, or leave out --port for the next free one"
        raise RunError(line) from None
    except program.TensorBoardServerException as error:
        raise RunError(error.msg) from None
    except OSError as error:
        raise RunError(f"cannot listen on {options.host}: {error.strerror or error}") from error
    except SystemExit:  # the web server under TensorBoard prints why and exits
        reason = output.getvalue().strip().splitlines()
        raise RunError(f"cannot listen on {options.host}: {reason[-1] if reason else 'no reason given'}") from None
    count = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    # A process that a script starts in the background ignores Ctrl-C by default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        print(f"TensorBoard shows {count} in {folder} at\n\n    {address}\n\nCtrl-C ends it.", flush=True)
        if options.open:
            webbrowser.open(address)
        threading.Event().wait()
    except KeyboardInterrupt:
        print("\nTensorBoard has ended.", flush=True)
    return 0


def page(address: str) -> str:
    """The time series page of the TensorBoard at ``address``, with ``PINNED`` on top and nothing smoothed."""
    pins = [{"plugin": "scalars", "tag": tag} for tag in PINNED]
    query = {"pinnedCards": json.dumps(pins, separators=(",", ":")), "smoothing": "0"}
    return f"{address}?{urlencode(query, quote_via=quote, safe='/,:')}#timeseries"


def _parser() -> Parser:
    parser = Parser(
        "watch",
        description="Open TensorBoard on the runs in a directory, with the gradient at every timestep on top of the "
        "page. It follows runs that are still training.",
    )
    parser.add_argument(
        "dir", nargs="?", type=Path, default=Path("outputs"), metavar="DIR",
        help="the runs at or below this directory (default: outputs)",
    )  # fmt: skip
    parser.add_argument(
        "--port", type=int, metavar="N", help="the port to listen on (default: the first free from 6006)"
    )
    parser.add_argument(
        "--host", default="localhost", metavar="H",
        help="the address to listen on (default: localhost; 0.0.0.0 lets other machines in, without a password)",
    )  # fmt: skip
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    return parser


@contextmanager
def _quiet(output: io.StringIO) -> Iterator[None]:
    """Silence TensorBoard: it explains its fast reader at each start and warns of every curve that is rewritten."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    with redirect_stderr(output):
        yield
