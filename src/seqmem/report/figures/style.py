"""How every figure looks: sizes, letters and colours.

Colours: Okabe & Ito (2008), "Color Universal Design": they can be told apart with every kind of colour vision. Markers
differ too, so that nothing depends on colour alone.
"""

from typing import Any

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5a5a5a")
"""One for each label; a label has the same colour in every figure of a report."""

MARKERS = "osD^vPX"

INK, QUIET, RULE, PAPER = "#1c2127", "#5d6670", "#d9dde2", "#ffffff"

SHADES = ("#9ecae1", "#6baed6", "#3182bd", "#08519c", "#08306b")
"""From short to long sequences, where lengths share a panel."""

VARIABLES = {
    INK: "--ink", QUIET: "--quiet", RULE: "--rule", PAPER: "--paper",
    **{colour: f"--c{at}" for at, colour in enumerate(COLOURS)},
    **{colour: f"--s{at}" for at, colour in enumerate(SHADES)},
}  # fmt: skip
"""Colour -> the page's variable for it (style.css)."""

WIDTH = 500
"""Points; the width of a figure with one panel. Letters are 10.5 points high, so they stay readable on a phone."""

WIDE = 700
"""Points; the width of a figure with several panels."""

LABELS_AT_MOST = len(COLOURS)
"""Labels in one figure: as many as have a colour of their own."""

MATPLOTLIB: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10.5,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.unicode_minus": True,
    "figure.dpi": 72,
    "figure.facecolor": PAPER,
    "font.family": ["DejaVu Sans"],
    "font.size": 10.5,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.fontsize": 10.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "path.simplify": False,
    "pdf.fonttype": 42,  # TrueType: journals refuse matplotlib's own kind, Type 3
    "svg.fonttype": "none",
    "svg.hashsalt": "seqmem",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.color": QUIET,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9.5,
}
"""matplotlib's settings (rcParams)."""


def paint(number: int) -> tuple[str, str]:
    """Colour and marker of the label with this number."""
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def shade(at: int, count: int) -> str:
    """The shade of one of ``count`` lengths, the shortest first."""
    return SHADES[round(at * (len(SHADES) - 1) / (count - 1))] if count > 1 else SHADES[2]
