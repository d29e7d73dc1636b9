"""Figures of decoding: scores beside their nulls, confusion, learning curves, maps on the scalp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from neuroattn.analyses.style import (
    INK,
    MARKERS,
    MODEL_COLOURS,
    MUTED,
    RULE,
    WIDTH,
    finish_bar,
    label_rows,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def plot_decoding_scores(scores: xr.Dataset) -> Figure:
    """Draw the accuracy of every pipeline in every condition, with intervals and the 95 % points of the nulls.

    Parameters
    ----------
    scores : Dataset
        Of :func:`neuroattn.analyses.decode_trials`.

    Returns
    -------
    Figure

    Examples
    --------
    >>> scores = xr.Dataset(
    ...     {"accuracy": (("pipeline", "condition"), [[0.8]]), "null_95": (("pipeline", "condition"), [[0.6]]),
    ...      "accuracy_ci": (("pipeline", "condition", "bound"), [[[0.7, 0.9]]]), "adjusted_chance": 0.62},
    ...     {"pipeline": ["csp-lda"], "condition": ["imagery"], "true": ["left", "right"]})
    >>> plot_decoding_scores(scores).axes[0].get_xlabel()
    'Accuracy on held-out trials'
    """
    from matplotlib.figure import Figure

    pipelines, conditions = scores.pipeline.values, scores.condition.values
    step = 0.8 / max(len(pipelines), 3)
    rows = max(0.34, 0.12 * len(pipelines)) * len(conditions)
    figure = Figure(figsize=(WIDTH, 1.0 + rows + 0.2 * -(-len(pipelines) // 3)))
    axes = figure.add_subplot()
    centre = np.arange(len(conditions))
    for row in centre[1::2]:
        axes.axhspan(row - 0.5, row + 0.5, color=RULE, alpha=0.35, lw=0)
    for i, name in enumerate(pipelines):
        y = centre + (i - (len(pipelines) - 1) / 2) * step
        table = scores.sel(pipeline=name)
        colour, marker = MODEL_COLOURS[i % len(MODEL_COLOURS)], MARKERS[i % len(MARKERS)]
        low, high = table.accuracy_ci.transpose("bound", "condition").values
        axes.hlines(y, low, high, color=colour, lw=1.4)
        axes.plot(table.accuracy.values, y, marker, color=colour, ms=5, mew=0, label=str(name))
        axes.plot(table.null_95.values, y, "|", color=colour, ms=6, mew=1.2)
    axes.plot([], [], "|", color=MUTED, ms=6, mew=1.2, label="null, 95 %")
    axes.axvline(1 / scores.sizes["true"], color=MUTED, lw=0.7)
    axes.axvline(float(scores.adjusted_chance), color=MUTED, lw=0.7, ls=":")
    label_rows(axes, [str(name) for name in conditions])
    axes.set_xlabel("Accuracy on held-out trials")
    figure.legend(loc="outside upper left", ncols=3, handletextpad=0.2, columnspacing=1.2, borderaxespad=0)
    return figure


@styled
def plot_learning_curves(scores: xr.Dataset) -> Figure:
    """Draw the accuracy by the number of training trials.

    Parameters
    ----------
    scores : Dataset
        Of :func:`neuroattn.analyses.decode_trials`.

    Returns
    -------
    Figure

    Examples
    --------
    >>> scores = xr.Dataset({"learning_curve": (("pipeline", "n_train"), [[0.6, 0.8]]), "adjusted_chance": 0.62},
    ...                     {"pipeline": ["csp-lda"], "n_train": [8, 16], "true": ["left", "right"]})
    >>> plot_learning_curves(scores).axes[0].get_xlabel()
    'Training trials'
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.0))
    axes = figure.add_subplot()
    axes.tick_params(axis="y", labelcolor=MUTED)
    for i, name in enumerate(scores.pipeline.values):
        curve = scores.learning_curve.sel(pipeline=name)
        if curve.notnull().any():
            colour, marker = MODEL_COLOURS[i % len(MODEL_COLOURS)], MARKERS[i % len(MARKERS)]
            axes.plot(
                curve.n_train.values, curve.values, marker, ls="-", color=colour, ms=4, mew=0, label=str(name)
            )
    axes.axhline(1 / scores.sizes["true"], color=MUTED, lw=0.7)
    axes.axhline(float(scores.adjusted_chance), color=MUTED, lw=0.7, ls=":")
    axes.grid(axis="y")
    axes.set_xticks(scores.n_train.values)
    axes.set(xlabel="Training trials", ylabel="Accuracy")
    figure.legend(loc="outside upper left", ncols=3, handletextpad=0.4, columnspacing=1.2, borderaxespad=0)
    return figure


