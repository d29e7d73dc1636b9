"""Figures of visual search: displays, saccades by set size, asymmetries beside their controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from neuroattn.analyses.style import (
    INK,
    MARKERS,
    MODEL_COLOURS,
    MUTED,
    PAPER,
    RULE,
    WIDTH,
    label_rows,
    styled,
)
from neuroattn.results import Scanpath
from neuroattn.search import EccNet, Experiment, SearchTrial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_MAPS = 6  # that are drawn of one search


@styled
def plot_search(model: EccNet, trial: SearchTrial, path: Scanpath) -> Figure:
    """Draw a search: the image with its fixations, the target, and the maps from which saccades were chosen.

    Parameters
    ----------
    model : EccNet
    trial : SearchTrial
    path : Scanpath
        Of this model and trial, searched with ``return_maps=True``. Maps of the first six saccades are drawn where
        they lie on the image, as far as they reach; map 0 is that at the first fixation.

    Returns
    -------
    Figure

    Examples
    --------
    >>> from neuroattn.search import VGG16
    >>> image = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
    >>> trial = SearchTrial(image, image[:16, :16], max_fixations=3, px_per_degree=8)
    >>> model = EccNet(VGG16(widths=(2, 2, 2, 2, 2)))
    >>> len(plot_search(model, trial, model.search_batch([trial], return_maps=True)[0]).axes)
    4
    """
    from matplotlib.figure import Figure

    maps = np.asarray(path.attrs["maps"])[:N_MAPS]
    height, width = trial.image.shape[:2]
    rows = -(-len(maps) // 3)
    tall = min(height / width, 1.5)
    figure = Figure(
        figsize=(WIDTH, 0.6 + WIDTH * (0.62 + 0.32 * rows) * tall + 0.3 * rows), layout="constrained"
    )
    grid = figure.add_gridspec(1 + rows, 3, height_ratios=[2] + [1] * rows)
    image = figure.add_subplot(grid[0, :2])
    image.imshow(trial.image)
    if trial.target_mask is not None:
        image.contour(trial.target_mask, [0.5], colors=MODEL_COLOURS[1], linewidths=1)
    image.plot(path.x, path.y, "-", color=MODEL_COLOURS[0], lw=1)
    for i, (x, y) in enumerate(zip(path.x, path.y, strict=True)):
        image.text(
            x, y, str(i), color="white", fontsize=8.5, ha="center", va="center",
            bbox={"boxstyle": "circle,pad=0.2", "fc": MODEL_COLOURS[0], "ec": "white", "lw": 0.6},
        )  # fmt: skip
    outcome = {True: "found", False: "not found", None: "target place unknown"}[path.found]
    saccades = f"{path.n_saccades} saccade{'' if path.n_saccades == 1 else 's'}"
    image.set_title(f"{outcome}, {saccades}", loc="left")
    target = figure.add_subplot(grid[0, 2])
    target.imshow(trial.target)
    target.set_title("target", loc="left")
    # A map covers a square around the gaze that is larger than the image.
    half = (max(height, width) if model.config.view == "image" else height) + model.config.margin_px
    shown = [image]
    for i, (one, x, y) in enumerate(zip(maps, path.x, path.y, strict=False)):
        axes = figure.add_subplot(grid[1 + i // 3, i % 3])
        extent = (x - half - 0.5, x + half - 0.5, y + half - 0.5, y - half - 0.5)
        axes.imshow(one, cmap="gray", interpolation="nearest", extent=extent)
        axes.set_title(f"map {i}", loc="left", color=INK)
        axes.plot(x, y, "+", color=MODEL_COLOURS[0], ms=9, mew=1.4)
        shown.append(axes)
    for axes in shown:
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    for axes in (*shown, target):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=MUTED)
    return figure


@styled
def plot_displays(experiments: Sequence[Experiment]) -> Figure:
    """Draw the first display of every condition and set size, with the target's cell outlined.

    Parameters
    ----------
    experiments : sequence of Experiment

    Returns
    -------
    Figure

    Examples
    --------
    >>> from neuroattn.search import experiments
    >>> len(plot_displays([experiments.lighting(n_per_size=1)]).axes)
    6
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    if not experiments:
        raise ValueError("experiments must hold at least one, got none")
    columns = max(len(experiment.set_sizes) for experiment in experiments)
    tile = WIDTH / min(columns, 3)
    figure = Figure(figsize=(tile * columns, (tile + 0.2) * 2 * len(experiments)))
    grid = figure.add_gridspec(2 * len(experiments), columns)
    for e, experiment in enumerate(experiments):
        for c, condition in enumerate(experiment.conditions):
            first = {trial.attrs["set_size"]: trial for trial in reversed(experiment.trials(condition.name))}
            for s, set_size in enumerate(experiment.set_sizes):
                trial = first[set_size]
                axes = figure.add_subplot(grid[2 * e + c, s])
                axes.imshow(trial.image, interpolation="antialiased")
                row, column = divmod(trial.attrs["target_cell"], experiment.grid[1])
                height, width = experiment.cell_px
                corner = column * width - 0.5, row * height - 0.5
                axes.add_patch(
                    Rectangle(corner, width, height, fill=False, ec=MODEL_COLOURS[0], lw=1, clip_on=False)
                )
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set(visible=True, color=RULE)
                axes.set_title(f"{set_size} items", loc="left", fontsize=8.5, pad=3)
                if s == 0:
                    axes.set_ylabel(condition.name, fontsize=8.5)
    return figure


