"""How a figure leaves matplotlib: as SVG, PNG and PDF for files (light, plain colours), and as SVG inside the page.

The page's SVG has the page's own colours, so that they change with a dark page and on paper.
"""

import multiprocessing
import re
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from multiprocessing.connection import Connection
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from . import style

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Drawn:
    """The content of a figure's files. ``pdf``: None: there is no such file."""

    svg: bytes
    png: bytes
    pdf: bytes | None = None

    @property
    def files(self) -> dict[str, bytes]:
        """Ending -> content."""
        files = {"svg": self.svg, "png": self.png, "pdf": self.pdf}
        return {ending: content for ending, content in files.items() if content is not None}


def render(draw: Callable[[], Figure], *, pdf: bool = False) -> Drawn:
    """Call ``draw`` in the report's style and render its figure, laid out once for all formats.

    ``Figure.savefig`` would draw everything twice for each format.
    """
    # matplotlib reads its settings at every call, so the style holds until the figure is rendered.
    with mpl.rc_context(style.MATPLOTLIB), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's own fonts may have it
        figure = draw()
        canvas, picture, markup = FigureCanvasAgg(figure), BytesIO(), StringIO()
        figure.set_dpi(144)
        canvas.draw()
        Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(
            picture, "png", compress_level=4
        )  # as in events.py
        figure.set_layout_engine("none")  # keep the layout that the PNG has
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_svg(markup, metadata=metadata)
        return Drawn(markup.getvalue().encode(), picture.getvalue(), _pdf(figure) if pdf else None)


def render_all(draws: Sequence[Callable[[], Figure]], *, pdf: bool = False, processes: int = 1) -> list[Drawn]:
    """``render`` of each, in order, by this process and forked ones.

    Drawing is nearly all of a report's time. A fork has matplotlib imported and the data at hand.
    """
    processes = (
        min(processes, len(draws) // 2) if sys.platform == "linux" else 1
    )  # other systems' libraries mind a fork
    forks = [_Fork(draws[k::processes], pdf=pdf) for k in range(1, processes)]
    try:
        shares = [[render(draw, pdf=pdf) for draw in draws[:: max(1, processes)]], *(fork.drawn() for fork in forks)]
    finally:
        for fork in forks:
            fork.end()
    return [shares[i % len(shares)][i // len(shares)] for i in range(len(draws))]


class _Fork:
    """A process that renders a share of the figures. It ends after the last one, or when this process is gone."""

    def __init__(self, draws: Sequence[Callable[[], Figure]], *, pdf: bool) -> None:
        context = multiprocessing.get_context("fork")
        self._link, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_drawn_in_fork, args=(draws, pdf, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def drawn(self) -> list[Drawn]:
        """Wait for its figures.

        Raises:
            Exception: what it raised.
            RuntimeError: it was killed.
        """
        try:
            result = self._link.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"a process that drew figures ended with {self._process.exitcode}") from None
        if isinstance(result, BaseException):
            raise result
        return result

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._link.close()


def _drawn_in_fork(draws: Sequence[Callable[[], Figure]], pdf: bool, link: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that the user started, which ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        link.send([render(draw, pdf=pdf) for draw in draws])
    except BrokenPipeError:  # that process is gone
        pass
    except Exception as error:  # raised there
        link.send(error)


def _pdf(figure: Figure) -> bytes:
    """One vector page as large as the figure, without the time of its making."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf  # imports fontTools

    page = BytesIO()
    FigureCanvasPdf(figure).print_pdf(page, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return page.getvalue()


def for_page(svg: bytes, name: str, alt: str) -> str:
    """The figure as a part of a page: in the page's colours and letters, every id prefixed by ``name``."""
    ET.register_namespace("", _SVG)
    root = ET.fromstring(svg)
    for parent in root.iter():
        for child in [child for child in parent if child.tag == f"{{{_SVG}}}metadata"]:
            parent.remove(child)
    used = {
        reference
        for element in root.iter()
        for value in element.attrib.values()
        for reference in re.findall(r"#([\w-]+)\)?", value)
    }
    for element in root.iter():
        element.tail = None if element.tail is None or not element.tail.strip() else element.tail
        identifier = element.attrib.pop("id", None)
        if identifier is not None and identifier in used:
            element.set("id", f"{name}-{identifier}")
        link = element.attrib.pop(f"{{{_XLINK}}}href", None)
        if link is not None:
            element.set("href", f"#{name}-{link[1:]}" if link.startswith("#") else link)
        if clip := element.get("clip-path"):
            element.set("clip-path", clip.replace("url(#", f"url(#{name}-"))
        if css := element.get("style"):
            css = re.sub(r"#[0-9a-f]{6}", lambda match: _variable(match[0]), css)
            element.set("style", re.sub(r"'DejaVu Sans'(, [^;]*)?", "var(--sans)", css))
    root.attrib = {"viewBox": root.get("viewBox", ""), "role": "img", "aria-label": alt}
    return ET.tostring(root, encoding="unicode")


def _variable(colour: str) -> str:
    return f"var({style.VARIABLES[colour]})" if colour in style.VARIABLES else colour
