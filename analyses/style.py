"""The style of all figures, and their SVG that follows the page's theme.

Panels are narrow, so that two stand side by side on a desktop and one fills a phone.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure

P = ParamSpec("P")

#: Colours by role: (in a figure and on a light page, on a dark page). Models take theirs by position.
THEME = {
    "paper": ("#fdfdfc", "#15181b"),
    "ink": ("#1b1f23", "#e7e9eb"),
    "muted": ("#626b74", "#9ba5af"),
    "rule": ("#dde1e5", "#343b42"),
    "model-0": ("#cf5400", "#f28a3e"),
    "model-1": ("#0868ac", "#56a9e8"),
    "model-2": ("#3d9ecf", "#9ad2f0"),
    "model-3": ("#0b8a66", "#43c79b"),
    "model-4": ("#b0578d", "#e09cc5"),
    "model-5": ("#8a6d00", "#e0bd45"),
    "model-6": ("#5a5f66", "#b9c0c7"),
}
MODEL_COLOURS = [light for role, (light, _) in THEME.items() if role.startswith("model-")]
MARKERS = "osDv^PX"
INK, MUTED, RULE, PAPER = (THEME[role][0] for role in ("ink", "muted", "rule", "paper"))
WIDTH = 4.4  # inches of a panel: its 9 and 10 points are 12 and 13 px on a desktop, 10 and 11 px on a phone
_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.linewidth": 0.7,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    # Names of regions come from files: they are text, never mathematics.
    "text.parse_math": False,
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the report's style and leave the caller's matplotlib settings alone."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


def to_svg(figure: Figure, label: str) -> str:
    """Return a figure as an inline SVG element whose colours follow the page.

    Parameters
    ----------
    figure : Figure
    label : str
        What the figure shows, for screen readers. Two figures of one page need two labels.

    Returns
    -------
    str
        One ``<svg>`` element without links, scripts or metadata. Text stays text; each colour of
        :data:`THEME` becomes the CSS variable of its role.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> figure = Figure()
    >>> _ = figure.text(0, 0, "V1", color=THEME["ink"][0])
    >>> svg = to_svg(figure, "one word")
    >>> svg.startswith("<svg"), "fill: var(--ink)" in svg
    (True, True)
    """
    import html

    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "text.parse_math": False}):
        figure.savefig(buffer, format="svg", transparent=True, dpi=160, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<g) id="[^"]*"', r"\1", svg)  # names such as axes_1 would repeat from figure to figure
    width = re.search(r'viewBox="0 0 ([\d.]+)', svg)
    pixels = round(float(width.group(1)) * 4 / 3) if width else 0
    opening = f'<svg class="chart" role="img" aria-label="{html.escape(label)}" style="width: {pixels}px"'
    svg = re.sub(r"<svg\b(?=[^>]*>)", opening, svg, count=1)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    for role, (light, _) in THEME.items():
        svg = svg.replace(light, f"var(--{role})")
    return svg


def label_rows(axes: Axes, names: list[str]) -> None:
    """Name the rows of a panel, the first on top."""
    axes.set_yticks(range(len(names)), [shortened(name, 20) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def shortened(name: str, length: int) -> str:
    """Cut a name from a file, of any length; the tables give it in full.

    Examples
    --------
    >>> shortened("parahippocampal", 8)
    'parahip…'
    """
    return name if len(name) <= length else f"{name[: length - 1]}…"


def finish_bar(bar: Colorbar, label: str) -> None:
    """Label a colour bar, thin and without a frame."""
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, labelsize=8.5)
    bar.set_label(label, size=9)
