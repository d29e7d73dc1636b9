"""Summaries over regions and subjects, and paired differences between models."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from neuroattn._checks import check_range, check_seed
from neuroattn.metrics.correlation import adjusted_p

_EXACT = 12  # all sign flips of so many values are tried, 4096
_N_FLIPS = 9999  # drawn beyond


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
        ``difference``, ``interval`` (bound; Student's t), ``p`` (sign flips, exact up to 12 pairs), ``smallest_p``
        (the smallest that so many pairs can give) and ``n``; ``attrs["unit"]`` names the unit. NaN pairs are left
        out and not counted. NaN intervals where there is one pair only.

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
    mean, interval, n = _t_interval(delta, unit, confidence)
    signs = xr.DataArray(_sign_flips(delta.sizes[unit], seed), dims=("flip", unit))
    flipped = abs((signs * delta.reset_coords(drop=True)).mean(unit))
    p = (flipped >= abs(mean) - 1e-12).mean("flip").where(n > 0)
    return xr.Dataset(
        {"difference": mean, "interval": interval, "p": p, "smallest_p": _smallest_p(n), "n": n},
        attrs={"unit": unit, "confidence": confidence},
    )


def group_summary(
    values: xr.DataArray, *, confidence: float = 0.95, seed: int | np.random.Generator = 0
) -> xr.Dataset:
    """Test over subjects whether a score of each region differs from zero.

    The subject is the unit of inference. Signs of whole subjects are flipped, so regions stay dependent, and the
    largest t over regions controls the family-wise error [1]_. Subtract chance or a noise floor first: without that,
    scores that cannot be negative always differ from zero.

    Parameters
    ----------
    values : DataArray, dims (subject, roi)
        One score a subject and region; NaN where a subject lacks the region.
    confidence : float, default 0.95
    seed : int or Generator, default 0
        For the random sign flips used beyond 12 subjects.

    Returns
    -------
    Dataset, dims (roi, bound)
        ``mean``; ``interval`` (Student's t; NaN for one subject); two-sided ``p``, exact up to 12 subjects; ``p_fdr``,
        adjusted by Benjamini and Hochberg over regions; ``p_fwe``, of the largest ``|t|`` over regions; ``smallest_p``,
        which so many subjects can give: 0.25 with three, and no agreement among them makes it smaller; ``n``.

    References
    ----------
    .. [1] Nichols & Holmes (2002). Nonparametric permutation tests for functional neuroimaging: a primer with examples.
       Human Brain Mapping 15, 1-25.

    Examples
    --------
    >>> values = xr.DataArray(
    ...     [[0.3, 0.1], [0.4, -0.1], [0.5, 0.0]], dims=("subject", "roi"), coords={"roi": ["FFA", "V1"]})
    >>> summary = group_summary(values)
    >>> summary["mean"].values.round(1), summary.p.values, summary.smallest_p.values
    (array([0.4, 0. ]), array([0.25, 1.  ]), array([0.25, 0.25]))
    """
    check_range("confidence", confidence, 0, 1)
    if set(values.dims) != {"subject", "roi"}:
        raise ValueError(f"values must have dims subject and roi, got {values.dims}")
    values = values.transpose("subject", "roi")
    mean, interval, n = _t_interval(values, "subject", confidence)
    signs = _sign_flips(values.sizes["subject"], seed)
    x, count = np.nan_to_num(values.values.astype(np.float64)), n.values
    with np.errstate(invalid="ignore", divide="ignore"):
        flipped = abs(signs @ x) / count
        # Flips keep the sum of squares, which leaves t a function of the mean.
        spread = np.sqrt(np.maximum((x**2).sum(0) / count - flipped**2, 0) / np.maximum(count - 1, 1))
        t = np.where(spread > 1e-12 * flipped, flipped / spread, np.where(flipped > 0, np.inf, 0))
    t[:, count < 2] = np.nan
    largest = np.fmax.reduce(t, axis=1, initial=-np.inf)
    observed = t[0]  # no sign is flipped in the first row
    p = np.where(count > 0, (flipped >= flipped[0] * (1 - 1e-9)).mean(0), np.nan)
    p_fwe = np.where(count > 1, (largest[:, None] >= observed * (1 - 1e-9)).mean(0), np.nan)
    return xr.Dataset(
        {
            "mean": mean,
            "interval": interval,
            "p": ("roi", p),
            "p_fdr": ("roi", adjusted_p(p)),
            "p_fwe": ("roi", p_fwe),
            "smallest_p": _smallest_p(n),
            "n": n,
        },
        attrs={"unit": "subject", "alternative": "two-sided", "confidence": confidence},
    )


def _t_interval(
    values: xr.DataArray, unit: str, confidence: float
) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Return mean, interval (bound) and count of what is not NaN over a dimension."""
    n = values.count(unit)
    mean = values.mean(unit)
    # One value has no spread; a mask says so without a warning about degrees of freedom.
    deviation = np.sqrt(((values - mean) ** 2).sum(unit) / (n - 1).where(n > 1))
    half = xr.apply_ufunc(stats.t.ppf, (1 + confidence) / 2, (n - 1).where(n > 1)) * deviation / np.sqrt(n)
    bound = xr.DataArray(["low", "high"], dims="bound", name="bound")
    return mean, xr.concat([mean - half, mean + half], dim=bound), n


def _sign_flips(n: int, seed: int | np.random.Generator) -> NDArray[np.float64]:
    """Return signs (flip, value), of which the first row flips none: all of them, or random ones where too many."""
    if n <= _EXACT:
        return np.asarray(list(itertools.product((1.0, -1.0), repeat=n)))
    return np.vstack([np.ones(n), check_seed(seed).choice((1.0, -1.0), size=(_N_FLIPS, n))])


def _smallest_p(n: xr.DataArray) -> xr.DataArray:
    """Return the smallest two-sided p of n signs: all agree."""
    return (0.5 ** (n - 1.0)).clip(1 / (1 + _N_FLIPS)).where(n > 0)
