"""Figures of an encoder's results, drawn from labelled arrays.

Every function returns a :class:`matplotlib.figure.Figure` that can be saved for a paper as it is.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn._checks import check_option
from neuroattn.analyses.style import (
    INK,
    MARKERS,
    MODEL_COLOURS,
    MUTED,
    PAPER,
    RULE,
    WIDTH,
    finish_bar,
    label_rows,
    shortened,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCORE_LABELS = {
    "correlation": "Correlation r",
    "r2_over_ceiling": "r² / noise ceiling",
}
_LABELS = SCORE_LABELS | {"similarity": "Similarity of geometries"}


@styled
def plot_roi_scores(roi_scores: xr.Dataset, score: str = "correlation") -> Figure:
    """Draw one score of every model in every region as dots with their intervals.

    Parameters
    ----------
    roi_scores : Dataset, dims (model, roi, bound)
        With ``n_units`` (roi), ``<score>`` (model, roi) and ``<score>_ci`` (model, roi, bound);
        ``<score>_shuffled`` or ``<score>_null`` (model, roi) is marked where present. A region without a finite
        score says why: it has no units, or none with a usable ceiling.
    score : {"correlation", "r2_over_ceiling", "similarity"}

    Returns
    -------
    Figure

    Examples
    --------
    >>> scores = xr.Dataset(
    ...     {"correlation": (("model", "roi"), [[0.4, 0.5]]),
    ...      "correlation_ci": (("model", "roi", "bound"), [[[0.3, 0.5], [0.4, 0.6]]]),
    ...      "n_units": ("roi", [30, 20])},
    ...     {"model": ["ridge"], "roi": ["V1", "FFA"]})
    >>> [text.get_text() for text in plot_roi_scores(scores).axes[0].get_yticklabels()]
    ['V1', 'FFA']
    """
    from matplotlib.figure import Figure

    check_option("score", score, _LABELS)
    models, rois = roi_scores.model.values, roi_scores.roi.values
    step = 0.8 / max(len(models), 3)
    row_height = max(0.34, 0.095 * len(models))
    columns = 3 if max(len(str(model)) for model in models) <= 16 else 2
    figure = Figure(figsize=(WIDTH, 0.95 + row_height * len(rois) + 0.2 * -(-len(models) // columns)))
    axes = figure.add_subplot()
    centre = np.arange(len(rois))
    for row in centre[1::2]:
        axes.axhspan(row - 0.5, row + 0.5, color=RULE, alpha=0.35, lw=0)
    marks = {f"{score}_shuffled": "shuffled images", f"{score}_null": "null, 95 %"}
    for i, model in enumerate(models):
        y = centre + (i - (len(models) - 1) / 2) * step
        table = roi_scores.sel(model=model)
        value = table[score].values
        low, high = table[f"{score}_ci"].transpose("bound", "roi").values
        colour, marker = MODEL_COLOURS[i % len(MODEL_COLOURS)], MARKERS[i % len(MARKERS)]
        axes.hlines(y, low, high, color=colour, lw=1.4)
        axes.plot(value, y, marker, color=colour, ms=5, mew=0, label=str(model))
        for mark in marks.keys() & set(table):
            axes.plot(table[mark].values, y, "|", color=colour, ms=5, mew=1)
    for mark in marks.keys() & set(roi_scores):
        axes.plot([], [], "|", color=MUTED, ms=6, mew=1, label=marks[mark])
    axes.axvline(0, color=MUTED, lw=0.7)
    label_rows(axes, [str(roi) for roi in rois])
    for row in np.flatnonzero(~np.isfinite(roi_scores[score].transpose("model", "roi").values).any(0)):
        reason = "no units" if roi_scores.n_units.values[row] == 0 else "no usable ceiling"
        axes.annotate(reason, (0, row), (6, 0), textcoords="offset points", va="center", color=MUTED, size=9)
    axes.set_xlabel(_LABELS[score])
    figure.legend(
        loc="outside upper left", ncols=columns, handletextpad=0.2, columnspacing=1.2, borderaxespad=0
    )
    return figure


@styled
def plot_representations(result: xr.Dataset) -> Figure:
    """Draw how alike the geometry of every model and of every region is, with noise ceilings as grey bars.

    Parameters
    ----------
    result : Dataset
        Of :func:`neuroattn.analyses.representational_similarity`. Ticks mark the confidence point of the null.

    Returns
    -------
    Figure

    Examples
    --------
    >>> result = xr.Dataset(
    ...     {"mean": (("model", "roi"), [[0.4]]), "interval": (("model", "roi", "bound"), [[[0.3, 0.5]]]),
    ...      "null": (("model", "roi"), [[0.1]]), "ceiling_lower": ("roi", [0.6]), "ceiling_upper": ("roi", [0.7])},
    ...     {"model": ["DINOv2"], "roi": ["FFA"]})
    >>> plot_representations(result).axes[0].get_xlabel()
    'Similarity of geometries'
    """
    names = {"mean": "similarity", "interval": "similarity_ci", "null": "similarity_null"}
    scores = result.rename(names | ({"similarity": "by_subject"} if "similarity" in result else {}))
    figure = plot_roi_scores(scores.assign(n_units=xr.ones_like(result.ceiling_lower)), "similarity")
    axes = figure.axes[0]
    low, high = result.ceiling_lower.values, result.ceiling_upper.values
    axes.barh(np.arange(len(low)), high - low, 0.8, low, color=MUTED, alpha=0.35, lw=0, zorder=0)
    return figure


@styled
def plot_differences(roi_scores: xr.Dataset, model: str) -> Figure:
    """Draw how much better a model predicts each region than the best baseline, sorted.

    Parameters
    ----------
    roi_scores : Dataset, dims (model, roi, bound)
        With ``difference`` (model, roi), ``difference_ci`` (model, roi, bound) and ``best_baseline`` (roi).
        Regions without a finite difference are left out.
    model : str

    Returns
    -------
    Figure

    Examples
    --------
    >>> scores = xr.Dataset(
    ...     {"difference": (("model", "roi"), [[-0.02, 0.1]]),
    ...      "difference_ci": (("model", "roi", "bound"), [[[-0.05, 0.01], [0.05, 0.15]]]),
    ...      "best_baseline": ("roi", ["ridge", "ridge"])},
    ...     {"model": ["attention"], "roi": ["V1", "FFA"]})
    >>> figure = plot_differences(scores, "attention")
    >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
    ['FFA', 'V1']
    """
    from matplotlib.figure import Figure

    table = roi_scores.sel(model=model)
    table = table.isel(roi=np.flatnonzero(np.isfinite(table.difference.values)))
    # "all" is a mean over the others: it stands above them, whatever its rank.
    order = np.lexsort((-table.difference.values, table.roi.values != "all"))
    table = table.isel(roi=order)
    value = table.difference.values
    low, high = table.difference_ci.transpose("bound", "roi").values
    figure = Figure(figsize=(WIDTH, 0.8 + 0.3 * max(len(value), 1)))
    axes = figure.add_subplot()
    models = [str(name) for name in roi_scores.model.values]
    for row, baseline in enumerate(table.best_baseline.values):
        winner = model if low[row] > 0 else str(baseline) if high[row] < 0 else None
        colour = MUTED if winner is None else MODEL_COLOURS[models.index(winner) % len(MODEL_COLOURS)]
        axes.hlines(row, low[row], high[row], color=colour, lw=1.6)
        face = PAPER if winner is None else colour
        axes.plot(value[row], row, "o", color=colour, mfc=face, ms=5.5, mew=1.3)
    axes.axvline(0, color=INK, lw=0.8)
    label_rows(axes, [str(roi) for roi in table.roi.values])
    for row, name in enumerate(table.best_baseline.values):
        axes.annotate(
            f"vs {name}", (1, row), (5, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", size=8.5, color=MUTED, annotation_clip=False,
        )  # fmt: skip
    axes.set_xlabel(
        f"r of {model} − r of the best baseline" if len(model) <= 16 else f"r of {model} − best baseline"
    )
    return figure


@styled
def plot_surfaces(
    values: xr.DataArray, *, label: str, diverging: bool = False, limit: float | None = None
) -> Figure:
    """Paint values of vertices on the inflated fsaverage5 surfaces, six views.

    Parameters
    ----------
    values : DataArray, dims (unit)
        With coordinates ``hemisphere`` and ``vertex_index`` into fsaverage5 or fsaverage, whose first 10,242
        vertices are those of fsaverage5. Units elsewhere are left out; bare cortex shows its sulci in grey.
    label : str
        Of the colour bar.
    diverging : bool, default False
        Colours centred on zero instead of starting there.
    limit : float, optional
        Value of the last colour; the 98th percentile of the absolute values if None.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If no unit lies on the mesh.

    Examples
    --------
    >>> values = xr.DataArray([0.2, 0.4], dims="unit", coords={
    ...     "hemisphere": ("unit", ["left", "right"]), "vertex_index": ("unit", [0, 7])})
    >>> len(plot_surfaces(values, label="r").axes)  # six views and a colour bar
    7
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from nilearn.datasets import load_fsaverage, load_fsaverage_data
    from nilearn.plotting import plot_surf

    meshes = load_fsaverage("fsaverage5")["inflated"]
    sulci = load_fsaverage_data(mesh="fsaverage5", data_type="sulcal").data
    shown = on_surface(values)
    if not shown.any():
        raise ValueError("values must have units on fsaverage5 (vertex_index 0..10241), got none")
    if limit is None:
        limit = float(np.nanpercentile(np.abs(values.values[shown]), 98)) or 1.0
    cmap = colormaps["PuOr_r" if diverging else "viridis"]
    norm = Normalize(-limit if diverging else 0, limit)
    figure = Figure(figsize=(WIDTH, 3.0))
    # A free layout: three-dimensional axes have wide margins, which overlapping boxes hide.
    figure.set_layout_engine("none")
    for row, side in enumerate(("left", "right")):
        painted = np.full(len(sulci.parts[side]), np.nan)
        here = shown & (values.hemisphere.values == side)
        painted[values.vertex_index.values[here]] = values.values[here]
        for column, view in enumerate(("lateral", "medial", "ventral")):
            box = (0.01 + 0.315 * column, 0.465 - 0.345 * row, 0.365, 0.57)
            axes = figure.add_axes(box, projection="3d")
            with warnings.catch_warnings():  # a face with no painted corner has no mean, as intended
                warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
                plot_surf(
                    surf_mesh=meshes.parts[side], surf_map=painted, hemi=side, view=view, engine="matplotlib",
                    bg_map=np.where(sulci.parts[side] > 0, 0.42, 0.28), avg_method="nanmean", colorbar=False,
                    cmap=cmap, vmin=norm.vmin, vmax=norm.vmax, axes=axes, figure=figure,
                )  # fmt: skip
            axes.patch.set_visible(False)
            axes.collections[0].set_rasterized(True)
            if row == 0:
                figure.text(0.195 + 0.315 * column, 0.99, view, ha="center", va="top", size=9, color=MUTED)
        figure.text(0.0, 0.75 - 0.345 * row, side, rotation=90, ha="left", va="center", size=9, color=MUTED)
    place = figure.add_axes((0.31, 0.155, 0.4, 0.025))
    bar = figure.colorbar(ScalarMappable(norm, cmap), cax=place, orientation="horizontal")
    finish_bar(bar, label)
    return figure


