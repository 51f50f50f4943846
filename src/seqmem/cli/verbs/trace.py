"""``seqmem trace``: the gradient at every timestep of a model that a user's script makes. No torch at import."""

import importlib.util
import json
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runs.files import RunError, plain_json, write_atomically
from ..config import process
from ..config.commands import examples
from ..config.errors import ConfigError, Parser, full_errors, joined, nearest
from ..config.home import expanded
from ..terminal.console import Console
from ..terminal.html import as_html, html_console
from ..terminal.strip import say
from ..terminal.traced import lines

if TYPE_CHECKING:
    from ...tracing.model_trace import ModelTrace


def main(args: list[str]) -> int:
    options = _parser().parse_args(args)
    of = [_whole(word) for word in options.of or []]
    modules = dict(_module(word) for word in options.module or [])
    make = _function(options.script)
    with process.importing("torch"):
        import torch

        from ...tracing.copied import trace_model, with_advice_tried
        from ...tracing.losses import TraceError

    with redirect_stdout(sys.stderr):  # what the user's code prints stands beside the answer, not in it
        made = _called(make, options.script)
        if not isinstance(made, tuple) or len(made) not in (3, 4):
            what = f"a tuple of {len(made)}" if isinstance(made, tuple) else type(made).__name__
            raise ConfigError(f"{options.script}: it must return (model, loss_fn, batch), and returned {what}")
        made, of_script = made[:3], made[3] if len(made) > 3 else {}
        known = ("of", "reduction", "modules", "lengths", "loss_axes", "dtype")
        if not isinstance(of_script, dict) or not {*of_script} <= {*known}:
            what = "not a dictionary" if not isinstance(of_script, dict) else ", ".join(map(repr, of_script))
            raise ConfigError(
                f"{options.script}: what it returns after the batch is {what}: must be options of seqmem.trace, as "
                f"{{'lengths': lengths}}; it has {', '.join(known)}"
            )
        typed = {
            "of": tuple(of) if len(of) > 1 else of[0] if of else None, "reduction": options.reduction,
            "modules": modules, "dtype": torch.float32 if options.float32 else None,
        }  # fmt: skip
        given: dict[str, Any] = of_script | {name: value for name, value in typed.items() if value}
        try:
            trace = with_advice_tried(trace_model(*made, **given), *made, **given)
        except TraceError as error:
            raise ConfigError(f"{options.script}: {error}") from error
    if options.html is not None:
        _write(options.html, _page(trace, options.script))
    if options.json:
        print(json.dumps(plain_json(_as_json(trace)), indent=1, allow_nan=False))
        return 0
    console = Console()
    say(console, *lines(trace, console))
    return 0


def _parser() -> Parser:
    parser = Parser(
        "trace",
        description="""Show how much of the loss gradient reaches every timestep of a PyTorch model of
your own: its RNN, LSTM and GRU layers, cells in a loop, attention. Exact, in
float64, on a copy. A function of yours makes the model:

  def make():
      ...
      return model, loss_fn, batch

where loss_fn(model, batch) returns each sequence's loss, [B], the losses of all
timesteps, [T, B] or [B, T], or one number. After the batch it may return options
of seqmem.trace: {"lengths": lengths} for a padded batch. Where the gradient
vanishes, another initialisation is tried on a copy.""",
        epilog=f"""examples:
{
            examples(
                ("trace my_model.py:make", ""),
                ("trace my_model.py:make --of last --html trace.html", ""),
                ("trace my_model.py:make --module conv=BCT --json", ""),
            )
        }

Each layer has a strip: the first timestep at the left, the one before the
answer at the right; its height is log10 of the gradient, relative to one step
back from the answer.""",
    )
    parser.add_argument("script", metavar="FILE.py:FUNCTION", help="what makes (model, loss_fn, batch)")
    parser.add_argument(
        "--of", action="append", metavar="WHICH",
        help="whose loss is propagated: last (default), all, a timestep; of several losses the name of one, and then "
        "--of WHICH once more",
    )  # fmt: skip
    parser.add_argument(
        "--reduction", choices=("mean", "sum"), help="how one number was made of the losses, where that is not seen"
    )
    parser.add_argument(
        "--module", action="append", metavar="MODULE[=AXES]",
        help="a submodule whose output is traced, too; with its axes, as conv=BCT",
    )  # fmt: skip
    parser.add_argument("--float32", action="store_true", help="for a model that cannot compute in float64")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page, with a figure")
    parser.add_argument("--json", action="store_true", help="print every number as JSON, and nothing else")
    return parser


