"""The gradient of a model that is no run, by timesteps back from the answer: a line for each of its layers."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy import ndarray

from ..wording import clean
from . import style
from .axes import new_figure, power_of_ten
from .marks import legend


def draw(profiles: Mapping[str, ndarray]) -> Figure:
    """``profiles``: path -> a ``decay.profile``; at most ``style.LABELS_AT_MOST``."""
    figure, ((axes,),) = new_figure(style.WIDE, 260)
    for number, values in enumerate(profiles.values()):
        colour, _ = style.paint(number)
        back = values[::-1]
        axes.plot(np.arange(1, len(back) + 1), np.where(np.isfinite(back), back, np.nan), color=colour, lw=1.8)
    axes.set_xlabel("timesteps back from the answer")
    axes.set_ylabel("gradient, of that one step back")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(power_of_ten))
    low, high = axes.get_ylim()
    axes.set_ylim(max(min(low, -3.3), -30.3), min(max(high, 0.3), 4.3))
    legend(figure, [(clean(path, 60), number) for number, path in enumerate(profiles)])
    return figure