def on_surface(values: xr.DataArray | xr.Dataset) -> NDArray[np.bool_]:
    """Return which units (vertices of fsaverage or fsaverage5) lie on the fsaverage5 surface, shape (unit,).

    Examples
    --------
    >>> on_surface(xr.Dataset(coords={
    ...     "hemisphere": ("unit", ["left", "left", "none"]), "vertex_index": ("unit", [5, 20000, 5])}))
    array([ True, False, False])
    """
    index = values.vertex_index.values
    placed: NDArray[np.bool_] = (index >= 0) & (index < 10242) & (values.hemisphere.values != "none")
    return placed


@styled
def plot_unit_scores(correlation: xr.DataArray, noise_ceiling: xr.DataArray | None = None) -> Figure:
    """Draw r of every unit: against the highest r that its noise allows, or as a distribution.

    Parameters
    ----------
    correlation : DataArray, dims (model, unit)
    noise_ceiling : DataArray, dims (unit), optional
        On the r^2 scale; without a finite value the distribution over units is drawn.

    Returns
    -------
    Figure

    Examples
    --------
    >>> r = xr.DataArray([[0.2, 0.4]], dims=("model", "unit"), coords={"model": ["ridge"]})
    >>> plot_unit_scores(r, xr.DataArray([0.5, 0.6], dims="unit")).axes[0].get_xlabel()
    'Highest possible r, √(noise ceiling)'
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.3))
    axes = figure.add_subplot()
    axes.spines["left"].set_visible(True)
    axes.tick_params(axis="y", labelcolor=MUTED)
    ceiling = None if noise_ceiling is None else np.sqrt(np.clip(noise_ceiling.values, 0, None))
    for i, model in enumerate(correlation.model.values):
        r = correlation.sel(model=model).values
        colour = MODEL_COLOURS[i % len(MODEL_COLOURS)]
        if ceiling is not None and np.isfinite(ceiling).any():
            axes.plot(
                ceiling, r, MARKERS[i % len(MARKERS)], color=colour, ms=3.2, mew=0, alpha=0.6,
                label=str(model), rasterized=len(r) > 2000,
            )  # fmt: skip
        else:
            axes.hist(
                r[np.isfinite(r)], bins=np.linspace(-1, 1, 41).tolist(), histtype="step", color=colour,
                lw=1.4, label=str(model),
            )  # fmt: skip
    if ceiling is not None and np.isfinite(ceiling).any():
        axes.plot([0, 1], [0, 1], color=MUTED, lw=0.8)
        axes.axhline(0, color=RULE, lw=0.8)
        axes.set(xlabel="Highest possible r, √(noise ceiling)", ylabel="Correlation r", xlim=(0, 1))
    else:
        finite = correlation.values[np.isfinite(correlation.values)]
        if len(finite):
            axes.set_xlim(np.floor(finite.min() * 20) / 20, np.ceil(finite.max() * 20) / 20)
        axes.set(xlabel="Correlation r", ylabel="Units")
    figure.legend(loc="outside upper left", ncols=3, handletextpad=0.2, columnspacing=1.2, borderaxespad=0)
    return figure


@styled
def plot_attention(
    attention: xr.DataArray,
    *,
    images: NDArray[np.uint8] | None = None,
    outlines: NDArray[np.bool_] | None = None,
    notes: list[str] | None = None,
    limit: float | None = None,
) -> Figure:
    """Lay the attention of several queries over images.

    Parameters
    ----------
    attention : DataArray, dims (seed, stimulus, query, y, x)
        Weights that sum to one over (y, x); their mean over seeds is drawn, as a multiple of uniform
        attention.
        Coordinates ``roi`` and ``hemisphere`` along ``query`` are the titles.
    images : uint8 array, shape (stimulus, y, x, 3), optional
        Without them the maps stand alone.
    outlines : bool array, shape (stimulus, query, y, x), optional
        Objects to outline.
    notes : list of str, one a query, optional
        A second line of each title.
    limit : float, optional
        Multiple of uniform attention at the last colour; the 99.5th percentile of the maps if None.

    Returns
    -------
    Figure

    Examples
    --------
    >>> weights = xr.DataArray(np.full((2, 1, 1, 4, 4), 1 / 16), dims=("seed", "stimulus", "query", "y", "x"),
    ...     coords={"roi": ("query", ["FFA"]), "hemisphere": ("query", ["left"])})
    >>> figure = plot_attention(weights, images=np.zeros((1, 8, 8, 3), np.uint8))
    >>> figure.axes[1].get_title()
    'FFA left'
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.figure import Figure

    maps = relative_attention(attention)
    n_stimuli, n_queries = maps.shape[:2]
    if limit is None:
        limit = attention_limit(attention)
    first = 0 if images is None else 1
    columns = n_queries + first
    height, width = maps.shape[2:] if images is None else images.shape[1:3]
    tile = WIDTH / columns
    figure = Figure(figsize=(WIDTH, n_stimuli * tile * height / width + 0.95))
    grid = figure.subplots(n_stimuli, columns, squeeze=False)
    cmap = colormaps["YlOrRd"] if images is not None else colormaps["viridis"]
    extent = (0.0, 1.0, 1.0, 0.0)
    titles = query_names(attention)
    for row in range(n_stimuli):
        if images is not None:
            grid[row, 0].imshow(images[row], extent=extent, aspect="auto")
        for column in range(n_queries):
            axes = grid[row, column + first]
            weight = maps[row, column]
            if images is None:
                axes.imshow(weight, extent=extent, aspect="auto", cmap=cmap, vmin=0, vmax=limit)
            else:
                _overlay(axes, weight, images[row], limit)
            if outlines is not None and outlines[row, column].any():
                mask = np.pad(outlines[row, column].astype(float), 1)
                ny, nx = outlines.shape[2:]
                x, y = (np.arange(nx + 2) - 0.5) / nx, (np.arange(ny + 2) - 0.5) / ny
                axes.contour(x, y, mask, [0.5], colors="#00303a", linewidths=2.0)
                axes.contour(x, y, mask, [0.5], colors="#35e0ff", linewidths=1.0)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(1, 0))
        axes.spines[:].set_visible(False)
    for column, title in enumerate(titles):
        note = "" if notes is None else f"\n{notes[column]}"
        grid[0, column + first].set_title(f"{shortened(title, 15)}{note}", size=8.5)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    low = 0 if images is None else 1
    colours = cmap if images is None else ListedColormap(cmap(np.linspace(0.15, 1, 128)))
    source = ScalarMappable(Normalize(low, max(limit, low + 1e-9)), colours)
    bar = figure.colorbar(source, ax=grid, location="bottom", shrink=0.5, aspect=28, pad=0.02)
    finish_bar(bar, "Attention, × uniform")
    return figure


