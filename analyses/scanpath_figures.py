"""Figures of scanpaths: paths over their scene, where they dwell, how they go on, when they find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from neuroattn._checks import check_range
from neuroattn.analyses.scanpath_study import MEMORY_FULL, PEOPLE
from neuroattn.analyses.style import (
    INK,
    MARKERS,
    MODEL_COLOURS,
    MUTED,
    PAPER,
    RULE,
    WIDTH,
    finish_bar,
    styled,
)
from neuroattn.datasets import ObjectScene
from neuroattn.results import Scanpath

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Paths = Scanpath | Sequence[Scanpath] | Mapping[str, Sequence[Scanpath]]
"""One path, several, or several groups by name, each drawn in a panel of its own."""

N_NUMBERED = 3  # paths of a panel that are drawn with their order


@styled
def plot_scanpath(scene: ObjectScene, paths: Paths) -> Figure:
    """Draw scanpaths over their scene: order, durations, and groups side by side.

    Parameters
    ----------
    scene : ObjectScene
        Its image is shown if it has one, else the labels of its objects; its boxes always, the target's thicker.
    paths : Scanpath, sequence of Scanpath, or mapping of str to sequence of Scanpath
        Groups, say people and a model's samples, each get a panel. In a panel of up to three paths fixations are
        numbered from 1, an initial fixation is marked 0, the area of a disc grows with its duration, and fixations
        at the very same place, such as models' at the centres of objects, stand around it. More paths are drawn as
        thin lines. Fixations outside the image lie outside the frame and widen the panel.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If a path belongs to an image of another size, or there is none.

    Examples
    --------
    >>> scene = ObjectScene([[0, 0, 40, 30], [60, 10, 20, 20]], (100, 80))
    >>> path = Scanpath([50, 20, 70], [40, 15, 20], (100, 80), duration=[0.2, 0.3, 0.25])
    >>> [text.get_text() for text in plot_scanpath(scene, path).axes[0].texts]
    ['0', '1', '2']
    """
    groups = _groups(scene, paths)
    figure, panels = _panels(scene, list(groups))
    for axes, (name, some) in zip(panels, groups.items(), strict=True):
        _show_scene(axes, scene)
        if len(some) > N_NUMBERED:
            style: dict[str, Any] = {"color": MODEL_COLOURS[1], "alpha": max(0.05, min(0.6, 6 / len(some)))}
            for path in some:
                axes.plot(path.x, path.y, "-o", lw=1, ms=2.5, mew=0, zorder=3, **style)
        elif sum(map(len, some)):
            for i, (path, (x, y)) in enumerate(zip(some, _apart(scene, some), strict=True)):
                axes.plot(x, y, "-", color=MODEL_COLOURS[i], lw=1.6, zorder=3)
                axes.scatter(
                    x,
                    y,
                    _areas(path),
                    color=MODEL_COLOURS[i],
                    edgecolors=PAPER,
                    lw=0.8,
                    zorder=4,
                    clip_on=False,
                )
                start = int(path.first_fixation == "free")
                for number, at in enumerate(zip(x, y, strict=True), start=start):
                    axes.text(*at, str(number), color=PAPER, size=8, ha="center", va="center", zorder=5)
        if name:
            axes.set_title(name, loc="left")
        _frame(axes, scene, some)
    return figure


@styled
def plot_fixation_density(scene: ObjectScene, paths: Paths, *, sigma: float | None = None) -> Figure:
    """Draw where fixations fall, smoothed, over the scene.

    Parameters
    ----------
    scene : ObjectScene
    paths : Scanpath, sequence of Scanpath, or mapping of str to sequence of Scanpath
        Each group gets a panel; panels share their colours, which say how many times denser fixations are than if
        they were spread evenly. Initial fixations and those outside the image are left out.
    sigma : float, optional
        Standard deviation of the Gaussian in px. By default one degree where the scene says how many pixels that
        is, and else a twentieth of its diagonal.

    Returns
    -------
    Figure

    Examples
    --------
    >>> scene = ObjectScene([[0, 0, 40, 30]], (100, 80))
    >>> figure = plot_fixation_density(scene, Scanpath([50, 20], [40, 15], (100, 80)), sigma=8)
    >>> figure.axes[0].images[-1].get_array().argmax() == 15 * 100 + 20
    np.True_
    """
    if sigma is None:
        sigma = scene.px_per_degree or float(np.hypot(*scene.size)) / 20
    check_range("sigma", sigma, 0)
    groups = _groups(scene, paths)
    figure, panels = _panels(scene, list(groups))
    maps = {name: _density(scene, some, sigma) for name, some in groups.items()}
    limit = max(float(density.max()) for density in maps.values())
    drawn = None
    for axes, (name, density) in zip(panels, maps.items(), strict=True):
        _show_scene(axes, scene)
        drawn = axes.imshow(
            density,
            cmap="magma_r",
            vmin=0,
            vmax=limit or 1,
            alpha=np.clip(density / (limit or 1) * 1.6, 0, 0.85),
            extent=(0, scene.size[0], scene.size[1], 0),
            zorder=3,
        )
        if name:
            axes.set_title(name, loc="left")
        _frame(axes, scene, [])
    bar = figure.colorbar(drawn, ax=panels, shrink=0.7)  # type: ignore[arg-type]
    finish_bar(bar, f"Times uniform, σ {sigma:.0f} px")
    return figure


@styled
def plot_transitions(scene: ObjectScene, paths: Paths, *, at_least: float = 0.05) -> Figure:
    """Draw the graph of transitions between the objects of a scene.

    Parameters
    ----------
    scene : ObjectScene
    paths : Scanpath, sequence of Scanpath, or mapping of str to sequence of Scanpath
        With ``objects``. Each group gets a panel. A fixation of the background ends a transition.
    at_least : float, default 0.05
        Transitions rarer than this share of those that leave an object are not drawn.

    Returns
    -------
    Figure
        Discs: objects, their area by their share of the fixations. Arrows: from object to object, bent to the left
        of their direction, their width by the probability of going there next.

    Raises
    ------
    ValueError
        If a path has no objects.

    Examples
    --------
    >>> scene = ObjectScene([[0, 0, 40, 30], [60, 10, 20, 20]], (100, 80))
    >>> path = Scanpath([20, 70, 20], [15, 20, 15], (100, 80), objects=[0, 1, 0], first_fixation="free")
    >>> len(plot_transitions(scene, path).axes[0].patches)  # two boxes, two arrows
    4
    """
    from matplotlib.patches import FancyArrowPatch

    check_range("at_least", at_least, 0, 1)
    groups = _groups(scene, paths)
    figure, panels = _panels(scene, list(groups))
    for axes, (name, some) in zip(panels, groups.items(), strict=True):
        _show_scene(axes, scene)
        counts, visits = transition_counts(scene, some)
        leaving = counts.sum(1, keepdims=True)
        probability = np.divide(counts, leaving, out=np.zeros_like(counts), where=leaving > 0)
        for a, b in np.argwhere((probability >= at_least) & (counts > 0) & ~np.eye(len(counts), dtype=bool)):
            p = float(probability[a, b])
            arrow = FancyArrowPatch(
                (scene.x[a], scene.y[a]),
                (scene.x[b], scene.y[b]),
                connectionstyle="arc3,rad=0.15",
                arrowstyle="-|>,head_width=2.5,head_length=5",
                shrinkA=6,
                shrinkB=6,
                lw=0.4 + 3 * p,
                color=MODEL_COLOURS[1],
                alpha=0.35 + 0.6 * p,
                zorder=3,
            )
            axes.add_patch(arrow)
        share = visits / max(visits.sum(), 1)
        axes.scatter(
            scene.x, scene.y, 20 + 700 * share, color=MODEL_COLOURS[0], edgecolors=PAPER, lw=0.8, zorder=4
        )
        if name:
            axes.set_title(name, loc="left")
        _frame(axes, scene, [])
    return figure


@styled
def plot_found_curve(comparison: xr.Dataset) -> Figure:
    """Draw the share of searches that have found their target, by the number of saccades.

    Parameters
    ----------
    comparison : Dataset, dims (source, saccade) and bound
        Of :func:`compare_scanpath_models`: ``found`` and ``found_interval``. People are drawn in ink, the random
        search that never returns dotted, and the samples of models in their colours.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the comparison has no ``found``, because nothing was searched for.

    Examples
    --------
    >>> shares = [[[0.3, 0.5], [0.2, 0.3]]] * 2
    >>> comparison = xr.Dataset(
    ...     {"found": (("source", "saccade"), shares[0]), "found_interval": (("bound", "source", "saccade"), shares)},
    ...     {"source": ["people", "logit"], "saccade": [1, 2], "bound": ["low", "high"]})
    >>> [line.get_label() for line in plot_found_curve(comparison).axes[0].lines]
    ['people', 'logit']
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if "found" not in comparison:
        raise ValueError("comparison must have found, got none: its scenes have no targets")
    sources = [str(name) for name in comparison.source.values]
    known: dict[str, dict[str, Any]] = {
        PEOPLE: {"color": INK, "lw": 2},
        MEMORY_FULL: {"color": MUTED, "ls": ":"},
    }
    models = [name for name in sources if name not in known]
    figure = Figure(figsize=(WIDTH, 3.4))
    axes = figure.add_subplot()
    axes.tick_params(axis="y", labelcolor=MUTED)
    for name in sources:
        one = comparison.sel(source=name)
        i = models.index(name) if name in models else 0
        style = known.get(
            name, {"color": MODEL_COLOURS[i % len(MODEL_COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        )
        low, high = (one.found_interval.sel(bound=bound).values for bound in ("low", "high"))
        axes.fill_between(one.saccade.values, low, high, color=style["color"], alpha=0.15, lw=0)
        axes.plot(one.saccade.values, one.found.values, ms=4, mew=0, label=name, **style)
    axes.grid(axis="y")
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="Saccades", ylabel="Share that found the target")
    figure.legend(loc="outside upper left", ncols=2, handletextpad=0.4, columnspacing=1.2, borderaxespad=0)
    return figure


def transition_counts(
    scene: ObjectScene, paths: Sequence[Scanpath]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how often each object followed each other (from, to), and how often each was fixated.

    Examples
    --------
    >>> scene = ObjectScene([[0, 0, 40, 30], [60, 10, 20, 20]], (100, 80))
    >>> path = Scanpath([50, 20, 70], [40, 15, 20], (100, 80), objects=[-1, 0, 1])
    >>> transition_counts(scene, [path])[0].tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    counts = np.zeros((scene.n_objects, scene.n_objects))
    visits = np.zeros(scene.n_objects)
    for path in paths:
        if path.objects is None:
            raise ValueError("paths must have objects, got a path without: assign them to the scene first")
        chosen = path.objects[path.first_fixation == "initial" :]
        np.add.at(visits, chosen[chosen >= 0], 1)
        both = (chosen[:-1] >= 0) & (chosen[1:] >= 0)
        np.add.at(counts, (chosen[:-1][both], chosen[1:][both]), 1)
    return counts, visits


def _groups(scene: ObjectScene, paths: Paths) -> dict[str, list[Scanpath]]:
    """Return groups by name; the name of a single one is empty."""
    if isinstance(paths, Scanpath):
        groups = {"": [paths]}
    elif isinstance(paths, Mapping):
        groups = {str(name): list(some) for name, some in paths.items()}
    else:
        groups = {"": list(paths)}
    if not any(groups.values()):
        raise ValueError("paths must hold at least one scanpath, got none")
    for path in (path for some in groups.values() for path in some):
        if tuple(path.image_size) != scene.size:
            raise ValueError(
                f"paths must belong to an image of {scene.size} px, got one of {path.image_size}"
            )
    return groups


def _panels(scene: ObjectScene, names: list[str]) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    height = WIDTH * scene.size[1] / scene.size[0] + 0.3 * any(names)
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH * columns, min(height, 2 * WIDTH) * rows))
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in grid[len(names) :]:
        axes.remove()
    return figure, grid[: len(names)]


def _show_scene(axes: Axes, scene: ObjectScene) -> None:
    from matplotlib.patches import Rectangle

    width, height = scene.size
    if scene.image is not None:
        axes.imshow(scene.pixels(), extent=(0, width, height, 0), alpha=0.55, zorder=0)
    elif scene.labels is not None:
        for x, y, label in zip(*scene.boxes[:, :2].T, scene.labels, strict=True):
            axes.text(x, y, f" {label}", color=MUTED, size=7, va="top", zorder=2)
    for box, matches in zip(scene.boxes, scene.matches_target, strict=True):
        axes.add_patch(
            Rectangle(
                (box[0], box[1]),
                box[2],
                box[3],
                fill=False,
                ec=INK if matches else MUTED,
                lw=1.8 if matches else 0.7,
                zorder=2,
            )
        )


def _frame(axes: Axes, scene: ObjectScene, paths: Sequence[Scanpath]) -> None:
    width, height = scene.size
    x = np.concatenate([[0, width], *(path.x for path in paths)])
    y = np.concatenate([[0, height], *(path.y for path in paths)])
    axes.set(xlim=(x.min(), x.max()), ylim=(y.max(), y.min()), aspect="equal", xticks=[], yticks=[])
    axes.plot([0, width, width, 0, 0], [0, 0, height, height, 0], color=RULE, lw=0.9, zorder=1, clip_on=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _apart(scene: ObjectScene, paths: Sequence[Scanpath]) -> list[NDArray[np.float64]]:
    """Return where to draw the fixations of each path (side, fixation): those at one place on a ring around it."""
    places = np.concatenate([np.stack([path.x, path.y]) for path in paths], axis=1)
    _, group, size = np.unique(places, axis=1, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    number = np.empty(len(group), int)
    number[order] = np.arange(len(group)) - np.repeat(np.cumsum(size) - size, size)
    angle = 2 * np.pi * number / size[group] - np.pi / 2
    radius = np.where(size[group] > 1, 0.02 * np.hypot(*scene.size), 0)
    drawn = places + radius * np.stack([np.cos(angle), np.sin(angle)])
    return np.split(drawn, np.cumsum([len(path) for path in paths])[:-1], axis=1)


def _areas(path: Scanpath) -> NDArray[np.float64]:
    """Return the area of each fixation's disc in square points: 110 at a quarter of a second."""
    if path.duration is None:
        return np.full(len(path), 110.0)
    return np.clip(440 * path.duration, 50, 700)


def _density(scene: ObjectScene, paths: Sequence[Scanpath], sigma: float) -> NDArray[np.float64]:
    """Return the density of fixations, 1 where it is that of a uniform one, (row, column)."""
    width, height = scene.size
    counts = np.zeros((height, width))
    for path in paths:
        chosen = ~path.outside
        chosen[: path.first_fixation == "initial"] = False
        np.add.at(counts, (path.y[chosen].astype(int), path.x[chosen].astype(int)), 1)
    density: NDArray[np.float64] = gaussian_filter(counts / max(counts.mean(), 1e-12), sigma, mode="constant")
    return density
