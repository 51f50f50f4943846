"""How much memory a run needs at least, before it takes any: what cannot fit is refused in one line.

The estimates are lower bounds. They count the batch and the outputs of the layers, but neither gates nor buffers, so a
run that fits is never refused; one that needs all of the free memory by the bounds' usual multiple is warned of.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...cores import control_groups
from .errors import ConfigError

try:
    import resource
except ImportError:  # Windows
    resource = None

if TYPE_CHECKING:
    from .schema import RunConfig

_LARGE = 1024
"""Below this hidden size, weights fit anywhere, and are not counted."""

_USUAL = 5
"""A training takes about this multiple of the lower bound: gates, gradients, buffers."""

_KEPT = 2
"""Numbers kept for each weight at least: itself and its gradient. Adam keeps two more."""


def refuse(
    config: "RunConfig",
    free: int | None,
    count_parameters: Callable[[int], int],
    count_kept: Callable[[int, int], int] | None = None,
) -> list[str]:
    """Compare what a run needs with what is free.

    Args:
        free: bytes on the run's device; None: unknown, and nothing is refused.
        count_parameters: from a hidden size to a model's number of weights; called with small sizes alone.
        count_kept: from a hidden size and a number of timesteps to ``Cell.kept`` of a layer; None: its outputs.

    Returns:
        A line for each need that is doubtful.

    Raises:
        ConfigError: a need is more than there is.
    """
    if free is None:
        return []
    doubtful = []
    for what, need, advice in _needs(config, count_parameters, count_kept):
        _refuse(what, need, free, advice)
        if need * _USUAL > free:
            doubtful.append(f"{what} may need more than the {_text(free)} of memory that are free")
    return doubtful


def refuse_lengths(config: "RunConfig", lengths: Sequence[int]) -> None:
    """Raise ConfigError for a length at which one sequence needs more memory than is free."""
    free = available()
    if free is not None:
        for what, need, advice in _evaluations(config, lengths, "seq_len={}"):
            _refuse(what, need, free, advice)


def _refuse(what: str, need: int, free: int, advice: "Advice") -> None:
    if need > free:
        have = f"needs at least {_text(need)} of memory, and {_text(free)} are free"
        raise ConfigError(f"{what} {have}{advice(free)}")


Advice = Callable[[int], str]
"""From the free bytes to what would fit."""


def _needs(
    config: "RunConfig",
    count_parameters: Callable[[int], int],
    count_kept: Callable[[int, int], int] | None = None,
) -> list[tuple[str, int, Advice]]:
    """(what, bytes, advice)"""
    size = _whole(config.cell.get("hidden_size", 64))
    layers = _whole(config.cell.get("layers", 1))
    number = 8 if config.dtype == "float64" else 4
    needs: list[tuple[str, int, Advice]] = []
    params = config.cell.get("params")
    if params is not None:
        needs.append((f"cell.params={params}", _whole(params) * number * _KEPT, lambda _: ": take fewer"))
        size = 1  # not known yet
    elif size >= _LARGE:
        try:
            weights = _at(size, count_parameters) * number * _KEPT
        except ConfigError:  # a cell that small sizes do not suit, as of several heads: nothing is known of it
            weights = 0
        needs.append((f"cell.hidden_size={size}", weights, lambda _: ": take a smaller one"))
    # A token is 8 bytes; every layer keeps its output for the backward pass.
    kept = config.seq_len
    if config.tbptt is not None:
        kept = min(kept, max(1, config.tbptt))
    every = config.train.checkpoint_every_t
    if every is not None and every > 0:
        kept = min(kept, kept // every + every)
    numbers = kept * layers * size
    if count_kept is not None and params is None and size < _LARGE and every is None:
        numbers = layers * count_kept(size, kept)
        number = 2 if config.precision == "bf16" else number
    one = max(1, config.seq_len * 8 + numbers * number)

    def smaller_batch(free: int) -> str:
        if (most := free // (one * _USUAL)) >= 1:
            return f": batch_size={most} fits"
        return f": seq_len={max(1, config.seq_len * free // (one * _USUAL))} with batch_size=1 fits"

    batch = f"seq_len={config.seq_len} with batch_size={config.batch_size}"
    needs.append((batch, one * config.batch_size, smaller_batch))
    lengths = config.evaluate.lengths or [config.seq_len]
    return [*needs, *_evaluations(config, lengths, "evaluate.lengths=[{}]")]


def _evaluations(config: "RunConfig", lengths: Sequence[int], what: str) -> list[tuple[str, int, Advice]]:
    """One sequence is the smallest batch."""
    each = 8 + _whole(config.cell.get("hidden_size", 64)) * (8 if config.dtype == "float64" else 4)
    return [(what.format(n), n * each, lambda free: f": at most {free // (each * _USUAL)} fits") for n in lengths]


def _at(size: int, count: Callable[[int], int]) -> int:
    """A polynomial of degree 2 through the counts at 1, 2 and 3 hidden units (Newton's form)."""
    one, two, three = count(1), count(2), count(3)
    k = size - 1
    return one + k * (two - one) + k * (k - 1) // 2 * (three - 2 * two + one)


def _whole(value: Any) -> int:
    """A setting that ``build`` will check; 1 where it is no positive whole number."""
    return int(value) if isinstance(value, int | float) and value == value and 1 <= value < 1e18 else 1


def available() -> int | None:
    """Bytes that this process can still take: of the machine, its control group and its limits; None: unknown."""
    limits = [_meminfo(), *_control_groups()]
    if resource is not None:
        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        if soft != resource.RLIM_INFINITY:
            limits.append(soft)
    return min((limit for limit in limits if limit is not None), default=None)


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
        return 1024 * (kilobytes["MemAvailable"] + kilobytes["SwapFree"])
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _control_groups() -> list[int]:
    """The free memory of each control group around this process that has a limit."""
    free = []
    for group in control_groups("memory"):
        for files in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            try:
                limit, used = (int((group / file).read_text()) for file in files)
            except (OSError, ValueError):  # no such group here, or no limit: "max"
                continue
            if 0 < limit < 1 << 60:
                free.append(max(0, limit - used + _file_cache(group)))
    return free


def _file_cache(group: Path) -> int:
    """Bytes of files that the system caches in a control group, and gives back when memory is asked for."""
    try:
        lines = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
    except OSError:
        return 0
    known = {name: int(value) for name, value in lines if value.isdigit()}
    prefix = "total_" if "total_active_file" in known else ""  # version 1
    return known.get(f"{prefix}active_file", 0) + known.get(f"{prefix}inactive_file", 0)


def _text(size: int) -> str:
    units = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")
    power = min(len(units) - 1, max(0, (len(str(size)) - 1) // 3))
    return f"{size / 1000**power:.3g} {units[power]}"
