"""Summaries over regions, and paired differences between models."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from neuroattn._checks import check_range, check_seed


def roi_summary(values: xr.DataArray, membership: xr.DataArray) -> xr.Dataset:
    """Summarize a score over the units of each region.

    Parameters
    ----------
    values : DataArray, dims (..., unit)
        NaN units are dropped and counted.
    membership : DataArray of bool, dims (roi, unit)

    Returns
    -------
    Dataset, dims (..., roi)
        ``mean``, ``median``, ``n_units`` (kept) and ``n_dropped``. A region without units is NaN, never 0.

    Examples
    --------
    >>> values = xr.DataArray([0.25, 0.75, np.nan], dims="unit")
    >>> rois = xr.DataArray([[True] * 3, [False] * 3], [("roi", ["V1", "RSC"]), ("unit", range(3))])
    >>> summary = roi_summary(values, rois)
    >>> summary["mean"].values, summary.n_units.values, summary.n_dropped.values
    (array([0.5, nan]), array([2, 0]), array([1, 0]))
    """
    scores = values.transpose(..., "unit")
    lead = scores.dims[:-1]
    summary: dict[str, list[Any]] = {name: [] for name in ("mean", "median", "n_units", "n_dropped")}
    for members in membership.transpose("roi", "unit").values.astype(bool):
        part = scores.values[..., members]
        kept = np.isfinite(part).sum(-1)
        with warnings.catch_warnings():
            # A region without units is NaN by definition, no reason for numpy's warning.
            warnings.filterwarnings("ignore", "Mean of empty slice|All-NaN slice", RuntimeWarning)
            summary["mean"].append(np.nanmean(part, axis=-1))
            summary["median"].append(np.nanmedian(part, axis=-1))
        summary["n_units"].append(kept)
        summary["n_dropped"].append(part.shape[-1] - kept)
    return xr.Dataset(
        {name: ((*lead, "roi"), np.stack(rows, axis=-1)) for name, rows in summary.items()},
        coords={
            "roi": membership["roi"].values,
            **{name: c for name, c in scores.coords.items() if "unit" not in c.dims},
        },
    )


def paired_difference(
    a: xr.DataArray, b: xr.DataArray, *, confidence: float = 0.95, seed: int | np.random.Generator = 0
) -> xr.Dataset:
    """Compare two models on the same seeds and subjects.

    Seeds are averaged within subjects, and the subject is the unit of inference; with one subject the unit is
    the seed, and the interval then speaks of training only, not of other brains.

    Parameters
    ----------
    a, b : DataArray, dims (subject, seed, ...)
        One score a subject and seed.
    confidence : float, default 0.95
    seed : int or Generator, default 0
        For the random sign flips used beyond 12 pairs.

    Returns
    -------
    Dataset
        ``difference``, ``interval`` (bound; Student's t), ``p`` (sign flips, exact up to 12 pairs) and ``n``;
        ``attrs["unit"]`` names the unit. NaN intervals where there is one pair only.

    Examples
    --------
    >>> a = xr.DataArray([[0.5, 0.7], [0.6, 0.6]], dims=("subject", "seed"))
    >>> result = paired_difference(a, a - 0.1)
    >>> result.attrs["unit"], round(result.difference.item(), 6), result.p.item()
    ('subject', 0.1, 0.5)
    """
    check_range("confidence", confidence, 0, 1)
    if a.dims != b.dims or a.shape != b.shape:
        raise ValueError(f"b must have the dims and shape of a, {a.sizes}, got {b.sizes}")
    for dim in ("subject", "seed"):
        if dim not in a.dims:
            raise ValueError(f"a must have dims subject and seed, got {a.dims}")
    unit = "subject" if a.sizes["subject"] > 1 else "seed"
    delta = (a - b).mean("seed") if unit == "subject" else (a - b).isel(subject=0)
    n = delta.sizes[unit]
    mean = delta.mean(unit)
    if n > 1:
        half = stats.t.ppf((1 + confidence) / 2, n - 1) * delta.std(unit, ddof=1) / np.sqrt(n)
    else:
        half = xr.full_like(mean, np.nan)
    if n <= 12:
        signs = np.asarray(list(itertools.product((1.0, -1.0), repeat=n)))
    else:
        signs = np.vstack([np.ones(n), check_seed(seed).choice((1.0, -1.0), size=(9999, n))])
    flipped = abs((xr.DataArray(signs, dims=("flip", unit)) * delta.reset_coords(drop=True)).mean(unit))
    return xr.Dataset(
        {
            "difference": mean,
            "interval": xr.concat(
                [mean - half, mean + half], dim=xr.DataArray(["low", "high"], dims="bound", name="bound")
            ),
            "p": (flipped >= abs(mean) - 1e-12).mean("flip"),
            "n": n,
        },
        attrs={"unit": unit, "confidence": confidence},
    )