@styled
def plot_image_attention(
    attention: xr.DataArray, image: NDArray[np.uint8], *, limit: float | None = None
) -> Figure:
    """Lay the attention of many queries over one image, five tiles a row.

    Parameters
    ----------
    attention : DataArray, dims (query, [head,] y, x)
        Weights that sum to one over (y, x), with coordinates ``roi`` and ``hemisphere`` along ``query``.
    image : uint8 array, shape (y, x, 3)
    limit : float, optional
        Multiple of uniform attention at the last colour; the 99.5th percentile of the maps if None.

    Returns
    -------
    Figure
        The image, then a labelled tile a query and head; uniform attention or less stays clear.

    Examples
    --------
    >>> weights = xr.DataArray(np.full((1, 4, 4), 1 / 16), dims=("query", "y", "x"),
    ...     coords={"roi": ("query", ["FFA"]), "hemisphere": ("query", ["left"])})
    >>> [axes.get_title() for axes in plot_image_attention(weights, np.zeros((8, 8, 3), np.uint8)).axes[:2]]
    ['image', 'FFA left']
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.figure import Figure

    names = query_names(attention)
    heads = attention.sizes.get("head", 0)
    titles = [f"{name}, head {i + 1}" for name in names for i in range(heads)] if heads else names
    order = ("query", "head", "y", "x") if heads else ("query", "y", "x")
    maps = attention.transpose(*order).values.astype(np.float64)
    maps = maps.reshape(-1, *maps.shape[-2:]) * (maps.shape[-2] * maps.shape[-1])
    if limit is None:
        limit = float(np.nanpercentile(maps, 99.5))
    columns = min(5, len(maps) + 1)
    rows = -(-(len(maps) + 1) // columns)
    tile = 1.7
    figure = Figure(figsize=(tile * columns, rows * (tile * image.shape[0] / image.shape[1] + 0.25) + 0.7))
    grid = figure.subplots(rows, columns, squeeze=False)
    tiles = list(grid.flat)
    tiles[0].imshow(image, extent=(0.0, 1.0, 1.0, 0.0), aspect="auto")
    tiles[0].set_title("image", size=8.5)
    for axes, weight, title in zip(tiles[1:], maps, titles, strict=False):
        _overlay(axes, weight, image, limit)
        axes.set_title(shortened(title, 24), size=8.5)
    for axes in tiles:
        axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(1, 0))
        axes.spines[:].set_visible(False)
    colours = ListedColormap(colormaps["YlOrRd"](np.linspace(0.15, 1, 128)))
    source = ScalarMappable(Normalize(1, max(limit, 1 + 1e-9)), colours)
    bar = figure.colorbar(source, ax=grid, location="bottom", shrink=0.5, aspect=28, pad=0.02)
    finish_bar(bar, "Attention, × uniform")
    return figure


def _overlay(axes: Axes, weight: NDArray[np.float64], image: NDArray[np.uint8], limit: float) -> None:
    """Draw attention, as a multiple of uniform attention, over a grey image."""
    from matplotlib import colormaps

    extent = (0.0, 1.0, 1.0, 0.0)
    # Grey below, so that every colour is attention; uniform attention or less stays clear.
    axes.imshow(110 + 0.57 * image.mean(-1), extent=extent, aspect="auto", cmap="gray", vmin=0, vmax=255)
    above = np.clip((weight - 1) / max(limit - 1, 1e-9), 0, 1)
    layer = colormaps["YlOrRd"](0.15 + 0.85 * above)
    layer[..., 3] = np.clip(1.6 * above, 0, 0.9)
    axes.imshow(layer, extent=extent, aspect="auto", interpolation="bilinear")


@styled
def plot_seed_agreement(agreement: xr.DataArray, null: xr.DataArray) -> Figure:
    """Draw how alike the maps of different seeds are, beside the same for different images.

    Parameters
    ----------
    agreement, null : DataArray, dims (query)
        Mean correlation between seeds of the maps of one image, and of two images; both with coordinates
        ``roi`` and ``hemisphere``.

    Returns
    -------
    Figure

    Examples
    --------
    >>> coords = {"roi": ("query", ["FFA"]), "hemisphere": ("query", ["left"])}
    >>> same = xr.DataArray([0.8], dims="query", coords=coords)
    >>> [text.get_text() for text in plot_seed_agreement(same, same - 0.5).axes[0].get_yticklabels()]
    ['FFA left']
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 1.0 + 0.24 * agreement.sizes["query"]))
    axes = figure.add_subplot()
    y = np.arange(agreement.sizes["query"])
    axes.hlines(y, null.values, agreement.values, color=RULE, lw=2)
    axes.plot(null.values, y, "o", color=MUTED, mfc=PAPER, ms=5, mew=1.2, label="different images")
    axes.plot(agreement.values, y, "o", color=MODEL_COLOURS[0], ms=5.5, mew=0, label="same image")
    axes.axvline(0, color=MUTED, lw=0.7)
    label_rows(axes, query_names(agreement))
    axes.set_xlim(right=max(1.0, axes.get_xlim()[1]))
    axes.set_xlabel("Correlation between the maps of two seeds")
    figure.legend(loc="outside upper left", ncols=2, handletextpad=0.2, columnspacing=1.2, borderaxespad=0)
    return figure