@styled
def plot_confusion(confusion: xr.DataArray) -> Figure:
    """Draw how the trials of each class were classified, as shares of the class, one panel a pipeline.

    Parameters
    ----------
    confusion : DataArray, dims (pipeline, true, predicted)
        Numbers of trials.

    Returns
    -------
    Figure

    Examples
    --------
    >>> confusion = xr.DataArray([[[9, 1], [2, 8]]], dims=("pipeline", "true", "predicted"),
    ...     coords={"pipeline": ["csp-lda"], "true": ["left", "right"], "predicted": ["left", "right"]})
    >>> plot_confusion(confusion).axes[0].get_title()
    'csp-lda'
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names, classes = confusion.pipeline.values, [str(name) for name in confusion.true.values]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH, 0.35 + 1.65 * rows * 3 / max(columns, 2)))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(grid.flat, names, strict=False):
        counts = confusion.sel(pipeline=name).values
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, vmin=0, vmax=1, cmap=colormaps["Blues"])
        for (row, column), count in np.ndenumerate(counts):
            dark = shares[row, column] > 0.6
            axes.text(
                column, row, f"{count:.0f}", ha="center", va="center", size=9,
                color="#ffffff" if dark else "#10202e",
            )  # fmt: skip
        axes.set_xticks(range(len(classes)), classes)
        axes.set_yticks(range(len(classes)), classes, rotation=90, va="center")
        axes.tick_params(length=0, labelcolor=MUTED, labelsize=8.5)
        axes.set_title(str(name), size=9)
        axes.spines[:].set_visible(False)
    grid[0, 0].set(ylabel="true", xlabel="predicted")
    return figure


@styled
def plot_topomaps(maps: xr.DataArray, info: Any, *, label: str, diverging: bool = False) -> Figure:
    """Draw maps on the scalp side by side with MNE.

    Parameters
    ----------
    maps : DataArray, dims (map, channel)
        Coordinate ``map`` holds the titles.
    info : mne.Info
        With the positions of these channels.
    label : str
        Of the colour bar.
    diverging : bool, default False
        Colours centred on zero.

    Returns
    -------
    Figure

    Examples
    --------
    >>> import mne
    >>> names = ["C3", "Cz", "C4", "Fz", "Pz"]
    >>> montage = mne.channels.make_standard_montage("biosemi64")
    >>> info = mne.create_info(names, 100, "eeg").set_montage(montage)
    >>> maps = xr.DataArray([[1.0, 0, 0, 0, 0]], dims=("map", "channel"), coords={"map": ["left"]})
    >>> plot_topomaps(maps, info, label="share").axes[0].get_title()
    'left'
    """
    import mne
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    values = maps.transpose("map", "channel").values
    limit = float(np.abs(values).max()) or 1.0
    low = -limit if diverging else float(values.min())
    cmap = colormaps["PuOr_r" if diverging else "viridis"]
    columns = min(4, max(2, len(values)))
    rows = -(-len(values) // columns)
    figure = Figure(figsize=(WIDTH, 0.75 + rows * (WIDTH / columns + 0.15)))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(values) :]:
        axes.set_visible(False)
    for axes, title, row in zip(grid.flat, maps["map"].values, values, strict=False):
        mne.viz.plot_topomap(
            row, info, axes=axes, show=False, cmap=cmap, vlim=(low, limit), contours=0, sensors=".",
            image_interp="cubic",
        )  # fmt: skip
        axes.set_title(str(title), size=9, color=INK)
    bar = figure.colorbar(
        ScalarMappable(Normalize(low, limit), cmap),
        ax=grid,
        location="bottom",
        shrink=0.5,
        aspect=28,
        pad=0.03,
    )
    finish_bar(bar, label)
    return figure
