"""Numbers and paths as people read and type them."""

import re
from pathlib import Path


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {seconds - 60 * minutes:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min"


def first_weights(init_from: object) -> str:
    """What a run begins with, in 13 characters: ``untrained``, or ``from c4f2c504``, by the other run's name."""
    if init_from is None:
        return "untrained"
    name = Path(str(init_from)).name
    code = re.search(r"-([0-9a-f]{8})$", name)
    return f"from {code[1]}" if code else f"from {name}" if 0 < len(name) <= 8 else "from another"


def here(path: Path) -> Path:
    """The path as one would type it here."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path