def relative_attention(attention: xr.DataArray) -> NDArray[np.float64]:
    """Return seed-mean attention as a multiple of uniform attention, shape (stimulus, query, y, x).

    Examples
    --------
    >>> weights = xr.DataArray(np.full((1, 1, 1, 2, 2), 0.25), dims=("seed", "stimulus", "query", "y", "x"))
    >>> relative_attention(weights).ravel()
    array([1., 1., 1., 1.])
    """
    mean = attention.mean("seed").transpose("stimulus", "query", "y", "x").values.astype(np.float64)
    return np.asarray(mean * (mean.shape[2] * mean.shape[3]))


def attention_limit(attention: xr.DataArray) -> float:
    """Return the multiple of uniform attention that takes the last colour: the 99.5th percentile.

    Examples
    --------
    >>> weights = xr.DataArray(np.full((1, 1, 1, 2, 2), 0.25), dims=("seed", "stimulus", "query", "y", "x"))
    >>> attention_limit(weights)
    1.0
    """
    return float(np.nanpercentile(relative_attention(attention), 99.5))


def query_names(queries: xr.DataArray) -> list[str]:
    """Return "FFA left" for each query; a query of no hemisphere is called by its region alone.

    Examples
    --------
    >>> query_names(xr.DataArray([0, 0], dims="query", coords={
    ...     "roi": ("query", ["FFA", "IT"]), "hemisphere": ("query", ["left", "none"])}))
    ['FFA left', 'IT']
    """
    pairs = zip(queries.roi.values, queries.hemisphere.values, strict=True)
    return [str(roi) if side == "none" else f"{roi} {side}" for roi, side in pairs]


