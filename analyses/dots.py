"""Rows of dots with intervals: the figure that most comparisons by region need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from neuroattn.analyses.style import MARKERS, MODEL_COLOURS, MUTED, PAPER, RULE, label_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Dots(NamedTuple):
    """One value a row.

    Parameters
    ----------
    label : str
    value : DataArray, one dimension
    interval : DataArray, that dimension and ``bound``, optional
    colour : int, optional
        Position in the report's colours, which also chooses the marker; None draws a grey bar across the row instead.
    filled : bool
        Controls are drawn open.
    """

    label: str
    value: xr.DataArray
    interval: xr.DataArray | None
    colour: int | None
    filled: bool = True


def draw_dots(axes: Axes, names: Sequence[str], series: Sequence[Dots], *, chance: float = 0.0) -> None:
    """Draw several values for each row, one below the other.

    Parameters
    ----------
    axes : Axes
    names : sequence of str
        Of the rows.
    series : sequence of Dots
    chance : float, default 0
        Marked by a line.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> axes = Figure().add_subplot()
    >>> draw_dots(axes, ["V1", "FFA"], [Dots("r", xr.DataArray([0.2, 0.4]), None, 0)])
    >>> [text.get_text() for text in axes.get_yticklabels()]
    ['V1', 'FFA']
    """
    rows = np.arange(len(names))
    for row in rows[1::2]:
        axes.axhspan(row - 0.5, row + 0.5, color=RULE, alpha=0.35, lw=0)
    n_dots = sum(one.colour is not None for one in series)
    place = -(n_dots - 1) / 2
    for one in series:
        if one.colour is None:
            axes.vlines(one.value.values, rows - 0.4, rows + 0.4, color=MUTED, lw=2, label=one.label)
            continue
        y = rows + place * 0.8 / max(n_dots, 3)
        place += 1
        colour, marker = MODEL_COLOURS[one.colour % len(MODEL_COLOURS)], MARKERS[one.colour % len(MARKERS)]
        if one.interval is not None:
            low, high = one.interval.transpose("bound", ...).values
            axes.hlines(y, low, high, color=colour, lw=1.4)
        face = colour if one.filled else PAPER
        axes.plot(one.value.values, y, marker, color=colour, mfc=face, ms=5, mew=1, label=one.label)
    axes.axvline(chance, color=MUTED, lw=0.7)
    label_rows(axes, list(names))
