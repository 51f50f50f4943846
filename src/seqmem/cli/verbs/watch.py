"""``seqmem watch``: TensorBoard on the runs, with the gradient first."""

import io
import json
import logging
import threading
import webbrowser
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from urllib.parse import quote, urlencode
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from ...runs.directory import find_runs
from ...runs.files import EVENTS, RunError
from ..config.commands import command
from ..config.errors import ConfigError, Parser

PINNED = (
    "gradient/log10 by distance from answer (latest)",
    "gradient/log10 by timestep (latest)",
    "eval/score",
    "eval/score_by_length",
)
"""Cards at the top of the page, in this order."""

EARLIER = ("gradient/by_distance_from_answer (latest)", "gradient/by_timestep (latest)")
"""Cards below them of runs of earlier versions: TensorBoard shows no card without a run."""

_SAMPLES = {"scalars": 5000, "images": 100, "text": 100}  # TensorBoard's own limits would thin curves and drop answers


def main(args: list[str]) -> int:
    options = _parser().parse_args(args)
    folder: Path = options.dir
    if not folder.is_dir():
        raise ConfigError(f"there is no directory {folder}")
    runs = find_runs(folder)
    if not runs and next(folder.rglob(EVENTS), None) is None:  # curves over seeds are no runs
        raise ConfigError(f"no runs in {folder}: start with `{command('train')}`, or name another directory")
    if not 0 <= (options.port or 0) <= 65535:
        raise ConfigError(f"--port {options.port}: must be from 1 to 65535, or 0 for any that is free")

    from tensorboard import program  # takes half a second, so not before the checks above

    board = program.TensorBoard(
        server_class=lambda app, flags: program.create_port_scanning_werkzeug_server(opening(app), flags)
    )
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
            address = board.launch()
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
    count = f"{len(runs)} run{'s' if len(runs) != 1 else ''}" if runs else "the curves over seeds"
    try:
        print(f"TensorBoard shows {count} in {folder} at\n\n    {address}\n\nCtrl-C ends it.", flush=True)
        if options.open:
            webbrowser.open(address)
        threading.Event().wait()
    except KeyboardInterrupt:
        print("\nTensorBoard has ended.", flush=True)
    return 0


def query() -> str:
    """TensorBoard's page with ``PINNED`` on top and nothing smoothed."""
    pins = [{"plugin": "scalars", "tag": tag} for tag in (*PINNED, *EARLIER)]
    words = {"pinnedCards": json.dumps(pins, separators=(",", ":")), "smoothing": "0"}
    return urlencode(words, quote_via=quote, safe="/,:")


def opening(board: WSGIApplication) -> WSGIApplication:
    """``board`` whose bare address opens on ``query``, with every line whole and with room for the cards.

    TensorBoard scales a chart by the middle 90 % of its points, which cuts off what vanishes; its settings and the list
    of runs take half of a phone, and on a wide screen cards are too narrow for their titles. No address can say
    otherwise, only settings that it keeps in the browser: set here until the reader has chosen.
    """
    script = _OPENING.replace("QUERY", query()).encode()

    def serve(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        bare = environ.get("PATH_INFO") in ("", "/", "/index.html") and not environ.get("QUERY_STRING")
        if not bare or environ.get("REQUEST_METHOD") != "GET":
            return board(environ, start_response)
        kind = ("Content-Type", "text/html; charset=utf-8")
        start_response("200 OK", [kind, ("Content-Length", str(len(script))), ("Cache-Control", "no-store")])
        return [script]

    return serve


_OPENING = """\
<!DOCTYPE html>
<title>seqmem</title>
<script>
const key = "_tb_global_settings";
try {
  const settings = JSON.parse(localStorage.getItem(key) ?? "{}");
  const ours = { ignoreOutliers: false, timeSeriesSettingsPaneOpened: false };
  if (innerWidth < 700) ours.sideBarWidthInPercent = 0;
  if (innerWidth > 1600) ours.timeSeriesCardMinWidth = 440;
  localStorage.setItem(key, JSON.stringify({ ...ours, ...settings }));
} catch {} // a browser that stores nothing
location.replace("/?QUERY" + (location.hash || "#timeseries"));
</script>
<noscript>TensorBoard needs JavaScript.</noscript>
"""


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
