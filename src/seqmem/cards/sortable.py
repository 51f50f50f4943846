"""Many cards on one page whose columns sort: one HTML file that needs nothing else, and runs no other script."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import isnan
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..report import page
from ..report.wording import clean
from .page import ABOUT, cards_beside


def sortable(contents: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The page. Names are the user's: everything but our own style and script goes through the template's escaping.

    Args:
        contents: as for ``cards_beside``.
    """
    here = Path(__file__)
    heads, cards = cards_beside(contents)
    program = here.with_name("sortable.js").read_text()
    rows = [
        {
            "file": file,
            "cells": [{"text": clean(cell.text), "at": _number(float(cell.at))} for cell in cells],
        }
        for file, cells in cards
    ]
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(here.with_name("sortable.html").read_text()).render(
        about=[ABOUT[0], " ".join(ABOUT[1:])],
        heads=[clean(head) for head in heads],
        rows=rows,
        style=Markup(Path(page.__file__).with_name("style.css").read_text()),
        program=Markup(program),
        allowed=f"sha256-{b64encode(sha256(program.encode()).digest()).decode()}",
    )


def _number(value: float) -> str:
    """As JavaScript reads it; what is not known is below all others."""
    return "-Infinity" if isnan(value) else str(value).replace("inf", "Infinity")
