"""Paired differences of several data sets put together."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy import stats


def combine_datasets(difference: xr.DataArray, p: xr.DataArray, n: xr.DataArray) -> xr.Dataset:
    """Combine paired differences over data sets as MOABB does [1]_: Stouffer's method, weighted by the root of n.

    Parameters
    ----------
    difference : DataArray, dims (dataset, ...)
        Mean difference over the subjects of each data set; NaN where one lacks it.
    p : DataArray, dims (dataset, ...)
        Two-sided, of a symmetric test such as that of sign flips.
    n : DataArray, dims (dataset,) or (dataset, ...)
        Subjects.

    Returns
    -------
    Dataset, dims (...)
        ``difference``, weighted by the root of the number of subjects; two-sided ``p``; ``n_datasets``. With one
        data set both are its own.

    Notes
    -----
    MOABB weights standardised differences; here they stay in the unit of the score.

    References
    ----------
    .. [1] Jayaram & Barachant (2018). MOABB: trustworthy algorithm benchmarking for BCIs. J. Neural Eng. 15.

    Examples
    --------
    >>> of = lambda *values: xr.DataArray(list(values), dims="dataset")
    >>> both = combine_datasets(of(0.04, 0.02), of(0.05, 0.05), of(9, 9))
    >>> round(both.difference.item(), 3), round(both.p.item(), 4)
    (0.03, 0.0056)
    """
    known = difference.notnull() & p.notnull()
    weight = ((n * xr.ones_like(difference)) ** 0.5).where(known)
    z = xr.apply_ufunc(stats.norm.isf, p / 2) * np.sign(difference)
    combined = (weight * z).sum("dataset") / np.sqrt((weight**2).sum("dataset"))
    return xr.Dataset(
        {
            "difference": (weight * difference).sum("dataset") / weight.sum("dataset"),
            "p": 2 * xr.apply_ufunc(stats.norm.sf, abs(combined)),
            "n_datasets": known.sum("dataset"),
        }
    )
