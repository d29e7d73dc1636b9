"""What feature spaces explain of each region alone and together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import clone

from neuroattn._checks import check_range, check_seed
from neuroattn.analyses.dots import Dots, draw_dots
from neuroattn.analyses.encoder_study import default_split
from neuroattn.analyses.scores import roi_means, with_all_units
from neuroattn.analyses.style import WIDTH, styled
from neuroattn.datasets import Fold, Recording, split_stimuli
from neuroattn.encoding import BandedRidgeEncoder
from neuroattn.metrics import roi_summary, variance_partitioning
from neuroattn.results import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tables = Mapping[str, NDArray[Any]]
Predictions = dict[tuple[str, ...], NDArray[np.float64]]


def partition_variance(
    recording: Recording,
    spaces: Mapping[str, Any],
    *,
    encoder: BandedRidgeEncoder | None = None,
    split: str | Path | None = None,
    n_resamples: int = 300,
    seed: int = 0,
) -> xr.Dataset:
    """Divide what feature spaces explain of each region into unique and shared parts.

    A banded ridge encoder is fitted to every combination of the spaces on the same training stimuli, and the parts are
    differences between their R^2 on the same held-out stimuli (:func:`neuroattn.metrics.variance_partitioning`) [1]_.
    As a control, the joint model is fitted again with the stimuli of one space exchanged: what a space of its size and
    spread adds that knows nothing of the stimuli.

    Parameters
    ----------
    recording : Recording
        Responses, regions and stimulus identities; folds, inner ones too, share no stimulus.
    spaces : mapping of str to array or FeatureStore, shape (stimulus, channel, y, x) or (stimulus, feature)
        Two or more feature spaces with the rows of the recording, held in memory.
    encoder : BandedRidgeEncoder, optional
        Unfitted, for other settings than the default; a combination of one space is plain ridge.
    split : str or Path, optional
        See :func:`neuroattn.datasets.split_stimuli`; every stimulus is tested once at most. None is "given" for data
        with a partition of their own, else "test=200,seed=0".
    n_resamples : int, default 300
        Resamples of the held-out stimuli.
    seed : int, default 0
        Of resamples and exchanges.

    Returns
    -------
    Dataset, dims (model, part, space, roi, unit, bound)
        ``explained`` (part, roi), R^2 averaged over the units of a region, where part "a" is unique to a and "a & b" is
        shared by a and b only; the parts sum to the R^2 of the joint model, and may be negative. ``r2`` (model, roi) of
        every combination, such as "a + b". ``explained_permuted`` (space, roi), the control of each unique part.
        ``explained_interval`` and ``r2_interval``, with ``bound``: 95 % over resampled held-out stimuli, for these
        fits. ``noise_ceiling`` and ``n_units`` (roi): the R^2 that a perfect model would reach, NaN where unknown.
        ``unit_explained`` (part, unit). The region "all" has all units.

    Raises
    ------
    ValueError
        If there are fewer than two spaces, or rows do not fit.

    References
    ----------
    .. [1] Lescroart, Stansbury & Gallant (2015). Fourier power, subjective distance, and object categories all provide
       plausible models of BOLD responses in scene-selective visual areas. Frontiers in Computational Neuroscience 9.

    Examples
    --------
    >>> from neuroattn.results import label_rois
    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.normal(size=(2, 120, 2))
    >>> y = np.column_stack([a[:, 0], a[:, 1] + b[:, 1]]).astype("f4")
    >>> rois = label_rois({"only a": [True, False], "both": [False, True]})
    >>> recording = Recording("cells", y, rois, np.arange(120).astype(str), features=a)
    >>> parts = partition_variance(recording, {"a": a, "b": b}, split="test=40,seed=0", n_resamples=20)
    >>> abs(parts.explained.sel(roi=["only a", "both"], part=["a", "b"]).T.values.round(1))
    array([[1. , 0. ],
           [0.5, 0.4]])
    """
    check_range("n_resamples", n_resamples, 1)
    rng = check_seed(seed)
    if len(spaces) < 2:
        raise ValueError(f"spaces must hold two or more feature spaces, got {list(spaces)}")
    tables = {name: np.asarray(features[:]) for name, features in spaces.items()}
    for name, table in tables.items():
        if len(table) != recording.n_stimuli:
            raise ValueError(
                f"spaces[{name!r}] must have the {recording.n_stimuli} rows of the recording, got {len(table)}"
            )
    split = default_split(recording) if split is None else split
    folds = split_stimuli(recording.stimulus_ids, split, test=recording.test)
    rows = np.concatenate([fold.test for fold in folds])
    if len(set(rows.tolist())) < len(rows):
        raise ValueError(f"split must test every stimulus once at most, got {str(split)!r}")
    fresh = BandedRidgeEncoder() if encoder is None else encoder
    whole = tuple(tables)
    combinations = [c for k in range(1, len(whole) + 1) for c in itertools.combinations(whole, k)]
    y = np.asarray(recording.responses[rows], np.float64)
    predictions = {
        names: _predict(fresh, recording, {n: tables[n] for n in names}, folds) for names in combinations
    }
    parts = variance_partitioning(y, predictions)
    controls = []
    for name in whole:
        exchanged = tables | {name: tables[name][rng.permutation(recording.n_stimuli)]}
        control = predictions | {whole: _predict(fresh, recording, exchanged, folds)}
        controls.append(variance_partitioning(y, control)["explained"].sel(part=name, drop=True))
    _, stimulus = np.unique(recording.stimulus_ids[rows], return_inverse=True)
    members = with_all_units(recording.rois)
    draws: dict[str, list[NDArray[np.float64]]] = {"explained": [], "r2": []}
    for _ in range(n_resamples):
        count = np.bincount(
            rng.integers(stimulus.max() + 1, size=stimulus.max() + 1), minlength=stimulus.max() + 1
        )
        drawn = np.repeat(np.arange(len(rows)), count[stimulus])
        resampled = variance_partitioning(y[drawn], {names: p[drawn] for names, p in predictions.items()})
        for variable, values in draws.items():
            values.append(roi_means(resampled[variable].values, members))
    result = xr.Dataset({"unit_explained": parts["explained"]})
    for variable, dim in (("explained", "part"), ("r2", "model")):
        summary = roi_summary(parts[variable], members)
        result[variable] = summary["mean"]
        bounds = np.nanpercentile(draws[variable], [2.5, 97.5], axis=0)
        result[f"{variable}_interval"] = (dim, "roi", "bound"), np.moveaxis(bounds, 0, -1)
    result["explained_permuted"] = roi_summary(
        xr.concat(controls, xr.Variable("space", list(whole))), members
    )["mean"]
    ceiling = (
        np.full(recording.n_units, np.nan) if recording.noise_ceiling is None else recording.noise_ceiling
    )
    summary = roi_summary(xr.DataArray(ceiling, dims="unit"), members)
    result["noise_ceiling"] = summary["mean"]
    result["n_units"] = "roi", members.values.sum(1)
    result.coords["bound"] = ["low", "high"]
    result.coords["space"] = list(whole)
    config = {
        "recording": recording.name,
        "split": str(split),
        "n_resamples": n_resamples,
        "n_test": len(rows),
    }
    config |= {"encoder": {name: value for name, value in fresh.get_params().items() if value is not None}}
    attrs = {"resampled": "stimulus", "simulated": int(recording.simulated), **provenance(seed, config)}
    return result.assign_attrs(attrs)


def _predict(
    encoder: BandedRidgeEncoder, recording: Recording, tables: Tables, folds: list[Fold]
) -> NDArray[np.float64]:
    """Return predictions of the tested rows, fold by fold."""
    predicted = []
    for fold in folds:
        fitted = clone(encoder).fit(
            {name: table[fold.train] for name, table in tables.items()},
            np.asarray(recording.responses[fold.train]),
            groups=recording.stimulus_ids[fold.train],
        )
        predicted.append(fitted.predict({name: table[fold.test] for name, table in tables.items()}))
    return np.concatenate(predicted)


@styled
def plot_variance(result: xr.Dataset) -> Figure:
    """Draw the unique and shared parts of every region, with controls and what noise leaves to explain.

    Parameters
    ----------
    result : Dataset
        Of :func:`partition_variance`.

    Returns
    -------
    Figure

    Examples
    --------
    >>> result = xr.Dataset(
    ...     {"explained": (("part", "roi"), [[0.3], [0.1], [0.05]]),
    ...      "explained_interval": (("part", "roi", "bound"), [[[0.2, 0.4]], [[0.0, 0.2]], [[0.0, 0.1]]]),
    ...      "explained_permuted": (("space", "roi"), [[0.0], [-0.01]]), "noise_ceiling": ("roi", [0.6])},
    ...     {"part": ["a", "b", "a & b"], "space": ["a", "b"], "roi": ["V1"]})
    >>> plot_variance(result).axes[0].get_xlabel()
    'R² on held-out stimuli'
    """
    from matplotlib.figure import Figure

    parts, spaces = ([str(name) for name in result[dim].values] for dim in ("part", "space"))
    figure = Figure(figsize=(WIDTH, 1.4 + (0.2 + 0.07 * len(parts)) * result.sizes["roi"]))
    axes = figure.add_subplot()
    series = []
    for i, part in enumerate(parts):
        label = f"{part} alone" if part in spaces else part
        one = {"part": part}
        series.append(Dots(label, result.explained.sel(one), result.explained_interval.sel(one), i))
        if part in spaces:
            control = result.explained_permuted.sel(space=part)
            series.append(Dots(f"{part}, stimuli exchanged", control, None, i, filled=False))
    if result.noise_ceiling.notnull().any():
        series.append(Dots("noise ceiling", result.noise_ceiling, None, None))
    draw_dots(axes, [str(roi) for roi in result.roi.values], series)
    axes.set_xlabel("R² on held-out stimuli")
    figure.legend(loc="outside upper left", ncols=2, handletextpad=0.2, columnspacing=1.2, borderaxespad=0)
    return figure