@styled
def plot_effects(study: xr.Dataset) -> Figure:
    """Draw the difference of every pipeline to the network without attention, with its interval.

    Parameters
    ----------
    study : Dataset, dims (dataset, pipeline, bound)
        ``difference`` and ``difference_ci`` of accuracies, and the coordinate ``role`` (pipeline). Pipelines without a
        difference are left out; data sets take colours and markers.

    Returns
    -------
    Figure

    Examples
    --------
    >>> study = xr.Dataset(
    ...     {"difference": (("dataset", "pipeline"), [[np.nan, 0.01]]),
    ...      "difference_ci": (("dataset", "pipeline", "bound"), [[[np.nan] * 2, [-0.01, 0.03]]])},
    ...     {"dataset": ["a"], "pipeline": ["basenet", "eca"], "role": ("pipeline", ["reference", "attention"])})
    >>> [text.get_text() for text in plot_effects(study).axes[0].get_yticklabels()]
    ['eca']
    """
    from matplotlib.figure import Figure

    shown = study.isel(pipeline=np.flatnonzero(np.isfinite(study.difference.values).any(0)))
    names = [str(name) for name in shown.pipeline.values]
    n_datasets = shown.sizes["dataset"]
    figure = Figure(figsize=(WIDTH, 0.9 + (0.22 + 0.09 * n_datasets) * max(len(names), 1)))
    axes = figure.add_subplot()
    for i, name in enumerate(shown.dataset.values):
        table = shown.isel(dataset=i)
        low, high = 100 * table.difference_ci.transpose("bound", "pipeline").values
        y = np.arange(len(names)) + (i - (n_datasets - 1) / 2) * 0.7 / max(n_datasets, 3)
        colour = MODEL_COLOURS[i % len(MODEL_COLOURS)]
        axes.hlines(y, low, high, color=colour, lw=1.6)
        axes.plot(
            100 * table.difference.values,
            y,
            MARKERS[i % len(MARKERS)],
            color=colour,
            ms=5.5,
            mew=0,
            label=str(name),
        )
    axes.axvline(0, color=INK, lw=0.8)
    label_rows(axes, names)
    axes.set_xlabel("Accuracy minus that without attention (points)")
    if n_datasets > 1:
        figure.legend(
            loc="outside upper left", ncols=3, handletextpad=0.2, columnspacing=1.2, borderaxespad=0
        )
    return figure