def _whole(word: str) -> str | int:
    try:
        return int(word)
    except ValueError:
        return word


def _module(word: str) -> tuple[str, str | None]:
    path, equals, axes = word.partition("=")
    return path, axes if equals else None


# The user's function


def _function(given: str) -> Callable[[], Any]:
    """
    Raises:
        ConfigError: there is no such file or function.
    """
    file, colon, name = given.rpartition(":")
    try:
        path = Path(expanded(file))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not colon or not name or path.suffix != ".py":
        raise ConfigError(f"{given}: must be a file and a function in it, as my_model.py:make")
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    module_name = path.stem
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    loader = spec.loader
    assert loader is not None
    module = importlib.util.module_from_spec(spec)
    known = sys.modules.get(module_name)
    if known is not None and getattr(known, "__file__", None) != spec.origin:
        raise ConfigError(f"{path}: a library is called {module_name}, too: give the file another name")
    sys.path.insert(0, str(path.parent))  # as Python does for a script
    sys.modules[module_name] = module
    with redirect_stdout(sys.stderr):
        _called(lambda: loader.exec_module(module), given)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"{path} has no function '{name}'.{nearest(name, functions)}")
    return function


def _called(function: Callable[[], Any], given: str) -> Any:
    """
    Raises:
        RunError: it failed; one line with the place in the user's file.
    """
    try:
        return function()
    except Exception as error:
        if full_errors():
            raise
        name = given.rpartition(":")[0]
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == Path(name).name
        ]
        line = f":{frames[-1].lineno}" if frames else f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise RunError(joined(f"{name}{line}: {type(error).__name__}: {error}")) from error


# What is printed


def _as_json(trace: "ModelTrace") -> dict[str, Any]:
    parts = {
        path: {
            "lengths": part.lengths.tolist(),
            "reverse": part.reverse,
            "answered_at": part.trace.answered_at.tolist(),
            "why": part.why,
            "decays": {name: decay.numbers() for name, decay in part.trace.decays().items()},
            "norms": {name: values.tolist() for name, values in part.norms.items()},
        }
        for path, part in trace.parts.items()
    }
    losses = None if trace.losses is None else trace.losses.tolist()
    about = {"of": trace.of, "dtype": trace.dtype, "notes": [*trace.notes], "untraced": dict(trace.untraced)}
    about["advice"] = trace.advice
    about["tried"] = {path: decay.numbers() for path, decay in trace.tried.items()}
    return {**about, "losses": losses, "parts": parts}


def _page(trace: "ModelTrace", given: str) -> bytes:
    from ...report.figures import style
    from ...report.figures.output import render
    from ...report.figures.traced import draw

    profiles = dict(list(trace.profiles().items())[: style.LABELS_AT_MOST])
    figure = render(lambda: draw(profiles)).svg.decode()
    figure = figure[figure.index("<svg") :]
    console = html_console()
    table = as_html(lines(trace, console))
    return f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(given)}: gradient at every timestep</title>
<style>body {{ font-family: system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
svg {{ max-width: 100%; height: auto }}</style>
<h1>{escape(given)}</h1>
{table}
{figure}
</html>
""".encode()


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise RunError(f"cannot write to {path}: {error.strerror or error}") from error