@styled
def plot_search_times(result: xr.Dataset, model: str | None = None, *, unfound: str = "cap") -> Figure:
    """Draw the saccades of a model by set size, and the reaction times of people beside them, for each experiment.

    Parameters
    ----------
    result : Dataset
        Of :func:`neuroattn.analyses.search_asymmetry`.
    model : str, optional
        The first by default.
    unfound : {"dropped", "cap", "set_size"}, default "cap"
        How trials count whose target was not found.

    Returns
    -------
    Figure
        Bars are standard errors over trials. People's times were read off published figures and have no errors.

    Examples
    --------
    >>> from neuroattn.analyses import search_asymmetry
    >>> from neuroattn.search import PixelMatch, experiments
    >>> result = search_asymmetry(PixelMatch(), [experiments.lighting(n_per_size=2)], controls=False, n_resamples=20)
    >>> [axes.get_ylabel() for axes in plot_search_times(result).axes]
    ['Saccades', 'Reaction time (ms)']
    """
    from matplotlib.figure import Figure

    table = result.isel(model=0) if model is None else result.sel(model=model)
    table = table.sel(unfound=unfound)
    n = result.sizes["experiment"]
    columns = min(n, 3)
    rows = -(-n // columns)
    figure = Figure(figsize=(WIDTH * columns, 4.2 * rows))
    grid = figure.add_gridspec(2 * rows, columns)
    for i in range(n):
        row, column = divmod(i, columns)
        own, people = (figure.add_subplot(grid[2 * row + below, column]) for below in (0, 1))
        part = table.isel(experiment=i)
        for r, role in enumerate(part.role.values):
            line = part.sel(role=role).dropna("set_size", subset=["n_trials"])
            colour, marker = MODEL_COLOURS[r], MARKERS[r]
            style: dict[str, Any] = {"color": colour, "marker": marker, "ms": 4.5, "mew": 0, "lw": 1.4}
            slope = f"{float(line.slope):.2f} per item" if np.isfinite(line.slope) else "no slope"
            own.errorbar(
                line.set_size,
                line["mean"],
                line["sem"],
                **style,
                elinewidth=1,
                label=f"{line.condition.item()}: {slope}",
            )
            times = line.human_rt.dropna("set_size")
            if len(times):
                label = f"{float(line.human_slope):.1f} ms per item"
                people.plot(times.set_size, times, ls="--", mfc="none", **{**style, "mew": 1.2}, label=label)
        title = str(part.experiment.item()).replace("_", ", ")
        own.set_title(f"{title}: {part.model.item()}", loc="left")
        own.set_ylabel("Saccades")
        people.set_ylabel("Reaction time (ms)")
        people.set_title("people (read off figures, no errors)", loc="left", color=MUTED)
        if not people.lines:
            people.text(0.5, 0.5, "none published", transform=people.transAxes, ha="center", color=MUTED)
            people.set(xticks=[], yticks=[])
        for axes in (own, people):
            axes.grid(axis="y")
            axes.tick_params(axis="y", labelcolor=MUTED)
            if axes.lines:
                axes.set_xticks(line.set_size.values)
                axes.legend(loc="upper left", fontsize=9, handlelength=1.6)
                low, high = axes.get_ylim()
                low = 0.0 if axes is own else low
                axes.set_ylim(low, high + 0.55 * (high - low))  # room for the legend
        people.set_xlabel("Items")
    return figure


@styled
def plot_asymmetry(result: xr.Dataset, *, unfound: str = "cap") -> Figure:
    """Draw the asymmetry index of every model and control beside that of people, for each experiment.

    Parameters
    ----------
    result : Dataset
        Of :func:`neuroattn.analyses.search_asymmetry`.
    unfound : {"dropped", "cap", "set_size"}, default "cap"
        How trials count whose target was not found.

    Returns
    -------
    Figure
        Intervals are of the bootstrap over trials. Models are filled, controls open; a star marks a polarity that
        may be claimed, ``sat.`` an index that is 1 or -1 because one slope is 0, whatever the other. The diamond is
        that of people, without an interval.

    Examples
    --------
    >>> from neuroattn.analyses import search_asymmetry
    >>> from neuroattn.search import PixelMatch, experiments
    >>> result = search_asymmetry(PixelMatch(), [experiments.lighting(n_per_size=2)], n_resamples=20)
    >>> plot_asymmetry(result).axes[0].get_xlabel()
    'Asymmetry index'
    """
    from matplotlib.figure import Figure

    table = result.sel(unfound=unfound)
    models, experiments = table.model.values, table.experiment.values
    step = 0.8 / max(len(models), 3)
    centre = np.arange(len(experiments))
    height = 1.2 + max(0.5, 0.17 * len(models)) * len(experiments) + 0.2 * -(-(len(models) + 1) // 2)
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_subplot()
    for row in centre[1::2]:
        axes.axhspan(row - 0.5, row + 0.5, color=RULE, alpha=0.35, lw=0)
    axes.axvline(0, color=MUTED, lw=0.7)
    for i, name in enumerate(models):
        part = table.sel(model=name)
        y = centre + (i - (len(models) - 1) / 2) * step
        colour, marker = MODEL_COLOURS[i % len(MODEL_COLOURS)], MARKERS[i % len(MARKERS)]
        low, high = part.index_ci.transpose("bound", "experiment").values
        axes.hlines(y, low, high, color=colour, lw=1.4)
        face = colour if part.kind == "model" else PAPER
        axes.plot(part["index"].values, y, marker, color=colour, mfc=face, ms=5, mew=1.2, label=str(name))
        for at, claim, saturated in zip(y, part.claim.values, part.saturated.values, strict=True):
            note = ("★ " if claim else "") + ("sat." if saturated else "")
            axes.text(1.06, at, note, color=colour, fontsize=8.5, va="center")
    known = table.human_index.notnull().values
    axes.vlines(table.human_index.values[known], centre[known] - 0.45, centre[known] + 0.45, color=INK, lw=1)
    axes.plot(table.human_index.values[known], centre[known], "d", color=INK, ms=5, label="people")
    label_rows(axes, [str(name).replace("_", ",\n") for name in experiments])
    axes.set(xlabel="Asymmetry index", xlim=(-1.08, 1.3), xticks=[-1, -0.5, 0, 0.5, 1])
    figure.legend(loc="outside upper left", ncols=2, handletextpad=0.2, columnspacing=1.2, borderaxespad=0)
    return figure