@styled
def plot_subjects(study: xr.Dataset) -> Figure:
    """Draw the accuracy of every pipeline for every subject of one data set, averaged over seeds.

    Parameters
    ----------
    study : Dataset, dims (subject, pipeline, seed)
        ``accuracy``; the attribute ``n_classes`` gives the line of chance. The control is left out, and pipelines
        beyond the seventh. Subjects are sorted by their mean.

    Returns
    -------
    Figure

    Examples
    --------
    >>> study = xr.Dataset(
    ...     {"accuracy": (("subject", "pipeline", "seed"), [[[0.5]], [[0.75]]])},
    ...     {"subject": ["a/1", "a/2"], "pipeline": ["basenet"], "role": ("pipeline", ["reference"])}, {"n_classes": 2})
    >>> [text.get_text() for text in plot_subjects(study).axes[0].get_yticklabels()]
    ['2', '1']
    """
    from matplotlib.figure import Figure

    shown = study.isel(pipeline=np.flatnonzero(study.role.values != "control")[: len(MODEL_COLOURS)])
    accuracy = 100 * shown["accuracy"].mean("seed").transpose("subject", "pipeline").values
    order = np.argsort(-accuracy.mean(1), kind="stable")
    figure = Figure(figsize=(WIDTH, 1.0 + 0.19 * len(order) + 0.1 * accuracy.shape[1]))
    axes = figure.add_subplot()
    for row in range(1, len(order), 2):
        axes.axhspan(row - 0.5, row + 0.5, color=RULE, alpha=0.35, lw=0)
    for i, name in enumerate(shown.pipeline.values):
        y = np.arange(len(order)) + (i - (accuracy.shape[1] - 1) / 2) * 0.08
        marker = MARKERS[i % len(MARKERS)]
        axes.plot(
            accuracy[order, i],
            y,
            marker,
            color=MODEL_COLOURS[i % len(MODEL_COLOURS)],
            ms=4,
            mew=0,
            label=str(name),
        )
    axes.axvline(100 / int(study.attrs["n_classes"]), color=INK, lw=0.8, ls=":")
    label_rows(axes, [str(study.subject.values[i]).rpartition("/")[2] for i in order])
    axes.set_xlabel("Accuracy (%), dotted: chance")
    figure.legend(loc="outside upper left", ncols=3, handletextpad=0.2, columnspacing=1.2, borderaxespad=0)
    return figure
