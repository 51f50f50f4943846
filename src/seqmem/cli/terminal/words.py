"""Numbers, paths and commands as people read and type them."""

import os
import shlex
import subprocess
from math import inf, isinf, isnan
from pathlib import Path


def half_life_text(timesteps: float) -> str:
    if isinf(timesteps):
        return "does not decay"
    if isnan(timesteps):
        return "unknown"
    return f"{timesteps:,.0f}" if 1000 <= timesteps < 1e6 else f"{timesteps:.3g}"


def horizon_text(timesteps: float) -> str:
    if isnan(timesteps):
        return "unknown"
    return "beyond the sequence" if isinf(timesteps) else f"{timesteps:.0f}"


def share_text(log10: float) -> str:
    """How much of the gradient at the answer: in percent, or as a power of ten where that reads better."""
    if isnan(log10):
        return "unknown"
    if log10 == -inf:
        return "nothing"
    return f"{100 * 10**log10:.3g} %" if -4 < log10 < 1 else f"10^{log10:.1f}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {seconds - 60 * minutes:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min"


def here(path: Path) -> Path:
    """The path as one would type it here."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path


def typed(*words: str | Path) -> str:
    """A command line that can be pasted into a shell."""
    parts = [str(word) for word in words]
    return subprocess.list2cmdline(parts) if os.name == "nt" else shlex.join(parts)
