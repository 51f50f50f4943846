"""docs/architecture.svg from the imports: what seqmem consists of, and what is built on what.

    .venv/bin/python scripts/architecture.py            writes the picture
    .venv/bin/python scripts/architecture.py --check    exit code 1 if it is not up to date; a test does the same

A box is a module or a folder of src/seqmem, of the command line one of its parts. It stands above everything that it
imports, right below what imports it. A line leads down to what it imports directly; lines that others imply are left
out. Imports inside functions count. Blue: torch is never imported, neither there nor below.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE, PICTURE = ROOT / "src" / "seqmem", ROOT / "docs" / "architecture.svg"
BOX, HEIGHT, GAP, FLOOR, MARGIN, COLUMNS = 112, 30, 24, 72, 20, 7

Graph = Mapping[str, set[str]]


def box_of(module: tuple[str, ...]) -> str:
    """``cells`` for ("cells", "lstm"); ``cli/verbs`` for ("cli", "verbs", "train")."""
    return "/".join(module[: 2 if module[0] == "cli" else 1])


def imported(path: Path) -> Iterator[tuple[str, ...]]:
    """("torch", ...) or ("seqmem", "cells", "lstm"): every name that the file imports."""
    package = ("seqmem", *path.relative_to(SOURCE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = (*start, *(node.module.split(".") if node.module else ()))
            yield from ((*base, alias.name) for alias in node.names)


def read() -> tuple[Graph, set[str]]:
    """(box -> the boxes that it imports; the boxes that import torch themselves)"""
    below: dict[str, set[str]] = {}
    torch = set()
    for path in sorted(SOURCE.rglob("*.py")):
        module = path.relative_to(SOURCE).with_suffix("").parts
        module = module[:-1] if module[-1] == "__init__" else module
        if not module or module == ("__main__",) or module == ("cli",):
            continue
        box = box_of(module)
        names = below.setdefault(box, set())
        for name in imported(path):
            if name[0] == "seqmem" and len(name) > 1:
                names.add(box_of(name[1:]))
            elif name[0] == "torch":
                torch.add(box)
    return {box: {name for name in names if name in below} - {box} for box, names in below.items()}, torch


def picture(graph: Graph, torch: set[str]) -> str:
    """The graph, which has no circle, as SVG."""

    @cache
    def all_below(box: str) -> frozenset[str]:
        return frozenset(graph[box]).union(*map(all_below, graph[box]))

    users = {box: {one for one in graph if box in graph[one]} for box in graph}

    @cache
    def floor(box: str) -> int:
        """Counted from the top: right below the lowest box that imports it."""
        return 1 + max(map(floor, users[box]), default=-1)

    floors = [sorted(box for box in graph if floor(box) == at) for at in range(max(map(floor, graph)) + 1)]
    width = 2 * MARGIN + COLUMNS * (BOX + GAP) - GAP
    height = 2 * MARGIN + (len(floors) - 1) * FLOOR + HEIGHT
    place: dict[str, tuple[float, float]] = {}
    for at, boxes in enumerate(floors):
        # Each as near as possible below the middle of its users, from left to right without overlaps.
        wanted = {box: _middle([place[one][0] for one in users[box]], (width - BOX) / 2) for box in boxes}
        left = MARGIN
        row = sorted(boxes, key=lambda box, wanted=wanted: (wanted[box], box))
        for i, box in enumerate(row):
            last = width - MARGIN - BOX - (len(row) - 1 - i) * (BOX + GAP)
            place[box] = (min(max(left, wanted[box]), last), MARGIN + at * FLOOR)
            left = place[box][0] + BOX + GAP
    first, last = min(x for x, _ in place.values()), max(x for x, _ in place.values())
    place = {box: (x - first + MARGIN, y) for box, (x, y) in place.items()}
    width = last - first + BOX + 2 * MARGIN
    lines, shapes = [], []
    for box in sorted(graph):
        x, y = place[box]
        implied = set().union(*map(all_below, graph[box])) if graph[box] else set()
        for other in sorted(graph[box] - implied):
            to_x, to_y = place[other]
            bend = f"{x + BOX / 2:g} {y + HEIGHT + 34:g} {to_x + BOX / 2:g} {to_y - 34:g}"
            lines.append(f'<path d="M{x + BOX / 2:g} {y + HEIGHT:g}C{bend} {to_x + BOX / 2:g} {to_y:g}"/>')
        free = not torch & {box, *all_below(box)}
        shapes.append(f'<rect x="{x:g}" y="{y:g}" width="{BOX}" height="{HEIGHT}" rx="5"{FREE if free else ""}/>')
        shapes.append(f'<text x="{x + BOX / 2:g}" y="{y + 20:g}">{box}</text>')
    return TEMPLATE.format(width=f"{width:g}", height=height, lines="\n".join(lines), shapes="\n".join(shapes))


def _middle(values: list[float], otherwise: float) -> float:
    return round(sum(values) / len(values), 1) if values else otherwise


FREE = ' fill="#d8e8fb"'
TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>What seqmem is built of: each part stands above all that it imports. Blue: without torch.</title>
<rect width="100%" height="100%" fill="#fff"/>
<g fill="none" stroke="#8a94a3" stroke-opacity=".7">
{lines}
</g>
<g fill="#f1f2f4" stroke="#59636e" font-family="sans-serif" font-size="13">
<style>text {{ text-anchor: middle; fill: #1f2328; stroke: none }}</style>
{shapes}
</g>
</svg>
"""


def main() -> int:
    drawn = picture(*read())
    if sys.argv[1:] == ["--check"]:
        return int(PICTURE.read_text() != drawn)
    PICTURE.write_text(drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
