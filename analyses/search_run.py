"""One search with everything a reader needs, and studies of asymmetries in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from neuroattn.analyses.encoder_study import open_study
from neuroattn.analyses.figures import _INK, _MODELS, _MUTED, _styled
from neuroattn.analyses.search_figures import plot_asymmetry, plot_search_times
from neuroattn.analyses.search_study import search_asymmetry, search_controls
from neuroattn.results import Scanpath, filling, provenance, replacing, write_json, write_netcdf
from neuroattn.search import EccNet, Experiment, Searcher, SearchTrial
from neuroattn.search.running import describe_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Fixations of a trained network for one of a search that knows nothing: a guess, for the time stated beforehand.
_GUIDED = 0.5
_PANELS = 6


def search_image(
    model: EccNet, trial: SearchTrial, out: str | Path, *, seed: int = 0, command: str = ""
) -> Scanpath:
    """Search one image and write its fixations, its maps and a figure.

    Parameters
    ----------
    model : EccNet
    trial : SearchTrial
    out : str or Path
        Folder, made whole or not at all: ``fixations.csv``; ``maps/saccade_01.png`` and so on, the map from which each
        saccade was chosen, black to white between its extremes; ``maps.nc`` with their values; ``search.png``;
        ``search.json`` with the settings.
    seed : int, default 0
    command : str
        Kept with the settings.

    Returns
    -------
    Scanpath
        With ``attrs["maps"]``, as :meth:`neuroattn.search.EccNet.search_batch` gives them.

    Raises
    ------
    ValueError
        If ``out`` exists already.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.search import VGG16
    >>> image = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
    >>> trial = SearchTrial(image, image[:16, :16], max_fixations=3, px_per_degree=8)
    >>> out = Path(tempfile.mkdtemp()) / "search"
    >>> len(search_image(EccNet(VGG16(widths=(2, 2, 2, 2, 2))), trial, out))
    3
    >>> sorted(path.name for path in out.iterdir())
    ['fixations.csv', 'maps', 'maps.nc', 'search.json', 'search.png']
    """
    out = Path(out)
    check_new(out)
    path = model.search_batch([trial], seed=seed, return_maps=True)[0]
    maps = np.asarray(path.attrs["maps"])
    with filling(out) as folder:
        (folder / "maps").mkdir()
        table = path.to_frame()
        table.insert(0, "fixation", range(len(table)))
        table.to_csv(folder / "fixations.csv", index=False)
        for i, one in enumerate(maps, 1):
            _save_map(folder / "maps" / f"saccade_{i:02d}.png", one)
        attrs = provenance(seed, describe_model(model))
        write_netcdf(
            folder / "maps.nc", xr.DataArray(maps, dims=("saccade", "row", "column"), name="map", attrs=attrs)
        )
        plot_search(model, trial, path).savefig(folder / "search.png", dpi=150)
        settings = {
            **attrs,
            "command": command,
            "found": path.found,
            "quit": path.attrs["quit"],
            "n_saccades": path.n_saccades,
            "image_size": path.image_size,
            "px_per_degree": path.px_per_degree,
        }
        write_json(folder / "search.json", settings)
    return path


def check_new(out: Path) -> None:
    """Refuse a folder that exists.

    Examples
    --------
    >>> check_new(Path("/"))
    Traceback (most recent call last):
    ValueError: out / must not exist yet, so that nothing is overwritten; choose another folder
    """
    if out.exists():
        raise ValueError(
            f"out {out} must not exist yet, so that nothing is overwritten; choose another folder"
        )


def _save_map(path: Path, values: np.ndarray[Any, Any]) -> None:
    from PIL import Image

    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    Image.fromarray(np.round(255 * scaled).astype(np.uint8)).save(path)


@_styled
def plot_search(model: EccNet, trial: SearchTrial, path: Scanpath) -> Figure:
    """Draw a search: the image with its fixations, the target, and the maps from which saccades were chosen.

    Parameters
    ----------
    model : EccNet
    trial : SearchTrial
    path : Scanpath
        Of this model and trial, searched with ``return_maps=True``. Maps of the first six saccades are drawn where
        they lie on the image, as far as they reach.

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

    maps = np.asarray(path.attrs["maps"])[:_PANELS]
    height, width = trial.image.shape[:2]
    rows = -(-len(maps) // 3)
    tall = height / width
    figure = Figure(figsize=(7, 0.9 + (4.4 + 2.2 * rows) * tall + 0.3 * rows), layout="constrained")
    grid = figure.add_gridspec(1 + rows, 3, height_ratios=[2] + [1] * rows)
    image = figure.add_subplot(grid[0, :2])
    image.imshow(trial.image)
    if trial.target_mask is not None:
        image.contour(trial.target_mask, [0.5], colors=_MODELS[1], linewidths=1)
    image.plot(path.x, path.y, "-", color=_MODELS[0], lw=1)
    for i, (x, y) in enumerate(zip(path.x, path.y, strict=True)):
        image.text(
            x, y, str(i), color="white", fontsize=8, ha="center", va="center",
            bbox={"boxstyle": "circle,pad=0.2", "fc": _MODELS[0], "ec": "white", "lw": 0.6},
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
        axes.set_title(f"map at fixation {i}", loc="left", color=_INK)
        axes.plot(x, y, "+", color=_MODELS[0], ms=9, mew=1.4)
        shown.append(axes)
    for axes in shown:
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    for axes in (*shown, target):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=_MUTED)
    return figure


def study_asymmetries(
    model: Searcher,
    experiments: Sequence[Experiment],
    out: str | Path,
    *,
    name: str = "model",
    controls: bool = True,
    n_resamples: int = 2000,
    batch_size: int = 8,
    seed: int = 0,
    resume: bool = False,
    command: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> xr.Dataset:
    """Measure search asymmetries of a model and its controls, and write a table and figures.

    Parameters
    ----------
    model : object with ``search_batch``
    experiments : sequence of Experiment
    out : str or Path
        Folder for ``asymmetry.nc``, ``asymmetry.csv``, ``asymmetry.png``, ``saccades.png``, ``config.json`` and
        ``trials``, those of each model and condition as they are finished.
    name : str, default "model"
        Of the model in tables and figures.
    controls, n_resamples, batch_size, seed, progress
        As of :func:`neuroattn.analyses.search_asymmetry`.
    resume : bool, default False
        Continue in ``out``: finished conditions are kept.
    command : str
        Kept with the results.

    Returns
    -------
    Dataset
        Of :func:`neuroattn.analyses.search_asymmetry`.

    Raises
    ------
    ValueError
        If ``out`` holds another study, or one that is not to be continued.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.search import PixelMatch, experiments
    >>> out = Path(tempfile.mkdtemp()) / "study"
    >>> displays = [experiments.lighting(n_per_size=2)]
    >>> _ = study_asymmetries(PixelMatch(), displays, out, controls=False, n_resamples=20)
    >>> sorted(path.name for path in out.iterdir())
    ['asymmetry.csv', 'asymmetry.nc', 'asymmetry.png', 'config.json', 'saccades.png', 'trials']
    """
    out = Path(out)
    config = {
        "model": describe_model(model),
        "experiments": [experiment.config for experiment in experiments],
        "controls": controls,
        "n_resamples": n_resamples,
        "seed": seed,
    }
    open_study(out, config, resume)
    result = search_asymmetry(
        {name: model},
        experiments,
        controls=controls,
        out=out,
        n_resamples=n_resamples,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    ).assign_attrs(command=command)
    write_netcdf(out / "asymmetry.nc", result)
    with replacing(out / "asymmetry.csv") as temporary:
        asymmetry_table(result).to_csv(temporary, index=False)
    for file, figure in (("asymmetry", plot_asymmetry(result)), ("saccades", plot_search_times(result))):
        with replacing(out / f"{file}.png") as temporary:
            figure.savefig(temporary, dpi=150)
    return result


def asymmetry_table(result: xr.Dataset) -> pd.DataFrame:
    """Return a row for each model, experiment and rule of unfound trials.

    Parameters
    ----------
    result : Dataset
        Of :func:`neuroattn.analyses.search_asymmetry`.

    Returns
    -------
    DataFrame
        Slopes of both conditions in saccades per item, the index with its interval, whether it is saturated, what may
        be claimed, the share of found trials, and the index of people.

    Examples
    --------
    >>> from neuroattn.search import PixelMatch, experiments
    >>> result = search_asymmetry(PixelMatch(), [experiments.lighting(n_per_size=2)], controls=False, n_resamples=20)
    >>> asymmetry_table(result)[["model", "experiment", "unfound"]].values.tolist()
    [['model', 'lighting', 'dropped'], ['model', 'lighting', 'cap']]
    """
    rows = []
    for model in result.model.values:
        for experiment in result.experiment.values:
            for rule in result.unfound.values:
                one = result.sel(model=model, experiment=experiment, unfound=rule)
                low, high = one.index_ci.values
                difference = one.slope_difference_ci.values
                rows.append(
                    {
                        "model": str(model),
                        "kind": str(one.kind.item()),
                        "experiment": str(experiment),
                        "unfound": str(rule),
                        **{f"slope_{role}": float(one.slope.sel(role=role)) for role in ("hard", "easy")},
                        "slope_difference_low": difference[0],
                        "slope_difference_high": difference[1],
                        "index": float(one["index"]),
                        "index_low": low,
                        "index_high": high,
                        "saturated": bool(one.saturated),
                        "claim": int(one.claim),
                        **{
                            f"found_{role}": float(one.found_rate.sel(role=role).mean())
                            for role in ("hard", "easy")
                        },
                        "index_people": float(one.human_index),
                    }
                )
    return pd.DataFrame(rows)


def estimate_asymmetries(
    model: Searcher, experiments: Sequence[Experiment], *, controls: bool = True, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Measure one fixation of a model in each experiment, and state how long a study takes.

    Parameters
    ----------
    model, experiments, controls, seed
        As of :func:`study_asymmetries`.

    Returns
    -------
    dict of str to dict of str to float
        For each experiment ``n_trials`` of a model, ``fixations`` that a search of the drawn cells in random order
        needs in the mean, ``seconds`` measured for one fixation of the model, and ``total`` seconds of the model and
        its controls: half as many fixations for networks that are trained, as many for one that is not.

    Examples
    --------
    >>> from neuroattn.search import RandomSearch, experiments
    >>> estimate_asymmetries(RandomSearch(), [experiments.letters()])["letters"]["fixations"]
    3.5
    """
    searchers: Mapping[str, Searcher] = search_controls(model, seed=seed) if controls else {}
    result = {}
    for experiment in experiments:
        largest = replace(experiment, n_per_size=1).trials(experiment.conditions[0].name)[-1]
        seconds = estimate_fixation(model, largest)
        fixations = float(np.mean([(size + 1) / 2 for size in experiment.set_sizes]))
        total = experiment.n_trials * fixations * seconds * _GUIDED
        for name, control in searchers.items():
            if name == "no eccentricity":
                total += experiment.n_trials * fixations * seconds * _GUIDED
            elif name == "random weights":
                total += experiment.n_trials * fixations * seconds
            else:
                total += experiment.n_trials * estimate_fixation(control, largest)
        result[experiment.name] = {
            "n_trials": experiment.n_trials,
            "fixations": fixations,
            "seconds": seconds,
            "total": total,
        }
    return result


def estimate_fixation(model: Searcher, trial: SearchTrial) -> float:
    """Measure the seconds of one saccade; a first search, which finds memory and threads, is not counted.

    Examples
    --------
    >>> from neuroattn.search import PixelMatch
    >>> image = np.zeros((32, 32), np.uint8)
    >>> estimate_fixation(PixelMatch(), SearchTrial(image, image[:8, :8], px_per_degree=8)) > 0
    True
    """
    short = [replace(trial, max_fixations=2)]
    model.search_batch(short)
    start = time.perf_counter()
    model.search_batch(short * 2)
    return (time.perf_counter() - start) / 2
